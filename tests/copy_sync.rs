//! Mirrors made by `copy sync`: whatever interrupts them, they end up the same.

use std::time::Duration;

use rustix::process::Signal;

use crate::conformance_suite::{fill, layer};
use crate::harness::{Actor, Auth, Fault, FaultyRegistry, Registry, Rule, peers};

/// Tags 1 to `count`, all on the same three layers with one more of their own.
fn many(registry: &FaultyRegistry, count: u8) {
    for tag in 1..=count {
        let shared = [layer(201, 3_000_000), layer(203, 500_000), layer(205, 80_000)];
        fill(registry, "team/app", &tag.to_string(), &[&shared[..], &[layer(tag, 2000)]].concat());
    }
}

/// Bytes of all blobs that `many` makes.
fn unique_bytes(registry: &FaultyRegistry) -> usize {
    registry.blob_bytes()
}

#[test]
fn blobs_that_many_tags_have_cross_once() {
    let (source, target) = (FaultyRegistry::start(Auth::Open), FaultyRegistry::start(Auth::Open));
    let Some(actor) = Actor::root() else { return };
    many(&source, 100);
    let (from, to) = (source.name("team/app"), target.name("mirror/app"));
    let report = actor.copy(["sync", &from, &to]).ok().says(&["100 images copied"]);
    assert_eq!(report.lines().len(), 100);
    assert_eq!(target.received(), unique_bytes(&source), "no byte twice");
    actor.copy(["verify", &from, &to]).ok();
    // Nothing to do costs one question per tag and side, and a list.
    let before = target.requests().len();
    actor.copy(["sync", &from, &to]).ok().says(&["0 images copied, 100 current"]);
    let asked = &target.requests()[before..];
    assert_eq!(asked.iter().filter(|seen| seen.method == "HEAD").count(), 100);
    assert!(asked.len() <= 102, "{}", asked.len());
    // Another repository of the same registry gets no bytes at all.
    let before = target.received();
    actor.copy(["sync", &from, &target.name("second/app"), "--tags", "^1"]).ok().says(&["12 images copied"]);
    assert!(target.received() - before < 12 * 6000, "{}", target.received() - before);
}

#[test]
fn a_mirror_that_was_killed_ten_times_ends_the_same() {
    let (source, target) = (FaultyRegistry::start(Auth::Open), FaultyRegistry::start(Auth::Open));
    let Some(actor) = Actor::root() else { return };
    many(&source, 100);
    let (from, to) = (source.name("team/app"), target.name("mirror/app"));
    for attempt in 0..10 {
        let running = actor.copy(["sync", "-q", &from, &to]).start();
        // Somewhere: while tags are listed, while the large layers are under way, among the many small ones.
        if !running.ends_within(Duration::from_millis(30 + 37 * attempt)) {
            running.signal(Signal::KILL);
        }
        drop(running);
    }
    actor.copy(["sync", "-q", &from, &to]).ok();
    actor.copy(["verify", &from, &to]).ok().says(&["identical: 100 tags"]);
    let (sent, unique) = (target.received(), unique_bytes(&source));
    let again = sent.saturating_sub(unique);
    let mut out = std::io::stdout().lock();
    let line = format!("killed ten times: {again} bytes sent again, of {unique}\n");
    std::io::Write::write_all(&mut out, line.as_bytes()).expect("a line is printed");
    assert!(again < 10 * unique, "{line}");
}

#[test]
fn an_upload_goes_on_after_the_program_was_killed() {
    let (source, target) = (FaultyRegistry::start(Auth::Open), FaultyRegistry::start(Auth::Open));
    let Some(actor) = Actor::root() else { return };
    let image = fill(&source, "team/app", "1", &[layer(7, 60_000_000)]);
    let (from, to) =
        (format!("docker://{}", source.name("team/app:1")), format!("docker://{}", target.name("mirror/app:1")));
    // The first attempt gets half of the layer through and is killed while it waits for what comes of it.
    target.rule(Rule::times(1, "PATCH", "/uploads/", Fault::KeepHalf));
    target.rule(Rule::times(1, "GET", "/uploads/", Fault::Stall));
    let running = actor.copy(["-q", &from, &to]).start();
    target.wait_for("GET", "/uploads/");
    running.signal(Signal::KILL);
    drop(running);
    let half = target.received();
    assert!((20_000_000..45_000_000).contains(&half), "{half}");
    actor.copy(["-q", &from, &to]).ok();
    assert!(target.has_blob(&image.layers[0]));
    let sent = target.received();
    assert!(sent < 61_000_000, "{sent} bytes were sent for a layer of 60 MB");
    let left = std::fs::read_dir(actor.path("home/.cache/layerfs/uploads")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "what was written down about the upload is gone with it");
}

