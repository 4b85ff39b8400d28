//! `copy` beside skopeo and crane: the same questions, the same answers, byte for byte where they are documents.

use std::os::unix::fs::symlink;
use std::path::Path;

use crate::conformance_suite::{fill as fill_stub, layer};
use crate::harness::image::Layer;
use crate::harness::{Actor, Auth, Call, FaultyRegistry, Registry, machine, peers};

/// `copy` under the name `skopeo`.
fn as_skopeo(actor: &Actor) -> Call {
    let link = actor.path("skopeo");
    if !link.exists() {
        symlink(machine::programs().join("copy"), &link).expect("a link in our folder");
    }
    actor.call(&link)
}

/// A repository with the tags 1, 2 and 3, made by crane: the third is the first again.
fn fill(registry: &Registry, dir: &Path) -> Option<String> {
    let layer = dir.join("layer.tar");
    std::fs::write(dir.join("file"), "content").expect("a file in our folder");
    Call::new("tar").args(["-cf", "layer.tar", "file"]).dir(dir).ok();
    let name = registry.name("group/app");
    let layer = layer.display().to_string();
    let crane = |args: &[&str]| Some(peers::call("crane", dir)?.arg("--insecure").args(args).ok());
    crane(&["append", "--oci-empty-base", "-f", &layer, "-t", &format!("{name}:1")])?;
    let labels = ["--label", "a=b", "--env", "X=1", "--set-platform", "linux/amd64", "--annotation", "q=r"];
    crane(&[&["mutate", &format!("{name}:1"), "-t", &format!("{name}:2")], &labels[..]].concat())?;
    crane(&["tag", &format!("{name}:1"), "3"])?;
    Some(name)
}

#[test]
fn documents_read_as_skopeos_and_cranes() {
    let registry = Registry::start();
    let Some(actor) = Actor::root() else { return };
    let Some(name) = fill(&registry, actor.dir()) else { return };
    let place = format!("docker://{name}:2");
    for words in [
        vec!["inspect", "--tls-verify=false", &place],
        vec!["inspect", "--tls-verify=false", "--no-tags", &place],
        vec!["inspect", "--tls-verify=false", "--config", &place],
        vec!["inspect", "--tls-verify=false", "--raw", &place],
        vec!["inspect", "--tls-verify=false", "--config", "--raw", &place],
        vec!["inspect", "--tls-verify=false", "--format", "{{.Name}} {{.Digest}} {{.Env}} {{len .Layers}}", &place],
        vec![
            "inspect",
            "--tls-verify=false",
            "--format",
            "{{range .RepoTags}}{{.}},{{end}}{{index .Labels \"a\"}}",
            &place,
        ],
        vec!["list-tags", "--tls-verify=false", place.trim_end_matches(":2")],
    ] {
        let theirs = peers::call("skopeo", actor.dir()).expect("crane is there, so is skopeo").args(&words).ok().stdout;
        assert_eq!(as_skopeo(&actor).args(&words).ok().stdout, theirs, "{words:?}");
    }
    for verb in ["manifest", "config", "digest"] {
        let theirs =
            peers::call("crane", actor.dir()).expect("it was there").args([verb, "--insecure", &place[9..]]).ok();
        assert_eq!(actor.copy([verb, &place]).ok().stdout.trim(), theirs.stdout.trim(), "{verb}");
    }
    let theirs = peers::call("crane", actor.dir())
        .expect("it was there")
        .args(["catalog", "--insecure", registry.address()])
        .ok();
    assert_eq!(actor.copy(["catalog", registry.address()]).ok().stdout, theirs.stdout);
}

