//! The process that holds a container between `create` and `start`.

use std::cell::Cell;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::process::{CloneOptions, clone_child};
use rustix::event::{PollFd, PollFlags};

use super::arguments::{CgroupManager, Create, Handles};
use super::bundle::Bundle;
use super::instances::{Instance, Instances, Status};
use super::{in_engines_words, introduce, send_terminal, through_folder, warn};
use crate::failure;
use crate::launch::hooks::{Moment, Outside};
use crate::launch::{Created, Io, Running, Stdio};
use crate::session::null;

/// Makes a container and leaves a holder with it.
pub(super) fn create(instances: &Instances, create: &Create, cgroups: CgroupManager) -> Result<()> {
    let mut bundle = Bundle::read(create)?;
    if bundle.has_terminal() != create.handles.console_socket.is_some() {
        let message = match bundle.has_terminal() {
            true => "the container wants a terminal, and there is no --console-socket to send it to",
            false => "--console-socket is for a container with a terminal",
        };
        return Err(Error::new(Kind::Usage, message).hint("see process.terminal of config.json"));
    }
    let claim = instances.claim(&create.id.id)?;
    bundle.place(cgroups)?;
    let mut instance = claim.write(&bundle)?;
    let made = make(&mut instance, &bundle, &create.handles);
    if made.is_err() {
        // The first error is the one to tell.
        let _ = instance.remove();
    }
    made
}

fn make(instance: &mut Instance, bundle: &Bundle, handles: &Handles) -> Result<()> {
    let listener = listen(&instance.socket())?;
    let own = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().context(|| "copy a standard stream");
    let io = match bundle.has_terminal() {
        true => Io::Terminal { size: bundle.terminal_size() },
        false => Io::Stdio(Stdio {
            stdin: own(std::io::stdin().as_fd())?,
            stdout: own(std::io::stdout().as_fd())?,
            stderr: own(std::io::stderr().as_fd())?,
        }),
    };
    let mut created = bundle.launch(io, false)?;
    created.notes().iter().for_each(|note| warn(note));
    if let (Some(master), Some(socket)) = (created.take_terminal(), &handles.console_socket) {
        send_terminal(socket, &master)?;
    }
    instance.record(&created)?;
    introduce(handles, created.pid(), created.pidfd()?)?;
    // The container is this process's child and the holder only its sibling: when this process ends, right after, its
    // engine gets the container, and may wait for it from that moment on (buildah does).
    let created = Cell::new(Some(created));
    let body = || created.take().map_or(1, |created| hold(created, &listener, instance, bundle.program()));
    clone_child(&CloneOptions::default(), body).context(|| "start the process that holds the container")?;
    if let Some(created) = created.take() {
        created.hand_over();
    }
    Ok(())
}

/// Waits for `start`, or for the container to be killed.
fn hold(created: Created, listener: &UnixListener, instance: &Instance, program: &str) -> i32 {
    // Whoever reads the container's streams, or anything else that was left open, must see it end with the container.
    let _ = layerfs::sys::process::close_inherited(3);
    let Ok(null) = null() else { return 1 };
    let _ = rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .and_then(|()| rustix::stdio::dup2_stderr(&null));
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
    let started = created.run_program().map_err(|error| in_engines_words(error, program));
    let answer = match started.and_then(|(running, outside)| after_start(running, outside, instance)) {
        Ok(()) => b"ok".to_vec(),
        Err(error) => failure::to_bytes(&error),
    };
    let _ = (&stream).write_all(&answer);
    0
}

/// Runs what is to run after the start. Where that fails the container is stopped and taken away (runtime.md,
/// "Lifecycle", steps 9 and 12).
fn after_start(running: Running, outside: Option<Outside>, instance: &Instance) -> Result<()> {
    let Some(outside) = outside else { return Ok(()) };
    let ran = outside.run(Moment::Poststart, running.pid(), None);
    if ran.is_err() {
        // The first error is the one to tell.
        let _ = running.destroy().and_then(|()| instance.remove());
    }
    ran
}

/// Lets a created container's program run.
pub(super) fn start(instance: &Instance) -> Result<()> {
    let status = instance.status();
    if status != Status::Created {
        let sentence =
            format!("container `{}` is {}, and only a created one can be started", instance.id(), status.word());
        return Err(Error::new(Kind::Conflict, sentence));
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
