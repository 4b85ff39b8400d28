//! Changes to an image itself: its settings, annotations, times and layers.
//!
//! Every manifest of an image for several platforms is changed alike, and the index names the new ones.

use std::collections::HashMap;

use layerfs::digest::{DiffId, Digest};
use layerfs::error::{Error, Kind, Result};
use layerfs::oci::{Descriptor, Document, ImageConfig, Manifest, media_type};
use serde_json::{Map, Value, json};

use crate::inventory::{Entry, Inventory};
use crate::stream::{Chunks, FromRead};
use crate::transport::{Source, read_document};

/// What is changed. Plain data; the default changes nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edits {
    /// Labels to set; without a value, to remove.
    pub(crate) labels: Vec<(String, Option<String>)>,
    /// Annotations of manifests to set; without a value, to remove.
    pub(crate) annotations: Vec<(String, Option<String>)>,
    /// Variables of the environment to set; without a value, to remove.
    pub(crate) env: Vec<(String, Option<String>)>,
    /// The program, and its words.
    pub(crate) entrypoint: Option<Vec<String>>,
    /// The words a container gets by default.
    pub(crate) cmd: Option<Vec<String>>,
    /// Texts of the settings, such as `User`, by their key.
    pub(crate) texts: Vec<(&'static str, String)>,
    /// Ports such as `80/tcp`.
    pub(crate) ports: Vec<String>,
    /// The platform.
    pub(crate) platform: Option<layerfs::oci::Platform>,
    /// All times in the configuration become this one.
    pub(crate) timestamp: Option<String>,
    /// The image's own layers go, with their history: those below take their place.
    pub(crate) flatten: bool,
    /// Layers put on top.
    pub(crate) layers: Vec<NewLayer>,
    /// The lowest layers are replaced by those of another image.
    pub(crate) rebase: Option<Rebase>,
}

/// A layer that is put on top of an image.
#[derive(Clone, Debug)]
pub(crate) struct NewLayer {
    pub(crate) descriptor: Descriptor,
    pub(crate) diff_id: DiffId,
    pub(crate) path: std::path::PathBuf,
}

/// A base and the one that takes its place.
#[derive(Clone, Debug)]
pub(crate) struct Rebase {
    /// Layers of the old base, which the image has to begin with.
    pub(crate) old: Vec<Digest>,
    /// Entries of history of the old base.
    pub(crate) old_history: usize,
    /// The new base's manifest and configuration.
    pub(crate) new: (Manifest, ImageConfig),
}

/// A source, its changed documents, and what came into it from elsewhere.
pub(crate) struct Edited<'a> {
    inner: &'a dyn Source,
    base: Option<&'a dyn Source>,
    made: HashMap<Digest, Vec<u8>>,
    files: HashMap<Digest, std::path::PathBuf>,
    of_base: HashMap<Digest, ()>,
}

impl Source for Edited<'_> {
    fn root(&self) -> Result<(Descriptor, Vec<u8>)> {
        self.inner.root()
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        match self.made.get(&descriptor.digest) {
            Some(bytes) => Ok(bytes.clone()),
            None => self.inner.document(descriptor),
        }
    }

    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Chunks>> {
        use layerfs::error::Context;
        if let Some(bytes) = self.made.get(&blob.digest) {
            return Ok(Box::new(FromRead::new(std::io::Cursor::new(bytes.clone()), "a configuration")));
        }
        if let Some(path) = self.files.get(&blob.digest) {
            let file = std::fs::File::open(path).at("open", path)?;
            return Ok(Box::new(FromRead::new(file, format!("`{}`", path.display()))));
        }
        match self.base.filter(|_| self.of_base.contains_key(&blob.digest)) {
            Some(base) => base.open(blob),
            None => self.inner.open(blob),
        }
    }

    fn is_made_here(&self, blob: &Descriptor) -> bool {
        let digest = &blob.digest;
        self.made.contains_key(digest) || self.files.contains_key(digest) || self.of_base.contains_key(digest)
    }

    fn repository(&self) -> Option<(&str, &str)> {
        // What is new is in no repository: a mount that fails costs nothing but a question.
        self.inner.repository()
    }
}

