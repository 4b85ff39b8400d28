//! What of a layer depends on the layers below it.
//!
//! | the layer has | below there is | the shim holds |
//! |---|---|---|
//! | a file in `d/`, no entry for `d` | a folder `d` | `d` with the metadata it has below |
//! | a file in `d/`, no entry for `d` | a symlink `d` to a folder `e` | the symlink, and what the layer has in `d` at `e` |
//! | a hard link to `f`, which it does not hold | a file `f` | the file under the link's name |
//!
//! The rest of the cases (nothing below, or a file where the layer has a folder) need nothing: overlayfs shows what
//! unpacking one layer over the other would give. The semantics are those of containerd's applier.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use serde::{Deserialize, Serialize};

use super::{LayerMeta, MergedView, below, unescape_path};
use crate::archive::{is_opaque, unescape_xattr};
use crate::digest::ChainId;
use crate::error::{Context, Error, Kind, Result};
use crate::store::Store;
use crate::sys::fs::{get_xattr, list_xattrs};

#[derive(Serialize, Deserialize)]
struct ShimMeta {
    empty: bool,
}

/// The shim of the layer in `files` on top of `lowers` (lowest first); `None` where nothing is needed.
pub(super) fn make(
    store: &Store,
    lowers: &[PathBuf],
    chain: ChainId,
    files: &Path,
    meta: &LayerMeta,
) -> Result<Option<PathBuf>> {
    let key = format!("{}.{}.shim", chain.0.hex(), store.mapping()?.key());
    let place = store.layers_dir().join(&key);
    let known =
        |place: &Path| -> Option<ShimMeta> { serde_json::from_slice(&fs::read(place.join("meta.json")).ok()?).ok() };
    if let Some(found) = known(&place) {
        return Ok((!found.empty).then(|| place.join("fs")));
    }
    let (dir, shim) = store.new_layer_dir()?;
    let implied = meta.implied.iter().map(|path| unescape_path(path)).collect();
    let mut maker =
        Maker { view: MergedView::new(lowers), files, shim: &shim, implied, moved: Vec::new(), made: BTreeMap::new() };
    maker.folders()?;
    for (path, target) in &meta.links {
        maker.link(&unescape_path(path), &unescape_path(target))?;
    }
    let empty = maker.made.is_empty() && fs::read_dir(&shim).at("read", &shim)?.next().is_none();
    maker.finish()?;
    let files = store.publish_layer(&dir, key, &ShimMeta { empty })?;
    Ok((!empty).then_some(files))
}

struct Maker<'a> {
    view: MergedView,
    files: &'a Path,
    shim: &'a Path,
    /// True paths of the layer's folders that it does not describe, parents first.
    implied: Vec<Vec<u8>>,
    /// Folders of the layer that are symlinks below, with where these lead.
    moved: Vec<(Vec<u8>, Vec<u8>)>,
    /// Folders made in the shim, with what they are copies of.
    made: BTreeMap<PathBuf, PathBuf>,
}

