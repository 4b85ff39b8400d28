//! Union mounts of layers.
//!
//! A [`MountPlan`] says what is stacked on what; [`overlay`] turns it into a mount that is attached nowhere yet, so
//! that nobody can see it half made, and [`attach`] puts it in its place. The mount dies with its last descriptor or
//! with the mount namespace it was attached in; nothing is ever unmounted by path.
//!
//! Every overlay is mounted with `userxattr`, by root too: one form of a layer on disk (`user.overlay.*`, whiteouts
//! as character device 0:0) then serves root and a user namespace alike, and an image's own `trusted.overlay.*`
//! attributes mean nothing to the kernel.
//!
//! Sources: Linux `Documentation/filesystems/overlayfs.rst`; `userxattr` needs Linux 5.11 in a user namespace,
//! `lowerdir+` 6.8 (before it, `mount(2)` with one page of options).

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, move_mount, open_tree, unmount,
};

use crate::error::{Context, Error, Kind, Result};
use crate::sys::mount::{MountAttributes, set_attributes};
use crate::userns::Mapping;

/// Most layers the kernel stacks (`OVL_MAX_STACK`).
pub const LAYERS_MAX: usize = 500;

/// Where changes go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upper {
    /// The folder that receives changes.
    pub dir: PathBuf,
    /// The kernel's scratch folder, on the same file system and empty.
    pub work: PathBuf,
}

/// What is stacked on what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPlan {
    /// Read-only folders, lowest first.
    pub lowers: Vec<PathBuf>,
    /// Where changes go; without it the mount is read-only.
    pub upper: Option<Upper>,
    /// Skip every sync of the upper file system: for what is thrown away on a crash (Linux 5.10).
    pub volatile: bool,
    /// Who unites the folders.
    pub backend: Backend,
}

/// Who unites the folders of a mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// The kernel's overlayfs.
    #[default]
    Overlay,
    /// A server of our own, [`crate::fuse`]: this program, started under its name.
    Fuse(PathBuf),
    /// The kernel's where it does it, otherwise the server.
    Auto(PathBuf),
}

/// Makes the mount, attached nowhere, by the backend that the plan names.
///
/// # Errors
/// It cannot be had. Of two backends that were tried, the reasons of both are told.
pub fn mount_layers(plan: &MountPlan) -> Result<OwnedFd> {
    let single = plan.lowers.len() + usize::from(plan.upper.is_some()) < 2;
    match &plan.backend {
        Backend::Fuse(program) if !single || plan.upper.is_some() => crate::fuse::mount(program, plan),
        Backend::Auto(program) => overlay(plan).or_else(|error| match error.kind() {
            Kind::Usage | Kind::Limit => Err(error),
            // Of two refusals both are told: either may be the one that can be helped.
            _ => crate::fuse::mount(program, plan).map_err(|other| {
                let message = format!("{}; and by fuse: {}", error.chain(), other.chain());
                let told = Error::new(error.kind(), message);
                match error.advice().or(other.advice()) {
                    Some(hint) => told.hint(hint),
                    None => told,
                }
            }),
        }),
        Backend::Overlay | Backend::Fuse(_) => overlay(plan),
    }
}

/// Makes an overlay whose read-only folders' files belong to ids of a user namespace, which `owners` gives in this
/// process's ids. Each folder is the copy of a mount, named by its descriptor. For whom [`maps_owners`] tells.
///
/// # Errors
/// Those of [`overlay`], and ids cannot be mapped here.
pub fn overlay_with_owners(plan: &MountPlan, owners: &Mapping) -> Result<OwnedFd> {
    let namespace = owners.lend()?;
    let trees: Vec<OwnedFd> =
        plan.lowers.iter().map(|folder| with_owners(folder, namespace.as_fd())).collect::<Result<_>>()?;
    let lowers = trees.iter().map(|tree| PathBuf::from(format!("/proc/self/fd/{}", tree.as_raw_fd()))).collect();
    overlay(&MountPlan { lowers, ..plan.clone() })
}

