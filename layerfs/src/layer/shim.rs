//! What of a layer depends on the layers below it.
//!
//! | the layer has | below there is | the shim holds |
//! |---|---|---|
//! | a file in `d/`, no entry for `d` | a folder `d` | `d` with the metadata it has below |
//! | a file in `d/`, no entry for `d` | a symlink `d` to a folder `e` | the symlink, and what the layer has in `d` at `e` |
//! | a hard link to `f`, which it does not hold | a file `f` | the file under the link's name |
//!
//! The rest of the cases (nothing below, or a file where the layer has a folder) need nothing: overlayfs shows what
//! unpacking one layer over the other would give. Below a folder that the layer has made opaque, or has put in the
//! place of something else, there is nothing. The semantics are those of containerd's applier.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use serde::{Deserialize, Serialize};

use super::merged::{Entry, MergedView};
use super::{LayerMeta, below, unescape_path};
use crate::archive::{OPAQUE_XATTR, is_opaque, unescape_xattr};
use crate::digest::ChainId;
use crate::error::{Context, Error, Kind, Result};
use crate::store::Store;
use crate::sys::fs::{SYMLINKS_MAX, get_xattr, list_xattrs};

/// `meta.json` beside a shim.
#[derive(Serialize, Deserialize)]
pub(super) struct ShimMeta {
    pub(super) empty: bool,
}

/// The shim of the layer in `files` on top of `lowers` (lowest first); `None` where nothing is needed.
pub(super) fn make(
    store: &Store,
    lowers: &[PathBuf],
    chain: ChainId,
    files: &Path,
    meta: &LayerMeta,
) -> Result<Option<PathBuf>> {
    let key = store.shim_key(chain)?;
    let place = store.layers_dir().join(&key);
    let known =
        |place: &Path| -> Option<ShimMeta> { serde_json::from_slice(&fs::read(place.join("meta.json")).ok()?).ok() };
    if let Some(found) = known(&place) {
        return Ok((!found.empty).then(|| place.join("fs")));
    }
    let (dir, shim) = store.new_layer_dir()?;
    let empty = fill(&shim, lowers, files, meta)?;
    let files = store.publish_layer(&dir, key, &ShimMeta { empty })?;
    Ok((!empty).then_some(files))
}

/// Makes the shim in the empty folder `shim`; says whether nothing was needed.
pub(super) fn fill(shim: &Path, lowers: &[PathBuf], files: &Path, meta: &LayerMeta) -> Result<bool> {
    let mut maker = Maker {
        below: MergedView::new(lowers),
        whole: MergedView::new(&[lowers, &[files.to_owned()]].concat()),
        files,
        shim,
        implied: meta.implied.iter().map(|path| unescape_path(path)).collect(),
        moved: Vec::new(),
        made: BTreeMap::new(),
        known: HashMap::new(),
    };
    maker.folders()?;
    for (path, target) in &meta.links {
        maker.link(&unescape_path(path), &unescape_path(target))?;
    }
    let empty = maker.made.is_empty() && fs::read_dir(shim).at("read", shim)?.next().is_none();
    maker.finish()?;
    Ok(empty)
}

struct Maker<'a> {
    below: MergedView,
    /// The same with the layer itself.
    whole: MergedView,
    files: &'a Path,
    shim: &'a Path,
    /// True paths of the layer's folders that it does not describe.
    implied: BTreeSet<Vec<u8>>,
    /// Folders of the layer that are symlinks below, with where their content went.
    moved: Vec<(Vec<u8>, Vec<u8>)>,
    /// Folders made in the shim, with what they are copies of.
    made: BTreeMap<PathBuf, Option<PathBuf>>,
    /// What was found below.
    known: HashMap<Vec<u8>, Option<Rc<Entry>>>,
}

