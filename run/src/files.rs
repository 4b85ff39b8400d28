//! The files of a container as they are seen from outside: what `cp`, `export`, `diff` and `commit` work on.
//!
//! A container that runs is looked at through its first process, with all that is mounted in it; one that does not has
//! its layers mounted for as long as the look takes, and its volumes are found by their places. Either way there is one
//! folder that stands for `/`, and every path in it is resolved inside it (`openat2(2)`): nothing in the container is
//! executed or loaded, and no symlink of its leads out, however often it changes meanwhile.
//!
//! Looking takes being who the container's files belong to, which an ordinary user is in a user namespace only. So it
//! is done in a copy of this process, and bytes travel between that and the caller's own side as a tar archive: `cp`
//! is a [`pack`] at one end of a pipe and an [`unpack`] at the other.

pub mod changes;
pub mod commit;
pub mod copying;
pub mod pack;
pub mod unpack;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::mount::{mount_layers, overlay_with_owners};
use layerfs::sys::process::open_namespace;
use layerfs::userns::Mapping;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::{Gid, Uid};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use crate::options::{MountRequest, normal};
use crate::prepare::{self, Caller};
use crate::state::{Container, Owner, Phase};
use crate::volumes::Volumes;

/// The files of one container.
#[derive(Debug)]
pub struct Files {
    root: OwnedFd,
    /// The maps of the container's ids, where this process sees other ids than the container does.
    ids: Option<Mapping>,
    /// Where volumes are to be found: their places in the container, and on the host.
    volumes: Vec<(PathBuf, PathBuf)>,
    /// Keeps a container that does not run from being started or removed.
    _held: Option<Owner>,
}

impl Files {
    /// Opens them. This may put the process into other namespaces and make it another user: it is for a copy of the
    /// caller's process.
    ///
    /// # Errors
    /// The container is being started or removed, its image is gone, or it is somebody else's.
    pub fn open(container: &Container, store: Option<&Path>) -> Result<Self> {
        match container.phase() {
            Phase::Running => Self::of_running(container),
            _ => Self::of_stopped(container, store),
        }
    }

    fn of_running(container: &Container) -> Result<Self> {
        let process = container.open_process()?;
        let pid = container.status.as_ref().map_or(0, |status| status.process.pid);
        let mut ids = container.record.ids.clone();
        if !rustix::process::geteuid().is_root() {
            enter_user_namespace(process.as_fd(), pid)?;
            ids = None;
        }
        let path = format!("/proc/{pid}/root");
        let root = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let root = root.context(|| format!("open the root of container `{}`", container.record.name))?;
        // What was opened is of this container only if its process lived until now.
        container.open_process()?;
        Ok(Self { root, ids, volumes: Vec::new(), _held: None })
    }

    fn of_stopped(container: &Container, store: Option<&Path>) -> Result<Self> {
        let caller = Caller::enter(store, |_| {})?;
        let held = Owner::try_take(&container.dir)?.ok_or_else(|| {
            let message =
                format!("container `{}` is being started or stopped by another process", container.record.name);
            Error::new(Kind::Conflict, message)
        })?;
        let _pin = caller.store.pin()?;
        let (plan, owners) = prepare::stack(&caller, &held, container)?;
        let root = match &owners {
            Some(owners) => overlay_with_owners(&plan, owners)?,
            None => mount_layers(&plan)?,
        };
        let volumes = Volumes::below(caller.store.root());
        let place = |request: &MountRequest| match request {
            MountRequest::Bind { source, destination, .. } => Some((destination.clone(), source.clone())),
            MountRequest::Volume { name, destination, .. } => Some((destination.clone(), volumes.data(name))),
            MountRequest::Tmpfs { .. } | MountRequest::Folder { .. } => None,
        };
        let volumes = container.record.options.storage.mounts.iter().filter_map(place).collect();
        Ok(Self { root, ids: container.record.ids.clone(), volumes, _held: Some(held) })
    }

    /// The folder that stands for `/`.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Whose ids are seen here, where they are not the container's.
    pub fn ids(&self) -> Option<&Mapping> {
        self.ids.as_ref()
    }

    /// Where a path of the container is to be looked up: its root or a volume's, opened, and the way from there.
    ///
    /// # Errors
    /// The volume cannot be opened.
    pub fn place(&self, path: &Path) -> Result<(OwnedFd, PathBuf)> {
        let path = normal(&Path::new("/").join(path));
        let deepest = self.volumes.iter().filter(|(place, _)| path.starts_with(place));
        if let Some((place, source)) = deepest.max_by_key(|(place, _)| place.components().count()) {
            let below = path.strip_prefix(place).unwrap_or(Path::new(""));
            let metadata = std::fs::metadata(source).at("open volume", source)?;
            // A volume may be a single file: its folder is the place then, and its name the way.
            let (folder, way) = match (metadata.is_dir(), source.parent(), source.file_name()) {
                (false, Some(folder), Some(name)) => (folder.to_owned(), PathBuf::from(name).join(below)),
                _ => (source.clone(), below.to_owned()),
            };
            return Ok((open_folder(&folder)?, way));
        }
        let root = rustix::io::fcntl_dupfd_cloexec(&self.root, 3).context(|| "open the container's root")?;
        Ok((root, path.components().filter(|part| *part != Component::RootDir).collect()))
    }
}

/// Opens a folder of the host.
fn open_folder(path: &Path) -> Result<OwnedFd> {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).at("open", path)
}

/// Makes this process the root of a container's user namespace, unless that is its own.
fn enter_user_namespace(process: BorrowedFd<'_>, pid: i32) -> Result<()> {
    let same =
        |a: &Path, b: &Path| std::fs::read_link(a).ok().is_some_and(|own| std::fs::read_link(b).ok() == Some(own));
    let theirs = PathBuf::from(format!("/proc/{pid}/ns/user"));
    if same(Path::new("/proc/self/ns/user"), &theirs) {
        return Ok(());
    }
    // Opening it tells whether the container is the caller's; joining it by the process cannot meet another one.
    drop(open_namespace(&theirs).at("open the namespace", &theirs)?);
    move_into_thread_name_spaces(process, ThreadNameSpaceType::USER)
        .context(|| "enter the container's user namespace")
        .map_err(|error| error.hint("only root and the user who started the container may look into it"))?;
    // Files are made as somebody whom the container knows. Where it knows no root, the caller is somebody there.
    let _ = rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT);
    let _ = rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT);
    Ok(())
}
