//! Names that change.
//!
//! A name that lower layers have leaves a whiteout behind, by the same system call that moves the file
//! (`RENAME_WHITEOUT`, or an exchange with the whiteout that was in the way). A folder of lower layers can only be
//! renamed where `redirect_dir` lets it remember where its lower parts lie; otherwise it is `EXDEV`, as with the
//! kernel's overlayfs, and programs copy.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, PoisonError, RwLockWriteGuard};

use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

use super::Union;
use super::forms::make_whiteout;
use super::index::{Dir, Entry};
use super::node::{Name, Node, Place, lock};

/// A side of a rename.
struct Side<'a> {
    parent: &'a Arc<Node>,
    name: &'a [u8],
}

impl Union {
    /// Renames, replaces or exchanges.
    pub(super) fn rename(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
        new_parent: &Arc<Node>,
        new_name: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        let flags = RenameFlags::from_bits_retain(flags);
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        if !(RenameFlags::EXCHANGE | RenameFlags::NOREPLACE).contains(flags) || self.options.forms.is_reserved(new_name)
        {
            return Err(Errno::INVAL);
        }
        let (node, _) = self.find(parent, name)?;
        let target = match self.find(new_parent, new_name) {
            Ok((target, _)) => Some(target),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error),
        };
        match &target {
            Some(_) if flags.contains(RenameFlags::NOREPLACE) => return Err(Errno::EXIST),
            None if exchange => return Err(Errno::NOENT),
            // Two names of one file: nothing is to be done, says POSIX.
            Some(target) if target.id == node.id => return Ok(()),
            _ => {}
        }
        self.make_movable(&node)?;
        if let (true, Some(target)) = (exchange, &target) {
            self.make_movable(target)?;
        }
        let folder = self.ensure_upper_dir(parent)?;
        let new_folder = self.ensure_upper_dir(new_parent)?;
        let _shape = lock(&self.shape);
        let mut locked = self.lock_both(parent, new_parent)?;
        let from = Side { parent, name };
        let to = Side { parent: new_parent, name: new_name };
        if exchange {
            let target = target.as_ref().ok_or(Errno::NOENT)?;
            return self.exchange(&mut locked, &node, target, &from, &to, folder.as_fd(), new_folder.as_fd());
        }
        self.replace(&mut locked, &node, target.as_ref(), &from, &to, folder.as_fd(), new_folder.as_fd())
    }

    /// Brings to the upper folder what is to be moved there.
    fn make_movable(&self, node: &Arc<Node>) -> Result<(), Errno> {
        if !node.is_dir() {
            return self.copy_up(node, u64::MAX);
        }
        // Only with the index is it known which of the lower layers count.
        let merged = !self.content(node)?.lowers.is_empty();
        if merged && !self.options.redirect_dir {
            return Err(Errno::XDEV);
        }
        self.ensure_upper_dir(node).map(drop)
    }

    /// Locks the content of both folders, that of the outer one first.
    fn lock_both<'a>(&self, one: &'a Arc<Node>, other: &'a Arc<Node>) -> Result<Locked<'a>, Errno> {
        if one.id == other.id {
            return Ok(Locked { first: self.content_mut(one)?, second: None });
        }
        if is_inside(one, other) {
            let second = self.content_mut(other)?;
            return Ok(Locked { first: self.content_mut(one)?, second: Some(second) });
        }
        let first = self.content_mut(one)?;
        Ok(Locked { first, second: Some(self.content_mut(other)?) })
    }

    #[expect(clippy::too_many_arguments, reason = "both sides of a rename, locked, open and named")]
    fn replace(
        &self,
        locked: &mut Locked<'_>,
        node: &Arc<Node>,
        target: Option<&Arc<Node>>,
        from: &Side<'_>,
        to: &Side<'_>,
        folder: BorrowedFd<'_>,
        new_folder: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        let entry = locked.source().index.as_ref().and_then(|index| index.get(from.name)).ok_or(Errno::NOENT)?;
        let (leaves_whiteout, disk_ino) = (entry.below, entry.disk_ino);
        let over = locked.target().index.as_ref().and_then(|index| index.any(to.name));
        let (over_upper, over_whiteout, over_below) =
            over.map_or((false, false, false), |entry| (entry.upper, entry.whiteout, entry.below));
        // The replaced folder must be empty; that it stays so, the kernel sees to.
        let over_dir = match target {
            Some(target) if target.is_dir() => {
                if !self.content(target)?.index.as_ref().is_some_and(super::index::Index::is_empty) {
                    return Err(Errno::NOTEMPTY);
                }
                true
            }
            _ => false,
        };
        if node.is_dir() {
            let below = over_below || !locked.target().lowers.is_empty();
            self.keep_apart(node, from, to, below)?;
        }
        let mut replaced = None;
        if let Some(target) = target {
            replaced = if target.is_dir() {
                if over_upper { Some(self.upper_dir(target)?) } else { None }
            } else {
                self.hold(target, &target.state().real, new_folder, to.name, over_upper)?
            };
        }
        {
            let state = (!node.is_dir()).then(|| node.state());
            let _tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
            let by_exchange = node.is_dir() && (over_whiteout || over_dir && over_upper);
            if by_exchange {
                rustix::fs::renameat_with(folder, from.name, new_folder, to.name, RenameFlags::EXCHANGE)?;
                // The old name now holds what was in the way: a whiteout, or a folder of nothing but whiteouts.
                match (over_whiteout, leaves_whiteout) {
                    (true, true) => {}
                    (true, false) => rustix::fs::unlinkat(folder, from.name, AtFlags::empty())?,
                    (false, true) => self.exchange_for_whiteout(folder, from.name)?,
                    (false, false) => {
                        let aside = self.work_name();
                        rustix::fs::renameat(folder, from.name, &self.upper()?.work, aside.as_slice())?;
                        self.discard(&aside);
                    }
                }
            } else if leaves_whiteout {
                rename_with_whiteout(folder, from.name, new_folder, to.name)?;
            } else {
                rustix::fs::renameat(folder, from.name, new_folder, to.name)?;
            }
            move_place(node, state, from, to);
        }
        if let Some(target) = target {
            let mut state = target.state();
            if !over_upper && !target.is_dir() {
                state.links -= 1;
            }
            if target.is_dir() {
                if let Some(fd) = replaced {
                    state.real = super::node::Real::Nameless(fd);
                }
                target.set_place(None);
            } else {
                self.drop_name(target, &mut state, to.parent, to.name, replaced);
            }
            drop(state);
            self.table.drop_unknown(target);
        }
        if let Some(index) = &mut locked.source_mut().index {
            index.remove(from.name);
        }
        let mut entry = Entry::new(to.name.into(), node.kind, node.id);
        entry.disk_ino = disk_ino;
        if let Some(index) = &mut locked.target_mut().index {
            index.put(entry);
        }
        if let Ok(stat) = self.stat(node) {
            self.mark_impure(node, &stat, new_folder, locked.target_mut());
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "both sides of a rename, locked, open and named")]
    fn exchange(
        &self,
        locked: &mut Locked<'_>,
        node: &Arc<Node>,
        target: &Arc<Node>,
        from: &Side<'_>,
        to: &Side<'_>,
        folder: BorrowedFd<'_>,
        new_folder: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        let facts = |dir: &Dir, name: &[u8]| -> Result<(bool, u64), Errno> {
            let entry = dir.index.as_ref().and_then(|index| index.get(name)).ok_or(Errno::NOENT)?;
            Ok((entry.below || !dir.lowers.is_empty(), entry.disk_ino))
        };
        let (below, disk_ino) = facts(locked.source(), from.name)?;
        let (new_below, new_disk_ino) = facts(locked.target(), to.name)?;
        if node.is_dir() {
            self.keep_apart(node, from, to, new_below)?;
        }
        if target.is_dir() {
            self.keep_apart(target, to, from, below)?;
        }
        {
            // Two files' states are never held at once elsewhere, so their order is free.
            let state = (!node.is_dir()).then(|| node.state());
            let target_state = (!target.is_dir()).then(|| target.state());
            let _tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
            rustix::fs::renameat_with(folder, from.name, new_folder, to.name, RenameFlags::EXCHANGE)?;
            move_place(node, state, from, to);
            move_place(target, target_state, to, from);
        }
        for (dir, name, moved, ino, fd) in
            [(Way::To, to.name, node, disk_ino, new_folder), (Way::From, from.name, target, new_disk_ino, folder)]
        {
            let dir = match dir {
                Way::To => locked.target_mut(),
                Way::From => locked.source_mut(),
            };
            let mut entry = Entry::new(name.into(), moved.kind, moved.id);
            entry.disk_ino = ino;
            if let Some(index) = &mut dir.index {
                index.put(entry);
            }
            if let Ok(stat) = self.stat(moved) {
                self.mark_impure(moved, &stat, fd, dir);
            }
        }
        Ok(())
    }

    /// Sees to it that a folder under its new name shows what it showed under the old one: one that has lower parts
    /// remembers where they are, and one that has none stays without.
    fn keep_apart(&self, node: &Arc<Node>, from: &Side<'_>, to: &Side<'_>, below: bool) -> Result<(), Errno> {
        let own = self.upper_dir(node)?;
        let first = self.content(node)?.lowers.first().cloned();
        let forms = self.options.forms;
        match first {
            Some(lower) if from.parent.id != to.parent.id || from.name != to.name => {
                let target = [b"/", &*lower.path].concat();
                forms.set_own(own.as_fd(), "redirect", &target)
            }
            None if below => forms.set_own(own.as_fd(), "opaque", b"y"),
            _ => Ok(()),
        }
    }
}

