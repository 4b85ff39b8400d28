//! A bundle: a folder with `config.json`, read and made ready for the launcher.

use std::fs;
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use oci_spec::runtime::Spec;

use crate::cgroup;
use crate::launch::{Created, Identity, Io, Launch, Rootfs, create};
use crate::spec::default_device_rules;

/// Largest `config.json` that is read, in bytes.
const CONFIG_MAX: u64 = 16 << 20;

/// A bundle, and what was decided about it.
#[derive(Debug)]
pub(super) struct Bundle {
    /// The container's id, and the folder: absolute.
    pub(super) identity: Identity,
    /// What it says.
    pub(super) spec: Spec,
    /// Where its processes are counted.
    pub(super) cgroup: cgroup::Plan,
    root: PathBuf,
}

impl Bundle {
    /// Reads a bundle for a container `id`.
    pub(super) fn read(folder: &Path, id: &str, systemd_cgroup: bool) -> Result<Self> {
        let folder = fs::canonicalize(folder).at("open bundle", folder)?;
        let path = folder.join("config.json");
        let size = fs::metadata(&path).at("open", &path)?.len();
        if size > CONFIG_MAX {
            return Err(Error::new(Kind::Limit, format!("`{}` has {size} bytes", path.display())));
        }
        let bytes = fs::read(&path).at("read", &path)?;
        let mut spec = crate::spec::read(&bytes).at("read", &path)?;
        let root = spec.root().as_ref().map(|root| folder.join(root.path()));
        let root = root.ok_or_else(|| Error::new(Kind::Invalid, format!("`{}` names no root", path.display())))?;
        allow_default_devices(&mut spec);
        let linux = spec.linux().as_ref();
        let name = cgroup_name(linux.and_then(|linux| linux.cgroups_path().as_deref()), id, systemd_cgroup);
        let cgroup = cgroup::plan(linux.and_then(|linux| linux.resources().as_ref()), &name)?;
        let identity = Identity { id: id.to_owned(), bundle: folder };
        Ok(Self { identity, spec, cgroup, root })
    }

    /// Whether its process wants a terminal.
    pub(super) fn has_terminal(&self) -> bool {
        self.spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false)
    }

    /// The size its terminal begins with: columns and rows.
    pub(super) fn terminal_size(&self) -> (u16, u16) {
        let size = self.spec.process().as_ref().and_then(|process| process.console_size());
        let clip = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
        size.map_or((80, 24), |size| (clip(size.width()), clip(size.height())))
    }

    /// Makes the container.
    pub(super) fn launch(&self, io: Io, preserve_fds: u32, dies_with_parent: bool) -> Result<Created> {
        let launch = Launch::new(&self.spec, Rootfs::Path(self.root.clone()), io, self.cgroup.clone());
        create(Launch { preserve_fds, dies_with_parent, identity: Some(&self.identity), ..launch })
    }
}

/// Rules of a `Spec` are on top of what a runtime lets every container use; after those, so that they can take it back,
/// but for a first rule that denies everything.
fn allow_default_devices(spec: &mut Spec) {
    let rules = spec.linux_mut().as_mut().and_then(|linux| linux.resources_mut().as_mut()?.devices_mut().as_mut());
    if let Some(rules) = rules.filter(|rules| !rules.is_empty()) {
        let denies_all = !rules[0].allow() && rules[0].major().is_none() && rules[0].minor().is_none();
        let at = usize::from(denies_all);
        rules.splice(at..at, default_device_rules());
    }
}

/// The cgroup's path: systemd's form `slice:prefix:name` names the folder that systemd would have made.
fn cgroup_name(path: Option<&Path>, id: &str, systemd: bool) -> PathBuf {
    let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else {
        return PathBuf::from(format!("layerfs-{id}"));
    };
    let text = path.to_string_lossy();
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        [slice, prefix, name] if systemd => {
            let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}-") };
            slice_folder(slice).join(format!("{prefix}{name}.scope"))
        }
        _ => path.to_owned(),
    }
}

/// `a-b.slice` lies in `a.slice` (systemd.slice(5)).
fn slice_folder(slice: &str) -> PathBuf {
    let name = if slice.is_empty() { "system.slice" } else { slice };
    let Some(stem) = name.strip_suffix(".slice") else { return PathBuf::from("/").join(name) };
    let mut folder = PathBuf::from("/");
    let mut sofar = String::new();
    for word in stem.split('-').filter(|word| !word.is_empty()) {
        sofar = if sofar.is_empty() { word.to_owned() } else { format!("{sofar}-{word}") };
        folder.push(format!("{sofar}.slice"));
    }
    folder
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: Option<&str>, systemd: bool, expected: &str) {
        assert_eq!(cgroup_name(path.map(Path::new), "c", systemd), Path::new(expected));
    }

    #[test]
    fn cgroups_have_paths_of_both_kinds() {
        check(None, false, "layerfs-c");
        check(Some(""), false, "layerfs-c");
        check(Some("/a/b"), false, "/a/b");
        check(Some("machine-x.slice:libpod:abc"), true, "/machine.slice/machine-x.slice/libpod-abc.scope");
        check(Some(":cri:abc"), true, "/system.slice/cri-abc.scope");
        check(Some("a:b:c"), false, "a:b:c");
    }

    #[test]
    fn default_devices_come_after_the_denial_of_all() {
        let rules = r#"[{"allow":false,"access":"rwm"},{"allow":false,"type":"c","major":1,"minor":3,"access":"w"}]"#;
        let text = format!(r#"{{"ociVersion":"1.0.2","linux":{{"resources":{{"devices":{rules}}}}}}}"#);
        let mut spec: Spec = serde_json::from_str(&text).expect("valid");
        allow_default_devices(&mut spec);
        let rules = spec.linux().as_ref().and_then(|l| l.resources().as_ref()?.devices().clone()).expect("rules");
        assert_eq!((rules.len(), rules[0].allow(), rules[1].allow(), rules[11].allow()), (12, false, true, false));
    }
}
