//! Repositories of a registry: `catalog`, `delete`, `ratelimit`, and tags given there.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use layerfs::error::{Error, Kind, Result};
use layerfs::progress::Silent;
use layerfs::reference::Reference;
use serde_json::json;

use super::accounts::host;
use super::arguments::{Access, duration};
use super::progress::note;
use super::{Global, print, print_json};
use crate::location::Location;
use crate::retention::{self, Removal, Rule};
use crate::transfer::Reach;
use crate::{inventory, removal};

/// The arguments of `copy catalog`.
#[derive(Debug, clap::Args)]
pub(super) struct CatalogArguments {
    /// The registry
    registry: String,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
    /// Print the registry's name too
    #[arg(long)]
    full_ref: bool,
    #[command(flatten)]
    access: Access,
}

impl CatalogArguments {
    /// Lists the registry's repositories.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        let host = host(&self.registry)?;
        let options = self.access.options(global)?;
        let repositories = Reach::new(&options, &Silent)?.host(&host)?.catalog()?;
        let named = repositories.into_iter().map(|name| if self.full_ref { format!("{host}/{name}") } else { name });
        let names: Vec<String> = named.collect();
        match self.json {
            true => print_json(&json!({ "registry": host, "repositories": names })),
            false => print(&names.iter().map(|name| format!("{name}\n")).collect::<String>()),
        }
    }
}

/// The arguments of `copy delete`.
#[derive(Debug, clap::Args)]
pub(super) struct DeleteArguments {
    /// NAME:TAG removes the tag alone, NAME@DIGEST the manifest; with --keep or --older-than a repository
    #[arg(required = true)]
    names: Vec<String>,
    /// Remove all tags but so many of the newest (`latest-3` and `3` mean the same)
    #[arg(long, value_name = "N", value_parser = count)]
    keep: Option<usize>,
    /// Remove tags of images made longer ago than this
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    older_than: Option<Duration>,
    /// Remove a manifest by its digest although tags point to it
    #[arg(long, short)]
    force: bool,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    access: Access,
}

fn count(text: &str) -> std::result::Result<usize, String> {
    let digits = text.strip_prefix("latest-").unwrap_or(text);
    digits.parse().map_err(|_| format!("`{text}` is no number of tags"))
}

impl DeleteArguments {
    /// Removes what was named and prints it.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        let options = self.access.options(global)?;
        let reach = Reach::new(&options, &Silent)?;
        for text in &self.names {
            let Location::Registry(name) = text.parse()? else {
                return Err(Error::new(Kind::Usage, format!("`{text}` is not in a registry"))
                    .hint("`copy rmi` removes images from the store, `rm` removes files"));
            };
            match self.keep.is_some() || self.older_than.is_some() {
                true => self.thin_out(&reach, &name, text)?,
                false => self.delete(&reach, &name)?,
            }
        }
        Ok(())
    }

    fn delete(&self, reach: &Reach<'_>, name: &Reference) -> Result<()> {
        let repository = reach.repository(name)?;
        let Some(digest) = name.digest() else {
            if !self.dry_run {
                removal::delete_tag(&repository, name.tag().unwrap_or("latest"))?;
            }
            return print(&format!("{name}\n"));
        };
        if !self.force {
            let holders: Vec<String> =
                tags_of(&repository, digest)?.into_iter().map(|tag| format!("`{tag}`")).collect();
            if !holders.is_empty() {
                let sentence = format!("delete `{name}`: the tags {} point to it", holders.join(", "));
                return Err(Error::new(Kind::Conflict, sentence).hint("--force removes it with its tags"));
            }
        }
        if !self.dry_run {
            repository.delete_manifest(digest)?;
        }
        print(&format!("{name}\n"))
    }

    /// Removes the tags of a repository that no rule keeps.
    fn thin_out(&self, reach: &Reach<'_>, name: &Reference, text: &str) -> Result<()> {
        let bare = name.repository();
        if text.strip_prefix("docker://").unwrap_or(text).parse::<Reference>()?.tag().is_some()
            || name.digest().is_some()
        {
            return Err(Error::new(Kind::Usage, format!("`{text}` is one image"))
                .hint(format!("--keep and --older-than are about a repository: `{bare}`")));
        }
        let repository = reach.repository(name)?;
        let tags = removal::survey(&repository)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
        let moment = self.older_than.map(|age| i64::try_from(now.saturating_sub(age.as_secs())).unwrap_or(i64::MAX));
        let doomed = retention::doomed(&tags, &Rule { latest: self.keep, newer_than: moment });
        for removal in retention::removals(&tags, &doomed) {
            if !self.dry_run {
                removal::remove(&repository, &removal)?;
            }
            match removal {
                Removal::Tag(tag) => print(&format!("{bare}:{tag}\n"))?,
                Removal::Manifest(digest, names) => {
                    print(&names.iter().map(|tag| format!("{bare}:{tag}\n")).collect::<String>())?;
                    print(&format!("{bare}@{digest}\n"))?;
                }
            }
        }
        note(&format!(
            "{bare}: {} of {} tags {}",
            doomed.len(),
            tags.len(),
            if self.dry_run { "would go" } else { "removed" }
        ));
        Ok(())
    }
}

