//! What an image is, as text: its settings, its history, and every file that its base does not have.
//!
//! Layers are put together here, not by the programs under test, and strictly: nothing is looked for behind symlinks, so
//! an entry below one shows as just that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use layerfs::archive::decompress;
use serde_json::Value;
use tar::{Archive, EntryType};

/// The longest content that is shown rather than digested, in bytes.
const SHOWN: usize = 80;

/// An image read whole.
pub(super) struct Picture {
    config: Value,
    files: BTreeMap<Vec<u8>, Arc<Node>>,
}

#[derive(PartialEq)]
struct Node {
    kind: String,
    mode: u32,
    owner: (u64, u64),
    modified: u64,
    /// A file's bytes.
    content: Vec<u8>,
    /// A symlink's target, a device's number, attributes.
    more: String,
}

/// Documents and layers by digest.
pub(super) trait Blobs {
    fn open(&self, digest: &str) -> Box<dyn Read + Send>;
}

/// A store, or any image layout in a folder.
pub(super) struct Layout<'a>(pub(super) &'a Path);

impl Blobs for Layout<'_> {
    fn open(&self, digest: &str) -> Box<dyn Read + Send> {
        let path = self.0.join("blobs").join(digest.replace(':', "/"));
        Box::new(File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }
}

/// An image layout in an archive.
pub(super) struct LayoutArchive(pub(super) BTreeMap<String, Vec<u8>>);

impl LayoutArchive {
    /// Reads it whole; gives it with the manifest of the one image that is in it.
    pub(super) fn load(path: &Path) -> (Self, String) {
        let mut files = BTreeMap::new();
        let mut file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        file.rewind().expect("a file");
        for entry in Archive::new(file).entries().expect("an archive") {
            let mut entry = entry.expect("an entry");
            let name = entry.path().expect("a path").to_string_lossy().into_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("content");
            files.insert(name, content);
        }
        let layout = Self(files);
        let mut document: Value = serde_json::from_slice(&layout.0["index.json"]).expect("an index");
        loop {
            let manifests = document["manifests"].as_array().expect("an index").clone();
            // What stands for no platform describes the image beside it.
            let image = manifests.iter().find(|entry| entry["platform"]["os"] != "unknown").expect("an image");
            let digest = image["digest"].as_str().expect("a digest").to_owned();
            document = parse(layout.open(&digest));
            if document["manifests"].is_null() {
                return (layout, digest);
            }
        }
    }
}

impl Blobs for LayoutArchive {
    fn open(&self, digest: &str) -> Box<dyn Read + Send> {
        Box::new(io::Cursor::new(self.0[&format!("blobs/{}", digest.replace(':', "/"))].clone()))
    }
}

fn parse(mut document: Box<dyn Read + Send>) -> Value {
    let mut bytes = Vec::new();
    document.read_to_end(&mut bytes).expect("a document");
    serde_json::from_slice(&bytes).expect("a JSON document")
}

impl Picture {
    /// The image of a manifest.
    pub(super) fn of(blobs: &dyn Blobs, manifest: &str) -> Self {
        let manifest = parse(blobs.open(manifest));
        let mut config = parse(blobs.open(manifest["config"]["digest"].as_str().expect("a digest")));
        let mut files = BTreeMap::new();
        let mut empty = Vec::new();
        for layer in manifest["layers"].as_array().into_iter().flatten() {
            let blob = blobs.open(layer["digest"].as_str().expect("a digest"));
            empty.push(apply(&mut files, decompress(blob).expect("an archive")) == 0);
        }
        // A layer without an entry is none, whatever the history says of it.
        let mut empty = empty.into_iter();
        for entry in config["history"].as_array_mut().into_iter().flatten() {
            if entry["empty_layer"] != Value::Bool(true) && empty.next() == Some(true) {
                entry["empty_layer"] = true.into();
            }
        }
        Self { config, files }
    }

    /// What it is without any file: nothing.
    fn nothing() -> Self {
        Self { config: Value::Null, files: BTreeMap::new() }
    }

    fn list(&self, key: &str, member: &str) -> Vec<String> {
        let list = self.config[key].as_array().or_else(|| self.config[key][member].as_array());
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        list.into_iter().flatten().map(text).collect()
    }

    fn history(&self) -> Vec<(bool, String)> {
        let entry = |entry: &Value| {
            let text = entry["created_by"].as_str().unwrap_or_default();
            let text = text.strip_suffix(" # buildkit").unwrap_or(text);
            (entry["empty_layer"] == Value::Bool(true), text.trim_end().to_owned())
        };
        self.config["history"].as_array().into_iter().flatten().map(entry).collect()
    }

