//! The conversation with the kernel: greeting, then any number of threads that each read a request and answer it.
//!
//! Every thread has descriptors of its own (`FUSE_DEV_IOC_CLONE`) and two buffers that it keeps. There is no queue of
//! ours between the kernel and the handler; [`Crew`] says who reads the kernel's.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::crew::{Crew, Role};
use super::wire::{self, Reply, Request, init, op};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::fuse::clone_device;

/// Longest write and read. The kernel's own limit is 256 pages unless an administrator raised it.
const MAX_IO: usize = 1 << 20;
/// What a message holds beside its data: headers, arguments, a name, the attributes of a `SETXATTR`.
const MESSAGE_ROOM: usize = 64 * 1024 + 4096;
/// Background requests (read-ahead, write-back) that the kernel may have under way.
const MAX_BACKGROUND: u16 = 64;

/// Requests that were waiting already, one after the other, before help is called.
const BACKLOG: u32 = 4;
/// Looks for a request before the lead falls asleep: some twenty microseconds.
const TRIES: u32 = 20;
/// Where they take so long, others need the processor more.
const CROWDED: Duration = Duration::from_micros(100);
/// Vain rounds of such looks before there are no more of them for a while.
const MOST_LUCK: i32 = 8;
/// Requests that such a while takes.
const REST: i32 = 200;

/// What answers requests.
pub(super) trait Handler: Sync {
    /// Fills `reply`, or says why not.
    fn handle(&self, request: &Request<'_>, reply: &mut Reply) -> Result<(), Errno>;

    /// A request that has no answer.
    fn forget(&self, request: &Request<'_>);

    /// The kernel agreed to read and write files itself; `device` is where they are named to it.
    fn pass_through(&self, device: OwnedFd);
}

/// What is asked of the kernel where it can do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wishes {
    /// The kernel gathers small writes, and keeps sizes and times of files itself meanwhile.
    pub(super) writeback: bool,
    /// The kernel checks access control lists.
    pub(super) acl: bool,
    /// The kernel reads and writes files itself, which are opened for it one by one.
    pub(super) passthrough: bool,
    /// Threads that answer.
    pub(super) threads: usize,
}

/// Answers until the mount is gone.
///
/// # Errors
/// The kernel is too old, or `/dev/fuse` fails.
pub(super) fn serve<H: Handler>(device: OwnedFd, wishes: Wishes, handler: &H) -> Result<()> {
    let mut buffers = Buffers::new();
    let Some(agreed) = greet(device.as_fd(), wishes, &mut buffers)? else { return Ok(()) };
    if agreed & init::PASSTHROUGH != 0 {
        handler.pass_through(device.try_clone().context(|| "duplicate the descriptor of `/dev/fuse`")?);
    }
    let crew = Crew::default();
    thread::scope(|scope| {
        for me in 1..wishes.threads {
            let crew = &crew;
            let Ok(channel) = Channel::new(device.as_fd()) else { break };
            // A thread that cannot be started is one less; the last one is this.
            let spawned = thread::Builder::new().stack_size(512 * 1024).spawn_scoped(scope, move || {
                Worker { me, channel, handler, crew }.work(Role::Help, &mut Buffers::new())
            });
            if spawned.is_err() {
                break;
            }
        }
        let served = Channel::new(device.as_fd())
            .and_then(|channel| Worker { me: 0, channel, handler, crew: &crew }.work(Role::Lead, &mut buffers));
        crew.dismiss();
        served
    })
}

struct Buffers {
    request: Vec<u8>,
    reply: Reply,
}

impl Buffers {
    fn new() -> Self {
        Self { request: vec![0; MAX_IO + MESSAGE_ROOM], reply: Reply::new(MAX_IO) }
    }
}

/// One thread's ways to the kernel. What is read from a descriptor is answered on the same.
struct Channel {
    /// A read of it waits for a request.
    waiting: OwnedFd,
    /// A read of it takes what is there.
    ready: OwnedFd,
}

impl Channel {
    fn new(device: BorrowedFd<'_>) -> Result<Self> {
        // Where no further descriptor is to be had one serves for all, and every read of it waits.
        let own = |flags| clone_device(device, flags).or_else(|_| device.try_clone_to_owned());
        let both = || std::io::Result::Ok((own(OFlags::empty())?, own(OFlags::NONBLOCK)?));
        let (waiting, ready) = both().context(|| "duplicate the descriptor of `/dev/fuse`")?;
        Ok(Self { waiting, ready })
    }
}

/// One of the threads.
struct Worker<'a, H> {
    me: usize,
    channel: Channel,
    handler: &'a H,
    crew: &'a Crew,
}

