//! Times in HTTP headers and image documents, in seconds since 1970.

use layerfs::time::{SECOND, days, parse};

pub(crate) use layerfs::time::format_seconds as format_rfc3339;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Seconds since 1970 of an RFC 9110 date such as `Wed, 21 Oct 2015 07:28:00 GMT`.
pub(crate) fn parse_http_date(text: &str) -> Option<i64> {
    let (_, rest) = text.split_once(", ")?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let [day, month, year, clock, "GMT"] = words[..] else { return None };
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    Some(days(year.parse().ok()?, month, day.parse().ok()?) * 86_400 + seconds_of(clock)?)
}

/// Seconds since 1970 of an RFC 3339 time such as `2024-02-29T12:30:00.5+01:00`, its fraction cut off.
pub(crate) fn parse_rfc3339(text: &str) -> Option<i64> {
    i64::try_from(parse(text)?.div_euclid(SECOND)).ok()
}

/// "3 days ago", as container tools say it.
pub(crate) fn ago(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        86_400..1_209_600 => (seconds / 86_400, "day"),
        1_209_600..5_184_000 => (seconds / 604_800, "week"),
        5_184_000..63_072_000 => (seconds / 2_592_000, "month"),
        _ => (seconds / 31_536_000, "year"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

fn seconds_of(clock: &str) -> Option<i64> {
    let mut parts = clock.splitn(3, ':').map(str::parse::<i64>);
    Some(parts.next()?.ok()? * 3600 + parts.next()?.ok()? * 60 + parts.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_seconds_since_1970() {
        assert_eq!(parse_http_date("Thu, 01 Jan 1970 00:00:10 GMT"), Some(10));
        assert_eq!(parse_http_date("Wed, 21 Oct 2015 07:28:00 GMT"), Some(1_445_412_480));
        assert_eq!(parse_rfc3339("2024-02-29T13:30:00.5+01:00"), Some(1_709_209_800));
        assert_eq!(parse_rfc3339("1969-12-31T23:59:59.5Z"), Some(-1));
    }

    #[test]
    fn ages_read_well() {
        for (seconds, text) in [(1, "1 second ago"), (7200, "2 hours ago"), (86_400 * 400, "13 months ago")] {
            assert_eq!(ago(seconds), text);
        }
    }
}
