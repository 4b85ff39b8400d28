//! Limits by measure, through the runtime, on whatever cgroups this machine has; what is particular to v1 is tested
//! where v1 is. cgroup v2 by itself is in `vm.rs`.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Bundle, Call};

/// Whether this machine has a controller by v1's rules.
fn on_v1(controller: &str) -> bool {
    let own = fs::read_to_string("/proc/self/cgroup").expect("/proc");
    own.lines().any(|line| line.split(':').nth(1).is_some_and(|names| names.split(',').any(|name| name == controller)))
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "{what} does not come");
    }
}

#[test]
fn a_tenth_of_a_processor_is_a_tenth() {
    // Inside, so that neither the start nor the harness counts: time used and time gone by, in hundredths of seconds.
    let used = "cat /sys/fs/cgroup/cpuacct/cpuacct.usage /sys/fs/cgroup/cpu,cpuacct/cpuacct.usage 2>/dev/null || \
                awk '/usage_usec/ {print $2 * 1000}' /sys/fs/cgroup/cpu.stat";
    let script = format!(
        "used() {{ {{ {used}; }} | head -n 1; }}; gone() {{ cut -d' ' -f1 /proc/uptime; }}; a=$(used) b=$(gone); \
         timeout 4 sh -c 'while :; do :; done'; echo $a $b $(used) $(gone); grep -E '[:,]cpu[:,]|^0:' /proc/self/cgroup"
    );
    let Some(bundle) = Bundle::new("tenth", &script, json!({"cpu": {"quota": 10_000, "period": 100_000}})) else {
        return;
    };
    let said = bundle.run().expect_code(0);
    let numbers: Vec<f64> = said.lines()[0].split(' ').map(|word| word.parse().expect("a number")).collect();
    let share = (numbers[2] - numbers[0]) / 1e9 / (numbers[3] - numbers[1]);
    assert!((0.09..=0.11).contains(&share), "{share}\n{said}");
    assert!(said.lines()[1..].iter().any(|line| line.ends_with("/") || line.contains(&bundle.id)), "{said}");
    bundle.assert_nothing_left();
}

#[test]
fn running_out_of_memory_is_an_event() {
    let limit = json!({"memory": {"limit": 32 << 20, "swap": 32 << 20}});
    let Some(bundle) = Bundle::new("greedy", "tail /dev/zero; echo $? >/code; sleep 1000", limit) else { return };
    bundle.away(&["create", "ID"]);
    let mut events = bundle.call(&["events", "--interval", "100ms", "ID"]).start();
    events.wait_for_stdout("\"type\":\"stats\"");
    bundle.call(&["start", "ID"]).ok();
    events.wait_for_stdout("\"type\":\"oom\"");
    until("its end", || fs::read_to_string(bundle.actor.path("rootfs/code")).is_ok_and(|code| code.trim() == "137"));
    bundle.call(&["delete", "--force", "ID"]).ok();
    // Who follows a container ends with it.
    assert_eq!(events.wait().code, 0);
    bundle.assert_nothing_left();
}

#[test]
fn a_paused_container_stands_still() {
    let count = "i=0; while :; do i=$((i+1)); echo $i >/count; done";
    let Some(bundle) = Bundle::new("paused", count, json!({})) else { return };
    bundle.start();
    let number = || fs::read_to_string(bundle.actor.path("rootfs/count")).unwrap_or_default();
    until("a number", || !number().trim().is_empty());
    bundle.call(&["pause", "ID"]).ok();
    let before = number();
    let status = || bundle.call(&["state", "ID"]).ok().json()["status"].as_str().expect("a word").to_owned();
    for _ in 0..10 {
        assert_eq!(status(), "paused");
    }
    assert_eq!(number(), before);
    bundle.call(&["pause", "ID"]).fails(1).says(&["is paused"]);
    bundle.call(&["exec", "ID", "true"]).fails(255).says(&["in a paused container"]);
    bundle.call(&["resume", "ID"]).ok();
    until("another number", || ![before.as_str(), ""].contains(&number().as_str()));
    assert_eq!(status(), "running");
    bundle.call(&["resume", "ID"]).fails(1).says(&["container not paused"]);
    // What is paused can be killed, and deleted by force.
    bundle.call(&["pause", "ID"]).ok();
    bundle.call(&["kill", "ID", "KILL"]).ok();
    until("its end", || status() == "stopped");
    bundle.call(&["kill", "ID", "KILL"]).fails(1).says(&["container not running"]);
    bundle.call(&["delete", "ID"]).ok();
    bundle.start();
    bundle.call(&["pause", "ID"]).ok();
    bundle.call(&["delete", "--force", "ID"]).ok();
    bundle.assert_nothing_left();
}

