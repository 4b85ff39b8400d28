//! Laying one layer down in a folder.
//!
//! A layer is applied alone, into an empty folder, whatever lies below it in an image. What it leaves to the layers
//! below is told in [`Applied`]: folders it uses without describing them, and hard links to files it does not hold.
//!
//! Order of restoring, per file: create, data, owner, extended attributes, mode (a change of owner clears setuid and
//! capabilities), time; for folders all but the creation comes at the end, because files still come into them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::read::{Entry, EntryKind, TarReader, Time};
use super::whiteout::{self, Meaning, OPAQUE_XATTR, OVERRIDE_XATTR};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::fs::{open_in_root, open_plain, proc_path, set_xattr_at, umask};
use crate::userns::unmapped_id;

/// What an archive may cost. Exceeding one is an error of `Kind::Limit` that names it.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most entries.
    pub entries: u64,
    /// Most bytes of files, holes not counted.
    pub bytes: u64,
    /// Longest path or link target in bytes; the kernel takes 4096.
    pub path: u32,
    /// Largest extended header of one entry in bytes.
    pub metadata: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 10_000_000, bytes: 1 << 40, path: 4096, metadata: 1 << 20 }
    }
}

impl Limits {
    /// Limits for a blob of `compressed` bytes: it may grow 500-fold, and any blob to 4 GiB.
    #[must_use]
    pub fn for_blob(self, compressed: u64) -> Self {
        Self { bytes: self.bytes.min(compressed.saturating_mul(500).max(4 << 30)), ..self }
    }
}

/// How to apply.
#[derive(Clone, Debug, Default)]
pub struct ApplyOptions {
    /// What it may cost.
    pub limits: Limits,
    /// Only one id exists: owners are recorded in an extended attribute instead of set.
    pub single_id: bool,
}

/// What was applied, and what it leaves to the layers below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Entries in the archive.
    pub entries: u64,
    /// Bytes of files written.
    pub bytes: u64,
    /// Folders that entries lie in but that the layer does not describe, made with mode 0755 for root.
    pub implied: BTreeSet<Vec<u8>>,
    /// Hard links (path, target) whose target the layer does not hold; they were not made.
    pub links: Vec<(Vec<u8>, Vec<u8>)>,
    /// Extended attributes that the file system or the user namespace refused.
    pub lost_xattrs: u64,
}

/// Applies the uncompressed archive `reader` to the empty folder `root`, reading to the last byte.
///
/// # Errors
/// The archive is malformed, tries to leave `root`, exceeds a limit, or cannot be written; `root` then holds a part
/// of it and must be thrown away.
pub fn apply(reader: impl Read, root: BorrowedFd<'_>, options: &ApplyOptions) -> Result<Applied> {
    let mut archive = TarReader::new(reader, options.limits.metadata, options.limits.path);
    let mut extractor = Extractor {
        root,
        options,
        umask: umask(),
        parent: None,
        folders: HashMap::new(),
        opaque: HashSet::new(),
        whiteouts: HashSet::new(),
        applied: Applied::default(),
    };
    while let Some(entry) = archive.next_entry()? {
        extractor.entry(&entry, &mut archive).context(|| format!("`{}`", entry.path.escape_ascii()))?;
    }
    archive.drain()?;
    extractor.finish()
}

struct Extractor<'a> {
    root: BorrowedFd<'a>,
    options: &'a ApplyOptions,
    umask: u32,
    /// The folder of the entry before, by the path the archive gave it.
    parent: Option<(Vec<u8>, Folder)>,
    /// What is still to be done to folders, by true path.
    folders: HashMap<Vec<u8>, FolderWork>,
    opaque: HashSet<Vec<u8>>,
    whiteouts: HashSet<Vec<u8>>,
    applied: Applied,
}

/// An open folder and its true path below the root.
struct Folder {
    fd: OwnedFd,
    path: Vec<u8>,
}

