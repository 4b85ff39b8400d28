//! Words: quotes, escapes and variables, in the form a Dockerfile knows them.
//!
//! This is a shell's word expansion as far as BuildKit has it: `$v ${v} ${v:-w} ${v-w} ${v:+w} ${v+w} ${v:?w} ${v?w}
//! ${v#p} ${v##p} ${v%p} ${v%%p} ${v/p/r} ${v//p/r}`, where `w` and `r` may hold further variables and `p` is a
//! pattern of `*` and `?`. No command substitution, no arithmetic, no `[…]` in patterns.
//!
//! ```
//! use build::dockerfile::expand::Lexer;
//! let env = |name: &str| (name == "VERSION").then(|| "1.2.3".to_owned());
//! let lexer = Lexer::new('\\');
//! assert_eq!(lexer.word("app-${VERSION%.*}-'$x'${TAG:-dev}", &env).unwrap(), "app-1.2-$xdev");
//! ```

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::Chars;

use super::error::Fault;
use super::pattern::Pattern;

/// Looks a variable up; `None` where it is not set.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// How deep `${a:-${b:-…}}` may go. Far beyond any use, far below what a stack holds.
const DEPTH: usize = 64;

/// Expands words.
#[derive(Clone, Debug)]
pub struct Lexer {
    escape: char,
    quotes: Quotes,
    keep_escapes: bool,
    keep_unset: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quotes {
    /// They group, and go.
    Remove,
    /// They group, and stay in the result.
    Keep,
    /// They are text.
    Text,
}

/// A word with its variables replaced, and which they were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The text.
    pub text: String,
    /// The names that had a value.
    pub used: BTreeSet<String>,
    /// The names that had none, also where a default stood in.
    pub unset: BTreeSet<String>,
}

impl Lexer {
    /// For the instructions of a Dockerfile; `escape` is its [`super::ast::Directives::escape`].
    pub fn new(escape: char) -> Self {
        Self { escape, quotes: Quotes::Remove, keep_escapes: false, keep_unset: false }
    }

    /// For the content of a heredoc: quotes are text. The escape is a backslash whatever the directive says.
    pub fn heredoc() -> Self {
        Self { quotes: Quotes::Text, ..Self::new('\\') }
    }

    /// Leaves quotes and escapes where they are, and variables that are not set as they are written.
    pub(crate) fn verbatim(escape: char) -> Self {
        Self { escape, quotes: Quotes::Keep, keep_escapes: true, keep_unset: true }
    }

    /// Leaves quotes where they are, if asked to, and variables that are not set as they are written.
    pub(crate) fn heredoc_name(keep_quotes: bool) -> Self {
        let quotes = if keep_quotes { Quotes::Keep } else { Quotes::Remove };
        Self { escape: '\\', quotes, keep_escapes: false, keep_unset: true }
    }

    /// The text with its quotes and escapes resolved and its variables replaced. Spaces stay.
    pub fn word(&self, text: &str, env: Env<'_>) -> Result<String, Fault> {
        self.scan(text, env).map(|scan| scan.0.text)
    }

    /// The same, and which variables were looked up.
    pub fn word_with_names(&self, text: &str, env: Env<'_>) -> Result<Expanded, Fault> {
        self.scan(text, env).map(|scan| scan.0)
    }

    /// The text split at unquoted spaces, after its variables were replaced: a value with spaces becomes several
    /// words. Empty words are dropped, also quoted ones. (BuildKit loses what stands before `${…:-…}` in a word; we
    /// do not.)
    pub fn words(&self, text: &str, env: Env<'_>) -> Result<Vec<String>, Fault> {
        self.scan(text, env).map(|scan| scan.1)
    }

    fn scan(&self, text: &str, env: Env<'_>) -> Result<(Expanded, Vec<String>), Fault> {
        let mut scan = Scan { lexer: self, env, rest: text.chars().peekable(), names: Expanded::default(), depth: 0 };
        let (result, words) = scan.until(None, self.keep_escapes)?;
        Ok((Expanded { text: result, ..scan.names }, words))
    }
}

struct Scan<'a> {
    lexer: &'a Lexer,
    env: Env<'a>,
    rest: Peekable<Chars<'a>>,
    names: Expanded,
    depth: usize,
}

