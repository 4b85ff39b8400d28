//! What a cached step depends on: every edit that changes the image is seen, whatever it does to hide, and what does not
//! change the image costs nothing. And `--explain`, which names what changed.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::harness::{Actor, Report};

const DOCKERFILE: &str = "FROM localhost/busybox\n\
                          COPY tree /tree\n\
                          RUN --network=none cd /tree && find . | sort | xargs stat -c '%n %F %a' >/seen && find . -type f | sort | xargs cat >>/seen\n";

/// A context with a store.
struct Bench(Actor);

impl Bench {
    fn new() -> Option<Self> {
        let actor = Actor::ordinary()?.with_busybox();
        actor.write("ctx/Dockerfile", DOCKERFILE);
        actor.write("ctx/tree/a", "one\n");
        actor.write("ctx/tree/b", "two\n");
        actor.mkdir("ctx/tree/d");
        let bench = Self(actor);
        bench.shell("chmod 644 tree/a tree/b; touch -d @1600000000 tree/a tree/b");
        bench.build(&[]);
        Some(bench)
    }

    fn build(&self, flags: &[&str]) -> Report {
        let fixed = ["--progress=plain", "-t", "localhost/keys"];
        self.0.build([&fixed[..], flags, &["ctx"]].concat()).ok()
    }

    /// Changes the context.
    fn shell(&self, script: &str) {
        self.0.shell(&format!("cd ctx; {script}")).ok();
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path(&format!("ctx/{name}"))
    }

    /// After a change: the copy is found, or it is not, and then a build without any cache makes the same files.
    #[track_caller]
    fn check(&self, what: &str, found: bool) {
        let report = self.build(&[]);
        let lines: Vec<&str> = report.stderr.lines().collect();
        let copy = lines.iter().find(|line| line.contains("] COPY ")).and_then(|line| line.split(' ').next());
        let cached = format!("{} CACHED", copy.expect("there is a COPY"));
        assert_eq!(lines.contains(&cached.as_str()), found, "{what}\n{report}");
        let list = "find /tree /seen | sort | xargs stat -c '%n %F %a %h %s'; find /tree /seen -type f | sort | xargs cat; find /tree -type l | sort | xargs -r readlink";
        let seen = || self.0.run(["--rm", "--network=none", "localhost/keys", "sh", "-c", list]).ok().stdout;
        let cached = seen();
        self.build(&["--no-cache"]);
        assert_eq!(cached, seen(), "{what}: the cache gave something else than a build without it");
    }
}

/// Gives a file the time it had.
fn date(path: &Path, like: &fs::Metadata) {
    let file = fs::File::options().write(true).open(path).expect("the file is ours");
    file.set_modified(like.modified().expect("files have times")).expect("the file is ours");
}

