//! A store that is really damaged, in every way one can be: `copy check` names the thing and who needs it, a repair
//! makes it sound or says what is left to do.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Actor, Call, Registry, image};

/// A store with one image from a registry, unpacked, whose upper layer needs a shim.
struct Sound {
    actor: Actor,
    _registry: Registry,
    name: String,
}

impl Sound {
    fn new(actor: Actor) -> Self {
        let registry = Registry::start();
        let busybox = fs::read("/bin/busybox").expect("the package busybox-static is installed");
        let below = image::Layer::new()
            .dir("bin/", 0o755)
            .file("bin/busybox", 0o755, busybox)
            .symlink("bin/sh", "busybox")
            .dir("data/", 0o750)
            .file("data/file", 0o644, "content");
        // A file in a folder that this layer does not describe, and a link to a file it does not hold.
        let above = image::Layer::new().file("data/other", 0o4755, "more").hardlink("data/link", "data/file");
        let layout = actor.path("layout");
        image::write_layout(&layout, "it", vec![below.tar(), above.tar()], &json!({"Cmd": ["/bin/sh"]}));
        let name = registry.name("damaged:1");
        actor.copy([&format!("oci:{}:it", layout.display()), &format!("docker://{name}")]).ok();
        actor.copy(["pull", "--unpack", &name]).ok();
        actor.copy(["check"]).ok();
        Self { actor, _registry: registry, name }
    }

    /// The store as it was, under another name, with a way to call `copy` on it.
    fn copied(&self) -> Damaged<'_> {
        let store = self.actor.path("damaged");
        if store.exists() {
            fs::remove_dir_all(&store).expect("ours");
        }
        Call::new("cp").arg("-a").arg(self.actor.store()).arg(&store).ok();
        Damaged { sound: self, store }
    }

    /// Damages a copy, and expects the check to find one object of this kind; then whether a repair is all it takes.
    fn check(&self, title: &str, damage: impl Fn(&Damaged<'_>), kind: &str, problem: &str, healed: bool) {
        let damaged = self.copied();
        damage(&damaged);
        let report = damaged.copy(&["check", "--json"]).fails(1).json();
        let findings = report["findings"].as_array().expect("a list");
        assert_eq!(findings.len(), 1, "{title}: {report:#}");
        assert_eq!(findings[0]["kind"], kind, "{title}: {report:#}");
        let said = findings[0]["problem"].as_str().expect("a sentence");
        assert!(said.contains(problem), "{title}: {said}");
        if ["blob", "layer", "shim"].contains(&kind) {
            assert_eq!(findings[0]["needed_by"], json!([self.name]), "{title}");
        }
        if healed {
            let repaired = damaged.copy(&["check", "--repair"]).ok();
            assert!(repaired.stdout.contains("-> repaired"), "{title}: {repaired}");
        } else {
            let repaired = damaged.copy(&["check", "--repair"]).fails(1);
            let way_out = format!("`copy pull {}` brings it again", self.name);
            assert!(repaired.stdout.contains(&way_out), "{title}: {repaired}");
            damaged.copy(&["pull", &self.name]).ok();
        }
        let clean = damaged.copy(&["check", "--json"]).ok().json();
        assert_eq!(clean["findings"], json!([]), "{title}");
        damaged.copy(&["pull", "--unpack", &self.name]).ok();
        assert_eq!(
            damaged.run(&["--rm", "--network", "none", &self.name, "/bin/busybox", "cat", "/data/link"]).ok().stdout,
            "content",
            "{title}"
        );
    }
}

struct Damaged<'a> {
    sound: &'a Sound,
    store: PathBuf,
}

