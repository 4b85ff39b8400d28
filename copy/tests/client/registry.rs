//! The registry client against a registry that misbehaves: what the protocol, and the incidents of other clients,
//! ask of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::stub::{OCI_MANIFEST, Reply, Request, Stub, blob, image};
use copy::credentials::{Credential, Keyring};
use copy::{Location, Options, Transferred, transfer};
use layerfs::digest::{Algorithm, Digest, Hasher};
use layerfs::error::{Error, Kind};
use layerfs::progress::Silent;

fn location(text: &str) -> Location {
    text.parse().expect("a location")
}

/// Options that read none of the user's own files.
fn options() -> Options {
    Options { keyring: Some(Arc::new(Keyring::default())), retries: 2, ..Options::default() }
}

fn with_credential() -> Options {
    let credential = Credential::parse("me:secret").expect("valid");
    Options { keyring: Some(Arc::new(Keyring::fixed(credential))), ..options() }
}

fn copy(source: &str, destination: &str, options: &Options) -> Result<Transferred, Error> {
    transfer(&location(source), &location(destination), None, options, &Silent)
}

/// Copies `app:1` of the stub into a layout, and what the layout then names.
fn pull(stub: &Stub, dir: &Path, options: &Options) -> Result<Digest, Error> {
    copy(&stub.name("app:1"), &format!("oci:{}:x", dir.display()), options).map(|done| done.root.digest)
}

fn failure(result: Result<impl std::fmt::Debug, Error>) -> (Kind, String) {
    let error = result.expect_err("it must fail");
    (error.kind(), error.chain())
}

fn names_nothing(dir: &Path) {
    let index = std::fs::read_to_string(dir.join("index.json")).unwrap_or_default();
    assert!(!index.contains("sha256:"), "{index}");
}

fn is_blob_get(request: &Request) -> bool {
    request.method == "GET" && request.path().contains("/blobs/")
}

