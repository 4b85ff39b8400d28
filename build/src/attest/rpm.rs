//! The header of an installed RPM package, as its database keeps it.
//!
//! Two big-endian counts, of index entries and of bytes of data; entries of tag, type, offset and count; the data. (rpm,
//! "RPM V4 Package format", without the magic at the front of a header in a file.)

use super::packages::Package;

const NAME: u32 = 1000;
const VERSION: u32 = 1001;
const RELEASE: u32 = 1002;
const EPOCH: u32 = 1003;
const VENDOR: u32 = 1011;
const LICENSE: u32 = 1014;
const ARCHITECTURE: u32 = 1022;
/// Bytes of an index entry.
const ENTRY: usize = 16;

/// The package of a header; `None` for what is no header, or no package: keys for signatures are kept as such.
pub(super) fn package(header: &[u8]) -> Option<Package> {
    let text = |tag: u32| {
        let (kind, rest) = find(header, tag)?;
        // Strings, and lists of translations of which the first is meant.
        let end = rest.iter().position(|byte| *byte == 0)?;
        matches!(kind, 6 | 8 | 9).then(|| String::from_utf8_lossy(&rest[..end]).into_owned())
    };
    let epoch = find(header, EPOCH).and_then(|(_, rest)| number(rest, 0));
    let name = text(NAME)?;
    let version = format!("{}-{}", text(VERSION)?, text(RELEASE)?);
    if name == "gpg-pubkey" {
        return None;
    }
    Some(Package {
        kind: "rpm",
        name,
        version: epoch.map_or_else(|| version.clone(), |epoch| format!("{epoch}:{version}")),
        architecture: text(ARCHITECTURE).unwrap_or_default(),
        license: text(LICENSE).unwrap_or_default(),
        supplier: text(VENDOR).unwrap_or_default(),
    })
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// The type of a tag's value, and the data from it on.
fn find(header: &[u8], tag: u32) -> Option<(u32, &[u8])> {
    let entries = usize::try_from(number(header, 0)?).ok()?;
    let data = header.get(8_usize.checked_add(entries.checked_mul(ENTRY)?)?..)?;
    for entry in header.get(8..)?.chunks_exact(ENTRY).take(entries) {
        if number(entry, 0)? == tag {
            return Some((number(entry, 4)?, data.get(usize::try_from(number(entry, 8)?).ok()?..)?));
        }
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A header of strings.
    pub(in crate::attest) fn header(fields: &[(u32, &str)]) -> Vec<u8> {
        let (mut index, mut data) = (Vec::new(), Vec::new());
        for (tag, value) in fields {
            for number in [*tag, 6, u32::try_from(data.len()).expect("small"), 1] {
                index.extend_from_slice(&number.to_be_bytes());
            }
            data.extend_from_slice(value.as_bytes());
            data.push(0);
        }
        let counts = [fields.len(), data.len()].map(|count| u32::try_from(count).expect("small").to_be_bytes());
        [counts.concat(), index, data].concat()
    }

    #[test]
    fn a_header_is_a_package() {
        let bytes = header(&[(NAME, "bash"), (VERSION, "5.2"), (RELEASE, "3.el9"), (ARCHITECTURE, "x86_64")]);
        let package = package(&bytes).expect("a package");
        assert_eq!((package.name.as_str(), package.version.as_str()), ("bash", "5.2-3.el9"));
        assert_eq!(package.architecture, "x86_64");
    }

    #[test]
    fn damaged_headers_are_none() {
        let bytes = header(&[(NAME, "bash"), (VERSION, "5.2"), (RELEASE, "3.el9")]);
        for length in 0..bytes.len() {
            package(&bytes[..length]);
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] = 0xff;
            package(&damaged);
        }
        assert_eq!(package(&[0xff; 64]), None);
    }
}