struct FolderWork {
    mode: u32,
    mtime: Time,
    /// As they are stored.
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Extractor<'_> {
    fn entry<R: Read>(&mut self, entry: &Entry, archive: &mut TarReader<R>) -> Result<()> {
        self.applied.entries += 1;
        if self.applied.entries > self.options.limits.entries {
            let limit = self.options.limits.entries;
            return Err(Error::new(Kind::Limit, format!("the layer has more than {limit} entries")));
        }
        let path = clean(&entry.path)?;
        let Some((parent, name)) = split(&path) else {
            return match entry.kind {
                EntryKind::Dir => self.describe_root(entry),
                // Nothing but a folder can stand for the root; CVE-2021-29136 made it a symlink.
                _ => Err(Error::new(Kind::Invalid, "only a folder can be the root")),
            };
        };
        let folder = self.enter(parent)?;
        let result = match whiteout::meaning(name) {
            Ok(Meaning::Plain) => self.plain(entry, &folder, name, archive),
            Ok(Meaning::Opaque) => {
                self.opaque.insert(folder.path.clone());
                Ok(())
            }
            Ok(Meaning::Whiteout(hidden)) => self.whiteout(&folder, hidden),
            Ok(Meaning::Ignored) => Ok(()),
            Err(error) => Err(error),
        };
        self.parent = Some((parent.to_vec(), folder));
        result
    }

    fn describe_root(&mut self, entry: &Entry) -> Result<()> {
        self.own_folder(self.root, entry)?;
        self.folders.insert(Vec::new(), self.work(entry));
        Ok(())
    }

    fn plain<R: Read>(
        &mut self,
        entry: &Entry,
        folder: &Folder,
        name: &[u8],
        archive: &mut TarReader<R>,
    ) -> Result<()> {
        let path = join(&folder.path, name);
        match entry.kind {
            EntryKind::Dir => self.dir(entry, folder, name, path),
            EntryKind::File => self.file(entry, folder, name, &path, archive),
            EntryKind::Symlink => self.symlink(entry, folder, name, &path),
            EntryKind::Hardlink => self.hardlink(entry, folder, name, &path),
            EntryKind::Char | EntryKind::Block | EntryKind::Fifo => self.node(entry, folder, name, &path),
        }
    }

