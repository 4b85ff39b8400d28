//! `checkpoint` and `restore`: their words are known, so that an engine hears in one sentence what is missing.

use layerfs::error::{Error, Kind, Result};

use super::arguments::{CgroupManager, Checkpoint, Restore};
use super::instances::{Instance, Instances};

/// Would save a running container to files.
pub(super) fn save(instance: &Instance, _: &Checkpoint) -> Result<()> {
    instance.open_process()?;
    Err(refusal("checkpoint"))
}

/// Would make a container from such files.
pub(super) fn restore(_: &Instances, _: &Restore, _: CgroupManager) -> Result<i32> {
    Err(refusal("restore"))
}

fn refusal(verb: &str) -> Error {
    Error::new(Kind::Unsupported, format!("{verb} is not supported by this runtime"))
        .hint("use crun or runc with criu for containers that have to be checkpointed")
}
