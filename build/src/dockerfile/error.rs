//! What is wrong with a Dockerfile, and where.

use std::fmt;

use layerfs::error::{Error, Kind};

use super::source::{Position, Source, Span, visible};

/// A place in a Dockerfile and the sentence about it.
///
/// It prints the position, the sentence, the source line and a caret under the part that is meant.
#[derive(Debug)]
pub struct ParseError {
    name: String,
    position: Position,
    message: String,
    snippet: String,
    hint: Option<String>,
}

impl ParseError {
    /// An error about a span of the source: one sentence, lowercase, no full stop.
    pub fn new(source: &Source, span: Span, message: impl Into<String>) -> Self {
        Self {
            name: source.name().to_owned(),
            position: source.position(span.start),
            message: shown(message.into()),
            snippet: source.snippet(span),
            hint: None,
        }
    }

    /// Adds the one thing the reader can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(shown(hint.into()));
        self
    }

    /// The sentence alone.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What the reader can do about it.
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Where it is.
    pub fn position(&self) -> Position {
        self.position
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { line, column } = self.position;
        write!(f, "{}:{line}:{column}: {}\n{}", self.name, self.message, self.snippet)
    }
}

impl std::error::Error for ParseError {}

impl From<ParseError> for Error {
    fn from(error: ParseError) -> Self {
        let text = error.to_string();
        let converted = Error::new(Kind::Invalid, text);
        match error.hint {
            Some(hint) => converted.hint(hint),
            None => converted,
        }
    }
}

/// A fault in a part of a text whose place only the caller knows: the parser moves it into the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// One sentence, lowercase, no full stop.
    pub message: String,
    /// What the reader can do about it.
    pub hint: Option<String>,
}

impl Fault {
    /// A fault with its sentence.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: shown(message.into()), hint: None }
    }

    /// A name that is not among those known; the nearest of them is the hint.
    pub fn unknown<'a>(message: impl Into<String>, word: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let hint = nearest(word, known).map(|name| format!("did you mean `{name}`?"));
        Self { hint, ..Self::new(message) }
    }

    /// Adds the one thing the reader can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(shown(hint.into()));
        self
    }

    /// Adds a hint where there is none yet.
    #[must_use]
    pub(crate) fn or_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert_with(|| shown(hint.into()));
        self
    }

    /// The error at its place.
    pub fn at(self, source: &Source, span: Span) -> ParseError {
        let error = ParseError::new(source, span, self.message);
        match self.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let converted = Error::new(Kind::Invalid, fault.message);
        match fault.hint {
            Some(hint) => converted.hint(hint),
            None => converted,
        }
    }
}

/// A sentence with what it quotes from a file made harmless.
fn shown(sentence: String) -> String {
    match sentence.chars().any(|c| visible(c) != c) {
        true => sentence.chars().map(visible).collect(),
        false => sentence,
    }
}

/// The known name that fewest single-letter edits make of `word`, if at most two do, in the case of `word`.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    // A name the author could have meant is no longer than this; nobody waits for the rest.
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_lowercase();
    let candidates = known.into_iter().map(|name| (distance(&lower, &name.to_lowercase()), name));
    let (edits, name) = candidates.min_by_key(|(edits, _)| *edits)?;
    if edits == 0 || edits > 2 || edits >= name.chars().count() {
        return None;
    }
    Some(if word.chars().any(char::is_uppercase) { name.to_uppercase() } else { name.to_lowercase() })
}

/// Insertions, deletions, replacements and swaps of neighbours between two words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested_in_the_words_case() {
        let known = ["run", "copy", "entrypoint", "env"];
        for (word, expected) in [
            ("RNU", Some("RUN")),
            ("entrypont", Some("entrypoint")),
            ("COPPY", Some("COPY")),
            ("run", None),
            ("x", None),
            ("volume", None),
        ] {
            assert_eq!(nearest(word, known).as_deref(), expected, "{word}");
        }
    }
}
