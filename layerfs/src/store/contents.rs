//! What an image consists of, read for its links alone.
//!
//! Collecting, counting and checking look at every document of a store. They need digests and sizes only, and so
//! pass over the rest of the JSON; a thousand images take milliseconds. Nothing here compares a document with its
//! digest: what a damaged one still names is better kept than lost.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Store;
use crate::digest::{DiffId, Digest};
use crate::error::{Context, Result};
use crate::oci::{DOCUMENT_MAX, Descriptor, Platform};

/// What a blob is to the image that names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A manifest or an index.
    Document,
    /// The image's configuration.
    Config,
    /// A layer, or another part.
    Layer,
}

/// A blob as a document names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes, as stated.
    pub size: u64,
    /// What it is.
    pub role: Role,
    /// The image does without it: the manifest of a platform that was not fetched, a layer kept elsewhere.
    pub optional: bool,
}

/// The layers of one manifest, lowest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Their identities.
    pub diff_ids: Vec<DiffId>,
    /// The blobs they were fetched as; as many as there are diff IDs, where the image is sound.
    pub blobs: Vec<Digest>,
}

/// Everything below one manifest or index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Every blob once, the root first.
    pub parts: Vec<Part>,
    /// The layers of every manifest whose configuration is here.
    pub chains: Vec<Chain>,
}

/// What a listing shows of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The digest of its configuration.
    pub id: Digest,
    /// When it was made, as it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Bytes of its layers as they are stored.
    pub bytes: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Link {
    digest: Digest,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    urls: Vec<String>,
    platform: Option<Platform>,
    #[serde(default)]
    media_type: String,
}

impl Link {
    fn part(&self, role: Role) -> Part {
        Part { digest: self.digest, size: self.size, role, optional: !self.urls.is_empty() }
    }
}

/// A manifest, an index, or an artifact manifest of a kind that came and went, which calls its parts `blobs`.
#[derive(Deserialize)]
struct Links {
    manifests: Option<Vec<Link>>,
    config: Option<Link>,
    layers: Option<Vec<Link>>,
    blobs: Option<Vec<Link>>,
    subject: Option<Link>,
}

#[derive(Deserialize)]
struct ConfigLinks {
    rootfs: Option<RootFs>,
    created: Option<String>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Option<Vec<DiffId>>,
}

impl Store {
    /// Everything below a manifest or index. What is missing or malformed is named without what it would name.
    ///
    /// # Errors
    /// A document that is there cannot be read: no statement about what it names can be made then.
    pub fn contents(&self, root: &Descriptor) -> Result<Contents> {
        let mut contents = Contents::default();
        let mut seen = HashSet::from([root.digest]);
        let mut pending = vec![Part { digest: root.digest, size: root.size, role: Role::Document, optional: false }];
        while let Some(part) = pending.pop() {
            contents.parts.push(part);
            let Some(links) = self.parse::<Links>(&part.digest)? else { continue };
            let manifests = links.manifests.unwrap_or_default();
            // A pull may have brought some of the platforms only; an index with none of them is damaged.
            let some_here = manifests.iter().any(|link| self.has_blob(&link.digest));
            let documents = manifests.iter().map(|link| Part { optional: some_here, ..link.part(Role::Document) });
            // What an artifact is about need not be here.
            let subject = links.subject.iter().map(|link| Part { optional: true, ..link.part(Role::Document) });
            pending.extend(documents.chain(subject).filter(|part| seen.insert(part.digest)));
            let layers = links.layers.unwrap_or_default();
            if let Some(config) = &links.config {
                contents.parts.extend(seen.insert(config.digest).then(|| config.part(Role::Config)));
                let diff_ids = self.parse::<ConfigLinks>(&config.digest)?.and_then(|config| config.rootfs?.diff_ids);
                let blobs = layers.iter().map(|layer| layer.digest).collect();
                contents.chains.extend(diff_ids.map(|diff_ids| Chain { diff_ids, blobs }));
            }
            let others = layers.iter().chain(links.blobs.iter().flatten()).map(|link| link.part(Role::Layer));
            contents.parts.extend(others.filter(|part| seen.insert(part.digest)));
        }
        Ok(contents)
    }

    /// Whether every blob that an image needs is here, in the size it should have.
    ///
    /// # Errors
    /// A document that is there cannot be read.
    pub fn is_complete(&self, root: &Descriptor) -> Result<bool> {
        let here = |part: &Part| part.optional || self.blob_size(&part.digest) == Some(part.size);
        Ok(self.contents(root)?.parts.iter().all(here))
    }

    /// What a listing shows of an image on `platform`; `None` where it is none, or has nothing for the platform.
    ///
    /// # Errors
    /// A document that is there cannot be read.
    pub fn summary(&self, root: &Descriptor, platform: &Platform) -> Result<Option<Summary>> {
        let mut digest = root.digest;
        for _ in 0..super::image::INDEX_DEPTH {
            let Some(links) = self.parse::<Links>(&digest)? else { return Ok(None) };
            if let Some(manifests) = links.manifests {
                let entries = manifests.iter().map(|link| Descriptor {
                    platform: link.platform.clone(),
                    ..Descriptor::new(link.media_type.as_str(), link.digest, link.size)
                });
                let index = crate::oci::Index::new(entries.collect());
                let Some(chosen) = index.select(platform) else { return Ok(None) };
                digest = chosen.digest;
                continue;
            }
            let Some(config) = links.config.filter(|config| crate::oci::media_type::is_config(&config.media_type))
            else {
                return Ok(None);
            };
            let Some(parsed) = self.parse::<ConfigLinks>(&config.digest)? else { return Ok(None) };
            let bytes = links.layers.iter().flatten().map(|layer| layer.size).sum();
            return Ok(Some(Summary { id: config.digest, created: parsed.created, bytes }));
        }
        Ok(None)
    }

    /// A document's fields; `None` where it is missing, too large to be one, or malformed.
    fn parse<T: for<'de> Deserialize<'de>>(&self, digest: &Digest) -> Result<Option<T>> {
        let path = self.blob_path(digest);
        match read_small(&path) {
            Ok(bytes) => Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at("read", &path),
        }
    }
}

/// The bytes of a small file, in two system calls where it has less than 8 KiB; `None` for one that has more than
/// any document.
pub(super) fn read_small(path: &Path) -> io::Result<Option<Vec<u8>>> {
    const GUESS: usize = 8 << 10;
    let mut file = File::open(path)?;
    let mut bytes = vec![0; GUESS];
    let read = loop {
        match file.read(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => break result?,
        }
    };
    bytes.truncate(read);
    // A regular file gives less than was asked for only at its end.
    if read == GUESS {
        file.take(DOCUMENT_MAX).read_to_end(&mut bytes)?;
    }
    Ok((bytes.len() as u64 <= DOCUMENT_MAX).then_some(bytes))
}

/// `each` for all items on as many threads as there are processors; threads are gone afterwards.
pub(super) fn spread<T: Sync, U: Send>(items: &[T], each: impl Fn(&T) -> Result<U> + Sync) -> Result<Vec<U>> {
    /// Fewer are done before a thread would have begun.
    const WORTH_A_THREAD: usize = 32;
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(items.len() / WORTH_A_THREAD);
    if workers <= 1 {
        return items.iter().map(each).collect();
    }
    let size = items.len().div_ceil(workers);
    let work = |chunk: &[T]| chunk.iter().map(&each).collect::<Result<Vec<U>>>();
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.chunks(size).map(|chunk| scope.spawn(move || work(chunk))).collect();
        let mut results = Vec::with_capacity(items.len());
        for thread in threads {
            results.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(results)
    })
}
