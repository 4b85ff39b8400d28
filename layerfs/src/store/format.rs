//! The on-disk format, version 1.
//!
//! ```text
//! oci-layout  index.json  blobs/ALGORITHM/HEX    a valid OCI image layout, for other programs to read
//! refs/NAME                                      a descriptor as JSON; NAME is a reference, escaped
//! layers/DIFF-ID.MAPPING.tree/{fs/,meta.json}    a layer unpacked once
//! layers/CHAIN-ID.MAPPING.shim/{fs/,meta.json}   what of the top layer of a chain depends on the layers below
//! compressed/DIFF-ID.FORM                        the descriptor of a compressed form of a layer we built
//! cache/KIND/*.json  containers/ID/*.json        records; a `roots` object in one keeps what it names alive
//! unsynced/BOOT-ID/WHAT                          objects that were not yet synced when that boot was running
//! tmp/NAME/                                      everything is born here; locked by its owner
//! gc.lock  index.lock  tmp.lock  locks/                    advisory locks (`flock`)
//! layerfs-format                                 the version number
//! ```
//!
//! Invariants. An object appears under its name by `rename`, complete. Whatever a ref points to was synced before the
//! ref was renamed into place. An object is marked in `unsynced/` before its rename and the mark is cleared after a
//! sync; a store opened in another boot throws the marked objects away, because a power cut may have torn them.
//! `index.json` is derived: lost, it is written again from `refs/`.

use serde::{Deserialize, Serialize};

use crate::digest::{DiffId, Digest};
use crate::error::{Error, Kind, Result};
use crate::oci::Descriptor;

/// The version this program writes and reads.
pub const VERSION: u32 = 1;
/// Content of `oci-layout` (image-spec, `image-layout.md`).
pub const OCI_LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// The `roots` object of a record in `cache/KIND/*.json` or `containers/ID/*.json`: what must outlive a `gc`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Roots {
    /// Manifests or indexes, with all they name.
    pub images: Vec<Descriptor>,
    /// Single blobs.
    pub blobs: Vec<Digest>,
    /// Stacks of layers, each lowest first: the unpacked layers and shims of every prefix stay.
    pub chains: Vec<Vec<DiffId>>,
}

/// A reference as a file name: letters, digits, `.`, `_` and `-` stay, every other byte is `%XX`.
pub fn escape(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 8);
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The reverse of [`escape`].
///
/// # Errors
/// The name was not made by [`escape`].
pub fn unescape(name: &str) -> Result<String> {
    let bytes = name.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let code = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
            let byte = code.and_then(|hex| u8::from_str_radix(hex, 16).ok());
            out.push(byte.ok_or_else(|| Error::new(Kind::Invalid, format!("`{name}` is not an escaped name")))?);
            rest = &tail[2..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(out).map_err(|_| Error::new(Kind::Invalid, format!("`{name}` is not an escaped name")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_escaping() {
        for name in ["docker.io/library/debian:12", "localhost:5000/a/b@sha256:ff", "[::1]:5/x", ""] {
            assert_eq!(unescape(&escape(name)).expect("escaped"), name);
            assert!(!escape(name).contains('/'));
        }
        assert!(unescape("%G0").is_err() && unescape("%4").is_err());
    }
}
