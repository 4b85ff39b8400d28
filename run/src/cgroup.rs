//! Control groups: what a container may use, what it uses, and a way to stop or kill all of it.
//!
//! [`plan`] looks at the machine and says what will be done, before anything starts: a limit that cannot be applied
//! is an error there, with the controller and the fix. The launcher carries the plan out, [`Cgroup::destroy`] takes it
//! back. Where nothing is limited and no cgroup may be written, the plan is empty and the container starts all the same.
//!
//! All three worlds are served: cgroup v1, v2, and both at once. No systemd and no D-Bus are needed: the cgroup this
//! process is in, or one above it that was delegated, is where containers go. Where an engine leaves its cgroups to
//! systemd, [`Request::unit`] has the same folders made by way of a transient scope.

mod below;
mod dbus;
mod delegation;
mod device_filter;
mod freezer;
pub(crate) mod hierarchy;
mod oom;
mod remove;
mod settings;
mod stats;
mod systemd;
mod update;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::fs::read_kernel_file;
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use delegation::Needs;
use hierarchy::{Hierarchy, Version};
use settings::{Group, Setting};

pub use below::Below;
pub use oom::OomWatch;
pub use stats::{Io as IoStats, Stats};
pub use systemd::Unit;

/// What a container asks for.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Its limits.
    pub resources: Option<&'a LinuxResources>,
    /// A path below the cgroup that is found suitable; an absolute one is a path below the root of each hierarchy, as
    /// `linux.cgroupsPath`. Not looked at where there is a unit.
    pub name: &'a Path,
    /// Where it gets folders.
    pub presence: Presence,
    /// The scope that systemd is to make.
    pub unit: Option<Unit>,
}

/// In which hierarchies a container gets a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Where something is limited, and on v2 for a handle to kill by.
    Limited,
    /// In each that may be written, so that all is counted and the container can be paused on v1, too.
    Everywhere,
}

/// What will be done.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    folders: Vec<Folder>,
    /// A cgroup whose processes move into a folder of their own, so that it may have folders with controllers.
    evacuate: Option<PathBuf>,
    unit: Option<(Unit, Vec<systemd::Property>)>,
    notes: Vec<String>,
}

/// One folder of a container.
#[derive(Clone, Debug)]
struct Folder {
    version: Version,
    /// Where the hierarchy is mounted.
    mount: PathBuf,
    /// v1: what the hierarchy controls, or its name.
    controllers: Vec<String>,
    path: PathBuf,
    /// v2: controllers to hand down along the way.
    steps: Vec<delegation::Step>,
    settings: Vec<Setting>,
    device_filter: Option<Vec<u64>>,
}

/// Decides where a container's cgroup goes and what is written there: [`plan_for`], with folders only where something
/// is limited.
///
/// # Errors
/// Those of [`plan_for`].
pub fn plan(resources: Option<&LinuxResources>, name: &Path) -> Result<Plan> {
    plan_for(&Request { resources, name, presence: Presence::Limited, unit: None })
}

/// Decides where a container's cgroup goes and what is written there.
///
/// # Errors
/// A limit cannot be applied: [`Kind::Unsupported`], naming the controller, with the fix as the hint. A value makes no
/// sense: [`Kind::Invalid`]. The cgroup is in use: [`Kind::Conflict`].
pub fn plan_for(request: &Request<'_>) -> Result<Plan> {
    let resources = request.resources.map(settings::without_zeros);
    let request = Request { resources: resources.as_ref(), ..request.clone() };
    plan_on(&hierarchy::probe()?, &request, layerfs::userns::Mapping::current()?.is_host())
}

fn plan_on(hierarchies: &[Hierarchy], request: &Request<'_>, real_root: bool) -> Result<Plan> {
    let mut plan = Plan::default();
    let unified = hierarchies.iter().find(|h| h.version == Version::V2);
    let mut limited: Vec<Group> = Group::ALL.into_iter().filter(|group| group.is_limited(request.resources)).collect();
    // Device nodes cannot be made in a user namespace, and rules about them cannot be set from there either.
    limited.retain(|group| *group != Group::Devices || real_root);
    for hierarchy in hierarchies.iter().filter(|hierarchy| hierarchy.version == Version::V1) {
        let (here, elsewhere) = limited.into_iter().partition(|group| hierarchy.controls(group.v1_name()));
        limited = elsewhere;
        if let Some(folder) = on_v1(hierarchy, request, &here, &mut plan.notes)? {
            plan.folders.push(folder);
        }
    }
    if let Some(group) =
        limited.iter().find(|group| !unified.is_some_and(|unified| delegation::offers(unified, **group)))
        && *group != Group::Devices
    {
        return Err(not_there(*group, unified.is_some()));
    }
    if let Some(unified) = unified
        && let Some(folder) = on_v2(unified, request, &limited, real_root, &mut plan.evacuate)?
    {
        plan.folders.push(folder);
    }
    if let Some(unit) = &request.unit {
        let properties = systemd::properties(request.resources, hierarchy::is_unified(hierarchies))?;
        plan.unit = Some((unit.clone(), properties));
    }
    Ok(plan)
}

