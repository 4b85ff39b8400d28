//! Carries a graph out: stages side by side, each step looked up before it is done.
//!
//! Every stage has a thread that waits for what it needs; a limited number of steps runs at a time ([`once::Slots`]).
//! Steps of equal keys run once, whoever comes first. The first failure stops everything else, and is the one that is
//! told. A layer becomes part of the store before its record does, so a build that is killed at any point leaves only
//! whole results, and the next build begins where it ended.

mod beside;
mod copying;
mod once;
mod pending;
mod stack;
mod stage;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use layerfs::error::{Error, Kind, Result};
use layerfs::store::{Image, Store};
use run::step::Server;

use crate::cache::{Key, Layer, Outcome, Records, Shared, Used};
use crate::dockerfile::source::Source;
use crate::exec::chroot::Trees;
use crate::exec::copy_add::Clock;
use crate::exec::run_step::Runner;
use crate::fetch::Fetcher;
use crate::files::{StatCache, Tree};
use crate::graph::{BaseImage, Graph, Origin};
use crate::options::NoCache;
use crate::progress::Progress;
use once::{Flights, Promise, Slots};
pub(crate) use pending::{Below, Changes};
pub(crate) use stack::Stack;

/// What a stage became.
#[derive(Clone, Debug)]
pub(crate) struct StageResult {
    /// Its layers, the base's included.
    pub(crate) stack: Stack,
    /// Every step since the base image: its line of history, and what it yielded; `None` for those that only configure.
    pub(crate) history: Vec<(String, Option<Outcome>)>,
}

/// Everything that steps need, shared by all threads.
pub(crate) struct Engine<'a> {
    pub(crate) store: &'a Store,
    pub(crate) records: Records<'a>,
    /// What others built.
    pub(crate) shared: Shared<'a>,
    /// The cache mounts that this build used: id and folder.
    pub(crate) mounts: Mutex<std::collections::BTreeMap<String, std::path::PathBuf>>,
    /// What this build made and found, for those who are to have it.
    pub(crate) used: Mutex<Vec<Used>>,
    pub(crate) progress: &'a Progress,
    /// The Dockerfile, for messages.
    pub(crate) source: &'a Source,
    /// The build context, and those named on the command line.
    pub(crate) contexts: HashMap<Option<String>, Context>,
    pub(crate) images: HashMap<BaseImage, Image>,
    pub(crate) runner: Runner<'a>,
    /// Plain trees in place of mounts, where there are none.
    pub(crate) plain: Option<Trees>,
    pub(crate) fetcher: Fetcher<'a>,
    pub(crate) clock: Clock,
    /// Who unites layers.
    pub(crate) backend: layerfs::mount::Backend,
    pub(crate) no_cache: &'a NoCache,
    /// Who compresses layers, and sends them, before the build is done; and the stages whose layers are wanted.
    pub(crate) ahead: Mutex<Option<std::sync::mpsc::Sender<Layer>>>,
    pub(crate) delivered: Vec<usize>,
    /// Results are recorded for later builds.
    pub(crate) keeps: bool,
    /// Steps that are not found say why.
    pub(crate) explain: bool,
    pub(crate) cancel: &'a Cancel,
    /// What it has in common with builds beside it.
    pub(crate) common: &'a Common,
}

/// A folder that files are copied from, and what was digested of it before.
pub(crate) struct Context {
    pub(crate) tree: Tree,
    pub(crate) stats: StatCache,
}

impl Context {
    /// The context `tree`, with its cache below `cache_dir`.
    pub(crate) fn new(tree: Tree, cache_dir: &Path) -> Self {
        let stats = StatCache::open(cache_dir, tree.root());
        Self { tree, stats }
    }
}

/// Stops a build.
#[derive(Debug, Default)]
pub struct Cancel {
    stopped: AtomicBool,
    /// What else has to be told.
    server: Mutex<Option<std::sync::Weak<Server>>>,
}

impl Cancel {
    /// Lets `server`'s steps be killed with the rest.
    pub(crate) fn covers(&self, server: &std::sync::Arc<Server>) {
        *self.server.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
            Some(std::sync::Arc::downgrade(server));
    }

    /// Stops what runs and lets nothing new begin.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        let server = self.server.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(server) = server.as_ref().and_then(std::sync::Weak::upgrade) {
            let _ = server.cancel_all();
        }
    }

    /// Whether the build was stopped.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// An error once the build was stopped.
    pub(crate) fn check(&self) -> Result<()> {
        match self.is_stopped() {
            true => Err(Error::new(Kind::Interrupted, "the build was stopped")),
            false => Ok(()),
        }
    }
}

