//! Where the space goes: every byte of the store once, by what it is for.
//!
//! Blobs and unpacked layers are counted from their metadata; only containers, the build cache's own files and what is
//! being made are walked. No lock is taken and nothing is waited for: what others change meanwhile may be counted or
//! not.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Store;
use super::contents::Contents;
use super::inspect::is_locked;
use super::reach::{Reach, Record, folders, layer_id};
use crate::digest::Digest;
use crate::error::{Context, Result};
use crate::oci::Descriptor;
use crate::reference::Reference;

/// One kind of thing and the space it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many there are.
    pub count: u64,
    /// How many of them are in use by a container that runs, or for images by any container.
    pub active: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Bytes that would be free without those that are not in use.
    pub reclaimable: u64,
}

/// The space of a store, every byte in one place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Images that have a name: their blobs.
    pub images: Amount,
    /// Layers of those, of containers and of the build cache, unpacked for mounting; made again when they are needed.
    pub layers: Amount,
    /// Containers: what they changed, their logs, and blobs of images that have no name any more.
    pub containers: Amount,
    /// The build cache: its records and mounts, and the blobs nothing else needs.
    pub cache: Amount,
    /// What is being made, by processes that live.
    pub temporary: Amount,
    /// What `gc` frees.
    pub unneeded: Amount,
    /// The images one by one, by their first name.
    pub by_image: Vec<ImageUsage>,
}

/// The space of one image: its blobs, and its layers where they are unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUsage {
    /// Its names.
    pub names: Vec<Reference>,
    /// Its manifest or index.
    pub digest: Digest,
    /// Bytes of its blobs.
    pub blobs: u64,
    /// Bytes of its layers that are unpacked.
    pub unpacked: u64,
    /// Bytes of both that another image has too.
    pub shared: u64,
    /// Containers made of it.
    pub containers: u64,
}

impl ImageUsage {
    /// All its bytes.
    pub fn bytes(&self) -> u64 {
        self.blobs + self.unpacked
    }

    /// Bytes that no other image has.
    pub fn unique(&self) -> u64 {
        self.bytes() - self.shared
    }
}

/// What lies in the store, with sizes.
struct Sizes {
    blobs: HashMap<Digest, u64>,
    /// By the folder's name.
    layers: Vec<(String, u64)>,
    /// Of files among the blobs that are none.
    strays: (u64, u64),
}

impl Store {
    /// Measures the store.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn usage(&self) -> Result<Usage> {
        let sizes = self.sizes()?;
        let (images, contents) = self.named_images()?;
        let (containers, cache) = (self.records("containers")?, self.records("cache")?);

        let mut by_names = Reach::default();
        contents.iter().for_each(|contents| by_names.add(contents));
        let mut by_containers = Reach::default();
        self.add_records(&containers, &mut by_containers)?;
        let mut by_cache = Reach::default();
        self.add_records(&cache, &mut by_cache)?;

        let mut usage = Usage { by_image: per_image(&sizes, images, &contents, &containers), ..Usage::default() };
        usage.images.count = usage.by_image.len() as u64;
        usage.images.active = usage.by_image.iter().filter(|image| image.containers > 0).count() as u64;
        usage.cache.count = cache.len() as u64;
        for (digest, bytes) in &sizes.blobs {
            let held = by_containers.blobs.contains(digest);
            if by_names.blobs.contains(digest) {
                usage.images.add(*bytes, !held);
            } else if held {
                usage.containers.add(*bytes, false);
            } else if by_cache.blobs.contains(digest) {
                usage.cache.add(*bytes, true);
            } else {
                usage.unneeded.count += 1;
                usage.unneeded.add(*bytes, true);
            }
        }
        for (name, bytes) in &sizes.layers {
            let needed = [&by_names, &by_containers, &by_cache].iter().any(|reach| reach.has_layer(name));
            let place = if needed { &mut usage.layers } else { &mut usage.unneeded };
            let held = by_containers.has_layer(name);
            place.count += 1;
            place.active += u64::from(held);
            place.add(*bytes, !held);
        }
        usage.unneeded.count += sizes.strays.0;
        usage.unneeded.add(sizes.strays.1, true);
        self.add_folders(&mut usage)?;
        Ok(usage)
    }

    /// The names of images that no container is made of.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn unused_names(&self) -> Result<Vec<(Reference, Descriptor)>> {
        let used: HashSet<Digest> = self
            .records("containers")?
            .iter()
            .flat_map(|record| &record.roots.images)
            .map(|root| root.digest)
            .collect();
        let mut unused = Vec::new();
        for (name, descriptor) in self.refs()? {
            if !self.contents(&descriptor)?.parts.iter().any(|part| used.contains(&part.digest)) {
                unused.push((name, descriptor));
            }
        }
        Ok(unused)
    }

    fn sizes(&self) -> Result<Sizes> {
        let mut sizes = Sizes { blobs: HashMap::new(), layers: Vec::new(), strays: (0, 0) };
        for (digest, _, bytes) in self.blobs()? {
            match digest {
                Some(digest) => drop(sizes.blobs.insert(digest, bytes)),
                None => sizes.strays = (sizes.strays.0 + 1, sizes.strays.1 + bytes),
            }
        }
        for folder in folders(&self.layers_dir())? {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // A shim holds folders and second names of files; its own size is next to nothing.
            let bytes = crate::layer::recorded_bytes(&folder).unwrap_or(0);
            sizes.layers.push((name, bytes));
        }
        Ok(sizes)
    }

    /// Every manifest or index that has a name, once, with what it consists of.
    fn named_images(&self) -> Result<(Vec<ImageUsage>, Vec<Contents>)> {
        let mut at: HashMap<Digest, usize> = HashMap::new();
        let (mut images, mut roots): (Vec<ImageUsage>, Vec<Descriptor>) = (Vec::new(), Vec::new());
        for (name, descriptor) in self.refs()? {
            let position = *at.entry(descriptor.digest).or_insert(images.len());
            if position == images.len() {
                let (names, digest) = (Vec::new(), descriptor.digest);
                images.push(ImageUsage { names, digest, blobs: 0, unpacked: 0, shared: 0, containers: 0 });
                roots.push(descriptor);
            }
            images[position].names.push(name);
        }
        let contents = self.all_contents(&roots)?;
        Ok((images, contents))
    }

    /// What has to be walked.
    fn add_folders(&self, usage: &mut Usage) -> Result<()> {
        for folder in folders(&self.containers_dir())? {
            let (bytes, active) = (tree_bytes(&folder)?, is_locked(&folder));
            usage.containers.count += 1;
            usage.containers.active += u64::from(active);
            usage.containers.add(bytes, !active);
        }
        usage.cache.add(tree_bytes(&self.cache_dir())?, true);
        for folder in folders(&self.root.join("tmp"))? {
            usage.temporary.count += 1;
            usage.temporary.active += 1;
            usage.temporary.add(tree_bytes(&folder)?, false);
        }
        Ok(())
    }
}

