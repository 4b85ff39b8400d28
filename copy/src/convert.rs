//! Changing an image on its way: compressing its layers, or writing its documents in the other family's types.
//!
//! Nothing here happens to an image that comes from a registry or a layout unless the user asks for it: those are
//! copied bit by bit. Images out of the store or a docker archive hold plain tars, which registries should not.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use layerfs::archive::{Compression, Compressor, decompress, write_chunked};
use layerfs::digest::{Algorithm, DiffId, Digest, Hashed};
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::{Descriptor, Document, ImageConfig, Manifest, media_type};
use layerfs::progress::{Event, Progress, Silent};
use layerfs::store::Store;

use crate::execute::Ids;
use crate::inventory::{Entry, Inventory};
use crate::stream::{Chunks, FromRead, Skip, ToRead, Verified};
use crate::transport::store::{StoreSource, limits};
use crate::transport::{Source, read_document, scratch_file};

/// Which layers are compressed anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recompress {
    /// None.
    #[default]
    Never,
    /// Those that are not compressed.
    Plain(Compression),
    /// All that are not in this form already.
    All(Compression),
    /// All that are not in the form of zstd:chunked already, in that form.
    Chunked {
        /// The level of zstd.
        level: u8,
    },
}

/// Which family of media types the documents are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OCI.
    Oci,
    /// Docker schema 2.
    Docker,
}

/// What is to be changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Which layers are compressed.
    pub recompress: Recompress,
    /// The family of media types; `None` leaves them as they are.
    pub format: Option<Format>,
}

/// A source, and the blobs that were made for its changed image.
pub(crate) struct Converted<'a> {
    inner: &'a dyn Source,
    store: Option<&'a Store>,
    made: HashMap<Digest, Arc<File>>,
}

impl Source for Converted<'_> {
    fn root(&self) -> Result<(Descriptor, Vec<u8>)> {
        self.inner.root()
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.inner.document(descriptor)
    }

    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Chunks>> {
        if let Some(file) = self.made.get(&blob.digest) {
            let reader = Shared { file: file.clone(), at: 0 };
            return Ok(Box::new(FromRead::new(reader, format!("blob `{}`", blob.digest))));
        }
        match self.store.filter(|store| store.has_blob(&blob.digest)) {
            Some(store) => Ok(Box::new(FromRead::new(
                store.open_blob(&blob.digest)?,
                format!("blob `{}` of the store", blob.digest),
            ))),
            None => self.inner.open(blob),
        }
    }

    fn open_at(&self, blob: &Descriptor, at: u64) -> Result<Box<dyn Chunks>> {
        if let Some(file) = self.made.get(&blob.digest) {
            let reader = Shared { file: file.clone(), at };
            return Ok(Box::new(FromRead::new(reader, format!("blob `{}`", blob.digest))));
        }
        match self.store.filter(|store| store.has_blob(&blob.digest)) {
            Some(_) => Ok(Box::new(Skip::new(self.open(blob)?, at))),
            None => self.inner.open_at(blob, at),
        }
    }

    fn is_made_here(&self, blob: &Descriptor) -> bool {
        self.made.contains_key(&blob.digest)
    }

    fn repository(&self) -> Option<(&str, &str)> {
        // The new blobs are in no repository, but the others are; a mount that fails costs nothing.
        self.inner.repository()
    }
}

