//! zstd:chunked: a layer of which single files, and parts of them, can be fetched.
//!
//! The blob is a zstd stream of many frames: the content of files in chunks of a frame each, what lies between in
//! frames of its own. Three skippable frames follow, which ordinary readers pass over: a table of contents, what is
//! needed to make the archive again from its files ("tar-split"), and a footer. Annotations of the layer's descriptor
//! say where they are, and the table's digest.
//!
//! Chunks end where a rolling sum of the last 64 bytes says so, and around runs of zeros, so that the same content in
//! another file or another version of it makes the same chunks. The blob depends on the archive and the level alone,
//! not on the number of threads.
//!
//! An archive with anything in it that readers differ about gets no table: it is a zstd layer like others then.
//!
//! Source: `pkg/chunked` of containers/storage 1.59, and tar-split 0.12, which read what is written here.

mod frames;
mod split;
mod table;

use std::collections::HashSet;
use std::io::{BufReader, Read, Write};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use self::frames::{Frames, Item, Packed};
use self::split::Splitter;
use self::table::Described;
use super::limits::Limits;
use super::read::{EntryKind, TarReader};
use crate::error::{Error, Kind, Result};

/// Bytes of a frame of headers. Part of the output's identity, as [`split::CHUNK_MAX`] is: never change them.
const HEADERS_MAX: usize = 1 << 20;
/// Bytes that are worked on at once. Not part of the output's identity.
const BATCH: usize = 8 << 20;
/// Pieces of the archive that wait for the parser, and their size.
const AHEAD: (usize, usize) = (4, 1 << 19);

/// Keys and values for a layer's descriptor.
pub type Annotations = Vec<(String, String)>;

/// A layer in this form.
#[derive(Debug)]
pub struct Chunked<W> {
    /// Where it was written.
    pub out: W,
    /// What its descriptor has to say, if there is a table of contents.
    pub annotations: Option<Annotations>,
}

/// Reads an archive to its end and writes it in chunks, compressed at a level of zstd (1 to 22).
///
/// # Errors
/// The archive is malformed or exceeds a limit, or one side fails.
pub fn write_chunked<W: Write + Send>(
    plain: impl Read + Send,
    out: W,
    level: u8,
    limits: &Limits,
) -> Result<Chunked<W>> {
    let (pieces, archive) = sync_channel(AHEAD.0);
    let (batches, work) = sync_channel::<Vec<Item>>(1);
    thread::scope(|scope| {
        scope.spawn(move || read_ahead(plain, &pieces));
        let writing = scope.spawn(move || {
            let mut frames = Frames::new(out, level)?;
            for batch in work {
                frames.write(batch)?;
            }
            frames.finish()
        });
        let parsed = Parser::new(Pieces { archive, rest: Vec::new(), at: 0 }, batches, limits).run();
        let written = writing.join().unwrap_or_else(|_| Err(Error::new(Kind::Interrupted, "a thread ended early")));
        // The parser stops early where nobody writes: then the writer knows why.
        match (parsed, written) {
            (_, Err(error)) => Err(error),
            (Err(error), _) => Err(error),
            (Ok(()), Ok(Packed { out, annotations })) => Ok(Chunked { out, annotations }),
        }
    })
}

/// Decompression happens in the reader, so it gets a thread of its own.
fn read_ahead(mut plain: impl Read, pieces: &SyncSender<std::io::Result<Vec<u8>>>) {
    loop {
        let mut piece = Vec::with_capacity(AHEAD.1);
        let read = plain.by_ref().take(AHEAD.1 as u64).read_to_end(&mut piece);
        let last = piece.is_empty() || read.is_err();
        let sent = match read {
            Err(error) => pieces.send(Err(error)),
            Ok(_) if last => return,
            Ok(_) => pieces.send(Ok(piece)),
        };
        if last || sent.is_err() {
            return;
        }
    }
}

/// The archive as it comes from the other thread.
struct Pieces {
    archive: std::sync::mpsc::Receiver<std::io::Result<Vec<u8>>>,
    rest: Vec<u8>,
    at: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.rest.len() {
            match self.archive.recv() {
                Ok(piece) => (self.rest, self.at) = (piece?, 0),
                Err(_) => return Ok(0),
            }
        }
        let size = buffer.len().min(self.rest.len() - self.at);
        buffer[..size].copy_from_slice(&self.rest[self.at..self.at + size]);
        self.at += size;
        Ok(size)
    }
}

