//! The container's view of cgroups at `/sys/fs/cgroup`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use layerfs::error::{Context, Result};
use rustix::fs::{Mode, OFlags, mkdirat, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};

use super::options::MountOptions;
use super::path::Root;
use super::{attach, clone_tree, set_mount_attributes};
use crate::cgroup::hierarchy::{Hierarchy, Version, probe};

/// Mounts the hierarchies this process is in at `destination`. `own_namespace` says that the container has a cgroup
/// namespace: then it sees its own cgroup as the root of each.
pub(super) fn mount(
    root: &Root,
    destination: &Path,
    kind: &str,
    options: &MountOptions,
    own_namespace: bool,
    note: &mut dyn FnMut(String),
) -> Result<OwnedFd> {
    let hierarchies = probe()?;
    let target = root.ensure_dir(destination)?;
    let unified = hierarchies.iter().find(|h| h.version == Version::V2);
    if let Some(unified) = unified.filter(|h| h.is_unified() || kind == "cgroup2") {
        let fs = view(unified, own_namespace, options)?;
        attach(fs.as_fd(), target.as_fd()).context(|| "attach it")?;
        return Ok(fs);
    }
    let folder = tmpfs().context(|| "make the folder of cgroup hierarchies")?;
    attach(folder.as_fd(), target.as_fd()).context(|| "attach it")?;
    for hierarchy in &hierarchies {
        let name = if hierarchy.version == Version::V2 { "unified".to_owned() } else { hierarchy.name() };
        let fs = match view(hierarchy, own_namespace, options) {
            Ok(fs) => fs,
            Err(error) => {
                note(format!("cgroup hierarchy `{name}` is not shown in the container: {}", error.chain()));
                continue;
            }
        };
        // In a file system that nobody else has seen yet no path leads anywhere else.
        let place = make_folder(folder.as_fd(), &name).context(|| format!("make a place for `{name}`"))?;
        attach(fs.as_fd(), place.as_fd()).context(|| format!("attach `{name}`"))?;
        if hierarchy.controllers.len() > 1 {
            for alias in &hierarchy.controllers {
                symlinkat(&name, &folder, alias).context(|| format!("link `{alias}`"))?;
            }
        }
    }
    // The folder itself is read-only once it is full, whatever its parts are.
    if options.read_only() {
        layerfs::sys::mount::set_read_only(folder.as_fd()).context(|| "make it read-only")?;
    }
    Ok(folder)
}

fn make_folder(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
    openat(parent, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// One hierarchy as the container sees it: mounted anew in its own namespace, or its own folder bound.
fn view(hierarchy: &Hierarchy, own_namespace: bool, options: &MountOptions) -> Result<OwnedFd> {
    if own_namespace {
        match mount_anew(hierarchy, options) {
            Err(Errno::PERM | Errno::BUSY | Errno::INVAL) => {}
            mounted => return mounted.context(|| "mount a cgroup file system"),
        }
    }
    let tree = clone_tree(&hierarchy.own, false).at("bind", &hierarchy.own)?;
    set_mount_attributes(tree.as_fd(), options)?;
    Ok(tree)
}

fn mount_anew(hierarchy: &Hierarchy, options: &MountOptions) -> Result<OwnedFd, Errno> {
    let kind = if hierarchy.version == Version::V2 { "cgroup2" } else { "cgroup" };
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    let fs = context.as_fd();
    for controller in &hierarchy.controllers {
        match controller.strip_prefix("name=") {
            // A hierarchy with a name and no controller says both.
            Some(name) => {
                fsconfig_set_flag(fs, "none")?;
                fsconfig_set_string(fs, "name", name)?;
            }
            None => fsconfig_set_flag(fs, controller.as_str())?,
        }
    }
    fsconfig_create(fs)?;
    let attributes = MountAttrFlags::from_bits_retain(u32::try_from(options.own.set).unwrap_or(0));
    fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn tmpfs() -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "mode", "755")?;
    fsconfig_create(context.as_fd())?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}
