//! Containers in containers: ours in ours, ours in podman's, ours in docker's. In there the kernel refuses a procfs and a
//! sysfs of one's own, for parts of the outer ones are hidden; the outer ones then have to do.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::harness::{Actor, Call, machine, peers};
use crate::interop::Docker;
use crate::runtime_spec::{base, bundle, mount, namespace};

/// What the inner container prints: who it is, that it is alone, that it has its own name and a view of the kernel.
const INNER: &str = "id -u; echo $$; hostname; ls -d /proc/self/status /sys/kernel; echo inner";
const PRINTED: &str = "0\n1\ninside\n/proc/self/status\n/sys/kernel\ninner\n";

/// A bundle for whoever is root in there.
fn inner_bundle(dir: &Path) -> PathBuf {
    let mut spec = base(INNER);
    namespace(&mut spec, "user", None);
    let same = json!([{"containerID": 0, "hostID": 0, "size": 1000}]);
    spec["linux"]["uidMappings"] = same.clone();
    spec["linux"]["gidMappings"] = same;
    mount(&mut spec, json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro", "nosuid"]}));
    bundle(dir, &spec)
}

/// Runs the inner one. The runtime is linked against the C library of the folders that are shared.
const RUN_INNER: &str = "cd /inner && /programs/layerfs-runtime --root /tmp/state run inner";

/// The folders that the runtime needs of whoever is around it, each under its own path.
const SHARED: [&str; 3] = ["/usr", "/lib", "/lib64"];

/// A root with nothing but mount points, a shell, and links into /usr.
fn outer_root(dir: &Path) -> PathBuf {
    let root = dir.join("outer-root");
    for folder in ["usr", "lib", "lib64", "bin", "etc", "proc", "sys", "dev", "tmp", "run", "inner", "programs"] {
        fs::create_dir_all(root.join(folder)).expect("a folder in our folder");
    }
    fs::copy("/bin/busybox", root.join("bin/sh")).expect("the package busybox-static is installed");
    root
}

#[test]
fn ours_in_ours() {
    let Some(actor) = Actor::root() else { return };
    let inner = inner_bundle(actor.dir());
    Call::new("chown").args(["-R", "100000:100000"]).arg(&inner).ok();
    let root = outer_root(actor.dir());
    for path in fs::read_dir(&root).expect("our folder").flatten() {
        chown(path.path(), Some(100_000), Some(100_000)).expect("root may give a file away");
    }
    let outer = actor.mkdir("outer");
    let mut spec = base(RUN_INNER);
    let capabilities = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_KILL",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_CHROOT"
    ]);
    for set in ["bounding", "effective", "permitted"] {
        spec["process"]["capabilities"][set] = capabilities.clone();
    }
    spec["root"]["path"] = json!(root);
    for kind in ["user", "cgroup"] {
        namespace(&mut spec, kind, None);
    }
    let range = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    spec["linux"]["uidMappings"] = range.clone();
    spec["linux"]["gidMappings"] = range;
    spec["linux"]["maskedPaths"] = json!(["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"]);
    spec["linux"]["readonlyPaths"] = json!(["/proc/sys", "/proc/bus"]);
    mount(&mut spec, json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]}));
    mount(&mut spec, json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}));
    let binds = SHARED.map(|path| (path, path.to_owned()));
    let ours = [("/programs", machine::programs().display().to_string()), ("/inner", inner.display().to_string())];
    for (destination, source) in binds.into_iter().chain(ours) {
        mount(&mut spec, json!({"destination": destination, "source": source, "type": "bind", "options": ["rbind"]}));
    }
    fs::write(outer.join("config.json"), spec.to_string()).expect("a file in our folder");
    let runtime = Call::new(machine::programs().join("layerfs-runtime")).arg("--root").arg(actor.path("state"));
    let said = runtime.args(["run", "outer-of-nested"]).dir(&outer).ok();
    assert_eq!(said.stdout, PRINTED, "{said}");
    said.says(&["the container sees the outer /proc"]);
}

/// The volumes for an engine.
fn volumes(inner: &Path) -> Vec<String> {
    let mut volumes: Vec<String> = SHARED.iter().map(|path| format!("--volume={path}:{path}:ro")).collect();
    volumes.push(format!("--volume={}:/programs:ro", machine::programs().display()));
    volumes.push(format!("--volume={}:/inner", inner.display()));
    volumes
}

/// An engine's default filter allows no namespaces; all its other confinement stays.
const UNFILTERED: &str = "--security-opt=seccomp=unconfined";

#[test]
fn ours_in_podmans() {
    let Some(actor) = Actor::root() else { return };
    let (inner, root) = (inner_bundle(actor.dir()), outer_root(actor.dir()));
    let Some(podman) = peers::call("podman", actor.dir()) else { return };
    let storage =
        format!("--root {0}/podman --runroot {0}/podman-run --cgroup-manager cgroupfs", actor.dir().display());
    let said = podman
        .args(storage.split_whitespace())
        .args(["run", "--rm", "--network=none", UNFILTERED])
        .args(volumes(&inner))
        .arg("--rootfs")
        .arg(&root)
        .args(["/bin/sh", "-c", RUN_INNER])
        .output()
        .expect_code(0);
    assert_eq!(said.stdout, PRINTED, "{said}");
    said.says(&["the container sees the outer /proc"]);
}

#[test]
fn ours_in_dockers() {
    let Some(actor) = Actor::root() else { return };
    let (inner, root) = (inner_bundle(actor.dir()), outer_root(actor.dir()));
    let archive = actor.path("root.tar");
    Call::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".").ok();
    let Some(docker) = Docker::start(actor.dir()) else { return };
    docker.docker(["import", &archive.display().to_string(), "outer"]).ok();
    let run = docker.docker(["run", "--rm", "--network=none", UNFILTERED]).args(volumes(&inner));
    let said = run.args(["outer", "/bin/sh", "-c", RUN_INNER]).output().expect_code(0);
    assert_eq!(said.stdout, PRINTED, "{said}");
    said.says(&["the container sees the outer /proc"]);
}
