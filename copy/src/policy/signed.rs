//! What a policy wants of signatures in cosign's form: `sigstoreSigned` of `containers-policy.json(5)`.

use std::path::Path;

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::reference::Reference;
use serde_json::{Map, Value};

use crate::credentials::base64;
use crate::signing::{PublicKey, Statement};

/// One requirement: a signature by one of these keys, under a name that fits.
#[derive(Clone)]
pub(crate) struct Signed {
    pub(crate) keys: Vec<PublicKey>,
    identity: Identity,
}

/// Which name an image has to be signed under.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Identity {
    Exact,
    RepositoryDigestOrExact,
    Repository,
    ExactReference(String),
    ExactRepository(String),
    Remap { prefix: String, signed: String },
}

impl Signed {
    /// Reads a requirement; keys in files are read too.
    ///
    /// # Errors
    /// It is malformed, or wants a kind of signature that cannot be checked here.
    pub(super) fn parse(requirement: &Map<String, Value>) -> Result<Self> {
        let mut keys = Vec::new();
        let text = |value: &Value| {
            value.as_str().map(str::to_owned).ok_or_else(|| Error::new(Kind::Invalid, "a key is no text"))
        };
        let texts = |value: &Value| match value {
            Value::Array(items) => items.iter().map(text).collect::<Result<Vec<_>>>(),
            _ => Err(Error::new(Kind::Invalid, "keys are no list")),
        };
        let mut identity = Identity::RepositoryDigestOrExact;
        for (name, value) in requirement {
            match name.as_str() {
                "type" => {}
                "keyPath" => keys.push(read(&text(value)?)?),
                "keyPaths" => keys.extend(texts(value)?.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?),
                "keyData" => keys.push(decode(&text(value)?)?),
                "keyDatas" => keys.extend(texts(value)?.iter().map(|data| decode(data)).collect::<Result<Vec<_>>>()?),
                "signedIdentity" => identity = Identity::parse(value)?,
                "fulcio"
                | "pki"
                | "rekorPublicKeyPath"
                | "rekorPublicKeyPaths"
                | "rekorPublicKeyData"
                | "rekorPublicKeyDatas" => {
                    return Err(Error::new(
                        Kind::Unsupported,
                        format!("the policy wants a check of `{name}`, which is not built in"),
                    )
                    .hint("signatures by a key of one's own are checked; --insecure-policy copies unchecked"));
                }
                other => {
                    let other = other.escape_debug();
                    return Err(Error::new(Kind::Invalid, format!("`{other}` of a signature is not known")));
                }
            }
        }
        match keys.is_empty() {
            true => Err(Error::new(Kind::Invalid, "a signature is wanted, but no key is named")),
            false => Ok(Self { keys, identity }),
        }
    }

    /// Whether an image that is called `name` may be signed so.
    pub(crate) fn accepts(&self, name: &Reference, statement: &Statement) -> bool {
        // A signature may name a repository without a tag, which is not the tag `latest`.
        let Ok(signed) = statement.name.parse::<Reference>() else { return false };
        match &self.identity {
            Identity::Exact => has_place(&signed) && signed == *name,
            Identity::RepositoryDigestOrExact => repository_digest_or_exact(name, &signed),
            Identity::Repository => signed.repository() == name.repository(),
            Identity::ExactReference(wanted) => {
                wanted.parse::<Reference>().is_ok_and(|wanted| has_place(&wanted) && signed == wanted)
            }
            Identity::ExactRepository(wanted) => {
                wanted.parse::<Reference>().is_ok_and(|wanted| signed.repository() == wanted.repository())
            }
            Identity::Remap { prefix, signed: other } => {
                let text = name.to_string();
                let rest =
                    text.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']));
                match rest {
                    Some(rest) => format!("{other}{rest}")
                        .parse::<Reference>()
                        .is_ok_and(|name| repository_digest_or_exact(&name, &signed)),
                    None => repository_digest_or_exact(name, &signed),
                }
            }
        }
    }
}

fn has_place(name: &Reference) -> bool {
    name.tag().is_some() || name.digest().is_some()
}

fn repository_digest_or_exact(name: &Reference, signed: &Reference) -> bool {
    match (name.tag(), name.digest()) {
        (_, Some(_)) => signed.repository() == name.repository(),
        (Some(_), None) => signed == name,
        (None, None) => false,
    }
}

