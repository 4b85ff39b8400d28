//! Reading tar archives as a stream.
//!
//! `tar-core` parses the headers (ustar, PAX, GNU long names, both forms of sparse files); this module feeds it from
//! a `Read`, mends what it leaves out (times below the second and before 1970), and gives the content in pieces of
//! the buffer it arrived in, without a copy.

use std::io::{self, Read};

use tar_core::parse::{ParseError, ParseEvent, ParsedEntry, Parser};
use tar_core::{EntryType, PaxExtensions};

use crate::error::{Context, Error, Kind, Result};

const BUFFER: usize = 1 << 20;
const BLOCK: u64 = 512;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A folder.
    Dir,
    /// A symbolic link.
    Symlink,
    /// Another name of a file.
    Hardlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
}

/// Seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// The rest, 0 to 999,999,999.
    pub nanos: u32,
}

/// One member of an archive, without its content.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The path as it stands in the archive.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// The target of a link.
    pub link: Vec<u8>,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Time of last modification.
    pub mtime: Time,
    /// Size of the file, holes included, in bytes.
    pub size: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// For a sparse file, the runs of data (offset, length) that the content consists of.
    pub sparse: Option<Vec<(u64, u64)>>,
}

/// An archive being read.
pub struct TarReader<R> {
    source: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    ended: bool,
    parser: Parser,
    /// Content of the current entry still to come, and the padding after it.
    content: u64,
    padding: u64,
}

impl<R: Read> TarReader<R> {
    /// Begins to read `source`. `metadata_max` caps the size of one entry's extended headers, `path_max` that of a
    /// path or link target, in bytes.
    pub fn new(source: R, metadata_max: u32, path_max: u32) -> Self {
        let limits = tar_core::parse::Limits {
            max_metadata_size: metadata_max,
            max_path_len: Some(path_max),
            ..tar_core::parse::Limits::default()
        };
        let mut parser = Parser::new(limits);
        // It would refuse a time before 1970; the numbers that matter are checked in `check_pax`.
        parser.set_ignore_pax_errors(true);
        Self { source, buffer: vec![0; BUFFER], start: 0, end: 0, ended: false, parser, content: 0, padding: 0 }
    }

