//! The result of a build: the image's documents, and the places it goes to.

mod assemble;
mod deliver;
mod local;
mod squash;

use std::path::PathBuf;

use layerfs::reference::Reference;

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
        push: bool,
        /// How layers are compressed for the registry.
        compression: Option<copy::Recompress>,
    },
    /// An OCI image layout: an archive, or a folder.
    Oci {
        /// Where.
        destination: Destination,
        /// A folder instead of an archive.
        folder: bool,
        /// How layers are compressed.
        compression: Option<copy::Recompress>,
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

/// A file, or standard output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// This file.
    Path(PathBuf),
    /// Standard output.
    Stdout,
}
