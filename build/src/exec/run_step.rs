//! `RUN`: a container on the stage's layers, whose changes become the next layer.
//!
//! The container is launched by `run`'s step server, which was forked before this process had threads. Its root is an
//! overlay over the layers with an upper folder in the store's `tmp/`; when the program has ended, what the launcher
//! had to leave there as places to mount on is taken out again, and the upper folder is committed. Whatever is mounted
//! is mounted in this process's own mount namespace, so a kill leaves no mount behind.

mod agent;
mod mounts;
mod network;
mod stubs;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::layer::{DiffOptions, MergedView, commit_upper, prepare_upper, settle_upper};
use layerfs::mount::MountPlan;
use layerfs::oci::{ImageConfig, Platform};
use layerfs::store::{Store, TempDir};
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};
use run::launch::Rootfs;
use run::options::RunOptions;
use run::spec::user;
use run::spec::{HostFacts, NetworkNamespace, Place};
use run::step::{Server, StepRequest};

use crate::cache::{KeyBuilder, Layer};
use crate::graph::{Run, Variables};
use crate::options::Secret;
use crate::progress::{Progress, StepId, Stream};
use crate::schedule::{Below, Changes, Engine, Origins};

pub(crate) use mounts::{Made, Resolved, resolve_mounts};
use network::Networks;

/// What all `RUN` steps of a build share.
pub(crate) struct Runner<'a> {
    server: Option<Arc<Server>>,
    host: HostFacts,
    networks: Networks,
    secrets: &'a [Secret],
    agents: &'a [(String, PathBuf)],
    steps: &'a RunOptions,
    /// Holds an empty folder, and whatever lives as long as the build.
    scratch: TempDir,
}

/// What the command line says about `RUN` steps.
pub(crate) struct Settings<'a> {
    pub(crate) secrets: &'a [Secret],
    pub(crate) agents: &'a [(String, PathBuf)],
    pub(crate) steps: &'a RunOptions,
}

impl<'a> Runner<'a> {
    /// Makes ready what all steps share.
    ///
    /// # Errors
    /// The store cannot be written.
    pub(crate) fn new(
        store: &Store,
        server: Option<Arc<Server>>,
        host: HostFacts,
        settings: Settings<'a>,
    ) -> Result<Self> {
        let scratch = store.new_temp_dir()?;
        for name in ["empty", "network"] {
            let path = scratch.path().join(name);
            std::fs::create_dir(&path).at("create", &path)?;
        }
        let networks = Networks::new(scratch.path().join("network"));
        let Settings { secrets, agents, steps } = settings;
        Ok(Self { server, host, networks, secrets, agents, steps, scratch })
    }

    /// A folder with nothing in it.
    pub(crate) fn empty_folder(&self) -> PathBuf {
        self.scratch.path().join("empty")
    }
}

/// Adds to a key what the result of a `RUN` step depends on besides the layers below. What comes from outside and is
/// gone afterwards (secrets, agents, caches, proxies) is named, but its content does not count.
pub(crate) fn describe(key: KeyBuilder, run: &Run, mounts: &[Resolved]) -> KeyBuilder {
    let pairs = |(name, value): &(String, String)| format!("{name}={value}");
    let (script, content) = run.script.as_ref().map_or(("", ""), |(name, content)| (name, content));
    key.with_all("argument", &run.args)
        .with("script", script)
        .with("content", content)
        .with_all("env", run.env.iter().map(pairs))
        .with("cwd", &run.cwd)
        .with("user", &run.user)
        .with("network", format!("{:?}", run.network))
        .with("insecure", format!("{}", run.insecure))
        // Where a name leads may change from machine to machine; that it is there is part of the step.
        .with_all("host", run.hosts.iter().map(|(name, _)| name))
        .with_all("mount", mounts.iter().map(Resolved::describe))
}

/// What a step sees besides its stage's files.
pub(crate) struct Parts {
    /// Files of ours, and where they are seen.
    pub(crate) files: Vec<(PathBuf, PathBuf)>,
    /// What `--mount` asks for.
    pub(crate) made: Made,
    /// Its network.
    namespace: NetworkNamespace,
}

