//! Blobs: bytes under their digest.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::temp::{TempDir, lock};
use super::{Store, Unsynced};
use crate::digest::{Algorithm, Digest, Hashed};
use crate::error::{Context, Error, Kind, Result};
use crate::oci::{DOCUMENT_MAX, Descriptor};
use crate::sys::fs::PassingFile;

impl Store {
    /// Where a blob lies.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm().name()).join(digest.hex())
    }

    /// Whether the blob is there.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_path(digest).exists()
    }

    /// The blob's size in bytes, where it is there.
    pub fn blob_size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.blob_path(digest)).ok().map(|metadata| metadata.len())
    }

    /// Opens a blob for reading.
    ///
    /// # Errors
    /// `NotFound` where the store does not have it.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        File::open(self.blob_path(digest)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Error::new(Kind::NotFound, format!("blob {digest} is not in the store")).hint("pull the image again")
            }
            _ => Error::new(Kind::System, format!("open blob {digest}")).because(error),
        })
    }

    /// Reads a manifest, index or configuration, checking its size and digest.
    ///
    /// # Errors
    /// It is missing, larger than [`DOCUMENT_MAX`], or differs from its descriptor.
    pub fn read_document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let digest = descriptor.digest;
        if descriptor.size > DOCUMENT_MAX {
            let size = descriptor.size;
            return Err(Error::new(
                Kind::Limit,
                format!("document {digest} has {size} bytes, more than {DOCUMENT_MAX}"),
            ));
        }
        let mut bytes = Vec::new();
        let file = self.open_blob(&digest)?;
        let mut reader = Hashed::new(file.take(DOCUMENT_MAX + 1), digest.algorithm());
        reader.read_to_end(&mut bytes).context(|| format!("read blob {digest}"))?;
        let (_, found, size) = reader.finish();
        if (found, size) != (digest, descriptor.size) {
            return Err(Error::new(
                Kind::Corrupt,
                format!("blob {digest} of {size} bytes in the store is not what its name says"),
            )
            .hint("remove the image and pull it again"));
        }
        Ok(bytes)
    }

    /// Stores bytes at once.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if self.blob_size(&digest) == Some(bytes.len() as u64) {
            return Ok(digest);
        }
        let mut writer = self.blob_writer(None)?;
        writer.write_all(bytes).context(|| format!("write blob {digest}"))?;
        Ok(writer.commit()?.0)
    }

    /// Begins a blob. With `expected`, [`BlobWriter::commit`] refuses other bytes, and so does the first write beyond
    /// the expected size.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn blob_writer(&self, expected: Option<&Descriptor>) -> Result<BlobWriter<'_>> {
        let dir = self.new_temp_dir()?;
        let path = dir.path().join("blob");
        let file = File::create_new(&path).at("create", &path)?;
        let algorithm = expected.map_or(Algorithm::Sha256, |expected| expected.digest.algorithm());
        let expected = expected.map(|expected| (expected.digest, expected.size));
        Ok(BlobWriter { store: self, file: Hashed::new(PassingFile::new(file), algorithm), path, expected, _dir: dir })
    }

    /// Waits until no other process is fetching this blob. The holder that comes second finds the blob there.
    ///
    /// # Errors
    /// The lock file cannot be made.
    pub fn lock_blob(&self, digest: &Digest) -> Result<BlobLock> {
        self.lock_name(&format!("blob-{}", digest.hex())).map(BlobLock)
    }

    pub(crate) fn lock_name(&self, name: &str) -> Result<OwnedFd> {
        lock(&self.root.join("locks").join(name), FlockOperation::LockExclusive)
    }
}

/// A lock on fetching one blob, held until dropped.
#[derive(Debug)]
pub struct BlobLock(#[expect(dead_code, reason = "held for its lock")] OwnedFd);

/// A blob being written. Dropped without [`BlobWriter::commit`], it leaves nothing behind.
#[derive(Debug)]
pub struct BlobWriter<'a> {
    store: &'a Store,
    file: Hashed<PassingFile<File>>,
    path: PathBuf,
    expected: Option<(Digest, u64)>,
    _dir: TempDir,
}

impl BlobWriter<'_> {
    /// Says that nobody will read this blob soon, so that its bytes need not stay in memory.
    #[must_use]
    pub fn not_read_soon(mut self) -> Self {
        self.file.get_mut().not_read_soon();
        self
    }

    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.file.size()
    }

    /// Makes the blob visible under its digest.
    ///
    /// # Errors
    /// `Corrupt` where the bytes are not the expected ones.
    pub fn commit(self) -> Result<(Digest, u64)> {
        let (file, digest, size) = self.file.finish();
        if let Some((wanted, wanted_size)) = self.expected
            && (digest, size) != (wanted, wanted_size)
        {
            let what = if size == wanted_size {
                format!("blob {wanted} arrived with the digest {digest}")
            } else {
                format!("blob {wanted} arrived with {size} bytes instead of {wanted_size}")
            };
            return Err(
                Error::new(Kind::Corrupt, what).hint("the source is damaged or was tampered with; nothing was stored")
            );
        }
        file.finish(size).at("write", &self.path)?;
        self.store.publish(&self.path, &self.store.blob_path(&digest), &Unsynced::Blob(digest))?;
        Ok((digest, size))
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if let Some((digest, size)) = self.expected
            && self.file.size() + buffer.len() as u64 > size
        {
            let sentence = format!("blob {digest} has more than its {size} bytes");
            return Err(Error::new(Kind::Corrupt, sentence).into());
        }
        match self.file.write(buffer) {
            // Whoever writes on through an adapter does not know what it writes to.
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                Err(error).at("write", &self.path).map_err(io::Error::from)
            }
            result => result,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where a blob of another OCI image layout lies, for programs that read one beside the store.
pub fn layout_blob_path(layout: &Path, digest: &Digest) -> PathBuf {
    layout.join("blobs").join(digest.algorithm().name()).join(digest.hex())
}
