//! A container's view of files: its root, what is mounted below it, its devices, what is hidden from it.
//!
//! [`Prepared`] is what the launcher opens before the clone, where it still has its own view of the host: the root and
//! the sources of bind mounts, each as a mount that is attached nowhere. [`Prepared::build`] runs in the container's
//! first process, inside its new namespaces, and puts everything in its place.
//!
//! Invariants: no path below the root is resolved but by [`path::Root`]; every mount is made detached and moved onto
//! a descriptor; the root of the container is attached nowhere that another process could see.
//!
//! The mount API of Linux 5.2, `openat2` (5.6) and `mount_setattr` (5.12) are needed.

mod control_groups;
mod copy_up;
mod devices;
mod elsewhere;
mod file_system;
mod hide;
mod idmap;
pub(crate) mod options;
pub(crate) mod path;
pub(crate) mod shared;
mod sysctl;
mod terminal;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::mount::MountPlan;
use layerfs::sys::mount::{MountAttributes, set_attributes};
use layerfs::userns::Mapping;
use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};

use options::{Attributes, Bind, IdMap, MountOptions};
use path::{Root, file_type};

/// Most mounts of a Spec: far from what the kernel allows to a namespace, and from what anybody needs.
const MOUNTS_MAX: usize = 16_384;

/// Where a container's root comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rootfs {
    /// A stack of layers.
    Overlay(MountPlan),
    /// A folder, with what is mounted below it.
    Path(PathBuf),
}

/// What was opened before the clone.
pub(crate) struct Prepared<'a> {
    spec: &'a Spec,
    root: Tree,
    /// The sources of bind mounts, in the order of the Spec's mounts.
    sources: Vec<(&'a Mount, MountOptions, Option<Tree>)>,
    devices: devices::Way,
    /// Where the root is attached.
    place: PathBuf,
    view: View,
}

/// Whose mount namespace it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    /// The container's alone.
    Own,
    /// One that others are in as well: nothing of theirs is changed, and what is mounted for the container stays.
    Shared,
}

impl View {
    fn of(spec: &Spec) -> Self {
        if namespace_is_new(spec, LinuxNamespaceType::Mount) { Self::Own } else { Self::Shared }
    }
}

/// A mount that is to be attached.
enum Tree {
    /// Attached nowhere.
    Open(OwnedFd),
    /// The container's process opens it, when its turn comes.
    Later(PathBuf),
}

impl Tree {
    /// Opens one by `open`; later where the launcher may not copy mounts, for it is neither root nor in a user
    /// namespace: the container's process may, in its own.
    fn new(spec: &Spec, path: &Path, open: impl FnOnce(&Path) -> Result<OwnedFd>) -> Result<Self> {
        match open(path) {
            Err(error)
                if error.errno() == Some(Errno::PERM.raw_os_error())
                    && namespace_is_new(spec, LinuxNamespaceType::User) =>
            {
                Ok(Self::Later(path.to_owned()))
            }
            opened => opened.map(Self::Open),
        }
    }

    fn open(self, open: impl FnOnce(&Path) -> Result<OwnedFd>) -> Result<OwnedFd> {
        match self {
            Self::Open(tree) => Ok(tree),
            Self::Later(path) => open(&path),
        }
    }
}

/// What was built, and is to become the root.
pub(crate) struct Built<'a> {
    spec: &'a Spec,
    root: Root,
    proc: OwnedFd,
    view: View,
}

/// The master and the slave side of a terminal.
pub(crate) type Terminal = (OwnedFd, OwnedFd);

/// How the root is to be built beyond what the Spec says.
#[derive(Clone, Copy)]
pub(crate) struct BuildOptions {
    /// Open a terminal in the container's own devpts.
    pub(crate) terminal: bool,
}

/// Under which circumstances a root is made ready.
#[derive(Clone, Copy)]
pub(crate) struct Circumstances<'a> {
    /// The container is in a user namespace, be it its own or the caller's: device nodes cannot be made there.
    pub(crate) in_user_namespace: bool,
    /// A root that is a folder is found at the folder's path while it is built, for others to look at.
    pub(crate) in_its_place: bool,
    /// Where the Spec came from: what it names by a relative path lies there.
    pub(crate) bundle: Option<&'a Path>,
    /// Whose ids the owners of files in read-only layers are, where they are not the caller's own.
    pub(crate) owners: Option<&'a Mapping>,
}

