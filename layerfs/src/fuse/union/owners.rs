//! Who owns a file on disk, and who owns it in the union.

/// A run of ids: `size` of them, from `seen` in the union and `disk` on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRule {
    /// First id that programs see.
    pub seen: u32,
    /// First id on disk.
    pub disk: u32,
    /// How many.
    pub size: u32,
}

/// How ids are translated. By default they are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// User ids; empty for none changed.
    pub uids: Vec<IdRule>,
    /// Group ids; empty for none changed.
    pub gids: Vec<IdRule>,
    /// All files seem to belong to this user.
    pub squash_uid: Option<u32>,
    /// All files seem to belong to this group.
    pub squash_gid: Option<u32>,
}

/// The id of what no rule names, as the kernel's overflow id.
const NOBODY: u32 = 65534;

impl Owners {
    /// Owner and group as programs see them.
    pub(super) fn seen(&self, uid: u32, gid: u32) -> (u32, u32) {
        let uid = self.squash_uid.unwrap_or_else(|| translate(&self.uids, uid, |rule| (rule.disk, rule.seen)));
        let gid = self.squash_gid.unwrap_or_else(|| translate(&self.gids, gid, |rule| (rule.disk, rule.seen)));
        (uid, gid)
    }

    /// The owner on disk of a file that a user makes or is given.
    pub(super) fn disk_uid(&self, uid: u32) -> u32 {
        translate(&self.uids, uid, |rule| (rule.seen, rule.disk))
    }

    /// The group on disk.
    pub(super) fn disk_gid(&self, gid: u32) -> u32 {
        translate(&self.gids, gid, |rule| (rule.seen, rule.disk))
    }
}

fn translate(rules: &[IdRule], id: u32, direction: impl Fn(&IdRule) -> (u32, u32)) -> u32 {
    if rules.is_empty() {
        return id;
    }
    let inside = |rule: &IdRule| {
        let (from, to) = direction(rule);
        let offset = id.checked_sub(from).filter(|offset| *offset < rule.size)?;
        to.checked_add(offset)
    };
    rules.iter().find_map(inside).unwrap_or(NOBODY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_both_ways() {
        let rules = vec![IdRule { seen: 0, disk: 1000, size: 1 }, IdRule { seen: 1, disk: 100_000, size: 65536 }];
        let owners = Owners { uids: rules.clone(), gids: rules, ..Owners::default() };
        assert_eq!(owners.seen(1000, 100_999), (0, 1000));
        assert_eq!((owners.disk_uid(0), owners.disk_gid(1000)), (1000, 100_999));
        assert_eq!(owners.seen(7, 7), (NOBODY, NOBODY));
        assert_eq!(Owners::default().seen(7, 8), (7, 8));
        assert_eq!(Owners { squash_uid: Some(0), ..Owners::default() }.seen(7, 8), (0, 8));
    }
}
