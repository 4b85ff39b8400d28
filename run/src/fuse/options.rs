//! fuse-overlayfs's command line as data.
//!
//! `-o` takes options parted by commas; a backslash before a comma, a colon or a backslash makes it a plain character.
//! What is meant for the kernel's mount is kept apart; what is not known is an error.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use layerfs::error::{Error, Kind, Result};
use layerfs::fuse::{DETACHED, Forms, Hardlinks, IdRule, MountOptions, ServeOptions, UnionOptions};
use layerfs::mount::Upper;

/// What one call of `layerfs-fuse` asks for.
#[derive(Clone, Debug)]
pub(super) struct Command {
    pub(super) union: UnionOptions,
    pub(super) serve: ServeOptions,
    pub(super) mount: MountOptions,
    /// `MOUNT_ATTR_*` of the mount itself.
    pub(super) attributes: u64,
    /// Where it is attached; none to hand it to the caller through standard input.
    pub(super) target: Option<PathBuf>,
    pub(super) foreground: bool,
}

/// What the words ask for.
pub(super) enum Words {
    Serve(Box<Command>),
    Help,
    Version,
}

/// `MOUNT_ATTR_*` of `linux/mount.h`.
const NOSUID: u64 = 0x02;
const NODEV: u64 = 0x04;
const NOEXEC: u64 = 0x08;
const NOATIME: u64 = 0x10;
const NODIRATIME: u64 = 0x80;
const RDONLY: u64 = 0x01;

#[derive(Default)]
struct Seen {
    lowers: Vec<PathBuf>,
    upper: Option<PathBuf>,
    work: Option<PathBuf>,
}

/// Takes the words apart; the first is the program's name.
pub(super) fn parse(words: &[OsString]) -> Result<Words> {
    let mut command = Command {
        union: UnionOptions { forms: Forms::All, ..UnionOptions::new(Vec::new(), None) },
        serve: ServeOptions::default(),
        mount: MountOptions { source: "layerfs-fuse".to_owned(), ..MountOptions::default() },
        attributes: 0,
        target: None,
        foreground: false,
    };
    let (mut seen, mut places, mut detached) = (Seen::default(), Vec::new(), false);
    let mut words = words.iter().skip(1);
    while let Some(word) = words.next() {
        match word.as_bytes() {
            b"-h" | b"--help" => return Ok(Words::Help),
            b"-V" | b"--version" => return Ok(Words::Version),
            b"-f" => command.foreground = true,
            // Without a debugging output of its own, the foreground is what is left of it; -s is one thread.
            b"-d" | b"--debug" => command.foreground = true,
            b"-s" => command.serve.threads = 1,
            b"-o" => {
                let list = words.next().ok_or_else(|| Error::new(Kind::Usage, "-o: what it is to be is missing"))?;
                option_list(&mut command, &mut seen, list.as_bytes())?;
            }
            flag if flag == DETACHED.as_bytes() => detached = true,
            flag if flag.starts_with(b"-o") => option_list(&mut command, &mut seen, &flag[2..])?,
            flag if flag.starts_with(b"-") => {
                return Err(Error::new(Kind::Usage, format!("unknown flag `{}`", word.display())).hint(HINT));
            }
            _ => places.push(PathBuf::from(word)),
        }
    }
    command.target = match (places.pop(), places.len(), detached) {
        (None, _, true) => None,
        // As mount(8) calls its helpers: a source that means nothing, then the folder.
        (Some(target), 0 | 1, false) => Some(target),
        (Some(extra), ..) => {
            return Err(Error::new(Kind::Usage, format!("unknown argument `{}`", extra.display())).hint(HINT));
        }
        (None, ..) => return Err(Error::new(Kind::Usage, "the folder to mount on is missing").hint(HINT)),
    };
    finish(&mut command, seen)?;
    Ok(Words::Serve(Box::new(command)))
}

const HINT: &str = "layerfs-fuse -o lowerdir=A:B,upperdir=C,workdir=D FOLDER";

fn finish(command: &mut Command, seen: Seen) -> Result<()> {
    if seen.lowers.is_empty() {
        return Err(Error::new(Kind::Usage, "option lowerdir is missing").hint(HINT));
    }
    // The topmost is written first.
    command.union.lowers = seen.lowers.into_iter().rev().collect();
    command.union.upper = match (seen.upper, seen.work) {
        (None, _) => None,
        (Some(dir), Some(work)) => Some(Upper { dir, work }),
        (Some(_), None) => {
            return Err(Error::new(Kind::Usage, "option upperdir needs workdir")
                .hint("workdir=FOLDER: an empty folder on the same file system as upperdir"));
        }
    };
    command.mount.read_only |= command.union.upper.is_none();
    Ok(())
}

