//! `sync`: mirrors repositories.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::reference::Reference;
use serde_json::json;

use super::arguments::{Access, PlatformChoice, duration, format};
use super::progress::{Reporter, note, size};
use super::sides::Sides;
use super::{Global, print};
use crate::companions::Companions;
use crate::inventory::Platforms;
use crate::sync::{self, Destination, Entry, Filter, Outcome, Request, Status};
use crate::time;
use crate::transfer::Options;

/// The arguments of `copy sync`.
#[derive(Debug, clap::Args)]
pub(super) struct SyncArguments {
    /// A repository, an image, a file in skopeo's or regsync's form, or with --src dir a folder
    source: String,
    /// The repository to mirror into; with --src and --dest a registry and path, or a folder
    destination: Option<String>,
    /// What SOURCE is [default: docker, or yaml for a file that ends so]
    #[arg(long, short, value_name = "docker|dir|yaml")]
    src: Option<String>,
    /// What DESTINATION is; with it, images go below DESTINATION under their own names
    #[arg(long, short, value_name = "docker|dir")]
    dest: Option<String>,
    /// Keep the source's whole name below the destination
    #[arg(long)]
    scoped: bool,
    /// Put this behind every tag
    #[arg(long, value_name = "TEXT", default_value = "")]
    append_suffix: String,
    /// Only tags that match; can be given several times, one has to match
    #[arg(long, value_name = "REGEX")]
    tags: Vec<String>,
    /// No tags that match; can be given several times
    #[arg(long, value_name = "REGEX")]
    exclude_tags: Vec<String>,
    /// Only tags that are versions in this range
    #[arg(long, value_name = "RANGE")]
    semver: Vec<String>,
    /// Only so many of the newest of those that are left
    #[arg(long, value_name = "N")]
    latest: Option<usize>,
    /// Only images made since then: a date, or how long ago
    #[arg(long, value_name = "DATE|DURATION")]
    since: Option<String>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Only find out, and exit with 1 where the mirror is not what it should be
    #[arg(long)]
    check: bool,
    /// Remove tags from the mirror that the source does not have (any more): the tags alone
    #[arg(long)]
    delete: bool,
    /// Go on after an image that cannot be copied
    #[arg(long)]
    keep_going: bool,
    /// Do only this part, counted from 1, of so many
    #[arg(long, value_name = "I/N", value_parser = shard)]
    shard: Option<(u64, u64)>,
    /// Copy what refers to the images (signatures, attestations) too
    #[arg(long)]
    referrers: bool,
    /// Copy tags made of the images' digests (sha256-….sig) too
    #[arg(long)]
    digest_tags: bool,
    /// Copy all platforms (the default, but not skopeo's)
    #[arg(long, short, conflicts_with = "platform")]
    all: bool,
    #[command(flatten)]
    platform: PlatformChoice,
    /// Write manifests in these media types
    #[arg(long, short, value_name = "oci|v2s2")]
    format: Option<String>,
    /// Fail rather than change an image's digest
    #[arg(long)]
    preserve_digests: bool,
    /// Write the digest and name of every image into this file
    #[arg(long, value_name = "FILE")]
    digestfile: Option<PathBuf>,
    /// Print a JSON document per image
    #[arg(long)]
    json: bool,
    /// Images that are worked on at the same time
    #[arg(long, value_name = "N", default_value_t = sync::JOBS)]
    jobs: usize,
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    sides: Sides,
    /// Accepted for skopeo's sake: signatures in lookaside places are never copied
    #[arg(long, hide = true)]
    remove_signatures: bool,
}

fn shard(text: &str) -> std::result::Result<(u64, u64), String> {
    let malformed = || format!("`{text}` is no part of a whole: write 1/4");
    let (part, parts) = text.split_once('/').ok_or_else(malformed)?;
    let (part, parts): (u64, u64) = (part.parse().map_err(|_| malformed())?, parts.parse().map_err(|_| malformed())?);
    if (1..=parts).contains(&part) { Ok((part - 1, parts)) } else { Err(malformed()) }
}

