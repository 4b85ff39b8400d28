//! A harness for tests that start containers, and the root they start in.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use layerfs::sys::process::{CloneOptions, clone_child};
use oci_spec::runtime::Spec;
use run::cgroup::Plan;
use run::launch::{Exit, Io, Launch, Rootfs, Stdio, create};
use run::spec::{HostFacts, base_spec};
use rustix::process::{WaitId, WaitIdOptions, waitid};

/// One test.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) body: fn(&Place),
}

/// Where a test runs.
pub(crate) struct Place {
    /// A root with busybox in it.
    pub(crate) root: PathBuf,
    /// An empty folder.
    pub(crate) scratch: PathBuf,
    /// Whether the containers are those of an ordinary user.
    pub(crate) rootless: bool,
}

/// Programs that the root has by name.
const APPLETS: [&str; 26] = [
    "sh", "true", "false", "id", "cat", "ls", "mount", "grep", "sleep", "kill", "echo", "hostname", "pwd", "stat",
    "tty", "env", "readlink", "touch", "dd", "wc", "mkdir", "umask", "test", "ip", "ps", "head",
];

fn make_root(root: &Path) {
    for folder in ["bin", "etc", "tmp", "usr"] {
        fs::create_dir_all(root.join(folder)).expect("a folder of the root");
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).expect("an applet");
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").expect("a file");
}

/// Runs every case in a process of its own, as root and then as an ordinary user where this is root.
pub(crate) fn run_all(cases: &[Case]) -> ExitCode {
    let filter: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let chosen: Vec<&Case> =
        cases.iter().filter(|case| filter.is_empty() || filter.iter().any(|word| case.name.contains(word))).collect();
    let mut failed = 0;
    if rustix::process::geteuid().is_root() {
        failed += run_as(&chosen, "root", None);
        match ordinary_user() {
            Some(user) => failed += run_as(&chosen, "user", Some(user)),
            None => println!("as an ordinary user: not run, /etc/subuid names no user of this machine"),
        }
    } else {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        failed += run_as(&chosen, "user", Some((uid, gid)));
    }
    println!("{} cases, {failed} failed", chosen.len());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_as(cases: &[&Case], who: &str, user: Option<(u32, u32)>) -> usize {
    let mut failed = 0;
    for case in cases {
        let code = in_child(|| {
            if let Some((uid, gid)) = user {
                become_user(uid, gid);
                layerfs::userns::enter().expect("a user namespace");
            }
            let temp = tempfile::tempdir().expect("a temporary folder");
            let place = Place {
                root: temp.path().join("root"),
                scratch: temp.path().join("scratch"),
                rootless: user.is_some(),
            };
            fs::create_dir(&place.scratch).expect("a folder");
            make_root(&place.root);
            (case.body)(&place);
            drop(temp);
            0
        });
        println!("{who} {} ... {}", case.name, if code == 0 { "ok" } else { "FAILED" });
        failed += usize::from(code != 0);
    }
    failed
}

/// Runs `body` in a forked process: its exit code.
pub(crate) fn in_child(body: impl FnOnce() -> i32) -> i32 {
    let child = clone_child(&CloneOptions::default(), body).expect("a process");
    let status = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED).expect("its end");
    status.and_then(|status| status.exit_status()).unwrap_or(-1)
}

/// The first user with a range of ids.
fn ordinary_user() -> Option<(u32, u32)> {
    let subuid = fs::read_to_string("/etc/subuid").ok()?;
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    subuid.lines().filter_map(|line| line.split(':').next()).find_map(|name| {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}

fn become_user(uid: u32, gid: u32) {
    use rustix::fs::{Gid, Uid};
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        set_thread_groups(&[]).expect("no groups");
        set_thread_res_gid(gid, gid, gid).expect("the group");
        set_thread_res_uid(uid, uid, uid).expect("the user");
        // Another user's process may not be looked at, not even by itself; a program that it starts anew may.
        layerfs::sys::container::allow_tracers().expect("the process belongs to its user");
    }
}

/// The Spec that engines start from, running `args`.
pub(crate) fn spec(place: &Place, args: &[&str]) -> Spec {
    let host =
        HostFacts { rootless: place.rootless, architecture: "amd64".into(), kernel: (6, 1), ..HostFacts::default() };
    let mut spec = base_spec(&host).expect("a base");
    let process = spec.process_mut().as_mut().expect("it has a process");
    process.set_args(Some(args.iter().map(|word| (*word).to_owned()).collect()));
    spec
}

/// What a container said and how it ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) out: String,
    pub(crate) exit: Exit,
    pub(crate) notes: Vec<String>,
}

/// Starts a container and waits for it.
pub(crate) fn run(place: &Place, spec: &Spec) -> layerfs::error::Result<Outcome> {
    run_with(place, spec, |_| {})
}

/// The same, with a change to the launch.
pub(crate) fn run_with(
    place: &Place,
    spec: &Spec,
    change: impl FnOnce(&mut Launch<'_>),
) -> layerfs::error::Result<Outcome> {
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let null = || OwnedFd::from(fs::File::open("/dev/null").expect("the null device"));
    let error = writer.try_clone().expect("a copy");
    let stdio = Stdio { stdin: null(), stdout: writer.into(), stderr: error.into() };
    let mut launch = Launch::new(spec, Rootfs::Path(place.root.clone()), Io::Stdio(stdio), Plan::none());
    change(&mut launch);
    let created = create(launch)?;
    let notes = created.notes().to_vec();
    let running = created.start()?;
    let mut out = String::new();
    reader.read_to_string(&mut out).expect("text");
    let exit = running.wait()?;
    running.destroy()?;
    Ok(Outcome { out, exit, notes })
}

/// Runs a shell script in a container: what it said, provided that it went well.
pub(crate) fn sh(place: &Place, script: &str) -> String {
    let outcome = run(place, &spec(place, &["sh", "-c", script])).expect("it starts");
    assert_eq!(outcome.exit.code, 0, "{}", outcome.out);
    outcome.out
}

/// Writes an executable file.
pub(crate) fn executable(path: &Path, text: &str) {
    fs::write(path, text).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("its mode");
}
