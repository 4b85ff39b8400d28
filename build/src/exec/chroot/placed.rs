//! What is put into a step's tree in place of mounts, and taken out again.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, Metadata, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Result};
use layerfs::layer::MergedView;
use oci_spec::runtime::Mount;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, makedev, mknodat, utimensat};
use rustix::io::Errno;

use crate::exec::placement;

/// The devices that every container has: name, major, minor.
const DEVICES: [(&str, u32, u32); 5] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9)];

/// Things in a tree that are none of the step's.
pub(super) struct Placed<'a> {
    tree: &'a Path,
    view: &'a MergedView,
    /// Where what was in a place waits.
    aside: PathBuf,
    /// What was done, in order.
    done: Vec<Done>,
    paths: BTreeSet<Vec<u8>>,
}

enum Done {
    /// A folder was made, and the one it is in had this time.
    Folder(PathBuf),
    /// Something was moved here from its own place, if it has one to go back to.
    Moved { from: Option<PathBuf>, to: PathBuf },
    /// What was in the place was moved away.
    Aside { from: PathBuf, to: PathBuf },
    /// A folder's time before it was changed.
    Time(PathBuf, Metadata),
}

impl<'a> Placed<'a> {
    /// Nothing is placed yet; `dir` is a folder on the tree's file system.
    pub(super) fn new(tree: &'a Path, view: &'a MergedView, dir: &Path) -> Result<Self> {
        let aside = dir.join("aside");
        fs::create_dir(&aside).at("create", &aside)?;
        let paths = [&b"dev"[..], b"proc", b"sys"].map(<[u8]>::to_vec).into();
        Ok(Self { tree, view, aside, done: Vec::new(), paths })
    }

    /// What is in the way of a comparison, relative to the tree.
    pub(super) fn paths(&self) -> BTreeSet<Vec<u8>> {
        self.paths.clone()
    }

    /// Puts a file or folder where the step looks for it; it goes back when the step has ended.
    pub(super) fn put(&mut self, source: &Path, target: &Path) -> Result<()> {
        let place = self.free(target)?;
        fs::rename(source, &place).at("place", &place)?;
        self.done.push(Done::Moved { from: Some(source.to_owned()), to: place });
        Ok(())
    }

    /// The same for a mount: a folder or file, or an empty folder in place of memory.
    pub(super) fn mount(&mut self, mount: &Mount) -> Result<()> {
        match mount.source() {
            Some(source) if mount.typ().as_deref() == Some("bind") => self.put(source, mount.destination()),
            _ => {
                let place = self.free(mount.destination())?;
                fs::create_dir(&place).at("create", &place)?;
                fs::set_permissions(&place, Permissions::from_mode(0o1777)).at("change the mode of", &place)?;
                self.done.push(Done::Moved { from: None, to: place });
                Ok(())
            }
        }
    }

    /// A few devices, where they can be made.
    pub(super) fn devices(&mut self) -> Result<()> {
        for folder in ["proc", "sys", "dev/shm"] {
            self.folder(&self.tree.join(folder))?;
        }
        let folder = self.tree.join("dev");
        for (name, major, minor) in DEVICES {
            let place = folder.join(name);
            if place.exists() {
                continue;
            }
            match mknodat(CWD, &place, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(major, minor)) {
                // Nothing may be made. A file in the place of `null` takes what is written, and is gone afterwards.
                Err(Errno::PERM) if name == "null" => drop(fs::File::create(&place).at("create", &place)?),
                Err(Errno::PERM) => continue,
                result => result.at("create", &place)?,
            }
            fs::set_permissions(&place, Permissions::from_mode(0o666)).at("change the mode of", &place)?;
            self.done.push(Done::Moved { from: None, to: place });
        }
        Ok(())
    }

    /// Makes a place free and the folders on the way to it; notes it.
    fn free(&mut self, target: &Path) -> Result<PathBuf> {
        let found = placement::resolve(self.view, &target.to_string_lossy(), true)?;
        let place = self.tree.join(OsStr::from_bytes(&found.path));
        if let Some(parent) = place.parent() {
            self.folder(parent)?;
            self.note_time(parent)?;
        }
        if fs::symlink_metadata(&place).is_ok() {
            let to = self.aside.join(self.done.len().to_string());
            fs::rename(&place, &to).at("move", &place)?;
            self.done.push(Done::Aside { from: place.clone(), to });
        }
        self.paths.insert(found.path);
        Ok(place)
    }

    /// Makes a folder and those above it.
    fn folder(&mut self, path: &Path) -> Result<()> {
        if path.is_dir() || !path.starts_with(self.tree) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.folder(parent)?;
            self.note_time(parent)?;
        }
        fs::create_dir(path).at("create", path)?;
        self.done.push(Done::Folder(path.to_owned()));
        Ok(())
    }

    fn note_time(&mut self, folder: &Path) -> Result<()> {
        let known = |done: &Done| matches!(done, Done::Time(path, _) if path == folder);
        if !self.done.iter().any(known) {
            let metadata = fs::symlink_metadata(folder).at("look at", folder)?;
            self.done.push(Done::Time(folder.to_owned(), metadata));
        }
        Ok(())
    }

    /// Gives folders the time they had before anything was placed: it is not the step's doing.
    pub(super) fn restore_times(&self) -> Result<()> {
        for done in &self.done {
            if let Done::Time(path, metadata) = done {
                set_time(path, metadata)?;
            }
        }
        Ok(())
    }

    /// Takes everything out again.
    pub(super) fn take_out(mut self) -> Result<()> {
        for done in std::mem::take(&mut self.done).into_iter().rev() {
            match done {
                // The step has written into it.
                Done::Folder(path) => drop(fs::remove_dir(path)),
                Done::Moved { from: Some(from), to } => fs::rename(&to, &from).at("take out", &to)?,
                Done::Moved { from: None, to } => match fs::symlink_metadata(&to) {
                    Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&to).at("remove", &to)?,
                    Ok(_) => fs::remove_file(&to).at("remove", &to)?,
                    Err(_) => {}
                },
                Done::Aside { from, to } => fs::rename(&to, &from).at("move back", &from)?,
                Done::Time(path, metadata) => {
                    // One that the step changed has its own time.
                    if fs::symlink_metadata(&path).is_ok_and(|now| now.ino() == metadata.ino()) {
                        set_time(&path, &metadata)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn set_time(path: &Path, metadata: &Metadata) -> Result<()> {
    let time = Timespec { tv_sec: metadata.mtime(), tv_nsec: metadata.mtime_nsec() };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).at("set the time of", path)
}
