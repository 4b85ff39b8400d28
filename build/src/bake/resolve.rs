//! From all definitions to the targets that are asked for: groups, inheritance, overrides and links.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use layerfs::error::{Error, Kind, Result};
use serde_json::{Map, Value as Json};

use super::entries::distinct;
use super::overrides::{self, Override, Overrides};
use super::target::{Group, Target};
use crate::dockerfile::Fault;

/// Everything that the files define.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    pub(super) groups: Vec<Group>,
    pub(super) targets: Vec<Target>,
}

/// What is to be built.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Resolved {
    pub(super) groups: BTreeMap<String, Group>,
    pub(super) targets: BTreeMap<String, Target>,
}

impl Definitions {
    /// Adds the definitions of another file: what it says of a target goes over what is known.
    pub(super) fn add(&mut self, groups: Vec<Group>, targets: Vec<Target>) {
        for group in groups {
            match self.groups.iter_mut().find(|known| known.name == group.name) {
                Some(known) => {
                    known.targets.extend(group.targets);
                    known.targets = distinct(&known.targets);
                }
                None => self.groups.push(group),
            }
        }
        for target in targets {
            match self.targets.iter_mut().find(|known| known.name == target.name) {
                Some(known) => known.merge(&target),
                None => self.targets.push(target),
            }
        }
    }

