//! The files of containers from outside: `cp`, `export`, `diff`, `commit`. Everything holds for root and for an ordinary
//! user, with and without ids of the container's own, and while it runs and when it does not.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use crate::harness::Actor;

const IMAGE: &str = "localhost/busybox";

fn everyone() -> impl Iterator<Item = Actor> {
    Actor::everyone().into_iter().map(Actor::with_busybox)
}

/// A container that waits, after `script`.
fn start(actor: &Actor, name: &str, more: &[&str], script: &str) {
    let script = format!("{script}; echo ready; exec sleep 1000");
    let id = actor.run(["-d", "--name", name, "--network", "none"]).args(more).args([IMAGE, "sh", "-c", &script]).ok();
    let mut said = actor.run(["logs", "-f", id.result()]).start();
    said.wait_for_stdout("ready");
}

#[test]
fn files_are_copied_both_ways() {
    for actor in everyone() {
        actor.write("in/a/one", "1\n");
        actor.write("in/two", "2\n");
        let text = |path: &str| fs::read_to_string(actor.path(path)).expect("it was copied");
        let ids: &[&[&str]] =
            if actor.is_root() { &[&[]] } else { &[&[], &["--userns", "keep-id"], &["--userns", "auto:size=2000"]] };
        for more in ids {
            start(
                &actor,
                "c",
                more,
                "mkdir -p /tmp/d/e; echo x >/tmp/d/f; ln -s ../../etc /tmp/d/link; chmod 751 /tmp/d/e",
            );
            for _ in ["running", "stopped"] {
                // Into a folder by its own name, else as what is named; content alone by `/.`.
                actor.run(["cp", "c:/tmp/d", "out"]).ok();
                actor.run(["cp", "c:/tmp/d", "out"]).ok();
                actor.run(["cp", "c:/tmp/d/.", "content"]).ok();
                actor.run(["cp", "c:tmp/d/f", "file"]).ok();
                assert_eq!([text("out/f"), text("out/d/f"), text("content/f"), text("file")], ["x\n"; 4]);
                assert_eq!(fs::read_link(actor.path("out/link")).expect("a link").to_str(), Some("../../etc"));
                let folder = fs::metadata(actor.path("out/e")).expect("a folder");
                assert_eq!((folder.mode() & 0o7777, folder.uid()), (0o751, actor.uid()));
                actor.run(["cp", "in", "c:/tmp/in"]).ok();
                actor.run(["cp", "in/.", "c:/tmp/d"]).ok();
                actor.run(["cp", "in/two", "c:/tmp/d/three"]).ok();
                actor.run(["cp", "c:/tmp/d/three", "c:/tmp/four"]).ok();
                actor.run(["cp", "c:/tmp/in/a/one", "c:/tmp/d/a/"]).ok();
                for (path, content) in
                    [("in/a/one", "1\n"), ("d/a/one", "1\n"), ("d/three", "2\n"), ("four", "2\n"), ("d/f", "x\n")]
                {
                    actor.run(["cp", &format!("c:/tmp/{path}"), "back"]).ok();
                    assert_eq!(text("back"), content, "{path}");
                }
                for path in ["out", "content"] {
                    fs::remove_dir_all(actor.path(path)).expect("they are the caller's own");
                }
                actor.run(["stop", "-t", "0", "c"]).ok();
            }
            actor.run(["start", "c"]).ok();
            let seen = actor.run(["exec", "c", "sh", "-c", "cat /tmp/four; stat -c %u:%g /tmp/four; id -u"]).ok();
            let seen = seen.lines().join(" ");
            let own = actor.uid();
            let user = if more.contains(&"keep-id") { format!("2 {own}:{own} {own}") } else { "2 0:0 0".to_owned() };
            assert!(seen.starts_with(user.split(':').next().unwrap_or_default()), "{seen}, not {user}");
            actor.run(["rm", "-f", "c"]).ok();
        }
        actor.assert_nothing_left();
    }
}

