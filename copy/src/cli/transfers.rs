//! `copy` and `pull`.

use std::path::PathBuf;

use layerfs::archive::Compression;
use layerfs::digest::Digest;
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::canonical_json;
use layerfs::reference::Reference;

use super::arguments::{Access, PlatformChoice, format};
use super::progress::{Reporter, size};
use super::sides::Sides;
use super::{Global, print, print_json};
use crate::companions::Companions;
use crate::convert::Recompress;
use crate::inventory::Platforms;
use crate::location::Location;
use crate::transfer::{Options, Transferred, locate, pull, transfer};

/// The arguments of `copy SOURCE DESTINATION`.
#[derive(Debug, clap::Args)]
pub(super) struct CopyArguments {
    /// Where the image is
    source: String,
    /// Where it goes
    destination: String,
    /// Copy all platforms (the default wherever the destination can hold them)
    #[arg(long, short, conflicts_with = "platform")]
    all: bool,
    /// What of an image for several platforms is copied
    #[arg(long, value_name = "system|all|index-only", conflicts_with_all = ["all", "platform"])]
    multi_arch: Option<String>,
    #[command(flatten)]
    platform: PlatformChoice,
    /// Write manifests in these media types
    #[arg(long, short, value_name = "oci|v2s2")]
    format: Option<String>,
    /// Compress layers that are not compressed in this way
    #[arg(long, value_name = "gzip|zstd|zstd:chunked|none")]
    dest_compress_format: Option<String>,
    /// Compress layers that are not compressed, with gzip
    #[arg(long, hide = true, conflicts_with_all = ["dest_decompress", "dest_oci_accept_uncompressed_layers"])]
    dest_compress: bool,
    /// Unpack compressed layers
    #[arg(long, hide = true)]
    dest_decompress: bool,
    /// Leave layers that are not compressed as they are
    #[arg(long, hide = true)]
    dest_oci_accept_uncompressed_layers: bool,
    /// Accepted for skopeo's sake: digests of compressed layers are always known before they are sent
    #[arg(long, hide = true)]
    dest_precompute_digests: bool,
    /// Compression level
    #[arg(long, value_name = "N")]
    dest_compress_level: Option<u8>,
    /// Compress layers anew that are compressed in another way
    #[arg(long)]
    dest_force_compress_format: bool,
    /// Copy what refers to the image (signatures, attestations) too
    #[arg(long)]
    referrers: bool,
    /// Copy tags made of the image's digests (sha256-….sig) too
    #[arg(long)]
    digest_tags: bool,
    /// Another tag for the destination; can be given several times
    #[arg(long, value_name = "NAME")]
    additional_tag: Vec<String>,
    /// Fail rather than change the image's digest
    #[arg(long)]
    preserve_digests: bool,
    /// Write the digest of what was written into this file
    #[arg(long, value_name = "FILE")]
    digestfile: Option<PathBuf>,
    /// Print a JSON document about what was done
    #[arg(long)]
    json: bool,
    /// Blobs that move at the same time
    #[arg(long, value_name = "N", default_value_t = crate::execute::PARALLEL, alias = "image-parallel-copies")]
    jobs: usize,
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    sides: Sides,
    /// Accepted for skopeo's sake: signatures in lookaside places are never copied
    #[arg(long, hide = true)]
    remove_signatures: bool,
    /// Sign the copy with this key, as cosign does
    #[arg(long, value_name = "FILE")]
    sign_by_sigstore_private_key: Option<PathBuf>,
    /// The file with the key's password [default: $COSIGN_PASSWORD, or a question]
    #[arg(long, value_name = "FILE", requires = "sign_by_sigstore_private_key")]
    sign_passphrase_file: Option<PathBuf>,
    /// The name to sign it under [default: the destination's]
    #[arg(long, value_name = "NAME", requires = "sign_by_sigstore_private_key")]
    sign_identity: Option<String>,
}

