//! Two trees beside each other: whether an unpacked layer is still what unpacking it gives.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::archive::{is_opaque, unescape_xattr};
use crate::error::{Context, Result};
use crate::sys::fs::{get_xattr, list_xattrs};

/// Differences that are told; more say nothing new.
const MOST: usize = 5;

/// How to compare.
#[derive(Clone, Debug, Default)]
pub(crate) struct Compare {
    /// Folders of which only the content counts: what they are is described by a layer below.
    pub(crate) implied: BTreeSet<Vec<u8>>,
    /// The same for the root.
    pub(crate) root_implied: bool,
}

/// What of `found` is not as in `expected`, in words for people; empty where they are equal. Type, owner, mode, time,
/// size, content, device, extended attributes and which names are one file all count.
///
/// # Errors
/// One of them cannot be read.
pub(crate) fn differences(expected: &Path, found: &Path, how: &Compare) -> Result<Vec<String>> {
    let mut walk = Walk { how, there: HashMap::new(), back: HashMap::new(), told: Vec::new() };
    if !found.is_dir() {
        return Ok(vec!["it has no files".to_owned()]);
    }
    if !how.root_implied {
        let look = |path: &Path| fs::symlink_metadata(path).at("look at", path);
        walk.metadata(b"/", (expected, &look(expected)?), (found, &look(found)?))?;
    }
    walk.children(&[], expected, found)?;
    Ok(walk.told)
}

type Inode = (u64, u64);

struct Walk<'a> {
    how: &'a Compare,
    /// Files with several names: which inode here is which there, and the reverse.
    there: HashMap<Inode, Inode>,
    back: HashMap<Inode, Inode>,
    told: Vec<String>,
}

impl Walk<'_> {
    fn tell(&mut self, path: &[u8], what: impl AsRef<str>) {
        self.told.push(format!("`{}` {}", path.escape_ascii(), what.as_ref()));
    }

    fn children(&mut self, path: &[u8], expected: &Path, found: &Path) -> Result<()> {
        let wanted = entries(expected)?;
        let mut there = entries(found)?;
        for (name, metadata) in wanted {
            if self.told.len() >= MOST {
                return Ok(());
            }
            let path = join(path, name.as_bytes());
            match there.remove(&name) {
                None => self.tell(&path, "is missing"),
                Some(other) => {
                    let (expected, found) = (expected.join(&name), found.join(&name));
                    self.entry(&path, (&expected, &metadata), (&found, &other))?;
                }
            }
        }
        // Sockets cannot be in an archive; a build step may have left one.
        for (name, _) in there.into_iter().filter(|(_, metadata)| !metadata.file_type().is_socket()) {
            self.tell(&join(path, name.as_bytes()), "does not belong there");
        }
        self.told.truncate(MOST);
        Ok(())
    }

    fn entry(&mut self, path: &[u8], expected: (&Path, &Metadata), found: (&Path, &Metadata)) -> Result<()> {
        let inode = |metadata: &Metadata| (metadata.dev(), metadata.ino());
        // A shim holds names of files of the layers; the same file is equal to itself.
        if inode(expected.1) == inode(found.1) {
            return Ok(());
        }
        if expected.1.file_type() != found.1.file_type() {
            self.tell(path, format!("is {} instead of {}", kind(found.1), kind(expected.1)));
            return Ok(());
        }
        // A whiteout is its type and number; overlayfs and we leave the rest to chance.
        if expected.1.file_type().is_char_device() && (expected.1.rdev(), found.1.rdev()) == (0, 0) {
            return Ok(());
        }
        if expected.1.is_dir() {
            if !self.how.implied.contains(path) {
                self.metadata(path, expected, found)?;
            }
            return self.children(path, expected.0, found.0);
        }
        if expected.1.nlink() > 1 || found.1.nlink() > 1 {
            let (here, there) = (inode(expected.1), inode(found.1));
            let known = *self.there.entry(here).or_insert(there) == there;
            if !(*self.back.entry(there).or_insert(here) == here && known) {
                self.tell(path, "is not the same file as its other names");
            }
        }
        self.metadata(path, expected, found)?;
        match () {
            () if expected.1.is_file() => self.content(path, expected, found),
            () if expected.1.is_symlink() => {
                let target = |path: &Path| fs::read_link(path).at("read symlink", path);
                if target(expected.0)? != target(found.0)? {
                    self.tell(path, "points elsewhere");
                }
                Ok(())
            }
            () => {
                if expected.1.rdev() != found.1.rdev() {
                    self.tell(path, "is another device");
                }
                Ok(())
            }
        }
    }

    fn metadata(&mut self, path: &[u8], expected: (&Path, &Metadata), found: (&Path, &Metadata)) -> Result<()> {
        let ((expected, wanted), (found, is)) = (expected, found);
        if wanted.mode() != is.mode() {
            self.tell(path, format!("has the mode {:o} instead of {:o}", is.mode() & 0o7777, wanted.mode() & 0o7777));
        }
        if (wanted.uid(), wanted.gid()) != (is.uid(), is.gid()) {
            let (uid, gid, own_uid, own_gid) = (is.uid(), is.gid(), wanted.uid(), wanted.gid());
            self.tell(path, format!("belongs to {uid}:{gid} instead of {own_uid}:{own_gid}"));
        }
        if (wanted.mtime(), wanted.mtime_nsec()) != (is.mtime(), is.mtime_nsec()) {
            self.tell(path, format!("was modified at {} instead of {}", is.mtime(), wanted.mtime()));
        }
        if attributes(expected)? != attributes(found)? {
            self.tell(path, "has other extended attributes");
        }
        if wanted.is_dir() && is_opaque(expected)? != is_opaque(found)? {
            self.tell(path, "hides other parts of the layers below");
        }
        Ok(())
    }

    fn content(&mut self, path: &[u8], expected: (&Path, &Metadata), found: (&Path, &Metadata)) -> Result<()> {
        let ((expected, wanted), (found, is)) = (expected, found);
        if wanted.len() != is.len() {
            self.tell(path, format!("has {} bytes instead of {}", is.len(), wanted.len()));
            return Ok(());
        }
        let (mut ours, mut theirs) = (File::open(expected).at("open", expected)?, File::open(found).at("open", found)?);
        let (mut one, mut other) = (vec![0; PIECE], vec![0; PIECE]);
        let mut left = wanted.len();
        while left > 0 {
            let size = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            ours.read_exact(&mut one[..size]).at("read", expected)?;
            theirs.read_exact(&mut other[..size]).at("read", found)?;
            if one[..size] != other[..size] {
                self.tell(path, "has other content");
                return Ok(());
            }
            left -= size as u64;
        }
        Ok(())
    }
}

