//! Credential files: containers' `auth.json` and docker's `config.json`.
//!
//! Sources: `containers-auth.json(5)`, docker's `cli/config/configfile`. Both are one JSON object with `auths`,
//! `credHelpers` and `credsStore`; docker's has more keys, which stay untouched when we write the file.

use layerfs::error::{Context, Error, Kind, Result};
use serde_json::{Map, Value};

use super::{Credential, base64};

/// Docker Hub's key in docker's files.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// A parsed credential file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct AuthFile {
    auths: Vec<(String, Map<String, Value>)>,
    helpers: Vec<(String, String)>,
    store: Option<String>,
}

/// What a file says about a repository.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Entry {
    /// The credential itself, found under `key`.
    Credential {
        /// The key in `auths`.
        key: String,
        /// The credential.
        credential: Credential,
    },
    /// A helper program knows.
    Helper {
        /// The helper's name: `docker-credential-NAME`.
        name: String,
        /// What the helper is asked for.
        server: String,
    },
}

impl AuthFile {
    /// Reads `auth.json` or `config.json`.
    ///
    /// # Errors
    /// It is not a JSON object of that form. Secrets are never part of the error.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        // serde_json's own words may quote the document; this one holds secrets.
        let root: Map<String, Value> = serde_json::from_slice(bytes)
            .map_err(|error| Error::new(Kind::Invalid, format!("not a JSON object (line {})", error.line())))?;
        let object = |key: &str| match root.get(key) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Object(map)) => Ok(map.iter().map(|(k, v)| (k.clone(), v.clone())).collect()),
            Some(_) => Err(Error::new(Kind::Invalid, format!("`{key}` is not an object"))),
        };
        let text = |value: Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        Ok(Self {
            auths: object("auths")?
                .into_iter()
                .filter_map(|(key, value)| Some((key, value.as_object()?.clone())))
                .collect(),
            helpers: object("credHelpers")?.into_iter().filter_map(|(key, value)| Some((key, text(value)?))).collect(),
            store: root.get("credsStore").cloned().and_then(text),
        })
    }

    /// Reads the older `~/.dockercfg`: the `auths` object alone.
    ///
    /// # Errors
    /// As for [`AuthFile::parse`].
    pub(crate) fn parse_legacy(bytes: &[u8]) -> Result<Self> {
        let auths: Value = serde_json::from_slice(bytes)
            .map_err(|error| Error::new(Kind::Invalid, format!("not a JSON object (line {})", error.line())))?;
        let root = Map::from_iter([("auths".to_owned(), auths)]);
        Self::parse(&serde_json::to_vec(&root).context(|| "rewrite a legacy file")?)
    }

    /// What to try for repository `path` on `host`, best first: keys from the most to the least specific; at the host
    /// itself its helper, then its entry, then the store for everything.
    ///
    /// # Errors
    /// An entry that matches holds no usable credential text.
    pub(crate) fn entries(&self, host: &str, path: &str) -> Result<Vec<Entry>> {
        let host = canonical_host(host);
        let mut found = Vec::new();
        let mut scope = format!("{host}/{path}");
        loop {
            let at_host = !scope.contains('/');
            if let Some((_, name)) = self.helpers.iter().find(|(key, _)| normalise(key) == scope) {
                found.push(Entry::Helper { name: name.clone(), server: server(&scope) });
            }
            for (key, entry) in self.auths.iter().filter(|(key, _)| normalise(key) == scope) {
                if let Some(credential) = credential(entry).context(|| format!("entry `{key}`"))? {
                    found.push(Entry::Credential { key: key.clone(), credential });
                }
            }
            if at_host {
                break;
            }
            scope.truncate(scope.rfind('/').unwrap_or(0));
        }
        if let Some(name) = &self.store {
            found.push(Entry::Helper { name: name.clone(), server: server(host) });
        }
        Ok(found)
    }

    /// Whether any credential has to be asked of a program.
    pub(crate) fn names_a_helper(&self) -> bool {
        self.store.is_some() || !self.helpers.is_empty()
    }

    /// The helper that keeps the credentials of `host`, where the file names one.
    pub(crate) fn helper_of(&self, host: &str) -> Option<(String, String)> {
        let host = canonical_host(host);
        let own = self.helpers.iter().find(|(key, _)| normalise(key) == host).map(|(_, name)| name);
        own.or(self.store.as_ref()).map(|name| (name.clone(), server(host)))
    }
}

