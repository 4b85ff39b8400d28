//! Where on cgroup v2 a container may go: the cgroup this process is in, or one above it, that it may write.
//!
//! Three rules of the kernel decide (`cgroup-v2.rst`): a controller is there for a folder only when the folder above
//! hands it down; a folder that has processes cannot hand controllers down, the root apart; and a process moves only
//! where the mover may write the closest folder that is above both its old and its new place.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::fs::read_kernel_file;
use oci_spec::runtime::LinuxResources;
use rustix::fs::{Access, access};
use rustix::io::Errno;

use super::hierarchy::Hierarchy;
use super::settings::Group;
use super::{Presence, not_there, write_value};

/// Where the processes of a cgroup go that is to have folders with controllers.
const EVACUATED: &str = "layerfs-callers";

/// Controllers that a container has without a limit of its own, for what it uses to be counted.
const COUNTING: [&str; 6] = ["cpu", "memory", "io", "pids", "cpuset", "hugetlb"];

/// A place for a container.
#[derive(Debug, Default)]
pub(super) struct Choice {
    pub(super) path: PathBuf,
    pub(super) steps: Vec<Step>,
    pub(super) evacuate: Option<PathBuf>,
}

/// The controllers of v2 that a container is to have.
#[derive(Clone, Debug)]
pub(super) struct Needs {
    required: Vec<String>,
    /// Where they can be had.
    wanted: Vec<String>,
    subjects: Vec<Group>,
}

impl Needs {
    pub(super) fn of(
        unified: &Hierarchy,
        groups: &[Group],
        resources: Option<&LinuxResources>,
        presence: Presence,
    ) -> Result<Self> {
        let mut required: Vec<String> = groups
            .iter()
            .filter(|group| !matches!(group, Group::Devices | Group::Unified))
            .map(|group| group.v2_name().to_owned())
            .collect();
        // `memory.high` needs the controller `memory`; `cgroup.max.depth` is there in any case.
        let files = resources.and_then(|resources| resources.unified().as_ref()).into_iter().flatten();
        let prefixes: BTreeSet<&str> = files.filter_map(|(file, _)| file.split('.').next()).collect();
        let offered = words(&unified.mount.join("cgroup.controllers"));
        for prefix in prefixes.into_iter().filter(|prefix| *prefix != "cgroup") {
            if !offered.iter().any(|name| name == prefix) {
                return Err(not_there(Group::Unified, true).because(Error::new(
                    Kind::Unsupported,
                    format!("there is no controller `{prefix}` on cgroup v2"),
                )));
            }
            if !required.iter().any(|name| name == prefix) {
                required.push(prefix.to_owned());
            }
        }
        let wanted = match presence {
            Presence::Limited => Vec::new(),
            Presence::Everywhere => COUNTING
                .into_iter()
                .filter(|name| offered.iter().any(|have| have == name) && !required.iter().any(|have| have == name))
                .map(str::to_owned)
                .collect(),
        };
        Ok(Self { required, wanted, subjects: groups.to_vec() })
    }

    fn required(&self) -> Vec<&str> {
        self.required.iter().map(String::as_str).collect()
    }
}

/// Whether the hierarchy has the group's controller at all, as far up as this process can see.
pub(super) fn offers(unified: &Hierarchy, group: Group) -> bool {
    match group {
        // No controllers of v2: programs and files.
        Group::Devices | Group::Unified => true,
        _ => words(&unified.mount.join("cgroup.controllers")).iter().any(|name| name == group.v2_name()),
    }
}

/// Finds a place where the controllers can be had.
pub(super) fn choose(unified: &Hierarchy, name: &Path, needs: &Needs, real_root: bool) -> Result<Choice> {
    let relative = name.strip_prefix("/").unwrap_or(name);
    if name.is_absolute() || real_root {
        if let Some(choice) = try_below(&unified.mount, relative, needs) {
            return Ok(choice);
        }
        if name.is_absolute() {
            return Err(refusal(unified, needs));
        }
    }
    for folder in unified.own.ancestors().take_while(|folder| folder.starts_with(&unified.mount)) {
        if let Some(choice) = try_below(folder, relative, needs) {
            return Ok(choice);
        }
    }
    // The last resort: this cgroup is ours to arrange, but for the processes in it.
    let own = &unified.own;
    let could = may_write(own) && may_write(&own.join("cgroup.subtree_control"));
    if could && contains_all(&words(&own.join("cgroup.controllers")), &needs.required()) {
        return Ok(Choice {
            path: own.join(relative),
            steps: steps(own, relative, needs),
            evacuate: Some(own.clone()),
        });
    }
    Err(refusal(unified, needs))
}

