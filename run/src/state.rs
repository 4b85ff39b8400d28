//! What is known of containers: one folder each below the store's `containers/`, and nothing else.
//!
//! ```text
//! containers/<id>/config.json   Record: what was asked for; written once, before anything runs
//!                 state.json    Status: the process, and how it ended; replaced by rename
//!                 upper/ work/  the writable layer
//!                 log           output, where it is kept
//!                 hosts hostname resolv.conf
//! ```
//!
//! Invariants. The folder's own `flock` is held from its creation to the container's end by the process that watches
//! the container (see [`Owner`]): a folder without a record whose lock is free is half-made, and is swept. Whether a
//! container runs is derived: from the boot, the pid and the process's start time together, so a recycled pid is never
//! taken for a container, and never signalled. Records carry `roots`, which keep the image from `gc`.

mod names;
mod process;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::store::format::Roots;
use layerfs::userns::Mapping;
use oci_spec::runtime::Process;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::thread::{Timespec, nanosleep};
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::options::{Removal, RunOptions};
use crate::spec::short_id;
use crate::time;

pub use process::ProcessId;

/// Largest record that is read, in bytes.
const RECORD_MAX: u64 = 16 << 20;

/// How long a name is waited for whose container is ending, and how often it is looked at.
const DYING: Duration = Duration::from_secs(1);
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// What was asked for. Written once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// Sixty-four hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The image as the user wrote it.
    pub image: String,
    /// The image's id.
    pub image_id: String,
    /// What runs: words, environment, identity. `exec` goes by it.
    pub process: Process,
    /// Nanoseconds since 1970.
    pub created: i64,
    /// The signal that asks it to stop: the user's, else the image's, else `SIGTERM`.
    pub stop_signal: i32,
    /// Its control group, recorded before it is made, for whoever clears up.
    pub cgroup: Cgroup,
    /// The maps of its own user namespace, in the ids of whoever made it; `None` where it has none. Nobody else is
    /// given these ids as unused ones.
    pub ids: Option<Mapping>,
    /// Volumes that were made for it alone, by their names.
    pub anonymous: Vec<String>,
    /// All options.
    pub options: RunOptions,
    /// What must stay in the store for it.
    pub roots: Roots,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The container's first process.
    pub process: ProcessId,
    /// Nanoseconds since 1970.
    pub started: i64,
    /// How often its restart policy has started it again.
    pub restarts: u32,
    /// A helper that serves its network.
    pub helper: Option<ProcessId>,
    /// How it ended.
    pub finished: Option<Finished>,
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Finished {
    /// Nanoseconds since 1970.
    pub at: i64,
    /// Exit code; 128 + n after signal n.
    pub code: i32,
    /// The kernel ended it for want of memory.
    pub out_of_memory: bool,
}

impl Finished {
    /// An end that nobody saw: its watcher was killed, or the machine went down. podman has -1 for it too.
    pub fn unseen() -> Self {
        Self { code: -1, ..Self::default() }
    }
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Made, never started.
    Created,
    /// Its first process lives.
    Running,
    /// The process is gone, and its watcher is about to record how it ended.
    Ending,
    /// Over. `None` where nobody was there to see how: the machine went down, or the watcher was killed.
    Exited(Option<i32>),
}

impl Phase {
    /// The word podman has for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Ending => "stopping",
            Self::Exited(_) => "exited",
        }
    }
}

/// What a killed process left of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It was half-made, or was to go with its process.
    ToRemove,
    /// It ended, and nobody recorded how.
    Unseen,
}

/// All containers of a store.
#[derive(Clone, Debug)]
pub struct Containers {
    dir: PathBuf,
}

/// One container as it was when it was read.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its folder.
    pub dir: PathBuf,
    /// What was asked for.
    pub record: Record,
    /// What became of it; `None` where it was never started.
    pub status: Option<Status>,
}

/// The right to change a container: its folder's lock.
#[derive(Debug)]
pub struct Owner {
    folder: OwnedFd,
    dir: PathBuf,
}

impl Containers {
    /// Those of the store in `root`, which need not be opened for it.
    pub fn below(root: &Path) -> Self {
        Self { dir: root.join("containers") }
    }

