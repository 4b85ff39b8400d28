//! `ADD` of an archive: its members become entries of the layer, read and written as streams.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use layerfs::archive::read::{EntryKind, TarReader};
use layerfs::archive::{Limits, TarWriter, decompress};
use layerfs::error::{Context, Error, Kind, Result};

use super::below;
use super::output::Style;

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Plain, gzip or zstd.
    Own,
    /// By a program of this name that is there or not.
    Program(&'static str),
}

/// Whether the file is an archive that `ADD` unpacks: told by content, not by name.
pub(super) fn detect(path: &Path) -> Result<Option<Form>> {
    let mut start = Vec::new();
    File::open(path).at("open", path)?.take(512).read_to_end(&mut start).at("read", path)?;
    let form = match start.as_slice() {
        [b'B', b'Z', b'h', ..] => Form::Program("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Form::Program("xz"),
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => Form::Own,
        start if start.get(257..262) == Some(b"ustar") => return Ok(Some(Form::Own)),
        _ => return Ok(None),
    };
    // A compressed file need not be an archive.
    let Ok(first) = with_reader(path, form, |reader| reader.next_entry()) else { return Ok(None) };
    Ok(first.is_some().then_some(form))
}

/// Writes the members of the archive below the folder `folder`.
pub(super) fn copy(
    tar: &mut TarWriter<impl Write>,
    folder: &[u8],
    path: &Path,
    form: Form,
    style: &Style<'_>,
) -> Result<()> {
    let result = with_reader(path, form, |reader| {
        while let Some(mut entry) = reader.next_entry()? {
            let name = entry.path.escape_ascii().to_string();
            let Some(inside) = clean(&entry.path) else {
                return Err(Error::new(Kind::Invalid, format!("member `{name}` leads out of the archive")));
            };
            if inside.is_empty() {
                continue;
            }
            if inside.split(|byte| *byte == b'/').any(|part| part.starts_with(b".wh.")) {
                return Err(Error::new(Kind::Unsupported, format!("member `{name}` has the name of a whiteout")));
            }
            if entry.kind == EntryKind::Hardlink {
                let target = clean(&entry.link).unwrap_or_default();
                entry.link = below(folder, &target);
            }
            entry.path = below(folder, &inside);
            if let Some((uid, gid)) = style.owner {
                (entry.uid, entry.gid) = (uid.into(), gid.into());
            }
            // Modes stay as the archive has them, `--chmod` or not, as in BuildKit.
            entry.mtime.seconds = style.clock.limit(entry.mtime.seconds);
            entry.mtime.nanos = 0;
            let runs = entry.sparse.take();
            let size = entry.size;
            tar.append_file(&entry, Member { reader, runs: runs.unwrap_or_else(|| vec![(0, size)]), at: 0, size })?;
        }
        Ok(())
    });
    result.context(|| format!("unpack `{}`", path.display()))
}

fn with_reader<T>(
    path: &Path,
    form: Form,
    work: impl FnOnce(&mut TarReader<Box<dyn Read + Send>>) -> Result<T>,
) -> Result<T> {
    let limits = Limits::default();
    let file = File::open(path).at("open", path)?;
    match form {
        Form::Own => {
            let plain: Box<dyn Read + Send> = decompress(file)?;
            work(&mut TarReader::new(plain, limits.metadata, limits.path))
        }
        Form::Program(program) => {
            let spawned =
                Command::new(program).arg("-dc").stdin(file).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
            let mut child = spawned.map_err(|error| {
                Error::new(Kind::Unsupported, format!("`{}` needs the program {program}", path.display()))
                    .because(error)
                    .hint(format!(
                        "install it (Debian and Ubuntu: sudo apt-get install {program}{})",
                        match program {
                            "xz" => "-utils",
                            _ => "",
                        }
                    ))
            })?;
            let output = child.stdout.take().expect("it was piped");
            let result = work(&mut TarReader::new(Box::new(output), limits.metadata, limits.path));
            let _ = child.kill();
            let _ = child.wait();
            result
        }
    }
}

/// A member's content, holes filled with zeros.
struct Member<'a, R> {
    reader: &'a mut TarReader<R>,
    /// The runs of data: offset and length.
    runs: Vec<(u64, u64)>,
    at: u64,
    size: u64,
}

impl<R: Read> Read for Member<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.runs.first().is_some_and(|(start, length)| start + length <= self.at) {
            self.runs.remove(0);
        }
        let (start, end) = self.runs.first().map_or((self.size, self.size), |(start, length)| (*start, start + length));
        let most = buffer.len() as u64;
        if self.at < start {
            let zeros = usize::try_from(start - self.at).unwrap_or(usize::MAX).min(buffer.len());
            buffer[..zeros].fill(0);
            self.at += zeros as u64;
            return Ok(zeros);
        }
        let piece = self.reader.chunk(most.min(end - self.at))?;
        buffer[..piece.len()].copy_from_slice(piece);
        self.at += piece.len() as u64;
        Ok(piece.len())
    }
}

/// The path without a leading slash, `.` and `..`; `None` where it climbs out.
fn clean(path: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}
