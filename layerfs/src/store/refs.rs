//! Names: the truth about which images there are, and the index that others read.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::contents::{Summary, read_small, spread};
use super::format::{escape, unescape};
use super::reach::{list, name_of};
use super::{Store, temp};
use crate::archive::Compression;
use crate::digest::DiffId;
use crate::error::{Context, Result};
use crate::oci::{Descriptor, Index, Platform, REF_NAME};
use crate::reference::Reference;

/// What the file of a name says.
#[derive(Serialize, Deserialize)]
struct Ref {
    #[serde(flatten)]
    target: Descriptor,
    /// So that a listing of many images reads none of them. It depends on nothing but the target and the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    summary: Option<Summary>,
}

/// A name, and what a listing shows of what it stands for.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// The name.
    pub name: Reference,
    /// What it stands for.
    pub target: Descriptor,
    /// The image for this machine; `None` for an artifact, or an image of other platforms.
    pub summary: Option<Summary>,
}

impl Store {
    /// All names, sorted.
    ///
    /// # Errors
    /// The store cannot be read, or a ref is malformed.
    pub fn refs(&self) -> Result<Vec<(Reference, Descriptor)>> {
        Ok(self.read_refs()?.into_iter().map(|(name, found)| (name, found.target)).collect())
    }

    /// All names, sorted, with what a listing shows.
    ///
    /// # Errors
    /// The store cannot be read, or a ref is malformed.
    pub fn listed(&self) -> Result<Vec<Listed>> {
        let list = |(name, found): &(Reference, Ref)| {
            // What was not here when the name was given, or when names said no more, may be here now.
            let summary = match &found.summary {
                Some(summary) => Some(summary.clone()),
                None => self.summary(&found.target, &Platform::host())?,
            };
            Ok(Listed { name: name.clone(), target: found.target.clone(), summary })
        };
        self.read_refs()?.iter().map(list).collect()
    }

    fn read_refs(&self) -> Result<Vec<(Reference, Ref)>> {
        let read = |path: &PathBuf| {
            let bytes = match read_small(path) {
                // Removed since the listing.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                result => result.at("read", path)?.unwrap_or_default(),
            };
            let name = unescape(&name_of(path))?.parse()?;
            Ok(Some((name, parse(&bytes, path)?)))
        };
        let found = spread(&list(&self.root.join("refs"))?, read)?;
        let mut refs: Vec<(Reference, Ref)> = found.into_iter().flatten().collect();
        refs.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(refs)
    }

    /// What a name stands for; a name without tag or digest means `latest`.
    ///
    /// # Errors
    /// The ref cannot be read.
    pub fn resolve(&self, name: &Reference) -> Result<Option<Descriptor>> {
        let path = self.ref_path(name);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => parse(&result.at("read", &path)?, &path).map(|found| Some(found.target)),
        }
    }

    /// What the file of a name says it stands for.
    pub(super) fn read_ref(&self, path: &Path) -> Result<Descriptor> {
        parse(&fs::read(path).at("read", path)?, path).map(|found| found.target)
    }

    /// Gives `target` a name, taking it from whatever had it. Syncs first: the last step of every import.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn tag(&self, name: &Reference, target: &Descriptor) -> Result<()> {
        if self.resolve(name)?.as_ref() == Some(target) {
            return Ok(());
        }
        let dir = self.new_temp_dir()?;
        let (new, path) = (dir.path().join("ref"), self.ref_path(name));
        let mut file = File::create_new(&new).at("create", &new)?;
        let summary = self.summary(target, &Platform::host())?;
        let says = Ref { target: target.clone(), summary };
        file.write_all(&crate::oci::canonical_json(&says)).at("write", &new)?;
        self.sync(&file)?;
        fs::rename(&new, &path).at("write", &path)
    }

    /// Takes a name away; `false` where nothing had it. What it named is freed by `gc`.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn untag(&self, name: &Reference) -> Result<bool> {
        let path = self.ref_path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            result => result.at("remove", &path).map(|()| true),
        }
    }

    /// Writes `index.json` anew from the refs, for other programs. Once in an invocation that changed a ref.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn publish_index(&self) -> Result<()> {
        let _lock = temp::lock(&self.root.join("index.lock"), FlockOperation::LockExclusive)?;
        let named = self.refs()?.into_iter().map(|(name, mut descriptor)| {
            descriptor.annotations.insert(REF_NAME.to_owned(), name.to_string().into());
            descriptor
        });
        let bytes = Index::new(named.collect()).to_bytes();
        if fs::read(self.root.join("index.json")).is_ok_and(|old| old == bytes) {
            return Ok(());
        }
        self.replace("index.json", &bytes)
    }

    /// The form of a layer we built in this compression and level, where one was made and is still here or at least known
    /// by digest.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn compressed_form(&self, diff_id: DiffId, compression: Compression) -> Result<Option<Descriptor>> {
        let path = self.root.join("compressed").join(compressed_name(diff_id, compression));
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // It is not synced when it is written; a torn one is made anew.
            result => Ok(serde_json::from_slice(&result.at("read", &path)?).ok()),
        }
    }

    /// Remembers the compressed form of a layer we built.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn record_compressed_form(
        &self,
        diff_id: DiffId,
        compression: Compression,
        descriptor: &Descriptor,
    ) -> Result<()> {
        let name = compressed_name(diff_id, compression);
        self.replace(&format!("compressed/{name}"), &crate::oci::canonical_json(descriptor))
    }

    fn ref_path(&self, name: &Reference) -> PathBuf {
        self.root.join("refs").join(escape(&name.clone().or_latest().to_string()))
    }
}

