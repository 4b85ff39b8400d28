//! What a container sees, how it ends, and the verbs that look after it. Everything holds for root and for an ordinary
//! user alike.

use std::fs;

use rustix::process::Signal;

use crate::harness::Actor;

const IMAGE: &str = "localhost/busybox";

fn everyone() -> impl Iterator<Item = Actor> {
    Actor::everyone().into_iter().map(Actor::with_busybox)
}

#[test]
fn exit_codes_are_podmans() {
    for actor in everyone() {
        actor.run(["--rm", IMAGE, "true"]).ok();
        actor.run(["--rm", IMAGE, "sh", "-c", "exit 42"]).fails(42);
        actor.run(["--rm", IMAGE, "sh", "-c", "sh -c 'kill -KILL $$'; exit $?"]).fails(137);
        actor.run(["--rm", IMAGE, "no-such-command"]).fails(127).says(&["no-such-command", "hint: "]);
        actor.run(["--rm", IMAGE, "/etc"]).fails(126);
        actor.run(["--rm", IMAGE, "/etc/passwd"]).fails(126).says(&["/etc/passwd"]);
        actor.run(["--no-such-flag", IMAGE]).fails(125).says(&["--no-such-flag"]);
        actor.run(["--rm", "-w", "/proc/self/fd/5", IMAGE, "pwd"]).output();
        actor.assert_nothing_left();
    }
}

#[test]
fn a_container_sees_what_it_was_given() {
    for actor in everyone() {
        let volume = actor.mkdir("volume");
        actor.write("volume/from-outside", "outside\n");
        let report = actor
            .run(["--rm", "--name", "seer", "--hostname", "lighthouse", "-e", "COLOUR=blue", "-w", "/tmp", "--tmpfs", "/scratch"])
            .args(["-v", &format!("{}:/mnt", volume.display()), "--network", "none", IMAGE, "sh", "-c"])
            .arg("hostname; echo $COLOUR; pwd; grep -c ' /scratch tmpfs ' /proc/mounts; cat /mnt/from-outside; echo inside > /mnt/from-inside; ls /sys/class/net; id -u; echo $$")
            .ok();
        assert_eq!(report.lines(), ["lighthouse", "blue", "/tmp", "1", "outside", "lo", "0", "1"], "{report}");
        assert_eq!(fs::read_to_string(actor.path("volume/from-inside")).expect("it was written"), "inside\n");
        let report =
            actor.run(["--rm", "-v", &format!("{}:/mnt:ro", volume.display()), IMAGE, "touch", "/mnt/x"]).output();
        assert_ne!(report.code, 0, "{report}");
        let report = actor.run(["--rm", "--read-only", IMAGE, "touch", "/x"]).output();
        assert!(report.code != 0 && report.stderr.contains("Read-only"), "{report}");
        let report = actor.run(["--rm", "--entrypoint", "echo", IMAGE, "from", "the", "entrypoint"]).ok();
        assert_eq!(report.stdout, "from the entrypoint\n");
        actor.assert_nothing_left();
    }
}

#[test]
fn users_are_those_of_the_image() {
    for actor in everyone() {
        let who = |user: &str| {
            actor.run(["--rm", "-u", user, IMAGE, "sh", "-c", "echo $(id -u):$(id -g):$(id -G)"]).ok().stdout
        };
        assert_eq!(who("guest"), "1000:1000:1000 50\n");
        assert_eq!(who("1000"), "1000:1000:1000 50\n");
        assert_eq!(who("1234:5678"), "1234:5678:5678\n");
        assert_eq!(who("guest:staff"), "1000:50:50\n");
        for wrong in ["nobody-of-that-name", "-1", "4294967296", "0x1", " 1"] {
            actor.run(["--rm", &format!("--user={wrong}"), IMAGE, "true"]).fails(125);
        }
    }
}

