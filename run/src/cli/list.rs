//! `ps` and `inspect`.

use std::ffi::OsString;

use clap::Parser;
use layerfs::error::{Error, Kind, Result};
use layerfs::reference::Reference;
use serde_json::{Value, json};

use super::{Common, exit, out, parse, print, tell};
use crate::format::{Template, table};
use crate::options::{NetworkMode, PortMapping, Protocol};
use crate::prepare;
use crate::spec::short_id;
use crate::state::{Container, Containers, Phase, now};
use crate::{options, time};

/// Lists containers.
#[derive(Parser)]
#[command(name = "run ps")]
struct Ps {
    /// Those that do not run too
    #[arg(short, long)]
    all: bool,
    /// IDs only
    #[arg(short, long)]
    quiet: bool,
    /// IDs and commands in full
    #[arg(long)]
    no_trunc: bool,
    /// Only the last N made, running or not
    #[arg(short = 'n', long, value_name = "N")]
    last: Option<usize>,
    /// Only the last made, running or not
    #[arg(short, long)]
    latest: bool,
    /// No headings
    #[arg(long)]
    noheading: bool,
    /// id=, name=, status=, label=, exited=, ancestor=
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = Filter::parse)]
    filter: Vec<Filter>,
    /// json, table, or a template
    #[arg(long)]
    format: Option<String>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn ps(words: &[OsString]) -> i32 {
    let arguments: Ps = match parse(words, exit::ENGINE) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    listing(&arguments).map_or_else(|error| tell("run", &error, exit::ENGINE), |text| print(&text))
}

/// One condition of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Filter {
    Id(String),
    Name(String),
    Status(String),
    Label(String, Option<String>),
    Exited(i32),
    Ancestor(String),
}

impl Filter {
    fn parse(text: &str) -> Result<Self> {
        let invalid = || {
            Error::new(Kind::Usage, format!("filter `{text}` is not supported"))
                .hint("id=, name=, status=, label=, exited= and ancestor= are")
        };
        let (key, value) = text.split_once('=').ok_or_else(invalid)?;
        Ok(match key {
            "id" => Self::Id(value.to_owned()),
            "name" => Self::Name(value.to_owned()),
            "status" if ["created", "running", "paused", "stopping", "exited"].contains(&value) => {
                Self::Status(value.to_owned())
            }
            "label" => match value.split_once('=') {
                Some((name, value)) => Self::Label(name.to_owned(), Some(value.to_owned())),
                None => Self::Label(value.to_owned(), None),
            },
            "exited" => Self::Exited(value.parse().map_err(|_| invalid())?),
            "ancestor" => Self::Ancestor(value.to_owned()),
            _ => return Err(invalid()),
        })
    }

    fn fits(&self, container: &Container, phase: Phase) -> bool {
        let record = &container.record;
        match self {
            Self::Id(id) => record.id.starts_with(id.as_str()),
            Self::Name(name) => record.name.contains(name.as_str()),
            Self::Status(wanted) => word(container, phase) == wanted,
            Self::Label(name, value) => record
                .options
                .labels
                .iter()
                .any(|(known, content)| known == name && value.as_ref().is_none_or(|value| value == content)),
            Self::Exited(code) => phase == Phase::Exited(Some(*code)),
            Self::Ancestor(image) => {
                let named = image.parse::<Reference>().map(|name| name.or_latest().to_string());
                named.is_ok_and(|name| name == record.image)
                    || record.image == *image
                    || record.image_id.trim_start_matches("sha256:").starts_with(image.trim_start_matches("sha256:"))
            }
        }
    }
}

