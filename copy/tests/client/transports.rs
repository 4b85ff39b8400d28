//! Images through every local transport and back, and into the store.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::stub::{Request, Stub};
use copy::credentials::Keyring;
use copy::{Location, Options, Platforms, Recompress, Transferred, pull, push, transfer};
use layerfs::archive::{Compression, decompress};
use layerfs::digest::Digest;
use layerfs::error::{Error, Kind};
use layerfs::oci::{Document, Platform, media_type};
use layerfs::progress::{Event, Progress, Silent};
use layerfs::reference::Reference;
use layerfs::store::{Image, Store};

fn location(text: &str) -> Location {
    text.parse().expect("a location")
}

fn name(text: &str) -> Reference {
    text.parse().expect("a name")
}

/// Options that read none of the user's own files.
fn options() -> Options {
    Options { keyring: Some(Arc::new(Keyring::default())), retries: 2, ..Options::default() }
}

fn copy(source: &str, destination: &str, store: Option<&Store>) -> Result<Transferred, Error> {
    transfer(&location(source), &location(destination), store, &options(), &Silent)
}

/// A layer as the system's own tar makes it: one file of `size` bytes.
fn layer(file: &str, size: usize) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("tempdir");
    let content: Vec<u8> = (0..size).map(|i| (i * 7 % 253) as u8).collect();
    std::fs::create_dir(dir.path().join("etc")).expect("mkdir");
    std::fs::write(dir.path().join("etc").join(file), content).expect("write");
    let tar = Command::new("tar").arg("-C").arg(dir.path()).args(["--owner=0", "--group=0", "-c", "etc"]).output();
    tar.expect("tar runs").stdout
}

/// A registry with an image of two plain layers; its name and the layers.
fn registry() -> (Stub, Digest, Vec<Vec<u8>>) {
    let stub = Stub::start();
    let layers = vec![layer("one", 700_000), layer("two", 10)];
    let digest = stub.add_image("app:1", &layers.iter().map(Vec::as_slice).collect::<Vec<_>>());
    (stub, digest, layers)
}

fn image(store: &Store, text: &str) -> Image {
    store.image(&store.find(text).expect("it is there").descriptor, &Platform::host()).expect("an image")
}

#[test]
fn every_transport_gives_back_what_it_got() {
    let (stub, digest, _) = registry();
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(&dir.path().join("store")).expect("a store");
    let at = |file: &str| dir.path().join(file).display().to_string();
    let chain = [
        stub.name("app:1"),
        format!("oci:{}:v1", at("layout")),
        format!("oci-archive:{}:v1", at("a.tar")),
        format!("dir:{}", at("flat")),
        "store:localhost/app:1".to_owned(),
    ];
    for pair in chain.windows(2) {
        let done = copy(&pair[0], &pair[1], Some(&store)).expect(&pair[1]);
        assert_eq!(done.root.digest, digest, "{}", pair[1]);
    }
    assert_eq!(image(&store, "localhost/app:1").manifest_descriptor.digest, digest);
    // Others read the store as it lies.
    let again = copy(&format!("oci:{}:localhost/app:1", at("store")), &format!("oci:{}:v2", at("layout")), None);
    assert_eq!(again.expect("readable").moved.expect("a new name").sent, 0);
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("a folder").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left.len(), 4, "{left:?}");
}

#[test]
fn a_docker_archive_holds_the_same_image() {
    let (stub, _, layers) = registry();
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(&dir.path().join("store")).expect("a store");
    let at = |file: &str| dir.path().join(file).display().to_string();
    // Compressed in the registry, plain in the archive.
    let gzipped = Options { recompress: Some(Recompress::All(Compression::GZIP)), ..options() };
    transfer(&location(&stub.name("app:1")), &location(&stub.name("gz:1")), None, &gzipped, &Silent).expect("packed");
    copy(&stub.name("gz:1"), &format!("docker-archive:{}:app:1", at("d.tar")), None).expect("written");
    let listed = Command::new("tar").arg("-tf").arg(at("d.tar")).output().expect("tar runs").stdout;
    let listed = String::from_utf8(listed).expect("text");
    for layer in &layers {
        assert!(listed.contains(&format!("{}.tar\n", Digest::of(layer).hex())), "{listed}");
    }
    copy(&format!("docker-archive:{}:app:1", at("d.tar")), "store:back", Some(&store)).expect("read");
    copy(&stub.name("app:1"), "store:straight", Some(&store)).expect("pulled");
    assert_eq!(image(&store, "back").id(), image(&store, "straight").id());
    // The same, packed as a whole.
    let packed = Command::new("gzip").arg("-k").arg(at("d.tar")).status().expect("gzip runs");
    assert!(packed.success());
    copy(&format!("docker-archive:{}", at("d.tar.gz")), "store:packed", Some(&store)).expect("read");
    assert_eq!(image(&store, "packed").id(), image(&store, "straight").id());
}

