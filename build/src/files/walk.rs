//! The entries of a folder, in order, read by all cores.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use layerfs::error::{Context, Result};
use rayon::prelude::*;

use super::tree::Tree;
use crate::ignore::{Decision, Ignore};

/// Folders with more names than this are looked at by several threads.
const PARALLEL: usize = 64;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A folder.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
}

/// A file below the root of a selection.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its path below the root; empty for the root itself.
    pub path: Vec<u8>,
    /// Its path in the tree.
    pub source: Vec<u8>,
    /// What it is.
    pub kind: FileKind,
    /// Its metadata.
    pub metadata: Metadata,
    /// A symlink's target.
    pub link: Vec<u8>,
}

impl Entry {
    /// The entry of a file of the tree; `None` for a socket, which no image can hold.
    pub(super) fn of(tree: &Tree, path: Vec<u8>, source: Vec<u8>, metadata: Metadata) -> Result<Option<Self>> {
        let kind = metadata.file_type();
        let kind = match () {
            () if kind.is_file() => FileKind::File,
            () if kind.is_dir() => FileKind::Dir,
            () if kind.is_symlink() => FileKind::Symlink,
            () if kind.is_char_device() => FileKind::Char,
            () if kind.is_block_device() => FileKind::Block,
            () if kind.is_fifo() => FileKind::Fifo,
            () => return Ok(None),
        };
        let mut link = Vec::new();
        if kind == FileKind::Symlink {
            let real = tree.real(Path::new(std::ffi::OsStr::from_bytes(&source)));
            link = fs::read_link(&real).at("read symlink", &real)?.into_os_string().into_vec();
        }
        Ok(Some(Self { path, source, kind, metadata, link }))
    }

    /// The permission bits with setuid, setgid and sticky.
    pub fn mode(&self) -> u32 {
        self.metadata.mode() & 0o7777
    }
}

/// Which of the entries below a root are meant, besides what the tree's own ignore file says.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    /// `--exclude`, relative to the root.
    pub(super) exclude: Ignore,
    /// `--parents`: only what this matches, and the folders on the way.
    pub(super) include: Option<Include>,
}

/// A pattern of `--parents`, and its components that a walk can be cut short by.
#[derive(Clone, Debug)]
pub(super) struct Include {
    pub(super) pattern: Ignore,
    pub(super) parts: Vec<String>,
}

impl Include {
    /// Whether something below the folder `path` can match.
    fn may_match_below(&self, path: &str) -> bool {
        for (part, name) in self.parts.iter().zip(path.split('/')) {
            if part.contains(['*', '?', '[', '\\']) {
                return true;
            }
            if part != name {
                return false;
            }
        }
        true
    }
}

/// All entries below `source`, a folder of the tree, sorted, each folder before what is in it; not the folder itself.
pub(super) fn walk(tree: &Tree, source: &str, filter: &Filter) -> Result<Vec<Entry>> {
    let decision = folder_decision(tree.ignore(), source);
    let mut entries =
        Walk { tree, filter }.folder(b"", source.as_bytes(), &decision, Decision::top(), Decision::top())?;
    if filter.include.is_some() {
        drop_folders_in_vain(&mut entries);
    }
    Ok(entries.into_iter().map(|(entry, _)| entry).collect())
}

/// What the ignore file says of a folder, handed down from the tree's root.
fn folder_decision(ignore: &Ignore, path: &str) -> Decision {
    let mut decision = Decision::top().clone();
    let mut so_far = String::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        if !so_far.is_empty() {
            so_far.push('/');
        }
        so_far.push_str(part);
        decision = ignore.decide(&so_far, &decision);
    }
    decision
}

/// An entry, and whether it is meant for its own sake rather than as the way to others.
type Found = (Entry, bool);

struct Walk<'a> {
    tree: &'a Tree,
    filter: &'a Filter,
}

