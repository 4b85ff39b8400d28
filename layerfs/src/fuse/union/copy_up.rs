//! Bringing what is in a lower layer to the upper folder, with all that programs can see of it.
//!
//! A copy is made in the work folder and appears under its name when it is whole. Data is shared where the file system
//! can (`FICLONE`, then `copy_file_range`), and holes stay holes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::descriptors::Access;
use super::index::Positions;
use super::look::INO;
use super::node::{Node, Place, Real, lock};
use super::place::{At, FOLDER};
use super::{Hardlinks, Union};

impl Union {
    /// A folder in the upper file system, with all folders above it.
    pub(super) fn ensure_upper_dir(&self, node: &Arc<Node>) -> Result<Arc<OwnedFd>, Errno> {
        self.upper()?;
        let mut missing = Vec::new();
        let mut at = node.clone();
        while !at.is_upper() {
            let Some(place) = at.place() else { return Err(Errno::NOENT) };
            missing.push((at, place.clone()));
            at = place.parent;
        }
        for (dir, place) in missing.into_iter().rev() {
            self.copy_dir(&dir, &place)?;
        }
        self.upper_dir(node)
    }

    fn copy_dir(&self, node: &Arc<Node>, place: &Place) -> Result<(), Errno> {
        let _copying = lock(&node.copying);
        if node.is_upper() {
            return Ok(());
        }
        let parent = self.upper_dir(&place.parent)?;
        let work = &self.upper()?.work;
        let lower = node.dir().and_then(|dir| dir.lowers.first().cloned()).ok_or(Errno::STALE)?;
        let source = self.open_lower_dir(&lower)?;
        let stat = rustix::fs::fstat(&source)?;
        let name = self.work_name();
        rustix::fs::mkdirat(work, name.as_slice(), Mode::RWXU)?;
        let made = || -> Result<(), Errno> {
            let copy = rustix::fs::openat(work, name.as_slice(), FOLDER, Mode::empty())?;
            let (from, to) = (whole(&source), whole(&copy));
            self.copy_metadata(from, to, &stat)?;
            let mut dir = self.content_mut(&place.parent)?;
            self.publish(&name, &parent, &place.name)?;
            let entry = dir.index.as_mut().and_then(|index| index.any_mut(&place.name));
            if let Some(entry) = entry {
                entry.upper = true;
            }
            node.slot.clear();
            node.state().real = Real::Upper;
            Ok(())
        };
        made().inspect_err(|_| {
            let _ = rustix::fs::unlinkat(work, name.as_slice(), AtFlags::REMOVEDIR);
        })
    }

    /// Puts what was made in the work folder in its place; the folder it is put into looks unchanged.
    fn publish(&self, name: &[u8], parent: &OwnedFd, to: &[u8]) -> Result<(), Errno> {
        let before = rustix::fs::fstat(parent)?;
        rustix::fs::renameat_with(&self.upper()?.work, name, parent, to, RenameFlags::NOREPLACE)?;
        let _ = rustix::fs::futimens(parent, &times(&before));
        Ok(())
    }

    /// A file in the upper file system; of its data no more than `length` bytes are wanted.
    pub(super) fn copy_up(&self, node: &Arc<Node>, length: u64) -> Result<(), Errno> {
        self.upper()?;
        if node.is_upper() {
            return Ok(());
        }
        if node.is_dir() {
            return self.ensure_upper_dir(node).map(drop);
        }
        let _copying = lock(&node.copying);
        if node.is_upper() {
            return Ok(());
        }
        loop {
            match self.try_copy_up(node, length) {
                // Another file took its name while it was copied.
                Err(Moved::Away) => {}
                Err(Moved::Failed(error)) => return Err(error),
                Ok(()) => break,
            }
        }
        // The other names that are known follow at once.
        let aliases = std::mem::take(&mut node.state().aliases);
        for alias in aliases {
            self.follow(&alias.parent, &alias.name, node)?;
        }
        Ok(())
    }

