//! `--squash`: the new layers as one. Nothing is mounted: the archives are merged as the entries of one.
//!
//! An entry of a later layer takes the place of an earlier one's. Whiteouts and opaque markers stay, for there may be a base
//! below; a folder that replaces what an earlier layer hid is opaque. A hard link whose first name went away takes its bytes
//! along.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use layerfs::archive::read::{Entry, EntryKind, TarReader};
use layerfs::archive::{Limits, TarWriter, decompress};
use layerfs::digest::DiffId;
use layerfs::error::{Context, Result};
use layerfs::oci::Descriptor;
use layerfs::store::Store;

use crate::cache::Layer;
use crate::schedule::{Engine, StageResult};

const HIDDEN: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Makes one layer of all above the lowest `base` ones.
///
/// # Errors
/// A layer cannot be read, or the store not be written.
pub(crate) fn squash(engine: &Engine<'_>, result: &mut StageResult, base: usize) -> Result<()> {
    let layers = result.stack.blobs();
    let Some(new) = layers.get(base..).filter(|new| new.len() > 1) else { return Ok(()) };
    let layer = merge(engine.store, new)?;
    result.stack.replace_above(base, layer);
    // The last line that had a layer has the whole now.
    let mut yielding: Vec<&mut Option<Layer>> = result
        .history
        .iter_mut()
        .filter_map(|(_, outcome)| outcome.as_mut())
        .map(|outcome| &mut outcome.layer)
        .collect();
    yielding.retain(|layer| layer.is_some());
    if let Some(last) = yielding.pop() {
        *last = Some(layer);
    }
    yielding.into_iter().for_each(|layer| *layer = None);
    Ok(())
}

/// The entries that stay, each with the layer and place it comes from.
type Kept = BTreeMap<Vec<u8>, (usize, usize, Entry)>;

fn open<'a>(store: &Store, layer: &Descriptor) -> Result<TarReader<Box<dyn io::BufRead + Send + 'a>>> {
    Ok(TarReader::new(decompress(store.open_blob(&layer.digest)?)?, &Limits::default()))
}

fn merge(store: &Store, layers: &[Descriptor]) -> Result<Layer> {
    let mut kept = Kept::new();
    for (number, layer) in layers.iter().enumerate() {
        let mut reader = open(store, layer)?;
        let mut place = 0;
        while let Some(entry) = reader.next_entry()? {
            put(&mut kept, number, place, entry);
            place += 1;
        }
    }
    let mut tar = TarWriter::new(io::BufWriter::with_capacity(1 << 20, store.blob_writer(None)?));
    for (path, (layer, _, entry)) in &kept {
        // Folders come first, so that nothing lies in one that was not described; markers of our own have no other turn.
        if entry.kind == EntryKind::Dir || *layer == usize::MAX {
            tar.append(&Entry { path: path.clone(), ..entry.clone() })?;
        }
    }
    for (number, layer) in layers.iter().enumerate() {
        write_layer(&mut tar, open(store, layer)?, number, &kept)?;
    }
    let mut blob = tar.finish()?.into_inner().map_err(io::IntoInnerError::into_error).context(|| "write the layer")?;
    blob.flush().context(|| "write the layer")?;
    let (digest, size) = blob.commit()?;
    Ok(Layer { diff_id: DiffId(digest), size })
}

