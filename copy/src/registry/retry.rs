//! When a request is sent again, and after how long.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};

use crate::time;

/// First wait where the registry names none.
const BASE: Duration = Duration::from_millis(300);
/// Longest wait where the registry names none.
const CEILING: Duration = Duration::from_secs(20);
/// Longest wait a registry may ask for; past it the request fails, so that nobody waits for hours unawares.
const PATIENCE: Duration = Duration::from_secs(300);

/// Whether a reply of this status may turn out well when asked again.
pub(crate) fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// How long to wait before attempt `attempt` (1 is the first repetition): what the registry asked for, else doubling
/// from [`BASE`] with a jitter of a quarter. `None` where the registry asks for more than we are willing to wait.
pub(crate) fn pause(attempt: u32, asked: Option<Duration>, jitter: f64) -> Option<Duration> {
    if let Some(asked) = asked {
        return (asked <= PATIENCE).then_some(asked);
    }
    let doubled = BASE.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(CEILING);
    Some(doubled.mul_f64(1.0 + 0.25 * jitter.clamp(0.0, 1.0)))
}

/// The `Retry-After` header (RFC 9110 §10.2.3): seconds or a date.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let now = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
    let then = u64::try_from(time::parse_http_date(text)?).ok()?;
    Some(Duration::from_secs(then.saturating_sub(now)))
}

/// How many more requests a registry takes, and for how long that holds where it says so: the headers
/// `RateLimit-Remaining` and `RateLimit-Reset` (draft-ietf-httpapi-ratelimit-headers-06), of which Docker Hub writes
/// the first as `97;w=21600`.
pub(crate) fn allowance(headers: &HeaderMap) -> Option<(usize, Option<Duration>)> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.split([';', ',']).next()?.trim().parse::<u64>().ok();
    let remaining = usize::try_from(number("ratelimit-remaining")?).ok()?;
    Some((remaining, number("ratelimit-reset").map(Duration::from_secs)))
}

/// Between 0 and 1, different at each call: enough to keep clients from knocking in step.
pub(crate) fn jitter() -> f64 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.subsec_nanos());
    f64::from(nanos % 1000) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_obey_the_registry() {
        let ms = |attempt, asked| pause(attempt, asked, 0.0).map(|wait| wait.as_millis());
        assert_eq!((ms(1, None), ms(2, None), ms(3, None)), (Some(300), Some(600), Some(1200)));
        assert_eq!(ms(40, None), Some(20_000));
        assert_eq!(ms(1, Some(Duration::from_secs(60))), Some(60_000));
        assert_eq!(ms(1, Some(Duration::from_secs(3601))), None);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = UNIX_EPOCH + Duration::from_secs(1_445_412_470);
        let check = |value: &'static str, expected: Option<u64>| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, reqwest::header::HeaderValue::from_static(value))]);
            assert_eq!(retry_after(&headers, now).map(|wait| wait.as_secs()), expected, "{value}");
        };
        check("120", Some(120));
        check("Wed, 21 Oct 2015 07:28:00 GMT", Some(10));
        check("Wed, 21 Oct 2015 07:27:00 GMT", Some(0));
        check("soon", None);
    }

    #[test]
    fn allowances_are_read_in_docker_hubs_form_too() {
        let check = |lines: &[(&'static str, &'static str)], expected: Option<(usize, Option<u64>)>| {
            let headers = lines.iter().map(|(name, value)| {
                let name = reqwest::header::HeaderName::from_static(name);
                (name, reqwest::header::HeaderValue::from_static(value))
            });
            let found = allowance(&HeaderMap::from_iter(headers));
            assert_eq!(found.map(|(remaining, reset)| (remaining, reset.map(|wait| wait.as_secs()))), expected);
        };
        check(&[("ratelimit-limit", "100;w=21600"), ("ratelimit-remaining", "97;w=21600")], Some((97, None)));
        check(&[("ratelimit-remaining", "0"), ("ratelimit-reset", "30")], Some((0, Some(30))));
        check(&[("ratelimit-remaining", "many")], None);
        check(&[], None);
    }
}
