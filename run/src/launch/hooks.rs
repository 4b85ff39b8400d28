//! Hooks: programs that whoever wrote a Spec wants run at six moments of a container's life (`config.md`, "POSIX-platform
//! Hooks", of the runtime specification).
//!
//! Each is told the container's state on its standard input. What it says is kept aside and quoted where it fails: the
//! streams of this process belong to the container. Where a hook has no environment of its own it gets this process's,
//! as with the other runtimes; one that runs in the container gets the container's.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::process::{self as sys, Child, CloneOptions};
use oci_spec::runtime::{Hook, Hooks, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SeekFrom, memfd_create, seek};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use serde_json::{Value, json};

use crate::spec::VERSION;

/// Whom hooks and seccomp agents are told about.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The container's id.
    pub id: String,
    /// The folder its Spec came from, absolute.
    pub bundle: PathBuf,
}

/// What others do for a container while it is made and started: hooks and a seccomp agent.
#[derive(Clone, Debug)]
pub(crate) struct Outside {
    identity: Identity,
    annotations: HashMap<String, String>,
    hooks: Hooks,
    pub(super) listener: Option<Listener>,
    /// The first process of a container that runs already, where it is about another one.
    pub(super) first: Option<i32>,
}

/// The agent that decides about system calls for which a filter says so.
#[derive(Clone, Debug)]
pub(super) struct Listener {
    pub(super) socket: PathBuf,
    pub(super) metadata: Option<String>,
}

/// A moment at which hooks run. All but the last are fatal where they fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Outside, when the container's namespaces and mounts are there.
    Prestart,
    /// After those, likewise.
    CreateRuntime,
    /// Inside, with paths that are still the host's.
    CreateContainer,
    /// Inside, just before the program.
    StartContainer,
    /// Outside, when the program runs.
    Poststart,
    /// Outside, when the container is gone.
    Poststop,
}

impl Moment {
    /// The name of the Spec's field.
    fn field(self) -> &'static str {
        match self {
            Self::Prestart => "hooks.prestart",
            Self::CreateRuntime => "hooks.createRuntime",
            Self::CreateContainer => "hooks.createContainer",
            Self::StartContainer => "hooks.startContainer",
            Self::Poststart => "hooks.poststart",
            Self::Poststop => "hooks.poststop",
        }
    }

    /// Its own name: what engines' logs are searched for.
    fn name(self) -> &'static str {
        self.field().strip_prefix("hooks.").unwrap_or_default()
    }

    /// What the container is, in the specification's words.
    fn status(self) -> &'static str {
        match self {
            // "After step 2" of the lifecycle, in which the environment is made; the first hooks are step 3.
            Self::Prestart | Self::CreateRuntime | Self::CreateContainer | Self::StartContainer => "created",
            Self::Poststart => "running",
            Self::Poststop => "stopped",
        }
    }

    fn of(self, hooks: &Hooks) -> &[Hook] {
        let hooks = match self {
            Self::Prestart => hooks.prestart(),
            Self::CreateRuntime => hooks.create_runtime(),
            Self::CreateContainer => hooks.create_container(),
            Self::StartContainer => hooks.start_container(),
            Self::Poststart => hooks.poststart(),
            Self::Poststop => hooks.poststop(),
        };
        hooks.as_deref().unwrap_or_default()
    }
}

impl Outside {
    /// What a Spec asks of others; `None` where it asks nothing, which is most of the time.
    pub(crate) fn of(spec: &Spec, identity: Option<&Identity>) -> Result<Option<Self>> {
        let listener = super::agent::listener(spec)?;
        let hooks = spec.hooks().clone().unwrap_or_default();
        if hooks == Hooks::default() && listener.is_none() {
            return Ok(None);
        }
        check(&hooks)?;
        let identity = identity.cloned().ok_or_else(|| {
            Error::new(Kind::Unsupported, "hooks and seccomp agents are for containers that are made from a bundle")
        })?;
        let annotations = spec.annotations().clone().unwrap_or_default();
        Ok(Some(Self { identity, annotations, hooks, listener, first: None }))
    }

    /// The same for a further process of a container, which has no moments of its own.
    pub(crate) fn of_running(spec: &Spec, identity: &Identity, first: i32) -> Result<Option<Self>> {
        let Some(listener) = super::agent::listener(spec)? else { return Ok(None) };
        let annotations = spec.annotations().clone().unwrap_or_default();
        let (identity, hooks) = (identity.clone(), Hooks::default());
        Ok(Some(Self { identity, annotations, hooks, listener: Some(listener), first: Some(first) }))
    }

    /// Whether any of these moments has a hook.
    pub(crate) fn has(&self, moments: &[Moment]) -> bool {
        moments.iter().any(|moment| !moment.of(&self.hooks).is_empty())
    }

    /// The container's state, as the specification has it.
    pub(super) fn state(&self, status: &str, pid: i32) -> Value {
        state(&self.identity, &self.annotations, status, pid)
    }

