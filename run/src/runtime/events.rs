//! `events`: what a container uses, once or again and again, and when it runs out of memory. Lines of JSON, as runc's.

use std::os::fd::AsFd;

use layerfs::error::{Context, Error, Kind, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use serde_json::{Value, json};

use super::arguments::Events;
use super::instances::{Instance, Status};
use super::say;
use crate::cgroup::Stats;
use crate::time;

/// Reports until the container ends, or once.
pub(super) fn follow(instance: &Instance, events: &Events) -> Result<()> {
    if instance.status() == Status::Stopped {
        return Err(Error::new(Kind::Conflict, format!("container not running: `{}` is stopped", instance.id())));
    }
    let report = |kind: &str, data: Option<Value>| {
        let mut line = json!({"type": kind, "id": instance.id()});
        if let Some(data) = data {
            line["data"] = data;
        }
        say(&format!("{line}\n")).map(drop)
    };
    let stats = || Some(data(&instance.cgroup().stats()));
    if events.stats {
        return report("stats", stats());
    }
    let process = instance.open_process()?;
    // Where memory is not counted nothing is told of it, and the rest still is.
    let mut watch = instance.cgroup().watch_oom().ok();
    let interval = i128::from(events.interval);
    let mut next = time::now() + interval;
    loop {
        let left = (next - time::now()).clamp(0, interval);
        let timeout = Timespec {
            tv_sec: i64::try_from(left / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: (left % 1_000_000_000) as _,
        };
        let ended = {
            let mut fds = vec![PollFd::new(&process, PollFlags::IN)];
            fds.extend(watch.as_ref().map(|watch| PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN)));
            match rustix::event::poll(&mut fds, Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => continue,
                polled => polled.context(|| "wait for the container")?,
            };
            !fds[0].revents().is_empty()
        };
        for _ in 0..watch.as_mut().map_or(0, crate::cgroup::OomWatch::happened) {
            report("oom", None)?;
        }
        if ended {
            return Ok(());
        }
        if time::now() >= next {
            report("stats", stats())?;
            next = time::now() + interval;
        }
    }
}

/// runc's form (`runc/types/events.go`).
fn data(stats: &Stats) -> Value {
    let (cpu, memory) = (&stats.cpu, &stats.memory);
    let mut pids = json!({"current": stats.pids.current});
    if stats.pids.limit > 0 {
        pids["limit"] = json!(stats.pids.limit);
    }
    let rows = |read: fn(&crate::cgroup::IoStats) -> u64, write: fn(&crate::cgroup::IoStats) -> u64| -> Vec<Value> {
        let row = |io: &crate::cgroup::IoStats, op: &str, value: u64| json!({"major": io.device.0, "minor": io.device.1, "op": op, "value": value});
        stats.io.iter().flat_map(|io| [row(io, "Read", read(io)), row(io, "Write", write(io))]).collect()
    };
    json!({
        "cpu": {
            "usage": {"total": cpu.total, "percpu": cpu.each, "kernel": cpu.kernel, "user": cpu.user},
            "throttling": {
                "periods": cpu.periods,
                "throttledPeriods": cpu.throttled_periods,
                "throttledTime": cpu.throttled,
            },
        },
        "memory": {
            "cache": memory.cache,
            "usage": {
                "limit": memory.limit, "usage": memory.usage, "max": memory.max_usage, "failcnt": memory.failures,
            },
            "swap": {"limit": memory.swap.1, "usage": memory.swap.0, "failcnt": 0},
            "raw": memory.raw,
        },
        "pids": pids,
        "blkio": {
            "ioServiceBytesRecursive": rows(|io| io.read, |io| io.written),
            "ioServicedRecursive": rows(|io| io.reads, |io| io.writes),
        },
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": null,
    })
}
