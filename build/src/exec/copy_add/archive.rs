//! `ADD` of an archive: its members become entries of the layer, read and written as streams.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use layerfs::archive::read::{Entry, EntryKind, TarReader};
use layerfs::archive::{Limits, TarWriter, decompress};
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::layer::MergedView;

use super::output::{Source, Style};
use super::{below, path};

/// Most symlinks on the way to one member.
const SYMLINKS_MAX: usize = 40;

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
    let mut opened = Opened::new(File::open(path).at("open", path)?, path, form)?;
    let Ok(first) = opened.reader.next_entry() else { return Ok(None) };
    Ok(first.is_some().then_some(form))
}

/// Writes the members of the archive below the folder `folder`, whose other files `view` has.
pub(super) fn copy(
    tar: &mut TarWriter<impl Write>,
    folder: &[u8],
    source: &Source,
    form: Form,
    style: &Style<'_>,
    view: &MergedView,
) -> Result<()> {
    let path = source.path();
    let file = source.open()?;
    let read = file.try_clone().at("open", path)?;
    let mut opened = Opened::new(file, path, form)?;
    let mut ways = Ways::new(folder, view);
    let mut members = || -> Result<()> {
        while let Some(entry) = opened.reader.next_entry()? {
            member(tar, entry, &mut opened.reader, &mut ways, style)?;
        }
        Ok(())
    };
    members().and_then(|()| opened.finish()).context(|| format!("unpack `{}`", path.display()))?;
    source.check(&read)
}

/// Writes one member.
fn member(
    tar: &mut TarWriter<impl Write>,
    mut entry: Entry,
    reader: &mut TarReader<Box<dyn BufRead + Send>>,
    ways: &mut Ways<'_>,
    style: &Style<'_>,
) -> Result<()> {
    let name = entry.path.escape_ascii().to_string();
    let Some(inside) = clean(&entry.path) else {
        return Err(Error::new(Kind::Invalid, format!("member `{name}` leads out of the archive")));
    };
    if inside.is_empty() {
        return Ok(());
    }
    if inside.split(|byte| *byte == b'/').any(|part| part.starts_with(b".wh.")) {
        return Err(Error::new(Kind::Unsupported, format!("member `{name}` has the name of a whiteout")));
    }
    if entry.kind == EntryKind::Hardlink {
        let target = clean(&entry.link).unwrap_or_default();
        entry.link = ways.resolve(&target)?;
    }
    entry.path = ways.resolve(&inside)?;
    ways.note(&entry);
    if let Some((uid, gid)) = style.owner {
        (entry.uid, entry.gid) = (uid.into(), gid.into());
    }
    // Modes stay as the archive has them, `--chmod` or not, as in BuildKit.
    entry.mtime.seconds = style.clock.limit(entry.mtime.seconds);
    entry.mtime.nanos = 0;
    let runs = entry.sparse.take();
    let size = entry.size;
    tar.append_file(&entry, Member { reader, runs: runs.unwrap_or_else(|| vec![(0, size)]), at: 0, size })
}

/// An archive being read, and the program that decompresses it.
struct Opened<'a> {
    path: &'a Path,
    reader: TarReader<Box<dyn BufRead + Send>>,
    program: Option<Program>,
}

/// A program that decompresses; killed where nobody waits for its end.
struct Program {
    name: &'static str,
    child: Child,
}

impl<'a> Opened<'a> {
    fn new(file: File, path: &'a Path, form: Form) -> Result<Self> {
        let limits = Limits::chosen(|name| std::env::var_os(name))?;
        let reader = |plain| TarReader::new(plain, &limits);
        let name = match form {
            Form::Own => return Ok(Self { path, reader: reader(decompress(file)?), program: None }),
            Form::Program(name) => name,
        };
        let spawned = Command::new(name).arg("-dc").stdin(file).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = spawned.map_err(|error| {
            let package = if name == "xz" { "xz-utils" } else { name };
            Error::new(Kind::Unsupported, format!("`{}` needs the program {name}", path.display()))
                .because(error)
                .hint(format!("install it (Debian and Ubuntu: sudo apt-get install {package})"))
        })?;
        let output = child.stdout.take().expect("it was piped");
        Ok(Self {
            path,
            reader: reader(Box::new(BufReader::with_capacity(1 << 20, output))),
            program: Some(Program { name, child }),
        })
    }

