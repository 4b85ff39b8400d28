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
//! ```
//! use build::dockerfile::{ast::Command, expand::Lexer, parse};
//! let file = parse(b"FROM debian:$TAG AS base\nWORKDIR /src/${APP:-app}\n", "Dockerfile").unwrap();
//! let stage = &file.stages[0];
//! assert_eq!(stage.name.as_deref(), Some("base"));
//! let Command::Workdir(word) = &stage.instructions[0].command else { panic!() };
//! let lexer = Lexer::new(file.directives.escape);
//! assert_eq!(lexer.word(&word.text, &|_| None).unwrap(), "/src/app");
//! let error = parse(b"FROM debian\nRNU true\n", "Dockerfile").unwrap_err();
//! assert_eq!(error.to_string(), "Dockerfile:2:1: unknown instruction `RNU`\n  2 | RNU true\n    | ^^^");
//! ```

pub mod ast;
pub mod expand;
pub mod lint;
pub mod mount;
pub mod remote;
pub mod source;

mod directives;
mod dump;
mod error;
mod flags;
mod heredoc;
mod lines;
mod node;
mod parser;
mod path;
mod pattern;
mod values;

pub use directives::detect as detect_directive;
#[doc(hidden)]
pub use dump::dump;
pub(crate) use error::nearest;
pub use error::{Fault, ParseError};
pub use parser::{parse, parse_trigger};
pub use path::clean;
pub(crate) use values::{csv, size};
