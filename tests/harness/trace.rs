//! A program under a tracer that sees each of its changes to a folder before the kernel does, and kills the program
//! there, or answers in the kernel's place.
//!
//! By ptrace(2): every process and thread that the program starts is followed. Points are numbered in the order in
//! which they come, whoever makes them; a program of several threads may order them differently each time, but a walk
//! over all numbers is a walk over all points of such orders.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::call::Running;
use super::{Actor, Report};

/// Nothing that is traced here takes longer; what does hangs.
const DEADLINE: Duration = Duration::from_secs(120);
/// `PTRACE_SYSCALL_INFO_ENTRY` of ptrace(2).
const ENTRY: u8 = 1;

/// What happens at the points of a program. Points are numbered from 0.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// Nothing: they are only noted.
    Watch,
    /// The process that comes to this one is killed before it happens; the others go on.
    KillAt(usize),
    /// This one fails.
    FailAt(usize, Errno),
    /// This one and all after it that need space, or that write, fail: a disk that is full, or broken, stays so.
    FailFrom(usize, Errno),
    /// Syncs are answered as if they had been done.
    NoSync,
}

/// One change of the folder.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    /// The system call.
    pub(crate) call: &'static str,
    /// What it changes, below the folder.
    pub(crate) path: String,
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.call, self.path)
    }
}

/// How a traced program ended, and what it did.
pub(crate) struct Traced {
    pub(crate) report: Report,
    pub(crate) points: Vec<Point>,
    /// The point at which it was killed or something failed first.
    pub(crate) struck: Option<Point>,
}

/// Runs a program as this party to the end of everything it started. Points are changes below `folder`.
pub(crate) fn trace(actor: &Actor, folder: &Path, line: &[String], act: Act) -> Traced {
    // A thread that has no other children waits for all of its own.
    thread::scope(|scope| {
        let traced = scope.spawn(|| trace_here(actor, folder, line, act)).join();
        traced.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn trace_here(actor: &Actor, folder: &Path, line: &[String], act: Act) -> Traced {
    // It stops itself, so that it can be taken hold of before it does anything.
    let running = actor.shell("kill -STOP $$; exec \"$@\"").arg("traced").args(line).start();
    let program = Pid::from_raw(running.pid().as_raw_nonzero().get());
    let flags = WaitPidFlag::WUNTRACED | WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    assert!(matches!(waitpid(program, Some(flags)), Ok(WaitStatus::Stopped(..))), "a shell that stops itself");
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(program, options).expect("root may trace what it started");
    kill(program, Signal::SIGCONT).expect("our child is there");
    let (done, watchdog) = mpsc::channel::<()>();
    let watch = thread::spawn(move || {
        if watchdog.recv_timeout(DEADLINE) == Err(mpsc::RecvTimeoutError::Timeout) {
            let _already_gone = nix::sys::signal::killpg(program, Signal::SIGKILL);
        }
    });
    let mut tracer =
        Tracer { folder, act, program, code: None, points: Vec::new(), struck: None, answers: HashMap::new() };
    tracer.follow();
    drop(done);
    watch.join().expect("the watchdog does not panic");
    let code = tracer.code.expect("the program ended");
    Traced { report: Running::reaped(running, code), points: tracer.points, struck: tracer.struck }
}

struct Tracer<'a> {
    folder: &'a Path,
    act: Act,
    program: Pid,
    code: Option<i32>,
    points: Vec<Point>,
    struck: Option<Point>,
    /// What a thread will read as the result of the call it is in.
    answers: HashMap<Pid, i64>,
}

impl Tracer<'_> {
    /// Until nothing that is traced is left.
    fn follow(&mut self) {
        // Of this thread only: other tests have children too.
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            let resumed = match waitpid(None, Some(flags)) {
                Err(Errno::ECHILD) => return,
                Err(Errno::EINTR) => continue,
                Err(error) => panic!("wait for what is traced: {error}"),
                Ok(WaitStatus::Exited(pid, code)) => {
                    self.ended(pid, code);
                    continue;
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    self.ended(pid, 128 + signal as i32);
                    continue;
                }
                Ok(WaitStatus::PtraceSyscall(pid)) => {
                    self.system_call(pid);
                    ptrace::syscall(pid, None)
                }
                Ok(WaitStatus::Stopped(pid, signal)) => ptrace::syscall(pid, Some(signal)),
                Ok(WaitStatus::PtraceEvent(pid, ..)) => ptrace::syscall(pid, None),
                Ok(_) => continue,
            };
            // One that was killed meanwhile cannot be resumed; its end comes next.
            assert!(matches!(resumed, Ok(()) | Err(Errno::ESRCH)), "resume what is traced: {resumed:?}");
        }
    }

    fn ended(&mut self, pid: Pid, code: i32) {
        self.answers.remove(&pid);
        if pid == self.program {
            self.code = Some(code);
        }
    }

    fn system_call(&mut self, pid: Pid) {
        // Any of these fails only for one that was killed meanwhile.
        let Ok(info) = ptrace::syscall_info(pid) else { return };
        let Ok(mut registers) = ptrace::getregs(pid) else { return };
        if info.op != ENTRY {
            if let Some(answer) = self.answers.remove(&pid) {
                registers.rax = answer as u64;
                let _killed_meanwhile = ptrace::setregs(pid, registers);
            }
            return;
        }
        let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
        let Some(call) = CALLS.iter().find(|call| call.number == registers.orig_rax) else { return };
        let Some(path) = target(pid, call, &arguments) else { return };
        let Ok(path) = path.strip_prefix(self.folder) else { return };
        let number = self.points.len();
        let point = Point { call: call.name, path: path.display().to_string() };
        let answer = match self.act {
            Act::KillAt(at) if at == number => {
                self.struck = Some(point.clone());
                let _killed_meanwhile = kill(process_of(pid), Signal::SIGKILL);
                None
            }
            Act::FailAt(at, errno) if at == number => Some(-(errno as i64)),
            Act::FailFrom(at, errno) if at <= number && call.needs_the_disk => Some(-(errno as i64)),
            Act::NoSync if call.name.contains("sync") => Some(0),
            _ => None,
        };
        if let Some(answer) = answer {
            self.struck.get_or_insert(point.clone());
            self.answers.insert(pid, answer);
            // No such call: the kernel does nothing.
            registers.orig_rax = u64::MAX;
            let _killed_meanwhile = ptrace::setregs(pid, registers);
        }
        self.points.push(point);
    }
}