fn parse(bytes: &[u8], path: &Path) -> Result<Ref> {
    let read = serde_json::from_slice(bytes).context(|| format!("ref `{}` is not a descriptor", path.display()));
    read.map_err(|error| error.hint("a damaged disk, or another program: remove that file and pull the image again"))
}

/// Of the usual levels without their number.
fn compressed_name(diff_id: DiffId, compression: Compression) -> String {
    let name = format!("{}.{}", diff_id.0.hex(), escape(compression.layer_media_type()));
    match compression {
        Compression::None | Compression::GZIP | Compression::ZSTD => name,
        Compression::Gzip { level } | Compression::Zstd { level } => format!("{name}.{level}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{canonical_json, media_type};

    #[test]
    fn a_listing_needs_the_name_alone_and_reads_the_image_where_an_older_program_gave_it() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(dir.path()).expect("a new store");
        let config = br#"{"architecture":"amd64","os":"linux","created":"2026-01-01T00:00:00Z","rootfs":{"type":"layers","diff_ids":[]}}"#;
        let stored = |media_type, bytes: &[u8]| {
            store.put_blob(bytes).expect("room");
            Descriptor::of(media_type, bytes)
        };
        let config = stored(media_type::OCI_CONFIG, config);
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#,
            String::from_utf8_lossy(&canonical_json(&config))
        );
        let target = stored(media_type::OCI_MANIFEST, manifest.as_bytes());
        for name in ["localhost/new:1", "localhost/old:1"] {
            store.tag(&name.parse().expect("a name"), &target).expect("room");
        }
        let old = store.ref_path(&"localhost/old:1".parse().expect("a name"));
        fs::write(&old, canonical_json(&target)).expect("room");
        let summary = Summary { id: config.digest, created: Some("2026-01-01T00:00:00Z".to_owned()), bytes: 0 };
        let summaries = || store.listed().expect("readable").into_iter().map(|image| image.summary).collect::<Vec<_>>();
        assert_eq!(summaries(), [Some(summary.clone()), Some(summary.clone())]);
        assert!(store.refs().expect("readable").iter().all(|(_, found)| *found == target));
        fs::remove_file(store.blob_path(&target.digest)).expect("it was there");
        assert_eq!(summaries(), [Some(summary), None]);
    }

    #[test]
    fn each_level_of_a_compression_is_a_form_of_its_own() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(dir.path()).expect("a new store");
        let diff_id = DiffId(crate::digest::Digest::of(b"plain"));
        let form = |size| Descriptor::new(media_type::OCI_LAYER_GZIP, diff_id.0, size);
        let smallest = Compression::Gzip { level: 12 };
        store.record_compressed_form(diff_id, Compression::GZIP, &form(2)).expect("room");
        assert_eq!(store.compressed_form(diff_id, smallest).expect("readable"), None);
        store.record_compressed_form(diff_id, smallest, &form(1)).expect("room");
        for (compression, size) in [(Compression::GZIP, Some(2)), (smallest, Some(1)), (Compression::ZSTD, None)] {
            let found = store.compressed_form(diff_id, compression).expect("readable");
            assert_eq!(found.map(|found| found.size), size, "{compression:?}");
        }
    }
}
