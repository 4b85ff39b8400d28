//! Looking: names, nodes, listings.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, RwLockReadGuard, RwLockWriteGuard};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, Stat};
use rustix::io::Errno;

use super::forms::{OPAQUE_NAME, Opacity};
use super::index::{Dir, Entry, Listed, Listing, Merge};
use super::node::{LayerDir, Node, Place, Real};
use super::place::{At, FOLDER};
use super::{Hardlinks, Union};
use crate::fuse::wire::{Attributes, ENTRY_OUT, Reply, dirent_size};

/// The attribute that keeps a copied-up file's inode number.
pub(super) const INO: &str = "ino";
/// The attribute of a folder that files with a kept number were moved into.
pub(super) const IMPURE: &str = "impure";

impl Union {
    /// The node of a name that the kernel asks for, counted.
    pub(super) fn lookup(&self, parent: &Arc<Node>, name: &[u8]) -> Result<(Arc<Node>, Attributes), Errno> {
        let (node, stat) = self.find(parent, name)?;
        let attributes = match stat {
            Some(stat) => self.seen(&node, &stat),
            None => self.attributes(&node)?,
        };
        self.table.remember(&node);
        Ok((node, attributes))
    }

    /// The node of a name, and what it is on disk where that had to be found out anyway.
    pub(super) fn find(&self, parent: &Arc<Node>, name: &[u8]) -> Result<(Arc<Node>, Option<Stat>), Errno> {
        let (node, stat, alias) = {
            let dir = self.content(parent)?;
            let entry = dir.index.as_ref().and_then(|index| index.get(name)).ok_or(Errno::NOENT)?;
            if let Some(node) = self.table.get(entry.node()) {
                return Ok((node, None));
            }
            self.birth(parent, &dir, entry)?
        };
        if alias {
            // One of several names of a file that lies in the upper folder by now follows it there.
            self.follow(parent, name, &node)?;
        }
        Ok((node, stat))
    }