impl Walk<'_> {
    fn folder(
        &self,
        path: &[u8],
        source: &[u8],
        ignored: &Decision,
        excluded: &Decision,
        included: &Decision,
    ) -> Result<Vec<Found>> {
        let real = self.tree.real(Path::new(std::ffi::OsStr::from_bytes(source)));
        let mut names: Vec<fs::DirEntry> = fs::read_dir(&real).and_then(Iterator::collect).at("read", &real)?;
        names.sort_by_key(fs::DirEntry::file_name);
        let one = |name: &fs::DirEntry| self.one(name, path, source, ignored, excluded, included);
        let lists: Vec<Vec<Found>> = match names.len() {
            0..PARALLEL => names.iter().map(one).collect::<Result<_>>()?,
            _ => names.par_iter().with_min_len(PARALLEL / 4).map(one).collect::<Result<_>>()?,
        };
        Ok(lists.into_iter().flatten().collect())
    }

    fn one(
        &self,
        name: &fs::DirEntry,
        path: &[u8],
        source: &[u8],
        ignored: &Decision,
        excluded: &Decision,
        included: &Decision,
    ) -> Result<Vec<Found>> {
        let file_name = name.file_name();
        let (path, source) = (join(path, file_name.as_bytes()), join(source, file_name.as_bytes()));
        let is_dir = name.file_type().is_ok_and(|kind| kind.is_dir());
        let (path_text, source_text) = (String::from_utf8_lossy(&path), String::from_utf8_lossy(&source));
        let ignore = self.tree.ignore();
        let ignored = decide(ignore, &source_text, ignored, is_dir);
        let excluded = decide(&self.filter.exclude, &path_text, excluded, is_dir);
        let include = self.filter.include.as_ref();
        let included = include.map(|include| decide(&include.pattern, &path_text, included, is_dir));
        let out = ignored.ignored() || excluded.ignored();
        let meant = !out && included.as_ref().is_none_or(Decision::ignored);
        if is_dir {
            let enter = (!ignored.ignored() || ignore.may_contain_reincluded(&source_text))
                && (!excluded.ignored() || self.filter.exclude.may_contain_reincluded(&path_text))
                && (meant || self.filter.include.as_ref().is_none_or(|include| include.may_match_below(&path_text)));
            if !enter {
                return Ok(Vec::new());
            }
        } else if !meant {
            return Ok(Vec::new());
        }
        let metadata = match name.metadata() {
            // It was there a moment ago; a context that changes while it is read is the user's.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.at("look at", name.path())?,
        };
        let mut found = Vec::new();
        if is_dir {
            let top = Decision::top();
            let below = self.folder(&path, &source, &ignored, &excluded, included.as_ref().unwrap_or(top))?;
            // A folder that is left out is there only for what is taken back in below it.
            if out && below.is_empty() {
                return Ok(Vec::new());
            }
            if let Some(entry) = Entry::of(self.tree, path, source, metadata)? {
                found.push((entry, meant));
            }
            found.extend(below);
        } else if let Some(entry) = Entry::of(self.tree, path, source, metadata)? {
            found.push((entry, true));
        }
        Ok(found)
    }
}

fn decide(ignore: &Ignore, path: &str, folder: &Decision, is_dir: bool) -> Decision {
    match (ignore.is_empty(), is_dir) {
        (true, _) => Decision::default(),
        _ => ignore.decide(path, folder),
    }
}

/// Takes out folders that lead to nothing that is meant.
fn drop_folders_in_vain(entries: &mut Vec<Found>) {
    let mut keep = vec![false; entries.len()];
    for at in (0..entries.len()).rev() {
        let (entry, meant) = &entries[at];
        let mut prefix = entry.path.clone();
        prefix.push(b'/');
        // Sorted: what is below a folder follows it at once, and was decided already.
        let below = entries[at + 1..].iter().zip(&keep[at + 1..]).take_while(|((e, _), _)| e.path.starts_with(&prefix));
        keep[at] = *meant || below.into_iter().any(|(_, kept)| *kept);
    }
    let mut keep = keep.into_iter();
    entries.retain(|_| keep.next().unwrap_or(false));
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}
