//! `RUN --mount` and `RUN --device`: their comma-separated options.

use super::ast::{Device, Word};
use super::error::Fault;
use super::flags::boolean;
use super::path::clean;
use super::values::{csv, size};

/// What a `RUN` step sees besides its stage's files. Targets that are relative are so to the working directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mount {
    /// Files of the context, a stage or an image.
    Bind(BindMount),
    /// A directory that outlives the build.
    Cache(CacheMount),
    /// An empty directory in memory.
    Tmpfs(TmpfsMount),
    /// A secret of the build's command line.
    Secret(SecretMount),
    /// An agent's socket of the build's command line.
    Ssh(SshMount),
}

/// `type=bind`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindMount {
    /// Where it appears; empty for the working directory itself.
    pub target: String,
    /// The path below what is mounted; empty for all of it.
    pub source: String,
    /// A stage, named context or image; `None` for the build context.
    pub from: Option<String>,
    /// Writes are allowed, and thrown away after the step.
    pub writable: bool,
}

/// `type=cache`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheMount {
    /// Which cache: the `id`, else the target.
    pub id: String,
    /// Where it appears.
    pub target: String,
    /// The path below `from` that fills a new cache; empty for all of it.
    pub source: String,
    /// A stage, named context or image that fills a new cache; `None` for an empty one.
    pub from: Option<String>,
    /// Who may use it at the same time.
    pub sharing: Sharing,
    /// The step cannot write to it.
    pub read_only: bool,
    /// The owner and mode of a new cache's directory, where any of them is written.
    pub permissions: Option<Permissions>,
}

/// Who may use a cache at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Any number of steps.
    #[default]
    Shared,
    /// A second step gets a cache of its own.
    Private,
    /// A second step waits.
    Locked,
}

/// `type=tmpfs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TmpfsMount {
    /// Where it appears.
    pub target: String,
    /// The most bytes it holds.
    pub size: Option<u64>,
    /// The step cannot write to it.
    pub read_only: bool,
}

/// `type=secret`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretMount {
    /// Which secret.
    pub id: String,
    /// The file that holds it; `None` where only an environment variable was asked for.
    pub target: Option<String>,
    /// The environment variable that holds it.
    pub env: Option<String>,
    /// The step fails where the build was given no such secret.
    pub required: bool,
    /// The file's owner and mode: root and 0400 unless written.
    pub permissions: Permissions,
}

/// `type=ssh`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshMount {
    /// Which agent.
    pub id: String,
    /// Where the socket appears; `None` for `/run/buildkit/ssh_agent.N`.
    pub target: Option<String>,
    /// The step fails where the build was given no such agent.
    pub required: bool,
    /// The socket's owner and mode: root and 0600 unless written.
    pub permissions: Permissions,
}

/// Mode and owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// The mode's low 12 bits.
    pub mode: u32,
    /// The owner's ID.
    pub uid: u32,
    /// The group's ID.
    pub gid: u32,
}

const TYPES: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];
const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

/// The options as written, before it is known which belong to the type.
#[derive(Default)]
struct Options {
    kind: Option<String>,
    from: Option<String>,
    source: String,
    target: String,
    read_only: Option<bool>,
    id: String,
    sharing: Option<Sharing>,
    required: Option<bool>,
    size: Option<u64>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    env: Option<String>,
}

impl Mount {
    /// The value of one `--mount`. `expand` gives each option's value its final form; `from` takes no variables.
    ///
    /// As in BuildKit, options that mean nothing for a type are ignored if they are harmless (`id` of a bind mount),
    /// and refused if they ask for something the mount will not do (`size` of a cache).
    pub fn parse(text: &str, expand: &mut dyn FnMut(&str) -> Result<String, Fault>) -> Result<Self, Fault> {
        let mut options = Options::default();
        for field in csv(text).map_err(|problem| Fault::new(format!("the mount `{text}` is no list: {problem}")))? {
            options.take(&field, expand)?;
        }
        options.finish()
    }

