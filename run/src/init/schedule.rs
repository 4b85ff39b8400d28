//! When and where the container's process runs: scheduler, priority of input and output, processors, memory nodes,
//! personality. Read before anything starts, so that what makes no sense is refused then.

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::schedule::{Scheduling, set_io_priority, set_memory_policy, set_personality, set_scheduling};
use oci_spec::runtime::{
    IOPriorityClass, Linux, LinuxMemoryPolicy, LinuxPersonality, LinuxPersonalityDomain, LinuxSchedulerFlag,
    LinuxSchedulerPolicy, MemoryPolicyFlagType, MemoryPolicyModeType, Process, Scheduler,
};
use rustix::io::Errno;
use rustix::thread::CpuSet;

/// What is set; nothing at all, most of the time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Schedule {
    scheduling: Option<Scheduling>,
    io: Option<(u32, u32)>,
    memory: Option<(u32, Vec<u64>)>,
    personality: Option<u32>,
}

/// The processors that a program in a running container may use: before it joins the container's cgroup, and after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Affinity {
    pub(crate) initial: Option<Vec<usize>>,
    pub(crate) last: Option<Vec<usize>>,
}

impl Schedule {
    /// Reads a process, and the Spec of its container.
    pub(crate) fn of(process: &Process, linux: Option<&Linux>) -> Result<Self> {
        let io = process.io_priority().map(|wanted| {
            let class = match wanted.class() {
                IOPriorityClass::IoprioClassRt => 1,
                IOPriorityClass::IoprioClassBe => 2,
                IOPriorityClass::IoprioClassIdle => 3,
            };
            let level = u32::try_from(wanted.priority()).ok().filter(|level| *level <= 7).ok_or_else(|| {
                Error::new(Kind::Invalid, format!("process.ioPriority.priority {} is not 0 to 7", wanted.priority()))
            })?;
            Ok((class, level))
        });
        Ok(Self {
            scheduling: process.scheduler().as_ref().map(scheduling).transpose()?,
            io: io.transpose()?,
            memory: linux.and_then(|linux| linux.memory_policy().as_ref()).map(memory_policy).transpose()?,
            personality: linux.and_then(|linux| linux.personality().as_ref()).map(personality).transpose()?,
        })
    }

    /// Sets all of it for this process.
    pub(crate) fn apply(&self) -> Result<()> {
        if let Some(wanted) = &self.scheduling {
            set_scheduling(wanted)
                .context(|| "set process.scheduler")
                .map_err(|error| explain(error, "CAP_SYS_NICE"))?;
        }
        if let Some((class, level)) = self.io {
            set_io_priority(class, level)
                .context(|| "set process.ioPriority")
                .map_err(|error| explain(error, "CAP_SYS_NICE or CAP_SYS_ADMIN"))?;
        }
        if let Some((mode, nodes)) = &self.memory {
            set_memory_policy(*mode, nodes).context(|| "set linux.memoryPolicy").map_err(|error| {
                match error.errno().map(Errno::from_raw_os_error) {
                    Some(Errno::NOSYS) => error.hint("this kernel was built without NUMA"),
                    Some(Errno::INVAL) => error.hint("does this machine have those nodes, and does the mode take any?"),
                    _ => error,
                }
            })?;
        }
        if let Some(domain) = self.personality {
            set_personality(domain).context(|| "set linux.personality")?;
        }
        Ok(())
    }
}

impl Affinity {
    /// Reads `execCPUAffinity`.
    pub(crate) fn of(process: &Process) -> Result<Self> {
        let Some(wanted) = process.exec_cpu_affinity() else { return Ok(Self::default()) };
        let list = |field: &str, text: &Option<String>| {
            let text = text.as_deref().filter(|text| !text.is_empty());
            text.map(|text| numbers(&format!("process.execCPUAffinity.{field}"), text)).transpose()
        };
        Ok(Self { initial: list("initial", wanted.initial())?, last: list("final", wanted.cpu_affinity_final())? })
    }
}

/// Confines this process to some processors; nothing to do without any.
pub(crate) fn confine(processors: Option<&Vec<usize>>) -> Result<()> {
    let Some(processors) = processors else { return Ok(()) };
    let mut set = CpuSet::new();
    processors.iter().for_each(|number| set.set(*number));
    rustix::thread::sched_setaffinity(None, &set)
        .context(|| "set process.execCPUAffinity")
        .map_err(|error| error.hint("none of those processors is there and allowed"))
}

/// Lets this process run wherever its cgroup does, not only where its caller was confined to; as crun and runc.
pub(crate) fn spread() {
    let mut set = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|number| set.set(number));
    // Where that is not allowed it stays where it is.
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

fn explain(error: Error, capability: &str) -> Error {
    match error.errno().map(Errno::from_raw_os_error) {
        Some(Errno::PERM) => error.hint(format!("it needs {capability}, which this process does not have")),
        Some(Errno::INVAL) => error.hint("the kernel does not take these values together"),
        _ => error,
    }
}

