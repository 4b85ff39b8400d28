//! The id maps of a user namespace as data.

use std::cell::Cell;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Kind, Result};
use crate::sys::fs::read_kernel_file;
use crate::sys::process::{CloneOptions, clone_child};

/// A run of ids: `size` of them, from `container` inside and `host` outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// First id inside the namespace.
    pub container: u32,
    /// First id in the parent namespace.
    pub host: u32,
    /// How many.
    pub size: u32,
}

/// The id maps of a user namespace, as `/proc/PID/uid_map` and `gid_map` state them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// User ids.
    pub uids: Vec<IdRange>,
    /// Group ids.
    pub gids: Vec<IdRange>,
}

impl Mapping {
    /// The maps of the namespace this process is in.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn current() -> Result<Self> {
        let read = |path: &str| Ok::<_, Error>(parse_map(&read_kernel_file(path).at("read", path)?));
        Ok(Self { uids: read("/proc/self/uid_map")?, gids: read("/proc/self/gid_map")? })
    }

    /// The maps of the namespace that a process is in, in the ids of this process's namespace, or of its parent where
    /// the two are the same.
    ///
    /// # Errors
    /// There is no such process.
    pub fn of_process(pid: i32) -> Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            Ok::<_, Error>(parse_map(&fs::read_to_string(&path).at("read", &path)?))
        };
        Ok(Self { uids: read("uid_map")?, gids: read("gid_map")? })
    }

    /// The maps of a namespace by its file, in the ids of this process's namespace. This process must have one thread,
    /// and the right to enter that namespace.
    ///
    /// # Errors
    /// It cannot be entered.
    pub fn of_namespace(namespace: BorrowedFd<'_>) -> Result<Self> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC).context(|| "make a pipe");
        let ((told, teller), (waits, holder)) = (pipe()?, pipe()?);
        let (teller, holder) = (Cell::new(Some(teller)), Cell::new(Some(holder)));
        let child = clone_child(&CloneOptions::default(), || {
            drop(holder.take());
            let entered = move_into_link_name_space(namespace, Some(LinkNameSpaceType::User));
            let code = entered.map_or_else(|errno| errno.raw_os_error(), |()| 0);
            if let (Some(teller), Ok(byte)) = (teller.take(), u8::try_from(code)) {
                let _ = rustix::io::write(&teller, &[byte]);
            }
            let _ = rustix::io::read(&waits, &mut [0u8; 1]);
            0
        })
        .context(|| "start a process that enters the user namespace")?;
        drop(teller.take());
        let mut code = [0u8; 1];
        let entered = match rustix::io::read(&told, &mut code) {
            Ok(1) if code == [0] => Self::of_process(child.pid),
            Ok(1) => Err(Errno::from_raw_os_error(i32::from(code[0]))).context(|| "enter the user namespace"),
            _ => Err(Error::new(Kind::System, "the process that enters the user namespace died")),
        };
        drop(holder.take());
        let _ = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
        entered
    }

    /// The user id outside that `id` is inside.
    pub fn uid_outside(&self, id: u32) -> Option<u32> {
        outside(&self.uids, id)
    }

    /// The group id outside that `id` is inside.
    pub fn gid_outside(&self, id: u32) -> Option<u32> {
        outside(&self.gids, id)
    }

    /// The user id inside that `id` is outside.
    pub fn uid_inside(&self, id: u32) -> Option<u32> {
        inside(&self.uids, id)
    }

    /// The group id inside that `id` is outside.
    pub fn gid_inside(&self, id: u32) -> Option<u32> {
        inside(&self.gids, id)
    }

    /// The maps of a namespace inside this one, in the ids outside this one. Ids that this one lacks are left out.
    pub fn compose(&self, inner: &Self) -> Self {
        Self { uids: compose(&self.uids, &inner.uids), gids: compose(&self.gids, &inner.gids) }
    }

    /// Makes a user namespace with these maps and nobody in it, for the kernel to take the maps from. This process
    /// must have one thread, and the right to write the maps.
    ///
    /// # Errors
    /// The kernel refuses the namespace or the maps.
    pub fn lend(&self) -> Result<OwnedFd> {
        /// `CLONE_NEWUSER`
        const USER: u64 = 0x1000_0000;
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).context(|| "make a pipe")?;
        let writer = Cell::new(Some(writer));
        let options = CloneOptions { namespaces: USER, ..CloneOptions::default() };
        let child = clone_child(&options, || {
            drop(writer.take());
            // Until the other end is closed.
            let _ = rustix::io::read(&reader, &mut [0u8; 1]);
            0
        })
        .context(|| "make a user namespace")?;
        let made = self.write_to(child.pid).and_then(|()| {
            let path = format!("/proc/{}/ns/user", child.pid);
            fs::File::open(&path).at("open", &path)
        });
        drop(writer.take());
        let _ = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
        made.map(OwnedFd::from)
    }

    /// Gives these maps to the new user namespace of a process, by way of newuidmap and newgidmap where this process
    /// itself may give no more than the one id of its own.
    ///
    /// # Errors
    /// They are refused: an id outside does not exist here, or this process has no right to it.
    pub fn write_to(&self, pid: i32) -> Result<()> {
        let sides = [("uid_map", c"newuidmap", &self.uids), ("gid_map", c"newgidmap", &self.gids)];
        for (file, helper, map) in sides {
            let text: String = map.iter().map(|r| format!("{} {} {}\n", r.container, r.host, r.size)).collect();
            let write = || fs::write(format!("/proc/{pid}/{file}"), &text);
            let written = match (write(), &map[..]) {
                (Err(error), [IdRange { size: 1, .. }]) if is_refused(&error) && file == "gid_map" => {
                    // Groups must be given up first (user_namespaces(7)).
                    fs::write(format!("/proc/{pid}/setgroups"), "deny").and_then(|()| write())
                }
                (written, _) => written,
            };
            match written {
                Err(error) if is_refused(&error) && !rustix::process::geteuid().is_root() => {
                    super::map_by_helper(helper, pid, map)?;
                }
                written => written.context(|| format!("write the {file} of a namespace"))?,
            }
        }
        Ok(())
    }

    /// Whether this is the initial namespace's identity map, or one like it.
    pub fn is_host(&self) -> bool {
        let whole = |map: &[IdRange]| matches!(map, [IdRange { container: 0, host: 0, size: u32::MAX }]);
        whole(&self.uids) && whole(&self.gids)
    }

    /// Whether only one user id exists inside.
    pub fn is_single(&self) -> bool {
        self.uids.iter().map(|range| u64::from(range.size)).sum::<u64>() == 1
    }

    /// A short name that differs for different maps; part of a layer's key in the store.
    pub fn key(&self) -> String {
        if self.is_host() {
            return "host".to_owned();
        }
        let words = |map: &[IdRange]| -> String {
            map.iter().map(|r| format!("{}:{}:{},", r.container, r.host, r.size)).collect()
        };
        let text = format!("{};{}", words(&self.uids), words(&self.gids));
        crate::digest::Digest::of(text.as_bytes()).hex()[..10].to_owned()
    }
}

