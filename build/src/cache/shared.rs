//! Results that others made: caches in registries, folders and images.
//!
//! Every result is an image of its own: one layer at most, and a configuration that says what it is of
//! ([`DOCUMENT_KEY`]). It lies under a tag made of its key, `TAG-KEY`, so that builds that write at the same time are in
//! nobody's way, and one that wants a late step asks for that alone. Under `TAG` itself lies a mark: where it is missing
//! nothing more is asked. A cache *inline* is such a list in the configuration of an image that has the layers anyway.
//!
//! What cannot be read is not there, and what cannot be written is left: no build fails because of a cache.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use copy::{Location, Opened, Place, Reader, Recompress, Selector};
use layerfs::archive::decompress;
use layerfs::digest::{DiffId, Digest};
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::{Descriptor, ImageConfig, Manifest, Platform, media_type};
use layerfs::progress::Silent;
use layerfs::reference::Reference;
use layerfs::store::Store;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::travel::{self, Mounts};
use super::{Key, Layer, Outcome};
use crate::progress::{End, Progress, Stream};

/// The member of an image's configuration that tells which results it holds.
pub(crate) const DOCUMENT_KEY: &str = "layerfs.cache";
/// The tag of a folder's mark.
const FOLDER_TAG: &str = "cache";
/// Results that are written at the same time.
const PARALLEL: usize = 4;

/// Where a cache lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CachePlace {
    /// In the repository of this name.
    Registry(Reference),
    /// In a folder, an image layout.
    Folder(PathBuf),
    /// In the image itself.
    Inline,
}

/// A cache to write.
#[derive(Clone, Debug, PartialEq)]
pub struct CacheTo {
    /// Where.
    pub place: CachePlace,
    /// The results of all stages, not only of those that the image stands on.
    pub max: bool,
    /// How layers are compressed.
    pub compression: Option<Recompress>,
    /// Cache mounts that go along.
    pub mounts: Mounts,
}

/// A result as it is written down in a configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    key: String,
    created: String,
    /// The layer and its size as an archive.
    layer: Option<Layer>,
}

/// A result that this build made or found.
#[derive(Clone, Debug)]
pub(crate) struct Used {
    /// The stage's index.
    pub(crate) stage: usize,
    /// The step's title.
    pub(crate) title: String,
    /// Its key.
    pub(crate) key: Key,
    /// What it is.
    pub(crate) outcome: Outcome,
}

impl CachePlace {
    /// Where its mark is.
    fn location(&self) -> Option<Location> {
        match self {
            Self::Registry(name) => Some(Location::Registry(name.clone().or_latest())),
            Self::Folder(path) => Some(layout(path, FOLDER_TAG)),
            Self::Inline => None,
        }
    }

    /// Where a result is.
    fn entry(&self, key: &Key) -> Result<Option<Location>> {
        self.labelled(&key.name()[..40])
    }

    /// Where the part of this name is.
    pub(super) fn labelled(&self, label: &str) -> Result<Option<Location>> {
        Ok(match self {
            Self::Registry(name) => {
                let name = name.clone().or_latest();
                let tag = format!("{}-{label}", name.tag().unwrap_or(FOLDER_TAG));
                Some(Location::Registry(name.with_tag(&tag)?))
            }
            Self::Folder(path) => Some(layout(path, &format!("{FOLDER_TAG}-{label}"))),
            Self::Inline => None,
        })
    }
}

fn layout(path: &std::path::Path, tag: &str) -> Location {
    Location::Layout(Place { path: path.to_owned(), image: Selector::Named(tag.to_owned()) })
}

/// The caches that a build reads.
pub(crate) struct Shared<'a> {
    store: &'a Store,
    reader: Reader<'a>,
    progress: &'a Progress,
    sources: Vec<Source>,
}

struct Source {
    place: CachePlace,
    /// It has results under tags of their own.
    keyed: Mutex<bool>,
    /// What an image holds inline.
    inline: HashMap<String, (Entry, Option<Descriptor>)>,
    image: Option<Opened>,
}

