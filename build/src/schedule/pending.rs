//! A layer whose archive is still written while the next step runs.
//!
//! What the program of a `RUN` step left is normalised at once, and from then on reads as the layer that it becomes. So
//! the next step can be mounted on it while another thread packs and hashes it. Its identity, and with it the key of the
//! next step, is known only then: a step begins so early only where it is certain that no cache has it. The folder goes
//! into the store, and the result to those who wait for it, between two steps, when no mount of it is being made.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use layerfs::digest::{ChainId, DiffId};
use layerfs::error::{Error, Kind, Result};
use layerfs::layer::{ArchivedLayer, DiffOptions, Lowers, MergedView, archive_upper};
use layerfs::store::{Store, TempDir};

use super::Stack;
use super::once::{Promise, Settle};
use crate::cache::{Inputs, Key, KeyBuilder, Layer, Outcome};

/// What a `RUN` step left: settled, and not packed yet.
pub(crate) struct Changes {
    /// The upper folder.
    pub(crate) upper: PathBuf,
    /// Holds it.
    #[expect(dead_code, reason = "the folder lives as long as it does")]
    pub(crate) dir: TempDir,
}

/// Under which key a result will be recorded.
pub(super) enum Keyed {
    /// This one, for which others may wait.
    Known(Key, Inputs, Settle<Outcome>),
    /// This one, which somebody else has settled.
    Done(Key, Inputs),
    /// One that needs the identity of the layer below.
    Open(Box<KeyBuilder>),
}

/// A layer on its way into the store.
pub(super) struct Pending {
    changes: Changes,
    /// What the thread that packs it gives.
    archived: Arc<Archived>,
    /// Its key, and the mark that a key without the layers below leaves.
    pub(super) keyed: Keyed,
    pub(super) mark: Key,
    pub(super) title: String,
    pub(super) created: String,
    /// Its place in the stage's history.
    pub(super) line: usize,
}

/// The result of packing, waited for.
#[derive(Default)]
pub(super) struct Archived {
    layer: Promise<ArchivedLayer>,
    error: Mutex<Option<Error>>,
}

impl Archived {
    /// Packs the folder. On a thread of its own.
    pub(super) fn make(&self, store: &Store, upper: &std::path::Path, options: &DiffOptions) {
        match archive_upper(store, upper, options) {
            Ok(layer) => self.layer.settle(Some(layer)),
            Err(error) => {
                *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                self.layer.settle(None);
            }
        }
    }

    /// The layer, waited for; the reason why there is none goes to who asks first.
    fn wait(&self) -> Result<ArchivedLayer> {
        self.layer.wait().ok_or_else(|| {
            let error = self.error.lock().unwrap_or_else(PoisonError::into_inner).take();
            error.unwrap_or_else(|| Error::new(Kind::Interrupted, "the layer below could not be kept"))
        })
    }
}

/// Frees those who wait even if the thread that packs panics.
pub(super) struct Freed(pub(super) Arc<Archived>);

impl Drop for Freed {
    fn drop(&mut self) {
        self.0.layer.settle(None);
    }
}

/// What is known of a step besides what it left.
pub(super) struct About {
    pub(super) keyed: Keyed,
    pub(super) mark: Key,
    pub(super) title: String,
    pub(super) created: String,
    pub(super) line: usize,
}

impl Pending {
    pub(super) fn new(changes: Changes, about: About) -> Self {
        let About { keyed, mark, title, created, line } = about;
        Self { changes, archived: Arc::default(), keyed, mark, title, created, line }
    }

    /// What its thread works on.
    pub(super) fn work(&self) -> (Arc<Archived>, PathBuf) {
        (self.archived.clone(), self.changes.upper.clone())
    }

    /// Its identity, waited for.
    pub(super) fn diff_id(&self) -> Result<DiffId> {
        self.archived.wait().map(|layer| layer.diff_id())
    }

    /// Puts the layer into the store. Nobody mounts it at this moment.
    pub(super) fn publish(&self, store: &Store) -> Result<Layer> {
        let layer = self.archived.wait()?;
        let committed = layer.publish(store, &self.changes.upper)?;
        Ok(Layer { diff_id: committed.diff_id, size: committed.blob.size })
    }
}

/// What a step stands on: the layers of its stage, and perhaps one more that is still packed.
#[derive(Clone, Copy)]
pub(crate) struct Below<'a> {
    pub(super) stack: &'a Stack,
    pub(super) pending: Option<&'a Pending>,
}

impl<'a> Below<'a> {
    /// The layers that are in the store.
    pub(crate) fn stack(&self) -> &'a Stack {
        self.stack
    }

    /// The folders to mount.
    pub(crate) fn lowers(&self, store: &Store) -> Result<Lowers> {
        let mut lowers = self.stack.lowers(store)?;
        lowers.dirs.extend(self.pending.map(|pending| pending.changes.upper.clone()));
        Ok(lowers)
    }

    /// The files, for a look without a mount.
    pub(crate) fn view(&self, store: &Store) -> Result<MergedView> {
        Ok(MergedView::new(&self.lowers(store)?.dirs))
    }

    /// The layers' identities, waited for.
    pub(super) fn diff_ids(&self) -> Result<Vec<DiffId>> {
        let mut ids = self.stack.diff_ids();
        if let Some(pending) = self.pending {
            ids.push(pending.diff_id()?);
        }
        Ok(ids)
    }

    /// All of it as one digest, waited for.
    pub(super) fn chain(&self) -> Result<Option<ChainId>> {
        Ok(ChainId::of(&self.diff_ids()?))
    }
}