fn listing(arguments: &Ps) -> Result<String> {
    let containers = Containers::below(&prepare::store_root(arguments.common.store())?);
    let last = arguments.last.or(arguments.latest.then_some(1));
    let every = arguments.all
        || last.is_some()
        || arguments.filter.iter().any(|f| matches!(f, Filter::Status(_) | Filter::Exited(_)));
    let mut rows: Vec<(Container, Phase)> = containers
        .list()?
        .into_iter()
        .filter(|container| !container.is_leftover())
        .map(|container| (container.phase(), container))
        .map(|(phase, container)| (container, phase))
        .filter(|(_, phase)| every || matches!(phase, Phase::Running))
        // Filters of one kind are alternatives, different kinds must all fit: podman's rule.
        .filter(|(container, phase)| {
            arguments.filter.iter().all(|wanted| {
                let kind = std::mem::discriminant(wanted);
                let alike = arguments.filter.iter().filter(|other| std::mem::discriminant(*other) == kind);
                alike.into_iter().any(|filter| filter.fits(container, *phase))
            })
        })
        .collect();
    if let Some(last) = last {
        rows.drain(..rows.len().saturating_sub(last));
    }
    if arguments.quiet {
        let id = |container: &Container| match arguments.no_trunc {
            true => container.record.id.clone(),
            false => short_id(&container.record.id).to_owned(),
        };
        return Ok(rows.iter().map(|(container, _)| format!("{}\n", id(container))).collect());
    }
    match arguments.format.as_deref() {
        Some("json") => {
            let list: Vec<Value> = rows.iter().map(|(container, phase)| summary(container, *phase)).collect();
            Ok(format!("{}\n", serde_json::to_string_pretty(&list).unwrap_or_default()))
        }
        None | Some("table") => Ok(table(&table_rows(&rows, arguments))),
        Some(text) => {
            let template = Template::parse(text)?;
            let line = |(container, phase): &(Container, Phase)| {
                template.fill(&row(container, *phase, arguments.no_trunc)).map(|line| format!("{line}\n"))
            };
            rows.iter().map(line).collect()
        }
    }
}

const HEADINGS: [&str; 7] = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"];
const FIELDS: [&str; 7] = ["ID", "Image", "Command", "CreatedHuman", "Status", "Ports", "Names"];

fn table_rows(rows: &[(Container, Phase)], arguments: &Ps) -> Vec<Vec<String>> {
    let mut table: Vec<Vec<String>> = Vec::new();
    if !arguments.noheading {
        table.push(HEADINGS.map(str::to_owned).to_vec());
    }
    for (container, phase) in rows {
        let row = row(container, *phase, arguments.no_trunc);
        table.push(FIELDS.iter().map(|field| row[*field].as_str().unwrap_or_default().to_owned()).collect());
    }
    table
}

/// What a template of `ps` can name.
fn row(container: &Container, phase: Phase, whole: bool) -> Value {
    let record = &container.record;
    let command = container.command().join(" ");
    let shortened = if whole || command.chars().count() <= 20 {
        command
    } else {
        command.chars().take(17).chain("...".chars()).collect()
    };
    let labels: Vec<String> = record.options.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    json!({
        "ID": if whole { record.id.as_str() } else { short_id(&record.id) },
        "Image": record.image,
        "ImageID": record.image_id.trim_start_matches("sha256:"),
        "Command": shortened,
        "CreatedAt": time::format(record.created.into()),
        "CreatedHuman": format!("{} ago", age_since(record.created)),
        "RunningFor": format!("{} ago", age_since(record.created)),
        "State": word(container, phase),
        "Status": status(container, phase),
        "Ports": ports(&record.options.network.ports),
        "Names": record.name,
        "Labels": labels.join(","),
        "Pid": pid(container, phase),
    })
}

fn age_since(moment: i64) -> String {
    time::age(i128::from(now().saturating_sub(moment)))
}

fn pid(container: &Container, phase: Phase) -> i32 {
    container.status.as_ref().filter(|_| phase == Phase::Running).map_or(0, |status| status.process.pid)
}

/// The words of podman's STATUS column.
fn status(container: &Container, phase: Phase) -> String {
    let status = container.status.as_ref();
    match phase {
        Phase::Created => "Created".to_owned(),
        Phase::Ending => "Stopping".to_owned(),
        Phase::Running if container.record.cgroup.is_frozen() => "Paused".to_owned(),
        Phase::Running => format!("Up {}", age_since(status.map_or(0, |status| status.started))),
        Phase::Exited(code) => match status.and_then(|status| status.finished.as_ref()) {
            Some(finished) => format!("Exited ({}) {} ago", finished.code, age_since(finished.at)),
            None => format!("Exited ({})", code.unwrap_or(-1)),
        },
    }
}

