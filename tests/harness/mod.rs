//! What the tests stand on: the programs as installed, parties that use them, registries, images, rivals.

pub(crate) mod actor;
pub(crate) mod agent;
pub(crate) mod bundle;
pub(crate) mod call;
pub(crate) mod crowd;
#[cfg(target_arch = "x86_64")]
pub(crate) mod disk;
pub(crate) mod faulty;
pub(crate) mod habits;
pub(crate) mod http;
pub(crate) mod image;
pub(crate) mod inside;
pub(crate) mod machine;
pub(crate) mod peers;
pub(crate) mod registry;
#[cfg(target_arch = "x86_64")]
pub(crate) mod stored;
#[cfg(target_arch = "x86_64")]
pub(crate) mod trace;
pub(crate) mod tree;
pub(crate) mod unpack;
pub(crate) mod vm;

pub(crate) use actor::Actor;
pub(crate) use bundle::Bundle;
pub(crate) use call::{Call, Report};
pub(crate) use faulty::{Auth, Fault, FaultyRegistry, Rule};
pub(crate) use registry::Registry;