    /// Makes the folder of a new container and holds it. `fill` is given the id, and the name: its own, or one made up.
    /// Somebody's own name is recorded at once; else the caller writes the record when it is complete.
    ///
    /// # Errors
    /// The name is taken, or the store cannot be written.
    pub fn create(
        &self,
        name: Option<&str>,
        fill: impl FnOnce(&str, String) -> Result<Record>,
    ) -> Result<(Owner, Container)> {
        // Names are checked and taken under one lock; a container nobody named needs none, because its id names it.
        let _names = match name {
            Some(name) => {
                check_name(name)?;
                let all = lock(&self.dir, FlockOperation::LockExclusive)?;
                self.check_unused(name)?;
                all
            }
            None => None,
        };
        let (owner, id) = loop {
            let id = new_id()?;
            let dir = self.dir.join(&id);
            fs::create_dir(&dir).at("create", &dir)?;
            let folder = match open_folder(&dir) {
                // A sweep has come already and removed what nobody held.
                Err(error) if error.kind() == Kind::NotFound => continue,
                other => other?,
            };
            rustix::fs::flock(&folder, FlockOperation::LockExclusive).at("lock", &dir)?;
            // Or it has come between the opening and the lock; what it removed has no name left.
            let links = rustix::fs::fstat(&folder).at("stat", &dir)?.st_nlink;
            if links > 0 {
                break (Owner { folder, dir }, id);
            }
        };
        let record = fill(&id, name.map_or_else(|| names::of(&id), str::to_owned))?;
        // A name is taken once it can be read; anything else can wait until the record is complete.
        if name.is_some() {
            owner.write_record(&record)?;
        }
        let container = Container { dir: owner.dir.clone(), record, status: None };
        Ok((owner, container))
    }

    /// Keeps others from choosing names and ids until dropped.
    ///
    /// # Errors
    /// The folder cannot be locked.
    pub fn hold(&self) -> Result<OwnedFd> {
        let folder = open_folder(&self.dir)?;
        rustix::fs::flock(&folder, FlockOperation::LockExclusive).at("lock", &self.dir)?;
        Ok(folder)
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// There is no such container, it is being started, or the name is taken or none.
    pub fn rename(&self, text: &str, name: &str) -> Result<()> {
        check_name(name)?;
        let _names = self.hold()?;
        let mut container = self.find(text)?;
        if container.record.name == name {
            return Ok(());
        }
        self.check_unused(name)?;
        container.record.name = name.to_owned();
        // Whoever starts it writes the record too; once it runs, its watcher does not.
        let owner = Owner::try_take(&container.dir)?;
        if owner.is_none() && container.phase() == Phase::Created {
            return Err(Error::new(Kind::Conflict, format!("container `{text}` is being started")));
        }
        let folder = open_folder(&container.dir)?;
        write_json(folder.as_fd(), &container.dir, "config.json", &container.record)
    }

    /// The names are held while this is asked.
    fn check_unused(&self, name: &str) -> Result<()> {
        let end = Instant::now() + DYING;
        let other = loop {
            let all = self.list()?;
            let Some(other) = all.into_iter().find(|other| other.record.name == name && !other.is_leftover()) else {
                return Ok(());
            };
            if !other.is_dying() || Instant::now() >= end {
                break other;
            }
            let _ = nanosleep(&PAUSE);
        };
        let id = short_id(&other.record.id).to_owned();
        Err(Error::new(Kind::Conflict, format!("name `{name}` is in use by container {id}"))
            .hint(format!("remove that one with `run rm {name}`, or choose another name")))
    }

    /// Every container with a record, oldest first. What is half-made, or vanishes while it is read, is left out.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list(&self) -> Result<Vec<Container>> {
        let mut all = Vec::new();
        let entries = match fs::read_dir(&self.dir) {
            // A store that nobody has used yet.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(all),
            other => other.at("read", &self.dir)?,
        };
        for entry in entries {
            let path = entry.at("read", &self.dir)?.path();
            if is_id(&path)
                && let Some(container) = Container::read(&path)?
            {
                all.push(container);
            }
        }
        all.sort_by(|a, b| (a.record.created, &a.record.id).cmp(&(b.record.created, &b.record.id)));
        Ok(all)
    }

    /// The container of this name, id, or beginning of an id.
    ///
    /// # Errors
    /// `NotFound`, or `Conflict` where the beginning fits several.
    pub fn find(&self, text: &str) -> Result<Container> {
        let missing = || {
            Error::new(Kind::NotFound, format!("no container `{}`", text.escape_debug())).hint("`run ps -a` lists them")
        };
        let path = self.dir.join(text);
        if is_id(&path)
            && let Some(container) = Container::read(&path)?
        {
            return Ok(container);
        }
        let all: Vec<_> = self.list()?.into_iter().filter(|container| !container.is_leftover()).collect();
        if let Some(named) = all.iter().find(|container| container.record.name == text) {
            return Ok(named.clone());
        }
        let mut fitting = all.into_iter().filter(|container| !text.is_empty() && container.record.id.starts_with(text));
        match (fitting.next(), fitting.next()) {
            (Some(one), None) => Ok(one),
            (Some(_), Some(_)) => {
                Err(Error::new(Kind::Conflict, format!("`{text}` begins the ids of several containers")))
            }
            (None, _) => Err(missing()),
        }
    }

