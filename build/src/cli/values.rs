//! The values of flags: text in, data out.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::Platform;
use layerfs::reference::Reference;

use crate::dockerfile;
use crate::graph::NamedContext;
use crate::options::Secret;

type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// `key=value` fields between commas; a field without a value has an empty one.
pub(super) fn fields(flag: &str, text: &str) -> Result<Vec<(String, String)>> {
    let list = dockerfile::csv(text)
        .map_err(|problem| Error::new(Kind::Usage, format!("{flag} {text} is not a list: {problem}")))?;
    let pair = |field: &String| {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        (key.trim().to_ascii_lowercase(), value.to_owned())
    };
    Ok(list.iter().map(pair).collect())
}

/// `true`, `false`, nothing (which is true where the key is there).
pub(super) fn boolean(what: &str, text: Option<&str>) -> Result<bool> {
    match text {
        None | Some("false" | "0") => Ok(false),
        Some("" | "true" | "1") => Ok(true),
        Some(other) => Err(Error::new(Kind::Usage, format!("{what}={other} is neither true nor false"))),
    }
}

/// A name for an image.
pub(super) fn tag(text: &str) -> Result<Reference> {
    let name: Reference = text.parse().map_err(|error: Error| {
        let hint = error.advice().unwrap_or("the form is [HOST[:PORT]/]PATH[:TAG]").to_owned();
        Error::new(Kind::Usage, error.to_string()).hint(hint)
    })?;
    match name.digest() {
        Some(_) => {
            Err(Error::new(Kind::Usage, format!("`{text}` names a digest, and an image's is not for the asking")))
        }
        None => Ok(name.or_latest()),
    }
}

/// `--build-arg NAME=VALUE`, or `NAME` for the environment's value, if it has one.
pub(super) fn variable(text: &str, env: Env<'_>) -> Result<Option<(String, String)>> {
    match text.split_once('=') {
        None if !text.is_empty() => Ok(env(text).map(|value| (text.to_owned(), value))),
        Some((name, value)) if !name.is_empty() => Ok(Some((name.to_owned(), value.to_owned()))),
        _ => Err(Error::new(Kind::Usage, format!("--build-arg `{text}` has no name")).hint("the form is NAME=VALUE")),
    }
}

/// The caller's proxies: steps need them as the caller does.
pub(super) fn proxies(env: Env<'_>) -> Vec<(String, String)> {
    let names = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];
    let both = names.iter().flat_map(|name| [(*name).to_owned(), name.to_ascii_uppercase()]);
    both.filter_map(|name| env(&name).filter(|value| !value.is_empty()).map(|value| (name, value))).collect()
}

/// The last value of a name.
pub(super) fn last(pairs: &[(String, String)], name: &str) -> Option<String> {
    pairs
        .iter()
        .rev()
        .find(|(known, _)| known == name)
        .map(|(_, value)| value.clone())
        .filter(|value| !value.is_empty())
}

/// `KEY=VALUE`.
pub(super) fn pair(flag: &str, text: &str) -> Result<(String, String)> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    match key.is_empty() {
        true => Err(Error::new(Kind::Usage, format!("--{flag} `{text}` has no name"))),
        false => Ok((key.to_owned(), value.to_owned())),
    }
}

/// `[TYPE:]KEY=VALUE`, where the type is the manifest.
pub(super) fn annotation(text: &str) -> Result<(String, String)> {
    let (key, value) = pair("annotation", text)?;
    match key.split_once(':') {
        None => Ok((key, value)),
        Some(("manifest", key)) => Ok((key.to_owned(), value)),
        Some((kind, _)) => Err(Error::new(Kind::Usage, format!("--annotation {kind}: is not built yet"))
            .hint("annotations go to the manifest")),
    }
}

/// `NAME:ADDRESS`, `NAME=ADDRESS`; an IPv6 address may stand in brackets.
pub(super) fn host(text: &str) -> Result<(String, String)> {
    let cut = text.split_once('=').or_else(|| text.split_once(':'));
    let invalid =
        || Error::new(Kind::Usage, format!("--add-host `{text}` is not NAME:ADDRESS")).hint("such as db:10.0.0.2");
    let (name, address) = cut.ok_or_else(invalid)?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    if name.is_empty() || !(address == "host-gateway" || address.parse::<std::net::IpAddr>().is_ok()) {
        return Err(invalid());
    }
    Ok((name.to_owned(), address.to_owned()))
}

/// The one platform that is built for.
pub(super) fn platform(words: &[String], default: Option<String>) -> Result<Platform> {
    let given: Vec<&str> = words.iter().flat_map(|word| word.split(',')).filter(|word| !word.is_empty()).collect();
    match (given[..].as_ref(), default.filter(|text| !text.is_empty())) {
        ([], None) => Ok(Platform::host()),
        ([], Some(text)) => text.parse(),
        (["local"], _) => Ok(Platform::host()),
        ([one], _) => one.parse(),
        _ => Err(Error::new(Kind::Usage, "several platforms in one build are not built yet")
            .hint("build one after the other, under different names")),
    }
    .map_err(|error: Error| match error.kind() {
        Kind::Usage => error,
        _ => Error::new(Kind::Usage, error.to_string()).hint(error.advice().unwrap_or_default().to_owned()),
    })
}