#[test]
fn limits_change_while_it_runs() {
    let limits = json!({"memory": {"limit": 64 << 20, "swap": 64 << 20}, "pids": {"limit": 50}});
    let Some(bundle) = Bundle::new("changing", "sleep 1000", limits) else { return };
    bundle.start();
    let memory = || bundle.file("memory.limit_in_bytes", "memory.max");
    assert_eq!(memory(), (64 << 20).to_string());
    // More than memory and swap together were: both at once, in the order that the kernel takes them.
    let more = json!({"memory": {"limit": 128 << 20, "swap": 256 << 20}, "cpu": {"shares": 2048, "quota": 25_000, "period": 50_000}});
    bundle.call(&["update", "--resources=-", "ID"]).stdin(more.to_string()).ok();
    assert_eq!(memory(), (128 << 20).to_string());
    let quota = bundle.file("cpu.cfs_quota_us", "cpu.max");
    assert!(["25000", "25000 50000"].contains(&quota.as_str()), "{quota}");
    bundle.call(&["update", "--memory", "32m", "--memory-swap", "32m", "--pids-limit", "7", "ID"]).ok();
    assert_eq!((memory(), bundle.file("pids.max", "pids.max")), ((32 << 20).to_string(), "7".to_owned()));
    bundle.call(&["update", "--cpu-quota", "-1", "ID"]).ok();
    let quota = bundle.file("cpu.cfs_quota_us", "cpu.max");
    assert!(["-1", "max 50000"].contains(&quota.as_str()), "{quota}");
    bundle.call(&["update", "--cpuset-cpus", "4000", "ID"]).fails(1).says(&["are to be had"]);
    bundle.call(&["update", "--resources", "-", "ID"]).stdin(r#"{"memory": 5}"#).fails(1).says(&["no linux.resources"]);
    bundle.call(&["update", "--l3-cache-schema", "L3:0=f", "ID"]).fails(1).says(&["resctrl is not managed"]);
}

#[test]
fn processors_devices_and_processes_are_kept_within_limits() {
    let script = "grep Cpus_allowed_list /proc/self/status; mknod /known c 1 5; mknod /foreign c 1 1; \
                  head -c 1 /known | wc -c; head -c 1 /foreign 2>&1; for i in 1 2 3 4 5 6 7 8; do sleep 9 & done";
    let limits = json!({"cpu": {"cpus": "0"}, "pids": {"limit": 6}, "devices": [{"allow": false, "access": "rwm"}]});
    let Some(bundle) = Bundle::new("within", script, limits) else { return };
    bundle.change(|config| {
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_MKNOD"]);
        }
    });
    let said = bundle.run().expect_not_zero().says(&["can't fork"]);
    assert_eq!(said.lines()[..2], ["Cpus_allowed_list:\t0", "1"], "{said}");
    assert!(said.lines()[2].contains("Operation not permitted"), "{said}");
    bundle.assert_nothing_left();
}

#[test]
fn stats_are_what_the_kernel_counts() {
    let script = "dd if=/dev/zero of=/dev/null bs=1M count=200 2>/dev/null; echo >/worked; exec sleep 1000";
    let Some(bundle) = Bundle::new("counted", script, json!({})) else { return };
    bundle.start();
    // From here on there is one process, so that two counts one after the other are the same.
    until("the end of the work", || bundle.actor.path("rootfs/worked").exists());
    let usage = || match on_v1("cpuacct") {
        true => bundle.file("cpuacct.usage", "cpuacct.usage").parse::<u64>().expect("a number"),
        false => {
            let text = bundle.file("cpu.stat", "cpu.stat");
            let first = text.lines().next().and_then(|line| line.split(' ').nth(1));
            first.and_then(|number| number.parse::<u64>().ok()).expect("a number") * 1_000
        }
    };
    let before = usage();
    let stats = bundle.call(&["events", "--stats", "ID"]).ok().json();
    let after = usage();
    let told = stats["data"]["cpu"]["usage"]["total"].as_u64().expect("a number");
    assert!(before > 0 && (before..=after).contains(&told), "{before} {told} {after}");
    assert_eq!(stats["data"]["pids"]["current"].as_u64(), bundle.file("pids.current", "pids.current").parse().ok());
    assert!(stats["data"]["memory"]["usage"]["usage"].as_u64() > Some(0), "{stats}");
}