#[test]
fn archives_are_copied() {
    for actor in everyone() {
        start(&actor, "c", &["-v", "data:/data"], "mkdir /tmp/d; echo x >/tmp/d/f; chown 5:6 /tmp/d/f");
        let list = actor.shell("run cp c:/tmp/d - | tar -t --numeric-owner -v | sed 's/ .*[0-9] / /;s/ 20.* / /'").ok();
        assert_eq!(list.lines().len(), 2, "{list}");
        let list = actor.shell("run cp c:/tmp/d/f - | tar -tv --numeric-owner").ok();
        assert!(list.stdout.contains("5/6") && list.stdout.trim_end().ends_with(" f"), "{list}");
        actor.write("in/one", "1\n");
        actor.shell("tar -C in -c . | run cp - c:/data").ok();
        actor.shell("tar -C in -cz one | run cp - c:/tmp").ok();
        assert_eq!(actor.run(["exec", "c", "cat", "/data/one", "/tmp/one"]).ok().stdout, "1\n1\n");
        actor.shell("tar -C in -c . | run cp - c:/nowhere").fails(125).says(&["nowhere", "no such folder"]);
        // A volume is where it is while nothing runs, too.
        actor.run(["stop", "-t", "0", "c"]).ok();
        actor.run(["cp", "in/one", "c:/data/two"]).ok();
        actor.run(["cp", "c:/data/one", "back"]).ok();
        actor.run(["--rm", "-v", "data:/d", "--network", "none", IMAGE, "cat", "/d/two"]).ok();
        actor.run(["rm", "c"]).ok();
        actor.run(["volume", "rm", "data"]).ok();
        actor.assert_nothing_left();
    }
}

#[test]
fn what_cannot_be_copied_is_said() {
    for actor in everyone() {
        actor.write("in/one", "1\n");
        start(&actor, "c", &[], "mkdir /tmp/d /tmp/d/one; echo x >/tmp/f; mkfifo /tmp/pipe");
        actor.run(["cp", "c:/none", "x"]).fails(125).says(&["`/none` is not in c"]);
        actor.run(["cp", "none", "c:/x"]).fails(125).says(&["`none` is not in the host"]);
        actor.run(["cp", "in/one", "c:/none/x"]).fails(125).says(&["no such"]);
        actor.run(["cp", "in/one", "c:/none/"]).fails(125).says(&["no such folder"]);
        actor.run(["cp", "in", "c:/tmp/f"]).fails(125).says(&["is a file"]);
        actor.run(["cp", "in/one", "c:/tmp/d"]).fails(125).says(&["is a folder", "--overwrite"]);
        actor.run(["cp", "--overwrite", "in/one", "c:/tmp/d"]).ok();
        actor.run(["cp", "c:/tmp/pipe", "x"]).fails(125).says(&["no file and no folder"]);
        actor.run(["cp", "in/one", "x"]).fails(125).says(&["one of the two must be in a container"]);
        actor.run(["cp", "nobody:/x", "x"]).fails(125).says(&["no container `nobody`"]);
        actor.run(["rm", "-f", "c"]).ok();
        actor.assert_nothing_left();
    }
}

/// CVE-2018-15664, CVE-2019-10152: symlinks of the container's lead nowhere but into it.
#[test]
fn nothing_is_copied_through_a_symlink_out_of_a_container() {
    for actor in everyone() {
        actor.write("canary", "outside\n");
        actor.write("in/file", "inside\n");
        let host = actor.dir().display().to_string();
        let script = format!(
            "mkdir -p /tmp/out; ln -s {host} /tmp/out/abs; ln -s / /tmp/root; ln -s ../../../../../.. /tmp/up; ln -s {host}/canary /tmp/file"
        );
        start(&actor, "c", &[], &script);
        for path in ["/tmp/file", "/tmp/out/abs/canary"] {
            actor.run(["cp", &format!("c:{path}"), "x"]).fails(125).says(&["is not in c"]);
        }
        actor.run(["cp", "in/file", "c:/tmp/up/escaped"]).ok();
        assert_eq!(actor.run(["exec", "c", "cat", "/escaped"]).ok().stdout, "inside\n");
        actor.run(["cp", "in/file", "c:/tmp/out/abs/canary"]).fails(125);
        // A link that is copied out is copied as a link, and nothing is written through one that lies there.
        actor.run(["cp", "c:/tmp/out", "copied"]).ok();
        fs::remove_file(actor.path("copied/abs")).expect("a link");
        fs::create_dir(actor.path("elsewhere")).expect("a folder");
        symlink(actor.path("elsewhere"), actor.path("copied/deep")).expect("a link");
        actor.run(["exec", "c", "sh", "-c", "rm /tmp/out/abs; mkdir /tmp/out/deep; echo x >/tmp/out/deep/f"]).ok();
        actor.run(["cp", "c:/tmp/out/.", "copied"]).fails(125);
        assert_eq!(fs::read_dir(actor.path("elsewhere")).expect("a folder").count(), 0);
        assert_eq!(fs::read_to_string(actor.path("canary")).expect("it is there"), "outside\n");
        // What was set-user-id for somebody in there is not for the caller.
        actor.run(["exec", "c", "sh", "-c", "cp /bin/busybox /tmp/s; chown 5 /tmp/s; chmod 4755 /tmp/s"]).ok();
        actor.run(["cp", "c:/tmp/s", "s"]).ok();
        assert_eq!(fs::metadata(actor.path("s")).expect("it was copied").mode() & 0o7777, 0o755);
        actor.run(["rm", "-f", "c"]).ok();
        actor.assert_nothing_left();
    }
}

