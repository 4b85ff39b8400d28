//! Verbs that make containers run: `run`, `create`, `start`, `exec`.

use std::ffi::OsString;
use std::fs;
use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{ArgAction, Parser};
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::Platform;

use super::arguments::{CreateArguments, RunFlags, environment};
use super::{Common, exit, for_each, note, out, parse, tell};
use crate::command::{self, CommandOptions};
use crate::monitor;
use crate::options::{MountRequest, RunOptions, Streams};
use crate::prepare::{self, Caller, Prepared};
use crate::session::{Attachment, Observer, Outcome};
use crate::state::{Containers, Owner, Phase};
use crate::terminal::DetachKeys;
use crate::{pull, restart, seal, sweep, volumes};

/// Makes a container of an image and runs it.
#[derive(Parser)]
#[command(name = "run", override_usage = "run [FLAGS] IMAGE [COMMAND…]", disable_help_flag = true)]
struct Run {
    #[command(flatten)]
    flags: RunFlags,
    #[command(flatten)]
    create: CreateArguments,
    #[command(flatten)]
    common: Common,
    /// Print this help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

pub(super) fn run(words: &[OsString]) -> i32 {
    let arguments: Run = match parse(words, exit::ENGINE) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    run_parsed(&arguments).unwrap_or_else(|error| tell("run", &error, exit::ENGINE))
}

fn run_parsed(arguments: &Run) -> Result<i32> {
    if arguments.create.shares_folders() {
        seal::ensure()?;
    }
    let options = arguments.create.options()?;
    let flags = &arguments.flags;
    let streams = options.process.streams;
    let detach = flags.detach.unwrap_or(false);
    if detach && flags.pidfile.is_none() && options.process.preserve_fds > 0 {
        return Err(Error::new(Kind::Usage, "--preserve-fds hands nothing over with --detach"));
    }
    check_cidfile(&arguments.create)?;
    let caller = Caller::enter_for(arguments.common.store(), &options, note)?;
    let prepared = make(&caller, &arguments.create, options)?;
    let id = prepared.container.record.id.clone();
    let dir = prepared.container.dir.clone();
    let mut tail = Tail { caller: &caller, pidfile: flags.pidfile.clone(), dir };
    if detach {
        monitor::start(&caller, prepared, &mut note)?;
        tail.started();
        return Ok(out(&id));
    }
    warn_without_terminal(streams);
    let keys = streams.interactive.then(|| flags.detach_keys.clone());
    attached(prepared, keys, flags.sig_proxy.unwrap_or(true), &mut tail)
}

/// Runs a container in front of the caller: in this process, or, where the caller may let go of it, in one of its own.
fn attached(prepared: Prepared, keys: Option<DetachKeys>, proxy: bool, tail: &mut Tail<'_>) -> Result<i32> {
    let streams = prepared.container.record.options.process.streams;
    let keys = keys.filter(|_| streams.interactive && streams.terminal && crate::terminal::is_input());
    let attachment = Attachment::Foreground { keys, proxy };
    let outcome = match &attachment {
        Attachment::Foreground { keys: Some(_), .. } => {
            tail.started_later()?;
            monitor::attend(tail.caller, prepared, attachment, &mut note)?
        }
        _ => restart::run(tail.caller, prepared, &attachment, tail)?,
    };
    match outcome {
        Outcome::Ended(code) => Ok(code),
        Outcome::Detached => Ok(exit::OK),
    }
}

fn warn_without_terminal(streams: Streams) {
    if streams.terminal && streams.interactive && !std::io::stdin().is_terminal() {
        note("standard input is not a terminal");
    }
}

/// What is done once the program runs, while it does.
struct Tail<'a> {
    caller: &'a Caller,
    pidfile: Option<PathBuf>,
    dir: PathBuf,
}

impl Tail<'_> {
    fn started_later(&self) -> Result<()> {
        match &self.pidfile {
            Some(path) => Err(Error::new(Kind::Usage, format!("--pidfile {} goes with --detach", path.display()))
                .hint("or without a terminal")),
            None => {
                sweep::all(&self.caller.containers);
                Ok(())
            }
        }
    }
}