    /// The next entry; `None` at the end of the archive. What was left of the content of the one before is skipped.
    ///
    /// # Errors
    /// The archive is malformed or ends in the middle of an entry, or the source fails.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        loop {
            self.skip_content()?;
            let Some((stored, entry)) = self.parse_header()? else { return Ok(None) };
            // Only files have content; a size on another entry counts for nothing, as in Go's reader.
            let has_content = entry.as_ref().is_none_or(|entry| entry.kind == EntryKind::File);
            self.content = if has_content { stored } else { 0 };
            self.padding = self.content.wrapping_neg() % BLOCK;
            // A kind of entry that has no place in a layer (a volume label, say) is passed over.
            if entry.is_some() {
                return Ok(entry);
            }
        }
    }

    fn skip_content(&mut self) -> Result<()> {
        let mut skip = self.content + self.padding;
        (self.content, self.padding) = (0, 0);
        while skip > 0 {
            if self.start == self.end && self.fill(1)? == 0 {
                return Err(truncated());
            }
            let step = skip.min((self.end - self.start) as u64);
            self.start += step as usize;
            skip -= step;
        }
        Ok(())
    }

    /// The next header with the size of its content as stored; `None` at the end.
    fn parse_header(&mut self) -> Result<Option<(u64, Option<Entry>)>> {
        let mut wanted = BLOCK as usize;
        loop {
            let available = self.fill(wanted)?;
            if available == 0 {
                return Ok(None);
            }
            match self.parser.parse(&self.buffer[self.start..self.end]).map_err(malformed)? {
                // A parser that asks for no more than it has would otherwise be asked again for ever.
                ParseEvent::NeedData { min_bytes } if self.ended && available < min_bytes.max(wanted) => {
                    // One block of zeros where two are due is how some writers end.
                    if self.buffer[self.start..self.end].iter().all(|b| *b == 0) {
                        self.start = self.end;
                        return Ok(None);
                    }
                    return Err(truncated());
                }
                ParseEvent::NeedData { min_bytes } => wanted = min_bytes.max(available + 1),
                ParseEvent::GlobalExtensions { consumed, .. } => {
                    self.start += consumed;
                    wanted = BLOCK as usize;
                }
                ParseEvent::End { consumed } => {
                    self.start += consumed;
                    return Ok(None);
                }
                ParseEvent::Entry { consumed, entry } => {
                    let parsed = (entry.size, own(&entry, None)?);
                    self.start += consumed;
                    return Ok(Some(parsed));
                }
                ParseEvent::SparseEntry { consumed, entry, sparse_map, real_size } => {
                    let runs = sparse_map.iter().map(|run| (run.offset, run.length)).collect();
                    let parsed = (entry.size, own(&entry, Some((runs, real_size)))?);
                    self.start += consumed;
                    return Ok(Some(parsed));
                }
            }
        }
    }

    /// The next piece of the current entry's content, of at most `most` bytes; empty at its end.
    ///
    /// # Errors
    /// The archive ends in the middle of it, or the source fails.
    pub fn chunk(&mut self, most: u64) -> Result<&[u8]> {
        if self.content == 0 {
            return Ok(&[]);
        }
        if self.start == self.end && self.fill(1)? == 0 {
            return Err(truncated());
        }
        let size = self.content.min(most).min((self.end - self.start) as u64) as usize;
        let piece = &self.buffer[self.start..self.start + size];
        self.start += size;
        self.content -= size as u64;
        Ok(piece)
    }

    /// Reads what follows the end of the archive, so that the source has been read whole.
    ///
    /// # Errors
    /// The source fails.
    pub fn drain(mut self) -> Result<R> {
        while !self.ended {
            (self.start, self.end) = (0, 0);
            self.fill(1)?;
        }
        Ok(self.source)
    }

    /// Has `wanted` bytes in the buffer, or all there are; says how many.
    fn fill(&mut self, wanted: usize) -> Result<usize> {
        if self.end - self.start >= wanted || self.ended {
            return Ok(self.end - self.start);
        }
        if self.start + wanted > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if wanted > self.buffer.len() {
                self.buffer.resize(wanted.next_power_of_two(), 0);
            }
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        while self.end - self.start < wanted && !self.ended {
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.ended = true,
                Ok(n) => self.end += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context(|| "read the archive"),
            }
        }
        Ok(self.end - self.start)
    }
}

fn truncated() -> Error {
    Error::new(Kind::Corrupt, "the archive ends in the middle of an entry").hint("it was cut off; fetch it again")
}

fn malformed(error: ParseError) -> Error {
    let kind = match &error {
        ParseError::PathTooLong { .. }
        | ParseError::MetadataTooLarge { .. }
        | ParseError::TooManyPendingEntries { .. }
        | ParseError::TooManySparseEntries { .. } => Kind::Limit,
        _ => Kind::Invalid,
    };
    Error::new(kind, "the archive is malformed").because(error)
}

type SparseMap = (Vec<(u64, u64)>, u64);

fn own(entry: &ParsedEntry<'_>, sparse: Option<SparseMap>) -> Result<Option<Entry>> {
    let kind = match entry.entry_type {
        // Before POSIX, a folder was a file with a slash at its end.
        EntryType::Regular if entry.path.ends_with(b"/") => EntryKind::Dir,
        EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse => EntryKind::File,
        EntryType::Directory => EntryKind::Dir,
        EntryType::Symlink => EntryKind::Symlink,
        EntryType::Link => EntryKind::Hardlink,
        EntryType::Char => EntryKind::Char,
        EntryType::Block => EntryKind::Block,
        EntryType::Fifo => EntryKind::Fifo,
        _ => return Ok(None),
    };
    entry.pax.map_or(Ok(()), check_pax)?;
    let header = Time { seconds: header_mtime(entry), nanos: 0 };
    let mtime = entry.pax.and_then(|pax| pax_time(pax, b"mtime")).unwrap_or(header);
    let (sparse, size) = match sparse {
        Some((runs, size)) => (Some(runs), size),
        None => (None, entry.size),
    };
    let xattrs = entry.xattrs.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    Ok(Some(Entry {
        path: entry.path.to_vec(),
        kind,
        link: entry.link_target.as_deref().unwrap_or_default().to_vec(),
        mode: entry.mode & 0o7777,
        uid: entry.uid,
        gid: entry.gid,
        mtime,
        size,
        device: (entry.dev_major.unwrap_or(0), entry.dev_minor.unwrap_or(0)),
        xattrs,
        sparse,
    }))
}

