//! Go's `filepath.Match`, and what the ignore files add to it.
//!
//! `*` is any text and `?` any character, neither across a slash; `[a-z]` and `[^a-z]` are classes; a backslash
//! escapes. A pattern with an open bracket, an empty class, a `-` at a class's end or a lone backslash is an error.
//! Matching takes time linear in path times pattern, whatever the pattern.

use std::fmt;

/// A pattern that `filepath.Match` takes.
#[derive(Clone, Debug)]
pub struct Glob(Matcher);

/// The pattern's syntax is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPattern;

impl fmt::Display for BadPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the pattern has an open bracket, an empty class or a lone backslash")
    }
}

impl std::error::Error for BadPattern {}

impl Glob {
    /// Compiles a pattern.
    pub fn parse(pattern: &str) -> Result<Self, BadPattern> {
        let mut rest = Cursor(pattern);
        let mut tokens = Vec::new();
        while let Some(token) = rest.token()? {
            tokens.push(token);
        }
        Ok(Self(Matcher::new(tokens)))
    }

    /// Whether the whole path matches.
    pub fn matches(&self, path: &str) -> bool {
        self.0.matches(path)
    }

    /// The text that is the only match, where the pattern has no wildcard.
    pub fn literal(&self) -> Option<String> {
        self.0.tokens.iter().map(|token| if let Token::Char(c) = token { Some(*c) } else { None }).collect()
    }
}

/// Whether a path has any of the characters that make it a pattern.
pub fn has_wildcard(path: &str) -> bool {
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

/// A part of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// This character.
    Char(char),
    /// `?`.
    One,
    /// `*`.
    Star,
    /// `[…]`: not these ranges, or these.
    Class(bool, Vec<(char, char)>),
    /// `**` or `**/` with more behind it: nothing, or any folders with their slash.
    Folders,
    /// `**` at the end: anything.
    Rest,
}

/// What is left of a pattern.
pub(super) struct Cursor<'a>(pub(super) &'a str);

impl Cursor<'_> {
    pub(super) fn next(&mut self) -> Option<char> {
        let mut chars = self.0.chars();
        let next = chars.next();
        self.0 = chars.as_str();
        next
    }

    pub(super) fn next_if(&mut self, wanted: char) -> bool {
        let rest = self.0.strip_prefix(wanted);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    /// The next part of a pattern without `**`.
    pub(super) fn token(&mut self) -> Result<Option<Token>, BadPattern> {
        let Some(c) = self.next() else { return Ok(None) };
        Ok(Some(match c {
            '*' => Token::Star,
            '?' => Token::One,
            '\\' => Token::Char(self.next().ok_or(BadPattern)?),
            '[' => self.class()?,
            c => Token::Char(c),
        }))
    }

    fn class(&mut self) -> Result<Token, BadPattern> {
        let negated = self.next_if('^');
        let mut ranges = Vec::new();
        loop {
            if !ranges.is_empty() && self.next_if(']') {
                return Ok(Token::Class(negated, ranges));
            }
            let low = self.class_char()?;
            let high = if self.next_if('-') { self.class_char()? } else { low };
            ranges.push((low, high));
        }
    }

    fn class_char(&mut self) -> Result<char, BadPattern> {
        match self.next() {
            None | Some('-' | ']') => Err(BadPattern),
            Some('\\') => self.next().ok_or(BadPattern),
            Some(c) => Ok(c),
        }
    }
}

/// Tokens, ready to match.
#[derive(Clone, Debug)]
pub(super) struct Matcher {
    pub(super) tokens: Vec<Token>,
    /// What every match begins and ends with: it turns most paths away at once.
    prefix: String,
    suffix: String,
}

impl Matcher {
    pub(super) fn new(tokens: Vec<Token>) -> Self {
        let literal = |token: &Token| if let Token::Char(c) = token { Some(*c) } else { None };
        let prefix = tokens.iter().map_while(literal).collect();
        let suffix: Vec<char> = tokens.iter().rev().map_while(literal).collect();
        Self { prefix, suffix: suffix.into_iter().rev().collect(), tokens }
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        if !path.starts_with(&self.prefix) || !path.ends_with(&self.suffix) {
            return false;
        }
        let end = self.tokens.len();
        // next[t]: what follows the character at hand matches tokens[t..]; row is the same from that character on.
        // in_folders[t]: `.*/` of the token t has begun, and what follows can end it.
        let (mut next, mut in_folders) = (vec![false; end + 1], vec![false; end + 1]);
        let (mut row, mut row_in_folders) = (next.clone(), in_folders.clone());
        let from_the_end = path.chars().rev().map(Some);
        for c in std::iter::once(None).chain(from_the_end) {
            row[end] = c.is_none();
            for t in (0..end).rev() {
                let one = |allowed: bool| allowed && next[t + 1];
                // In `**` a line end is no character, as `.` in the regular expressions that this follows.
                let on_one_line = c.is_some_and(|c| c != '\n');
                row[t] = match &self.tokens[t] {
                    Token::Char(wanted) => one(c == Some(*wanted)),
                    Token::One => one(c.is_some_and(|c| c != '/')),
                    Token::Class(negated, ranges) => {
                        one(c.is_some_and(|c| ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated))
                    }
                    Token::Star => row[t + 1] || c.is_some_and(|c| c != '/') && next[t],
                    Token::Rest => row[t + 1] || on_one_line && next[t],
                    Token::Folders => {
                        row_in_folders[t] = one(c == Some('/')) || on_one_line && in_folders[t];
                        row[t + 1] || row_in_folders[t]
                    }
                };
            }
            std::mem::swap(&mut next, &mut row);
            std::mem::swap(&mut in_folders, &mut row_in_folders);
        }
        next[0]
    }
}
