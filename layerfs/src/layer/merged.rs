//! A stack of layers looked at from user space, with no mount: which file a path leads to, as overlayfs would say.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use crate::archive::{is_opaque, is_whiteout};
use crate::error::{Context, Error, Kind, Result};

/// A stack of layer folders. Symlinks are followed inside it, as if it were `/`.
#[derive(Clone, Debug)]
pub struct MergedView {
    /// Topmost first.
    layers: Vec<PathBuf>,
}

/// What a path leads to.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The path with no symlink in it (but the last component of [`MergedView::lookup`]), relative to the root.
    pub path: PathBuf,
    /// Where the file, or the topmost folder, lies on disk.
    pub real: PathBuf,
    /// Its metadata; a symlink's own.
    pub metadata: Metadata,
    /// For a folder, every layer's part of it, topmost first.
    dirs: Vec<PathBuf>,
}

impl MergedView {
    /// A view of folders that are stacked `lowers` first, lowest first.
    pub fn new(lowers: &[PathBuf]) -> Self {
        Self { layers: lowers.iter().rev().cloned().collect() }
    }

    /// What `path` names, following symlinks on the way but not a last one.
    ///
    /// # Errors
    /// The layers cannot be read, or symlinks go round in a circle.
    pub fn lookup(&self, path: impl AsRef<Path>) -> Result<Option<Entry>> {
        self.walk(path.as_ref(), false)
    }

    /// What `path` leads to, following every symlink.
    ///
    /// # Errors
    /// Those of [`MergedView::lookup`].
    pub fn resolve(&self, path: impl AsRef<Path>) -> Result<Option<Entry>> {
        self.walk(path.as_ref(), true)
    }

    /// The content of the regular file that `path` leads to; `None` where there is none.
    ///
    /// # Errors
    /// It has more than `max` bytes, or is not a regular file: an image's `/etc/passwd` may be a pipe or a device
    /// (CVE-2024-9676).
    pub fn read(&self, path: impl AsRef<Path>, max: u64) -> Result<Option<Vec<u8>>> {
        let path = path.as_ref();
        let Some(entry) = self.resolve(path)? else { return Ok(None) };
        let shown = path.display();
        if !entry.metadata.is_file() {
            return Err(Error::new(Kind::Invalid, format!("`{shown}` in the image is not a regular file")));
        }
        let mut bytes = Vec::new();
        let file = fs::File::open(&entry.real).at("open", &entry.real)?;
        file.take(max + 1).read_to_end(&mut bytes).at("read", &entry.real)?;
        if bytes.len() as u64 > max {
            return Err(Error::new(Kind::Limit, format!("`{shown}` in the image has more than {max} bytes")));
        }
        Ok(Some(bytes))
    }

    /// The names in the folder that `path` leads to, sorted; `None` where there is no such folder.
    ///
    /// # Errors
    /// The layers cannot be read.
    pub fn read_dir(&self, path: impl AsRef<Path>) -> Result<Option<Vec<OsString>>> {
        let Some(entry) = self.resolve(path.as_ref())? else { return Ok(None) };
        if !entry.metadata.is_dir() {
            return Ok(None);
        }
        let mut names: BTreeMap<OsString, bool> = BTreeMap::new();
        for dir in &entry.dirs {
            for child in fs::read_dir(dir).at("read", dir)? {
                let child = child.at("read", dir)?;
                let kind = child.file_type().at("look at", child.path())?;
                let gone = kind.is_char_device() && child.metadata().is_ok_and(|metadata| metadata.rdev() == 0);
                names.entry(child.file_name()).or_insert(!gone);
            }
        }
        Ok(Some(names.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()))
    }

    fn root(&self) -> Result<Option<Entry>> {
        let mut dirs: Vec<PathBuf> = Vec::new();
        for layer in &self.layers {
            dirs.push(layer.clone());
            if is_opaque(layer)? {
                break;
            }
        }
        let Some(real) = dirs.first().cloned() else { return Ok(None) };
        let metadata = fs::metadata(&real).at("look at", &real)?;
        Ok(Some(Entry { path: PathBuf::new(), real, metadata, dirs }))
    }

    fn walk(&self, path: &Path, follow_last: bool) -> Result<Option<Entry>> {
        let mut pending: Vec<OsString> = parts(path).rev().collect();
        let Some(root) = self.root()? else { return Ok(None) };
        let mut trail = vec![root];
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if name == ".." {
                if trail.len() > 1 {
                    trail.pop();
                }
                continue;
            }
            let here = trail.last().expect("the root stays on the trail");
            if !here.metadata.is_dir() {
                return Ok(None);
            }
            let Some(child) = self.child(here, &name)? else { return Ok(None) };
            if child.metadata.is_symlink() && (follow_last || !pending.is_empty()) {
                links += 1;
                if links > crate::sys::fs::SYMLINKS_MAX {
                    return Err(Error::new(Kind::Invalid, format!("`{}` has too many symlinks", path.display())));
                }
                let target = fs::read_link(&child.real).at("read symlink", &child.real)?;
                if target.is_absolute() {
                    trail.truncate(1);
                }
                pending.extend(parts(&target).rev());
                continue;
            }
            trail.push(child);
        }
        Ok(trail.pop())
    }

    /// The child of a folder that this view found.
    pub(super) fn child(&self, parent: &Entry, name: &OsStr) -> Result<Option<Entry>> {
        let path = parent.path.join(name);
        let mut found: Option<Entry> = None;
        for dir in &parent.dirs {
            let real = dir.join(name);
            let metadata = match fs::symlink_metadata(&real) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                result => result.at("look at", &real)?,
            };
            let whiteout = is_whiteout(&real, &metadata)?;
            if whiteout || (!metadata.is_dir() && found.is_some()) {
                break;
            }
            let is_dir = metadata.is_dir();
            let opaque = is_dir && is_opaque(&real)?;
            let dirs = if is_dir { vec![real.clone()] } else { Vec::new() };
            match &mut found {
                Some(top) => top.dirs.extend(dirs),
                None => found = Some(Entry { path: path.clone(), real, metadata, dirs }),
            }
            if !is_dir || opaque {
                break;
            }
        }
        Ok(found)
    }
}

fn parts(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsStr::from_bytes(b"..").to_owned()),
        _ => None,
    })
}
