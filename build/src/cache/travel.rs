//! Cache mounts that travel: what `RUN --mount=type=cache` left on one machine, another begins with.
//!
//! A mount's folder is one archive, cut into pieces where its content says (a rolling hash, so that what is put in or taken
//! out moves no cut elsewhere), each compressed by itself: a blob of its own. The manifest that lists them lies under
//! `TAG-mount-HASH`, the hash being that of the mount's id. So of a cache that grew by a little only a little is sent, and it
//! is fetched when a step first uses the mount and there is none yet, or never.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use copy::Opened;
use layerfs::archive::{ApplyOptions, Compression, Compressor, DiffOptions, apply, decompress, diff};
use layerfs::digest::Digest;
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::{Descriptor, ImageConfig, Manifest, Platform, media_type};
use layerfs::store::Store;
use rustix::fs::{FlockOperation, flock};
use serde_json::json;

use super::shared::{CachePlace, CacheTo, DOCUMENT_KEY, send};

/// A piece of an archive.
const PIECE: &str = "application/vnd.layerfs.piece.v1+zstd";
/// How pieces are compressed: always alike, or no piece would be found again.
const COMPRESSION: Compression = Compression::Zstd { level: 3 };
/// Bytes of a piece: the fewest, and the most.
const SIZES: (usize, usize) = (256 << 10, 4 << 20);
/// A piece ends where these bits of the rolling hash are zero: after a MiB on average.
const MASK: u64 = ((1 << 20) - 1) << 24;

/// Which cache mounts are written to a cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mounts {
    /// None.
    #[default]
    None,
    /// Those of these ids.
    Named(Vec<String>),
    /// All that the build used.
    All,
}

impl Mounts {
    fn include(&self, id: &str) -> bool {
        match self {
            Self::None => false,
            Self::Named(ids) => ids.iter().any(|known| known == id),
            Self::All => true,
        }
    }
}

/// What a mount is called in a cache, after the cache's own name.
pub(super) fn label(id: &str) -> String {
    format!("mount-{}", &Digest::of(id.as_bytes()).hex()[..32])
}

/// Writes the mounts that `to` wants, each an id and its folder; one that a step uses at this moment is left out.
///
/// # Errors
/// One could not be written.
pub(crate) fn export(
    store: &Store,
    to: &CacheTo,
    used: &[(String, PathBuf)],
    options: &copy::Options,
    note: &dyn Fn(String),
) -> Result<()> {
    for (id, folder) in used.iter().filter(|(id, _)| to.mounts.include(id)) {
        let Some(location) = to.place.labelled(&label(id))? else { continue };
        let lock = File::open(folder.join("lock")).at("open", folder.join("lock"))?;
        if flock(&lock, FlockOperation::NonBlockingLockShared).is_err() {
            note(format!("the cache mount `{id}` is in use and was left out"));
            continue;
        }
        let manifest = pack(store, id, &folder.join("data")).context(|| format!("write the cache mount `{id}`"))?;
        send(store, &manifest, &location, options)?;
        note(format!("cache mount {id}"));
    }
    Ok(())
}

/// Puts a folder into the store as pieces; gives the manifest that lists them.
fn pack(store: &Store, id: &str, folder: &Path) -> Result<Descriptor> {
    // Programs compare the times of what they keep to the nanosecond.
    let options = DiffOptions { exact_times: true, ..DiffOptions::default() };
    let (cutter, _) = diff(folder, Cutter::new(store), &options)?;
    let mut config = ImageConfig::scratch(&Platform::host());
    config.document_mut().insert(DOCUMENT_KEY.to_owned(), json!({"mount": id}));
    let (descriptor, bytes) = config.to_blob();
    store.put_blob(&bytes)?;
    let bytes = Manifest::new(descriptor, cutter.finish()?).to_bytes();
    store.put_blob(&bytes)?;
    Ok(Descriptor::of(media_type::OCI_MANIFEST, &bytes))
}

