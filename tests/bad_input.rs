//! Bad input gets a sentence that names the object and the place, a hint and the right exit code, and leaves nothing.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tar::EntryType;

use crate::harness::image::{Layer, busybox, write_layout};
use crate::harness::{Actor, Auth, Fault, FaultyRegistry, Registry, Report, Rule, machine};

/// One sentence that starts with the program's name, lower case, no full stop; then a hint.
#[track_caller]
fn assert_well_said(program: &str, report: &Report) {
    let sentence = report.stderr.lines().find(|line| line.starts_with(&format!("{program}: ")));
    let sentence = sentence.unwrap_or_else(|| panic!("no line starts with `{program}: `\n{report}"));
    assert!(!sentence.ends_with('.') && !sentence.contains("Error(") && !sentence.contains("io error"), "{report}");
    assert!(report.stderr.lines().any(|line| line.starts_with("hint: ")), "no hint\n{report}");
    assert!(!report.stderr.contains("panicked"), "{report}");
}

/// Builds this Dockerfile, which must not work.
fn refused(actor: &Actor, dockerfile: &str) -> Report {
    actor.write("bad/Dockerfile", dockerfile);
    actor.write("bad/there", "there\n");
    let report =
        actor.build(["-t", "localhost/bad", &actor.path("bad").display().to_string()]).output().expect_not_zero();
    assert!(!actor.copy(["images"]).ok().stdout.contains("localhost/bad"), "a failed build must tag nothing");
    report
}

#[test]
fn a_wrong_dockerfile_is_shown_at_its_place() {
    let Some(actor) = Actor::ordinary() else { return };
    let actor = actor.with_busybox();
    for (dockerfile, place, words) in [
        ("FROM localhost/busybox\nRUNN echo\n", "Dockerfile:2", &["RUNN", "RUN"][..]),
        ("FROM localhost/busybox\nCOPY --frm=x a b\n", "Dockerfile:2", &["--frm", "--from"]),
        ("FROM localhost/busybox\n\n# no source\nCOPY missing /\n", "Dockerfile:4", &["missing"]),
        ("FROM localhost/busybox\nCOPY --from=nowhere /x /y\n", "Dockerfile:2", &["nowhere"]),
        ("RUN true\n", "Dockerfile:1", &["FROM"]),
        ("FROM localhost/busybox\nWORKDIR\n", "Dockerfile:2", &["WORKDIR"]),
        ("FROM localhost/busybox\nRUN --mount=type=floppy true\n", "Dockerfile:2", &["floppy"]),
    ] {
        let report = refused(&actor, dockerfile).expect_code(1).says(&[place]).says(words);
        assert_well_said("build", &report);
    }
    actor.assert_nothing_left();
}

#[test]
fn a_failing_step_ends_with_its_own_code() {
    for actor in Actor::everyone() {
        let actor = actor.with_busybox();
        let report = refused(&actor, "FROM localhost/busybox\nRUN echo before\nRUN echo last words; exit 23\n");
        report.expect_code(23).says(&["last words", "Dockerfile:3", "23"]);
        refused(&actor, "FROM localhost/busybox\nRUN no-such-command\n").expect_code(127).says(&["no-such-command"]);
        actor.assert_nothing_left();
    }
}

#[test]
fn a_wrong_command_line_is_usage() {
    let Some(actor) = Actor::ordinary() else { return };
    actor.build(["--no-such-flag", "."]).fails(2).says(&["--no-such-flag"]);
    actor.copy(["--no-such-flag", "a", "b"]).fails(2).says(&["--no-such-flag"]);
    actor.copy(["docker://UPPER/case", "store:x"]).output().expect_not_zero().says(&["UPPER/case"]);
    actor.run(["--no-such-flag", "x"]).fails(125).says(&["--no-such-flag"]);
    actor.run(["--memory", "a lot", "x"]).fails(125).says(&["a lot"]);
    actor.build(["/no/such/folder"]).fails(1).says(&["/no/such/folder"]);
}

#[test]
fn a_missing_image_is_named_with_its_registry() {
    let registry = Registry::start();
    let Some(actor) = Actor::ordinary() else { return };
    let name = registry.name("no/such:image");
    let report = actor.run(["--rm", &name, "true"]).fails(125).says(&[&name]);
    assert_well_said("run", &report);
    let report = actor.copy([&format!("docker://{name}"), "store:localhost/x"]).fails(1).says(&["no/such"]);
    assert_well_said("copy", &report);
    let report = refused(&actor, &format!("FROM {name}\nRUN true\n")).expect_code(1).says(&[&name]);
    assert_well_said("build", &report);
    actor.copy(["inspect", "store:localhost/not-here"]).fails(1).says(&["localhost/not-here"]);
    actor.assert_nothing_left();
}