    fn dir(&mut self, entry: &Entry, folder: &Folder, name: &[u8], path: Vec<u8>) -> Result<()> {
        // Children come before the mode is final, and a setgid folder would give them its group.
        let mode = Mode::from_raw_mode(0o755);
        match rustix::fs::mkdirat(&folder.fd, name, mode) {
            Err(Errno::EXIST) => {
                let was_whiteout = self.whiteouts.contains(&path);
                if was_whiteout || !self.is_dir(folder, name)? {
                    self.replace(folder, name, &path)?;
                    rustix::fs::mkdirat(&folder.fd, name, mode).context(|| "create the folder")?;
                    if was_whiteout {
                        self.opaque.insert(path.clone());
                    }
                }
            }
            result => result.context(|| "create the folder")?,
        }
        let open = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&folder.fd, name, open, Mode::empty()).context(|| "open the folder")?;
        self.own_folder(fd.as_fd(), entry)?;
        self.applied.implied.remove(&path);
        self.folders.insert(path, self.work(entry));
        Ok(())
    }

    fn own_folder(&mut self, fd: BorrowedFd<'_>, entry: &Entry) -> Result<()> {
        if self.options.single_id {
            return Ok(());
        }
        let (uid, gid) = ids(entry)?;
        match rustix::fs::chownat(fd, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH) {
            Err(Errno::INVAL) => Err(unmapped(entry)),
            result => result.context(|| "change the owner"),
        }
    }

    fn file<R: Read>(
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

    fn write_content<R: Read>(&mut self, entry: &Entry, file: &File, archive: &mut TarReader<R>) -> Result<()> {
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
                self.applied.bytes += size;
                if self.applied.bytes > self.options.limits.bytes {
                    let limit = self.options.limits.bytes;
                    return Err(Error::new(Kind::Limit, format!("the layer's files have more than {limit} bytes")));
                }
                file.write_all_at(piece, at).context(|| "write the file")?;
                at += size;
                left -= size;
            }
        }
        if entry.sparse.is_some() {
            file.set_len(entry.size).context(|| "set the size")?;
        }
        Ok(())
    }

    /// Sets the owner where it is not the creator's; says whether it did.
    fn own_file(&mut self, entry: &Entry, file: &File) -> Result<bool> {
        if self.options.single_id || (entry.uid, entry.gid) == (0, 0) {
            return Ok(false);
        }
        let (uid, gid) = ids(entry)?;
        match rustix::fs::fchown(file, Some(uid), Some(gid)) {
            Err(Errno::INVAL) => Err(unmapped(entry)),
            result => result.context(|| "change the owner").map(|()| true),
        }
    }

    fn symlink(&mut self, entry: &Entry, folder: &Folder, name: &[u8], path: &[u8]) -> Result<()> {
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
        if !self.options.single_id && (entry.uid, entry.gid) != (0, 0) {
            let (uid, gid) = ids(entry)?;
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

    fn hardlink(&mut self, entry: &Entry, folder: &Folder, name: &[u8], path: &[u8]) -> Result<()> {
        let target = clean(&entry.link)?;
        let shown = || format!("link to `{}`", target.escape_ascii());
        let Some((target_parent, target_name)) = split(&target) else {
            return Err(Error::new(Kind::Invalid, "a hard link cannot point to the root"));
        };
        let open = OFlags::PATH | OFlags::DIRECTORY;
        let parent_path = Path::new(std::ffi::OsStr::from_bytes(target_parent));
        let parent_path = if target_parent.is_empty() { Path::new(".") } else { parent_path };
        let elsewhere = match open_in_root(self.root, parent_path, open, Mode::empty()) {
            Err(Errno::NOENT) => None,
            result => Some(result.context(shown)?),
        };
        let link = |from: &OwnedFd| rustix::fs::linkat(from, target_name, &folder.fd, name, AtFlags::empty());
        match elsewhere.as_ref().map_or(Err(Errno::NOENT), link) {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => {
                // A lower layer has it, or nobody; only the whole stack can tell.
                self.applied.links.push((path.to_vec(), target));
                Ok(())
            }
            Err(Errno::EXIST) => {
                let from = elsewhere.as_ref().expect("a name was found in it");
                if same_file(from, target_name, &folder.fd, name) {
                    return Ok(());
                }
                self.replace(folder, name, path)?;
                link(from).context(shown)
            }
            Err(errno) => Err(errno).context(shown),
        }
    }

    fn node(&mut self, entry: &Entry, folder: &Folder, name: &[u8], path: &[u8]) -> Result<()> {
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
                self.tolerate(rustix::fs::fsetxattr(&file, OVERRIDE_XATTR, &note, XattrFlags::empty()))?;
                rustix::fs::futimens(&file, &stamps(entry.mtime)).context(|| "set the time")
            }
            result => {
                result.context(|| "create the special file")?;
                self.finish_unopened(entry, folder, name)?;
                if entry.mode & 0o777 & !self.umask != entry.mode {
                    rustix::fs::chmodat(&folder.fd, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
                        .context(|| "change the mode")?;
                    rustix::fs::utimensat(&folder.fd, name, &stamps(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
                        .context(|| "set the time")?;
                }
                Ok(())
            }
        }
    }

    /// A whiteout concerns the layers below only; what this layer itself has under the name stays.
    fn whiteout(&mut self, folder: &Folder, hidden: &[u8]) -> Result<()> {
        let path = join(&folder.path, hidden);
        match rustix::fs::mknodat(&folder.fd, hidden, FileType::CharacterDevice, Mode::from_raw_mode(0), 0) {
            Ok(()) => drop(self.whiteouts.insert(path)),
            Err(Errno::EXIST) if self.whiteouts.contains(&path) => {}
            Err(Errno::EXIST) => {
                if self.is_dir(folder, hidden)? {
                    self.opaque.insert(path);
                }
            }
            Err(errno) => return Err(errno).context(|| "make the whiteout"),
        }
        Ok(())
    }

    fn is_dir(&self, folder: &Folder, name: &[u8]) -> Result<bool> {
        let stat = rustix::fs::statat(&folder.fd, name, AtFlags::SYMLINK_NOFOLLOW).context(|| "look at it")?;
        Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }

    /// Removes what this layer put under a name before: a later entry wins.
    fn replace(&mut self, folder: &Folder, name: &[u8], path: &[u8]) -> Result<()> {
        if self.is_dir(folder, name)? {
            let whole = proc_path(folder.fd.as_fd(), Some(name));
            std::fs::remove_dir_all(Path::new(std::ffi::OsStr::from_bytes(whole.as_bytes())))
                .context(|| "replace the folder")?;
            let prefix = [path, b"/"].concat();
            let inside = |other: &Vec<u8>| other == path || other.starts_with(&prefix);
            self.folders.retain(|other, _| !inside(other));
            self.opaque.retain(|other| !inside(other));
            self.whiteouts.retain(|other| !inside(other));
            self.applied.implied.retain(|other| !inside(other));
            self.applied.links.retain(|(other, _)| !inside(other));
            self.parent = None;
        } else {
            rustix::fs::unlinkat(&folder.fd, name, AtFlags::empty()).context(|| "replace the file")?;
            self.whiteouts.remove(path);
        }
        Ok(())
    }

    /// The folder that an entry lies in, made where the layer has not described it.
    fn enter(&mut self, parent: &[u8]) -> Result<Folder> {
        if let Some((path, folder)) = self.parent.take()
            && path == parent
        {
            return Ok(folder);
        }
        if !parent.is_empty() {
            let open = OFlags::PATH | OFlags::DIRECTORY;
            if let Ok(fd) = open_plain(self.root, Path::new(std::ffi::OsStr::from_bytes(parent)), open) {
                return Ok(Folder { fd, path: parent.to_vec() });
            }
        }
        self.walk(parent)
    }

    /// One component at a time: follows symlinks inside the root and makes what is missing.
    fn walk(&mut self, parent: &[u8]) -> Result<Folder> {
        let mut pending: Vec<Vec<u8>> = components(parent).rev().collect();
        let mut here = self.reopen(&[])?;
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if name == b".." {
                let up = split(&here.path).map_or(&b""[..], |(up, _)| up).to_vec();
                here = self.reopen(&up)?;
                continue;
            }
            let path = join(&here.path, &name);
            let open = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = match rustix::fs::openat(&here.fd, name.as_slice(), open, Mode::empty()) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => self.imply(&here, &name, &path)?,
                Err(Errno::NOTDIR | Errno::LOOP) if self.whiteouts.contains(&path) => {
                    self.replace(&here, &name, &path)?;
                    self.opaque.insert(path.clone());
                    self.imply(&here, &name, &path)?
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    links += 1;
                    let target = rustix::fs::readlinkat(&here.fd, name.as_slice(), Vec::new());
                    let Ok(target) = target else {
                        let shown = path.escape_ascii();
                        return Err(Error::new(Kind::Invalid, format!("`{shown}` is a file and cannot hold others")));
                    };
                    if links > crate::sys::fs::SYMLINKS_MAX {
                        return Err(Error::new(Kind::Invalid, "too many symlinks in the path"));
                    }
                    if target.as_bytes().first() == Some(&b'/') {
                        here = self.reopen(&[])?;
                    }
                    pending.extend(components(target.as_bytes()).rev());
                    continue;
                }
                Err(errno) => return Err(errno).context(|| "open the parent folder"),
            };
            here = Folder { fd, path };
        }
        Ok(here)
    }

    fn imply(&mut self, here: &Folder, name: &[u8], path: &[u8]) -> Result<OwnedFd> {
        rustix::fs::mkdirat(&here.fd, name, Mode::from_raw_mode(0o755)).context(|| "create the parent folder")?;
        self.applied.implied.insert(path.to_vec());
        let entry = FolderWork { mode: 0o755, mtime: Time::default(), xattrs: Vec::new() };
        self.folders.insert(path.to_vec(), entry);
        let open = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&here.fd, name, open, Mode::empty()).context(|| "open the parent folder")
    }

    /// Opens a folder of this layer by its true path.
    fn reopen(&self, path: &[u8]) -> Result<Folder> {
        let open = OFlags::PATH | OFlags::DIRECTORY;
        let fd = match path {
            b"" => rustix::fs::openat(self.root, ".", open | OFlags::CLOEXEC, Mode::empty()),
            _ => open_in_root(
                self.root,
                Path::new(std::ffi::OsStr::from_bytes(path)),
                open | OFlags::NOFOLLOW,
                Mode::empty(),
            ),
        };
        Ok(Folder { fd: fd.context(|| "open the parent folder")?, path: path.to_vec() })
    }

    /// The attributes to store for an entry, those that would speak to overlayfs escaped.
    fn stored_xattrs(&self, entry: &Entry, recorded: Option<Vec<u8>>) -> Vec<(Vec<u8>, Vec<u8>)> {
        let own = recorded.map(|note| (OVERRIDE_XATTR.as_bytes().to_vec(), note));
        let given = entry.xattrs.iter().filter(|(key, _)| key.as_slice() != OVERRIDE_XATTR.as_bytes());
        given.map(|(key, value)| (whiteout::escape_xattr(key), value.clone())).chain(own).collect()
    }

    fn work(&self, entry: &Entry) -> FolderWork {
        let recorded = (!self.owned_by_default(entry)).then(|| override_stat(entry, "dir"));
        FolderWork { mode: entry.mode, mtime: entry.mtime, xattrs: self.stored_xattrs(entry, recorded) }
    }

    fn owned_by_default(&self, entry: &Entry) -> bool {
        !self.options.single_id || (entry.uid, entry.gid) == (0, 0)
    }

    /// File systems and user namespaces have no place for some attributes; that is counted, not fatal, as elsewhere
    /// in the field. The blob still has them.
    fn tolerate(&mut self, result: std::result::Result<(), Errno>) -> Result<()> {
        match result {
            Err(Errno::PERM | Errno::NOTSUP | Errno::ACCESS) => {
                self.applied.lost_xattrs += 1;
                Ok(())
            }
            result => result.context(|| "set an extended attribute"),
        }
    }

    fn finish(mut self) -> Result<Applied> {
        for path in std::mem::take(&mut self.opaque) {
            let folder = self.reopen(&path)?;
            // A whiteout in an opaque folder would be listed without being there.
            for hidden in &self.whiteouts {
                if split(hidden).is_some_and(|(parent, _)| parent == path) {
                    let (_, name) = split(hidden).expect("it was just split");
                    let _ = rustix::fs::unlinkat(&folder.fd, name, AtFlags::empty());
                }
            }
            let itself = proc_path(folder.fd.as_fd(), None);
            rustix::fs::setxattr(itself, OPAQUE_XATTR, b"y", XattrFlags::empty()).context(|| "make a folder opaque")?;
        }
        let mut folders: Vec<(Vec<u8>, FolderWork)> = std::mem::take(&mut self.folders).into_iter().collect();
        // Deepest first: a folder without search permission must not hide those inside it.
        folders.sort_by(|(a, _), (b, _)| b.cmp(a));
        for (path, work) in folders {
            let shown = || format!("`{}`", path.escape_ascii());
            let folder = self.reopen(&path).context(shown)?;
            self.finish_folder(&folder, &work).context(shown)?;
        }
        Ok(self.applied)
    }

    fn finish_folder(&mut self, folder: &Folder, work: &FolderWork) -> Result<()> {
        let itself = proc_path(folder.fd.as_fd(), None);
        for (key, value) in &work.xattrs {
            self.tolerate(rustix::fs::setxattr(itself.as_c_str(), key.as_slice(), value, XattrFlags::empty()))?;
        }
        if work.mode != 0o755 || self.umask & 0o755 != 0 || folder.path.is_empty() {
            rustix::fs::chmod(itself.as_c_str(), Mode::from_raw_mode(work.mode)).context(|| "change the mode")?;
        }
        rustix::fs::utimensat(&folder.fd, ".", &stamps(work.mtime), AtFlags::empty()).context(|| "set the time")
    }
}