impl<'a> Prepared<'a> {
    /// Opens the root and the sources of bind mounts.
    pub(crate) fn new(spec: &'a Spec, rootfs: &Rootfs, circumstances: Circumstances<'_>) -> Result<Self> {
        let Circumstances { in_user_namespace, in_its_place, bundle, owners } = circumstances;
        let root = match rootfs {
            Rootfs::Overlay(plan) => Tree::Open(match owners {
                Some(owners) => layerfs::mount::overlay_with_owners(plan, owners)?,
                None => layerfs::mount::mount_layers(plan)?,
            }),
            Rootfs::Path(path) => Tree::new(spec, path, open_root)?,
        };
        sysctl::check(spec)?;
        let count = spec.mounts().as_ref().map_or(0, Vec::len);
        if count > MOUNTS_MAX {
            return Err(Error::new(Kind::Limit, format!("the Spec has {count} mounts, more than {MOUNTS_MAX}")));
        }
        // Without SELinux a label of it means nothing, and no file system takes one.
        let label = spec.linux().as_ref().and_then(|linux| linux.mount_label().as_deref());
        let label = label.filter(|label| !label.is_empty() && Path::new("/sys/fs/selinux/enforce").exists());
        let view = View::of(spec);
        // A source may lie in what an earlier mount shows, and the kernel lists mounts in the order they are made.
        let early = in_user_namespace || view == View::Shared || matches!(rootfs, Rootfs::Overlay(_));
        let mut sources = Vec::new();
        for mount in spec.mounts().iter().flatten() {
            let mut options = MountOptions::parse(mount.options().as_deref().unwrap_or_default());
            if let (Some(label), Some("tmpfs" | "devpts" | "mqueue" | "ramfs")) = (label, mount.typ().as_deref()) {
                options.data.push(("context".to_owned(), Some(label.to_owned())));
            }
            let bind = options.bind.or((mount.typ().as_deref() == Some("bind")).then_some(Bind::Single));
            let is_mapped = |maps: &Option<Vec<_>>| maps.as_ref().is_some_and(|maps| !maps.is_empty());
            let by_fields = is_mapped(mount.uid_mappings()) || is_mapped(mount.gid_mappings());
            let mapped = by_fields || options.idmap.is_some();
            let source = match bind {
                None => None,
                Some(bind) => {
                    let path = source_of(mount, bundle)?;
                    // From within a user namespace it could not be reached, or not be mapped; what processes and
                    // descriptors lead to is known before the clone only, and so is what spreads to the host.
                    let spreads = wants(mount, "shared") && is_shared(spec);
                    let early = early || mapped || spreads || path.starts_with("/proc") || holds_root(rootfs, &path);
                    match early {
                        false => Some(Tree::Later(path)),
                        true => Some(Tree::new(spec, &path, |path| open_source(mount, bind, path))?),
                    }
                }
            };
            if let Some(idmap) = options.idmap.clone().or_else(|| by_fields.then(IdMap::default)) {
                let said = || format!("mount `{}`", mount.destination().display());
                let no_bind = || Error::new(Kind::Unsupported, "only the ids of bind mounts are mapped");
                match source.as_ref().ok_or_else(no_bind).context(said)? {
                    Tree::Open(tree) => idmap::apply(spec, mount, &idmap, tree.as_fd()).context(said)?,
                    Tree::Later(_) => {
                        let sentence = format!("{}: only root may map ids", said());
                        return Err(Error::new(Kind::Unsupported, sentence));
                    }
                }
            }
            sources.push((mount, options, source));
        }
        let devices = if in_user_namespace { devices::Way::BindFromHost } else { devices::Way::Make };
        let place = match rootfs {
            Rootfs::Path(path) if in_its_place || !early || view == View::Shared => path.clone(),
            _ => PathBuf::from("/"),
        };
        Ok(Self { spec, root, sources, devices, place, view })
    }

