//! The files that say what is mirrored: skopeo's (`skopeo-sync(1)`) and regsync's (`regsync.yml`). Parsing is pure.
//!
//! What a file says and this program does not do is an error that names the key, except where leaving it out changes
//! nothing that arrives (schedules, hooks that are empty, user-interface settings).

use std::collections::HashMap;
use std::path::PathBuf;

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::Platform;
use layerfs::reference::Reference;
use serde_json::{Map, Value};

use super::filter::Filter;
use crate::credentials::Credential;
use crate::transfer::Side;

/// What a file asks for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// What is copied where.
    pub entries: Vec<Entry>,
    /// How some registries are spoken to.
    pub hosts: HashMap<String, Side>,
}

/// A repository, or one image of it, and where it goes.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The repository; a tag or digest names one image.
    pub source: Reference,
    /// Where to, if the file says so; the command line says it otherwise.
    pub target: Option<Reference>,
    /// Which tags.
    pub filter: Filter,
    /// Which platforms; empty for all.
    pub platforms: Vec<Platform>,
    /// Whether what refers to the images goes with them.
    pub referrers: Option<bool>,
    /// Whether tags made of digests (`sha256-….sig`) go with them.
    pub digest_tags: Option<bool>,
    /// A whole registry is meant, not this repository; these expressions choose among its repositories.
    pub registry: Option<Filter>,
    /// A tag to keep what lies at the target before it is replaced: a template with the fields of regsync.
    pub backup: Option<String>,
}

impl Entry {
    /// All of a repository, or one image.
    pub fn new(source: Reference) -> Self {
        let filter = Filter::default();
        Self {
            source,
            target: None,
            filter,
            platforms: Vec::new(),
            referrers: None,
            digest_tags: None,
            registry: None,
            backup: None,
        }
    }
}

