//! `run`: starts containers from images. No daemon, no root.
//!
//! A container is made in four steps, each in its own place:
//!
//! 1. [`cli`] turns words into [`options::RunOptions`]: checked, plain data.
//! 2. [`spec`] turns an image's configuration, those options and facts about the host into an OCI runtime `Spec`. Pure.
//! 3. `launch` carries the `Spec` out: one clone, one error pipe, exec.
//! 4. The process that launched watches: the `run` command itself in the foreground, a small [`monitor`] behind `-d`.
//!
//! Invariants. Nothing here starts a thread or an async runtime: the process that clones is single-threaded. What is
//! true about a container is derived, never stored: it lives while its recorded process (boot, pid, start time) lives,
//! and it is owned while somebody holds the lock of its folder (see [`state`]). Labels and annotations of images never
//! choose what happens on the host.

pub mod cgroup;
pub mod check;
mod child;
pub mod cli;
pub mod command;
pub mod exec;
mod failure;
pub mod files;
pub mod follow;
pub mod format;
pub mod fuse;
pub mod host;
mod init;
pub mod launch;
pub mod log;
pub mod look;
pub mod monitor;
pub mod network;
pub mod options;
pub mod prepare;
pub mod processes;
pub mod profile;
pub mod pull;
pub mod relay;
pub mod restart;
mod rootfs;
mod runtime;
pub mod seal;
pub mod seccomp;
pub mod session;
pub mod spec;
pub mod state;
pub mod step;
pub mod sweep;
pub mod terminal;
pub mod time;
pub mod userns;
pub mod volumes;
