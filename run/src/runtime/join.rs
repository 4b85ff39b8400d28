//! `exec`: another program in a running container.

use std::os::fd::AsFd;

use layerfs::error::{Context, Error, Kind, Result};
use oci_spec::runtime::{Capability, LinuxCapabilities, Process, Spec};

use super::arguments::Exec;
use super::bundle::{pass_on_sockets, read_spec, terminal_size};
use super::instances::{Instance, Status};
use super::{foreground, in_engines_words, introduce, send_terminal, warn};
use crate::cgroup::Below;
use crate::exec::{self, exec as join};
use crate::launch::{Created, Io, Stdio};

/// Runs it: its exit code, or 0 where it is not waited for.
pub(super) fn exec(instance: &Instance, arguments: &Exec) -> Result<i32> {
    let status = instance.status();
    match status {
        Status::Created | Status::Running => {}
        Status::Paused if arguments.ignore_paused => {}
        Status::Paused => {
            let sentence = format!("cannot exec in a paused container: `{}`", instance.id());
            return Err(Error::new(Kind::Conflict, sentence).hint("resume it first, or use --ignore-paused"));
        }
        Status::Creating | Status::Stopped => {
            let sentence = format!("container not running: `{}` is {}", instance.id(), status.word());
            return Err(Error::new(Kind::Conflict, sentence));
        }
    }
    // As it is now: an engine may have changed it since.
    let spec = read_spec(&instance.bundle().join("config.json"))?;
    let mut process = match &arguments.process {
        Some(path) => {
            let text = std::fs::read(path).at("read", path)?;
            crate::spec::read_process(&text, &mut |note| warn(&note)).at("read", path)?
        }
        None => from_options(&spec, arguments)?,
    };
    let terminal = process.terminal().unwrap_or(false);
    let handles = &arguments.handles;
    if arguments.detach && terminal && handles.console_socket.is_none() {
        return Err(Error::new(Kind::Usage, "a terminal that nobody waits at needs a --console-socket to be sent to"));
    }
    let preserve_fds = pass_on_sockets(&mut process, handles)?;
    let program = process.args().iter().flatten().next().cloned().unwrap_or_default();
    let first = instance.open_process()?;
    let identity = instance.identity();
    let below = Below::parse(&arguments.cgroup)?;
    let make = |io: Io, dies_with_parent: bool| {
        join(exec::Exec {
            container: first.as_fd(),
            process: &process,
            seccomp: spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()),
            bundle: Some((&spec, &identity)),
            cgroup: instance.cgroup(),
            cgroup_below: &below,
            io,
            preserve_fds,
            dies_with_parent,
        })
    };
    if arguments.detach {
        let created = make(streams(&process)?, false);
        return created
            .and_then(|created| let_go(created, arguments))
            .map(|()| 0)
            .map_err(|error| in_engines_words(error, &program));
    }
    let attended = foreground::attend(terminal, handles, |io| {
        let created = make(io, true)?;
        introduce(handles, created.pid(), created.pidfd()?)?;
        Ok(created)
    });
    attended.map(|(_, code)| code).map_err(|error| in_engines_words(error, &program))
}

/// The caller's own streams, or a terminal.
fn streams(process: &Process) -> Result<Io> {
    if process.terminal().unwrap_or(false) {
        return Ok(Io::Terminal { size: terminal_size(process) });
    }
    let own = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().context(|| "copy a standard stream");
    Ok(Io::Stdio(Stdio {
        stdin: own(std::io::stdin().as_fd())?,
        stdout: own(std::io::stdout().as_fd())?,
        stderr: own(std::io::stderr().as_fd())?,
    }))
}

/// Starts it and leaves it to whoever inherits this process's children.
fn let_go(mut created: Created, arguments: &Exec) -> Result<()> {
    if let (Some(master), Some(socket)) = (created.take_terminal(), &arguments.handles.console_socket) {
        send_terminal(socket, &master)?;
    }
    let running = created.start()?;
    introduce(&arguments.handles, running.pid(), running.pidfd())
}

