//! Other limits for a container that runs.

use std::fs;
use std::path::Path;

use layerfs::error::{Context, Error, Kind, Result};
use oci_spec::runtime::{LinuxMemory, LinuxResources};

use super::hierarchy::Version;
use super::settings::{self, Group};
use super::{Cgroup, systemd};

impl Cgroup {
    /// Changes the limits that `resources` names and leaves the others. Rules about devices are not changed.
    ///
    /// # Errors
    /// The container's cgroup lacks the controller of a limit ([`Kind::Unsupported`]), or the kernel refuses a value;
    /// what was changed before that stays changed.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        let mut resources = settings::without_zeros(resources);
        resources.set_devices(None);
        let groups: Vec<Group> = Group::ALL.into_iter().filter(|group| group.is_limited(Some(&resources))).collect();
        for group in &groups {
            let found = match group {
                Group::Unified => self.v2.as_deref().map(|folder| (Version::V2, folder)),
                _ => self
                    .controller(group.v1_name(), group.v2_name())
                    .map(|controlled| (controlled.version, controlled.folder)),
            };
            let (version, folder) = found.ok_or_else(|| not_counted(*group))?;
            let settings = match version {
                Version::V1 => settings::v1(*group, Some(&resources))?,
                Version::V2 => {
                    complete(*group, &mut resources, folder)?;
                    settings::v2(*group, Some(&resources), folder)?
                }
            };
            settings::write_all(folder, &settings)?;
        }
        match &self.unit {
            Some(unit) => systemd::change(unit, &systemd::limits(Some(&resources), self.v1.is_empty())?),
            None => Ok(()),
        }
    }
}

fn not_counted(group: Group) -> Error {
    let sentence = format!("{} cannot be limited: the container has no cgroup with the controller", group.subject());
    Error::new(Kind::Unsupported, format!("{sentence} `{}`", group.v1_name()))
        .hint("mount it, or have it delegated, before the container is made")
}

/// On v2 one file holds two values of the Spec, or one value is the difference of two: what is not named stays as it is.
fn complete(group: Group, resources: &mut LinuxResources, folder: &Path) -> Result<()> {
    let read = |file: &str| {
        let path = folder.join(file);
        fs::read_to_string(&path).at("read", &path)
    };
    match group {
        Group::Cpu => {
            let Some(cpu) = resources.cpu_mut() else { return Ok(()) };
            if cpu.quota().is_some() != cpu.period().is_some() {
                let text = read("cpu.max")?;
                let mut words = text.split_whitespace();
                let (quota, period) = (words.next(), words.next());
                cpu.set_quota(cpu.quota().or_else(|| quota?.parse().ok()));
                cpu.set_period(cpu.period().or_else(|| period?.parse().ok()));
            }
        }
        Group::Memory => {
            let Some(memory) = resources.memory_mut() else { return Ok(()) };
            if memory.check_before_update() == Some(true) {
                refuse_less_than_used(memory, &read("memory.current")?)?;
            }
            if memory.swap().is_some_and(|swap| swap > 0) && memory.limit().is_none() {
                memory.set_limit(Some(read("memory.max")?.trim().parse().unwrap_or(-1)));
            }
        }
        _ => {}
    }
    Ok(())
}

/// v2 takes any limit and kills until it holds; who asks for the check would rather have an error, as on v1.
fn refuse_less_than_used(memory: &LinuxMemory, current: &str) -> Result<()> {
    let used: i64 = current.trim().parse().unwrap_or(0);
    match memory.limit().filter(|limit| (0..used).contains(limit)) {
        Some(limit) => Err(Error::new(
            Kind::Conflict,
            format!("memory cannot be limited to {limit} bytes: the container uses {used}"),
        )
        .hint("leave memory.checkBeforeUpdate out to have it killed down to that")),
        None => Ok(()),
    }
}
