//! Named volumes: what is in them outlives containers, and belongs to whom it should.

use crate::harness::Actor;

const IMAGE: &str = "localhost/busybox";

#[test]
fn a_volume_outlives_its_containers() {
    for actor in Actor::everyone() {
        let actor = actor.with_busybox();
        let run = |words: &str| actor.run(["--rm", "--network", "none"]).args(words.split(' '));
        run(&format!("-v data:/d {IMAGE} touch /d/kept")).ok();
        assert_eq!(run(&format!("-v data:/other {IMAGE} ls /other")).ok().stdout, "kept\n");
        run(&format!("-v data:/d:ro {IMAGE} touch /d/new")).fails(1).says(&["Read-only"]);
        let said = run(&format!("--mount type=volume,source=data,target=/d,readonly {IMAGE} ls /d")).ok();
        assert_eq!(said.stdout, "kept\n");
        // Empty, it begins with what the image has there; with nothing there it is the user's.
        assert_eq!(run(&format!("-v bin:/bin {IMAGE} stat -c %u:%a /bin")).ok().stdout, "0:755\n");
        let listed = run(&format!("-v bin:/b {IMAGE} ls /b")).ok();
        assert!(listed.lines().contains(&"busybox"), "{listed}");
        assert_eq!(run(&format!("-v none:/bin2:nocopy --user 5 {IMAGE} stat -c %u /bin2")).ok().stdout, "5\n");
        if !actor.is_root() {
            let said = run(&format!("--userns keep-id -v mine:/m {IMAGE} sh -c"));
            let said = said.arg("touch /m/x && stat -c %u /m /m/x").ok();
            let own = actor.uid().to_string();
            assert_eq!(said.lines(), [&own, &own]);
        }
        actor.run(["volume", "rm", "-a"]).ok();
        assert_eq!(actor.run(["volume", "ls", "-q"]).ok().stdout, "");
        actor.assert_nothing_left();
    }
}

#[test]
fn volumes_are_made_listed_shown_and_removed() {
    for actor in Actor::everyone() {
        let actor = actor.with_busybox();
        let volume = |words: &str| actor.run(["volume"]).args(words.split(' '));
        assert_eq!(volume("create --label a=1 one").ok().stdout, "one\n");
        volume("create one").fails(125).says(&["volume `one` exists already"]);
        volume("create --ignore one").ok();
        volume("create -- -x").fails(125).says(&["is not a name"]);
        volume("create two").ok();
        let listed = volume("ls").ok();
        let words: Vec<Vec<&str>> = listed.lines().iter().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words, [vec!["DRIVER", "VOLUME", "NAME"], vec!["local", "one"], vec!["local", "two"]]);
        let shown = volume("inspect one").ok().json();
        assert_eq!((&shown[0]["Name"], &shown[0]["Labels"]["a"]), (&"one".into(), &"1".into()));
        volume("inspect nope").fails(125).says(&["no volume `nope`"]);
        // What a container has stays, be it running or not.
        actor.run(["create", "--name", "user", "-v", "one:/d", IMAGE, "true"]).ok();
        volume("rm one").fails(2).says(&["volume `one` is in use by user"]);
        volume("prune").fails(125).says(&["--force"]);
        assert_eq!(volume("prune --force").ok().stdout, "two\n");
        actor.run(["rm", "user"]).ok();
        assert_eq!(volume("rm one").ok().stdout, "one\n");
        volume("rm one").fails(1).says(&["no volume `one`"]);
        volume("rm --force one").ok();
        actor.run(["--rm", "-v", "no/name:/d", IMAGE, "true"]).fails(125).says(&["not a volume's name", "./no/name"]);
        actor.assert_nothing_left();
    }
}
