//! Seccomp filters: from the rules of an OCI Spec to a program for the kernel.
//!
//! The program is a search tree over system call numbers, so that no call costs more than a handful of comparisons.
//! That matters twice: for each call the container makes that the kernel's own cache does not cover, and at load, when
//! the kernel runs the filter for every number it knows to fill that cache.
//!
//! Meaning, as libseccomp has it: a call that is listed without conditions has that verdict, whatever else is said
//! about it; otherwise its rules are tried in the order of the Spec, and the default is last. A rule whose action is
//! the default says nothing. A number above all that the Spec names is a call that does not exist, unless the default
//! lets calls through. Names that an architecture does not have say nothing there. A call by an architecture that
//! the Spec does not list kills the thread.

mod compile;
mod program;
mod table;

use std::os::fd::OwnedFd;

use layerfs::error::{Context, Result};
use layerfs::sys::container::{Instruction, load_seccomp};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompFilterFlag};
use rustix::io::Errno;

/// A compiled filter.
#[derive(Debug)]
pub struct Filter {
    instructions: Vec<Instruction>,
    flags: u32,
    notifies: bool,
}

impl Filter {
    /// Compiles the rules of a Spec.
    ///
    /// # Errors
    /// A rule makes no sense.
    pub fn compile(spec: &LinuxSeccomp) -> Result<Self> {
        let notifies = crate::launch::agent::notifies(spec);
        Ok(Self { instructions: compile::compile(spec)?, flags: flags(spec, notifies), notifies })
    }

    /// The length of the program, in instructions.
    pub fn len(&self) -> usize {
        self.instructions.len()
    }

    /// Never: a filter says at least what becomes of everything.
    pub fn is_empty(&self) -> bool {
        self.instructions.is_empty()
    }

    /// Whether it asks an agent about some calls.
    pub(crate) fn notifies(&self) -> bool {
        self.notifies
    }

    /// Puts this process under the filter, for good. Comes back with the agent's descriptor where it asks one.
    pub(crate) fn load(&self) -> Result<Option<OwnedFd>> {
        let loaded = load_seccomp(&self.instructions, self.flags).context(|| "load the seccomp filter");
        loaded.map_err(|error| match error.errno().map(Errno::from_raw_os_error) {
            Some(Errno::ACCESS) => error.hint("without CAP_SYS_ADMIN it needs process.noNewPrivileges"),
            Some(Errno::INVAL) => error.hint("the kernel lacks CONFIG_SECCOMP_FILTER or a flag of linux.seccomp.flags"),
            _ => error,
        })
    }
}

/// `SECCOMP_FILTER_FLAG_*` of `linux/seccomp.h`.
fn flags(spec: &LinuxSeccomp, notifies: bool) -> u32 {
    const NEW_LISTENER: u32 = 1 << 3;
    let bit = |flag: &LinuxSeccompFilterFlag| match flag {
        // There is one thread, so there is nothing to synchronise.
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => 1 << 1,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 1 << 2,
        // About waiting for an agent, and refused by the kernel without one.
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if notifies => 1 << 5,
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
    };
    let listener = if notifies { NEW_LISTENER } else { 0 };
    spec.flags().iter().flatten().fold(listener, |flags, flag| flags | bit(flag))
}

#[cfg(test)]
mod tests;
