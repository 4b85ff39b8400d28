//! What a build is asked to do: plain data, checked once by the command line.

use std::path::PathBuf;

use layerfs::oci::Platform;
use layerfs::reference::Reference;

use run::options::RunOptions;

use crate::attest::Provenance;
use crate::cache::{CachePlace, CacheTo};
use crate::dockerfile::remote::Remote;
use crate::graph;
use crate::output::Output;
use crate::progress::Style;

/// A build.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// Where files are copied from; `None` for a build without a context.
    pub context: Option<PathBuf>,
    /// The Dockerfile.
    pub dockerfile: DockerfileSource,
    /// An ignore file in place of the usual ones.
    pub ignore_file: Option<PathBuf>,
    /// What the graph depends on.
    pub graph: graph::Options,
    /// The context, where it is elsewhere.
    pub remote_context: Option<Remote>,
    /// `--build-context` that are files, by name.
    pub contexts: Vec<(String, ContextFiles)>,
    /// What the image is built for; empty for the graph's own platform.
    pub platforms: Vec<Platform>,
    /// `--call`: what is told instead of building.
    pub call: Option<Call>,
    /// `--squash`: all new layers become one.
    pub squash: bool,
    /// `--omit-history`: the image does not tell how it was made.
    pub omit_history: bool,
    /// What is not looked up in the cache.
    pub no_cache: NoCache,
    /// Caches of others that are looked into.
    pub cache_from: Vec<CachePlace>,
    /// Caches that are written for others.
    pub cache_to: Vec<CacheTo>,
    /// When base images are pulled.
    pub pull: Pull,
    /// Names for the image.
    pub tags: Vec<Reference>,
    /// `--annotation`, in order.
    pub annotations: Vec<Annotation>,
    /// Where the result goes besides the store.
    pub outputs: Vec<Output>,
    /// `--push`.
    pub push: bool,
    /// `--secret`.
    pub secrets: Vec<Secret>,
    /// `--ssh`: agent sockets by id.
    pub agents: Vec<(String, PathBuf)>,
    /// Most steps that run at the same time.
    pub jobs: usize,
    /// Receives a picture of what ran when.
    pub timeline: Option<PathBuf>,
    /// Receives the image's id.
    pub iidfile: Option<PathBuf>,
    /// Receives what is known of the result, as JSON.
    pub metadata_file: Option<PathBuf>,
    /// How progress is shown.
    pub progress: Style,
    /// `SOURCE_DATE_EPOCH`, in seconds since 1970.
    pub epoch: Option<i64>,
    /// Whether files of the new layers are dated by it too; `None` where nothing was said: they are.
    pub rewrite_timestamp: Option<bool>,
    /// `--explain`: a step that is not found in the cache says why.
    pub explain: bool,
    /// `--verify`: everything is built a second time, and has to come out the same.
    pub verify: bool,
    /// `--sbom`: the packages of the image are listed beside it.
    pub sbom: bool,
    /// `--provenance`: what it was built from is told beside it.
    pub provenance: Option<Provenance>,
    /// How registries are spoken to.
    pub registry: copy::Options,
    /// Limits, devices, capabilities and mounts of `RUN` steps.
    pub steps: RunOptions,
    /// How steps are kept apart from the machine.
    pub isolation: Isolation,
    /// Who unites layers.
    pub backend: run::options::MountBackend,
}

impl BuildOptions {
    /// A build of `context` with docker's defaults, for `platform`.
    pub fn new(context: PathBuf, platform: Platform) -> Self {
        Self {
            context: Some(context),
            dockerfile: DockerfileSource::Default,
            ignore_file: None,
            graph: graph::Options::new(platform),
            remote_context: None,
            contexts: Vec::new(),
            platforms: Vec::new(),
            call: None,
            squash: false,
            omit_history: false,
            no_cache: NoCache::Nothing,
            cache_from: Vec::new(),
            cache_to: Vec::new(),
            pull: Pull::Missing,
            tags: Vec::new(),
            annotations: Vec::new(),
            outputs: Vec::new(),
            push: false,
            secrets: Vec::new(),
            agents: Vec::new(),
            jobs: default_jobs(),
            timeline: None,
            iidfile: None,
            metadata_file: None,
            progress: Style::Plain,
            epoch: None,
            rewrite_timestamp: None,
            explain: false,
            verify: false,
            sbom: false,
            provenance: None,
            registry: copy::Options::default(),
            steps: RunOptions::default(),
            isolation: Isolation::Auto,
            backend: run::options::MountBackend::Auto,
        }
    }
}

impl BuildOptions {
    /// What the graph of each platform depends on.
    pub(crate) fn for_platforms(&self) -> Vec<graph::Options> {
        let several = self.platforms.len() > 1;
        let one =
            |platform: &Platform| graph::Options { platform: platform.clone(), titled: several, ..self.graph.clone() };
        match self.platforms.is_empty() {
            true => vec![self.graph.clone()],
            false => self.platforms.iter().map(one).collect(),
        }
    }
}

/// Where a named context's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContextFiles {
    /// In a folder.
    Folder(PathBuf),
    /// On the web, or in a git repository.
    Remote(Remote),
}

/// A word about the image in one of its documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotation {
    /// Which document.
    pub level: Level,
    /// Its name.
    pub key: String,
    /// What it says.
    pub value: String,
}

/// Which document an annotation is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The manifest of each platform.
    Manifest,
    /// The index of several platforms.
    Index,
    /// What the index of several platforms says of each manifest.
    ManifestDescriptor,
}

/// What is told of a Dockerfile instead of building it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// What should be written otherwise.
    Check(Form),
    /// What the target can be told.
    Outline(Form),
    /// Which targets there are.
    Targets(Form),
}

/// For whom something is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Steps mostly wait for networks and disks, so more run at once than there are cores.
pub(crate) fn default_jobs() -> usize {
    std::thread::available_parallelism().map_or(16, |cores| (cores.get() * 4).max(16))
}

/// Where the Dockerfile is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DockerfileSource {
    /// `Dockerfile` in the context, or `Containerfile`.
    Default,
    /// A file.
    File(PathBuf),
    /// These bytes, from standard input.
    Bytes(Vec<u8>),
}

/// How steps are kept apart from the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// By namespaces where they are allowed, else by chroot.
    Auto,
    /// By namespaces.
    Namespaces,
    /// By chroot alone.
    Chroot,
}

/// What is not looked up in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoCache {
    /// All is looked up.
    Nothing,
    /// The steps of these stages are not.
    Stages(Vec<String>),
    /// Nothing is looked up.
    Everything,
}

impl NoCache {
    /// Whether a stage's steps are run in any case.
    pub(crate) fn covers(&self, stage: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Stages(names) => names.iter().any(|name| name.eq_ignore_ascii_case(stage)),
            Self::Everything => true,
        }
    }
}

/// When a base image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pull {
    /// When it is not in the store.
    Missing,
    /// The registry is always asked.
    Always,
    /// Never.
    Never,
}

/// A secret of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// What steps call it.
    pub id: String,
    /// Its bytes. Read when the command line is, so that a missing one is told before anything runs.
    pub value: Vec<u8>,
}
