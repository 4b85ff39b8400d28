//! Signatures and other things beside images: ours read by skopeo and oras, theirs by us.

use serde_json::json;

use crate::conformance_suite::{fill, layer};
use crate::harness::{Actor, Auth, Call, FaultyRegistry, Registry, peers};

/// A policy that wants images of this registry signed by one key.
fn policy(actor: &Actor, host: &str, key: &str, identity: &serde_json::Value) -> String {
    let signed = json!([{ "type": "sigstoreSigned", "keyPath": key, "signedIdentity": identity }]);
    let policy = json!({ "default": [{ "type": "reject" }], "transports": { "docker": { host: signed } } });
    actor.write("policy.json", policy.to_string()).display().to_string()
}

/// Skopeo, told that signatures lie in registries.
fn skopeo(actor: &Actor) -> Option<Call> {
    actor.write("registries.d/default.yaml", "default-docker:\n  use-sigstore-attachments: true\n");
    let settings = actor.path("registries.d").display().to_string();
    Some(peers::call("skopeo", actor.dir())?.args(["--registries.d", &settings]))
}

#[test]
fn what_skopeo_signs_we_verify_and_the_other_way_round() {
    let registry = Registry::start();
    let Some(actor) = Actor::root() else { return };
    let source = FaultyRegistry::start(Auth::Open);
    fill(&source, "app", "1", &[layer(1, 1000)]);
    let from = format!("docker://{}", source.name("app:1"));
    let word = actor.write("password", "correct horse\n").display().to_string();
    let at = |name: &str| actor.path(name).display().to_string();
    let any = json!({ "type": "matchRepoDigestOrExact" });

    // Ours, by a key of ours.
    actor.copy(["generate-sigstore-key", "--output-prefix", "ours", "--passphrase-file", &word]).ok();
    let ours = registry.name("signed/ours:1");
    let to = format!("docker://{ours}");
    actor.copy(["--sign-by-sigstore-private-key", "ours.private", "--sign-passphrase-file", &word, &from, &to]).ok();
    let rules = policy(&actor, registry.address(), &at("ours.pub"), &any);
    let dir = format!("dir:{}", at("verified"));
    actor.copy(["--policy", &rules, &to, &dir]).ok();
    let Some(call) = skopeo(&actor) else { return };
    call.args([
        "--policy",
        &rules,
        "copy",
        "--src-tls-verify=false",
        "--remove-signatures",
        &to,
        &format!("dir:{}", at("theirs")),
    ])
    .ok();

    // Skopeo's, by a key of skopeo's.
    let call = skopeo(&actor).expect("it was there");
    call.args(["generate-sigstore-key", "--output-prefix", &at("theirs"), "--passphrase-file", &word]).ok();
    let theirs = format!("docker://{}", registry.name("signed/theirs:1"));
    let call = skopeo(&actor).expect("it was there").args([
        "--insecure-policy",
        "copy",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
    ]);
    call.args([
        "--sign-by-sigstore-private-key",
        &at("theirs.private"),
        "--sign-passphrase-file",
        &word,
        &from,
        &theirs,
    ])
    .ok();
    let rules = policy(&actor, registry.address(), &at("theirs.pub"), &any);
    actor.copy(["--policy", &rules, &theirs, &dir]).ok();
    // The key of one opens nothing of the other, and what nobody signed is nothing.
    actor.copy(["--policy", &rules, &to, &dir]).fails(1).says(&["no signature that the policy accepts"]);
    let unsigned = format!("docker://{}", registry.name("unsigned/app:1"));
    actor.copy([&from, &unsigned]).ok();
    actor.copy(["--policy", &rules, &unsigned, &dir]).fails(1).says(&["no signature"]);
    actor.copy(["--policy", &rules, "--insecure-policy", &unsigned, &dir]).ok();
    // Skopeo's key signs for us, too; the name is what `sign` was told.
    actor
        .copy([
            "sign",
            "--key",
            "theirs.private",
            "--passphrase-file",
            &word,
            "--sign-identity",
            "r.io/other:1",
            &unsigned[9..],
        ])
        .ok();
    actor.copy(["--policy", &rules, &unsigned, &dir]).fails(1).says(&["it is signed as `r.io/other:1`"]);
    let exact = json!({ "type": "exactReference", "dockerReference": "r.io/other:1" });
    let rules = policy(&actor, registry.address(), &at("theirs.pub"), &exact);
    actor.copy(["--policy", &rules, &unsigned, &dir]).ok();
    // A tag that moved on is not signed because the old image was.
    fill(&source, "app", "2", &[layer(2, 1000)]);
    actor.copy([&format!("docker://{}", source.name("app:2")), &unsigned]).ok();
    actor.copy(["--policy", &rules, &unsigned, &dir]).fails(1).says(&["no signature"]);
    // What cannot be checked is refused in words.
    let gpg = json!({ "default": [{ "type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k" }] });
    let rules = actor.write("gpg.json", gpg.to_string()).display().to_string();
    actor.copy(["--policy", &rules, &unsigned, &dir]).fails(1).says(&["signedBy", "cannot be checked"]);
}

