//! Archives of images as files: members found without reading their content, members written side by side.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use layerfs::archive::read::{Entry, EntryKind, TarReader, Time};
use layerfs::archive::{Limits, TarWriter, decompress};
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::DOCUMENT_MAX;

use super::{NewFile, scratch_file, store, write_chunks};
use crate::stream::{Chunks, FromRead};

const BLOCK: u64 = 512;
/// Headers are read in pieces of this size.
const HEADERS: usize = 4096;
/// More members than any archive of images has.
const MEMBERS_MAX: usize = 100_000;
/// Links are followed so often.
const LINKS_MAX: usize = 8;

/// An archive open for reading.
pub(crate) struct TarFile {
    file: File,
    members: HashMap<String, Member>,
    name: String,
}

/// What an archive has under a name.
#[derive(Clone, Debug, PartialEq)]
enum Member {
    File { offset: u64, size: u64 },
    Link(String),
}

impl TarFile {
    /// Opens an archive. One that is compressed, or that comes through a pipe, is unpacked into a scratch file while it
    /// is read: what says which members are wanted (`manifest.json`, `index.json`) stands at its end.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let file = File::open(path).at("open", path)?;
        let limits = store::limits()?;
        let plain = file.metadata().at("open", path)?.is_file() && !is_compressed(&file).at("read", path)?;
        let (file, members) = match plain {
            true => index(&file, &limits).map(|members| (file, members)),
            false => spool(&file, limits),
        }
        .at("read archive", path)?;
        Ok(Self { file, members, name })
    }

    /// Whether there is a member of that name.
    pub(crate) fn has(&self, member: &str) -> bool {
        self.find(member).is_ok()
    }

    /// A member's size in bytes.
    pub(crate) fn size(&self, member: &str) -> Result<u64> {
        self.find(member).map(|(_, size)| size)
    }

    /// Begins to read a member.
    pub(crate) fn open_member(&self, member: &str) -> Result<Box<dyn Chunks>> {
        Ok(Box::new(FromRead::new(self.reader(member)?, format!("`{member}` in `{}`", self.name))))
    }

    /// A reader of a member.
    pub(crate) fn reader(&self, member: &str) -> Result<impl Read + Send + use<>> {
        let (offset, size) = self.find(member)?;
        let file = self.file.try_clone().context(|| format!("read `{}`", self.name))?;
        Ok(Slice { file, at: offset, end: offset + size })
    }

    /// A whole small member.
    pub(crate) fn read(&self, member: &str) -> Result<Vec<u8>> {
        let (offset, size) = self.find(member)?;
        if size > DOCUMENT_MAX {
            return Err(Error::new(
                Kind::Limit,
                format!("`{member}` in `{}` has more than {DOCUMENT_MAX} bytes", self.name),
            ));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, offset).context(|| format!("read `{member}` in `{}`", self.name))?;
        Ok(bytes)
    }

    fn find(&self, member: &str) -> Result<(u64, u64)> {
        let mut name = normalise(member);
        for _ in 0..LINKS_MAX {
            match self.members.get(&name) {
                Some(Member::File { offset, size }) => return Ok((*offset, *size)),
                Some(Member::Link(target)) => name = target.clone(),
                None => break,
            }
        }
        Err(Error::new(Kind::NotFound, format!("archive `{}` has no `{member}`", self.name)))
    }
}

fn is_compressed(file: &File) -> std::io::Result<bool> {
    let mut start = [0; 4];
    let n = file.read_at(&mut start, 0)?;
    Ok(matches!(start[..n], [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd]))
}

/// Reads all headers and skips all content.
fn index(file: &File, limits: &Limits) -> Result<HashMap<String, Member>> {
    let (mut file, mut members, mut at) = (file, HashMap::new(), 0);
    let length = file.seek(SeekFrom::End(0)).context(|| "find the end")?;
    loop {
        file.seek(SeekFrom::Start(at)).context(|| "read a header")?;
        let mut reader = TarReader::new(BufReader::with_capacity(HEADERS, file), limits);
        let Some(entry) = reader.next_entry()? else { return Ok(members) };
        let (begin, size) = reader.content();
        let begin = at + begin;
        if begin.saturating_add(size) > length {
            let path = entry.path.escape_ascii();
            return Err(Error::new(Kind::Corrupt, format!("it ends in the middle of `{path}`"))
                .hint("the file was cut off; make the archive again"));
        }
        at = begin + padded(size);
        keep(&mut members, &entry, begin)?;
    }
}