#[test]
fn changes_are_told_exported_and_made_an_image() {
    for actor in everyone() {
        let ids: &[&[&str]] = if actor.is_root() { &[&[]] } else { &[&[], &["--userns", "keep-id"]] };
        for more in ids {
            let script =
                "echo x >/tmp/new; rm /etc/group; echo '# more' >>/etc/passwd; mkdir -p /opt/a; chown 0:5 /opt/a";
            let mut flags =
                vec!["-u", "0", "-e", "COLOUR=blue", "-w", "/tmp", "-v", "gone:/srv/volume", "--label", "a=1"];
            flags.extend(*more);
            start(&actor, "c", &flags, script);
            for _ in ["running", "stopped"] {
                let told = actor.run(["diff", "c"]).ok();
                let told = told.lines();
                for line in ["A /tmp/new", "D /etc/group", "C /etc/passwd", "C /etc", "C /tmp", "A /opt/a"] {
                    assert!(told.contains(&line), "{line} of {told:?}");
                }
                assert!(!told.iter().any(|line| line.ends_with("/etc/hosts") || line.contains("proc")), "{told:?}");
                let shown = actor.run(["diff", "--format", "json", "c"]).ok().json();
                assert!(shown["deleted"].as_array().is_some_and(|all| all.contains(&"/etc/group".into())), "{shown}");
                let list = actor.shell("run export c | tar -tv --numeric-owner").ok();
                let line = |end: &str| list.lines().into_iter().find(|line| line.ends_with(end)).map(str::to_owned);
                assert!(line(" opt/a/").is_some_and(|line| line.contains(" 0/5 ")), "{list}");
                assert!(line(" tmp/new").is_some() && line(" etc/group").is_none(), "{list}");
                assert!(line(" proc/self").is_none() && line(" proc/version").is_none(), "{list}");
                let id = actor
                    .run([
                        "commit",
                        "-q",
                        "-a",
                        "me",
                        "-m",
                        "why",
                        "-c",
                        "CMD [\"cat\", \"new\"]",
                        "-c",
                        "ENV SIZE=3",
                        "c",
                        "made",
                    ])
                    .ok();
                assert_eq!(id.result().len(), 64);
                let said = actor.run(["--rm", "--network", "none", "localhost/made"]).ok();
                assert_eq!(said.stdout, "x\n");
                let said = actor.run(["--rm", "--network", "none", "localhost/made", "sh", "-c"]);
                let said = said.arg("echo $COLOUR $SIZE; ls /etc/group; ls /srv/volume; stat -c %u:%g /opt/a").output();
                assert_eq!(said.lines()[0], "blue 3", "{said}");
                assert!(said.stderr.contains("/etc/group") && said.stdout.contains("0:5"), "{said}");
                actor.run(["stop", "-t", "0", "c"]).ok();
            }
            actor.run(["commit", "-c", "RUN true", "c", "made"]).fails(125).says(&["RUN true"]);
            actor.run(["rm", "c"]).ok();
        }
        actor.run(["volume", "rm", "-a"]).ok();
        actor.assert_nothing_left();
    }
}
