//! zstd:chunked: what we write is fetched in parts by podman, and what skopeo writes is read by us.

use serde_json::Value;

use crate::harness::image::Layer;
use crate::harness::{Actor, Call, Registry, peers};

/// Bytes that do not compress.
fn noise(seed: u32, size: u32) -> Vec<u8> {
    (0..size).map(|at| ((at ^ seed).wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// A layer with everything that a table of contents tells of.
fn files(seed: u32) -> Layer {
    Layer::new()
        .dir("etc", 0o755)
        .file("etc/empty", 0o600, "")
        .file("etc/small", 0o644, "content")
        .file("etc/set", 0o4755, "by its owner")
        .symlink("etc/link", "small")
        .dir("var", 0o1777)
        .file("var/same", 0o644, noise(1, 3_000_000))
        .file("var/other", 0o644, noise(seed, 1_000_000))
        .file("var/holes", 0o644, [noise(3, 5000), vec![0; 2_000_000], noise(4, 5000)].concat())
        .file(&format!("var/{}", "long".repeat(20)), 0o644, "a name that fills its field")
        .file("var/größe", 0o644, "a name that is not ASCII")
}

/// An image of this layer at `name`, made by crane.
fn put(actor: &Actor, name: &str, layer: Layer) -> Option<()> {
    let path = actor.write("layer.tar", layer.tar()).display().to_string();
    let base = ["append", "--insecure", "--oci-empty-base"];
    peers::call("crane", actor.dir())?.args(base).args(["-f", &path, "-t", name]).ok();
    let platform = ["mutate", "--insecure", "--set-platform", "linux/amd64", name, "-t", name];
    peers::call("crane", actor.dir())?.args(platform).ok();
    Some(())
}

/// The files of an image as one archive.
fn exported(actor: &Actor, name: &str) -> Vec<u8> {
    let file = actor.path("exported.tar");
    actor.copy(["export", name, &file.display().to_string()]).ok();
    std::fs::read(&file).expect("it was written")
}

/// podman with a storage of its own that fetches layers in parts.
fn podman(actor: &Actor) -> Option<Call> {
    let at = |name: &str| actor.path(name).display().to_string();
    let settings = format!(
        "[storage]\ndriver = \"overlay\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n[storage.options]\npull_options = {{enable_partial_images = \"true\", use_hard_links = \"false\", ostree_repos = \"\"}}\n",
        at("storage"),
        at("run")
    );
    let settings = actor.write("storage.conf", settings);
    Some(peers::call("podman", actor.dir())?.env("CONTAINERS_STORAGE_CONF", settings))
}

fn annotations(manifest: &Value) -> Vec<String> {
    let layer = &manifest["layers"][0];
    assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
    layer["annotations"].as_object().into_iter().flat_map(|all| all.keys().cloned()).collect()
}

#[test]
fn podman_fetches_parts_of_what_we_write() {
    let registry = Registry::start();
    let Some(actor) = Actor::root() else { return };
    let plain = registry.name("plain/app:1");
    if put(&actor, &plain, files(7)).is_none() {
        return;
    }
    let chunked = registry.name("chunked/app:1");
    let convert = |from: &str, to: &str| {
        actor.copy(["-q", "--dest-compress-format", "zstd:chunked", from, to]).ok().result().to_owned()
    };
    let digest = convert(&plain, &chunked);
    assert_eq!(convert(&plain, &registry.name("again/app:1")), digest, "always the same bytes");
    assert_eq!(convert(&chunked, &registry.name("same/app:1")), digest, "nothing is done twice");
    let manifest = actor.copy(["manifest", &chunked]).ok().json();
    let keys = annotations(&manifest);
    for key in ["manifest-checksum", "manifest-position", "tarsplit-position"] {
        assert!(keys.contains(&format!("io.github.containers.zstd-chunked.{key}")), "{keys:?}");
    }
    // Every tool makes the same layer of it, as a whole.
    let diff_ids = |config: Value| config["rootfs"]["diff_ids"].clone();
    let wanted = diff_ids(actor.copy(["config", &plain]).ok().json());
    assert_eq!(diff_ids(actor.copy(["config", &chunked]).ok().json()), wanted);
    assert!(exported(&actor, &chunked) == exported(&actor, &plain));
    // podman fetches parts: once all of them, and of the next image what it lacks.
    let pull = |name: &str| {
        let call = podman(&actor).expect("crane is there, so is podman");
        call.args(["--log-level", "debug", "pull", "--tls-verify=false", name]).ok()
    };
    let said = pull(&chunked).stderr;
    assert!(said.contains("Retrieved partial blob"), "{said}");
    let inspect = |name: &str, what: &str| {
        let call = podman(&actor).expect("it was there");
        call.args(["image", "inspect", "--format", what, name]).ok().lines().concat()
    };
    assert_eq!(inspect(&chunked, "{{json .RootFS.Layers}}"), wanted.to_string());
    let saved = actor.path("saved.tar").display().to_string();
    podman(&actor).expect("it was there").args(["save", "-q", "-o", &saved, &chunked]).ok();
    let theirs = exported(&actor, &format!("docker-archive:{saved}"));
    assert!(theirs == exported(&actor, &plain), "the archive is made again from its files");
    let next = registry.name("plain/app:2");
    put(&actor, &next, files(8)).expect("it was there");
    let next_chunked = registry.name("chunked/app:2");
    convert(&next, &next_chunked);
    let said = pull(&next_chunked).stderr;
    let line = said.lines().find(|line| line.contains("Retrieved partial blob")).expect("fetched in parts");
    assert!(!line.contains("missing") || line.len() < 500, "{line}");
}

#[test]
fn what_skopeo_writes_in_chunks_is_read() {
    let registry = Registry::start();
    let Some(actor) = Actor::root() else { return };
    let (plain, chunked) = (registry.name("plain/app:1"), registry.name("chunked/app:1"));
    if put(&actor, &plain, files(7)).is_none() {
        return;
    }
    let skopeo = peers::call("skopeo", actor.dir()).expect("crane is there, so is skopeo");
    let words = ["--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false"];
    let places = [format!("docker://{plain}"), format!("docker://{chunked}")];
    skopeo.args(words).args(["--dest-compress-format", "zstd:chunked"]).args(&places).ok();
    assert!(!annotations(&actor.copy(["manifest", &chunked]).ok().json()).is_empty());
    actor.copy(["pull", "--unpack", &chunked]).ok();
    assert!(exported(&actor, &chunked) == exported(&actor, &plain));
    // Bit by bit, annotations and all.
    let copied = registry.name("copied/app:1");
    actor.copy([&chunked, &copied]).ok();
    actor.copy(["verify", &chunked, &copied]).ok();
    // Packed in another way, the table says nothing any more.
    let packed = registry.name("packed/app:1");
    actor.copy(["--dest-compress-format", "gzip", &chunked, &packed]).ok();
    let manifest = actor.copy(["manifest", &packed]).ok().json();
    assert_eq!(manifest["layers"][0]["annotations"], Value::Null, "{manifest}");
}
