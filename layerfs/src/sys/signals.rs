//! Signals read like a file, and children that end with their parent.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

use super::process::reset_signals;

/// Signals that a fault of this process raises: blocking them would turn a crash into a hang.
const FAULTS: [i32; 7] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGABRT, libc::SIGSYS];

/// All signals of this process, blocked and read from a descriptor instead: `poll` then waits for them beside all
/// else, and none can interrupt a step half-way. `SIGKILL`, `SIGSTOP` and faults stay as they are.
///
/// They stay blocked when this is dropped. A child inherits that, so it must call [`reset_signals`] before `execve`.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks them and opens the descriptor, which does not block.
    ///
    /// # Errors
    /// Those of `signalfd(2)`.
    pub fn block() -> io::Result<Self> {
        // SAFETY: the set is initialised by sigfillset before anything reads it; the kernel keeps no pointer to it.
        let fd = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(ptr::from_mut(&mut set));
            for fault in FAULTS {
                libc::sigdelset(ptr::from_mut(&mut set), fault);
            }
            libc::sigprocmask(libc::SIG_BLOCK, ptr::from_ref(&set), ptr::null_mut());
            libc::signalfd(-1, ptr::from_ref(&set), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: signalfd returned a new descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next signal's number; `None` where none is waiting.
    ///
    /// # Errors
    /// Those of `read(2)`.
    pub fn next(&self) -> io::Result<Option<i32>> {
        const SIZE: usize = size_of::<libc::signalfd_siginfo>();
        let mut buffer = [0u8; SIZE];
        match rustix::io::read(self.0.as_fd(), &mut buffer) {
            Ok(SIZE) => {
                let number: [u8; 4] = buffer[..4].try_into().expect("four bytes are four bytes");
                Ok(Some(i32::from_ne_bytes(number)))
            }
            Ok(_) => Ok(None),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Lets a command's process die with this one (`PR_SET_PDEATHSIG`), whatever ends it, and start with usual signals.
/// The tie is to the thread that spawns: where there are several, one that lives as long as the command has to do it.
pub fn tie_to_parent(command: &mut Command) {
    let parent = std::process::id();
    let tie = move || {
        reset_signals();
        // SAFETY: prctl with these arguments touches no memory.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // It may have died before the line above; then nobody sends the signal.
        match rustix::process::getppid() {
            Some(now) if now.as_raw_nonzero().get().cast_unsigned() == parent => Ok(()),
            _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        }
    };
    // SAFETY: the closure runs between fork and exec and only makes system calls: it allocates nothing and takes no lock.
    unsafe { command.pre_exec(tie) };
}

/// Sends a signal by number, real-time ones included, to the process behind a pidfd.
///
/// # Errors
/// Those of `pidfd_send_signal(2)`: `ESRCH` once the process is gone.
pub fn send(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let none = ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed and means what kill(2) sends; no memory is involved.
    match unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tied_command_starts_and_a_pidfd_takes_signals() {
        let mut command = Command::new("sleep");
        command.arg("60");
        tie_to_parent(&mut command);
        let mut child = command.spawn().expect("sleep starts");
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).expect("it lives");
        send(pidfd.as_fd(), libc::SIGRTMIN()).expect("it takes the signal");
        let status = child.wait().expect("it ends");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGRTMIN()));
        assert_eq!(send(pidfd.as_fd(), 0).expect_err("it is gone").raw_os_error(), Some(libc::ESRCH));
    }
}
