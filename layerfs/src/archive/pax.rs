//! Extended headers of POSIX.1-2001 ("pax"): records of a key and a value that overrule the header they precede.
//!
//! Records that cannot be read are errors and not skipped: a reader that then took the plain header's size would see
//! other entries than one that did not (CVE-2026-33055).

use super::header::malformed;
use super::read::Time;
use super::sparse::SparseRecords;
use crate::error::Result;

/// What an extended header says, as far as it matters here. User and group names, character sets and comments
/// do not.
#[derive(Clone, Debug, Default)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    pub(super) atime: Option<Time>,
    pub(super) ctime: Option<Time>,
    /// Attributes stand there in libarchive's form, which Go's reader passes over.
    pub(super) libarchive: bool,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: SparseRecords,
}

impl Extended {
    /// Parses the content of an extended header. Of records with the same key the last counts.
    ///
    /// # Errors
    /// A record is malformed, or one that matters has a value that is none.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self> {
        let mut found = Self::default();
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes).ok_or_else(|| malformed("a malformed PAX record"))?;
            found.take(key, value)?;
            bytes = rest;
        }
        Ok(found)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattr(name.to_vec(), value.to_vec());
            return Ok(());
        }
        if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            let invalid = || malformed("a malformed extended attribute");
            let name = percent_decoded(name).ok_or_else(invalid)?;
            self.libarchive = true;
            self.xattr(name, base64_decoded(value).ok_or_else(invalid)?);
            return Ok(());
        }
        if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
            return self.sparse.take(key, value);
        }
        // An empty value takes back what a global header said, so that the plain header counts again.
        let number = |what: &str| match value {
            b"" => Ok(None),
            _ => decimal(value).map(Some).ok_or_else(|| malformed(&format!("a malformed PAX {what}"))),
        };
        match key {
            b"path" => self.path = named(value)?,
            b"linkpath" => self.link = named(value)?,
            b"size" => self.size = number("size")?,
            b"uid" => self.uid = number("owner")?,
            b"gid" => self.gid = number("group")?,
            b"mtime" if value.is_empty() => self.mtime = None,
            b"mtime" => self.mtime = Some(time(value).ok_or_else(|| malformed("a malformed PAX time"))?),
            // Nothing goes by these two.
            b"atime" => self.atime = time(value),
            b"ctime" => self.ctime = time(value),
            _ => {}
        }
        Ok(())
    }

    /// libarchive writes each attribute in both forms.
    fn xattr(&mut self, name: Vec<u8>, value: Vec<u8>) {
        match self.xattrs.iter_mut().find(|(other, _)| *other == name) {
            Some((_, old)) => *old = value,
            None => self.xattrs.push((name, value)),
        }
    }
}

/// A path: not empty, and without NUL, where other readers end it.
fn named(value: &[u8]) -> Result<Option<Vec<u8>>> {
    if value.contains(&0) {
        return Err(malformed("a PAX path with a NUL byte in it"));
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

/// `LENGTH KEY=VALUE\n` at the start of `bytes`: key, value, and what follows.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
    let rest = bytes.get(length..)?;
    let (key_value, end) = bytes.get(space + 1..length)?.split_at_checked(length.checked_sub(space + 2)?)?;
    let equals = key_value.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
    (end == b"\n").then_some((&key_value[..equals], &key_value[equals + 1..], rest))
}

/// A number of decimal digits and nothing else.
pub(super) fn decimal(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() {
        return None;
    }
    bytes.iter().try_fold(0u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// Decimal seconds, maybe negative, maybe with a fraction, of which nine digits count.
fn time(text: &[u8]) -> Option<Time> {
    let (negative, digits) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let point = digits.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = point.map_or((digits, &b""[..]), |at| (&digits[..at], &digits[at + 1..]));
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    let nanos = (0..9).fold(0, |nanos, place| nanos * 10 + u32::from(fraction.get(place).map_or(0, |b| b - b'0')));
    Some(match (negative, nanos) {
        (false, nanos) => Time { seconds, nanos },
        (true, 0) => Time { seconds: -seconds, nanos: 0 },
        (true, nanos) => Time { seconds: -seconds - 1, nanos: 1_000_000_000 - nanos },
    })
}

fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'%' => {
                let hex = std::str::from_utf8(rest.get(..2)?).ok()?;
                out.push(u8::from_str_radix(hex, 16).ok()?);
                rest = &rest[2..];
            }
            byte => out.push(*byte),
        }
    }
    (!out.is_empty()).then_some(out)
}

