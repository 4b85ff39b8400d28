//! Verbs about containers that exist: `stop`, `kill`, `rm`, `wait`, `logs`, `check`.
//!
//! An ordinary user enters no namespace for these: from outside, the owner of a user namespace may signal all in it.
//! Only `rm` does, for the files of other ids, and after it has signalled.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use clap::Parser;
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::signals::send;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::{Common, exit, for_each, note, out, parse, tell};
use crate::follow::{self, LogOptions};
use crate::prepare::{self, Caller};
use crate::restart::Policy;
use crate::state::{Container, Containers, Owner, Phase};
use crate::{check, options, sweep, time, volumes};

/// `SIGKILL`
const KILL: i32 = 9;
/// Seconds that a container is given to end, as podman and docker have it.
const STOP_SECONDS: u64 = 10;

pub(super) fn containers(common: &Common) -> Result<Containers> {
    Ok(Containers::below(&prepare::store_root(common.store())?))
}

/// Containers by name or ID, or all.
#[derive(clap::Args)]
pub(super) struct Which {
    /// All containers
    #[arg(short, long)]
    all: bool,
    /// Containers by name or ID
    #[arg(value_name = "CONTAINER", required_unless_present = "all")]
    names: Vec<String>,
}

impl Which {
    /// The names, or those of all containers that `fits`.
    pub(super) fn names(&self, containers: &Containers, fits: impl Fn(&Container) -> bool) -> Result<Vec<String>> {
        if !self.all {
            return Ok(self.names.clone());
        }
        let all = containers.list()?.into_iter().filter(|container| !container.is_leftover() && fits(container));
        Ok(all.map(|container| container.record.id).collect())
    }
}

/// Asks containers to end, and kills those that do not.
#[derive(Parser)]
#[command(name = "run stop")]
struct Stop {
    /// Seconds until they are killed; -1 for as long as it takes
    #[arg(short, long, value_name = "SECONDS", value_parser = options::stop_timeout, allow_hyphen_values = true)]
    time: Option<u64>,
    /// A container that does not exist is no error
    #[arg(short, long)]
    ignore: bool,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    common: Common,
}

pub(super) fn stop(words: &[OsString]) -> i32 {
    let arguments: Stop = match parse(words, exit::ENGINE) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let named = containers(&arguments.common).and_then(|containers| {
        let names = arguments.which.names(&containers, |container| container.phase() == Phase::Running)?;
        Ok((containers, names))
    });
    let (containers, names) = match named {
        Ok(named) => named,
        Err(error) => return tell("run", &error, exit::ENGINE),
    };
    for_each(&names, |name| match containers.find(name) {
        Err(error) if arguments.ignore && error.kind() == Kind::NotFound => Ok(()),
        found => {
            end(&found?, arguments.time)?;
            out(name);
            Ok(())
        }
    })
}

/// Ends a container: by its signal, after its time by force; returns when its end is recorded.
fn end(container: &Container, time: Option<u64>) -> Result<()> {
    let settled = match container.record.options.restart {
        Policy::No => container.clone(),
        _ => settled(container.again()?.unwrap_or_else(|| container.clone()))?,
    };
    let container = &settled;
    let Ok(process) = container.open_process() else { return Ok(()) };
    let seconds = time.or(container.record.options.stop.timeout).unwrap_or(STOP_SECONDS);
    if seconds > 0 {
        signal(container, process.as_fd(), container.record.stop_signal)?;
        go_on(container);
        if ended_within(process.as_fd(), Duration::from_secs(seconds))? {
            return container.wait_unowned();
        }
        let name = &container.record.name;
        let word = options::signal_name(container.record.stop_signal);
        note(&format!("container `{name}` did not end within {seconds} s of {word} and is killed"));
    }
    signal(container, process.as_fd(), KILL)?;
    go_on(container);
    ended_within(process.as_fd(), Duration::MAX)?;
    container.wait_unowned()
}

