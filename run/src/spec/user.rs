//! Who the process is: `USER[:GROUP]` against an image's `/etc/passwd` and `/etc/group`.
//!
//! The rules are those of docker and podman (moby/sys `user.GetExecUser`): a number is always an id, never a name; an id
//! nobody has is fine, with group 0 and home `/`; a name must exist; without a named group the user's memberships count.
//! The primary group is one of the supplementary groups too.
//! Anything else that begins like a number or holds odd bytes is an error: `USER 4294967296` must not become root, nor
//! `+0`, ` 0` or `0x0` (CVE-2024-40635, CVE-2026-30892).

use layerfs::error::{Error, Kind, Result};

/// Ids above this are refused: some programs keep them in an `int`.
const ID_MAX: u32 = i32::MAX as u32;

/// The largest `/etc/passwd` or `/etc/group` that is read, in bytes.
pub const FILE_MAX: u64 = 8 << 20;

/// A user of the image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home folder; `/` for an id nobody has.
    pub home: String,
}

/// Resolves `text` (empty for root) against the two files' contents, and adds `more` groups by name or number.
///
/// # Errors
/// A name does not exist in the image, or a number is not an id.
pub fn resolve(text: &str, passwd: &[u8], group: &[u8], more: &[String]) -> Result<User> {
    let (user, wanted_group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    let entry = match Id::parse(user, "user")? {
        Id::None => find_passwd(passwd, |_, uid| uid == 0).or(Some(Passwd {
            name: String::new(),
            ids: (0, 0),
            home: "/root".into(),
        })),
        Id::Number(uid) => find_passwd(passwd, |_, id| id == uid).or(Some(Passwd {
            name: String::new(),
            ids: (uid, 0),
            home: "/".into(),
        })),
        Id::Name(name) => find_passwd(passwd, |known, _| known == name),
    };
    let Some(Passwd { name, ids: (uid, gid), home }) = entry else {
        return Err(Error::new(Kind::NotFound, format!("user `{user}` is not in the image's /etc/passwd"))
            .hint("a user can also be given by number"));
    };
    let mut resolved = User { uid, gid, groups: Vec::new(), home: if home.is_empty() { "/".into() } else { home } };
    match wanted_group {
        Some(wanted) => resolved.gid = find_group(group, wanted)?,
        None if !name.is_empty() => resolved.groups = memberships(group, &name, gid),
        None => {}
    }
    // Without it, a file that its group may not read could be read by somebody who gave that group up (CVE-2022-2989).
    if !text.is_empty() && !resolved.groups.contains(&resolved.gid) {
        resolved.groups.insert(0, resolved.gid);
    }
    for wanted in more {
        let gid = find_group(group, wanted)?;
        if !resolved.groups.contains(&gid) {
            resolved.groups.push(gid);
        }
    }
    Ok(resolved)
}

enum Id<'a> {
    None,
    Number(u32),
    Name(&'a str),
}

impl<'a> Id<'a> {
    fn parse(text: &'a str, what: &str) -> Result<Self> {
        let invalid = || Error::new(Kind::Invalid, format!("`{}` is not a {what}", text.escape_debug()));
        if text.is_empty() {
            return Ok(Self::None);
        }
        if text.bytes().all(|b| b.is_ascii_digit()) {
            let id = text.parse::<u32>().ok().filter(|id| *id <= ID_MAX);
            return id.map(Self::Number).ok_or_else(|| invalid().hint(format!("ids go up to {ID_MAX}")));
        }
        // What useradd and login accept everywhere: no blank, no control character, no colon, and no sign before a number.
        let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ':' | '/' | '+' | ',');
        match text.contains(odd) || text.starts_with(['-', '~']) || text.starts_with("0x") {
            true => Err(invalid()),
            false => Ok(Self::Name(text)),
        }
    }
}

struct Passwd {
    name: String,
    ids: (u32, u32),
    home: String,
}

fn find_passwd(passwd: &[u8], matches: impl Fn(&str, u32) -> bool) -> Option<Passwd> {
    passwd.split(|b| *b == b'\n').find_map(|line| {
        let fields: Vec<&str> = std::str::from_utf8(line).ok()?.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
        let ids = (number(uid)?, number(gid)?);
        matches(name, ids.0).then(|| Passwd { name: name.to_owned(), ids, home: home.to_owned() })
    })
}