fn ports(ports: &[PortMapping]) -> String {
    let range = |first: u16, count: u16| match count {
        1 => first.to_string(),
        _ => format!("{first}-{}", first.saturating_add(count - 1)),
    };
    let one = |port: &PortMapping| {
        let (address, protocol) = words(port);
        format!("{address}:{}->{}/{protocol}", range(port.host, port.count), range(port.container, port.count))
    };
    ports.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn words(port: &PortMapping) -> (&str, &str) {
    let protocol = if port.protocol == Protocol::Udp { "udp" } else { "tcp" };
    (port.address.as_deref().unwrap_or("0.0.0.0"), protocol)
}

/// Each published port by itself: as the container has it, and as the host does.
pub(super) fn ports_of(ports: &[PortMapping]) -> Vec<(String, String)> {
    let each = ports.iter().flat_map(|port| {
        let (address, protocol) = words(port);
        (0..port.count).map(move |offset| {
            let (inside, outside) = (port.container.saturating_add(offset), port.host.saturating_add(offset));
            (format!("{inside}/{protocol}"), format!("{address}:{outside}"))
        })
    });
    each.collect()
}

/// An element of `ps --format json`, with podman's names.
fn summary(container: &Container, phase: Phase) -> Value {
    let record = &container.record;
    let finished = container.status.as_ref().and_then(|status| status.finished.as_ref());
    let labels: serde_json::Map<String, Value> =
        record.options.labels.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    json!({
        "Command": container.command(),
        "CreatedAt": time::format(record.created.into()),
        "Created": record.created / 1_000_000_000,
        "Exited": matches!(phase, Phase::Exited(_)),
        "ExitedAt": finished.map_or(0, |finished| finished.at / 1_000_000_000),
        "ExitCode": exit_code(phase),
        "Id": record.id,
        "Image": record.image,
        "ImageID": record.image_id.trim_start_matches("sha256:"),
        "Labels": labels,
        "Names": [record.name],
        "Pid": pid(container, phase),
        "Ports": ports(&record.options.network.ports),
        "StartedAt": container.status.as_ref().map_or(0, |status| status.started / 1_000_000_000),
        "State": word(container, phase),
        "Status": status(container, phase),
    })
}

/// podman's word for where a container is in its life; being paused is the cgroup's to say.
fn word(container: &Container, phase: Phase) -> &'static str {
    match phase == Phase::Running && container.record.cgroup.is_frozen() {
        true => "paused",
        false => phase.word(),
    }
}

fn exit_code(phase: Phase) -> i32 {
    match phase {
        Phase::Exited(code) => code.unwrap_or(-1),
        _ => 0,
    }
}

