//! Targets: what one is made of, how one is laid over another, and how it is printed.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use super::entries::{Agent, Entry, Secret, distinct, newest};

/// A target.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Target {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) inherits: Vec<String>,
    pub(super) annotations: Vec<String>,
    pub(super) attest: Vec<Entry>,
    pub(super) context: Option<String>,
    pub(super) contexts: BTreeMap<String, String>,
    pub(super) dockerfile: Option<String>,
    pub(super) dockerfile_inline: Option<String>,
    pub(super) args: BTreeMap<String, String>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) tags: Option<Vec<String>>,
    pub(super) cache_from: Vec<Entry>,
    pub(super) cache_to: Option<Vec<Entry>>,
    pub(super) target: Option<String>,
    pub(super) secrets: Vec<Secret>,
    pub(super) ssh: Vec<Agent>,
    pub(super) platforms: Option<Vec<String>>,
    pub(super) outputs: Option<Vec<Entry>>,
    pub(super) pull: Option<bool>,
    pub(super) no_cache: Option<bool>,
    pub(super) network: Option<String>,
    pub(super) no_cache_filter: Vec<String>,
    pub(super) shm_size: Option<String>,
    pub(super) ulimits: Vec<String>,
    pub(super) resources: BTreeMap<String, String>,
    pub(super) call: Option<String>,
    pub(super) entitlements: Vec<String>,
    pub(super) extra_hosts: BTreeMap<String, String>,
    /// It is built for others alone: nothing of it goes anywhere.
    pub(super) linked: bool,
}

/// A group of targets and groups.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) targets: Vec<String>,
}

impl Target {
    /// Lays `other` over this: what it says goes before what is here; lists grow where buildx has them grow.
    pub(super) fn merge(&mut self, other: &Self) {
        fn over<T: Clone>(mine: &mut Option<T>, theirs: &Option<T>) {
            if theirs.is_some() {
                mine.clone_from(theirs);
            }
        }
        if !other.description.is_empty() {
            self.description.clone_from(&other.description);
        }
        over(&mut self.context, &other.context);
        over(&mut self.dockerfile, &other.dockerfile);
        over(&mut self.dockerfile_inline, &other.dockerfile_inline);
        over(&mut self.tags, &other.tags);
        over(&mut self.cache_to, &other.cache_to);
        over(&mut self.target, &other.target);
        over(&mut self.platforms, &other.platforms);
        over(&mut self.outputs, &other.outputs);
        over(&mut self.pull, &other.pull);
        over(&mut self.no_cache, &other.no_cache);
        over(&mut self.network, &other.network);
        over(&mut self.shm_size, &other.shm_size);
        over(&mut self.call, &other.call);
        for (mine, theirs) in [
            (&mut self.args, &other.args),
            (&mut self.labels, &other.labels),
            (&mut self.contexts, &other.contexts),
            (&mut self.extra_hosts, &other.extra_hosts),
            (&mut self.resources, &other.resources),
        ] {
            mine.extend(theirs.clone());
        }
        for (mine, theirs) in [
            (&mut self.annotations, &other.annotations),
            (&mut self.no_cache_filter, &other.no_cache_filter),
            (&mut self.ulimits, &other.ulimits),
            (&mut self.entitlements, &other.entitlements),
            (&mut self.inherits, &other.inherits),
        ] {
            mine.extend(theirs.iter().cloned());
        }
        self.attest.extend(other.attest.iter().cloned());
        self.secrets.extend(other.secrets.iter().cloned());
        self.ssh.extend(other.ssh.iter().cloned());
        self.cache_from.extend(other.cache_from.iter().cloned());
        self.dedup();
    }

    fn dedup(&mut self) {
        self.attest = newest(&self.attest, |entry| entry.get("type").cloned().unwrap_or_default());
        self.secrets = newest(&self.secrets, |secret| secret.id.clone());
        self.ssh = newest(&self.ssh, |agent| agent.id.clone());
        self.cache_from = distinct(&self.cache_from);
    }

    /// Leaves out what comes twice, and contexts that were taken back.
    pub(super) fn normalize(&mut self) {
        self.dedup();
        for list in [&mut self.annotations, &mut self.no_cache_filter, &mut self.ulimits, &mut self.entitlements] {
            *list = distinct(list);
        }
        for list in [&mut self.tags, &mut self.platforms] {
            *list = list.as_deref().map(distinct);
        }
        for list in [&mut self.cache_to, &mut self.outputs] {
            *list = list.as_deref().map(distinct);
        }
        if self.network.as_deref() == Some("host") && !self.entitlements.iter().any(|one| one == "network.host") {
            self.entitlements.push("network.host".to_owned());
        }
        self.contexts.retain(|_, place| !place.is_empty());
    }

