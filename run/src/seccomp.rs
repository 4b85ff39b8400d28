//! Seccomp filters.

use layerfs::error::{Context, Result};
use layerfs::sys::container::{Instruction, load_seccomp};
use oci_spec::runtime::LinuxSeccomp;

/// A compiled filter.
pub(crate) struct Filter {
    instructions: Vec<Instruction>,
    flags: u32,
}

impl Filter {
    pub(crate) fn compile(_: &LinuxSeccomp) -> Result<Self> {
        Ok(Self { instructions: Vec::new(), flags: 0 })
    }

    pub(crate) fn load(&self) -> Result<()> {
        if self.instructions.is_empty() {
            return Ok(());
        }
        load_seccomp(&self.instructions, self.flags).context(|| "load the seccomp filter").map(drop)
    }
}
