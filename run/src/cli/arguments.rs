//! The flags of `run` and `create`, as podman and docker have them, and their way into [`RunOptions`].

use std::env;
use std::fs;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::Platform;

use crate::options::{
    self, DeviceRequest, IdRule, IsolationOptions, LogDriver, MountRequest, NetworkMode, NetworkOptions, PortMapping,
    ProcessOptions, Removal, ResourceOptions, RunOptions, SecurityOption, Share, SharedMemory, StopOptions,
    StorageOptions, Streams, Ulimit, UserNamespace,
};
use crate::pull;
use crate::restart::Policy;
use crate::terminal::DetachKeys;

/// A container to be made.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Options")]
pub(super) struct CreateArguments {
    #[command(flatten)]
    process: ProcessFlags,
    #[command(flatten)]
    isolation: IsolationFlags,
    #[command(flatten)]
    storage: StorageFlags,
    #[command(flatten)]
    resources: ResourceFlags,
    #[command(flatten)]
    network: NetworkFlags,
    #[command(flatten)]
    life: LifeFlags,
    #[command(flatten)]
    pub(super) image: ImageFlags,
    /// The image, then the command and its arguments
    #[arg(value_name = "IMAGE [COMMAND]", required = true, trailing_var_arg = true)]
    pub(super) words: Vec<String>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Process")]
struct ProcessFlags {
    /// Pass standard input
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    interactive: Option<bool>,
    /// Give the container a terminal
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    tty: Option<bool>,
    /// Set a variable: NAME=VALUE, NAME for the caller's own, PREFIX*
    #[arg(short, long, value_name = "VARIABLE")]
    env: Vec<String>,
    /// Begin with all variables of the caller's own
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    env_host: Option<bool>,
    /// Read variables from a file
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Working folder in the container
    #[arg(short, long, value_name = "FOLDER")]
    workdir: Option<String>,
    /// Whom to run as, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Further groups
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// Replace the image's entrypoint; a JSON list for several words
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// File mode creation mask
    #[arg(long, value_parser = options::umask)]
    umask: Option<u32>,
    /// Run a small init as process 1
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    init: Option<bool>,
    /// Hand over this many descriptors from 3 on
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    preserve_fds: u32,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Isolation")]
struct IsolationFlags {
    /// IPC namespace: shareable (usual), private, none, host, container:NAME, ns:PATH
    #[arg(long, value_name = "MODE", value_parser = options::ipc)]
    ipc: Option<(Share, SharedMemory)>,
    /// Process namespace: private, host, container:NAME, ns:PATH
    #[arg(long, value_name = "MODE", value_parser = options::share)]
    pid: Option<Share>,
    /// UTS namespace: private, host, container:NAME, ns:PATH
    #[arg(long, value_name = "MODE", value_parser = options::share)]
    uts: Option<Share>,
    /// Cgroup namespace: private, host, container:NAME, ns:PATH
    #[arg(long, value_name = "MODE", value_parser = options::share)]
    cgroupns: Option<Share>,
    /// User namespace: host (usual), keep-id, auto, nomap, container:NAME, ns:PATH
    #[arg(long, value_name = "MODE", value_parser = options::user_namespace, conflicts_with_all = ["uidmap", "gidmap", "subuidname", "subgidname"])]
    userns: Option<UserNamespace>,
    /// A user namespace with these user ids
    #[arg(long, value_name = "CONTAINER:FROM[:SIZE]", value_parser = options::id_rule, value_delimiter = ',', conflicts_with_all = ["subuidname", "subgidname"])]
    uidmap: Vec<IdRule>,
    /// A user namespace with these group ids
    #[arg(long, value_name = "CONTAINER:FROM[:SIZE]", value_parser = options::id_rule, value_delimiter = ',', conflicts_with_all = ["subuidname", "subgidname"])]
    gidmap: Vec<IdRule>,
    /// A user namespace with the ids of this name in /etc/subuid
    #[arg(long, value_name = "NAME")]
    subuidname: Option<String>,
    /// The same for /etc/subgid
    #[arg(long, value_name = "NAME")]
    subgidname: Option<String>,
    /// Every capability and device, no seccomp filter, nothing masked
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    privileged: Option<bool>,
    /// Add a capability, or ALL
    #[arg(long, value_name = "CAPABILITY", value_delimiter = ',')]
    cap_add: Vec<String>,
    /// Drop a capability, or ALL
    #[arg(long, value_name = "CAPABILITY", value_delimiter = ',')]
    cap_drop: Vec<String>,
    /// no-new-privileges, seccomp=, apparmor=, label=disable, mask=, unmask=
    #[arg(long, value_name = "OPTION", value_parser = security)]
    security_opt: Vec<Vec<SecurityOption>>,
    /// Give the container a device of the host
    #[arg(long, value_name = "SOURCE[:DESTINATION][:rwm]", value_parser = options::device)]
    device: Vec<DeviceRequest>,
    /// Set a kernel setting of the container's namespaces
    #[arg(long, value_name = "NAME=VALUE", value_parser = options::sysctl)]
    sysctl: Vec<(String, String)>,
    /// Set a resource limit of the process
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = options::ulimit)]
    ulimit: Vec<Ulimit>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Storage")]
struct StorageFlags {
    /// Show a file or folder of the host, or a volume, in the container
    #[arg(short, long, value_name = "SOURCE:DESTINATION[:OPTIONS]", value_parser = volume)]
    volume: Vec<MountRequest>,
    /// The same in words: type=bind|volume|tmpfs,source=,target=,readonly
    #[arg(long, value_name = "KEY=VALUE,…", value_parser = mount)]
    mount: Vec<MountRequest>,
    /// The volumes of another container too
    #[arg(long, value_name = "CONTAINER[:ro]")]
    volumes_from: Vec<String>,
    /// A file system in memory
    #[arg(long, value_name = "PATH[:OPTIONS]", value_parser = options::tmpfs)]
    tmpfs: Vec<MountRequest>,
    /// The image cannot be written to
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    read_only: Option<bool>,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE", value_parser = options::size)]
    shm_size: Option<u64>,
    /// How the image is mounted
    #[arg(long, value_name = "auto|overlay|fuse", value_parser = options::mount_backend, default_value = "auto", hide_default_value = true)]
    mount_backend: options::MountBackend,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits")]
struct ResourceFlags {
    /// Memory
    #[arg(short, long, value_name = "SIZE", value_parser = options::memory)]
    memory: Option<u64>,
    /// Memory and swap together, -1 for no limit
    #[arg(long, value_name = "SIZE", value_parser = options::memory_swap, allow_hyphen_values = true)]
    memory_swap: Option<i64>,
    /// CPUs, such as 1.5
    #[arg(long, value_name = "NUMBER", value_parser = options::cpus)]
    cpus: Option<i64>,
    /// CPU weight, 1024 being usual
    #[arg(short, long, value_name = "WEIGHT")]
    cpu_shares: Option<u64>,
    /// Which CPUs, such as 0-3
    #[arg(long, value_name = "LIST", value_parser = cpu_list)]
    cpuset_cpus: Option<String>,
    /// Processes, -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Network")]
struct NetworkFlags {
    /// pasta (usual), host, none, container:NAME, ns:PATH
    #[arg(long, visible_alias = "net", value_name = "MODE", value_parser = options::network)]
    network: Option<NetworkMode>,
    /// Publish a port
    #[arg(short, long, value_name = "[IP:][HOST:]CONTAINER[/udp]", value_parser = options::publish)]
    publish: Vec<PortMapping>,
    /// The container's host name
    #[arg(short = 'h', long, value_name = "NAME", value_parser = hostname)]
    hostname: Option<String>,
    /// A further line of /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = options::host_entry)]
    add_host: Vec<(String, String)>,
    /// Name server in place of the host's
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    dns: Vec<String>,
    /// Search domain in place of the host's
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Life")]
struct LifeFlags {
    /// The container's name
    #[arg(long)]
    name: Option<String>,
    /// Remove the container when it has ended
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    rm: Option<bool>,
    /// When it is started again: no, always, unless-stopped, on-failure[:COUNT]
    #[arg(long, value_name = "POLICY", value_parser = Policy::parse)]
    restart: Option<Policy>,
    /// A label
    #[arg(short, long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// What becomes of the output: k8s-file or none
    #[arg(long, value_name = "DRIVER", value_parser = log_driver)]
    log_driver: Option<LogDriver>,
    /// The signal that asks the container to stop
    #[arg(long, value_name = "SIGNAL", value_parser = options::signal)]
    stop_signal: Option<i32>,
    /// Seconds before it is killed
    #[arg(long, value_name = "SECONDS", value_parser = options::stop_timeout, allow_hyphen_values = true)]
    stop_timeout: Option<u64>,
    /// Write the container's ID to a file
    #[arg(long, value_name = "FILE")]
    cidfile: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Image")]
pub(super) struct ImageFlags {
    /// OS/ARCH[/VARIANT]
    #[arg(long)]
    pub(super) platform: Option<Platform>,
    /// When to pull the image
    #[arg(long, value_enum, default_value_t = Pull::Missing, num_args = 0..=1, default_missing_value = "always", hide_default_value = true)]
    pub(super) pull: Pull,
    /// Show nothing of the pull
    #[arg(short, long)]
    pub(super) quiet: bool,
}

/// `--pull`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Pull {
    /// Every time
    Always,
    /// Where the store does not have it
    Missing,
    /// Not at all
    Never,
    /// Every time, but the store's will do where the registry cannot be reached
    Newer,
}

impl From<Pull> for pull::Policy {
    fn from(pull: Pull) -> Self {
        match pull {
            Pull::Always => Self::Always,
            Pull::Missing => Self::Missing,
            Pull::Never => Self::Never,
            Pull::Newer => Self::Newer,
        }
    }
}

impl CreateArguments {
    /// The image as written.
    pub(super) fn image_name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// Whether the container has a folder that others have too.
    pub(super) fn shares_folders(&self) -> bool {
        let own = self.storage.volume.iter().chain(&self.storage.mount).any(MountRequest::is_shared);
        own || !self.storage.volumes_from.is_empty()
    }

