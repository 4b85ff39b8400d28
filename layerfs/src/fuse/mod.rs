//! A union of folders, served through `/dev/fuse`: for where the kernel refuses overlayfs.
//!
//! | module | what it knows |
//! |---|---|
//! | `union` | the file system itself |
//! | `wire` | the protocol's messages |
//! | `session` | the conversation with the kernel |
//! | `crew` | which thread reads the next request |
//! | `device` | mounting by descriptor |
//! | `spawn` | a server in a process of its own |
//!
//! # Why not a crate
//!
//! `fuser` 0.18 was weighed by its interface, not by a measurement, and stands in the way of what makes this fast and
//! right: its `setattr` and `open` do not pass on the kernel's wish to clear set-id bits, so `HANDLE_KILLPRIV_V2` would
//! leave them to be cleared by guess, and without it every write costs a second message; it has no `TMPFILE`, no `STATX`
//! (times of birth) and no `SYNCFS`; and it unmounts by path when it is dropped, which hits the wrong mount when another
//! was made there meanwhile. The protocol needs some 700 lines and no crate.
//!
//! # How it is fast
//!
//! The price of FUSE is the number of messages. Folders are never opened, and files are not either, unless the kernel can
//! read and write them itself: it is told once that this server needs no handles. What does not exist is answered from an index, and every answer may be believed for ever,
//! since nobody else changes the layers. A walk sees all attributes with the listing; a second walk asks nothing.

mod crew;
mod device;
mod session;
mod spawn;
mod union;
mod wire;

use std::os::fd::OwnedFd;

pub use self::device::{Connection, MountOptions, connect};
pub(crate) use self::spawn::mount;
pub use self::spawn::{DETACHED, NAME};
pub use self::union::{Forms, Hardlinks, IdRule, Owners, UnionOptions};

use self::session::Wishes;
use self::union::Union;
use crate::error::Result;

/// How a union is served.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Threads that answer; 0 chooses.
    pub threads: usize,
    /// The kernel gathers small writes. That costs more than it saves: every file that was written, and every one that
    /// is removed, takes a further message for its times, and every one that is closed one for its blocks.
    pub writeback: bool,
    /// Access control lists are obeyed.
    pub acl: bool,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self { threads: 0, writeback: false, acl: true }
    }
}

/// A union that is open and waits to be served.
#[derive(Debug)]
pub struct Server {
    union: Union,
}

impl Server {
    /// Opens all folders; whatever is wrong with them shows here.
    ///
    /// # Errors
    /// One of them is not there or no folder, or changes cannot be kept where they are to go.
    pub fn open(options: UnionOptions) -> Result<Self> {
        Ok(Self { union: Union::open(options)? })
    }

    /// Answers the kernel until the mount is gone. The process's umask is cleared: the kernel sends its callers'.
    ///
    /// # Errors
    /// The kernel is too old, or `/dev/fuse` fails.
    pub fn serve(&self, device: OwnedFd, options: &ServeOptions) -> Result<()> {
        rustix::process::umask(rustix::fs::Mode::empty());
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(4, |count| (2 * count.get()).clamp(4, MOST_THREADS)),
            threads => threads,
        };
        let wishes = Wishes {
            writeback: options.writeback && self.union.is_writable(),
            acl: options.acl,
            passthrough: self.union.backs(),
            threads,
        };
        session::serve(device, wishes, &self.union)
    }
}

/// More threads than this wait for each other's disk and no longer for a processor.
const MOST_THREADS: usize = 16;
