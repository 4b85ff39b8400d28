//! Texts.

use std::collections::BTreeMap;

use super::super::value::{Value, count, number_text};
use super::{Answer, list_of, text_of, whole_of, wrong};
use crate::dockerfile::{Fault, csv as csv_fields};

fn map(arguments: &[Value], work: impl Fn(&str) -> String) -> Answer {
    text_of(arguments, 0).map(|text| Value::String(work(&text)))
}

pub(super) fn upper(arguments: &[Value]) -> Answer {
    map(arguments, str::to_uppercase)
}

pub(super) fn lower(arguments: &[Value]) -> Answer {
    map(arguments, str::to_lowercase)
}

pub(super) fn title(arguments: &[Value]) -> Answer {
    map(arguments, |text| {
        let mut before = ' ';
        let big = |c: char| c.to_uppercase().collect::<String>();
        text.chars()
            .map(|c| {
                let start = !(before.is_alphanumeric() || before == '_');
                before = c;
                if start { big(c) } else { c.to_string() }
            })
            .collect()
    })
}

pub(super) fn chomp(arguments: &[Value]) -> Answer {
    map(arguments, |text| text.trim_end_matches(['\r', '\n']).to_owned())
}

pub(super) fn trimspace(arguments: &[Value]) -> Answer {
    map(arguments, |text| text.trim().to_owned())
}

pub(super) fn trim(arguments: &[Value]) -> Answer {
    let set: Vec<char> = text_of(arguments, 1)?.chars().collect();
    map(arguments, |text| text.trim_matches(&set[..]).to_owned())
}

pub(super) fn trimprefix(arguments: &[Value]) -> Answer {
    let prefix = text_of(arguments, 1)?;
    map(arguments, |text| text.strip_prefix(&prefix).unwrap_or(text).to_owned())
}

pub(super) fn trimsuffix(arguments: &[Value]) -> Answer {
    let suffix = text_of(arguments, 1)?;
    map(arguments, |text| text.strip_suffix(&suffix).unwrap_or(text).to_owned())
}

pub(super) fn reverse(arguments: &[Value]) -> Answer {
    map(arguments, |text| text.chars().rev().collect())
}

pub(super) fn replace(arguments: &[Value]) -> Answer {
    let (what, with) = (text_of(arguments, 1)?, text_of(arguments, 2)?);
    map(arguments, |text| text.replace(&what, &with))
}

/// What may not stand in a target's name becomes `_`.
pub(super) fn sanitize(arguments: &[Value]) -> Answer {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    map(arguments, |text| text.chars().map(|c| if fits(c) { c } else { '_' }).collect())
}

pub(super) fn indent(arguments: &[Value]) -> Answer {
    let spaces = usize::try_from(whole_of(arguments, 0)?).map_err(|_| wrong(arguments, 0, "a number of spaces"))?;
    let text = text_of(arguments, 1)?;
    Ok(Value::String(text.replace('\n', &format!("\n{}", " ".repeat(spaces.min(1024))))))
}

pub(super) fn basename(arguments: &[Value]) -> Answer {
    map(arguments, |text| match text.trim_end_matches('/') {
        "" if text.is_empty() => ".".to_owned(),
        "" => "/".to_owned(),
        path => path.rsplit('/').next().unwrap_or(path).to_owned(),
    })
}

pub(super) fn dirname(arguments: &[Value]) -> Answer {
    map(arguments, |text| match text.rsplit_once('/') {
        None => ".".to_owned(),
        Some((folder, _)) => {
            let whole = if text.starts_with('/') { format!("/{folder}") } else { folder.to_owned() };
            let parts: Vec<&str> = whole.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
            match (text.starts_with('/'), parts.is_empty()) {
                (true, _) => format!("/{}", parts.join("/")),
                (false, true) => ".".to_owned(),
                (false, false) => parts.join("/"),
            }
        }
    })
}

pub(super) fn homedir(_: &[Value]) -> Answer {
    let home = std::env::var("HOME").ok().filter(|home| !home.is_empty());
    home.map(Value::String).ok_or_else(|| Fault::new("the variable `HOME` is not set"))
}

pub(super) fn strlen(arguments: &[Value]) -> Answer {
    text_of(arguments, 0).map(|text| count(text.chars().count()))
}