impl Identity {
    fn parse(value: &Value) -> Result<Self> {
        let malformed = || Error::new(Kind::Invalid, "`signedIdentity` is malformed");
        let object = value.as_object().ok_or_else(malformed)?;
        let field = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned).ok_or_else(malformed);
        let (identity, count) = match field("type")?.as_str() {
            "matchExact" => (Self::Exact, 1),
            "matchRepoDigestOrExact" => (Self::RepositoryDigestOrExact, 1),
            "matchRepository" => (Self::Repository, 1),
            "exactReference" => (Self::ExactReference(field("dockerReference")?), 2),
            "exactRepository" => (Self::ExactRepository(field("dockerRepository")?), 2),
            "remapIdentity" => (Self::Remap { prefix: field("prefix")?, signed: field("signedPrefix")? }, 3),
            _ => return Err(malformed()),
        };
        if object.len() == count { Ok(identity) } else { Err(malformed()) }
    }
}

fn read(path: &str) -> Result<PublicKey> {
    let bytes = std::fs::read(path).at("read key", Path::new(path))?;
    PublicKey::parse(&bytes).at("read key", Path::new(path))
}

fn decode(data: &str) -> Result<PublicKey> {
    let bytes = base64::decode(data).ok_or_else(|| Error::new(Kind::Invalid, "key data is not base64"))?;
    PublicKey::parse(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use layerfs::digest::Digest;

    fn check(identity: Value, name: &str, signed: &str, expected: bool) {
        let requirement = Signed { keys: Vec::new(), identity: Identity::parse(&identity).expect("valid") };
        let statement = Statement { digest: Digest::of(b""), name: signed.to_owned() };
        let name: Reference = name.parse().expect("a name");
        assert_eq!(requirement.accepts(&name, &statement), expected, "{identity} {name} {signed}");
    }

    #[test]
    fn names_fit_as_the_policy_says() {
        let kind = |kind: &str| serde_json::json!({ "type": kind });
        let pinned = format!("r.io/a@{}", Digest::of(b""));
        for (identity, name, signed, expected) in [
            ("matchExact", "r.io/a:1", "r.io/a:1", true),
            ("matchExact", "r.io/a:1", "r.io/a:2", false),
            ("matchExact", "r.io/a:1", "r.io/a", false),
            ("matchRepoDigestOrExact", "r.io/a:1", "r.io/a:1", true),
            ("matchRepoDigestOrExact", "r.io/a:1", "r.io/a", false),
            ("matchRepoDigestOrExact", &pinned, "r.io/a:7", true),
            ("matchRepoDigestOrExact", &pinned, "r.io/b:7", false),
            ("matchRepository", "r.io/a:1", "r.io/a", true),
            ("matchRepository", "r.io/a:1", "r.io/ab", false),
        ] {
            check(kind(identity), name, signed, expected);
        }
        let remap = serde_json::json!({ "type": "remapIdentity", "prefix": "mirror.io/hub", "signedPrefix": "r.io" });
        check(remap.clone(), "mirror.io/hub/a:1", "r.io/a:1", true);
        check(remap.clone(), "mirror.io/hubble/a:1", "r.io/a:1", false);
        check(remap, "r.io/a:1", "r.io/a:1", true);
        check(
            serde_json::json!({ "type": "exactRepository", "dockerRepository": "r.io/z" }),
            "r.io/a:1",
            "r.io/z:9",
            true,
        );
        for malformed in [
            serde_json::json!({ "type": "matchAnything" }),
            serde_json::json!({ "type": "matchExact", "x": 1 }),
            Value::Null,
        ] {
            assert!(Identity::parse(&malformed).is_err());
        }
    }

    #[test]
    fn what_cannot_be_checked_is_refused() {
        for (requirement, kind) in [
            (serde_json::json!({ "type": "sigstoreSigned" }), Kind::Invalid),
            (serde_json::json!({ "type": "sigstoreSigned", "fulcio": {} }), Kind::Unsupported),
            (serde_json::json!({ "type": "sigstoreSigned", "keyData": "!" }), Kind::Invalid),
            (serde_json::json!({ "type": "sigstoreSigned", "keyFile": "x" }), Kind::Invalid),
        ] {
            let found = Signed::parse(requirement.as_object().expect("an object")).err().map(|error| error.kind());
            assert_eq!(found, Some(kind), "{requirement}");
        }
    }
}
