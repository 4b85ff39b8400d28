//! The parts of a store one by one and without trust in any of them, for whoever checks it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::format::{OCI_LAYOUT, Roots};
use super::reach::{folders, list};
use super::{Pin, Store, temp};
use crate::digest::DiffId;
use crate::error::Result;
use crate::oci::{Descriptor, Index, REF_NAME};

/// A container, as far as the store knows it.
#[derive(Debug)]
pub(crate) struct Container {
    /// Its folder's name.
    pub(crate) id: String,
    /// What it needs.
    pub(crate) roots: Roots,
    /// The process that watches it lives.
    pub(crate) running: bool,
}

impl Store {
    /// Waits until nobody imports, collects or starts a container, and keeps it so until dropped.
    pub(crate) fn alone(&self) -> Result<Pin> {
        temp::lock(&self.root.join("gc.lock"), FlockOperation::LockExclusive).map(Pin)
    }

    /// The same where it can be had at once.
    pub(crate) fn try_alone(&self) -> Result<Option<Pin>> {
        match temp::lock(&self.root.join("gc.lock"), FlockOperation::NonBlockingLockExclusive) {
            Ok(lock) => Ok(Some(Pin(lock))),
            Err(error) if error.errno() == Some(libc::EWOULDBLOCK) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every file in `refs/` with what it says, sorted. A name that nothing could be called is an error of its own.
    pub(crate) fn ref_files(&self) -> Result<Vec<(String, Result<Descriptor>)>> {
        let mut found = Vec::new();
        for path in list(&self.root.join("refs"))? {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let name = super::format::unescape(&file).and_then(|name| name.parse::<crate::reference::Reference>());
            let parsed = name.and_then(|_| self.read_ref(&path));
            found.push((file, parsed));
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }

    /// The bytes of `oci-layout`.
    pub(crate) fn read_layout_marker(&self) -> Option<Vec<u8>> {
        fs::read(self.root.join("oci-layout")).ok()
    }

    /// Writes `oci-layout`.
    pub(crate) fn write_layout_marker(&self) -> Result<()> {
        self.replace("oci-layout", OCI_LAYOUT.as_bytes())
    }

    /// Whether `index.json` has every name with what it names, and no other.
    pub(crate) fn index_is_current(&self) -> Result<bool> {
        let Some(index) = self.read_index() else { return Ok(false) };
        let listed: BTreeMap<&str, &Descriptor> =
            index.manifests.iter().filter_map(|entry| Some((entry.annotation(REF_NAME)?, entry))).collect();
        let refs = self.refs()?;
        let same = |name: &str, target: &Descriptor| {
            listed.get(name).is_some_and(|entry| (entry.digest, entry.size) == (target.digest, target.size))
        };
        Ok(index.manifests.len() == refs.len() && refs.iter().all(|(name, target)| same(&name.to_string(), target)))
    }

    /// What `index.json` says about a name.
    pub(crate) fn listed_in_index(&self, name: &str) -> Option<Descriptor> {
        let mut entry =
            self.read_index()?.manifests.into_iter().find(|entry| entry.annotation(REF_NAME) == Some(name))?;
        entry.annotations.shift_remove(REF_NAME);
        Some(entry)
    }

    fn read_index(&self) -> Option<Index> {
        serde_json::from_slice(&fs::read(self.root.join("index.json")).ok()?).ok()
    }

    /// The containers.
    pub(crate) fn container_roots(&self) -> Result<Vec<Container>> {
        let mut containers: BTreeMap<PathBuf, Container> = BTreeMap::new();
        for record in self.records("containers")? {
            let id = record.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let running = || is_locked(&record.folder);
            let container = containers.entry(record.folder.clone()).or_insert_with(|| Container {
                id,
                roots: Roots::default(),
                running: running(),
            });
            container.roots.images.extend(record.roots.images);
            container.roots.chains.extend(record.roots.chains);
        }
        Ok(containers.into_values().collect())
    }

    /// Whether a layer has a folder, whatever is in it.
    pub(crate) fn has_layer_folder(&self, diff_id: DiffId) -> Result<bool> {
        Ok(self.layer_files(diff_id)?.parent().is_some_and(std::path::Path::exists))
    }

    /// How many layers are unpacked under other id maps than this process's.
    pub(crate) fn foreign_layers(&self) -> Result<u64> {
        let own = self.mapping()?.key();
        let names = folders(&self.layers_dir())?.into_iter();
        let foreign = names.filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.ends_with(".tree") && name.split('.').nth(1) != Some(own.as_str())
        });
        Ok(foreign.count() as u64)
    }
}

/// Whether the process that watches a container lives: it holds the folder's lock.
pub(super) fn is_locked(folder: &std::path::Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, Mode::empty())
        .is_ok_and(|fd| rustix::fs::flock(&fd, FlockOperation::NonBlockingLockShared).is_err())
}