    /// As `--print` shows it.
    pub(super) fn print(&self) -> Json {
        let mut out = Map::new();
        let mut put = |key: &str, value: Json| {
            let empty = match &value {
                Json::Null => true,
                Json::String(_) | Json::Bool(_) | Json::Number(_) => false,
                Json::Array(list) => list.is_empty(),
                Json::Object(map) => map.is_empty(),
            };
            if !empty {
                out.insert(key.to_owned(), value);
            }
        };
        let text = |value: &Option<String>| value.as_deref().map_or(Json::Null, Json::from);
        let escaped_text = |value: &Option<String>| value.as_deref().map_or(Json::Null, |text| escaped(text).into());
        let list = |values: &[String]| values.iter().map(|value| Json::from(value.as_str())).collect::<Json>();
        let plain =
            |map: &BTreeMap<String, String>| map.iter().map(|(k, v)| (k.clone(), Json::from(v.as_str()))).collect();
        let escaping =
            |map: &BTreeMap<String, String>| map.iter().map(|(k, v)| (k.clone(), escaped(v).into())).collect();
        let flag = |value: Option<bool>| value.map_or(Json::Null, Json::from);
        if !self.description.is_empty() {
            put("description", self.description.as_str().into());
        }
        put("annotations", self.annotations.iter().map(|value| Json::from(escaped(value))).collect());
        put("attest", self.attest.iter().map(attest).collect());
        put("context", text(&self.context));
        put("contexts", Json::Object(plain(&self.contexts)));
        put("dockerfile", text(&self.dockerfile));
        put("dockerfile-inline", escaped_text(&self.dockerfile_inline));
        put("args", Json::Object(escaping(&self.args)));
        put("labels", Json::Object(escaping(&self.labels)));
        put("tags", list(self.tags.as_deref().unwrap_or_default()));
        put("cache-from", entries(&self.cache_from));
        put("cache-to", entries(self.cache_to.as_deref().unwrap_or_default()));
        put("target", text(&self.target));
        put("secret", self.secrets.iter().map(secret).collect());
        put("ssh", self.ssh.iter().map(agent).collect());
        put("platforms", list(self.platforms.as_deref().unwrap_or_default()));
        put("output", entries(self.outputs.as_deref().unwrap_or_default()));
        put("pull", flag(self.pull));
        put("no-cache", flag(self.no_cache));
        put("network", text(&self.network));
        put("no-cache-filter", list(&self.no_cache_filter));
        put("shm-size", text(&self.shm_size));
        put("ulimits", list(&self.ulimits));
        put("resources", Json::Object(plain(&self.resources)));
        put("call", text(&self.call));
        put("entitlements", list(&self.entitlements));
        put("extra-hosts", Json::Object(escaping(&self.extra_hosts)));
        Json::Object(out)
    }
}

impl Group {
    /// As `--print` shows it.
    pub(super) fn print(&self) -> Json {
        let mut out = Map::new();
        if !self.description.is_empty() {
            out.insert("description".to_owned(), self.description.as_str().into());
        }
        out.insert("targets".to_owned(), self.targets.iter().map(|name| Json::from(name.as_str())).collect());
        Json::Object(out)
    }
}

/// A text that is the same when what is printed is read as a bake file again.
fn escaped(text: &str) -> String {
    text.replace("${", "$${").replace("%{", "%%{")
}

fn entries(list: &[Entry]) -> Json {
    list.iter().map(|entry| entry.iter().map(|(k, v)| (k.clone(), Json::from(v.as_str()))).collect::<Json>()).collect()
}

fn attest(entry: &Entry) -> Json {
    let mut out = Map::new();
    for (key, value) in entry {
        match (key.as_str(), value.as_str()) {
            ("disabled", "true" | "1" | "t") => out.insert(key.clone(), Json::Bool(true)),
            ("disabled", _) => None,
            _ => out.insert(key.clone(), value.as_str().into()),
        };
    }
    Json::Object(out)
}

fn secret(secret: &Secret) -> Json {
    let fields = [("id", &secret.id), ("src", &secret.src), ("env", &secret.env)];
    let said = fields.into_iter().filter(|(_, value)| !value.is_empty());
    said.map(|(key, value)| (key.to_owned(), Json::from(value.as_str()))).collect()
}

fn agent(agent: &Agent) -> Json {
    let mut out = Map::new();
    out.insert("id".to_owned(), agent.id.as_str().into());
    if !agent.paths.is_empty() {
        out.insert("paths".to_owned(), agent.paths.iter().map(|path| Json::from(path.as_str())).collect());
    }
    Json::Object(out)
}