#[test]
fn artifacts_are_those_of_oras() {
    for registry in [Some(Registry::start()), Registry::crane()].into_iter().flatten() {
        let Some(actor) = Actor::root() else { return };
        let source = FaultyRegistry::start(Auth::Open);
        fill(&source, "app", "1", &[layer(1, 1000)]);
        let image = registry.name("group/app:1");
        actor.copy([&source.name("app:1"), &image]).ok();
        actor.write("sbom.json", "{\"packages\":[]}");
        let attached = actor
            .copy([
                "attach",
                "--artifact-type",
                "application/x-sbom",
                "-a",
                "by=us",
                &image,
                "sbom.json:application/json",
            ])
            .ok();
        let digest = attached.result().to_owned();
        let Some(oras) = peers::call("oras", actor.dir()) else { return };
        let seen = oras.args(["discover", "--plain-http", "--format", "json", &image]).ok().stdout;
        assert!(seen.contains(&digest) && seen.contains("application/x-sbom"), "{seen}");
        let oras = peers::call("oras", actor.dir()).expect("it was there");
        oras.args(["attach", "--plain-http", "--artifact-type", "application/x-note", &image, "sbom.json:text/plain"])
            .ok();
        let tree = actor.copy(["discover", "--json", &image]).ok().json();
        let kinds: Vec<&str> = tree["referrers"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|entry| entry["artifactType"].as_str())
            .collect();
        assert!(
            kinds.len() == 2 && kinds.contains(&"application/x-sbom") && kinds.contains(&"application/x-note"),
            "{tree}"
        );
        let only = actor.copy(["discover", "--artifact-type", "application/x-note", &image]).ok().stdout;
        assert!(only.contains("x-note") && !only.contains("x-sbom"), "{only}");
        // Both go along to another registry, and nothing is missing there.
        let other = FaultyRegistry::start(Auth::Open).without_referrers();
        let copied = other.name("group/app:1");
        actor.copy(["--referrers", &image, &copied]).ok();
        assert_eq!(
            actor.copy(["discover", "--json", &copied]).ok().json()["referrers"].as_array().map(Vec::len),
            Some(2)
        );

        let artifact = registry.name("group/files:1");
        actor.copy(["artifact", "push", "--artifact-type", "application/x-files", &artifact, "sbom.json"]).ok();
        let oras = peers::call("oras", actor.dir()).expect("it was there");
        oras.args(["pull", "--plain-http", "-o", "theirs", &artifact]).ok();
        let oras = peers::call("oras", actor.dir()).expect("it was there");
        oras.args(["push", "--plain-http", &registry.name("group/files:2"), "sbom.json:text/plain"]).ok();
        actor.copy(["artifact", "pull", "-o", "ours", &registry.name("group/files:2")]).ok();
        for folder in ["theirs", "ours"] {
            assert_eq!(
                std::fs::read_to_string(actor.path(folder).join("sbom.json")).expect("a file"),
                "{\"packages\":[]}"
            );
        }
    }
}
