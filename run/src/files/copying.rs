//! `cp`: files between a container and the host, between containers, and as archives.
//!
//! Where things go is decided by cp(1)'s rules, as podman and docker have them: into a folder that exists, under their
//! own name; else as what is named. `FOLDER/.` is what is in a folder.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use layerfs::archive::{TarWriter, decompress};
use layerfs::error::{Context, Error, Kind, Result};
use rustix::pipe::{PipeFlags, pipe_with};

use super::pack::{Extent, pack};
use super::unpack::{Manner, Owners, Symlinks, Target, unpack};
use super::{Files, open_folder};
use crate::child;
use crate::options::normal;
use crate::state::{Container, Phase};

/// One end of a copy.
#[derive(Clone, Debug)]
pub enum End {
    /// In a container, with the path as it was written.
    Container(Box<Container>, String),
    /// On the host, as it was written.
    Host(String),
    /// `-`: an archive on a standard stream.
    Stream,
}

/// How things are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyOptions {
    /// What comes into a container becomes its user's; else it stays who it was.
    pub to_user: bool,
    /// A folder may be replaced by a file, and the other way round.
    pub overwrite: bool,
}

/// Copies.
///
/// # Errors
/// There is nothing to be copied, it does not fit where it is to go, or it cannot be read or written.
pub fn copy(from: &End, to: &End, options: CopyOptions, store: Option<&Path>) -> Result<()> {
    match (from, to) {
        (End::Stream, End::Container(..)) => {
            child::run(|| receive(to, true, options, store, decompress(BufReader::new(io::stdin()))?))
        }
        (End::Container(..), End::Stream) => child::run(|| send(from, store, io::stdout()).map(drop)),
        (End::Container(..), End::Host(_) | End::Container(..)) | (End::Host(_), End::Container(..)) => {
            match same_at_rest(from, to) {
                Some(folder) => through_file(from, to, options, store, folder),
                None => through_pipe(from, to, options, store),
            }
        }
        _ => Err(Error::new(Kind::Usage, "one of the two must be in a container")
            .hint("write CONTAINER:PATH for what is in a container")),
    }
}

/// The folder of the container that both ends are in, where it does not run: it can be mounted once at a time.
fn same_at_rest<'a>(from: &'a End, to: &End) -> Option<&'a Path> {
    let (End::Container(from, _), End::Container(to, _)) = (from, to) else { return None };
    (from.dir == to.dir && from.phase() != Phase::Running).then_some(&from.dir)
}

/// One side after the other, with the archive between them in a file that has no name.
fn through_file(from: &End, to: &End, options: CopyOptions, store: Option<&Path>, folder: &Path) -> Result<()> {
    let path = folder.join(format!("copy.{}", std::process::id()));
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).at("create", &path)?;
    std::fs::remove_file(&path).at("remove", &path)?;
    child::run(|| send(from, store, &file).map(drop))?;
    file.rewind().at("read", &path)?;
    child::run(|| receive(to, false, options, store, BufReader::with_capacity(1 << 17, &file)))
}

/// Each side is its own process, for each is somebody else.
fn through_pipe(from: &End, to: &End, options: CopyOptions, store: Option<&Path>) -> Result<()> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).context(|| "make a pipe")?;
    // A child that kept the other's end would wait for itself.
    let (reader, writer) = (Cell::new(Some(reader)), Cell::new(Some(writer)));
    let receiving = child::start(|| {
        drop(writer.take());
        let pipe = reader.take().map(File::from);
        pipe.map_or(Ok(()), |pipe| receive(to, false, options, store, BufReader::with_capacity(1 << 17, pipe)))
    })?;
    let sending = child::start(|| {
        drop(reader.take());
        let pipe = writer.take().map(File::from);
        pipe.map_or(Ok(()), |pipe| send(from, store, pipe).map(drop))
    })?;
    drop((reader, writer));
    match (sending.finish(), receiving.finish()) {
        // Of two that failed, one did because the other was gone.
        (Err(sent), Err(received)) => Err(if sent.chain().contains("ipe") { received } else { sent }),
        (sent, received) => sent.and(received),
    }
}

