//! Times: RFC 3339 texts and seconds since 1970.

use std::collections::BTreeMap;

use super::super::value::{Value, whole};
use super::{Answer, text_of, wrong};
use crate::dockerfile::Fault;
use crate::time::{now, rfc3339};
use layerfs::time::{SECOND, civil, days};

/// A moment, and how far its clock is from UTC, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Moment {
    seconds: i64,
    nanos: u32,
    offset: i64,
}

/// The parts of a moment on its own clock.
struct Parts {
    year: i64,
    month: i64,
    day: i64,
    weekday: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl Moment {
    fn parse(text: &str) -> Result<Self, Fault> {
        let bad = || Fault::new(format!("`{text}` is not a time")).hint("such as 2026-01-31T12:00:00Z");
        let moment = layerfs::time::parse(text).ok_or_else(bad)?;
        let seconds = i64::try_from(moment.div_euclid(SECOND)).map_err(|_| bad())?;
        let nanos = u32::try_from(moment.rem_euclid(SECOND)).unwrap_or(0);
        let clock = |from: usize| text.get(from..from + 2).and_then(|digits| digits.parse::<i64>().ok()).unwrap_or(0);
        let offset = match text.len().checked_sub(6) {
            Some(sign) if !text.ends_with(['Z', 'z']) => {
                let far = clock(sign + 1) * 3600 + clock(sign + 4) * 60;
                if text[sign..].starts_with('-') { -far } else { far }
            }
            _ => 0,
        };
        Ok(Self { seconds, nanos, offset })
    }

    fn parts(self) -> Parts {
        let local = self.seconds + self.offset;
        let (day_number, rest) = (local.div_euclid(86_400), local.rem_euclid(86_400));
        let (year, month, day) = civil(day_number);
        // The first day of 1970 was a Thursday.
        let weekday = (day_number + 4).rem_euclid(7);
        Parts { year, month, day, weekday, hour: rest / 3600, minute: rest / 60 % 60, second: rest % 60 }
    }

    fn zone(self, colon: bool) -> String {
        let (sign, far) = if self.offset < 0 { ('-', -self.offset) } else { ('+', self.offset) };
        format!("{sign}{:02}{}{:02}", far / 3600, if colon { ":" } else { "" }, far / 60 % 60)
    }

    fn rfc3339(self) -> String {
        let local = rfc3339(self.seconds + self.offset);
        let local = local.trim_end_matches('Z');
        match self.offset {
            0 => format!("{local}Z"),
            _ => format!("{local}{}", self.zone(true)),
        }
    }
}

pub(super) fn timestamp(_: &[Value]) -> Answer {
    Ok(Value::String(rfc3339(now())))
}

/// `YYYY-MM-DD`, `hh:mm:ss` and the other letters of Terraform's formatdate; text between quotes stands for itself.
pub(super) fn formatdate(arguments: &[Value]) -> Answer {
    formatted(&text_of(arguments, 0)?, Moment::parse(&text_of(arguments, 1)?)?).map(Value::String)
}

/// The same of a number of seconds too; `X` is that number.
pub(super) fn formattimestamp(arguments: &[Value]) -> Answer {
    let moment = match &arguments[1] {
        Value::Number(number) => {
            let seconds = whole(*number).ok_or_else(|| wrong(arguments, 1, "a whole number of seconds"))?;
            Moment { seconds, nanos: 0, offset: 0 }
        }
        _ => Moment::parse(&text_of(arguments, 1)?)?,
    };
    match text_of(arguments, 0)?.as_str() {
        "X" => Ok(Value::String(moment.seconds.to_string())),
        form => formatted(form, moment).map(Value::String),
    }
}

fn formatted(form: &str, moment: Moment) -> Result<String, Fault> {
    let parts = moment.parts();
    let (mut out, mut rest) = (String::new(), form);
    while let Some(first) = rest.chars().next() {
        if first == '\'' {
            let Some((quoted, after)) = quoted(&rest[1..]) else {
                return Err(Fault::new("a quote of the format is not closed"));
            };
            out.push_str(&quoted);
            rest = after;
            continue;
        }
        let run = rest.len() - rest.trim_start_matches(first).len();
        let (word, after) = rest.split_at(run);
        if !first.is_ascii_alphabetic() {
            out.push_str(word);
            rest = after;
            continue;
        }
        let name = |names: &[&str], at: i64| names[usize::try_from(at).unwrap_or(0) % names.len()].to_owned();
        let short = |text: String| text[..3].to_owned();
        let noon = (parts.hour + 11) % 12 + 1;
        out.push_str(&match word {
            "YYYY" => format!("{:04}", parts.year),
            "YY" => format!("{:02}", parts.year % 100),
            "MMMM" => name(&MONTHS, parts.month - 1),
            "MMM" => short(name(&MONTHS, parts.month - 1)),
            "MM" => format!("{:02}", parts.month),
            "M" => parts.month.to_string(),
            "DD" => format!("{:02}", parts.day),
            "D" => parts.day.to_string(),
            "EEEE" => name(&WEEKDAYS, parts.weekday),
            "EEE" => short(name(&WEEKDAYS, parts.weekday)),
            "hh" => format!("{:02}", parts.hour),
            "h" => parts.hour.to_string(),
            "HH" => format!("{noon:02}"),
            "H" => noon.to_string(),
            "AA" => if parts.hour < 12 { "AM" } else { "PM" }.to_owned(),
            "aa" => if parts.hour < 12 { "am" } else { "pm" }.to_owned(),
            "mm" => format!("{:02}", parts.minute),
            "m" => parts.minute.to_string(),
            "ss" => format!("{:02}", parts.second),
            "s" => parts.second.to_string(),
            "ZZZZZ" => moment.zone(true),
            "ZZZZ" => moment.zone(false),
            "ZZZ" if moment.offset == 0 => "UTC".to_owned(),
            "ZZZ" => moment.zone(false),
            "Z" if moment.offset == 0 => "Z".to_owned(),
            "Z" => moment.zone(true),
            other => {
                return Err(Fault::new(format!("`{other}` is no part of a time"))
                    .hint("text stands for itself between single quotes"));
            }
        });
        rest = after;
    }
    Ok(out)
}

/// The text up to the closing quote, where two are one of it, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('\'')?;
        out.push_str(before);
        match after.strip_prefix('\'') {
            Some(more) => {
                out.push('\'');
                rest = more;
            }
            None => return Some((out, after)),
        }
    }
}

