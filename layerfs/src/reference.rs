//! Names of images: `[host[:port]/]path[:tag][@digest]`.
//!
//! The grammar and the normalisation are those of `distribution/reference`: `debian` means
//! `docker.io/library/debian`, and the first component is a host only if it holds a `.` or a `:`, is `localhost`, or
//! has an uppercase letter. What this module is not: transports (`oci:`, `docker://`), which belong to `copy`.
//!
//! ```
//! use layerfs::reference::Reference;
//! let reference: Reference = "debian:12".parse()?;
//! assert_eq!(reference.to_string(), "docker.io/library/debian:12");
//! assert_eq!((reference.host(), reference.path(), reference.tag()), ("docker.io", "library/debian", Some("12")));
//! # Ok::<(), layerfs::error::Error>(())
//! ```

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;
use crate::error::{Error, Kind};

/// Longest repository name, host included (distribution/reference `RepositoryNameTotalLengthMax`).
const NAME_MAX: usize = 255;
/// Longest tag (distribution-spec, "Pulling manifests").
const TAG_MAX: usize = 128;
const DOCKER_HUB: &str = "docker.io";

/// A checked and normalised image name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    host: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry host with its port, as written; `docker.io` where none was.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository's path on its host, such as `library/debian`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Host and path: the repository's whole name.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }

    /// The tag, where one was written.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, where one was written.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same name with the tag `latest` where it has neither tag nor digest.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }

    /// The same repository with another tag and no digest.
    ///
    /// # Errors
    /// `tag` is not a tag.
    pub fn with_tag(&self, tag: &str) -> Result<Self, Error> {
        check_tag(tag)?;
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same repository at `digest`, without a tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The name as people write it: `debian:12` for `docker.io/library/debian:12`. The whole name where a shorter one
    /// would mean something else, as `localhost/a` for `docker.io/localhost/a` would.
    pub fn familiar(&self) -> String {
        let text = self.to_string();
        let Some(rest) = text.strip_prefix("docker.io/") else { return text };
        let shorter = [rest.strip_prefix("library/"), Some(rest)].into_iter().flatten();
        let same = |name: &&str| parse(name).is_ok_and(|parsed| parsed == *self);
        shorter.into_iter().find(same).unwrap_or(&text).to_owned()
    }

    /// What a registry's manifest endpoint takes: the digest where there is one, else the tag, else `latest`.
    pub fn locator(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        self.tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))?;
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|reason| {
            let error = Error::new(Kind::Invalid, format!("`{}` is not an image name: {reason}", text.escape_debug()));
            match text.bytes().any(|b| b.is_ascii_uppercase()) && reason.contains("path") {
                true => error.hint("repository names are lowercase"),
                false => error.hint("the form is [HOST[:PORT]/]PATH[:TAG][@DIGEST]"),
            }
        })
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest.parse::<Digest>().map_err(|error| error.to_string())?)),
        None => (text, None),
    };
    // A colon after the last slash begins a tag; one before it belongs to the port.
    let (name, tag) = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name, None),
    };
    if let Some(tag) = tag {
        check_tag(tag).map_err(|error| error.to_string())?;
    }
    if name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err("64 hexadecimal digits are an image ID".to_owned());
    }
    let (host, path) = match name.split_once('/') {
        Some((first, rest)) if is_host(first) => (first, rest.to_owned()),
        Some(_) => (DOCKER_HUB, name.to_owned()),
        None => (DOCKER_HUB, format!("library/{name}")),
    };
    let (host, path) = match (host, path) {
        ("index.docker.io" | "docker.io", path) if !path.contains('/') => (DOCKER_HUB, format!("library/{path}")),
        ("index.docker.io", path) => (DOCKER_HUB, path),
        other => other,
    };
    check_host(host)?;
    if path.is_empty() || !path.split('/').all(is_path_component) {
        return Err(format!("`{}` is not a repository path", path.escape_debug()));
    }
    if host.len() + 1 + path.len() > NAME_MAX {
        return Err(format!("the name is longer than {NAME_MAX} characters"));
    }
    Ok(Reference { host: host.to_owned(), path, tag: tag.map(str::to_owned), digest })
}

fn is_host(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
}

