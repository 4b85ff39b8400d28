//! What only a container's first process asks the kernel for.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// One instruction of classic BPF: `struct sock_filter` of `linux/filter.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation: class, size, mode.
    pub code: u16,
    /// Instructions to skip where a comparison holds.
    pub jt: u8,
    /// Instructions to skip where it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

#[repr(C)]
struct Program {
    len: u16,
    filter: *const Instruction,
}

/// Loads a seccomp filter for this thread and what it starts. `flags` are `SECCOMP_FILTER_FLAG_*`; with
/// `NEW_LISTENER` the listener's descriptor comes back.
///
/// # Errors
/// Those of `seccomp(2)`: `EACCES` without `no_new_privs` and `CAP_SYS_ADMIN`, `EINVAL` for a filter that is no
/// program or for an unknown flag.
pub fn load_seccomp(filter: &[Instruction], flags: u32) -> io::Result<Option<OwnedFd>> {
    /// `SECCOMP_SET_MODE_FILTER`
    const SET_MODE_FILTER: u32 = 1;
    /// `SECCOMP_FILTER_FLAG_NEW_LISTENER`
    const NEW_LISTENER: u32 = 1 << 3;
    let len = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = Program { len, filter: filter.as_ptr() };
    // SAFETY: the program points at `len` instructions that live across the call; the kernel copies and checks them.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, ptr::from_ref(&program)) };
    match RawFd::try_from(result) {
        // SAFETY: with NEW_LISTENER a result that is not negative is a new descriptor that nobody else owns.
        Ok(fd) if fd >= 0 && flags & NEW_LISTENER != 0 => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Ok(0) => Ok(None),
        // With TSYNC a positive result is the thread that could not be synchronised.
        Ok(thread) if thread > 0 => Err(io::Error::from_raw_os_error(libc::EBUSY)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Joins a new, nameless session keyring, so that the caller's keys are not the container's (`keyctl(2)`).
///
/// # Errors
/// `ENOSYS` or `EPERM` where the kernel has no keys or a filter forbids them, `EDQUOT` where the user has too many.
pub fn join_new_session_keyring() -> io::Result<()> {
    // SAFETY: a null name asks for an anonymous keyring; no memory is passed.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, ptr::null::<u8>()) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Sets the loopback interface of this network namespace up.
///
/// # Errors
/// Those of `socket(2)` and of the interface ioctls of `netdevice(7)`.
pub fn bring_up_loopback() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: all-zero is a valid `ifreq`: a C structure of numbers and an array.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_UP | libc::IFF_RUNNING;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the request is a live `ifreq` with a NUL-terminated name, which is what SIOCSIFFLAGS reads.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, ptr::from_ref(&request)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes this process's memory, descriptors and program invisible to others without `CAP_SYS_PTRACE` over the user
/// namespace it was started in (`PR_SET_DUMPABLE` 0): nobody inside a container that it enters can reach through it.
///
/// # Errors
/// Those of `prctl(2)`.
pub fn hide_from_tracers() -> io::Result<()> {
    set_dumpable(0)
}

/// Undoes what a change of ids does: this process's files in `/proc` belong to its user again.
///
/// # Errors
/// Those of `prctl(2)`.
pub fn allow_tracers() -> io::Result<()> {
    set_dumpable(1)
}

fn set_dumpable(value: libc::c_int) -> io::Result<()> {
    // SAFETY: PR_SET_DUMPABLE takes a number and touches no memory of ours.
    match unsafe { libc::prctl(libc::PR_SET_DUMPABLE, value, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