    /// Builds the view, and opens the terminal where one is asked for. Runs in new namespaces, before privileges are
    /// given up. `note` receives what went another way than asked.
    pub(crate) fn build(
        self,
        options: BuildOptions,
        note: &mut dyn FnMut(String),
    ) -> Result<(Built<'a>, Option<Terminal>)> {
        rustix::process::umask(Mode::empty());
        let linux = self.spec.linux().as_ref();
        let outer = match linux.and_then(|linux| linux.rootfs_propagation().as_deref()) {
            Some(name) if options::root_propagation(name)? != options::private() => options::slave(),
            _ => options::private(),
        };
        if self.view == View::Own {
            // What is to follow the host's mounts is copied from here.
            let follows = self.sources.iter().any(|(mount, _, source)| source.is_some() && wants(mount, "slave"));
            let outer = if follows { options::slave() } else { outer };
            set_whole_propagation(outer).context(|| "cut the mount namespace off from the host's")?;
        }

        let root = self.root.open(open_root)?;
        // At its own path, where others look for it; or over "/", where no folder on the host is needed: no path lookup
        // of this process ends there, since a lookup starts below it. Either way the mount goes with the old root.
        move_mount(&root, "", CWD, &self.place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .context(|| "attach the root")?;
        // A copy of a mount is its peer, and on most machines the original is shared: `pivot_root` takes no such root.
        let attributes = MountAttributes { propagation: outer, ..MountAttributes::default() };
        set_attributes(root.as_fd(), &attributes, true).context(|| "cut the root off from its original")?;
        let root = Root::new(root);

        let mut proc = None;
        let mut full_dev = None;
        let host_dev = self.sources.iter().any(|(mount, _, source)| file_system::is_dev(mount) && source.is_some());
        for (mount, options, source) in self.sources {
            let bind = options.bind.unwrap_or(Bind::Single);
            let source = source.map(|tree| tree.open(|path| open_source(mount, bind, path))).transpose()?;
            let fd = place(self.spec, &root, mount, &options, source, note)
                .context(|| format!("mount `{}`", mount.destination().display()))?;
            if mount.typ().as_deref() == Some("proc") && mount.destination() == Path::new("/proc") {
                proc = fd;
            } else if file_system::is_dev(mount) && options.read_only() {
                full_dev = fd;
            }
        }
        let proc = match proc {
            Some(proc) => proc,
            None => host_proc()?,
        };
        if !host_dev {
            devices::populate(&root, linux, self.devices)?;
        }
        let terminal = options.terminal.then(|| terminal::open(&root)).transpose()?;
        if let Some((_, slave)) = &terminal {
            terminal::bind_console(&root, slave.as_fd())?;
        }
        if let Some(dev) = full_dev {
            layerfs::sys::mount::set_read_only(dev.as_fd()).context(|| "make `/dev` read-only")?;
        }
        Ok((Built { spec: self.spec, root, proc, view: self.view }, terminal))
    }
}

impl Built<'_> {
    /// Makes the root this process's working folder, for hooks to begin in.
    pub(crate) fn look_in(&self) -> Result<()> {
        rustix::process::fchdir(self.root.as_fd()).context(|| "enter the root")
    }

    /// Hides what is to be hidden, and makes the view this process's root.
    pub(crate) fn enter(self) -> Result<()> {
        let Self { spec, root, proc, view } = self;
        let linux = spec.linux().as_ref();
        sysctl::write(spec, proc.as_fd())?;
        if let Some(process) = spec.process().as_ref() {
            ensure_working_folder(&root, process.cwd());
        }
        if let Some(linux) = linux {
            hide::make_read_only(&root, linux.readonly_paths().as_deref().unwrap_or_default())?;
            hide::mask(&root, linux.masked_paths().as_deref().unwrap_or_default())?;
        }
        if spec.root().as_ref().and_then(|root| root.readonly()) == Some(true) {
            layerfs::sys::mount::set_read_only(root.as_fd()).context(|| "make the root read-only")?;
        }
        if view == View::Shared {
            // The root of a namespace is its others' too.
            rustix::process::fchdir(root.as_fd()).context(|| "enter the root")?;
            return rustix::process::chroot(".").context(|| "make the container's root the root (chroot)");
        }
        enter(&root)?;
        if let Some(name) = linux.and_then(|linux| linux.rootfs_propagation().as_deref()) {
            let propagation = options::root_propagation(name)?;
            set_whole_propagation(propagation).context(|| "set linux.rootfsPropagation")?;
        }
        Ok(())
    }
}

/// A detached copy of the mount at `path`.
fn clone_tree(path: &Path, recursive: bool) -> std::result::Result<OwnedFd, rustix::io::Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    open_tree(CWD, path, flags)
}

/// A detached copy of the mount that an open file lies in, rooted at that file.
fn clone_mount_of(fd: BorrowedFd<'_>, recursive: bool) -> std::result::Result<OwnedFd, rustix::io::Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    open_tree(fd, "", flags)
}

/// Attaches a detached mount onto an open file or folder.
fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> std::result::Result<(), rustix::io::Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
}

/// A copy of the root, attached nowhere.
fn open_root(path: &Path) -> Result<OwnedFd> {
    clone_tree(path, true).at("open the root", path)
}

