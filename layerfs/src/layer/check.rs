//! Whether what lies unpacked is still what unpacking gives.
//!
//! The method needs no second idea of what a layer means: the layer is unpacked again beside the old one and the two
//! trees are compared, file by file. What was made for the comparison is the repair.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::unpack::{Fresh, unpack_beside};
use super::{LayerMeta, Lowers, shim, unescape_path};
use crate::archive::{DiffOptions, Limits, diff};
use crate::digest::{Algorithm, ChainId, DiffId, Digest, Hashed};
use crate::error::{Context, Result};
use crate::oci::Descriptor;
use crate::store::{Store, TempDir};
use crate::verify::tree::{Compare, differences};

/// How an unpacked layer or shim differs, and what to put in its place.
pub(crate) struct Damage {
    /// In words, at most a few.
    pub(crate) differences: Vec<String>,
    /// What it should be.
    pub(crate) replacement: Replacement,
}

/// A layer or shim made anew, not published.
pub(crate) struct Replacement {
    dir: TempDir,
    key: String,
    meta: serde_json::Value,
}

impl Replacement {
    /// Puts it in the place of the old one.
    pub(crate) fn put(self, store: &Store) -> Result<()> {
        store.discard(&store.layers_dir().join(&self.key))?;
        store.publish_layer(&self.dir, self.key, &self.meta).map(drop)
    }
}

/// Compares an unpacked layer with the blob it came from; `None` where they are equal.
///
/// # Errors
/// The blob is not the layer's, or something cannot be read.
pub(crate) fn check_layer(store: &Store, blob: &Descriptor, diff_id: DiffId) -> Result<Option<Damage>> {
    let key = store.layer_key(diff_id)?;
    let packed = store.open_blob(&blob.digest)?;
    let Fresh { dir, files, meta } = unpack_beside(store, blob, diff_id, packed, &Limits::default())?;
    let stored = store.layer_meta(diff_id);
    let mut told = match &stored {
        Ok(Some(stored)) if same_needs(stored, &meta) => Vec::new(),
        Ok(Some(_)) => vec!["its record differs".to_owned()],
        _ => vec!["its record cannot be read".to_owned()],
    };
    let implied = meta.implied.iter().map(|path| unescape_path(path)).collect();
    // A layer that does not describe its root leaves it as it was made, which was just now.
    let made = fs::metadata(dir.path()).at("look at", dir.path())?;
    let root = fs::metadata(&files).at("look at", &files)?;
    let root_implied = (root.mtime(), root.mtime_nsec()) >= (made.mtime(), made.mtime_nsec());
    let found = store.layer_files(diff_id)?;
    told.extend(differences(&files, &found, &Compare { implied, root_implied })?);
    Ok(damage(told, dir, key, serde_json::to_value(&meta).context(|| "write the layer's record")?))
}

/// What a shim is made from; the numbers beside it do not matter.
fn same_needs(stored: &LayerMeta, fresh: &LayerMeta) -> bool {
    stored.links == fresh.links && fresh.implied.iter().all(|path| stored.implied.contains(path))
}

fn damage(told: Vec<String>, dir: TempDir, key: String, meta: serde_json::Value) -> Option<Damage> {
    (!told.is_empty()).then_some(Damage { differences: told, replacement: Replacement { dir, key, meta } })
}

/// Whether packing an unpacked layer gives its diff ID: so it does for layers made here, whose archives have our form.
///
/// # Errors
/// The layer cannot be read.
pub(crate) fn packs_to_itself(store: &Store, diff_id: DiffId) -> Result<bool> {
    let Some(options) = pack_options(store, diff_id)? else { return Ok(false) };
    let out = Hashed::new(io::sink(), Algorithm::Sha256);
    match diff(&store.layer_files(diff_id)?, out, &options) {
        Ok((out, _)) => Ok(out.finish().1 == diff_id.0),
        // A tree that no archive can hold is not the one that was packed.
        Err(_) => Ok(false),
    }
}

/// Makes the blob of a layer that [`packs_to_itself`].
///
/// # Errors
/// The store cannot be written, or the layer changed meanwhile.
pub(crate) fn pack_again(store: &Store, diff_id: DiffId) -> Result<Digest> {
    let options = pack_options(store, diff_id)?.unwrap_or_default();
    let blob = io::BufWriter::with_capacity(1 << 20, store.blob_writer(None)?);
    let (blob, _) = diff(&store.layer_files(diff_id)?, blob, &options)?;
    let blob = blob.into_inner().map_err(io::IntoInnerError::into_error).context(|| "write the layer")?;
    Ok(blob.commit()?.0)
}

fn pack_options(store: &Store, diff_id: DiffId) -> Result<Option<DiffOptions>> {
    let Ok(Some(meta)) = store.layer_meta(diff_id) else { return Ok(None) };
    let implied = meta.implied.iter().map(|path| unescape_path(path)).collect();
    Ok(Some(DiffOptions { implied, ..DiffOptions::default() }))
}

/// Compares the shim of the top layer of a chain with what the layers below ask for; `None` where it is as it should
/// be, or not there: then the next mount makes it.
///
/// # Errors
/// The layers cannot be read.
pub(crate) fn check_shim(store: &Store, below: &Lowers, chain: ChainId, diff_id: DiffId) -> Result<Option<Damage>> {
    let key = store.shim_key(chain)?;
    let place = store.layers_dir().join(&key);
    if fs::symlink_metadata(&place).is_err() {
        return Ok(None);
    }
    let meta = store.layer_meta(diff_id)?.unwrap_or_default();
    let (dir, files) = store.new_layer_dir()?;
    let empty = shim::fill(&files, &below.dirs, &store.layer_files(diff_id)?, &meta)?;
    let fresh = serde_json::to_value(shim::ShimMeta { empty }).context(|| "write the shim's record")?;
    let stored = read_json(&place.join("meta.json"));
    let mut told = if stored.as_ref() == Some(&fresh) { Vec::new() } else { vec!["its record differs".to_owned()] };
    // The root of a shim is never described: it stands above the layer's own.
    told.extend(differences(&files, &place.join("fs"), &Compare { root_implied: true, ..Compare::default() })?);
    Ok(damage(told, dir, key, fresh))
}

fn read_json(path: &Path) -> Option<serde_json::Value> {
    serde_json::from_reader(File::open(path).ok()?).ok()
}

/// The stack below the top layer of a chain, as far as it is unpacked; `None` where it is not, whole.
///
/// # Errors
/// `/proc` is not mounted.
pub(crate) fn stack(store: &Store, chain: &[DiffId]) -> Result<Option<Lowers>> {
    let mut lowers = Lowers::default();
    let mut below = None;
    for diff_id in chain {
        if !store.has_layer(*diff_id)? {
            return Ok(None);
        }
        let chain_id = ChainId::on(below, *diff_id);
        lowers.dirs.push(store.layer_files(*diff_id)?);
        let shim = store.layers_dir().join(store.shim_key(chain_id)?);
        let empty = read_json(&shim.join("meta.json")).is_none_or(|meta| meta["empty"] == true);
        lowers.dirs.extend((!empty).then(|| shim.join("fs")));
        below = Some(chain_id);
    }
    Ok(Some(lowers))
}
