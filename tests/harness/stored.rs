//! What lies in a store, seen from outside: every file of it, and whether it is whole.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use layerfs::digest::Digest;
use serde_json::Value;

/// A line of facts for each file below a store.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored(BTreeMap<String, String>);

impl Stored {
    /// All files of the store. Of the build cache the names only, as its records
    /// state times, and nothing of its notes on contexts, which lie elsewhere each time and are only taken
    /// of files that were written long enough before.
    pub(crate) fn of(store: &Path) -> Self {
        let mut files = BTreeMap::new();
        let mut open = vec![store.to_owned()];
        while let Some(folder) = open.pop() {
            for path in list(&folder) {
                let name = path.strip_prefix(store).expect("it lies below").to_str().expect("plain names").to_owned();
                if name == "cache/stat" || marks_what_is_there(store, &name) {
                    continue;
                }
                let metadata =
                    fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                if metadata.is_dir() {
                    open.push(path.clone());
                }
                files.insert(name.clone(), facts(&name, &path, &metadata));
            }
        }
        Self(files)
    }

    /// The other store holds the same, to the last file.
    #[track_caller]
    pub(crate) fn assert_same(&self, other: &Self, what: &str) {
        let missing: Vec<_> = self.0.keys().filter(|name| !other.0.contains_key(*name)).collect();
        let more: Vec<_> = other.0.keys().filter(|name| !self.0.contains_key(*name)).collect();
        assert!(missing.is_empty() && more.is_empty(), "{what}\nmissing: {missing:#?}\nleft behind: {more:#?}");
        let differs = self.0.iter().find(|(name, facts)| other.0[*name] != **facts);
        assert!(differs.is_none(), "{what}\nexpected {differs:?}\nfound {:?}", differs.map(|(name, _)| &other.0[name]));
    }

    /// The files below one folder of the store.
    fn below<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = (&'a String, &'a String)> {
        let prefix = format!("{folder}/");
        self.0.iter().filter(move |(name, _)| name.starts_with(&prefix))
    }
}

/// An object that no sync has covered yet has a mark, in a folder of its own where the sync failed: that is no garbage
/// while the object is there.
fn marks_what_is_there(store: &Path, name: &str) -> bool {
    if name.starts_with("unsynced/") && name.ends_with(".failed") {
        return fs::read_dir(store.join(name)).is_ok_and(|mut marks| marks.next().is_some());
    }
    let mark = name.strip_prefix("unsynced/").and_then(|rest| rest.split_once('/'));
    let object = mark.and_then(|(_, mark)| match mark.split_once('.')? {
        ("blob", digest) => Some(store.join("blobs").join(digest.replacen('.', "/", 1))),
        ("layer", key) => Some(store.join("layers").join(key)),
        _ => None,
    });
    object.is_some_and(|object| object.exists())
}

fn facts(name: &str, path: &Path, metadata: &fs::Metadata) -> String {
    let mode = metadata.mode();
    if name.starts_with("cache/") {
        return format!("{:o}", mode & 0o170000);
    }
    let owner = (metadata.uid(), metadata.gid());
    let content = match metadata {
        file if file.is_file() => Digest::of(&fs::read(path).expect("root may read it")).to_string(),
        link if link.is_symlink() => fs::read_link(path).expect("a link").display().to_string(),
        _ => format!("{:x}", metadata.rdev()),
    };
    // The store's own folders change when something is made in them; what is in a layer has its times from there.
    let in_layer = name.starts_with("layers/") && name.split('/').nth(2) == Some("fs") && name.split('/').count() > 3;
    let time = if in_layer { (metadata.mtime(), metadata.mtime_nsec()) } else { (0, 0) };
    format!("{mode:o} {owner:?} {time:?} {content}")
}

/// What is visible in the store is whole: blobs are what their names say, layers are what they are in `reference`
/// (where all of them are complete), and what a ref leads to is there. Gives the names.
#[track_caller]
pub(crate) fn assert_whole(store: &Path, reference: &Stored, what: &str) -> Vec<String> {
    for path in list(&store.join("blobs/sha256")) {
        let found = Digest::of(&fs::read(&path).expect("root may read it")).hex();
        assert_eq!(name_of(&path), found, "{what}: a blob is not what its name says");
    }
    let found = Stored::of(store);
    for path in list(&store.join("layers")) {
        let folder = format!("layers/{}", name_of(&path));
        let (whole, here): (Vec<_>, Vec<_>) = (reference.below(&folder).collect(), found.below(&folder).collect());
        assert!(whole.is_empty() || whole == here, "{what}: {folder} is not whole\n{here:#?}\nexpected {whole:#?}");
        assert!(here.iter().any(|(name, _)| name.ends_with("/meta.json")), "{what}: {folder} has no metadata");
    }
    list(&store.join("refs")).iter().map(|path| complete(store, path, what)).collect()
}

#[track_caller]
fn complete(store: &Path, name: &Path, what: &str) -> String {
    let text = fs::read_to_string(name).expect("root may read it");
    let descriptor: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{what}: {}: {error}: {text:?}", name.display()));
    let mut wanted = vec![descriptor];
    while let Some(descriptor) = wanted.pop() {
        let digest = descriptor["digest"].as_str().expect("a descriptor has a digest");
        let blob = store.join("blobs").join(digest.replace(':', "/"));
        let bytes = fs::read(&blob).unwrap_or_else(|error| panic!("{what}: {}: {error}", blob.display()));
        assert_eq!(descriptor["size"], bytes.len(), "{what}: {digest} has another size");
        if descriptor["mediaType"].as_str().is_some_and(|kind| kind.contains("manifest") || kind.contains("index")) {
            let document: Value = serde_json::from_slice(&bytes).expect("a manifest is JSON");
            wanted
                .extend(["manifests", "layers"].iter().flat_map(|list| document[*list].as_array().cloned()).flatten());
            wanted.extend(document.get("config").cloned());
        }
    }
    String::from_utf8_lossy(name.file_name().expect("a ref has a name").as_bytes()).into_owned()
}

fn name_of(path: &Path) -> String {
    path.file_name().expect("a file has a name").to_string_lossy().into_owned()
}

/// What lies in a folder, sorted; nothing where there is none.
fn list(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}
