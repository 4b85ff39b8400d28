//! Beginning and end: how containers start, fail, are joined and go.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use layerfs::error::Kind;
use layerfs::mount::{Backend, MountPlan, Upper};
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Spec};
use run::cgroup;
use run::exec::{Exec, exec};
use run::launch::{Created, Io, Launch, Rootfs, Running, Stdio, create};
use run::step::{StepRequest, fork_server};

use crate::support::{Place, executable, in_child, run, run_with, spec};

pub(crate) fn a_program_runs_as_process_1(place: &Place) {
    let outcome = run(place, &spec(place, &["sh", "-c", "echo $$; id -u; pwd"])).expect("it starts");
    assert_eq!(outcome.out, "1\n0\n/\n");
    assert_eq!(outcome.exit.code, 0);
    assert_eq!(outcome.notes, Vec::<String>::new());
}

pub(crate) fn a_stack_of_layers(place: &Place) {
    let (upper, top) = (place.scratch.join("upper"), place.scratch.join("top"));
    for folder in [&upper, &top, &place.scratch.join("work")] {
        fs::create_dir(folder).expect("a folder");
    }
    fs::write(top.join("file"), "from the top\n").expect("a file");
    let plan = MountPlan {
        lowers: vec![place.root.clone(), top],
        upper: Some(Upper { dir: upper.clone(), work: place.scratch.join("work") }),
        volatile: true,
        backend: Backend::Overlay,
    };
    let spec = spec(place, &["sh", "-c", "cat /file; echo new >/etc/passwd"]);
    let outcome = run_with(place, &spec, |launch| launch.rootfs = Rootfs::Overlay(plan)).expect("it starts");
    assert_eq!(outcome.out, "from the top\n");
    assert_eq!(fs::read_to_string(upper.join("etc/passwd")).expect("the change"), "new\n");
    assert_ne!(fs::read_to_string(place.root.join("etc/passwd")).expect("the original"), "new\n");
}

/// systemd shares all mounts of a machine: what happens in a container must not show there.
pub(crate) fn a_machine_that_shares_its_mounts(place: &Place) {
    layerfs::sys::process::unshare_namespaces(0x0002_0000).expect("a mount namespace");
    let shared = rustix::mount::MountPropagationFlags::SHARED | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", shared).expect("shared mounts");
    let before = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    let outcome = run(place, &spec(place, &["sh", "-c", "cat /proc/self/mountinfo"])).expect("it starts");
    assert!(!outcome.out.contains("shared:"), "{}", outcome.out);
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").expect("the mounts"), before);
}

/// Inside another engine's container parts of /proc are covered, and then the kernel refuses a new one. Here there is
/// but a single id, too: no group of terminals, no other groups.
pub(crate) fn a_procfs_that_the_kernel_refuses(place: &Place) {
    if !place.rootless {
        return;
    }
    rustix::mount::mount("none", "/proc/acpi", "tmpfs", rustix::mount::MountFlags::RDONLY, None).expect("a cover");
    // A mount is part of the cover only for who cannot take it away: a user namespace below.
    layerfs::sys::process::unshare_namespaces(0x1002_0000).expect("a user and a mount namespace");
    for (file, text) in [("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")] {
        fs::write(format!("/proc/self/{file}"), text).expect("its ids");
    }
    let outcome = run(place, &spec(place, &["sh", "-c", "cat /proc/self/comm; ls /proc/acpi"])).expect("it starts");
    assert_eq!(outcome.out, "cat\n");
    assert_eq!(outcome.notes, ["the kernel refuses a new procfs here, so the container sees the outer /proc"]);
}

