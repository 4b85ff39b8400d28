//! The result of a build: the image's documents, and the places it goes to.

mod ahead;
mod annotate;
mod assemble;
mod deliver;
mod local;
mod squash;

use std::path::PathBuf;

use layerfs::reference::Reference;

use crate::options::Annotation;

pub(crate) use ahead::Ahead;
pub(crate) use assemble::{Assembled, assemble};
pub(crate) use deliver::deliver;
pub(crate) use squash::squash;

/// A place for the result.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// The store, under these names besides those of `-t`; pushed to their registries too where asked.
    Image {
        /// More names.
        names: Vec<Reference>,
        /// Push them, and those of `-t`.
        push: Push,
        /// Each name is given together with the digest too.
        canonical: bool,
        /// How the image is written for the registry.
        packing: Packing,
    },
    /// An OCI image layout: an archive, or a folder.
    Oci {
        /// Where.
        destination: Destination,
        /// A folder instead of an archive.
        folder: bool,
        /// How the image is written.
        packing: Packing,
    },
    /// An archive as `docker save` writes it.
    Docker {
        /// Where.
        destination: Destination,
    },
    /// The files, as a tar archive.
    Tar {
        /// Where.
        destination: Destination,
    },
    /// The files, in a folder.
    Local {
        /// Where.
        folder: PathBuf,
    },
    /// Nowhere: only the cache is filled.
    CacheOnly,
}

impl Output {
    /// The store, under the names of `-t`.
    pub fn store() -> Self {
        Self::Image { names: Vec::new(), push: Push::No, canonical: false, packing: Packing::default() }
    }
}

/// Whether an image goes to its registries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Push {
    /// It stays.
    #[default]
    No,
    /// Under its names.
    Named,
    /// Into the repositories of its names, without a tag.
    ByDigest,
}

/// How an image is written where it goes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Packing {
    /// How layers are compressed.
    pub compression: Option<copy::Recompress>,
    /// The family of media types, where it is not that of the whole build.
    pub format: Option<copy::Format>,
    /// Annotations besides those of the whole build.
    pub annotations: Vec<Annotation>,
}

/// A file, or standard output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// This file.
    Path(PathBuf),
    /// Standard output.
    Stdout,
}
