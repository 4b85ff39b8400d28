//! What is known of containers made from bundles: one folder each below `--root`.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::userns::Mapping;
use oci_spec::runtime::Hooks;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::bundle::Bundle;
use crate::cgroup::Cgroup;
use crate::launch::{Created, Identity, hooks};
use crate::rootfs::shared;
use crate::spec::VERSION;
use crate::state::ProcessId;
use crate::time;

/// The socket by which a created container is started.
const START: &str = "start";
/// What it is.
const RECORD: &str = "state.json";
/// What became of it.
const LIFE: &str = "process.json";

/// `state.json`. Written once, before anything is made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Record {
    id: String,
    bundle: PathBuf,
    root: PathBuf,
    created: String,
    owner: u32,
    cgroup: Cgroup,
    annotations: HashMap<String, String>,
    /// As they were when it was created: what becomes of the bundle later is nothing to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hooks: Option<Hooks>,
    /// Its first process takes all others along when it ends.
    own_pid_namespace: bool,
    /// Its mounts are in its maker's mount namespace.
    callers_mounts: bool,
}

/// `process.json`. A file of its own, so that nothing is ever written anew: replacing a file by a rename has a disk's
/// file system allocate and write what is gone a moment later.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Life {
    process: ProcessId,
    /// As it was made.
    cgroup: Cgroup,
    /// The number of its root's mount, where that is one of its maker's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mount: Option<u64>,
}

/// The specification's word for where a container is in its life, and one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// All of one root.
#[derive(Debug)]
pub(super) struct Instances {
    root: PathBuf,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Instance {
    folder: PathBuf,
    record: Record,
    /// Its first process, once it has one.
    process: Option<ProcessId>,
    /// Its root's mount, where nobody else takes that away.
    mount: Option<u64>,
}

impl Instances {
    /// Engines call some verbs without `--root` and with an almost empty environment, so the place follows from who
    /// calls alone. Root has one whatever its session is.
    pub(super) fn of(root: Option<&Path>) -> Result<Self> {
        let uid = rustix::process::geteuid();
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty()).map(PathBuf::from);
        let root = match (root, runtime) {
            (Some(root), _) => std::path::absolute(root).at("find", root)?,
            (None, Some(runtime)) if !uid.is_root() || !Mapping::current()?.is_host() => {
                runtime.join("layerfs-runtime")
            }
            (None, _) if uid.is_root() => PathBuf::from("/run/layerfs-runtime"),
            (None, _) => PathBuf::from(format!("/tmp/layerfs-runtime-{}", uid.as_raw())),
        };
        Ok(Self { root })
    }

    /// The root may lie in a folder of everybody's, where somebody else could have made it first.
    fn make_root(&self) -> Result<()> {
        fs::DirBuilder::new().mode(0o700).recursive(true).create(&self.root).at("create", &self.root)?;
        let owner = fs::metadata(&self.root).at("look at", &self.root)?.uid();
        if owner != rustix::process::geteuid().as_raw() {
            return Err(Error::new(
                Kind::Denied,
                format!("the folder of containers `{}` belongs to user {owner}", self.root.display()),
            )
            .hint("name another one by --root, or set XDG_RUNTIME_DIR"));
        }
        Ok(())
    }

    /// Claims an id for a container that is to be made. Of several who ask at once, one gets it.
    pub(super) fn claim(&self, id: &str) -> Result<Claim> {
        check_id(id)?;
        self.make_root()?;
        let folder = self.root.join(id);
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => Ok(Claim(Some(folder))),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(Error::new(Kind::Conflict, format!("container `{id}` exists already")))
            }
            Err(error) => Err(error).at("create", &folder),
        }
    }

    /// The one with this id.
    pub(super) fn find(&self, id: &str) -> Result<Instance> {
        check_id(id)?;
        let folder = self.root.join(id);
        let Some(mut record) = read::<Record>(&folder.join(RECORD))? else {
            if !folder.is_dir() {
                return Err(Error::new(Kind::NotFound, format!("container `{id}` does not exist")));
            }
            // Half-made: there is nothing to know of it but that it can be deleted.
            let record = Record { id: id.to_owned(), ..Record::default() };
            return Ok(Instance { folder, record, process: None, mount: None });
        };
        let (mut process, mut mount) = (None, None);
        if let Some(life) = read::<Life>(&folder.join(LIFE))? {
            record.cgroup = life.cgroup;
            (process, mount) = (Some(life.process), life.mount);
        }
        Ok(Instance { folder, record, process, mount })
    }

    pub(super) fn all(&self) -> Result<Vec<Instance>> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.at("read", &self.root)?,
        };
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        Ok(names.iter().filter_map(|name| self.find(name).ok()).collect())
    }
}

