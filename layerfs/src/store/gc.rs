//! Mark and sweep: what no ref, container, mount or cache record leads to is removed.
//!
//! Whatever cannot be read for another reason than being missing or malformed ends the collection before it removes
//! anything: a disk error must not pass for an image that nobody needs.

use std::collections::HashSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::FlockOperation;

use super::reach::{folders, list, name_of};
use super::{Store, temp};
use crate::error::{Context, Result};
use crate::reference::Reference;

/// What a collection freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Blobs removed.
    pub blobs: u64,
    /// Unpacked layers removed.
    pub layers: u64,
    /// Bytes of their files.
    pub bytes: u64,
}

/// What nothing leads to: paths below the store's root, with the bytes of their files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unneeded {
    /// Files among the blobs.
    pub blobs: Vec<(PathBuf, u64)>,
    /// Folders of unpacked layers and shims.
    pub layers: Vec<(PathBuf, u64)>,
    /// Records of compressed forms.
    records: Vec<PathBuf>,
}

impl Unneeded {
    /// What removing it frees.
    pub fn total(&self) -> Reclaimed {
        Reclaimed {
            blobs: self.blobs.len() as u64,
            layers: self.layers.len() as u64,
            bytes: self.blobs.iter().chain(&self.layers).map(|(_, bytes)| bytes).sum(),
        }
    }
}

impl Store {
    /// Removes what nothing leads to; waits for every [`super::Pin`] first.
    ///
    /// # Errors
    /// The store cannot be read or written. What was removed until then stays removed, and nothing else is.
    pub fn gc(&self) -> Result<Reclaimed> {
        let queue = temp::lock(&self.root.join("gc-queue.lock"), FlockOperation::LockExclusive)?;
        self.collect(queue)
    }

    /// The same for whoever just removed a name, unless another collection is waiting to begin: that one frees this
    /// one's garbage too.
    ///
    /// # Errors
    /// Those of [`Store::gc`].
    pub fn gc_unless_queued(&self) -> Result<Option<Reclaimed>> {
        let path = self.root.join("gc-queue.lock");
        match temp::lock(&path, FlockOperation::NonBlockingLockExclusive) {
            Ok(queue) => self.collect(queue).map(Some),
            Err(error) if error.errno() == Some(libc::EWOULDBLOCK) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn collect(&self, queue: OwnedFd) -> Result<Reclaimed> {
        let _alone = temp::lock(&self.root.join("gc.lock"), FlockOperation::LockExclusive)?;
        // Names that go from here on may be missed.
        drop(queue);
        // Whoever reads the index must not find what is about to go. On a full disk that has to wait for the sweep.
        let published = self.publish_index();
        self.sweep_mounts()?;
        let unneeded = self.unneeded(&HashSet::new())?;
        for (path, _) in &unneeded.blobs {
            fs::remove_file(path).at("remove", path)?;
        }
        for (path, _) in &unneeded.layers {
            self.discard(path)?;
        }
        for path in &unneeded.records {
            fs::remove_file(path).at("remove", path)?;
        }
        self.sweep_marks()?;
        self.sweep_locks()?;
        temp::sweep(&self.root.join("tmp"), FlockOperation::LockExclusive)?;
        published.or_else(|_| self.publish_index())?;
        Ok(unneeded.total())
    }

    /// What a collection would remove now if the names in `without` were gone. Nothing is locked: what others import
    /// meanwhile is among it until it has its name.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn unneeded(&self, without: &HashSet<Reference>) -> Result<Unneeded> {
        let mut reach = self.reach_of_names(without)?;
        for kind in ["cache", "containers", "mounts"] {
            self.add_records(&self.records(kind)?, &mut reach)?;
        }
        let mut unneeded = Unneeded::default();
        for (digest, path) in self.blob_files()? {
            if digest.is_none_or(|digest| !reach.blobs.contains(&digest)) {
                let bytes = fs::symlink_metadata(&path).map_or(0, |metadata| metadata.len());
                unneeded.blobs.push((path, bytes));
            }
        }
        for folder in folders(&self.layers_dir())? {
            if !reach.has_layer(&name_of(&folder)) {
                let bytes = crate::layer::recorded_bytes(&folder).unwrap_or(0);
                unneeded.layers.push((folder, bytes));
            }
        }
        // A record is worth keeping while its layer is in use.
        unneeded.records = list(&self.root.join("compressed"))?;
        unneeded.records.retain(|path| !reach.has_layer(&name_of(path)));
        Ok(unneeded)
    }

    /// Locks on single objects are taken under a pin only, so nobody holds one now.
    fn sweep_locks(&self) -> Result<()> {
        for path in list(&self.root.join("locks"))? {
            fs::remove_file(&path).at("remove", &path)?;
        }
        Ok(())
    }
}
