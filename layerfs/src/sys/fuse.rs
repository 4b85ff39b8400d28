//! The `ioctl`s of `/dev/fuse`: another descriptor for the same connection, and files that the kernel reads and writes
//! itself.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

/// `FUSE_DEV_IOC_CLONE`: `_IOR(229, 0, uint32_t)` of `linux/fuse.h`.
const CLONE: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(229, 0);
/// `FUSE_DEV_IOC_BACKING_OPEN`: `_IOW(229, 1, struct fuse_backing_map)`.
const BACKING_OPEN: rustix::ioctl::Opcode = rustix::ioctl::opcode::write::<BackingMap>(229, 1);
/// `FUSE_DEV_IOC_BACKING_CLOSE`: `_IOW(229, 2, uint32_t)`.
const BACKING_CLOSE: rustix::ioctl::Opcode = rustix::ioctl::opcode::write::<u32>(229, 2);

/// `struct fuse_backing_map`.
#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

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

/// Lets the kernel read and write a regular file in place of one of the connection's; the number is what an answer to
/// an open request then names (Linux 6.9).
///
/// # Errors
/// The connection has not agreed to that, this process has no `CAP_SYS_ADMIN` in the initial user namespace, or the
/// file lies on a file system that is itself stacked on another.
pub fn open_backing(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<u32> {
    let map = BackingMap { fd: file.as_raw_fd(), flags: 0, padding: 0 };
    // SAFETY: the operation reads one `fuse_backing_map` behind the pointer, which outlives the call and names a
    // borrowed descriptor; the kernel takes its own reference to the file.
    Ok(unsafe { rustix::ioctl::ioctl(device, Numbered::<BACKING_OPEN, BackingMap>(map)) }?)
}

/// Gives up the number; what is open through it stays open.
///
/// # Errors
/// There is no such number, or the connection is gone and all of them with it.
pub fn close_backing(device: BorrowedFd<'_>, backing: u32) -> io::Result<()> {
    // SAFETY: the operation reads one u32 behind the pointer, which outlives the call.
    unsafe {
        let operation = rustix::ioctl::Setter::<BACKING_CLOSE, u32>::new(backing);
        Ok(rustix::ioctl::ioctl(device, operation)?)
    }
}

/// An operation that reads a `T` and answers with a number.
struct Numbered<const OPCODE: rustix::ioctl::Opcode, T>(T);

// SAFETY: the pointer leads to a `T` inside of the value that is borrowed for the call, the opcode is one that reads a
// `T` of this size and writes nothing behind the pointer.
unsafe impl<const OPCODE: rustix::ioctl::Opcode, T> rustix::ioctl::Ioctl for Numbered<OPCODE, T> {
    type Output = u32;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> rustix::ioctl::Opcode {
        OPCODE
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        (&raw mut self.0).cast()
    }

    unsafe fn output_from_ptr(output: rustix::ioctl::IoctlOutput, _: *mut std::ffi::c_void) -> rustix::io::Result<u32> {
        Ok(output.cast_unsigned())
    }
}
