//! What an archive may cost.

use crate::error::{Error, Kind};

/// Most bytes of an archive for each byte of the blob it comes from: deflate reaches 1032, real layers hardly 50.
const EXPANSION: u64 = 200;
/// A small blob may grow to this all the same: a file of zeros is no attack.
const EXPANSION_FLOOR: u64 = 4 << 30;

/// What an archive may cost. Exceeding one of these is an error of `Kind::Limit` that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most entries.
    pub entries: u64,
    /// Most bytes of the whole uncompressed archive, what follows its end included.
    pub bytes: u64,
    /// Longest path or link target in bytes; the kernel takes 4096.
    pub path: u32,
    /// Deepest nesting of folders. Programs that remove a tree hold a descriptor for each level, and have 1024.
    pub depth: u32,
    /// Most bytes of the headers that extend one entry: long names, extended attributes, maps of sparse files.
    pub metadata: u32,
    /// Most bytes of paths kept in memory until the end: of folders, whiteouts and links to lower layers.
    pub memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 10_000_000, bytes: 1 << 40, path: 4096, depth: 500, metadata: 1 << 20, memory: 256 << 20 }
    }
}

impl Limits {
    /// Limits for a blob of `compressed` bytes: it may grow 200-fold, and any blob to 4 GiB.
    #[must_use]
    pub fn for_blob(self, compressed: u64) -> Self {
        Self { bytes: self.bytes.min(compressed.saturating_mul(EXPANSION).max(EXPANSION_FLOOR)), ..self }
    }
}

/// The error of a limit: what has too much of what, and the limit's name.
pub(crate) fn exceeded(what: &str, name: &str, limit: impl std::fmt::Display) -> Error {
    Error::new(Kind::Limit, format!("{what} than the limit `{name}` of {limit}"))
        .hint("an archive like this is rare; look at where it comes from before raising the limit")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_gigabytes_from_ten_megabytes_are_too_many() {
        let bytes = |compressed| Limits::default().for_blob(compressed).bytes;
        assert!(bytes(10_000_000) < 10_000_000_000);
        assert_eq!((bytes(1), bytes(u64::MAX)), (4 << 30, 1 << 40));
    }
}
