//! Which credential belongs to a repository.
//!
//! The files, their order and their keys are those of `containers-auth.json(5)` and docker's `config.json`, so that
//! a login made with podman, skopeo, docker or crane serves here. In addition to what skopeo reads: docker's
//! `credsStore`, and entries with plain `username` and `password` fields.
//!
//! Helpers (`docker-credential-NAME`) talk to key rings that know the user by the user's real ID; a program that
//! enters a user namespace calls [`Keyring::stay_outside`] before it does.

pub(crate) mod base64;
pub(crate) mod broker;
mod file;
mod helper;
mod login;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use layerfs::error::{Context, Error, Kind, Result};

use file::{AuthFile, Entry};

pub use login::{Saved, forget, forget_all, save};

/// A secret for a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A user name and password.
    Basic {
        /// The user.
        username: String,
        /// The password or access key.
        password: String,
    },
    /// A refresh token that the token server exchanges (docker's `identitytoken`).
    IdentityToken(String),
    /// A bearer token to send as it is (docker's `registrytoken`).
    RegistryToken(String),
}

impl Credential {
    /// The `USER:PASSWORD` of a command line option.
    ///
    /// # Errors
    /// The user is empty.
    pub fn parse(text: &str) -> Result<Self> {
        let (username, password) = text.split_once(':').unwrap_or((text, ""));
        match username {
            "" => Err(Error::new(Kind::Usage, "credentials have no user").hint("the form is USER:PASSWORD")),
            _ => Ok(Self::Basic { username: username.to_owned(), password: password.to_owned() }),
        }
    }
}

/// Never prints the secret.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(f, "Basic({username})"),
            Self::IdentityToken(_) => f.write_str("IdentityToken"),
            Self::RegistryToken(_) => f.write_str("RegistryToken"),
        }
    }
}

/// A credential and where it came from, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The credential.
    pub credential: Credential,
    /// Where it was found, in words.
    pub origin: String,
}

