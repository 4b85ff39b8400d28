//! Keys of steps. Pure: whoever calls has read the files.

use std::fmt;

use layerfs::digest::{Algorithm, ChainId, Digest, Hasher};

/// Identifies a step together with all it depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Digest);

impl Key {
    /// The key as a file name.
    pub fn name(&self) -> String {
        self.0.hex()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.short())
    }
}

/// Longest value that is written down as it is, in bytes; of others the digest is.
const SHOWN_MAX: usize = 200;

/// What a key was made of, in order: a name and a value, or its digest where it is long.
pub type Inputs = Vec<(String, String)>;

/// Collects what a key depends on. Every value carries its name and length, so that no two lists of values are the
/// same bytes.
#[derive(Clone, Debug)]
pub struct KeyBuilder {
    hasher: Hasher,
    inputs: Inputs,
}

impl KeyBuilder {
    /// A key for a kind of step. The kind names the version of what it does: a change of behaviour changes it.
    pub fn new(kind: &str) -> Self {
        let builder = Self { hasher: Hasher::new(Algorithm::Sha256), inputs: Vec::new() };
        builder.with("kind", kind)
    }

    /// Adds a value.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        let text = std::str::from_utf8(value).ok().filter(|text| text.len() <= SHOWN_MAX);
        self.inputs.push((name.to_owned(), text.map_or_else(|| Digest::of(value).to_string(), str::to_owned)));
        self.hash(name, value);
        self
    }

    fn hash(&mut self, name: &str, value: &[u8]) {
        for bytes in [name.as_bytes(), value] {
            self.hasher.update(&(bytes.len() as u64).to_le_bytes());
            self.hasher.update(bytes);
        }
    }

    /// Adds a list; its length counts.
    #[must_use]
    pub fn with_all<T: AsRef<[u8]>>(self, name: &str, values: impl IntoIterator<Item = T>) -> Self {
        let mut count = 0_u64;
        let mut builder = values.into_iter().fold(self, |builder, value| {
            count += 1;
            builder.with(name, value)
        });
        builder.hash(name, count.to_string().as_bytes());
        builder
    }

    /// Adds a stack of layers by what they contain.
    #[must_use]
    pub fn on(self, below: Option<ChainId>) -> Self {
        self.with("below", below.map_or_else(|| "nothing".to_owned(), |chain| chain.to_string()))
    }

    /// The key.
    pub fn finish(self) -> Key {
        self.finish_with_inputs().0
    }

    /// The key, and what it was made of.
    pub fn finish_with_inputs(self) -> (Key, Inputs) {
        (Key(self.hasher.finish()), self.inputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cannot_be_mistaken_for_one_another() {
        let keys = [
            KeyBuilder::new("a").with("x", "1").with("y", "2").finish(),
            KeyBuilder::new("a").with("x", "2").with("y", "1").finish(),
            KeyBuilder::new("a").with("x", "1y").with("", "2").finish(),
            KeyBuilder::new("a").with_all("x", ["1", "2"]).finish(),
            KeyBuilder::new("a").with_all("x", ["12"]).finish(),
            KeyBuilder::new("a").with_all("x", ["1"]).with_all("x", ["2"]).finish(),
            KeyBuilder::new("b").with("x", "1").with("y", "2").finish(),
            KeyBuilder::new("a").finish(),
            KeyBuilder::new("a").on(None).finish(),
        ];
        let distinct: std::collections::HashSet<Key> = keys.into_iter().collect();
        assert_eq!(distinct.len(), keys.len());
        assert_eq!(KeyBuilder::new("a").with("x", "1").finish(), KeyBuilder::new("a").with("x", "1").finish());
    }
}
