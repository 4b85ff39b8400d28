//! The processes of a container, read from outside: `top`. Nothing of the container is executed for it (CVE-2022-1227).

use std::fs;
use std::path::Path;

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::fs::{open_in_root, read_kernel_file};
use rustix::fs::{Mode, OFlags};

use crate::files::Files;
use crate::spec::user;
use crate::state::{Container, now};

/// A clock tick of `/proc`, `USER_HZ`, in nanoseconds.
const TICK: u64 = 10_000_000;
/// A page, in KiB.
const PAGE: u64 = 4;

/// What is shown of each process.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// podman's word for it.
    pub name: &'static str,
    /// Its heading.
    pub heading: &'static str,
    value: fn(&Process, &Names) -> String,
}

/// Every column there is; the first eight are shown unless others are asked for.
pub const COLUMNS: [Column; 22] = [
    Column { name: "user", heading: "USER", value: |process, names| names.user(process.uid) },
    Column { name: "pid", heading: "PID", value: |process, _| process.pid.to_string() },
    Column { name: "ppid", heading: "PPID", value: |process, _| process.parent.to_string() },
    Column { name: "pcpu", heading: "%CPU", value: |process, _| format!("{:.3}", process.share()) },
    Column { name: "etime", heading: "ELAPSED", value: |process, _| go_duration(process.age) },
    Column { name: "tty", heading: "TTY", value: |process, _| process.terminal() },
    Column { name: "time", heading: "TIME", value: |process, _| go_duration(process.used) },
    Column { name: "args", heading: "COMMAND", value: |process, _| process.words.clone() },
    Column { name: "comm", heading: "COMMAND", value: |process, _| process.program.clone() },
    Column { name: "group", heading: "GROUP", value: |process, names| names.group(process.gid) },
    Column { name: "hgroup", heading: "HGROUP", value: |process, _| process.host_gid.to_string() },
    Column { name: "hpid", heading: "HPID", value: |process, _| process.host_pid.to_string() },
    Column { name: "huser", heading: "HUSER", value: |process, _| process.host_uid.to_string() },
    Column { name: "nice", heading: "NI", value: |process, _| process.nice.to_string() },
    Column { name: "pgid", heading: "PGID", value: |process, _| process.group.to_string() },
    Column { name: "rgroup", heading: "RGROUP", value: |process, names| names.group(process.real_gid) },
    Column { name: "rss", heading: "RSS", value: |process, _| process.resident.to_string() },
    Column { name: "ruser", heading: "RUSER", value: |process, names| names.user(process.real_uid) },
    Column { name: "stat", heading: "STAT", value: |process, _| process.state.to_string() },
    Column { name: "state", heading: "STATE", value: |process, _| process.state.to_string() },
    Column { name: "vsz", heading: "VSZ", value: |process, _| process.size.to_string() },
    Column { name: "seccomp", heading: "SECCOMP", value: |process, _| process.filter.clone() },
];

impl Column {
    /// The column of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn named(name: &str) -> Result<Self> {
        COLUMNS.into_iter().find(|column| column.name == name).ok_or_else(|| {
            let all: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
            Error::new(Kind::Usage, format!("`{name}` is nothing that is known of a process"))
                .hint(format!("known are {}", all.join(" ")))
        })
    }
}

#[derive(Clone, Debug, Default)]
struct Process {
    host_pid: i32,
    pid: i32,
    parent: i32,
    group: i32,
    state: char,
    nice: i64,
    tty: u32,
    /// Processor time and age, in nanoseconds.
    used: u64,
    age: u64,
    /// In KiB.
    size: u64,
    resident: u64,
    uid: u32,
    gid: u32,
    real_uid: u32,
    real_gid: u32,
    host_uid: u32,
    host_gid: u32,
    program: String,
    words: String,
    filter: String,
}

