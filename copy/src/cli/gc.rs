//! `copy gc`: what nothing needs any more goes.

use std::collections::HashSet;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use layerfs::error::{Error, Kind, Result};
use layerfs::oci::Platform;
use layerfs::reference::Reference;
use layerfs::store::{Reclaimed, Store, Unneeded};

use super::progress::size;
use super::{Global, print};
use crate::time;

/// The arguments of `copy gc`.
#[derive(Debug, clap::Args)]
pub(super) struct GcArguments {
    /// Remove nothing; show what would be removed
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Also the images that no container is made of, as `docker image prune --all` does
    #[arg(long, short)]
    all: bool,
    /// With --all: only images made longer ago than this (90s, 10m, 24h, 7d)
    #[arg(long, value_name = "TIME", requires = "all", value_parser = seconds)]
    until: Option<i64>,
    /// Leave it to a collection that is waiting to begin, if there is one
    #[arg(long, hide = true)]
    unless_queued: bool,
}

impl GcArguments {
    /// Collects and says what was freed.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        let (store, _) = global.open_store()?;
        let names = if self.all { self.unused(&store)? } else { Vec::new() };
        let mut text: String = names.iter().map(|name| format!("Untagged: {name}\n")).collect();
        let freed = if self.dry_run {
            let unneeded = store.unneeded(&names.into_iter().collect::<HashSet<_>>())?;
            text.push_str(&listing(&unneeded, store.root()));
            unneeded.total()
        } else {
            for name in &names {
                store.untag(name)?;
            }
            match self.unless_queued {
                true => store.gc_unless_queued()?.unwrap_or_default(),
                false => store.gc()?,
            }
        };
        if global.quiet {
            return Ok(());
        }
        text.push_str(&summary(&freed, self.dry_run));
        print(&text)
    }

    fn unused(&self, store: &Store) -> Result<Vec<Reference>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs() as i64);
        let mut names = Vec::new();
        for (name, descriptor) in store.unused_names()? {
            let created = store.summary(&descriptor, &Platform::host())?.and_then(|image| image.created);
            // One that does not say when it was made is as old as can be.
            let created = created.as_deref().and_then(time::parse_rfc3339).unwrap_or(0);
            if self.until.is_none_or(|age| created <= now - age) {
                names.push(name);
            }
        }
        Ok(names)
    }
}

fn listing(unneeded: &Unneeded, root: &Path) -> String {
    let line = |(path, bytes): &(std::path::PathBuf, u64)| {
        format!("{}  {}\n", path.strip_prefix(root).unwrap_or(path).display(), size(*bytes))
    };
    unneeded.blobs.iter().chain(&unneeded.layers).map(line).collect()
}

fn summary(freed: &Reclaimed, dry_run: bool) -> String {
    let what = if dry_run { "would be freed" } else { "freed" };
    format!("{} blobs, {} layers, {} {what}\n", freed.blobs, freed.layers, size(freed.bytes))
}

/// A length of time as people write it.
fn seconds(text: &str) -> Result<i64> {
    let unknown =
        || Error::new(Kind::Usage, format!("`{text}` is not a length of time")).hint("90s, 10m, 24h and 7d are");
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86_400,
        _ => return Err(unknown()),
    };
    let number: u32 = text[..text.len() - 1].parse().map_err(|_| unknown())?;
    Ok(i64::from(number) * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, expected) in
            [("90s", Some(90)), ("24h", Some(86_400)), ("7d", Some(604_800)), ("7", None), ("d", None)]
        {
            assert_eq!(seconds(text).ok(), expected, "{text}");
        }
    }
}
