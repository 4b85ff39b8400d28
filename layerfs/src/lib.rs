//! The engine below `build`, `copy` and `run`.
pub mod archive;
pub mod digest;
pub mod error;
pub mod layer;
pub mod mount;
pub mod oci;
pub mod progress;
pub mod reference;
pub mod store;
pub mod sys;
pub mod userns;
