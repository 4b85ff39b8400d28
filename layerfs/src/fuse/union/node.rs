//! What the kernel holds a number of: a file or folder of the union, wherever it really lies just now.
//!
//! Numbers are never given twice, so a number that was forgotten can be told from every later one. A file may have two
//! ([`RENEWED`]). A node lives as
//! long as the kernel knows it, or as long as it knows something that cannot be read from the layers again.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustix::fs::FileType;

use super::descriptors::Slot;
use super::index::Dir;
use super::passthrough::RENEWED;
use crate::fuse::wire::ROOT;

/// A name, shared between the index of a folder and the nodes in it.
pub(super) type Name = Arc<[u8]>;

/// A folder of one lower layer: the layer's number, 0 being the topmost, and the path in it ("" is its root).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LayerDir {
    pub(super) layer: u16,
    pub(super) path: Arc<[u8]>,
}

/// Where a node really lies.
#[derive(Clone, Debug)]
pub(super) enum Real {
    /// A file of a lower layer: its folder there, and its name there.
    Lower(LayerDir, Name),
    /// A folder that is in lower layers only; its content knows which.
    LowerDir,
    /// In the upper folder, at the node's place.
    Upper,
    /// In the upper file system, without a name that is known here.
    Nameless(Arc<OwnedFd>),
}

/// One name of a node.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) parent: Arc<Node>,
    pub(super) name: Name,
}

impl Place {
    pub(super) fn is(&self, parent: &Node, name: &[u8]) -> bool {
        self.parent.id == parent.id && *self.name == *name
    }
}

/// What changes about a node.
#[derive(Debug)]
pub(super) struct State {
    pub(super) real: Real,
    /// What has to be added to the link count on disk: names in lower layers that no longer, or still, count.
    pub(super) links: i32,
    /// Further names that are known.
    pub(super) aliases: Vec<Place>,
}

/// A file or folder of the union.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: u64,
    /// The inode number that programs see. It stays when the file is copied up, and where possible when it is mounted
    /// again.
    pub(super) ino: u64,
    pub(super) kind: FileType,
    /// How many references the kernel holds; changed by the [`Table`] alone.
    lookups: AtomicU64,
    /// The kernel is told its second number from here on.
    renewed: AtomicBool,
    /// A name of it; none for the root and for what was removed. Locked for moments only, below every other lock;
    /// that of a folder changes under [`super::Union::tree`] alone.
    place: Mutex<Option<Place>>,
    state: Mutex<State>,
    /// Held while the node is copied up.
    pub(super) copying: Mutex<()>,
    /// An open descriptor of it, when there is one: a file's data, or a folder in the upper file system.
    pub(super) slot: Slot,
    dir: Option<Box<DirPart>>,
}

#[derive(Debug)]
struct DirPart {
    content: RwLock<Dir>,
    births: Mutex<()>,
}

impl Node {
    /// A node that the table does not know yet.
    pub(super) fn new(
        id: u64,
        ino: u64,
        kind: FileType,
        place: Option<Place>,
        real: Real,
        dir: Option<Dir>,
    ) -> Arc<Self> {
        let dir = dir.map(|dir| Box::new(DirPart { content: RwLock::new(dir), births: Mutex::new(()) }));
        Arc::new(Self {
            id,
            ino,
            kind,
            lookups: AtomicU64::new(0),
            renewed: AtomicBool::new(false),
            place: Mutex::new(place),
            state: Mutex::new(State { real, links: 0, aliases: Vec::new() }),
            copying: Mutex::new(()),
            slot: Slot::default(),
            dir,
        })
    }

    /// Gives it its second number.
    pub(super) fn renew(&self) {
        self.renewed.store(true, Ordering::Release);
    }

    /// Whether the kernel knows it by two numbers.
    pub(super) fn is_renewed(&self) -> bool {
        self.renewed.load(Ordering::Acquire)
    }

    /// The number that the kernel is told.
    pub(super) fn number(&self) -> u64 {
        if self.is_renewed() { self.id | RENEWED } else { self.id }
    }

    pub(super) fn is_dir(&self) -> bool {
        self.dir.is_some()
    }

    pub(super) fn place(&self) -> Option<Place> {
        lock(&self.place).clone()
    }

