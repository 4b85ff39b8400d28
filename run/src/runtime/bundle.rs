//! A bundle: a folder with `config.json`, read and made ready for the launcher.

use std::fs;
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::userns::Mapping;
use oci_spec::runtime::{LinuxNamespaceType, Mount, Process, Spec};

use super::arguments::{CgroupManager, Create, Handles};
use super::{in_engines_words, warn};
use crate::cgroup::{self, Presence, Request, Unit};
use crate::launch::{Created, Identity, Io, Launch, Rootfs, create};
use crate::seal;

/// Largest `config.json` that is read, in bytes.
const CONFIG_MAX: u64 = 16 << 20;

/// A bundle, and what was decided about it.
#[derive(Debug)]
pub(super) struct Bundle {
    /// The container's id, and the folder: absolute.
    pub(super) identity: Identity,
    /// What it says.
    pub(super) spec: Spec,
    /// Where its processes are counted.
    pub(super) cgroup: cgroup::Plan,
    /// Its root, absolute.
    pub(super) root: PathBuf,
    /// How many descriptors from 3 on it inherits.
    pub(super) preserve_fds: u32,
}

impl Bundle {
    /// Reads the bundle of a container that is to be made.
    pub(super) fn read(create: &Create) -> Result<Self> {
        let folder = fs::canonicalize(&create.bundle).at("open bundle", &create.bundle)?;
        let mut spec = read_spec(&folder.join(&create.config))?;
        if shares_folders(&spec, &folder) {
            seal::ensure()?;
        }
        let root = spec.root().as_ref().map(|root| folder.join(root.path()));
        let root =
            root.ok_or_else(|| Error::new(Kind::Invalid, format!("`{}` names no root", create.config.display())))?;
        // Older tools spell what lies in the root by the host's path of it, and crun and runc take that.
        for mount in spec.mounts_mut().iter_mut().flatten() {
            if let Ok(inner) = mount.destination().strip_prefix(&root).map(Path::to_owned) {
                mount.set_destination(Path::new("/").join(inner));
            }
        }
        let id = create.id.id.clone();
        let preserve_fds = match spec.process_mut() {
            Some(process) => pass_on_sockets(process, &create.handles)?,
            None => 0,
        };
        let cgroup = cgroup::Plan::none();
        Ok(Self { identity: Identity { id, bundle: folder }, spec, cgroup, root, preserve_fds })
    }

    /// Decides where it is counted: what belongs to nobody else once the id is claimed.
    pub(super) fn place(&mut self, cgroups: CgroupManager) -> Result<()> {
        self.cgroup = plan(&self.spec, &self.identity.id, cgroups)?;
        Ok(())
    }

    /// Whether its first process begins a pid namespace.
    pub(super) fn has_own_pid_namespace(&self) -> bool {
        let namespaces = self.spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        namespaces.into_iter().flatten().any(|namespace| {
            namespace.typ() == LinuxNamespaceType::Pid
                && namespace.path().as_ref().is_none_or(|path| path.as_os_str().is_empty())
        })
    }

    /// The program's name.
    pub(super) fn program(&self) -> &str {
        let args = self.spec.process().as_ref().and_then(|process| process.args().as_deref());
        args.and_then(<[String]>::first).map_or("", String::as_str)
    }

    /// Whether its process wants a terminal.
    pub(super) fn has_terminal(&self) -> bool {
        self.spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false)
    }

    /// The size its terminal begins with: columns and rows.
    pub(super) fn terminal_size(&self) -> (u16, u16) {
        self.spec.process().as_ref().map_or(DEFAULT_SIZE, terminal_size)
    }

    /// Makes the container.
    pub(super) fn launch(&self, io: Io, dies_with_parent: bool) -> Result<Created> {
        let launch = Launch::new(&self.spec, Rootfs::Path(self.root.clone()), io, self.cgroup.clone());
        let launch =
            Launch { preserve_fds: self.preserve_fds, dies_with_parent, identity: Some(&self.identity), ..launch };
        create(launch).map_err(|error| in_engines_words(error, self.program()))
    }
}

/// Columns and rows of a terminal whose size nobody says.
const DEFAULT_SIZE: (u16, u16) = (80, 24);

/// Columns and rows that a process's terminal begins with.
pub(super) fn terminal_size(process: &Process) -> (u16, u16) {
    let clip = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
    process.console_size().map_or(DEFAULT_SIZE, |size| (clip(size.width()), clip(size.height())))
}

/// Reads a `config.json`.
pub(super) fn read_spec(path: &Path) -> Result<Spec> {
    let size = fs::metadata(path).at("open", path)?.len();
    if size > CONFIG_MAX {
        return Err(Error::new(Kind::Limit, format!("`{}` has {size} bytes", path.display())));
    }
    crate::spec::read(&fs::read(path).at("read", path)?, &mut |note| warn(&note)).at("read", path)
}

/// Whether the container has a folder of the host that it and others may write to.
fn shares_folders(spec: &Spec, bundle: &Path) -> bool {
    let has =
        |mount: &Mount, words: &[&str]| mount.options().iter().flatten().any(|option| words.contains(&option.as_str()));
    spec.mounts().iter().flatten().any(|mount| {
        let is_bind = mount.typ().as_deref() == Some("bind") || has(mount, &["bind", "rbind"]);
        let is_folder = || mount.source().as_ref().is_some_and(|source| bundle.join(source).is_dir());
        is_bind && !has(mount, &["ro", "rro"]) && is_folder()
    })
}

/// Where the container is counted, and what it may use.
fn plan(spec: &Spec, id: &str, cgroups: CgroupManager) -> Result<cgroup::Plan> {
    let linux = spec.linux().as_ref();
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let path = linux.and_then(|linux| linux.cgroups_path().as_deref()).filter(|path| !path.as_os_str().is_empty());
    let unit = match cgroups {
        CgroupManager::Disabled => return Ok(cgroup::Plan::none()),
        CgroupManager::Cgroupfs => None,
        CgroupManager::Systemd => {
            let user = !Mapping::current()?.is_host() || !rustix::process::geteuid().is_root();
            Some(Unit::of(path, id, user)?.with_annotations(spec.annotations().iter().flatten()))
        }
    };
    // By its id alone, as with crun and runc: so it is looked for.
    let name = path.unwrap_or(Path::new(id));
    cgroup::plan_for(&Request { resources, name, presence: Presence::Everywhere, unit })
}

/// How many descriptors from 3 on a process inherits: those that the caller was itself given by socket activation
/// (sd_listen_fds(3)), which it hears of in the same words, and those that were asked for.
pub(super) fn pass_on_sockets(process: &mut Process, handles: &Handles) -> Result<u32> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    let activated = match (number("LISTEN_FDS"), number("LISTEN_PID")) {
        (Some(count), Some(pid)) if pid == std::process::id() => count,
        // conmon does not name the process that it has not started yet.
        (Some(count), None) => count,
        _ => 0,
    };
    if activated > 0 {
        let mut environment = process.env().clone().unwrap_or_default();
        environment.extend([format!("LISTEN_FDS={activated}"), "LISTEN_PID=1".to_owned()]);
        process.set_env(Some(environment));
    }
    activated
        .checked_add(handles.preserve_fds)
        .ok_or_else(|| Error::new(Kind::Usage, "--preserve-fds and LISTEN_FDS name more descriptors than there can be"))
}
