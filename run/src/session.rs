//! The life of one container, watched from its start to its end: launch, network, record, streams, signals, and what is
//! left to do afterwards. The foreground `run` and the monitor behind `-d` both are this.

use std::os::fd::{AsFd, OwnedFd};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::signals::{Signals, send};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::launch::{Created, Exit, Io, Launch, Rootfs, Running, Stdio};
use crate::log::{Stream, Writer};
use crate::network::{self, Connection, Pasta};
use crate::options::{LogDriver, Removal, RunOptions, Streams};
use crate::prepare::Prepared;
use crate::relay::{Input, Output, Relay};
use crate::state::{Container, Finished, Owner, ProcessId, Status, now};
use crate::terminal::{self, DetachKeys, NewLines, Raw};
use crate::volumes;

/// How the caller is connected to the container.
#[derive(Clone, Debug)]
pub enum Attachment {
    /// It shows what the container says and waits for its end.
    Foreground {
        /// What lets go of it; `None` where nothing can.
        keys: Option<DetachKeys>,
        /// Signals are passed on.
        proxy: bool,
    },
    /// Nobody is there.
    Background,
}

/// What became of the container as far as the caller saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ended with this code.
    Ended(i32),
    /// The caller let go of it, and it goes on.
    Detached,
}

/// What happens on the way.
pub trait Observer {
    /// A line for the user.
    fn note(&mut self, line: &str);
    /// The program runs.
    fn started(&mut self);
    /// The caller let go. `true` to go on watching, in this process.
    fn detached(&mut self) -> bool;
}

/// Exit codes of `run` for a program that is not there, and for one that cannot be executed.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

/// Launches a container and watches it to its end.
///
/// # Errors
/// It could not be started: `Kind::Exit` with podman's code where the program was at fault. Nothing runs then, and a
/// container that was to be removed at its end is.
pub fn run(prepared: Prepared, attachment: &Attachment, observer: &mut dyn Observer) -> Result<Outcome> {
    let Prepared { owner, container, spec, rootfs, owners, cgroup, network, restarts } = prepared;
    let options = container.record.options.clone();
    let launched = (|| {
        let signals = Signals::block().context(|| "read signals from a descriptor")?;
        let log = (keeps_log(&options, attachment)).then(|| Writer::open(&container.log_path())).transpose()?;
        let (io, mut relay) = streams(options.process.streams, attachment, log)?;
        let launch = Launch {
            owners: owners.as_ref(),
            preserve_fds: options.process.preserve_fds,
            dies_with_parent: matches!(attachment, Attachment::Foreground { keys: None, .. }),
            ..Launch::new(&spec, Rootfs::Overlay(rootfs), io, cgroup)
        };
        let program = container.command().first().map_or("", String::as_str);
        let mut created = crate::launch::create(launch).map_err(|error| blame_program(error, program))?;
        connect_terminal(&mut created, attachment, options.process.streams, &mut relay)?;
        created.notes().iter().for_each(|note| observer.note(note));
        network.note.iter().for_each(|note| observer.note(note));
        let pasta = connect(&network, &options, &owner, created.pid(), observer)?;
        let status = Status {
            process: ProcessId::of(created.pid())?,
            started: now(),
            restarts,
            helper: pasta.as_ref().map(Pasta::process).transpose()?,
            finished: None,
        };
        if options.remove == Removal::OnExit && matches!(attachment, Attachment::Background) {
            std::fs::write(container.exit_path(), "").at("create", container.exit_path())?;
        }
        owner.write_status(&status)?;
        let running = created.start().map_err(|error| blame_program(error, program))?;
        Ok((signals, relay, pasta, status, running))
    })();
    let (signals, mut relay, pasta, mut status, running) = match launched {
        Ok(launched) => launched,
        Err(error) => {
            let undone = match options.remove {
                Removal::OnExit => remove(owner, &container),
                Removal::Keep => owner.forget_status(),
            };
            // The first error is the one to tell; what could not be undone is swept later.
            drop(undone);
            return Err(error);
        }
    };
    observer.started();
    let raw = match attachment {
        Attachment::Foreground { .. } if options.process.streams.terminal && options.process.streams.interactive => {
            Raw::enter(NewLines::OfTheContainer)?
        }
        _ => None,
    };
    let proxy = !matches!(attachment, Attachment::Foreground { proxy: false, .. });
    let outcome = watch(&running, &signals, &mut relay, raw, proxy, observer)?;
    let Watched::Exited = outcome else { return Ok(Outcome::Detached) };
    let exit = running.wait()?;
    relay.drain();
    drop(relay);
    drop(pasta);
    // From here on nothing can fail in a way that changes what is reported.
    let _ = running.destroy();
    if options.remove == Removal::OnExit && matches!(attachment, Attachment::Background) {
        let _ = std::fs::write(container.exit_path(), exit.code.to_string());
    }
    finish(owner, &container, &mut status, exit);
    Ok(Outcome::Ended(exit.code))
}

