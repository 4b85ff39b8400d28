//! System calls, and the only place of the workspace with `unsafe` code.
//!
//! Everything here is a thin, safe wrapper: file descriptors are owned or borrowed, errors are `Errno` or
//! `io::Error`, and each `unsafe` block states the invariant it relies on. Policy lives elsewhere.
#![allow(unsafe_code, reason = "this module is the one place for it")]

pub mod bpf;
pub mod container;
pub mod fs;
pub mod fuse;
pub mod mount;
pub mod namespace;
pub mod process;
pub mod schedule;
pub mod signals;
pub mod spawn;