    pub(super) fn set_place(&self, place: Option<Place>) {
        *lock(&self.place) = place;
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Whether it lies in the upper file system, named or not.
    pub(super) fn is_upper(&self) -> bool {
        matches!(self.state().real, Real::Upper | Real::Nameless(_))
    }

    /// A folder's content, to be looked at. `None` for what is no folder.
    pub(super) fn dir(&self) -> Option<RwLockReadGuard<'_, Dir>> {
        self.dir.as_ref().map(|dir| dir.content.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A folder's content, to be changed.
    pub(super) fn dir_mut(&self) -> Option<RwLockWriteGuard<'_, Dir>> {
        self.dir.as_ref().map(|dir| dir.content.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Held while a node for one of the folder's names is made, so that two threads never make two.
    pub(super) fn births(&self) -> Option<MutexGuard<'_, ()>> {
        self.dir.as_ref().map(|dir| lock(&dir.births))
    }
}

/// Locks; what a thread that panicked left behind is no worse than what an error would have left.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Parts of the table, each with a lock of its own.
const SHARDS: usize = 32;

/// All nodes by their numbers.
#[derive(Debug)]
pub(super) struct Table {
    shards: [RwLock<HashMap<u64, Arc<Node>>>; SHARDS],
    next: AtomicU64,
}

impl Table {
    pub(super) fn new() -> Self {
        Self { shards: std::array::from_fn(|_| RwLock::default()), next: AtomicU64::new(ROOT + 1) }
    }

    fn shard(&self, id: u64) -> &RwLock<HashMap<u64, Arc<Node>>> {
        &self.shards[(id % SHARDS as u64) as usize]
    }

    /// A number for a new node.
    pub(super) fn new_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds a node that nobody refers to yet.
    pub(super) fn insert(&self, node: &Arc<Node>) {
        self.shard(node.id).write().unwrap_or_else(PoisonError::into_inner).insert(node.id, node.clone());
    }

    pub(super) fn get(&self, id: u64) -> Option<Arc<Node>> {
        self.shard(id).read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// Counts one more reference of the kernel's; puts the node back should it have been dropped meanwhile.
    pub(super) fn remember(&self, node: &Arc<Node>) {
        {
            let shard = self.shard(node.id).read().unwrap_or_else(PoisonError::into_inner);
            if shard.contains_key(&node.id) {
                node.lookups.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        let mut shard = self.shard(node.id).write().unwrap_or_else(PoisonError::into_inner);
        node.lookups.fetch_add(1, Ordering::Relaxed);
        shard.entry(node.id).or_insert_with(|| node.clone());
    }

    /// Takes `count` references back. The last one drops the node and returns it, unless `keep` says that it knows
    /// more than the layers do.
    pub(super) fn forget(&self, id: u64, count: u64, keep: impl FnOnce(&Node) -> bool) -> Option<Arc<Node>> {
        if id == ROOT {
            return None;
        }
        let mut shard = self.shard(id).write().unwrap_or_else(PoisonError::into_inner);
        let node = shard.get(&id)?;
        let left = node.lookups.load(Ordering::Relaxed).saturating_sub(count);
        node.lookups.store(left, Ordering::Relaxed);
        if left > 0 || keep(node) {
            return None;
        }
        shard.remove(&id)
    }

    /// Drops a node that was made but that nobody came to know.
    pub(super) fn drop_unknown(&self, node: &Node) {
        let mut shard = self.shard(node.id).write().unwrap_or_else(PoisonError::into_inner);
        if node.id != ROOT && node.lookups.load(Ordering::Relaxed) == 0 {
            shard.remove(&node.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_lives_as_long_as_the_kernel_knows_it() {
        let table = Table::new();
        let id = table.new_id();
        let node = Node::new(id, 7, FileType::RegularFile, None, Real::Upper, None);
        table.insert(&node);
        table.remember(&node);
        table.remember(&node);
        assert!(table.forget(id, 1, |_| false).is_none() && table.get(id).is_some());
        assert!(table.forget(id, 5, |_| true).is_none() && table.get(id).is_some(), "what must be kept is kept");
        assert!(table.forget(id, 0, |_| false).is_some() && table.get(id).is_none());
        table.remember(&node);
        assert!(table.get(id).is_some(), "a lookup that raced with the last forget");
        assert_ne!(table.new_id(), id);
    }
}
