//! `${NAME:-default}` of compose files, and the `.env` file beside them.

use std::collections::BTreeMap;

use serde_json::Value as Json;

/// Replaces the variables in every text of a document.
///
/// # Errors
/// A variable that has to be set is not, or the braces do not close; the sentence names the text.
pub(super) fn document(json: &mut Json, env: &BTreeMap<String, String>) -> Result<(), String> {
    match json {
        Json::String(text) => {
            *text = text_of(text, env).map_err(|why| format!("`{text}`: {why}"))?;
            Ok(())
        }
        Json::Array(list) => list.iter_mut().try_for_each(|item| document(item, env)),
        Json::Object(map) => map.values_mut().try_for_each(|item| document(item, env)),
        _ => Ok(()),
    }
}

fn text_of(text: &str, env: &BTreeMap<String, String>) -> Result<String, String> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let end = closing(after).ok_or("a `${` is not closed")?;
            out.push_str(&braced(&after[..end], env)?);
            rest = &after[end + 1..];
        } else {
            let length = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
            if length == 0 || rest.starts_with(|c: char| c.is_ascii_digit()) {
                return Err("a `$` stands before no name; write `$$` for the sign itself".to_owned());
            }
            out.push_str(env.get(&rest[..length]).map_or("", String::as_str));
            rest = &rest[length..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// Where the brace that is open closes.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 1;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// `NAME`, with `:-`, `-`, `:?`, `?`, `:+` or `+` and a word.
fn braced(inside: &str, env: &BTreeMap<String, String>) -> Result<String, String> {
    let length = inside.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(inside.len());
    let (name, rest) = inside.split_at(length);
    let (filled, form) = rest.strip_prefix(':').map_or((false, rest), |form| (true, form));
    let value = env.get(name).filter(|value| !filled || !value.is_empty());
    let word = |form: &str| text_of(&form[1..], env);
    match form.chars().next() {
        None if !name.is_empty() && !filled => Ok(value.cloned().unwrap_or_default()),
        Some('-') => value.cloned().map_or_else(|| word(form), Ok),
        Some('+') => value.map_or_else(|| Ok(String::new()), |_| word(form)),
        Some('?') => match value {
            Some(value) => Ok(value.clone()),
            None => Err(format!("the variable `{name}` is not set: {}", word(form)?)),
        },
        _ => Err(format!("`${{{inside}}}` is no variable")),
    }
}

/// The lines of a `.env` file.
pub(super) fn dotenv(text: &str) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for line in text.lines() {
        let line = line.trim().trim_start_matches("export ");
        let Some((name, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) else { continue };
        let value = value.trim();
        let unquoted = |quote: char| value.strip_prefix(quote).and_then(|rest| rest.split_once(quote)).map(|(v, _)| v);
        let value = match (unquoted('"'), unquoted('\'')) {
            (Some(value), _) | (None, Some(value)) => value.to_owned(),
            (None, None) => value.split(" #").next().unwrap_or_default().trim_end().to_owned(),
        };
        env.insert(name.trim().to_owned(), value);
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_have_defaults_and_conditions() {
        let env: BTreeMap<String, String> =
            [("A", "a"), ("EMPTY", "")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        for (text, expected) in [
            ("$A-${A}", Ok("a-a")),
            ("${NONE:-x}${EMPTY:-y}${EMPTY-z}", Ok("xy")),
            ("${A:+set}${NONE:+set}", Ok("set")),
            ("$$A", Ok("$A")),
            ("${NONE:-${A}}", Ok("a")),
            ("${NONE:?give it}", Err("the variable `NONE` is not set: give it")),
            ("${A", Err("a `${` is not closed")),
        ] {
            assert_eq!(text_of(text, &env).as_deref().map_err(String::as_str), expected, "{text}");
        }
    }

    #[test]
    fn lines_of_env_files() {
        let env = dotenv("# no\nexport A=1\nB=\"two words\" # c\nC='$x'\nD=plain # c\n");
        let got: Vec<(&str, &str)> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(got, [("A", "1"), ("B", "two words"), ("C", "$x"), ("D", "plain")]);
    }
}