/// A place below `folder`, where the kernel's three rules allow one.
fn try_below(folder: &Path, relative: &Path, needs: &Needs) -> Option<Choice> {
    if !may_write(folder) || !may_write(&folder.join("cgroup.procs")) {
        return None;
    }
    let missing: Vec<&str> = {
        let handed_down = words(&folder.join("cgroup.subtree_control"));
        needs.required().into_iter().filter(|name| !handed_down.iter().any(|have| have == name)).collect()
    };
    if !missing.is_empty() {
        let available = contains_all(&words(&folder.join("cgroup.controllers")), &missing);
        // The root of all has no type, and the rule about processes does not hold for it.
        let is_root = !folder.join("cgroup.type").exists();
        if !available || !may_write(&folder.join("cgroup.subtree_control")) || !(is_root || is_empty(folder)) {
            return None;
        }
    }
    Some(Choice { path: folder.join(relative), steps: steps(folder, relative, needs), evacuate: None })
}

/// A folder on the way to the container's: to be there, and to hand controllers down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) folder: PathBuf,
    pub(super) required: Vec<String>,
    wanted: Vec<String>,
}

impl Step {
    pub(super) fn take(&self) -> Result<()> {
        let control = self.folder.join("cgroup.subtree_control");
        let mut have = words(&control);
        if !have.is_empty() && self.required.iter().chain(&self.wanted).all(|name| have.contains(name)) {
            return Ok(());
        }
        fs::create_dir_all(&self.folder).at("make the cgroup", &self.folder)?;
        check_type(&self.folder)?;
        have = words(&control);
        for controller in self.required.iter().filter(|name| !have.contains(name)) {
            write_value(&control, &format!("+{controller}")).map_err(|error| self.explain(controller, error))?;
        }
        for controller in self.wanted.iter().filter(|name| !have.contains(name)) {
            // Counting is no limit: a container runs without.
            let _ = write_value(&control, &format!("+{controller}"));
        }
        Ok(())
    }

    /// The kernel's three refusals in words.
    fn explain(&self, controller: &str, error: std::io::Error) -> Error {
        let folder = self.folder.display();
        let (reason, hint) = match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::BUSY) => (
                "it has processes of its own, and only a cgroup without may have cgroups below that are limited",
                "move them into a cgroup below it, or put the container elsewhere by linux.cgroupsPath",
            ),
            Some(Errno::NOENT) => (
                "it does not have that controller itself",
                "write it to cgroup.subtree_control of the cgroup above, or have it delegated",
            ),
            Some(Errno::OPNOTSUPP) => ("it is threaded", "put the container elsewhere by linux.cgroupsPath"),
            _ => {
                return Error::new(Kind::System, format!("hand the controller `{controller}` down in `{folder}`"))
                    .because(error);
            }
        };
        let sentence = format!("cgroup `{folder}` cannot hand the controller `{controller}` down: {reason}");
        Error::new(Kind::Unsupported, sentence).hint(hint)
    }
}

/// Of what kind a cgroup is decides whether processes may join (`cgroup-v2.rst`, "Threads").
pub(super) fn check_type(folder: &Path) -> Result<()> {
    // The topmost has no such file, and nor have kernels before 4.14.
    let kind = read_kernel_file(folder.join("cgroup.type")).unwrap_or_default();
    let reason = match kind.trim() {
        "domain invalid" => "is `domain invalid`: a cgroup beside or above it is threaded, so no process may join it",
        "threaded" => "is `threaded`: it takes threads of processes that are above it, but no process of its own",
        _ => return Ok(()),
    };
    Err(Error::new(Kind::Unsupported, format!("cgroup `{}` {reason}", folder.display()))
        .hint("put the container elsewhere by linux.cgroupsPath; a cgroup once threaded has to be made anew"))
}

