//! The nodes of a Dockerfile as s-expressions, in the form BuildKit's parser tests state theirs.

use super::error::ParseError;
use super::lines::Lines;
use super::node::{Args, Node, read};
use super::parser::INSTRUCTIONS;
use super::source::Source;

/// One line for each instruction: `(run ["--mount=…"] "text")`. For tests only.
#[doc(hidden)]
pub fn dump(text: &[u8], name: &str) -> Result<String, ParseError> {
    let source = Source::new(name, text);
    let nodes = read(&mut Lines::new(&source), &source)?;
    Ok(nodes.iter().map(|node| format!("({})\n", expression(node).trim())).collect())
}

fn expression(node: &Node) -> String {
    let mut text = node.keyword.text.to_lowercase();
    if !node.flags.is_empty() {
        let flags: Vec<String> = node.flags.iter().map(|flag| quote(&flag.text)).collect();
        text.push_str(&format!(" [{}]", flags.join(" ")));
    }
    if !INSTRUCTIONS.iter().any(|name| node.keyword.text.eq_ignore_ascii_case(name)) {
        // The suite's form of arguments that were not looked at.
        text.push_str(" \"\"");
    }
    arguments(&node.args, &mut text);
    text
}

fn arguments(args: &Args, text: &mut String) {
    let mut push = |word: &str| text.push_str(&format!(" {}", quote(word)));
    match args {
        Args::Words(words) | Args::Json(words) => words.iter().for_each(|word| push(&word.text)),
        Args::Pairs(pairs) => {
            for pair in pairs {
                push(&pair.key.text);
                push(&pair.value.text);
                push(if pair.legacy { "" } else { "=" });
            }
        }
        Args::Nested(node) => text.push_str(&format!(" ({})", expression(node))),
        Args::Health(kind, rest) => {
            push(&kind.text);
            arguments(rest, text);
        }
    }
}

/// A Go string literal.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() || c.is_whitespace() && c != ' ' => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
