//! What was built before: keys, and the results they lead to.
//!
//! A [`Key`] covers everything that a step's result depends on, and nothing else. Steps are keyed by what they *find*
//! (the digests of the layers below, of the files copied), never by how that came about: a base image that was
//! retagged or compressed anew, or a step below that was run again with the same outcome, changes no key. A result is
//! found under its key in `cache/steps/`, one small file each, renamed into place; builds at the same time need no lock
//! to share them, and a later one replaces an earlier one's.

pub(crate) mod explain;
mod key;
mod record;
mod shared;
mod travel;
mod upkeep;

pub use key::{Inputs, Key, KeyBuilder};
pub use record::{About, Layer, Outcome, Records};
pub use shared::{CachePlace, CacheTo};
pub(crate) use shared::{DOCUMENT_KEY, Shared, Used, export, inline};
pub use travel::Mounts;
pub use upkeep::{Kept, list, prune};
