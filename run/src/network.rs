//! The container's network: which namespace, the generated files of `/etc`, and `pasta`, which connects a namespace of
//! its own without root.
//!
//! The default is a network of its own that reaches the outside through `pasta`, for root as for anybody else: a bridge
//! needs what later releases bring. Where `pasta` cannot work and nobody asked for it by name, the container has
//! loopback only, and one line says why.

mod files;
mod pasta;

use std::path::PathBuf;

use layerfs::error::{Error, Kind, Result};

use crate::options::{NetworkMode, NetworkOptions};
use crate::spec::NetworkNamespace;
use crate::state::Containers;

pub use files::{Files, HOSTS, resolve_conf};
pub use pasta::Pasta;

/// The address by which a container reaches its host (podman's choice, from the link-local range).
pub const HOST_ADDRESS: &str = "169.254.1.2";
/// The address at which `pasta` answers name queries.
pub const DNS_ADDRESS: &str = "169.254.1.1";

/// What will be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The namespace.
    pub namespace: NetworkNamespace,
    /// How it is connected.
    pub connection: Connection,
    /// What the user should know: a sentence.
    pub note: Option<String>,
}

/// How a network namespace reaches the outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Connection {
    /// Not at all, or it is connected already.
    #[default]
    None,
    /// By `pasta`.
    Pasta {
        /// The program.
        program: PathBuf,
        /// Further arguments of the user's.
        arguments: Vec<String>,
        /// Whether the container starts without it where it fails.
        optional: bool,
    },
}

/// Decides, before anything starts.
///
/// # Errors
/// What was asked for cannot be had; the hint names what is missing.
pub fn plan(options: &NetworkOptions, containers: &Containers) -> Result<Plan> {
    let own = |connection, note| Plan { namespace: NetworkNamespace::New, connection, note };
    let plan = match &options.mode {
        NetworkMode::None => own(Connection::None, None),
        NetworkMode::Host => Plan { namespace: NetworkNamespace::Host, ..Plan::default() },
        NetworkMode::Path(path) => Plan { namespace: NetworkNamespace::Path(path.clone()), ..Plan::default() },
        NetworkMode::Container(name) => {
            let other = containers.find(name)?;
            other.open_process()?;
            let pid = other.status.map_or(0, |status| status.process.pid);
            Plan { namespace: NetworkNamespace::Path(format!("/proc/{pid}/ns/net").into()), ..Plan::default() }
        }
        NetworkMode::Pasta(arguments) => {
            own(Connection::Pasta { program: pasta::find()?, arguments: arguments.clone(), optional: false }, None)
        }
        NetworkMode::Default => match pasta::find() {
            // Ports were asked for, and only pasta has them.
            Err(error) if !options.ports.is_empty() => return Err(error),
            Err(error) => own(Connection::None, Some(without(&error))),
            Ok(program) => {
                let optional = options.ports.is_empty();
                own(Connection::Pasta { program, arguments: Vec::new(), optional }, None)
            }
        },
    };
    if options.ports.is_empty() || matches!(plan.connection, Connection::Pasta { .. }) {
        return Ok(plan);
    }
    match options.mode {
        NetworkMode::Host => {
            let note = "published ports mean nothing in the host's network: the container's are the host's";
            Ok(Plan { note: Some(note.to_owned()), ..plan })
        }
        _ => Err(Error::new(Kind::Usage, "ports can be published only from a network of the container's own")
            .hint("--network pasta")),
    }
}

/// The line for a container that has to do without.
pub(crate) fn without(error: &Error) -> String {
    let hint = error.advice().map_or(String::new(), |hint| format!("; {hint}"));
    format!("the container has no network but loopback: {}{hint}", error.chain())
}
