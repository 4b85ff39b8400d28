//! A tar archive laid down in a folder that others may change meanwhile: at a place that is chosen by what comes first,
//! as `cp` does it, or as it stands.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use layerfs::archive::Limits;
use layerfs::archive::read::{Entry, EntryKind, TarReader};
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::fs::{open_in_root, open_plain, proc_path};
use layerfs::userns::{Mapping, unmapped_id};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

/// How symlinks that lie in the way are met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symlinks {
    /// They lead to what they mean in the container, whose folder the root is.
    Followed,
    /// They are an error below the place that was named: what is unpacked is not the caller's own.
    Refused,
}

/// Where things go.
#[derive(Debug)]
pub struct Target {
    /// The folder that stands for `/`.
    pub root: OwnedFd,
    /// The place below it.
    pub path: PathBuf,
    /// It was written with a slash at its end: it is a folder or nothing.
    pub is_folder: bool,
    /// How symlinks are met.
    pub symlinks: Symlinks,
    /// The maps of the ids that owners are named by, where this process sees others.
    pub ids: Option<Mapping>,
}

/// Whose things become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// This process's own.
    Own,
    /// All this user's and group's.
    One(u32, u32),
    /// Those that the archive names.
    Kept,
}

/// How things are laid down.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Whose they become.
    pub owners: Owners,
    /// A folder may be replaced by a file, and the other way round.
    pub overwrite: bool,
    /// The place is a folder for whatever comes, under the names that it has.
    pub as_it_stands: bool,
}

/// Unpacks an archive.
///
/// # Errors
/// The archive is malformed or names things outside of itself; the place does not fit what comes; something cannot be
/// written. What was unpacked until then stays.
pub fn unpack(archive: impl BufRead, target: &Target, manner: Manner) -> Result<()> {
    let mut reader = TarReader::new(archive, &Limits { bytes: u64::MAX, ..Limits::default() });
    let mut sink: Option<Sink<'_>> = None;
    while let Some(entry) = reader.next_entry()? {
        let sink = match &mut sink {
            Some(sink) => sink,
            empty => empty.insert(Sink::new(target, manner, &entry)?),
        };
        let path = sink.renamed(&entry.path)?;
        sink.entry(&entry, &path, &mut reader).context(|| shown(&path))?;
    }
    reader.drain()?;
    sink.map_or(Ok(()), Sink::finish)
}

struct Sink<'a> {
    /// The folder that entries are laid down in.
    base: OwnedFd,
    /// The first component of the archive's paths, and what it becomes; nothing where names stay.
    rename: Option<(Vec<u8>, Vec<u8>)>,
    target: &'a Target,
    manner: Manner,
    /// The way from the root to `base`, for symlinks that mean the root.
    way: PathBuf,
    /// Folders whose modes and times are set when all is in them, by their path.
    folders: BTreeMap<PathBuf, Entry>,
}

