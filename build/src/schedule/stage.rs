//! One stage: its steps in order, each looked up, and done where it was not done before.

use std::collections::HashMap;
use std::thread::Scope;

use layerfs::error::{Error, Kind, Result};
use layerfs::layer::DiffOptions;

use super::beside::Beside;
use super::once::{Promise, Turn};
use super::pending::{self, Below, Changes, Freed, Keyed, Pending};
use super::{Engine, Origins, Stack, StageResult};
use crate::cache::{About, Inputs, Key, KeyBuilder, Layer, Outcome, explain};
use crate::compare;
use crate::dockerfile::ParseError;
use crate::exec::placement;
use crate::exec::{copy_add, identity, run_step};
use crate::graph::{Action, Origin, Run, Stage, Step, Workdir};
use crate::progress::{End, StepId, Stream};
use crate::time::rfc3339;

/// Files that `--explain` names of one step.
const EXPLAINED: usize = 20;

/// Builds one stage.
pub(super) fn build(
    engine: &Engine<'_>,
    stage: &Stage,
    promises: &HashMap<usize, Promise<StageResult>>,
) -> Result<StageResult> {
    let origins = Origins { engine, promises };
    let (stack, history) = match &stage.base {
        Origin::Stage(index) => {
            let below = origins.stage(*index)?;
            (below.stack, below.history)
        }
        base => (origins.stack(base)?.unwrap_or_default(), Vec::new()),
    };
    if let Some(title) = &stage.base_title {
        base(engine, title, &stack)?;
    }
    let beside = Beside::new(engine, stage, &origins);
    std::thread::scope(|scope| {
        let mut walk = Walk { engine, stage, origins: &origins, beside: &beside, stack, history, pending: None };
        let done = walk.steps(scope);
        // Whatever became of the last step, the one before it is kept.
        let kept = walk.settle();
        match (done, kept) {
            (Err(error), Err(reason)) if error.kind() == Kind::Interrupted => Err(reason),
            (Err(error), _) | (Ok(()), Err(error)) => Err(error),
            (Ok(()), Ok(())) => Ok(StageResult { stack: walk.stack, history: walk.history }),
        }
    })
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

/// How often the same step was done since files last changed: whoever writes one twice wants it done twice.
fn repeats(history: &[(String, Option<Outcome>)], step: &Step) -> usize {
    let unchanged = history.iter().rev().take_while(|(_, outcome)| outcome.as_ref().is_none_or(|o| o.layer.is_none()));
    unchanged.filter(|(created_by, _)| *created_by == step.created_by).count()
}

/// A stage in the making.
struct Walk<'a> {
    engine: &'a Engine<'a>,
    stage: &'a Stage,
    origins: &'a Origins<'a>,
    beside: &'a Beside<'a>,
    stack: Stack,
    history: Vec<(String, Option<Outcome>)>,
    /// The layer of the last step, where it is still packed.
    pending: Option<Pending>,
}