fn parse_map(text: &str) -> Vec<IdRange> {
    let range = |line: &str| {
        let mut numbers = line.split_ascii_whitespace().map(|word| word.parse().ok());
        Some(IdRange { container: numbers.next()??, host: numbers.next()??, size: numbers.next()?? })
    };
    text.lines().filter_map(range).collect()
}

fn is_refused(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::PermissionDenied
}

fn outside(map: &[IdRange], id: u32) -> Option<u32> {
    map.iter().find_map(|range| {
        let offset = id.checked_sub(range.container).filter(|offset| *offset < range.size)?;
        range.host.checked_add(offset)
    })
}

fn inside(map: &[IdRange], id: u32) -> Option<u32> {
    map.iter().find_map(|range| {
        let offset = id.checked_sub(range.host).filter(|offset| *offset < range.size)?;
        range.container.checked_add(offset)
    })
}

fn compose(outer: &[IdRange], inner: &[IdRange]) -> Vec<IdRange> {
    let mut map = Vec::new();
    for wanted in inner {
        for has in outer {
            // In 64 bits: the whole map of the machine ends beyond 32.
            let (from, to) = (u64::from(wanted.host), u64::from(wanted.host) + u64::from(wanted.size));
            let (first, end) = (u64::from(has.container), u64::from(has.container) + u64::from(has.size));
            let (low, high) = (from.max(first), to.min(end));
            let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
            if low < high {
                map.push(IdRange {
                    container: narrow(u64::from(wanted.container) + (low - from)),
                    host: narrow(u64::from(has.host) + (low - first)),
                    size: narrow(high - low),
                });
            }
        }
    }
    map.sort_by_key(|range| range.container);
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(container: u32, host: u32, size: u32) -> IdRange {
        IdRange { container, host, size }
    }

    #[test]
    fn maps_are_read() {
        let map = parse_map("         0       1000          1\n         1     100000      65536\n");
        assert_eq!(map, [range(0, 1000, 1), range(1, 100_000, 65536)]);
    }

    #[test]
    fn a_map_inside_a_map_is_one_map() {
        let both = |map: &[IdRange]| Mapping { uids: map.to_vec(), gids: map.to_vec() };
        let outer = both(&[range(0, 1000, 1), range(1, 100_000, 65_536)]);
        let inner = both(&[range(0, 1, 1000), range(1000, 0, 1), range(1001, 1001, 64_536)]);
        let whole = both(&[range(0, 100_000, 1000), range(1000, 1000, 1), range(1001, 101_000, 64_536)]);
        assert_eq!(outer.compose(&inner), whole);
        assert_eq!((whole.uid_outside(1000), whole.gid_outside(5)), (Some(1000), Some(100_005)));
        assert_eq!((whole.uid_outside(65_536), whole.uid_outside(65_537)), (Some(165_535), None));
        assert_eq!((whole.uid_inside(100_005), whole.gid_inside(1000)), (Some(5), Some(1000)));
        assert_eq!((whole.uid_inside(101_000), whole.gid_inside(0)), (Some(1001), None));
        let host = both(&[range(0, 0, u32::MAX)]);
        assert_eq!(host.compose(&inner), inner);
    }

    #[test]
    fn keys_tell_mappings_apart() {
        let of = |host| Mapping {
            uids: vec![IdRange { container: 0, host, size: 1 }],
            gids: vec![IdRange { container: 0, host, size: 1 }],
        };
        assert_ne!(of(1000).key(), of(1001).key());
        assert!(of(1000).is_single() && !of(1000).is_host());
        assert_eq!(Mapping { uids: parse_map("0 0 4294967295"), gids: parse_map("0 0 4294967295") }.key(), "host");
    }
}
