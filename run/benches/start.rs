//! What a container's start costs, beside crun and runc where they are installed, and step by step above the `unshare`
//! program.
//!
//! `cargo bench -p run --bench start [-- COUNT [PROGRAM]]`. PROGRAM is the `layerfs-runtime` to be measured where that
//! is not the one just built. Rounds are interleaved, so a busy moment hurts all alike; medians and minima of all rounds
//! are printed, and ratios of medians.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark reports to its user")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio as Redirect};
use std::time::{Duration, Instant};

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Spec};
use run::spec::{HostFacts, base_spec};

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let count = words.next().and_then(|count| count.parse().ok()).unwrap_or(100);
    let built = words.next().map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_layerfs-run")), PathBuf::from);
    let temp = tempfile::tempdir().expect("a temporary folder");
    let Some(full) = make_root(temp.path()) else {
        eprintln!("busybox-static is not installed");
        return ExitCode::FAILURE;
    };
    let ours = temp.path().join("layerfs-runtime");
    symlink(fs::canonicalize(built).expect("a program"), &ours).expect("a link");
    let mut runtimes = vec![("ours", ours.clone())];
    runtimes.extend(["crun", "runc"].into_iter().filter_map(|name| Some((name, find(name)?))));

    let plain = without_seccomp(&full);
    for (title, spec) in [("with the default seccomp profile", &full), ("without seccomp", &plain)] {
        let bundle = bundle(temp.path(), "one", spec);
        println!("run, {title}:");
        let calls: Vec<Call> = runtimes.iter().map(|(name, program)| run(name, program, &bundle, &[])).collect();
        report(count, &calls, Against::First);
        println!("create, start, delete, {title}:");
        let calls: Vec<Call> = runtimes.iter().map(|(name, program)| life(name, program, &bundle)).collect();
        report(count, &calls, Against::First);
    }
    println!("memory of the process in front of a container, peak and anonymous:");
    for (name, program) in &runtimes {
        let (peak, anonymous) = memory(temp.path(), program, &plain);
        println!("  {name:<44} {peak:6} kB {anonymous:6} kB");
    }
    println!("step by step above unshare:");
    report(count, &steps(temp.path(), &ours, &full), Against::Last);
    ExitCode::SUCCESS
}

/// What is timed, called with the number of its round.
struct Call<'a> {
    name: String,
    work: Box<dyn Fn(usize) + 'a>,
}

/// What a line of a table is compared with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Against {
    /// The first line is divided by each.
    First,
    /// The line before is taken from each.
    Last,
}

fn report(count: usize, calls: &[Call], against: Against) {
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); calls.len()];
    for round in 0..=count {
        for (call, times) in calls.iter().zip(&mut times) {
            let begin = Instant::now();
            (call.work)(round);
            // The first round fills caches.
            if round > 0 {
                times.push(begin.elapsed());
            }
        }
    }
    let medians: Vec<f64> = times.iter_mut().map(|times| median(times)).collect();
    for (at, (call, times)) in calls.iter().zip(&times).enumerate() {
        let compared = match against {
            _ if at == 0 => String::new(),
            Against::First => format!("  ours is {:.2} of it", medians[0] / medians[at]),
            Against::Last => format!("  {:+.2} ms", medians[at] - medians[at - 1]),
        };
        let min = times.first().map_or(0.0, Duration::as_secs_f64) * 1e3;
        println!("  {:<44} median {:6.2} ms  min {min:6.2} ms{compared}", call.name, medians[at]);
    }
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, Duration::as_secs_f64) * 1e3
}