impl CopyArguments {
    /// Copies the image and reports.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        let (mut source, destination): (Location, Location) = (self.source.parse()?, self.destination.parse()?);
        let mut options = self.options(global)?;
        let locations = [&source, &destination];
        let needs_store = locations.iter().any(|location| matches!(location, Location::Store(_)));
        let store = match needs_store {
            true => Some(global.open_store_for(&mut options)?.0),
            false => None,
        };
        if self.sign_by_sigstore_private_key.is_some() && !matches!(destination, Location::Registry(_)) {
            return Err(Error::new(Kind::Usage, format!("`{destination}` has no place for a signature"))
                .hint("registries have"));
        }
        let reporter = Reporter::for_command(global)?;
        if matches!(source, Location::Registry(_)) {
            source = locate(&self.source, &options, &reporter)?;
        }
        let done = transfer(&source, &destination, store.as_ref(), &options, &reporter)?;
        reporter.finish();
        if let (Some(key), Location::Registry(name)) = (&self.sign_by_sigstore_private_key, &destination) {
            let identity = self.sign_identity.clone().unwrap_or_else(|| name.to_string());
            let copied = name.with_digest(done.root.digest);
            super::sign::sign(&options, &copied, &identity, key, self.sign_passphrase_file.as_deref())?;
        }
        if let Some(file) = &self.digestfile {
            // Without a line break, as skopeo writes it.
            std::fs::write(file, done.root.digest.to_string()).at("write", file)?;
        }
        self.report(&done, global)
    }

    fn report(&self, done: &Transferred, global: &Global) -> Result<()> {
        if self.json {
            let moved = done.moved.unwrap_or_default();
            return print_json(&serde_json::json!({
                "digest": done.root.digest,
                "mediaType": done.root.media_type,
                "changed": done.moved.is_some(),
                "blobs": { "sent": moved.sent, "mounted": moved.mounted, "present": moved.present },
                "bytes": moved.bytes,
            }));
        }
        if !global.quiet {
            let what = match &done.moved {
                None => "already there".to_owned(),
                Some(moved) => format!(
                    "{} blobs sent ({}), {} mounted, {} already there",
                    moved.sent,
                    size(moved.bytes),
                    moved.mounted,
                    moved.present
                ),
            };
            super::progress::note(&format!("{}: {what}", self.destination));
        }
        match self.writes_to_a_stream() {
            // Standard output may be the archive itself.
            true => Ok(()),
            false => print(&format!("{}\n", done.root.digest)),
        }
    }

    fn writes_to_a_stream(&self) -> bool {
        match self.destination.parse() {
            Ok(Location::LayoutArchive(place) | Location::DockerArchive(place)) => {
                place.path.metadata().is_ok_and(|metadata| !metadata.is_file())
            }
            _ => false,
        }
    }

    fn options(&self, global: &Global) -> Result<Options> {
        let both = self.sides.apply(self.access.options(global)?)?;
        let platforms = match (self.all, self.multi_arch.as_deref()) {
            (true, _) | (_, Some("all")) => Platforms::All,
            (_, Some("system")) => Platforms::Host,
            (_, Some("index-only")) => Platforms::IndexOnly,
            (_, Some(other)) => {
                return Err(Error::new(Kind::Usage, format!("`--multi-arch {other}` is not known"))
                    .hint("system, all or index-only"));
            }
            (false, None) => match self.platform.platforms(global) {
                Platforms::Auto if global.is_skopeo() => Platforms::Host,
                chosen => chosen,
            },
        };
        let format = self.format.as_deref().map(format).transpose()?;
        let additional_tags =
            self.additional_tag.iter().map(|name| name.parse::<Reference>().map(Reference::or_latest));
        Ok(Options {
            platforms,
            companions: Companions { referrers: self.referrers, digest_tags: self.digest_tags },
            recompress: self.recompress()?,
            format,
            additional_tags: additional_tags.collect::<Result<_>>()?,
            preserve_digests: self.preserve_digests,
            parallel: self.jobs,
            ..both
        })
    }

    fn recompress(&self) -> Result<Option<Recompress>> {
        if self.dest_decompress {
            return Ok(Some(Recompress::All(Compression::None)));
        }
        if self.dest_oci_accept_uncompressed_layers && self.dest_compress_format.is_none() {
            return Ok(Some(Recompress::Never));
        }
        let level = |highest: u8, usual: u8| match self.dest_compress_level {
            None => Ok(usual),
            Some(level) if (1..=highest).contains(&level) => Ok(level),
            Some(level) => {
                Err(Error::new(Kind::Usage, format!("compression level {level} is not one of 1 to {highest}")))
            }
        };
        let compression = match self.dest_compress_format.as_deref() {
            None if self.dest_compress || self.dest_compress_level.is_some() || self.dest_force_compress_format => {
                Compression::Gzip { level: level(12, 3)? }
            }
            None => return Ok(None),
            Some("gzip") => Compression::Gzip { level: level(12, 3)? },
            Some("zstd") => Compression::Zstd { level: level(22, 3)? },
            Some("zstd:chunked") => return Ok(Some(Recompress::Chunked { level: level(22, 3)? })),
            Some("none") => Compression::None,
            Some(other) => {
                return Err(Error::new(Kind::Usage, format!("compression `{other}` is not known"))
                    .hint("gzip, zstd, zstd:chunked or none"));
            }
        };
        // As skopeo has it: a form that is named is meant for layers that have another one, too.
        let all = self.dest_force_compress_format || self.dest_compress_format.is_some();
        Ok(Some(match (compression, all) {
            (Compression::None, _) if !self.dest_force_compress_format => Recompress::Never,
            (compression, true) => Recompress::All(compression),
            (compression, false) => Recompress::Plain(compression),
        }))
    }
}

