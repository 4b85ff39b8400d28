//! Places in a Dockerfile, and how they are shown to the reader.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A range of bytes of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        Self { start: range.start, end: range.end }
    }
}

/// A line and a column, both from 1; the column counts characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// A named text. Cloning it is cheap.
#[derive(Clone)]
pub struct Source(Arc<Inner>);

struct Inner {
    name: String,
    text: Vec<u8>,
    /// Where each line starts.
    lines: Vec<usize>,
}

/// The most characters of one source line that a message shows; a longer line is cut around its mark.
const WIDTH: usize = 120;

impl Source {
    /// A source as it was read. `name` is what messages call it.
    pub fn new(name: impl Into<String>, text: &[u8]) -> Self {
        let breaks = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(breaks).collect();
        Self(Arc::new(Inner { name: name.into(), text: text.to_vec(), lines }))
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its bytes.
    pub fn text(&self) -> &[u8] {
        &self.0.text
    }

    /// The line and column of a byte.
    pub fn position(&self, at: usize) -> Position {
        let at = at.min(self.0.text.len());
        let line = self.0.lines.partition_point(|start| *start <= at);
        let before = &self.0.text[self.0.lines[line - 1]..at];
        Position { line, column: String::from_utf8_lossy(before).chars().count() + 1 }
    }

    /// The source line in which the span begins, and a line with carets under the part of the span on it.
    pub fn snippet(&self, span: Span) -> String {
        let Position { line, column } = self.position(span.start);
        let start = self.0.lines[line - 1];
        let end = self.0.lines.get(line).map_or(self.0.text.len(), |next| next - 1);
        let text = String::from_utf8_lossy(&self.0.text[start..end.max(start)]);
        let text = text.trim_end_matches('\r');
        let text: Vec<char> = text.chars().map(visible).collect();
        let marked = self.position(span.end.clamp(span.start, end.max(span.start)));
        let length = if marked.line == line { marked.column - column } else { text.len().saturating_sub(column - 1) };
        let from = if text.len() > WIDTH && column > WIDTH / 2 { column - WIDTH / 2 } else { 0 };
        let to = text.len().min(from + WIDTH);
        let (front, back) = (if from > 0 { "…" } else { "" }, if to < text.len() { "…" } else { "" });
        let shown: String = text[from.min(to)..to].iter().collect();
        let number = line.to_string();
        let gutter = " ".repeat(number.len());
        // Tabs stay tabs under the line above, so that the caret lands where the reader's terminal puts the text.
        let lead = text[from.min(to)..].iter().take(column - 1 - from).map(|c| if *c == '\t' { '\t' } else { ' ' });
        let lead: String = front.chars().map(|_| ' ').chain(lead).collect();
        let carets = "^".repeat(length.min(to.saturating_sub(column - 1)).max(1));
        format!("  {number} | {front}{shown}{back}\n  {gutter} | {lead}{carets}")
    }
}

/// What is shown for a character of a file: a terminal must not obey what a Dockerfile contains.
pub(crate) fn visible(c: char) -> char {
    if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.0.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snippets_mark_the_span() {
        let source = Source::new("Dockerfile", "FROM a\n\tRÜN x\u{1b}[0m y\r\n".as_bytes());
        assert_eq!(source.position(8), Position { line: 2, column: 2 });
        assert_eq!(source.snippet(Span { start: 8, end: 12 }), "  2 | \tRÜN x\u{fffd}[0m y\n    | \t^^^");
        assert_eq!(source.snippet(Span { start: 0, end: 20 }), "  1 | FROM a\n    | ^^^^^^");
    }

    #[test]
    fn the_end_of_the_file_can_be_marked() {
        let source = Source::new("Dockerfile", b"FROM a");
        assert_eq!(source.snippet(Span { start: 6, end: 6 }), "  1 | FROM a\n    |       ^");
        assert_eq!(Source::new("x", b"").snippet(Span::default()), "  1 | \n    | ^");
    }

    #[test]
    fn long_lines_are_cut_around_the_mark() {
        let text = format!("{}MARK{}", "a".repeat(500), "b".repeat(500));
        let snippet = Source::new("x", text.as_bytes()).snippet(Span { start: 500, end: 504 });
        let (line, carets) = snippet.split_once('\n').expect("two lines");
        let at = carets.find('^').expect("a caret");
        let column = carets[..at].chars().count();
        assert_eq!(line.chars().skip(column).take(4).collect::<String>(), "MARK");
        assert!(line.chars().count() < 140);
    }
}
