//! The `build` program: the command line around the library.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use build::bake;
use build::cache;
use build::cli::{self, BakeCommand, CacheCommand, Command, ContextArgument, Invocation, Surroundings, Tell};
use build::fetch::{Arrived, read_context};
use build::options::{BuildOptions, DockerfileSource, Isolation};
use build::progress::{Progress, Style};
use build::{Built, Cancel, GIVEN_UP, Outcome};
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::store::{Store, TempDir};
use layerfs::sys::process::unshare_namespaces;
use layerfs::sys::signals::Signals;
use layerfs::userns::{self, Entered};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::mount::{MountPropagationFlags, mount_change};

/// A problem with what was given or found.
const FAILED: u8 = 1;
/// A command line that makes no sense.
const USAGE: u8 = 2;
/// A bug of this program.
const BUG: i32 = 70;
/// Stopped by the user, as shells count it.
const STOPPED: u8 = 130;
/// The reader of our output went away.
const CLOSED_PIPE: u8 = 141;
/// `CLONE_NEWNS`
const NEW_MOUNTS: u64 = 0x0002_0000;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    if run::fuse::is_called(&words) {
        return ExitCode::from(u8::try_from(run::fuse::main(&words)).unwrap_or(1));
    }
    if build::enters_tree(&words) {
        let (code, why) = build::enter_tree(&words);
        let _ = writeln!(io::stderr(), "build: {why}");
        return ExitCode::from(code);
    }
    std::panic::set_hook(Box::new(|info| {
        let _ = writeln!(io::stderr(), "build: a bug: {info}");
        std::process::exit(BUG);
    }));
    let words: Vec<OsString> = std::env::args_os().collect();
    let name = cli::program_name(words.first().map(OsString::as_os_str));
    match work(&words) {
        Ok(code) => code,
        Err(error) => {
            let mut text = format!("{name}: {}\n", error.chain());
            if let Some(hint) = error.advice().filter(|hint| !hint.is_empty()) {
                text.push_str(&format!("hint: {hint}\n"));
            }
            let _ = io::stderr().write_all(text.as_bytes());
            exit_code(&error)
        }
    }
}

fn exit_code(error: &Error) -> ExitCode {
    ExitCode::from(match error.kind() {
        Kind::Usage => USAGE,
        Kind::Interrupted => STOPPED,
        Kind::Exit(code) => u8::try_from(code).unwrap_or(FAILED),
        _ => FAILED,
    })
}

fn work(words: &[OsString]) -> Result<ExitCode> {
    let surroundings =
        Surroundings { env: &|name| std::env::var_os(name), columns: columns(), read: &|path| std::fs::read(path) };
    match cli::parse(words, &surroundings)? {
        Command::Print(text) => print(&text),
        Command::Build(invocation) => run(*invocation),
        Command::Bake(command) => bake_targets(*command, &surroundings),
        Command::Cache(command) => upkeep(&command),
    }
}

/// The width of the terminal that messages go to.
fn columns() -> Option<usize> {
    let stderr = io::stderr();
    if !stderr.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(stderr.as_fd()).ok()?;
    // A terminal that does not know its width has the usual one.
    Some(if size.ws_col == 0 { 80 } else { usize::from(size.ws_col) })
}

fn print(text: &str) -> Result<ExitCode> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::from(CLOSED_PIPE)),
        result => result.context(|| "write to standard output").map(|()| ExitCode::SUCCESS),
    }
}

/// What builds are carried out with.
struct Workshop {
    store: Store,
    server: Option<Arc<run::step::Server>>,
    host: run::spec::HostFacts,
    cancel: Arc<Cancel>,
}

