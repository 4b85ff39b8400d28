//! Things in registries that are no images: `artifact push`, `artifact pull`, `attach`, `discover`.

use std::path::{Component, Path, PathBuf};

use layerfs::digest::{Algorithm, Hashed};
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::{Annotations, Descriptor, Document, Manifest, media_type};
use layerfs::progress::Silent;
use layerfs::reference::Reference;
use serde_json::{Value, json};

use super::arguments::Access;
use super::{Global, print, print_json};
use crate::companions::note_referrer;
use crate::location::Location;
use crate::registry::Repository;
use crate::stream::{FromRead, Skip, Start, Verified};
use crate::transfer::Reach;
use crate::transport::{NewFile, write_chunks};

/// What a file in an artifact is called.
const TITLE: &str = "org.opencontainers.image.title";
/// Files of a kind that nobody stated.
const OCTETS: &str = "application/octet-stream";
/// Referrers of referrers are shown so deep.
const DEPTH_MAX: usize = 8;

/// The arguments of `copy artifact`.
#[derive(Debug, clap::Args)]
pub(super) struct ArtifactArguments {
    #[command(subcommand)]
    verb: ArtifactVerb,
}

#[derive(Debug, clap::Subcommand)]
enum ArtifactVerb {
    /// Put files into a registry under a name
    Push(PushArguments),
    /// Fetch the files of an artifact
    Pull(PullArguments),
}

/// What an artifact is made of.
#[derive(Debug, clap::Args)]
struct Content {
    /// What kind of thing it is
    #[arg(long, value_name = "TYPE")]
    artifact_type: Option<String>,
    /// An annotation; can be given several times
    #[arg(long, short, value_name = "KEY=VALUE")]
    annotation: Vec<String>,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, clap::Args)]
struct PushArguments {
    /// Its name
    name: Reference,
    /// Files, each with a media type if wanted: FILE[:TYPE]
    files: Vec<String>,
    #[command(flatten)]
    content: Content,
}

#[derive(Debug, clap::Args)]
struct PullArguments {
    /// Its name
    name: Reference,
    /// The folder for its files
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    #[command(flatten)]
    access: Access,
}

impl ArtifactArguments {
    /// Pushes or pulls.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        match &self.verb {
            ArtifactVerb::Push(push) => {
                let options = push.content.access.options(global)?;
                let reach = Reach::new(&options, &Silent)?;
                let name = push.name.clone().or_latest();
                let repository = reach.repository(&name)?;
                let digest = write(&repository, name.tag(), None, &push.files, &push.content)?;
                print(&format!("{digest}\n"))
            }
            ArtifactVerb::Pull(pull) => pull.run(global),
        }
    }
}

/// The arguments of `copy attach`.
#[derive(Debug, clap::Args)]
pub(super) struct AttachArguments {
    /// What it is attached to
    image: Reference,
    /// Files, each with a media type if wanted: FILE[:TYPE]
    files: Vec<String>,
    #[command(flatten)]
    content: Content,
}

impl AttachArguments {
    /// Puts an artifact beside an image and has it refer to that.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        if self.content.artifact_type.is_none() {
            return Err(Error::new(Kind::Usage, "there is no --artifact-type").hint("it tells attached things apart"));
        }
        let options = self.content.access.options(global)?;
        let reach = Reach::new(&options, &Silent)?;
        let repository = reach.repository(&self.image)?;
        let (subject, _) = repository.manifest(&self.image.clone().or_latest().locator())?;
        let subject = Descriptor::new(subject.media_type, subject.digest, subject.size);
        let digest = write(&repository, None, Some(subject), &self.files, &self.content)?;
        print(&format!("{digest}\n"))
    }
}

