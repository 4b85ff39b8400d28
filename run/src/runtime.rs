//! `layerfs-runtime`: the same launcher behind the command line that container engines call (runc's), for a bundle that
//! somebody else prepared. The `Spec` is read from the bundle instead of made from an image; nothing else differs.
//!
//! Between `create` and `start` a small process holds the container: it is the other end of the channel that the
//! container's first process waits on. `start` talks to it through a socket in the container's folder; then it goes,
//! and the container becomes a child of whoever reaps here, as engines expect.

mod bundle;
mod features;
mod holder;
mod instances;

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::signals::{Signals, send};
use rustix::event::{PollFd, PollFlags};

use crate::options;
use crate::relay::Relay;
use crate::session::{self, Attachment, Observer, Watched};
use crate::spec;
use crate::terminal::Raw;
use crate::time;
use bundle::Bundle;
use instances::{Instance, Instances};

/// An OCI runtime: containers from bundles
#[derive(Parser)]
#[command(name = "layerfs-runtime", version = concat!(env!("CARGO_PKG_VERSION"), "\nspec: 1.3.0"), disable_help_subcommand = true)]
struct Arguments {
    /// Where the state of containers is kept
    #[arg(long, global = true, value_name = "FOLDER")]
    root: Option<PathBuf>,
    /// Errors are also written here
    #[arg(long, global = true, value_name = "FILE")]
    log: Option<PathBuf>,
    /// text or json
    #[arg(long, global = true, default_value = "text")]
    log_format: String,
    /// cgroupsPath is `slice:prefix:name`
    #[arg(long, global = true)]
    systemd_cgroup: bool,
    /// Accepted, and without effect: nothing is left unsaid
    #[arg(long, global = true)]
    debug: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make a container that waits to be started
    Create(Create),
    /// Let a container's program run
    Start(Id),
    /// Make a container, start it and wait for its end
    Run(Create),
    /// Print a container's state as JSON
    State(Id),
    /// Send a container a signal
    Kill(Kill),
    /// Remove a container that has ended
    Delete(Delete),
    /// List containers
    List(List),
    /// Print what this runtime can do as JSON
    Features,
    /// Write a default config.json
    Spec(SpecArguments),
}

#[derive(Args)]
struct Create {
    /// The bundle's folder
    #[arg(short, long, default_value = ".", value_name = "FOLDER")]
    bundle: PathBuf,
    /// A socket that the terminal's master side is sent to
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// The first process's number is written here
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Hand over this many descriptors from 3 on
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    preserve_fds: u32,
    /// Accepted: the root is never switched in another way
    #[arg(long)]
    no_pivot: bool,
    /// Accepted: a session keyring of its own does no harm
    #[arg(long)]
    no_new_keyring: bool,
    /// `run`: do not wait for its end
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    id: Id,
}

#[derive(Args)]
struct Id {
    /// The container
    #[arg(value_name = "ID")]
    id: String,
}

#[derive(Args)]
struct Kill {
    /// To all of its processes
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    id: Id,
    /// By name or number
    #[arg(value_name = "SIGNAL", default_value = "TERM", value_parser = options::signal)]
    signal: i32,
}

#[derive(Args)]
struct Delete {
    /// Kill it first; one that does not exist is no error
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    id: Id,
}

#[derive(Args)]
struct List {
    /// table or json
    #[arg(short, long, default_value = "table")]
    format: String,
    /// IDs only
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Args)]
struct SpecArguments {
    /// Where config.json is written
    #[arg(short, long, default_value = ".", value_name = "FOLDER")]
    bundle: PathBuf,
}

/// `SIGKILL`
const KILL: i32 = 9;

/// Runs the program and gives its exit code: 0, or 1 where something failed; `run` has the container's own.
pub(crate) fn main(words: &[OsString]) -> i32 {
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return i32::from(error.use_stderr());
        }
    };
    match carry_out(&arguments) {
        Ok(code) => code,
        Err(error) => {
            report(&arguments, &error);
            1
        }
    }
}

/// Engines read the last error from the log, people from standard error.
fn report(arguments: &Arguments, error: &Error) {
    let hint = error.advice().map_or(String::new(), |hint| format!(" ({hint})"));
    let text = format!("{}{hint}", error.chain());
    let _ = writeln!(std::io::stderr(), "layerfs-runtime: {text}");
    let Some(path) = &arguments.log else { return };
    let line = match arguments.log_format.as_str() {
        "json" => serde_json::json!({"level": "error", "msg": text, "time": time::format(time::now())}).to_string(),
        _ => format!("time=\"{}\" level=error msg={text:?}", time::format(time::now())),
    };
    let file = std::fs::File::options().append(true).create(true).open(path);
    let _ = file.and_then(|mut file| writeln!(file, "{line}"));
}

fn carry_out(arguments: &Arguments) -> Result<i32> {
    let instances = Instances::of(arguments.root.as_deref())?;
    match &arguments.verb {
        Verb::Create(create) => {
            let bundle = Bundle::read(&create.bundle, &create.id.id, arguments.systemd_cgroup)?;
            holder::create(&instances, bundle, create).map(|()| 0)
        }
        Verb::Start(id) => holder::start(&instances.find(&id.id)?).map(|()| 0),
        Verb::Run(create) => run(&instances, create, arguments.systemd_cgroup),
        Verb::State(id) => print(&instances.find(&id.id)?.state()),
        Verb::Kill(kill) => {
            let instance = instances.find(&kill.id.id)?;
            let process = instance.open_process()?;
            // Where the container has its own pid namespace its first process takes all others with it.
            let number = kill.signal;
            send(process.as_fd(), number).context(|| format!("send {}", options::signal_name(number))).map(|()| 0)
        }
        Verb::Delete(delete) => remove(&instances, delete),
        Verb::List(list) => list_all(&instances, list),
        Verb::Features => print(&features::all()),
        Verb::Spec(spec) => write_spec(&spec.bundle),
    }
}

