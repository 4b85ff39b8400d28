//! Dockerfiles: from bytes to a typed tree, with no I/O and no build state.
//!
//! ```text
//! bytes → lines (directives, continuations, comments) → nodes (words, flags, JSON, heredocs) → ast
//! ```
//!
//! The grammar is BuildKit's stable Dockerfile frontend. What it does not know is an error with its place and the
//! nearest known name, never skipped. Variables stay in the tree as written; [`expand`] gives them their values when
//! the environment of a step is known.
//!
//! ```ignore
//! pub fn parse(source: &[u8], name: &str) -> Result<ast::Dockerfile, ParseError>;
//! pub fn parse_trigger(text: &str, name: &str) -> Result<ast::Instruction, ParseError>; // ONBUILD of a base image
//! impl expand::Lexer { pub fn new(escape: char) -> Self; }
//! impl expand::Lexer { pub fn word(&self, text: &str, env: expand::Env) -> Result<String, Fault>; }
//! impl expand::Lexer { pub fn words(&self, text: &str, env: expand::Env) -> Result<Vec<String>, Fault>; }
//! impl flags::Mount { pub fn parse(text: &str, expand: &mut dyn FnMut(&str) -> Result<String, Fault>) -> Result<Mount, Fault>; }
//! impl ast::Run { pub fn script(&self) -> Script; }
//! impl ast::Heredoc { pub fn content(&self) -> Cow<str>; }
//! ```

pub mod ast;
pub mod source;

mod error;

pub use error::{Fault, ParseError};
