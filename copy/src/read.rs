//! Reading single documents and blobs of images elsewhere, for who wants less than a whole copy.

use std::io::Read;

use layerfs::error::{Error, Kind, Result};
use layerfs::oci::{Descriptor, Document, Manifest};
use layerfs::progress::Progress;

use crate::inventory::{Platforms, select};
use crate::location::Location;
use crate::stream::{ToRead, Verified};
use crate::transfer::{Options, Reach};
use crate::transport::{Source, read_document};

/// Reads images of registries and layouts; connections are kept between them.
pub struct Reader<'a> {
    reach: Reach<'a>,
}

impl<'a> Reader<'a> {
    /// A reader that connects to nothing yet.
    ///
    /// # Errors
    /// The user's configuration cannot be read.
    pub fn new(options: &'a Options, progress: &'a dyn Progress) -> Result<Self> {
        Reach::new(options, progress).map(|reach| Self { reach })
    }

    /// The image at a place; of an index the one for this machine.
    ///
    /// # Errors
    /// There is none, the place cannot be read, or the user's policy forbids it.
    pub fn open(&self, location: &Location) -> Result<Opened> {
        self.reach.check_policy(location)?;
        let source = match location {
            Location::Store(_) => {
                return Err(Error::new(Kind::Usage, "an image of the store is read from the store"));
            }
            Location::Registry(name) => Box::new(self.reach.registry_source(name)?) as Box<dyn Source>,
            other => self.reach.source(other, None)?,
        };
        let entry = select(&*source, source.root()?, &Platforms::Host)?;
        let Some(Document::Manifest(manifest)) = entry.document else {
            return Err(Error::new(Kind::Unsupported, format!("`{location}` is no image")));
        };
        let config = read_document(&*source, &manifest.config)?;
        Ok(Opened { source, manifest, config })
    }
}

/// An image of which the documents were read.
pub struct Opened {
    source: Box<dyn Source>,
    manifest: Manifest,
    config: Vec<u8>,
}

impl Opened {
    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its configuration.
    pub fn config(&self) -> &[u8] {
        &self.config
    }

    /// One of its blobs, checked while it is read: the last bytes come only if all were right.
    ///
    /// # Errors
    /// It cannot be had.
    pub fn blob(&self, blob: &Descriptor) -> Result<impl Read + Send> {
        Ok(ToRead::new(Verified::new(self.source.open(blob)?, blob)))
    }
}
