//! Mount options as the runtime specification spells them. Pure.

use layerfs::error::{Error, Kind, Result};

const RDONLY: u64 = 0x1;
const NOSUID: u64 = 0x2;
const NODEV: u64 = 0x4;
const NOEXEC: u64 = 0x8;
const ATIME_MASK: u64 = 0x70;
const NOATIME: u64 = 0x10;
const STRICTATIME: u64 = 0x20;
const NODIRATIME: u64 = 0x80;
const NOSYMFOLLOW: u64 = 0x20_0000;

const UNBINDABLE: u64 = 1 << 17;
const PRIVATE: u64 = 1 << 18;
const SLAVE: u64 = 1 << 19;
const SHARED: u64 = 1 << 20;

/// Mount attributes to set and to clear: `MOUNT_ATTR_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) set: u64,
    pub(crate) clear: u64,
}

impl Attributes {
    /// A later option wins over an earlier one.
    fn add(&mut self, set: u64, clear: u64) {
        self.set = (self.set & !clear) | set;
        self.clear = (self.clear & !set) | clear;
    }

    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// How mounts below appear elsewhere: `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Propagation {
    pub(crate) kind: u64,
    pub(crate) recursive: bool,
}

/// Whether a mount shows a folder or file that is already somewhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bind {
    /// That mount alone.
    Single,
    /// With the mounts below it.
    Recursive,
}

/// How the ids of a mount are mapped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IdMap {
    /// Those of the mounts below it as well.
    pub(crate) recursive: bool,
    /// The mapping, where the option itself has one.
    pub(crate) mapping: Option<String>,
}

/// What the options of one mount mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MountOptions {
    pub(crate) bind: Option<Bind>,
    /// For the mount itself.
    pub(crate) own: Attributes,
    /// For it and all mounts below it.
    pub(crate) recursive: Attributes,
    pub(crate) propagation: Option<Propagation>,
    /// Fill an empty file system with what it covers.
    pub(crate) copy_up: bool,
    pub(crate) idmap: Option<IdMap>,
    /// What the file system itself is told.
    pub(crate) data: Vec<(String, Option<String>)>,
}

impl MountOptions {
    /// Reads the options of one mount. What is no known word is for the file system.
    pub(crate) fn parse<S: AsRef<str>>(options: &[S]) -> Self {
        let mut parsed = Self::default();
        for option in options {
            parsed.add(option.as_ref());
        }
        parsed
    }

    fn add(&mut self, option: &str) {
        if let Some((set, clear)) = attribute(option) {
            self.own.add(set, clear);
        } else if let Some((set, clear)) = option.strip_prefix('r').and_then(attribute) {
            self.recursive.add(set, clear);
        } else if let Some(kind) = propagation(option) {
            self.propagation = Some(Propagation { kind, recursive: false });
        } else if let Some(kind) = option.strip_prefix('r').and_then(propagation) {
            self.propagation = Some(Propagation { kind, recursive: true });
        } else {
            match option {
                // `newinstance` is what every devpts is since Linux 4.7.
                "" | "defaults" | "newinstance" | "nofail" | "auto" | "noauto" | "user" | "nouser" => {}
                "bind" => self.bind = Some(Bind::Single),
                "rbind" => self.bind = Some(Bind::Recursive),
                "tmpcopyup" => self.copy_up = true,
                "notmpcopyup" => self.copy_up = false,
                "idmap" => self.idmap = Some(IdMap::default()),
                "ridmap" => self.idmap = Some(IdMap { recursive: true, mapping: None }),
                // Podman's own words for volumes; whoever writes the Spec has acted on them.
                "z" | "Z" | "U" | "copy" | "nocopy" => {}
                _ => match option.split_once('=') {
                    Some((word @ ("idmap" | "ridmap"), mapping)) => {
                        self.idmap = Some(IdMap { recursive: word == "ridmap", mapping: Some(mapping.to_owned()) });
                    }
                    Some((key, value)) => self.data.push((key.to_owned(), Some(value.to_owned()))),
                    None => self.data.push((option.to_owned(), None)),
                },
            }
        }
    }

    /// Whether the mount itself is to be read-only.
    pub(crate) fn read_only(&self) -> bool {
        (self.own.set | self.recursive.set) & RDONLY != 0
    }
}

