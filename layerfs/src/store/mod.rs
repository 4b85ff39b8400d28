//! The store: images, layers, build cache and containers of one user, in one folder.
//!
//! It is an OCI image layout that other programs can read as it lies (see [`format`](mod@format)), without a daemon, a database
//! or a lock over everything. What it is not: it knows nothing of registries, Dockerfiles or running containers.
//!
//! A program that imports holds a [`Pin`] from before its first blob until its ref is written, and one that starts a
//! container until its record with [`format::Roots`] is; `gc` waits for them.
//!
//! ```no_run
//! use layerfs::store::Store;
//! let store = Store::open(std::path::Path::new("/var/lib/layerfs"))?;
//! let found = store.find("localhost/app")?;
//! println!("{}", found.descriptor.digest);
//! # Ok::<(), layerfs::error::Error>(())
//! ```

mod blob;
mod contents;
mod durable;
pub mod format;
mod gc;
mod image;
mod inspect;
mod mounts;
mod reach;
mod refs;
mod temp;
mod usage;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::FlockOperation;

pub use blob::{BlobLock, BlobWriter, layout_blob_path};
pub use contents::{Chain, Contents, Part, Role, Summary};
pub(crate) use durable::Unsynced;
pub use gc::{Reclaimed, Unneeded};
pub use image::{Found, Image};
pub use mounts::MountRecord;
pub use refs::Listed;
pub use temp::TempDir;
pub use usage::{Amount, ImageUsage, Usage};

use crate::error::{Context, Error, Kind, Result};
use crate::userns::Mapping;

/// One store. Shared by reference between threads; several processes use one folder at once.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    mapping: OnceLock<Mapping>,
    /// Whose owners the layers have, where it is not this process's namespace.
    inner: Option<Mapping>,
    witness: OnceLock<File>,
}

