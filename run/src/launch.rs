//! Starting a container: from an OCI runtime `Spec` to a process.
//!
//! [`create`] opens what it needs, makes the cgroup, clones once with all namespaces, and returns when the container's
//! first process has set itself up and waits just before the program. [`Created::start`] lets it go and returns when
//! the program runs. One channel carries every failure with the step it happened in. There is no re-execution of this
//! program and no helper process.
//!
//! The calling process must have one thread: the new process goes on in a copy of its memory (see
//! [`layerfs::sys::process::clone_child`]).
//!
//! Errors: [`Kind::NotFound`] means that the program is not in the container (a container engine exits 127) and
//! [`Kind::Denied`] that it cannot be executed (126). Nothing else has these two kinds: what else is not found or not
//! allowed while a container is set up is [`Kind::System`] here (125).

pub(crate) mod agent;
pub(crate) mod channel;
pub(crate) mod hooks;
pub(crate) mod namespaces;
mod net_devices;
pub(crate) mod running;

use std::os::fd::{AsFd, OwnedFd};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::process::{self as sys, CloneOptions};
use layerfs::userns::Mapping;
use oci_spec::runtime::{Process, Spec};

use crate::cgroup;
use crate::init::identity::{Sets, keeps_groups};
use crate::init::schedule::{Affinity, Schedule};
use crate::init::{Init, Streams, View, libc_flag};
use crate::rootfs::{Circumstances, Prepared, host_proc, shared};
use crate::seccomp::Filter;

pub use crate::rootfs::Rootfs;
pub use hooks::Identity;
use hooks::{Moment, Outside};
use namespaces::Namespaces;
use net_devices::NetDevice;
pub use running::{Created, Exit, Running};

/// The program is not in the container.
pub(crate) const EXIT_NOT_FOUND: i32 = 127;
/// The program is there but cannot be executed.
pub(crate) const EXIT_CANNOT_EXECUTE: i32 = 126;
/// The container could not be set up.
pub(crate) const EXIT_SETUP_FAILED: i32 = 125;

/// The three standard streams of a container.
#[derive(Debug)]
pub struct Stdio {
    /// Its input.
    pub stdin: OwnedFd,
    /// Its output.
    pub stdout: OwnedFd,
    /// Its messages.
    pub stderr: OwnedFd,
}

/// What a container's process reads and writes.
#[derive(Debug)]
pub enum Io {
    /// Three streams of the caller's.
    Stdio(Stdio),
    /// A terminal, opened inside the container's own devpts; its master side comes back.
    Terminal {
        /// Columns and rows.
        size: (u16, u16),
    },
}

impl From<Io> for Streams {
    fn from(io: Io) -> Self {
        match io {
            Io::Stdio(stdio) => Streams::Given(stdio),
            Io::Terminal { size } => Streams::Terminal(size),
        }
    }
}

/// A container to be started.
#[derive(Debug)]
pub struct Launch<'a> {
    /// What it is. Where the Spec names no user namespace of its own the container shares the caller's.
    pub spec: &'a Spec,
    /// Its root; the Spec's own `root.path` is not looked at.
    pub rootfs: Rootfs,
    /// Its streams. The Spec's `process.terminal` is not looked at.
    pub io: Io,
    /// The user namespace whose ids the owners of files in the root's read-only layers are, in the caller's ids;
    /// `None` where they are the caller's own.
    pub owners: Option<&'a Mapping>,
    /// Its cgroup.
    pub cgroup: cgroup::Plan,
    /// How many descriptors from 3 on it inherits. They must be open.
    pub preserve_fds: u32,
    /// Kill it when this process dies. (When the thread dies, strictly; there is but one.)
    pub dies_with_parent: bool,
    /// Whom its hooks are told about. Without, a Spec that has hooks is refused.
    pub identity: Option<&'a Identity>,
}

impl<'a> Launch<'a> {
    /// A launch without descriptors beyond the streams, of a container that outlives its launcher.
    pub fn new(spec: &'a Spec, rootfs: Rootfs, io: Io, cgroup: cgroup::Plan) -> Self {
        Self { spec, rootfs, owners: None, io, cgroup, preserve_fds: 0, dies_with_parent: false, identity: None }
    }
}

/// Makes the container. Its first process waits just before the program.
///
/// # Errors
/// [`Kind::NotFound`]: there is no such program in the container. [`Kind::Denied`]: it cannot be executed. Any other
/// kind: a step of the set-up failed. Nothing of the container is left.
pub fn create(launch: Launch<'_>) -> Result<Created> {
    set_up(launch).map_err(about_set_up)?
}

/// Frees the two kinds that tell about the program.
pub(crate) fn about_set_up(error: Error) -> Error {
    match (error.kind(), error.advice().map(str::to_owned)) {
        (Kind::NotFound | Kind::Denied, None) => Error::new(Kind::System, error.chain()),
        (Kind::NotFound | Kind::Denied, Some(hint)) => Error::new(Kind::System, error.chain()).hint(hint),
        _ => error,
    }
}