impl Damaged<'_> {
    fn copy(&self, arguments: &[&str]) -> Call {
        self.sound.actor.copy(arguments).env("LAYERFS_STORE", &self.store)
    }

    fn run(&self, arguments: &[&str]) -> Call {
        self.sound.actor.run(arguments).env("LAYERFS_STORE", &self.store)
    }

    fn manifest(&self) -> Value {
        self.copy(&["inspect", "--raw", &format!("store:{}", self.sound.name)]).ok().json()
    }

    /// The file of the blob with this digest.
    fn blob(&self, digest: &Value) -> PathBuf {
        let digest = digest.as_str().expect("a digest");
        self.store.join("blobs").join(digest.replace(':', "/"))
    }

    fn layer_blob(&self) -> PathBuf {
        self.blob(&self.manifest()["layers"][0]["digest"])
    }

    /// The folder in `layers/` that holds this file.
    fn unpacked(&self, file: &str) -> PathBuf {
        let folders = fs::read_dir(self.store.join("layers")).expect("layers").flatten();
        folders
            .map(|entry| entry.path())
            .find(|path| path.join(file).symlink_metadata().is_ok())
            .unwrap_or_else(|| panic!("no layer holds {file}"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.unpacked(&format!("fs/{name}")).join("fs").join(name)
    }
}

/// Changes a byte in the middle, and nothing that a listing shows.
fn flip(path: &Path) {
    let metadata = fs::metadata(path).expect("it is there");
    let mut bytes = fs::read(path).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).expect("writable");
    let file = fs::File::options().write(true).open(path).expect("writable");
    file.set_modified(metadata.modified().expect("a time")).expect("ours");
}

#[test]
fn every_kind_of_damage_is_found_and_mended() {
    let Some(actor) = Actor::root() else { return };
    let sound = Sound::new(actor);
    let check = |title: &str, damage: &dyn Fn(&Damaged<'_>), kind: &str, problem: &str| {
        sound.check(title, damage, kind, problem, true);
    };
    let pulled = |title: &str, damage: &dyn Fn(&Damaged<'_>), problem: &str| {
        sound.check(title, damage, "blob", problem, false);
    };
    pulled("a flipped byte in a blob", &|it| flip(&it.layer_blob()), "with the digest sha256:");
    pulled(
        "a truncated blob",
        &|it| fs::File::options().write(true).open(it.layer_blob()).expect("open").set_len(100).expect("cut"),
        "has 100 bytes with the digest",
    );
    pulled("a missing blob", &|it| fs::remove_file(it.layer_blob()).expect("removed"), "is missing");
    pulled("a damaged config", &|it| flip(&it.blob(&it.manifest()["config"]["digest"])), "with the digest sha256:");

    check("an altered file", &|it| flip(&it.file("data/other")), "layer", "`data/other` has other content");
    check("a removed file", &|it| fs::remove_file(it.file("bin/sh")).expect("removed"), "layer", "`bin/sh` is missing");
    check(
        "an added file",
        &|it| {
            let added = it.unpacked("fs/bin/busybox").join("fs/added");
            fs::write(added, "").expect("written");
        },
        "layer",
        "`added` does not belong there",
    );
    check(
        "a changed mode",
        &|it| fs::set_permissions(it.file("data/other"), fs::Permissions::from_mode(0o755)).expect("changed"),
        "layer",
        "`data/other` has the mode 755 instead of 4755",
    );
    check(
        "a changed owner",
        &|it| chown(it.file("bin/busybox"), Some(1000), Some(1000)).expect("changed"),
        "layer",
        "`bin/busybox` belongs to 1000:1000 instead of 0:0",
    );
    check(
        "an added attribute",
        &|it| {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(it.file("bin/busybox"), "user.note", b"x", flags).expect("set");
        },
        "layer",
        "`bin/busybox` has other extended attributes",
    );
    check(
        "a layer without its record",
        &|it| fs::remove_file(it.unpacked("fs/data/other").join("meta.json")).expect("removed"),
        "layer",
        "its record cannot be read",
    );
    check(
        "a layer without its files",
        &|it| fs::remove_dir_all(it.unpacked("fs/bin/busybox").join("fs")).expect("removed"),
        "layer",
        "it has no files",
    );
    check(
        "an altered shim",
        &|it| {
            let shim = it.unpacked("fs/data/link");
            fs::remove_file(shim.join("fs/data/link")).expect("removed");
        },
        "shim",
        "`data/link` is missing",
    );
    check(
        "a broken name",
        &|it| {
            let refs: Vec<_> = fs::read_dir(it.store.join("refs")).expect("refs").flatten().collect();
            fs::write(refs[0].path(), "{").expect("written");
        },
        "name",
        "is not a descriptor",
    );
    check("a lost index", &|it| fs::remove_file(it.store.join("index.json")).expect("removed"), "file", "the names");
    check("a lost marker", &|it| fs::remove_file(it.store.join("oci-layout")).expect("removed"), "file", "the format");
    check(
        "a stray file",
        &|it| fs::write(it.store.join("blobs/sha256/stray"), "").expect("written"),
        "file",
        "lies among the blobs",
    );
}

