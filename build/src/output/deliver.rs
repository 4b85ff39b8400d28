//! From the store to where the result is wanted.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use copy::{Location, Place, Selector};
use layerfs::archive::{DiffOptions, diff};
use layerfs::digest::Digest;
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::{Descriptor, Index, media_type};
use layerfs::reference::Reference;
use serde_json::json;

use super::annotate::annotate;
use super::{Destination, Output, Packing, Push, local};
use crate::attest::{self, Statement};
use crate::engine::{Built, Made};
use crate::files::Tree;
use crate::options::{BuildOptions, Level};
use crate::progress::{End, Reporter, StepId};
use crate::schedule::{Engine, StageResult};

/// Puts the image where `options` say: into the store and under its names, to registries, into files.
///
/// # Errors
/// A place cannot be written.
pub(crate) fn deliver(engine: &Engine<'_>, made: &[Made], options: &BuildOptions) -> Result<Built> {
    let (id, manifest) = match made {
        [one] => (one.image.id, one.image.manifest.clone()),
        several => {
            let index = index(engine, several, options)?;
            (index.digest, index)
        }
    };
    let outputs = match &options.outputs[..] {
        [] => vec![Output::store()],
        given => given.to_vec(),
    };
    let mut built = Built { id, manifest: manifest.clone(), pushed: Vec::new(), warnings: String::new() };
    let statements = attest::statements(engine, made, options)?;
    let delivery = Delivery { engine, id, manifest, made, options, statements };
    for output in &outputs {
        let id = engine.progress.start(&title(output));
        match delivery.one(output, id) {
            Ok(pushed) => {
                engine.progress.end(id, &End::Done);
                built.pushed.extend(pushed);
            }
            Err(error) => {
                engine.progress.end(id, &End::Failed(error.chain()));
                return Err(error);
            }
        }
    }
    engine.store.publish_index()?;
    if let Some(path) = &options.iidfile {
        fs::write(path, built.id.to_string()).at("write", path)?;
    }
    if let Some(path) = &options.metadata_file {
        fs::write(path, metadata(&built, made.len() == 1, options)).at("write", path)?;
    }
    Ok(built)
}

fn title(output: &Output) -> String {
    match output {
        Output::Image { .. } => "exporting to the store".to_owned(),
        Output::Oci { folder: true, .. } => "exporting to an OCI image layout".to_owned(),
        Output::Oci { .. } => "exporting to an OCI archive".to_owned(),
        Output::Docker { .. } => "exporting to a docker archive".to_owned(),
        Output::Tar { .. } => "exporting to a tar archive".to_owned(),
        Output::Local { folder } => format!("exporting to the folder {}", folder.display()),
        Output::CacheOnly => "keeping the cache".to_owned(),
    }
}

/// BuildKit's names for what a build yields.
fn metadata(built: &Built, single: bool, options: &BuildOptions) -> String {
    let mut value = json!({
        "containerimage.descriptor": built.manifest,
        "containerimage.digest": built.manifest.digest.to_string(),
    });
    if single {
        value["containerimage.config.digest"] = built.id.to_string().into();
    }
    if !options.tags.is_empty() {
        let names: Vec<String> = options.tags.iter().map(ToString::to_string).collect();
        value["image.name"] = names.join(",").into();
    }
    if let Some((_, pushed)) = built.pushed.first() {
        value["containerimage.pushed.digest"] = pushed.digest.to_string().into();
    }
    format!("{value:#}\n")
}

struct Delivery<'a> {
    engine: &'a Engine<'a>,
    id: Digest,
    manifest: Descriptor,
    made: &'a [Made],
    options: &'a BuildOptions,
    /// What goes beside the image.
    statements: Vec<Statement>,
}