/// The inner error is what the new process said of itself.
fn set_up(launch: Launch<'_>) -> Result<Result<Created>> {
    let Launch { spec, rootfs, owners, io, cgroup, preserve_fds, dies_with_parent, identity } = launch;
    // A container may be made without a program; then it cannot be started.
    let nothing = no_process();
    let process = spec.process().as_ref().unwrap_or(&nothing);
    check_preserved(preserve_fds)?;
    refuse_what_is_not_done(spec)?;
    let outside = Outside::of(spec, identity)?;
    let schedule = Schedule::of(process, spec.linux().as_ref())?;
    let net_devices = NetDevice::all(spec)?;
    let namespaces = Namespaces::of(spec)?;
    let own_user_namespace = namespaces.new & libc_flag::USER != 0;
    let in_user_namespace = own_user_namespace || namespaces.joins_user() || !Mapping::current()?.is_host();
    let filter = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()).map(Filter::compile).transpose()?;
    // Hooks look for the root where the bundle has it.
    let moments = [Moment::Prestart, Moment::CreateRuntime, Moment::CreateContainer];
    let has_hooks = outside.as_ref().is_some_and(|outside| outside.has(&moments));
    let circumstances = Circumstances {
        in_user_namespace,
        in_its_place: has_hooks,
        bundle: identity.map(|identity| identity.bundle.as_path()),
        owners,
    };
    let prepared = Prepared::new(spec, &rootfs, circumstances)?;
    let mut plan_notes = cgroup.notes().to_vec();
    plan_notes.extend(Sets::of(process.capabilities().as_ref()).cannot_be_ambient());
    let (cgroup, placement) = cgroup.apply()?;

    // What is at its place before, if its mounts are not its own.
    let place = match &rootfs {
        Rootfs::Path(path) if shared::has_callers_mounts(spec) => Some((path.as_path(), shared::mount_at(path))),
        _ => None,
    };
    let started = (|| {
        let (own_end, child_end) = channel::pair()?;
        let intermediate = namespaces.need_intermediate();
        let Namespaces { new, joins, time_offsets } = namespaces;
        let (outer_joins, inner_joins) = if intermediate { (joins, Vec::new()) } else { (Vec::new(), joins) };
        let (outer_offsets, inner_offsets) =
            if own_user_namespace { (None, time_offsets) } else { (time_offsets, None) };
        let init = Init {
            process,
            spec: Some(spec),
            view: View::Own(Box::new(prepared)),
            streams: io.into(),
            proc: host_proc()?,
            joins: inner_joins,
            namespaces: new,
            time_offsets: inner_offsets,
            control_groups: placement.v1,
            oom_score_adj: process.oom_score_adj(),
            schedule,
            // Which is for those who come later alone.
            affinity: Affinity::default(),
            filter,
            keeps_groups: keeps_groups(spec),
            preserve_fds,
            dies_with_parent,
            outside: outside.as_ref(),
            waits_for_others: !net_devices.is_empty()
                || outside.as_ref().is_some_and(|outside| outside.has(&[Moment::Prestart, Moment::CreateRuntime])),
        };
        // The cgroup namespace is unshared once the process is in its cgroup, a time namespace with offsets before its
        // first process is cloned or executed.
        let set_apart = init.time_offsets.is_some() || outer_offsets.is_some();
        let at_clone = new & !libc_flag::CGROUP & !(if set_apart { libc_flag::TIME } else { 0 });
        let options =
            CloneOptions { namespaces: at_clone, cgroup: placement.v2.as_ref().map(AsFd::as_fd), sibling: false };
        let child = if intermediate {
            let enter = move || {
                namespaces::join(&outer_joins)?;
                outer_offsets.as_deref().map_or(Ok(()), namespaces::make_time_namespace)
            };
            namespaces::clone_through(enter, options, init, (&own_end, child_end))
        } else {
            let own_end = &own_end;
            let body = move || {
                drop(own_end.take());
                init.run(&child_end)
            };
            let cloned = sys::clone_child(&options, body);
            cloned.context(|| "clone the container's first process").map_err(namespaces::explain_clone)
        }?;
        let wanted = running::Wanted { spec: Some(spec), outside: outside.as_ref(), net_devices: &net_devices };
        running::converse(child, intermediate, own_end.take(), wanted)
    })();
    if !matches!(started, Ok(Ok(_)))
        && let Some((path, before)) = place
        && let Some(mount) = shared::mount_at(path).filter(|mount| Some(*mount) != before)
    {
        // The first error is the one to tell.
        let _ = shared::let_go(path, mount);
    }
    match started {
        Ok(Ok(waiting)) => Ok(Ok(Created::new(waiting, cgroup, plan_notes, outside))),
        Ok(Err(error)) => {
            // The first error is the one to tell; the folders are empty by now.
            let _ = cgroup.destroy();
            Ok(Err(error))
        }
        Err(error) => {
            let _ = cgroup.destroy();
            Err(error)
        }
    }
}

/// What stands in for a process that the Spec does not have: nothing to run, and no right to anything.
fn no_process() -> Process {
    let mut process = Process::default();
    process.set_args(None).set_capabilities(None).set_rlimits(None).set_cwd("/".into());
    process
}

/// A descriptor that is not open now could be one of our own by the time the program starts.
pub(crate) fn check_preserved(count: u32) -> Result<()> {
    for number in 3..3 + u64::from(count) {
        if std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_err() {
            return Err(Error::new(Kind::Usage, format!("descriptor {number} is to be preserved but is not open")));
        }
    }
    Ok(())
}

/// A field that asks for something this launcher does not do must not be passed over in silence.
fn refuse_what_is_not_done(spec: &Spec) -> Result<()> {
    let linux = spec.linux().as_ref();
    let refused = [("linux.intelRdt", linux.is_some_and(|linux| linux.intel_rdt().is_some()))];
    match refused.iter().find(|(_, present)| *present) {
        Some((field, _)) => Err(Error::new(Kind::Unsupported, format!("{field} of the Spec is not supported"))),
        None => Ok(()),
    }
}
