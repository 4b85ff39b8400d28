//! Reading tar archives as a stream.
//!
//! Every form of header that layers come in is understood: ustar, PAX, GNU and star, with long names and four kinds
//! of sparse files. Content is given in pieces of the buffer it arrived in, without a copy. What a reader of another
//! tool might take for something else is refused instead of read in one of both ways: headers that contradict
//! themselves, a block of zeros in the middle, two extended headers for one entry.
//!
//! Headers that are global to the archive (`g`) change nothing, as with the other tools for layers.

use std::io::{self, BufRead};

use super::header::{BLOCK, Header, malformed, more_sparse, text};
use super::limits::{Limits, exceeded};
use super::pax::Extended;
use super::sparse::{self, Map, MapReader, Runs};
use crate::error::{Context, Error, Kind, Result};

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
    /// Bytes at the front of the source's buffer that were given out already.
    taken: usize,
    limits: Limits,
    /// Bytes that came from the source.
    read: u64,
    /// Content of the current entry still to come, and the padding after it.
    content: u64,
    padding: u64,
    /// All bytes that are no content of files, since they were last taken: for who writes the archive again.
    noted: Option<Vec<u8>>,
    stated: Stated,
}

/// What the header of an entry says beside what the engine goes by.
#[derive(Clone, Debug, Default)]
pub(super) struct Stated {
    /// The whole field of the mode.
    pub(super) mode: i64,
    /// The device numbers, also of what is no device.
    pub(super) device: (u32, u32),
    /// Time of last access.
    pub(super) atime: Option<Time>,
    /// Time of last change.
    pub(super) ctime: Option<Time>,
    /// In a form that readers differ about, or that Go's reader does not have.
    pub(super) odd: bool,
}

/// What precedes an entry's own header.
#[derive(Default)]
struct Extensions {
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Option<Extended>,
    /// Bytes of all of them, against the limit.
    size: u64,
}

impl<R: BufRead> TarReader<R> {
    /// Begins to read `source`. Of `limits`, those on bytes, paths and metadata hold here.
    pub fn new(source: R, limits: &Limits) -> Self {
        let (noted, stated) = (None, Stated::default());
        Self { source, taken: 0, limits: limits.clone(), read: 0, content: 0, padding: 0, noted, stated }
    }

    /// The same, taking note of what is no content: see [`Self::take_noted`].
    pub(super) fn noting(source: R, limits: &Limits) -> Self {
        Self { noted: Some(Vec::new()), ..Self::new(source, limits) }
    }

    /// The bytes since the last call that were no content given out by [`Self::payload`].
    pub(super) fn take_noted(&mut self) -> Vec<u8> {
        self.noted.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// More about the entry that came last.
    pub(super) fn stated(&self) -> &Stated {
        &self.stated
    }

    /// The next entry; `None` at the end of the archive. What was left of the content of the one before is skipped.
    ///
    /// # Errors
    /// The archive is malformed or ends in the middle of an entry, exceeds a limit, or the source fails.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        self.stated = Stated::default();
        loop {
            self.skip_content()?;
            let Some(block) = self.header_block()? else {
                let orphaned = extensions.size > 0;
                return if orphaned { Err(malformed("an extended header that extends nothing")) } else { Ok(None) };
            };
            let header = Header::new(&block)?;
            match header.kind() {
                b'x' => {
                    let bytes = self.metadata(header.size()?, &mut extensions)?;
                    once(&mut extensions.pax, Extended::parse(&bytes)?)?;
                }
                b'L' => {
                    let bytes = self.metadata(header.size()?, &mut extensions)?;
                    once(&mut extensions.long_path, text(&bytes).to_vec())?;
                }
                b'K' => {
                    let bytes = self.metadata(header.size()?, &mut extensions)?;
                    once(&mut extensions.long_link, text(&bytes).to_vec())?;
                }
                // Defaults for the whole archive, and the name of a tape.
                b'g' | b'V' => {
                    self.stated.odd = true;
                    self.begin_content(header.size()?)?;
                }
                _ => {
                    let entry = self.entry(&header, extensions)?;
                    return Ok(Some(entry));
                }
            }
        }
    }

