//! From an image's configuration and the user's options to an OCI runtime `Spec`. Pure: facts about the host and about
//! the place made for the container come in as data, so one table of cases covers what would else need machines.
//!
//! What this module is not: it resolves no image, opens no file and mounts nothing. [`base_spec`] is also what `build`
//! runs its steps under, so a step and a container are confined alike.

pub mod caps;
mod mounts;
mod namespaces;
mod read;
pub mod user;

use std::path::PathBuf;

use layerfs::error::{Error, Kind, Result};
use layerfs::oci::ImageConfig;
use oci_spec::runtime::{
    BoxBuilder, Capabilities, Capability, Linux, LinuxCapabilities, LinuxCpu, LinuxDevice, LinuxDeviceBuilder,
    LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxMemory, LinuxPids, LinuxResources,
    LinuxResourcesBuilder, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, Root, Spec, User,
};

use crate::options::{ResourceOptions, RunOptions, SecurityOption, Share, Ulimit};
use crate::profile::{self, Machine};

pub use mounts::DEFAULT_SHM_SIZE;
pub use namespaces::{Joined, Users};
pub use read::{read, read_process};

/// The runtime specification we write and read.
pub const VERSION: &str = "1.3.0";

/// Where programs are looked for unless the image says otherwise, as everywhere.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Processes a container may have unless told otherwise: podman's number, against fork bombs.
pub const DEFAULT_PIDS: i64 = 2048;

/// Unreadable inside: hardware details and keys that a container has no business with (podman's list).
pub const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
];

/// Readable only: settings of the whole machine.
pub const READONLY_PATHS: [&str; 6] =
    ["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What this machine is like.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostFacts {
    /// The container's root is root of a user namespace only.
    pub rootless: bool,
    /// No other id than 0 exists in the namespace.
    pub single_id: bool,
    /// The group of terminals, 5, has no counterpart outside.
    pub no_tty_group: bool,
    /// Architecture, by Go's name.
    pub architecture: String,
    /// Major and minor version of the kernel.
    pub kernel: (u32, u32),
    /// The host's own name.
    pub hostname: String,
    /// SELinux is on.
    pub selinux: bool,
    /// The process limit can be applied.
    pub limits_pids: bool,
    /// Swap can be limited.
    pub limits_swap: bool,
    /// The text of the seccomp profile the options name.
    pub seccomp_profile: Option<String>,
    /// Nodes behind the devices the options ask for; with `privileged`, all of the host's.
    pub devices: Vec<DeviceNode>,
}

/// A device of the host that the container gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceNode {
    /// On the host.
    pub source: PathBuf,
    /// In the container.
    pub destination: PathBuf,
    /// Whether it is a block device; else a character device.
    pub block: bool,
    /// Device number.
    pub major: u32,
    /// Device number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// A subset of `rwm`.
    pub access: String,
}

/// What was made ready for this one container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Place {
    /// Sixty-four hexadecimal digits.
    pub id: String,
    /// Who the process is, resolved against the image.
    pub user: user::User,
    /// Which network namespace.
    pub network: NetworkNamespace,
    /// Which user namespace.
    pub users: Users,
    /// Which others of somebody else.
    pub joined: Joined,
    /// Files to show as `/etc/hosts` and so on: source and destination.
    pub files: Vec<(PathBuf, PathBuf)>,
    /// The program that is process 1 with `--init`.
    pub init: Option<PathBuf>,
    /// Size of the caller's terminal: columns and rows.
    pub terminal_size: Option<(u16, u16)>,
}

/// Which network namespace a container is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NetworkNamespace {
    /// A new one.
    #[default]
    New,
    /// The caller's.
    Host,
    /// An existing one.
    Path(PathBuf),
}