/// A time some duration later: `1h30m`, `-10s`.
pub(super) fn timeadd(arguments: &[Value]) -> Answer {
    let (moment, text) = (Moment::parse(&text_of(arguments, 0)?)?, text_of(arguments, 1)?);
    let bad = || Fault::new(format!("`{text}` is not a duration")).hint("such as 1h30m or -10s");
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.trim_start_matches('+')),
    };
    let mut nanos = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let scale = match unit {
            "h" => 3600e9,
            "m" => 60e9,
            "s" => 1e9,
            "ms" => 1e6,
            "us" | "µs" => 1e3,
            "ns" => 1.0,
            _ => return Err(bad()),
        };
        nanos += number.parse::<f64>().map_err(|_| bad())? * scale;
        rest = after;
    }
    let total = i128::from(moment.seconds) * SECOND + i128::from(moment.nanos) + (sign * nanos) as i128;
    let seconds = i64::try_from(total.div_euclid(SECOND)).map_err(|_| bad())?;
    Ok(Value::String(Moment { seconds, ..moment }.rfc3339()))
}

/// Seconds since 1970 as an object of the parts of that time.
pub(super) fn unixtimestampparse(arguments: &[Value]) -> Answer {
    let seconds = super::whole_of(arguments, 0)?;
    let parts = Moment { seconds, nanos: 0, offset: 0 }.parts();
    let first = days(parts.year, 1, 1);
    let numbers = [
        ("year", parts.year),
        ("year_day", seconds.div_euclid(86_400) - first + 1),
        ("day", parts.day),
        ("month", parts.month),
        ("weekday", parts.weekday),
        ("hour", parts.hour),
        ("minute", parts.minute),
        ("second", parts.second),
        ("iso_year", iso_week(seconds).0),
        ("iso_week", iso_week(seconds).1),
    ];
    let mut map: BTreeMap<String, Value> =
        numbers.iter().map(|(name, number)| ((*name).to_owned(), Value::Number(*number as f64))).collect();
    let name = |names: &[&str], at: i64| Value::from(names[usize::try_from(at).unwrap_or(0) % names.len()]);
    map.insert("month_name".to_owned(), name(&MONTHS, parts.month - 1));
    map.insert("weekday_name".to_owned(), name(&WEEKDAYS, parts.weekday));
    map.insert("rfc3339".to_owned(), Value::String(rfc3339(seconds)));
    Ok(Value::Map(map))
}

/// The year and week of ISO 8601: a week belongs to the year of its Thursday.
fn iso_week(seconds: i64) -> (i64, i64) {
    let day = seconds.div_euclid(86_400);
    let thursday = day - (day + 3).rem_euclid(7) + 3;
    let (year, ..) = civil(thursday);
    (year, (thursday - days(year, 1, 1)) / 7 + 1)
}
