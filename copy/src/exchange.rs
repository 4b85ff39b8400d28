//! What one invocation knows of the blobs at its destinations, shared by all images it copies.
//!
//! A blob crosses the wire to a registry once: whoever needs it first brings it, the others wait and find it there,
//! or have it mounted from the repository it came to.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use layerfs::digest::Digest;

/// The knowledge of all destination registries.
#[derive(Default)]
pub(crate) struct Exchange {
    blobs: Mutex<HashMap<(String, Digest), Blob>>,
    arrived: Condvar,
}

#[derive(Default)]
struct Blob {
    /// Somebody is bringing it to the registry for the first time.
    coming: bool,
    /// Repositories that have it.
    lodged: BTreeSet<String>,
}

/// What to do about a blob that a repository needs.
pub(crate) enum Claim<'a> {
    /// Nothing: it is there.
    There,
    /// It lies in this repository of the same registry.
    Mount(String),
    /// Bring it; others wait until that is done or given up.
    Bring(Bringing<'a>),
}

/// The duty to bring a blob. Dropped before [`Bringing::done`], the next one who waits takes it over.
pub(crate) struct Bringing<'a> {
    exchange: &'a Exchange,
    key: (String, Digest),
}

impl Exchange {
    /// Asks for a blob in the repository `path` of `host`. Waits while another brings it to that registry.
    pub(crate) fn claim(&self, host: &str, path: &str, digest: Digest) -> Claim<'_> {
        let key = (host.to_owned(), digest);
        let mut blobs = self.lock();
        loop {
            let blob = blobs.entry(key.clone()).or_default();
            if blob.lodged.contains(path) {
                return Claim::There;
            }
            if let Some(elsewhere) = blob.lodged.first() {
                return Claim::Mount(elsewhere.clone());
            }
            if !blob.coming {
                blob.coming = true;
                return Claim::Bring(Bringing { exchange: self, key });
            }
            blobs = self.arrived.wait(blobs).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether a blob is known to be in a repository.
    pub(crate) fn has(&self, host: &str, path: &str, digest: Digest) -> bool {
        self.lock().get(&(host.to_owned(), digest)).is_some_and(|blob| blob.lodged.contains(path))
    }

    /// A blob came to, or was found in, a repository.
    pub(crate) fn add(&self, host: &str, path: &str, digest: Digest) {
        self.lock().entry((host.to_owned(), digest)).or_default().lodged.insert(path.to_owned());
        self.arrived.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, Digest), Blob>> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bringing<'_> {
    /// The blob is in the repository `path` now.
    pub(crate) fn done(self, path: &str) {
        let (host, digest) = &self.key;
        self.exchange.add(host, path, *digest);
    }
}

impl Drop for Bringing<'_> {
    fn drop(&mut self) {
        if let Some(blob) = self.exchange.lock().get_mut(&self.key) {
            blob.coming = false;
        }
        self.exchange.arrived.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_brought_once() {
        let (exchange, digest) = (Exchange::default(), Digest::of(b"x"));
        let brought = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for place in 0..8 {
                let (exchange, brought) = (&exchange, &brought);
                scope.spawn(move || {
                    let path = if place % 2 == 0 { "a" } else { "b" };
                    match exchange.claim("r.io", path, digest) {
                        Claim::There => {}
                        Claim::Mount(from) => {
                            assert_ne!(from, path);
                            exchange.add("r.io", path, digest);
                        }
                        Claim::Bring(duty) => {
                            brought.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                            duty.done(path);
                        }
                    }
                });
            }
        });
        assert_eq!(brought.into_inner(), 1);
        assert!(matches!(exchange.claim("other.io", "a", digest), Claim::Bring(_)));
    }

    #[test]
    fn a_duty_that_is_given_up_goes_to_the_next() {
        let (exchange, digest) = (Exchange::default(), Digest::of(b"x"));
        let Claim::Bring(duty) = exchange.claim("r.io", "a", digest) else { panic!("it is new") };
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| matches!(exchange.claim("r.io", "a", digest), Claim::Bring(_)));
            drop(duty);
            assert!(waiting.join().expect("no panic"));
        });
    }
}
