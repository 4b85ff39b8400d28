//! What can be said of an image besides what is in it: `--sbom` and `--provenance`.
//!
//! Nothing of the kind is made unless it is asked for. What is made never becomes part of the image: in a registry it is a
//! manifest of its own that refers to the image (OCI 1.1, "referrers"), beside an exported folder it is a file. So the
//! image's digest is the same with it and without.

mod packages;
mod provenance;
mod rpm;
mod sbom;
mod sqlite;

use std::fs;
use std::path::Path;

use layerfs::digest::Digest;
use layerfs::error::{Context, Result};
use layerfs::oci::{Descriptor, Manifest, Platform, media_type};
use layerfs::reference::Reference;
use serde_json::{Value, json};

use crate::engine::Made;
use crate::options::BuildOptions;
use crate::schedule::Engine;

/// The kind of artifact that such a manifest is, and the type of what it holds.
const IN_TOTO: &str = "application/vnd.in-toto+json";
/// The configuration of an artifact that has none.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// The annotation that tells statements apart without reading them.
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";

/// How much a provenance says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// What was built from what.
    Min,
    /// The arguments and the Dockerfile too.
    Max,
}

/// What is said of one image.
pub(crate) struct Statement {
    /// The file that it becomes beside an exported folder.
    file: &'static str,
    predicate_type: &'static str,
    predicate: Value,
    platform: Platform,
}

/// What is asked for, of each image that was made.
///
/// # Errors
/// An image's files cannot be read.
pub(crate) fn statements(engine: &Engine<'_>, made: &[Made], options: &BuildOptions) -> Result<Vec<Statement>> {
    let mut statements = Vec::new();
    for one in made {
        let platform = one.platform.clone();
        if options.sbom {
            let view = one.result.stack.view(engine.store)?;
            let predicate = sbom::document(&view, &one.image.id, &created(engine))?;
            let (file, predicate_type) = ("sbom.spdx.json", sbom::PREDICATE_TYPE);
            statements.push(Statement { file, predicate_type, predicate, platform: platform.clone() });
        }
        if let Some(mode) = options.provenance {
            let predicate = provenance::document(engine, &platform, options, mode);
            let (file, predicate_type) = ("provenance.json", provenance::PREDICATE_TYPE);
            statements.push(Statement { file, predicate_type, predicate, platform });
        }
    }
    Ok(statements)
}

fn created(engine: &Engine<'_>) -> String {
    crate::time::rfc3339(engine.clock.created())
}

impl Statement {
    /// The statement about `subjects`, each a name and a digest.
    fn about(&self, subjects: &[(String, Digest)]) -> Vec<u8> {
        let subject = |(name, digest): &(String, Digest)| json!({"name": name, "digest": {digest.algorithm().name(): digest.hex()}});
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": subjects.iter().map(subject).collect::<Vec<_>>(),
            "predicateType": self.predicate_type,
            "predicate": self.predicate,
        });
        statement.to_string().into_bytes()
    }
}

/// Sends the statements after an image that is in its registry.
///
/// # Errors
/// The registry refuses one, or the store cannot be written.
pub(crate) fn send(
    engine: &Engine<'_>,
    statements: &[Statement],
    image: &Descriptor,
    name: &Reference,
    options: &copy::Options,
) -> Result<()> {
    let store = engine.store;
    store.put_blob(b"{}")?;
    for statement in statements {
        let platform = statement.platform.to_string().replace('/', "%2F");
        let tag = name.tag().map_or_else(String::new, |tag| format!("@{tag}"));
        let purl = format!(
            "pkg:docker/{}{tag}?platform={platform}",
            name.familiar().split([':', '@']).next().unwrap_or_default()
        );
        let bytes = statement.about(&[(purl, image.digest)]);
        store.put_blob(&bytes)?;
        let mut layer = Descriptor::of(IN_TOTO, &bytes);
        layer.annotations.insert(PREDICATE_TYPE.to_owned(), statement.predicate_type.into());
        let mut manifest = Manifest::new(Descriptor::of(EMPTY, b"{}"), vec![layer]);
        manifest.artifact_type = Some(IN_TOTO.to_owned());
        manifest.subject = Some(Descriptor::new(&image.media_type, image.digest, image.size));
        manifest.annotations.insert(PREDICATE_TYPE.to_owned(), statement.predicate_type.into());
        manifest.annotations.insert("org.opencontainers.image.created".to_owned(), created(engine).into());
        let bytes = manifest.to_bytes();
        store.put_blob(&bytes)?;
        let manifest = Descriptor::of(media_type::OCI_MANIFEST, &bytes);
        let options = copy::Options { recompress: Some(copy::Recompress::Never), format: None, ..options.clone() };
        copy::push_untagged(store, &manifest, name, &options, &layerfs::progress::Silent)?;
    }
    Ok(())
}

/// Writes the statements beside files that were exported to `folder`; of several platforms into the folder of each.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn write(statements: &[Statement], image: Digest, folder: &Path, several: bool) -> Result<()> {
    for statement in statements {
        let mut path = folder.to_owned();
        if several {
            path.push(statement.platform.to_string().replace('/', "_"));
        }
        path.push(statement.file);
        fs::write(&path, statement.about(&[("image".to_owned(), image)])).at("write", &path)?;
    }
    Ok(())
}