/// The rows of a table: headings, then each process. It opens the container's files, so it is for a copy of the
/// caller's process.
///
/// # Errors
/// The container does not run, or is somebody else's.
pub fn rows(container: &Container, columns: &[Column]) -> Result<Vec<Vec<String>>> {
    let first = container.status.as_ref().map_or(0, |status| status.process.pid);
    drop(container.open_process()?);
    let files = Files::open(container, None)?;
    let names = Names::of(&files);
    let namespace = namespace_of(first).context(|| "look at the container's processes")?;
    let own = namespace_of(rustix::process::getpid().as_raw_nonzero().get()).ok();
    let mut found = Vec::new();
    // A container in the host's own namespace has what is in its control group.
    let pids = match own.as_ref() == Some(&namespace) {
        true => container.record.cgroup.processes()?,
        false => all_pids()?,
    };
    for pid in pids {
        let is_ours = own.as_ref() == Some(&namespace) || namespace_of(pid).is_ok_and(|other| other == namespace);
        if is_ours && let Some(process) = Process::read(pid, first, &files) {
            found.push(process);
        }
    }
    found.sort_by_key(|process| process.pid);
    let headings = columns.iter().map(|column| column.heading.to_owned()).collect();
    let rows = found.iter().map(|process| columns.iter().map(|column| (column.value)(process, &names)).collect());
    Ok(std::iter::once(headings).chain(rows).collect())
}

fn all_pids() -> Result<Vec<i32>> {
    let entries = fs::read_dir("/proc").at("read", "/proc")?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

fn namespace_of(pid: i32) -> std::io::Result<std::path::PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid"))
}

