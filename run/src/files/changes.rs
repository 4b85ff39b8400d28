//! `diff`: what a container's writable layer changes of its image.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use layerfs::archive::{is_opaque, is_whiteout};
use layerfs::error::{Context, Result};
use layerfs::layer::MergedView;

use crate::prepare::{self, Caller};
use crate::state::Container;

/// What became of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is other than in the image.
    Changed,
    /// The image has none.
    Added,
    /// The image has one.
    Deleted,
}

impl Change {
    /// podman's letter for it.
    pub fn letter(self) -> char {
        match self {
            Self::Changed => 'C',
            Self::Added => 'A',
            Self::Deleted => 'D',
        }
    }
}

/// What every container has of its engine, by podman's list; it is nobody's change.
const OF_THE_ENGINE: [&str; 10] = [
    "dev",
    "proc",
    "sys",
    "run",
    "run/notify",
    "run/secrets",
    "run/.containerenv",
    "etc/hostname",
    "etc/hosts",
    "etc/resolv.conf",
];

/// The changes, by path from the root.
///
/// # Errors
/// The image is gone, or the layer cannot be read.
pub fn changes(caller: &Caller, container: &Container) -> Result<BTreeMap<PathBuf, Change>> {
    let image = prepare::image_of(caller, container)?;
    let lowers = MergedView::new(&prepare::unpacked_for(caller, container, &image)?.dirs);
    let mut walk = Walk { lowers, hidden: mount_points(container), found: BTreeMap::new() };
    walk.folder(&container.dir.join("upper"), Path::new(""))?;
    Ok(walk.found)
}

/// Places that are covered by something else, without a slash in front.
pub(super) fn mount_points(container: &Container) -> Vec<PathBuf> {
    let own = container.record.options.storage.mounts.iter().map(|request| request.destination());
    let own = own.filter_map(|path| path.strip_prefix("/").ok());
    own.chain(OF_THE_ENGINE.iter().map(Path::new)).map(Path::to_owned).collect()
}

struct Walk {
    lowers: MergedView,
    hidden: Vec<PathBuf>,
    found: BTreeMap<PathBuf, Change>,
}

impl Walk {
    /// Looks through a folder of the writable layer; says whether anything in it changed.
    fn folder(&mut self, folder: &Path, path: &Path) -> Result<bool> {
        let mut any = false;
        let mut seen = Vec::new();
        for entry in fs::read_dir(folder).at("read", folder)? {
            let name = entry.at("read", folder)?.file_name();
            let (place, inner) = (folder.join(&name), path.join(&name));
            seen.push(name);
            let metadata = fs::symlink_metadata(&place).at("look at", &place)?;
            any |= match is_whiteout(&place, &metadata)? {
                true => self.tell(inner, Change::Deleted),
                false => self.entry(&place, inner, &metadata)?,
            };
        }
        if is_opaque(folder)? {
            for name in self.lowers.read_dir(path)?.unwrap_or_default() {
                if !seen.contains(&name) {
                    any |= self.tell(path.join(name), Change::Deleted);
                }
            }
        }
        Ok(any)
    }

    fn entry(&mut self, place: &Path, path: PathBuf, metadata: &Metadata) -> Result<bool> {
        let below = self.lowers.lookup(&path)?.map(|entry| entry.metadata);
        if !metadata.is_dir() {
            return Ok(self.tell(path, if below.is_some() { Change::Changed } else { Change::Added }));
        }
        let inside = self.folder(place, &path)?;
        match below {
            None => Ok(self.tell(path, Change::Added) || inside),
            // A folder that is only on the way to something is there as it was.
            Some(below) => {
                let changed = inside || differs(&below, metadata);
                let told = changed && self.tell(path, Change::Changed);
                Ok(told || inside)
            }
        }
    }

    fn tell(&mut self, path: PathBuf, change: Change) -> bool {
        let told = !self.hidden.contains(&path);
        if told {
            self.found.insert(Path::new("/").join(path), change);
        }
        told
    }
}

fn differs(a: &Metadata, b: &Metadata) -> bool {
    let of = |m: &Metadata| (m.mode(), m.uid(), m.gid());
    of(a) != of(b)
}