    fn entry(&mut self, header: &Header<'_>, extensions: Extensions) -> Result<Entry> {
        let Extensions { long_path, long_link, pax, mut size } = extensions;
        let mut pax = pax.unwrap_or_default();
        let twice = (long_path.is_some() && pax.path.is_some()) || (long_link.is_some() && pax.link.is_some());
        if self.noted.is_some() {
            self.stated.odd |= twice || pax.libarchive || !header.is_common();
            self.stated.mode = header.whole_mode()?;
            match header.device() {
                Ok(device) => self.stated.device = device,
                Err(_) => self.stated.odd = true,
            }
            (self.stated.atime, self.stated.ctime) = (pax.atime, pax.ctime);
        }
        let path = pax.path.take().or(long_path).unwrap_or_else(|| header.path());
        let path = pax.sparse.name.take().unwrap_or(path);
        let link = pax.link.take().or(long_link).unwrap_or_else(|| header.link().to_vec());
        for (what, text) in [("path", &path), ("link target", &link)] {
            if text.len() > self.limits.path as usize {
                return Err(exceeded(&format!("a {what} has more bytes"), "path", self.limits.path));
            }
        }
        let kind = kind(header.kind(), &path)?;
        let mut stored = pax.size.map_or_else(|| header.size(), Ok)?;
        let mut content_size = stored;
        let mut map = None;
        // Only what is a file by its letter has content; a size on another entry counts for nothing, as in Go's
        // reader. A folder that is one by the slash at its end (before POSIX) does have what its header says.
        if !matches!(header.kind(), 0 | b'0' | b'7' | b'S') {
            stored = 0;
        } else if header.kind() == b'S' {
            let (mut runs, mut more, whole) = header.sparse()?;
            while more {
                let block = self.header_bytes(&mut size)?;
                let (further, again) = more_sparse(&block)?;
                runs.extend(further);
                more = again;
            }
            (map, content_size) = (Some(runs), whole);
        } else if let Some(found) = pax.sparse.map()? {
            content_size = match found {
                Map::Known(runs, whole) => {
                    map = Some(runs);
                    whole
                }
                Map::InContent(whole) => {
                    let (runs, length) = self.map_in_content(&mut size)?;
                    stored = stored.checked_sub(length).ok_or_else(|| malformed("a sparse map beyond its entry"))?;
                    map = Some(runs);
                    whole
                }
            };
        }
        if let Some(runs) = &map {
            sparse::check(runs, content_size, stored)?;
        }
        let empty = kind == EntryKind::File || (pax.size.is_none() && header.size()? == 0);
        let slash = !matches!(header.kind(), b'5') && path.ends_with(b"/");
        self.stated.odd |= map.is_some() || !empty || slash;
        self.begin_content(stored)?;
        let mtime = match pax.mtime {
            Some(time) => time,
            None => Time { seconds: header.mtime()?, nanos: 0 },
        };
        Ok(Entry {
            path,
            kind,
            link,
            mode: header.mode()?,
            uid: pax.uid.map_or_else(|| header.uid(), Ok)?,
            gid: pax.gid.map_or_else(|| header.gid(), Ok)?,
            mtime,
            size: if kind == EntryKind::File { content_size } else { 0 },
            device: if matches!(kind, EntryKind::Char | EntryKind::Block) { header.device()? } else { (0, 0) },
            xattrs: pax.xattrs,
            sparse: map.filter(|_| kind == EntryKind::File),
        })
    }

    fn begin_content(&mut self, size: u64) -> Result<()> {
        if i64::try_from(size).is_err() {
            return Err(malformed("an entry of an impossible size"));
        }
        self.content = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
        Ok(())
    }

    fn skip_content(&mut self) -> Result<()> {
        let mut skip = self.content + self.padding;
        (self.content, self.padding) = (0, 0);
        while skip > 0 {
            let available = self.available()? as u64;
            if available == 0 {
                return Err(truncated());
            }
            let step = skip.min(available);
            self.take(step as usize)?;
            skip -= step;
        }
        Ok(())
    }