    /// Runs the hooks of a moment, in their order. `pid` is the container's process as the hook sees it; `environment`
    /// is for hooks that have none, this process's own where there is none either.
    pub(crate) fn run(&self, moment: Moment, pid: i32, environment: Option<&[String]>) -> Result<()> {
        let hooks = moment.of(&self.hooks);
        if hooks.is_empty() {
            return Ok(());
        }
        let state = self.state(moment.status(), pid).to_string();
        // In the container the bundle does not exist, and before that its root is where this process is.
        let inside = matches!(moment, Moment::CreateContainer | Moment::StartContainer);
        let folder = (!inside).then_some(self.identity.bundle.as_path());
        for (index, hook) in hooks.iter().enumerate() {
            run_one(hook, &state, folder, environment)
                .context(|| format!("error running {} hook #{index}: `{}`", moment.name(), hook.path().display()))?;
        }
        Ok(())
    }
}

/// Runs the `poststop` hooks of a container that is gone: all of them, whatever each of them does. What went wrong comes
/// back, to be told as warnings.
pub(crate) fn run_poststop(hooks: &Hooks, annotations: &HashMap<String, String>, identity: &Identity) -> Vec<Error> {
    let all = Moment::Poststop.of(hooks);
    if all.is_empty() {
        return Vec::new();
    }
    let state = state(identity, annotations, Moment::Poststop.status(), 0).to_string();
    let each = all.iter().map(|hook| {
        run_one(hook, &state, Some(&identity.bundle), None)
            .context(|| format!("{}: `{}`", Moment::Poststop.field(), hook.path().display()))
    });
    each.filter_map(Result::err).collect()
}

/// The container's state, as the specification has it.
fn state(identity: &Identity, annotations: &HashMap<String, String>, status: &str, pid: i32) -> Value {
    let Identity { id, bundle } = identity;
    let mut state = json!({"ociVersion": VERSION, "id": id, "status": status, "pid": pid, "bundle": bundle});
    if !annotations.is_empty() {
        state["annotations"] = json!(annotations);
    }
    state
}

/// What can be wrong with hooks before any of them runs.
fn check(hooks: &Hooks) -> Result<()> {
    use Moment as M;
    for moment in [M::Prestart, M::CreateRuntime, M::CreateContainer, M::StartContainer, M::Poststart, M::Poststop] {
        for (index, hook) in moment.of(hooks).iter().enumerate() {
            let field = moment.field();
            if !hook.path().is_absolute() {
                let path = hook.path().display();
                return Err(Error::new(Kind::Invalid, format!("{field}[{index}].path: `{path}` is not absolute")));
            }
            if hook.timeout().is_some_and(|seconds| seconds <= 0) {
                return Err(Error::new(Kind::Invalid, format!("{field}[{index}].timeout must be greater than zero")));
            }
        }
    }
    Ok(())
}

/// Most of what a hook says that is quoted, in bytes.
const QUOTE_MAX: usize = 300;

fn run_one(hook: &Hook, state: &str, folder: Option<&Path>, environment: Option<&[String]>) -> Result<()> {
    let input = memory("state")?;
    write_all(&input, state.as_bytes()).context(|| "keep the state for its input")?;
    seek(&input, SeekFrom::Start(0)).context(|| "keep the state for its input")?;
    let said = memory("said")?;
    let call = Call::of(hook, environment)?;
    let child = sys::clone_child(&CloneOptions::default(), || call.execute(&input, &said, folder));
    let child = child.context(|| "start it")?;
    let how = match wait(&child, hook.timeout())? {
        End::Code(0) => return Ok(()),
        End::Code(code) => format!("it ended with exit code {code}"),
        End::Signal(Some(SYS)) => {
            "it was killed for a bad system call: linux.seccomp forbids one that it makes".to_owned()
        }
        End::Signal(Some(number)) => format!("it was killed by signal {number}"),
        End::Signal(None) => "it was killed".to_owned(),
    };
    let quote = last_line(&said).map_or(String::new(), |line| format!(", saying: {line}"));
    Err(Error::new(Kind::System, format!("{how}{quote}")))
}

fn memory(name: &str) -> Result<OwnedFd> {
    memfd_create(name, MemfdFlags::CLOEXEC).context(|| "make a file in memory")
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        bytes = &bytes[rustix::io::write(file, bytes)?..];
    }
    Ok(())
}

/// A hook's program, ready for `execve(2)`.
struct Call {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Call {
    fn of(hook: &Hook, environment: Option<&[String]>) -> Result<Self> {
        let string = |bytes: &[u8]| {
            CString::new(bytes).map_err(|_| Error::new(Kind::Invalid, "a NUL byte in its path, args or env"))
        };
        let path = string(hook.path().as_os_str().as_bytes())?;
        let all = |strings: &[String]| strings.iter().map(|text| string(text.as_bytes())).collect::<Result<Vec<_>>>();
        let arguments = match hook.args().as_deref() {
            None | Some([]) => vec![path.clone()],
            Some(arguments) => all(arguments)?,
        };
        let environment = match (hook.env(), environment) {
            (Some(own), _) => all(own)?,
            (None, Some(given)) => all(given)?,
            (None, None) => std::env::vars_os()
                .map(|(name, value)| string(&[name.as_bytes(), b"=", value.as_bytes()].concat()))
                .collect::<Result<_>>()?,
        };
        Ok(Self { path, arguments, environment })
    }

