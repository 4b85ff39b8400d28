//! Digests of files that were read before, by inode and times.
//!
//! One file per context: 72-byte records sorted by device and inode, searched where they lie in memory. A record
//! counts only if size, modification time and change time are what they were; the change time cannot be set by a
//! program, so no edit escapes. A file that changed within the clock's granularity of being read is not recorded:
//! a second edit in the same tick would look the same.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use layerfs::digest::{Algorithm, Digest, Hasher};
use layerfs::error::{Context, Error, Kind, Result};

/// Content's digest, as in a record.
pub(crate) type Hash = [u8; 32];

const RECORD: usize = 8 * 5 + 32;
const MAGIC: &[u8; 8] = b"layerfs1";
/// Coarser than the clock of any file system here (a kernel tick is at most 10 ms).
const GRANULARITY: Duration = Duration::from_millis(30);

/// The digests of one context's files.
#[derive(Debug)]
pub struct StatCache {
    path: PathBuf,
    /// The records as they were read, header cut off.
    known: Vec<u8>,
    added: Mutex<BTreeMap<(u64, u64), Record>>,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    size: u64,
    modified: u64,
    changed: u64,
    hash: Hash,
}

impl StatCache {
    /// The cache of the context at `root`, empty where there is none or it is damaged.
    pub fn open(cache_dir: &Path, root: &Path) -> Self {
        let name = Digest::of(root.as_os_str().as_encoded_bytes()).hex();
        let path = cache_dir.join("stat").join(&name[..32]);
        let bytes = fs::read(&path).unwrap_or_default();
        let known = bytes.strip_prefix(MAGIC).filter(|records| records.len() % RECORD == 0);
        Self { path, known: known.map(<[u8]>::to_vec).unwrap_or_default(), added: Mutex::default() }
    }

    /// The digest of the file's content, from the cache or by reading it.
    ///
    /// # Errors
    /// It cannot be read, or changes while it is.
    pub(crate) fn content(&self, path: &Path, metadata: &Metadata) -> Result<Hash> {
        let state = state(metadata);
        if let Some(record) = self.find(metadata.dev(), metadata.ino())
            && (record.size, record.modified, record.changed) == state
        {
            return Ok(record.hash);
        }
        let began = SystemTime::now();
        let (hash, after) = hash_file(path)?;
        if self::state(&after) != state {
            return Err(Error::new(Kind::Conflict, format!("`{}` changed while it was read", path.display()))
                .hint("build again when nothing writes to the context"));
        }
        let (size, modified, changed) = state;
        let settled = began.checked_sub(GRANULARITY).and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        if settled.is_some_and(|time| u128::from(changed) < time.as_nanos()) {
            let record = Record { size, modified, changed, hash };
            let mut added = self.added.lock().expect("no holder panics");
            added.insert((metadata.dev(), metadata.ino()), record);
        }
        Ok(hash)
    }

    fn find(&self, dev: u64, ino: u64) -> Option<Record> {
        let count = self.known.len() / RECORD;
        let number = |at: usize, field: usize| {
            let start = at * RECORD + field * 8;
            u64::from_le_bytes(self.known[start..start + 8].try_into().expect("eight bytes"))
        };
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low.midpoint(high);
            if (number(middle, 0), number(middle, 1)) < (dev, ino) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if low == count || (number(low, 0), number(low, 1)) != (dev, ino) {
            return None;
        }
        let hash = self.known[low * RECORD + 40..(low + 1) * RECORD].try_into().expect("thirty-two bytes");
        Some(Record { size: number(low, 2), modified: number(low, 3), changed: number(low, 4), hash })
    }

    /// Writes what was added. Losing it costs time, never correctness, so the caller may ignore an error.
    ///
    /// # Errors
    /// The cache folder cannot be written.
    pub fn save(&self) -> Result<()> {
        let added = std::mem::take(&mut *self.added.lock().expect("no holder panics"));
        if added.is_empty() {
            return Ok(());
        }
        let mut all = BTreeMap::new();
        for record in self.known.chunks_exact(RECORD) {
            let number =
                |field: usize| u64::from_le_bytes(record[field * 8..field * 8 + 8].try_into().expect("eight bytes"));
            let hash = record[40..].try_into().expect("thirty-two bytes");
            let value = Record { size: number(2), modified: number(3), changed: number(4), hash };
            all.insert((number(0), number(1)), value);
        }
        all.extend(added);
        let mut bytes = MAGIC.to_vec();
        for ((dev, ino), record) in &all {
            for number in [*dev, *ino, record.size, record.modified, record.changed] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            bytes.extend_from_slice(&record.hash);
        }
        let folder = self.path.parent().expect("the path was joined to a folder");
        fs::create_dir_all(folder).at("create", folder)?;
        let new = self.path.with_extension(format!("new-{}", std::process::id()));
        fs::write(&new, bytes).at("write", &new)?;
        fs::rename(&new, &self.path).at("write", &self.path)
    }
}

/// Size, modification time and change time: what is different once a file's content is.
pub(crate) fn state(metadata: &Metadata) -> (u64, u64, u64) {
    let time = |seconds: i64, nanos: i64| {
        seconds.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(nanos.cast_unsigned())
    };
    let modified = time(metadata.mtime(), metadata.mtime_nsec());
    (metadata.size(), modified, time(metadata.ctime(), metadata.ctime_nsec()))
}

/// The digest of a file's bytes, and its metadata after they were read.
pub(crate) fn hash_file(path: &Path) -> Result<(Hash, Metadata)> {
    let mut file = File::open(path).at("open", path)?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read(&mut buffer).at("read", path)? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    let after = file.metadata().at("look at", path)?;
    Ok((to_hash(&hasher.finish()), after))
}

pub(crate) fn to_hash(digest: &Digest) -> Hash {
    let hex = digest.hex();
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(hex.as_bytes().chunks(2)) {
        let text = std::str::from_utf8(pair).expect("hex is ASCII");
        *byte = u8::from_str_radix(text, 16).expect("a digest is hexadecimal");
    }
    hash
}
