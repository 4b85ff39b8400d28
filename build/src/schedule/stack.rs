//! The layers of a stage so far.

use layerfs::archive::Limits;
use layerfs::digest::{ChainId, DiffId};
use layerfs::error::Result;
use layerfs::layer::{Lowers, MergedView, unpack_chain};
use layerfs::oci::{Descriptor, media_type};
use layerfs::store::{Image, Store};

use crate::cache::Layer;

/// Layers, lowest first, each with the blob it can be had from.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Stack(Vec<(Descriptor, DiffId)>);

impl Stack {
    /// The layers of an image.
    pub(crate) fn of_image(image: &Image) -> Self {
        Self(image.layers().map(|(descriptor, diff_id)| (descriptor.clone(), diff_id)).collect())
    }

    /// The same with a layer on top.
    pub(crate) fn push(&mut self, layer: Layer) {
        self.0.push((Descriptor::new(media_type::OCI_LAYER, layer.diff_id.0, layer.size), layer.diff_id));
    }

    /// The lowest `count` layers.
    pub(crate) fn lowest(&self, count: usize) -> Self {
        Self(self.0.iter().take(count).cloned().collect())
    }

    /// Puts one layer in the place of all above the lowest `below`.
    pub(crate) fn replace_above(&mut self, below: usize, layer: Layer) {
        self.0.truncate(below);
        self.push(layer);
    }

    /// What the stack contains, as one digest; `None` for nothing.
    pub(crate) fn chain(&self) -> Option<ChainId> {
        ChainId::of(&self.diff_ids())
    }

    /// The layers' identities.
    pub(crate) fn diff_ids(&self) -> Vec<DiffId> {
        self.0.iter().map(|(_, diff_id)| *diff_id).collect()
    }

    /// The layers' blobs.
    pub(crate) fn blobs(&self) -> Vec<Descriptor> {
        self.0.iter().map(|(descriptor, _)| descriptor.clone()).collect()
    }

    /// Whether every layer lies unpacked.
    pub(crate) fn is_unpacked(&self, store: &Store) -> Result<bool> {
        for (_, diff_id) in &self.0 {
            if !store.has_layer(*diff_id)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The folders to mount, unpacked where they were not.
    pub(crate) fn lowers(&self, store: &Store) -> Result<Lowers> {
        unpack_chain(store, &self.0, &Limits::chosen(|name| std::env::var_os(name))?)
    }

    /// The files, for a look without a mount.
    pub(crate) fn view(&self, store: &Store) -> Result<MergedView> {
        Ok(MergedView::new(&self.lowers(store)?.dirs))
    }
}
