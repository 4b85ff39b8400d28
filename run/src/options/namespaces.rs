//! Which namespaces a container has of its own, and which ids exist in its user namespace: the words of `--userns`,
//! `--uidmap`, `--gidmap`, `--ipc`, `--pid`, `--uts` and `--cgroupns`, as podman has them.

use std::path::PathBuf;

use layerfs::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

/// A namespace of its own, or whose else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Share {
    /// Its own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// That of another container, by name or ID.
    Container(String),
    /// An existing one, by its file.
    Path(PathBuf),
}

/// What becomes of `/dev/shm` where the IPC namespace is the container's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SharedMemory {
    /// Other containers may join it, and the namespace.
    #[default]
    Shareable,
    /// It is the container's alone.
    Private,
    /// There is none.
    None,
}

/// Which ids exist in the container, and whose they are outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UserNamespace {
    /// The caller's: root inside is root, or the user who is not root.
    #[default]
    Host,
    /// The user is the same user inside.
    KeepId {
        /// Which user, where it is not the same number.
        uid: Option<u32>,
        /// Which group.
        gid: Option<u32>,
        /// How many ids there are, at most.
        size: Option<u32>,
    },
    /// Ids that no other container has.
    Auto {
        /// How many; `None` for as many as the image needs.
        size: Option<u32>,
        /// User ids that are to be certain ones.
        uids: Vec<IdRule>,
        /// Group ids that are to be certain ones.
        gids: Vec<IdRule>,
    },
    /// All ids of the user but the user's own.
    NoMap,
    /// That of another container, by name or ID.
    Container(String),
    /// An existing one, by its file.
    Path(PathBuf),
    /// `--uidmap`, `--gidmap`: these.
    Rules {
        /// User ids.
        uids: Vec<IdRule>,
        /// Group ids.
        gids: Vec<IdRule>,
    },
    /// `--subuidname`, `--subgidname`: the ranges of these names.
    Named {
        /// In `/etc/subuid`.
        user: String,
        /// In `/etc/subgid`.
        group: String,
    },
}

/// `[FLAGS]CONTAINER:FROM[:SIZE]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IdRule {
    /// First id inside.
    pub container: u32,
    /// First id outside.
    pub from: u32,
    /// How many.
    pub size: u32,
    /// `@`: `from` is an id of the host, not of the namespace that the user's ids make.
    pub host: bool,
    /// `+`: it takes its place in what was said before, and the rest is filled up.
    pub extend: bool,
    /// `u` or `g`: for users or groups only.
    pub only: Option<IdKind>,
}

/// Users or groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdKind {
    /// `u`
    User,
    /// `g`
    Group,
}

fn usage(message: impl Into<String>) -> Error {
    Error::new(Kind::Usage, message)
}

/// `private`, `host`, `container:NAME` or `ns:PATH`.
///
/// # Errors
/// None of these.
pub fn share(text: &str) -> Result<Share> {
    match text.split_once(':') {
        None if matches!(text, "private" | "") => Ok(Share::Private),
        None if text == "host" => Ok(Share::Host),
        Some(("container", name)) => named(name).map(Share::Container),
        Some(("ns", path)) => absolute(path).map(Share::Path),
        _ => Err(usage(format!("`{text}` is not a namespace mode"))
            .hint("private, host, container:NAME and ns:PATH are modes")),
    }
}

/// `--ipc`: the same, and `shareable` and `none`.
///
/// # Errors
/// None of these.
pub fn ipc(text: &str) -> Result<(Share, SharedMemory)> {
    match text {
        "" | "shareable" => Ok((Share::Private, SharedMemory::Shareable)),
        "private" => Ok((Share::Private, SharedMemory::Private)),
        "none" => Ok((Share::Private, SharedMemory::None)),
        _ => Ok((share(text).map_err(|error| error.hint("as are shareable and none"))?, SharedMemory::Shareable)),
    }
}

