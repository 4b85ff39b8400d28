//! The one `ioctl` of `/dev/fuse` that is needed: another descriptor for the same connection.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

/// `FUSE_DEV_IOC_CLONE`: `_IOR(229, 0, uint32_t)` of `linux/fuse.h`.
const CLONE: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(229, 0);

/// Opens `/dev/fuse`; `flags` are added.
///
/// # Errors
/// It is not there, or not for this user.
pub fn open_device(flags: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC | flags, Mode::empty())?)
}

/// A further descriptor of a mounted connection (Linux 4.2). What a thread reads from one it answers on the same: no
/// two threads then share a lock over what is being worked on.
///
/// # Errors
/// `/dev/fuse` is out of reach meanwhile, or `device` is not mounted yet.
pub fn clone_device(device: BorrowedFd<'_>, flags: OFlags) -> io::Result<OwnedFd> {
    let new = open_device(flags)?;
    let original = device.as_raw_fd().cast_unsigned();
    // SAFETY: the operation reads one u32 behind the pointer, the number of a descriptor that is borrowed across the
    // call, and writes nothing.
    unsafe {
        let operation = rustix::ioctl::Setter::<CLONE, u32>::new(original);
        rustix::ioctl::ioctl(new.as_fd(), operation)?;
    }
    Ok(new)
}