impl<'a> Shared<'a> {
    /// Asks every place what it has.
    ///
    /// # Errors
    /// The user's configuration of registries cannot be read.
    pub(crate) fn open(
        store: &'a Store,
        places: &[CachePlace],
        options: &'a copy::Options,
        progress: &'a Progress,
    ) -> Result<Self> {
        let reader = Reader::new(options, &Silent)?;
        let mut sources = Vec::new();
        for place in places {
            let Some(location) = place.location() else { continue };
            let id = progress.start(&format!("[internal] read the cache {location}"));
            match reader.open(&location) {
                Ok(image) => {
                    progress.end(id, &End::Done);
                    sources.push(Source::of(place.clone(), image));
                }
                Err(error) => {
                    let nothing = format!("nothing there: {}\n", error.chain());
                    progress.log(id, Stream::Out, nothing.as_bytes());
                    progress.end(id, &End::Done);
                }
            }
        }
        Ok(Self { store, reader, progress, sources })
    }

    /// Whether there is no place to look into.
    pub(crate) fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// A result of this key, its layer fetched.
    pub(crate) fn find(&self, key: &Key) -> Option<Outcome> {
        self.sources.iter().find_map(|source| match self.find_in(source, key) {
            Ok(found) => found,
            Err(error) => {
                if error.kind() != Kind::NotFound {
                    // One that is broken stays so for this build.
                    *source.keyed.lock().unwrap_or_else(PoisonError::into_inner) = false;
                    self.progress.note(&format!("a cache is passed over: {}", error.chain()));
                }
                None
            }
        })
    }

    /// Lays down in `folder`, which is empty, what a cache has of the mount `id`; whether any has it.
    pub(crate) fn fill_mount(&self, id: &str, folder: &std::path::Path) -> bool {
        let take = |source: &Source| -> Result<()> {
            let none = || Error::new(Kind::NotFound, "a cache inline has no mounts");
            let location = source.place.labelled(&travel::label(id))?.ok_or_else(none)?;
            travel::unpack(self.store, &self.reader.open(&location)?, id, folder)
        };
        for source in &self.sources {
            match take(source) {
                Ok(()) => return true,
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => {
                    self.progress.note(&format!("a cache's mount `{id}` is passed over: {}", error.chain()));
                    // What arrived of it is no cache.
                    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
                        let _ = if is_dir {
                            std::fs::remove_dir_all(entry.path())
                        } else {
                            std::fs::remove_file(entry.path())
                        };
                    }
                }
            }
        }
        false
    }

    fn find_in(&self, source: &Source, key: &Key) -> Result<Option<Outcome>> {
        if let (Some((entry, blob)), Some(image)) = (source.inline.get(&key.name()), &source.image) {
            return self.take(image, entry, blob.as_ref()).map(Some);
        }
        if !*source.keyed.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(None);
        }
        let Some(location) = source.place.entry(key)? else { return Ok(None) };
        let image = self.reader.open(&location)?;
        let entry = entries(&image).into_iter().find(|entry| entry.key == key.name());
        let Some(entry) = entry else {
            return Err(Error::new(Kind::Corrupt, format!("`{location}` is not the result it is named after")));
        };
        self.take(&image, &entry, image.manifest().layers.first()).map(Some)
    }

    /// Fetches the layer of a result as an archive of the store.
    fn take(&self, image: &Opened, entry: &Entry, blob: Option<&Descriptor>) -> Result<Outcome> {
        let outcome = Outcome { layer: entry.layer, created: entry.created.clone() };
        let (Some(layer), Some(blob)) = (entry.layer, blob) else {
            return match entry.layer {
                None => Ok(outcome),
                Some(_) => Err(Error::new(Kind::Corrupt, "a result of a cache has lost its layer")),
            };
        };
        if self.store.blob_size(&layer.diff_id.0) == Some(layer.size) {
            return Ok(outcome);
        }
        let expected = Descriptor::new(media_type::OCI_LAYER, layer.diff_id.0, layer.size);
        let mut out = self.store.blob_writer(Some(&expected))?;
        let mut plain = decompress(image.blob(blob)?)?;
        io::copy(&mut plain, &mut out).and_then(|_| out.flush()).context(|| "fetch a layer of a cache")?;
        out.commit()?;
        Ok(outcome)
    }
}

impl Source {
    fn of(place: CachePlace, image: Opened) -> Self {
        let document: Value = serde_json::from_slice(image.config()).unwrap_or_default();
        let keyed = document[DOCUMENT_KEY]["keyed"] == Value::Bool(true);
        let ids: Vec<DiffId> =
            ImageConfig::parse(image.config()).and_then(|config| config.diff_ids()).unwrap_or_default();
        let layers: HashMap<Digest, &Descriptor> = ids.iter().map(|id| id.0).zip(&image.manifest().layers).collect();
        let blob = |entry: &Entry| entry.layer.and_then(|layer| layers.get(&layer.diff_id.0).copied().cloned());
        let inline = entries(&image).into_iter().map(|entry| (entry.key.clone(), (blob(&entry), entry)));
        let inline = inline.map(|(key, (blob, entry))| (key, (entry, blob))).collect();
        Self { place, keyed: Mutex::new(keyed), inline, image: Some(image) }
    }
}

