//! One stage: its steps in order, each looked up, and done where it was not done before.

use std::collections::HashMap;
use std::sync::Arc;

use layerfs::error::{Error, Kind, Result};
use layerfs::layer::MergedView;

use super::once::{Promise, Turn};
use super::{Engine, Origins, Stack, StageResult};
use crate::cache::{Key, KeyBuilder, Outcome, Used};
use crate::dockerfile::ParseError;
use crate::dockerfile::remote::Remote;
use crate::exec::copy_add::{self, Prepared};
use crate::exec::placement::{self, Found, Placement};
use crate::exec::{identity, run_step};
use crate::files::{self, Owners, Request, Selection, Tree};
use crate::graph::{Action, Copy, Fetch, Origin, Run, Source, Stage, Step, Workdir};
use crate::progress::{End, StepId, Stream};
use crate::time::rfc3339;

/// Builds one stage.
pub(super) fn build(
    engine: &Engine<'_>,
    stage: &Stage,
    promises: &HashMap<usize, Promise<StageResult>>,
) -> Result<StageResult> {
    let origins = Origins { engine, promises };
    let (mut stack, mut history) = match &stage.base {
        Origin::Stage(index) => {
            let below = origins.stage(*index)?;
            (below.stack, below.history)
        }
        base => (origins.stack(base)?.unwrap_or_default(), Vec::new()),
    };
    if let Some(title) = &stage.base_title {
        base(engine, title, &stack)?;
    }
    for step in &stage.steps {
        engine.cancel.check()?;
        let Some(title) = &step.title else {
            history.push((step.created_by.clone(), None));
            continue;
        };
        // A step begins when what it needs is there.
        for origin in step.action.origins() {
            origins.stack(origin)?;
        }
        let id = engine.progress.start(title);
        let repeats = repeats(&history, step);
        let worker = Worker { engine, stage, step, origins: &origins, stack: &stack, repeats, id };
        match worker.step() {
            Ok((outcome, end)) => {
                engine.progress.end(id, &end);
                if let Some(layer) = outcome.as_ref().and_then(|outcome| outcome.layer) {
                    stack.push(layer);
                }
                history.push((step.created_by.clone(), outcome));
            }
            Err(error) => return Err(worker.tell(error)),
        }
    }
    Ok(StageResult { stack, history })
}

/// How often the same step was done since files last changed: whoever writes one twice wants it done twice.
fn repeats(history: &[(String, Option<Outcome>)], step: &Step) -> usize {
    let unchanged = history.iter().rev().take_while(|(_, outcome)| outcome.as_ref().is_none_or(|o| o.layer.is_none()));
    unchanged.filter(|(created_by, _)| *created_by == step.created_by).count()
}

/// Shows the base image as the stage's first step, and unpacks it.
fn base(engine: &Engine<'_>, title: &str, stack: &Stack) -> Result<()> {
    let id = engine.progress.start(title);
    let there = stack.is_unpacked(engine.store)?;
    let unpacked = stack.lowers(engine.store);
    let end = match &unpacked {
        Ok(_) if there => End::Cached,
        Ok(_) => End::Done,
        Err(error) => End::Failed(error.chain()),
    };
    engine.progress.end(id, &end);
    unpacked.map(drop)
}

/// Whether a name that is copied into a folder is there already; where the names are not known, it may be.
fn meets_others(view: &MergedView, placement: &Placement, selected: Option<&Selection>) -> Result<bool> {
    use std::os::unix::ffi::OsStrExt;
    let Some(selected) = selected else { return Ok(true) };
    let there = view.read_dir(std::ffi::OsStr::from_bytes(&placement.path))?.unwrap_or_default();
    Ok(there.iter().any(|name| selected.has_name(name.as_bytes())))
}

struct Worker<'a> {
    engine: &'a Engine<'a>,
    stage: &'a Stage,
    step: &'a Step,
    origins: &'a Origins<'a>,
    stack: &'a Stack,
    repeats: usize,
    id: StepId,
}

/// What a step yielded, and how progress calls it.
type Ended = (Option<Outcome>, End);