/// A folder below the root: a container's claim to its id. It goes again where nothing comes of it.
#[derive(Debug)]
pub(super) struct Claim(Option<PathBuf>);

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(folder) = self.0.take() {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

impl Claim {
    /// Writes down what is to be made, for whoever clears up.
    pub(super) fn write(mut self, bundle: &Bundle) -> Result<Instance> {
        let record = Record {
            id: bundle.identity.id.clone(),
            bundle: bundle.identity.bundle.clone(),
            root: bundle.root.clone(),
            owner: rustix::process::geteuid().as_raw(),
            created: time::format(time::now()),
            cgroup: bundle.cgroup.cgroup(),
            annotations: bundle.spec.annotations().clone().unwrap_or_default(),
            hooks: bundle.spec.hooks().clone(),
            own_pid_namespace: bundle.has_own_pid_namespace(),
            callers_mounts: shared::has_callers_mounts(&bundle.spec),
        };
        let folder = self.0.as_deref().unwrap_or(Path::new(""));
        write_new(&folder.join(RECORD), &record)?;
        Ok(Instance { folder: self.0.take().unwrap_or_default(), record, process: None, mount: None })
    }
}

impl Instance {
    /// Writes down its first process, and the cgroup as it was made.
    pub(super) fn record(&mut self, created: &Created) -> Result<()> {
        let mount = if self.record.callers_mounts { shared::mount_at(&self.record.root) } else { None };
        let life = Life { process: ProcessId::of(created.pid())?, cgroup: created.cgroup().clone(), mount };
        write_new(&self.folder.join(LIFE), &life)?;
        self.record.cgroup = life.cgroup;
        self.process = Some(life.process);
        self.mount = life.mount;
        Ok(())
    }

    pub(super) fn id(&self) -> &str {
        &self.record.id
    }

    /// Whom hooks and agents are told about.
    pub(super) fn identity(&self) -> Identity {
        Identity { id: self.record.id.clone(), bundle: self.record.bundle.clone() }
    }

    pub(super) fn bundle(&self) -> &Path {
        &self.record.bundle
    }

    pub(super) fn cgroup(&self) -> &Cgroup {
        &self.record.cgroup
    }

    pub(super) fn has_own_pid_namespace(&self) -> bool {
        self.record.own_pid_namespace
    }

    /// Its folder's socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join(START)
    }

    /// The first process, where it lives.
    pub(super) fn open_process(&self) -> Result<OwnedFd> {
        let stopped = || Error::new(Kind::Conflict, format!("container not running: `{}` is stopped", self.record.id));
        self.process.as_ref().and_then(ProcessId::open).ok_or_else(stopped)
    }

    /// The numbers of its processes.
    pub(super) fn processes(&self) -> Result<Vec<i32>> {
        let pids = self.record.cgroup.processes()?;
        match &self.process {
            // Without a cgroup only this one is known.
            Some(process) if pids.is_empty() && process.is_alive() => Ok(vec![process.pid]),
            _ => Ok(pids),
        }
    }

    /// Where it is in its life.
    pub(super) fn status(&self) -> Status {
        match &self.process {
            None => Status::Creating,
            Some(process) if !process.is_alive() => Status::Stopped,
            Some(_) if self.record.cgroup.is_frozen() => Status::Paused,
            Some(_) if self.socket().exists() => Status::Created,
            Some(_) => Status::Running,
        }
    }

    /// The state as the specification has it (runtime.md, "State"), with what runc and crun say besides.
    pub(super) fn state(&self) -> Value {
        let status = self.status();
        let pid = self.process.as_ref().filter(|_| status != Status::Stopped).map_or(0, |process| process.pid);
        json!({
            "ociVersion": VERSION,
            "id": self.record.id,
            "pid": pid,
            "status": status.word(),
            "bundle": self.record.bundle,
            "rootfs": self.record.root,
            "created": self.record.created,
            "owner": user_name(self.record.owner),
            "annotations": self.record.annotations,
        })
    }

    /// Removes what is left of it: whoever still lives in its cgroup, that, and its folder, which stays for another
    /// try where the cgroup does. Its `poststop` hooks come last, and what goes wrong there is only a warning.
    pub(super) fn remove(&self) -> Result<()> {
        self.record.cgroup.destroy()?;
        if let Some(mount) = self.mount {
            shared::let_go(&self.record.root, mount)?;
        }
        match fs::remove_dir_all(&self.folder) {
            // Whoever made it and failed took it away at this moment.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            removed => removed.at("remove", &self.folder)?,
        }
        if let Some(all) = &self.record.hooks {
            for error in hooks::run_poststop(all, &self.record.annotations, &self.identity()) {
                let _ = writeln!(std::io::stderr(), "layerfs-runtime: warning: {}", error.chain());
            }
        }
        Ok(())
    }
}

/// Writes a file that is not there yet, by one call, so that whoever reads it meanwhile finds all of it or nothing.
fn write_new(path: &Path, value: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(value).context(|| "write JSON")?;
    let file = fs::File::options().write(true).create_new(true).open(path);
    file.and_then(|mut file| file.write_all(&bytes)).at("write", path)
}

/// What such a file says; nothing, where it is not there or not written yet.
fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) if bytes.is_empty() => Ok(None),
        Ok(bytes) => serde_json::from_slice(&bytes).at("read", path).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at("read", path),
    }
}

/// As the host's own list has it; the number where it has none.
fn user_name(uid: u32) -> String {
    let list = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let number = uid.to_string();
    let line = list.lines().find(|line| line.split(':').nth(2) == Some(&number));
    line.and_then(|line| line.split(':').next()).map_or(number.clone(), str::to_owned)
}

/// crun's grammar: no separator of paths, nothing that looks like a flag or a hidden file.
fn check_id(id: &str) -> Result<()> {
    let first = |b: u8| b.is_ascii_alphanumeric() || b"_+-".contains(&b);
    let valid = id.bytes().next().is_some_and(first) && id.bytes().all(|b| first(b) || b == b'.') && id.len() <= 255;
    match valid {
        true => Ok(()),
        false => Err(Error::new(Kind::Usage, format!("invalid character in container ID `{}`", id.escape_debug()))
            .hint("letters, digits and `_+-.`, at most 255, and no dot in front")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_no_paths() {
        for (id, valid) in
            [("a", true), ("A_1+x.y-z", true), ("", false), (".", false), ("..", false), ("a/b", false), (".a", false)]
        {
            assert_eq!(check_id(id).is_ok(), valid, "{id}");
        }
    }
}