impl<'a> Sink<'a> {
    /// Chooses the folder and the name by what comes first, as cp(1) does.
    fn new(target: &'a Target, manner: Manner, first: &Entry) -> Result<Self> {
        let is_content = components(&first.path)?.is_empty();
        let sink = |base: OwnedFd, way: &Path, rename: Option<(Vec<u8>, Vec<u8>)>| Self {
            base,
            rename,
            target,
            manner,
            way: way.to_owned(),
            folders: BTreeMap::new(),
        };
        let whole = if target.path.as_os_str().is_empty() { Path::new(".") } else { &target.path };
        let open = |path: &Path| open_in_root(target.root.as_fd(), path, OFlags::PATH, Mode::empty());
        let found = match open(whole) {
            Ok(found) => Some(found),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error).at("open", &target.path),
        };
        let is_folder = |file: &OwnedFd| {
            rustix::fs::fstat(file).map(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        };
        if let Some(found) = &found
            && is_folder(found).at("look at", &target.path)?
        {
            let folder = found.try_clone().at("open", &target.path)?;
            return Ok(sink(folder, &target.path, None));
        }
        let missing = || Error::new(Kind::NotFound, format!("`{}`: no such folder", target.path.display()));
        let comes_folder = first.kind == EntryKind::Dir;
        if manner.as_it_stands {
            return Err(missing());
        }
        match (&found, comes_folder) {
            (Some(_), true) if !manner.overwrite => {
                let message = format!("`{}` is a file, and a folder is to be copied to it", target.path.display());
                return Err(Error::new(Kind::Conflict, message).hint("--overwrite replaces it"));
            }
            (None, false) if target.is_folder => return Err(missing()),
            _ => {}
        }
        let (parent, name) = match (target.path.parent(), target.path.file_name()) {
            (Some(parent), Some(name)) => (parent, name.as_bytes().to_vec()),
            _ => return Err(missing()),
        };
        let folder = open(if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
        let folder = folder.at("open", Path::new("/").join(parent))?;
        let from = if is_content { Vec::new() } else { components(&first.path)?[0].to_vec() };
        Ok(sink(folder, parent, Some((from, name))))
    }

    /// A path of the archive as it is below the base.
    fn renamed(&self, path: &[u8]) -> Result<PathBuf> {
        let mut parts = components(path)?;
        let mut out = PathBuf::new();
        if let Some((from, to)) = &self.rename {
            out.push(OsStr::from_bytes(to));
            if parts.first().is_some_and(|first| *first == from.as_slice()) {
                parts.remove(0);
            }
        }
        out.extend(parts.iter().map(|part| OsStr::from_bytes(part)));
        Ok(out)
    }

    fn entry<R: BufRead>(&mut self, entry: &Entry, path: &Path, reader: &mut TarReader<R>) -> Result<()> {
        let Some(name) = path.file_name() else { return Ok(()) };
        let parent = self.parent(path)?;
        let (folder, name) = (parent.as_fd(), name.as_bytes());
        match entry.kind {
            EntryKind::Dir => {
                if self.folder(folder, name)? {
                    self.folders.insert(path.to_owned(), entry.clone());
                }
                return Ok(());
            }
            EntryKind::File => return self.file(entry, folder, name, reader),
            _ => self.make_room(folder, name)?,
        }
        match entry.kind {
            EntryKind::Symlink => {
                rustix::fs::symlinkat(entry.link.as_slice(), folder, name).context(|| "create the symlink")?;
            }
            EntryKind::Hardlink => {
                let target = self.renamed(&entry.link)?;
                let from = self.parent(&target)?;
                let old = target.file_name().unwrap_or_default();
                rustix::fs::linkat(&from, old, folder, name, AtFlags::empty()).context(|| "create the link")?;
                return Ok(());
            }
            kind => {
                let kind = match kind {
                    EntryKind::Char => FileType::CharacterDevice,
                    EntryKind::Block => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let device = rustix::fs::makedev(entry.device.0, entry.device.1);
                let mode = Mode::from_raw_mode(entry.mode & 0o777);
                rustix::fs::mknodat(folder, name, kind, mode, device).context(|| "create the special file")?;
            }
        }
        if let Some((uid, gid)) = self.owner(entry)? {
            rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .context(|| "change the owner")?;
        }
        rustix::fs::utimensat(folder, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW).context(|| "set the time")
    }

    /// The folder that `path` lies in, made where the archive does not speak of it.
    fn parent(&self, path: &Path) -> Result<OwnedFd> {
        let parent = path.parent().unwrap_or(Path::new(""));
        match self.open(parent) {
            Err(Errno::NOENT) => {
                let mut made = PathBuf::new();
                for part in parent {
                    let above = self.open(&made).context(|| "open the folder above")?;
                    made.push(part);
                    match rustix::fs::mkdirat(&above, part, Mode::from_raw_mode(0o755)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        other => other.context(|| "create the folder above")?,
                    }
                }
                self.open(parent).context(|| "open the folder above")
            }
            Err(Errno::LOOP) => {
                Err(Error::new(Kind::Denied, "a symlink lies in the way").hint("copy to where it leads"))
            }
            opened => opened.context(|| "open the folder above"),
        }
    }

    fn open(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let here = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        match self.target.symlinks {
            Symlinks::Refused => open_plain(self.base.as_fd(), here, flags),
            // From the root, so that an absolute symlink means what it means in the container.
            Symlinks::Followed => match open_plain(self.base.as_fd(), here, flags) {
                Err(Errno::LOOP | Errno::XDEV) => open_in_root(
                    self.target.root.as_fd(),
                    &Path::new("./").join(&self.way).join(here),
                    flags,
                    Mode::empty(),
                ),
                opened => opened,
            },
        }
    }

    /// Makes a folder; whether its owner, mode and time are to be set, which those of a followed symlink's are not.
    fn folder(&self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<bool> {
        match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
            Ok(()) => return Ok(true),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error).context(|| "create the folder"),
        }
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).context(|| "look at what is there")?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Ok(true),
            FileType::Symlink if self.target.symlinks == Symlinks::Followed => Ok(false),
            _ if self.manner.overwrite => {
                rustix::fs::unlinkat(parent, name, AtFlags::empty()).context(|| "remove what is there")?;
                rustix::fs::mkdirat(parent, name, Mode::RWXU).context(|| "create the folder")?;
                Ok(true)
            }
            _ => Err(Error::new(Kind::Conflict, "what is there is no folder").hint("--overwrite replaces it")),
        }
    }

    /// Removes what is in the way of something that is no folder.
    fn make_room(&self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) if self.manner.overwrite => {
                let place = proc_path(parent, Some(name));
                let place = Path::new(OsStr::from_bytes(place.to_bytes()));
                std::fs::remove_dir_all(place).context(|| "remove the folder that is there")
            }
            Err(Errno::ISDIR) => {
                Err(Error::new(Kind::Conflict, "what is there is a folder").hint("--overwrite replaces it"))
            }
            Err(error) => Err(error).context(|| "remove what is there"),
        }
    }

    fn file<R: BufRead>(
        &self,
        entry: &Entry,
        parent: BorrowedFd<'_>,
        name: &[u8],
        reader: &mut TarReader<R>,
    ) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (private, new) = (Mode::RUSR | Mode::WUSR, OFlags::CREATE | OFlags::EXCL);
        let made = match self.make_room(parent, name) {
            // Another mount stands there, such as the container's /etc/hosts: it is filled anew.
            Err(error) if error.errno() == Some(Errno::BUSY.raw_os_error()) => {
                rustix::fs::openat(parent, name, flags | OFlags::TRUNC | OFlags::NONBLOCK, private)
            }
            Err(error) => return Err(error),
            Ok(()) => rustix::fs::openat(parent, name, flags | new, private),
        };
        let mut file = File::from(made.context(|| "create the file")?);
        let whole = [(0, entry.size)];
        for (offset, mut left) in entry.sparse.as_deref().unwrap_or(&whole).iter().copied() {
            file.seek(SeekFrom::Start(offset)).context(|| "write")?;
            while left > 0 {
                let chunk = reader.chunk(left)?;
                file.write_all(chunk).context(|| "write")?;
                left -= chunk.len() as u64;
            }
        }
        if entry.sparse.is_some() {
            file.set_len(entry.size).context(|| "write")?;
        }
        self.settle(entry, file.as_fd())
    }

    /// Owner, attributes, mode and time, in the order in which none undoes another.
    fn settle(&self, entry: &Entry, file: BorrowedFd<'_>) -> Result<()> {
        let owner = self.owner(entry)?;
        if let Some((uid, gid)) = owner {
            rustix::fs::fchown(file, Some(uid), Some(gid)).context(|| "change the owner")?;
        }
        // Rights that go with a file go with its owner: given to another, they would be somebody else's.
        let keeps = self.manner.owners == Owners::Kept;
        for (name, value) in entry.xattrs.iter().filter(|(name, _)| keeps || name.starts_with(b"user.")) {
            match rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty()) {
                Err(Errno::NOTSUP | Errno::PERM) => {}
                other => other.context(|| "set an extended attribute")?,
            }
        }
        let mode = if keeps { entry.mode } else { entry.mode & 0o1777 };
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode)).context(|| "change the mode")?;
        rustix::fs::futimens(file, &times(entry)).context(|| "set the time")
    }

    fn owner(&self, entry: &Entry) -> Result<Option<(Uid, Gid)>> {
        let (uid, gid) = match self.manner.owners {
            Owners::Own => return Ok(None),
            Owners::One(uid, gid) => (uid, gid),
            Owners::Kept => {
                let narrow = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
                let invalid = || Error::new(Kind::Invalid, "its owner is no id");
                narrow(entry.uid).zip(narrow(entry.gid)).ok_or_else(invalid)?
            }
        };
        let (uid, gid) = match &self.target.ids {
            Some(ids) => {
                let outside = ids.uid_outside(uid).zip(ids.gid_outside(gid));
                outside.ok_or_else(|| unmapped_id("owner", uid.into()))?
            }
            None => (uid, gid),
        };
        Ok(Some((Uid::from_raw(uid), Gid::from_raw(gid))))
    }

    /// The innermost folders first: what is done in one changes the time of that around it.
    fn finish(self) -> Result<()> {
        for (path, entry) in self.folders.iter().rev() {
            let set = || {
                let parent = self.parent(path)?;
                let name = path.file_name().unwrap_or_default();
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let folder = rustix::fs::openat(&parent, name, flags, Mode::empty()).context(|| "open it")?;
                self.settle(entry, folder.as_fd())
            };
            set().context(|| shown(path))?;
        }
        Ok(())
    }
}

/// The names on the way to an entry.
fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    match parts.contains(&&b".."[..]) {
        true => Err(Error::new(Kind::Invalid, format!("`{}` in the archive leads outside", path.escape_ascii()))),
        false => Ok(parts),
    }
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime.seconds, tv_nsec: entry.mtime.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn shown(path: &Path) -> String {
    format!("unpack `{}`", path.display())
}
