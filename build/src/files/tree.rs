//! A folder that files are copied from, as if it were `/`.

use std::any::Any;
use std::fs::{self, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};

use crate::ignore::Ignore;

/// Most symlinks that one path may lead through, as the kernel's `MAXSYMLINKS`.
const SYMLINKS_MAX: usize = 40;

/// A tree of files: a build context, or the files of a stage or image.
#[derive(Debug)]
pub struct Tree {
    /// What messages call it: `the build context`, `stage builder`.
    label: String,
    root: PathBuf,
    ignore: Ignore,
    /// These are files of layers.
    image: bool,
    /// Keeps alive what `root` leads into.
    _held: Option<Box<dyn Any + Send + Sync>>,
}

/// What a path leads to.
#[derive(Clone, Debug)]
pub struct Node {
    /// The path in the tree, no symlink in it, no leading slash; empty for the root.
    pub path: String,
    /// Its metadata.
    pub metadata: Metadata,
}

impl Tree {
    /// The tree of a folder, without what `ignore` says.
    pub fn new(label: impl Into<String>, root: PathBuf, ignore: Ignore) -> Self {
        Self { label: label.into(), root, ignore, image: false, _held: None }
    }

    /// The tree of a mount that is attached nowhere.
    pub fn of_mount(label: impl Into<String>, mount: OwnedFd) -> Self {
        use std::os::fd::AsRawFd;
        let root = PathBuf::from(format!("/proc/self/fd/{}/", mount.as_raw_fd()));
        Self::of_layers(label, root, Box::new(mount))
    }

    /// The tree of layers that lie at `root` as long as `held` lives.
    pub fn of_layers(label: impl Into<String>, root: PathBuf, held: Box<dyn Any + Send + Sync>) -> Self {
        Self { label: label.into(), root, ignore: Ignore::default(), image: true, _held: Some(held) }
    }

    /// Whether these are the files of a stage or image, whose owners and attributes mean something.
    pub fn is_image(&self) -> bool {
        self.image
    }

    /// What messages call it.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Where it lies.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What of it does not count.
    pub fn ignore(&self) -> &Ignore {
        &self.ignore
    }

    /// Where a path of the tree lies on disk.
    pub fn real(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        if path.as_os_str().is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    /// Whether `path`, as it stands, is a symlink.
    pub(super) fn is_symlink(&self, path: &str) -> bool {
        fs::symlink_metadata(self.real(path)).is_ok_and(|metadata| metadata.is_symlink())
    }

    /// What `path` leads to, all symlinks followed inside the tree; `None` where that is nothing, or ignored.
    ///
    /// # Errors
    /// The tree cannot be read, or symlinks go round in a circle.
    pub fn resolve(&self, path: &str) -> Result<Option<Node>> {
        let mut pending: Vec<String> = parts(path).rev().collect();
        let mut trail: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if name == ".." {
                trail.pop();
                continue;
            }
            trail.push(name);
            let real = self.real(trail.join("/"));
            let metadata = match fs::symlink_metadata(&real) {
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    return Ok(None);
                }
                result => result.at("look at", &real)?,
            };
            if !metadata.is_symlink() {
                continue;
            }
            links += 1;
            if links > SYMLINKS_MAX {
                return Err(Error::new(Kind::Invalid, format!("`{path}` in {} has too many symlinks", self.label)));
            }
            let target = fs::read_link(&real).at("read symlink", &real)?;
            let target = target.to_string_lossy().into_owned();
            trail.pop();
            if target.starts_with('/') {
                trail.clear();
            }
            pending.extend(parts(&target).rev());
        }
        let path = trail.join("/");
        let real = self.real(&path);
        let metadata = fs::metadata(&real).at("look at", &real)?;
        let hidden = !path.is_empty()
            && self.ignore.matches(&path)
            && !(metadata.is_dir() && self.ignore.may_contain_reincluded(&path));
        Ok((!hidden).then_some(Node { path, metadata }))
    }

    /// The error for a path that leads to nothing: it says so if an ignore rule is to blame.
    pub fn missing(&self, path: &str) -> Error {
        let clean = parts(path).collect::<Vec<_>>().join("/");
        let there = fs::symlink_metadata(self.real(&clean)).is_ok();
        let error = Error::new(Kind::NotFound, format!("`{path}` is not in {}", self.label));
        let target = fs::read_link(self.real(&clean)).ok();
        if let Some(target) = target.filter(|_| !self.ignore.matches(&clean)) {
            let (target, label) = (target.display(), &self.label);
            return Error::new(Kind::NotFound, format!("`{path}` is a symlink to `{target}`, which is not in {label}"));
        }
        match self.ignore.reason(&clean) {
            Some(rule) if there => error.hint(format!(
                "it is on disk, but the ignore file's rule `{rule}` leaves it out; add `!{clean}` to take it in"
            )),
            _ => match self.nearest(&clean) {
                Some(name) => error.hint(format!("there is `{name}`")),
                None if !self.image => error.hint(format!("paths are taken from `{}`", self.root.display())),
                None => error.hint("paths are taken from that stage's root"),
            },
        }
    }

    /// A name beside the one that is missing that differs only in case or by a letter or two.
    fn nearest(&self, path: &str) -> Option<String> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let names: Vec<String> = fs::read_dir(self.real(folder))
            .ok()?
            .take(4096)
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        let lower = name.to_lowercase();
        let same = names.iter().find(|known| known.to_lowercase() == lower);
        let found = same.or_else(|| names.iter().find(|known| one_edit_apart(&known.to_lowercase(), &lower)))?;
        Some(if folder.is_empty() { found.clone() } else { format!("{folder}/{found}") })
    }
}

fn one_edit_apart(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let front = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let back = a[front..].iter().rev().zip(b[front..].iter().rev()).take_while(|(x, y)| x == y).count();
    let (left, right) = (a.len() - front - back, b.len() - front - back);
    left <= 1 && right <= 1 && a.len().min(b.len()) > 2
}

fn parts(path: &str) -> impl DoubleEndedIterator<Item = String> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned)
}