    /// A folder's content with its index, which is built if need be.
    pub(super) fn content<'a>(&self, node: &'a Arc<Node>) -> Result<RwLockReadGuard<'a, Dir>, Errno> {
        let dir = node.dir().ok_or(Errno::NOTDIR)?;
        if dir.index.is_some() {
            return Ok(dir);
        }
        drop(dir);
        self.content_mut(node).map(RwLockWriteGuard::downgrade)
    }

    /// The same, to be changed.
    pub(super) fn content_mut<'a>(&self, node: &'a Arc<Node>) -> Result<RwLockWriteGuard<'a, Dir>, Errno> {
        let mut dir = node.dir_mut().ok_or(Errno::NOTDIR)?;
        if dir.index.is_none() {
            self.build_index(node, &mut dir)?;
        }
        Ok(dir)
    }

    fn build_index(&self, node: &Arc<Node>, dir: &mut Dir) -> Result<(), Errno> {
        let forms = self.options.forms;
        let mut merge = Merge::new(forms);
        if node.is_upper() {
            let fd = self.upper_dir(node)?;
            // The kept descriptor has one position for all; a listing wants its own.
            let own = rustix::fs::openat(&fd, ".", FOLDER, Mode::empty())?;
            merge.add(None, self.list(own.as_fd())?);
            dir.impure = !self.options.volatile && forms.own(own.as_fd(), b".", IMPURE).is_some();
        }
        for (position, lower) in dir.lowers.iter().enumerate() {
            if !merge.goes_on() {
                dir.lowers.truncate(position);
                break;
            }
            let fd = self.open_lower_dir(lower)?;
            merge.add(Some(position as u16), self.list(fd.as_fd())?);
        }
        dir.index = Some(merge.finish());
        Ok(())
    }

    /// One layer's folder, read to its end.
    fn list(&self, fd: BorrowedFd<'_>) -> Result<Listing, Errno> {
        let forms = self.options.forms;
        let opacity = forms.opacity(fd);
        let mut names = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut raw = RawDir::new(fd, &mut buffer);
        while let Some(entry) = raw.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let (mut kind, ino) = (entry.file_type(), entry.ino());
            let mut whiteout = false;
            let suspicious = opacity == Opacity::XattrWhiteouts && kind == FileType::RegularFile;
            if matches!(kind, FileType::Unknown | FileType::CharacterDevice) || suspicious {
                let stat = match rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => continue,
                    other => other?,
                };
                kind = FileType::from_raw_mode(stat.st_mode);
                whiteout = kind == FileType::CharacterDevice && stat.st_rdev == 0
                    || suspicious && stat.st_size == 0 && forms.is_xattr_whiteout(fd, name);
            }
            names.push(Listed { name: name.into(), kind, ino, whiteout });
        }
        Ok(Listing { opacity, names })
    }

    /// Makes the node of an entry, unless another thread just did. True with it: its name has yet to follow a file
    /// that was copied up under another one.
    fn birth(&self, parent: &Arc<Node>, dir: &Dir, entry: &Entry) -> Result<(Arc<Node>, Option<Stat>, bool), Errno> {
        let _births = parent.births();
        if let Some(node) = self.table.get(entry.node()) {
            return Ok((node, None, false));
        }
        let place = Place { parent: parent.clone(), name: entry.name.clone() };
        let (node, stat, alias) = match entry.kind {
            FileType::Directory => (self.birth_dir(place, dir, entry)?, None, false),
            _ => self.birth_file(place, dir, entry)?,
        };
        if !alias {
            entry.set_node(node.id);
        }
        Ok((node, stat, alias))
    }

    fn birth_dir(&self, place: Place, dir: &Dir, entry: &Entry) -> Result<Arc<Node>, Errno> {
        let mut lowers: Vec<LayerDir> = Vec::with_capacity(entry.lowers.as_slice().len());
        let mut last: Option<(&LayerDir, LayerDir)> = None;
        for position in entry.lowers.as_slice() {
            let above = dir.lowers.get(usize::from(*position)).ok_or(Errno::STALE)?;
            // Most layers have the folder at the same path, which is kept once.
            let path = match &last {
                Some((before, joined)) if before.path == above.path => joined.path.clone(),
                _ => above.join(&entry.name).into(),
            };
            let joined = LayerDir { layer: above.layer, path };
            last = Some((above, joined.clone()));
            lowers.push(joined);
        }
        let mut disk = lowers.first().map(|lower| (self.layers[usize::from(lower.layer)].device, entry.disk_ino));
        let look_inside = !lowers.is_empty() || self.options.redirect_dir;
        if entry.upper && look_inside {
            let upper = self.upper_dir(&place.parent)?;
            let fd = rustix::fs::openat(&upper, &*entry.name, FOLDER, Mode::empty())?;
            let forms = self.options.forms;
            if forms.opacity(fd.as_fd()) == Opacity::Opaque
                || rustix::fs::accessat(&fd, OPAQUE_NAME, rustix::fs::Access::EXISTS, AtFlags::empty()).is_ok()
                    && forms == super::Forms::All
            {
                lowers.clear();
            } else if self.options.redirect_dir
                && let Some(target) = forms.redirect(fd.as_fd())
            {
                let beside = self.redirected(&dir.lowers, None, &target);
                lowers = self.check_lowers(&dir.lowers, beside);
                disk = self.disk_ino_of(lowers.first());
            }
            if lowers.is_empty() {
                disk = None;
            }
        } else if self.options.redirect_dir {
            lowers = self.check_lowers(&dir.lowers, lowers);
        }
        let (device, ino) = match (disk, entry.upper) {
            (Some(disk), _) => disk,
            (None, true) => (self.upper()?.device, self.upper_ino(&place)?),
            (None, false) => return Err(Errno::STALE),
        };
        let real = if entry.upper { Real::Upper } else { Real::LowerDir };
        let dir = Dir { lowers, ..Dir::default() };
        let ino = self.seen_ino(device, ino);
        let node = Node::new(self.table.new_id(), ino, FileType::Directory, Some(place), real, Some(dir));
        self.table.insert(&node);
        Ok(node)
    }

    fn upper_ino(&self, place: &Place) -> Result<u64, Errno> {
        let upper = self.upper_dir(&place.parent)?;
        Ok(rustix::fs::statat(&upper, &*place.name, AtFlags::SYMLINK_NOFOLLOW)?.st_ino)
    }

    fn disk_ino_of(&self, dir: Option<&LayerDir>) -> Option<(u64, u64)> {
        let fd = self.open_lower_dir(dir?).ok()?;
        rustix::fs::fstat(&fd).ok().map(|stat| (stat.st_dev, stat.st_ino))
    }

    /// The lower folders that a redirect leads to, as seen from below layer `above` (all of them where it is the upper
    /// one): a path from the root of every layer, or a name beside its own. What leads nowhere, or out of its layer,
    /// leads to nothing.
    fn redirected(&self, beside: &[LayerDir], above: Option<u16>, target: &[u8]) -> Vec<LayerDir> {
        let below = |layer: u16| above.is_none_or(|above| layer > above);
        match target.strip_prefix(b"/") {
            Some(path) => {
                let path: Arc<[u8]> = path.into();
                let layers = (0..self.layers.len()).map(|layer| layer as u16).filter(|layer| below(*layer));
                layers.map(|layer| LayerDir { layer, path: path.clone() }).collect()
            }
            None if target.contains(&b'/') || matches!(target, b"" | b"." | b"..") => Vec::new(),
            None => {
                let beside = beside.iter().filter(|lower| below(lower.layer));
                beside.map(|lower| LayerDir { layer: lower.layer, path: lower.join(target).into() }).collect()
            }
        }
    }

    /// Drops folders that are not there, follows the redirects of those that are, and ends at what hides the rest.
    fn check_lowers(&self, beside: &[LayerDir], lowers: Vec<LayerDir>) -> Vec<LayerDir> {
        let forms = self.options.forms;
        let mut checked = Vec::with_capacity(lowers.len());
        let mut pending: VecDeque<LayerDir> = lowers.into();
        let mut beside = beside.to_vec();
        while let Some(lower) = pending.pop_front() {
            let Ok(root) = self.layer(&lower) else { break };
            let path: &[u8] = if lower.path.is_empty() { b"." } else { &lower.path };
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            let fd = match rustix::fs::openat2(root, Path::new(OsStr::from_bytes(path)), FOLDER, Mode::empty(), resolve)
            {
                Ok(fd) => fd,
                Err(Errno::NOENT) => continue,
                // A file, a whiteout or a symlink on the way hides what is below.
                Err(_) => break,
            };
            if let Some(target) = forms.redirect(fd.as_fd()) {
                pending = self.redirected(&beside, Some(lower.layer), &target).into();
                // From here on, "beside" means beside the place that it was moved from.
                let parent = |lower: &LayerDir| {
                    let parent = lower.path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                    LayerDir { layer: lower.layer, path: lower.path[..parent].into() }
                };
                beside = pending.iter().map(parent).collect();
            }
            checked.push(lower);
            if forms.opacity(fd.as_fd()) == Opacity::Opaque {
                break;
            }
        }
        checked
    }

    fn birth_file(&self, place: Place, dir: &Dir, entry: &Entry) -> Result<(Arc<Node>, Option<Stat>, bool), Errno> {
        let (real, stat) = match (entry.upper, entry.lowers.as_slice()) {
            (true, _) => {
                let upper = self.upper_dir(&place.parent)?;
                (Real::Upper, At { dir: upper.as_fd(), path: &entry.name }.stat()?)
            }
            (false, [position, ..]) => {
                let lower = dir.lowers.get(usize::from(*position)).ok_or(Errno::STALE)?;
                let path = lower.join(&entry.name);
                let stat = At { dir: self.layer(lower)?, path: &path }.stat()?;
                (Real::Lower(lower.clone(), entry.name.clone()), stat)
            }
            (false, []) => return Err(Errno::STALE),
        };
        let disk = (stat.st_dev, stat.st_ino);
        let several = stat.st_nlink > 1 && (entry.upper || self.options.hardlinks == Hardlinks::Kept);
        if several {
            let known = super::node::lock(&self.several).get(&disk).copied();
            if let Some(node) = known.and_then(|id| self.table.get(id)) {
                let alias = !entry.upper && node.is_upper();
                if !alias {
                    add_name(&node, place, &real);
                }
                return Ok((node, None, alias));
            }
        }
        let mut ino = self.seen_ino(stat.st_dev, stat.st_ino);
        let kept = entry.upper && (entry.below || dir.impure) && !self.options.volatile;
        if kept && entry.kind == FileType::RegularFile {
            let upper = self.upper_dir(&place.parent)?;
            let value = self.options.forms.own(upper.as_fd(), &entry.name, INO);
            if let Some(number) = value.and_then(|value| <[u8; 8]>::try_from(value).ok()) {
                ino = u64::from_le_bytes(number);
            }
        }
        let node = Node::new(self.table.new_id(), ino, entry.kind, Some(place), real, None);
        self.table.insert(&node);
        if several {
            super::node::lock(&self.several).insert(disk, node.id);
        }
        Ok((node, Some(stat), false))
    }

    /// `READDIR` and `READDIRPLUS`: entries from a cookie on, as many as fit into `room` bytes.
    pub(super) fn list_into(
        &self,
        node: &Arc<Node>,
        from: u64,
        room: usize,
        plus: bool,
        reply: &mut Reply,
    ) -> Result<(), Errno> {
        let dir = self.content(node)?;
        let Some(index) = &dir.index else { return Err(Errno::STALE) };
        let head = if plus { ENTRY_OUT } else { 0 };
        let parent = node.place().map_or(node.ino, |place| place.parent.ino);
        for (cookie, name, ino) in [(1, &b"."[..], node.ino), (2, &b".."[..], parent)] {
            if cookie > from && reply.len() + head + dirent_size(name.len()) <= room {
                if plus {
                    reply.no_entry(self.validity);
                }
                reply.dirent(ino, cookie, DIRECTORY, name);
            }
        }
        let mut aliases = Vec::new();
        for (cookie, entry) in index.after(from) {
            if reply.len() + head + dirent_size(entry.name.len()) > room {
                break;
            }
            let known = self.table.get(entry.node());
            let (found, stat) = match known {
                Some(node) => (Some(node), None),
                None if plus || entry.upper && (entry.below || dir.impure) => match self.birth(node, &dir, entry) {
                    Ok((_, _, true)) => {
                        aliases.push(entry.name.clone());
                        (None, None)
                    }
                    Ok((node, stat, false)) => (Some(node), stat),
                    // What cannot be looked at is listed all the same; a lookup tells why.
                    Err(_) => (None, None),
                },
                None => (None, None),
            };
            let attributes = match (plus, &found, stat) {
                (true, Some(node), Some(stat)) => Some(self.seen(node, &stat)),
                (true, Some(node), None) => self.attributes(node).ok(),
                _ => None,
            };
            let ino = found.as_ref().map_or_else(|| self.listed_ino(&dir, entry), |node| node.ino);
            match (&found, attributes) {
                (Some(node), Some(attributes)) => {
                    self.table.remember(node);
                    reply.entry_out(node.number(), &attributes, self.validity_of(node));
                }
                _ if plus => reply.no_entry(self.validity),
                _ => {}
            }
            reply.dirent(ino, cookie, kind_number(entry.kind), &entry.name);
        }
        Ok(())
    }

    fn listed_ino(&self, dir: &Dir, entry: &Entry) -> u64 {
        let lower = entry.lowers.as_slice().first().and_then(|position| dir.lowers.get(usize::from(*position)));
        let device = match lower {
            Some(lower) => self.layers[usize::from(lower.layer)].device,
            None => self.upper.as_ref().map_or(0, |upper| upper.device),
        };
        self.seen_ino(device, entry.disk_ino)
    }
}

/// One more name of a node that is known by another, or by none.
fn add_name(node: &Node, place: Place, real: &Real) {
    let mut state = node.state();
    match node.place() {
        None => {
            if matches!(state.real, Real::Nameless(_)) {
                state.real = real.clone();
            }
            node.set_place(Some(place));
        }
        Some(first) if first.is(&place.parent, &place.name) => {}
        Some(_) => {
            if !state.aliases.iter().any(|alias| alias.is(&place.parent, &place.name)) {
                state.aliases.push(place);
            }
        }
    }
}

const DIRECTORY: u8 = 4;

/// `DT_*`: the type bits of a mode, moved down.
fn kind_number(kind: FileType) -> u8 {
    (kind.as_raw_mode() >> 12) as u8
}

/// Flags for a descriptor that only names a file.
pub(super) const NAMING: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
