//! Another program in a running container.
//!
//! The container is known by a descriptor of one of its processes; its namespaces are entered through that, all at
//! once, so no path is looked up and no number can have been used again meanwhile. A rootless container is entered
//! from outside, by the user who owns its user namespace: a process that entered a user namespace of its own before has
//! no rights over the container's.

use std::fs;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::container::hide_from_tracers;
use layerfs::sys::process::{self as sys, CloneOptions};
use oci_spec::runtime::{LinuxNamespaceType, LinuxSeccomp, Process, Spec};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use crate::cgroup::{Below, Cgroup};
use crate::init::identity::keeps_groups;
use crate::init::schedule::{Affinity, Schedule};
use crate::init::{Init, Streams, View};
use crate::launch::hooks::{Identity, Outside};
use crate::launch::running::Waiting;
use crate::launch::{Created, Io, about_set_up, channel, check_preserved, namespaces, running};
use crate::rootfs::{host_proc, namespace_is_new};
use crate::seccomp::Filter;

/// A program to run in a container that runs already.
#[derive(Debug)]
pub struct Exec<'a> {
    /// The container's first process.
    pub container: BorrowedFd<'a>,
    /// What is to run, and as whom.
    pub process: &'a Process,
    /// The container's own filter.
    pub seccomp: Option<&'a LinuxSeccomp>,
    /// Where it was made from a bundle: what all its processes have of that, and whom a seccomp agent is told about.
    pub bundle: Option<(&'a Spec, &'a Identity)>,
    /// The container's own cgroup.
    pub cgroup: &'a Cgroup,
    /// Where below that one to be.
    pub cgroup_below: &'a Below,
    /// Its streams.
    pub io: Io,
    /// How many descriptors from 3 on it inherits. They must be open.
    pub preserve_fds: u32,
    /// Kill it when this process dies.
    pub dies_with_parent: bool,
}

/// Makes the process. It waits just before the program, as with [`crate::launch::create`], and is this process's child.
///
/// # Errors
/// The container has ended ([`Kind::Conflict`]); the program is not there or cannot be executed, as with
/// [`crate::launch::create`]; any step of the set-up failed.
pub fn exec(exec: Exec<'_>) -> Result<Created> {
    let outside = match exec.bundle {
        Some((spec, identity)) => {
            let first = sys::pid_of(exec.container).context(|| "find the container's process")?;
            Outside::of_running(spec, identity, first.unwrap_or(0))?
        }
        None => None,
    };
    let waiting = join(exec).map_err(about_set_up)??;
    Ok(Created::new(waiting, Cgroup::none(), Vec::new(), outside))
}

/// The inner error is what the new process said.
fn join(exec: Exec<'_>) -> Result<Result<Waiting>> {
    let Exec { container, process, seccomp, bundle, cgroup, cgroup_below, io, preserve_fds, dies_with_parent } = exec;
    check_preserved(preserve_fds)?;
    let filter = seccomp.map(Filter::compile).transpose()?;
    let others = differing_namespaces(container)?;
    let placement = cgroup.open(cgroup_below, sys::pid_of(container).context(|| "find the container's process")?)?;
    let root = match bundle {
        Some((spec, _)) if !namespace_is_new(spec, LinuxNamespaceType::Mount) => Some(root_of(container)?),
        _ => None,
    };
    let (own_end, child_end) = channel::pair()?;
    let init = Init {
        process,
        spec: None,
        view: View::Joined,
        streams: Streams::from(io),
        proc: host_proc()?,
        joins: Vec::new(),
        namespaces: 0,
        time_offsets: None,
        control_groups: placement.v1,
        oom_score_adj: process.oom_score_adj(),
        schedule: Schedule::of(process, bundle.and_then(|(spec, _)| spec.linux().as_ref()))?,
        affinity: Affinity::of(process)?,
        filter,
        keeps_groups: bundle.is_some_and(|(spec, _)| keeps_groups(spec)),
        preserve_fds,
        dies_with_parent,
        outside: None,
        waits_for_others: false,
    };
    let options =
        CloneOptions { namespaces: 0, cgroup: placement.v2.as_ref().map(std::os::fd::AsFd::as_fd), sibling: false };
    let enter = || {
        // In there, others could look at this copy of the launcher's memory, its descriptors and its program
        // (CVE-2019-5736); a process that may not be traced cannot be looked at.
        hide_from_tracers().context(|| "hide from tracers")?;
        if !others.is_empty() {
            move_into_thread_name_spaces(container, others).context(|| "enter the container's namespaces")?;
        }
        let Some(root) = &root else { return Ok(()) };
        rustix::process::fchdir(root).context(|| "enter the container's root")?;
        rustix::process::chroot(".").context(|| "make the container's root the root (chroot)")
    };
    let child = namespaces::clone_through(enter, options, init, (&own_end, child_end))?;
    running::converse(child, true, own_end.take(), running::Wanted::default())
}

/// A process's root, where that is not its mount namespace's.
fn root_of(process: BorrowedFd<'_>) -> Result<OwnedFd> {
    let pid = || sys::pid_of(process).context(|| "find the container's process");
    let ended = || Error::new(Kind::Conflict, "the container has ended");
    let before = pid()?.ok_or_else(ended)?;
    let path = format!("/proc/{before}/root");
    let root = layerfs::sys::fs::open_dir(Path::new(&path)).at("open", &path)?;
    // The number could have become another's before it was looked up.
    if pid()? == Some(before) { Ok(root) } else { Err(ended()) }
}

/// The namespaces in which a process and this one differ. Entering one's own is refused by the kernel for some, and
/// needs rights that a rootless caller has not for those it shares with the host.
fn differing_namespaces(process: BorrowedFd<'_>) -> Result<ThreadNameSpaceType> {
    use ThreadNameSpaceType as N;
    let ended = || Error::new(Kind::Conflict, "the container has ended");
    let pid = sys::pid_of(process).context(|| "find the container's process")?.ok_or_else(ended)?;
    let kinds = [
        ("user", N::USER),
        ("mnt", N::MOUNT),
        ("pid", N::PROCESS_ID),
        ("net", N::NETWORK),
        ("ipc", N::INTER_PROCESS_COMMUNICATION),
        ("uts", N::HOST_NAME_AND_NIS_DOMAIN_NAME),
        ("cgroup", N::CONTROL_GROUP),
        ("time", N::TIME),
    ];
    let mut others = N::empty();
    for (name, kind) in kinds {
        // The link's text is the namespace's number: `net:[4026531840]`.
        let own = fs::read_link(format!("/proc/self/ns/{name}")).ok();
        let theirs = match fs::read_link(format!("/proc/{pid}/ns/{name}")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && own.is_some() => return Err(ended()),
            theirs => theirs
                .context(|| "look at the container's namespaces")
                .map_err(|error| error.hint("only root and the user who started the container may enter it"))?,
        };
        if own.as_ref() != Some(&theirs) {
            others |= kind;
        }
    }
    // Between the look at the number and the look at its namespaces another process could have got it.
    match sys::pid_of(process).context(|| "find the container's process")? {
        Some(same) if same == pid => Ok(others),
        _ => Err(ended()),
    }
}
