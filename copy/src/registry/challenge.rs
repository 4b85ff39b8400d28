//! The `WWW-Authenticate` header (RFC 9110 §11.6.1), as registries use it.

/// What a registry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A user name and password with every request.
    Basic,
    /// A token from a token server.
    Bearer(Bearer),
}

/// The parameters of a `Bearer` challenge (distribution's "token authentication specification").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bearer {
    /// Address of the token server.
    pub(crate) realm: String,
    /// The service the token is for.
    pub(crate) service: Option<String>,
    /// The scope that would have been enough.
    pub(crate) scope: Option<String>,
    /// Why the token that was sent did not do.
    pub(crate) error: Option<String>,
}

/// The challenge we answer best among the values of all `WWW-Authenticate` headers of a reply: `Bearer` before
/// `Basic`; schemes we do not know are skipped.
pub(crate) fn choose<'a>(values: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let all: Vec<Challenge> = values.flat_map(parse).collect();
    let bearer = all.iter().find(|challenge| matches!(challenge, Challenge::Bearer(_)));
    bearer.or(all.first()).cloned()
}

/// The challenges of one header value that we know. Several challenges may share one value, names have any case,
/// and a quoted parameter may hold commas.
fn parse(value: &str) -> Vec<Challenge> {
    let mut raw: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = value;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        if end == 0 {
            break;
        }
        let word = rest[..end].to_ascii_lowercase();
        let after = rest[end..].trim_start_matches([' ', '\t']);
        match (after.strip_prefix('='), raw.last_mut()) {
            (Some(after), Some((_, parameters))) => {
                let (text, tail) = parameter(after.trim_start_matches([' ', '\t']));
                parameters.push((word, text));
                rest = tail;
            }
            // A parameter with no scheme before it: not a challenge.
            (Some(_), None) => break,
            (None, _) => {
                raw.push((word, Vec::new()));
                rest = after;
            }
        }
    }
    raw.into_iter().filter_map(|(scheme, parameters)| known(&scheme, parameters)).collect()
}

/// A token or quoted string, and what follows it.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

fn known(scheme: &str, parameters: Vec<(String, String)>) -> Option<Challenge> {
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => {
            let mut bearer = Bearer::default();
            for (name, value) in parameters {
                match name.as_str() {
                    "realm" => bearer.realm = value,
                    "service" => bearer.service = Some(value),
                    "scope" => bearer.scope = Some(value),
                    "error" => bearer.error = Some(value),
                    _ => {}
                }
            }
            (!bearer.realm.is_empty()).then_some(Challenge::Bearer(bearer))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Challenge::Bearer(Bearer { realm: realm.into(), service: owned(service), scope: owned(scope), error: None })
    }

    fn check(values: &[&str], expected: Option<Challenge>) {
        assert_eq!(choose(values.iter().copied()), expected, "{values:?}");
    }

    #[test]
    fn challenges_of_real_registries() {
        check(&[r#"Basic realm="Registry Realm""#], Some(Challenge::Basic));
        check(&["BASIC"], Some(Challenge::Basic));
        check(
            &[
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
            ],
            Some(bearer("https://auth.docker.io/token", Some("registry.docker.io"), Some("repository:a/b:pull,push"))),
        );
        check(&[r#"bearer REALM=https://x/t , Service = "s""#], Some(bearer("https://x/t", Some("s"), None)));
        check(&[r#"Basic realm="a, b", Bearer realm="https://x/t""#], Some(bearer("https://x/t", None, None)));
        check(&[r#"Basic realm="a""#, r#"Bearer realm="https://x/t""#], Some(bearer("https://x/t", None, None)));
        check(&[r#"Negotiate, Basic realm="a""#], Some(Challenge::Basic));
        check(&[r#"Bearer realm="https://x/\"t""#], Some(bearer(r#"https://x/"t"#, None, None)));
    }

    #[test]
    fn what_is_no_challenge_is_skipped() {
        for value in
            ["", ",,,", "=", "realm=\"x\"", "Bearer", "Bearer service=x", "Digest realm=\"x\"", "Bearer realm=\""]
        {
            check(&[value], None);
        }
    }
}