fn option_list(command: &mut Command, seen: &mut Seen, list: &[u8]) -> Result<()> {
    for option in split(list, b',') {
        if !option.is_empty() {
            one(command, seen, &option)?;
        }
    }
    Ok(())
}

fn one(command: &mut Command, seen: &mut Seen, option: &[u8]) -> Result<()> {
    let mut parts = option.splitn(2, |byte| *byte == b'=');
    let (name, value) = (parts.next().unwrap_or_default(), parts.next());
    let needs = || value.ok_or_else(|| named(name, "has no value"));
    let path = |value: &[u8]| PathBuf::from(OsStr::from_bytes(&unescape(value)));
    let Command { union, serve, mount, attributes, .. } = command;
    match name {
        b"lowerdir" => seen.lowers = split(needs()?, b':').iter().map(|part| path(part)).collect(),
        b"upperdir" => seen.upper = Some(path(needs()?)),
        b"workdir" => seen.work = Some(path(needs()?)),
        b"uidmapping" => union.owners.uids = mapping(name, needs()?)?,
        b"gidmapping" => union.owners.gids = mapping(name, needs()?)?,
        b"squash_to_root" => (union.owners.squash_uid, union.owners.squash_gid) = (Some(0), Some(0)),
        b"squash_to_uid" => union.owners.squash_uid = Some(number(name, needs()?)?),
        b"squash_to_gid" => union.owners.squash_gid = Some(number(name, needs()?)?),
        b"redirect_dir" => union.redirect_dir = switch(name, needs()?)?,
        b"ino32_t" => union.short_inos = true,
        b"volatile" => union.volatile = true,
        b"fsync" | b"sync" if value.is_some() => union.volatile = number(name, needs()?)? == 0,
        b"timeout" => union.timeout = Some(seconds(name, needs()?)?),
        b"forms" => union.forms = if needs()? == b"user" { Forms::User } else { Forms::All },
        b"hardlinks" => {
            union.hardlinks = if needs()? == b"broken" { Hardlinks::Broken } else { Hardlinks::Kept };
        }
        b"threaded" => serve.threads = usize::from(value == Some(b"0")),
        b"writeback" => serve.writeback = number(name, needs()?)? != 0,
        b"passthrough" => union.passthrough = number(name, needs()?)? != 0,
        b"noacl" => serve.acl = false,
        b"fsname" => mount.source = text(name, needs()?)?,
        b"subtype" => mount.subtype = text(name, needs()?)?,
        b"ro" => mount.read_only = true,
        b"nosuid" => *attributes |= NOSUID,
        b"nodev" => *attributes |= NODEV,
        b"noexec" => *attributes |= NOEXEC,
        b"noatime" => *attributes |= NOATIME,
        b"nodiratime" => *attributes |= NODIRATIME,
        // What is so anyway.
        b"rw"
        | b"suid"
        | b"dev"
        | b"exec"
        | b"atime"
        | b"diratime"
        | b"relatime"
        | b"async"
        | b"allow_other"
        | b"default_permissions"
        | b"nonempty"
        | b"static_nlink"
        | b"big_writes"
        | b"xino"
        | b"lazytime"
        | b"kernel_cache"
        | b"splice_read"
        | b"splice_write"
        | b"splice_move"
        | b"max_write"
        | b"fast_ino"
        | b"fast_ino_check" => {}
        b"max_idle_threads" | b"max_threads" | b"clone_fd" | b"auto_unmount" => {}
        // Names of one file stay so in any case; metadata alone is never copied.
        b"index" if matches!(value, Some(b"on" | b"off")) => {}
        b"metacopy" if value == Some(b"off") => {}
        b"context" => mount.context = Some(text(name, needs()?)?),
        b"xattr_permissions" if value == Some(b"0") => {}
        b"allow_root" => mount.allow_other = true,
        b"xattr_permissions" | b"plugins" | b"noxattrs" | b"index" | b"metacopy" => {
            return Err(Error::new(Kind::Unsupported, format!("option `{}` is not supported", option.escape_ascii())));
        }
        _ => return Err(named(name, "is not known").hint(HINT)),
    }
    if mount.read_only {
        *attributes |= RDONLY;
    }
    Ok(())
}

fn named(name: &[u8], what: &str) -> Error {
    Error::new(Kind::Usage, format!("option `{}` {what}", name.escape_ascii()))
}

fn text(name: &[u8], value: &[u8]) -> Result<String> {
    String::from_utf8(unescape(value)).map_err(|_| named(name, "is no text"))
}

