//! Paths inside a container's root. The only primitive is a resolution that cannot leave it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::fs::{SYMLINKS_MAX, open_in_root};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2, readlinkat};
use rustix::io::Errno;

/// A folder that is treated as `/`.
pub(crate) struct Root(OwnedFd);

impl Root {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// What lies at `path`, not opened for reading. The topmost mount there, if any.
    pub(crate) fn find(&self, path: &Path) -> Result<OwnedFd, Errno> {
        open_in_root(self.as_fd(), path, OFlags::PATH, Mode::empty())
    }

    /// Opens what lies at `path`.
    pub(crate) fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        open_in_root(self.as_fd(), path, flags, Mode::empty())
    }

    /// The folder at `path`, made with its parents where it is missing.
    pub(crate) fn ensure_dir(&self, path: &Path) -> Result<OwnedFd> {
        let fd = match self.find(path) {
            Err(Errno::NOENT) => match self.make_last(path) {
                Some(fd) => fd,
                None => self.make_dirs(path, 0)?,
            },
            found => found.at("find", path)?,
        };
        match file_type(fd.as_fd()) {
            FileType::Directory => Ok(fd),
            _ => Err(Error::new(Kind::Invalid, format!("`{}` in the root is not a folder", path.display()))),
        }
    }

    /// The folder at `path` where no part of `path` is a symlink: for what must lie where its name says.
    pub(crate) fn ensure_plain_dir(&self, path: &Path) -> Result<OwnedFd> {
        let fd = self.ensure_dir(path)?;
        self.plain(path, fd)
    }

    /// The file at `path`, likewise.
    pub(crate) fn ensure_plain_file(&self, path: &Path) -> Result<OwnedFd> {
        let fd = self.ensure_file(path)?;
        self.plain(path, fd)
    }

    fn plain(&self, path: &Path, found: OwnedFd) -> Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        match openat2(self.as_fd(), path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::LOOP) => Err(Error::new(
                Kind::Invalid,
                format!(
                    "`{}` in the root is or lies behind a symlink: it must be mounted on ordinary directory",
                    path.display()
                ),
            )),
            // Without openat2 what was found above is still inside the root.
            Err(Errno::NOSYS | Errno::PERM) => Ok(found),
            plain => plain.at("find", path),
        }
    }

    /// The file (or anything that is not a folder) at `path`, made empty with its parents where it is missing.
    pub(crate) fn ensure_file(&self, path: &Path) -> Result<OwnedFd> {
        match self.find(path) {
            Err(Errno::NOENT) => self.make_file(path, 0),
            found => found.at("find", path),
        }
    }

    /// The folder that `path`'s last part lies in, and that part.
    pub(crate) fn ensure_parent<'p>(&self, path: &'p Path) -> Result<(OwnedFd, &'p Path)> {
        let name = path.file_name().map(Path::new);
        let name = name.ok_or_else(|| Error::new(Kind::Invalid, format!("`{}` names no file", path.display())))?;
        Ok((self.ensure_dir(path.parent().unwrap_or(Path::new("/")))?, name))
    }

    fn make_file(&self, path: &Path, links: usize) -> Result<OwnedFd> {
        let (parent, name) = self.ensure_parent(path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        match openat(&parent, name, flags, Mode::from_raw_mode(0o644)) {
            Ok(_) => {
                openat(&parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).at("open", path)
            }
            // A symlink to nowhere: what it points at is to be made, inside the root.
            Err(Errno::EXIST) => match self.find(path) {
                Err(Errno::NOENT) => self.make_file(&target_of(parent.as_fd(), path, name, links)?, links + 1),
                found => found.at("find", path),
            },
            Err(errno) => Err(errno).at("make the mount point", path),
        }
    }

    /// The common case: only the last part of `path` is missing, and nothing is in its way.
    fn make_last(&self, path: &Path) -> Option<OwnedFd> {
        let name = path.file_name()?;
        let parent = self.find(path.parent()?).ok()?;
        mkdirat(&parent, name, Mode::from_raw_mode(0o755)).ok()?;
        openat(&parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).ok()
    }

    fn make_dirs(&self, path: &Path, links: usize) -> Result<OwnedFd> {
        let mut done = PathBuf::from("/");
        let mut here = self.find(&done).at("find", &done)?;
        for component in path.components() {
            let Component::Normal(name) = component else {
                if component == Component::ParentDir {
                    done.pop();
                    here = self.find(&done).at("find", &done)?;
                }
                continue;
            };
            done.push(name);
            here = match self.find(&done) {
                Err(Errno::NOENT) => match mkdirat(&here, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) => self.find(&done).at("find", &done)?,
                    Err(Errno::EXIST) => {
                        self.make_dirs(&target_of(here.as_fd(), &done, Path::new(name), links)?, links + 1)?
                    }
                    Err(errno) => return Err(errno).at("make the mount point", &done),
                },
                found => found.at("find", &done)?,
            };
        }
        Ok(here)
    }
}

/// Where the dangling symlink `name` in `parent` points, as a path from the root.
fn target_of(parent: BorrowedFd<'_>, path: &Path, name: &Path, links: usize) -> Result<PathBuf> {
    if links >= SYMLINKS_MAX {
        return Err(Errno::LOOP).at("find", path);
    }
    let target = match readlinkat(parent, name, Vec::new()) {
        // It was a race that somebody else won, or it is no symlink: nothing to follow.
        Err(_) => return Err(Errno::EXIST).at("make the mount point", path),
        Ok(target) => target,
    };
    let target = Path::new(std::ffi::OsStr::from_bytes(target.as_bytes()));
    Ok(path.parent().unwrap_or(Path::new("/")).join(target))
}

/// The type of an open file; a regular file where the kernel cannot say.
pub(crate) fn file_type(fd: BorrowedFd<'_>) -> FileType {
    fstat(fd).map_or(FileType::RegularFile, |stat| FileType::from_raw_mode(stat.st_mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root_of(dir: &Path) -> Root {
        Root::new(layerfs::sys::fs::open_dir(dir).expect("the folder exists"))
    }

    #[test]
    fn mount_points_are_made_inside_the_root() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let inside = dir.path().join("root");
        std::fs::create_dir_all(inside.join("var")).expect("folders");
        symlink("../../../run", inside.join("var/run")).expect("link");
        symlink("/etc/real", inside.join("link")).expect("link");
        let root = root_of(&inside);
        root.ensure_dir(Path::new("/var/run/lock")).expect("made through a dangling link");
        assert!(inside.join("run/lock").is_dir());
        assert!(!dir.path().join("run").exists());
        root.ensure_file(Path::new("/link")).expect("made through a dangling link");
        assert!(inside.join("etc/real").is_file());
        root.ensure_file(Path::new("/a/../b/./c/file")).expect("made");
        assert!(inside.join("b/c/file").is_file());
    }

    #[test]
    fn a_loop_of_links_ends() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        symlink("b", dir.path().join("a")).expect("link");
        symlink("a", dir.path().join("b")).expect("link");
        let error = root_of(dir.path()).ensure_dir(Path::new("/a/c")).expect_err("it loops");
        assert_eq!(error.errno(), Some(40));
    }

    #[test]
    fn a_plain_folder_is_no_symlink() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(dir.path().join("else")).expect("folder");
        symlink("else", dir.path().join("proc")).expect("link");
        let error = root_of(dir.path()).ensure_plain_dir(Path::new("/proc")).expect_err("it is a link");
        assert_eq!(error.kind(), Kind::Invalid);
    }
}