#[test]
fn removing_is_careful() {
    let (source, target) = (FaultyRegistry::start(Auth::Open), FaultyRegistry::start(Auth::Open));
    let Some(actor) = Actor::root() else { return };
    for tag in ["1.0", "1.1", "2.0"] {
        fill(&source, "app", tag, &[layer(1, 100)]);
    }
    let (from, to) = (source.name("app"), target.name("app"));
    actor.copy(["sync", &from, &to]).ok();
    for tag in ["0.9", "dev"] {
        fill(&target, "app", tag, &[layer(1, 100)]);
    }
    let signature = format!("sha256-{}.sig", "0".repeat(64));
    fill(&target, "app", &signature, &[layer(2, 100)]);
    let dry = actor.copy(["sync", "--delete", "--dry-run", "--tags", r"^\d", &from, &to]).ok();
    assert_eq!(dry.lines(), [format!("would remove {to}:0.9")]);
    actor.copy(["sync", "--delete", "--check", &from, &to]).fails(1).says(&["not as they should be"]);
    // A source that cannot be read removes nothing.
    source.rule(Rule::times(usize::MAX, "GET", "/manifests/2.0", Fault::Status(404, Vec::new())));
    source.rule(Rule::times(usize::MAX, "HEAD", "/manifests/2.0", Fault::Status(404, Vec::new())));
    fill(&source, "app", "3.0", &[layer(3, 100)]);
    actor.copy(["sync", "--delete", "--keep-going", &from, &target.name("app")]).fails(1);
    assert!(target.manifest("app", "dev").is_some());
    assert!(target.manifest("app", "3.0").is_some(), "what could be copied was");
    let empty = FaultyRegistry::start(Auth::Open);
    actor.copy(["sync", "--delete", &empty.name("app"), &to]).fails(1);
    source.forget_rules();
    actor.copy(["sync", "--delete", &from, &to]).ok();
    let mut left: Vec<String> = target.tags().into_iter().map(|(_, tag)| tag).collect();
    left.sort();
    assert_eq!(left, ["1.0", "1.1", "2.0", "3.0", &signature]);
    assert!(target.manifest("app", "1.0").is_some(), "the image of a removed tag is still that of another");
}

#[test]
fn shards_make_a_whole() {
    let (source, target) = (FaultyRegistry::start(Auth::Open), FaultyRegistry::start(Auth::Open));
    let Some(actor) = Actor::root() else { return };
    for tag in 0..20 {
        fill(&source, "app", &format!("v{tag}"), &[layer(tag, 100)]);
    }
    let (from, to) = (source.name("app"), target.name("app"));
    let counts: Vec<usize> = (1..=3)
        .map(|part| actor.copy(["sync", "--shard", &format!("{part}/3"), &from, &to]).ok().lines().len())
        .collect();
    assert!(counts.iter().sum::<usize>() == 20 && counts.iter().all(|count| *count < 20), "{counts:?}");
    actor.copy(["verify", &from, &to]).ok();
    actor.copy(["sync", "--latest", "3", "--dry-run", &from, &target.name("new")]).ok().says(&["3 otherwise"]);
}

#[test]
fn files_of_skopeo_and_regsync_say_what_is_mirrored() {
    let (source, target) =
        (FaultyRegistry::start(Auth::Basic { user: "robot", password: "s3cret" }), FaultyRegistry::start(Auth::Open));
    let Some(actor) = Actor::root() else { return };
    for (repository, tag) in [
        ("a/one", "1.0"),
        ("a/one", "2.0"),
        ("a/two", "x-1"),
        ("a/two", "y-1"),
        ("a/three", "1.2.3"),
        ("a/three", "0.9.0"),
    ] {
        fill(&source, repository, tag, &[layer(1, 100)]);
    }
    let host = source.address();
    actor.write(
        "sync.yaml",
        format!("{host}:\n  images:\n    a/one: ['1.0']\n  images-by-tag-regex:\n    a/two: ^x-\n  images-by-semver:\n    a/three: '>= 1.0'\n  credentials: {{username: robot, password: s3cret}}\n"),
    );
    let below = target.name("below");
    actor.copy(["sync", "--src", "yaml", "--dest", "docker", "sync.yaml", &below]).ok();
    let tags: Vec<String> = target.tags().into_iter().map(|(repository, tag)| format!("{repository}:{tag}")).collect();
    assert!(
        ["below/one:1.0", "below/two:x-1", "below/three:1.2.3"].iter().all(|name| tags.contains(&(*name).to_owned())),
        "{tags:?}"
    );
    actor.write(
        "regsync.yml",
        format!(
            "version: 1\ncreds:\n  - registry: {host}\n    user: robot\n    pass: s3cret\n    tls: disabled\nsync:\n  - source: {host}/a/one\n    target: {}\n    type: repository\n    tags:\n      deny: ['1.*']\n  - source: {host}/a/two:y-1\n    target: {}\n    type: image\n    backup: 'old-{{{{.Ref.Tag}}}}'\n",
            target.name("reg/one"),
            target.name("reg/two:z")
        ),
    );
    fill(&target, "reg/two", "z", &[layer(9, 50)]);
    actor.copy(["sync", "regsync.yml"]).ok();
    assert!(target.manifest("reg/one", "2.0").is_some() && target.manifest("reg/one", "1.0").is_none());
    assert_eq!(target.manifest("reg/two", "z"), source.manifest("a/two", "y-1"));
    assert!(target.manifest("reg/two", "old-z").is_some());
    actor.write("bad.yml", "version: 1\nsync: [{source: a, target: b, type: image, tgas: {}}]\n");
    actor.copy(["sync", "bad.yml"]).fails(1).says(&["bad.yml", "tgas"]);
}