/// The image with its changes. `base` is where the new base of a [`Rebase`] is read from.
pub(crate) fn edit<'a>(
    source: &'a dyn Source,
    base: Option<&'a dyn Source>,
    inventory: Inventory,
    edits: &Edits,
) -> Result<(Edited<'a>, Inventory)> {
    let files = edits.layers.iter().map(|layer| (layer.descriptor.digest, layer.path.clone())).collect();
    let mut edited = Edited { inner: source, base, made: HashMap::new(), files, of_base: HashMap::new() };
    if let Some(rebase) = &edits.rebase {
        edited.of_base.extend(rebase.new.0.layers.iter().map(|layer| (layer.digest, ())));
    }
    let mut levels = inventory.levels;
    let mut renamed: HashMap<Digest, Descriptor> = HashMap::new();
    let mut changed_any = false;
    for entry in levels.iter_mut().rev().flatten() {
        let old = entry.descriptor.digest;
        let new = match &entry.document {
            Some(Document::Manifest(manifest)) if manifest.is_image() => {
                let mut manifest = manifest.clone();
                change(&mut edited, &mut manifest, edits)?;
                changed_any = true;
                Document::Manifest(manifest)
            }
            Some(Document::Index(index)) => {
                let mut index = index.clone();
                for child in &mut index.manifests {
                    if let Some(new) = renamed.get(&child.digest) {
                        (child.digest, child.size) = (new.digest, new.size);
                        child.platform = edits.platform.clone().or(child.platform.take());
                    }
                }
                apply(&mut index.annotations, &edits.annotations);
                Document::Index(index)
            }
            _ => continue,
        };
        *entry = entry_of(new);
        renamed.insert(old, entry.descriptor.clone());
    }
    if !changed_any {
        return Err(Error::new(Kind::Unsupported, "there is no image to change, only artifacts"));
    }
    let mut seen = std::collections::HashSet::new();
    let manifests = levels.iter().flatten().filter_map(|entry| match &entry.document {
        Some(Document::Manifest(manifest)) => Some(manifest),
        _ => None,
    });
    let parts = manifests.flat_map(|manifest| std::iter::once(&manifest.config).chain(&manifest.layers));
    let blobs = parts.filter(|blob| seen.insert(blob.digest)).cloned().collect();
    Ok((edited, Inventory { levels, blobs }))
}

fn entry_of(document: Document) -> Entry {
    let bytes = match &document {
        Document::Manifest(manifest) => manifest.to_bytes(),
        Document::Index(index) => index.to_bytes(),
    };
    Entry { descriptor: Descriptor::of(document.media_type(), &bytes), bytes, document: Some(document) }
}

