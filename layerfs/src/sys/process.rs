//! Starting processes by `clone3(2)` and becoming another program.

use std::ffi::{CString, c_char, c_int, c_uint};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use rustix::fs::CWD;

/// Bit 33, which `clone3(2)` alone can take (Linux 5.7); libc's constant is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// `struct clone_args` of `linux/sched.h`, as of Linux 5.7 (`CLONE_INTO_CGROUP`).
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// What a new process gets that its parent does not have.
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneOptions<'a> {
    /// `CLONE_NEW*` flags.
    pub namespaces: u64,
    /// A folder of the cgroup v2 file system to be born in. A folder of v1 is `EBADF`.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The child's parent is the caller's parent, which then reaps it.
    pub sibling: bool,
}

/// A process that [`clone_child`] started.
#[derive(Debug)]
pub struct Child {
    /// Its number in the caller's pid namespace.
    pub pid: i32,
    /// Its descriptor, valid whatever becomes of the number.
    pub pidfd: OwnedFd,
}

/// Whether this process has more than one thread; no, where `/proc` cannot tell.
pub fn has_threads() -> bool {
    // A folder's link count is 2 plus the folders in it: one stat instead of a listing.
    rustix::fs::stat("/proc/self/task").is_ok_and(|stat| stat.st_nlink > 3)
}

/// Starts a child with a copy of this process's memory, which runs `child` and exits with what it returns.
///
/// The child may do anything a single-threaded program may do, memory allocation included. That is only true of a
/// parent without other threads, so another thread is an error (`EDEADLK`).
///
/// # Errors
/// Those of `clone3(2)`.
pub fn clone_child(options: &CloneOptions<'_>, child: impl FnOnce() -> i32) -> io::Result<Child> {
    clone_with(options, 0, child)
}

/// Starts a child that shares this process's table of descriptors: what either opens from then on, the other has too.
/// `body` is a plain function and its argument is `Copy`, so the child owns no descriptor that it could close.
///
/// # Errors
/// Those of [`clone_child`].
pub fn clone_watcher<T: Copy>(argument: T, body: fn(T) -> i32) -> io::Result<Child> {
    clone_with(&CloneOptions::default(), libc::CLONE_FILES as u64, move || body(argument))
}

