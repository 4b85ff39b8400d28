//! Mirroring: many images of many repositories in one go.
//!
//! ```text
//! entries ──► tags listed on both sides at once ──► filter, shard ──► one task per image ──► outcomes ──► removals
//! ```
//!
//! All tasks share one `Exchange`: a blob that many images have crosses once. What is the same on both sides costs
//! one question per side; nothing that failed is followed by a removal.

mod config;
mod filter;
mod tasks;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use layerfs::digest::Digest;
use layerfs::error::{Error, Kind, Result};
use layerfs::oci::Platform;
use layerfs::progress::Progress;
use layerfs::reference::Reference;

pub use config::{Entry, Wanted, parse};
pub use filter::Filter;

use crate::companions::{Companions, is_digest_tag};
use crate::exchange::Exchange;
use crate::execute::Moved;
use crate::location::Location;
use crate::transfer::{Options, Reach};
use crate::{removal, work};

/// Images that are worked on at the same time, by default.
pub const JOBS: usize = 64;
/// Lists that are asked for at the same time.
const LISTS: usize = 16;

/// Where images go that do not say so themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Every entry names its own target.
    Own,
    /// Below this registry and path.
    Registry(String),
    /// Into folders below this one, in the form of `dir:`.
    Directory(PathBuf),
}

/// What is to be mirrored, and how. Plain data.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is copied.
    pub entries: Vec<Entry>,
    /// Images in folders that are copied, and their names below the destination.
    pub folders: Vec<(PathBuf, String)>,
    /// Where to.
    pub destination: Destination,
    /// Keep the source's whole name below the destination, not its last part alone.
    pub scoped: bool,
    /// What is put behind every tag.
    pub suffix: String,
    /// Only find out what would be done.
    pub dry_run: bool,
    /// Remove tags from the target repositories that the source no longer has.
    pub delete: bool,
    /// Go on after a failure.
    pub keep_going: bool,
    /// This part, counted from 0, of so many.
    pub shard: (u64, u64),
    /// Images at the same time.
    pub jobs: usize,
    /// What goes along with the images.
    pub companions: Companions,
}

/// What became of one image.
#[derive(Debug)]
pub struct Outcome {
    /// Where it came from; empty for what was removed.
    pub source: String,
    /// Where it is.
    pub destination: String,
    /// Its digest, where it is known.
    pub digest: Option<Digest>,
    /// What happened.
    pub status: Status,
}

/// What happened to an image.
#[derive(Debug)]
pub enum Status {
    /// It was there already.
    Current,
    /// It was copied.
    Copied(Moved),
    /// It would be copied.
    WouldCopy,
    /// Its tag was removed, since the source has none of that name.
    Removed,
    /// Its tag would be removed.
    WouldRemove,
    /// It could not be copied.
    Failed(Error),
}

/// One image to copy.
pub(crate) struct Task {
    source: Source,
    target: Location,
    /// The destination has something under that name.
    present: bool,
    platforms: Vec<Platform>,
    companions: Companions,
    /// Tags of the source that are made of digests.
    digest_tags: std::sync::Arc<Vec<String>>,
    backup: Option<String>,
}

pub(crate) enum Source {
    Registry(Reference),
    Folder(PathBuf),
}

impl Task {
    fn source_name(&self) -> String {
        match &self.source {
            Source::Registry(name) => name.to_string(),
            Source::Folder(dir) => format!("dir:{}", dir.display()),
        }
    }

    fn target_name(&self) -> String {
        match &self.target {
            Location::Registry(name) => name.to_string(),
            other => other.to_string(),
        }
    }
}