/// A system call that changes files.
struct Change {
    name: &'static str,
    number: u64,
    object: Object,
    /// It takes room, or has to reach the disk.
    needs_the_disk: bool,
}

/// Which arguments say what is changed.
#[derive(Clone, Copy)]
enum Object {
    /// A descriptor.
    Fd(usize),
    /// A path.
    Path(usize),
    /// A path from a folder's descriptor.
    At(usize, usize),
    /// The same, and the flags of an opening that is a change only if it creates or truncates.
    Open(usize, usize, usize),
    /// The same, the flags in memory.
    OpenHow(usize, usize, usize),
}

const fn spends(name: &'static str, number: i64, object: Object) -> Change {
    Change { name, number: number as u64, object, needs_the_disk: true }
}

const fn spares(name: &'static str, number: i64, object: Object) -> Change {
    Change { name, number: number as u64, object, needs_the_disk: false }
}

use Object::{At, Fd, Open, OpenHow};
use nix::libc;

const CALLS: &[Change] = &[
    spends("write", libc::SYS_write, Fd(0)),
    spends("pwrite64", libc::SYS_pwrite64, Fd(0)),
    spends("writev", libc::SYS_writev, Fd(0)),
    spends("pwritev", libc::SYS_pwritev, Fd(0)),
    spends("pwritev2", libc::SYS_pwritev2, Fd(0)),
    spends("sendfile", libc::SYS_sendfile, Fd(0)),
    spends("copy_file_range", libc::SYS_copy_file_range, Fd(2)),
    spends("splice", libc::SYS_splice, Fd(2)),
    spends("fallocate", libc::SYS_fallocate, Fd(0)),
    spends("ftruncate", libc::SYS_ftruncate, Fd(0)),
    spends("fsync", libc::SYS_fsync, Fd(0)),
    spends("fdatasync", libc::SYS_fdatasync, Fd(0)),
    spends("syncfs", libc::SYS_syncfs, Fd(0)),
    spends("open", libc::SYS_open, Open(usize::MAX, 0, 1)),
    spends("openat", libc::SYS_openat, Open(0, 1, 2)),
    spends("openat2", libc::SYS_openat2, OpenHow(0, 1, 2)),
    spends("mkdir", libc::SYS_mkdir, Object::Path(0)),
    spends("mkdirat", libc::SYS_mkdirat, At(0, 1)),
    spends("rename", libc::SYS_rename, Object::Path(1)),
    spends("renameat", libc::SYS_renameat, At(2, 3)),
    spends("renameat2", libc::SYS_renameat2, At(2, 3)),
    spends("link", libc::SYS_link, Object::Path(1)),
    spends("linkat", libc::SYS_linkat, At(2, 3)),
    spends("symlink", libc::SYS_symlink, Object::Path(1)),
    spends("symlinkat", libc::SYS_symlinkat, At(1, 2)),
    spends("mknod", libc::SYS_mknod, Object::Path(0)),
    spends("mknodat", libc::SYS_mknodat, At(0, 1)),
    spares("unlink", libc::SYS_unlink, Object::Path(0)),
    spares("unlinkat", libc::SYS_unlinkat, At(0, 1)),
    spares("rmdir", libc::SYS_rmdir, Object::Path(0)),
    spares("chmod", libc::SYS_chmod, Object::Path(0)),
    spares("fchmod", libc::SYS_fchmod, Fd(0)),
    spares("fchmodat", libc::SYS_fchmodat, At(0, 1)),
    spares("chown", libc::SYS_chown, Object::Path(0)),
    spares("lchown", libc::SYS_lchown, Object::Path(0)),
    spares("fchown", libc::SYS_fchown, Fd(0)),
    spares("fchownat", libc::SYS_fchownat, At(0, 1)),
    spares("utimensat", libc::SYS_utimensat, At(0, 1)),
    spends("setxattr", libc::SYS_setxattr, Object::Path(0)),
    spends("lsetxattr", libc::SYS_lsetxattr, Object::Path(0)),
    spends("fsetxattr", libc::SYS_fsetxattr, Fd(0)),
    spares("removexattr", libc::SYS_removexattr, Object::Path(0)),
    spares("lremovexattr", libc::SYS_lremovexattr, Object::Path(0)),
];

