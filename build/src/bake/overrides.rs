//! `--set TARGET.KEY=VALUE`: the command line over the files.

use std::collections::BTreeMap;

use layerfs::error::{Error, Kind, Result};

use super::entries::{self, Entry};
use super::resolve::{Definitions, matches};
use super::target::Target;
use crate::dockerfile::Fault;

/// One override, of the key and the name behind it.
#[derive(Clone, Debug)]
pub(super) struct Override {
    key: String,
    name: Option<String>,
    values: Vec<String>,
    append: bool,
}

/// Overrides by target.
pub(super) type Overrides = BTreeMap<String, Vec<Override>>;

const KEYS: [&str; 29] = [
    "annotations",
    "args",
    "attest",
    "cache-from",
    "cache-to",
    "call",
    "context",
    "contexts",
    "dockerfile",
    "entitlements",
    "extra-hosts",
    "labels",
    "load",
    "network",
    "no-cache",
    "no-cache-filter",
    "output",
    "platform",
    "policy",
    "pull",
    "push",
    "resources",
    "secret",
    "secrets",
    "shm-size",
    "ssh",
    "tags",
    "target",
    "ulimits",
];

/// Keys that hold several values: what is set again is one more of them.
const LISTS: [&str; 13] = [
    "annotations",
    "attest",
    "cache-from",
    "cache-to",
    "entitlements",
    "no-cache-filter",
    "output",
    "platform",
    "secrets",
    "ssh",
    "tags",
    "ulimits",
    "policy",
];

/// Keys that name something of the target: `args.VERSION`.
const NAMED: [&str; 6] = ["args", "contexts", "extra-hosts", "labels", "resources", "secret"];

fn wrong(text: &str, why: &str) -> Error {
    Error::new(Kind::Usage, format!("--set {text}: {why}")).hint("the form is TARGET.KEY[.NAME]=VALUE")
}