impl Amount {
    fn add(&mut self, bytes: u64, reclaimable: bool) {
        self.bytes += bytes;
        self.reclaimable += if reclaimable { bytes } else { 0 };
    }
}

fn per_image(
    sizes: &Sizes,
    mut images: Vec<ImageUsage>,
    contents: &[Contents],
    containers: &[Record],
) -> Vec<ImageUsage> {
    let mut unpacked: HashMap<Digest, u64> = HashMap::new();
    for (name, bytes) in &sizes.layers {
        if let Some(id) = layer_id(name) {
            *unpacked.entry(id).or_default() += bytes;
        }
    }
    // Blobs and unpacked layers of one image, each with the digest it goes by.
    let of_image = |contents: &Contents| -> (HashSet<Digest>, HashSet<Digest>) {
        let layers: HashSet<Digest> = contents.chains.iter().flat_map(|chain| &chain.diff_ids).map(|id| id.0).collect();
        let named = contents.parts.iter().map(|part| part.digest);
        let blobs = named.chain(layers.iter().copied()).filter(|digest| sizes.blobs.contains_key(digest)).collect();
        (blobs, layers.into_iter().filter(|digest| unpacked.contains_key(digest)).collect())
    };
    let parts: Vec<_> = contents.iter().map(of_image).collect();
    let (mut blob_users, mut layer_users): (HashMap<Digest, u64>, HashMap<Digest, u64>) = Default::default();
    for (blobs, layers) in &parts {
        blobs.iter().for_each(|digest| *blob_users.entry(*digest).or_default() += 1);
        layers.iter().for_each(|digest| *layer_users.entry(*digest).or_default() += 1);
    }
    for ((image, (blobs, layers)), contents) in images.iter_mut().zip(&parts).zip(contents) {
        for (digests, bytes_of, users, total) in [
            (blobs, &sizes.blobs, &blob_users, &mut image.blobs),
            (layers, &unpacked, &layer_users, &mut image.unpacked),
        ] {
            for digest in digests {
                let bytes = bytes_of.get(digest).copied().unwrap_or(0);
                *total += bytes;
                image.shared += if users.get(digest).is_some_and(|users| *users > 1) { bytes } else { 0 };
            }
        }
        let documents: HashSet<Digest> = contents.parts.iter().map(|part| part.digest).collect();
        let made_of_it = |record: &&Record| record.roots.images.iter().any(|root| documents.contains(&root.digest));
        image.containers = containers.iter().filter(made_of_it).count() as u64;
    }
    images
}

/// Bytes of the files in a folder, a file with several names once. What is removed meanwhile counts for nothing.
fn tree_bytes(dir: &Path) -> Result<u64> {
    let mut linked = HashSet::new();
    let mut pending = vec![dir.to_owned()];
    let mut bytes = 0;
    while let Some(dir) = pending.pop() {
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            result => result.at("read", &dir)?,
        };
        for entry in entries {
            let entry = entry.at("read", &dir)?;
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                pending.push(entry.path());
            } else if metadata.nlink() == 1 || linked.insert((metadata.dev(), metadata.ino())) {
                bytes += metadata.len();
            }
        }
    }
    Ok(bytes)
}
