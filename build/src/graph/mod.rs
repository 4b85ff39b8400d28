//! The graph of a build: which stages are needed, and what each of their steps does, with every variable replaced.
//!
//! ```text
//! Dockerfile + Options ──plan──▶ Plan (stages, bases, who needs whom)
//! Plan + configurations of the base images ──lower──▶ Graph (steps, and the image configuration of each stage)
//! ```
//!
//! Both are pure: no file is opened and no clock is read. What a step *does* is final here; what it *yields* is the
//! business of `schedule`. A stage's image configuration does not depend on what its steps yield, so it is
//! complete here but for the layers and the times in its history.

mod config;
mod env;
mod lower;
mod mode;
mod plan;
mod ports;

use layerfs::error::Error;
use layerfs::oci::{ImageConfig, Platform};

use crate::dockerfile::ast::{self, Warning};
use crate::dockerfile::mount::{CacheMount, SecretMount, SshMount, TmpfsMount};
use crate::dockerfile::remote::Remote;
use crate::dockerfile::source::Span;

pub use env::Variables;
pub use lower::lower;
pub use mode::Chmod;
pub use plan::{BaseImage, Configs, NamedContext, Plan, plan};

/// What the command line says about a build, as far as the graph depends on it.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--build-arg`, in order; a later one of the same name wins.
    pub build_args: Vec<(String, String)>,
    /// `--target`: a stage's name or index; the last stage where there is none.
    pub target: Option<String>,
    /// What the image will run on.
    pub platform: Platform,
    /// What the build runs on.
    pub build_platform: Platform,
    /// `--build-context`, by name.
    pub contexts: Vec<(String, NamedContext)>,
    /// `--label`, in order.
    pub labels: Vec<(String, String)>,
    /// `--network` for steps that say nothing.
    pub network: ast::Network,
    /// `--add-host`, as `(name, address)`.
    pub hosts: Vec<(String, String)>,
    /// `--allow security.insecure`.
    pub allow_insecure: bool,
    /// `--env`: variables of the image.
    pub env: Vec<(String, String)>,
    /// `--unsetenv`: variables that the image does not have.
    pub unset: Vec<String>,
    /// Titles of steps name the platform: there are several.
    pub titled: bool,
    /// What steps are called besides; empty for nothing.
    pub called: String,
}

impl Options {
    /// A build for `platform` with nothing else said.
    pub fn new(platform: Platform) -> Self {
        Self {
            build_args: Vec::new(),
            target: None,
            platform,
            build_platform: Platform::host(),
            contexts: Vec::new(),
            labels: Vec::new(),
            network: ast::Network::Default,
            hosts: Vec::new(),
            allow_insecure: false,
            env: Vec::new(),
            unset: Vec::new(),
            titled: false,
            called: String::new(),
        }
    }
}

/// Where files come from that are not the stage's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The build context.
    Context,
    /// A context of the command line, by name.
    Named(String),
    /// Another stage of the Dockerfile, by index.
    Stage(usize),
    /// An image.
    Image(BaseImage),
    /// Nothing at all.
    Scratch,
}

/// Stages in an order in which each comes after those it needs.
#[derive(Clone, Debug)]
pub struct Graph {
    /// The stages that the target needs, itself last.
    pub stages: Vec<Stage>,
    /// What should be written otherwise and shows only with values and base images, each with the comments above it.
    pub findings: Vec<(Warning, Vec<String>)>,
}

/// The stages that the target stands on, itself among them.
pub(crate) fn chain(graph: &Graph) -> Vec<usize> {
    let mut chain = vec![graph.target().index];
    let mut base = &graph.target().base;
    while let Origin::Stage(index) = base {
        chain.push(*index);
        let Some(stage) = graph.stages.iter().find(|stage| stage.index == *index) else { break };
        base = &stage.base;
    }
    chain
}

/// The image that the target stands on in the end, if it is one.
pub(crate) fn base_image(graph: &Graph) -> Option<&BaseImage> {
    let mut stage = graph.target();
    loop {
        match &stage.base {
            Origin::Image(image) => return Some(image),
            Origin::Stage(index) => stage = graph.stages.iter().find(|stage| stage.index == *index)?,
            _ => return None,
        }
    }
}

impl Graph {
    /// The stage that becomes the image.
    pub fn target(&self) -> &Stage {
        self.stages.last().expect("a graph has at least its target")
    }
}

/// One stage.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its index in the Dockerfile.
    pub index: usize,
    /// Its name, or `stage-N`.
    pub label: String,
    /// What it starts from.
    pub base: Origin,
    /// What progress shows for an image that it starts from: `[builder 1/4] FROM debian`.
    pub base_title: Option<String>,
    /// What it runs on.
    pub platform: Platform,
    /// Its steps.
    pub steps: Vec<Step>,
    /// Its image configuration: complete but for the layers and history of its own steps.
    pub config: ImageConfig,
}