    /// The next block that is a header; `None` at the end of the archive.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let Some(block) = self.block()? else { return Ok(None) };
        if block != [0; BLOCK] {
            return Ok(Some(block));
        }
        // Two blocks of zeros are due at the end; one is how some writers end. One in the middle hides from some
        // readers what comes after it.
        match self.block()? {
            Some(block) if block != [0; BLOCK] => Err(malformed("a block of zeros in the middle")),
            _ => Ok(None),
        }
    }

    /// The next block; `None` where the source ends, or ends in zeros that make no whole block.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let (mut block, mut filled) = ([0; BLOCK], 0);
        while filled < BLOCK {
            let size = self.available()?.min(BLOCK - filled);
            if size == 0 {
                break;
            }
            block[filled..filled + size].copy_from_slice(self.take(size)?);
            filled += size;
        }
        match filled {
            BLOCK => Ok(Some(block)),
            _ if block == [0; BLOCK] => Ok(None),
            _ => Err(truncated()),
        }
    }

    /// A block that belongs to an entry's header; `size` counts what the entry has of those.
    fn header_bytes(&mut self, size: &mut u64) -> Result<[u8; BLOCK]> {
        self.count_metadata(size, BLOCK as u64)?;
        self.block()?.ok_or_else(truncated)
    }

    fn count_metadata(&self, size: &mut u64, more: u64) -> Result<()> {
        *size = size.saturating_add(more);
        if *size > u64::from(self.limits.metadata) {
            return Err(exceeded("an entry has more bytes of extended headers", "metadata", self.limits.metadata));
        }
        Ok(())
    }

    /// The content of an extending header, `size` bytes.
    fn metadata(&mut self, size: u64, extensions: &mut Extensions) -> Result<Vec<u8>> {
        self.count_metadata(&mut extensions.size, size.max(1))?;
        self.begin_content(size)?;
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        while self.content > 0 {
            bytes.extend_from_slice(self.chunk(u64::MAX)?);
        }
        Ok(bytes)
    }

    /// The map in front of a sparse file's content, and how many bytes it took.
    fn map_in_content(&mut self, size: &mut u64) -> Result<(Runs, u64)> {
        let (mut map, mut length) = (MapReader::default(), 0);
        loop {
            let block = self.header_bytes(size)?;
            length += BLOCK as u64;
            if map.take(&block)? {
                return Ok((map.runs(), length));
            }
        }
    }

    /// Where in the archive the rest of the current entry's content begins, and its size, in bytes: what is stored, which
    /// of a sparse file is not all of it.
    pub fn content(&self) -> (u64, u64) {
        (self.read, self.content)
    }

    /// The next piece of the current entry's content, of at most `most` bytes; empty at its end.
    ///
    /// # Errors
    /// The archive ends in the middle of it, or the source fails.
    pub fn chunk(&mut self, most: u64) -> Result<&[u8]> {
        if self.content == 0 {
            return Ok(&[]);
        }
        let available = self.available()? as u64;
        if available == 0 {
            return Err(truncated());
        }
        let size = self.content.min(most).min(available);
        self.content -= size;
        self.take(size as usize)
    }

    /// As [`Self::chunk`], but without taking note.
    pub(super) fn payload(&mut self) -> Result<&[u8]> {
        let noted = self.noted.take();
        let size = self.chunk(u64::MAX)?.len();
        self.noted = noted;
        let buffer = self.source.fill_buf().context(|| "read the archive")?;
        Ok(&buffer[..size])
    }

    /// The next piece of what follows the end of the archive, which is noted as well; empty at its end.
    pub(super) fn after_end(&mut self) -> Result<&[u8]> {
        let rest = self.available()?;
        self.take(rest)
    }

    /// Reads what follows the end of the archive, so that the source has been read whole.
    ///
    /// # Errors
    /// The source fails, or gives more than the limit.
    pub fn drain(mut self) -> Result<R> {
        loop {
            match self.available()? {
                0 => return Ok(self.source),
                rest => drop(self.take(rest)?),
            }
        }
    }

    /// How many bytes the source has at hand; zero at its end only.
    fn available(&mut self) -> Result<usize> {
        self.source.consume(std::mem::take(&mut self.taken));
        loop {
            match self.source.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(<[u8]>::len).context(|| "read the archive"),
            }
        }
    }

    /// The next `size` bytes, which are [`Self::available`].
    fn take(&mut self, size: usize) -> Result<&[u8]> {
        self.read += size as u64;
        if self.read > self.limits.bytes {
            return Err(exceeded("the layer has more bytes unpacked", "bytes", self.limits.bytes));
        }
        self.taken = size;
        let bytes = &self.source.fill_buf().context(|| "read the archive")?[..size];
        if let Some(noted) = &mut self.noted {
            noted.extend_from_slice(bytes);
        }
        Ok(bytes)
    }
}