/// Where cgroup v2 has no competitor, rules about devices are a program.
pub(crate) fn devices_are_guarded_on_both_versions(place: &Place) {
    if place.rootless {
        return;
    }
    // A node may be made, but what is behind it is out of reach: here the kernel's memory.
    let mut spec = spec(place, &["sh", "-c", "cat /dev/zero | head -c 3 | wc -c; cat /dev/mem"]);
    let device = r#"[{"path":"/dev/mem","type":"c","major":1,"minor":1,"fileMode":438}]"#;
    spec.linux_mut().as_mut().expect("linux").set_devices(Some(serde_json::from_str(device).expect("a device")));
    let rules = resources(r#"{"devices":[{"allow":false,"access":"rwm"}]}"#);
    let check = || {
        let plan = cgroup::plan(Some(&rules), "layerfs-test-devices".as_ref()).expect("root has cgroups");
        let outcome = run_with(place, &spec, |launch| launch.cgroup = plan).expect("it starts");
        assert_eq!(outcome.out, "3\ncat: can't open '/dev/mem': Operation not permitted\n");
    };
    check();
    layerfs::sys::process::unshare_namespaces(0x2_0000).expect("a mount namespace");
    let change = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", change).expect("a private one");
    if rustix::mount::unmount("/sys/fs/cgroup/devices", rustix::mount::UnmountFlags::DETACH).is_ok() {
        check();
    }
}

pub(crate) fn exit_codes_are_the_programs(place: &Place) {
    let code = |script: &str| {
        let exit = run(place, &spec(place, &["sh", "-c", script])).expect("it starts").exit;
        (exit.code, exit.signal)
    };
    assert_eq!(code("exit 7"), (7, None));
    // Process 1 of a pid namespace is not killed by its own signals; its child is.
    assert_eq!(code("sh -c 'kill -9 $$'; exit $?"), (137, None));
}

pub(crate) fn a_program_that_is_not_there(place: &Place) {
    for name in ["nothing", "/bin/nothing"] {
        let error = run(place, &spec(place, &[name])).expect_err("there is none");
        assert_eq!(error.kind(), Kind::NotFound, "{error:?}");
        assert_eq!(error.chain(), format!("`{name}` is not in the container"));
    }
}

pub(crate) fn a_program_that_cannot_be_executed(place: &Place) {
    fs::write(place.root.join("bin/text"), "text").expect("a file");
    executable(&place.root.join("bin/garbage"), "garbage");
    executable(&place.root.join("bin/orphan"), "#!/no/interpreter\n");
    for (name, kind) in
        [("text", Kind::Denied), ("/bin/garbage", Kind::Denied), ("/etc", Kind::Denied), ("orphan", Kind::NotFound)]
    {
        let error = run(place, &spec(place, &[name])).expect_err("it cannot");
        assert_eq!(error.kind(), kind, "{error:?}");
    }
}

pub(crate) fn a_failed_set_up_is_not_about_the_program(place: &Place) {
    let mut spec = spec(place, &["true"]);
    add_mount(&mut spec, r#"{"destination":"/x","type":"bind","source":"/nonexistent","options":["bind"]}"#);
    let error = run(place, &spec).expect_err("there is no source");
    assert_eq!(error.kind(), Kind::System, "{error:?}");
    assert!(error.chain().contains("mount `/nonexistent` on `/x`: no such file"), "{error:?}");
}

pub(crate) fn add_mount(spec: &mut Spec, json: &str) {
    let mount = serde_json::from_str(json).expect("a mount");
    spec.mounts_mut().get_or_insert_default().push(mount);
}

/// Starts a container that sleeps.
fn sleeping(place: &Place) -> Running {
    launched(place, &spec(place, &["sleep", "1000"])).start().expect("it starts")
}

fn launched(place: &Place, spec: &Spec) -> Created {
    let null = || OwnedFd::from(fs::File::options().read(true).write(true).open("/dev/null").expect("null"));
    let stdio = Stdio { stdin: null(), stdout: null(), stderr: null() };
    let launch = Launch::new(spec, Rootfs::Path(place.root.clone()), Io::Stdio(stdio), cgroup::Plan::none());
    create(launch).expect("it is made")
}

pub(crate) fn a_container_that_is_not_started_leaves_nothing(place: &Place) {
    let created = launched(place, &spec(place, &["true"]));
    let pid = created.pid();
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    drop(created);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

pub(crate) fn a_launcher_that_dies_takes_what_waits_along(place: &Place) {
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let code = in_child(|| {
        let created = launched(place, &spec(place, &["true"]));
        std::mem::forget(created);
        7
    });
    assert_eq!(code, 7);
    drop(writer);
    // The waiting process has a copy of the pipe's end; this hangs where it goes on waiting.
    assert_eq!(reader.read(&mut [0]).expect("the end"), 0);
}

pub(crate) fn kill_and_destroy(place: &Place) {
    let running = sleeping(place);
    // Process 1 without a handler takes only SIGKILL, from outside too where it is told by number.
    running.kill(9).expect("it can be killed");
    let exit = running.wait().expect("it ends");
    assert_eq!((exit.code, exit.signal, exit.oom), (137, Some(9), false));
    running.kill(9).expect("a second kill is no error");
    running.destroy().expect("nothing is left");
    let running = sleeping(place);
    let pid = running.pid();
    running.destroy().expect("it is taken down");
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

fn read_all(master: OwnedFd) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 1024];
    let mut file = fs::File::from(master);
    // The end of a terminal is EIO.
    while let Ok(n @ 1..) = file.read(&mut buffer) {
        text.extend_from_slice(&buffer[..n]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

pub(crate) fn a_terminal_of_its_own(place: &Place) {
    let spec = spec(place, &["sh", "-c", "tty; test -c /dev/console && echo console; stty size; echo >/dev/tty ok"]);
    let io = Io::Terminal { size: (91, 37) };
    let launch = Launch::new(&spec, Rootfs::Path(place.root.clone()), io, cgroup::Plan::none());
    let mut created = create(launch).expect("it is made");
    let master = created.take_terminal().expect("its terminal");
    let running = created.start().expect("it starts");
    assert_eq!(read_all(master), "/dev/pts/0\r\nconsole\r\n37 91\r\nok\r\n");
    assert_eq!(running.wait().expect("it ends").code, 0);
}

/// Runs a program in a running container: its output and its code.
fn exec_in(container: &Running, spec: &Spec) -> layerfs::error::Result<(String, i32)> {
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let stderr = writer.try_clone().expect("a copy");
    let stdin = fs::File::open("/dev/null").expect("null").into();
    let created = exec(Exec {
        container: container.pidfd(),
        process: spec.process().as_ref().expect("a process"),
        seccomp: spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()),
        bundle: None,
        cgroup: container.cgroup(),
        cgroup_below: &cgroup::Below::default(),
        io: Io::Stdio(Stdio { stdin, stdout: writer.into(), stderr: stderr.into() }),
        preserve_fds: 0,
        dies_with_parent: true,
    })?;
    let running = created.start()?;
    let mut out = String::new();
    reader.read_to_string(&mut out).expect("text");
    Ok((out, running.wait()?.code))
}

pub(crate) fn exec_joins_everything(place: &Place) {
    let container = sleeping(place);
    let script = "for n in mnt pid net ipc uts cgroup; do test $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) || echo $n; done
        cat /proc/1/comm; ls /proc/self/fd | wc -l; grep -E 'Seccomp:|CapInh|NoNewPrivs' /proc/self/status; exit 5";
    let (out, code) = exec_in(&container, &spec(place, &["sh", "-c", script])).expect("it runs");
    // The fourth descriptor is that of the listing itself.
    assert_eq!(out, "sleep\n4\nCapInh:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n");
    assert_eq!(code, 5);
    let error = exec_in(&container, &spec(place, &["nothing"])).expect_err("there is none");
    assert_eq!(error.kind(), Kind::NotFound);
    container.destroy().expect("it goes");
}

pub(crate) fn exec_in_a_container_that_ended(place: &Place) {
    let container = sleeping(place);
    container.kill(9).expect("it is killed");
    container.wait().expect("it ends");
    let error = exec_in(&container, &spec(place, &["true"])).expect_err("it has ended");
    assert_eq!(error.kind(), Kind::Conflict, "{error:?}");
}

pub(crate) fn exec_with_a_terminal(place: &Place) {
    let container = sleeping(place);
    let spec = spec(place, &["sh", "-c", "tty; echo >/dev/tty ok"]);
    let mut created = exec(Exec {
        container: container.pidfd(),
        process: spec.process().as_ref().expect("a process"),
        seccomp: None,
        bundle: None,
        cgroup: container.cgroup(),
        cgroup_below: &cgroup::Below::default(),
        io: Io::Terminal { size: (80, 24) },
        preserve_fds: 0,
        dies_with_parent: true,
    })
    .expect("it is made");
    let master = created.take_terminal().expect("its terminal");
    let running = created.start().expect("it starts");
    assert_eq!(read_all(master), "/dev/pts/0\r\nok\r\n");
    assert_eq!(running.wait().expect("it ends").code, 0);
    container.destroy().expect("it goes");
}

fn set_namespace(spec: &mut Spec, kind: LinuxNamespaceType, path: &str) {
    let namespaces = spec.linux_mut().as_mut().and_then(|linux| linux.namespaces_mut().as_mut());
    for namespace in namespaces.expect("namespaces").iter_mut().filter(|namespace| namespace.typ() == kind) {
        namespace.set_path(Some(path.into()));
    }
}

pub(crate) fn namespaces_of_another_container(place: &Place) {
    let first = sleeping(place);
    let path = |name: &str| format!("/proc/{}/ns/{name}", first.pid());
    let link = |name: &str| fs::read_link(path(name)).expect("a namespace").to_string_lossy().into_owned();
    let mut second = spec(place, &["sh", "-c", "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc"]);
    set_namespace(&mut second, LinuxNamespaceType::Network, &path("net"));
    set_namespace(&mut second, LinuxNamespaceType::Ipc, &path("ipc"));
    // A new sysfs wants the network namespace to be one's own user namespace's, which it is.
    let out = run(place, &second).expect("it starts").out;
    assert_eq!(out, format!("{}\n{}\n", link("net"), link("ipc")));
    // A pid namespace is entered by way of an intermediate process.
    let mut third = spec(place, &["sh", "-c", "cat /proc/1/comm; readlink /proc/self/ns/pid"]);
    set_namespace(&mut third, LinuxNamespaceType::Pid, &path("pid"));
    let out = run(place, &third).expect("it starts").out;
    assert_eq!(out, format!("sleep\n{}\n", link("pid")));
    first.destroy().expect("it goes");
}

pub(crate) fn a_user_namespace_of_its_own(place: &Place) {
    let mut spec = spec(place, &["sh", "-c", "id -u; head -n 2 /proc/self/uid_map; touch /file"]);
    let linux = spec.linux_mut().as_mut().expect("linux");
    let user = r#"{"type":"user"}"#;
    linux.namespaces_mut().as_mut().expect("namespaces").push(serde_json::from_str(user).expect("a namespace"));
    let map = r#"[{"containerID":0,"hostID":0,"size":1},{"containerID":1,"hostID":10,"size":100}]"#;
    linux.set_uid_mappings(Some(serde_json::from_str(map).expect("a map")));
    linux.set_gid_mappings(Some(serde_json::from_str(map).expect("a map")));
    let outcome = run(place, &spec).expect("it starts");
    let words: Vec<&str> = outcome.out.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "0", "1", "1", "10", "100"], "{outcome:?}");
}

pub(crate) fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).expect("resources")
}

