//! `--provenance`: from what, and by what, an image was built, as SLSA provenance v1.
//!
//! The names below `externalParameters` and `internalParameters` are BuildKit's, so that those who read its statements
//! find the same here.

use std::collections::BTreeSet;

use layerfs::oci::Platform;
use serde_json::{Map, Value, json};

use super::Provenance;
use crate::dockerfile::remote::Remote;
use crate::graph::BaseImage;
use crate::options::{BuildOptions, DockerfileSource};
use crate::schedule::Engine;
use crate::time::rfc3339;

/// What the statement is about.
pub(super) const PREDICATE_TYPE: &str = "https://slsa.dev/provenance/v1";
/// What the parameters mean.
const BUILD_TYPE: &str = "https://mobyproject.org/buildkit@v1";

/// The document of the image for `platform`.
pub(super) fn document(engine: &Engine<'_>, platform: &Platform, options: &BuildOptions, mode: Provenance) -> Value {
    let path = match &options.dockerfile {
        DockerfileSource::File(path) => {
            path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
        }
        _ => "Dockerfile".to_owned(),
    };
    let mut source = json!({"path": path});
    if let Some(remote) = &options.remote_context {
        source["uri"] = match remote {
            Remote::File(url) => url.as_str(),
            Remote::Git(git) => git.url.as_str(),
        }
        .into();
    }
    let mut internal = json!({"builderPlatform": Platform::host().to_string()});
    let mut arguments = Map::new();
    if let Some(target) = &options.graph.target {
        arguments.insert("target".to_owned(), target.as_str().into());
    }
    if mode == Provenance::Max {
        for (name, value) in &options.graph.build_args {
            // Proxies may hold passwords, and are no part of what is built.
            if !name.to_ascii_lowercase().ends_with("_proxy") {
                arguments.insert(format!("build-arg:{name}"), value.as_str().into());
            }
        }
        for (name, value) in &options.graph.labels {
            arguments.insert(format!("label:{name}"), value.as_str().into());
        }
        internal["dockerfile"] = String::from_utf8_lossy(engine.source.text()).into();
    }
    let images: BTreeSet<&BaseImage> = engine.images.keys().collect();
    let dependency = |base: &&BaseImage| {
        let image = &engine.images[*base];
        let platform = base.platform.replace('/', "%2F");
        json!({
            "uri": format!("pkg:docker/{}?platform={platform}", base.name),
            "digest": {"sha256": image.manifest_descriptor.digest.hex()},
        })
    };
    let secrets: Vec<Value> = options.secrets.iter().map(|secret| json!({"id": secret.id})).collect();
    let agents: Vec<Value> = options.agents.iter().map(|(id, _)| json!({"id": id})).collect();
    json!({
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "configSource": source,
                "request": {
                    "frontend": "dockerfile.v0",
                    "args": arguments,
                    "platform": platform.to_string(),
                    "secrets": secrets,
                    "ssh": agents,
                },
            },
            "internalParameters": internal,
            "resolvedDependencies": images.iter().map(dependency).collect::<Vec<_>>(),
        },
        "runDetails": {
            "builder": {"id": "", "version": {"layerfs-build": env!("CARGO_PKG_VERSION")}},
            "metadata": {
                "startedOn": rfc3339(engine.clock.epoch.unwrap_or(engine.clock.now)),
                "finishedOn": rfc3339(engine.clock.created()),
            },
        },
    })
}
