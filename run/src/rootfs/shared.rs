//! Mounts of a container that has no mount namespace of its own: they are the caller's, and nobody takes them away but by
//! name. What is recorded is the number of the mount that the container's root is, so that no other is let go of.

use std::path::Path;

use layerfs::error::{Context, Result};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::mount::{UnmountFlags, unmount};

/// Whether the container's mounts are the caller's.
pub(crate) fn has_callers_mounts(spec: &Spec) -> bool {
    !super::has_namespace(spec, LinuxNamespaceType::Mount)
}

/// The number of the mount on top at `place`.
pub(crate) fn mount_at(place: &Path) -> Option<u64> {
    statx(CWD, place, AtFlags::empty(), StatxFlags::MNT_ID).ok().map(|found| found.stx_mnt_id)
}

/// Lets go of that mount and of all below it, where it is still there.
pub(crate) fn let_go(place: &Path, mount: u64) -> Result<()> {
    match mount_at(place) {
        Some(found) if found == mount => unmount(place, UnmountFlags::DETACH).at("unmount", place),
        _ => Ok(()),
    }
}