impl Engine<'_> {
    /// The files of layers, mounted or laid down for as long as the tree lives.
    pub(crate) fn tree(&self, label: String, stack: &Stack) -> Result<Tree> {
        let lowers = stack.lowers(self.store)?;
        if lowers.dirs.is_empty() {
            return Ok(Tree::new(label, self.runner.empty_folder(), crate::ignore::Ignore::default()));
        }
        if let Some(trees) = &self.plain {
            let lent = trees.lend(self.store, stack)?;
            return Ok(Tree::of_layers(label, lent.root(), Box::new(lent)));
        }
        let plan = layerfs::mount::MountPlan {
            lowers: lowers.dirs,
            upper: None,
            volatile: false,
            backend: self.backend.clone(),
        };
        Ok(Tree::of_mount(label, layerfs::mount::mount_layers(&plan)?))
    }

    /// Notes a result for those who are to have it.
    fn note_used(&self, stage: usize, title: String, key: Key, outcome: &Outcome) {
        let used = Used { stage, title, key, outcome: outcome.clone() };
        self.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(used);
    }

    /// Hands a layer of the image on to where it is wanted.
    fn send_ahead(&self, stage: usize, layer: Layer) {
        if self.delivered.contains(&stage)
            && let Some(sender) = &*self.ahead.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        {
            // Whoever is gone will not miss it.
            let _ = sender.send(layer);
        }
    }

    /// The results of these stages, or of all, each once, in the order they were there.
    pub(crate) fn used_by(&self, stages: Option<&[usize]>) -> Vec<Used> {
        let used = self.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut known = std::collections::HashSet::new();
        let wanted = |one: &&Used| stages.is_none_or(|stages| stages.contains(&one.stage));
        used.iter().filter(wanted).filter(|one| known.insert(one.key)).cloned().collect()
    }
}

/// What builds side by side share: the places for steps, and the steps under way, so that equal ones run once.
pub(crate) struct Common {
    pub(crate) slots: Slots,
    pub(crate) flights: Flights<Key, Outcome>,
}

impl Common {
    /// Places for `jobs` steps; no work is under way yet.
    pub(crate) fn new(jobs: usize) -> Self {
        Self { slots: Slots::new(jobs), flights: Flights::default() }
    }
}

/// Builds every stage of the graph; gives the target's result.
///
/// # Errors
/// The first failure of any step.
pub(crate) fn carry_out(engine: &Engine<'_>, graph: &Graph) -> Result<StageResult> {
    let promises: HashMap<usize, Promise<StageResult>> =
        graph.stages.iter().map(|stage| (stage.index, Promise::default())).collect();
    let first_error: Mutex<Option<Error>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for stage in &graph.stages {
            let (promises, first_error) = (&promises, &first_error);
            scope.spawn(move || {
                // Those who wait are freed even if this thread panics.
                let _freed = Freed(&promises[&stage.index]);
                match stage::build(engine, stage, promises) {
                    Ok(result) => promises[&stage.index].settle(Some(result)),
                    Err(error) => {
                        let mut first = first_error.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        if first.is_none() || first.as_ref().is_some_and(|first| first.kind() == Kind::Interrupted) {
                            *first = Some(error);
                        }
                        drop(first);
                        engine.cancel.stop();
                    }
                }
            });
        }
    });
    let first = first_error.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    match (first, promises[&graph.target().index].wait()) {
        (Some(error), _) => Err(error),
        (None, Some(result)) => Ok(result),
        (None, None) => Err(Error::new(Kind::Interrupted, "the build was stopped")),
    }
}

struct Freed<'a>(&'a Promise<StageResult>);

impl Drop for Freed<'_> {
    fn drop(&mut self) {
        self.0.settle(None);
    }
}

/// Finds the files of other stages and of images.
pub(crate) struct Origins<'a> {
    engine: &'a Engine<'a>,
    promises: &'a HashMap<usize, Promise<StageResult>>,
}

impl<'a> Origins<'a> {
    /// The layers of a stage or image, waited for; `None` for a context.
    pub(crate) fn stack(&self, origin: &Origin) -> Result<Option<Stack>> {
        match origin {
            Origin::Context | Origin::Named(_) => Ok(None),
            Origin::Scratch => Ok(Some(Stack::default())),
            Origin::Stage(index) => self.stage(*index).map(|result| Some(result.stack)),
            Origin::Image(image) => Ok(Some(Stack::of_image(&self.engine.images[image]))),
        }
    }

    /// Another stage's result, waited for.
    pub(crate) fn stage(&self, index: usize) -> Result<StageResult> {
        let result = self.promises[&index].wait();
        result.ok_or_else(|| Error::new(Kind::Interrupted, "the build was stopped"))
    }

    /// A context of the command line.
    pub(crate) fn context(&self, origin: &Origin) -> Result<&'a Context> {
        let name = match origin {
            Origin::Named(name) => Some(name.clone()),
            _ => None,
        };
        self.engine.contexts.get(&name).ok_or_else(|| {
            Error::new(Kind::Usage, "this build has no context, so there are no files to copy")
                .hint("name a folder on the command line, such as `build .`")
        })
    }

    /// What messages call it.
    pub(crate) fn label(&self, origin: &Origin) -> String {
        match origin {
            Origin::Context => "the build context".to_owned(),
            Origin::Named(name) => format!("the build context `{name}`"),
            Origin::Stage(index) => format!("stage {index}"),
            Origin::Image(image) => format!("image `{}`", image.name),
            Origin::Scratch => "scratch".to_owned(),
        }
    }

    /// The files of layers, there for as long as the tree lives.
    pub(crate) fn mount(&self, origin: &Origin, stack: &Stack) -> Result<Tree> {
        self.engine.tree(self.label(origin), stack)
    }
}
