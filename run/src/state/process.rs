//! A process, named so that it is never mistaken for another.

use std::os::fd::OwnedFd;

use layerfs::error::{Context, Result};
use layerfs::sys::fs::read_kernel_file;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

/// A pid with the boot and the moment (in clock ticks since then) it belongs to. A bare pid may be another process's by
/// now; this may not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessId {
    /// The kernel's id of the boot.
    pub boot: String,
    /// The number, in the host's pid namespace.
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`.
    pub start: u64,
}

impl ProcessId {
    /// The process with this number now.
    ///
    /// # Errors
    /// There is none.
    pub fn of(pid: i32) -> Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let stat = read_kernel_file(&path).at("read", &path)?;
        Ok(Self { boot: boot()?, pid, start: start_time(&stat).unwrap_or(0) })
    }

    /// Whether it still lives; a zombie does not.
    pub fn is_alive(&self) -> bool {
        self.pid > 0
            && boot().is_ok_and(|boot| boot == self.boot)
            && read_kernel_file(format!("/proc/{}/stat", self.pid))
                .is_ok_and(|stat| start_time(&stat) == Some(self.start) && !matches!(state(&stat), Some('Z' | 'X')))
    }

    /// A descriptor of the process where it lives, sure to be of this one: opened first, then compared.
    pub fn open(&self) -> Option<OwnedFd> {
        let pidfd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        self.is_alive().then_some(pidfd)
    }
}

fn boot() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(read_kernel_file(path).at("read", path)?.trim().to_owned())
}

/// The fields after the program's name, which may itself hold blanks and parentheses.
fn fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace()
}

fn start_time(stat: &str) -> Option<u64> {
    fields(stat).nth(19)?.parse().ok()
}

fn state(stat: &str) -> Option<char> {
    fields(stat).next()?.chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_itself_and_no_other() {
        let own = ProcessId::of(i32::try_from(std::process::id()).expect("a pid")).expect("this process exists");
        assert!(own.is_alive() && own.open().is_some());
        assert!(!ProcessId { start: own.start + 1, ..own.clone() }.is_alive());
        assert!(!ProcessId { boot: "another".to_owned(), ..own.clone() }.is_alive());
        assert!(ProcessId { pid: 0, ..own }.open().is_none());
        let stat = "12 (a) b (c) S 1 12 12 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 4242 9 9";
        assert_eq!((start_time(stat), state(stat)), (Some(4242), Some('S')));
    }
}