pub(super) fn byteslen(arguments: &[Value]) -> Answer {
    text_of(arguments, 0).map(|text| count(text.len()))
}

/// `offset, length`; a negative offset counts from the end, a length of -1 is the rest.
fn window(arguments: &[Value], total: usize) -> Result<(usize, usize), Fault> {
    let total_signed = i64::try_from(total).unwrap_or(i64::MAX);
    let (offset, length) = (whole_of(arguments, 1)?, whole_of(arguments, 2)?);
    let from = if offset < 0 { total_signed.saturating_add(offset).max(0) } else { offset.min(total_signed) };
    let length = if length < 0 { total_signed } else { length };
    let to = from.saturating_add(length).min(total_signed);
    Ok((usize::try_from(from).unwrap_or(0), usize::try_from(to).unwrap_or(total)))
}

pub(super) fn substr(arguments: &[Value]) -> Answer {
    let text: Vec<char> = text_of(arguments, 0)?.chars().collect();
    let (from, to) = window(arguments, text.len())?;
    Ok(Value::String(text[from..to].iter().collect()))
}

pub(super) fn bytesslice(arguments: &[Value]) -> Answer {
    let text = text_of(arguments, 0)?;
    let (from, to) = window(arguments, text.len())?;
    Ok(Value::String(String::from_utf8_lossy(&text.as_bytes()[from..to]).into_owned()))
}

pub(super) fn split(arguments: &[Value]) -> Answer {
    let (mark, text) = (text_of(arguments, 0)?, text_of(arguments, 1)?);
    let parts: Vec<String> = match mark.is_empty() {
        true => text.chars().map(String::from).collect(),
        false => text.split(&mark).map(str::to_owned).collect(),
    };
    Ok(Value::List(parts.into_iter().map(Value::String).collect()))
}

pub(super) fn join(arguments: &[Value]) -> Answer {
    let mark = text_of(arguments, 0)?;
    let mut parts = Vec::new();
    for at in 1..arguments.len() {
        for value in list_of(arguments, at)? {
            parts.push(value.text().ok_or_else(|| wrong(arguments, at, "a list of strings"))?);
        }
    }
    Ok(Value::String(parts.join(&mark)))
}

pub(super) fn jsonencode(arguments: &[Value]) -> Answer {
    Ok(Value::String(arguments[0].to_json()))
}

pub(super) fn jsondecode(arguments: &[Value]) -> Answer {
    let json = serde_json::from_str(&text_of(arguments, 0)?).map_err(|error| Fault::new(error.to_string()))?;
    Ok(Value::from_json(&json))
}

/// Rows of a table whose first line names the columns.
pub(super) fn csvdecode(arguments: &[Value]) -> Answer {
    let text = text_of(arguments, 0)?;
    let mut rows = text.lines().filter(|line| !line.is_empty()).map(csv_fields);
    let names = rows.next().unwrap_or(Ok(Vec::new())).map_err(Fault::new)?;
    let row = |row: Result<Vec<String>, &'static str>| {
        let row = row.map_err(Fault::new)?;
        if row.len() != names.len() {
            return Err(Fault::new(format!("a row has {} fields in place of {}", row.len(), names.len())));
        }
        Ok(Value::Map(names.iter().cloned().zip(row.into_iter().map(Value::String)).collect::<BTreeMap<_, _>>()))
    };
    rows.map(row).collect::<Result<_, _>>().map(Value::List)
}

pub(super) fn format(arguments: &[Value]) -> Answer {
    formatted(&text_of(arguments, 0)?, &arguments[1..]).map(Value::String)
}

pub(super) fn formatlist(arguments: &[Value]) -> Answer {
    let form = text_of(arguments, 0)?;
    let rest = &arguments[1..];
    let lengths: Vec<usize> = rest.iter().filter_map(|value| value.elements().map(|list| list.len())).collect();
    let rows = lengths.first().copied().unwrap_or(1);
    if lengths.iter().any(|length| *length != rows) {
        return Err(Fault::new("the lists are not of one length"));
    }
    let pick = |value: &Value, row: usize| value.elements().map_or_else(|| value.clone(), |list| list[row].clone());
    let line = |row| formatted(&form, &rest.iter().map(|value| pick(value, row)).collect::<Vec<_>>());
    (0..rows).map(|row| line(row).map(Value::String)).collect::<Result<_, _>>().map(Value::List)
}