    /// The stage, named context or image it takes files from, as written: known before anything is expanded.
    pub fn from_of(text: &str) -> Option<String> {
        let fields = csv(text).ok()?;
        let pairs = fields.iter().filter_map(|field| field.split_once('='));
        let from = pairs.rev().find(|(key, _)| key.eq_ignore_ascii_case("from"));
        from.map(|(_, value)| value.to_owned()).filter(|value| !value.is_empty())
    }
}

impl Options {
    fn take(&mut self, field: &str, expand: &mut dyn FnMut(&str) -> Result<String, Fault>) -> Result<(), Fault> {
        let (key, value) = field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value)));
        let key = key.to_lowercase();
        let Some(written) = value else {
            match key.as_str() {
                "readonly" | "ro" => self.read_only = Some(true),
                "readwrite" | "rw" => self.read_only = Some(false),
                "required" => self.required = Some(true),
                _ if KEYS.contains(&key.as_str()) => {
                    return Err(Fault::new(format!("the mount option `{field}` needs a value")));
                }
                _ => return Err(unknown_key(&key, &KEYS)),
            }
            return Ok(());
        };
        if key == "from" && written.find('$').is_some_and(|at| at + 1 != written.len()) {
            let fault = Fault::new("the mount option `from` takes no variables");
            return Err(fault.hint("give the image a stage of its own, `FROM $IMAGE AS name`, and name that"));
        }
        let value = expand(written)?;
        let invalid = || Fault::new(format!("`{value}` is no value for the mount option `{key}`"));
        match key.as_str() {
            "type" => {
                let kind = value.to_lowercase();
                if !TYPES.contains(&kind.as_str()) {
                    return Err(Fault::unknown(format!("unknown mount type `{value}`"), &value, TYPES)
                        .or_hint(format!("the types are {}", TYPES.join(", "))));
                }
                self.kind = Some(kind);
            }
            "from" => self.from = Some(value).filter(|value| !value.is_empty()),
            "source" | "src" => self.source = value,
            "target" | "dst" | "destination" => self.target = value,
            "readonly" | "ro" => self.read_only = Some(boolean(&value).ok_or_else(invalid)?),
            "readwrite" | "rw" => self.read_only = Some(!boolean(&value).ok_or_else(invalid)?),
            "required" => self.required = Some(boolean(&value).ok_or_else(invalid)?),
            "size" => self.size = Some(size(&value).ok_or_else(invalid)?),
            "id" => self.id = value,
            "sharing" => {
                self.sharing = Some(match value.to_lowercase().as_str() {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    _ => {
                        let known = ["shared", "private", "locked"];
                        return Err(Fault::unknown(format!("unknown cache sharing `{value}`"), &value, known)
                            .or_hint("it is shared, private or locked"));
                    }
                });
            }
            "mode" => self.mode = Some(u32::from_str_radix(&value, 8).map_err(|_| invalid())?),
            "uid" => self.uid = Some(value.parse().map_err(|_| invalid())?),
            "gid" => self.gid = Some(value.parse().map_err(|_| invalid())?),
            "env" => self.env = Some(value),
            _ => return Err(unknown_key(&key, &KEYS)),
        }
        Ok(())
    }

    fn finish(self) -> Result<Mount, Fault> {
        let kind = self.kind.as_deref().unwrap_or("bind");
        let refused = |option: &str| Fault::new(format!("a {kind} mount has no option `{option}`"));
        if self.required.is_some() && !matches!(kind, "secret" | "ssh") {
            return Err(refused("required"));
        }
        if self.size.is_some() && kind != "tmpfs" {
            return Err(refused("size"));
        }
        if self.sharing.is_some() && kind != "cache" {
            return Err(refused("sharing"));
        }
        if matches!(kind, "bind" | "tmpfs") {
            for (given, option) in [(self.mode, "mode"), (self.uid, "uid"), (self.gid, "gid")] {
                given.map_or(Ok(()), |_| Err(refused(option)))?;
            }
        }
        match kind {
            "cache" => {
                let written = self.mode.or(self.uid).or(self.gid).is_some();
                Ok(Mount::Cache(CacheMount {
                    permissions: written.then(|| self.permissions(0o755)),
                    id: if self.id.is_empty() { clean(&self.target) } else { self.id },
                    target: self.target,
                    source: self.source,
                    from: self.from,
                    sharing: self.sharing.unwrap_or_default(),
                    read_only: self.read_only.unwrap_or(false),
                }))
            }
            "tmpfs" => Ok(Mount::Tmpfs(TmpfsMount {
                target: self.target,
                size: self.size.filter(|size| *size > 0),
                read_only: self.read_only.unwrap_or(false),
            })),
            "secret" => self.secret(),
            "ssh" => {
                if !self.source.is_empty() {
                    return Err(refused("source"));
                }
                Ok(Mount::Ssh(SshMount {
                    permissions: self.permissions(0o600),
                    id: if self.id.is_empty() { "default".to_owned() } else { self.id },
                    target: Some(self.target).filter(|target| !target.is_empty()),
                    required: self.required.unwrap_or(false),
                }))
            }
            _ => Ok(Mount::Bind(BindMount {
                target: self.target,
                source: self.source,
                from: self.from,
                writable: self.read_only == Some(false),
            })),
        }
    }

    fn secret(self) -> Result<Mount, Fault> {
        if self.from.is_some() {
            return Err(Fault::new("a secret mount has no option `from`"));
        }
        if !self.source.is_empty() && !self.id.is_empty() {
            return Err(Fault::new("a secret mount has `id` or `source`, not both"));
        }
        let permissions = self.permissions(0o400);
        let name = |path: &str| clean(path).rsplit('/').next().unwrap_or_default().to_owned();
        let id = [&self.id, &self.source].into_iter().find(|id| !id.is_empty()).cloned();
        if id.is_none() && self.target.is_empty() {
            return Err(Fault::new("a secret mount says neither `id` nor `target`").hint("--mount=type=secret,id=NAME"));
        }
        let id = id.unwrap_or_else(|| name(&self.target));
        let target = match (self.target.is_empty(), &self.env) {
            (false, _) => Some(self.target),
            (true, None) => Some(format!("/run/secrets/{}", name(&id))),
            (true, Some(_)) => None,
        };
        let env = self.env.map(|env| if env.is_empty() { id.clone() } else { env });
        Ok(Mount::Secret(SecretMount { id, target, env, required: self.required.unwrap_or(false), permissions }))
    }

    fn permissions(&self, mode: u32) -> Permissions {
        Permissions { mode: self.mode.unwrap_or(mode), uid: self.uid.unwrap_or(0), gid: self.gid.unwrap_or(0) }
    }
}

