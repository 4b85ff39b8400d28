//! Compose files as bake files: every service with a `build` is a target, and all of them are the default group.

use std::collections::BTreeMap;

use layerfs::error::{Error, Kind, Result};
use serde_json::{Map, Value as Json};

use super::entries::{self, Agent, Secret, distinct};
use super::target::{Group, Target};
use super::value::Value;
use super::{decode, interpolate};
use crate::dockerfile::Fault;

/// What a `build` may say.
const BUILD: [&str; 26] = [
    "additional_contexts",
    "args",
    "cache_from",
    "cache_to",
    "context",
    "dockerfile",
    "dockerfile_inline",
    "entitlements",
    "extra_hosts",
    "isolation",
    "labels",
    "network",
    "no_cache",
    "no_cache_filter",
    "platforms",
    "privileged",
    "provenance",
    "pull",
    "sbom",
    "secrets",
    "shm_size",
    "ssh",
    "tags",
    "target",
    "ulimits",
    "x-bake",
];

fn wrong(name: &str, message: impl std::fmt::Display) -> Error {
    Error::new(Kind::Invalid, format!("{name}: {message}"))
}

/// A compose file as a document, with its variables replaced.
///
/// # Errors
/// The text is no YAML, or a variable has no value.
pub(super) fn document(text: &str, name: &str, env: &BTreeMap<String, String>) -> Result<Map<String, Json>> {
    let mut json: Json = serde_saphyr::from_str(text).map_err(|error| wrong(name, error))?;
    interpolate::document(&mut json, env).map_err(|why| wrong(name, why))?;
    match json {
        Json::Object(map) if map.contains_key("services") => Ok(map),
        Json::Object(_) => Err(wrong(name, "there are no `services`").hint("a bake file in YAML is a compose file")),
        _ => Err(wrong(name, "a compose file is a mapping with `services`")),
    }
}

/// Lays a file over another: mappings are merged, lists grow, everything else is replaced.
pub(super) fn merge(base: &mut Map<String, Json>, over: Map<String, Json>) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Json::Object(known)), Json::Object(more)) => merge(known, more),
            (Some(Json::Array(known)), Json::Array(more)) => {
                let fresh: Vec<Json> = more.into_iter().filter(|item| !known.contains(item)).collect();
                known.extend(fresh);
            }
            (_, value) => drop(base.insert(key, value)),
        }
    }
}

/// The group and targets of a document.
///
/// # Errors
/// A service says something that has not its form.
pub(super) fn targets(
    document: &Map<String, Json>,
    name: &str,
    env: &BTreeMap<String, String>,
) -> Result<(Vec<Group>, Vec<Target>)> {
    let mut group = Group { name: "default".to_owned(), ..Group::default() };
    let mut targets = Vec::new();
    let Some(Json::Object(services)) = document.get("services") else {
        return Err(wrong(name, "`services` is not a mapping"));
    };
    let mut sorted: Vec<(&String, &Json)> = services.iter().collect();
    sorted.sort_by_key(|(service, _)| *service);
    for (service, body) in sorted {
        let told = |fault: Fault| {
            let error = wrong(name, format!("service `{service}`: {}", fault.message));
            match fault.hint {
                Some(hint) => error.hint(hint),
                None => error,
            }
        };
        if body.get("extends").is_some() && body.get("build").is_none() {
            return Err(told(Fault::new("`extends` is not built yet").hint("name its `build` in the service itself")));
        }
        let Some(build) = body.get("build").filter(|build| !build.is_null()) else { continue };
        let target = service_target(document, service, body, build, env).map_err(told)?;
        group.targets.push(target.name.clone());
        targets.push(target);
    }
    Ok((vec![group], targets))
}

