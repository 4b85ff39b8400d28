//! The places images lie in, behind two small interfaces: a [`Source`] gives documents and blobs out, a [`Sink`]
//! takes them in.
//!
//! Neither is trusted or trusts: whoever moves a blob checks it on the way (see [`crate::stream::Verified`]), so a
//! sink may commit what it was given to the end.

pub(crate) mod containers_storage;
pub(crate) mod directory;
pub(crate) mod docker_archive;
pub(crate) mod docker_daemon;
pub(crate) mod layout;
pub(crate) mod layout_archive;
pub(crate) mod registry;
pub(crate) mod store;
pub(crate) mod tar_file;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use layerfs::digest::Hasher;
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::{DOCUMENT_MAX, Descriptor};

use crate::inventory::Inventory;
use crate::stream::{Chunks, DAMAGED, Skip, Start};

pub(crate) use crate::registry::{Repository, Sent};

/// Where an image is read from.
pub(crate) trait Source: Sync {
    /// The manifest or index the location names, and its bytes.
    fn root(&self) -> Result<(Descriptor, Vec<u8>)>;

    /// A manifest, index or configuration. Not checked yet: see [`read_document`].
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>>;

    /// Begins to read a blob. Not checked yet.
    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Chunks>>;

    /// Begins to read a blob after its first `at` bytes.
    fn open_at(&self, blob: &Descriptor, at: u64) -> Result<Box<dyn Chunks>> {
        match at {
            0 => self.open(blob),
            at => Ok(Box::new(Skip::new(self.open(blob)?, at))),
        }
    }

    /// Registry and path, where the source is a repository.
    fn repository(&self) -> Option<(&str, &str)> {
        None
    }

    /// Whether a blob was made on the way and so is in no repository yet.
    fn is_made_here(&self, _blob: &Descriptor) -> bool {
        false
    }

    /// The repository itself, where the source is one.
    fn registry(&self) -> Option<&Repository> {
        None
    }
}

/// Where an image is written to.
pub(crate) trait Sink: Sync {
    /// Whether the place already has exactly this image under the wanted name: then there is nothing to do.
    fn is_current(&self, root: &Descriptor) -> Result<bool>;

    /// Hears what is coming before the first blob.
    fn prepare(&self, _inventory: &Inventory, _source: &dyn Source) -> Result<()> {
        Ok(())
    }

    /// Which of `blobs` are there.
    fn existing(&self, blobs: &[Descriptor]) -> Result<Vec<bool>>;

    /// Whether [`Sink::put_blob`] itself checks what it is given: then nobody needs to hash it before.
    fn verifies(&self) -> bool {
        false
    }