/// A script that asks for a token, and a token server on the same stub.
fn token_server(stub: &Stub, realm: Option<String>) {
    let realm = realm.unwrap_or_else(|| format!("http://{}/token", stub.address));
    stub.script(move |request| {
        if request.path() == "/token" {
            let scope = request.query("scope").unwrap_or_default();
            return Some(match request.header("authorization") {
                // me:secret
                Some("Basic bWU6c2VjcmV0") => {
                    Reply::new(200).body(format!(r#"{{"token":"T-{scope}","expires_in":300}}"#))
                }
                None if request.method == "POST"
                    && String::from_utf8_lossy(&request.body).contains("refresh_token=R") =>
                {
                    Reply::new(200).body(r#"{"access_token":"T-identity"}"#)
                }
                _ => Reply::new(401),
            });
        }
        let bearer = request.header("authorization").is_some_and(|value| value.starts_with("Bearer T-"));
        let challenge = format!(r#"Bearer realm="{realm}",service="s",scope="x""#);
        (!bearer).then(|| Reply::new(401).with("www-authenticate", challenge))
    });
}

#[test]
fn a_token_is_fetched_once_and_used_for_everything() {
    let (stub, dir) = (Stub::start(), tempfile::tempdir().expect("tempdir"));
    let digest = stub.add_image("app:1", &[&[1; 5000], &[2; 400_000]]);
    token_server(&stub, None);
    assert_eq!(pull(&stub, dir.path(), &with_credential()).expect("copied"), digest);
    let tokens = stub.requests(|request| request.path() == "/token");
    assert_eq!(tokens.len(), 1, "{tokens:?}");
    assert_eq!(tokens[0].query("scope").as_deref(), Some("repository:app:pull"));
    assert_eq!(tokens[0].query("service").as_deref(), Some("s"));

    copy(&format!("oci:{}:x", dir.path().display()), &stub.name("other:1"), &with_credential()).expect("pushed");
    let scopes = stub.requests(|request| request.query("scope").as_deref() == Some("repository:other:pull,push"));
    assert_eq!(scopes.len(), 1);
    assert!(stub.state().manifests.contains_key("other:1"));
}

#[test]
fn an_identity_token_is_exchanged() {
    let (stub, dir) = (Stub::start(), tempfile::tempdir().expect("tempdir"));
    stub.add_image("app:1", &[b"layer"]);
    token_server(&stub, None);
    let keyring = Keyring::fixed(Credential::IdentityToken("R".into()));
    pull(&stub, dir.path(), &Options { keyring: Some(Arc::new(keyring)), ..options() }).expect("copied");
}

#[test]
fn a_refusal_names_the_registry_and_what_was_tried() {
    let (stub, dir) = (Stub::start(), tempfile::tempdir().expect("tempdir"));
    token_server(&stub, None);
    let error = pull(&stub, dir.path(), &options()).expect_err("no credential");
    assert_eq!(error.kind(), Kind::Unauthorized);
    let chain = error.chain();
    assert!(chain.contains(&stub.address.to_string()) && chain.contains("there are no credentials for it"), "{chain}");
    assert!(error.advice().is_some_and(|hint| hint.contains("copy login")), "{error:?}");
}

#[test]
fn credentials_do_not_go_to_a_hostile_token_server() {
    for realm in ["http://169.254.169.254/token", "http://192.0.2.1/token", "https://user:pw@192.0.2.1/token"] {
        let (stub, dir) = (Stub::start(), tempfile::tempdir().expect("tempdir"));
        token_server(&stub, Some(realm.to_owned()));
        assert_eq!(failure(pull(&stub, dir.path(), &with_credential())).0, Kind::Denied, "{realm}");
    }
}

#[test]
fn wrong_bytes_are_never_named() {
    let dir = tempfile::tempdir().expect("tempdir");
    for size in [1000, 700_000] {
        let (stub, sink) = (Stub::start(), Stub::start());
        let layer = vec![7; size];
        stub.add_image("app:1", &[&layer]);
        let digest = Digest::of(&layer).to_string();
        stub.state().blobs.insert(digest.clone(), [&[8], &layer[1..]].concat());
        let (kind, chain) = failure(pull(&stub, dir.path(), &options()));
        assert_eq!(kind, Kind::Corrupt, "{chain}");
        names_nothing(dir.path());

        let (kind, chain) = failure(copy(&stub.name("app:1"), &sink.name("app:1"), &options()));
        assert_eq!(kind, Kind::Corrupt, "{chain}");
        assert!(chain.contains(&digest), "{chain}");
        let completed = sink.requests(|request| request.method == "PUT" && request.target.contains(&digest[7..]));
        assert!(completed.is_empty(), "{completed:?}");
        assert!(sink.state().manifests.is_empty());
    }
}

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    let (stub, dir) = (Stub::start(), tempfile::tempdir().expect("tempdir"));
    let layer: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    let digest = stub.add_image("app:1", &[&layer]);
    let whole = layer.clone();
    let mut breaks = 0;
    stub.script(move |request| {
        let wanted = is_blob_get(request) && request.path().ends_with(&Digest::of(&whole).to_string());
        let first = wanted && request.header("range").is_none() && breaks == 0;
        first.then(|| {
            breaks += 1;
            Reply { cut: Some(1_000_000), ..Reply::new(200).body(whole.clone()) }
        })
    });
    assert_eq!(pull(&stub, dir.path(), &options()).expect("copied"), digest);
    let ranges: Vec<String> =
        stub.requests(is_blob_get).iter().filter_map(|request| request.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, ["bytes=1000000-"]);
}

#[test]
fn a_registry_that_ignores_ranges_is_read_again() {
    let (stub, dir) = (Stub::start(), tempfile::tempdir().expect("tempdir"));
    let layer = vec![5; 2_000_000];
    let digest = stub.add_image("app:1", &[&layer]);
    let mut count = 0;
    stub.script(move |request| {
        (is_blob_get(request) && request.path().ends_with(&Digest::of(&layer).to_string())).then(|| {
            count += 1;
            Reply { cut: (count == 1).then_some(500_000), ..Reply::new(200).body(layer.clone()) }
        })
    });
    assert_eq!(pull(&stub, dir.path(), &options()).expect("copied"), digest);
}

/// Bytes of which no part is like another.
fn noise(size: u32) -> Vec<u8> {
    (0..size).flat_map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()).collect()
}

#[test]
fn a_slow_blob_comes_over_several_connections() {
    // Of 24 MB, at 64 KB a millisecond at most.
    let (stub, layer, dir) = (Stub::start(), noise(6_000_000), tempfile::tempdir().expect("tempdir"));
    stub.add_image("app:1", &[&layer]);
    let answered = layer.clone();
    stub.script(move |request| {
        let wanted = is_blob_get(request) && request.path().ends_with(&Digest::of(&answered).to_string());
        wanted.then(|| Reply { pieces: Some(64 << 10), ..blob(&answered, request).with("accept-ranges", "bytes") })
    });
    pull(&stub, dir.path(), &options()).expect("pulled");
    let ranges = stub.requests(|request| request.header("range").is_some_and(|range| !range.ends_with('-')));
    assert!(ranges.len() >= 5, "{}", ranges.len());
    let asked: u64 = ranges.iter().map(range_size).sum();
    assert!(asked < layer.len() as u64 - (7 << 20), "{asked} bytes twice");
}

/// How many bytes `bytes=5-9` asks for.
fn range_size(request: &Request) -> u64 {
    let range = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let (from, last) = range.expect("a range");
    last.parse::<u64>().expect("a number") + 1 - from.parse::<u64>().expect("a number")
}

#[test]
fn ranges_that_are_not_what_they_should_be_are_not_believed() {
    let layer = noise(6_000_000);
    // One registry ignores ranges that have an end, the next gives others than asked for, the last breaks off.
    for habit in ["whole", "other", "cut", "wrong"] {
        let (stub, dir) = (Stub::start(), tempfile::tempdir().expect("tempdir"));
        stub.add_image("app:1", &[&layer]);
        let answered = layer.clone();
        stub.script(move |request| {
            if !is_blob_get(request) || !request.path().ends_with(&Digest::of(&answered).to_string()) {
                return None;
            }
            let reply = blob(&answered, request).with("accept-ranges", "bytes");
            let open = request.header("range").is_none_or(|range| range.ends_with('-'));
            Some(match habit {
                _ if request.header("range").is_none() => Reply { pieces: Some(64 << 10), ..reply },
                _ if open => reply,
                "whole" => Reply::new(200).body(answered.clone()),
                "other" => Reply::new(206)
                    .with("content-range", format!("bytes 0-99/{}", answered.len()))
                    .body(&answered[..100]),
                "cut" => Reply { cut: Some(1000), ..reply },
                _ => Reply { body: reply.body.iter().map(|byte| byte ^ 1).collect(), ..reply },
            })
        });
        let pulled = pull(&stub, dir.path(), &options());
        match habit {
            "wrong" => {
                assert_eq!(failure(pulled).0, Kind::Corrupt);
                names_nothing(dir.path());
            }
            _ => drop(pulled.expect(habit)),
        }
    }
}

#[test]
fn a_truncated_layer_is_an_error_that_says_where() {
    let (stub, dir) = (Stub::start(), tempfile::tempdir().expect("tempdir"));
    let layer = vec![5; 100_000];
    stub.add_image("app:1", &[&layer]);
    let digest = Digest::of(&layer).to_string();
    stub.state().blobs.insert(digest.clone(), layer[..60_000].to_vec());
    let (kind, chain) = failure(pull(&stub, dir.path(), &options()));
    assert_eq!(kind, Kind::Corrupt, "{chain}");
    assert!(chain.contains(&digest) && chain.contains("60000") && chain.contains("100000"), "{chain}");
    names_nothing(dir.path());
}

#[test]
fn more_bytes_than_announced_are_an_error() {
    let (stub, dir) = (Stub::start(), tempfile::tempdir().expect("tempdir"));
    stub.add_image("app:1", &[b"layer"]);
    stub.state().blobs.insert(Digest::of(b"layer").to_string(), b"layer and more".to_vec());
    assert_eq!(failure(pull(&stub, dir.path(), &options())).0, Kind::Corrupt);
}

#[test]
fn a_manifest_is_what_its_digest_says() {
    let dir = tempfile::tempdir().expect("tempdir");
    // The registry's header lies.
    let stub = Stub::start();
    stub.add_image("app:1", &[b"layer"]);
    let (manifest, _) = image(&[b"layer"]);
    let body = manifest.clone();
    stub.script(move |request| {
        request.path().contains("/manifests/").then(|| {
            let reply = Reply::new(200).with("content-type", OCI_MANIFEST).body(body.clone());
            reply.with("docker-content-digest", Digest::of(b"another").to_string())
        })
    });
    assert_eq!(failure(pull(&stub, dir.path(), &options())).0, Kind::Corrupt);
    // The body is not what was asked for by digest.
    let stub = Stub::start();
    let digest = stub.add_image("app:1", &[b"layer"]);
    let other = image(&[b"other"]).0;
    stub.state().manifests.insert(format!("app:{digest}"), (OCI_MANIFEST.to_owned(), other));
    stub.script(|request| (request.method == "HEAD").then(|| Reply::new(404)));
    let result = copy(&stub.name(&format!("app@{digest}")), &format!("oci:{}", dir.path().display()), &options());
    assert_eq!(failure(result).0, Kind::Corrupt);
    names_nothing(dir.path());
}

#[test]
fn ambiguous_and_endless_manifests_are_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let config = r#"{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}"#;
    let both = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"manifests":[]}}"#);
    let index = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    for (document, expected) in [
        (both.into_bytes(), Kind::Invalid),
        (index.as_bytes().to_vec(), Kind::Invalid),
        (b"{".to_vec(), Kind::Invalid),
        (vec![b' '; 5 << 20], Kind::Limit),
    ] {
        let stub = Stub::start();
        stub.add_document("app", "1", OCI_MANIFEST, &document);
        assert_eq!(failure(pull(&stub, dir.path(), &options())).0, expected);
    }
}