/// The bytes of a credential file with `host`'s entry set, or removed where `credential` is `None`. Everything else
/// in it, and its order, stays. The second value says whether there was an entry.
///
/// # Errors
/// `existing` is not a JSON object.
pub(crate) fn with_entry(
    existing: Option<&[u8]>,
    host: &str,
    credential: Option<&Credential>,
) -> Result<(Vec<u8>, bool)> {
    let mut root: Map<String, Value> = match existing {
        Some(bytes) if !bytes.is_empty() => serde_json::from_slice(bytes)
            .map_err(|error| Error::new(Kind::Invalid, format!("not a JSON object (line {})", error.line())))?,
        _ => Map::new(),
    };
    let auths = root.entry("auths").or_insert_with(|| Value::Object(Map::new()));
    let Value::Object(auths) = auths else { return Err(Error::new(Kind::Invalid, "`auths` is not an object")) };
    let wanted = normalise(host);
    let key = auths.keys().find(|key| normalise(key) == wanted).cloned();
    let present = key.is_some();
    match credential {
        Some(credential) => {
            auths.insert(key.unwrap_or_else(|| host.to_owned()), Value::Object(entry_of(credential)));
        }
        None => key.iter().for_each(|key| drop(auths.shift_remove(key))),
    }
    let mut bytes = serde_json::to_vec_pretty(&root).context(|| "write credentials")?;
    bytes.push(b'\n');
    Ok((bytes, present))
}

/// The bytes of a credential file without any entry, and how many there were.
///
/// # Errors
/// `existing` is not a JSON object.
pub(crate) fn without_entries(existing: &[u8]) -> Result<(Vec<u8>, usize)> {
    let mut root: Map<String, Value> = serde_json::from_slice(existing)
        .map_err(|error| Error::new(Kind::Invalid, format!("not a JSON object (line {})", error.line())))?;
    let count = root.get("auths").and_then(Value::as_object).map_or(0, Map::len);
    root.insert("auths".to_owned(), Value::Object(Map::new()));
    let mut bytes = serde_json::to_vec_pretty(&root).context(|| "write credentials")?;
    bytes.push(b'\n');
    Ok((bytes, count))
}

fn entry_of(credential: &Credential) -> Map<String, Value> {
    let pair = |username: &str, password: &str| base64::encode(format!("{username}:{password}").as_bytes());
    let fields = match credential {
        Credential::Basic { username, password } => vec![("auth", pair(username, password))],
        Credential::IdentityToken(token) => vec![("auth", pair("<token>", "")), ("identitytoken", token.clone())],
        Credential::RegistryToken(token) => vec![("registrytoken", token.clone())],
    };
    fields.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect()
}

/// The credential of an entry; `None` for the empty entry docker leaves where a helper has it.
fn credential(entry: &Map<String, Value>) -> Result<Option<Credential>> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some(token) = text("identitytoken") {
        return Ok(Some(Credential::IdentityToken(token.to_owned())));
    }
    if let Some(token) = text("registrytoken") {
        return Ok(Some(Credential::RegistryToken(token.to_owned())));
    }
    if let Some(auth) = text("auth") {
        let invalid = || Error::new(Kind::Invalid, "`auth` is not base64 of `USER:PASSWORD`");
        let plain = base64::decode(auth).and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(invalid)?;
        let (username, password) = plain.split_once(':').ok_or_else(invalid)?;
        // Old docker versions padded with NUL before encoding.
        let password = password.trim_end_matches('\0');
        return Ok(Some(Credential::Basic { username: username.to_owned(), password: password.to_owned() }));
    }
    let pair = text("username").zip(text("password"));
    Ok(pair
        .map(|(username, password)| Credential::Basic { username: username.to_owned(), password: password.to_owned() }))
}

/// The host under which all names of a registry are kept.
fn canonical_host(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    }
}

/// A key of `auths` as `HOST[/PATH]`: the scheme goes, and with it the path of an API address such as
/// `https://index.docker.io/v1/`.
fn normalise(key: &str) -> String {
    let without = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let key = match without {
        Some(address) => address.split('/').next().unwrap_or_default(),
        None => key.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2"),
    };
    let (host, path) = key.split_once('/').map_or((key, None), |(host, path)| (host, Some(path)));
    match path {
        Some(path) => format!("{}/{path}", canonical_host(host)),
        None => canonical_host(host).to_owned(),
    }
}

