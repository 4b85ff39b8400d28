//! The operations: [`transfer`] between any two places, [`pull`] into the store, [`push`] out of it.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use layerfs::archive::Compression;
use layerfs::digest::Digest;
use layerfs::error::{Error, Kind, Result};
use layerfs::oci::Descriptor;
use layerfs::progress::{Event, Progress};
use layerfs::reference::Reference;
use layerfs::store::Store;

use crate::companions::{self, Companions};
use crate::convert::{Changes, Recompress, convert};
use crate::credentials::{Credential, Found, Keyring, Places};
use crate::exchange::Exchange;
use crate::execute::{Execution, Ids, Moved, PARALLEL, Pace};
use crate::inventory::{self, Inventory, Platforms};
use crate::location::Location;
use crate::plan::{Foreign, Holdings, plan};
use crate::policy::{self, Policy, Signed};
use crate::registries::Registries;
use crate::registry::{Network, Repository, Settings};
use crate::signing;
use crate::transport::containers_storage::{StorageSink, StorageSource};
use crate::transport::directory::Directory;
use crate::transport::docker_archive::{DockerArchiveSink, DockerArchiveSource};
use crate::transport::docker_daemon::{DaemonSink, DaemonSource};
use crate::transport::layout::{LayoutSink, LayoutSource};
use crate::transport::layout_archive::{LayoutArchiveSink, LayoutArchiveSource};
use crate::transport::registry::{RegistrySink, RegistrySource};
use crate::transport::store::{StoreSink, StoreSource, Unpack};
use crate::transport::{Sink, Source};

mod stored;

pub use stored::{Pushed, pull, push, push_blob, push_untagged};

/// How one side of an operation is spoken to. Plain data; the default asks the user's own configuration.
#[derive(Clone, Debug, Default)]
pub struct Side {
    /// `false` accepts any certificate and plain HTTP, `true` insists on checked HTTPS. `None` is the default rule:
    /// checked HTTPS, but plain HTTP for hosts on the loopback interface that speak it.
    pub tls_verify: Option<bool>,
    /// A credential in place of those in files.
    pub credential: Option<Credential>,
    /// Access without any credential.
    pub anonymous: bool,
    /// A folder of certificates in place of `certs.d`.
    pub cert_dir: Option<PathBuf>,
    /// The one credential file to use for this side, in place of the usual ones.
    pub authfile: Option<PathBuf>,
    /// Where an `oci:` place has its blobs, if not in itself: `ALGORITHM/HEX` below this folder.
    pub shared_blob_dir: Option<PathBuf>,
    /// Where docker's daemon is, if not where `DOCKER_HOST` says: `unix://PATH` or `tcp://HOST:PORT`.
    pub daemon_host: Option<String>,
}