fn on_v1(
    hierarchy: &Hierarchy,
    request: &Request<'_>,
    groups: &[Group],
    notes: &mut Vec<String>,
) -> Result<Option<Folder>> {
    let named = request.unit.as_ref().map_or_else(|| request.name.to_owned(), |unit| unit.folder());
    let base = if named.is_absolute() { &hierarchy.mount } else { &hierarchy.own };
    let path = base.join(named.strip_prefix("/").unwrap_or(&named));
    // The closest folder that is there already is where the first new one is made.
    let existing = path.ancestors().find(|folder| folder.is_dir()).unwrap_or(base);
    if existing == path && request.unit.is_none() {
        remove::refuse_in_use(&path)?;
    }
    let writable = rustix::fs::access(existing, rustix::fs::Access::WRITE_OK).is_ok();
    let mut folder = Folder {
        version: Version::V1,
        mount: hierarchy.mount.clone(),
        controllers: hierarchy.controllers.clone(),
        path: path.clone(),
        steps: Vec::new(),
        settings: Vec::new(),
        device_filter: None,
    };
    let mut wanted = request.presence == Presence::Everywhere && writable;
    for group in groups {
        let settings = settings::v1(*group, request.resources)?;
        match possible_on_v1(existing, writable, *group, &settings, existing == hierarchy.mount) {
            Ok(()) => {
                folder.settings.extend(settings);
                wanted = true;
            }
            // Rules about devices are the engine's wish, not the user's: without them a container still starts.
            Err(error) if *group == Group::Devices => notes.push(error.chain()),
            Err(error) => return Err(error),
        }
    }
    Ok(wanted.then_some(folder))
}

fn possible_on_v1(existing: &Path, writable: bool, group: Group, settings: &[Setting], is_top: bool) -> Result<()> {
    if !writable {
        let sentence = format!("{} cannot be limited: `{}` is not writable", group.subject(), existing.display());
        return Err(Error::new(
            Kind::Unsupported,
            format!("{sentence} (controller `{}` of cgroup v1)", group.v1_name()),
        )
        .hint(
            "cgroup v1 is root's: run as root, leave the limit out, or boot with systemd.unified_cgroup_hierarchy=1",
        ));
    }
    // The topmost folder does not have all files.
    if is_top {
        return Ok(());
    }
    // A file that the kernel was built without shows in the folder above already.
    let is_there = |setting: &Setting| setting.names().any(|name| existing.join(name).exists());
    match settings.iter().find(|setting| !setting.optional && !is_there(setting)) {
        Some(setting) => Err(settings::missing_file(group, setting)),
        None => Ok(()),
    }
}

fn on_v2(
    unified: &Hierarchy,
    request: &Request<'_>,
    groups: &[Group],
    real_root: bool,
    evacuate: &mut Option<PathBuf>,
) -> Result<Option<Folder>> {
    let resources = request.resources;
    let mut settings = Vec::new();
    for group in groups {
        settings.extend(settings::v2(*group, resources, &unified.own)?);
    }
    let rules = resources.filter(|_| real_root && groups.contains(&Group::Devices));
    let device_filter = rules.map(|rules| device_filter::compile(&settings::device_rules(rules))).transpose()?;
    let mount = unified.mount.clone();
    let folder = |path, steps| Folder {
        version: Version::V2,
        mount,
        controllers: Vec::new(),
        path,
        steps,
        settings,
        device_filter,
    };
    if let Some(unit) = &request.unit {
        // systemd hands controllers down to what it delegates.
        return Ok(Some(folder(
            unit.base(unified).join(unit.folder().strip_prefix("/").unwrap_or(Path::new(""))),
            Vec::new(),
        )));
    }
    let needs = Needs::of(unified, groups, resources, request.presence)?;
    match delegation::choose(unified, request.name, &needs, real_root) {
        Ok(choice) => {
            if choice.path.is_dir() {
                remove::refuse_in_use(&choice.path)?;
            }
            *evacuate = choice.evacuate;
            Ok(Some(folder(choice.path, choice.steps)))
        }
        // Nothing is asked of it: it would only have been a handle to kill by.
        Err(_) if groups.is_empty() => Ok(None),
        Err(error) => Err(error),
    }
}