/// The frame every container has: namespaces, default mounts, capabilities, masked paths; no process words yet.
/// `build` sets the process and adds its mounts.
///
/// # Errors
/// There is no default seccomp profile for this architecture.
pub fn base_spec(host: &HostFacts) -> Result<Spec> {
    let options = RunOptions::default();
    let bounding: Capabilities = caps::DEFAULT.into_iter().collect();
    let mut process = Process::default();
    process
        .set_terminal(Some(false))
        .set_args(Some(Vec::new()))
        .set_env(Some(vec![format!("PATH={DEFAULT_PATH}")]))
        .set_cwd(PathBuf::from("/"))
        .set_user(User::default())
        .set_rlimits(None)
        .set_no_new_privileges(Some(false))
        .set_capabilities(Some(root_capabilities(&bounding)));
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces::list(&options, &NetworkNamespace::New, &Joined::default())))
        .set_resources(Some(resources(&options.resources, host)?))
        .set_masked_paths(Some(MASKED_PATHS.map(str::to_owned).to_vec()))
        .set_readonly_paths(Some(READONLY_PATHS.map(str::to_owned).to_vec()))
        .set_seccomp(Some(profile::reduce(
            profile::DEFAULT,
            &Machine { architecture: &host.architecture, capabilities: &bounding, kernel: host.kernel },
        )?));
    let mut root = Root::default();
    root.set_path(PathBuf::from("/")).set_readonly(Some(false));
    let mut spec = Spec::default();
    spec.set_version(VERSION.to_owned())
        .set_root(Some(root))
        .set_mounts(Some(mounts::defaults(&options, host, &Place::default())))
        .set_process(Some(process))
        .set_hostname(None)
        .set_annotations(None)
        .set_linux(Some(linux));
    Ok(spec)
}

/// The whole specification of one container.
///
/// # Errors
/// The options contradict each other or the image, or ask for what this machine cannot do; the error names it.
pub fn for_container(config: &ImageConfig, options: &RunOptions, host: &HostFacts, place: &Place) -> Result<Spec> {
    let bounding = capabilities(options)?;
    let mut process = process(config, options, host, place)?;
    process.set_capabilities(Some(process_capabilities(options, &bounding, place.user.uid)?));
    let mut linux = Linux::default();
    let (masked, readonly) = paths(options);
    namespaces::set(&mut linux, options, place)?;
    linux
        .set_sysctl(Some(namespaces::sysctls(options, place)?.into_iter().collect()))
        .set_devices(Some(if host.rootless { Vec::new() } else { devices(host)? }))
        .set_cgroups_path(Some(PathBuf::from(format!("layerfs-{}", place.id))))
        .set_masked_paths(Some(masked))
        .set_readonly_paths(Some(readonly))
        .set_seccomp(seccomp(options, host, &bounding)?);
    let mut resources = resources(&options.resources, host)?;
    resources.set_devices(Some(device_rules(options, host)?));
    linux.set_resources(Some(resources));
    let mut root = Root::default();
    root.set_path(PathBuf::from("/")).set_readonly(Some(options.storage.read_only));
    let mut spec = base_frame();
    spec.set_root(Some(root))
        .set_mounts(Some(mounts::all(options, host, place)?))
        .set_process(Some(process))
        .set_hostname(hostname(options, host, place)?)
        .set_linux(Some(linux));
    Ok(spec)
}

fn base_frame() -> Spec {
    let mut spec = Spec::default();
    spec.set_version(VERSION.to_owned()).set_annotations(None);
    spec
}

/// The name the container has; with the host's network, the host's name (podman does so, and programs that look up
/// their own name need it). `None` with another's UTS namespace.
///
/// # Errors
/// A name was given for a namespace that is not the container's.
pub fn hostname(options: &RunOptions, host: &HostFacts, place: &Place) -> Result<Option<String>> {
    match (&options.isolation.uts, &options.network.hostname) {
        (Share::Host, Some(_)) => Err(Error::new(Kind::Usage, "a host name cannot be set in the host's UTS namespace")),
        (Share::Container(_) | Share::Path(_), Some(_)) => {
            Err(Error::new(Kind::Usage, "a host name cannot be set in a UTS namespace that is not the container's own"))
        }
        (Share::Host | Share::Container(_) | Share::Path(_), None) => Ok(None),
        (Share::Private, Some(name)) => Ok(Some(name.clone())),
        (Share::Private, None) if place.network == NetworkNamespace::Host => Ok(Some(host.hostname.clone())),
        (Share::Private, None) => Ok(Some(short_id(&place.id).to_owned())),
    }
}