/// Makes the changed image. With `store`, compressed layers are kept there and found again the next time.
pub(crate) fn convert<'a>(
    source: &'a dyn Source,
    inventory: Inventory,
    changes: &Changes,
    store: Option<&'a Store>,
    progress: &dyn Progress,
    ids: &Ids,
) -> Result<(Converted<'a>, Inventory)> {
    let mut converted = Converted { inner: source, store, made: HashMap::new() };
    if *changes == Changes::default() {
        return Ok((converted, inventory));
    }
    let mut levels = inventory.levels;
    // Old digest of a document to its new descriptor; children come before those that point to them.
    let mut renamed: HashMap<Digest, Descriptor> = HashMap::new();
    let mut layers: BTreeMap<Digest, Descriptor> = BTreeMap::new();
    for entry in levels.iter_mut().rev().flatten() {
        let old = entry.descriptor.digest;
        let new = match &entry.document {
            Some(Document::Manifest(manifest)) if manifest.is_image() => {
                let mut manifest = manifest.clone();
                let changed = compress_layers(&mut converted, &mut manifest, changes, &mut layers, progress, ids)?;
                let changed = changes.format.is_some_and(|format| retype_manifest(&mut manifest, format)) || changed;
                changed.then(|| Document::Manifest(manifest))
            }
            Some(Document::Index(index)) => {
                let mut index = index.clone();
                let mut changed = false;
                for child in &mut index.manifests {
                    if let Some(new) = renamed.get(&child.digest) {
                        (child.digest, child.size) = (new.digest, new.size);
                        child.media_type.clone_from(&new.media_type);
                        changed = true;
                    }
                }
                if let Some(format) = changes.format {
                    let wanted = family(format).index;
                    changed |= index.media_type.as_deref() != Some(wanted);
                    index.media_type = Some(wanted.to_owned());
                }
                changed.then(|| Document::Index(index))
            }
            _ => None,
        };
        if let Some(document) = new {
            *entry = entry_of(document);
            renamed.insert(old, entry.descriptor.clone());
        }
    }
    let mut seen = std::collections::HashSet::new();
    let mut blobs = Vec::new();
    for entry in levels.iter().flatten() {
        if let Some(Document::Manifest(manifest)) = &entry.document {
            let parts = std::iter::once(&manifest.config).chain(&manifest.layers);
            blobs.extend(parts.filter(|blob| seen.insert(blob.digest)).cloned());
        }
    }
    // Parts of documents we do not know were listed before and have not changed.
    let replaced: Vec<Digest> = layers.iter().filter(|(old, new)| **old != new.digest).map(|(old, _)| *old).collect();
    blobs.extend(
        inventory.blobs.into_iter().filter(|blob| !replaced.contains(&blob.digest) && seen.insert(blob.digest)),
    );
    Ok((converted, Inventory { levels, blobs }))
}

fn entry_of(document: Document) -> Entry {
    let bytes = match &document {
        Document::Manifest(manifest) => manifest.to_bytes(),
        Document::Index(index) => index.to_bytes(),
    };
    Entry { descriptor: Descriptor::of(document.media_type(), &bytes), bytes, document: Some(document) }
}

/// Compresses one layer of the store before anybody asks for it: whoever copies its image later finds it done.
///
/// # Errors
/// The layer is not there or damaged, or the store cannot be written.
pub fn compress_layer(
    store: &Store,
    layer: &Descriptor,
    diff_id: DiffId,
    compression: Compression,
) -> Result<Descriptor> {
    if form(&layer.media_type) == Some(kind(compression)) {
        return Ok(layer.clone());
    }
    let source = StoreSource::new(store, layer)?;
    let mut converted = Converted { inner: &source, store: Some(store), made: HashMap::new() };
    compress(&mut converted, layer, diff_id, Packing::Whole(compression), &Silent, &Ids::default())
}

/// Replaces layers by their compressed forms; whether any was.
fn compress_layers(
    converted: &mut Converted<'_>,
    manifest: &mut Manifest,
    changes: &Changes,
    known: &mut BTreeMap<Digest, Descriptor>,
    progress: &dyn Progress,
    ids: &Ids,
) -> Result<bool> {
    let (packing, all) = match changes.recompress {
        Recompress::Never => return Ok(false),
        Recompress::Plain(compression) => (Packing::Whole(compression), false),
        Recompress::All(compression) => (Packing::Whole(compression), true),
        Recompress::Chunked { level } => (Packing::Chunks { level }, true),
    };
    let wanted = |layer: &Descriptor| {
        let form = form(&layer.media_type);
        let already = match packing {
            Packing::Whole(compression) => form == Some(kind(compression)),
            Packing::Chunks { .. } => layer.annotation(CHUNKED_TABLE).is_some(),
        };
        form.is_some_and(|form| !already && (all || form == Form::Plain))
    };
    if !manifest.layers.iter().any(wanted) {
        return Ok(false);
    }
    let config = read_document(converted.inner, &manifest.config)?;
    let diff_ids = ImageConfig::parse(&config)?.diff_ids()?;
    if diff_ids.len() != manifest.layers.len() {
        let (a, b) = (manifest.layers.len(), diff_ids.len());
        return Err(Error::new(Kind::Corrupt, format!("the image has {a} layers but its config has {b}")));
    }
    let docker = manifest.media_type.as_deref() == Some(media_type::DOCKER_MANIFEST);
    for (layer, diff_id) in manifest.layers.iter_mut().zip(diff_ids) {
        if !wanted(layer) {
            continue;
        }
        let new = match known.get(&layer.digest) {
            Some(new) => new.clone(),
            None => compress(converted, layer, diff_id, packing, progress, ids)?,
        };
        known.insert(layer.digest, new.clone());
        // What a table of contents says of the old bytes is not true of the new ones.
        let stale = |key: &str| key.starts_with(CHUNKED) || key.contains(".stargz/");
        layer.annotations.retain(|key, _| !stale(key));
        layer.annotations.extend(new.annotations);
        (layer.digest, layer.size) = (new.digest, new.size);
        layer.media_type = new.media_type;
    }
    // Docker's family has no zstd; an image cannot be of both.
    let format = match (docker, packing.compression()) {
        (true, Compression::Zstd { .. }) | (false, _) => Format::Oci,
        (true, _) => Format::Docker,
    };
    retype_manifest(manifest, format);
    Ok(true)
}