/// What an operation is told. Plain data; the default is right for most.
#[derive(Clone, Debug)]
pub struct Options {
    /// How the source is spoken to; also the registry of a [`pull`].
    pub source: Side,
    /// How the destination is spoken to; also the registry of a [`push`].
    pub destination: Side,
    /// The one credential file to use, in place of the usual ones.
    pub authfile: Option<PathBuf>,
    /// Credentials that were loaded before, in place of those in files: for a program that cannot run credential
    /// helpers any more when it needs them.
    pub keyring: Option<Arc<Keyring>>,
    /// Which platforms are wanted.
    pub platforms: Platforms,
    /// How layers are compressed; `None` is the rule of the destination: see [`transfer`].
    pub recompress: Option<Recompress>,
    /// The family of media types to write.
    pub format: Option<crate::convert::Format>,
    /// What goes along with the image from one registry to another.
    pub companions: Companions,
    /// How single registries are spoken to, on whichever side they are.
    pub hosts: HashMap<String, Side>,
    /// More names for the destination, in the same repository or archive.
    pub additional_tags: Vec<Reference>,
    /// Refuse to change the image in any way.
    pub preserve_digests: bool,
    /// How often a request or a blob is tried again.
    pub retries: u32,
    /// The pause before something is tried again, where the registry names none; `None` doubles it each time.
    pub retry_delay: Option<Duration>,
    /// What our name in requests begins with.
    pub user_agent_prefix: Option<String>,
    /// Blobs that move at the same time.
    pub parallel: usize,
    /// Most bytes a second that blobs may take, all together.
    pub bandwidth: Option<u64>,
    /// Whether the user's `policy.json` is asked about sources.
    pub policy: Policy,
    /// The policy to ask in place of the user's or the system's.
    pub policy_file: Option<PathBuf>,
    /// The real id of a user who entered a user namespace; `None` for who the process is.
    pub real_uid: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            source: Side::default(),
            destination: Side::default(),
            authfile: None,
            keyring: None,
            platforms: Platforms::Auto,
            recompress: None,
            format: None,
            companions: Companions::NONE,
            hosts: HashMap::new(),
            additional_tags: Vec::new(),
            preserve_digests: false,
            retries: 3,
            retry_delay: None,
            user_agent_prefix: None,
            parallel: PARALLEL,
            bandwidth: None,
            policy: Policy::Enforce,
            policy_file: None,
            real_uid: None,
        }
    }
}

impl Options {
    /// Prepares for a user namespace that the caller is about to enter: remembers who the user is, reads the
    /// credential files, and starts the process outside that runs credential helpers, where there are any. To be
    /// called while the caller has one thread only.
    ///
    /// # Errors
    /// A credential file is malformed or the one that was named does not exist.
    pub fn before_namespace(&mut self) -> Result<()> {
        let uid = rustix::process::getuid().as_raw();
        self.real_uid.get_or_insert(uid);
        if self.keyring.is_none() {
            let places = Places::from_env(|name| std::env::var_os(name), self.real_uid.unwrap_or(uid));
            let registries = Registries::load(|name| std::env::var_os(name))?;
            let keyring = Keyring::load(&places, self.authfile.as_deref())?;
            let mut keyring = keyring.with_helpers(registries.credential_helpers());
            if let Some(program) = copy_program() {
                keyring.stay_outside(&program)?;
            }
            self.keyring = Some(Arc::new(keyring));
        }
        Ok(())
    }
}

/// The `copy` program: this one, or the one beside it. What else has that name on `PATH` is somebody else's.
fn copy_program() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let folder = own.parent()?;
    ["layerfs-copy", "copy"].map(|name| folder.join(name)).into_iter().find(|program| program.is_file())
}

/// What a [`transfer`] did.
#[derive(Clone, Debug, PartialEq)]
pub struct Transferred {
    /// The manifest or index at the destination.
    pub root: Descriptor,
    /// What moved; `None` where the destination had the image already.
    pub moved: Option<Moved>,
}

