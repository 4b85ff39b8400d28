//! `--userns` and what is shared between containers: whose files are whose, inside and outside, and what joins what.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use crate::harness::{Actor, Call, machine};

const IMAGE: &str = "localhost/busybox";

fn run(actor: &Actor, words: &str) -> Call {
    actor.run(["--rm", "--network", "none"]).args(words.split(' '))
}

/// A map as `/proc/self/uid_map` has it, in single blanks.
fn map(call: Call) -> Vec<String> {
    call.ok().stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn owner(path: &Path) -> (u32, u32) {
    let found = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (found.uid(), found.gid())
}

/// The first of the user's subordinate ids.
fn first_id(actor: &Actor) -> u32 {
    let text = fs::read_to_string("/etc/subuid").expect("users have ranges");
    let own = text.lines().find_map(|line| line.strip_prefix(&format!("{}:", actor.name())));
    own.and_then(|rest| rest.split(':').next()).and_then(|id| id.parse().ok()).expect("the user has a range")
}

#[test]
fn the_user_is_the_same_user_inside() {
    let Some(user) = Actor::ordinary() else { return };
    let user = user.with_busybox();
    let uid = user.uid();
    let seen = map(run(&user, &format!("--userns keep-id {IMAGE} cat /proc/self/uid_map")));
    assert_eq!(seen[..2], [format!("0 1 {uid}"), format!("{uid} 0 1")]);
    // The image is root's all the same, and what the user may write is the user's on both sides.
    let volume = user.mkdir("volume");
    let words = format!("--userns keep-id -v {}:/mnt {IMAGE} sh -c", volume.display());
    let script =
        "id -u; id -un; echo $HOME; stat -c %u /bin/busybox / /etc/hosts; echo x >/mnt/mine; stat -c %u /mnt/mine";
    let call = user.run(["--rm", "--network", "none"]).args(words.split(' ')).arg(script);
    let said = call.ok();
    let own = uid.to_string();
    assert_eq!(said.lines(), [own.as_str(), user.name(), "/", "0", "0", "0", &own]);
    assert_eq!(owner(&volume.join("mine")).0, uid);
    // Another number, and another user than the one who is kept.
    let said = run(&user, &format!("--userns keep-id:uid=7,gid=8 {IMAGE} id")).ok();
    assert_eq!(said.stdout, format!("uid=7({0}) gid=8({0}) groups=8({0})\n", user.name()));
    let said = run(&user, &format!("--userns keep-id --user 0 {IMAGE} id -u")).ok();
    assert_eq!(said.stdout, "0\n");
    run(&user, &format!("--userns keep-id:size=10,uid=1,gid=1 --user 500 {IMAGE} id"))
        .fails(125)
        .says(&["user 500 does not exist"]);
    user.assert_nothing_left();
}

#[test]
fn the_user_can_be_left_out_or_given_ids_of_its_own() {
    let Some(user) = Actor::ordinary() else { return };
    let user = user.with_busybox();
    let first = first_id(&user);
    assert_eq!(map(run(&user, &format!("--userns nomap {IMAGE} cat /proc/self/uid_map"))), ["0 1 65536"]);
    let seen = map(run(&user, &format!("--userns auto {IMAGE} cat /proc/self/uid_map")));
    assert_eq!(seen, ["0 1 1024"]);
    // Two at once share no id, and a stopped one keeps its own.
    let start = |name: &str| {
        let words = format!("-d --name {name} --network none --userns auto:size=100 {IMAGE} sleep 1000");
        user.run(words.split(' ')).ok();
    };
    ["one", "two"].into_iter().for_each(start);
    let of = |name: &str| map(user.run(["exec", name, "cat", "/proc/self/uid_map"]));
    let maps = ["one", "two"].map(of);
    assert_eq!(maps, [["0 1 100"], ["0 101 100"]]);
    user.run(["stop", "-t", "0", "one", "two"]).ok();
    user.run(["start", "two"]).ok();
    assert_eq!(of("two"), ["0 101 100"]);
    user.run(["exec", "two", "touch", "/made"]).ok();
    let upper = user.shell("ls -d $LAYERFS_STORE/containers/*/upper/made").ok();
    assert_eq!(owner(Path::new(upper.result())).0, first + 100);
    user.run(["rm", "-f", "one", "two"]).ok();
    run(&user, &format!("--userns auto:size=70000 {IMAGE} true")).fails(125).says(&["not enough ids", "hint:"]);
    user.assert_nothing_left();
}

#[test]
fn rules_name_each_id() {
    let Some(user) = Actor::ordinary() else { return };
    let user = user.with_busybox();
    let (uid, first) = (user.uid(), first_id(&user));
    let rules = format!("--uidmap 0:1:10 --uidmap 1000:0:1 {IMAGE} cat /proc/self/uid_map");
    assert_eq!(map(run(&user, &rules)), ["0 1 10", "1000 0 1"]);
    let rules = format!("--uidmap 0:@{first}:10 --uidmap u50:@{uid} {IMAGE} cat /proc/self/uid_map");
    assert_eq!(map(run(&user, &rules)), ["0 1 10", "50 0 1"]);
    let rules = format!("--gidmap +g1000:0 {IMAGE} cat /proc/self/uid_map");
    assert_eq!(map(run(&user, &rules)), ["0 0 1", "1 1 65536"]);
    let rules = format!("--uidmap +1000:0 {IMAGE} cat /proc/self/gid_map");
    assert_eq!(map(run(&user, &rules)), ["0 1 1000", "1000 0 1", "1001 1001 64536"]);
    run(&user, &format!("--uidmap 0:@0:1 {IMAGE} true")).fails(125).says(&["not among the ids you may use"]);
    run(&user, &format!("--uidmap 0:1:10 --userns keep-id {IMAGE} true")).fails(125).says(&["cannot be used with"]);
    user.assert_nothing_left();
}

#[test]
fn roots_containers_have_ids_of_their_own() {
    let Some(root) = Actor::root() else { return };
    let root = root.with_busybox();
    let volume = root.mkdir("volume");
    chown(&volume, Some(200_007), Some(200_007)).expect("root may");
    let words = format!("--uidmap 0:200000:1000 -v {}:/mnt {IMAGE} sh -c", volume.display());
    let script = "stat -c %u:%g /bin/busybox / /etc/hosts /mnt; touch /made /mnt/made; stat -c %u /made";
    let said = root.run(["--rm", "--network", "none"]).args(words.split(' ')).arg(script).ok();
    assert_eq!(said.lines(), ["0:0", "0:0", "0:0", "7:7", "0"]);
    assert_eq!(owner(&volume.join("made")), (200_000, 200_000));
    // The store holds the layers once: the kernel maps their owners.
    let layers = root.shell("ls $LAYERFS_STORE/layers").ok();
    assert_eq!(layers.lines().len(), 1, "{layers}");
    // Who may write in the container's root, and who not.
    let script = "touch /mine; echo changed >>/etc/passwd && stat -c %u /etc/passwd";
    let words = format!("--uidmap 0:200000:1000 --user 5 {IMAGE} sh -c");
    let call = root.run(["--rm", "--network", "none"]).args(words.split(' ')).arg(script);
    call.fails(1).says(&["Permission denied"]);
    run(&root, &format!("--userns nomap {IMAGE} true")).fails(125).says(&["other than root"]);
    assert_eq!(map(run(&root, &format!("--userns keep-id {IMAGE} cat /proc/self/uid_map"))), ["0 0 4294967295"]);
    let words = format!("--subuidname layerfs-test {IMAGE} cat /proc/self/uid_map");
    if machine::ordinary_user().is_some() {
        let user = Actor::ordinary().expect("there is one");
        assert_eq!(map(run(&root, &words))[0], format!("0 {} 65536", first_id(&user)));
    }
    root.assert_nothing_left();
}

#[test]
fn a_volume_is_given_or_shown_to_the_containers_user() {
    for actor in Actor::everyone() {
        let actor = actor.with_busybox();
        let volume = actor.mkdir("volume");
        actor.write("volume/folder/file", "x");
        let words = format!(
            "--userns {} --user 3 -v {}:/mnt:U",
            if actor.is_root() { "host" } else { "nomap" },
            volume.display()
        );
        let said = run(&actor, &format!("{words} {IMAGE} stat -c %u /mnt /mnt/folder/file")).ok();
        assert_eq!(said.stdout, "3\n3\n");
        run(&actor, &format!("-v /etc:/mnt:U {IMAGE} true")).fails(125).says(&["a folder of the machine itself"]);
    }
    let Some(root) = Actor::root() else { return };
    let root = root.with_busybox();
    root.write("volume/file", "x");
    let words = format!("--uidmap 0:200000:1000 -v {}:/mnt:idmap {IMAGE}", root.path("volume").display());
    assert_eq!(run(&root, &format!("{words} stat -c %u /mnt/file")).ok().stdout, "0\n");
    run(&root, &format!("{words} touch /mnt/made")).ok();
    assert_eq!(owner(&root.path("volume/made")), (0, 0));
}

/// What two containers see of each other's namespaces, by the links in `/proc/self/ns`.
#[test]
fn namespaces_of_another_container_are_joined() {
    for actor in Actor::everyone() {
        let actor = actor.with_busybox();
        for userns in ["host", if actor.is_root() { "keep-id" } else { "keep-id:uid=9,gid=9" }] {
            let words = format!("-d --name donor --hostname donor --network none --userns {userns} {IMAGE}");
            let script = "echo shared >/dev/shm/file; exec sleep 1000";
            actor.run(words.split(' ')).args(["sh", "-c", script]).ok();
            let theirs = |kind: &str| {
                let path = format!("/proc/self/ns/{kind}");
                actor.run(["exec", "donor", "readlink", &path]).ok().stdout
            };
            for (flag, kind) in [
                ("--network", "net"),
                ("--pid", "pid"),
                ("--ipc", "ipc"),
                ("--uts", "uts"),
                ("--cgroupns", "cgroup"),
                ("--userns", "user"),
            ] {
                let link = format!("/proc/self/ns/{kind}");
                let said = actor.run(["--rm", flag, "container:donor", IMAGE, "readlink", &link]).ok();
                assert_eq!(said.stdout, theirs(kind), "{flag}, {userns}\n{said}");
            }
            let said =
                actor.run(["--rm", "--network=none", "--ipc=container:donor", IMAGE, "cat", "/dev/shm/file"]).ok();
            assert_eq!(said.stdout, "shared\n");
            let said = actor.run(["--rm", "--network=none", "--uts=container:donor", IMAGE, "hostname"]).ok();
            assert_eq!(said.stdout, "donor\n");
            let said =
                actor.run(["--rm", "--network=none", "--pid=container:donor", IMAGE, "cat", "/proc/1/cmdline"]).ok();
            assert!(said.stdout.contains("sleep"), "{said}");
            actor.run(["rm", "-f", "-t", "0", "donor"]).ok();
        }
        actor.assert_nothing_left();
    }
}

#[test]
fn what_cannot_be_joined_is_named() {
    for actor in Actor::everyone() {
        let actor = actor.with_busybox();
        let fails = |words: &str, sentences: &[&str]| drop(run(&actor, words).fails(125).says(sentences));
        actor.run(["create", "--name", "made", IMAGE, "true"]).ok();
        for flag in ["--pid", "--ipc", "--uts", "--userns", "--cgroupns"] {
            fails(&format!("{flag} container:nobody {IMAGE} true"), &["no container `nobody`", "hint:"]);
            fails(
                &format!("{flag} container:made {IMAGE} true"),
                &["container `made` is not running", "run start made"],
            );
            fails(&format!("{flag} ns:/nothing/here {IMAGE} true"), &["/nothing/here"]);
        }
        fails(&format!("--pid shareable {IMAGE} true"), &["not a namespace mode", "container:NAME"]);
        fails(&format!("--uts container:made --hostname x {IMAGE} true"), &["made"]);
        let private = ["-d", "--name", "private", "--network=none", "--ipc=private", IMAGE, "sleep", "1000"];
        actor.run(private).ok();
        fails(&format!("--ipc container:private {IMAGE} true"), &["does not share its IPC namespace", "shareable"]);
        let none = run(&actor, &format!("--ipc none {IMAGE} ls -d /dev/shm"));
        none.fails(1).says(&["No such file"]);
        actor.run(["rm", "-f", "-t", "0", "private", "made"]).ok();
        actor.assert_nothing_left();
    }
}

#[test]
fn a_namespace_is_joined_by_its_file() {
    let Some(root) = Actor::root() else { return };
    let root = root.with_busybox();
    root.run(["-d", "--name", "donor", "--network=none", "--uidmap=0:200000:1000", IMAGE, "sleep", "1000"]).ok();
    let pid = root.run(["inspect", "donor"]).ok().json()[0]["State"]["Pid"].to_string();
    for (flag, kind) in [("--pid", "pid"), ("--ipc", "ipc"), ("--uts", "uts"), ("--userns", "user")] {
        let file = format!("/proc/{pid}/ns/{kind}");
        let link = format!("/proc/self/ns/{kind}");
        let said = run(&root, &format!("{flag} ns:{file} {IMAGE} readlink {link}")).ok();
        assert_eq!(said.result(), fs::read_link(&file).expect("it runs").to_string_lossy(), "{flag}");
    }
    let said = run(&root, &format!("--userns ns:/proc/{pid}/ns/user {IMAGE} stat -c %u /bin/busybox"));
    assert_eq!(said.ok().stdout, "0\n");
    root.run(["rm", "-f", "-t", "0", "donor"]).ok();
    root.assert_nothing_left();
}
