//! `mutate`, `export` and `index`: images made of images.

use std::path::{Path, PathBuf};

use layerfs::archive::{Compression, decompress};
use layerfs::digest::{Algorithm, DiffId, Hashed};
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::{Descriptor, Document, ImageConfig, Index, Manifest, Platform, media_type};
use layerfs::progress::Silent;

use super::arguments::{Access, PlatformChoice};
use super::progress::Reporter;
use super::{Global, print};
use crate::edit::{Edits, NewLayer, Rebase, edit};
use crate::inventory::{self, Inventory, Platforms, select};
use crate::location::Location;
use crate::merge::merge;
use crate::time;
use crate::transfer::Reach;
use crate::transport::{NewFile, Source, read_document};

/// The arguments of `copy mutate`.
#[derive(Debug, clap::Args)]
pub(super) struct MutateArguments {
    /// The image
    source: String,
    /// Where the changed image goes
    #[arg(long, short, value_name = "DESTINATION", visible_alias = "to")]
    tag: String,
    /// Set a label, or remove it where there is no `=`
    #[arg(long, short, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Set an annotation of the manifest, or remove it
    #[arg(long, short, value_name = "KEY[=VALUE]")]
    annotation: Vec<String>,
    /// Set a variable of the environment, or remove it
    #[arg(long, short, value_name = "KEY[=VALUE]")]
    env: Vec<String>,
    /// The program, in words separated by commas
    #[arg(long, value_name = "WORDS", value_delimiter = ',')]
    entrypoint: Option<Vec<String>>,
    /// The program's words, separated by commas
    #[arg(long, value_name = "WORDS", value_delimiter = ',')]
    cmd: Option<Vec<String>>,
    /// The user
    #[arg(long, short, value_name = "USER")]
    user: Option<String>,
    /// The folder a container begins in
    #[arg(long, short, value_name = "DIR")]
    workdir: Option<String>,
    /// The signal that ends a container
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// State a port such as 80/tcp
    #[arg(long, value_name = "PORT")]
    exposed_port: Vec<String>,
    /// State another platform
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    set_platform: Option<Platform>,
    /// Set all times to this one (RFC 3339, or seconds since 1970)
    #[arg(long, value_name = "TIME")]
    timestamp: Option<String>,
    /// Put this layer (a tar, compressed or not) on top
    #[arg(long, value_name = "FILE")]
    append: Vec<PathBuf>,
    /// The base the image was built on ...
    #[arg(long, value_name = "IMAGE", requires = "new_base")]
    old_base: Option<String>,
    /// ... and the one that takes its place
    #[arg(long, value_name = "IMAGE", requires = "old_base")]
    new_base: Option<String>,
    /// Make one layer of all
    #[arg(long, conflicts_with_all = ["append", "old_base"])]
    flatten: bool,
    #[command(flatten)]
    platform: PlatformChoice,
    #[command(flatten)]
    access: Access,
}