    /// Finds what processes left that were killed, each with its lock held: half-made folders and containers that were
    /// to go with their process, which are [`Left::ToRemove`]; containers whose end nobody saw, which are
    /// [`Left::Unseen`]. Goes on over what `clear` cannot do.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn sweep(&self, clear: impl Fn(Left, &Container, Owner) -> Result<()>) -> Result<()> {
        for entry in fs::read_dir(&self.dir).at("read", &self.dir)? {
            let path = entry.at("read", &self.dir)?.path();
            if !is_id(&path) {
                continue;
            }
            // A held lock is the common case, and costs two system calls.
            let Ok(Some(owner)) = Owner::try_take(&path) else { continue };
            let Ok(found) = Container::read(&path) else { continue };
            let _ = match found {
                None => clear(Left::ToRemove, &Container { dir: path, record: Record::default(), status: None }, owner),
                Some(container) if container.is_leftover_unowned() => clear(Left::ToRemove, &container, owner),
                Some(container) if container.ended_unseen() => clear(Left::Unseen, &container, owner),
                Some(_) => Ok(()),
            };
        }
        Ok(())
    }
}

impl Container {
    /// Reads a folder; `None` where it has no record (yet, or any more).
    ///
    /// # Errors
    /// A record is damaged.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let Some(record) = read_json(&dir.join("config.json"))? else { return Ok(None) };
        let status = read_json(&dir.join("state.json"))?;
        Ok(Some(Self { dir: dir.to_owned(), record, status }))
    }

    /// The same container as it is now; `None` once it is gone.
    ///
    /// # Errors
    /// A record is damaged.
    pub fn again(&self) -> Result<Option<Self>> {
        Self::read(&self.dir)
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        match &self.status {
            None => Phase::Created,
            Some(Status { finished: Some(finished), .. }) => Phase::Exited(Some(finished.code)),
            Some(status) if status.process.is_alive() => Phase::Running,
            // Between the process's end and the record of it, the lock is still held.
            Some(_) if self.is_owned() => Phase::Ending,
            Some(_) => match read_json::<Status>(&self.dir.join("state.json")) {
                Ok(Some(Status { finished: Some(finished), .. })) => Phase::Exited(Some(finished.code)),
                _ => Phase::Exited(None),
            },
        }
    }

    /// Whether somebody watches it.
    pub fn is_owned(&self) -> bool {
        matches!(Owner::try_take(&self.dir), Ok(None))
    }

    /// Whether it was to go with its process and only awaits the next sweep.
    pub fn is_leftover(&self) -> bool {
        self.is_leftover_unowned() && !self.is_owned()
    }

    fn is_leftover_unowned(&self) -> bool {
        let over = self.status.as_ref().is_none_or(|status| status.finished.is_some() || !status.process.is_alive());
        self.record.options.remove == Removal::OnExit && over
    }

    /// Whether it is to go with its process, and that may be ending: its watcher was killed, and what it had started
    /// follows in an instant.
    fn is_dying(&self) -> bool {
        self.record.options.remove == Removal::OnExit && (self.phase() != Phase::Running || !self.is_owned())
    }

    fn ended_unseen(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.finished.is_none() && !status.process.is_alive())
    }

    /// Waits until nobody watches it: then its end is recorded, or it is gone.
    ///
    /// # Errors
    /// The folder cannot be locked.
    pub fn wait_unowned(&self) -> Result<()> {
        match lock(&self.dir, FlockOperation::LockShared) {
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            other => other.map(drop),
        }
    }

    /// The log, whether or not it exists.
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The file that a container which goes with its process leaves to those who wait for it.
    pub fn exit_path(&self) -> PathBuf {
        self.dir.join("exit")
    }

    /// What tells its watcher that it was stopped, and is not to be started again.
    pub fn stop_mark(&self) -> PathBuf {
        self.dir.join("stopped")
    }

    /// Leaves that mark, where there is a policy that asks for it.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn mark_stopped(&self) -> Result<()> {
        match self.record.options.restart {
            crate::restart::Policy::No => Ok(()),
            _ => fs::write(self.stop_mark(), "").at("create", self.stop_mark()),
        }
    }

    /// Takes it away again.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn forget_stop(&self) -> Result<()> {
        match (self.record.options.restart, fs::remove_file(self.stop_mark())) {
            (crate::restart::Policy::No, _) | (_, Ok(())) => Ok(()),
            (_, Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            (_, Err(error)) => Err(error).at("remove", self.stop_mark()),
        }
    }

    /// The root of the store that it lies in.
    pub fn store_root(&self) -> &Path {
        self.dir.parent().and_then(Path::parent).unwrap_or(&self.dir)
    }

    /// The words of the process.
    pub fn command(&self) -> &[String] {
        self.record.process.args().as_deref().unwrap_or_default()
    }

    /// The pidfd of the first process, where it still lives.
    ///
    /// # Errors
    /// `NotFound` where it does not run.
    pub fn open_process(&self) -> Result<OwnedFd> {
        let alive = self.status.as_ref().and_then(|status| status.process.open());
        alive.ok_or_else(|| Error::new(Kind::NotFound, format!("container `{}` is not running", self.record.name)))
    }
}

