//! `inspect` and `list-tags`.

use layerfs::digest::Digest;
use layerfs::error::{Error, Kind, Result};
use layerfs::oci::{Descriptor, Document, ImageConfig, Manifest, media_type};
use layerfs::progress::Silent;
use serde_json::{Map, Value, json};

use super::arguments::{Access, PlatformChoice};
use super::{Global, print, print_bytes, print_json_as_skopeo, template};
use crate::inventory::{Platforms, select};
use crate::location::Location;
use crate::transfer::Reach;
use crate::transport::{Source, read_document};

/// The arguments of `copy inspect`.
#[derive(Debug, clap::Args)]
pub(super) struct InspectArguments {
    /// Where the image is
    image: String,
    /// Print the manifest or index as it is, bit by bit
    #[arg(long)]
    raw: bool,
    /// Print the configuration; with --raw as it is, bit by bit
    #[arg(long)]
    config: bool,
    /// List the repository's tags too
    #[arg(long)]
    tags: bool,
    /// Do not list tags (the default)
    #[arg(long, short, hide = true)]
    no_tags: bool,
    /// Print only this, such as {{.Digest}}
    #[arg(long, short, value_name = "TEMPLATE")]
    format: Option<String>,
    #[command(flatten)]
    platform: PlatformChoice,
    #[command(flatten)]
    access: Access,
}

impl InspectArguments {
    /// Reads the image's documents and prints them.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        self.access
            .with_source(global, &self.image, |reach, location, source| self.show(global, reach, location, source))
    }

    fn show(&self, global: &Global, reach: &Reach<'_>, location: &Location, source: &dyn Source) -> Result<()> {
        let root = source.root()?;
        if self.raw && !self.config {
            let chosen = match self.platform.platforms(global) {
                Platforms::Auto => root.1,
                wanted => select(source, root, &wanted)?.bytes,
            };
            // Not a byte more: the digest of the output is the image's.
            return print_bytes(&chosen);
        }
        let digest = root.0.digest;
        let entry = select(source, root, &Platforms::One(self.platform.one(global)?))?;
        let Some(Document::Manifest(manifest)) = entry.document else {
            return Err(Error::new(
                Kind::Unsupported,
                format!("`{location}` is of the unknown type `{}`", entry.descriptor.media_type),
            )
            .hint("`--raw` prints it"));
        };
        let config = read_document(source, &manifest.config)?;
        let document = match (self.raw, self.config) {
            (true, true) => return print_bytes(&config),
            (false, true) => in_usual_order(serde_json::from_slice(&config).unwrap_or(Value::Null)),
            _ => {
                let wants_tags = self.tags || (global.is_skopeo() && !self.no_tags);
                let tags = match (location, wants_tags) {
                    (Location::Registry(name), true) => Some(reach.registry_source(name)?.tags()?),
                    _ => None,
                };
                summary(location, digest, &manifest, &config, tags)?
            }
        };
        match &self.format {
            Some(format) => print(&template::render(format, &document)?),
            None => print_json_as_skopeo(&document),
        }
    }
}

/// A configuration with its keys in the order of the image specification; those it does not know follow.
fn in_usual_order(config: Value) -> Value {
    const TOP: [&str; 10] = [
        "created",
        "author",
        "architecture",
        "variant",
        "os",
        "os.version",
        "os.features",
        "config",
        "rootfs",
        "history",
    ];
    const SETTINGS: [&str; 9] =
        ["User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal"];
    fn sorted(value: Value, first: &[&str]) -> Value {
        let Value::Object(mut map) = value else { return value };
        let mut out = Map::new();
        for key in first {
            out.extend(map.shift_remove(*key).map(|value| ((*key).to_owned(), value)));
        }
        out.extend(map);
        Value::Object(out)
    }
    let mut config = sorted(config, &TOP);
    if let Some(settings) = config.get_mut("config") {
        *settings = sorted(settings.take(), &SETTINGS);
    }
    config
}

/// What `skopeo inspect` prints, in its order.
fn summary(
    location: &Location,
    digest: Digest,
    manifest: &Manifest,
    config: &[u8],
    tags: Option<Vec<String>>,
) -> Result<Value> {
    let mut out = Map::new();
    if let Location::Registry(name) = location {
        out.insert("Name".to_owned(), name.repository().into());
    }
    out.insert("Digest".to_owned(), digest.to_string().into());
    out.insert("RepoTags".to_owned(), tags.unwrap_or_default().into());
    if media_type::is_config(&manifest.config.media_type) {
        let config = ImageConfig::parse(config)?;
        let top = |key: &str| config.document().get(key).cloned().unwrap_or(Value::Null);
        let setting =
            |key: &str| config.settings().and_then(|settings| settings.get(key)).cloned().unwrap_or(Value::Null);
        let text = |value: Value| if value.is_null() { "".into() } else { value };
        out.insert("Created".to_owned(), top("created"));
        out.insert("DockerVersion".to_owned(), text(top("docker_version")));
        out.insert("Labels".to_owned(), setting("Labels"));
        out.insert("Architecture".to_owned(), top("architecture"));
        if !top("variant").is_null() {
            out.insert("Variant".to_owned(), top("variant"));
        }
        out.insert("Os".to_owned(), top("os"));
        let env = setting("Env");
        insert_layers(&mut out, &manifest.layers);
        out.insert("Env".to_owned(), env);
    } else {
        out.insert("MediaType".to_owned(), manifest.media_type.clone().into());
        let kind = manifest.artifact_type.as_deref().unwrap_or(&manifest.config.media_type);
        out.insert("ArtifactType".to_owned(), kind.into());
        insert_layers(&mut out, &manifest.layers);
    }
    Ok(out.into())
}

fn insert_layers(out: &mut Map<String, Value>, layers: &[Descriptor]) {
    let digests: Vec<Value> = layers.iter().map(|layer| layer.digest.to_string().into()).collect();
    let data = layers.iter().map(|layer| {
        let annotations = if layer.annotations.is_empty() { Value::Null } else { layer.annotations.clone().into() };
        json!({
            "MIMEType": layer.media_type,
            "Digest": layer.digest,
            "Size": layer.size,
            "Annotations": annotations,
        })
    });
    out.insert("Layers".to_owned(), digests.into());
    out.insert("LayersData".to_owned(), data.collect());
}

/// The arguments of `copy list-tags`.
#[derive(Debug, clap::Args)]
pub(super) struct ListTagsArguments {
    /// The repository
    repository: String,
    #[command(flatten)]
    access: Access,
}

impl ListTagsArguments {
    /// Prints the tags as JSON.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        let options = self.access.options(global)?;
        let reach = Reach::new(&options, &Silent)?;
        let location = reach.locate(&self.repository)?;
        if let Location::DockerArchive(place) = &location {
            let tags = crate::transport::docker_archive::names(&place.path)?;
            return print_json_as_skopeo(&json!({ "Tags": tags }));
        }
        let Location::Registry(name) = location else {
            return Err(Error::new(Kind::Usage, format!("`{}` is not a repository", self.repository)));
        };
        let tags = reach.registry_source(&name)?.tags()?;
        print_json_as_skopeo(&json!({ "Repository": name.repository(), "Tags": tags }))
    }
}
