//! When and where a process runs: scheduling, priority of its input and output, memory nodes, personality.

use std::io;
use std::ptr;

/// `struct sched_attr` of `linux/sched/types.h`, as of Linux 5.3.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scheduling {
    /// Its own size; filled in by [`set_scheduling`].
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// For `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// For `SCHED_DEADLINE`, in nanoseconds, as the two below.
    pub runtime: u64,
    /// See `runtime`.
    pub deadline: u64,
    /// See `runtime`.
    pub period: u64,
    /// With `SCHED_FLAG_UTIL_CLAMP_MIN`.
    pub utilisation_min: u32,
    /// With `SCHED_FLAG_UTIL_CLAMP_MAX`.
    pub utilisation_max: u32,
}

/// Sets how this thread, and what it starts, is scheduled (`sched_setattr(2)`).
///
/// # Errors
/// Those of `sched_setattr(2)`.
pub fn set_scheduling(wanted: &Scheduling) -> io::Result<()> {
    let wanted = Scheduling { size: u32::try_from(size_of::<Scheduling>()).expect("it is small"), ..*wanted };
    // SAFETY: the structure lives across the call and says its true size; 0 is this thread.
    done(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, ptr::from_ref(&wanted), 0) })
}

/// Sets the priority of input and output for this process's group: a class (`IOPRIO_CLASS_*`) and a level in it.
///
/// # Errors
/// Those of `ioprio_set(2)`.
pub fn set_io_priority(class: u32, level: u32) -> io::Result<()> {
    const WHO_PROCESS_GROUP: u32 = 2;
    const CLASS_SHIFT: u32 = 13;
    // SAFETY: numbers only; 0 is the caller's own group.
    done(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS_GROUP, 0, (class << CLASS_SHIFT) | level) })
}

/// Sets where the memory of this thread, and of what it starts, comes from: `MPOL_*` with its flags, and a set of
/// nodes, one bit each.
///
/// # Errors
/// Those of `set_mempolicy(2)`; `ENOSYS` in a kernel without NUMA.
pub fn set_memory_policy(mode: u32, nodes: &[u64]) -> io::Result<()> {
    // The kernel takes one bit less than it is told.
    let bits = if nodes.is_empty() { 0 } else { nodes.len() * u64::BITS as usize + 1 };
    let mask = if nodes.is_empty() { ptr::null() } else { nodes.as_ptr() };
    // SAFETY: the mask points at `bits - 1` bits that live across the call, or is null with a length of 0.
    done(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) })
}

/// Sets the execution domain of this process (`personality(2)`).
///
/// # Errors
/// Those of `personality(2)`.
pub fn set_personality(domain: u32) -> io::Result<()> {
    // SAFETY: a number only.
    match unsafe { libc::personality(libc::c_ulong::from(domain)) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn done(result: libc::c_long) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
