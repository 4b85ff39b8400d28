//! `oci-archive:`: an OCI image layout in a tar file. Blobs stream in and out, with no folder in between.

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::{Descriptor, Index};
use std::sync::Mutex;

use super::layout::{MARKER, choose, parse_index, with_entry};
use super::tar_file::{TarFile, TarOutput};
use super::{Opener, Sent, Sink, Source};
use crate::location::{Place, Selector};
use crate::stream::{Chunks, Start};

/// An archive being read.
pub(crate) struct LayoutArchiveSource {
    archive: TarFile,
    root: Descriptor,
}

impl LayoutArchiveSource {
    /// Opens the archive and finds the image.
    pub(crate) fn open(place: &Place) -> Result<Self> {
        let archive = TarFile::open(&place.path)?;
        let index = archive.read("index.json").map_err(|error| match error.kind() {
            Kind::NotFound if archive.has("manifest.json") => {
                error.hint("this looks like an archive of `docker save`: name it by docker-archive:")
            }
            _ => error,
        })?;
        let root = choose(&parse_index(&index).at("read", &place.path)?, place)?;
        Ok(Self { archive, root })
    }
}

impl Source for LayoutArchiveSource {
    fn root(&self) -> Result<(Descriptor, Vec<u8>)> {
        Ok((self.root.clone(), super::read_document(self, &self.root)?))
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.archive.read(&member(descriptor))
    }

    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Chunks>> {
        self.archive.open_member(&member(blob))
    }
}

/// An archive being written.
pub(crate) struct LayoutArchiveSink {
    out: Mutex<Option<std::sync::Arc<TarOutput>>>,
    name: Option<String>,
}

impl LayoutArchiveSink {
    /// Begins the archive.
    pub(crate) fn create(place: &Place) -> Result<Self> {
        let name = match &place.image {
            Selector::Only => None,
            Selector::Named(name) => Some(name.clone()),
            Selector::At(_) => {
                let sentence = format!("`oci-archive:{place}` names a position, which a destination cannot have");
                return Err(Error::new(Kind::Usage, sentence));
            }
        };
        let out = TarOutput::create(&place.path)?;
        out.add_bytes("oci-layout", MARKER.as_bytes())?;
        Ok(Self { out: Mutex::new(Some(out.into())), name })
    }

    fn out(&self) -> Result<std::sync::Arc<TarOutput>> {
        let out = self.out.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        out.ok_or_else(|| Error::new(Kind::Conflict, "the archive is finished already"))
    }
}

impl Sink for LayoutArchiveSink {
    fn is_current(&self, _root: &Descriptor) -> Result<bool> {
        Ok(false)
    }

    fn existing(&self, blobs: &[Descriptor]) -> Result<Vec<bool>> {
        Ok(vec![false; blobs.len()])
    }

    fn put_blob(&self, blob: &Descriptor, _from: Option<&str>, open: Opener<'_>) -> Result<Sent> {
        self.out()?.add(&member(blob), blob.size, &mut open(Start::BEGIN)?)?;
        Ok(Sent::Bytes)
    }

    fn put_document(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
        self.out()?.add_bytes(&member(descriptor), bytes)
    }

    fn finish(&self, root: &Descriptor, bytes: &[u8]) -> Result<()> {
        self.put_document(root, bytes)?;
        let index = with_entry(Index::new(Vec::new()), root, self.name.as_deref());
        self.out()?.add_bytes("index.json", &index.to_bytes())?;
        let out = self.out.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        match out.and_then(std::sync::Arc::into_inner) {
            Some(out) => out.finish(),
            None => Err(Error::new(Kind::Conflict, "the archive is still being written")),
        }
    }
}

/// Where a blob lies in a layout.
fn member(blob: &Descriptor) -> String {
    format!("blobs/{}/{}", blob.digest.algorithm().name(), blob.digest.hex())
}
