//! Whether a store is what it says it is, and making it so again.
//!
//! Every blob is read and compared with its digest; every unpacked layer is compared with its blob, every shim with
//! the layers it belongs to; names and `index.json` are read. Each thing that is wrong is told by itself, with the
//! images that need it. A repair makes again what can be made from what is sound (an unpacked layer from its blob, the
//! blob of a layer made here from its tree, names and `index.json` from each other) and removes a damaged blob, so
//! that a pull brings it again. Nothing that is sound is touched.
//!
//! Other processes may go on meanwhile, but for a repair, which waits until nobody imports or starts a container.

mod objects;
mod repair;
pub(crate) mod tree;

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use crate::digest::{ChainId, DiffId, Digest};
use crate::error::Result;
use crate::oci::Descriptor;
use crate::progress::{Event, Progress};
use crate::reference::Reference;
use crate::store::{Contents, Store};

/// What is looked at, and what is done about damage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Only what these images need; everything where there are none.
    pub names: Vec<Reference>,
    /// Make again what can be made.
    pub repair: bool,
}

/// A thing that can be damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Object {
    /// A file in `refs/`, by the name it stands for, or its own name where it stands for none.
    Name(String),
    /// Another file of the store: `index.json`, `oci-layout`, one that is no blob.
    File(String),
    /// A blob.
    Blob(Digest),
    /// An unpacked layer.
    Layer(DiffId),
    /// What of a layer depends on those below.
    Shim(ChainId),
}

impl Object {
    /// The kind, in one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Name(_) => "name",
            Self::File(_) => "file",
            Self::Blob(_) => "blob",
            Self::Layer(_) => "layer",
            Self::Shim(_) => "shim",
        }
    }

    /// What it goes by.
    pub fn id(&self) -> String {
        match self {
            Self::Name(name) | Self::File(name) => name.clone(),
            Self::Blob(digest) => digest.to_string(),
            Self::Layer(diff_id) => diff_id.to_string(),
            Self::Shim(chain) => chain.0.to_string(),
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.id())
    }
}

/// What became of a damaged object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was tried.
    Found,
    /// It is sound again: how, in words.
    Repaired(String),
    /// It is not: what is left to do, in words.
    Remains(String),
}

/// One damaged object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub object: Object,
    /// What is wrong with it.
    pub problem: String,
    /// Images that need it: their names, and containers as `container ID`.
    pub needed_by: BTreeSet<String>,
    /// What was done.
    pub outcome: Outcome,
}

/// What a check looked at and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Names.
    pub names: u64,
    /// Blobs.
    pub blobs: u64,
    /// Bytes of blobs.
    pub bytes: u64,
    /// Unpacked layers.
    pub layers: u64,
    /// Unpacked layers of other id maps, which cannot be compared under this one.
    pub foreign_layers: u64,
    /// Unpacked layers that there is no sound blob to compare with.
    pub uncompared_layers: u64,
    /// The damage.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether something is still wrong.
    pub fn is_damaged(&self) -> bool {
        self.findings.iter().any(|finding| !matches!(finding.outcome, Outcome::Repaired(_)))
    }
}

/// Looks at a store.
///
/// # Errors
/// The store cannot be read, or written where a repair has to. Damage is no error: it is in the report.
pub fn check(store: &Store, options: &Options, progress: &dyn Progress) -> Result<Report> {
    let alone = if options.repair { Some(store.alone()?) } else { store.try_alone()? };
    // What is imported meanwhile must not be collected while it is read.
    let _pin = if alone.is_none() { Some(store.pin()?) } else { None };
    let mut check = Check { store, options, progress, report: Report::default(), needs: Needs::default() };
    check.names(alone.is_some())?;
    check.needs()?;
    check.blobs()?;
    check.layers()?;
    check.shims()?;
    check.report.findings.sort_by_key(|finding| (finding.object.kind(), finding.object.id()));
    Ok(check.report)
}

/// The check while it is under way.
struct Check<'a> {
    store: &'a Store,
    options: &'a Options,
    progress: &'a dyn Progress,
    report: Report,
    needs: Needs,
}

/// What images and containers need.
#[derive(Default)]
struct Needs {
    /// Every image and container that is looked at, with what it consists of.
    images: Vec<(String, Contents)>,
    /// Who needs a blob.
    blobs: HashMap<Digest, BTreeSet<usize>>,
    /// Who needs a layer, and the blobs it can be had from.
    layers: HashMap<DiffId, (BTreeSet<usize>, Vec<Descriptor>)>,
    /// Blobs that were found to be sound.
    sound: HashMap<Digest, u64>,
    /// Layers that containers run on.
    running: BTreeSet<DiffId>,
}

impl Check<'_> {
    /// The names of those who need something.
    fn users(&self, users: Option<&BTreeSet<usize>>) -> BTreeSet<String> {
        users.into_iter().flatten().map(|at| self.needs.images[*at].0.clone()).collect()
    }

    fn found(&mut self, object: Object, problem: impl Into<String>, needed_by: BTreeSet<String>, outcome: Outcome) {
        self.report.findings.push(Finding { object, problem: problem.into(), needed_by, outcome });
    }

    fn begin(&self, id: u64, label: &str, total: u64) {
        self.progress.event(&Event::Start { id, label: label.to_owned(), total: Some(total) });
    }

    fn end(&self, id: u64) {
        self.progress.event(&Event::Done { id });
    }
}
