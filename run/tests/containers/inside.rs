//! What a container looks like from inside.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use layerfs::error::Kind;
use oci_spec::runtime::User;

use crate::life::add_mount;
use crate::support::{Place, run, run_with, sh, spec};

pub(crate) fn ids_and_capabilities(place: &Place) {
    let mut spec = spec(place, &["sh", "-c", "id; grep Cap /proc/self/status"]);
    let capabilities = "CapInh:\t0000000000000000\nCapPrm:\t00000000800405fb\nCapEff:\t00000000800405fb\n\
         CapBnd:\t00000000800405fb\nCapAmb:\t0000000000000000\n";
    let out = run(place, &spec).expect("it starts").out;
    assert_eq!(out, format!("uid=0(root) gid=0\n{capabilities}"));
    let mut user = User::default();
    user.set_uid(1000).set_gid(100).set_additional_gids(Some(vec![5, 20]));
    spec.process_mut().as_mut().expect("a process").set_user(user);
    let out = run(place, &spec).expect("it starts").out;
    let capabilities = capabilities.replace(
        "CapPrm:\t00000000800405fb\nCapEff:\t00000000800405fb",
        "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000",
    );
    assert_eq!(out, format!("uid=1000 gid=100 groups=5,20\n{capabilities}"));
}

pub(crate) fn no_new_privileges_and_seccomp(place: &Place) {
    let script =
        "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status; mkdir /tmp/m; mount -t tmpfs none /tmp/m || echo refused";
    for wanted in [false, true] {
        let mut spec = spec(place, &["sh", "-c", script]);
        let process = spec.process_mut().as_mut().expect("a process");
        process.set_no_new_privileges(Some(wanted));
        let outcome = run(place, &spec).expect("it starts");
        assert!(outcome.out.starts_with(&format!("NoNewPrivs:\t{}\nSeccomp:\t2\n", u8::from(wanted))), "{outcome:?}");
        assert!(outcome.out.ends_with("refused\n"), "{outcome:?}");
        fs::remove_dir(place.root.join("tmp/m")).expect("nothing is mounted on it");
    }
}

pub(crate) fn namespaces_are_new(place: &Place) {
    let out = sh(place, "for n in mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done");
    for link in out.lines() {
        let name = link.split(':').next().expect("a name");
        let own = fs::read_link(format!("/proc/self/ns/{name}")).expect("a namespace");
        assert_ne!(link, own.to_string_lossy(), "{name}");
    }
    assert_eq!(out.lines().count(), 6);
}

pub(crate) fn the_usual_mounts(place: &Place) {
    let out = sh(place, "cat /proc/self/mountinfo");
    let mounts: Vec<(&str, &str, &str)> = out
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(4);
            let (at, options) = (words.next()?, words.next()?);
            Some((at, options, line.split(" - ").nth(1)?.split(' ').next()?))
        })
        .collect();
    let check = |at: &str, kind: &str, options: &str| {
        let found = mounts.iter().find(|mount| mount.0 == at).unwrap_or_else(|| panic!("{at} is missing in {out}"));
        assert_eq!(found.2, kind, "{at}");
        for option in options.split(',') {
            assert!(found.1.split(',').any(|own| own == option), "{at}: {} lacks {option}", found.1);
        }
    };
    check("/proc", "proc", "rw,nosuid,nodev,noexec,relatime");
    check("/sys", "sysfs", "ro,nosuid,nodev,noexec,relatime");
    check("/dev", "tmpfs", "rw,nosuid");
    check("/dev/pts", "devpts", "rw,nosuid,noexec");
    check("/dev/shm", "tmpfs", "rw,nosuid,nodev,noexec");
    check("/dev/mqueue", "mqueue", "rw,nosuid,nodev,noexec");
    check("/proc/sys", "proc", "ro");
    // A mask over a file is the null device, over a folder an empty, read-only one.
    assert!(mounts.iter().any(|mount| mount.0 == "/proc/interrupts"), "{out}");
    let out = sh(
        place,
        "wc -c </proc/interrupts; ls -A /sys/firmware; echo 1 2>/dev/null >/proc/sys/kernel/core_pattern || echo ro",
    );
    assert_eq!(out, "0\nro\n");
    // Nothing of the host's view is left.
    assert!(
        mounts.iter().all(|mount| ["/", "/proc", "/sys", "/dev", "/run", "/etc"]
            .iter()
            .any(|top| mount.0 == *top || mount.0.starts_with(&format!("{top}/")) && *top != "/")),
        "{out}"
    );
}

