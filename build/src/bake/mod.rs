//! Bake: many images from one file of targets.
//!
//! ```text
//! files ──syntax, json, compose──▶ blocks ──module──▶ targets ──resolve──▶ what is asked for ──carry_out──▶ builds
//! ```
//!
//! Everything up to the builds is pure but for the reading of files: [`Plan::read`] takes what was read. The files are
//! those of buildx (HCL, JSON and compose), with its functions, and what `--print` shows is what its does.
//!
//! All targets of one invocation are built in one process by one engine: a step that two of them have in common runs
//! once. A context `target:NAME` is the image of that target, which is built first.

mod carry_out;
mod compose;
mod decode;
mod entries;
mod eval;
mod files;
mod functions;
mod interpolate;
mod json;
mod module;
mod overrides;
mod plan;
mod resolve;
mod syntax;
mod target;
mod types;
mod value;

pub use carry_out::{BakeOutcome, carry_out, metadata, tell};
pub(crate) use entries::canonical_attest as attestation;
pub use files::{BakeFile, Definition, default_names, definition, fetch, read_local};
pub use plan::{Asked, Plan};

#[cfg(test)]
mod tests;
