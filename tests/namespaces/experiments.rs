//! One experiment for each kind of namespace: what happens in a container's own stays there, who joins it sees it, and
//! who shares the host's sees the host's.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use crate::harness::{Bundle, Call};

/// Where a container has a namespace from.
enum From<'a> {
    Own,
    Joined(&'a Bundle),
    Host,
}

/// A container that sleeps, with all capabilities, whose namespace of the kind `kind` comes from there.
fn asleep(name: &str, kind: &str, from: From<'_>) -> Option<Bundle> {
    asleep_with(name, kind, from, |_| {})
}

fn asleep_with(name: &str, kind: &str, from: From<'_>, change: impl FnOnce(&mut Value)) -> Option<Bundle> {
    let bundle = Bundle::new(&format!("{kind}-{name}"), "while :; do sleep 1000; done", json!({}))?;
    let path = match &from {
        From::Joined(other) => format!("/proc/{}/ns/{}", other.pid(), file(kind)),
        From::Own | From::Host => String::new(),
    };
    bundle.change(|config| {
        let all: Vec<Value> =
            ["CAP_SYS_ADMIN", "CAP_NET_BIND_SERVICE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SYS_CHROOT"]
                .map(|name| json!(name))
                .to_vec();
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(all);
        }
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a list");
        namespaces.retain(|namespace| namespace["type"] != kind);
        match from {
            From::Own => namespaces.push(json!({"type": kind})),
            From::Joined(_) => namespaces.push(json!({"type": kind, "path": path})),
            From::Host => {}
        }
        change(config);
    });
    bundle.start();
    Some(bundle)
}

/// The name in `/proc/PID/ns` of what the specification calls `kind`.
fn file(kind: &str) -> &str {
    match kind {
        "mount" => "mnt",
        "network" => "net",
        other => other,
    }
}

/// What a command on the host says.
fn host(script: &str) -> String {
    Call::shell(script).ok().stdout.trim().to_owned()
}

/// Whether the namespace is that of the host's processes.
fn is_the_hosts(bundle: &Bundle, kind: &str) -> bool {
    let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{}", file(kind))).expect("a link of /proc");
    of(&bundle.pid().to_string()) == of("self")
}

#[test]
fn a_mount_is_seen_by_who_enters_alone() {
    let Some(own) = asleep("own", "mount", From::Own) else { return };
    assert!(!is_the_hosts(&own, "mount"));
    own.says("mount -t tmpfs inside /tmp && echo there >/tmp/file");
    // In the folder that is the container's root there is nothing, and in no mount table of the host's.
    assert!(!own.actor.path("rootfs/tmp/file").exists());
    assert!(!fs::read_to_string("/proc/self/mounts").expect("/proc").lines().any(|line| line.starts_with("inside ")));
    // Who enters sees it, by `exec` and by the system's own tool.
    assert_eq!(own.says("cat /tmp/file"), "there");
    assert_eq!(host(&format!("nsenter --mount --root --target {} cat /tmp/file", own.pid())), "there");
}

#[test]
fn a_process_has_another_number() {
    let Some(own) = asleep("own", "pid", From::Own) else { return };
    assert!(!is_the_hosts(&own, "pid"));
    assert_eq!(own.says("readlink /proc/1/exe; test -d /proc/$PPID || echo nobody"), "/bin/busybox\nnobody");
    let joined = asleep("joined", "pid", From::Joined(&own)).expect("as before");
    // Each sees the other's, one of them as the first.
    assert_eq!(
        joined.says("grep -c NSpid /proc/1/status; ls -d /proc/[0-9]* | wc -l"),
        own.says("echo 1; ls -d /proc/[0-9]* | wc -l")
    );
    assert_eq!(joined.says("readlink /proc/1/ns/uts"), own.says("readlink /proc/self/ns/uts"));
    let shared = asleep("shared", "pid", From::Host).expect("as before");
    assert!(is_the_hosts(&shared, "pid"));
    assert_eq!(shared.says("readlink /proc/self/ns/pid"), host("readlink /proc/self/ns/pid"));
    assert_eq!(
        shared.says(&format!("cat /proc/{}/comm", std::process::id())),
        host(&format!("cat /proc/{}/comm", std::process::id()))
    );
    // Nobody takes the others along here, so each is killed by itself.
    joined.call(&["delete", "--force", "ID"]).ok();
    assert_eq!(own.call(&["state", "ID"]).ok().json()["status"], "running");
}

#[test]
fn two_containers_have_a_port_80_each() {
    let Some(one) = asleep("one", "network", From::Own) else { return };
    let two = asleep("two", "network", From::Own).expect("as before");
    let serve = "httpd -p 127.0.0.1:80 -h /tmp";
    let ask = "wget -qO- http://127.0.0.1/name";
    for bundle in [&one, &two] {
        bundle.says(&format!("echo {} >/tmp/name; {serve}", bundle.id));
    }
    for bundle in [&one, &two] {
        assert_eq!(bundle.says(ask), bundle.id);
        assert_eq!(bundle.says("ls /sys/class/net"), "lo");
    }
    let joined = asleep("joined", "network", From::Joined(&one)).expect("as before");
    assert_eq!(joined.says(ask), one.id);
    joined.call(&["exec", "ID", "sh", "-c", serve]).output().expect_not_zero().says(&["in use"]);
    let shared = asleep("shared", "network", From::Host).expect("as before");
    assert!(is_the_hosts(&shared, "network"));
    assert_eq!(shared.says("cut -d: -f1 /proc/net/dev"), host("cut -d: -f1 /proc/net/dev"));
}