#[test]
fn every_edit_is_seen_and_nothing_else_is() {
    let Some(bench) = Bench::new() else { return };
    bench.check("nothing changed", true);

    let before = fs::metadata(bench.path("tree/a")).expect("it is there");
    fs::write(bench.path("tree/a"), "ONE\n").expect("ours");
    date(&bench.path("tree/a"), &before);
    let after = fs::metadata(bench.path("tree/a")).expect("it is there");
    assert_eq!((before.size(), before.mtime(), before.ino()), (after.size(), after.mtime(), after.ino()));
    bench.check("the same size, time and inode", false);

    bench.shell("printf 'One\\n' >new; touch -r tree/a new; mv new tree/a");
    bench.check("another file of the same size and time under the same name", false);

    bench.shell("mv tree/a t; mv tree/b tree/a; mv t tree/b");
    bench.check("two files change places, each with its inode and time", false);

    bench.shell("touch tree/a tree/b tree/d tree");
    bench.check("times alone", true);

    bench.shell("cp tree/a t; mv t tree/a; cp -r tree other; rm -r tree; mv other tree; chmod 644 tree/a tree/b");
    bench.check("copies under new inodes", true);

    for mode in [0o600, 0o664, 0o755, 0o4755] {
        fs::set_permissions(bench.path("tree/a"), fs::Permissions::from_mode(mode)).expect("ours");
        bench.check("a mode, as another umask would have it", false);
    }
    bench.shell("chmod 700 tree/d");
    bench.check("the mode of a folder", false);

    bench.shell("rm tree/b; ln -s a tree/b");
    bench.check("a file becomes a symlink to one with another content", false);
    bench.shell("ln -sfn ./a tree/b");
    bench.check("a symlink to the same by other words", false);
    bench.shell("rm tree/b; ln tree/a tree/b");
    bench.check("a symlink becomes a hard link", false);
    bench.shell("rm tree/b; cp -p tree/a tree/b");
    bench.check("a hard link becomes a copy", false);

    bench.shell("mkdir tree/empty");
    bench.check("a new empty folder", false);
    bench.shell("mv tree/empty tree/hollow");
    bench.check("a folder is renamed", false);
    bench.shell("rmdir tree/d; touch tree/d");
    bench.check("a folder becomes a file", false);
    bench.shell("rm tree/d; mkfifo tree/d");
    bench.check("a file becomes a pipe", false);
    bench.shell("rm tree/d; mkdir tree/d");

    bench.shell("printf 'tree/hollow\\n' >.dockerignore");
    bench.check("an ignore rule hides something", false);
    bench.shell("printf 'tree/hollow\\nnothing\\n' >.dockerignore");
    bench.check("an ignore rule that hides nothing", true);
    bench.shell("touch tree/hollow/x");
    bench.check("a change of what is ignored", true);
    bench.0.assert_nothing_left();
}

#[test]
fn clocks_that_step_hide_nothing() {
    let Some(bench) = Bench::new() else { return };
    // Times from far ahead and from before 1970, as after a clock was set; what was noted of a file holds no edit back.
    for (number, time) in ["@4000000000", "@0", "@-86400"].iter().enumerate() {
        bench.shell(&format!("echo {number} >tree/a; touch -d {time} tree/a"));
        bench.check(time, false);
        bench.check("the same once more", true);
        bench.shell(&format!("echo {} >tree/a; touch -d {time} tree/a", number + 5));
        bench.check("an edit under the same time", false);
    }
}

#[test]
fn a_step_that_is_not_found_says_why() {
    for actor in Actor::everyone() {
        let actor = actor.with_busybox();
        let dockerfile = |run: &str| {
            let text = format!("FROM localhost/busybox\nARG MODE=1\nCOPY tree /tree\nRUN --network=none {run}\n");
            actor.write("ctx/Dockerfile", text);
        };
        dockerfile("true");
        actor.write("ctx/tree/a", "one\n");
        actor.write("ctx/tree/b", "two\n");
        let explain = |flags: &[&str]| {
            let fixed = ["--progress=plain", "--explain"];
            let report = actor.build([&fixed[..], flags, &["ctx"]].concat()).ok();
            let lines = report.stderr.lines().filter_map(|line| line.split_once("not cached: "));
            lines.map(|(_, why)| why.to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(explain(&[]), ["no step of this name was built before"; 2]);
        assert_eq!(explain(&[]), Vec::<String>::new());
        actor.write("ctx/tree/a", "ONE\n");
        actor.write("ctx/tree/c", "new\n");
        assert_eq!(explain(&[]), ["`/tree/a` changed: content", "`/tree/c` is new", "the layers below it changed"]);
        assert_eq!(explain(&["--build-arg", "MODE=2"]), ["the variable is `MODE=2`, was `MODE=1`"]);
        assert_eq!(
            explain(&["--no-cache-filter", "stage-0"]),
            ["its result is there, and was not asked for or is no longer whole"; 2]
        );
        actor.assert_nothing_left();
    }
}
