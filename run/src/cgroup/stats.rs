//! What a container has used so far, read from its cgroup's files of either version.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::Cgroup;
use super::hierarchy::Version;

/// Numbers of a container. Times are nanoseconds, memory and I/O bytes; what is not counted is 0 or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processor time.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Processes.
    pub pids: Pids,
    /// Block devices.
    pub io: Vec<Io>,
}

/// Processor time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// All of it.
    pub total: u64,
    /// In programs.
    pub user: u64,
    /// In the kernel.
    pub kernel: u64,
    /// Of each processor; v1 only.
    pub each: Vec<u64>,
    /// Periods in which the quota counted.
    pub periods: u64,
    /// Of those, in which it was used up.
    pub throttled_periods: u64,
    /// How long that stopped the container.
    pub throttled: u64,
}

/// Memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// In use, the page cache included.
    pub usage: u64,
    /// The most there ever was.
    pub max_usage: u64,
    /// The limit; the largest number where there is none.
    pub limit: u64,
    /// How often it was met.
    pub failures: u64,
    /// Swap (v2), or memory and swap together (v1): usage and limit.
    pub swap: (u64, u64),
    /// Page cache.
    pub cache: u64,
    /// The kernel's own list, under its own names.
    pub raw: BTreeMap<String, u64>,
}

/// Processes and threads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pids {
    /// Now.
    pub current: u64,
    /// The limit; 0 where there is none.
    pub limit: u64,
}

/// One block device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Io {
    /// Its numbers.
    pub device: (u64, u64),
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// A clock tick of `/proc`-like files, `USER_HZ`.
const TICK: u64 = 10_000_000;

impl Cgroup {
    /// What has been used until now.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        if let Some(cpu) = self.controller("cpuacct", "cpu") {
            match cpu.version {
                Version::V1 => cpu_v1(cpu.folder, &mut stats.cpu),
                Version::V2 => cpu_v2(cpu.folder, &mut stats.cpu),
            }
        }
        if let Some(cpu) = self.controller("cpu", "cpu").filter(|cpu| cpu.version == Version::V1) {
            let numbers = table(&cpu.folder.join("cpu.stat"));
            let number = |name: &str| numbers.get(name).copied().unwrap_or(0);
            (stats.cpu.periods, stats.cpu.throttled_periods) = (number("nr_periods"), number("nr_throttled"));
            stats.cpu.throttled = number("throttled_time");
        }
        if let Some(memory) = self.controller("memory", "memory") {
            stats.memory = match memory.version {
                Version::V1 => memory_v1(memory.folder),
                Version::V2 => memory_v2(memory.folder),
            };
        }
        if let Some(pids) = self.controller("pids", "pids") {
            let limit = number(&pids.folder.join("pids.max"));
            stats.pids = Pids {
                current: number(&pids.folder.join("pids.current")),
                limit: if limit == u64::MAX { 0 } else { limit },
            };
        }
        if let Some(io) = self.controller("blkio", "io") {
            stats.io = match io.version {
                Version::V1 => io_v1(io.folder),
                Version::V2 => io_v2(&text(&io.folder.join("io.stat"))),
            };
        }
        stats
    }
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// `max` is the largest number.
fn number(path: &Path) -> u64 {
    let text = text(path);
    if text.trim() == "max" { u64::MAX } else { text.trim().parse().unwrap_or(0) }
}

/// Lines of a name and a number.
fn table(path: &Path) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let (name, number) = line.split_once(' ')?;
        Some((name.to_owned(), number.trim().parse().ok()?))
    };
    text(path).lines().filter_map(line).collect()
}

fn cpu_v1(folder: &Path, cpu: &mut Cpu) {
    cpu.total = number(&folder.join("cpuacct.usage"));
    let each = text(&folder.join("cpuacct.usage_percpu"));
    cpu.each = each.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let ticks = table(&folder.join("cpuacct.stat"));
    let time = |name: &str| ticks.get(name).map_or(0, |ticks| ticks * TICK);
    (cpu.user, cpu.kernel) = (time("user"), time("system"));
}

