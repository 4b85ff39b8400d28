//! The part of Go's templates that people use with `--format`: fields, `json`, `len`, `index`, `join`, `range`, `if`.

use layerfs::error::{Error, Kind, Result};
use serde_json::Value;

/// Deepest nesting of blocks.
const DEPTH_MAX: usize = 32;

/// A parsed template.
enum Node {
    Text(String),
    Print(String),
    /// `range` or `if`: the expression, what is done with it, what otherwise.
    Block {
        range: bool,
        of: String,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
}

/// Fills a template from a document. The output ends with a line break.
pub(super) fn render(template: &str, document: &Value) -> Result<String> {
    let template = template.replace("\\n", "\n").replace("\\t", "\t");
    let mut rest = template.as_str();
    let parsed = parse(&mut rest, 0).filter(|(_, end)| end.is_none());
    let (nodes, _) = parsed.ok_or_else(|| unknown(&template))?;
    let mut text = String::new();
    fill(&nodes, document, document, &mut text).ok_or_else(|| unknown(&template))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Nodes up to the end, or to an `end` or `else`, which is given back.
fn parse(rest: &mut &str, depth: usize) -> Option<(Vec<Node>, Option<&'static str>)> {
    if depth > DEPTH_MAX {
        return None;
    }
    let mut nodes = Vec::new();
    while let Some(open) = rest.find("{{") {
        nodes.push(Node::Text(rest[..open].to_owned()));
        let close = rest[open..].find("}}")? + open;
        let action = rest[open + 2..close].trim_matches('-').trim().to_owned();
        *rest = &rest[close + 2..];
        let (word, of) = action.split_once(' ').map_or((action.as_str(), ""), |(word, of)| (word, of.trim()));
        match word {
            "end" => return Some((nodes, Some("end"))),
            "else" => return Some((nodes, Some("else"))),
            "range" | "if" => {
                let (then, mut end) = parse(rest, depth + 1)?;
                let mut otherwise = Vec::new();
                if end == Some("else") {
                    (otherwise, end) = parse(rest, depth + 1)?;
                }
                (end == Some("end")).then_some(())?;
                nodes.push(Node::Block { range: word == "range", of: of.to_owned(), then, otherwise });
            }
            _ => nodes.push(Node::Print(action)),
        }
    }
    nodes.push(Node::Text(std::mem::take(rest).to_owned()));
    Some((nodes, None))
}

fn fill(nodes: &[Node], dot: &Value, root: &Value, out: &mut String) -> Option<()> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Print(action) => out.push_str(&print(action, dot, root)?),
            Node::Block { range: true, of, then, otherwise } => {
                let value = evaluate(of, dot, root)?;
                let items: Vec<&Value> = match &value {
                    Value::Array(items) => items.iter().collect(),
                    Value::Object(map) => map.values().collect(),
                    _ => Vec::new(),
                };
                if items.is_empty() {
                    fill(otherwise, dot, root, out)?;
                }
                items.into_iter().try_for_each(|item| fill(then, item, root, out))?;
            }
            Node::Block { range: false, of, then, otherwise } => {
                let chosen = if is_true(&evaluate(of, dot, root)?) { then } else { otherwise };
                fill(chosen, dot, root, out)?;
            }
        }
    }
    Some(())
}

fn print(action: &str, dot: &Value, root: &Value) -> Option<String> {
    if let Some(of) = action.strip_prefix("json ") {
        return Some(evaluate(of, dot, root)?.to_string());
    }
    // `.Field | json`
    if let Some((of, "json")) = action.split_once('|').map(|(of, function)| (of, function.trim())) {
        return Some(evaluate(of, dot, root)?.to_string());
    }
    Some(shown(&evaluate(action, dot, root)?))
}

