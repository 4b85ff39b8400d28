//! Facts about this machine and this process, gathered once.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::Platform;
use layerfs::userns::{Entered, Mapping};

use crate::cgroup::hierarchy;
use crate::options::{DeviceRequest, RunOptions, SecurityOption};
use crate::profile;
use crate::spec::{DeviceNode, HostFacts, Users};

/// The group of terminals.
const TTY: u32 = 5;

/// What `options` need to know of this machine.
///
/// # Errors
/// Those of [`facts_for`].
pub fn facts(entered: &Entered, options: &RunOptions) -> Result<HostFacts> {
    facts_for(entered, &Users::Caller, options)
}

/// The same for a container in the user namespace `users`.
///
/// # Errors
/// A device or a seccomp profile that they name is not there.
pub fn facts_for(entered: &Entered, users: &Users, options: &RunOptions) -> Result<HostFacts> {
    let current = || if entered.rootless { Mapping::current().map(Some) } else { Ok(None) };
    let ids = users.mapping().cloned().map_or_else(current, |ids| Ok(Some(ids)))?;
    let system = rustix::system::uname();
    Ok(HostFacts {
        rootless: ids.is_some(),
        single_id: ids.as_ref().is_some_and(Mapping::is_single),
        no_tty_group: ids.as_ref().is_some_and(|ids| ids.gid_outside(TTY).is_none()),
        architecture: Platform::host().architecture,
        kernel: kernel(),
        hostname: system.nodename().to_string_lossy().into_owned(),
        selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        limits_pids: true,
        limits_swap: options.resources.memory.is_some() && hierarchy::limits_swap(&hierarchy::probe()?),
        seccomp_profile: seccomp_profile(options)?,
        devices: devices(options)?,
    })
}

/// Major and minor version of the kernel.
pub(crate) fn kernel() -> (u32, u32) {
    profile::version(&rustix::system::uname().release().to_string_lossy())
}

/// The text of the profile that the options name.
pub(crate) fn seccomp_profile(options: &RunOptions) -> Result<Option<String>> {
    let named = options.isolation.security.iter().rev().find_map(|option| match option {
        SecurityOption::SeccompProfile(path) => Some(path),
        _ => None,
    });
    let Some(path) = named else { return Ok(None) };
    let size = fs::metadata(path).at("open seccomp profile", path)?.len();
    if size > profile::SIZE_MAX {
        return Err(Error::new(Kind::Limit, format!("seccomp profile `{}` has {size} bytes", path.display())));
    }
    fs::read_to_string(path).at("read seccomp profile", path).map(Some)
}

/// Nodes that every container has from the launcher, or that belong to the host's terminals and mounts.
const NOT_PASSED_ON: [&str; 12] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/console",
    "/dev/ptmx",
    "/dev/pts",
    "/dev/shm",
    "/dev/mqueue",
    "/dev/fd",
];

fn devices(options: &RunOptions) -> Result<Vec<DeviceNode>> {
    let mut nodes = Vec::new();
    if options.isolation.privileged {
        let everything = DeviceRequest { source: "/dev".into(), destination: "/dev".into(), access: "rwm".to_owned() };
        collect(&everything, Path::new(""), &mut nodes)?;
        nodes.retain(|node| {
            let name = node.destination.to_string_lossy();
            !NOT_PASSED_ON.contains(&&*name) && !name.trim_start_matches("/dev/tty").bytes().all(|b| b.is_ascii_digit())
        });
    }
    for request in &options.isolation.devices {
        let before = nodes.len();
        collect(request, Path::new(""), &mut nodes)?;
        if nodes.len() == before {
            return Err(Error::new(Kind::Invalid, format!("`{}` is not a device", request.source.display())));
        }
    }
    Ok(nodes)
}

/// The device at `request.source/below`, or all devices below that folder.
fn collect(request: &DeviceRequest, below: &Path, nodes: &mut Vec<DeviceNode>) -> Result<()> {
    let join = |base: &PathBuf| if below.as_os_str().is_empty() { base.clone() } else { base.join(below) };
    let source = join(&request.source);
    // A link at the top is followed (`/dev/cdrom`); one met on the way (`/dev/fd`) leads elsewhere.
    let top = below.as_os_str().is_empty();
    let metadata =
        if top { fs::metadata(&source) } else { fs::symlink_metadata(&source) }.at("open device", &source)?;
    let kind = metadata.file_type();
    if kind.is_dir() && !NOT_PASSED_ON.contains(&&*source.to_string_lossy()) {
        let mut names: Vec<_> = fs::read_dir(&source).at("read", &source)?.flatten().map(|e| e.file_name()).collect();
        names.sort();
        for name in names {
            collect(request, &below.join(name), nodes)?;
        }
    } else if kind.is_block_device() || kind.is_char_device() {
        nodes.push(DeviceNode {
            source,
            destination: join(&request.destination),
            block: kind.is_block_device(),
            major: rustix::fs::major(metadata.rdev()),
            minor: rustix::fs::minor(metadata.rdev()),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            access: request.access.clone(),
        });
    }
    Ok(())
}

/// The init programs that podman and docker know, where distributions put them.
const INITS: [&str; 6] = [
    "/usr/libexec/podman/catatonit",
    "/usr/bin/catatonit",
    "/usr/lib/podman/catatonit",
    "/usr/bin/tini-static",
    "/usr/bin/docker-init",
    "/usr/libexec/docker/docker-init",
];

/// The program for `--init`.
///
/// # Errors
/// None is installed.
pub fn init_program() -> Result<PathBuf> {
    let found = INITS.iter().map(PathBuf::from).find(|path| path.exists());
    found.ok_or_else(|| {
        Error::new(Kind::Unsupported, "--init: no init program is installed")
            .hint("Debian and Ubuntu: sudo apt-get install catatonit")
    })
}
