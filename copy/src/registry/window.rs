//! How many requests may be under way to one registry.
//!
//! The number grows by one with every answer that came while all places were taken, as long as all goes well, and is
//! halved when the registry says that it is too much (429, 503) or stops answering. So a registry that can take more
//! gets more within a few round trips, and a busy one is left alone. Where it tells how many more it will take, no more
//! than that are under way.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

/// Places at the start.
const START: usize = 32;
/// Places at most.
const MOST: usize = 64;
/// All refusals within this time are one refusal: they answer requests that were under way together.
const ONE_REFUSAL: Duration = Duration::from_millis(500);

/// The window of one registry.
pub(super) struct Window {
    places: Semaphore,
    state: Mutex<State>,
}

struct State {
    limit: usize,
    /// Places that were taken away while they were in use.
    owed: usize,
    refused: Option<Instant>,
}

/// A place in the window; free again when it is dropped.
pub(super) struct Place<'a> {
    window: &'a Window,
    permit: Option<SemaphorePermit<'a>>,
}

impl Window {
    pub(super) fn new() -> Self {
        let state = State { limit: START, owed: 0, refused: None };
        Self { places: Semaphore::new(START), state: Mutex::new(state) }
    }

    /// Waits for a place.
    pub(super) async fn enter(&self) -> Place<'_> {
        // The semaphore is never closed; if it were, going on without a place harms nobody.
        Place { window: self, permit: self.places.acquire().await.ok() }
    }

    /// An answer came in good order.
    pub(super) fn answered(&self) {
        if self.places.available_permits() > 0 {
            return;
        }
        let mut state = self.state();
        if state.owed > 0 || state.limit >= MOST {
            return;
        }
        state.limit += 1;
        self.places.add_permits(1);
    }

    /// The registry had too much.
    pub(super) fn refused(&self, now: Instant) {
        let mut state = self.state();
        if state.refused.is_some_and(|before| now.duration_since(before) < ONE_REFUSAL) {
            return;
        }
        state.refused = Some(now);
        let fewer = state.limit / 2;
        self.shrink(&mut state, fewer);
    }

    /// The registry takes no more than `remaining` requests for now.
    pub(super) fn leave(&self, remaining: usize) {
        let mut state = self.state();
        if remaining < state.limit {
            self.shrink(&mut state, remaining);
        }
    }

    fn shrink(&self, state: &mut State, places: usize) {
        let taken = state.limit - places.max(1);
        state.limit -= taken;
        state.owed += taken - self.places.forget_permits(taken);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.window.state();
        if state.owed > 0
            && let Some(permit) = self.permit.take()
        {
            state.owed -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_while_it_is_full_and_is_halved_once() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let window = Window::new();
            let mut inside = Vec::new();
            for _ in 0..START {
                inside.push(window.enter().await);
            }
            window.answered();
            assert_eq!(window.state().limit, START + 1);
            window.answered();
            assert_eq!(window.state().limit, START + 1, "there is room, so no more is needed");
            let now = Instant::now();
            window.refused(now);
            window.refused(now);
            assert_eq!(window.state().limit, START / 2);
            window.leave(3);
            window.leave(5);
            assert_eq!(window.state().limit, 3);
            window.leave(0);
            drop(inside);
            assert_eq!(window.places.available_permits(), 1, "one is always left");
        });
    }
}