/// The value of an expression: a field, a word in quotes, or a function of such.
fn evaluate(expression: &str, dot: &Value, root: &Value) -> Option<Value> {
    let words = words(expression)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [one] => operand(one, dot, root),
        ["len", of] => Some(
            match operand(of, dot, root)? {
                Value::Array(items) => items.len(),
                Value::Object(map) => map.len(),
                Value::String(text) => text.len(),
                Value::Null => 0,
                _ => return None,
            }
            .into(),
        ),
        ["index", of, keys @ ..] => keys.iter().try_fold(operand(of, dot, root)?, |value, key| {
            Some(match operand(key, dot, root)? {
                Value::String(key) => value.get(&key).cloned().unwrap_or_else(|| "".into()),
                Value::Number(at) => value.get(usize::try_from(at.as_u64()?).ok()?)?.clone(),
                _ => return None,
            })
        }),
        ["join", of, separator] => {
            let (Value::Array(items), Value::String(separator)) =
                (operand(of, dot, root)?, operand(separator, dot, root)?)
            else {
                return None;
            };
            Some(items.iter().map(shown).collect::<Vec<_>>().join(&separator).into())
        }
        _ => None,
    }
}

fn operand(word: &str, dot: &Value, root: &Value) -> Option<Value> {
    if let Some(text) = word.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        return Some(text.into());
    }
    if let Ok(number) = word.parse::<u64>() {
        return Some(number.into());
    }
    let (start, path) = match word.strip_prefix('$') {
        Some(path) => (root, path),
        None => (dot, word),
    };
    let path = if path.is_empty() && word == "$" { "." } else { path };
    let fields = path.strip_prefix('.')?.split('.').filter(|field| !field.is_empty());
    fields.into_iter().try_fold(start, |value, field| value.get(field)).cloned()
}

/// Words separated by blanks; those in quotes keep theirs.
fn words(expression: &str) -> Option<Vec<String>> {
    let (mut words, mut rest) = (Vec::new(), expression.trim());
    while !rest.is_empty() {
        let end = match rest.strip_prefix('"') {
            Some(quoted) => quoted.find('"')? + 2,
            None => rest.find(char::is_whitespace).unwrap_or(rest.len()),
        };
        words.push(rest[..end].to_owned());
        rest = rest[end..].trim_start();
    }
    (!words.is_empty()).then_some(words)
}

/// As Go prints it.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".to_owned(),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let mut pairs: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{}", shown(value))).collect();
            pairs.sort();
            format!("map[{}]", pairs.join(" "))
        }
        value => value.to_string(),
    }
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Bool(true) => true,
    }
}

fn unknown(template: &str) -> Error {
    Error::new(Kind::Usage, format!("template `{template}` is not one of those known here")).hint(
        "fields, `json`, `len`, `index`, `join`, `range` and `if` are; without --format the whole document is printed",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_filled_in() {
        let document =
            serde_json::json!({"Digest": "sha256:x", "Labels": {"a": "b"}, "Env": ["A=1", "B=2"], "None": null});
        let check = |template: &str, expected: Option<&str>| {
            assert_eq!(render(template, &document).ok().as_deref(), expected, "{template}");
        };
        check("{{.Digest}}", Some("sha256:x\n"));
        check("{{ .Labels.a }} {{json .Labels}}", Some("b {\"a\":\"b\"}\n"));
        check("{{.Env | json}}", Some("[\"A=1\",\"B=2\"]\n"));
        check("{{.Env}} {{.Labels}}", Some("[A=1 B=2] map[a:b]\n"));
        check("plain\\n", Some("plain\n"));
        check("{{range .Env}}<{{.}} of {{$.Digest}}>{{end}}", Some("<A=1 of sha256:x><B=2 of sha256:x>\n"));
        check("{{range .None}}x{{else}}none{{end}}", Some("none\n"));
        check("{{if .None}}x{{else}}{{if .Env}}y{{end}}{{end}}", Some("y\n"));
        check("{{len .Env}} {{index .Labels \"a\"}} {{index .Env 1}} {{join .Env \", \"}}", Some("2 b B=2 A=1, B=2\n"));
        check("{{range .Env}}x", None);
        check("{{.Missing}}", None);
        check("{{end}}", None);
        check("{{.Digest", None);
    }
}
