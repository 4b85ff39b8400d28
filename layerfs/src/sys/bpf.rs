//! `bpf(2)`, as far as access to devices on cgroup v2 needs it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// `BPF_PROG_TYPE_CGROUP_DEVICE` and `BPF_CGROUP_DEVICE` of `linux/bpf.h`.
const PROGRAM_TYPE: u32 = 15;
const ATTACH_TYPE: u32 = 6;

/// The head of `union bpf_attr` for `BPF_PROG_LOAD`: the kernel takes what follows as zero.
#[repr(C)]
#[derive(Default)]
struct Load {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
}

/// `union bpf_attr` for `BPF_PROG_ATTACH`.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
    replaced: u32,
}

/// Loads a program that decides about access to devices. Each word is one instruction: `struct bpf_insn`.
///
/// # Errors
/// Those of `bpf(2)`: `EPERM` without `CAP_BPF` or `CAP_SYS_ADMIN` on the host, `EINVAL` or `EACCES` where the
/// kernel's verifier refuses it.
pub fn load_device_program(instructions: &[u64]) -> io::Result<OwnedFd> {
    const PROG_LOAD: i32 = 5;
    let attributes = Load {
        program_type: PROGRAM_TYPE,
        instruction_count: u32::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        instructions: instructions.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: the attributes are the head of the union that PROG_LOAD reads, with their true size; the instructions
    // and the NUL-terminated licence live across the call, and the kernel copies both.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, ptr::from_ref(&attributes), size_of::<Load>()) };
    match RawFd::try_from(fd) {
        // SAFETY: the kernel just made this descriptor, and nobody else owns it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Puts a program of [`load_device_program`] on a cgroup, beside those that are there. It lives as long as the cgroup.
///
/// # Errors
/// Those of `bpf(2)`.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    const PROG_ATTACH: i32 = 8;
    /// `BPF_F_ALLOW_MULTI`: folders below may add theirs; all must agree.
    const ALLOW_MULTI: u32 = 2;
    let attributes = Attach {
        target: cgroup.as_raw_fd().unsigned_abs(),
        program: program.as_raw_fd().unsigned_abs(),
        attach_type: ATTACH_TYPE,
        flags: ALLOW_MULTI,
        replaced: 0,
    };
    // SAFETY: the attributes are the head of the union that PROG_ATTACH reads, with their true size; it holds
    // descriptors that are open across the call, and no pointers.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, ptr::from_ref(&attributes), size_of::<Attach>()) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
