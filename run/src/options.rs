//! What the user asked for: plain data, checked for its form, not yet for what the image or this machine allow.
//!
//! The structs follow what a setting is about, not the flag it came from. They are stored with the container, so that
//! `start` finds them again; a new field therefore needs a serde default, which every struct here has.

mod namespaces;
mod parse;

use std::path::PathBuf;

use layerfs::mount::Backend;
use serde::{Deserialize, Serialize};

pub use namespaces::{
    IdKind, IdRule, Share, SharedMemory, UserNamespace, id_rule, id_rules, ipc, share, user_namespace,
};
pub(crate) use parse::normal;
pub use parse::{
    cpus, device, duration, environment, environment_file, host_entry, memory, memory_swap, mount, mount_backend,
    network, publish, security, signal, signal_name, size, stop_timeout, sysctl, tmpfs, ulimit, umask, volume,
};

/// Everything `run` and `create` can be told about a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunOptions {
    /// The container's name; `None` lets one be made from its ID.
    pub name: Option<String>,
    /// Labels, in the order given.
    pub labels: Vec<(String, String)>,
    /// Remove the container when it has ended.
    pub remove: Removal,
    /// What runs, and as whom.
    pub process: ProcessOptions,
    /// What the container shares with the host, and what it may do.
    pub isolation: IsolationOptions,
    /// File systems.
    pub storage: StorageOptions,
    /// Limits.
    pub resources: ResourceOptions,
    /// Network, names and ports.
    pub network: NetworkOptions,
    /// When it is started again.
    pub restart: crate::restart::Policy,
    /// What becomes of the output.
    pub log: LogDriver,
    /// How to stop it.
    pub stop: StopOptions,
}

/// Whether a container outlives its process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Removal {
    /// It stays until `rm`.
    #[default]
    Keep,
    /// `--rm`: it goes with its process.
    OnExit,
}

/// The process: words, environment, identity, terminal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessOptions {
    /// Words after the image: they replace the image's `Cmd`.
    pub command: Vec<String>,
    /// Replaces the image's `Entrypoint`, and drops its `Cmd`; empty to have none.
    pub entrypoint: Option<Vec<String>>,
    /// Variables, later ones win.
    pub environment: Vec<(String, String)>,
    /// Working folder.
    pub workdir: Option<String>,
    /// `USER[:GROUP]`, resolved against the image.
    pub user: Option<String>,
    /// Further groups, by name or number.
    pub groups: Vec<String>,
    /// The file mode creation mask.
    pub umask: Option<u32>,
    /// Standard streams.
    pub streams: Streams,
    /// File descriptors from 3 on that are handed over.
    pub preserve_fds: u32,
    /// A small init as process 1.
    pub init: bool,
}

/// How the standard streams are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Streams {
    /// `-t`: a terminal of its own.
    pub terminal: bool,
    /// `-i`: standard input is passed.
    pub interactive: bool,
}

/// Namespaces, capabilities, filters, devices.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IsolationOptions {
    /// User namespace.
    pub user: UserNamespace,
    /// IPC namespace.
    pub ipc: Share,
    /// What of it is shared memory.
    pub shared_memory: SharedMemory,
    /// PID namespace.
    pub pid: Share,
    /// UTS namespace.
    pub uts: Share,
    /// Cgroup namespace.
    pub cgroup: Share,
    /// `--privileged`: every capability and device, no filter, no masks.
    pub privileged: bool,
    /// Capabilities to add, as written (`NET_ADMIN`, `CAP_NET_ADMIN`, `all`).
    pub cap_add: Vec<String>,
    /// Capabilities to drop.
    pub cap_drop: Vec<String>,
    /// `--security-opt`.
    pub security: Vec<SecurityOption>,
    /// Devices of the host.
    pub devices: Vec<DeviceRequest>,
    /// Kernel settings of the container's namespaces.
    pub sysctls: Vec<(String, String)>,
    /// Resource limits of the process.
    pub ulimits: Vec<Ulimit>,
}

/// One `--security-opt`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecurityOption {
    /// `no-new-privileges`.
    NoNewPrivileges,
    /// `seccomp=unconfined`.
    SeccompUnconfined,
    /// `seccomp=FILE`, a profile in docker's form.
    SeccompProfile(PathBuf),
    /// `label=disable`: no SELinux label.
    LabelDisable,
    /// `apparmor=NAME`, `unconfined` for none.
    AppArmor(String),
    /// `mask=PATH`.
    Mask(String),
    /// `unmask=PATH`, a pattern whose last component may be `*`, or `ALL`.
    Unmask(String),
}

/// A device node of the host, and where and how it appears.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRequest {
    /// On the host.
    pub source: PathBuf,
    /// In the container.
    pub destination: PathBuf,
    /// A subset of `rwm`.
    pub access: String,
}