#[test]
fn plain_layers_are_packed_once_and_always_alike() {
    #[derive(Default)]
    struct Count(Mutex<usize>);
    impl Progress for Count {
        fn event(&self, event: &Event) {
            if matches!(event, Event::Start { label, .. } if label.starts_with("compress")) {
                *self.0.lock().expect("no panic") += 1;
            }
        }
    }
    let (stub, digest, layers) = registry();
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(&dir.path().join("store")).expect("a store");
    copy(&stub.name("app:1"), "store:localhost/app:1", Some(&store)).expect("pulled");
    let root = store.find("localhost/app:1").expect("there").descriptor;
    let count = Count::default();
    let first = push(&store, &root, &name(&stub.name("b:1")), &options(), &count).expect("pushed");
    let second = push(&store, &root, &name(&stub.name("c:1")), &options(), &count).expect("pushed");
    assert_ne!(first.root.digest, digest);
    assert_eq!((first.root.digest, *count.0.lock().expect("no panic")), (second.root.digest, 2));
    // Another store packs to the same bytes.
    let other = Store::open(&dir.path().join("other")).expect("a store");
    copy(&stub.name("app:1"), "store:localhost/app:1", Some(&other)).expect("pulled");
    assert_eq!(push(&other, &root, &name(&stub.name("d:1")), &options(), &Silent).expect("pushed").root, first.root);

    let state = stub.state();
    let Document::Manifest(manifest) = Document::parse(&state.manifests["b:1"].1, None).expect("valid") else {
        panic!("a manifest")
    };
    assert_eq!(manifest.config.digest, image(&store, "localhost/app:1").id(), "the image is the same");
    for (descriptor, layer) in manifest.layers.iter().zip(&layers) {
        assert_eq!(descriptor.media_type, media_type::OCI_LAYER_GZIP);
        let mut plain = Vec::new();
        let packed = &state.blobs[&descriptor.digest.to_string()];
        decompress(&packed[..]).expect("gzip").read_to_end(&mut plain).expect("intact");
        assert_eq!(&plain, layer);
    }
}

#[test]
fn a_pull_is_ready_to_mount_and_costs_one_question_the_next_time() {
    let (stub, digest, _) = registry();
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(dir.path()).expect("a store");
    let wanted = name(&stub.name("app:1"));
    let options = Options { platforms: Platforms::One("linux/amd64".parse().expect("valid")), ..options() };
    let pulled = pull(&store, &wanted, true, &options, &Silent).expect("pulled");
    assert_eq!(pulled.digest, digest);
    for (_, diff_id) in image(&store, &wanted.to_string()).layers() {
        assert!(store.has_layer(diff_id).expect("readable"));
    }
    let before = stub.requests(|_| true).len();
    assert_eq!(pull(&store, &wanted, true, &options, &Silent).expect("pulled"), pulled);
    let asked: Vec<String> =
        stub.requests(|_| true)[before..].iter().map(|r| format!("{} {}", r.method, r.path())).collect();
    assert_eq!(asked, ["GET /v2/", "HEAD /v2/app/manifests/1"]);
    let archs = Options { platforms: Platforms::One("linux/arm64".parse().expect("valid")), ..options };
    // An image for one platform is what it is: asking for another gets it all the same, as elsewhere.
    assert_eq!(pull(&store, &wanted, false, &archs, &Silent).expect("pulled").digest, digest);
}

#[test]
fn a_layer_that_lies_is_neither_stored_nor_unpacked() {
    let (stub, _, layers) = registry();
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(dir.path()).expect("a store");
    let damaged = Digest::of(&layers[0]).to_string();
    let mut bytes = layers[0].clone();
    bytes[600_000] ^= 1;
    stub.state().blobs.insert(damaged.clone(), bytes);
    let wanted = name(&stub.name("app:1"));
    for unpack in [true, false] {
        let error = pull(&store, &wanted, unpack, &options(), &Silent).expect_err("damaged");
        assert_eq!(error.kind(), Kind::Corrupt, "{error:?}");
        assert!(error.advice().is_some() && error.chain().contains("sha256:"), "{error:?}");
        assert!(!store.has_blob(&damaged.parse().expect("valid")));
        assert_eq!(store.resolve(&wanted).expect("readable"), None);
        let diff_id = layerfs::digest::DiffId(damaged.parse().expect("valid"));
        assert!(!store.has_layer(diff_id).expect("readable"));
    }
    assert_eq!(count(&dir.path().join("tmp")), 0);
}

#[test]
fn two_pullers_fetch_each_blob_once() {
    let (stub, digest, _) = registry();
    let dir = tempfile::tempdir().expect("tempdir");
    let wanted = name(&stub.name("app:1"));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let store = Store::open(dir.path()).expect("a store");
                assert_eq!(pull(&store, &wanted, true, &options(), &Silent).expect("pulled").digest, digest);
            });
        }
    });
    let blob = |request: &Request| request.method == "GET" && request.path().contains("/blobs/");
    let mut paths: Vec<String> = stub.requests(blob).iter().map(|request| request.path().to_owned()).collect();
    let layers = paths.iter().filter(|path| path.contains("/blobs/")).count();
    paths.sort();
    paths.dedup();
    // The configuration is small and may be read by each; a layer is not.
    assert!(layers <= paths.len() + 2 * 4, "{layers} of {paths:?}");
}

fn count(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).expect("a folder").flatten();
    entries.filter(|entry| entry.file_name() != ".lock").count()
}

#[test]
fn a_cut_off_archive_is_refused_before_anything_is_written() {
    let (stub, _, _) = registry();
    let dir = tempfile::tempdir().expect("tempdir");
    let at = |file: &str| dir.path().join(file).display().to_string();
    copy(&stub.name("app:1"), &format!("oci-archive:{}:v1", at("a.tar")), None).expect("written");
    File::options().write(true).open(at("a.tar")).and_then(|file| file.set_len(300_000)).expect("cut");
    let error = copy(&format!("oci-archive:{}:v1", at("a.tar")), &format!("oci:{}", at("out")), None).expect_err("cut");
    assert_eq!(error.kind(), Kind::Corrupt, "{error:?}");
    assert!(!dir.path().join("out").exists());
}