#[test]
fn copies_under_skopeos_name_are_skopeos() {
    let registry = Registry::start();
    let Some(actor) = Actor::root() else { return };
    let Some(name) = fill(&registry, actor.dir()) else { return };
    let source = format!("docker://{name}:2");
    let at = |path: &str| actor.path(path).display().to_string();
    for (flags, transport) in [
        (vec![], "dir"),
        (vec!["--format", "v2s2"], "dir"),
        (vec!["--preserve-digests", "--all"], "dir"),
        (vec!["--dest-decompress"], "dir"),
        (vec![], "oci"),
    ] {
        let run = |call: Call, who: &str| {
            let digest = at(&format!("digest-{who}"));
            let target = format!("{transport}:{}", at(&format!("{who}-{}{transport}", flags.join(""))));
            let call =
                call.args(["--insecure-policy", "copy", "-q", "--src-tls-verify=false", "--digestfile", &digest]);
            call.args(&flags).args([&source, &target]).ok();
            std::fs::read_to_string(digest).expect("a digest was written")
        };
        let theirs = run(peers::call("skopeo", actor.dir()).expect("crane is there, so is skopeo"), "theirs");
        let ours = run(as_skopeo(&actor), "ours");
        // Writing a manifest anew makes other bytes of the same content; what is kept is kept by both.
        if flags.is_empty() || flags.contains(&"--preserve-digests") {
            assert_eq!(ours, theirs, "{flags:?}");
        }
        let inspected = format!("{transport}:{}", at(&format!("ours-{}{transport}", flags.join(""))));
        peers::call("skopeo", actor.dir()).expect("it was there").args(["inspect", &inspected]).ok();
    }
}

#[test]
fn a_tag_goes_alone() {
    for registry in [Some(Registry::start()), Registry::crane()].into_iter().flatten() {
        let Some(actor) = Actor::root() else { return };
        let Some(name) = fill(&registry, actor.dir()) else { return };
        let before = actor.copy(["digest", &format!("{name}:1")]).ok().stdout;
        actor.copy(["delete", &format!("{name}:3")]).ok();
        let tags = actor.copy(["list-tags", &name]).ok().json()["Tags"].clone();
        let mut tags: Vec<&str> = tags.as_array().expect("a list").iter().filter_map(|tag| tag.as_str()).collect();
        tags.sort_unstable();
        assert_eq!(tags, ["1", "2"]);
        assert_eq!(actor.copy(["digest", &format!("{name}:1")]).ok().stdout, before);
        actor.copy(["delete", &format!("{name}:3")]).fails(1).says(&["no such tag"]);
    }
}

#[test]
fn a_manifest_goes_with_its_tags_only_by_force() {
    let registry = Registry::start();
    let Some(actor) = Actor::root() else { return };
    let Some(name) = fill(&registry, actor.dir()) else { return };
    let pinned = format!("{name}@{}", actor.copy(["digest", &format!("{name}:1")]).ok().stdout.trim());
    actor.copy(["delete", &pinned]).fails(1).says(&["`1`", "point to it", "--force"]);
    actor.copy(["delete", "--force", &pinned]).ok();
    actor.copy(["digest", &format!("{name}:1")]).fails(1);
    actor.copy(["digest", &format!("{name}:2")]).ok();
}

#[test]
fn old_tags_go_and_what_others_need_stays() {
    let registry = Registry::start();
    let Some(actor) = Actor::root() else { return };
    let Some(name) = fill(&registry, actor.dir()) else { return };
    let index = format!("{name}:index");
    let crane = peers::call("crane", actor.dir()).expect("it was there");
    crane.args(["index", "append", "--insecure", "-m", &format!("{name}:2"), "-t", &index]).ok();
    let child = actor.copy(["digest", &format!("{name}:2")]).ok().stdout;
    let said = actor.copy(["delete", "--keep", "1", "--dry-run", &name]).ok().stdout;
    assert!(said.contains(":1\n") && said.contains(":2\n") && said.contains(":3\n"), "{said}");
    assert!(!said.contains(child.trim()), "the index needs it: {said}");
    actor.copy(["delete", "--keep", "1", &name]).ok();
    let tags = actor.copy(["list-tags", &name]).ok().json()["Tags"].clone();
    assert_eq!(tags, serde_json::json!(["index"]));
    actor.copy(["digest", &format!("{name}@{}", child.trim())]).ok();
    // Nothing here says when it was made.
    actor.copy(["delete", "--older-than", "1s", &name]).ok();
    actor.copy(["digest", &index]).ok();
}

