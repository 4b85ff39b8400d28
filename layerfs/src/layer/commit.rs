//! From a folder of changes to a layer.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{LayerMeta, Lowers, escape_path, shim};
use crate::archive::{DiffOptions, diff, settle};
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
    let archived = archive(store, upper, &options)?;
    archived.publish(store, upper)
}

/// The first half of [`commit_upper`]: afterwards the folder reads as the layer that it becomes, so others can be stacked
/// on it at once. Whether there is anything in it; where there is not, nothing more is to be done.
///
/// # Errors
/// The folder holds what no layer can, or cannot be changed.
pub fn settle_upper(upper: &Path, options: &DiffOptions) -> Result<bool> {
    settle(upper, options)
}

/// The second half: writes the archive of a settled folder as a blob, and leaves the folder where it is, for it may be
/// part of a mount.
///
/// # Errors
/// The store cannot be written.
pub fn archive_upper(store: &Store, upper: &Path, options: &DiffOptions) -> Result<ArchivedLayer> {
    archive(store, upper, &DiffOptions { normalise: false, ..options.clone() })
}

fn archive(store: &Store, upper: &Path, options: &DiffOptions) -> Result<ArchivedLayer> {
    let blob = BufWriter::with_capacity(1 << 20, store.blob_writer(None)?);
    let (blob, written) = diff(upper, blob, options)?;
    let mut blob = blob.into_inner().map_err(io::IntoInnerError::into_error).context(|| "write the layer")?;
    blob.flush().context(|| "write the layer")?;
    let (digest, size) = blob.commit()?;
    let meta = LayerMeta {
        entries: written.entries,
        bytes: written.bytes,
        implied: options.implied.iter().map(|path| escape_path(path)).collect(),
        ..LayerMeta::default()
    };
    Ok(ArchivedLayer { meta, blob: Descriptor::new(media_type::OCI_LAYER, digest, size) })
}

/// A layer whose archive is in the store, and whose folder is not yet.
#[derive(Clone, Debug)]
pub struct ArchivedLayer {
    meta: LayerMeta,
    blob: Descriptor,
}

impl ArchivedLayer {
    /// Its identity.
    pub fn diff_id(&self) -> DiffId {
        DiffId(self.blob.digest)
    }

    /// Its archive.
    pub fn blob(&self) -> &Descriptor {
        &self.blob
    }

    /// Moves its folder into place. No mount may be about to be made of it by its old name.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn publish(self, store: &Store, upper: &Path) -> Result<CommittedLayer> {
        let diff_id = self.diff_id();
        move_into_place(store, upper, diff_id, &self.meta)?;
        let Self { meta, blob } = self;
        Ok(CommittedLayer { diff_id, blob, bytes: meta.bytes, empty: meta.entries == 0 })
    }
}

fn move_into_place(store: &Store, upper: &Path, diff_id: DiffId, meta: &LayerMeta) -> Result<PathBuf> {
    let (dir, files) = store.new_layer_dir()?;
    fs::remove_dir(&files).at("remove", &files)?;
    fs::rename(upper, &files).at("move", upper)?;
    store.publish_layer(&dir, store.layer_key(diff_id)?, meta)
}
