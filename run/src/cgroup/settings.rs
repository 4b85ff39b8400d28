//! Resources of a Spec as files and values of cgroup v1 and v2. Pure.
//!
//! Sources: the runtime specification's config-linux.md; Linux `Documentation/admin-guide/cgroup-v1/` and
//! `cgroup-v2.rst`.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use layerfs::error::{Context, Error, Kind, Result};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources, LinuxThrottleDevice, LinuxWeightDevice};

/// What a controller is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Memory,
    Cpu,
    Cpuset,
    Pids,
    Io,
    HugeTlb,
    Rdma,
    NetworkClass,
    NetworkPriority,
    Devices,
    /// Files of v2 by their own names.
    Unified,
}

impl Group {
    pub(super) const ALL: [Self; 11] = [
        Self::Memory,
        Self::Cpu,
        Self::Cpuset,
        Self::Pids,
        Self::Io,
        Self::HugeTlb,
        Self::Rdma,
        Self::NetworkClass,
        Self::NetworkPriority,
        Self::Devices,
        Self::Unified,
    ];

    /// The controller's name in v1; a word that names no hierarchy for what v1 has not.
    pub(super) fn v1_name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
            Self::Pids => "pids",
            Self::Io => "blkio",
            Self::HugeTlb => "hugetlb",
            Self::Rdma => "rdma",
            Self::NetworkClass => "net_cls",
            Self::NetworkPriority => "net_prio",
            Self::Devices => "devices",
            Self::Unified => "unified",
        }
    }

    /// The controller's name in v2.
    pub(super) fn v2_name(self) -> &'static str {
        match self {
            Self::Io => "io",
            other => other.v1_name(),
        }
    }

    /// What a sentence about it begins with.
    pub(super) fn subject(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu time",
            Self::Cpuset => "the set of processors",
            Self::Pids => "the number of processes",
            Self::Io => "block I/O",
            Self::HugeTlb => "huge pages",
            Self::Rdma => "RDMA",
            Self::NetworkClass => "the network class",
            Self::NetworkPriority => "network priorities",
            Self::Devices => "access to devices",
            Self::Unified => "what linux.resources.unified names",
        }
    }

    /// Whether the Spec says anything about it.
    pub(super) fn is_limited(self, resources: Option<&LinuxResources>) -> bool {
        let Some(resources) = resources else { return false };
        let cpu = resources.cpu().as_ref();
        let network = resources.network().as_ref();
        match self {
            Self::Memory => resources.memory().is_some_and(|memory| {
                memory.limit().is_some()
                    || memory.reservation().is_some()
                    || memory.swap().is_some()
                    || memory.swappiness().is_some()
                    || memory.kernel_tcp().is_some()
                    || memory.disable_oom_killer() == Some(true)
            }),
            Self::Cpu => cpu.is_some_and(|cpu| {
                cpu.shares().is_some()
                    || cpu.quota().is_some()
                    || cpu.period().is_some()
                    || cpu.burst().is_some()
                    || cpu.idle().is_some()
                    || cpu.realtime_runtime().is_some()
                    || cpu.realtime_period().is_some()
            }),
            Self::Cpuset => cpu.is_some_and(|cpu| is_set(cpu.cpus()) || is_set(cpu.mems())),
            Self::Pids => resources.pids().is_some(),
            Self::Io => !v1_io(resources).is_empty(),
            Self::HugeTlb => resources.hugepage_limits().as_ref().is_some_and(|limits| !limits.is_empty()),
            Self::Rdma => resources.rdma().as_ref().is_some_and(|rdma| !rdma.is_empty()),
            Self::NetworkClass => network.is_some_and(|network| network.class_id().is_some()),
            Self::NetworkPriority => {
                network.is_some_and(|network| network.priorities().iter().flatten().next().is_some())
            }
            Self::Devices => resources.devices().as_ref().is_some_and(|rules| !rules.is_empty()),
            Self::Unified => resources.unified().as_ref().is_some_and(|unified| !unified.is_empty()),
        }
    }
}