impl Owner {
    /// Takes the lock of a container's folder; `None` where another holds it, or the folder is gone.
    ///
    /// # Errors
    /// The folder cannot be opened.
    pub fn try_take(dir: &Path) -> Result<Option<Self>> {
        let folder = match open_folder(dir) {
            Err(error) if error.kind() == Kind::NotFound => return Ok(None),
            other => other?,
        };
        match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if rustix::fs::fstat(&folder).at("stat", dir)?.st_nlink > 0 => {
                Ok(Some(Self { folder, dir: dir.to_owned() }))
            }
            Ok(()) | Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error).at("lock", dir),
        }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Replaces the record, before anything runs.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write_record(&self, record: &Record) -> Result<()> {
        self.write("config.json", record)
    }

    /// Replaces the status.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write_status(&self, status: &Status) -> Result<()> {
        self.write("state.json", status)
    }

    /// Back to a container that was never started, before it is started again.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn forget_status(&self) -> Result<()> {
        match fs::remove_file(self.dir.join("state.json")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).at("remove", self.dir.join("state.json"))
            }
            _ => Ok(()),
        }
    }

    fn write(&self, name: &str, value: &impl Serialize) -> Result<()> {
        write_json(self.folder.as_fd(), &self.dir, name, value)
    }

    /// Removes the container's folder and gives up the lock.
    ///
    /// # Errors
    /// Something in it cannot be removed; the rest is, and the next sweep tries again.
    pub fn remove(self) -> Result<()> {
        // Without its record it is half-made, which is what it is until the last file is gone.
        let record = self.dir.join("config.json");
        if let Err(error) = fs::remove_file(&record)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error).at("remove", record);
        }
        fs::remove_dir_all(&self.dir).at("remove", &self.dir)
    }
}

/// Replaces a document whole.
fn write_json(folder: BorrowedFd<'_>, dir: &Path, name: &str, value: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(value).context(|| "record cannot be written as JSON")?;
    // The name of the moment is the writer's alone: a lock is held. Nothing is synced: what a power cut takes, it takes
    // with the container's process.
    let moment = dir.join(format!(".{name}"));
    let mut file = File::create(&moment).at("create", &moment)?;
    file.write_all(&bytes).at("write", &moment)?;
    rustix::fs::renameat(folder, format!(".{name}"), folder, name).at("rename", &moment)
}

fn open_folder(dir: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(dir, flags, Mode::empty()).at("open", dir)
}

fn lock(dir: &Path, how: FlockOperation) -> Result<Option<OwnedFd>> {
    let folder = open_folder(dir)?;
    rustix::fs::flock(folder.as_fd(), how).at("lock", dir)?;
    Ok(Some(folder))
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.at("open", path)?,
    };
    let mut bytes = Vec::new();
    file.take(RECORD_MAX).read_to_end(&mut bytes).at("read", path)?;
    serde_json::from_slice(&bytes).context(|| format!("read `{}`", path.display())).map(Some)
}

fn is_id(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) && path.parent().is_some()
}

/// Sixty-four hexadecimal digits that nothing else has.
pub(crate) fn new_id() -> Result<String> {
    let mut bytes = [0u8; 32];
    let source = Path::new("/dev/urandom");
    File::open(source).and_then(|mut file| file.read_exact(&mut bytes)).at("read", source)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// podman's and docker's grammar of names.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    match first && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) && name.len() <= 255 {
        true => Ok(()),
        false => Err(Error::new(Kind::Usage, format!("`{}` is not a name", name.escape_debug()))
            .hint("letters, digits, and `_`, `.`, `-` after the first")),
    }
}

/// Now, as records have it.
pub fn now() -> i64 {
    i64::try_from(time::now()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
