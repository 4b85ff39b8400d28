//! The frames of a blob: compressed on all threads, written in order, and told to the table of contents.

use std::cell::RefCell;
use std::io::Write;

use rayon::prelude::*;

use super::Annotations;
use super::table::{Crc, Described, Table};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Context, Error, Kind, Result};

/// What the parser found, in the order of the archive.
pub(super) enum Item {
    /// A frame of headers and padding.
    Headers(Vec<u8>),
    /// An entry, and the bytes since the content before it.
    Entry { header: Vec<u8>, entry: Box<Described> },
    /// A frame with a part of the content of the entry that came last.
    Chunk { bytes: Vec<u8>, zeros: bool },
    /// The content of the entry ends.
    End,
    /// What follows the last entry.
    Segment(Vec<u8>),
    /// The archive gets no table.
    Odd,
}

/// A part of a file and where it is.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub(super) size: u64,
    /// Where its frame begins.
    pub(super) offset: u64,
    pub(super) digest: Digest,
    pub(super) zeros: bool,
}

/// The whole blob.
pub(super) struct Packed<W> {
    pub(super) out: W,
    pub(super) annotations: Option<Annotations>,
}

/// A blob that is being written.
pub(super) struct Frames<W> {
    out: W,
    level: i32,
    /// Bytes written.
    at: u64,
    table: Option<Table>,
    file: File,
}

/// The file whose content passes.
#[derive(Default)]
struct File {
    entry: Option<Box<Described>>,
    chunks: Vec<Chunk>,
    sums: Sums,
}

/// What is known of a file's bytes so far.
#[derive(Clone)]
struct Sums {
    hasher: Hasher,
    crc: Crc,
}

impl Default for Sums {
    fn default() -> Self {
        Self { hasher: Hasher::new(Algorithm::Sha256), crc: Crc::default() }
    }
}

impl Sums {
    fn of(mut self, chunks: &[&[u8]]) -> Self {
        for chunk in chunks {
            self.hasher.update(chunk);
            self.crc.update(chunk);
        }
        self
    }
}

impl<W: Write> Frames<W> {
    /// Begins.
    pub(super) fn new(out: W, level: u8) -> Result<Self> {
        if !(1..=22).contains(&level) {
            return Err(Error::new(Kind::Usage, format!("zstd has no level {level}")).hint("1 to 22"));
        }
        Ok(Self { out, level: level.into(), at: 0, table: Some(Table::new()?), file: File::default() })
    }

    /// Compresses and writes what the parser found.
    pub(super) fn write(&mut self, batch: Vec<Item>) -> Result<()> {
        // The chunks of one file after the other; the first may have begun in the batch before.
        let mut files: Vec<Vec<&[u8]>> = vec![Vec::new()];
        for item in &batch {
            match item {
                Item::Chunk { bytes, .. } => files.last_mut().expect("it begins with one").push(bytes),
                Item::End => files.push(Vec::new()),
                _ => {}
            }
        }
        let first = std::mem::take(&mut self.file.sums);
        let (level, described) = (self.level, self.table.is_some());
        let sum = |(place, chunks): (usize, &Vec<&[u8]>)| match place {
            0 => first.clone().of(chunks),
            _ => Sums::default().of(chunks),
        };
        let (packed, sums) = rayon::join(
            || batch.par_iter().map(|item| pack(item, level)).collect::<Vec<_>>(),
            || if described { files.par_iter().enumerate().map(sum).collect() } else { vec![Sums::default()] },
        );
        drop(files);
        let mut sums = sums.into_iter();
        self.file.sums = sums.next().unwrap_or_default();
        for (item, frame) in batch.into_iter().zip(packed) {
            let (offset, frame) = (self.at, frame?);
            if let Some(frame) = &frame {
                self.out.write_all(&frame.bytes).context(|| "write the layer")?;
                self.at += frame.bytes.len() as u64;
            }
            match (item, frame) {
                (Item::Odd, _) => self.table = None,
                (Item::Entry { header, entry }, _) => self.begin(&header, entry)?,
                (Item::Segment(bytes), _) => self.segment(&bytes)?,
                (Item::Chunk { bytes, zeros }, Some(Frame { digest: Some(digest), .. })) => {
                    self.file.chunks.push(Chunk { size: bytes.len() as u64, offset, digest, zeros });
                }
                (Item::End, _) => {
                    self.end()?;
                    self.file.sums = sums.next().unwrap_or_default();
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn begin(&mut self, header: &[u8], entry: Box<Described>) -> Result<()> {
        self.segment(header)?;
        if entry.has_content() {
            self.file.entry = Some(entry);
            return Ok(());
        }
        self.table.as_mut().map_or(Ok(()), |table| table.add(&entry, &[], self.at, None))
    }

    fn end(&mut self) -> Result<()> {
        let File { entry, chunks, sums } = std::mem::take(&mut self.file);
        let Some((table, entry)) = self.table.as_mut().zip(entry) else { return Ok(()) };
        table.add(&entry, &chunks, self.at, Some((sums.hasher.finish(), sums.crc)))
    }

    fn segment(&mut self, bytes: &[u8]) -> Result<()> {
        self.table.as_mut().map_or(Ok(()), |table| table.segment(bytes))
    }

    /// Writes the table behind the frames.
    pub(super) fn finish(mut self) -> Result<Packed<W>> {
        let Some(table) = self.table.take() else { return Ok(Packed { out: self.out, annotations: None }) };
        let (trailer, annotations) = table.finish(self.at)?;
        self.out.write_all(&trailer).context(|| "write the layer")?;
        Ok(Packed { out: self.out, annotations: Some(annotations) })
    }
}

struct Frame {
    bytes: Vec<u8>,
    /// Of the content, where it is that of a file.
    digest: Option<Digest>,
}

fn pack(item: &Item, level: i32) -> Result<Option<Frame>> {
    // Setting one up costs more than a small frame.
    thread_local! {
        static COMPRESSOR: RefCell<Option<(i32, zstd::bulk::Compressor<'static>)>> = const { RefCell::new(None) };
    }
    let (bytes, is_content) = match item {
        Item::Headers(bytes) => (bytes, false),
        Item::Chunk { bytes, .. } => (bytes, true),
        _ => return Ok(None),
    };
    let packed = COMPRESSOR.with_borrow_mut(|kept| {
        let (known, mut compressor) = match kept.take() {
            Some((known, compressor)) if known == level => (known, compressor),
            _ => (level, zstd::bulk::Compressor::new(level)?),
        };
        let packed = compressor.compress(bytes);
        *kept = Some((known, compressor));
        packed
    });
    let bytes_packed = packed.context(|| "compress")?;
    Ok(Some(Frame { bytes: bytes_packed, digest: is_content.then(|| Digest::of(bytes)) }))
}