/// Copies an image from one place to another.
///
/// The image arrives bit by bit as it was, with all its platforms, with three exceptions: `options` ask for a change;
/// the destination is a `docker-archive:`, which holds one platform and no manifest; or layers lie uncompressed in
/// the store or a docker archive, in which case a registry or layout gets them compressed (with gzip unless `options`
/// say otherwise), always to the same bytes.
///
/// `store` is needed where one side is a `store:` location.
///
/// # Errors
/// A place cannot be read or written, credentials are missing or refused, or bytes are not what their digest says. The
/// destination then has no new name; blobs that arrived stay for the next attempt.
pub fn transfer(
    source: &Location,
    destination: &Location,
    store: Option<&Store>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Transferred> {
    let reach = Reach::new(options, progress)?;
    let signed = reach.check_policy(source)?;
    let from = reach.source(source, store)?;
    reach.check_signed(source, &*from, &signed)?;
    let archive = matches!(destination, Location::DockerArchive(_) | Location::DockerDaemon(_));
    let single = archive || matches!(destination, Location::ContainersStorage(_));
    let platforms = match &options.platforms {
        Platforms::Auto if single => Platforms::Host,
        Platforms::Auto => Platforms::All,
        chosen => chosen.clone(),
    };
    let plain = matches!(source, Location::Store(_) | Location::DockerArchive(_) | Location::DockerDaemon(_));
    let packs = matches!(destination, Location::Registry(_) | Location::Layout(_) | Location::LayoutArchive(_));
    let rule = if plain && packs { Recompress::Plain(Compression::GZIP) } else { Recompress::Never };
    let recompress = if archive { Recompress::Never } else { options.recompress.unwrap_or(rule) };
    let changes = Changes { recompress, format: options.format.filter(|_| !archive) };
    let keep = store.filter(|_| matches!(source, Location::Store(_)));
    if options.companions.any() {
        let (Location::Registry(name), Location::Registry(target)) = (source, destination) else {
            return Err(Error::new(
                Kind::Usage,
                "referrers and tags made of digests go from one registry to another only",
            ));
        };
        let from = reach.registry_source(name)?;
        reach.check_signed(source, &from, &signed)?;
        let exchange = Exchange::default();
        let shared = Shared { exchange: &exchange, stale: false };
        let tags = if options.companions.digest_tags { from.tags()? } else { Vec::new() };
        return reach.copy_shared(&from, target, &platforms, &shared, options.companions, &tags);
    }
    let to = reach.sink(destination, store)?;
    reach.copy(&*from, &*to, &platforms, &changes, keep)
}

/// The place that was typed. A name without a registry and without `docker://` stands for what `registries.conf` says:
/// an alias, or the first registry to be searched that has it.
///
/// # Errors
/// It is no place, or a short name that stands for none.
pub fn locate(text: &str, options: &Options, progress: &dyn Progress) -> Result<Location> {
    let location: Location = text.parse()?;
    match location {
        Location::Registry(_) if !text.starts_with("docker://") => Reach::new(options, progress)?.locate(text),
        other => Ok(other),
    }
}

/// What can be reached with some options: networks, configuration, and the engine that copies.
pub(crate) struct Reach<'a> {
    options: &'a Options,
    progress: &'a dyn Progress,
    ids: Ids,
    pace: Option<Pace>,
    registries: Registries,
    source: Network,
    destination: Network,
}

/// What the images of one invocation share at a registry they are written to.
pub(crate) struct Shared<'a> {
    pub(crate) exchange: &'a Exchange,
    /// The name is known to lead to something else, or nowhere.
    pub(crate) stale: bool,
}

/// Where a name leads, in the order to try.
pub(crate) struct Explained {
    pub(crate) endpoints: Vec<Leading>,
    /// The credential files that were looked for.
    pub(crate) searched: Vec<PathBuf>,
}

/// One registry a name leads to.
pub(crate) struct Leading {
    pub(crate) name: Reference,
    pub(crate) insecure: bool,
    pub(crate) certificates: Option<PathBuf>,
    pub(crate) credential: Option<Found>,
}

