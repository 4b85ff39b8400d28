//! `run check`: what this machine lacks for containers, each with the exact line that fixes it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use layerfs::error::{Error, Result};
use layerfs::mount::{Backend, MountPlan, Upper, overlay};
use layerfs::userns;
use oci_spec::runtime::{LinuxMemory, LinuxResources};

use crate::network;
use crate::options::{NetworkMode, NetworkOptions};
use crate::prepare;
use crate::state::Containers;
use crate::{cgroup, host};

/// How well one thing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It works.
    Fine,
    /// Containers run, but something they may want is missing.
    Lacking,
    /// No container can run.
    Needed,
}

/// One thing that was looked at.
#[derive(Clone, Debug)]
pub struct Finding {
    subject: &'static str,
    standing: Standing,
    words: String,
    fix: Option<String>,
}

impl Finding {
    fn of(subject: &'static str, when_missing: Standing, found: Result<String>) -> Self {
        match found {
            Ok(words) => Self { subject, standing: Standing::Fine, words, fix: None },
            Err(error) => {
                Self { subject, standing: when_missing, words: error.chain(), fix: error.advice().map(str::to_owned) }
            }
        }
    }

    /// No container can run without it.
    pub fn is_needed(&self) -> bool {
        self.standing == Standing::Needed
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.standing {
            Standing::Fine => "ok     ",
            Standing::Lacking => "missing",
            Standing::Needed => "needed ",
        };
        write!(f, "{mark}  {}: {}", self.subject, self.words)?;
        self.fix.as_ref().map_or(Ok(()), |fix| write!(f, "\n         fix: {fix}"))
    }
}

/// Looks at everything, in the order in which a container needs it. Enters the user namespace on the way.
pub fn all(store: Option<&Path>) -> Vec<Finding> {
    let ordinary = !rustix::process::geteuid().is_root();
    let root = prepare::store_root(store);
    let mut findings = Vec::new();
    let entered = userns::enter();
    let single = entered.as_ref().ok().and_then(|entered| entered.single_id.clone());
    let namespace = entered.map(|entered| match entered.rootless {
        true => "a user namespace of your own".to_owned(),
        false => "not needed: you are root".to_owned(),
    });
    let usable = namespace.is_ok();
    findings.push(Finding::of("user namespace", Standing::Needed, namespace));
    if ordinary {
        findings.push(match single {
            None => Finding::of(
                "subordinate ids",
                Standing::Lacking,
                Ok("/etc/subuid and /etc/subgid have a range for you".to_owned()),
            ),
            Some(line) => Finding {
                subject: "subordinate ids",
                standing: Standing::Lacking,
                fix: line.split_once("to add one: ").map(|(_, fix)| fix.to_owned()),
                words: line.split("; to add one: ").next().unwrap_or(&line).to_owned(),
            },
        });
    }
    if !usable {
        return findings;
    }
    let store = root.and_then(|root| layerfs::store::Store::open(&root));
    let place = store.as_ref().map(|store| store.root().to_owned()).ok();
    if let Some(place) = &place {
        findings.push(Finding::of("overlay file system", Standing::Needed, try_overlay(place)));
    }
    findings.push(Finding::of("store", Standing::Needed, store.map(|store| store.root().display().to_string())));
    for (subject, resources) in limits() {
        let name = Path::new("layerfs-check");
        let planned = cgroup::plan(Some(&resources), name).map(|_| "can be applied".to_owned());
        findings.push(Finding::of(subject, Standing::Lacking, planned));
    }
    findings.push(Finding::of("network by pasta", Standing::Lacking, try_pasta(place.as_deref())));
    findings.push(Finding::of(
        "init program (--init)",
        Standing::Lacking,
        host::init_program().map(|path| path.display().to_string()),
    ));
    findings
}

fn limits() -> [(&'static str, LinuxResources); 3] {
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(64 << 20));
    let mut cpu = oci_spec::runtime::LinuxCpu::default();
    cpu.set_quota(Some(50_000)).set_period(Some(100_000));
    let mut pids = oci_spec::runtime::LinuxPids::default();
    pids.set_limit(100);
    let with = |set: &dyn Fn(&mut LinuxResources)| {
        let mut resources = LinuxResources::default();
        set(&mut resources);
        resources
    };
    [
        (
            "memory limit",
            with(&|resources| {
                resources.set_memory(Some(memory));
            }),
        ),
        (
            "cpu limit",
            with(&|resources| {
                resources.set_cpu(Some(cpu.clone()));
            }),
        ),
        (
            "process limit",
            with(&|resources| {
                resources.set_pids(Some(pids));
            }),
        ),
    ]
}

/// Mounts two empty folders, attached nowhere.
fn try_overlay(store: &Path) -> Result<String> {
    let place = store.join("tmp").join(format!("check-{}", std::process::id()));
    let made = (|| {
        use layerfs::error::Context;
        let folder = |name: &str| -> Result<PathBuf> {
            let path = place.join(name);
            fs::create_dir_all(&path).at("create", &path).map(|()| path)
        };
        let upper = Upper { dir: folder("upper")?, work: folder("work")? };
        overlay(&MountPlan {
            lowers: vec![folder("lower")?],
            upper: Some(upper),
            volatile: true,
            backend: Backend::Overlay,
        })
        .map(drop)
    })();
    let _ = fs::remove_dir_all(&place);
    made.map(|()| "works".to_owned()).map_err(|error: Error| match error.advice() {
        Some(_) => error,
        None => error.hint("Linux 5.11 or later is needed for an ordinary user, and a file system with user xattrs"),
    })
}

fn try_pasta(store: Option<&Path>) -> Result<String> {
    let options = NetworkOptions { mode: NetworkMode::Pasta(Vec::new()), ..NetworkOptions::default() };
    let plan = network::plan(&options, &Containers::below(store.unwrap_or(Path::new("/"))))?;
    Ok(match plan.connection {
        network::Connection::Pasta { program, .. } => program.display().to_string(),
        network::Connection::None => String::new(),
    })
}