impl SyncArguments {
    /// Mirrors, and prints what changed.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        let (request, options) = self.request(global)?;
        let reporter = Reporter::for_command(global)?;
        let digests = Mutex::new(String::new());
        let broken = Mutex::new(None);
        let report = |outcome: &Outcome| {
            if let (Some(digest), Status::Copied(_) | Status::Current) = (outcome.digest, &outcome.status) {
                let line = format!("{digest} {}\n", outcome.destination);
                digests.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push_str(&line);
            }
            if let Err(error) = self.show(outcome) {
                broken.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
            }
        };
        let done = sync::sync(&request, &options, &reporter, &report);
        reporter.finish();
        if let Some(file) = &self.digestfile {
            std::fs::write(file, digests.into_inner().unwrap_or_default()).at("write", file)?;
        }
        if let Some(error) = broken.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            return Err(error);
        }
        let outcomes = done?;
        if !global.quiet {
            note(&summary(&outcomes));
        }
        let count = |wanted: fn(&Status) -> bool| outcomes.iter().filter(|outcome| wanted(&outcome.status)).count();
        let failed = count(|status| matches!(status, Status::Failed(_)));
        if failed > 0 {
            return Err(Error::new(
                Kind::Unavailable,
                format!("{failed} of {} images could not be copied", outcomes.len()),
            ));
        }
        let behind = count(|status| matches!(status, Status::WouldCopy | Status::WouldRemove));
        match self.check && behind > 0 {
            true => Err(Error::new(
                Kind::Conflict,
                format!("{behind} of {} images are not as they should be", outcomes.len()),
            )),
            false => Ok(()),
        }
    }

    /// Tells what changed; what was there already is told in JSON only.
    fn show(&self, outcome: &Outcome) -> Result<()> {
        let Outcome { source, destination, digest, status } = outcome;
        let (word, moved, error) = match status {
            Status::Current => ("current", None, None),
            Status::Copied(moved) => ("copied", Some(moved), None),
            Status::WouldCopy => ("would copy", None, None),
            Status::Removed => ("removed", None, None),
            Status::WouldRemove => ("would remove", None, None),
            Status::Failed(error) => ("failed", None, Some(error.chain())),
        };
        if self.json {
            let line = json!({
                "status": word, "source": source, "destination": destination, "digest": digest, "error": error,
                "bytes": moved.map(|moved| moved.bytes),
                "blobs": moved.map(|moved| json!({"sent": moved.sent, "mounted": moved.mounted, "present": moved.present})),
            });
            return print(&format!("{line}\n"));
        }
        match status {
            Status::Current => Ok(()),
            Status::Failed(_) => {
                note(&format!("{source}: {}", error.unwrap_or_default()));
                Ok(())
            }
            Status::Removed | Status::WouldRemove => print(&format!("{word} {destination}\n")),
            _ => print(&format!("{word} {source} to {destination}\n")),
        }
    }

    fn request(&self, global: &Global) -> Result<(Request, Options)> {
        let usage = |sentence: String| Error::new(Kind::Usage, sentence);
        let is_file = self.source.ends_with(".yml") || self.source.ends_with(".yaml");
        let src = self.src.as_deref().unwrap_or(if is_file { "yaml" } else { "docker" });
        let mut options = self.options(global)?;
        let (mut entries, mut folders) = (Vec::new(), Vec::new());
        match src {
            "yaml" => {
                let path = Path::new(&self.source);
                let text = std::fs::read_to_string(path).at("read", path)?;
                let wanted = sync::parse(&text).at("read", path)?;
                (entries, options.hosts) = (wanted.entries, wanted.hosts);
            }
            "docker" => {
                let bare = self.source.strip_prefix("docker://").unwrap_or(&self.source);
                let mut entry = Entry::new(bare.parse()?);
                entry.filter = self.filter()?;
                entries.push(entry);
            }
            "dir" => folders = images_below(Path::new(&self.source), self.scoped)?,
            other => return Err(usage(format!("`--src {other}` is not known")).hint("docker, dir or yaml")),
        }
        let destination = match (self.dest.as_deref(), self.destination.as_deref()) {
            (None, None) => Destination::Own,
            (Some("dir"), Some(dir)) => Destination::Directory(dir.into()),
            (Some("docker"), Some(base)) => {
                Destination::Registry(base.trim_start_matches("docker://").trim_end_matches('/').to_owned())
            }
            // Without skopeo's words a repository becomes the repository that was named.
            (None, Some(target)) if src == "docker" => {
                entries[0].target = Some(target.strip_prefix("docker://").unwrap_or(target).parse::<Reference>()?);
                Destination::Own
            }
            (None, Some(base)) => Destination::Registry(base.trim_end_matches('/').to_owned()),
            (Some("docker" | "dir"), None) => return Err(usage("there is no destination".to_owned())),
            (Some(other), _) => return Err(usage(format!("`--dest {other}` is not known")).hint("docker or dir")),
        };
        let request = Request {
            entries,
            folders,
            destination,
            scoped: self.scoped,
            suffix: self.append_suffix.clone(),
            dry_run: self.dry_run || self.check,
            delete: self.delete,
            keep_going: self.keep_going || self.check,
            shard: self.shard.unwrap_or((0, 1)),
            jobs: self.jobs,
            companions: Companions { referrers: self.referrers, digest_tags: self.digest_tags },
        };
        Ok((request, options))
    }

    fn filter(&self) -> Result<Filter> {
        let mut filter = Filter::default();
        filter.latest = self.latest;
        self.tags.iter().try_for_each(|expression| filter.allow(expression))?;
        self.exclude_tags.iter().try_for_each(|expression| filter.deny(expression))?;
        self.semver.iter().try_for_each(|range| filter.within(range))?;
        filter.since = self.since.as_deref().map(moment).transpose()?;
        Ok(filter)
    }

    fn options(&self, global: &Global) -> Result<Options> {
        let both = self.sides.apply(self.access.options(global)?)?;
        let platforms = match self.platform.platforms(global) {
            Platforms::Auto if self.all => Platforms::All,
            Platforms::Auto if global.is_skopeo() => Platforms::Host,
            chosen => chosen,
        };
        let format = self.format.as_deref().map(format).transpose()?;
        Ok(Options { platforms, format, preserve_digests: self.preserve_digests, ..both })
    }
}