/// What `--build-context NAME=…` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Folder(PathBuf),
    Image(String),
}

impl Named {
    pub(super) fn for_graph(&self) -> NamedContext {
        match self {
            Self::Folder(_) => NamedContext::Files,
            Self::Image(name) => NamedContext::Image(name.clone()),
        }
    }

    pub(super) fn folder(self) -> Option<PathBuf> {
        match self {
            Self::Folder(folder) => Some(folder),
            Self::Image(_) => None,
        }
    }
}

/// `NAME=FOLDER`, `NAME=docker-image://IMAGE`.
pub(super) fn build_context(text: &str) -> Result<(String, Named)> {
    let (name, value) =
        text.split_once('=').filter(|(name, value)| !name.is_empty() && !value.is_empty()).ok_or_else(|| {
            Error::new(Kind::Usage, format!("--build-context `{text}` is not NAME=WHERE")).hint("such as lib=../lib")
        })?;
    let named = match value.split_once("://") {
        Some(("docker-image" | "container-image" | "docker", image)) => Named::Image(image.to_owned()),
        Some((scheme, _)) => {
            return Err(Error::new(Kind::Usage, format!("--build-context {name}={scheme}:// is not built yet"))
                .hint("a folder or docker-image://NAME is"));
        }
        None => Named::Folder(PathBuf::from(value)),
    };
    Ok((name.to_owned(), named))
}

/// `--allow`: whether steps may be insecure. The host's network needs no leave here.
pub(super) fn allowed(words: &[String]) -> Result<bool> {
    let mut insecure = false;
    for word in words {
        match word.as_str() {
            "security.insecure" => insecure = true,
            "network.host" => {}
            other => {
                return Err(Error::new(Kind::Usage, format!("--allow {other} is not built yet"))
                    .hint("there are network.host and security.insecure"));
            }
        }
    }
    Ok(insecure)
}

/// `id=NAME[,src=FILE][,env=VARIABLE][,type=file|env]`, read at once.
pub(super) fn secret(text: &str, env: Env<'_>, read: &dyn Fn(&Path) -> std::io::Result<Vec<u8>>) -> Result<Secret> {
    let fields = fields("--secret", text)?;
    let get =
        |keys: &[&str]| fields.iter().find(|(key, _)| keys.contains(&key.as_str())).map(|(_, value)| value.clone());
    if let Some((key, _)) =
        fields.iter().find(|(key, _)| !["id", "src", "source", "env", "type"].contains(&key.as_str()))
    {
        return Err(Error::new(Kind::Usage, format!("--secret {text}: the key `{key}` is not known"))
            .hint("the form is id=NAME[,src=FILE | ,env=VARIABLE]"));
    }
    let id = get(&["id"]).filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| {
        Error::new(Kind::Usage, format!("--secret {text} has no id")).hint("such as id=token,src=FILE")
    })?;
    let (file, variable) = match (get(&["src", "source"]), get(&["env"]), get(&["type"]).as_deref()) {
        (Some(file), None, Some("env")) => (None, Some(file)),
        (Some(file), None, _) => (Some(file), None),
        (None, Some(variable), _) => (None, Some(variable)),
        (None, None, Some("env")) => (None, Some(id.clone())),
        (None, None, Some("file")) => (Some(id.clone()), None),
        // As docker has it: the variable of that name, else the file.
        (None, None, _) => {
            if env(&id).is_some() {
                (None, Some(id.clone()))
            } else {
                (Some(id.clone()), None)
            }
        }
        (Some(_), Some(_), _) => {
            return Err(Error::new(Kind::Usage, format!("--secret {text} has both a file and a variable")));
        }
    };
    let value = match (file, variable) {
        (Some(file), _) => read(Path::new(&file)).at("read the secret", &file)?,
        (None, Some(variable)) => env(&variable)
            .ok_or_else(|| {
                Error::new(Kind::NotFound, format!("--secret {text}: the variable `{variable}` is not set"))
            })?
            .into_bytes(),
        (None, None) => Vec::new(),
    };
    Ok(Secret { id, value })
}

/// `default`, `NAME`, `NAME=SOCKET`.
pub(super) fn agent(text: &str, env: Env<'_>) -> Result<(String, PathBuf)> {
    let (id, path) = text.split_once('=').map_or((text, None), |(id, path)| (id, Some(path)));
    let path = match path {
        Some(path) => PathBuf::from(path),
        None => env("SSH_AUTH_SOCK").map(PathBuf::from).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("--ssh {text}: no agent is running (SSH_AUTH_SOCK is not set)"))
                .hint("start one: eval $(ssh-agent) && ssh-add")
        })?,
    };
    let kind = std::fs::metadata(&path).at("open the ssh agent", &path)?.file_type();
    if !kind.is_socket() {
        return Err(Error::new(Kind::Usage, format!("--ssh {text}: key files are not built yet"))
            .hint("load the key into an agent: ssh-add FILE"));
    }
    Ok((id.to_owned(), path))
}

/// A number of bytes with a unit.
pub(super) fn size(text: &str) -> Result<u64> {
    let invalid = || Error::new(Kind::Usage, format!("`{text}` is not a size")).hint("such as 64m or 1g");
    dockerfile::size(text).ok_or_else(invalid)
}
