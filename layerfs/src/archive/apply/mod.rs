//! Laying one layer down in a folder.
//!
//! A layer is applied alone, into an empty folder, whatever lies below it in an image. What it leaves to the layers
//! below is told in [`Applied`]: folders it uses without describing them, and hard links to files it does not hold.
//!
//! Order of restoring, per file: create, data, owner, extended attributes, mode (a change of owner clears setuid and
//! capabilities), time; for folders mode and time come at the end, because files still come into them.
//!
//! Entries act one after the other, as if each were applied to a whole root file system, with one exception that the
//! specification makes: whiteouts and opaque markers concern what lies below the layer, wherever they stand in it.

mod make;
mod parents;

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;
use std::ops::Bound;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use self::parents::{Folder, clean, join, split};
use super::limits::{Limits, exceeded};
use super::read::{Entry, EntryKind, TarReader, Time};
use super::whiteout::{self, Meaning, OPAQUE_XATTR, OVERRIDE_XATTR};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::fs::{proc_path, umask};
use crate::userns::{Mapping, unmapped_id};

/// How to apply.
#[derive(Clone, Debug, Default)]
pub struct ApplyOptions {
    /// What it may cost.
    pub limits: Limits,
    /// Only one id exists: owners are recorded in an extended attribute instead of set.
    pub single_id: bool,
    /// The user namespace that the archive's owners are ids of, in this process's ids; `None` for its own.
    pub owners: Option<Mapping>,
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
    /// The root folder itself is described. Where it is not, its owner, mode and time are those it has below.
    pub root: bool,
    /// Extended attributes that the file system or the user namespace refused.
    pub lost_xattrs: u64,
}

/// Applies the uncompressed archive `reader` to the empty folder `root`, reading to the last byte.
///
/// # Errors
/// The archive is malformed, tries to leave `root`, exceeds a limit, or cannot be written; `root` then holds a part
/// of it and must be thrown away.
pub fn apply(reader: impl BufRead, root: BorrowedFd<'_>, options: &ApplyOptions) -> Result<Applied> {
    let mut archive = TarReader::new(reader, &options.limits);
    let mut extractor = Extractor {
        root,
        options,
        umask: umask(),
        parent: None,
        folders: BTreeMap::new(),
        opaque: BTreeSet::new(),
        whiteouts: BTreeSet::new(),
        links: BTreeMap::new(),
        remembered: 0,
        applied: Applied::default(),
    };
    extractor.own_root()?;
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
    /// What is still to be done to folders, by true path; so are the sets below.
    folders: BTreeMap<Vec<u8>, FolderWork>,
    opaque: BTreeSet<Vec<u8>>,
    whiteouts: BTreeSet<Vec<u8>>,
    /// Hard links to what only a lower layer can have.
    links: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Bytes of the paths above, against the limit.
    remembered: u64,
    applied: Applied,
}

struct FolderWork {
    mode: u32,
    mtime: Time,
    /// Access control lists, of which a default one would give the children other modes.
    acls: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Extractor<'_> {
    /// A folder made below one with the setgid bit has that too, and would give its group to all that is made in it.
    fn own_root(&self) -> Result<()> {
        if let Some((uid, gid)) = self.foreign_root()? {
            rustix::fs::fchown(self.root, Some(uid), Some(gid)).context(|| "change the owner of the root")?;
        }
        let stat = rustix::fs::fstat(self.root).context(|| "look at the root")?;
        if stat.st_mode & 0o2000 != 0 && !self.options.single_id {
            let own = || (rustix::process::geteuid(), rustix::process::getegid());
            let (user, group) = self.foreign_root()?.unwrap_or_else(own);
            rustix::fs::fchown(self.root, Some(user), Some(group)).context(|| "change the owner of the root")?;
            rustix::fs::fchmod(self.root, Mode::from_raw_mode(0o755)).context(|| "change the mode of the root")?;
        }
        Ok(())
    }

