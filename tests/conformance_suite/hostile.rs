//! What went wrong elsewhere, and what hostile registries try.

use super::{Bench, Case, OCI_MANIFEST, documents, fill, hold, layer, worked};
use crate::harness::{Auth, Fault, FaultyRegistry, Rule};
use layerfs::digest::Digest;
use serde_json::json;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case { name: "a document with layers and manifests is refused", source: "CVE-2021-41190", judge: ambiguous },
        Case {
            name: "a digest with a path in it never becomes an address",
            source: "CVE-2024-3727",
            judge: path_digest,
        },
        Case { name: "digests of other forms are refused", source: "CVE-2024-3727", judge: odd_digests },
        Case { name: "a manifest without end is refused", source: "image-spec#781", judge: endless },
        Case { name: "a wrong byte never ends as a tag in another registry", source: "oras-go", judge: trusting_sink },
        Case { name: "credentials do not follow a blob to another host", source: "ggcr#2349", judge: redirected },
        Case {
            name: "credentials do not follow an upload to another host",
            source: "CVE-2026-50151",
            judge: uploaded_elsewhere,
        },
        Case {
            name: "credentials do not go to the host of a foreign layer",
            source: "CVE-2020-15157",
            judge: foreign_layer,
        },
        Case { name: "no secret in what is said", source: "practice", judge: secrets },
        Case { name: "a registry that fails for ever comes to an end", source: "practice", judge: forever },
        Case { name: "redirects in a circle come to an end", source: "practice", judge: circle },
        Case { name: "sizes that are no sizes are refused", source: "image-spec, size", judge: odd_sizes },
    ]
}

fn refused(bench: &Bench, document: &str) -> Result<(), String> {
    let registry = bench.registry();
    registry.put_blob(&Digest::of(b"{}").to_string(), b"{}");
    registry.put_manifest("a/b", "1", OCI_MANIFEST, document.as_bytes());
    let pulled = bench.pull(&registry.name("a/b:1"));
    let strange: Vec<_> = registry.requests().into_iter().filter(|seen| seen.path.contains("..")).collect();
    hold(strange.is_empty(), format!("{strange:?}"))?;
    hold(pulled.report.code != 0 && !pulled.names_an_image(), "it went well")
}

fn empty() -> serde_json::Value {
    json!({ "mediaType": "application/vnd.oci.empty.v1+json", "digest": Digest::of(b"{}").to_string(), "size": 2 })
}

fn ambiguous(bench: &Bench) -> Result<(), String> {
    refused(bench, &json!({ "schemaVersion": 2, "config": empty(), "layers": [empty()], "manifests": [] }).to_string())
}

fn with_layer(digest: &str, size: serde_json::Value) -> String {
    let layer = json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size });
    json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": empty(), "layers": [layer] }).to_string()
}

fn path_digest(bench: &Bench) -> Result<(), String> {
    refused(bench, &with_layer("sha256:../../../../v2/other/secret", 2.into()))
}

fn odd_digests(bench: &Bench) -> Result<(), String> {
    let upper = Digest::of(b"{}").to_string().to_uppercase().replace("SHA256", "sha256");
    for digest in ["sha256:abc", "md5:d41d8cd98f00b204e9800998ecf8427e", "sha256", &upper] {
        refused(bench, &with_layer(digest, 2.into())).map_err(|why| format!("{digest}: {why}"))?;
    }
    Ok(())
}

fn odd_sizes(bench: &Bench) -> Result<(), String> {
    let digest = Digest::of(b"{}").to_string();
    for size in [json!(-1), json!(1.5), json!("2"), json!(18_446_744_073_709_551_615_u64)] {
        refused(bench, &with_layer(&digest, size.clone())).map_err(|why| format!("{size}: {why}"))?;
    }
    Ok(())
}

fn endless(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    let document = format!("{}{}", with_layer(&Digest::of(b"{}").to_string(), 2.into()), " ".repeat(40 << 20));
    registry.put_blob(&Digest::of(b"{}").to_string(), b"{}");
    registry.put_manifest("a/b", "1", OCI_MANIFEST, document.as_bytes());
    let pulled = bench.pull(&registry.name("a/b:1"));
    hold(pulled.report.code != 0, "it was read to its end")
}

