//! Images that are not here yet: fetched by the `copy` program beside this one, so that nothing here knows a network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

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
            Ok(fetched) => Ok(fetched),
            Err(_) => Ok(found),
        },
        (Policy::Always | Policy::Newer | Policy::Missing, _) => fetch(store, text, platform, quiet),
    }
}

/// What was fetched, by the fetcher's own word: its name may be somebody else's already, or gone.
fn fetch(store: &Store, text: &str, platform: Option<&Platform>, quiet: bool) -> Result<Found> {
    let name = text.parse::<Reference>()?.or_latest();
    let program = copy_program()?;
    let mut command = Command::new(&program);
    command.args(["pull", "--unpack", "--descriptors", "--store"]).arg(store.root());
    if let Some(platform) = platform {
        command.arg("--platform").arg(platform.to_string());
    }
    if quiet {
        command.arg("--quiet");
    }
    command.arg(name.to_string()).stdin(Stdio::null()).stdout(Stdio::piped());
    tie_to_parent(&mut command);
    let output = command.spawn().and_then(Child::wait_with_output).at("start", &program)?;
    if !output.status.success() {
        return Err(Error::new(Kind::Unavailable, format!("image `{text}` could not be pulled"))
            .hint("what `copy` said above is the reason; --pull never uses only what is in the store"));
    }
    let descriptor = serde_json::from_slice(&output.stdout).at("read the answer of", &program)?;
    Ok(Found { name: Some(name), descriptor })
}

/// `copy` lies beside this program; what else has that name on PATH is somebody else's.
fn copy_program() -> Result<PathBuf> {
    let own = fs::canonicalize(crate::seal::place()?).context(|| "find this program's own file")?;
    let folder = own.parent().unwrap_or(Path::new("/"));
    let found = ["layerfs-copy", "copy"].map(|name| folder.join(name)).into_iter().find(|path| path.is_file());
    found.ok_or_else(|| {
        Error::new(Kind::NotFound, format!("the `copy` program is not beside `{}`", own.display()))
            .hint("install `copy` and `run` in one folder")
    })
}
