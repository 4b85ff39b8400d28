//! Images that are not here yet: fetched by the `copy` program beside this one, so that nothing here knows a network.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::Platform;
use layerfs::reference::Reference;
use layerfs::store::{Found, Store};
use layerfs::sys::signals::tie_to_parent;

/// When an image is fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Every time.
    Always,
    /// Where it is not in the store.
    #[default]
    Missing,
    /// Not at all.
    Never,
    /// Every time, but one in the store will do where the registry cannot be reached.
    Newer,
}

/// Finds an image, fetching it as `policy` has it.
///
/// # Errors
/// It is not to be had.
pub fn image(store: &Store, text: &str, policy: Policy, platform: Option<&Platform>, quiet: bool) -> Result<Found> {
    let here = store.find(text);
    match (policy, here) {
        (Policy::Never, here) => here,
        (Policy::Missing, Ok(found)) => Ok(found),
        (Policy::Missing, Err(error)) if error.kind() != Kind::NotFound => Err(error),
        (Policy::Newer, Ok(found)) => match fetch(store, text, platform, quiet) {
            Ok(()) => store.find(text),
            Err(_) => Ok(found),
        },
        (Policy::Always | Policy::Newer | Policy::Missing, _) => {
            fetch(store, text, platform, quiet)?;
            store.find(text)
        }
    }
}

fn fetch(store: &Store, text: &str, platform: Option<&Platform>, quiet: bool) -> Result<()> {
    let name = text.parse::<Reference>()?.or_latest();
    let program = copy_program()?;
    let mut command = Command::new(&program);
    command.arg("pull").arg("--unpack").arg("--store").arg(store.root());
    if let Some(platform) = platform {
        command.arg("--platform").arg(platform.to_string());
    }
    if quiet {
        command.arg("--quiet");
    }
    // Its result is in the store; what it prints on standard output is not ours to print.
    command.arg(name.to_string()).stdin(Stdio::null()).stdout(Stdio::null());
    tie_to_parent(&mut command);
    let status = command.status().at("start", &program)?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::new(Kind::Unavailable, format!("image `{text}` could not be pulled"))
            .hint("what `copy` said above is the reason; --pull never uses only what is in the store")),
    }
}

/// `copy` lies beside this program; what else has that name on PATH is somebody else's.
fn copy_program() -> Result<PathBuf> {
    let own = env::current_exe().and_then(fs::canonicalize).context(|| "find this program's own file")?;
    let folder = own.parent().unwrap_or(Path::new("/"));
    let found = ["layerfs-copy", "copy"].map(|name| folder.join(name)).into_iter().find(|path| path.is_file());
    found.ok_or_else(|| {
        Error::new(Kind::NotFound, format!("the `copy` program is not beside `{}`", own.display()))
            .hint("install `copy` and `run` in one folder")
    })
}
