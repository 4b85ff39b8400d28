//! Writing a layer from the folder that overlayfs kept its changes in.
//!
//! One walk of that folder, sorted, with nothing of the layers below looked at: what overlayfs put there is the
//! change. On the way the folder can be normalised so that it equals what applying the archive would give.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use super::read::{Entry, EntryKind, Time};
use super::whiteout::{self, OPAQUE, OVERRIDE_XATTR, PREFIX};
use super::write::TarWriter;
use crate::error::{Context, Error, Kind, Result};
use crate::sys::fs::{SparseReader, get_xattr, list_xattrs};
use crate::userns::{Mapping, unmapped_id};

/// How to write a layer.
#[derive(Clone, Debug, Default)]
pub struct DiffOptions {
    /// No time is later than this, in seconds since 1970 (`SOURCE_DATE_EPOCH`).
    pub clamp_mtime: Option<i64>,
    /// Folders (paths without a leading slash) that are in the way to others but are described by a layer below;
    /// they get no entry.
    pub implied: BTreeSet<Vec<u8>>,
    /// Paths (without a leading slash) that do not belong to the layer, with all below them.
    pub without: BTreeSet<Vec<u8>>,
    /// The user namespace that owners are to be ids of, in this process's ids; `None` for its own.
    pub owners: Option<Mapping>,
    /// Times keep their nanoseconds: for archives that are no layers.
    pub exact_times: bool,
    /// Changes the folder itself to what the archive says: times in whole seconds and clamped, overlayfs's
    /// bookkeeping attributes gone.
    pub normalise: bool,
}

/// What a layer holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Entries in the archive.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
}

/// Writes the layer that lies in `root` as a tar archive. Times are in whole seconds, as everybody's layers have
/// them.
///
/// # Errors
/// The folder cannot be read, changes while it is read, or holds a form of overlayfs that is not a plain change
/// (`redirect_dir`, `metacopy`).
pub fn diff<W: Write>(root: &Path, out: W, options: &DiffOptions) -> Result<(W, Written)> {
    let mut walk = Walk { options, out: TarWriter::new(out), links: HashMap::new(), written: Written::default() };
    let whiteouts = attributes(root)?.xattr_whiteouts;
    walk.children(root, &[], whiteouts)?;
    if options.normalise {
        let metadata = fs::symlink_metadata(root).at("look at", root)?;
        walk.normalise(root, &metadata)?;
    }
    Ok((walk.out.finish()?, walk.written))
}

/// Does to the folder what [`diff`] does with `normalise`, and writes nothing. Whether it holds any change.
///
/// # Errors
/// Those of [`diff`], but for what only reading files shows.
pub fn settle(root: &Path, options: &DiffOptions) -> Result<bool> {
    let options = DiffOptions { normalise: true, ..options.clone() };
    let mut walk =
        Walk { options: &options, out: TarWriter::new(io::sink()), links: HashMap::new(), written: Written::default() };
    let whiteouts = attributes(root)?.xattr_whiteouts;
    walk.settle(root, whiteouts)?;
    let metadata = fs::symlink_metadata(root).at("look at", root)?;
    walk.normalise(root, &metadata)?;
    Ok(walk.written.entries > 0)
}

struct Walk<'a, W: Write> {
    options: &'a DiffOptions,
    out: TarWriter<W>,
    /// The first path of each file with several names.
    links: HashMap<(u64, u64), Vec<u8>>,
    written: Written,
}

/// overlayfs's attributes of one file, taken apart from its own.
#[derive(Default)]
struct Attributes {
    own: Vec<(Vec<u8>, Vec<u8>)>,
    opaque: bool,
    /// Whiteouts in this folder may have the form of an attribute.
    xattr_whiteouts: bool,
    whiteout: bool,
    bookkeeping: Vec<Vec<u8>>,
    recorded: Option<Vec<u8>>,
}