/// The lines of `/etc/group`: name, id, members.
fn groups(group: &[u8]) -> impl Iterator<Item = (&str, u32, &str)> {
    group.split(|b| *b == b'\n').filter_map(|line| {
        let fields: Vec<&str> = std::str::from_utf8(line).ok()?.split(':').collect();
        let [name, _, gid, members] = fields[..] else { return None };
        Some((name, number(gid)?, members))
    })
}

/// Names and ids of either file.
pub(crate) fn entries(file: &[u8]) -> impl Iterator<Item = (&str, u32)> {
    file.split(|b| *b == b'\n').filter_map(|line| {
        let mut fields = std::str::from_utf8(line).ok()?.split(':');
        Some((fields.next()?, number(fields.nth(1)?)?))
    })
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id <= ID_MAX && text.bytes().all(|b| b.is_ascii_digit()))
}

fn find_group(group: &[u8], wanted: &str) -> Result<u32> {
    match Id::parse(wanted, "group")? {
        Id::Number(gid) => Ok(gid),
        Id::Name(name) => groups(group).find(|(known, ..)| *known == name).map(|(_, gid, _)| gid).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("group `{name}` is not in the image's /etc/group"))
                .hint("a group can also be given by number")
        }),
        Id::None => Err(Error::new(Kind::Invalid, "a group has no name")),
    }
}

fn memberships(group: &[u8], user: &str, primary: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for (_, gid, members) in groups(group) {
        if gid != primary && members.split(',').any(|member| member == user) && !found.contains(&gid) {
            found.push(gid);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] =
        b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1001::/home/user:/bin/sh\n7:x:70:70::/odd:/bin/sh\n\
        broken\nbig:x:4294967296:0::/:/\nnegative:x:-1:0::/:/\n\xff\xfe:x:1:1::/:/\n";
    const GROUP: &[u8] = b"root:x:0:\nuser:x:1001:\nwheel:x:10:user,other\nextra:x:20:user\nbroken\n";

    fn check(text: &str, expected: Option<(u32, u32, &[u32], &str)>) {
        let resolved = resolve(text, PASSWD, GROUP, &[]).ok().map(|user| (user.uid, user.gid, user.groups, user.home));
        let expected = expected.map(|(uid, gid, groups, home)| (uid, gid, groups.to_vec(), home.to_owned()));
        assert_eq!(resolved, expected, "{text:?}");
    }

    #[test]
    fn users_are_exact_or_refused() {
        check("", Some((0, 0, &[], "/root")));
        check("root", Some((0, 0, &[0], "/root")));
        check("user", Some((1000, 1001, &[1001, 10, 20], "/home/user")));
        check("1000", Some((1000, 1001, &[1001, 10, 20], "/home/user")));
        check("1000:", Some((1000, 1001, &[1001, 10, 20], "/home/user")));
        check(":1000", Some((0, 1000, &[1000], "/root")));
        check("user:wheel", Some((1000, 10, &[10], "/home/user")));
        check("user:5", Some((1000, 5, &[5], "/home/user")));
        check("4242", Some((4242, 0, &[0], "/")));
        check("7", Some((7, 0, &[0], "/")));
        check("2147483647", Some((i32::MAX as u32, 0, &[0], "/")));
        for wrong in [
            "nobody-here",
            "user:nope",
            "2147483648",
            "4294967295",
            "4294967296",
            "-1",
            "+1000",
            " 1",
            "1 ",
            "0x1",
            "0x0:0",
            "1000:+0",
            "1000:4294967296",
            "big",
            "negative",
            "99999999999999999999",
            "1:2:3",
            "a b",
            "user\n",
        ] {
            check(wrong, None);
        }
    }

    #[test]
    fn groups_can_be_added() {
        let more = ["wheel".to_owned(), "99".to_owned(), "wheel".to_owned()];
        assert_eq!(resolve("4242", PASSWD, GROUP, &more).expect("valid").groups, [0, 10, 99]);
        assert!(resolve("0", PASSWD, GROUP, &["nope".to_owned()]).is_err());
    }
}