    fn entry<R: BufRead>(&mut self, entry: &Entry, archive: &mut TarReader<R>) -> Result<()> {
        self.applied.entries += 1;
        if self.applied.entries > self.options.limits.entries {
            return Err(exceeded("the layer has more entries", "entries", self.options.limits.entries));
        }
        let path = clean(&entry.path)?;
        let Some((parent, name)) = split(&path) else {
            return match entry.kind {
                EntryKind::Dir => self.describe_root(entry),
                // Nothing but a folder can stand for the root; CVE-2021-29136 made it a symlink.
                _ => Err(Error::new(Kind::Invalid, "only a folder can be the root")),
            };
        };
        if whiteout::in_reserved(parent)? {
            return Ok(());
        }
        let meaning = whiteout::meaning(name)?;
        if matches!(meaning, Meaning::Ignored) {
            return Ok(());
        }
        let folder = self.enter(parent)?;
        let result = match meaning {
            Meaning::Plain => self.plain(entry, &folder, name, archive),
            Meaning::Opaque => self.make_opaque(folder.path.clone()),
            Meaning::Whiteout(hidden) => self.whiteout(&folder, hidden),
            Meaning::Ignored => Ok(()),
        };
        // One that was replaced is not entered again.
        if self.parent.is_none() {
            self.parent = Some((parent.to_vec(), folder));
        }
        result
    }

    /// Counts a path that is kept until the end.
    fn remember(&mut self, path: &[u8]) -> Result<()> {
        self.remembered += path.len() as u64 + 64;
        if self.remembered > self.options.limits.memory {
            return Err(exceeded("the layer's folders have more bytes of paths", "memory", self.options.limits.memory));
        }
        Ok(())
    }

    fn describe_root(&mut self, entry: &Entry) -> Result<()> {
        self.own_folder(self.root, entry)?;
        let work = self.describe(self.root, entry)?;
        self.folders.insert(Vec::new(), work);
        self.applied.root = true;
        Ok(())
    }

    fn plain<R: BufRead>(
        &mut self,
        entry: &Entry,
        folder: &Folder,
        name: &[u8],
        archive: &mut TarReader<R>,
    ) -> Result<()> {
        let path = join(&folder.path, name);
        let was_link = self.links.remove(&path).is_some();
        match entry.kind {
            EntryKind::Dir => self.dir(entry, folder, name, path, was_link),
            EntryKind::File => self.file(entry, folder, name, &path, archive),
            EntryKind::Symlink => self.symlink(entry, folder, name, &path),
            EntryKind::Hardlink => self.hardlink(entry, folder, name, &path),
            EntryKind::Char | EntryKind::Block | EntryKind::Fifo => self.node(entry, folder, name, &path),
        }
    }

