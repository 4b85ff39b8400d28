//! What is told beside an image: its packages and its provenance, in a registry as manifests that refer to it.

use std::fs;

use serde_json::Value;

use crate::harness::{Actor, Registry};

const DOCKERFILE: &str = "FROM localhost/busybox\nARG MODE\n\
    COPY <<EOF /var/lib/dpkg/status\nPackage: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\n\nEOF\n\
    COPY <<EOF /lib/apk/db/installed\nP:musl\nV:1.2.5-r0\nA:x86_64\n\nEOF\n\
    COPY <<EOF /etc/os-release\nID=debian\nVERSION_ID=\"12\"\nEOF\n";

fn addresses(statement: &Value) -> Vec<String> {
    assert_eq!(statement["predicateType"], "https://spdx.dev/Document", "{statement}");
    let packages = statement["predicate"]["packages"].as_array().expect("packages");
    let address = |package: &Value| Some(package["externalRefs"][0]["referenceLocator"].as_str()?.to_owned());
    packages.iter().filter_map(address).collect()
}

const PACKAGES: [&str; 2] = [
    "pkg:apk/debian/musl@1.2.5-r0?arch=x86_64&distro=debian-12",
    "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12",
];

#[test]
fn statements_refer_to_an_image_and_are_no_part_of_it() {
    for actor in Actor::everyone() {
        let registry = Registry::start();
        let actor = actor.with_busybox();
        actor.write("ctx/Dockerfile", DOCKERFILE);
        let name = registry.name("team/app:1");
        let fixed = ["--push", "-t", &name, "--source-date-epoch=1", "--build-arg=MODE=fast"];
        let digest = |flags: &[&str]| {
            let report = actor.build([&fixed[..], flags, &["ctx"]].concat()).ok();
            report.stdout.lines().find_map(|line| line.split_once('@')).expect("it was pushed").1.to_owned()
        };
        let without = digest(&[]);
        assert_eq!(without, digest(&["--sbom", "--provenance=mode=max"]), "the image is the same");
        let listed = actor.copy(["discover", "--json", &name]).ok().json();
        let mut kinds: Vec<String> = Vec::new();
        let mut statements = Vec::new();
        for entry in listed["referrers"].as_array().expect("referrers") {
            assert_eq!(entry["artifactType"], "application/vnd.in-toto+json", "{listed}");
            kinds.push(entry["annotations"]["in-toto.io/predicate-type"].as_str().expect("a kind").to_owned());
            let place =
                format!("docker://{}@{}", registry.name("team/app"), entry["digest"].as_str().expect("a digest"));
            let manifest = actor.copy(["inspect", "--raw", &place]).ok().json();
            assert_eq!(manifest["subject"]["digest"], without.as_str());
            let blob = manifest["layers"][0]["digest"].as_str().expect("a digest").replacen("sha256:", "", 1);
            let blob = fs::read(actor.store().join("blobs/sha256").join(blob)).expect("the store made it");
            statements.push(serde_json::from_slice::<Value>(&blob).expect("JSON"));
        }
        kinds.sort();
        assert_eq!(kinds, ["https://slsa.dev/provenance/v1", "https://spdx.dev/Document"]);
        for statement in &statements {
            assert_eq!(statement["subject"][0]["digest"]["sha256"], without.replacen("sha256:", "", 1));
            match statement["predicateType"].as_str() {
                Some("https://spdx.dev/Document") => assert_eq!(addresses(statement), PACKAGES),
                _ => {
                    let definition = &statement["predicate"]["buildDefinition"];
                    assert_eq!(definition["externalParameters"]["request"]["args"]["build-arg:MODE"], "fast");
                    assert_eq!(definition["internalParameters"]["dockerfile"], DOCKERFILE);
                    let base = definition["resolvedDependencies"][0]["uri"].as_str().expect("the base");
                    assert!(base.starts_with("pkg:docker/localhost/busybox?platform="), "{base}");
                }
            }
        }
        actor.assert_nothing_left();
    }
}

#[test]
fn statements_lie_beside_files_or_are_refused() {
    let Some(actor) = Actor::ordinary() else { return };
    let actor = actor.with_busybox();
    actor.write("ctx/Dockerfile", DOCKERFILE);
    let folder = actor.path("out");
    actor.build(["--sbom", "--provenance", "-o", &folder.display().to_string(), "ctx"]).ok();
    let read =
        |name: &str| -> Value { serde_json::from_slice(&fs::read(folder.join(name)).expect(name)).expect("JSON") };
    assert_eq!(addresses(&read("sbom.spdx.json")), PACKAGES);
    let provenance = read("provenance.json");
    let definition = &provenance["predicate"]["buildDefinition"];
    assert!(definition["internalParameters"]["dockerfile"].is_null(), "mode=min does not tell that much");
    let report = actor.build(["--sbom", "ctx"]).fails(2);
    assert!(report.stderr.contains("hint: add --push"), "{report}");
    let report = actor.build(["--attest", "type=vex", "--push", "-t", "localhost/x", "ctx"]).fails(2);
    assert!(report.stderr.contains("--attest type=vex is not known"), "{report}");
}