impl Maker<'_> {
    fn folders(&mut self) -> Result<()> {
        for path in self.implied.clone() {
            if self.moved_to(&path).is_some() {
                continue;
            }
            let Some(lower) = self.lower(&path)? else { continue };
            if lower.metadata.is_symlink() {
                let target = self.follow(&path, &lower)?;
                self.folder(split(&path).0)?;
                let link = below(self.shim, &path);
                fs::hard_link(&lower.real, &link).at("link", &link)?;
                self.relocate(&path, &target)?;
            } else if lower.metadata.is_dir() {
                let own = below(self.files, &path);
                let metadata = fs::symlink_metadata(&own).at("look at", &own)?;
                if !same_folder(&metadata, &lower.metadata, &lower.real)? {
                    self.folder(&path)?;
                }
            }
        }
        Ok(())
    }

    /// What the layer is laid on at `path`, no symlink followed.
    fn lower(&mut self, path: &[u8]) -> Result<Option<Rc<Entry>>> {
        if let Some(known) = self.known.get(path) {
            return Ok(known.clone());
        }
        let found = if path.is_empty() {
            self.below.lookup("")?
        } else {
            let (parent, name) = split(path);
            match self.lower(parent)?.filter(|folder| folder.metadata.is_dir()) {
                Some(folder) if !self.is_opaque(parent)? => self.below.child(&folder, OsStr::from_bytes(name))?,
                _ => None,
            }
        };
        let found = found.map(Rc::new);
        self.known.insert(path.to_vec(), found.clone());
        Ok(found)
    }

    fn is_opaque(&self, path: &[u8]) -> Result<bool> {
        let own = below(self.files, path);
        Ok(fs::symlink_metadata(&own).is_ok_and(|metadata| metadata.is_dir()) && is_opaque(&own)?)
    }

    /// Where a symlink below leads, inside the image, whether or not something is there.
    fn follow(&mut self, path: &[u8], link: &Entry) -> Result<Vec<u8>> {
        let mut here = split(path).0.to_vec();
        let mut pending = Vec::new();
        let mut links = 0;
        let mut next = Some(fs::read_link(&link.real).at("read symlink", &link.real)?);
        loop {
            if let Some(target) = next.take() {
                links += 1;
                if links > SYMLINKS_MAX {
                    let path = path.escape_ascii();
                    return Err(Error::new(Kind::Invalid, format!("`{path}` has too many symlinks below")));
                }
                if target.is_absolute() {
                    here.clear();
                }
                let parts = target.as_os_str().as_bytes().split(|byte| *byte == b'/');
                pending.extend(parts.filter(|part| !matches!(*part, b"" | b".")).rev().map(<[u8]>::to_vec));
            }
            let Some(name) = pending.pop() else { return Ok(here) };
            if name == b".." {
                here.truncate(split(&here).0.len());
                continue;
            }
            let path = join(&here, &name);
            match self.lower(&path)?.filter(|entry| entry.metadata.is_symlink()) {
                Some(link) => next = Some(fs::read_link(&link.real).at("read symlink", &link.real)?),
                None => here = path,
            }
        }
    }

    /// Where a path of the layer lies once symlinks below are followed; `None` where it stays.
    fn moved_to(&self, path: &[u8]) -> Option<Vec<u8>> {
        // The last ones are those inside the first ones.
        self.moved.iter().rev().find_map(|(from, to)| {
            let rest = path.strip_prefix(from.as_slice())?;
            match rest {
                [] => Some(to.clone()),
                [b'/', rest @ ..] => Some(join(to, rest)),
                _ => None,
            }
        })
    }

    /// Lays the content of the layer's folder `from` down at `to`, where a symlink below leads instead.
    fn relocate(&mut self, from: &[u8], to: &[u8]) -> Result<()> {
        if self.lower(to)?.is_some_and(|entry| !entry.metadata.is_dir()) {
            let (from, to) = (from.escape_ascii(), to.escape_ascii());
            let sentence = format!("`{from}` leads to the file `{to}` of a layer below and cannot hold others");
            return Err(Error::new(Kind::Invalid, sentence));
        }
        self.moved.push((from.to_vec(), to.to_vec()));
        self.folder(to)?;
        if self.is_opaque(from)? {
            // What the layer itself has there stays, but lies below the mark.
            if below(self.files, to).is_dir() && from != to {
                self.children(to, to)?;
            }
            self.mark_opaque(to)?;
        }
        self.children(from, to)
    }

    /// The layer's children of `from`, as children of the shim's folder `to`.
    fn children(&mut self, from: &[u8], to: &[u8]) -> Result<()> {
        let folder = below(self.files, from);
        for child in fs::read_dir(&folder).at("read", &folder)? {
            let child = child.at("read", &folder)?;
            let name = child.file_name();
            let (own, target) = (join(from, name.as_bytes()), join(to, name.as_bytes()));
            let metadata = fs::symlink_metadata(child.path()).at("look at", child.path())?;
            let place = below(self.shim, &target);
            if metadata.is_dir() && self.implied.contains(&own) {
                match self.lower(&target)?.filter(|entry| entry.metadata.is_symlink()) {
                    Some(link) => {
                        let further = self.follow(&target, &link)?;
                        self.relocate(&own, &further)?;
                    }
                    None => self.relocate(&own, &target)?,
                }
            } else if metadata.is_dir() {
                self.make_dir(&place, Some(child.path()))?;
                if is_opaque(&child.path())? {
                    self.mark_opaque(&target)?;
                }
                self.children(&own, &target)?;
            } else if metadata.file_type().is_char_device() && metadata.rdev() == 0 {
                if !is_opaque(&below(self.shim, to))? {
                    rustix::fs::mknodat(CWD, &place, FileType::CharacterDevice, Mode::empty(), 0)
                        .at("make whiteout", &place)?;
                }
            } else {
                link_or_copy(&child.path(), &place)?;
            }
        }
        Ok(())
    }

    fn mark_opaque(&self, path: &[u8]) -> Result<()> {
        let place = below(self.shim, path);
        rustix::fs::setxattr(&place, OPAQUE_XATTR, b"y", XattrFlags::empty()).at("make opaque", &place)
    }

    /// Makes a folder of the shim with all above it: each a copy of the layer's own where the layer describes it, else
    /// of the one below.
    fn folder(&mut self, path: &[u8]) -> Result<()> {
        let mut so_far = Vec::new();
        for part in path.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
            so_far = join(&so_far, part);
            let place = below(self.shim, &so_far);
            if self.made.contains_key(&place) {
                continue;
            }
            let own = below(self.files, &so_far);
            let has_own = fs::symlink_metadata(&own).is_ok_and(|metadata| metadata.is_dir());
            let described = has_own && !self.implied.contains(&so_far);
            let lower = self.lower(&so_far)?.filter(|entry| entry.metadata.is_dir());
            let like = match (described, lower) {
                (false, Some(lower)) => Some(lower.real.clone()),
                _ => has_own.then_some(own),
            };
            self.make_dir(&place, like)?;
        }
        Ok(())
    }

    fn make_dir(&mut self, place: &Path, like: Option<PathBuf>) -> Result<()> {
        match fs::create_dir(place) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result.at("create", place)?,
        }
        self.made.insert(place.to_owned(), like);
        Ok(())
    }

    fn link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        // A symlink on the way may be the layer's own.
        let found = match self.below.lookup(OsStr::from_bytes(target))? {
            None => self.whole.lookup(OsStr::from_bytes(target))?,
            found => found,
        };
        let refused = |why: &str| {
            let (path, target) = (path.escape_ascii(), target.escape_ascii());
            Error::new(Kind::Invalid, format!("`{path}` is a hard link to `{target}`, {why}"))
        };
        let found = found.ok_or_else(|| refused("which no layer holds"))?;
        if found.metadata.is_dir() {
            return Err(refused("which is a folder"));
        }
        let path = self.moved_to(path).unwrap_or_else(|| path.to_vec());
        self.folder(split(&path).0)?;
        link_or_copy(&found.real, &below(self.shim, &path))
    }

    /// Metadata last, deepest first: making a child changes its folder's time.
    fn finish(self) -> Result<()> {
        for (place, like) in self.made.iter().rev() {
            match like {
                Some(like) => copy_folder_metadata(like, place)?,
                None => plain_folder(place)?,
            }
        }
        Ok(())
    }
}

