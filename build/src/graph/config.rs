//! What instructions write into an image's configuration, in docker's words.

use layerfs::oci::{ImageConfig, Platform};
use serde_json::{Map, Value};

use crate::dockerfile::ast::{CommandLine, Healthcheck};

/// What a `PATH` is where an image has none.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What `FROM scratch` starts with.
pub(super) fn scratch(platform: &Platform) -> ImageConfig {
    let mut config = ImageConfig::scratch(platform);
    config.set_strings("Env", Some(&[format!("PATH={DEFAULT_PATH}")]));
    config.set_text("WorkingDir", "/");
    config
}

/// What `FROM image` starts with: the image's configuration without what was true of its own making only.
pub(super) fn inherited(base: &ImageConfig) -> ImageConfig {
    let mut config = base.clone();
    for key in ["container", "container_config", "docker_version", "id", "parent", "Size", "created"] {
        config.document_mut().shift_remove(key);
    }
    for key in ["Hostname", "Domainname", "Image"] {
        config.settings_mut().shift_remove(key);
    }
    config.set_strings("OnBuild", None);
    complete_history(&mut config);
    config
}

/// Gives every layer of a base image an entry of history, as not every tool does. Entries and layers are matched by their
/// order, so without these, ours would be taken for what the base's layers were made by.
fn complete_history(config: &mut ImageConfig) {
    // What is wrong with the layers is said by whoever reads them.
    let layers = config.diff_ids().map_or(0, |ids| ids.len());
    let history = config.document_mut().entry("history").or_insert(Value::Null);
    let mut entries = history.as_array().cloned().unwrap_or_default();
    let told = entries.iter().filter(|entry| entry["empty_layer"] != Value::Bool(true)).count();
    for _ in told..layers {
        entries.push(serde_json::json!({"comment": "no history"}));
    }
    *history = entries.into();
}

/// The arguments of a command, through the image's shell where it asks for one.
pub(super) fn command(config: &ImageConfig, line: &CommandLine) -> Vec<String> {
    match line {
        CommandLine::Exec(args) => args.clone(),
        CommandLine::Shell(word) => through_shell(config, &word.text),
    }
}

/// `text` as an argument of the image's `SHELL`.
pub(super) fn through_shell(config: &ImageConfig, text: &str) -> Vec<String> {
    let shell = config.strings("Shell").filter(|shell| !shell.is_empty());
    let mut args = shell.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
    args.push(text.to_owned());
    args
}

/// Adds keys to a setting that is a set: `ExposedPorts`, `Volumes`.
pub(super) fn add_to_set(config: &mut ImageConfig, key: &str, names: &[String]) {
    let slot = config.settings_mut().entry(key).or_insert(Value::Null);
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    let set = slot.as_object_mut().expect("it was just made an object");
    for name in names {
        set.entry(name.as_str()).or_insert_with(|| Value::Object(Map::new()));
    }
}

/// Sets a label.
pub(super) fn set_label(config: &mut ImageConfig, key: &str, value: &str) {
    let slot = config.settings_mut().entry("Labels").or_insert(Value::Null);
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().expect("it was just made an object").insert(key.to_owned(), value.into());
}

/// Adds a line to `OnBuild`.
pub(super) fn add_trigger(config: &mut ImageConfig, trigger: &str) {
    let mut triggers = config.strings("OnBuild").unwrap_or_default();
    triggers.push(trigger.to_owned());
    config.set_strings("OnBuild", Some(&triggers));
}

/// Sets the health check; times are nanoseconds, as docker writes them.
pub(super) fn set_healthcheck(config: &mut ImageConfig, check: &Healthcheck) {
    let mut map = Map::new();
    match check {
        Healthcheck::None => drop(map.insert("Test".to_owned(), vec!["NONE"].into())),
        Healthcheck::Check { command, interval, timeout, start_period, start_interval, retries } => {
            let test: Vec<String> = match command {
                CommandLine::Exec(args) => std::iter::once("CMD".to_owned()).chain(args.iter().cloned()).collect(),
                CommandLine::Shell(word) => vec!["CMD-SHELL".to_owned(), word.text.clone()],
            };
            map.insert("Test".to_owned(), test.into());
            let times = [
                ("Interval", interval),
                ("Timeout", timeout),
                ("StartPeriod", start_period),
                ("StartInterval", start_interval),
            ];
            for (key, time) in times {
                let nanoseconds = time.map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
                if let Some(nanoseconds) = nanoseconds.filter(|n| *n > 0) {
                    map.insert(key.to_owned(), nanoseconds.into());
                }
            }
            if let Some(retries) = retries.filter(|n| *n > 0) {
                map.insert("Retries".to_owned(), retries.into());
            }
        }
    }
    config.settings_mut().insert("Healthcheck".to_owned(), Value::Object(map));
}
