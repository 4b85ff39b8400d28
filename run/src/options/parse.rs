//! The grammars of the options' values, as podman and docker have them. Each function takes one value as written and
//! says what is wrong with it; none looks at the machine, except that `environment` asks the given lookup.

use std::path::{Path, PathBuf};

use layerfs::error::{Error, Kind, Result};

use super::{DeviceRequest, MountBackend, MountRequest, NetworkMode, PortMapping, Protocol, SecurityOption, Ulimit};

fn usage(message: impl Into<String>) -> Error {
    Error::new(Kind::Usage, message)
}

/// Bytes with one of the units `b`, `k`, `m`, `g`, `t` (powers of 1024, with or without a `b` or `ib`).
///
/// # Errors
/// Not a number with such a unit, or more than 2^63 - 1 bytes.
pub fn size(text: &str) -> Result<u64> {
    let invalid = || usage("not a size").hint("the form is a number and one of b, k, m, g, such as 64m");
    let lower = text.to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let shift = match unit.trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(invalid()),
    };
    let factor = 1u64 << shift;
    let bytes = match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(factor),
        Err(_) => {
            let fraction = number.parse::<f64>().map_err(|_| invalid())? * factor as f64;
            (fraction < i64::MAX as f64).then_some(fraction as u64)
        }
    };
    bytes.filter(|bytes| i64::try_from(*bytes).is_ok()).ok_or_else(|| usage("too large a size"))
}

/// `--memory`: a size; the kernel runs nothing in less than half a megabyte, so less is a slip of the unit.
///
/// # Errors
/// Not a size, or one no process can start in.
pub fn memory(text: &str) -> Result<u64> {
    match size(text)? {
        0 => Ok(0),
        small if small < 512 << 10 => {
            Err(usage("less memory than any container can start in").hint("use 512k or more"))
        }
        bytes => Ok(bytes),
    }
}

/// `--memory-swap`: a size, or -1 for no limit.
///
/// # Errors
/// Neither.
pub fn memory_swap(text: &str) -> Result<i64> {
    if text == "-1" {
        return Ok(-1);
    }
    size(text).map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX))
}

/// `--cpus 1.5`, as microseconds of each 100 ms.
///
/// # Errors
/// Not a positive number.
pub fn cpus(text: &str) -> Result<i64> {
    let cpus: f64 = text.parse().map_err(|_| usage("not a number of CPUs").hint("such as 1.5"))?;
    // The kernel takes no quota below one millisecond (`kernel/sched/core.c`, `min_cfs_quota_period`).
    if !(0.01..=1e6).contains(&cpus) {
        return Err(usage("not a possible number of CPUs").hint("0.01 is the least"));
    }
    Ok((cpus * 100_000.0) as i64)
}

/// `NAME=VALUE`, `NAME` to pass on the caller's, `PREFIX*` to pass on all that begin so. A name the caller does not
/// have is left out, as everywhere.
///
/// # Errors
/// The name is empty.
pub fn environment(text: &str, all: impl Fn() -> Vec<(String, String)>) -> Result<Vec<(String, String)>> {
    match text.split_once('=') {
        Some(("", _)) => Err(usage(format!("`{text}` has no name before its `=`"))),
        Some((name, value)) => Ok(vec![(name.to_owned(), value.to_owned())]),
        None if text.is_empty() => Err(usage("an environment variable has no name")),
        None => Ok(match text.strip_suffix('*') {
            Some(prefix) => all().into_iter().filter(|(name, _)| name.starts_with(prefix)).collect(),
            None => all().into_iter().filter(|(name, _)| name == text).collect(),
        }),
    }
}

/// A file of variables: one per line as `environment` takes it, blank lines and lines that begin with `#` left out.
///
/// # Errors
/// A line is wrong; the error names its number.
pub fn environment_file(
    path: &Path,
    text: &str,
    all: impl Fn() -> Vec<(String, String)>,
) -> Result<Vec<(String, String)>> {
    let mut variables = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split('=').next().unwrap_or_default();
        if name.contains(char::is_whitespace) {
            let place = format!("`{}` line {}", path.display(), number + 1);
            return Err(usage(format!("{place}: `{name}` is not a variable's name")));
        }
        variables.extend(environment(line, &all)?);
    }
    Ok(variables)
}

