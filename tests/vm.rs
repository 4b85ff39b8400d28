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
