//! All layers of an image as one archive: its file system.
//!
//! Layers are read from the top down, and an entry is written unless a layer above has something of that name, or has
//! taken it or a folder above it away. So nothing is unpacked, and nothing is kept but names.

use std::collections::HashSet;
use std::io::{BufRead, Read, Write};

use layerfs::archive::read::{EntryKind, TarReader};
use layerfs::archive::{Limits, TarWriter, decompress};
use layerfs::error::{Error, Kind, Result};
use layerfs::oci::Descriptor;

use crate::stream::{ToRead, Verified};
use crate::transport::Source;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What the layers above say.
#[derive(Default)]
struct Above {
    /// Names that exist, or are taken away.
    names: HashSet<Vec<u8>>,
    /// Folders below which nothing of the layers below is seen: opaque ones, what is no folder, what was taken away.
    closed: HashSet<Vec<u8>>,
}

impl Above {
    /// Whether a path of a lower layer is seen.
    fn shows(&self, path: &[u8]) -> bool {
        if self.names.contains(path) {
            return false;
        }
        let mut end = path.len();
        while let Some(slash) = path[..end].iter().rposition(|byte| *byte == b'/') {
            if self.closed.contains(&path[..slash]) {
                return false;
            }
            end = slash;
        }
        // An opaque root closes everything.
        !self.closed.contains(&b""[..])
    }
}

/// Writes the file system that `layers` (the lowest first) make.
pub(crate) fn merge<W: Write>(source: &dyn Source, layers: &[Descriptor], out: W) -> Result<W> {
    let limits = Limits::default();
    let mut writer = TarWriter::new(out);
    let mut above = Above::default();
    for layer in layers.iter().rev() {
        let chunks = Verified::new(source.open(layer)?, layer);
        let mut reader = TarReader::new(decompress(ToRead::new(chunks))?, &limits);
        // What this layer says counts for those below it, not for itself.
        let mut own = Above::default();
        while let Some(mut entry) = reader.next_entry()? {
            let path = normal(&entry.path)?;
            let (folder, name) = match path.iter().rposition(|byte| *byte == b'/') {
                Some(slash) => (&path[..slash], &path[slash + 1..]),
                None => (&b""[..], &path[..]),
            };
            if name == OPAQUE {
                own.closed.insert(folder.to_vec());
                continue;
            }
            if let Some(gone) = name.strip_prefix(WHITEOUT) {
                let gone = if folder.is_empty() { gone.to_vec() } else { [folder, b"/", gone].concat() };
                own.closed.insert(gone.clone());
                own.names.insert(gone);
                continue;
            }
            if entry.kind != EntryKind::Dir {
                own.closed.insert(path.clone());
            }
            let seen = above.shows(&path) && (path.is_empty() || own.names.insert(path.clone()));
            if !seen || path.is_empty() {
                continue;
            }
            entry.path = path;
            // Holes come out as zeros.
            entry.sparse = None;
            if entry.kind == EntryKind::Hardlink {
                entry.link = normal(&entry.link)?;
            }
            writer.append_file(&entry, Content(&mut reader))?;
        }
        reader.drain()?;
        above.names.extend(own.names);
        above.closed.extend(own.closed);
    }
    writer.finish()
}

/// The content of a reader's current entry.
struct Content<'a, R>(&'a mut TarReader<R>);

impl<R: BufRead> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let piece = self.0.chunk(buffer.len() as u64)?;
        buffer[..piece.len()].copy_from_slice(piece);
        Ok(piece.len())
    }
}

/// A path in one spelling: `./a//b/` is `a/b`. One that leaves its root is refused.
fn normal(path: &[u8]) -> Result<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                let shown = path.escape_ascii();
                return Err(Error::new(Kind::Denied, format!("`{shown}` in a layer leaves the file system")));
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_above_hides_what_lies_below() {
        let mut above = Above::default();
        above.names.insert(b"a/file".to_vec());
        above.closed.insert(b"a/opaque".to_vec());
        for (path, shown) in
            [("a/file", false), ("a/other", true), ("a/opaque/x", false), ("a/opaque/x/y", false), ("a", true)]
        {
            assert_eq!(above.shows(path.as_bytes()), shown, "{path}");
        }
        assert_eq!(normal(b"./a//b/").expect("valid"), b"a/b");
        assert!(normal(b"a/../b").is_err());
    }
}