fn service_target(
    document: &Map<String, Json>,
    service: &str,
    body: &Json,
    build: &Json,
    env: &BTreeMap<String, String>,
) -> Result<Target, Fault> {
    let mut target = Target { name: service.replace('.', "_"), ..Target::default() };
    decode::name(&target.name)?;
    let build = match build {
        Json::String(context) => Map::from_iter([("context".to_owned(), Json::from(context.as_str()))]),
        Json::Object(map) => map.clone(),
        _ => return Err(Fault::new("`build` is neither a folder nor a mapping")),
    };
    for (key, value) in &build {
        if !BUILD.contains(&key.as_str()) && !key.starts_with("x-") {
            return Err(Fault::unknown(format!("`build` has no `{key}`"), key, BUILD));
        }
        let text = || scalar(value).ok_or_else(|| Fault::new(format!("`{key}` is not a text")));
        match key.as_str() {
            "context" => target.context = Some(text()?),
            "dockerfile" => target.dockerfile = Some(text()?),
            "dockerfile_inline" => target.dockerfile_inline = Some(text()?),
            "target" => target.target = Some(text()?),
            "network" => target.network = Some(text()?),
            "shm_size" => target.shm_size = Some(text()?),
            "args" => {
                let of_service = pairs(body.get("environment").unwrap_or(&Json::Null))?;
                for (name, value) in pairs(value)? {
                    let own = of_service.iter().find(|(known, _)| *known == name).and_then(|(_, value)| value.clone());
                    if let Some(value) = value.or(own).or_else(|| env.get(&name).cloned()) {
                        target.args.insert(name, value);
                    }
                }
            }
            "labels" => target.labels = said(pairs(value)?),
            "extra_hosts" => target.extra_hosts = hosts(value)?,
            "additional_contexts" => target.contexts = contexts(said(pairs(value)?)),
            "tags" => target.tags = Some(list(value)?),
            "platforms" => target.platforms = Some(list(value)?),
            "entitlements" => target.entitlements = list(value)?,
            "no_cache_filter" => target.no_cache_filter = list(value)?,
            "cache_from" => target.cache_from = many(&list(value)?, entries::caches)?,
            "cache_to" => target.cache_to = Some(many(&list(value)?, entries::caches)?),
            "no_cache" => target.no_cache = Some(true).filter(|_| truth(key, value) == Ok(true)),
            "pull" => target.pull = Some(true).filter(|_| truth(key, value) == Ok(true)),
            "privileged" if truth(key, value)? => target.entitlements.push("security.insecure".to_owned()),
            "sbom" | "provenance" => {
                target.attest.extend(entries::attest(&entries::canonical_attest(key, &text()?))?);
            }
            "ssh" => {
                let agents = match value {
                    Json::Object(_) => {
                        let mut agents = Vec::new();
                        for (id, path) in pairs(value)? {
                            agents.push(Agent { id, paths: path.into_iter().collect() });
                        }
                        agents
                    }
                    _ => many(&list(value)?, entries::agent)?,
                };
                target.ssh = agents;
                target.ssh.sort_by(|a, b| (&a.id, &a.paths).cmp(&(&b.id, &b.paths)));
            }
            "secrets" => target.secrets = secrets(document, value)?,
            "ulimits" => target.ulimits = ulimits(value)?,
            "x-bake" => {}
            _ => {}
        }
    }
    if let Some(Json::Object(extension)) = build.get("x-bake") {
        extend(&mut target, extension)?;
    }
    if target.tags.as_ref().is_none_or(Vec::is_empty)
        && let Some(image) = body.get("image").and_then(scalar)
    {
        target.tags = Some(vec![image]);
    }
    Ok(target)
}

/// `x-bake`: what bake knows and compose does not.
fn extend(target: &mut Target, extension: &Map<String, Json>) -> Result<(), Fault> {
    const KEYS: [&str; 11] = [
        "cache-from",
        "cache-to",
        "contexts",
        "no-cache",
        "no-cache-filter",
        "output",
        "platforms",
        "pull",
        "secret",
        "ssh",
        "tags",
    ];
    for (key, value) in extension {
        if !KEYS.contains(&key.as_str()) {
            return Err(Fault::unknown(format!("`x-bake` has no `{key}`"), key, KEYS));
        }
        // A text holds several between spaces here.
        let list = || match value {
            Json::String(text) => Ok(text.split_whitespace().map(str::to_owned).collect()),
            other => list(other),
        };
        match key.as_str() {
            "tags" => {
                let tags = target.tags.get_or_insert_default();
                tags.extend(list()?);
                *tags = distinct(tags);
            }
            "platforms" => {
                let platforms = target.platforms.get_or_insert_default();
                platforms.extend(list()?);
                *platforms = distinct(platforms);
            }
            "cache-from" => target.cache_from.extend(many(&list()?, entries::caches)?),
            "cache-to" => target.cache_to.get_or_insert_default().extend(many(&list()?, entries::caches)?),
            "secret" => target.secrets.extend(many(&list()?, entries::secret)?),
            "ssh" => target.ssh.extend(many(&list()?, entries::agent)?),
            "output" => target.outputs.get_or_insert_default().extend(many(&list()?, entries::output)?),
            "pull" => target.pull = Some(truth(key, value)?),
            "no-cache" => target.no_cache = Some(truth(key, value)?),
            "no-cache-filter" => target.no_cache_filter.extend(list()?),
            _ => {
                for (name, place) in contexts(said(pairs(value)?)) {
                    target.contexts.entry(name).or_insert(place);
                }
            }
        }
    }
    Ok(())
}

