//! From blobs to folders.

use std::fs::File;
use std::io::{self, BufRead, BufWriter, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{LayerMeta, Lowers, shim};
use crate::archive::{Applied, ApplyOptions, Limits, apply, decompress};
use crate::digest::{Algorithm, ChainId, DiffId, Digest, Hashed};
use crate::error::{Context, Error, Kind, Result};
use crate::oci::Descriptor;
use crate::store::{BlobWriter, Image, Store, TempDir};

/// Bytes handed from the decompressing thread to the writing one at a time, and how many such pieces may be on the
/// way: together the memory that one layer in flight takes.
const PIECE: usize = 1 << 20;
const PIECES: usize = 6;

/// Unpacks what of an image is not unpacked yet, all layers at once, and gives the stack to mount.
///
/// # Errors
/// A blob is missing or damaged, a layer is malformed, or the store cannot be written.
pub fn unpack_image(store: &Store, image: &Image, limits: &Limits) -> Result<Lowers> {
    let layers: Vec<(Descriptor, DiffId)> = image.layers().map(|(d, id)| (d.clone(), id)).collect();
    unpack_chain(store, &layers, limits)
}

/// The same for a chain of layers, lowest first, with the blob each can be had from.
///
/// # Errors
/// Those of [`unpack_image`].
pub fn unpack_chain(store: &Store, layers: &[(Descriptor, DiffId)], limits: &Limits) -> Result<Lowers> {
    let mut missing = Vec::new();
    for (descriptor, diff_id) in layers {
        if !store.has_layer(*diff_id)? && !missing.iter().any(|(_, other)| other == diff_id) {
            missing.push((descriptor.clone(), *diff_id));
        }
    }
    unpack_all(store, &missing, limits)?;
    let mut lowers = Lowers::default();
    let mut chain = None;
    for (_, diff_id) in layers {
        let chain_id = ChainId::on(chain, *diff_id);
        let meta = store.layer_meta(*diff_id)?.unwrap_or_default();
        let files = store.layer_files(*diff_id)?;
        let shim = match meta.needs_shim() {
            true => shim::make(store, &lowers.dirs, chain_id, &files, &meta)
                .context(|| format!("put layer {diff_id} on those below it"))?,
            false => None,
        };
        if meta.root {
            lowers.root = Some(files.clone());
        }
        lowers.dirs.push(files);
        lowers.dirs.extend(shim);
        chain = Some(chain_id);
    }
    Ok(lowers)
}

/// A few at a time, on threads that are gone afterwards: a program that is about to clone must have one only.
fn unpack_all(store: &Store, missing: &[(Descriptor, DiffId)], limits: &Limits) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(missing.len());
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((descriptor, diff_id)) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = unpack_stored(store, descriptor, *diff_id, limits) {
                        next.store(missing.len(), Ordering::Relaxed);
                        failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
                    }
                }
            });
        }
    });
    failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).map_or(Ok(()), Err)
}

fn unpack_stored(store: &Store, descriptor: &Descriptor, diff_id: DiffId, limits: &Limits) -> Result<()> {
    let _lock = store.lock_name(&format!("layer-{}", diff_id.0.hex()))?;
    if store.has_layer(diff_id)? {
        return Ok(());
    }
    let digest = descriptor.digest;
    let blob = store.open_blob(&digest)?;
    let size = blob.metadata().context(|| format!("look at blob {digest}"))?.len();
    if size != descriptor.size {
        let sentence = format!("layer {digest} has {size} bytes, the image's manifest says {}", descriptor.size);
        return Err(Error::new(Kind::Corrupt, sentence));
    }
    unpack(store, descriptor, diff_id, blob, limits).context(|| format!("unpack layer {}", descriptor.digest))
}

/// Stores and unpacks a layer in one pass while `reader` gives its compressed bytes: the blob is written and hashed,
/// decompressed, hashed again and laid down, with nothing read twice. A blob that is here already is not read again.
///
/// # Errors
/// The bytes differ from the descriptor or the diff ID, the layer is malformed, or the store cannot be written. Then
/// neither blob nor layer becomes visible.
pub fn stream_layer(
    store: &Store,
    descriptor: &Descriptor,
    diff_id: DiffId,
    reader: impl Read + Send,
    limits: &Limits,
) -> Result<()> {
    let blob = BufWriter::with_capacity(PIECE, store.blob_writer(Some(descriptor))?.not_read_soon());
    let keep = Mutex::new(Some(blob));
    let tee = Tee { reader, blob: &keep };
    if store.has_layer(diff_id)? {
        io::copy(&mut { tee }, &mut io::sink()).context(|| format!("fetch layer {}", descriptor.digest))?;
    } else {
        unpack(store, descriptor, diff_id, tee, limits).context(|| format!("fetch layer {}", descriptor.digest))?;
    }
    let blob = keep.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let blob = blob.expect("nobody takes it out").into_inner().map_err(io::IntoInnerError::into_error);
    blob.context(|| format!("write layer {}", descriptor.digest))?.commit().map(drop)
}