/// Reads the words of `--set`.
///
/// # Errors
/// One has not the form, or names a target or key that is not there.
pub(super) fn parse(
    words: &[String],
    definitions: &Definitions,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Overrides> {
    let mut overrides = Overrides::new();
    for word in words {
        let (left, value) = word.split_once('=').map_or((word.as_str(), None), |(left, value)| (left, Some(value)));
        let (left, append) = left.strip_suffix('+').map_or((left, false), |left| (left, true));
        let mut parts = left.splitn(3, '.');
        let (pattern, key, name) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        let Some(key) = key else { return Err(wrong(word, "there is no key")) };
        if !KEYS.contains(&key) {
            let fault = Fault::unknown(String::new(), key, KEYS);
            let error = Error::new(Kind::Usage, format!("--set {word}: a target has no key `{key}`"));
            return Err(error.hint(fault.hint.unwrap_or_else(|| format!("there are {}", KEYS.join(", ")))));
        }
        if NAMED.contains(&key) != name.is_some() && (NAMED.contains(&key) || name.is_some()) {
            let why = match name {
                None => format!("`{key}` needs a name behind it: {key}.NAME=VALUE"),
                Some(_) => format!("`{key}` has nothing behind it"),
            };
            return Err(wrong(word, &why));
        }
        let value = match (value, key, name) {
            (Some(value), ..) => value.to_owned(),
            // Of an argument without a value the environment's is meant, if it has one.
            (None, "args", Some(name)) => match env(name) {
                Some(value) => value,
                None => continue,
            },
            (None, "no-cache" | "pull" | "push" | "load", _) => "true".to_owned(),
            (None, ..) => return Err(wrong(word, "there is no value")),
        };
        for target in named(pattern, definitions, word)? {
            let list = overrides.entry(target).or_default();
            let name = name.map(str::to_owned);
            match list.iter_mut().find(|one| one.key == key && one.name == name) {
                Some(known) if LISTS.contains(&key) => {
                    known.values.push(value.clone());
                    known.append = append;
                }
                Some(known) => known.values = vec![value.clone()],
                None => list.push(Override { key: key.to_owned(), name, values: vec![value.clone()], append }),
            }
        }
    }
    Ok(overrides)
}

/// The targets that a pattern means.
fn named(pattern: &str, definitions: &Definitions, word: &str) -> Result<Vec<String>> {
    let names: Vec<String> = definitions.targets.iter().map(|target| target.name.clone()).collect();
    let found: Vec<String> = match names.iter().any(|name| name == pattern) {
        true => vec![pattern.to_owned()],
        false => names.iter().filter(|name| matches(pattern, name)).cloned().collect(),
    };
    if !found.is_empty() {
        return Ok(found);
    }
    let fault = Fault::unknown(String::new(), pattern, names.iter().map(String::as_str));
    let error = Error::new(Kind::Usage, format!("--set {word}: there is no target `{pattern}`"));
    Err(error.hint(fault.hint.unwrap_or_else(|| format!("there are {}", names.join(", ")))))
}

/// Lays overrides over a target.
///
/// # Errors
/// A value is not one of its key.
pub(super) fn apply(target: &mut Target, overrides: &[Override]) -> Result<()> {
    // A secret is overridden after all of them are known.
    let (secrets, rest): (Vec<&Override>, Vec<&Override>) = overrides.iter().partition(|one| one.key == "secret");
    for one in rest.into_iter().chain(secrets) {
        set(target, one).map_err(|fault| {
            let error = Error::new(Kind::Usage, format!("--set {}.{}: {}", target.name, one.key, fault.message));
            match fault.hint {
                Some(hint) => error.hint(hint),
                None => error,
            }
        })?;
    }
    Ok(())
}

fn set(target: &mut Target, one: &Override) -> Result<(), Fault> {
    let value = one.values.last().cloned().unwrap_or_default();
    let name = one.name.clone().unwrap_or_default();
    let values = one.values.clone();
    let truth = || match value.as_str() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        other => Err(Fault::new(format!("`{other}` is neither true nor false"))),
    };
    fn many<T>(values: &[String], of_text: fn(&str) -> Result<Vec<T>, Fault>) -> Result<Vec<T>, Fault> {
        Ok(values.iter().map(|text| of_text(text)).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }
    fn lay<T>(list: &mut Vec<T>, append: bool, values: Vec<T>) {
        if !append {
            list.clear();
        }
        list.extend(values);
    }
    match one.key.as_str() {
        "annotations" => target.annotations.extend(values),
        "args" => drop(target.args.insert(name, value)),
        "attest" => target.attest.extend(many(&values, entries::attest)?),
        "cache-from" => lay(&mut target.cache_from, one.append, many(&values, entries::caches)?),
        "cache-to" => lay(target.cache_to.get_or_insert_default(), one.append, many(&values, entries::caches)?),
        "call" => target.call = Some(value),
        "context" => target.context = Some(value),
        "contexts" => drop(target.contexts.insert(name, value)),
        "dockerfile" => target.dockerfile = Some(value),
        "entitlements" => target.entitlements.extend(values),
        "extra-hosts" => drop(target.extra_hosts.insert(name, value)),
        "labels" => drop(target.labels.insert(name, value)),
        "load" if truth()? => load(target.outputs.get_or_insert_default()),
        "network" => target.network = Some(value),
        "no-cache" => target.no_cache = Some(truth()?),
        "no-cache-filter" => lay(&mut target.no_cache_filter, one.append, values),
        "output" => lay(target.outputs.get_or_insert_default(), one.append, many(&values, entries::output)?),
        "platform" => lay(target.platforms.get_or_insert_default(), one.append, values),
        "policy" => return Err(Fault::new("policies are not built yet")),
        "pull" => target.pull = Some(truth()?),
        "push" => {
            let push = truth()?;
            set_push(target.outputs.get_or_insert_default(), push);
        }
        "resources" => drop(target.resources.insert(name, value)),
        "secret" => {
            let new = entries::secret(&value)?.into_iter().next().unwrap_or_default();
            let known = target.secrets.iter_mut().find(|secret| secret.id == name);
            let known = known.ok_or_else(|| Fault::new(format!("the target has no secret `{name}` to override")))?;
            if !new.id.is_empty() && new.id != name {
                return Err(Fault::new(format!("the id `{}` is not that of the secret `{name}`", new.id)));
            }
            (known.src, known.env) = (new.src, new.env);
        }
        "secrets" => lay(&mut target.secrets, one.append, many(&values, entries::secret)?),
        "shm-size" => target.shm_size = Some(value),
        "ssh" => lay(&mut target.ssh, one.append, many(&values, entries::agent)?),
        "tags" => lay(target.tags.get_or_insert_default(), one.append, values),
        "target" => target.target = Some(value),
        "ulimits" => lay(&mut target.ulimits, one.append, values),
        _ => {}
    }
    Ok(())
}

fn is(entry: &Entry, kinds: &[&str]) -> bool {
    entry.get("type").is_some_and(|kind| kinds.contains(&kind.as_str()))
}

/// `--push`: images are pushed; where nothing else is wanted than docker's store, one more output pushes.
fn set_push(outputs: &mut Vec<Entry>, push: bool) {
    if !push {
        outputs.retain(|entry| !is(entry, &["registry"]));
    }
    for entry in outputs.iter_mut().filter(|entry| is(entry, &["image"])) {
        entry.insert("push".to_owned(), push.to_string());
    }
    if push && outputs.iter().all(|entry| is(entry, &["docker"])) {
        let fields = [("type", "image"), ("push", "true")];
        outputs.push(fields.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    }
}

/// `--load`: the image is kept, unless it is files that are wanted.
fn load(outputs: &mut Vec<Entry>) {
    let kept = |entry: &Entry| is(entry, &["docker"]) && !entry.contains_key("dest");
    if outputs.iter().any(kept) || !outputs.iter().all(|entry| is(entry, &["docker", "image", "registry", "oci"])) {
        return;
    }
    outputs.push(Entry::from([("type".to_owned(), "docker".to_owned())]));
}