/// Makes ready, in `dir`, what a step sees besides its stage's files.
///
/// # Errors
/// Something it asks for is not there.
pub(crate) fn parts(
    engine: &Engine<'_>,
    run: &Run,
    network: crate::dockerfile::ast::Network,
    mounts: &[Resolved],
    origins: &Origins<'_>,
    dir: &Path,
) -> Result<Parts> {
    let connection = engine.runner.networks.connect(network, engine.progress)?;
    let files_dir = dir.join("etc");
    std::fs::create_dir(&files_dir).at("create", &files_dir)?;
    let mut files = connection.files(&run.hosts, &files_dir)?;
    if let Some((name, content)) = &run.script {
        let path = dir.join("script");
        std::fs::write(&path, content).at("write", &path)?;
        set_mode(&path, 0o755)?;
        files.push((path, Path::new("/dev/pipes").join(name)));
    }
    let made = mounts::make(engine, origins, mounts, dir)?;
    Ok(Parts { files, made, namespace: connection.namespace })
}

/// What a step left.
pub(crate) enum Left {
    /// A layer, or `None` where it changed nothing.
    Layer(Option<Layer>),
    /// Changes that are no layer yet.
    Changes(Changes),
}

impl Left {
    /// The layer, made of the changes where it is none yet.
    ///
    /// # Errors
    /// The store cannot be written.
    pub(crate) fn layer(self, engine: &Engine<'_>) -> Result<Option<Layer>> {
        match self {
            Self::Layer(layer) => Ok(layer),
            Self::Changes(changes) => {
                let options = DiffOptions { clamp_mtime: engine.clock.clamp, ..DiffOptions::default() };
                let committed = commit_upper(engine.store, &changes.upper, &options)?;
                Ok((!committed.empty).then_some(Layer { diff_id: committed.diff_id, size: committed.blob.size }))
            }
        }
    }
}

/// Runs the step; gives what it left, ready to be stacked on.
///
/// # Errors
/// `Kind::Exit` with the program's own code; or the container could not be set up.
pub(crate) fn run(
    engine: &Engine<'_>,
    run: &Run,
    mounts: &[Resolved],
    below: Below<'_>,
    origins: &Origins<'_>,
    step: StepId,
) -> Result<Left> {
    if let Some(trees) = &engine.plain {
        return super::chroot::run(engine, trees, run, mounts, below.stack(), origins, step).map(Left::Layer);
    }
    let (store, runner) = (engine.store, &engine.runner);
    let lowers = below.lowers(store)?;
    let view = MergedView::new(&lowers.dirs);
    let dir = store.new_temp_dir()?;
    let upper = prepare_upper(&lowers, dir.path())?;
    let upper_dir = upper.dir.clone();

    let user = find_user(&view, &run.user)?;
    let Parts { files, made, namespace } = parts(engine, run, run.network, mounts, origins, dir.path())?;

    let mut config = ImageConfig::scratch(&Platform::host());
    config.set_strings("Cmd", Some(&run.args));
    config.set_text("WorkingDir", &run.cwd);
    let mut options = runner.steps.clone();
    options.isolation.privileged = run.insecure;
    options.network.hostname = (namespace != NetworkNamespace::Host).then(|| network::HOSTNAME.to_owned());
    let id = layerfs::digest::Digest::of(dir.path().as_os_str().as_encoded_bytes()).hex();
    let home = user.home.clone();
    let root = user.uid == 0;
    let place = Place { id, user, network: namespace, files, ..Place::default() };
    let mut spec = run::spec::for_container(&config, &options, &runner.host, &place)?;
    if let Some(process) = spec.process_mut() {
        let env = environment(run, &made.environment, &home);
        process.set_env(Some(env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()));
        if let Some(capabilities) = process.capabilities().clone() {
            process.set_capabilities(Some(allow_as_docker(capabilities, root)));
        }
    }
    let mut all = spec.mounts().clone().unwrap_or_default();
    all.extend(made.mounts);
    let targets: Vec<PathBuf> = all.iter().map(|mount| mount.destination().clone()).collect();
    spec.set_mounts(Some(all));

    let rootfs = Rootfs::Overlay(MountPlan {
        lowers: lowers.dirs.clone(),
        upper: Some(upper),
        volatile: true,
        backend: engine.backend.clone(),
    });
    let ended = execute(runner, spec, rootfs, engine.progress, step)?;
    drop(made.held);
    if ended != 0 {
        return Err(Error::new(Kind::Exit(ended), describe_exit(run, ended)));
    }
    engine.cancel.check()?;
    stubs::remove(&upper_dir, &view, &targets)?;
    let options = DiffOptions { clamp_mtime: engine.clock.clamp, ..DiffOptions::default() };
    Ok(match settle_upper(&upper_dir, &options)? {
        true => Left::Changes(Changes { upper: upper_dir, dir }),
        false => Left::Layer(None),
    })
}

