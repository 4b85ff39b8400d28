//! Files to copy: where they are, which of them a step means, and what they contain.
//!
//! ```text
//! Tree (a context, or a mounted stage) ──select──▶ Selection (parts and their entries) ──digest──▶ one digest
//! ```
//!
//! Invariants. A path never leads out of its tree. A digest covers names, types, permissions and contents (owners too
//! where they are kept), and never a time: it is what a cache key is made of. A digest that was taken before comes
//! from the [`StatCache`] only if the file's inode, size, modification *and* change time are the same, so an edit that
//! keeps size and modification time is seen.

mod digest;
mod select;
mod stat_cache;
mod tree;
mod walk;

pub use digest::{Owners, digest};
pub(crate) use digest::{digest_at, take_override, xattrs};
pub(crate) use select::real;
pub use select::{Content, Part, Remote, Request, Selection, select};
pub use stat_cache::StatCache;
pub(crate) use stat_cache::state;
pub use tree::{Node, Tree};
pub use walk::{Entry, FileKind};

#[cfg(test)]
mod tests;
