//! Registries: the only place with network and async code.
//!
//! Source: OCI distribution-spec v1.1. Everything here is reached through blocking calls on [`Network`] and
//! [`Repository`]; inside, one thread drives all connections (see [`reactor`]).
//!
//! What this module is not: it knows nothing of plans, archives or stores, and it does not decide what is copied.

mod auth;
pub(crate) mod bookmark;
mod challenge;
mod client;
mod download;
mod error;
pub(crate) mod lists;
mod manifests;
mod push;
mod reactor;
mod retry;
mod tls;
mod upload;
pub(crate) mod web;
mod window;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use layerfs::digest::Digest;
use layerfs::error::{Error, Kind, Result};
use layerfs::oci::Descriptor;

use crate::credentials::Keyring;
use crate::stream::Chunks;
use auth::Scope;
use reactor::Reactor;

/// A blob up to this size is read and checked as a whole before a single request carries it.
const WHOLE_MAX: u64 = 256 << 10;
/// Chunks that wait for a slow registry.
const AHEAD: usize = 1;

/// How the registries of one side of a copy are spoken to.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// `--tls-verify`: `None` where the user did not say.
    pub(crate) tls_verify: Option<bool>,
    /// Whose credentials are used.
    pub(crate) keyring: Arc<Keyring>,
    /// How often a request is repeated.
    pub(crate) retries: u32,
    /// `~/.config/containers`, for `certs.d`.
    pub(crate) config_dir: Option<PathBuf>,
    /// A folder with certificates that stands in for `certs.d`.
    pub(crate) cert_dir: Option<PathBuf>,
    /// The pause before a request is repeated, where the registry names none.
    pub(crate) retry_delay: Option<Duration>,
    /// What our name in requests begins with.
    pub(crate) user_agent_prefix: Option<String>,
    /// Where uploads that are under way are written down, so that the next invocation can go on with them.
    pub(crate) uploads: Option<PathBuf>,
}

impl Settings {
    /// The folder with a registry's certificates, where there is one.
    pub(crate) fn certificates_of(&self, host: &str) -> Option<PathBuf> {
        self.cert_dir.clone().or_else(|| tls::certificates_of(host, self.config_dir.as_deref()))
    }
}

/// The network, and all hosts spoken to so far.
pub(crate) struct Network {
    settings: Settings,
    /// For hosts that are spoken to in their own way.
    own: HashMap<String, Settings>,
    /// Started with the first repository: most invocations need one network or none.
    reactor: OnceLock<Arc<Reactor>>,
    hosts: Mutex<HashMap<String, client::Shared>>,
}

/// How a blob got into a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Its bytes were sent.
    Bytes,
    /// The registry took it from another of its repositories.
    Mounted,
    /// It turned out to be there.
    Present,
}

impl Network {
    /// A network for one side of a copy. Nothing is connected yet.
    pub(crate) fn new(settings: Settings, own: HashMap<String, Settings>) -> Self {
        Self { settings, own, reactor: OnceLock::new(), hosts: Mutex::default() }
    }

    /// How the registries are spoken to.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The repository `path` on `host`. `insecure` comes from the registry's configuration and yields to what the
    /// user said on the command line.
    pub(crate) fn repository(&self, host: &str, path: &str, insecure: bool) -> Result<Repository> {
        // Under this lock only one reactor is started.
        let mut hosts = self.hosts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let reactor = match self.reactor.get() {
            Some(reactor) => reactor.clone(),
            None => {
                let started = Arc::new(Reactor::start()?);
                self.reactor.get_or_init(|| started).clone()
            }
        };
        let shared = hosts.entry(host.to_owned()).or_insert_with(|| {
            let configured = insecure.then_some(false);
            let usual = self.own.get(host).unwrap_or(&self.settings);
            let settings = Settings { tls_verify: usual.tls_verify.or(configured), ..usual.clone() };
            Arc::new(client::Host::new(host, settings))
        });
        Ok(Repository { reactor, host: shared.clone(), path: path.to_owned() })
    }
}

/// A repository of a registry. All calls block.
#[derive(Clone)]
pub(crate) struct Repository {
    reactor: Arc<Reactor>,
    host: client::Shared,
    path: String,
}

impl Repository {
    /// The registry, as it stands in names.
    pub(crate) fn host(&self) -> &str {
        self.host.name()
    }

    /// The path on its registry.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// A manifest by tag or digest: its descriptor and exact bytes.
    pub(crate) fn manifest(&self, locator: &str) -> Result<(Descriptor, Vec<u8>)> {
        let (host, path, locator) = (self.host.clone(), self.path.clone(), locator.to_owned());
        self.reactor.wait(async move { manifests::get(&host, &path, &locator).await })
    }

    /// What a tag or digest points to; `None` where nothing is there, or the registry does not tell.
    pub(crate) fn head(&self, locator: &str, access: Access) -> Result<Option<Descriptor>> {
        let (host, path, locator) = (self.host.clone(), self.path.clone(), locator.to_owned());
        let scope = access.scope(&path);
        self.reactor.wait(async move { manifests::head(&host, &path, &locator, scope).await })
    }

    /// Writes a manifest under a tag or digest. `true` where the registry took note of the manifest's subject.
    pub(crate) fn put_manifest(&self, locator: &str, document: &Descriptor, bytes: &[u8]) -> Result<bool> {
        let (host, path, locator) = (self.host.clone(), self.path.clone(), locator.to_owned());
        let (document, bytes) = (document.clone(), Bytes::copy_from_slice(bytes));
        self.reactor.wait(async move { manifests::put(&host, &path, &locator, &document, bytes).await })
    }

