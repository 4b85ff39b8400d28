//! `docker-archive:`: what `docker save` writes and `docker load` reads.
//!
//! Source: docker's "image specification v1.2" (`manifest.json`, `Config`, `RepoTags`, `Layers`). The format holds
//! configurations and uncompressed layers but no manifests. Reading makes an OCI manifest of each image, whose layers
//! are named by their diff IDs; writing unpacks each layer on its way into the file.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use layerfs::archive::decompress;
use layerfs::digest::{Algorithm, DiffId, Digest, Hashed};
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::{Descriptor, ImageConfig, Manifest, media_type};
use layerfs::reference::Reference;
use serde::{Deserialize, Serialize};

use super::tar_file::{TarFile, TarOutput};
use super::{Opener, Sent, Sink, Source, read_document};
use crate::inventory::Inventory;
use crate::location::{Place, Selector};
use crate::stream::{Chunks, FromRead, Start, ToRead};

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An archive being read: one of its images, as an OCI image.
pub(crate) struct DockerArchiveSource {
    archive: TarFile,
    root: (Descriptor, Vec<u8>),
    members: HashMap<Digest, String>,
}

impl DockerArchiveSource {
    /// Opens the archive, finds the image and makes its manifest.
    pub(crate) fn open(place: &Place) -> Result<Self> {
        let archive = TarFile::open(&place.path)?;
        let bytes = archive.read("manifest.json").map_err(|error| match error.kind() {
            Kind::NotFound if archive.has("index.json") => {
                error.hint("this looks like an OCI layout: name it by oci-archive:")
            }
            _ => error,
        })?;
        let images: Vec<Image> = serde_json::from_slice(&bytes)
            .context(|| format!("`manifest.json` in `{}` is malformed", place.path.display()))?;
        let image = choose(&images, place)?;
        let config = archive.read(&image.config)?;
        let parsed = ImageConfig::parse(&config).context(|| format!("read `{}`", image.config))?;
        let diff_ids = parsed.diff_ids()?;
        if diff_ids.len() != image.layers.len() {
            let sentence = format!(
                "image in `{}` has {} layers but its config has {}",
                place.path.display(),
                image.layers.len(),
                diff_ids.len()
            );
            return Err(Error::new(Kind::Corrupt, sentence));
        }
        let config_descriptor = Descriptor::of(media_type::OCI_CONFIG, &config);
        let mut members = HashMap::from([(config_descriptor.digest, image.config.clone())]);
        let mut layers = Vec::new();
        for (member, diff_id) in image.layers.iter().zip(diff_ids) {
            let layer = layer(&archive, member, diff_id)?;
            members.insert(layer.digest, member.clone());
            layers.push(layer);
        }
        let bytes = Manifest::new(config_descriptor, layers).to_bytes();
        let root = (Descriptor::of(media_type::OCI_MANIFEST, &bytes), bytes);
        Ok(Self { archive, root, members })
    }

    fn member(&self, descriptor: &Descriptor) -> Result<&str> {
        let missing = || Error::new(Kind::NotFound, format!("the archive has no blob `{}`", descriptor.digest));
        self.members.get(&descriptor.digest).map(String::as_str).ok_or_else(missing)
    }
}

/// The names of all images in an archive, in its order.
pub(crate) fn names(path: &Path) -> Result<Vec<String>> {
    let bytes = TarFile::open(path)?.read("manifest.json")?;
    let images: Vec<Image> =
        serde_json::from_slice(&bytes).context(|| format!("`manifest.json` in `{}` is malformed", path.display()))?;
    Ok(images.into_iter().flat_map(|image| image.repo_tags.unwrap_or_default()).collect())
}

/// A layer's descriptor. Nearly always the member is a plain tar, whose digest the configuration states; some tools
/// write compressed ones, which have to be read once to be named.
fn layer(archive: &TarFile, member: &str, diff_id: DiffId) -> Result<Descriptor> {
    use std::io::Read;
    let mut start = [0; 4];
    let mut reader = archive.reader(member)?;
    let n = reader.read(&mut start).context(|| format!("read `{member}`"))?;
    let media_type = match start[..n] {
        [0x1f, 0x8b, ..] => media_type::OCI_LAYER_GZIP,
        [0x28, 0xb5, 0x2f, 0xfd] => media_type::OCI_LAYER_ZSTD,
        _ => return Ok(Descriptor::new(media_type::OCI_LAYER, diff_id.0, archive.size(member)?)),
    };
    let mut hashed = Hashed::new(archive.reader(member)?, Algorithm::Sha256);
    std::io::copy(&mut hashed, &mut std::io::sink()).context(|| format!("read `{member}`"))?;
    let (_, digest, size) = hashed.finish();
    Ok(Descriptor::new(media_type, digest, size))
}

