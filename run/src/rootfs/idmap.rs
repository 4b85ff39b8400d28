//! Id-mapped mounts: the same files under other owners (`mount_setattr(2)`, `MOUNT_ATTR_IDMAP`, Linux 5.12).
//!
//! The kernel takes the mapping as a user namespace. Where the container's own does not exist yet, or another one is
//! asked for, a process that does nothing lends its namespace for a moment.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::mount::{MountAttributes, set_attributes};
use layerfs::sys::process as sys;
use layerfs::userns::{IdRange, Mapping};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespaceType, Mount, Spec};
use rustix::io::Errno;

use super::options::IdMap;

/// What one mount maps.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Maps {
    uids: Vec<LinuxIdMapping>,
    gids: Vec<LinuxIdMapping>,
}

/// Maps the ids of a mount that is attached nowhere, as its options and mappings say.
pub(super) fn apply(spec: &Spec, mount: &Mount, idmap: &IdMap, tree: BorrowedFd<'_>) -> Result<()> {
    const IDMAP: u64 = 0x10_0000;
    let namespace = namespace(spec, mount, idmap)?;
    let attributes = MountAttributes {
        set: IDMAP,
        userns_fd: u64::try_from(namespace.as_raw_fd()).unwrap_or(0),
        ..MountAttributes::default()
    };
    set_attributes(tree, &attributes, idmap.recursive).context(|| "map its ids").map_err(|error| {
        match error.errno().map(Errno::from_raw_os_error) {
            Some(Errno::PERM) => error.hint("only the owner of a file system may map its ids: root, for the host's"),
            Some(Errno::INVAL) => error.hint("the file system cannot map ids, or its ids are mapped already"),
            _ => error,
        }
    })
}

fn namespace(spec: &Spec, mount: &Mount, idmap: &IdMap) -> Result<OwnedFd> {
    let own = |maps: &Option<Vec<LinuxIdMapping>>| maps.clone().unwrap_or_default();
    let of_mount = Maps { uids: own(mount.uid_mappings()), gids: own(mount.gid_mappings()) };
    if of_mount.uids.is_empty() != of_mount.gids.is_empty() {
        return Err(Error::new(Kind::Invalid, "uidMappings and gidMappings of a mount must be given together"));
    }
    if !of_mount.uids.is_empty() {
        return lend(&of_mount);
    }
    let linux = spec.linux().as_ref();
    let of_container = Maps {
        uids: own(linux.map_or(&None, |linux| linux.uid_mappings())),
        gids: own(linux.map_or(&None, |linux| linux.gid_mappings())),
    };
    if let Some(text) = &idmap.mapping {
        return lend(&parse(text, &of_container)?);
    }
    let users = |namespace: &&oci_spec::runtime::LinuxNamespace| namespace.typ() == LinuxNamespaceType::User;
    let listed = linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten().find(users);
    match listed.map(|namespace| namespace.path().as_deref().filter(|path| *path != Path::new(""))) {
        Some(Some(path)) => sys::open_namespace(path).at("open the namespace", path),
        Some(None) => lend(&of_container),
        None => Err(Error::new(Kind::Invalid, "to map ids takes a mapping")
            .hint("give the mount uidMappings and gidMappings, or the container a user namespace")),
    }
}

/// A user namespace with these mappings, and nobody in it.
fn lend(maps: &Maps) -> Result<OwnedFd> {
    let map = |maps: &[LinuxIdMapping]| {
        maps.iter().map(|m| IdRange { container: m.container_id(), host: m.host_id(), size: m.size() }).collect()
    };
    Mapping { uids: map(&maps.uids), gids: map(&maps.gids) }.lend()
}

/// crun's spelling, which podman's `:idmap=…` hands on: `uids=0-1000-1#1-100000-65535;gids=…`, each range the first id
/// in the file system, the one it appears as on the host, and how many. With `@` before it, as in the container.
fn parse(text: &str, container: &Maps) -> Result<Maps> {
    let invalid = || {
        Error::new(Kind::Invalid, format!("mount option `idmap={text}` is not understood"))
            .hint("write it as `idmap=uids=0-1000-1#1-100000-65535;gids=0-1000-1`")
    };
    let mut maps = Maps { uids: Vec::new(), gids: Vec::new() };
    for part in text.split(';').filter(|part| !part.is_empty()) {
        let (to, of_container, ranges) = match part.split_once('=').ok_or_else(invalid)? {
            ("uids", ranges) => (&mut maps.uids, &container.uids, ranges),
            ("gids", ranges) => (&mut maps.gids, &container.gids, ranges),
            _ => return Err(invalid()),
        };
        for range in ranges.split('#') {
            let (relative, range) = range.strip_prefix('@').map_or((false, range), |rest| (true, rest));
            let numbers: Vec<u32> =
                range.split('-').map(str::parse).collect::<std::result::Result<_, _>>().map_err(|_| invalid())?;
            let [inside, host, size] = numbers[..] else { return Err(invalid()) };
            let host = match relative {
                true => on_host(of_container, host).ok_or_else(invalid)?,
                false => host,
            };
            let map = LinuxIdMappingBuilder::default().container_id(inside).host_id(host).size(size).build();
            to.push(map.map_err(|_| invalid())?);
        }
    }
    match maps.uids.is_empty() || maps.gids.is_empty() {
        true => Err(invalid()),
        false => Ok(maps),
    }
}

/// The host's number for an id of the container.
fn on_host(maps: &[LinuxIdMapping], id: u32) -> Option<u32> {
    maps.iter().find_map(|map| {
        let offset = id.checked_sub(map.container_id()).filter(|offset| *offset < map.size())?;
        map.host_id().checked_add(offset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(inside: u32, host: u32, size: u32) -> LinuxIdMapping {
        LinuxIdMappingBuilder::default().container_id(inside).host_id(host).size(size).build().expect("all is given")
    }

    #[test]
    fn ranges_in_cruns_spelling() {
        let container = Maps { uids: vec![map(0, 100_000, 1000)], gids: vec![map(0, 200_000, 1000)] };
        let maps = parse("uids=0-1000-1#@1-5-10;gids=@0-0-1", &container).expect("valid");
        assert_eq!(maps, Maps { uids: vec![map(0, 1000, 1), map(1, 100_005, 10)], gids: vec![map(0, 200_000, 1)] });
        for text in ["uids=0-0-1", "uids=0-0;gids=0-0-1", "uids=@0-5000-1;gids=0-0-1", "ids=0-0-1", "x"] {
            assert_eq!(parse(text, &container).expect_err(text).kind(), Kind::Invalid);
        }
    }
}
