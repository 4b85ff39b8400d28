//! Which files a step means: wildcards, whole folders, `--parents`, `--exclude`, files written in the Dockerfile.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use layerfs::error::{Context, Error, Kind, Result};

use super::tree::{Node, Tree};
use super::walk::{Entry, FileKind, Filter, Include, walk};
use crate::graph::Source;
use crate::ignore::Ignore;
use crate::ignore::glob::{Glob, has_wildcard};

/// What a step asks for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The sources.
    pub sources: &'a [Source],
    /// Sources keep their path.
    pub parents: bool,
    /// Patterns of what is left out.
    pub exclude: &'a [String],
    /// What was fetched for the sources that are elsewhere, in their order.
    pub fetched: &'a [Remote],
}

/// What was fetched for a source: its files, and the path among them that is meant.
#[derive(Clone, Debug)]
pub struct Remote {
    /// The files.
    pub tree: Arc<Tree>,
    /// What of them.
    pub path: String,
    /// The caller knows what they are by a name of their own, such as a commit's; no digest is taken.
    pub known: bool,
}

/// The files of one source. A wildcard is as many parts as it has matches.
#[derive(Debug)]
pub struct Part {
    /// The last component of the source as written: a file copied into a folder gets this name.
    pub name: Vec<u8>,
    /// What it is.
    pub content: Content,
    /// Of a folder: when it was changed, in seconds since 1970. A folder that is made for its files gets this time.
    pub modified: Option<i64>,
    /// Its files, where they are not the copy's.
    pub fetched: Option<Arc<Tree>>,
    /// No digest is taken of it: [`Remote::known`].
    pub known: bool,
}

impl Part {
    /// The tree of its files, which is `tree` unless it was fetched.
    pub fn tree<'a>(&'a self, tree: &'a Tree) -> &'a Tree {
        self.fetched.as_deref().unwrap_or(tree)
    }
}

/// What a part is.
#[derive(Debug)]
pub enum Content {
    /// One file; its path is empty.
    File(Box<Entry>),
    /// What is in a folder; not the folder itself, whose place the destination takes.
    Folder(Vec<Entry>),
    /// A file of the Dockerfile.
    Inline(Vec<u8>),
}

/// All parts, in order.
#[derive(Debug)]
pub struct Selection {
    /// The parts.
    pub parts: Vec<Part>,
}

impl Selection {
    /// Whether something called `name` lies at the top of what is selected.
    pub(crate) fn has_name(&self, name: &[u8]) -> bool {
        self.parts.iter().any(|part| match &part.content {
            Content::File(_) | Content::Inline(_) => part.name == name,
            // Sorted: what is below a folder follows it, so only whole names need to be looked at.
            Content::Folder(entries) => entries.iter().any(|entry| entry.path == name),
        })
    }
}

/// Finds what `request` means in `tree`.
///
/// # Errors
/// A source without wildcards leads to nothing, a pattern is malformed, or the tree cannot be read.
pub fn select(tree: &Tree, request: &Request<'_>) -> Result<Selection> {
    let exclude = Ignore::from_patterns(request.exclude.iter().map(String::as_str))?;
    let mut parts = Vec::new();
    let mut fetched = request.fetched.iter();
    for source in request.sources {
        match source {
            Source::Inline(name, content) => {
                let content = Content::Inline(content.clone().into());
                parts.push(Part {
                    name: name.clone().into_bytes(),
                    content,
                    modified: None,
                    fetched: None,
                    known: false,
                });
            }
            Source::Path(path) if request.parents => parts.push(with_parents(tree, path, &exclude)?),
            Source::Path(path) => {
                for path in matches(tree, path)? {
                    let node = tree.resolve(&path)?.ok_or_else(|| tree.missing(&path))?;
                    parts.extend(part(tree, &path, node, &exclude, has_wildcard(source_text(source)))?);
                }
            }
            Source::Remote(fetch) => {
                let none = || Error::new(Kind::Unsupported, format!("`{}` was not fetched", fetch.written));
                let Remote { tree, path, known } = fetched.next().ok_or_else(none)?;
                let node = tree.resolve(path)?.ok_or_else(|| tree.missing(path))?;
                let part = part(tree, path, node, &exclude, false)?;
                parts.extend(part.map(|part| Part { fetched: Some(tree.clone()), known: *known, ..part }));
            }
        }
    }
    Ok(Selection { parts })
}

fn source_text(source: &Source) -> &str {
    match source {
        Source::Path(text) | Source::Inline(text, _) => text,
        Source::Remote(fetch) => &fetch.written,
    }
}

