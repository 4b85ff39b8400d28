//! A build from its options to its result.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use layerfs::digest::Digest;
use layerfs::error::{Context as _, Error, Kind, Result};
use layerfs::oci::Descriptor;
use layerfs::store::{Image, Store};
use run::spec::HostFacts;
use run::step::Server;

use crate::cache::Records;
use crate::dockerfile::ast::Dockerfile;
use crate::dockerfile::{self, ParseError};
use crate::exec::copy_add::Clock;
use crate::exec::run_step::{Runner, Settings};
use crate::files::Tree;
use crate::graph::{self, BaseImage, Configs, Graph, Plan};
use crate::ignore::Ignore;
use crate::images;
use crate::options::{BuildOptions, DockerfileSource};
use crate::output;
use crate::progress::{End, Progress};
use crate::schedule::{self, Cancel, Context, Engine};

/// Largest Dockerfile that is read, in bytes.
const DOCKERFILE_MAX: u64 = 16 << 20;

/// What a build made.
#[derive(Clone, Debug)]
pub struct Built {
    /// The image's id: the digest of its configuration.
    pub id: Digest,
    /// Its manifest in the store.
    pub manifest: Descriptor,
    /// What was pushed: name and manifest in the registry.
    pub pushed: Vec<(String, Descriptor)>,
}

/// Builds what `options` say. `server` was forked before this process had threads.
///
/// # Errors
/// The Dockerfile is wrong, something it needs is missing, a step failed (`Kind::Exit` with its own code), or the
/// result cannot be written. The store then holds the layers of the steps that were done, for the next build.
pub fn build(
    store: &Store,
    server: Arc<Server>,
    host: HostFacts,
    options: &BuildOptions,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Built> {
    // Nothing that is made here is collected before it has a name.
    let _pin = store.pin()?;
    cancel.covers(&server);
    let id = progress.start("[internal] load build definition");
    let loaded = load_dockerfile(options);
    progress.end(id, &loaded.as_ref().map_or_else(|error| End::Failed(error.to_string()), |_| End::Done));
    let (file, path) = loaded?;
    let plan = graph::plan(&file, &options.graph)?;
    for name in plan.unused_arguments() {
        progress.note(&format!("the build argument `{name}` is not asked for by any ARG"));
    }
    let clamp = match options.epoch {
        Some(epoch) => Some(epoch),
        None => plan.global("SOURCE_DATE_EPOCH").map(parse_epoch).transpose()?,
    };
    let images = find_images(store, &plan, options, progress, cancel)?;
    let configs: Configs = images.iter().map(|(base, image)| (base.clone(), image.config.clone())).collect();
    let graph = graph::lower(&plan, &configs)?;
    let contexts = open_contexts(store, options, path.as_deref())?;
    let settings = Settings {
        secrets: &options.secrets,
        agents: &options.agents,
        shm_size: options.shm_size,
        ulimits: &options.ulimits,
    };
    let engine = Engine {
        store,
        records: Records::open(store)?,
        progress,
        source: &file.source,
        contexts,
        images,
        runner: Runner::new(store, server, host, settings)?,
        clock: Clock { now: crate::time::now(), clamp },
        backend: options.backend.backend(),
        no_cache: &options.no_cache,
        cancel,
        slots: schedule::slots(options.jobs),
        flights: schedule::flights(),
    };
    let built = schedule::carry_out(&engine, &graph);
    for context in engine.contexts.values() {
        // Only speed is lost where this fails.
        let _ = context.stats.save();
    }
    finish(&engine, &graph, &built?, options)
}

fn finish(engine: &Engine<'_>, graph: &Graph, result: &schedule::StageResult, options: &BuildOptions) -> Result<Built> {
    let image = output::assemble(engine, graph, result, options)?;
    output::deliver(engine, &image, result, options)
}

/// The seconds of `SOURCE_DATE_EPOCH`.
///
/// # Errors
/// It is not a number.
pub(crate) fn parse_epoch(text: &str) -> Result<i64> {
    text.trim().parse().map_err(|_| {
        Error::new(Kind::Invalid, format!("SOURCE_DATE_EPOCH `{}` is not a number of seconds", text.escape_debug()))
    })
}

/// The Dockerfile, and where it lies if it is a file.
fn load_dockerfile(options: &BuildOptions) -> Result<(Dockerfile, Option<PathBuf>)> {
    let context = options.context.as_deref();
    let (bytes, name, path) = match &options.dockerfile {
        DockerfileSource::Bytes(bytes) => (bytes.clone(), "Dockerfile".to_owned(), None),
        DockerfileSource::File(path) => (read(path)?, path.display().to_string(), Some(path.clone())),
        DockerfileSource::Default => {
            let Some(context) = context else {
                return Err(Error::new(Kind::Usage, "this build has neither a context nor a Dockerfile")
                    .hint("name a folder, such as `build .`, or a file with -f"));
            };
            if !context.is_dir() {
                return Err(Error::new(Kind::NotFound, format!("the context `{}` is not a folder", context.display()))
                    .hint("name the folder that COPY takes files from, such as `build .`"));
            }
            let candidates = ["Dockerfile", "Containerfile"].map(|name| context.join(name));
            let found = candidates.iter().find(|path| path.is_file()).ok_or_else(|| {
                Error::new(Kind::NotFound, format!("`{}` has no Dockerfile", context.display()))
                    .hint("name the file with -f if it is called otherwise")
            })?;
            let name = found.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            (read(found)?, name, Some(found.clone()))
        }
    };
    let parsed = dockerfile::parse(&bytes, &name).map_err(Error::from)?;
    Ok((parsed, path))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let size = fs::metadata(path).at("open", path)?.len();
    if size > DOCKERFILE_MAX {
        return Err(Error::new(Kind::Limit, format!("`{}` has {size} bytes; no Dockerfile has", path.display())));
    }
    fs::read(path).at("read", path)
}

/// Every image that the target needs, pulled where it is missing, several at once. What a base's triggers need is
/// known only when the base is, so this goes round until nothing new turns up.
fn find_images(
    store: &Store,
    plan: &Plan<'_>,
    options: &BuildOptions,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<HashMap<BaseImage, Image>> {
    let mut images: HashMap<BaseImage, Image> = HashMap::new();
    let mut configs = Configs::new();
    loop {
        cancel.check()?;
        let (_, needed) = plan.reach(&configs)?;
        let missing: Vec<BaseImage> = needed.into_iter().filter(|base| !images.contains_key(base)).collect();
        if missing.is_empty() {
            return Ok(images);
        }
        let find = |base: &BaseImage| {
            images::find(store, base, options.pull, &options.registry, progress)
                .map_err(|error| tell(plan, base, error))
        };
        let found: Vec<Result<Image>> = std::thread::scope(|scope| {
            let threads: Vec<_> = missing.iter().map(|base| scope.spawn(move || find(base))).collect();
            let gone = || Err(Error::new(Kind::System, "a thread ended early"));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| gone())).collect()
        });
        for (base, image) in missing.into_iter().zip(found) {
            let image = image?;
            configs.insert(base.clone(), image.config.clone());
            images.insert(base, image);
        }
    }
}