pub(crate) fn devices(place: &Place) {
    let out = sh(
        place,
        "cd /dev; for d in null zero full random urandom tty; do test -c $d && echo $d; done; for l in fd stdin stdout stderr ptmx; do readlink $l; done
        echo x >null; head -c 3 zero | wc -c; stat -c %a null pts/ptmx",
    );
    assert_eq!(
        out,
        "null\nzero\nfull\nrandom\nurandom\ntty\n/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n3\n666\n666\n"
    );
    let mut spec = spec(place, &["sh", "-c", "test -c /dev/deep/fuse && stat -c %t:%T /dev/deep/fuse"]);
    let device = r#"[{"path":"/dev/deep/fuse","type":"c","major":10,"minor":229,"fileMode":438}]"#;
    spec.linux_mut().as_mut().expect("linux").set_devices(Some(serde_json::from_str(device).expect("a device")));
    match run(place, &spec) {
        Ok(outcome) => assert_eq!(outcome.out, "a:e5\n"),
        // An ordinary user has what the host's /dev has, under that name or its number.
        Err(error) => {
            assert!(place.rootless);
            assert!(
                error.chain().ends_with("device `/dev/deep/fuse` (10:229) is not in the host's `/dev`"),
                "{error:?}"
            );
        }
    }
}

pub(crate) fn signals_are_as_they_should_be(place: &Place) {
    let out = run(place, &spec(place, &["grep", "Sig", "/proc/self/status"])).expect("it starts").out;
    for word in ["SigPnd", "SigBlk", "SigIgn", "SigCgt"] {
        assert!(out.contains(&format!("{word}:\t0000000000000000\n")), "{out}");
    }
}

pub(crate) fn only_the_streams_are_open(place: &Place) {
    // Open and inheritable on purpose.
    let leaky: OwnedFd =
        fs::File::open("/etc/hostname").or_else(|_| fs::File::open("/etc/passwd")).expect("a file").into();
    layerfs::sys::process::keep_on_exec(leaky.as_raw_fd(), leaky.as_raw_fd() + 1);
    let out = run(place, &spec(place, &["ls", "/proc/self/fd"])).expect("it starts").out;
    // The fourth is the listing's own.
    assert_eq!(out, "0\n1\n2\n3\n");
}

pub(crate) fn descriptors_can_be_preserved(place: &Place) {
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let own = rustix::io::fcntl_dupfd_cloexec(writer.as_fd(), 3).expect("a descriptor");
    drop(writer);
    // It got the lowest free number, so all below are open as well.
    let number = own.as_raw_fd();
    let script = format!("echo here >&{number}");
    let count = u32::try_from(number - 2).expect("it is at least 3");
    let outcome = run_with(place, &spec(place, &["sh", "-c", &script]), |launch| launch.preserve_fds = count);
    assert_eq!(outcome.expect("it starts").exit.code, 0);
    drop(own);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut reader, &mut text).expect("text");
    assert_eq!(text, "here\n");
    let error = run_with(place, &spec(place, &["true"]), |launch| launch.preserve_fds = 900).expect_err("not open");
    assert_eq!(error.kind(), Kind::Usage, "{error:?}");
}

pub(crate) fn limits_umask_and_score(place: &Place) {
    let mut spec = spec(place, &["sh", "-c", "ulimit -n; ulimit -Hn; umask; cat /proc/self/oom_score_adj"]);
    let process = spec.process_mut().as_mut().expect("a process");
    let limits = r#"[{"type":"RLIMIT_NOFILE","soft":100,"hard":200}]"#;
    process.set_rlimits(Some(serde_json::from_str(limits).expect("a limit"))).set_oom_score_adj(Some(500));
    let mut user = User::default();
    user.set_umask(Some(0o077));
    process.set_user(user);
    assert_eq!(run(place, &spec).expect("it starts").out, "100\n200\n0077\n500\n");
    if place.rootless {
        let process = spec.process_mut().as_mut().expect("a process");
        let limits = r#"[{"type":"RLIMIT_NOFILE","soft":100,"hard":1073741816}]"#;
        process.set_rlimits(Some(serde_json::from_str(limits).expect("a limit")));
        let error = run(place, &spec).expect_err("it cannot be raised");
        assert_eq!(error.chain(), "limit RLIMIT_NOFILE cannot be raised to 1073741816");
        assert!(error.advice().is_some_and(|hint| hint.starts_with("the hard limit here is ")), "{error:?}");
    }
}

