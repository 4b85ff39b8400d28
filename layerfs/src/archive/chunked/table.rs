//! The table of contents, the means to make the archive again, and the footer.

use std::io::Write;

use serde::Serialize;

use super::super::pax::base64;
use super::super::read::{Entry, EntryKind, Stated, Time};
use super::Annotations;
use super::frames::Chunk;
use crate::digest::Digest;
use crate::error::{Context, Result};
use crate::time;

const ANNOTATION: &str = "io.github.containers.zstd-chunked.";
/// A frame that decompressors pass over, of any length.
const SKIPPABLE: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];
const FOOTER_MAGIC: &[u8; 8] = b"GNUlInUx";
/// The only kind of table there is.
const TABLE_KIND: u64 = 1;
/// How strongly both documents are compressed.
const LEVEL: i32 = 3;
/// The first and the last second that a date with a year of four digits can have.
const FIRST_SECOND: i64 = -62_135_596_800;
const LAST_SECOND: i64 = 253_402_300_799;

/// An entry of an archive as the table has it: what Go's reader makes of the same header.
#[derive(Serialize)]
pub(super) struct Described {
    #[serde(rename = "type")]
    kind: &'static str,
    name: String,
    #[serde(rename = "linkName", skip_serializing_if = "String::is_empty")]
    link: String,
    #[serde(skip_serializing_if = "is_zero")]
    mode: i64,
    #[serde(skip_serializing_if = "is_none")]
    size: u64,
    #[serde(skip_serializing_if = "is_none")]
    uid: u64,
    #[serde(skip_serializing_if = "is_none")]
    gid: u64,
    modtime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    accesstime: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changetime: Option<String>,
    #[serde(rename = "devMajor", skip_serializing_if = "is_none_u32")]
    major: u32,
    #[serde(rename = "devMinor", skip_serializing_if = "is_none_u32")]
    minor: u32,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    xattrs: serde_json::Map<String, serde_json::Value>,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

fn is_none(number: &u64) -> bool {
    *number == 0
}

fn is_none_u32(number: &u32) -> bool {
    *number == 0
}

impl Described {
    /// `None` where there is no saying it in the table.
    pub(super) fn new(entry: &Entry, stated: &Stated) -> Option<Self> {
        if stated.odd {
            return None;
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        let mut xattrs = serde_json::Map::new();
        for (name, value) in &entry.xattrs {
            xattrs.insert(text(name)?, text(&base64(value))?.into());
        }
        let optional = |time: Option<Time>| match time {
            Some(time) => date(time).map(Some),
            None => Some(None),
        };
        Some(Self {
            kind: match entry.kind {
                EntryKind::File => "reg",
                EntryKind::Dir => "dir",
                EntryKind::Symlink => "symlink",
                EntryKind::Hardlink => "hardlink",
                EntryKind::Char => "char",
                EntryKind::Block => "block",
                EntryKind::Fifo => "fifo",
            },
            name: text(&entry.path)?,
            link: text(&entry.link)?,
            mode: stated.mode,
            size: entry.size,
            uid: entry.uid,
            gid: entry.gid,
            modtime: date(entry.mtime)?,
            accesstime: optional(stated.atime)?,
            changetime: optional(stated.ctime)?,
            major: stated.device.0,
            minor: stated.device.1,
            xattrs,
        })
    }

    /// Whether chunks follow.
    pub(super) fn has_content(&self) -> bool {
        self.kind == "reg" && self.size > 0
    }
}

/// The table's line for a file, and for the first of its chunks.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    entry: &'a Described,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    #[serde(skip_serializing_if = "is_none")]
    offset: u64,
    #[serde(rename = "endOffset", skip_serializing_if = "is_none")]
    end: u64,
    #[serde(flatten)]
    chunk: Option<Part>,
}

/// The table's line for a chunk after the first.
#[derive(Serialize)]
struct ChunkLine<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'a str,
    offset: u64,
    #[serde(flatten)]
    chunk: Part,
}

#[derive(Serialize)]
struct Part {
    #[serde(rename = "chunkSize")]
    size: u64,
    #[serde(rename = "chunkOffset", skip_serializing_if = "is_none")]
    at: u64,
    #[serde(rename = "chunkDigest")]
    digest: Digest,
    #[serde(rename = "chunkType", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
}