impl<'a> Reach<'a> {
    /// Reads the configuration. Connects to nothing yet.
    pub(crate) fn new(options: &'a Options, progress: &'a dyn Progress) -> Result<Self> {
        let env = |name: &str| std::env::var_os(name);
        let uid = options.real_uid.unwrap_or_else(|| rustix::process::getuid().as_raw());
        let places = Places::from_env(env, uid);
        let registries = Registries::load(env)?;
        let load = |authfile: Option<&std::path::Path>| {
            let keyring = Keyring::load(&places, authfile)?;
            Ok::<_, Error>(Arc::new(keyring.with_helpers(registries.credential_helpers())))
        };
        let files = match &options.keyring {
            Some(keyring) => keyring.clone(),
            None => load(options.authfile.as_deref())?,
        };
        let config_home = places.config_home.clone().or_else(|| Some(places.home.as_ref()?.join(".config")));
        let keyring = |side: &Side| match (&side.credential, side.anonymous, &side.authfile) {
            (Some(credential), _, _) => Ok(Arc::new(Keyring::fixed(credential.clone()))),
            (None, true, _) => Ok(Arc::default()),
            (None, false, Some(own)) if side.authfile != options.authfile => load(Some(own)),
            (None, false, _) => Ok(files.clone()),
        };
        let cache = env("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let cache = cache.or_else(|| Some(places.home.as_ref()?.join(".cache")));
        let uploads = cache.map(|dir| dir.join("layerfs/uploads"));
        let settings = |side: &Side| {
            Ok::<_, Error>(Settings {
                tls_verify: side.tls_verify,
                keyring: keyring(side)?,
                retries: options.retries,
                config_dir: config_home.as_ref().map(|dir| dir.join("containers")),
                cert_dir: side.cert_dir.clone(),
                retry_delay: options.retry_delay,
                user_agent_prefix: options.user_agent_prefix.clone(),
                uploads: uploads.clone(),
            })
        };
        let own = |side: &Side| {
            let merged = options.hosts.iter().map(|(host, own)| {
                let merged = Side {
                    tls_verify: side.tls_verify.or(own.tls_verify),
                    credential: side.credential.clone().or_else(|| own.credential.clone()),
                    cert_dir: side.cert_dir.clone().or_else(|| own.cert_dir.clone()),
                    ..side.clone()
                };
                Ok((host.clone(), settings(&merged)?))
            });
            merged.collect::<Result<HashMap<_, _>>>()
        };
        let source = Network::new(settings(&options.source)?, own(&options.source)?);
        let destination = Network::new(settings(&options.destination)?, own(&options.destination)?);
        let pace = options.bandwidth.map(Pace::new);
        Ok(Self { options, progress, ids: Ids::default(), pace, registries, source, destination })
    }

    /// Whether the user's policy allows an image from this place: what is to be asked before the place is. The answer is
    /// what the policy wants of signatures: see [`Reach::check_signed`].
    pub(crate) fn check_policy(&self, source: &Location) -> Result<Vec<Signed>> {
        match self.options.policy {
            Policy::Enforce => {
                policy::check(source, self.options.policy_file.as_deref(), |name| std::env::var_os(name))
            }
            Policy::Ignore => Ok(Vec::new()),
        }
    }

    /// Whether an image is signed as the policy wants it. What is signed is the manifest or index that the source gives
    /// out, and gives out again when it is copied.
    pub(crate) fn check_signed(&self, location: &Location, source: &dyn Source, wanted: &[Signed]) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        let (Location::Registry(name), Some(repository)) = (location, source.registry()) else {
            return Err(Error::new(
                Kind::Denied,
                format!("`{location}` needs a signature, which only registries have"),
            ));
        };
        let digest = source.root()?.0.digest;
        for requirement in wanted {
            let found = signing::statements(repository, digest, &requirement.keys)?;
            if !found.iter().any(|statement| requirement.accepts(name, statement)) {
                return Err(signing::unsigned(&name.to_string(), &found));
            }
        }
        Ok(())
    }

    /// The place that was typed. A name without a registry may stand for several: then the first that has it.
    ///
    /// # Errors
    /// It is no place, or a short name that stands for none.
    pub(crate) fn locate(&self, text: &str) -> Result<Location> {
        let location: Location = text.parse()?;
        if !matches!(location, Location::Registry(_)) || text.starts_with("docker://") {
            return Ok(location);
        }
        let mut meanings = self.registries.meanings(text)?;
        let Some(last) = meanings.pop() else { return Ok(location) };
        for name in meanings {
            match self.registry_source(&name).and_then(|source| source.root()) {
                Ok(_) => return Ok(Location::Registry(name)),
                Err(error) => {
                    let note = format!("`{text}` is not `{name}`: {}", error.chain());
                    self.progress.event(&Event::Note(note));
                }
            }
        }
        Ok(Location::Registry(last))
    }

