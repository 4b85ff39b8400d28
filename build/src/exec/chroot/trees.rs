//! The plain trees of a build's stages. One that is not in use is kept for the step that goes on from it: only the layers
//! it lacks are put over it.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use layerfs::digest::DiffId;
use layerfs::error::{Context, Result};
use layerfs::layer::plain;
use layerfs::store::{Store, TempDir};

use crate::schedule::Stack;

/// Trees that nobody uses, each with the layers that are in it.
type Idle = Arc<Mutex<Vec<(Vec<DiffId>, TempDir)>>>;

/// Most trees that are kept.
const KEPT: usize = 8;

/// The trees of a build.
#[derive(Debug, Default)]
pub(crate) struct Trees {
    idle: Idle,
}

/// A tree in use. Dropped, it is gone.
#[derive(Debug)]
pub(crate) struct Held {
    idle: Idle,
    dir: TempDir,
}

/// A tree that is only read: dropped, it is there for the next.
#[derive(Debug)]
pub(crate) struct Lent {
    held: Option<Held>,
    ids: Vec<DiffId>,
}

impl Trees {
    /// A tree of the stack for the caller alone.
    pub(crate) fn take(&self, store: &Store, stack: &Stack) -> Result<Held> {
        let wanted = stack.diff_ids();
        let found = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let best = idle.iter().enumerate().filter(|(_, (ids, _))| wanted.starts_with(ids));
            let best = best.max_by_key(|(_, (ids, _))| ids.len()).map(|(at, _)| at);
            best.map(|at| idle.swap_remove(at))
        };
        let lowers = stack.lowers(store)?;
        let (dir, there) = match found {
            Some((ids, dir)) => (dir, stack.lowest(ids.len()).lowers(store)?.dirs),
            None => (store.new_temp_dir()?, Vec::new()),
        };
        // What a layer needs of those below may differ with what is above; then all is laid down anew.
        let (dir, from) = match lowers.dirs.starts_with(&there) {
            true => (dir, there.len()),
            false => (store.new_temp_dir()?, 0),
        };
        let held = Held { idle: self.idle.clone(), dir };
        let root = held.root();
        fs::create_dir_all(&root).at("create", &root)?;
        plain::assemble(&lowers, from, &root)?;
        Ok(held)
    }

    /// The same to read.
    pub(crate) fn lend(&self, store: &Store, stack: &Stack) -> Result<Lent> {
        Ok(Lent { held: Some(self.take(store, stack)?), ids: stack.diff_ids() })
    }
}

impl Held {
    /// Where it lies.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    /// Keeps it for others: it holds these layers.
    pub(crate) fn give_back(self, ids: Vec<DiffId>) {
        let Self { idle, dir } = self;
        let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() == KEPT {
            drop(idle.remove(0));
        }
        idle.push((ids, dir));
    }
}

impl Lent {
    /// Where it lies.
    pub(crate) fn root(&self) -> PathBuf {
        self.held.as_ref().map(Held::root).unwrap_or_default()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            held.give_back(std::mem::take(&mut self.ids));
        }
    }
}
