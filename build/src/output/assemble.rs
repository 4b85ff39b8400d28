//! The image's configuration and manifest.

use layerfs::digest::Digest;
use layerfs::error::Result;
use layerfs::oci::{Descriptor, ImageConfig, Manifest, media_type};
use serde_json::Map;

use crate::cache::{self, About, CachePlace, DOCUMENT_KEY, KeyBuilder, Outcome};
use crate::graph::Graph;
use crate::options::{BuildOptions, Level};
use crate::schedule::{Engine, StageResult};
use crate::time::rfc3339;

/// An image whose documents are in the store.
#[derive(Clone, Debug)]
pub(crate) struct Assembled {
    /// The digest of its configuration.
    pub(crate) id: Digest,
    /// Its manifest.
    pub(crate) manifest: Descriptor,
}

/// Writes the documents of the target's image.
///
/// # Errors
/// The store cannot be written.
pub(crate) fn assemble(
    engine: &Engine<'_>,
    graph: &Graph,
    result: &StageResult,
    options: &BuildOptions,
) -> Result<Assembled> {
    let mut config = graph.target().config.clone();
    let created = created(engine, &config, &result.history)?;
    for (created_by, outcome) in &result.history {
        let mut history = Map::new();
        let time = outcome.as_ref().map_or(&created, |outcome| &outcome.created);
        history.insert("created".to_owned(), time.as_str().into());
        history.insert("created_by".to_owned(), created_by.as_str().into());
        config.push_layer(outcome.as_ref().and_then(|outcome| outcome.layer).map(|layer| layer.diff_id), history);
    }
    config.document_mut().insert("created".to_owned(), created.into());
    if options.cache_to.iter().any(|to| to.place == CachePlace::Inline) {
        let used = engine.used_by(Some(&crate::graph::chain(graph)));
        config.document_mut().insert(DOCUMENT_KEY.to_owned(), cache::inline(&used));
    }
    if options.omit_history {
        config.document_mut().shift_remove("history");
    }
    let (config_descriptor, bytes) = config.to_blob();
    engine.store.put_blob(&bytes)?;
    let layers = result.stack.blobs().into_iter().map(as_oci).collect();
    let mut manifest = Manifest::new(config_descriptor.clone(), layers);
    for annotation in options.annotations.iter().filter(|one| one.level == Level::Manifest) {
        manifest.annotations.insert(annotation.key.clone(), annotation.value.as_str().into());
    }
    let bytes = manifest.to_bytes();
    engine.store.put_blob(&bytes)?;
    Ok(Assembled { id: config_descriptor.digest, manifest: Descriptor::of(media_type::OCI_MANIFEST, &bytes) })
}

/// When the image was made: what an earlier build of the very same image stated, else now. So a build that finds
/// everything in the cache makes the same bytes.
fn created(engine: &Engine<'_>, config: &ImageConfig, history: &[(String, Option<Outcome>)]) -> Result<String> {
    if let Some(epoch) = engine.clock.epoch {
        return Ok(rfc3339(epoch));
    }
    let lines = history.iter().map(|(created_by, outcome)| format!("{created_by} {outcome:?}"));
    let key = KeyBuilder::new("image/1").with("config", config.to_bytes()).with_all("step", lines).finish();
    if let Some(known) = engine.records.find(&key)? {
        return Ok(known.created);
    }
    let outcome = Outcome { layer: None, created: rfc3339(crate::time::now()) };
    engine.records.keep(&key, &outcome, About { title: "image", ..About::default() })?;
    Ok(outcome.created)
}

/// Layers of a docker image keep their bytes and get OCI's name for them: an OCI manifest names no other.
fn as_oci(mut layer: Descriptor) -> Descriptor {
    let oci = match layer.media_type.as_str() {
        media_type::DOCKER_LAYER_GZIP => media_type::OCI_LAYER_GZIP,
        media_type::DOCKER_LAYER => media_type::OCI_LAYER,
        _ => return layer,
    };
    oci.clone_into(&mut layer.media_type);
    layer
}
