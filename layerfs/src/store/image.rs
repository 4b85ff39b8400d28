//! Images: from a name to a checked manifest and configuration.

use super::{Listed, Store};
use crate::digest::{DiffId, Digest};
use crate::error::{Context, Error, Kind, Result};
use crate::oci::{Descriptor, Document, ImageConfig, Manifest, Platform, media_type};
use crate::reference::Reference;

/// Deepest nesting of indexes that is followed.
pub(super) const INDEX_DEPTH: usize = 8;

/// What a name or an id led to.
#[derive(Clone, Debug)]
pub struct Found {
    /// The name, where it was found by one, or has one.
    pub name: Option<Reference>,
    /// The manifest or index.
    pub descriptor: Descriptor,
}

/// An image of one platform, its documents checked against each other.
#[derive(Clone, Debug)]
pub struct Image {
    /// The manifest's descriptor.
    pub manifest_descriptor: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
    /// The configuration.
    pub config: ImageConfig,
    /// The layers' diff IDs, as many as the manifest has layers, lowest first.
    pub diff_ids: Vec<DiffId>,
}

impl Image {
    /// The image's id: the digest of its configuration.
    pub fn id(&self) -> Digest {
        self.manifest.config.digest
    }

    /// The layers, lowest first.
    pub fn layers(&self) -> impl Iterator<Item = (&Descriptor, DiffId)> {
        self.manifest.layers.iter().zip(self.diff_ids.iter().copied())
    }
}

impl Store {
    /// Finds an image by name (`debian` is looked for as `docker.io/library/debian`, then as `localhost/debian`), by
    /// digest, or by the beginning of its id.
    ///
    /// # Errors
    /// `NotFound`, or `Conflict` where the beginning of an id fits several images.
    pub fn find(&self, text: &str) -> Result<Found> {
        let named = text.parse::<Reference>();
        if let Ok(name) = &named {
            let mut candidates = vec![name.clone().or_latest()];
            let first = text.split('/').next().unwrap_or_default();
            let has_host = text.contains('/') && (first.contains(['.', ':']) || first == "localhost");
            if !has_host && let Ok(local) = format!("localhost/{text}").parse::<Reference>() {
                candidates.push(local.or_latest());
            }
            for candidate in candidates {
                if let Some(descriptor) = self.resolve(&candidate)? {
                    return Ok(Found { name: Some(candidate), descriptor });
                }
            }
            if let Some(digest) = name.digest()
                && let Some(found) = self.find_digest(digest)?
            {
                return Ok(found);
            }
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if hex.len() >= 4
            && hex.len() <= 64
            && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            && let Some(found) = self.find_id(hex)?
        {
            return Ok(found);
        }
        // A name that is none is told as such, unless it could be an id.
        named?;
        Err(Error::new(Kind::NotFound, format!("image `{text}` is not in the store"))
            .hint("`copy images` lists what is there"))
    }

    fn find_digest(&self, digest: Digest) -> Result<Option<Found>> {
        let refs = self.refs()?.into_iter();
        Ok(refs
            .filter(|(_, d)| d.digest == digest)
            .map(|(name, descriptor)| Found { name: Some(name), descriptor })
            .next())
    }

    fn find_id(&self, hex: &str) -> Result<Option<Found>> {
        let mut found: Option<(Digest, Found)> = None;
        for Listed { name, target: descriptor, summary } in self.listed()? {
            // An artifact, or an image of another platform, has only its own digest.
            let id = summary.map_or(descriptor.digest, |image| image.id);
            if !id.hex().starts_with(hex) && !descriptor.digest.hex().starts_with(hex) {
                continue;
            }
            match &found {
                Some((other, _)) if *other != id => {
                    return Err(Error::new(Kind::Conflict, format!("`{hex}` is the beginning of several image ids"))
                        .hint("write more of it"));
                }
                Some(_) => {}
                None => found = Some((id, Found { name: Some(name), descriptor })),
            }
        }
        Ok(found.map(|(_, found)| found))
    }

    /// The image that `descriptor` stands for on `platform`.
    ///
    /// # Errors
    /// A document is missing or malformed, an index has no such platform, or the configuration lists another number
    /// of layers than the manifest.
    pub fn image(&self, descriptor: &Descriptor, platform: &Platform) -> Result<Image> {
        let mut current = descriptor.clone();
        for _ in 0..INDEX_DEPTH {
            let bytes = self.read_document(&current)?;
            let digest = current.digest;
            match Document::parse(&bytes, Some(&current.media_type)).context(|| format!("read {digest}"))? {
                Document::Manifest(manifest) => return self.checked(current, manifest),
                Document::Index(index) => {
                    let chosen = index.select(platform).cloned();
                    current = chosen.ok_or_else(|| {
                        let offered: Vec<String> = index
                            .manifests
                            .iter()
                            .filter_map(|d| d.platform.as_ref())
                            .map(ToString::to_string)
                            .collect();
                        Error::new(Kind::NotFound, format!("image {digest} has no {platform}"))
                            .hint(format!("it has: {}", offered.join(", ")))
                    })?;
                }
            }
        }
        Err(Error::new(Kind::Limit, format!("index {} nests deeper than {INDEX_DEPTH}", descriptor.digest)))
    }

    fn checked(&self, manifest_descriptor: Descriptor, manifest: Manifest) -> Result<Image> {
        let digest = manifest_descriptor.digest;
        if !manifest.is_image() {
            let kind = manifest.artifact_type.as_deref().unwrap_or(&manifest.config.media_type);
            return Err(Error::new(Kind::Invalid, format!("manifest {digest} is not an image but `{kind}`")));
        }
        let config = ImageConfig::parse(&self.read_document(&manifest.config)?)
            .context(|| format!("read config {}", manifest.config.digest))?;
        let diff_ids = config.diff_ids()?;
        if let Some(layer) = manifest.layers.iter().find(|layer| !media_type::is_layer(&layer.media_type)) {
            let sentence = format!("manifest {digest} has a layer of the unknown type `{}`", layer.media_type);
            return Err(Error::new(Kind::Unsupported, sentence));
        }
        if diff_ids.len() != manifest.layers.len() {
            let (a, b) = (manifest.layers.len(), diff_ids.len());
            return Err(Error::new(Kind::Corrupt, format!("manifest {digest} has {a} layers but its config has {b}")));
        }
        Ok(Image { manifest_descriptor, manifest, config, diff_ids })
    }
}
