//! Builds images from Dockerfiles.

pub mod cache;
pub mod dockerfile;
pub mod files;
pub mod graph;
pub mod ignore;
