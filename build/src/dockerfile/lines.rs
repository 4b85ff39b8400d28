//! Physical lines, and logical ones: what continuation characters join into one instruction.

use std::ops::Range;

use super::ast::{Directives, Warning, Word};
use super::directives::{Reader, apply};
use super::error::ParseError;
use super::source::{Source, Span};

/// One instruction's text on one line.
#[derive(Debug)]
pub(crate) struct Line {
    /// The joined text. Leading space of its first physical line is gone, all else is kept.
    pub(crate) text: String,
    /// The comments above it.
    pub(crate) comments: Vec<String>,
    /// Its physical lines, without the last line end.
    pub(crate) span: Span,
    /// Where the pieces of `text` come from: (offset in `text`, offset in the source), both rising.
    pieces: Vec<(usize, usize)>,
}

impl Line {
    /// The place of a range of `text`.
    pub(crate) fn span_of(&self, range: Range<usize>) -> Span {
        let start = self.source_offset(range.start);
        let end = if range.is_empty() { start } else { self.source_offset(range.end - 1) + 1 };
        Span { start, end: end.max(start) }
    }

    /// A range of `text` as a word.
    pub(crate) fn word(&self, range: Range<usize>) -> Word {
        Word { text: self.text[range.clone()].to_owned(), span: self.span_of(range) }
    }

    fn source_offset(&self, at: usize) -> usize {
        let after = self.pieces.partition_point(|(offset, _)| *offset <= at);
        self.pieces.get(after.saturating_sub(1)).map_or(self.span.start, |(offset, start)| start + (at - offset))
    }
}

/// Reads a source line by line.
pub(crate) struct Lines<'a> {
    source: &'a Source,
    at: usize,
    reader: Reader,
    comments: Vec<String>,
    pub(crate) directives: Directives,
    pub(crate) warnings: Vec<Warning>,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(source: &'a Source) -> Self {
        Self {
            source,
            // A byte-order mark is not text.
            at: if source.text().starts_with(b"\xef\xbb\xbf") { 3 } else { 0 },
            reader: Reader::new("#"),
            comments: Vec::new(),
            directives: Directives::default(),
            warnings: Vec::new(),
        }
    }

    /// Where the next physical line begins.
    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    /// The next physical line with its line end.
    pub(crate) fn physical(&mut self) -> Option<&'a [u8]> {
        let rest = &self.source.text()[self.at..];
        if rest.is_empty() {
            return None;
        }
        let length = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
        self.at += length;
        Some(&rest[..length])
    }

    /// The next instruction.
    pub(crate) fn logical(&mut self) -> Result<Option<Line>, ParseError> {
        loop {
            let start = self.at;
            let Some(bytes) = self.physical() else { return Ok(None) };
            let bytes = without_line_end(bytes);
            if is_comment(bytes) {
                self.comment(bytes, start)?;
                continue;
            }
            // Whatever comes now, directives are over.
            self.reader.end();
            let text = self.text(bytes, start)?;
            let trimmed = text.trim_start();
            if trimmed.is_empty() {
                continue;
            }
            return self.join(trimmed, start + (text.len() - trimmed.len())).map(Some);
        }
    }

    /// Joins the physical line that was read, `text` at byte `start`, with those that continue it.
    fn join(&mut self, text: &str, start: usize) -> Result<Line, ParseError> {
        let mut line = Line {
            text: String::new(),
            comments: std::mem::take(&mut self.comments),
            span: Span { start, end: start + text.len() },
            pieces: Vec::new(),
        };
        let (text, mut continues) = self.without_continuation(text);
        line.pieces.push((0, start));
        line.text.push_str(text);
        let mut empty = None;
        while continues {
            let start = self.at;
            let Some(bytes) = self.physical() else { break };
            let bytes = without_line_end(bytes);
            line.span.end = start + bytes.len();
            if is_comment(bytes) {
                continue;
            }
            let text = self.text(bytes, start)?;
            if text.trim_start().is_empty() {
                empty.get_or_insert(Span { start, end: start + text.len() });
                continue;
            }
            let (text, more) = self.without_continuation(text);
            continues = more;
            line.pieces.push((line.text.len(), start));
            line.text.push_str(text);
        }
        if let Some(span) = empty {
            let message = "Empty continuation line".to_owned();
            self.warnings.push(Warning { rule: "NoEmptyContinuation", message, span });
        }
        Ok(line)
    }

    /// A comment: a directive, or text that the next instruction may want.
    fn comment(&mut self, bytes: &[u8], start: usize) -> Result<(), ParseError> {
        // Comments may hold any bytes: nobody but a reader looks at them.
        let decoded = String::from_utf8_lossy(bytes);
        let line = decoded.trim_start();
        let at = start + (decoded.len() - line.len());
        let span = Span { start, end: start + bytes.len() };
        match self.reader.line(line).map_err(|fault| fault.at(self.source, span))? {
            Some((name, value)) => {
                let text = line[value.clone()].to_owned();
                let span = (at + value.start..at + value.end).into();
                return apply(&mut self.directives, name, Word { text, span }, self.source);
            }
            None => match line[1..].trim() {
                // An empty comment ends a block of comments.
                "" => self.comments.clear(),
                text => self.comments.push(text.to_owned()),
            },
        }
        Ok(())
    }

    fn text<'b>(&self, bytes: &'b [u8], start: usize) -> Result<&'b str, ParseError> {
        std::str::from_utf8(bytes).map_err(|error| {
            let at = start + error.valid_up_to();
            ParseError::new(
                self.source,
                Span { start: at, end: at + 1 },
                "an instruction holds bytes that are not UTF-8",
            )
        })
    }

    /// The line without the escape character that ends it, and whether there was one. An escape that is itself
    /// escaped does not continue the line.
    fn without_continuation<'b>(&self, line: &'b str) -> (&'b str, bool) {
        let escape = self.directives.escape;
        match line.trim_end_matches([' ', '\t']).strip_suffix(escape) {
            Some(rest) if !rest.ends_with(escape) => (rest, true),
            _ => (line, false),
        }
    }
}

/// A physical line without `\n` or `\r\n`.
pub(crate) fn without_line_end(mut line: &[u8]) -> &[u8] {
    while let Some(rest) = line.strip_suffix(b"\n").or_else(|| line.strip_suffix(b"\r")) {
        line = rest;
    }
    line
}

fn is_comment(line: &[u8]) -> bool {
    String::from_utf8_lossy(line).trim_start().starts_with('#')
}
