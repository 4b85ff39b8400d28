//! From lines to nodes: the instruction's name, its flags, and its arguments split the way that instruction splits.
//!
//! Nodes are what BuildKit's parser makes of the same bytes, with two exceptions: a flag's letters beyond ASCII stay
//! what they are (there each byte becomes a letter), and an `ONBUILD` in an `ONBUILD` is refused here, not later.

use std::ops::Range;

use super::ast::{Heredoc, Pair, Word};
use super::error::{Fault, ParseError};
use super::heredoc;
use super::lines::{Line, Lines};
use super::source::{Source, Span};

/// An instruction before its arguments mean anything.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) keyword: Word,
    pub(crate) flags: Vec<Word>,
    pub(crate) args: Args,
    pub(crate) heredocs: Vec<Heredoc>,
    /// The instruction on one line, without space around it.
    pub(crate) original: String,
    pub(crate) comments: Vec<String>,
    pub(crate) span: Span,
}

/// Arguments.
#[derive(Debug)]
pub(crate) enum Args {
    /// Words; of some instructions only one, with spaces in it.
    Words(Vec<Word>),
    /// The strings of a JSON array. Each has the place of the array.
    Json(Vec<Word>),
    /// Keys and values.
    Pairs(Vec<Pair>),
    /// The instruction in an `ONBUILD`.
    Nested(Box<Node>),
    /// `HEALTHCHECK`'s first word, and the rest.
    Health(Word, Box<Args>),
}

/// Reads all nodes of a source.
pub(crate) fn read(lines: &mut Lines<'_>, source: &Source) -> Result<Vec<Node>, ParseError> {
    let mut nodes = Vec::new();
    while let Some(mut line) = lines.logical()? {
        let splitter = Splitter { line: &line, escape: lines.directives.escape, source };
        let mut node = splitter.node(0..line.text.len(), true)?;
        node.comments = std::mem::take(&mut line.comments);
        if node.takes_heredocs() {
            node.heredocs = heredoc::read(&mut line, lines, source)?;
            node.span.end = line.span.end;
        }
        nodes.push(node);
    }
    Ok(nodes)
}

impl Node {
    fn takes_heredocs(&self) -> bool {
        match &self.args {
            Args::Nested(inner) => inner.takes_heredocs(),
            Args::Json(_) => false,
            _ => ["add", "copy", "run"].iter().any(|name| self.keyword.text.eq_ignore_ascii_case(name)),
        }
    }
}

/// The spaces between an instruction's parts. A line has no line ends, and other Unicode spaces are text here.
const SPACES: [char; 5] = ['\t', '\u{b}', '\u{c}', '\r', ' '];

struct Splitter<'a> {
    line: &'a Line,
    escape: char,
    source: &'a Source,
}

