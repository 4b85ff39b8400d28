//! Verbs about the files of containers: `cp`, `export`, `diff`, `commit`.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Parser;
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::reference::Reference;
use serde_json::json;

use super::{Common, exit, note, out, parse, tell};
use crate::child;
use crate::files::changes::{Change, changes};
use crate::files::commit::{CommitOptions, Instruction, commit as make_image};
use crate::files::copying::{CopyOptions, End, copy, export as pack_all};
use crate::prepare::{self, Caller};
use crate::state::{Containers, Phase};

/// Copies files between a container and the host, or between containers.
#[derive(Parser)]
#[command(name = "run cp", override_usage = "run cp [FLAGS] [CONTAINER:]SOURCE [CONTAINER:]DESTINATION")]
struct Cp {
    /// What comes into a container becomes its user's; --archive=false keeps owners as they are
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    archive: Option<bool>,
    /// A folder may be replaced by a file, and the other way round
    #[arg(long)]
    overwrite: bool,
    /// What is copied; `-` for an archive on standard input
    #[arg(value_name = "SOURCE")]
    source: String,
    /// Where to; `-` for an archive on standard output
    #[arg(value_name = "DESTINATION", allow_hyphen_values = true)]
    destination: String,
    #[command(flatten)]
    common: Common,
}

pub(super) fn cp(words: &[OsString]) -> i32 {
    let arguments: Cp = match parse(words, exit::ENGINE) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let copied = (|| {
        let containers = Containers::below(&prepare::store_root(arguments.common.store())?);
        let (from, to) = (end(&containers, &arguments.source)?, end(&containers, &arguments.destination)?);
        let options = CopyOptions { to_user: arguments.archive.unwrap_or(true), overwrite: arguments.overwrite };
        copy(&from, &to, options, arguments.common.store())
    })();
    copied.map_or_else(|error| tell("run", &error, exit::ENGINE), |()| exit::OK)
}

/// `CONTAINER:PATH`, `PATH`, or `-`. A path with a slash or dot before its colon is none of a container.
fn end(containers: &Containers, text: &str) -> Result<End> {
    match text.split_once(':') {
        _ if text == "-" => Ok(End::Stream),
        Some((name, path)) if !name.is_empty() && !name.contains('/') && !name.starts_with('.') => {
            if path.is_empty() {
                return Err(Error::new(Kind::Usage, format!("`{text}` names no path in the container")));
            }
            Ok(End::Container(Box::new(containers.find(name)?), path.to_owned()))
        }
        _ if text.is_empty() => Err(Error::new(Kind::Usage, "an empty path")),
        _ => Ok(End::Host(text.to_owned())),
    }
}

/// Writes a container's files as a tar archive.
#[derive(Parser)]
#[command(name = "run export")]
struct Export {
    /// To a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The container, by name or ID
    #[arg(value_name = "CONTAINER")]
    name: String,
    #[command(flatten)]
    common: Common,
}

pub(super) fn export(words: &[OsString]) -> i32 {
    let arguments: Export = match parse(words, exit::ENGINE) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let written = (|| {
        let store = arguments.common.store();
        let container = Containers::below(&prepare::store_root(store)?).find(&arguments.name)?;
        match &arguments.output {
            Some(path) => {
                let file = File::create(path).at("create", path)?;
                child::run(|| pack_all(&container, store, file))
            }
            None if std::io::stdout().is_terminal() => {
                Err(Error::new(Kind::Usage, "an archive is not for a terminal").hint("write it to a file with -o"))
            }
            None => child::run(|| pack_all(&container, store, std::io::stdout())),
        }
    })();
    written.map_or_else(|error| tell("run", &error, exit::ENGINE), |()| exit::OK)
}

/// Shows what a container changed of its image: C for changed, A for added, D for deleted.
#[derive(Parser)]
#[command(name = "run diff")]
struct Diff {
    /// json
    #[arg(long, value_name = "FORMAT", value_parser = ["json"])]
    format: Option<String>,
    /// The container, by name or ID
    #[arg(value_name = "CONTAINER")]
    name: String,
    #[command(flatten)]
    common: Common,
}