/// The same without what engines write where they mean nothing: a limit of 0, and the swappiness of -1.
pub(super) fn without_zeros(resources: &LinuxResources) -> LinuxResources {
    fn said<T: Default + PartialEq>(value: Option<T>) -> Option<T> {
        value.filter(|value| *value != T::default())
    }
    let mut resources = resources.clone();
    if let Some(memory) = resources.memory_mut() {
        let given = *memory;
        memory
            .set_limit(said(given.limit()))
            .set_reservation(said(given.reservation()))
            .set_swap(said(given.swap()))
            .set_kernel_tcp(said(given.kernel_tcp()))
            .set_swappiness(given.swappiness().filter(|value| *value != u64::MAX));
    }
    if let Some(cpu) = resources.cpu_mut() {
        let given = cpu.clone();
        cpu.set_shares(said(given.shares()))
            .set_quota(said(given.quota()))
            .set_period(said(given.period()))
            .set_realtime_runtime(said(given.realtime_runtime()))
            .set_realtime_period(said(given.realtime_period()));
    }
    if let Some(io) = resources.block_io_mut() {
        let (weight, leaf) = (said(io.weight()), said(io.leaf_weight()));
        io.set_weight(weight).set_leaf_weight(leaf);
    }
    resources
}

fn is_set(list: &Option<String>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
}

/// One value in one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) file: String,
    pub(super) value: String,
    /// Passed over where the kernel has no such file: asking for what it does anyway.
    pub(super) optional: bool,
}

impl Setting {
    fn new(file: impl Into<String>, value: impl ToString) -> Self {
        Self { file: file.into(), value: value.to_string(), optional: false }
    }

    /// What its file may be called: some of a scheduler's are its own by now.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let other = match self.file.as_str() {
            "blkio.weight" => Some("blkio.bfq.weight"),
            "blkio.weight_device" => Some("blkio.bfq.weight_device"),
            _ => None,
        };
        std::iter::once(self.file.as_str()).chain(other)
    }

    /// Writes it to its file in one call, as the kernel wants it. The file stays open for the next one that is for it.
    fn write<'a>(&'a self, folder: &Path, open: &mut Option<(&'a str, File)>) -> Result<()> {
        let path = folder.join(&self.file);
        let file = match open.take() {
            Some((name, file)) if name == self.file => Ok(file),
            _ => {
                let open = |name| File::options().write(true).open(folder.join(name));
                let mut names = self.names().map(open);
                let first = names.next().unwrap_or_else(|| Err(std::io::ErrorKind::NotFound.into()));
                first.or_else(|error| names.next().and_then(std::io::Result::ok).ok_or(error))
            }
        };
        match file.and_then(|mut file| file.write_all(self.value.as_bytes()).map(|()| file)) {
            Ok(file) => *open = Some((&self.file, file)),
            Err(error) if self.optional && error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                let failed = Err(error).context(|| format!("write `{}` to `{}`", self.value, path.display()));
                return failed.map_err(|error| self.explain(folder, error));
            }
        }
        Ok(())
    }
}

impl Setting {
    /// What the kernel's refusal most likely means.
    fn explain(&self, folder: &Path, error: Error) -> Error {
        use rustix::io::Errno;
        let errno = error.errno().map(Errno::from_raw_os_error);
        let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap_or_default().trim().to_owned();
        match (errno, self.file.as_str()) {
            (Some(Errno::BUSY), file) if file.starts_with("memory.") => {
                let used = read("memory.usage_in_bytes");
                error.hint(format!("the container uses {used} bytes, which cannot be taken away"))
            }
            (Some(Errno::INVAL | Errno::ACCESS | Errno::NOSPC | Errno::RANGE), "cpuset.cpus") => {
                error.hint(format!("processors {} are to be had", allowed(folder, "cpuset.cpus")))
            }
            (Some(Errno::INVAL | Errno::ACCESS | Errno::NOSPC | Errno::RANGE), "cpuset.mems") => {
                error.hint(format!("memory nodes {} are to be had", allowed(folder, "cpuset.mems")))
            }
            (Some(Errno::INVAL), "memory.memsw.limit_in_bytes") => {
                error.hint("memory and swap together cannot be less than memory alone")
            }
            (Some(Errno::NODEV), file) if file.starts_with("blkio.") || file.starts_with("io.") => {
                error.hint("there is no such block device, or it is a partition: limits are for whole devices")
            }
            _ => error,
        }
    }
}

