//! Looking on from outside: a container's log as it grows, and its end.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use layerfs::error::{Context, Error, Kind, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify;

use crate::log::{Entry, Stream, tail_start};
use crate::options::LogDriver;
use crate::state::{Container, Phase};

/// What `logs` shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogOptions {
    /// Go on until the container ends.
    pub follow: bool,
    /// The last lines only.
    pub tail: Option<u64>,
    /// With the time of each line.
    pub timestamps: bool,
    /// From this moment on, in nanoseconds since 1970.
    pub since: Option<i128>,
    /// Up to this moment.
    pub until: Option<i128>,
}

/// Largest log that is read whole to find its last lines; of a longer one, this much of its end.
const TAIL_MAX: u64 = 64 << 20;

/// Writes a container's log to the two streams it came from.
///
/// # Errors
/// It keeps none, or cannot be read. A reader that is gone ends it in silence.
pub fn logs(container: &Container, options: &LogOptions, stdout: &mut dyn Write, stderr: &mut dyn Write) -> Result<()> {
    if container.record.options.log == LogDriver::None {
        let message = format!("container `{}` keeps no log: it was made with --log-driver none", container.record.name);
        return Err(Error::new(Kind::Unsupported, message));
    }
    // The watch comes before the first look, so that nothing falls between the two.
    let watch = options.follow.then(|| watch_folder(container)).transpose()?;
    let path = container.log_path();
    let mut file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        other => Some(other.at("open", &path)?),
    };
    let mut shown = Shown { options: *options, stdout, stderr, rest: Vec::new(), over: false };
    if let (Some(lines), Some(file)) = (options.tail, &mut file) {
        let size = file.metadata().at("look at", &path)?.len();
        let start = size.saturating_sub(TAIL_MAX);
        file.seek(SeekFrom::Start(start)).at("read", &path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).at("read", &path)?;
        let begin = tail_start(&bytes, lines);
        if !shown.show(&bytes[begin..]) {
            return Ok(());
        }
    }
    loop {
        if file.is_none() {
            file = File::open(&path).ok();
        }
        // Looked at before the log is read: what was written until the end is read after it.
        let over = !is_live(container)?;
        if let Some(file) = &mut file {
            let mut buffer = vec![0u8; 64 << 10];
            loop {
                let count = file.read(&mut buffer).at("read", &path)?;
                if count == 0 {
                    break;
                }
                if !shown.show(&buffer[..count]) {
                    return Ok(());
                }
            }
        }
        match &watch {
            Some(watch) if !over && !shown.over => await_change(watch, container)?,
            _ => return Ok(()),
        }
    }
}

struct Shown<'a> {
    options: LogOptions,
    stdout: &'a mut dyn Write,
    stderr: &'a mut dyn Write,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
    over: bool,
}

impl Shown<'_> {
    /// `false` when nobody reads any more.
    fn show(&mut self, bytes: &[u8]) -> bool {
        self.rest.extend_from_slice(bytes);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return true };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        let mut alive = true;
        for entry in whole.split(|byte| *byte == b'\n').filter_map(Entry::parse) {
            if self.options.since.is_some_and(|since| entry.moment() < since) {
                continue;
            }
            if self.options.until.is_some_and(|until| entry.moment() > until) {
                self.over = true;
                break;
            }
            let mut line = Vec::with_capacity(entry.text.len() + 40);
            if self.options.timestamps {
                line.extend_from_slice(entry.time.as_bytes());
                line.push(b' ');
            }
            line.extend_from_slice(entry.text);
            if entry.whole {
                line.push(b'\n');
            }
            let out = match entry.stream {
                Stream::Stdout => &mut self.stdout,
                Stream::Stderr => &mut self.stderr,
            };
            alive &= out.write_all(&line).is_ok();
        }
        alive & self.stdout.flush().is_ok()
    }
}

fn is_live(container: &Container) -> Result<bool> {
    Ok(container.again()?.is_some_and(|now| matches!(now.phase(), Phase::Running | Phase::Ending)))
}

fn watch_folder(container: &Container) -> Result<OwnedFd> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC).context(|| "watch a log")?;
    let events = inotify::WatchFlags::MODIFY | inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::DELETE;
    inotify::add_watch(&watch, &container.dir, events | inotify::WatchFlags::CREATE).at("watch", &container.dir)?;
    Ok(watch)
}

/// Waits until a container that is being started runs, or is not being started any more.
///
/// # Errors
/// It cannot be watched.
pub fn past_start(container: Container) -> Result<Container> {
    // Nothing tells that a lock was let go, so one that died on the way is found by looking again now and then.
    const AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    let mut now = container;
    let mut watch = None;
    while now.phase() == Phase::Created && now.is_owned() {
        if watch.is_none() {
            watch = Some(watch_folder(&now)?);
        }
        if let Some(watch) = &watch {
            let _ = rustix::event::poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&AGAIN));
        }
        match now.again()? {
            Some(later) => now = later,
            None => break,
        }
    }
    Ok(now)
}

/// Until something in the folder changes, or the process ends.
fn await_change(watch: &OwnedFd, container: &Container) -> Result<()> {
    let process = container.open_process().ok();
    let mut fds = vec![PollFd::new(watch, PollFlags::IN)];
    fds.extend(process.iter().map(|process| PollFd::new(process, PollFlags::IN)));
    match rustix::event::poll(&mut fds, None) {
        Err(rustix::io::Errno::INTR) => return Ok(()),
        other => other.context(|| "watch a log")?,
    };
    let ended = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
    if !fds[0].revents().is_empty() {
        let mut events = [0u8; 4096];
        let _ = rustix::io::read(watch, &mut events);
    }
    match ended {
        // What it said last is being written down.
        true => container.wait_unowned(),
        false => Ok(()),
    }
}

/// Waits for a container's end and gives its exit code; -1 where nobody saw it.
///
/// # Errors
/// It cannot be watched.
pub fn exit_code(container: &Container) -> Result<i32> {
    if container.phase() == Phase::Created {
        let watch = watch_folder(container)?;
        while container.again()?.is_some_and(|now| now.phase() == Phase::Created) {
            await_change(&watch, container)?;
        }
    }
    // Opened while it is there: of a container that goes by itself, this file is what stays with those who wait.
    let mut farewell = File::open(container.exit_path()).ok();
    loop {
        let Some(now) = container.again()? else {
            let mut text = String::new();
            let read = farewell.as_mut().map(|file| file.read_to_string(&mut text));
            return Ok(read.and_then(|_| text.trim().parse().ok()).unwrap_or(-1));
        };
        match now.phase() {
            Phase::Exited(code) => return Ok(code.unwrap_or(-1)),
            Phase::Created => return Ok(-1),
            Phase::Running => {
                if let Ok(process) = now.open_process() {
                    let mut fds = [PollFd::new(&process, PollFlags::IN)];
                    let _ = rustix::event::poll(&mut fds, None);
                }
            }
            Phase::Ending => now.wait_unowned()?,
        }
    }
}
