//! cgroup v2 by itself, as current systems have it: limits, delegation, and what is left afterwards.

use crate::harness::vm::{Caller, ROOT, SERVICE, SESSION, USER, Vm, vm};

/// Everything up to the image: the network is no subject here.
const RUN: &str = "run --rm --network none";
const DETACHED: &str = "run -d --network none";
const IMAGE: &str = "localhost/busybox";

/// Where the containers of a caller belong: below this, each in a cgroup of its own.
fn home(who: Caller) -> &'static str {
    if who == ROOT { "/" } else { "/user.slice/user-1000.slice/user@1000.service/app.slice/" }
}

#[track_caller]
fn assert_no_cgroup_left(vm: &mut Vm) {
    let left = vm.ok(ROOT, "find /sys/fs/cgroup -type d -name 'layerfs-*' ! -name layerfs-callers");
    assert_eq!(left.stdout, "", "cgroups left behind");
}

#[test]
fn limits_hold_on_cgroup_v2() {
    let Some(mut vm) = vm() else { return };
    for who in [ROOT, USER] {
        let script = format!(
            "{RUN} --memory 64m --pids-limit 20 --cpus 0.5 {IMAGE} \
             sh -c 'cd /sys/fs/cgroup; cat memory.max memory.swap.max pids.max cpu.max'"
        );
        assert_eq!(vm.ok(who, &script).lines(), ["67108864", "67108864", "20", "50000 100000"]);
        // The first one takes all memory and is killed; a shell survives what it started.
        vm.call(who, &format!("{RUN} --memory 64m {IMAGE} tail /dev/zero")).expect_code(137);
        let script = format!("{RUN} --memory 64m {IMAGE} sh -c 'tail /dev/zero || echo $?'");
        assert_eq!(vm.ok(who, &script).stdout, "137\n");
        let script = format!("{RUN} --pids-limit 5 {IMAGE} sh -c 'for i in 1 2 3 4 5 6; do sleep 1000 & done'");
        vm.call(who, &script).expect_not_zero().says(&["can't fork"]);
        // Without a word about it there is podman's limit of processes.
        assert_eq!(vm.ok(who, &format!("{RUN} {IMAGE} cat /sys/fs/cgroup/pids.max")).stdout, "2048\n");
    }
    let script = format!("{RUN} --cpuset-cpus 1 {IMAGE} cat /sys/fs/cgroup/cpuset.cpus.effective");
    assert_eq!(vm.ok(ROOT, &script).stdout, "1\n");
    assert_no_cgroup_left(&mut vm);
}

#[test]
fn what_is_not_delegated_is_refused_before_anything_starts() {
    let Some(mut vm) = vm() else { return };
    let scope = "start it under `systemd-run --user --scope -p Delegate=yes`, or leave the limit out";
    let service = "write `[Service]` and `Delegate=yes` into `sudo systemctl edit user@.service`, log in anew";
    for (who, limit, controller, hint) in [
        (SESSION, "--memory 64m", "memory", scope),
        (SESSION, "--pids-limit 20", "pids", scope),
        (SESSION, "--cpus 0.5", "cpu", scope),
        (USER, "--memory 64m --cpuset-cpus 0", "cpuset", service),
    ] {
        let report = vm.call(who, &format!("{RUN} {limit} {IMAGE} echo started")).expect_code(125);
        let report = report.says(&[&format!("controller `{controller}` is not delegated to this user"), hint]);
        assert_eq!(report.stdout, "");
    }
    assert_eq!(vm.ok(SESSION, "run ps -aq").stdout, "");
    // No limit is asked for, so nothing has to be delegated.
    assert_eq!(vm.ok(SESSION, &format!("{RUN} {IMAGE} echo started")).stdout, "started\n");
    assert_no_cgroup_left(&mut vm);
}

