//! Rules about writing to a registry.

use super::{Bench, Case, OCI_MANIFEST, fill, hold, layer, worked};
use crate::harness::{Auth, Fault, FaultyRegistry, Rule};
use layerfs::digest::Digest;
use serde_json::json;

pub(super) fn cases() -> Vec<Case> {
    let pushing = "spec, pushing";
    vec![
        Case { name: "blobs before the manifest that names them", source: pushing, judge: order },
        Case { name: "the manifest's media type as its Content-Type", source: pushing, judge: content_type },
        Case { name: "an absolute upload Location with a query of its own", source: pushing, judge: absolute_location },
        Case { name: "blobs that are there are not sent again", source: "spec, SHOULD", judge: not_again },
        Case { name: "a mount in the same registry moves no bytes", source: "spec, mounting", judge: mounts },
        Case { name: "the session of a refused mount is used", source: "spec, mounting", judge: mount_session },
        Case { name: "a mount that is forbidden becomes an upload", source: "Quay, ECR", judge: mount_forbidden },
        Case { name: "201 in place of 202 in answer to PATCH", source: "ECR", judge: patch_201 },
        Case { name: "429 with Retry-After on a manifest's PUT", source: "container-libs#42", judge: busy_manifest },
        Case { name: "429 with Retry-After on an upload", source: "oras-go", judge: busy_blob },
        Case { name: "Retry-After of more than a few seconds is honoured", source: "RFC 9110", judge: patient },
        Case { name: "503 in passing on a manifest's PUT", source: "RFC 9110", judge: unavailable },
        Case { name: "an upload that breaks off goes on or begins again", source: "spec, chunks", judge: breaks_off },
        Case { name: "an upload that breaks off goes on where it was", source: "spec, chunks", judge: goes_on },
        Case { name: "a token that expires in the middle of a push", source: "ACR", judge: expired },
        Case {
            name: "a digest in the answer that is another one is an error",
            source: "spec, pushing manifests",
            judge: stored_other,
        },
        Case {
            name: "what refers to an image goes along, where it is asked for",
            source: "spec, referrers",
            judge: referrers,
        },
        Case {
            name: "a list of referrers is kept where the registry has none",
            source: "spec, fallback tag",
            judge: fallback,
        },
        Case { name: "a referrers API that answers with a page for people", source: "GHCR", judge: people },
        Case { name: "tags made of digests go along, where it is asked for", source: "cosign", judge: digest_tags },
        Case { name: "removing a tag spares other tags of the image", source: "skopeo#1432", judge: siblings },
    ]
}

fn order(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    let (layout, image) = bench.layout(300_000);
    worked(&bench.push(&layout, &registry.name("a/b:1")))?;
    let seen = registry.requests();
    let manifest = seen.iter().position(|seen| seen.method == "PUT" && seen.path.contains("/manifests/"));
    let last = seen.iter().rposition(|seen| seen.method == "PUT" && seen.path.contains("/blobs/"));
    hold(
        manifest > last
            && registry.manifest("a/b", "1").is_some_and(|bytes| Digest::of(&bytes).to_string() == image.digest),
        "the manifest came first",
    )
}

fn content_type(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    let (layout, _) = bench.layout(1000);
    worked(&bench.push(&layout, &registry.name("a/b:1")))?;
    let seen = registry.requests();
    let types: Vec<_> = seen
        .iter()
        .filter(|seen| seen.method == "PUT" && seen.path.contains("/manifests/"))
        .map(|seen| seen.content_type.clone())
        .collect();
    hold(types.iter().all(|stated| stated.as_deref() == Some(OCI_MANIFEST)), format!("{types:?}"))
}

fn absolute_location(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    let (layout, image) = bench.layout(300_000);
    registry.absolute_locations("_state=a%2Bb%3D%3D");
    worked(&bench.push(&layout, &registry.name("a/b:1")))?;
    let seen = registry.requests();
    let kept = seen
        .iter()
        .filter(|seen| seen.path.contains("/uploads/upload-") && seen.method != "DELETE")
        .all(|seen| seen.query.contains("_state=a%2Bb%3D%3D"));
    hold(kept && image.layers.iter().all(|layer| registry.has_blob(layer)), "the query was lost or changed")
}

