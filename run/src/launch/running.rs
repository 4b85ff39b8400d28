//! A container that was made, and one that runs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::process::{self as sys, Child};
use layerfs::userns::{IdRange, Mapping};
use oci_spec::runtime::{LinuxIdMapping, Spec};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::channel::{Channel, Message};
use super::hooks::{Moment, Outside};
use super::net_devices::{self, NetDevice};
use crate::cgroup::Cgroup;

/// `SIGKILL`
const KILL: i32 = 9;

/// A child that is killed and reaped where it is dropped.
#[derive(Debug)]
struct OwnedProcess {
    pid: i32,
    pidfd: Option<OwnedFd>,
}

impl OwnedProcess {
    fn new(child: Child) -> Self {
        Self { pid: child.pid, pidfd: Some(child.pidfd) }
    }

    fn fd(&self) -> Result<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd).ok_or_else(|| Error::new(Kind::System, "the process is gone already"))
    }

    /// Lets it live. It is reaped by whoever takes the descriptor.
    fn release(mut self) -> Result<(i32, OwnedFd)> {
        let fd = self.pidfd.take().ok_or_else(|| Error::new(Kind::System, "the process is gone already"))?;
        Ok((self.pid, fd))
    }
}

impl Drop for OwnedProcess {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.pidfd {
            let _ = sys::send_signal(pidfd.as_fd(), KILL);
            let _ = reap(pidfd.as_fd());
        }
    }
}

/// A cgroup that is emptied and removed where it is dropped.
#[derive(Debug)]
struct OwnedCgroup(Option<Cgroup>);

impl Drop for OwnedCgroup {
    fn drop(&mut self) {
        if let Some(cgroup) = self.0.take() {
            let _ = cgroup.destroy();
        }
    }
}

/// A process that waits just before its program.
pub(crate) struct Waiting {
    process: OwnedProcess,
    channel: Channel,
    terminal: Option<OwnedFd>,
    notes: Vec<String>,
}

/// A container whose first process waits just before its program. Dropping it takes the container away.
// The fields are dropped in this order: the process dies before its cgroup is removed.
#[derive(Debug)]
pub struct Created {
    process: OwnedProcess,
    channel: Channel,
    terminal: Option<OwnedFd>,
    notes: Vec<String>,
    cgroup: OwnedCgroup,
    outside: Option<Outside>,
}

impl Created {
    pub(crate) fn new(waiting: Waiting, cgroup: Cgroup, mut notes: Vec<String>, outside: Option<Outside>) -> Self {
        let Waiting { process, channel, terminal, notes: more } = waiting;
        notes.extend(more);
        Self { process, channel, terminal, notes, cgroup: OwnedCgroup(Some(cgroup)), outside }
    }

    /// The first process's number here.
    pub fn pid(&self) -> i32 {
        self.process.pid
    }

    /// The first process's descriptor.
    ///
    /// # Errors
    /// None in practice: it lives as long as this value.
    pub fn pidfd(&self) -> Result<BorrowedFd<'_>> {
        self.process.fd()
    }

    /// Lets go of a container that another process holds now, in a copy of this value.
    pub(crate) fn hand_over(mut self) {
        self.process.pidfd = None;
        self.cgroup.0 = None;
    }

    /// The master side of the container's terminal, once.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// What the user should know about how the container was set up: sentences without an end.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        const NONE: &Cgroup = &Cgroup::none();
        self.cgroup.0.as_ref().unwrap_or(NONE)
    }

    /// Lets the program run. Returns once it does.
    ///
    /// # Errors
    /// [`Kind::NotFound`]: there is no such program in the container. [`Kind::Denied`]: it cannot be executed. Any
    /// other kind: the last steps before it failed. The container is gone then.
    pub fn start(self) -> Result<Running> {
        let (running, outside) = self.run_program()?;
        match outside.map_or(Ok(()), |outside| outside.run(Moment::Poststart, running.pid, None)) {
            Ok(()) => Ok(running),
            Err(error) => {
                // The first error is the one to tell.
                let _ = running.destroy();
                Err(error)
            }
        }
    }

    /// Lets the program run, and leaves what others do after that to the caller.
    pub(crate) fn run_program(mut self) -> Result<(Running, Option<Outside>)> {
        // A process that died meanwhile says so below, in what is received.
        let _ = self.channel.send(&Message::Go);
        loop {
            match self.channel.receive()? {
                None => break,
                Some(Message::Failed(error)) => return Err(error),
                Some(Message::Listener(listener)) => {
                    if let Some(outside) = &self.outside {
                        // Whether the program is there is another question.
                        outside.inform_agent(listener.as_fd(), self.process.pid).map_err(super::about_set_up)?;
                    }
                    self.channel.send(&Message::GoOn)?;
                }
                Some(_) => {}
            }
        }
        let (pid, pidfd) = self.process.release()?;
        let cgroup = self.cgroup.0.take().unwrap_or_default();
        Ok((Running { pid, pidfd, terminal: self.terminal, cgroup }, self.outside))
    }
}

/// How a container's first process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code, or 128 and the signal's number.
    pub code: i32,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// Whether the kernel killed something in its cgroup for want of memory.
    pub oom: bool,
}

/// A container whose program runs. It goes on when this value is dropped.
#[derive(Debug)]
pub struct Running {
    pid: i32,
    pidfd: OwnedFd,
    terminal: Option<OwnedFd>,
    cgroup: Cgroup,
}