/// Unpacks an archive that can be read once only, and finds its members on the way.
fn spool(file: &File, limits: Limits) -> Result<(File, HashMap<String, Member>)> {
    let scratch = scratch_file()?;
    let (compressed, unpacked) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut copied = Copied {
        source: decompress(Counted { source: file, count: &compressed })?,
        copy: &scratch,
        count: &unpacked,
        most: &|| limits.clone().for_blob(compressed.load(Ordering::Relaxed)).bytes,
    };
    let mut reader = TarReader::new(BufReader::with_capacity(1 << 18, &mut copied), &limits);
    let mut members = HashMap::new();
    while let Some(entry) = reader.next_entry()? {
        let (begin, _) = reader.content();
        keep(&mut members, &entry, begin)?;
    }
    // Whoever writes into a pipe has to get rid of what follows the end.
    reader.drain()?;
    Ok((scratch, members))
}

/// Takes note of a member whose content begins at `offset`.
fn keep(members: &mut HashMap<String, Member>, entry: &Entry, offset: u64) -> Result<()> {
    let name = normalise(&String::from_utf8_lossy(&entry.path));
    let link = || String::from_utf8_lossy(&entry.link);
    let member = match entry.kind {
        EntryKind::File if entry.sparse.is_some() => {
            let sentence = format!("it has a sparse member, `{name}`, which archives of images do not");
            return Err(Error::new(Kind::Unsupported, sentence));
        }
        EntryKind::File => Member::File { offset, size: entry.size },
        EntryKind::Symlink => Member::Link(resolve(&name, &link())),
        EntryKind::Hardlink => Member::Link(normalise(&link())),
        _ => return Ok(()),
    };
    members.insert(name, member);
    match members.len() > MEMBERS_MAX {
        true => Err(Error::new(Kind::Limit, format!("it has more than {MEMBERS_MAX} members"))),
        false => Ok(()),
    }
}

/// A reader that counts.
struct Counted<'a> {
    source: &'a File,
    count: &'a AtomicU64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.source.read(buffer)?;
        self.count.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// A reader that leaves a copy of what passed, as long as that is not more than what was compressed can stand for.
struct Copied<'a, R> {
    source: R,
    copy: &'a File,
    count: &'a AtomicU64,
    most: &'a (dyn Fn() -> u64 + Sync),
}

impl<R: Read> Read for Copied<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.source.read(buffer)?;
        let most = (self.most)();
        if self.count.fetch_add(n as u64, Ordering::Relaxed) + n as u64 > most {
            let sentence = format!("the archive has more than {most} bytes unpacked, its limit `bytes`");
            return Err(Error::new(Kind::Limit, sentence).into());
        }
        self.copy.write_all(&buffer[..n])?;
        Ok(n)
    }
}

/// A member's name in one spelling: `./a//b` is `a/b`. Names are only ever looked up here, never opened on disk.
fn normalise(name: &str) -> String {
    let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    parts.join("/")
}

