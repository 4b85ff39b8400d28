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

use super::{Destination, Output, local};
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
        [] => vec![Output::Image { names: Vec::new(), push: false, compression: None }],
        given => given.to_vec(),
    };
    let mut built = Built { id, manifest: manifest.clone(), pushed: Vec::new(), warnings: String::new() };
    let delivery = Delivery { engine, id, manifest, made, options };
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
}

impl Delivery<'_> {
    /// Carries one output out; gives what was pushed.
    fn one(&self, output: &Output, step: StepId) -> Result<Vec<(String, Descriptor)>> {
        match output {
            Output::Image { names, push, compression } => {
                let names: Vec<Reference> = self.options.tags.iter().chain(names).cloned().collect();
                self.name(&names, step)?;
                if *push || self.options.push {
                    return self.push(&names, *compression, step);
                }
            }
            Output::Oci { destination, folder, compression } => {
                let location = |place| if *folder { Location::Layout(place) } else { Location::LayoutArchive(place) };
                self.archive(destination, *compression, location, step)?;
            }
            Output::Docker { destination } => self.archive(destination, None, Location::DockerArchive, step)?,
            Output::Tar { destination } => self.tar(destination)?,
            Output::Local { folder } => self.local(folder)?,
            Output::CacheOnly => {}
        }
        Ok(Vec::new())
    }

    /// Names the image in the store; one that has no name gets one by its digest, so that it can be found by its id.
    fn name(&self, names: &[Reference], step: StepId) -> Result<()> {
        let store = self.engine.store;
        let log = |text: String| self.engine.progress.log(step, crate::progress::Stream::Out, text.as_bytes());
        log(format!("writing image {}\n", self.id));
        if names.is_empty() {
            return store.tag(&untagged(&self.manifest)?, &self.manifest);
        }
        for name in names {
            store.tag(name, &self.manifest)?;
            log(format!("naming to {name}\n"));
        }
        Ok(())
    }

    fn push(
        &self,
        names: &[Reference],
        compression: Option<copy::Recompress>,
        step: StepId,
    ) -> Result<Vec<(String, Descriptor)>> {
        if names.is_empty() {
            return Err(Error::new(Kind::Usage, "there is no name to push the image to").hint("give it one with -t"));
        }
        let options = copy::Options { recompress: compression, ..self.options.registry.clone() };
        let reporter = Reporter::new(self.engine.progress, step);
        let mut pushed = Vec::new();
        for name in names {
            let done = copy::push(self.engine.store, &self.manifest, name, &options, &reporter)?;
            let text = format!("pushed {name}@{}\n", done.root.digest);
            self.engine.progress.log(step, crate::progress::Stream::Out, text.as_bytes());
            pushed.push((name.to_string(), done.root));
        }
        Ok(pushed)
    }

    fn archive(
        &self,
        destination: &Destination,
        compression: Option<copy::Recompress>,
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
        let options = copy::Options { recompress: compression, ..self.options.registry.clone() };
        // `copy` finds an image of the store by its name; this one may have none.
        let own = untagged(&self.manifest)?;
        let tagged = store.resolve(&own)?.is_some();
        store.tag(&own, &self.manifest)?;
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
        if let [one] = self.made {
            return local::export(&self.tree(&one.result)?, folder);
        }
        self.made.iter().try_for_each(|made| {
            let name = made.platform.to_string().replace('/', "_");
            local::export(&self.tree(&made.result)?, &folder.join(name))
        })
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
    let one = |made: &Made| Descriptor { platform: Some(made.platform.clone()), ..made.image.manifest.clone() };
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