fn not_again(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    let (layout, image) = bench.layout(2_000_000);
    let bytes = std::fs::read(layout.join("blobs").join(image.layers[0].replace(':', "/")))
        .map_err(|error| error.to_string())?;
    registry.put_blob(&image.layers[0], &bytes);
    worked(&bench.push(&layout, &registry.name("a/b:1")))?;
    hold(registry.received() < 1_000_000, format!("{} bytes were sent", registry.received()))
}

fn mounts(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    fill(&registry, "a/b", "1", &[layer(1, 300_000)]);
    // Blobs are asked for by repository.
    registry.hide_blobs_of("c/d");
    worked(&bench.copy(&registry.name("a/b:1"), &registry.name("c/d:1")))?;
    hold(registry.received() < 100_000, format!("{} bytes were sent", registry.received()))
}

fn mount_session(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    let image = fill(&registry, "a/b", "1", &[layer(1, 300_000)]);
    registry.hide_blobs_of("c/d").refuse_mounts();
    worked(&bench.copy(&registry.name("a/b:1"), &registry.name("c/d:1")))?;
    // One session per blob, not a second one beside the one that the refused mount opened.
    let sessions = registry.count("POST", "/blobs/uploads/");
    hold(sessions <= image.layers.len() + 1, format!("{sessions} sessions were opened"))
}

fn mount_forbidden(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    fill(&registry, "a/b", "1", &[layer(1, 300_000)]);
    registry.hide_blobs_of("c/d").forbid_mounts();
    worked(&bench.copy(&registry.name("a/b:1"), &registry.name("c/d:1")))
}

fn patch_201(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    let (layout, _) = bench.layout(600_000);
    registry.answer_patch_with(201);
    worked(&bench.push(&layout, &registry.name("a/b:1")))
}

fn busy(seconds: &str) -> Fault {
    Fault::Status(429, vec![("Retry-After", seconds.to_owned())])
}

fn busy_manifest(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    let (layout, _) = bench.layout(1000);
    registry.rule(Rule::times(1, "PUT", "/manifests/", busy("1")));
    worked(&bench.push(&layout, &registry.name("a/b:1")))
}

fn busy_blob(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    let (layout, _) = bench.layout(600_000);
    registry.rule(Rule::times(1, "POST", "/blobs/uploads/", busy("1")));
    registry.rule(Rule::times(1, "PUT", "/blobs/uploads/", busy("1")));
    worked(&bench.push(&layout, &registry.name("a/b:1")))
}

fn patient(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    let (layout, _) = bench.layout(1000);
    registry.rule(Rule::times(1, "PUT", "/manifests/", busy("6")));
    let begun = std::time::Instant::now();
    worked(&bench.push(&layout, &registry.name("a/b:1")))?;
    let asked = registry.count("PUT", "/manifests/1");
    hold(begun.elapsed().as_secs() >= 6 && asked <= 2, format!("it asked {asked} times within {:?}", begun.elapsed()))
}

fn unavailable(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    let (layout, _) = bench.layout(1000);
    registry.rule(Rule::times(1, "PUT", "/manifests/", Fault::Status(503, Vec::new())));
    worked(&bench.push(&layout, &registry.name("a/b:1")))
}

fn breaks_off(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    let (layout, image) = bench.layout(12_000_000);
    for method in ["PATCH", "PUT"] {
        registry.rule(Rule::times(1, method, "/blobs/uploads/", Fault::KeepHalf));
    }
    worked(&bench.push(&layout, &registry.name("a/b:1")))?;
    hold(registry.has_blob(&image.layers[0]), "the layer is missing")
}

fn goes_on(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    let (layout, _) = bench.layout(12_000_000);
    registry.rule(Rule::times(1, "PATCH", "/blobs/uploads/", Fault::KeepHalf));
    worked(&bench.push(&layout, &registry.name("a/b:1")))?;
    hold(registry.received() < 13_000_000, format!("{} bytes were sent", registry.received()))
}

