//! What is left of containers whose watcher was killed: processes, control groups, helpers, folders.

use std::os::fd::AsFd;

use layerfs::error::Result;
use layerfs::sys::signals::send;

use crate::options::Removal;
use crate::state::{Container, Containers, Finished, Left, Owner, Status, now};
use crate::volumes;

/// `SIGKILL`
const KILL: i32 = 9;

/// Clears up after every container of the store that nobody watches any more. What cannot be cleared up now is left to
/// the next sweep: it must not keep a container from being started.
pub fn all(containers: &Containers) {
    let _ = containers.sweep(|left, container, owner| match (left, &container.status) {
        (Left::Unseen, Some(status)) => {
            after(container);
            // What is left is that nobody saw how it ended.
            owner.write_status(&Status {
                finished: Some(Finished { at: now(), ..Finished::unseen() }),
                ..status.clone()
            })
        }
        _ => remove(container, owner),
    });
}

/// Removes a container that has ended, and all that is left of it.
///
/// # Errors
/// Something in its folder cannot be removed.
pub fn remove(container: &Container, owner: Owner) -> Result<()> {
    after(container);
    owner.remove()?;
    match container.record.options.remove {
        Removal::OnExit => volumes::remove_anonymous(container),
        Removal::Keep => Ok(()),
    }
}

/// Ends what a container's watcher would have ended: its helper, and whatever is in its control group.
pub fn after(container: &Container) {
    let helper = container.status.as_ref().and_then(|status| status.helper.as_ref()?.open());
    if let Some(helper) = helper {
        let _ = send(helper.as_fd(), KILL);
    }
    let _ = container.record.cgroup.destroy();
}