/// `--userns`
///
/// # Errors
/// No such mode, or an option that it does not have.
pub fn user_namespace(text: &str) -> Result<UserNamespace> {
    let (mode, rest) = text.split_once(':').unwrap_or((text, ""));
    let pairs =
        || rest.split(',').filter(|word| !word.is_empty()).map(|word| word.split_once('=').unwrap_or((word, "")));
    let unknown = |key: &str| usage(format!("`{key}` is not an option of --userns {mode}"));
    match mode {
        "" | "host" if rest.is_empty() => Ok(UserNamespace::Host),
        "nomap" if rest.is_empty() => Ok(UserNamespace::NoMap),
        "keep-id" => {
            let (mut uid, mut gid, mut size) = (None, None, None);
            for (key, value) in pairs() {
                match key {
                    "uid" => uid = Some(id(value)?),
                    "gid" => gid = Some(id(value)?),
                    "size" => size = Some(count(value)?),
                    _ => return Err(unknown(key).hint("uid=, gid= and size= are")),
                }
            }
            Ok(UserNamespace::KeepId { uid, gid, size })
        }
        "auto" => {
            let (mut size, mut uids, mut gids) = (None, Vec::new(), Vec::new());
            for (key, value) in pairs() {
                match key {
                    "size" => size = Some(count(value)?),
                    "uidmapping" => uids.push(id_rule(value)?),
                    "gidmapping" => gids.push(id_rule(value)?),
                    _ => return Err(unknown(key).hint("size=, uidmapping= and gidmapping= are")),
                }
            }
            Ok(UserNamespace::Auto { size, uids, gids })
        }
        "container" => named(rest).map(UserNamespace::Container),
        "ns" => absolute(rest).map(UserNamespace::Path),
        _ => Err(usage(format!("`{text}` is not a mode of --userns"))
            .hint("host, keep-id[:uid=,gid=,size=], auto[:size=], nomap, container:NAME and ns:PATH are")),
    }
}

/// One `--uidmap` or `--gidmap`.
///
/// # Errors
/// Not of that form.
pub fn id_rule(text: &str) -> Result<IdRule> {
    let invalid = || usage(format!("`{text}` is not an id mapping")).hint("the form is CONTAINER:FROM[:SIZE]");
    let digits = text.find(|c: char| c.is_ascii_digit()).ok_or_else(invalid)?;
    let mut rule = IdRule { size: 1, ..IdRule::default() };
    for flag in text[..digits].chars() {
        match (flag, rule.only) {
            ('+', _) if !rule.extend => rule.extend = true,
            ('u', None) => rule.only = Some(IdKind::User),
            ('g', None) => rule.only = Some(IdKind::Group),
            _ => return Err(invalid()),
        }
    }
    let parts: Vec<&str> = text[digits..].split(':').collect();
    let (container, from) = match parts[..] {
        [container, from] => (container, from),
        [container, from, size] => {
            rule.size = count(size)?;
            (container, from)
        }
        _ => return Err(invalid()),
    };
    rule.host = from.starts_with('@');
    (rule.container, rule.from) = (id(container)?, id(from.trim_start_matches('@'))?);
    let ends = [rule.container, rule.from].map(|first| first.checked_add(rule.size));
    if ends.contains(&None) {
        return Err(invalid().hint("ids go up to 4294967294"));
    }
    Ok(rule)
}

/// `--uidmap` and `--gidmap` together: where one of them is missing, the other counts for both, but for what is marked
/// as users' or groups' only.
pub fn id_rules(uids: &[IdRule], gids: &[IdRule]) -> UserNamespace {
    let for_both = |rules: &[IdRule]| rules.iter().filter(|rule| rule.only.is_none()).cloned().collect::<Vec<_>>();
    let of =
        |rules: &[IdRule], kind| rules.iter().filter(|r| r.only.is_none_or(|only| only == kind)).cloned().collect();
    let (mut users, mut groups): (Vec<_>, Vec<_>) = (of(uids, IdKind::User), of(gids, IdKind::Group));
    if gids.is_empty() {
        groups = for_both(uids);
    }
    if uids.is_empty() {
        users = for_both(gids);
    }
    UserNamespace::Rules { uids: users, gids: groups }
}