/// Writes what stays of one layer.
fn write_layer<R: io::BufRead>(
    tar: &mut TarWriter<impl Write>,
    mut reader: TarReader<R>,
    number: usize,
    kept: &Kept,
) -> Result<()> {
    // Of each file of this layer the name under which it was written.
    let mut written: HashMap<Vec<u8>, Option<Vec<u8>>> = HashMap::new();
    // The hard links that stay, by the name they lead to.
    let mut links: HashMap<Vec<u8>, Vec<Vec<u8>>> = HashMap::new();
    for (path, (layer, _, entry)) in kept {
        if *layer == number && entry.kind == EntryKind::Hardlink {
            links.entry(clean(&entry.link)).or_default().push(path.clone());
        }
    }
    let mut place = 0;
    while let Some(entry) = reader.next_entry()? {
        let path = clean(&entry.path);
        let stays = kept.get(&path).is_some_and(|(layer, at, _)| (*layer, *at) == (number, place));
        place += 1;
        match entry.kind {
            EntryKind::Dir => {}
            EntryKind::Hardlink if stays => {
                // One to an earlier layer's file, or whose own first name was written before it.
                let target = clean(&entry.link);
                let first = written.get(&target).cloned().flatten().unwrap_or(target);
                if first != path {
                    tar.append(&Entry { path, link: first, ..entry })?;
                }
            }
            EntryKind::Hardlink => {}
            EntryKind::File => {
                let heir =
                    if stays { Some(path.clone()) } else { links.get(&path).and_then(|all| all.first().cloned()) };
                if let Some(name) = &heir {
                    let size = entry.size;
                    tar.append_file(
                        &Entry { path: name.clone(), size, ..entry.clone() },
                        Content { reader: &mut reader },
                    )?;
                }
                written.insert(path, heir);
            }
            _ if stays => tar.append(&Entry { path, ..entry })?,
            _ => {}
        }
    }
    Ok(())
}

/// The content of the entry at hand.
struct Content<'a, R> {
    reader: &'a mut TarReader<R>,
}

impl<R: io::BufRead> io::Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = self.reader.chunk(buffer.len() as u64).map_err(|error| io::Error::other(error.chain()))?;
        buffer[..piece.len()].copy_from_slice(piece);
        Ok(piece.len())
    }
}

/// Puts an entry over what is there.
fn put(kept: &mut Kept, layer: usize, place: usize, mut entry: Entry) {
    let path = clean(&entry.path);
    let (folder, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&b""[..], &path[..]),
    };
    if name == OPAQUE {
        remove_below(kept, folder, layer);
        kept.insert(path.clone(), (layer, place, entry));
        return;
    }
    if let Some(hidden) = name.strip_prefix(HIDDEN) {
        let hidden = join(folder, hidden);
        remove_below(kept, &hidden, layer);
        if kept.get(&hidden).is_some_and(|(from, ..)| *from < layer) {
            kept.remove(&hidden);
        }
        kept.insert(path.clone(), (layer, place, entry));
        return;
    }
    let whiteout = join(folder, &[HIDDEN, name].concat());
    let is_folder = entry.kind == EntryKind::Dir;
    let was_hidden = kept.get(&whiteout).is_some_and(|(from, ..)| *from < layer);
    let was_other = kept.get(&path).is_some_and(|(_, _, old)| old.kind != EntryKind::Dir);
    if was_hidden {
        kept.remove(&whiteout);
    }
    if !is_folder {
        remove_below(kept, &path, usize::MAX);
    } else if was_hidden || was_other {
        let marker = Entry {
            path: join(&path, OPAQUE),
            kind: EntryKind::File,
            size: 0,
            mode: 0,
            link: Vec::new(),
            xattrs: Vec::new(),
            ..entry.clone()
        };
        kept.insert(marker.path.clone(), (usize::MAX, 0, marker));
    }
    entry.path.clone_from(&path);
    kept.insert(path, (layer, place, entry));
}

/// Takes out what layers before `layer` have below a folder.
fn remove_below(kept: &mut Kept, folder: &[u8], layer: usize) {
    let prefix = if folder.is_empty() { Vec::new() } else { [folder, b"/"].concat() };
    let below: Vec<Vec<u8>> = kept
        .range(prefix.clone()..)
        .take_while(|(path, _)| path.starts_with(&prefix))
        .filter(|(_, (from, ..))| *from < layer || *from == usize::MAX)
        .map(|(path, _)| path.clone())
        .collect();
    for path in below {
        kept.remove(&path);
    }
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

fn clean(path: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    parts.join(&b'/')
}