fn number(name: &[u8], value: &[u8]) -> Result<u32> {
    let text = std::str::from_utf8(value).ok();
    text.and_then(|text| text.parse().ok()).ok_or_else(|| named(name, "is no number"))
}

/// Seconds, of which fractions are cut.
fn seconds(name: &[u8], value: &[u8]) -> Result<u64> {
    let whole = value.split(|byte| *byte == b'.').next().unwrap_or_default();
    number(name, whole).map(u64::from)
}

fn switch(name: &[u8], value: &[u8]) -> Result<bool> {
    match value {
        b"on" => Ok(true),
        b"off" | b"nofollow" => Ok(false),
        _ => Err(named(name, "is on or off")),
    }
}

/// `SEEN:DISK:SIZE[:SEEN:DISK:SIZE…]`.
fn mapping(name: &[u8], value: &[u8]) -> Result<Vec<IdRule>> {
    let numbers = value.split(|byte| *byte == b':').map(|part| number(name, part)).collect::<Result<Vec<_>>>()?;
    if numbers.is_empty() || numbers.len() % 3 != 0 {
        return Err(named(name, "is not a list of SEEN:DISK:SIZE"));
    }
    Ok(numbers.chunks(3).map(|part| IdRule { seen: part[0], disk: part[1], size: part[2] }).collect())
}

/// Parts between unescaped separators, their backslashes kept for the next step.
fn split(text: &[u8], separator: u8) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        let Some(last) = parts.last_mut() else { break };
        if byte == b'\\' {
            last.push(byte);
            last.extend(bytes.next());
        } else if byte == separator {
            parts.push(Vec::new());
        } else {
            last.push(byte);
        }
    }
    parts
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match bytes.peek() {
            Some(b',' | b':' | b'\\') if byte == b'\\' => plain.extend(bytes.next()),
            _ => plain.push(byte),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(words: &[&str]) -> Result<Box<Command>> {
        let words: Vec<OsString> = std::iter::once(&"layerfs-fuse").chain(words).map(OsString::from).collect();
        match parse(&words)? {
            Words::Serve(command) => Ok(command),
            Words::Help | Words::Version => Err(Error::new(Kind::Usage, "asked for help")),
        }
    }

    #[test]
    fn what_podman_says_is_understood() {
        let command = command(&[
            "-o",
            "lowerdir=/l/A:/l/B,upperdir=/c/diff,workdir=/c/work,volatile,nodev,fsync=0,uidmapping=0:1000:1:1:100000:65536",
            "/c/merged",
        ])
        .expect("a command");
        assert_eq!(command.union.lowers, [PathBuf::from("/l/B"), PathBuf::from("/l/A")]);
        assert_eq!(command.union.upper.expect("an upper").work, PathBuf::from("/c/work"));
        assert_eq!(command.union.owners.uids[1], IdRule { seen: 1, disk: 100_000, size: 65536 });
        assert!(command.union.volatile && !command.mount.read_only && command.attributes == NODEV);
        assert_eq!(command.target, Some(PathBuf::from("/c/merged")));
    }

    #[test]
    fn paths_may_hold_any_character() {
        let odd = std::path::Path::new("/a:b,c\\d=e");
        let list = "lowerdir=/a\\:b\\,c\\\\d=e";
        assert_eq!(command(&["-o", list, "/m"]).expect("a command").union.lowers, [odd]);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (words, expected) in [
            (&["-o", "lowerdir=/a,wat=1", "/m"][..], "option `wat` is not known"),
            (&["-o", "lowerdir=/a,upperdir=/b", "/m"], "option upperdir needs workdir"),
            (&["-o", "lowerdir=/a,xattr_permissions=2", "/m"], "option `xattr_permissions=2` is not supported"),
            (&["-o", "lowerdir=/a,uidmapping=0:1", "/m"], "option `uidmapping` is not a list of SEEN:DISK:SIZE"),
            (&["-o", "lowerdir=/a,squash_to_uid=x", "/m"], "option `squash_to_uid` is no number"),
            (&["-o", "upperdir=/a", "/m"], "option lowerdir is missing"),
            (&["-o", "lowerdir=/a"], "the folder to mount on is missing"),
            (&["-x", "/m"], "unknown flag `-x`"),
            (&["-o"], "-o: what it is to be is missing"),
            (&["-o", "lowerdir=/a", "/s", "/t", "/m"], "unknown argument `/m`"),
        ] {
            assert_eq!(command(words).expect_err("it is refused").to_string(), expected);
        }
    }

    #[test]
    fn a_mount_without_an_upper_folder_is_read_only() {
        assert!(command(&["src", "/m", "-o", "lowerdir=/a"]).expect("a command").mount.read_only);
    }
}