fn expired(bench: &Bench) -> Result<(), String> {
    let registry = FaultyRegistry::start(Auth::Bearer { user: Some(("robot", "s3cret")) });
    let (layout, _) = bench.layout(600_000);
    bench.log_in(&registry);
    let realm = format!(
        "Bearer realm=\"http://{}/token\",service=\"test\",scope=\"repository:a/b:pull,push\",error=\"invalid_token\"",
        registry.address()
    );
    registry.rule(Rule::times(1, "PUT", "/manifests/", Fault::Status(401, vec![("WWW-Authenticate", realm)])));
    worked(&bench.push(&layout, &registry.name("a/b:1")))
}

fn stored_other(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    let (layout, _) = bench.layout(1000);
    let other = Digest::of(b"something else").to_string();
    registry.rule(Rule::always("PUT", "/manifests/", Fault::Header("Docker-Content-Digest", other)));
    let report = bench.push(&layout, &registry.name("a/b:1"));
    hold(report.code != 0, "it went well")
}

/// A manifest that refers to `subject`, put beside it.
fn refer(registry: &FaultyRegistry, subject: &str) -> String {
    registry.put_blob(&Digest::of(b"{}").to_string(), b"{}");
    let size = registry.manifest("a/b", subject).map_or(0, |bytes| bytes.len());
    let empty =
        json!({ "mediaType": "application/vnd.oci.empty.v1+json", "digest": Digest::of(b"{}").to_string(), "size": 2 });
    let bytes = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "application/x-note", "config": empty, "layers": [empty],
        "subject": { "mediaType": OCI_MANIFEST, "digest": subject, "size": size },
    })
    .to_string()
    .into_bytes();
    registry.put_manifest("a/b", &Digest::of(&bytes).to_string(), OCI_MANIFEST, &bytes)
}

fn referrers(bench: &Bench) -> Result<(), String> {
    let (registry, other) = (bench.registry(), bench.registry());
    let image = fill(&registry, "a/b", "1", &[layer(1, 1000)]);
    let note = refer(&registry, &image.digest);
    let second = refer(&registry, &note);
    worked(&bench.copy_with_referrers(&registry.name("a/b:1"), &other.name("c/d:1")))?;
    hold(other.manifest("c/d", &note).is_some() && other.manifest("c/d", &second).is_some(), "they stayed behind")
}

fn fallback(bench: &Bench) -> Result<(), String> {
    let (registry, other) = (bench.registry(), bench.registry().without_referrers());
    let image = fill(&registry, "a/b", "1", &[layer(1, 1000)]);
    let note = refer(&registry, &image.digest);
    worked(&bench.copy_with_referrers(&registry.name("a/b:1"), &other.name("c/d:1")))?;
    let list = other.manifest("c/d", &image.digest.replace(':', "-")).unwrap_or_default();
    hold(String::from_utf8_lossy(&list).contains(&note), "there is no list under the tag")
}

fn people(bench: &Bench) -> Result<(), String> {
    let (registry, other) = (bench.registry(), bench.registry());
    fill(&registry, "a/b", "1", &[layer(1, 1000)]);
    registry.rule(Rule::always("GET", "/referrers/", Fault::Page));
    worked(&bench.copy_with_referrers(&registry.name("a/b:1"), &other.name("c/d:1")))?;
    hold(other.manifest("c/d", "1").is_some(), "the image stayed behind")
}

fn digest_tags(bench: &Bench) -> Result<(), String> {
    let (registry, other) = (bench.registry(), bench.registry());
    let image = fill(&registry, "a/b", "1", &[layer(1, 1000)]);
    let tag = format!("{}.sig", image.digest.replace(':', "-"));
    fill(&registry, "a/b", &tag, &[layer(3, 100)]);
    worked(&bench.copy_with_referrers(&registry.name("a/b:1"), &other.name("c/d:1")))?;
    hold(other.manifest("c/d", &tag).is_some(), "it stayed behind")
}

fn siblings(bench: &Bench) -> Result<(), String> {
    let registry = bench.registry();
    fill(&registry, "a/b", "1", &[layer(1, 1000)]);
    fill(&registry, "a/b", "2", &[layer(1, 1000)]);
    bench.delete(&registry.name("a/b:1"));
    hold(registry.manifest("a/b", "2").is_some(), "the other tag went too")
}
