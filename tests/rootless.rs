//! An ordinary user: no capability, no sudo, nothing but newuidmap and newgidmap.

use std::fs;

use crate::harness::{Actor, Registry, machine};

const IMAGE: &str = "localhost/busybox";

#[test]
fn an_ordinary_user_is_root_inside_only() {
    let Some(user) = Actor::ordinary() else { return };
    let user = user.with_busybox();
    assert_eq!(user.run(["--rm", IMAGE, "id", "-u"]).ok().stdout, "0\n");
    let map = user.run(["--rm", IMAGE, "cat", "/proc/self/uid_map"]).ok();
    let first: Vec<_> = map.lines()[0].split_whitespace().map(str::to_owned).collect();
    assert_eq!(first, ["0", &user.uid().to_string(), "1"], "{map}");
    // What it writes on a volume is the user's own outside.
    let volume = user.mkdir("volume");
    user.run(["--rm", "-v", &format!("{}:/mnt", volume.display()), IMAGE, "touch", "/mnt/mine"]).ok();
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(volume.join("mine")).expect("it was made"));
    assert_eq!(owner, user.uid());
    user.assert_nothing_left();
}

#[test]
fn files_of_many_owners_survive_a_rootless_build() {
    let Some(user) = Actor::ordinary() else { return };
    let user = user.with_busybox();
    user.write("app/Dockerfile", "FROM localhost/busybox\nRUN touch /mine /theirs && chown 1000:1000 /theirs && chmod 4755 /theirs\nCOPY --chown=1234:5678 Dockerfile /copied\n");
    user.build(["-t", "localhost/owners", &user.path("app").display().to_string()]).ok();
    let listed = user.run(["--rm", "localhost/owners", "stat", "-c", "%u:%g %a", "/mine", "/theirs", "/copied"]).ok();
    assert_eq!(listed.lines(), ["0:0 644", "1000:1000 4755", "1234:5678 644"]);
}

#[test]
fn without_a_range_one_id_has_to_do_and_one_line_says_so() {
    let Some(user) = Actor::without_range() else { return };
    let load =
        user.copy([&format!("oci:{}:busybox", crate::harness::image::busybox().display()), "store:localhost/busybox"]);
    load.ok();
    let report = user.run(["--rm", IMAGE, "id", "-u"]).ok();
    assert_eq!(report.stdout, "0\n");
    let warnings: Vec<_> =
        report.stderr.lines().filter(|line| line.contains("/etc/subuid") || line.contains("usermod")).collect();
    assert_eq!(warnings.len(), 1, "one line names the fix\n{report}");
    user.write("app/Dockerfile", "FROM localhost/busybox\nRUN echo built > /built\n");
    user.build(["-t", "localhost/single", &user.path("app").display().to_string()]).ok();
    assert_eq!(user.run(["--rm", "localhost/single", "cat", "/built"]).ok().stdout, "built\n");
    user.assert_nothing_left();
}

#[test]
fn programs_do_not_need_a_writable_home_when_told_of_a_store() {
    let Some(user) = Actor::ordinary() else { return };
    let registry = Registry::start();
    let layout = format!("oci:{}:busybox", crate::harness::image::busybox().display());
    user.copy([&layout, &format!("docker://{}", registry.name("base:1"))]).ok();
    let store = user.mkdir("somewhere/else");
    let name = registry.name("base:1");
    let report = user
        .run(["--store", &store.display().to_string(), "--rm", &name, "echo", "hello"])
        .env("HOME", "/nonexistent")
        .ok();
    assert_eq!(report.stdout, "hello\n");
    assert!(!machine::tree().join("somewhere").exists());
}

#[test]
fn two_users_do_not_disturb_each_other() {
    let users: Vec<_> =
        [Actor::ordinary(), Actor::ordinary(), Actor::root()].into_iter().flatten().map(Actor::with_busybox).collect();
    let running: Vec<_> = users
        .iter()
        .map(|user| user.run(["--rm", "--name", "same", IMAGE, "sh", "-c", "echo $$ > /me; cat /me"]).start())
        .collect();
    for report in running {
        assert_eq!(report.wait().expect_code(0).stdout, "1\n");
    }
}