#[test]
fn a_service_shares_out_the_one_cgroup_it_has() {
    let Some(mut vm) = vm() else { return };
    // Two in one script: nobody can enter the cgroup any more once its processes have moved below.
    let script = format!("{RUN} --memory 64m {IMAGE} cat /sys/fs/cgroup/memory.max");
    let report = vm.ok(SERVICE, &format!("{script}; {script}; cat /proc/self/cgroup"));
    assert_eq!(report.lines(), ["67108864", "67108864", "0::/system.slice/worker.service/layerfs-callers"]);
    assert_no_cgroup_left(&mut vm);
}

#[test]
fn containers_are_born_in_their_cgroup() {
    let Some(mut vm) = vm() else { return };
    let tracing = "cd /sys/kernel/tracing; [ -e trace ] || mount -t tracefs tracefs .; cd .";
    // One event for each process that moves into a cgroup, none for one that is born in it by CLONE_INTO_CGROUP.
    vm.ok(ROOT, &format!("{tracing}; echo 1 >events/cgroup/cgroup_attach_task/enable; echo >trace"));
    for who in [ROOT, USER] {
        vm.ok(who, &format!("{DETACHED} --name born --memory 64m {IMAGE} sleep 1000"));
        let first = format!("0::{}layerfs-", home(who));
        let outside = vm.ok(who, "cat /proc/$(run inspect --format '{{.State.Pid}}' born)/cgroup");
        assert!(outside.stdout.starts_with(&first), "{outside}");
        // Nobody else runs `sleep` there: both are in the container's cgroup, and see it as the top.
        let inside = vm.ok(who, "run exec born cat /proc/self/cgroup; run exec -d born sleep 1001");
        assert_eq!(inside.lines()[0], "0::/");
        let script = format!("cd /sys/fs/cgroup{}layerfs-*; cat memory.max; wc -l <cgroup.procs", home(who));
        assert_eq!(vm.ok(who, &script).lines(), ["67108864", "2"]);
        vm.ok(who, "run rm -f born");
    }
    let moved = vm.ok(ROOT, &format!("{tracing}; echo 0 >events/enable; grep cgroup_attach_task: trace"));
    // The callers of this test are moved by its harness: that is how one sees that the trace works.
    assert!(moved.stdout.contains("terminal.scope"), "{moved}");
    assert!(!moved.stdout.contains("layerfs-"), "{moved}");
    assert_no_cgroup_left(&mut vm);
}

#[test]
fn a_detached_container_lives_and_ends() {
    let Some(mut vm) = vm() else { return };
    for who in [ROOT, USER, SESSION] {
        // Opening a pipe waits for the other end: the handler is there when the script ends.
        let program = "sh -c 'trap \"exit 7\" TERM; echo up >/up; while :; do sleep 1000 & wait; done'";
        let start = format!("{DETACHED} --name life -v $PWD/up:/up {IMAGE} {program}");
        vm.ok(who, &format!("rm -f up; mkfifo up; {start}; cat up"));
        let listed = vm.ok(who, "run ps --format '{{.Names}} {{.Status}}'");
        assert!(listed.stdout.starts_with("life Up "), "{listed}");
        assert_eq!(vm.ok(who, "run stop life").stdout, "life\n");
        let listed = vm.ok(who, "run ps -a --format '{{.Names}} {{.Status}}'");
        assert!(listed.stdout.starts_with("life Exited (7) "), "{listed}");
        vm.ok(who, "run rm life");
        assert_eq!(vm.ok(who, "run ps -aq").stdout, "");
    }
    for who in [ROOT, USER] {
        vm.ok(who, &format!("{DETACHED} --name greedy --memory 64m {IMAGE} tail /dev/zero"));
        assert_eq!(vm.ok(who, "run wait greedy").stdout, "137\n");
        assert_eq!(vm.ok(who, "run inspect --format '{{.State.OOMKilled}}' greedy; run rm greedy").lines()[0], "true");
    }
    assert_no_cgroup_left(&mut vm);
}

#[test]
fn builds_work_with_and_without_delegation() {
    let Some(mut vm) = vm() else { return };
    for who in [ROOT, USER, SESSION] {
        let script = format!(
            "mkdir -p app; printf 'FROM {IMAGE}\\nRUN echo built >/built\\n' >app/Dockerfile; \
             build --no-cache -t localhost/built app; {RUN} localhost/built cat /built"
        );
        assert_eq!(vm.ok(who, &script).result(), "built");
    }
    assert_no_cgroup_left(&mut vm);
}

