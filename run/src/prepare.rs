//! From an image and options to everything a launch needs: the container's folder, its mounts, its specification.

mod accounts;
mod namespaces;
mod owners;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use layerfs::archive::Limits;
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::layer::{self, Lowers, MergedView};
use layerfs::mount::{MountPlan, Upper};
use layerfs::oci::{Descriptor, ImageConfig, Platform};
use layerfs::store::format::Roots;
use layerfs::store::{Image, Store};
use layerfs::userns::{self, Entered, Mapping};
use oci_spec::runtime::Spec;

use crate::cgroup;
use crate::options::{MountBackend, MountRequest, Removal, RunOptions, UserNamespace};
use crate::spec::user::{self, User};
use crate::spec::{self, Place, Users};
use crate::state::{Container, Containers, Owner, Record, new_id, now};
use crate::userns::default_user;
use crate::volumes::{self, Volumes};
use crate::{child, host, network, options, terminal};

/// `SIGTERM`
const DEFAULT_STOP_SIGNAL: i32 = 15;

/// Who runs `run`, and on what.
#[derive(Debug)]
pub struct Caller {
    /// The namespace this process is in.
    pub entered: Entered,
    /// User and group outside; `None` for root.
    pub user: Option<(u32, u32)>,
    /// The store.
    pub store: Store,
    /// Its containers.
    pub containers: Containers,
}

/// A container that is ready to be launched.
#[derive(Debug)]
pub struct Prepared {
    /// The right to change it.
    pub owner: Owner,
    /// What was recorded of it.
    pub container: Container,
    /// What it is.
    pub spec: Spec,
    /// Its root.
    pub rootfs: MountPlan,
    /// Whose ids the owners of files in the root's layers are, where they are not this process's.
    pub owners: Option<Mapping>,
    /// Its control group.
    pub cgroup: cgroup::Plan,
    /// Its network.
    pub network: network::Plan,
    /// How often its restart policy has started it again.
    pub restarts: u32,
}

impl Caller {
    /// Makes this process what an unprivileged or privileged user needs, and opens the store.
    ///
    /// # Errors
    /// User namespaces cannot be had, or the store cannot be opened.
    pub fn enter(store: Option<&Path>, warn: impl FnOnce(&str)) -> Result<Self> {
        Self::enter_for(store, &RunOptions::default(), warn)
    }

    /// The same for a container with these options. What it shares with another container may belong to the other's
    /// user namespace, which is then entered instead of a new one.
    ///
    /// # Errors
    /// Those of [`Caller::enter`], and the other container does not run.
    pub fn enter_for(store: Option<&Path>, options: &RunOptions, warn: impl FnOnce(&str)) -> Result<Self> {
        // Told before entering: inside, everybody is root.
        let root = store_root(store)?;
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let user = (!uid.is_root()).then(|| (uid.as_raw(), gid.as_raw()));
        if user.is_some() {
            namespaces::enter_owner(&Containers::below(&root), options)?;
        }
        let entered = userns::enter()?;
        if let Some(line) = &entered.single_id {
            warn(line);
        }
        let store = Store::open(&root)?;
        let containers = Containers::below(store.root());
        Ok(Self { entered, user, store, containers })
    }
}

/// Where the store lies, as the user says or by default.
///
/// # Errors
/// There is no place for it.
pub fn store_root(store: Option<&Path>) -> Result<PathBuf> {
    let uid = rustix::process::geteuid();
    let default = || Store::default_root((!uid.is_root()).then_some(uid.as_raw()), |name| std::env::var_os(name));
    store.map_or_else(default, |path| std::path::absolute(path).at("find", path))
}

/// Makes a new container of an image in the store.
///
/// # Errors
/// The options do not fit the image or this machine, or the store cannot be written. Nothing is left then.
pub fn new(
    caller: &Caller,
    image_name: &str,
    descriptor: &Descriptor,
    platform: &Platform,
    options: RunOptions,
) -> Result<Prepared> {
    let image = caller.store.image(descriptor, platform)?;
    let mut options = options;
    let anonymous = name_volumes(&mut options, &image.config)?;
    let (owner, container) = caller.containers.create(options.name.clone().as_deref(), |id, name| {
        Ok(Record {
            id: id.to_owned(),
            name,
            image: image_name.to_owned(),
            image_id: image.id().to_string(),
            created: now(),
            stop_signal: stop_signal(&image.config, &options)?,
            roots: Roots {
                images: vec![image.manifest_descriptor.clone()],
                chains: vec![image.diff_ids.clone()],
                ..Roots::default()
            },
            anonymous,
            options,
            ..Record::default()
        })
    })?;
    let dir = owner.dir().to_owned();
    let made = container.clone();
    match complete(caller, &image, owner, container) {
        Ok(prepared) => Ok(prepared),
        Err(error) => {
            // Its lock went with the owner; nobody else can want a container that was never announced.
            if let Ok(Some(owner)) = Owner::try_take(&dir) {
                let _ = owner.remove();
                let _ = volumes::remove_anonymous(&made);
            }
            Err(error)
        }
    }
}