#[test]
fn writes_to_a_disk_are_throttled() {
    let device = Call::shell("stat -c '%Hd:%Ld' /var/tmp").ok().result().to_owned();
    let (major, minor) = device.split_once(':').expect("two numbers");
    if !Path::new(&format!("/sys/dev/block/{device}")).exists() || !(on_v1("blkio")) {
        // On v2 this is measured in the virtual machine, which has a disk of its own.
        return;
    }
    let rate = 4 << 20;
    let number = |text: &str| text.parse::<i64>().expect("a number");
    let limit = json!({"blockIO": {"throttleWriteBpsDevice": [{"major": number(major), "minor": number(minor), "rate": rate}]}});
    let script = "gone() { cut -d' ' -f1 /proc/uptime; }; a=$(gone); \
                  dd if=/dev/zero of=/file bs=1M count=16 oflag=direct 2>/dev/null; echo $a $(gone)";
    let Some(bundle) = Bundle::new("throttled", script, limit) else { return };
    let said = bundle.run().expect_code(0);
    let times: Vec<f64> = said.lines()[0].split(' ').map(|word| word.parse().expect("a number")).collect();
    let measured = f64::from(16 << 20) / (times[1] - times[0]);
    assert!((0.9..=1.1).contains(&(measured / f64::from(rate))), "{measured} bytes a second\n{said}");
}

#[test]
fn a_controller_that_is_not_mounted_is_named() {
    if on_v1("net_cls") || !on_v1("cpu") {
        return;
    }
    let limit = json!({"network": {"classID": 0x0010_0001}});
    let Some(bundle) = Bundle::new("unmounted", "echo started", limit) else { return };
    let refused = bundle.run().expect_code(1);
    assert_eq!(refused.stdout, "");
    refused.says(&["the network class cannot be limited: the cgroup controller `net_cls` is not available"]);
    bundle.assert_nothing_left();
}

#[test]
fn what_is_killed_on_its_way_is_deleted_by_force() {
    let Some(bundle) = Bundle::new("killed", "sleep 1000", json!({"pids": {"limit": 50}})) else { return };
    // The one who holds a created container: the container goes with it.
    bundle.away(&["create", "ID"]);
    let pid = bundle.call(&["state", "ID"]).ok().json()["pid"].as_u64().expect("a number");
    let holder = Call::shell("for each in $(pgrep -f \" create $ID\\$\"); do [ $each = $PID ] || echo $each; done")
        .env("ID", &bundle.id)
        .env("PID", pid.to_string())
        .ok();
    Call::shell(&format!("kill -9 {}", holder.lines().join(" "))).ok();
    let status = || bundle.call(&["state", "ID"]).output().json()["status"].as_str().expect("a word").to_owned();
    until("its end", || status() == "stopped");
    bundle.call(&["start", "ID"]).fails(1).says(&["is stopped, and only a created one can be started"]);
    bundle.call(&["delete", "--force", "ID"]).ok();
    bundle.assert_nothing_left();

    // The one who runs a container in front of its caller.
    let run = bundle.call(&["run", "ID"]).start();
    until("the container", || {
        let state = bundle.call(&["state", "ID"]).output();
        state.code == 0 && state.json()["status"] == "running"
    });
    run.signal(rustix::process::Signal::KILL);
    until("its end", || status() == "stopped");
    bundle.call(&["delete", "ID"]).ok();
    bundle.assert_nothing_left();

    // One of which nothing but a folder is there, and one that never was.
    fs::create_dir(bundle.state().join(&bundle.id)).expect("a folder");
    bundle.call(&["delete", "ID"]).fails(1).says(&["it is creating"]);
    bundle.call(&["delete", "--force", "ID"]).ok();
    bundle.call(&["delete", "--force", "ID"]).ok();
    bundle.call(&["delete", "ID"]).fails(1).says(&["does not exist"]);
    bundle.assert_nothing_left();
}