/// The first twelve digits of an id, for people.
pub fn short_id(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

fn process(config: &ImageConfig, options: &RunOptions, host: &HostFacts, place: &Place) -> Result<Process> {
    let asked = &options.process;
    let mut args = arguments(config, options)?;
    if place.init.is_some() {
        args.splice(0..0, [mounts::INIT_PATH.to_owned(), "--".to_owned()]);
    }
    let mut user = User::default();
    user.set_uid(place.user.uid).set_gid(place.user.gid).set_umask(Some(asked.umask.unwrap_or(0o022)));
    // With a single id there are no other groups to be in, and setgroups(2) is off.
    if !place.user.groups.is_empty() && !host.single_id {
        user.set_additional_gids(Some(place.user.groups.clone()));
    }
    let mut process = Process::default();
    process
        .set_terminal(Some(asked.streams.terminal))
        .set_args(Some(args))
        .set_env(Some(environment(config, options, host, place)?))
        .set_cwd(PathBuf::from(workdir(config, options)?))
        .set_user(user)
        .set_rlimits(Some(options.isolation.ulimits.iter().map(rlimit).collect::<Result<_>>()?))
        .set_no_new_privileges(Some(options.isolation.security.contains(&SecurityOption::NoNewPrivileges)));
    if let (true, Some((columns, rows))) = (asked.streams.terminal, place.terminal_size) {
        let size = BoxBuilder::default().width(columns).height(rows).build().map_err(unbuildable)?;
        process.set_console_size(Some(size));
    }
    for option in &options.isolation.security {
        if let SecurityOption::AppArmor(name) = option
            && name != "unconfined"
        {
            process.set_apparmor_profile(Some(name.clone()));
        }
    }
    Ok(process)
}

/// Entrypoint and command: the user's entrypoint drops the image's command; the user's command replaces it.
fn arguments(config: &ImageConfig, options: &RunOptions) -> Result<Vec<String>> {
    let asked = &options.process;
    let (mut words, command) = match &asked.entrypoint {
        Some(entrypoint) => (entrypoint.clone(), None),
        None => (config.strings("Entrypoint").unwrap_or_default(), config.strings("Cmd")),
    };
    match asked.command.is_empty() {
        true => words.extend(command.unwrap_or_default()),
        false => words.extend(asked.command.iter().cloned()),
    }
    if words.is_empty() {
        return Err(
            Error::new(Kind::Usage, "the image names no command, and none was given").hint("write one after the image")
        );
    }
    if let Some(word) = words.iter().find(|word| word.contains('\0')) {
        return Err(Error::new(Kind::Invalid, format!("`{}` holds a NUL byte", word.escape_debug())));
    }
    Ok(words)
}

/// The folder the process begins in.
pub(crate) fn workdir(config: &ImageConfig, options: &RunOptions) -> Result<String> {
    checked_workdir(options.process.workdir.as_deref().or_else(|| config.text("WorkingDir")).unwrap_or("/"))
}

/// A working folder without `.` and `..`.
///
/// # Errors
/// It is not absolute, or a process's view of its files.
pub(crate) fn checked_workdir(workdir: &str) -> Result<String> {
    if !workdir.starts_with('/') || workdir.contains('\0') {
        let message = format!("working folder `{}` is not an absolute path", workdir.escape_debug());
        return Err(Error::new(Kind::Usage, message));
    }
    // `/proc/self/fd/N` as a folder is how a descriptor of the host, had one leaked, would be entered (CVE-2024-21626).
    let path = crate::options::normal(std::path::Path::new(workdir)).to_string_lossy().into_owned();
    match path
        .strip_prefix("/proc/")
        .is_some_and(|rest| rest.contains("/fd") || rest.contains("/cwd") || rest.contains("/root"))
    {
        true => Err(Error::new(Kind::Denied, format!("working folder `{workdir}` is a process's view of its files"))),
        false => Ok(path),
    }
}

fn environment(config: &ImageConfig, options: &RunOptions, host: &HostFacts, place: &Place) -> Result<Vec<String>> {
    let mut variables: Vec<(String, String)> = vec![("PATH".to_owned(), DEFAULT_PATH.to_owned())];
    let mut set = |name: &str, value: &str, replace: bool| match variables.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) if replace => value.clone_into(old),
        Some(_) => {}
        None => variables.push((name.to_owned(), value.to_owned())),
    };
    // systemd's name for a container of an OCI runtime; programs look at its presence.
    set("container", "oci", true);
    if options.process.streams.terminal {
        set("TERM", "xterm", true);
    }
    for line in config.strings("Env").unwrap_or_default() {
        let (name, value) = line.split_once('=').unwrap_or((&line, ""));
        set(name, value, true);
    }
    for (name, value) in &options.process.environment {
        set(name, value, true);
    }
    set("HOME", &place.user.home, false);
    if let Some(name) = hostname(options, host, place)? {
        set("HOSTNAME", &name, false);
    }
    let lines: Vec<String> = variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    match lines.iter().find(|line| line.contains('\0')) {
        Some(line) => Err(Error::new(Kind::Invalid, format!("variable `{}` holds a NUL byte", line.escape_debug()))),
        None => Ok(lines),
    }
}