/// What must happen in this order: credentials while this process is still its user, then the namespaces, then the
/// step server while there is one thread, and only then threads. `before` runs when the store is open and there is
/// still one.
fn open<T>(
    options: &mut BuildOptions,
    root: Option<&PathBuf>,
    before: impl FnOnce(&Store) -> Result<T>,
) -> Result<(Workshop, T)> {
    options.registry.before_namespace()?;
    let entered = enter(options)?;
    options.registry.real_uid = entered.rootless.then_some(entered.real_uid);
    if let Some(warning) = &entered.single_id {
        let _ = writeln!(io::stderr(), "warning: {warning}");
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // Without namespaces there is nothing for it to do, and where there are none it may not even be forked (`clone3`).
    let server = match options.isolation {
        Isolation::Chroot => None,
        _ => Some(Arc::new(run::step::fork_server()?)),
    };
    let signals = Signals::block().context(|| "take over the signals")?;
    let root = match root {
        Some(root) => root.clone(),
        None => Store::default_root(entered.rootless.then_some(entered.real_uid), |name| std::env::var_os(name))?,
    };
    let store = Store::open(&root)?;
    let taken = before(&store)?;
    let mut host = run::host::facts(&entered, &run::options::RunOptions::default())?;
    // Steps have no limit on processes: nobody asked for one, and not every machine could set it.
    host.limits_pids = false;

    let cancel = Arc::new(Cancel::default());
    watch(signals, cancel.clone());
    Ok((Workshop { store, server, host, cancel }, taken))
}

fn run(mut invocation: Invocation) -> Result<ExitCode> {
    let mut options = invocation.options.clone();
    let root = invocation.store.clone();
    let (workshop, _unpacked) = open(&mut options, root.as_ref(), |store| take_input(store, &mut invocation))?;
    invocation.options.isolation = options.isolation;
    invocation.options.registry = options.registry;
    let Workshop { store, server, host, cancel } = workshop;
    let progress = Arc::new(Progress::new(invocation.options.progress, Box::new(io::stderr())));
    tick(&progress);
    let outcome = build::build(&store, server, host, &invocation.options, &progress, &cancel);
    progress.finish();
    if let Some(path) = &invocation.options.timeline {
        let page = build::progress::timeline::html("build", &progress.timeline());
        std::fs::write(path, page).at("write", path)?;
    }
    match outcome? {
        Outcome::Built(built) => {
            if invocation.options.progress != Style::Quiet && !built.warnings.is_empty() {
                let _ = write!(io::stderr(), "\n{}", built.warnings);
            }
            report(&built)
        }
        Outcome::Told(text, failed) => {
            let code = print(&text)?;
            Ok(if failed { ExitCode::from(FAILED) } else { code })
        }
    }
}

/// `build bake`.
fn bake_targets(mut command: BakeCommand, surroundings: &Surroundings<'_>) -> Result<ExitCode> {
    let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    command.asked.environment = std::env::vars_os().filter_map(text).collect();
    command.asked.dotenv = std::fs::read_to_string(".env").unwrap_or_default();
    if command.definition.is_none() {
        let files = bake::read_local(&command.files, "".as_ref(), &mut io::stdin().lock())?;
        return match command.tell {
            Some(tell) => told(tell, &files, &command.asked),
            None => bake_plan(&bake::Plan::read(&files, &command.asked)?, &command, surroundings, None),
        };
    }
    // The files have to be fetched first, and that needs a store.
    let line = ["build".to_owned()].into_iter().chain(command.words.clone()).map(OsString::from).collect::<Vec<_>>();
    let Command::Build(mut invocation) = cli::parse(&line, surroundings)? else { return Ok(ExitCode::from(USAGE)) };
    let (workshop, ()) = open(&mut invocation.options, invocation.store.as_ref(), |_| Ok(()))?;
    let definition = command.definition.as_ref().map_or_else(
        || Err(Error::new(Kind::Usage, "there is no address")),
        |definition| bake::fetch(&workshop.store, definition, &command.files, 2, &workshop.cancel),
    )?;
    match command.tell {
        Some(tell) => told(tell, &definition, &command.asked),
        None => {
            let plan = bake::Plan::read(&definition, &command.asked)?;
            bake_plan(&plan, &command, surroundings, Some((workshop, invocation.options)))
        }
    }
}

fn told(tell: Tell, files: &[bake::BakeFile], asked: &bake::Asked) -> Result<ExitCode> {
    print(&match tell {
        Tell::Print => bake::Plan::read(files, asked)?.print(),
        Tell::Targets(json) => bake::Plan::read_definitions(files, asked)?.list_targets(json),
        Tell::Variables(json) => bake::Plan::read_definitions(files, asked)?.list_variables(json),
    })
}

/// Builds all targets.
fn bake_plan(
    plan: &bake::Plan,
    command: &BakeCommand,
    surroundings: &Surroundings<'_>,
    opened: Option<(Workshop, BuildOptions)>,
) -> Result<ExitCode> {
    let mut builds = plan.builds(&command.words, surroundings)?;
    let (workshop, common) = match opened {
        Some(opened) => opened,
        None => {
            let line = ["build".to_owned()].into_iter().chain(command.words.clone()).map(OsString::from);
            let line: Vec<OsString> = line.collect();
            let Command::Build(mut invocation) = cli::parse(&line, surroundings)? else {
                return Ok(ExitCode::from(USAGE));
            };
            let (workshop, ()) = open(&mut invocation.options, invocation.store.as_ref(), |_| Ok(()))?;
            (workshop, invocation.options)
        }
    };
    for options in builds.values_mut() {
        options.isolation = common.isolation;
        options.registry = common.registry.clone();
    }
    let progress = Arc::new(Progress::new(common.progress, Box::new(io::stderr())));
    tick(&progress);
    let Workshop { store, server, host, cancel } = workshop;
    let done = bake::carry_out(&store, server, &host, plan, builds, &progress, &cancel);
    progress.finish();
    if let Some(path) = &common.timeline {
        let page = build::progress::timeline::html("bake", &progress.timeline());
        std::fs::write(path, page).at("write", path)?;
    }
    let done = done?;
    if let Some(path) = &command.metadata_file {
        std::fs::write(path, bake::metadata(plan, &done)).at("write", path)?;
    }
    let (text, failed, warnings) = bake::tell(plan, &done, command.json);
    if common.progress != Style::Quiet && !warnings.is_empty() {
        let _ = write!(io::stderr(), "\n{warnings}");
    }
    let code = print(&text)?;
    Ok(if failed { ExitCode::from(FAILED) } else { code })
}

/// `build cache`.
fn upkeep(command: &CacheCommand) -> Result<ExitCode> {
    let entered = userns::enter()?;
    let root = match &command.store {
        Some(root) => root.clone(),
        None => store_root(&entered)?,
    };
    let store = Store::open(&root)?;
    if command.prune {
        let (results, freed) = cache::prune(&store, command.age)?;
        let freed = format!("{} blobs, {} layers, {} bytes", freed.blobs, freed.layers, freed.bytes);
        return print(&format!("{results} results let go of; freed: {freed}\n"));
    }
    let kept = cache::list(&store)?;
    let mut text = String::from("KEY            BYTES  CREATED               STEP\n");
    for one in &kept {
        let step = one.title.chars().take(100).collect::<String>();
        text.push_str(&format!("{:12} {:>9}  {:20}  {step}\n", one.key, one.bytes, one.created));
    }
    let total: u64 = kept.iter().map(|one| one.bytes).sum();
    text.push_str(&format!("{} results, {total} bytes of layers\n", kept.len()));
    print(&text)
}

fn store_root(entered: &Entered) -> Result<PathBuf> {
    match std::env::var_os("LAYERFS_STORE").filter(|path| !path.is_empty()) {
        Some(path) => Ok(PathBuf::from(path)),
        None => Store::default_root(entered.rootless.then_some(entered.real_uid), |name| std::env::var_os(name)),
    }
}

/// Enters the namespaces of this build, or settles on doing without: only root can, for whom `chroot` is left.
fn enter(options: &mut BuildOptions) -> Result<Entered> {
    let root = rustix::process::geteuid().is_root();
    if options.isolation == Isolation::Chroot {
        if !root {
            return Err(Error::new(Kind::Usage, "--isolation chroot needs root")
                .hint("an ordinary user's builds are isolated by namespaces"));
        }
        return userns::enter();
    }
    let entered = userns::enter()?;
    match own_mounts(&entered) {
        Ok(()) => options.isolation = Isolation::Namespaces,
        Err(_) if root && options.isolation == Isolation::Auto => {
            options.isolation = Isolation::Chroot;
            if options.progress != Style::Quiet {
                let _ = writeln!(io::stderr(), "note: {GIVEN_UP}");
            }
        }
        Err(error) => return Err(error),
    }
    Ok(entered)
}

/// Mounts of root's builds stay out of the machine's mount namespace, so that none is left behind whatever happens.
/// Everybody else is in a namespace of their own already.
fn own_mounts(entered: &Entered) -> Result<()> {
    if entered.rootless && entered.real_uid != 0 {
        return Ok(());
    }
    unshare_namespaces(NEW_MOUNTS).context(|| "make a mount namespace").map_err(|error| {
        error.hint(
            "the container this runs in does not allow mounts: give it CAP_SYS_ADMIN, run as an ordinary user, or take \
             --isolation chroot",
        )
    })?;
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", flags).context(|| "keep mounts to this process")
}

/// Reads what comes from standard input: a context, or a Dockerfile. The folder lives as long as the result.
fn take_input(store: &Store, invocation: &mut Invocation) -> Result<Option<TempDir>> {
    if invocation.dockerfile_from_stdin {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).context(|| "read standard input")?;
        invocation.options.dockerfile = DockerfileSource::Bytes(bytes);
    }
    match &invocation.context {
        ContextArgument::Folder(path) => {
            invocation.options.context = Some(path.clone());
            Ok(None)
        }
        ContextArgument::Remote(remote) => {
            invocation.options.remote_context = Some(remote.clone());
            invocation.options.context = None;
            Ok(None)
        }
        ContextArgument::Stdin => {
            let dir = store.new_temp_dir()?;
            let folder = dir.path().join("context");
            match read_context(store, io::stdin(), &folder).context(|| "read standard input")? {
                Arrived::Dockerfile(bytes) => {
                    invocation.options.dockerfile = DockerfileSource::Bytes(bytes);
                    invocation.options.context = None;
                    Ok(None)
                }
                Arrived::Context => {
                    if let DockerfileSource::File(path) = &invocation.options.dockerfile {
                        invocation.options.dockerfile = DockerfileSource::File(folder.join(path));
                    }
                    invocation.options.context = Some(folder);
                    Ok(Some(dir))
                }
            }
        }
    }
}

