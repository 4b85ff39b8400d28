//! `verify` and `diff`: whether two places hold the same.

use layerfs::error::{Error, Kind, Result};
use layerfs::progress::Silent;
use layerfs::reference::Reference;
use serde_json::json;

use super::arguments::{Access, PlatformChoice};
use super::progress::note;
use super::{Global, print, print_json};
use crate::compare::{self, Difference};
use crate::inventory::Platforms;
use crate::location::Location;
use crate::transfer::Reach;

/// The arguments of `copy verify`.
#[derive(Debug, clap::Args)]
pub(super) struct VerifyArguments {
    /// A repository, or an image
    first: String,
    /// Another
    second: String,
    /// Do not ask the second repository for every blob of its images
    #[arg(long)]
    fast: bool,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    access: Access,
}

impl VerifyArguments {
    /// Fails unless both hold the same: tags, digests, referrers, and nothing is missing in the second.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        let options = self.access.options(global)?;
        let reach = Reach::new(&options, &Silent)?;
        let (found, what) = match (repository(&self.first), repository(&self.second)) {
            (Some(first), Some(second)) => {
                let (first, second) = (reach.registry_source(&first)?, reach.registry_source(&second)?);
                let (found, looked) = compare::repositories(&first, &second, !self.fast)?;
                (found, format!("{} tags, {} referrers, {} blobs", looked.tags, looked.referrers, looked.blobs))
            }
            _ => {
                (differences(&self.first, &self.second, &Platforms::All, global, &self.access)?, "one image".to_owned())
            }
        };
        if self.json {
            let list: Vec<_> = found.iter().map(Difference::to_json).collect();
            print_json(&json!({ "identical": found.is_empty(), "compared": what, "differences": list }))?;
        } else {
            show(&found)?;
        }
        match found.len() {
            0 => {
                note(&format!("identical: {what}"));
                Ok(())
            }
            count => Err(Error::new(
                Kind::Corrupt,
                format!(
                    "`{}` and `{}` differ in {count} {}",
                    self.first,
                    self.second,
                    if count == 1 { "thing" } else { "things" }
                ),
            )),
        }
    }
}

/// The arguments of `copy diff`.
#[derive(Debug, clap::Args)]
pub(super) struct DiffArguments {
    /// An image, or a repository
    first: String,
    /// Another
    second: String,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    platform: PlatformChoice,
    #[command(flatten)]
    access: Access,
}

impl DiffArguments {
    /// Shows what differs. That something does is no failure.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        let found = match (repository(&self.first), repository(&self.second)) {
            (Some(first), Some(second)) => {
                let options = self.access.options(global)?;
                let reach = Reach::new(&options, &Silent)?;
                compare::repositories(&reach.registry_source(&first)?, &reach.registry_source(&second)?, false)?.0
            }
            _ => differences(&self.first, &self.second, &self.platform.platforms(global), global, &self.access)?,
        };
        match self.json {
            true => print_json(&found.iter().map(Difference::to_json).collect::<Vec<_>>()),
            false => show(&found),
        }
    }
}

/// A repository, where the text names one rather than an image in it.
fn repository(text: &str) -> Option<Reference> {
    let bare = text.strip_prefix("docker://").unwrap_or(text);
    let name = bare.parse::<Reference>().ok().filter(|name| name.tag().is_none() && name.digest().is_none())?;
    matches!(text.parse::<Location>(), Ok(Location::Registry(_))).then_some(name)
}

fn differences(
    first: &str,
    second: &str,
    platforms: &Platforms,
    global: &Global,
    access: &Access,
) -> Result<Vec<Difference>> {
    let (first, second): (Location, Location) = (first.parse()?, second.parse()?);
    let mut options = access.options(global)?;
    let needs_store = [&first, &second].iter().any(|location| matches!(location, Location::Store(_)));
    let store = needs_store.then(|| global.open_store_for(&mut options)).transpose()?.map(|(store, _)| store);
    let reach = Reach::new(&options, &Silent)?;
    let (first, second) = (reach.source(&first, store.as_ref())?, reach.source(&second, store.as_ref())?);
    compare::images(&*first, &*second, platforms)
}

fn show(found: &[Difference]) -> Result<()> {
    let mut text = String::new();
    for difference in found {
        text.push_str(&format!("{}\n", difference.object));
        text.extend(difference.first.iter().map(|value| format!("  - {value}\n")));
        text.extend(difference.second.iter().map(|value| format!("  + {value}\n")));
    }
    print(&text)
}
