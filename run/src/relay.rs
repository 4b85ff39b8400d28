//! Bytes between a container's streams and the caller's, in one thread: what can be read is read, what can be written
//! is written, and a slow reader slows its writer down instead of filling memory.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use crate::log::{Stream, Writer};
use crate::terminal::DetachKeys;
use crate::time;

/// Largest piece that is moved at once. A pipe that polls writable takes this much without blocking (`PIPE_BUF`).
const PIECE: usize = 4096;

/// Output of the container: read from `source`, logged, and shown on `shown`.
#[derive(Debug)]
pub struct Output {
    source: Option<OwnedFd>,
    shown: Option<OwnedFd>,
    stream: Stream,
    pending: Vec<u8>,
}

impl Output {
    /// A pipe from the container, and where what comes is shown, if anywhere.
    pub fn new(source: OwnedFd, shown: Option<OwnedFd>, stream: Stream) -> Self {
        Self { source: Some(source), shown, stream, pending: Vec::new() }
    }
}

/// Input for the container.
#[derive(Debug)]
pub struct Input {
    source: Option<OwnedFd>,
    target: Option<OwnedFd>,
    keys: Option<DetachKeys>,
    pending: Vec<u8>,
}

impl Input {
    /// From the caller's `source` to the container's `target`, which is closed when the source ends, unless keys are
    /// watched for: a terminal has no end.
    pub fn new(source: OwnedFd, target: OwnedFd, keys: Option<DetachKeys>) -> Self {
        Self { source: Some(source), target: Some(target), keys, pending: Vec::new() }
    }

    /// No input comes, and its end neither.
    pub fn held(target: OwnedFd) -> Self {
        Self { source: None, target: Some(target), keys: None, pending: Vec::new() }
    }
}

/// All streams of one container.
#[derive(Debug, Default)]
pub struct Relay {
    /// From the container.
    pub outputs: Vec<Output>,
    /// To the container.
    pub input: Option<Input>,
    /// Where outputs are kept.
    pub log: Option<Writer>,
    /// The master side of the container's terminal, for its size.
    pub terminal: Option<OwnedFd>,
    detached: bool,
}

impl Relay {
    /// Nothing to carry yet, and a log, if any.
    pub fn new(log: Option<Writer>) -> Self {
        Self { log, ..Self::default() }
    }

    /// What to poll for, in the order [`Relay::advance`] takes the results.
    pub fn interests(&self) -> Vec<PollFd<'_>> {
        let mut list = Vec::new();
        for output in &self.outputs {
            list.extend(interest(output.source.as_ref(), output.shown.as_ref(), &output.pending));
        }
        if let Some(input) = &self.input {
            list.extend(interest(input.source.as_ref(), input.target.as_ref(), &input.pending));
        }
        list
    }

    /// Moves what can be moved without blocking. `ready` are the events of [`Relay::interests`].
    pub fn advance(&mut self, ready: &[PollFlags]) {
        let mut ready = ready.iter();
        for output in &mut self.outputs {
            let busy = interest(output.source.as_ref(), output.shown.as_ref(), &output.pending).is_some();
            if busy && ready.next().is_some_and(|events| !events.is_empty()) {
                output.step(self.log.as_mut());
            }
        }
        if let Some(input) = &mut self.input {
            let busy = interest(input.source.as_ref(), input.target.as_ref(), &input.pending).is_some();
            if busy && ready.next().is_some_and(|events| !events.is_empty()) {
                self.detached |= input.step();
            }
        }
    }

    /// The keys to let go were typed.
    pub fn is_detached(&self) -> bool {
        self.detached
    }

    /// After the container's end: everything that it had written is shown and logged. What it wrote is in the pipes by
    /// then, so nothing is waited for except the reader of what is shown.
    pub fn drain(&mut self) {
        self.input = None;
        for output in &mut self.outputs {
            while output.source.is_some() || !output.pending.is_empty() {
                if output.pending.is_empty() && !readable_now(output.source.as_ref()) {
                    break;
                }
                if !output.pending.is_empty() && !wait_writable(output.shown.as_ref()) {
                    break;
                }
                output.step(self.log.as_mut());
            }
        }
    }

    /// Lets go of the caller's streams: what comes from now on is only logged.
    pub fn hide(&mut self) {
        self.input = None;
        for output in &mut self.outputs {
            output.shown = None;
            output.pending.clear();
        }
        self.detached = false;
    }
}

/// One end at a time: the target while something is pending, else the source.
fn interest<'a>(source: Option<&'a OwnedFd>, target: Option<&'a OwnedFd>, pending: &[u8]) -> Option<PollFd<'a>> {
    match (pending.is_empty(), source, target) {
        (false, _, Some(target)) => Some(PollFd::new(target, PollFlags::OUT)),
        (_, Some(source), _) => Some(PollFd::new(source, PollFlags::IN)),
        _ => None,
    }
}

fn readable_now(source: Option<&OwnedFd>) -> bool {
    let Some(source) = source else { return false };
    let mut fds = [PollFd::new(source, PollFlags::IN)];
    matches!(rustix::event::poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1))
}

fn wait_writable(target: Option<&OwnedFd>) -> bool {
    let Some(target) = target else { return false };
    let mut fds = [PollFd::new(target, PollFlags::OUT)];
    loop {
        match rustix::event::poll(&mut fds, None) {
            Err(Errno::INTR) => {}
            other => return other.is_ok(),
        }
    }
}

