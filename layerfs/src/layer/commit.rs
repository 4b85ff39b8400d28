//! From a folder of changes to a layer.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{LayerMeta, Lowers, escape_path, shim};
use crate::archive::{DiffOptions, diff};
use crate::digest::DiffId;
use crate::error::{Context, Result};
use crate::mount::Upper;
use crate::oci::{Descriptor, media_type};
use crate::store::Store;

/// A layer that was just made.
#[derive(Clone, Debug, PartialEq)]
pub struct CommittedLayer {
    /// Its identity.
    pub diff_id: DiffId,
    /// The uncompressed archive among the store's blobs.
    pub blob: Descriptor,
    /// Bytes of files in it.
    pub bytes: u64,
    /// It changes nothing.
    pub empty: bool,
}

/// Makes the empty upper folder and the work folder of a writable mount in `dir`, the root with the metadata that it
/// has in the stack.
///
/// # Errors
/// The folders cannot be made.
pub fn prepare_upper(lowers: &Lowers, dir: &Path) -> Result<Upper> {
    let upper = Upper { dir: dir.join("upper"), work: dir.join("work") };
    for path in [&upper.dir, &upper.work] {
        fs::create_dir_all(path).at("create", path)?;
    }
    if let Some(root) = lowers.root.as_ref().or(lowers.dirs.last()) {
        shim::copy_folder_metadata(root, &upper.dir)?;
    }
    Ok(upper)
}

/// Turns the upper folder of an unmounted overlay, or one laid out like it, into a layer of the store: normalises it,
/// writes its archive as a blob, and moves the folder itself into place, so that it need never be unpacked. `upper`
/// must be on the store's file system and is gone afterwards.
///
/// # Errors
/// The folder holds what no layer can, or the store cannot be written.
pub fn commit_upper(store: &Store, upper: &Path, options: &DiffOptions) -> Result<CommittedLayer> {
    let options = DiffOptions { normalise: true, ..options.clone() };
    let blob = BufWriter::with_capacity(1 << 20, store.blob_writer(None)?);
    let (blob, written) = diff(upper, blob, &options)?;
    let mut blob = blob.into_inner().map_err(io::IntoInnerError::into_error).context(|| "write the layer")?;
    blob.flush().context(|| "write the layer")?;
    let (digest, size) = blob.commit()?;
    let diff_id = DiffId(digest);
    let meta = LayerMeta {
        entries: written.entries,
        bytes: written.bytes,
        implied: options.implied.iter().map(|path| escape_path(path)).collect(),
        ..LayerMeta::default()
    };
    move_into_place(store, upper, diff_id, &meta)?;
    let blob = Descriptor::new(media_type::OCI_LAYER, digest, size);
    Ok(CommittedLayer { diff_id, blob, bytes: written.bytes, empty: written.entries == 0 })
}

fn move_into_place(store: &Store, upper: &Path, diff_id: DiffId, meta: &LayerMeta) -> Result<PathBuf> {
    let (dir, files) = store.new_layer_dir()?;
    fs::remove_dir(&files).at("remove", &files)?;
    fs::rename(upper, &files).at("move", upper)?;
    store.publish_layer(&dir, store.layer_key(diff_id)?, meta)
}