#[test]
fn devices_are_guarded_by_a_program() {
    let Some(mut vm) = vm() else { return };
    let script = format!(
        "{RUN} --cap-add MKNOD --device /dev/vda:/dev/known:r {IMAGE} sh -c '\
         head -c 1 /dev/known | wc -c; echo >/dev/known || echo not written; \
         mknod /tmp/serial c 4 64; cat /tmp/serial || echo not opened; mknod /tmp/null c 1 3; echo >/tmp/null'"
    );
    assert_eq!(vm.ok(ROOT, &script).lines(), ["1", "not written", "not opened"]);
    assert_no_cgroup_left(&mut vm);
}

/// A bundle at `/tmp/NAME`, whose root is busybox, for the runtime itself.
fn bundle(name: &str, script: &str, resources: &serde_json::Value) -> String {
    let namespaces = ["pid", "mount", "ipc", "uts", "network"].map(|kind| serde_json::json!({"type": kind}));
    let config = serde_json::json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "process": {
            "cwd": "/", "args": ["sh", "-c", script], "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
            "capabilities": {"bounding": ["CAP_MKNOD"], "effective": ["CAP_MKNOD"], "permitted": ["CAP_MKNOD"]},
        },
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": namespaces, "resources": resources},
    });
    format!(
        "R='layerfs-runtime --root /tmp/state' G=/sys/fs/cgroup/{name}; mkdir -p {name}/rootfs/bin {name}/rootfs/proc; \
         cd {name}; cp /bin/busybox rootfs/bin/; for each in sh tail sleep cat dd cut timeout grep mknod head; do \
         ln -sf busybox rootfs/bin/$each; done; cat >config.json <<'END'\n{config}\nEND\n"
    )
}