#[test]
fn a_layer_that_was_built_here_heals_its_own_blob() {
    for actor in Actor::everyone() {
        let actor = actor.with_busybox();
        actor.write(
            "app/Dockerfile",
            "FROM localhost/busybox\nRUN mkdir -p /a/b && echo built > /a/b/c && chown 5:6 /a\n",
        );
        actor.build(["-t", "localhost/app:1", &actor.path("app").display().to_string()]).ok();
        actor.run(["--rm", "localhost/app:1", "true"]).ok();
        actor.copy(["check"]).ok();
        let manifest = actor.copy(["inspect", "--raw", "store:localhost/app:1"]).ok().json();
        let layers = manifest["layers"].as_array().expect("layers");
        let digest = layers[layers.len() - 1]["digest"].as_str().expect("a digest").to_owned();
        flip(&actor.store().join("blobs").join(digest.replace(':', "/")));
        actor.copy(["check", "localhost/busybox"]).ok();
        let report = actor.copy(["check", "localhost/app:1"]).fails(1);
        assert!(report.stdout.contains(&digest) && report.stdout.contains("localhost/app:1"), "{report}");
        let repaired = actor.copy(["check", "--repair"]).ok();
        assert!(repaired.stdout.contains("packed again from the unpacked layer"), "{repaired}");
        actor.copy(["check"]).ok();
    }
}

#[test]
fn what_a_container_runs_on_is_not_replaced_under_it() {
    let Some(actor) = Actor::root() else { return };
    let sound = Sound::new(actor);
    let it = sound.copied();
    it.run(&["-d", "--name", "alive", "--network", "none", &sound.name, "/bin/busybox", "sleep", "1000"]).ok();
    flip(&it.file("data/other"));
    let report = it.copy(&["check", "--repair"]).fails(1);
    assert!(report.stdout.contains("a container runs on it; stop it first"), "{report}");
    it.run(&["rm", "-f", "alive"]).ok();
    it.copy(&["check", "--repair"]).ok();
    it.copy(&["check"]).ok();
}

#[test]
fn what_a_dead_process_left_is_swept_by_looking() {
    let Some(actor) = Actor::ordinary() else { return };
    let actor = actor.with_busybox();
    let left = actor.mkdir("home/.local/share/layerfs/tmp/999999999-0-0");
    actor.write("home/.local/share/layerfs/tmp/999999999-0-0/blob", "half");
    actor.copy(["check"]).ok();
    assert!(!left.exists());
}