    fn dir(&mut self, entry: &Entry, folder: &Folder, name: &[u8], path: Vec<u8>, was_link: bool) -> Result<()> {
        // Children come before the mode is final, and a setgid folder would give them its group.
        let mode = Mode::from_raw_mode(0o755);
        self.check_depth(&path)?;
        let (mut was_file, mut was_dir) = (was_link, false);
        match rustix::fs::mkdirat(&folder.fd, name, mode) {
            Err(Errno::EXIST) if self.is_dir(folder, name)? => was_dir = true,
            Err(Errno::EXIST) => {
                was_file = true;
                self.replace(folder, name, &path)?;
                rustix::fs::mkdirat(&folder.fd, name, mode).context(|| "create the folder")?;
            }
            result => result.context(|| "create the folder")?,
        }
        let open = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&folder.fd, name, open, Mode::empty()).context(|| "open the folder")?;
        if was_dir || !self.is_makers_own(entry) {
            self.own_folder(fd.as_fd(), entry)?;
        }
        let work = self.describe(fd.as_fd(), entry)?;
        if was_file {
            // What was a file or gone has left nothing of a folder below.
            self.make_opaque(path.clone())?;
        }
        self.applied.implied.remove(&path);
        self.remember(&path)?;
        self.folders.insert(path, work);
        Ok(())
    }

    fn own_folder(&self, fd: BorrowedFd<'_>, entry: &Entry) -> Result<()> {
        if self.options.single_id {
            return Ok(());
        }
        let (uid, gid) = self.owner(entry)?;
        match rustix::fs::chownat(fd, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH) {
            Err(Errno::INVAL) => Err(unmapped(entry)),
            result => result.context(|| "change the owner"),
        }
    }

    /// Attributes of a folder at once; mode and time are left for the end.
    fn describe(&mut self, fd: BorrowedFd<'_>, entry: &Entry) -> Result<FolderWork> {
        let recorded = (!self.owned_by_default(entry)).then(|| override_stat(entry, "dir"));
        let (acls, others): (Vec<_>, Vec<_>) =
            self.stored_xattrs(entry, recorded).into_iter().partition(|(key, _)| key.starts_with(b"system.posix_acl"));
        let itself = proc_path(fd, None);
        for (key, value) in others {
            self.tolerate(rustix::fs::setxattr(itself.as_c_str(), key.as_slice(), &value, XattrFlags::empty()))?;
        }
        Ok(FolderWork { mode: entry.mode, mtime: entry.mtime, acls })
    }

    fn make_opaque(&mut self, path: Vec<u8>) -> Result<()> {
        self.remember(&path)?;
        self.opaque.insert(path);
        Ok(())
    }

    /// A whiteout concerns the layers below only; what this layer itself has under the name stays.
    fn whiteout(&mut self, folder: &Folder, hidden: &[u8]) -> Result<()> {
        let path = join(&folder.path, hidden);
        match rustix::fs::mknodat(&folder.fd, hidden, FileType::CharacterDevice, Mode::from_raw_mode(0), 0) {
            Ok(()) => {
                self.remember(&path)?;
                self.whiteouts.insert(path);
            }
            Err(Errno::EXIST) if self.whiteouts.contains(&path) => {}
            Err(Errno::EXIST) => {
                if self.is_dir(folder, hidden)? {
                    // Nothing below counts for it, its metadata neither.
                    self.applied.implied.remove(&path);
                    self.make_opaque(path)?;
                }
            }
            Err(Errno::PERM) => {
                let itself = proc_path(folder.fd.as_fd(), None);
                whiteout::make_as_file(Path::new(std::ffi::OsStr::from_bytes(itself.as_bytes())), hidden)?;
                self.remember(&path)?;
                self.whiteouts.insert(path);
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
            forget(&mut self.folders, path);
            forget(&mut self.links, path);
            for set in [&mut self.opaque, &mut self.whiteouts, &mut self.applied.implied] {
                let gone: Vec<Vec<u8>> = inside(path, |range| set.range(range).cloned().collect());
                for inner in gone.iter().map(Vec::as_slice).chain([path]) {
                    set.remove(inner);
                }
            }
        } else {
            rustix::fs::unlinkat(&folder.fd, name, AtFlags::empty()).context(|| "replace the file")?;
            self.whiteouts.remove(path);
        }
        Ok(())
    }

    /// Who owns an entry here.
    fn owner(&self, entry: &Entry) -> Result<(Uid, Gid)> {
        let narrow = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
        let (uid, gid) = (narrow(entry.uid), narrow(entry.gid));
        let (uid, gid) = match &self.options.owners {
            Some(owners) => (uid.and_then(|id| owners.uid_outside(id)), gid.and_then(|id| owners.gid_outside(id))),
            None => (uid, gid),
        };
        match (uid, gid) {
            (Some(uid), Some(gid)) => Ok((Uid::from_raw(uid), Gid::from_raw(gid))),
            (Some(_), None) => Err(unmapped_id("group", entry.gid)),
            (None, _) => Err(unmapped_id("owner", entry.uid)),
        }
    }

    /// Root of another namespace, where it is that one's files that are made.
    fn foreign_root(&self) -> Result<Option<(Uid, Gid)>> {
        let Some(owners) = &self.options.owners else { return Ok(None) };
        match (owners.uid_outside(0), owners.gid_outside(0)) {
            (Some(uid), Some(gid)) => Ok(Some((Uid::from_raw(uid), Gid::from_raw(gid)))),
            _ => Err(unmapped_id("owner", 0)),
        }
    }

    /// Whether what is made for an entry has its owner from the start.
    fn is_makers_own(&self, entry: &Entry) -> bool {
        self.options.single_id || (self.options.owners.is_none() && (entry.uid, entry.gid) == (0, 0))
    }

    fn owned_by_default(&self, entry: &Entry) -> bool {
        !self.options.single_id || (entry.uid, entry.gid) == (0, 0)
    }

    /// The attributes to store for an entry: those that would speak to overlayfs escaped, capabilities in the form
    /// that the kernel binds to the user namespace of whoever writes them.
    fn stored_xattrs(&self, entry: &Entry, recorded: Option<Vec<u8>>) -> Vec<(Vec<u8>, Vec<u8>)> {
        let own = recorded.map(|note| (OVERRIDE_XATTR.as_bytes().to_vec(), note));
        let given = entry.xattrs.iter().filter(|(key, _)| key.as_slice() != OVERRIDE_XATTR.as_bytes());
        given.map(|(key, value)| (whiteout::escape_xattr(key), whiteout::portable(key, value))).chain(own).collect()
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
            // A whiteout in a folder without anything below would be listed without being there.
            let needless: Vec<Vec<u8>> = inside(&path, |range| self.whiteouts.range(range).cloned().collect());
            for path in needless {
                let (parent, name) = split(&path).expect("it lies inside another");
                rustix::fs::unlinkat(&self.reopen(parent)?.fd, name, AtFlags::empty())
                    .context(|| format!("remove the whiteout of `{}`", path.escape_ascii()))?;
                self.whiteouts.remove(&path);
            }
            let itself = proc_path(folder.fd.as_fd(), None);
            rustix::fs::setxattr(itself, OPAQUE_XATTR, b"y", XattrFlags::empty()).context(|| "make a folder opaque")?;
        }
        // Deepest first: a folder without search permission must not hide those inside it.
        for (path, work) in std::mem::take(&mut self.folders).into_iter().rev() {
            let shown = || format!("`{}`", path.escape_ascii());
            let folder = self.reopen(&path).context(shown)?;
            self.finish_folder(&folder, &work).context(shown)?;
        }
        self.applied.links = std::mem::take(&mut self.links).into_iter().collect();
        Ok(self.applied)
    }

    fn finish_folder(&mut self, folder: &Folder, work: &FolderWork) -> Result<()> {
        let itself = proc_path(folder.fd.as_fd(), None);
        for (key, value) in &work.acls {
            self.tolerate(rustix::fs::setxattr(itself.as_c_str(), key.as_slice(), value, XattrFlags::empty()))?;
        }
        if work.mode != 0o755 || self.umask & 0o755 != 0 || folder.path.is_empty() {
            rustix::fs::chmod(itself.as_c_str(), Mode::from_raw_mode(work.mode)).context(|| "change the mode")?;
        }
        rustix::fs::utimensat(&folder.fd, ".", &stamps(work.mtime), AtFlags::empty()).context(|| "set the time")
    }
}

/// Calls `with` on the range of paths that lie inside the folder `path`.
fn inside<T>(path: &[u8], with: impl FnOnce((Bound<Vec<u8>>, Bound<Vec<u8>>)) -> T) -> T {
    if path.is_empty() {
        return with((Bound::Excluded(Vec::new()), Bound::Unbounded));
    }
    // The byte after the slash ends what begins with one.
    with((Bound::Excluded([path, b"/"].concat()), Bound::Excluded([path, b"0"].concat())))
}

/// Drops a folder and what is inside it.
fn forget<T>(map: &mut BTreeMap<Vec<u8>, T>, path: &[u8]) {
    let gone: Vec<Vec<u8>> = inside(path, |range| map.range(range).map(|(path, _)| path.clone()).collect());
    gone.iter().for_each(|path| drop(map.remove(path)));
    map.remove(path);
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