/// Where a bind mount comes from.
fn source_of(mount: &Mount, bundle: Option<&Path>) -> Result<PathBuf> {
    let destination = mount.destination().display();
    let source = mount
        .source()
        .as_ref()
        .ok_or_else(|| Error::new(Kind::Invalid, format!("bind mount `{destination}` has no source")))?;
    Ok(bundle.map_or_else(|| source.clone(), |bundle| bundle.join(source)))
}

/// Whether it asks for a propagation, in either spelling.
fn wants(mount: &Mount, propagation: &str) -> bool {
    mount.options().iter().flatten().any(|option| option.strip_prefix('r').unwrap_or(option) == propagation)
}

/// Whether what is mounted in the container is to appear outside.
fn is_shared(spec: &Spec) -> bool {
    let linux = spec.linux().as_ref();
    linux.and_then(|linux| linux.rootfs_propagation().as_deref()).is_some_and(|name| name.ends_with("shared"))
}

/// Whether a folder has the root somewhere below it: a copy of it that is made later would show the container itself.
fn holds_root(rootfs: &Rootfs, folder: &Path) -> bool {
    matches!(rootfs, Rootfs::Path(root) if root.starts_with(folder))
}

/// The source of a bind mount as a detached mount, cut off from the host's mounts unless it asks otherwise.
fn open_source(mount: &Mount, bind: Bind, source: &Path) -> Result<OwnedFd> {
    let destination = mount.destination().display();
    let said = || format!("mount `{}` on `{destination}`", source.display());
    let tree = match (clone_tree(source, bind == Bind::Recursive), elsewhere::parse(source)) {
        (Err(Errno::INVAL), Some(place)) => elsewhere::clone_from(place).context(said)?,
        (cloned, _) => cloned.context(said)?,
    };
    let propagation = match (wants(mount, "slave"), wants(mount, "shared")) {
        (true, _) => options::slave(),
        (false, true) => return Ok(tree),
        (false, false) => options::private(),
    };
    set_attributes(tree.as_fd(), &MountAttributes { propagation, ..MountAttributes::default() }, true)
        .context(|| format!("cut `{}` off from the host's mounts", source.display()))?;
    Ok(tree)
}

/// Carries out one mount of the Spec.
fn place(
    spec: &Spec,
    root: &Root,
    mount: &Mount,
    options: &MountOptions,
    source: Option<OwnedFd>,
    note: &mut dyn FnMut(String),
) -> Result<Option<OwnedFd>> {
    let destination = mount.destination();
    if let Some(source) = source {
        let target = match file_type(source.as_fd()) {
            FileType::Directory => root.ensure_dir(destination)?,
            _ => root.ensure_file(destination)?,
        };
        if options.copy_up {
            // An empty volume begins with what the image has there.
            copy_up::fill(target.as_fd(), source.as_fd())?;
        }
        set_mount_attributes(source.as_fd(), options)?;
        attach(source.as_fd(), target.as_fd()).context(|| "attach it")?;
        set_mount_propagation(source.as_fd(), options)?;
        return Ok(None);
    }
    let new_network = namespace_is_new(spec, LinuxNamespaceType::Network);
    let attached = match mount.typ().as_deref().unwrap_or("none") {
        kind @ ("cgroup" | "cgroup2") => {
            let own = namespace_is_new(spec, LinuxNamespaceType::Cgroup);
            control_groups::mount(root, destination, kind, options, own, note)?
        }
        kind @ ("proc" | "sysfs") => {
            let target = root.ensure_plain_dir(destination)?;
            let fs = file_system::make(kind, mount, options, None)
                .or_else(|error| file_system::outer_instead(kind, error, new_network, options, note))?;
            attach(fs.as_fd(), target.as_fd()).context(|| "attach it")?;
            fs
        }
        kind => {
            // A tmpfs takes the mode of the folder it covers, as with crun and runc: over /tmp everybody may write.
            let wants_mode = kind == "tmpfs" && !options.data.iter().any(|(key, _)| key == "mode");
            let covered = if wants_mode { root.find(destination).ok() } else { None };
            let target = root.ensure_dir(destination)?;
            let mode = covered.and_then(|covered| fstat(covered).ok()).map(|stat| stat.st_mode & 0o7777);
            let fs = file_system::make(kind, mount, options, mode)?;
            if options.copy_up {
                copy_up::fill(target.as_fd(), fs.as_fd())?;
                if options.read_only() {
                    layerfs::sys::mount::set_read_only(fs.as_fd()).context(|| "make it read-only")?;
                }
            }
            attach(fs.as_fd(), target.as_fd()).context(|| "attach it")?;
            fs
        }
    };
    set_mount_propagation(attached.as_fd(), options)?;
    Ok(Some(attached))
}