/// Makes the mount, attached nowhere.
///
/// # Errors
/// The kernel refuses it; the sentence carries the kernel's own words where it gave any.
pub fn overlay(plan: &MountPlan) -> Result<OwnedFd> {
    if plan.lowers.len() > LAYERS_MAX {
        let n = plan.lowers.len();
        return Err(Error::new(Kind::Limit, format!("image has {n} layers and the kernel stacks {LAYERS_MAX}"))
            .hint("squash the image, or rebuild it with fewer steps"));
    }
    match (&plan.lowers[..], &plan.upper) {
        ([], None) => Err(Error::new(Kind::Usage, "a mount of no layers at all")),
        // The kernel wants two folders at least; one alone is what it is.
        ([], Some(upper)) => clone_tree(&upper.dir),
        ([only], None) => read_only(clone_tree(only)?),
        _ => match overlay_by_fsconfig(plan) {
            Err(error) if matches!(error.errno().map(Errno::from_raw_os_error), Some(Errno::NOSYS | Errno::INVAL)) => {
                // What both interfaces refuse for no reason of their own is told in the words of the newer one.
                overlay_by_mount(plan).map_err(|old| match old.errno().map(Errno::from_raw_os_error) {
                    Some(Errno::NOSYS | Errno::INVAL) => error,
                    _ => old,
                })
            }
            result => result,
        },
    }
}

/// Whether layers below `folder` can be mounted with other owners than they have on disk. It takes root, a file system
/// that maps ids, and Linux 6.15, which stacks what is attached nowhere.
///
/// # Errors
/// There is no user namespace to be had.
pub fn maps_owners(folder: &Path, owners: &Mapping) -> Result<bool> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|word| word.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (6, 15) {
        return Ok(false);
    }
    let namespace = owners.lend()?;
    Ok(with_owners(folder, namespace.as_fd()).is_ok())
}

/// A detached copy of the mount of `folder` on which files belong to ids of `namespace`.
fn with_owners(folder: &Path, namespace: BorrowedFd<'_>) -> Result<OwnedFd> {
    /// `MOUNT_ATTR_IDMAP`
    const IDMAP: u64 = 0x10_0000;
    let tree = clone_tree(folder)?;
    let userns_fd = u64::try_from(namespace.as_raw_fd()).unwrap_or(0);
    set_attributes(tree.as_fd(), &MountAttributes { set: IDMAP, userns_fd, ..MountAttributes::default() }, false)
        .at("map the owners of", folder)?;
    Ok(tree)
}

/// Puts a detached mount at `target`.
///
/// # Errors
/// Those of `move_mount(2)`.
pub fn attach(mount: BorrowedFd<'_>, target: &Path) -> Result<()> {
    move_mount(mount, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).at("mount on", target)
}

/// A detached copy of the mount that `path` lies in, rooted at `path`.
///
/// # Errors
/// Those of `open_tree(2)`.
pub fn clone_tree(path: &Path) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, path, flags).at("clone the mount of", path)
}

fn read_only(tree: OwnedFd) -> Result<OwnedFd> {
    crate::sys::mount::set_read_only(tree.as_fd()).context(|| "make a mount read-only")?;
    Ok(tree)
}

/// The mount API of Linux 5.2 with `lowerdir+` of 6.8: no limit on the length of options and no escaping.
fn overlay_by_fsconfig(plan: &MountPlan) -> Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .context(|| "open the overlay file system")
        .map_err(no_overlay)?;
    let fs = context.as_fd();
    let configured = || -> std::result::Result<(), Errno> {
        fsconfig_set_string(fs, "source", "layerfs")?;
        fsconfig_set_flag(fs, "userxattr")?;
        for lower in plan.lowers.iter().rev() {
            fsconfig_set_string(fs, "lowerdir+", lower)?;
        }
        if let Some(upper) = &plan.upper {
            fsconfig_set_string(fs, "upperdir", &upper.dir)?;
            fsconfig_set_string(fs, "workdir", &upper.work)?;
            if plan.volatile {
                fsconfig_set_flag(fs, "volatile")?;
            }
        }
        fsconfig_create(fs)
    };
    if let Err(errno) = configured() {
        let words = kernel_words(fs).map_or_else(String::new, |words| format!(" ({words})"));
        let sentence = format!("mount {} layers by overlayfs{words}", plan.lowers.len());
        return Err(errno).context(|| sentence).map_err(no_overlay);
    }
    let mut flags = MountAttrFlags::empty();
    if plan.upper.is_none() {
        flags |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, flags).context(|| "mount layers by overlayfs")
}

fn no_overlay(error: Error) -> Error {
    match error.errno().map(Errno::from_raw_os_error) {
        Some(Errno::NODEV) => error.hint("load the kernel module: sudo modprobe overlay"),
        Some(Errno::PERM) => {
            error.hint("overlayfs in a user namespace needs Linux 5.11 or later; `run check` tells more")
        }
        _ => error,
    }
}

