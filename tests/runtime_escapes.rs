//! Ways out of a container that were found in other runtimes, each tried against ours on a real bundle. What lies in
//! the image, in a shared folder and in `config.json` is the attacker's; the host's files and mounts must not change.
//!
//! More of them, below the command line, are in `run/tests/containers/hostile.rs`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use layerfs::digest::Digest;
use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};
use serde_json::{Value, json};

use crate::harness::{Call, Report, machine};
use crate::runtime_spec::{base, bundle, mount, namespace, ours};

/// A bundle whose root, and whose host's folder beside it, the test may prepare.
struct Trap {
    dir: tempfile::TempDir,
    bundle: PathBuf,
    /// A folder of the host that must stay empty.
    canary: PathBuf,
}

impl Trap {
    /// None where the tests do not run as root.
    fn set(script: &str, change: impl FnOnce(&mut Value, &Path)) -> Option<Self> {
        if !machine::is_root() {
            machine::not_run("a test of root: the tests run as an ordinary user");
            return None;
        }
        let dir = machine::folder();
        let canary = dir.path().join("canary");
        fs::create_dir(&canary).expect("a folder in our folder");
        let mut spec = base(script);
        change(&mut spec, dir.path());
        let bundle = bundle(dir.path(), &spec);
        Some(Self { dir, bundle, canary })
    }

    fn root(&self, path: &str) -> PathBuf {
        self.bundle.join("rootfs").join(path)
    }

    /// One of its own, as its cgroup is named after it.
    fn id(&self) -> String {
        self.dir.path().file_name().expect("it has a name").to_string_lossy().into_owned()
    }

    fn run(&self) -> Report {
        let said = ours(&self.bundle, &self.id());
        self.assert_untouched();
        said
    }

    #[track_caller]
    fn assert_untouched(&self) {
        let found: Vec<_> =
            fs::read_dir(&self.canary).expect("our folder").flatten().map(|entry| entry.path()).collect();
        assert!(found.is_empty(), "made on the host: {found:?}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let mine = self.dir.path().to_str().expect("a plain path");
        let mounted: Vec<_> = mounts.lines().filter(|line| line.contains(mine)).collect();
        assert!(mounted.is_empty(), "mounted on the host: {mounted:?}");
    }
}

#[test]
fn cve_2019_5736_the_runtimes_own_program() {
    // The container writes to whatever program it can reach while the runtime joins it, time and again.
    let script = "echo up; while [ ! -e /stop ]; do for exe in /proc/[0-9]*/exe; do case $(readlink $exe) in */busybox) ;; *) (echo x >>$exe) 2>/dev/null && echo wrote $exe;; esac; done; done; exit 0";
    let Some(trap) = Trap::set(script, |_, _| {}) else { return };
    let program = machine::programs().join("layerfs-runtime");
    let before = Digest::of(&fs::read(&program).expect("our program"));
    let state = trap.bundle.join("state");
    let runtime = || Call::new(&program).arg("--root").arg(&state);
    let mut running = runtime().args(["run", &trap.id()]).dir(&trap.bundle).start();
    running.wait_for_stdout("up");
    for _ in 0..20 {
        runtime().args(["exec", &trap.id(), "/bin/busybox", "true"]).ok();
    }
    fs::write(trap.root("stop"), "").expect("a file in our folder");
    let said = running.wait().expect_code(0);
    assert!(!said.stdout.contains("wrote"), "{said}");
    assert_eq!(Digest::of(&fs::read(&program).expect("our program")), before);
}

#[test]
fn cve_2019_5736_the_runtime_as_the_program() {
    for arguments in [json!(["/proc/self/exe", "--help"]), json!(["/script"])] {
        let Some(trap) = Trap::set("", |spec, _| spec["process"]["args"] = arguments.clone()) else { return };
        fs::write(trap.root("script"), "#!/proc/self/exe\n").expect("a file in our folder");
        fs::set_permissions(trap.root("script"), fs::Permissions::from_mode(0o755)).expect("our own file");
        trap.run().expect_not_zero().says(&["a program is never run through a link of /proc"]);
    }
}

#[test]
fn cve_2019_5736_the_runtimes_own_program_is_sealed() {
    // Somebody who shares a volume can swap the program for a link to ours after it was looked at. What is then held of
    // ours, by a descriptor that outlives it, cannot be written to.
    let Some(trap) = Trap::set("echo up; sleep 1000", |spec, dir| {
        let shared = dir.join("shared");
        fs::create_dir(&shared).expect("a folder in our folder");
        mount(spec, json!({"destination": "/shared", "type": "bind", "source": shared, "options": ["bind"]}));
    }) else {
        return;
    };
    // One that nobody else executes: a program that runs is busy for whoever would write to it.
    let program = trap.dir.path().join("layerfs-runtime");
    fs::copy(machine::programs().join("layerfs-runtime"), &program).expect("a file in our folder");
    let before = Digest::of(&fs::read(&program).expect("our program"));
    let runtime = || Call::new(&program).arg("--root").arg(trap.bundle.join("state"));
    let mut running = runtime().args(["run", &trap.id()]).dir(&trap.bundle).start();
    running.wait_for_stdout("up");
    let held = rustix::fs::open(format!("/proc/{}/exe", running.pid()), rustix::fs::OFlags::PATH, Mode::empty());
    let held = held.expect("it runs");
    runtime().args(["delete", "--force", &trap.id()]).output();
    running.wait();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
    let error = fs::OpenOptions::new().write(true).open(path).expect_err("it is sealed");
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{error}");
    assert_eq!(Digest::of(&fs::read(&program).expect("our program")), before);
}

#[test]
fn cve_2021_30465_a_mount_target_that_changes() {
    let Some(trap) = Trap::set("true", |spec, dir| {
        mount(
            spec,
            json!({"destination": "/shared", "type": "bind", "source": dir.join("shared"), "options": ["bind"]}),
        );
        mount(spec, json!({"destination": "/shared/target/below", "type": "tmpfs", "source": "x"}));
        mount(
            spec,
            json!({"destination": "/shared/target/file", "type": "bind", "source": "/etc/hostname", "options": ["bind"]}),
        );
    }) else {
        return;
    };
    let shared = trap.dir.path().join("shared");
    fs::create_dir_all(shared.join("target")).expect("a folder in our folder");
    // Both ways out: through the host's own root, and from the bundle.
    let up = "../".repeat(20);
    symlink(format!("{up}{}", trap.canary.display()), shared.join("link")).expect("a link in our folder");
    let stop = Arc::new(AtomicBool::new(false));
    let swapping = {
        let (stop, shared) = (Arc::clone(&stop), shared.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, shared.join("target"), CWD, shared.join("link"), RenameFlags::EXCHANGE)
                    .expect("both exist");
            }
        })
    };
    for _ in 0..60 {
        // It may fail; it may not touch the host.
        trap.run();
    }
    stop.store(true, Ordering::Relaxed);
    swapping.join().expect("it only renames");
    trap.assert_untouched();
}

