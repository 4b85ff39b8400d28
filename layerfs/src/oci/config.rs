//! Image configurations.

use serde_json::{Map, Value};

use super::{Descriptor, Platform, canonical_json, media_type, strict};
use crate::digest::DiffId;
use crate::error::{Context, Error, Kind, Result};

/// An image configuration (image-spec, `config.md`): the JSON object itself, with typed reading and writing of the
/// fields we know. Everything else in it, and the order of all keys, stays as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageConfig(Map<String, Value>);

impl ImageConfig {
    /// An image of nothing for `platform`.
    pub fn scratch(platform: &Platform) -> Self {
        let mut map = Map::new();
        map.insert("architecture".to_owned(), platform.architecture.clone().into());
        map.insert("os".to_owned(), platform.os.clone().into());
        if let Some(variant) = &platform.variant {
            map.insert("variant".to_owned(), variant.clone().into());
        }
        map.insert("config".to_owned(), Value::Object(Map::new()));
        let rootfs = [("type".to_owned(), "layers".into()), ("diff_ids".to_owned(), Value::Array(Vec::new()))];
        map.insert("rootfs".to_owned(), Value::Object(rootfs.into_iter().collect()));
        map.insert("history".to_owned(), Value::Array(Vec::new()));
        Self(map)
    }

    /// Reads a configuration.
    ///
    /// # Errors
    /// It is not a JSON object with a `rootfs` of type `layers`, or has a key twice.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        strict::check(bytes, "image config")?;
        let map = serde_json::from_slice(bytes).context(|| "image config is not a JSON object")?;
        let config = Self(map);
        config.diff_ids()?;
        Ok(config)
    }

    /// The configuration as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        canonical_json(&self.0)
    }

    /// The configuration's descriptor and bytes, as an OCI blob.
    pub fn to_blob(&self) -> (Descriptor, Vec<u8>) {
        let bytes = self.to_bytes();
        (Descriptor::of(media_type::OCI_CONFIG, &bytes), bytes)
    }

    /// What the image runs on.
    pub fn platform(&self) -> Platform {
        let text = |key: &str| self.0.get(key).and_then(Value::as_str).filter(|t| !t.is_empty());
        let mut platform =
            Platform::new(text("os").unwrap_or("linux"), text("architecture").unwrap_or("unknown"), text("variant"));
        platform.os_version = text("os.version").map(str::to_owned);
        platform
    }

    /// The layers' diff IDs, lowest first.
    ///
    /// # Errors
    /// `rootfs` is missing or malformed.
    pub fn diff_ids(&self) -> Result<Vec<DiffId>> {
        let rootfs = self.0.get("rootfs").and_then(Value::as_object);
        let list = match rootfs.map(|rootfs| rootfs.get("diff_ids")) {
            Some(Some(Value::Array(list))) => list,
            // Docker writes `null` for an image without layers.
            Some(Some(Value::Null) | None) => return Ok(Vec::new()),
            _ => return Err(Error::new(Kind::Invalid, "image config has no `rootfs.diff_ids`")),
        };
        let parse = |value: &Value| value.as_str().unwrap_or_default().parse().map(DiffId);
        list.iter().map(parse).collect::<Result<_, Error>>().context(|| "image config names a layer that is no digest")
    }

    /// Adds a layer on top, or only a line of history where `diff_id` is `None`. `history` is a history object of
    /// `config.md`; `empty_layer` is set here.
    pub fn push_layer(&mut self, diff_id: Option<DiffId>, mut history: Map<String, Value>) {
        if let Some(diff_id) = diff_id {
            let rootfs = object(&mut self.0, "rootfs");
            rootfs.entry("type").or_insert_with(|| "layers".into());
            array(rootfs, "diff_ids").push(diff_id.to_string().into());
        } else {
            history.insert("empty_layer".to_owned(), true.into());
        }
        array(&mut self.0, "history").push(Value::Object(history));
    }

    /// The container settings (`config`), empty where there are none.
    pub fn settings(&self) -> Option<&Map<String, Value>> {
        self.0.get("config").and_then(Value::as_object)
    }

    /// The container settings for writing.
    pub fn settings_mut(&mut self) -> &mut Map<String, Value> {
        object(&mut self.0, "config")
    }

    /// A setting that is a list of strings: `Env`, `Cmd`, `Entrypoint`, `Shell`, `OnBuild`. `None` where it is absent
    /// or null, which for `Entrypoint` and `Cmd` differs from an empty list.
    pub fn strings(&self, key: &str) -> Option<Vec<String>> {
        let list = self.settings()?.get(key)?.as_array()?;
        Some(list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// Sets a setting that is a list of strings; `None` removes it.
    pub fn set_strings(&mut self, key: &str, value: Option<&[String]>) {
        match value {
            Some(list) => drop(self.settings_mut().insert(key.to_owned(), list.to_vec().into())),
            None => drop(self.settings_mut().shift_remove(key)),
        }
    }

    /// A setting that is a string: `User`, `WorkingDir`, `StopSignal`. `None` where it is absent or empty.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.settings()?.get(key)?.as_str().filter(|text| !text.is_empty())
    }

    /// Sets a setting that is a string; an empty one removes it.
    pub fn set_text(&mut self, key: &str, value: &str) {
        match value {
            "" => drop(self.settings_mut().shift_remove(key)),
            _ => drop(self.settings_mut().insert(key.to_owned(), value.into())),
        }
    }

    /// The whole document.
    pub fn document(&self) -> &Map<String, Value> {
        &self.0
    }

    /// The whole document for writing.
    pub fn document_mut(&mut self) -> &mut Map<String, Value> {
        &mut self.0
    }
}

fn object<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let slot = map.entry(key).or_insert(Value::Null);
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().expect("it was just made an object")
}

fn array<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Vec<Value> {
    let slot = map.entry(key).or_insert(Value::Null);
    if !slot.is_array() {
        *slot = Value::Array(Vec::new());
    }
    slot.as_array_mut().expect("it was just made an array")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_do_not_know_stays_in_its_place() {
        let text = r#"{"created":"2020","config":{"Healthcheck":{"Test":["CMD"]},"Env":["A=1"],"OnBuild":null,"x":1},"rootfs":{"type":"layers","diff_ids":[]},"zzz":[]}"#;
        let mut config = ImageConfig::parse(text.as_bytes()).expect("valid");
        assert_eq!(String::from_utf8(config.to_bytes()).expect("text"), text);
        config.set_strings("Env", Some(&["A=2".to_owned()]));
        assert_eq!(String::from_utf8(config.to_bytes()).expect("text"), text.replace("A=1", "A=2"));
    }

    #[test]
    fn layers_and_history_grow_together() {
        let mut config = ImageConfig::scratch(&Platform::host());
        let id = DiffId(crate::digest::Digest::of(b"layer"));
        config.push_layer(Some(id), Map::new());
        config.push_layer(None, Map::new());
        assert_eq!(config.diff_ids().expect("valid"), [id]);
        assert_eq!(config.document()["history"][1]["empty_layer"], true);
        assert!(ImageConfig::parse(b"{}").is_err());
    }
}