impl Scan<'_> {
    /// Up to the character `stop`, or to the end of the text where there is none.
    fn until(&mut self, stop: Option<char>, keep_escapes: bool) -> Result<(String, Vec<String>), Fault> {
        let mut result = String::new();
        let mut words = Words::default();
        while let Some(&c) = self.rest.peek() {
            if Some(c) == stop {
                self.rest.next();
                return Ok((result, words.finish()));
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    words.split(&value);
                    result.push_str(&value);
                }
                '\'' | '"' if self.lexer.quotes != Quotes::Text => {
                    let value = if c == '"' { self.double_quoted(keep_escapes)? } else { self.single_quoted()? };
                    words.append(&value);
                    result.push_str(&value);
                }
                '<' => {
                    let value = self.less_than();
                    words.append(&value);
                    result.push_str(&value);
                }
                c if c == self.lexer.escape => {
                    self.rest.next();
                    if keep_escapes {
                        words.push(c);
                        result.push(c);
                    }
                    // An escape at the very end escapes nothing and is dropped.
                    let Some(escaped) = self.rest.next() else { break };
                    words.push(escaped);
                    result.push(escaped);
                }
                c => {
                    self.rest.next();
                    words.split_char(c);
                    result.push(c);
                }
            }
        }
        match stop {
            Some(stop) => Err(Fault::new(format!("the text ends before the `{stop}` it needs"))),
            None => Ok((result, words.finish())),
        }
    }

    /// Everything up to the next single quote, as it is.
    fn single_quoted(&mut self) -> Result<String, Fault> {
        let mut result = String::new();
        let keep = self.lexer.quotes == Quotes::Keep;
        self.rest.next();
        result.extend(keep.then_some('\''));
        loop {
            match self.rest.next() {
                Some('\'') => break,
                Some(c) => result.push(c),
                None => return Err(Fault::new("a single quote is not closed")),
            }
        }
        result.extend(keep.then_some('\''));
        Ok(result)
    }

    /// Everything up to the next double quote that is not escaped; variables are replaced.
    fn double_quoted(&mut self, keep_escapes: bool) -> Result<String, Fault> {
        let mut result = String::new();
        let keep = self.lexer.quotes == Quotes::Keep;
        self.rest.next();
        result.extend(keep.then_some('"'));
        loop {
            match self.rest.peek() {
                None => return Err(Fault::new("a double quote is not closed")),
                Some('"') => break,
                Some('$') => result.push_str(&self.dollar()?),
                Some(&c) => {
                    self.rest.next();
                    if c != self.lexer.escape {
                        result.push(c);
                        continue;
                    }
                    result.extend(keep_escapes.then_some(c));
                    match self.rest.peek() {
                        None => {}
                        // Only these can be escaped here; before any other character the escape is text.
                        Some(&next) if next == '"' || next == '$' || next == c => {
                            self.rest.next();
                            result.push(next);
                        }
                        Some(_) => result.push(c),
                    }
                }
            }
        }
        self.rest.next();
        result.extend(keep.then_some('"'));
        Ok(result)
    }

    /// `<<` and the spaces after it stay together, so that `<< EOF` is one word.
    fn less_than(&mut self) -> String {
        self.rest.next();
        if self.rest.next_if_eq(&'<').is_none() {
            return "<".to_owned();
        }
        let mut result = "<<".to_owned();
        while let Some(space) = self.rest.next_if(|c| matches!(c, '\t' | '\r' | ' ')) {
            result.push(space);
        }
        result
    }

    fn dollar(&mut self) -> Result<String, Fault> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(Fault::new(format!("variables are nested more than {DEPTH} deep")));
        }
        self.rest.next();
        let result = match self.rest.next_if_eq(&'{') {
            Some(_) => self.braced(),
            None => Ok(self.plain()),
        };
        self.depth -= 1;
        result
    }

    /// After `$`: a name, or nothing that is one.
    fn plain(&mut self) -> String {
        let name = self.name();
        if name.is_empty() {
            return "$".to_owned();
        }
        match self.look_up(&name) {
            None if self.lexer.keep_unset => format!("${name}"),
            value => value.unwrap_or_default(),
        }
    }

    /// After `${`.
    fn braced(&mut self) -> Result<String, Fault> {
        match self.rest.peek() {
            None => return Err(missing_brace()),
            Some('{' | '}' | ':') => return Err(Fault::new("a variable's name is missing after `${`")),
            Some(_) => {}
        }
        let name = self.name();
        let Some(mut operator) = self.rest.next() else { return Err(missing_brace()) };
        if operator == '}' {
            return Ok(match self.look_up(&name) {
                None if self.lexer.keep_unset => format!("${{{name}}}"),
                value => value.unwrap_or_default(),
            });
        }
        if operator == '/' {
            return self.replaced(&name);
        }
        let mut written = operator.to_string();
        let empty_is_unset = operator == ':';
        if empty_is_unset {
            operator = self.rest.next().ok_or_else(missing_brace)?;
            written.push(operator);
        }
        let is_pattern = matches!(operator, '#' | '%');
        let known = is_pattern || matches!(operator, '-' | '+' | '?');
        if !known && !empty_is_unset || is_pattern && empty_is_unset {
            return Err(unsupported(&written));
        }
        let (word, _) = self.until(Some('}'), is_pattern).map_err(|fault| self.or_missing_brace(fault))?;
        let value = self.look_up(&name);
        if value.is_none() && self.lexer.keep_unset {
            return Ok(format!("${{{name}{written}{word}}}"));
        }
        let present = value.as_deref().is_some_and(|value| !(empty_is_unset && value.is_empty()));
        match operator {
            '-' => Ok(value.filter(|_| present).unwrap_or(word)),
            '+' => Ok(if present { word } else { String::new() }),
            '?' => {
                let problem = if value.is_none() { "is not set, but must be" } else { "is empty, but must not be" };
                let problem = if word.is_empty() { problem } else { &word };
                value.filter(|_| present).ok_or_else(|| Fault::new(format!("variable `{name}`: {problem}")))
            }
            '#' | '%' => {
                let value = value.unwrap_or_default();
                let longest = word.strip_prefix(operator);
                let pattern = Pattern::new(longest.unwrap_or(&word))?;
                Ok(match operator {
                    '#' => pattern.trim_start(&value, longest.is_some()),
                    _ => pattern.trim_end(&value, longest.is_some()),
                })
            }
            _ => Err(unsupported(&written)),
        }
    }

    /// After `${name/`.
    fn replaced(&mut self, name: &str) -> Result<String, Fault> {
        let all = self.rest.next_if_eq(&'/').is_some();
        let (pattern, _) = self.until(Some('/'), true).map_err(|fault| match self.rest.peek() {
            None => Fault::new("a `/` is missing in `${…/…/…}`"),
            Some(_) => fault,
        })?;
        let (replacement, _) = self.until(Some('}'), true).map_err(|fault| self.or_missing_brace(fault))?;
        match self.look_up(name) {
            None if self.lexer.keep_unset => Ok(format!("${{{name}/{pattern}/{replacement}}}")),
            value => Ok(Pattern::new(&pattern)?.replace(&value.unwrap_or_default(), &replacement, all)),
        }
    }

    /// A fault at the very end of the text is, to the reader, a missing brace.
    fn or_missing_brace(&mut self, fault: Fault) -> Fault {
        if self.rest.peek().is_none() && self.depth <= DEPTH { missing_brace() } else { fault }
    }

    /// Letters, digits and underscores; or digits only; or one of the shell's special parameters.
    fn name(&mut self) -> String {
        let mut name = String::new();
        if let Some(special) = self.rest.next_if(|c| matches!(c, '@' | '*' | '#' | '?' | '-' | '$' | '!')) {
            name.push(special);
            return name;
        }
        let positional = self.rest.peek().is_some_and(char::is_ascii_digit);
        while let Some(c) = self.rest.next_if(|c| match positional {
            true => c.is_ascii_digit(),
            false => c.is_alphabetic() || c.is_ascii_digit() || *c == '_',
        }) {
            name.push(c);
        }
        name
    }

    fn look_up(&mut self, name: &str) -> Option<String> {
        let value = (self.env)(name);
        let names = if value.is_some() { &mut self.names.used } else { &mut self.names.unset };
        names.insert(name.to_owned());
        value
    }
}

fn missing_brace() -> Fault {
    Fault::new("a `}` is missing after `${`")
}

fn unsupported(operator: &str) -> Fault {
    Fault::new(format!("`{operator}` is not an operator of `${{…}}`"))
        .hint("there are :- - :+ + :? ? # ## % %% / and //")
}

/// Collects words, split at spaces that are not quoted.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    current: String,
}

impl Words {
    fn split_char(&mut self, c: char) {
        if !c.is_whitespace() {
            self.current.push(c);
        } else if !self.current.is_empty() {
            self.done.push(std::mem::take(&mut self.current));
        }
    }

    fn split(&mut self, text: &str) {
        text.chars().for_each(|c| self.split_char(c));
    }

    fn push(&mut self, c: char) {
        self.current.push(c);
    }

    fn append(&mut self, text: &str) {
        self.current.push_str(text);
    }

    fn finish(mut self) -> Vec<String> {
        if !self.current.is_empty() {
            self.done.push(self.current);
        }
        self.done
    }
}