enum Way {
    From,
    To,
}

/// The content of one or two folders, to be changed.
struct Locked<'a> {
    first: RwLockWriteGuard<'a, Dir>,
    second: Option<RwLockWriteGuard<'a, Dir>>,
}

impl Locked<'_> {
    fn source(&self) -> &Dir {
        &self.first
    }

    fn source_mut(&mut self) -> &mut Dir {
        &mut self.first
    }

    fn target(&self) -> &Dir {
        self.second.as_ref().unwrap_or(&self.first)
    }

    fn target_mut(&mut self) -> &mut Dir {
        self.second.as_mut().unwrap_or(&mut self.first)
    }
}

/// Whether `node` lies below `folder`.
fn is_inside(node: &Arc<Node>, folder: &Node) -> bool {
    let mut at = node.place();
    while let Some(place) = at {
        if place.parent.id == folder.id {
            return true;
        }
        at = place.parent.place();
    }
    false
}

/// Notes the new name on the node.
fn move_place(
    node: &Node,
    state: Option<std::sync::MutexGuard<'_, super::node::State>>,
    from: &Side<'_>,
    to: &Side<'_>,
) {
    let name: Name = to.name.into();
    let new = Place { parent: to.parent.clone(), name };
    let is_place = node.place().is_none_or(|place| place.is(from.parent, from.name));
    match state {
        Some(mut state) if !is_place => {
            if let Some(alias) = state.aliases.iter_mut().find(|alias| alias.is(from.parent, from.name)) {
                *alias = new;
            }
        }
        _ => node.set_place(Some(new)),
    }
}

/// Moves a file and leaves a whiteout behind, in one step where the file system can.
fn rename_with_whiteout(
    folder: BorrowedFd<'_>,
    name: &[u8],
    new_folder: BorrowedFd<'_>,
    new_name: &[u8],
) -> Result<(), Errno> {
    match rustix::fs::renameat_with(folder, name, new_folder, new_name, RenameFlags::WHITEOUT) {
        Err(Errno::INVAL | Errno::NOSYS) => {
            rustix::fs::renameat(folder, name, new_folder, new_name)?;
            make_whiteout(folder, name)
        }
        other => other,
    }
}
