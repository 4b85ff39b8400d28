//! The namespaces of a container as this machine has them: which user namespace the caller works in, whose the
//! container joins, and which ids it has in one of its own.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::{namespace, process as sys};
use layerfs::userns::{self, Mapping};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::Caller;
use crate::options::{NetworkMode, RunOptions, Share, SharedMemory, UserNamespace};
use crate::spec::{Joined, NetworkNamespace, Users};
use crate::state::{Container, Containers, Owner, Record};
use crate::userns::{AUTO_OWNER, Ids, plan};

/// An ordinary user works in a user namespace of their own, and what is to be joined may belong to another one of
/// theirs: then that is entered, before a new one is made.
pub(super) fn enter_owner(containers: &Containers, options: &RunOptions) -> Result<()> {
    let mut found: Option<(OwnedFd, PathBuf)> = None;
    for (file, kind) in files(containers, options)? {
        let opened = sys::open_namespace(&file).at("open the namespace", &file)?;
        let owner = if kind == "user" { Ok(opened) } else { namespace::owner(opened.as_fd()) };
        // What is not ours cannot be entered, which is said when it is joined.
        let Ok(owner) = owner else { continue };
        let Some(outermost) = outermost(owner)? else { continue };
        match &found {
            Some((other, path)) if !is_same(other.as_fd(), outermost.as_fd())? => {
                let (one, two) = (path.display(), file.display());
                return Err(Error::new(
                    Kind::Conflict,
                    format!("`{one}` and `{two}` are in different user namespaces"),
                )
                .hint("start the one with a namespace of the other, such as `--network container:NAME`"));
            }
            Some(_) => {}
            None => found = Some((outermost, file)),
        }
    }
    let Some((namespace, file)) = found else { return Ok(()) };
    /// `CLONE_NEWNS`
    const MOUNTS: u64 = 0x2_0000;
    move_into_thread_name_spaces(namespace.as_fd(), ThreadNameSpaceType::USER)
        .context(|| format!("join the user namespace of `{}`", file.display()))?;
    sys::unshare_namespaces(MOUNTS).context(|| "make a mount namespace")
}

/// The ancestor of a user namespace, or itself, that was made in this process's own; `None` for this process's own.
fn outermost(mut namespace: OwnedFd) -> Result<Option<OwnedFd>> {
    let own = sys::open_namespace(Path::new("/proc/self/ns/user")).at("open", "/proc/self/ns/user")?;
    if is_same(namespace.as_fd(), own.as_fd())? {
        return Ok(None);
    }
    while let Ok(parent) = namespace::parent(namespace.as_fd()) {
        if is_same(parent.as_fd(), own.as_fd())? {
            return Ok(Some(namespace));
        }
        namespace = parent;
    }
    Ok(None)
}

fn is_same(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> Result<bool> {
    let id = |fd| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino)).context(|| "look at a namespace");
    Ok(id(a)? == id(b)?)
}

/// The files of all namespaces that are to be joined, with the kind of each.
fn files(containers: &Containers, options: &RunOptions) -> Result<Vec<(PathBuf, &'static str)>> {
    let isolation = &options.isolation;
    let network = match &options.network.mode {
        NetworkMode::Container(name) => Share::Container(name.clone()),
        NetworkMode::Path(path) => Share::Path(path.clone()),
        _ => Share::Private,
    };
    let user = match &isolation.user {
        UserNamespace::Container(name) => Share::Container(name.clone()),
        UserNamespace::Path(path) => Share::Path(path.clone()),
        _ => Share::Private,
    };
    let kinds = [
        ("user", &user),
        ("net", &network),
        ("pid", &isolation.pid),
        ("ipc", &isolation.ipc),
        ("uts", &isolation.uts),
        ("cgroup", &isolation.cgroup),
    ];
    let mut files = Vec::new();
    for (kind, share) in kinds {
        match share {
            Share::Private | Share::Host => {}
            Share::Container(name) => files.push((of_container(containers, name, kind)?.0, kind)),
            Share::Path(path) => files.push((path.clone(), kind)),
        }
    }
    Ok(files)
}

/// The file of a running container's namespace, and the number of its first process.
fn of_container(containers: &Containers, name: &str, kind: &str) -> Result<(PathBuf, Container)> {
    let other = containers.find(name)?;
    other.open_process().map_err(|error| error.hint(format!("`run start {name}` starts it")))?;
    let pid = other.status.as_ref().map_or(0, |status| status.process.pid);
    Ok((format!("/proc/{pid}/ns/{kind}").into(), other))
}

/// Whether a namespace's file is that of this process's own.
fn is_own(file: &Path, kind: &str) -> bool {
    let id = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    let own = id(Path::new(&format!("/proc/self/ns/{kind}")));
    own.is_some() && id(file) == own
}

