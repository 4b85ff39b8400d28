//! An image's documents and blobs as they are: `digest`, `manifest`, `config`, `blob`, `manifest-digest`.

use std::io::Read;
use std::path::PathBuf;

use layerfs::digest::{Algorithm, Digest, Hashed};
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::{DOCUMENT_MAX, Descriptor, Document};
use layerfs::progress::Silent;
use layerfs::reference::Reference;

use super::arguments::{Access, PlatformChoice};
use super::{Global, print, print_bytes};
use crate::inventory::{Entry, Platforms, parse, select};
use crate::location::Location;
use crate::stream::{Chunks, FromRead, Skip, Verified};
use crate::transfer::{Options, Reach};
use crate::transport::read_document;

/// Which document of which image.
#[derive(Debug, clap::Args)]
struct Named {
    /// Where the image is
    image: String,
    #[command(flatten)]
    platform: PlatformChoice,
    #[command(flatten)]
    access: Access,
}

impl Named {
    /// Hands the chosen manifest or index, and what reads more of its image, to `each`.
    fn entry<T>(
        &self,
        global: &Global,
        usual: Platforms,
        each: impl FnOnce(&dyn crate::transport::Source, Entry) -> Result<T>,
    ) -> Result<T> {
        let wanted = match self.platform.platforms(global) {
            Platforms::Auto => usual,
            chosen => chosen,
        };
        self.access.with_source(global, &self.image, |_, _, source| {
            let root = source.root()?;
            each(source, select(source, root, &wanted)?)
        })
    }
}

/// The arguments of `copy digest`.
#[derive(Debug, clap::Args)]
pub(super) struct DigestArguments {
    #[command(flatten)]
    named: Named,
    /// Print the repository's name too
    #[arg(long)]
    full_ref: bool,
}

impl DigestArguments {
    /// Prints the digest; one question is enough where the registry tells.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        let options = self.named.access.options(global)?;
        let reach = Reach::new(&options, &Silent)?;
        let location = reach.locate(&self.named.image)?;
        let digest = match (&location, self.named.platform.platforms(global)) {
            (Location::Registry(name), Platforms::Auto) => {
                let source = reach.registry_source(name)?;
                match source.head()? {
                    Some(head) => head.digest,
                    None => crate::transport::Source::root(&source)?.0.digest,
                }
            }
            _ => self.named.entry(global, Platforms::All, |_, entry| Ok(entry.descriptor.digest))?,
        };
        match (&location, self.full_ref) {
            (Location::Registry(name), true) => print(&format!("{}\n", name.with_digest(digest))),
            _ => print(&format!("{digest}\n")),
        }
    }
}

/// The arguments of `copy manifest`.
#[derive(Debug, clap::Args)]
pub(super) struct ManifestArguments {
    #[command(flatten)]
    named: Named,
}

impl ManifestArguments {
    /// Prints the bytes, not one more: the digest of the output is the image's.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        self.named.entry(global, Platforms::All, |_, entry| print_bytes(&entry.bytes))
    }
}

/// The arguments of `copy config`.
#[derive(Debug, clap::Args)]
pub(super) struct ConfigArguments {
    #[command(flatten)]
    named: Named,
}

impl ConfigArguments {
    /// Prints the configuration's bytes.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        self.named.entry(global, Platforms::Host, |source, entry| match entry.document {
            Some(Document::Manifest(manifest)) => print_bytes(&read_document(source, &manifest.config)?),
            _ => Err(Error::new(
                Kind::Unsupported,
                format!("`{}` is no image for one platform, so it has no configuration", entry.descriptor.digest),
            )),
        })
    }
}

/// The arguments of `copy blob`.
#[derive(Debug, clap::Args)]
pub(super) struct BlobArguments {
    /// The blob as NAME@DIGEST, or with --put the repository
    blob: String,
    /// Print the blob's size only
    #[arg(long, conflicts_with_all = ["delete", "put"])]
    head: bool,
    /// Remove the blob from the repository
    #[arg(long, conflicts_with = "put")]
    delete: bool,
    /// Upload this file as a blob, and print its digest
    #[arg(long, value_name = "FILE")]
    put: Option<PathBuf>,
    #[command(flatten)]
    access: Access,
}

impl BlobArguments {
    /// Reads, uploads or removes the blob.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        let Location::Registry(name) = self.blob.parse()? else {
            return Err(Error::new(Kind::Usage, format!("`{}` is not in a registry", self.blob)));
        };
        let options = self.access.options(global)?;
        if let Some(file) = &self.put {
            return put(&options, &name, file);
        }
        let digest = name.digest().ok_or_else(|| {
            Error::new(Kind::Usage, format!("`{}` names no blob", self.blob)).hint("the form is NAME@DIGEST")
        })?;
        let reach = Reach::new(&options, &Silent)?;
        let repository = reach.repository(&name)?;
        if self.delete {
            return repository.delete_blob(digest);
        }
        let size = repository.blob_size(digest)?.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("repository `{}` has no blob `{digest}`", name.repository()))
        })?;
        if self.head {
            return print(&format!("{size}\n"));
        }
        let blob = Descriptor::new("application/octet-stream", digest, size);
        let mut chunks = Verified::new(repository.open_blob(&blob), &blob);
        while let Some(chunk) = chunks.next_chunk()? {
            print_bytes(&chunk)?;
        }
        Ok(())
    }
}

fn put(options: &Options, name: &Reference, path: &PathBuf) -> Result<()> {
    let open = || std::fs::File::open(path).at("open", path);
    let mut hashed = Hashed::new(open()?, Algorithm::Sha256);
    std::io::copy(&mut hashed, &mut std::io::sink()).at("read", path)?;
    let (_, digest, size) = hashed.finish();
    let blob = Descriptor::new("application/octet-stream", digest, size);
    let reach = Reach::new(options, &Silent)?;
    let repository = reach.repository(name)?;
    if repository.existing(std::slice::from_ref(&blob))? != [true] {
        repository.put_blob(&blob, None, &|start| {
            let chunks = FromRead::new(open()?, format!("`{}`", path.display()));
            Ok(Box::new(Verified::from(Skip::new(chunks, start.at()), &blob, start)))
        })?;
    }
    print(&format!("{digest}\n"))
}

/// The arguments of `copy manifest-digest`.
#[derive(Debug, clap::Args)]
pub(super) struct ManifestDigestArguments {
    /// The file
    file: PathBuf,
}

impl ManifestDigestArguments {
    /// Prints the digest of a manifest in a file.
    pub(super) fn run(&self) -> Result<()> {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(&self.file).at("open", &self.file)?;
        file.take(DOCUMENT_MAX + 1).read_to_end(&mut bytes).at("read", &self.file)?;
        if bytes.len() as u64 > DOCUMENT_MAX {
            return Err(Error::new(
                Kind::Limit,
                format!("`{}` has more than {DOCUMENT_MAX} bytes", self.file.display()),
            ));
        }
        let document = Document::parse(&bytes, None).at("read", &self.file)?;
        let entry = parse(Descriptor::of(document.media_type(), &bytes), bytes)?;
        print(&format!("{}\n", Digest::of(&entry.bytes)))
    }
}
