//! The store on disk is an OCI layout that others read, whatever our commands did last.

use crate::harness::{Actor, Registry, crowd, peers};

/// skopeo reads this image out of the store as it lies on disk.
fn assert_others_read(actor: &Actor, name: &str) {
    let Some(skopeo) = peers::call("skopeo", actor.dir()) else { return };
    let layout = format!("oci:{}:{name}", actor.store().display());
    let seen = skopeo.args(["inspect", "--raw", &layout]).ok().json();
    assert!(seen["schemaVersion"] == 2, "{seen}");
    let whole = peers::call("skopeo", actor.dir()).expect("it was there before").args(["inspect", &layout]).ok().json();
    assert!(whole["Layers"].as_array().is_some_and(|layers| !layers.is_empty()), "{whole}");
    // Every blob that the image names is there and is what it says it is.
    let copy = actor.path("checked");
    drop(std::fs::remove_dir_all(&copy));
    peers::call("skopeo", actor.dir())
        .expect("it was there before")
        .args(["copy", "-q", &layout, &format!("dir:{}", copy.display())])
        .ok();
}

#[test]
fn skopeo_reads_the_store_after_every_command() {
    let registry = Registry::start();
    for actor in Actor::everyone() {
        let actor = actor.with_busybox();
        assert_others_read(&actor, "localhost/busybox:latest");

        actor.write(
            "app/Dockerfile",
            "FROM localhost/busybox\nRUN echo built > /built\nCOPY Dockerfile /copied\nCMD [\"cat\", \"/built\"]\n",
        );
        actor.build(["-t", "localhost/app:1", &actor.path("app").display().to_string()]).ok();
        assert_others_read(&actor, "localhost/app:1");

        actor.run(["--rm", "localhost/app:1"]).ok();
        assert_others_read(&actor, "localhost/app:1");

        actor.copy(["tag", "localhost/app:1", "localhost/app:2"]).ok();
        assert_others_read(&actor, "localhost/app:2");
        actor.copy(["rmi", "localhost/app:1"]).ok();
        assert_others_read(&actor, "localhost/app:2");

        let name = registry.name(&format!("{}/app:2", actor.name()));
        actor.copy(["store:localhost/app:2", &format!("docker://{name}")]).ok();
        assert_others_read(&actor, "localhost/app:2");

        let puller = actor.elsewhere();
        puller.run(["--rm", &name]).ok();
        assert_others_read(&puller, &name);
        puller.copy([&format!("docker://{name}"), "store:localhost/copied"]).ok();
        assert_others_read(&puller, "localhost/copied:latest");
    }
}

#[test]
fn images_are_listed_tagged_and_removed() {
    let Some(actor) = Actor::ordinary() else { return };
    let actor = actor.with_busybox();
    actor.copy(["tag", "localhost/busybox", "localhost/other:3"]).ok();
    let listed = actor.copy(["images"]).ok();
    assert!(listed.stdout.contains("localhost/busybox") && listed.stdout.contains("localhost/other"), "{listed}");
    actor.copy(["rmi", "localhost/busybox"]).ok();
    assert_eq!(actor.run(["--rm", "localhost/other:3", "echo", "still here"]).ok().stdout, "still here\n");
    actor.copy(["rmi", "localhost/other:3"]).ok();
    let listed = actor.copy(["images"]).ok();
    assert!(!listed.stdout.contains("localhost/"), "{listed}");
    actor.copy(["rmi", "localhost/other:3"]).fails(1).says(&["localhost/other:3"]);
}

#[test]
fn many_writers_share_one_store() {
    let registry = Registry::start();
    let Some(actor) = Actor::ordinary() else { return };
    let actor = actor.with_busybox();
    for number in 0..4 {
        actor.copy(["store:localhost/busybox", &format!("docker://{}", registry.name(&format!("many:{number}")))]).ok();
    }
    let user = actor.elsewhere();
    let running: Vec<_> = (0..12)
        .map(|number| user.run(["--rm", &registry.name(&format!("many:{}", number % 4)), "echo", "up"]).start())
        .collect();
    for report in running {
        assert_eq!(report.wait().expect_code(0).stdout, "up\n");
    }
    assert_eq!(user.copy(["images"]).ok().stdout.matches("many").count(), 4);
    user.assert_nothing_left();
}

#[test]
fn one_image_of_a_thousand_goes_alone() {
    let Some(actor) = Actor::root() else { return };
    let blobs = || std::fs::read_dir(actor.store().join("blobs/sha256")).expect("blobs").count();
    let layers = || std::fs::read_dir(actor.store().join("layers")).expect("layers").count();
    std::fs::create_dir_all(actor.store()).expect("ours");
    crowd::make(&actor.store(), 1000);
    assert_eq!(actor.copy(["images", "-q"]).ok().lines().len(), 1000);
    let (all_blobs, all_layers) = (blobs(), layers());
    assert_eq!(actor.copy(["gc", "--dry-run"]).ok().stdout, "0 blobs, 0 layers, 0 B would be freed\n");
    actor.copy(["rmi", &crowd::name(500)]).ok();
    // The one in the background and this one take turns: after it, both are over.
    actor.copy(["gc"]).ok();
    assert_eq!(all_blobs - blobs(), 3, "its manifest, its configuration and its own layer");
    assert_eq!(all_layers - layers(), 1);
    assert_eq!(actor.copy(["images", "-q"]).ok().lines().len(), 999);
    let usage = actor.copy(["df", "--json"]).ok().json();
    assert_eq!(usage["Kinds"][0]["Total"], 999);
    assert_eq!(usage["Kinds"][5]["RawSize"], 0, "nothing is left over");
    let names = usage["Images"].as_array().expect("a list").iter();
    assert!(names.clone().all(|image| image["UniqueSize"].as_u64().is_some_and(|bytes| bytes > 0)));
}
