//! `/dev`: the nodes every container has, those its Spec adds, and the usual symlinks.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::mount::{MountAttributes, set_attributes};
use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, fstat, makedev, mknodat, open, statat, symlinkat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::path::Root;
use super::{attach, clone_mount_of};

/// How a device node comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// `mknod(2)`.
    Make,
    /// The host's node, bound: a user namespace may not make nodes.
    BindFromHost,
}

struct Node {
    path: PathBuf,
    kind: FileType,
    number: u64,
    mode: u32,
    owner: (u32, u32),
}

/// The nodes that the runtime specification promises, by their numbers in `Documentation/admin-guide/devices.txt`.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// Fills `/dev`.
pub(super) fn populate(root: &Root, linux: Option<&Linux>, way: Way) -> Result<()> {
    let dev = root.ensure_plain_dir(Path::new("/dev"))?;
    for (path, major, minor) in DEFAULT {
        let number = makedev(major, minor);
        let node = Node { path: path.into(), kind: FileType::CharacterDevice, number, mode: 0o666, owner: (0, 0) };
        place(root, &node, way)?;
    }
    for device in linux.and_then(|linux| linux.devices().as_ref()).into_iter().flatten() {
        place(root, &node_of(device)?, way)?;
    }
    for (name, target) in LINKS {
        match symlinkat(target, &dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).context(|| format!("link `/dev/{name}` to `{target}`")),
        }
    }
    Ok(())
}

fn node_of(device: &LinuxDevice) -> Result<Node> {
    let path = device.path().clone();
    let invalid = |what: &str| Error::new(Kind::Invalid, format!("device `{}`: {what}", device.path().display()));
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A => return Err(invalid("type `a` is no type of a node")),
    };
    let number = |number: i64| u32::try_from(number).map_err(|_| invalid("its number is out of range"));
    Ok(Node {
        kind,
        number: if kind == FileType::Fifo { 0 } else { makedev(number(device.major())?, number(device.minor())?) },
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        owner: (device.uid().unwrap_or(0), device.gid().unwrap_or(0)),
        path,
    })
}

fn place(root: &Root, node: &Node, way: Way) -> Result<()> {
    match way {
        Way::BindFromHost if node.kind != FileType::Fifo => bind(root, node),
        _ => make(root, node),
    }
}

fn make(root: &Root, node: &Node) -> Result<()> {
    let path = &node.path;
    let (parent, name) = root.ensure_parent(path)?;
    match mknodat(&parent, name, node.kind, Mode::from_raw_mode(node.mode), node.number) {
        Ok(()) => {
            let (uid, gid) = node.owner;
            if (uid, gid) != (0, 0) {
                let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
                rustix::fs::chownat(&parent, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
                    .at("set the owner of", path)?;
            }
            Ok(())
        }
        Err(Errno::EXIST) => {
            let stat = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).at("look at", path)?;
            if FileType::from_raw_mode(stat.st_mode) == node.kind && stat.st_rdev == node.number {
                return Ok(());
            }
            Err(Error::new(Kind::Conflict, format!("device `{}`: the root has something else there", path.display())))
        }
        Err(errno) => Err(errno).at("make the device", path),
    }
}

fn bind(root: &Root, node: &Node) -> Result<()> {
    let host = open_on_host(node)?;
    let target = root.ensure_file(&node.path)?;
    // What lies there already may be the very node: an engine that bound the host's `/dev/fuse` as a mount.
    if fstat(&target).is_ok_and(|stat| is_node(&stat, node)) {
        return Ok(());
    }
    let tree = clone_mount_of(host.as_fd(), false).at("bind the host's", &node.path)?;
    let set = u64::from((MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC).bits());
    set_attributes(tree.as_fd(), &MountAttributes { set, ..MountAttributes::default() }, false)
        .at("take rights from the host's", &node.path)?;
    attach(tree.as_fd(), target.as_fd()).at("bind the host's device on", &node.path)
}

fn is_node(stat: &rustix::fs::Stat, node: &Node) -> bool {
    FileType::from_raw_mode(stat.st_mode) == node.kind && stat.st_rdev == node.number
}

/// The host's node with that number: under the same path, else by number.
fn open_on_host(node: &Node) -> Result<OwnedFd> {
    let (major, minor) = (rustix::fs::major(node.number), rustix::fs::minor(node.number));
    let folder = if node.kind == FileType::BlockDevice { "block" } else { "char" };
    let by_number = PathBuf::from(format!("/dev/{folder}/{major}:{minor}"));
    for path in [&node.path, &by_number] {
        let opened = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let Ok(fd) = opened else { continue };
        if fstat(&fd).is_ok_and(|stat| is_node(&stat, node)) {
            return Ok(fd);
        }
    }
    let path = node.path.display();
    Err(Error::new(Kind::NotFound, format!("device `{path}` ({major}:{minor}) is not in the host's `/dev`"))
        .hint("a rootless container can only have devices that the host has"))
}

/// The host's `/dev/null`, verified: what a container offers under that name may be anything.
pub(super) fn host_null() -> Result<OwnedFd> {
    let null =
        rustix::fs::openat(CWD, "/dev/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).at("open", "/dev/null")?;
    let stat = fstat(&null).at("look at", "/dev/null")?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == makedev(1, 3) {
        return Ok(null);
    }
    Err(Error::new(Kind::Denied, "`/dev/null` of the host is not the null device"))
}
