//! Signatures in cosign's form: made with a key, kept beside the image under a tag made of its digest, checked against
//! public keys.
//!
//! Source: sigstore's `specs/SIGNATURE_SPEC.md` and `containers-policy.json(5)`. What is signed is a small document
//! that states the image's digest and name; the signature lies in an annotation of the layer that holds it. Keyless
//! signatures (Fulcio, Rekor) are not checked here: where a policy wants them, it is not met.

mod key;
mod secret;

use layerfs::digest::Digest;
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::{Descriptor, Manifest, media_type};
use serde_json::{Value, json};

pub(crate) use key::PublicKey;
pub(crate) use secret::SecretKey;

use crate::credentials::base64;
use crate::registry::{Access, Repository, lists::fallback_tag};
use crate::stream::{FromRead, Start, Verified, read_all};

/// The media type of what is signed.
const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Where a layer has its signature.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// What a payload says it is.
const KIND: &str = "cosign container image signature";
/// Largest payload, in bytes.
const PAYLOAD_MAX: u64 = 1 << 20;
/// Signatures of one image that are looked at.
const SIGNATURES_MAX: usize = 128;

/// What a good signature says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    /// The image that was signed.
    pub(crate) digest: Digest,
    /// The name it was signed under.
    pub(crate) name: String,
}

/// The tag under which the signatures of an image lie.
pub(crate) fn tag_of(digest: Digest) -> String {
    format!("{}.sig", fallback_tag(digest))
}

