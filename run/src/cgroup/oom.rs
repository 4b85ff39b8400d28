//! The kernel's kills for want of memory: how many there were, and when the next one happens.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::fs::read_kernel_file;
use rustix::event::EventfdFlags;
use rustix::fs::inotify;

use super::hierarchy::Version;
use super::{Cgroup, write_value};

impl Cgroup {
    fn oom_counter(&self) -> Option<PathBuf> {
        match (self.v1.get("memory"), &self.v2) {
            (Some(folder), _) => Some(folder.join("memory.oom_control")),
            (None, Some(folder)) => Some(folder.join("memory.events")),
            (None, None) => None,
        }
    }

    /// How many of its processes the kernel killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let text = self.oom_counter().and_then(|path| read_kernel_file(path).ok()).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    /// Whether the kernel killed something in it for want of memory.
    pub fn oom_killed(&self) -> bool {
        self.oom_kills() != 0
    }

    /// Watches for the kernel running out of the container's memory.
    ///
    /// # Errors
    /// Its memory is not controlled.
    pub fn watch_oom(&self) -> Result<OomWatch> {
        let memory = self.controller("memory", "memory").ok_or_else(|| {
            Error::new(Kind::Unsupported, "the container has no memory cgroup, so running out of memory goes unnoticed")
        })?;
        let source = match memory.version {
            // `cgroup-v1/memory.rst`, "OOM Control": an eventfd, registered with the descriptor of the file.
            Version::V1 => {
                let path = memory.folder.join("memory.oom_control");
                let control = File::open(&path).at("open", &path)?;
                let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                    .context(|| "make an eventfd")?;
                let register = memory.folder.join("cgroup.event_control");
                let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
                write_value(&register, &line).at("write", &register)?;
                event
            }
            // `cgroup-v2.rst`, "memory.events": a change of the file is a modification that inotify tells of.
            Version::V2 => {
                let path = memory.folder.join("memory.events");
                let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
                    .context(|| "watch a file")?;
                inotify::add_watch(&watch, &path, inotify::WatchFlags::MODIFY).at("watch", &path)?;
                watch
            }
        };
        // v1 counts kills since Linux 4.13 only, and says so by each event besides.
        Ok(OomWatch { source, version: memory.version, seen: self.oom_kills(), cgroup: self.clone() })
    }
}

/// A descriptor that becomes readable when something may have happened.
#[derive(Debug)]
pub struct OomWatch {
    source: OwnedFd,
    version: Version,
    seen: u64,
    cgroup: Cgroup,
}

impl OomWatch {
    /// How often the container ran out of memory since the last call. Never waits.
    pub fn happened(&mut self) -> u64 {
        let mut buffer = [0; 4096];
        let told = rustix::io::read(&self.source, &mut buffer).is_ok_and(|count| count > 0);
        let kills = self.cgroup.oom_kills();
        let more = kills.saturating_sub(self.seen);
        self.seen += more;
        match self.version {
            // A cgroup that goes away tells of itself once more, and its file is gone by then.
            Version::V1 if told && more == 0 => {
                u64::from(self.cgroup.oom_counter().is_some_and(|path| is_under_oom(&path)))
            }
            _ => more,
        }
    }
}

/// Where the killer is off, processes wait instead and nothing is counted.
fn is_under_oom(path: &std::path::Path) -> bool {
    let mut text = String::new();
    File::open(path).and_then(|mut file| file.read_to_string(&mut text)).is_ok_and(|_| text.contains("under_oom 1"))
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}