    /// In the new process. Comes back only where it cannot be executed, with the exit code of a shell for that.
    fn execute(&self, input: &OwnedFd, said: &OwnedFd, folder: Option<&Path>) -> i32 {
        const CANNOT_EXECUTE: i32 = 126;
        let become_it = || -> Result<(), String> {
            let words = |what: &str, errno: Errno| format!("{what}: {}", layerfs::error::words(&errno.into()));
            let _ = rustix::process::setsid();
            // A user namespace may have no way to the bundle; a hook that needs it says so itself.
            if let Some(folder) = folder {
                let _ = rustix::process::chdir(folder);
            }
            rustix::stdio::dup2_stdin(input).map_err(|errno| words("place its input", errno))?;
            rustix::stdio::dup2_stdout(said).map_err(|errno| words("place its output", errno))?;
            rustix::stdio::dup2_stderr(said).map_err(|errno| words("place its messages", errno))?;
            sys::close_on_exec_from(3).map_err(|error| error.to_string())?;
            sys::reset_signals();
            let error = sys::execute(&self.path, &self.arguments, &self.environment);
            Err(format!("it cannot be executed: {}", layerfs::error::words(&error)))
        };
        if let Err(why) = become_it() {
            let _ = write_all(said, why.as_bytes());
        }
        CANNOT_EXECUTE
    }
}

/// `SIGSYS`
const SYS: i32 = 31;

/// How a hook ended.
enum End {
    Code(i32),
    Signal(Option<i32>),
}

/// Waits for a hook's end.
fn wait(child: &Child, seconds: Option<i64>) -> Result<End> {
    if let Some(seconds) = seconds {
        let limit = Duration::from_secs(seconds.unsigned_abs());
        if !ends_within(child, limit)? {
            // It is the leader of a session, so of a group as well: what it started goes with it.
            if let Some(group) = Pid::from_raw(child.pid) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = reap(child);
            return Err(Error::new(Kind::System, format!("it did not end within its timeout of {seconds} s")));
        }
    }
    reap(child)
}

fn ends_within(child: &Child, limit: Duration) -> Result<bool> {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&child.pidfd, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            polled => return Ok(polled.context(|| "wait for it")? > 0),
        }
    }
}

fn reap(child: &Child) -> Result<End> {
    use std::os::fd::AsFd;
    loop {
        match waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED) {
            Err(Errno::INTR) => {}
            ended => {
                let status = ended.context(|| "wait for it")?;
                let signal = || status.as_ref().and_then(|status| status.terminating_signal());
                let code = status.as_ref().and_then(|status| status.exit_status());
                return Ok(code.map_or_else(|| End::Signal(signal()), End::Code));
            }
        }
    }
}

/// The last line that is not empty, cut.
fn last_line(said: &OwnedFd) -> Option<String> {
    let end = seek(said, SeekFrom::End(0)).ok()?;
    seek(said, SeekFrom::Start(end.saturating_sub(4 * QUOTE_MAX as u64))).ok()?;
    let mut bytes = vec![0; 4 * QUOTE_MAX];
    let size = rustix::io::read(said, &mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes[..size]).into_owned();
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().filter(|c| !c.is_control()).take(QUOTE_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(hooks: &str) -> Spec {
        serde_json::from_str(&format!(r#"{{"ociVersion":"1.3.0","hooks":{hooks}}}"#)).expect("valid")
    }

    fn identity() -> Identity {
        Identity { id: "c".to_owned(), bundle: "/b".into() }
    }

    #[test]
    fn a_spec_without_hooks_asks_nothing() {
        assert!(Outside::of(&spec("{}"), None).expect("valid").is_none());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let check = |hooks: &str, words: &str| {
            let error = Outside::of(&spec(hooks), Some(&identity())).expect_err(hooks);
            assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Invalid, words));
        };
        check(r#"{"prestart":[{"path":"true"}]}"#, "hooks.prestart[0].path: `true` is not absolute");
        check(
            r#"{"poststop":[{"path":"/bin/true"},{"path":"/bin/true","timeout":0}]}"#,
            "hooks.poststop[1].timeout must be greater than zero",
        );
    }

    #[test]
    fn the_state_is_the_specifications() {
        let outside = Outside::of(&spec(r#"{"prestart":[{"path":"/bin/true"}]}"#), Some(&identity()));
        let outside = outside.expect("valid").expect("it has a hook");
        let expected = json!({"ociVersion": VERSION, "id": "c", "status": "creating", "pid": 7, "bundle": "/b"});
        assert_eq!(outside.state("creating", 7), expected);
        assert!(outside.has(&[Moment::Prestart]) && !outside.has(&[Moment::Poststart, Moment::Poststop]));
    }
}