/// A container that nobody starts any more: it runs, or it does not.
fn settled(container: Container) -> Result<Container> {
    container.mark_stopped()?;
    // Its watcher may have looked for the mark just before it was there, and starts it once more.
    let settled = follow::past_start(container)?;
    if settled.record.options.restart != Policy::No && settled.phase() != Phase::Running {
        settled.wait_unowned()?;
    }
    Ok(settled.again()?.unwrap_or(settled))
}

/// A paused container meets its signal once it goes on.
fn go_on(container: &Container) {
    if container.record.cgroup.is_frozen() {
        // Where it cannot be let go on, the wait that follows tells.
        let _ = container.record.cgroup.thaw();
    }
}

fn signal(container: &Container, process: std::os::fd::BorrowedFd<'_>, number: i32) -> Result<()> {
    match send(process, number) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(()),
        sent => {
            sent.context(|| format!("send {} to container `{}`", options::signal_name(number), container.record.name))
        }
    }
}

fn ended_within(process: std::os::fd::BorrowedFd<'_>, limit: Duration) -> Result<bool> {
    let end = Instant::now().checked_add(limit);
    loop {
        let left = end.map(|end| {
            let left = end.saturating_duration_since(Instant::now());
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() }
        });
        let mut fds = [PollFd::from_borrowed_fd(process, PollFlags::IN)];
        match rustix::event::poll(&mut fds, left.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other.context(|| "wait for a container's end")? > 0),
        }
    }
}

/// Sends containers a signal.
#[derive(Parser)]
#[command(name = "run kill")]
struct Kill {
    /// The signal, by name or number
    #[arg(short, long, default_value = "KILL", value_parser = options::signal)]
    signal: i32,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    common: Common,
}

pub(super) fn kill(words: &[OsString]) -> i32 {
    let arguments: Kill = match parse(words, exit::ENGINE) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let named = containers(&arguments.common).and_then(|containers| {
        let names = arguments.which.names(&containers, |container| container.phase() == Phase::Running)?;
        Ok((containers, names))
    });
    let (containers, names) = match named {
        Ok(named) => named,
        Err(error) => return tell("run", &error, exit::ENGINE),
    };
    for_each(&names, |name| {
        let container = containers.find(name)?;
        let process = container.open_process()?;
        container.mark_stopped()?;
        signal(&container, process.as_fd(), arguments.signal)?;
        if arguments.signal == KILL {
            go_on(&container);
            ended_within(process.as_fd(), Duration::MAX)?;
            container.wait_unowned()?;
        }
        out(name);
        Ok(())
    })
}

/// Removes containers.
#[derive(Parser)]
#[command(name = "run rm")]
struct Rm {
    /// Running ones too; one that does not exist is no error
    #[arg(short, long)]
    force: bool,
    /// Their unnamed volumes too
    #[arg(short, long)]
    volumes: bool,
    /// Ask a running one to end, and kill it after so many seconds; without, it is killed at once
    #[arg(short, long, value_name = "SECONDS", value_parser = options::stop_timeout, allow_hyphen_values = true)]
    time: Option<u64>,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    common: Common,
}

pub(super) fn rm(words: &[OsString]) -> i32 {
    let arguments: Rm = match parse(words, exit::ENGINE) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    match rm_parsed(&arguments) {
        Ok(code) => code,
        Err(error) => tell("run", &error, exit::ENGINE),
    }
}

