//! Trees of files as text, for comparing what different programs make of one layer.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use layerfs::digest::Digest;
use layerfs::sys::fs::{get_xattr, list_xattrs};

/// Path, escaped → everything about what is there.
pub(crate) type Tree = BTreeMap<String, String>;

/// Which times count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Times {
    /// None of a folder: who unpacks layers over one another changes those of folders that no layer describes.
    Files,
    /// All, to the nanosecond.
    Nanos,
}

/// Everything below `root`, the root itself not included: type, mode, owner, size, time, content, device, extended
/// attributes, and for a file with several names the first of them.
pub(crate) fn read(root: &Path, times: Times) -> Tree {
    let mut tree = Tree::new();
    let mut names = Vec::new();
    collect(root, b"", &mut names);
    names.sort();
    let mut first: HashMap<(u64, u64), String> = HashMap::new();
    for name in names {
        let path = root.join(OsStr::from_bytes(&name));
        // A whiteout that overlayfs lists without having it, because nothing is below.
        let Ok(m) = fs::symlink_metadata(&path) else { continue };
        let shown = name.escape_ascii().to_string();
        let kind = m.file_type();
        let content = match () {
            () if kind.is_file() => Digest::of(&fs::read(&path).expect("root reads every file")).short(),
            () if kind.is_symlink() => {
                fs::read_link(&path).expect("it is one").as_os_str().as_bytes().escape_ascii().to_string()
            }
            () if kind.is_dir() => String::new(),
            () => format!("{}:{}", rustix::fs::major(m.rdev()), rustix::fs::minor(m.rdev())),
        };
        let time = match times {
            Times::Files if kind.is_dir() => String::new(),
            Times::Files => m.mtime().to_string(),
            Times::Nanos => format!("{}.{:09}", m.mtime(), m.mtime_nsec()),
        };
        let size = if kind.is_file() { m.len() } else { 0 };
        let mode = if kind.is_symlink() { 0 } else { m.mode() & 0o7777 };
        let mut line = format!("{:o} {mode:o} {}:{} {size} {time} {content}", m.mode() >> 12, m.uid(), m.gid());
        for (key, value) in attributes(&path) {
            line.push_str(&format!(" {}={}", key.escape_ascii(), value.escape_ascii()));
        }
        if !kind.is_dir() {
            let same = first.entry((m.dev(), m.ino())).or_insert_with(|| shown.clone());
            if *same != shown {
                line.push_str(&format!(" same as {same}"));
            }
        }
        tree.insert(shown, line);
    }
    tree
}

fn collect(root: &Path, below: &[u8], names: &mut Vec<Vec<u8>>) {
    for entry in fs::read_dir(root.join(OsStr::from_bytes(below))).expect("a folder that can be read") {
        let entry = entry.expect("a folder that can be read");
        let name = entry.file_name();
        let path = if below.is_empty() { name.as_bytes().to_vec() } else { [below, b"/", name.as_bytes()].concat() };
        if entry.file_type().expect("its type").is_dir() {
            collect(root, &path, names);
        }
        names.push(path);
    }
}

/// The attributes that are the files' own, not the store's or the machine's.
fn attributes(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    for key in list_xattrs(path).expect("attributes can be listed") {
        let theirs = [&b"trusted.overlay."[..], b"user.overlay.", b"security.selinux"];
        if !theirs.iter().any(|prefix| key.starts_with(prefix)) {
            let value = get_xattr(path, key.as_slice()).expect("attributes can be read").expect("it was listed");
            found.push((key, value));
        }
    }
    found.sort();
    found
}

/// What differs, a few lines of it; empty where nothing does.
pub(crate) fn difference(ours: &Tree, theirs: &Tree) -> String {
    let mut lines = Vec::new();
    let paths: std::collections::BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    for path in paths {
        let (a, b) = (ours.get(path), theirs.get(path));
        if a != b {
            let shown = |line: Option<&String>| line.map_or("nothing", |line| line).to_owned();
            lines.push(format!("{path}\n    ours:   {}\n    theirs: {}", shown(a), shown(b)));
        }
    }
    let more = lines.len().saturating_sub(20);
    lines.truncate(20);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines.join("\n")
}