/// What an option sets and clears.
fn attribute(option: &str) -> Option<(u64, u64)> {
    Some(match option {
        "ro" => (RDONLY, 0),
        "rw" => (0, RDONLY),
        "nosuid" => (NOSUID, 0),
        "suid" => (0, NOSUID),
        "nodev" => (NODEV, 0),
        "dev" => (0, NODEV),
        "noexec" => (NOEXEC, 0),
        "exec" => (0, NOEXEC),
        "nosymfollow" => (NOSYMFOLLOW, 0),
        "symfollow" => (0, NOSYMFOLLOW),
        "nodiratime" => (NODIRATIME, 0),
        "diratime" => (0, NODIRATIME),
        // The three ways to keep access times exclude one another, so each clears the field; `relatime` is zero in it.
        "relatime" | "atime" | "nostrictatime" => (0, ATIME_MASK),
        "noatime" => (NOATIME, ATIME_MASK & !NOATIME),
        "strictatime" | "norelatime" => (STRICTATIME, ATIME_MASK & !STRICTATIME),
        _ => return None,
    })
}

/// The propagation of that name: `private`, not `rprivate`.
pub(crate) fn propagation(option: &str) -> Option<u64> {
    Some(match option {
        "private" => PRIVATE,
        "slave" => SLAVE,
        "shared" => SHARED,
        "unbindable" => UNBINDABLE,
        _ => return None,
    })
}

/// `rootfsPropagation`, where both spellings mean the whole tree.
pub(crate) fn root_propagation(name: &str) -> Result<u64> {
    propagation(name).or_else(|| name.strip_prefix('r').and_then(propagation)).ok_or_else(|| {
        Error::new(Kind::Invalid, format!("linux.rootfsPropagation `{name}` is unknown"))
            .hint("private, slave, shared or unbindable, each also with an r before it")
    })
}

/// Private: nothing spreads either way.
pub(crate) const fn private() -> u64 {
    PRIVATE
}

/// Slave: what is mounted outside appears, and nothing spreads out.
pub(crate) const fn slave() -> u64 {
    SLAVE
}

/// `mount_setattr(2)` wants the whole field of access times cleared before one value of it is set.
pub(crate) fn for_kernel(attributes: Attributes) -> Attributes {
    let touched = (attributes.set | attributes.clear) & ATIME_MASK != 0;
    if touched { Attributes { clear: attributes.clear | ATIME_MASK, ..attributes } } else { attributes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_specification() {
        let check = |options: &str| MountOptions::parse(&options.split(',').collect::<Vec<_>>());
        let parsed = check("rbind,ro,nosuid,rw,rprivate,size=64m,mode=755");
        assert_eq!(parsed.bind, Some(Bind::Recursive));
        assert_eq!(parsed.own, Attributes { set: NOSUID, clear: RDONLY });
        assert_eq!(parsed.propagation, Some(Propagation { kind: PRIVATE, recursive: true }));
        let data = [("size".to_owned(), Some("64m".to_owned())), ("mode".to_owned(), Some("755".to_owned()))];
        assert_eq!(parsed.data, data);
        let mapped = |recursive, mapping: Option<&str>| Some(IdMap { recursive, mapping: mapping.map(str::to_owned) });
        assert_eq!(check("rbind,idmap").idmap, mapped(false, None));
        assert_eq!(check("ridmap=uids=0-1-2;gids=0-1-2").idmap, mapped(true, Some("uids=0-1-2;gids=0-1-2")));
        assert_eq!(check("rro").recursive, Attributes { set: RDONLY, clear: 0 });
        // `relatime` and `ro` begin with letters that also stand for "recursive".
        assert_eq!(check("relatime").own, Attributes { set: 0, clear: ATIME_MASK });
        assert_eq!(check("rrelatime").recursive, Attributes { set: 0, clear: ATIME_MASK });
        assert_eq!(for_kernel(check("noatime").own), Attributes { set: NOATIME, clear: ATIME_MASK });
    }

    #[test]
    fn an_unknown_propagation_is_refused() {
        assert!(root_propagation("rslave").is_ok());
        assert_eq!(root_propagation("slavish").expect_err("unknown").kind(), Kind::Invalid);
    }
}
