//! `oci:`: an OCI image layout in a folder (image-spec, `image-layout.md`).
//!
//! Several programs may write into one folder at once: blobs are made without a name and renamed, and the index is
//! changed under a lock on the folder itself.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::{DOCUMENT_MAX, Descriptor, Index, REF_NAME};

use super::{NewFile, Opener, Sent, Sink, Source, write_chunks};
use crate::location::{Place, Selector};
use crate::stream::{Chunks, FromRead, Start};

/// What `oci-layout` holds.
pub(crate) const MARKER: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// containerd's and buildkit's annotation for a full name.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// A layout being read.
pub(crate) struct LayoutSource {
    blobs: PathBuf,
    root: Descriptor,
}

impl LayoutSource {
    /// Opens the layout and finds the image. `shared` is where several layouts have their blobs.
    pub(crate) fn open(place: &Place, shared: Option<&Path>) -> Result<Self> {
        let path = place.path.join("index.json");
        let bytes = read_small(&path).map_err(|error| match error.kind() {
            Kind::NotFound => {
                Error::new(Kind::NotFound, format!("`{}` is not an OCI image layout", place.path.display()))
                    .because(error)
            }
            _ => error,
        })?;
        let root = choose(&parse_index(&bytes).at("read", &path)?, place)?;
        Ok(Self { blobs: blob_folder(&place.path, shared), root })
    }

    fn file(&self, blob: &Descriptor) -> Result<File> {
        let path = blob_path(&self.blobs, blob);
        File::open(&path).at("open", &path)
    }
}

impl Source for LayoutSource {
    fn root(&self) -> Result<(Descriptor, Vec<u8>)> {
        Ok((self.root.clone(), super::read_document(self, &self.root)?))
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        read_small(&blob_path(&self.blobs, descriptor))
    }

    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Chunks>> {
        Ok(Box::new(FromRead::new(self.file(blob)?, format!("blob `{}`", blob.digest))))
    }
}

/// A layout being written.
pub(crate) struct LayoutSink {
    dir: PathBuf,
    blobs: PathBuf,
    name: Option<String>,
}

impl LayoutSink {
    /// Makes the folder where it does not exist. `shared` is where several layouts have their blobs.
    pub(crate) fn create(place: &Place, shared: Option<&Path>) -> Result<Self> {
        let name = match &place.image {
            Selector::Only => None,
            Selector::Named(name) => Some(name.clone()),
            Selector::At(_) => {
                return Err(Error::new(
                    Kind::Usage,
                    format!("`oci:{place}` names a position, which a destination cannot have"),
                ));
            }
        };
        let blobs = blob_folder(&place.path, shared);
        for dir in [place.path.join("blobs/sha256"), blobs.join("sha256")] {
            fs::create_dir_all(&dir).at("create", &dir)?;
        }
        let marker = place.path.join("oci-layout");
        if !marker.exists() {
            replace(&marker, MARKER.as_bytes())?;
        }
        Ok(Self { dir: place.path.clone(), blobs, name })
    }

    fn path(&self, blob: &Descriptor) -> PathBuf {
        blob_path(&self.blobs, blob)
    }

    fn index(&self) -> Result<Index> {
        let path = self.dir.join("index.json");
        match fs::read(&path) {
            Ok(bytes) => parse_index(&bytes).at("read", &path),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Index::new(Vec::new())),
            Err(error) => Err(error).at("read", &path),
        }
    }
}

impl Sink for LayoutSink {
    fn is_current(&self, root: &Descriptor) -> Result<bool> {
        let named = |entry: &&Descriptor| entry.annotation(REF_NAME) == self.name.as_deref();
        // Only the name says that everything below it is complete; the index is written last.
        Ok(self.index()?.manifests.iter().filter(named).any(|entry| entry.digest == root.digest))
    }

    fn existing(&self, blobs: &[Descriptor]) -> Result<Vec<bool>> {
        let there = |blob: &Descriptor| self.path(blob).metadata().is_ok_and(|metadata| metadata.len() == blob.size);
        Ok(blobs.iter().map(there).collect())
    }

    fn put_blob(&self, blob: &Descriptor, _from: Option<&str>, open: Opener<'_>) -> Result<Sent> {
        let path = self.path(blob);
        make_folder(&path)?;
        let mut new = NewFile::create(&path)?;
        write_chunks(&mut new.file, &mut open(Start::BEGIN)?, || format!("`{}`", path.display()))?;
        new.commit()?;
        Ok(Sent::Bytes)
    }

    fn put_document(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
        let path = self.path(descriptor);
        make_folder(&path)?;
        replace(&path, bytes)
    }

    fn finish(&self, root: &Descriptor, bytes: &[u8]) -> Result<()> {
        self.put_document(root, bytes)?;
        let dir = File::open(&self.dir).at("open", &self.dir)?;
        rustix::fs::flock(&dir, rustix::fs::FlockOperation::LockExclusive).at("lock", &self.dir)?;
        let index = with_entry(self.index()?, root, self.name.as_deref());
        replace(&self.dir.join("index.json"), &index.to_bytes())
    }
}

