//! Taking a cgroup away, with all that still lives in it.
//!
//! Nothing is tried again after a pause: the kernel says when a cgroup is empty (v2), and a process's descriptor says
//! when it has ended (v1).

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::fs::read_kernel_file;
use layerfs::sys::process::send_signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{Cgroup, systemd};

/// Longest wait for killed processes to leave. One that hangs in the kernel cannot be waited for.
const LEAVE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

impl Cgroup {
    /// Kills what is left in it and removes it.
    ///
    /// # Errors
    /// A folder could not be removed; all others are, first.
    pub fn destroy(&self) -> Result<()> {
        // The kernel removes what nobody is in and nothing is below. It need not be asked first.
        let gone = |folder: &&Path| match fs::remove_dir(folder) {
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
            Ok(()) => true,
        };
        if self.unit.is_none() && self.folders().iter().filter(|folder| !gone(folder)).count() == 0 {
            return Ok(());
        }
        let mut first = Ok(());
        if self.is_populated() {
            first = self.kill_all();
        }
        if let Some(unit) = &self.unit {
            let stopped = systemd::stop(unit);
            first = first.and(stopped);
        }
        for folder in self.folders() {
            let removed = remove_tree(folder).at("remove the cgroup", folder);
            first = first.and(removed);
        }
        first
    }

    /// Whether anything lives in it.
    fn is_populated(&self) -> bool {
        self.folders().iter().any(|folder| !matches!(processes(folder), Ok(pids) if pids.is_empty()))
    }

    /// The numbers of all processes in it and below, in this process's pid namespace.
    ///
    /// # Errors
    /// It is gone, or cannot be read.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let Some(folder) = self.folders().last().copied() else { return Ok(Vec::new()) };
        let mut pids: Vec<i32> = processes(folder)?.into_iter().map(Pid::as_raw_pid).collect();
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Sends a signal to all processes in it, those that are born meanwhile included.
    ///
    /// # Errors
    /// It is gone, or cannot be read; for `SIGKILL` also: a process does not die.
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        if signal == Signal::KILL.as_raw() {
            return self.kill_all();
        }
        let Some(folder) = self.folders().last().copied() else { return Ok(()) };
        // What is frozen has no children meanwhile; it gets the signal when it goes on.
        let frozen_before = self.is_frozen();
        let frozen = frozen_before || self.freeze().is_ok();
        let sent = processes(folder).map(|pids| {
            for pidfd in pids.into_iter().filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) {
                let _ = send_signal(pidfd.as_fd(), signal);
            }
        });
        if frozen && !frozen_before {
            self.thaw()?;
        }
        sent
    }

    fn kill_all(&self) -> Result<()> {
        if let Some(folder) = self.v2.as_deref().filter(|folder| folder.is_dir()) {
            kill_unified(folder)?;
        }
        let mut first = Ok(());
        for folder in self.v1.values().filter(|folder| folder.is_dir()) {
            let killed = self.kill_each(folder);
            first = first.and(killed);
        }
        first
    }

    /// Kills process after process, and waits for each by its descriptor, until a listing is empty.
    fn kill_each(&self, folder: &Path) -> Result<()> {
        loop {
            let pids = processes(folder)?;
            let pidfds: Vec<OwnedFd> =
                pids.into_iter().filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()).collect();
            if pidfds.is_empty() {
                return Ok(());
            }
            for pidfd in &pidfds {
                let _ = pidfd_send_signal(pidfd, Signal::KILL);
            }
            // On v1 what is frozen does not even die.
            let _ = self.thaw();
            for pidfd in &pidfds {
                let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
                if matches!(poll(&mut fds, Some(&LEAVE)), Ok(0)) {
                    return Err(undying(folder));
                }
            }
        }
    }
}

fn undying(folder: &Path) -> Error {
    Error::new(Kind::System, format!("processes in `{}` do not die", folder.display()))
}

/// A container that ends takes its cgroup along with all that is in it, so it must not be another's; and in one that is
/// frozen it would not even start.
pub(super) fn refuse_in_use(folder: &Path) -> Result<()> {
    let elsewhere = "is it of a container under another --root? linux.cgroupsPath puts this one elsewhere";
    let count = processes(folder)?.len();
    if count > 0 {
        let sentence = format!("container's cgroup is not empty: `{}` has {count} processes", folder.display());
        return Err(Error::new(Kind::Conflict, sentence).hint(elsewhere));
    }
    let says = |file: &str, text: &str| read_kernel_file(folder.join(file)).is_ok_and(|found| found.starts_with(text));
    if says("freezer.state", "FR") || says("cgroup.freeze", "1") {
        let sentence = format!("container's cgroup unexpectedly frozen: `{}`", folder.display());
        return Err(Error::new(Kind::Conflict, sentence).hint(elsewhere));
    }
    Ok(())
}

/// The processes in a cgroup and in those below. None in one that is gone.
fn processes(folder: &Path) -> Result<Vec<Pid>> {
    let gone = |error: &std::io::Error| {
        error.kind() == std::io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::NODEV.raw_os_error())
    };
    let listing = folder.join("cgroup.procs");
    let mut pids: Vec<Pid> = match read_kernel_file(&listing) {
        Err(error) if gone(&error) => return Ok(Vec::new()),
        // A threaded cgroup lists no processes; those are its domain's.
        Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => Vec::new(),
        text => {
            let text = text.at("read", &listing)?;
            text.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)).collect()
        }
    };
    let below = match fs::read_dir(folder) {
        Err(error) if gone(&error) => return Ok(pids),
        below => below.at("list", folder)?,
    };
    for entry in below.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        pids.extend(processes(&entry.path())?);
    }
    Ok(pids)
}

/// Removes a cgroup and those that the container made in it.
fn remove_tree(folder: &Path) -> std::io::Result<()> {
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
            for entry in fs::read_dir(folder)?.flatten().filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir())) {
                remove_tree(&entry.path())?;
            }
            fs::remove_dir(folder)
        }
        removed => removed,
    }
}

/// Kills by `cgroup.kill` (Linux 5.14) and waits until the kernel says that nobody is left.
fn kill_unified(folder: &Path) -> Result<()> {
    let events = folder.join("cgroup.events");
    let file = File::open(&events).at("open", &events)?;
    if fs::write(folder.join("cgroup.kill"), "1").is_err() {
        let alone = Cgroup { v2: Some(folder.to_owned()), ..Cgroup::none() };
        return alone.kill_each(folder);
    }
    while read_kernel_file(&events).is_ok_and(|text| text.contains("populated 1")) {
        // A change of the file is told as urgent data (Documentation/admin-guide/cgroup-v2.rst, "cgroup.events").
        let mut fds = [PollFd::new(&file, PollFlags::PRI)];
        match poll(&mut fds, Some(&LEAVE)) {
            Err(Errno::INTR) => {}
            Ok(0) => return Err(undying(folder)),
            polled => drop(polled.at("wait for", &events)?),
        }
    }
    Ok(())
}
