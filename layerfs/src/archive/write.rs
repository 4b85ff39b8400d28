//! Writing tar archives whose bytes depend on nothing but what is written.
//!
//! Headers are ustar; what does not fit goes into a PAX header, and a name that is not UTF-8 into GNU's long name
//! entry, since PAX cannot hold it. User and group names, access and change times are left out.

use std::io::{self, Read, Write};

use super::pax::{base64, percent_encoded};
use super::read::{Entry, EntryKind};
use crate::error::{Context, Error, Kind, Result};

const BLOCK: usize = 512;
/// Content is copied in pieces of this size.
const COPY: usize = 1 << 18;
/// Largest number that eleven octal digits hold.
const OCTAL_MAX: u64 = 0o77_777_777_777;
/// Largest owner that seven octal digits hold.
const ID_MAX: u64 = 0o7_777_777;

/// An archive being written.
#[derive(Debug)]
pub struct TarWriter<W> {
    out: W,
    buffer: Vec<u8>,
}

impl<W: Write> TarWriter<W> {
    /// Begins an archive.
    pub fn new(out: W) -> Self {
        Self { out, buffer: Vec::new() }
    }

    /// Writes an entry that has no content, or an empty file.
    ///
    /// # Errors
    /// The output fails, or the entry cannot be expressed in tar.
    pub fn append(&mut self, entry: &Entry) -> Result<()> {
        self.append_file(entry, io::empty())
    }

