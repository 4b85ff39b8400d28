//! The process that holds a container between `create` and `start`.

use std::fs;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::process::{CloneOptions, clone_child};
use rustix::event::{PollFd, PollFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pipe::{PipeFlags, pipe_with};

use super::bundle::Bundle;
use super::instances::{Instance, Instances};
use super::{Create, write_pid};
use crate::failure;
use crate::launch::{Created, Io, Stdio};
use crate::session::null;

/// Makes a container and leaves a holder with it.
pub(super) fn create(instances: &Instances, bundle: Bundle, create: &Create) -> Result<()> {
    if bundle.has_terminal() != create.console_socket.is_some() {
        let message = match bundle.has_terminal() {
            true => "the container wants a terminal, and there is no --console-socket to send it to",
            false => "--console-socket is for a container with a terminal",
        };
        return Err(Error::new(Kind::Usage, message));
    }
    let instance = instances.make(&create.id.id, &bundle)?;
    let made = make(&instance, &bundle, create);
    if made.is_err() {
        let _ = instance.remove();
    }
    made
}

fn make(instance: &Instance, bundle: &Bundle, create: &Create) -> Result<()> {
    let listener = listen(&instance.socket())?;
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).context(|| "make a pipe")?;
    // One fork: its parent ends right after, and whoever reaps here gets the holder and, later, the container.
    let child = clone_child(&CloneOptions::default(), || {
        let made = launch(instance, bundle, create).and_then(|created| {
            // Whoever reads the container's streams must see them end with the container.
            let null = null()?;
            rustix::stdio::dup2_stdin(&null).context(|| "let go of standard input")?;
            rustix::stdio::dup2_stdout(&null).context(|| "let go of standard output")?;
            rustix::stdio::dup2_stderr(&null).context(|| "let go of standard error")?;
            Ok(created)
        });
        match made {
            Ok(created) => {
                let _ = rustix::io::write(&writer, b"ok");
                hold(created, &listener, instance, &writer)
            }
            Err(error) => {
                let _ = rustix::io::write(&writer, &failure::to_bytes(&error));
                1
            }
        }
    });
    let child = child.context(|| "start the process that holds the container")?;
    drop(writer);
    let mut said = [0u8; 64 << 10];
    let count = loop {
        match rustix::io::read(&reader, &mut said) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other.context(|| "read from the process that holds the container")?,
        }
    };
    match &said[..count] {
        b"ok" => Ok(()),
        b"" => Err(Error::new(Kind::System, "the process that holds the container died")),
        bytes => {
            let how = rustix::process::WaitIdOptions::EXITED;
            let _ = rustix::process::waitid(rustix::process::WaitId::PidFd(child.pidfd.as_fd()), how);
            Err(failure::from_bytes(bytes).unwrap_or_else(|| Error::new(Kind::System, "it could not be said why")))
        }
    }
}

fn launch(instance: &Instance, bundle: &Bundle, create: &Create) -> Result<Created> {
    let own = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().context(|| "copy a standard stream");
    let io = match bundle.has_terminal() {
        true => Io::Terminal { size: bundle.terminal_size() },
        false => Io::Stdio(Stdio {
            stdin: own(std::io::stdin().as_fd())?,
            stdout: own(std::io::stdout().as_fd())?,
            stderr: own(std::io::stderr().as_fd())?,
        }),
    };
    let mut created = bundle.launch(io, create.preserve_fds, false)?;
    if let (Some(master), Some(socket)) = (created.take_terminal(), &create.console_socket) {
        send_terminal(socket, &master)?;
    }
    instance.record(created.pid())?;
    write_pid(create, created.pid())?;
    Ok(created)
}

/// Waits for `start`, or for the container to be killed.
fn hold(created: Created, listener: &UnixListener, instance: &Instance, pipe: &OwnedFd) -> i32 {
    let _ = pipe;
    let stream = loop {
        let Ok(process) = created.pidfd() else { return 1 };
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::from_borrowed_fd(process, PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return 1,
            Ok(_) => {}
        }
        if !fds[1].revents().is_empty() {
            return 1;
        }
        if let Ok((stream, _)) = listener.accept() {
            break stream;
        }
    };
    // From here on it is no longer one that was only created.
    let _ = fs::remove_file(instance.socket());
    let answer = match created.start() {
        // Dropped, it goes on.
        Ok(_running) => b"ok".to_vec(),
        Err(error) => failure::to_bytes(&error),
    };
    let _ = (&stream).write_all(&answer);
    0
}

/// Lets a created container's program run.
pub(super) fn start(instance: &Instance) -> Result<()> {
    let status = instance.status();
    if status != "created" {
        return Err(Error::new(
            Kind::Conflict,
            format!("container is {status}, and only a created one can be started"),
        ));
    }
    let path = instance.socket();
    let mut stream = through_folder(&path, |short| UnixStream::connect(short)).at("connect to", &path)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).at("read", &path)?;
    match &answer[..] {
        b"ok" => Ok(()),
        bytes => Err(failure::from_bytes(bytes).unwrap_or_else(|| Error::new(Kind::System, "the container died"))),
    }
}

fn listen(path: &Path) -> Result<UnixListener> {
    through_folder(path, |short| UnixListener::bind(short)).at("listen on", path)
}

/// A socket's path has at most 107 bytes; through its folder's descriptor any path fits.
fn through_folder<T>(path: &Path, act: impl FnOnce(&Path) -> std::io::Result<T>) -> std::io::Result<T> {
    use std::os::fd::AsRawFd;
    let folder = layerfs::sys::fs::open_dir(path.parent().unwrap_or(Path::new("/")))?;
    let name = path.file_name().unwrap_or_default();
    act(&Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name))
}

/// Sends a terminal's master side, with the word `console` as runc does.
pub(super) fn send_terminal(socket: &Path, master: &OwnedFd) -> Result<()> {
    let stream = UnixStream::connect(socket).at("connect to console socket", socket)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [master.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let sent = sendmsg(&stream, &[IoSlice::new(b"console")], &mut control, SendFlags::NOSIGNAL);
    sent.at("send the terminal to", socket).map(drop)
}
