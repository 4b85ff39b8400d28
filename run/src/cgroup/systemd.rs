//! Cgroups by way of systemd: a transient scope for each container, for hosts whose engines want systemd to be the one
//! who arranges cgroups.
//!
//! systemd makes a scope for processes that are there already, but a container is born in its cgroup. So a placeholder
//! is the scope's first process, and goes once the container is in it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::process::{CloneOptions, clone_child, send_signal};
use oci_spec::runtime::LinuxResources;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde::{Deserialize, Serialize};

use super::dbus::{Body, Connection, Message, Refusal, Target, Value};
use super::hierarchy::Hierarchy;
use super::settings;

const MANAGER: Target = Target {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
const BUS: Target =
    Target { destination: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus" };

/// A property of a unit.
pub(super) type Property = (String, Value);

/// A scope of systemd's, and where it lies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    name: String,
    slice: String,
    /// The user's own systemd has it.
    user: bool,
    /// Properties that annotations ask for, as they are written there.
    #[serde(skip)]
    extra: Vec<(String, String)>,
}

impl Unit {
    /// Reads `slice:prefix:name`, what `linux.cgroupsPath` is with `--systemd-cgroup`. Without one the container `id`
    /// names the scope. `user` says that it is the user's own systemd that is to be asked.
    ///
    /// # Errors
    /// It has not three parts.
    pub fn of(path: Option<&Path>, id: &str, user: bool) -> Result<Self> {
        let text = path.map(|path| path.to_string_lossy().into_owned()).filter(|text| !text.is_empty());
        let text = text.unwrap_or_else(|| format!(":layerfs:{id}"));
        let parts: Vec<&str> = text.split(':').collect();
        let [slice, prefix, name] = parts[..] else {
            return Err(Error::new(
                Kind::Invalid,
                format!("linux.cgroupsPath `{text}` is not of the form slice:prefix:name"),
            )
            .hint("that is the form with --systemd-cgroup; a plain path goes without that flag"));
        };
        let slice = match slice {
            "" if user => "user.slice",
            "" => "system.slice",
            slice => slice,
        };
        let name = match (name.ends_with(".slice"), prefix) {
            (true, _) => name.to_owned(),
            (false, "") => format!("{name}.scope"),
            (false, prefix) => format!("{prefix}-{name}.scope"),
        };
        Ok(Self { name, slice: slice.to_owned(), user, extra: Vec::new() })
    }

    /// Takes `org.systemd.property.NAME` of a container's annotations along: properties of the unit.
    pub fn with_annotations<'a>(mut self, annotations: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let property = |(key, value): (&String, &String)| {
            Some((key.strip_prefix("org.systemd.property.")?.to_owned(), value.clone()))
        };
        self.extra = annotations.into_iter().filter_map(property).collect();
        self
    }

    /// Where systemd makes its cgroup, below [`Unit::base`].
    pub(super) fn folder(&self) -> PathBuf {
        slice_folder(&self.slice).join(&self.name)
    }

    /// Whether a cgroup of this path is the unit's.
    pub(super) fn is_at(&self, path: &str) -> bool {
        path.rsplit('/').next() == Some(&self.name)
    }

    /// What the unit's manager has the whole of: the hierarchy, or the part of it that is delegated to the user's.
    pub(super) fn base(&self, unified: &Hierarchy) -> PathBuf {
        if !self.user {
            return unified.mount.clone();
        }
        let is_managers = |folder: &&Path| {
            let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with("user@") && name.ends_with(".service")
        };
        unified.own.ancestors().find(is_managers).map_or_else(|| unified.own.clone(), Path::to_owned)
    }
}

/// `a-b.slice` lies in `a.slice` (systemd.slice(5)); `-.slice` is the top.
fn slice_folder(name: &str) -> PathBuf {
    let mut folder = PathBuf::from("/");
    let Some(stem) = name.strip_suffix(".slice") else { return folder.join(name) };
    let mut sofar = String::new();
    for word in stem.split('-').filter(|word| !word.is_empty()) {
        sofar = if sofar.is_empty() { word.to_owned() } else { format!("{sofar}-{word}") };
        folder.push(format!("{sofar}.slice"));
    }
    folder
}

/// All properties that come from the Spec's resources.
pub(super) fn properties(resources: Option<&LinuxResources>, unified: bool) -> Result<Vec<Property>> {
    let mut properties: Vec<Property> = ["CPUAccounting", "MemoryAccounting", "TasksAccounting"]
        .into_iter()
        .chain([if unified { "IOAccounting" } else { "BlockIOAccounting" }])
        .map(|name| (name.to_owned(), Value::Bool(true)))
        .collect();
    properties.extend(limits(resources, unified)?);
    Ok(properties)
}

