//! The composed values of targets: caches, outputs, secrets, agents and attestations, as texts or as objects.

use std::collections::BTreeMap;

use super::eval::article;
use super::value::Value;
use crate::dockerfile::{Fault, csv};

/// Keys and values of one cache, output or attestation; its `type` is one of them.
pub(super) type Entry = BTreeMap<String, String>;

/// A secret.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Secret {
    pub(super) id: String,
    pub(super) src: String,
    pub(super) env: String,
}

/// An agent, or keys, under an id.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Agent {
    pub(super) id: String,
    pub(super) paths: Vec<String>,
}

/// `key=value` fields between commas, with lower-case keys.
fn fields(text: &str) -> Result<Entry, Fault> {
    let list = csv(text).map_err(|why| Fault::new(format!("`{text}` is not a list: {why}")))?;
    let pair = |field: &String| match field.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_lowercase(), value.to_owned())),
        None => Err(Fault::new(format!("`{field}` of `{text}` is not KEY=VALUE"))),
    };
    list.iter().map(pair).collect()
}

/// The fields of an object, as texts.
fn object(map: &BTreeMap<String, Value>) -> Result<Entry, Fault> {
    let mut entry = Entry::new();
    for (key, value) in map {
        if *value == Value::Null {
            continue;
        }
        let text = value.text().ok_or_else(|| Fault::new(format!("`{key}` is {}, not a string", article(value))))?;
        entry.insert(key.clone(), text);
    }
    Ok(entry)
}

fn typed(entry: Entry, what: &str) -> Result<Entry, Fault> {
    match entry.get("type").is_some_and(|kind| !kind.is_empty()) {
        true => Ok(entry),
        false => Err(Fault::new(format!("{what} has no type")).hint(format!("such as {}", example(what)))),
    }
}

fn example(what: &str) -> &'static str {
    match what {
        "a cache" => "type=registry,ref=NAME",
        "an output" => "type=oci,dest=FILE",
        _ => "type=provenance",
    }
}

/// Caches of a text: fields, or names of images.
pub(super) fn caches(text: &str) -> Result<Vec<Entry>, Fault> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    if text.contains('=') {
        return fields(text).and_then(|entry| typed(entry, "a cache")).map(|entry| vec![entry]);
    }
    let names = csv(text).map_err(|why| Fault::new(format!("`{text}` is not a list: {why}")))?;
    let one = |name: String| Entry::from([("type".to_owned(), "registry".to_owned()), ("ref".to_owned(), name)]);
    Ok(names.into_iter().map(one).collect())
}

/// An output of a text: fields, a folder, or `-`.
pub(super) fn output(text: &str) -> Result<Vec<Entry>, Fault> {
    let short = |kind: &str| Entry::from([("type".to_owned(), kind.to_owned()), ("dest".to_owned(), text.to_owned())]);
    match text {
        "" => Ok(Vec::new()),
        "-" => Ok(vec![short("tar")]),
        path if !path.contains(['=', ',']) => Ok(vec![short("local")]),
        _ => fields(text).and_then(|entry| typed(entry, "an output")).map(|entry| vec![entry]),
    }
}

/// An attestation of a text.
pub(super) fn attest(text: &str) -> Result<Vec<Entry>, Fault> {
    fields(text).and_then(|entry| typed(entry, "an attestation")).map(|entry| vec![entry])
}

/// `--sbom` and `--provenance` as an attestation's text.
pub(crate) fn canonical_attest(kind: &str, text: &str) -> String {
    match text {
        "1" | "t" | "true" => format!("type={kind},disabled=false"),
        "0" | "f" | "false" => format!("type={kind},disabled=true"),
        other => format!("type={kind},{other}"),
    }
}

/// A secret of a text.
pub(super) fn secret(text: &str) -> Result<Vec<Secret>, Fault> {
    let mut secret = Secret::default();
    let mut kind = String::new();
    for (key, value) in fields(text)? {
        match key.as_str() {
            "id" => secret.id = value,
            "src" | "source" => secret.src = value,
            "env" => secret.env = value,
            "type" if matches!(value.as_str(), "file" | "env") => kind = value,
            "type" => return Err(Fault::new(format!("`{value}` is no kind of secret")).hint("there are file and env")),
            other => {
                let known = ["id", "src", "source", "env", "type"];
                return Err(Fault::unknown(format!("a secret has no `{other}`"), other, known));
            }
        }
    }
    if kind == "env" && secret.env.is_empty() {
        secret.env = std::mem::take(&mut secret.src);
    }
    Ok(vec![secret])
}

