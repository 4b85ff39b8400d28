//! Which of the threads reads the next request.
//!
//! The kernel wakes its readers in turn, so that two idle threads share the requests of one program between them, each
//! of them asleep, and its processor with it, whenever its turn comes: a chain of small requests then takes up to twice
//! as long as one thread alone needs for it. Here one thread leads: it alone waits for requests, and answers them
//! itself. The others rest, until
//!
//! - requests have been waiting already whenever the lead came back for the next: then one more helps until none is left;
//! - the lead has been over one request for a whole [`TICK`] (a disk, an `fsync`): then the thread that watches takes
//!   the lead, and the former lead rests when it is done.
//!
//! The watch wakes once a tick while there is work, and not at all when there is none.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long the lead may be over one request.
const TICK: Duration = Duration::from_millis(1);
/// The watch sleeps until it is woken after so many ticks without a request.
const QUIET_TICKS: u32 = 20;
/// What a thread is to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Wait for requests and answer them.
    Lead,
    /// Answer what is waiting, until nothing is.
    Help,
    /// The mount is gone.
    End,
}

#[derive(Debug, Default)]
struct Roles {
    watch: Option<usize>,
    /// Helpers that were called and have not come yet.
    called: usize,
    /// Threads that rest, the watch among them.
    resting: usize,
    gone: bool,
}

/// The threads of one connection.
#[derive(Debug, Default)]
pub(super) struct Crew {
    roles: Mutex<Roles>,
    rested: Condvar,
    watched: Condvar,
    /// Whose turn it is: the number of the lead above [`LEAD`] bits, below them a count that is odd while the lead is
    /// over a request.
    turn: AtomicU64,
    /// The watch sleeps until it is woken.
    asleep: AtomicBool,
}

/// Bits of the count in [`Crew::turn`].
const LEAD: u32 = 48;

/// A request that the lead is over.
#[derive(Debug)]
pub(super) struct Turn(u64);

impl Crew {
    fn roles(&self) -> MutexGuard<'_, Roles> {
        self.roles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something to do. At first thread 0 leads, and all others rest.
    pub(super) fn rest(&self, me: usize) -> Role {
        let mut roles = self.roles();
        roles.resting += 1;
        let role = loop {
            if roles.gone {
                break Role::End;
            }
            if roles.called > 0 {
                roles.called -= 1;
                break Role::Help;
            }
            if *roles.watch.get_or_insert(me) != me {
                roles = self.rested.wait(roles).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (again, stuck) = self.watch(roles);
            roles = again;
            let next = (me as u64) << LEAD;
            let takes = |turn| self.turn.compare_exchange(turn, next, Ordering::SeqCst, Ordering::SeqCst).is_ok();
            if stuck.is_some_and(takes) {
                break Role::Lead;
            }
        };
        roles.resting -= 1;
        if roles.watch == Some(me) {
            roles.watch = None;
            self.rested.notify_one();
        }
        role
    }

    /// Sleeps until something is to be done; the turn comes back where the lead is over it for too long.
    fn watch<'a>(&self, mut roles: MutexGuard<'a, Roles>) -> (MutexGuard<'a, Roles>, Option<u64>) {
        let mut quiet = 0;
        let mut seen = self.turn.load(Ordering::SeqCst);
        loop {
            if quiet >= QUIET_TICKS {
                self.asleep.store(true, Ordering::SeqCst);
                // A request that did not see that is seen here.
                if self.turn.load(Ordering::SeqCst) == seen {
                    roles = self.watched.wait(roles).unwrap_or_else(PoisonError::into_inner);
                }
                self.asleep.store(false, Ordering::SeqCst);
                quiet = 0;
            } else {
                roles = self.watched.wait_timeout(roles, TICK).unwrap_or_else(PoisonError::into_inner).0;
            }
            if roles.gone || roles.called > 0 {
                return (roles, None);
            }
            let turn = self.turn.load(Ordering::SeqCst);
            match (turn == seen, turn % 2 == 1) {
                (true, true) => return (roles, Some(turn)),
                (true, false) => quiet += 1,
                (false, _) => quiet = 0,
            }
            seen = turn;
        }
    }

    /// The lead has a request before it.
    pub(super) fn begin(&self) -> Turn {
        // Nobody but the lead changes an even turn.
        let turn = self.turn.fetch_add(1, Ordering::SeqCst) + 1;
        if self.asleep.load(Ordering::SeqCst) {
            // The watch is either before its look at the turn, or it waits.
            drop(self.roles());
            self.watched.notify_one();
        }
        Turn(turn)
    }

    /// The lead has answered. False where the watch has taken the lead meanwhile.
    pub(super) fn end(&self, turn: &Turn) -> bool {
        self.turn.compare_exchange(turn.0, turn.0 + 1, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// One more thread is to help, if one rests.
    pub(super) fn call(&self) {
        let mut roles = self.roles();
        if roles.resting > roles.called {
            roles.called += 1;
            // The watch helps only where nobody else is left.
            if roles.resting > 1 { self.rested.notify_one() } else { self.watched.notify_one() }
        }
    }

    /// The mount is gone.
    pub(super) fn dismiss(&self) {
        self.roles().gone = true;
        self.rested.notify_all();
        self.watched.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn the_watch_takes_the_lead_of_one_who_is_stuck() {
        let crew = Arc::new(Crew::default());
        let stuck = crew.begin();
        let watch = {
            let crew = crew.clone();
            std::thread::spawn(move || crew.rest(1))
        };
        assert_eq!(watch.join().expect("it ends"), Role::Lead);
        assert!(!crew.end(&stuck), "the lead is another's");
        let next = crew.begin();
        assert!(crew.end(&next), "the new lead's own request");
    }

    #[test]
    fn those_who_rest_help_when_called_and_end_with_the_mount() {
        let crew = Arc::new(Crew::default());
        let (say, heard) = channel();
        let threads: Vec<_> = (1..4)
            .map(|me| {
                let (crew, say) = (crew.clone(), say.clone());
                std::thread::spawn(move || {
                    loop {
                        let role = crew.rest(me);
                        say.send(role).expect("somebody listens");
                        if role == Role::End {
                            return;
                        }
                    }
                })
            })
            .collect();
        while crew.roles().resting < 3 {
            std::thread::yield_now();
        }
        crew.call();
        crew.call();
        assert_eq!([heard.recv(), heard.recv()], [Ok(Role::Help); 2]);
        crew.dismiss();
        threads.into_iter().for_each(|thread| thread.join().expect("it ends"));
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), [Role::End; 3]);
    }
}
