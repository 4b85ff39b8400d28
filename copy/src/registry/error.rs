//! Failures of registries, in words.

use std::error::Error as _;

use layerfs::error::{Error, Kind};
use reqwest::StatusCode;
use serde::Deserialize;

/// Largest error page that is read, in bytes.
pub(crate) const BODY_MAX: usize = 64 << 10;

/// What a reader can do about a connection that breaks.
pub(crate) const BROKEN: &str = "the network or the registry is at fault; try again later";

/// What was asked of whom: `pull blob sha256:… of a/b` from `r.io`. An empty action stands for saying hello.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// The registry as it stands in names.
    pub(crate) host: String,
    /// The action and its object.
    pub(crate) action: String,
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    errors: Vec<Item>,
    #[serde(default)]
    details: Option<String>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// An unexpected status as an error. `body` is the start of the reply (distribution-spec "Error codes").
pub(crate) fn of_status(subject: &Subject, status: StatusCode, body: &[u8]) -> Error {
    let said = words(body);
    let kind = match status.as_u16() {
        401 => Kind::Unauthorized,
        403 => Kind::Denied,
        404 => Kind::NotFound,
        405 | 501 => Kind::Unsupported,
        429 | 408 | 500.. => Kind::Unavailable,
        _ => Kind::Invalid,
    };
    let reason = match (said.as_str(), status.canonical_reason()) {
        ("", Some(reason)) => format!("{} {}", status.as_u16(), reason.to_ascii_lowercase()),
        ("", None) => status.as_u16().to_string(),
        (said, _) => format!("{} ({said})", status.as_u16()),
    };
    let Subject { host, action } = subject;
    let error = Error::new(kind, format!("{action}: registry `{host}` answers {reason}"));
    match status.as_u16() {
        403 => {
            error.hint(format!("the account may lack the right to do this; `copy login {host}` changes the account"))
        }
        404 => error.hint("check the name; some registries answer so where an account lacks the right to see it"),
        429 => error.hint("the registry limits requests; log in or try again later"),
        500.. => error.hint("the registry is at fault; try again later"),
        _ => error,
    }
}

/// A failed connection or exchange as an error.
pub(crate) fn of_transport(subject: &Subject, failure: &reqwest::Error) -> Error {
    let reason = innermost(failure);
    let Subject { host, action } = subject;
    let action = if action.is_empty() { String::new() } else { format!("{action}: ") };
    let sentence = |what: &str| format!("{action}registry `{host}` {what}: {reason}");
    if reason.contains("InvalidContentType") || reason.contains("corrupt message") {
        return Error::new(Kind::Unavailable, format!("{action}registry `{host}` does not speak TLS"))
            .hint("`--tls-verify=false` allows plain HTTP");
    }
    if reason.contains("certificate") || reason.contains("UnknownIssuer") {
        return Error::new(Kind::Unavailable, sentence("has a certificate we do not trust"))
            .hint(format!("put its authority into /etc/containers/certs.d/{host}/ca.crt, or use --tls-verify=false"));
    }
    if failure.is_connect() {
        let hint = match host.as_str() {
            // Tools that build give images this host, which no registry has.
            "localhost" => {
                "names that begin with `localhost/` are those of images built here: build it first".to_owned()
            }
            host => format!("check that `{host}` is the right name and that the registry runs"),
        };
        return Error::new(Kind::Unavailable, sentence("cannot be reached")).hint(hint);
    }
    Error::new(Kind::Unavailable, sentence("broke the connection")).hint(BROKEN)
}

/// Whether asking again is pointless: the name does not exist, or the peer's identity is wrong.
pub(crate) fn is_permanent(failure: &reqwest::Error) -> bool {
    let reason = innermost(failure);
    [
        "InvalidContentType",
        "corrupt message",
        "certificate",
        "UnknownIssuer",
        "Name or service not known",
        "failed to lookup",
    ]
    .iter()
    .any(|permanent| reason.contains(permanent))
        || failure.is_builder()
}

/// The cause at the bottom, without Rust's "(os error 111)". The layers above it repeat the address, which may hold
/// a signature.
fn innermost(failure: &reqwest::Error) -> String {
    let mut cause = failure.source();
    let mut text = "request failed".to_owned();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    match text.find(" (os error") {
        Some(end) => text[..end].to_ascii_lowercase(),
        None => text,
    }
}

/// What the reply says, as one short printable line.
fn words(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<Body>(body) {
        Ok(body) => {
            let items = body.errors.into_iter().map(|item| match (item.code.as_str(), item.message.as_str()) {
                (code, "") => code.to_owned(),
                (_, message) => message.to_owned(),
            });
            let items: Vec<String> = items.take(3).collect();
            if items.is_empty() { body.details.unwrap_or_default() } else { items.join("; ") }
        }
        // An HTML page says nothing useful; a line of text may.
        Err(_) => {
            let text = String::from_utf8_lossy(body);
            let line = text.trim().lines().next().unwrap_or_default();
            if line.starts_with('<') { String::new() } else { line.to_owned() }
        }
    };
    text.chars().filter(|character| !character.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_become_sentences() {
        let subject = Subject { host: "r.io".into(), action: "pull `r.io/a:1`".into() };
        let check = |status: u16, body: &str, kind: Kind, expected: &str| {
            let error = of_status(&subject, StatusCode::from_u16(status).expect("a status"), body.as_bytes());
            assert_eq!((error.kind(), error.to_string().as_str()), (kind, expected));
        };
        let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}}]}"#;
        check(404, body, Kind::NotFound, "pull `r.io/a:1`: registry `r.io` answers 404 (manifest unknown)");
        check(500, "<html>", Kind::Unavailable, "pull `r.io/a:1`: registry `r.io` answers 500 internal server error");
        check(429, "slow down\nplease", Kind::Unavailable, "pull `r.io/a:1`: registry `r.io` answers 429 (slow down)");
        check(403, "\x1b[31m", Kind::Denied, "pull `r.io/a:1`: registry `r.io` answers 403 ([31m)");
    }
}
