//! What is led to: the blobs and unpacked layers that names, containers and the build cache keep.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Store;
use super::contents::{Contents, read_small, spread};
use super::format::Roots;
use crate::digest::{Algorithm, ChainId, DiffId, Digest};
use crate::error::{Context, Result};
use crate::oci::Descriptor;
use crate::reference::Reference;

/// Blobs, and unpacked layers by diff ID or chain ID.
#[derive(Clone, Debug, Default)]
pub(super) struct Reach {
    pub(super) blobs: HashSet<Digest>,
    pub(super) layers: HashSet<Digest>,
    /// Every prefix of a chain that was met; most images share theirs.
    chain_ids: HashMap<(Option<ChainId>, DiffId), ChainId>,
}

/// A record of `cache/KIND/`, `containers/ID/` or `mounts/NAME/`.
#[derive(Debug)]
pub(super) struct Record {
    /// The folder it lies in.
    pub(super) folder: PathBuf,
    /// What it keeps.
    pub(super) roots: Roots,
}

impl Reach {
    /// Adds an image with everything below it.
    pub(super) fn add(&mut self, contents: &Contents) {
        self.blobs.extend(contents.parts.iter().map(|part| part.digest));
        contents.chains.iter().for_each(|chain| self.add_chain(&chain.diff_ids));
    }

    /// Adds a stack of layers: every one, and the shim of every prefix.
    pub(super) fn add_chain(&mut self, chain: &[DiffId]) {
        let mut below = None;
        for diff_id in chain {
            let on = || ChainId::on(below, *diff_id);
            let chain_id = *self.chain_ids.entry((below, *diff_id)).or_insert_with(on);
            self.layers.extend([diff_id.0, chain_id.0]);
            // A layer that `build` made lies in blobs/ as its own tar.
            self.blobs.insert(diff_id.0);
            below = Some(chain_id);
        }
    }

    /// Whether a folder of `layers/`, or a record of `compressed/`, belongs to a layer that is led to.
    pub(super) fn has_layer(&self, name: &str) -> bool {
        layer_id(name).is_some_and(|id| self.layers.contains(&id))
    }
}

/// The diff ID or chain ID that a name in `layers/` or `compressed/` begins with.
pub(super) fn layer_id(name: &str) -> Option<Digest> {
    format!("sha256:{}", name.split('.').next()?).parse().ok()
}

impl Store {
    /// What every manifest or index in `roots` consists of, in their order.
    pub(super) fn all_contents(&self, roots: &[Descriptor]) -> Result<Vec<Contents>> {
        spread(roots, |root| self.contents(root))
    }

    /// What all names but those in `without` lead to.
    pub(super) fn reach_of_names(&self, without: &HashSet<Reference>) -> Result<Reach> {
        let mut seen = HashSet::new();
        let kept = self.refs()?.into_iter().filter(|(name, _)| !without.contains(name));
        let refs = kept.map(|(_, descriptor)| descriptor);
        let roots: Vec<Descriptor> = refs.filter(|descriptor| seen.insert(descriptor.digest)).collect();
        let mut reach = Reach::default();
        self.all_contents(&roots)?.iter().for_each(|contents| reach.add(contents));
        Ok(reach)
    }

    /// Adds what records keep.
    pub(super) fn add_records(&self, records: &[Record], reach: &mut Reach) -> Result<()> {
        for Record { roots, .. } in records {
            self.all_contents(&roots.images)?.iter().for_each(|contents| reach.add(contents));
            reach.blobs.extend(&roots.blobs);
            roots.chains.iter().for_each(|chain| reach.add_chain(chain));
        }
        Ok(())
    }

    /// The records below `cache`, `containers` or `mounts`. One that is malformed keeps nothing: whoever reads it next finds the
    /// same and makes it anew.
    pub(super) fn records(&self, kind: &str) -> Result<Vec<Record>> {
        #[derive(Deserialize)]
        struct Text {
            #[serde(default)]
            roots: Roots,
        }
        let mut records = Vec::new();
        for folder in folders(&self.root.join(kind))? {
            let files = list(&folder)?.into_iter().filter(|path| path.extension().is_some_and(|end| end == "json"));
            for path in files {
                let parsed: Option<Text> = read_record(&path)?;
                records.extend(parsed.map(|Text { roots }| Record { folder: folder.clone(), roots }));
            }
        }
        Ok(records)
    }

    /// Every file among the blobs. One that no blob could be called is `None` by digest.
    pub(super) fn blob_files(&self) -> Result<Vec<(Option<Digest>, PathBuf)>> {
        let mut found = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for path in list(&self.root.join("blobs").join(algorithm.name()))? {
                found.push((format!("{}:{}", algorithm.name(), name_of(&path)).parse().ok(), path));
            }
        }
        Ok(found)
    }

    /// The same with their sizes.
    pub(crate) fn blobs(&self) -> Result<Vec<(Option<Digest>, PathBuf, u64)>> {
        let sized = |(digest, path): (Option<Digest>, PathBuf)| {
            let bytes = fs::symlink_metadata(&path).map_or(0, |metadata| metadata.len());
            (digest, path, bytes)
        };
        Ok(self.blob_files()?.into_iter().map(sized).collect())
    }
}

/// The last component of a path, as text.
pub(super) fn name_of(path: &Path) -> Cow<'_, str> {
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

/// A record; none where it is malformed, or was removed since it was listed.
pub(super) fn read_record<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match read_small(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.at("read", path)?,
    };
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// The folders in a folder. What is removed meanwhile is none any more.
pub(super) fn folders(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.at("read", dir)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.at("read", dir)?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}