impl<'a> Walk<'a> {
    fn steps<'scope>(&mut self, scope: &'scope Scope<'scope, '_>) -> Result<()>
    where
        'a: 'scope,
    {
        let (engine, stage, beside) = (self.engine, self.stage, self.beside);
        for (number, step) in stage.steps.iter().enumerate() {
            engine.cancel.check()?;
            let Some(title) = &step.title else {
                self.history.push((step.created_by.clone(), None));
                continue;
            };
            // A step begins when what it needs is there. Whom it waits for may wait for the layer that is still packed.
            if step.action.origins().iter().any(|origin| matches!(origin, Origin::Stage(_))) {
                self.settle()?;
            }
            for origin in step.action.origins() {
                self.origins.stack(origin)?;
            }
            let id = engine.progress.start(title);
            let below = Below { stack: &self.stack, pending: self.pending.as_ref() };
            // What is still packed has changed files.
            let repeats = if self.pending.is_some() { 0 } else { repeats(&self.history, step) };
            let early = || beside.begin(scope, number, below.stack.clone());
            let worker = Worker {
                engine,
                stage,
                step,
                number,
                origins: self.origins,
                below,
                repeats,
                id,
                beside,
                early: &early,
            };
            let ended = worker.step().map_err(|error| worker.tell(error))?;
            let yielded = match ended {
                (Yield::Outcome(outcome), end) => {
                    engine.progress.end(id, &end);
                    self.settle()?;
                    self.push(outcome.as_ref());
                    self.history.push((step.created_by.clone(), outcome));
                    continue;
                }
                (Yield::Changes(changes), end) => {
                    engine.progress.end(id, &end);
                    changes
                }
            };
            let (changes, keyed, mark) = *yielded;
            let keyed = match keyed {
                Keyed::Open(key) => {
                    // Whoever has the same step to do waits for this one from now on.
                    let below = Below { stack: &self.stack, pending: self.pending.as_ref() };
                    let (key, inputs) = key.on(below.chain()?).finish_with_inputs();
                    match engine.common.flights.take(key) {
                        Turn::Own(settle) => Keyed::Known(key, inputs, settle),
                        // It was done elsewhere meanwhile; two results of the same key serve alike.
                        Turn::Other(_) => Keyed::Done(key, inputs),
                    }
                }
                known => known,
            };
            self.settle()?;
            let line = self.history.len();
            self.history.push((step.created_by.clone(), None));
            let created = rfc3339(engine.clock.created());
            let about = pending::About { keyed, mark, title: title.clone(), created, line };
            let pending = Pending::new(changes, about);
            let (archived, upper) = pending.work();
            let options = DiffOptions { clamp_mtime: engine.clock.clamp, ..DiffOptions::default() };
            scope.spawn(move || {
                let freed = Freed(archived);
                freed.0.make(engine.store, &upper, &options);
            });
            self.pending = Some(pending);
        }
        Ok(())
    }

    /// Puts the layer that was packed meanwhile into the store and the stage, and its result before those who wait.
    fn settle(&mut self) -> Result<()> {
        let Some(pending) = self.pending.take() else { return Ok(()) };
        let engine = self.engine;
        let layer = pending.publish(engine.store)?;
        let outcome = Outcome { layer: Some(layer), created: pending.created };
        let (key, inputs, settle) = match pending.keyed {
            Keyed::Known(key, inputs, settle) => (key, inputs, Some(settle)),
            Keyed::Done(key, inputs) => (key, inputs, None),
            Keyed::Open(key) => {
                let (key, inputs) = key.on(self.stack.chain()).finish_with_inputs();
                (key, inputs, None)
            }
        };
        if engine.keeps {
            let below = self.stack.diff_ids();
            engine.records.keep(&key, &outcome, About { title: &pending.title, inputs: &inputs, below: &below })?;
            engine.records.mark(&pending.mark)?;
        }
        if let Some(settle) = settle {
            settle.with(outcome.clone());
        }
        engine.note_used(self.stage.index, pending.title, key, &outcome);
        self.push(Some(&outcome));
        if let Some(line) = self.history.get_mut(pending.line) {
            line.1 = Some(outcome);
        }
        Ok(())
    }

    fn push(&mut self, outcome: Option<&Outcome>) {
        if let Some(layer) = outcome.and_then(|outcome| outcome.layer) {
            self.stack.push(layer);
            self.engine.send_ahead(self.stage.index, layer);
        }
    }
}

/// What a step yielded.
pub(super) enum Yield {
    /// A result, recorded; `None` for what has none.
    Outcome(Option<Outcome>),
    /// Changes that are packed while the next step runs, their key, and the key's mark.
    Changes(Box<(Changes, Keyed, Key)>),
}

/// What a step yielded, and how progress calls it.
pub(super) type Ended = (Yield, End);

pub(super) struct Worker<'a> {
    pub(super) engine: &'a Engine<'a>,
    pub(super) stage: &'a Stage,
    pub(super) step: &'a Step,
    /// The step's place in the stage.
    pub(super) number: usize,
    pub(super) origins: &'a Origins<'a>,
    pub(super) below: Below<'a>,
    /// How often the same was done just before, and changed nothing.
    repeats: usize,
    pub(super) id: StepId,
    pub(super) beside: &'a Beside<'a>,
    /// Begins what can be done beside this step; called once it is known that it takes time.
    pub(super) early: &'a dyn Fn(),
}

