//! Carries a plan out: blobs side by side, then documents from the leaves up, then the name.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use layerfs::error::{Kind, Result};
use layerfs::oci::{Descriptor, media_type};
use layerfs::progress::{Event, Progress};

use crate::inventory::Inventory;
use crate::plan::Plan;
use crate::stream::{Chunks, DAMAGED, Start, Verified};
use crate::transport::{Sent, Sink, Source};
use crate::work;

/// Blobs that move at the same time: what skopeo has found good, too.
pub(crate) const PARALLEL: usize = 6;
/// Documents that are written at the same time.
const PARALLEL_DOCUMENTS: usize = 8;

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Blobs whose bytes were sent.
    pub sent: usize,
    /// Bytes of those.
    pub bytes: u64,
    /// Blobs the destination's registry took from another of its repositories.
    pub mounted: usize,
    /// Blobs that were there already.
    pub present: usize,
}

impl Moved {
    /// Counts what moved elsewhere, too.
    pub(crate) fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.bytes += other.bytes;
        self.mounted += other.mounted;
        self.present += other.present;
    }
}

/// What an execution needs besides its plan.
pub(crate) struct Execution<'a> {
    pub(crate) source: &'a dyn Source,
    pub(crate) sink: &'a dyn Sink,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) ids: &'a Ids,
    pub(crate) parallel: usize,
    pub(crate) retries: u32,
    pub(crate) pace: Option<&'a Pace>,
}

/// Keeps everything of an invocation together below so many bytes a second.
pub(crate) struct Pace {
    rate: f64,
    /// When the next byte may pass.
    free: Mutex<Instant>,
}

impl Pace {
    /// At most `rate` bytes a second.
    pub(crate) fn new(rate: u64) -> Self {
        Self { rate: rate.max(1) as f64, free: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` more may have passed.
    fn pass(&self, bytes: usize) {
        let wait = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            *free = (*free).max(now) + Duration::from_secs_f64(bytes as f64 / self.rate);
            *free - now
        };
        std::thread::sleep(wait);
    }
}

/// Numbers for progress events, unique in an invocation.
#[derive(Default)]
pub(crate) struct Ids(AtomicU64);

impl Ids {
    /// The next number.
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

impl Execution<'_> {
    /// Moves the blobs of `plan` and the documents of `inventory`; the root comes last.
    pub(crate) fn run(&self, plan: &Plan, inventory: &Inventory) -> Result<Moved> {
        for layer in &plan.left {
            let note = format!("layer {} stays where it is: it may not be distributed", layer.digest.short());
            self.progress.event(&Event::Note(note));
        }
        let outcomes = work::map(&plan.steps, self.parallel, |step| {
            self.put(&step.blob, step.mount_from.as_deref()).map(|sent| (sent, step.blob.size))
        })?;
        for level in inventory.children() {
            work::map(level, PARALLEL_DOCUMENTS, |entry| self.sink.put_document(&entry.descriptor, &entry.bytes))?;
        }
        let root = inventory.root();
        self.sink.finish(&root.descriptor, &root.bytes)?;
        let mut moved = Moved { present: plan.present, ..Moved::default() };
        for (sent, size) in outcomes {
            match sent {
                Sent::Bytes => {
                    moved.sent += 1;
                    moved.bytes += size;
                }
                Sent::Mounted => moved.mounted += 1,
                Sent::Present => moved.present += 1,
            }
        }
        Ok(moved)
    }

    /// Moves one blob; a connection that breaks in the middle is worth another attempt.
    pub(crate) fn put(&self, blob: &Descriptor, from: Option<&str>) -> Result<Sent> {
        let id = self.ids.next();
        let kind = if media_type::is_config(&blob.media_type) { "config" } else { "blob" };
        let label = format!("{kind} {}", blob.digest.short());
        // A blob that is mounted never starts.
        let started = Once::new();
        let reported = AtomicU64::new(0);
        let open = |from: Start| -> Result<Box<dyn Chunks + '_>> {
            let start = Event::Start { id, label: label.clone(), total: Some(blob.size) };
            started.call_once(|| self.progress.event(&start));
            let chunks = self.source.open_at(blob, from.at())?;
            let counted = Counted { chunks, seen: from.at(), reported: &reported, progress: self.progress, id };
            let counted = Paced { chunks: counted, pace: self.pace };
            Ok(match self.sink.verifies() {
                true => Box::new(counted),
                false => Box::new(Verified::from(counted, blob, from)),
            })
        };
        let mut attempt = 0;
        let sent = loop {
            match self.sink.put_blob(blob, from, &open) {
                Err(error) if error.kind() == Kind::Unavailable && attempt < self.retries => {
                    attempt += 1;
                    let note = format!("blob {}: trying again: {}", blob.digest.short(), error.chain());
                    self.progress.event(&Event::Note(note));
                    std::thread::sleep(Duration::from_millis(300 << attempt.min(6)));
                }
                // A damaged layer may break the decompressor before its digest is known.
                Err(error) if error.kind() == Kind::Corrupt && error.advice().is_none() => {
                    return Err(error.hint(DAMAGED));
                }
                outcome => break outcome?,
            }
        };
        if started.is_completed() {
            self.progress.event(&Event::Done { id });
        }
        Ok(sent)
    }
}

/// Passes bytes on no faster than allowed.
struct Paced<'a, C> {
    chunks: C,
    pace: Option<&'a Pace>,
}

impl<C: Chunks> Chunks for Paced<'_, C> {
    fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        let chunk = self.chunks.next_chunk()?;
        if let (Some(pace), Some(chunk)) = (self.pace, &chunk) {
            pace.pass(chunk.len());
        }
        Ok(chunk)
    }
}

/// Reports what passes; bytes that pass again after a failure are told once.
struct Counted<'a, C> {
    chunks: C,
    seen: u64,
    reported: &'a AtomicU64,
    progress: &'a dyn Progress,
    id: u64,
}

impl<C: Chunks> Chunks for Counted<'_, C> {
    fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        let chunk = self.chunks.next_chunk()?;
        if let Some(chunk) = &chunk {
            self.seen += chunk.len() as u64;
            let before = self.reported.fetch_max(self.seen, Ordering::Relaxed);
            if self.seen > before {
                self.progress.event(&Event::Advance { id: self.id, bytes: self.seen - before });
            }
        }
        Ok(chunk)
    }
}