fn not_there(group: Group, unified: bool) -> Error {
    let name = if unified { group.v2_name() } else { group.v1_name() };
    let error = Error::new(
        Kind::Unsupported,
        format!("{} cannot be limited: the cgroup controller `{name}` is not available", group.subject()),
    );
    match group {
        Group::Unified => {
            Error::new(Kind::Invalid, "invalid configuration: linux.resources.unified names files of cgroup v2")
                .hint("this machine has the controllers on v1: leave the field out")
        }
        Group::Memory => error.hint("boot with cgroup_enable=memory, or leave the limit out"),
        _ => error.hint(format!("mount it below {}, or leave the limit out", hierarchy::MOUNT_ROOT)),
    }
}

impl Plan {
    /// No cgroup at all.
    pub const fn none() -> Self {
        Self { folders: Vec::new(), evacuate: None, unit: None, notes: Vec::new() }
    }

    /// What the user should know about what will not be done.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What [`crate::launch::create`] will make of it: to be written down first, so that whoever comes after a crash
    /// knows what to remove.
    pub fn cgroup(&self) -> Cgroup {
        let mut cgroup = Cgroup { unit: self.unit.as_ref().map(|(unit, _)| unit.clone()), ..Cgroup::none() };
        for folder in &self.folders {
            match folder.version {
                Version::V2 => cgroup.v2 = Some(folder.path.clone()),
                Version::V1 => {
                    cgroup.v1.extend(folder.controllers.iter().map(|name| (name.clone(), folder.path.clone())));
                }
            }
        }
        cgroup
    }

    /// Makes the folders, writes the limits, opens what the container joins by. What was made goes again where a
    /// later step fails.
    pub(crate) fn apply(mut self) -> Result<(Cgroup, Placement)> {
        if let Some(full) = &self.evacuate {
            delegation::evacuate(full)?;
        }
        let made = (|| {
            let mut placement = Placement::default();
            if let Some((unit, properties)) = &self.unit {
                let placeholder = systemd::start(unit, properties)?;
                // Where that is, is systemd's to say: a user's has a part of the hierarchy only.
                for (controllers, path) in hierarchy::memberships(placeholder.pid())? {
                    let made = self.folders.iter_mut().filter(|folder| folder.controllers == controllers);
                    made.filter(|_| unit.is_at(&path)).for_each(|folder| {
                        folder.path = folder.mount.join(path.trim_start_matches('/'));
                    });
                }
                placement.placeholder = Some(placeholder);
            }
            self.folders.iter().try_fold(placement, |placement, folder| folder.make(placement))
        })();
        let cgroup = self.cgroup();
        match made {
            Ok(placement) => Ok((cgroup, placement)),
            Err(error) => {
                // The first error is the one to tell.
                let _ = cgroup.destroy();
                Err(error)
            }
        }
    }
}

impl Folder {
    fn make(&self, mut placement: Placement) -> Result<Placement> {
        for step in &self.steps {
            step.take()?;
        }
        match self.controllers.iter().any(|name| name == "cpuset") {
            true => make_with_cpuset(&self.path)?,
            false => fs::create_dir_all(&self.path).at("make the cgroup", &self.path)?,
        }
        if self.version == Version::V2 {
            delegation::check_type(&self.path)?;
        }
        settings::write_all(&self.path, &self.settings)?;
        match self.version {
            Version::V1 => placement.v1.push(open_tasks(&self.path)?),
            Version::V2 => {
                let fd = layerfs::sys::fs::open_dir(&self.path).at("open", &self.path)?;
                if let Some(program) = &self.device_filter {
                    device_filter::attach(program, &self.path)?;
                }
                placement.v2 = Some(fd);
            }
        }
        Ok(placement)
    }
}

/// The file of v1 by which one thread moves. A thread that moves itself waits for nobody, while `cgroup.procs` takes a
/// lock on all processes' forks and exits, and that waits for a grace period of RCU: up to 15 ms.
fn open_tasks(folder: &Path) -> Result<OwnedFd> {
    let path = folder.join("tasks");
    Ok(File::options().write(true).open(&path).at("open", &path)?.into())
}

