//! Layers as one plain tree, for where nothing can be mounted: copied under the whiteout rules, and what was changed in
//! it read back as an overlay's upper folder.
//!
//! What changed is told by inode and change time, which no program can set: [`Snapshot::take`] before, [`changes`] after.
//! What overlayfs copies up without a change (a file that was opened for writing and left alone) is not seen.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, mknodat, utimensat};
use rustix::io::Errno;

use super::{Lowers, shim};
use crate::archive::{OPAQUE_XATTR, is_opaque, is_whiteout, make_whiteout, unescape_xattr};
use crate::error::{Context, Result};
use crate::sys::fs::{get_xattr, list_xattrs};

/// The kernel's coarse clock ticks at least this often; a change within one tick of a look could go unseen.
const TICK: Duration = Duration::from_millis(12);

/// Puts the folders of a stack, or some more of them, over what is in `tree`, lowest first.
///
/// # Errors
/// A layer cannot be read, or the tree not be written.
pub fn assemble(lowers: &Lowers, from: usize, tree: &Path) -> Result<()> {
    for dir in lowers.dirs.iter().skip(from) {
        Merge { links: HashMap::new() }.folder(dir, tree)?;
    }
    match lowers.root.as_ref().or(lowers.dirs.last()) {
        Some(root) => shim::copy_folder_metadata(root, tree),
        None => Ok(()),
    }
}

struct Merge {
    /// The first name of each file with several, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Merge {
    fn folder(&mut self, from: &Path, to: &Path) -> Result<()> {
        for entry in fs::read_dir(from).at("read", from)? {
            let entry = entry.at("read", from)?;
            let (own, place) = (entry.path(), to.join(entry.file_name()));
            let metadata = entry.metadata().at("look at", &own)?;
            let there = present(&place)?;
            if is_whiteout(&own, &metadata)? {
                remove(&place)?;
                continue;
            }
            if !metadata.is_dir() {
                remove(&place)?;
                self.node(&own, &place, &metadata)?;
                continue;
            }
            if there.as_ref().is_none_or(|there| !there.is_dir()) || is_opaque(&own)? {
                remove(&place)?;
                fs::create_dir(&place).at("create", &place)?;
            }
            self.folder(&own, &place)?;
            shim::copy_folder_metadata(&own, &place)?;
        }
        Ok(())
    }

    /// Copies what is no folder.
    fn node(&mut self, from: &Path, to: &Path, metadata: &Metadata) -> Result<()> {
        let kind = metadata.file_type();
        if kind.is_file() && metadata.nlink() > 1 {
            let inode = (metadata.dev(), metadata.ino());
            if let Some(first) = self.links.get(&inode) {
                return fs::hard_link(first, to).at("link", to);
            }
            self.links.insert(inode, to.to_owned());
        }
        if kind.is_file() {
            fs::copy(from, to).at("copy", from)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(from).at("read symlink", from)?, to).at("create", to)?;
        } else if kind.is_char_device() || kind.is_block_device() || kind.is_fifo() {
            let kind = FileType::from_raw_mode(metadata.mode());
            mknodat(CWD, to, kind, Mode::from_raw_mode(0o600), metadata.rdev()).at("create", to)?;
        } else {
            // A socket means nothing without the process that made it.
            return Ok(());
        }
        describe(from, to, metadata)
    }
}

/// Owner, attributes, mode and time of what is no folder.
fn describe(from: &Path, to: &Path, metadata: &Metadata) -> Result<()> {
    lchown(to, Some(metadata.uid()), Some(metadata.gid())).at("change the owner of", to)?;
    for name in list_xattrs(from).at("list the attributes of", from)? {
        if unescape_xattr(&name).is_none() {
            continue;
        }
        let Some(value) = get_xattr(from, name.as_slice()).at("read the attributes of", from)? else { continue };
        match rustix::fs::lsetxattr(to, name.as_slice(), &value, XattrFlags::empty()) {
            Err(Errno::PERM | Errno::NOTSUP) => {}
            result => result.at("set the attributes of", to)?,
        }
    }
    if !metadata.is_symlink() {
        let mode = fs::Permissions::from_mode(metadata.mode() & 0o7777);
        fs::set_permissions(to, mode).at("change the mode of", to)?;
    }
    let time = Timespec { tv_sec: metadata.mtime(), tv_nsec: metadata.mtime_nsec() };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW).at("set the time of", to)
}

fn present(path: &Path) -> Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.at("look at", path).map(Some),
    }
}

fn remove(path: &Path) -> Result<()> {
    match present(path)? {
        None => Ok(()),
        Some(metadata) if metadata.is_dir() => fs::remove_dir_all(path).at("remove", path),
        Some(_) => fs::remove_file(path).at("remove", path),
    }
}