impl Observer for Tail<'_> {
    fn note(&mut self, line: &str) {
        note(line);
    }

    fn started(&mut self) {
        if let Some(path) = &self.pidfile {
            let pid = crate::state::Container::read(&self.dir).ok().flatten().and_then(|container| container.status);
            if let Some(status) = pid
                && let Err(error) = fs::write(path, status.process.pid.to_string()).at("write", path)
            {
                note(&error.chain());
            }
        }
        // While the container runs: what killed processes left costs its start nothing.
        sweep::all(&self.caller.containers);
    }

    fn detached(&mut self) -> bool {
        false
    }
}

fn check_cidfile(create: &CreateArguments) -> Result<()> {
    match create.cidfile() {
        Some(path) if path.exists() => {
            let message = format!("--cidfile `{}` exists already", path.display());
            Err(Error::new(Kind::Conflict, message).hint("remove it, if its container is gone"))
        }
        _ => Ok(()),
    }
}

/// The image, the container, and its ID where it is wanted.
fn make(caller: &Caller, create: &CreateArguments, options: RunOptions) -> Result<Prepared> {
    let flags = &create.image;
    let name = create.image_name();
    // Nothing of the image goes before the container's record names it.
    let _pin = caller.store.pin()?;
    let found = pull::image(&caller.store, name, flags.pull.into(), flags.platform.as_ref(), flags.quiet)?;
    let shown = found.name.map_or_else(|| name.to_owned(), |name| name.to_string());
    let platform = flags.platform.clone().unwrap_or_else(Platform::host);
    let mut options = options;
    for other in create.volumes_from() {
        let theirs = volumes::taken_over(other, &caller.containers, &options.storage.mounts)?;
        options.storage.mounts.extend(theirs);
    }
    let prepared = prepare::new(caller, &shown, &found.descriptor, &platform, options)?;
    if let Some(path) = create.cidfile() {
        fs::write(path, &prepared.container.record.id).at("write", path)?;
    }
    Ok(prepared)
}

