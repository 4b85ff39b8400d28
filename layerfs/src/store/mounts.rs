//! What is mounted to be looked at, and must not be collected meanwhile.
//!
//! A record lies in `mounts/NAME/` and keeps an image's layers as long as somebody lives who holds its lock: the server
//! of the mount, or nobody, where the kernel alone serves it. Then it is the mount that has to be there still. Nobody
//! has to clean up: a collection removes the records of what is gone.

use std::fs;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, StatxFlags};
use serde::{Deserialize, Serialize};

use super::durable::boot_id;
use super::format::Roots;
use super::reach::{folders, read_record};
use super::{Store, TempDir, temp};
use crate::error::{Context, Result};

const NAME: &str = "record.json";

/// Where a mount that nobody serves is to be found again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    boot: String,
    /// Inode number of the mount namespace.
    namespace: u64,
    /// The mount's number in `mountinfo`.
    mount: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    roots: Roots,
    place: Option<Place>,
}

/// Keeps layers from being collected, as long as it lives.
#[derive(Debug)]
pub struct MountRecord {
    folder: TempDir,
    roots: Roots,
}

impl MountRecord {
    /// Lets the mount itself keep the layers from here on.
    ///
    /// # Errors
    /// The mount cannot be looked at, or the store cannot be written.
    pub fn leave_to(self, mount: BorrowedFd<'_>) -> Result<()> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat = rustix::fs::statx(mount, "", flags, StatxFlags::MNT_ID).context(|| "look at the mount")?;
        let place = Place { boot: boot_id()?, namespace: namespace()?, mount: stat.stx_mnt_id };
        write(self.folder.path(), &Record { roots: self.roots, place: Some(place) })?;
        self.folder.leave();
        Ok(())
    }
}

impl Store {
    /// Keeps what `roots` names from being collected, for a mount that is about to be made. Whoever calls it holds a
    /// [`super::Pin`] until it returns.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn record_mount(&self, roots: Roots) -> Result<MountRecord> {
        let parent = self.mounts_dir();
        fs::create_dir_all(&parent).at("create", &parent)?;
        let folder = TempDir::new(&parent)?;
        let record = Record { roots, place: None };
        write(folder.path(), &record)?;
        Ok(MountRecord { folder, roots: record.roots })
    }

    fn mounts_dir(&self) -> PathBuf {
        self.root.join("mounts")
    }

    /// Removes the records of mounts that are gone.
    pub(super) fn sweep_mounts(&self) -> Result<()> {
        for folder in folders(&self.mounts_dir())? {
            // Locked: its server lives. Gone: it has just ended.
            let Ok(_lock) = temp::lock_dir(&folder, FlockOperation::NonBlockingLockExclusive) else { continue };
            let record: Option<Record> = read_record(&folder.join(NAME))?;
            let place = record.and_then(|record| record.place);
            if place.is_none_or(|place| !is_there(&place)) {
                self.discard(&folder)?;
            }
        }
        Ok(())
    }
}

fn write(folder: &Path, record: &Record) -> Result<()> {
    let (new, path) = (folder.join("new"), folder.join(NAME));
    let bytes = serde_json::to_vec(record).context(|| "write down what is mounted")?;
    fs::write(&new, bytes).at("write", &new)?;
    fs::rename(&new, &path).at("write", &path)
}

fn namespace() -> Result<u64> {
    let path = "/proc/self/ns/mnt";
    Ok(fs::metadata(path).at("look at", path)?.ino())
}

/// Whether a mount is there still. One of a namespace that cannot be looked into from here may be.
fn is_there(place: &Place) -> bool {
    if boot_id().is_ok_and(|boot| boot != place.boot) {
        return false;
    }
    let here = namespace().is_ok_and(|namespace| namespace == place.namespace);
    let Ok(list) = fs::read_to_string("/proc/self/mountinfo") else { return true };
    let number = place.mount.to_string();
    !here || list.lines().any(|line| line.split(' ').next() == Some(number.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_keeps_its_image_as_long_as_it_is_there() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(&dir.path().join("store")).expect("a store");
        let mounts = || folders(&store.mounts_dir()).expect("readable").len();
        let record = store.record_mount(Roots::default()).expect("a record");
        store.gc().expect("a collection");
        assert_eq!(mounts(), 1, "its server lives");
        drop(record);
        assert_eq!(mounts(), 0);
        // Every mount has a number, this one too.
        let proc = fs::File::open("/proc").expect("it is mounted");
        let record = store.record_mount(Roots::default()).expect("a record");
        record.leave_to(std::os::fd::AsFd::as_fd(&proc)).expect("left");
        store.gc().expect("a collection");
        assert_eq!(mounts(), 1, "the mount is there");
        let path = folders(&store.mounts_dir()).expect("readable").remove(0);
        let mut record: Record = read_record(&path.join(NAME)).expect("readable").expect("a record");
        record.place.as_mut().expect("a place").mount = u64::MAX;
        write(&path, &record).expect("written");
        store.gc().expect("a collection");
        assert_eq!(mounts(), 0, "it is gone");
    }
}