fn ids(entry: &Entry) -> Result<(Uid, Gid)> {
    let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or_else(|| unmapped(entry));
    Ok((Uid::from_raw(id(entry.uid)?), Gid::from_raw(id(entry.gid)?)))
}

fn unmapped(entry: &Entry) -> Error {
    unmapped_id("owner", if entry.uid == 0 { entry.gid } else { entry.uid })
}

/// The record of an owner, mode or device that the file system cannot hold here.
fn override_stat(entry: &Entry, kind: &str) -> Vec<u8> {
    format!("{}:{}:{:o}:{kind}", entry.uid, entry.gid, entry.mode).into_bytes()
}

fn stamps(time: Time) -> Timestamps {
    let spec = Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() };
    Timestamps { last_access: spec, last_modification: spec }
}

fn same_file(a: &OwnedFd, a_name: &[u8], b: &OwnedFd, b_name: &[u8]) -> bool {
    let stat = |fd: &OwnedFd, name: &[u8]| rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW);
    matches!((stat(a, a_name), stat(b, b_name)), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// The path below the root that an archive's path means: no leading slash, no empty or `.` components, `..` taken
/// out. One that climbs above the root is an error.
fn clean(path: &[u8]) -> Result<Vec<u8>> {
    if path.contains(&0) {
        return Err(Error::new(Kind::Invalid, "the path holds a NUL byte"));
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.pop().is_none() => return Err(Error::new(Kind::Invalid, "the path leads out of the layer")),
            b".." => {}
            part => parts.push(part),
        }
    }
    Ok(parts.join(&b'/'))
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> {
    path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".").map(<[u8]>::to_vec)
}

/// Parent and last component of a clean path; `None` for the root.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => Some((&path[..slash], &path[slash + 1..])),
        None if path.is_empty() => None,
        None => Some((b"", path)),
    }
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}