#[test]
fn what_fails_leaves_nothing() {
    let Some(bundle) = Bundle::new("failing", "true", json!({"pids": {"limit": 50}})) else { return };
    let log = bundle.actor.path("log.json");
    let fails = |change: fn(&mut Value), text: &str| {
        let before = fs::read(bundle.actor.path("config.json")).expect("it was written");
        bundle.change(change);
        for verb in [&["create", "ID"][..], &["run", "ID"], &["run", "--detach", "ID"]] {
            drop(fs::remove_file(&log));
            let global = ["--log", log.to_str().expect("a plain path"), "--log-format", "json"];
            let words: Vec<&str> = global.into_iter().chain(verb.iter().copied()).collect();
            bundle.call(&words).fails(1).says(&[text]);
            // One line, the same words.
            let line: Value = serde_json::from_slice(&fs::read(&log).expect("a log")).expect("one JSON document");
            assert!(line["msg"].as_str().is_some_and(|msg| msg.contains(text)) && line["level"] == "error", "{line}");
            bundle.assert_nothing_left();
        }
        fs::write(bundle.actor.path("config.json"), before).expect("it is ours");
    };
    fails(|config| config["process"]["args"] = json!(["nothing"]), "executable file not found in $PATH");
    fails(|config| config["process"]["args"] = json!(["/tmp"]), "permission denied");
    fails(|config| config["process"]["cwd"] = json!("/proc/1/nothing"), "/proc/1/nothing");
    fails(|config| config["root"]["path"] = json!("nowhere"), "nowhere");
    fails(|config| config["linux"]["resources"] = json!({"cpu": {"cpus": "4000"}}), "are to be had");
    fails(|config| config["hostname"] = json!(5), "hostname");
    fs::remove_file(bundle.actor.path("config.json")).expect("it is ours");
    bundle.call(&["create", "ID"]).fails(1).says(&["config.json"]);
    bundle.call(&["--systemd-cgroup", "create", "ID"]).fails(1);
    bundle.assert_nothing_left();
}

/// A systemd of a user's, with a cgroup of its own, that makes the scopes.
#[test]
fn systemd_makes_scopes_and_takes_them_back() {
    if !on_v1("name=systemd") {
        return;
    }
    let limits = json!({"memory": {"limit": 32 << 20}, "pids": {"limit": 33}});
    let Some(bundle) = Bundle::new("scope", "sleep 1000", limits) else { return };
    bundle.change(|config| {
        config["linux"]["cgroupsPath"] = json!(format!("test.slice:layerfs:{}", bundle.id));
        config["annotations"] = json!({"org.systemd.property.TimeoutStopSec": "5"});
    });
    bundle.actor.mkdir("run");
    let script = r#"
        mkdir -p /run/systemd; mount -t tmpfs tmpfs /run/systemd; mkdir /run/systemd/system; chmod 700 run
        export XDG_RUNTIME_DIR=$PWD/run
        for each in systemd unified; do
            [ ! -d /sys/fs/cgroup/$each ] || { mkdir /sys/fs/cgroup/$each/own-$ID; echo $$ >/sys/fs/cgroup/$each/own-$ID/cgroup.procs; }
        done
        coproc systemd { exec /usr/lib/systemd/systemd --user --unit=basic.target --log-target=null 2>&1; }
        own=$systemd_PID
        until systemctl --user is-active --quiet basic.target 2>/dev/null; do :; done
        unshare --user --map-root-user --mount bash -euc '
            r="layerfs-runtime --root state --systemd-cgroup" unit=layerfs-$ID.scope
            show() { systemctl --user show $unit -p "$1" --value; }
            $r run --detach $ID </dev/null >/dev/null 2>&1
            show ActiveState; show Slice; show Delegate; show TasksMax; show TimeoutStopUSec
            grep -c "$unit" /proc/$($r state $ID | grep -o "\"pid\": [0-9]*" | grep -o "[0-9]*")/cgroup
            $r update --pids-limit 44 $ID; show TasksMax
            $r exec $ID true || echo refused
            $r delete --force $ID; show LoadState
        '
        kill -9 $own; wait || true
        echo $$ | tee /sys/fs/cgroup/systemd/cgroup.procs >/sys/fs/cgroup/unified/cgroup.procs || true
        find /sys/fs/cgroup -depth -type d \( -path "*own-$ID*" -o -name test.slice \) -exec rmdir {} + 2>/dev/null || true
    "#;
    let call = bundle.actor.call("unshare").args(["--mount", "bash", "-uc", script]).env("ID", &bundle.id);
    let said = call.ok();
    let lines = said.lines();
    assert_eq!(lines[..5], ["active", "test.slice", "yes", "33", "5s"], "{said}");
    assert!(lines[5].parse::<usize>().is_ok_and(|count| count > 1), "{said}");
    assert_eq!((lines[6], *lines.last().expect("lines")), ("44", "not-found"), "{said}");
    bundle.assert_nothing_left();
}