/// A date, a time, or how long ago, in seconds since 1970.
fn moment(text: &str) -> Result<i64> {
    let whole_day = format!("{text}T00:00:00Z");
    if let Some(moment) = time::parse_rfc3339(text).or_else(|| time::parse_rfc3339(&whole_day)) {
        return Ok(moment);
    }
    let ago: Duration = duration(text).map_err(|_| {
        Error::new(Kind::Usage, format!("`--since {text}` is no date"))
            .hint("write 2026-01-31, or 90d for how long ago")
    })?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(i64::try_from(now.saturating_sub(ago).as_secs()).unwrap_or(0))
}

/// The images in the form of `dir:` in and below a folder, with the names they get.
fn images_below(base: &Path, scoped: bool) -> Result<Vec<(PathBuf, String)>> {
    let (mut found, mut open) = (Vec::new(), vec![base.to_owned()]);
    while let Some(dir) = open.pop() {
        if dir.join("manifest.json").is_file() {
            let whole = dir.strip_prefix(base).unwrap_or(&dir).to_string_lossy().into_owned();
            let last = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            found.push((dir, if scoped && !whole.is_empty() { whole } else { last }));
            continue;
        }
        for entry in std::fs::read_dir(&dir).at("read", &dir)? {
            let path = entry.at("read", &dir)?.path();
            if path.is_dir() {
                open.push(path);
            }
        }
    }
    found.sort();
    match found.is_empty() {
        true => Err(Error::new(Kind::NotFound, format!("folder `{}` has no images", base.display()))
            .hint("an image in the form of dir: has a manifest.json")),
        false => Ok(found),
    }
}

fn summary(outcomes: &[Outcome]) -> String {
    let mut moved = crate::Moved::default();
    let (mut copied, mut current, mut rest) = (0, 0, 0);
    for outcome in outcomes {
        match &outcome.status {
            Status::Copied(more) => {
                copied += 1;
                moved.add(more);
            }
            Status::Current => current += 1,
            _ => rest += 1,
        }
    }
    let rest = if rest > 0 { format!(", {rest} otherwise") } else { String::new() };
    format!(
        "{copied} images copied, {current} current{rest}: {} blobs sent ({}), {} mounted, {} already there",
        moved.sent,
        size(moved.bytes),
        moved.mounted,
        moved.present
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_whole() {
        assert_eq!((shard("1/4"), shard("4/4")), (Ok((0, 4)), Ok((3, 4))));
        for text in ["0/4", "5/4", "1", "x/4", "1/0"] {
            assert!(shard(text).is_err(), "{text}");
        }
    }

    #[test]
    fn moments_are_dates_or_ages() {
        assert_eq!(moment("1970-01-02").ok(), Some(86_400));
        assert_eq!(moment("1970-01-01T00:01:00Z").ok(), Some(60));
        assert!(moment("1h").is_ok_and(|moment| moment > 1_600_000_000));
        assert!(moment("soon").is_err());
    }
}
