//! Rules about reading from a registry.

use super::{Bench, Case, OCI_INDEX, OCI_MANIFEST, documents, fill, hold, layer, worked};
use crate::harness::{Auth, Fault, FaultyRegistry, Rule};
use layerfs::digest::Digest;
use serde_json::json;

pub(super) fn cases() -> Vec<Case> {
    let spec = "spec, pulling";
    vec![
        Case { name: "a manifest and its blobs arrive bit by bit", source: spec, judge: arrives },
        Case { name: "every platform of an index arrives with it", source: spec, judge: index },
        Case {
            name: "unknown media types, fields and sha512 survive",
            source: "image-spec, extensibility",
            judge: unknown,
        },
        Case {
            name: "a wrong byte in a blob is an error and names nothing",
            source: "spec, pulling blobs",
            judge: wrong_byte,
        },
        Case {
            name: "a wrong byte in a manifest asked for by digest",
            source: "spec, pulling manifests",
            judge: wrong_manifest,
        },
        Case { name: "a lying Docker-Content-Digest", source: "GHSA-qv35-3gw6-8q4j", judge: lying_header },
        Case { name: "no Docker-Content-Digest at all", source: "spec, MAY", judge: no_header },
        Case { name: "a Content-Type other than the document's own", source: "CVE-2021-41190", judge: other_type },
        Case { name: "a blob that breaks off is gone on with", source: "spec, Range", judge: breaks_off },
        Case { name: "a blob that breaks off where Range is ignored", source: "spec, SHOULD", judge: ignores_range },
        Case { name: "a blob that ends early for good is an error", source: "spec, pulling blobs", judge: ends_early },
        Case { name: "more bytes than announced are an error", source: "image-spec, size", judge: too_long },
        Case { name: "429 with Retry-After on a manifest", source: "RFC 9110", judge: busy_manifest },
        Case { name: "429 with Retry-After on a blob", source: "RFC 9110", judge: busy_blob },
        Case { name: "503 in passing", source: "RFC 9110", judge: unavailable },
        Case { name: "a dropped connection in passing", source: "practice", judge: dropped },
        Case { name: "a page of HTML in place of an error", source: "Docker Hub", judge: html },
        Case { name: "tags over several pages, by a relative Link", source: "spec, listing tags", judge: pages },
        Case { name: "pages that link in a circle come to an end", source: "GHCR", judge: circle },
        Case { name: "a list of tags that is null", source: "distribution", judge: null_tags },
        Case { name: "Basic credentials", source: "RFC 7617", judge: basic },
        Case { name: "a token from the token server", source: "token specification", judge: token },
        Case { name: "a token without any credential", source: "token specification", judge: anonymous },
        Case { name: "a token that expires between two blobs", source: "ACR", judge: expired },
    ]
}

fn arrives(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    let image = fill(&registry, "a/b", "1", &[layer(1, 1000), layer(2, 300_000)]);
    let pulled = bench.pull(&registry.name("a/b:1"));
    worked(&pulled.report)?;
    hold(pulled.blob(&image.digest).is_some(), "the manifest is another one")?;
    hold(
        image
            .layers
            .iter()
            .all(|layer| pulled.blob(layer).is_some_and(|bytes| Digest::of(&bytes).to_string() == *layer)),
        "a layer is missing",
    )
}

fn index(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    let entries: Vec<_> = ["amd64", "arm64", "s390x"]
        .iter()
        .zip(1..)
        .map(|(architecture, seed)| {
            let (manifest, blobs) = documents(&[layer(seed, 500)]);
            blobs.iter().for_each(|(digest, bytes)| registry.put_blob(digest, bytes));
            let digest = registry.put_manifest("a/b", &Digest::of(&manifest).to_string(), OCI_MANIFEST, &manifest);
            json!({ "mediaType": OCI_MANIFEST, "digest": digest, "size": manifest.len(), "platform": { "os": "linux", "architecture": architecture } })
        })
        .collect();
    let bytes = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries }).to_string().into_bytes();
    let digest = registry.put_manifest("a/b", "1", OCI_INDEX, &bytes);
    let pulled = bench.pull(&registry.name("a/b:1"));
    worked(&pulled.report)?;
    hold(pulled.blob(&digest).as_deref() == Some(&bytes), "the index is another one")?;
    let all = entries.iter().all(|entry| pulled.blob(entry["digest"].as_str().unwrap_or_default()).is_some());
    hold(all, "a platform is missing")
}