impl<W: Write> Walk<'_, W> {
    fn children(&mut self, dir: &Path, path: &[u8], xattr_whiteouts: bool) -> Result<()> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir).at("read", dir)? {
            names.push(entry.at("read", dir)?.file_name().into_vec());
        }
        names.sort_unstable();
        let mut others = Vec::with_capacity(names.len());
        // Whiteouts come first, so that a reader has removed before it adds.
        for name in names {
            if self.options.without.contains(&join(path, &name)) {
                continue;
            }
            let place = dir.join(OsStr::from_bytes(&name));
            let metadata = fs::symlink_metadata(&place).at("look at", &place)?;
            if is_whiteout(&place, &metadata, xattr_whiteouts)? {
                self.marker(&join(path, &[PREFIX, &name].concat()))?;
            } else {
                others.push((name, place, metadata));
            }
        }
        for (name, place, metadata) in others {
            let path = join(path, &name);
            self.entry(&place, path, &metadata).at("pack", &place)?;
        }
        Ok(())
    }

    fn entry(&mut self, place: &Path, path: Vec<u8>, metadata: &Metadata) -> Result<()> {
        if path.split(|b| *b == b'/').next_back().is_some_and(|name| name.starts_with(PREFIX)) {
            return Err(Error::new(Kind::Invalid, "names that begin with `.wh.` cannot be in an image"));
        }
        let Some(kind) = kind(metadata) else {
            // Sockets have no meaning without the process that made them.
            return Ok(());
        };
        let attributes = attributes(place)?;
        if kind == EntryKind::Dir {
            return self.folder(place, path, metadata, attributes);
        }
        let inode = (metadata.dev(), metadata.ino());
        let mut entry = self.describe(path, kind, metadata, &attributes)?;
        if metadata.nlink() > 1 {
            if let Some(first) = self.links.get(&inode) {
                let (path, link) = (entry.path, first.clone());
                let entry = Entry { path, kind: EntryKind::Hardlink, link, size: 0, xattrs: Vec::new(), ..entry };
                self.written.entries += 1;
                return self.out.append(&entry);
            }
            self.links.insert(inode, entry.path.clone());
        }
        if entry.kind == EntryKind::Symlink {
            entry.link = fs::read_link(place).context(|| "read the symlink")?.into_os_string().into_vec();
        }
        self.written.entries += 1;
        if entry.kind == EntryKind::File {
            self.written.bytes += entry.size;
            let file = File::open(place).context(|| "open it")?;
            // Layers have no sparse files by the specification: holes are zeros there.
            match metadata.blocks() * 512 < entry.size {
                true => self.out.append_file(&entry, SparseReader::new(file, entry.size))?,
                false => self.out.append_file(&entry, file)?,
            }
        } else {
            self.out.append(&entry)?;
        }
        self.tidy(place, metadata, &attributes)
    }

    fn folder(&mut self, place: &Path, path: Vec<u8>, metadata: &Metadata, attributes: Attributes) -> Result<()> {
        if !self.options.implied.contains(&path) {
            let entry = self.describe(path.clone(), EntryKind::Dir, metadata, &attributes)?;
            self.written.entries += 1;
            self.out.append(&entry)?;
        }
        if attributes.opaque {
            self.marker(&join(&path, OPAQUE))?;
        }
        self.children(place, &path, attributes.xattr_whiteouts)?;
        self.tidy(place, metadata, &attributes)
    }

    /// What [`Self::tidy`] does, in the whole folder. Files with several names are tidied once for each: that they have
    /// them is no concern here.
    fn settle(&mut self, dir: &Path, xattr_whiteouts: bool) -> Result<()> {
        for entry in fs::read_dir(dir).at("read", dir)? {
            let place = entry.at("read", dir)?.path();
            let metadata = fs::symlink_metadata(&place).at("look at", &place)?;
            if is_whiteout(&place, &metadata, xattr_whiteouts)? {
                self.written.entries += 1;
                continue;
            }
            if kind(&metadata).is_none() {
                continue;
            }
            self.written.entries += 1;
            let attributes = attributes(&place).at("pack", &place)?;
            if metadata.is_dir() {
                self.settle(&place, attributes.xattr_whiteouts)?;
            }
            self.tidy(&place, &metadata, &attributes).at("pack", &place)?;
        }
        Ok(())
    }

    fn describe(&self, path: Vec<u8>, kind: EntryKind, metadata: &Metadata, attributes: &Attributes) -> Result<Entry> {
        let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
        let (uid, gid) = self.owner(metadata)?;
        let mut entry = Entry {
            path,
            kind,
            link: Vec::new(),
            mode: metadata.mode() & 0o7777,
            uid: uid.into(),
            gid: gid.into(),
            mtime: self.time(metadata),
            size: metadata.len(),
            device: (major, minor),
            xattrs: attributes.own.clone(),
            sparse: None,
        };
        if let Some(recorded) = &attributes.recorded {
            restore_stat(&mut entry, recorded)?;
        }
        Ok(entry)
    }

    fn owner(&self, metadata: &Metadata) -> Result<(u32, u32)> {
        let (uid, gid) = (metadata.uid(), metadata.gid());
        let Some(owners) = &self.options.owners else { return Ok((uid, gid)) };
        let inside = owners.uid_inside(uid).zip(owners.gid_inside(gid));
        inside.ok_or_else(|| unmapped_id("owner", uid.into()))
    }

    fn time(&self, metadata: &Metadata) -> Time {
        let seconds = self.options.clamp_mtime.map_or(metadata.mtime(), |latest| metadata.mtime().min(latest));
        let nanos = if self.options.exact_times && seconds == metadata.mtime() { metadata.mtime_nsec() } else { 0 };
        Time { seconds, nanos: u32::try_from(nanos).unwrap_or(0) }
    }

    fn marker(&mut self, path: &[u8]) -> Result<()> {
        self.written.entries += 1;
        self.out.append(&Entry {
            path: path.to_vec(),
            kind: EntryKind::File,
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            size: 0,
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
        })
    }

    fn tidy(&self, place: &Path, metadata: &Metadata, attributes: &Attributes) -> Result<()> {
        if !self.options.normalise {
            return Ok(());
        }
        for name in &attributes.bookkeeping {
            rustix::fs::lremovexattr(place, name.as_slice()).context(|| "remove overlayfs's attributes")?;
        }
        self.normalise(place, metadata)
    }

    fn normalise(&self, place: &Path, metadata: &Metadata) -> Result<()> {
        let time = self.time(metadata);
        if (metadata.mtime(), metadata.mtime_nsec()) == (time.seconds, 0) {
            return Ok(());
        }
        let spec = Timespec { tv_sec: time.seconds, tv_nsec: 0 };
        let stamps = Timestamps { last_access: spec, last_modification: spec };
        rustix::fs::utimensat(CWD, place, &stamps, AtFlags::SYMLINK_NOFOLLOW).context(|| "set the time")
    }
}