/// `-v [SOURCE:]DESTINATION[:OPTIONS]`. `here` is what a relative source that begins with a dot is relative to.
///
/// # Errors
/// The form is wrong, or it asks for something we do not do; the error names it.
pub fn volume(text: &str, here: &Path) -> Result<MountRequest> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, options) = match parts[..] {
        [destination] => {
            let destination = absolute(destination)?;
            return Ok(MountRequest::Folder { destination });
        }
        [source, destination] => (source, destination, ""),
        [source, destination, options] => (source, destination, options),
        _ => return Err(usage("not a volume").hint("the form is SOURCE:DESTINATION[:OPTIONS]")),
    };
    let destination = absolute(destination)?;
    if source.is_empty() {
        return Err(usage("the volume has no source"));
    }
    if !source.starts_with(['/', '.', '~']) {
        return named_volume(source, destination, options.split(',').filter(|o| !o.is_empty()));
    }
    let source = normal(&here.join(source));
    Ok(MountRequest::Bind { source, destination, options: bind_options(options.split(',').filter(|o| !o.is_empty()))? })
}

/// A volume of the store.
fn named_volume<'a>(name: &str, destination: PathBuf, words: impl Iterator<Item = &'a str>) -> Result<MountRequest> {
    let valid = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    if !name.bytes().all(valid) || !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(usage(format!("`{name}` is not a volume's name")).hint(format!("for a folder here write ./{name}")));
    }
    let words: Vec<&str> = words.filter(|word| *word != "copy").collect();
    let mut options = bind_options(words.iter().copied())?;
    if words.contains(&"nocopy") {
        options.push("nocopy".to_owned());
    }
    Ok(MountRequest::Volume { name: name.to_owned(), destination, options })
}

/// Checks the words of a bind mount's options and puts the defaults before them.
fn bind_options<'a>(words: impl Iterator<Item = &'a str>) -> Result<Vec<String>> {
    let mut options = vec!["rbind".to_owned()];
    let mut propagation = "rprivate";
    for word in words {
        match word {
            "bind" => options[0] = "bind".to_owned(),
            "rbind" => options[0] = "rbind".to_owned(),
            "ro" | "rw" | "exec" | "noexec" | "suid" | "nosuid" | "dev" | "nodev" => options.push(word.to_owned()),
            "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" | "unbindable" | "runbindable" => {
                propagation = word;
            }
            // SELinux labels: without SELinux there is nothing to relabel. The spec refuses them where there is.
            "z" | "Z" => options.push(word.to_owned()),
            // Its files become the container's user's, or are shown as if they were.
            "U" | "idmap" => options.push(word.to_owned()),
            _ if word.starts_with("idmap=") => options.push(word.to_owned()),
            // The image's content of the folder is never copied into a bind.
            "nocopy" => {}
            "O" | "copy" => {
                return Err(usage(format!("volume option `{word}` is not supported by `run` yet")));
            }
            _ => return Err(usage(format!("`{word}` is not a volume option"))),
        }
    }
    options.push(propagation.to_owned());
    Ok(options)
}

fn absolute(text: &str) -> Result<PathBuf> {
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err(usage(format!("`{text}` is not an absolute path in the container")));
    }
    let path = normal(path);
    match path.as_os_str() == "/" {
        true => Err(usage("a volume cannot replace `/`")),
        false => Ok(path),
    }
}

/// Without `.`, `..` and doubled slashes, by text alone.
pub(crate) fn normal(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut out = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => drop(out.pop()),
            _ => {}
        }
    }
    out
}

