//! Verbs that change a container or tell a little of it: `pause`, `unpause`, `rename`, `port`.

use std::ffi::OsString;

use clap::Parser;
use layerfs::error::{Error, Kind, Result};

use super::containers::{Which, containers};
use super::list::ports_of;
use super::{Common, exit, for_each, out, parse, tell};
use crate::state::{Container, Containers, Phase};

/// Stops all processes of containers where they are.
#[derive(Parser)]
#[command(name = "run pause")]
struct Pause {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    common: Common,
}

/// Lets paused containers go on.
#[derive(Parser)]
#[command(name = "run unpause")]
struct Unpause {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    common: Common,
}

pub(super) fn pause(words: &[OsString]) -> i32 {
    let arguments: Pause = match parse(words, exit::ENGINE) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    each(&arguments.which, &arguments.common, false, |container| match container.record.cgroup.is_frozen() {
        true => Err(Error::new(Kind::Conflict, format!("container `{}` is paused already", container.record.name))),
        false => container.record.cgroup.freeze(),
    })
}

pub(super) fn unpause(words: &[OsString]) -> i32 {
    let arguments: Unpause = match parse(words, exit::ENGINE) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    each(&arguments.which, &arguments.common, true, |container| match container.record.cgroup.is_frozen() {
        true => container.record.cgroup.thaw(),
        false => Err(Error::new(Kind::Conflict, format!("container `{}` is not paused", container.record.name))),
    })
}

fn each(which: &Which, common: &Common, paused: bool, act: impl Fn(&Container) -> Result<()>) -> i32 {
    let running = |one: &Container| one.phase() == Phase::Running && one.record.cgroup.is_frozen() == paused;
    let named = containers(common).and_then(|containers| Ok((which.names(&containers, running)?, containers)));
    let (names, containers) = match named {
        Ok(named) => named,
        Err(error) => return tell("run", &error, exit::ENGINE),
    };
    for_each(&names, |name| {
        let container = containers.find(name)?;
        drop(container.open_process()?);
        act(&container)?;
        out(name);
        Ok(())
    })
}

/// Gives a container another name.
#[derive(Parser)]
#[command(name = "run rename")]
struct Rename {
    /// The container, by name or ID
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Its new name
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    common: Common,
}

pub(super) fn rename(words: &[OsString]) -> i32 {
    let arguments: Rename = match parse(words, exit::ENGINE) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let renamed = containers(&arguments.common).and_then(|all| all.rename(&arguments.container, &arguments.name));
    renamed.map_or_else(|error| tell("run", &error, exit::ENGINE), |()| exit::OK)
}

/// Shows which ports of the host lead to a container.
#[derive(Parser)]
#[command(name = "run port", override_usage = "run port [FLAGS] CONTAINER [PORT[/udp]]")]
struct Port {
    /// Of all containers that run
    #[arg(short, long, conflicts_with = "container")]
    all: bool,
    /// The container, by name or ID
    #[arg(value_name = "CONTAINER", required_unless_present = "all")]
    container: Option<String>,
    /// One port of the container's alone
    #[arg(value_name = "PORT")]
    port: Option<String>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn port(words: &[OsString]) -> i32 {
    let arguments: Port = match parse(words, exit::ENGINE) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let shown = containers(&arguments.common).and_then(|containers| show_ports(&arguments, &containers));
    shown.map_or_else(|error| tell("run", &error, exit::ENGINE), |text| super::print(&text))
}

fn show_ports(arguments: &Port, containers: &Containers) -> Result<String> {
    let Some(name) = &arguments.container else {
        let running = containers.list()?.into_iter().filter(|container| container.phase() == Phase::Running);
        let lines = running.flat_map(|container| {
            let id = crate::spec::short_id(&container.record.id).to_owned();
            ports_of(&container.record.options.network.ports)
                .into_iter()
                .map(move |(inside, outside)| format!("{id}\t{inside} -> {outside}\n"))
        });
        return Ok(lines.collect());
    };
    let container = containers.find(name)?;
    let all = ports_of(&container.record.options.network.ports);
    let Some(wanted) = &arguments.port else {
        return Ok(all.iter().map(|(inside, outside)| format!("{inside} -> {outside}\n")).collect());
    };
    let wanted = if wanted.contains('/') { wanted.clone() } else { format!("{wanted}/tcp") };
    let found: String =
        all.iter().filter(|(inside, _)| *inside == wanted).map(|(_, outside)| format!("{outside}\n")).collect();
    match found.is_empty() {
        true => Err(Error::new(Kind::NotFound, format!("container `{name}` publishes no port {wanted}"))),
        false => Ok(found),
    }
}
