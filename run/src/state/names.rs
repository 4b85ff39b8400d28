//! Names for containers that nobody named: two words chosen by the id, and four of its digits, so that no list of names
//! in use is needed.

const ADJECTIVES: [&str; 32] = [
    "amber", "bold", "brave", "bright", "calm", "clever", "cosmic", "daring", "eager", "early", "fair", "fleet",
    "gentle", "golden", "happy", "jolly", "keen", "kind", "lively", "lucid", "mellow", "merry", "nimble", "noble",
    "patient", "proud", "quick", "quiet", "silent", "sunny", "swift", "wise",
];

const NOUNS: [&str; 32] = [
    "badger", "beaver", "bison", "crane", "dolphin", "eagle", "falcon", "ferret", "finch", "fox", "gecko", "heron",
    "ibis", "jackal", "koala", "lark", "lemur", "lynx", "marten", "moose", "newt", "otter", "owl", "panda", "puffin",
    "raven", "robin", "seal", "sparrow", "stork", "tapir", "wren",
];

/// The name of the container `id`.
pub(super) fn of(id: &str) -> String {
    let word = |at: usize| usize::from_str_radix(id.get(at..at + 2).unwrap_or("0"), 16).unwrap_or(0) % 32;
    format!("{}_{}_{}", ADJECTIVES[word(0)], NOUNS[word(2)], id.get(4..8).unwrap_or_default())
}