/// Makes an existing container ready again.
///
/// # Errors
/// Its image is gone, or no longer fits this machine.
pub fn again(caller: &Caller, owner: Owner, container: Container) -> Result<Prepared> {
    let image = image_of(caller, &container)?;
    complete(caller, &image, owner, container)
}

/// The root of a container that does not run, as it would be mounted, and whose ids its owners are where the mount is
/// to map them.
///
/// # Errors
/// Its image is gone, or it has the ids of a container that is not known any more.
pub(crate) fn stack(caller: &Caller, owner: &Owner, container: &Container) -> Result<(MountPlan, Option<Mapping>)> {
    let image = image_of(caller, container)?;
    let layers = layers_of(caller, container, &image)?;
    let (plan, _) = root(owner, &layers, Removal::Keep, container.record.options.storage.backend)?;
    Ok((plan, layers.mounted))
}

/// The folders of the image's layers that a container's own layer lies on.
///
/// # Errors
/// Those of [`stack`].
pub(crate) fn unpacked_for(caller: &Caller, container: &Container, image: &Image) -> Result<Lowers> {
    layers_of(caller, container, image).map(|layers| layers.lowers)
}

fn layers_of(caller: &Caller, container: &Container, image: &Image) -> Result<Layers> {
    let options = &container.record.options;
    let users = match (&container.record.ids, &options.isolation.user) {
        (Some(ids), _) => Users::New(ids.clone()),
        (None, UserNamespace::Container(_) | UserNamespace::Path(_)) => {
            let message = format!("container `{}` has the ids of another's namespace", container.record.name);
            return Err(Error::new(Kind::Unsupported, message).hint("its files can be seen while it runs"));
        }
        (None, _) => Users::Caller,
    };
    Layers::of(caller, image, &users, options.storage.backend)
}

/// The image a container was made of.
///
/// # Errors
/// It is gone.
pub(crate) fn image_of(caller: &Caller, container: &Container) -> Result<Image> {
    let missing = || Error::new(Kind::Invalid, format!("container `{}` names no image", container.record.name));
    let descriptor = container.record.roots.images.first().ok_or_else(missing)?;
    caller.store.image(descriptor, &Platform::host())
}

fn complete(caller: &Caller, image: &Image, owner: Owner, mut container: Container) -> Result<Prepared> {
    let mut options = container.record.options.clone();
    let network = network::plan(&options.network, &caller.containers)?;
    let joined = namespaces::join(&caller.containers, &mut options)?;
    let needed = || ids_needed(&MergedView::new(&unpacked(&caller.store, image)?.dirs));
    let users = namespaces::users(caller, &options, needed, &owner, &mut container.record)?;
    let layers = Layers::of(caller, image, &users, options.storage.backend)?;
    let view = MergedView::new(&layers.lowers.dirs);
    let facts = host::facts_for(&caller.entered, &users, &options)?;
    check_sources(&options)?;
    let mut place = Place {
        id: container.record.id.clone(),
        user: user_of(caller, image, &options, &view)?,
        network: namespaces::network(network.namespace.clone()),
        users,
        joined,
        files: Vec::new(),
        init: options.process.init.then(host::init_program).transpose()?,
        terminal_size: terminal::size(),
    };
    check_user(&place)?;
    let hostname = spec::hostname(&options, &facts, &place)?.unwrap_or_else(|| facts.hostname.clone());
    let files = network::Files::from_host(&options.network, &network, &hostname, &container.record.name)?;
    place.files = files.write(owner.dir())?;
    for (file, _) in &place.files {
        layers.give_to_root(file)?;
    }
    let (rootfs, is_new) = root(&owner, &layers, options.remove, options.storage.backend)?;
    let kept = default_user(&options.isolation.user, caller.user).and(caller.user).map(accounts::Names::of_host);
    let home = spec::workdir(&image.config, &options)?;
    let accounts = accounts::complete(&view, &mut place.user, kept.as_ref(), &home);
    if let (true, Some(upper)) = (is_new, &rootfs.upper) {
        // Later the container could have put a symlink of its own in the way.
        let folders: Vec<PathBuf> = workdir(&image.config, &options).into_iter().collect();
        make_folders(&view, upper, &layers, &folders)?;
        for (path, content) in accounts {
            accounts::write(&view, upper, &layers, path, &content)?;
        }
    }
    bind_volumes(caller, &mut options, &view, &place)?;
    give_volumes(&options, &place)?;
    let mut spec = spec::for_container(&image.config, &options, &facts, &place)?;
    let cgroup = control_group(&mut spec, &options)?;
    container.record.process = spec.process().clone().unwrap_or_default();
    container.record.cgroup = cgroup.cgroup();
    owner.write_record(&container.record)?;
    let owners = layers.mounted.clone();
    Ok(Prepared { owner, container, spec, rootfs, owners, cgroup, network, restarts: 0 })
}

