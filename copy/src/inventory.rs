//! What an image consists of: all its documents and blobs.

use std::collections::{HashMap, HashSet};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::{Descriptor, Document, Index, Manifest, Platform, media_type};
use serde_json::Value;

use crate::transport::{Source, read_document};
use crate::work;

/// Deepest nesting of indexes that is followed.
const DEPTH_MAX: usize = 8;
/// Most documents of one image.
const DOCUMENTS_MAX: usize = 10_000;
/// Documents that are fetched at once.
const PARALLEL: usize = 8;

/// Which platforms of a multi-platform image are wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Platforms {
    /// What the operation's own rule says: see [`crate::transfer`] and [`crate::pull`].
    #[default]
    Auto,
    /// The one this program runs on.
    Host,
    /// One: the manifest for it is copied, without the index around it.
    One(Platform),
    /// Several: the index is copied with these entries only.
    Some(Vec<Platform>),
    /// All, with the index as it is.
    All,
    /// The index alone, without what it names.
    IndexOnly,
}

/// An image with everything below it.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// Documents by depth: the root alone comes first. A later level never points to an earlier one.
    pub levels: Vec<Vec<Entry>>,
    /// Every other blob once, in the order of appearance.
    pub blobs: Vec<Descriptor>,
}

/// A manifest or index with its exact bytes.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its descriptor.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What it says; `None` for a document of an unknown kind.
    pub document: Option<Document>,
}

impl Inventory {
    /// The manifest or index that is copied.
    pub fn root(&self) -> &Entry {
        &self.levels[0][0]
    }

    /// The manifest, where the image is of one platform.
    pub fn single(&self) -> Option<&Manifest> {
        match &self.root().document {
            Some(Document::Manifest(manifest)) => Some(manifest),
            _ => None,
        }
    }

    /// All documents but the root, those nobody points to any more last.
    pub fn children(&self) -> impl Iterator<Item = &Vec<Entry>> {
        self.levels[1..].iter().rev()
    }
}

/// The root that serves `wanted`: the one the location names, one below it, or a new index of some of its entries.
pub(crate) fn select(source: &dyn Source, root: (Descriptor, Vec<u8>), wanted: &Platforms) -> Result<Entry> {
    let mut entry = parse(root.0, root.1)?;
    let platform = match wanted {
        Platforms::Auto | Platforms::All | Platforms::IndexOnly => return Ok(entry),
        Platforms::Host => Platform::host(),
        Platforms::One(platform) => platform.clone(),
        Platforms::Some(platforms) => {
            return match &entry.document {
                Some(Document::Index(index)) => subset(&entry, index, platforms),
                _ => Ok(entry),
            };
        }
    };
    for _ in 0..DEPTH_MAX {
        let Some(Document::Index(index)) = &entry.document else { return Ok(entry) };
        let chosen = index.select(&platform).cloned().ok_or_else(|| lacks(&entry.descriptor, index, &platform))?;
        let bytes = read_document(source, &chosen)?;
        entry = parse(Descriptor { platform: None, ..chosen }, bytes)?;
    }
    Err(Error::new(Kind::Limit, format!("index `{}` nests deeper than {DEPTH_MAX}", entry.descriptor.digest)))
}

/// An index of the entries for `platforms`, and of what belongs to them (attestations point to their image by an
/// annotation).
fn subset(entry: &Entry, index: &Index, platforms: &[Platform]) -> Result<Entry> {
    let mut chosen = HashSet::new();
    for platform in platforms {
        let found = index.select(platform).ok_or_else(|| lacks(&entry.descriptor, index, platform))?;
        chosen.insert(found.digest.to_string());
    }
    let belongs = |descriptor: &Descriptor| {
        let about = descriptor.annotation("vnd.docker.reference.digest");
        chosen.contains(&descriptor.digest.to_string()) || about.is_some_and(|digest| chosen.contains(digest))
    };
    let mut smaller = index.clone();
    smaller.manifests.retain(belongs);
    if smaller.manifests.len() == index.manifests.len() {
        return Ok(entry.clone());
    }
    let bytes = smaller.to_bytes();
    Ok(Entry {
        descriptor: Descriptor::of(entry.descriptor.media_type.clone(), &bytes),
        bytes,
        document: Some(Document::Index(smaller)),
    })
}