#[test]
fn cve_2022_0492_release_agent() {
    let script = "for f in $(find /sys/fs/cgroup -name release_agent -o -name notify_on_release); do (echo /x >$f) 2>/dev/null && case $f in *release_agent) echo wrote $f;; esac; done; echo end";
    for options in [json!(["ro", "nosuid"]), json!(["rw"])] {
        let Some(trap) = Trap::set(script, |spec, _| {
            namespace(spec, "cgroup", None);
            mount(
                spec,
                json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options}),
            );
        }) else {
            return;
        };
        assert_eq!(trap.run().expect_code(0).stdout, "end\n");
    }
}

#[test]
fn cve_2024_21626_descriptors_that_leak() {
    let Some(trap) = Trap::set("ls /proc/self/fd | tr '\\n' ' '", |_, _| {}) else { return };
    let program = machine::programs().join("layerfs-runtime");
    let script = format!("exec 7</etc 9</ 200</tmp; exec {} --root state run {}", program.display(), trap.id());
    // The fourth is the one by which `ls` reads the folder.
    assert_eq!(Call::shell(&script).dir(&trap.bundle).ok().stdout, "0 1 2 3 ");
    for number in 3..24 {
        let Some(trap) =
            Trap::set("pwd; ls", |spec, _| spec["process"]["cwd"] = json!(format!("/proc/self/fd/{number}")))
        else {
            return;
        };
        let script = format!("exec 7</etc 9</; exec {} --root state run {}", program.display(), trap.id());
        let said = Call::shell(&script).dir(&trap.bundle).output().expect_not_zero();
        assert!(said.stdout.is_empty(), "{said}");
    }
}

#[test]
fn cve_2025_31133_a_mask_that_is_no_null_device() {
    let Some(trap) = Trap::set(
        "cat /masked | wc -c; (echo x >/masked) 2>/dev/null; cat /proc/sys/kernel/core_pattern",
        |spec, _| {
            // The image's own /dev, with what it likes in it.
            spec["mounts"].as_array_mut().expect("mounts").retain(|mount| mount["destination"] == "/proc");
            spec["linux"]["maskedPaths"] = json!(["/masked"]);
        },
    ) else {
        return;
    };
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").expect("/proc");
    fs::write(trap.root("masked"), "secret").expect("a file in our folder");
    // Where a mask would come from the image's own null device, it would be this file of the kernel.
    symlink("/proc/sys/kernel/core_pattern", trap.root("dev/null")).expect("a link in our folder");
    let said = trap.run();
    assert!(said.code != 0 || said.stdout == format!("0\n{pattern}"), "{said}");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").expect("/proc"), pattern);
}

