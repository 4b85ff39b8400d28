//! Control groups: what a container may use, and a way to kill all of it.
//!
//! [`plan`] looks at the machine and says what will be done, before anything starts: a limit that cannot be applied
//! is an error there, with the controller and the fix. The launcher carries the plan out, [`Cgroup::destroy`] takes it
//! back. Where nothing is limited and no cgroup may be written, the plan is empty and the container starts all the same.
//!
//! All three worlds are served: cgroup v1, v2, and both at once. No systemd and no D-Bus are needed: the cgroup this
//! process is in, or one above it that was delegated, is where containers go.

mod delegation;
mod device_filter;
pub(crate) mod hierarchy;
mod settings;

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use oci_spec::runtime::LinuxResources;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use hierarchy::{Hierarchy, Version};
use settings::{Group, Setting};

/// What will be done.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    folders: Vec<Folder>,
    /// A cgroup whose processes move into a folder of their own, so that it may have folders with controllers.
    evacuate: Option<PathBuf>,
    notes: Vec<String>,
}

/// One folder of a container.
#[derive(Clone, Debug)]
struct Folder {
    version: Version,
    path: PathBuf,
    /// v2: controllers to hand down along the way, in each folder above that does not yet.
    enable: Vec<(PathBuf, Vec<String>)>,
    /// v1 cpuset: processes and memory nodes come from above before anything can join.
    inherits_cpuset: bool,
    settings: Vec<Setting>,
    device_filter: Option<Vec<u64>>,
}

/// Decides where a container's cgroup goes and what is written there.
///
/// `name` is a path below the cgroup that is found suitable; an absolute one is a path below the root of each
/// hierarchy, as `linux.cgroupsPath`.
///
/// # Errors
/// A limit cannot be applied: [`Kind::Unsupported`], naming the controller, with the fix as the hint. A value makes no
/// sense: [`Kind::Invalid`].
pub fn plan(resources: Option<&LinuxResources>, name: &Path) -> Result<Plan> {
    plan_on(&hierarchy::probe()?, resources, name, layerfs::userns::Mapping::current()?.is_host())
}