/// The layers of an image for a container, and who owns files in them.
struct Layers {
    lowers: Lowers,
    /// The maps of the container's user namespace, where it is not the caller's.
    ids: Option<Mapping>,
    /// The same where the mount is to map the owners; otherwise they are right on disk.
    mounted: Option<Mapping>,
}

impl Layers {
    /// The kernel maps the owners where it can; elsewhere the layers are unpacked once more, with other owners.
    fn of(caller: &Caller, image: &Image, users: &Users, backend: MountBackend) -> Result<Self> {
        let Some(ids) = users.mapping() else {
            return Ok(Self { lowers: unpacked(&caller.store, image)?, ids: None, mounted: None });
        };
        let is_root = caller.user.is_none() && !caller.entered.rootless;
        let mounted =
            is_root && backend != MountBackend::Fuse && layerfs::mount::maps_owners(&caller.store.layers_dir(), ids)?;
        let lowers = match mounted {
            true => unpacked(&caller.store, image)?,
            false => unpacked(&caller.store.for_namespace(ids)?, image)?,
        };
        Ok(Self { lowers, ids: Some(ids.clone()), mounted: mounted.then(|| ids.clone()) })
    }

    /// Whose a file in the upper layer is, that is like one in a lower layer with this owner.
    fn owner(&self, uid: u32, gid: u32) -> Result<(u32, u32)> {
        let Some(mounted) = &self.mounted else { return Ok((uid, gid)) };
        match (mounted.uid_outside(uid), mounted.gid_outside(gid)) {
            (Some(uid), Some(gid)) => Ok((uid, gid)),
            (None, _) => Err(userns::unmapped_id("owner", uid.into())),
            (_, None) => Err(userns::unmapped_id("group", gid.into())),
        }
    }

    /// The container's root, in the caller's ids.
    fn root(&self) -> (u32, u32) {
        let outside = |ids: &Mapping| Some((ids.uid_outside(0)?, ids.gid_outside(0)?));
        self.ids.as_ref().and_then(outside).unwrap_or((0, 0))
    }

    fn give_to_root(&self, path: &Path) -> Result<()> {
        let (uid, gid) = self.root();
        match (uid, gid) {
            (0, 0) => Ok(()),
            _ => std::os::unix::fs::chown(path, Some(uid), Some(gid)).at("chown", path),
        }
    }
}

/// The process must be somebody who exists in the container.
fn check_user(place: &Place) -> Result<()> {
    let Some(ids) = place.users.mapping() else { return Ok(()) };
    let User { uid, gid, groups, .. } = &place.user;
    if ids.uid_outside(*uid).is_none() {
        return Err(userns::unmapped_id("user", (*uid).into()));
    }
    match [gid].into_iter().chain(groups).find(|gid| ids.gid_outside(**gid).is_none()) {
        Some(gid) => Err(userns::unmapped_id("group", (*gid).into())),
        None => Ok(()),
    }
}

fn stop_signal(config: &ImageConfig, options: &RunOptions) -> Result<i32> {
    match (options.stop.signal, config.text("StopSignal")) {
        (Some(signal), _) => Ok(signal),
        (None, Some(text)) => options::signal(text).context(|| "read the image's StopSignal"),
        (None, None) => Ok(DEFAULT_STOP_SIGNAL),
    }
}

/// How many ids the image's own users and groups take.
fn ids_needed(view: &MergedView) -> Result<u32> {
    let read = |path: &str| view.read(path, user::FILE_MAX).map(Option::unwrap_or_default);
    Ok(crate::userns::needed(&read("/etc/passwd")?, &read("/etc/group")?))
}