/// Compresses one layer, checking its bytes and its diff ID on the way.
fn compress(
    converted: &mut Converted<'_>,
    layer: &Descriptor,
    diff_id: DiffId,
    packing: Packing,
    progress: &dyn Progress,
    ids: &Ids,
) -> Result<Descriptor> {
    let media_type = packing.compression().layer_media_type();
    // The store keeps one form of a type, which is not the one in chunks.
    let store = converted.store.filter(|_| matches!(packing, Packing::Whole(_)));
    if let Some(store) = store
        && let Some(known) = store.compressed_form(diff_id, packing.compression())?
        && store.blob_size(&known.digest) == Some(known.size)
    {
        return Ok(known);
    }
    let id = ids.next();
    let label = format!("compress {}", layer.digest.short());
    progress.event(&Event::Start { id, label, total: Some(layer.size) });
    let chunks = Verified::new(Told { chunks: converted.inner.open(layer)?, progress, id }, layer);
    let plain = decompress(ToRead::new(chunks))?;
    let mut plain = Hashed::new(plain, diff_id.0.algorithm());
    let action = || format!("compress layer `{}`", layer.digest);
    let descriptor = match store {
        Some(store) => {
            let (writer, _) = pump(&mut plain, store.blob_writer(None)?, packing).context(action)?;
            let (digest, size) = writer.commit()?;
            Descriptor::new(media_type, digest, size)
        }
        None => {
            let out = Hashed::new(scratch_file()?, Algorithm::Sha256);
            let (out, annotations) = pump(&mut plain, out, packing).context(action)?;
            let (file, digest, size) = out.finish();
            converted.made.insert(digest, Arc::new(file));
            let mut descriptor = Descriptor::new(media_type, digest, size);
            descriptor.annotations.extend(annotations.into_iter().map(|(key, value)| (key, value.into())));
            descriptor
        }
    };
    let (_, found, _) = plain.finish();
    if found != diff_id.0 {
        let sentence = format!("layer `{}` unpacks to `{found}`, the image's config says `{diff_id}`", layer.digest);
        return Err(Error::new(Kind::Corrupt, sentence));
    }
    if let Some(store) = store {
        store.record_compressed_form(diff_id, packing.compression(), &descriptor)?;
    }
    progress.event(&Event::Done { id });
    Ok(descriptor)
}

/// Compresses all of `plain`. The annotations are for the layer's descriptor.
fn pump<W: Write + Send>(
    plain: &mut (impl Read + Send),
    out: W,
    packing: Packing,
) -> Result<(W, Vec<(String, String)>)> {
    let out = BufWriter::with_capacity(1 << 18, out);
    let (buffered, annotations) = match packing {
        Packing::Whole(compression) => {
            let mut compressor = Compressor::new(out, compression)?;
            std::io::copy(plain, &mut compressor).context(|| "read it")?;
            (compressor.finish()?, Vec::new())
        }
        Packing::Chunks { level } => {
            let done = write_chunked(plain, out, level, &limits()?)?;
            (done.out, done.annotations.unwrap_or_default())
        }
    };
    let out = buffered.into_inner().map_err(std::io::IntoInnerError::into_error).context(|| "write it")?;
    Ok((out, annotations))
}

struct Told<'a, C> {
    chunks: C,
    progress: &'a dyn Progress,
    id: u64,
}

