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
pub mod format;
mod gc;
mod image;
mod refs;
mod temp;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::FlockOperation;

pub use blob::{BlobLock, BlobWriter, layout_blob_path};
pub use gc::Reclaimed;
pub use image::{Found, Image};
pub use temp::TempDir;

use crate::digest::Digest;
use crate::error::{Context, Error, Kind, Result};
use crate::userns::Mapping;

/// One store. Shared by reference between threads; several processes use one folder at once.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    mapping: OnceLock<Mapping>,
}

/// While it is held, `gc` removes nothing.
#[derive(Debug)]
pub struct Pin(#[expect(dead_code, reason = "held for its lock")] OwnedFd);

/// An object to be marked until a sync.
pub(crate) enum Unsynced {
    /// A blob.
    Blob(Digest),
    /// A layer or shim, by its folder's name.
    Layer(String),
}

impl Unsynced {
    fn name(&self) -> String {
        match self {
            Self::Blob(digest) => format!("blob.{}.{}", digest.algorithm().name(), digest.hex()),
            Self::Layer(key) => format!("layer.{key}"),
        }
    }

    /// Where the object that `name` marks lies below the store's root.
    fn place(name: &str) -> Option<PathBuf> {
        match name.split_once('.')? {
            ("blob", rest) => Some(Path::new("blobs").join(rest.replacen('.', "/", 1))),
            ("layer", key) => Some(Path::new("layers").join(key)),
            _ => None,
        }
    }
}

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
        let store = Self { root, mapping: OnceLock::new() };
        let version = store.root.join("layerfs-format");
        match fs::read_to_string(&version) {
            Ok(text) if text.trim().parse() == Ok(format::VERSION) => {}
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
        temp::sweep(&store.root.join("tmp"))?;
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
        if !self.root.join("index.json").exists() {
            self.publish_index()?;
        }
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

    /// A folder of this process's own under `tmp/`.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn new_temp_dir(&self) -> Result<TempDir> {
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

    /// Renames an object that is complete to its name, marked as unsynced first. An object that is there already
    /// stays: it is the same.
    pub(crate) fn publish(&self, from: &Path, to: &Path, mark: &Unsynced) -> Result<()> {
        if to.exists() {
            return Ok(());
        }
        let marks = self.root.join("unsynced").join(boot_id()?);
        let file = marks.join(mark.name());
        if let Err(error) = fs::File::create(&file) {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error).at("create", &file);
            }
            fs::create_dir_all(&marks).at("create", &marks)?;
            fs::File::create(&file).at("create", &file)?;
        }
        let renamed = fs::rename(from, to).or_else(|error| {
            if error.kind() == io::ErrorKind::NotFound && from.exists() {
                to.parent().map_or(Ok(()), fs::create_dir_all)?;
                return fs::rename(from, to);
            }
            Err(error)
        });
        match renamed {
            Err(_) if to.exists() => Ok(()),
            result => result.at("store", to),
        }
    }

    /// Syncs the file system and clears the marks of what was complete before.
    pub(crate) fn sync(&self) -> Result<()> {
        let marks = self.root.join("unsynced").join(boot_id()?);
        let mut synced = Vec::new();
        for entry in fs::read_dir(&marks).into_iter().flatten().filter_map(std::result::Result::ok) {
            let name = entry.file_name();
            // A mark without its object belongs to a rename still to come, which this sync does not cover.
            if Unsynced::place(&name.to_string_lossy()).is_some_and(|place| self.root.join(place).exists()) {
                synced.push(entry.path());
            }
        }
        let root = crate::sys::fs::open_dir(&self.root).at("open", &self.root)?;
        let readable = rustix::fs::openat(root.as_fd(), ".", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty())
            .at("open", &self.root)?;
        crate::sys::fs::sync_file_system(readable.as_fd()).at("sync", &self.root)?;
        for mark in synced {
            let _ = fs::remove_file(mark);
        }
        Ok(())
    }

    /// Throws away what an earlier boot left unsynced.
    fn distrust_other_boots(&self) -> Result<()> {
        let dir = self.root.join("unsynced");
        let boot = boot_id()?;
        for entry in fs::read_dir(&dir).at("read", &dir)?.filter_map(std::result::Result::ok) {
            if entry.file_name().to_string_lossy() == boot {
                continue;
            }
            for mark in fs::read_dir(entry.path()).into_iter().flatten().filter_map(std::result::Result::ok) {
                if let Some(place) = Unsynced::place(&mark.file_name().to_string_lossy()) {
                    self.discard(&self.root.join(place))?;
                }
            }
            let _ = fs::remove_dir_all(entry.path());
        }
        Ok(())
    }

    /// Removes an object at once from view, then from the disk.
    pub(crate) fn discard(&self, path: &Path) -> Result<()> {
        let dir = self.new_temp_dir()?;
        match fs::rename(path, dir.path().join("gone")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("remove", path),
            _ => Ok(()),
        }
    }
}

/// Names this boot of the machine.
fn boot_id() -> Result<String> {
    static ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = ID.get() {
        return Ok(id.clone());
    }
    let path = "/proc/sys/kernel/random/boot_id";
    let id = fs::read_to_string(path).at("read", path)?.trim().to_owned();
    Ok(ID.get_or_init(|| id).clone())
}

#[cfg(test)]
mod tests {
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
        let marks = store.root().join("unsynced");
        fs::rename(marks.join(boot_id().expect("id")), marks.join("an-earlier-boot")).expect("renamed");
        let store = Store::open(store.root()).expect("reopened");
        assert!(!store.has_blob(&torn));

        let kept = store.put_blob(b"kept").expect("stored");
        let name = "localhost/x:1".parse().expect("a name");
        store.tag(&name, &Descriptor::new(media_type::OCI_MANIFEST, kept, 4)).expect("tagged");
        let boot = marks.join(boot_id().expect("id"));
        assert_eq!(fs::read_dir(boot).expect("marks").count(), 0, "a ref syncs what it names");
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
