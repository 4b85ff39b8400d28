//! What an archive may cost.

use std::ffi::OsString;

use crate::error::{Error, Kind, Result};

/// The environment variable that [`Limits::chosen`] reads.
const VARIABLE: &str = "LAYERFS_LIMITS";
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
    /// Most bytes of an archive for each byte of the blob it comes from, once it has more than 4 GiB: deflate reaches
    /// 1032, real layers hardly 50.
    pub expansion: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 10_000_000,
            bytes: 1 << 40,
            path: 4096,
            depth: 500,
            metadata: 1 << 20,
            memory: 256 << 20,
            expansion: 200,
        }
    }
}

impl Limits {
    /// Limits for a blob of `compressed` bytes: it may grow 200-fold, and any blob to 4 GiB.
    #[must_use]
    pub fn for_blob(self, compressed: u64) -> Self {
        Self { bytes: self.bytes.min(compressed.saturating_mul(self.expansion).max(EXPANSION_FLOOR)), ..self }
    }

    /// The usual limits, but for those that the environment variable `LAYERFS_LIMITS` sets (`entries=20000000,depth=800`).
    /// It is a variable because one program starts another, and all of them unpack. Who states `bytes` means it for
    /// any blob.
    ///
    /// # Errors
    /// It names no limit, or no number.
    pub fn chosen(env: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let mut limits = Self::default();
        let text = env(VARIABLE).unwrap_or_default();
        let text = text.to_string_lossy();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let invalid = || {
                Error::new(Kind::Usage, format!("{VARIABLE}: `{}` sets no limit", part.escape_debug()))
                    .hint("NAME=NUMBER with entries, bytes, path, depth, metadata or memory, several with commas")
            };
            let (name, number) = part.split_once('=').ok_or_else(invalid)?;
            let number: u64 = number.parse().map_err(|_| invalid())?;
            let small = || u32::try_from(number).map_err(|_| invalid());
            match name {
                "entries" => limits.entries = number,
                "bytes" => (limits.bytes, limits.expansion) = (number, u64::MAX),
                "path" => limits.path = small()?,
                "depth" => limits.depth = small()?,
                "metadata" => limits.metadata = small()?,
                "memory" => limits.memory = number,
                _ => return Err(invalid()),
            }
        }
        Ok(limits)
    }
}

/// The error of a limit: what has too much of what, and the limit's name.
pub(crate) fn exceeded(what: &str, name: &str, limit: impl std::fmt::Display) -> Error {
    let hint = format!("an archive like this is rare; where you know it to be good, set {VARIABLE}={name}=NUMBER");
    Error::new(Kind::Limit, format!("{what} than the limit `{name}` of {limit}")).hint(hint)
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

    #[test]
    fn limits_are_set_by_a_variable() {
        let chosen = |text: &str| Limits::chosen(|name| (name == VARIABLE).then(|| text.into()));
        assert_eq!(chosen("").expect("nothing set"), Limits::default());
        let set = chosen("entries=7,depth=9,bytes=20000000000").expect("three limits");
        assert_eq!((set.entries, set.depth, set.path), (7, 9, 4096));
        assert_eq!(set.for_blob(1).bytes, 20_000_000_000);
        for text in ["entries", "entries=", "entries=-1", "depth=5000000000", "width=1"] {
            assert_eq!(chosen(text).expect_err(text).kind(), Kind::Usage);
        }
    }
}
