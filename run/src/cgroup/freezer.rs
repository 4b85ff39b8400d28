//! Stopping all of a container where it is, and letting it go on.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{Cgroup, write_value};

/// Longest wait for processes to stop. One that hangs in the kernel does not.
const STOP_SECONDS: i64 = 10;
/// Between two looks at v1's freezer.
const LOOK_NANOSECONDS: i64 = 1_000_000;

/// The file that says it, on either version.
enum Switch {
    /// `freezer.state`
    V1(PathBuf),
    /// `cgroup.freeze`, in this folder.
    V2(PathBuf),
}

impl Cgroup {
    fn switch(&self) -> Option<Switch> {
        // A process in both is frozen by both; v1's is the one that other tools look at where there is one.
        match (self.v1.get("freezer"), &self.v2) {
            (Some(folder), _) => Some(Switch::V1(folder.join("freezer.state"))),
            (None, Some(folder)) => Some(Switch::V2(folder.clone())),
            (None, None) => None,
        }
    }

    /// Whether it is stopped.
    pub fn is_frozen(&self) -> bool {
        let starts = |path: &Path, text: &str| fs::read_to_string(path).is_ok_and(|found| found.starts_with(text));
        match self.switch() {
            Some(Switch::V1(state)) => starts(&state, "FR"),
            Some(Switch::V2(folder)) => starts(&folder.join("cgroup.freeze"), "1"),
            None => false,
        }
    }

    /// Stops all processes in it. Returns once they have stopped.
    ///
    /// # Errors
    /// There is no freezer; a process does not stop, and then all go on.
    pub fn freeze(&self) -> Result<()> {
        let stopped = match self.switch() {
            Some(Switch::V1(state)) => freeze_v1(&state),
            Some(Switch::V2(folder)) => freeze_v2(&folder),
            None => {
                return Err(Error::new(Kind::Unsupported, "the container cannot be paused: it has no cgroup")
                    .hint("mount the freezer controller of cgroup v1, or use cgroup v2"));
            }
        };
        if stopped.is_err() {
            let _ = self.thaw();
        }
        stopped
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn thaw(&self) -> Result<()> {
        match self.switch() {
            Some(Switch::V1(state)) => write_value(&state, "THAWED").at("write", &state),
            Some(Switch::V2(folder)) => {
                let path = folder.join("cgroup.freeze");
                write_value(&path, "0").at("write", &path)
            }
            None => Ok(()),
        }
    }
}

/// The freezer of v1 tells nobody when it is done, and a process that forks meanwhile can make it start over
/// (`freezer-subsystem.rst`): it is asked, with pauses, until it says so.
fn freeze_v1(state: &Path) -> Result<()> {
    for _ in 0..STOP_SECONDS * 1_000_000_000 / LOOK_NANOSECONDS {
        write_value(state, "FROZEN").at("write", state)?;
        if fs::read_to_string(state).at("read", state)?.trim() == "FROZEN" {
            return Ok(());
        }
        let pause = Timespec { tv_sec: 0, tv_nsec: LOOK_NANOSECONDS };
        let _ = poll(&mut [], Some(&pause));
    }
    Err(does_not_stop(state))
}

fn freeze_v2(folder: &Path) -> Result<()> {
    let (switch, events) = (folder.join("cgroup.freeze"), folder.join("cgroup.events"));
    let file = File::open(&events).at("open", &events)?;
    write_value(&switch, "1").at("write", &switch)?;
    let limit = Timespec { tv_sec: STOP_SECONDS, tv_nsec: 0 };
    while !fs::read_to_string(&events).at("read", &events)?.contains("frozen 1") {
        let mut fds = [PollFd::new(&file, PollFlags::PRI)];
        match poll(&mut fds, Some(&limit)) {
            Err(Errno::INTR) => {}
            Ok(0) => return Err(does_not_stop(folder)),
            polled => drop(polled.at("wait for", &events)?),
        }
    }
    Ok(())
}

fn does_not_stop(path: &Path) -> Error {
    Error::new(Kind::System, format!("processes in `{}` do not stop", path.display()))
        .hint("one of them hangs in the kernel: look for state D in ps")
}
