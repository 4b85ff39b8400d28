//! The values of flags: text in, data out.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::Platform;
use layerfs::reference::Reference;

use run::options::{self, RunOptions};

use super::flags::Flags;
use crate::attest::Provenance;
use crate::dockerfile;
use crate::dockerfile::remote::{self, Remote};
use crate::graph::NamedContext;
use crate::options::{Annotation, Call, ContextFiles, Form, Level, Secret};

type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// `key=value` fields between commas; a field without a value has an empty one.
pub(super) fn fields(flag: &str, text: &str) -> Result<Vec<(String, String)>> {
    let list = dockerfile::csv(text)
        .map_err(|problem| Error::new(Kind::Usage, format!("{flag} {text} is not a list: {problem}")))?;
    let pair = |field: &String| {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        // What follows the first dot is a name of the user's own.
        let (own, name) = key.trim().split_once('.').map_or((key.trim(), None), |(own, name)| (own, Some(name)));
        let name = name.map(|name| format!(".{name}")).unwrap_or_default();
        (format!("{}{name}", own.to_ascii_lowercase()), value.to_owned())
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

/// The name of an image elsewhere.
pub(super) fn name(text: &str) -> Result<Reference> {
    text.parse().map_err(|error: Error| {
        let hint = error.advice().unwrap_or("the form is [HOST[:PORT]/]PATH[:TAG]").to_owned();
        Error::new(Kind::Usage, error.to_string()).hint(hint)
    })
}

/// A name for an image.
pub(super) fn tag(text: &str) -> Result<Reference> {
    let name = name(text)?;
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

/// `[TYPE[,TYPE]:]KEY=VALUE`, where a type is `manifest` or `index`.
pub(super) fn annotation(text: &str) -> Result<Vec<Annotation>> {
    let (key, value) = pair("annotation", text)?;
    let (kinds, key) = key.split_once(':').map_or(("manifest", key.as_str()), |(kinds, key)| (kinds, key));
    let one = |kind: &str| {
        let level = match kind {
            "manifest" => Level::Manifest,
            "index" => Level::Index,
            "manifest-descriptor" => Level::ManifestDescriptor,
            _ => {
                return Err(Error::new(Kind::Usage, format!("--annotation {kind}: is not built yet"))
                    .hint("annotations go to manifest, index and manifest-descriptor"));
            }
        };
        Ok(Annotation { level, key: key.to_owned(), value: value.clone() })
    };
    kinds.split(',').map(one).collect()
}

/// `check`, `outline`, `targets`, each with `,format=json`.
pub(super) fn call(text: &str) -> Result<Option<Call>> {
    let (what, rest) = text.split_once(',').unwrap_or((text, ""));
    let form = match rest {
        "" | "format=text" => Form::Text,
        "format=json" => Form::Json,
        other => {
            return Err(Error::new(Kind::Usage, format!("--call {what}: `{other}` is not known"))
                .hint("the one option is format=json"));
        }
    };
    match what {
        "build" | "" => Ok(None),
        "check" | "lint" => Ok(Some(Call::Check(form))),
        "outline" => Ok(Some(Call::Outline(form))),
        "targets" => Ok(Some(Call::Targets(form))),
        other => Err(Error::new(Kind::Usage, format!("--call {other} is not known"))
            .hint("there are build, check, outline and targets")),
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

/// The platforms that are built for, at least one.
pub(super) fn platforms(words: &[String], default: Option<String>) -> Result<Vec<Platform>> {
    let default = default.filter(|text| !text.is_empty() && words.is_empty());
    let given = words.iter().chain(&default).flat_map(|word| word.split(',')).filter(|word| !word.is_empty());
    let mut platforms: Vec<Platform> = Vec::new();
    for word in given {
        let platform = match word {
            "local" => Platform::host(),
            word => word.parse().map_err(|error: Error| {
                Error::new(Kind::Usage, error.to_string()).hint(error.advice().unwrap_or_default().to_owned())
            })?,
        };
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    if platforms.is_empty() {
        platforms.push(Platform::host());
    }
    Ok(platforms)
}

/// What `--build-context NAME=…` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Files(ContextFiles),
    Image(String),
    Stage(String),
}

impl Named {
    pub(super) fn for_graph(&self) -> NamedContext {
        match self {
            Self::Files(_) => NamedContext::Files,
            Self::Image(name) => NamedContext::Image(name.clone()),
            Self::Stage(name) => NamedContext::Stage(name.clone()),
        }
    }

    pub(super) fn files(self) -> Option<ContextFiles> {
        match self {
            Self::Files(files) => Some(files),
            _ => None,
        }
    }
}

/// `NAME=FOLDER`, `NAME=URL`, `NAME=docker-image://IMAGE`, `NAME=oci-layout://PATH`, `NAME=target:STAGE`.
pub(super) fn build_context(text: &str) -> Result<(String, Named)> {
    let (name, value) =
        text.split_once('=').filter(|(name, value)| !name.is_empty() && !value.is_empty()).ok_or_else(|| {
            Error::new(Kind::Usage, format!("--build-context `{text}` is not NAME=WHERE")).hint("such as lib=../lib")
        })?;
    if let Some(stage) = value.strip_prefix("target:") {
        return Ok((name.to_owned(), Named::Stage(stage.to_owned())));
    }
    let named = match value.split_once("://") {
        Some(("docker-image" | "container-image" | "docker", image)) => Named::Image(image.to_owned()),
        Some(("oci-layout", _)) => Named::Image(value.to_owned()),
        _ => match remote(value)? {
            Some(remote) => Named::Files(ContextFiles::Remote(remote)),
            None => Named::Files(ContextFiles::Folder(PathBuf::from(value))),
        },
    };
    Ok((name.to_owned(), named))
}

/// A git repository or web address; `None` for a folder.
pub(super) fn remote(text: &str) -> Result<Option<Remote>> {
    let fault = |fault: dockerfile::Fault| {
        let error = Error::new(Kind::Usage, fault.message);
        match fault.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    };
    match remote::parse_context(text).map_err(fault)? {
        None if text.contains("://") => Err(Error::new(Kind::Usage, format!("`{text}` is not a context"))
            .hint("a context is a folder, a git repository, or an address with http:// or https://")),
        found => Ok(found),
    }
}

/// Limits, devices and capabilities of steps.
pub(super) fn steps(flags: &Flags) -> Result<RunOptions> {
    let named = |flag: &str, text: &str, error: Error| {
        let told = Error::new(Kind::Usage, format!("--{flag} {text}: {}", error.chain()));
        match error.advice() {
            Some(hint) => told.hint(hint.to_owned()),
            None => told,
        }
    };
    let here = Path::new("/");
    let mut steps = RunOptions::default();
    let resources = &mut steps.resources;
    resources.memory =
        flags.memory.as_deref().map(|text| options::memory(text).map_err(|e| named("memory", text, e))).transpose()?;
    let swap = |text: &str| options::memory_swap(text).map_err(|error| named("memory-swap", text, error));
    resources.memory_swap = flags.memory_swap.as_deref().map(swap).transpose()?;
    resources.cpu_shares = flags.cpu_shares;
    let period = flags.cpu_period.unwrap_or(100_000);
    if period <= 0 {
        return Err(Error::new(Kind::Usage, format!("--cpu-period {period} is no time")));
    }
    resources.cpu_quota = flags.cpu_quota.map(|quota| quota.saturating_mul(100_000) / period);
    resources.cpuset_cpus.clone_from(&flags.cpuset_cpus);
    steps.isolation.cap_add.clone_from(&flags.cap_add);
    steps.isolation.cap_drop.clone_from(&flags.cap_drop);
    for text in &flags.security_opt {
        steps.isolation.security.push(options::security(text).map_err(|error| named("security-opt", text, error))?);
    }
    for text in &flags.device {
        steps.isolation.devices.push(options::device(text).map_err(|error| named("device", text, error))?);
    }
    for text in &flags.ulimit {
        steps.isolation.ulimits.push(options::ulimit(text)?);
    }
    for text in &flags.volume {
        let mount = options::volume(text, here).map_err(|error| named("volume", text, error))?;
        steps.storage.mounts.push(mount);
    }
    steps.storage.shm_size = flags.shm_size.as_deref().map(size).transpose()?;
    steps.network.dns.clone_from(&flags.dns);
    steps.network.dns_search.clone_from(&flags.dns_search);
    Ok(steps)
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

/// `--sbom`, `--provenance` and `--attest`: whether packages are listed, and what is told of the build.
pub(super) fn attestations(flags: &Flags) -> Result<(bool, Option<Provenance>)> {
    let (mut sbom, mut provenance) = (false, None);
    let spelled = |kind: &str, text: &Option<String>| text.as_ref().map(|text| (kind.to_owned(), text.clone()));
    let mut asked: Vec<(String, String)> = Vec::new();
    for text in &flags.attest {
        let list = fields("--attest", text)?;
        let kind = list.iter().find(|(key, _)| key == "type").map(|(_, value)| value.clone());
        let kind = kind.ok_or_else(|| {
            Error::new(Kind::Usage, format!("--attest {text} has no type")).hint("there are sbom and provenance")
        })?;
        let rest: Vec<String> =
            list.iter().filter(|(key, _)| key != "type").map(|(key, value)| format!("{key}={value}")).collect();
        asked.push((kind, rest.join(",")));
    }
    asked.extend(spelled("sbom", &flags.sbom));
    asked.extend(spelled("provenance", &flags.provenance));
    for (kind, text) in asked {
        let mut wanted = Some(Provenance::Min);
        for (key, value) in fields(&format!("--{kind}"), &text)? {
            match (key.as_str(), value.as_str()) {
                ("" | "true" | "1", "") | ("disabled", "false" | "0") => {}
                ("false" | "0", "") | ("disabled", "" | "true" | "1") => wanted = None,
                ("mode", "min") if kind == "provenance" => wanted = Some(Provenance::Min),
                ("mode", "max") if kind == "provenance" => wanted = Some(Provenance::Max),
                ("version", "v1") if kind == "provenance" => {}
                _ => {
                    return Err(Error::new(Kind::Usage, format!("--{kind} {text} is not built yet"))
                        .hint("there are --sbom, and --provenance with mode=min or mode=max (SLSA v1)"));
                }
            }
        }
        match kind.as_str() {
            "sbom" => sbom = wanted.is_some(),
            "provenance" => provenance = wanted,
            other => {
                return Err(Error::new(Kind::Usage, format!("--attest type={other} is not known"))
                    .hint("there are sbom and provenance"));
            }
        }
    }
    Ok((sbom, provenance))
}

/// A number of bytes with a unit.
pub(super) fn size(text: &str) -> Result<u64> {
    let invalid = || Error::new(Kind::Usage, format!("`{text}` is not a size")).hint("such as 64m or 1g");
    dockerfile::size(text).ok_or_else(invalid)
}
