//! Mark and sweep: what no ref, container or cache record leads to is removed.
//!
//! Whatever cannot be read for another reason than being missing or malformed ends the collection before it removes
//! anything: a disk error must not pass for an image that nobody needs.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::Deserialize;

use super::format::Roots;
use super::{Store, temp};
use crate::digest::{Algorithm, ChainId, DiffId, Digest};
use crate::error::{Context, Kind, Result};
use crate::oci::{Descriptor, Document, ImageConfig};

/// What a collection freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Blobs removed.
    pub blobs: u64,
    /// Unpacked layers removed.
    pub layers: u64,
    /// Bytes of the blobs removed.
    pub bytes: u64,
}

#[derive(Default)]
struct Marks {
    blobs: HashSet<Digest>,
    /// Beginnings of folder names under `layers/`.
    layers: HashSet<String>,
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
        let marks = self.mark()?;
        let mut reclaimed = Reclaimed::default();
        self.sweep_blobs(&marks, &mut reclaimed)?;
        self.sweep_layers(&marks, &mut reclaimed)?;
        self.sweep_compressed(&marks)?;
        self.sweep_marks()?;
        self.sweep_locks()?;
        temp::sweep(&self.root.join("tmp"), FlockOperation::LockExclusive)?;
        published.or_else(|_| self.publish_index())?;
        Ok(reclaimed)
    }

    fn mark(&self) -> Result<Marks> {
        let mut marks = Marks::default();
        for (_, descriptor) in self.refs()? {
            self.mark_document(&descriptor, &mut marks)?;
        }
        for kind in ["cache", "containers"] {
            for folder in folders(&self.root.join(kind))? {
                self.mark_records(&folder, &mut marks)?;
            }
        }
        Ok(marks)
    }

    /// A record that is malformed keeps nothing: whoever reads it next finds the same and makes it anew.
    fn mark_records(&self, folder: &Path, marks: &mut Marks) -> Result<()> {
        #[derive(Deserialize)]
        struct Record {
            #[serde(default)]
            roots: Roots,
        }
        for path in list(folder)? {
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let bytes = match fs::read(&path) {
                // Removed since the listing.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                result => result.at("read", &path)?,
            };
            let Ok(Record { roots }) = serde_json::from_slice::<Record>(&bytes) else { continue };
            for descriptor in &roots.images {
                self.mark_document(descriptor, marks)?;
            }
            marks.blobs.extend(roots.blobs);
            roots.chains.iter().for_each(|chain| mark_chain(chain, marks));
        }
        Ok(())
    }

    /// Marks a manifest or index with all it names. One that is missing or malformed marks only itself: the image is
    /// damaged, and removing more would not mend it.
    fn mark_document(&self, descriptor: &Descriptor, marks: &mut Marks) -> Result<()> {
        if !marks.blobs.insert(descriptor.digest) {
            return Ok(());
        }
        let Some(bytes) = unless_damaged(self.read_document(descriptor))? else { return Ok(()) };
        match Document::parse(&bytes, Some(&descriptor.media_type)) {
            Ok(Document::Index(index)) => {
                for child in index.manifests.iter().chain(&index.subject) {
                    self.mark_document(child, marks)?;
                }
            }
            Ok(Document::Manifest(manifest)) => {
                marks.blobs.insert(manifest.config.digest);
                marks.blobs.extend(manifest.layers.iter().map(|layer| layer.digest));
                if let Some(subject) = &manifest.subject {
                    self.mark_document(subject, marks)?;
                }
                let config = unless_damaged(self.read_document(&manifest.config))?;
                let config = config.and_then(|bytes| ImageConfig::parse(&bytes).ok());
                if let Some(chain) = config.and_then(|config| config.diff_ids().ok()) {
                    mark_chain(&chain, marks);
                }
            }
            Err(_) => {}
        }
        Ok(())
    }

    fn sweep_blobs(&self, marks: &Marks, reclaimed: &mut Reclaimed) -> Result<()> {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for path in list(&self.root.join("blobs").join(algorithm.name()))? {
                let name = format!("{}:{}", algorithm.name(), name_of(&path));
                if name.parse::<Digest>().is_ok_and(|digest| marks.blobs.contains(&digest)) {
                    continue;
                }
                let bytes = fs::symlink_metadata(&path).map_or(0, |metadata| metadata.len());
                fs::remove_file(&path).at("remove", &path)?;
                reclaimed.blobs += 1;
                reclaimed.bytes += bytes;
            }
        }
        Ok(())
    }

    fn sweep_layers(&self, marks: &Marks, reclaimed: &mut Reclaimed) -> Result<()> {
        for folder in folders(&self.layers_dir())? {
            if !marks.layers.contains(name_of(&folder).split('.').next().unwrap_or_default()) {
                self.discard(&folder)?;
                reclaimed.layers += 1;
            }
        }
        Ok(())
    }

    /// A record is worth keeping while its layer is in use.
    fn sweep_compressed(&self, marks: &Marks) -> Result<()> {
        for path in list(&self.root.join("compressed"))? {
            if !marks.layers.contains(name_of(&path).split('.').next().unwrap_or_default()) {
                fs::remove_file(&path).at("remove", &path)?;
            }
        }
        Ok(())
    }

    /// Locks on single objects are taken under a pin only, so nobody holds one now.
    fn sweep_locks(&self) -> Result<()> {
        for path in list(&self.root.join("locks"))? {
            fs::remove_file(&path).at("remove", &path)?;
        }
        Ok(())
    }
}

/// `None` for a document that is missing or is not what its name says; other errors are no statement about it.
fn unless_damaged(read: Result<Vec<u8>>) -> Result<Option<Vec<u8>>> {
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Corrupt | Kind::Limit) => Ok(None),
        Err(error) => Err(error),
    }
}

fn mark_chain(chain: &[DiffId], marks: &mut Marks) {
    let mut below = None;
    for diff_id in chain {
        let chain_id = ChainId::on(below, *diff_id);
        marks.layers.extend([diff_id.0.hex(), chain_id.0.hex()]);
        // A layer that `build` made lies in blobs/ as its own tar.
        marks.blobs.insert(diff_id.0);
        below = Some(chain_id);
    }
}

fn name_of(path: &Path) -> Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// What lies in a folder; nothing where there is none.
pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.at("read", dir)?,
    };
    entries.map(|entry| entry.map(|entry| entry.path()).at("read", dir)).collect()
}

/// The folders in a folder. What is removed meanwhile is none any more.
fn folders(dir: &Path) -> Result<Vec<PathBuf>> {
    let is_folder = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    Ok(list(dir)?.into_iter().filter(is_folder).collect())
}