/// C's conversions, as far as HCL has them: `%s %v %d %q %t %f %e %g %b %o %x %X %c %%` with flags and widths.
fn formatted(form: &str, arguments: &[Value]) -> Result<String, Fault> {
    let (mut out, mut chars, mut next) = (String::new(), form.chars().peekable(), 0);
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let (mut flags, mut width, mut precision) = (String::new(), String::new(), None::<String>);
        while let Some(flag) = chars.next_if(|c| "-+ 0#".contains(*c)) {
            flags.push(flag);
        }
        while let Some(digit) = chars.next_if(char::is_ascii_digit) {
            width.push(digit);
        }
        if chars.next_if_eq(&'.').is_some() {
            let precision = precision.insert(String::new());
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                precision.push(digit);
            }
        }
        if chars.next_if_eq(&'[').is_some() {
            let mut at = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                at.push(digit);
            }
            chars.next();
            next = at.parse::<usize>().unwrap_or(1).saturating_sub(1);
        }
        let Some(verb) = chars.next() else { return Err(Fault::new("the format ends in the middle of a conversion")) };
        if verb == '%' {
            out.push('%');
            continue;
        }
        let value = arguments.get(next);
        let value =
            value.ok_or_else(|| Fault::new(format!("there is no argument for the {}. conversion", next + 1)))?;
        next += 1;
        let text = converted(verb, value, &flags, precision.as_deref().map(|text| text.parse().unwrap_or(0)))?;
        pad(&mut out, &text, &flags, width.parse().unwrap_or(0));
    }
    match next < arguments.len() && !form.contains("%[") {
        true => Err(Fault::new(format!("there are {} arguments for {next} conversions", arguments.len()))),
        false => Ok(out),
    }
}

fn converted(verb: char, value: &Value, flags: &str, precision: Option<usize>) -> Result<String, Fault> {
    let number = || value.number().ok_or_else(|| Fault::new(format!("%{verb} takes a number")));
    let whole = || {
        let whole = super::lists::place(number()?);
        whole.ok_or_else(|| Fault::new(format!("%{verb} takes a whole number")))
    };
    let text = || value.text().ok_or_else(|| Fault::new(format!("%{verb} takes a string")));
    let short = |text: String| precision.map_or(text.clone(), |most| text.chars().take(most).collect());
    let signed = |text: String| if flags.contains('+') && !text.starts_with('-') { format!("+{text}") } else { text };
    Ok(match verb {
        's' => short(text()?),
        'q' => Value::String(text()?).to_json(),
        'v' => match value {
            Value::Number(number) => signed(number_text(*number)),
            other if flags.contains('#') => other.to_json(),
            other => other.text().unwrap_or_else(|| other.to_json()),
        },
        't' => value.boolean().ok_or_else(|| Fault::new("%t takes true or false"))?.to_string(),
        'd' => signed(whole()?.to_string()),
        'b' => format!("{:b}", whole()?),
        'o' => format!("{:o}", whole()?),
        'x' => format!("{:x}", whole()?),
        'X' => format!("{:X}", whole()?),
        'f' | 'F' => signed(format!("{:.*}", precision.unwrap_or(6), number()?)),
        'e' => signed(format!("{:.*e}", precision.unwrap_or(6), number()?)),
        'g' => signed(number_text(number()?)),
        'c' => u32::try_from(whole()?).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER).to_string(),
        other => return Err(Fault::new(format!("`%{other}` is no conversion"))),
    })
}

fn pad(out: &mut String, text: &str, flags: &str, width: usize) {
    let missing = width.min(1024).saturating_sub(text.chars().count());
    if flags.contains('-') {
        out.push_str(text);
        out.push_str(&" ".repeat(missing));
    } else if flags.contains('0') {
        let (sign, digits) = match text.strip_prefix(['-', '+']) {
            Some(digits) => text.split_at(text.len() - digits.len()),
            None => ("", text),
        };
        out.push_str(sign);
        out.push_str(&"0".repeat(missing));
        out.push_str(digits);
    } else {
        out.push_str(&" ".repeat(missing));
        out.push_str(text);
    }
}
