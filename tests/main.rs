//! Tests that need whole programs: real registries, real users, the rivals. One binary, one module per subject.
//!
//! Every test makes what it needs in a folder of its own, so order and leftovers mean nothing. A test that cannot run
//! here says why in a file that `tests/all` reads, and fails that run unless it is for want of a rival.

mod harness;

mod attestations;
mod bad_input;
mod bake;
mod cache_keys;
mod chroot;
mod conformance_suite;
mod control_groups;
mod copy_chunked;
mod copy_peers;
mod copy_signed;
mod copy_sync;
mod corpus;
mod crash;
mod crowd;
mod damage;
mod elsewhere;
mod end_to_end;
mod engines;
#[cfg(target_arch = "x86_64")]
mod faults;
mod hostile;
mod interop;
mod layers_interop;
mod lower_layers;
mod namespaces;
mod nested;
mod reproducible;
mod rootless;
mod run_files;
mod run_life;
mod run_verbs;
mod runtime_escapes;
mod runtime_spec;
mod shared_cache;
mod store;
mod tidy;
mod union;
mod user_namespaces;
mod vm;
mod volumes;
