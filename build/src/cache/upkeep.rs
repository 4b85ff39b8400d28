//! `build cache du|prune`: what the cache of this machine takes, and letting go of it.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use layerfs::error::{Context, Result};
use layerfs::store::{Reclaimed, Store};
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

/// A result that the cache holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The beginning of its key.
    pub key: String,
    /// The step it is of.
    pub title: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Bytes of its layer as an archive.
    pub bytes: u64,
}

/// Every result, the largest first.
///
/// # Errors
/// The store cannot be read.
pub fn list(store: &Store) -> Result<Vec<Kept>> {
    let mut found = Vec::new();
    for path in files(&store.cache_dir().join("steps"))? {
        let Some(record) = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()) else {
            continue;
        };
        let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
        let key = path.file_stem().map(|name| name.to_string_lossy().chars().take(12).collect()).unwrap_or_default();
        let bytes = record["layer"]["size"].as_u64().unwrap_or(0);
        found.push(Kept { key, title: text("title"), created: text("created"), bytes });
    }
    found.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.title.cmp(&b.title)));
    Ok(found)
}

/// Lets go of results, files of the web, repositories and cache mounts that were last written before `age` ago, or of
/// all; gives the number of results, and what that freed. Cache mounts that a step uses stay.
///
/// # Errors
/// The store cannot be written.
pub fn prune(store: &Store, age: Option<Duration>) -> Result<(u64, Reclaimed)> {
    let old = |path: &Path| {
        let Some(age) = age else { return true };
        let written = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
        written.is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|passed| passed >= age))
    };
    let cache = store.cache_dir();
    let mut results = 0;
    for folder in ["steps", "marks", "trees", "web"] {
        for path in files(&cache.join(folder))?.into_iter().filter(|path| old(path)) {
            remove(&path)?;
            results += u64::from(folder == "steps");
        }
    }
    for path in files(&cache.join("git"))?.into_iter().filter(|path| old(path)) {
        let lock = path.with_extension("lock");
        if path.is_dir() && is_free(&lock) {
            fs::remove_dir_all(&path).at("remove", &path)?;
        }
    }
    for path in files(&cache.join("mounts"))?.into_iter().filter(|path| old(&path.join("data"))) {
        if is_free(&path.join("lock")) {
            fs::remove_dir_all(&path).at("remove", &path)?;
        }
    }
    Ok((results, store.gc()?))
}

/// Whether nobody holds the lock.
fn is_free(lock: &Path) -> bool {
    File::open(lock).map_or(true, |file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok())
}

fn files(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries.at("read", folder)?.map(|entry| Ok(entry.at("read", folder)?.path())).collect(),
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        // Another let go of it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.at("remove", path),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{About, KeyBuilder, Layer, Outcome, Records};
    use super::*;
    use layerfs::digest::DiffId;

    #[test]
    fn what_is_let_go_of_is_freed() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(&dir.path().join("store")).expect("a store");
        let digest = store.put_blob(b"layer").expect("stored");
        let outcome = Outcome {
            layer: Some(Layer { diff_id: DiffId(digest), size: 5 }),
            created: "2020-01-01T00:00:00Z".to_owned(),
        };
        let records = Records::open(&store).expect("records");
        records
            .keep(&KeyBuilder::new("x").finish(), &outcome, About { title: "RUN x", ..About::default() })
            .expect("kept");
        drop(records);
        let kept = list(&store).expect("listed");
        assert_eq!((kept.len(), kept[0].title.as_str(), kept[0].bytes), (1, "RUN x", 5));
        let (results, _) = prune(&store, Some(Duration::from_secs(3600))).expect("pruned");
        assert_eq!(results, 0, "it is younger");
        let (results, freed) = prune(&store, None).expect("pruned");
        assert_eq!((results, freed.blobs), (1, 1));
        assert_eq!(list(&store).expect("listed"), []);
    }
}
