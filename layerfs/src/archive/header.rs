//! One block of an archive as a header: POSIX ustar, GNU, star, and what was there before them.
//!
//! Nothing is guessed: a number that is none, or a checksum that is off, is an error, since two readers that go on
//! differently see different files (CVE-2025-62518).

use super::sparse::Runs;
use crate::error::{Error, Kind, Result};

/// Size of a block in bytes.
pub(super) const BLOCK: usize = 512;

/// A header block.
pub(super) struct Header<'a>(&'a [u8; BLOCK]);

/// Who defined the fields after the link name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Old,
    Posix,
    Gnu,
    Star,
}

impl<'a> Header<'a> {
    /// A block whose checksum is right.
    ///
    /// # Errors
    /// It is not.
    pub(super) fn new(block: &'a [u8; BLOCK]) -> Result<Self> {
        let header = Self(block);
        let stated = number(&block[148..156]).unwrap_or(-1);
        let counted = || block[..148].iter().chain(&block[156..]);
        let spaces = 8 * i64::from(b' ');
        let unsigned = spaces + counted().map(|byte| i64::from(*byte)).sum::<i64>();
        // Old Sun machines added signed characters.
        if stated != unsigned && stated != spaces + counted().map(|byte| i64::from(*byte as i8)).sum::<i64>() {
            return Err(malformed("a header whose checksum is wrong"));
        }
        Ok(header)
    }

    fn family(&self) -> Family {
        match (&self.0[257..265], &self.0[508..512]) {
            (b"ustar  \0", _) => Family::Gnu,
            ([b'u', b's', b't', b'a', b'r', 0, ..], b"tar\0") => Family::Star,
            ([b'u', b's', b't', b'a', b'r', 0, ..], _) => Family::Posix,
            _ => Family::Old,
        }
    }

    /// The letter that says what the entry is.
    pub(super) fn kind(&self) -> u8 {
        self.0[156]
    }

    /// The path, its prefix put before it.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = match self.family() {
            Family::Posix => text(&self.0[345..500]),
            Family::Star => text(&self.0[345..476]),
            Family::Gnu | Family::Old => b"",
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link(&self) -> &'a [u8] {
        text(&self.0[157..257])
    }

    pub(super) fn mode(&self) -> Result<u32> {
        // Upper bits may hold the type of the file, as in `st_mode`.
        Ok((field(&self.0[100..108], "mode")? & 0o7777) as u32)
    }

    /// The mode with whatever else stands in its field.
    pub(super) fn whole_mode(&self) -> Result<i64> {
        field(&self.0[100..108], "mode")
    }

    /// Whether readers agree about the header: one of the usual letters, and none of the fields that GNU's and
    /// star's forms have beside POSIX's.
    pub(super) fn is_common(&self) -> bool {
        let times = match self.family() {
            Family::Gnu => self.0[345..369].iter().any(|byte| *byte != 0),
            Family::Star => true,
            Family::Posix | Family::Old => false,
        };
        matches!(self.kind(), 0 | b'0'..=b'6') && !times
    }

    pub(super) fn uid(&self) -> Result<u64> {
        positive(&self.0[108..116], "owner")
    }

    pub(super) fn gid(&self) -> Result<u64> {
        positive(&self.0[116..124], "group")
    }

    pub(super) fn size(&self) -> Result<u64> {
        positive(&self.0[124..136], "size")
    }

    /// Seconds since 1970; negative in GNU's binary form only.
    pub(super) fn mtime(&self) -> Result<i64> {
        field(&self.0[136..148], "time")
    }

    pub(super) fn device(&self) -> Result<(u32, u32)> {
        if self.family() == Family::Old {
            return Ok((0, 0));
        }
        let part = |bytes: &[u8]| {
            u32::try_from(positive(bytes, "device number")?).map_err(|_| malformed("a device number out of range"))
        };
        Ok((part(&self.0[329..337])?, part(&self.0[337..345])?))
    }

    /// Of a sparse file in GNU's old form: the first runs, whether blocks with more of them follow, the whole size.
    pub(super) fn sparse(&self) -> Result<(Runs, bool, u64)> {
        Ok((descriptors(&self.0[386..482])?, self.0[482] != 0, positive(&self.0[483..495], "size")?))
    }
}

/// The runs in a block that continues a sparse file's header, and whether another such block follows.
pub(super) fn more_sparse(block: &[u8; BLOCK]) -> Result<(Runs, bool)> {
    Ok((descriptors(&block[..504])?, block[504] != 0))
}

/// Pairs of twelve bytes, offset and length, up to the first that is empty.
fn descriptors(bytes: &[u8]) -> Result<Runs> {
    let used = bytes.chunks_exact(24).take_while(|pair| pair[0] != 0 && pair[12] != 0);
    used.map(|pair| Ok((positive(&pair[..12], "sparse map")?, positive(&pair[12..], "sparse map")?))).collect()
}

/// What stands before the first NUL.
pub(super) fn text(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

pub(super) fn malformed(what: &str) -> Error {
    Error::new(Kind::Invalid, format!("the archive has {what}"))
}

fn positive(bytes: &[u8], what: &str) -> Result<u64> {
    u64::try_from(field(bytes, what)?).map_err(|_| malformed(&format!("a negative {what}")))
}

fn field(bytes: &[u8], what: &str) -> Result<i64> {
    number(bytes).ok_or_else(|| malformed(&format!("a {what} that is no number: `{}`", text(bytes).escape_ascii())))
}

/// Octal digits between spaces and NULs, or GNU's binary form: two's complement, most significant byte first, the
/// highest bit set as a mark. An empty field is 0.
fn number(bytes: &[u8]) -> Option<i64> {
    if bytes[0] & 0x80 != 0 {
        // The second highest bit is the sign.
        let start = if bytes[0] & 0x40 == 0 { i128::from(bytes[0] & 0x7f) } else { i128::from(bytes[0] as i8) };
        let value = bytes[1..].iter().fold(start, |value, byte| value << 8 | i128::from(*byte));
        return i64::try_from(value).ok();
    }
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = bytes.iter().position(|byte| !blank(byte)).unwrap_or(bytes.len());
    let digits = bytes[start..].split(blank).next().unwrap_or_default();
    digits.iter().try_fold(0, |value: i64, digit| match digit {
        b'0'..=b'7' => Some(value << 3 | i64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        for (field, expected) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"77777777", Some(0o77_777_777)),
            (b"\x80\0\0\0\0\x2d\xc6\xc0", Some(3_000_000)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"0000648\0", None),
            (b"-000001\0", None),
            (b"0x1\0\0\0\0\0", None),
        ] {
            assert_eq!(number(field), expected, "{}", field.escape_ascii());
        }
    }
}