impl Process {
    /// `None` for one that has ended meanwhile.
    fn read(host_pid: i32, first: i32, files: &Files) -> Option<Self> {
        let stat = read_kernel_file(format!("/proc/{host_pid}/stat")).ok()?;
        let status = read_kernel_file(format!("/proc/{host_pid}/status")).ok()?;
        let (start, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at).and_then(|word| word.parse::<i64>().ok()).unwrap_or(0);
        let line = |name: &str| -> Vec<&str> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_ascii_whitespace().collect()
        };
        let ids = |name: &str| -> Vec<u32> { line(name).iter().filter_map(|word| word.parse().ok()).collect() };
        let inner = |name: &str| line(name).last().and_then(|word| word.parse().ok());
        let uptime = read_kernel_file("/proc/uptime").ok()?;
        let uptime: f64 = uptime.split(' ').next()?.parse().ok()?;
        let begun = u64::try_from(number(19)).ok()? * TICK;
        let words = fs::read(format!("/proc/{host_pid}/cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).trim_end_matches('\0').replace('\0', " ");
        let program = start.split_once('(').map_or("", |(_, name)| name).to_owned();
        let parent = i32::try_from(number(1)).unwrap_or(0);
        let (uids, gids) = (ids("Uid:"), ids("Gid:"));
        let inside = |id: Option<&u32>, map: fn(&layerfs::userns::Mapping, u32) -> Option<u32>| {
            let id = id.copied().unwrap_or(0);
            files.ids().map_or(id, |ids| map(ids, id).unwrap_or(65_534))
        };
        let user = |at| inside(uids.get(at), layerfs::userns::Mapping::uid_inside);
        let group = |at| inside(gids.get(at), layerfs::userns::Mapping::gid_inside);
        Some(Self {
            host_pid,
            pid: inner("NSpid:").unwrap_or(host_pid),
            // Who came in from outside has its parent there.
            parent: if host_pid == first { 0 } else { parent_inside(parent, host_pid) },
            group: inner("NSpgid:").unwrap_or(0),
            state: fields.first()?.chars().next()?,
            nice: number(16),
            tty: u32::try_from(number(4)).unwrap_or(0),
            used: u64::try_from(number(11) + number(12)).unwrap_or(0) * TICK,
            age: ((uptime * 1e9) as u64).saturating_sub(begun),
            size: u64::try_from(number(20)).unwrap_or(0) / 1024,
            resident: u64::try_from(number(21)).unwrap_or(0) * PAGE,
            uid: user(1),
            gid: group(1),
            real_uid: user(0),
            real_gid: group(0),
            host_uid: uids.get(1).copied().unwrap_or(0),
            host_gid: gids.get(1).copied().unwrap_or(0),
            words: if words.is_empty() { format!("[{program}]") } else { words },
            program,
            filter: match line("Seccomp:").first() {
                Some(&"0") => "disabled".to_owned(),
                Some(&"1") => "strict".to_owned(),
                _ => "filter".to_owned(),
            },
        })
    }

    /// Of one processor since it began, in per cent.
    fn share(&self) -> f64 {
        if self.age == 0 { 0.0 } else { self.used as f64 * 100.0 / self.age as f64 }
    }

    /// `tty_nr` of `proc_pid_stat(5)`: the majors from 136 on are those of `/dev/pts`.
    fn terminal(&self) -> String {
        let (major, minor) = ((self.tty >> 8) & 0xfff, (self.tty & 0xff) | ((self.tty >> 12) & 0xf_ff00));
        match major {
            0 => "?".to_owned(),
            136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
            4 => format!("tty{minor}"),
            _ => format!("{major}:{minor}"),
        }
    }
}

/// A parent's number in the container; 0 for one that is outside.
fn parent_inside(parent: i32, child: i32) -> i32 {
    let same = namespace_of(parent).ok().filter(|other| namespace_of(child).ok().as_ref() == Some(other)).is_some();
    let status = read_kernel_file(format!("/proc/{parent}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    let inner = numbers.split_ascii_whitespace().last().and_then(|word| word.parse().ok());
    if same { inner.unwrap_or(0) } else { 0 }
}

/// Names of ids, by the container's own files.
struct Names {
    passwd: Vec<u8>,
    group: Vec<u8>,
}

impl Names {
    fn of(files: &Files) -> Self {
        let read = |path: &str| {
            let opened = open_in_root(files.root(), Path::new(path), OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty());
            let mut bytes = Vec::new();
            // A pipe or a device in the place of the file is like none.
            let Ok(file) = opened.map(fs::File::from) else { return bytes };
            if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
                let _ = std::io::Read::read_to_end(&mut std::io::Read::take(file, user::FILE_MAX), &mut bytes);
            }
            bytes
        };
        Self { passwd: read("etc/passwd"), group: read("etc/group") }
    }

    fn user(&self, id: u32) -> String {
        name_in(&self.passwd, id)
    }

    fn group(&self, id: u32) -> String {
        name_in(&self.group, id)
    }
}

fn name_in(file: &[u8], id: u32) -> String {
    let found = user::entries(file).find(|(_, known)| *known == id);
    found.map_or_else(|| id.to_string(), |(name, _)| name.to_owned())
}

/// How long something took, as Go prints it, which is what scripts of podman's users read: `1m3.5s`, `20ms`.
pub fn go_duration(nanoseconds: u64) -> String {
    let fraction = |whole: u64, rest: u64, width: usize, unit: &str| {
        let digits = format!("{rest:0width$}");
        match digits.trim_end_matches('0') {
            "" => format!("{whole}{unit}"),
            digits => format!("{whole}.{digits}{unit}"),
        }
    };
    match nanoseconds {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => fraction(nanoseconds / 1_000, nanoseconds % 1_000, 3, "µs"),
        1_000_000..1_000_000_000 => fraction(nanoseconds / 1_000_000, nanoseconds % 1_000_000, 6, "ms"),
        _ => {
            let (whole, rest) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
            let (hours, minutes) = (whole / 3600, whole / 60 % 60);
            let seconds = fraction(whole % 60, rest, 9, "s");
            match (hours, minutes) {
                (0, 0) => seconds,
                (0, _) => format!("{minutes}m{seconds}"),
                _ => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

/// What the processes of a control group have used that live now: processor time in nanoseconds, memory in bytes.
pub fn used_by(pids: &[i32]) -> (u64, u64) {
    let of = |pid: &i32| {
        let stat = read_kernel_file(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        // Its own time, and that of those of its children that it has waited for.
        Some(((11..=14).map(number).sum::<u64>() * TICK, number(21) * PAGE * 1024))
    };
    pids.iter().filter_map(of).fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
}

/// How long a container has run, in nanoseconds.
pub fn age_of(container: &Container) -> u64 {
    let started = container.status.as_ref().map_or(0, |status| status.started);
    u64::try_from(now().saturating_sub(started)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (1_500, "1.5µs"),
            (20_000_000, "20ms"),
            (1_500_000_000, "1.5s"),
            (63_000_000_000, "1m3s"),
            (3_661_000_000_000, "1h1m1s"),
        ] {
            assert_eq!(go_duration(nanoseconds), text);
        }
    }

    #[test]
    fn terminals_have_names() {
        let terminal = |tty| Process { tty, ..Process::default() }.terminal();
        assert_eq!([terminal(0), terminal(136 << 8), terminal(136 << 8 | 3)], ["?", "pts/0", "pts/3"]);
    }

    #[test]
    fn ids_have_names() {
        assert_eq!(name_in(b"root:x:0:0::/:/bin/sh\nme:x:7:7::/:\n", 7), "me");
        assert_eq!(name_in(b"broken\n", 7), "7");
        assert!(Column::named("pid").is_ok() && Column::named("aux").is_err());
    }
}