/// Where credential files may lie: the facts of the environment, as plain data.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// `REGISTRY_AUTH_FILE`.
    pub registry_auth_file: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`.
    pub config_home: Option<PathBuf>,
    /// `DOCKER_CONFIG`.
    pub docker_config: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// The user's real ID.
    pub uid: u32,
}

impl Places {
    /// The places named by `env`, for the user with the real ID `uid`.
    pub fn from_env(env: impl Fn(&str) -> Option<OsString>, uid: u32) -> Self {
        let path = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self {
            registry_auth_file: path("REGISTRY_AUTH_FILE"),
            runtime_dir: path("XDG_RUNTIME_DIR"),
            config_home: path("XDG_CONFIG_HOME"),
            docker_config: path("DOCKER_CONFIG"),
            home: path("HOME"),
            uid,
        }
    }

    /// The file `login` writes where no option names one: containers' own, which lives as long as the session.
    pub fn primary(&self) -> PathBuf {
        match &self.runtime_dir {
            Some(dir) => dir.join("containers/auth.json"),
            None => PathBuf::from(format!("/run/containers/{}/auth.json", self.uid)),
        }
    }

    /// Docker's own file.
    pub fn docker(&self) -> Option<PathBuf> {
        let dir = self.docker_config.clone().or_else(|| Some(self.home.as_ref()?.join(".docker")))?;
        Some(dir.join("config.json"))
    }

    /// All files in the order they are asked. One that is named by the user is the only one.
    fn search(&self, authfile: Option<&Path>) -> (Vec<PathBuf>, Presence) {
        if let Some(file) = authfile.map(Path::to_owned).or_else(|| self.registry_auth_file.clone()) {
            return (vec![file], Presence::Required);
        }
        let config_home = self.config_home.clone().or_else(|| Some(self.home.as_ref()?.join(".config")));
        let candidates = [
            Some(self.primary()),
            config_home.map(|dir| dir.join("containers/auth.json")),
            self.docker(),
            self.home.as_ref().map(|home| home.join(LEGACY)),
        ];
        (candidates.into_iter().flatten().collect(), Presence::Optional)
    }
}

const LEGACY: &str = ".dockercfg";
/// What stands for the files in a list of helpers.
const FILES: &str = "containers-auth.json";

#[derive(Clone, Copy, PartialEq)]
enum Presence {
    Required,
    Optional,
}

/// All credential files of a user, read once.
#[derive(Debug, Default)]
pub struct Keyring {
    files: Vec<(PathBuf, AuthFile)>,
    searched: Vec<PathBuf>,
    fixed: Option<Found>,
    remembered: Mutex<HashMap<String, Option<Found>>>,
    broker: Option<broker::Broker>,
    /// Helpers for all registries, and the place of the files among them; empty for the files alone.
    helpers: Vec<String>,
    answers: Mutex<HashMap<(String, String), Option<Credential>>>,
}

impl Keyring {
    /// Reads the files that exist. With `authfile` (or `REGISTRY_AUTH_FILE`) that one alone.
    ///
    /// # Errors
    /// A file is malformed or unreadable, or the named one does not exist.
    pub fn load(places: &Places, authfile: Option<&Path>) -> Result<Self> {
        let (searched, presence) = places.search(authfile);
        let mut files = Vec::new();
        for path in &searched {
            match std::fs::read(path) {
                Ok(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => {}
                Ok(bytes) => {
                    let legacy = path.file_name().is_some_and(|name| name == LEGACY);
                    let parsed = if legacy { AuthFile::parse_legacy(&bytes) } else { AuthFile::parse(&bytes) };
                    files.push((path.clone(), parsed.at("read credentials of", path)?));
                }
                Err(error) if presence == Presence::Optional && is_absence(&error) => {}
                Err(error) => return Err(error).at("read credentials of", path),
            }
        }
        Ok(Self { files, searched, ..Self::default() })
    }

    /// The same, asking helpers for all registries too: `credential-helpers` of registries.conf, in which
    /// `containers-auth.json` stands for the files.
    pub fn with_helpers(self, helpers: &[String]) -> Self {
        Self { helpers: helpers.to_vec(), ..self }
    }

    /// A keyring that answers every question with one credential, as `--creds` asks.
    pub fn fixed(credential: Credential) -> Self {
        let fixed = Some(Found { credential, origin: "the command line".to_owned() });
        Self { fixed, ..Self::default() }
    }

    /// The credential for a repository, `None` for anonymous access. A helper that fails is an error; one that does
    /// not know the registry is not.
    ///
    /// # Errors
    /// An entry is malformed, or a helper cannot be started or fails.
    pub fn lookup(&self, host: &str, path: &str) -> Result<Option<Found>> {
        if let Some(fixed) = &self.fixed {
            return Ok(Some(fixed.clone()));
        }
        let key = format!("{host}/{path}");
        let lock = || self.remembered.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(found) = lock().get(&key) {
            return Ok(found.clone());
        }
        let found = self.search(host, path)?;
        lock().insert(key, found.clone());
        Ok(found)
    }

    /// Has helpers run by a process that stays outside of the user namespace which the caller is about to enter.
    /// `program` is the `copy` program. Nothing is started where no file names a helper.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn stay_outside(&mut self, program: &Path) -> Result<()> {
        let for_all = self.helpers.iter().any(|helper| helper != FILES);
        if self.broker.is_none() && (for_all || self.files.iter().any(|(_, file)| file.names_a_helper())) {
            self.broker = Some(broker::Broker::start(program)?);
        }
        Ok(())
    }

    /// The files that were looked for, for messages.
    pub fn searched(&self) -> &[PathBuf] {
        &self.searched
    }

    fn search(&self, host: &str, path: &str) -> Result<Option<Found>> {
        if self.helpers.is_empty() {
            return self.search_files(host, path);
        }
        for name in &self.helpers {
            let found = match name.as_str() {
                FILES => self.search_files(host, path)?,
                name => self.ask_helper(name, host)?.map(|credential| Found {
                    credential,
                    origin: format!("helper `docker-credential-{name}` of registries.conf"),
                }),
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn search_files(&self, host: &str, path: &str) -> Result<Option<Found>> {
        for (file, parsed) in &self.files {
            for entry in parsed.entries(host, path).at("read credentials of", file)? {
                match entry {
                    Entry::Credential { key, credential } => {
                        return Ok(Some(Found { credential, origin: format!("`{}`, entry `{key}`", file.display()) }));
                    }
                    Entry::Helper { name, server } => {
                        if let Some(credential) = self.ask_helper(&name, &server)? {
                            return Ok(Some(Found {
                                credential,
                                origin: format!("helper `docker-credential-{name}`"),
                            }));
                        }
                    }
                }
            }
        }
        Ok(None)
    }

    /// Asks a helper once: it may have to start a key ring, or ask the user.
    fn ask_helper(&self, name: &str, server: &str) -> Result<Option<Credential>> {
        let mut answers = self.answers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let key = (name.to_owned(), server.to_owned());
        if let Some(answer) = answers.get(&key) {
            return Ok(answer.clone());
        }
        let answer = match &self.broker {
            Some(broker) => broker.get(name, server)?,
            None => helper::get(name, server)?,
        };
        answers.insert(key, answer.clone());
        Ok(answer)
    }
}

/// A file that is not there, or that lies in a folder which is not ours to look into, is not a file with credentials.
fn is_absence(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory | std::io::ErrorKind::PermissionDenied
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(dir: &Path) -> Places {
        Places { runtime_dir: Some(dir.join("run")), home: Some(dir.join("home")), uid: 1000, ..Places::default() }
    }

    fn write(path: PathBuf, auth: &str) {
        std::fs::create_dir_all(path.parent().expect("it has a parent")).expect("mkdir");
        let entry = base64::encode(auth.as_bytes());
        std::fs::write(path, format!(r#"{{"auths":{{"r.io":{{"auth":"{entry}"}}}}}}"#)).expect("write");
    }

    fn user(keyring: &Keyring) -> Option<String> {
        match keyring.lookup("r.io", "a/b").expect("valid")?.credential {
            Credential::Basic { username, .. } => Some(username),
            _ => None,
        }
    }

    #[test]
    fn files_are_asked_in_order() {
        let dir = tempfile::tempdir().expect("tempdir");
        let places = places(dir.path());
        let load = |authfile: Option<&Path>| Keyring::load(&places, authfile).expect("valid");
        assert_eq!(user(&load(None)), None);
        write(dir.path().join("home/.docker/config.json"), "docker:x");
        assert_eq!(user(&load(None)).as_deref(), Some("docker"));
        write(dir.path().join("home/.config/containers/auth.json"), "config:x");
        assert_eq!(user(&load(None)).as_deref(), Some("config"));
        write(dir.path().join("run/containers/auth.json"), "runtime:x");
        assert_eq!(user(&load(None)).as_deref(), Some("runtime"));
        write(dir.path().join("own.json"), "own:x");
        assert_eq!(user(&load(Some(&dir.path().join("own.json")))).as_deref(), Some("own"));
        let env = Places { registry_auth_file: Some(dir.path().join("home/.docker/config.json")), ..places.clone() };
        assert_eq!(user(&Keyring::load(&env, None).expect("valid")).as_deref(), Some("docker"));
        assert!(Keyring::load(&places, Some(&dir.path().join("missing.json"))).is_err());
        let fixed = Keyring::fixed(Credential::parse("me:secret").expect("valid"));
        assert_eq!(user(&fixed).as_deref(), Some("me"));
        assert!(!format!("{fixed:?}").contains("secret"));
    }
}