    /// Whether this image is `other` with more on top.
    fn is_on(&self, other: &Self) -> bool {
        let (ids, history) = (other.list("rootfs", "diff_ids"), other.history());
        self.list("rootfs", "diff_ids").starts_with(&ids)
            && self.history().iter().map(|(_, text)| text).take(history.len()).eq(history.iter().map(|(_, text)| text))
    }

    /// All of it that is not in the largest of `bases` that it is on.
    pub(super) fn show(&self, bases: &[Self], times: bool) -> String {
        let nothing = Self::nothing();
        let base = bases.iter().filter(|base| self.is_on(base)).max_by_key(|base| base.history().len());
        let base = base.unwrap_or(&nothing);
        let mut text = self.settings();
        for (empty, line) in self.history().iter().skip(base.history().len()) {
            writeln!(text, "{} {}", if *empty { '-' } else { '+' }, line.escape_default()).expect("text");
        }
        // Which path of a file with several is the first.
        let mut first: BTreeMap<*const Node, &[u8]> = BTreeMap::new();
        for (path, node) in &self.files {
            first.entry(Arc::as_ptr(node)).or_insert(path);
        }
        let paths: BTreeSet<Vec<&[u8]>> =
            base.files.keys().chain(self.files.keys()).map(|path| path.split(|byte| *byte == b'/').collect()).collect();
        for path in paths {
            let path = path.join(&b'/');
            match (base.files.get(&path), self.files.get(&path)) {
                (Some(_), None) if parent(&path).is_none_or(|parent| self.files.contains_key(parent)) => {
                    writeln!(text, "gone /{}", shown(&path)).expect("text");
                }
                (old, Some(new)) if old.is_none_or(|old| !old.is_same(new)) => {
                    let first = first[&Arc::as_ptr(new)];
                    let link = if first == path { String::new() } else { format!(" = /{}", shown(first)) };
                    writeln!(text, "{}{link}", new.line(&path, times)).expect("text");
                }
                _ => {}
            }
        }
        text
    }

    fn settings(&self) -> String {
        let mut text = String::new();
        let settings = &self.config["config"];
        for key in ["User", "WorkingDir", "StopSignal"] {
            if let Some(value) = settings[key].as_str().filter(|value| !value.is_empty()) {
                writeln!(text, "{} {value}", key.to_lowercase()).expect("text");
            }
        }
        for line in settings["Env"].as_array().into_iter().flatten() {
            writeln!(text, "env {}", line.as_str().expect("text").escape_debug()).expect("text");
        }
        for key in ["Entrypoint", "Cmd", "Shell", "Healthcheck", "OnBuild"] {
            let value = &settings[key];
            let nothing = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
            if !nothing {
                writeln!(text, "{} {}", key.to_lowercase(), sorted(value)).expect("text");
            }
        }
        for key in ["ExposedPorts", "Volumes"] {
            if let Some(set) = settings[key].as_object().filter(|set| !set.is_empty()) {
                let names: BTreeSet<&String> = set.keys().collect();
                writeln!(text, "{} {names:?}", key.to_lowercase()).expect("text");
            }
        }
        for (key, value) in settings["Labels"].as_object().into_iter().flatten().collect::<BTreeMap<_, _>>() {
            writeln!(text, "label {key}={value}").expect("text");
        }
        for key in ["author", "variant"] {
            if let Some(value) = self.config[key].as_str().filter(|value| !value.is_empty()) {
                writeln!(text, "{key} {value}").expect("text");
            }
        }
        text
    }
}

/// The value with its keys in order.
fn sorted(value: &Value) -> String {
    match value.as_object() {
        Some(map) => format!("{:?}", map.iter().map(|(key, value)| format!("{key}={value}")).collect::<BTreeSet<_>>()),
        None => value.to_string(),
    }
}

impl Node {
    fn is_same(&self, other: &Self) -> bool {
        (&self.kind, self.mode, self.owner, &self.content, &self.more)
            == (&other.kind, other.mode, other.owner, &other.content, &other.more)
    }

