//! New file systems: tmpfs, proc, sysfs, devpts, mqueue and whatever else the kernel mounts without a device's help.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use layerfs::error::{Context, Error, Kind, Result};
use oci_spec::runtime::Mount;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};

use super::options::MountOptions;
use super::{clone_tree, set_mount_attributes};

/// Makes a file system that is attached nowhere. `mode` is that of its top folder, where the options have none.
pub(super) fn make(kind: &str, mount: &Mount, options: &MountOptions, mode: Option<u32>) -> Result<OwnedFd> {
    let with_mode;
    let options = match mode {
        None => options,
        Some(mode) => {
            let mut changed = options.clone();
            changed.data.push(("mode".to_owned(), Some(format!("{mode:o}"))));
            with_mode = changed;
            &with_mode
        }
    };
    let made = configure(kind, mount, options, Terminals::OfTheirGroup);
    match made {
        // The group of terminals has no number in a user namespace with a single id.
        Err(error) if kind == "devpts" && error.errno() == Some(Errno::INVAL.raw_os_error()) => {
            configure(kind, mount, options, Terminals::OfTheUser).map_err(|_| error)
        }
        made => made,
    }
}

/// Who owns new terminals of a devpts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Terminals {
    /// The group that the options name: `tty`.
    OfTheirGroup,
    /// The group of whoever opens one.
    OfTheUser,
}

fn configure(kind: &str, mount: &Mount, options: &MountOptions, terminals: Terminals) -> Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| {
        let error = Error::new(Kind::Unsupported, format!("file system `{kind}` cannot be mounted"));
        error.because(std::io::Error::from(errno))
    })?;
    let fs = context.as_fd();
    if let Some(source) = mount.source() {
        // A file system without a device shows this word in the mount table and has no other use for it.
        fsconfig_set_string(fs, "source", source).context(|| "name its source")?;
    }
    for (key, value) in &options.data {
        if key == "gid" && terminals == Terminals::OfTheUser {
            continue;
        }
        match value {
            Some(value) => fsconfig_set_string(fs, key.as_str(), value.as_str()),
            None => fsconfig_set_flag(fs, key.as_str()),
        }
        .context(|| format!("set option `{}`", spelled(key, value.as_deref())))?;
    }
    fsconfig_create(fs).context(|| format!("make a {kind} file system"))?;
    let mut attributes = MountAttrFlags::from_bits_retain(u32::try_from(options.own.set).unwrap_or(0));
    // Read-only comes later where something is to be put in first.
    let fills = options.copy_up || is_dev(mount);
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, options.read_only() && !fills);
    fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).context(|| format!("mount a {kind} file system"))
}

/// Whether it is the folder that further mounts and devices go into.
pub(super) fn is_dev(mount: &Mount) -> bool {
    mount.destination() == Path::new("/dev")
}

fn spelled(key: &str, value: Option<&str>) -> String {
    value.map_or_else(|| key.to_owned(), |value| format!("{key}={value}"))
}

/// What stands in where the kernel refuses a new procfs or sysfs: the outer one, and a note about it.
///
/// The kernel lets a user namespace mount a procfs only where a whole one is in sight, and inside another engine's
/// container parts of it are masked. A sysfs wants a network namespace that belongs to the user namespace.
pub(super) fn outer_instead(
    kind: &str,
    error: Error,
    new_network: bool,
    options: &MountOptions,
    note: &mut dyn FnMut(String),
) -> Result<OwnedFd> {
    if error.errno() != Some(Errno::PERM.raw_os_error()) {
        return Err(error);
    }
    let path = Path::new(if kind == "proc" { "/proc" } else { "/sys" });
    let tree = clone_tree(path, true).at("bind the outer", path)?;
    let mut options = options.clone();
    options.data.clear();
    if kind == "sysfs" {
        options.recursive.set |= u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits());
    }
    set_mount_attributes(tree.as_fd(), &options)?;
    note(match (kind, new_network) {
        ("proc", _) => "the kernel refuses a new procfs here, so the container sees the outer /proc".to_owned(),
        (_, false) => "/sys is the host's, read-only, since the network is".to_owned(),
        (_, true) => "the kernel refuses a new sysfs here, so the container sees the outer /sys, read-only".to_owned(),
    });
    Ok(tree)
}