impl<H: Handler> Worker<'_, H> {
    /// A thread's life.
    fn work(&self, mut role: Role, buffers: &mut Buffers) -> Result<()> {
        loop {
            let goes_on = match role {
                Role::Lead => self.lead(buffers),
                Role::Help => self.help(buffers),
                Role::End => return Ok(()),
            };
            if !matches!(goes_on, Ok(true)) {
                self.crew.dismiss();
                return goes_on.map(drop);
            }
            role = self.crew.rest(self.me);
        }
    }

    /// Waits for requests and answers them; true once another has the lead, false once the mount is gone.
    fn lead(&self, buffers: &mut Buffers) -> Result<bool> {
        let (mut waited_for_us, mut luck, mut last) = (0, MOST_LUCK, 0);
        loop {
            let message = &mut buffers.request;
            let (device, length, was_there) = match receive(self.channel.ready.as_fd(), message)? {
                Received::Message(length) => (&self.channel.ready, length, true),
                Received::Nothing => match self.linger(message, &mut luck)? {
                    (_, Received::Gone | Received::Nothing) => return Ok(false),
                    (device, Received::Message(length)) => (device, length, false),
                },
                Received::Gone => return Ok(false),
            };
            let asker = Request::parse(&buffers.request[..length]).map_or(0, |request| request.pid);
            // One who was answered and has asked again already is no sign of more work than one thread can do.
            waited_for_us = if was_there && asker != last { waited_for_us + 1 } else { 0 };
            last = asker;
            let turn = self.crew.begin();
            let goes_on = self.answer_one(device.as_fd(), buffers, length)?;
            if !self.crew.end(&turn) || !goes_on {
                return Ok(goes_on);
            }
            if waited_for_us >= BACKLOG {
                waited_for_us = 0;
                self.crew.call();
            }
        }
    }

    /// Waits for a request, awake at first: whoever got an answer just now mostly has a further question, and to fall
    /// asleep and be woken takes longer than most answers do.
    fn linger(&self, message: &mut [u8], luck: &mut i32) -> Result<(&OwnedFd, Received)> {
        let ready = &self.channel.ready;
        if *luck > 0 {
            let since = Instant::now();
            for _ in 0..TRIES {
                match receive(ready.as_fd(), message)? {
                    Received::Nothing => thread::yield_now(),
                    received => {
                        *luck = if since.elapsed() < CROWDED { MOST_LUCK } else { -REST };
                        return Ok((ready, received));
                    }
                }
            }
            *luck = if since.elapsed() < CROWDED { *luck - 1 } else { -REST };
            if *luck == 0 {
                *luck = -REST;
            }
        } else {
            // Once in a while it is tried again.
            *luck = if *luck < 0 { *luck + 1 } else { 1 };
        }
        let waiting = &self.channel.waiting;
        receive(waiting.as_fd(), message).map(|received| (waiting, received))
    }

    /// Answers what is waiting; true once nothing is, false once the mount is gone.
    fn help(&self, buffers: &mut Buffers) -> Result<bool> {
        loop {
            match receive(self.channel.ready.as_fd(), &mut buffers.request)? {
                Received::Message(length) => {
                    if !self.answer_one(self.channel.ready.as_fd(), buffers, length)? {
                        return Ok(false);
                    }
                }
                Received::Nothing => return Ok(true),
                Received::Gone => return Ok(false),
            }
        }
    }

    /// False where there will be no further request.
    fn answer_one(&self, device: BorrowedFd<'_>, buffers: &mut Buffers, length: usize) -> Result<bool> {
        let Buffers { request: message, reply } = buffers;
        let Some(request) = Request::parse(&message[..length]) else { return Ok(true) };
        if matches!(request.opcode, op::FORGET | op::BATCH_FORGET) {
            self.handler.forget(&request);
            return Ok(true);
        }
        reply.clear();
        let result = self.handler.handle(&request, reply);
        answer(device, reply.finish(request.unique, result))?;
        Ok(request.opcode != op::DESTROY)
    }
}

/// What a read of the device gave.
enum Received {
    Message(usize),
    Nothing,
    Gone,
}

/// The next message.
fn receive(device: BorrowedFd<'_>, message: &mut [u8]) -> Result<Received> {
    loop {
        match rustix::io::read(device, &mut *message) {
            Ok(length) => return Ok(Received::Message(length)),
            Err(Errno::NODEV | Errno::CONNABORTED) => return Ok(Received::Gone),
            Err(Errno::AGAIN) => return Ok(Received::Nothing),
            // ENOENT: the request was interrupted between being queued and being read.
            Err(Errno::INTR | Errno::NOENT) => {}
            Err(error) => return Err(error).context(|| "read a request from `/dev/fuse`"),
        }
    }
}

fn answer(device: BorrowedFd<'_>, message: &[u8]) -> Result<()> {
    match rustix::io::write(device, message) {
        // ENOENT: nobody waits any more. EINVAL: an answer of a form that this kernel does not take; it has failed
        // the request by then. The end of the mount shows at the next read.
        Ok(_) | Err(Errno::NOENT | Errno::INVAL | Errno::NODEV | Errno::CONNABORTED) => Ok(()),
        Err(error) => Err(error).context(|| "answer a request on `/dev/fuse`"),
    }
}

