//! `registries.conf`: mirrors, insecure registries, blocked ones, short names, credential helpers.
//!
//! Source: `containers-registries.conf(5)`. All of version 2 is read, with its drop-ins, and the three lists that
//! version 1 had.

mod short;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::reference::Reference;
use serde::Deserialize;

/// The registries a user configured; empty by default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Registries {
    registries: Vec<Registry>,
    short: short::ShortNames,
    helpers: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Registry {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<Mirror>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    pull_from_mirror: Option<Serves>,
}

/// What a mirror is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Serves {
    All,
    DigestOnly,
    TagOnly,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Document {
    #[serde(default)]
    registry: Vec<Registry>,
    credential_helpers: Option<Vec<String>>,
    #[serde(flatten)]
    short: short::Said,
    registries: Option<VersionOne>,
}

/// The tables of version 1.
#[derive(Deserialize)]
struct VersionOne {
    #[serde(default)]
    search: List,
    #[serde(default)]
    insecure: List,
    #[serde(default)]
    block: List,
}

#[derive(Default, Deserialize)]
struct List {
    #[serde(default)]
    registries: Vec<String>,
}

impl VersionOne {
    fn registries(&self) -> Vec<Registry> {
        let mut tables: Vec<Registry> = Vec::new();
        for name in self.insecure.registries.iter().chain(&self.block.registries) {
            if tables.iter().all(|table| table.prefix != *name) {
                tables.push(Registry {
                    prefix: name.clone(),
                    location: name.clone(),
                    insecure: self.insecure.registries.contains(name),
                    blocked: self.block.registries.contains(name),
                    ..Registry::default()
                });
            }
        }
        tables
    }
}

/// One place a repository can be had from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The name there.
    pub(crate) name: Reference,
    /// Whether plain HTTP and unknown certificates are accepted.
    pub(crate) insecure: bool,
}

impl Registries {
    /// Reads the user's configuration: `CONTAINERS_REGISTRIES_CONF`, else the file in the user's configuration
    /// folder, else the system's; then the drop-ins beside the latter two, or in `CONTAINERS_REGISTRIES_CONF_DIR`, in
    /// the order of their names; last the aliases that containers' tools have written down.
    ///
    /// # Errors
    /// A file is malformed, or the one named by the environment does not exist.
    pub fn load(env: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let path = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let config = path("XDG_CONFIG_HOME").or_else(|| Some(path("HOME")?.join(".config")));
        let user = config.map(|config| config.join("containers"));
        let system = PathBuf::from("/etc/containers");
        let (named, named_dir) = (path("CONTAINERS_REGISTRIES_CONF"), path("CONTAINERS_REGISTRIES_CONF_DIR"));
        let mut files: Vec<PathBuf> = match &named {
            Some(file) => vec![file.clone()],
            None => {
                let main = [user.as_ref(), Some(&system)].into_iter().flatten().map(|dir| dir.join("registries.conf"));
                main.filter(|file| file.exists()).take(1).collect()
            }
        };
        match (&named_dir, &named) {
            (Some(dir), _) => files.extend(sorted_conf(dir)),
            (None, Some(_)) => {}
            (None, None) => {
                let dirs = [Some(&system), user.as_ref()].into_iter().flatten();
                files.extend(dirs.flat_map(|dir| sorted_conf(&dir.join("registries.conf.d"))));
            }
        }
        let uid = rustix::process::getuid().as_raw();
        let chosen = short::chosen_aliases(path("HOME"), path("XDG_CACHE_HOME"), uid);
        files.extend(chosen.filter(|file| named.is_none() && file.exists()));
        let mut all = Self::default();
        for file in files {
            let text = std::fs::read_to_string(&file).at("read", &file)?;
            all.add(&text).at("read", &file)?;
        }
        Ok(all)
    }

    /// Parses one file.
    ///
    /// # Errors
    /// It is not TOML of the form this module reads.
    pub fn parse(text: &str) -> Result<Self> {
        let mut all = Self::default();
        all.add(text)?;
        Ok(all)
    }

    /// Adds a file that counts more than those before.
    fn add(&mut self, text: &str) -> Result<()> {
        let document: Document = toml::from_str(text).map_err(|error| {
            Error::new(Kind::Invalid, format!("not a registries configuration: {}", error.message()))
        })?;
        let (mut registries, mut said) = (document.registry, document.short);
        if let Some(old) = document.registries {
            if !registries.is_empty() || !said.is_empty() {
                return Err(Error::new(Kind::Invalid, "the configuration mixes versions 1 and 2")
                    .hint("write `[[registry]]` tables, see containers-registries.conf(5)"));
            }
            registries = old.registries();
            said = short::Said::searching(old.search.registries);
        }
        for registry in &mut registries {
            registry.complete()?;
        }
        self.short.merge(said)?;
        self.helpers = document.credential_helpers.or(self.helpers.take());
        self.merge(registries);
        Ok(())
    }