/// What is said about `digest` in `repository` by signatures that one of `keys` made.
///
/// # Errors
/// The registry cannot be read. A signature that is malformed or of another key counts for nothing.
pub(crate) fn statements(repository: &Repository, digest: Digest, keys: &[PublicKey]) -> Result<Vec<Statement>> {
    let bytes = match repository.manifest(&tag_of(digest)) {
        Ok((_, bytes)) => bytes,
        Err(error) if error.kind() == Kind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for layer in manifest.layers.iter().filter(|layer| layer.media_type == SIMPLE_SIGNING).take(SIGNATURES_MAX) {
        let Some(signature) = layer.annotation(SIGNATURE).and_then(base64::decode) else { continue };
        if layer.size > PAYLOAD_MAX {
            continue;
        }
        let payload = read_all(&mut Verified::new(repository.open_blob(layer), layer), PAYLOAD_MAX)?;
        if keys.iter().any(|key| key.verifies(&payload, &signature))
            && let Some(statement) = parse(&payload).filter(|statement| statement.digest == digest)
        {
            found.push(statement);
        }
    }
    Ok(found)
}

/// A payload whose signature was found good.
fn parse(payload: &[u8]) -> Option<Statement> {
    let document: Value = serde_json::from_slice(payload).ok()?;
    let critical = document.get("critical")?;
    let text = |outer: &str, inner: &str| critical.get(outer)?.get(inner)?.as_str();
    (critical.get("type")?.as_str()? == KIND).then_some(())?;
    Some(Statement {
        digest: text("image", "docker-manifest-digest")?.parse().ok()?,
        name: text("identity", "docker-reference")?.to_owned(),
    })
}

/// Signs the manifest `digest` of a repository under `name` and puts the signature beside those that are there.
///
/// # Errors
/// The registry cannot be read or written, or the key does not work.
pub(crate) fn sign(repository: &Repository, digest: Digest, name: &str, key: &SecretKey) -> Result<()> {
    // Not one byte between the keys: the bytes are what is signed, and others compare them.
    let payload = json!({
        "critical": {
            "identity": { "docker-reference": name },
            "image": { "docker-manifest-digest": digest.to_string() },
            "type": KIND,
        },
        "optional": null,
    })
    .to_string()
    .into_bytes();
    let tag = tag_of(digest);
    let mut layers = match repository.head(&tag, Access::Push)? {
        Some(_) => {
            let (_, bytes) = repository.manifest(&tag)?;
            let old: Manifest = serde_json::from_slice(&bytes).context(|| format!("`{tag}` holds no signatures"))?;
            old.layers
        }
        None => Vec::new(),
    };
    let mut layer = Descriptor::of(SIMPLE_SIGNING, &payload);
    layer.annotations.insert(SIGNATURE.to_owned(), base64::encode(&key.sign(&payload)?).into());
    put(repository, &layer, &payload)?;
    layers.push(layer);
    let diff_ids: Vec<String> = layers.iter().map(|layer| layer.digest.to_string()).collect();
    let history: Vec<Value> = layers.iter().map(|_| json!({ "created": "0001-01-01T00:00:00Z" })).collect();
    let config = json!({
        "architecture": "", "created": "0001-01-01T00:00:00Z", "history": history, "os": "",
        "rootfs": { "type": "layers", "diff_ids": diff_ids }, "config": {},
    })
    .to_string()
    .into_bytes();
    let config_descriptor = Descriptor::of(media_type::OCI_CONFIG, &config);
    put(repository, &config_descriptor, &config)?;
    let bytes = Manifest::new(config_descriptor, layers).to_bytes();
    repository.put_manifest(&tag, &Descriptor::of(media_type::OCI_MANIFEST, &bytes), &bytes).map(drop)
}

fn put(repository: &Repository, blob: &Descriptor, bytes: &[u8]) -> Result<()> {
    if repository.existing(std::slice::from_ref(blob))? == [true] {
        return Ok(());
    }
    let open =
        |_: Start| -> Result<Box<dyn crate::stream::Chunks + '_>> { Ok(Box::new(FromRead::new(bytes, "a document"))) };
    repository.put_blob(blob, None, &open).map(drop)
}

/// Why an image is not taken: none of its signatures will do.
pub(crate) fn unsigned(name: &str, found: &[Statement]) -> Error {
    let error = Error::new(Kind::Denied, format!("`{name}` has no signature that the policy accepts"));
    match found {
        [] => error.hint("none was made by a key of the policy; cosign keeps them under a tag made of the digest"),
        found => {
            let names: Vec<String> = found.iter().map(|statement| format!("`{}`", statement.name)).collect();
            error.hint(format!("it is signed as {}, which `signedIdentity` does not accept", names.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_says_what_was_signed() {
        let digest = Digest::of(b"x");
        let payload = |kind: &str, digest: &str| {
            json!({"critical": {"identity": {"docker-reference": "r.io/a"}, "image": {"docker-manifest-digest": digest}, "type": kind}})
                .to_string()
        };
        let statement = Statement { digest, name: "r.io/a".to_owned() };
        assert_eq!(parse(payload(KIND, &digest.to_string()).as_bytes()), Some(statement));
        assert_eq!(parse(payload("atomic container signature", &digest.to_string()).as_bytes()), None);
        assert_eq!(parse(payload(KIND, "sha256:x").as_bytes()), None);
        assert_eq!(parse(b"{}"), None);
    }

    #[test]
    fn what_one_key_signs_another_does_not_verify() {
        let (ours, theirs) = (SecretKey::generate().expect("a key"), SecretKey::generate().expect("a key"));
        let signature = ours.sign(b"payload").expect("signed");
        let public = |key: &SecretKey| PublicKey::parse(key.public_pem().as_bytes()).expect("ours");
        assert!(public(&ours).verifies(b"payload", &signature));
        assert!(!public(&ours).verifies(b"payloae", &signature));
        assert!(!public(&theirs).verifies(b"payload", &signature));
        let kept = ours.to_pem("secret").expect("encrypted");
        assert!(kept.starts_with("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n"));
        let again = SecretKey::parse(kept.as_bytes(), || Ok("secret".to_owned())).expect("decrypted");
        assert_eq!(again.public_pem(), ours.public_pem());
        let wrong = SecretKey::parse(kept.as_bytes(), || Ok("other".to_owned())).err().map(|error| error.kind());
        assert_eq!(wrong, Some(Kind::Denied));
        assert!(PublicKey::parse(b"nothing").is_err());
    }
}