#[test]
fn tags_are_given_without_a_copy() {
    let registry = Registry::start();
    let Some(actor) = Actor::root() else { return };
    let Some(name) = fill(&registry, actor.dir()) else { return };
    let digest = actor.copy(["tag", &format!("docker://{name}:2"), "new", &format!("{name}:other")]).ok().stdout;
    for tag in ["new", "other"] {
        assert_eq!(actor.copy(["digest", &format!("{name}:{tag}")]).ok().stdout, digest);
    }
    actor
        .copy(["tag", &format!("docker://{name}:2"), &registry.name("else/where:1")])
        .fails(2)
        .says(&["another repository"]);
}

#[test]
fn dockers_daemon_takes_and_gives_images() {
    let registry = Registry::start();
    let Some(actor) = Actor::root() else { return };
    let Some(name) = fill(&registry, actor.dir()) else { return };
    let Some(docker) = crate::interop::Docker::start(actor.dir()) else { return };
    let host = format!("unix://{}", actor.path("docker/socket").display());
    let source = format!("docker://{name}:2");
    actor.copy(["--dest-daemon-host", &host, &source, "docker-daemon:localhost/ours:1"]).ok();
    let seen = docker.docker(["image", "inspect", "localhost/ours:1"]).ok().json();
    assert_eq!(seen[0]["Config"]["Labels"]["a"], "b", "{seen}");
    let back = format!("oci:{}", actor.path("back").display());
    actor.copy(["--src-daemon-host", &host, "docker-daemon:localhost/ours:1", &back]).ok();
    assert_eq!(actor.copy(["config", &back]).ok().stdout, actor.copy(["config", &source]).ok().stdout);
    let missing = actor.copy(["inspect", "--daemon-host", &host, "docker-daemon:localhost/missing"]).fails(1);
    missing.says(&["localhost/missing", "404"]);
    actor.copy(["inspect", "--daemon-host", "unix:///nowhere", "docker-daemon:x"]).fails(1).says(&["unix:///nowhere"]);
}

#[test]
fn the_storage_of_podman_takes_and_gives_images() {
    let registry = Registry::start();
    let Some(actor) = Actor::root() else { return };
    let Some(name) = fill(&registry, actor.dir()) else { return };
    let Some(skopeo) = peers::find("skopeo") else { return };
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", skopeo.parent().expect("it lies in a folder").display());
    let dir = actor.dir().display();
    let stored = format!("containers-storage:[vfs@{dir}/storage+{dir}/run]localhost/ours:1");
    let source = format!("docker://{name}:2");
    actor.copy([&source, &stored]).env("PATH", &path).ok();
    let podman = peers::call("podman", actor.dir()).expect("skopeo is there, so is podman");
    let at = |name: &str| actor.path(name).display().to_string();
    let words = [
        "--root",
        &at("storage"),
        "--runroot",
        &at("run"),
        "--storage-driver",
        "vfs",
        "image",
        "inspect",
        "localhost/ours:1",
    ];
    let seen = podman.args(words).ok().json();
    assert_eq!(seen[0]["Labels"]["a"], "b", "{seen}");
    let back = format!("oci:{}", at("back"));
    actor.copy([&stored, &back]).env("PATH", &path).ok();
    assert_eq!(actor.copy(["config", &back]).ok().stdout, actor.copy(["config", &source]).ok().stdout);
    actor.copy([&stored, &back]).env("PATH", at("nothing")).fails(1).says(&["neither `skopeo` nor `podman`"]);
}

/// An image of two layers, the upper of which takes things away.
fn with_whiteouts(registry: &Registry, actor: &Actor) -> Option<String> {
    let lower = Layer::new()
        .dir("a", 0o755)
        .file("a/gone", 0o644, "x")
        .file("a/kept", 0o644, "x")
        .dir("b", 0o755)
        .file("b/hidden", 0o644, "x")
        .file("c", 0o644, "old");
    let upper = Layer::new()
        .file("a/.wh.gone", 0o644, "")
        .file("b/.wh..wh..opq", 0o644, "")
        .file("b/new", 0o644, "x")
        .file("c", 0o644, "new");
    actor.write("lower.tar", lower.tar());
    actor.write("upper.tar", upper.tar());
    let name = registry.name("group/layers:1");
    let at = |name: &str| actor.path(name).display().to_string();
    let crane = peers::call("crane", actor.dir())?;
    crane
        .args(["append", "--insecure", "--oci-empty-base", "-f", &at("lower.tar"), "-f", &at("upper.tar"), "-t", &name])
        .ok();
    Some(name)
}