fn choose<'a>(images: &'a [Image], place: &Place) -> Result<&'a Image> {
    let path = place.path.display();
    let tags = |image: &Image| image.repo_tags.clone().unwrap_or_default();
    let names = || {
        let names: Vec<String> = images.iter().flat_map(tags).collect();
        if names.is_empty() { "none of them has a name".to_owned() } else { format!("it has: {}", names.join(", ")) }
    };
    match (&place.image, images) {
        (_, []) => Err(Error::new(Kind::NotFound, format!("archive `{path}` has no image"))),
        (Selector::Only, [only]) => Ok(only),
        (Selector::Only, many) => Err(Error::new(Kind::Usage, format!("archive `{path}` has {} images", many.len()))
            .hint(format!("choose one by `:NAME` or `:@POSITION`; {}", names()))),
        (Selector::At(at), all) => all.get(*at).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("archive `{path}` has {} images, none at position {at}", all.len()))
        }),
        (Selector::Named(name), all) => {
            // Names in the archive may be short; both sides are compared in full.
            let full =
                |tag: &String| tag.parse::<Reference>().map_or_else(|_| tag.clone(), |tag| tag.or_latest().to_string());
            let has = |image: &&Image| tags(image).iter().map(full).any(|tag| tag == *name);
            all.iter().find(has).ok_or_else(|| {
                Error::new(Kind::NotFound, format!("archive `{path}` has no image `{name}`")).hint(names())
            })
        }
    }
}

impl Source for DockerArchiveSource {
    fn root(&self) -> Result<(Descriptor, Vec<u8>)> {
        Ok(self.root.clone())
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.archive.read(self.member(descriptor)?)
    }

    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Chunks>> {
        self.archive.open_member(self.member(blob)?)
    }
}

/// An archive being written.
pub(crate) struct DockerArchiveSink {
    out: Mutex<Option<Arc<TarOutput>>>,
    tags: Vec<String>,
    image: Mutex<Option<Prepared>>,
}

struct Prepared {
    manifest: Manifest,
    config: Vec<u8>,
    diff_ids: Vec<DiffId>,
}

impl DockerArchiveSink {
    /// Begins the archive. `additional` are more names for the image.
    pub(crate) fn create(place: &Place, additional: &[Reference]) -> Result<Self> {
        let mut tags = match &place.image {
            Selector::Only => Vec::new(),
            Selector::Named(name) => vec![name.clone()],
            Selector::At(_) => {
                let sentence = format!("`docker-archive:{place}` names a position, which a destination cannot have");
                return Err(Error::new(Kind::Usage, sentence));
            }
        };
        tags.extend(additional.iter().map(ToString::to_string));
        Ok(Self { out: Mutex::new(Some(TarOutput::create(&place.path)?.into())), tags, image: Mutex::default() })
    }

    fn out(&self) -> Result<Arc<TarOutput>> {
        let out = self.out.lock().unwrap_or_else(PoisonError::into_inner).clone();
        out.ok_or_else(|| Error::new(Kind::Conflict, "the archive is finished already"))
    }
}

impl Sink for DockerArchiveSink {
    fn is_current(&self, _root: &Descriptor) -> Result<bool> {
        Ok(false)
    }

    fn prepare(&self, inventory: &Inventory, source: &dyn Source) -> Result<()> {
        let manifest = inventory.single().filter(|manifest| manifest.is_image()).ok_or_else(|| {
            Error::new(Kind::Unsupported, "a docker archive holds images of one platform")
                .hint("choose one by --platform, or write an oci-archive:")
        })?;
        let config = read_document(source, &manifest.config)?;
        let diff_ids = ImageConfig::parse(&config)?.diff_ids()?;
        if diff_ids.len() != manifest.layers.len() {
            let (a, b) = (manifest.layers.len(), diff_ids.len());
            return Err(Error::new(Kind::Corrupt, format!("the image has {a} layers but its config has {b}")));
        }
        let prepared = Prepared { manifest: manifest.clone(), config, diff_ids };
        *self.image.lock().unwrap_or_else(PoisonError::into_inner) = Some(prepared);
        Ok(())
    }

    /// The configuration is written at the end, from memory.
    fn existing(&self, blobs: &[Descriptor]) -> Result<Vec<bool>> {
        Ok(blobs.iter().map(|blob| media_type::is_config(&blob.media_type)).collect())
    }

