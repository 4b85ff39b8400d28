//! One digest of a selection: what of a cache key depends on files.

use std::os::unix::fs::MetadataExt;

use layerfs::digest::{Algorithm, Digest, Hasher};
use layerfs::error::{Context, Result};
use layerfs::sys::fs::{get_xattr, list_xattrs};
use rayon::prelude::*;

use super::select::{Content, Selection, everything_at, real};
use super::stat_cache::{Hash, StatCache, hash_file};
use super::tree::Tree;
use super::walk::{Entry, FileKind};
use crate::graph::Chmod;

/// What a copy does about owners and modes, as far as the files' own matter.
#[derive(Clone, Copy, Debug)]
pub struct Owners<'a> {
    /// Files keep the owner they have; otherwise all get the same one, which is not part of this digest.
    pub kept: bool,
    /// The mode each file will get.
    pub chmod: Option<&'a Chmod>,
}

/// The digest of names, kinds, effective modes, contents and attributes, in the order of the selection; of owners
/// where they are kept; of times never. `cache` saves reading the files of a context again.
///
/// # Errors
/// A file cannot be read.
pub fn digest(tree: &Tree, selection: &Selection, owners: Owners<'_>, cache: Option<&StatCache>) -> Result<Digest> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    for part in &selection.parts {
        // What was fetched was not there before.
        let cache = cache.filter(|_| part.fetched.is_none());
        let tree = part.tree(tree);
        if part.known {
            continue;
        }
        match &part.content {
            // A file's name counts: it may become the name of the copy.
            Content::File(entry) => {
                add(&mut hasher, b"file", &part.name);
                entries(&mut hasher, tree, std::slice::from_ref(&**entry), owners, cache)?;
            }
            Content::Folder(list) => {
                add(&mut hasher, b"folder", b"");
                entries(&mut hasher, tree, list, owners, cache)?;
            }
            Content::Inline(bytes) => {
                add(&mut hasher, b"inline", &part.name);
                add(&mut hasher, b"content", bytes);
            }
        }
    }
    Ok(hasher.finish())
}

/// The digest of everything at `path`, for a mount that shows it as it is.
///
/// # Errors
/// There is nothing at `path`, or it cannot be read.
pub(crate) fn digest_at(tree: &Tree, path: &str, owners: Owners<'_>, cache: Option<&StatCache>) -> Result<Digest> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    entries(&mut hasher, tree, &everything_at(tree, path)?, owners, cache)?;
    Ok(hasher.finish())
}

fn entries(
    hasher: &mut Hasher,
    tree: &Tree,
    list: &[Entry],
    owners: Owners<'_>,
    cache: Option<&StatCache>,
) -> Result<()> {
    let content = |entry: &Entry| -> Result<Option<Hash>> {
        if !entry.has_content() {
            return Ok(None);
        }
        let path = real(tree, entry);
        let hash = match cache {
            Some(cache) => cache.content(&path, &entry.metadata),
            None => hash_file(&path).map(|(hash, _)| hash),
        };
        hash.map(Some)
    };
    let hashes: Vec<Option<Hash>> = list.par_iter().with_min_len(16).map(content).collect::<Result<_>>()?;
    // The first path of each file with several names: hard links within a selection stay hard links.
    let mut links: std::collections::HashMap<(u64, u64), &[u8]> = std::collections::HashMap::new();
    for (entry, hash) in list.iter().zip(&hashes) {
        add(hasher, b"path", &entry.path);
        hasher.update(&[entry.kind as u8]);
        if entry.kind != FileKind::Symlink {
            let mode = entry.mode();
            let mode = owners.chmod.map_or(mode, |chmod| chmod.apply(mode, entry.kind == FileKind::Dir));
            hasher.update(&mode.to_le_bytes());
        }
        if owners.kept {
            hasher.update(&entry.metadata.uid().to_le_bytes());
            hasher.update(&entry.metadata.gid().to_le_bytes());
        }
        if let Some(hash) = hash {
            hasher.update(hash);
            if entry.metadata.nlink() > 1 {
                let first = *links.entry((entry.metadata.dev(), entry.metadata.ino())).or_insert(&entry.path);
                add(hasher, b"link", first);
            }
        }
        if matches!(entry.kind, FileKind::Char | FileKind::Block) {
            hasher.update(&entry.metadata.rdev().to_le_bytes());
        }
        add(hasher, b"target", &entry.link);
        for (key, value) in xattrs(tree, entry)? {
            add(hasher, &key, &value);
        }
    }
    Ok(())
}

/// The attributes that a copy keeps: `user.*` and file capabilities, and only between stages. What a developer's
/// disk attaches to a working copy is no part of an image.
pub(crate) fn xattrs(tree: &Tree, entry: &Entry) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut found = Vec::new();
    if !tree.is_image() {
        return Ok(found);
    }
    let path = real(tree, entry);
    for name in list_xattrs(&path).at("read the attributes of", &path)? {
        let kept =
            name == b"security.capability" || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."));
        if !kept {
            continue;
        }
        let Ok(text) = std::str::from_utf8(&name) else { continue };
        if let Some(value) = get_xattr(&path, text).at("read the attributes of", &path)? {
            found.push((name, value));
        }
    }
    found.sort();
    Ok(found)
}

/// What the store notes of an owner and mode where only one id exists: `UID:GID:MODE:KIND`, in containers' own form.
const OVERRIDE: &[u8] = b"user.containers.override_stat";

/// Takes the noted owner and mode out of a file's attributes.
pub(crate) fn take_override(attributes: &mut Vec<(Vec<u8>, Vec<u8>)>) -> Option<(u32, u32, u32)> {
    let at = attributes.iter().position(|(name, _)| name == OVERRIDE)?;
    let (_, value) = attributes.remove(at);
    let text = String::from_utf8(value).ok()?;
    let mut fields = text.split(':');
    let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((uid, gid, u32::from_str_radix(fields.next()?, 8).ok()? & 0o7777))
}

/// Adds a labelled value so that no two lists of values look alike.
fn add(hasher: &mut Hasher, label: &[u8], value: &[u8]) {
    hasher.update(&(label.len() as u64).to_le_bytes());
    hasher.update(label);
    hasher.update(&(value.len() as u64).to_le_bytes());
    hasher.update(value);
}
