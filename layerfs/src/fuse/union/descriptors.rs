//! Open descriptors, kept as long as there is room.
//!
//! A file is opened by its first read or write and a folder of the upper file system by its first use; both stay open
//! until others need the room. The least recently filled slot goes first, unless it was used since: the clock
//! algorithm, with no lock on the path of a hit but the slot's own.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::node::{Node, lock};
use super::passthrough::Opens;

/// Descriptors left to everything else.
const RESERVED: u64 = 256;
/// Most that are kept open, however many the limit allows.
const MOST: u64 = 8 * 1024;

/// What may be done with a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Access {
    Read,
    Write,
}

/// A node's place for one open descriptor.
#[derive(Debug, Default)]
pub(super) struct Slot {
    fd: Mutex<Option<(Arc<OwnedFd>, Access)>>,
    used: AtomicBool,
    /// What the kernel has open of it. Held while the file is opened, so others only try to lock it.
    pub(super) opens: Mutex<Option<Box<Opens>>>,
}

impl Slot {
    /// The descriptor, if there is one that allows this much.
    pub(super) fn get(&self, access: Access) -> Option<Arc<OwnedFd>> {
        let found = lock(&self.fd).as_ref().filter(|(_, has)| *has >= access).map(|(fd, _)| fd.clone());
        if found.is_some() && !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        found
    }

    /// Closes it, once nobody uses it any more.
    pub(super) fn clear(&self) {
        let old = lock(&self.fd).take();
        drop(old);
        if let Ok(mut opens) = self.opens.try_lock()
            && let Some(opens) = opens.as_mut()
        {
            opens.retire();
        }
    }

    /// Whether a descriptor is kept.
    pub(super) fn is_filled(&self) -> bool {
        lock(&self.fd).is_some()
    }

    fn fill(&self, fd: Arc<OwnedFd>, access: Access) -> bool {
        lock(&self.fd).replace((fd, access)).is_none()
    }
}

/// The slots that are filled, oldest first.
#[derive(Debug)]
pub(super) struct Descriptors {
    filled: Mutex<VecDeque<Weak<Node>>>,
    room: usize,
}

impl Descriptors {
    /// Takes what the process's limits allow, raising the soft one.
    pub(super) fn new() -> Self {
        let limit = getrlimit(Resource::Nofile);
        let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
        let current = match setrlimit(Resource::Nofile, wanted) {
            Ok(()) => limit.maximum,
            Err(_) => limit.current,
        };
        let room = current.unwrap_or(u64::MAX).saturating_sub(RESERVED).clamp(16, MOST);
        Self::with_room(room as usize)
    }

    fn with_room(room: usize) -> Self {
        Self { filled: Mutex::default(), room }
    }

    /// Keeps a descriptor for `node`, at the cost of another's that was not used lately.
    pub(super) fn keep(&self, node: &Arc<Node>, fd: Arc<OwnedFd>, access: Access) {
        if !node.slot.fill(fd, access) {
            return;
        }
        let mut filled = lock(&self.filled);
        filled.push_back(Arc::downgrade(node));
        let mut chances = filled.len();
        while filled.len() > self.room && chances > 0 {
            chances -= 1;
            let Some(oldest) = filled.pop_front() else { break };
            let Some(node) = oldest.upgrade() else { continue };
            if node.slot.used.swap(false, Ordering::Relaxed) && chances > 1 {
                filled.push_back(oldest);
            } else {
                node.slot.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::fs::FileType;

    use super::super::node::Real;
    use super::*;

    #[test]
    fn what_is_used_stays_open() {
        let descriptors = Descriptors::with_room(2);
        let null = || Arc::new(OwnedFd::from(File::open("/dev/null").expect("it is everywhere")));
        let nodes: Vec<_> =
            (0..3).map(|id| Node::new(id, id, FileType::RegularFile, None, Real::Upper, None)).collect();
        descriptors.keep(&nodes[0], null(), Access::Read);
        descriptors.keep(&nodes[1], null(), Access::Write);
        assert!(nodes[0].slot.get(Access::Write).is_none(), "opened for reading");
        assert!(nodes[0].slot.get(Access::Read).is_some());
        descriptors.keep(&nodes[2], null(), Access::Read);
        let open: Vec<_> = nodes.iter().map(|node| node.slot.get(Access::Read).is_some()).collect();
        assert_eq!(open, [true, false, true]);
    }
}