fn entries(image: &Opened) -> Vec<Entry> {
    let document: Value = serde_json::from_slice(image.config()).unwrap_or_default();
    serde_json::from_value(document[DOCUMENT_KEY]["results"].clone()).unwrap_or_default()
}

/// The list for an image's configuration.
pub(crate) fn inline(used: &[Used]) -> Value {
    document(used.iter().map(entry).collect(), false)
}

fn entry(used: &Used) -> Entry {
    Entry { key: used.key.name(), created: used.outcome.created.clone(), layer: used.outcome.layer }
}

fn document(results: Vec<Entry>, keyed: bool) -> Value {
    let mut document = Map::new();
    if keyed {
        document.insert("keyed".to_owned(), true.into());
    }
    document.insert("results".to_owned(), serde_json::to_value(results).unwrap_or_default());
    Value::Object(document)
}

/// Writes the results to a place, each that is not there yet, the mark last.
///
/// # Errors
/// One could not be written; the others were tried.
pub(crate) fn export(
    store: &Store,
    to: &CacheTo,
    used: &[Used],
    mounts: &[(String, PathBuf)],
    options: &copy::Options,
    progress: &Progress,
) -> Result<()> {
    let Some(mark) = to.place.location() else { return Ok(()) };
    let id = progress.start(&format!("exporting the cache to {mark}"));
    let options = copy::Options { recompress: to.compression, ..options.clone() };
    let written = write_all(store, to, used, &options).and_then(|()| {
        let manifest = put_image(store, None, true)?;
        send(store, &manifest, &mark, &options)?;
        let note = |text: String| progress.log(id, Stream::Out, format!("{text}\n").as_bytes());
        travel::export(store, to, mounts, &options, &note)
    });
    let end = written.as_ref().map_or_else(|error| End::Failed(error.chain()), |()| End::Done);
    progress.log(id, Stream::Out, format!("{} results\n", used.len()).as_bytes());
    progress.end(id, &end);
    written
}

fn write_all(store: &Store, to: &CacheTo, used: &[Used], options: &copy::Options) -> Result<()> {
    // A layout is written by one at a time: its index is one file.
    let threads = if matches!(to.place, CachePlace::Registry(_)) { PARALLEL } else { 1 };
    let (next, failed) = (std::sync::atomic::AtomicUsize::new(0), Mutex::new(None));
    let one = |used: &Used| -> Result<()> {
        let Some(location) = to.place.entry(&used.key)? else { return Ok(()) };
        send(store, &put_image(store, Some(used), false)?, &location, options)
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.min(used.len()) {
            scope.spawn(|| {
                while let Some(used) = used.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    if let Err(error) = one(used) {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        return;
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// The documents of a result, or of a mark.
fn put_image(store: &Store, used: Option<&Used>, keyed: bool) -> Result<Descriptor> {
    let mut config = ImageConfig::scratch(&Platform::host());
    let layer = used.and_then(|used| used.outcome.layer);
    if let Some(layer) = layer {
        config.push_layer(Some(layer.diff_id), Map::new());
    }
    let results = used.map(entry).into_iter().collect();
    config.document_mut().insert(DOCUMENT_KEY.to_owned(), document(results, keyed));
    let (descriptor, bytes) = config.to_blob();
    store.put_blob(&bytes)?;
    let layers = layer.map(|layer| Descriptor::new(media_type::OCI_LAYER, layer.diff_id.0, layer.size));
    let bytes = Manifest::new(descriptor, layers.into_iter().collect()).to_bytes();
    store.put_blob(&bytes)?;
    Ok(Descriptor::of(media_type::OCI_MANIFEST, &bytes))
}

pub(super) fn send(store: &Store, manifest: &Descriptor, to: &Location, options: &copy::Options) -> Result<()> {
    if let Location::Registry(name) = to {
        return copy::push(store, manifest, name, options, &Silent).map(drop);
    }
    let own: Reference = "localhost/cache-export".parse()?;
    let own = own.with_digest(manifest.digest);
    store.tag(&own, manifest)?;
    let done = copy::transfer(&Location::Store(own.to_string()), to, Some(store), options, &Silent);
    store.untag(&own)?;
    done.map(drop)
}
