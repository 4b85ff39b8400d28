//! Seccomp agents: for calls whose verdict is `SCMP_ACT_NOTIFY` the kernel asks whoever holds the filter's listener, and
//! the specification has a runtime hand that to an agent behind a socket (`config-linux.md`, "The Container Process
//! State").
//!
//! The filter may cover any call, those by which a process speaks to another among them. So a second process of the
//! container, which shares its table of descriptors but not its filter, passes the listener on; the first one needs no
//! call between loading the filter and waiting for that.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::process::{self as sys, Child, clone_watcher};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, Spec};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use rustix::thread::{Timespec, nanosleep};
use serde_json::json;

use super::channel::{Channel, Message};
use super::hooks::{Listener, Outside};
use crate::spec::VERSION;

/// Whether there is a listener: where a rule asks for an agent, and, as with crun, where an agent is named.
pub(crate) fn notifies(seccomp: &LinuxSeccomp) -> bool {
    let notify = LinuxSeccompAction::ScmpActNotify;
    let is_named = seccomp.listener_path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
    is_named
        || seccomp.default_action() == notify
        || seccomp.syscalls().iter().flatten().any(|rule| rule.action() == notify)
}

/// The agent that a Spec names; `None` where no rule asks for one.
pub(super) fn listener(spec: &Spec) -> Result<Option<Listener>> {
    let Some(seccomp) = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) else { return Ok(None) };
    let metadata = seccomp.listener_metadata().clone();
    match (seccomp.listener_path(), notifies(seccomp)) {
        (None, _) if metadata.is_some() => Err(Error::new(
            Kind::Invalid,
            "linux.seccomp.listenerMetadata is set, and there is no linux.seccomp.listenerPath to send it to",
        )),
        (None, true) => Err(Error::new(
            Kind::Invalid,
            "linux.seccomp asks an agent (SCMP_ACT_NOTIFY), and linux.seccomp.listenerPath names none",
        )),
        (_, false) => Ok(None),
        (Some(path), true) => Ok(Some(Listener { socket: path.clone(), metadata })),
    }
}

impl Outside {
    /// Hands a filter's listener to the agent.
    pub(super) fn inform_agent(&self, descriptor: BorrowedFd<'_>, pid: i32) -> Result<()> {
        let Some(Listener { socket, metadata }) = &self.listener else { return Ok(()) };
        let mut state = json!({
            "ociVersion": VERSION,
            "fds": ["seccompFd"],
            "pid": pid,
            "state": self.first.map_or_else(|| self.state("creating", pid), |first| self.state("running", first)),
        });
        if let Some(metadata) = metadata {
            state["metadata"] = json!(metadata);
        }
        let said = |what: &str| format!("failed to {what} seccomp agent `{}`", socket.display());
        let stream = UnixStream::connect(socket)
            .context(|| said("connect with"))
            .map_err(|error| error.hint("linux.seccomp.listenerPath is the socket of an agent that runs already"))?;
        let text = state.to_string();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor];
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        let sent = sendmsg(&stream, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::NOSIGNAL)
            .context(|| said("send the listener to"))?;
        // The descriptor went with the first part; a long state may need more.
        std::io::Write::write_all(&mut &stream, &text.as_bytes()[sent..]).context(|| said("send the state to"))
    }
}

/// The process that passes the listener on.
pub(crate) struct Courier {
    child: Child,
    /// Keeps the number that the listener will have.
    reserved: OwnedFd,
}

impl Courier {
    /// Starts it. The filter must be loaded next, and nothing opened before that.
    pub(crate) fn start(channel: &Channel) -> Result<Self> {
        // Of all free numbers the kernel gives the lowest: this one now, and to the listener once it is free again.
        let reserved = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty())
            .context(|| "keep a descriptor's number")?;
        let child = clone_watcher((reserved.as_fd(), channel), |(place, channel)| pass_on(place, channel))
            .context(|| "start the process that passes the seccomp listener on")?;
        Ok(Self { child, reserved })
    }

    /// Loads the filter by `load`, which opens the listener, and waits until the agent has it.
    pub(crate) fn deliver(self, load: impl FnOnce() -> Result<Option<OwnedFd>>) -> Result<()> {
        let Self { child, reserved } = self;
        drop(reserved);
        let loaded = load();
        if loaded.is_err() {
            let _ = sys::send_signal(child.pidfd.as_fd(), KILL);
        }
        // From here on each call may be one that the agent is asked about; it has been told by the time this one is.
        let status = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
        let listener = loaded?;
        drop(listener);
        match status.map(|status| status.and_then(|status| status.exit_status())) {
            // A filter that forbids to wait leaves the courier to the container's process.
            Ok(Some(0)) | Err(_) => Ok(()),
            Ok(_) => Err(Error::new(Kind::Interrupted, "the seccomp listener did not reach the agent")),
        }
    }
}

/// `SIGKILL`
const KILL: i32 = 9;

/// In the second process: waits until `place` is the listener, sends it, waits for the answer.
fn pass_on(place: BorrowedFd<'_>, channel: &Channel) -> i32 {
    const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000 };
    loop {
        match rustix::fs::fcntl_getfl(place) {
            // What keeps the number is open for nothing; a listener is for reading and writing.
            Ok(flags) if flags.contains(OFlags::PATH) => {}
            Ok(_) => break,
            Err(Errno::BADF) => {}
            Err(_) => return 1,
        }
        let _ = nanosleep(&PAUSE);
    }
    let Ok(listener) = rustix::io::fcntl_dupfd_cloexec(place, 3) else { return 1 };
    let sent = channel.send(&Message::Listener(listener));
    match sent.and_then(|()| channel.receive()) {
        Ok(Some(Message::GoOn)) => 0,
        _ => 1,
    }
}
