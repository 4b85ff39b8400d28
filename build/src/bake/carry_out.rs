//! Builds all targets of a plan side by side.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use layerfs::error::{Error, Kind, Result};
use layerfs::store::Store;
use run::spec::HostFacts;
use run::step::Server;

use super::plan::Plan;
use super::target::Target;
use crate::cli::{self, Command, ContextArgument, Invocation, Surroundings};
use crate::engine::{Outcome, build_beside};
use crate::graph::NamedContext;
use crate::options::{BuildOptions, DockerfileSource};
use crate::output::Output;
use crate::progress::Progress;
use crate::schedule::{Cancel, Common};

/// What became of each target, by its name.
pub type BakeOutcome = BTreeMap<String, Outcome>;

impl Plan {
    /// The options of every target's build, with `words` (flags of all of them) before its own.
    ///
    /// # Errors
    /// A target asks for what its build cannot do; told with its name.
    pub fn builds(&self, words: &[String], surroundings: &Surroundings<'_>) -> Result<BTreeMap<String, BuildOptions>> {
        let one = |(name, target): (&String, &Target)| {
            let options = options(target, words, surroundings).map_err(|error| {
                let told = Error::new(error.kind(), format!("target `{name}`: {error}"));
                match error.advice() {
                    Some(hint) => told.hint(hint.to_owned()),
                    None => told,
                }
            })?;
            Ok((name.clone(), options))
        };
        self.resolved.targets.iter().map(one).collect()
    }
}

fn options(target: &Target, words: &[String], surroundings: &Surroundings<'_>) -> Result<BuildOptions> {
    let own = target.command_line()?;
    let (verb, flags) = own.split_at(1);
    let line: Vec<OsString> = ["build"]
        .into_iter()
        .map(str::to_owned)
        .chain(verb.to_vec())
        .chain(words.to_vec())
        .chain(flags.to_vec())
        .map(OsString::from)
        .collect();
    let Command::Build(invocation) = cli::parse(&line, surroundings)? else {
        return Err(Error::new(Kind::Usage, "this is no build"));
    };
    let Invocation { mut options, context, .. } = *invocation;
    match context {
        ContextArgument::Folder(path) => options.context = Some(path),
        ContextArgument::Remote(remote) => {
            options.remote_context = Some(remote);
            options.context = None;
        }
        ContextArgument::Stdin => return Err(Error::new(Kind::Usage, "it cannot read standard input")),
    }
    if let Some(text) = &target.dockerfile_inline {
        options.dockerfile = DockerfileSource::Bytes(text.clone().into_bytes());
    }
    if target.linked {
        // What it is for others is in the store, without a name of its own.
        options.outputs = vec![Output::CacheOnly];
        options.tags.clear();
    }
    options.graph.called = target.name.clone();
    Ok(options)
}