fn tags_of(repository: &crate::registry::Repository, digest: layerfs::digest::Digest) -> Result<Vec<String>> {
    let tags = match repository.tags() {
        Ok(tags) => tags,
        Err(error) if error.kind() == Kind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let points = crate::work::map(&tags, 16, |tag| {
        Ok(repository.head(tag, crate::registry::Access::Pull)?.is_some_and(|head| head.digest == digest))
    })?;
    Ok(tags.into_iter().zip(points).filter(|(_, points)| *points).map(|(tag, _)| tag).collect())
}

/// The arguments of `copy ratelimit`.
#[derive(Debug, clap::Args)]
pub(super) struct RatelimitArguments {
    /// An image of the registry, or docker.io
    #[arg(default_value = "docker.io")]
    image: String,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    access: Access,
}

impl RatelimitArguments {
    /// Asks what is left, which does not count as a pull.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        // Docker Hub has an image for this question.
        let name = match self.image.as_str() {
            "docker.io" => "docker.io/ratelimitpreview/test".parse::<Reference>()?,
            other => match other.parse()? {
                Location::Registry(name) => name,
                other => return Err(Error::new(Kind::Usage, format!("`{other}` is not in a registry"))),
            },
        };
        let options = self.access.options(global)?;
        let headers = Reach::new(&options, &Silent)?.repository(&name)?.limits(&name.clone().or_latest().locator())?;
        if self.json {
            let map: serde_json::Map<_, _> = headers.into_iter().map(|(name, value)| (name, value.into())).collect();
            return print_json(&map);
        }
        match headers.is_empty() {
            true => print(&format!("registry `{}` states no limit\n", name.host())),
            false => print(&headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect::<String>()),
        }
    }
}

/// Gives an image in a registry more tags, without copying a byte of it.
pub(super) fn tag(image: &Reference, names: &[String], access: &Access, global: &Global) -> Result<()> {
    let options = access.options(global)?;
    let reach = Reach::new(&options, &Silent)?;
    let repository = reach.repository(image)?;
    let targets = names.iter().map(|text| match text.contains(['/', ':']) {
        false => image.with_tag(text),
        true => text.strip_prefix("docker://").unwrap_or(text).parse::<Reference>().map(Reference::or_latest),
    });
    let targets: Vec<Reference> = targets.collect::<Result<_>>()?;
    if let Some(stranger) = targets.iter().find(|target| target.repository() != image.repository()) {
        return Err(Error::new(Kind::Usage, format!("`{stranger}` is in another repository than `{image}`"))
            .hint(format!("`copy {image} {stranger}` copies it there")));
    }
    let (descriptor, bytes) = repository.manifest(&image.locator())?;
    let entry = inventory::parse(descriptor, bytes)?;
    for target in targets {
        repository.put_manifest(&target.locator(), &entry.descriptor, &entry.bytes)?;
    }
    print(&format!("{}\n", entry.descriptor.digest))
}