fn rm_parsed(arguments: &Rm) -> Result<i32> {
    let outside = containers(&arguments.common)?;
    let names = arguments.which.names(&outside, |_| true)?;
    let mut code = exit::OK;
    let mut ready = Vec::new();
    for name in &names {
        let found = outside.find(name).and_then(|container| {
            let container = if arguments.force { settled(container)? } else { container };
            match container.phase() {
                Phase::Running if !arguments.force => {
                    let message = format!("container `{name}` is running");
                    return Err(Error::new(Kind::Exit(exit::RUNNING), message).hint("stop it first, or use --force"));
                }
                // What is about to be thrown away need not be asked first, unless a time for it is given.
                Phase::Running => end(&container, Some(arguments.time.unwrap_or(0)))?,
                Phase::Created if container.is_owned() => {
                    let message = format!("container `{name}` is being started");
                    return Err(Error::new(Kind::Exit(exit::RUNNING), message).hint("use --force"));
                }
                _ => container.wait_unowned()?,
            }
            Ok(container)
        });
        match found {
            Ok(container) => ready.push((name, container)),
            Err(error) if error.kind() == Kind::NotFound && arguments.force => {}
            Err(error) if error.kind() == Kind::NotFound => code = code.max(tell("run", &error, exit::FAILED)),
            Err(error) => code = code.max(tell("run", &error, exit::ENGINE)),
        }
    }
    if ready.is_empty() {
        return Ok(code);
    }
    // Files of other ids can only be removed from inside.
    let caller = Caller::enter(arguments.common.store(), |_| {})?;
    for (name, container) in &ready {
        let mut owner = Owner::try_take(&container.dir)?;
        if owner.is_none() && arguments.force && container.record.options.restart != Policy::No {
            // Its watcher looks once more whether it is to go on.
            container.wait_unowned()?;
            owner = Owner::try_take(&container.dir)?;
        }
        let removed = match owner {
            // It went by itself, with --rm.
            None if !container.dir.exists() => Ok(()),
            None => Err(Error::new(Kind::Conflict, format!("container `{name}` is in use by another process"))),
            Some(owner) => container.again().and_then(|now| sweep::remove(now.as_ref().unwrap_or(container), owner)),
        };
        let removed = removed.and_then(|()| match arguments.volumes {
            true => volumes::remove_anonymous(container),
            false => Ok(()),
        });
        match removed {
            Ok(()) => drop(out(name)),
            Err(error) => code = code.max(tell("run", &error, exit::ENGINE)),
        }
    }
    sweep::all(&caller.containers);
    Ok(code)
}

/// Waits for containers to end and prints their exit codes.
#[derive(Parser)]
#[command(name = "run wait")]
struct Wait {
    /// A container that does not exist is no error
    #[arg(long)]
    ignore: bool,
    /// Until one of these is so: created, running, paused, stopping, stopped, exited, removing
    #[arg(long, value_name = "CONDITION", value_parser = Condition::parse)]
    condition: Vec<Condition>,
    /// How often to look whether it is
    #[arg(short, long, value_name = "TIME", value_parser = interval, default_value = "250ms", hide_default_value = true)]
    interval: Duration,
    /// Containers by name or ID
    #[arg(value_name = "CONTAINER", required = true)]
    names: Vec<String>,
    #[command(flatten)]
    common: Common,
}

/// What can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Created,
    Running,
    Paused,
    Stopping,
    Exited,
    Removing,
}

impl Condition {
    fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "configured" | "created" | "initialized" => Self::Created,
            "running" => Self::Running,
            "paused" => Self::Paused,
            "stopping" => Self::Stopping,
            "exited" | "stopped" => Self::Exited,
            "removing" => Self::Removing,
            _ => return Err(Error::new(Kind::Usage, "not a condition that can be waited for")),
        })
    }

    /// Whether it holds for what is left of a container.
    fn holds(self, container: Option<&Container>) -> bool {
        let Some(container) = container else { return matches!(self, Self::Exited | Self::Removing) };
        let paused = || container.record.cgroup.is_frozen();
        match (self, container.phase()) {
            (Self::Created, Phase::Created) | (Self::Stopping, Phase::Ending) | (Self::Exited, Phase::Exited(_)) => {
                true
            }
            (Self::Running, Phase::Running) => !paused(),
            (Self::Paused, Phase::Running) => paused(),
            _ => false,
        }
    }
}