fn lacks(descriptor: &Descriptor, index: &Index, platform: &Platform) -> Error {
    let offered: Vec<String> =
        index.manifests.iter().filter_map(|d| d.platform.as_ref()).map(ToString::to_string).collect();
    Error::new(Kind::NotFound, format!("image `{}` has no {platform}", descriptor.digest))
        .hint(format!("it has: {}", offered.join(", ")))
}

/// Lists everything below `root`. Documents of one level are fetched at the same time.
pub(crate) fn take(source: &dyn Source, root: Entry, wanted: &Platforms) -> Result<Inventory> {
    let mut inventory = Inventory { levels: Vec::new(), blobs: Vec::new() };
    let mut seen = HashSet::from([root.descriptor.digest]);
    let (mut level, mut count, mut blobs) = (vec![root], 1, HashMap::new());
    while !level.is_empty() {
        if inventory.levels.len() > DEPTH_MAX {
            return Err(Error::new(Kind::Limit, format!("the image's indexes nest deeper than {DEPTH_MAX}")));
        }
        let mut below = Vec::new();
        for entry in &level {
            let (documents, parts) = links(entry)?;
            if *wanted != Platforms::IndexOnly {
                below.extend(documents.into_iter().filter(|descriptor| seen.insert(descriptor.digest)));
            }
            for blob in parts {
                match blobs.insert(blob.digest, blob.size) {
                    None => inventory.blobs.push(blob),
                    Some(size) if size == blob.size => {}
                    Some(size) => {
                        let sentence =
                            format!("blob `{}` is said to have {size} bytes, and {} elsewhere", blob.digest, blob.size);
                        return Err(Error::new(Kind::Corrupt, sentence));
                    }
                }
            }
        }
        count += below.len();
        if count > DOCUMENTS_MAX {
            return Err(Error::new(Kind::Limit, format!("the image has more than {DOCUMENTS_MAX} manifests")));
        }
        inventory.levels.push(level);
        level = work::map(&below, PARALLEL, |descriptor| {
            let bytes = read_document(source, descriptor).map_err(|error| match error.kind() {
                Kind::NotFound => {
                    error.hint("the index names a manifest that is not there; `--platform` copies one that is")
                }
                _ => error,
            })?;
            parse(Descriptor::new(&descriptor.media_type, descriptor.digest, descriptor.size), bytes)
        })?;
    }
    Ok(inventory)
}

/// Parses a document; one of a kind we do not know is kept as it is.
pub(crate) fn parse(descriptor: Descriptor, bytes: Vec<u8>) -> Result<Entry> {
    let known = media_type::is_index(&descriptor.media_type)
        || media_type::is_manifest(&descriptor.media_type)
        || descriptor.media_type.starts_with("application/vnd.docker.distribution.manifest.v1");
    let document = match known {
        true => Some(
            Document::parse(&bytes, Some(&descriptor.media_type))
                .context(|| format!("read document `{}`", descriptor.digest))?,
        ),
        false => None,
    };
    Ok(Entry { descriptor, bytes, document })
}

/// The documents and the blobs a document points to.
fn links(entry: &Entry) -> Result<(Vec<Descriptor>, Vec<Descriptor>)> {
    Ok(match &entry.document {
        Some(Document::Index(index)) => (index.manifests.clone(), Vec::new()),
        Some(Document::Manifest(manifest)) => {
            let config = std::iter::once(manifest.config.clone());
            (Vec::new(), config.chain(manifest.layers.iter().cloned()).collect())
        }
        // An artifact of a kind that came or went with a version of the specification names its parts so.
        None => {
            let value: Value = serde_json::from_slice(&entry.bytes).unwrap_or(Value::Null);
            let list = |key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
            let parts = [list("layers"), list("blobs"), value.get("config").cloned().into_iter().collect()].concat();
            (Vec::new(), parts.into_iter().filter_map(|part| serde_json::from_value(part).ok()).collect())
        }
    })
}
