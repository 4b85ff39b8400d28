//! Builds images from Dockerfiles.

pub mod dockerfile;
