//! `update`: other limits for a container that runs.

use std::io::Read;
use std::path::Path;

use layerfs::error::{Context, Error, Kind, Result};
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use super::arguments::Update;
use super::instances::{Instance, Status};

/// Largest document that is read, in bytes.
const DOCUMENT_MAX: u64 = 1 << 20;

/// Changes what the options, or the document, name.
pub(super) fn update(instance: &Instance, update: &Update) -> Result<()> {
    if instance.status() == Status::Stopped {
        return Err(Error::new(Kind::Conflict, format!("container not running: `{}` is stopped", instance.id())));
    }
    if update.l3_cache_schema.is_some() || update.mem_bw_schema.is_some() {
        return Err(Error::new(
            Kind::Unsupported,
            "cache and memory bandwidth cannot be changed: resctrl is not managed",
        )
        .hint("write to the container's group below /sys/fs/resctrl"));
    }
    let resources = match &update.resources {
        Some(path) => read(path)?,
        None => from_options(update),
    };
    instance.cgroup().update(&resources)
}

fn read(path: &Path) -> Result<LinuxResources> {
    let mut text = String::new();
    match path.to_str() {
        Some("-") => std::io::stdin().take(DOCUMENT_MAX).read_to_string(&mut text).context(|| "read standard input")?,
        _ => {
            let file = std::fs::File::open(path).at("open", path)?;
            file.take(DOCUMENT_MAX).read_to_string(&mut text).at("read", path)?
        }
    };
    serde_json::from_str(&text).map_err(|error| {
        Error::new(Kind::Invalid, format!("`{}` is no linux.resources of a config.json", path.display())).because(error)
    })
}

fn from_options(update: &Update) -> LinuxResources {
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(update.memory)
        .set_reservation(update.memory_reservation)
        .set_swap(update.memory_swap)
        .set_kernel_tcp(update.kernel_memory_tcp);
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(update.cpu_share)
        .set_quota(update.cpu_quota)
        .set_period(update.cpu_period)
        .set_burst(update.cpu_burst)
        .set_realtime_period(update.cpu_rt_period)
        .set_realtime_runtime(update.cpu_rt_runtime)
        .set_idle(update.cpu_idle)
        .set_cpus(update.cpuset_cpus.clone())
        .set_mems(update.cpuset_mems.clone());
    let pids = update.pids_limit.map(|limit| {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        pids
    });
    let mut io = LinuxBlockIo::default();
    io.set_weight(update.blkio_weight);
    let mut resources = LinuxResources::default();
    resources.set_memory(Some(memory)).set_cpu(Some(cpu)).set_pids(pids).set_block_io(Some(io));
    resources
}