pub(crate) fn names_sysctls_and_loopback(place: &Place) {
    let mut spec = spec(
        place,
        &[
            "sh",
            "-c",
            "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/domainname; ip link show lo",
        ],
    );
    spec.set_hostname(Some("box".into())).set_domainname(Some("example".into()));
    let sysctls = [("net.ipv4.ip_unprivileged_port_start".to_owned(), "81".to_owned())];
    spec.linux_mut().as_mut().expect("linux").set_sysctl(Some(sysctls.into()));
    let out = run(place, &spec).expect("it starts").out;
    assert!(out.starts_with("box\n81\nexample\n"), "{out}");
    assert!(out.contains("<LOOPBACK,UP"), "{out}");
}

pub(crate) fn binds_and_their_options(place: &Place) {
    fs::write(place.scratch.join("file"), "from outside\n").expect("a file");
    std::os::unix::fs::symlink("/run", place.root.join("link")).expect("a link");
    let scratch = place.scratch.display();
    let mut spec = spec(
        place,
        &[
            "sh",
            "-c",
            "cat /run/deep/folder/file /etc/one; touch /run/deep/folder/x 2>/dev/null || echo ro; touch /rw/made; echo >/etc/one changed",
        ],
    );
    // Through a symlink of the image that leads to a folder which is not there yet.
    add_mount(
        &mut spec,
        &format!(
            r#"{{"destination":"/link/deep/folder","type":"bind","source":"{scratch}","options":["rbind","ro"]}}"#
        ),
    );
    add_mount(&mut spec, &format!(r#"{{"destination":"/etc/one","source":"{scratch}/file","options":["bind"]}}"#));
    add_mount(
        &mut spec,
        &format!(r#"{{"destination":"/rw","type":"bind","source":"{scratch}","options":["rbind","rw","nosuid"]}}"#),
    );
    let outcome = run(place, &spec).expect("it starts");
    assert_eq!(outcome.out, "from outside\nfrom outside\nro\n");
    assert_eq!(fs::read_to_string(place.scratch.join("file")).expect("the file"), "changed\n");
    assert!(place.scratch.join("made").exists());
}

pub(crate) fn a_read_only_root(place: &Place) {
    let mut spec = spec(place, &["sh", "-c", "touch /x 2>/dev/null || echo ro; touch /dev/shm/x && echo rw"]);
    spec.root_mut().as_mut().expect("a root").set_readonly(Some(true));
    assert_eq!(run(place, &spec).expect("it starts").out, "ro\nrw\n");
    assert!(!place.root.join("x").exists());
}

pub(crate) fn a_tmpfs_that_starts_full(place: &Place) {
    fs::create_dir_all(place.root.join("usr/data/below")).expect("folders");
    fs::write(place.root.join("usr/data/below/file"), "kept\n").expect("a file");
    std::os::unix::fs::symlink("below", place.root.join("usr/data/link")).expect("a link");
    let mut spec = spec(place, &["sh", "-c", "cat /usr/data/link/file; touch /usr/data/new; stat -f -c %T /usr/data"]);
    add_mount(
        &mut spec,
        r#"{"destination":"/usr/data","type":"tmpfs","source":"tmpfs","options":["tmpcopyup","size=1m"]}"#,
    );
    assert_eq!(run(place, &spec).expect("it starts").out, "kept\ntmpfs\n");
    assert!(!place.root.join("usr/data/new").exists());
}

pub(crate) fn a_working_folder_is_made(place: &Place) {
    let mut spec = spec(place, &["pwd"]);
    spec.process_mut().as_mut().expect("a process").set_cwd("/srv/app".into());
    assert_eq!(run(place, &spec).expect("it starts").out, "/srv/app\n");
}