fn trusting_sink(bench: &Bench) -> Result<(), String> {
    let (registry, sink) = (bench.registry(), bench.registry());
    let image = fill(&registry, "a/b", "1", &[layer(1, 600_000)]);
    registry.rule(Rule::always("GET", image.layers[0].clone(), Fault::WrongByte));
    sink.trust();
    let report = bench.copy(&registry.name("a/b:1"), &sink.name("c/d:1"));
    hold(report.code != 0 && sink.tags().is_empty(), "it was tagged")
}

fn closed() -> FaultyRegistry {
    FaultyRegistry::start(Auth::Basic { user: "robot", password: "s3cret" })
}

fn no_leak(other: &FaultyRegistry) -> Result<(), String> {
    let leaked: Vec<_> = other.requests().into_iter().filter(|seen| seen.authorization.is_some()).collect();
    hold(leaked.is_empty(), format!("{leaked:?}"))
}

fn redirected(bench: &Bench) -> Result<(), String> {
    let (registry, storage) = (closed(), bench.registry());
    let image = fill(&registry, "a/b", "1", &[layer(1, 300_000)]);
    fill(&storage, "a/b", "1", &[layer(1, 300_000)]);
    bench.log_in(&registry);
    let target = format!("http://{}/v2/a/b/blobs/{}", storage.address(), image.layers[0]);
    registry.rule(Rule::always("GET", image.layers[0].clone(), Fault::Status(307, vec![("Location", target)])));
    worked(&bench.pull(&registry.name("a/b:1")).report)?;
    no_leak(&storage)
}

fn uploaded_elsewhere(bench: &Bench) -> Result<(), String> {
    let (registry, storage) = (closed(), bench.registry());
    let (layout, _) = bench.layout(600_000);
    bench.log_in(&registry);
    registry.upload_to(storage.address());
    bench.push(&layout, &registry.name("a/b:1"));
    hold(!storage.requests().is_empty(), "nothing was uploaded there")?;
    no_leak(&storage)
}

fn foreign_layer(bench: &Bench) -> Result<(), String> {
    let (registry, other) = (closed(), closed());
    let (manifest, blobs) = documents(&[layer(1, 1000)]);
    registry.put_blob(&blobs[0].0, &blobs[0].1);
    let mut manifest: serde_json::Value = serde_json::from_slice(&manifest).map_err(|error| error.to_string())?;
    manifest["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar".into();
    manifest["layers"][0]["urls"] = json!([format!("http://{}/v2/x/y/blobs/{}", other.address(), blobs[1].0)]);
    registry.put_manifest("a/b", "1", OCI_MANIFEST, manifest.to_string().as_bytes());
    bench.log_in(&registry);
    bench.pull(&registry.name("a/b:1"));
    no_leak(&other)
}

fn secrets(bench: &Bench) -> Result<(), String> {
    let registry = closed();
    bench.log_in(&registry);
    registry.rule(Rule::always("GET", "/manifests/", Fault::Status(500, Vec::new())));
    registry.rule(Rule::always("HEAD", "/manifests/", Fault::Status(500, Vec::new())));
    let said = bench.pull(&registry.name("a/b:1")).report;
    let text = format!("{}{}", said.stdout, said.stderr);
    hold(!text.contains("s3cret") && !text.contains("cm9ib3Q6czNjcmV0"), "it was said")
}

fn forever(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    fill(&registry, "a/b", "1", &[layer(1, 1000)]);
    for method in ["GET", "HEAD"] {
        registry.rule(Rule::always(method, "/blobs/", Fault::Status(502, Vec::new())));
    }
    let begun = std::time::Instant::now();
    let report = bench.pull(&registry.name("a/b:1")).report;
    hold(report.code != 0 && begun.elapsed().as_secs() < 38, format!("after {:?}: {report}", begun.elapsed()))
}

fn circle(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    let image = fill(&registry, "a/b", "1", &[layer(1, 1000)]);
    let itself = format!("/v2/a/b/blobs/{}", image.layers[0]);
    registry.rule(Rule::always("GET", itself.clone(), Fault::Status(307, vec![("Location", itself.clone())])));
    let report = bench.pull(&registry.name("a/b:1")).report;
    let asked = registry.count("GET", &itself);
    hold(report.code != 0 && asked < 200, format!("it asked {asked} times"))
}
