//! Times as documents state them.

use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) use layerfs::time::format_seconds as rfc3339;

/// The same with nanoseconds.
pub(crate) fn rfc3339_nanos(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    layerfs::time::format(i128::try_from(since.as_nanos()).unwrap_or(0))
}

/// Now, in seconds since 1970.
pub(crate) fn now() -> i64 {
    i64::try_from(layerfs::time::now() / layerfs::time::SECOND).unwrap_or(0)
}