#[test]
fn the_runtimes_limits_hold_by_measure() {
    let Some(mut vm) = vm() else { return };
    let json = |text: &str| serde_json::from_str(text).expect("JSON");
    let mut run = |name: &str, script: &str, resources: &str, call: &str| {
        vm.ok(ROOT, &format!("{}{call}; rm -rf /root/{name}", bundle(name, script, &json(resources))))
    };

    // A quarter of a processor: the clock of an emulated one is too coarse for less.
    let script =
        "gone() { cut -d' ' -f1 /proc/uptime; }; a=$(gone); timeout 5 sh -c 'while :; do :; done'; echo $a $(gone)";
    let call = "$R create quarter >/root/said 2>&1; used() { grep usage_usec $G/cpu.stat; }; used; $R start quarter; until [ $($R state quarter | grep -c stopped) = 1 ]; do :; done; \
                used; cat /root/said; $R delete quarter";
    let said = run("quarter", script, r#"{"cpu": {"quota": 100000, "period": 400000}}"#, call);
    let numbers: Vec<f64> = said.stdout.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let share = (numbers[1] - numbers[0]) / 1e6 / (numbers[3] - numbers[2]);
    assert!((0.2..=0.3).contains(&share), "{share}\n{said}");

    // A kill for want of memory, and its event.
    let call = "$R create greedy >/dev/null 2>&1; $R events --interval 1s greedy >events & $R start greedy; wait; \
                grep -c '\"type\":\"oom\"' events; $R delete greedy";
    let memory = r#"{"memory": {"limit": 33554432, "swap": 33554432}}"#;
    assert_eq!(run("greedy", "tail /dev/zero", memory, call).stdout, "1\n");

    // Processes, processors and devices.
    let script = "grep Cpus_allowed_list /proc/self/status; mknod /zero c 1 5; mknod /serial c 4 64; head -c 1 /zero | cat -A; \
                  head -c 1 /serial || echo refused; for i in 1 2 3 4 5 6 7 8; do sleep 9 & done";
    let limits = r#"{"cpu": {"cpus": "1"}, "pids": {"limit": 6}, "devices": [{"allow": false, "access": "rwm"}]}"#;
    let said = run("within", script, limits, "$R run within 2>&1 || true");
    for text in ["Cpus_allowed_list:\t1", "refused", "can't fork"] {
        assert!(said.stdout.contains(text), "{text}\n{said}");
    }

    // Writes to the disk.
    let script = "gone() { cut -d' ' -f1 /proc/uptime; }; a=$(gone); \
                  dd if=/dev/zero of=/file bs=1M count=16 oflag=direct 2>/dev/null; echo $a $(gone)";
    let limit = r#"{"blockIO": {"throttleWriteBpsDevice": [{"major": MAJOR, "minor": MINOR, "rate": 4194304}]}}"#;
    let device = vm.ok(ROOT, "cat /sys/block/vda/dev").result().to_owned();
    let (major, minor) = device.split_once(':').expect("two numbers");
    let limit = limit.replace("MAJOR", major).replace("MINOR", minor);
    let text = bundle("slow", script, &json(&limit));
    let said = vm.ok(ROOT, &format!("{text}$R run slow; rm -rf /root/slow"));
    let times: Vec<f64> = said.stdout.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let rate = 16.0 / (times[1] - times[0]);
    assert!((3.2..=4.8).contains(&rate), "{rate} MiB a second\n{said}");
    assert_no_cgroup_left(&mut vm);
}

#[test]
fn the_runtime_pauses_updates_and_names_what_v2_refuses() {
    let Some(mut vm) = vm() else { return };
    let text = bundle("long", "i=0; while :; do i=$((i+1)); echo $i >/count; done", &serde_json::json!({}));
    let call = "$R run --detach long >/dev/null 2>&1; until [ -s rootfs/count ]; do :; done; $R pause long; \
                $R state long | grep -o paused; cat $G/cgroup.freeze; cat rootfs/count >one; $R list >/dev/null; \
                cmp one rootfs/count && echo still; $R resume long; while cmp -s one rootfs/count; do :; done; \
                $R update --memory 50m --memory-swap 60m --pids-limit 9 --cpu-quota 20000 --cpuset-cpus 0 long; \
                cat $G/memory.max $G/memory.swap.max $G/pids.max $G/cpu.max $G/cpuset.cpus; \
                $R update --cpu-period 50000 long; cat $G/cpu.max; \
                $R ps --format json long | grep -c '^\\['; $R delete --force long; cd; rm -rf long";
    let said = vm.ok(ROOT, &format!("{text}{call}"));
    let expected = ["paused", "1", "still", "52428800", "10485760", "9", "20000 100000", "0", "20000 50000", "1"];
    assert_eq!(said.lines(), expected, "{said}");

    // A cgroup that no process may join, and one that has processes of its own.
    let text = bundle("odd", "true", &serde_json::json!({"memory": {"limit": 33_554_432}}));
    let path = |path: &str| format!("sed -i 's#\"linux\":{{#\"linux\":{{\"cgroupsPath\":\"{path}\",#' config.json");
    let call = format!(
        "mkdir /sys/fs/cgroup/top /sys/fs/cgroup/top/mid; echo threaded >/sys/fs/cgroup/top/mid/cgroup.type; {}; \
         $R run odd || true; rmdir /sys/fs/cgroup/top/mid /sys/fs/cgroup/top",
        path("/top/mid/odd")
    );
    let said = vm.ok(ROOT, &format!("{text}{call}"));
    assert!(said.stderr.contains("thread"), "{said}");
    let call = format!(
        "mkdir /sys/fs/cgroup/full; sleep 1000 & echo $! >/sys/fs/cgroup/full/cgroup.procs; {}; $R run odd || true; \
         kill $!; wait || true; rmdir /sys/fs/cgroup/full; cd; rm -rf odd",
        path("/full/odd")
    );
    let said = vm.ok(ROOT, &format!("{text}{call}"));
    assert!(said.stderr.contains("it has processes of its own"), "{said}");
    assert_no_cgroup_left(&mut vm);
}
