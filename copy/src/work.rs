//! Work on several threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use layerfs::error::Result;

/// `each` for all `items`, at most `parallel` at once and in their order; the results in that order too. After the
/// first failure nothing new is begun, and that failure is the result.
pub(crate) fn map<T: Sync, U: Send>(
    items: &[T],
    parallel: usize,
    each: impl Fn(&T) -> Result<U> + Sync,
) -> Result<Vec<U>> {
    if items.len() <= 1 || parallel <= 1 {
        return items.iter().map(each).collect();
    }
    let next = AtomicUsize::new(0);
    let done: Mutex<(Vec<Option<U>>, Option<layerfs::error::Error>)> =
        Mutex::new((items.iter().map(|_| None).collect(), None));
    let lock = || done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let run = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at).filter(|_| lock().1.is_none()) else { return };
            match each(item) {
                Ok(result) => lock().0[at] = Some(result),
                Err(error) => {
                    lock().1.get_or_insert(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..parallel.min(items.len()) {
            scope.spawn(run);
        }
        run();
    });
    let (results, error) = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    match error {
        Some(error) => Err(error),
        None => Ok(results.into_iter().flatten().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use layerfs::error::{Error, Kind};

    #[test]
    fn results_keep_their_order_and_the_first_failure_ends_it() {
        let items: Vec<u32> = (0..100).collect();
        assert_eq!(map(&items, 7, |item| Ok(item * 2)).expect("no failure")[99], 198);
        let failed = map(&items, 7, |item| match item {
            50 => Err(Error::new(Kind::Invalid, "fifty")),
            item => Ok(*item),
        });
        assert_eq!(failed.expect_err("a failure").to_string(), "fifty");
    }
}
