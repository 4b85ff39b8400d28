//! The mounts of a container: the kernel's file systems, the generated files, and what the user asked for.

use std::path::{Path, PathBuf};

use layerfs::error::{Error, Kind, Result};
use oci_spec::runtime::Mount;

use super::{HostFacts, NetworkNamespace, Place};
use crate::options::{MountRequest, RunOptions, SecurityOption, Share, SharedMemory};

/// Where the small init of `--init` is shown.
pub(super) const INIT_PATH: &str = "/run/layerfs-init";

/// Bytes of `/dev/shm`, as podman and docker have it.
pub const DEFAULT_SHM_SIZE: u64 = 64 << 20;

fn mount(destination: impl Into<PathBuf>, kind: &str, source: impl Into<PathBuf>, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.into()))
        .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}

/// What every container has, parents first.
pub(super) fn defaults(options: &RunOptions, host: &HostFacts, place: &Place) -> Vec<Mount> {
    let isolation = &options.isolation;
    let writable = if isolation.privileged { "rw" } else { "ro" };
    let quiet = ["nosuid", "noexec", "nodev"];
    let with = |more: &[&'static str]| quiet.iter().copied().chain(more.iter().copied()).collect::<Vec<_>>();
    let mut list = Vec::new();
    // A file system of the kernel can be mounted by a user namespace only together with the namespace it shows; where
    // that one is the host's, the host's mount is bound instead.
    list.push(match (&isolation.pid, host.rootless) {
        (Share::Host, true) => mount("/proc", "bind", "/proc", &with(&["rbind", "rprivate"])),
        _ => mount("/proc", "proc", "proc", &quiet),
    });
    list.push(mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]));
    let mut pts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    // Group 5 is `tty`, which a namespace of one id does not have.
    if !host.single_id && !host.no_tty_group {
        pts.push("gid=5");
    }
    list.push(mount("/dev/pts", "devpts", "devpts", &pts));
    match (&isolation.ipc, &place.joined.shared_memory) {
        (Share::Private, _) => {
            let size = format!("size={}k", options.storage.shm_size.unwrap_or(DEFAULT_SHM_SIZE).div_ceil(1024));
            let shm = ["nosuid", "noexec", "nodev", "mode=1777", &size];
            if isolation.shared_memory != SharedMemory::None {
                list.push(mount("/dev/shm", "tmpfs", "shm", &shm));
            }
            list.push(mount("/dev/mqueue", "mqueue", "mqueue", &quiet));
        }
        (Share::Host, _) => {
            list.push(mount("/dev/shm", "bind", "/dev/shm", &with(&["rbind", "rprivate"])));
            list.push(mount("/dev/mqueue", "bind", "/dev/mqueue", &with(&["rbind", "rprivate"])));
        }
        (Share::Container(_) | Share::Path(_), shared) => {
            if let Some(folder) = shared {
                list.push(mount("/dev/shm", "bind", folder, &with(&["bind", "rprivate"])));
            }
            list.push(mount("/dev/mqueue", "mqueue", "mqueue", &quiet));
        }
    }
    let own_network = place.network == NetworkNamespace::New;
    list.push(match own_network || !host.rootless {
        true => mount("/sys", "sysfs", "sysfs", &with(&[writable])),
        false => mount("/sys", "bind", "/sys", &with(&["rbind", "rprivate", writable])),
    });
    if own_network || !host.rootless {
        list.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &with(&["relatime", writable])));
    }
    list
}

/// All mounts in the order they are made. A mount of the user's replaces a default one at the same place.
pub(super) fn all(options: &RunOptions, host: &HostFacts, place: &Place) -> Result<Vec<Mount>> {
    let mut list = defaults(options, host, place);
    if options.storage.read_only {
        // What programs cannot do without, as podman does for a read-only image.
        for path in ["/run", "/tmp", "/var/tmp"] {
            list.push(mount(path, "tmpfs", "tmpfs", &["rprivate", "nosuid", "nodev", "rw", "mode=1777", "tmpcopyup"]));
        }
    }
    for (source, destination) in &place.files {
        list.push(mount(destination, "bind", source, &["bind", "rprivate"]));
    }
    if let Some(init) = &place.init {
        list.push(mount(INIT_PATH, "bind", init, &["bind", "ro", "rprivate"]));
    }
    if host.rootless {
        for node in &host.devices {
            list.push(mount(&node.destination, "bind", &node.source, &["bind", "rprivate", "nosuid", "noexec"]));
        }
    }
    let mut asked = Vec::new();
    for request in &options.storage.mounts {
        let made = match request {
            // A volume is a bind by now, of a folder of the store's.
            MountRequest::Folder { .. } | MountRequest::Volume { .. } => continue,
            MountRequest::Tmpfs { destination, options } => {
                with_options(destination, "tmpfs", Path::new("tmpfs"), options)
            }
            MountRequest::Bind { source, destination, options: words } => {
                with_options(destination, "bind", source, &bind_options(options, host, source, words)?)
            }
        };
        let destination = made.destination().clone();
        if asked.iter().any(|other: &Mount| *other.destination() == destination) {
            let message = format!("`{}` is mounted twice", destination.display());
            return Err(Error::new(Kind::Usage, message));
        }
        asked.push(made);
    }
    list.retain(|default| !asked.iter().any(|own| own.destination() == default.destination()));
    // Parents before what lies in them; equals keep their order.
    asked.sort_by_key(|own| own.destination().components().count());
    list.extend(asked);
    Ok(list)
}

fn with_options(destination: &Path, kind: &str, source: &Path, options: &[String]) -> Mount {
    let words: Vec<&str> = options.iter().map(String::as_str).collect();
    mount(destination, kind, source, &words)
}

/// Labels are for SELinux alone: without it there is nothing to do, and with it `run` says that it cannot yet.
fn bind_options(options: &RunOptions, host: &HostFacts, source: &Path, words: &[String]) -> Result<Vec<String>> {
    let labelled = words.iter().any(|word| word == "z" || word == "Z");
    if labelled && host.selinux && !options.isolation.security.contains(&SecurityOption::LabelDisable) {
        let message = format!("volume `{}`: SELinux labels (z, Z) are not supported by `run` yet", source.display());
        return Err(Error::new(Kind::Unsupported, message).hint("--security-opt label=disable runs without labels"));
    }
    Ok(words.iter().filter(|word| !matches!(word.as_str(), "z" | "Z" | "U")).cloned().collect())
}
