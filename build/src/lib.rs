//! Builds images from Dockerfiles.

pub mod dockerfile;
pub mod graph;
pub mod ignore;