fn kind(metadata: &Metadata) -> Option<EntryKind> {
    let kind = metadata.file_type();
    Some(match () {
        () if kind.is_file() => EntryKind::File,
        () if kind.is_dir() => EntryKind::Dir,
        () if kind.is_symlink() => EntryKind::Symlink,
        () if kind.is_char_device() => EntryKind::Char,
        () if kind.is_block_device() => EntryKind::Block,
        () if kind.is_fifo() => EntryKind::Fifo,
        () => return None,
    })
}

/// Both on-disk forms: a character device 0:0, and (Linux 6.7) an empty file with an attribute.
fn is_whiteout(place: &Path, metadata: &Metadata, xattr_whiteouts: bool) -> Result<bool> {
    if metadata.file_type().is_char_device() {
        return Ok(metadata.rdev() == 0);
    }
    let candidate = xattr_whiteouts && metadata.is_file() && metadata.len() == 0;
    Ok(candidate && attributes(place)?.whiteout)
}

fn attributes(place: &Path) -> Result<Attributes> {
    let mut found = Attributes::default();
    for name in list_xattrs(place).context(|| "list the extended attributes")? {
        let key = name.escape_ascii();
        let value = || {
            let value = get_xattr(place, name.as_slice());
            Ok::<_, Error>(value.context(|| format!("read the attribute `{key}`"))?.unwrap_or_default())
        };
        match name.strip_prefix(whiteout::OVERLAY) {
            Some(b"redirect" | b"metacopy") => {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("`{key}` makes this folder more than a plain change"),
                )
                .hint("mount it with redirect_dir=off and metacopy=off"));
            }
            Some(b"opaque") => match value()?.as_slice() {
                b"y" => found.opaque = true,
                b"x" => found.xattr_whiteouts = true,
                _ => {}
            },
            Some(b"whiteout") => found.whiteout = true,
            _ => match whiteout::unescape_xattr(&name) {
                None => found.bookkeeping.push(name),
                Some(_) if name == OVERRIDE_XATTR.as_bytes() => found.recorded = Some(value()?),
                // Labels belong to the machine, not to the image.
                Some(_) if name == b"security.selinux" => {}
                Some(own) => {
                    let value = whiteout::portable(&own, &value()?);
                    found.own.push((own, value));
                }
            },
        }
    }
    found.own.sort();
    Ok(found)
}

/// Reads back what [`whiteout::OVERRIDE_XATTR`] records: `UID:GID:MODE[:TYPE[-MAJOR-MINOR]]`.
fn restore_stat(entry: &mut Entry, recorded: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(recorded);
    let invalid = || Error::new(Kind::Invalid, format!("`{OVERRIDE_XATTR}` is malformed: `{}`", text.escape_debug()));
    let mut fields = text.split(':');
    let mut next = || fields.next().ok_or_else(invalid);
    entry.uid = next()?.parse().map_err(|_| invalid())?;
    entry.gid = next()?.parse().map_err(|_| invalid())?;
    entry.mode = u32::from_str_radix(next()?, 8).map_err(|_| invalid())? & 0o7777;
    let Ok(kind) = next() else { return Ok(()) };
    let mut words = kind.split('-');
    entry.kind = match words.next() {
        Some("char") => EntryKind::Char,
        Some("block") => EntryKind::Block,
        Some("fifo") => EntryKind::Fifo,
        _ => return Ok(()),
    };
    entry.size = 0;
    let mut number = || words.next().unwrap_or("0").parse().map_err(|_| invalid());
    entry.device = (number()?, number()?);
    Ok(())
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}
