//! Any bytes as the PAX records of one file, beside a second reader that is as simple as can be.
#![no_main]

use layerfs::archive::Limits;
use layerfs::archive::read::{EntryKind, TarReader};
use libfuzzer_sys::fuzz_target;

const PATH: &[u8] = b"plain";
const CONTENT: &[u8] = b"content";

/// The records of a well-formed extended header (POSIX.1-2017, `pax`): `LENGTH KEY=VALUE\n`.
fn records(mut rest: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let space = rest.iter().position(|b| *b == b' ')?;
        let length: usize = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
        let record = rest.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|b| *b == b'=')?;
        found.push((&record[..equals], &record[equals + 1..]));
        rest = &rest[length..];
    }
    Some(found)
}

fn block(kind: tar::EntryType, path: &[u8], size: usize) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_ustar_mut().expect("a ustar header").name[..path.len()].copy_from_slice(path);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_size(size as u64);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn padded(content: &[u8]) -> Vec<u8> {
    let mut bytes = content.to_vec();
    bytes.resize(content.len().next_multiple_of(512), 0);
    bytes
}

fuzz_target!(|data: &[u8]| {
    let archive = [
        block(tar::EntryType::XHeader, b"extended", data.len()),
        padded(data),
        block(tar::EntryType::Regular, PATH, CONTENT.len()),
        padded(CONTENT),
        vec![0; 1024],
    ]
    .concat();
    let mut reader = TarReader::new(archive.as_slice(), &Limits { metadata: 1 << 16, ..Limits::default() });
    let Ok(Some(entry)) = reader.next_entry() else { return };
    let Some(records) = records(data) else {
        // Padding of zeros after the records is what some writers leave; nothing else is let through.
        assert!(records_then_zeros(data), "malformed records were accepted as {entry:?}");
        return;
    };
    if records.iter().any(|(key, _)| key.starts_with(b"GNU.sparse.")) {
        return;
    }
    let last = |wanted: &[u8]| records.iter().rfind(|(key, _)| *key == wanted).map(|(_, value)| *value);
    let text = |wanted: &[u8]| last(wanted).filter(|value| !value.is_empty());
    assert_eq!(entry.path, text(b"path").unwrap_or(PATH), "path");
    assert_eq!(entry.link, text(b"linkpath").unwrap_or_default(), "linkpath");
    let number = |wanted: &[u8], plain: u64| {
        text(wanted).map_or(Some(plain), |value| std::str::from_utf8(value).ok()?.parse().ok())
    };
    // A slash at the end of its path makes a folder of it.
    if entry.kind == EntryKind::File {
        assert_eq!(Some(entry.size), number(b"size", CONTENT.len() as u64), "size");
    }
    assert_eq!((Some(entry.uid), Some(entry.gid)), (number(b"uid", 0), number(b"gid", 0)), "owner");
    for (name, value) in &entry.xattrs {
        let key = [b"SCHILY.xattr.", name.as_slice()].concat();
        let encoded = || records.iter().any(|(key, _)| key.starts_with(b"LIBARCHIVE.xattr."));
        assert!(records.contains(&(key.as_slice(), value.as_slice())) || encoded(), "an attribute from nowhere");
    }
});

fn records_then_zeros(data: &[u8]) -> bool {
    let end = data.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    records(&data[..end]).is_some()
}