#[test]
fn the_container_is_confined() {
    for actor in everyone() {
        let report = actor
            .run(["--rm", "--network", "none", IMAGE, "sh", "-c"])
            .arg("grep -E '^(CapEff|CapInh|CapAmb|Seccomp):' /proc/self/status; ls /proc/self/fd | wc -l; ls -A /proc/acpi /proc/scsi 2>/dev/null | grep -v : | tr -d '\\n'; cat /proc/kcore | wc -c; echo x > /proc/sys/kernel/hostname")
            .output();
        let lines = report.lines();
        assert!(lines.contains(&"CapInh:\t0000000000000000"), "{report}");
        assert!(lines.contains(&"CapAmb:\t0000000000000000"), "{report}");
        assert!(lines.contains(&"CapEff:\t00000000800405fb"), "podman's eleven capabilities\n{report}");
        assert!(lines.contains(&"Seccomp:\t2"), "{report}");
        assert!(lines.contains(&"4"), "stdin, stdout, stderr and the listing itself\n{report}");
        assert!(lines.contains(&"0"), "/proc/kcore is masked\n{report}");
        assert!(report.stderr.contains("Read-only"), "/proc/sys is read-only\n{report}");
        // unshare of a user namespace, a mount, a new keyring: each refused.
        let report = actor.run(["--rm", IMAGE, "mount", "-t", "tmpfs", "none", "/mnt"]).output();
        assert_ne!(report.code, 0, "{report}");
    }
}

#[test]
fn input_reaches_the_container() {
    for actor in everyone() {
        let report = actor.run(["-i", "--rm", IMAGE, "sha256sum"]).stdin(vec![b'x'; 1 << 20]).ok();
        assert!(report.stdout.starts_with("8f990ba0b577b51c"), "{report}");
        // Without -i it sees the end at once.
        assert_eq!(actor.run(["--rm", IMAGE, "wc", "-c"]).stdin("lost").ok().stdout.trim(), "0");
        let report = actor.run(["--rm", "--network", "none", IMAGE, "sh", "-c", "echo out; echo err >&2"]).ok();
        assert_eq!((report.stdout.as_str(), report.stderr.as_str()), ("out\n", "err\n"));
    }
}

#[test]
fn a_terminal_is_a_terminal() {
    for actor in everyone() {
        // `script` gives the program a terminal, as an interactive shell would.
        let command = format!("run -it --rm {IMAGE} sh -c 'test -t 0 && test -t 1 && tty && stty size'");
        let report =
            actor.call("script").args(["-qefc", &format!("stty rows 33 cols 99; {command}"), "/dev/null"]).ok();
        assert!(report.stdout.contains("/dev/pts/0") || report.stdout.contains("/dev/console"), "{report}");
        assert!(report.stdout.contains("33 99"), "{report}");
        actor.assert_nothing_left();
    }
}

#[test]
fn signals_are_forwarded() {
    for actor in everyone() {
        let mut running = actor
            .run(["--rm", IMAGE, "sh", "-c", "trap 'echo caught; exit 7' TERM; echo ready; while :; do sleep 1; done"])
            .start();
        running.wait_for_stdout("ready");
        running.signal(Signal::TERM);
        let report = running.wait().expect_code(7);
        assert!(report.stdout.contains("caught"), "{report}");
        actor.assert_nothing_left();
    }
}

#[test]
fn a_detached_container_is_looked_after() {
    for actor in everyone() {
        let id = actor
            .run([
                "-d",
                "--name",
                "worker",
                IMAGE,
                "sh",
                "-c",
                "echo started; trap 'exit 3' TERM; while :; do sleep 1; done",
            ])
            .ok();
        let id = id.result().to_owned();
        assert_eq!(id.len(), 64, "`run -d` prints the whole ID");
        assert!(actor.run(["ps"]).ok().stdout.contains("worker"));
        assert_eq!(actor.run(["ps", "-q", "--no-trunc"]).ok().result(), id);
        assert_eq!(
            actor.run(["exec", "worker", "sh", "-c", "echo in $(hostname); exit 5"]).fails(5).stdout,
            format!("in {}\n", &id[..12])
        );
        actor.run(["exec", "worker", "no-such-command"]).fails(127);
        assert_eq!(actor.run(["logs", "worker"]).ok().stdout, "started\n");
        actor.run(["--name", "worker", IMAGE, "true"]).fails(125).says(&["worker"]);
        actor.run(["rm", "worker"]).output().expect_not_zero();
        actor.run(["stop", "worker"]).ok();
        assert!(!actor.run(["ps"]).ok().stdout.contains("worker"));
        let all = actor.run(["ps", "-a"]).ok().stdout;
        assert!(all.contains("worker") && all.contains("Exited (3)"), "{all}");
        assert_eq!(actor.run(["logs", "worker"]).ok().stdout, "started\n");
        actor.run(["rm", "worker"]).ok();
        assert!(!actor.run(["ps", "-a"]).ok().stdout.contains("worker"));
        actor.run(["rm", "worker"]).fails(1).says(&["worker"]);
        actor.assert_nothing_left();
    }
}