fn part(tree: &Tree, path: &str, node: Node, exclude: &Ignore, wildcard: bool) -> Result<Option<Part>> {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    if !node.metadata.is_dir() {
        if wildcard && exclude.matches(name) {
            return Ok(None);
        }
        let entry = Entry::of(tree, Vec::new(), node.path.clone().into_bytes(), node.metadata)?;
        let entry = entry.ok_or_else(|| Error::new(Kind::Invalid, format!("`{path}` is a socket")))?;
        return Ok(Some(Part {
            name: name.into(),
            content: Content::File(Box::new(entry)),
            modified: None,
            fetched: None,
            known: false,
        }));
    }
    let below = walk(tree, &node.path, &Filter { exclude: exclude.clone(), include: None })?;
    Ok(Some(Part {
        name: name.into(),
        content: Content::Folder(below),
        modified: Some(node.metadata.mtime()),
        fetched: None,
        known: false,
    }))
}

/// `--parents`: the path after a `/./`, or all of it, is kept.
fn with_parents(tree: &Tree, path: &str, exclude: &Ignore) -> Result<Part> {
    let (root, pattern) = path.split_once("/./").unwrap_or(("", path));
    let parts: Vec<String> =
        pattern.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned).collect();
    let wildcard = has_wildcard(root) || has_wildcard(pattern);
    let pattern = parts.join("/");
    let roots = matches(tree, root)?;
    let mut all = Vec::new();
    for root in &roots {
        let Some(node) = tree.resolve(root)? else { return Err(tree.missing(root)) };
        if pattern.is_empty() {
            all.extend(walk(tree, &node.path, &Filter { exclude: exclude.clone(), include: None })?);
            continue;
        }
        let include = Include { pattern: Ignore::from_patterns([pattern.as_str()])?, parts: parts.clone() };
        let filter = Filter { exclude: exclude.clone(), include: Some(include) };
        let found = walk(tree, &node.path, &filter)?;
        if found.is_empty() && !wildcard {
            return Err(tree.missing(&format!("{}/{pattern}", node.path)));
        }
        all.extend(found);
    }
    Ok(Part { name: Vec::new(), content: Content::Folder(all), modified: None, fetched: None, known: false })
}

/// The paths that a source with wildcards stands for, sorted; itself where it has none. A wildcard that matches
/// nothing stands for nothing.
fn matches(tree: &Tree, pattern: &str) -> Result<Vec<String>> {
    if !has_wildcard(pattern) {
        return Ok(vec![unescape(pattern)]);
    }
    let mut found = vec![String::new()];
    for part in pattern.split('/').filter(|part| !part.is_empty() && *part != ".") {
        let mut next = Vec::new();
        for folder in &found {
            let path = |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
            if !has_wildcard(part) {
                next.push(path(&unescape(part)));
                continue;
            }
            let bad = |_| Error::new(Kind::Invalid, format!("`{pattern}` is not a pattern"));
            let glob = Glob::parse(part).map_err(bad)?;
            let Some(node) = tree.resolve(folder)? else { continue };
            if !node.metadata.is_dir() {
                continue;
            }
            let real = tree.real(&node.path);
            let mut names = Vec::new();
            for entry in fs::read_dir(&real).at("read", &real)? {
                let name = entry.at("read", &real)?.file_name();
                let name = String::from_utf8_lossy(name.as_bytes()).into_owned();
                if glob.matches(&name) {
                    names.push(name);
                }
            }
            names.sort();
            next.extend(names.iter().map(|name| path(name)));
        }
        found = next;
    }
    let mut there = Vec::new();
    for path in found {
        // A symlink that leads to nothing is there, and is told when it is looked for.
        let dangling = || !tree.ignore().matches(&path) && tree.is_symlink(&path);
        if tree.resolve(&path)?.is_some() || dangling() {
            there.push(path);
        }
    }
    Ok(there)
}

/// A backslash takes the meaning from the character behind it, as in a pattern.
fn unescape(text: &str) -> String {
    Glob::parse(text).ok().and_then(|glob| glob.literal()).unwrap_or_else(|| text.to_owned())
}

/// The entries below one path of a tree, for a mount: a file alone, or a folder with itself first.
pub(super) fn everything_at(tree: &Tree, path: &str) -> Result<Vec<Entry>> {
    let node = tree.resolve(path)?.ok_or_else(|| tree.missing(path))?;
    let itself = Entry::of(tree, Vec::new(), node.path.clone().into_bytes(), node.metadata.clone())?;
    let below = match node.metadata.is_dir() {
        true => walk(tree, &node.path, &Filter::default())?,
        false => Vec::new(),
    };
    Ok(itself.into_iter().chain(below).collect())
}

/// Where an entry lies on disk.
pub(crate) fn real(tree: &Tree, entry: &Entry) -> std::path::PathBuf {
    tree.real(Path::new(std::ffi::OsStr::from_bytes(&entry.source)))
}

impl Entry {
    /// Whether its bytes are part of what it is.
    pub(super) fn has_content(&self) -> bool {
        self.kind == FileKind::File
    }
}