/// Builds every target; those that others need go first, the rest at once. The first failure stops all.
///
/// # Errors
/// What failed first.
pub fn carry_out(
    store: &Store,
    server: Option<Arc<Server>>,
    host: &HostFacts,
    plan: &Plan,
    builds: BTreeMap<String, BuildOptions>,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<BakeOutcome> {
    let jobs = builds.values().map(|options| options.jobs).max().unwrap_or(1);
    let common = Common::new(jobs);
    let board = Board::default();
    let targets = &plan.resolved.targets;
    let needed: Vec<&str> = targets.values().flat_map(|target| target.links().map(|(_, name)| name)).collect();
    std::thread::scope(|scope| {
        for (name, mut options) in builds {
            let (board, common, server, host) = (&board, &common, server.clone(), host.clone());
            let is_needed = needed.contains(&name.as_str());
            let links: Vec<(String, String)> =
                targets[&name].links().map(|(context, target)| (context.to_owned(), target.to_owned())).collect();
            scope.spawn(move || {
                // Those who wait are told even if this thread panics.
                let _told = Told { board, name: &name };
                let work = || -> Result<Outcome> {
                    for (context, target) in links {
                        // To be told of a file nothing has to be built.
                        let image = match options.call {
                            Some(_) => "scratch".to_owned(),
                            None => board.wait(&target).ok_or_else(stopped)?,
                        };
                        options.graph.contexts.push((context, NamedContext::Image(image)));
                    }
                    if is_needed && !options.outputs.is_empty() && !keeps(&options) {
                        options.outputs.push(Output::store());
                    }
                    build_beside(store, server, host, &options, progress, cancel, common)
                };
                let done = work();
                if done.is_err() {
                    cancel.stop();
                }
                board.put(&name, done);
            });
        }
    });
    board.finish()
}

/// Whether a build leaves an image in the store that can be found.
fn keeps(options: &BuildOptions) -> bool {
    options.outputs.iter().any(|output| matches!(output, Output::Image { .. }))
}

fn stopped() -> Error {
    Error::new(Kind::Interrupted, "the build was stopped")
}

/// Results as they come.
#[derive(Default)]
struct Board {
    results: Mutex<BTreeMap<String, Result<Outcome>>>,
    first: Mutex<Option<Error>>,
    news: Condvar,
}

impl Board {
    fn put(&self, name: &str, result: Result<Outcome>) {
        let result = result.map_err(|error| {
            let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
            // What was stopped because of another failure is not the reason.
            if first.as_ref().is_none_or(|first| first.kind() == Kind::Interrupted) {
                *first = Some(error);
            }
            stopped()
        });
        self.results.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_insert(result);
        self.news.notify_all();
    }

    /// The name in the store of a target's image, waited for.
    fn wait(&self, name: &str) -> Option<String> {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match results.get(name) {
                Some(Ok(Outcome::Built(built))) => {
                    return Some(format!("localhost/untagged@{}", built.manifest.digest));
                }
                Some(_) => return None,
                None => results = self.news.wait(results).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn finish(self) -> Result<BakeOutcome> {
        if let Some(error) = self.first.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let results = self.results.into_inner().unwrap_or_else(PoisonError::into_inner);
        results.into_iter().map(|(name, result)| Ok((name, result?))).collect()
    }
}

struct Told<'a> {
    board: &'a Board,
    name: &'a str,
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        let there = self.board.results.lock().unwrap_or_else(PoisonError::into_inner).contains_key(self.name);
        if !there {
            self.board.put(self.name, Err(Error::new(Kind::System, "a thread ended early")));
        }
    }
}

/// What is known of every result, as JSON by target.
pub fn metadata(plan: &Plan, done: &BakeOutcome) -> String {
    let mut out = serde_json::Map::new();
    for (name, outcome) in done {
        if let Outcome::Built(built) = outcome {
            let target = &plan.resolved.targets[name];
            let mut about = serde_json::json!({
                "containerimage.descriptor": built.manifest,
                "containerimage.digest": built.manifest.digest.to_string(),
            });
            if target.platforms.as_ref().is_none_or(|platforms| platforms.len() < 2) {
                about["containerimage.config.digest"] = built.id.to_string().into();
            }
            if let Some(tags) = target.tags.as_ref().filter(|tags| !tags.is_empty()) {
                about["image.name"] = tags.join(",").into();
            }
            out.insert(name.clone(), about);
        }
    }
    format!("{:#}\n", serde_json::Value::Object(out))
}

/// What is said on standard output, whether it tells of errors, and the warnings.
pub fn tell(plan: &Plan, done: &BakeOutcome, as_json: bool) -> (String, bool, String) {
    let (mut text, mut failed, mut warnings) = (String::new(), false, String::new());
    let mut answers = serde_json::Map::new();
    for (name, outcome) in done {
        match outcome {
            Outcome::Built(built) => {
                if !plan.resolved.targets[name].linked {
                    text.push_str(&format!("{name} {}\n", built.id));
                }
                for (reference, descriptor) in &built.pushed {
                    text.push_str(&format!("{reference}@{}\n", descriptor.digest));
                }
                warnings.push_str(&built.warnings);
            }
            Outcome::Told(told, bad) if as_json => {
                failed |= bad;
                let call = plan.resolved.targets[name].call.clone().unwrap_or_default();
                let call = call.split(',').next().unwrap_or_default().to_owned();
                let answer: serde_json::Value = serde_json::from_str(told).unwrap_or_else(|_| told.as_str().into());
                answers.insert(
                    name.clone(),
                    serde_json::json!({ "build": plan.resolved.targets[name].print(), call: answer }),
                );
            }
            Outcome::Told(told, bad) => {
                failed |= bad;
                let space = if text.is_empty() { "" } else { "\n" };
                text.push_str(&format!("{space}{name}\n\n{told}"));
            }
        }
    }
    if !answers.is_empty() {
        text = format!("{:#}\n", serde_json::json!({ "target": answers }));
    }
    (text, failed, warnings)
}