fn cpu_v2(folder: &Path, cpu: &mut Cpu) {
    let numbers = table(&folder.join("cpu.stat"));
    let number = |name: &str| numbers.get(name).copied().unwrap_or(0);
    let time = |name: &str| number(name) * 1_000;
    (cpu.total, cpu.user, cpu.kernel) = (time("usage_usec"), time("user_usec"), time("system_usec"));
    (cpu.periods, cpu.throttled_periods) = (number("nr_periods"), number("nr_throttled"));
    cpu.throttled = time("throttled_usec");
}

fn memory_v1(folder: &Path) -> Memory {
    let at = |name: &str| number(&folder.join(name));
    let raw = table(&folder.join("memory.stat"));
    Memory {
        usage: at("memory.usage_in_bytes"),
        max_usage: at("memory.max_usage_in_bytes"),
        limit: at("memory.limit_in_bytes"),
        failures: at("memory.failcnt"),
        swap: (at("memory.memsw.usage_in_bytes"), at("memory.memsw.limit_in_bytes")),
        cache: raw.get("total_cache").or_else(|| raw.get("cache")).copied().unwrap_or(0),
        raw,
    }
}

fn memory_v2(folder: &Path) -> Memory {
    let at = |name: &str| number(&folder.join(name));
    let raw = table(&folder.join("memory.stat"));
    Memory {
        usage: at("memory.current"),
        max_usage: at("memory.peak"),
        limit: at("memory.max"),
        failures: table(&folder.join("memory.events")).get("max").copied().unwrap_or(0),
        swap: (at("memory.swap.current"), at("memory.swap.max")),
        cache: raw.get("file").copied().unwrap_or(0),
        raw,
    }
}

/// `8:0 Read 4096`, one line for each device and direction.
fn io_v1(folder: &Path) -> Vec<Io> {
    let mut devices: BTreeMap<(u64, u64), Io> = BTreeMap::new();
    for (file, bytes) in
        [("blkio.throttle.io_service_bytes_recursive", true), ("blkio.throttle.io_serviced_recursive", false)]
    {
        for line in text(&folder.join(file)).lines() {
            let mut words = line.split_whitespace();
            let (Some(device), Some(way), Some(count)) = (words.next(), words.next(), words.next()) else { continue };
            let (Some(device), Ok(count)) = (device_of(device), count.parse::<u64>()) else { continue };
            let io = devices.entry(device).or_insert(Io { device, ..Io::default() });
            match (way, bytes) {
                ("Read", true) => io.read = count,
                ("Write", true) => io.written = count,
                ("Read", false) => io.reads = count,
                ("Write", false) => io.writes = count,
                _ => {}
            }
        }
    }
    devices.into_values().collect()
}

/// `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 …`, one line for each device.
fn io_v2(text: &str) -> Vec<Io> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let mut io = Io { device: device_of(words.next()?)?, ..Io::default() };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match key {
                "rbytes" => io.read = value,
                "wbytes" => io.written = value,
                "rios" => io.reads = value,
                "wios" => io.writes = value,
                _ => {}
            }
        }
        Some(io)
    };
    text.lines().filter_map(line).collect()
}

fn device_of(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_of_v2() {
        let found = io_v2("254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n7:1\nnonsense\n");
        let first = Io { device: (254, 0), read: 4096, written: 8192, reads: 1, writes: 2 };
        assert_eq!(found, [first, Io { device: (7, 1), ..Io::default() }]);
    }

    #[test]
    fn files_of_v1() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("a file");
        write("blkio.throttle.io_service_bytes_recursive", "8:0 Read 10\n8:0 Write 20\nTotal 30\n");
        write("blkio.throttle.io_serviced_recursive", "8:0 Read 1\n8:0 Write 2\n");
        write("memory.stat", "cache 5\ntotal_cache 7\n");
        write("memory.limit_in_bytes", "100\n");
        assert_eq!(io_v1(dir.path()), [Io { device: (8, 0), read: 10, written: 20, reads: 1, writes: 2 }]);
        let memory = memory_v1(dir.path());
        assert_eq!((memory.cache, memory.limit, memory.usage), (7, 100, 0));
    }
}
