//! Which ids a container's own user namespace has. Pure: from the user's words and the ids there are to a [`Mapping`] in
//! the ids of the caller's namespace, which is the machine's for root, and for an ordinary user the one that holds the
//! user as 0 and the subordinate ids from 1 on.
//!
//! The rules are podman's (podman-run(1), `--userns` and `--uidmap`).

use layerfs::error::{Error, Kind, Result};
use layerfs::userns::{IdRange, Mapping};

use crate::options::{IdRule, UserNamespace};
use crate::spec::user;

/// Fewest ids that `auto` gives a container, and most.
const AUTO_SIZE: std::ops::RangeInclusive<u32> = 1024..=65_536;
/// Whom root's `auto` takes ids from.
pub const AUTO_OWNER: &str = "containers";

/// What there is to choose from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ids {
    /// The maps of the caller's namespace.
    pub own: Mapping,
    /// The user and group before that was entered; `None` for root.
    pub user: Option<(u32, u32)>,
    /// Ranges of [`AUTO_OWNER`], or of the names that were given, as host ids.
    pub ranges: Mapping,
    /// What other containers have.
    pub used: Vec<Mapping>,
    /// How many ids the image needs.
    pub needed: u32,
}

/// The maps of a container's own user namespace; `None` where it has none of its own.
///
/// # Errors
/// There are not enough ids, or rules that contradict each other.
pub fn plan(mode: &UserNamespace, ids: &Ids) -> Result<Option<Mapping>> {
    let both = |map: &dyn Fn(&Side<'_>) -> Result<Vec<IdRange>>| {
        let sides = Side::both(ids);
        Ok(Some(Mapping { uids: map(&sides[0])?, gids: map(&sides[1])? }))
    };
    match mode {
        UserNamespace::Host | UserNamespace::Container(_) | UserNamespace::Path(_) => Ok(None),
        UserNamespace::KeepId { uid, gid, size } => {
            let Some(own) = ids.user else {
                if size.is_some() {
                    return Err(usage("--userns keep-id: size= is for users other than root"));
                }
                return both(&|side| Ok(side.identity()));
            };
            let wanted = [uid.unwrap_or(own.0), gid.unwrap_or(own.1)];
            let [users, groups] = Side::both(ids);
            let limit = |side: &Side<'_>| side.subordinate().min(size.unwrap_or(u32::MAX));
            Ok(Some(Mapping { uids: keep(wanted[0], limit(&users)), gids: keep(wanted[1], limit(&groups)) }))
        }
        UserNamespace::NoMap if ids.user.is_none() => {
            Err(usage("--userns nomap is for users other than root, who have ids beside their own"))
        }
        UserNamespace::NoMap => both(&|side| match side.subordinate() {
            0 => Err(none_left()),
            size => Ok(vec![IdRange { container: 0, host: 1, size }]),
        }),
        UserNamespace::Auto { size, uids, gids } => {
            let size = size.unwrap_or_else(|| ids.needed.clamp(*AUTO_SIZE.start(), *AUTO_SIZE.end()));
            let [users, groups] = Side::both(ids);
            Ok(Some(Mapping { uids: users.choose(size, uids)?, gids: groups.choose(size, gids)? }))
        }
        UserNamespace::Rules { uids, gids } => {
            let [users, groups] = Side::both(ids);
            Ok(Some(Mapping { uids: users.by_rules(uids)?, gids: groups.by_rules(gids)? }))
        }
        UserNamespace::Named { .. } => both(&|side| {
            let mut map = Vec::new();
            for range in side.ranges {
                let rule = IdRule {
                    container: end_of(&map),
                    from: range.host,
                    size: range.size,
                    host: true,
                    ..IdRule::default()
                };
                map.extend(side.pieces(&rule)?);
            }
            Ok(map)
        }),
    }
}

/// Who the process is unless the user or the image says: with `keep-id`, the user.
pub fn default_user(mode: &UserNamespace, own: Option<(u32, u32)>) -> Option<String> {
    let UserNamespace::KeepId { uid, gid, .. } = mode else { return None };
    let own = own.unwrap_or((0, 0));
    Some(format!("{}:{}", uid.unwrap_or(own.0), gid.unwrap_or(own.1)))
}