#[test]
fn a_message_queue_is_among_its_own() {
    let queue = format!("/dev/mqueue/queue-{}", std::process::id());
    let Some(own) = asleep("own", "ipc", From::Own) else { return };
    own.says(&format!("touch {queue}"));
    let stranger = asleep("stranger", "ipc", From::Own).expect("as before");
    assert_eq!(stranger.says(&format!("test -e {queue} || echo none")), "none");
    let joined = asleep("joined", "ipc", From::Joined(&own)).expect("as before");
    assert_eq!(joined.says(&format!("test -e {queue} && echo there")), "there");
    let (shared, other) = (asleep("shared", "ipc", From::Host), asleep("other", "ipc", From::Host));
    let (shared, other) = (shared.expect("as before"), other.expect("as before"));
    assert!(is_the_hosts(&shared, "ipc"));
    assert_eq!(shared.says(&format!("test -e {queue} || {{ echo none; touch {queue}; }}")), "none");
    assert_eq!(other.says(&format!("test -e {queue} && echo there; rm {queue}")), "there");
}

#[test]
fn a_name_is_its_own() {
    let Some(own) = asleep("own", "uts", From::Own) else { return };
    let before = host("hostname");
    own.says("hostname inside");
    assert_eq!((own.says("hostname"), host("hostname")), ("inside".to_owned(), before.clone()));
    let no_name = |config: &mut Value| drop(config.as_object_mut().expect("an object").remove("hostname"));
    let joined = asleep_with("joined", "uts", From::Joined(&own), no_name).expect("as before");
    assert_eq!(joined.says("hostname; hostname again"), "inside");
    assert_eq!(own.says("hostname"), "again");
    let shared = asleep_with("shared", "uts", From::Host, no_name).expect("as before");
    assert_eq!(shared.says("hostname"), before);
}

#[test]
fn nobody_outside_is_root_inside() {
    let mapped = |config: &mut Value| {
        config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 300_000, "size": 1000}]);
        config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 300_000, "size": 1000}]);
    };
    let open = |name: &str, from: From<'_>| {
        asleep_with(name, "user", from, |config| {
            mapped(config);
            config["mounts"].as_array_mut().expect("a list").push(json!({"destination": "/tmp", "type": "tmpfs"}));
        })
    };
    let Some(own) = open("own", From::Own) else { return };
    let owner = |bundle: &Bundle| {
        let path = format!("/proc/{}/root/tmp/file", bundle.pid());
        fs::metadata(path).expect("it was made").uid()
    };
    assert_eq!(own.says("id -u; touch /tmp/file; stat -c %u /tmp/file"), "0\n0");
    assert_eq!(owner(&own), 300_000);
    assert_eq!(own.says("cat /proc/self/uid_map").split_whitespace().collect::<Vec<_>>(), ["0", "300000", "1000"]);
    let shared = asleep("shared", "user", From::Host).expect("as before");
    assert!(is_the_hosts(&shared, "user"));
    shared.says("touch /tmp/file");
    assert_eq!(owner(&shared), 0);
}

#[test]
fn a_cgroup_is_the_root_of_its_own() {
    let Some(own) = asleep("own", "cgroup", From::Own) else { return };
    let places = |bundle: &Bundle| bundle.says("cut -d: -f3 /proc/self/cgroup | sort -u");
    assert_eq!(places(&own), "/");
    let joined = asleep("joined", "cgroup", From::Joined(&own)).expect("as before");
    // It is in a cgroup beside that one.
    assert!(places(&joined).lines().all(|place| place.starts_with("/../")), "{}", places(&joined));
    let shared = asleep("shared", "cgroup", From::Host).expect("as before");
    assert!(is_the_hosts(&shared, "cgroup"));
    assert!(places(&shared).contains(&shared.id), "{}", places(&shared));
}

#[test]
fn a_clock_is_its_own() {
    const AHEAD: u64 = 1_000_000;
    let ahead = |config: &mut Value| config["linux"]["timeOffsets"] = json!({"boottime": {"secs": AHEAD}});
    let seconds = |text: &str| text.split(['.', ' ']).next().and_then(|word| word.parse().ok()).unwrap_or(0u64);
    let inside = |bundle: &Bundle| seconds(&bundle.says("cat /proc/uptime"));
    let outside = || seconds(&host("cat /proc/uptime"));
    let Some(own) = asleep_with("own", "time", From::Own, ahead) else { return };
    let before = outside();
    let own_clock = inside(&own);
    assert!((before + AHEAD..=outside() + AHEAD).contains(&own_clock), "{own_clock}");
    let joined = asleep("joined", "time", From::Joined(&own)).expect("as before");
    assert!(inside(&joined) >= own_clock);
    let shared = asleep("shared", "time", From::Host).expect("as before");
    assert!(is_the_hosts(&shared, "time"));
    let before = outside();
    assert!((before..=outside() + 1).contains(&inside(&shared)));
}
