//! What `ADD` and a build context can name besides paths: files on the web, and git repositories.
//!
//! ```
//! use build::dockerfile::remote::{Remote, parse};
//! let Some(Remote::Git(git)) = parse("https://example.com/a.git#v1:docs").unwrap() else { panic!() };
//! assert_eq!((git.url.as_str(), git.reference.as_deref(), git.subdir.as_str()), ("https://example.com/a.git", Some("v1"), "docs"));
//! assert_eq!(parse("some/path").unwrap(), None);
//! ```

use super::Fault;

/// Something that has to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remote {
    /// A file on the web.
    File(String),
    /// A git repository.
    Git(Git),
}

/// A git repository, and what of it is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Git {
    /// Its address, as git takes it.
    pub url: String,
    /// A branch, tag or commit; what the repository says otherwise.
    pub reference: Option<String>,
    /// The folder that is meant; empty for all.
    pub subdir: String,
    /// What the commit's name has to begin with.
    pub checksum: Option<String>,
    /// Whether the `.git` folder stays.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are fetched; they are where nothing is said.
    pub submodules: Option<bool>,
    /// Files get the time of their commit, not that of the checkout.
    pub commit_times: bool,
}

/// What `text` names; `None` for a path.
///
/// # Errors
/// The options after `?` are not known or contradict one another.
pub fn parse(text: &str) -> Result<Option<Remote>, Fault> {
    if is_scp(text) {
        return git(text, text).map(Some);
    }
    let Some((scheme, rest)) = text.split_once("://") else { return Ok(None) };
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    match scheme.to_ascii_lowercase().as_str() {
        "git" | "ssh" => git(text, text).map(Some),
        "http" | "https" if path.ends_with(".git") => git(text, text).map(Some),
        "http" | "https" => Ok(Some(Remote::File(text.to_owned()))),
        _ => Ok(None),
    }
}

/// The same for the context of a build, where `github.com/…` is a repository too.
///
/// # Errors
/// Those of [`parse`].
pub fn parse_context(text: &str) -> Result<Option<Remote>, Fault> {
    match text.starts_with("github.com/") {
        true => git(&format!("https://{text}"), text).map(Some),
        false => parse(text),
    }
}

/// `USER@HOST:PATH`, as ssh has it.
fn is_scp(text: &str) -> bool {
    let plain = |text: &str, more: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    let Some((user, rest)) = text.split_once('@') else { return false };
    let Some((host, _)) = rest.split_once(':') else { return false };
    plain(user, "-_") && plain(host, "-.")
}