/// A folder of the v1 cpuset controller starts with no processor and no memory, and takes no process like that; one that
/// somebody else made may still be so.
fn make_with_cpuset(path: &Path) -> Result<()> {
    let is_filled = |file| read_kernel_file(path.join(file)).is_ok_and(|list| !list.trim().is_empty());
    if is_filled("cpuset.cpus") && is_filled("cpuset.mems") {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| parent.starts_with(hierarchy::MOUNT_ROOT)) {
        make_with_cpuset(parent)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => made.at("make the cgroup", path)?,
    }
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let above = path.parent().unwrap_or(path).join(file);
        let value = read_kernel_file(&above).at("read", &above)?;
        let own = path.join(file);
        write_value(&own, value.trim()).at("write", &own)?;
    }
    Ok(())
}

/// How a process gets into a cgroup.
#[derive(Debug, Default)]
pub(crate) struct Placement {
    /// The folder on v2, to be born in.
    pub(crate) v2: Option<OwnedFd>,
    /// `tasks` files of v1, to write 0 to.
    pub(crate) v1: Vec<OwnedFd>,
    /// Keeps systemd's scope alive until the container is in it.
    placeholder: Option<systemd::Placeholder>,
}

/// A container's cgroup: the folders it has. It can be written down and read again, for a later process to use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cgroup {
    /// By controller, or by the hierarchy's name where it has none. Controllers may share a folder.
    v1: BTreeMap<String, PathBuf>,
    v2: Option<PathBuf>,
    unit: Option<Unit>,
}

impl Cgroup {
    /// No cgroup.
    pub const fn none() -> Self {
        Self { v1: BTreeMap::new(), v2: None, unit: None }
    }

    /// Its folders, one for each hierarchy it has something in; that of v2 comes last.
    pub fn folders(&self) -> Vec<&Path> {
        let mut folders: Vec<&Path> = self.v1.values().chain(&self.v2).map(PathBuf::as_path).collect();
        folders.dedup();
        folders
    }

    /// The folder where a controller of v1 is, and its name on v2 where that has it: which file to read or write.
    fn controller(&self, v1: &str, v2: &str) -> Option<Controlled<'_>> {
        if let Some(folder) = self.v1.get(v1) {
            return Some(Controlled { version: Version::V1, folder });
        }
        let folder = self.v2.as_deref()?;
        let has = fs::read_to_string(folder.join("cgroup.controllers"))
            .is_ok_and(|names| names.split_whitespace().any(|name| name == v2));
        has.then_some(Controlled { version: Version::V2, folder })
    }

    /// Opens what another process joins it by: the container's own folders, or folders `below` those. Where nobody can
    /// join its own folder it is that of its process `pid`.
    pub(crate) fn open(&self, below: &Below, pid: Option<i32>) -> Result<Placement> {
        let mut placement = Placement::default();
        for folder in below.folders(&self.v1)? {
            placement.v1.push(open_tasks(&folder)?);
        }
        if let Some(folder) = &self.v2 {
            let inner = if below.is_own() { pid.and_then(|pid| self.inner_folder(pid)) } else { None };
            let folder = folder.join(inner.as_deref().unwrap_or(below.everywhere()));
            placement.v2 = Some(layerfs::sys::fs::open_dir(&folder).at("open the cgroup", &folder)?);
        }
        Ok(placement)
    }

    /// The folder below its own on v2 that a process of it is in, where nobody can be in its own.
    ///
    /// A container that hands controllers down has no process in its own folder any more, and nobody can join that.
    fn inner_folder(&self, pid: i32) -> Option<PathBuf> {
        let folder = self.v2.as_ref()?;
        let control = fs::read_to_string(folder.join("cgroup.subtree_control")).ok()?;
        if control.trim().is_empty() {
            return None;
        }
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
        // The mount's root may lie above or below what the path counts from, so the container's own name anchors it.
        let own = folder.file_name()?;
        let mut parts = Path::new(path).iter().skip_while(|part| *part != own);
        parts.next()?;
        Some(parts.collect())
    }
}

/// A controller's folder.
struct Controlled<'a> {
    version: Version,
    folder: &'a Path,
}

/// Writes a value to a cgroup's file in one call, as the kernel wants it.
fn write_value(path: &Path, value: &str) -> std::io::Result<()> {
    File::options().write(true).open(path)?.write_all(value.as_bytes())
}

#[cfg(test)]
mod tests;