fn many<T>(texts: &[String], of_text: fn(&str) -> Result<Vec<T>, Fault>) -> Result<Vec<T>, Fault> {
    Ok(texts.iter().map(|text| of_text(text)).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

fn scalar(json: &Json) -> Option<String> {
    Value::from_json(json).text()
}

fn truth(key: &str, json: &Json) -> Result<bool, Fault> {
    Value::from_json(json).boolean().ok_or_else(|| Fault::new(format!("`{key}` is neither true nor false")))
}

fn list(json: &Json) -> Result<Vec<String>, Fault> {
    let bad = || Fault::new("a list of texts is wanted here");
    let items = json.as_array().ok_or_else(bad)?;
    items.iter().map(|item| scalar(item).ok_or_else(bad)).collect()
}

/// A mapping, or a list of `NAME=VALUE`; a name alone has no value.
fn pairs(json: &Json) -> Result<Vec<(String, Option<String>)>, Fault> {
    match json {
        Json::Null => Ok(Vec::new()),
        Json::Object(map) => Ok(map.iter().map(|(name, value)| (name.clone(), scalar(value))).collect()),
        Json::Array(_) => {
            let pair = |text: &String| match text.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (text.clone(), None),
            };
            Ok(list(json)?.iter().map(pair).collect())
        }
        _ => Err(Fault::new("a mapping or a list of NAME=VALUE is wanted here")),
    }
}

fn said(pairs: Vec<(String, Option<String>)>) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(name, value)| (name, value.unwrap_or_default())).collect()
}

/// `NAME=ADDRESS`, `NAME:ADDRESS`; of one name with several, all of them.
fn hosts(json: &Json) -> Result<BTreeMap<String, String>, Fault> {
    let pairs: Vec<(String, String)> = match json {
        Json::Array(_) => {
            let cut = |text: &String| text.split_once(['=', ':']).map(|(a, b)| (a.to_owned(), b.to_owned()));
            let host = |text: &String| cut(text).ok_or_else(|| Fault::new(format!("`{text}` is not NAME=ADDRESS")));
            list(json)?.iter().map(host).collect::<Result<_, _>>()?
        }
        _ => said(pairs(json)?).into_iter().collect(),
    };
    let mut hosts: BTreeMap<String, String> = BTreeMap::new();
    for (name, address) in pairs {
        let known = hosts.entry(name).or_default();
        if !known.is_empty() {
            known.push(',');
        }
        known.push_str(&address);
    }
    Ok(hosts)
}

/// `service:NAME` is the target of that service.
fn contexts(named: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let place = |place: String| match place.strip_prefix("service:").or_else(|| place.strip_prefix("target:")) {
        Some(service) => format!("target:{}", service.replace('.', "_")),
        None => place,
    };
    named.into_iter().map(|(name, value)| (name, place(value))).collect()
}

fn secrets(document: &Map<String, Json>, json: &Json) -> Result<Vec<Secret>, Fault> {
    let items = json.as_array().ok_or_else(|| Fault::new("`secrets` is not a list"))?;
    let secret = |item: &Json| {
        let id = scalar(item).or_else(|| item.get("source").and_then(scalar)).unwrap_or_default();
        let source = document.get("secrets").and_then(|secrets| secrets.get(&id));
        let field = |name: &str| source.and_then(|source| source.get(name)).and_then(scalar).unwrap_or_default();
        if field("external") == "true" {
            return Err(Fault::new(format!("the secret `{id}` is external, and there is nobody to ask for it")));
        }
        Ok(Secret { src: field("file"), env: field("environment"), id })
    };
    items.iter().map(secret).collect()
}

fn ulimits(json: &Json) -> Result<Vec<String>, Fault> {
    let map = json.as_object().ok_or_else(|| Fault::new("`ulimits` is not a mapping"))?;
    let mut limits = Vec::new();
    for (name, limit) in map {
        let (soft, hard) = match limit {
            Json::Object(pair) => (pair.get("soft").and_then(scalar), pair.get("hard").and_then(scalar)),
            single => (scalar(single), scalar(single)),
        };
        let (Some(soft), Some(hard)) = (soft, hard) else {
            return Err(Fault::new(format!("the limit `{name}` is neither a number nor soft and hard")));
        };
        limits.push(format!("{name}={soft}:{hard}"));
    }
    limits.sort();
    Ok(limits)
}
