//! New names: files, folders, symlinks, devices, further names of files.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Uid, XattrFlags};
use rustix::io::Errno;

use super::Union;
use super::copy_up::link;
use super::descriptors::Access;
use super::forms::make_whiteout;
use super::index::{Dir, Entry, Inherited};
use super::node::{Node, Place, Real, lock};
use super::place::{At, FOLDER};
use crate::fuse::wire::Attributes;
use crate::sys::fs::proc_path;

/// What is to be made.
#[derive(Clone, Copy)]
pub(super) enum What<'a> {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symlink to there.
    Symlink(&'a [u8]),
    /// A device, a FIFO or a socket.
    Special(FileType, u64),
}

/// Who makes it, and how it may be used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Maker {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
    pub(super) umask: u32,
}

const DEFAULT_ACL: &str = "system.posix_acl_default";

impl Union {
    /// Makes something under a new name.
    pub(super) fn make(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
        what: What<'_>,
        maker: Maker,
    ) -> Result<(Arc<Node>, Attributes), Errno> {
        if self.options.forms.is_reserved(name) {
            return Err(Errno::INVAL);
        }
        if matches!(what, What::Special(FileType::CharacterDevice, 0)) {
            // It would be a whiteout.
            return Err(Errno::PERM);
        }
        let folder = self.ensure_upper_dir(parent)?;
        let mut dir = self.content_mut(parent)?;
        let over = self.must_be_free(&dir, name)?;
        let inherited = self.inherited(&folder, &mut dir)?;
        let mode = if inherited.default_acl { maker.mode } else { maker.mode & !maker.umask };
        let maker = Maker { mode, ..maker };
        let fd = match over {
            false => self.make_in(folder.as_fd(), name, what, maker, inherited)?,
            true => self.make_over_whiteout(folder.as_fd(), name, what, maker, inherited)?,
        };
        let stat = match &fd {
            Some(fd) => rustix::fs::fstat(fd)?,
            None => At { dir: folder.as_fd(), path: name }.stat()?,
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let kept: Arc<[u8]> = name.into();
        let place = Place { parent: parent.clone(), name: kept.clone() };
        let content = (kind == FileType::Directory)
            .then(|| Dir { index: Some(super::index::Index::default()), ..Dir::default() });
        let ino = self.seen_ino(stat.st_dev, stat.st_ino);
        let node = Node::new(self.table.new_id(), ino, kind, Some(place), Real::Upper, content);
        self.table.insert(&node);
        self.table.remember(&node);
        let mut entry = Entry::new(kept, kind, node.id);
        entry.disk_ino = stat.st_ino;
        if let Some(index) = &mut dir.index {
            index.put(entry);
        }
        drop(dir);
        if let Some(fd) = fd {
            self.descriptors.keep(&node, Arc::new(fd), Access::Write);
        }
        let attributes = self.seen(&node, &stat);
        Ok((node, attributes))
    }

    /// True where a whiteout has to make way.
    fn must_be_free(&self, dir: &Dir, name: &[u8]) -> Result<bool, Errno> {
        match dir.index.as_ref().and_then(|index| index.any(name)) {
            None => Ok(false),
            Some(entry) if entry.whiteout => Ok(true),
            Some(_) => Err(Errno::EXIST),
        }
    }

    /// What a folder of the upper file system passes on to what is made in it.
    fn inherited(&self, folder: &OwnedFd, dir: &mut Dir) -> Result<Inherited, Errno> {
        if let Some(inherited) = dir.inherited {
            return Ok(inherited);
        }
        let stat = rustix::fs::fstat(folder)?;
        let inherited = Inherited {
            group: (stat.st_mode & 0o2000 != 0).then_some(stat.st_gid),
            default_acl: rustix::fs::fgetxattr(folder, DEFAULT_ACL, &mut [0u8; 0][..]).is_ok(),
        };
        dir.inherited = Some(inherited);
        Ok(inherited)
    }

    /// Makes it in a folder that passes on what it has by itself. A regular file comes back open.
    fn make_in(
        &self,
        folder: BorrowedFd<'_>,
        name: &[u8],
        what: What<'_>,
        maker: Maker,
        inherited: Inherited,
    ) -> Result<Option<OwnedFd>, Errno> {
        let mode = Mode::from_raw_mode(maker.mode & 0o7777);
        let mut opened = None;
        match what {
            What::File => {
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                opened = Some(rustix::fs::openat(folder, name, flags, mode)?);
            }
            What::Folder => rustix::fs::mkdirat(folder, name, mode)?,
            What::Symlink(target) => rustix::fs::symlinkat(target, folder, name)?,
            What::Special(kind, device) => rustix::fs::mknodat(folder, name, kind, mode, device)?,
        }
        self.give(At { dir: folder, path: name }, what, maker, inherited).inspect_err(|_| {
            let flags = if matches!(what, What::Folder) { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            let _ = rustix::fs::unlinkat(folder, name, flags);
        })?;
        Ok(opened)
    }

    /// Gives what this process made to the one for whom it was made.
    fn give(&self, at: At<'_>, what: What<'_>, maker: Maker, inherited: Inherited) -> Result<(), Errno> {
        let uid = self.options.owners.disk_uid(maker.uid);
        let gid = inherited.group.unwrap_or_else(|| self.options.owners.disk_gid(maker.gid));
        let own_uid = rustix::process::geteuid().as_raw();
        let own_gid = inherited.group.unwrap_or_else(|| rustix::process::getegid().as_raw());
        if (uid, gid) == (own_uid, own_gid) {
            return Ok(());
        }
        rustix::fs::chownat(at.dir, at.path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), at.flags())?;
        // A new owner takes the set-id bits of a file.
        if maker.mode & 0o6000 != 0 && !matches!(what, What::Folder | What::Symlink(_)) {
            rustix::fs::chmodat(at.dir, at.path, Mode::from_raw_mode(maker.mode & 0o7777), AtFlags::empty())?;
        }
        Ok(())
    }

    /// Makes it in the work folder and lets it take the whiteout's place at once.
    fn make_over_whiteout(
        &self,
        folder: BorrowedFd<'_>,
        name: &[u8],
        what: What<'_>,
        maker: Maker,
        inherited: Inherited,
    ) -> Result<Option<OwnedFd>, Errno> {
        let stage = Stage::new(self, folder, inherited)?;
        let new = self.work_name();
        let opened = self.make_in(stage.dir.as_fd(), &new, what, maker, inherited)?;
        let result = match what {
            What::Folder => {
                let made = rustix::fs::openat(&stage.dir, new.as_slice(), FOLDER, Mode::empty())?;
                self.options
                    .forms
                    .set_own(made.as_fd(), "opaque", b"y")
                    .and_then(|()| {
                        rustix::fs::renameat_with(&stage.dir, new.as_slice(), folder, name, RenameFlags::EXCHANGE)
                    })
                    // What lies under the new name now is the whiteout.
                    .and_then(|()| rustix::fs::unlinkat(&stage.dir, new.as_slice(), AtFlags::empty()))
            }
            _ => rustix::fs::renameat(&stage.dir, new.as_slice(), folder, name),
        };
        result.inspect_err(|_| {
            let flags = if matches!(what, What::Folder) { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            let _ = rustix::fs::unlinkat(&stage.dir, new.as_slice(), flags);
        })?;
        Ok(opened)
    }

    /// One more name of a file.
    pub(super) fn link(&self, node: &Arc<Node>, parent: &Arc<Node>, name: &[u8]) -> Result<Attributes, Errno> {
        if self.options.forms.is_reserved(name) {
            return Err(Errno::INVAL);
        }
        if node.is_dir() {
            return Err(Errno::PERM);
        }
        self.copy_up(node, u64::MAX)?;
        let folder = self.ensure_upper_dir(parent)?;
        let mut dir = self.content_mut(parent)?;
        if self.must_be_free(&dir, name)? {
            let new = self.work_name();
            let work = &self.upper()?.work;
            self.at(node, |at| link(at, work.as_fd(), &new))?;
            rustix::fs::renameat(work, new.as_slice(), &folder, name)?;
        } else {
            self.at(node, |at| link(at, folder.as_fd(), name))?;
        }
        let kept: Arc<[u8]> = name.into();
        let place = Place { parent: parent.clone(), name: kept.clone() };
        let stat = At { dir: folder.as_fd(), path: name }.stat()?;
        {
            let mut state = node.state();
            if node.place().is_some() {
                state.aliases.push(place);
            } else {
                state.real = Real::Upper;
                node.set_place(Some(place));
            }
        }
        let mut entry = Entry::new(kept, node.kind, node.id);
        entry.disk_ino = stat.st_ino;
        if let Some(index) = &mut dir.index {
            index.put(entry);
        }
        lock(&self.several).insert((stat.st_dev, stat.st_ino), node.id);
        self.mark_impure(node, &stat, folder.as_fd(), &mut dir);
        drop(dir);
        self.table.remember(node);
        let stat = self.stat(node)?;
        Ok(self.seen(node, &stat))
    }

    /// Notes on a folder that a file in it has a number that is not its own. Best effort: without the note the number
    /// changes at the next mount.
    pub(super) fn mark_impure(&self, node: &Node, stat: &rustix::fs::Stat, folder: BorrowedFd<'_>, dir: &mut Dir) {
        let own = node.ino == self.seen_ino(stat.st_dev, stat.st_ino);
        if own || dir.impure || self.options.volatile || node.is_dir() {
            return;
        }
        dir.impure = self.options.forms.set_own(folder, super::look::IMPURE, b"y").is_ok();
    }

    /// A file without a name (`O_TMPFILE`).
    pub(super) fn make_nameless(
        &self,
        parent: &Arc<Node>,
        flags: u32,
        maker: Maker,
    ) -> Result<(Arc<Node>, Attributes), Errno> {
        let folder = self.ensure_upper_dir(parent)?;
        let inherited = {
            let mut dir = self.content_mut(parent)?;
            self.inherited(&folder, &mut dir)?
        };
        let mode = if inherited.default_acl { maker.mode } else { maker.mode & !maker.umask };
        let exclusive = OFlags::from_bits_retain(flags) & OFlags::EXCL;
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC | exclusive;
        let fd = rustix::fs::openat(&folder, ".", flags, Mode::from_raw_mode(mode & 0o7777))?;
        self.give(At { dir: fd.as_fd(), path: b"" }, What::Symlink(b""), maker, inherited)?;
        if mode & 0o6000 != 0 {
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode & 0o7777))?;
        }
        let stat = rustix::fs::fstat(&fd)?;
        let ino = self.seen_ino(stat.st_dev, stat.st_ino);
        let fd = Arc::new(fd);
        let node = Node::new(self.table.new_id(), ino, FileType::RegularFile, None, Real::Nameless(fd.clone()), None);
        self.table.insert(&node);
        self.table.remember(&node);
        self.descriptors.keep(&node, fd, Access::Write);
        let attributes = self.seen(&node, &stat);
        Ok((node, attributes))
    }

