//! Mark and sweep: what no ref, container or cache record leads to is removed.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use rustix::fs::FlockOperation;
use serde::Deserialize;

use super::format::Roots;
use super::{Store, temp};
use crate::digest::{Algorithm, ChainId, DiffId, Digest};
use crate::error::{Context, Result};
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
        let _lock = temp::lock(&self.root.join("gc.lock"), FlockOperation::LockExclusive)?;
        let marks = self.mark()?;
        let mut reclaimed = Reclaimed::default();
        self.sweep_blobs(&marks, &mut reclaimed)?;
        self.sweep_layers(&marks, &mut reclaimed)?;
        self.sweep_compressed(&marks)?;
        Ok(reclaimed)
    }

    fn mark(&self) -> Result<Marks> {
        let mut marks = Marks::default();
        for (_, descriptor) in self.refs()? {
            self.mark_document(&descriptor, &mut marks);
        }
        for kind in ["cache", "containers"] {
            for folder in folders(&self.root.join(kind)) {
                self.mark_records(&folder, &mut marks);
            }
        }
        Ok(marks)
    }

    /// A record that cannot be read keeps nothing: whoever reads it next finds the same and makes it anew.
    fn mark_records(&self, folder: &Path, marks: &mut Marks) {
        #[derive(Deserialize)]
        struct Record {
            #[serde(default)]
            roots: Roots,
        }
        for entry in fs::read_dir(folder).into_iter().flatten().filter_map(std::result::Result::ok) {
            if entry.path().extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let record = fs::read(entry.path()).ok().and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
            let Some(Record { roots }) = record else { continue };
            roots.images.iter().for_each(|descriptor| self.mark_document(descriptor, marks));
            marks.blobs.extend(roots.blobs);
            roots.chains.iter().for_each(|chain| mark_chain(chain, marks));
        }
    }

    /// Marks a manifest or index with all it names. One that is missing or malformed marks only itself: the image is
    /// damaged, and removing more would not mend it.
    fn mark_document(&self, descriptor: &Descriptor, marks: &mut Marks) {
        if !marks.blobs.insert(descriptor.digest) {
            return;
        }
        let Ok(bytes) = self.read_document(descriptor) else { return };
        match Document::parse(&bytes, Some(&descriptor.media_type)) {
            Ok(Document::Index(index)) => {
                index.manifests.iter().chain(&index.subject).for_each(|child| self.mark_document(child, marks));
            }
            Ok(Document::Manifest(manifest)) => {
                marks.blobs.insert(manifest.config.digest);
                marks.blobs.extend(manifest.layers.iter().map(|layer| layer.digest));
                if let Some(subject) = &manifest.subject {
                    self.mark_document(subject, marks);
                }
                let config = self.read_document(&manifest.config).and_then(|bytes| ImageConfig::parse(&bytes));
                if let Ok(chain) = config.and_then(|config| config.diff_ids()) {
                    mark_chain(&chain, marks);
                }
            }
            Err(_) => {}
        }
    }

    fn sweep_blobs(&self, marks: &Marks, reclaimed: &mut Reclaimed) -> Result<()> {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let dir = self.root.join("blobs").join(algorithm.name());
            for entry in fs::read_dir(&dir).into_iter().flatten().filter_map(std::result::Result::ok) {
                let name = format!("{}:{}", algorithm.name(), entry.file_name().to_string_lossy());
                if name.parse::<Digest>().is_ok_and(|digest| marks.blobs.contains(&digest)) {
                    continue;
                }
                reclaimed.blobs += 1;
                reclaimed.bytes += entry.metadata().map_or(0, |metadata| metadata.len());
                fs::remove_file(entry.path()).at("remove", entry.path())?;
            }
        }
        Ok(())
    }

    fn sweep_layers(&self, marks: &Marks, reclaimed: &mut Reclaimed) -> Result<()> {
        for folder in folders(&self.layers_dir()) {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let id = name.split('.').next().unwrap_or_default();
            if !marks.layers.contains(id) {
                reclaimed.layers += 1;
                self.discard(&folder)?;
            }
        }
        Ok(())
    }

    /// A record is worth keeping while its layer is in use.
    fn sweep_compressed(&self, marks: &Marks) -> Result<()> {
        let dir = self.root.join("compressed");
        for entry in fs::read_dir(&dir).at("read", &dir)?.filter_map(std::result::Result::ok) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !marks.layers.contains(name.split('.').next().unwrap_or_default()) {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
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

fn folders(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(std::result::Result::ok);
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}
