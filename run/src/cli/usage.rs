//! Verbs about what runs in containers and what it uses: `top`, `stats`.

use std::ffi::OsString;
use std::fs;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::Parser;
use layerfs::error::{Error, Kind, Result};
use layerfs::sys::fs::read_kernel_file;
use serde_json::{Value, json};

use super::containers::containers;
use super::{Common, exit, parse, print, tell};
use crate::cgroup::Stats;
use crate::child;
use crate::format::{Template, table};
use crate::options::NetworkMode;
use crate::processes::{COLUMNS, Column, age_of, go_duration, rows, used_by};
use crate::spec::short_id;
use crate::state::{Container, Containers, Phase};

/// Columns that `top` shows unless it is told others.
const USUAL: usize = 8;

/// Shows the processes of a container.
#[derive(Parser)]
#[command(name = "run top", override_usage = "run top CONTAINER [COLUMN…]")]
struct Top {
    /// The container, then what is to be shown: user pid ppid pcpu etime tty time args …
    #[arg(value_name = "CONTAINER [COLUMN]", required = true, trailing_var_arg = true)]
    words: Vec<String>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn top(words: &[OsString]) -> i32 {
    let arguments: Top = match parse(words, exit::ENGINE) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let shown = (|| {
        let container = containers(&arguments.common)?.find(&arguments.words[0])?;
        drop(container.open_process()?);
        let names = arguments.words[1..].iter().flat_map(|word| word.split(',')).filter(|word| !word.is_empty());
        let mut columns: Vec<Column> = names.map(Column::named).collect::<Result<_>>()?;
        if columns.is_empty() {
            columns = COLUMNS[..USUAL].to_vec();
        }
        child::run(|| {
            print(&table(&rows(&container, &columns)?));
            Ok(())
        })
    })();
    shown.map_or_else(|error| tell("run", &error, exit::ENGINE), |()| exit::OK)
}

/// Shows what containers use, again and again.
#[derive(Parser)]
#[command(name = "run stats", override_usage = "run stats [FLAGS] [CONTAINER…]")]
struct StatsArguments {
    /// All containers; those that do not run use nothing
    #[arg(short, long)]
    all: bool,
    /// Once
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    no_stream: Option<bool>,
    /// One table below the other
    #[arg(long)]
    no_reset: bool,
    /// IDs in full
    #[arg(long, alias = "notruncate")]
    no_trunc: bool,
    /// json, or a template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Seconds from one table to the next
    #[arg(short, long, value_name = "SECONDS", default_value_t = 5)]
    interval: u64,
    /// Containers by name or ID; without any, all that run
    #[arg(value_name = "CONTAINER")]
    names: Vec<String>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn stats(words: &[OsString]) -> i32 {
    let arguments: StatsArguments = match parse(words, exit::ENGINE) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    watch(&arguments).map_or_else(|error| tell("run", &error, exit::ENGINE), |()| exit::OK)
}

fn watch(arguments: &StatsArguments) -> Result<()> {
    let containers = containers(&arguments.common)?;
    let template = match arguments.format.as_deref() {
        None | Some("json" | "table") => None,
        Some(text) => Some(Template::parse(text)?),
    };
    let mut before: Vec<Sample> = Vec::new();
    loop {
        let samples = samples(&containers, arguments)?;
        let rows: Vec<Value> = samples
            .iter()
            .map(|sample| sample.row(before.iter().find(|last| last.id == sample.id), arguments.no_trunc))
            .collect();
        let text = match (&template, arguments.format.as_deref()) {
            (Some(template), _) => {
                rows.iter().map(|row| template.fill(row).map(|line| format!("{line}\n"))).collect::<Result<String>>()?
            }
            (None, Some("json")) => {
                let list: Vec<Value> = rows.iter().map(as_json).collect();
                format!("{}\n", serde_json::to_string_pretty(&list).unwrap_or_default())
            }
            (None, _) => as_table(&rows),
        };
        let once = arguments.no_stream.unwrap_or(false);
        let clears = !once && !arguments.no_reset && std::io::stdout().is_terminal();
        // Home, and everything below it cleared.
        let lead = if clears { "\u{1b}[H\u{1b}[J" } else { "" };
        if print(&format!("{lead}{text}")) != exit::OK || once {
            return Ok(());
        }
        let _ = std::io::stdout().flush();
        before = samples;
        std::thread::sleep(Duration::from_secs(arguments.interval.max(1)));
    }
}

/// What a container had used at a moment.
struct Sample {
    id: String,
    name: String,
    stats: Stats,
    /// Nanoseconds that it had run.
    age: u64,
    /// Bytes that came and went over its own network.
    network: (u64, u64),
}

fn samples(containers: &Containers, arguments: &StatsArguments) -> Result<Vec<Sample>> {
    let chosen = match arguments.names.is_empty() {
        true => containers.list()?.into_iter().filter(|one| !one.is_leftover()).collect(),
        false => arguments.names.iter().map(|name| containers.find(name)).collect::<Result<Vec<_>>>()?,
    };
    let mut samples = Vec::new();
    for container in chosen {
        let running = container.phase() == Phase::Running;
        let named = !arguments.names.is_empty();
        if !running && !arguments.all && !named {
            continue;
        }
        if running && container.record.cgroup.folders().is_empty() {
            let message = format!("container `{}` has no cgroup, so nobody counts what it uses", container.record.name);
            return Err(Error::new(Kind::Unsupported, message)
                .hint("an ordinary user needs cgroup v2 and delegation; `run check` tells how"));
        }
        samples.push(Sample {
            id: container.record.id.clone(),
            name: container.record.name.clone(),
            stats: if running { counted(&container)? } else { Stats::default() },
            age: if running { age_of(&container) } else { 0 },
            network: if running { network(&container) } else { (0, 0) },
        });
    }
    Ok(samples)
}

/// By its control groups; what those do not count because nobody limits it, by its processes.
fn counted(container: &Container) -> Result<Stats> {
    let mut stats = container.record.cgroup.stats();
    if stats.cpu.total == 0 || stats.memory.usage == 0 {
        let pids = container.record.cgroup.processes()?;
        let (time, memory) = used_by(&pids);
        if stats.cpu.total == 0 {
            stats.cpu.total = time;
        }
        if stats.memory.usage == 0 {
            (stats.memory.usage, stats.memory.limit) = (memory, u64::MAX);
        }
        stats.pids.current = stats.pids.current.max(pids.len() as u64);
    }
    Ok(stats)
}

/// What went over the interfaces of a container's own network, but for its loopback.
fn network(container: &Container) -> (u64, u64) {
    let pid = container.status.as_ref().map_or(0, |status| status.process.pid);
    if container.record.options.network.mode == NetworkMode::Host {
        return (0, 0);
    }
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let line = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
        (name.trim() != "lo").then_some((*numbers.first()?, *numbers.get(8)?))
    };
    text.lines().filter_map(line).fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
}

impl Sample {
    /// What a template can name. Without a sample before, the share is that of the container's whole life.
    fn row(&self, before: Option<&Self>, whole: bool) -> Value {
        let per_cent = |part: u64, of: u64| if of == 0 { 0.0 } else { part as f64 * 100.0 / of as f64 };
        let total = self.stats.cpu.total;
        let average = per_cent(total, self.age);
        let current = before.map_or(average, |last| {
            per_cent(total.saturating_sub(last.stats.cpu.total), self.age.saturating_sub(last.age))
        });
        let (usage, limit) = (self.stats.memory.usage, self.stats.memory.limit.min(machine_memory()));
        let limit = if self.age == 0 { 0 } else { limit };
        let sum = |of: fn(&crate::cgroup::IoStats) -> u64| self.stats.io.iter().map(of).sum::<u64>();
        json!({
            "ID": if whole { self.id.as_str() } else { short_id(&self.id) },
            "ContainerID": self.id,
            "Name": self.name,
            "CPUPerc": format!("{current:.2}%"),
            "CPU": current,
            "AvgCPU": format!("{average:.2}%"),
            "MemUsage": format!("{} / {}", size(usage), size(limit)),
            "MemUsageBytes": format!("{} / {}", size(usage), size(limit)),
            "MemLimit": limit,
            "MemPerc": format!("{:.2}%", per_cent(usage, limit)),
            "NetIO": format!("{} / {}", size(self.network.0), size(self.network.1)),
            "NetInput": self.network.0,
            "NetOutput": self.network.1,
            "BlockIO": format!("{} / {}", size(sum(|io| io.read)), size(sum(|io| io.written))),
            "BlockInput": sum(|io| io.read),
            "BlockOutput": sum(|io| io.written),
            "PIDS": self.stats.pids.current,
            "PIDs": self.stats.pids.current,
            "CPUTime": go_duration(total),
            "CPUNano": total,
            "UpTime": go_duration(self.age),
            "Duration": self.age,
        })
    }
}

const HEADINGS: [&str; 10] =
    ["ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET IO", "BLOCK IO", "PIDS", "CPU TIME", "AVG CPU %"];
const FIELDS: [&str; 10] =
    ["ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDS", "CPUTime", "AvgCPU"];
/// The same in `--format json`, where podman has names of its own.
const KEYS: [&str; 10] =
    ["id", "name", "cpu_percent", "mem_usage", "mem_percent", "net_io", "block_io", "pids", "cpu_time", "avg_cpu"];

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn as_table(rows: &[Value]) -> String {
    let headings = HEADINGS.map(str::to_owned).to_vec();
    let cells = rows.iter().map(|row| FIELDS.iter().map(|field| text(&row[*field])).collect());
    table(&std::iter::once(headings).chain(cells).collect::<Vec<_>>())
}

fn as_json(row: &Value) -> Value {
    KEYS.iter().zip(FIELDS).map(|(key, field)| ((*key).to_owned(), Value::String(text(&row[field])))).collect()
}

fn machine_memory() -> u64 {
    let text = read_kernel_file("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    line.split_ascii_whitespace().next().and_then(|word| word.parse::<u64>().ok()).map_or(u64::MAX, |kib| kib * 1024)
}

/// Bytes in units of a thousand and four digits, as podman writes them.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match value {
        100.0.. => 1,
        10.0.. => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_four_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1_000, "1kB"),
            (1_234, "1.234kB"),
            (12_345_678, "12.35MB"),
            (8_000_000_000, "8GB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn a_row_says_what_was_used() {
        let mut stats = Stats::default();
        (stats.cpu.total, stats.memory.usage, stats.memory.limit) = (500_000_000, 1_000, 10_000);
        let sample = Sample { id: "ab".repeat(32), name: "n".to_owned(), stats, age: 1_000_000_000, network: (1, 2) };
        let row = sample.row(None, false);
        assert_eq!((&row["CPUPerc"], &row["MemPerc"]), (&json!("50.00%"), &json!("10.00%")));
        assert_eq!((&row["MemUsage"], &row["NetIO"]), (&json!("1kB / 10kB"), &json!("1B / 2B")));
        assert_eq!(as_json(&row)["cpu_time"], json!("500ms"));
    }
}