impl Delivery<'_> {
    /// Carries one output out; gives what was pushed.
    fn one(&self, output: &Output, step: StepId) -> Result<Vec<(String, Descriptor)>> {
        match output {
            Output::Image { names, push, canonical, packing } => {
                let names: Vec<Reference> = self.options.tags.iter().chain(names).cloned().collect();
                let root = annotate(self.engine.store, &self.manifest, &packing.annotations)?;
                self.name(&names, &root, *canonical, step)?;
                let push = if self.options.push && *push == Push::No { Push::Named } else { *push };
                if push != Push::No {
                    return self.push(&names, &root, push, packing, step);
                }
            }
            Output::Oci { destination, folder, packing } => {
                let location = |place| if *folder { Location::Layout(place) } else { Location::LayoutArchive(place) };
                self.archive(destination, packing, location, step)?;
            }
            Output::Docker { destination } => {
                self.archive(destination, &Packing::default(), Location::DockerArchive, step)?;
            }
            Output::Tar { destination } => self.tar(destination)?,
            Output::Local { folder } => self.local(folder)?,
            Output::CacheOnly => {}
        }
        Ok(Vec::new())
    }

    /// Names the image in the store; one that has no name gets one by its digest, so that it can be found by its id.
    fn name(&self, names: &[Reference], root: &Descriptor, canonical: bool, step: StepId) -> Result<()> {
        let store = self.engine.store;
        let log = |text: String| self.engine.progress.log(step, crate::progress::Stream::Out, text.as_bytes());
        log(format!("writing image {}\n", self.id));
        if names.is_empty() {
            return store.tag(&untagged(root)?, root);
        }
        let with_digest = names.iter().filter(|_| canonical).map(|name| name.clone().with_digest(root.digest));
        for name in names.iter().cloned().chain(with_digest) {
            store.tag(&name, root)?;
            log(format!("naming to {name}\n"));
        }
        Ok(())
    }

    fn push(
        &self,
        names: &[Reference],
        root: &Descriptor,
        push: Push,
        packing: &Packing,
        step: StepId,
    ) -> Result<Vec<(String, Descriptor)>> {
        if names.is_empty() {
            return Err(Error::new(Kind::Usage, "there is no name to push the image to").hint("give it one with -t"));
        }
        let options = self.copying(packing);
        let reporter = Reporter::new(self.engine.progress, step);
        let mut pushed = Vec::new();
        for name in names {
            let done = match push {
                Push::ByDigest => copy::push_untagged(self.engine.store, root, name, &options, &reporter)?,
                _ => copy::push(self.engine.store, root, name, &options, &reporter)?,
            };
            let text = format!("pushed {name}@{}\n", done.root.digest);
            self.engine.progress.log(step, crate::progress::Stream::Out, text.as_bytes());
            attest::send(self.engine, &self.statements, &done.root, name, &options)?;
            pushed.push((name.to_string(), done.root));
        }
        Ok(pushed)
    }

    fn copying(&self, packing: &Packing) -> copy::Options {
        let format = packing.format.or(self.options.registry.format);
        copy::Options { recompress: packing.compression, format, ..self.options.registry.clone() }
    }

    fn archive(
        &self,
        destination: &Destination,
        packing: &Packing,
        location: impl Fn(Place) -> Location,
        step: StepId,
    ) -> Result<()> {
        let store = self.engine.store;
        let dir = store.new_temp_dir()?;
        let path = match destination {
            Destination::Path(path) => path.clone(),
            Destination::Stdout => dir.path().join("archive"),
        };
        let name = self.options.tags.first();
        let image = name.map_or(Selector::Only, |name| Selector::Named(name.to_string()));
        let options = self.copying(packing);
        let root = annotate(store, &self.manifest, &packing.annotations)?;
        // `copy` finds an image of the store by its name; this one may have none.
        let own = untagged(&root)?;
        let tagged = store.resolve(&own)?.is_some();
        store.tag(&own, &root)?;
        let source = Location::Store(own.to_string());
        let reporter = Reporter::new(self.engine.progress, step);
        let place = location(Place { path: path.clone(), image });
        let done = copy::transfer(&source, &place, Some(store), &options, &reporter);
        if !tagged {
            store.untag(&own)?;
        }
        done?;
        if *destination == Destination::Stdout {
            let mut file = File::open(&path).at("open", &path)?;
            let mut out = io::stdout().lock();
            io::copy(&mut file, &mut out).and_then(|_| out.flush()).context(|| "write to standard output")?;
        }
        Ok(())
    }

    /// The files in a folder; of several platforms in a folder for each.
    fn local(&self, folder: &Path) -> Result<()> {
        let several = self.made.len() > 1;
        for made in self.made {
            let name = made.platform.to_string().replace('/', "_");
            let folder = if several { folder.join(name) } else { folder.to_owned() };
            local::export(&self.tree(&made.result)?, &folder)?;
        }
        attest::write(&self.statements, self.manifest.digest, folder, several)
    }

    fn tar(&self, destination: &Destination) -> Result<()> {
        let [one] = self.made else {
            return Err(Error::new(Kind::Unsupported, "a tar archive holds the files of one platform")
                .hint("name one with --platform, or use -o type=local or type=oci"));
        };
        let tree = self.tree(&one.result)?;
        let options = DiffOptions { clamp_mtime: self.engine.clock.clamp, ..DiffOptions::default() };
        let root = tree.root().to_owned();
        match destination {
            Destination::Path(path) => write_whole(path, |file| diff(&root, file, &options).map(drop)),
            Destination::Stdout => diff(&root, io::BufWriter::new(io::stdout().lock()), &options)
                .and_then(|(mut out, _)| out.flush().context(|| "write to standard output")),
        }
    }

    /// The image's files.
    fn tree(&self, result: &StageResult) -> Result<Tree> {
        self.engine.tree("the image".to_owned(), &result.stack)
    }
}

/// The index of several platforms' manifests.
fn index(engine: &Engine<'_>, made: &[Made], options: &BuildOptions) -> Result<Descriptor> {
    let one = |made: &Made| {
        let mut child = Descriptor { platform: Some(made.platform.clone()), ..made.image.manifest.clone() };
        for annotation in options.annotations.iter().filter(|one| one.level == Level::ManifestDescriptor) {
            child.annotations.insert(annotation.key.clone(), annotation.value.as_str().into());
        }
        child
    };
    let mut index = Index::new(made.iter().map(one).collect());
    for annotation in options.annotations.iter().filter(|one| one.level == Level::Index) {
        index.annotations.insert(annotation.key.clone(), annotation.value.as_str().into());
    }
    let bytes = index.to_bytes();
    engine.store.put_blob(&bytes)?;
    Ok(Descriptor::of(media_type::OCI_INDEX, &bytes))
}

/// The name of an image that was given none.
fn untagged(manifest: &Descriptor) -> Result<Reference> {
    let name: Reference = "localhost/untagged".parse()?;
    Ok(name.with_digest(manifest.digest))
}

/// Writes a file that appears whole, or not at all.
fn write_whole(path: &Path, write: impl FnOnce(io::BufWriter<File>) -> Result<()>) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let new = PathBuf::from(name);
    let file = File::create(&new).at("create", &new)?;
    let written = write(io::BufWriter::new(file)).and_then(|()| fs::rename(&new, path).at("create", path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}
