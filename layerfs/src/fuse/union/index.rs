//! What is in a folder of the union: the listings of all layers, merged once.
//!
//! The index answers every later question about names, those that do not exist among them, without a look at any
//! layer. It is built at the first look into the folder and kept up by every change, since nobody else changes the
//! upper folder and nobody at all the lower ones.
//!
//! Invariants: an entry that is a whiteout is in the upper folder and hides something; [`Entry::below`] says whether
//! a lower layer would show a file of that name if the upper folder had none; a cookie is never given twice, so that a
//! listing goes on where it stopped whatever was removed meanwhile.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FileType;

use super::forms::{Forms, Meaning, Opacity};
use super::node::{LayerDir, Name};

/// Cookies of "." and ".." come before those of entries.
pub(super) const FIRST_COOKIE: u64 = 3;

/// A folder's content.
#[derive(Debug, Default)]
pub(super) struct Dir {
    /// Its folders in lower layers, topmost first. Until the index is built, some of them may be hidden by an opaque
    /// one above them.
    pub(super) lowers: Vec<LayerDir>,
    pub(super) index: Option<Index>,
    /// What a new file here gets from its folder; none until it was looked up.
    pub(super) inherited: Option<Inherited>,
    /// Files in the upper folder may have kept the inode number of another place.
    pub(super) impure: bool,
}

/// What a folder passes on to what is made in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inherited {
    /// The folder's group, where it has the set-group-id bit.
    pub(super) group: Option<u32>,
    /// The folder has a default access control list, so that modes are not cut by the umask.
    pub(super) default_acl: bool,
}

/// One name.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Name,
    pub(super) kind: FileType,
    /// The upper folder has it.
    pub(super) upper: bool,
    /// It is not there: the upper folder has a whiteout of that name.
    pub(super) whiteout: bool,
    /// A lower layer has it.
    pub(super) below: bool,
    /// Positions in [`Dir::lowers`]: all folders of that name, or the one file.
    pub(super) lowers: Positions,
    /// The inode number on disk of the topmost lower layer that counts, or of the upper folder.
    pub(super) disk_ino: u64,
    /// The node, if one was made; it may be forgotten by now.
    node: AtomicU64,
}

impl Entry {
    /// A name that is new in the upper folder.
    pub(super) fn new(name: Name, kind: FileType, node: u64) -> Self {
        Self {
            name,
            kind,
            upper: true,
            whiteout: false,
            below: false,
            lowers: Positions::None,
            disk_ino: 0,
            node: AtomicU64::new(node),
        }
    }

    pub(super) fn node(&self) -> u64 {
        self.node.load(Ordering::Acquire)
    }

    pub(super) fn set_node(&self, id: u64) {
        self.node.store(id, Ordering::Release);
    }
}

/// Few numbers, mostly one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Positions {
    None,
    One(u16),
    Many(Box<[u16]>),
}

impl Positions {
    fn push(&mut self, position: u16) {
        *self = match std::mem::replace(self, Positions::None) {
            Positions::None => Positions::One(position),
            Positions::One(first) => Positions::Many(Box::new([first, position])),
            Positions::Many(all) => Positions::Many(all.iter().copied().chain([position]).collect()),
        };
    }

    pub(super) fn as_slice(&self) -> &[u16] {
        match self {
            Positions::None => &[],
            Positions::One(one) => std::slice::from_ref(one),
            Positions::Many(all) => all,
        }
    }
}

/// The names of a folder.
#[derive(Debug, Default)]
pub(super) struct Index {
    names: HashMap<Name, u64>,
    order: BTreeMap<u64, Entry>,
    next: u64,
}

impl Index {
    /// The entry of that name, be it a whiteout.
    pub(super) fn any(&self, name: &[u8]) -> Option<&Entry> {
        self.order.get(self.names.get(name)?)
    }

    /// The file of that name.
    pub(super) fn get(&self, name: &[u8]) -> Option<&Entry> {
        self.any(name).filter(|entry| !entry.whiteout)
    }

    pub(super) fn any_mut(&mut self, name: &[u8]) -> Option<&mut Entry> {
        self.order.get_mut(self.names.get(name)?)
    }

    /// The files that come after a cookie, each with its own.
    pub(super) fn after(&self, cookie: u64) -> impl Iterator<Item = (u64, &Entry)> {
        let entries = self.order.range(cookie.max(FIRST_COOKIE - 1) + 1..);
        entries.filter(|(_, entry)| !entry.whiteout).map(|(cookie, entry)| (*cookie, entry))
    }