#[test]
fn retry_after_is_honoured_for_bodies_too() {
    let (stub, dir) = (Stub::start(), tempfile::tempdir().expect("tempdir"));
    let digest = stub.add_image("app:1", &[b"layer"]);
    pull(&stub, dir.path(), &options()).expect("copied");
    let mut asked = 0;
    stub.script(move |request| {
        (request.method == "PUT" && request.path().contains("/manifests/") && asked < 1).then(|| {
            asked += 1;
            Reply::new(429).with("retry-after", "1")
        })
    });
    let start = Instant::now();
    let done = copy(&format!("oci:{}:x", dir.path().display()), &stub.name("b:1"), &options()).expect("pushed");
    assert_eq!(done.root.digest, digest);
    assert!(start.elapsed().as_millis() >= 1000, "{:?}", start.elapsed());
}

#[test]
fn a_registry_that_stays_busy_is_an_error() {
    let (stub, dir) = (Stub::start(), tempfile::tempdir().expect("tempdir"));
    stub.script(|request| (request.path() != "/v2/").then(|| Reply::new(503).body("busy")));
    let (kind, chain) = failure(pull(&stub, dir.path(), &options()));
    assert_eq!(kind, Kind::Unavailable);
    assert!(chain.contains("503") && chain.contains("busy"), "{chain}");
    // One that asks for an hour is told so at once.
    stub.script(|request| (request.path() != "/v2/").then(|| Reply::new(429).with("retry-after", "3600")));
    let start = Instant::now();
    let (kind, chain) = failure(pull(&stub, dir.path(), &options()));
    assert_eq!(kind, Kind::Unavailable);
    assert!(chain.contains("3600") && start.elapsed().as_secs() < 5, "{chain}");
}