/// How many ids an image's users and groups take.
pub fn needed(passwd: &[u8], group: &[u8]) -> u32 {
    // The user that stands for everybody else has a high number and no files.
    let ids = user::entries(passwd).chain(user::entries(group));
    let highest = ids.filter(|(name, _)| !matches!(*name, "nobody" | "nogroup")).map(|(_, id)| id).max();
    highest.map_or(1, |id| id.saturating_add(1))
}

/// Users or groups.
struct Side<'a> {
    own: &'a [IdRange],
    ranges: &'a [IdRange],
    used: Vec<&'a IdRange>,
    is_user: bool,
}

impl<'a> Side<'a> {
    fn both(ids: &'a Ids) -> [Self; 2] {
        let is_user = ids.user.is_some();
        let used = |of: fn(&Mapping) -> &Vec<IdRange>| ids.used.iter().flat_map(of).collect();
        [
            Self { own: &ids.own.uids, ranges: &ids.ranges.uids, used: used(|map| &map.uids), is_user },
            Self { own: &ids.own.gids, ranges: &ids.ranges.gids, used: used(|map| &map.gids), is_user },
        ]
    }

    /// How many ids there are beside the user's own.
    fn subordinate(&self) -> u32 {
        let all: u64 = self.own.iter().map(|range| u64::from(range.size)).sum();
        u32::try_from(all.saturating_sub(1)).unwrap_or(u32::MAX)
    }

    fn identity(&self) -> Vec<IdRange> {
        self.own.iter().map(|range| IdRange { host: range.container, ..*range }).collect()
    }

    /// A rule as ranges of the caller's ids: a run of the host's may lie in several places there.
    fn pieces(&self, rule: &IdRule) -> Result<Vec<IdRange>> {
        let wanted = IdRange { container: rule.container, host: rule.from, size: rule.size };
        if !rule.host {
            return Ok(vec![wanted]);
        }
        let mut found = Vec::new();
        for own in self.own {
            let (from, to) = (wanted.host.max(own.host), end(wanted.host, wanted.size).min(end(own.host, own.size)));
            if from < to {
                found.push(IdRange {
                    container: wanted.container + (from - wanted.host),
                    host: own.container + (from - own.host),
                    size: to - from,
                });
            }
        }
        match found.iter().map(|range| range.size).sum::<u32>() == wanted.size {
            true => Ok(found),
            false => Err(usage(format!("id {} of the host is not among the ids you may use", wanted.host))
                .hint("/etc/subuid and /etc/subgid list yours")),
        }
    }

    fn by_rules(&self, rules: &[IdRule]) -> Result<Vec<IdRange>> {
        if rules.is_empty() && self.is_user {
            // What was said was for the others alone.
            return Ok(self.identity());
        }
        let mut map: Vec<IdRange> = Vec::new();
        for rule in rules {
            for piece in self.pieces(rule)? {
                if rule.extend {
                    map = map.into_iter().flat_map(|range| without(range, piece)).collect();
                } else if let Some(other) = map.iter().find(|range| overlap(range, &piece)) {
                    let (mine, theirs) = (written(&piece), written(other));
                    return Err(usage(format!("id mapping `{mine}` overlaps `{theirs}`"))
                        .hint("a `+` before it lets it take its place"));
                }
                map.push(piece);
            }
        }
        if self.is_user && rules.iter().any(|rule| rule.extend) {
            let free = free(self.identity(), map.iter().copied());
            fill(&mut map, free, u32::MAX);
        }
        map.sort_by_key(|range| range.container);
        match map.is_empty() {
            true => Err(usage("a user namespace without any id")),
            false => Ok(map),
        }
    }

    fn choose(&self, size: u32, rules: &[IdRule]) -> Result<Vec<IdRange>> {
        let mut map = self.by_rules_or_none(rules)?;
        let all: Vec<IdRange> = match self.is_user {
            // The user's own id is nobody's but the user's.
            true => without_first(self.identity()),
            false => self.ranges.iter().map(|range| IdRange { container: range.host, ..*range }).collect(),
        };
        let taken = self.used.iter().map(|range| **range).chain(map.iter().copied());
        let unused = free(all, taken.collect::<Vec<_>>().into_iter());
        if !fill(&mut map, unused, size) {
            return Err(none_left());
        }
        map.sort_by_key(|range| range.container);
        Ok(map)
    }

    fn by_rules_or_none(&self, rules: &[IdRule]) -> Result<Vec<IdRange>> {
        if rules.is_empty() { Ok(Vec::new()) } else { self.by_rules(rules) }
    }
}

fn usage(message: impl Into<String>) -> Error {
    Error::new(Kind::Usage, message)
}