impl Part {
    fn new(chunk: &Chunk, at: u64) -> Self {
        Self { size: chunk.size, at, digest: chunk.digest, kind: chunk.zeros.then_some("zeros") }
    }
}

/// A line of what is needed to make the archive again: bytes between contents, or the place of a content.
#[derive(Serialize)]
struct SplitLine<'a> {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "is_none")]
    size: u64,
    payload: Option<&'a str>,
    position: u64,
}

/// Both documents while they grow.
pub(super) struct Table {
    contents: Document,
    split: Document,
    lines: u64,
    positions: u64,
}

impl Table {
    /// Empty ones.
    pub(super) fn new() -> Result<Self> {
        let mut contents = Document::new()?;
        contents.write(b"{\"version\":1,\"entries\":[")?;
        Ok(Self { contents, split: Document::new()?, lines: 0, positions: 0 })
    }

    /// Adds an entry whose content, with these sums, ends before `end`.
    pub(super) fn add(
        &mut self,
        entry: &Described,
        chunks: &[Chunk],
        end: u64,
        sums: Option<(Digest, Crc)>,
    ) -> Result<()> {
        let several = chunks.len() > 1;
        let offset = chunks.first().map_or(0, |chunk| chunk.offset);
        self.line(&Line {
            entry,
            digest: sums.as_ref().map(|(digest, _)| *digest),
            offset,
            end: if chunks.is_empty() { 0 } else { end },
            chunk: chunks.first().filter(|_| several).map(|chunk| Part::new(chunk, 0)),
        })?;
        let mut at = 0;
        for chunk in chunks {
            if at > 0 {
                let part = Part::new(chunk, at);
                self.line(&ChunkLine { kind: "chunk", name: &entry.name, offset: chunk.offset, chunk: part })?;
            }
            at += chunk.size;
        }
        let sum = sums.map(|(_, crc)| base64(&crc.finish()));
        let payload = sum.as_deref().and_then(|sum| std::str::from_utf8(sum).ok());
        self.split_line(SplitLine { kind: 1, name: Some(&entry.name), size: entry.size, payload, position: 0 })
    }

    /// Adds bytes that are no content.
    pub(super) fn segment(&mut self, bytes: &[u8]) -> Result<()> {
        let payload = base64(bytes);
        let payload = std::str::from_utf8(&payload).ok();
        self.split_line(SplitLine { kind: 2, name: None, size: 0, payload, position: 0 })
    }

    /// The three frames that end a blob of `at` bytes, and what its descriptor says of them.
    pub(super) fn finish(mut self, at: u64) -> Result<(Vec<u8>, Annotations)> {
        let (split, split_size) = self.split.finish()?;
        let split_digest = Digest::of(&split);
        self.contents.write(format!("],\"tarSplitDigest\":\"{split_digest}\"}}").as_bytes())?;
        let (contents, contents_size) = self.contents.finish()?;
        let head = SKIPPABLE.len() as u64 + 4;
        let contents_at = at + head;
        let split_at = contents_at + contents.len() as u64 + head;
        let numbers =
            [contents_at, contents.len() as u64, contents_size, TABLE_KIND, split_at, split.len() as u64, split_size];
        let footer: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).chain(*FOOTER_MAGIC).collect();
        let annotations = [
            ("manifest-checksum", Digest::of(&contents).to_string()),
            ("manifest-position", format!("{contents_at}:{}:{contents_size}:{TABLE_KIND}", contents.len())),
            ("tarsplit-position", format!("{split_at}:{}:{split_size}", split.len())),
        ];
        let mut trailer = Vec::new();
        for frame in [contents, split, footer] {
            let size = u32::try_from(frame.len()).map_err(|_| too_large())?;
            trailer.extend(SKIPPABLE);
            trailer.extend(size.to_le_bytes());
            trailer.extend(frame);
        }
        Ok((trailer, annotations.map(|(key, value)| (format!("{ANNOTATION}{key}"), value)).into()))
    }

    fn line(&mut self, line: &impl Serialize) -> Result<()> {
        if self.lines > 0 {
            self.contents.write(b",")?;
        }
        self.lines += 1;
        self.contents.json(line)
    }

    fn split_line(&mut self, line: SplitLine<'_>) -> Result<()> {
        self.split.json(&SplitLine { position: self.positions, ..line })?;
        self.positions += 1;
        self.split.write(b"\n")
    }
}