/// One instruction of a stage.
#[derive(Clone, Debug)]
pub struct Step {
    /// What progress shows: `[builder 2/4] RUN make`; `None` for what only changes the configuration.
    pub title: Option<String>,
    /// Where it stands in the Dockerfile.
    pub span: Span,
    /// The line of history it leaves (image-spec `created_by`).
    pub created_by: String,
    /// What it does to the files.
    pub action: Action,
}

/// What a step does to the files of its stage.
#[derive(Clone, Debug)]
pub enum Action {
    /// Nothing: the configuration alone changed.
    Configure,
    /// Runs a program.
    Run(Box<Run>),
    /// Adds files.
    Copy(Box<Copy>),
    /// Makes a folder.
    Workdir(Workdir),
}

/// A program to run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its arguments, the shell included.
    pub args: Vec<String>,
    /// A script to be found at `/dev/pipes/NAME`: its name and bytes.
    pub script: Option<(String, String)>,
    /// Its environment: the image's, and the arguments declared so far.
    pub env: Vec<(String, String)>,
    /// Proxies: in the environment too, but in no key and no history.
    pub proxies: Vec<(String, String)>,
    /// Its working directory.
    pub cwd: String,
    /// `USER`, not yet looked up in the stage's `/etc/passwd`; empty for root.
    pub user: String,
    /// What it sees besides the stage's files.
    pub mounts: Vec<Mount>,
    /// Its network.
    pub network: ast::Network,
    /// All capabilities, no seccomp.
    pub insecure: bool,
    /// Extra lines of `/etc/hosts`, as `(name, address)`.
    pub hosts: Vec<(String, String)>,
}

/// What a program sees besides the stage's files. Targets are absolute and clean.
#[derive(Clone, Debug)]
pub enum Mount {
    /// Files of a context, a stage or an image.
    Bind {
        /// Whose files.
        origin: Origin,
        /// The path among them.
        source: String,
        /// Where they appear.
        target: String,
        /// Writes are allowed, and thrown away.
        writable: bool,
    },
    /// A folder that outlives the build.
    Cache {
        /// The options as written, the target made absolute.
        options: CacheMount,
        /// What fills it first; `Scratch` for nothing.
        origin: Origin,
    },
    /// A folder in memory.
    Tmpfs(TmpfsMount),
    /// A secret of the command line; its target, where it has one, is absolute.
    Secret(SecretMount),
    /// An agent's socket; the second field is its path.
    Ssh(SshMount, String),
}

/// Files to add.
#[derive(Clone, Debug)]
pub struct Copy {
    /// The sources, in order.
    pub sources: Vec<Source>,
    /// Whose files the paths among the sources are.
    pub origin: Origin,
    /// An absolute path; a slash at its end asks for a folder.
    pub destination: String,
    /// `--chown`, not yet looked up in the stage's `/etc/passwd`.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<Chmod>,
    /// `--link`: symlinks in the destination are not followed.
    pub link: bool,
    /// `--parents`: sources keep their path.
    pub parents: bool,
    /// `--exclude`.
    pub exclude: Vec<String>,
    /// Which archives are unpacked.
    pub unpack: Unpack,
    /// The instruction's name, for messages.
    pub instruction: &'static str,
}

/// One source of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A path or wildcard, relative to the origin's root.
    Path(String),
    /// A file of the Dockerfile: name and content.
    Inline(String, String),
    /// A file on the web or a git repository.
    Remote(Box<Fetch>),
}

/// Something to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// What.
    pub remote: Remote,
    /// The same as the Dockerfile has it, variables replaced.
    pub written: String,
    /// `--checksum`.
    pub checksum: Option<String>,
}

/// Which archives among its sources a copy unpacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpack {
    /// None.
    Never,
    /// Those that were not fetched.
    Local,
    /// All.
    Always,
}

/// A folder to make.
#[derive(Clone, Debug)]
pub struct Workdir {
    /// Its absolute path.
    pub path: String,
    /// `USER`, who will own it; empty for root.
    pub user: String,
}

impl Action {
    /// The origins whose files this step needs.
    pub fn origins(&self) -> Vec<&Origin> {
        match self {
            Self::Run(run) => {
                let origin = |mount| match mount {
                    &Mount::Bind { ref origin, .. } | &Mount::Cache { ref origin, .. } => Some(origin),
                    _ => None,
                };
                run.mounts.iter().filter_map(origin).collect()
            }
            Self::Copy(copy) if copy.sources.iter().any(|source| matches!(source, Source::Path(_))) => {
                vec![&copy.origin]
            }
            _ => Vec::new(),
        }
    }
}

/// `path` below `base` as an absolute path without `.`, `..` and doubled slashes. A slash at the end of `path`, which
/// asks for a folder, stays.
pub(crate) fn absolute(base: &str, path: &str) -> String {
    let joined = if path.starts_with('/') { path.to_owned() } else { format!("{base}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let folder = !parts.is_empty() && (path.ends_with('/') || path.ends_with("/.") || path == ".");
    format!("/{}{}", parts.join("/"), if folder { "/" } else { "" })
}

/// The result of everything in this module.
pub(crate) type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests;
