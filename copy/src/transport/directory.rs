//! `dir:`: skopeo's flat folder. The root is `manifest.json`, other documents are `HEX.manifest.json`, blobs `HEX`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use layerfs::digest::Digest;
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::{DOCUMENT_MAX, Descriptor, media_type};

use super::layout::replace;
use super::{NewFile, Opener, Sent, Sink, Source, write_chunks};
use crate::stream::{Chunks, FromRead, Start};

/// What the file `version` holds.
const VERSION: &str = "Directory Transport Version: 1.1\n";

/// A folder being read or written.
pub(crate) struct Directory {
    dir: PathBuf,
}

impl Directory {
    /// A folder to read.
    pub(crate) fn open(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// A folder to write; made where it does not exist. One that holds something else is left alone.
    pub(crate) fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).at("create", dir)?;
        let version = dir.join("version");
        if !version.exists() {
            if fs::read_dir(dir).at("read", dir)?.next().is_some() {
                let sentence = format!("folder `{}` holds something that is no image", dir.display());
                return Err(Error::new(Kind::Conflict, sentence).hint("name an empty folder"));
            }
            replace(&version, VERSION.as_bytes())?;
        }
        Ok(Self::open(dir))
    }

    /// Whether a folder holds the image of this digest, complete: the manifest is written last.
    pub(crate) fn holds(dir: &Path, root: Digest) -> bool {
        fs::read(dir.join("manifest.json")).is_ok_and(|bytes| Digest::of(&bytes) == root)
    }

    fn path(&self, descriptor: &Descriptor) -> PathBuf {
        // As skopeo has it: the bare digits for sha256, the algorithm before other ones.
        let name = match descriptor.digest.algorithm() {
            layerfs::digest::Algorithm::Sha256 => descriptor.digest.hex(),
            other => format!("{}-{}", other.name(), descriptor.digest.hex()),
        };
        let document = media_type::is_index(&descriptor.media_type) || media_type::is_manifest(&descriptor.media_type);
        self.dir.join(if document { format!("{name}.manifest.json") } else { name })
    }
}

impl Source for Directory {
    fn root(&self) -> Result<(Descriptor, Vec<u8>)> {
        let path = self.dir.join("manifest.json");
        let size = path.metadata().at("read", &path)?.len();
        if size > DOCUMENT_MAX {
            return Err(Error::new(Kind::Limit, format!("`{}` has more than {DOCUMENT_MAX} bytes", path.display())));
        }
        let bytes = fs::read(&path).at("read", &path)?;
        let document = layerfs::oci::Document::parse(&bytes, None).at("read", &path)?;
        Ok((Descriptor::new(document.media_type(), Digest::of(&bytes), bytes.len() as u64), bytes))
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let path = self.path(descriptor);
        fs::read(&path).at("read", &path)
    }

    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Chunks>> {
        let path = self.path(blob);
        Ok(Box::new(FromRead::new(File::open(&path).at("open", &path)?, format!("`{}`", path.display()))))
    }
}

impl Sink for Directory {
    fn is_current(&self, _root: &Descriptor) -> Result<bool> {
        Ok(false)
    }

    fn existing(&self, blobs: &[Descriptor]) -> Result<Vec<bool>> {
        let there = |blob: &Descriptor| self.path(blob).metadata().is_ok_and(|metadata| metadata.len() == blob.size);
        Ok(blobs.iter().map(there).collect())
    }

    fn put_blob(&self, blob: &Descriptor, _from: Option<&str>, open: Opener<'_>) -> Result<Sent> {
        let path = self.path(blob);
        let mut new = NewFile::create(&path)?;
        write_chunks(&mut new.file, &mut open(Start::BEGIN)?, || format!("`{}`", path.display()))?;
        new.commit()?;
        Ok(Sent::Bytes)
    }

    fn put_document(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
        replace(&self.path(descriptor), bytes)
    }

    fn finish(&self, _root: &Descriptor, bytes: &[u8]) -> Result<()> {
        replace(&self.dir.join("manifest.json"), bytes)
    }
}
