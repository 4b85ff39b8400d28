//! Image documents: descriptors, manifests, indexes, image configurations.
//!
//! Sources: OCI image-spec v1.1 (`manifest.md`, `image-index.md`, `config.md`, `descriptor.md`) and docker's
//! "image manifest version 2, schema 2".
//!
//! Invariants: a digest is always taken from the raw bytes, never from a document written again; what we do write
//! again keeps every field we do not know, and `annotations` and configurations keep the order of their keys.

mod config;
mod descriptor;
mod manifest;
pub mod media_type;
mod platform;
mod strict;

pub use config::ImageConfig;
pub use descriptor::{Annotations, Descriptor};
pub use manifest::{Document, Index, Manifest, canonical_json};
pub use platform::Platform;

/// Largest manifest, index or configuration that is read, in bytes (distribution-spec: registries should take at
/// least 4 MiB; nobody's tools read more).
pub const DOCUMENT_MAX: u64 = 4 << 20;

/// The annotation that names an image in an index of an image layout.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
