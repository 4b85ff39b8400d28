//! Names without a registry: what they may stand for.
//!
//! Source: `containers-registries.conf(5)`, "NOTE: RISK OF USING UNQUALIFIED IMAGE NAMES" and `short-name-mode`.
//! An alias counts before the registries to search; where nothing is configured, a short name is Docker Hub's. Nobody
//! is asked: where containers' tools would ask, several registries are an error in the mode `enforcing`, and are tried
//! one after the other in the others.

use std::collections::BTreeMap;
use std::path::PathBuf;

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::reference::Reference;
use serde::Deserialize;

/// What is configured about short names.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ShortNames {
    search: Vec<String>,
    mode: Option<Mode>,
    aliases: BTreeMap<String, String>,
}

/// What to do where several registries may be meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    /// An error.
    Enforcing,
    /// All are tried.
    Permissive,
    /// All are tried, and aliases do not count.
    Disabled,
}

/// What a file says about short names.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Said {
    unqualified_search_registries: Option<Vec<String>>,
    short_name_mode: Option<Mode>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
}

impl Said {
    /// The form of version 1.
    pub(super) fn searching(registries: Vec<String>) -> Self {
        Self { unqualified_search_registries: Some(registries), ..Self::default() }
    }

    /// Whether there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.unqualified_search_registries.is_none() && self.short_name_mode.is_none() && self.aliases.is_empty()
    }
}

impl ShortNames {
    /// Adds what a later file says: lists and modes are replaced, aliases one by one; an empty one is taken back.
    ///
    /// # Errors
    /// A registry or an alias is none.
    pub(super) fn merge(&mut self, said: Said) -> Result<()> {
        if let Some(search) = said.unqualified_search_registries {
            for registry in &search {
                format!("{}/x", registry.trim_end_matches('/'))
                    .parse::<Reference>()
                    .context(|| format!("`unqualified-search-registries` has `{registry}`"))?;
            }
            self.search = search;
        }
        self.mode = said.short_name_mode.or(self.mode);
        for (name, target) in said.aliases {
            if target.is_empty() {
                self.aliases.remove(&name);
                continue;
            }
            let whole = target.parse::<Reference>().context(|| format!("the alias `{name}` leads to `{target}`"))?;
            if is_short(&target) || whole.tag().is_some() || whole.digest().is_some() {
                let sentence = format!("the alias `{name}` leads to `{target}`, which is no whole repository");
                return Err(Error::new(Kind::Invalid, sentence));
            }
            self.aliases.insert(name, target);
        }
        Ok(())
    }

    /// What a name may stand for, in the order to try; empty for one that is whole, or where nothing is configured.
    ///
    /// # Errors
    /// Several registries may be meant and the mode forbids to try them; what comes out is no name.
    pub(super) fn meanings(&self, text: &str) -> Result<Vec<Reference>> {
        if !is_short(text) {
            return Ok(Vec::new());
        }
        let mode = self.mode.unwrap_or(Mode::Permissive);
        let (name, place) = text.split_at(end_of_name(text));
        if let Some(target) = self.aliases.get(name).filter(|_| mode != Mode::Disabled) {
            return Ok(vec![format!("{target}{place}").parse()?]);
        }
        if mode == Mode::Enforcing && self.search.len() > 1 {
            let sentence = format!("`{text}` may stand for an image in {}", self.search.join(", "));
            return Err(Error::new(Kind::Usage, sentence).hint(
                "write the whole name, or give it an alias in registries.conf: its short-name-mode is enforcing",
            ));
        }
        self.search.iter().map(|registry| format!("{}/{text}", registry.trim_end_matches('/')).parse()).collect()
    }
}

/// Where the tag or digest of a name begins.
fn end_of_name(text: &str) -> usize {
    let whole = text.find('@').unwrap_or(text.len());
    let last = text[..whole].rfind('/').map_or(0, |slash| slash + 1);
    text[last..whole].find(':').map_or(whole, |colon| last + colon)
}

/// Whether a name has no registry in it.
fn is_short(text: &str) -> bool {
    match text.split_once('/') {
        None => true,
        Some((first, _)) => !first.contains(['.', ':']) && first != "localhost",
    }
}

/// Where containers' tools keep the aliases that people chose when they were asked.
pub(super) fn chosen_aliases(home: Option<PathBuf>, cache: Option<PathBuf>, uid: u32) -> Option<PathBuf> {
    const FILE: &str = "containers/short-name-aliases.conf";
    match uid {
        0 => Some(PathBuf::from("/var/cache").join(FILE)),
        _ => Some(cache.or_else(|| Some(home?.join(".cache")))?.join(FILE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(said: &str) -> ShortNames {
        let mut names = ShortNames::default();
        names.merge(toml::from_str(said).expect("valid")).expect("valid");
        names
    }

    #[test]
    fn aliases_come_before_searches() {
        let two = "unqualified-search-registries = ['quay.io', 'docker.io']\n";
        let alias = "[aliases]\nubi = 'registry.access.redhat.com/ubi'\n'team/app' = 'r.io:5000/team/app'\n";
        let check = |said: &str, text: &str, expected: &[&str]| {
            let found = names(said).meanings(text).map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(found.expect("allowed"), expected, "{text}");
        };
        check("", "debian:12", &[]);
        check(two, "quay.io/x:1", &[]);
        check(two, "localhost/x", &[]);
        check(two, "debian:12", &["quay.io/debian:12", "docker.io/library/debian:12"]);
        check(&format!("{two}{alias}"), "ubi:9", &["registry.access.redhat.com/ubi:9"]);
        check(&format!("{two}{alias}"), "team/app", &["r.io:5000/team/app"]);
        check(&format!("{two}short-name-mode = 'disabled'\n{alias}"), "ubi", &["quay.io/ubi", "docker.io/library/ubi"]);
        let strict = names(&format!("{two}short-name-mode = 'enforcing'\n{alias}"));
        assert_eq!(strict.meanings("debian").expect_err("two").kind(), Kind::Usage);
        assert_eq!(strict.meanings("ubi").expect("one").len(), 1);
    }

    #[test]
    fn later_files_replace_and_take_back() {
        let mut all = names("unqualified-search-registries = ['a.io']\n[aliases]\nx = 'a.io/x'\ny = 'a.io/y'\n");
        all.merge(toml::from_str("[aliases]\nx = ''\ny = 'b.io/y'\n").expect("valid")).expect("valid");
        assert_eq!(all.meanings("x").expect("allowed")[0].to_string(), "a.io/x");
        assert_eq!(all.meanings("y").expect("allowed")[0].to_string(), "b.io/y");
        for bad in ["[aliases]\nx = 'y'\n", "[aliases]\nx = 'a.io/y:1'\n", "unqualified-search-registries = ['A B']\n"]
        {
            assert!(ShortNames::default().merge(toml::from_str(bad).expect("TOML")).is_err(), "{bad}");
        }
    }
}