    fn put_blob(&self, blob: &Descriptor, _from: Option<&str>, open: Opener<'_>) -> Result<Sent> {
        let diff_id = {
            let image = self.image.lock().unwrap_or_else(PoisonError::into_inner);
            let layers = image.iter().flat_map(|image| image.manifest.layers.iter().zip(&image.diff_ids));
            let found = layers.clone().find(|(layer, _)| layer.digest == blob.digest).map(|(_, diff_id)| *diff_id);
            found.ok_or_else(|| Error::new(Kind::Invalid, format!("blob `{}` is not a layer", blob.digest)))?
        };
        let out = self.out()?;
        let member = format!("{}.tar", diff_id.0.hex());
        if blob.digest == diff_id.0 {
            out.add(&member, blob.size, &mut open(Start::BEGIN)?)?;
            return Ok(Sent::Bytes);
        }
        let plain = decompress(ToRead::new(open(Start::BEGIN)?))?;
        let mut checked = Checked {
            chunks: FromRead::new(plain, format!("layer `{}`", blob.digest)),
            hasher: Some(layerfs::digest::Hasher::new(diff_id.0.algorithm())),
            diff_id,
        };
        out.add_unsized(&member, &mut checked)?;
        Ok(Sent::Bytes)
    }

    fn put_document(&self, descriptor: &Descriptor, _bytes: &[u8]) -> Result<()> {
        Err(Error::new(Kind::Invalid, format!("a docker archive has no place for document `{}`", descriptor.digest)))
    }

    fn finish(&self, _root: &Descriptor, _bytes: &[u8]) -> Result<()> {
        let image = self.image.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Prepared { config, diff_ids, .. } =
            image.ok_or_else(|| Error::new(Kind::Conflict, "the archive was not prepared"))?;
        let name = format!("{}.json", Digest::of(&config).hex());
        let entry = Image {
            config: name.clone(),
            repo_tags: Some(self.tags.clone()),
            layers: diff_ids.iter().map(|diff_id| format!("{}.tar", diff_id.0.hex())).collect(),
        };
        let out = self.out()?;
        out.add_bytes(&name, &config)?;
        out.add_bytes("manifest.json", &serde_json::to_vec(&[entry]).context(|| "write `manifest.json`")?)?;
        drop(out);
        let out = self.out.lock().unwrap_or_else(PoisonError::into_inner).take();
        match out.and_then(Arc::into_inner) {
            Some(out) => out.finish(),
            None => Err(Error::new(Kind::Conflict, "the archive is still being written")),
        }
    }
}

/// An uncompressed layer whose size is unknown, checked against its diff ID at its end.
struct Checked<C> {
    chunks: C,
    hasher: Option<layerfs::digest::Hasher>,
    diff_id: DiffId,
}

impl<C: Chunks> Chunks for Checked<C> {
    fn next_chunk(&mut self) -> Result<Option<bytes::Bytes>> {
        let chunk = self.chunks.next_chunk()?;
        match (&chunk, &mut self.hasher) {
            (Some(chunk), Some(hasher)) => hasher.update(chunk),
            (None, hasher) => {
                let found = hasher.take().map(layerfs::digest::Hasher::finish);
                if found.is_some_and(|found| found != self.diff_id.0) {
                    let sentence = format!("a layer unpacks to other bytes than its diff ID `{}` says", self.diff_id);
                    return Err(Error::new(Kind::Corrupt, sentence));
                }
            }
            (Some(_), None) => {}
        }
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tags: &[&[&str]], place: &str, expected: Option<usize>) {
        let image = |tags: &&[&str]| Image {
            config: String::new(),
            repo_tags: Some(tags.iter().map(|tag| (*tag).to_owned()).collect()),
            layers: Vec::new(),
        };
        let images: Vec<Image> = tags.iter().map(image).collect();
        let crate::Location::DockerArchive(place) = format!("docker-archive:x{place}").parse().expect("valid") else {
            panic!("a docker archive")
        };
        let found =
            choose(&images, &place).ok().map(|found| images.iter().position(|image| std::ptr::eq(image, found)));
        assert_eq!(found.flatten(), expected, "{place}");
    }

    #[test]
    fn images_are_chosen_by_name_or_position() {
        check(&[&[]], "", Some(0));
        check(&[&["app:1"], &["app:2", "other"]], "", None);
        check(&[&["app:1"], &["app:2", "other"]], ":app:2", Some(1));
        check(&[&["app:1"], &["docker.io/library/app:2"]], ":docker.io/library/app:1", Some(0));
        check(&[&["app:1"], &["app:2", "other"]], ":other", Some(1));
        check(&[&["app:1"], &["app:2"]], ":@1", Some(1));
        check(&[&["app:1"], &["app:2"]], ":@2", None);
        check(&[], "", None);
    }
}