impl<C: Chunks> Chunks for Told<'_, C> {
    fn next_chunk(&mut self) -> Result<Option<bytes::Bytes>> {
        let chunk = self.chunks.next_chunk()?;
        if let Some(chunk) = &chunk {
            self.progress.event(&Event::Advance { id: self.id, bytes: chunk.len() as u64 });
        }
        Ok(chunk)
    }
}

/// A scratch file read from its start, by several readers at once.
struct Shared {
    file: Arc<File>,
    at: u64,
}

impl Read for Shared {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// What begins the annotations of a layer in the form of zstd:chunked, and the one that every such layer has.
const CHUNKED: &str = "io.github.containers.zstd-chunked.";
const CHUNKED_TABLE: &str = "io.github.containers.zstd-chunked.manifest-checksum";

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    /// As one stream.
    Whole(Compression),
    /// As zstd in chunks, with a table of contents.
    Chunks { level: u8 },
}

impl Packing {
    fn compression(self) -> Compression {
        match self {
            Self::Whole(compression) => compression,
            Self::Chunks { level } => Compression::Zstd { level },
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Plain,
    Gzip,
    Zstd,
}

fn kind(compression: Compression) -> Form {
    match compression {
        Compression::None => Form::Plain,
        Compression::Gzip { .. } => Form::Gzip,
        Compression::Zstd { .. } => Form::Zstd,
    }
}

/// How a layer of this type is compressed; `None` for what is not a layer we may touch.
fn form(kind: &str) -> Option<Form> {
    match kind {
        media_type::OCI_LAYER | media_type::DOCKER_LAYER => Some(Form::Plain),
        media_type::OCI_LAYER_GZIP | media_type::DOCKER_LAYER_GZIP => Some(Form::Gzip),
        media_type::OCI_LAYER_ZSTD => Some(Form::Zstd),
        _ => None,
    }
}

struct Family {
    index: &'static str,
    manifest: &'static str,
    config: &'static str,
    plain: &'static str,
    gzip: &'static str,
}

fn family(format: Format) -> Family {
    match format {
        Format::Oci => Family {
            index: media_type::OCI_INDEX,
            manifest: media_type::OCI_MANIFEST,
            config: media_type::OCI_CONFIG,
            plain: media_type::OCI_LAYER,
            gzip: media_type::OCI_LAYER_GZIP,
        },
        Format::Docker => Family {
            index: media_type::DOCKER_LIST,
            manifest: media_type::DOCKER_MANIFEST,
            config: media_type::DOCKER_CONFIG,
            plain: media_type::DOCKER_LAYER,
            gzip: media_type::DOCKER_LAYER_GZIP,
        },
    }
}

/// Writes a manifest's types in one family; whether any changed. Layers the family has no type for keep theirs.
fn retype_manifest(manifest: &mut Manifest, format: Format) -> bool {
    let family = family(format);
    let mut changed = manifest.media_type.as_deref() != Some(family.manifest);
    manifest.media_type = Some(family.manifest.to_owned());
    changed |= manifest.config.media_type != family.config;
    family.config.clone_into(&mut manifest.config.media_type);
    for layer in &mut manifest.layers {
        let wanted = match form(&layer.media_type) {
            Some(Form::Plain) => family.plain,
            Some(Form::Gzip) => family.gzip,
            Some(Form::Zstd) | None => continue,
        };
        changed |= layer.media_type != wanted;
        wanted.clone_into(&mut layer.media_type);
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_translate_both_ways() {
        let layers = [media_type::OCI_LAYER_GZIP, media_type::OCI_LAYER, "application/x-own"];
        let oci = Manifest::new(
            Descriptor::of(media_type::OCI_CONFIG, b"{}"),
            layers.iter().map(|kind| Descriptor::of(*kind, kind.as_bytes())).collect(),
        );
        let mut manifest = oci.clone();
        assert!(!retype_manifest(&mut manifest, Format::Oci));
        assert!(retype_manifest(&mut manifest, Format::Docker));
        let types: Vec<&str> = manifest.layers.iter().map(|layer| layer.media_type.as_str()).collect();
        assert_eq!(types, [media_type::DOCKER_LAYER_GZIP, media_type::DOCKER_LAYER, "application/x-own"]);
        assert!(manifest.is_image());
        assert!(retype_manifest(&mut manifest, Format::Oci));
        assert_eq!(manifest, oci);
    }
}