#[test]
fn a_registry_that_is_down_is_said_to_be_down() {
    let Some(actor) = Actor::ordinary() else { return };
    // A port that was free a moment ago and on which nobody listens.
    let address = FaultyRegistry::start(Auth::Open).address().to_owned();
    let closed =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let name = format!("{closed}/app:1");
    let report = actor.copy([&format!("docker://{name}"), "store:localhost/x"]).fails(1).says(&[&closed.to_string()]);
    assert_well_said("copy", &report);
    let report = actor.run(["--rm", &name]).fails(125).says(&[&closed.to_string()]);
    assert_well_said("run", &report);
    drop(address);
}

#[test]
fn an_unknown_user_is_refused_and_a_known_one_comes_in() {
    let registry = Registry::with_password();
    let Some(actor) = Actor::ordinary() else { return };
    let target = format!("docker://{}", registry.name("private/app:1"));
    let layout = format!("oci:{}:busybox", busybox().display());
    let report = actor.copy([&layout, &target]).fails(1).says(&[registry.address()]);
    assert_well_said("copy", &report);
    assert!(
        report.stderr.contains("401")
            || report.stderr.contains("unauthorized")
            || report.stderr.contains("credentials"),
        "{report}"
    );

    let auth = |user: &str, password: &str| {
        let pair = actor.shell(&format!("printf %s '{user}:{password}' | base64 -w0")).ok().stdout;
        json!({"auths": {registry.address(): {"auth": pair}}}).to_string()
    };
    let (user, password) = (crate::harness::registry::USER, crate::harness::registry::PASSWORD);
    // docker's file, containers' file, and a file that is named.
    actor.write("home/.docker/config.json", auth(user, password));
    actor.copy([&layout, &target]).ok();
    fs::remove_file(actor.path("home/.docker/config.json")).expect("it is ours");
    actor.write("home/.config/containers/auth.json", auth(user, password));
    actor.copy(["inspect", &target]).ok();
    actor.write("home/.config/containers/auth.json", auth(user, "wrong"));
    let report = actor.copy(["inspect", &target]).fails(1);
    assert!(!report.stderr.contains("wrong"), "a password must not be printed\n{report}");
    let file = actor.write("auth.json", auth(user, password));
    actor.copy(["inspect", "--authfile", &file.display().to_string(), &target]).ok();
    actor.copy(["inspect", &target]).env("REGISTRY_AUTH_FILE", &file).ok();
}

#[test]
fn tokens_are_fetched_with_the_right_credentials_for_the_right_scope() {
    let Some(actor) = Actor::ordinary() else { return };
    let layout = format!("oci:{}:busybox", busybox().display());
    let open = FaultyRegistry::start(Auth::Bearer { user: None });
    actor.copy([&layout, &format!("docker://{}", open.name("a/b:1"))]).ok();
    actor.copy(["inspect", &format!("docker://{}", open.name("a/b:1"))]).ok();

    let closed = FaultyRegistry::start(Auth::Bearer { user: Some(("robot", "s3cret")) });
    let target = format!("docker://{}", closed.name("a/b:1"));
    let report = actor.copy([&layout, &target]).fails(1).says(&[closed.address()]);
    assert_well_said("copy", &report);
    let pair = actor.shell("printf %s robot:s3cret | base64 -w0").ok().stdout;
    actor.write("home/.docker/config.json", json!({"auths": {closed.address(): {"auth": pair}}}).to_string());
    actor.copy([&layout, &target]).ok();
    assert!(closed.tags().contains(&("a/b".to_owned(), "1".to_owned())));
    // The password goes to the token service only.
    for seen in closed.requests() {
        let basic = seen.authorization.is_some_and(|value| value.starts_with("Basic "));
        assert!(!basic || seen.path == "/token", "credentials were sent to {}", seen.path);
    }

    let basic = FaultyRegistry::start(Auth::Basic { user: "robot", password: "s3cret" });
    actor.write("home/.docker/config.json", json!({"auths": {basic.address(): {"auth": pair}}}).to_string());
    actor.copy([&layout, &format!("docker://{}", basic.name("a/b:1"))]).ok();
}