/// What the kernel logged on the mount context, without its severity letter (`fsopen(2)`, "message retrieval").
fn kernel_words(fs: BorrowedFd<'_>) -> Option<String> {
    let mut last = None;
    let mut buffer = [0; 1024];
    while let Ok(n @ 1..) = rustix::io::read(fs, &mut buffer) {
        let line = String::from_utf8_lossy(&buffer[..n]);
        last = Some(line.trim_end().trim_start_matches(['e', 'w', 'i']).trim().to_owned());
    }
    last
}

/// `mount(2)` for kernels before 6.8. It needs a place to mount on, which is cloned and left at once.
fn overlay_by_mount(plan: &MountPlan) -> Result<OwnedFd> {
    // Descriptors name the folders in few bytes, whatever they are called: with their paths, thirty layers fill the page.
    let mut folders = Vec::new();
    let mut name = |path: &Path| -> Result<Vec<u8>> {
        let folder = crate::sys::fs::open_dir(path).at("open", path)?;
        let name = format!("/proc/self/fd/{}", folder.as_raw_fd()).into_bytes();
        folders.push(folder);
        Ok(name)
    };
    let mut options = b"userxattr,lowerdir=".to_vec();
    for (i, lower) in plan.lowers.iter().rev().enumerate() {
        if i > 0 {
            options.push(b':');
        }
        options.extend(name(lower)?);
    }
    let mut flags = MountFlags::RDONLY;
    let mut place = plan.lowers.first().cloned().unwrap_or_default();
    if let Some(upper) = &plan.upper {
        flags = MountFlags::empty();
        place = upper.work.clone();
        for (key, path) in [(",upperdir=", &upper.dir), (",workdir=", &upper.work)] {
            options.extend_from_slice(key.as_bytes());
            options.extend(name(path)?);
        }
        if plan.volatile {
            options.extend_from_slice(b",volatile");
        }
    }
    if options.len() >= 4096 {
        let n = plan.lowers.len();
        return Err(Error::new(Kind::Limit, format!("the image's {n} layers do not fit in one page of mount options"))
            .hint("Linux 6.8 has no such limit; or squash the image"));
    }
    let target = fs::canonicalize(&place).at("find", &place)?;
    let data = CString::new(options).map_err(|_| Error::new(Kind::Invalid, "a layer's path holds a NUL byte"))?;
    mount("layerfs", &target, "overlay", flags, data.as_c_str())
        .context(|| "mount layers by overlayfs")
        .map_err(no_overlay)?;
    let tree = clone_tree(&target);
    // The mount lives on in `tree`; only its place is given up.
    let left = unmount(&target, UnmountFlags::DETACH).at("leave the mount on", &target);
    left.and(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both interfaces of the kernel give the same stack; the older one only works where this process may mount.
    #[test]
    fn the_older_interface_takes_many_layers() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().expect("a folder");
        let make = |name: &str| {
            let path = dir.path().join(format!("{name}-with-a-name-that-is-far-too-long-for-a-page-of-options"));
            fs::create_dir(&path).expect("a folder");
            path
        };
        let lowers: Vec<PathBuf> = (0..120).map(|n| make(&format!("layer:{n},"))).collect();
        fs::write(lowers[0].join("lowest"), "x").expect("a file");
        let upper = Upper { dir: make("upper"), work: make("work") };
        let mount =
            overlay_by_mount(&MountPlan { lowers, upper: Some(upper), volatile: true, backend: Backend::Overlay })
                .expect("a mount");
        let root = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
        assert_eq!(fs::read_to_string(root.join("lowest")).expect("it is there"), "x");
        fs::write(root.join("new"), "y").expect("it is writable");
    }

    #[test]
    fn impossible_plans_are_named() {
        let plan = MountPlan {
            lowers: vec![PathBuf::from("/x"); LAYERS_MAX + 1],
            upper: None,
            volatile: false,
            backend: Backend::Overlay,
        };
        assert_eq!(overlay(&plan).expect_err("too many").kind(), Kind::Limit);
        let plan = MountPlan { lowers: Vec::new(), upper: None, volatile: false, backend: Backend::Overlay };
        assert_eq!(overlay(&plan).expect_err("nothing").kind(), Kind::Usage);
    }
}