/// Uploads the files and a manifest of them; its digest.
fn write(
    repository: &Repository,
    tag: Option<&str>,
    subject: Option<Descriptor>,
    files: &[String],
    content: &Content,
) -> Result<layerfs::digest::Digest> {
    let mut layers = Vec::new();
    for text in files {
        // A path may have colons; what follows the last one is a type only if it looks like one.
        let (path, kind) = match text.rsplit_once(':') {
            Some((path, kind)) if kind.contains('/') && !Path::new(text).exists() => (path, kind),
            _ => (text.as_str(), OCTETS),
        };
        layers.push(upload(repository, Path::new(path), kind)?);
    }
    let empty = Descriptor::of(media_type::OCI_EMPTY, b"{}");
    put(repository, &empty, &|_| Ok(Box::new(FromRead::new(&b"{}"[..], "an empty document"))))?;
    if layers.is_empty() {
        // image-spec: a manifest has one layer at least.
        layers.push(empty.clone());
    }
    let mut manifest = Manifest::new(empty, layers);
    manifest.artifact_type =
        Some(content.artifact_type.clone().unwrap_or_else(|| "application/vnd.unknown.artifact.v1".to_owned()));
    manifest.subject = subject;
    manifest.annotations = annotations(&content.annotation)?;
    let bytes = manifest.to_bytes();
    let descriptor = Descriptor::of(media_type::OCI_MANIFEST, &bytes);
    let locator = tag.map_or_else(|| descriptor.digest.to_string(), str::to_owned);
    if !repository.put_manifest(&locator, &descriptor, &bytes)? {
        note_referrer(repository, &descriptor, &bytes)?;
    }
    Ok(descriptor.digest)
}

fn annotations(pairs: &[String]) -> Result<Annotations> {
    let pairs = pairs.iter().map(|pair| match pair.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), Value::from(value))),
        _ => Err(Error::new(Kind::Usage, format!("annotation `{pair}` is not KEY=VALUE"))),
    });
    pairs.collect()
}

fn upload(repository: &Repository, path: &Path, kind: &str) -> Result<Descriptor> {
    let open = || std::fs::File::open(path).at("open", path);
    let mut hashed = Hashed::new(open()?, Algorithm::Sha256);
    std::io::copy(&mut hashed, &mut std::io::sink()).at("read", path)?;
    let (_, digest, size) = hashed.finish();
    let mut blob = Descriptor::new(kind, digest, size);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    blob.annotations.insert(TITLE.to_owned(), name.into());
    put(repository, &blob, &|start: Start| {
        let chunks = FromRead::new(open()?, format!("`{}`", path.display()));
        Ok(Box::new(Verified::from(Skip::new(chunks, start.at()), &blob, start)))
    })?;
    Ok(blob.clone())
}

fn put<'a>(repository: &Repository, blob: &Descriptor, open: crate::transport::Opener<'a>) -> Result<()> {
    match repository.existing(std::slice::from_ref(blob))?.as_slice() {
        [true] => Ok(()),
        _ => repository.put_blob(blob, None, open).map(drop),
    }
}

impl PullArguments {
    fn run(&self, global: &Global) -> Result<()> {
        let options = self.access.options(global)?;
        let reach = Reach::new(&options, &Silent)?;
        let name = self.name.clone().or_latest();
        let signed = reach.check_policy(&Location::Registry(name.clone()))?;
        let source = reach.registry_source(&name)?;
        reach.check_signed(&Location::Registry(name.clone()), &source, &signed)?;
        let (descriptor, bytes) = crate::transport::Source::root(&source)?;
        let Document::Manifest(manifest) = Document::parse(&bytes, Some(&descriptor.media_type))? else {
            return Err(Error::new(Kind::Unsupported, format!("`{name}` is an index, which has no files of its own")));
        };
        let files: Vec<(&Descriptor, PathBuf)> = manifest
            .layers
            .iter()
            .filter_map(|layer| Some((layer, layer.annotation(TITLE)?)))
            .map(|(layer, title)| Ok((layer, self.output.join(safe(title)?))))
            .collect::<Result<_>>()?;
        if files.is_empty() {
            return Err(Error::new(Kind::NotFound, format!("`{name}` has no files with a name"))
                .hint("`copy manifest` shows what it has; an image is fetched by `copy pull`"));
        }
        for (layer, path) in files {
            let dir = crate::transport::folder_of(&path).to_owned();
            make_folders(&self.output, &dir)?;
            let mut new = NewFile::create(&path)?;
            let mut chunks = Verified::new(source.repository_handle().open_blob(layer), layer);
            write_chunks(&mut new.file, &mut chunks, || format!("`{}`", path.display()))?;
            new.commit()?;
            print(&format!("{}\n", path.display()))?;
        }
        Ok(())
    }
}

