//! What survives a power cut: marks on objects that no sync has covered yet, and the one sync before a name.
//!
//! The policy is stated in [`format`](super::format).

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{CWD, FlockOperation, RenameFlags};
use rustix::io::Errno;

use super::reach::list;
use super::{Store, temp};
use crate::digest::{Digest, Hashed};
use crate::error::{Context, Error, Kind, Result};

/// Added to a boot's name for layers whose sync failed: trusted while that boot lasts, and never synced again, because
/// the kernel forgets which pages it could not write.
const FAILED: &str = ".failed";

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

    fn parse(name: &str) -> Option<Self> {
        match name.split_once('.')? {
            ("blob", rest) => Some(Self::Blob(rest.replacen('.', ":", 1).parse().ok()?)),
            ("layer", key) => Some(Self::Layer(key.to_owned())),
            _ => None,
        }
    }

    /// Where the object lies.
    fn place(&self, store: &Store) -> PathBuf {
        match self {
            Self::Blob(digest) => store.blob_path(digest),
            Self::Layer(key) => store.layers_dir().join(key),
        }
    }
}

impl Store {
    /// Where this boot's marks lie.
    fn marks(&self) -> Result<PathBuf> {
        Ok(self.root.join("unsynced").join(boot_id()?))
    }

    /// Renames an object that is complete to its name, marked as unsynced first. An object that is there already
    /// stays: it is the same, and it may be synced where the new one is not.
    pub(crate) fn publish(&self, from: &Path, to: &Path, object: &Unsynced) -> Result<()> {
        if self.stays(from, to, object)? {
            return Ok(());
        }
        let marks = self.marks()?;
        let mark = marks.join(object.name());
        if let Err(error) = File::create(&mark) {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error).at("create", &mark);
            }
            fs::create_dir_all(&marks).at("create", &marks)?;
            File::create(&mark).at("create", &mark)?;
        }
        let renamed = rename_new(from, to).or_else(|error| match (error, to.parent()) {
            // The folder of a digest algorithm is made when it is first needed.
            (Errno::NOENT, Some(parent)) if from.exists() => {
                fs::create_dir_all(parent)?;
                Ok(rename_new(from, to)?)
            }
            _ => Err(io::Error::from(error)),
        });
        match renamed {
            Err(_) if to.exists() => Ok(()),
            result => result.at("store", to),
        }
    }

    /// Whether what lies at `to` can stay in place of `from`. A blob of another size is torn: it goes.
    fn stays(&self, from: &Path, to: &Path, object: &Unsynced) -> Result<bool> {
        let Ok(found) = fs::symlink_metadata(to) else { return Ok(false) };
        if matches!(object, Unsynced::Blob(_)) && found.len() != fs::symlink_metadata(from).at("look at", from)?.len() {
            self.discard(to)?;
            return Ok(false);
        }
        Ok(true)
    }

    /// The last step before a name is written: `name` is the file that will become it. Afterwards everything that was
    /// complete before is on the disk, by one `syncfs(2)`, and its marks are cleared. Where nothing is marked, the
    /// name's own file is all there is to sync.
    pub(crate) fn sync(&self, name: &File) -> Result<()> {
        let marks = self.marks()?;
        let mut covered = Vec::new();
        for mark in list(&marks)? {
            // A mark without its object belongs to a rename still to come, which this sync does not cover.
            if let Some(object) = parse(&mark).filter(|object| object.place(self).exists()) {
                covered.push((mark, object));
            }
        }
        if covered.is_empty() {
            return name.sync_data().at("sync the file system of", &self.root);
        }
        if let Err(error) = crate::sys::fs::sync_file_system(self.witness()?.as_fd()) {
            self.distrust_now(&marks, &covered);
            return Err(error).at("sync the file system of", &self.root);
        }
        for (mark, _) in covered {
            let _ = fs::remove_file(mark);
        }
        Ok(())
    }

    /// After a sync that failed: a second one would succeed without having written what was lost. Blobs go, so that
    /// whoever tries again writes them again; a layer may be mounted and stays for this boot.
    fn distrust_now(&self, marks: &Path, covered: &[(PathBuf, Unsynced)]) {
        let failed = PathBuf::from(format!("{}{FAILED}", marks.display()));
        // The error is on its way already, and a disk that fails may well fail here too.
        let _ = fs::create_dir_all(&failed);
        for (mark, object) in covered {
            let _ = match object {
                Unsynced::Blob(_) => self.discard(&object.place(self)),
                Unsynced::Layer(key) => {
                    fs::rename(mark, failed.join(Unsynced::Layer(key.clone()).name())).at("move", mark)
                }
            };
        }
    }

    /// Opened before this process writes anything: `syncfs(2)` tells of write errors since its descriptor was opened
    /// (Linux 5.8), and only once where they were told to somebody else before.
    pub(super) fn witness(&self) -> Result<&File> {
        if let Some(witness) = self.witness.get() {
            return Ok(witness);
        }
        let opened = File::open(&self.root).at("open", &self.root)?;
        Ok(self.witness.get_or_init(|| opened))
    }

    /// The first to open the store in a boot throws away what an earlier one may have left torn: layers that were not
    /// synced, and such blobs where their bytes are not what their name says.
    pub(super) fn distrust_other_boots(&self) -> Result<()> {
        let (dir, boot) = (self.root.join("unsynced"), boot_id()?);
        let earlier = || -> Result<Vec<PathBuf>> {
            let mut folders = list(&dir)?;
            folders.retain(|folder| !folder.file_name().is_some_and(|name| is_of(&name.to_string_lossy(), &boot)));
            Ok(folders)
        };
        let own = dir.join(&boot);
        let found = earlier()?;
        if found.is_empty() && own.exists() {
            return Ok(());
        }
        match self.settle(&dir, &own, &earlier) {
            // A store that can only be read, or a full disk, is no hindrance where nothing has to go.
            Err(_) if found.is_empty() => Ok(()),
            Err(error) if error.kind() == Kind::Denied || error.errno() == Some(libc::EROFS) => {
                Err(error
                    .hint("the machine went down while the store was written: open it once with the right to write"))
            }
            result => result,
        }
    }

    fn settle(&self, dir: &Path, own: &Path, earlier: &dyn Fn() -> Result<Vec<PathBuf>>) -> Result<()> {
        let _lock = temp::lock_dir(dir, FlockOperation::LockExclusive)?;
        // Whoever held the lock before may have done it all.
        for folder in earlier()? {
            for mark in list(&folder)? {
                if let Some(object) = parse(&mark)
                    && !self.is_whole(&object)?
                {
                    self.discard(&object.place(self))?;
                }
                fs::remove_file(&mark).at("remove", &mark)?;
            }
            fs::remove_dir(&folder).at("remove", &folder)?;
        }
        if !own.exists() {
            // What others read is not synced when it is written.
            self.publish_index()?;
            fs::create_dir_all(own).at("create", own)?;
        }
        Ok(())
    }

    /// Whether an object that was not synced is all there. Of a layer that cannot be told; it is made again from its
    /// blob.
    fn is_whole(&self, object: &Unsynced) -> Result<bool> {
        let Unsynced::Blob(digest) = object else { return Ok(false) };
        let path = object.place(self);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            result => result.at("open", &path)?,
        };
        let mut reader = Hashed::new(file, digest.algorithm());
        io::copy(&mut reader, &mut io::sink()).at("read", &path)?;
        let (_, found, _) = reader.finish();
        Ok(found == *digest)
    }

    /// Takes away the marks of objects that are gone. Only while nobody can be about to rename one into place.
    pub(super) fn sweep_marks(&self) -> Result<()> {
        for folder in list(&self.root.join("unsynced"))? {
            for mark in list(&folder)? {
                if !parse(&mark).is_some_and(|object| object.place(self).exists()) {
                    fs::remove_file(&mark).at("remove", &mark)?;
                }
            }
            if folder.extension().is_some() {
                // Only one of a sync that failed has one; it goes with its last mark.
                let _ = fs::remove_dir(&folder);
            }
        }
        Ok(())
    }
}

fn parse(mark: &Path) -> Option<Unsynced> {
    Unsynced::parse(&mark.file_name()?.to_string_lossy())
}

fn is_of(folder: &str, boot: &str) -> bool {
    folder.strip_suffix(FAILED).unwrap_or(folder) == boot
}

/// Renames to a name that nothing has; file systems that cannot say so just rename.
fn rename_new(from: &Path, to: &Path) -> std::result::Result<(), Errno> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => rustix::fs::renameat(CWD, from, CWD, to),
        result => result,
    }
}

/// Names this boot of the machine.
pub(super) fn boot_id() -> Result<String> {
    static ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = ID.get() {
        return Ok(id.clone());
    }
    let path = "/proc/sys/kernel/random/boot_id";
    let id = fs::read_to_string(path).at("read", path)?.trim().to_owned();
    if id.is_empty() || id.contains(['/', '.']) {
        return Err(Error::new(Kind::Unsupported, format!("`{path}` holds no boot id")));
    }
    Ok(ID.get_or_init(|| id).clone())
}
