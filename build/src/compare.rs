//! Two layers beside each other: which paths differ, and in what. For `--verify` and `--explain`.

use std::collections::BTreeMap;
use std::io::BufRead;

use layerfs::archive::read::{Entry, EntryKind, TarReader};
use layerfs::archive::{Limits, decompress};
use layerfs::digest::{Algorithm, Digest, Hasher};
use layerfs::error::Result;
use layerfs::store::Store;

use crate::cache::Layer;

/// Bytes of content that are hashed at a time.
const PIECE: u64 = 1 << 20;

/// A path that two layers do not have alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// The path, with a leading slash.
    pub(crate) path: String,
    /// What about it.
    pub(crate) what: What,
}

/// In what two layers differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The second does not have it.
    Gone,
    /// The first does not have it.
    New,
    /// Both have it, otherwise: words such as `mode 0644, then 0755`.
    Fields(Vec<String>),
}

impl Difference {
    /// A line about two builds that should be the same.
    pub(crate) fn of_builds(&self) -> String {
        match &self.what {
            What::Gone => format!("{}: only the first time", self.path),
            What::New => format!("{}: only the second time", self.path),
            What::Fields(fields) => format!("{}: {}", self.path, fields.join("; ")),
        }
    }

    /// A line about files that changed; `None` where nothing but their time did, which is copied and counts for nothing.
    pub(crate) fn of_files(&self) -> Option<String> {
        match &self.what {
            What::Gone => Some(format!("`{}` is gone", self.path)),
            What::New => Some(format!("`{}` is new", self.path)),
            What::Fields(fields) => {
                let fields: Vec<&str> =
                    fields.iter().map(String::as_str).filter(|field| !field.starts_with("time ")).collect();
                (!fields.is_empty()).then(|| format!("`{}` changed: {}", self.path, fields.join("; ")))
            }
        }
    }
}

/// An entry as far as it is compared.
type Seen = BTreeMap<Vec<u8>, (Entry, Option<Digest>)>;

/// The paths in which the second layer differs from the first, sorted.
///
/// # Errors
/// A layer cannot be read.
pub(crate) fn layers(store: &Store, first: Option<Layer>, second: Option<Layer>) -> Result<Vec<Difference>> {
    let read = |layer: Option<Layer>| match layer {
        None => Ok(Seen::new()),
        Some(layer) => seen(TarReader::new(decompress(store.open_blob(&layer.diff_id.0)?)?, &Limits::default())),
    };
    Ok(compare(&read(first)?, &read(second)?))
}

fn seen(mut reader: TarReader<impl BufRead>) -> Result<Seen> {
    let mut seen = Seen::new();
    while let Some(entry) = reader.next_entry()? {
        let mut digest = None;
        if entry.kind == EntryKind::File && entry.size > 0 {
            let mut hasher = Hasher::new(Algorithm::Sha256);
            loop {
                let piece = reader.chunk(PIECE)?;
                if piece.is_empty() {
                    break;
                }
                hasher.update(piece);
            }
            digest = Some(hasher.finish());
        }
        seen.insert(clean(&entry.path), (entry, digest));
    }
    Ok(seen)
}

fn clean(path: &[u8]) -> Vec<u8> {
    let path = path.strip_prefix(b"./").unwrap_or(path);
    path.strip_suffix(b"/").unwrap_or(path).to_vec()
}

fn compare(first: &Seen, second: &Seen) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut tell = |path: &[u8], what: What| {
        found.push(Difference { path: format!("/{}", path.escape_ascii()), what });
    };
    for (path, before) in first {
        match second.get(path) {
            None => tell(path, What::Gone),
            Some(after) => {
                let what = fields(before, after);
                if !what.is_empty() {
                    tell(path, What::Fields(what));
                }
            }
        }
    }
    for path in second.keys().filter(|path| !first.contains_key(*path)) {
        tell(path, What::New);
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn fields((a, content): &(Entry, Option<Digest>), (b, other): &(Entry, Option<Digest>)) -> Vec<String> {
    let mut what = Vec::new();
    let mut field = |name: &str, first: String, second: String| {
        if first != second {
            what.push(format!("{name} {first}, then {second}"));
        }
    };
    field("kind", format!("{:?}", a.kind).to_lowercase(), format!("{:?}", b.kind).to_lowercase());
    field("mode", format!("{:04o}", a.mode), format!("{:04o}", b.mode));
    field("owner", format!("{}:{}", a.uid, a.gid), format!("{}:{}", b.uid, b.gid));
    field("size", a.size.to_string(), b.size.to_string());
    field("target", a.link.escape_ascii().to_string(), b.link.escape_ascii().to_string());
    field("device", format!("{:?}", a.device), format!("{:?}", b.device));
    field("time", crate::time::rfc3339(a.mtime.seconds), crate::time::rfc3339(b.mtime.seconds));
    if a.size == b.size && content != other {
        what.push("content".to_owned());
    }
    if a.xattrs != b.xattrs {
        what.push("attributes".to_owned());
    }
    what
}

#[cfg(test)]
mod tests {
    use super::*;
    use layerfs::archive::TarWriter;
    use layerfs::archive::read::Time;

    fn layer(files: &[(&str, u32, i64, &[u8])]) -> Seen {
        let mut tar = TarWriter::new(Vec::new());
        for (path, mode, seconds, content) in files {
            let entry = Entry {
                path: path.as_bytes().to_vec(),
                kind: EntryKind::File,
                link: Vec::new(),
                mode: *mode,
                uid: 0,
                gid: 0,
                mtime: Time { seconds: *seconds, nanos: 0 },
                size: content.len() as u64,
                device: (0, 0),
                xattrs: Vec::new(),
                sparse: None,
            };
            tar.append_file(&entry, *content).expect("memory takes it");
        }
        let bytes = tar.finish().expect("memory takes it");
        seen(TarReader::new(&bytes[..], &Limits::default())).expect("an archive")
    }

    #[test]
    fn what_differs_is_told_by_path() {
        let first = layer(&[("a", 0o644, 0, b"one"), ("b", 0o644, 0, b"x"), ("gone", 0o644, 0, b"")]);
        let second = layer(&[("a", 0o755, 60, b"two"), ("b", 0o644, 0, b"x"), ("new", 0o644, 0, b"")]);
        let found = compare(&first, &second);
        let lines: Vec<String> = found.iter().map(Difference::of_builds).collect();
        assert_eq!(
            lines,
            [
                "/a: mode 0644, then 0755; time 1970-01-01T00:00:00Z, then 1970-01-01T00:01:00Z; content",
                "/gone: only the first time",
                "/new: only the second time",
            ]
        );
        assert_eq!(compare(&first, &first), []);
        let files: Vec<String> = found.iter().filter_map(Difference::of_files).collect();
        assert_eq!(files, ["`/a` changed: mode 0644, then 0755; content", "`/gone` is gone", "`/new` is new"]);
    }
}
