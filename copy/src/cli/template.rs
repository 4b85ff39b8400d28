//! The part of Go's templates that people use with `--format`: fields and `json`.

use layerfs::error::{Error, Kind, Result};
use serde_json::Value;

/// Fills `{{.Field}}`, `{{.Outer.Inner}}` and `{{json .Field}}` from a document.
pub(super) fn render(template: &str, document: &Value) -> Result<String> {
    let mut text = String::new();
    let mut rest = template;
    while let Some(open) = rest.find("{{") {
        text.push_str(&rest[..open]);
        let action = &rest[open + 2..];
        let close = action.find("}}").ok_or_else(|| unknown(template))?;
        text.push_str(&evaluate(action[..close].trim(), document).ok_or_else(|| unknown(template))?);
        rest = &action[close + 2..];
    }
    text.push_str(rest);
    text = text.replace("\\n", "\n").replace("\\t", "\t");
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

fn evaluate(action: &str, document: &Value) -> Option<String> {
    let (json, path) = match action.strip_prefix("json ") {
        Some(path) => (true, path.trim()),
        None => (false, action),
    };
    let mut value = document;
    for field in path.strip_prefix('.')?.split('.').filter(|field| !field.is_empty()) {
        value = value.get(field)?;
    }
    Some(match value {
        Value::String(text) if !json => text.clone(),
        // Go prints a list of words so.
        Value::Array(items) if !json && items.iter().all(Value::is_string) => {
            let words: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            format!("[{}]", words.join(" "))
        }
        value => value.to_string(),
    })
}

fn unknown(template: &str) -> Error {
    Error::new(Kind::Usage, format!("template `{template}` is not one of those known here")).hint(
        "`{{.Field}}`, `{{.Outer.Inner}}` and `{{json .Field}}` are; without --format the whole document is printed",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_filled_in() {
        let document = serde_json::json!({"Digest": "sha256:x", "Labels": {"a": "b"}, "Env": ["A=1", "B=2"]});
        let check = |template: &str, expected: Option<&str>| {
            assert_eq!(render(template, &document).ok().as_deref(), expected, "{template}");
        };
        check("{{.Digest}}", Some("sha256:x\n"));
        check("{{ .Labels.a }} {{json .Labels}}", Some("b {\"a\":\"b\"}\n"));
        check("{{.Env}}", Some("[A=1 B=2]\n"));
        check("plain\\n", Some("plain\n"));
        check("{{range .Env}}x{{end}}", None);
        check("{{.Missing}}", None);
        check("{{.Digest", None);
    }
}