/// Nobody takes the batches any more.
struct Abandoned;

/// From an archive to frames.
struct Parser {
    reader: TarReader<BufReader<Pieces>>,
    batches: SyncSender<Vec<Item>>,
    batch: Vec<Item>,
    size: usize,
    /// Bytes between contents that are in no frame yet.
    between: Vec<u8>,
    /// Paths so far, to find one that comes twice.
    seen: HashSet<Vec<u8>>,
    odd: bool,
}

impl Parser {
    fn new(archive: Pieces, batches: SyncSender<Vec<Item>>, limits: &Limits) -> Self {
        let reader = TarReader::noting(BufReader::with_capacity(1 << 18, archive), limits);
        Self { reader, batches, batch: Vec::new(), size: 0, between: Vec::new(), seen: HashSet::new(), odd: false }
    }

    fn run(mut self) -> Result<()> {
        while let Some(entry) = self.reader.next_entry()? {
            let raw = self.reader.take_noted();
            let described = Described::new(&entry, self.reader.stated());
            self.odd |= described.is_none() || !self.seen.insert(table::cleaned(&entry.path));
            if self.odd {
                // What was remembered for the table is of no use any more.
                self.seen = HashSet::new();
            }
            self.between.extend_from_slice(&raw);
            if let Some(described) = described.filter(|_| !self.odd) {
                self.batch.push(Item::Entry { header: raw, entry: Box::new(described) });
            }
            let has_content = entry.kind == EntryKind::File && entry.size > 0;
            let sent = match has_content {
                true => self.content()?,
                false => self.headers(HEADERS_MAX),
            };
            if sent.is_err() {
                return Ok(());
            }
        }
        let mut tail = self.reader.take_noted();
        loop {
            let more = self.reader.after_end()?.len();
            tail.extend(self.reader.take_noted());
            self.between.extend_from_slice(&tail);
            if !self.odd && !tail.is_empty() {
                self.batch.push(Item::Segment(std::mem::take(&mut tail)));
            }
            tail.clear();
            if self.headers(HEADERS_MAX).is_err() || more == 0 {
                break;
            }
        }
        let _ = self.headers(1);
        if self.odd {
            self.batch.push(Item::Odd);
        }
        let _ = self.send();
        Ok(())
    }

    /// The content of a file, in chunks.
    fn content(&mut self) -> Result<Result<(), Abandoned>> {
        if self.headers(1).is_err() {
            return Ok(Err(Abandoned));
        }
        let (mut splitter, mut chunk, mut cuts) = (Splitter::new(), Vec::new(), Vec::new());
        let mut begun = 0;
        loop {
            let piece = self.reader.payload()?;
            let last = piece.is_empty();
            chunk.extend_from_slice(piece);
            match last {
                true => splitter.end(&mut cuts),
                false => splitter.pass(piece, &mut cuts),
            }
            for cut in cuts.drain(..) {
                let size = usize::try_from(cut.end - begun).unwrap_or(usize::MAX).min(chunk.len());
                // As large as it has to be: many of them wait together.
                let bytes: Vec<u8> = chunk.drain(..size).collect();
                begun = cut.end;
                self.size += bytes.len();
                self.batch.push(Item::Chunk { bytes, zeros: cut.zeros });
            }
            if self.size >= BATCH && self.send().is_err() {
                return Ok(Err(Abandoned));
            }
            if last {
                self.batch.push(Item::End);
                return Ok(Ok(()));
            }
        }
    }

    /// Makes frames of what lies between contents, as long as that has `least` bytes.
    fn headers(&mut self, least: usize) -> Result<(), Abandoned> {
        while self.between.len() >= least {
            let rest = self.between.split_off(self.between.len().min(HEADERS_MAX));
            let bytes = std::mem::replace(&mut self.between, rest);
            self.size += bytes.len();
            self.batch.push(Item::Headers(bytes));
        }
        if self.size >= BATCH { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<(), Abandoned> {
        self.size = 0;
        self.batches.send(std::mem::take(&mut self.batch)).map_err(|_| Abandoned)
    }
}

#[cfg(test)]
mod tests;
