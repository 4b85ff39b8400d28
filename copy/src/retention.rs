//! Which tags of a repository go, and how: pure.
//!
//! A manifest is removed only where nothing needs it any more: no tag that stays, no index that stays, no referrer.
//! In every other case only the name goes. What is not known counts against removal.

use std::collections::HashSet;

use layerfs::digest::Digest;

/// A tag as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tagged {
    /// The tag.
    pub name: String,
    /// What it points to.
    pub digest: Digest,
    /// When the image was made, in seconds since 1970; `None` where it does not say.
    pub created: Option<i64>,
    /// What the manifest behind it names in turn: the manifests of an index, the subject of a referrer.
    pub needs: Vec<Digest>,
    /// Whether something refers to it.
    pub referred: bool,
}

/// What stays; a tag that any of these keeps stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// So many of the newest.
    pub latest: Option<usize>,
    /// All made after this moment, in seconds since 1970.
    pub newer_than: Option<i64>,
}

/// One thing to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The tag alone.
    Tag(String),
    /// The manifest, and with it these tags: all that point to it.
    Manifest(Digest, Vec<String>),
}

/// The tags that `rule` does not keep, the oldest last.
pub fn doomed<'a>(tags: &'a [Tagged], rule: &Rule) -> Vec<&'a Tagged> {
    let mut order: Vec<&Tagged> = tags.iter().collect();
    // The newest first; of equals the name that people would call the higher.
    order.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| natural(&b.name, &a.name)));
    let (mut place, mut doomed) = (0, Vec::new());
    for tag in order {
        let young = match (rule.newer_than, tag.created) {
            (Some(moment), Some(created)) => created > moment,
            // An image that does not say when it was made is not known to be old.
            (Some(_), None) => true,
            (None, _) => false,
        };
        let among_latest = rule.latest.is_some_and(|count| place < count);
        place += 1;
        if !young && !among_latest && (rule.latest.is_some() || rule.newer_than.is_some()) {
            doomed.push(tag);
        }
    }
    doomed
}

/// How the doomed tags are removed from among all.
pub fn removals(tags: &[Tagged], doomed: &[&Tagged]) -> Vec<Removal> {
    let going: HashSet<&str> = doomed.iter().map(|tag| tag.name.as_str()).collect();
    let staying = || tags.iter().filter(|tag| !going.contains(tag.name.as_str()));
    let needed: HashSet<Digest> = staying().flat_map(|tag| tag.needs.iter().copied().chain([tag.digest])).collect();
    let (mut seen, mut list) = (HashSet::new(), Vec::new());
    for tag in doomed {
        if tag.referred || needed.contains(&tag.digest) {
            list.push(Removal::Tag(tag.name.clone()));
        } else if seen.insert(tag.digest) {
            let names = doomed.iter().filter(|other| other.digest == tag.digest).map(|other| other.name.clone());
            list.push(Removal::Manifest(tag.digest, names.collect()));
        }
    }
    list
}

/// Compares names as people do: runs of digits by their value.
pub(crate) fn natural(a: &str, b: &str) -> std::cmp::Ordering {
    use std::cmp::Ordering::Equal;
    let (mut a_rest, mut b_rest) = (a, b);
    loop {
        let (a_run, b_run) = (run(a_rest), run(b_rest));
        if a_run.is_empty() || b_run.is_empty() {
            return a_run.len().cmp(&b_run.len()).then_with(|| a.cmp(b));
        }
        let order = match (is_number(a_run), is_number(b_run)) {
            (true, true) => {
                let (x, y) = (a_run.trim_start_matches('0'), b_run.trim_start_matches('0'));
                x.len().cmp(&y.len()).then_with(|| x.cmp(y))
            }
            _ => a_run.cmp(b_run),
        };
        if order != Equal {
            return order;
        }
        (a_rest, b_rest) = (&a_rest[a_run.len()..], &b_rest[b_run.len()..]);
    }
}

/// The digits, or the other characters, that a text begins with.
fn run(text: &str) -> &str {
    let digit = text.starts_with(|c: char| c.is_ascii_digit());
    &text[..text.find(|c: char| c.is_ascii_digit() != digit).unwrap_or(text.len())]
}

fn is_number(run: &str) -> bool {
    run.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(name: &str, content: &str, created: Option<i64>) -> Tagged {
        let digest = Digest::of(content.as_bytes());
        Tagged { name: name.to_owned(), digest, created, needs: Vec::new(), referred: false }
    }

    fn names(tags: &[Tagged], latest: Option<usize>, newer_than: Option<i64>) -> Vec<&str> {
        doomed(tags, &Rule { latest, newer_than }).iter().map(|tag| tag.name.as_str()).collect()
    }

    #[test]
    fn what_any_rule_keeps_stays() {
        let tags =
            [tag("1.2", "a", Some(20)), tag("1.10", "b", Some(30)), tag("1.1", "c", Some(10)), tag("x", "d", None)];
        assert_eq!(names(&tags, None, None), [""; 0]);
        assert_eq!(names(&tags, Some(1), None), ["1.2", "1.1", "x"]);
        assert_eq!(names(&tags, Some(9), None), [""; 0]);
        assert_eq!(names(&tags, None, Some(15)), ["1.1"]);
        assert_eq!(names(&tags, Some(2), Some(25)), ["1.1"]);
        let undated = [tag("v9", "a", None), tag("v10", "b", None), tag("v1", "c", None)];
        assert_eq!(names(&undated, Some(1), None), ["v9", "v1"]);
        assert_eq!(names(&undated, None, Some(0)), [""; 0]);
    }

    #[test]
    fn nothing_that_is_needed_is_removed() {
        let index = Tagged { needs: vec![Digest::of(b"child")], ..tag("index", "index", Some(50)) };
        let signed = Tagged { referred: true, ..tag("signed", "signed", Some(2)) };
        let tags = [
            index,
            signed,
            tag("child", "child", Some(1)),
            tag("stable", "shared", Some(40)),
            tag("old", "shared", Some(3)),
            tag("alone", "alone", Some(4)),
            tag("twin", "alone", Some(4)),
        ];
        let going = doomed(&tags, &Rule { latest: Some(2), newer_than: None });
        assert_eq!(
            removals(&tags, &going),
            [
                Removal::Manifest(Digest::of(b"alone"), vec!["twin".into(), "alone".into()]),
                Removal::Tag("old".into()),
                Removal::Tag("signed".into()),
                Removal::Tag("child".into()),
            ]
        );
    }

    #[test]
    fn numbers_in_names_count_as_numbers() {
        let mut names = ["v1.10", "v1.9", "v1", "v1.9-rc1", "a", "v01.9", "10", "9"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["9", "10", "a", "v1", "v01.9", "v1.9", "v1.9-rc1", "v1.10"]);
    }
}