    /// Whether no file is left.
    pub(super) fn is_empty(&self) -> bool {
        self.order.values().all(|entry| entry.whiteout)
    }

    /// Whether the upper folder has anything, whiteouts included.
    pub(super) fn has_upper(&self) -> bool {
        self.order.values().any(|entry| entry.upper || entry.whiteout)
    }

    /// Puts a file in the upper folder; what a lower layer has of that name is remembered.
    pub(super) fn put(&mut self, mut entry: Entry) {
        if let Some(old) = self.any_mut(&entry.name) {
            entry.below = old.below;
            *old = entry;
            return;
        }
        self.add(entry);
    }

    fn add(&mut self, entry: Entry) -> u64 {
        let cookie = self.next.max(FIRST_COOKIE);
        self.next = cookie + 1;
        self.names.insert(entry.name.clone(), cookie);
        self.order.insert(cookie, entry);
        cookie
    }

    /// Takes a name away; it becomes a whiteout where a lower layer has it.
    pub(super) fn remove(&mut self, name: &[u8]) {
        let Some(cookie) = self.names.get(name).copied() else { return };
        match self.order.get_mut(&cookie) {
            Some(entry) if entry.below => {
                entry.upper = false;
                entry.whiteout = true;
                entry.lowers = Positions::None;
                entry.set_node(0);
            }
            _ => {
                self.order.remove(&cookie);
                self.names.remove(name);
            }
        }
    }
}

/// A name as one layer lists it.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) name: Name,
    pub(super) kind: FileType,
    pub(super) ino: u64,
    /// It is a whiteout by its form on disk.
    pub(super) whiteout: bool,
}

/// One layer's folder.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    pub(super) opacity: Opacity,
    pub(super) names: Vec<Listed>,
}

/// Merges listings from the top downwards.
pub(super) struct Merge {
    forms: Forms,
    index: Index,
    /// Names that no deeper layer can add to.
    closed: HashSet<Name>,
    done: bool,
}

impl Merge {
    pub(super) fn new(forms: Forms) -> Self {
        Self { forms, index: Index::default(), closed: HashSet::new(), done: false }
    }

    /// Whether the layers below show through. False once an opaque folder was added.
    pub(super) fn goes_on(&self) -> bool {
        !self.done
    }

    /// Adds the next layer: the upper one (`None`), or the one at a position of [`Dir::lowers`].
    pub(super) fn add(&mut self, position: Option<u16>, listing: Listing) {
        self.done = listing.opacity == Opacity::Opaque;
        // A whiteout hides what is below it, never a file of its own folder.
        let mut hidden = Vec::new();
        let mut seen = Vec::new();
        for listed in listing.names {
            match self.forms.meaning(&listed.name) {
                Meaning::File if listed.whiteout => hidden.push((listed.name, true)),
                Meaning::File => seen.push(listed),
                Meaning::Opaque => self.done = true,
                Meaning::Whiteout(name) => hidden.push((Name::from(name), false)),
            }
        }
        for listed in seen {
            self.file(position, listed);
        }
        for (name, is_node) in hidden {
            if self.closed.contains(&name) {
                continue;
            }
            // A whiteout of the upper folder has to be replaced by what is made in its place, so it is remembered.
            if position.is_none() && is_node && self.index.any(&name).is_none() {
                let whiteout =
                    Entry { whiteout: true, upper: false, ..Entry::new(name.clone(), FileType::CharacterDevice, 0) };
                self.index.add(whiteout);
                // Something is below, or it would not be there.
                continue;
            }
            self.closed.insert(name);
        }
    }

    fn file(&mut self, position: Option<u16>, listed: Listed) {
        if self.closed.contains(&listed.name) {
            return;
        }
        let is_dir = listed.kind == FileType::Directory;
        let Some(entry) = self.index.any_mut(&listed.name) else {
            let mut entry = Entry::new(listed.name.clone(), listed.kind, 0);
            entry.disk_ino = listed.ino;
            if let Some(position) = position {
                entry.upper = false;
                entry.below = true;
                entry.lowers.push(position);
            }
            self.index.add(entry);
            // A file of a lower layer says all there is to say. One of the upper folder may still hide another.
            if !is_dir && position.is_some() {
                self.closed.insert(listed.name);
            }
            return;
        };
        let Some(position) = position else { return };
        let merges = is_dir && entry.kind == FileType::Directory && !entry.whiteout;
        if merges {
            if entry.lowers == Positions::None {
                entry.disk_ino = listed.ino;
            }
            entry.lowers.push(position);
        }
        entry.below = true;
        if !merges {
            self.closed.insert(listed.name);
        }
    }

