//! `volume`: named volumes, as podman and docker have the verb.

use std::ffi::OsString;

use clap::{Parser, Subcommand};
use layerfs::error::{Error, Kind, Result};
use serde_json::json;

use super::arguments::pair;
use super::{Common, exit, for_each, out, parse, print, tell};
use crate::format::table;
use crate::prepare::{self, Caller};
use crate::state::Containers;
use crate::time;
use crate::volumes::{Volume, Volumes};

/// Folders that outlive containers.
#[derive(Parser)]
#[command(name = "run volume")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    common: Common,
}

#[derive(Subcommand)]
enum Verb {
    /// Make a volume and print its name
    Create {
        /// A label
        #[arg(short, long, value_name = "NAME=VALUE")]
        label: Vec<String>,
        /// One that exists is no error
        #[arg(long)]
        ignore: bool,
        /// Its name
        name: String,
    },
    /// List volumes
    #[command(alias = "list")]
    Ls {
        /// Names only
        #[arg(short, long)]
        quiet: bool,
        /// No headings
        #[arg(short, long)]
        noheading: bool,
    },
    /// Show all that is known of volumes
    Inspect {
        /// Volumes by name
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove volumes
    #[command(alias = "remove")]
    Rm {
        /// One that does not exist is no error
        #[arg(short, long)]
        force: bool,
        /// All volumes
        #[arg(short, long)]
        all: bool,
        /// Volumes by name
        #[arg(required_unless_present = "all")]
        names: Vec<String>,
    },
    /// Remove the volumes that no container has
    Prune {
        /// Without being asked back
        #[arg(short, long)]
        force: bool,
    },
}

pub(super) fn volume(words: &[OsString]) -> i32 {
    let arguments: Arguments = match parse(words, exit::ENGINE) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    carry_out(&arguments).unwrap_or_else(|error| tell("run", &error, exit::ENGINE))
}

fn carry_out(arguments: &Arguments) -> Result<i32> {
    let store = arguments.common.store();
    let outside = || Ok::<_, Error>(Volumes::below(&prepare::store_root(store)?));
    // Whose files are of other ids can only be changed from inside.
    let inside = || {
        let caller = Caller::enter(store, |_| {})?;
        Ok::<_, Error>((Volumes::below(caller.store.root()), caller.containers))
    };
    match &arguments.verb {
        Verb::Create { label, ignore, name } => {
            let (volumes, _) = inside()?;
            match volumes.create(name, label.iter().map(|label| pair(label)).collect()) {
                Err(error) if error.kind() == Kind::Conflict && *ignore => {}
                made => drop(made?),
            }
            Ok(out(name))
        }
        Verb::Ls { quiet, noheading } => {
            let all = outside()?.list()?;
            if *quiet {
                return Ok(print(&all.iter().map(|volume| format!("{}\n", volume.name)).collect::<String>()));
            }
            let mut rows = vec![vec!["DRIVER".to_owned(), "VOLUME NAME".to_owned()]];
            rows.extend(all.into_iter().map(|volume| vec!["local".to_owned(), volume.name]));
            Ok(print(&table(&rows[usize::from(*noheading)..])))
        }
        Verb::Inspect { names } => {
            let volumes = outside()?;
            let found = names.iter().map(|name| Ok(describe(&volumes, &volumes.find(name)?)));
            let found = found.collect::<Result<Vec<_>>>()?;
            let text = serde_json::to_string_pretty(&found).unwrap_or_default();
            Ok(print(&format!("{text}\n")))
        }
        Verb::Rm { force, all, names } => {
            let (volumes, containers) = inside()?;
            let all =
                if *all { volumes.list()?.into_iter().map(|volume| volume.name).collect() } else { names.clone() };
            Ok(for_each(&all, |name| match remove(&volumes, &containers, name) {
                Err(error) if error.kind() == Kind::NotFound && *force => Ok(()),
                Err(error) if error.kind() == Kind::NotFound => {
                    Err(Error::new(Kind::Exit(exit::FAILED), error.chain()).hint("`run volume ls` lists them"))
                }
                removed => removed,
            }))
        }
        Verb::Prune { force: false } => {
            Err(Error::new(Kind::Usage, "this removes every volume that no container has, with all that is in it")
                .hint("run volume prune --force"))
        }
        Verb::Prune { force: true } => {
            let (volumes, containers) = inside()?;
            let mut unused = Vec::new();
            for volume in volumes.list()? {
                if volumes.users(&volume.name, &containers)?.is_empty() {
                    unused.push(volume.name);
                }
            }
            Ok(for_each(&unused, |name| remove(&volumes, &containers, name)))
        }
    }
}

/// While it is held that nobody makes a container, a volume that none has is removed.
fn remove(volumes: &Volumes, containers: &Containers, name: &str) -> Result<()> {
    let _held = containers.hold()?;
    volumes.find(name)?;
    let users = volumes.users(name, containers)?;
    if !users.is_empty() {
        let names: Vec<_> = users.into_iter().map(|user| user.record.name).collect();
        let message = format!("volume `{name}` is in use by {}", names.join(", "));
        return Err(Error::new(Kind::Exit(exit::RUNNING), message).hint("remove these containers first"));
    }
    volumes.remove(name)?;
    out(name);
    Ok(())
}

fn describe(volumes: &Volumes, volume: &Volume) -> serde_json::Value {
    let labels: serde_json::Map<_, _> =
        volume.labels.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    json!({
        "Name": volume.name,
        "Driver": "local",
        "Mountpoint": volumes.data(&volume.name),
        "CreatedAt": time::format(volume.created.into()),
        "Labels": labels,
        "Scope": "local",
        "Options": {},
    })
}