#[test]
fn kill_and_forced_removal_leave_nothing() {
    for actor in everyone() {
        for name in ["one", "two"] {
            actor.run(["-d", "--name", name, IMAGE, "sleep", "1000"]).ok();
        }
        actor.run(["kill", "one"]).ok();
        actor.run(["rm", "-f", "one", "two"]).ok();
        assert_eq!(actor.run(["ps", "-aq"]).ok().stdout, "");
        actor.run(["-d", "--rm", "--name", "gone", IMAGE, "true"]).ok();
        actor.run(["-d", "--name", "again", IMAGE, "true"]).ok();
        actor.run(["rm", "-f", "again"]).ok();
        actor.assert_nothing_left();
    }
}

#[test]
fn a_container_survives_its_monitor() {
    for actor in everyone() {
        let id = actor.run(["-d", "--name", "orphan", IMAGE, "sleep", "1000"]).ok().result().to_owned();
        // Everything of ours dies: whatever runs our programs for this store.
        let ours = actor.shell("for p in /proc/[0-9]*; do exe=$(readlink $p/exe 2>/dev/null) || continue; case $exe in */layerfs-run*) grep -qF \"$LAYERFS_STORE\" $p/environ $p/cmdline 2>/dev/null && echo ${p#/proc/}; esac; done | xargs -r kill -9; echo killed");
        ours.ok();
        let listed = actor.run(["ps", "--no-trunc"]).ok().stdout;
        assert!(listed.contains(&id) && listed.contains("Up"), "{listed}");
        assert_eq!(actor.run(["exec", "orphan", "echo", "alive"]).ok().stdout, "alive\n");
        actor.run(["rm", "-f", "orphan"]).ok();
        actor.assert_nothing_left();
    }
}

#[test]
fn limits_hold_or_are_refused_before_anything_starts() {
    for actor in everyone() {
        let report = actor
            .run([
                "--rm",
                "--memory",
                "64m",
                IMAGE,
                "sh",
                "-c",
                "echo started; dd if=/dev/zero of=/dev/shm/x bs=1M count=200 2>&1; tail /dev/zero",
            ])
            .output();
        match report.code {
            125 => {
                assert!(!actor.is_root(), "root has a memory controller here\n{report}");
                assert!(!report.stdout.contains("started"), "{report}");
                report.says(&["memory", "hint: "]);
            }
            137 => {}
            _ => panic!("neither limited nor refused\n{report}"),
        }
        let report = actor
            .run(["--rm", "--pids-limit", "20", IMAGE, "sh", "-c", "for i in $(seq 1 50); do sleep 5 & done; echo all"])
            .output();
        if report.code == 125 {
            assert!(!actor.is_root(), "{report}");
            report.says(&["pids", "hint: "]);
        } else {
            assert!(!report.stdout.contains("all"), "{report}");
        }
        actor.assert_nothing_left();
    }
}

#[test]
fn a_first_word_that_is_a_verb_is_the_verb() {
    let Some(actor) = Actor::ordinary() else { return };
    let actor = actor.with_busybox();
    actor.copy(["tag", IMAGE, "localhost/ps"]).ok();
    assert_eq!(actor.run(["run", "--rm", "localhost/ps", "echo", "image"]).ok().stdout, "image\n");
    assert_eq!(actor.run(["--rm", "--", "localhost/ps", "echo", "image"]).ok().stdout, "image\n");
}