fn unknown(bench: &Bench) -> Result<(), String> {
    use layerfs::digest::{Algorithm, Hasher};
    let registry = bench.registry();
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(b"payload");
    let long = hasher.finish().to_string();
    registry.put_blob(&long, b"payload");
    registry.put_blob(&Digest::of(b"{}").to_string(), b"{}");
    let manifest = format!(
        r#"{{ "schemaVersion":2, "mediaType":"{OCI_MANIFEST}", "artifactType":"application/x-own",
  "config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{}","size":2}},
  "layers":[{{"mediaType":"application/x-thing","digest":"{long}","size":7,"annotations":{{"z":"1","a":"2"}}}}], "x-future":[1.50] }}"#,
        Digest::of(b"{}")
    );
    registry.put_manifest("a/b", "1", OCI_MANIFEST, manifest.as_bytes());
    worked(&bench.copy(&registry.name("a/b:1"), &registry.name("c/d:1")))?;
    hold(registry.manifest("c/d", "1").as_deref() == Some(manifest.as_bytes()), "the manifest arrived changed")
}

fn wrong_byte(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    let image = fill(&registry, "a/b", "1", &[layer(1, 300_000)]);
    registry.rule(Rule::always("GET", image.layers[0].clone(), Fault::WrongByte));
    let pulled = bench.pull(&registry.name("a/b:1"));
    hold(pulled.report.code != 0 && !pulled.names_an_image(), "it went well")
}

fn wrong_manifest(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    let image = fill(&registry, "a/b", "1", &[layer(1, 1000)]);
    let (other, blobs) = documents(&[layer(2, 1000)]);
    blobs.iter().for_each(|(digest, bytes)| registry.put_blob(digest, bytes));
    registry.rule(Rule::always("GET", format!("/manifests/{}", image.digest), Fault::Body(other)));
    let pulled = bench.pull(&registry.name(&format!("a/b@{}", image.digest)));
    hold(pulled.report.code != 0 && !pulled.names_an_image(), "it went well")
}

fn lying_header(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    fill(&registry, "a/b", "1", &[layer(1, 1000)]);
    let lie = Digest::of(b"something else").to_string();
    registry.rule(Rule::always("GET", "/manifests/1", Fault::Header("Docker-Content-Digest", lie.clone())));
    registry.rule(Rule::always("HEAD", "/manifests/1", Fault::Header("Docker-Content-Digest", lie)));
    let pulled = bench.pull(&registry.name("a/b:1"));
    hold(pulled.report.code != 0 && !pulled.names_an_image(), "it went well")
}

fn no_header(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    fill(&registry, "a/b", "1", &[layer(1, 1000)]);
    registry.rule(Rule::always("GET", "/manifests/", Fault::Without("Docker-Content-Digest")));
    registry.rule(Rule::always("HEAD", "/manifests/", Fault::Without("Docker-Content-Digest")));
    worked(&bench.pull(&registry.name("a/b:1")).report)
}

fn other_type(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    fill(&registry, "a/b", "1", &[layer(1, 1000)]);
    for method in ["GET", "HEAD"] {
        registry.rule(Rule::always(method, "/manifests/1", Fault::Header("Content-Type", OCI_INDEX.to_owned())));
    }
    let pulled = bench.pull(&registry.name("a/b:1"));
    hold(!pulled.names_an_image(), "it was taken for what it is not")
}

fn breaks_off(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    let image = fill(&registry, "a/b", "1", &[layer(1, 3_000_000)]);
    registry.rule(Rule::times(1, "GET", image.layers[0].clone(), Fault::Truncate(1_500_000)));
    let pulled = bench.pull(&registry.name("a/b:1"));
    worked(&pulled.report)?;
    let seen = registry.requests();
    let ranges: Vec<_> =
        seen.iter().filter(|seen| seen.method == "GET").filter_map(|seen| seen.range.clone()).collect();
    hold(!ranges.is_empty(), "all of it was fetched again")
}

fn ignores_range(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    let bytes = layer(1, 3_000_000);
    let image = fill(&registry, "a/b", "1", std::slice::from_ref(&bytes));
    registry.rule(Rule::times(1, "GET", image.layers[0].clone(), Fault::Truncate(1_500_000)));
    // What answers from here on is a registry that always sends everything.
    registry.ignore_ranges();
    let pulled = bench.pull(&registry.name("a/b:1"));
    worked(&pulled.report)?;
    hold(pulled.blob(&image.layers[0]).is_some_and(|found| found.len() >= bytes.len()), "the layer is another one")
}

fn ends_early(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    let image = fill(&registry, "a/b", "1", &[layer(1, 300_000)]);
    let whole = layer(1, 300_000);
    registry.put_blob(&image.layers[0], &whole[..100_000]);
    let pulled = bench.pull(&registry.name("a/b:1"));
    hold(!pulled.names_an_image(), "a part was taken for the whole")
}