impl Maker<'_> {
    fn folders(&mut self) -> Result<()> {
        for path in self.implied.clone() {
            if self.moved_to(&path).is_some() {
                continue;
            }
            let Some(lower) = self.view.lookup(OsStr::from_bytes(&path))? else { continue };
            if lower.metadata.is_symlink() {
                let target = self.target(&path, &lower.real)?;
                let parent = path.iter().rposition(|b| *b == b'/').map_or(&b""[..], |slash| &path[..slash]);
                self.folder(parent)?;
                let link = below(self.shim, &path);
                fs::hard_link(&lower.real, &link).at("link", &link)?;
                self.moved.push((path.clone(), target.clone()));
                self.move_children(&below(self.files, &path), &path, &target)?;
            } else if lower.metadata.is_dir() {
                let own = fs::symlink_metadata(below(self.files, &path)).at("look at", below(self.files, &path))?;
                if !same_folder(&own, &lower.metadata, &lower.real)? {
                    self.folder(&path)?;
                }
            }
        }
        Ok(())
    }

    /// Where a symlink below leads, inside the image; a dangling one to where it points.
    fn target(&self, path: &[u8], real: &Path) -> Result<Vec<u8>> {
        if let Some(entry) = self.view.resolve(OsStr::from_bytes(path))? {
            return Ok(entry.path.as_os_str().as_bytes().to_vec());
        }
        let link = fs::read_link(real).at("read symlink", real)?;
        let parent = Path::new(OsStr::from_bytes(path)).parent().unwrap_or(Path::new(""));
        let mut clean = PathBuf::new();
        for component in parent.join(link).components() {
            match component {
                std::path::Component::Normal(name) => clean.push(name),
                std::path::Component::ParentDir => drop(clean.pop()),
                std::path::Component::RootDir => clean = PathBuf::new(),
                _ => {}
            }
        }
        Ok(clean.as_os_str().as_bytes().to_vec())
    }

    /// Where a path of the layer lies once symlinks below are followed; `None` where it stays.
    fn moved_to(&self, path: &[u8]) -> Option<Vec<u8>> {
        self.moved.iter().find_map(|(from, to)| {
            let rest = path.strip_prefix(from.as_slice())?;
            match rest {
                [] => Some(to.clone()),
                [b'/', rest @ ..] => Some(join(to, rest)),
                _ => None,
            }
        })
    }

    fn move_children(&mut self, from: &Path, layer_path: &[u8], to: &[u8]) -> Result<()> {
        self.folder(to)?;
        for entry in fs::read_dir(from).at("read", from)? {
            let entry = entry.at("read", from)?;
            let name = entry.file_name();
            let (own, target) = (join(layer_path, name.as_bytes()), join(to, name.as_bytes()));
            let metadata = fs::symlink_metadata(entry.path()).at("look at", entry.path())?;
            let place = below(self.shim, &target);
            if metadata.is_dir() {
                if self.implied.contains(&own) {
                    self.folder(&target)?;
                } else {
                    self.make_dir(&place, &entry.path())?;
                }
                if is_opaque(&entry.path())? {
                    rustix::fs::setxattr(&place, "user.overlay.opaque", b"y", XattrFlags::empty())
                        .at("make opaque", &place)?;
                }
                self.move_children(&entry.path(), &own, &target)?;
            } else if metadata.file_type().is_char_device() && metadata.rdev() == 0 {
                rustix::fs::mknodat(CWD, &place, FileType::CharacterDevice, Mode::empty(), 0)
                    .at("make whiteout", &place)?;
            } else {
                link_or_copy(&entry.path(), &place)?;
            }
        }
        Ok(())
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
            let described = own.is_dir() && !own.is_symlink() && !self.implied.contains(&so_far);
            let lower = self.view.lookup(OsStr::from_bytes(&so_far))?.filter(|entry| entry.metadata.is_dir());
            let like = match (described, lower) {
                (false, Some(lower)) => lower.real,
                _ if own.is_dir() => own,
                _ => self.files.to_owned(),
            };
            self.make_dir(&place, &like)?;
        }
        Ok(())
    }

    fn make_dir(&mut self, place: &Path, like: &Path) -> Result<()> {
        match fs::create_dir(place) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result.at("create", place)?,
        }
        self.made.insert(place.to_owned(), like.to_owned());
        Ok(())
    }

    fn link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        let Some(found) = self.view.lookup(OsStr::from_bytes(target))?.filter(|entry| !entry.metadata.is_dir()) else {
            let (path, target) = (path.escape_ascii(), target.escape_ascii());
            return Err(Error::new(
                Kind::Invalid,
                format!("`{path}` is a hard link to `{target}`, which no layer holds"),
            ));
        };
        let path = self.moved_to(path).unwrap_or_else(|| path.to_vec());
        if let Some(slash) = path.iter().rposition(|b| *b == b'/') {
            self.folder(&path[..slash])?;
        }
        link_or_copy(&found.real, &below(self.shim, &path))
    }

    /// Metadata last, deepest first: making a child changes its folder's time.
    fn finish(self) -> Result<()> {
        for (place, like) in self.made.iter().rev() {
            copy_folder_metadata(like, place)?;
        }
        Ok(())
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
            let value = get_xattr(path, &String::from_utf8_lossy(&name)).at("read the attributes of", path)?;
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
