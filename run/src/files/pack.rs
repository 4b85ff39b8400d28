//! A file or folder as a tar archive, read by descriptors from a root that may change meanwhile.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use layerfs::archive::TarWriter;
use layerfs::archive::read::{Entry, EntryKind, Time};
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::fs::{open_in_root, proc_path};
use layerfs::userns::Mapping;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, StatxFlags};
use rustix::io::Errno;

/// Who owns what belongs to nobody the container knows (`/proc/sys/kernel/overflowuid`).
const NOBODY: u32 = 65_534;
/// Longest value of an extended attribute (`XATTR_SIZE_MAX`).
const VALUE_MAX: usize = 1 << 16;

/// What of a tree is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All that is seen.
    Everything,
    /// What lies on the root's own mount: other mounts show as empty files and folders.
    OneMount,
}

/// Packs what `path` leads to below `root` under `name`, or its content alone where `name` is empty. Symlinks are
/// followed up to there, and none below.
///
/// # Errors
/// There is nothing, or it cannot be read.
pub fn pack<W: Write>(
    root: BorrowedFd<'_>,
    path: &Path,
    name: &[u8],
    ids: Option<&Mapping>,
    extent: Extent,
    out: &mut TarWriter<W>,
) -> Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let found = open_in_root(root, path, OFlags::PATH, Mode::empty()).at("open", path)?;
    let stat = rustix::fs::fstat(&found).at("look at", path)?;
    let mount = mount_of(found.as_fd());
    let mut walk = Walk { out, ids, extent, mount, links: HashMap::new() };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let folder = open_at(found.as_fd(), b".", OFlags::DIRECTORY).at("open", path)?;
            walk.describe_folder(folder.as_fd(), &stat, if name.is_empty() { b"." } else { name })?;
            walk.children(folder, name)
        }
        FileType::RegularFile => {
            let file =
                rustix::fs::open(proc_path(found.as_fd(), None), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            walk.file(file.at("open", path)?, name)
        }
        _ => Err(Error::new(Kind::Unsupported, format!("`{}` is no file and no folder", path.display()))),
    }
}

struct Walk<'a, W: Write> {
    out: &'a mut TarWriter<W>,
    ids: Option<&'a Mapping>,
    extent: Extent,
    /// The mount that the walk began on.
    mount: Option<u64>,
    /// The first path of each file with several names.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> Walk<'_, W> {
    fn children(&mut self, folder: OwnedFd, path: &[u8]) -> Result<()> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&folder).context(|| shown(path))? {
            let name = entry.context(|| shown(path))?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        names.sort_unstable();
        for name in names {
            let path = if path.is_empty() { name.clone() } else { [path, b"/", name.as_slice()].concat() };
            self.child(folder.as_fd(), &name, &path)?;
        }
        Ok(())
    }

    fn child(&mut self, folder: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<()> {
        let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            // What goes while it is read was not there.
            Err(Errno::NOENT) => return Ok(()),
            found => found.context(|| shown(path))?,
        };
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let child = open_at(folder, name, OFlags::DIRECTORY).context(|| shown(path))?;
                self.describe_folder(child.as_fd(), &stat, path)?;
                return match self.is_elsewhere(child.as_fd()) {
                    true => Ok(()),
                    false => self.children(child, path),
                };
            }
            FileType::RegularFile => {
                let file = open_at(folder, name, OFlags::NONBLOCK).context(|| shown(path))?;
                return self.file(file, path);
            }
            FileType::Symlink => EntryKind::Symlink,
            FileType::CharacterDevice => EntryKind::Char,
            FileType::BlockDevice => EntryKind::Block,
            FileType::Fifo => EntryKind::Fifo,
            // A socket means nothing without the process that made it.
            _ => return Ok(()),
        };
        let mut entry = self.entry(&stat, kind, path);
        if kind == EntryKind::Symlink {
            entry.link = rustix::fs::readlinkat(folder, name, Vec::new()).context(|| shown(path))?.into_bytes();
        } else {
            entry.device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        }
        self.out.append(&entry)
    }

    fn describe_folder(&mut self, folder: BorrowedFd<'_>, stat: &Stat, path: &[u8]) -> Result<()> {
        let mut entry = self.entry(stat, EntryKind::Dir, path);
        entry.xattrs = attributes(folder).context(|| shown(path))?;
        self.out.append(&entry)
    }

    /// A file that was opened without waiting, and may be another than the one that was looked at.
    fn file(&mut self, file: OwnedFd, path: &[u8]) -> Result<()> {
        let stat = rustix::fs::fstat(&file).context(|| shown(path))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::new(Kind::Conflict, format!("{}: it was replaced while it was read", shown(path))));
        }
        let mut entry = self.entry(&stat, EntryKind::File, path);
        if self.is_elsewhere(file.as_fd()) {
            return self.out.append(&Entry { size: 0, ..entry });
        }
        if stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&key) {
                (entry.kind, entry.link, entry.size) = (EntryKind::Hardlink, first.clone(), 0);
                return self.out.append(&entry);
            }
            self.links.insert(key, path.to_vec());
        }
        entry.xattrs = attributes(file.as_fd()).context(|| shown(path))?;
        self.out.append_file(&entry, File::from(file))
    }

    fn is_elsewhere(&self, file: BorrowedFd<'_>) -> bool {
        self.extent == Extent::OneMount && mount_of(file) != self.mount
    }

    fn entry(&self, stat: &Stat, kind: EntryKind, path: &[u8]) -> Entry {
        let (uid, gid) = match self.ids {
            Some(ids) => (ids.uid_inside(stat.st_uid), ids.gid_inside(stat.st_gid)),
            None => (Some(stat.st_uid), Some(stat.st_gid)),
        };
        Entry {
            path: path.to_vec(),
            kind,
            link: Vec::new(),
            mode: stat.st_mode & 0o7777,
            uid: uid.unwrap_or(NOBODY).into(),
            gid: gid.unwrap_or(NOBODY).into(),
            mtime: Time { seconds: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) },
            size: if kind == EntryKind::File { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 },
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
        }
    }
}

/// The extended attributes that mean the same elsewhere. Only files and folders have any of them.
fn attributes(file: BorrowedFd<'_>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = [0u8; 4096];
    let length = match rustix::fs::flistxattr(file, &mut names[..]) {
        Err(Errno::NOTSUP) => 0,
        listed => listed.context(|| "list the extended attributes")?,
    };
    let mut found = Vec::new();
    for name in names[..length].split(|byte| *byte == 0) {
        if name.starts_with(b"user.") || name == b"security.capability" {
            let mut value = vec![0; VALUE_MAX];
            let length = rustix::fs::fgetxattr(file, name, &mut value[..]);
            value.truncate(length.context(|| "read an extended attribute")?);
            found.push((name.to_vec(), value));
        }
    }
    Ok(found)
}

fn open_at(folder: BorrowedFd<'_>, name: &[u8], more: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC | more;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

fn mount_of(file: BorrowedFd<'_>) -> Option<u64> {
    let found = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    Some(found.stx_mnt_id)
}

fn shown(path: &[u8]) -> String {
    format!("pack `{}`", path.escape_ascii())
}
