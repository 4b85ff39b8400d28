//! Uploads that outlive the program: where a session is, and how far its bytes were found right.
//!
//! One small file per upload under way, `0600` because a session's address lets whoever has it write. It holds the
//! address, and states of the digest at several places ([`Mark`]s): whoever goes on asks the registry how far it got,
//! takes the last mark before that, reads on from there, and sends what the registry lacks. A file that is not there,
//! not readable or too old costs nothing but that the upload begins anew.
//!
//! One program at a time goes on with a session: it holds a lock beside the file. Another that uploads the same blob to
//! the same place opens a session of its own, and writes nothing down.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use layerfs::digest::{Algorithm, Digest, Hasher};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::credentials::base64;

/// A blob smaller than this is sent again as a whole, in bytes.
pub(crate) const RESUMED_MIN: u64 = 4 << 20;
/// Distance between marks, in bytes.
const STEP: u64 = 4 << 20;
/// Marks that are kept; the registry is rarely further behind than the last few.
const MARKS_MAX: usize = 64;
/// The file is written so often at most.
const PERIOD: Duration = Duration::from_millis(500);
/// Registries forget sessions within days.
const AGE_MAX: Duration = Duration::from_secs(7 * 86_400);

/// A digest's state after so many bytes.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    /// Bytes before it.
    pub(crate) at: u64,
    /// The state.
    pub(crate) hasher: Hasher,
}

/// Marks of one upload, taken while its bytes are checked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Marks(Arc<Mutex<Vec<Mark>>>);

impl Marks {
    /// Takes note of a state, if the last one is far enough behind.
    pub(crate) fn pass(&self, at: u64, hasher: &Hasher) {
        let mut marks = self.lock();
        if marks.last().is_some_and(|last| at < last.at + STEP) || at < STEP {
            return;
        }
        marks.push(Mark { at, hasher: hasher.clone() });
        if marks.len() > MARKS_MAX {
            marks.remove(0);
        }
    }

    /// The last mark at or before `at`, and no later one from now on.
    pub(crate) fn back_to(&self, at: u64) -> Option<Mark> {
        let mut marks = self.lock();
        marks.retain(|mark| mark.at <= at);
        marks.last().cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Mark>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Serialize, Deserialize)]
struct Document {
    session: String,
    marks: Vec<(u64, String)>,
}

/// The file of one upload, which is ours as long as this lives.
pub(crate) struct Bookmark {
    path: PathBuf,
    lock: PathBuf,
    written: Option<Instant>,
    _held: fs::File,
}

impl Bookmark {
    /// The file for a blob on its way to a repository; `None` where another program has it, or it cannot be had.
    pub(crate) fn take(dir: &Path, host: &str, path: &str, digest: Digest) -> Option<Self> {
        let name = Digest::of(format!("{host}/{path}@{digest}").as_bytes()).hex();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).ok()?;
        let (path, lock) = (dir.join(format!("{name}.json")), dir.join(format!("{name}.lock")));
        loop {
            let held = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock).ok()?;
            flock(&held, FlockOperation::NonBlockingLockExclusive).ok()?;
            // Whoever had it before may have removed the file between our two calls.
            match fs::metadata(&lock) {
                Ok(there) if there.ino() == held.metadata().ok()?.ino() => {
                    return Some(Self { path, lock, written: None, _held: held });
                }
                _ => {}
            }
        }
    }

    /// The session and the marks of an upload that was broken off.
    pub(crate) fn load(&self, algorithm: Algorithm) -> Option<(String, Marks)> {
        let age = SystemTime::now().duration_since(fs::metadata(&self.path).ok()?.modified().ok()?).unwrap_or_default();
        if age > AGE_MAX {
            self.remove();
            return None;
        }
        let document: Document = serde_json::from_slice(&fs::read(&self.path).ok()?).ok()?;
        let mark = |(at, state): (u64, String)| {
            Some(Mark { at, hasher: Hasher::resume(algorithm, &base64::decode(&state)?)? })
        };
        let marks: Option<Vec<Mark>> = document.marks.into_iter().map(mark).collect();
        Some((document.session, Marks(Arc::new(Mutex::new(marks?)))))
    }

    /// Writes the file, unless that was just done. What goes wrong does not matter: the upload itself goes on.
    pub(crate) fn keep(&mut self, session: &str, marks: &Marks) {
        if self.written.is_some_and(|written| written.elapsed() < PERIOD) {
            return;
        }
        self.written = Some(Instant::now());
        let marks = marks.lock().iter().map(|mark| (mark.at, base64::encode(&mark.hasher.to_state()))).collect();
        let document = Document { session: session.to_owned(), marks };
        let _ = self.write(&serde_json::to_vec(&document).unwrap_or_default());
    }

    /// The upload is over.
    pub(crate) fn remove(&self) {
        let _ = fs::remove_file(&self.path);
    }

    fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        let temporary = self.path.with_extension(format!("{}.tmp", std::process::id()));
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        // No sync: a file that a power cut took is an upload that begins anew.
        fs::rename(&temporary, &self.path)
    }
}

impl Drop for Bookmark {
    fn drop(&mut self) {
        // Still locked: nobody else has it open and believes that it holds it.
        let _ = fs::remove_file(&self.lock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_upload_is_found_again() {
        let dir = tempfile::tempdir().expect("tempdir");
        let dir = dir.path().join("uploads");
        let digest = Digest::of(b"x");
        let mut bookmark = Bookmark::take(&dir, "r.io", "a", digest).expect("ours");
        assert!(Bookmark::take(&dir, "r.io", "a", digest).is_none(), "one at a time");
        assert!(Bookmark::take(&dir, "r.io", "b", digest).is_some());
        assert!(bookmark.load(Algorithm::Sha256).is_none());
        let (marks, mut hasher) = (Marks::default(), Hasher::default());
        for step in 1..=100 {
            hasher.update(&[1; 1000]);
            marks.pass(step * STEP, &hasher);
            marks.pass(step * STEP + 1, &hasher);
        }
        bookmark.keep("http://r.io/session?secret", &marks);
        assert_eq!(fs::metadata(&bookmark.path).expect("written").permissions().mode() & 0o777, 0o600);
        drop(bookmark);
        let bookmark = Bookmark::take(&dir, "r.io", "a", digest).expect("ours again");
        let (session, found) = bookmark.load(Algorithm::Sha256).expect("found");
        assert_eq!(session, "http://r.io/session?secret");
        let mark = found.back_to(99 * STEP + 5).expect("one before");
        assert_eq!(mark.at, 99 * STEP);
        let mut rest = mark.hasher;
        rest.update(&[1; 1000]);
        assert_eq!(rest.finish(), hasher.finish());
        assert!(found.back_to(STEP).is_none(), "the first ones are forgotten");
        bookmark.remove();
        assert!(bookmark.load(Algorithm::Sha256).is_none());
        drop(bookmark);
        assert_eq!(fs::read_dir(&dir).expect("a folder").count(), 0);
    }
}
