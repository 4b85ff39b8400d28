//! `registries.conf`, version 2: mirrors, insecure registries, blocked ones.
//!
//! Source: `containers-registries.conf(5)`. Read: `[[registry]]` with `prefix`, `location`, `insecure`, `blocked`,
//! `mirror-by-digest-only` and `[[registry.mirror]]` with `location`, `insecure`, `pull-from-mirror`. What is not
//! read: short-name aliases and search registries (a short name means Docker Hub here), credential helpers, version 1.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::reference::Reference;
use serde::Deserialize;

/// The registries a user configured; empty by default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Registries {
    registries: Vec<Registry>,
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
    pull_from_mirror: Option<String>,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    registry: Vec<Registry>,
    registries: Option<toml::Value>,
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
    /// folder, else the system's; then the drop-ins beside the latter two, in the order of their names.
    ///
    /// # Errors
    /// A file is malformed, or the one named by the environment does not exist.
    pub fn load(env: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let path = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let mut all = Self::default();
        if let Some(file) = path("CONTAINERS_REGISTRIES_CONF") {
            let text = std::fs::read_to_string(&file).at("read", &file)?;
            all.merge(Self::parse(&text).at("read", &file)?);
            return Ok(all);
        }
        let config = path("XDG_CONFIG_HOME").or_else(|| Some(path("HOME")?.join(".config")));
        let user = config.map(|config| config.join("containers"));
        let system = PathBuf::from("/etc/containers");
        let main = [user.as_ref(), Some(&system)].into_iter().flatten().map(|dir| dir.join("registries.conf"));
        let drop_ins = [Some(&system), user.as_ref()].into_iter().flatten().map(|dir| dir.join("registries.conf.d"));
        let mut files: Vec<PathBuf> = main.filter(|file| file.exists()).take(1).collect();
        files.extend(drop_ins.flat_map(|dir| sorted_conf(&dir)));
        for file in files {
            let text = std::fs::read_to_string(&file).at("read", &file)?;
            all.merge(Self::parse(&text).at("read", &file)?);
        }
        Ok(all)
    }

    /// Parses one file.
    ///
    /// # Errors
    /// It is not TOML of the form this module reads.
    pub fn parse(text: &str) -> Result<Self> {
        let document: Document = toml::from_str(text).map_err(|error| {
            Error::new(Kind::Invalid, format!("not a registries configuration: {}", error.message()))
        })?;
        if document.registries.is_some() {
            return Err(Error::new(Kind::Unsupported, "the configuration has the old version 1 form")
                .hint("write `[[registry]]` tables, see containers-registries.conf(5)"));
        }
        let mut registries = document.registry;
        for registry in &mut registries {
            if registry.prefix.is_empty() {
                registry.prefix = registry.location.clone();
            }
            if registry.prefix.is_empty() {
                return Err(Error::new(Kind::Invalid, "a `[[registry]]` has neither `prefix` nor `location`"));
            }
        }
        Ok(Self { registries })
    }

    /// A later file replaces the tables of the same prefix.
    fn merge(&mut self, later: Self) {
        self.registries.retain(|old| later.registries.iter().all(|new| new.prefix != old.prefix));
        self.registries.extend(later.registries);
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
            let serves = match mirror.pull_from_mirror.as_deref() {
                Some("digest-only") => by_digest,
                Some("tag-only") => !by_digest,
                _ => by_digest || !registry.mirror_by_digest_only,
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
        for text in ["[[registry]]", "x = ", "[registries.search]\nregistries = []"] {
            assert!(Registries::parse(text).is_err(), "{text}");
        }
    }
}