/// The member a symbolic link at `name` leads to.
fn resolve(name: &str, target: &str) -> String {
    let mut parts: Vec<&str> = if target.starts_with('/') { Vec::new() } else { name.split('/').collect() };
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A part of a file, read without moving the file's own position.
struct Slice {
    file: File,
    at: u64,
    end: u64,
}

impl Read for Slice {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// An archive being written, by several threads at once where its file allows.
pub(crate) struct TarOutput {
    target: Target,
    state: Mutex<State>,
    name: String,
}

enum Target {
    /// A file that appears when it is complete.
    File(NewFile),
    /// A pipe, a terminal or a device: written in one go.
    Stream(File),
}

#[derive(Default)]
struct State {
    end: u64,
    /// Room that was given to a member. An attempt that failed keeps it for the next.
    reserved: HashMap<String, u64>,
}

impl TarOutput {
    /// Begins the archive at `path`.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let stream = path.metadata().is_ok_and(|metadata| !metadata.is_file());
        let target = match stream {
            true => Target::Stream(File::options().write(true).open(path).at("open", path)?),
            false => Target::File(NewFile::create(path)?),
        };
        Ok(Self { target, state: Mutex::default(), name: path.display().to_string() })
    }

    /// Adds a member of known size.
    pub(crate) fn add(&self, member: &str, size: u64, chunks: &mut dyn Chunks) -> Result<()> {
        let header = header(member, size)?;
        match &self.target {
            Target::File(new) => {
                let at = self.reserve(member, header.len() as u64 + padded(size));
                let mut out = At { file: &new.file, at: at + header.len() as u64 };
                let written = write_chunks(&mut out, chunks, || self.place(member))?;
                self.check_size(member, size, written)?;
                // The header comes last, and the padding is a hole.
                new.file.write_all_at(&header, at).context(|| format!("write {}", self.place(member)))
            }
            Target::Stream(file) => {
                let _whole = self.lock();
                self.append(file, member, &header, size, chunks)
            }
        }
    }

    /// Adds a member whose size shows only when it has been read.
    pub(crate) fn add_unsized(&self, member: &str, chunks: &mut dyn Chunks) -> Result<u64> {
        match &self.target {
            Target::File(new) => {
                let mut state = self.lock();
                let length = header(member, 0)?.len() as u64;
                let mut out = At { file: &new.file, at: state.end + length };
                let size = write_chunks(&mut out, chunks, || self.place(member))?;
                let header = header(member, size)?;
                if header.len() as u64 != length {
                    return Err(Error::new(Kind::Limit, format!("{} is too large", self.place(member))));
                }
                new.file.write_all_at(&header, state.end).context(|| format!("write {}", self.place(member)))?;
                state.end += length + padded(size);
                Ok(size)
            }
            Target::Stream(file) => {
                let mut scratch = scratch_file()?;
                let size = write_chunks(&mut scratch, chunks, || self.place(member))?;
                scratch.seek(SeekFrom::Start(0)).context(|| "read a scratch file")?;
                let _whole = self.lock();
                let mut chunks = FromRead::new(scratch, "a scratch file");
                self.append(file, member, &header(member, size)?, size, &mut chunks)?;
                Ok(size)
            }
        }
    }

    /// Adds a small member.
    pub(crate) fn add_bytes(&self, member: &str, bytes: &[u8]) -> Result<()> {
        self.add(member, bytes.len() as u64, &mut FromRead::new(bytes, member))
    }

    /// Ends the archive and gives it its name.
    pub(crate) fn finish(self) -> Result<()> {
        let end = self.state.into_inner().unwrap_or_else(PoisonError::into_inner).end;
        match self.target {
            Target::File(new) => {
                new.file.set_len(end + 2 * BLOCK).context(|| format!("write `{}`", self.name))?;
                new.commit()
            }
            Target::Stream(mut file) => file.write_all(&[0; 1024]).context(|| format!("write `{}`", self.name)),
        }
    }

    fn append(&self, mut file: &File, member: &str, header: &[u8], size: u64, chunks: &mut dyn Chunks) -> Result<()> {
        file.write_all(header).context(|| format!("write {}", self.place(member)))?;
        let written = write_chunks(&mut file, chunks, || self.place(member))?;
        self.check_size(member, size, written)?;
        let padding = usize::try_from(padded(size) - size).unwrap_or(0);
        file.write_all(&[0; BLOCK as usize][..padding]).context(|| format!("write {}", self.place(member)))
    }

    fn reserve(&self, member: &str, size: u64) -> u64 {
        let mut state = self.lock();
        if let Some(at) = state.reserved.get(member) {
            return *at;
        }
        let at = state.end;
        state.end += size;
        state.reserved.insert(member.to_owned(), at);
        at
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_size(&self, member: &str, expected: u64, written: u64) -> Result<()> {
        match expected == written {
            true => Ok(()),
            false => {
                Err(Error::new(Kind::Corrupt, format!("{} got {written} of {expected} bytes", self.place(member))))
            }
        }
    }

    fn place(&self, member: &str) -> String {
        format!("`{member}` in `{}`", self.name)
    }
}

/// A writer at a position of its own.
struct At<'a> {
    file: &'a File,
    at: u64,
}

impl Write for At<'_> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let n = self.file.write_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn padded(size: u64) -> u64 {
    size.div_ceil(BLOCK) * BLOCK
}