fn clone_with(options: &CloneOptions<'_>, more: u64, child: impl FnOnce() -> i32) -> io::Result<Child> {
    if has_threads() {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    let mut pidfd: RawFd = -1;
    let mut flags = options.namespaces | more | libc::CLONE_PIDFD as u64;
    // CLONE_PARENT hands over the parent's own exit signal, and the kernel refuses another one beside it.
    let mut exit_signal = libc::SIGCHLD as u64;
    if options.sibling {
        flags |= libc::CLONE_PARENT as u64;
        exit_signal = 0;
    }
    if options.cgroup.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    let arguments = CloneArguments {
        flags,
        pidfd: ptr::from_mut(&mut pidfd) as u64,
        exit_signal,
        cgroup: options.cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
        ..CloneArguments::default()
    };
    // SAFETY: no CLONE_VM and no stack are passed, so the child goes on with its own copy of all memory, like fork.
    // This process has one thread (checked above): no lock can be held by a thread that the child lacks. The pidfd
    // pointer is to a live local of the size the kernel writes.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, ptr::from_ref(&arguments), size_of::<CloneArguments>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => exit_with(child),
        pid => Ok(Child {
            pid: i32::try_from(pid).expect("a pid is an i32"),
            // SAFETY: clone3 succeeded with CLONE_PIDFD, so it stored a new descriptor that nobody else owns.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// Starts a child that has no descriptor but 0, 1, 2 and `only`, and runs `body` with that one. Descriptors that this
/// process holds, locks among them, are not kept alive by the child.
///
/// # Errors
/// Those of [`clone_child`].
pub fn clone_server(only: OwnedFd, body: fn(OwnedFd) -> i32) -> io::Result<Child> {
    clone_child(&CloneOptions::default(), move || {
        let only = only.into_raw_fd();
        // SAFETY: `body` is a plain function, so nothing it runs can own one of the descriptors that are closed here;
        // the owners in this copy of the parent's memory are never used again, as the child ends by _exit. `only`
        // lies outside the closed ranges and was given up by its owner above.
        let only = unsafe {
            let first = c_uint::try_from(only).unwrap_or(3);
            if first > 3 {
                libc::syscall(libc::SYS_close_range, 3, first - 1, 0);
            }
            libc::syscall(libc::SYS_close_range, first.max(2) + 1, c_uint::MAX, 0);
            OwnedFd::from_raw_fd(only)
        };
        body(only)
    })
}

/// Runs `child` and ends the process: no destructor, exit handler or buffer of the parent's copy may run twice.
fn exit_with(child: impl FnOnce() -> i32) -> ! {
    /// `EX_SOFTWARE` of `sysexits.h`: a bug.
    const BUG: i32 = 70;
    let code = catch_unwind(AssertUnwindSafe(child)).unwrap_or(BUG);
    // SAFETY: _exit takes any number and touches no memory.
    unsafe { libc::_exit(code) }
}

/// Leaves the namespaces of `flags` (`CLONE_NEW*`) for new ones.
///
/// # Errors
/// Those of `unshare(2)`.
pub fn unshare_namespaces(flags: u64) -> io::Result<()> {
    /// What would give threads of one process different descriptors or folders is not a namespace.
    const ALL: i32 = libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWTIME;
    let flags = c_int::try_from(flags).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))? & ALL;
    // SAFETY: namespace flags touch no memory, and CLONE_FILES and CLONE_FS are masked out, so no descriptor that
    // another owner relies on changes its meaning.
    match unsafe { libc::unshare(flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Replaces this process by a program. Returns only on failure.
pub fn execute(program: &CString, arguments: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end with a null pointer, and they and all strings live until execve returns or does not.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// Replaces this process by the program that an open file holds. Returns only on failure.
pub fn execute_file(program: BorrowedFd<'_>, arguments: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end with a null pointer, the path is a NUL-terminated constant, and all of them live until
    // execveat returns or does not.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}

/// Marks every descriptor from `first` on to be closed by `execve(2)` (Linux 5.11).
///
/// # Errors
/// Those of `close_range(2)`.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: marking descriptors close-on-exec closes none of them, so no owner is left with a stale one.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Closes what this process was given by whoever executed it, from descriptor `first` on. Those are known by not being
/// close-on-exec, which every descriptor of its own is.
///
/// # Errors
/// `/proc/self/fd` cannot be read.
pub fn close_inherited(first: RawFd) -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")?.flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else { continue };
        // SAFETY: asking for a descriptor's flags changes nothing, and closing one that nobody in this process owns
        // leaves no stale owner: what is owned here was opened close-on-exec.
        unsafe {
            if number >= first && libc::fcntl(number, libc::F_GETFD) == 0 {
                libc::close(number);
            }
        }
    }
    Ok(())
}

/// Lets the descriptors from `first` up to but not including `end` survive `execve(2)`. Numbers that are not open
/// are passed over.
pub fn keep_on_exec(first: RawFd, end: RawFd) {
    for fd in first..end {
        // SAFETY: F_SETFD changes a flag of a number in this process's table and closes nothing; a number that is
        // not open is EBADF.
        unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
    }
}

/// Puts three descriptors at 0, 1 and 2.
///
/// # Errors
/// Those of `dup2(2)`.
pub fn place_stdio(streams: [BorrowedFd<'_>; 3]) -> io::Result<()> {
    // A stream that lies below 3 now would be overwritten by an earlier placement, so all are lifted first.
    let lift = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3);
    let [input, output, error] = streams;
    let (input, output, error) = (lift(input)?, lift(output)?, lift(error)?);
    rustix::stdio::dup2_stdin(input)?;
    rustix::stdio::dup2_stdout(output)?;
    rustix::stdio::dup2_stderr(error)?;
    Ok(())
}

/// Gives every signal its default action and blocks none: what a new program expects, and what Rust's runtime, which
/// ignores `SIGPIPE`, does not leave behind.
pub fn reset_signals() {
    // By the system call itself: the C library keeps its hands on signals 32 and 33, which a caller may have ignored.
    // The kernel's structure is a handler, flags, maybe a restorer, and a mask of 8 bytes: at most 32 bytes, all zero.
    let default = [0u64; 4];
    // SAFETY: the zeroed structures are valid: SIG_DFL is 0 and an empty set is all zeros. No handler is installed,
    // and no memory is kept by the kernel. Signals that cannot be changed are EINVAL, which is right to pass over.
    unsafe {
        for signal in 1..=libc::SIGRTMAX() {
            let no_old = ptr::null_mut::<u64>();
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), no_old, size_of::<u64>());
        }
        let none: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_SETMASK, ptr::from_ref(&none), ptr::null_mut());
    }
}

/// The number of the process behind a pidfd in this process's pid namespace; `None` once it is reaped, or where it
/// has none here.
///
/// # Errors
/// `/proc` is not there.
pub fn pid_of(pidfd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).and_then(|pid| pid.trim().parse().ok());
    Ok(pid.filter(|pid: &i32| *pid > 0))
}

/// Sends a signal by its number (`pidfd_send_signal(2)`); rustix takes the named ones alone.
///
/// # Errors
/// `ESRCH` once the process is reaped or a zombie, `EINVAL` for a number that is no signal.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let none: *const libc::siginfo_t = ptr::null();
    // SAFETY: no siginfo is passed, so no memory is read.
    match unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Opens a namespace file, to be entered later.
///
/// # Errors
/// Those of `open(2)`.
pub fn open_namespace(path: &std::path::Path) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    Ok(rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threaded_process_does_not_clone() {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || wait.recv());
        let error = clone_child(&CloneOptions::default(), || 0).expect_err("a second thread runs");
        assert_eq!(error.raw_os_error(), Some(libc::EDEADLK));
        drop(done);
        assert!(other.join().is_ok());
    }

    #[test]
    fn a_pidfd_knows_its_process() {
        let own = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
        let own = own.expect("this process exists");
        let pid = pid_of(std::os::fd::AsFd::as_fd(&own)).expect("/proc is mounted");
        assert_eq!(pid, i32::try_from(std::process::id()).ok());
    }
}
