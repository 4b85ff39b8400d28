//! Names that go.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, PoisonError};

use rustix::fs::{AtFlags, Dir as ReadDir, FileType, Mode, RenameFlags};
use rustix::io::Errno;

use super::Union;
use super::forms::make_whiteout;
use super::look::NAMING;
use super::node::{Node, Real, lock};
use super::place::FOLDER;

impl Union {
    /// Removes a file that is no folder.
    pub(super) fn unlink(&self, parent: &Arc<Node>, name: &[u8]) -> Result<(), Errno> {
        let (node, _) = self.find(parent, name)?;
        if node.is_dir() {
            return Err(Errno::ISDIR);
        }
        let folder = self.ensure_upper_dir(parent)?;
        let mut dir = self.content_mut(parent)?;
        let entry = dir.index.as_ref().and_then(|index| index.get(name)).ok_or(Errno::NOENT)?;
        let (upper, below) = (entry.upper, entry.below);
        {
            let mut state = node.state();
            let kept = self.hold(&node, &state.real, folder.as_fd(), name, upper)?;
            match (upper, below) {
                (true, false) => rustix::fs::unlinkat(&folder, name, AtFlags::empty())?,
                (true, true) => self.replace_by_whiteout(folder.as_fd(), name)?,
                (false, _) => make_whiteout(&folder, name)?,
            }
            // A lower layer goes on counting the name.
            if !upper {
                state.links -= 1;
            }
            self.drop_name(&node, &mut state, parent, name, kept);
        }
        if let Some(index) = &mut dir.index {
            index.remove(name);
        }
        drop(dir);
        self.table.drop_unknown(&node);
        Ok(())
    }

    /// A descriptor through which a file that is about to lose its name is still reached, if it is known by no other.
    pub(super) fn hold(
        &self,
        node: &Node,
        real: &Real,
        folder: BorrowedFd<'_>,
        name: &[u8],
        upper: bool,
    ) -> Result<Option<Arc<OwnedFd>>, Errno> {
        if !upper || !matches!(real, Real::Upper) {
            return Ok(None);
        }
        if node.kind == FileType::RegularFile
            && let Some(fd) = node.slot.get(super::descriptors::Access::Read)
        {
            return Ok(Some(fd));
        }
        Ok(Some(Arc::new(rustix::fs::openat(folder, name, NAMING, Mode::empty())?)))
    }

    /// The node is no longer known by that name.
    pub(super) fn drop_name(
        &self,
        node: &Node,
        state: &mut super::node::State,
        parent: &Node,
        name: &[u8],
        kept: Option<Arc<OwnedFd>>,
    ) {
        state.aliases.retain(|alias| !alias.is(parent, name));
        if !node.place().is_some_and(|place| place.is(parent, name)) {
            return;
        }
        let next = state.aliases.pop();
        if next.is_none()
            && let Some(fd) = kept
        {
            state.real = Real::Nameless(fd);
        }
        node.set_place(next);
    }

    /// Puts a whiteout in the place of a file in the upper folder, in one step.
    pub(super) fn replace_by_whiteout(&self, folder: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        let whiteout = self.whiteout_in_work()?;
        let work = &self.upper()?.work;
        rustix::fs::renameat(work, whiteout.as_slice(), folder, name).inspect_err(|_| {
            let _ = rustix::fs::unlinkat(work, whiteout.as_slice(), AtFlags::empty());
        })
    }

    /// Removes a folder in which nothing is to be seen.
    pub(super) fn rmdir(&self, parent: &Arc<Node>, name: &[u8]) -> Result<(), Errno> {
        let (node, _) = self.find(parent, name)?;
        if !node.is_dir() {
            return Err(Errno::NOTDIR);
        }
        let folder = self.ensure_upper_dir(parent)?;
        let _shape = lock(&self.shape);
        let mut dir = self.content_mut(parent)?;
        let entry = dir.index.as_ref().and_then(|index| index.get(name)).ok_or(Errno::NOENT)?;
        let (upper, below) = (entry.upper, entry.below);
        let content = self.content_mut(&node)?;
        let index = content.index.as_ref().ok_or(Errno::STALE)?;
        if !index.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        let whiteouts = index.has_upper();
        // It may be somebody's working folder.
        let own = if upper { Some(self.upper_dir(&node)?) } else { None };
        match (upper, below) {
            (false, _) => make_whiteout(&folder, name)?,
            (true, false) if !whiteouts => rustix::fs::unlinkat(&folder, name, AtFlags::REMOVEDIR)?,
            (true, false) => {
                let aside = self.work_name();
                rustix::fs::renameat(&folder, name, &self.upper()?.work, aside.as_slice())?;
                self.discard(&aside);
            }
            (true, true) => self.exchange_for_whiteout(folder.as_fd(), name)?,
        }
        {
            let _tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
            let mut state = node.state();
            if let Some(fd) = own {
                state.real = Real::Nameless(fd);
            }
            node.set_place(None);
        }
        drop(content);
        if let Some(index) = &mut dir.index {
            index.remove(name);
        }
        drop(dir);
        self.table.drop_unknown(&node);
        Ok(())
    }

    /// Puts a whiteout in the place of a folder in the upper folder, in one step.
    pub(super) fn exchange_for_whiteout(&self, folder: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        let whiteout = self.whiteout_in_work()?;
        let work = &self.upper()?.work;
        rustix::fs::renameat_with(work, whiteout.as_slice(), folder, name, RenameFlags::EXCHANGE).inspect_err(
            |_| {
                let _ = rustix::fs::unlinkat(work, whiteout.as_slice(), AtFlags::empty());
            },
        )?;
        self.discard(&whiteout);
        Ok(())
    }

    /// Removes a folder in the work folder that holds nothing but whiteouts. What stays is swept at the next mount.
    pub(super) fn discard(&self, name: &[u8]) {
        let discard = || -> Result<(), Errno> {
            let work = &self.upper()?.work;
            let dir = rustix::fs::openat(work, name, FOLDER, Mode::empty())?;
            for entry in ReadDir::read_from(&dir)? {
                let entry = entry?;
                if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                    rustix::fs::unlinkat(&dir, entry.file_name(), AtFlags::empty())?;
                }
            }
            rustix::fs::unlinkat(work, name, AtFlags::REMOVEDIR)
        };
        let _ = discard();
    }
}