pub(super) fn diff(words: &[OsString]) -> i32 {
    let arguments: Diff = match parse(words, exit::ENGINE) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let told = (|| {
        let caller = Caller::enter(arguments.common.store(), note)?;
        let container = caller.containers.find(&arguments.name)?;
        let found = changes(&caller, &container)?;
        if arguments.format.is_none() {
            return Ok(found
                .iter()
                .map(|(path, change)| format!("{} {}\n", change.letter(), path.display()))
                .collect());
        }
        let list = |wanted: Change| -> Vec<String> {
            let fitting = found.iter().filter(|(_, change)| **change == wanted);
            fitting.map(|(path, _)| path.to_string_lossy().into_owned()).collect()
        };
        let mut all = serde_json::Map::new();
        for (key, wanted) in [("changed", Change::Changed), ("added", Change::Added), ("deleted", Change::Deleted)] {
            let paths = list(wanted);
            if !paths.is_empty() {
                all.insert(key.to_owned(), json!(paths));
            }
        }
        Ok(format!("{}\n", serde_json::Value::Object(all)))
    })();
    told.map_or_else(|error: Error| tell("run", &error, exit::ENGINE), |text: String| super::print(&text))
}

/// Makes an image of a container.
#[derive(Parser)]
#[command(name = "run commit", override_usage = "run commit [FLAGS] CONTAINER [IMAGE]")]
struct Commit {
    /// Who made it
    #[arg(short, long)]
    author: Option<String>,
    /// An instruction of a Dockerfile, such as `CMD ["sh"]`
    #[arg(short, long, value_name = "INSTRUCTION", value_parser = Instruction::parse)]
    change: Vec<Instruction>,
    /// Why, for its history
    #[arg(short, long)]
    message: Option<String>,
    /// Stop the container meanwhile
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    pause: Option<bool>,
    /// Write the image's ID to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// The form of its documents
    #[arg(short, long, value_name = "FORMAT", value_parser = ["oci"])]
    format: Option<String>,
    /// Nothing is said on the way anyhow
    #[arg(short, long)]
    quiet: bool,
    /// The container, by name or ID
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// The new image's name
    #[arg(value_name = "IMAGE")]
    image: Option<String>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn commit(words: &[OsString]) -> i32 {
    let arguments: Commit = match parse(words, exit::ENGINE) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let made = (|| {
        // Outside of any namespace of our own: a cgroup is its owner's.
        let outside = Containers::below(&prepare::store_root(arguments.common.store())?);
        let container = outside.find(&arguments.container)?;
        let name = arguments.image.as_deref().map(local_name).transpose()?;
        let paused = arguments.pause.unwrap_or(false) && container.phase() == Phase::Running;
        if paused {
            container.record.cgroup.freeze()?;
        }
        let options = CommitOptions {
            name,
            author: arguments.author.clone(),
            message: arguments.message.clone(),
            changes: arguments.change.clone(),
        };
        let committed = (|| {
            let caller = Caller::enter(arguments.common.store(), note)?;
            let _pin = caller.store.pin()?;
            make_image(&caller, &container, &options)
        })();
        if paused {
            container.record.cgroup.thaw()?;
        }
        let id = committed?;
        if let Some(path) = &arguments.iidfile {
            fs::write(path, id.to_string()).at("write", path)?;
        }
        Ok::<_, Error>(id)
    })();
    made.map_or_else(|error| tell("run", &error, exit::ENGINE), |id| out(&id.hex()))
}

/// A name without a registry is one of this machine's.
fn local_name(text: &str) -> Result<Reference> {
    let first = text.split('/').next().unwrap_or_default();
    let has_host = text.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    let name = if has_host { text.to_owned() } else { format!("localhost/{text}") };
    Ok(name.parse::<Reference>()?.or_latest())
}