/// An agent of a text: `default`, `NAME=PATH,PATH`.
pub(super) fn agent(text: &str) -> Result<Vec<Agent>, Fault> {
    let (id, paths) = text.split_once('=').map_or((text, None), |(id, paths)| (id, Some(paths)));
    let paths = paths.map(|paths| paths.split(',').map(str::to_owned).collect()).unwrap_or_default();
    Ok(vec![Agent { id: id.to_owned(), paths }])
}

/// The entries of a list of texts and objects.
pub(super) fn list<T>(
    value: &Value,
    of_text: fn(&str) -> Result<Vec<T>, Fault>,
    of_object: fn(&BTreeMap<String, Value>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let items = match value {
        Value::List(list) => list.clone(),
        Value::Null => Vec::new(),
        single => vec![single.clone()],
    };
    let mut entries = Vec::new();
    for item in &items {
        match item {
            Value::String(text) => entries.extend(of_text(text)?),
            Value::Map(map) => entries.push(of_object(map)?),
            other => {
                return Err(Fault::new(format!("this holds {}, where texts or objects are wanted", article(other))));
            }
        }
    }
    Ok(entries)
}

/// A cache of an object.
pub(super) fn cache_object(map: &BTreeMap<String, Value>) -> Result<Entry, Fault> {
    typed(object(map)?, "a cache")
}

/// An output of an object.
pub(super) fn output_object(map: &BTreeMap<String, Value>) -> Result<Entry, Fault> {
    typed(object(map)?, "an output")
}

/// An attestation of an object.
pub(super) fn attest_object(map: &BTreeMap<String, Value>) -> Result<Entry, Fault> {
    typed(object(map)?, "an attestation")
}

/// A secret of an object.
pub(super) fn secret_object(map: &BTreeMap<String, Value>) -> Result<Secret, Fault> {
    let mut entry = object(map)?;
    let mut take = |key: &str| entry.remove(key).unwrap_or_default();
    let secret = Secret { id: take("id"), src: take("src"), env: take("env") };
    match entry.keys().find(|key| *key != "type") {
        Some(key) => Err(Fault::unknown(format!("a secret has no `{key}`"), key, ["id", "src", "env"])),
        None => Ok(secret),
    }
}

/// An agent of an object.
pub(super) fn agent_object(map: &BTreeMap<String, Value>) -> Result<Agent, Fault> {
    let id = map.get("id").and_then(Value::text).unwrap_or_default();
    let paths = map.get("paths").and_then(Value::elements).unwrap_or_default();
    Ok(Agent { id, paths: paths.iter().filter_map(Value::text).collect() })
}

/// The list without what comes again: the later of two of one key takes the place of the earlier.
pub(super) fn newest<T: Clone>(list: &[T], key: impl Fn(&T) -> String) -> Vec<T> {
    let mut kept: Vec<T> = Vec::new();
    for item in list {
        match kept.iter_mut().find(|known| key(known) == key(item)) {
            Some(known) => *known = item.clone(),
            None => kept.push(item.clone()),
        }
    }
    kept
}

/// The list without what comes again.
pub(super) fn distinct<T: Clone + PartialEq>(list: &[T]) -> Vec<T> {
    let mut kept: Vec<T> = Vec::new();
    for item in list {
        if !kept.contains(item) {
            kept.push(item.clone());
        }
    }
    kept
}

/// The entry as a flag's text.
pub(super) fn flag(entry: &Entry) -> String {
    let kind = entry.get("type").map(|kind| format!("type={kind}"));
    let quote = |(key, value): (&String, &String)| {
        let pair = format!("{key}={value}");
        if pair.contains([',', '"']) { format!("\"{}\"", pair.replace('"', "\"\"")) } else { pair }
    };
    let rest = entry.iter().filter(|(key, _)| *key != "type").map(quote);
    kind.into_iter().chain(rest).collect::<Vec<_>>().join(",")
}
