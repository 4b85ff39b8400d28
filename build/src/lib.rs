//! Builds images from Dockerfiles.
//!
//! ```text
//! bytes ──dockerfile──▶ tree ──graph──▶ steps ──cache──▶ keys ──schedule──▶ layers ──output──▶ image
//! ```
//!
//! What is pure: [`dockerfile`], [`ignore`], [`graph`], the keys of [`cache`]. What touches files: [`files`] reads
//! contexts, `exec` makes layers, `schedule` decides when, [`output`] puts the result where it is wanted.
//!
//! Invariants. A step is looked up by what it finds, never by how that came about. A layer is in the store before
//! anything names it. Nothing is mounted outside this process's own mount namespace. Secrets are in no layer, key,
//! record or log.

pub mod attest;
pub mod bake;
pub mod cache;
pub mod cli;
mod compare;
pub mod dockerfile;
mod engine;
mod exec;
pub mod fetch;
pub mod files;
mod foreign;
pub mod graph;
pub mod ignore;
mod images;
pub mod options;
pub mod output;
pub mod progress;
mod schedule;
mod time;

pub use engine::{Built, Outcome, build};
pub use exec::chroot::{GIVEN_UP, is_called as enters_tree, main as enter_tree};
pub use schedule::Cancel;