/// Reads either kind of file; regsync's has `sync` or `version` at its top.
///
/// # Errors
/// It is neither, or asks for something that is not known here.
pub fn parse(text: &str) -> Result<Wanted> {
    let root: Value = serde_saphyr::from_str(text).map_err(|error| {
        Error::new(Kind::Invalid, format!("not YAML of that form: {}", first_line(&error.to_string())))
    })?;
    let Value::Object(root) = root else {
        return Err(Error::new(Kind::Invalid, "the file is no mapping of registries"));
    };
    match root.contains_key("sync") || root.contains_key("version") {
        true => regsync(&root),
        false => skopeo(&root),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn skopeo(root: &Map<String, Value>) -> Result<Wanted> {
    let mut wanted = Wanted::default();
    for (host, settings) in root {
        let settings = object(settings).context(|| format!("registry `{host}`"))?;
        known(
            settings,
            &["images", "images-by-tag-regex", "images-by-semver", "credentials", "tls-verify", "cert-dir"],
        )
        .context(|| format!("registry `{host}`"))?;
        let name = |path: &str| format!("{host}/{path}").parse::<Reference>().context(|| format!("registry `{host}`"));
        for (path, tags) in object_of(settings, "images")? {
            let tags = list(tags).context(|| format!("images of `{host}/{path}`"))?;
            if tags.is_empty() {
                wanted.entries.push(Entry::new(name(path)?));
                continue;
            }
            let (digests, tags): (Vec<String>, Vec<String>) = tags.into_iter().partition(|tag| tag.contains(':'));
            for digest in digests {
                wanted.entries.push(Entry::new(name(path)?.with_digest(digest.parse()?)));
            }
            if !tags.is_empty() {
                let mut entry = Entry::new(name(path)?);
                entry.filter.exactly = Some(tags);
                wanted.entries.push(entry);
            }
        }
        for (path, expression) in object_of(settings, "images-by-tag-regex")? {
            let mut entry = Entry::new(name(path)?);
            entry.filter.allow(text(expression)?)?;
            wanted.entries.push(entry);
        }
        for (path, range) in object_of(settings, "images-by-semver")? {
            let mut entry = Entry::new(name(path)?);
            entry.filter.within(text(range)?)?;
            wanted.entries.push(entry);
        }
        let mut side = Side { tls_verify: settings.get("tls-verify").and_then(Value::as_bool), ..Side::default() };
        side.cert_dir = settings.get("cert-dir").and_then(Value::as_str).map(PathBuf::from);
        let login = object_of(settings, "credentials")?;
        let field = |key: &str| login.iter().find(|(name, _)| *name == key).and_then(|(_, value)| value.as_str());
        side.credential = field("username").zip(field("password")).map(|(username, password)| Credential::Basic {
            username: username.to_owned(),
            password: password.to_owned(),
        });
        wanted.hosts.insert(host.clone(), side);
    }
    Ok(wanted)
}

fn regsync(root: &Map<String, Value>) -> Result<Wanted> {
    known(root, &["version", "creds", "defaults", "sync", "x-"])?;
    let mut wanted = Wanted::default();
    for credential in items(root, "creds")? {
        let credential = object(credential)?;
        let host = credential.get("registry").map(text).transpose()?.unwrap_or("docker.io");
        let value = |key: &str| credential.get(key).and_then(Value::as_str).map(in_environment);
        let login = value("user").zip(value("pass"));
        let side = Side {
            tls_verify: match credential.get("tls").and_then(Value::as_str) {
                Some("disabled" | "insecure") => Some(false),
                _ => None,
            },
            credential: login
                .filter(|(user, _)| !user.is_empty())
                .map(|(username, password)| Credential::Basic { username, password }),
            ..Side::default()
        };
        wanted.hosts.insert(host.to_owned(), side);
    }
    let defaults = object_of_or_empty(root, "defaults")?;
    for step in items(root, "sync")? {
        let mut step = object(step)?.clone();
        for (key, value) in &defaults {
            step.entry(key.clone()).or_insert_with(|| value.clone());
        }
        let source = step.get("source").map(text).transpose()?.map(in_environment);
        let source = source.ok_or_else(|| Error::new(Kind::Invalid, "a step of `sync` has no `source`"))?;
        wanted.entries.push(regsync_step(&step, &source).context(|| format!("sync of `{source}`"))?);
    }
    Ok(wanted)
}

fn regsync_step(step: &Map<String, Value>, source: &str) -> Result<Entry> {
    known(
        step,
        &[
            "source",
            "target",
            "type",
            "tags",
            "tagSets",
            "repos",
            "platform",
            "platforms",
            "referrers",
            "digestTags",
            "backup",
            // These change when and how fast, or speed a comparison up that is fast here.
            "interval",
            "schedule",
            "parallel",
            "ratelimit",
            "fastCheck",
            "forceRecursive",
            "includeExternal",
            "mediaTypes",
            "skipDockerConfig",
            "cacheCount",
            "cacheTime",
            "userAgent",
            "hooks",
            "x-",
        ],
    )?;
    let target = step.get("target").map(text).transpose()?.map(in_environment);
    let kind = step.get("type").map(text).transpose()?.unwrap_or("image");
    let filters = |key: &str, filter: &mut Filter| -> Result<()> {
        let lists = object_of_or_empty(step, key)?;
        known(&lists, &["allow", "deny", "semverRange"])?;
        // Regsync's expressions have to match the whole name.
        list(lists.get("allow").unwrap_or(&Value::Null))?
            .iter()
            .try_for_each(|word| filter.allow(&format!("^(?:{word})$")))?;
        list(lists.get("deny").unwrap_or(&Value::Null))?
            .iter()
            .try_for_each(|word| filter.deny(&format!("^(?:{word})$")))?;
        list(lists.get("semverRange").unwrap_or(&Value::Null))?.iter().try_for_each(|range| filter.within(range))
    };
    let mut entry = match kind {
        "registry" => {
            // A registry has no name of its own in the grammar of images; this one never leaves the program.
            let mut entry = Entry::new(format!("{source}/all").parse()?);
            let mut repositories = Filter::default();
            filters("repos", &mut repositories)?;
            entry.registry = Some(repositories);
            entry.target = target.map(|target| format!("{target}/all").parse()).transpose()?;
            entry
        }
        "repository" | "image" => {
            let mut entry = Entry::new(source.parse()?);
            if kind == "image" {
                entry.source = entry.source.or_latest();
            }
            entry.target = target.map(|target| target.parse()).transpose()?;
            entry
        }
        other => {
            return Err(
                Error::new(Kind::Invalid, format!("type `{other}` is not known")).hint("image, repository or registry")
            );
        }
    };
    filters("tags", &mut entry.filter)?;
    let mut platforms = list(step.get("platforms").unwrap_or(&Value::Null))?;
    platforms.extend(step.get("platform").and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned));
    entry.platforms = platforms.iter().map(|platform| platform.parse()).collect::<Result<_>>()?;
    let flag = |key: &str| step.get(key).and_then(Value::as_bool);
    (entry.referrers, entry.digest_tags) = (flag("referrers"), flag("digestTags"));
    entry.backup = step.get("backup").and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    Ok(entry)
}

/// Regsync's templates: `{{env "NAME"}}` is the one that configurations use, for passwords.
fn in_environment(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, action)) = rest.split_once("{{") {
        let Some((action, after)) = action.split_once("}}") else { break };
        out.push_str(before);
        let name = action.trim().strip_prefix("env ").map(|name| name.trim().trim_matches('"'));
        match name {
            Some(name) => out.push_str(&std::env::var(name).unwrap_or_default()),
            None => out.push_str(&format!("{{{{{action}}}}}")),
        }
        rest = after;
    }
    out + rest
}

/// Refuses keys that mean something we would silently not do. `x-` allows extensions.
fn known(map: &Map<String, Value>, keys: &[&str]) -> Result<()> {
    let extension = |key: &str| keys.contains(&"x-") && key.starts_with("x-");
    match map.keys().find(|key| !keys.contains(&key.as_str()) && !extension(key)) {
        Some(key) => Err(Error::new(Kind::Unsupported, format!("key `{key}` is not known"))),
        None => Ok(()),
    }
}