fn too_large() -> crate::error::Error {
    crate::error::Error::new(crate::error::Kind::Limit, "the layer's table of contents has more than 4 GiB")
}

/// A document that is compressed while it is written.
struct Document {
    encoder: zstd::stream::write::Encoder<'static, Vec<u8>>,
    size: u64,
}

impl Document {
    fn new() -> Result<Self> {
        let encoder = zstd::stream::write::Encoder::new(Vec::new(), LEVEL).context(|| "set up zstd")?;
        Ok(Self { encoder, size: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.size += bytes.len() as u64;
        self.encoder.write_all(bytes).context(|| "compress")
    }

    fn json(&mut self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_vec(value).context(|| "write the table of contents")?;
        self.write(&text)
    }

    /// The compressed document, and its size before.
    fn finish(self) -> Result<(Vec<u8>, u64)> {
        Ok((self.encoder.finish().context(|| "compress")?, self.size))
    }
}

/// The sum that tar-split keeps of each content: CRC-64 of ISO 3309.
#[derive(Clone)]
pub(super) struct Crc(u64);

impl Default for Crc {
    fn default() -> Self {
        Self(!0)
    }
}

/// Eight bytes at a time: `TABLES[n]` is what a byte does that n others follow.
static TABLES: [[u64; 256]; 8] = tables();

const fn tables() -> [[u64; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let (mut value, mut bit) = (byte as u64, 0);
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0xd800_0000_0000_0000 } else { value >> 1 };
            bit += 1;
        }
        tables[0][byte] = value;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before: u64 = tables[table - 1][byte];
            tables[table][byte] = tables[0][(before & 0xff) as usize] ^ (before >> 8);
            byte += 1;
        }
        table += 1;
    }
    tables
}

impl Crc {
    /// Adds bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        let (eights, rest) = bytes.as_chunks::<8>();
        for eight in eights {
            let parts = (self.0 ^ u64::from_le_bytes(*eight)).to_le_bytes();
            self.0 = (0..8).fold(0, |sum, place| sum ^ TABLES[7 - place][usize::from(parts[place])]);
        }
        for byte in rest {
            self.0 = TABLES[0][usize::from(self.0 as u8 ^ byte)] ^ (self.0 >> 8);
        }
    }

    fn finish(&self) -> [u8; 8] {
        (!self.0).to_be_bytes()
    }
}

/// A path without what makes no difference: two entries of the same one cannot be told apart.
pub(super) fn cleaned(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let start: &[u8] = if path.starts_with(b"/") { b"/" } else { b"" };
    [start, &parts.join(&b'/')].concat()
}

/// RFC 3339, with nanoseconds where there are any; `None` where the year has not four digits.
fn date(time: Time) -> Option<String> {
    (FIRST_SECOND..=LAST_SECOND).contains(&time.seconds).then(|| match time.nanos {
        0 => time::format_seconds(time.seconds),
        nanos => time::format(i128::from(time.seconds) * time::SECOND + i128::from(nanos)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_isos() {
        // The check value of CRC-64/GO-ISO.
        for split in 0..=9 {
            let (start, end) = b"123456789".split_at(split);
            let mut crc = Crc::default();
            crc.update(start);
            crc.update(end);
            assert_eq!(crc.finish(), 0xb909_56c7_75a4_1001_u64.to_be_bytes());
        }
    }

    #[test]
    fn dates_are_rfc_3339() {
        let check = |seconds, nanos, expected: Option<&str>| {
            assert_eq!(date(Time { seconds, nanos }).as_deref(), expected);
        };
        check(0, 0, Some("1970-01-01T00:00:00Z"));
        check(951_782_400, 5, Some("2000-02-29T00:00:00.000000005Z"));
        check(-1, 0, Some("1969-12-31T23:59:59Z"));
        check(LAST_SECOND, 0, Some("9999-12-31T23:59:59Z"));
        check(LAST_SECOND + 1, 0, None);
        check(FIRST_SECOND, 0, Some("0001-01-01T00:00:00Z"));
    }

    #[test]
    fn paths_are_the_same_however_they_are_written() {
        for path in ["a/b", "./a/b", "a//b/", "a/x/../b"] {
            assert_eq!(cleaned(path.as_bytes()), b"a/b", "{path}");
        }
        assert_eq!(cleaned(b"/a"), b"/a");
        assert_eq!(cleaned(b"../a"), b"../a");
    }
}