fn scheduling(wanted: &Scheduler) -> Result<Scheduling> {
    use LinuxSchedulerFlag as F;
    use LinuxSchedulerPolicy as P;
    let policy = match wanted.policy() {
        P::SchedOther => 0,
        P::SchedFifo => 1,
        P::SchedRr => 2,
        P::SchedBatch => 3,
        P::SchedIso => 4,
        P::SchedIdle => 5,
        P::SchedDeadline => 6,
    };
    let bit = |flag: &LinuxSchedulerFlag| match flag {
        F::SchedResetOnFork => 0x01,
        F::SchedFlagReclaim => 0x02,
        F::SchedFlagDLOverrun => 0x04,
        F::SchedFlagKeepPolicy => 0x08,
        F::SchedFlagKeepParams => 0x10,
        F::SchedFlagUtilClampMin => 0x20,
        F::SchedFlagUtilClampMax => 0x40,
    };
    let nice = wanted.nice().unwrap_or(0);
    // The kernel would take the nearest value it has, in silence.
    if !(-20..=19).contains(&nice) {
        return Err(Error::new(Kind::Invalid, format!("process.scheduler.nice {nice} is not -20 to 19")));
    }
    let priority = wanted.priority().unwrap_or(0);
    let priority = u32::try_from(priority)
        .map_err(|_| Error::new(Kind::Invalid, format!("process.scheduler.priority {priority} is negative")))?;
    Ok(Scheduling {
        policy,
        flags: wanted.flags().iter().flatten().fold(0, |flags, flag| flags | bit(flag)),
        nice,
        priority,
        runtime: wanted.runtime().unwrap_or(0),
        deadline: wanted.deadline().unwrap_or(0),
        period: wanted.period().unwrap_or(0),
        ..Scheduling::default()
    })
}

/// Mode and flags of `set_mempolicy(2)`, and the nodes as bits.
fn memory_policy(wanted: &LinuxMemoryPolicy) -> Result<(u32, Vec<u64>)> {
    use MemoryPolicyFlagType as F;
    use MemoryPolicyModeType as M;
    let mode = match wanted.mode() {
        M::MpolDefault => 0,
        M::MpolPreferred => 1,
        M::MpolBind => 2,
        M::MpolInterleave => 3,
        M::MpolLocal => 4,
        M::MpolPreferredMany => 5,
        M::MpolWeightedInterleave => 6,
    };
    let bit = |flag: &MemoryPolicyFlagType| match flag {
        F::MpolFNumaBalancing => 1 << 13,
        F::MpolFRelativeNodes => 1 << 14,
        F::MpolFStaticNodes => 1 << 15,
    };
    let nodes = wanted.nodes().as_deref().filter(|nodes| !nodes.is_empty());
    let nodes = nodes.map(|nodes| numbers("linux.memoryPolicy.nodes", nodes)).transpose()?.unwrap_or_default();
    let mut mask = Vec::new();
    for node in nodes {
        let (word, bit) = (node / u64::BITS as usize, node % u64::BITS as usize);
        mask.resize(mask.len().max(word + 1), 0);
        mask[word] |= 1 << bit;
    }
    Ok((wanted.flags().iter().flatten().fold(mode, |mode, flag| mode | bit(flag)), mask))
}

fn personality(wanted: &LinuxPersonality) -> Result<u32> {
    if let Some(flag) = wanted.flags().iter().flatten().next() {
        return Err(Error::new(Kind::Invalid, format!("linux.personality.flags: `{flag}` is unknown"))
            .hint("the specification knows no flag so far"));
    }
    Ok(match wanted.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    })
}

/// The numbers of a list like `0-3,7`, the kernel's own way to write sets of processors and of nodes.
fn numbers(field: &str, text: &str) -> Result<Vec<usize>> {
    /// More processors, or memory nodes, than Linux has room for.
    const MAX: usize = CpuSet::MAX_CPU;
    let invalid = || {
        Error::new(Kind::Invalid, format!("{field}: `{text}` is not a list of numbers below {MAX}"))
            .hint("write it as `0-3,7`")
    };
    let number = |text: &str| text.trim().parse::<usize>().ok().filter(|number| *number < MAX).ok_or_else(invalid);
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(invalid());
        }
        all.extend(first..=last);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Spec;

    fn check(process: &str, linux: &str, words: &str) {
        let text = format!(r#"{{"process":{{"cwd":"/","user":{{"uid":0,"gid":0}}{process}}},"linux":{{{linux}}}}}"#);
        let spec: Spec = serde_json::from_str(&text).expect("JSON of a Spec");
        let process = spec.process().as_ref().expect("it has one");
        let read = Schedule::of(process, spec.linux().as_ref()).and_then(|_| Affinity::of(process).map(drop));
        let told = read.map_or_else(|error| error.to_string(), |()| "fine".to_owned());
        assert_eq!(told, words);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        check("", "", "fine");
        check(r#","ioPriority":{"class":"IOPRIO_CLASS_BE","priority":7}"#, "", "fine");
        check(
            r#","ioPriority":{"class":"IOPRIO_CLASS_BE","priority":8}"#,
            "",
            "process.ioPriority.priority 8 is not 0 to 7",
        );
        check(r#","scheduler":{"policy":"SCHED_OTHER","nice":20}"#, "", "process.scheduler.nice 20 is not -20 to 19");
        check("", r#""personality":{"domain":"LINUX32","flags":["X"]}"#, "linux.personality.flags: `X` is unknown");
        check(
            "",
            r#""memoryPolicy":{"mode":"MPOL_BIND","nodes":"3-1"}"#,
            "linux.memoryPolicy.nodes: `3-1` is not a list of numbers below 1024",
        );
    }

    #[test]
    fn lists_are_the_kernels() {
        assert_eq!(numbers("x", "0-3,7").expect("valid"), [0, 1, 2, 3, 7]);
        for text in ["", "a", "1-", "0-99999", "2-1", "1,,2"] {
            assert!(numbers("x", text).is_err(), "{text}");
        }
    }

    #[test]
    fn nodes_become_bits() {
        let text = r#"{"mode":"MPOL_INTERLEAVE","nodes":"0,64","flags":["MPOL_F_STATIC_NODES"]}"#;
        let wanted = serde_json::from_str(text).expect("valid");
        assert_eq!(memory_policy(&wanted).expect("valid"), (3 | 1 << 15, vec![1, 1]));
    }
}
