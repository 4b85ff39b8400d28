//! Which namespaces a container gets, and which settings of the kernel are then its own.

use std::path::PathBuf;

use layerfs::error::{Error, Kind, Result};
use layerfs::userns::{IdRange, Mapping};
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType};

use super::{NetworkNamespace, Place, unbuildable};
use crate::options::{RunOptions, Share};

/// Whose user namespace a container is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Users {
    /// The caller's.
    #[default]
    Caller,
    /// One of its own with these maps.
    New(Mapping),
    /// An existing one, whose maps are these.
    Path(PathBuf, Mapping),
}

impl Users {
    /// The maps, in the caller's ids, where it is not the caller's namespace.
    pub fn mapping(&self) -> Option<&Mapping> {
        match self {
            Self::Caller => None,
            Self::New(mapping) | Self::Path(_, mapping) => Some(mapping),
        }
    }
}

/// Namespaces of others that a container is in, by their files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joined {
    /// Of processes.
    pub pid: Option<PathBuf>,
    /// Of inter-process communication.
    pub ipc: Option<PathBuf>,
    /// The folder of shared memory that goes with it.
    pub shared_memory: Option<PathBuf>,
    /// Of host names.
    pub uts: Option<PathBuf>,
    /// Of control groups.
    pub cgroup: Option<PathBuf>,
}

/// Lists them, and the ids of a user namespace of its own.
pub(super) fn set(linux: &mut Linux, options: &RunOptions, place: &Place) -> Result<()> {
    let mut list = list(options, &place.network, &place.joined);
    match &place.users {
        Users::Caller => {}
        Users::Path(path, _) => list.insert(0, namespace(LinuxNamespaceType::User, Some(path.clone()))),
        Users::New(mapping) => {
            list.insert(0, namespace(LinuxNamespaceType::User, None));
            let maps = |map: &[IdRange]| map.iter().map(id_mapping).collect::<Result<Vec<_>>>();
            linux.set_uid_mappings(Some(maps(&mapping.uids)?)).set_gid_mappings(Some(maps(&mapping.gids)?));
        }
    }
    linux.set_namespaces(Some(list));
    Ok(())
}

fn id_mapping(range: &IdRange) -> Result<LinuxIdMapping> {
    let mapping = LinuxIdMappingBuilder::default().container_id(range.container).host_id(range.host).size(range.size);
    mapping.build().map_err(unbuildable)
}

fn namespace(kind: LinuxNamespaceType, path: Option<PathBuf>) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind).set_path(path);
    namespace
}

pub(super) fn list(options: &RunOptions, network: &NetworkNamespace, joined: &Joined) -> Vec<LinuxNamespace> {
    let isolation = &options.isolation;
    let kinds = [
        (LinuxNamespaceType::Pid, &isolation.pid, &joined.pid),
        (LinuxNamespaceType::Ipc, &isolation.ipc, &joined.ipc),
        (LinuxNamespaceType::Uts, &isolation.uts, &joined.uts),
        (LinuxNamespaceType::Mount, &Share::Private, &None),
        (LinuxNamespaceType::Cgroup, &isolation.cgroup, &joined.cgroup),
    ];
    let own = kinds.into_iter().filter(|(_, share, _)| **share != Share::Host);
    let mut list: Vec<LinuxNamespace> = own.map(|(kind, _, path)| namespace(kind, path.clone())).collect();
    match network {
        NetworkNamespace::New => list.push(namespace(LinuxNamespaceType::Network, None)),
        NetworkNamespace::Path(path) => list.push(namespace(LinuxNamespaceType::Network, Some(path.clone()))),
        NetworkNamespace::Host => {}
    }
    list
}

pub(super) fn sysctls(options: &RunOptions, place: &Place) -> Result<Vec<(String, String)>> {
    let mut settings = Vec::new();
    let own_network = place.network == NetworkNamespace::New;
    // Lets every group of the container use ICMP sockets, which is how `ping` works without CAP_NET_RAW.
    if own_network {
        settings.push(("net.ipv4.ping_group_range".to_owned(), "0 0".to_owned()));
    }
    let isolation = &options.isolation;
    for (name, value) in &isolation.sysctls {
        let shared = match name.as_str() {
            _ if name.starts_with("net.") && !own_network => Some("network"),
            "kernel.domainname" if isolation.uts != Share::Private => Some("UTS"),
            "kernel.domainname" => None,
            _ if !name.starts_with("net.") && isolation.ipc != Share::Private => Some("IPC"),
            _ => None,
        };
        if let Some(namespace) = shared {
            let message =
                format!("sysctl `{name}` would change a {namespace} namespace that is not the container's own");
            return Err(Error::new(Kind::Usage, message));
        }
        settings.retain(|(known, _)| known != name);
        settings.push((name.clone(), value.clone()));
    }
    Ok(settings)
}