/// A size or owner that cannot be read would be taken from the plain header instead, where another reader may take
/// the archive for something else (CVE-2026-33055).
fn check_pax(pax: &[u8]) -> Result<()> {
    let malformed = |what: &str| Error::new(Kind::Invalid, format!("the archive has a malformed PAX {what}"));
    for record in PaxExtensions::new(pax) {
        let record = record.map_err(|_| malformed("record"))?;
        let number = record.value().ok().and_then(|text| text.parse::<u64>().ok());
        match record.key_bytes() {
            b"size" if number.is_none() => return Err(malformed("size")),
            b"uid" | b"gid" if number.is_none() => return Err(malformed("owner")),
            _ => {}
        }
    }
    Ok(())
}

/// The header's time, which in GNU's base-256 form may lie before 1970.
fn header_mtime(entry: &ParsedEntry<'_>) -> i64 {
    let field = &entry.header.as_bytes()[136..148];
    match field[0] {
        0xff => i64::from_be_bytes(field[4..].try_into().expect("eight bytes")),
        _ => i64::try_from(entry.mtime).unwrap_or(i64::MAX),
    }
}

/// A PAX time: decimal seconds, maybe negative, maybe with a fraction.
fn pax_time(pax: &[u8], key: &[u8]) -> Option<Time> {
    let value = PaxExtensions::new(pax).flatten().filter(|record| record.key_bytes() == key).last()?;
    let text = value.value().ok()?;
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let seconds: i64 = whole.parse().ok()?;
    let mut nanos = 0u32;
    for place in 0..9 {
        let digit = fraction.as_bytes().get(place).map_or(Some(0), |b| b.is_ascii_digit().then_some(b - b'0'))?;
        nanos = nanos * 10 + u32::from(digit);
    }
    Some(match (negative, nanos) {
        (false, nanos) => Time { seconds, nanos },
        (true, 0) => Time { seconds: -seconds, nanos: 0 },
        (true, nanos) => Time { seconds: -seconds - 1, nanos: 1_000_000_000 - nanos },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fractions_and_signs() {
        let time = |text: &str| {
            let record = format!("{} mtime={text}\n", text.len() + 10);
            pax_time(record.as_bytes(), b"mtime").map(|t| (t.seconds, t.nanos))
        };
        assert_eq!(time("1234567.5"), Some((1_234_567, 500_000_000)));
        assert_eq!(time("12345.1234567891"), Some((12_345, 123_456_789)));
        assert_eq!(time("-1.25000"), Some((-2, 750_000_000)));
    }

    #[test]
    fn a_sparse_map_that_never_ends_is_an_error() {
        let records = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n27 GNU.sparse.realsize=100\n";
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_size(records.len() as u64);
        builder.append_data(&mut header, "x", &records[..]).expect("appended");
        let mut header = tar::Header::new_ustar();
        header.set_size(7);
        builder.append_data(&mut header, "f", &b"content"[..]).expect("appended");
        let bytes = builder.into_inner().expect("finished");
        let mut reader = TarReader::new(bytes.as_slice(), 1 << 20, 4096);
        assert_eq!(reader.next_entry().expect_err("cut").kind(), Kind::Corrupt);
    }

    #[test]
    fn a_cut_archive_is_an_error_and_an_empty_one_is_not() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(700);
        builder.append_data(&mut header, "f", &[7u8; 700][..]).expect("appended");
        let bytes = builder.into_inner().expect("finished");
        let read = |bytes: &[u8]| -> Result<u64> {
            let mut reader = TarReader::new(bytes, 1 << 20, 4096);
            let mut total = 0;
            while reader.next_entry()?.is_some() {
                loop {
                    let piece = reader.chunk(u64::MAX)?.len() as u64;
                    if piece == 0 {
                        break;
                    }
                    total += piece;
                }
            }
            Ok(total)
        };
        assert_eq!(read(&bytes).expect("whole"), 700);
        for cut in [100, 600, 1000, 1300] {
            assert_eq!(read(&bytes[..cut]).expect_err("cut").kind(), Kind::Corrupt, "{cut}");
        }
        for empty in [0, 512, 1024, 10240] {
            assert_eq!(read(&vec![0; empty]).expect("empty"), 0);
        }
    }
}