    pub(super) fn finish(self) -> Index {
        let mut index = self.index;
        // A whiteout without anything below hides nothing, but it is in the way of what is made there.
        index.names.shrink_to_fit();
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(opacity: Opacity, names: &[&str]) -> Listing {
        let names = names.iter().enumerate().map(|(ino, name)| {
            // "name/" is a folder, "-name" a whiteout.
            let whiteout = name.starts_with('-');
            let kind = if name.ends_with('/') { FileType::Directory } else { FileType::RegularFile };
            let name = name.trim_matches(['-', '/']);
            Listed { name: name.as_bytes().into(), kind, ino: ino as u64 + 1, whiteout }
        });
        Listing { opacity, names: names.collect() }
    }

    fn merge(upper: Option<Listing>, lowers: &[Listing]) -> Index {
        let mut merge = Merge::new(Forms::User);
        if let Some(upper) = upper {
            merge.add(None, upper);
        }
        for (position, lower) in lowers.iter().enumerate() {
            if merge.goes_on() {
                merge.add(Some(position as u16), lower.clone());
            }
        }
        merge.finish()
    }

    fn names(index: &Index) -> Vec<String> {
        let mut names: Vec<_> =
            index.after(0).map(|(_, entry)| String::from_utf8_lossy(&entry.name).into_owned()).collect();
        names.sort();
        names
    }

    use Opacity::{Opaque, Transparent};

    #[test]
    fn the_topmost_file_wins_and_whiteouts_hide_what_is_below() {
        let index = merge(
            Some(listing(Transparent, &["a", "-gone", "both/"])),
            &[
                listing(Transparent, &["gone", "b", "both/", "-deep"]),
                listing(Transparent, &["deep", "b", "c", "both/"]),
            ],
        );
        assert_eq!(names(&index), ["a", "b", "both", "c"]);
        assert_eq!(index.get(b"both").expect("it is there").lowers.as_slice(), [0, 1]);
        assert_eq!(index.get(b"b").expect("it is there").lowers.as_slice(), [0]);
        let gone = index.any(b"gone").expect("it has to be replaced");
        assert!(gone.whiteout && gone.below && index.get(b"gone").is_none() && index.any(b"deep").is_none());
    }

    #[test]
    fn an_opaque_folder_ends_the_stack() {
        let index = merge(None, &[listing(Transparent, &["a"]), listing(Opaque, &["b"]), listing(Transparent, &["c"])]);
        assert_eq!(names(&index), ["a", "b"]);
    }

    #[test]
    fn a_file_between_folders_parts_them() {
        let lowers = [listing(Transparent, &["x/"]), listing(Transparent, &["x"]), listing(Transparent, &["x/"])];
        assert_eq!(merge(None, &lowers).get(b"x").expect("a folder").lowers.as_slice(), [0]);
        let index = merge(Some(listing(Transparent, &["x"])), &lowers);
        let entry = index.get(b"x").expect("a file");
        assert!(entry.below && entry.lowers.as_slice().is_empty());
        let lowers = [listing(Transparent, &["-x"]), listing(Transparent, &["x"])];
        assert!(!merge(Some(listing(Transparent, &["x"])), &lowers).get(b"x").expect("a file").below);
    }

    #[test]
    fn removing_leaves_a_whiteout_only_over_something() {
        let mut index = merge(Some(listing(Transparent, &["mine"])), &[listing(Transparent, &["theirs"])]);
        let (last, _) = index.after(0).last().expect("two files");
        index.remove(b"mine");
        index.remove(b"theirs");
        assert!(index.is_empty() && index.any(b"mine").is_none() && index.any(b"theirs").is_some());
        index.put(Entry::new(b"theirs"[..].into(), FileType::RegularFile, 9));
        let entry = index.get(b"theirs").expect("made again");
        assert!(entry.below && entry.upper && entry.node() == 9);
        index.put(Entry::new(b"new"[..].into(), FileType::RegularFile, 10));
        assert!(index.after(last).any(|(_, entry)| *entry.name == *b"new"), "a listing goes on where it stopped");
    }
}
