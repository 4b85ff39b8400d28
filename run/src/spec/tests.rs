use serde_json::{Value, json};

use super::*;
use crate::options::{self, NetworkOptions, ProcessOptions, StorageOptions, Streams};

fn image(settings: Value) -> ImageConfig {
    let document = json!({"architecture": "amd64", "os": "linux", "config": settings,
        "rootfs": {"type": "layers", "diff_ids": []}});
    ImageConfig::parse(document.to_string().as_bytes()).expect("a valid configuration")
}

fn host() -> HostFacts {
    HostFacts {
        architecture: "amd64".to_owned(),
        kernel: (6, 1),
        hostname: "machine".to_owned(),
        limits_pids: true,
        ..HostFacts::default()
    }
}

fn place() -> Place {
    let user = user::User { home: "/root".to_owned(), ..user::User::default() };
    Place { id: "0123456789abcdef".repeat(4), user, ..Place::default() }
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The specification as JSON, with sets in order.
fn document(config: &ImageConfig, options: &RunOptions, host: &HostFacts, place: &Place) -> Result<Value> {
    let mut document = serde_json::to_value(for_container(config, options, host, place)?).expect("it is plain data");
    if let Some(sets) = document.pointer_mut("/process/capabilities").and_then(Value::as_object_mut) {
        for set in sets.values_mut() {
            set.as_array_mut().expect("a set is a list").sort_by_key(Value::to_string);
        }
    }
    Ok(document)
}

#[test]
fn a_whole_container() {
    let config = image(json!({"Cmd": ["sh"], "Env": ["PATH=/bin", "A=1"], "WorkingDir": "/w"}));
    let place = Place { files: vec![("/c/hosts".into(), "/etc/hosts".into())], ..place() };
    let mut spec = document(&config, &RunOptions::default(), &host(), &place).expect("valid");
    let seccomp = spec["linux"]["seccomp"].take();
    let rules = spec["linux"]["resources"]["devices"].as_array_mut().map(|rules| rules.split_off(1));
    assert_eq!(
        rules.map(|rules| (rules.len(), rules[2].clone())),
        Some((10, json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"})))
    );
    assert_eq!(seccomp["defaultAction"], "SCMP_ACT_ERRNO");
    let caps = [
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ]
    .map(|cap| format!("CAP_{cap}"));
    assert_eq!(
        spec,
        json!({
            "ociVersion": "1.3.0",
            "root": {"path": "/", "readonly": false},
            "hostname": "0123456789ab",
            "process": {
                "terminal": false,
                "user": {"uid": 0, "gid": 0, "umask": 0o022},
                "args": ["sh"],
                "env": ["PATH=/bin", "container=oci", "A=1", "HOME=/root", "HOSTNAME=0123456789ab"],
                "cwd": "/w",
                "capabilities": {"bounding": caps, "effective": caps, "permitted": caps, "inheritable": [], "ambient": []},
                "rlimits": [],
                "noNewPrivileges": false,
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
                {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                 "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
                {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                 "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
                {"destination": "/etc/hosts", "type": "bind", "source": "/c/hosts", "options": ["bind", "rprivate"]},
            ],
            "linux": {
                "cgroupsPath": format!("layerfs-{}", place.id),
                "devices": [],
                "sysctl": {"net.ipv4.ping_group_range": "0 0"},
                "resources": {"devices": [{"allow": false, "access": "rwm"}], "pids": {"limit": 2048}},
                "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"},
                    {"type": "network"}],
                "seccomp": null,
                "maskedPaths": MASKED_PATHS,
                "readonlyPaths": READONLY_PATHS,
            },
        })
    );
}

/// One option and what it does to one place of the document; `None` for an error.
fn check(settings: Value, options: &RunOptions, pointer: &str, expected: Option<Value>) {
    let made = document(&image(settings), options, &host(), &place()).ok();
    let found = made.map(|document| document.pointer(pointer).cloned().unwrap_or(Value::Null));
    assert_eq!(found, expected, "{pointer} of {options:?}");
}

#[test]
fn words_of_the_process() {
    let both = json!({"Entrypoint": ["/e"], "Cmd": ["c"]});
    let of = |entrypoint: Option<&[&str]>, command: &[&str]| RunOptions {
        process: ProcessOptions {
            entrypoint: entrypoint.map(strings),
            command: strings(command),
            ..ProcessOptions::default()
        },
        ..RunOptions::default()
    };
    check(both.clone(), &of(None, &[]), "/process/args", Some(json!(["/e", "c"])));
    check(both.clone(), &of(None, &["x", "y"]), "/process/args", Some(json!(["/e", "x", "y"])));
    check(both.clone(), &of(Some(&["/f"]), &[]), "/process/args", Some(json!(["/f"])));
    check(both.clone(), &of(Some(&[]), &["x"]), "/process/args", Some(json!(["x"])));
    check(both, &of(Some(&[]), &[]), "/process/args", None);
    check(json!({}), &of(None, &[]), "/process/args", None);
    check(json!({}), &of(None, &["a\0b"]), "/process/args", None);
}

#[test]
fn working_folders_are_absolute_and_not_descriptors() {
    let of = |workdir: &str| RunOptions {
        process: ProcessOptions {
            workdir: Some(workdir.to_owned()),
            command: strings(&["x"]),
            ..ProcessOptions::default()
        },
        ..RunOptions::default()
    };
    check(json!({}), &of("/a/../b/"), "/process/cwd", Some(json!("/b")));
    for wrong in ["a", "", "/proc/self/fd/7", "/proc/self/../self/fd/3", "/proc/1/cwd", "/proc/1/root/etc"] {
        check(json!({}), &of(wrong), "/process/cwd", None);
    }
}

#[test]
fn options_reach_their_place() {
    let with = |change: &dyn Fn(&mut RunOptions)| {
        let mut options = RunOptions::default();
        options.process.command = strings(&["x"]);
        change(&mut options);
        options
    };
    let check = |change: &dyn Fn(&mut RunOptions), pointer: &str, expected: Option<Value>| {
        check(json!({}), &with(change), pointer, expected);
    };
    check(&|o| o.network.hostname = Some("h".to_owned()), "/hostname", Some(json!("h")));
    check(&|o| (o.isolation.uts, o.network.hostname) = (Share::Host, Some("h".to_owned())), "/hostname", None);
    check(&|o| o.isolation.privileged = true, "/linux/seccomp", Some(Value::Null));
    check(&|o| o.isolation.privileged = true, "/linux/maskedPaths", Some(json!([])));
    check(&|o| o.isolation.privileged = true, "/linux/resources/devices/0/allow", Some(json!(true)));
    check(&|o| o.storage.read_only = true, "/root/readonly", Some(json!(true)));
    check(&|o| o.storage.shm_size = Some(1 << 20), "/mounts/3/options/4", Some(json!("size=1024k")));
    check(&|o| o.resources.memory = Some(64 << 20), "/linux/resources/memory", Some(json!({"limit": 67_108_864})));
    check(
        &|o| (o.resources.memory, o.resources.memory_swap) = (Some(64 << 20), Some(1 << 20)),
        "/linux/resources",
        None,
    );
    check(&|o| o.resources.memory_swap = Some(1 << 20), "/linux/resources", None);
    check(
        &|o| o.resources.cpu_quota = Some(150_000),
        "/linux/resources/cpu",
        Some(json!({"quota": 150_000, "period": 100_000})),
    );
    check(&|o| o.resources.pids = Some(0), "/linux/resources/pids/limit", Some(json!(-1)));
    check(
        &|o| o.process.streams = Streams { terminal: true, interactive: true },
        "/process/terminal",
        Some(json!(true)),
    );
    check(
        &|o| o.process.environment = vec![("A".into(), "1".into()), ("A".into(), "2".into())],
        "/process/env/2",
        Some(json!("A=2")),
    );
    check(
        &|o| o.isolation.ulimits = vec![options::ulimit("nofile=5:-1").expect("valid")],
        "/process/rlimits/0",
        Some(json!({"type": "RLIMIT_NOFILE", "soft": 5, "hard": u64::MAX})),
    );
    check(
        &|o| o.isolation.security = vec![SecurityOption::Unmask("/proc/s*".into()), SecurityOption::Mask("/x".into())],
        "/linux/readonlyPaths/4",
        Some(Value::Null),
    );
    check(
        &|o| o.isolation.sysctls = vec![("kernel.msgmax".into(), "1".into())],
        "/linux/sysctl/kernel.msgmax",
        Some(json!("1")),
    );
    check(
        &|o| (o.isolation.ipc, o.isolation.sysctls) = (Share::Host, vec![("kernel.msgmax".into(), "1".into())]),
        "/linux/sysctl",
        None,
    );
    check(&|o| o.isolation.cap_add = strings(&["frob"]), "/process", None);
}

#[test]
fn ordinary_users_have_what_was_added_by_name() {
    let options = RunOptions {
        process: ProcessOptions { command: strings(&["x"]), ..ProcessOptions::default() },
        isolation: crate::options::IsolationOptions { cap_add: strings(&["net_raw"]), ..Default::default() },
        ..RunOptions::default()
    };
    let place = Place { user: user::User { uid: 1000, gid: 7, groups: vec![9], home: "/h".into() }, ..place() };
    let made = document(&image(json!({})), &options, &host(), &place).expect("valid");
    let capabilities = &made["process"]["capabilities"];
    for set in ["effective", "permitted", "inheritable", "ambient"] {
        assert_eq!(capabilities[set], json!(["CAP_NET_RAW"]), "{set}");
    }
    assert_eq!(capabilities["bounding"].as_array().map(Vec::len), Some(12));
    assert_eq!(made["process"]["user"], json!({"uid": 1000, "gid": 7, "umask": 18, "additionalGids": [9]}));
}

#[test]
fn a_user_namespace_binds_what_it_cannot_mount() {
    let node = DeviceNode {
        source: "/dev/fuse".into(),
        destination: "/dev/fuse".into(),
        block: false,
        major: 10,
        minor: 229,
        mode: 0o666,
        uid: 0,
        gid: 0,
        access: "rwm".to_owned(),
    };
    let host = HostFacts { rootless: true, single_id: true, devices: vec![node], ..host() };
    let options = RunOptions {
        process: ProcessOptions { command: strings(&["x"]), ..ProcessOptions::default() },
        isolation: crate::options::IsolationOptions { pid: Share::Host, ipc: Share::Host, ..Default::default() },
        network: NetworkOptions::default(),
        storage: StorageOptions::default(),
        ..RunOptions::default()
    };
    let place = Place { network: NetworkNamespace::Host, ..place() };
    let made = document(&image(json!({})), &options, &host, &place).expect("valid");
    let kinds: Vec<(&str, &str)> = made["mounts"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|mount| (mount["destination"].as_str().unwrap_or(""), mount["type"].as_str().unwrap_or("")))
        .collect();
    assert_eq!(
        kinds,
        [
            ("/proc", "bind"),
            ("/dev", "tmpfs"),
            ("/dev/pts", "devpts"),
            ("/dev/shm", "bind"),
            ("/dev/mqueue", "bind"),
            ("/sys", "bind"),
            ("/dev/fuse", "bind")
        ]
    );
    assert_eq!(made["linux"]["devices"], json!([]));
    assert!(!made["mounts"][2]["options"].to_string().contains("gid=5"));
    assert_eq!(made["hostname"], "machine");
}

#[test]
fn own_mounts_replace_default_ones_and_come_parents_first() {
    let here = std::path::Path::new("/");
    let mounts = ["/a:/x/y/z", "/b:/x", "/c:/etc/hosts:ro,z"].map(|text| options::volume(text, here).expect("valid"));
    let mut options =
        RunOptions { storage: StorageOptions { mounts: mounts.to_vec(), ..Default::default() }, ..Default::default() };
    options.process.command = strings(&["x"]);
    let place = Place { files: vec![("/c/hosts".into(), "/etc/hosts".into())], ..place() };
    let made = document(&image(json!({})), &options, &host(), &place).expect("valid");
    let own: Vec<Value> = made["mounts"].as_array().expect("a list")[7..].to_vec();
    let bind = |source: &str, destination: &str, options: &[&str]| json!({"destination": destination, "type": "bind", "source": source, "options": options});
    assert_eq!(
        own,
        [
            bind("/b", "/x", &["rbind", "rprivate"]),
            bind("/c", "/etc/hosts", &["rbind", "ro", "rprivate"]),
            bind("/a", "/x/y/z", &["rbind", "rprivate"])
        ]
    );
    options.storage.mounts.push(options::volume("/d:/x", here).expect("valid"));
    assert!(for_container(&image(json!({})), &options, &host(), &place).is_err());
    let selinux = HostFacts { selinux: true, ..host() };
    options.storage.mounts.pop();
    assert!(for_container(&image(json!({})), &options, &selinux, &place).is_err());
}