/// The name of an attribute in libarchive's form, for writing.
pub(super) fn percent_encoded(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'!'..=b'~' if !matches!(byte, b'%' | b'=') => out.push(*byte),
            _ => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
    out
}

/// Base64 (RFC 4648), with or without the padding at the end.
fn base64_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let digits = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let (mut out, mut bits, mut held) = (Vec::with_capacity(text.len() * 3 / 4), 0u32, 0);
    for digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    (held < 6).then_some(out)
}

/// Base64 with padding, for writing.
pub(super) fn base64(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= chunk.len() { digit } else { b'=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(records: &[(&str, &[u8])]) -> Result<Extended> {
        let mut bytes = Vec::new();
        for (key, value) in records {
            super::super::write::record(&mut bytes, key.as_bytes(), value);
        }
        Extended::parse(&bytes)
    }

    #[test]
    fn times_have_fractions_and_signs() {
        let time = |text: &str| time(text.as_bytes()).map(|t| (t.seconds, t.nanos));
        assert_eq!(time("1234567.5"), Some((1_234_567, 500_000_000)));
        assert_eq!(time("12345.1234567891"), Some((12_345, 123_456_789)));
        assert_eq!(time("-1.25000"), Some((-2, 750_000_000)));
        assert_eq!((time(""), time("."), time("1.x"), time("1e3")), (None, None, None, None));
    }

    #[test]
    fn records_that_matter_must_be_right() {
        for (key, value) in [
            ("size", &b"-1"[..]),
            ("size", b"1.5"),
            ("size", b"18446744073709551616"),
            ("uid", b"x"),
            ("gid", b" 1"),
            ("mtime", b"now"),
            ("path", b"a\0b"),
            ("linkpath", b"\0"),
            ("LIBARCHIVE.xattr.user.x", b"!"),
            ("LIBARCHIVE.xattr.user.%zz", b"AA=="),
            ("GNU.sparse.map", b"1,2,3"),
            ("GNU.sparse.numbytes", b"1"),
        ] {
            assert!(parse(&[(key, value)]).is_err(), "{key}={}", value.escape_ascii());
        }
        for bytes in [&b"x"[..], b"5 a=b", b"6 a=b\n ", b"99 a=b\n", b"6 =ab\n", b"6 abc\n", b"0 a=b\n"] {
            assert!(Extended::parse(bytes).is_err(), "{}", bytes.escape_ascii());
        }
        assert_eq!(parse(&[("path", b"a"), ("path", b"")]).expect("valid").path, None);
        assert_eq!(parse(&[("x.\u{e9}", b"\xff\0=\n"), ("size", b"7"), ("size", b"8")]).expect("valid").size, Some(8));
    }

    #[test]
    fn both_forms_of_attributes_are_read() {
        let found = parse(&[
            ("LIBARCHIVE.xattr.user.a%3Db", b"AP8K"),
            ("SCHILY.xattr.user.c", b"\0="),
            ("LIBARCHIVE.xattr.user.c", b"AD0"),
        ]);
        let expected = [(b"user.a=b".to_vec(), b"\0\xff\n".to_vec()), (b"user.c".to_vec(), b"\0=".to_vec())];
        assert_eq!(found.expect("valid").xattrs, expected);
        for size in 0..9 {
            let bytes: Vec<u8> = (0..size).map(|i: u8| i.wrapping_mul(37).wrapping_add(200)).collect();
            assert_eq!(base64_decoded(&base64(&bytes)), Some(bytes));
        }
    }
}