/// `None` at the end, which a terminal whose other side is closed tells by `EIO`.
fn read(source: BorrowedFd<'_>, buffer: &mut [u8]) -> Option<usize> {
    match rustix::io::read(source, buffer) {
        Ok(0) => None,
        Ok(count) => Some(count),
        Err(Errno::AGAIN | Errno::INTR) => Some(0),
        Err(_) => None,
    }
}

/// Writes the beginning of `pending`; `false` when the reader is gone.
fn write(target: &OwnedFd, pending: &mut Vec<u8>) -> bool {
    match rustix::io::write(target, &pending[..pending.len().min(PIECE)]) {
        Ok(count) => {
            pending.drain(..count);
            true
        }
        Err(Errno::AGAIN | Errno::INTR) => true,
        Err(_) => false,
    }
}

impl Output {
    fn step(&mut self, log: Option<&mut Writer>) {
        if !self.pending.is_empty() {
            if !self.shown.as_ref().is_some_and(|shown| write(shown, &mut self.pending)) {
                self.pending.clear();
                self.shown = None;
                // Where nobody looks and nothing is kept, the container is told so by its own broken pipe.
                if log.is_none() {
                    self.source = None;
                }
            }
            return;
        }
        let Some(source) = &self.source else { return };
        let mut buffer = [0u8; PIECE];
        match read(source.as_fd(), &mut buffer) {
            None => self.source = None,
            Some(count) => {
                if let Some(log) = log {
                    // A full disk must not stop the container; the log ends there.
                    let _ = log.append(self.stream, time::now(), &buffer[..count]);
                }
                if self.shown.is_some() {
                    self.pending.extend_from_slice(&buffer[..count]);
                }
            }
        }
    }
}

impl Input {
    /// `true` when the keys to let go are complete.
    fn step(&mut self) -> bool {
        if !self.pending.is_empty() {
            if !self.target.as_ref().is_some_and(|target| write(target, &mut self.pending)) {
                self.pending.clear();
                (self.source, self.target) = (None, None);
            }
            self.close_at_end();
            return false;
        }
        let Some(source) = &self.source else { return false };
        let mut buffer = [0u8; PIECE];
        let mut detach = false;
        match (read(source.as_fd(), &mut buffer), &mut self.keys) {
            (None, _) => self.source = None,
            (Some(count), None) => self.pending.extend_from_slice(&buffer[..count]),
            (Some(count), Some(keys)) => {
                let (seen, done) = keys.filter(&buffer[..count]);
                self.pending = seen;
                detach = done;
            }
        }
        self.close_at_end();
        detach
    }

    fn close_at_end(&mut self) {
        if self.source.is_none() && self.pending.is_empty() && self.keys.is_none() {
            self.target = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> (OwnedFd, OwnedFd) {
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe")
    }

    fn turn(relay: &mut Relay) {
        let ready: Vec<PollFlags> = {
            let mut fds = relay.interests();
            let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            rustix::event::poll(&mut fds, Some(&none)).expect("poll");
            fds.iter().map(PollFd::revents).collect()
        };
        relay.advance(&ready);
    }

    #[test]
    fn output_is_shown_and_logged_to_its_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let ((source, from), (shown, to)) = (pipe(), pipe());
        let log = Some(Writer::open(&path).expect("writable"));
        let mut relay = Relay { outputs: vec![Output::new(source, Some(to), Stream::Stdout)], log, ..Relay::default() };
        rustix::io::write(&from, b"one\ntwo").expect("room");
        drop(from);
        relay.drain();
        drop(relay);
        let mut buffer = [0u8; 64];
        let count = rustix::io::read(&shown, &mut buffer).expect("readable");
        assert_eq!(&buffer[..count], b"one\ntwo");
        let log = std::fs::read_to_string(path).expect("readable");
        let ends: Vec<&str> = log.lines().map(|line| &line[31..]).collect();
        assert_eq!(ends, ["stdout F one", "stdout P two"]);
    }

    #[test]
    fn input_ends_with_its_source_and_keys_let_go() {
        let ((source, from), (seen, to)) = (pipe(), pipe());
        let mut relay = Relay { input: Some(Input::new(source, to, None)), ..Relay::default() };
        rustix::io::write(&from, b"abc").expect("room");
        drop(from);
        for _ in 0..4 {
            turn(&mut relay);
        }
        let mut buffer = [0u8; 8];
        assert_eq!((rustix::io::read(&seen, &mut buffer), &buffer[..3]), (Ok(3), &b"abc"[..]));
        assert_eq!(rustix::io::read(&seen, &mut buffer), Ok(0), "the container sees the end");

        let ((source, from), (_seen, to)) = (pipe(), pipe());
        let keys = DetachKeys::parse(DetachKeys::DEFAULT).expect("valid");
        let mut relay = Relay { input: Some(Input::new(source, to, Some(keys))), ..Relay::default() };
        rustix::io::write(&from, b"\x10\x11").expect("room");
        turn(&mut relay);
        assert!(relay.is_detached());
    }

    #[test]
    fn a_reader_that_is_gone_breaks_the_pipe_unless_a_log_wants_it() {
        let ((source, from), (shown, to)) = (pipe(), pipe());
        drop(shown);
        let mut relay = Relay { outputs: vec![Output::new(source, Some(to), Stream::Stdout)], ..Relay::default() };
        rustix::io::write(&from, b"x").expect("room");
        turn(&mut relay);
        turn(&mut relay);
        assert_eq!(rustix::io::write(&from, b"y"), Err(Errno::PIPE));
    }
}
