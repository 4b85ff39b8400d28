//! Regular expressions.

use std::collections::BTreeMap;

use regex_lite::{Captures, Regex};

use super::super::value::Value;
use super::{Answer, text_of};
use crate::dockerfile::Fault;

fn pattern(text: &str) -> Result<Regex, Fault> {
    Regex::new(text).map_err(|error| Fault::new(format!("`{text}` is not a regular expression: {error}")))
}

/// What a match yields: the text, or a list of its groups, or an object of them where they have names.
fn found(regex: &Regex, captures: &Captures<'_>) -> Value {
    let text = |at: usize| captures.get(at).map_or(Value::Null, |part| Value::from(part.as_str()));
    if regex.captures_len() == 1 {
        return text(0);
    }
    let names: Vec<Option<&str>> = regex.capture_names().skip(1).collect();
    if names.iter().all(Option::is_none) {
        return Value::List((1..regex.captures_len()).map(text).collect());
    }
    let named = names.iter().enumerate().filter_map(|(at, name)| Some(((*name)?.to_owned(), text(at + 1))));
    Value::Map(named.collect::<BTreeMap<_, _>>())
}

pub(super) fn regex(arguments: &[Value]) -> Answer {
    let (regex, text) = (pattern(&text_of(arguments, 0)?)?, text_of(arguments, 1)?);
    let captures = regex.captures(&text).ok_or_else(|| Fault::new("nothing matches"))?;
    Ok(found(&regex, &captures))
}

pub(super) fn all(arguments: &[Value]) -> Answer {
    let (regex, text) = (pattern(&text_of(arguments, 0)?)?, text_of(arguments, 1)?);
    Ok(Value::List(regex.captures_iter(&text).map(|captures| found(&regex, &captures)).collect()))
}

pub(super) fn replace(arguments: &[Value]) -> Answer {
    let (text, with) = (text_of(arguments, 0)?, text_of(arguments, 2)?);
    let regex = pattern(&text_of(arguments, 1)?)?;
    Ok(Value::String(regex.replace_all(&text, with.as_str()).into_owned()))
}
