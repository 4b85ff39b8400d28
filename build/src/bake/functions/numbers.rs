//! Numbers, comparisons and logic.

use super::super::value::Value;
use super::{Answer, bool_of, number_of, text_of, whole_of, wrong};
use crate::dockerfile::Fault;

fn one(arguments: &[Value], work: fn(f64) -> f64) -> Answer {
    number_of(arguments, 0).map(|number| Value::Number(work(number)))
}

fn two(arguments: &[Value], work: fn(f64, f64) -> f64) -> Answer {
    Ok(Value::Number(work(number_of(arguments, 0)?, number_of(arguments, 1)?)))
}

fn compare(arguments: &[Value], work: fn(f64, f64) -> bool) -> Answer {
    Ok(Value::Bool(work(number_of(arguments, 0)?, number_of(arguments, 1)?)))
}

fn not_zero(arguments: &[Value]) -> Result<(), Fault> {
    match number_of(arguments, 1)? {
        0.0 => Err(Fault::new("this divides by zero")),
        _ => Ok(()),
    }
}

pub(super) fn absolute(arguments: &[Value]) -> Answer {
    one(arguments, f64::abs)
}

pub(super) fn negate(arguments: &[Value]) -> Answer {
    one(arguments, |number| -number)
}

pub(super) fn ceil(arguments: &[Value]) -> Answer {
    one(arguments, f64::ceil)
}

pub(super) fn floor(arguments: &[Value]) -> Answer {
    one(arguments, f64::floor)
}

pub(super) fn int(arguments: &[Value]) -> Answer {
    one(arguments, f64::trunc)
}

pub(super) fn signum(arguments: &[Value]) -> Answer {
    one(arguments, |number| if number == 0.0 { 0.0 } else { number.signum() })
}

pub(super) fn add(arguments: &[Value]) -> Answer {
    two(arguments, |a, b| a + b)
}

pub(super) fn subtract(arguments: &[Value]) -> Answer {
    two(arguments, |a, b| a - b)
}

pub(super) fn multiply(arguments: &[Value]) -> Answer {
    two(arguments, |a, b| a * b)
}

pub(super) fn divide(arguments: &[Value]) -> Answer {
    not_zero(arguments)?;
    two(arguments, |a, b| a / b)
}

pub(super) fn modulo(arguments: &[Value]) -> Answer {
    not_zero(arguments)?;
    two(arguments, |a, b| a % b)
}

pub(super) fn pow(arguments: &[Value]) -> Answer {
    two(arguments, f64::powf)
}

pub(super) fn log(arguments: &[Value]) -> Answer {
    two(arguments, f64::log)
}

fn all(arguments: &[Value], better: fn(f64, f64) -> f64) -> Answer {
    let first = number_of(arguments, 0)?;
    (1..arguments.len()).try_fold(first, |best, at| Ok(better(best, number_of(arguments, at)?))).map(Value::Number)
}

pub(super) fn max(arguments: &[Value]) -> Answer {
    all(arguments, f64::max)
}

pub(super) fn min(arguments: &[Value]) -> Answer {
    all(arguments, f64::min)
}

pub(super) fn equal(arguments: &[Value]) -> Answer {
    Ok(Value::Bool(arguments[0] == arguments[1]))
}

pub(super) fn notequal(arguments: &[Value]) -> Answer {
    Ok(Value::Bool(arguments[0] != arguments[1]))
}

pub(super) fn lessthan(arguments: &[Value]) -> Answer {
    compare(arguments, |a, b| a < b)
}

pub(super) fn lessthanorequalto(arguments: &[Value]) -> Answer {
    compare(arguments, |a, b| a <= b)
}

pub(super) fn greaterthan(arguments: &[Value]) -> Answer {
    compare(arguments, |a, b| a > b)
}

pub(super) fn greaterthanorequalto(arguments: &[Value]) -> Answer {
    compare(arguments, |a, b| a >= b)
}

pub(super) fn and(arguments: &[Value]) -> Answer {
    Ok(Value::Bool(bool_of(arguments, 0)? & bool_of(arguments, 1)?))
}

pub(super) fn or(arguments: &[Value]) -> Answer {
    Ok(Value::Bool(bool_of(arguments, 0)? | bool_of(arguments, 1)?))
}

pub(super) fn not(arguments: &[Value]) -> Answer {
    Ok(Value::Bool(!bool_of(arguments, 0)?))
}

pub(super) fn parseint(arguments: &[Value]) -> Answer {
    let (text, base) = (text_of(arguments, 0)?, whole_of(arguments, 1)?);
    let base = u32::try_from(base).ok().filter(|base| (2..=36).contains(base));
    let base = base.ok_or_else(|| wrong(arguments, 1, "a base from 2 to 36"))?;
    let number = i64::from_str_radix(&text, base);
    let number = number.map_err(|_| Fault::new(format!("`{text}` is not a number of base {base}")))?;
    Ok(Value::Number(number as f64))
}

/// Whether a version meets a condition such as `>= 1.2, < 2`.
pub(super) fn semvercmp(arguments: &[Value]) -> Answer {
    let (version, condition) = (text_of(arguments, 0)?, text_of(arguments, 1)?);
    let bad = |text: &str| Fault::new(format!("`{text}` is not a version"));
    let parsed = semver::Version::parse(&whole_version(&version)).map_err(|_| bad(&version))?;
    for either in condition.split("||") {
        // A bare version is met by itself alone, where Cargo's reader takes it for a range.
        let either = either.split(',').flat_map(spaced).map(|part| match part.chars().next() {
            Some(first) if first.is_ascii_digit() => format!("={part}"),
            _ => part,
        });
        let either = either.collect::<Vec<_>>().join(", ");
        let met = either.split(", ").map(|part| met(&parsed, part)).collect::<Option<Vec<bool>>>();
        let met = met.ok_or_else(|| Fault::new(format!("`{condition}` is not a condition on versions")))?;
        if met.iter().all(|met| *met) {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

/// Conditions between spaces, each with its operator: `>= 1.2 < 2`.
fn spaced(text: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match parts.last_mut() {
            Some(last) if !last.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '*') => last.push_str(word),
            _ => parts.push(word.to_owned()),
        }
    }
    parts
}

fn met(version: &semver::Version, part: &str) -> Option<bool> {
    if let Some(other) = part.strip_prefix("!=") {
        return semver::VersionReq::parse(&format!("={other}")).ok().map(|other| !other.matches(version));
    }
    semver::VersionReq::parse(&part.replace(['v', 'V'], "")).ok().map(|condition| condition.matches(version))
}

/// A version with all three numbers: `v1.2` is `1.2.0`.
fn whole_version(text: &str) -> String {
    let text = text.trim_start_matches(['v', 'V']);
    let (numbers, rest) = text.split_at(text.find(['-', '+']).unwrap_or(text.len()));
    let missing = 2_usize.saturating_sub(numbers.matches('.').count());
    format!("{numbers}{}{rest}", ".0".repeat(missing))
}