fn git(text: &str, written: &str) -> Result<Remote, Fault> {
    let (before, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (url, query) = before.split_once('?').unwrap_or((before, ""));
    let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut git = Git { url: url.to_owned(), reference: some(reference), subdir: subdir.to_owned(), ..Git::default() };
    let fault = |what: String| Fault::new(format!("`{}`: {what}", written.escape_debug()));
    let mut seen: Vec<&str> = Vec::new();
    for field in query.split('&').filter(|field| !field.is_empty()) {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        let value = decode(value);
        if seen.contains(&key) {
            return Err(fault(format!("`{key}` is there twice")));
        }
        seen.push(key);
        let flag = || match value.to_ascii_lowercase().as_str() {
            "" | "1" | "t" | "true" => Ok(true),
            "0" | "f" | "false" => Ok(false),
            other => Err(fault(format!("{key}={other} is neither true nor false"))),
        };
        if value.is_empty() && !matches!(key, "submodules" | "keep-git-dir") {
            return Err(fault(format!("`{key}` has no value")));
        }
        let mut refer = |name: String| match &git.reference {
            Some(known) if *known != name => Err(fault(format!("it names both `{known}` and `{name}`"))),
            _ => {
                git.reference = Some(name);
                Ok(())
            }
        };
        let in_full = |folder: &str| match value.starts_with(folder) {
            true => value.clone(),
            false => format!("{folder}{value}"),
        };
        match key {
            "ref" => refer(value.clone())?,
            "tag" => refer(in_full("refs/tags/"))?,
            "branch" => refer(in_full("refs/heads/"))?,
            "subdir" if git.subdir.is_empty() || git.subdir == value => git.subdir = value,
            "subdir" => return Err(fault(format!("it names both `{}` and `{value}`", git.subdir))),
            "checksum" | "commit" => git.checksum = Some(value),
            "keep-git-dir" => git.keep_git_dir = Some(flag()?),
            "submodules" => git.submodules = Some(flag()?),
            "mtime" if value == "commit" => git.commit_times = true,
            "mtime" if value == "checkout" => {}
            // A commit is asked for by its name wherever the server allows it.
            "fetch-by-commit" => drop(flag()?),
            _ => {
                return Err(fault(format!("`{key}` is not known"))
                    .hint("there are ref, tag, branch, subdir, checksum, keep-git-dir, submodules and mtime"));
            }
        }
    }
    if git.reference.is_none() {
        git.reference.clone_from(&git.checksum);
    }
    Ok(Remote::Git(git))
}

/// `%20` and the like.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = tail.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        match (first, code.and_then(|code| u8::from_str_radix(code, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The name a file on the web gets in a folder: the last part of its path.
pub fn file_name(url: &str) -> String {
    let path = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let name = path.split_once('/').map_or("", |(_, path)| path).trim_end_matches('/').rsplit('/').next();
    match decode(name.unwrap_or_default()) {
        name if matches!(name.as_str(), "" | "." | "..") || name.contains('/') => "__unnamed__".to_owned(),
        name => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What BuildKit's table of git references has, and its answers.
    #[test]
    fn repositories_are_told_from_files_and_paths() {
        let long = "https://github.com/foo/bar.git#baz/qux:quux/quuz";
        for (text, expected) in [
            ("https://example.com/", None),
            ("https://example.com/foo", None),
            ("https://example.com/foo.git", Some(("https://example.com/foo.git", "", ""))),
            ("https://example.com/foo.git#deadbeef", Some(("https://example.com/foo.git", "deadbeef", ""))),
            ("https://example.com/foo.git#release/1.2", Some(("https://example.com/foo.git", "release/1.2", ""))),
            ("https://example.com/foo.git/", None),
            ("https://example.com/foo.git.bar", None),
            ("git://example.com/foo", Some(("git://example.com/foo", "", ""))),
            ("github.com/moby/buildkit", Some(("https://github.com/moby/buildkit", "", ""))),
            ("custom.xyz/moby/buildkit.git", None),
            ("https://github.com/moby/buildkit", None),
            (
                "https://foo:bar@github.com/moby/buildkit.git",
                Some(("https://foo:bar@github.com/moby/buildkit.git", "", "")),
            ),
            ("git@github.com:moby/buildkit", Some(("git@github.com:moby/buildkit", "", ""))),
            ("git@github.com:moby/buildkit.git#v1:a", Some(("git@github.com:moby/buildkit.git", "v1", "a"))),
            (long, Some(("https://github.com/foo/bar.git", "baz/qux", "quux/quuz"))),
            ("http://github.com/docker/docker.git:#branch", None),
            (
                "https://github.com/docker/docker.git#:myfolder",
                Some(("https://github.com/docker/docker.git", "", "myfolder")),
            ),
            ("./.git", None),
            (".git", None),
            (
                "https://github.com/docker/docker.git?ref=v1.0.0&subdir=/subdir",
                Some(("https://github.com/docker/docker.git", "v1.0.0", "/subdir")),
            ),
            ("https://x/y.git?tag=v1", Some(("https://x/y.git", "refs/tags/v1", ""))),
            ("https://x/y.git?branch=refs/heads/m", Some(("https://x/y.git", "refs/heads/m", ""))),
            ("https://x/y.git?checksum=abcdef1", Some(("https://x/y.git", "abcdef1", ""))),
        ] {
            let found = match parse_context(text).unwrap_or_else(|fault| panic!("{text}: {fault:?}")) {
                Some(Remote::Git(git)) => Some((git.url, git.reference.unwrap_or_default(), git.subdir)),
                _ => None,
            };
            let expected = expected.map(|(url, name, dir)| (url.to_owned(), name.to_owned(), dir.to_owned()));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn options_that_contradict_one_another_are_errors() {
        for text in
            ["?ref=a#b", "?tag=a&branch=b", "?ref=", "?ref=a&ref=b", "?colour=red", "?submodules=x", "?subdir=a#:b"]
        {
            let text = format!("https://example.com/x.git{text}");
            assert!(parse(&text).is_err(), "{text}");
        }
        let Ok(Some(Remote::Git(git))) = parse("https://x/y.git?keep-git-dir&submodules=false&mtime=commit") else {
            panic!("a repository")
        };
        assert_eq!((git.keep_git_dir, git.submodules, git.commit_times), (Some(true), Some(false), true));
    }

    #[test]
    fn files_of_the_web_are_called_by_the_end_of_their_path() {
        for (url, name) in [
            ("http://x/a/b.txt?c=d#e", "b.txt"),
            ("http://x/a%20b", "a b"),
            ("http://x/", "__unnamed__"),
            ("http://x", "__unnamed__"),
            ("http://x/..", "__unnamed__"),
            ("http://x/a/", "a"),
        ] {
            assert_eq!(file_name(url), name, "{url}");
        }
    }
}
