//! `--sbom`: the packages of an image as SPDX 2.3.

use layerfs::digest::Digest;
use layerfs::error::Result;
use layerfs::layer::MergedView;
use serde_json::{Value, json};

use super::packages::{Distribution, Package, distribution, installed};

/// What the statement is about.
pub(super) const PREDICATE_TYPE: &str = "https://spdx.dev/Document";
/// Where the specification wants a word and there is none.
const UNKNOWN: &str = "NOASSERTION";

/// The document of the image `id`, by what lies in its files.
pub(super) fn document(view: &MergedView, id: &Digest, created: &str) -> Result<Value> {
    let (packages, unread) = installed(view)?;
    let distribution = distribution(view)?;
    let entries: Vec<Value> =
        packages.iter().enumerate().map(|(number, package)| entry(number, package, &distribution)).collect();
    let contains = |entry: &Value| {
        json!({
            "spdxElementId": "SPDXRef-Image",
            "relationshipType": "CONTAINS",
            "relatedSpdxElement": entry["SPDXID"],
        })
    };
    let describes = json!({
        "spdxElementId": "SPDXRef-DOCUMENT",
        "relationshipType": "DESCRIBES",
        "relatedSpdxElement": "SPDXRef-Image",
    });
    let relationships: Vec<Value> = std::iter::once(describes).chain(entries.iter().map(contains)).collect();
    let image = json!({
        "SPDXID": "SPDXRef-Image",
        "name": id.to_string(),
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": false,
        "primaryPackagePurpose": "CONTAINER",
    });
    let mut document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": id.to_string(),
        "documentNamespace": format!("https://spdx.org/spdxdocs/image-{}", id.hex()),
        "creationInfo": {
            "created": created,
            "creators": [format!("Tool: layerfs-build-{}", env!("CARGO_PKG_VERSION"))],
        },
        "packages": std::iter::once(image).chain(entries).collect::<Vec<_>>(),
        "relationships": relationships,
    });
    if !unread.is_empty() {
        // A list that is not whole says so.
        document["comment"] = format!("databases that were not read: {}", unread.join(", ")).into();
    }
    Ok(document)
}

fn entry(number: usize, package: &Package, distribution: &Distribution) -> Value {
    let mut entry = json!({
        "SPDXID": format!("SPDXRef-Package-{number}"),
        "name": package.name,
        "versionInfo": package.version,
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": false,
        "licenseConcluded": UNKNOWN,
        "licenseDeclared": UNKNOWN,
        "copyrightText": UNKNOWN,
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": package_url(package, distribution),
        }],
    });
    if !package.supplier.is_empty() {
        entry["supplier"] = format!("Organization: {}", package.supplier).into();
    }
    if !package.license.is_empty() {
        // The package's own words are no expression of SPDX's.
        entry["comment"] = format!("license as the package states it: {}", package.license).into();
    }
    entry
}

/// A package URL: `pkg:deb/debian/bash@5.2?arch=amd64&distro=debian-12`.
fn package_url(package: &Package, distribution: &Distribution) -> String {
    let Distribution { id, version } = distribution;
    let namespace = if id.is_empty() { String::new() } else { format!("{}/", escaped(id)) };
    let mut qualifiers = Vec::new();
    if !package.architecture.is_empty() {
        qualifiers.push(format!("arch={}", escaped(&package.architecture)));
    }
    if !id.is_empty() {
        let version = if version.is_empty() { String::new() } else { format!("-{version}") };
        qualifiers.push(format!("distro={}", escaped(&format!("{id}{version}"))));
    }
    let qualifiers = if qualifiers.is_empty() { String::new() } else { format!("?{}", qualifiers.join("&")) };
    let (name, version) = (escaped(&package.name), escaped(&package.version));
    format!("pkg:{}/{namespace}{name}@{version}{qualifiers}", package.kind)
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_have_addresses() {
        let package = Package {
            kind: "deb",
            name: "libstdc++6".to_owned(),
            version: "1:12.2-3+deb12u1".to_owned(),
            architecture: "amd64".to_owned(),
            ..Package::default()
        };
        let debian = Distribution { id: "debian".to_owned(), version: "12".to_owned() };
        assert_eq!(
            package_url(&package, &debian),
            "pkg:deb/debian/libstdc%2B%2B6@1%3A12.2-3%2Bdeb12u1?arch=amd64&distro=debian-12"
        );
        assert_eq!(
            package_url(&Package { architecture: String::new(), ..package }, &Distribution::default()),
            "pkg:deb/libstdc%2B%2B6@1%3A12.2-3%2Bdeb12u1"
        );
    }
}