/// The folders from `base` down to the one above the container's, each to hand down what is needed.
fn steps(base: &Path, relative: &Path, needs: &Needs) -> Vec<Step> {
    if needs.required.is_empty() && needs.wanted.is_empty() {
        return Vec::new();
    }
    let step = |folder: &Path| Step {
        folder: folder.to_owned(),
        required: needs.required.clone(),
        wanted: needs.wanted.clone(),
    };
    let mut folder = base.to_owned();
    let mut steps = vec![step(&folder)];
    for part in relative.parent().into_iter().flat_map(Path::components) {
        folder.push(part);
        steps.push(step(&folder));
    }
    steps
}

/// Moves the processes of a cgroup into a folder below it.
pub(super) fn evacuate(folder: &Path) -> Result<()> {
    let refuge = folder.join(EVACUATED);
    match fs::create_dir(&refuge) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => made.at("make the cgroup", &refuge)?,
    }
    let to = refuge.join("cgroup.procs");
    let listing = folder.join("cgroup.procs");
    // A process that forks meanwhile shows in the next listing.
    for _ in 0..16 {
        let pids = fs::read_to_string(&listing).at("read", &listing)?;
        if pids.trim().is_empty() {
            return Ok(());
        }
        for pid in pids.lines() {
            match write_value(&to, pid) {
                // It ended meanwhile.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {}
                moved => moved.context(|| format!("move process {pid} to `{}`", refuge.display()))?,
            }
        }
    }
    Err(Error::new(Kind::Conflict, format!("cgroup `{}` does not get empty", folder.display())))
}

fn refusal(unified: &Hierarchy, needs: &Needs) -> Error {
    let needed = needs.required();
    let groups = &needs.subjects;
    let own = unified.own.strip_prefix(&unified.mount).unwrap_or(&unified.own).display();
    let offered = words(&unified.own.join("cgroup.controllers"));
    // Where all are offered it is the right to write that is missing, for each of them.
    let absent = |name: &str| !offered.iter().any(|have| have == name);
    let some_absent = needed.iter().any(|name| absent(name));
    let missing: Vec<&str> = needed.iter().copied().filter(|name| !some_absent || absent(name)).collect();
    let subject = groups.iter().find(|group| missing.contains(&group.v2_name())).or(groups.first());
    let subject = subject.map_or("a container", |group| group.subject());
    let controllers = match missing[..] {
        [one] => format!("controller `{one}` is"),
        _ => format!("controllers `{}` are", missing.join("`, `")),
    };
    let sentence = format!("{subject} cannot be limited: {controllers} not delegated to this user in cgroup `/{own}`");
    Error::new(Kind::Unsupported, sentence).hint(format!("{}, or leave the limit out", way_out(unified, &missing)))
}

/// How this user comes to the controllers. A session is root's; beside it systemd runs a service of the user's own,
/// which has what root gave it and can start programs in cgroups of their own.
fn way_out(unified: &Hierarchy, missing: &[&str]) -> &'static str {
    let service = unified.own.ancestors().find_map(|folder| {
        let user = folder.file_name()?.to_str()?.strip_prefix("user-")?.strip_suffix(".slice")?;
        Some(folder.join(format!("user@{user}.service"))).filter(|service| service.is_dir())
    });
    match service {
        Some(service) if contains_all(&words(&service.join("cgroup.controllers")), missing) => {
            "start it under `systemd-run --user --scope -p Delegate=yes`"
        }
        Some(_) => "write `[Service]` and `Delegate=yes` into `sudo systemctl edit user@.service`, log in anew",
        None => "have root delegate a cgroup to this user (a service of systemd's: `Delegate=yes`)",
    }
}

fn may_write(path: &Path) -> bool {
    access(path, Access::WRITE_OK).is_ok()
}

fn is_empty(folder: &Path) -> bool {
    fs::read_to_string(folder.join("cgroup.procs")).is_ok_and(|pids| pids.trim().is_empty())
}

fn contains_all(have: &[String], needed: &[&str]) -> bool {
    needed.iter().all(|name| have.iter().any(|have| have == name))
}

fn words(path: &Path) -> Vec<String> {
    read_kernel_file(path).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}