/// `--tmpfs PATH[:OPTIONS]`.
///
/// # Errors
/// The path is not absolute or an option is unknown.
pub fn tmpfs(text: &str) -> Result<MountRequest> {
    let (destination, words) = text.split_once(':').unwrap_or((text, ""));
    let mut options: Vec<String> = ["rprivate", "nosuid", "nodev"].map(str::to_owned).to_vec();
    for word in words.split(',').filter(|word| !word.is_empty()) {
        let known = ["size=", "mode=", "uid=", "gid=", "nr_inodes=", "nr_blocks="];
        match word {
            "ro" | "rw" | "exec" | "noexec" | "nosuid" | "nodev" | "noatime" | "relatime" | "sync" => {
                options.push(word.to_owned());
            }
            "suid" => options.retain(|option| option != "nosuid"),
            "dev" => options.retain(|option| option != "nodev"),
            "tmpcopyup" | "notmpcopyup" => options.push(word.to_owned()),
            _ if known.iter().any(|prefix| word.starts_with(prefix)) => options.push(word.to_owned()),
            _ => return Err(usage(format!("`{word}` is not a tmpfs option"))),
        }
    }
    Ok(MountRequest::Tmpfs { destination: absolute(destination)?, options })
}

/// `--mount type=bind|tmpfs,KEY=VALUE,…`.
///
/// # Errors
/// A key or type is unknown or not supported; the error names it.
pub fn mount(text: &str, here: &Path) -> Result<MountRequest> {
    let (mut kind, mut source, mut destination) = ("volume", None, None);
    let (mut bind, mut memory) = (Vec::<String>::new(), Vec::<String>::new());
    for field in text.split(',') {
        let (key, value) = field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value)));
        let needed = || value.ok_or_else(|| usage(format!("mount option `{key}` needs a value")));
        let on = !matches!(value, Some("false" | "0"));
        match key {
            "type" => kind = needed()?,
            "src" | "source" => source = Some(needed()?),
            "dst" | "destination" | "target" => destination = Some(needed()?),
            "ro" | "readonly" => {
                let word = if on { "ro" } else { "rw" };
                bind.push(word.to_owned());
                memory.push(word.to_owned());
            }
            "rw" => bind.push(if on { "rw" } else { "ro" }.to_owned()),
            "idmap" => bind.push(value.map_or_else(|| "idmap".to_owned(), |value| format!("idmap={value}"))),
            "U" | "chown" if on => bind.push("U".to_owned()),
            "U" | "chown" => {}
            "bind-propagation" => bind.push(needed()?.to_owned()),
            "bind-nonrecursive" if on => bind.push("bind".to_owned()),
            "bind-nonrecursive" => {}
            "relabel" => bind.push(if needed()? == "shared" { "z" } else { "Z" }.to_owned()),
            "exec" | "noexec" | "suid" | "nosuid" | "dev" | "nodev" => {
                bind.push(key.to_owned());
                memory.push(key.to_owned());
            }
            "tmpfs-size" => memory.push(format!("size={}", needed()?)),
            "tmpfs-mode" => memory.push(format!("mode={}", needed()?)),
            "tmpcopyup" | "notmpcopyup" => memory.push(key.to_owned()),
            _ => return Err(usage(format!("`{key}` is not a mount option of `run`"))),
        }
    }
    let target = destination.ok_or_else(|| usage("the mount has no target").hint("add target=PATH"))?;
    match kind {
        "bind" => {
            let source = source.ok_or_else(|| usage("the bind mount has no source").hint("add source=PATH"))?;
            let options = bind_options(bind.iter().map(String::as_str))?;
            Ok(MountRequest::Bind { source: normal(&here.join(source)), destination: absolute(target)?, options })
        }
        "tmpfs" => tmpfs(&format!("{target}:{}", memory.join(","))),
        "volume" => {
            let name = source.ok_or_else(|| usage("the volume has no name").hint("add source=NAME"))?;
            named_volume(name, absolute(target)?, bind.iter().map(String::as_str))
        }
        "image" | "devpts" | "glob" | "ramfs" | "artifact" | "cluster" | "npipe" => {
            Err(usage(format!("mount type `{kind}` is not supported by `run` yet"))
                .hint("type=bind, type=volume and type=tmpfs are"))
        }
        _ => Err(usage(format!("`{kind}` is not a mount type"))),
    }
}

