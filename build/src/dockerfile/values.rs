//! Values inside flags: comma-separated lists, durations, sizes.

use std::time::Duration;

/// The fields of one line of CSV: a field that begins with a quote ends with one, and holds `""` for a quote.
pub(crate) fn csv(text: &str) -> Result<Vec<String>, &'static str> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => match rest.split_once(',') {
                Some((field, after)) => (field.to_owned(), Some(after)),
                None => (rest.to_owned(), None),
            },
        };
        if !rest.starts_with('"') && field.contains('"') {
            return Err("a quote stands inside a field that does not begin with one");
        }
        fields.push(field);
        match after {
            Some(after) => rest = after,
            None => return Ok(fields),
        }
    }
}

/// What follows an opening quote: the field, and the text after its comma.
fn quoted_field(text: &str) -> Result<(String, Option<&str>), &'static str> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"').ok_or("a quote is not closed")?;
        field.push_str(part);
        match after.chars().next() {
            None => return Ok((field, None)),
            Some(',') => return Ok((field, Some(&after[1..]))),
            Some('"') => field.push('"'),
            Some(_) => return Err("text stands behind a closing quote"),
        }
        rest = &after[1..];
    }
}

/// A duration as Go writes it: `1h30m`, `1.5s`, `100ms`; a bare `0`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total: u128 = 0;
    while !rest.is_empty() || total == 0 {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, after) = rest.split_at(digits(rest));
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(digits(after)),
            None => ("", after),
        };
        let unit_length = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_length);
        let unit: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let whole: u128 = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()?.into() };
        // What lies below a nanosecond is cut off; 18 digits are more than the largest unit can show.
        let fraction = &fraction[..fraction.len().min(18)];
        let part = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().ok()? };
        total += whole * unit + part * unit / 10_u128.pow(u32::try_from(fraction.len()).ok()?);
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    // Go keeps durations in 63 bits of nanoseconds.
    let nanoseconds = u64::try_from(total).ok().filter(|total| *total <= i64::MAX as u64)?;
    Some(Duration::from_nanos(nanoseconds))
}

/// A size in bytes: `1024`, `64m`, `1.5GiB`; the units are powers of 1024, an `i` and a `b` may follow them.
pub(crate) fn size(text: &str) -> Option<u64> {
    let end = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')?;
    let (number, unit) = text.split_at(end + 1);
    let number = number.strip_suffix(' ').unwrap_or(number);
    if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    let unit = unit.to_ascii_lowercase();
    let (letter, tail) = match unit.chars().next() {
        None | Some('b') if unit.len() <= 1 => return to_bytes(number),
        Some(letter) if letter.is_ascii() => (letter, &unit[1..]),
        _ => return None,
    };
    let power = "kmgtp".find(letter)? + 1;
    match tail {
        "" | "b" | "ib" => to_bytes(number * 1024_f64.powi(i32::try_from(power).ok()?)),
        _ => None,
    }
}

fn to_bytes(number: f64) -> Option<u64> {
    // 2^63: the largest size the kernel's interfaces take.
    (0.0..9_223_372_036_854_775_808.0).contains(&number).then_some(number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_knows_quotes() {
        for (text, expected) in [
            ("a=b,c", Ok(vec!["a=b", "c"])),
            ("", Ok(vec![""])),
            ("a,", Ok(vec!["a", ""])),
            (r#"type=bind,"target=/a,b""#, Ok(vec!["type=bind", "target=/a,b"])),
            (r#""a""b""#, Ok(vec![r#"a"b"#])),
            (r#"a"b"#, Err("a quote stands inside a field that does not begin with one")),
            (r#""a"b"#, Err("text stands behind a closing quote")),
            (r#""a"#, Err("a quote is not closed")),
        ] {
            let fields = csv(text);
            let fields = fields.as_ref().map(|fields| fields.iter().map(String::as_str).collect()).map_err(|e| *e);
            assert_eq!(fields, expected, "{text}");
        }
    }

    #[test]
    fn durations_are_gos() {
        for (text, expected) in [
            ("0", Some(0)),
            ("5s", Some(5_000_000_000)),
            ("1h30m", Some(5_400_000_000_000)),
            ("1.5s", Some(1_500_000_000)),
            (".5m", Some(30_000_000_000)),
            ("1.s", Some(1_000_000_000)),
            ("100ms", Some(100_000_000)),
            ("3us", Some(3_000)),
            ("3µs", Some(3_000)),
            ("1.0000000009s", Some(1_000_000_000)),
            ("0s", Some(0)),
            ("5", None),
            ("s", None),
            (".s", None),
            ("", None),
            ("-5s", None),
            ("5x", None),
            ("5s5", None),
            ("9999999999999h", None),
        ] {
            assert_eq!(duration(text).map(|duration| duration.as_nanos()), expected, "{text}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, expected) in [
            ("1024", Some(1024)),
            ("64m", Some(64 << 20)),
            ("64MB", Some(64 << 20)),
            ("1.5GiB", Some(3 << 29)),
            ("1 k", Some(1024)),
            ("7b", Some(7)),
            ("7bb", None),
            ("7x", None),
            ("7ki", None),
            ("m", None),
            ("", None),
            ("-1", None),
            ("1e3", None),
            ("99999999p", None),
        ] {
            assert_eq!(size(text), expected, "{text}");
        }
    }
}
