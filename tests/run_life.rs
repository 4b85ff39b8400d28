//! Verbs about the life of containers that few need daily and all expect: `pause`, `rename`, `port`, `top`, `stats`,
//! `wait --condition`, `--restart`, unnamed volumes.

use std::fs;

use rustix::process::Signal;

use crate::harness::Actor;

const IMAGE: &str = "localhost/busybox";

fn everyone() -> impl Iterator<Item = Actor> {
    Actor::everyone().into_iter().map(Actor::with_busybox)
}

fn start(actor: &Actor, name: &str, more: &[&str]) {
    actor.run(["-d", "--name", name, "--network", "none"]).args(more).args([IMAGE, "sleep", "1000"]).ok();
}

#[test]
fn a_paused_container_waits() {
    let Some(actor) = Actor::root().map(Actor::with_busybox) else { return };
    start(&actor, "c", &[]);
    assert_eq!(actor.run(["pause", "c"]).ok().stdout, "c\n");
    actor.run(["pause", "c"]).fails(125).says(&["paused already"]);
    assert_eq!(actor.run(["ps", "--format", "{{.State}} {{.Status}}"]).ok().stdout, "paused Paused\n");
    assert_eq!(actor.run(["ps", "-q", "--filter", "status=paused"]).ok().lines().len(), 1);
    assert_eq!(actor.run(["wait", "--condition", "paused", "c"]).ok().stdout, "-1\n");
    assert_eq!(actor.run(["unpause", "-a"]).ok().lines().len(), 1);
    actor.run(["unpause", "c"]).fails(125).says(&["not paused"]);
    // One that is paused can be stopped, killed and removed all the same.
    for words in [&["stop", "-t", "0"][..], &["kill"], &["rm", "-f"]] {
        actor.run(["start", "c"]).ok();
        actor.run(["pause", "c"]).ok();
        actor.run(words).arg("c").ok();
    }
    actor.run(["pause", "c"]).fails(125).says(&["no container `c`"]);
    actor.assert_nothing_left();
}

#[test]
fn an_ordinary_user_s_container_without_a_cgroup_cannot_be_paused() {
    let Some(actor) = Actor::ordinary().map(Actor::with_busybox) else { return };
    start(&actor, "c", &[]);
    let paths = actor.run(["inspect", "-f", "{{json .CgroupPaths}}", "c"]).ok();
    if paths.result() == "[]" {
        actor.run(["pause", "c"]).fails(125).says(&["cannot be paused", "hint: "]);
        actor.run(["stats", "--no-stream", "c"]).fails(125).says(&["no cgroup", "hint: "]);
    }
    actor.run(["rm", "-f", "c"]).ok();
    actor.assert_nothing_left();
}

#[test]
fn containers_are_renamed() {
    for actor in everyone() {
        start(&actor, "one", &[]);
        start(&actor, "two", &[]);
        actor.run(["rename", "one", "two"]).fails(125).says(&["name `two` is in use"]);
        actor.run(["rename", "one", "-x"]).fails(125);
        actor.run(["rename", "one", "../x"]).fails(125).says(&["is not a name"]);
        actor.run(["rename", "nobody", "x"]).fails(125).says(&["no container `nobody`"]);
        actor.run(["rename", "one", "three"]).ok();
        actor.run(["exec", "one", "true"]).fails(125).says(&["no container `one`"]);
        actor.run(["exec", "three", "true"]).ok();
        actor.run(["stop", "-t", "0", "three"]).ok();
        actor.run(["rename", "three", "one"]).ok();
        actor.run(["start", "one"]).ok();
        assert_eq!(actor.run(["inspect", "-f", "{{.Name}}", "one"]).ok().stdout, "one\n");
        actor.run(["rm", "-f", "one", "two"]).ok();
        actor.assert_nothing_left();
    }
}

#[test]
fn ports_are_shown() {
    // Others may have no /dev/net/tun, and are told so when they publish one.
    if let Some(actor) = Actor::root().map(Actor::with_busybox) {
        let ports = ["-p", "127.0.0.1:18080:80", "-p", "15300-15301:53-54/udp"];
        actor.run(["create", "--name", "c"]).args(ports).args([IMAGE, "true"]).ok();
        let all = actor.run(["port", "c"]).ok();
        assert_eq!(all.lines(), ["80/tcp -> 127.0.0.1:18080", "53/udp -> 0.0.0.0:15300", "54/udp -> 0.0.0.0:15301"]);
        assert_eq!(actor.run(["port", "c", "80"]).ok().stdout, "127.0.0.1:18080\n");
        assert_eq!(actor.run(["port", "c", "54/udp"]).ok().stdout, "0.0.0.0:15301\n");
        actor.run(["port", "c", "81"]).fails(125).says(&["publishes no port 81/tcp"]);
        assert_eq!(actor.run(["port", "-a"]).ok().stdout, "");
        actor.run(["rm", "c"]).ok();
    }
}

