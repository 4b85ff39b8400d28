//! How long work tells what it is doing. The engine and the planners emit events; a program shows them as it likes.

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Work on an object began.
    Start {
        /// Unique within one reporter.
        id: u64,
        /// What it is, for people: `layer 3f2a91c0b1de`.
        label: String,
        /// Its size in bytes, where that is known.
        total: Option<u64>,
    },
    /// Bytes of it were done.
    Advance {
        /// The object.
        id: u64,
        /// Bytes since the last report.
        bytes: u64,
    },
    /// It is finished.
    Done {
        /// The object.
        id: u64,
    },
    /// A line worth telling.
    Note(String),
}

/// A receiver of events; called from any thread.
pub trait Progress: Sync {
    /// Takes one event. Must not block for long.
    fn event(&self, event: &Event);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _event: &Event) {}
}