#[test]
fn wrong_bytes_never_become_an_image() {
    let Some(actor) = Actor::ordinary() else { return };
    for fault in [Fault::WrongByte, Fault::Truncate(1000), Fault::Drop] {
        let registry = FaultyRegistry::start(Auth::Open);
        let (_, layers) = registry.put_layout(&busybox(), "app", "1");
        registry.rule(Rule::always("GET", layers[0].clone(), fault.clone()));
        let report = actor.run(["--rm", &registry.name("app:1"), "true"]).fails(125).says(&["sha256:"]);
        assert_well_said("run", &report);
        let report = actor
            .copy([&format!("docker://{}", registry.name("app:1")), "store:localhost/x"])
            .fails(1)
            .says(&["sha256:"]);
        assert_well_said("copy", &report);
        let listed = actor.copy(["images"]).ok();
        assert!(!listed.stdout.contains("app") && !listed.stdout.contains("localhost/x"), "after {fault:?}: {listed}");
        let layout = actor.path("layout");
        actor.copy([&format!("docker://{}", registry.name("app:1")), &format!("oci:{}:x", layout.display())]).fails(1);
        let index = fs::read_to_string(layout.join("index.json")).unwrap_or_default();
        assert!(!index.contains("sha256:"), "after {fault:?}: {index}");
        actor.assert_nothing_left();
    }
    let registry = FaultyRegistry::start(Auth::Open);
    let (digest, _) = registry.put_layout(&busybox(), "app", "1");
    registry.rule(Rule::always("GET", "/manifests/", Fault::WrongByte));
    actor.copy([&format!("docker://{}", registry.name(&format!("app@{digest}"))), "store:localhost/x"]).fails(1);
    let registry = FaultyRegistry::start(Auth::Open);
    registry.put_layout(&busybox(), "app", "1");
    let other = format!("sha256:{}", "0".repeat(64));
    registry.rule(Rule::always("GET", "/manifests/", Fault::Header("Docker-Content-Digest", other)));
    actor.copy([&format!("docker://{}", registry.name("app:1")), "store:localhost/x"]).fails(1);
    actor.assert_nothing_left();
}

#[test]
fn a_passing_fault_is_overcome() {
    let Some(actor) = Actor::ordinary() else { return };
    for fault in [
        Fault::Drop,
        Fault::Truncate(100_000),
        Fault::Status(503, vec![]),
        Fault::Status(429, vec![("Retry-After", "1".to_owned())]),
    ] {
        let registry = FaultyRegistry::start(Auth::Open);
        registry.put_layout(&busybox(), "app", "1");
        registry.rule(Rule::times(1, "GET", "/blobs/", fault.clone()));
        let target = format!("store:localhost/x{}", registry.address().rsplit(':').next().unwrap_or_default());
        let report = actor.copy([&format!("docker://{}", registry.name("app:1")), &target]).output();
        assert_eq!(report.code, 0, "after {fault:?} once\n{report}");
    }
}

#[test]
fn credentials_do_not_follow_a_redirection_to_another_host() {
    let Some(actor) = Actor::ordinary() else { return };
    let registry = FaultyRegistry::start(Auth::Basic { user: "robot", password: "s3cret" });
    let elsewhere = FaultyRegistry::start(Auth::Open);
    let (_, layers) = registry.put_layout(&busybox(), "app", "1");
    elsewhere.put_layout(&busybox(), "app", "1");
    let location = format!("http://{}/v2/app/blobs/{}", elsewhere.address(), layers[0]);
    registry.rule(Rule::always("GET", layers[0].clone(), Fault::Status(307, vec![("Location", location)])));
    let pair = actor.shell("printf %s robot:s3cret | base64 -w0").ok().stdout;
    actor.write("home/.docker/config.json", json!({"auths": {registry.address(): {"auth": pair}}}).to_string());
    actor.copy([&format!("docker://{}", registry.name("app:1")), "store:localhost/x"]).ok();
    assert!(elsewhere.count("GET", &layers[0]) > 0, "the redirection was followed");
    assert!(elsewhere.requests().iter().all(|seen| seen.authorization.is_none()), "{:?}", elsewhere.requests());
}

#[test]
fn a_hostile_layer_touches_nothing_outside() {
    for actor in Actor::everyone() {
        let outside = actor.write("outside/canary", "alive\n");
        let escape = actor.path("outside").display().to_string();
        let cases: [(&str, Layer); 5] = [
            ("dotdot", Layer::new().file("../../../../../../../../../../../../tmp/layerfs-canary", 0o644, "escaped")),
            ("symlink", Layer::new().symlink("link", &escape).file("link/canary", 0o644, "escaped")),
            ("absolute", Layer::new().file(&format!("{escape}/canary"), 0o644, "inside")),
            ("hardlink", Layer::new().hardlink("link", &format!("{escape}/canary")).file("link", 0o644, "escaped")),
            ("whiteout", Layer::new().symlink("link", &escape).file("link/.wh.canary", 0o644, "")),
        ];
        for (name, layer) in cases {
            let dir = actor.path(name);
            write_layout(&dir, "x", vec![layer.dir("bin/", 0o755).tar()], &json!({"Cmd": ["x"]}));
            let image = format!("localhost/{name}");
            actor.copy([&format!("oci:{}:x", dir.display()), &format!("store:{image}")]).output();
            actor.run(["--rm", &image]).output().expect_not_zero();
            assert_eq!(fs::read_to_string(&outside).expect("the canary is there"), "alive\n", "after {name}");
            assert!(!std::path::Path::new("/tmp/layerfs-canary").exists(), "after {name}");
        }
        // Overlay's own attributes and devices in a layer must not steer the mount of a later one.
        let dir = actor.path("device");
        let layer = Layer::new().entry("disk", EntryType::Block, 0o666, "", b"");
        write_layout(&dir, "x", vec![layer.tar()], &json!({"Cmd": ["x"]}));
        actor.copy([&format!("oci:{}:x", dir.display()), "store:localhost/device"]).output();
        actor.run(["--rm", "localhost/device"]).output().expect_not_zero();
        actor.assert_nothing_left();
    }
}