/// Finds the namespaces that are joined. One that is this process's own is the host's: `options` says so afterwards.
///
/// # Errors
/// There is no such container, it does not run, or it does not share what is asked for.
pub(super) fn join(containers: &Containers, options: &mut RunOptions) -> Result<Joined> {
    let mut joined = Joined::default();
    let isolation = &mut options.isolation;
    let kinds = [
        ("pid", &mut isolation.pid, &mut joined.pid),
        ("uts", &mut isolation.uts, &mut joined.uts),
        ("cgroup", &mut isolation.cgroup, &mut joined.cgroup),
        ("ipc", &mut isolation.ipc, &mut joined.ipc),
    ];
    for (kind, share, place) in kinds {
        let file = match &*share {
            Share::Private | Share::Host => continue,
            Share::Path(path) => path.clone(),
            Share::Container(name) => {
                let (file, other) = of_container(containers, name, kind)?;
                if kind == "ipc" {
                    joined.shared_memory = shared_memory(&other)?;
                }
                file
            }
        };
        match is_own(&file, kind) {
            true => *share = Share::Host,
            false => *place = Some(file),
        }
    }
    Ok(joined)
}

/// Where a container's shared memory is found, which goes with its IPC namespace.
fn shared_memory(other: &Container) -> Result<Option<PathBuf>> {
    let (name, isolation) = (&other.record.name, &other.record.options.isolation);
    match (&isolation.ipc, isolation.shared_memory) {
        (Share::Private, SharedMemory::Private) => {
            Err(Error::new(Kind::Denied, format!("container `{name}` does not share its IPC namespace"))
                .hint("start it with --ipc shareable, which is the default"))
        }
        (Share::Private, SharedMemory::None) => Ok(None),
        _ => {
            let pid = other.status.as_ref().map_or(0, |status| status.process.pid);
            Ok(Some(format!("/proc/{pid}/root/dev/shm").into()))
        }
    }
}

/// The container's network namespace, where another container's is this process's own.
pub(super) fn network(namespace: NetworkNamespace) -> NetworkNamespace {
    match namespace {
        NetworkNamespace::Path(path) if is_own(&path, "net") => NetworkNamespace::Host,
        other => other,
    }
}

/// The container's user namespace. Ids that are chosen for it are recorded at once, while nobody else chooses.
pub(super) fn users(
    caller: &Caller,
    options: &RunOptions,
    needed: impl FnOnce() -> Result<u32>,
    owner: &Owner,
    record: &mut Record,
) -> Result<Users> {
    let file = match &options.isolation.user {
        UserNamespace::Host => return Ok(Users::Caller),
        UserNamespace::Container(name) => of_container(&caller.containers, name, "user")?.0,
        UserNamespace::Path(path) => path.clone(),
        mode => {
            if let Some(mapping) = &record.ids {
                return Ok(Users::New(mapping.clone()));
            }
            let _held = caller.containers.hold()?;
            let ids = ids(caller, mode, needed, &record.id)?;
            record.ids = plan(mode, &ids)?;
            owner.write_record(record)?;
            return Ok(record.ids.clone().map_or(Users::Caller, Users::New));
        }
    };
    if is_own(&file, "user") {
        return Ok(Users::Caller);
    }
    let namespace = sys::open_namespace(&file).at("open the namespace", &file)?;
    let mapping = Mapping::of_namespace(namespace.as_fd()).at("join", &file)?;
    Ok(Users::Path(file, mapping))
}

/// What there is to choose ids from.
fn ids(caller: &Caller, mode: &UserNamespace, needed: impl FnOnce() -> Result<u32>, id: &str) -> Result<Ids> {
    let mut ids = Ids { own: Mapping::current()?, user: caller.user, ..Ids::default() };
    match mode {
        UserNamespace::Named { user, group } => {
            ids.ranges = userns::ranges_of(user, group);
            for (ranges, name, file) in
                [(&ids.ranges.uids, user, "/etc/subuid"), (&ids.ranges.gids, group, "/etc/subgid")]
            {
                if ranges.is_empty() {
                    return Err(Error::new(Kind::NotFound, format!("`{name}` has no range in {file}")));
                }
            }
        }
        UserNamespace::Auto { .. } => {
            ids.needed = needed()?;
            let others =
                caller.containers.list()?.into_iter().filter(|other| other.record.id != id && !other.is_leftover());
            ids.used = others.filter_map(|other| other.record.ids).collect();
            ids.ranges = userns::ranges_of(AUTO_OWNER, AUTO_OWNER);
            if ids.user.is_none() && (ids.ranges.uids.is_empty() || ids.ranges.gids.is_empty()) {
                let message = format!("--userns auto: `{AUTO_OWNER}` has no range in /etc/subuid and /etc/subgid");
                return Err(Error::new(Kind::NotFound, message).hint(format!(
                    "add the line `{AUTO_OWNER}:2147483647:2147483648` to both files, which name who may use which ids"
                )));
            }
        }
        _ => {}
    }
    Ok(ids)
}
