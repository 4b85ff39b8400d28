//! Making what is not a folder: files, symlinks, hard links, devices and pipes.

use std::fs::File;

use super::parents::is_whiteout;
use super::*;
use crate::sys::fs::{PassingFile, set_xattr_at};

/// Files from this size on, in bytes, pass by the page cache on their way to the disk. They are few and hold most of an
/// image, of which a start reads some per cent (Harter et al., "Slacker", FAST 2016: 6.4 %). Kept, they would push out
/// what is in use, and finding memory for all of them can take longer than decompressing them. Smaller ones stay: what
/// a start does need of those, it would fetch from the disk one by one.
const PASSING: u64 = 64 << 10;

impl Extractor<'_> {
    pub(super) fn file<R: BufRead>(
        &mut self,
        entry: &Entry,
        folder: &Folder,
        name: &[u8],
        path: &[u8],
        archive: &mut TarReader<R>,
    ) -> Result<()> {
        let file = File::from(self.create_file(folder, name, path, entry.mode)?);
        self.write_content(entry, &file, archive)?;
        let recorded = (!self.owned_by_default(entry)).then(|| override_stat(entry, "file"));
        let chowned = self.own_file(entry, &file)?;
        for (key, value) in self.stored_xattrs(entry, recorded) {
            self.tolerate(rustix::fs::fsetxattr(&file, key.as_slice(), &value, XattrFlags::empty()))?;
        }
        let created = entry.mode & 0o777 & !self.umask;
        if created != entry.mode || (chowned && entry.mode & 0o6000 != 0) {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode)).context(|| "change the mode")?;
        }
        rustix::fs::futimens(&file, &stamps(entry.mtime)).context(|| "set the time")
    }

    fn create_file(&mut self, folder: &Folder, name: &[u8], path: &[u8], mode: u32) -> Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || rustix::fs::openat(&folder.fd, name, flags, Mode::from_raw_mode(mode & 0o777));
        match create() {
            Err(Errno::EXIST) => {
                self.replace(folder, name, path)?;
                create().context(|| "create the file")
            }
            result => result.context(|| "create the file"),
        }
    }

    fn write_content<R: BufRead>(&mut self, entry: &Entry, file: &File, archive: &mut TarReader<R>) -> Result<()> {
        let mut content = PassingFile::new(file);
        if entry.size >= PASSING {
            content.not_read_soon();
        }
        let whole = [(0, entry.size)];
        let runs = entry.sparse.as_deref().unwrap_or(&whole);
        for (offset, length) in runs {
            let (mut at, mut left) = (*offset, *length);
            while left > 0 {
                let piece = archive.chunk(left)?;
                if piece.is_empty() {
                    return Err(Error::new(Kind::Invalid, "the sparse map covers more than the content"));
                }
                let size = piece.len() as u64;
                content.write_all_at(piece, at).context(|| "write the file")?;
                self.applied.bytes += size;
                at += size;
                left -= size;
            }
        }
        content.finish(entry.size).context(|| "set the size")
    }

    /// Sets the owner where it is not the creator's; says whether it did.
    fn own_file(&mut self, entry: &Entry, file: &File) -> Result<bool> {
        if self.is_makers_own(entry) {
            return Ok(false);
        }
        let (uid, gid) = self.owner(entry)?;
        match rustix::fs::fchown(file, Some(uid), Some(gid)) {
            Err(Errno::INVAL) => Err(unmapped(entry)),
            result => result.context(|| "change the owner").map(|()| true),
        }
    }

    pub(super) fn symlink(&mut self, entry: &Entry, folder: &Folder, name: &[u8], path: &[u8]) -> Result<()> {
        let create = || rustix::fs::symlinkat(entry.link.as_slice(), &folder.fd, name);
        match create() {
            Err(Errno::EXIST) => {
                self.replace(folder, name, path)?;
                create().context(|| "create the symlink")?;
            }
            result => result.context(|| "create the symlink")?,
        }
        self.finish_unopened(entry, folder, name)
    }

    /// Owner, attributes and time of what cannot be opened for it.
    fn finish_unopened(&mut self, entry: &Entry, folder: &Folder, name: &[u8]) -> Result<()> {
        if !self.is_makers_own(entry) {
            let (uid, gid) = self.owner(entry)?;
            match rustix::fs::chownat(&folder.fd, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::INVAL) => return Err(unmapped(entry)),
                result => result.context(|| "change the owner")?,
            }
        }
        for (key, value) in self.stored_xattrs(entry, None) {
            self.tolerate(set_xattr_at(folder.fd.as_fd(), name, &key, &value))?;
        }
        rustix::fs::utimensat(&folder.fd, name, &stamps(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .context(|| "set the time")
    }

    pub(super) fn hardlink(&mut self, entry: &Entry, folder: &Folder, name: &[u8], path: &[u8]) -> Result<()> {
        let target = clean(&entry.link)?;
        let shown = || format!("link to `{}`", target.escape_ascii());
        let Some((target_parent, target_name)) = split(&target) else {
            return Err(Error::new(Kind::Invalid, "a hard link cannot point to the root"));
        };
        let elsewhere = self.target_folder(target_parent).context(shown)?;
        let link = |from: &OwnedFd| rustix::fs::linkat(from, target_name, &folder.fd, name, AtFlags::empty());
        if !self.whiteouts.is_empty() && elsewhere.as_ref().is_some_and(|from| is_whiteout(from, target_name)) {
            let target = target.escape_ascii();
            return Err(Error::new(Kind::Invalid, format!("a hard link to `{target}`, which this layer removes")));
        }
        match elsewhere.as_ref().map_or(Err(Errno::NOENT), link) {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => self.leave_link(folder, name, path, target),
            Err(Errno::EXIST) => {
                let from = elsewhere.as_ref().expect("a name was found in it");
                if same_file(from, target_name, &folder.fd, name) {
                    return Ok(());
                }
                self.replace(folder, name, path)?;
                link(from).context(shown)
            }
            Err(Errno::PERM) if elsewhere.is_some_and(|from| is_folder(&from, target_name)) => {
                let target = target.escape_ascii();
                Err(Error::new(Kind::Invalid, format!("a hard link to `{target}`, which is a folder")))
            }
            Err(errno) => Err(errno).context(shown),
        }
    }

    /// A lower layer has the target, or nobody; only the whole stack can tell.
    fn leave_link(&mut self, folder: &Folder, name: &[u8], path: &[u8], target: Vec<u8>) -> Result<()> {
        match rustix::fs::statat(&folder.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => self.replace(folder, name, path)?,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).context(|| "look at it"),
        }
        // A link to such a link is one to the same file.
        let target = self.links.get(&target).cloned().unwrap_or(target);
        self.remember(path)?;
        self.remember(&target)?;
        self.links.insert(path.to_vec(), target);
        Ok(())
    }

    pub(super) fn node(&mut self, entry: &Entry, folder: &Folder, name: &[u8], path: &[u8]) -> Result<()> {
        let (kind, word) = match entry.kind {
            EntryKind::Char => (FileType::CharacterDevice, "char"),
            EntryKind::Block => (FileType::BlockDevice, "block"),
            _ => (FileType::Fifo, "fifo"),
        };
        let (major, minor) = entry.device;
        let device = if kind == FileType::Fifo { 0 } else { rustix::fs::makedev(major, minor) };
        let make = || rustix::fs::mknodat(&folder.fd, name, kind, Mode::from_raw_mode(entry.mode & 0o777), device);
        // A device 0:0 would be a whiteout to overlayfs.
        let forged = kind == FileType::CharacterDevice && device == 0;
        let made = if forged { Err(Errno::PERM) } else { make() };
        let made = match made {
            Err(Errno::EXIST) => {
                self.replace(folder, name, path)?;
                make()
            }
            other => other,
        };
        match made {
            // A user namespace makes no devices: a file with a note of what it stands for keeps its place.
            Err(Errno::PERM) => {
                let file = File::from(self.create_file(folder, name, path, entry.mode)?);
                self.own_file(entry, &file)?;
                let note = override_stat(entry, &format!("{word}-{major}-{minor}"));
                for (key, value) in self.stored_xattrs(entry, Some(note)) {
                    self.tolerate(rustix::fs::fsetxattr(&file, key.as_slice(), &value, XattrFlags::empty()))?;
                }
                rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode & 0o777)).context(|| "change the mode")?;
                rustix::fs::futimens(&file, &stamps(entry.mtime)).context(|| "set the time")
            }
            result => {
                result.context(|| "create the special file")?;
                self.finish_unopened(entry, folder, name)?;
                let chowned = !self.is_makers_own(entry);
                if entry.mode & 0o777 & !self.umask != entry.mode || (chowned && entry.mode & 0o6000 != 0) {
                    change_mode(folder, name, kind, entry.mode)?;
                }
                Ok(())
            }
        }
    }
}

/// Changes the mode of what was just made, and of nothing that was put in its place meanwhile.
fn change_mode(folder: &Folder, name: &[u8], kind: FileType, mode: u32) -> Result<()> {
    let open = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = rustix::fs::openat(&folder.fd, name, open, Mode::empty()).context(|| "open it")?;
    let stat = rustix::fs::fstat(&node).context(|| "look at it")?;
    if FileType::from_raw_mode(stat.st_mode) != kind {
        return Err(Error::new(Kind::Conflict, "somebody replaced it while it was made"));
    }
    rustix::fs::chmod(proc_path(node.as_fd(), None), Mode::from_raw_mode(mode)).context(|| "change the mode")
}

fn is_folder(folder: &OwnedFd, name: &[u8]) -> bool {
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

fn same_file(a: &OwnedFd, a_name: &[u8], b: &OwnedFd, b_name: &[u8]) -> bool {
    let stat = |fd: &OwnedFd, name: &[u8]| rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW);
    matches!((stat(a, a_name), stat(b, b_name)), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}