#[test]
fn an_image_is_one_archive_as_crane_has_it() {
    let registry = Registry::start();
    let Some(actor) = Actor::root() else { return };
    let Some(name) = with_whiteouts(&registry, &actor) else { return };
    let at = |name: &str| actor.path(name).display().to_string();
    actor.copy(["export", &name, &at("ours.tar")]).ok();
    peers::call("crane", actor.dir())
        .expect("it was there")
        .args(["export", "--insecure", &name, &at("theirs.tar")])
        .ok();
    let files = |tar: &str| {
        let listed = Call::new("tar").args(["-tf", &at(tar)]).ok().stdout;
        let mut names: Vec<String> = listed.lines().map(|line| line.trim_end_matches('/').to_owned()).collect();
        names.sort();
        names
    };
    // crane shows what an opaque folder hides; containers do not.
    let mut theirs = files("theirs.tar");
    theirs.retain(|name| name != "b/hidden");
    assert_eq!(files("ours.tar"), theirs);
    assert_eq!(Call::new("tar").args(["-xOf", &at("ours.tar"), "c"]).ok().stdout, "new");
    let flat = registry.name("group/layers:flat");
    actor.copy(["mutate", "--flatten", "-t", &flat, &name]).ok();
    peers::call("crane", actor.dir()).expect("it was there").args(["validate", "--insecure", "--remote", &flat]).ok();
    actor.copy(["export", &flat, &at("flat.tar")]).ok();
    assert_eq!(files("flat.tar"), theirs);
}

#[test]
fn images_are_changed_as_crane_changes_them() {
    let registry = Registry::start();
    let Some(actor) = Actor::root() else { return };
    let Some(name) = fill(&registry, actor.dir()) else { return };
    let changes = [
        "--label",
        "x=y",
        "--env",
        "E=1",
        "--user",
        "nobody",
        "--workdir",
        "/w",
        "--annotation",
        "k=v",
        "--entrypoint",
        "a,b",
        "--cmd",
        "c,d",
    ];
    let (ours, theirs) = (registry.name("group/app:ours"), registry.name("group/app:theirs"));
    let source = format!("{name}:2");
    actor.copy(["mutate"].iter().copied().chain(changes).chain(["-t", &ours, &source])).ok();
    let crane = peers::call("crane", actor.dir()).expect("it was there");
    crane.args(["mutate", "--insecure"]).args(changes).args(["-t", &theirs, &source]).ok();
    let config = |name: &str| actor.copy(["config", name]).ok().json()["config"].clone();
    assert_eq!(config(&ours), config(&theirs));
    assert_eq!(
        actor.copy(["manifest", &ours]).ok().json()["annotations"],
        actor.copy(["manifest", &theirs]).ok().json()["annotations"]
    );
    // A layer on top, and then another base below it.
    actor.write("own.tar", Layer::new().file("own", 0o644, "own").tar());
    let (derived, base) = (registry.name("group/app:derived"), registry.name("group/app:base"));
    let own = actor.path("own.tar").display().to_string();
    actor.copy(["mutate", "--append", &own, "-t", &derived, &source]).ok();
    actor.copy(["mutate", "--append", &actor.path("layer.tar").display().to_string(), "-t", &base, &source]).ok();
    let moved = registry.name("group/app:moved");
    actor.copy(["mutate", "--old-base", &source, "--new-base", &base, "-t", &moved, &derived]).ok();
    let layers = |name: &str| actor.copy(["manifest", name]).ok().json()["layers"].as_array().expect("layers").clone();
    assert_eq!(layers(&moved), [layers(&base), vec![layers(&derived)[1].clone()]].concat());
    peers::call("crane", actor.dir()).expect("it was there").args(["validate", "--insecure", "--remote", &moved]).ok();
    actor
        .copy(["mutate", "--old-base", &base, "--new-base", &source, "-t", &moved, &derived])
        .fails(1)
        .says(&["does not begin"]);
    let again = registry.name("group/app:again");
    let digest = |name: &str| actor.copy(["mutate", "--timestamp", "0", "-t", name, &source]).ok().stdout;
    assert_eq!(digest(&again), digest(&moved), "the same changes make the same image");
}