fn run<'a>(name: &str, program: &'a Path, bundle: &'a Path, before: &'a [&'a str]) -> Call<'a> {
    let prefix = name.split(' ').next().unwrap_or_default().to_owned();
    let work = move |round: usize| {
        let id = format!("{prefix}-{}-{round}", std::process::id());
        let folder = bundle.to_string_lossy();
        let words = [before, &["run", "--bundle", &folder, &id]].concat();
        command(program, &words);
    };
    Call { name: name.to_owned(), work: Box::new(work) }
}

fn life<'a>(name: &str, program: &'a Path, bundle: &'a Path) -> Call<'a> {
    let prefix = name.to_owned();
    let work = move |round: usize| {
        let id = format!("{prefix}-{}-{round}", std::process::id());
        command(program, &["create", "--bundle", &bundle.to_string_lossy(), &id]);
        command(program, &["start", &id]);
        command(program, &["delete", "--force", &id]);
    };
    Call { name: name.to_owned(), work: Box::new(work) }
}

/// Each line has all of the one before it, and one thing more.
fn steps<'a>(folder: &Path, ours: &'a Path, full: &Spec) -> Vec<Call<'a>> {
    let unshare = Call {
        name: "unshare -fpmniuC busybox true".to_owned(),
        work: Box::new(|_| command(Path::new("unshare"), &["-fpmniuC", "/bin/busybox", "true"])),
    };
    let mut calls = vec![unshare];
    let mut spec = without_seccomp(full);
    let linux = spec.linux_mut().as_mut().expect("linux");
    let (masked, read_only, resources) =
        (linux.masked_paths().clone(), linux.readonly_paths().clone(), linux.resources().clone());
    linux.set_masked_paths(None).set_readonly_paths(None).set_resources(None);
    let mounts = spec.mounts().clone();
    spec.set_mounts(None);
    let mut add = |name: &str, spec: &Spec, before: &'static [&'static str]| {
        let bundle: &'static Path = Box::leak(bundle(folder, &name.replace([' ', ','], "-"), spec).into_boxed_path());
        calls.push(run(name, ours, bundle, before));
    };
    const NO_CGROUP: &[&str] = &["--cgroup-manager", "disabled"];
    add("a root, devices, ids, capabilities", &spec, NO_CGROUP);
    let is_cgroup =
        |mount: &oci_spec::runtime::Mount| mount.typ().as_deref().is_some_and(|kind| kind.starts_with("cgroup"));
    let most: Vec<_> = mounts.iter().flatten().filter(|mount| !is_cgroup(mount)).cloned().collect();
    spec.set_mounts(Some(most));
    add("and proc, dev, pts, shm, mqueue, sys", &spec, NO_CGROUP);
    spec.linux_mut().as_mut().expect("linux").set_masked_paths(masked).set_readonly_paths(read_only);
    add("and masked and read-only paths", &spec, NO_CGROUP);
    add("and a cgroup in each hierarchy", &spec, &[]);
    spec.linux_mut().as_mut().expect("linux").set_resources(resources);
    add("and rules about devices", &spec, &[]);
    spec.set_mounts(mounts);
    add("and a view of the cgroups", &spec, &[]);
    add("and seccomp", full, &[]);
    calls
}

/// The most that a runtime has had while its container sleeps, and what of it is no file's, in kB.
fn memory(folder: &Path, program: &Path, spec: &Spec) -> (u64, u64) {
    let mut spec = spec.clone();
    let words = ["/bin/sleep", "1000"].map(str::to_owned).to_vec();
    spec.process_mut().as_mut().expect("a process").set_args(Some(words));
    let bundle = bundle(folder, "asleep", &spec);
    let id = format!("asleep-{}", std::process::id());
    let mut call = Command::new(program);
    call.args(["run", "--bundle", &bundle.to_string_lossy(), &id]).stdin(Redirect::null()).stdout(Redirect::null());
    let mut child = call.spawn().expect("it can be executed");
    let state = || {
        let said = Command::new(program).args(["state", &id]).stderr(Redirect::null()).output().expect("it runs");
        String::from_utf8_lossy(&said.stdout).contains("\"running\"")
    };
    while !state() {}
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).expect("it waits");
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel says it");
        line.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("a number")
    };
    let found = (number("VmHWM:"), number("RssAnon:"));
    command(program, &["kill", &id, "KILL"]);
    let _ = child.wait();
    found
}

fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}

fn command(program: &Path, words: &[&str]) {
    let mut call = Command::new(program);
    let status = call.args(words).stdin(Redirect::null()).stdout(Redirect::null()).status();
    assert!(status.expect("it can be executed").success(), "{} {words:?}", program.display());
}

/// The root that all bundles share, and a Spec with all namespaces that every runtime takes.
fn make_root(folder: &Path) -> Option<Spec> {
    let root = folder.join("rootfs");
    fs::create_dir_all(root.join("bin")).expect("a root");
    fs::copy("/bin/busybox", root.join("bin/busybox")).ok()?;
    for applet in ["true", "sleep"] {
        symlink("busybox", root.join("bin").join(applet)).expect("an applet");
    }
    let host = HostFacts { architecture: "amd64".into(), kernel: (6, 1), ..HostFacts::default() };
    let mut spec = base_spec(&host).expect("a base");
    let process = spec.process_mut().as_mut().expect("it has a process");
    process.set_args(Some(vec!["/bin/true".to_owned()])).set_terminal(Some(false));
    spec.root_mut().as_mut().expect("a root").set_path(root);
    let namespaces = spec.linux_mut().as_mut().expect("linux").namespaces_mut().get_or_insert_default();
    if !namespaces.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::Network) {
        let mut network = LinuxNamespace::default();
        network.set_typ(LinuxNamespaceType::Network);
        namespaces.push(network);
    }
    Some(spec)
}

fn without_seccomp(spec: &Spec) -> Spec {
    let mut plain = spec.clone();
    plain.linux_mut().as_mut().expect("linux").set_seccomp(None);
    plain
}

fn bundle(folder: &Path, name: &str, spec: &Spec) -> PathBuf {
    let bundle = folder.join(name);
    fs::create_dir_all(&bundle).expect("a folder in our folder");
    spec.save(bundle.join("config.json")).expect("a config");
    bundle
}
