//! From an entry's path to the open folder it lies in, never leaving the root.
//!
//! A folder that was opened stays open for the entries after it, and what is opened anew is resolved by the kernel
//! with symlinks forbidden. Only a path through symlinks, or to folders that do not exist yet, is walked here, one
//! component at a time, each opened without following. So a symlink put in the way meanwhile is an error at worst.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{Extractor, FolderWork, exceeded};
use crate::archive::read::Time;
use crate::error::{Context, Error, Kind, Result};
use crate::sys::fs::{SYMLINKS_MAX, open_in_root, open_plain};

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

/// An open folder and its true path below the root.
pub(super) struct Folder {
    pub(super) fd: OwnedFd,
    pub(super) path: Vec<u8>,
}

impl Extractor<'_> {
    /// The folder that an entry lies in, made where the layer has not described it.
    pub(super) fn enter(&mut self, parent: &[u8]) -> Result<Folder> {
        if let Some((path, folder)) = self.parent.take()
            && path == parent
        {
            return Ok(folder);
        }
        if !parent.is_empty()
            && let Ok(fd) = open_plain(self.root, as_path(parent), FOLDER)
        {
            return Ok(Folder { fd, path: parent.to_vec() });
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
            let open = FOLDER | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = match rustix::fs::openat(&here.fd, name.as_slice(), open, Mode::empty()) {
                Ok(fd) => fd,
                Err(Errno::NOENT) if self.links.contains_key(&path) => return Err(holds_nothing(&path)),
                Err(Errno::NOENT) => self.imply(&here, &name, &path)?,
                Err(Errno::NOTDIR | Errno::LOOP) if self.whiteouts.contains(&path) => {
                    self.replace(&here, &name, &path)?;
                    let fd = self.imply(&here, &name, &path)?;
                    // A new folder: it hides the one below and owes nothing to it.
                    self.applied.implied.remove(&path);
                    self.make_opaque(path.clone())?;
                    fd
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    links += 1;
                    let target = rustix::fs::readlinkat(&here.fd, name.as_slice(), Vec::new());
                    let target = target.map_err(|_| holds_nothing(&path))?;
                    if links > SYMLINKS_MAX {
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
        let reserved = whiteout_like(name);
        if reserved {
            let shown = path.escape_ascii();
            return Err(Error::new(Kind::Invalid, format!("a symlink leads to `{shown}`, the name of a whiteout")));
        }
        // Symlinks can lead deeper than any path in the archive is long.
        self.check_depth(path)?;
        self.remember(path)?;
        rustix::fs::mkdirat(&here.fd, name, Mode::from_raw_mode(0o755)).context(|| "create the parent folder")?;
        if let Some((uid, gid)) = self.foreign_root()? {
            rustix::fs::chownat(&here.fd, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .context(|| "change the owner of the parent folder")?;
        }
        self.applied.implied.insert(path.to_vec());
        let work = FolderWork { mode: 0o755, mtime: Time::default(), acls: Vec::new() };
        self.folders.insert(path.to_vec(), work);
        let open = FOLDER | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&here.fd, name, open, Mode::empty()).context(|| "open the parent folder")
    }

    /// Refuses a folder that lies too deep.
    pub(super) fn check_depth(&self, path: &[u8]) -> Result<()> {
        let limits = &self.options.limits;
        if path.iter().filter(|byte| **byte == b'/').count() >= limits.depth as usize {
            return Err(exceeded("a path has more folders", "depth", limits.depth));
        }
        if path.len() > limits.path as usize {
            return Err(exceeded("a path has more bytes", "path", limits.path));
        }
        Ok(())
    }

    /// Opens a folder of this layer by its true path.
    pub(super) fn reopen(&self, path: &[u8]) -> Result<Folder> {
        let fd = match path {
            b"" => rustix::fs::openat(self.root, ".", FOLDER | OFlags::CLOEXEC, Mode::empty()),
            _ => open_in_root(self.root, as_path(path), FOLDER | OFlags::NOFOLLOW, Mode::empty()),
        };
        Ok(Folder { fd: fd.context(|| "open the parent folder")?, path: path.to_vec() })
    }

    /// The folder that the target of a hard link lies in; `None` where this layer has none.
    pub(super) fn target_folder(&self, parent: &[u8]) -> std::result::Result<Option<OwnedFd>, Errno> {
        let path = if parent.is_empty() { Path::new(".") } else { as_path(parent) };
        match open_in_root(self.root, path, FOLDER, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

/// Whether `name` in the open folder is a whiteout; archives cannot make a character device 0:0 otherwise.
pub(super) fn is_whiteout(folder: &OwnedFd, name: &[u8]) -> bool {
    rustix::fs::statat(folder.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0)
}

fn whiteout_like(name: &[u8]) -> bool {
    name.starts_with(crate::archive::whiteout::PREFIX)
}

fn holds_nothing(path: &[u8]) -> Error {
    Error::new(Kind::Invalid, format!("`{}` is a file and cannot hold others", path.escape_ascii()))
}

pub(super) fn as_path(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// The path below the root that an archive's path means: no leading slash, no empty or `.` components, `..` taken
/// out. One that climbs above the root is an error.
pub(super) fn clean(path: &[u8]) -> Result<Vec<u8>> {
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
pub(super) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => Some((&path[..slash], &path[slash + 1..])),
        None if path.is_empty() => None,
        None => Some((b"", path)),
    }
}

pub(super) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}
