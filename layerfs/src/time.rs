//! Moments as text: nanoseconds since 1970 as RFC 3339, and back. UTC, no leap seconds, years 0 to 9999.
//!
//! Days are counted by the algorithms of Howard Hinnant ("chrono-compatible low-level date algorithms").

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds in a second.
pub const SECOND: i128 = 1_000_000_000;

/// Nanoseconds since 1970.
pub fn now() -> i128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i128::try_from(since.as_nanos()).unwrap_or(i128::MAX)
}

/// `2026-11-21T04:26:01.123456789Z`, always with nine digits of fraction so that lines sort by text.
pub fn format(moment: i128) -> String {
    format!("{}.{:09}Z", second(moment), moment.rem_euclid(SECOND))
}

/// `2026-11-21T04:26:01Z` for seconds since 1970.
pub fn format_seconds(seconds: i64) -> String {
    second(i128::from(seconds) * SECOND) + "Z"
}

/// A moment without its fraction and its zone.
fn second(moment: i128) -> String {
    let seconds = moment.div_euclid(SECOND);
    let (days, clock) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days as i64);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", clock / 3600, clock / 60 % 60, clock % 60)
}

/// Reads what RFC 3339 allows: a `T` or blank between date and time, a fraction of any length, `Z` or an offset.
pub fn parse(text: &str) -> Option<i128> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let separator = |at: usize, allowed: &[u8]| text.as_bytes().get(at).is_some_and(|b| allowed.contains(b));
    let shape = [(4, &b"-"[..]), (7, b"-"), (10, b"Tt "), (13, b":"), (16, b":")];
    if !shape.iter().all(|(at, allowed)| separator(*at, allowed)) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut fraction = 0i128;
    if let Some(digits) = rest.strip_prefix('.') {
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let nine: String = digits[..end].chars().chain("000000000".chars()).take(9).collect();
        fraction = nine.parse().ok()?;
        rest = &digits[end..];
    }
    let offset = match rest {
        "Z" | "z" => 0,
        _ => {
            let sign = if rest.starts_with('-') { -1 } else { 1 };
            let (hours, minutes) = rest.strip_prefix(['+', '-'])?.split_once(':')?;
            sign * (hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60)
        }
    };
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
    Some(i128::from(seconds) * SECOND + fraction)
}

/// Year, month and day of a day since 1970-01-01, in the proleptic Gregorian calendar. Years are counted from March, so
/// that a leap day is the last day of its year.
pub fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The day since 1970-01-01 of a date in the proleptic Gregorian calendar.
pub fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<i128>) {
        assert_eq!(parse(text), expected, "{text}");
    }

    #[test]
    fn rfc_3339_is_read_and_written() {
        assert_eq!(format(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(format(1_709_210_096_123_456_789), "2024-02-29T12:34:56.123456789Z");
        check("2024-02-29T12:34:56.123456789Z", Some(1_709_210_096_123_456_789));
        check("2024-02-29 13:34:56.1+01:00", Some(1_709_210_096_100_000_000));
        check("1970-01-01T00:00:00Z", Some(0));
        check("0001-01-01T00:00:00Z", Some(-62_135_596_800 * SECOND));
        for (seconds, text) in [
            (951_782_400, "2000-02-29T00:00:00Z"),
            (978_307_199, "2000-12-31T23:59:59Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(format_seconds(seconds), text);
            check(text, Some(i128::from(seconds) * SECOND));
        }
        for wrong in [
            "",
            "2024",
            "2024-13-01T00:00:00Z",
            "2024-01-01T25:00:00Z",
            "2024-01-01T00:00:00",
            "10m",
            "yesterday",
            "2024-01-01",
            "2024-01-01T00:00",
        ] {
            check(wrong, None);
        }
    }
}
