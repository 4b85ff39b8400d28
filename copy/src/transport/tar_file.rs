//! Archives of images as files: found members without reading the content, members written side by side.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use layerfs::archive::decompress;
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::DOCUMENT_MAX;
use tar_core::EntryType;
use tar_core::builder::EntryBuilder;
use tar_core::parse::{Limits, ParseEvent, Parser};

use super::{NewFile, scratch_file, write_chunks};
use crate::stream::{Chunks, FromRead};

const BLOCK: u64 = 512;
/// Headers of one member, long names included.
const HEADERS_MAX: usize = 1 << 20;
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
    /// Opens an archive. One that is compressed, or that comes through a pipe, is first unpacked into a scratch file:
    /// its members have to be read in another order than they lie in.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let mut file = File::open(path).at("open", path)?;
        let plain = file.metadata().at("open", path)?.is_file() && !is_compressed(&file).at("read", path)?;
        if !plain {
            let mut scratch = scratch_file()?;
            let mut reader = decompress(&file).at("read", path)?;
            std::io::copy(&mut reader, &mut scratch).at("unpack", path)?;
            drop(reader);
            file = scratch;
        }
        let members = index(&mut file).at("read archive", path)?;
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
fn index(file: &mut File) -> Result<HashMap<String, Member>> {
    let malformed =
        |error: tar_core::parse::ParseError| Error::new(Kind::Invalid, "it is not a tar archive").because(error);
    let length = file.seek(SeekFrom::End(0)).context(|| "find the end")?;
    let limits = Limits { max_path_len: Some(4096), ..Limits::default() };
    let (mut parser, mut members) = (Parser::new(limits), HashMap::new());
    let (mut at, mut buffer, mut wanted) = (0u64, Vec::new(), 2 * BLOCK as usize);
    while at < length {
        buffer.resize(wanted.min(usize::try_from(length - at).unwrap_or(wanted)), 0);
        file.read_exact_at(&mut buffer, at).context(|| "read a header")?;
        match parser.parse(&buffer).map_err(malformed)? {
            ParseEvent::NeedData { min_bytes } => {
                if buffer.len() < wanted || min_bytes > HEADERS_MAX {
                    return Err(Error::new(Kind::Corrupt, "it ends in the middle of a header"));
                }
                wanted = min_bytes.max(wanted * 2);
                continue;
            }
            ParseEvent::End { .. } => break,
            ParseEvent::GlobalExtensions { consumed, .. } => at += consumed as u64,
            ParseEvent::SparseEntry { .. } => {
                return Err(Error::new(Kind::Unsupported, "it has a sparse member, which archives of images do not"));
            }
            ParseEvent::Entry { consumed, entry } => {
                at += consumed as u64;
                let name = normalise(&entry.path_lossy());
                let link = entry.link_target_lossy().map(|target| target.into_owned());
                let member = match (entry.is_symlink(), entry.is_hard_link(), link) {
                    (true, _, Some(target)) => Some(Member::Link(resolve(&name, &target))),
                    (_, true, Some(target)) => Some(Member::Link(normalise(&target))),
                    _ if entry.is_file() => Some(Member::File { offset: at, size: entry.size }),
                    _ => None,
                };
                let content = if entry.is_file() { entry.size } else { 0 };
                at = at.saturating_add(content.div_ceil(BLOCK).saturating_mul(BLOCK));
                if at.saturating_sub(content.wrapping_neg() % BLOCK) > length {
                    return Err(Error::new(Kind::Corrupt, format!("it ends in the middle of `{name}`"))
                        .hint("the file was cut off; make the archive again"));
                }
                if let Some(member) = member {
                    members.insert(name, member);
                }
                if members.len() > MEMBERS_MAX {
                    return Err(Error::new(Kind::Limit, format!("it has more than {MEMBERS_MAX} members")));
                }
            }
        }
        wanted = 2 * BLOCK as usize;
    }
    Ok(members)
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
    let fields = || {
        let mut builder = EntryBuilder::new_gnu();
        builder.path(member).mode(0o644)?.uid(0)?.gid(0)?.size(size)?.mtime(0)?.entry_type(EntryType::Regular);
        Ok::<_, tar_core::HeaderError>(builder.finish_bytes())
    };
    fields()
        .map_err(|error| Error::new(Kind::Invalid, format!("`{member}` does not fit into a tar header")).because(error))
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn links_stay_inside_the_archive() {
        assert_eq!(resolve("abc/layer.tar", "../def/layer.tar"), "def/layer.tar");
        assert_eq!(resolve("a", "/etc/passwd"), "etc/passwd");
        assert_eq!(resolve("a", "../../x"), "x");
    }
}