fn rlimit(limit: &Ulimit) -> Result<PosixRlimit> {
    let kind = match limit.name.as_str() {
        "as" => PosixRlimitType::RlimitAs,
        "core" => PosixRlimitType::RlimitCore,
        "cpu" => PosixRlimitType::RlimitCpu,
        "data" => PosixRlimitType::RlimitData,
        "fsize" => PosixRlimitType::RlimitFsize,
        "locks" => PosixRlimitType::RlimitLocks,
        "memlock" => PosixRlimitType::RlimitMemlock,
        "msgqueue" => PosixRlimitType::RlimitMsgqueue,
        "nice" => PosixRlimitType::RlimitNice,
        "nofile" => PosixRlimitType::RlimitNofile,
        "nproc" => PosixRlimitType::RlimitNproc,
        "rss" => PosixRlimitType::RlimitRss,
        "rtprio" => PosixRlimitType::RlimitRtprio,
        "rttime" => PosixRlimitType::RlimitRttime,
        "sigpending" => PosixRlimitType::RlimitSigpending,
        "stack" => PosixRlimitType::RlimitStack,
        other => return Err(Error::new(Kind::Usage, format!("`{other}` is not a resource limit"))),
    };
    let (soft, hard) = (limit.soft.unwrap_or(u64::MAX), limit.hard.unwrap_or(u64::MAX));
    PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard).build().map_err(unbuildable)
}

fn capabilities(options: &RunOptions) -> Result<Capabilities> {
    let isolation = &options.isolation;
    let base: &[Capability] = if isolation.privileged { &caps::ALL } else { &caps::DEFAULT };
    caps::merge(base, &isolation.cap_add, &isolation.cap_drop)
}

/// The capabilities of a further process of user `uid` in a container.
pub(crate) fn capabilities_of(options: &RunOptions, privileged: bool, uid: u32) -> Result<LinuxCapabilities> {
    match privileged {
        true => Ok(root_capabilities(&caps::ALL.into_iter().collect())),
        false => process_capabilities(options, &capabilities(options)?, uid),
    }
}

/// The filter of a further process in a container.
pub(crate) fn seccomp_of(options: &RunOptions, host: &HostFacts) -> Result<Option<oci_spec::runtime::LinuxSeccomp>> {
    seccomp(options, host, &capabilities(options)?)
}

