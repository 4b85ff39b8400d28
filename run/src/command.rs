//! A further command in a running container: what `exec` is told, the process that makes of it, and watching it.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::Platform;
use layerfs::sys::fs::{open_dir, open_in_root};
use layerfs::sys::signals::Signals;
use oci_spec::runtime::Process;
use rustix::fs::{Mode, OFlags};

use crate::exec::{Exec, exec};
use crate::host;
use crate::launch::{Io, Stdio};
use crate::options::Streams;
use crate::relay::Relay;
use crate::session::{self, Attachment, Observer, Watched};
use crate::spec::user::{self, User};
use crate::spec::{self, HostFacts};
use crate::state::Container;
use crate::terminal::{self, DetachKeys, NewLines, Raw};

/// What `exec` can be told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CommandOptions {
    /// The words.
    pub command: Vec<String>,
    /// Variables beside the container's.
    pub environment: Vec<(String, String)>,
    /// In place of the container's working folder.
    pub workdir: Option<String>,
    /// In place of the container's user.
    pub user: Option<String>,
    /// Every capability, no filter.
    pub privileged: bool,
    /// How the streams are connected.
    pub streams: Streams,
    /// Descriptors from 3 on that are handed over.
    pub preserve_fds: u32,
}

/// Starts a command and leaves it to itself.
///
/// # Errors
/// The container does not run, or the command cannot be started.
pub fn start(container: &Container, options: &CommandOptions) -> Result<()> {
    let io = match options.streams.terminal {
        true => Io::Terminal { size: (80, 24) },
        false => Io::Stdio(Stdio { stdin: session::null()?, stdout: session::null()?, stderr: session::null()? }),
    };
    let (created, program) = create(container, options, io, false)?;
    created.start().map(drop).map_err(|error| session::blame_program(error, &program))
}

/// Runs a command in front of the caller and gives its exit code; 0 where the caller let go of it.
///
/// # Errors
/// The container does not run, or the command cannot be started.
pub fn run(
    container: &Container,
    options: &CommandOptions,
    keys: DetachKeys,
    note: &mut dyn FnMut(&str),
) -> Result<i32> {
    let streams = options.streams;
    let keys = Some(keys).filter(|_| streams.terminal && streams.interactive && terminal::is_input());
    let attachment = Attachment::Foreground { keys, proxy: true };
    let signals = Signals::block().context(|| "read signals from a descriptor")?;
    let (io, mut relay) = session::streams(streams, &attachment, None)?;
    let dies_with_parent = matches!(attachment, Attachment::Foreground { keys: None, .. });
    let (mut created, program) = create(container, options, io, dies_with_parent)?;
    if let Some(master) = created.take_terminal() {
        session::attach_terminal(master, &attachment, streams.interactive, &mut relay)?;
    }
    created.notes().iter().for_each(|line| note(line));
    let running = created.start().map_err(|error| session::blame_program(error, &program))?;
    let raw = if streams.terminal && streams.interactive { Raw::enter(NewLines::OfTheContainer)? } else { None };
    match session::watch(&running, &signals, &mut relay, raw, true, &mut LetGo)? {
        Watched::Detached => Ok(0),
        Watched::Exited => {
            let exit = running.wait()?;
            finish(relay);
            Ok(exit.code)
        }
    }
}

/// Unlike a container's first process, a command may leave others behind that hold its streams; what it wrote itself is
/// there by now.
fn finish(mut relay: Relay) {
    relay.drain();
}

/// Letting go of a command is to leave it.
struct LetGo;

impl Observer for LetGo {
    fn note(&mut self, _: &str) {}
    fn started(&mut self) {}
    fn detached(&mut self) -> bool {
        false
    }
}

fn create(
    container: &Container,
    options: &CommandOptions,
    io: Io,
    dies_with_parent: bool,
) -> Result<(crate::launch::Created, String)> {
    let first = container.open_process()?;
    let user = options.user.as_deref().map(|text| resolve(container, first.as_fd(), text)).transpose()?;
    let process = process(container, options, user.as_ref())?;
    let facts = HostFacts {
        architecture: Platform::host().architecture,
        kernel: host::kernel(),
        seccomp_profile: host::seccomp_profile(&container.record.options)?,
        ..HostFacts::default()
    };
    let seccomp = match options.privileged {
        true => None,
        false => spec::seccomp_of(&container.record.options, &facts)?,
    };
    let program = options.command.first().cloned().unwrap_or_default();
    let created = exec(Exec {
        container: first.as_fd(),
        process: &process,
        seccomp: seccomp.as_ref(),
        bundle: None,
        cgroup: &container.record.cgroup,
        cgroup_below: &crate::cgroup::Below::default(),
        io,
        preserve_fds: options.preserve_fds,
        dies_with_parent,
    });
    Ok((created.map_err(|error| session::blame_program(error, &program))?, program))
}

