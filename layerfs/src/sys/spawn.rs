//! Entering a user namespace, and a helper program that waits for its parent to do so before it starts.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use rustix::process::Pid;

/// Forks a child that blocks until `ready` is closed by its writer, then executes `program`. The child keeps the
/// parent's namespaces of this moment, which is the point: it acts on a parent that has entered others meanwhile.
/// The parent must close the writing end of `ready`'s pipe to let it go, and wait for it.
///
/// # Errors
/// `fork(2)` failed. A failing `execve(2)` shows as exit status 127.
pub fn fork_waiting(ready: &OwnedFd, writer: &OwnedFd, program: &CStr, arguments: &[CString]) -> io::Result<Pid> {
    let mut argv: Vec<*const libc::c_char> = arguments.iter().map(|argument| argument.as_ptr()).collect();
    argv.push(ptr::null());
    let environment: [*const libc::c_char; 1] = [ptr::null()];
    let (ready, writer) = (ready.as_raw_fd(), writer.as_raw_fd());
    // SAFETY: the child calls nothing but close, read, execve and _exit, which are async-signal-safe; all memory it
    // reads was allocated before the fork.
    unsafe {
        match libc::fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                libc::close(writer);
                let mut byte = 0u8;
                libc::read(ready, ptr::from_mut(&mut byte).cast(), 1);
                libc::execve(program.as_ptr(), argv.as_ptr(), environment.as_ptr());
                libc::_exit(127)
            }
            child => Ok(Pid::from_raw(child).expect("fork returned a positive number")),
        }
    }
}

/// Moves this process into a new user namespace and a new mount namespace.
///
/// # Errors
/// Those of `unshare(2)`; `EINVAL` in a process with more than one thread.
pub fn unshare_user_and_mounts() -> io::Result<()> {
    // SAFETY: no memory is involved, and the kernel refuses CLONE_NEWUSER to a threaded process, so no other thread
    // can be left behind in the old namespaces.
    match unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
