//! Carrying steps out.

pub(crate) mod chroot;
pub(crate) mod copy_add;
pub(crate) mod identity;
pub(crate) mod placement;
pub(crate) mod run_step;
