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
        // A sweeper holds this lock exclusively; so no folder is seen between its birth and its own lock.
        let gate = lock(&gate(parent), FlockOperation::LockShared)?;
        loop {
            let path = unused_name(parent);
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).at("create", &path),
                Ok(()) => {
                    let own = lock_dir(&path, FlockOperation::LockExclusive)?;
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

    /// Lets the folder be, unlocked: it is somebody else's to remove.
    pub(super) fn leave(mut self) {
        self.path = PathBuf::new();
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            remove(&self.path);
        }
    }
}

/// A name in `parent` that nothing has, as far as one can tell without making it.
pub(super) fn unused_name(parent: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let n = COUNTER.fetch_add(1, Ordering::Relaxed);
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    parent.join(format!("{}-{n}-{:x}{:08x}", std::process::id(), now.tv_sec, now.tv_nsec))
}

/// Removes a file or a folder with all in it. What cannot be removed now is swept by a later process.
pub(super) fn remove(path: &Path) {
    let removed = fs::remove_dir_all(path);
    if removed.is_err_and(|error| error.kind() == io::ErrorKind::NotADirectory) {
        let _ = fs::remove_file(path);
    }
}

/// How many folders of dead owners are taken at once: each costs a descriptor.
const BATCH: usize = 128;

/// Removes what lies in `parent` and whose owner is dead. With an operation that does not wait, another process that
/// is just giving birth is reason enough to leave it to somebody later.
pub(super) fn sweep(parent: &Path, gate_operation: FlockOperation) -> Result<()> {
    loop {
        if fs::read_dir(parent).at("read", parent)?.next().is_none() {
            return Ok(());
        }
        let Ok(born_none) = lock(&gate(parent), gate_operation) else { return Ok(()) };
        let dead = dead(parent)?;
        // Their locks are ours now: births need not wait until they are removed, and nobody else removes them.
        drop(born_none);
        for (path, _) in &dead {
            remove(path);
        }
        // What cannot be removed under this user's id maps stays: it is no reason to try again.
        if dead.len() < BATCH || dead.iter().all(|(path, _)| path.exists()) {
            return Ok(());
        }
    }
}

/// Up to [`BATCH`] things without a living owner, locked where they are folders.
fn dead(parent: &Path) -> Result<Vec<(PathBuf, Option<OwnedFd>)>> {
    let mut dead = Vec::new();
    for entry in fs::read_dir(parent).at("read", parent)?.filter_map(std::result::Result::ok) {
        let path = entry.path();
        if dead.len() == BATCH {
            break;
        }
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            dead.push((path, None));
        } else if let Ok(lock) = lock_dir(&path, FlockOperation::NonBlockingLockExclusive) {
            dead.push((path, Some(lock)));
        }
    }
    Ok(dead)
}

/// The lock that is held while a folder is born or swept.
fn gate(parent: &Path) -> PathBuf {
    parent.with_extension("lock")
}

/// Locks a folder itself.
pub(super) fn lock_dir(path: &Path, operation: FlockOperation) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).at("open", path)?;
    flock(&fd, operation).at("lock", path)?;
    Ok(fd)
}

/// Opens (making it) and locks a file, waiting for the lock where the operation does.
pub(super) fn lock(path: &Path, operation: FlockOperation) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    loop {
        let fd = match rustix::fs::open(path, flags, Mode::from_raw_mode(0o644)) {
            // Who only reads a store needs no more than to keep those away who could write it.
            Err(rustix::io::Errno::ROFS) if matches!(operation, FlockOperation::LockShared) => {
                rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            }
            result => result,
        };
        let fd = fd.at("open", path)?;
        flock(&fd, operation).at("lock", path)?;
        // A collection removes lock files: one that has no name any more excludes nobody.
        if rustix::fs::fstat(&fd).at("look at", path)?.st_nlink > 0 {
            return Ok(fd);
        }
    }
}

fn flock(fd: &OwnedFd, operation: FlockOperation) -> rustix::io::Result<()> {
    rustix::io::retry_on_intr(|| rustix::fs::flock(fd, operation))
}
