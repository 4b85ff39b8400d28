//! `mount_setattr(2)`, which rustix does not have.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct mount_attr` of `linux/mount.h` (Linux 5.12).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MountAttributes {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// `MS_SHARED`, `MS_PRIVATE`, `MS_SLAVE` or `MS_UNBINDABLE`, or 0.
    pub propagation: u64,
    /// A user namespace for `MOUNT_ATTR_IDMAP`, or 0.
    pub userns_fd: u64,
}

/// Changes the mount that `tree` is the root of, and those below it where `recursive`.
///
/// # Errors
/// Those of `mount_setattr(2)`.
pub fn set_attributes(tree: BorrowedFd<'_>, attributes: &MountAttributes, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated constant and the structure lives across the call with its true size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<MountAttributes>(),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes one mount read-only.
///
/// # Errors
/// Those of `mount_setattr(2)`.
pub fn set_read_only(tree: BorrowedFd<'_>) -> io::Result<()> {
    set_attributes(tree, &MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..Default::default() }, false)
}