/// Packs one end.
fn send<W: Write>(from: &End, store: Option<&Path>, out: W) -> Result<W> {
    let mut tar = TarWriter::new(BufWriter::with_capacity(1 << 17, out));
    match from {
        End::Container(container, text) => {
            let files = Files::open(container, store)?;
            let (root, path) = files.place(Path::new(text))?;
            pack(root.as_fd(), &path, &name_of(text), files.ids(), Extent::Everything, &mut tar)
                .map_err(|error| about(error, text, &container.record.name))?;
        }
        End::Host(text) => {
            let (root, path) = host_place(text)?;
            pack(root.as_fd(), &path, &name_of(text), None, Extent::Everything, &mut tar)
                .map_err(|error| about(error, text, "the host"))?;
        }
        End::Stream => {}
    }
    tar.finish()?.into_inner().map_err(io::IntoInnerError::into_error).context(|| "write the archive")
}

/// Unpacks at the other end.
fn receive(
    to: &End,
    as_it_stands: bool,
    options: CopyOptions,
    store: Option<&Path>,
    archive: impl io::BufRead,
) -> Result<()> {
    let manner = |owners| Manner { owners, overwrite: options.overwrite, as_it_stands };
    match to {
        End::Container(container, text) => {
            let files = Files::open(container, store)?;
            let (root, path) = files.place(Path::new(text))?;
            let user = container.record.process.user();
            let owners = if options.to_user { Owners::One(user.uid(), user.gid()) } else { Owners::Kept };
            let target = Target {
                root,
                path,
                is_folder: ends_in_slash(text),
                symlinks: Symlinks::Followed,
                ids: files.ids().cloned(),
            };
            unpack(archive, &target, manner(owners))
        }
        End::Host(text) => {
            let (root, path) = host_place(text)?;
            let target = Target { root, path, is_folder: ends_in_slash(text), symlinks: Symlinks::Refused, ids: None };
            unpack(archive, &target, manner(Owners::Own))
        }
        End::Stream => Ok(()),
    }
}

fn about(error: Error, path: &str, place: &str) -> Error {
    match error.kind() {
        Kind::NotFound => Error::new(Kind::NotFound, format!("`{path}` is not in {place}")),
        _ => error,
    }
}

fn host_place(text: &str) -> Result<(OwnedFd, PathBuf)> {
    let path = std::path::absolute(text).at("find", text)?;
    // `..` behind a symlink is for the kernel to resolve, so the path goes to it as it is.
    Ok((open_folder(Path::new("/"))?, path.strip_prefix("/").map(Path::to_owned).unwrap_or_default()))
}

fn ends_in_slash(text: &str) -> bool {
    text.ends_with('/')
}

/// The name that something is packed under: its own, or none where its content is meant.
fn name_of(text: &str) -> Vec<u8> {
    if text == "." || text.ends_with("/.") || text == "/" {
        return Vec::new();
    }
    normal(Path::new(text)).file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default()
}

/// Packs all of a container's own files, without what is mounted in it: `export`.
///
/// # Errors
/// They cannot be read, or the output fails.
pub fn export(container: &Container, store: Option<&Path>, out: impl Write) -> Result<()> {
    let files = Files::open(container, store)?;
    let mut tar = TarWriter::new(BufWriter::with_capacity(1 << 17, out));
    pack(files.root(), Path::new("."), b"", files.ids(), Extent::OneMount, &mut tar)?;
    tar.finish()?.flush().context(|| "write the archive")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_copied_keeps_its_name() {
        for (text, name) in
            [("/etc/hosts", "hosts"), ("a/b/", "b"), ("a/.", ""), (".", ""), ("/", ""), ("a/b/..", "a"), ("x", "x")]
        {
            assert_eq!(name_of(text), name.as_bytes(), "{text}");
        }
    }
}