/// The arguments of `copy pull`.
#[derive(Debug, clap::Args)]
pub(super) struct PullArguments {
    /// Names of images
    #[arg(required = true)]
    names: Vec<String>,
    /// Lay the layers down while they arrive, ready to be mounted
    #[arg(long)]
    unpack: bool,
    /// Fetch all platforms
    #[arg(long, short, conflicts_with_all = ["platform", "unpack"])]
    all: bool,
    #[command(flatten)]
    platform: PlatformChoice,
    /// Write progress as lines of JSON to this file descriptor
    #[arg(long, value_name = "N", hide = true)]
    progress_fd: Option<u32>,
    /// Print descriptors as JSON instead of ids: a name may be taken away again before the caller looks it up
    #[arg(long, hide = true)]
    descriptors: bool,
    #[command(flatten)]
    access: Access,
}

impl PullArguments {
    /// Pulls the images and prints their ids.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        let platforms = if self.all { Platforms::All } else { self.platform.platforms(global) };
        let mut options = Options { platforms, ..self.access.options(global)? };
        // Before anything that may start a thread.
        let (store, user) = global.open_store_for(&mut options)?;
        if let Some(why) = user.single_id.filter(|_| self.unpack && !global.quiet) {
            super::progress::note(&format!("warning: {why}"));
        }
        let reporter = Reporter::new(global.quiet, self.progress_fd)?;
        let names = self.names.iter().map(|name| match locate(name, &options, &reporter)? {
            Location::Registry(name) => Ok(name),
            other => Err(Error::new(Kind::Usage, format!("`{other}` is not in a registry"))
                .hint(format!("`copy {other} store:NAME` brings it into the store"))),
        });
        let names: Vec<Reference> = names.collect::<Result<_>>()?;
        let mut pulled = Vec::new();
        for name in &names {
            pulled.push(pull(&store, name, self.unpack, &options, &reporter)?);
        }
        reporter.finish();
        for descriptor in pulled {
            match self.descriptors {
                true => print(&String::from_utf8_lossy(&canonical_json(&descriptor)))?,
                false => print(&format!("{}\n", id(&store, &descriptor)))?,
            }
        }
        Ok(())
    }
}

/// The image's id, or the digest of what is no image for one platform.
fn id(store: &layerfs::store::Store, descriptor: &layerfs::oci::Descriptor) -> Digest {
    let image = store.image(descriptor, &layerfs::oci::Platform::host());
    image.map_or(descriptor.digest, |image| image.id())
}