    /// Writes a blob, from the repository `from` of the same registry where that works, else from the checked stream
    /// that `open` begins. May be called again after a failure, and from several threads for different blobs.
    fn put_blob(&self, blob: &Descriptor, from: Option<&str>, open: Opener<'_>) -> Result<Sent>;

    /// Writes a manifest or index that is not the root.
    fn put_document(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<()>;

    /// Writes the root and gives it its name: the last step.
    fn finish(&self, root: &Descriptor, bytes: &[u8]) -> Result<()>;

    /// Registry and path, where the sink is a repository.
    fn repository(&self) -> Option<(&str, &str)> {
        None
    }
}

/// Begins the stream of a blob; can be called again when an attempt failed.
pub(crate) type Opener<'a> = &'a (dyn Fn(Start) -> Result<Box<dyn Chunks + 'a>> + 'a);

/// Reads a document from a source and checks it against its descriptor.
pub(crate) fn read_document(source: &dyn Source, descriptor: &Descriptor) -> Result<Vec<u8>> {
    if descriptor.size > DOCUMENT_MAX {
        let sentence =
            format!("document `{}` has {} bytes, more than {DOCUMENT_MAX}", descriptor.digest, descriptor.size);
        return Err(Error::new(Kind::Limit, sentence));
    }
    let bytes = source.document(descriptor)?;
    check_document(descriptor, &bytes)?;
    Ok(bytes)
}

fn check_document(descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
    let mut hasher = Hasher::new(descriptor.digest.algorithm());
    hasher.update(bytes);
    let found = hasher.finish();
    if (found, bytes.len() as u64) == (descriptor.digest, descriptor.size) {
        return Ok(());
    }
    let wrong = format!(
        "document `{}` is wrong: it has {} bytes with the digest `{found}` instead of {}",
        descriptor.digest,
        bytes.len(),
        descriptor.size
    );
    Err(Error::new(Kind::Corrupt, wrong).hint(DAMAGED))
}

/// Copies a stream into a file.
pub(crate) fn write_chunks(out: &mut impl Write, chunks: &mut dyn Chunks, name: impl Fn() -> String) -> Result<u64> {
    let mut size = 0;
    while let Some(chunk) = chunks.next_chunk()? {
        out.write_all(&chunk).context(|| format!("write {}", name()))?;
        size += chunk.len() as u64;
    }
    Ok(size)
}

/// A new file that has its name only once it is complete. Where the file system can, it has no name before, so that
/// even a killed process leaves nothing behind.
pub(crate) struct NewFile {
    /// The file, open for reading and writing.
    pub(crate) file: File,
    target: PathBuf,
    temporary: Option<PathBuf>,
}

impl NewFile {
    /// Begins the file that will be `target`, in whose folder it is made.
    pub(crate) fn create(target: &Path) -> Result<Self> {
        use rustix::fs::{Mode, OFlags};
        let dir = folder_of(target);
        let mode = Mode::from_raw_mode(0o644);
        match rustix::fs::open(dir, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode) {
            Ok(file) => Ok(Self { file: file.into(), target: target.to_owned(), temporary: None }),
            // Not every file system has files without a name.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {
                let path = temporary_name(target);
                let file = File::options().read(true).write(true).create_new(true).open(&path).at("create", &path)?;
                Ok(Self { file, target: target.to_owned(), temporary: Some(path) })
            }
            Err(error) => Err(error).context(|| format!("write to `{}`", dir.display())),
        }
    }

    /// Gives the file its name, in place of whatever had it.
    pub(crate) fn commit(mut self) -> Result<()> {
        use rustix::fs::{AtFlags, CWD, linkat};
        use std::os::fd::AsRawFd;
        let path = match self.temporary.take() {
            Some(path) => path,
            None => {
                let path = temporary_name(&self.target);
                let link = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                linkat(CWD, link.as_str(), CWD, &path, AtFlags::SYMLINK_FOLLOW).at("create", &path)?;
                path
            }
        };
        let renamed = std::fs::rename(&path, &self.target);
        if renamed.is_err() {
            let _ = std::fs::remove_file(&path);
        }
        renamed.at("write", &self.target)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(path) = &self.temporary {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The folder a path lies in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A name beside `target` that no other writer of this machine uses at the same time.
fn temporary_name(target: &Path) -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let unique = format!(".{name}.{}.{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    folder_of(target).join(unique)
}

/// Where scratch files lie, if not where the system has its temporary files.
static SCRATCH: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();

/// Has scratch files made in this folder from now on; the first call counts.
pub(crate) fn keep_scratch_in(dir: &Path) {
    SCRATCH.get_or_init(|| dir.to_owned());
}

/// Where scratch files and folders lie.
pub(crate) fn scratch_folder() -> PathBuf {
    SCRATCH.get().cloned().unwrap_or_else(std::env::temp_dir)
}

/// A file for what has to be kept for a moment: without a name, gone with its last user.
pub(crate) fn scratch_file() -> Result<File> {
    use rustix::fs::{Mode, OFlags};
    let dir = scratch_folder();
    match rustix::fs::open(&dir, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::from_raw_mode(0o600)) {
        Ok(file) => Ok(file.into()),
        Err(_) => {
            let path = temporary_name(&dir.join("layerfs-copy"));
            let file = File::options().read(true).write(true).create_new(true).open(&path).at("create", &path)?;
            std::fs::remove_file(&path).at("remove", &path)?;
            Ok(file)
        }
    }
}