/// `--device SOURCE[:DESTINATION][:rwm]`.
///
/// # Errors
/// Not a device path below `/dev`, or other letters than `rwm`.
pub fn device(text: &str) -> Result<DeviceRequest> {
    let parts: Vec<&str> = text.split(':').collect();
    let is_access = |word: &str| !word.is_empty() && word.bytes().all(|b| b"rwm".contains(&b));
    let (source, destination, access) = match parts[..] {
        [source] => (source, source, "rwm"),
        [source, access] if is_access(access) => (source, source, access),
        [source, destination] => (source, destination, "rwm"),
        [source, destination, access] if is_access(access) => (source, destination, access),
        [_, _, access] => return Err(usage(format!("`{access}` is not a device's access")).hint("letters of rwm")),
        _ => return Err(usage("not a device").hint("the form is SOURCE[:DESTINATION][:rwm]")),
    };
    if source.contains('=') {
        return Err(usage(format!("`{source}` is a CDI device, which `run` does not support yet")));
    }
    Ok(DeviceRequest { source: absolute(source)?, destination: absolute(destination)?, access: access.to_owned() })
}

/// `--mount-backend auto|overlay|fuse`.
///
/// # Errors
/// Another word.
pub fn mount_backend(text: &str) -> Result<MountBackend> {
    match text {
        "auto" => Ok(MountBackend::Auto),
        "overlay" => Ok(MountBackend::Overlay),
        "fuse" => Ok(MountBackend::Fuse),
        _ => Err(Error::new(Kind::Usage, format!("mount backend `{text}` is not auto, overlay or fuse"))),
    }
}