fn print(value: &serde_json::Value) -> Result<i32> {
    let text = serde_json::to_string_pretty(value).context(|| "write JSON")?;
    writeln!(std::io::stdout(), "{text}").context(|| "write to standard output").map(|()| 0)
}

/// A container in front of the caller, with the caller's own streams.
fn run(instances: &Instances, create: &Create, systemd_cgroup: bool) -> Result<i32> {
    let bundle = Bundle::read(&create.bundle, &create.id.id, systemd_cgroup)?;
    if create.detach {
        holder::create(instances, bundle, create)?;
        return holder::start(&instances.find(&create.id.id)?).map(|()| 0);
    }
    let instance = instances.make(&create.id.id, &bundle)?;
    let ran = (|| {
        let signals = Signals::block().context(|| "read signals from a descriptor")?;
        let attachment = Attachment::Foreground { keys: None, proxy: true };
        let streams = options::Streams { terminal: bundle.has_terminal(), interactive: true };
        let (io, mut relay) = session::streams(streams, &attachment, None)?;
        let mut created = bundle.launch(io, create.preserve_fds, true)?;
        if let Some(master) = created.take_terminal() {
            match &create.console_socket {
                Some(socket) => holder::send_terminal(socket, &master)?,
                None => session::attach_terminal(master, &attachment, true, &mut relay)?,
            }
        }
        instance.record(created.pid())?;
        write_pid(create, created.pid())?;
        let running = created.start()?;
        let raw = if streams.terminal && create.console_socket.is_none() { Raw::enter()? } else { None };
        let Watched::Exited = session::watch(&running, &signals, &mut relay, raw, true, &mut Quiet)? else {
            return Ok(0);
        };
        let exit = running.wait()?;
        finish(relay);
        let _ = running.destroy();
        Ok(exit.code)
    })();
    // What ran in front of its caller leaves nothing; the exit code is the thing to tell.
    let _ = instance.remove();
    ran
}

fn finish(mut relay: Relay) {
    relay.drain();
}

struct Quiet;

impl Observer for Quiet {
    fn note(&mut self, _: &str) {}
    fn started(&mut self) {}
    fn detached(&mut self) -> bool {
        false
    }
}

fn write_pid(create: &Create, pid: i32) -> Result<()> {
    let Some(path) = &create.pid_file else { return Ok(()) };
    // Whoever waits for the file must not read half a number.
    let moment = path.with_file_name(format!(".{}.{pid}", path.file_name().unwrap_or_default().to_string_lossy()));
    std::fs::write(&moment, pid.to_string()).at("write", &moment)?;
    std::fs::rename(&moment, path).at("rename", path)
}

fn remove(instances: &Instances, delete: &Delete) -> Result<i32> {
    let instance = match instances.find(&delete.id.id) {
        Err(error) if error.kind() == Kind::NotFound && delete.force => return Ok(0),
        other => other?,
    };
    if let Ok(process) = instance.open_process() {
        if !delete.force {
            return Err(Error::new(Kind::Conflict, format!("container `{}` is {}", delete.id.id, instance.status()))
                .hint("kill it first, or use --force"));
        }
        let _ = send(process.as_fd(), KILL);
        let mut fds = [PollFd::new(&process, PollFlags::IN)];
        while rustix::event::poll(&mut fds, None) == Err(rustix::io::Errno::INTR) {}
    }
    instance.remove().map(|()| 0)
}

fn list_all(instances: &Instances, list: &List) -> Result<i32> {
    let all: Vec<Instance> = instances.all()?;
    if list.format == "json" {
        return print(&all.iter().map(Instance::state).collect());
    }
    let mut rows = Vec::new();
    if !list.quiet {
        rows.push(["ID", "PID", "STATUS", "BUNDLE"].map(str::to_owned).to_vec());
    }
    for instance in &all {
        let state = instance.state();
        let text = |key: &str| state[key].as_str().map_or_else(|| state[key].to_string(), str::to_owned);
        match list.quiet {
            true => rows.push(vec![text("id")]),
            false => rows.push(["id", "pid", "status", "bundle"].map(text).to_vec()),
        }
    }
    write!(std::io::stdout(), "{}", crate::format::table(&rows)).context(|| "write to standard output").map(|()| 0)
}

fn write_spec(folder: &Path) -> Result<i32> {
    let path = folder.join("config.json");
    if path.exists() {
        return Err(Error::new(Kind::Conflict, format!("`{}` exists already", path.display())));
    }
    let facts = spec::HostFacts {
        architecture: layerfs::oci::Platform::host().architecture,
        kernel: crate::host::kernel(),
        ..spec::HostFacts::default()
    };
    let mut frame = spec::base_spec(&facts)?;
    if let Some(root) = frame.root_mut() {
        root.set_path("rootfs".into()).set_readonly(Some(true));
    }
    if let Some(process) = frame.process_mut() {
        process.set_args(Some(vec!["sh".to_owned()]));
    }
    let text = serde_json::to_string_pretty(&frame).context(|| "write JSON")?;
    std::fs::write(&path, text).at("write", &path).map(|()| 0)
}