fn change(edited: &mut Edited<'_>, manifest: &mut Manifest, edits: &Edits) -> Result<()> {
    let mut config = ImageConfig::parse(&read_document(edited.inner, &manifest.config)?)?;
    if let Some(rebase) = &edits.rebase {
        move_base(manifest, &mut config, rebase)?;
    }
    if edits.flatten {
        manifest.layers.clear();
        let document = config.document_mut();
        document.insert("rootfs".to_owned(), json!({ "type": "layers", "diff_ids": [] }));
        document.insert("history".to_owned(), json!([]));
    }
    let settings = config.settings_mut();
    pairs(settings, "Labels", &edits.labels);
    if !edits.env.is_empty() {
        let mut env = config.strings("Env").unwrap_or_default();
        for (key, value) in &edits.env {
            let place = env.iter().position(|pair| pair.split('=').next() == Some(key));
            match (place, value) {
                (Some(place), Some(value)) => env[place] = format!("{key}={value}"),
                (Some(place), None) => drop(env.remove(place)),
                (None, Some(value)) => env.push(format!("{key}={value}")),
                (None, None) => {}
            }
        }
        config.set_strings("Env", Some(&env));
    }
    for (key, words) in [("Entrypoint", &edits.entrypoint), ("Cmd", &edits.cmd)] {
        if let Some(words) = words {
            config.set_strings(key, Some(words));
        }
    }
    edits.texts.iter().for_each(|(key, text)| config.set_text(key, text));
    if !edits.ports.is_empty() {
        let ports = config.settings_mut().entry("ExposedPorts").or_insert_with(|| json!({}));
        if let Value::Object(ports) = ports {
            edits.ports.iter().for_each(|port| drop(ports.insert(port.clone(), json!({}))));
        }
    }
    if let Some(platform) = &edits.platform {
        let document = config.document_mut();
        document.insert("architecture".to_owned(), platform.architecture.clone().into());
        document.insert("os".to_owned(), platform.os.clone().into());
        match &platform.variant {
            Some(variant) => drop(document.insert("variant".to_owned(), variant.clone().into())),
            None => drop(document.shift_remove("variant")),
        }
    }
    for layer in &edits.layers {
        let mut descriptor = layer.descriptor.clone();
        if manifest.media_type.as_deref() == Some(media_type::DOCKER_MANIFEST) {
            descriptor.media_type = match descriptor.media_type.as_str() {
                media_type::OCI_LAYER_GZIP => media_type::DOCKER_LAYER_GZIP.to_owned(),
                media_type::OCI_LAYER => media_type::DOCKER_LAYER.to_owned(),
                other => other.to_owned(),
            };
        }
        manifest.layers.push(descriptor);
        let entry = Map::from_iter([(
            "created_by".to_owned(),
            Value::from(if edits.flatten { "copy mutate --flatten" } else { "copy mutate --append" }),
        )]);
        config.push_layer(Some(layer.diff_id), entry);
    }
    if let Some(timestamp) = &edits.timestamp {
        let document = config.document_mut();
        document.insert("created".to_owned(), timestamp.clone().into());
        for entry in document.get_mut("history").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(entry) = entry.as_object_mut().filter(|entry| entry.contains_key("created")) {
                entry.insert("created".to_owned(), timestamp.clone().into());
            }
        }
    }
    apply(&mut manifest.annotations, &edits.annotations);
    let (mut descriptor, bytes) = config.to_blob();
    descriptor.media_type.clone_from(&manifest.config.media_type);
    manifest.config = descriptor.clone();
    edited.made.insert(descriptor.digest, bytes);
    Ok(())
}

fn apply(map: &mut Map<String, Value>, changes: &[(String, Option<String>)]) {
    for (key, value) in changes {
        match value {
            Some(value) => drop(map.insert(key.clone(), value.clone().into())),
            None => drop(map.shift_remove(key)),
        }
    }
}

/// Changes pairs under a key of the settings, where there are changes.
fn pairs(settings: &mut Map<String, Value>, key: &str, changes: &[(String, Option<String>)]) {
    if changes.is_empty() {
        return;
    }
    let mut map = settings.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
    apply(&mut map, changes);
    settings.insert(key.to_owned(), Value::Object(map));
}

/// Puts the layers of another base below those that are the image's own.
fn move_base(manifest: &mut Manifest, config: &mut ImageConfig, rebase: &Rebase) -> Result<()> {
    let begins: Vec<Digest> = manifest.layers.iter().take(rebase.old.len()).map(|layer| layer.digest).collect();
    if begins != rebase.old {
        return Err(Error::new(Kind::Invalid, "the image does not begin with the layers of the old base"));
    }
    let count = rebase.old.len();
    let (new, new_config) = &rebase.new;
    let own_layers = manifest.layers.split_off(count);
    manifest.layers.clone_from(&new.layers);
    manifest.layers.extend(own_layers);
    let own: Vec<DiffId> = config.diff_ids()?.into_iter().skip(count).collect();
    let diff_ids: Vec<String> =
        new_config.diff_ids()?.into_iter().chain(own).map(|diff_id| diff_id.0.to_string()).collect();
    let list =
        |config: &ImageConfig| config.document().get("history").and_then(Value::as_array).cloned().unwrap_or_default();
    let history: Vec<Value> =
        list(new_config).into_iter().chain(list(config).into_iter().skip(rebase.old_history)).collect();
    let document = config.document_mut();
    document.insert("rootfs".to_owned(), json!({ "type": "layers", "diff_ids": diff_ids }));
    document.insert("history".to_owned(), history.into());
    Ok(())
}