/// The container's own process with other words. Pure.
fn process(container: &Container, options: &CommandOptions, user: Option<&User>) -> Result<Process> {
    let own = &container.record.process;
    let mut process = own.clone();
    process.set_args(Some(options.command.clone())).set_terminal(Some(options.streams.terminal));
    let mut variables: Vec<(String, String)> = Vec::new();
    let lines = own.env().iter().flatten().filter_map(|line| line.split_once('='));
    let given = options.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let home = user.map(|user| ("HOME", user.home.as_str()));
    let term = options.streams.terminal.then_some(("TERM", "xterm"));
    for (name, value) in lines.chain(home).chain(term).chain(given) {
        match variables.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => variables.push((name.to_owned(), value.to_owned())),
        }
    }
    process.set_env(Some(variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()));
    if let Some(workdir) = &options.workdir {
        process.set_cwd(PathBuf::from(spec::checked_workdir(workdir)?));
    }
    let uid = user.map_or(own.user().uid(), |user| user.uid);
    if let Some(user) = user {
        process.user_mut().set_uid(user.uid).set_gid(user.gid).set_additional_gids(Some(user.groups.clone()));
    }
    if user.is_some() || options.privileged {
        process.set_capabilities(Some(spec::capabilities_of(&container.record.options, options.privileged, uid)?));
    }
    Ok(process)
}

/// Who `text` is in the container as it is now, which may have changed its own files.
fn resolve(container: &Container, first: BorrowedFd<'_>, text: &str) -> Result<User> {
    let pid = container.status.as_ref().map_or(0, |status| status.process.pid);
    let root = open_dir(Path::new(&format!("/proc/{pid}/root"))).context(|| "open the container's root")?;
    // The number was this container's when its root was opened if its descriptor still says so.
    let alive = layerfs::sys::process::pid_of(first).context(|| "find the container's process")? == Some(pid);
    if !alive {
        return Err(Error::new(Kind::Conflict, "the container has ended"));
    }
    let read = |path: &str| read_in(root.as_fd(), path);
    user::resolve(text, &read("/etc/passwd")?, &read("/etc/group")?, &[])
}

/// A regular file below `root`, by the container's own symlinks; nothing where there is none. A pipe there must not
/// make us wait.
fn read_in(root: BorrowedFd<'_>, path: &str) -> Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match open_in_root(root, Path::new(path), flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(Vec::new()),
        other => other.at("open", path)?,
    };
    let file = std::fs::File::from(file);
    let metadata = file.metadata().at("look at", path)?;
    if !metadata.is_file() || metadata.len() > user::FILE_MAX {
        return Err(Error::new(Kind::Invalid, format!("`{path}` in the container is not a file of usual size")));
    }
    let mut bytes = Vec::new();
    file.take(user::FILE_MAX).read_to_end(&mut bytes).at("read", path)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Record;

    fn container() -> Container {
        let mut process = Process::default();
        process.set_env(Some(vec!["PATH=/bin".to_owned(), "HOME=/root".to_owned(), "A=1".to_owned()]));
        process.set_cwd("/w".into()).set_args(Some(vec!["sh".to_owned()]));
        process.user_mut().set_uid(0).set_gid(0);
        Container { dir: "/c".into(), record: Record { process, ..Record::default() }, status: None }
    }

    #[test]
    fn a_command_has_the_containers_ways_unless_told_otherwise() {
        let options = CommandOptions {
            command: vec!["id".to_owned()],
            environment: vec![("A".to_owned(), "2".to_owned())],
            ..CommandOptions::default()
        };
        let made = process(&container(), &options, None).expect("valid");
        assert_eq!(made.args().clone().expect("words"), ["id"]);
        assert_eq!(made.env().clone().expect("variables"), ["PATH=/bin", "HOME=/root", "A=2"]);
        assert_eq!((made.cwd().to_str(), made.user().uid()), (Some("/w"), 0));
    }

    #[test]
    fn another_user_has_no_capabilities_and_a_home() {
        let user = User { uid: 7, gid: 8, groups: vec![9], home: "/h".to_owned() };
        let made = process(&container(), &CommandOptions::default(), Some(&user)).expect("valid");
        assert_eq!(made.env().clone().expect("variables")[1], "HOME=/h");
        let capabilities = made.capabilities().clone().expect("they are set");
        assert_eq!(capabilities.effective().as_ref().map(std::collections::HashSet::len), Some(0));
        assert_eq!(capabilities.bounding().as_ref().map(std::collections::HashSet::len), Some(11));
        assert_eq!((made.user().gid(), made.user().additional_gids().clone()), (8, Some(vec![9])));
        let wrong = CommandOptions { workdir: Some("/proc/self/fd/3".to_owned()), ..CommandOptions::default() };
        assert!(process(&container(), &wrong, None).is_err());
    }
}
