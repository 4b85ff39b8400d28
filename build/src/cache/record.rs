//! Results on disk.

use std::fs;
use std::io;
use std::path::PathBuf;

use layerfs::digest::{DiffId, Digest};
use layerfs::error::{Context, Result};
use layerfs::oci::canonical_json;
use layerfs::store::format::Roots;
use layerfs::store::{Store, TempDir};
use serde::{Deserialize, Serialize};

use super::{Inputs, Key};

/// What a step yielded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its layer; `None` where it changed nothing.
    pub layer: Option<Layer>,
    /// When it was made, RFC 3339: a later build that finds it here states the same time and so is the same image.
    pub created: String,
}

/// A layer as a step made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Its identity, and the digest of its archive among the store's blobs.
    pub diff_id: DiffId,
    /// The archive's size in bytes.
    pub size: u64,
}

/// The file `cache/steps/KEY.json`.
#[derive(Serialize, Deserialize)]
struct Record {
    layer: Option<Layer>,
    created: String,
    title: String,
    /// What the key was made of, for whoever asks why another was not found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    inputs: Inputs,
    roots: Roots,
}

/// What is written down of a step besides its result.
#[derive(Clone, Copy, Debug, Default)]
pub struct About<'a> {
    /// For people who look into the cache.
    pub title: &'a str,
    /// What the key was made of.
    pub inputs: &'a [(String, String)],
    /// The stack that the layer was made on and needs to be of use.
    pub below: &'a [DiffId],
}

/// The records of a store.
#[derive(Debug)]
pub struct Records<'a> {
    store: &'a Store,
    steps: PathBuf,
    trees: PathBuf,
    marks: PathBuf,
    /// Where records are born.
    nursery: TempDir,
}

impl<'a> Records<'a> {
    /// The records of `store`.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn open(store: &'a Store) -> Result<Self> {
        let folder = |name: &str| store.cache_dir().join(name);
        let (steps, trees, marks) = (folder("steps"), folder("trees"), folder("marks"));
        for folder in [&steps, &trees, &marks] {
            fs::create_dir_all(folder).at("create", folder)?;
        }
        Ok(Self { store, steps, trees, marks, nursery: store.new_temp_dir()? })
    }

    /// What a step of this key yielded before. A record that is damaged, or whose layer is gone, is none.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn find(&self, key: &Key) -> Result<Option<Outcome>> {
        let path = self.steps.join(format!("{}.json", key.name()));
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.at("read", &path)?,
        };
        let Ok(record) = serde_json::from_slice::<Record>(&bytes) else { return Ok(None) };
        let gone = |layer: &Layer| self.store.blob_size(&layer.diff_id.0) != Some(layer.size);
        if record.layer.as_ref().is_some_and(gone) {
            return Ok(None);
        }
        Ok(Some(Outcome { layer: record.layer, created: record.created }))
    }

    /// Records what a step yielded.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn keep(&self, key: &Key, outcome: &Outcome, about: About<'_>) -> Result<()> {
        let chain = about.below.iter().copied().chain(outcome.layer.map(|layer| layer.diff_id)).collect();
        let record = Record {
            layer: outcome.layer,
            created: outcome.created.clone(),
            title: about.title.to_owned(),
            inputs: about.inputs.to_vec(),
            roots: Roots { chains: vec![chain], ..Roots::default() },
        };
        self.place(&self.steps.join(format!("{}.json", key.name())), &canonical_json(&record))
    }

    /// Of the results of steps with this title the one whose inputs are most like `inputs`, the newest of equals. Reads
    /// all records: for those who ask for an explanation.
    ///
    /// # Errors
    /// The records cannot be listed.
    pub fn nearest(&self, title: &str, inputs: &Inputs) -> Result<Option<(Inputs, Outcome)>> {
        let mut best: Option<(usize, Record)> = None;
        for entry in fs::read_dir(&self.steps).at("read", &self.steps)? {
            let path = entry.at("read", &self.steps)?.path();
            let record = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
            let Some(record) = record.filter(|record| record.title == title && !record.inputs.is_empty()) else {
                continue;
            };
            let distance = super::explain::differences(&record.inputs, inputs).len();
            let better = best.as_ref().is_none_or(|(least, known)| {
                distance < *least || (distance == *least && record.created > known.created)
            });
            if better {
                best = Some((distance, record));
            }
        }
        Ok(best.map(|(_, record)| {
            let there = |layer: &Layer| self.store.blob_size(&layer.diff_id.0) == Some(layer.size);
            (record.inputs, Outcome { layer: record.layer.filter(there), created: record.created })
        }))
    }

    /// Notes that there is a result for a step like this. The key is one without the layers below.
    ///
    /// # Errors
    /// The note cannot be written.
    pub fn mark(&self, key: &Key) -> Result<()> {
        let path = self.marks.join(key.name());
        fs::File::create(&path).map(drop).at("create", path)
    }

    /// Whether there may be a result for a step like this; where not, there is none on whatever layers.
    pub fn is_marked(&self, key: &Key) -> bool {
        self.marks.join(key.name()).exists()
    }

    /// A digest of files that was taken before of a tree that never changes.
    pub fn tree_digest(&self, key: &Key) -> Option<Digest> {
        fs::read_to_string(self.trees.join(key.name())).ok()?.trim().parse().ok()
    }

    /// Records such a digest.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn keep_tree_digest(&self, key: &Key, digest: &Digest) -> Result<()> {
        self.place(&self.trees.join(key.name()), digest.to_string().as_bytes())
    }

    fn place(&self, path: &std::path::Path, bytes: &[u8]) -> Result<()> {
        let name = path.file_name().unwrap_or_default();
        let thread = format!("{:?}", std::thread::current().id());
        let born = self.nursery.path().join(format!("{}-{thread}", name.to_string_lossy()));
        fs::write(&born, bytes).at("write", &born)?;
        fs::rename(&born, path).at("write", path)
    }
}

#[cfg(test)]
mod tests {
    use super::super::KeyBuilder;
    use super::*;

    #[test]
    fn a_record_counts_only_while_its_layer_is_there() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(&dir.path().join("store")).expect("a store");
        let records = Records::open(&store).expect("records");
        let digest = store.put_blob(b"layer").expect("stored");
        let layer = Layer { diff_id: DiffId(digest), size: 5 };
        let outcome = Outcome { layer: Some(layer), created: "2020-01-01T00:00:00Z".to_owned() };
        let key = KeyBuilder::new("x").finish();
        assert_eq!(records.find(&key).expect("readable"), None);
        records.keep(&key, &outcome, About { title: "RUN x", ..About::default() }).expect("kept");
        assert_eq!(records.find(&key).expect("readable"), Some(outcome.clone()));
        assert_eq!(store.gc().expect("collected").blobs, 0, "a record keeps its layer");

        let path = store.cache_dir().join("steps").join(format!("{}.json", key.name()));
        let text = fs::read_to_string(&path).expect("readable");
        fs::write(&path, &text[..text.len() / 2]).expect("torn");
        assert_eq!(records.find(&key).expect("readable"), None);
        fs::write(&path, &text).expect("mended");
        fs::remove_file(store.blob_path(&digest)).expect("removed");
        assert_eq!(records.find(&key).expect("readable"), None);
    }
}
