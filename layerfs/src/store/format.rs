//! The on-disk format, version 1.
//!
//! ```text
//! oci-layout  index.json  blobs/ALGORITHM/HEX    a valid OCI image layout, for other programs to read
//! refs/NAME                                      a descriptor as JSON, and in its `summary` what a listing shows;
//!                                                NAME is a reference, escaped
//! layers/DIFF-ID.MAPPING.tree/{fs/,meta.json}    a layer unpacked once
//! layers/CHAIN-ID.MAPPING.shim/{fs/,meta.json}   what of the top layer of a chain depends on the layers below
//! compressed/DIFF-ID.FORM                        the descriptor of a compressed form of a layer we built
//! cache/KIND/*.json  containers/ID/*.json        records; a `roots` object in one keeps what it names alive
//! mounts/NAME/record.json                        the same for an image that is mounted to be looked at; a folder is
//!                                                locked by the mount's server, if it has one
//! unsynced/BOOT-ID/WHAT                          objects that were not yet synced when that boot was running
//! unsynced/BOOT-ID.failed/WHAT                   layers whose sync failed in that boot
//! tmp/NAME                                       everything is born here; a folder is locked by its owner
//! gc.lock  gc-queue.lock  index.lock  tmp.lock  locks/     advisory locks (`flock`)
//! layerfs-format                                 the version number
//! ```
//!
//! A store belongs to one machine: locks and boot ids mean nothing to another.
//!
//! # What survives a kill
//!
//! An object appears under its name by `rename`, complete, and is never written again or replaced. A ref is written
//! last. So whatever is killed at whatever instant, what a ref leads to is whole; the rest lies in `tmp/` without a
//! living owner (the next opening removes it) or is led to by nothing (the next `gc` removes it).
//! `index.json` is derived: lost or stale, it is written again from `refs/` by the next change of a ref and by `gc`.
//!
//! # What survives a power cut: when this program syncs
//!
//! No file is synced by itself, no folder, no layer. An object is marked in `unsynced/` before its rename. Before a ref
//! is renamed into place there is **one `syncfs(2)`** of the store's file system, whatever the number of files, and
//! the marks of all that was complete before it are cleared; where nothing is marked (a new name for what is here
//! already), `fdatasync(2)` of the ref's own small file. So a ref never leads to what the disk does not have, on a file
//! system that keeps the order of renames (ext4, xfs, btrfs). The rename itself is left to the journal: a cut
//! within seconds after a command may take its name back to what it was, never to something torn.
//!
//! A layer that was unpacked without a name being written is not synced at all and trusted in its boot only. The first
//! opening in another boot throws away marked layers (they are made again from their blobs) and those marked blobs
//! whose bytes are not what their name says. Records in `cache/` and `compressed/`, and `index.json`, are not synced
//! either: a torn one does not parse, and counts as none.
//!
//! A sync that fails fails the command. The kernel tells of lost pages once, so the marked blobs are thrown away, and
//! the marked layers are never taken for synced: their marks move to `BOOT-ID.failed`.
//!
//! # Locks, in the order in which they are taken
//!
//! `gc.lock`: shared from before the first object of an import until its ref, record or container is written; exclusive
//! while `gc` works. `gc-queue.lock`: held by the one collection that is waiting for it. `locks/WHAT`: one process
//! fetches a blob or unpacks a layer, the others wait and find it there. `index.lock`: around writing `index.json`.
//! `tmp.lock`: shared while a folder in `tmp/` is made and locked, exclusive while the unlocked ones are taken over for
//! removal; nothing else is waited for under it. `unsynced/` itself: around what the first opening in a boot does.
//! Lock files that have lost their name are not trusted, so `gc` may remove those in `locks/`.

use serde::{Deserialize, Serialize};

use crate::digest::{DiffId, Digest};
use crate::error::{Error, Kind, Result};
use crate::oci::Descriptor;

/// The version this program writes and reads.
pub const VERSION: u32 = 1;
/// Content of `oci-layout` (image-spec, `image-layout.md`).
pub const OCI_LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// The `roots` object of a record in `cache/KIND/*.json`, `containers/ID/*.json` or `mounts/NAME/*.json`: what must outlive a `gc`.
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