/// Mirrors what `request` asks for. Every outcome is told to `report` as it comes, from any thread.
///
/// # Errors
/// The first failure, unless `keep_going` makes failures outcomes; lists that cannot be had.
pub fn sync(
    request: &Request,
    options: &Options,
    progress: &dyn Progress,
    report: &(dyn Fn(&Outcome) + Sync),
) -> Result<Vec<Outcome>> {
    let reach = Reach::new(options, progress)?;
    let (mut tasks, listed) = tasks::collect(&reach, request)?;
    let (part, parts) = request.shard;
    tasks.retain(|task| shard_of(&task.target_name(), parts) == part);
    if tasks.is_empty() && listed.is_empty() {
        return Err(Error::new(Kind::NotFound, "there is nothing to mirror: no tag passes"));
    }
    let exchange = Exchange::default();
    let failed = AtomicBool::new(false);
    let ended = Mutex::new(None);
    let mut outcomes = work::map(&tasks, request.jobs.max(1), |task| {
        if !request.keep_going && failed.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let (digest, status) = match tasks::carry_out(&reach, request, &exchange, task) {
            Ok((digest, status)) => (Some(digest), status),
            Err(error) => {
                failed.store(true, Ordering::Relaxed);
                (None, Status::Failed(error))
            }
        };
        let outcome = Outcome { source: task.source_name(), destination: task.target_name(), digest, status };
        report(&outcome);
        match outcome {
            Outcome { status: Status::Failed(error), .. } if !request.keep_going => {
                ended.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
                Ok(None)
            }
            outcome => Ok(Some(outcome)),
        }
    })?
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    if let Some(error) = ended.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        return Err(error);
    }
    if request.delete && !failed.into_inner() {
        outcomes.extend(remove_extras(&reach, request, &listed, report)?);
    }
    Ok(outcomes)
}

/// What a target repository has, and what it is to have.
pub(crate) struct Listed {
    repository: Reference,
    there: Vec<String>,
    wanted: HashSet<String>,
    filter: Filter,
}

/// Removes tags that the source no longer has. Tags that the filter passes over, and tags made of digests that belong
/// to an image which stays, are not extras.
fn remove_extras(
    reach: &Reach<'_>,
    request: &Request,
    listed: &[Listed],
    report: &(dyn Fn(&Outcome) + Sync),
) -> Result<Vec<Outcome>> {
    // Several entries may fill one repository: what any of them wants stays.
    let mut by_repository: BTreeMap<String, Vec<&Listed>> = BTreeMap::new();
    for list in listed {
        by_repository.entry(list.repository.repository()).or_default().push(list);
    }
    let mut outcomes = Vec::new();
    for lists in by_repository.values() {
        if lists.iter().all(|list| list.wanted.is_empty()) {
            let name = lists[0].repository.repository();
            return Err(Error::new(
                Kind::Denied,
                format!("`{name}` would lose all its tags: the source has none that passes"),
            )
            .hint("remove them by `copy delete` if that is what you want"));
        }
        let wanted = |tag: &String| lists.iter().any(|list| list.wanted.contains(tag));
        let covered = |tag: &String| {
            lists.iter().any(|list| list.filter.admits(tag.strip_suffix(&request.suffix).unwrap_or(tag)))
        };
        let (part, parts) = request.shard;
        let extras: Vec<&String> = lists[0]
            .there
            .iter()
            .filter(|tag| !wanted(tag) && covered(tag) && !is_digest_tag(tag))
            .filter(|tag| shard_of(&format!("{}:{tag}", lists[0].repository.repository()), parts) == part)
            .collect();
        let repository = reach.repository(&lists[0].repository)?;
        for tag in extras {
            if !request.dry_run {
                removal::delete_tag(&repository, tag)?;
            }
            let status = if request.dry_run { Status::WouldRemove } else { Status::Removed };
            let destination = format!("{}:{tag}", lists[0].repository.repository());
            let outcome = Outcome { source: String::new(), destination, digest: None, status };
            report(&outcome);
            outcomes.push(outcome);
        }
    }
    Ok(outcomes)
}

/// Which of `parts` parts a name is in: the same on every machine.
fn shard_of(name: &str, parts: u64) -> u64 {
    // FNV-1a: a name's part must never change between versions of this program.
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    hash % parts.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_complete_and_stable() {
        let names: Vec<String> = (0..1000).map(|number| format!("r.io/app:{number}")).collect();
        let mut counts = [0; 4];
        names.iter().for_each(|name| counts[usize::try_from(shard_of(name, 4)).expect("small")] += 1);
        assert!(counts.iter().all(|count| (150..350).contains(count)), "{counts:?}");
        assert_eq!(shard_of("r.io/app:1", 7), shard_of("r.io/app:1", 7));
        assert_eq!(shard_of("", 7), 0xcbf2_9ce4_8422_2325 % 7);
    }
}
