//! `layerfs-fuse`: the union that layerfs serves itself, behind the command line of fuse-overlayfs, so that engines
//! that call one can call the other.
//!
//! The mount is made and attached first, then the process goes to the background and answers. It ends when the mount
//! does. `SIGTERM` detaches the mount; what is open goes on until it is closed.

pub(crate) mod fusermount;
mod options;

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::fuse::{Connection, ServeOptions, Server, connect};
use layerfs::sys::mount::{MountAttributes, set_attributes};
use layerfs::sys::process::{CloneOptions, clone_child, place_stdio};
use layerfs::sys::signals::Signals;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::mount::{UnmountFlags, unmount};

use crate::launch::channel::send_packet;
use options::{Command, Words};

/// Whether a program was started under the server's name.
pub fn is_called(words: &[OsString]) -> bool {
    words.first().is_some_and(|name| Path::new(name).file_name().is_some_and(|name| name == layerfs::fuse::NAME))
}

/// Runs the program and gives its exit code.
pub fn main(words: &[OsString]) -> i32 {
    let done = options::parse(words).and_then(|words| match words {
        Words::Serve(command) => serve(*command),
        Words::Help => say(HELP),
        Words::Version => say(concat!("layerfs-fuse ", env!("CARGO_PKG_VERSION"), "\n")),
    });
    match done {
        Ok(()) => 0,
        Err(error) => {
            let hint = error.advice().map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
            let _ = write!(std::io::stderr(), "layerfs-fuse: {}\n{hint}", error.chain());
            1
        }
    }
}

const HELP: &str = "layerfs-fuse: a union of folders, served through /dev/fuse\n\n\
    Usage: layerfs-fuse [-f] -o OPTION[,OPTION…] FOLDER\n\n\
    Options:\n\
    \x20 lowerdir=A[:B…]        read-only folders, topmost first\n\
    \x20 upperdir=C,workdir=D   where changes go, and a folder beside it to prepare them in\n\
    \x20 volatile               skip syncs\n\
    \x20 redirect_dir=on|off    folders of lower layers can be renamed (off)\n\
    \x20 uidmapping=S:D:N[…]    user ids: N from S on are those from D on, on disk\n\
    \x20 gidmapping=S:D:N[…]    the same of groups\n\
    \x20 squash_to_root, squash_to_uid=N, squash_to_gid=N\n\
    \x20                        all files seem to belong to one\n\
    \x20 timeout=N              seconds that the kernel may believe an answer (for ever)\n\
    \x20 ino32_t                inode numbers fit into 32 bits\n\
    \x20 passthrough=0|1        the kernel reads and writes files itself, where it does that for root (1)\n\
    \x20 writeback=0|1          the kernel gathers small writes (0)\n\
    \x20 context=LABEL          the SELinux label of every file\n\
    \x20 noacl                  access control lists mean nothing\n\
    \x20 threaded=0             answer with one thread\n\
    \x20 ro, nodev, nosuid, noexec, noatime\n\
    \x20                        as everywhere\n\n\
    -f stays in the foreground.\n";

fn say(text: &str) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context(|| "write to standard output")
}

/// Where the mount was attached, to be found again.
struct Attached {
    path: PathBuf,
    id: u64,
}

fn serve(command: Command) -> Result<()> {
    let Command { union, serve, mount, attributes, target, foreground } = command;
    let server = Server::open(union)?;
    let (device, attached) = match &target {
        Some(target) => attach(&mount, attributes, target)?,
        None => (hand_over(&mount, attributes)?, None),
    };
    if foreground {
        return answer(&server, device, &serve, attached.as_ref());
    }
    // The child goes on; what this process says next is that all went well.
    let body = move || {
        let served = leave_caller().and_then(|()| answer(&server, device, &serve, attached.as_ref()));
        i32::from(served.is_err())
    };
    clone_child(&CloneOptions::default(), body).context(|| "go to the background").map(drop)
}

/// Lets go of the terminal, the session and the folder.
pub(crate) fn leave_caller() -> Result<()> {
    rustix::process::setsid().context(|| "leave the session")?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).at("open", "/dev/null")?;
    place_stdio([null.as_fd(); 3]).context(|| "let go of the terminal")?;
    rustix::process::chdir("/").context(|| "leave the folder")
}