/// The container's own process with what the options change. Pure.
fn from_options(spec: &Spec, arguments: &Exec) -> Result<Process> {
    let own = spec.process().as_ref();
    let mut process =
        own.cloned().ok_or_else(|| Error::new(Kind::Invalid, "config.json of the bundle has no process"))?;
    if arguments.command.is_empty() {
        return Err(
            Error::new(Kind::Usage, "there is nothing to run").hint("name a program after the id, or --process")
        );
    }
    process.set_args(Some(arguments.command.clone()));
    process.set_terminal(Some(arguments.tty.unwrap_or(false)));
    if let Some(folder) = &arguments.cwd {
        process.set_cwd(folder.clone());
    }
    let mut environment = process.env().clone().unwrap_or_default();
    for variable in &arguments.environment {
        let name = variable.split('=').next().unwrap_or_default();
        if name.is_empty() || !variable.contains('=') {
            return Err(Error::new(Kind::Usage, format!("`--env {variable}` is not of the form NAME=VALUE")));
        }
        environment.retain(|known| known.split('=').next() != Some(name));
        environment.push(variable.clone());
    }
    process.set_env(Some(environment));
    if let Some((uid, gid)) = arguments.user {
        let user = process.user_mut();
        let gid = gid.unwrap_or(user.gid());
        user.set_uid(uid).set_gid(gid);
    }
    if !arguments.additional_gids.is_empty() {
        process.user_mut().set_additional_gids(Some(arguments.additional_gids.clone()));
    }
    if let Some(profile) = &arguments.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &arguments.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    if arguments.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if !arguments.cap.is_empty() {
        let capabilities = process.capabilities().clone().unwrap_or_default();
        process.set_capabilities(Some(with_capabilities(capabilities, &arguments.cap)?));
    }
    Ok(process)
}

/// Adds to what the process may do, now and by programs that give it, and to what its children inherit where it is
/// inheritable already: only that can be ambient.
fn with_capabilities(mut capabilities: LinuxCapabilities, names: &[String]) -> Result<LinuxCapabilities> {
    for name in names {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let parsed: Result<Capability, _> = serde_json::from_value(serde_json::json!(format!("CAP_{bare}")));
        let capability = parsed.map_err(|_| Error::new(Kind::Usage, format!("`{name}` is no capability")))?;
        let with = |set: &Option<std::collections::HashSet<Capability>>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(capability);
            Some(set)
        };
        let (bounding, effective, permitted, ambient) = (
            with(capabilities.bounding()),
            with(capabilities.effective()),
            with(capabilities.permitted()),
            with(capabilities.ambient()),
        );
        capabilities.set_bounding(bounding).set_effective(effective).set_permitted(permitted).set_ambient(ambient);
    }
    Ok(capabilities)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::arguments::{Arguments, Verb};
    use super::*;

    fn made(line: &str) -> Result<Process> {
        let text = r#"{"ociVersion":"1.0.2","process":{"user":{"uid":1,"gid":2},"cwd":"/","args":["sh"],"env":["A=1","B=2"],
            "capabilities":{"bounding":["CAP_KILL"]}}}"#;
        let spec: Spec = serde_json::from_str(text).expect("valid");
        let words = ["layerfs-runtime", "exec"].into_iter().chain(line.split_whitespace());
        let arguments = Arguments::try_parse_from(words).expect("they parse");
        let Verb::Exec(arguments) = arguments.verb else { panic!("it is `exec`") };
        from_options(&spec, &arguments)
    }

    #[test]
    fn options_change_what_they_name() {
        let process = made("-e A=3 -u 7 --cwd /x -c net_admin --no-new-privs -t c1 id -u").expect("valid");
        assert_eq!(process.env().clone().expect("there"), ["B=2", "A=3"]);
        assert_eq!((process.user().uid(), process.user().gid(), process.cwd().to_str()), (7, 2, Some("/x")));
        assert_eq!((process.terminal(), process.no_new_privileges()), (Some(true), Some(true)));
        let capabilities = process.capabilities().clone().expect("there");
        assert_eq!(capabilities.bounding().as_ref().map(std::collections::HashSet::len), Some(2));
        assert_eq!(capabilities.inheritable().as_ref(), None);
        for wrong in ["c1", "-e A c1 id", "-c nonsense c1 id"] {
            assert!(made(wrong).is_err(), "{wrong}");
        }
    }
}
