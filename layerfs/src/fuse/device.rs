//! Mounting by descriptor: `/dev/fuse` is opened, the file system made by the mount API of Linux 5.2, and the mount
//! comes back attached nowhere. Nothing is ever unmounted by path: the mount goes with its last holder, and the server
//! ends when the kernel says so (`ENODEV`).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};
use rustix::process::{getegid, geteuid};

use crate::error::{Context, Error, Kind, Result};
use crate::sys::fuse::open_device;

/// How the kernel is to see the file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// No change is possible.
    pub read_only: bool,
    /// Others than the user who mounts may enter. Root of a user namespace may always ask for that.
    pub allow_other: bool,
    /// The kernel compares owners and modes with who asks. Without that the one who mounts may read everything, which
    /// is only for mounts that nobody else may enter.
    pub default_permissions: bool,
    /// What `mount` lists as its source.
    pub source: String,
    /// What `mount` lists as `fuse.SUBTYPE`.
    pub subtype: String,
    /// The SELinux label of every file; none for those that they have.
    pub context: Option<String>,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            allow_other: true,
            default_permissions: true,
            source: "layerfs".to_owned(),
            subtype: "layerfs".to_owned(),
            context: None,
        }
    }
}

/// The kernel's two sides of a file system: where it is answered, and where it is seen.
#[derive(Debug)]
pub struct Connection {
    /// The device, to be served.
    pub device: OwnedFd,
    /// The mount, attached nowhere. It must be given up by the server's process, or it never ends.
    pub mount: OwnedFd,
}

/// Makes a file system that nobody answers yet.
///
/// # Errors
/// `/dev/fuse` cannot be opened, or this process may not mount.
pub fn connect(options: &MountOptions) -> Result<Connection> {
    let device =
        open_device(rustix::fs::OFlags::empty()).at("open", "/dev/fuse").map_err(|error| match error.kind() {
            Kind::NotFound => error.hint("load the kernel module: sudo modprobe fuse"),
            Kind::Denied => error.hint("give the user access to the device: sudo chmod 666 /dev/fuse"),
            _ => error,
        })?;
    let context =
        fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC).context(|| "open the fuse file system").map_err(no_fuse)?;
    let fs = context.as_fd();
    let configure = || -> std::result::Result<(), Errno> {
        fsconfig_set_string(fs, "source", options.source.as_str())?;
        fsconfig_set_string(fs, "subtype", options.subtype.as_str())?;
        fsconfig_set_string(fs, "fd", device.as_raw_fd().to_string())?;
        fsconfig_set_string(fs, "rootmode", "40000")?;
        fsconfig_set_string(fs, "user_id", geteuid().as_raw().to_string())?;
        fsconfig_set_string(fs, "group_id", getegid().as_raw().to_string())?;
        if options.default_permissions {
            fsconfig_set_flag(fs, "default_permissions")?;
        }
        if options.allow_other {
            fsconfig_set_flag(fs, "allow_other")?;
        }
        if options.read_only {
            fsconfig_set_flag(fs, "ro")?;
        }
        fsconfig_create(fs)
    };
    if let Some(label) = &options.context {
        fsconfig_set_string(fs, "context", label.as_str())
            .context(|| format!("label files `{label}`"))
            .map_err(|error| error.hint("option context needs a kernel with SELinux, and a label that it knows"))?;
    }
    configure().context(|| "mount by fuse").map_err(no_fuse)?;
    let mut flags = MountAttrFlags::empty();
    flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, options.read_only);
    let mount = fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, flags).context(|| "mount by fuse")?;
    Ok(Connection { device, mount })
}

fn no_fuse(error: Error) -> Error {
    match error.errno().map(Errno::from_raw_os_error) {
        Some(Errno::NODEV) => error.hint("load the kernel module: sudo modprobe fuse"),
        Some(Errno::PERM) => error.hint("mounting needs root, be it of a user namespace (Linux 4.18 and later)"),
        _ => error,
    }
}
