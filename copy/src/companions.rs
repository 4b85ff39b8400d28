//! What belongs to an image without being part of it: manifests that refer to it (signatures, attestations, lists of
//! contents), and tags made of its digest, in which cosign keeps the same things.

use std::collections::HashSet;

use layerfs::digest::Digest;
use layerfs::error::{Error, Kind, Result};
use layerfs::oci::{Descriptor, Document};

use crate::inventory::{self, Inventory};
use crate::registry::Repository;
use crate::registry::lists::fallback_tag;

/// Referrers of referrers are followed so deep.
const DEPTH_MAX: usize = 8;
/// More referrers than any image has.
const REFERRERS_MAX: usize = 10_000;

/// Which companions are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Companions {
    /// Manifests that refer to the image.
    pub referrers: bool,
    /// Tags made of digests of the image.
    pub digest_tags: bool,
}

impl Companions {
    /// None.
    pub const NONE: Self = Self { referrers: false, digest_tags: false };
    /// All.
    pub const ALL: Self = Self { referrers: true, digest_tags: true };

    /// Whether any are wanted.
    pub fn any(self) -> bool {
        self.referrers || self.digest_tags
    }
}

/// All manifests that refer to one of `subjects`, directly or through one another; those referred to come first.
pub(crate) fn referrers(repository: &Repository, subjects: &[Digest]) -> Result<Vec<Descriptor>> {
    let (mut found, mut seen) = (Vec::new(), subjects.iter().copied().collect::<HashSet<_>>());
    let mut level = subjects.to_vec();
    for _ in 0..DEPTH_MAX {
        let lists = crate::work::map(&level, 8, |subject| Ok(repository.referrers(*subject)?.0))?;
        let fresh: Vec<Descriptor> = lists.into_iter().flatten().filter(|entry| seen.insert(entry.digest)).collect();
        if fresh.is_empty() {
            return Ok(found);
        }
        level = fresh.iter().map(|entry| entry.digest).collect();
        found.extend(fresh);
        if found.len() > REFERRERS_MAX {
            return Err(Error::new(Kind::Limit, format!("the image has more than {REFERRERS_MAX} referrers")));
        }
    }
    Ok(found)
}

/// All documents of an image: what somebody may have signed.
pub(crate) fn subjects(inventory: &Inventory) -> Vec<Digest> {
    inventory.levels.iter().flatten().map(|entry| entry.descriptor.digest).collect()
}

/// Of `tags`, those that are made of one of `digests`, except the bare form: a list of referrers is kept up to date by
/// whoever writes a referrer.
pub(crate) fn digest_tags<'a>(tags: &'a [String], digests: &[Digest]) -> Vec<&'a String> {
    let stems: HashSet<String> = digests.iter().copied().map(fallback_tag).collect();
    let belongs = |tag: &&String| tag.split_once('.').is_some_and(|(stem, _)| stems.contains(stem));
    tags.iter().filter(belongs).collect()
}

/// Whether a tag is made of a digest at all.
pub(crate) fn is_digest_tag(tag: &str) -> bool {
    let stem = tag.split('.').next().unwrap_or_default();
    stem.split_once('-').is_some_and(|(algorithm, hex)| {
        matches!(algorithm, "sha256" | "sha512") && hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// Notes in the destination that `document` refers to its subject, where the registry keeps no such list itself.
pub(crate) fn note_referrer(repository: &Repository, document: &Descriptor, bytes: &[u8]) -> Result<()> {
    let entry = inventory::parse(document.clone(), bytes.to_vec())?;
    let (subject, kind, annotations) = match entry.document {
        Some(Document::Manifest(manifest)) => {
            let kind = manifest.artifact_type.unwrap_or(manifest.config.media_type);
            (manifest.subject, Some(kind), manifest.annotations)
        }
        Some(Document::Index(index)) => (index.subject, index.artifact_type, index.annotations),
        None => return Ok(()),
    };
    let Some(subject) = subject else { return Ok(()) };
    let mut descriptor = Descriptor::new(&document.media_type, document.digest, document.size);
    (descriptor.artifact_type, descriptor.annotations) = (kind, annotations);
    repository.add_referrer(subject.digest, descriptor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_made_of_digests() {
        let digest = Digest::of(b"x");
        let tag = |end: &str| format!("sha256-{}{end}", digest.hex());
        let tags = [tag(".sig"), tag(""), "1.0".to_owned(), format!("sha256-{}.att", Digest::of(b"y").hex())];
        assert_eq!(digest_tags(&tags, &[digest]), [&tags[0]]);
        assert!(
            is_digest_tag(&tags[0]) && is_digest_tag(&tags[1]) && !is_digest_tag("1.0") && !is_digest_tag("sha256-x")
        );
    }
}