/// Shows all that is known of containers.
#[derive(Parser)]
#[command(name = "run inspect")]
struct Inspect {
    /// json, or a template
    #[arg(short, long)]
    format: Option<String>,
    /// Containers by name or ID
    #[arg(value_name = "CONTAINER", required = true)]
    names: Vec<String>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn inspect(words: &[OsString]) -> i32 {
    let arguments: Inspect = match parse(words, exit::ENGINE) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let containers = match prepare::store_root(arguments.common.store()) {
        Ok(root) => Containers::below(&root),
        Err(error) => return tell("run", &error, exit::ENGINE),
    };
    let template = match arguments.format.as_deref().filter(|format| *format != "json").map(Template::parse).transpose()
    {
        Ok(template) => template,
        Err(error) => return tell("run", &error, exit::ENGINE),
    };
    let mut list = Vec::new();
    let code = super::for_each(&arguments.names, |name| {
        let details = details(&containers.find(name)?);
        match &template {
            Some(template) => drop(out(&template.fill(&details)?)),
            None => list.push(details),
        }
        Ok(())
    });
    if template.is_none() {
        out(&serde_json::to_string_pretty(&list).unwrap_or_default());
    }
    code
}

/// All of a container, with podman's names where podman has the thing.
fn details(container: &Container) -> Value {
    let phase = container.phase();
    let record = &container.record;
    let options = &record.options;
    let status = container.status.as_ref();
    let finished = status.and_then(|status| status.finished.as_ref());
    let moment = |nanoseconds: Option<i64>| time::format(nanoseconds.unwrap_or(0).into());
    let labels: serde_json::Map<String, Value> =
        options.labels.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    json!({
        "Id": record.id,
        "Name": record.name,
        "Created": moment(Some(record.created)),
        "Path": container.command().first(),
        "Args": container.command().get(1..).unwrap_or_default(),
        "State": {
            "Status": word(container, phase),
            "Paused": word(container, phase) == "paused",
            "Running": phase == Phase::Running,
            "Pid": pid(container, phase),
            "ExitCode": exit_code(phase),
            "OOMKilled": finished.is_some_and(|finished| finished.out_of_memory),
            "StartedAt": moment(status.map(|status| status.started)),
            "FinishedAt": moment(finished.map(|finished| finished.at)),
        },
        "Image": record.image_id.trim_start_matches("sha256:"),
        "ImageDigest": record.roots.images.first().map(|image| image.digest.to_string()),
        "ImageName": record.image,
        "LogPath": container.log_path(),
        "RestartCount": status.map_or(0, |status| status.restarts),
        "Config": {
            "Cmd": container.command(),
            "Env": record.process.env(),
            "WorkingDir": record.process.cwd(),
            "User": options.process.user.clone().unwrap_or_default(),
            "Tty": options.process.streams.terminal,
            "OpenStdin": options.process.streams.interactive,
            "Labels": labels,
            "StopSignal": options::signal_name(record.stop_signal),
            "StopTimeout": options.stop.timeout,
        },
        "HostConfig": {
            "RestartPolicy": {"Name": options.restart.words().0, "MaximumRetryCount": options.restart.words().1},
            "AutoRemove": options.remove == options::Removal::OnExit,
            "NetworkMode": network(&options.network.mode),
            "Privileged": options.isolation.privileged,
            "ReadonlyRootfs": options.storage.read_only,
            "Memory": options.resources.memory.unwrap_or(0),
            "PidsLimit": options.resources.pids,
            "PortBindings": ports(&options.network.ports),
        },
        "Mounts": options.storage.mounts,
        "CgroupPaths": record.cgroup.folders(),
    })
}

fn network(mode: &NetworkMode) -> String {
    match mode {
        NetworkMode::Default => "default".to_owned(),
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::Pasta(_) => "pasta".to_owned(),
        NetworkMode::Container(name) => format!("container:{name}"),
        NetworkMode::Path(path) => format!("ns:{}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(filter: &str, expected: Option<bool>) {
        let mut container = Container { dir: "/c".into(), record: crate::state::Record::default(), status: None };
        container.record.id = "abcdef".to_owned();
        container.record.name = "web_1".to_owned();
        container.record.image = "docker.io/library/debian:latest".to_owned();
        container.record.options.labels = vec![("a".to_owned(), "b".to_owned())];
        let fits = Filter::parse(filter).ok().map(|filter| filter.fits(&container, Phase::Exited(Some(3))));
        assert_eq!(fits, expected, "{filter}");
    }

    #[test]
    fn filters_have_keys() {
        for (filter, expected) in [
            ("id=abc", Some(true)),
            ("id=bc", Some(false)),
            ("name=web", Some(true)),
            ("status=exited", Some(true)),
            ("status=frob", None),
            ("label=a", Some(true)),
            ("label=a=c", Some(false)),
            ("exited=3", Some(true)),
            ("ancestor=debian", Some(true)),
            ("ancestor=alpine", Some(false)),
            ("network=x", None),
            ("name", None),
        ] {
            check(filter, expected);
        }
    }
}