/// Stops the build at the first request, and this process at the second.
fn watch(signals: Signals, cancel: Arc<Cancel>) {
    /// `SIGHUP`, `SIGINT`, `SIGQUIT`, `SIGTERM`
    const STOPPING: [i32; 4] = [1, 2, 3, 15];
    std::thread::spawn(move || {
        loop {
            let mut fds = [PollFd::new(&signals, PollFlags::IN)];
            let _ = poll(&mut fds, None);
            while let Ok(Some(signal)) = signals.next() {
                if !STOPPING.contains(&signal) {
                    continue;
                }
                if cancel.is_stopped() {
                    std::process::exit(i32::from(STOPPED));
                }
                cancel.stop();
            }
        }
    });
}

/// Redraws progress while the build runs.
fn tick(progress: &Arc<Progress>) {
    let progress = Arc::downgrade(progress);
    std::thread::spawn(move || {
        while let Some(progress) = progress.upgrade() {
            progress.tick();
            drop(progress);
            std::thread::sleep(Duration::from_millis(100));
        }
    });
}

fn report(built: &Built) -> Result<ExitCode> {
    let mut text = format!("{}\n", built.id);
    for (name, descriptor) in &built.pushed {
        text.push_str(&format!("{name}@{}\n", descriptor.digest));
    }
    print(&text)
}