    /// All tags.
    pub(crate) fn tags(&self) -> Result<Vec<String>> {
        let (host, path) = (self.host.clone(), self.path.clone());
        self.reactor.wait(async move { lists::tags(&host, &path).await })
    }

    /// All repositories of the registry.
    pub(crate) fn catalog(&self) -> Result<Vec<String>> {
        let host = self.host.clone();
        self.reactor.wait(async move { lists::catalog(&host).await })
    }

    /// What refers to a manifest, and whether the registry keeps that list itself.
    pub(crate) fn referrers(&self, subject: Digest) -> Result<(Vec<Descriptor>, bool)> {
        let (host, path) = (self.host.clone(), self.path.clone());
        self.reactor.wait(async move { lists::referrers(&host, &path, subject).await })
    }

    /// Adds to the list of what refers to `subject`, where the registry does not keep that list itself. The list is one
    /// document that everybody replaces as a whole: within this program, one after the other.
    pub(crate) fn add_referrer(&self, subject: Digest, referrer: Descriptor) -> Result<()> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (mut known, native) = self.referrers(subject)?;
        if native || known.iter().any(|entry| entry.digest == referrer.digest) {
            return Ok(());
        }
        known.push(referrer);
        let index = layerfs::oci::Index::new(known);
        let bytes = index.to_bytes();
        let descriptor = Descriptor::of(layerfs::oci::media_type::OCI_INDEX, &bytes);
        self.put_manifest(&lists::fallback_tag(subject), &descriptor, &bytes).map(drop)
    }

    /// The registry's limits, as the headers of an answer state them.
    pub(crate) fn limits(&self, locator: &str) -> Result<Vec<(String, String)>> {
        let (host, path, locator) = (self.host.clone(), self.path.clone(), locator.to_owned());
        self.reactor.wait(async move { manifests::limits(&host, &path, &locator).await })
    }

    /// Removes a manifest by its digest, with all tags that point to it.
    pub(crate) fn delete_manifest(&self, digest: Digest) -> Result<()> {
        let (host, path, locator) = (self.host.clone(), self.path.clone(), digest.to_string());
        let name = format!("{}/{path}@{digest}", host.name());
        match self.reactor.wait(async move { manifests::delete(&host, &path, &locator).await })? {
            true => Ok(()),
            false => Err(Error::new(
                Kind::Unsupported,
                format!("delete `{name}`: registry `{}` does not remove manifests", self.host.name()),
            )
            .hint("its operator has to allow it")),
        }
    }

    /// Asks the registry to remove a tag and nothing else; `false` where it does not know how.
    pub(crate) fn delete_tag(&self, tag: &str) -> Result<bool> {
        let (host, path, tag) = (self.host.clone(), self.path.clone(), tag.to_owned());
        self.reactor.wait(async move { manifests::delete(&host, &path, &tag).await })
    }

    /// A blob's size; `None` where the repository does not have it.
    pub(crate) fn blob_size(&self, digest: Digest) -> Result<Option<u64>> {
        let (host, path) = (self.host.clone(), self.path.clone());
        self.reactor.wait(async move { upload::size(&host, &path, digest).await })
    }

    /// Removes a blob from the repository.
    pub(crate) fn delete_blob(&self, digest: Digest) -> Result<()> {
        let (host, path) = (self.host.clone(), self.path.clone());
        self.reactor.wait(async move { upload::delete(&host, &path, digest).await })
    }

    /// Asks for the registry's root with the credentials of the keyring: whether they are good.
    pub(crate) fn check_login(&self) -> Result<()> {
        let host = self.host.clone();
        self.reactor.wait(async move {
            let url = host.url("/v2/").await?;
            let action = format!("log in to `{}`", host.name());
            let call = client::Call::new(reqwest::Method::GET, url, Scope::registry(), action);
            let reply = host.send(&call).await?;
            match reply.status().is_success() {
                true => Ok(()),
                false => Err(host.failure(&call, reply).await),
            }
        })
    }

    /// Begins to download a blob. The bytes are not checked yet.
    pub(crate) fn open_blob(&self, blob: &Descriptor) -> Box<dyn Chunks> {
        self.open_blob_at(blob, 0)
    }

    /// Begins to download a blob after its first `at` bytes.
    pub(crate) fn open_blob_at(&self, blob: &Descriptor, at: u64) -> Box<dyn Chunks> {
        let (download, task) = download::start(self.host.clone(), self.path.clone(), blob.clone(), at);
        self.reactor.start_task(task);
        Box::new(download)
    }

    /// Which of `blobs` are there; all are asked for at once.
    pub(crate) fn existing(&self, blobs: &[Descriptor]) -> Result<Vec<bool>> {
        let (host, path, blobs) = (self.host.clone(), self.path.clone(), blobs.to_vec());
        self.reactor.wait(async move {
            let mut tasks = Vec::new();
            for blob in blobs {
                let (host, path) = (host.clone(), path.clone());
                tasks.push(tokio::spawn(async move {
                    let scope = Scope::push(&path);
                    upload::exists(&host, &path, &blob, scope).await
                }));
            }
            let mut found = Vec::with_capacity(tasks.len());
            for task in tasks {
                found.push(task.await.unwrap_or(Ok(false))?);
            }
            Ok(found)
        })
    }
}

/// What a request on a repository needs to be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read.
    Pull,
    /// Read and write.
    Push,
}

impl Access {
    fn scope(self, path: &str) -> Scope {
        match self {
            Self::Pull => Scope::pull(path),
            Self::Push => Scope::push(path),
        }
    }
}
