//! Containers for a program with threads.
//!
//! A process with threads cannot clone a container (see [`crate::launch`]). [`fork_server`] forks, before any thread
//! starts, one single-threaded helper that does nothing but launch: [`Server::run`] sends it a Spec, a root and three
//! streams, and any number of threads may wait for their own step at once.
//!
//! Invariants: the helper holds no descriptor of its parent's but its socket and the streams 0 to 2. It ends, and takes
//! all it started with it, when its parent does, however that happens: its socket ends then, and what it started dies
//! with it by signal should it be killed first.

mod wire;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::process::{Child, clone_server};
use oci_spec::runtime::Spec;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::cgroup;
use crate::launch::channel::{receive_packet, send_packet};
use crate::launch::{Exit, Io, Launch, Rootfs, Running, Stdio, create};
use wire::{Reply, Request};

/// `SIGKILL`
const KILL: i32 = 9;

/// One container to run to its end.
#[derive(Debug)]
pub struct StepRequest {
    /// What it is.
    pub spec: Spec,
    /// Its root.
    pub rootfs: Rootfs,
    /// Its input.
    pub stdin: OwnedFd,
    /// Its output.
    pub stdout: OwnedFd,
    /// Its messages.
    pub stderr: OwnedFd,
}

/// The helper, seen from its parent. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    /// `None` only while it is dropped.
    socket: Option<OwnedFd>,
    child: Child,
}

