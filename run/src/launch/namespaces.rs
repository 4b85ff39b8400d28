//! Which namespaces are new, which are joined, and how both are had at once.

use std::os::fd::{AsFd, OwnedFd};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::container::hide_from_tracers;
use layerfs::sys::process::{self as sys, Child, CloneOptions};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::EXIT_SETUP_FAILED;
use super::channel::{Channel, Message, OwnEnd};
use crate::init::{Init, libc_flag};

/// The namespaces of a container.
pub(crate) struct Namespaces {
    /// `CLONE_NEW*` flags of those it gets for itself.
    pub(crate) new: u64,
    /// Those of others, the user namespace first: it gives the right to enter the rest.
    pub(crate) joins: Vec<(OwnedFd, LinkNameSpaceType)>,
    /// What a new time namespace's clocks are ahead by, as `/proc/PID/timens_offsets` takes it.
    pub(crate) time_offsets: Option<String>,
}

impl Namespaces {
    /// Reads the Spec and opens the files of joined namespaces.
    pub(crate) fn of(spec: &Spec) -> Result<Self> {
        let listed = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        let (mut new, mut joins, mut seen) = (0, Vec::new(), 0);
        for namespace in listed.into_iter().flatten() {
            let (flag, kind) = flag_of(namespace.typ());
            if seen & flag != 0 {
                return Err(Error::new(Kind::Invalid, format!("linux.namespaces lists `{}` twice", namespace.typ())));
            }
            seen |= flag;
            match namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
                None => new |= flag,
                Some(path) => {
                    let file = sys::open_namespace(path).at("open the namespace", path)?;
                    joins.push((file, kind));
                }
            }
        }
        if new & libc_flag::USER != 0 && seen & libc_flag::MOUNT == 0 {
            // The caller's mounts are its user namespace's, and nobody changes them from within another.
            return Err(Error::new(Kind::Invalid, "a user namespace of its own needs a mount namespace, too")
                .hint("list a mount namespace in linux.namespaces: new, or another one by its path"));
        }
        if new & libc_flag::USER != 0 {
            check_mappings(spec)?;
        }
        joins.sort_by_key(|(_, kind)| *kind != LinkNameSpaceType::User);
        let time_offsets = time_offsets(spec, new & libc_flag::TIME != 0)?;
        Ok(Self { new, joins, time_offsets })
    }

    pub(crate) fn joins_user(&self) -> bool {
        self.joins.iter().any(|(_, kind)| *kind == LinkNameSpaceType::User)
    }

    /// Joining can be left to the container's process, save three cases: a pid or time namespace is entered by what
    /// is cloned next; a new user namespace takes away the right to enter others; and in a joined user namespace the
    /// new namespaces are to be its own.
    ///
    /// The clocks of a time namespace can be set until somebody is in it, so they are before the clone, where the right
    /// to do so does not come from a new user namespace.
    pub(crate) fn need_intermediate(&self) -> bool {
        let by_clone = |kind: LinkNameSpaceType| {
            matches!(kind, LinkNameSpaceType::ProcessID | LinkNameSpaceType::Time | LinkNameSpaceType::User)
        };
        self.joins.iter().any(|(_, kind)| by_clone(*kind))
            || (self.new & libc_flag::USER != 0 && !self.joins.is_empty())
            || (self.new & libc_flag::USER == 0 && self.time_offsets.is_some())
    }
}

fn check_mappings(spec: &Spec) -> Result<()> {
    let linux = spec.linux().as_ref();
    let uids = linux.and_then(|linux| linux.uid_mappings().as_ref()).is_some_and(|maps| !maps.is_empty());
    let gids = linux.and_then(|linux| linux.gid_mappings().as_ref()).is_some_and(|maps| !maps.is_empty());
    if uids && gids {
        return Ok(());
    }
    Err(Error::new(Kind::Invalid, "a new user namespace needs linux.uidMappings and linux.gidMappings"))
}

fn time_offsets(spec: &Spec, own: bool) -> Result<Option<String>> {
    let offsets = spec.linux().as_ref().and_then(|linux| linux.time_offsets().as_ref());
    let Some(offsets) = offsets.filter(|offsets| !offsets.is_empty()) else { return Ok(None) };
    if !own {
        return Err(Error::new(Kind::Invalid, "linux.timeOffsets needs a new time namespace in linux.namespaces"));
    }
    let mut text = String::new();
    for (clock, offset) in offsets {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(Error::new(Kind::Invalid, format!("linux.timeOffsets: `{clock}` is no clock of a namespace"))
                .hint("there are `monotonic` and `boottime`"));
        }
        let (seconds, nanoseconds) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        text.push_str(&format!("{clock} {seconds} {nanoseconds}\n"));
    }
    Ok(Some(text))
}