impl Splitter<'_> {
    fn text(&self, range: Range<usize>) -> &str {
        &self.line.text[range]
    }

    fn word(&self, range: Range<usize>) -> Word {
        self.line.word(range)
    }

    /// The range without space at its ends.
    fn trim(&self, range: Range<usize>) -> Range<usize> {
        let text = self.text(range.clone());
        let start = range.end - text.trim_start().len();
        start.min(range.end)..(range.start + text.trim_end().len()).max(start)
    }

    fn fault(&self, range: Range<usize>, fault: Fault) -> ParseError {
        fault.at(self.source, self.line.span_of(range))
    }

    /// The instruction in a range of the line. `ONBUILD` may hold another, but not one more.
    fn node(&self, range: Range<usize>, outermost: bool) -> Result<Node, ParseError> {
        let range = self.trim(range);
        let text = self.text(range.clone());
        let keyword_end = range.start + text.find(SPACES).unwrap_or(text.len());
        let keyword = range.start..keyword_end;
        let (flags, rest) = self.flags(keyword_end..range.end);
        let rest = self.trim(rest);
        let name = self.text(keyword.clone()).to_lowercase();
        let args = match name.as_str() {
            "add" | "copy" | "volume" => match self.json(rest.clone())? {
                Some(words) => Args::Json(words),
                None => Args::Words(self.spaced(rest)),
            },
            "cmd" | "entrypoint" | "run" | "shell" => self.command(rest)?,
            "arg" => Args::Words(self.quoted(rest)),
            "env" | "label" => Args::Pairs(self.pairs(&name, rest)?),
            "expose" | "from" => Args::Words(self.spaced(rest)),
            "healthcheck" => self.health(rest)?,
            "onbuild" if !outermost => {
                let fault = Fault::new("`ONBUILD` cannot stand in another `ONBUILD`");
                return Err(self.fault(keyword, fault));
            }
            "onbuild" if !rest.is_empty() => Args::Nested(Box::new(self.node(rest, false)?)),
            "onbuild" => Args::Words(Vec::new()),
            "maintainer" | "stopsignal" | "user" | "workdir" => Args::Words(self.whole(rest)),
            // The arguments of an instruction that does not exist mean nothing; it is refused later.
            _ => Args::Words(Vec::new()),
        };
        Ok(Node {
            keyword: self.word(keyword),
            flags,
            args,
            heredocs: Vec::new(),
            original: self.text(range.clone()).to_owned(),
            comments: Vec::new(),
            span: if outermost { self.line.span } else { self.line.span_of(range) },
        })
    }

    /// The words at the start that begin with `--`, without their quotes and escapes, and what follows. A word `--`
    /// ends them.
    fn flags(&self, range: Range<usize>) -> (Vec<Word>, Range<usize>) {
        let mut flags = Vec::new();
        let mut at = range.start;
        loop {
            let text = self.text(at..range.end);
            let start = range.end - text.trim_start().len();
            if !self.text(start..range.end).starts_with("--") {
                return (flags, start..range.end);
            }
            let (word, length) = self.unquoted(self.text(start..range.end));
            at = start + length;
            if word == "--" {
                return (flags, at..range.end);
            }
            flags.push(Word { text: word, span: self.line.span_of(start..at) });
        }
    }

    /// The first word of a text without quotes and escapes, and how long it was with them.
    fn unquoted(&self, text: &str) -> (String, usize) {
        let mut word = String::new();
        let mut quote = None;
        let mut chars = text.char_indices();
        while let Some((at, c)) = chars.next() {
            match (quote, c) {
                (None, c) if c.is_whitespace() => return (word, at),
                (None, '\'' | '"') => quote = Some(c),
                (Some(open), c) if c == open => quote = None,
                // An escape at the very end escapes nothing and is dropped.
                (_, c) if c == self.escape => word.extend(chars.next().map(|(_, c)| c)),
                (_, c) => word.push(c),
            }
        }
        (word, text.len())
    }

    /// All of it as one word.
    fn whole(&self, range: Range<usize>) -> Vec<Word> {
        if range.is_empty() { Vec::new() } else { vec![self.word(range)] }
    }

    /// Words split at spaces, quotes or not.
    fn spaced(&self, range: Range<usize>) -> Vec<Word> {
        let mut words = Vec::new();
        let mut at = range.start;
        for part in self.text(range).split(SPACES) {
            if !part.is_empty() {
                words.push(self.word(at..at + part.len()));
            }
            // Every one of the spaces is one byte long.
            at += part.len() + 1;
        }
        words
    }

    /// Words split at spaces that are neither quoted nor escaped. Quotes and escapes stay.
    fn quoted(&self, range: Range<usize>) -> Vec<Word> {
        let mut words = Vec::new();
        let text = self.text(range.clone());
        let mut chars = text.char_indices().peekable();
        loop {
            while chars.next_if(|(_, c)| c.is_whitespace()).is_some() {}
            let Some(&(start, _)) = chars.peek() else { return words };
            let mut word = String::new();
            let mut quote = None;
            let mut end = text.len();
            while let Some((at, c)) = chars.next() {
                match (quote, c) {
                    (None, c) if c.is_whitespace() => {
                        end = at;
                        break;
                    }
                    // Nothing can be escaped between single quotes.
                    (quote, c) if c == self.escape && quote != Some('\'') => {
                        // An escape at the very end escapes nothing and is dropped.
                        if let Some((_, escaped)) = chars.next() {
                            word.extend([c, escaped]);
                        }
                        continue;
                    }
                    (None, '\'' | '"') => quote = Some(c),
                    (Some(open), c) if c == open => quote = None,
                    _ => {}
                }
                word.push(c);
            }
            if !word.is_empty() {
                let span = self.line.span_of(range.start + start..range.start + end);
                words.push(Word { text: word, span });
            }
        }
    }

    /// `KEY=value…`, or the legacy form `KEY value with spaces`.
    fn pairs(&self, name: &str, range: Range<usize>) -> Result<Vec<Pair>, ParseError> {
        let words = self.quoted(range.clone());
        let Some(first) = words.first() else { return Ok(Vec::new()) };
        if !first.text.contains('=') {
            let text = self.text(range.clone());
            let Some(key_length) = text.find(SPACES) else {
                let fault = Fault::new(format!("`{}` has no value", first.text));
                let hint = format!("{} {}=VALUE", name.to_uppercase(), first.text);
                return Err(fault.hint(hint).at(self.source, first.span));
            };
            let value = text[key_length..].trim_start_matches(SPACES);
            let (key, value) = (range.start..range.start + key_length, range.end - value.len()..range.end);
            return Ok(vec![Pair { key: self.word(key), value: self.word(value), legacy: true }]);
        }
        words.iter().map(|word| self.pair(word)).collect()
    }

    fn pair(&self, word: &Word) -> Result<Pair, ParseError> {
        let Some((key, value)) = word.text.split_once('=') else {
            let fault = Fault::new(format!("`{}` has no `=`", word.text));
            return Err(fault.hint("a value with spaces needs quotes: KEY=\"a b\"").at(self.source, word.span));
        };
        let Span { start, end } = word.span;
        // The word's text is its source, but where a continuation or a dropped escape lies in it.
        let middle = if end - start == word.text.len() { start + key.len() } else { start };
        Ok(Pair {
            key: Word { text: key.to_owned(), span: Span { start, end: middle.max(start) } },
            value: Word { text: value.to_owned(), span: Span { start: (middle + 1).min(end), end } },
            legacy: false,
        })
    }

    /// A command: JSON, or one text for the shell.
    fn command(&self, range: Range<usize>) -> Result<Args, ParseError> {
        Ok(match self.json(range.clone())? {
            Some(words) => Args::Json(words),
            None => Args::Words(self.whole(range)),
        })
    }

    fn health(&self, range: Range<usize>) -> Result<Args, ParseError> {
        let text = self.text(range.clone());
        if text.is_empty() {
            return Ok(Args::Words(Vec::new()));
        }
        let kind_end = range.start + text.find(char::is_whitespace).unwrap_or(text.len());
        let rest = self.trim(kind_end..range.end);
        Ok(Args::Health(self.word(range.start..kind_end), Box::new(self.command(rest)?)))
    }

    /// A JSON array of strings. What is no JSON array is text; a JSON array of other things is an error.
    fn json(&self, range: Range<usize>) -> Result<Option<Vec<Word>>, ParseError> {
        let text = self.text(range.clone());
        if !text.starts_with('[') {
            return Ok(None);
        }
        let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(text) else { return Ok(None) };
        let span = self.line.span_of(range.clone());
        let strings = values.into_iter().map(|value| match value {
            serde_json::Value::String(text) => Ok(Word { text, span }),
            other => {
                let fault = Fault::new(format!("`{other}` in this JSON array is not a string"));
                Err(self.fault(range.clone(), fault.hint("put it in double quotes")))
            }
        });
        strings.collect::<Result<_, _>>().map(Some)
    }
}