/// `domain-name [":" port]`, where an IPv6 address stands in brackets.
fn check_host(host: &str) -> Result<(), String> {
    let invalid = || format!("`{}` is not a host", host.escape_debug());
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or_else(invalid)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| invalid())?;
            (None, (!port.is_empty()).then_some(port))
        }
        None => match host.find(':') {
            Some(colon) => (Some(&host[..colon]), Some(&host[colon..])),
            None => (Some(host), None),
        },
    };
    let label = |label: &str| {
        let bytes = label.as_bytes();
        let inner = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-';
        !bytes.is_empty() && bytes.iter().all(inner) && bytes[0] != b'-' && bytes[bytes.len() - 1] != b'-'
    };
    let port_number = |port: &str| {
        port.strip_prefix(':').is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
    };
    match name.is_none_or(|name| name.split('.').all(label)) && port.is_none_or(port_number) {
        true => Ok(()),
        false => Err(invalid()),
    }
}

/// `[a-z0-9]+ ((\.|_|__|-+) [a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let mut rest = component;
    loop {
        let word = rest.trim_start_matches(alphanumeric);
        if word.len() == rest.len() {
            return false;
        }
        if word.is_empty() {
            return true;
        }
        rest = word.trim_start_matches(|c| !alphanumeric(c));
        let separator = &word[..word.len() - rest.len()];
        if !(matches!(separator, "." | "_" | "__") || separator.bytes().all(|b| b == b'-')) {
            return false;
        }
    }
}

/// `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`
fn check_tag(tag: &str) -> Result<(), Error> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = tag.as_bytes();
    let valid = bytes.first().is_some_and(|b| word(*b))
        && bytes.len() <= TAG_MAX
        && bytes.iter().all(|b| word(*b) || matches!(b, b'.' | b'-'));
    match valid {
        true => Ok(()),
        false => Err(Error::new(Kind::Invalid, format!("`{}` is not a tag", tag.escape_debug()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expected: Option<&str>) {
        let parsed = input.parse::<Reference>().ok().map(|reference| reference.to_string());
        assert_eq!(parsed.as_deref(), expected, "{input}");
    }

    /// Cases after distribution/reference's tables (`reference_test.go`, `normalize_test.go`), Apache-2.0.
    #[test]
    fn names_are_checked_and_normalised() {
        let hex = "f".repeat(64);
        check("debian", Some("docker.io/library/debian"));
        check("debian:12", Some("docker.io/library/debian:12"));
        check("docker.io/debian", Some("docker.io/library/debian"));
        check("index.docker.io/library/debian", Some("docker.io/library/debian"));
        check("dmcgowan/app", Some("docker.io/dmcgowan/app"));
        check("localhost/app:latest", Some("localhost/app:latest"));
        check("localhost:5000/app", Some("localhost:5000/app"));
        check("test.com:8080/repo/name:tag", Some("test.com:8080/repo/name:tag"));
        check("[2001:db8::1]:5000/repo", Some("[2001:db8::1]:5000/repo"));
        check("Uppercase/lower", Some("Uppercase/lower"));
        check("a__b/c---d/e.f_g", Some("docker.io/a__b/c---d/e.f_g"));
        check(&format!("repo:tag@sha256:{hex}"), Some(&format!("docker.io/library/repo:tag@sha256:{hex}")));
        for invalid in [
            "",
            ":tag",
            "@sha256:x",
            "repo@sha256:ffff",
            "a..b",
            "a___b",
            "_docker/_docker",
            "-foo/bar",
            "foo-/bar",
            "a//b",
            "a/",
            "foo/Bar",
            "localhost:http/x",
            "aa/asdf$$^/aa",
            "repo:",
            "repo:ta g",
            "repo:.x",
            "[fe80::1%lo]/x",
            "https://github.com/docker/docker",
            &hex,
        ] {
            check(invalid, None);
        }
        check(&format!("a/{}", "b".repeat(300)), None);
        check(&format!("a:{}", "b".repeat(129)), None);
    }

    #[test]
    fn familiar_is_what_people_type() {
        for (name, familiar) in [
            ("debian:12", "debian:12"),
            ("docker.io/a/b", "a/b"),
            ("localhost/x", "localhost/x"),
            ("docker.io/library/a/b", "library/a/b"),
            ("docker.io/localhost/a", "docker.io/localhost/a"),
        ] {
            assert_eq!(name.parse::<Reference>().expect("valid").familiar(), familiar);
        }
    }
}