/// Lays down in `folder` what a cache has of a mount.
///
/// # Errors
/// It is damaged, or the folder cannot be written.
pub(super) fn unpack(store: &Store, image: &Opened, id: &str, folder: &Path) -> Result<()> {
    let config: serde_json::Value = serde_json::from_slice(image.config()).unwrap_or_default();
    if config[DOCUMENT_KEY]["mount"] != id {
        return Err(Error::new(Kind::Corrupt, format!("what a cache has for the mount `{id}` is something else")));
    }
    let pieces = Pieces { image, left: image.manifest().layers.iter(), open: None };
    let root = File::open(folder).at("open", folder)?;
    let single_id = store.mapping()?.is_single();
    let options = ApplyOptions { single_id, ..ApplyOptions::default() };
    apply(BufReader::with_capacity(1 << 20, pieces), root.as_fd(), &options).map(drop)
}

/// The archive that pieces make, one after the other.
struct Pieces<'a> {
    image: &'a Opened,
    left: std::slice::Iter<'a, Descriptor>,
    open: Option<Box<dyn io::BufRead + Send + 'a>>,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(open) = &mut self.open {
                match open.read(buffer)? {
                    0 if !buffer.is_empty() => self.open = None,
                    read => return Ok(read),
                }
            }
            let Some(next) = self.left.next() else { return Ok(0) };
            self.open = Some(decompress(self.image.blob(next)?)?);
        }
    }
}

/// Cuts what is written to it into pieces.
struct Cutter<'a> {
    store: &'a Store,
    gear: Vec<u64>,
    hash: u64,
    piece: Vec<u8>,
    pieces: Vec<Descriptor>,
}

impl<'a> Cutter<'a> {
    fn new(store: &'a Store) -> Self {
        Self { store, gear: gear(), hash: 0, piece: Vec::with_capacity(SIZES.1), pieces: Vec::new() }
    }

    fn cut(&mut self) -> Result<()> {
        let mut compressor = Compressor::new(Vec::new(), COMPRESSION)?;
        compressor.write_all(&self.piece).context(|| "compress a piece")?;
        let bytes = compressor.finish()?;
        self.store.put_blob(&bytes)?;
        self.pieces.push(Descriptor::of(PIECE, &bytes));
        self.piece.clear();
        self.hash = 0;
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Descriptor>> {
        if !self.piece.is_empty() {
            self.cut()?;
        }
        Ok(self.pieces)
    }
}

impl Write for Cutter<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        for (at, byte) in buffer.iter().enumerate() {
            self.hash = (self.hash << 1).wrapping_add(self.gear[usize::from(*byte)]);
            let length = self.piece.len() + at + 1;
            if (length >= SIZES.0 && self.hash & MASK == 0) || length == SIZES.1 {
                self.piece.extend_from_slice(&buffer[..=at]);
                self.cut().map_err(io::Error::from)?;
                return Ok(at + 1);
            }
        }
        self.piece.extend_from_slice(buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A number for every byte, at random but the same for ever (SplitMix64).
fn gear() -> Vec<u64> {
    let mut state = 0_u64;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    (0..256).map(|_| next()).collect()
}

impl CachePlace {
    /// Whether it holds mounts: what lies in an image alone cannot.
    pub fn holds_mounts(&self) -> bool {
        !matches!(self, Self::Inline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn a_change_in_the_middle_changes_few_pieces() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(&dir.path().join("store")).expect("a store");
        let cut = |bytes: &[u8]| {
            let mut cutter = Cutter::new(&store);
            // However it is written, the pieces are the same.
            for part in bytes.chunks(77_777) {
                cutter.write_all(part).expect("written");
            }
            cutter.finish().expect("cut").iter().map(|piece| piece.digest).collect::<Vec<_>>()
        };
        let bytes = noise(12 << 20, 7);
        let first = cut(&bytes);
        assert!((4..40).contains(&first.len()), "{} pieces", first.len());
        let mut more = bytes.clone();
        more.splice(5_000_000..5_000_000, noise(1000, 9));
        let second = cut(&more);
        let new = second.iter().filter(|piece| !first.contains(piece)).count();
        assert!((1..=2).contains(&new), "{new} of {} pieces are new", second.len());
    }
}