fn user_of(caller: &Caller, image: &Image, options: &RunOptions, view: &MergedView) -> Result<User> {
    let kept = default_user(&options.isolation.user, caller.user);
    let asked = options.process.user.as_deref().or(kept.as_deref());
    let text = asked.or_else(|| image.config.text("User")).unwrap_or_default();
    // A file that cannot be read as one is like none, unless a name needs it.
    let read = |path: &str| view.read(path, user::FILE_MAX).map(Option::unwrap_or_default);
    user::resolve(text, &read("/etc/passwd")?, &read("/etc/group")?, &options.process.groups)
}

/// podman's rule for `-v`: a source must exist.
fn check_sources(options: &RunOptions) -> Result<()> {
    for request in &options.storage.mounts {
        if let MountRequest::Bind { source, .. } = request {
            fs::metadata(source).at("open volume", source)?;
        }
    }
    Ok(())
}

/// Gives what has no name yet one of its own: folders behind `-v` alone, and the image's volumes that nothing else is
/// put upon. Gives the names.
fn name_volumes(options: &mut RunOptions, config: &ImageConfig) -> Result<Vec<String>> {
    let mounts = &mut options.storage.mounts;
    for path in image_volumes(config) {
        if !mounts.iter().any(|request| request.destination() == path) {
            mounts.push(MountRequest::Folder { destination: path });
        }
    }
    let mut names = Vec::new();
    for request in mounts {
        if let MountRequest::Folder { destination } = request {
            let name = new_id()?;
            names.push(name.clone());
            *request = MountRequest::Volume { name, destination: destination.clone(), options: Vec::new() };
        }
    }
    Ok(names)
}

/// The places of an image's volumes.
fn image_volumes(config: &ImageConfig) -> Vec<PathBuf> {
    let volumes = config.settings().and_then(|settings| settings.get("Volumes")).and_then(|v| v.as_object());
    let places = volumes.into_iter().flat_map(|volumes| volumes.keys()).filter(|path| path.starts_with('/'));
    places.map(|path| options::normal(Path::new(path))).filter(|path| path != Path::new("/")).collect()
}

/// Named volumes become binds of their folders. An empty one begins with what the image has in its place, or belongs to
/// the container's user where the image has nothing.
fn bind_volumes(caller: &Caller, options: &mut RunOptions, view: &MergedView, place: &Place) -> Result<()> {
    let volumes = Volumes::below(caller.store.root());
    for request in &mut options.storage.mounts {
        let MountRequest::Volume { name, destination, options } = request else { continue };
        volumes.ensure(name)?;
        let source = volumes.data(name);
        let is_empty = fs::read_dir(&source).at("read volume", &source)?.next().is_none();
        let copies = !options.iter().any(|word| word == "nocopy");
        let mut words: Vec<String> = options.iter().filter(|word| *word != "nocopy").cloned().collect();
        let covers_folder = || Ok::<_, Error>(view.resolve(&*destination)?.is_some_and(|e| e.metadata.is_dir()));
        if is_empty && copies && covers_folder()? {
            words.push("tmpcopyup".to_owned());
        } else if is_empty {
            owners::give(&source, owner_outside(place))?;
        }
        *request = MountRequest::Bind { source, destination: destination.clone(), options: words };
    }
    Ok(())
}

/// The container's user in the caller's ids.
fn owner_outside(place: &Place) -> (u32, u32) {
    let (uid, gid) = (place.user.uid, place.user.gid);
    match place.users.mapping() {
        Some(ids) => (ids.uid_outside(uid).unwrap_or(uid), ids.gid_outside(gid).unwrap_or(gid)),
        None => (uid, gid),
    }
}

/// Volumes that are to be the container's user's, each time it starts, as with podman.
fn give_volumes(options: &RunOptions, place: &Place) -> Result<()> {
    let owner = owner_outside(place);
    for request in &options.storage.mounts {
        if let MountRequest::Bind { source, options, .. } = request
            && options.iter().any(|word| word == "U")
        {
            owners::give(source, owner)?;
        }
    }
    Ok(())
}

/// Where the container's processes are counted and limited. The process limit that nobody asked for is left out where
/// it cannot be had.
fn control_group(spec: &mut Spec, options: &RunOptions) -> Result<cgroup::Plan> {
    let Some(linux) = spec.linux_mut() else { return Ok(cgroup::Plan::none()) };
    let name = linux.cgroups_path().clone().unwrap_or_default();
    let planned = cgroup::plan(linux.resources().as_ref(), &name);
    match planned {
        Err(error) if error.kind() == Kind::Unsupported && options.resources.pids.is_none() => {
            if let Some(resources) = linux.resources_mut() {
                resources.set_pids(None);
            }
            // What is refused now was asked for; what was refused before may have been, and is told here too.
            cgroup::plan(linux.resources().as_ref(), &name)
        }
        planned => planned,
    }
}