/// What a tree was like.
#[derive(Debug)]
pub struct Snapshot {
    seen: BTreeMap<Vec<u8>, Seen>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    inode: u64,
    /// Inode numbers are given again at once; not every file system knows this.
    born: Option<SystemTime>,
    changed: (i64, i64),
    folder: bool,
}

impl Seen {
    fn of(metadata: &Metadata) -> Self {
        let (born, folder) = (metadata.created().ok(), metadata.is_dir());
        Self { inode: metadata.ino(), born, changed: (metadata.ctime(), metadata.ctime_nsec()), folder }
    }

    /// Whether it is the same folder, whatever happened to it.
    fn is_same_folder(&self, now: &Self) -> bool {
        self.folder && now.folder && (self.inode, self.born) == (now.inode, now.born)
    }
}

impl Snapshot {
    /// Looks at everything in `tree` but the paths `without` (relative, no slash in front) and what is below them.
    ///
    /// # Errors
    /// The tree cannot be read.
    pub fn take(tree: &Path, without: &BTreeSet<Vec<u8>>) -> Result<Self> {
        let mut snapshot = Self { seen: BTreeMap::new() };
        snapshot.folder(tree, &[], without)?;
        let newest = snapshot.seen.values().map(|seen| seen.changed).max().unwrap_or_default();
        let newest =
            UNIX_EPOCH + Duration::new(u64::try_from(newest.0).unwrap_or(0), u32::try_from(newest.1).unwrap_or(0));
        if SystemTime::now().duration_since(newest).is_ok_and(|age| age < TICK) {
            std::thread::sleep(TICK);
        }
        Ok(snapshot)
    }

    fn folder(&mut self, dir: &Path, path: &[u8], without: &BTreeSet<Vec<u8>>) -> Result<()> {
        for entry in fs::read_dir(dir).at("read", dir)? {
            let entry = entry.at("read", dir)?;
            let path = join(path, entry.file_name().as_bytes());
            if without.contains(&path) {
                continue;
            }
            let metadata = entry.metadata().at("look at", entry.path())?;
            self.seen.insert(path.clone(), Seen::of(&metadata));
            if metadata.is_dir() {
                self.folder(&entry.path(), &path, without)?;
            }
        }
        Ok(())
    }
}

/// Writes what changed in `tree` since `before` into the empty folder `upper`, as overlayfs would have left it there.
///
/// # Errors
/// The tree cannot be read, or the folder not be written.
pub fn changes(tree: &Path, before: &Snapshot, without: &BTreeSet<Vec<u8>>, upper: &Path) -> Result<()> {
    let mut diff = Diff {
        tree,
        before,
        without,
        upper,
        visited: BTreeSet::new(),
        made: BTreeSet::new(),
        merge: Merge { links: HashMap::new() },
    };
    diff.folder(&[], false)?;
    diff.removed()?;
    // Times of folders last, innermost first: what is put into one changes its own.
    for path in diff.made.iter().rev() {
        shim::copy_folder_metadata(&at(tree, path), &at(upper, path))?;
    }
    shim::copy_folder_metadata(tree, upper)
}

struct Diff<'a> {
    tree: &'a Path,
    before: &'a Snapshot,
    without: &'a BTreeSet<Vec<u8>>,
    upper: &'a Path,
    /// Folders that are the same ones as before.
    visited: BTreeSet<Vec<u8>>,
    /// Folders of the upper.
    made: BTreeSet<Vec<u8>>,
    merge: Merge,
}

