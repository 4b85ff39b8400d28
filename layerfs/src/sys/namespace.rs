//! How namespaces hang together (`ioctl_ns(2)`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The user namespace that owns the namespace of an open file.
///
/// # Errors
/// `EPERM` where that is neither the caller's own nor inside it.
pub fn owner(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// `NS_GET_USERNS`
    const GET_USERNS: u64 = 0xb701;
    ask(namespace, GET_USERNS)
}

/// The user namespace that the user namespace of an open file was made in.
///
/// # Errors
/// `EPERM` where that is neither the caller's own nor inside it.
pub fn parent(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// `NS_GET_PARENT`
    const GET_PARENT: u64 = 0xb702;
    ask(namespace, GET_PARENT)
}

fn ask(namespace: BorrowedFd<'_>, question: u64) -> io::Result<OwnedFd> {
    // SAFETY: the two requests take no argument, so no memory is touched; on a file that is no namespace they fail.
    let answer = unsafe { libc::ioctl(namespace.as_raw_fd(), question as libc::Ioctl) };
    match answer {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: what is not negative is a new descriptor that nobody else owns.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}
