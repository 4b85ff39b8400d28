//! Moves images between registries, archives and stores.
//!
//! ```text
//! location ──► transport (Source) ──► inventory ──► convert ──► plan ──► execute ──► transport (Sink)
//!                 │                                             pure                      │
//!                 └─ registry: the only async code, one thread      stream: verified chunks ┘
//! ```
//!
//! The public interface blocks: [`transfer`] between any two [`Location`]s, [`pull`] into the store, [`push`] out of
//! it. Invariants: every byte is checked against its digest before anything is named after it; credentials go to
//! their own host only; the name of an image is written last; what a registry or layout gave arrives bit by bit as it
//! was unless the caller asks for a change.
//!
//! What this crate is not: it mounts nothing, and knows nothing of Dockerfiles and containers.

pub mod cli;
mod companions;
mod compare;
mod convert;
pub mod credentials;
mod edit;
mod exchange;
mod execute;
mod inventory;
mod location;
mod merge;
mod plan;
mod policy;
mod read;
mod registries;
mod registry;
mod removal;
pub mod retention;
mod signing;
mod stream;
pub mod sync;
mod time;
mod transfer;
mod transport;
mod work;

pub use companions::Companions;
pub use convert::{Changes, Format, Recompress, compress_layer};
pub use execute::Moved;
pub use inventory::{Entry, Inventory, Platforms};
pub use location::{Location, Place, Selector};
pub use plan::{Foreign, Holdings, Plan, Step, plan};
pub use policy::Policy;
pub use read::{Opened, Reader};
pub use registries::Registries;
pub use registry::web::{Fetched, Validators, fetch};
pub use transfer::{Options, Pushed, Side, Transferred, locate, pull, push, push_blob, push_untagged, transfer};