/// The file that a call is about to change; none where it only looks, or where the process is gone.
fn target(pid: Pid, call: &Change, arguments: &[u64; 6]) -> Option<PathBuf> {
    let changes = |flags: u64| flags as i32 & (libc::O_CREAT | libc::O_TRUNC) != 0;
    match call.object {
        Fd(fd) => opened(pid, arguments[fd]),
        Object::Path(path) => named(pid, None, arguments[path]),
        At(folder, path) => named(pid, Some(arguments[folder]), arguments[path]),
        Open(folder, path, flags) => {
            changes(arguments[flags]).then(|| named(pid, arguments.get(folder).copied(), arguments[path]))?
        }
        OpenHow(folder, path, how) => {
            let flags = u64::from_ne_bytes(memory(pid, arguments[how], 8)?.try_into().ok()?);
            changes(flags).then(|| named(pid, Some(arguments[folder]), arguments[path]))?
        }
    }
}

fn opened(pid: Pid, fd: u64) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/fd/{}", fd as i32)).ok()
}

fn named(pid: Pid, folder: Option<u64>, address: u64) -> Option<PathBuf> {
    let folder = || match folder.map(|fd| fd as i32) {
        None | Some(libc::AT_FDCWD) => fs::read_link(format!("/proc/{pid}/cwd")).ok(),
        Some(fd) => opened(pid, fd as u64),
    };
    if address == 0 {
        return folder();
    }
    let mut bytes = memory(pid, address, 4096)?;
    bytes.truncate(bytes.iter().position(|byte| *byte == 0)?);
    let path = PathBuf::from(String::from_utf8_lossy(&bytes).into_owned());
    if let Ok(rest) = path.strip_prefix("/proc/self/fd") {
        let mut parts = rest.components();
        let link = opened(pid, parts.next()?.as_os_str().to_str()?.parse().ok()?)?;
        return Some(link.join(parts.as_path()));
    }
    Some(if path.is_absolute() { path } else { folder()?.join(path) })
}

/// Up to this many bytes at an address: fewer where the memory ends before.
fn memory(pid: Pid, address: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    let file = fs::File::open(format!("/proc/{pid}/mem")).ok()?;
    let to_page_end = 4096 - (address % 4096) as usize;
    let first = to_page_end.min(length);
    let mut read = file.read_at(&mut bytes[..first], address).ok()?;
    if read == first && first < length {
        read += file.read_at(&mut bytes[first..], address + first as u64).unwrap_or(0);
    }
    bytes.truncate(read);
    Some(bytes)
}

/// The process of a thread.
fn process_of(thread: Pid) -> Pid {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    line.and_then(|id| id.trim().parse().ok()).map_or(thread, Pid::from_raw)
}