    /// The credential helpers to ask, in their order, and what stands for the credential files among them.
    pub(crate) fn credential_helpers(&self) -> &[String] {
        self.helpers.as_deref().unwrap_or_default()
    }

    /// What a name that was typed may stand for, in the order to try; empty where it stands for itself.
    ///
    /// # Errors
    /// Several registries may be meant, and the configuration forbids to try them.
    pub(crate) fn meanings(&self, text: &str) -> Result<Vec<Reference>> {
        self.short.meanings(text)
    }

    /// A later file replaces the tables of the same prefix.
    fn merge(&mut self, later: Vec<Registry>) {
        self.registries.retain(|old| later.iter().all(|new| new.prefix != old.prefix));
        self.registries.extend(later);
    }

    /// Where to write `name`: its own place, never a mirror.
    ///
    /// # Errors
    /// The registry is blocked.
    pub(crate) fn destination(&self, name: &Reference) -> Result<Endpoint> {
        let Some(registry) = self.find(name)? else { return Ok(Endpoint { name: name.clone(), insecure: false }) };
        registry.primary(name)
    }

    /// Where to read `name`, in the order to try.
    ///
    /// # Errors
    /// The registry is blocked, or a location is no name.
    pub(crate) fn sources(&self, name: &Reference) -> Result<Vec<Endpoint>> {
        let Some(registry) = self.find(name)? else {
            return Ok(vec![Endpoint { name: name.clone(), insecure: false }]);
        };
        let by_digest = name.digest().is_some();
        let mut endpoints = Vec::new();
        for mirror in &registry.mirror {
            let serves = match mirror.pull_from_mirror {
                Some(Serves::All) => true,
                Some(Serves::DigestOnly) => by_digest,
                Some(Serves::TagOnly) => !by_digest,
                None => by_digest || !registry.mirror_by_digest_only,
            };
            if serves {
                let name = registry.rewrite(name, &mirror.location)?;
                endpoints.push(Endpoint { name, insecure: mirror.insecure });
            }
        }
        endpoints.push(registry.primary(name)?);
        Ok(endpoints)
    }

    fn find(&self, name: &Reference) -> Result<Option<&Registry>> {
        let matching = self.registries.iter().filter(|registry| matches(&registry.prefix, name));
        let best = matching.max_by_key(|registry| registry.prefix.len());
        match best {
            Some(registry) if registry.blocked => {
                Err(Error::new(Kind::Denied, format!("registry `{}` is blocked by registries.conf", registry.prefix)))
            }
            best => Ok(best),
        }
    }
}

impl Registry {
    /// A table without a prefix is about its location.
    fn complete(&mut self) -> Result<()> {
        if self.prefix.is_empty() {
            self.prefix.clone_from(&self.location);
        }
        let invalid = |sentence: String| Err(Error::new(Kind::Invalid, sentence));
        if self.prefix.is_empty() {
            return invalid("a `[[registry]]` has neither `prefix` nor `location`".to_owned());
        }
        if self.prefix.contains('*') && !self.prefix.starts_with("*.") {
            return invalid(format!("prefix `{}` has a `*` elsewhere than before its first dot", self.prefix));
        }
        if self.mirror_by_digest_only && self.mirror.iter().any(|mirror| mirror.pull_from_mirror.is_some()) {
            let sentence = "has both `mirror-by-digest-only` and a mirror with `pull-from-mirror`";
            return invalid(format!("registry `{}` {sentence}", self.prefix));
        }
        Ok(())
    }

    fn primary(&self, name: &Reference) -> Result<Endpoint> {
        let name = if self.location.is_empty() { name.clone() } else { self.rewrite(name, &self.location)? };
        Ok(Endpoint { name, insecure: self.insecure })
    }

    /// The name with the matched prefix replaced. A wildcard prefix has no part to replace but the host.
    fn rewrite(&self, name: &Reference, location: &str) -> Result<Reference> {
        let text = name.to_string();
        let matched = if self.prefix.starts_with("*.") { name.host().len() } else { self.prefix.len() };
        let rewritten = format!("{location}{}", &text[matched..]);
        rewritten.parse::<Reference>().context(|| format!("registries.conf sends `{name}` to `{location}`"))
    }
}

/// Whether a prefix covers a name: whole components only, `*.example.com` any host below.
fn matches(prefix: &str, name: &Reference) -> bool {
    if let Some(domain) = prefix.strip_prefix('*') {
        return domain.starts_with('.') && name.host().ends_with(domain);
    }
    let text = name.to_string();
    text.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']))
}

