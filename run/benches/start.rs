//! How long a container takes to start and end, beside crun and runc where they are installed.
//!
//! `cargo bench -p run --bench start [-- COUNT]`. One bundle, made by this program, is run by each in turn: ours as a
//! process of its own that reads the bundle's config.json, as the others do, and ours within a process that has read
//! it. Rounds are interleaved; the median and the minimum of all rounds are printed, and the ratio to crun.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark reports to its user")]

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio as Redirect};
use std::time::{Duration, Instant};

use oci_spec::runtime::Spec;
use run::cgroup;
use run::launch::{Io, Launch, Rootfs, Stdio, create};
use run::spec::{HostFacts, base_spec};

fn main() -> ExitCode {
    // As an ordinary user: in a user namespace, whose making is part of what a process takes.
    let rootless = layerfs::userns::enter().expect("a user namespace").rootless;
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let first = words.next();
    if first.as_deref() == Some("once") {
        return once(Path::new(&words.next().expect("a bundle")));
    }
    let count = first.and_then(|count| count.parse().ok()).unwrap_or(100);
    let temp = tempfile::tempdir().expect("a temporary folder");
    let Some(spec) = make_bundle(temp.path(), rootless) else {
        eprintln!("busybox-static is not installed");
        return ExitCode::FAILURE;
    };
    let mut plain = spec.clone();
    plain.linux_mut().as_mut().expect("linux").set_seccomp(None);
    let own = std::env::current_exe().expect("this program");
    for (title, spec) in [("with the default seccomp profile", &spec), ("without seccomp", &plain)] {
        spec.save(temp.path().join("config.json")).expect("a config");
        println!("{title}:");
        compare(count, &own, temp.path(), spec);
    }
    ExitCode::SUCCESS
}

fn compare(count: usize, own: &Path, bundle: &Path, spec: &Spec) {
    let mut names = vec!["ours, in process".to_owned(), "ours, a process".to_owned()];
    let rivals: Vec<PathBuf> = ["crun", "runc"].iter().filter_map(|name| find(name)).collect();
    names.extend(rivals.iter().map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned()));
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); names.len()];
    for round in 0..count {
        let id = format!("layerfs-bench-{}-{round}", std::process::id());
        times[0].push(timed(|| start(spec, &bundle.join("rootfs"))));
        times[1].push(timed(|| command(own, &["once", &bundle.to_string_lossy()])));
        for (at, rival) in rivals.iter().enumerate() {
            let bundle = bundle.to_string_lossy();
            times[at + 2].push(timed(|| command(rival, &["run", "--bundle", &bundle, &id])));
        }
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e3
    };
    let medians: Vec<f64> = times.iter_mut().map(median).collect();
    let crun = rivals.iter().position(|path| path.ends_with("crun")).map(|at| medians[at + 2]);
    for ((name, times), median) in names.iter().zip(&times).zip(&medians) {
        let ratio = crun.map_or(String::new(), |crun| format!("  {:.2} of crun", median / crun));
        println!("  {name:<18} median {median:6.2} ms  min {:6.2} ms{ratio}", times[0].as_secs_f64() * 1e3);
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}

fn command(program: &Path, words: &[&str]) {
    let status = Command::new(program).args(words).stdin(Redirect::null()).stdout(Redirect::null()).status();
    assert!(status.expect("it can be executed").success(), "{}", program.display());
}

/// What an OCI runtime's `run` does.
fn once(bundle: &Path) -> ExitCode {
    let spec = Spec::load(bundle.join("config.json")).expect("a config");
    start(&spec, &bundle.join("rootfs"));
    ExitCode::SUCCESS
}

fn start(spec: &Spec, root: &Path) {
    let null = || OwnedFd::from(fs::File::options().read(true).write(true).open("/dev/null").expect("null"));
    let stdio = Stdio { stdin: null(), stdout: null(), stderr: null() };
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let name = format!("layerfs-bench-{}", std::process::id());
    let plan = cgroup::plan(resources, name.as_ref()).expect("a cgroup");
    let launch = Launch::new(spec, Rootfs::Path(root.to_owned()), Io::Stdio(stdio), plan);
    let running = create(launch).and_then(|created| created.start()).expect("it starts");
    assert_eq!(running.wait().expect("it ends").code, 0);
    running.destroy().expect("nothing is left");
}

fn make_bundle(folder: &Path, rootless: bool) -> Option<Spec> {
    let root = folder.join("rootfs");
    fs::create_dir_all(root.join("bin")).expect("a root");
    fs::copy("/bin/busybox", root.join("bin/busybox")).ok()?;
    symlink("busybox", root.join("bin/true")).expect("an applet");
    let host = HostFacts { rootless, architecture: "amd64".into(), kernel: (6, 1), ..HostFacts::default() };
    let mut spec = base_spec(&host).expect("a base");
    let process = spec.process_mut().as_mut().expect("it has a process");
    process.set_args(Some(vec!["/bin/true".to_owned()])).set_terminal(Some(false));
    spec.root_mut().as_mut().expect("a root").set_path("rootfs".into());
    Some(spec)
}
