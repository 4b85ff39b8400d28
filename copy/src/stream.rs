//! Streams of bytes in owned chunks.
//!
//! A blob crosses this program as [`Bytes`] chunks, so that what a socket delivered is hashed and handed to the next
//! socket or file without a copy. [`Verified`] is the gate: it gives out the last chunk only when size and digest are
//! right, so no receiver ever sees a wrong blob end well.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use layerfs::digest::Hasher;
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::Descriptor;

use crate::registry::bookmark::{Mark, Marks};

/// How much is read from a file at once, in bytes.
const READ_SIZE: usize = 256 << 10;

/// What a reader can do about bytes that are not those that were asked for.
pub(crate) const DAMAGED: &str = "the source is damaged or was tampered with; nothing was written under that name";

/// A stream of chunks; `None` is the end.
pub(crate) trait Chunks: Send {
    /// The next chunk, never empty.
    fn next_chunk(&mut self) -> Result<Option<Bytes>>;
}

impl Chunks for Box<dyn Chunks + '_> {
    fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        (**self).next_chunk()
    }
}

/// Chunks out of a [`Read`].
pub(crate) struct FromRead<R> {
    reader: R,
    name: String,
}

impl<R: Read + Send> FromRead<R> {
    /// Reads `reader`; `name` is what an error calls it.
    pub(crate) fn new(reader: R, name: impl Into<String>) -> Self {
        Self { reader, name: name.into() }
    }
}

impl<R: Read + Send> Chunks for FromRead<R> {
    fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        let mut chunk = Vec::with_capacity(READ_SIZE);
        self.reader
            .by_ref()
            .take(READ_SIZE as u64)
            .read_to_end(&mut chunk)
            .context(|| format!("read {}", self.name))?;
        Ok((!chunk.is_empty()).then(|| Bytes::from(chunk)))
    }
}

/// A [`Read`] over chunks.
pub(crate) struct ToRead<C> {
    chunks: C,
    rest: Bytes,
}

impl<C: Chunks> ToRead<C> {
    /// Reads `chunks`.
    pub(crate) fn new(chunks: C) -> Self {
        Self { chunks, rest: Bytes::new() }
    }
}

impl<C: Chunks> Read for ToRead<C> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.rest.is_empty() {
            match self.chunks.next_chunk()? {
                Some(chunk) => self.rest = chunk,
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}

/// Passes a blob on while it checks it against its descriptor.
///
/// The chunk that completes the blob is given out only after the digest of the whole was found right; a short, long
/// or different blob ends in [`Kind::Corrupt`] before that.
pub(crate) struct Verified<C> {
    chunks: C,
    expected: Descriptor,
    hasher: Option<Hasher>,
    seen: u64,
    marks: Option<Marks>,
}

/// Where the stream of a blob begins.
#[derive(Clone, Debug, Default)]
pub(crate) struct Start {
    /// The first bytes were checked before; `None` begins at the first.
    pub(crate) after: Option<Mark>,
    /// Takes note of the digest's state on the way.
    pub(crate) marks: Option<Marks>,
}

impl Start {
    /// At the first byte, without notes.
    pub(crate) const BEGIN: Self = Self { after: None, marks: None };

    /// Bytes that are left out.
    pub(crate) fn at(&self) -> u64 {
        self.after.as_ref().map_or(0, |mark| mark.at)
    }
}

/// Leaves the first bytes of a stream out.
pub(crate) struct Skip<C> {
    chunks: C,
    left: u64,
}

impl<C: Chunks> Skip<C> {
    /// Without the first `left` bytes of `chunks`.
    pub(crate) fn new(chunks: C, left: u64) -> Self {
        Self { chunks, left }
    }
}

impl<C: Chunks> Chunks for Skip<C> {
    fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            let Some(mut chunk) = self.chunks.next_chunk()? else { return Ok(None) };
            let skipped = self.left.min(chunk.len() as u64);
            self.left -= skipped;
            chunk.advance(usize::try_from(skipped).unwrap_or(chunk.len()));
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
        }
    }
}

impl<C: Chunks> Verified<C> {
    /// Checks `chunks` against `expected`.
    pub(crate) fn new(chunks: C, expected: &Descriptor) -> Self {
        let hasher = Some(Hasher::new(expected.digest.algorithm()));
        Self { chunks, expected: expected.clone(), hasher, seen: 0, marks: None }
    }

    /// Checks `chunks`, which begin at `start`, against `expected`.
    pub(crate) fn from(chunks: C, expected: &Descriptor, start: Start) -> Self {
        let mut verified = Self { marks: start.marks, ..Self::new(chunks, expected) };
        if let Some(mark) = start.after {
            (verified.seen, verified.hasher) = (mark.at, Some(mark.hasher));
        }
        verified
    }

    fn check_digest(&mut self) -> Result<()> {
        let Some(hasher) = self.hasher.take() else { return Ok(()) };
        let found = hasher.finish();
        match found == self.expected.digest {
            true => Ok(()),
            false => Err(Error::new(
                Kind::Corrupt,
                format!("blob `{}` is wrong: its bytes have the digest `{found}`", self.expected.digest),
            )
            .hint(DAMAGED)),
        }
    }
}

impl<C: Chunks> Chunks for Verified<C> {
    fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        let (digest, size) = (self.expected.digest, self.expected.size);
        let corrupt = |sentence: String| Err(Error::new(Kind::Corrupt, sentence).hint(DAMAGED));
        let Some(chunk) = self.chunks.next_chunk()? else {
            if self.seen < size {
                return corrupt(format!("blob `{digest}` ends after {} of {size} bytes", self.seen));
            }
            // Only an empty blob gets here unchecked.
            self.check_digest()?;
            return Ok(None);
        };
        self.seen += chunk.len() as u64;
        if self.seen > size {
            return corrupt(format!("blob `{digest}` is longer than the {size} bytes it should have"));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&chunk);
            if let Some(marks) = &self.marks {
                marks.pass(self.seen, hasher);
            }
        }
        if self.seen == size {
            self.check_digest()?;
        }
        Ok(Some(chunk))
    }
}

/// Reads a whole stream of at most `limit` bytes.
pub(crate) fn read_all(chunks: &mut dyn Chunks, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.next_chunk()? {
        if bytes.len() as u64 + chunk.len() as u64 > limit {
            return Err(Error::new(Kind::Limit, format!("document is larger than {limit} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verify(bytes: &'static [u8], expected: &Descriptor) -> Result<Vec<u8>> {
        read_all(&mut Verified::new(FromRead::new(bytes, "test"), expected), 1 << 20)
    }

    #[test]
    fn only_the_right_bytes_end_well() {
        let right = Descriptor::of("x", b"hello");
        assert_eq!(verify(b"hello", &right).expect("right"), b"hello");
        assert_eq!(verify(b"", &Descriptor::of("x", b"")).expect("right"), b"");
        for wrong in [&b"hell"[..], b"hello!", b"jello", b""] {
            assert_eq!(verify(wrong, &right).expect_err("wrong").kind(), Kind::Corrupt, "{wrong:?}");
        }
    }

    #[test]
    fn the_last_chunk_of_a_wrong_blob_is_never_given_out() {
        let expected = Descriptor::of("x", b"hello");
        let mut verified = Verified::new(FromRead::new(&b"jello"[..], "test"), &expected);
        assert!(verified.next_chunk().is_err());
    }
}