#[test]
fn cve_2025_52565_a_console_that_is_a_link() {
    let Some(trap) = Trap::set("echo in", |spec, _| {
        spec["process"]["terminal"] = json!(true);
        spec["mounts"].as_array_mut().expect("mounts").retain(|mount| mount["destination"] != "/dev");
    }) else {
        return;
    };
    fs::create_dir(trap.root("dev/pts")).expect("a folder in our folder");
    symlink("/proc/sys/kernel/core_pattern", trap.root("dev/console")).expect("a link in our folder");
    let socket = trap.dir.path().join("console");
    let _listener = UnixListener::bind(&socket).expect("a socket in our folder");
    let program = machine::programs().join("layerfs-runtime");
    let create = Call::new(program).args(["--root", "state", "create", "--console-socket"]).arg(&socket).arg(trap.id());
    create
        .dir(&trap.bundle)
        .output()
        .expect_not_zero()
        .says(&["`/dev/console` in the root is or lies behind a symlink"]);
    trap.assert_untouched();
}

#[test]
fn cve_2025_52881_settings_written_elsewhere() {
    for fake in [
        json!({"destination": "/proc/sys/net/ipv4", "type": "tmpfs", "source": "x"}),
        json!({"destination": "/proc/sys/net/ipv4/ip_forward", "type": "bind", "source": "/proc/sysrq-trigger", "options": ["bind"]}),
    ] {
        let Some(trap) = Trap::set("echo in", |spec, _| {
            mount(spec, fake.clone());
            spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        }) else {
            return;
        };
        let said = trap.run().expect_not_zero();
        assert!(said.stderr.contains("set sysctl `net.ipv4.ip_forward`") || said.stderr.contains("/proc"), "{said}");
    }
}

#[test]
fn a_device_of_the_hosts_disk() {
    let disk = fs::read_to_string("/proc/partitions").expect("/proc");
    let mut columns = disk.lines().nth(2).expect("a disk").split_whitespace();
    let (major, minor) = (columns.next().expect("its number"), columns.next().expect("its number"));
    let script = format!("mknod /disk b {major} {minor} && (head -c 1 /disk >/dev/null) 2>&1 && echo read; echo end");
    let Some(trap) = Trap::set(&script, |spec, _| {
        spec["linux"]["resources"] =
            json!({"devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "b", "access": "m"}]});
    }) else {
        return;
    };
    let said = trap.run().expect_code(0);
    assert!(said.stdout.contains("Operation not permitted") && !said.stdout.contains("read\n"), "{said}");
}

#[test]
fn a_hostile_passwd() {
    let without_home = |spec: &mut Value, _: &Path| spec["process"]["env"] = json!(["PATH=/bin"]);
    let check = |prepare: &dyn Fn(&Path)| {
        let Some(trap) = Trap::set("echo $HOME", without_home) else { return };
        fs::remove_file(trap.root("etc/passwd")).expect("our own file");
        prepare(&trap.root("etc/passwd"));
        assert_eq!(trap.run().expect_code(0).stdout, "/\n");
    };
    check(&|path| mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o666), 0).expect("a fifo"));
    check(&|path| fs::File::create(path).expect("a file").set_len(1 << 40).expect("room for a hole"));
    check(&|path| symlink("/dev/zero", path).expect("a link"));
    check(&|path| symlink("passwd", path).expect("a link"));
    check(&|path| fs::create_dir(path).expect("a folder"));
    check(&|path| fs::write(path, [0xff; 4096]).expect("a file"));
}

#[test]
fn a_spec_that_asks_for_too_much() {
    let many = |count: usize| {
        move |spec: &mut Value, _: &Path| {
            for index in 0..count {
                mount(
                    spec,
                    json!({"destination": format!("/etc/{index}"), "type": "bind", "source": "/etc/passwd", "options": ["bind"]}),
                );
            }
        }
    };
    let Some(trap) = Trap::set("grep -c /etc/ /proc/self/mountinfo", many(200)) else { return };
    assert_eq!(trap.run().expect_code(0).stdout, "200\n");
    let Some(trap) = Trap::set("echo in", many(100_000)) else { return };
    trap.run().expect_not_zero().says(&["mounts, more than 16384"]);
    let Some(trap) = Trap::set("echo in", |spec, _| spec["annotations"] = json!({"x": "y".repeat(17 << 20)})) else {
        return;
    };
    trap.run().expect_not_zero().says(&["config.json"]);
    let Some(trap) = Trap::set("echo in", |_, _| {}) else { return };
    fs::write(trap.bundle.join("config.json"), "[".repeat(1 << 20)).expect("our own file");
    trap.run().expect_not_zero();
}
