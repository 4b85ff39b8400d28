//! The client as a whole, against a registry in memory and the local transports.

mod registry;
mod stub;
mod transports;