/// A resource limit, with the name it has in `setrlimit(2)` in lowercase (`nofile`). `None` is unlimited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Such as `nofile`.
    pub name: String,
    /// What the process has.
    pub soft: Option<u64>,
    /// How far it may raise it.
    pub hard: Option<u64>,
}

/// File systems of the container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageOptions {
    /// Binds and tmpfs mounts, in the order given.
    pub mounts: Vec<MountRequest>,
    /// `--read-only`: the image cannot be written to.
    pub read_only: bool,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: Option<u64>,
    /// Who unites the image's layers.
    pub backend: MountBackend,
}

/// Who unites an image's layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountBackend {
    /// The kernel where it does it, otherwise the server of our own.
    #[default]
    Auto,
    /// The kernel's overlay file system.
    Overlay,
    /// The server of our own.
    Fuse,
}

impl MountBackend {
    /// The choice as mounts know it. The server is this program under another name.
    pub fn backend(self) -> Backend {
        let program = || PathBuf::from("/proc/self/exe");
        match self {
            Self::Auto => Backend::Auto(program()),
            Self::Overlay => Backend::Overlay,
            Self::Fuse => Backend::Fuse(program()),
        }
    }
}

/// A mount the user asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountRequest {
    /// A file or folder of the host.
    Bind {
        /// On the host; absolute.
        source: PathBuf,
        /// In the container; absolute.
        destination: PathBuf,
        /// Mount options of the runtime specification.
        options: Vec<String>,
    },
    /// A named volume, made where there is none.
    Volume {
        /// Its name.
        name: String,
        /// In the container; absolute.
        destination: PathBuf,
        /// Mount options of the runtime specification, and `nocopy`.
        options: Vec<String>,
    },
    /// A file system in memory.
    Tmpfs {
        /// In the container; absolute.
        destination: PathBuf,
        /// Mount options of the runtime specification.
        options: Vec<String>,
    },
    /// `-v PATH` alone: a folder that exists, whatever the image has there.
    Folder {
        /// In the container; absolute.
        destination: PathBuf,
    },
}

impl MountRequest {
    /// Where in the container it is.
    pub fn destination(&self) -> &std::path::Path {
        match self {
            Self::Bind { destination, .. }
            | Self::Volume { destination, .. }
            | Self::Tmpfs { destination, .. }
            | Self::Folder { destination } => destination,
        }
    }

    /// Whether others may write to what it shows.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Bind { .. } | Self::Volume { .. })
    }
}

/// Limits that the kernel's control groups carry out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceOptions {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory and swap together; -1 is unlimited.
    pub memory_swap: Option<i64>,
    /// CPU time per 100 ms, in microseconds.
    pub cpu_quota: Option<i64>,
    /// CPU weight, 1024 being usual.
    pub cpu_shares: Option<u64>,
    /// CPUs by number, such as `0-3,7`.
    pub cpuset_cpus: Option<String>,
    /// Processes; -1 is unlimited.
    pub pids: Option<i64>,
}

/// Which network the container is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkMode {
    /// Nobody said: `pasta` where it works, else `none` with a note.
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The host's.
    Host,
    /// Its own, connected through `pasta`.
    Pasta(Vec<String>),
    /// That of another container, by name or ID.
    Container(String),
    /// A network namespace by path.
    Path(PathBuf),
}

/// Network, names and ports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkOptions {
    /// Which network.
    pub mode: NetworkMode,
    /// The host name; `None` for the container's short ID.
    pub hostname: Option<String>,
    /// Published ports.
    pub ports: Vec<PortMapping>,
    /// Further lines of `/etc/hosts`: name and address, or `host-gateway`.
    pub hosts: Vec<(String, String)>,
    /// Name servers in place of the host's.
    pub dns: Vec<String>,
    /// Search domains in place of the host's.
    pub dns_search: Vec<String>,
}

/// `-p [IP:][HOST:]CONTAINER[/PROTOCOL]`, a run of `count` ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// The host address that listens; `None` for all.
    pub address: Option<String>,
    /// First port of the host.
    pub host: u16,
    /// First port of the container.
    pub container: u16,
    /// How many.
    pub count: u16,
    /// `tcp` or `udp`.
    pub protocol: Protocol,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// What becomes of the container's output besides being shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogDriver {
    /// A file of its own in the form of Kubernetes, read by `logs`.
    #[default]
    K8sFile,
    /// Nothing.
    None,
}

/// How the container is asked to stop.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StopOptions {
    /// In place of the image's `StopSignal`.
    pub signal: Option<i32>,
    /// Seconds before it is killed.
    pub timeout: Option<u64>,
}
