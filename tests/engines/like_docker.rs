//! What podman and docker have in common: the same words and the same answers.

use super::{cgroups, until, words};
use crate::harness::Call;

/// Writes a number every tenth of a second, and says so when it gets a signal.
const COUNTER: &str =
    "{trap 'echo asked; exit 5' TERM; trap 'echo poked' USR1; i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done}";
/// A limit of memory as either version of cgroups says it.
const MEMORY: &str = "{cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max}";

/// Drives an engine through a container's whole life. `call` runs it with these words.
pub(super) fn drive(call: &dyn Fn(Vec<String>) -> Call, image: &str) {
    let run = |line: &str| call(words(&line.replace("IMAGE", &format!("--network none {image}"))));

    // What a program says, and how it ends or does not begin.
    assert_eq!(run("run --rm IMAGE echo hi").ok().stdout, "hi\n");
    assert_eq!(run("run --rm -i IMAGE cat").stdin("through").ok().stdout, "through");
    run("run --rm IMAGE sh -c {exit 7}").fails(7);
    run("run --rm IMAGE nothing").fails(127).says(&["executable file not found in $PATH"]);
    run("run --rm IMAGE /etc").fails(126).says(&["permission denied"]);
    assert!(run("run --rm -t IMAGE tty").ok().stdout.starts_with("/dev/pts/"));

    // More programs in it.
    run(&format!("run -d --name life IMAGE sh -c {COUNTER}")).ok();
    assert!(run("exec life id").ok().stdout.starts_with("uid=0(root) gid=0(root)"));
    run("exec life sh -c {exit 9}").fails(9);
    run("exec life nothing").fails(127);
    assert!(run("exec -t life tty").ok().stdout.starts_with("/dev/pts/"));
    let said = run("exec -w /tmp -u 5:6 -e A=b life sh -c {pwd; id -u; id -g; echo $A}").ok();
    assert_eq!(said.lines(), ["/tmp", "5", "6", "b"]);

    // Signals arrive, a paused one stands still, limits change.
    run("kill -s USR1 life").ok();
    until("the signal", || run("logs life").output(), |report| report.stdout.contains("poked"));
    run("pause life").ok();
    assert_eq!(run("inspect -f {{{.State.Status}}} life").ok().result(), "paused");
    let before = run("logs life").ok().stdout;
    assert_eq!(run("logs life").ok().stdout, before);
    run("unpause life").ok();
    until("the next number", || run("logs life").output(), |report| report.stdout.len() > before.len());
    run("update --memory 64m --memory-swap 64m life").ok();
    assert_eq!(run(&format!("exec life sh -c {MEMORY}")).ok().result(), "67108864");
    // Engines that ask containerd get none while any hierarchy of the machine comes or goes, as in another test.
    let stats = || run("stats --no-stream --format {{{.PIDs}} {{.MemUsage}}} life").output();
    until("the limit in stats", stats, |report| report.stdout.contains("67.1") || report.stdout.contains("64MiB"));

    // It ends when asked to.
    run("stop life").ok();
    assert_eq!(run("inspect -f {{{.State.Status}} {{.State.ExitCode}}} life").ok().result(), "exited 5");
    assert!(run("logs life").ok().stdout.ends_with("asked\n"));
    run("rm life").ok();

    // Limits hold, and a kill for want of memory is told.
    run("run --name greedy --memory 16m --memory-swap 16m IMAGE tail /dev/zero").fails(137);
    assert_eq!(run("inspect -f {{{.State.OOMKilled}}} greedy").ok().result(), "true");
    run("rm greedy").ok();
    let forks = "run --rm --pids-limit 5 IMAGE sh -c {for i in 1 2 3 4 5 6 7; do sleep 9 & done}";
    run(forks).output().expect_not_zero().says(&["can't fork"]);

    // The many ways to shut one in.
    let said = run("run --rm --read-only --tmpfs /x --cap-drop ALL --security-opt no-new-privileges --ulimit nofile=100 \
         --shm-size 10m --device /dev/full --group-add 7 --hostname inside --init IMAGE sh -c \
         {hostname; ulimit -n; grep -E 'CapEff|NoNewPrivs' /proc/self/status; touch /x/y && ! touch /y 2>/dev/null; echo $?}")
    .ok();
    assert_eq!(said.lines(), ["inside", "100", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "0"]);

    // Processes of a container without a pid namespace of its own die with it.
    run("run -d --name shared --pid host IMAGE sh -c {sleep 98765 & sleep 98764}").ok();
    run("rm -f shared").ok();
    // Another engine may be at the same test.
    let asleep = || Call::shell("pgrep -f 'sleep 9876[45]' || true").output();
    until("the end of a removed container's processes", asleep, |report| report.stdout.is_empty());

    // One that runs is removed by force, and nothing of any is left.
    run("run -d --name forced IMAGE sleep 1000").ok();
    let id = run("inspect -f {{{.Id}}} forced").ok().result().to_owned();
    assert!(!cgroups(&id).is_empty());
    run("rm -f forced").ok();
    assert_eq!(run("ps -aq").ok().stdout, "");
    assert_eq!(cgroups(&id), Vec::<std::path::PathBuf>::new());
}
