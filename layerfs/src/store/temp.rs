//! Where everything is born: folders under `tmp/` that belong to a living process.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::error::{Context, Result};

/// A folder that is removed with its owner: by `Drop`, or by the next opening of the store where the owner was killed.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
    /// Holds the lock that tells a sweeper that the owner lives.
    _lock: OwnedFd,
}

impl TempDir {
    /// A new folder in `parent`.
    pub(super) fn new(parent: &Path) -> Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        // A sweeper holds this lock exclusively; so no folder is seen between its birth and its own lock.
        let gate = lock(&gate(parent), FlockOperation::LockShared)?;
        loop {
            let n = COUNTER.fetch_add(1, Ordering::Relaxed);
            let nanos = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_nsec;
            let path = parent.join(format!("{}-{n}-{nanos:x}", std::process::id()));
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).at("create", &path),
                Ok(()) => {
                    let own = lock_dir(&path)?;
                    drop(gate);
                    return Ok(Self { path, _lock: own });
                }
            }
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // What cannot be removed now is swept by a later process.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes the folders of `parent` whose owners are dead.
pub(super) fn sweep(parent: &Path) -> Result<()> {
    if fs::read_dir(parent).at("read", parent)?.next().is_none() {
        return Ok(());
    }
    // Another process that is just giving birth is no reason to wait: it sweeps, or somebody later does.
    let Ok(_gate) = lock(&gate(parent), FlockOperation::NonBlockingLockExclusive) else {
        return Ok(());
    };
    for entry in fs::read_dir(parent).at("read", parent)?.filter_map(std::result::Result::ok) {
        let path = entry.path();
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = fs::remove_file(&path);
        } else if try_lock_dir(&path).is_ok() {
            let _ = fs::remove_dir_all(&path);
        }
    }
    Ok(())
}

/// The lock that is held while a folder is born or swept.
fn gate(parent: &Path) -> PathBuf {
    parent.with_extension("lock")
}

fn lock_dir(path: &Path) -> Result<OwnedFd> {
    let fd =
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).at("open", path)?;
    rustix::fs::flock(&fd, FlockOperation::LockExclusive).at("lock", path)?;
    Ok(fd)
}

fn try_lock_dir(path: &Path) -> Result<OwnedFd> {
    let fd =
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).at("open", path)?;
    rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).at("lock", path)?;
    Ok(fd)
}

/// Opens (making it) and locks a file, waiting for the lock where the operation does.
pub(super) fn lock(path: &Path, operation: FlockOperation) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o644)).at("open", path)?;
    loop {
        match rustix::fs::flock(&fd, operation) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.at("lock", path).map(|()| fd),
        }
    }
}
