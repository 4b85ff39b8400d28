//! A build from its options to its result.

mod inputs;
mod inspect;
mod verify;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use layerfs::digest::Digest;
use layerfs::error::{Error, Kind, Result};
use layerfs::oci::{Descriptor, Platform};
use layerfs::store::{Image, Store};
use run::spec::HostFacts;
use run::step::Server;

use crate::cache::{self, Records, Shared};
use crate::dockerfile::ast::{Dockerfile, Warning};
use crate::dockerfile::{ParseError, lint};
use crate::exec::chroot::Trees;
use crate::exec::copy_add::Clock;
use crate::exec::run_step::{Runner, Settings};
use crate::fetch::{self, Fetcher};
use crate::foreign;
use crate::graph::{self, BaseImage, Configs, Graph, Plan};
use crate::images;
use crate::options::{BuildOptions, Call, Isolation};
use crate::output::{self, Assembled};
use crate::progress::{End, Progress};
use crate::schedule::{self, Cancel, Common, Engine, StageResult};
use inputs::Inputs;

/// What a build made.
#[derive(Clone, Debug)]
pub struct Built {
    /// The image's id: the digest of its configuration; of several platforms that of the index.
    pub id: Digest,
    /// Its manifest in the store, or the index of several.
    pub manifest: Descriptor,
    /// What was pushed: name and manifest in the registry.
    pub pushed: Vec<(String, Descriptor)>,
    /// What should be written otherwise, as lines for people; empty where there is nothing.
    pub warnings: String,
}

/// The result of a build's options.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// An image.
    Built(Box<Built>),
    /// `--call`: a text, and whether it tells of errors.
    Told(String, bool),
}

/// One platform's image.
pub(crate) struct Made {
    pub(crate) platform: Platform,
    pub(crate) image: Assembled,
    pub(crate) result: StageResult,
}

/// Builds what `options` say. `server` was forked before this process had threads; isolation by chroot needs none.
///
/// # Errors
/// The Dockerfile is wrong, something it needs is missing, a step failed (`Kind::Exit` with its own code), or the
/// result cannot be written. The store then holds the layers of the steps that were done, for the next build.
pub fn build(
    store: &Store,
    server: Option<Arc<Server>>,
    host: HostFacts,
    options: &BuildOptions,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Outcome> {
    build_beside(store, server, host, options, progress, cancel, &Common::new(options.jobs))
}

/// The same beside other builds, with which it shares `common`.
pub(crate) fn build_beside(
    store: &Store,
    server: Option<Arc<Server>>,
    host: HostFacts,
    options: &BuildOptions,
    progress: &Progress,
    cancel: &Cancel,
    common: &Common,
) -> Result<Outcome> {
    // Nothing that is made here is collected before it has a name.
    let _pin = store.pin()?;
    if let Some(server) = &server {
        cancel.covers(server);
    }
    let settings = fetch::Settings {
        verify: options.registry.source.tls_verify != Some(false),
        retries: options.registry.retries,
        agent: options.agents.first().map(|(_, socket)| socket.clone()),
    };
    let fetcher = Fetcher::new(store, settings, cancel);
    let inputs = Inputs::fetch(store, &fetcher, options, progress)?;
    let id = progress.start("[internal] load build definition");
    let loaded = inputs.dockerfile();
    progress.end(id, &loaded.as_ref().map_or_else(|error| End::Failed(error.to_string()), |_| End::Done));
    let (file, path) = loaded?;
    let ignore = inputs.ignored(options, path.as_deref())?;
    match options.call {
        Some(Call::Targets(form)) => return inspect::targets(&file, form).map(|text| Outcome::Told(text, false)),
        Some(Call::Outline(form)) => {
            return inspect::outline(&file, &options.graph, form).map(|text| Outcome::Told(text, false));
        }
        _ => {}
    }
    let per_platform: Vec<graph::Options> = options.for_platforms();
    let plans = per_platform.iter().map(|options| graph::plan(&file, options)).collect::<Result<Vec<_>>>()?;
    for name in plans[0].unused_arguments() {
        progress.note(&format!("the build argument `{name}` is not asked for by any ARG"));
    }
    let epoch = epoch(&plans[0], options)?;
    if epoch.is_none() && options.rewrite_timestamp == Some(true) {
        progress.note("rewrite-timestamp has no time to write: SOURCE_DATE_EPOCH is not set");
    }
    let clamp = epoch.filter(|_| options.rewrite_timestamp != Some(false));
    let mut images = HashMap::new();
    for plan in &plans {
        find_images(store, plan, options, progress, cancel, &mut images)?;
    }
    let configs: Configs = images.iter().map(|(base, image)| (base.clone(), image.config.clone())).collect();
    let graphs = plans.iter().map(|plan| graph::lower(plan, &configs)).collect::<Result<Vec<_>>>()?;
    let checks = check_options(&file, &plans[0])?;
    let mut warnings = lint::check(&file, &checks, Some(&ignore));
    warnings.extend(lint::select(&checks, &graphs[0].findings));
    warnings.sort_by(|a, b| (a.span.start, &a.message).cmp(&(b.span.start, &b.message)));
    warnings.dedup();
    if let Some(Call::Check(form)) = options.call {
        let text = inspect::check(&file, &warnings, form);
        return Ok(Outcome::Told(text, checks.error && !warnings.is_empty()));
    }
    fail_on(&file, &checks, &warnings)?;
    for graph in &graphs {
        foreign::check(graph, &file.source)?;
    }
    let settings = Settings { secrets: &options.secrets, agents: &options.agents, steps: &options.steps };
    let ahead = output::Ahead::new(options);
    let second = Common::new(options.jobs);
    let mut engine = Engine {
        store,
        records: Records::open(store)?,
        shared: Shared::open(store, &options.cache_from, &options.registry, progress)?,
        mounts: Mutex::default(),
        used: Mutex::default(),
        progress,
        source: &file.source,
        contexts: inputs.contexts(store, options, path.as_deref())?,
        images,
        runner: Runner::new(store, server, host, settings)?,
        plain: (options.isolation == Isolation::Chroot).then(Trees::default),
        fetcher,
        clock: Clock { now: crate::time::now(), epoch, clamp },
        backend: options.backend.backend(),
        no_cache: &options.no_cache,
        ahead: Mutex::default(),
        delivered: graphs.iter().flat_map(graph::chain).collect(),
        keeps: true,
        explain: options.explain,
        cancel,
        common,
    };
    let results = std::thread::scope(|scope| {
        if let Some(ahead) = &ahead {
            let (sender, layers) = std::sync::mpsc::channel();
            *engine.ahead.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(sender);
            scope.spawn(move || ahead.work(store, &layers, cancel));
        }
        let results = carry_out_all(&engine, &graphs);
        // What was begun is finished before the outputs ask for it.
        drop(engine.ahead.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
        results
    });
    for context in engine.contexts.values() {
        // Only speed is lost where this fails.
        let _ = context.stats.save();
    }
    let results = results?;
    if options.verify {
        verify::again(&mut engine, &second, &graphs)?;
    }
    let mut built = finish(&engine, &graphs, results, options)?;
    built.warnings = inspect::warnings(&file, &warnings);
    Ok(Outcome::Built(Box::new(built)))
}

/// Platforms are built side by side; what they have in common is done once.
fn carry_out_all(engine: &Engine<'_>, graphs: &[Graph]) -> Result<Vec<StageResult>> {
    if let [graph] = graphs {
        return schedule::carry_out(engine, graph).map(|result| vec![result]);
    }
    let results: Vec<Result<StageResult>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            graphs.iter().map(|graph| scope.spawn(move || schedule::carry_out(engine, graph))).collect();
        let gone = || Err(Error::new(Kind::System, "a thread ended early"));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| gone())).collect()
    });
    // The reason is told, not what was stopped because of it.
    let (mut done, mut failed): (Vec<StageResult>, Option<Error>) = (Vec::new(), None);
    for result in results {
        match result {
            Ok(result) => done.push(result),
            Err(error) if failed.as_ref().is_none_or(|first| first.kind() == Kind::Interrupted) => failed = Some(error),
            Err(_) => {}
        }
    }
    failed.map_or(Ok(done), Err)
}

