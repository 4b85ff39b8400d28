//! Which tags of a repository are wanted: pure.

use layerfs::error::{Error, Kind, Result};
use regex_lite::Regex;
use semver::{Version, VersionReq};

use crate::retention::natural;

/// Conditions on tags. All have to hold; an empty filter lets everything through.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    allow: Vec<Regex>,
    deny: Vec<Regex>,
    ranges: Vec<Range>,
    /// Only so many of the newest among those that are left: the highest by version, or by name.
    pub latest: Option<usize>,
    /// Only images made after this moment, in seconds since 1970.
    pub since: Option<i64>,
    /// These and no others, where that is set: nothing has to be listed then.
    pub exactly: Option<Vec<String>>,
}

impl Filter {
    /// Adds an expression of which one at least has to match somewhere in the tag.
    ///
    /// # Errors
    /// It is not a regular expression.
    pub fn allow(&mut self, expression: &str) -> Result<()> {
        self.allow.push(regex(expression)?);
        Ok(())
    }

    /// Adds an expression that must not match anywhere in the tag.
    ///
    /// # Errors
    /// It is not a regular expression.
    pub fn deny(&mut self, expression: &str) -> Result<()> {
        self.deny.push(regex(expression)?);
        Ok(())
    }

    /// Adds a range of versions of which one at least has to hold the tag.
    ///
    /// # Errors
    /// It is not a range.
    pub fn within(&mut self, range: &str) -> Result<()> {
        self.ranges.push(Range::parse(range)?);
        Ok(())
    }

    /// Whether a name alone passes, without regard to how many there are.
    pub fn admits(&self, tag: &str) -> bool {
        let version = version(tag);
        self.exactly.as_ref().is_none_or(|tags| tags.iter().any(|wanted| wanted == tag))
            && (self.allow.is_empty() || self.allow.iter().any(|regex| regex.is_match(tag)))
            && !self.deny.iter().any(|regex| regex.is_match(tag))
            && (self.ranges.is_empty()
                || version.is_some_and(|version| self.ranges.iter().any(|range| range.holds(&version))))
    }

    /// The tags that pass, in the order they came.
    pub fn select(&self, tags: Vec<String>) -> Vec<String> {
        let mut passing: Vec<String> = tags.into_iter().filter(|tag| self.admits(tag)).collect();
        if let Some(count) = self.latest {
            let mut order: Vec<&String> = passing.iter().collect();
            order.sort_by(|a, b| match (version(a), version(b)) {
                (Some(x), Some(y)) => y.cmp(&x).then_with(|| natural(b, a)),
                // What is a version is newer than what is none.
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (None, None) => natural(b, a),
            });
            let kept: std::collections::HashSet<String> = order.into_iter().take(count).cloned().collect();
            passing.retain(|tag| kept.contains(tag));
        }
        passing
    }
}

fn regex(expression: &str) -> Result<Regex> {
    Regex::new(expression)
        .map_err(|error| Error::new(Kind::Usage, format!("`{expression}` is not a regular expression")).because(error))
}

/// A tag as a version: `v1.2`, `1.2.3-rc1`, `3` are.
fn version(tag: &str) -> Option<Version> {
    let bare = tag.strip_prefix(['v', 'V']).unwrap_or(tag);
    let end = bare.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(bare.len());
    let (numbers, rest) = bare.split_at(end);
    let count = numbers.split('.').count();
    if numbers.is_empty() || count > 3 || numbers.split('.').any(str::is_empty) {
        return None;
    }
    // Leading zeros are no version by the book, but dates such as 2024.05.01 are meant as such.
    let numbers: Vec<String> = numbers
        .split('.')
        .map(|part| part.trim_start_matches('0'))
        .map(|part| if part.is_empty() { "0" } else { part }.to_owned())
        .collect();
    Version::parse(&format!("{}{}{rest}", numbers.join("."), ".0".repeat(3 - count))).ok()
}

/// A range in the way of npm and Masterminds: alternatives by `||`, conditions by commas or blanks.
#[derive(Clone, Debug)]
struct Range(Vec<VersionReq>);

