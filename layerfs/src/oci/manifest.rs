//! Manifests and indexes of both families.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Annotations, Descriptor, Platform, media_type, strict};
use crate::error::{Context, Error, Kind, Result};

/// An image manifest (OCI, or docker schema 2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// The document's own media type; OCI allows it to be absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What kind of artifact this is, where it is not an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// The manifest this one refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "Annotations::is_empty")]
    pub annotations: Annotations,
    /// Fields this program does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Manifest {
    /// An OCI image manifest of these parts.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.to_owned()),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: Annotations::new(),
            other: Map::new(),
        }
    }

    /// Whether this is an image with a file system, rather than another artifact.
    pub fn is_image(&self) -> bool {
        media_type::is_config(&self.config.media_type)
    }

    /// The manifest as bytes. Only for manifests we made or changed: what came from elsewhere keeps its own bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        canonical_json(self)
    }
}

/// An image index (OCI), or a docker manifest list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// The document's own media type; OCI allows it to be absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What kind of artifact this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The manifests, best first.
    pub manifests: Vec<Descriptor>,
    /// The manifest this one refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "Annotations::is_empty")]
    pub annotations: Annotations,
    /// Fields this program does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Index {
    /// An OCI image index of these manifests.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::OCI_INDEX.to_owned()),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: Annotations::new(),
            other: Map::new(),
        }
    }

    /// The manifest that serves `wanted` best; the first of equals, as the specification asks. An entry without a
    /// platform serves only where nothing else does.
    pub fn select(&self, wanted: &Platform) -> Option<&Descriptor> {
        let mut best: Option<(u32, &Descriptor)> = None;
        for descriptor in &self.manifests {
            let score = descriptor.platform.as_ref().and_then(|platform| platform.serves(wanted));
            match (score, best) {
                (Some(score), Some((highest, _))) if score <= highest => {}
                (Some(score), _) => best = Some((score, descriptor)),
                (None, _) => {}
            }
        }
        let plain = || self.manifests.iter().find(|d| d.platform.is_none() && media_type::is_manifest(&d.media_type));
        best.map(|(_, descriptor)| descriptor).or_else(plain)
    }

    /// The index as bytes. Only for indexes we made or changed.
    pub fn to_bytes(&self) -> Vec<u8> {
        canonical_json(self)
    }
}

/// A manifest or an index, told apart by content and media type.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "parsed once and taken apart at once; a box would serve nobody")]
pub enum Document {
    /// An image manifest.
    Manifest(Manifest),
    /// An image index.
    Index(Index),
}

impl Document {
    /// Parses the bytes of a manifest or index whose media type is said to be `stated` (by a descriptor or a
    /// Content-Type; `None` where nobody said).
    ///
    /// # Errors
    /// The bytes are not such a document, are both kinds at once, or name another media type than `stated`
    /// (CVE-2021-41190: a document that two readers take for different things), or have a key twice.
    pub fn parse(bytes: &[u8], stated: Option<&str>) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Shape {
            schema_version: Option<u32>,
            media_type: Option<String>,
            #[serde(default)]
            config: Option<serde::de::IgnoredAny>,
            #[serde(default)]
            layers: Option<serde::de::IgnoredAny>,
            #[serde(default)]
            manifests: Option<serde::de::IgnoredAny>,
        }
        let invalid = |why: String| Error::new(Kind::Invalid, format!("manifest {why}"));
        strict::check(bytes, "manifest")?;
        let shape: Shape = serde_json::from_slice(bytes).context(|| "manifest is not a JSON object of its kind")?;
        let media_type = match (shape.media_type.as_deref(), stated) {
            (Some(own), Some(stated)) if own != stated => {
                return Err(invalid(format!("says it is `{own}` but was announced as `{stated}`")));
            }
            (own, stated) => own.or(stated),
        };
        if shape.schema_version == Some(1)
            || media_type.is_some_and(|t| t.starts_with("application/vnd.docker.distribution.manifest.v1"))
        {
            return Err(Error::new(
                Kind::Unsupported,
                "manifest is docker schema 1, which registries stopped serving in 2024",
            )
            .hint("push the image again with a current tool"));
        }
        if shape.schema_version != Some(2) {
            return Err(invalid("has no `schemaVersion` 2".to_owned()));
        }
        let index = shape.manifests.is_some();
        if index && (shape.layers.is_some() || shape.config.is_some()) {
            return Err(invalid("is an image and an index at once".to_owned()));
        }
        match media_type {
            Some(t) if media_type::is_index(t) != index || media_type::is_manifest(t) == index => {
                Err(invalid(format!("does not have the content of its media type `{t}`")))
            }
            _ if index => Ok(Self::Index(serde_json::from_slice(bytes).context(|| "index is malformed")?)),
            _ => Ok(Self::Manifest(serde_json::from_slice(bytes).context(|| "manifest is malformed")?)),
        }
    }

    /// The media type the document states, or the OCI one of its shape.
    pub fn media_type(&self) -> &str {
        match self {
            Self::Manifest(manifest) => manifest.media_type.as_deref().unwrap_or(media_type::OCI_MANIFEST),
            Self::Index(index) => index.media_type.as_deref().unwrap_or(media_type::OCI_INDEX),
        }
    }
}