fn plan_on(
    hierarchies: &[Hierarchy],
    resources: Option<&LinuxResources>,
    name: &Path,
    real_root: bool,
) -> Result<Plan> {
    let mut plan = Plan::default();
    let unified = hierarchies.iter().find(|h| h.version == Version::V2);
    let mut unified_settings = Vec::new();
    let mut unified_groups = Vec::new();
    for group in Group::ALL {
        let Some(resources) = resources.filter(|resources| group.is_limited(resources)) else { continue };
        // Device nodes cannot be made in a user namespace, and rules about them cannot be set from there either.
        if group == Group::Devices && !real_root {
            continue;
        }
        let v1 = hierarchies.iter().find(|h| h.controllers.iter().any(|name| name == group.v1_name()));
        if let Some(hierarchy) = v1 {
            let settings = settings::v1(group, resources)?;
            match folder_on_v1(hierarchy, group, name, settings) {
                Ok(folder) => plan.folders.push(folder),
                // Rules about devices are the engine's wish, not the user's: without them a container still starts.
                Err(error) if group == Group::Devices => plan.notes.push(error.chain()),
                Err(error) => return Err(error),
            }
        } else if let Some(unified) = unified.filter(|unified| delegation::offers(unified, group)) {
            unified_groups.push(group);
            unified_settings.extend(settings::v2(group, resources, &unified.own)?);
        } else if group != Group::Devices {
            return Err(not_there(group, unified.is_some()));
        }
    }
    if let Some(unified) = unified {
        let devices = resources.filter(|_| real_root && unified_groups.contains(&Group::Devices));
        let filter = devices.map(|resources| device_filter::compile(&settings::device_rules(resources))).transpose()?;
        match delegation::choose(unified, name, &unified_groups, real_root) {
            Ok(choice) => {
                plan.evacuate = choice.evacuate;
                plan.folders.push(Folder {
                    version: Version::V2,
                    path: choice.path,
                    enable: choice.enable,
                    inherits_cpuset: false,
                    settings: unified_settings,
                    device_filter: filter,
                });
            }
            // Nothing is asked of it: it would only have been a handle to kill by.
            Err(_) if unified_groups.is_empty() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(plan)
}

fn folder_on_v1(hierarchy: &Hierarchy, group: Group, name: &Path, settings: Vec<Setting>) -> Result<Folder> {
    let base = if name.is_absolute() { &hierarchy.mount } else { &hierarchy.own };
    let path = base.join(name.strip_prefix("/").unwrap_or(name));
    // The closest folder that is there already is where the first new one is made.
    let existing = path.ancestors().find(|folder| folder.is_dir()).unwrap_or(base);
    if rustix::fs::access(existing, rustix::fs::Access::WRITE_OK).is_err() {
        let sentence = format!("{} cannot be limited: `{}` is not writable", group.subject(), existing.display());
        return Err(Error::new(
            Kind::Unsupported,
            format!("{sentence} (controller `{}` of cgroup v1)", group.v1_name()),
        )
        .hint(
            "cgroup v1 is root's: run as root, leave the limit out, or boot with systemd.unified_cgroup_hierarchy=1",
        ));
    }
    for setting in &settings {
        // A file that the kernel was built without shows in the folder above already.
        if !setting.optional && !existing.join(&setting.file).exists() && existing != hierarchy.mount {
            return Err(settings::missing_file(group, setting));
        }
    }
    Ok(Folder {
        version: Version::V1,
        path,
        enable: Vec::new(),
        inherits_cpuset: hierarchy.controllers.iter().any(|name| name == "cpuset"),
        settings,
        device_filter: None,
    })
}

fn not_there(group: Group, unified: bool) -> Error {
    let name = if unified { group.v2_name() } else { group.v1_name() };
    let error = Error::new(
        Kind::Unsupported,
        format!("{} cannot be limited: the cgroup controller `{name}` is not available", group.subject()),
    );
    match group {
        Group::Memory => error.hint("boot with cgroup_enable=memory, or leave the limit out"),
        _ => error.hint(format!("mount it below {}, or leave the limit out", hierarchy::MOUNT_ROOT)),
    }
}

impl Plan {
    /// No cgroup at all.
    pub const fn none() -> Self {
        Self { folders: Vec::new(), evacuate: None, notes: Vec::new() }
    }

    /// What the user should know about what will not be done.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What [`crate::launch::create`] will make of it: to be written down first, so that whoever comes after a crash
    /// knows what to remove.
    pub fn cgroup(&self) -> Cgroup {
        let counter = |folder: &Folder| {
            let limits_memory = folder.settings.iter().any(|setting| setting.file.starts_with("memory."));
            let file = if folder.version == Version::V1 { "memory.oom_control" } else { "memory.events" };
            limits_memory.then(|| folder.path.join(file))
        };
        Cgroup {
            folders: self.folders.iter().map(|folder| folder.path.clone()).collect(),
            unified: self.folders.iter().find(|folder| folder.version == Version::V2).map(|folder| folder.path.clone()),
            oom_counter: self.folders.iter().find_map(counter),
        }
    }

    /// Makes the folders, writes the limits, opens what the container joins by. What was made goes again where a
    /// later step fails.
    pub(crate) fn apply(self) -> Result<(Cgroup, Placement)> {
        if let Some(full) = &self.evacuate {
            delegation::evacuate(full)?;
        }
        let cgroup = self.cgroup();
        match self.folders.iter().try_fold(Placement::default(), |placement, folder| folder.make(placement)) {
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
        for (folder, controllers) in &self.enable {
            fs::create_dir_all(folder).at("make the cgroup", folder)?;
            delegation::hand_down(folder, controllers)?;
        }
        match self.inherits_cpuset {
            true => make_with_cpuset(&self.path)?,
            false => fs::create_dir_all(&self.path).at("make the cgroup", &self.path)?,
        }
        for setting in &self.settings {
            setting.write(&self.path)?;
        }
        match self.version {
            Version::V1 => {
                placement.v1.push(open_tasks(&self.path)?);
            }
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

/// A folder of the v1 cpuset controller starts with no processor and no memory, and takes no process like that.
fn make_with_cpuset(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_with_cpuset(parent)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => made.at("make the cgroup", path)?,
    }
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let above = path.parent().unwrap_or(path).join(file);
        let value = fs::read_to_string(&above).at("read", &above)?;
        let own = path.join(file);
        fs::write(&own, value.trim()).at("write", &own)?;
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
}

/// A container's cgroup: the folders it has. It can be written down and read again, for a later process to use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    folders: Vec<PathBuf>,
    unified: Option<PathBuf>,
    oom_counter: Option<PathBuf>,
}

impl Cgroup {
    /// No cgroup.
    pub const fn none() -> Self {
        Self { folders: Vec::new(), unified: None, oom_counter: None }
    }

    /// Its folders, one for each hierarchy it has something in.
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// Opens what another process joins it by.
    pub(crate) fn open(&self) -> Result<Placement> {
        let mut placement = Placement::default();
        for folder in &self.folders {
            if self.unified.as_ref() == Some(folder) {
                placement.v2 = Some(layerfs::sys::fs::open_dir(folder).at("open the cgroup", folder)?);
            } else {
                placement.v1.push(open_tasks(folder)?);
            }
        }
        Ok(placement)
    }

    /// Whether the kernel killed something in it for want of memory.
    pub fn oom_killed(&self) -> bool {
        let Some(text) = self.oom_counter.as_ref().and_then(|path| fs::read_to_string(path).ok()) else { return false };
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.is_some_and(|count| count.trim() != "0")
    }

    /// Kills what is left in it and removes it.
    ///
    /// # Errors
    /// A folder could not be removed; all others are, first.
    pub fn destroy(&self) -> Result<()> {
        let mut first = Ok(());
        for folder in &self.folders {
            let removed = self.remove(folder);
            first = first.and(removed);
        }
        first
    }

    fn remove(&self, folder: &Path) -> Result<()> {
        match remove_tree(folder) {
            Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {}
            removed => return removed.at("remove the cgroup", folder),
        }
        // Something lives in it: what was not in a pid namespace that ended.
        if self.unified.as_deref() == Some(folder) {
            kill_unified(folder)?;
        } else {
            kill_each(folder)?;
        }
        remove_tree(folder).at("remove the cgroup", folder)
    }
}

/// Removes a cgroup and those that the container made in it.
fn remove_tree(folder: &Path) -> std::io::Result<()> {
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
            for entry in fs::read_dir(folder)?.flatten().filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir())) {
                remove_tree(&entry.path())?;
            }
            fs::remove_dir(folder)
        }
        removed => removed,
    }
}