fn object(value: &Value) -> Result<&Map<String, Value>> {
    value.as_object().ok_or_else(|| Error::new(Kind::Invalid, "a mapping is expected"))
}

fn object_of<'a>(map: &'a Map<String, Value>, key: &str) -> Result<Vec<(&'a str, &'a Value)>> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(inner)) => Ok(inner.iter().map(|(key, value)| (key.as_str(), value)).collect()),
        Some(_) => Err(Error::new(Kind::Invalid, format!("`{key}` is no mapping"))),
    }
}

fn object_of_or_empty(map: &Map<String, Value>, key: &str) -> Result<Map<String, Value>> {
    Ok(object_of(map, key)?.into_iter().map(|(key, value)| (key.to_owned(), value.clone())).collect())
}

fn items<'a>(map: &'a Map<String, Value>, key: &str) -> Result<&'a [Value]> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(Error::new(Kind::Invalid, format!("`{key}` is no list"))),
    }
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().ok_or_else(|| Error::new(Kind::Invalid, "text is expected"))
}

/// A list of words. A tag such as 1.10 that YAML takes for a number has lost its end, so it has to be quoted.
fn list(value: &Value) -> Result<Vec<String>> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => items
            .iter()
            .map(|item| match item {
                Value::String(text) => Ok(text.clone()),
                Value::Number(number) if number.is_u64() => Ok(number.to_string()),
                other => Err(Error::new(Kind::Invalid, format!("`{other}` is no text")).hint("put it into quotes")),
            })
            .collect(),
        _ => Err(Error::new(Kind::Invalid, "a list is expected")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skopeos_form() {
        let wanted = parse(
            "r.io:\n  images:\n    app: []\n    redis: ['1.0', 7, 'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855']\n  images-by-tag-regex:\n    nginx: ^1\\.13\n  images-by-semver:\n    alpine: '>= 3.12.0'\n  credentials:\n    username: u\n    password: p\n  tls-verify: false\n",
        )
        .expect("valid");
        let names: Vec<String> = wanted.entries.iter().map(|entry| entry.source.to_string()).collect();
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(names, ["r.io/app", &format!("r.io/redis@{digest}"), "r.io/redis", "r.io/nginx", "r.io/alpine"]);
        assert_eq!(wanted.entries[2].filter.exactly.as_deref(), Some(&["1.0".to_owned(), "7".to_owned()][..]));
        assert!(wanted.entries[3].filter.admits("1.13.2") && !wanted.entries[3].filter.admits("1.14"));
        assert_eq!(wanted.hosts["r.io"].tls_verify, Some(false));
        assert!(wanted.hosts["r.io"].credential.is_some());
    }

    #[test]
    fn regsyncs_form() {
        let wanted = parse(
            "version: 1\ncreds:\n  - registry: localhost:5000\n    tls: disabled\ndefaults:\n  parallel: 2\n  interval: 60m\nsync:\n  - source: busybox:latest\n    target: localhost:5000/library/busybox:latest\n    type: image\n  - source: r.io/app\n    target: localhost:5000/app\n    type: repository\n    tags:\n      allow: ['1.*']\n      deny: ['.*-rc']\n    platforms: [linux/amd64, linux/arm64]\n    referrers: true\n    backup: 'old-{{.Ref.Tag}}'\n  - source: r.io\n    target: localhost:5000\n    type: registry\n    repos:\n      allow: ['team/.*']\n",
        )
        .expect("valid");
        assert_eq!(wanted.entries[0].source.to_string(), "docker.io/library/busybox:latest");
        let second = &wanted.entries[1];
        assert!(second.filter.admits("1.2") && !second.filter.admits("11-rc") && !second.filter.admits("v1.2"));
        assert_eq!((second.platforms.len(), second.referrers), (2, Some(true)));
        assert_eq!(second.backup.as_deref(), Some("old-{{.Ref.Tag}}"));
        let third = wanted.entries[2].registry.as_ref().expect("a registry");
        assert!(third.admits("team/x") && !third.admits("other/x"));
        assert_eq!(wanted.hosts["localhost:5000"].tls_verify, Some(false));
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        for (text, word) in [
            ("[]", "mapping"),
            ("r.io: {images: {app: [1.10]}}", "quotes"),
            ("r.io: {imagess: {}}", "imagess"),
            ("version: 1\nsync: [{source: a, target: b, type: image, tgas: {}}]", "tgas"),
            ("version: 1\nsync: [{source: a, target: b, type: planet}]", "planet"),
            ("r.io: {images-by-tag-regex: {a: '('}}", "regular expression"),
            ("a: b: c", "YAML"),
        ] {
            let error = parse(text).expect_err(text);
            let said = format!("{} {}", error.chain(), error.advice().unwrap_or_default());
            assert!(said.contains(word), "{text}: {said}");
        }
    }
}
