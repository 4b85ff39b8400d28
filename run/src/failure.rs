//! Errors between processes: an [`Error`] as one line of JSON, and back.

use layerfs::error::{Error, Kind};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Wire {
    kind: String,
    chain: String,
    hint: Option<String>,
}

const KINDS: [Kind; 12] = [
    Kind::Usage,
    Kind::Invalid,
    Kind::NotFound,
    Kind::Corrupt,
    Kind::Unauthorized,
    Kind::Denied,
    Kind::Unavailable,
    Kind::Unsupported,
    Kind::Conflict,
    Kind::Limit,
    Kind::Interrupted,
    Kind::System,
];

/// The error as bytes, at most a pipe's capacity of them.
pub(crate) fn to_bytes(error: &Error) -> Vec<u8> {
    /// A pipe takes this much before anybody reads.
    const CHAIN_MAX: usize = 32 << 10;
    let chain = error.chain().chars().take(CHAIN_MAX / 4).collect();
    let wire = Wire { kind: format!("{:?}", error.kind()), chain, hint: error.advice().map(str::to_owned) };
    serde_json::to_vec(&wire).unwrap_or_default()
}

/// The error that came; `None` where none did.
pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Error> {
    let wire: Wire = serde_json::from_slice(bytes).ok()?;
    let exit = wire.kind.strip_prefix("Exit(").and_then(|rest| rest.strip_suffix(')')?.parse().ok()).map(Kind::Exit);
    let kind = exit.or_else(|| KINDS.into_iter().find(|kind| format!("{kind:?}") == wire.kind)).unwrap_or(Kind::System);
    let error = Error::new(kind, wire.chain);
    Some(match wire.hint {
        Some(hint) => error.hint(hint),
        None => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_travel() {
        let below = Error::new(Kind::Denied, "b").hint("try c");
        let error = from_bytes(&to_bytes(&Error::new(Kind::Denied, "a").because(below))).expect("an error");
        assert_eq!((error.kind(), error.chain().as_str(), error.advice()), (Kind::Denied, "a: b", Some("try c")));
        assert!(from_bytes(b"").is_none());
        let exit = from_bytes(&to_bytes(&Error::new(Kind::Exit(127), "x"))).expect("an error");
        assert_eq!(exit.kind(), Kind::Exit(127));
    }
}
