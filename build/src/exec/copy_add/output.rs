//! The entries of a layer in the making, by path.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use layerfs::archive::TarWriter;
use layerfs::archive::read::{Entry as TarEntry, EntryKind, Time};
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::layer::MergedView;
use rayon::prelude::*;

use super::archive::{self, Form};
use super::{Clock, path};
use crate::exec::placement::Placement;
use crate::files::{self, Entry, FileKind, Tree};
use crate::graph::Chmod;

/// Files up to this size are read ahead by several threads, in bytes.
const SMALL: u64 = 1 << 20;
/// Files read ahead at once, and their bytes.
const AHEAD: (usize, u64) = (256, 16 << 20);

/// What is the same for every file of a copy.
#[derive(Clone, Copy)]
pub(super) struct Style<'a> {
    /// Everybody's owner; without it, files of images keep theirs and all others are root's.
    pub(super) owner: Option<(u32, u32)>,
    /// A change of mode.
    pub(super) chmod: Option<&'a Chmod>,
    /// The times.
    pub(super) clock: Clock,
}

/// A layer in the making.
pub(super) struct Output<'a> {
    style: Style<'a>,
    entries: BTreeMap<Vec<u8>, Item<'a>>,
    archives: Vec<(Vec<u8>, Source, Form)>,
    /// Something is there that the layers below do not have.
    changes: bool,
}

struct Item<'a> {
    entry: TarEntry,
    content: Bytes<'a>,
}

enum Bytes<'a> {
    None,
    Memory(&'a [u8]),
    Disk(Source),
}

/// A file on disk.
pub(super) struct Source {
    path: PathBuf,
    /// What it was like when its digest was taken: a key must not lead to what is there later.
    seen: (u64, u64, u64),
    /// Where it has several names: the source it is one of, and its inode. Links stay links within one source.
    shared: Option<(usize, u64, u64)>,
}

impl Source {
    pub(super) fn new(tree: &Tree, entry: &Entry, part: usize) -> Self {
        let metadata = &entry.metadata;
        let shared = (metadata.nlink() > 1).then(|| (part, metadata.dev(), metadata.ino()));
        Self { path: files::real(tree, entry), seen: files::state(metadata), shared }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn open(&self) -> Result<File> {
        File::open(&self.path).at("open", &self.path)
    }

    /// Checks that what was read from `file` is what the digest was taken of.
    pub(super) fn check(&self, file: &File) -> Result<()> {
        let after = file.metadata().at("look at", &self.path)?;
        if files::state(&after) == self.seen {
            return Ok(());
        }
        Err(Error::new(Kind::Conflict, format!("`{}` changed while it was read", self.path.display()))
            .hint("build again when nothing writes to the context"))
    }
}

impl<'a> Output<'a> {
    /// A layer that holds the way to `placement` so far.
    pub(super) fn new(placement: &Placement, style: Style<'a>) -> Self {
        let mut output = Self { style, entries: BTreeMap::new(), archives: Vec::new(), changes: false };
        for (path, folder) in &placement.folders {
            match folder {
                None => output.folder(path),
                Some(folder) => {
                    let mut entry = blank(path.clone(), EntryKind::Dir, folder.mode);
                    (entry.uid, entry.gid) = (folder.uid.into(), folder.gid.into());
                    entry.mtime.seconds = style.clock.limit(folder.modified);
                    output.entries.insert(path.clone(), Item { entry, content: Bytes::None });
                }
            }
        }
        output
    }

    /// Whether the layer would change nothing.
    pub(super) fn is_empty(&self) -> bool {
        !self.changes && self.archives.is_empty()
    }

    /// A folder that has to be there; made where it is not.
    pub(super) fn folder(&mut self, path: &[u8]) {
        self.folder_of(path, self.style.folder_mode());
    }

    /// The same without `--chmod`: what an archive is unpacked into.
    pub(super) fn plain_folder(&mut self, path: &[u8]) {
        self.folder_of(path, 0o755);
    }