pub(crate) fn limits_hold(place: &Place) {
    // An ordinary user has limits only where a cgroup was delegated; the next test is about that.
    if place.rootless {
        return;
    }
    let limits = resources(r#"{"memory":{"limit":16777216},"pids":{"limit":7},"cpu":{"quota":50000,"period":100000}}"#);
    let name = format!("layerfs-test-{}", std::process::id());
    let plan = || cgroup::plan(Some(&limits), name.as_ref()).expect("root has cgroups");
    let run = |script: &str| {
        run_with(place, &spec(place, &["sh", "-c", script]), |launch| launch.cgroup = plan()).expect("it starts")
    };
    let outcome = run("for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait");
    assert!(outcome.out.contains("can't fork"), "{outcome:?}");
    // A file in memory counts as memory.
    let outcome = run(
        "dd if=/dev/zero of=/dev/shm/x bs=1M count=60 2>/dev/null; exec dd if=/dev/zero of=/dev/null bs=64M count=1",
    );
    assert!(outcome.exit.oom, "{outcome:?}");
    // Nothing stays.
    for folder in fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
        assert!(!folder.path().join(&name).exists(), "{}", folder.path().display());
    }
}

pub(crate) fn limits_that_cannot_be_had(place: &Place) {
    let limits = resources(r#"{"memory":{"limit":16777216}}"#);
    match (place.rootless, cgroup::plan(Some(&limits), "layerfs-test".as_ref())) {
        (true, Err(error)) => {
            assert_eq!(error.kind(), Kind::Unsupported);
            assert!(error.chain().starts_with("memory cannot be limited: "), "{error:?}");
            assert!(error.chain().contains("`memory`") && error.advice().is_some(), "{error:?}");
        }
        // Delegated here, or root.
        (_, plan) => drop(plan.expect("it can be had")),
    }
    // Without limits there is always a way.
    cgroup::plan(None, "layerfs-test".as_ref()).expect("an empty plan at least");
    cgroup::plan(Some(&LinuxResources::default()), "layerfs-test".as_ref()).expect("an empty plan at least");
}

fn request(place: &Place, script: &str, out: OwnedFd) -> StepRequest {
    StepRequest {
        spec: spec(place, &["sh", "-c", script]),
        rootfs: Rootfs::Path(place.root.clone()),
        stdin: fs::File::open("/dev/null").expect("null").into(),
        stderr: out.try_clone().expect("a copy"),
        stdout: out,
    }
}

pub(crate) fn steps_run_at_once(place: &Place) {
    let server = fork_server().expect("a server");
    std::thread::scope(|scope| {
        let steps: Vec<_> = (0..4)
            .map(|number| {
                let server = &server;
                scope.spawn(move || {
                    let (mut reader, writer) = std::io::pipe().expect("a pipe");
                    // Each waits for all others through the root they share, so none may wait for another's end.
                    let script = format!(
                        "touch /tmp/{number}; while ! test -e /tmp/0 -a -e /tmp/1 -a -e /tmp/2 -a -e /tmp/3; do :; done; echo {number}; exit {number}"
                    );
                    let step = server.run(request(place, &script, writer.into())).expect("it runs");
                    let mut out = String::new();
                    reader.read_to_string(&mut out).expect("text");
                    (out, step.exit.code)
                })
            })
            .collect();
        for (number, step) in steps.into_iter().enumerate() {
            let expected = (format!("{number}\n"), i32::try_from(number).expect("small"));
            assert_eq!(step.join().expect("no panic"), expected);
        }
    });
    let null = || OwnedFd::from(fs::File::options().write(true).open("/dev/null").expect("null"));
    let mut missing = request(place, "", null());
    missing.spec = spec(place, &["nothing"]);
    assert_eq!(server.run(missing).expect_err("there is none").kind(), Kind::NotFound);
}

pub(crate) fn steps_can_be_cancelled(place: &Place) {
    let server = fork_server().expect("a server");
    std::thread::scope(|scope| {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let step = scope.spawn(|| server.run(request(place, "echo; exec sleep 1000", writer.into())));
        let mut byte = [0];
        reader.read_exact(&mut byte).expect("it has started");
        server.cancel_all().expect("the server lives");
        let step = step.join().expect("no panic").expect("it ended");
        assert_eq!((step.exit.code, step.exit.signal), (137, Some(9)));
    });
}

pub(crate) fn steps_die_with_their_parent(place: &Place) {
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let code = in_child(|| {
        let server = fork_server().expect("a server");
        let step = request(place, "echo; exec sleep 1000", writer.try_clone().expect("a copy").into());
        std::thread::spawn(move || server.run(step));
        let mut byte = [0];
        reader.read_exact(&mut byte).expect("it has started");
        // The process ends as if it were killed: nothing is dropped, nobody is told.
        42
    });
    assert_eq!(code, 42);
    drop(writer);
    // The container holds the other end. It closes when the container is gone, and else this waits for ever.
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).expect("the end");
    assert!(rest.is_empty());
}
