//! A folder of another container as the source of a mount. The kernel copies mounts of one's own mount namespace only,
//! so a child enters the other one, copies there, and hands the copy over.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::container::hide_from_tracers;
use layerfs::sys::process::{self as sys, CloneOptions};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::clone_mount_of;
use crate::launch::channel::{receive_packet, send_packet};

/// `/proc/PID/root/PATH` as the number and the path; `None` for any other path.
pub(super) fn parse(path: &Path) -> Option<(u32, PathBuf)> {
    let rest = path.to_str()?.strip_prefix("/proc/")?;
    let (pid, rest) = rest.split_once('/')?;
    let below = rest.strip_prefix("root/")?;
    Some((pid.parse().ok()?, Path::new("/").join(below)))
}

/// A copy of the mount at `path` as the process `pid` sees it, attached nowhere. No link on the way is followed.
pub(super) fn clone_from((pid, path): (u32, PathBuf)) -> Result<OwnedFd> {
    let file = PathBuf::from(format!("/proc/{pid}/ns/mnt"));
    let namespace = sys::open_namespace(&file).at("open the namespace", &file)?;
    let (own, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .context(|| "make a channel to a child")?;
    let copy = || -> Result<OwnedFd> {
        hide_from_tracers().context(|| "hide from tracers")?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
            .context(|| "enter the other container's mount namespace")?;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let root = layerfs::sys::fs::open_dir(Path::new("/")).at("open", "/")?;
        let below = path.strip_prefix("/").unwrap_or(&path);
        let folder =
            rustix::fs::openat2(root, below, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS).at("open", &path)?;
        clone_mount_of(folder.as_fd(), false).at("copy the mount of", &path)
    };
    let child = sys::clone_child(&CloneOptions::default(), || {
        let sent = match copy() {
            Ok(tree) => send_packet(theirs.as_fd(), b"t", &[tree.as_fd()]),
            Err(error) => send_packet(theirs.as_fd(), error.chain().as_bytes(), &[]),
        };
        i32::from(sent.is_err())
    })
    .context(|| "start a process that enters another container")?;
    let received = receive_packet(own.as_fd(), 4096).context(|| "hear from a child");
    let _ = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
    let (said, trees) = received?;
    trees.into_iter().next().ok_or_else(|| Error::new(Kind::System, String::from_utf8_lossy(&said).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_root_of_a_process_is_elsewhere() {
        assert_eq!(parse(Path::new("/proc/7/root/dev/shm")), Some((7, "/dev/shm".into())));
        for path in ["/proc/self/root/dev", "/proc/7/cwd/x", "/dev/shm", "/proc/7/rootfs"] {
            assert_eq!(parse(Path::new(path)), None, "{path}");
        }
    }
}