#[test]
fn folders_are_skopeos() {
    let registry = Registry::start();
    let Some(actor) = Actor::root() else { return };
    let source = FaultyRegistry::start(Auth::Open);
    fill(&source, "team/app", "1", &[layer(1, 1000)]);
    fill(&source, "team/app", "2", &[layer(2, 1000)]);
    let from = source.name("team/app");
    for scoped in [&[][..], &["--scoped"]] {
        let words = [&["sync", "--src", "docker", "--dest", "dir"][..], scoped].concat();
        let mine = actor.path(&format!("mine{}", scoped.len())).display().to_string();
        let words = words.into_iter();
        actor.copy(words.clone().chain([from.as_str(), &mine])).ok();
        actor.copy(words.clone().chain([from.as_str(), &mine])).ok().says(&["2 current"]);
        let theirs = actor.path(&format!("theirs{}", scoped.len())).display().to_string();
        let Some(skopeo) = peers::call("skopeo", actor.dir()) else { return };
        skopeo
            .args(["--insecure-policy"])
            .args(words)
            .args(["--src-tls-verify=false", "--preserve-digests", &from, &theirs])
            .ok();
        crate::harness::Call::new("diff").args(["-r", &mine, &theirs]).ok();
        let back = format!("{}/back{}", registry.address(), scoped.len());
        actor.copy(["sync", "--src", "dir", "--dest", "docker", &mine, &back]).ok();
        assert_eq!(
            actor.copy(["digest", &format!("{back}/app:2")]).ok().stdout,
            actor.copy(["digest", &format!("{from}:2")]).ok().stdout
        );
    }
}

#[test]
fn what_is_too_old_stays_and_what_refers_goes_along() {
    let (source, target) = (FaultyRegistry::start(Auth::Open), FaultyRegistry::start(Auth::Open));
    let Some(actor) = Actor::root() else { return };
    for (tag, created) in [("old", "2019-05-01T00:00:00Z"), ("new", "2024-05-01T00:00:00Z")] {
        dated(&source, "app", tag, created);
    }
    let (from, to) = (source.name("app"), target.name("app"));
    let dry = actor.copy(["sync", "--since", "2020-01-01", "--dry-run", &from, &to]).ok();
    assert_eq!(dry.lines(), [format!("would copy {from}:new to {to}:new")]);
    // One attached document, and one that is attached to it.
    actor.write("note", "words");
    let attach = |name: &str| {
        actor
            .copy(["attach", "--artifact-type", "application/x-note", name, "note:text/plain"])
            .ok()
            .result()
            .to_owned()
    };
    let first = attach(&format!("{from}:new"));
    let digest = first.split_whitespace().find(|word| word.starts_with("sha256:")).expect("a digest").to_owned();
    let second = attach(&format!("{from}@{digest}"));
    actor.copy(["sync", "--since", "2020-01-01", &from, &to]).ok().says(&["1 images copied"]);
    assert!(target.manifest("app", &digest).is_none(), "only where it is asked for");
    actor.copy(["sync", "--since", "2020-01-01", "--referrers", &from, &to]).ok();
    assert!(target.manifest("app", &digest).is_some());
    let second = second.split_whitespace().find(|word| word.starts_with("sha256:")).expect("a digest");
    assert!(target.manifest("app", second).is_some(), "what refers to a referrer goes along, too");
    assert!(target.manifest("app", "old").is_none());
}

/// An image whose configuration says when it was made.
fn dated(registry: &FaultyRegistry, repository: &str, tag: &str, created: &str) {
    let config = format!(
        "{{\"architecture\":\"amd64\",\"os\":\"linux\",\"created\":\"{created}\",\"config\":{{}},\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[]}}}}"
    );
    let digest = layerfs::digest::Digest::of(config.as_bytes()).to_string();
    registry.put_blob(&digest, config.as_bytes());
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": crate::conformance_suite::OCI_MANIFEST,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": config.len() },
        "layers": [],
    });
    registry.put_manifest(repository, tag, crate::conformance_suite::OCI_MANIFEST, manifest.to_string().as_bytes());
}

#[test]
fn no_more_bytes_a_second_than_allowed() {
    let (source, target) = (FaultyRegistry::start(Auth::Open), FaultyRegistry::start(Auth::Open));
    let Some(actor) = Actor::root() else { return };
    fill(&source, "app", "1", &[layer(1, 500_000), layer(2, 500_000)]);
    let (from, to) = (format!("docker://{}", source.name("app:1")), format!("docker://{}", target.name("app:1")));
    let begun = std::time::Instant::now();
    actor.copy(["-q", "--bwlimit", "1M", &from, &to]).ok();
    assert!(begun.elapsed() > Duration::from_millis(900), "{:?}", begun.elapsed());
    actor.copy(["--bwlimit", "fast", &from, &to]).fails(2).says(&["`fast` is no number of bytes"]);
}