impl MutateArguments {
    /// Changes the image on its way to its destination.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        let (source, target): (Location, Location) = (self.source.parse()?, self.tag.parse()?);
        let mut options = self.access.options(global)?;
        let needs_store = [&source, &target].iter().any(|location| matches!(location, Location::Store(_)));
        let store = needs_store.then(|| global.open_store_for(&mut options)).transpose()?.map(|(store, _)| store);
        let reporter = Reporter::for_command(global)?;
        let reach = Reach::new(&options, &reporter)?;
        let signed = reach.check_policy(&source)?;
        let from = reach.source(&source, store.as_ref())?;
        reach.check_signed(&source, &*from, &signed)?;
        let base = self.new_base.as_ref().map(|base| reach.source(&base.parse()?, store.as_ref())).transpose()?;
        let wanted = match self.platform.platforms(global) {
            Platforms::Auto if self.old_base.is_some() || self.flatten => Platforms::Host,
            Platforms::Auto => Platforms::All,
            chosen => chosen,
        };
        let root = select(&*from, from.root()?, &wanted)?;
        let inventory = inventory::take(&*from, root, &wanted)?;
        let scratch = Temporary::new()?;
        let mut edits = self.edits(&scratch.0)?;
        if let (Some(old), Some(new)) = (&self.old_base, &base) {
            let old = reach.source(&old.parse()?, store.as_ref())?;
            let (old, old_config) = image(&*old, &wanted)?;
            edits.rebase = Some(Rebase {
                old: old.layers.iter().map(|layer| layer.digest).collect(),
                old_history: old_config.document().get("history").and_then(|list| list.as_array()).map_or(0, Vec::len),
                new: image(&**new, &wanted)?,
            });
        }
        edits.flatten = self.flatten;
        if self.flatten {
            edits.layers.push(flatten(&*from, &inventory, &scratch.0)?);
        }
        let (edited, inventory) = edit(&*from, base.as_deref(), inventory, &edits)?;
        let digest = reach.write(&edited, inventory, &target, store.as_ref())?;
        reporter.finish();
        print(&format!("{digest}\n"))
    }

    /// What is to change; layers that are made for it lie in `dir`.
    fn edits(&self, dir: &Path) -> Result<Edits> {
        let mut texts = Vec::new();
        for (key, text) in [("User", &self.user), ("WorkingDir", &self.workdir), ("StopSignal", &self.stop_signal)] {
            texts.extend(text.clone().map(|text| (key, text)));
        }
        let timestamp = self.timestamp.as_deref().map(|text| match text.parse::<i64>() {
            Ok(seconds) => Ok(time::format_rfc3339(seconds)),
            Err(_) if time::parse_rfc3339(text).is_some() => Ok(text.to_owned()),
            Err(_) => Err(Error::new(Kind::Usage, format!("`--timestamp {text}` is no time"))
                .hint("write 2026-01-31T00:00:00Z, or seconds since 1970")),
        });
        Ok(Edits {
            labels: changes(&self.label),
            annotations: changes(&self.annotation),
            env: changes(&self.env),
            entrypoint: self.entrypoint.clone(),
            cmd: self.cmd.clone(),
            texts,
            ports: self.exposed_port.clone(),
            platform: self.set_platform.clone(),
            timestamp: timestamp.transpose()?,
            layers: self
                .append
                .iter()
                .enumerate()
                .map(|(at, path)| packed(path, &dir.join(at.to_string())))
                .collect::<Result<_>>()?,
            ..Edits::default()
        })
    }
}

fn changes(texts: &[String]) -> Vec<(String, Option<String>)> {
    let split = |text: &String| match text.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (text.clone(), None),
    };
    texts.iter().map(split).collect()
}

/// A file as a layer, compressed into `target` where it is not: registries should not have plain tars.
fn packed(path: &Path, target: &Path) -> Result<NewLayer> {
    let plain = layer(path)?;
    if plain.descriptor.media_type != media_type::OCI_LAYER {
        return Ok(plain);
    }
    let out = std::io::BufWriter::new(std::fs::File::create(target).at("create", target)?);
    let mut compressor = layerfs::archive::Compressor::new(out, Compression::GZIP)?;
    std::io::copy(&mut std::fs::File::open(path).at("open", path)?, &mut compressor).at("compress", path)?;
    let buffered = compressor.finish()?;
    buffered.into_inner().map_err(std::io::IntoInnerError::into_error).at("write", target)?;
    layer(target)
}