/// The variables of a step: its own and no others but `HOME`. What tells a container from a machine would end up in
/// what is built.
pub(crate) fn environment(run: &Run, secrets: &[(String, String)], home: &str) -> Vec<(String, String)> {
    let mut variables = Variables::default();
    for (name, value) in run.proxies.iter().chain(secrets).chain(&run.env) {
        variables.set(name, value);
    }
    if variables.get("HOME").is_none() {
        variables.set("HOME", home);
    }
    variables.pairs().to_vec()
}

/// What docker's builds may do and podman's containers may not: package scripts make device nodes, raw sockets and audit
/// records.
fn allow_as_docker(mut capabilities: LinuxCapabilities, root: bool) -> LinuxCapabilities {
    let more = [Capability::Mknod, Capability::NetRaw, Capability::AuditWrite];
    let with = |set: &Option<Capabilities>| {
        let mut set = set.clone().unwrap_or_default();
        set.extend(more);
        Some(set)
    };
    capabilities.set_bounding(with(capabilities.bounding()));
    if root {
        capabilities.set_effective(with(capabilities.effective()));
        capabilities.set_permitted(with(capabilities.permitted()));
    }
    capabilities
}

pub(crate) fn describe_exit(run: &Run, code: i32) -> String {
    let command = match run.args.last() {
        Some(text) if run.args.len() == 3 && run.args[1] == "-c" => text.clone(),
        _ => run.args.join(" "),
    };
    let first = command.lines().next().unwrap_or_default();
    let dots = if command.lines().count() > 1 { "…" } else { "" };
    match code {
        129..=192 => format!("RUN `{first}{dots}` was ended by signal {}", code - 128),
        code => format!("RUN `{first}{dots}` ended with exit code {code}"),
    }
}

pub(crate) fn find_user(view: &MergedView, text: &str) -> Result<user::User> {
    let read = |path: &str| Ok::<_, Error>(view.read(path, user::FILE_MAX)?.unwrap_or_default());
    user::resolve(text, &read("/etc/passwd")?, &read("/etc/group")?, &[])
}

/// Runs the container to its end, its output shown as it comes; gives its exit code.
fn execute(
    runner: &Runner<'_>,
    spec: oci_spec::runtime::Spec,
    rootfs: Rootfs,
    progress: &Progress,
    step: StepId,
) -> Result<i32> {
    let none = || Error::new(Kind::Interrupted, "there is nobody to launch steps");
    let server = runner.server.as_ref().ok_or_else(none)?;
    let stdin: OwnedFd = File::open("/dev/null").at("open", "/dev/null")?.into();
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context(|| "make a pipe");
    let ((out, stdout), (err, stderr)) = (pipe()?, pipe()?);
    std::thread::scope(|scope| {
        for (stream, source) in [(Stream::Out, out), (Stream::Err, err)] {
            scope.spawn(move || pass_on(progress, step, stream, source));
        }
        let ended = server.run(StepRequest { spec, rootfs, stdin, stdout, stderr });
        match ended {
            Ok(ended) => {
                for note in ended.notes {
                    progress.log(step, Stream::Err, format!("note: {note}\n").as_bytes());
                }
                Ok(ended.exit.code)
            }
            // The two kinds that are about the program, with the codes a shell would give.
            Err(error) if error.kind() == Kind::NotFound => Err(program_error(127, error)),
            Err(error) if error.kind() == Kind::Denied => Err(program_error(126, error)),
            Err(error) => Err(error),
        }
    })
}

fn program_error(code: i32, error: Error) -> Error {
    let hint = error.advice().map(str::to_owned);
    let told = Error::new(Kind::Exit(code), error.chain());
    let error_names_shell = error.to_string().contains("`/bin/sh`");
    match hint {
        Some(hint) => told.hint(hint),
        None if error_names_shell => {
            told.hint("a RUN step in shell form needs /bin/sh in the image; SHELL names another")
        }
        None => told,
    }
}

pub(crate) fn pass_on(progress: &Progress, step: StepId, stream: Stream, source: OwnedFd) {
    let mut source = File::from(source);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => progress.log(step, stream, &buffer[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).at("change the mode of", path)
}
