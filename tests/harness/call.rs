//! One command: started with nothing on stdin, watched against a deadline, reported whole.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};

/// Longer than anything here takes on a slow machine; what reaches it hangs. With `LAYERFS_SOAK=1` a single command may
/// do a hundred times the work.
fn deadline() -> Instant {
    let soak = std::env::var_os("LAYERFS_SOAK").is_some();
    Instant::now() + Duration::from_secs(if soak { 3600 } else { 180 })
}

/// A command to be run once.
#[must_use = "a call does nothing before `output`, `ok`, `fails` or `start`"]
pub(crate) struct Call {
    command: Command,
    stdin: Vec<u8>,
}

impl Call {
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        Self { command, stdin: Vec::new() }
    }

    /// A call in a shell, for the few things that are one line there and ten here.
    pub(crate) fn shell(script: &str) -> Self {
        Self::new("bash").args(["-euo", "pipefail", "-c", script])
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<I>(mut self, args: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn env_clear(mut self) -> Self {
        self.command.env_clear();
        self
    }

    pub(crate) fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    pub(crate) fn identity(mut self, uid: u32, gid: u32) -> Self {
        // The standard library drops every supplementary group when it changes the user as root.
        self.command.uid(uid).gid(gid);
        self
    }

    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self.command.stdin(Stdio::piped());
        self
    }

    /// Starts it and hands it over as it runs.
    pub(crate) fn start(mut self) -> Running {
        let line = format!("{:?}", self.command);
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("{line}: {error}"));
        if let Some(mut stdin) = child.stdin.take() {
            let bytes = std::mem::take(&mut self.stdin);
            // A program may well end before it has read everything.
            thread::spawn(move || drop(stdin.write_all(&bytes)));
        }
        let stdout = collect(child.stdout.take().expect("stdout is piped"));
        let stderr = collect(child.stderr.take().expect("stderr is piped"));
        Running { line, child, stdout, stderr, until: deadline() }
    }

    /// Runs it to its end, however that looks.
    pub(crate) fn output(self) -> Report {
        self.start().wait()
    }

    /// Runs it; it has to succeed.
    pub(crate) fn ok(self) -> Report {
        self.output().expect_code(0)
    }

    /// Runs it; it has to fail with this exit code.
    pub(crate) fn fails(self, code: i32) -> Report {
        self.output().expect_code(code)
    }
}

/// A stream read to its end by a thread of its own.
struct Collected {
    chunks: Receiver<Vec<u8>>,
    seen: Vec<u8>,
}

fn collect(mut stream: impl Read + Send + 'static) -> Collected {
    let (sender, chunks) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    Collected { chunks, seen: Vec::new() }
}

impl Collected {
    /// Reads on until the condition holds. False when the stream ended or time was up before.
    fn until(&mut self, until: Instant, mut condition: impl FnMut(&[u8]) -> bool) -> bool {
        loop {
            if condition(&self.seen) {
                return true;
            }
            match self.chunks.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(chunk) => self.seen.extend_from_slice(&chunk),
                Err(_) => return false,
            }
        }
    }

    /// Reads to the end. False when somebody still held the stream open at the deadline.
    fn finish(&mut self, until: Instant) -> bool {
        loop {
            match self.chunks.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(chunk) => self.seen.extend_from_slice(&chunk),
                Err(mpsc::RecvTimeoutError::Disconnected) => return true,
                Err(mpsc::RecvTimeoutError::Timeout) => return false,
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }
}

/// A command that runs. Dropped, it is killed.
pub(crate) struct Running {
    line: String,
    child: Child,
    stdout: Collected,
    stderr: Collected,
    until: Instant,
}

impl Running {
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32).expect("a child has a positive pid")
    }

    /// Waits until stdout has shown this text.
    pub(crate) fn wait_for_stdout(&mut self, text: &str) {
        if !self.stdout.until(self.until, |seen| contains(seen, text.as_bytes())) {
            panic!(
                "{}\nnever printed `{text}`\nstdout: {}\nstderr: {}",
                self.line,
                self.stdout.text(),
                self.stderr.text()
            );
        }
    }

    /// Waits until stderr has shown this text.
    pub(crate) fn wait_for_stderr(&mut self, text: &str) {
        if !self.stderr.until(self.until, |seen| contains(seen, text.as_bytes())) {
            panic!(
                "{}\nnever said `{text}`\nstdout: {}\nstderr: {}",
                self.line,
                self.stdout.text(),
                self.stderr.text()
            );
        }
    }

    /// Lets it run for this long at most. True when it ended by itself before.
    pub(crate) fn ends_within(&self, time: Duration) -> bool {
        let pidfd = pidfd_open(self.pid(), PidfdFlags::empty()).expect("a child that was not waited for has a pidfd");
        let timeout = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)).expect("poll of one pidfd") > 0
    }

    /// Sends a signal to the program alone.
    pub(crate) fn signal(&self, signal: Signal) {
        let _already_gone = kill_process(self.pid(), signal);
    }

    /// Sends a signal to the program and what it started in the foreground, as a terminal does on Ctrl-C.
    pub(crate) fn signal_group(&self, signal: Signal) {
        let _already_gone = kill_process_group(self.pid(), signal);
    }

    /// Takes what it said, after somebody else has waited for its end.
    pub(crate) fn reaped(mut self, code: i32) -> Report {
        let grace = Instant::now() + Duration::from_secs(20);
        assert!(self.stdout.finish(grace) && self.stderr.finish(grace), "{}\nits output is held open", self.line);
        Report { line: self.line.clone(), code, stdout: self.stdout.text(), stderr: self.stderr.text() }
    }

    /// Waits for its end and for the end of its output.
    pub(crate) fn wait(mut self) -> Report {
        if !self.ends_within(self.until.saturating_duration_since(Instant::now())) {
            self.signal_group(Signal::KILL);
            self.stdout.finish(Instant::now() + Duration::from_secs(1));
            self.stderr.finish(Instant::now() + Duration::from_secs(1));
            panic!(
                "{}\ndid not end in time\nstdout: {}\nstderr: {}",
                self.line,
                self.stdout.text(),
                self.stderr.text()
            );
        }
        let status = self.child.wait().expect("wait for a child of ours");
        let grace = Instant::now() + Duration::from_secs(20);
        if !(self.stdout.finish(grace) && self.stderr.finish(grace)) {
            panic!(
                "{}\nended, but something it left behind holds its output open\nstdout: {}\nstderr: {}",
                self.line,
                self.stdout.text(),
                self.stderr.text()
            );
        }
        Report { line: self.line.clone(), code: code(status), stdout: self.stdout.text(), stderr: self.stderr.text() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal_group(Signal::KILL);
            drop(self.child.wait());
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// As a shell reports it: 128 + signal for a death by signal.
fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().expect("it ended by exit or by signal"))
}

/// How a command ended and what it said.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) line: String,
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Report {
    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "\n{self}");
        self
    }

    #[track_caller]
    pub(crate) fn expect_not_zero(self) -> Self {
        assert_ne!(self.code, 0, "\n{self}");
        self
    }

    /// Stderr has to say each of these.
    #[track_caller]
    pub(crate) fn says(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.stderr.contains(text), "stderr lacks `{text}`\n{self}");
        }
        self
    }

    /// The last line of stdout: what a program prints as its result.
    pub(crate) fn result(&self) -> &str {
        self.stdout.lines().last().unwrap_or("").trim()
    }

    pub(crate) fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("stdout is no JSON: {error}\n{self}"))
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "$ {}\nexit code {}\n-- stdout\n{}\n-- stderr\n{}\n", self.line, self.code, self.stdout, self.stderr)
    }
}