/// The header of a file: a fixed owner, mode and time, so that equal images make equal archives.
fn header(member: &str, size: u64) -> Result<Vec<u8>> {
    let mut writer = TarWriter::new(Vec::new());
    writer.begin(&Entry {
        path: member.as_bytes().to_vec(),
        kind: EntryKind::File,
        link: Vec::new(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        size,
        device: (0, 0),
        xattrs: Vec::new(),
        sparse: None,
    })?;
    Ok(writer.into_inner())
}

#[cfg(test)]
mod tests {
    use layerfs::archive::{Compression, Compressor};

    use super::*;
    use crate::stream::read_all;

    #[test]
    fn what_was_written_is_found() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("x.tar");
        let out = TarOutput::create(&path).expect("created");
        let long = format!("blobs/sha512/{}", "a".repeat(128));
        out.add_bytes("a", b"one").expect("added");
        out.add_unsized("b/c", &mut FromRead::new(&[7; 1000][..], "x")).expect("added");
        out.add_bytes(&long, b"").expect("added");
        assert!(!path.exists(), "it appears when it is complete");
        out.finish().expect("finished");
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 1);

        let archive = TarFile::open(&path).expect("readable");
        assert_eq!(archive.read("./a").expect("there"), b"one");
        assert_eq!(archive.size("b/c").expect("there"), 1000);
        assert_eq!(read_all(&mut archive.open_member("b/c").expect("there"), 2000).expect("read"), [7; 1000]);
        assert!(archive.has(&long) && !archive.has("b"));
        // The system's own tar agrees.
        let listed = std::process::Command::new("tar").arg("-tf").arg(&path).output().expect("tar runs");
        assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().collect::<Vec<_>>(), ["a", "b/c", &long]);
    }

    #[test]
    fn a_cut_off_archive_is_an_error() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("x.tar");
        let out = TarOutput::create(&path).expect("created");
        out.add_bytes("a", &[1; 5000]).expect("added");
        out.finish().expect("finished");
        let file = File::options().write(true).open(&path).expect("open");
        file.set_len(3000).expect("cut");
        assert_eq!(TarFile::open(&path).err().map(|error| error.kind()), Some(Kind::Corrupt));
    }

    /// What is compressed, and what comes through a pipe, is read once and has the same members.
    #[test]
    fn an_archive_that_can_be_read_once_only_is_the_same_archive() {
        let dir = tempfile::tempdir().expect("tempdir");
        let at = |name: &str| dir.path().join(name);
        let out = TarOutput::create(&at("x.tar")).expect("created");
        out.add_bytes("a", b"one").expect("added");
        out.add_bytes("b/c", &[7; 1_000_000]).expect("added");
        out.finish().expect("finished");
        let plain = std::fs::read(at("x.tar")).expect("written");
        for (name, compression) in [("x.tar.gz", Compression::GZIP), ("x.tar.zst", Compression::ZSTD)] {
            let mut compressor = Compressor::new(Vec::new(), compression).expect("a compressor");
            compressor.write_all(&plain).expect("written");
            std::fs::write(at(name), compressor.finish().expect("finished")).expect("written");
        }
        let made = std::process::Command::new("mkfifo").arg(at("pipe")).status().expect("mkfifo runs");
        assert!(made.success());
        // More than a pipe holds: what follows the end of the archive is taken from it, too.
        let padded = [&plain[..], &[0; 300_000]].concat();
        for name in ["x.tar", "x.tar.gz", "x.tar.zst", "pipe"] {
            let archive = std::thread::scope(|scope| {
                let writer = (name == "pipe").then(|| scope.spawn(|| std::fs::write(at("pipe"), &padded)));
                let archive = TarFile::open(&at(name)).expect(name);
                if let Some(writer) = writer {
                    writer.join().expect("no panic").expect("everything was read");
                }
                archive
            });
            assert_eq!(archive.read("a").expect("there"), b"one", "{name}");
            let content = read_all(&mut archive.open_member("b/c").expect("there"), 2_000_000).expect("read");
            assert!(content == [7; 1_000_000], "{name}");
        }
    }

    /// Eight gigabytes of zeros in eight megabytes: the scratch file stops at the limit.
    #[test]
    fn a_compressed_archive_that_grows_without_end_is_refused() {
        let limits = Limits { bytes: 64 << 20, ..Limits::default() };
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("bomb");
        let header = header("layer.tar", 1 << 33).expect("a header");
        let mut compressor = Compressor::new(Vec::new(), Compression::GZIP).expect("a compressor");
        compressor.write_all(&[0; 1 << 20]).expect("written");
        let zeros = compressor.finish().expect("finished");
        let mut compressor = Compressor::new(Vec::new(), Compression::GZIP).expect("a compressor");
        compressor.write_all(&header).expect("written");
        let bomb = [compressor.finish().expect("finished"), zeros.repeat(1 << 10)].concat();
        std::fs::write(&path, bomb).expect("written");
        let error = spool(&File::open(&path).expect("there"), limits).expect_err("too much");
        assert_eq!(error.kind(), Kind::Limit, "{}", error.chain());
    }

    #[test]
    fn a_sparse_member_and_a_file_that_is_no_archive_are_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("x");
        let check = |bytes: &[u8], kind: Kind| {
            std::fs::write(&path, bytes).expect("written");
            assert_eq!(TarFile::open(&path).err().map(|error| error.kind()), Some(kind));
        };
        check(&[b'x'; 5000], Kind::Invalid);
        let mut sparse = header("f", 0).expect("a header");
        sparse[156] = b'S';
        sparse[257..265].copy_from_slice(b"ustar  \0");
        sparse[148..156].fill(b' ');
        let sum: u32 = sparse.iter().map(|byte| u32::from(*byte)).sum();
        sparse[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        check(&[&sparse[..], &[0; 1024]].concat(), Kind::Unsupported);
    }

    #[test]
    fn links_stay_inside_the_archive() {
        assert_eq!(resolve("abc/layer.tar", "../def/layer.tar"), "def/layer.tar");
        assert_eq!(resolve("a", "/etc/passwd"), "etc/passwd");
        assert_eq!(resolve("a", "../../x"), "x");
    }
}
