//! From a node to the file on disk.
//!
//! Files of lower layers are reached by their paths, which never change. Files of the upper folder are reached by
//! their name in an open folder, so that a rename of any folder above changes nothing.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::descriptors::Access;
use super::node::{LayerDir, Node, Real};
use super::{Union, UpperLayer};
use crate::fuse::wire::{Attributes, Moment};

/// Flags that open a folder for reading and as a base.
pub(super) const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A file on disk: a name in a folder, or the folder itself (`.`), or (`""`) what the descriptor stands for.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) dir: BorrowedFd<'a>,
    pub(super) path: &'a [u8],
}

impl At<'_> {
    /// Flags for calls that can work on a descriptor and must not follow a symlink.
    pub(super) fn flags(&self) -> AtFlags {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        if self.path.is_empty() { flags | AtFlags::EMPTY_PATH } else { flags }
    }

    pub(super) fn stat(&self) -> Result<Stat, Errno> {
        rustix::fs::statat(self.dir, self.path, self.flags())
    }

    /// The path for calls that know no descriptors.
    pub(super) fn proc_path(&self) -> std::ffi::CString {
        crate::sys::fs::proc_path(self.dir, (!self.path.is_empty()).then_some(self.path))
    }
}

impl LayerDir {
    /// The path of a name in this folder.
    pub(super) fn join(&self, name: &[u8]) -> Vec<u8> {
        let mut path = Vec::with_capacity(self.path.len() + 1 + name.len());
        if !self.path.is_empty() {
            path.extend_from_slice(&self.path);
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// The folder as a path for system calls.
    fn as_path(&self) -> &[u8] {
        if self.path.is_empty() { b"." } else { &self.path }
    }
}

impl Union {
    /// The upper layer, or that there is none.
    pub(super) fn upper(&self) -> Result<&UpperLayer, Errno> {
        self.upper.as_ref().ok_or(Errno::ROFS)
    }

    /// Calls `act` with the file on disk that the node is now.
    pub(super) fn at<T>(&self, node: &Node, act: impl Fn(At<'_>) -> Result<T, Errno>) -> Result<T, Errno> {
        if node.is_dir() {
            return self.at_dir(node, act);
        }
        loop {
            let place = node.place();
            let folder = match &place {
                Some(place) if matches!(node.state().real, Real::Upper) => Some(self.upper_dir(&place.parent)?),
                _ => None,
            };
            // Held over the call: nobody renames or removes the file meanwhile.
            let state = node.state();
            match (&state.real, &folder, place) {
                (Real::Nameless(fd), ..) => return act(At { dir: fd.as_fd(), path: b"" }),
                (Real::Lower(dir, name), ..) => {
                    let path = dir.join(name);
                    return act(At { dir: self.layer(dir)?, path: &path });
                }
                (Real::LowerDir, ..) | (Real::Upper, _, None) => return Err(Errno::STALE),
                (Real::Upper, Some(folder), Some(place)) => {
                    // It may have been renamed while its folder was opened.
                    if node.place().is_some_and(|now| now.is(&place.parent, &place.name)) {
                        return act(At { dir: folder.as_fd(), path: &place.name });
                    }
                }
                // It was copied up a moment ago.
                (Real::Upper, None, Some(_)) => {}
            }
        }
    }

    fn at_dir<T>(&self, node: &Node, act: impl Fn(At<'_>) -> Result<T, Errno>) -> Result<T, Errno> {
        if node.is_upper() {
            let fd = self.upper_dir_of(node)?;
            return act(At { dir: fd.as_fd(), path: b"." });
        }
        let first = node.dir().and_then(|dir| dir.lowers.first().cloned()).ok_or(Errno::STALE)?;
        act(At { dir: self.layer(&first)?, path: first.as_path() })
    }

    pub(super) fn layer(&self, dir: &LayerDir) -> Result<BorrowedFd<'_>, Errno> {
        self.layers.get(usize::from(dir.layer)).map(|layer| layer.root.as_fd()).ok_or(Errno::STALE)
    }

    /// Opens a folder of a lower layer.
    pub(super) fn open_lower_dir(&self, dir: &LayerDir) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(self.layer(dir)?, dir.as_path(), FOLDER, Mode::empty())
    }

    /// A folder that is in the upper file system, open.
    pub(super) fn upper_dir(&self, node: &Arc<Node>) -> Result<Arc<OwnedFd>, Errno> {
        if let Some(fd) = node.slot.get(Access::Read) {
            return Ok(fd);
        }
        let fd = self.upper_dir_of(node)?;
        if node.id != super::ROOT {
            self.descriptors.keep(node, fd.clone(), Access::Read);
        }
        Ok(fd)
    }

    fn upper_dir_of(&self, node: &Node) -> Result<Arc<OwnedFd>, Errno> {
        if let Some(fd) = node.slot.get(Access::Read) {
            return Ok(fd);
        }
        if let Real::Nameless(fd) = &node.state().real {
            return Ok(fd.clone());
        }
        let upper = self.upper()?;
        if node.id == super::ROOT {
            return Ok(upper.root.clone());
        }
        // No folder is renamed from here on, until it is open.
        let _tree = self.tree.read().unwrap_or_else(PoisonError::into_inner);
        let mut names = Vec::new();
        let mut place = node.place().ok_or(Errno::STALE)?;
        let base = loop {
            names.push(place.name.clone());
            let parent = place.parent;
            if parent.id == super::ROOT {
                break upper.root.clone();
            }
            if let Some(fd) = parent.slot.get(Access::Read) {
                break fd;
            }
            place = parent.place().ok_or(Errno::STALE)?;
        };
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.extend_from_slice(name);
            path.push(b'/');
        }
        path.pop();
        Ok(Arc::new(rustix::fs::openat(&base, path.as_slice(), FOLDER, Mode::empty())?))
    }

    /// A regular file's data, open. Writing needs it in the upper file system.
    pub(super) fn open_data(&self, node: &Arc<Node>, access: Access) -> Result<Arc<OwnedFd>, Errno> {
        if let Some(fd) = node.slot.get(access) {
            return Ok(fd);
        }
        if node.kind != FileType::RegularFile {
            return Err(if node.is_dir() { Errno::ISDIR } else { Errno::INVAL });
        }
        let upper = node.is_upper();
        if access == Access::Write && !upper {
            return Err(Errno::ROFS);
        }
        self.at(node, |at| {
            let (fd, access) = open_file(at, upper, access)?;
            let fd = Arc::new(fd);
            // While the node cannot be copied up: its slot must not keep what is the lower layer's after that.
            self.descriptors.keep(node, fd.clone(), access);
            Ok(fd)
        })
    }

    /// What a node is on disk.
    pub(super) fn stat(&self, node: &Node) -> Result<Stat, Errno> {
        if node.kind == FileType::RegularFile
            && let Some(fd) = node.slot.get(Access::Read)
        {
            return rustix::fs::fstat(fd);
        }
        self.at(node, |at| at.stat())
    }

    /// What programs see of it.
    pub(super) fn seen(&self, node: &Node, stat: &Stat) -> Attributes {
        let (uid, gid) = self.options.owners.seen(stat.st_uid, stat.st_gid);
        Attributes {
            ino: node.ino,
            size: stat.st_size.cast_unsigned(),
            blocks: stat.st_blocks.cast_unsigned(),
            atime: Moment { seconds: stat.st_atime, nanos: stat.st_atime_nsec as u32 },
            mtime: Moment { seconds: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 },
            ctime: Moment { seconds: stat.st_ctime, nanos: stat.st_ctime_nsec as u32 },
            mode: stat.st_mode,
            nlink: self.links(node, stat.st_nlink),
            uid,
            gid,
            rdev: stat.st_rdev,
            blksize: stat.st_blksize as u32,
        }
    }

    /// The link count. That of a folder of several layers is 1, "unknown" to those who count subfolders by it, as with
    /// the kernel's: the true one would take a look into every layer.
    pub(super) fn links(&self, node: &Node, disk: u64) -> u32 {
        if let Some(dir) = node.dir() {
            let layers = dir.lowers.len() + usize::from(node.is_upper());
            return if layers > 1 && disk > 0 { 1 } else { disk as u32 };
        }
        let links = node.state().links;
        (disk as i64 + i64::from(links)).max(0) as u32
    }

    /// The same, from the disk.
    pub(super) fn attributes(&self, node: &Node) -> Result<Attributes, Errno> {
        let stat = self.stat(node)?;
        Ok(self.seen(node, &stat))
    }
}

/// Opens a file's data; as much as is allowed where only reading was asked for.
fn open_file(at: At<'_>, upper: bool, access: Access) -> Result<(OwnedFd, Access), Errno> {
    let base = OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let open = |flags: OFlags| match at.path {
        // A file without a name is opened through its descriptor, which is no symlink of the union's.
        b"" => rustix::fs::open(at.proc_path().as_c_str(), flags.difference(OFlags::NOFOLLOW), Mode::empty()),
        path => rustix::fs::openat(at.dir, path, flags, Mode::empty()),
    };
    if upper {
        match open(base | OFlags::RDWR) {
            Ok(fd) => return Ok((fd, Access::Write)),
            // An immutable file, or one that the host executes, can still be read.
            Err(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::TXTBSY) if access == Access::Read => {}
            Err(error) => return Err(error),
        }
        return Ok((open(base | OFlags::RDONLY)?, Access::Read));
    }
    // Reading must not change a layer, not even by a time of access. Who is not the owner may not ask for that.
    let fd = open(base | OFlags::RDONLY | OFlags::NOATIME).or_else(|errno| match errno {
        Errno::PERM => open(base | OFlags::RDONLY),
        other => Err(other),
    })?;
    Ok((fd, Access::Read))
}