impl Worker<'_> {
    fn step(&self) -> Result<Ended> {
        match &self.step.action {
            Action::Configure => Ok((Yield::Outcome(None), End::Cached)),
            Action::Run(run) => self.run(run),
            Action::Copy(copy) => self.copy(copy),
            Action::Workdir(workdir) => self.workdir(workdir),
        }
    }

    /// The result recorded under the key, or that of `work`, which is then recorded.
    pub(super) fn once(&self, key: KeyBuilder, work: impl FnOnce(&Key) -> Result<Option<Layer>>) -> Result<Ended> {
        self.once_or_later(key, None, |key| work(key).map(run_step::Left::Layer))
    }

    /// The same for work that may leave changes to be packed; `mark` is the mark of the key then.
    fn once_or_later(
        &self,
        key: KeyBuilder,
        mark: Option<Key>,
        work: impl FnOnce(&Key) -> Result<run_step::Left>,
    ) -> Result<Ended> {
        let engine = self.engine;
        let (key, inputs) = key.finish_with_inputs();
        let settle = match engine.common.flights.take(key) {
            Turn::Other(Some(outcome)) => return Ok((self.used(key, outcome), End::Cached)),
            Turn::Other(None) => return Err(Error::new(Kind::Interrupted, "the build was stopped")),
            Turn::Own(settle) => settle,
        };
        if !engine.no_cache.covers(&self.stage.label)
            && let Some(outcome) = self.known(&key, &inputs)?
        {
            settle.with(outcome.clone());
            return Ok((self.used(key, outcome), End::Cached));
        }
        let before = if engine.explain { self.explain(&inputs)? } else { None };
        let slot = engine.common.slots.take();
        engine.cancel.check()?;
        let left = work(&key)?;
        drop(slot);
        let layer = match (left, mark) {
            (run_step::Left::Changes(changes), Some(mark)) => {
                let keyed = Keyed::Known(key, inputs, settle);
                return Ok((Yield::Changes(Box::new((changes, keyed, mark))), End::Done));
            }
            (left, _) => left.layer(engine)?,
        };
        if let Some(before) = before {
            self.explain_files(before, layer)?;
        }
        let created = rfc3339(engine.clock.created());
        let outcome = Outcome { layer, created };
        self.keep(&key, &outcome, &inputs)?;
        if let (Some(mark), true) = (mark, engine.keeps) {
            engine.records.mark(&mark)?;
        }
        settle.with(outcome.clone());
        Ok((self.used(key, outcome), End::Done))
    }

    /// What was built before, here or elsewhere.
    fn known(&self, key: &Key, inputs: &Inputs) -> Result<Option<Outcome>> {
        let engine = self.engine;
        if let Some(outcome) = engine.records.find(key)? {
            return Ok(Some(outcome));
        }
        let Some(outcome) = engine.shared.find(key) else { return Ok(None) };
        self.keep(key, &outcome, inputs)?;
        Ok(Some(outcome))
    }

    fn keep(&self, key: &Key, outcome: &Outcome, inputs: &Inputs) -> Result<()> {
        if !self.engine.keeps {
            return Ok(());
        }
        let title = self.step.title.as_deref().unwrap_or_default();
        let below = self.below.diff_ids()?;
        self.engine.records.keep(key, outcome, About { title, inputs, below: &below })
    }

    /// Tells why the step was not found; gives the earlier layer where it takes a look at the new one to say more.
    fn explain(&self, inputs: &Inputs) -> Result<Option<Layer>> {
        let say = |text: &str| {
            self.engine.progress.log(self.id, Stream::Out, format!("not cached: {text}\n").as_bytes());
        };
        let title = self.step.title.as_deref().unwrap_or_default();
        let Some((before, outcome)) = self.engine.records.nearest(title, inputs)? else {
            say("no step of this name was built before");
            return Ok(None);
        };
        let found = explain::differences(&before, inputs);
        if found.is_empty() {
            say("its result is there, and was not asked for or is no longer whole");
        }
        let only_files = found.iter().any(|one| one.name == "files");
        found.iter().filter(|one| one.name != "files").for_each(|one| say(&one.tell()));
        if only_files && outcome.layer.is_none() {
            say("the files changed");
        }
        Ok(outcome.layer.filter(|_| only_files))
    }

    /// Tells which files a copy has that the one before did not have so.
    fn explain_files(&self, before: Layer, layer: Option<Layer>) -> Result<()> {
        let mut text = String::new();
        let differences = compare::layers(self.engine.store, Some(before), layer)?;
        let found: Vec<String> = differences.iter().filter_map(compare::Difference::of_files).collect();
        for one in found.iter().take(EXPLAINED) {
            text.push_str(&format!("not cached: {one}\n"));
        }
        if found.len() > EXPLAINED {
            text.push_str(&format!("not cached: and {} more files\n", found.len() - EXPLAINED));
        }
        self.engine.progress.log(self.id, Stream::Out, text.as_bytes());
        Ok(())
    }

    /// Notes a result for those who are to have it.
    fn used(&self, key: Key, outcome: Outcome) -> Yield {
        let title = self.step.title.clone().unwrap_or_default();
        self.engine.note_used(self.stage.index, title, key, &outcome);
        Yield::Outcome(Some(outcome))
    }

    /// Keys carry the limit on times: it changes what a step yields.
    pub(super) fn key(&self, kind: &str) -> KeyBuilder {
        KeyBuilder::new(kind).with("epoch", self.engine.clock.describe())
    }

    fn run(&self, run: &Run) -> Result<Ended> {
        let engine = self.engine;
        let mounts = run_step::resolve_mounts(engine, self.origins, run)?;
        let mut key =
            run_step::describe(self.key("run/1"), run, &mounts).with("platform", self.stage.platform.to_string());
        if self.repeats > 0 {
            key = key.with("repeats", self.repeats.to_string());
        }
        let mark = key.clone().finish();
        let work = || {
            (self.early)();
            run_step::run(engine, run, &mounts, self.below, self.origins, self.id)
        };
        if self.below.pending.is_none() || !self.is_new(&mark) {
            return self.once_or_later(key.on(self.below.chain()?), Some(mark), |_| work());
        }
        // Nobody has a result for it, so it need not wait until its key is known.
        let slot = engine.common.slots.take();
        engine.cancel.check()?;
        let left = work()?;
        drop(slot);
        match left {
            run_step::Left::Changes(changes) => {
                let keyed = Keyed::Open(Box::new(key));
                Ok((Yield::Changes(Box::new((changes, keyed, mark))), End::Done))
            }
            left => {
                let (key, inputs) = key.on(self.below.chain()?).finish_with_inputs();
                let outcome = Outcome { layer: left.layer(engine)?, created: rfc3339(engine.clock.created()) };
                self.keep(&key, &outcome, &inputs)?;
                if engine.keeps {
                    engine.records.mark(&mark)?;
                }
                Ok((self.used(key, outcome), End::Done))
            }
        }
    }

    /// Whether it is certain that no cache has the step, whatever lies below it.
    fn is_new(&self, mark: &Key) -> bool {
        let engine = self.engine;
        engine.no_cache.covers(&self.stage.label)
            || (!engine.explain && engine.shared.is_empty() && !engine.records.is_marked(mark))
    }

    fn workdir(&self, workdir: &Workdir) -> Result<Ended> {
        let view = self.below.view(self.engine.store)?;
        let placement = placement::resolve(&view, &workdir.path, true)?;
        let owner = match workdir.user.as_str() {
            "" => (0, 0),
            user => identity::owner(&view, user)?,
        };
        let key = placement.describe(self.key("workdir/1").with("owner", format!("{owner:?}")));
        self.once(key, |_| copy_add::write_folder(self.engine.store, &placement, owner, self.engine.clock))
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
