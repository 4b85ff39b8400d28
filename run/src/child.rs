//! Work in a copy of this process: what takes threads, enters namespaces or changes who the process is.

use std::os::fd::{AsFd, OwnedFd};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::process::{Child, CloneOptions, clone_child};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, waitid};

/// A copy of this process at work.
#[derive(Debug)]
pub(crate) struct Working {
    child: Child,
    said: OwnedFd,
}

/// Starts `work` in a copy of this process.
///
/// # Errors
/// There is no further process to be had, or this one has threads.
pub(crate) fn start(work: impl FnOnce() -> Result<()>) -> Result<Working> {
    let (said, writer) = pipe_with(PipeFlags::CLOEXEC).context(|| "make a pipe")?;
    let child = clone_child(&CloneOptions::default(), || match work() {
        Ok(()) => 0,
        Err(error) => {
            let _ = rustix::io::write(&writer, &crate::failure::to_bytes(&error));
            1
        }
    });
    Ok(Working { child: child.context(|| "start a process")?, said })
}

/// Runs `work` in a copy of this process and waits for it.
///
/// # Errors
/// The work's own, or the process was killed.
pub(crate) fn run(work: impl FnOnce() -> Result<()>) -> Result<()> {
    start(work)?.finish()
}

impl Working {
    /// Waits for the work's end.
    ///
    /// # Errors
    /// The work's own, or the process was killed.
    pub(crate) fn finish(self) -> Result<()> {
        let said = read_all(&self.said)?;
        let status = waitid(WaitId::PidFd(self.child.pidfd.as_fd()), WaitIdOptions::EXITED);
        let status = status.context(|| "wait for a process")?.and_then(|status| status.exit_status());
        match (status, crate::failure::from_bytes(&said)) {
            (Some(0), _) => Ok(()),
            (_, Some(error)) => Err(error),
            _ => Err(Error::new(Kind::System, "a process of this program was killed at its work")),
        }
    }
}

/// Reads a pipe to its end.
///
/// # Errors
/// It cannot be read.
pub(crate) fn read_all(pipe: &OwnedFd) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut buffer = [0u8; 4096];
    loop {
        match rustix::io::read(pipe, &mut buffer) {
            Ok(0) => return Ok(bytes),
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).context(|| "read from a child"),
        }
    }
}