/// The container's root, and whether it was made now.
fn root(owner: &Owner, layers: &Layers, remove: Removal, backend: MountBackend) -> Result<(MountPlan, bool)> {
    let (upper, work) = (owner.dir().join("upper"), owner.dir().join("work"));
    let made = fs::create_dir(&upper);
    let is_new = made.is_ok();
    if is_new {
        // The topmost folder's metadata is what `/` has.
        let (mode, (uid, gid)) = match layers.lowers.root_metadata()? {
            Some(root) => (root.mode() & 0o7777, layers.owner(root.uid(), root.gid())?),
            None => (0o755, layers.root()),
        };
        set_like(&upper, mode, uid, gid)?;
    } else if let Err(error) = made
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(error).at("create", &upper);
    }
    // What an unclean end left in it would make the kernel refuse the mount.
    if let Err(error) = fs::remove_dir_all(&work)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error).at("remove", &work);
    }
    fs::create_dir(&work).at("create", &work)?;
    let plan = MountPlan {
        lowers: layers.lowers.dirs.clone(),
        upper: Some(Upper { dir: upper, work }),
        volatile: remove == Removal::OnExit,
        backend: backend.backend(),
    };
    Ok((plan, is_new))
}

fn set_like(path: &Path, mode: u32, uid: u32, gid: u32) -> Result<()> {
    if (uid, gid) != (0, 0) {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).at("chown", path)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).at("chmod", path)
}

/// The working folder that the image speaks of and need not hold.
fn workdir(config: &ImageConfig, options: &RunOptions) -> Option<PathBuf> {
    let workdir = config.text("WorkingDir").filter(|_| options.process.workdir.is_none());
    workdir.filter(|path| path.starts_with('/')).map(|path| options::normal(Path::new(path)))
}

/// Makes folders in the upper layer that the image does not have. Those on the way are copied up: the same mode and
/// owner, and no mark of opacity, so that what lies in them below still shows.
fn make_folders(view: &MergedView, upper: &Upper, layers: &Layers, folders: &[PathBuf]) -> Result<()> {
    'folders: for folder in folders {
        if view.resolve(folder)?.is_some() {
            continue;
        }
        // As far as the image goes, by its own symlinks; from there on the rest is new.
        let mut known = PathBuf::from("/");
        for component in folder.components() {
            let Component::Normal(name) = component else { continue };
            let next = known.join(name);
            match view.resolve(&next)? {
                Some(entry) if entry.metadata.is_dir() => {
                    known = Path::new("/").join(&entry.path);
                    copy_up(view, &upper.dir, layers, &known)?;
                }
                // Something else is in the way; the mount or the program will say so.
                Some(_) => continue 'folders,
                None => {
                    let path = upper.dir.join(known.strip_prefix("/").unwrap_or(&known)).join(name);
                    make_folder(&path, 0o755, layers.root())?;
                    known = next;
                }
            }
        }
    }
    Ok(())
}

fn copy_up(view: &MergedView, upper: &Path, layers: &Layers, folder: &Path) -> Result<()> {
    let mut path = PathBuf::from("/");
    for component in folder.components() {
        let Component::Normal(name) = component else { continue };
        path.push(name);
        let Some(entry) = view.lookup(&path)? else { return Ok(()) };
        let owner = layers.owner(entry.metadata.uid(), entry.metadata.gid())?;
        make_folder(&upper.join(path.strip_prefix("/").unwrap_or(&path)), entry.metadata.mode() & 0o7777, owner)?;
    }
    Ok(())
}

fn make_folder(path: &Path, mode: u32, (uid, gid): (u32, u32)) -> Result<()> {
    match fs::create_dir(path) {
        Ok(()) => set_like(path, mode, uid, gid),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error).at("create", path),
    }
}

/// The image's layers, unpacked. What is missing is unpacked by a child: that takes threads, and the process that
/// clones a container must never have had any.
pub(crate) fn unpacked(store: &Store, image: &Image) -> Result<Lowers> {
    let mut complete = true;
    for diff_id in &image.diff_ids {
        complete &= store.has_layer(*diff_id)?;
    }
    let limits = Limits::chosen(|name| std::env::var_os(name))?;
    if !complete {
        child::run(|| layer::unpack_image(store, image, &limits).map(drop))?;
    }
    layer::unpack_image(store, image, &limits)
}
