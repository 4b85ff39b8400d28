//! The flags of instructions: `--name`, `--name=value`.

use super::ast::Word;
use super::error::{Fault, ParseError};
use super::source::Source;

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Nothing, `=true` or `=false`; once.
    Switch,
    /// A value; once.
    Value,
    /// A value; as often as wanted.
    Values,
}

/// The flags an instruction knows.
pub(crate) type Known = &'static [(&'static str, Takes)];

/// Instructions that take no flags.
pub(crate) const NONE: Known = &[];
/// `FROM`.
pub(crate) const FROM: Known = &[("platform", Takes::Value)];
/// `RUN`.
pub(crate) const RUN: Known =
    &[("mount", Takes::Values), ("network", Takes::Value), ("security", Takes::Value), ("device", Takes::Values)];
/// `COPY`.
pub(crate) const COPY: Known = &[
    ("from", Takes::Value),
    ("chown", Takes::Value),
    ("chmod", Takes::Value),
    ("link", Takes::Switch),
    ("parents", Takes::Switch),
    ("exclude", Takes::Values),
];
/// `ADD`.
pub(crate) const ADD: Known = &[
    ("chown", Takes::Value),
    ("chmod", Takes::Value),
    ("link", Takes::Switch),
    ("exclude", Takes::Values),
    ("checksum", Takes::Value),
    ("keep-git-dir", Takes::Switch),
    ("unpack", Takes::Switch),
];
/// `HEALTHCHECK`.
pub(crate) const HEALTHCHECK: Known = &[
    ("interval", Takes::Value),
    ("timeout", Takes::Value),
    ("start-period", Takes::Value),
    ("start-interval", Takes::Value),
    ("retries", Takes::Value),
];

/// The flags of one instruction, checked against those it knows.
#[derive(Debug)]
pub(crate) struct Flags(Vec<(&'static str, Word)>);

impl Flags {
    /// `written` are whole words, `--name=value`, without quotes.
    pub(crate) fn parse(written: &[Word], known: Known, source: &Source) -> Result<Self, ParseError> {
        let mut flags = Self(Vec::new());
        for word in written {
            let (name, value) = flags.check(&word.text, known).map_err(|fault| fault.at(source, word.span))?;
            // Where no quote or escape was taken out, the value's own place is known.
            let mut span = word.span;
            if span.end - span.start == word.text.len() {
                span.start = span.end - value.len();
            }
            flags.0.push((name, Word { text: value.to_owned(), span }));
        }
        Ok(flags)
    }

    fn check<'w>(&self, word: &'w str, known: Known) -> Result<(&'static str, &'w str), Fault> {
        let (flag, value) = word.split_once('=').map_or((word, None), |(flag, value)| (flag, Some(value)));
        let name = flag.trim_start_matches("--");
        let Some((name, takes)) = known.iter().copied().find(|(known, _)| flag.strip_prefix("--") == Some(known))
        else {
            let names: Vec<String> = known.iter().map(|(name, _)| format!("--{name}")).collect();
            let fault = Fault::unknown(format!("unknown flag `{flag}`"), flag, names.iter().map(String::as_str));
            return Err(match (fault.hint.is_some(), names.is_empty(), name.is_empty()) {
                (false, false, _) => fault.hint(format!("known here: {}", names.join(" "))),
                (false, true, _) => fault.hint("this instruction takes no flags"),
                _ => fault,
            });
        };
        if takes != Takes::Values && self.0.iter().any(|(given, _)| *given == name) {
            return Err(Fault::new(format!("the flag `--{name}` is written twice")));
        }
        match (takes, value) {
            (Takes::Switch, None) => Ok((name, "true")),
            (Takes::Switch, Some(value)) => match value.to_lowercase().as_str() {
                "true" | "false" => Ok((name, value)),
                _ => Err(Fault::new(format!("the flag `--{name}` is true or false, not `{value}`"))),
            },
            (_, Some(value)) => Ok((name, value)),
            (_, None) => Err(Fault::new(format!("the flag `--{name}` needs a value")).hint(format!("--{name}=…"))),
        }
    }

    /// The flag's value.
    pub(crate) fn value(&self, name: &str) -> Option<Word> {
        self.values(name).next()
    }

    /// Its value where it is written and not empty.
    pub(crate) fn text(&self, name: &str) -> Option<Word> {
        self.value(name).filter(|word| !word.text.is_empty())
    }

    /// All its values.
    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = Word> {
        self.0.iter().filter(move |(given, _)| *given == name).map(|(_, word)| word.clone())
    }

    /// What a switch was set to, where it is written.
    pub(crate) fn switch(&self, name: &str) -> Option<bool> {
        self.value(name).map(|word| word.text.eq_ignore_ascii_case("true"))
    }

    /// The names of the flags that are written, each once.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for (name, _) in &self.0 {
            if !names.iter().any(|seen| seen == name) {
                names.push((*name).to_owned());
            }
        }
        names
    }
}

/// The words Go's `strconv.ParseBool` takes.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}