    /// Reads to the end, where a decompressor may still find that what it gave was not what was packed.
    fn finish(self) -> Result<()> {
        self.reader.drain()?;
        let Some(mut program) = self.program else { return Ok(()) };
        let status = program.child.wait().context(|| format!("wait for {}", program.name))?;
        match status.success() {
            true => Ok(()),
            false => {
                Err(Error::new(Kind::Invalid, format!("{} found `{}` damaged", program.name, self.path.display())))
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where members go whose path leads through symlinks: those of the archive itself, and those of the stage. Links are
/// followed inside of the folder that the archive is unpacked into, as docker follows them.
struct Ways<'a> {
    folder: &'a [u8],
    view: &'a MergedView,
    /// Symlinks that were unpacked so far, by their path in the layer.
    links: HashMap<Vec<u8>, Vec<u8>>,
    /// Folders that were unpacked so far.
    folders: HashSet<Vec<u8>>,
    /// The folder that was resolved last, and what it led to: most members follow others of their folder.
    last: Option<(Vec<u8>, Vec<u8>)>,
}

impl<'a> Ways<'a> {
    fn new(folder: &'a [u8], view: &'a MergedView) -> Self {
        Self { folder, view, links: HashMap::new(), folders: HashSet::new(), last: None }
    }

    /// The path in the layer of the member `path`, which is clean.
    fn resolve(&mut self, path: &[u8]) -> Result<Vec<u8>> {
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => return Ok(below(self.folder, path)),
        };
        if let Some((_, resolved)) = self.last.as_ref().filter(|(known, _)| known == parent) {
            return Ok(below(resolved, name));
        }
        let resolved = self.follow(parent)?;
        let path = below(&resolved, name);
        self.last = Some((parent.to_vec(), resolved));
        Ok(path)
    }

    fn follow(&self, folder: &[u8]) -> Result<Vec<u8>> {
        let parts = |path: &[u8]| -> Vec<Vec<u8>> {
            let parts = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
            parts.rev().map(<[u8]>::to_vec).collect()
        };
        let mut pending = parts(folder);
        let mut trail: Vec<Vec<u8>> = Vec::new();
        let mut followed = 0;
        // Whether the stage may have something at the trail: not below a folder that took a symlink's place.
        let mut in_stage = true;
        while let Some(name) = pending.pop() {
            if name == b".." {
                trail.pop();
                continue;
            }
            trail.push(name);
            let here = below(self.folder, &trail.join(&b'/'));
            let found = if in_stage { self.view.lookup(path(&here))? } else { None };
            let target = match (self.links.get(&here), &found) {
                (Some(target), _) => Some(target.clone()),
                (None, Some(entry)) if entry.metadata.is_symlink() && !self.folders.contains(&here) => {
                    let target = std::fs::read_link(&entry.real).at("read symlink", &entry.real)?;
                    Some(target.into_os_string().into_vec())
                }
                _ => None,
            };
            let Some(target) = target else {
                in_stage &= found.is_some_and(|entry| entry.metadata.is_dir());
                continue;
            };
            followed += 1;
            if followed > SYMLINKS_MAX {
                let shown = folder.escape_ascii();
                return Err(Error::new(Kind::Invalid, format!("member `{shown}` has too many symlinks on its way")));
            }
            trail.pop();
            if target.first() == Some(&b'/') {
                trail.clear();
                in_stage = true;
            }
            pending.extend(parts(&target));
        }
        Ok(below(self.folder, &trail.join(&b'/')))
    }

    /// Remembers what became of a path.
    fn note(&mut self, entry: &Entry) {
        let was_link = self.links.remove(&entry.path).is_some();
        let was_folder = self.folders.remove(&entry.path);
        match entry.kind {
            EntryKind::Symlink => drop(self.links.insert(entry.path.clone(), entry.link.clone())),
            EntryKind::Dir => drop(self.folders.insert(entry.path.clone())),
            _ => {}
        }
        if was_link || was_folder || matches!(entry.kind, EntryKind::Symlink | EntryKind::Dir) {
            self.last = None;
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

impl<R: BufRead> Read for Member<'_, R> {
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
