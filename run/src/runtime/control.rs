//! Verbs that change what a container does: kill, pause, resume, delete.

use std::os::fd::{AsFd, OwnedFd};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::signals::send;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::arguments::{Delete, Kill};
use super::instances::{Instance, Instances, Status};
use crate::options;

/// `SIGKILL`
const KILL: i32 = 9;

/// Sends a signal to the first process, or to all. Where the container shares its pid namespace nobody takes the others
/// along, so a `SIGKILL` is for all of them.
pub(super) fn kill(instance: &Instance, kill: &Kill) -> Result<()> {
    let number = kill.signal;
    let process = instance.open_process();
    if kill.all || (number == KILL && !instance.has_own_pid_namespace()) {
        let cgroup = instance.cgroup();
        match cgroup.processes() {
            Ok(pids) if pids.is_empty() && process.is_err() && !kill.all => return Err(not_running(instance)),
            Ok(pids) if !pids.is_empty() => return cgroup.signal_all(number),
            // Without a cgroup there is nobody to be found but the first process.
            _ if process.is_err() && kill.all => return Ok(()),
            _ => {}
        }
    }
    let process = process.map_err(|_| not_running(instance))?;
    match send(process.as_fd(), number) {
        // It ended at this moment.
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Err(not_running(instance)),
        sent => sent.context(|| format!("send {}", options::signal_name(number))),
    }?;
    if number == KILL && instance.cgroup().is_frozen() {
        // On v1 what is frozen does not even die.
        instance.cgroup().thaw()?;
    }
    Ok(())
}

/// containerd and CRI-O know this one by its words.
fn not_running(instance: &Instance) -> Error {
    Error::new(Kind::Conflict, format!("container not running: `{}` is {}", instance.id(), instance.status().word()))
}

/// Stops all of its processes.
pub(super) fn pause(instance: &Instance) -> Result<()> {
    match instance.status() {
        Status::Created | Status::Running => instance.cgroup().freeze(),
        other => {
            let sentence = format!("container not running or created: `{}` is {}", instance.id(), other.word());
            Err(Error::new(Kind::Conflict, sentence))
        }
    }
}

/// Lets them go on.
pub(super) fn resume(instance: &Instance) -> Result<()> {
    match instance.status() {
        Status::Paused => instance.cgroup().thaw(),
        other => {
            Err(Error::new(Kind::Conflict, format!("container not paused: `{}` is {}", instance.id(), other.word())))
        }
    }
}

/// Removes a container that has ended or was never started; with force, any.
pub(super) fn delete(instances: &Instances, delete: &Delete) -> Result<()> {
    let instance = match instances.find(&delete.id.id) {
        Err(error) if error.kind() == Kind::NotFound && delete.force => return Ok(()),
        other => other?,
    };
    let status = instance.status();
    if !delete.force && !matches!(status, Status::Created | Status::Stopped) {
        let sentence = format!("container `{}` cannot be deleted: it is {}", delete.id.id, status.word());
        return Err(Error::new(Kind::Conflict, sentence).hint("kill it first, or use --force"));
    }
    if let Ok(process) = instance.open_process() {
        end(&instance, &process)?;
    }
    instance.remove()
}

/// Kills the first process and waits until it is gone.
fn end(instance: &Instance, process: &OwnedFd) -> Result<()> {
    let _ = send(process.as_fd(), KILL);
    if instance.cgroup().is_frozen() {
        instance.cgroup().thaw()?;
    }
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    while rustix::event::poll(&mut fds, None) == Err(Errno::INTR) {}
    Ok(())
}