    fn folder_of(&mut self, path: &[u8], mode: u32) {
        if path.is_empty() || self.entries.get(path).is_some_and(|item| item.entry.kind == EntryKind::Dir) {
            return;
        }
        let (uid, gid) = self.style.owner.unwrap_or((0, 0));
        let mut entry = blank(path.to_vec(), EntryKind::Dir, mode);
        (entry.uid, entry.gid) = (uid.into(), gid.into());
        entry.mtime.seconds = self.style.clock.stamp();
        self.insert(Item { entry, content: Bytes::None });
    }

    /// Gives a folder that is new in this layer the time `seconds`.
    pub(super) fn date(&mut self, path: &[u8], seconds: i64) {
        if let Some(item) = self.entries.get_mut(path) {
            item.entry.mtime.seconds = self.style.clock.limit(seconds);
        }
    }

    /// A file of a tree, from source number `part`.
    pub(super) fn disk(&mut self, path: Vec<u8>, tree: &Tree, source: &Entry, part: usize) -> Result<()> {
        let metadata = &source.metadata;
        let kind = match source.kind {
            FileKind::File => EntryKind::File,
            FileKind::Dir => EntryKind::Dir,
            FileKind::Symlink => EntryKind::Symlink,
            FileKind::Char => EntryKind::Char,
            FileKind::Block => EntryKind::Block,
            FileKind::Fifo => EntryKind::Fifo,
        };
        let mut xattrs = files::xattrs(tree, source)?;
        let (own_uid, own_gid, own_mode) =
            files::take_override(&mut xattrs).unwrap_or((metadata.uid(), metadata.gid(), source.mode()));
        let mode = match (kind, self.style.chmod) {
            (EntryKind::Symlink, _) => 0o777,
            (_, Some(chmod)) => chmod.apply(own_mode, kind == EntryKind::Dir),
            (_, None) => own_mode,
        };
        let own = if tree.is_image() { (own_uid, own_gid) } else { (0, 0) };
        let (uid, gid) = self.style.owner.unwrap_or(own);
        let mut entry = blank(path, kind, mode);
        (entry.uid, entry.gid) = (uid.into(), gid.into());
        entry.mtime.seconds = self.style.clock.limit(metadata.mtime());
        entry.link.clone_from(&source.link);
        entry.xattrs = xattrs;
        let mut content = Bytes::None;
        if kind == EntryKind::File {
            entry.size = metadata.size();
            content = Bytes::Disk(Source::new(tree, source, part));
        }
        if matches!(kind, EntryKind::Char | EntryKind::Block) {
            entry.device = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
        }
        self.checked_insert(Item { entry, content })
    }

    /// A file of the Dockerfile.
    pub(super) fn inline(&mut self, path: Vec<u8>, bytes: &'a [u8]) -> Result<()> {
        let mode = self.style.chmod.map_or(0o644, |chmod| chmod.apply(0o644, false));
        let (uid, gid) = self.style.owner.unwrap_or((0, 0));
        let mut entry = blank(path, EntryKind::File, mode);
        (entry.uid, entry.gid) = (uid.into(), gid.into());
        entry.mtime.seconds = self.style.clock.stamp();
        entry.size = bytes.len() as u64;
        self.checked_insert(Item { entry, content: Bytes::Memory(bytes) })
    }

    /// An archive whose members go below `path`.
    pub(super) fn archive(&mut self, path: Vec<u8>, file: Source, form: Form) {
        self.archives.push((path, file, form));
    }

    /// A later source replaces an earlier one's file, but neither takes the place of the other's folder.
    fn checked_insert(&mut self, item: Item<'a>) -> Result<()> {
        if let Some(before) = self.entries.get(&item.entry.path) {
            let (was, is) = (before.entry.kind == EntryKind::Dir, item.entry.kind == EntryKind::Dir);
            if was != is {
                return Err(conflict(&item.entry.path, is));
            }
        }
        self.insert(item);
        Ok(())
    }

    fn insert(&mut self, item: Item<'a>) {
        self.changes = true;
        self.entries.insert(item.entry.path.clone(), item);
    }