fn blob_folder(dir: &Path, shared: Option<&Path>) -> PathBuf {
    shared.map_or_else(|| dir.join("blobs"), Path::to_owned)
}

fn blob_path(blobs: &Path, blob: &Descriptor) -> PathBuf {
    blobs.join(blob.digest.algorithm().name()).join(blob.digest.hex())
}

/// The index with `root` under `name`, in place of what had that name before.
pub(crate) fn with_entry(mut index: Index, root: &Descriptor, name: Option<&str>) -> Index {
    let replaced = |entry: &Descriptor| match name {
        Some(_) => entry.annotation(REF_NAME) == name,
        None => entry.annotation(REF_NAME).is_none() && entry.digest == root.digest,
    };
    index.manifests.retain(|entry| !replaced(entry));
    let mut entry = Descriptor::new(&root.media_type, root.digest, root.size);
    if let Some(name) = name {
        entry.annotations.insert(REF_NAME.to_owned(), name.into());
    }
    index.manifests.push(entry);
    index
}

/// The image a place names in an index, as a bare descriptor.
pub(crate) fn choose(index: &Index, place: &Place) -> Result<Descriptor> {
    let path = place.path.display();
    let bare = |entry: &Descriptor| Descriptor::new(&entry.media_type, entry.digest, entry.size);
    let names = || {
        let names: Vec<&str> = index.manifests.iter().filter_map(|entry| entry.annotation(REF_NAME)).collect();
        if names.is_empty() { "none of them has a name".to_owned() } else { format!("it has: {}", names.join(", ")) }
    };
    match (&place.image, index.manifests.as_slice()) {
        (_, []) => Err(Error::new(Kind::NotFound, format!("layout `{path}` has no image"))),
        (Selector::Only, [only]) => Ok(bare(only)),
        (Selector::Only, many) => Err(Error::new(Kind::Usage, format!("layout `{path}` has {} images", many.len()))
            .hint(format!("choose one by `:NAME` or `@POSITION`; {}", names()))),
        (Selector::At(at), all) => all.get(*at).map(bare).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("layout `{path}` has {} images, none at position {at}", all.len()))
        }),
        (Selector::Named(name), all) => {
            let has = |key: &str| all.iter().find(|entry| entry.annotation(key) == Some(name));
            has(REF_NAME).or_else(|| has(CONTAINERD_NAME)).map(bare).ok_or_else(|| {
                Error::new(Kind::NotFound, format!("layout `{path}` has no image `{name}`")).hint(names())
            })
        }
    }
}

/// An `index.json`; its media type may be left out.
pub(crate) fn parse_index(bytes: &[u8]) -> Result<Index> {
    serde_json::from_slice(bytes).context(|| "the index is malformed")
}

fn read_small(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).at("open", path)?;
    file.take(DOCUMENT_MAX + 1).read_to_end(&mut bytes).at("read", path)?;
    match bytes.len() as u64 > DOCUMENT_MAX {
        true => Err(Error::new(Kind::Limit, format!("`{}` has more than {DOCUMENT_MAX} bytes", path.display()))),
        false => Ok(bytes),
    }
}

fn make_folder(path: &Path) -> Result<()> {
    let dir = super::folder_of(path);
    fs::create_dir_all(dir).at("create", dir)
}

/// Writes a small file as a whole.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut new = NewFile::create(path)?;
    new.file.write_all(bytes).at("write", path)?;
    new.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(content: &[u8], name: Option<&str>) -> Descriptor {
        let mut entry = Descriptor::of("m", content);
        entry.annotations.extend(name.map(|name| (REF_NAME.to_owned(), name.into())));
        entry
    }

    fn check(index: &Index, place: &str, expected: Option<&[u8]>) {
        let crate::Location::Layout(place) = format!("oci:x{place}").parse().expect("valid") else {
            panic!("a layout")
        };
        let found = choose(index, &place).ok().map(|found| found.digest);
        assert_eq!(found, expected.map(layerfs::digest::Digest::of), "{place}");
    }

    #[test]
    fn images_are_chosen_by_name_or_position() {
        let one = Index::new(vec![entry(b"1", Some("a"))]);
        check(&one, "", Some(b"1"));
        check(&one, ":a", Some(b"1"));
        check(&one, ":b", None);
        let two = Index::new(vec![entry(b"1", Some("a")), entry(b"2", None)]);
        check(&two, "", None);
        check(&two, "@1", Some(b"2"));
        check(&two, "@2", None);
        check(&Index::new(vec![]), "", None);
    }

    #[test]
    fn a_name_is_in_an_index_once() {
        let index = with_entry(Index::new(vec![]), &entry(b"1", None), Some("a"));
        let index = with_entry(index, &entry(b"2", None), Some("a"));
        let index = with_entry(index, &entry(b"2", None), None);
        let index = with_entry(index, &entry(b"2", None), None);
        let names: Vec<_> = index.manifests.iter().map(|entry| entry.annotation(REF_NAME)).collect();
        assert_eq!(names, [Some("a"), None]);
        assert_eq!(index.manifests[0].digest, layerfs::digest::Digest::of(b"2"));
    }
}