/// `250ms`, `2s`, or milliseconds.
fn interval(text: &str) -> Result<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number.parse().map_err(|_| Error::new(Kind::Usage, "not a time such as 250ms"))?;
    match unit {
        "" | "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err(Error::new(Kind::Usage, "not a time such as 250ms")),
    }
}

/// Looks again and again until a condition holds; the exit code, or -1 where it has none.
fn wait_for(container: &Container, conditions: &[Condition], interval: Duration) -> Result<i32> {
    loop {
        let now = container.again()?;
        if conditions.iter().any(|condition| condition.holds(now.as_ref())) {
            return Ok(match now.map(|now| now.phase()) {
                Some(Phase::Exited(Some(code))) => code,
                _ => -1,
            });
        }
        std::thread::sleep(interval);
    }
}

pub(super) fn wait(words: &[OsString]) -> i32 {
    let arguments: Wait = match parse(words, exit::ENGINE) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let containers = match containers(&arguments.common) {
        Ok(containers) => containers,
        Err(error) => return tell("run", &error, exit::ENGINE),
    };
    for_each(&arguments.names, |name| {
        let container = match containers.find(name) {
            Err(error) if arguments.ignore && error.kind() == Kind::NotFound => {
                out("-1");
                return Ok(());
            }
            found => found?,
        };
        let code = match arguments.condition.is_empty() {
            true => follow::exit_code(&container)?,
            false => wait_for(&container, &arguments.condition, arguments.interval)?,
        };
        out(&code.to_string());
        Ok(())
    })
}

/// Shows what a container said.
#[derive(Parser)]
#[command(name = "run logs")]
struct Logs {
    /// Go on as more comes, until it ends
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines; -1 or `all` for all
    #[arg(short = 'n', long, value_name = "LINES", allow_hyphen_values = true, value_parser = tail)]
    tail: Option<Tail>,
    /// With the time of each line
    #[arg(short, long)]
    timestamps: bool,
    /// From a time or an age on, such as 10m
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Up to a time or an age
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// The container, by name or ID
    #[arg(value_name = "CONTAINER")]
    name: String,
    #[command(flatten)]
    common: Common,
}

/// How many lines from the end; `None` for all.
#[derive(Clone, Copy)]
struct Tail(Option<u64>);

fn tail(text: &str) -> Result<Tail> {
    match text {
        "-1" | "all" => Ok(Tail(None)),
        _ => text.parse().map(|lines| Tail(Some(lines))).map_err(|_| Error::new(Kind::Usage, "not a number of lines")),
    }
}

pub(super) fn logs(words: &[OsString]) -> i32 {
    let arguments: Logs = match parse(words, exit::ENGINE) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let shown = (|| {
        let moment =
            |text: &Option<String>| text.as_deref().map(|text| options::duration(text, time::now())).transpose();
        let options = LogOptions {
            follow: arguments.follow,
            tail: arguments.tail.and_then(|tail| tail.0),
            timestamps: arguments.timestamps,
            since: moment(&arguments.since)?,
            until: moment(&arguments.until)?,
        };
        let container = containers(&arguments.common)?.find(&arguments.name)?;
        let (mut stdout, mut stderr) = (std::io::stdout().lock(), std::io::stderr().lock());
        follow::logs(&container, &options, &mut stdout, &mut stderr)
    })();
    shown.map_or_else(|error| tell("run", &error, exit::ENGINE), |()| exit::OK)
}

/// Names what this machine lacks, with the line that fixes it.
#[derive(Parser)]
#[command(name = "run check")]
struct Check {
    #[command(flatten)]
    common: Common,
}

pub(super) fn check(words: &[OsString]) -> i32 {
    let arguments: Check = match parse(words, exit::ENGINE) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let findings = check::all(arguments.common.store());
    let mut stdout = std::io::stdout().lock();
    let mut code = exit::OK;
    for finding in findings {
        let _ = writeln!(stdout, "{finding}");
        if finding.is_needed() {
            code = exit::FAILED;
        }
    }
    code
}
