//! Where on cgroup v2 a container may go: the cgroup this process is in, or one above it, that it may write.
//!
//! Three rules of the kernel decide (`cgroup-v2.rst`): a controller is there for a folder only when the folder above
//! hands it down; a folder that has processes cannot hand controllers down, the root apart; and a process moves only
//! where the mover may write the closest folder that is above both its old and its new place.

use std::fs;
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use rustix::fs::{Access, access};

use super::hierarchy::Hierarchy;
use super::settings::Group;
use super::write_value;

/// Where the processes of a cgroup go that is to have folders with controllers.
const EVACUATED: &str = "layerfs-callers";

/// A place for a container.
#[derive(Debug, Default)]
pub(super) struct Choice {
    pub(super) path: PathBuf,
    pub(super) enable: Vec<(PathBuf, Vec<String>)>,
    pub(super) evacuate: Option<PathBuf>,
}

/// Whether the hierarchy has the group's controller at all, as far up as this process can see.
pub(super) fn offers(unified: &Hierarchy, group: Group) -> bool {
    match group {
        // No controllers of v2: programs and files.
        Group::Devices | Group::Unified => true,
        _ => words(&unified.mount.join("cgroup.controllers")).iter().any(|name| name == group.v2_name()),
    }
}

/// Finds a place where the controllers of `groups` can be had.
pub(super) fn choose(unified: &Hierarchy, name: &Path, groups: &[Group], real_root: bool) -> Result<Choice> {
    let needed: Vec<&str> = groups
        .iter()
        .filter(|group| !matches!(group, Group::Devices | Group::Unified))
        .map(|group| group.v2_name())
        .collect();
    let relative = name.strip_prefix("/").unwrap_or(name);
    if name.is_absolute() || real_root {
        if let Some(choice) = try_below(&unified.mount, relative, &needed) {
            return Ok(choice);
        }
        if name.is_absolute() {
            return Err(refusal(unified, groups, &needed));
        }
    }
    for folder in unified.own.ancestors().take_while(|folder| folder.starts_with(&unified.mount)) {
        if let Some(choice) = try_below(folder, relative, &needed) {
            return Ok(choice);
        }
    }
    // The last resort: this cgroup is ours to arrange, but for the processes in it.
    let own = &unified.own;
    let could = may_write(own) && may_write(&own.join("cgroup.subtree_control"));
    if could && contains_all(&words(&own.join("cgroup.controllers")), &needed) {
        return Ok(Choice {
            path: own.join(relative),
            enable: steps(own, relative, &needed),
            evacuate: Some(own.clone()),
        });
    }
    Err(refusal(unified, groups, &needed))
}

/// A place below `folder`, where the kernel's three rules allow one.
fn try_below(folder: &Path, relative: &Path, needed: &[&str]) -> Option<Choice> {
    if !may_write(folder) || !may_write(&folder.join("cgroup.procs")) {
        return None;
    }
    let missing: Vec<&str> = {
        let handed_down = words(&folder.join("cgroup.subtree_control"));
        needed.iter().copied().filter(|name| !handed_down.iter().any(|have| have == name)).collect()
    };
    if !missing.is_empty() {
        let available = contains_all(&words(&folder.join("cgroup.controllers")), &missing);
        // The root of all has no type, and the rule about processes does not hold for it.
        let is_root = !folder.join("cgroup.type").exists();
        if !available || !may_write(&folder.join("cgroup.subtree_control")) || !(is_root || is_empty(folder)) {
            return None;
        }
    }
    Some(Choice { path: folder.join(relative), enable: steps(folder, relative, needed), evacuate: None })
}

/// The folders from `base` down to the one above the container's, each to hand `needed` down.
fn steps(base: &Path, relative: &Path, needed: &[&str]) -> Vec<(PathBuf, Vec<String>)> {
    if needed.is_empty() {
        return Vec::new();
    }
    let names: Vec<String> = needed.iter().map(|name| (*name).to_owned()).collect();
    let mut folder = base.to_owned();
    let mut steps = vec![(folder.clone(), names.clone())];
    for part in relative.parent().into_iter().flat_map(Path::components) {
        folder.push(part);
        steps.push((folder.clone(), names.clone()));
    }
    steps
}

/// Hands controllers down to the folders below, where that is not done yet.
pub(super) fn hand_down(folder: &Path, controllers: &[String]) -> Result<()> {
    let control = folder.join("cgroup.subtree_control");
    let have = words(&control);
    for controller in controllers.iter().filter(|name| !have.contains(name)) {
        write_value(&control, &format!("+{controller}"))
            .context(|| format!("hand the controller `{controller}` down in `{}`", folder.display()))?;
    }
    Ok(())
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

fn refusal(unified: &Hierarchy, groups: &[Group], needed: &[&str]) -> Error {
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
    fs::read_to_string(path).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}
