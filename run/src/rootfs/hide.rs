//! Masked and read-only paths.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use layerfs::error::{Context, Result};
use layerfs::sys::mount::{MountAttributes, set_attributes};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};

use super::path::{Root, file_type};
use super::{attach, clone_mount_of, devices};

/// Makes each path that exists read-only, with the mounts below it.
pub(super) fn make_read_only(root: &Root, paths: &[String]) -> Result<()> {
    for path in paths {
        let target = match root.find(Path::new(path)) {
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            found => found.at("find", path)?,
        };
        let tree = clone_mount_of(target.as_fd(), true).at("copy the mount of", path)?;
        let attributes =
            MountAttributes { set: u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()), ..MountAttributes::default() };
        set_attributes(tree.as_fd(), &attributes, true).at("make read-only", path)?;
        attach(tree.as_fd(), target.as_fd()).at("make read-only", path)?;
    }
    Ok(())
}

/// Covers each path that exists: a folder by an empty one, anything else by the null device.
pub(super) fn mask(root: &Root, paths: &[String]) -> Result<()> {
    let mut null: Option<OwnedFd> = None;
    let mut empty: Option<OwnedFd> = None;
    for (at, path) in paths.iter().enumerate() {
        let target = match root.find(Path::new(path)) {
            _ if paths[..at].contains(path) => continue,
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            found => found.at("find", path)?,
        };
        let tree = if file_type(target.as_fd()) == FileType::Directory {
            // One read-only tmpfs serves all folders: a superblock for each would cost a start its time.
            match &empty {
                Some(empty) => clone_mount_of(empty.as_fd(), false).at("mask", path)?,
                None => {
                    let made = empty_folder().at("mask", path)?;
                    attach(made.as_fd(), target.as_fd()).at("mask", path)?;
                    empty = Some(made);
                    continue;
                }
            }
        } else {
            let null = match &null {
                Some(null) => null,
                None => null.insert(devices::host_null()?),
            };
            clone_mount_of(null.as_fd(), false).at("mask", path)?
        };
        attach(tree.as_fd(), target.as_fd()).at("mask", path)?;
    }
    Ok(())
}

fn empty_folder() -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "nr_blocks", "1")?;
    fsconfig_set_string(context.as_fd(), "nr_inodes", "1")?;
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}
