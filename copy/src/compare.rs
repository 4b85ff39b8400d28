//! Comparing: whether two repositories hold the same, and in what two images differ.

use std::collections::{BTreeMap, BTreeSet};

use layerfs::digest::Digest;
use layerfs::error::{Error, Kind, Result};
use layerfs::oci::{Descriptor, Document};
use serde_json::{Value, json};

use crate::companions::{self, is_digest_tag};
use crate::inventory::{self, Platforms};
use crate::registry::{Access, Repository};
use crate::transport::registry::RegistrySource;
use crate::transport::{Source, read_document};
use crate::work;

/// Questions that are asked at the same time.
const PARALLEL: usize = 24;

/// One thing that is not the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Difference {
    /// What it is about: a tag, a digest, a key.
    pub(crate) object: String,
    /// What the first has, where it has it.
    pub(crate) first: Option<String>,
    /// What the second has, where it has it.
    pub(crate) second: Option<String>,
}

impl Difference {
    pub(crate) fn to_json(&self) -> Value {
        json!({ "object": self.object, "first": self.first, "second": self.second })
    }
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Looked {
    pub(crate) tags: usize,
    pub(crate) referrers: usize,
    pub(crate) blobs: usize,
}

/// Compares the names of two repositories, what refers to their images, and, unless that is not wanted, asks the second
/// for every blob of its images.
pub(crate) fn repositories(
    first: &RegistrySource,
    second: &RegistrySource,
    blobs: bool,
) -> Result<(Vec<Difference>, Looked)> {
    let tags = |source: &RegistrySource| {
        let mut tags = source.tags()?;
        // A list of referrers under a tag is another form of what is compared below.
        tags.retain(|tag| !is_digest_tag(tag) || tag.contains('.'));
        let heads = work::map(&tags, PARALLEL, |tag| digest_of(source.repository_handle(), tag))?;
        Ok::<_, Error>(tags.into_iter().zip(heads).collect::<BTreeMap<_, _>>())
    };
    let (ours, theirs) = std::thread::scope(|scope| {
        let theirs = scope.spawn(|| tags(second));
        let cut = |_| Err(Error::new(Kind::Interrupted, "the comparison was cut off"));
        (tags(first), theirs.join().unwrap_or_else(cut))
    });
    let (ours, theirs) = (ours?, theirs?);
    let mut looked = Looked { tags: ours.len().max(theirs.len()), ..Looked::default() };
    let mut found = Vec::new();
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    for name in names {
        let (a, b) = (ours.get(name), theirs.get(name));
        if a != b {
            let text = |digest: Option<&Digest>| digest.map(ToString::to_string);
            found.push(Difference { object: format!("tag {name}"), first: text(a), second: text(b) });
        }
    }
    let roots: BTreeSet<String> = theirs.values().map(ToString::to_string).collect();
    let roots: Vec<String> = roots.into_iter().collect();
    let parts = work::map(&roots, PARALLEL, |digest| {
        let source = second.tagged(digest);
        let root = inventory::select(&source, source.root()?, &Platforms::All)?;
        inventory::take(&source, root, &Platforms::All).map(Some).or_else(|error| match error.kind() {
            // A sparse index: what it names is not there on purpose, and was not in the first either.
            Kind::NotFound => Ok(None),
            _ => Err(error),
        })
    })?;
    let mut subjects: BTreeSet<String> = BTreeSet::new();
    let mut all: BTreeMap<String, Descriptor> = BTreeMap::new();
    for inventory in parts.iter().flatten() {
        subjects.extend(companions::subjects(inventory).iter().map(ToString::to_string));
        all.extend(inventory.blobs.iter().map(|blob| (blob.digest.to_string(), blob.clone())));
    }
    let subjects: Vec<String> = subjects.into_iter().collect();
    let lists = work::map(&subjects, PARALLEL, |subject| {
        let subject: Digest = subject.parse()?;
        let list = |source: &RegistrySource| {
            let found = source.repository_handle().referrers(subject)?.0;
            Ok::<_, Error>(found.into_iter().map(|entry| entry.digest.to_string()).collect::<BTreeSet<_>>())
        };
        Ok((list(first)?, list(second)?))
    })?;
    for (subject, (a, b)) in subjects.iter().zip(lists) {
        looked.referrers += a.len().max(b.len());
        for referrer in a.symmetric_difference(&b) {
            let has = |set: &BTreeSet<String>| set.contains(referrer).then(|| referrer.clone());
            found.push(Difference { object: format!("referrer of {subject}"), first: has(&a), second: has(&b) });
        }
    }
    if blobs {
        let all: Vec<Descriptor> = all.into_values().filter(|blob| blob.urls.is_empty()).collect();
        looked.blobs = all.len();
        let there = second.repository_handle().existing(&all)?;
        for (blob, _) in all.iter().zip(there).filter(|(_, there)| !there) {
            let size = Some(format!("{} bytes", blob.size));
            found.push(Difference { object: format!("blob {}", blob.digest), first: size, second: None });
        }
    }
    Ok((found, looked))
}

fn digest_of(repository: &Repository, tag: &str) -> Result<Digest> {
    match repository.head(tag, Access::Pull)? {
        Some(head) => Ok(head.digest),
        None => Ok(repository.manifest(tag)?.0.digest),
    }
}

/// In what two images differ: the documents themselves, their platforms, or layers and configuration.
pub(crate) fn images(first: &dyn Source, second: &dyn Source, platforms: &Platforms) -> Result<Vec<Difference>> {
    let read = |source: &dyn Source| inventory::select(source, source.root()?, platforms);
    let (a, b) = (read(first)?, read(second)?);
    if a.descriptor.digest == b.descriptor.digest {
        return Ok(Vec::new());
    }
    let mut found = vec![Difference {
        object: "digest".to_owned(),
        first: Some(a.descriptor.digest.to_string()),
        second: Some(b.descriptor.digest.to_string()),
    }];
    let mut facts = [BTreeMap::new(), BTreeMap::new()];
    for ((source, entry), facts) in [(first, &a), (second, &b)].into_iter().zip(&mut facts) {
        facts.insert("mediaType".to_owned(), entry.descriptor.media_type.clone());
        match &entry.document {
            Some(Document::Index(index)) => {
                for child in &index.manifests {
                    let platform = child.platform.as_ref().map_or_else(|| "unknown".to_owned(), ToString::to_string);
                    let key = match child.annotation("vnd.docker.reference.type") {
                        Some(kind) => {
                            format!("{kind} of {}", child.annotation("vnd.docker.reference.digest").unwrap_or_default())
                        }
                        None => format!("platform {platform}"),
                    };
                    facts.insert(key, child.digest.to_string());
                }
                flatten("annotations", &Value::Object(index.annotations.clone()), facts);
            }
            Some(Document::Manifest(manifest)) => {
                for (place, layer) in manifest.layers.iter().enumerate() {
                    facts.insert(format!("layer {place:03}"), format!("{} ({} bytes)", layer.digest, layer.size));
                }
                flatten("annotations", &Value::Object(manifest.annotations.clone()), facts);
                let config: Value =
                    serde_json::from_slice(&read_document(source, &manifest.config)?).unwrap_or(Value::Null);
                flatten("config", &config, facts);
            }
            None => {}
        }
    }
    let [ours, theirs] = facts;
    let keys: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    for key in keys {
        let (a, b) = (ours.get(key), theirs.get(key));
        if a != b {
            found.push(Difference { object: key.clone(), first: a.cloned(), second: b.cloned() });
        }
    }
    Ok(found)
}

/// A document as one line per value.
fn flatten(path: &str, value: &Value, facts: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| flatten(&format!("{path}.{key}"), value, facts)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, value)| flatten(&format!("{path}[{at:03}]"), value, facts));
        }
        Value::String(text) => drop(facts.insert(path.to_owned(), text.clone())),
        value => drop(facts.insert(path.to_owned(), value.to_string())),
    }
}
