//! The values of `--cache-from` and `--cache-to`.

use std::path::PathBuf;

use layerfs::error::{Error, Kind, Result};

use super::{output, values};
use crate::cache::{CachePlace, CacheTo, Mounts};

type Fields = Vec<(String, String)>;

/// `type=registry,ref=NAME`, `type=local,src=FOLDER`, or the name of an image alone.
pub(super) fn from(text: &str) -> Result<CachePlace> {
    place("--cache-from", text, "src", &["type", "ref", "src", "digest", "tag"]).map(|(place, _)| place)
}

/// The same to write, or `type=inline`.
pub(super) fn to(text: &str) -> Result<CacheTo> {
    let known = [
        "type",
        "ref",
        "dest",
        "mode",
        "mounts",
        "compression",
        "compression-level",
        "force-compression",
        "ignore-error",
        "oci-mediatypes",
        "image-manifest",
        "tag",
        "reset",
    ];
    let (place, fields) = place("--cache-to", text, "dest", &known)?;
    let max = match get(&fields, "mode") {
        None | Some("min") => false,
        Some("max") => true,
        Some(other) => {
            return Err(Error::new(Kind::Usage, format!("--cache-to {text}: mode={other} is not known"))
                .hint("there are min and max"));
        }
    };
    // Nothing that goes wrong with a cache fails a build, so this says nothing new; but it has to make sense.
    values::boolean("--cache-to: ignore-error", get(&fields, "ignore-error"))?;
    let compression = output::compression(get(&fields, "compression"), get(&fields, "compression-level"))?;
    let named = || fields.iter().filter(|(key, _)| key == "mounts").map(|(_, value)| value.clone());
    let mounts = match get(&fields, "mounts") {
        None | Some("false" | "none") => Mounts::None,
        Some("" | "true" | "all") => Mounts::All,
        Some(_) => Mounts::Named(named().collect()),
    };
    if mounts != Mounts::None && !place.holds_mounts() {
        return Err(Error::new(Kind::Usage, format!("--cache-to {text}: an image holds no cache mounts"))
            .hint("type=registry and type=local do"));
    }
    Ok(CacheTo { place, max, compression, mounts })
}

fn get<'a>(fields: &'a Fields, key: &str) -> Option<&'a str> {
    fields.iter().rev().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
}

fn place(flag: &str, text: &str, folder: &str, known: &[&str]) -> Result<(CachePlace, Fields)> {
    if !text.contains('=') {
        return Ok((CachePlace::Registry(values::name(text)?), Vec::new()));
    }
    let fields = values::fields(flag, text)?;
    if let Some((key, _)) = fields.iter().find(|(key, _)| !known.contains(&key.as_str())) {
        return Err(Error::new(Kind::Usage, format!("{flag} {text}: the key `{key}` is not known")));
    }
    let needed = |key: &str| {
        let value = get(&fields, key).filter(|value| !value.is_empty());
        value.ok_or_else(|| Error::new(Kind::Usage, format!("{flag} {text} has no {key}")))
    };
    let place = match get(&fields, "type").unwrap_or("registry") {
        "registry" => CachePlace::Registry(values::name(needed("ref")?)?),
        "local" => CachePlace::Folder(PathBuf::from(needed(folder)?)),
        "inline" if folder == "dest" => CachePlace::Inline,
        other => {
            let known = if folder == "dest" { "registry, local and inline" } else { "registry and local" };
            return Err(Error::new(Kind::Usage, format!("{flag} {text}: the type `{other}` is not built yet"))
                .hint(format!("there are {known}")));
        }
    };
    Ok((place, fields))
}