#[test]
fn authorization_stays_with_its_host() {
    let (stub, storage, dir) = (Stub::start(), Stub::start(), tempfile::tempdir().expect("tempdir"));
    let layer = vec![3; 300_000];
    stub.add_image("app:1", &[&layer]);
    storage.add_image("app:1", &[&layer]);
    let there = storage.address;
    stub.script(move |request| match request.header("authorization") {
        None => Some(Reply::new(401).with("www-authenticate", "Basic realm=x")),
        // Blobs lie elsewhere, and go elsewhere.
        Some(_) if is_blob_get(request) => {
            Some(Reply::new(307).with("location", format!("http://{there}{}", request.target)))
        }
        Some(_) if request.method == "HEAD" => Some(Reply::new(404)),
        Some(_) if request.method == "POST" => {
            Some(Reply::new(202).with("location", format!("http://{there}/v2/x/blobs/uploads/s?sig=1")))
        }
        Some(_) => None,
    });
    pull(&stub, dir.path(), &with_credential()).expect("copied");
    // All uploads share the one session of the storage.
    let one_by_one = Options { parallel: 1, ..with_credential() };
    copy(&format!("oci:{}:x", dir.path().display()), &stub.name("b:1"), &one_by_one).expect("pushed");
    assert!(storage.requests(|request| request.method == "PATCH" || request.method == "PUT").len() >= 2);
    let leaked = storage.requests(|request| request.header("authorization").is_some());
    assert!(leaked.is_empty(), "{leaked:?}");
}

#[test]
fn blobs_of_the_same_registry_are_mounted() {
    let stub = Stub::start();
    stub.add_image("app:1", &[&[1; 1000], &[2; 600_000]]);
    let done = copy(&stub.name("app:1"), &stub.name("b:1"), &options()).expect("copied");
    let moved = done.moved.expect("something moved");
    assert_eq!((moved.mounted, moved.sent), (3, 0));
    assert!(stub.requests(is_blob_get).is_empty());
    let posts = stub.requests(|request| request.method == "POST");
    assert!(posts.iter().all(|post| post.query("from").as_deref() == Some("app")), "{posts:?}");
    // Again: one question each side.
    let before = stub.requests(|_| true).len();
    assert_eq!(copy(&stub.name("app:1"), &stub.name("b:1"), &options()).expect("copied").moved, None);
    let asked: Vec<String> =
        stub.requests(|_| true)[before..].iter().map(|r| format!("{} {}", r.method, r.path())).collect();
    assert_eq!(asked, ["GET /v2/", "GET /v2/app/manifests/1", "GET /v2/", "HEAD /v2/b/manifests/1"]);
}