/// Forks the helper. Call it before any thread starts, and after the user namespace is entered.
///
/// # Errors
/// Another thread runs already, or the process limit is reached.
pub fn fork_server() -> Result<Server> {
    let (own, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .context(|| "make the channel to the step launcher")?;
    let child = clone_server(theirs, serve).context(|| "fork the step launcher")?;
    Ok(Server { socket: Some(own), child })
}

impl Server {
    /// Runs one step to its end. Blocks the calling thread; others may call it meanwhile.
    ///
    /// # Errors
    /// As those of [`crate::launch`]: [`Kind::NotFound`] and [`Kind::Denied`] are about the program. The helper died:
    /// [`Kind::Interrupted`].
    pub fn run(&self, request: StepRequest) -> Result<Step> {
        let (reply, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .context(|| "make the channel for a step's result")?;
        let payload = wire::write_payload(&request.spec, &request.rootfs)?;
        let StepRequest { stdin, stdout, stderr, .. } = request;
        let fds = [payload.as_fd(), theirs.as_fd(), stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        send_packet(self.socket()?, &[wire::RUN], &fds).context(|| "send a step to its launcher")?;
        // Only the helper may hold the writing ends now, or their readers would never see the end.
        drop((payload, theirs, stdin, stdout, stderr));
        let (packet, _) = receive_packet(reply.as_fd(), wire::REPLY_MAX).context(|| "hear of a step's end")?;
        match Reply::decode(&packet) {
            Reply::Ended(step) => Ok(step),
            Reply::Failed(error) => Err(error),
            Reply::Nothing => Err(Error::new(Kind::Interrupted, "the step launcher died")),
        }
    }

    /// Kills every step that runs; their calls of [`Server::run`] return with the signal. Steps that come later are
    /// refused: one may be on its way here at this moment.
    ///
    /// # Errors
    /// The helper died.
    pub fn cancel_all(&self) -> Result<()> {
        send_packet(self.socket()?, &[wire::CANCEL], &[]).context(|| "cancel the steps")
    }

    fn socket(&self) -> Result<BorrowedFd<'_>> {
        let socket = self.socket.as_ref().map(AsFd::as_fd);
        socket.ok_or_else(|| Error::new(Kind::Interrupted, "the step launcher is gone"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.socket.take());
        let _ = waitid(WaitId::PidFd(self.child.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its program's end.
    pub exit: Exit,
    /// What the user should know about how the container was set up.
    pub notes: Vec<String>,
}

/// A step that runs, in the helper.
struct Active {
    running: Running,
    reply: OwnedFd,
    notes: Vec<String>,
    cancelled: bool,
}

/// What the helper looks after.
#[derive(Default)]
struct Steps {
    active: BTreeMap<u64, Active>,
    /// How many there were.
    count: u64,
    /// No step is started any more.
    cancelled: bool,
}

/// The helper's life.
fn serve(socket: OwnedFd) -> i32 {
    // The terminal's Ctrl-C is for the parent, which decides what becomes of the steps.
    let _ = rustix::process::setsid();
    let mut steps = Steps::default();
    // Until the parent is gone, or the system's memory is: then all of it ends.
    while matches!(turn(&socket, &mut steps), Ok(true)) {}
    for step in steps.active.values() {
        let _ = step.running.kill(KILL);
    }
    for step in steps.active.into_values() {
        let _ = step.running.destroy();
    }
    0
}

/// Waits for what happens next and deals with it. False once the parent is gone.
fn turn(socket: &OwnedFd, steps: &mut Steps) -> Result<bool, Errno> {
    let Steps { active, count, cancelled } = steps;
    let mut fds = vec![PollFd::new(socket, PollFlags::IN)];
    for step in active.values() {
        fds.push(PollFd::from_borrowed_fd(step.running.pidfd(), PollFlags::IN));
        // No event is asked for: the end of the other side is told in any case.
        let watched = if step.cancelled { PollFlags::empty() } else { PollFlags::RDHUP };
        fds.push(PollFd::new(&step.reply, watched));
    }
    match poll(&mut fds, None) {
        Err(Errno::INTR) => return Ok(true),
        polled => polled?,
    };
    let events: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
    drop(fds);
    let keys: Vec<u64> = active.keys().copied().collect();
    for (key, pair) in keys.into_iter().zip(events[1..].chunks(2)) {
        if !pair[0].is_empty() {
            if let Some(step) = active.remove(&key) {
                finish(step);
            }
        } else if let Some(step) = active.get_mut(&key).filter(|step| !pair[1].is_empty() && !step.cancelled) {
            step.cancelled = true;
            let _ = step.running.kill(KILL);
        }
    }
    if events[0].is_empty() {
        return Ok(true);
    }
    let (packet, descriptors) = receive_packet(socket.as_fd(), 16)?;
    match packet.first() {
        None => return Ok(false),
        Some(&wire::CANCEL) => {
            *cancelled = true;
            for step in active.values() {
                let _ = step.running.kill(KILL);
            }
        }
        Some(_) => {
            if let Some(request) = Request::of(descriptors) {
                if *cancelled {
                    let refused = Error::new(Kind::Interrupted, "the step was cancelled before it began");
                    let _ = send_packet(request.reply.as_fd(), &Reply::Failed(refused).encode(), &[]);
                    return Ok(true);
                }
                *count += 1;
                if let Some(step) = begin(request, *count) {
                    active.insert(*count, step);
                }
            }
        }
    }
    Ok(true)
}

fn begin(request: Request, number: u64) -> Option<Active> {
    let Request { payload, reply, stdio } = request;
    match launch(payload, stdio, number) {
        Ok((running, notes)) => Some(Active { running, reply, notes, cancelled: false }),
        Err(error) => {
            let _ = send_packet(reply.as_fd(), &Reply::Failed(error).encode(), &[]);
            None
        }
    }
}

fn launch(payload: OwnedFd, stdio: Stdio, number: u64) -> Result<(Running, Vec<String>)> {
    let (spec, rootfs) = wire::read_payload(payload)?;
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let name = format!("layerfs-step-{}-{number}", std::process::id());
    let plan = cgroup::plan(resources, name.as_ref())?;
    let mut launch = Launch::new(&spec, rootfs, Io::Stdio(stdio), plan);
    launch.dies_with_parent = true;
    let created = create(launch)?;
    let notes = created.notes().to_vec();
    Ok((created.start()?, notes))
}

fn finish(step: Active) {
    let Active { running, reply, notes, .. } = step;
    let ended = running.wait();
    let removed = running.destroy();
    let answer = match ended.and_then(|exit| removed.map(|()| exit)) {
        Ok(exit) => Reply::Ended(Step { exit, notes }),
        Err(error) => Reply::Failed(error),
    };
    // A caller that went away asks for nothing any more.
    let _ = send_packet(reply.as_fd(), &answer.encode(), &[]);
}