fn truncated() -> Error {
    Error::new(Kind::Corrupt, "the archive ends in the middle of an entry").hint("it was cut off; fetch it again")
}

/// Which of two headers of one kind counts, readers disagree on.
fn once<T>(slot: &mut Option<T>, value: T) -> Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(malformed("two extended headers of a kind for one entry")),
    }
}

fn kind(letter: u8, path: &[u8]) -> Result<EntryKind> {
    Ok(match letter {
        // Before POSIX, a folder was a file with a slash at its end.
        0 | b'0' | b'7' if path.ends_with(b"/") => EntryKind::Dir,
        0 | b'0' | b'7' | b'S' => EntryKind::File,
        b'1' => EntryKind::Hardlink,
        b'2' => EntryKind::Symlink,
        b'3' => EntryKind::Char,
        b'4' => EntryKind::Block,
        b'5' => EntryKind::Dir,
        b'6' => EntryKind::Fifo,
        // Parts of other volumes, contents of folders at the time of a backup, vendors' own.
        letter => {
            let (path, letter) = (path.escape_ascii(), letter.escape_ascii());
            let sentence = format!("`{path}` is an entry of type `{letter}`, which layers do not have");
            return Err(Error::new(Kind::Unsupported, sentence));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], limits: &Limits) -> Result<u64> {
        let mut reader = TarReader::new(bytes, limits);
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
        reader.drain().map(|_| total)
    }

    #[test]
    fn a_sparse_map_that_never_ends_is_an_error() {
        let records = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n27 GNU.sparse.realsize=100\n";
        let unended = [&b"999\n"[..], &b"1\n".repeat(254)].concat();
        for (content, kind) in [(&b"content"[..], Kind::Invalid), (&unended, Kind::Corrupt)] {
            let mut builder = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::XHeader);
            header.set_size(records.len() as u64);
            builder.append_data(&mut header, "x", &records[..]).expect("appended");
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, "f", content).expect("appended");
            let mut bytes = builder.into_inner().expect("finished");
            bytes.truncate(bytes.len() - 1024);
            let mut reader = TarReader::new(bytes.as_slice(), &Limits::default());
            assert_eq!(reader.next_entry().expect_err("a map without its end").kind(), kind);
        }
    }

    #[test]
    fn a_cut_archive_is_an_error_and_an_empty_one_is_not() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(700);
        builder.append_data(&mut header, "f", &[7u8; 700][..]).expect("appended");
        let bytes = builder.into_inner().expect("finished");
        let read = |bytes: &[u8]| read(bytes, &Limits::default());
        assert_eq!(read(&bytes).expect("whole"), 700);
        assert_eq!(read(&[]).expect("empty"), 0);
        assert_eq!(read(&[0; 512]).expect("one block of zeros"), 0);
        assert_eq!(read(&[0; 10240]).expect("zeros"), 0);
        assert_eq!(read(&[0; 700]).expect("zeros that make no whole blocks"), 0);
        // The end marker may be missing or cut, as many a writer leaves it.
        let end = bytes.len();
        for size in [end - 512, end - 1024, end - 1000] {
            assert_eq!(read(&bytes[..size]).expect("no end marker"), 700);
        }
        for size in [end - 1025, 512 + 699, 511, 1] {
            assert_eq!(read(&bytes[..size]).expect_err("cut").kind(), Kind::Corrupt, "{size}");
        }
        let hidden = [&[0; 512][..], &bytes].concat();
        assert_eq!(read(&hidden).expect_err("zeros in the middle").kind(), Kind::Invalid);
        let garbage = [&bytes, &b"anything"[..]].concat();
        assert_eq!(read(&garbage).expect("what follows the end is not looked at"), 700);
    }
}
