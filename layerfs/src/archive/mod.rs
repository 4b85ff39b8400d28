//! Layers as tar archives: the one engine that all three programs read and write them with.
//!
//! - [`read`] turns a stream into entries; the formats of headers are in `header`, `pax` and `sparse`.
//! - [`apply`](mod@apply) lays the entries of one layer down in a folder, whiteouts in overlayfs's form.
//! - [`diff`](mod@diff) walks such a folder and writes the layer back, byte for byte the same for the same tree.
//! - [`write`](mod@write) is the tar writer below it, [`compress`] the compressions around it.
//!
//! Invariants: nothing in an archive reaches outside the folder it is applied to; what overlayfs itself stores in
//! extended attributes cannot be forged by an archive and does not leak into one; an archive is read to its last
//! byte, so that digests cover what follows the end marker.
//!
//! Sources: OCI image-spec v1.1 `layer.md`; POSIX.1-2017 `pax`; Linux `overlayfs.rst`.

pub mod apply;
pub mod chunked;
pub mod compress;
pub mod diff;
mod header;
mod limits;
mod pax;
pub mod read;
mod sparse;
mod whiteout;
pub mod write;

pub use apply::{Applied, ApplyOptions, apply};
pub use chunked::{Chunked, write_chunked};
pub use compress::{Compression, Compressor, decompress};
pub use diff::{DiffOptions, diff, settle};
pub use limits::Limits;
pub(crate) use whiteout::{OPAQUE_XATTR, make as make_whiteout, unescape_xattr};
pub use whiteout::{is_opaque, is_whiteout};
pub use write::TarWriter;