#[test]
fn a_refused_mount_becomes_an_upload() {
    let stub = Stub::start();
    stub.add_image("app:1", &[&[2; 600_000]]);
    stub.script(|request| {
        let session = format!("/v2/b/blobs/uploads/m{}", request.query("mount")?.len());
        (request.method == "POST").then(|| Reply::new(202).with("location", session))
    });
    // Both blobs would share the session: one at a time.
    let done = copy(&stub.name("app:1"), &stub.name("b:1"), &Options { parallel: 1, ..options() }).expect("copied");
    assert_eq!(done.moved.map(|moved| (moved.mounted, moved.sent)), Some((0, 2)));
}

#[test]
fn what_is_unknown_survives_bit_by_bit() {
    let (stub, dir) = (Stub::start(), tempfile::tempdir().expect("tempdir"));
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(b"payload");
    let long = hasher.finish();
    let manifest = format!(
        r#"{{ "schemaVersion":2,  "mediaType":"{OCI_MANIFEST}","artifactType":"application/x-own",
 "config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{}","size":2}},
 "layers":[{{"mediaType":"application/x-thing","digest":"{long}","size":7,"annotations":{{"z":"1","a":"2"}},"x-own":[1.50]}}],
 "annotations":{{"k":"v"}},"future":null}}"#,
        Digest::of(b"{}")
    );
    stub.add_document("app", "1", OCI_MANIFEST, manifest.as_bytes());
    stub.state().blobs.insert(Digest::of(b"{}").to_string(), b"{}".to_vec());
    stub.state().blobs.insert(long.to_string(), b"payload".to_vec());
    let archive = dir.path().join("a.tar").display().to_string();
    let layout = dir.path().join("l").display().to_string();
    copy(&stub.name("app:1"), &format!("oci:{layout}:x"), &options()).expect("to a layout");
    copy(&format!("oci:{layout}:x"), &format!("oci-archive:{archive}:x"), &options()).expect("to an archive");
    copy(&format!("oci-archive:{archive}:x"), &stub.name("back:1"), &options()).expect("to a registry");
    assert_eq!(stub.state().manifests["back:1"].1, manifest.as_bytes());
    assert!(dir.path().join("l/blobs/sha512").join(long.hex()).exists());
}

#[test]
fn an_index_is_copied_whole_or_in_part() {
    let (stub, dir) = (Stub::start(), tempfile::tempdir().expect("tempdir"));
    let mut entries = Vec::new();
    for (architecture, layer) in [("amd64", b"one"), ("arm64", b"two"), ("s390x", b"six")] {
        let digest = stub.add_image("app:x", &[layer]);
        let size = image(&[layer]).0.len();
        entries.push(serde_json::json!({"mediaType": OCI_MANIFEST, "digest": digest.to_string(), "size": size,
            "platform": {"os": "linux", "architecture": architecture}}));
    }
    let index = "application/vnd.oci.image.index.v1+json";
    let bytes = serde_json::json!({"schemaVersion": 2, "mediaType": index, "manifests": entries}).to_string();
    stub.add_document("app", "1", index, bytes.as_bytes());

    assert_eq!(pull(&stub, dir.path(), &options()).expect("whole"), Digest::of(bytes.as_bytes()));
    let chosen = |platforms: &[&str]| {
        let platforms: Vec<layerfs::oci::Platform> =
            platforms.iter().map(|platform| platform.parse().expect("valid")).collect();
        let platforms = match platforms.len() {
            1 => copy::Platforms::One(platforms[0].clone()),
            _ => copy::Platforms::Some(platforms),
        };
        let target = tempfile::tempdir().expect("tempdir");
        let options = Options { platforms, ..options() };
        let result = pull(&stub, target.path(), &options);
        let blobs = std::fs::read_dir(target.path().join("blobs/sha256")).map_or(0, Iterator::count);
        result.map(|digest| (digest, blobs))
    };
    let (digest, blobs) = chosen(&["linux/arm64"]).expect("one");
    assert_eq!((digest.to_string(), blobs), (entries[1]["digest"].as_str().expect("text").to_owned(), 3));
    let (digest, blobs) = chosen(&["linux/arm64", "linux/s390x"]).expect("two");
    assert_ne!(digest, Digest::of(bytes.as_bytes()));
    assert_eq!(blobs, 7);
    let error = chosen(&["windows/amd64"]).expect_err("none");
    assert!(error.advice().is_some_and(|hint| hint.contains("linux/s390x")), "{error:?}");
}