fn none_left() -> Error {
    Error::new(Kind::Limit, "there are not enough ids for a user namespace that no other container shares").hint(
        "name fewer by --userns auto:size=N, remove containers that have all (keep-id and nomap), or give more: \
         sudo usermod --add-subuids FIRST-LAST --add-subgids FIRST-LAST $USER",
    )
}

fn end(first: u32, size: u32) -> u32 {
    first.saturating_add(size)
}

fn end_of(map: &[IdRange]) -> u32 {
    map.iter().map(|range| end(range.container, range.size)).max().unwrap_or(0)
}

/// The user as `id`, and everybody else in order around it.
fn keep(id: u32, subordinate: u32) -> Vec<IdRange> {
    let before = id.min(subordinate);
    let after = subordinate - before;
    let parts = [
        IdRange { container: 0, host: 1, size: before },
        IdRange { container: id, host: 0, size: 1 },
        IdRange { container: id.saturating_add(1), host: before + 1, size: after },
    ];
    parts.into_iter().filter(|range| range.size > 0).collect()
}

fn overlap(a: &IdRange, b: &IdRange) -> bool {
    let meet = |a: u32, b: u32, sizes: (u32, u32)| a < end(b, sizes.1) && b < end(a, sizes.0);
    let sizes = (a.size, b.size);
    meet(a.container, b.container, sizes) || meet(a.host, b.host, sizes)
}

/// What is left of `range` when `other` takes its ids, inside and outside.
fn without(range: IdRange, other: IdRange) -> Vec<IdRange> {
    let cut = |range: IdRange, first: u32, other: u32, size: u32| {
        let before = other.saturating_sub(first).min(range.size);
        let from = end(other, size).saturating_sub(first).min(range.size).max(before);
        [
            IdRange { size: before, ..range },
            IdRange { container: range.container + from, host: range.host + from, size: range.size - from },
        ]
    };
    let inside = cut(range, range.container, other.container, other.size);
    let both = inside.into_iter().flat_map(|part| match part.size {
        0 => Vec::new(),
        _ => cut(part, part.host, other.host, other.size).to_vec(),
    });
    both.filter(|part| part.size > 0).collect()
}

/// Ids outside that are in `all` and that nobody has.
fn free(all: Vec<IdRange>, taken: impl Iterator<Item = IdRange> + Clone) -> Vec<IdRange> {
    let mut left = all;
    for other in taken {
        // Only the ids outside matter here.
        left = left
            .into_iter()
            .flat_map(|range| {
                let before = other.host.saturating_sub(range.host).min(range.size);
                let from = end(other.host, other.size).saturating_sub(range.host).min(range.size).max(before);
                [
                    IdRange { size: before, ..range },
                    IdRange { host: range.host + from, size: range.size - from, ..range },
                ]
            })
            .filter(|range| range.size > 0)
            .collect();
    }
    left.sort_by_key(|range| range.host);
    left
}

fn without_first(mut all: Vec<IdRange>) -> Vec<IdRange> {
    if let Some(first) = all.iter_mut().find(|range| range.host == 0) {
        (first.container, first.host, first.size) = (1, 1, first.size - 1);
    }
    all.retain(|range| range.size > 0);
    all
}

/// Gives ids inside that have none, from 0 up to but not including `limit`, those of `free` in order; says whether all
/// got one.
fn fill(map: &mut Vec<IdRange>, free: Vec<IdRange>, limit: u32) -> bool {
    let mut next = 0;
    for mut range in free {
        while range.size > 0 && next < limit {
            // The ids inside that are given already.
            if let Some(taken) =
                map.iter().find(|taken| taken.container <= next && next < end(taken.container, taken.size))
            {
                next = end(taken.container, taken.size);
                continue;
            }
            let until = map.iter().map(|taken| taken.container).filter(|first| *first > next).min().unwrap_or(limit);
            let size = range.size.min(until.min(limit) - next);
            map.push(IdRange { container: next, host: range.host, size });
            next += size;
            range = IdRange { host: range.host + size, size: range.size - size, ..range };
        }
    }
    while let Some(taken) = map.iter().find(|taken| taken.container <= next && next < end(taken.container, taken.size))
    {
        next = end(taken.container, taken.size);
    }
    next >= limit
}

fn written(range: &IdRange) -> String {
    format!("{}:{}:{}", range.container, range.host, range.size)
}

#[cfg(test)]
mod tests;