fn id(text: &str) -> Result<u32> {
    let number = text.parse::<u32>().ok().filter(|id| *id < u32::MAX && text.bytes().all(|b| b.is_ascii_digit()));
    number.ok_or_else(|| usage(format!("`{text}` is not an id")))
}

fn count(text: &str) -> Result<u32> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| usage(format!("`{text}` is not a number of ids")))
}

fn named(name: &str) -> Result<String> {
    match name {
        "" => Err(usage("which container's namespace").hint("container:NAME")),
        _ => Ok(name.to_owned()),
    }
}

fn absolute(path: &str) -> Result<PathBuf> {
    let path = PathBuf::from(path);
    match path.is_absolute() {
        true => Ok(path),
        false => Err(usage("a namespace is named by an absolute path").hint("ns:/proc/PID/ns/KIND")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(container: u32, from: u32, size: u32) -> IdRule {
        IdRule { container, from, size, ..IdRule::default() }
    }

    #[test]
    fn modes_are_those_of_podman() {
        use UserNamespace as U;
        let cases = [
            ("", Some(U::Host)),
            ("host", Some(U::Host)),
            ("nomap", Some(U::NoMap)),
            ("keep-id", Some(U::KeepId { uid: None, gid: None, size: None })),
            ("keep-id:uid=7,gid=8,size=9", Some(U::KeepId { uid: Some(7), gid: Some(8), size: Some(9) })),
            ("auto:size=5", Some(U::Auto { size: Some(5), uids: Vec::new(), gids: Vec::new() })),
            (
                "auto:uidmapping=0:@1000:1",
                Some(U::Auto { size: None, uids: vec![IdRule { host: true, ..rule(0, 1000, 1) }], gids: Vec::new() }),
            ),
            ("container:web", Some(U::Container("web".to_owned()))),
            ("ns:/proc/1/ns/user", Some(U::Path("/proc/1/ns/user".into()))),
            ("container:", None),
            ("ns:x", None),
            ("keep-id:uid=-1", None),
            ("keep-id:frob=1", None),
            ("auto:size=0", None),
            ("private", None),
        ];
        for (text, expected) in cases {
            assert_eq!(user_namespace(text).ok(), expected, "{text}");
        }
        let shares = [
            ("private", Some(Share::Private)),
            ("host", Some(Share::Host)),
            ("container:a", Some(Share::Container("a".to_owned()))),
            ("ns:/x", Some(Share::Path("/x".into()))),
            ("shareable", None),
            ("ns:", None),
        ];
        for (text, expected) in shares {
            assert_eq!(share(text).ok(), expected, "{text}");
        }
        assert_eq!(ipc("none").ok(), Some((Share::Private, SharedMemory::None)));
        assert_eq!(ipc("frob").ok(), None);
    }

    #[test]
    fn rules_have_flags() {
        let cases = [
            ("0:1", Some(rule(0, 1, 1))),
            ("5:6:7", Some(rule(5, 6, 7))),
            ("+g5:@6:7", Some(IdRule { host: true, extend: true, only: Some(IdKind::Group), ..rule(5, 6, 7) })),
            ("ug5:6", None),
            ("5", None),
            ("5:6:0", None),
            ("4294967295:0:1", None),
            ("4294967290:0:10", None),
            ("x5:6", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(id_rule(text).ok(), expected, "{text}");
        }
        let users_only = IdRule { only: Some(IdKind::User), ..rule(9, 9, 1) };
        let both = id_rules(&[rule(0, 0, 5), users_only.clone()], &[]);
        assert_eq!(both, UserNamespace::Rules { uids: vec![rule(0, 0, 5), users_only], gids: vec![rule(0, 0, 5)] });
    }
}
