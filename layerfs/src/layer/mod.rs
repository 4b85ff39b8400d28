//! Layers unpacked on disk, and the stacks that a mount takes.
//!
//! A layer is unpacked once, alone, under its diff ID and the id mapping, and shared by every image that has it. What
//! in it depends on the layers below (parents it does not describe, parents that are symlinks below, hard links to
//! files below) is put into a second folder, the *shim*, keyed by the whole chain and stacked just above it.
//!
//! Unpacking is lazy and happens in all layers at once; a pull may instead stream a layer while it downloads.

pub(crate) mod check;
mod commit;
mod merged;
pub mod plain;
mod shim;
mod unpack;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use crate::archive::{ApplyOptions, DiffOptions, Limits};
pub use commit::{ArchivedLayer, CommittedLayer, archive_upper, commit_upper, prepare_upper, settle_upper};
pub use merged::{Entry, MergedView};
pub use unpack::{stream_layer, unpack_chain, unpack_image};

use crate::archive::Applied;
use crate::digest::{ChainId, DiffId};
use crate::error::{Context, Result};
use crate::oci::canonical_json;
use crate::store::{Store, TempDir, Unsynced};
use crate::sys::fs::spread_folders;

/// What a mount stacks: absolute paths, lowest first, shims included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lowers {
    /// The folders.
    pub dirs: Vec<PathBuf>,
    /// Which of them says what owner, mode and time the root has, where one does; overlayfs itself shows the topmost.
    pub root: Option<PathBuf>,
}

impl Lowers {
    /// The metadata of the stack's root; `None` where there are no layers.
    ///
    /// # Errors
    /// The layers cannot be read.
    pub fn root_metadata(&self) -> Result<Option<fs::Metadata>> {
        let Some(root) = self.root.as_ref().or(self.dirs.last()) else { return Ok(None) };
        fs::symlink_metadata(root).at("look at", root).map(Some)
    }
}

/// `meta.json` beside an unpacked layer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct LayerMeta {
    entries: u64,
    bytes: u64,
    lost_xattrs: u64,
    /// The root folder is described.
    #[serde(default)]
    root: bool,
    /// Paths as `%XX`-escaped text, because file names are bytes.
    implied: Vec<String>,
    links: Vec<(String, String)>,
}

impl LayerMeta {
    fn of(applied: &Applied) -> Self {
        Self {
            entries: applied.entries,
            bytes: applied.bytes,
            lost_xattrs: applied.lost_xattrs,
            root: applied.root,
            implied: applied.implied.iter().map(|path| escape_path(path)).collect(),
            links: applied.links.iter().map(|(path, target)| (escape_path(path), escape_path(target))).collect(),
        }
    }

    fn needs_shim(&self) -> bool {
        !self.implied.is_empty() || !self.links.is_empty()
    }
}

/// Bytes of files in an unpacked layer, as recorded when it was made; `None` for what has no such record.
pub(crate) fn recorded_bytes(folder: &Path) -> Option<u64> {
    serde_json::from_slice::<LayerMeta>(&fs::read(folder.join("meta.json")).ok()?).ok().map(|meta| meta.bytes)
}

/// Printable ASCII but `%` stays; every other byte is `%XX`.
fn escape_path(path: &[u8]) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path {
        match byte {
            b' '..=b'~' if *byte != b'%' => out.push(char::from(*byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn unescape_path(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (first, code.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                rest = &tail[2..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

impl Store {
    fn layer_key(&self, diff_id: DiffId) -> Result<String> {
        Ok(format!("{}.{}.tree", diff_id.0.hex(), self.mapping()?.key()))
    }

    fn shim_key(&self, chain: ChainId) -> Result<String> {
        Ok(format!("{}.{}.shim", chain.0.hex(), self.mapping()?.key()))
    }

    /// Where a layer's files lie, unpacked or not.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn layer_files(&self, diff_id: DiffId) -> Result<PathBuf> {
        Ok(self.layers_dir().join(self.layer_key(diff_id)?).join("fs"))
    }

    /// Whether the layer is unpacked under this process's id mapping.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn has_layer(&self, diff_id: DiffId) -> Result<bool> {
        Ok(self.layer_files(diff_id)?.exists())
    }

    /// The size of an unpacked layer in bytes of files; `None` where it is not unpacked.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn layer_bytes(&self, diff_id: DiffId) -> Result<Option<u64>> {
        Ok(self.layer_meta(diff_id)?.map(|meta| meta.bytes))
    }

    fn layer_meta(&self, diff_id: DiffId) -> Result<Option<LayerMeta>> {
        let path = self.layers_dir().join(self.layer_key(diff_id)?).join("meta.json");
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => Ok(Some(serde_json::from_slice(&result.at("read", &path)?).at("read", &path)?)),
        }
    }

    /// Makes what [`Store::new_layer_dir`] gave, complete, visible under `key` with its metadata.
    fn publish_layer(&self, dir: &TempDir, key: String, meta: &impl Serialize) -> Result<PathBuf> {
        let born = birthplace(dir);
        let path = born.join("meta.json");
        fs::write(&path, canonical_json(meta)).at("write", &path)?;
        let place = self.layers_dir().join(&key);
        self.publish(&born, &place, &Unsynced::Layer(key))?;
        Ok(place.join("fs"))
    }

    /// A new `fs` folder to unpack into, for [`Store::publish_layer`].
    fn new_layer_dir(&self) -> Result<(TempDir, PathBuf)> {
        let dir = self.new_temp_dir()?;
        // Layers are unpacked side by side and removed one by one; in one place of the disk they would stand in each
        // other's way, and in that of those that were just removed.
        spread_folders(dir.path());
        let files = birthplace(&dir).join("fs");
        fs::create_dir_all(&files).at("create", &files)?;
        Ok((dir, files))
    }
}

/// The future layer in a temporary folder. The name is one that no other layer had: ext4 chooses its place by it.
fn birthplace(dir: &TempDir) -> PathBuf {
    dir.path().join(dir.path().file_name().unwrap_or_default())
}

/// The path of `path` (below a root, no leading slash) in the folder `dir`.
fn below(dir: &Path, path: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    dir.join(std::ffi::OsStr::from_bytes(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_survives_escaping() {
        for path in [&b"usr/lib"[..], b"a%b", b"\xff\n%41", b""] {
            assert_eq!(unescape_path(&escape_path(path)), path);
        }
    }
}