impl Running {
    /// The first process's number here.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The first process's descriptor: readable once it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The master side of the container's terminal, once.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Waits for the first process to end, and reaps it.
    ///
    /// # Errors
    /// It was reaped already.
    pub fn wait(&self) -> Result<Exit> {
        let (code, signal) = reap(self.pidfd.as_fd())?;
        Ok(Exit { code, signal, oom: self.cgroup.oom_killed() })
    }

    /// Sends a signal by its number to the first process. One that has ended already is no error.
    ///
    /// # Errors
    /// The number is no signal.
    pub fn kill(&self, signal: i32) -> Result<()> {
        match sys::send_signal(self.pidfd.as_fd(), signal) {
            Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(()),
            sent => sent.context(|| format!("send signal {signal} to the container")),
        }
    }

    /// Kills what is left of the container and removes its cgroup.
    ///
    /// # Errors
    /// A cgroup could not be removed; all others are, first.
    pub fn destroy(self) -> Result<()> {
        self.kill(KILL)?;
        // Reaped already where somebody waited.
        let _ = reap(self.pidfd.as_fd());
        self.cgroup.destroy()
    }
}

/// Waits for a child: its exit code as a shell says it, and the signal that killed it.
fn reap(pidfd: BorrowedFd<'_>) -> Result<(i32, Option<i32>)> {
    let status = loop {
        match waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
            Err(Errno::INTR) => {}
            result => break result.context(|| "wait for the container's first process")?,
        }
    };
    let signal = status.as_ref().and_then(|status| status.terminating_signal());
    let code = status.and_then(|status| status.exit_status());
    Ok((signal.map_or(code.unwrap_or(0), |signal| 128 + signal), signal))
}

/// What a new process may want done from outside.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wanted<'a> {
    /// Where it has id maps to be written.
    pub(crate) spec: Option<&'a Spec>,
    /// Its hooks.
    pub(crate) outside: Option<&'a Outside>,
    /// Devices to be moved to it.
    pub(crate) net_devices: &'a [NetDevice],
}

/// Talks to a new process until it waits before its program. `child` is that process, or the one it is cloned
/// through. The inner error is what the process said of itself.
pub(crate) fn converse(
    child: Child,
    intermediate: bool,
    channel: Option<Channel>,
    wanted: Wanted<'_>,
) -> Result<Result<Waiting>> {
    let Wanted { spec, outside, net_devices } = wanted;
    let child = OwnedProcess::new(child);
    let channel = channel.ok_or_else(|| Error::new(Kind::System, "the channel to the child was taken already"))?;
    let (mut process, mut via) = if intermediate { (None, Some(child)) } else { (Some(child), None) };
    let (mut notes, mut terminal) = (Vec::new(), None);
    let (mut ready, mut wants_maps, mut wants_others, mut failed) = (false, false, false, None);
    while !ready || process.is_none() {
        match channel.receive()? {
            Some(Message::Process(pidfd)) => {
                let pid = sys::pid_of(pidfd.as_fd()).context(|| "find the container's first process")?.unwrap_or(0);
                process = Some(OwnedProcess::new(Child { pid, pidfd }));
                if let Some(via) = via.take() {
                    reap(via.release()?.1.as_fd())?;
                }
            }
            Some(Message::WantIdMaps) => wants_maps = true,
            Some(Message::Terminal(master)) => terminal = Some(master),
            Some(Message::Note(note)) => notes.push(note),
            Some(Message::Ready) => ready = true,
            Some(Message::Failed(error)) => failed = failed.or(Some(error)),
            Some(Message::WantOthers) => wants_others = true,
            Some(Message::Go | Message::GoOn | Message::Listener(_)) => {}
            // The end: only now is it sure that nobody is left who could still send a descriptor.
            None => {
                let unsaid = || Error::new(Kind::System, "the container's first process died before it said why");
                return Ok(Err(failed.unwrap_or_else(unsaid)));
            }
        }
        if let (true, Some(process)) = (wants_maps, &process) {
            write_id_maps(process.pid, spec)?;
            channel.send(&Message::GoOn)?;
            wants_maps = false;
        }
        if let (true, Some(process)) = (wants_others, &process) {
            net_devices::move_all(net_devices, process.pid)?;
            if let Some(outside) = outside {
                outside.run(Moment::Prestart, process.pid, None)?;
                outside.run(Moment::CreateRuntime, process.pid, None)?;
            }
            channel.send(&Message::GoOn)?;
            wants_others = false;
        }
    }
    let process = process.ok_or_else(|| Error::new(Kind::System, "the container has no first process"))?;
    Ok(Ok(Waiting { process, channel, terminal, notes }))
}

/// Gives the new user namespace of a process its ids.
fn write_id_maps(pid: i32, spec: Option<&Spec>) -> Result<()> {
    let linux = spec.and_then(|spec| spec.linux().as_ref());
    let map = |maps: Option<&[LinuxIdMapping]>| {
        let range = |m: &LinuxIdMapping| IdRange { container: m.container_id(), host: m.host_id(), size: m.size() };
        maps.unwrap_or_default().iter().map(range).collect()
    };
    let mapping = Mapping {
        uids: map(linux.and_then(|linux| linux.uid_mappings().as_deref())),
        gids: map(linux.and_then(|linux| linux.gid_mappings().as_deref())),
    };
    mapping.write_to(pid).map_err(|error| match error.advice() {
        Some(_) => error,
        None => {
            error.hint("each host id of linux.uidMappings and gidMappings must exist in the caller's own namespace")
        }
    })
}