/// What a helper is asked for.
fn server(scope: &str) -> String {
    match scope {
        "docker.io" => HUB_KEY.to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(username: &str, password: &str) -> Credential {
        Credential::Basic { username: username.into(), password: password.into() }
    }

    /// The first thing tried, written short.
    fn check(file: &str, host: &str, path: &str, expected: Option<&str>) {
        let file = AuthFile::parse(file.as_bytes()).expect("a valid file");
        let first = file.entries(host, path).expect("valid entries").into_iter().next().map(|entry| match entry {
            Entry::Helper { name, server } => format!("{name}({server})"),
            Entry::Credential { credential: Credential::Basic { username, password }, .. } => {
                format!("{username}:{password}")
            }
            Entry::Credential { credential: Credential::IdentityToken(token), .. } => format!("identity {token}"),
            Entry::Credential { credential: Credential::RegistryToken(token), .. } => format!("token {token}"),
        });
        assert_eq!(first.as_deref(), expected, "{host}/{path}");
    }

    #[test]
    fn keys_go_from_the_most_to_the_least_specific() {
        // echo -n ns:1 | base64, and so on
        let file =
            r#"{"auths":{"r.io":{"auth":"aG9zdDox"},"r.io/ns":{"auth":"bnM6MQ=="},"r.io/ns/app":{"auth":"YXBwOjE="}}}"#;
        check(file, "r.io", "ns/app", Some("app:1"));
        check(file, "r.io", "ns/app/sub", Some("app:1"));
        check(file, "r.io", "ns/other", Some("ns:1"));
        check(file, "r.io", "nsx/app", Some("host:1"));
        check(file, "other.io", "ns/app", None);
    }

    #[test]
    fn all_spellings_of_docker_hub_are_one() {
        for key in
            ["https://index.docker.io/v1/", "docker.io", "index.docker.io", "registry-1.docker.io", "http://docker.io"]
        {
            check(
                &format!(r#"{{"auths":{{"{key}":{{"auth":"aG9zdDox"}}}}}}"#),
                "docker.io",
                "library/x",
                Some("host:1"),
            );
        }
    }

    #[test]
    fn every_form_of_entry() {
        check(
            r#"{"auths":{"https://r.io:5000/v2/":{"username":"u","password":"p:q"}}}"#,
            "r.io:5000",
            "a",
            Some("u:p:q"),
        );
        check(r#"{"auths":{"r.io":{"auth":"PHRva2VuPjo=","identitytoken":"T"}}}"#, "r.io", "a", Some("identity T"));
        check(r#"{"auths":{"r.io":{"registrytoken":"R"}}}"#, "r.io", "a", Some("token R"));
        // Docker Desktop leaves an empty entry and a store.
        check(r#"{"auths":{"r.io":{}},"credsStore":"desktop"}"#, "r.io", "a", Some("desktop(r.io)"));
        check(r#"{"credsStore":"desktop"}"#, "docker.io", "a/b", Some("desktop(https://index.docker.io/v1/)"));
        check(r#"{"credHelpers":{"r.io":"ecr-login"},"credsStore":"desktop"}"#, "r.io", "a", Some("ecr-login(r.io)"));
        check(r#"{"credHelpers":{"r.io":"h"},"auths":{"r.io/a":{"auth":"YXBwOjE="}}}"#, "r.io", "a", Some("app:1"));
    }

    #[test]
    fn broken_files_are_errors_without_secrets() {
        for file in ["", "[]", "{\"auths\":[]}", "{\"auths\":{\"r.io\":{\"auth\":\"c2VjcmV0"] {
            let error = AuthFile::parse(file.as_bytes()).expect_err(file);
            assert!(!error.chain().contains("c2VjcmV0"), "{}", error.chain());
        }
        let file = AuthFile::parse(br#"{"auths":{"r.io":{"auth":"!"}}}"#).expect("a valid file");
        assert!(file.entries("r.io", "a").is_err());
    }

    #[test]
    fn writing_keeps_the_rest() {
        let existing = br#"{"x":1,"auths":{"b":{"auth":"aG9zdDox"}},"HttpHeaders":{}}"#;
        let (bytes, present) = with_entry(Some(existing), "r.io", Some(&basic("u", "p"))).expect("valid");
        assert!(!present);
        let text = String::from_utf8(bytes.clone()).expect("text");
        assert!(text.find("\"x\"") < text.find("auths") && text.find("auths") < text.find("HttpHeaders"), "{text}");
        check(&text, "r.io", "a", Some("u:p"));
        check(&text, "b", "a", Some("host:1"));
        let (bytes, present) = with_entry(Some(&bytes), "r.io", None).expect("valid");
        assert!(present);
        assert_eq!(AuthFile::parse(&bytes).expect("valid").entries("r.io", "a").expect("valid"), []);
    }
}
