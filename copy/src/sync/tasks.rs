//! From what is asked for to single images, and one image from there to its end.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use layerfs::digest::Digest;
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::Descriptor;
use layerfs::reference::Reference;

use super::{Destination, Entry, LISTS, Listed, Request, Source, Status, Task};
use crate::companions::{Companions, is_digest_tag};
use crate::exchange::Exchange;
use crate::inventory::Platforms;
use crate::location::Location;
use crate::registry::Access;
use crate::transfer::{Reach, Shared};
use crate::transport::directory::Directory;
use crate::{removal, work};

/// What a list has to be asked for.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Question {
    Source(Reference),
    Target(Reference),
}

/// All images that are asked for, and the target repositories whose extras may be removed.
pub(super) fn collect(reach: &Reach<'_>, request: &Request) -> Result<(Vec<Task>, Vec<Listed>)> {
    let entries = repositories(reach, &request.entries)?;
    let mut questions = Vec::new();
    let mut targets = Vec::new();
    for entry in &entries {
        let target = target_of(request, entry)?;
        if needs_list(entry) || entry.digest_tags.unwrap_or(request.companions.digest_tags) {
            questions.push(Question::Source(bare(&entry.source)?));
        }
        if let Location::Registry(name) = &target {
            questions.push(Question::Target(bare(name)?));
        }
        targets.push(target);
    }
    for (_, name) in &request.folders {
        if let Destination::Registry(base) = &request.destination {
            questions.push(Question::Target(bare(&format!("{base}/{name}").parse()?)?));
        }
    }
    let mut seen = HashSet::new();
    questions.retain(|question| seen.insert(question.clone()));
    // Both sides at once: the lists do not depend on each other.
    let answers = work::map(&questions, LISTS, |question| match question {
        Question::Source(name) => reach.registry_source(name)?.tags(),
        Question::Target(name) => match reach.repository(name)?.tags() {
            // A repository that the first push makes.
            Err(error)
                if matches!(error.kind(), Kind::NotFound | Kind::Unauthorized | Kind::Denied | Kind::Invalid) =>
            {
                Ok(Vec::new())
            }
            tags => tags,
        },
    })?;
    let lists: HashMap<Question, Vec<String>> = questions.into_iter().zip(answers).collect();
    let (mut tasks, mut listed, mut taken) = (Vec::new(), Vec::new(), HashSet::new());
    for (entry, target) in entries.iter().zip(&targets) {
        let known = lists.get(&Question::Source(bare(&entry.source)?)).map(Vec::as_slice).unwrap_or_default();
        let selected = select(reach, entry, known)?;
        let there: &[String] = match target {
            Location::Registry(name) => {
                lists.get(&Question::Target(bare(name)?)).map(Vec::as_slice).unwrap_or_default()
            }
            _ => &[],
        };
        let present: HashSet<&String> = there.iter().collect();
        let digest_tags: Arc<Vec<String>> = Arc::new(known.iter().filter(|tag| is_digest_tag(tag)).cloned().collect());
        let companions = Companions {
            referrers: entry.referrers.unwrap_or(request.companions.referrers),
            digest_tags: entry.digest_tags.unwrap_or(request.companions.digest_tags),
        };
        let mut wanted = HashSet::new();
        for source in selected {
            let target = named(target, &source, request)?;
            let tag = match &target {
                Location::Registry(name) => name.tag().map(str::to_owned),
                _ => None,
            };
            wanted.extend(tag.clone());
            if taken.insert(target.to_string()) {
                tasks.push(Task {
                    source: Source::Registry(source),
                    present: tag.is_none_or(|tag| present.contains(&tag)),
                    target,
                    platforms: entry.platforms.clone(),
                    companions,
                    digest_tags: digest_tags.clone(),
                    backup: entry.backup.clone(),
                });
            }
        }
        if let (Location::Registry(name), true) = (target, needs_list(entry)) {
            let backup = entry.backup.is_some();
            if request.delete && backup {
                return Err(Error::new(
                    Kind::Usage,
                    format!("`{}` keeps backups, which --delete would remove", entry.source),
                ));
            }
            let there = there.to_vec();
            listed.push(Listed { repository: bare(name)?, there, wanted, filter: entry.filter.clone() });
        }
    }
    for (folder, name) in &request.folders {
        let target = match &request.destination {
            Destination::Registry(base) => {
                Location::Registry(format!("{base}/{name}{}", request.suffix).parse::<Reference>()?.or_latest())
            }
            Destination::Directory(base) => Location::Directory(base.join(name)),
            Destination::Own => return Err(Error::new(Kind::Usage, "images in folders need a destination")),
        };
        tasks.push(Task {
            source: Source::Folder(folder.clone()),
            target,
            present: true,
            platforms: Vec::new(),
            companions: Companions::NONE,
            digest_tags: Arc::default(),
            backup: None,
        });
    }
    Ok((tasks, listed))
}