/// A file as a layer: what it is called packed and unpacked.
fn layer(path: &Path) -> Result<NewLayer> {
    let open = || std::fs::File::open(path).at("open", path);
    let mut start = [0; 4];
    let n = std::io::Read::read(&mut open()?, &mut start).at("read", path)?;
    let kind = match start[..n] {
        [0x1f, 0x8b, ..] => media_type::OCI_LAYER_GZIP,
        [0x28, 0xb5, 0x2f, 0xfd] => media_type::OCI_LAYER_ZSTD,
        _ => media_type::OCI_LAYER,
    };
    let mut packed = Hashed::new(open()?, Algorithm::Sha256);
    std::io::copy(&mut packed, &mut std::io::sink()).at("read", path)?;
    let (_, digest, size) = packed.finish();
    let mut plain = Hashed::new(decompress(open()?).at("read", path)?, Algorithm::Sha256);
    std::io::copy(&mut plain, &mut std::io::sink()).at("read", path)?;
    let (_, diff_id, _) = plain.finish();
    Ok(NewLayer { descriptor: Descriptor::new(kind, digest, size), diff_id: DiffId(diff_id), path: path.to_owned() })
}

/// The manifest and the configuration of the one image that is meant.
fn image(source: &dyn Source, wanted: &Platforms) -> Result<(Manifest, ImageConfig)> {
    let entry = select(source, source.root()?, wanted)?;
    let Some(Document::Manifest(manifest)) =
        entry.document.filter(|document| matches!(document, Document::Manifest(m) if m.is_image()))
    else {
        return Err(Error::new(
            Kind::Unsupported,
            format!("`{}` is no image for one platform", entry.descriptor.digest),
        ));
    };
    let config = ImageConfig::parse(&read_document(source, &manifest.config)?)?;
    Ok((manifest, config))
}

/// A temporary folder.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Result<Self> {
        let dir = crate::transport::scratch_folder().join(format!("layerfs-mutate.{}", std::process::id()));
        std::fs::create_dir_all(&dir).at("create", &dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// All layers of an image as one, compressed.
fn flatten(source: &dyn Source, inventory: &Inventory, dir: &Path) -> Result<NewLayer> {
    let manifest = inventory.single().filter(|manifest| manifest.is_image());
    let manifest = manifest.ok_or_else(|| {
        Error::new(Kind::Unsupported, "several platforms have no layers in common").hint("choose one by --platform")
    })?;
    let path = dir.join("layer");
    let file = std::fs::File::create(&path).at("create", &path)?;
    let out = layerfs::archive::Compressor::new(std::io::BufWriter::new(file), Compression::GZIP)?;
    let buffered = merge(source, &manifest.layers, out)?.finish()?;
    buffered.into_inner().map_err(std::io::IntoInnerError::into_error).at("write", &path)?;
    layer(&path)
}

/// The arguments of `copy export`.
#[derive(Debug, clap::Args)]
pub(super) struct ExportArguments {
    /// The image
    image: String,
    /// The tar file to write [default: standard output]
    #[arg(default_value = "-")]
    file: PathBuf,
    #[command(flatten)]
    platform: PlatformChoice,
    #[command(flatten)]
    access: Access,
}

impl ExportArguments {
    /// Writes the image's file system as a tar.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        self.access.with_source(global, &self.image, |reach, location, source| {
            let signed = reach.check_policy(location)?;
            reach.check_signed(location, source, &signed)?;
            self.write(global, source)
        })
    }

    fn write(&self, global: &Global, source: &dyn Source) -> Result<()> {
        let (manifest, _) = image(source, &Platforms::One(self.platform.one(global)?))?;
        if self.file == Path::new("-") {
            let out = std::io::BufWriter::with_capacity(1 << 18, std::io::stdout().lock());
            let mut out = merge(source, &manifest.layers, out)?;
            return std::io::Write::flush(&mut out).context(|| "write to standard output");
        }
        let new = NewFile::create(&self.file)?;
        let out = std::io::BufWriter::with_capacity(1 << 18, &new.file);
        let mut out = merge(source, &manifest.layers, out)?;
        std::io::Write::flush(&mut out).at("write", &self.file)?;
        drop(out);
        new.commit()
    }
}

/// The arguments of `copy index`.
#[derive(Debug, clap::Args)]
pub(super) struct IndexArguments {
    #[command(subcommand)]
    verb: IndexVerb,
}

