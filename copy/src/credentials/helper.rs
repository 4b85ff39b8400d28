//! The protocol of `docker-credential-NAME` programs (docker/docker-credential-helpers).

use std::io::Write;
use std::process::{Command, Stdio};

use layerfs::error::{Context, Error, Kind, Result};
use serde::Deserialize;

use super::Credential;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Reply {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Asks a helper for the credential of `server`; `None` where it has none.
pub(super) fn get(name: &str, server: &str) -> Result<Option<Credential>> {
    match call(name, "get", server.as_bytes())? {
        Outcome::Ok(output) => {
            parse(&output).context(|| format!("answer of `docker-credential-{name}` for `{server}`"))
        }
        Outcome::Missing => Ok(None),
    }
}

/// Lets a helper keep a credential.
pub(super) fn store(name: &str, server: &str, username: &str, secret: &str) -> Result<()> {
    let document = serde_json::json!({ "ServerURL": server, "Username": username, "Secret": secret });
    call(name, "store", document.to_string().as_bytes()).map(drop)
}

/// Lets a helper forget a credential; `false` where it had none.
pub(super) fn erase(name: &str, server: &str) -> Result<bool> {
    Ok(matches!(call(name, "erase", server.as_bytes())?, Outcome::Ok(_)))
}

enum Outcome {
    Ok(Vec<u8>),
    Missing,
}

fn parse(output: &[u8]) -> Result<Option<Credential>> {
    // The reply is a secret: serde_json's words, which may quote it, stay out.
    let reply: Reply = serde_json::from_slice(output)
        .map_err(|_| Error::new(Kind::Invalid, "it is not the JSON object the helper protocol asks for"))?;
    Ok(match (reply.username.as_str(), reply.secret.as_str()) {
        ("", "") => None,
        ("<token>", _) => Some(Credential::IdentityToken(reply.secret)),
        _ => Some(Credential::Basic { username: reply.username, password: reply.secret }),
    })
}

fn call(name: &str, verb: &str, input: &[u8]) -> Result<Outcome> {
    let program = format!("docker-credential-{name}");
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return Err(Error::new(
            Kind::Invalid,
            format!("`{}` is not the name of a credential helper", name.escape_debug()),
        ));
    }
    let mut child = Command::new(&program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context(|| format!("start credential helper `{program}`"))
        .map_err(|error| match error.kind() {
            Kind::NotFound => error.hint(format!("install `{program}`, or take it out of the credential file")),
            _ => error,
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that answers without reading closes the pipe; its exit status decides.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().context(|| format!("wait for credential helper `{program}`"))?;
    if output.status.success() {
        return Ok(Outcome::Ok(output.stdout));
    }
    // Helpers write their failure to stdout; these words are fixed by the protocol (errors.go).
    let said = String::from_utf8_lossy(&output.stdout);
    let said = said.trim();
    if said.starts_with("credentials not found in native keychain") || said.contains("no credentials server URL") {
        return Ok(Outcome::Missing);
    }
    let words =
        if said.is_empty() { String::from_utf8_lossy(&output.stderr).trim().to_owned() } else { said.to_owned() };
    let first = words.lines().next().unwrap_or("it gave no reason").to_owned();
    Err(Error::new(Kind::Unauthorized, format!("credential helper `{program} {verb}` failed: {first}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_helpers() {
        let basic = Credential::Basic { username: "u".into(), password: "p".into() };
        assert_eq!(parse(br#"{"ServerURL":"x","Username":"u","Secret":"p"}"#).expect("valid"), Some(basic));
        let token = Credential::IdentityToken("t".into());
        assert_eq!(parse(br#"{"Username":"<token>","Secret":"t"}"#).expect("valid"), Some(token));
        assert_eq!(parse(br#"{"Username":"","Secret":""}"#).expect("valid"), None);
        let error = parse(b"hunter2").expect_err("not JSON");
        assert!(!error.chain().contains("hunter2"));
    }

    #[test]
    fn a_helper_name_is_not_a_path() {
        assert_eq!(get("../../bin/sh", "r.io").expect_err("a path").kind(), Kind::Invalid);
        assert_eq!(get("layerfs-missing", "r.io").expect_err("absent").kind(), Kind::NotFound);
    }
}