/// `--ulimit NAME=SOFT[:HARD]`, -1 for unlimited.
///
/// # Errors
/// An unknown name, or a soft limit above the hard one.
pub fn ulimit(text: &str) -> Result<Ulimit> {
    const NAMES: [&str; 15] = [
        "as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss",
        "rtprio", "rttime", "stack",
    ];
    let (name, values) =
        text.split_once('=').ok_or_else(|| usage("not a limit").hint("the form is NAME=SOFT[:HARD]"))?;
    let name = name.to_ascii_lowercase();
    if !NAMES.contains(&name.as_str()) && name != "sigpending" {
        return Err(usage(format!("`{name}` is not a resource limit")));
    }
    let number = |word: &str| match word {
        "-1" | "unlimited" => Ok(None),
        _ => word.parse::<u64>().map(Some).map_err(|_| usage(format!("`{word}` is not a limit"))),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (number(soft)?, number(hard)?);
    match (soft, hard) {
        (Some(low), Some(high)) if low > high => Err(usage("the soft limit is above the hard one")),
        (None, Some(_)) => Err(usage("the soft limit is above the hard one")),
        _ => Ok(Ulimit { name, soft, hard }),
    }
}

/// `--network`.
///
/// # Errors
/// A mode that does not exist, or one not supported yet; the error names it.
pub fn network(text: &str) -> Result<NetworkMode> {
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
    Ok(match kind {
        "none" => NetworkMode::None,
        "host" => NetworkMode::Host,
        "private" => NetworkMode::Default,
        "pasta" => NetworkMode::Pasta(rest.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()),
        "container" if rest.is_empty() => return Err(usage("which container's network").hint("container:NAME")),
        "container" => NetworkMode::Container(rest.to_owned()),
        "ns" => NetworkMode::Path(PathBuf::from(rest)),
        "bridge" | "slirp4netns" | "pod" => {
            return Err(usage(format!("network `{kind}` is not supported by `run` yet"))
                .hint("pasta, host, none and container:NAME are"));
        }
        _ => {
            return Err(usage(format!("`{text}` would be a named network, which `run` does not have yet"))
                .hint("pasta, host, none and container:NAME are"));
        }
    })
}

/// `-p [[IP:]HOST:]CONTAINER[/PROTOCOL]`, with ranges `A-B`. Without a host port, the same port is taken.
///
/// # Errors
/// Not ports, ranges of different length, or an unknown protocol.
pub fn publish(text: &str) -> Result<PortMapping> {
    let invalid = || usage("not a port mapping").hint("the form is [IP:][HOST:]CONTAINER[/tcp|/udp]");
    let (ports, protocol) = match text.rsplit_once('/') {
        None | Some((_, "tcp")) => (text.strip_suffix("/tcp").unwrap_or(text), Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some((_, other)) => return Err(usage(format!("`{other}` is not a protocol of a port")).hint("tcp or udp")),
    };
    let (rest, container) = ports.rsplit_once(':').map_or((None, ports), |(rest, port)| (Some(rest), port));
    let (address, host) = match rest {
        None => (None, None),
        // An IPv6 address stands in brackets, and its colons are its own.
        Some(rest) => match rest.rsplit_once(':') {
            Some((address, host)) if !rest.ends_with(']') => (Some(address), Some(host).filter(|h| !h.is_empty())),
            _ if rest.starts_with('[') || rest.contains('.') => (Some(rest), None),
            _ => (None, Some(rest).filter(|h| !h.is_empty())),
        },
    };
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
        (first != 0 && first <= last).then_some((first, last - first + 1))
    };
    let (container, count) = range(container).ok_or_else(invalid)?;
    let (host, host_count) = host.map_or(Some((container, count)), range).ok_or_else(invalid)?;
    if host_count != count {
        return Err(usage("the ranges of host and container ports differ in length"));
    }
    let address = match address.map(|address| address.trim_start_matches('[').trim_end_matches(']')) {
        None | Some("") => None,
        Some(address) => match address.parse::<std::net::IpAddr>() {
            Ok(parsed) => Some(parsed.to_string()),
            Err(_) => return Err(usage(format!("`{address}` is not an IP address"))),
        },
    };
    Ok(PortMapping { address, host, container, count, protocol })
}

/// `--add-host NAME[;NAME…]:ADDRESS`.
///
/// # Errors
/// No name, or no address after it.
pub fn host_entry(text: &str) -> Result<(String, String)> {
    let invalid = || usage("not a host entry").hint("the form is NAME:ADDRESS");
    let (name, address) = text.split_once(':').ok_or_else(invalid)?;
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    let valid = address == "host-gateway" || bare.parse::<std::net::IpAddr>().is_ok();
    match !name.is_empty() && valid && !name.contains(char::is_whitespace) {
        true => Ok((name.to_owned(), bare.to_owned())),
        false => Err(invalid()),
    }
}

/// `--security-opt`.
///
/// # Errors
/// Unknown, or one not supported yet; the error names it.
pub fn security(text: &str) -> Result<SecurityOption> {
    let (key, value) = text.split_once(['=', ':']).unwrap_or((text, ""));
    let needs_path = |path: &str| match path.starts_with('/') {
        true => Ok(path.to_owned()),
        false => Err(usage(format!("`{path}` is not an absolute path"))),
    };
    Ok(match (key, value) {
        ("no-new-privileges", "" | "true") => SecurityOption::NoNewPrivileges,
        ("seccomp", "unconfined") => SecurityOption::SeccompUnconfined,
        ("seccomp", path) if !path.is_empty() => SecurityOption::SeccompProfile(PathBuf::from(path)),
        ("label", "disable") => SecurityOption::LabelDisable,
        ("label", _) => return Err(usage(format!("security option `{text}` is not supported by `run` yet"))),
        ("apparmor", name) if !name.is_empty() => SecurityOption::AppArmor(name.to_owned()),
        ("mask", path) => SecurityOption::Mask(needs_path(path)?),
        ("unmask", "ALL" | "all") => SecurityOption::Unmask("ALL".to_owned()),
        ("unmask", path) => SecurityOption::Unmask(needs_path(path)?),
        _ => {
            return Err(usage(format!("`{text}` is not a security option of `run`"))
                .hint("no-new-privileges, seccomp=, apparmor=, label=disable, mask=, unmask="));
        }
    })
}

/// `--sysctl NAME=VALUE`. Only settings that belong to a namespace of the container can be set, and they are the ones
/// below `net.`, `kernel.msg*`, `kernel.sem`, `kernel.shm*` and `fs.mqueue.`.
///
/// # Errors
/// Not of that form, or a setting of the whole machine.
pub fn sysctl(text: &str) -> Result<(String, String)> {
    let (name, value) = text.split_once('=').ok_or_else(|| usage("not a setting").hint("the form is NAME=VALUE"))?;
    let name = name.replace('/', ".");
    let namespaced = ["net.", "fs.mqueue."].iter().any(|prefix| name.starts_with(prefix))
        || ["kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shm_rmid_forced"]
            .contains(&name.as_str())
        || ["kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.domainname"].contains(&name.as_str());
    match namespaced && !name.contains("..") {
        true => Ok((name, value.to_owned())),
        false => Err(usage(format!("`{name}` is a setting of the whole machine, not of a container"))),
    }
}

/// `--umask`, octal.
///
/// # Errors
/// Not an octal number up to 0777.
pub fn umask(text: &str) -> Result<u32> {
    let mask = u32::from_str_radix(text, 8).ok().filter(|mask| *mask <= 0o777);
    mask.ok_or_else(|| usage("not a mask").hint("an octal number such as 0022"))
}

/// Seconds; -1 is as long as it takes.
///
/// # Errors
/// Not a number.
pub fn stop_timeout(text: &str) -> Result<u64> {
    match text {
        "-1" => Ok(u64::MAX),
        _ => text.parse().map_err(|_| usage("not a number of seconds")),
    }
}

/// A moment for `--since`: an RFC 3339 time, seconds since 1970, or an age such as `10m` or `1h30m`. Nanoseconds since
/// 1970; `now` is the present.
///
/// # Errors
/// Neither of these.
pub fn duration(text: &str, now: i128) -> Result<i128> {
    const SECOND: i128 = 1_000_000_000;
    if let Some(moment) = crate::time::parse(text) {
        return Ok(moment);
    }
    if let Ok(seconds) = text.parse::<i64>() {
        return Ok(i128::from(seconds) * SECOND);
    }
    let mut rest = text;
    let mut age = 0i128;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let number: i128 =
            rest[..digits].parse().map_err(|_| usage("not a time").hint("such as 10m or an RFC 3339 time"))?;
        age += number
            * match &rest[digits..unit] {
                "ms" => SECOND / 1000,
                "s" => SECOND,
                "m" => 60 * SECOND,
                "h" => 3600 * SECOND,
                _ => return Err(usage("not a time").hint("such as 10m or an RFC 3339 time")),
            };
        rest = &rest[unit..];
    }
    Ok(now - age)
}