    /// What a name that was typed may stand for: see [`Registries::meanings`].
    pub(crate) fn meanings(&self, text: &str) -> Result<Vec<Reference>> {
        self.registries.meanings(text)
    }

    /// A repository to read, by way of its mirrors.
    pub(crate) fn registry_source(&self, name: &Reference) -> Result<RegistrySource> {
        let endpoints = self.registries.sources(name)?;
        RegistrySource::open(&self.source, &endpoints, &|note| self.progress.event(&Event::Note(note)))
    }

    /// A repository itself, past all mirrors: what writes, removes or administers speaks to it.
    pub(crate) fn repository(&self, name: &Reference) -> Result<Repository> {
        let endpoint = self.registries.destination(name)?;
        self.destination.repository(endpoint.name.host(), endpoint.name.path(), endpoint.insecure)
    }

    /// A registry as a whole.
    pub(crate) fn host(&self, host: &str) -> Result<Repository> {
        self.destination.repository(host, "", false)
    }

    /// What a name of the source side leads to. Asks files and helpers, not the network.
    pub(crate) fn explain(&self, name: &Reference) -> Result<Explained> {
        let settings = self.source.settings();
        let endpoints = self.registries.sources(name)?.into_iter().map(|endpoint| {
            let credential = settings.keyring.lookup(endpoint.name.host(), endpoint.name.path())?;
            let certificates = settings.certificates_of(endpoint.name.host());
            Ok(Leading { name: endpoint.name, insecure: endpoint.insecure, certificates, credential })
        });
        Ok(Explained { endpoints: endpoints.collect::<Result<_>>()?, searched: settings.keyring.searched().to_vec() })
    }

    /// Whether the credential of the source side is good for a registry.
    pub(crate) fn check_login(&self, host: &str) -> Result<()> {
        self.source.repository(host, "", false)?.check_login()
    }