#[test]
fn every_byte_of_the_store_is_counted_once() {
    for actor in Actor::everyone() {
        let actor = actor.with_busybox();
        actor.copy(["tag", "localhost/busybox", "localhost/second:1"]).ok();
        actor.write("app/Dockerfile", "FROM localhost/busybox\nRUN head -c 300000 /dev/zero > /zeros\n");
        actor.build(["-t", "localhost/app:1", &actor.path("app").display().to_string()]).ok();
        let kind = |document: &Value, name: &str| {
            let kinds = document["Kinds"].as_array().expect("a list");
            kinds.iter().find(|kind| kind["Type"] == name).expect("a kind").clone()
        };
        let before = actor.copy(["df", "--json"]).ok().json();
        assert_eq!(kind(&before, "Images")["Total"], 2, "two names of one image are one");
        assert_eq!(kind(&before, "Unneeded")["RawSize"], 0, "{before:#}");
        let image = |name: &str| {
            let images = before["Images"].as_array().expect("a list");
            let has = |image: &&Value| image["Names"].as_array().expect("names").contains(&json!(name));
            images.iter().find(has).expect("an image").clone()
        };
        let number = |value: &Value| value.as_u64().expect("a number");
        let (app, busybox) = (image("localhost/app:1"), image("localhost/busybox:latest"));
        assert!(number(&app["SharedSize"]) == number(&busybox["SharedSize"]), "{app:#} {busybox:#}");
        assert!(number(&app["UniqueSize"]) >= 600_000, "blob and layer: {app:#}");
        let blobs: u64 = fs::read_dir(actor.store().join("blobs/sha256"))
            .expect("blobs")
            .map(|entry| entry.expect("an entry").metadata().expect("metadata").len())
            .sum();
        assert_eq!(number(&kind(&before, "Images")["RawSize"]), blobs);

        actor.run(["--name", "kept", "localhost/app:1", "sh", "-c", "head -c 50000 /dev/zero > /more"]).ok();
        let with = actor.copy(["df", "--json"]).ok().json();
        assert_eq!((number(&kind(&with, "Containers")["Total"]), number(&kind(&with, "Containers")["Active"])), (1, 0));
        assert!(number(&kind(&with, "Containers")["RawSize"]) >= 50_000, "{with:#}");
        assert!(number(&kind(&with, "Images")["RawReclaimable"]) < number(&kind(&before, "Images")["RawReclaimable"]));
        actor.run(["rm", "kept"]).ok();

        // The step is remembered: the build cache keeps its layer.
        actor.copy(["rmi", "localhost/app:1"]).ok();
        let after = actor.copy(["df", "--format", "{{.Type}} {{.RawSize}}"]).ok();
        let cache = after.lines().into_iter().find_map(|line| line.strip_prefix("Build cache ")).expect("a line");
        assert!(cache.parse::<u64>().expect("a number") >= 300_000, "{after}");
        assert!(actor.copy(["df", "-v"]).ok().stdout.contains("localhost/second"));
    }
}

#[test]
fn a_dry_run_shows_what_a_collection_frees() {
    let Some(actor) = Actor::ordinary() else { return };
    let actor = actor.with_busybox();
    actor.write("app/Dockerfile", "FROM localhost/busybox\nCOPY Dockerfile /\n");
    actor.build(["-t", "localhost/app:1", &actor.path("app").display().to_string()]).ok();
    actor.run(["--name", "kept", "localhost/busybox", "true"]).ok();
    assert_eq!(actor.copy(["gc", "-n"]).ok().stdout, "0 blobs, 0 layers, 0 B would be freed\n");

    let unused = actor.copy(["gc", "--all", "--until", "1h", "--dry-run"]).ok();
    assert!(!unused.stdout.contains("Untagged: localhost/app"), "it was made a moment ago: {unused}");
    let unused = actor.copy(["gc", "--all", "--dry-run"]).ok();
    assert!(unused.stdout.contains("Untagged: localhost/app:1\n"), "{unused}");
    assert!(!unused.stdout.contains("localhost/busybox"), "a container is made of it: {unused}");
    assert!(actor.copy(["images"]).ok().stdout.contains("localhost/app"), "a dry run removes nothing");

    let said = |text: &str| text.lines().last().expect("a summary").replace("would be freed", "freed");
    let freed = actor.copy(["gc", "--all"]).ok();
    assert_eq!(said(&unused.stdout), said(&freed.stdout));
    assert_eq!(actor.copy(["gc"]).ok().stdout, "0 blobs, 0 layers, 0 B freed\n");
    assert_eq!(actor.copy(["images", "--json"]).ok().json().as_array().map(Vec::len), Some(1));
    actor.run(["rm", "kept"]).ok();
}