fn root_capabilities(set: &Capabilities) -> LinuxCapabilities {
    let mut capabilities = LinuxCapabilities::default();
    // Inheritable ones stay empty, as after any ordinary exec (CVE-2022-24769).
    capabilities
        .set_bounding(Some(set.clone()))
        .set_effective(Some(set.clone()))
        .set_permitted(Some(set.clone()))
        .set_inheritable(Some(Capabilities::new()))
        .set_ambient(Some(Capabilities::new()));
    capabilities
}

/// Root gets the set. Anybody else gets what was added by name, ambient so that it survives exec, and no more (podman's
/// rule): the rest is only what a setuid program could reach.
fn process_capabilities(options: &RunOptions, bounding: &Capabilities, uid: u32) -> Result<LinuxCapabilities> {
    if uid == 0 {
        return Ok(root_capabilities(bounding));
    }
    let added: Vec<String> =
        options.isolation.cap_add.iter().filter(|word| !word.eq_ignore_ascii_case("all")).cloned().collect();
    let own = caps::merge(&[], &added, &[])?;
    let mut capabilities = root_capabilities(bounding);
    capabilities
        .set_effective(Some(own.clone()))
        .set_permitted(Some(own.clone()))
        .set_inheritable(Some(own.clone()))
        .set_ambient(Some(own));
    Ok(capabilities)
}

fn seccomp(
    options: &RunOptions,
    host: &HostFacts,
    bounding: &Capabilities,
) -> Result<Option<oci_spec::runtime::LinuxSeccomp>> {
    let security = &options.isolation.security;
    let named = security.iter().any(|option| matches!(option, SecurityOption::SeccompProfile(_)));
    if security.contains(&SecurityOption::SeccompUnconfined) || (options.isolation.privileged && !named) {
        return Ok(None);
    }
    let machine = Machine { architecture: &host.architecture, capabilities: bounding, kernel: host.kernel };
    profile::reduce(host.seccomp_profile.as_deref().unwrap_or(profile::DEFAULT), &machine).map(Some)
}

/// Masked and read-only paths after `mask=`, `unmask=` and `--privileged`.
fn paths(options: &RunOptions) -> (Vec<String>, Vec<String>) {
    if options.isolation.privileged {
        return (Vec::new(), Vec::new());
    }
    let unmasked = |path: &str| {
        options.isolation.security.iter().any(|option| match option {
            SecurityOption::Unmask(pattern) if pattern == "ALL" => true,
            SecurityOption::Unmask(pattern) => match pattern.strip_suffix('*') {
                Some(prefix) => path.strip_prefix(prefix).is_some_and(|rest| !rest.contains('/')),
                None => pattern == path,
            },
            _ => false,
        })
    };
    let keep = |list: &[&str]| -> Vec<String> {
        list.iter().filter(|path| !unmasked(path)).map(|path| (*path).to_owned()).collect()
    };
    let mut masked = keep(&MASKED_PATHS);
    for option in &options.isolation.security {
        if let SecurityOption::Mask(path) = option {
            masked.push(path.clone());
        }
    }
    (masked, keep(&READONLY_PATHS))
}

fn resources(asked: &ResourceOptions, host: &HostFacts) -> Result<LinuxResources> {
    let mut resources = LinuxResourcesBuilder::default().build().map_err(unbuildable)?;
    let mut devices = vec![deny_all_devices()?];
    devices.extend(default_device_rules());
    resources.set_devices(Some(devices));
    if asked.memory.is_some() || asked.memory_swap.is_some() {
        let limit = asked.memory.filter(|bytes| *bytes != 0).map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        // Twice the memory, as docker and podman have it: a limit on memory alone would only move pages to swap.
        let usual = limit.filter(|_| host.limits_swap).map(|bytes| bytes.saturating_mul(2));
        let swap = asked.memory_swap.or(usual);
        if let (Some(swap @ 0..), Some(limit)) = (swap, limit)
            && swap < limit
        {
            return Err(Error::new(Kind::Usage, "--memory-swap is less than --memory, which it includes"));
        }
        if swap.is_some() && limit.is_none() {
            return Err(Error::new(Kind::Usage, "--memory-swap needs --memory"));
        }
        let mut memory = LinuxMemory::default();
        memory.set_limit(limit).set_swap(swap);
        resources.set_memory(Some(memory));
    }
    if asked.cpu_quota.is_some() || asked.cpu_shares.is_some() || asked.cpuset_cpus.is_some() {
        let mut cpu = LinuxCpu::default();
        cpu.set_quota(asked.cpu_quota).set_period(asked.cpu_quota.map(|_| 100_000));
        cpu.set_shares(asked.cpu_shares).set_cpus(asked.cpuset_cpus.clone());
        resources.set_cpu(Some(cpu));
    }
    let usual = host.limits_pids.then_some(DEFAULT_PIDS);
    if let Some(limit) = asked.pids.or(usual) {
        let mut pids = LinuxPids::default();
        pids.set_limit(if limit == 0 { -1 } else { limit });
        resources.set_pids(Some(pids));
    }
    Ok(resources)
}

