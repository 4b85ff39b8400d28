//! Parser directives: `# syntax=…`, `# escape=…`, `# check=…` at the very top.
//!
//! They end at the first line that is not one: an instruction, an empty line, an ordinary comment.

use std::ops::Range;

use super::ast::{Check, Directives, RuleSet, Word};
use super::error::{Fault, ParseError};
use super::source::Source;

const KNOWN: [&str; 3] = ["syntax", "escape", "check"];

/// Reads directives line by line until the first line that is none.
#[derive(Debug)]
pub(crate) struct Reader {
    marker: &'static str,
    seen: Vec<&'static str>,
    done: bool,
}

impl Reader {
    /// `marker` begins a directive's line: `#`, or `//` in files that are no Dockerfiles.
    pub(crate) fn new(marker: &'static str) -> Self {
        Self { marker, seen: Vec::new(), done: false }
    }

    /// What follows is no directive, whatever it looks like.
    pub(crate) fn end(&mut self) {
        self.done = true;
    }

    /// The directive that the line is, with the range of its value in the line.
    pub(crate) fn line(&mut self, line: &str) -> Result<Option<(&'static str, Range<usize>)>, Fault> {
        if self.done {
            return Ok(None);
        }
        let Some((name, value)) = split(line, self.marker) else {
            self.done = true;
            return Ok(None);
        };
        if self.seen.contains(&name) {
            return Err(Fault::new(format!("the parser directive `{name}` is written twice")));
        }
        self.seen.push(name);
        Ok(Some((name, value)))
    }
}

fn split(line: &str, marker: &str) -> Option<(&'static str, Range<usize>)> {
    let (name, value) = line.strip_prefix(marker)?.split_once('=')?;
    let known = KNOWN.into_iter().find(|known| name.trim().eq_ignore_ascii_case(known))?;
    let start = line.len() - value.trim_start().len();
    let range = start..start + value.trim().len();
    // A value of nothing but space is one, and wrong; without even that the line is a comment.
    (!value.is_empty()).then_some((known, range))
}

/// Takes one directive into the set.
pub(crate) fn apply(into: &mut Directives, name: &str, value: Word, source: &Source) -> Result<(), ParseError> {
    match name {
        "syntax" => into.syntax = Some(value),
        "escape" => {
            into.escape = match value.text.as_str() {
                "\\" => '\\',
                "`" => '`',
                other => {
                    let fault = Fault::new(format!("the escape character cannot be `{other}`"));
                    return Err(fault.hint("it is a backslash or a backtick").at(source, value.span));
                }
            }
        }
        _ => into.check = Some(check(&value.text).map_err(|fault| fault.at(source, value.span))?),
    }
    Ok(())
}

/// `skip=A,B|all;error=true;experimental=C|all`. What follows a space is a comment.
pub(crate) fn check(text: &str) -> Result<Check, Fault> {
    let mut check = Check::default();
    let text = text.split(' ').next().unwrap_or_default();
    for part in text.split(';').filter(|part| !part.is_empty()) {
        let (key, setting) = part.split_once('=').unwrap_or((part, ""));
        let rules = || {
            let names = || setting.split(',').filter(|name| !name.is_empty());
            RuleSet {
                all: names().any(|name| name.eq_ignore_ascii_case("all")),
                names: names().filter(|name| !name.eq_ignore_ascii_case("all")).map(str::to_owned).collect(),
            }
        };
        match key {
            "skip" => check.skip = rules(),
            "experimental" => check.experimental = rules(),
            "error" => {
                check.error = super::flags::boolean(setting)
                    .ok_or_else(|| Fault::new(format!("`error={setting}` is neither true nor false")))?;
            }
            _ => {
                let known = ["skip", "error", "experimental"];
                return Err(Fault::unknown(format!("the check directive has no option `{key}`"), key, known));
            }
        }
    }
    Ok(check)
}

/// The value of a `check` directive that a comment (its `#` taken off) holds for the instruction below it.
pub(crate) fn in_comment(comment: &str) -> Option<&str> {
    let (name, value) = split(comment, "")?;
    (name == "check").then(|| &comment[value])
}

/// The value of one directive in a file that need not be a Dockerfile: from `#` comments, `//` comments or a JSON
/// object, after a `#!` line if there is one. With the line it stands on, from 1.
pub fn detect(name: &str, text: &[u8]) -> Option<(String, usize)> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let text = String::from_utf8_lossy(text);
    let (body, first) = match text.starts_with("#!") {
        true => (text.split_once('\n').map_or("", |(_, rest)| rest), 2),
        false => (&*text, 1),
    };
    for marker in ["#", "//"] {
        let mut reader = Reader::new(marker);
        for (number, line) in body.lines().enumerate() {
            match reader.line(line) {
                Ok(Some((found, value))) if found == name => return Some((line[value].to_owned(), first + number)),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
    }
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(body).ok()?;
    object.get(name)?.as_str().map(|value| (value.to_owned(), first))
}
