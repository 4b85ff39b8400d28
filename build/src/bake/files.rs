//! Finds and reads bake files.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use layerfs::error::{Context as _, Error, Kind, Result};
use layerfs::store::Store;

use crate::Cancel;
use crate::dockerfile::remote::{self, Remote};
use crate::fetch::{Arrived, Fetcher, Settings, read_context};

/// Largest bake file that is read, in bytes.
const LARGEST: u64 = 16 << 20;

/// A file that was read.
#[derive(Clone, Debug)]
pub struct BakeFile {
    /// What messages call it.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Hcl,
    Json,
    Compose,
}

/// Where definitions are, when they are not here.
#[derive(Clone, Debug)]
pub struct Definition {
    /// As it was named.
    pub url: String,
    /// What that is.
    pub remote: Remote,
}

impl BakeFile {
    /// By its name, else by its text.
    pub(super) fn form(&self) -> Form {
        let name = self.name.to_lowercase();
        if name.ends_with(".yml") || name.ends_with(".yaml") {
            return Form::Compose;
        }
        if name.ends_with(".hcl") {
            return Form::Hcl;
        }
        if name.ends_with(".json") || self.text.trim_start().starts_with('{') {
            return Form::Json;
        }
        let services = |line: &str| line.trim_end() == "services:";
        if self.text.lines().any(services) { Form::Compose } else { Form::Hcl }
    }
}

/// The names that are looked for where none is given, in the order they are laid over each other.
pub fn default_names() -> [&'static str; 8] {
    [
        "compose.yaml",
        "compose.yml",
        "docker-compose.yml",
        "docker-compose.yaml",
        "docker-bake.json",
        "docker-bake.hcl",
        "docker-bake.override.json",
        "docker-bake.override.hcl",
    ]
}

/// A first argument that names definitions elsewhere; `None` for a target.
///
/// # Errors
/// It looks like an address and is none.
pub fn definition(word: &str) -> Result<Option<Definition>> {
    if !word.contains("://") && !word.starts_with("git@") && !word.starts_with("github.com/") {
        return Ok(None);
    }
    let remote = remote::parse_context(word).map_err(Error::from)?;
    Ok(remote.map(|remote| Definition { url: word.to_owned(), remote }))
}

/// Reads files below `folder`: those named, `-` being `input`, else those of the default names that are there.
///
/// # Errors
/// A named file cannot be read, or is no text.
pub fn read_local(names: &[String], folder: &Path, input: &mut dyn Read) -> Result<Vec<BakeFile>> {
    let mut files = Vec::new();
    if names.is_empty() {
        for name in default_names() {
            let path = folder.join(name);
            if path.is_file() {
                files.push(read(&path, name)?);
            }
        }
        return Ok(files);
    }
    for name in names {
        if name == "-" {
            let mut text = String::new();
            input.take(LARGEST).read_to_string(&mut text).context(|| "read standard input")?;
            files.push(BakeFile { name: "-".to_owned(), text });
            continue;
        }
        let path = folder.join(name.trim_start_matches("cwd://"));
        files.push(read(&path, name).map_err(|error| match error.kind() {
            Kind::NotFound => error.hint(
                "-f names a bake file: HCL, JSON or compose; without it, `docker-bake.hcl` and its like are looked for",
            ),
            _ => error,
        })?);
    }
    Ok(files)
}

fn read(path: &Path, name: &str) -> Result<BakeFile> {
    let size = fs::metadata(path).at("open", path)?.len();
    if size > LARGEST {
        return Err(Error::new(Kind::Limit, format!("`{name}` has {size} bytes; no bake file has")));
    }
    let bytes = fs::read(path).at("read", path)?;
    let text = String::from_utf8(bytes).map_err(|_| Error::new(Kind::Invalid, format!("`{name}` is not UTF-8")))?;
    Ok(BakeFile { name: name.to_owned(), text })
}

/// Reads definitions from elsewhere: the files of those names in a repository or archive, or a file alone.
///
/// # Errors
/// They cannot be had.
pub fn fetch(
    store: &Store,
    definition: &Definition,
    names: &[String],
    retries: u32,
    cancel: &Cancel,
) -> Result<Vec<BakeFile>> {
    let fetcher = Fetcher::new(store, Settings { verify: true, retries, agent: None }, cancel);
    let fetched = fetcher.get(&definition.remote, None, &|_| {})?;
    let path: PathBuf = fetched.real();
    let (here, there): (Vec<String>, Vec<String>) = names.iter().cloned().partition(|name| name.starts_with("cwd://"));
    let mut files = if path.is_dir() {
        read_local(&there, &path, &mut std::io::empty())?
    } else {
        let dir = store.new_temp_dir()?;
        let folder = dir.path().join("context");
        let file = fs::File::open(&path).at("open", &path)?;
        match read_context(store, file, &folder)? {
            Arrived::Context => read_local(&there, &folder, &mut std::io::empty())?,
            Arrived::Dockerfile(bytes) => {
                let text = String::from_utf8(bytes)
                    .map_err(|_| Error::new(Kind::Invalid, format!("`{}` is no bake file", definition.url)))?;
                vec![BakeFile { name: remote::file_name(&definition.url), text }]
            }
        }
    };
    if !here.is_empty() {
        files.extend(read_local(&here, Path::new(""), &mut std::io::empty())?);
    }
    Ok(files)
}