fn too_long(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    let bytes = layer(1, 1000);
    let image = fill(&registry, "a/b", "1", std::slice::from_ref(&bytes));
    registry.put_blob(&image.layers[0], &[&bytes[..], b"more"].concat());
    let pulled = bench.pull(&registry.name("a/b:1"));
    hold(!pulled.names_an_image(), "more was taken for the whole")
}

fn busy() -> Fault {
    Fault::Status(429, vec![("Retry-After", "1".to_owned())])
}

fn busy_manifest(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    fill(&registry, "a/b", "1", &[layer(1, 1000)]);
    registry.rule(Rule::times(1, "GET", "/manifests/", busy()));
    worked(&bench.pull(&registry.name("a/b:1")).report)
}

fn busy_blob(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    let image = fill(&registry, "a/b", "1", &[layer(1, 1000)]);
    registry.rule(Rule::times(1, "GET", image.layers[0].clone(), busy()));
    worked(&bench.pull(&registry.name("a/b:1")).report)
}

fn unavailable(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    let image = fill(&registry, "a/b", "1", &[layer(1, 1000)]);
    registry.rule(Rule::times(1, "GET", "/manifests/", Fault::Status(503, Vec::new())));
    registry.rule(Rule::times(1, "GET", image.layers[0].clone(), Fault::Status(503, Vec::new())));
    worked(&bench.pull(&registry.name("a/b:1")).report)
}

fn dropped(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    let image = fill(&registry, "a/b", "1", &[layer(1, 1000)]);
    registry.rule(Rule::times(1, "GET", "/manifests/", Fault::Drop));
    registry.rule(Rule::times(1, "GET", image.layers[0].clone(), Fault::Drop));
    worked(&bench.pull(&registry.name("a/b:1")).report)
}

fn html(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    registry.rule(Rule::always("GET", "/manifests/", Fault::Page));
    registry.rule(Rule::always("HEAD", "/manifests/", Fault::Page));
    let pulled = bench.pull(&registry.name("a/b:1"));
    hold(pulled.report.code != 0 && !pulled.report.stderr.contains("<html"), "the page was shown to the user")
}

fn pages(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    (0..25).for_each(|tag| drop(fill(&registry, "a/b", &format!("tag{tag:02}"), &[layer(1, 10)])));
    registry.page_tags(10);
    let report = bench.tags(&registry.name("a/b"));
    worked(&report)?;
    hold((0..25).all(|tag| report.stdout.contains(&format!("tag{tag:02}"))), "some are missing")
}

fn circle(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    fill(&registry, "a/b", "1", &[layer(1, 10)]);
    registry.rule(Rule::always(
        "GET",
        "/tags/list",
        Fault::Header("Link", "</v2/a/b/tags/list?n=1>; rel=\"next\"".to_owned()),
    ));
    bench.tags(&registry.name("a/b"));
    let asked = registry.count("GET", "/tags/list");
    hold(asked < 100, format!("it asked {asked} times"))
}

fn null_tags(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    registry.rule(Rule::always("GET", "/tags/list", Fault::Body(br#"{"name":"a/b","tags":null}"#.to_vec())));
    worked(&bench.tags(&registry.name("a/b")))
}

fn behind(bench: &Bench, auth: Auth) -> Result<(), String> {
    let registry = FaultyRegistry::start(auth);
    fill(&registry, "a/b", "1", &[layer(1, 1000)]);
    if !matches!(auth, Auth::Bearer { user: None }) {
        bench.log_in(&registry);
    }
    worked(&bench.pull(&registry.name("a/b:1")).report)
}

fn basic(bench: &Bench) -> Result<(), String> {
    behind(bench, Auth::Basic { user: "robot", password: "s3cret" })
}

fn token(bench: &Bench) -> Result<(), String> {
    behind(bench, Auth::Bearer { user: Some(("robot", "s3cret")) })
}

fn anonymous(bench: &Bench) -> Result<(), String> {
    behind(bench, Auth::Bearer { user: None })
}

fn expired(bench: &Bench) -> Result<(), String> {
    let registry = FaultyRegistry::start(Auth::Bearer { user: Some(("robot", "s3cret")) });
    let image = fill(&registry, "a/b", "1", &[layer(1, 1000), layer(2, 300_000)]);
    bench.log_in(&registry);
    let realm = format!(
        "Bearer realm=\"http://{}/token\",service=\"test\",scope=\"repository:a/b:pull\",error=\"invalid_token\"",
        registry.address()
    );
    registry.rule(Rule::times(
        1,
        "GET",
        image.layers[1].clone(),
        Fault::Status(401, vec![("WWW-Authenticate", realm)]),
    ));
    worked(&bench.pull(&registry.name("a/b:1")).report)
}
