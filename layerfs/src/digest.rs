//! Content digests and the identities of layers.
//!
//! Source: OCI image-spec v1.1, `descriptor.md` (digests) and `config.md` (diff IDs, chain IDs).

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use sha2::Digest as _;
use sha2::digest::common::hazmat::SerializableState;

use crate::error::{Error, Kind};

/// A registered digest algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, which every implementation must know.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// The name before the colon, also the folder below `blobs/`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of the digest in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// A checked digest such as `sha256:2cf2…`. Small and `Copy`; a string that is not a digest never becomes one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    bytes: [u8; 64],
}

impl Digest {
    /// The SHA-256 digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The digest in lowercase hexadecimal, without the algorithm.
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let bytes = &self.bytes[..self.algorithm.size()];
        bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)] as char, DIGITS[usize::from(b & 15)] as char]).collect()
    }

    /// The first twelve hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }

    fn from_bytes(algorithm: Algorithm, digest: &[u8]) -> Self {
        let mut bytes = [0; 64];
        bytes[..digest.len()].copy_from_slice(digest);
        Self { algorithm, bytes }
    }
}

impl FromStr for Digest {
    type Err = Error;

    /// Accepts the registered algorithms with exactly their number of lowercase digits, nothing else: an unchecked
    /// digest string is a path and a request (CVE-2024-3727).
    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = || Error::new(Kind::Invalid, format!("`{}` is not a digest", text.escape_debug()));
        let (name, hex) = text.split_once(':').ok_or_else(invalid)?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(invalid().hint("sha256 and sha512 digests are known")),
        };
        if hex.len() != algorithm.size() * 2 {
            return Err(invalid());
        }
        let nibble = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(invalid()),
        };
        let mut bytes = [0; 64];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self { algorithm, bytes })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The digest of a layer's uncompressed tar: the identity of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The identity of a stack of layers: a layer in its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct ChainId(pub Digest);

impl ChainId {
    /// The stack that `diff_id` makes on top of `below`: `sha256(below + " " + diff_id)`, or the diff ID itself where
    /// nothing is below.
    pub fn on(below: Option<ChainId>, diff_id: DiffId) -> Self {
        match below {
            None => Self(diff_id.0),
            Some(below) => Self(Digest::of(format!("{} {}", below.0, diff_id.0).as_bytes())),
        }
    }

    /// The identity of a whole stack, lowest layer first; `None` for no layers.
    pub fn of(diff_ids: &[DiffId]) -> Option<Self> {
        diff_ids.iter().fold(None, |below, diff_id| Some(Self::on(below, *diff_id)))
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A running digest.
#[derive(Clone, Debug)]
pub struct Hasher(State);

#[derive(Clone, Debug)]
enum State {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new(Algorithm::Sha256)
    }
}

impl Hasher {
    /// A digest of nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
        })
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// What the digest is about to be, as bytes: work that was broken off goes on from there by [`Hasher::resume`].
    pub fn to_state(&self) -> Vec<u8> {
        match &self.0 {
            State::Sha256(state) => state.serialize().to_vec(),
            State::Sha512(state) => state.serialize().to_vec(),
        }
    }

    /// Goes on where [`Hasher::to_state`] was taken; `None` where the bytes are no such state.
    pub fn resume(algorithm: Algorithm, state: &[u8]) -> Option<Self> {
        Some(Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(SerializableState::deserialize(state.try_into().ok()?).ok()?),
            Algorithm::Sha512 => State::Sha512(SerializableState::deserialize(state.try_into().ok()?).ok()?),
        }))
    }

    /// The digest of all that was added.
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(state) => Digest::from_bytes(Algorithm::Sha256, &state.finalize()),
            State::Sha512(state) => Digest::from_bytes(Algorithm::Sha512, &state.finalize()),
        }
    }
}

/// Counts and digests what is read or written through it.
#[derive(Debug)]
pub struct Hashed<S> {
    inner: S,
    hasher: Hasher,
    size: u64,
}

impl<S> Hashed<S> {
    /// Wraps a stream.
    pub fn new(inner: S, algorithm: Algorithm) -> Self {
        Self { inner, hasher: Hasher::new(algorithm), size: 0 }
    }

    /// Bytes that passed so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The stream itself; what passes by this way is not counted.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The stream, the digest of all that passed, and its size in bytes.
    pub fn finish(self) -> (S, Digest, u64) {
        (self.inner, self.hasher.finish(), self.size)
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.pass(&buffer[..n]);
        Ok(n)
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buffer)?;
        self.pass(&buffer[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_goes_on_where_it_was_broken_off() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let mut whole = Hasher::new(algorithm);
            whole.update(&[7; 1000]);
            let mut rest = Hasher::resume(algorithm, &whole.to_state()).expect("a state of ours");
            whole.update(b"rest");
            rest.update(b"rest");
            assert_eq!(rest.finish(), whole.finish());
            assert!(Hasher::resume(algorithm, b"short").is_none());
        }
    }

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digest_round_trips() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>().expect("valid").to_string(), EMPTY);
        let long = format!("sha512:{}", "0f".repeat(64));
        assert_eq!(long.parse::<Digest>().expect("valid").to_string(), long);
    }

    #[test]
    fn what_is_not_a_digest_is_refused() {
        let hex = "a".repeat(64);
        let upper = "A".repeat(64);
        for text in ["", "sha256:", "sha256:../../x", &format!("md5:{hex}"), &format!("sha256:{upper}"), &hex[..]] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
        assert!(format!("sha256:{}", &hex[1..]).parse::<Digest>().is_err());
        assert!(format!("sha512:{hex}").parse::<Digest>().is_err());
    }

    #[test]
    fn chain_id_follows_the_specification() {
        let a = DiffId(Digest::of(b"a"));
        let b = DiffId(Digest::of(b"b"));
        assert_eq!(ChainId::of(&[]), None);
        assert_eq!(ChainId::of(&[a]), Some(ChainId(a.0)));
        assert_eq!(ChainId::of(&[a, b]), Some(ChainId(Digest::of(format!("{a} {b}").as_bytes()))));
    }
}