    /// Copies a file under the name that it has now.
    fn try_copy_up(&self, node: &Arc<Node>, length: u64) -> Result<(), Moved> {
        let place = node.place();
        let parent = place.as_ref().map(|place| self.ensure_upper_dir(&place.parent)).transpose()?;
        let work = &self.upper()?.work;
        let Real::Lower(dir, file) = node.state().real.clone() else { return Err(Errno::STALE.into()) };
        let path = dir.join(&file);
        let source = At { dir: self.layer(&dir)?, path: &path };
        let stat = source.stat()?;
        let name = self.work_name();
        let made = || -> Result<(), Moved> {
            let data = self.copy_file(source, node.kind, &stat, &name, length)?;
            let several = stat.st_nlink > 1 && self.options.hardlinks == Hardlinks::Kept;
            let (Some(place), Some(parent)) = (&place, &parent) else {
                // Its last name is gone, but somebody has it open.
                let fd = match data {
                    Some(fd) => fd,
                    None => rustix::fs::openat(work, name.as_slice(), super::look::NAMING, Mode::empty())?,
                };
                rustix::fs::unlinkat(work, name.as_slice(), AtFlags::empty())?;
                let mut state = node.state();
                state.real = Real::Nameless(Arc::new(fd));
                // Before anybody can open the copy: what is kept is the lower layer's.
                node.slot.clear();
                return Ok(());
            };
            let mut dir = self.content_mut(&place.parent)?;
            // From here on nobody renames or removes it.
            if !node.place().is_some_and(|now| now.is(&place.parent, &place.name)) {
                return Err(Moved::Away);
            }
            self.publish(&name, parent, &place.name)?;
            if let Some(entry) = dir.index.as_mut().and_then(|index| index.any_mut(&place.name)) {
                entry.upper = true;
                entry.lowers = Positions::None;
            }
            let mut state = node.state();
            state.real = Real::Upper;
            // Before anybody can open the copy: what is kept is the lower layer's.
            node.slot.clear();
            if several {
                state.links += i32::try_from(stat.st_nlink).unwrap_or(i32::MAX) - 1;
            }
            drop(state);
            if let Some(fd) = data {
                self.descriptors.keep(node, Arc::new(fd), Access::Write);
            }
            Ok(())
        };
        made().inspect_err(|_| {
            let _ = rustix::fs::unlinkat(work, name.as_slice(), AtFlags::empty());
        })
    }

