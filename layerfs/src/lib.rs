//! The engine below `build`, `copy` and `run`: what an image is, where it lies, and how it becomes a file system.
//!
//! # Map
//!
//! | module | what it knows | what it does not |
//! |---|---|---|
//! | [`error`] | one error type: a sentence, a kind, a hint, a cause | exit codes, terminals |
//! | [`digest`], [`reference`](mod@reference), [`oci`] | identities, names, documents | where anything is |
//! | [`archive`] | tar in and out, whiteouts, compression | images, stores |
//! | [`store`] | blobs, names, the on-disk format, garbage | registries, containers, Dockerfiles |
//! | [`layer`] | unpacked layers, what depends on the layers below, stacks | mounting them |
//! | [`mount`] | a stack as a mount | who mounts it where |
//! | [`userns`] | id maps, becoming root of a namespace of one's own | containers |
//! | [`verify`] | what is damaged in a store, and how to mend it | how it is told |
//! | [`progress`] | events of long work | how they are shown |
//! | [`time`] | moments as text | time zones |
//! | [`sys`] | system calls; the only `unsafe` | policy |
//!
//! # How data flows
//!
//! A pull streams each layer once: network → blob file and its digest → decompression → diff ID → files. `build` goes
//! the other way: the folder that a step changed is walked once into an archive that is both blob and identity, and the
//! folder itself is renamed into the store. A push reads blobs as they are. A container's root file system is a stack
//! of layer folders under one writable folder, by kernel overlayfs.
//!
//! # Invariants
//!
//! - Dependencies point one way: `layerfs` ← `copy`, `layerfs` ← `run`, {`layerfs`, `copy`, `run`} ← `build`.
//! - This crate is synchronous. It has no network, no command line, no asynchronous code, reads no environment variable
//!   and writes to no terminal.
//! - There is no daemon and no lock over the whole store; state that can be derived is not stored.
//! - What is visible under its name is complete: everything is born in `tmp/` and renamed.
//! - A digest is computed from bytes, never from a document written again.
//! - Nothing in an image can name a file outside the image: every path of one is resolved inside its root.
//! - A fallback is a backend behind one type, chosen by one probe that can say why.

pub mod archive;
pub mod digest;
pub mod error;
pub mod fuse;
pub mod layer;
pub mod mount;
pub mod oci;
pub mod progress;
pub mod reference;
pub mod store;
pub mod sys;
pub mod time;
pub mod userns;
pub mod verify;