fn remove(owner: Owner, container: &Container) -> Result<()> {
    owner.remove()?;
    volumes::remove_anonymous(container)
}

fn finish(owner: Owner, container: &Container, status: &mut Status, exit: Exit) {
    match container.record.options.remove {
        Removal::OnExit => drop(remove(owner, container)),
        Removal::Keep => {
            status.finished = Some(Finished { at: now(), code: exit.code, out_of_memory: exit.oom });
            status.helper = None;
            let _ = owner.write_status(status);
        }
    }
}

/// A container that is thrown away in front of its user needs no copy of what the user saw.
fn keeps_log(options: &RunOptions, attachment: &Attachment) -> bool {
    let thrown_away = options.remove == Removal::OnExit && matches!(attachment, Attachment::Foreground { .. });
    options.log == LogDriver::K8sFile && !thrown_away
}

/// The code that podman has for a program that could not be run, and its name.
pub(crate) fn blame_program(error: Error, program: &str) -> Error {
    let code = match error.kind() {
        Kind::NotFound => NOT_FOUND,
        Kind::Denied => NOT_EXECUTABLE,
        _ => return error,
    };
    let message = format!("start `{program}`");
    let hint = error.advice().map_or_else(
        || match code {
            NOT_FOUND => "the command must be in the image, or on its PATH".to_owned(),
            _ => "the file must be executable, and for this machine's architecture".to_owned(),
        },
        str::to_owned,
    );
    Error::new(Kind::Exit(code), message).because(error).hint(hint)
}

/// `/dev/null`, for a stream that nobody has.
pub(crate) fn null() -> Result<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).at("open", "/dev/null")
}

fn own(fd: impl AsFd, what: &str) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 3).context(|| format!("copy standard {what}"))
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).context(|| "make a pipe")
}

/// The container's streams, and what has to be carried between them and the caller's. A stream is handed over as it is
/// where that is safe: never a terminal of the caller's, whose keyboard every holder can read.
pub(crate) fn streams(streams: Streams, attachment: &Attachment, log: Option<Writer>) -> Result<(Io, Relay)> {
    let mut relay = Relay::new(log);
    if streams.terminal {
        return Ok((Io::Terminal { size: terminal::size().unwrap_or((80, 24)) }, relay));
    }
    let foreground = matches!(attachment, Attachment::Foreground { .. });
    let keys = match attachment {
        Attachment::Foreground { keys, .. } => keys.clone(),
        Attachment::Background => None,
    };
    let stdin = match (streams.interactive, foreground) {
        (false, _) => null()?,
        // Somebody may attach later: until then the container waits, as podman's does.
        (true, false) => {
            let (read, write) = pipe()?;
            relay.input = Some(Input::held(write));
            read
        }
        (true, true) if terminal::is_input() => {
            let (read, write) = pipe()?;
            relay.input = Some(Input::new(own(std::io::stdin(), "input")?, write, keys));
            read
        }
        (true, true) => own(std::io::stdin(), "input")?,
    };
    let mut output = |shown: OwnedFd, stream| {
        if foreground && relay.log.is_none() && !rustix::termios::isatty(&shown) {
            return Ok(shown);
        }
        let (read, write) = pipe()?;
        relay.outputs.push(Output::new(read, foreground.then_some(shown), stream));
        Ok(write)
    };
    let stdout = output(own(std::io::stdout(), "output")?, Stream::Stdout)?;
    let stderr = output(own(std::io::stderr(), "error")?, Stream::Stderr)?;
    Ok((Io::Stdio(Stdio { stdin, stdout, stderr }), relay))
}