/// `FUSE_INIT`: what was agreed to; `None` where the mount went before it began.
fn greet(device: BorrowedFd<'_>, wishes: Wishes, buffers: &mut Buffers) -> Result<Option<u64>> {
    let Buffers { request: message, reply } = buffers;
    loop {
        let Received::Message(length) = receive(device, message)? else { return Ok(None) };
        let Some(request) = Request::parse(&message[..length]) else { continue };
        reply.clear();
        if request.opcode != op::INIT {
            answer(device, reply.finish(request.unique, Err(Errno::IO)))?;
            continue;
        }
        let offer = Offer::parse(&request)
            .map_err(|errno| Error::new(Kind::Invalid, "greeting of the kernel").because(errno))?;
        if offer.major == wire::MAJOR && offer.minor < wire::MINOR_LEAST {
            answer(device, reply.finish(request.unique, Err(Errno::PROTO)))?;
            let (major, minor) = (offer.major, offer.minor);
            return Err(Error::new(Kind::Unsupported, format!("the kernel speaks FUSE {major}.{minor}"))
                .hint("Linux 5.4 or later is needed"));
        }
        if offer.major > wire::MAJOR {
            // The kernel asks again in the version that it is told.
            put_init(reply, &offer, 0);
            answer(device, reply.finish(request.unique, Ok(())))?;
            continue;
        }
        let agreed = wanted(wishes) & offer.flags;
        put_init(reply, &offer, agreed);
        answer(device, reply.finish(request.unique, Ok(())))?;
        return Ok(Some(agreed));
    }
}

/// `fuse_init_in`.
struct Offer {
    major: u32,
    minor: u32,
    readahead: u32,
    flags: u64,
}

impl Offer {
    fn parse(request: &Request<'_>) -> Result<Self, Errno> {
        let mut fields = request.fields();
        let (major, minor, readahead) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let mut flags = u64::from(fields.u32()?);
        if flags & init::EXT != 0 {
            flags |= u64::from(fields.u32()?) << 32;
        }
        Ok(Self { major, minor, readahead, flags })
    }
}

/// What this server can do. Opening and closing are not, unless files are passed through: a file needs no handle here,
/// so the kernel is told once (`ENOSYS`) and never asks again. That saves two to three of the four messages that
/// reading a small file costs.
fn wanted(wishes: Wishes) -> u64 {
    let mut flags = init::ASYNC_READ
        | init::BIG_WRITES
        | init::DONT_MASK
        | init::IOCTL_DIR
        | init::DO_READDIRPLUS
        | init::READDIRPLUS_AUTO
        | init::ASYNC_DIO
        | init::NO_OPEN_SUPPORT
        | init::NO_OPENDIR_SUPPORT
        | init::PARALLEL_DIROPS
        | init::ABORT_ERROR
        | init::MAX_PAGES
        | init::CACHE_SYMLINKS
        | init::HANDLE_KILLPRIV_V2
        | init::SETXATTR_EXT
        | init::EXT;
    if wishes.writeback {
        flags |= init::WRITEBACK_CACHE;
    }
    if wishes.acl {
        flags |= init::POSIX_ACL;
    }
    // The kernel does the one or the other.
    if wishes.passthrough && !wishes.writeback {
        flags |= init::PASSTHROUGH | init::ATOMIC_O_TRUNC;
    }
    flags
}

/// `fuse_init_out`.
fn put_init(reply: &mut Reply, offer: &Offer, flags: u64) {
    reply.u32(wire::MAJOR);
    reply.u32(wire::MINOR.min(offer.minor));
    reply.u32(offer.readahead);
    reply.u32(flags as u32);
    reply.u16(MAX_BACKGROUND);
    reply.u16(MAX_BACKGROUND / 4 * 3);
    reply.u32(MAX_IO as u32);
    reply.u32(1);
    reply.u16((MAX_IO / 4096) as u16);
    reply.u16(0);
    reply.u32((flags >> 32) as u32);
    // `max_stack_depth`: files passed through lie on file systems that are not stacked themselves.
    reply.u32(u32::from(flags & init::PASSTHROUGH != 0));
    reply.zeros(24);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_has_the_kernels_size() {
        let mut reply = Reply::new(0);
        put_init(&mut reply, &Offer { major: 7, minor: 45, readahead: 131_072, flags: 0 }, u64::MAX);
        assert_eq!(reply.len(), 64);
    }

    #[test]
    fn writing_back_is_asked_for_only_where_wished() {
        let flags = |writeback, passthrough| wanted(Wishes { writeback, passthrough, acl: false, threads: 1 });
        assert_eq!(flags(true, false) ^ flags(false, false), init::WRITEBACK_CACHE);
        assert_eq!(flags(false, true) ^ flags(false, false), init::PASSTHROUGH | init::ATOMIC_O_TRUNC);
        assert_eq!(flags(true, true), flags(true, false), "the kernel does the one or the other");
    }
}
