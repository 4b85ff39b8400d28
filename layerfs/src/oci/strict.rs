//! JSON that every reader understands alike.
//!
//! Of a key that stands twice in one object some readers take the first value, some the last; Go's also takes `Layers`
//! for `layers`. A document that means different images to different programs passes one's checks and runs as the
//! other (compare CVE-2021-41190), so it is refused.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::error::{Context, Result};

/// Keys that mean something in a manifest, an index, a configuration or a descriptor.
const KNOWN: [&str; 22] = [
    "schemaVersion",
    "mediaType",
    "artifactType",
    "config",
    "layers",
    "manifests",
    "subject",
    "annotations",
    "digest",
    "size",
    "urls",
    "data",
    "platform",
    "architecture",
    "os",
    "os.version",
    "os.features",
    "variant",
    "rootfs",
    "diff_ids",
    "history",
    "type",
];

/// Refuses a document in which a key stands twice in one object, or outside of free-form maps in another case than it
/// has to.
///
/// # Errors
/// It does, or the bytes are not JSON.
pub(super) fn check(bytes: &[u8], what: &str) -> Result<()> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let sentence = || format!("{what} is not a JSON object that every program reads alike");
    Strict { keys: Keys::Ours }.deserialize(&mut json).context(sentence)?;
    json.end().context(sentence)
}

/// Who chose the keys of an object.
#[derive(Clone, Copy)]
enum Keys {
    /// The specification.
    Ours,
    /// Whoever made the image: labels, annotations, settings.
    Theirs,
}

struct Strict {
    keys: Keys,
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let known = KNOWN.iter().find(|known| known.eq_ignore_ascii_case(&key));
            if let (Keys::Ours, Some(known)) = (self.keys, known)
                && *known != key
            {
                return Err(A::Error::custom(format!("the key `{}` is `{known}` to some", key.escape_debug())));
            }
            let free = matches!(key.as_str(), "annotations" | "config" | "container_config");
            // A manifest's `config` is a descriptor; with free keys it is checked for duplicates all the same.
            let keys = if free { Keys::Theirs } else { self.keys };
            if seen.contains(&key) {
                return Err(A::Error::custom(format!("the key `{}` stands twice", key.escape_debug())));
            }
            seen.insert(key);
            map.next_value_seed(Strict { keys })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Strict { keys: self.keys })?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stands_once_and_in_its_own_case() {
        for (text, expected) in [
            (r#"{"layers":[],"config":{"Labels":{"a":"1","A":"2"},"Config":1}}"#, None),
            (r#"{"annotations":{"Size":"1","size":"2"},"x":[1,-1,1.5,null,true,"s"]}"#, None),
            (r#"{"layers":[],"layers":[]}"#, Some("`layers` stands twice")),
            (r#"{"x":[{"y":1,"y":2}]}"#, Some("`y` stands twice")),
            (r#"{"config":{"Labels":{"a":"1","a":"2"}}}"#, Some("`a` stands twice")),
            (r#"{"rootfs":{"Diff_IDs":[]}}"#, Some("`Diff_IDs` is `diff_ids` to some")),
            (r#"{"Layers":[]}"#, Some("`Layers` is `layers` to some")),
            (r#"{} {}"#, Some("trailing characters")),
        ] {
            match (check(text.as_bytes(), "manifest"), expected) {
                (Ok(()), None) => {}
                (Err(error), Some(words)) => assert!(error.chain().contains(words), "{text}: {}", error.chain()),
                (result, _) => panic!("{text}: {result:?}"),
            }
        }
    }
}