    /// The targets that `names` mean, complete.
    ///
    /// # Errors
    /// A name is not known, or targets go round in a circle.
    pub(super) fn resolve(
        &self,
        names: &[String],
        sets: &[String],
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Resolved> {
        let mut wanted = Vec::new();
        for name in names {
            // A service's name may have a point, a target's may not.
            wanted.extend(self.named(&name.replace('.', "_"))?);
        }
        let wanted = distinct(&wanted);
        let overrides = overrides::parse(sets, self, env)?;
        let mut resolved = Resolved::default();
        for name in &wanted {
            let (mut targets, mut groups) = (Vec::new(), BTreeSet::new());
            self.spread(name, &mut targets, &mut groups);
            for target in targets {
                if let Entry::Vacant(place) = resolved.targets.entry(target) {
                    let complete = self.target(place.key(), &overrides)?;
                    place.insert(complete);
                }
            }
            let used = self.groups.iter().filter(|group| groups.contains(&group.name));
            resolved.groups.extend(used.map(|group| (group.name.clone(), group.clone())));
        }
        let had_default = resolved.groups.contains_key("default");
        for name in &wanted {
            if name == "default" && had_default {
                continue;
            }
            let group = resolved.groups.entry("default".to_owned()).or_default();
            group.targets.push(name.clone());
        }
        for group in resolved.groups.values_mut() {
            group.targets = distinct(&group.targets);
        }
        if let Some(group) = resolved.groups.get_mut("default") {
            group.targets.sort();
        }
        let names: Vec<String> = resolved.targets.keys().cloned().collect();
        for name in names {
            self.link(&name, &mut resolved.targets, &overrides, &mut Vec::new())?;
        }
        Ok(resolved)
    }

    /// The groups and targets that a name or pattern means.
    fn named(&self, pattern: &str) -> Result<Vec<String>> {
        let all = || self.groups.iter().map(|one| &one.name).chain(self.targets.iter().map(|one| &one.name));
        if !pattern.contains(['*', '?', '[', ']']) {
            return match all().any(|name| name == pattern) {
                true => Ok(vec![pattern.to_owned()]),
                false => Err(self.unknown(pattern)),
            };
        }
        let found: Vec<String> = all().filter(|name| matches(pattern, name)).cloned().collect();
        if found.is_empty() { Err(self.unknown(pattern)) } else { Ok(found) }
    }

    fn unknown(&self, name: &str) -> Error {
        let names: Vec<&str> = self
            .groups
            .iter()
            .map(|one| one.name.as_str())
            .chain(self.targets.iter().map(|one| one.name.as_str()))
            .collect();
        let near = Fault::unknown(String::new(), name, names.iter().copied()).hint;
        let shown = names.iter().filter(|name| !name.starts_with('_')).take(20).copied().collect::<Vec<_>>().join(", ");
        let listed = if shown.is_empty() { "the files define none".to_owned() } else { format!("there are {shown}") };
        Error::new(Kind::NotFound, format!("there is no target `{name}`")).hint(near.unwrap_or(listed))
    }

    /// The targets of a group and of the groups in it; those groups themselves.
    fn spread(&self, name: &str, targets: &mut Vec<String>, groups: &mut BTreeSet<String>) {
        match self.groups.iter().find(|group| group.name == name) {
            Some(group) => {
                if groups.insert(name.to_owned()) {
                    group.targets.iter().for_each(|inner| self.spread(inner, targets, groups));
                }
            }
            None => targets.push(name.to_owned()),
        }
    }

    /// A target with everything it inherits and what the command line says.
    fn target(&self, name: &str, overrides: &Overrides) -> Result<Target> {
        let mut target = self.inherited(name, overrides, &mut Vec::new())?;
        target.inherits.clear();
        target.context.get_or_insert_with(|| ".".to_owned());
        if target.dockerfile.as_deref().is_none_or(str::is_empty) {
            target.dockerfile = Some("Dockerfile".to_owned());
        }
        Ok(target)
    }

    fn inherited(&self, name: &str, overrides: &Overrides, above: &mut Vec<String>) -> Result<Target> {
        let own = self.targets.iter().find(|target| target.name == name).ok_or_else(|| self.unknown(name))?;
        let mut target = Target { name: name.to_owned(), ..Target::default() };
        above.push(name.to_owned());
        for parent in &own.inherits {
            if above.contains(parent) {
                continue;
            }
            let parent = self.inherited(parent, overrides, above)?;
            target.merge(&parent);
        }
        above.pop();
        target.merge(own);
        let none: &[Override] = &[];
        overrides::apply(&mut target, overrides.get(name).map_or(none, |list| list))?;
        target.normalize();
        Ok(target)
    }

    /// Adds the targets that a target takes files from.
    fn link(
        &self,
        name: &str,
        targets: &mut BTreeMap<String, Target>,
        overrides: &Overrides,
        above: &mut Vec<String>,
    ) -> Result<()> {
        above.push(name.to_owned());
        let target = targets[name].clone();
        for place in target.contexts.values() {
            let Some(other) = place.strip_prefix("target:") else { continue };
            if above.iter().any(|known| known == other) {
                let circle = above.iter().map(String::as_str).chain([other]).collect::<Vec<_>>().join(" → ");
                return Err(Error::new(Kind::Invalid, format!("targets need each other in a circle: {circle}")));
            }
            if !targets.contains_key(other) {
                let mut linked = self.target(other, overrides)?;
                linked.outputs = Some(vec![[("type".to_owned(), "cacheonly".to_owned())].into()]);
                linked.linked = true;
                targets.insert(other.to_owned(), linked);
            }
            self.link(other, targets, overrides, above)?;
            let other_target = targets[other].clone();
            let mine = targets.entry(name.to_owned()).or_default();
            mine.entitlements.extend(other_target.entitlements);
            mine.entitlements = distinct(&mine.entitlements);
            let (own, theirs) =
                (mine.platforms.clone().unwrap_or_default(), other_target.platforms.unwrap_or_default());
            if own.len() > 1 && theirs.len() > 1 && !own.iter().all(|platform| theirs.contains(platform)) {
                return Err(Error::new(
                    Kind::Invalid,
                    format!(
                        "target `{name}` needs `{other}` for {}, which is built for {}",
                        own.join(", "),
                        theirs.join(", ")
                    ),
                ));
            }
        }
        above.pop();
        Ok(())
    }
}

impl Resolved {
    /// As `--print` shows it.
    pub(super) fn print(&self) -> String {
        let mut out = Map::new();
        if !self.groups.is_empty() {
            let groups: Map<String, Json> = self.groups.iter().map(|(name, one)| (name.clone(), one.print())).collect();
            out.insert("group".to_owned(), Json::Object(groups));
        }
        let targets: Map<String, Json> = self.targets.iter().map(|(name, one)| (name.clone(), one.print())).collect();
        out.insert("target".to_owned(), Json::Object(targets));
        format!("{:#}\n", Json::Object(out))
    }
}

/// Whether a name fits a shell pattern: `*`, `?` and sets in brackets.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    fn rest(pattern: &[char], name: &[char]) -> bool {
        match (pattern.first(), name.first()) {
            (None, None) => true,
            (Some('*'), _) => (0..=name.len()).any(|skipped| rest(&pattern[1..], &name[skipped..])),
            (Some('?'), Some(_)) => rest(&pattern[1..], &name[1..]),
            (Some('['), Some(c)) => {
                let Some(end) = pattern.iter().position(|c| *c == ']') else { return false };
                let (set, negated) = match &pattern[1..end] {
                    ['^', set @ ..] => (set, true),
                    set => (set, false),
                };
                let mut found = false;
                let mut at = 0;
                while at < set.len() {
                    if set.get(at + 1) == Some(&'-') && at + 2 < set.len() {
                        found |= (set[at]..=set[at + 2]).contains(c);
                        at += 3;
                    } else {
                        found |= set[at] == *c;
                        at += 1;
                    }
                }
                found != negated && rest(&pattern[end + 1..], &name[1..])
            }
            (Some('\\'), Some(c)) => pattern.get(1) == Some(c) && rest(&pattern[2..], &name[1..]),
            (Some(p), Some(c)) => p == c && rest(&pattern[1..], &name[1..]),
            _ => false,
        }
    }
    rest(&pattern, &name)
}