impl Device {
    /// The value of one `--device`: `NAME[,required[=BOOL]]` or `name=NAME,…`.
    pub(crate) fn parse(word: &Word) -> Result<Self, Fault> {
        let fields = csv(&word.text);
        let fields =
            fields.map_err(|problem| Fault::new(format!("the device `{}` is no list: {problem}", word.text)))?;
        let mut device = Self { name: String::new(), required: false, span: word.span };
        for field in fields {
            let (key, value) = field.split_once('=').map_or((&*field, None), |(key, value)| (key, Some(value)));
            match (key.to_lowercase().as_str(), value) {
                ("required", None) => device.required = true,
                ("required", Some(value)) => {
                    device.required = boolean(value)
                        .ok_or_else(|| Fault::new(format!("`{value}` is no value for the device option `required`")))?;
                }
                ("name", Some(value)) if device.name.is_empty() => device.name = value.to_owned(),
                ("name", Some(_)) => return Err(Fault::new(format!("the device `{}` has a second name", device.name))),
                // A class of devices is named `vendor.com/class=value`: no key, but the name itself.
                _ if device.name.is_empty() => device.name = field,
                (key, _) => {
                    return Err(Fault::unknown(format!("unknown device option `{key}`"), key, ["name", "required"]));
                }
            }
        }
        Ok(device)
    }
}

fn unknown_key(key: &str, known: &[&'static str]) -> Fault {
    Fault::unknown(format!("unknown mount option `{key}`"), key, known.iter().copied())
        .or_hint(format!("the options are {}", known[..13].join(", ")))
}
