//! Changes of what a file is: mode, owner, times, length, flags of the file system.

use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Gid, IFlags, Mode, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid};
use rustix::io::Errno;

use super::Union;
use super::descriptors::Access;
use super::node::Node;
use super::place::At;
use crate::fuse::wire::{Moment, set};

/// `fuse_setattr_in`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) valid: u32,
    pub(super) size: u64,
    pub(super) atime: Moment,
    pub(super) mtime: Moment,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// `FS_IOC_GETFLAGS` and `FS_IOC_SETFLAGS`, `linux/fs.h`.
const GETFLAGS: u32 = 0x8008_6601;
const SETFLAGS: u32 = 0x4008_6602;

impl Union {
    /// `SETATTR`.
    pub(super) fn change(&self, node: &Arc<Node>, change: &Change) -> Result<(), Errno> {
        let has = |bit| change.valid & bit != 0;
        self.copy_up(node, if has(set::SIZE) { change.size } else { u64::MAX })?;
        if has(set::SIZE) {
            let data = self.open_data(node, Access::Write)?;
            rustix::fs::ftruncate(&data, change.size)?;
        }
        if has(set::UID) || has(set::GID) {
            let uid = has(set::UID).then(|| Uid::from_raw(self.options.owners.disk_uid(change.uid)));
            let gid = has(set::GID).then(|| Gid::from_raw(self.options.owners.disk_gid(change.gid)));
            self.at(node, |at| rustix::fs::chownat(at.dir, at.path, uid, gid, at.flags()))?;
        }
        if has(set::KILL_SUIDGID) {
            self.drop_set_id(node)?;
        }
        if has(set::MODE) {
            let mode = Mode::from_raw_mode(change.mode & 0o7777);
            self.at(node, |at| chmod(at, node.kind, mode))?;
        }
        if has(set::MODE | set::UID | set::GID)
            && let Some(mut dir) = node.dir_mut()
        {
            dir.inherited = None;
        }
        if has(set::ATIME | set::MTIME) {
            let times = Timestamps {
                last_access: time(has(set::ATIME), has(set::ATIME_NOW), change.atime),
                last_modification: time(has(set::MTIME), has(set::MTIME_NOW), change.mtime),
            };
            self.at(node, |at| rustix::fs::utimensat(at.dir, at.path, &times, at.flags()))?;
        }
        Ok(())
    }

    /// A change by somebody who may not keep them takes the set-id bits: set-user-id, and set-group-id where it is
    /// not the mark of mandatory locking.
    pub(super) fn drop_set_id(&self, node: &Arc<Node>) -> Result<(), Errno> {
        let mode = self.stat(node)?.st_mode & 0o7777;
        let mut less = mode & !0o4000;
        if mode & 0o010 != 0 {
            less &= !0o2000;
        }
        if less == mode || node.is_dir() {
            return Ok(());
        }
        self.at(node, |at| chmod(at, node.kind, Mode::from_raw_mode(less)))
    }

    /// `IOCTL`: the flags of `chattr(1)`, which live in the file system below.
    pub(super) fn control(&self, node: &Arc<Node>, command: u32, input: &[u8]) -> Result<Option<u32>, Errno> {
        if !matches!(node.kind, FileType::RegularFile | FileType::Directory) {
            return Err(Errno::NOTTY);
        }
        let open = |at: At<'_>| {
            rustix::fs::open(
                at.proc_path().as_c_str(),
                rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC,
                Mode::empty(),
            )
        };
        match command {
            GETFLAGS => {
                let fd = self.at(node, open)?;
                Ok(Some(rustix::fs::ioctl_getflags(&fd)?.bits()))
            }
            SETFLAGS => {
                let flags = input.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)).ok_or(Errno::INVAL)?;
                self.copy_up(node, u64::MAX)?;
                let fd = self.at(node, open)?;
                rustix::fs::ioctl_setflags(&fd, IFlags::from_bits_retain(flags))?;
                Ok(None)
            }
            _ => Err(Errno::NOTTY),
        }
    }
}

fn chmod(at: At<'_>, kind: FileType, mode: Mode) -> Result<(), Errno> {
    match (kind, at.path) {
        (FileType::Symlink, _) => Err(Errno::OPNOTSUPP),
        (_, b"") => rustix::fs::chmod(at.proc_path().as_c_str(), mode),
        (_, path) => rustix::fs::chmodat(at.dir, path, mode, AtFlags::empty()),
    }
}

fn time(set: bool, now: bool, moment: Moment) -> Timespec {
    match (set, now) {
        (false, _) => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        (true, true) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        (true, false) => Timespec { tv_sec: moment.seconds, tv_nsec: moment.nanos.into() },
    }
}