    /// Makes the copy in the work folder; a regular file comes back open.
    fn copy_file(
        &self,
        source: At<'_>,
        kind: FileType,
        stat: &Stat,
        name: &[u8],
        length: u64,
    ) -> Result<Option<OwnedFd>, Errno> {
        let work = &self.upper()?.work;
        let copy = At { dir: work.as_fd(), path: name };
        if kind == FileType::Symlink {
            let target = rustix::fs::readlinkat(source.dir, source.path, Vec::new())?;
            rustix::fs::symlinkat(target.as_c_str(), work, name)?;
            self.copy_metadata(source, copy, stat)?;
            return Ok(None);
        }
        if kind != FileType::RegularFile {
            rustix::fs::mknodat(work, name, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev)?;
            self.copy_metadata(source, copy, stat)?;
            return Ok(None);
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = rustix::fs::openat(work, name, flags, Mode::RUSR | Mode::WUSR)?;
        let size = stat.st_size.cast_unsigned();
        if size.min(length) > 0 {
            let from = rustix::fs::openat(
                source.dir,
                source.path,
                OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            copy_data(&from, &to, size, size.min(length))?;
        }
        self.copy_metadata(source, copy, stat)?;
        if !self.options.volatile {
            let forms = self.options.forms;
            let ino = self.seen_ino(stat.st_dev, stat.st_ino);
            match forms.set_own(to.as_fd(), INO, &ino.to_le_bytes()) {
                // Without it the number changes at the next mount, no more.
                Ok(()) | Err(_) if size == 0 => {}
                _ => rustix::fs::fsync(&to)?,
            }
        }
        Ok(Some(to))
    }

    /// Owner, attributes, mode and times, in the order in which none undoes another.
    fn copy_metadata(&self, from: At<'_>, to: At<'_>, stat: &Stat) -> Result<(), Errno> {
        chown(to, stat.st_uid, stat.st_gid)?;
        self.copy_attributes(from, to)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            rustix::fs::chmodat(to.dir, to.path, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
        }
        rustix::fs::utimensat(to.dir, to.path, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
    }

    fn copy_attributes(&self, from: At<'_>, to: At<'_>) -> Result<(), Errno> {
        let (from, to) = (from.proc_path(), to.proc_path());
        let mut names = vec![0; 4096];
        let length = loop {
            match rustix::fs::llistxattr(&from, &mut names[..]) {
                Ok(length) => break length,
                Err(Errno::RANGE) => names.resize(names.len() * 2, 0),
                Err(Errno::NOTSUP) => return Ok(()),
                Err(error) => return Err(error),
            }
        };
        let mut value = Vec::new();
        for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            if self.options.forms.unescape(name).is_none() {
                continue;
            }
            value.resize(64 * 1024, 0);
            let length = match rustix::fs::lgetxattr(&from, name, &mut value[..]) {
                Ok(length) => length,
                Err(Errno::NODATA) => continue,
                Err(error) => return Err(error),
            };
            match rustix::fs::lsetxattr(&to, name, &value[..length], XattrFlags::empty()) {
                // A label or a kind of attribute that this file system, or this user namespace, does not have.
                Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives a lower name of a file with several names to the file's copy in the upper folder.
    pub(super) fn follow(&self, parent: &Arc<Node>, name: &[u8], node: &Arc<Node>) -> Result<(), Errno> {
        let folder = self.ensure_upper_dir(parent)?;
        let mut dir = self.content_mut(parent)?;
        let Some(entry) = dir.index.as_ref().and_then(|index| index.get(name)) else { return Ok(()) };
        if entry.upper {
            return Ok(());
        }
        let kept = entry.name.clone();
        let before = rustix::fs::fstat(&folder)?;
        self.at(node, |at| link(at, folder.as_fd(), name))?;
        let _ = rustix::fs::futimens(&folder, &times(&before));
        if let Some(entry) = dir.index.as_mut().and_then(|index| index.any_mut(name)) {
            entry.upper = true;
            entry.lowers = Positions::None;
            entry.set_node(node.id);
        }
        let place = Place { parent: parent.clone(), name: kept };
        let mut state = node.state();
        state.links -= 1;
        match node.place() {
            Some(_) => state.aliases.push(place),
            None => node.set_place(Some(place)),
        }
        Ok(())
    }
}

/// Why a file was not copied up.
enum Moved {
    /// It no longer has the name that it was copied for.
    Away,
    /// It cannot be.
    Failed(Errno),
}

impl From<Errno> for Moved {
    fn from(error: Errno) -> Self {
        Moved::Failed(error)
    }
}

/// Gives a file on disk one more name.
pub(super) fn link(at: At<'_>, dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match at.path {
        b"" => rustix::fs::linkat(rustix::fs::CWD, at.proc_path().as_c_str(), dir, name, AtFlags::SYMLINK_FOLLOW),
        path => rustix::fs::linkat(at.dir, path, dir, name, AtFlags::empty()),
    }
}

/// A folder itself, open.
fn whole(fd: &OwnedFd) -> At<'_> {
    At { dir: fd.as_fd(), path: b"." }
}

/// Both times of a file.
pub(super) fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec as i64 },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as i64 },
    }
}

/// Changes the owner on disk unless it is that already.
pub(super) fn chown(at: At<'_>, uid: u32, gid: u32) -> Result<(), Errno> {
    let now = at.stat()?;
    if (now.st_uid, now.st_gid) == (uid, gid) {
        return Ok(());
    }
    rustix::fs::chownat(at.dir, at.path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), at.flags())
}

/// Copies the first `length` of `size` bytes, holes as holes.
fn copy_data(from: &OwnedFd, to: &OwnedFd, size: u64, length: u64) -> Result<(), Errno> {
    if length == size && rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let mut at = 0;
    while at < length {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start.min(length),
            Err(Errno::NXIO) => break,
            // A file system that knows no holes.
            Err(_) => at,
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start)).map_or(length, |end| end.min(length));
        if end <= start {
            break;
        }
        copy_extent(from, to, start, end)?;
        at = end;
    }
    // What ends in a hole has its length all the same.
    rustix::fs::ftruncate(to, length)
}

fn copy_extent(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> Result<(), Errno> {
    let (mut read, mut write) = (start, start);
    while read < end {
        let left = (end - read) as usize;
        match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut write), left) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
                return copy_by_hand(from, to, read, end);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn copy_by_hand(from: &OwnedFd, to: &OwnedFd, mut at: u64, end: u64) -> Result<(), Errno> {
    let mut buffer = vec![0; 256 * 1024];
    while at < end {
        let room = buffer.len().min((end - at) as usize);
        let length = rustix::io::pread(from, &mut buffer[..room], at)?;
        if length == 0 {
            break;
        }
        let mut part = &buffer[..length];
        while !part.is_empty() {
            let written = rustix::io::pwrite(to, part, at)?;
            part = &part[written..];
            at += written as u64;
        }
    }
    Ok(())
}