    /// Writes a file with `entry.size` bytes of content.
    ///
    /// # Errors
    /// The output or the content fails, or the content has another size.
    pub fn append_file(&mut self, entry: &Entry, mut content: impl Read) -> Result<()> {
        self.begin(entry)?;
        let size = if entry.kind == EntryKind::File { entry.size } else { 0 };
        let mut left = size;
        while left > 0 {
            self.buffer.resize(COPY.min(usize::try_from(left).unwrap_or(COPY)), 0);
            let n = match content.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result.context(|| format!("read `{}`", entry.path.escape_ascii()))?,
            };
            if n == 0 {
                let path = entry.path.escape_ascii();
                return Err(Error::new(Kind::Conflict, format!("`{path}` became shorter while it was read")));
            }
            self.out.write_all(&self.buffer[..n]).context(|| "write the archive")?;
            left -= n as u64;
        }
        let padding = size.wrapping_neg() as usize % BLOCK;
        self.out.write_all(&[0; BLOCK][..padding]).context(|| "write the archive")
    }

    /// Writes the end marker and gives the output back.
    ///
    /// # Errors
    /// The output fails.
    pub fn finish(mut self) -> Result<W> {
        self.out.write_all(&[0; 2 * BLOCK]).context(|| "write the archive")?;
        Ok(self.out)
    }

    /// The output as it is, without an end marker.
    pub fn into_inner(self) -> W {
        self.out
    }

    /// Writes the header alone: content of `entry.size` bytes, padded with zeros to whole blocks of 512, has to follow.
    ///
    /// # Errors
    /// The output fails, or the entry cannot be expressed in tar.
    pub fn begin(&mut self, entry: &Entry) -> Result<()> {
        let mut path = entry.path.clone();
        if entry.kind == EntryKind::Dir && !path.ends_with(b"/") {
            path.push(b'/');
        }
        let mut records = Vec::new();
        let name = split_name(&path);
        let mut long = Vec::new();
        if name.is_none() {
            match std::str::from_utf8(&path) {
                Ok(_) => record(&mut records, b"path", &path),
                Err(_) => long.push((b'L', path.clone())),
            }
        }
        let links = matches!(entry.kind, EntryKind::Symlink | EntryKind::Hardlink);
        if links && entry.link.len() > 100 {
            match std::str::from_utf8(&entry.link) {
                Ok(_) => record(&mut records, b"linkpath", &entry.link),
                Err(_) => long.push((b'K', entry.link.clone())),
            }
        }
        let size = if entry.kind == EntryKind::File { entry.size } else { 0 };
        for (key, value, max) in [("size", size, OCTAL_MAX), ("uid", entry.uid, ID_MAX), ("gid", entry.gid, ID_MAX)] {
            if value > max {
                record(&mut records, key.as_bytes(), value.to_string().as_bytes());
            }
        }
        let (seconds, nanos) = (entry.mtime.seconds, entry.mtime.nanos);
        let plain_time = u64::try_from(seconds).ok().filter(|seconds| *seconds <= OCTAL_MAX && nanos == 0);
        if plain_time.is_none() {
            record(&mut records, b"mtime", pax_time(seconds, nanos).as_bytes());
        }
        for (key, value) in &entry.xattrs {
            // A key of a record ends at `=`; libarchive's form has a way to write one.
            if key.contains(&b'=') {
                record(&mut records, &[b"LIBARCHIVE.xattr.", &percent_encoded(key)[..]].concat(), &base64(value));
            } else {
                record(&mut records, &[b"SCHILY.xattr.", key.as_slice()].concat(), value);
            }
        }
        for (kind, text) in long {
            let mut fields = Fields::new(b"././@LongLink", kind, text.len() as u64 + 1);
            fields.bytes[257..265].copy_from_slice(b"ustar  \0");
            self.block(fields.sealed())?;
            self.padded(&[&text[..], b"\0"].concat())?;
        }
        if !records.is_empty() {
            let fields = Fields::new(b"PaxHeaders.0/entry", b'x', records.len() as u64);
            self.block(fields.sealed())?;
            self.padded(&records)?;
        }
        let (prefix, last) = name.unwrap_or((b"", &path[..path.len().min(100)]));
        let kind = match entry.kind {
            EntryKind::File => b'0',
            EntryKind::Hardlink => b'1',
            EntryKind::Symlink => b'2',
            EntryKind::Char => b'3',
            EntryKind::Block => b'4',
            EntryKind::Dir => b'5',
            EntryKind::Fifo => b'6',
        };
        let mut fields = Fields::new(last, kind, if size > OCTAL_MAX { 0 } else { size });
        fields.octal(100, 8, u64::from(entry.mode & 0o7777));
        fields.octal(108, 8, if entry.uid > ID_MAX { 0 } else { entry.uid });
        fields.octal(116, 8, if entry.gid > ID_MAX { 0 } else { entry.gid });
        fields.octal(136, 12, u64::try_from(seconds).unwrap_or(0).min(OCTAL_MAX));
        if links {
            fields.text(157, 100, &entry.link[..entry.link.len().min(100)]);
        }
        if matches!(entry.kind, EntryKind::Char | EntryKind::Block) {
            fields.octal(329, 8, entry.device.0.into());
            fields.octal(337, 8, entry.device.1.into());
        }
        fields.text(345, 155, prefix);
        self.block(fields.sealed())
    }

    fn block(&mut self, block: [u8; BLOCK]) -> Result<()> {
        self.out.write_all(&block).context(|| "write the archive")
    }

    fn padded(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.clear();
        self.buffer.extend_from_slice(bytes);
        self.buffer.resize(bytes.len().next_multiple_of(BLOCK), 0);
        self.out.write_all(&self.buffer).context(|| "write the archive")
    }
}

/// One header block.
struct Fields {
    bytes: [u8; BLOCK],
}

impl Fields {
    fn new(name: &[u8], kind: u8, size: u64) -> Self {
        let mut fields = Self { bytes: [0; BLOCK] };
        fields.text(0, 100, name);
        fields.octal(100, 8, 0);
        fields.octal(108, 8, 0);
        fields.octal(116, 8, 0);
        fields.octal(124, 12, size);
        fields.octal(136, 12, 0);
        fields.bytes[156] = kind;
        fields.bytes[257..265].copy_from_slice(b"ustar\x0000");
        fields
    }