fn sorted_conf(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "conf"));
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONF: &str = r#"
unqualified-search-registries = ["docker.io"]
[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "mirror.local:5000/hub"
insecure = true
[[registry.mirror]]
location = "digests.local"
pull-from-mirror = "digest-only"
[[registry]]
prefix = "docker.io/library/special"
location = "elsewhere.io/special"
[[registry]]
prefix = "*.corp"
insecure = true
[[registry]]
location = "bad.io"
blocked = true
"#;

    fn check(name: &str, expected: &[&str]) {
        let conf = Registries::parse(CONF).expect("valid");
        let name = name.parse().expect("a name");
        let found: Vec<String> = conf.sources(&name).map_or_else(
            |error| vec![format!("{:?}", error.kind())],
            |all| all.iter().map(|e| format!("{}{}", e.name, if e.insecure { " insecure" } else { "" })).collect(),
        );
        assert_eq!(found, expected, "{name}");
    }

    #[test]
    fn the_longest_prefix_wins() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        check("debian:12", &["mirror.local:5000/hub/library/debian:12 insecure", "docker.io/library/debian:12"]);
        check(
            &format!("debian@sha256:{hex}"),
            &[
                &format!("mirror.local:5000/hub/library/debian@sha256:{hex} insecure"),
                &format!("digests.local/library/debian@sha256:{hex}"),
                &format!("docker.io/library/debian@sha256:{hex}"),
            ],
        );
        check("docker.io/library/special:1", &["elsewhere.io/special:1"]);
        check(
            "docker.io/library/specialist:1",
            &["mirror.local:5000/hub/library/specialist:1 insecure", "docker.io/library/specialist:1"],
        );
        check("a.b.corp/x:1", &["a.b.corp/x:1 insecure"]);
        check("quay.io/x:1", &["quay.io/x:1"]);
        check("bad.io/x:1", &["Denied"]);
    }

    #[test]
    fn pushes_ignore_mirrors() {
        let conf = Registries::parse(CONF).expect("valid");
        let endpoint = conf.destination(&"debian:12".parse().expect("a name")).expect("allowed");
        assert_eq!(endpoint.name.to_string(), "docker.io/library/debian:12");
    }

    #[test]
    fn malformed_files_are_errors() {
        for text in [
            "[[registry]]",
            "x = ",
            "[registries.search]\nregistries = []\n[[registry]]\nprefix = 'a.io'",
            "[[registry]]\nprefix = 'a.*.io'",
            "[[registry]]\nprefix = 'a.io'\n[[registry.mirror]]\nlocation = 'b.io'\npull-from-mirror = 'never'",
            "[[registry]]\nprefix = 'a.io'\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = 'b.io'\npull-from-mirror = 'all'",
        ] {
            assert!(Registries::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn version_one_still_counts() {
        let old = "[registries.search]\nregistries = ['r.io']\n[registries.insecure]\nregistries = ['plain.io']\n[registries.block]\nregistries = ['bad.io']\n";
        let conf = Registries::parse(old).expect("valid");
        let sources = |name: &str| conf.sources(&name.parse().expect("a name"));
        assert!(sources("plain.io/x:1").expect("allowed")[0].insecure);
        assert_eq!(sources("bad.io/x:1").expect_err("blocked").kind(), Kind::Denied);
        assert_eq!(conf.meanings("x:1").expect("one")[0].to_string(), "r.io/x:1");
    }

    #[test]
    fn later_files_count_more() {
        let dir = tempfile::tempdir().expect("tempdir");
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
        write(
            "main.conf",
            "credential-helpers = ['containers-auth.json', 'pass']\n[[registry]]\nprefix = 'a.io'\ninsecure = true\n",
        );
        std::fs::create_dir(dir.path().join("more")).expect("made");
        write("more/20.conf", "[[registry]]\nprefix = 'a.io'\nlocation = 'second.io'\n");
        write("more/10.conf", "[[registry]]\nprefix = 'a.io'\nlocation = 'first.io'\n");
        write("more/30.txt", "nonsense");
        let env = |name: &str| match name {
            "CONTAINERS_REGISTRIES_CONF" => Some(dir.path().join("main.conf").into_os_string()),
            "CONTAINERS_REGISTRIES_CONF_DIR" => Some(dir.path().join("more").into_os_string()),
            _ => None,
        };
        let conf = Registries::load(env).expect("valid");
        assert_eq!(conf.credential_helpers(), ["containers-auth.json", "pass"]);
        let found = conf.sources(&"a.io/x:1".parse().expect("a name")).expect("allowed");
        assert_eq!((found[0].name.to_string().as_str(), found[0].insecure), ("second.io/x:1", false));
    }
}