/// Longest wait for killed processes to leave, in seconds. One that hangs in the kernel cannot be waited for.
const LEAVE_SECONDS: i64 = 10;

/// Kills by `cgroup.kill` (Linux 5.14) and waits until the kernel says that nobody is left.
fn kill_unified(folder: &Path) -> Result<()> {
    let events = folder.join("cgroup.events");
    let file = File::open(&events).at("open", &events)?;
    if fs::write(folder.join("cgroup.kill"), "1").is_err() {
        return kill_each(folder);
    }
    let limit = Timespec { tv_sec: LEAVE_SECONDS, tv_nsec: 0 };
    while fs::read_to_string(&events).is_ok_and(|text| text.contains("populated 1")) {
        // A change of the file is told as urgent data (Documentation/admin-guide/cgroup-v2.rst, "cgroup.events").
        let mut fds = [PollFd::new(&file, PollFlags::PRI)];
        match poll(&mut fds, Some(&limit)) {
            Err(Errno::INTR) => {}
            Ok(0) => return Err(Error::new(Kind::System, format!("processes in `{}` do not die", folder.display()))),
            polled => drop(polled.at("wait for", &events)?),
        }
    }
    Ok(())
}

/// Kills process after process, and waits for each by its descriptor, until a listing is empty.
fn kill_each(folder: &Path) -> Result<()> {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    let limit = Timespec { tv_sec: LEAVE_SECONDS, tv_nsec: 0 };
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let listing = folder.join("cgroup.procs");
        loop {
            let text = fs::read_to_string(&listing).at("read", &listing)?;
            let pids = text.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?));
            let pidfds: Vec<OwnedFd> = pids.filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()).collect();
            if pidfds.is_empty() {
                break;
            }
            for pidfd in &pidfds {
                let _ = pidfd_send_signal(pidfd, Signal::KILL);
            }
            for pidfd in &pidfds {
                let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
                if matches!(poll(&mut fds, Some(&limit)), Ok(0)) {
                    let folder = folder.display();
                    return Err(Error::new(Kind::System, format!("processes in `{folder}` do not die")));
                }
            }
        }
        let below = fs::read_dir(&folder).at("list", &folder)?.flatten();
        folders.extend(below.filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir())).map(|entry| entry.path()));
    }
    Ok(())
}

/// Writes a value to a cgroup's file in one call, as the kernel wants it.
fn write_value(path: &Path, value: &str) -> std::io::Result<()> {
    File::options().write(true).open(path)?.write_all(value.as_bytes())
}

#[cfg(test)]
mod tests;