    /// Any place to read.
    pub(crate) fn source<'s>(&self, location: &Location, store: Option<&'s Store>) -> Result<Box<dyn Source + 's>> {
        Ok(match location {
            Location::Registry(name) => Box::new(self.registry_source(name)?),
            Location::Layout(place) => {
                Box::new(LayoutSource::open(place, self.options.source.shared_blob_dir.as_deref())?)
            }
            Location::LayoutArchive(place) => Box::new(LayoutArchiveSource::open(place)?),
            Location::DockerArchive(place) => Box::new(DockerArchiveSource::open(place)?),
            Location::Directory(dir) => Box::new(Directory::open(dir)),
            Location::DockerDaemon(name) => {
                Box::new(DaemonSource::open(name, self.options.source.daemon_host.as_deref())?)
            }
            Location::ContainersStorage(name) => Box::new(StorageSource::open(name)?),
            Location::Store(name) => {
                let store = opened(store)?;
                Box::new(StoreSource::new(store, &store.find(name)?.descriptor)?)
            }
        })
    }

    fn sink<'s>(&self, location: &Location, store: Option<&'s Store>) -> Result<Box<dyn Sink + 's>> {
        let additional = &self.options.additional_tags;
        if !additional.is_empty()
            && matches!(
                location,
                Location::Layout(_)
                    | Location::LayoutArchive(_)
                    | Location::Directory(_)
                    | Location::ContainersStorage(_)
            )
        {
            return Err(Error::new(Kind::Usage, format!("`{location}` takes no additional tags")));
        }
        Ok(match location {
            Location::Registry(name) => {
                Box::new(RegistrySink::new(&self.destination, &self.registries.destination(name)?, additional)?)
            }
            Location::Layout(place) => {
                Box::new(LayoutSink::create(place, self.options.destination.shared_blob_dir.as_deref())?)
            }
            Location::LayoutArchive(place) => Box::new(LayoutArchiveSink::create(place)?),
            Location::DockerArchive(place) => Box::new(DockerArchiveSink::create(place, additional)?),
            Location::Directory(dir) => Box::new(Directory::create(dir)?),
            Location::DockerDaemon(name) => {
                Box::new(DaemonSink::create(name, additional, self.options.destination.daemon_host.as_deref())?)
            }
            Location::ContainersStorage(name) => Box::new(StorageSink::create(name)?),
            Location::Store(name) => {
                let name: Reference = name.parse()?;
                let names = std::iter::once(name.or_latest()).chain(additional.iter().cloned()).collect();
                Box::new(StoreSink::new(opened(store)?, names, None, Unpack::Later)?)
            }
        })
    }

    /// Whether an image goes as a whole, unless an entry says otherwise.
    pub(crate) fn copies_all(&self) -> bool {
        matches!(self.options.platforms, Platforms::Auto | Platforms::All)
            && self.options.format.is_none()
            && self.options.recompress.is_none()
    }

    /// The platforms an image's own choice and the options' make together.
    fn chosen(&self, platforms: &Platforms) -> Platforms {
        match (platforms, &self.options.platforms) {
            (Platforms::Auto, Platforms::Auto) => Platforms::All,
            (Platforms::Auto, usual) => usual.clone(),
            (own, _) => own.clone(),
        }
    }

    /// The manifest or index that would be copied.
    pub(crate) fn chosen_root(&self, source: &dyn Source, platforms: &Platforms) -> Result<Descriptor> {
        Ok(inventory::select(source, source.root()?, &self.chosen(platforms))?.descriptor)
    }

    /// Copies one image of many into a registry, with what belongs to it. `tags` are those of the source.
    pub(crate) fn copy_shared(
        &self,
        from: &RegistrySource,
        target: &Reference,
        platforms: &Platforms,
        shared: &Shared<'_>,
        wanted: Companions,
        tags: &[String],
    ) -> Result<Transferred> {
        let endpoint = self.registries.destination(target)?;
        let sink = |name: &Reference, shared| {
            let endpoint = crate::registries::Endpoint { name: name.clone(), ..endpoint.clone() };
            Ok::<_, Error>(RegistrySink::new(&self.destination, &endpoint, &[])?.among_many(shared))
        };
        let changes =
            Changes { recompress: self.options.recompress.unwrap_or(Recompress::Never), format: self.options.format };
        let platforms = self.chosen(platforms);
        let additional = &self.options.additional_tags;
        let main = RegistrySink::new(&self.destination, &endpoint, additional)?.among_many(shared);
        let mut done = self.copy(from, &main, &platforms, &changes, None)?;
        if !wanted.any() {
            return Ok(done);
        }
        let root = inventory::select(from, from.root()?, &platforms)?;
        let subjects = companions::subjects(&inventory::take(from, root, &platforms)?);
        let source = from.repository_handle();
        let fresh = Shared { exchange: shared.exchange, stale: false };
        let mut add = |outcome: Transferred| {
            if let Some(moved) = outcome.moved {
                done.moved.get_or_insert_default().add(&moved);
            }
        };
        if wanted.referrers {
            for referrer in companions::referrers(source, &subjects)? {
                let name = endpoint.name.with_digest(referrer.digest);
                let part = from.at(&referrer);
                add(self.copy(&part, &sink(&name, &fresh)?, &Platforms::All, &Changes::default(), None)?);
            }
        }
        if wanted.digest_tags {
            for tag in companions::digest_tags(tags, &subjects) {
                let part = from.tagged(tag);
                add(self.copy(
                    &part,
                    &sink(&endpoint.name.with_tag(tag)?, &fresh)?,
                    &Platforms::All,
                    &Changes::default(),
                    None,
                )?);
            }
        }
        Ok(done)
    }

    /// Copies one image of many to a place that is no registry.
    pub(crate) fn copy_location(
        &self,
        from: &dyn Source,
        target: &Location,
        platforms: &Platforms,
    ) -> Result<Transferred> {
        let changes =
            Changes { recompress: self.options.recompress.unwrap_or(Recompress::Never), format: self.options.format };
        self.copy(from, &*self.sink(target, None)?, &self.chosen(platforms), &changes, None)
    }

    /// Writes an image whose documents were made here.
    pub(crate) fn write(
        &self,
        source: &dyn Source,
        inventory: Inventory,
        target: &Location,
        store: Option<&Store>,
    ) -> Result<Digest> {
        let sink = self.sink(target, store)?;
        let root = inventory.root().descriptor.digest;
        if !sink.is_current(&inventory.root().descriptor)? {
            self.carry(source, &*sink, &inventory)?;
        }
        Ok(root)
    }

    /// Brings an image into the repository of `target` without giving it a name there.
    pub(crate) fn bring(&self, source: &dyn Source, target: &Reference, root: &Descriptor) -> Result<()> {
        let endpoint = self.registries.destination(&target.with_digest(root.digest))?;
        let sink = RegistrySink::new(&self.destination, &endpoint, &[])?;
        self.copy(source, &sink, &Platforms::All, &Changes::default(), None).map(drop)
    }

    /// Compares with what is there, plans, and carries out.
    fn carry(&self, source: &dyn Source, sink: &dyn Sink, inventory: &Inventory) -> Result<Moved> {
        sink.prepare(inventory, source)?;
        let plan = plan(inventory, &holdings(inventory, source, sink)?);
        let (parallel, retries) = (self.options.parallel.max(1), self.options.retries);
        let (progress, pace) = (self.progress, self.pace.as_ref());
        let execution = Execution { source, sink, progress, ids: &self.ids, parallel, retries, pace };
        execution.run(&plan, inventory)
    }

    /// The whole way of an image: choose, list, change, compare, plan, carry out.
    fn copy(
        &self,
        source: &dyn Source,
        sink: &dyn Sink,
        platforms: &Platforms,
        changes: &Changes,
        keep: Option<&Store>,
    ) -> Result<Transferred> {
        let root = inventory::select(source, source.root()?, platforms)?;
        let original = root.descriptor.digest;
        if *changes == Changes::default() && sink.is_current(&root.descriptor)? {
            return Ok(Transferred { root: root.descriptor, moved: None });
        }
        let inventory = inventory::take(source, root, platforms)?;
        let (source, inventory) = convert(source, inventory, changes, keep, self.progress, &self.ids)?;
        let root = &inventory.root().descriptor;
        if self.options.preserve_digests && root.digest != original {
            let sentence = format!("the image cannot be copied without a change of its digest `{original}`");
            return Err(Error::new(Kind::Conflict, sentence).hint("leave --preserve-digests out"));
        }
        if *changes != Changes::default() && sink.is_current(root)? {
            return Ok(Transferred { root: root.clone(), moved: None });
        }
        let moved = self.carry(&source, sink, &inventory)?;
        Ok(Transferred { root: root.clone(), moved: Some(moved) })
    }
}

/// What the sink has. Where both sides are repositories of one registry, a mount tells as much as a question.
fn holdings(inventory: &Inventory, source: &dyn Source, sink: &dyn Sink) -> Result<Holdings> {
    let foreign = if sink.repository().is_some() { Foreign::Leave } else { Foreign::Take };
    if let (Some((from, path)), Some((to, own))) = (source.repository(), sink.repository())
        && from == to
    {
        if path == own {
            let there = inventory.blobs.iter().filter(|blob| !source.is_made_here(blob));
            let present = there.map(|blob| blob.digest).collect();
            return Ok(Holdings { present, sister: None, foreign });
        }
        return Ok(Holdings { present: HashSet::new(), sister: Some(path.to_owned()), foreign });
    }
    let there = sink.existing(&inventory.blobs)?;
    let present = inventory.blobs.iter().zip(there).filter(|(_, there)| *there).map(|(blob, _)| blob.digest).collect();
    Ok(Holdings { present, sister: None, foreign })
}

fn opened(store: Option<&Store>) -> Result<&Store> {
    store.ok_or_else(|| Error::new(Kind::Usage, "a `store:` location needs an open store"))
}