/// Makes the mount and attaches it: by descriptor where this process may, otherwise through the helper that is there
/// for those who may not.
fn attach(mount: &layerfs::fuse::MountOptions, attributes: u64, target: &Path) -> Result<(OwnedFd, Option<Attached>)> {
    match connect(mount) {
        Ok(Connection { device, mount }) => {
            set(mount.as_fd(), attributes)?;
            layerfs::mount::attach(mount.as_fd(), target)?;
            let id = mount_id(mount.as_fd())?;
            // The server leaves the folder it was started in.
            let path = std::path::absolute(target).at("find", target)?;
            Ok((device, Some(Attached { path, id })))
        }
        Err(error) if error.errno() == Some(rustix::io::Errno::PERM.raw_os_error()) => {
            Ok((fusermount::mount(mount, attributes, target).map_err(|helper| error.because(helper))?, None))
        }
        Err(error) => Err(error),
    }
}

/// Makes the mount and sends it to the program at the other end of standard input.
fn hand_over(mount: &layerfs::fuse::MountOptions, attributes: u64) -> Result<OwnedFd> {
    let Connection { device, mount } = connect(mount)?;
    set(mount.as_fd(), attributes)?;
    send_packet(std::io::stdin().as_fd(), b"m", &[mount.as_fd()]).context(|| "hand the mount over")?;
    Ok(device)
}

fn set(mount: BorrowedFd<'_>, set: u64) -> Result<()> {
    /// `MOUNT_ATTR_NOATIME` and `MOUNT_ATTR__ATIME`: the times of access are one choice, cleared to be made anew.
    const NOATIME: u64 = 0x10;
    const CHOICE: u64 = 0x70;
    let clear = if set & NOATIME != 0 { CHOICE } else { 0 };
    let attributes = MountAttributes { set, clear, ..MountAttributes::default() };
    set_attributes(mount, &attributes, false).context(|| "set the flags of the mount")
}

fn mount_id(mount: BorrowedFd<'_>) -> Result<u64> {
    // With AT_STATX_DONT_SYNC nobody is asked: there is nobody to answer yet.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(mount, "", flags, StatxFlags::MNT_ID).context(|| "look at the mount")?;
    Ok(stat.stx_mnt_id)
}

fn answer(server: &Server, device: OwnedFd, options: &ServeOptions, attached: Option<&Attached>) -> Result<()> {
    let signals = Signals::block().context(|| "read signals from a descriptor")?;
    let (stop, stopped) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context(|| "make a pipe")?;
    std::thread::scope(|scope| {
        scope.spawn(|| heed(&signals, stop.as_fd(), attached));
        let served = server.serve(device, options);
        drop(stopped);
        served
    })
}

/// `SIGTERM`, `SIGINT` and `SIGHUP` detach the mount; requests are answered until the last user is gone. Where the mount
/// is somebody else's to detach they mean nothing.
fn heed(signals: &Signals, stop: BorrowedFd<'_>, attached: Option<&Attached>) {
    const ASKED: [i32; 3] = [1, 2, 15];
    loop {
        let mut fds = [PollFd::new(signals, PollFlags::IN), PollFd::from_borrowed_fd(stop, PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) if fds[1].revents().is_empty() => {}
            Err(rustix::io::Errno::INTR) => continue,
            _ => return,
        }
        while let Ok(Some(signal)) = signals.next() {
            if let (true, Some(attached)) = (ASKED.contains(&signal), attached) {
                let _ = detach(attached);
            }
        }
    }
}

/// Detaches the very mount that was attached: another one that lies at the path by now is none of ours.
fn detach(attached: &Attached) -> Result<()> {
    let top = rustix::fs::openat(CWD, &attached.path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .at("open", &attached.path)?;
    if mount_id(top.as_fd())? != attached.id {
        return Err(Error::new(Kind::Conflict, "another file system is mounted there"));
    }
    // The descriptor holds on to that mount, so nothing can come between.
    let path = format!("/proc/self/fd/{}", top.as_raw_fd());
    unmount(path.as_str(), UnmountFlags::DETACH).at("detach", &attached.path)
}
