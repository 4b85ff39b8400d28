//! Any bytes as a Dockerfile: a tree or an error with a place, never a panic; every word of it can be expanded.
#![no_main]

use build::dockerfile::expand::Lexer;
use build::dockerfile::{detect_directive, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match parse(data, "Dockerfile") {
        Ok(_) => drop(detect_directive("syntax", data)),
        Err(error) => assert!(!error.to_string().is_empty(), "an error says something"),
    }
    let text = String::from_utf8_lossy(data);
    let env = |name: &str| name.len().is_multiple_of(2).then(|| name.to_owned());
    for lexer in [Lexer::new('\\'), Lexer::new('`'), Lexer::heredoc()] {
        drop(lexer.word(&text, &env));
        drop(lexer.words(&text, &env));
    }
});