    /// A whiteout under a name that nobody has, in the work folder.
    pub(super) fn whiteout_in_work(&self) -> Result<Vec<u8>, Errno> {
        let name = self.work_name();
        make_whiteout(&self.upper()?.work, &name)?;
        Ok(name)
    }
}

/// Where a thing is made that must take another's place: the work folder, or, where the target passes on an access
/// control list, a folder in it that passes on the same.
struct Stage<'a> {
    union: &'a Union,
    dir: OwnedFd,
    own: Option<Vec<u8>>,
}

impl<'a> Stage<'a> {
    fn new(union: &'a Union, folder: BorrowedFd<'_>, inherited: Inherited) -> Result<Self, Errno> {
        let work = &union.upper()?.work;
        if !inherited.default_acl && inherited.group.is_none() {
            return Ok(Self { union, dir: rustix::io::fcntl_dupfd_cloexec(work, 3)?, own: None });
        }
        let name = union.work_name();
        rustix::fs::mkdirat(work, name.as_slice(), Mode::RWXU)?;
        let stage =
            Self { union, dir: rustix::fs::openat(work, name.as_slice(), FOLDER, Mode::empty())?, own: Some(name) };
        if let Some(group) = inherited.group {
            rustix::fs::fchown(&stage.dir, None, Some(Gid::from_raw(group)))?;
            rustix::fs::fchmod(&stage.dir, Mode::from_raw_mode(0o2700))?;
        }
        if inherited.default_acl {
            let mut acl = vec![0; 64 * 1024];
            let length = rustix::fs::lgetxattr(proc_path(folder, None), DEFAULT_ACL, &mut acl[..])
                .or_else(|_| rustix::fs::fgetxattr(folder, DEFAULT_ACL, &mut acl[..]))?;
            rustix::fs::fsetxattr(&stage.dir, DEFAULT_ACL, &acl[..length], XattrFlags::empty())?;
        }
        Ok(stage)
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if let (Some(name), Ok(upper)) = (&self.own, self.union.upper()) {
            let _ = rustix::fs::unlinkat(&upper.work, name.as_slice(), AtFlags::REMOVEDIR);
        }
    }
}