/// Writes what is read through it to a blob as well.
struct Tee<'a, 's, R> {
    reader: R,
    blob: &'a Mutex<Option<BufWriter<BlobWriter<'s>>>>,
}

impl<R: Read> Read for Tee<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buffer)?;
        let mut blob = self.blob.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(blob) = blob.as_mut() {
            blob.write_all(&buffer[..n])?;
        }
        Ok(n)
    }
}

fn unpack(
    store: &Store,
    descriptor: &Descriptor,
    diff_id: DiffId,
    packed: impl Read + Send,
    limits: &Limits,
) -> Result<()> {
    let fresh = unpack_beside(store, descriptor, diff_id, packed, limits)?;
    store.publish_layer(&fresh.dir, store.layer_key(diff_id)?, &fresh.meta)?;
    Ok(())
}

/// Unpacks a layer where nobody sees it.
pub(super) fn unpack_beside(
    store: &Store,
    descriptor: &Descriptor,
    diff_id: DiffId,
    packed: impl Read + Send,
    limits: &Limits,
) -> Result<Fresh> {
    let (dir, files) = store.new_layer_dir()?;
    let root = File::open(&files).at("open", &files)?;
    let single_id = store.owners().is_none() && store.mapping()?.is_single();
    let limits = limits.clone().for_blob(descriptor.size);
    let options = ApplyOptions { limits, single_id, owners: store.owners().cloned() };
    let (applied, found) = pipeline(packed, |plain| apply(plain, root.as_fd(), &options))?;
    if found != diff_id.0 {
        return Err(Error::new(
            Kind::Corrupt,
            format!("the layer's content is {found}, the image's config says {diff_id}"),
        )
        .hint("the image is damaged or was tampered with; nothing was stored"));
    }
    Ok(Fresh { dir, files, meta: LayerMeta::of(&applied) })
}

/// A layer that was unpacked but not published.
pub(super) struct Fresh {
    pub(super) dir: TempDir,
    pub(super) files: PathBuf,
    pub(super) meta: LayerMeta,
}

/// Decompresses on this thread while `consume` works on another; the digest is that of the uncompressed bytes.
fn pipeline(
    packed: impl Read + Send,
    consume: impl FnOnce(PieceReader) -> Result<Applied> + Send,
) -> Result<(Applied, Digest)> {
    let (full_sender, full) = bounded::<Vec<u8>>(PIECES);
    let (empty_sender, empty) = bounded::<Vec<u8>>(PIECES);
    std::thread::scope(|scope| {
        let consumer = scope.spawn(move || {
            let reader = PieceReader { full, empty: empty_sender, piece: Vec::new(), at: 0 };
            consume(reader)
        });
        let produced = produce(packed, full_sender, &empty);
        let consumed = consumer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // A reader that was cut off fails too, with less to say than the one that cut it.
        let digest = match (produced, &consumed) {
            (Ok(digest), _) => Ok(digest),
            (Err(Stop::Source(error)), _) => Err(error),
            (Err(Stop::Consumer), Err(_)) => return Err(consumed.expect_err("it is one")),
            (Err(Stop::Consumer), Ok(_)) => Err(Error::new(Kind::Invalid, "the layer goes on after its end")),
        }?;
        Ok((consumed?, digest))
    })
}

enum Stop {
    Source(Error),
    Consumer,
}

fn produce(
    mut packed: impl Read + Send,
    full: Sender<Vec<u8>>,
    empty: &Receiver<Vec<u8>>,
) -> std::result::Result<Digest, Stop> {
    let plain = decompress(&mut packed).map_err(Stop::Source)?;
    let mut plain = Hashed::new(plain, Algorithm::Sha256);
    loop {
        let mut piece = empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE));
        piece.resize(PIECE, 0);
        let mut filled = 0;
        while filled < PIECE {
            match plain.read(&mut piece[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Stop::Source(decode_error(error))),
            }
        }
        if filled == 0 {
            break;
        }
        piece.truncate(filled);
        full.send(piece).map_err(|_| Stop::Consumer)?;
    }
    drop(full);
    let (_, digest, _) = plain.finish();
    io::copy(&mut packed, &mut io::sink()).context(|| "read the layer's end").map_err(Stop::Source)?;
    Ok(digest)
}

/// A decoder's complaint about the bytes is corruption; an error of ours that came through it stays what it is.
fn decode_error(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(own) => own,
        Err(io) if io.raw_os_error().is_some() => Err::<(), _>(io).context(|| "read the layer").expect_err("it is one"),
        Err(io) => Error::new(Kind::Corrupt, "the layer cannot be decompressed").because(io),
    }
}

/// The other end of the pipeline.
struct PieceReader {
    full: Receiver<Vec<u8>>,
    empty: Sender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for PieceReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.piece.len()
            && let Ok(next) = self.full.recv()
        {
            let used = std::mem::replace(&mut self.piece, next);
            self.at = 0;
            let _ = self.empty.try_send(used);
        }
        Ok(&self.piece[self.at..])
    }

    fn consume(&mut self, size: usize) {
        self.at += size;
    }
}
