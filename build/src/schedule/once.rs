//! Values that others wait for, and the limit on what runs at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value that is made once and waited for by many. `None` says that it will never come.
#[derive(Debug)]
pub(crate) struct Promise<T> {
    value: Mutex<Option<Option<T>>>,
    there: Condvar,
}

impl<T> Default for Promise<T> {
    fn default() -> Self {
        Self { value: Mutex::new(None), there: Condvar::new() }
    }
}

impl<T: Clone> Promise<T> {
    /// Gives the value, or says that there will be none. Only the first call counts.
    pub(crate) fn settle(&self, value: Option<T>) {
        lock(&self.value).get_or_insert(value);
        self.there.notify_all();
    }

    /// Waits for it.
    pub(crate) fn wait(&self) -> Option<T> {
        let mut value = lock(&self.value);
        loop {
            if let Some(settled) = &*value {
                return settled.clone();
            }
            value = self.there.wait(value).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Work that is known by a key and done by whoever comes first.
#[derive(Debug)]
pub(crate) struct Flights<K, T>(Mutex<HashMap<K, Arc<Promise<T>>>>);

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// Whose turn it is.
pub(crate) enum Turn<T: Clone> {
    /// The caller's: it must settle the promise.
    Own(Settle<T>),
    /// Another did it; `None` where it failed there.
    Other(Option<T>),
}

/// Settles a promise even if its owner fails.
#[derive(Debug)]
pub(crate) struct Settle<T: Clone>(Arc<Promise<T>>);

impl<T: Clone> Settle<T> {
    /// Gives the value.
    pub(crate) fn with(&self, value: T) {
        self.0.settle(Some(value));
    }
}

impl<T: Clone> Drop for Settle<T> {
    fn drop(&mut self) {
        self.0.settle(None);
    }
}

impl<K: Eq + Hash, T: Clone> Flights<K, T> {
    /// The work of `key` is the caller's, or is waited for.
    pub(crate) fn take(&self, key: K) -> Turn<T> {
        let promise = {
            let mut flights = lock(&self.0);
            match flights.get(&key) {
                Some(promise) => promise.clone(),
                None => {
                    let promise = Arc::new(Promise::default());
                    flights.insert(key, promise.clone());
                    return Turn::Own(Settle(promise));
                }
            }
        };
        Turn::Other(promise.wait())
    }
}

/// Places for what runs at the same time.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Slots {
    /// `count` places.
    pub(crate) fn new(count: usize) -> Self {
        Self { free: Mutex::new(count.max(1)), freed: Condvar::new() }
    }

    /// Waits for a place and holds it.
    pub(crate) fn take(&self) -> Slot<'_> {
        let mut free = lock(&self.free);
        while *free == 0 {
            free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Slot(self)
    }

    /// A place, if one is free.
    pub(crate) fn try_take(&self) -> Option<Slot<'_>> {
        let mut free = lock(&self.free);
        *free = free.checked_sub(1)?;
        Some(Slot(self))
    }
}

/// A place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot<'a>(&'a Slots);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *lock(&self.0.free) += 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn equal_work_is_done_once_and_slots_limit_it() {
        let (flights, slots) = (Flights::<u32, u32>::default(), Slots::new(2));
        let (done, running, most) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let (flights, slots, done, running, most) = (&flights, &slots, &done, &running, &most);
        std::thread::scope(|scope| {
            for i in 0..32 {
                scope.spawn(move || match flights.take(i % 8) {
                    Turn::Own(settle) => {
                        let _slot = slots.take();
                        most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        done.fetch_add(1, Ordering::SeqCst);
                        running.fetch_sub(1, Ordering::SeqCst);
                        settle.with(i % 8);
                    }
                    Turn::Other(value) => assert_eq!(value, Some(i % 8)),
                });
            }
        });
        assert_eq!(done.load(Ordering::SeqCst), 8);
        assert!(most.load(Ordering::SeqCst) <= 2);
    }

    #[test]
    fn a_failure_frees_those_who_wait() {
        let flights = Flights::<u32, u32>::default();
        let Turn::Own(settle) = flights.take(1) else { panic!("nobody was there before") };
        drop(settle);
        assert!(matches!(flights.take(1), Turn::Other(None)));
    }
}