/// Bytes compared at a time.
const PIECE: usize = 128 << 10;

fn entries(dir: &Path) -> Result<BTreeMap<OsString, Metadata>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).at("read", dir)? {
        let entry = entry.at("read", dir)?;
        found.insert(entry.file_name(), entry.metadata().at("look at", entry.path())?);
    }
    Ok(found)
}

/// A file's attributes but those that are overlayfs's own, and labels, which belong to the machine.
fn attributes(path: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for name in list_xattrs(path).at("list the attributes of", path)? {
        if unescape_xattr(&name).is_some() && name != b"security.selinux" && !name.starts_with(b"trusted.overlay.") {
            let value = get_xattr(path, name.as_slice()).at("read the attributes of", path)?;
            found.insert(name, value.unwrap_or_default());
        }
    }
    Ok(found)
}

fn kind(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    match () {
        () if kind.is_file() => "a file",
        () if kind.is_dir() => "a folder",
        () if kind.is_symlink() => "a symlink",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    }
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// A tree with one file of each kind that a test may change.
    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let root = dir.path();
        fs::create_dir(root.join("folder")).expect("a folder");
        fs::set_permissions(root.join("folder"), fs::Permissions::from_mode(0o755)).expect("a mode");
        fs::write(root.join("folder/file"), "content").expect("a file");
        fs::hard_link(root.join("folder/file"), root.join("name")).expect("a link");
        symlink("folder", root.join("link")).expect("a symlink");
        for path in ["folder/file", "link", "folder"] {
            let stamp = rustix::fs::Timespec { tv_sec: 1_700_000_000, tv_nsec: 5 };
            let stamps = rustix::fs::Timestamps { last_access: stamp, last_modification: stamp };
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::utimensat(rustix::fs::CWD, root.join(path), &stamps, flags).expect("a time");
        }
        dir
    }

    fn check(change: impl Fn(&Path), expected: &[&str]) {
        let (one, other) = (tree(), tree());
        change(other.path());
        let how = Compare { root_implied: true, ..Compare::default() };
        let told = differences(one.path(), other.path(), &how).expect("readable");
        assert!(expected.iter().all(|word| told.iter().any(|line| line.contains(word))), "{told:?} tells {expected:?}");
        assert_eq!(told.is_empty(), expected.is_empty(), "{told:?}");
    }

    #[test]
    fn every_kind_of_change_is_seen() {
        check(|_| {}, &[]);
        let write = |root: &Path, text: &str| fs::write(root.join("folder/file"), text).expect("written");
        check(|root| write(root, "Content"), &["`folder/file` has other content", "`folder/file` was modified"]);
        check(|root| write(root, "more content"), &["has 12 bytes instead of 7"]);
        check(|root| fs::remove_file(root.join("name")).expect("removed"), &["`name` is missing"]);
        check(|root| fs::write(root.join("new"), "").expect("written"), &["`new` does not belong there"]);
        check(
            |root| fs::set_permissions(root.join("folder"), fs::Permissions::from_mode(0o700)).expect("changed"),
            &["`folder` has the mode 700 instead of 755"],
        );
        check(
            |root| {
                fs::remove_file(root.join("link")).expect("removed");
                symlink("other", root.join("link")).expect("a symlink");
            },
            &["`link` points elsewhere"],
        );
        check(
            |root| {
                fs::remove_file(root.join("name")).expect("removed");
                fs::copy(root.join("folder/file"), root.join("name")).expect("copied");
            },
            &["`name` is not the same file as its other names"],
        );
        check(
            |root| {
                fs::remove_file(root.join("link")).expect("removed");
                fs::create_dir(root.join("link")).expect("a folder");
            },
            &["`link` is a folder instead of a symlink"],
        );
    }
}
