//! Values of a target's attributes to the target.

use std::collections::BTreeMap;

use super::entries;
use super::eval::article;
use super::target::Target;
use super::value::Value;
use crate::dockerfile::Fault;

/// What a target may say, sorted.
pub(super) const ATTRIBUTES: &[&str] = &[
    "annotations",
    "args",
    "attest",
    "cache-from",
    "cache-to",
    "call",
    "context",
    "contexts",
    "description",
    "dockerfile",
    "dockerfile-inline",
    "entitlements",
    "extra-hosts",
    "inherits",
    "labels",
    "matrix",
    "name",
    "network",
    "no-cache",
    "no-cache-filter",
    "output",
    "platforms",
    "policy",
    "pull",
    "resources",
    "secret",
    "shm-size",
    "ssh",
    "tags",
    "target",
    "ulimits",
];

/// Sets an attribute.
///
/// # Errors
/// The value is not of its type.
pub(super) fn set(target: &mut Target, name: &str, value: &Value) -> Result<(), Fault> {
    if *value == Value::Null {
        return Ok(());
    }
    match name {
        "annotations" => target.annotations = texts(value)?,
        "args" => target.args = map(value)?,
        "attest" => target.attest = entries::list(value, entries::attest, entries::attest_object)?,
        "cache-from" => target.cache_from = entries::list(value, entries::caches, entries::cache_object)?,
        "cache-to" => target.cache_to = Some(entries::list(value, entries::caches, entries::cache_object)?),
        "call" => target.call = Some(text(value)?),
        "context" => target.context = Some(text(value)?),
        "contexts" => target.contexts = map(value)?,
        "description" => target.description = text(value)?,
        "dockerfile" => target.dockerfile = Some(text(value)?),
        "dockerfile-inline" => target.dockerfile_inline = Some(text(value)?),
        "entitlements" => target.entitlements = texts(value)?,
        "extra-hosts" => target.extra_hosts = map(value)?,
        "inherits" => target.inherits = texts(value)?,
        "labels" => target.labels = map(value)?,
        "network" => target.network = Some(text(value)?),
        "no-cache" => target.no_cache = Some(flag(value)?),
        "no-cache-filter" => target.no_cache_filter = texts(value)?,
        "output" => target.outputs = Some(entries::list(value, entries::output, entries::output_object)?),
        "platforms" => target.platforms = Some(texts(value)?),
        "policy" => {
            return Err(Fault::new("policies are not built yet").hint("leave `policy` out: nothing is checked by it"));
        }
        "pull" => target.pull = Some(flag(value)?),
        "resources" => target.resources = map(value)?,
        "secret" => target.secrets = entries::list(value, entries::secret, entries::secret_object)?,
        "shm-size" => target.shm_size = Some(text(value)?),
        "ssh" => target.ssh = entries::list(value, entries::agent, entries::agent_object)?,
        "tags" => target.tags = Some(texts(value)?),
        "target" => target.target = Some(text(value)?),
        "ulimits" => target.ulimits = texts(value)?,
        _ => {}
    }
    Ok(())
}

pub(super) fn text(value: &Value) -> Result<String, Fault> {
    value.text().ok_or_else(|| Fault::new(format!("this is {}, not a string", article(value))))
}

fn flag(value: &Value) -> Result<bool, Fault> {
    value.boolean().ok_or_else(|| Fault::new(format!("this is {}, not true or false", article(value))))
}

/// A list of texts; those that are null are left out.
pub(super) fn texts(value: &Value) -> Result<Vec<String>, Fault> {
    let Value::List(list) = value else {
        return Err(
            Fault::new(format!("this is {}, not a list of strings", article(value))).hint("such as [\"a\", \"b\"]")
        );
    };
    list.iter().filter(|value| **value != Value::Null).map(text).collect()
}

fn map(value: &Value) -> Result<BTreeMap<String, String>, Fault> {
    let Value::Map(map) = value else {
        return Err(
            Fault::new(format!("this is {}, not an object", article(value))).hint("such as { NAME = \"value\" }")
        );
    };
    let said = map.iter().filter(|(_, value)| **value != Value::Null);
    said.map(|(key, value)| Ok((key.clone(), text(value)?))).collect()
}

/// Whether a name may be a target's.
///
/// # Errors
/// It may not; the error says what may.
pub(super) fn name(name: &str) -> Result<(), Fault> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match !name.is_empty() && name.chars().all(fits) {
        true => Ok(()),
        false => Err(Fault::new(format!("`{name}` cannot be the name of a target"))
            .hint("letters, digits, `_` and `-` can; sanitize() makes them")),
    }
}
