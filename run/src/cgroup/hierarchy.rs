//! Which cgroup file systems this machine has, and where in them this process is.

use std::fs;
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Result};
use layerfs::sys::fs::read_kernel_file;

/// Where cgroup file systems are mounted by convention.
pub(crate) const MOUNT_ROOT: &str = "/sys/fs/cgroup";

/// Of which kind a mounted hierarchy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) version: Version,
    /// Where it is mounted.
    pub(crate) mount: PathBuf,
    /// v1: what it controls (`cpu`, `cpuacct`), or its name (`name=systemd`). v2: nothing; see `cgroup.controllers`.
    pub(crate) controllers: Vec<String>,
    /// The folder of this process's cgroup.
    pub(crate) own: PathBuf,
}

impl Hierarchy {
    /// Its folder's name in `/sys/fs/cgroup`: `cpu,cpuacct`, `systemd`.
    pub(crate) fn name(&self) -> String {
        let joined = self.controllers.join(",");
        joined.strip_prefix("name=").map_or(joined.clone(), str::to_owned)
    }

    /// Whether it controls this by v1's rules.
    pub(crate) fn controls(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }

    /// Whether v2 is all there is, mounted at the conventional place itself.
    pub(crate) fn is_unified(&self) -> bool {
        self.version == Version::V2 && self.mount == Path::new(MOUNT_ROOT)
    }
}

/// The hierarchies this process is in and can see mounted, found without the mount table: a `statfs` at the
/// conventional places tells a cgroup file system from a folder that only looks like one.
pub(crate) fn probe() -> Result<Vec<Hierarchy>> {
    let text = read_kernel_file("/proc/self/cgroup").at("read", "/proc/self/cgroup")?;
    Ok(parse(&text).into_iter().filter_map(|membership| locate(Path::new(MOUNT_ROOT), &membership)).collect())
}

/// Whether v2 is all there is.
pub(super) fn is_unified(hierarchies: &[Hierarchy]) -> bool {
    hierarchies.iter().all(|hierarchy| hierarchy.version == Version::V2)
}

/// Whether swap can be limited: a question of how the kernel was built and booted, answered by any cgroup of the
/// memory controller's. On v2 the topmost has no limits, and where no other has any yet, nothing tells.
pub(crate) fn limits_swap(hierarchies: &[Hierarchy]) -> bool {
    if let Some(v1) = hierarchies.iter().find(|hierarchy| hierarchy.controllers.iter().any(|name| name == "memory")) {
        return v1.own.join("memory.memsw.limit_in_bytes").exists();
    }
    let Some(v2) = hierarchies.iter().find(|hierarchy| hierarchy.version == Version::V2) else { return false };
    let above = v2.own.ancestors().take_while(|folder| folder.starts_with(&v2.mount)).map(Path::to_owned);
    let others = fs::read_dir(&v2.mount).into_iter().flatten().flatten().map(|entry| entry.path());
    let limited = above.chain(others).find(|folder| folder.join("memory.max").exists());
    limited.is_some_and(|folder| folder.join("memory.swap.max").exists())
}

/// The controllers of each hierarchy, none for v2, and where in it a process is.
pub(super) fn memberships(pid: i32) -> Result<Vec<(Vec<String>, String)>> {
    let path = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&path).at("read", &path)?;
    Ok(parse(&text).into_iter().map(|membership| (membership.controllers, membership.path)).collect())
}

/// One line of `/proc/self/cgroup`.
#[derive(Debug, PartialEq, Eq)]
struct Membership {
    controllers: Vec<String>,
    path: String,
}

/// Reads `/proc/self/cgroup` (`cgroups(7)`): `4:memory:/a/b`, and `0::/a` for v2.
fn parse(text: &str) -> Vec<Membership> {
    let line = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Some(Membership { controllers, path: fields.next()?.to_owned() })
    };
    text.lines().filter_map(line).collect()
}

fn locate(root: &Path, membership: &Membership) -> Option<Hierarchy> {
    let version = if membership.controllers.is_empty() { Version::V2 } else { Version::V1 };
    let mut hierarchy =
        Hierarchy { version, mount: root.to_owned(), controllers: membership.controllers.clone(), own: PathBuf::new() };
    let mut candidates = Vec::new();
    match version {
        Version::V2 => candidates.extend([root.to_owned(), root.join("unified")]),
        Version::V1 => {
            candidates.push(root.join(hierarchy.name()));
            candidates.extend(membership.controllers.iter().map(|controller| root.join(controller)));
        }
    }
    hierarchy.mount = candidates.into_iter().find(|folder| is_cgroup(folder, version))?;
    let below = membership.path.trim_start_matches('/');
    hierarchy.own = match hierarchy.mount.join(below) {
        own if !below.is_empty() && own.is_dir() => own,
        // In a container without a cgroup namespace the mount shows a part of the hierarchy, and the path does not fit.
        _ => hierarchy.mount.clone(),
    };
    Some(hierarchy)
}

/// By the file system's magic number: a plain folder in a tmpfs is not a cgroup.
fn is_cgroup(folder: &Path, version: Version) -> bool {
    /// `CGROUP_SUPER_MAGIC`
    const V1: u64 = 0x0027_e0eb;
    /// `CGROUP2_SUPER_MAGIC`
    const V2: u64 = 0x6367_7270;
    let magic = if version == Version::V1 { V1 } else { V2 };
    rustix::fs::statfs(folder).is_ok_and(|found| found.f_type as u64 == magic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memberships() {
        let text = "9:name=systemd:/\n4:memory:/a:b/c\n2:cpu,cpuacct:/\n0::/user.slice\n";
        let parsed = parse(text);
        let pairs: Vec<_> = parsed.iter().map(|m| (m.controllers.join(","), m.path.as_str())).collect();
        let expected = [("name=systemd", "/"), ("memory", "/a:b/c"), ("cpu,cpuacct", "/"), ("", "/user.slice")];
        assert_eq!(pairs, expected.map(|(controllers, path)| (controllers.to_owned(), path)));
    }

    #[test]
    fn swap_is_limited_where_a_cgroup_says_so() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (mount, own) = (dir.path().to_owned(), dir.path().join("user/session"));
        let sibling = dir.path().join("system");
        for folder in [&own, &sibling] {
            std::fs::create_dir_all(folder).expect("folder");
        }
        let hierarchies = [Hierarchy { version: Version::V2, mount, controllers: Vec::new(), own: own.clone() }];
        assert!(!limits_swap(&hierarchies));
        std::fs::write(sibling.join("memory.max"), "max").expect("file");
        assert!(!limits_swap(&hierarchies));
        std::fs::write(sibling.join("memory.swap.max"), "max").expect("file");
        assert!(limits_swap(&hierarchies));
        std::fs::write(own.join("memory.max"), "max").expect("file");
        assert!(!limits_swap(&hierarchies));
        let v1 = Hierarchy { version: Version::V1, controllers: vec!["memory".to_owned()], ..hierarchies[0].clone() };
        assert!(!limits_swap(std::slice::from_ref(&v1)));
        std::fs::write(own.join("memory.memsw.limit_in_bytes"), "").expect("file");
        assert!(limits_swap(&[v1]));
    }

    #[test]
    fn a_plain_folder_is_no_hierarchy() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(dir.path().join("memory")).expect("folder");
        let membership = Membership { controllers: vec!["memory".to_owned()], path: "/".to_owned() };
        assert_eq!(locate(dir.path(), &membership), None);
    }
}