#[test]
fn a_layer_that_is_not_what_the_config_says_is_refused() {
    let Some(actor) = Actor::ordinary() else { return };
    let dir = actor.path("layout");
    write_layout(&dir, "x", vec![Layer::new().file("a", 0o644, "a").tar()], &json!({}));
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.join("index.json")).expect("index")).expect("JSON");
    let blob =
        |digest: &serde_json::Value| dir.join("blobs").join(digest.as_str().expect("a digest").replace(':', "/"));
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(blob(&index["manifests"][0]["digest"])).expect("manifest")).expect("JSON");
    let layer = blob(&manifest["layers"][0]["digest"]);
    let good = fs::read(&layer).expect("the layer");
    for bytes in [&good[..good.len() / 2], &[][..], b"not a layer at all, only as long as it has to be"] {
        fs::write(&layer, bytes).expect("it is ours");
        let report = actor.copy([&format!("oci:{}:x", dir.display()), "store:localhost/x"]).fails(1).says(&["sha256:"]);
        assert_well_said("copy", &report);
    }
    assert!(!actor.copy(["images"]).ok().stdout.contains("localhost/x"));
    actor.assert_nothing_left();
}

#[test]
fn an_unwritable_store_is_named() {
    let Some(actor) = Actor::ordinary() else { return };
    // Somebody else's: inside a user namespace the owner of a folder may write it whatever its mode says.
    let foreign = machine::folder();
    let store = if machine::is_root() { foreign.path().display().to_string() } else { "/usr/share".to_owned() };
    let layout = format!("oci:{}:busybox", busybox().display());
    for report in [
        actor.copy(["--store", &store, &layout, "store:localhost/x"]).fails(1),
        actor.run(["--store", &store, "--rm", "localhost/x"]).fails(125),
    ] {
        assert!(report.stderr.contains(&store), "{report}");
    }
    actor.write("app/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let report = actor.build(["--store", &store, &actor.path("app").display().to_string()]).fails(1);
    assert!(report.stderr.contains(&store), "{report}");
}

#[test]
fn ctrl_c_ends_each_program_cleanly() {
    for actor in Actor::everyone() {
        let actor = actor.with_busybox();
        actor.write("app/Dockerfile", "FROM localhost/busybox\nRUN echo step $((40 + 2)); sleep 1000\n");
        let mut building = actor
            .build(["--progress", "plain", "-t", "localhost/app", &actor.path("app").display().to_string()])
            .start();
        // Not the title of the step, which is shown before it runs.
        building.wait_for_stderr("step 42");
        building.signal_group(Signal::INT);
        assert_eq!(building.wait().code, 130);

        let mut running = actor.run(["--rm", "localhost/busybox", "sh", "-c", "echo ready; sleep 1000"]).start();
        running.wait_for_stdout("ready");
        running.signal_group(Signal::INT);
        // A shell as process 1 ignores it, as anywhere; a second signal that nothing ignores ends it.
        if !running.ends_within(Duration::from_secs(1)) {
            running.signal(Signal::TERM);
            if !running.ends_within(Duration::from_secs(1)) {
                actor.shell("run ps -q | xargs -r run kill").ok();
            }
        }
        running.wait().expect_not_zero();

        let registry = FaultyRegistry::start(Auth::Open);
        // A layer that no store has yet.
        let fresh = actor.path("fresh");
        write_layout(&fresh, "x", vec![Layer::new().file("fresh", 0o644, "fresh").tar()], &json!({}));
        let (_, layers) = registry.put_layout(&fresh, "app", "1");
        registry.rule(Rule::always("GET", layers[0].clone(), Fault::Stall));
        let copying = actor.copy([&format!("docker://{}", registry.name("app:1")), "store:localhost/x"]).start();
        while registry.count("GET", &layers[0]) == 0 {
            assert!(!copying.ends_within(Duration::from_millis(10)), "{}", copying.wait());
        }
        copying.signal_group(Signal::INT);
        assert_eq!(copying.wait().code, 130);
        let listed = actor.copy(["images"]).ok().stdout;
        assert!(!listed.contains("localhost/app") && !listed.contains("localhost/x"), "{listed}");
        actor.assert_nothing_left();
    }
}