/// The limits that systemd has properties for. It must know them: it writes them again whenever it sees fit.
pub(super) fn limits(resources: Option<&LinuxResources>, unified: bool) -> Result<Vec<Property>> {
    let mut properties = Vec::new();
    let Some(resources) = resources else { return Ok(properties) };
    let mut add = |name: &str, value: Option<u64>| {
        properties.extend(value.map(|value| (name.to_owned(), Value::U64(value))));
    };
    // -1 is no limit in the Spec, the largest number is none in systemd.
    let bytes = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    if let Some(memory) = resources.memory() {
        add(if unified { "MemoryMax" } else { "MemoryLimit" }, memory.limit().map(bytes));
        if unified {
            add("MemoryLow", memory.reservation().map(bytes));
            let swap = settings::v2_swap(memory.limit(), memory.swap())?;
            add("MemorySwapMax", swap.map(|swap| swap.parse().unwrap_or(u64::MAX)));
        }
    }
    if let Some(cpu) = resources.cpu() {
        match unified {
            true => add("CPUWeight", cpu.shares().and_then(settings::weight_of_shares)),
            false => add("CPUShares", cpu.shares()),
        }
        if let Some(quota) = cpu.quota() {
            let period = cpu.period().unwrap_or(100_000);
            // In steps of 10 ms, the least that systemd tells apart; never less than asked for.
            let per_second =
                u64::try_from(quota).map(|quota| (quota * 1_000_000).div_ceil(period).next_multiple_of(10_000));
            add("CPUQuotaPerSecUSec", Some(per_second.unwrap_or(u64::MAX)));
        }
        add("CPUQuotaPeriodUSec", cpu.period());
    }
    add("TasksMax", resources.pids().map(|pids| if pids.limit() > 0 { bytes(pids.limit()) } else { u64::MAX }));
    if !unified {
        add("BlockIOWeight", resources.block_io().as_ref().and_then(|io| io.weight()).map(u64::from));
    }
    if let (true, Some(cpu)) = (unified, resources.cpu()) {
        for (name, list) in [("AllowedCPUs", cpu.cpus()), ("AllowedMemoryNodes", cpu.mems())] {
            if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
                properties.push((name.to_owned(), Value::Bytes(bits(list)?)));
            }
        }
    }
    Ok(properties)
}

/// `0-2,5` as bits, the first processor's lowest.
fn bits(list: &str) -> Result<Vec<u8>> {
    /// More processors than any kernel is built for.
    const HIGHEST: usize = 1 << 16;
    let invalid = || Error::new(Kind::Invalid, format!("`{list}` is not a list of numbers such as 0-2,5"));
    let mut bits = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let parse =
            |text: &str| text.trim().parse::<usize>().ok().filter(|number| *number <= HIGHEST).ok_or_else(invalid);
        for number in parse(first)?..=parse(last)? {
            if bits.len() <= number / 8 {
                bits.resize(number / 8 + 1, 0);
            }
            bits[number / 8] |= 1 << (number % 8);
        }
    }
    Ok(bits)
}

/// A value as annotations write it: GVariant's text format, for the types that properties of units have.
fn value(name: &str, text: &str) -> Result<Value> {
    let invalid = || {
        Error::new(Kind::Invalid, format!("annotation org.systemd.property.{name}: `{text}` is not a value"))
            .hint("such as true, 5, uint64 5, 'text', ['one', 'two']")
    };
    let quoted = |text: &str| {
        let text = text.trim();
        let inner = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
        inner.or_else(|| text.strip_prefix('"')?.strip_suffix('"')).map(str::to_owned)
    };
    let text = text.trim();
    if let Some(text) = quoted(text) {
        return Ok(Value::Text(text));
    }
    if let Some(list) = text.strip_prefix("@as").unwrap_or(text).trim().strip_prefix('[') {
        let list = list.strip_suffix(']').ok_or_else(invalid)?;
        let items = list.split(',').filter(|item| !item.trim().is_empty()).map(|item| quoted(item).ok_or_else(invalid));
        return items.collect::<Result<_>>().map(Value::Texts);
    }
    match text.split_once(' ') {
        Some(("uint64", number)) => number.trim().parse().map(Value::U64).map_err(|_| invalid()),
        Some(("uint32", number)) => number.trim().parse().map(Value::U32).map_err(|_| invalid()),
        Some(("int32", number)) => number.trim().parse().map(Value::I32).map_err(|_| invalid()),
        Some(_) => Err(invalid()),
        None => match text {
            "true" | "false" => Ok(Value::Bool(text == "true")),
            number => number.parse().map(Value::I32).map_err(|_| invalid()),
        },
    }
}

/// A process that keeps a scope alive. It goes when this is dropped.
#[derive(Debug)]
pub(super) struct Placeholder {
    pid: i32,
    pidfd: OwnedFd,
}

