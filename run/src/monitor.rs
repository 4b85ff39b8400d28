//! A process of its own that watches a container: behind `-d`, and behind a terminal that can be let go of.
//!
//! It is a copy of this process, made before anything of the container exists, so the container is its child and it
//! alone reaps it. It reports to the command that started it through one pipe, and holds the container's lock for as
//! long as it lives. Killing it leaves the container running and known; only what would have been logged is lost.

use std::os::fd::{AsFd, OwnedFd};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::process::{CloneOptions, clone_child};
use layerfs::sys::signals::{Signals, send};
use rustix::event::{PollFd, PollFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;

use crate::failure;
use crate::prepare::{Caller, Prepared};
use crate::restart;
use crate::session::{self, Attachment, Observer, Outcome};

/// What a monitor tells: a letter, then the rest of the line.
const STARTED: u8 = b'S';
const NOTE: u8 = b'N';
const DETACHED: u8 = b'D';
const ENDED: u8 = b'X';
const FAILED: u8 = b'E';

/// Starts a container that nobody waits for. Returns once its program runs.
///
/// # Errors
/// It could not be started.
pub fn start(caller: &Caller, prepared: Prepared, notes: &mut dyn FnMut(&str)) -> Result<()> {
    let (reader, writer) = pipe()?;
    let child = clone_child(&CloneOptions::default(), move || {
        // Twice, so that the monitor is nobody's child and leads no session: it can never get a terminal.
        let _ = rustix::process::setsid();
        let monitor = clone_child(&CloneOptions::default(), move || {
            let mut reporter = Reporter { pipe: Some(writer) };
            let streams = detach_streams();
            let outcome = streams.and_then(|()| restart::run(caller, prepared, &Attachment::Background, &mut reporter));
            reporter.tell_outcome(&outcome)
        });
        i32::from(monitor.is_err())
    });
    let child = child.context(|| "start the monitor")?;
    drop(reap(child.pidfd.as_fd()));
    match listen(&reader, None, notes, true)? {
        Said::Started | Said::Outcome(_) => Ok(()),
        Said::Failed(error) => Err(error),
        Said::Nothing => Err(Error::new(Kind::System, "the monitor died before the container ran")),
    }
}

/// Runs a container in front of the caller, who may let go of it.
///
/// # Errors
/// It could not be started.
pub fn attend(
    caller: &Caller,
    prepared: Prepared,
    attachment: Attachment,
    notes: &mut dyn FnMut(&str),
) -> Result<Outcome> {
    let (reader, writer) = pipe()?;
    let child = clone_child(&CloneOptions::default(), move || {
        // Until it is let go of, it ends with the command in front.
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        let mut reporter = Reporter { pipe: Some(writer) };
        let outcome = restart::run(caller, prepared, &attachment, &mut reporter);
        reporter.tell_outcome(&outcome)
    });
    let child = child.context(|| "start the process that watches the container")?;
    // Signals meant for the container may be sent to this process; the other one knows what to do with them.
    let signals = Signals::block().context(|| "read signals from a descriptor")?;
    match listen(&reader, Some((&signals, child.pidfd.as_fd())), notes, false)? {
        Said::Outcome(outcome) => {
            if outcome != Outcome::Detached {
                drop(reap(child.pidfd.as_fd()));
            }
            Ok(outcome)
        }
        Said::Failed(error) => Err(error),
        Said::Started | Said::Nothing => {
            Err(Error::new(Kind::System, "the process that watches the container was killed"))
        }
    }
}

enum Said {
    Started,
    Outcome(Outcome),
    Failed(Error),
    Nothing,
}

/// Reads what the monitor says until it is decisive; passes signals on meanwhile.
fn listen(
    reader: &OwnedFd,
    forward: Option<(&Signals, std::os::fd::BorrowedFd<'_>)>,
    notes: &mut dyn FnMut(&str),
    until_started: bool,
) -> Result<Said> {
    let mut text = Vec::new();
    let mut buffer = [0u8; 4096];
    loop {
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let rest = &line[1..line.len() - 1];
            match line[0] {
                STARTED if until_started => return Ok(Said::Started),
                NOTE => notes(&String::from_utf8_lossy(rest)),
                DETACHED => return Ok(Said::Outcome(Outcome::Detached)),
                ENDED => {
                    let code = std::str::from_utf8(rest).ok().and_then(|code| code.parse().ok()).unwrap_or(-1);
                    return Ok(Said::Outcome(Outcome::Ended(code)));
                }
                FAILED => {
                    let error = failure::from_bytes(rest);
                    return Ok(Said::Failed(
                        error.unwrap_or_else(|| Error::new(Kind::System, "it could not be said why")),
                    ));
                }
                _ => {}
            }
        }
        if let Some((signals, target)) = forward {
            let mut fds = [PollFd::new(reader, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
            match rustix::event::poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other.context(|| "wait for the container")?,
            };
            let said = !fds[0].revents().is_empty();
            while let Some(signal) = signals.next().context(|| "read a signal")? {
                // Those of the terminal reach the whole process group by themselves.
                if matches!(signal, 1 | 2 | 3 | 10 | 12 | 15) {
                    let _ = send(target, signal);
                }
            }
            if !said {
                continue;
            }
        }
        match rustix::io::read(reader, &mut buffer) {
            Ok(0) => return Ok(Said::Nothing),
            Ok(count) => text.extend_from_slice(&buffer[..count]),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context(|| "read from the monitor"),
        }
    }
}

/// The monitor's end of the pipe.
struct Reporter {
    pipe: Option<OwnedFd>,
}

impl Reporter {
    fn say(&mut self, letter: u8, text: &[u8]) {
        let Some(pipe) = &self.pipe else { return };
        let mut line = vec![letter];
        line.extend(text.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }));
        line.push(b'\n');
        let mut rest = &line[..];
        while !rest.is_empty() {
            match rustix::io::write(pipe, rest) {
                Ok(count) => rest = &rest[count..],
                Err(rustix::io::Errno::INTR) => {}
                // Whoever listened is gone; the container is looked after all the same.
                Err(_) => return,
            }
        }
    }

    fn tell_outcome(&mut self, outcome: &Result<Outcome>) -> i32 {
        match outcome {
            Ok(Outcome::Ended(code)) => self.say(ENDED, code.to_string().as_bytes()),
            Ok(Outcome::Detached) => {}
            Err(error) => self.say(FAILED, &failure::to_bytes(error)),
        }
        i32::from(outcome.is_err())
    }
}

impl Observer for Reporter {
    fn note(&mut self, line: &str) {
        self.say(NOTE, line.as_bytes());
    }

    fn started(&mut self) {
        self.say(STARTED, b"");
    }

    fn detached(&mut self) -> bool {
        let _ = rustix::process::set_parent_process_death_signal(None);
        let _ = rustix::process::setsid();
        let gone = detach_streams();
        self.say(DETACHED, b"");
        self.pipe = None;
        gone.is_ok()
    }
}

/// A monitor holds no stream of the caller's: whoever reads the caller's output must see it end.
fn detach_streams() -> Result<()> {
    let null = session::null()?;
    rustix::stdio::dup2_stdin(&null).context(|| "let go of standard input")?;
    rustix::stdio::dup2_stdout(&null).context(|| "let go of standard output")?;
    rustix::stdio::dup2_stderr(&null).context(|| "let go of standard error")
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).context(|| "make a pipe")
}

fn reap(pidfd: std::os::fd::BorrowedFd<'_>) -> Result<()> {
    let how = rustix::process::WaitIdOptions::EXITED;
    rustix::process::waitid(rustix::process::WaitId::PidFd(pidfd), how).context(|| "wait for the monitor").map(drop)
}