fn finish(engine: &Engine<'_>, graphs: &[Graph], results: Vec<StageResult>, options: &BuildOptions) -> Result<Built> {
    let mut made = Vec::new();
    for (graph, mut result) in graphs.iter().zip(results) {
        if options.squash {
            let base = graph::base_image(graph).map_or(0, |base| engine.images[base].layers().count());
            output::squash(engine, &mut result, base)?;
        }
        let image = output::assemble(engine, graph, &result, options)?;
        made.push(Made { platform: graph.target().platform.clone(), image, result });
    }
    let built = output::deliver(engine, &made, options)?;
    let chains: Vec<usize> = graphs.iter().flat_map(graph::chain).collect();
    let mounts = engine.mounts.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    let mounts: Vec<_> = mounts.into_iter().collect();
    for to in &options.cache_to {
        let used = engine.used_by((!to.max).then_some(&chains[..]));
        if let Err(error) = cache::export(engine.store, to, &used, &mounts, &options.registry, engine.progress) {
            // The image is there; the next build is slower, that is all.
            engine.progress.note(&format!("a cache was not written: {}", error.chain()));
        }
    }
    Ok(built)
}

fn epoch(plan: &Plan<'_>, options: &BuildOptions) -> Result<Option<i64>> {
    match options.epoch {
        Some(epoch) => Ok(Some(epoch)),
        None => plan.global("SOURCE_DATE_EPOCH").map(parse_epoch).transpose(),
    }
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

/// How the file is to be checked: `BUILDKIT_DOCKERFILE_CHECK` goes before its own directive.
fn check_options(file: &Dockerfile, plan: &Plan<'_>) -> Result<crate::dockerfile::ast::Check> {
    match plan.global("BUILDKIT_DOCKERFILE_CHECK") {
        Some(text) => lint::parse_options(text).map_err(Error::from),
        None => Ok(lint::options(file)),
    }
}

/// `check=error=true`: findings are errors.
fn fail_on(file: &Dockerfile, checks: &crate::dockerfile::ast::Check, warnings: &[Warning]) -> Result<()> {
    match warnings.first() {
        Some(first) if checks.error => {
            let told = ParseError::new(&file.source, first.span, format!("{}: {}", first.rule, first.message));
            let hint = lint::rule(first.rule).map_or("", |rule| rule.hint);
            Err(Error::new(Kind::Invalid, told.to_string())
                .hint(format!("{hint} (the file says check=error=true, so this is an error)")))
        }
        _ => Ok(()),
    }
}

/// Every image that the target needs, pulled where it is missing, several at once. What a base's triggers need is
/// known only when the base is, so this goes round until nothing new turns up.
fn find_images(
    store: &Store,
    plan: &Plan<'_>,
    options: &BuildOptions,
    progress: &Progress,
    cancel: &Cancel,
    images: &mut HashMap<BaseImage, Image>,
) -> Result<()> {
    let mut configs: Configs = images.iter().map(|(base, image)| (base.clone(), image.config.clone())).collect();
    loop {
        cancel.check()?;
        let (_, needed) = plan.reach(&configs)?;
        let missing: Vec<BaseImage> = needed.into_iter().filter(|base| !images.contains_key(base)).collect();
        if missing.is_empty() {
            return Ok(());
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
