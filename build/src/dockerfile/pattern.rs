//! The patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: `*` is any text, `?` any character, neither crosses a line end.

use super::error::Fault;

/// A compiled pattern.
pub(crate) struct Pattern(Vec<Token>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Star,
    One,
    Char(char),
}

impl Pattern {
    /// `\*`, `\?` and `\\` stand for themselves; so do `\}` and `\/`, which the braces around need.
    pub(crate) fn new(text: &str) -> Result<Self, Fault> {
        let mut tokens = Vec::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            tokens.push(match c {
                '*' => Token::Star,
                '?' => Token::One,
                '\\' => match rest.next() {
                    Some(c @ ('*' | '?' | '\\' | '}' | '/')) => Token::Char(c),
                    Some(c) => return Err(Fault::new(format!("`\\{c}` is not an escape of the pattern `{text}`"))),
                    None => return Err(Fault::new(format!("the pattern `{text}` ends in an escape"))),
                },
                c => Token::Char(c),
            });
        }
        // Two stars in a row match what one does.
        tokens.dedup_by(|a, b| *a == Token::Star && *b == Token::Star);
        Ok(Self(tokens))
    }

    /// The value without the shortest (or longest) start that matches.
    pub(crate) fn trim_start(&self, value: &str, longest: bool) -> String {
        let chars: Vec<char> = value.chars().collect();
        chars[ends(&self.0, &chars, longest)[0].unwrap_or(0)..].iter().collect()
    }

    /// The value without the shortest (or longest) end that matches.
    pub(crate) fn trim_end(&self, value: &str, longest: bool) -> String {
        let chars: Vec<char> = value.chars().rev().collect();
        let tokens: Vec<Token> = self.0.iter().rev().copied().collect();
        chars[ends(&tokens, &chars, longest)[0].unwrap_or(0)..].iter().rev().collect()
    }

    /// The value with its first (or every) longest match replaced, from the left.
    pub(crate) fn replace(&self, value: &str, replacement: &str, all: bool) -> String {
        let chars: Vec<char> = value.chars().collect();
        let ends = ends(&self.0, &chars, true);
        let mut result = String::new();
        let (mut at, mut last_end) = (0, None);
        while at <= chars.len() {
            match ends[at] {
                // An empty match right behind another match does not count.
                Some(end) if end > at || last_end != Some(at) => {
                    result.push_str(replacement);
                    last_end = Some(end);
                    if !all {
                        result.extend(&chars[end..]);
                        return result;
                    }
                    if end > at {
                        at = end;
                        continue;
                    }
                }
                _ => {}
            }
            result.extend(chars.get(at));
            at += 1;
        }
        result
    }
}

/// For each position, the furthest (or nearest) end of a match that begins there. Linear in text times pattern.
fn ends(tokens: &[Token], chars: &[char], furthest: bool) -> Vec<Option<usize>> {
    let pick = |a: Option<usize>, b: Option<usize>| match (a, b) {
        (Some(a), Some(b)) => Some(if furthest { a.max(b) } else { a.min(b) }),
        (a, b) => a.or(b),
    };
    let mut result = vec![None; chars.len() + 1];
    // row[t]: the end of a match of tokens[t..] from the position at hand; `next` is the same one position later.
    let mut next: Vec<Option<usize>> = vec![None; tokens.len() + 1];
    for at in (0..=chars.len()).rev() {
        let here = chars.get(at).copied();
        let mut row = vec![None; tokens.len() + 1];
        row[tokens.len()] = Some(at);
        for t in (0..tokens.len()).rev() {
            let on_one_line = here.is_some_and(|c| c != '\n');
            row[t] = match tokens[t] {
                Token::Star => pick(row[t + 1], next[t].filter(|_| on_one_line)),
                Token::One => next[t + 1].filter(|_| on_one_line),
                Token::Char(c) => next[t + 1].filter(|_| here == Some(c)),
            };
        }
        result[at] = row[0];
        next = row;
    }
    result
}