/// While it is held, `gc` removes nothing.
#[derive(Debug)]
pub struct Pin(#[expect(dead_code, reason = "held for its lock")] OwnedFd);

impl Store {
    /// Where the store of this user lies: `LAYERFS_STORE`, else `/var/lib/layerfs` for root, else
    /// `$XDG_DATA_HOME/layerfs`, else `~/.local/share/layerfs`. `rootless_uid` is the real user id of somebody who is
    /// not root.
    ///
    /// # Errors
    /// No place can be told, because `HOME` is not set.
    pub fn default_root(rootless_uid: Option<u32>, env: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
        let set = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        match (set("LAYERFS_STORE"), rootless_uid) {
            (Some(path), _) => Ok(path),
            (None, None) => Ok(PathBuf::from("/var/lib/layerfs")),
            (None, Some(uid)) => set("XDG_DATA_HOME")
                .or_else(|| set("HOME").map(|home| home.join(".local/share")))
                .map(|data| data.join("layerfs"))
                .ok_or_else(|| {
                    Error::new(Kind::Usage, format!("no place for the store of user {uid}: HOME is not set"))
                        .hint("set HOME, or name a folder by --store or LAYERFS_STORE")
                }),
        }
    }

    /// Opens the store in `root`, making it where there is none, and clears up after processes that were killed.
    ///
    /// # Errors
    /// The folder cannot be written, or holds a store of a later version.
    pub fn open(root: &Path) -> Result<Self> {
        let unwritable = |error: Error| error.hint("choose a folder you can write with --store or LAYERFS_STORE");
        let root = std::path::absolute(root).at("find", root)?;
        let store = Self { root, mapping: OnceLock::new(), inner: None, witness: OnceLock::new() };
        let version = store.root.join("layerfs-format");
        match fs::read_to_string(&version) {
            Ok(text) if text.trim().parse() == Ok(format::VERSION) => {}
            // It is not synced when it is written, and so may be torn where the machine went down right after.
            Ok(text) if text.trim_matches(['\0', '\n']).is_empty() => store.create().map_err(unwritable)?,
            Ok(text) => {
                let path = store.root.display();
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("store `{path}` has format {}", text.trim().escape_debug()),
                )
                .hint(format!("this program reads format {}; use the newer program that made it", format::VERSION)));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => store.create().map_err(unwritable)?,
            Err(error) => return Err(error).at("read", &version).map_err(unwritable),
        }
        temp::sweep(&store.root.join("tmp"), FlockOperation::NonBlockingLockExclusive)?;
        store.distrust_other_boots()?;
        Ok(store)
    }

    fn create(&self) -> Result<()> {
        for folder in
            ["blobs/sha256", "refs", "layers", "compressed", "cache", "containers", "tmp", "locks", "unsynced"]
        {
            let path = self.root.join(folder);
            fs::create_dir_all(&path).at("create", &path)?;
        }
        self.replace("oci-layout", format::OCI_LAYOUT.as_bytes())?;
        self.publish_index()?;
        self.replace("layerfs-format", format!("{}\n", format::VERSION).as_bytes())
    }

    /// The store's folder, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// One folder for each container.
    pub fn containers_dir(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// The build cache.
    pub fn cache_dir(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// Unpacked layers.
    pub fn layers_dir(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// The id maps under which this process reads and writes the store.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn mapping(&self) -> Result<&Mapping> {
        if let Some(mapping) = self.mapping.get() {
            return Ok(mapping);
        }
        let current = Mapping::current()?;
        Ok(self.mapping.get_or_init(|| current))
    }

    /// The same store as seen by a container with a user namespace of its own, whose maps are given in this process's
    /// ids: its layers are others, because their files have other owners.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn for_namespace(&self, inner: &Mapping) -> Result<Self> {
        let mapping = OnceLock::from(Mapping::current()?.compose(inner));
        Ok(Self { root: self.root.clone(), mapping, inner: Some(inner.clone()), witness: OnceLock::new() })
    }

    /// Whose owners an unpacked layer gets, where they are not this process's own.
    pub(crate) fn owners(&self) -> Option<&Mapping> {
        self.inner.as_ref()
    }

    /// A folder of this process's own under `tmp/`.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn new_temp_dir(&self) -> Result<TempDir> {
        self.witness()?;
        TempDir::new(&self.root.join("tmp"))
    }

    /// Keeps `gc` away until dropped; waits for one that is under way.
    ///
    /// # Errors
    /// The lock file cannot be made.
    pub fn pin(&self) -> Result<Pin> {
        temp::lock(&self.root.join("gc.lock"), FlockOperation::LockShared).map(Pin)
    }

    /// Writes a small file below the root so that a reader sees the old or the new one.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let dir = self.new_temp_dir()?;
        let (new, path) = (dir.path().join("new"), self.root.join(name));
        fs::write(&new, bytes).at("write", &new)?;
        fs::rename(&new, &path).at("write", &path)
    }

    /// Removes an object at once from view, then from the disk. Needs no space, as a full disk has none.
    pub(crate) fn discard(&self, path: &Path) -> Result<()> {
        let gone = temp::unused_name(&self.root.join("tmp"));
        match fs::rename(path, &gone) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => result.at("remove", path)?,
        }
        temp::remove(&gone);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::durable::boot_id;
    use super::*;
    use crate::digest::DiffId;
    use crate::oci::{Descriptor, media_type};
    use std::io::Write as _;

    pub(super) fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&dir.path().join("store")).expect("a new store");
        (dir, store)
    }

    #[test]
    fn wrong_bytes_never_become_a_blob() {
        let (_dir, store) = store();
        let descriptor = Descriptor::of(media_type::OCI_LAYER, b"right");
        for bytes in [&b"wrong"[..], b"short", b"far too long", b"rig"] {
            let mut writer = store.blob_writer(Some(&descriptor)).expect("a writer");
            let result = writer.write_all(bytes).context(|| "write").and_then(|()| writer.commit().map(drop));
            if bytes != b"right" {
                assert_eq!(result.expect_err("refused").kind(), Kind::Corrupt);
            }
        }
        assert!(!store.has_blob(&descriptor.digest));
        assert_eq!(store.put_blob(b"right").expect("stored"), descriptor.digest);
        assert_eq!(fs::read_dir(store.root().join("tmp")).expect("tmp").count(), 0, "nothing is left");
    }

    #[test]
    fn what_a_power_cut_may_have_torn_is_thrown_away() {
        let (_dir, store) = store();
        let torn = store.put_blob(b"torn").expect("stored");
        fs::write(store.blob_path(&torn), "\0\0\0\0").expect("written");
        let whole = store.put_blob(b"whole").expect("stored");
        let layer = store.layers_dir().join("layer");
        fs::create_dir_all(store.root().join("tmp/layer/fs")).expect("folders");
        let mark = Unsynced::Layer("layer".to_owned());
        store.publish(&store.root().join("tmp/layer"), &layer, &mark).expect("published");
        let marks = store.root().join("unsynced");
        fs::rename(marks.join(boot_id().expect("id")), marks.join("an-earlier-boot")).expect("renamed");
        assert!(layer.exists());
        let store = Store::open(store.root()).expect("reopened");
        assert!(!store.has_blob(&torn) && store.has_blob(&whole) && !layer.exists());
        assert!(!marks.join("an-earlier-boot").exists());

        let kept = store.put_blob(b"kept").expect("stored");
        let name = "localhost/x:1".parse().expect("a name");
        store.tag(&name, &Descriptor::new(media_type::OCI_MANIFEST, kept, 4)).expect("tagged");
        let boot = marks.join(boot_id().expect("id"));
        assert_eq!(fs::read_dir(boot).expect("marks").count(), 0, "a ref syncs what it names");
    }

    #[test]
    fn a_torn_beginning_is_begun_again() {
        let (_dir, store) = store();
        fs::write(store.root().join("layerfs-format"), "").expect("written");
        fs::write(store.root().join("oci-layout"), "").expect("written");
        fs::write(store.root().join("index.json"), "").expect("written");
        let store = Store::open(store.root()).expect("reopened");
        let read = |name: &str| fs::read_to_string(store.root().join(name)).expect("read");
        assert_eq!((read("layerfs-format").as_str(), read("oci-layout").as_str()), ("1\n", format::OCI_LAYOUT));
        assert!(read("index.json").contains("schemaVersion"));
    }

    #[test]
    fn a_blob_of_another_size_is_replaced_and_one_that_is_there_stays() {
        let (_dir, store) = store();
        let digest = store.put_blob(b"content").expect("stored");
        let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(store.blob_path(&digest)).expect("there"));
        let first = inode();
        let mut second = store.blob_writer(None).expect("a writer");
        second.write_all(b"content").expect("written");
        second.commit().expect("stored");
        assert_eq!(inode(), first, "it may be synced where the new one is not");
        fs::write(store.blob_path(&digest), "cont").expect("written");
        store.put_blob(b"content").expect("stored");
        assert_eq!(store.blob_size(&digest), Some(7));
    }

    #[test]
    fn gc_leaves_no_lock_and_no_mark_behind() {
        let (_dir, store) = store();
        let digest = store.put_blob(b"stray").expect("stored");
        drop(store.lock_blob(&digest).expect("a lock"));
        store.gc().expect("collected");
        let count = |name: &str| fs::read_dir(store.root().join(name)).expect("a folder").count();
        assert_eq!((count("locks"), count("tmp")), (0, 0));
        assert_eq!(count(&format!("unsynced/{}", boot_id().expect("id"))), 0);
        assert!(store.gc_unless_queued().expect("collected").is_some());
        let queue = temp::lock(&store.root().join("gc-queue.lock"), FlockOperation::LockExclusive).expect("a lock");
        assert!(store.gc_unless_queued().expect("left to the other").is_none());
        drop(queue);
    }

    #[test]
    fn gc_ends_where_it_cannot_read_what_would_keep_a_layer() {
        let (_dir, store) = store();
        let stray = store.put_blob(b"stray").expect("stored");
        // A folder under a record's name: reading it fails, which says nothing about what the record keeps.
        fs::create_dir_all(store.containers_dir().join("one/config.json")).expect("folders");
        assert_eq!(store.gc().expect_err("refused").kind(), Kind::System);
        assert!(store.has_blob(&stray));
    }

    #[test]
    fn a_dead_owner_is_swept_and_a_living_one_is_not() {
        let (_dir, store) = store();
        let living = store.new_temp_dir().expect("a folder");
        let dead = store.root().join("tmp/999999999-0-0");
        fs::create_dir_all(dead.join("deep")).expect("folders");
        let again = Store::open(store.root()).expect("reopened");
        assert!(living.path().exists() && !dead.exists());
        drop(again);
    }

    #[test]
    fn a_later_format_is_refused_by_name() {
        let (_dir, store) = store();
        fs::write(store.root().join("layerfs-format"), "2\n").expect("written");
        assert_eq!(Store::open(store.root()).expect_err("refused").kind(), Kind::Unsupported);
    }

    #[test]
    fn gc_keeps_what_is_named_and_nothing_else() {
        let (_dir, store) = store();
        let layer = store.put_blob(b"layer").expect("stored");
        let mut config = crate::oci::ImageConfig::scratch(&crate::oci::Platform::host());
        config.push_layer(Some(DiffId(layer)), serde_json::Map::new());
        let (config_descriptor, bytes) = config.to_blob();
        store.put_blob(&bytes).expect("stored");
        let manifest =
            crate::oci::Manifest::new(config_descriptor, vec![Descriptor::new(media_type::OCI_LAYER, layer, 5)]);
        let digest = store.put_blob(&manifest.to_bytes()).expect("stored");
        let descriptor = Descriptor::new(media_type::OCI_MANIFEST, digest, manifest.to_bytes().len() as u64);
        let name = "localhost/x:1".parse().expect("a name");
        store.tag(&name, &descriptor).expect("tagged");
        let stray = store.put_blob(b"stray").expect("stored");
        let reclaimed = store.gc().expect("collected");
        assert_eq!((reclaimed.blobs, reclaimed.bytes), (1, 5));
        assert!(!store.has_blob(&stray) && store.has_blob(&layer));
        assert!(store.find("localhost/x:1").is_ok());
        assert!(store.untag(&name).expect("untagged"));
        assert_eq!(store.gc().expect("collected").blobs, 3);
    }
}