impl Range {
    fn parse(text: &str) -> Result<Self> {
        let malformed = || {
            Error::new(Kind::Usage, format!("`{text}` is not a range of versions"))
                .hint("as in `>= 1.2, < 2`, `~1.4`, `^2 || 3.x`")
        };
        let alternatives = text.split("||").map(|alternative| {
            let spaced = alternative.replace(',', " ");
            // `>= 1.2` is one condition of two words.
            let mut conditions: Vec<String> = Vec::new();
            let mut words = spaced.split_whitespace().peekable();
            while let Some(word) = words.next() {
                match (word, words.peek()) {
                    (from, Some(&"-")) => {
                        words.next();
                        conditions.extend([format!(">={from}"), format!("<={}", words.next().ok_or_else(malformed)?)]);
                    }
                    (operator, Some(_)) if operator.chars().all(|c| "<>=~^!".contains(c)) => {
                        conditions.push(format!("{operator}{}", words.next().unwrap_or_default()));
                    }
                    (condition, _) => conditions.push(condition.to_owned()),
                }
            }
            let conditions: Vec<String> = conditions
                .into_iter()
                .map(|condition| condition.replace(['v', 'V'], ""))
                .map(|condition| {
                    let plain = condition.starts_with(|c: char| c.is_ascii_digit());
                    // Cargo reads a bare version as a caret; here it is that version, or all below it where it is short.
                    let whole = condition.split(['-', '+']).next().unwrap_or_default().split('.').count() == 3;
                    match (plain, whole && !condition.contains(['x', 'X', '*'])) {
                        (true, true) => format!("={condition}"),
                        (true, false) => format!("={}", condition.trim_end_matches(['.', 'x', 'X', '*'])),
                        (false, _) => condition,
                    }
                })
                .collect();
            VersionReq::parse(&conditions.join(", ")).map_err(|_| malformed())
        });
        let alternatives: Vec<VersionReq> = alternatives.collect::<Result<_>>()?;
        if text.trim().is_empty() { Err(malformed()) } else { Ok(Self(alternatives)) }
    }

    fn holds(&self, version: &Version) -> bool {
        self.0.iter().any(|range| range.matches(version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(filter: &Filter) -> Vec<String> {
        let tags = ["latest", "1.9", "1.10", "v2.0.0", "2.1.0-rc1", "3", "2024.05.01", "sha-1"];
        filter.select(tags.map(str::to_owned).to_vec())
    }

    fn range(text: &str, expected: &[&str]) {
        let mut filter = Filter::default();
        filter.within(text).expect(text);
        assert_eq!(names(&filter), expected, "{text}");
    }

    #[test]
    fn ranges_are_those_of_others() {
        range(">= 1.10, < 3", &["1.10", "v2.0.0"]);
        range(">=1.10 <3", &["1.10", "v2.0.0"]);
        range("1.x || ^3", &["1.9", "1.10", "3"]);
        range("~2.1.0-rc1", &["2.1.0-rc1"]);
        range("1.9 - 2.0.0", &["1.9", "1.10", "v2.0.0"]);
        range("v2.0.0", &["v2.0.0"]);
        range(">2000", &["2024.05.01"]);
        for text in ["", "newest", ">= ", "1 2 banana"] {
            assert!(Filter::default().within(text).is_err(), "{text}");
        }
    }

    #[test]
    fn all_conditions_hold_together() {
        let mut filter = Filter::default();
        assert_eq!(names(&filter).len(), 8);
        filter.deny("rc").expect("valid");
        filter.allow(r"^v?\d").expect("valid");
        filter.latest = Some(2);
        assert_eq!(names(&filter), ["3", "2024.05.01"]);
        filter.within("< 3").expect("valid");
        assert_eq!(names(&filter), ["1.10", "v2.0.0"]);
        filter.exactly = Some(vec!["v2.0.0".to_owned(), "missing".to_owned()]);
        assert_eq!(names(&filter), ["v2.0.0"]);
        assert!(filter.allow("(").is_err());
    }
}