#[test]
fn processes_are_shown_with_the_container_s_eyes() {
    for actor in everyone() {
        start(&actor, "c", &["-u", "guest"]);
        let shown = actor.run(["top", "c"]).ok();
        let rows: Vec<Vec<&str>> = shown.lines().iter().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["USER", "PID", "PPID", "%CPU", "ELAPSED", "TTY", "TIME", "COMMAND"]);
        assert_eq!(
            (rows.len(), rows[1][0], &rows[1][1..3], &rows[1][7..]),
            (2, "guest", &["1", "0"][..], &["sleep", "1000"][..])
        );
        let pid = actor.run(["inspect", "-f", "{{.State.Pid}}", "c"]).ok();
        assert_eq!(actor.run(["top", "c", "hpid"]).ok().lines(), ["HPID", pid.result()]);
        assert_eq!(actor.run(["top", "c", "pid,comm", "user"]).ok().lines().len(), 2);
        actor.run(["top", "c", "aux"]).fails(125).says(&["`aux`", "known are user pid"]);
        actor.run(["kill", "c"]).ok();
        actor.run(["top", "c"]).fails(125).says(&["not running"]);
        actor.run(["rm", "c"]).ok();
        actor.assert_nothing_left();
    }
}

#[test]
fn what_containers_use_is_counted() {
    let Some(actor) = Actor::root().map(Actor::with_busybox) else { return };
    start(&actor, "plain", &[]);
    start(&actor, "limited", &["-m", "100m", "--cpus", "1"]);
    let shown = actor.run(["stats", "--no-stream"]).ok();
    assert!(shown.lines()[0].contains("CPU %") && shown.lines().len() == 3, "{shown}");
    let all = actor.run(["stats", "--no-stream", "--format", "json", "limited"]).ok().json();
    assert_eq!(all[0]["name"], "limited");
    assert!(all[0]["mem_usage"].as_str().is_some_and(|text| text.ends_with(" / 104.9MB")), "{all}");
    let said = actor.run(["stats", "--no-stream", "--format", "{{.Name}} {{.PIDS}} {{.MemUsage}}", "plain"]).ok();
    assert!(said.stdout.starts_with("plain 1 ") && !said.stdout.contains(" 0B"), "{said}");
    actor.run(["stats", "--no-stream", "nobody"]).fails(125).says(&["no container `nobody`"]);
    actor.run(["rm", "-f", "plain", "limited"]).ok();
    assert_eq!(actor.run(["stats", "--no-stream"]).ok().lines().len(), 1);
    actor.assert_nothing_left();
}

#[test]
fn conditions_are_waited_for() {
    for actor in everyone() {
        actor.run(["create", "--name", "c", "--network", "none", IMAGE, "sh", "-c", "exit 5"]).ok();
        assert_eq!(actor.run(["wait", "--condition", "created", "c"]).ok().stdout, "-1\n");
        actor.run(["wait", "--condition", "happy", "c"]).fails(125).says(&["not a condition"]);
        let waiting = actor.run(["wait", "--condition", "exited", "-i", "10ms", "c"]).start();
        actor.run(["start", "c"]).ok();
        assert_eq!(waiting.wait().expect_code(0).stdout, "5\n");
        actor.run(["rm", "c"]).ok();
    }
}

/// Waits until so many lines were written.
fn counts(actor: &Actor, lines: usize) {
    let mut tail = actor.call("tail").args(["-n", "+1", "-f", "volume/count"]).start();
    tail.wait_for_stdout(&"x\n".repeat(lines));
    tail.signal(Signal::KILL);
    tail.wait();
}