/// Entries that mean a whole registry become one for each of its repositories.
fn repositories(reach: &Reach<'_>, entries: &[Entry]) -> Result<Vec<Entry>> {
    let mut all = Vec::new();
    for entry in entries {
        let Some(filter) = &entry.registry else {
            all.push(entry.clone());
            continue;
        };
        let base = |name: &Reference| name.repository().trim_end_matches("/all").to_owned();
        let (source, target) = (base(&entry.source), entry.target.as_ref().map(base));
        let (host, below) = source.split_once('/').map_or((source.as_str(), ""), |(host, path)| (host, path));
        for path in reach.host(host)?.catalog()? {
            let Some(rest) = path.strip_prefix(below) else { continue };
            let rest = rest.trim_start_matches('/');
            if filter.admits(rest) {
                let mut one = Entry { source: format!("{host}/{path}").parse()?, registry: None, ..entry.clone() };
                one.target = target.as_ref().map(|target| format!("{target}/{rest}").parse()).transpose()?;
                all.push(one);
            }
        }
    }
    Ok(all)
}

/// Whether the source's tags have to be listed, rather than being named.
fn needs_list(entry: &Entry) -> bool {
    entry.source.tag().is_none() && entry.source.digest().is_none() && entry.filter.exactly.is_none()
}

/// The repository a name is in, without tag and digest.
fn bare(name: &Reference) -> Result<Reference> {
    name.repository().parse()
}

/// The names of the images that an entry asks for.
fn select(reach: &Reach<'_>, entry: &Entry, known: &[String]) -> Result<Vec<Reference>> {
    if !needs_list(entry) && entry.filter.exactly.is_none() {
        return Ok(vec![entry.source.clone()]);
    }
    let names = match &entry.filter.exactly {
        Some(tags) => tags.clone(),
        None => known.to_vec(),
    };
    let mut filter = entry.filter.clone();
    let mut names: Vec<String> = match filter.since.take() {
        None => filter.select(names),
        // Dates cost questions: they are asked for those that pass anyway, before the newest are counted.
        Some(moment) => {
            let latest = filter.latest.take();
            let passing = filter.select(names);
            let repository = reach.registry_source(&bare(&entry.source)?)?;
            let dates = work::map(&passing, LISTS, |tag| removal::created_at(repository.repository_handle(), tag))?;
            let young = passing.into_iter().zip(dates).filter(|(_, made)| made.is_some_and(|made| made > moment));
            filter.latest = latest;
            filter.select(young.map(|(tag, _)| tag).collect())
        }
    };
    // Those with a subject go along with it, or not at all.
    if filter.exactly.is_none() && entry.digest_tags == Some(false) {
        names.retain(|tag| !is_digest_tag(tag));
    }
    names.iter().map(|tag| entry.source.with_tag(tag)).collect()
}

/// Where an entry's repository goes, without tags.
fn target_of(request: &Request, entry: &Entry) -> Result<Location> {
    if let Some(target) = &entry.target {
        return Ok(Location::Registry(target.clone()));
    }
    let name = match request.scoped {
        true => entry.source.repository(),
        false => entry.source.path().rsplit('/').next().unwrap_or_default().to_owned(),
    };
    match &request.destination {
        Destination::Own => Err(Error::new(Kind::Usage, format!("`{}` has no destination", entry.source))),
        Destination::Registry(base) => {
            let name = format!("{base}/{name}")
                .parse::<Reference>()
                .context(|| format!("destination of `{}`", entry.source))?;
            Ok(Location::Registry(name))
        }
        Destination::Directory(base) => Ok(Location::Directory(base.join(name))),
    }
}

/// The target of one image.
fn named(target: &Location, source: &Reference, request: &Request) -> Result<Location> {
    let tag = source.tag();
    Ok(match target {
        Location::Registry(name) if name.tag().is_some() || name.digest().is_some() => Location::Registry(name.clone()),
        Location::Registry(name) => Location::Registry(match (tag, source.digest()) {
            (Some(tag), None) => name.with_tag(&format!("{tag}{}", request.suffix))?,
            (_, Some(digest)) => name.with_digest(digest),
            (None, None) => name.with_tag(&format!("latest{}", request.suffix))?,
        }),
        Location::Directory(dir) => {
            let name = dir.file_name().unwrap_or_default().to_string_lossy();
            let end = match (tag, source.digest()) {
                (Some(tag), _) => format!(":{tag}{}", request.suffix),
                (None, Some(digest)) => format!("@{digest}"),
                (None, None) => ":latest".to_owned(),
            };
            Location::Directory(dir.with_file_name(format!("{name}{end}")))
        }
        other => other.clone(),
    })
}