/// Shows where a base image that cannot be had is named.
fn tell(plan: &Plan<'_>, base: &BaseImage, error: Error) -> Error {
    let Some(span) = plan.place_of(base) else { return error };
    let placed = ParseError::new(plan.source(), span, error.chain());
    let told = Error::new(error.kind(), placed.to_string());
    match error.advice() {
        Some(hint) => told.hint(hint),
        None => told,
    }
}

fn open_contexts(
    store: &Store,
    options: &BuildOptions,
    dockerfile: Option<&Path>,
) -> Result<HashMap<Option<String>, Context>> {
    let mut contexts = HashMap::new();
    let open = |label: String, root: &Path, dockerfile: Option<&Path>| -> Result<Context> {
        let root = fs::canonicalize(root).at("open the context", root)?;
        if !root.is_dir() {
            return Err(Error::new(Kind::Usage, format!("the context `{}` is not a folder", root.display())));
        }
        let ignore = ignore_file(&root, options.ignore_file.as_deref(), dockerfile)?;
        Ok(Context::new(Tree::new(label, root, ignore), &store.cache_dir()))
    };
    if let Some(root) = &options.context {
        contexts.insert(None, open("the build context".to_owned(), root, dockerfile)?);
    }
    for (name, root) in &options.contexts {
        contexts.insert(Some(name.clone()), open(format!("the build context `{name}`"), root, None)?);
    }
    Ok(contexts)
}

/// What stays out of a context: the file of the command line, else the one named after the Dockerfile, else the
/// context's own.
fn ignore_file(root: &Path, named: Option<&Path>, dockerfile: Option<&Path>) -> Result<Ignore> {
    let beside = dockerfile.map(|path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".dockerignore");
        PathBuf::from(name)
    });
    let own = [".containerignore", ".dockerignore"].map(|name| root.join(name));
    let candidates = named.map(Path::to_owned).into_iter().chain(beside).chain(own);
    for path in candidates {
        match fs::read(&path) {
            Ok(bytes) => {
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                return Ignore::parse(&bytes, &name).map_err(Error::from);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && Some(path.as_path()) != named => {}
            Err(error) => return Err(error).at("read", &path),
        }
    }
    Ok(Ignore::default())
}