    /// Whose volumes it has too.
    pub(super) fn volumes_from(&self) -> &[String] {
        &self.storage.volumes_from
    }

    /// Where the ID is to be written.
    pub(super) fn cidfile(&self) -> Option<&PathBuf> {
        self.life.cidfile.as_ref()
    }

    /// As plain data.
    ///
    /// # Errors
    /// A file of variables cannot be read, or an option's value is wrong.
    pub(super) fn options(&self) -> Result<RunOptions> {
        let Self { process, isolation, storage, resources, network, life, .. } = self;
        let restart = life.restart.unwrap_or_default();
        if is_on(life.rm) && restart != Policy::No {
            return Err(usage("--rm and --restart cannot both be: one removes what the other starts again".to_owned()));
        }
        Ok(RunOptions {
            name: life.name.clone(),
            labels: life.label.iter().map(|label| pair(label)).collect(),
            remove: if is_on(life.rm) { Removal::OnExit } else { Removal::Keep },
            process: process.options(&self.words[1..])?,
            isolation: isolation.options(),
            storage: storage.options(),
            resources: resources.options(),
            network: network.options(),
            restart,
            log: life.log_driver.unwrap_or_default(),
            stop: StopOptions { signal: life.stop_signal, timeout: life.stop_timeout },
        })
    }
}

/// A switch that may be followed by `=true` or `=false`.
fn is_on(switch: Option<bool>) -> bool {
    switch.unwrap_or(false)
}

/// The caller's environment.
pub(super) fn own_environment() -> Vec<(String, String)> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    env::vars_os().filter_map(text).collect()
}

/// Variables of files, then of flags.
pub(super) fn environment(files: &[PathBuf], flags: &[String]) -> Result<Vec<(String, String)>> {
    let mut variables = Vec::new();
    for path in files {
        let text = fs::read_to_string(path).at("read", path)?;
        variables.extend(options::environment_file(path, &text, own_environment)?);
    }
    for flag in flags {
        variables.extend(options::environment(flag, own_environment)?);
    }
    Ok(variables)
}

impl ProcessFlags {
    fn options(&self, command: &[String]) -> Result<ProcessOptions> {
        let mut variables = if is_on(self.env_host) { own_environment() } else { Vec::new() };
        variables.extend(environment(&self.env_file, &self.env)?);
        Ok(ProcessOptions {
            command: command.to_vec(),
            entrypoint: self.entrypoint.as_deref().map(entrypoint).transpose()?,
            environment: variables,
            workdir: self.workdir.clone(),
            user: self.user.clone(),
            groups: self.group_add.clone(),
            umask: self.umask,
            streams: Streams { terminal: is_on(self.tty), interactive: is_on(self.interactive) },
            preserve_fds: self.preserve_fds,
            init: is_on(self.init),
        })
    }
}

/// One program, or a JSON list of words; empty for none.
fn entrypoint(text: &str) -> Result<Vec<String>> {
    if text.starts_with('[') {
        return serde_json::from_str(text).map_err(|error| {
            Error::new(Kind::Usage, format!("--entrypoint `{text}` is not a JSON list of words")).because(error)
        });
    }
    Ok(if text.is_empty() { Vec::new() } else { vec![text.to_owned()] })
}

impl IsolationFlags {
    fn options(&self) -> IsolationOptions {
        let (ipc, shared_memory) = self.ipc.clone().unwrap_or_default();
        IsolationOptions {
            user: self.user_namespace(),
            ipc,
            shared_memory,
            pid: self.pid.clone().unwrap_or_default(),
            uts: self.uts.clone().unwrap_or_default(),
            cgroup: self.cgroupns.clone().unwrap_or_default(),
            privileged: is_on(self.privileged),
            cap_add: self.cap_add.clone(),
            cap_drop: self.cap_drop.clone(),
            security: self.security_opt.concat(),
            devices: self.device.clone(),
            sysctls: self.sysctl.clone(),
            ulimits: self.ulimit.clone(),
        }
    }
}

impl IsolationFlags {
    fn user_namespace(&self) -> UserNamespace {
        if !self.uidmap.is_empty() || !self.gidmap.is_empty() {
            return options::id_rules(&self.uidmap, &self.gidmap);
        }
        match (&self.subuidname, &self.subgidname) {
            (None, None) => self.userns.clone().unwrap_or_default(),
            // Most have the same name in both files.
            (Some(name), None) | (None, Some(name)) => UserNamespace::Named { user: name.clone(), group: name.clone() },
            (Some(user), Some(group)) => UserNamespace::Named { user: user.clone(), group: group.clone() },
        }
    }
}

impl StorageFlags {
    fn options(&self) -> StorageOptions {
        let mounts = self.volume.iter().chain(&self.mount).chain(&self.tmpfs).cloned().collect();
        StorageOptions {
            mounts,
            read_only: is_on(self.read_only),
            shm_size: self.shm_size,
            backend: self.mount_backend,
        }
    }
}

impl ResourceFlags {
    fn options(&self) -> ResourceOptions {
        ResourceOptions {
            memory: self.memory,
            memory_swap: self.memory_swap,
            cpu_quota: self.cpus,
            cpu_shares: self.cpu_shares,
            cpuset_cpus: self.cpuset_cpus.clone(),
            pids: self.pids_limit,
        }
    }
}

impl NetworkFlags {
    fn options(&self) -> NetworkOptions {
        NetworkOptions {
            mode: self.network.clone().unwrap_or_default(),
            hostname: self.hostname.clone(),
            ports: self.publish.clone(),
            hosts: self.add_host.clone(),
            dns: self.dns.clone(),
            dns_search: self.dns_search.clone(),
        }
    }
}

pub(super) fn pair(text: &str) -> (String, String) {
    text.split_once('=')
        .map_or_else(|| (text.to_owned(), String::new()), |(name, value)| (name.to_owned(), value.to_owned()))
}

fn usage(message: String) -> Error {
    Error::new(Kind::Usage, message)
}

/// podman takes several unmasked paths between colons.
fn security(text: &str) -> Result<Vec<SecurityOption>> {
    match text.split_once(['=', ':']) {
        Some((key @ ("mask" | "unmask"), paths)) => {
            paths.split(':').map(|path| options::security(&format!("{key}={path}"))).collect()
        }
        _ => options::security(text).map(|option| vec![option]),
    }
}

fn volume(text: &str) -> Result<MountRequest> {
    options::volume(text, &here()?)
}

fn mount(text: &str) -> Result<MountRequest> {
    options::mount(text, &here()?)
}

fn here() -> Result<PathBuf> {
    env::current_dir().context(|| "find the current folder")
}

fn cpu_list(text: &str) -> Result<String> {
    let number = |word: &str| !word.is_empty() && word.len() <= 5 && word.bytes().all(|b| b.is_ascii_digit());
    let range = |part: &str| part.split_once('-').map_or(number(part), |(from, to)| number(from) && number(to));
    match text.split(',').all(range) {
        true => Ok(text.to_owned()),
        false => Err(usage("not a list of CPUs such as 0-3,7".to_owned())),
    }
}

fn hostname(text: &str) -> Result<String> {
    let valid = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    match !text.is_empty() && text.len() <= 64 && text.bytes().all(valid) {
        true => Ok(text.to_owned()),
        false => Err(usage("not a host name: at most 64 letters, digits, `-`, `.` and `_`".to_owned())),
    }
}

fn address(text: &str) -> Result<String> {
    text.parse::<std::net::IpAddr>()
        .map(|address| address.to_string())
        .map_err(|_| usage("not an IP address".to_owned()))
}

fn log_driver(text: &str) -> Result<LogDriver> {
    match text {
        // podman's other name for it.
        "k8s-file" | "json-file" => Ok(LogDriver::K8sFile),
        "none" => Ok(LogDriver::None),
        _ => Err(usage(format!("log driver `{text}` is not supported by `run` yet; k8s-file and none are"))),
    }
}

/// What `run` has beyond `create`.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Options")]
pub(super) struct RunFlags {
    /// Leave the container to itself and print its ID
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    pub(super) detach: Option<bool>,
    /// Keys that let go of the container
    #[arg(long, value_name = "KEYS", default_value = DetachKeys::DEFAULT, value_parser = DetachKeys::parse)]
    pub(super) detach_keys: DetachKeys,
    /// Pass signals on to the container
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    pub(super) sig_proxy: Option<bool>,
    /// Write the process's ID to a file
    #[arg(long, value_name = "FILE")]
    pub(super) pidfile: Option<PathBuf>,
}