#[test]
fn indexes_are_made_and_thinned() {
    let registry = Registry::start();
    let Some(actor) = Actor::root() else { return };
    let Some(name) = fill(&registry, actor.dir()) else { return };
    let (amd, arm, index) = (format!("{name}:2"), registry.name("other/app:arm"), registry.name("group/many:1"));
    actor.copy(["mutate", "--set-platform", "linux/arm64", "-t", &arm, &amd]).ok();
    actor.copy(["index", "create", &index, &amd]).ok();
    actor.copy(["index", "append", &index, &arm]).ok();
    let platforms = |name: &str| {
        let list = actor.copy(["manifest", name]).ok().json()["manifests"].as_array().expect("a list").clone();
        list.iter()
            .map(|entry| entry["platform"]["architecture"].as_str().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(platforms(&index), ["amd64", "arm64"]);
    peers::call("crane", actor.dir()).expect("it was there").args(["validate", "--insecure", "--remote", &index]).ok();
    let thin = registry.name("group/many:arm");
    actor.copy(["index", "filter", "--platform", "linux/arm64", &index, &thin]).ok();
    assert_eq!(platforms(&thin), ["arm64"]);
    actor.copy(["index", "append", &amd, &arm]).fails(1).says(&["not an index"]);
    let layout = format!("oci:{}", actor.path("many").display());
    let told = actor.copy(["--progress", "json", &index, &layout]).ok().stderr;
    let same = actor.copy(["--format", "v2s2", &amd, &format!("{name}:docker")]).ok().stdout;
    assert_eq!(actor.copy(["digest", &format!("{name}:docker")]).ok().stdout, same, "changed within its repository");
    assert!(told.lines().any(|line| line.starts_with("{\"event\":\"start\"")), "{told}");
}

#[test]
fn short_names_are_what_the_configuration_says() {
    let (first, second) = (FaultyRegistry::start(Auth::Open), FaultyRegistry::start(Auth::Open));
    let Some(actor) = Actor::root() else { return };
    let image = fill_stub(&second, "team/app", "1", &[layer(1, 100)]);
    let search = format!("unqualified-search-registries = [\"{}\", \"{}\"]\n", first.address(), second.address());
    let alias = format!("[aliases]\n\"own\" = \"{}\"\n", second.name("team/app"));
    let copy = |conf: &str, words: &[&str]| {
        actor.copy(words).env("CONTAINERS_REGISTRIES_CONF", actor.write("registries.conf", conf))
    };
    let digest = format!("{}\n", image.digest);
    assert_eq!(copy(&search, &["digest", "team/app:1"]).ok().stdout, digest);
    assert_eq!(first.count("HEAD", "/manifests/1") + first.count("GET", "/manifests/1"), 1, "the first has nothing");
    assert_eq!(copy(&format!("{search}{alias}"), &["digest", "own:1"]).ok().stdout, digest);
    copy(&format!("{search}{alias}"), &["-q", "own:1", "dir:copied"]).ok();
    let why = copy(&format!("{search}{alias}"), &["auth", "why", "own:1"]).ok().stdout;
    assert!(why.contains(&format!("short name `own:1`: `{}`", second.name("team/app:1"))), "{why}");
    let strict = format!("short-name-mode = \"enforcing\"\n{search}");
    copy(&strict, &["digest", "team/app:1"]).fails(2).says(&["`team/app:1` may stand for", "write the whole name"]);
    // What is written out, or is skopeo's, is not searched for.
    copy(&strict, &["digest", &second.name("team/app:1")]).ok();
}
