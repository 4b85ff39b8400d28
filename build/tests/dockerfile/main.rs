//! The Dockerfile grammar against the tables that BuildKit and moby state theirs with, and against two other parsers.
//!
//! The rows are facts about the grammar, written down anew; each module names the suite its facts come from.

mod expand;
mod ignore;
mod lints;
mod nodes;
mod robust;
mod typed;
