//! `store:`: our own store.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use layerfs::digest::{DiffId, Digest};
use layerfs::error::{Context, Result};
use layerfs::layer::{Limits, stream_layer, unpack_image};
use layerfs::oci::{Descriptor, Document, ImageConfig, Platform};
use layerfs::reference::Reference;
use layerfs::store::{Pin, Store};

use super::{Opener, Sent, Sink, Source, read_document, write_chunks};
use crate::inventory::Inventory;
use crate::stream::{Chunks, FromRead, Start, ToRead};

/// The annotation of a name in the store that says which index its manifest was taken from.
pub(crate) const PULLED_FROM: &str = "org.layerfs.pulled-from";

/// An image in the store.
pub(crate) struct StoreSource<'a> {
    store: &'a Store,
    root: Descriptor,
    _pin: Pin,
}

impl<'a> StoreSource<'a> {
    /// The image behind a descriptor.
    pub(crate) fn new(store: &'a Store, root: &Descriptor) -> Result<Self> {
        // What the store notes about a name is no part of the image.
        let root = Descriptor::new(&root.media_type, root.digest, root.size);
        Ok(Self { store, root, _pin: store.pin()? })
    }
}

impl Source for StoreSource<'_> {
    fn root(&self) -> Result<(Descriptor, Vec<u8>)> {
        Ok((self.root.clone(), self.store.read_document(&self.root)?))
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.store.read_document(descriptor)
    }

    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Chunks>> {
        let file = self.store.open_blob(&blob.digest)?;
        Ok(Box::new(FromRead::new(file, format!("blob `{}` of the store", blob.digest))))
    }
}

/// What a layer may cost here.
pub(crate) fn limits() -> Result<Limits> {
    Limits::chosen(|name| std::env::var_os(name))
}

/// Whether layers are unpacked while they arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unpack {
    /// Yes: the image is about to be mounted.
    Now,
    /// No: the first mount does it.
    Later,
}

/// A place for an image in the store.
pub(crate) struct StoreSink<'a> {
    store: &'a Store,
    names: Vec<Reference>,
    pulled_from: Option<Digest>,
    unpack: Unpack,
    diff_ids: Mutex<HashMap<Digest, DiffId>>,
    _pin: Pin,
}

impl<'a> StoreSink<'a> {
    /// The image will have these names. `pulled_from` is the index it was chosen from, where it was.
    pub(crate) fn new(
        store: &'a Store,
        names: Vec<Reference>,
        pulled_from: Option<Digest>,
        unpack: Unpack,
    ) -> Result<Self> {
        Ok(Self { store, names, pulled_from, unpack, diff_ids: Mutex::default(), _pin: store.pin()? })
    }

    /// What the names point to.
    pub(crate) fn target(&self, root: &Descriptor) -> Descriptor {
        let mut target = Descriptor::new(&root.media_type, root.digest, root.size);
        if let Some(index) = self.pulled_from.filter(|index| *index != root.digest) {
            target.annotations.insert(PULLED_FROM.to_owned(), index.to_string().into());
        }
        target
    }

    fn diff_id(&self, blob: &Descriptor) -> Option<DiffId> {
        self.diff_ids.lock().unwrap_or_else(PoisonError::into_inner).get(&blob.digest).copied()
    }
}

impl Sink for StoreSink<'_> {
    fn is_current(&self, root: &Descriptor) -> Result<bool> {
        if self.unpack == Unpack::Now {
            return Ok(false);
        }
        let target = self.target(root);
        for name in &self.names {
            if self.store.resolve(name)?.as_ref() != Some(&target) {
                return Ok(false);
            }
        }
        // A name leads to an image that a check may have taken a damaged blob from.
        Ok(!self.names.is_empty() && self.store.is_complete(&target)?)
    }

    fn prepare(&self, inventory: &Inventory, source: &dyn Source) -> Result<()> {
        if self.unpack == Unpack::Later {
            return Ok(());
        }
        let Some(manifest) = inventory.single().filter(|manifest| manifest.is_image()) else { return Ok(()) };
        let config = match self.store.has_blob(&manifest.config.digest) {
            true => self.store.read_document(&manifest.config)?,
            false => read_document(source, &manifest.config)?,
        };
        let diff_ids = ImageConfig::parse(&config)?.diff_ids()?;
        if diff_ids.len() == manifest.layers.len() {
            let pairs = manifest.layers.iter().zip(diff_ids).map(|(layer, diff_id)| (layer.digest, diff_id));
            *self.diff_ids.lock().unwrap_or_else(PoisonError::into_inner) = pairs.collect();
        }
        Ok(())
    }

    fn existing(&self, blobs: &[Descriptor]) -> Result<Vec<bool>> {
        Ok(blobs.iter().map(|blob| self.store.blob_size(&blob.digest) == Some(blob.size)).collect())
    }

    fn verifies(&self) -> bool {
        true
    }

    fn put_blob(&self, blob: &Descriptor, _from: Option<&str>, open: Opener<'_>) -> Result<Sent> {
        let _lock = self.store.lock_blob(&blob.digest)?;
        // Another process that was faster has brought it.
        if self.store.blob_size(&blob.digest) == Some(blob.size) {
            return Ok(Sent::Bytes);
        }
        match self.diff_id(blob) {
            Some(diff_id) => {
                stream_layer(self.store, blob, diff_id, ToRead::new(open(Start::BEGIN)?), &limits()?)?;
            }
            None => {
                let mut writer = self.store.blob_writer(Some(blob))?;
                write_chunks(&mut writer, &mut open(Start::BEGIN)?, || format!("blob `{}`", blob.digest))?;
                writer.commit()?;
            }
        }
        Ok(Sent::Bytes)
    }

    fn put_document(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
        if self.store.blob_size(&descriptor.digest) == Some(descriptor.size) {
            return Ok(());
        }
        let mut writer = self.store.blob_writer(Some(descriptor))?;
        writer.write_all(bytes).context(|| format!("write blob `{}`", descriptor.digest))?;
        writer.commit().map(drop)
    }

    fn finish(&self, root: &Descriptor, bytes: &[u8]) -> Result<()> {
        self.put_document(root, bytes)?;
        if self.unpack == Unpack::Now && matches!(Document::parse(bytes, None)?, Document::Manifest(m) if m.is_image())
        {
            let image = self.store.image(root, &Platform::host())?;
            unpack_image(self.store, &image, &limits()?)?;
        }
        let target = self.target(root);
        for name in &self.names {
            self.store.tag(name, &target)?;
        }
        self.store.publish_index()
    }
}