/// Makes a time namespace with clocks that are ahead, for what is cloned or executed next.
pub(crate) fn make_time_namespace(offsets: &str) -> Result<()> {
    sys::unshare_namespaces(libc_flag::TIME).context(|| "make a time namespace")?;
    let proc = crate::rootfs::host_proc()?;
    crate::rootfs::write_proc_of(proc.as_fd(), "self/timens_offsets", offsets).context(|| "set linux.timeOffsets")
}

/// The flag of a namespace for `clone3(2)`, and its type for `setns(2)`.
fn flag_of(kind: LinuxNamespaceType) -> (u64, LinkNameSpaceType) {
    use LinuxNamespaceType as N;
    match kind {
        N::Mount => (libc_flag::MOUNT, LinkNameSpaceType::Mount),
        N::Cgroup => (libc_flag::CGROUP, LinkNameSpaceType::ControlGroup),
        N::Uts => (libc_flag::UTS, LinkNameSpaceType::HostNameAndNISDomainName),
        N::Ipc => (libc_flag::IPC, LinkNameSpaceType::InterProcessCommunication),
        N::User => (libc_flag::USER, LinkNameSpaceType::User),
        N::Pid => (libc_flag::PID, LinkNameSpaceType::ProcessID),
        N::Network => (libc_flag::NETWORK, LinkNameSpaceType::Network),
        N::Time => (libc_flag::TIME, LinkNameSpaceType::Time),
    }
}

/// Clones a process that enters other namespaces and clones the container's from there as its own sibling, so that the
/// container's parent is this process all the same. It says which process that is through the channel.
pub(crate) fn clone_through(
    enter: impl FnOnce() -> Result<()>,
    options: CloneOptions<'_>,
    mut init: Init<'_>,
    (own_end, channel): (&OwnEnd, Channel),
) -> Result<Child> {
    let inner = CloneOptions { namespaces: options.namespaces, cgroup: None, sibling: true };
    let outer = CloneOptions { namespaces: 0, ..options };
    let body = move || {
        drop(own_end.take());
        let cloned = (|| {
            // With the rights and the view that this process has before it enters.
            init.join_control_groups()?;
            init.set_oom_score()?;
            enter()?;
            sys::clone_child(&inner, || init.run(&channel)).context(|| "clone the container's process")
        })();
        let told = match cloned {
            Ok(child) => channel.send(&Message::Process(child.pidfd)).map(|()| 0),
            Err(error) => channel.send(&Message::Failed(error)).map(|()| EXIT_SETUP_FAILED),
        };
        told.unwrap_or(EXIT_SETUP_FAILED)
    };
    sys::clone_child(&outer, body).context(|| "clone a process to join namespaces").map_err(explain_clone)
}

/// Enters namespaces by their files, in this order.
pub(crate) fn join(namespaces: &[(OwnedFd, LinkNameSpaceType)]) -> Result<()> {
    if namespaces.iter().any(|(_, kind)| *kind == LinkNameSpaceType::ProcessID) {
        // Those who are there already could look at this copy of the launcher's memory and at its descriptors.
        hide_from_tracers().context(|| "hide from tracers")?;
    }
    for (namespace, kind) in namespaces {
        let entered = move_into_link_name_space(namespace.as_fd(), Some(*kind));
        entered.context(|| format!("join the {} namespace", name_of(*kind))).map_err(|error| {
            match error.errno().map(Errno::from_raw_os_error) {
                Some(Errno::INVAL) => error.hint("is the file of linux.namespaces one of that type?"),
                Some(Errno::PERM) => error.hint("only root of the user namespace that owns it may join it"),
                _ => error,
            }
        })?;
        if *kind == LinkNameSpaceType::User {
            // Whoever comes from outside may have no id in there, and makes no file without one. A namespace without an
            // id 0 shows in what follows.
            let _ = rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT);
            let _ = rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT);
        }
    }
    Ok(())
}

/// The Spec's word for a namespace.
fn name_of(kind: LinkNameSpaceType) -> &'static str {
    use LinkNameSpaceType as L;
    match kind {
        L::Mount => "mount",
        L::ControlGroup => "cgroup",
        L::HostNameAndNISDomainName => "uts",
        L::InterProcessCommunication => "ipc",
        L::User => "user",
        L::ProcessID => "pid",
        L::Network => "network",
        L::Time => "time",
    }
}

/// Adds what is most likely wrong.
pub(crate) fn explain_clone(error: Error) -> Error {
    match error.errno().map(Errno::from_raw_os_error) {
        Some(Errno::PERM) => error.hint("new namespaces need root, or a user namespace that the kernel allows"),
        Some(Errno::NOSPC | Errno::USERS) => {
            error.hint("too many namespaces exist: see /proc/sys/user/max_*_namespaces")
        }
        Some(Errno::DEADLK) => error.hint("a container is started before any thread is"),
        Some(Errno::BADF | Errno::OPNOTSUPP) => {
            error.hint("the cgroup does not take processes: is it `domain invalid` or threaded?")
        }
        _ => error,
    }
}
