//! Taking names and images out of a registry.

use std::time::{SystemTime, UNIX_EPOCH};

use layerfs::digest::Digest;
use layerfs::error::{Error, Kind, Result};
use layerfs::oci::{Descriptor, Document, ImageConfig, Index, Manifest, Platform, media_type};

use crate::registry::{Access, Repository};
use crate::retention::{Removal, Tagged};
use crate::stream::{FromRead, read_all};
use crate::time;
use crate::work;

/// Tags that are asked for at once.
const PARALLEL: usize = 16;

/// Removes a tag and nothing else: other tags of the same image stay.
///
/// Registries that only know how to remove a manifest would remove all its tags. There the tag is first moved to a
/// manifest of its own, which then goes.
pub(crate) fn delete_tag(repository: &Repository, tag: &str) -> Result<()> {
    let name = format!("{}/{}:{tag}", repository.host(), repository.path());
    if repository.head(tag, Access::Pull)?.is_none() && !repository.tags()?.iter().any(|known| known == tag) {
        return Err(Error::new(Kind::NotFound, format!("delete `{name}`: there is no such tag")));
    }
    if repository.delete_tag(tag)? {
        return Ok(());
    }
    let config = Descriptor::of(media_type::OCI_EMPTY, b"{}");
    repository.put_blob(&config, None, &|_| Ok(Box::new(FromRead::new(&b"{}"[..], "an empty document"))))?;
    let moment = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_nanos());
    let mut stand_in = Manifest::new(config.clone(), vec![config]);
    stand_in.artifact_type = Some("application/vnd.layerfs.deleted.v1".to_owned());
    let about = format!("{name} {moment} {}", std::process::id());
    stand_in.annotations.insert("org.layerfs.deleted".to_owned(), about.into());
    let bytes = stand_in.to_bytes();
    let descriptor = Descriptor::of(media_type::OCI_MANIFEST, &bytes);
    repository.put_manifest(tag, &descriptor, &bytes)?;
    repository.delete_manifest(descriptor.digest)
}

/// Carries a removal out.
pub(crate) fn remove(repository: &Repository, removal: &Removal) -> Result<()> {
    match removal {
        Removal::Tag(tag) => delete_tag(repository, tag),
        Removal::Manifest(digest, tags) => match repository.delete_manifest(*digest) {
            // Where manifests cannot be removed, names may be.
            Err(error) if error.kind() == Kind::Unsupported => {
                tags.iter().try_for_each(|tag| delete_tag(repository, tag)).map_err(|_| error)
            }
            result => result,
        },
    }
}

/// All tags of a repository, with what has to be known before any of them may go.
pub(crate) fn survey(repository: &Repository) -> Result<Vec<Tagged>> {
    let tags = repository.tags()?;
    work::map(&tags, PARALLEL, |tag| {
        let (descriptor, bytes) = repository.manifest(tag)?;
        let entry = crate::inventory::parse(descriptor, bytes)?;
        let digest = entry.descriptor.digest;
        let (needs, created) = match &entry.document {
            Some(Document::Manifest(manifest)) => {
                (manifest.subject.iter().map(|subject| subject.digest).collect(), created(repository, manifest)?)
            }
            Some(Document::Index(index)) => {
                let needs: Vec<Digest> =
                    index.manifests.iter().chain(&index.subject).map(|child| child.digest).collect();
                (needs, created_of_index(repository, index)?)
            }
            None => (Vec::new(), None),
        };
        let referred = !repository.referrers(digest)?.0.is_empty();
        Ok(Tagged { name: tag.clone(), digest, created, needs, referred })
    })
}

/// When the image behind a tag was made, for an index its first one.
pub(crate) fn created_at(repository: &Repository, tag: &str) -> Result<Option<i64>> {
    let (descriptor, bytes) = repository.manifest(tag)?;
    match crate::inventory::parse(descriptor, bytes)?.document {
        Some(Document::Manifest(manifest)) => created(repository, &manifest),
        Some(Document::Index(index)) => created_of_index(repository, &index),
        None => Ok(None),
    }
}

fn created_of_index(repository: &Repository, index: &Index) -> Result<Option<i64>> {
    let Some(child) = index.select(&Platform::host()).or(index.manifests.first()) else { return Ok(None) };
    if !media_type::is_manifest(&child.media_type) {
        return Ok(None);
    }
    match Document::parse(&repository.manifest(&child.digest.to_string())?.1, None)? {
        Document::Manifest(manifest) => created(repository, &manifest),
        Document::Index(_) => Ok(None),
    }
}

/// When an image was made. A reproducible image states the first second of some epoch, which says nothing.
fn created(repository: &Repository, manifest: &Manifest) -> Result<Option<i64>> {
    if !manifest.is_image() {
        let stated = manifest.annotations.get("org.opencontainers.image.created").and_then(|value| value.as_str());
        return Ok(stated.and_then(time::parse_rfc3339));
    }
    let bytes = read_all(&mut repository.open_blob(&manifest.config), manifest.config.size)?;
    let config = ImageConfig::parse(&bytes)?;
    let stated = config.document().get("created").and_then(|value| value.as_str()).and_then(time::parse_rfc3339);
    Ok(stated.filter(|moment| *moment > 0))
}
