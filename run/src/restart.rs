//! `--restart`: whoever watches a container starts it again, as its policy has it.
//!
//! Between an end and the next start nobody holds the container, so it can be removed, started or looked at meanwhile.
//! What stops it for good is a mark in its folder, which `stop` and `kill` leave before they signal.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::signals::Signals;
use rustix::event::{PollFd, PollFlags, Timespec};
use serde::{Deserialize, Serialize};

use crate::prepare::{self, Caller, Prepared};
use crate::session::{self, Attachment, Observer, Outcome};
use crate::state::{Container, Owner};

/// When a container is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Never.
    #[default]
    No,
    /// Whenever it ends by itself.
    Always,
    /// The same: there is no start of the machine at which the two would differ.
    UnlessStopped,
    /// When its code is not 0, so many times at most.
    OnFailure(Option<u32>),
}

/// The first pause before a start; each is twice the one before.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// What ran this long begins with the first pause again.
const STEADY: Duration = Duration::from_secs(10);

impl Policy {
    /// Reads one as podman and docker write it.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str) -> Result<Self> {
        match text.split_once(':').unwrap_or((text, "")) {
            ("no" | "never" | "", "") => Ok(Self::No),
            ("always", "") => Ok(Self::Always),
            ("unless-stopped", "") => Ok(Self::UnlessStopped),
            ("on-failure", "") => Ok(Self::OnFailure(None)),
            ("on-failure", count) if count.parse::<u32>().is_ok() => Ok(Self::OnFailure(count.parse().ok())),
            _ => Err(Error::new(Kind::Usage, "no, always, unless-stopped and on-failure[:COUNT] are restart policies")),
        }
    }

    /// Its name, and how many times.
    pub fn words(self) -> (&'static str, u32) {
        match self {
            Self::No => ("no", 0),
            Self::Always => ("always", 0),
            Self::UnlessStopped => ("unless-stopped", 0),
            Self::OnFailure(count) => ("on-failure", count.unwrap_or(0)),
        }
    }

    /// Whether it wants a further start after so many.
    fn wants(self, code: i32, starts: u32) -> bool {
        match self {
            Self::No => false,
            Self::Always | Self::UnlessStopped => true,
            Self::OnFailure(most) => code != 0 && most.is_none_or(|most| starts < most),
        }
    }
}

/// Runs a container, and again for as long as its policy wants it.
///
/// # Errors
/// Those of [`session::run`], for the first start or a further one.
pub fn run(
    caller: &Caller,
    prepared: Prepared,
    attachment: &Attachment,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let policy = prepared.container.record.options.restart;
    let dir = prepared.container.dir.clone();
    let mut begun = Instant::now();
    let mut outcome = session::run(prepared, attachment, observer)?;
    let (mut starts, mut pause) = (0, PAUSE);
    while let Outcome::Ended(code) = outcome {
        pause = if begun.elapsed() > STEADY { PAUSE } else { pause };
        if !policy.wants(code, starts) || is_over(&dir) || wait(pause, &dir, attachment)? {
            break;
        }
        let Some(mut prepared) = again(caller, &dir)? else { break };
        pause = (pause * 2).min(PAUSE_MAX);
        starts += 1;
        prepared.restarts = starts;
        begun = Instant::now();
        outcome = session::run(prepared, attachment, observer)?;
    }
    Ok(outcome)
}

/// Somebody stopped it, or removed it.
fn is_over(dir: &Path) -> bool {
    let stopped = Container::read(dir).map(|found| found.is_none_or(|container| container.stop_mark().exists()));
    stopped.unwrap_or(true)
}

/// The container once more; `None` where somebody stopped, removed or started it.
fn again(caller: &Caller, dir: &Path) -> Result<Option<Prepared>> {
    let Some(owner) = Owner::try_take(dir)? else { return Ok(None) };
    let Some(mut container) = Container::read(dir)? else { return Ok(None) };
    if container.stop_mark().exists() {
        return Ok(None);
    }
    owner.forget_status()?;
    container.status = None;
    prepare::again(caller, owner, container).map(Some)
}

/// Waits; says whether it is over meanwhile, or a signal asked the caller to end it.
fn wait(pause: Duration, dir: &Path, attachment: &Attachment) -> Result<bool> {
    let signals = Signals::block().context(|| "read signals from a descriptor")?;
    let attended = matches!(attachment, Attachment::Foreground { .. });
    let end = Instant::now() + pause;
    loop {
        // In short steps: whoever removes a container does not expect its watcher to linger.
        let left = end.saturating_duration_since(Instant::now()).min(PAUSE);
        let limit = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
        let mut fds = [PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&limit)) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.context(|| "wait before a start")?,
        };
        while let Some(signal) = signals.next().context(|| "read a signal")? {
            if attended && matches!(signal, 1 | 2 | 3 | 15) {
                return Ok(true);
            }
        }
        if is_over(dir) {
            return Ok(true);
        }
        if left.is_zero() {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read() {
        for (text, policy) in [
            ("no", Some(Policy::No)),
            ("always", Some(Policy::Always)),
            ("on-failure:3", Some(Policy::OnFailure(Some(3)))),
            ("on-failure", Some(Policy::OnFailure(None))),
            ("on-failure:x", None),
            ("always:3", None),
            ("sometimes", None),
        ] {
            assert_eq!(Policy::parse(text).ok(), policy, "{text}");
        }
    }

    #[test]
    fn policies_want_what_they_say() {
        assert!(Policy::Always.wants(0, 99) && !Policy::No.wants(1, 0));
        assert!(Policy::OnFailure(Some(2)).wants(1, 1) && !Policy::OnFailure(Some(2)).wants(1, 2));
        assert!(!Policy::OnFailure(None).wants(0, 0));
    }
}