/// What the cgroup above has.
fn allowed(folder: &Path, file: &str) -> String {
    let above = folder.parent().unwrap_or(folder);
    let read = |name: String| std::fs::read_to_string(above.join(name)).ok();
    let text = read(format!("{file}.effective")).or_else(|| read(file.to_owned()));
    text.map_or_else(|| "of the cgroup above".to_owned(), |text| text.trim().to_owned())
}

/// Writes settings where the kernel takes them: some only after another, and which one depends on what is there now.
pub(super) fn write_all(folder: &Path, settings: &[Setting]) -> Result<()> {
    /// Each may not be less (or more) than the other, at any moment.
    const PAIRS: [(&str, &str); 3] = [
        ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
        ("cpu.cfs_period_us", "cpu.cfs_quota_us"),
        ("cpu.rt_period_us", "cpu.rt_runtime_us"),
    ];
    let mut later: Vec<&Setting> = Vec::new();
    let mut open = None;
    for setting in settings {
        let written = setting.write(folder, &mut open);
        let Some((_, partner)) = PAIRS.iter().find(|(first, _)| *first == setting.file) else {
            written?;
            continue;
        };
        match written {
            Err(error) if settings.iter().any(|other| other.file == *partner) && is_invalid(&error) => {
                later.push(setting)
            }
            written => written?,
        }
    }
    later.into_iter().try_for_each(|setting| setting.write(folder, &mut open))
}

fn is_invalid(error: &Error) -> bool {
    error.errno() == Some(rustix::io::Errno::INVAL.raw_os_error())
}

/// The error for a file that the kernel does not have.
pub(super) fn missing_file(group: Group, setting: &Setting) -> Error {
    let error = Error::new(
        Kind::Unsupported,
        format!("{} cannot be limited: the kernel has no `{}`", group.subject(), setting.file),
    );
    match setting.file.contains("memsw") || setting.file.contains("swap") {
        true => error.hint("boot with swapaccount=1, or leave the swap limit out"),
        false => error.hint("leave the limit out, or use a kernel that has it"),
    }
}

