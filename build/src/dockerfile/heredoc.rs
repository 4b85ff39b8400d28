//! Heredocs: `<<NAME`, `<<-NAME`, `<<"NAME"` in `RUN`, `COPY` and `ADD`.

use std::borrow::Cow;

use super::ast::{CommandLine, Heredoc, Run, Script};
use super::error::{Fault, ParseError};
use super::expand::Lexer;
use super::lines::{Line, Lines, without_line_end};
use super::source::{Source, Span};

/// What `<<NAME` says, before its lines are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) name: String,
    pub(crate) descriptor: u32,
    pub(crate) expand: bool,
    pub(crate) chomp: bool,
}

impl Marker {
    /// A word that is a heredoc's beginning: `[DESCRIPTOR]<<[-][space]NAME`.
    pub(crate) fn parse(word: &str) -> Result<Option<Self>, Fault> {
        let digits = word.bytes().take_while(u8::is_ascii_digit).count();
        let Some(rest) = word[digits..].strip_prefix("<<") else { return Ok(None) };
        let (chomp, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
        let rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace());
        if rest.is_empty() || rest.contains('<') {
            return Ok(None);
        }
        let unset = |_: &str| None;
        let words = Lexer::heredoc_name(false).words(rest, &unset)?;
        let [name] = words.as_slice() else { return Ok(None) };
        let quoted = Lexer::heredoc_name(true).words(rest, &unset)?;
        // A name of which any part is quoted says: leave the content alone.
        let quotes = |text: &str| text.matches(['\'', '"']).count();
        let expand = quoted.first().is_some_and(|quoted| quotes(quoted) == quotes(name));
        Ok(Some(Self { name: name.clone(), descriptor: word[..digits].parse().unwrap_or(0), expand, chomp }))
    }
}

/// The heredocs that a line begins, in order.
pub(crate) fn markers(line: &str) -> Result<Vec<Marker>, Fault> {
    if !line.contains("<<") {
        return Ok(Vec::new());
    }
    // Text that is no valid word (an open quote, say) is the shell's business and begins no heredoc.
    let words = Lexer::verbatim('\\').words(line, &|_| None).unwrap_or_default();
    words.iter().filter_map(|word| Marker::parse(word).transpose()).collect()
}

/// Reads the lines of the heredocs that the line begins.
pub(crate) fn read(line: &mut Line, lines: &mut Lines<'_>, source: &Source) -> Result<Vec<Heredoc>, ParseError> {
    let markers = markers(&line.text).map_err(|fault| fault.at(source, line.span))?;
    let begin = line.span;
    let mut heredocs = Vec::new();
    for marker in markers {
        let start = lines.offset();
        let end = loop {
            let at = lines.offset();
            let Some(bytes) = lines.physical() else {
                let fault = Fault::new(format!("the heredoc `{}` is not closed", marker.name));
                return Err(fault
                    .hint(format!("end it with a line that is `{}` alone", marker.name))
                    .at(source, begin));
            };
            let bytes = without_line_end(bytes);
            line.span.end = at + bytes.len();
            let tabs = if marker.chomp { bytes.iter().take_while(|byte| **byte == b'\t').count() } else { 0 };
            if &bytes[tabs..] == marker.name.as_bytes() {
                break at;
            }
        };
        let raw = std::str::from_utf8(&source.text()[start..end]).map_err(|error| {
            let at = start + error.valid_up_to();
            ParseError::new(source, Span { start: at, end: at + 1 }, "a heredoc holds bytes that are not UTF-8")
        })?;
        let Marker { name, descriptor, expand, chomp } = marker;
        heredocs.push(Heredoc { name, descriptor, expand, chomp, raw: raw.to_owned(), span: (start..end).into() });
    }
    Ok(heredocs)
}

impl Heredoc {
    /// The content: the lines without their leading tabs if the heredoc began with `<<-`, else as they are.
    pub fn content(&self) -> Cow<'_, str> {
        if !self.chomp {
            return Cow::Borrowed(&self.raw);
        }
        Cow::Owned(self.raw.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect())
    }
}

impl Run {
    /// What is to be run, the heredocs put in place.
    ///
    /// A command that is one heredoc and nothing else *is* that heredoc, so that it needs no shell that knows them.
    /// Any other command gets its heredocs back behind it, for the shell to read.
    pub fn script(&self) -> Script {
        let text = match &self.command {
            CommandLine::Exec(arguments) => return Script::Exec(arguments.clone()),
            CommandLine::Shell(word) => &word.text,
        };
        let Some(first) = self.heredocs.first() else { return Script::Shell(text.clone()) };
        if matches!(Marker::parse(text), Ok(Some(_))) {
            let content = first.content().into_owned();
            return match content.starts_with("#!") {
                true => Script::File { name: first.name.clone(), content },
                false => Script::Shell(content),
            };
        }
        Script::Shell(with_heredocs(text, &self.heredocs))
    }
}

/// A line and the heredocs it begins, as one text again.
pub(crate) fn with_heredocs(line: &str, heredocs: &[Heredoc]) -> String {
    let bodies = heredocs.iter().map(|heredoc| format!("\n{}{}", heredoc.raw, heredoc.name));
    std::iter::once(line.to_owned()).chain(bodies).collect()
}