/// Whether the Spec lists a namespace, new or not.
pub(crate) fn has_namespace(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.into_iter().flatten().any(|namespace| namespace.typ() == kind)
}

/// Whether the Spec asks for a namespace of its own.
pub(crate) fn namespace_is_new(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.into_iter().flatten().any(|namespace| namespace.typ() == kind && namespace.path().is_none())
}

fn set_mount_attributes(tree: BorrowedFd<'_>, options: &MountOptions) -> Result<()> {
    for (attributes, recursive) in [(options.recursive, true), (options.own, false)] {
        if attributes.is_empty() {
            continue;
        }
        let Attributes { set, clear } = options::for_kernel(attributes);
        set_attributes(tree, &MountAttributes { set, clear, ..MountAttributes::default() }, recursive)
            .context(|| "set its mount options")?;
    }
    Ok(())
}

fn set_mount_propagation(tree: BorrowedFd<'_>, options: &MountOptions) -> Result<()> {
    let Some(propagation) = options.propagation else { return Ok(()) };
    let attributes = MountAttributes { propagation: propagation.kind, ..MountAttributes::default() };
    set_attributes(tree, &attributes, propagation.recursive).context(|| "set its propagation")
}

/// Sets how mounts below this process's root appear elsewhere.
fn set_whole_propagation(kind: u64) -> Result<()> {
    let top = layerfs::sys::fs::open_dir(Path::new("/")).at("open", "/")?;
    let attributes = MountAttributes { propagation: kind, ..MountAttributes::default() };
    set_attributes(top.as_fd(), &attributes, true).context(|| "set the propagation of `/`")
}

/// A terminal in the devpts of the mount namespace this process is in.
pub(crate) fn terminal_here() -> Result<Terminal> {
    terminal::open(&Root::new(layerfs::sys::fs::open_dir(Path::new("/")).at("open", "/")?))
}

/// The procfs at `/proc`, verified to be one.
pub(crate) fn host_proc() -> Result<OwnedFd> {
    let proc = layerfs::sys::fs::open_dir(Path::new("/proc")).at("open", "/proc")?;
    verify_proc(proc.as_fd())?;
    Ok(proc)
}

fn verify_proc(fd: BorrowedFd<'_>) -> Result<()> {
    /// `PROC_SUPER_MAGIC`
    const MAGIC: u64 = 0x9fa0;
    let found = rustix::fs::fstatfs(fd).context(|| "look at `/proc`")?;
    if found.f_type as u64 == MAGIC {
        return Ok(());
    }
    Err(Error::new(Kind::Denied, "`/proc` is not a proc file system"))
}

/// Writes `value` to a file of a procfs, never through a magic link and never into what is mounted over it.
pub(crate) fn write_proc_of(proc: BorrowedFd<'_>, path: &str, value: &str) -> Result<()> {
    use rustix::fs::ResolveFlags;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(proc, path, flags, Mode::empty(), resolve).at("open", format!("/proc/{path}"))?;
    verify_proc(file.as_fd())?;
    rustix::io::write(&file, value.as_bytes()).context(|| format!("write `{value}` to `/proc/{path}`"))?;
    Ok(())
}

/// Makes the working folder where the image has none, as engines do. A root that refuses shows when it is entered.
fn ensure_working_folder(root: &Root, path: &Path) {
    let _ = root.ensure_dir(path);
}

/// Makes `root` this process's root and lets go of the old one.
fn enter(root: &Root) -> Result<()> {
    let old = layerfs::sys::fs::open_dir(Path::new("/")).at("open", "/")?;
    rustix::process::fchdir(root.as_fd()).context(|| "enter the root")?;
    rustix::process::pivot_root(".", ".")
        .context(|| "make the container's root the root (pivot_root)")
        .map_err(|e| e.hint("the program's own root must be a mount: it cannot be an initramfs or a chroot folder"))?;
    // The old root is now mounted over the new one; what happens to it must not spread to the host.
    rustix::process::fchdir(&old).context(|| "go back to the old root")?;
    let attributes = MountAttributes { propagation: options::slave(), ..MountAttributes::default() };
    set_attributes(old.as_fd(), &attributes, true).context(|| "cut the old root off")?;
    unmount(".", UnmountFlags::DETACH).context(|| "let go of the old root")?;
    rustix::process::chdir("/").context(|| "enter the root")
}