/// Byte counts where -1 means none.
fn limit(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// What a group means in v1.
pub(super) fn v1(group: Group, resources: Option<&LinuxResources>) -> Result<Vec<Setting>> {
    let mut settings = Vec::new();
    let Some(resources) = resources else { return Ok(settings) };
    let mut add = |file: &str, value: Option<String>| {
        settings.extend(value.map(|value| Setting::new(file, value)));
    };
    match (group, resources.memory(), resources.cpu().as_ref()) {
        (Group::Memory, Some(memory), _) => {
            // Memory alone first: the sum with swap may never be smaller, and starts without limit.
            add("memory.limit_in_bytes", memory.limit().map(|value| value.to_string()));
            add("memory.memsw.limit_in_bytes", memory.swap().map(|value| value.to_string()));
            if memory.limit() == Some(-1) && memory.swap().is_none() {
                // Without a limit the sum cannot have one either. Where swap is not counted it has none.
                settings.push(Setting { optional: true, ..Setting::new("memory.memsw.limit_in_bytes", -1) });
            }
            let mut add = |file: &str, value: Option<String>| {
                settings.extend(value.map(|value| Setting::new(file, value)));
            };
            add("memory.soft_limit_in_bytes", memory.reservation().map(|value| value.to_string()));
            add("memory.kmem.tcp.limit_in_bytes", memory.kernel_tcp().map(|value| value.to_string()));
            add("memory.swappiness", memory.swappiness().map(|value| value.to_string()));
            add("memory.oom_control", memory.disable_oom_killer().filter(|off| *off).map(|_| "1".to_owned()));
        }
        (Group::Cpu, _, Some(cpu)) => {
            add("cpu.shares", cpu.shares().map(|value| value.to_string()));
            add("cpu.cfs_period_us", cpu.period().map(|value| value.to_string()));
            add("cpu.cfs_quota_us", cpu.quota().map(|value| value.to_string()));
            add("cpu.cfs_burst_us", cpu.burst().map(|value| value.to_string()));
            add("cpu.rt_period_us", cpu.realtime_period().map(|value| value.to_string()));
            add("cpu.rt_runtime_us", cpu.realtime_runtime().map(|value| value.to_string()));
            add("cpu.idle", cpu.idle().map(|value| value.to_string()));
        }
        (Group::Cpuset, _, Some(cpu)) => {
            add("cpuset.cpus", cpu.cpus().clone().filter(|list| !list.is_empty()));
            add("cpuset.mems", cpu.mems().clone().filter(|list| !list.is_empty()));
        }
        (Group::Io, _, _) => settings = v1_io(resources),
        (Group::HugeTlb, _, _) => {
            for limit in resources.hugepage_limits().iter().flatten() {
                add(&format!("hugetlb.{}.limit_in_bytes", limit.page_size()), Some(limit.limit().to_string()));
            }
        }
        (Group::NetworkClass | Group::NetworkPriority, _, _) => {
            if let Some(network) = resources.network() {
                if group == Group::NetworkClass {
                    add("net_cls.classid", network.class_id().map(|id| id.to_string()));
                } else {
                    for interface in network.priorities().iter().flatten() {
                        let value = format!("{} {}", interface.name(), interface.priority());
                        add("net_prio.ifpriomap", Some(value));
                    }
                }
            }
        }
        (Group::Devices, _, _) => {
            settings.extend(device_rules(resources).iter().map(v1_device));
        }
        (Group::Pids | Group::Rdma, _, _) => settings = same_in_both(group, resources),
        _ => {}
    }
    // What asks for no limit is no request where the kernel has no such file.
    for setting in &mut settings {
        setting.optional = setting.value == "-1";
    }
    Ok(settings)
}

/// What a group means in v2. `own` is a folder of the hierarchy, to see which I/O scheduler's files there are.
pub(super) fn v2(group: Group, resources: Option<&LinuxResources>, own: &Path) -> Result<Vec<Setting>> {
    let mut settings = Vec::new();
    let Some(resources) = resources else { return Ok(settings) };
    let mut add = |file: &str, value: Option<String>| {
        settings.extend(value.map(|value| Setting::new(file, value)));
    };
    match (group, resources.memory(), resources.cpu().as_ref()) {
        (Group::Memory, Some(memory), _) => {
            // The sum first: what is to be swapped out needs room there.
            add("memory.swap.max", v2_swap(memory.limit(), memory.swap())?);
            add("memory.max", memory.limit().map(limit));
            add("memory.low", memory.reservation().map(limit));
            if memory.disable_oom_killer() == Some(true) {
                return Err(Error::new(
                    Kind::Unsupported,
                    "the OOM killer cannot be turned off: cgroup v2 has no switch",
                )
                .hint("leave memory.disableOOMKiller out"));
            }
        }
        (Group::Cpu, _, Some(cpu)) => {
            if cpu.realtime_period().is_some() || cpu.realtime_runtime().is_some() {
                return Err(Error::new(
                    Kind::Unsupported,
                    "realtime time cannot be limited: cgroup v2 has no such file",
                ));
            }
            add("cpu.weight", cpu.shares().and_then(weight_of_shares).map(|weight| weight.to_string()));
            if cpu.quota().is_some() || cpu.period().is_some() {
                let quota = cpu.quota().filter(|quota| *quota > 0).map_or("max".to_owned(), |q| q.to_string());
                add("cpu.max", Some(format!("{quota} {}", cpu.period().unwrap_or(100_000))));
            }
            add("cpu.max.burst", cpu.burst().map(|value| value.to_string()));
            add("cpu.idle", cpu.idle().map(|value| value.to_string()));
        }
        (Group::Cpuset, _, Some(cpu)) => {
            add("cpuset.cpus", cpu.cpus().clone().filter(|list| !list.is_empty()));
            add("cpuset.mems", cpu.mems().clone().filter(|list| !list.is_empty()));
        }
        (Group::Io, _, _) => settings = v2_io(resources, own.join("io.bfq.weight").exists()),
        (Group::HugeTlb, _, _) => {
            for limit in resources.hugepage_limits().iter().flatten() {
                add(&format!("hugetlb.{}.max", limit.page_size()), Some(limit.limit().to_string()));
            }
        }
        (Group::Unified, _, _) => {
            for (file, value) in resources.unified().iter().flatten() {
                if file.contains('/') || file.starts_with('.') {
                    return Err(Error::new(Kind::Invalid, format!("linux.resources.unified names no file: `{file}`")));
                }
                settings.push(Setting::new(file.clone(), value));
            }
        }
        (Group::Pids | Group::Rdma, _, _) => settings = same_in_both(group, resources),
        // Devices are a program in v2, and network classes are not in it at all.
        _ => {}
    }
    for setting in &mut settings {
        setting.optional = setting.value == "max";
    }
    Ok(settings)
}

fn same_in_both(group: Group, resources: &LinuxResources) -> Vec<Setting> {
    if group == Group::Pids {
        let pids = resources.pids().map(|pids| pids.limit());
        return pids
            .map(|pids| Setting::new("pids.max", if pids <= 0 { "max".to_owned() } else { pids.to_string() }))
            .into_iter()
            .collect();
    }
    let line = |(device, limits): (&String, &oci_spec::runtime::LinuxRdma)| {
        let number = |value: Option<u32>| value.map_or("max".to_owned(), |value| value.to_string());
        let (handles, objects) = (number(limits.hca_handles()), number(limits.hca_objects()));
        Setting::new("rdma.max", format!("{device} hca_handle={handles} hca_object={objects}"))
    };
    resources.rdma().iter().flatten().map(line).collect()
}

/// The Spec's swap is memory and swap together, v2's is swap alone.
pub(super) fn v2_swap(memory: Option<i64>, swap: Option<i64>) -> Result<Option<String>> {
    match (memory, swap) {
        (_, None) => Ok(None),
        (_, Some(-1)) => Ok(Some("max".to_owned())),
        (Some(memory), Some(swap)) if memory >= 0 && swap >= memory => Ok(Some((swap - memory).to_string())),
        (None | Some(-1), Some(swap)) => {
            Err(Error::new(Kind::Invalid, format!("a limit of {swap} bytes of memory and swap needs one of memory")))
        }
        (Some(memory), Some(swap)) => Err(Error::new(
            Kind::Invalid,
            format!("the limit of memory and swap together, {swap}, is below that of memory alone, {memory}"),
        )),
    }
}

/// From v1's range of 2 to 262144 to v2's of 1 to 10000, so that the defaults of both, 1024 and 100, meet: the curve
/// that runc and crun use (opencontainers/cgroups `ConvertCPUSharesToCgroupV2Value`).
pub(super) fn weight_of_shares(shares: u64) -> Option<u64> {
    match shares {
        0 => None,
        1..=2 => Some(1),
        262_144.. => Some(10_000),
        _ => {
            let log = f64::log2(shares as f64);
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            Some(f64::ceil(10f64.powf(exponent)) as u64)
        }
    }
}

fn v1_io(resources: &LinuxResources) -> Vec<Setting> {
    let mut settings = Vec::new();
    let Some(io) = resources.block_io() else { return settings };
    settings.extend(io.weight().map(|weight| Setting::new("blkio.weight", weight)));
    settings.extend(io.leaf_weight().map(|weight| Setting::new("blkio.leaf_weight", weight)));
    let weights = |device: &LinuxWeightDevice| {
        let number = format!("{}:{}", device.major(), device.minor());
        let set = |file: &str, weight: u16| Setting::new(file, format!("{number} {weight}"));
        let own = device.weight().map(|weight| set("blkio.weight_device", weight));
        own.into_iter().chain(device.leaf_weight().map(|weight| set("blkio.leaf_weight_device", weight)))
    };
    settings.extend(io.weight_device().iter().flatten().flat_map(weights));
    for (file, devices) in [
        ("blkio.throttle.read_bps_device", io.throttle_read_bps_device()),
        ("blkio.throttle.write_bps_device", io.throttle_write_bps_device()),
        ("blkio.throttle.read_iops_device", io.throttle_read_iops_device()),
        ("blkio.throttle.write_iops_device", io.throttle_write_iops_device()),
    ] {
        let line = |device: &LinuxThrottleDevice| {
            Setting::new(file, format!("{}:{} {}", device.major(), device.minor(), device.rate()))
        };
        settings.extend(devices.iter().flatten().map(line));
    }
    settings
}

fn v2_io(resources: &LinuxResources, bfq: bool) -> Vec<Setting> {
    let mut settings = Vec::new();
    let Some(io) = resources.block_io() else { return settings };
    // bfq takes v1's range of 10 to 1000 as it is; `io.weight` has 1 to 10000.
    let weight = |weight: u16| match bfq {
        true => Setting::new("io.bfq.weight", weight),
        false => {
            let scaled = 1 + u64::from(weight.max(10) - 10) * 9_999 / 990;
            Setting::new("io.weight", format!("default {scaled}"))
        }
    };
    settings.extend(io.weight().map(weight));
    for device in io.weight_device().iter().flatten() {
        let line = |weight: u16| format!("{}:{} {weight}", device.major(), device.minor());
        settings.extend(device.weight().map(|weight| Setting::new("io.bfq.weight", line(weight))));
    }
    for (key, devices) in [
        ("rbps", io.throttle_read_bps_device()),
        ("wbps", io.throttle_write_bps_device()),
        ("riops", io.throttle_read_iops_device()),
        ("wiops", io.throttle_write_iops_device()),
    ] {
        let line = |device: &LinuxThrottleDevice| {
            Setting::new("io.max", format!("{}:{} {key}={}", device.major(), device.minor(), device.rate()))
        };
        settings.extend(devices.iter().flatten().map(line));
    }
    settings
}

/// The Spec's rules about devices and then, as with crun and runc, what every container has whatever those say: its
/// default nodes, terminals, and the making of nodes, which gives no access to what is behind them.
pub(super) fn device_rules(resources: &LinuxResources) -> Vec<LinuxDeviceCgroup> {
    const ALWAYS: [(LinuxDeviceType, Option<i64>, Option<i64>, &str); 11] = [
        (LinuxDeviceType::C, None, None, "m"),
        (LinuxDeviceType::B, None, None, "m"),
        (LinuxDeviceType::C, Some(1), Some(3), "rwm"),
        (LinuxDeviceType::C, Some(1), Some(5), "rwm"),
        (LinuxDeviceType::C, Some(1), Some(7), "rwm"),
        (LinuxDeviceType::C, Some(1), Some(8), "rwm"),
        (LinuxDeviceType::C, Some(1), Some(9), "rwm"),
        (LinuxDeviceType::C, Some(5), Some(0), "rwm"),
        (LinuxDeviceType::C, Some(5), Some(1), "rwm"),
        (LinuxDeviceType::C, Some(5), Some(2), "rwm"),
        (LinuxDeviceType::C, Some(136), None, "rwm"),
    ];
    let mut rules = resources.devices().clone().unwrap_or_default();
    // A rule before a denial may not hold any more.
    let given = rules.iter().rposition(|rule| !rule.allow()).map_or(0, |last| last + 1)..rules.len();
    for (kind, major, minor, access) in ALWAYS {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(true).set_typ(Some(kind)).set_major(major).set_minor(minor).set_access(Some(access.to_owned()));
        // Engines list them too; each costs a write.
        if !rules[given.clone()].contains(&rule) {
            rules.push(rule);
        }
    }
    rules
}

/// A rule of v1's `devices.allow` and `devices.deny`: `c 1:3 rwm`, `a`.
fn v1_device(rule: &LinuxDeviceCgroup) -> Setting {
    let file = if rule.allow() { "devices.allow" } else { "devices.deny" };
    let number = |number: Option<i64>| match number {
        Some(number) if number >= 0 => number.to_string(),
        _ => "*".to_owned(),
    };
    let access = rule.access().as_deref().filter(|access| !access.is_empty()).unwrap_or("rwm");
    let kind = match rule.typ() {
        Some(LinuxDeviceType::B) => "b",
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => "c",
        // A rule about all devices has no numbers in the kernel's grammar.
        _ => return Setting::new(file, "a"),
    };
    Setting::new(file, format!("{kind} {}:{} {access}", number(rule.major()), number(rule.minor())))
}