/// A name out of a registry as a path that stays below the folder it is put into.
fn safe(title: &str) -> Result<PathBuf> {
    let path = Path::new(title);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    match plain && !title.is_empty() && !title.contains('\0') && !title.ends_with('/') {
        true => Ok(path.to_owned()),
        false => Err(Error::new(
            Kind::Denied,
            format!("file `{}` of the artifact would leave its folder", title.escape_debug()),
        )),
    }
}

/// Makes the folders from `base` down to `dir`. None of them may be a link to somewhere else.
fn make_folders(base: &Path, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(base).at("create", base)?;
    let mut path = base.to_owned();
    for part in dir.strip_prefix(base).unwrap_or(Path::new("")).components() {
        path.push(part);
        match std::fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(Error::new(Kind::Denied, format!("`{}` is no folder", path.display()))),
            Err(_) => std::fs::create_dir(&path).at("create", &path)?,
        }
    }
    Ok(())
}

/// The arguments of `copy discover`.
#[derive(Debug, clap::Args)]
pub(super) struct DiscoverArguments {
    /// The image
    image: Reference,
    /// Only of this type
    #[arg(long, value_name = "TYPE")]
    artifact_type: Option<String>,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    access: Access,
}

impl DiscoverArguments {
    /// Shows what refers to the image, and what refers to that.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        let options = self.access.options(global)?;
        let reach = Reach::new(&options, &Silent)?;
        let source = reach.registry_source(&self.image.clone().or_latest())?;
        let root = match source.head()? {
            Some(head) => head.digest,
            None => crate::transport::Source::root(&source)?.0.digest,
        };
        let tree = self.below(source.repository_handle(), root, 0)?;
        if self.json {
            let name = self.image.with_digest(root).to_string();
            return print_json(&json!({ "reference": name, "digest": root, "referrers": tree }));
        }
        let mut text = format!("{}\n", self.image.with_digest(root));
        draw(&tree, "", &mut text);
        print(&text)
    }

    fn below(&self, repository: &Repository, digest: layerfs::digest::Digest, depth: usize) -> Result<Vec<Value>> {
        if depth == DEPTH_MAX {
            return Ok(Vec::new());
        }
        let wanted = |entry: &Descriptor| self.artifact_type.is_none() || entry.artifact_type == self.artifact_type;
        let entries = repository.referrers(digest)?.0;
        let shown = entries.into_iter().filter(wanted).map(|entry| {
            let below = self.below(repository, entry.digest, depth + 1)?;
            Ok(json!({
                "digest": entry.digest, "mediaType": entry.media_type, "size": entry.size,
                "artifactType": entry.artifact_type, "annotations": entry.annotations, "referrers": below,
            }))
        });
        shown.collect()
    }
}

fn draw(tree: &[Value], indent: &str, text: &mut String) {
    for (place, entry) in tree.iter().enumerate() {
        let last = place + 1 == tree.len();
        let kind = entry["artifactType"].as_str().unwrap_or("unknown");
        let digest = entry["digest"].as_str().unwrap_or_default();
        text.push_str(&format!("{indent}{} {kind} {digest}\n", if last { "`-" } else { "|-" }));
        let below = entry["referrers"].as_array().map(Vec::as_slice).unwrap_or_default();
        draw(below, &format!("{indent}{}  ", if last { " " } else { "|" }), text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_their_folder() {
        for good in ["a", "a/b.txt", "..a"] {
            assert!(safe(good).is_ok(), "{good}");
        }
        for bad in ["", "/a", "../a", "a/../b", "./a", "a/", "a\0b"] {
            assert!(safe(bad).is_err(), "{bad:?}");
        }
    }
}