    /// Looks whether a folder would take a file's place in the stage, or the other way round. With `link`, folders do take
    /// the place of symlinks.
    pub(super) fn check_conflicts(&self, view: &MergedView, link: bool) -> Result<()> {
        let mut there: HashMap<&[u8], bool> = HashMap::new();
        for (name, item) in &self.entries {
            let parent = name.iter().rposition(|byte| *byte == b'/').map_or(&b""[..], |slash| &name[..slash]);
            if !parent.is_empty() && !there.get(parent).copied().unwrap_or(false) {
                continue;
            }
            let Some(found) = view.lookup(path(name))? else { continue };
            let is_dir = item.entry.kind == EntryKind::Dir;
            if link && found.metadata.is_symlink() {
                continue;
            }
            if is_dir != found.metadata.is_dir() {
                return Err(conflict(name, is_dir));
            }
            there.insert(name, is_dir);
        }
        Ok(())
    }

    /// Writes everything, sorted by path, then the members of the archives.
    pub(super) fn write(&self, tar: &mut TarWriter<impl Write>, view: &MergedView) -> Result<()> {
        let mut links: HashMap<(usize, u64, u64), &[u8]> = HashMap::new();
        let items: Vec<&Item<'_>> = self.entries.values().collect();
        let mut rest = &items[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let count = rest.iter().take(AHEAD.0).take_while(|item| {
                bytes += item.entry.size.min(SMALL);
                bytes <= AHEAD.1
            });
            let (batch, later) = rest.split_at(count.count().max(1));
            rest = later;
            let contents: Vec<Option<Vec<u8>>> =
                batch.par_iter().with_min_len(8).map(|item| item.read_ahead()).collect::<Result<_>>()?;
            for (item, content) in batch.iter().zip(contents) {
                item.write(tar, content, &mut links)?;
            }
        }
        for (below, file, form) in &self.archives {
            archive::copy(tar, below, file, *form, &self.style, view)?;
        }
        Ok(())
    }
}

impl<'a> Item<'a> {
    fn read_ahead(&self) -> Result<Option<Vec<u8>>> {
        match &self.content {
            Bytes::Disk(source) if source.shared.is_none() && (1..=SMALL).contains(&self.entry.size) => {
                let mut file = source.open()?;
                let mut bytes = Vec::with_capacity(usize::try_from(self.entry.size).unwrap_or_default());
                file.read_to_end(&mut bytes).at("read", &source.path)?;
                source.check(&file)?;
                Ok(Some(bytes))
            }
            _ => Ok(None),
        }
    }

    fn write(
        &'a self,
        tar: &mut TarWriter<impl Write>,
        ahead: Option<Vec<u8>>,
        links: &mut HashMap<(usize, u64, u64), &'a [u8]>,
    ) -> Result<()> {
        match (&self.content, ahead) {
            (Bytes::None, _) => tar.append(&self.entry),
            (Bytes::Memory(bytes), _) => tar.append_file(&self.entry, *bytes),
            (Bytes::Disk(_), Some(bytes)) => tar.append_file(&self.entry, &bytes[..]),
            (Bytes::Disk(source), None) => {
                if let Some(inode) = source.shared {
                    if let Some(first) = links.get(&inode) {
                        let link =
                            TarEntry { kind: EntryKind::Hardlink, link: first.to_vec(), size: 0, ..self.entry.clone() };
                        return tar.append(&link);
                    }
                    links.insert(inode, &self.entry.path);
                }
                let file = source.open()?;
                tar.append_file(&self.entry, &file)?;
                source.check(&file)
            }
        }
    }
}

fn conflict(path: &[u8], is_folder: bool) -> Error {
    let path = String::from_utf8_lossy(path).into_owned();
    let (new, old) = if is_folder { ("folder", "file") } else { ("file", "folder") };
    Error::new(Kind::Conflict, format!("a {new} would take the place of the {old} `/{path}`"))
        .hint("copy to another place, or remove it in a RUN step before")
}

/// An entry with nothing but its name.
pub(super) fn blank(path: Vec<u8>, kind: EntryKind, mode: u32) -> TarEntry {
    TarEntry {
        path,
        kind,
        link: Vec::new(),
        mode,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        size: 0,
        device: (0, 0),
        xattrs: Vec::new(),
        sparse: None,
    }
}