#[derive(Debug, clap::Subcommand)]
enum IndexVerb {
    /// Make an index of images
    Create(MakeArguments),
    /// Add images to an index
    Append(MakeArguments),
    /// Make an index with some platforms of another
    Filter(FilterArguments),
}

#[derive(Debug, clap::Args)]
struct MakeArguments {
    /// The index
    index: String,
    /// Images, each for its own platform
    #[arg(required = true)]
    images: Vec<String>,
    /// An annotation of the index
    #[arg(long, short, value_name = "KEY=VALUE")]
    annotation: Vec<String>,
    /// Write docker's media type
    #[arg(long)]
    docker: bool,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, clap::Args)]
struct FilterArguments {
    /// The index
    index: String,
    /// The new one
    target: String,
    #[command(flatten)]
    platform: PlatformChoice,
    #[command(flatten)]
    access: Access,
}

impl IndexArguments {
    /// Makes the index.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        match &self.verb {
            IndexVerb::Create(make) => make.run(global, false),
            IndexVerb::Append(make) => make.run(global, true),
            IndexVerb::Filter(filter) => {
                let (source, target): (Location, Location) = (filter.index.parse()?, filter.target.parse()?);
                let platforms = match filter.platform.platforms(global) {
                    Platforms::One(one) => Platforms::Some(vec![one]),
                    Platforms::Some(several) => Platforms::Some(several),
                    _ => return Err(Error::new(Kind::Usage, "there is no --platform")),
                };
                let options = crate::Options { platforms, ..filter.access.options(global)? };
                let done = crate::transfer(&source, &target, None, &options, &Silent)?;
                print(&format!("{}\n", done.root.digest))
            }
        }
    }
}

impl MakeArguments {
    fn run(&self, global: &Global, append: bool) -> Result<()> {
        let Location::Registry(target) = self.index.parse()? else {
            return Err(Error::new(
                Kind::Unsupported,
                format!("`{}` is not in a registry, where indexes are made", self.index),
            ));
        };
        let options = self.access.options(global)?;
        let reach = Reach::new(&options, &Silent)?;
        let repository = reach.repository(&target)?;
        let mut index = match append {
            false => Index::new(Vec::new()),
            true => match Document::parse(&repository.manifest(&target.locator())?.1, None)? {
                Document::Index(index) => index,
                Document::Manifest(_) => {
                    return Err(Error::new(Kind::Invalid, format!("`{target}` is one image, not an index"))
                        .hint("`copy index create` makes one"));
                }
            },
        };
        if self.docker {
            index.media_type = Some(media_type::DOCKER_LIST.to_owned());
        }
        for text in &self.images {
            let location: Location = text.parse()?;
            let source = reach.source(&location, None)?;
            let (root, bytes) = source.root()?;
            let added = match Document::parse(&bytes, Some(&root.media_type))? {
                // An index brings what it names.
                Document::Index(inner) => inner.manifests,
                Document::Manifest(_) => {
                    let (_, config) = image(&*source, &Platforms::All)?;
                    let mut descriptor = Descriptor::new(&root.media_type, root.digest, root.size);
                    descriptor.platform = Some(config.platform());
                    vec![descriptor]
                }
            };
            reach.bring(&*source, &target, &root)?;
            for new in added {
                // A platform is in an index once.
                index
                    .manifests
                    .retain(|old| old.digest != new.digest && (new.platform.is_none() || old.platform != new.platform));
                index.manifests.push(new);
            }
        }
        for (key, value) in changes(&self.annotation) {
            index.annotations.insert(key, value.unwrap_or_default().into());
        }
        let bytes = index.to_bytes();
        let descriptor =
            Descriptor::of(index.media_type.clone().unwrap_or_else(|| media_type::OCI_INDEX.to_owned()), &bytes);
        repository.put_manifest(&target.locator(), &descriptor, &bytes)?;
        print(&format!("{}\n", descriptor.digest))
    }
}