fn unbuildable(error: oci_spec::OciSpecError) -> Error {
    Error::new(Kind::Invalid, "runtime specification cannot be written").because(error)
}

/// One rule; `None` for a number stands for any.
fn rule(allow: bool, kind: LinuxDeviceType, numbers: (Option<i64>, Option<i64>), access: &str) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow).set_typ(Some(kind)).set_major(numbers.0).set_minor(numbers.1);
    rule.set_access(Some(access.to_owned()));
    rule
}

fn deny_all_devices() -> Result<LinuxDeviceCgroup> {
    LinuxDeviceCgroupBuilder::default().allow(false).access("rwm".to_owned()).build().map_err(unbuildable)
}

/// What every OCI runtime lets a container use beside the rules of its `Spec`: any node may be made, and those that the
/// launcher makes in `/dev` may be opened (runc's `specconv.AllowedDevices`).
pub fn default_device_rules() -> Vec<LinuxDeviceCgroup> {
    const NODES: [(i64, Option<i64>); 8] = [
        (1, Some(3)), // null
        (1, Some(5)), // zero
        (1, Some(7)), // full
        (1, Some(8)), // random
        (1, Some(9)), // urandom
        (5, Some(0)), // tty
        (5, Some(2)), // ptmx
        (136, None),  // pts
    ];
    let mut rules = Vec::with_capacity(NODES.len() + 2);
    for kind in [LinuxDeviceType::C, LinuxDeviceType::B] {
        rules.push(rule(true, kind, (None, None), "m"));
    }
    for (major, minor) in NODES {
        rules.push(rule(true, LinuxDeviceType::C, (Some(major), minor), "rwm"));
    }
    rules
}

fn device_type(node: &DeviceNode) -> LinuxDeviceType {
    if node.block { LinuxDeviceType::B } else { LinuxDeviceType::C }
}

/// Everything is denied, then what the container gets is allowed.
fn device_rules(options: &RunOptions, host: &HostFacts) -> Result<Vec<LinuxDeviceCgroup>> {
    let all = |allow| LinuxDeviceCgroupBuilder::default().allow(allow).access("rwm".to_owned()).build();
    if options.isolation.privileged {
        return Ok(vec![all(true).map_err(unbuildable)?]);
    }
    let mut rules = vec![deny_all_devices()?];
    rules.extend(default_device_rules());
    for node in &host.devices {
        let numbers = (Some(i64::from(node.major)), Some(i64::from(node.minor)));
        rules.push(rule(true, device_type(node), numbers, &node.access));
    }
    Ok(rules)
}

/// Nodes to make; a user namespace cannot, so there they are bound (see `mounts`).
fn devices(host: &HostFacts) -> Result<Vec<LinuxDevice>> {
    let device = |node: &DeviceNode| {
        LinuxDeviceBuilder::default()
            .typ(device_type(node))
            .path(node.destination.clone())
            .major(i64::from(node.major))
            .minor(i64::from(node.minor))
            .file_mode(node.mode)
            .uid(node.uid)
            .gid(node.gid)
            .build()
            .map_err(unbuildable)
    };
    host.devices.iter().map(device).collect()
}

#[cfg(test)]
mod tests;