/// The signals by number (x86 and ARM numbering, which all architectures we run on share).
const SIGNALS: [(&str, i32); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// The first and last real-time signals as C libraries number them.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// A signal by name with or without `SIG`, `RTMIN+N`, `RTMAX-N`, or by number.
///
/// # Errors
/// There is no such signal.
pub fn signal(text: &str) -> Result<i32> {
    let unknown = || usage(format!("`{text}` is not a signal"));
    if let Ok(number) = text.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number).ok_or_else(unknown);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    let realtime = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => Some(RTMIN),
        (Some(more), _) => more.strip_prefix('+').and_then(|n| n.parse::<i32>().ok()).map(|n| RTMIN + n),
        (_, Some("")) => Some(RTMAX),
        (_, Some(less)) => less.strip_prefix('-').and_then(|n| n.parse::<i32>().ok()).map(|n| RTMAX - n),
        _ => None,
    };
    realtime.filter(|number| (RTMIN..=RTMAX).contains(number)).ok_or_else(unknown)
}

/// `SIGTERM` for 15.
pub fn signal_name(number: i32) -> String {
    match SIGNALS.iter().find(|(_, known)| *known == number) {
        Some((name, _)) => format!("SIG{name}"),
        None => format!("signal {number}"),
    }
}

#[cfg(test)]
mod tests;