impl Worker<'_> {
    fn step(&self) -> Result<Ended> {
        match &self.step.action {
            Action::Configure => Ok((None, End::Cached)),
            Action::Run(run) => self.run(run),
            Action::Copy(copy) => self.copy(copy),
            Action::Workdir(workdir) => self.workdir(workdir),
        }
    }

    /// The result recorded under `key`, or that of `work`, which is then recorded.
    fn once(&self, key: Key, work: impl FnOnce() -> Result<Option<crate::cache::Layer>>) -> Result<Ended> {
        let engine = self.engine;
        let settle = match engine.flights.take(key) {
            Turn::Other(Some(outcome)) => return Ok((Some(self.used(key, outcome)), End::Cached)),
            Turn::Other(None) => return Err(Error::new(Kind::Interrupted, "the build was stopped")),
            Turn::Own(settle) => settle,
        };
        if !engine.no_cache.covers(&self.stage.label)
            && let Some(outcome) = self.known(&key)?
        {
            settle.with(outcome.clone());
            return Ok((Some(self.used(key, outcome)), End::Cached));
        }
        let slot = engine.slots.take();
        engine.cancel.check()?;
        let layer = work()?;
        drop(slot);
        let created = rfc3339(engine.clock.clamp.unwrap_or_else(crate::time::now));
        let outcome = Outcome { layer, created };
        let title = self.step.title.as_deref().unwrap_or_default();
        engine.records.keep(&key, &outcome, title, &self.stack.diff_ids())?;
        settle.with(outcome.clone());
        Ok((Some(self.used(key, outcome)), End::Done))
    }

    /// What was built before, here or elsewhere.
    fn known(&self, key: &Key) -> Result<Option<Outcome>> {
        let engine = self.engine;
        if let Some(outcome) = engine.records.find(key)? {
            return Ok(Some(outcome));
        }
        let Some(outcome) = engine.shared.find(key) else { return Ok(None) };
        let title = self.step.title.as_deref().unwrap_or_default();
        engine.records.keep(key, &outcome, title, &self.stack.diff_ids())?;
        Ok(Some(outcome))
    }

    /// Notes a result for those who are to have it.
    fn used(&self, key: Key, outcome: Outcome) -> Outcome {
        let used = Used { stage: self.stage.index, key, outcome: outcome.clone() };
        self.engine.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(used);
        outcome
    }

    /// Keys carry the limit on times: it changes what a step yields.
    fn key(&self, kind: &str) -> KeyBuilder {
        let epoch = self.engine.clock.clamp.map_or_else(String::new, |epoch| epoch.to_string());
        KeyBuilder::new(kind).with("epoch", epoch)
    }

    fn run(&self, run: &Run) -> Result<Ended> {
        let mounts = run_step::resolve_mounts(self.engine, self.origins, run)?;
        let mut key = run_step::describe(self.key("run/1"), run, &mounts)
            .with("platform", self.stage.platform.to_string())
            .on(self.stack.chain());
        if self.repeats > 0 {
            key = key.with("repeats", self.repeats.to_string());
        }
        self.once(key.finish(), || run_step::run(self.engine, run, &mounts, self.stack, self.origins, self.id))
    }

    fn workdir(&self, workdir: &Workdir) -> Result<Ended> {
        let view = self.origins.view(self.stack)?;
        let placement = placement::resolve(&view, &workdir.path, true)?;
        let owner = match workdir.user.as_str() {
            "" => (0, 0),
            user => identity::owner(&view, user)?,
        };
        let key = placement.describe(self.key("workdir/1").with("owner", format!("{owner:?}"))).finish();
        self.once(key, || copy_add::write_folder(self.engine.store, &placement, owner, self.engine.clock))
    }

    fn copy(&self, copy: &Copy) -> Result<Ended> {
        let engine = self.engine;
        let fetched = self.fetch(copy)?;
        let remotes: Vec<files::Remote> = fetched.iter().map(|(_, remote)| remote.clone()).collect();
        let request =
            Request { sources: &copy.sources, parents: copy.parents, exclude: &copy.exclude, fetched: &remotes };
        let owners = Owners { kept: copy.chown.is_none(), chmod: copy.chmod.as_ref() };
        let view = self.origins.view(self.stack)?;
        let placement = placement::resolve(&view, &copy.destination, !copy.link)?;
        let owner = copy.chown.as_deref().map(|chown| identity::owner(&view, chown)).transpose()?;
        let mut key = self.key("copy/1");
        let mut mounted: Option<(Tree, Selection)> = None;
        let needs_files = !self.step.action.origins().is_empty();
        let context = match &copy.origin {
            Origin::Context | Origin::Named(_) if needs_files => Some(self.origins.context(&copy.origin)?),
            _ => None,
        };
        let selected = match context {
            Some(context) => Some(files::select(&context.tree, &request)?),
            None => None,
        };
        let stack = match needs_files && context.is_none() {
            true => self.origins.stack(&copy.origin)?.unwrap_or_default(),
            false => Stack::default(),
        };
        let open = || -> Result<(Tree, Selection)> {
            let tree = self.origins.mount(&copy.origin, &stack)?;
            let selection = files::select(&tree, &request)?;
            Ok((tree, selection))
        };
        let digest = match (context, &selected) {
            (Some(context), Some(selection)) => {
                // Who owns a developer's files is no part of an image.
                let owners = Owners { kept: false, ..owners };
                files::digest(&context.tree, selection, owners, Some(&context.stats))?
            }
            _ => {
                // The files of layers never change, so what was digested once is known.
                let known = Self::tree_key(&stack, copy, &request);
                match engine.records.tree_digest(&known).filter(|_| remotes.is_empty()) {
                    Some(digest) => digest,
                    None if !remotes.is_empty() => {
                        let (tree, selection) = open()?;
                        let digest = files::digest(&tree, &selection, Owners { kept: false, ..owners }, None)?;
                        mounted = Some((tree, selection));
                        digest
                    }
                    None => {
                        let (tree, selection) = open()?;
                        let digest = files::digest(&tree, &selection, owners, None)?;
                        engine.records.keep_tree_digest(&known, &digest)?;
                        mounted = Some((tree, selection));
                        digest
                    }
                }
            }
        };
        key = key
            .with("files", digest.to_string())
            .with("owner", format!("{owner:?}"))
            .with("mode", format!("{:?}", copy.chmod))
            .with("unpack", format!("{:?}", copy.unpack))
            .with_all("fetched", fetched.iter().map(|(identity, _)| identity))
            .with("folder", format!("{}", copy.destination.ends_with('/') || copy.parents));
        key = placement.describe(key);
        if placement.found == Found::Folder && meets_others(&view, &placement, selected.as_ref())? {
            // What is in the folder may stand in the way of what is copied into it.
            key = key.on(self.stack.chain());
        }
        self.once(key.finish(), || {
            let (tree, selection) = match (context, &selected) {
                (Some(context), Some(selection)) => (&context.tree, selection),
                _ => {
                    if mounted.is_none() {
                        mounted = Some(open()?);
                    }
                    let (tree, selection) = mounted.as_ref().expect("it was just mounted");
                    (tree, selection)
                }
            };
            let prepared = Prepared { copy, tree, selection, placement: &placement, owner };
            copy_add::write_copy(engine.store, &prepared, &view, engine.clock)
        })
    }

    /// Fetches the sources that are elsewhere; what identifies each, and its files.
    fn fetch(&self, copy: &Copy) -> Result<Vec<(String, files::Remote)>> {
        let log = |text: &str| self.engine.progress.log(self.id, Stream::Out, text.as_bytes());
        let one = |fetch: &Fetch| -> Result<(String, files::Remote)> {
            let fetched = self.engine.fetcher.get(&fetch.remote, fetch.checksum.as_deref(), &log)?;
            let (tree, path) = fetched.tree(&fetch.written);
            // A file's time is part of what is copied. A commit says what its files are; what git keeps beside them
            // (`--keep-git-dir`) is not the same twice.
            let (identity, known) = match &fetch.remote {
                Remote::File(_) => (fetched.identity.clone(), false),
                Remote::Git(git) => (format!("{} {git:?} {:?}", fetched.identity, copy.exclude), true),
            };
            let path = path.to_owned();
            Ok((identity, files::Remote { tree: Arc::new(tree), path, known }))
        };
        let remote = |source: &_| match source {
            Source::Remote(fetch) => Some(one(fetch)),
            _ => None,
        };
        copy.sources.iter().filter_map(remote).collect()
    }

    fn tree_key(stack: &Stack, copy: &Copy, request: &Request<'_>) -> Key {
        KeyBuilder::new("tree/1")
            .on(stack.chain())
            .with_all("source", request.sources.iter().map(|source| format!("{source:?}")))
            .with_all("exclude", request.exclude)
            .with("parents", format!("{}", request.parents))
            .with("owned", format!("{}", copy.chown.is_none()))
            .with("mode", format!("{:?}", copy.chmod))
            .finish()
    }

    /// Shows the place of a failure, and ends the step.
    fn tell(&self, error: Error) -> Error {
        let progress = self.engine.progress;
        if error.kind() == Kind::Interrupted
            || (self.engine.cancel.is_stopped() && matches!(error.kind(), Kind::Exit(_)))
        {
            progress.end(self.id, &End::Canceled);
            return Error::new(Kind::Interrupted, "the build was stopped");
        }
        progress.end(self.id, &End::Failed(error.chain()));
        let mut placed = ParseError::new(self.engine.source, self.step.span, error.chain()).to_string();
        let tail = progress.tail(self.id);
        if matches!(error.kind(), Kind::Exit(_)) && !tail.is_empty() {
            placed.push_str("\nits last output:");
            for line in &tail {
                placed.push_str("\n  ");
                placed.push_str(line);
            }
        }
        let told = Error::new(error.kind(), placed);
        match error.advice() {
            Some(hint) => told.hint(hint),
            None => told,
        }
    }
}