/// A folder that nobody describes, as the layer engine makes one.
fn plain_folder(place: &Path) -> Result<()> {
    fs::set_permissions(place, fs::Permissions::from_mode(0o755)).at("change the mode of", place)?;
    let stamps = Timestamps { last_access: Timespec::default(), last_modification: Timespec::default() };
    rustix::fs::utimensat(CWD, place, &stamps, AtFlags::SYMLINK_NOFOLLOW).at("set the time of", place)
}

/// Parent and last component.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn same_folder(own: &Metadata, lower: &Metadata, real: &Path) -> Result<bool> {
    let facts = |m: &Metadata| (m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec());
    Ok(facts(own) == facts(lower) && folder_xattrs(real)?.is_empty())
}

/// A folder's attributes but those that are overlayfs's own.
fn folder_xattrs(path: &Path) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut found = Vec::new();
    for name in list_xattrs(path).at("list the attributes of", path)? {
        if unescape_xattr(&name).is_some() {
            let value = get_xattr(path, name.as_slice()).at("read the attributes of", path)?;
            found.extend(value.map(|value| (name, value)));
        }
    }
    Ok(found)
}

/// Owner, attributes, mode and time of one folder for another.
pub(super) fn copy_folder_metadata(from: &Path, to: &Path) -> Result<()> {
    let metadata = fs::symlink_metadata(from).at("look at", from)?;
    let current = fs::symlink_metadata(to).at("look at", to)?;
    if (current.uid(), current.gid()) != (metadata.uid(), metadata.gid()) {
        std::os::unix::fs::lchown(to, Some(metadata.uid()), Some(metadata.gid())).at("change the owner of", to)?;
    }
    for (name, value) in folder_xattrs(from)? {
        match rustix::fs::lsetxattr(to, name.as_slice(), &value, XattrFlags::empty()) {
            Err(rustix::io::Errno::PERM | rustix::io::Errno::NOTSUP) => {}
            result => result.at("set the attributes of", to)?,
        }
    }
    fs::set_permissions(to, fs::Permissions::from_mode(metadata.mode() & 0o7777)).at("change the mode of", to)?;
    let spec = Timespec { tv_sec: metadata.mtime(), tv_nsec: metadata.mtime_nsec() };
    let stamps = Timestamps { last_access: spec, last_modification: spec };
    rustix::fs::utimensat(CWD, to, &stamps, AtFlags::SYMLINK_NOFOLLOW).at("set the time of", to)
}

/// Layers never change, so another name of the same file will do; where a file has too many names, a copy.
fn link_or_copy(from: &Path, to: &Path) -> Result<()> {
    match fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).at("replace", to),
        _ => {}
    }
    match fs::hard_link(from, to) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EMLINK | libc::EXDEV)) => {}
        result => return result.at("link", to),
    }
    fs::copy(from, to).at("copy", from)?;
    copy_folder_metadata(from, to)
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}