    fn line(&self, path: &[u8], times: bool) -> String {
        let (uid, gid) = self.owner;
        let mut line = format!("{} {:04o} {uid}:{gid}", self.kind, self.mode);
        if times {
            write!(line, " @{}", self.modified).expect("text");
        }
        write!(line, " /{}", shown(path)).expect("text");
        if self.kind == "file" {
            match std::str::from_utf8(&self.content).ok().filter(|text| text.len() <= SHOWN) {
                Some(text) => write!(line, " {text:?}").expect("text"),
                None => {
                    let digest = layerfs::digest::Digest::of(&self.content).hex();
                    write!(line, " {} bytes {}", self.content.len(), &digest[..12]).expect("text");
                }
            }
        }
        line + &self.more
    }
}

/// Puts a layer on top; gives the number of its entries.
fn apply(files: &mut BTreeMap<Vec<u8>, Arc<Node>>, layer: impl Read) -> usize {
    let mut new: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut count = 0;
    for entry in Archive::new(layer).entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        count += 1;
        let path = clean(&entry.path_bytes());
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if let Some(gone) = name.strip_prefix(b".wh.") {
            let folder = parent(&path).map(<[u8]>::to_vec);
            let (target, itself) = match gone {
                b".wh..opq" => (folder.unwrap_or_default(), false),
                gone => (folder.map_or_else(|| gone.to_vec(), |folder| [&folder, &b"/"[..], gone].concat()), true),
            };
            files.retain(|path, _| new.contains(path) || !(itself && *path == target || is_below(path, &target)));
            continue;
        }
        if path.is_empty() {
            continue;
        }
        let node = match entry.header().entry_type() {
            EntryType::Link => {
                let target = clean(&entry.link_name_bytes().expect("a link has a target"));
                let missing = || panic!("the hard link {} leads to nothing: {}", shown(&path), shown(&target));
                files.get(&target).cloned().unwrap_or_else(missing)
            }
            _ => Arc::new(read(&mut entry)),
        };
        if node.kind != "dir" {
            files.retain(|other, _| !is_below(other, &path));
        }
        let mut above = parent(&path);
        while let Some(folder) = above.filter(|folder| !files.contains_key(*folder)) {
            let plain = Node {
                kind: "dir".into(),
                mode: 0o755,
                owner: (0, 0),
                modified: 0,
                content: Vec::new(),
                more: String::new(),
            };
            files.insert(folder.to_vec(), Arc::new(plain));
            above = parent(folder);
        }
        files.insert(path.clone(), node);
        new.insert(path);
    }
    count
}

fn read(entry: &mut tar::Entry<'_, impl Read>) -> Node {
    let kind = match entry.header().entry_type() {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => "file",
        EntryType::Directory => "dir",
        EntryType::Symlink => "link",
        EntryType::Char => "char",
        EntryType::Block => "block",
        EntryType::Fifo => "fifo",
        other => panic!("an entry of kind {other:?}"),
    };
    let mut more = String::new();
    if kind == "link" {
        write!(more, " -> {}", shown(&entry.link_name_bytes().expect("a target"))).expect("text");
    }
    if matches!(kind, "char" | "block") {
        let number = |number: io::Result<Option<u32>>| number.ok().flatten().unwrap_or_default();
        let (major, minor) = (number(entry.header().device_major()), number(entry.header().device_minor()));
        write!(more, " {major}:{minor}").expect("text");
    }
    let mut attributes = BTreeMap::new();
    for extension in entry.pax_extensions().expect("extensions").into_iter().flatten() {
        let extension = extension.expect("an extension");
        if let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr.")) {
            attributes.insert(name.to_owned(), shown(extension.value_bytes()));
        }
    }
    for (name, value) in attributes {
        write!(more, " {name}={value}").expect("text");
    }
    let header = entry.header();
    // A symlink's mode means nothing, and is written in more than one way.
    let mode = if kind == "link" { 0o777 } else { header.mode().expect("a mode") & 0o7777 };
    let owner = (header.uid().expect("an owner"), header.gid().expect("a group"));
    let modified = header.mtime().expect("a time");
    let mut content = Vec::new();
    entry.read_to_end(&mut content).expect("content");
    Node { kind: kind.to_owned(), mode, owner, modified, content, more }
}

/// The path without a slash or dot in front and a slash at the end.
fn clean(path: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    parts.join(&b'/')
}

fn parent(path: &[u8]) -> Option<&[u8]> {
    path.iter().rposition(|byte| *byte == b'/').map(|slash| &path[..slash])
}

fn is_below(path: &[u8], folder: &[u8]) -> bool {
    folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.first() == Some(&b'/'))
}

/// A path on one line.
fn shown(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) => text.escape_debug().to_string(),
        Err(_) => std::ffi::OsStr::from_bytes(path).as_bytes().escape_ascii().to_string(),
    }
}
