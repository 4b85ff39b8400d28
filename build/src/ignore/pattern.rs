//! One line of an ignore file.

use super::glob::{BadPattern, Cursor, Glob, Matcher, Token};

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    /// The cleaned text, without `!`.
    pub(super) text: String,
    /// `!`: what matches is taken back in.
    pub(super) inverted: bool,
    form: Form,
}

/// The quick forms come first; they are also what fixes the meaning of `**name` and `name**`, which match inside a
/// name.
#[derive(Clone, Debug)]
enum Form {
    /// No wildcard.
    Exact,
    /// `text**`.
    Prefix,
    /// `**text`.
    Suffix,
    /// Anything else.
    Wild(Matcher),
}

impl Pattern {
    /// `text` is cleaned and has no `!`.
    pub(super) fn new(text: &str, inverted: bool) -> Result<Self, BadPattern> {
        Glob::parse(text)?;
        Ok(Self { form: compile(text)?, text: text.to_owned(), inverted })
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        match &self.form {
            Form::Exact => path == self.text,
            Form::Prefix => path.starts_with(&self.text[..self.text.len() - 2]),
            Form::Suffix => {
                let suffix = &self.text[2..];
                // `**/name` is also `name` at the top.
                path.ends_with(suffix) || suffix.strip_prefix('/') == Some(path)
            }
            Form::Wild(matcher) => matcher.matches(path),
        }
    }

    /// Whether some path below the folder may match although the folder does not. Never wrongly false.
    pub(super) fn may_match_below(&self, folder: &str) -> bool {
        if self.text.contains(['\\', '[']) {
            // A class may match a slash, and so any number of folders.
            return true;
        }
        let mut parts = self.text.split('/');
        for name in folder.split('/') {
            match parts.next() {
                Some(part) if part.contains("**") => return true,
                Some(part) if Glob::parse(part).is_ok_and(|glob| glob.matches(name)) => {}
                // Another folder; or the pattern is at or above this one, and so has had its say about it.
                _ => return false,
            }
        }
        parts.next().is_some()
    }
}

fn compile(text: &str) -> Result<Form, BadPattern> {
    let mut rest = Cursor(text);
    let mut tokens = Vec::new();
    let mut form = Form::Exact;
    let wild = || Form::Wild(Matcher::new(Vec::new()));
    let mut first = true;
    while !rest.0.is_empty() {
        if rest.0.starts_with("**") {
            rest.0 = &rest.0[2..];
            rest.next_if('/');
            form = match (rest.0.is_empty(), first, &form) {
                (_, true, _) => Form::Suffix,
                (true, _, Form::Exact) => Form::Prefix,
                _ => wild(),
            };
            tokens.push(if rest.0.is_empty() { Token::Rest } else { Token::Folders });
        } else {
            let escaped = rest.0.starts_with('\\');
            match rest.token()? {
                Some(Token::Char(c)) => {
                    // A closing bracket alone is text, but makes the pattern an expression; so does an escape.
                    if escaped || c == ']' {
                        form = wild();
                    }
                    tokens.push(Token::Char(c));
                }
                Some(token) => {
                    if matches!(&token, Token::Class(_, ranges) if ranges.iter().any(|(low, high)| low > high)) {
                        return Err(BadPattern);
                    }
                    form = wild();
                    tokens.push(token);
                }
                None => break,
            }
        }
        first = false;
    }
    Ok(match form {
        Form::Wild(_) => Form::Wild(Matcher::new(tokens)),
        form => form,
    })
}