impl Diff<'_> {
    /// `fresh`: the folder is new, so all in it is.
    fn folder(&mut self, path: &[u8], fresh: bool) -> Result<()> {
        let dir = at(self.tree, path);
        let mut names: Vec<Vec<u8>> = Vec::new();
        for entry in fs::read_dir(&dir).at("read", &dir)? {
            names.push(entry.at("read", &dir)?.file_name().into_vec());
        }
        names.sort_unstable();
        if !fresh {
            self.visited.insert(path.to_vec());
        }
        for name in names {
            let path = join(path, &name);
            if self.without.contains(&path) {
                continue;
            }
            let place = at(self.tree, &path);
            let metadata = fs::symlink_metadata(&place).at("look at", &place)?;
            let (now, seen) = (Seen::of(&metadata), self.before.seen.get(&path).filter(|_| !fresh));
            if !metadata.is_dir() {
                if !fresh {
                    self.visited.insert(path.clone());
                }
                if seen != Some(&now) {
                    self.way_to(&path)?;
                    self.merge.node(&place, &at(self.upper, &path), &metadata)?;
                }
                continue;
            }
            let same = seen.is_some_and(|seen| seen.is_same_folder(&now));
            if seen != Some(&now) {
                self.way_to(&path)?;
                self.make(&path)?;
                if seen.is_some() && !same {
                    // Nothing of what was there before shows through.
                    let own = at(self.upper, &path);
                    rustix::fs::lsetxattr(&own, OPAQUE_XATTR, b"y", XattrFlags::empty()).at("mark", &own)?;
                    self.visited.insert(path.clone());
                }
            }
            self.folder(&path, !same)?;
        }
        Ok(())
    }

    /// What was there and is not, or is below what was replaced by no folder.
    fn removed(&mut self) -> Result<()> {
        let gone: Vec<Vec<u8>> =
            self.before.seen.keys().filter(|path| !self.visited.contains(*path)).cloned().collect();
        for path in gone {
            let parent = path.iter().rposition(|byte| *byte == b'/').map_or(&b""[..], |slash| &path[..slash]);
            let place = at(self.tree, &path);
            let was_here = self.visited.contains(parent) && self.is_same_folder(parent);
            if was_here && present(&place)?.is_none() {
                self.way_to(&path)?;
                make_whiteout(&at(self.upper, &path))?;
            }
        }
        Ok(())
    }

    fn is_same_folder(&self, path: &[u8]) -> bool {
        let now = fs::symlink_metadata(at(self.tree, path));
        let Ok(now) = now else { return false };
        path.is_empty() || self.before.seen.get(path).is_some_and(|seen| seen.is_same_folder(&Seen::of(&now)))
    }

    /// Makes the folders above `path`.
    fn way_to(&mut self, path: &[u8]) -> Result<()> {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        slashes.map(|slash| self.make(&path[..slash])).collect::<Result<Vec<()>>>().map(drop)
    }

    fn make(&mut self, path: &[u8]) -> Result<()> {
        if self.made.insert(path.to_vec()) {
            let place = at(self.upper, path);
            fs::create_dir(&place).at("create", &place)?;
        }
        Ok(())
    }
}

fn at(root: &Path, path: &[u8]) -> PathBuf {
    if path.is_empty() { root.to_owned() } else { root.join(std::ffi::OsStr::from_bytes(path)) }
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(root: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder").flatten() {
                let metadata = entry.metadata().expect("metadata");
                let name = entry.path().strip_prefix(root).expect("below").display().to_string();
                let mark = if is_whiteout(&entry.path(), &metadata).expect("readable") { " gone" } else { "" };
                let opaque =
                    if metadata.is_dir() && is_opaque(&entry.path()).expect("readable") { " opaque" } else { "" };
                found.push(format!("{name}{mark}{opaque}"));
                if metadata.is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn what_changed_is_what_overlayfs_would_keep() {
        let dir = tempfile::tempdir().expect("a folder");
        let (tree, upper) = (dir.path().join("tree"), dir.path().join("upper"));
        for folder in ["tree/same/deep", "tree/replaced/old", "tree/gone/deep", "upper", "tree/ours"] {
            fs::create_dir_all(dir.path().join(folder)).expect("folders");
        }
        for file in ["same/deep/edited", "same/kept", "replaced/x", "gone/x", "removed", "becomes", "ours/x"] {
            fs::write(tree.join(file), "before").expect("a file");
        }
        let without = BTreeSet::from([b"ours".to_vec()]);
        let before = Snapshot::take(&tree, &without).expect("a look");
        // The same size; no time of its own tells.
        fs::write(tree.join("same/deep/edited"), "after!").expect("a file");
        fs::remove_dir_all(tree.join("replaced")).expect("removed");
        fs::create_dir(tree.join("replaced")).expect("made");
        fs::write(tree.join("replaced/y"), "new").expect("a file");
        fs::remove_dir_all(tree.join("gone")).expect("removed");
        fs::remove_file(tree.join("removed")).expect("removed");
        fs::remove_file(tree.join("becomes")).expect("removed");
        fs::create_dir(tree.join("becomes")).expect("made");
        fs::write(tree.join("ours/y"), "x").expect("a file");
        changes(&tree, &before, &without, &upper).expect("told");
        let expected = [
            "becomes opaque",
            "gone gone",
            "removed gone",
            "replaced opaque",
            "replaced/y",
            "same",
            "same/deep",
            "same/deep/edited",
        ];
        assert_eq!(list(&upper), expected);

        // Put over what it was, it gives what it is.
        let again = dir.path().join("again");
        fs::create_dir(&again).expect("a folder");
        for folder in ["same/deep", "replaced/old", "gone/deep"] {
            fs::create_dir_all(again.join(folder)).expect("folders");
        }
        for file in ["same/kept", "replaced/x", "gone/x", "removed", "becomes"] {
            fs::write(again.join(file), "before").expect("a file");
        }
        let lowers = Lowers { dirs: vec![upper], root: None };
        assemble(&lowers, 0, &again).expect("assembled");
        fs::remove_dir_all(tree.join("ours")).expect("removed");
        assert_eq!(list(&again), list(&tree));
    }
}
