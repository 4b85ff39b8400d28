//! The engine below `build`, `copy` and `run`.
pub mod digest;
pub mod error;
pub mod oci;
pub mod reference;