#[test]
fn a_container_is_started_again_as_its_policy_has_it() {
    for actor in everyone() {
        let volume = actor.mkdir("volume");
        actor.write("volume/count", "");
        let mount = format!("{}:/v", volume.display());
        let run = |policy: &str, script: &str| {
            let words = [
                "-d",
                "--name",
                "c",
                "--network",
                "none",
                "--restart",
                policy,
                "-v",
                &mount,
                IMAGE,
                "sh",
                "-c",
                script,
            ];
            actor.run(words).ok()
        };
        // Three starts after the first, and then its end is the end.
        run("on-failure:3", "echo x >>/v/count; exit 7");
        counts(&actor, 4);
        assert_eq!(actor.run(["wait", "c"]).ok().stdout, "7\n");
        let shown = ["inspect", "-f", "{{.RestartCount}} {{.State.Status}} {{.HostConfig.RestartPolicy.Name}}", "c"];
        assert_eq!(actor.run(shown).ok().stdout, "3 exited on-failure\n");
        actor.run(["rm", "-f", "c"]).ok();
        // A stop ends it for good; a start begins anew.
        actor.write("volume/count", "");
        run("always", "echo x >>/v/count; exec sleep 0.1");
        counts(&actor, 3);
        actor.run(["stop", "-t", "0", "c"]).ok();
        assert_eq!(actor.run(shown).ok().lines()[0].split(' ').nth(1), Some("exited"));
        let before = fs::read_to_string(actor.path("volume/count")).expect("it was written").lines().count();
        actor.run(["start", "c"]).ok();
        counts(&actor, before + 2);
        actor.run(["rm", "-f", "c"]).ok();
        actor.run(["--rm", "--restart", "always", IMAGE, "true"]).fails(125).says(&["--rm and --restart"]);
        actor.run(["--restart", "sometimes", IMAGE, "true"]).fails(125).says(&["restart policies"]);
        actor.assert_nothing_left();
    }
}

#[test]
fn volumes_without_a_name_go_with_their_container() {
    for actor in everyone() {
        let names = || actor.run(["volume", "ls", "-q"]).ok().lines().iter().filter(|name| name.len() == 64).count();
        actor.write("image/Dockerfile", format!("FROM {IMAGE}\nRUN mkdir /data && echo 1 >/data/one\nVOLUME /data\n"));
        actor.build(["-t", "localhost/volumes", "image"]).ok();
        let quiet = ["--rm", "--network", "none"];
        // The image's, with what it has there, and one from the command line; --rm removes both.
        let said = actor.run(quiet).args(["-v", "/mine", "localhost/volumes", "sh", "-c"]);
        let said = said.arg("cat /data/one; grep -c -e ' /data ' -e ' /mine ' /proc/self/mountinfo").ok();
        assert_eq!(said.stdout, "1\n2\n");
        assert_eq!(names(), 0);
        // What something else is put upon is not made.
        actor.run(["create", "--name", "other", "-v", "named:/data", "localhost/volumes", "true"]).ok();
        assert_eq!(names(), 0);
        actor.run(["rm", "other"]).ok();
        // They are kept from start to start, taken over by others, and removed with -v alone.
        actor.run(["--name", "c", "--network", "none", "localhost/volumes", "sh", "-c", "echo 2 >>/data/one"]).ok();
        actor.run(["start", "-a", "c"]).ok();
        assert_eq!(names(), 1);
        let from = |words: &str| {
            actor.run(quiet).args(["--volumes-from", words, IMAGE, "sh", "-c", "cat /data/one; touch /data/x"])
        };
        assert_eq!(from("c").ok().stdout, "1\n2\n2\n");
        from("c:ro").fails(1).says(&["Read-only"]);
        from("c:nice").fails(125).says(&["none of ro, rw and z"]);
        from("nobody").fails(125).says(&["no container `nobody`"]);
        actor.run(["rm", "c"]).ok();
        assert_eq!(names(), 1);
        actor.run(["volume", "prune", "-f"]).ok();
        actor.run(["create", "--name", "c", "localhost/volumes", "true"]).ok();
        actor.run(["start", "c"]).ok();
        actor.run(["wait", "c"]).ok();
        actor.run(["rm", "-v", "c"]).ok();
        assert_eq!(names(), 0);
        actor.assert_nothing_left();
    }
}

#[test]
fn the_caller_s_variables_are_passed_on_request() {
    for actor in everyone() {
        let run = |flag: &[&str]| {
            let call = actor.run(["--rm", "--network", "none"]).args(flag).args([IMAGE, "sh", "-c", "echo $COLOUR"]);
            call.env("COLOUR", "green").ok().stdout
        };
        assert_eq!(
            [run(&[]), run(&["--env-host"]), run(&["--env-host", "-e", "COLOUR=red"])],
            ["\n", "green\n", "red\n"]
        );
    }
}