/// Compact JSON in the order of declaration, which is the order the specification lists the fields in.
pub fn canonical_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("documents hold only strings, numbers, lists and maps with text keys")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn descriptor(media_type: &str, extra: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"sha256:{HEX}","size":7{extra}}}"#)
    }

    #[test]
    fn unknown_fields_survive_a_round_trip() {
        let config = descriptor(media_type::OCI_CONFIG, r#","x-vendor":{"b":1,"a":2.8888888888888887e+137}"#);
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{config},"layers":[],"annotations":{{"z":"1","a":"2"}},"future":true}}"#,
            media_type::OCI_MANIFEST
        );
        let Document::Manifest(manifest) = Document::parse(text.as_bytes(), None).expect("valid") else {
            panic!("a manifest")
        };
        assert_eq!(String::from_utf8(manifest.to_bytes()).expect("text"), text);
    }

    #[test]
    fn ambiguous_documents_are_refused() {
        let config = descriptor(media_type::OCI_CONFIG, "");
        let both = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"manifests":[]}}"#);
        assert!(Document::parse(both.as_bytes(), None).is_err());
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        assert!(Document::parse(index.as_bytes(), Some(media_type::OCI_INDEX)).is_ok());
        assert!(Document::parse(index.as_bytes(), Some(media_type::OCI_MANIFEST)).is_err());
        let schema1 = r#"{"schemaVersion":1,"fsLayers":[]}"#;
        assert_eq!(Document::parse(schema1.as_bytes(), None).expect_err("old").kind(), Kind::Unsupported);
    }

    #[test]
    fn selection_prefers_the_best_platform_then_the_first() {
        let entry = |platform: &str, size: u64| Descriptor {
            platform: Some(platform.parse().expect("valid")),
            ..Descriptor::new(media_type::OCI_MANIFEST, HEX_DIGEST.parse().expect("valid"), size)
        };
        const HEX_DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let index = Index::new(vec![entry("linux/arm/v6", 1), entry("linux/arm/v7", 2), entry("linux/amd64", 3)]);
        let pick = |wanted: &str| index.select(&wanted.parse().expect("valid")).map(|d| d.size);
        assert_eq!((pick("linux/arm/v7"), pick("linux/arm/v6"), pick("linux/amd64")), (Some(2), Some(1), Some(3)));
        assert_eq!(pick("linux/s390x"), None);
    }

    /// The fuzzer found one whose last digit changed.
    #[test]
    fn a_number_of_an_unknown_field_stays_what_it_is() {
        let text = r#"{"schemaVersion":2,"manifests":[],"score":2.8888888888888887e+137}"#;
        let Document::Index(index) = Document::parse(text.as_bytes(), None).expect("an index") else {
            panic!("it has manifests");
        };
        assert!(String::from_utf8_lossy(&index.to_bytes()).contains("2.8888888888888887e+137"));
    }
}
