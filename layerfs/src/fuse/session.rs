//! The conversation with the kernel: greeting, then any number of threads that each read a request and answer it.
//!
//! Every thread has a descriptor of its own (`FUSE_DEV_IOC_CLONE`) and two buffers that it keeps. There is no queue
//! and no lock of ours between the kernel and the handler: the kernel's own queue is the only one.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use rustix::io::Errno;

use super::wire::{self, Reply, Request, init, op};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::fuse::clone_device;

/// Longest write and read. The kernel's own limit is 256 pages unless an administrator raised it.
const MAX_IO: usize = 1 << 20;
/// What a message holds beside its data: headers, arguments, a name, the attributes of a `SETXATTR`.
const MESSAGE_ROOM: usize = 64 * 1024 + 4096;
/// Background requests (read-ahead, write-back) that the kernel may have under way.
const MAX_BACKGROUND: u16 = 64;

/// What answers requests.
pub(super) trait Handler: Sync {
    /// Fills `reply`, or says why not.
    fn handle(&self, request: &Request<'_>, reply: &mut Reply) -> Result<(), Errno>;

    /// A request that has no answer.
    fn forget(&self, request: &Request<'_>);
}

/// What is asked of the kernel where it can do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wishes {
    /// The kernel gathers small writes, and keeps sizes and times of files itself meanwhile.
    pub(super) writeback: bool,
    /// The kernel checks access control lists.
    pub(super) acl: bool,
    /// Threads that answer.
    pub(super) threads: usize,
}

/// Answers until the mount is gone.
///
/// # Errors
/// The kernel is too old, or `/dev/fuse` fails.
pub(super) fn serve<H: Handler>(device: OwnedFd, wishes: Wishes, handler: &H) -> Result<()> {
    let mut buffers = Buffers::new();
    if !greet(device.as_fd(), wishes, &mut buffers)? {
        return Ok(());
    }
    thread::scope(|scope| {
        for _ in 1..wishes.threads {
            // One descriptor serves them all where no further one is to be had.
            let own = clone_device(device.as_fd()).or_else(|_| device.try_clone());
            let Ok(own) = own else { break };
            // A thread that cannot be started is one less; the last one is this.
            let spawned = thread::Builder::new()
                .stack_size(512 * 1024)
                .spawn_scoped(scope, move || work(own.as_fd(), handler, &mut Buffers::new()));
            if spawned.is_err() {
                break;
            }
        }
        work(device.as_fd(), handler, &mut buffers)
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

/// One thread's life.
fn work<H: Handler>(device: BorrowedFd<'_>, handler: &H, buffers: &mut Buffers) -> Result<()> {
    let Buffers { request: message, reply } = buffers;
    loop {
        let Some(length) = receive(device, message)? else { return Ok(()) };
        let Some(request) = Request::parse(&message[..length]) else { continue };
        if matches!(request.opcode, op::FORGET | op::BATCH_FORGET) {
            handler.forget(&request);
            continue;
        }
        reply.clear();
        let result = handler.handle(&request, reply);
        answer(device, reply.finish(request.unique, result))?;
        if request.opcode == op::DESTROY {
            return Ok(());
        }
    }
}

/// The next message; `None` once the mount is gone.
fn receive(device: BorrowedFd<'_>, message: &mut [u8]) -> Result<Option<usize>> {
    loop {
        match rustix::io::read(device, &mut *message) {
            Ok(length) => return Ok(Some(length)),
            Err(Errno::NODEV | Errno::CONNABORTED) => return Ok(None),
            // ENOENT: the request was interrupted between being queued and being read.
            Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => {}
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

/// `FUSE_INIT`. False where the mount went before it began.
fn greet(device: BorrowedFd<'_>, wishes: Wishes, buffers: &mut Buffers) -> Result<bool> {
    let Buffers { request: message, reply } = buffers;
    loop {
        let Some(length) = receive(device, message)? else { return Ok(false) };
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
        put_init(reply, &offer, wanted(wishes) & offer.flags);
        answer(device, reply.finish(request.unique, Ok(())))?;
        return Ok(true);
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

/// What this server can do. Opening and closing are not: a file needs no handle here, so the kernel is told once
/// (`ENOSYS`) and never asks again. That saves two to three of the four messages that reading a small file costs.
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
    reply.zeros(28);
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
        let flags = |writeback| wanted(Wishes { writeback, acl: false, threads: 1 });
        assert_eq!(flags(true) ^ flags(false), init::WRITEBACK_CACHE);
    }
}