/// Makes a container of an image without starting it.
#[derive(Parser)]
#[command(name = "run create", override_usage = "run create [FLAGS] IMAGE [COMMAND…]", disable_help_flag = true)]
struct Create {
    #[command(flatten)]
    create: CreateArguments,
    #[command(flatten)]
    common: Common,
    /// Print this help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

pub(super) fn create(words: &[OsString]) -> i32 {
    let arguments: Create = match parse(words, exit::ENGINE) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let made = (|| {
        check_cidfile(&arguments.create)?;
        let options = arguments.create.options()?;
        let caller = Caller::enter_for(arguments.common.store(), &options, note)?;
        let prepared = make(&caller, &arguments.create, options)?;
        sweep::all(&caller.containers);
        Ok(prepared.container.record.id)
    })();
    made.map_or_else(|error| tell("run", &error, exit::ENGINE), |id| out(&id))
}

/// Starts containers that were made, or have ended.
#[derive(Parser)]
#[command(name = "run start")]
struct Start {
    /// Show what it says and wait for its end
    #[arg(short, long)]
    attach: bool,
    /// Pass standard input
    #[arg(short, long)]
    interactive: bool,
    /// Keys that let go of the container
    #[arg(long, value_name = "KEYS", default_value = DetachKeys::DEFAULT, value_parser = DetachKeys::parse)]
    detach_keys: DetachKeys,
    /// Pass signals on to the container
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    sig_proxy: Option<bool>,
    /// Containers by name or ID
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn start(words: &[OsString]) -> i32 {
    let arguments: Start = match parse(words, exit::ENGINE) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let attach = arguments.attach || arguments.interactive;
    if attach && arguments.containers.len() > 1 {
        return tell("run", &Error::new(Kind::Usage, "one container can be attached to at a time"), exit::ENGINE);
    }
    // One process can be in one user namespace: the first container's options decide which.
    let entered = prepare::store_root(arguments.common.store()).and_then(|root| {
        let first = Containers::below(&root).find(&arguments.containers[0]);
        let options = first.map(|container| container.record.options).unwrap_or_default();
        if options.storage.mounts.iter().any(MountRequest::is_shared) {
            seal::ensure()?;
        }
        Caller::enter_for(arguments.common.store(), &options, note)
    });
    let caller = match entered {
        Ok(caller) => caller,
        Err(error) => return tell("run", &error, exit::ENGINE),
    };
    if attach {
        let attached = start_one(&caller, &arguments.containers[0], arguments.interactive).and_then(|prepared| {
            let Some(prepared) = prepared else {
                return Err(
                    Error::new(Kind::Conflict, "the container runs already").hint("`run logs -f` shows what it says")
                );
            };
            let mut tail = Tail { caller: &caller, pidfile: None, dir: prepared.container.dir.clone() };
            attached(prepared, Some(arguments.detach_keys.clone()), arguments.sig_proxy.unwrap_or(true), &mut tail)
        });
        return attached.unwrap_or_else(|error| tell("run", &error, exit::ENGINE));
    }
    let code = for_each(&arguments.containers, |name| {
        if let Some(prepared) = start_one(&caller, name, false)? {
            monitor::start(&caller, prepared, &mut note)?;
        }
        out(name);
        Ok(())
    });
    sweep::all(&caller.containers);
    code
}

/// `None` where it runs already.
fn start_one(caller: &Caller, name: &str, interactive: bool) -> Result<Option<Prepared>> {
    let mut container = caller.containers.find(name)?;
    if matches!(container.phase(), Phase::Running) {
        return Ok(None);
    }
    let owner = Owner::try_take(&container.dir)?.ok_or_else(|| {
        Error::new(Kind::Conflict, format!("container `{name}` is being started or stopped by another process"))
    })?;
    sweep::after(&container);
    owner.forget_status()?;
    container.forget_stop()?;
    container.status = None;
    container.record.options.process.streams.interactive &=
        interactive || container.record.options.process.streams.terminal;
    prepare::again(caller, owner, container).map(Some)
}

/// Runs a further command in a running container.
#[derive(Parser)]
#[command(name = "run exec", override_usage = "run exec [FLAGS] CONTAINER COMMAND…")]
struct Exec {
    /// Pass standard input
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Do not wait for the command
    #[arg(short, long)]
    detach: bool,
    /// Set a variable
    #[arg(short, long, value_name = "VARIABLE")]
    env: Vec<String>,
    /// Read variables from a file
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Working folder
    #[arg(short, long, value_name = "FOLDER")]
    workdir: Option<String>,
    /// Whom to run as
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Every capability, no seccomp filter
    #[arg(long)]
    privileged: bool,
    /// Hand over this many descriptors from 3 on
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    preserve_fds: u32,
    /// Keys that let go of the command
    #[arg(long, value_name = "KEYS", default_value = DetachKeys::DEFAULT, value_parser = DetachKeys::parse)]
    detach_keys: DetachKeys,
    /// The container, then the command and its arguments
    #[arg(value_name = "CONTAINER COMMAND", required = true, num_args = 2.., trailing_var_arg = true)]
    words: Vec<String>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn exec(words: &[OsString]) -> i32 {
    let arguments: Exec = match parse(words, exit::ENGINE) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let ran = (|| {
        seal::ensure()?;
        // No namespace of our own is entered: the container's is joined from outside it, as its owner.
        let containers = Containers::below(&prepare::store_root(arguments.common.store())?);
        let container = containers.find(&arguments.words[0])?;
        if container.phase() != Phase::Running {
            let message = format!("container `{}` is not running", container.record.name);
            return Err(Error::new(Kind::Exit(exit::NOT_RUNNING), message).hint("`run start` starts it again"));
        }
        let streams = Streams { terminal: arguments.tty, interactive: arguments.interactive };
        if !arguments.detach {
            warn_without_terminal(streams);
        }
        let options = CommandOptions {
            command: arguments.words[1..].to_vec(),
            environment: environment(&arguments.env_file, &arguments.env)?,
            workdir: arguments.workdir.clone(),
            user: arguments.user.clone(),
            privileged: arguments.privileged,
            streams,
            preserve_fds: arguments.preserve_fds,
        };
        match arguments.detach {
            true => command::start(&container, &options).map(|()| exit::OK),
            false => command::run(&container, &options, arguments.detach_keys.clone(), &mut note),
        }
    })();
    ran.unwrap_or_else(|error| tell("run", &error, exit::ENGINE))
}