fn connect_terminal(created: &mut Created, attachment: &Attachment, streams: Streams, relay: &mut Relay) -> Result<()> {
    match created.take_terminal() {
        Some(master) => attach_terminal(master, attachment, streams.interactive, relay),
        None => Ok(()),
    }
}

/// Puts the caller's streams on a terminal's master side.
pub(crate) fn attach_terminal(
    master: OwnedFd,
    attachment: &Attachment,
    interactive: bool,
    relay: &mut Relay,
) -> Result<()> {
    let shown = match attachment {
        Attachment::Foreground { keys, .. } => {
            if interactive {
                let keys = keys.clone().unwrap_or_else(DetachKeys::none);
                relay.input = Some(Input::new(own(std::io::stdin(), "input")?, own(&master, "input")?, Some(keys)));
            }
            Some(own(std::io::stdout(), "output")?)
        }
        Attachment::Background => None,
    };
    relay.terminal = Some(own(&master, "output")?);
    relay.outputs.push(Output::new(master, shown, Stream::Stdout));
    Ok(())
}

fn connect(
    plan: &network::Plan,
    options: &RunOptions,
    owner: &Owner,
    pid: i32,
    observer: &mut dyn Observer,
) -> Result<Option<Pasta>> {
    let Connection::Pasta { program, arguments, optional } = &plan.connection else { return Ok(None) };
    match Pasta::start(program, pid, &options.network.ports, arguments, owner.dir()) {
        Ok(pasta) => Ok(Some(pasta)),
        Err(error) if *optional => {
            observer.note(&network::without(&error));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Why watching ended.
pub(crate) enum Watched {
    Exited,
    Detached,
}

/// What is not passed on: what tells of our own children, terminal and pipes.
const OWN_SIGNALS: [i32; 5] = [SIGPIPE, SIGCHLD, SIGTTIN, SIGTTOU, SIGURG];
const SIGINT: i32 = 2;
const SIGHUP: i32 = 1;
const SIGQUIT: i32 = 3;
const SIGKILL: i32 = 9;
const SIGPIPE: i32 = 13;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;
const SIGTTIN: i32 = 21;
const SIGTTOU: i32 = 22;
const SIGURG: i32 = 23;
const SIGWINCH: i32 = 28;

/// Carries bytes and signals until the process ends or the caller lets go.
pub(crate) fn watch(
    running: &impl Watchable,
    signals: &Signals,
    relay: &mut Relay,
    mut raw: Option<Raw>,
    proxy: bool,
    observer: &mut dyn Observer,
) -> Result<Watched> {
    // The terminal may have changed its size while the container was made.
    follow_size(relay);
    loop {
        let (signalled, ended, ready) = {
            let mut fds =
                vec![PollFd::new(signals, PollFlags::IN), PollFd::from_borrowed_fd(running.pidfd(), PollFlags::IN)];
            fds.extend(relay.interests());
            match rustix::event::poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other.context(|| "wait for the container")?,
            };
            let ready: Vec<PollFlags> = fds[2..].iter().map(PollFd::revents).collect();
            (!fds[0].revents().is_empty(), !fds[1].revents().is_empty(), ready)
        };
        if signalled {
            while let Some(signal) = signals.next().context(|| "read a signal")? {
                match signal {
                    SIGWINCH => follow_size(relay),
                    _ if OWN_SIGNALS.contains(&signal) => {}
                    SIGHUP | SIGINT | SIGQUIT | SIGTERM if !proxy => {
                        let _ = send(running.pidfd(), SIGKILL);
                    }
                    _ if proxy => drop(send(running.pidfd(), signal)),
                    _ => {}
                }
            }
        }
        relay.advance(&ready);
        if ended {
            return Ok(Watched::Exited);
        }
        if relay.is_detached() {
            relay.hide();
            drop(raw.take());
            if !observer.detached() {
                return Ok(Watched::Detached);
            }
        }
    }
}

fn follow_size(relay: &Relay) {
    if let Some(master) = &relay.terminal
        && let Some(size) = terminal::size()
    {
        terminal::resize(master.as_fd(), size);
    }
}

/// A process that can be waited for by its descriptor.
pub(crate) trait Watchable {
    /// Readable once it has ended.
    fn pidfd(&self) -> std::os::fd::BorrowedFd<'_>;
}

impl Watchable for Running {
    fn pidfd(&self) -> std::os::fd::BorrowedFd<'_> {
        Running::pidfd(self)
    }
}