impl Placeholder {
    /// Its number.
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }
}

impl Drop for Placeholder {
    fn drop(&mut self) {
        /// `SIGKILL`
        const KILL: i32 = 9;
        let _ = send_signal(self.pidfd.as_fd(), KILL);
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

/// Has systemd make the unit. It lives as long as the placeholder, or what joins it meanwhile.
pub(super) fn start(unit: &Unit, properties: &[Property]) -> Result<Placeholder> {
    let mut properties = properties.to_vec();
    for (name, text) in &unit.extra {
        // The name of a time in seconds, which engines use, stands for the property in microseconds.
        let (name, parsed) = match (name.strip_suffix("Sec"), value(name, text)?) {
            (Some(stem), Value::I32(seconds)) => {
                (format!("{stem}USec"), Value::U64(u64::try_from(seconds).unwrap_or(0) * 1_000_000))
            }
            (_, parsed) => (name.clone(), parsed),
        };
        properties.push((name, parsed));
    }
    let parent = rustix::process::getpid();
    let child = clone_child(&CloneOptions::default(), || {
        let tied = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        if tied.is_ok() && rustix::process::getppid() == Some(parent) {
            // Until it is killed.
            while rustix::event::poll(&mut [], None).is_err() {}
        }
        0
    })
    .context(|| "start a process for the scope to begin with")?;
    let placeholder = Placeholder { pid: child.pid, pidfd: child.pidfd };
    let is_slice = unit.name.ends_with(".slice");
    properties.push(("Description".to_owned(), Value::Text(format!("container {}", unit.name))));
    properties.push(("DefaultDependencies".to_owned(), Value::Bool(false)));
    if is_slice {
        properties.push(("Wants".to_owned(), Value::Texts(vec![unit.slice.clone()])));
    } else {
        properties.push(("Slice".to_owned(), Value::Text(unit.slice.clone())));
        properties.push(("Delegate".to_owned(), Value::Bool(true)));
        properties.push(("PIDs".to_owned(), Value::Numbers(vec![child.pid.cast_unsigned()])));
    }
    let mut manager = Manager::connect(unit.user)?;
    let begin = || {
        let mut body = Body::default();
        body.text(&unit.name);
        body.text("replace");
        body.array(8, |all| properties.iter().for_each(|(name, value)| all.property(name, value)));
        body.array(8, |_| {});
        body
    };
    let mut answer = manager.job("StartTransientUnit", "ssa(sv)a(sa(sv))", begin())?;
    if matches!(&answer, Err(refusal) if refusal.name.ends_with(".UnitExists")) {
        // One that failed is kept for people to look at.
        manager.reset_failed(&unit.name)?;
        answer = manager.job("StartTransientUnit", "ssa(sv)a(sa(sv))", begin())?;
    }
    match answer.map_err(|refusal| refused(&unit.name, &refusal))?.as_str() {
        "done" => Ok(placeholder),
        other => Err(Error::new(Kind::System, format!("systemd could not start `{}`: {other}", unit.name))
            .hint(format!("systemctl status {} says more", unit.name))),
    }
}

/// Has systemd end the unit and forget it. One that is not there is no error.
pub(super) fn stop(unit: &Unit) -> Result<()> {
    let mut manager = Manager::connect(unit.user)?;
    let mut body = Body::default();
    body.text(&unit.name);
    body.text("replace");
    match manager.job("StopUnit", "ss", body)? {
        Ok(_) => {}
        Err(refusal) if refusal.name.ends_with(".NoSuchUnit") => return Ok(()),
        Err(refusal) => return Err(refused(&unit.name, &refusal)),
    }
    manager.reset_failed(&unit.name)
}

/// Tells systemd other limits for a unit.
pub(super) fn change(unit: &Unit, properties: &[Property]) -> Result<()> {
    let mut manager = Manager::connect(unit.user)?;
    let mut body = Body::default();
    body.text(&unit.name);
    // Until the unit ends, not beyond.
    body.u32(1);
    body.array(8, |all| properties.iter().for_each(|(name, value)| all.property(name, value)));
    let answer = manager.connection.call(MANAGER, "SetUnitProperties", "sba(sv)", body)?;
    answer.map(drop).map_err(|refusal| refused(&unit.name, &refusal))
}

fn refused(unit: &str, refusal: &Refusal) -> Error {
    Error::new(Kind::System, format!("systemd refuses `{unit}`: {} ({})", refusal.text, refusal.name))
}

/// A connection to systemd itself.
struct Manager {
    connection: Connection,
}

impl Manager {
    /// systemd's own socket needs no bus daemon and is root's alone; the bus is for where that is missing.
    fn connect(user: bool) -> Result<Self> {
        let folder = match user {
            false => PathBuf::from("/run"),
            true => {
                let folder = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty());
                PathBuf::from(folder.ok_or_else(|| {
                    Error::new(Kind::Unsupported, "systemd of this user cannot be reached: XDG_RUNTIME_DIR is not set")
                        .hint("log in by ssh or machinectl, or use --cgroup-manager=cgroupfs")
                })?)
            }
        };
        let first = match Connection::open(&folder.join("systemd/private")) {
            Ok(connection) => return Ok(Self { connection }),
            Err(error) => error,
        };
        let bus = if user { folder.join("bus") } else { folder.join("dbus/system_bus_socket") };
        let Ok(mut connection) = Connection::open(&bus) else {
            return Err(Error::new(Kind::Unsupported, "systemd cannot be reached")
                .because(first)
                .hint("is systemd this machine's init? If not, tell the engine to use cgroupfs for cgroups"));
        };
        let mut call = |target, member, signature, texts: &[&str]| {
            let mut body = Body::default();
            texts.iter().for_each(|text| body.text(text));
            let answer = connection.call(target, member, signature, body)?;
            answer.map(drop).map_err(|refusal| refused(member, &refusal))
        };
        call(BUS, "Hello", "", &[])?;
        let rule = "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
        call(BUS, "AddMatch", "s", &[rule])?;
        call(MANAGER, "Subscribe", "", &[])?;
        Ok(Self { connection })
    }

    /// Calls what answers with a job, and waits for that: how it ended.
    fn job(&mut self, member: &str, signature: &str, body: Body) -> Result<Result<String, Refusal>> {
        let answer = match self.connection.call(MANAGER, member, signature, body)? {
            Ok(answer) => answer,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let job = answer.fields("o").pop().unwrap_or_default();
        // JobRemoved: number, job, unit, result.
        let ended = |message: &Message| {
            let mut fields = message.fields("uoss");
            (fields.len() == 4 && fields[1] == job).then(|| fields.swap_remove(3))
        };
        self.connection.wait("JobRemoved", ended).map(Ok)
    }

    fn reset_failed(&mut self, unit: &str) -> Result<()> {
        let mut body = Body::default();
        body.text(unit);
        // One that did not fail cannot be reset, and need not.
        self.connection.call(MANAGER, "ResetFailedUnit", "s", body).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: Option<&str>, expected: &str) {
        let unit = Unit::of(path.map(Path::new), "c", false).expect("three parts");
        assert_eq!(unit.folder(), Path::new(expected));
    }

    #[test]
    fn units_have_folders() {
        check(None, "/system.slice/layerfs-c.scope");
        check(Some("machine-x.slice:libpod:abc"), "/machine.slice/machine-x.slice/libpod-abc.scope");
        check(Some(":cri:abc"), "/system.slice/cri-abc.scope");
        check(Some("-.slice::abc"), "/abc.scope");
        check(Some("a.slice:x:b.slice"), "/a.slice/b.slice");
        for wrong in ["/a/b", "a:b", "a:b:c:d"] {
            let error = Unit::of(Some(Path::new(wrong)), "c", false).expect_err("not three parts");
            assert_eq!(error.kind(), Kind::Invalid);
        }
    }

    #[test]
    fn limits_become_properties() {
        let json = r#"{"memory": {"limit": 1000, "swap": 3000}, "cpu": {"quota": 25000, "period": 50000, "cpus": "0,9"},
            "pids": {"limit": -1}}"#;
        let resources: LinuxResources = serde_json::from_str(json).expect("valid");
        let number = |name: &str, number| (name.to_owned(), Value::U64(number));
        assert_eq!(
            limits(Some(&resources), true).expect("valid"),
            [
                number("MemoryMax", 1000),
                number("MemorySwapMax", 2000),
                number("CPUQuotaPerSecUSec", 500_000),
                number("CPUQuotaPeriodUSec", 50_000),
                number("TasksMax", u64::MAX),
                ("AllowedCPUs".to_owned(), Value::Bytes(vec![1, 2])),
            ]
        );
        let v1 = limits(Some(&resources), false).expect("valid");
        assert_eq!(v1[0], number("MemoryLimit", 1000));
    }

    #[test]
    fn annotations_have_types() {
        for (text, expected) in [
            ("true", Some(Value::Bool(true))),
            ("'inactive-or-failed'", Some(Value::Text("inactive-or-failed".to_owned()))),
            ("uint64 5", Some(Value::U64(5))),
            ("-5", Some(Value::I32(-5))),
            ("['a', \"b\"]", Some(Value::Texts(vec!["a".to_owned(), "b".to_owned()]))),
            ("@as []", Some(Value::Texts(Vec::new()))),
            ("(1, 2)", None),
            ("nonsense", None),
        ] {
            assert_eq!(value("X", text).ok(), expected, "{text}");
        }
    }
}