    fn text(&mut self, at: usize, width: usize, text: &[u8]) {
        let size = text.len().min(width);
        self.bytes[at..at + size].copy_from_slice(&text[..size]);
    }

    /// A number in octal, zero-padded, with a NUL after it.
    fn octal(&mut self, at: usize, width: usize, number: u64) {
        let digits = format!("{number:0width$o}\0", width = width - 1);
        self.text(at, width, digits.as_bytes());
    }

    /// The block with its checksum, in which the checksum's own field counts as spaces.
    fn sealed(mut self) -> [u8; BLOCK] {
        self.bytes[148..156].fill(b' ');
        let sum: u64 = self.bytes.iter().map(|b| u64::from(*b)).sum();
        self.octal(148, 7, sum);
        self.bytes
    }
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
pub(super) fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// Prefix and name of a path that fits in a ustar header.
fn split_name(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((b"", path));
    }
    if path.len() > 256 {
        return None;
    }
    // The slash between the two is not stored; one at the very end belongs to the name.
    let slashes = path.iter().enumerate().filter(|(i, b)| **b == b'/' && *i > 0 && *i < path.len() - 1);
    let fitting = slashes.map(|(i, _)| i).find(|i| *i <= 155 && path.len() - i - 1 <= 100)?;
    Some((&path[..fitting], &path[fitting + 1..]))
}

/// A time as PAX writes it: a decimal number of seconds.
fn pax_time(seconds: i64, nanos: u32) -> String {
    match (seconds, nanos) {
        (seconds, 0) => seconds.to_string(),
        (seconds @ 0.., nanos) => format!("{seconds}.{nanos:09}").trim_end_matches('0').to_owned(),
        (seconds, nanos) => {
            format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos).trim_end_matches('0').to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Limits;
    use super::super::read::{TarReader, Time};
    use super::*;

    fn entry(path: &[u8]) -> Entry {
        Entry {
            path: path.to_vec(),
            kind: EntryKind::File,
            link: Vec::new(),
            mode: 0o4755,
            uid: 3_000_000,
            gid: 7,
            mtime: Time { seconds: -2, nanos: 750_000_000 },
            size: 3,
            device: (0, 0),
            xattrs: vec![(b"user.x".to_vec(), b"\0\xff=\n".to_vec()), (b"user.\xff%=\xfe".to_vec(), b"odd".to_vec())],
            sparse: None,
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let long = [b"d/".repeat(60), b"n".repeat(99)].concat();
        let longer = b"x".repeat(300);
        let odd = [&b"\xff"[..], &b"y".repeat(200)].concat();
        for path in [&b"f"[..], &long, &longer, &odd, b"\xfe"] {
            let mut writer = TarWriter::new(Vec::new());
            writer.append_file(&entry(path), &b"abc"[..]).expect("written");
            let bytes = writer.finish().expect("finished");
            let mut reader = TarReader::new(&bytes[..], &Limits::default());
            let found = reader.next_entry().expect("readable").expect("an entry");
            let expected = entry(path);
            assert_eq!(found.path, expected.path);
            assert_eq!((found.mode, found.uid, found.gid, found.mtime), (0o4755, 3_000_000, 7, expected.mtime));
            assert_eq!(found.xattrs, expected.xattrs);
            assert_eq!(reader.chunk(99).expect("content"), b"abc");
            assert!(reader.next_entry().expect("readable").is_none());
        }
    }

    #[test]
    fn others_read_it_too() {
        let mut writer = TarWriter::new(Vec::new());
        let path = [b"d/".repeat(60), b"n".repeat(99)].concat();
        writer.append_file(&entry(&path), &b"abc"[..]).expect("written");
        let bytes = writer.finish().expect("finished");
        let mut archive = tar::Archive::new(&bytes[..]);
        let found = archive.entries().expect("entries").next().expect("one").expect("valid");
        assert_eq!(&*found.path_bytes(), path.as_slice());
    }
}