/// Brings one image to its place, if it is not there.
pub(super) fn carry_out(
    reach: &Reach<'_>,
    request: &Request,
    exchange: &Exchange,
    task: &Task,
) -> Result<(Digest, Status)> {
    let platforms = match task.platforms.as_slice() {
        [] => Platforms::Auto,
        [one] => Platforms::One(one.clone()),
        several => Platforms::Some(several.to_vec()),
    };
    let wants_all = matches!(platforms, Platforms::Auto) && reach.copies_all();
    match (&task.source, &task.target) {
        (Source::Registry(source), Location::Registry(target)) => {
            let location = Location::Registry(source.clone());
            let signed = reach.check_policy(&location)?;
            let from = reach.registry_source(source)?;
            reach.check_signed(&location, &from, &signed)?;
            let endpoint = reach.repository(target)?;
            let mut stale = !task.present;
            if task.present && wants_all {
                let (ours, theirs) = std::thread::scope(|scope| {
                    let theirs = scope.spawn(|| endpoint.head(&target.locator(), Access::Push));
                    (from.head(), theirs.join())
                });
                let theirs = theirs.unwrap_or(Ok(None))?;
                let (ours, theirs) = (ours?.map(digest), theirs.map(digest));
                if let (Some(digest), true, false) = (ours, ours == theirs, task.companions.any()) {
                    return Ok((digest, Status::Current));
                }
                stale = ours != theirs;
                if let (Some(digest), true) = (ours, request.dry_run) {
                    return Ok((digest, if stale { Status::WouldCopy } else { Status::Current }));
                }
            }
            if request.dry_run {
                let root = reach.chosen_root(&from, &platforms)?;
                let current =
                    task.present && endpoint.head(&target.locator(), Access::Push)?.map(digest) == Some(root.digest);
                return Ok((root.digest, if current { Status::Current } else { Status::WouldCopy }));
            }
            if let Some(template) = task.backup.as_ref().filter(|_| task.present && stale) {
                keep_backup(&endpoint, target, template)?;
            }
            let shared = Shared { exchange, stale };
            let done = reach.copy_shared(&from, target, &platforms, &shared, task.companions, &task.digest_tags)?;
            Ok((done.root.digest, done.moved.map_or(Status::Current, Status::Copied)))
        }
        (source, target) => {
            let location = match source {
                Source::Registry(name) => Location::Registry(name.clone()),
                Source::Folder(dir) => Location::Directory(dir.clone()),
            };
            let signed = reach.check_policy(&location)?;
            let from = reach.source(&location, None)?;
            reach.check_signed(&location, &*from, &signed)?;
            if let Location::Directory(dir) = target {
                let root = from.root()?.0;
                if Directory::holds(dir, root.digest) {
                    return Ok((root.digest, Status::Current));
                }
                if request.dry_run {
                    return Ok((root.digest, Status::WouldCopy));
                }
            } else if request.dry_run {
                return Ok((from.root()?.0.digest, Status::WouldCopy));
            }
            let done = reach.copy_location(&*from, target, &platforms)?;
            Ok((done.root.digest, done.moved.map_or(Status::Current, Status::Copied)))
        }
    }
}

fn digest(descriptor: Descriptor) -> Digest {
    descriptor.digest
}

/// Gives what lies at the target another tag, before it is replaced.
fn keep_backup(repository: &crate::registry::Repository, target: &Reference, template: &str) -> Result<()> {
    let tag = target.tag().unwrap_or("latest");
    let name = template.replace("{{.Ref.Tag}}", tag).replace("{{ .Ref.Tag }}", tag);
    let name = match name.contains("{{") {
        true => {
            return Err(Error::new(Kind::Unsupported, format!("backup `{template}` has a template that is not known"))
                .hint("`{{.Ref.Tag}}` is"));
        }
        false => target.with_tag(name.rsplit(':').next().unwrap_or_default())?,
    };
    match repository.manifest(tag) {
        Ok((descriptor, bytes)) => repository.put_manifest(&name.locator(), &descriptor, &bytes).map(drop),
        Err(error) if error.kind() == Kind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
