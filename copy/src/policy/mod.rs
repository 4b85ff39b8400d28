//! `policy.json`: which images may be copied at all.
//!
//! Source: `containers-policy.json(5)`. What a policy lets through without a signature is let through, what it
//! rejects is rejected, and where it wants a signature in cosign's form by a key, that is checked. What cannot be
//! checked here (`signedBy`, Fulcio, Rekor) is refused: never accepted unseen. Where there is no file, everything is
//! allowed.

mod signed;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::location::Location;
pub(crate) use signed::Signed;

/// Whether the user's policy is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Yes.
    #[default]
    Enforce,
    /// No: the user said so (`--insecure-policy`).
    Ignore,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    default: Vec<Map<String, Value>>,
    #[serde(default)]
    transports: Map<String, Value>,
}

/// Checks a source against the policy `named` on the command line, the user's, or else the system's.
///
/// What it wants of signatures is left to the caller, who knows the image.
///
/// # Errors
/// The policy rejects the image, wants what cannot be checked, or is malformed, or the named one does not exist.
pub(crate) fn check(
    source: &Location,
    named: Option<&Path>,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<Signed>> {
    // What lies in our own store was let in before.
    if matches!(source, Location::Store(_)) {
        return Ok(Vec::new());
    }
    let path = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = path("XDG_CONFIG_HOME").or_else(|| Some(path("HOME")?.join(".config")));
    let files = [config.map(|dir| dir.join("containers/policy.json")), Some("/etc/containers/policy.json".into())];
    let found = || files.into_iter().flatten().find(|file| file.is_file());
    let Some(file) = named.map(Path::to_owned).or_else(found) else { return Ok(Vec::new()) };
    let bytes = std::fs::read(&file).at("read", &file)?;
    let verdict = judge(&bytes, source).at("read policy", &file)?;
    match verdict {
        Verdict::Accept => Ok(Vec::new()),
        Verdict::Reject => {
            Err(Error::new(Kind::Denied, format!("`{source}` is rejected by the policy `{}`", file.display())))
        }
        Verdict::Signed(wanted) => {
            let wanted = wanted.iter().map(Signed::parse).collect::<Result<_>>();
            wanted.at("read policy", &file)
        }
        Verdict::Unknown(kind) => Err(Error::new(
            Kind::Unsupported,
            format!(
                "`{source}` needs a signature (`{kind}`) by the policy `{}`, which cannot be checked here",
                file.display()
            ),
        )
        .hint("signatures in cosign's form (`sigstoreSigned`) are checked; --insecure-policy copies unchecked")),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Accept,
    Reject,
    /// Signatures in cosign's form are wanted, so many.
    Signed(Vec<Map<String, Value>>),
    /// A signature is wanted that cannot be checked.
    Unknown(String),
}

/// What a policy says about a source. All requirements of the scope that fits best have to be met.
fn judge(policy: &[u8], source: &Location) -> Result<Verdict> {
    let document: Document = serde_json::from_slice(policy).context(|| "it is malformed")?;
    let empty = Map::new();
    let scopes = match document.transports.get(source.transport()) {
        None => &empty,
        Some(Value::Object(scopes)) => scopes,
        Some(_) => return Err(Error::new(Kind::Invalid, "`transports` is malformed")),
    };
    let chosen = candidates(source).into_iter().find_map(|scope| scopes.get(&scope));
    let requirements = match chosen {
        None => document.default,
        Some(list) => serde_json::from_value(list.clone()).context(|| "a scope is malformed")?,
    };
    if requirements.is_empty() {
        return Err(Error::new(Kind::Invalid, "a scope has no requirement"));
    }
    let mut verdict = Verdict::Accept;
    for requirement in &requirements {
        match requirement.get("type").and_then(Value::as_str) {
            Some("insecureAcceptAnything") => {}
            Some("reject") => return Ok(Verdict::Reject),
            Some(kind @ "signedBy") => return Ok(Verdict::Unknown(kind.to_owned())),
            Some("sigstoreSigned") => match &mut verdict {
                Verdict::Signed(wanted) => wanted.push(requirement.clone()),
                other => *other = Verdict::Signed(vec![requirement.clone()]),
            },
            kind => {
                let kind = kind.unwrap_or("none").escape_debug().to_string();
                return Err(Error::new(Kind::Invalid, format!("requirement type `{kind}` is not known")));
            }
        }
    }
    Ok(verdict)
}

/// The scopes of a source, the most specific first; the last, the empty one, is the transport's own default.
fn candidates(source: &Location) -> Vec<String> {
    let mut scopes = Vec::new();
    match source {
        Location::Registry(name) => {
            scopes.push(name.to_string());
            let mut scope = name.repository();
            loop {
                scopes.push(scope.clone());
                match scope.rfind('/') {
                    Some(slash) => scope.truncate(slash),
                    None => break,
                }
            }
            let host = name.host().split(':').next().unwrap_or_default();
            let dots = host.match_indices('.').map(|(dot, _)| format!("*{}", &host[dot..]));
            scopes.extend(dots);
        }
        Location::Layout(place) | Location::LayoutArchive(place) | Location::DockerArchive(place) => {
            scopes
                .extend(place.path.ancestors().map(|path| path.display().to_string()).filter(|path| !path.is_empty()));
        }
        Location::Directory(path) => {
            scopes.extend(path.ancestors().map(|path| path.display().to_string()).filter(|path| !path.is_empty()));
        }
        Location::Store(_) | Location::DockerDaemon(_) | Location::ContainersStorage(_) => {}
    }
    scopes.push(String::new());
    scopes
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"{
  "default": [{"type": "reject"}],
  "transports": {
    "docker": {
      "r.io": [{"type": "insecureAcceptAnything"}],
      "r.io/secret": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}],
      "*.corp.io": [{"type": "sigstoreSigned", "keyPath": "/k"}],
      "docker.io/library/busybox:1": [{"type": "insecureAcceptAnything"}]
    },
    "oci": {"": [{"type": "insecureAcceptAnything"}], "/bad": [{"type": "reject"}]}
  }
}"#;

    fn check(source: &str, expected: Verdict) {
        let source = source.parse().expect("a location");
        assert_eq!(judge(POLICY.as_bytes(), &source).expect("valid"), expected, "{source}");
    }

    #[test]
    fn the_most_specific_scope_decides() {
        check("r.io/app:1", Verdict::Accept);
        check("r.io/secret/app:1", Verdict::Unknown("signedBy".into()));
        check("r.io/secretive:1", Verdict::Accept);
        let wanted = serde_json::json!({"type": "sigstoreSigned", "keyPath": "/k"});
        check("a.b.corp.io/x", Verdict::Signed(vec![wanted.as_object().expect("an object").clone()]));
        check("busybox:1", Verdict::Accept);
        check("busybox:2", Verdict::Reject);
        check("oci:/tmp/x", Verdict::Accept);
        check("oci:/bad/x", Verdict::Reject);
        check("dir:/tmp/x", Verdict::Reject);
    }

    #[test]
    fn a_policy_that_is_not_understood_accepts_nothing() {
        let source = "r.io/app".parse().expect("a location");
        for policy in [
            "",
            "{}",
            r#"{"default":[]}"#,
            r#"{"default":[{"type":"acceptSome"}]}"#,
            r#"{"default":[{"type":"reject"}],"extra":1}"#,
        ] {
            assert!(judge(policy.as_bytes(), &source).is_err(), "{policy}");
        }
    }
}
