//! Bake files that are JSON: strings are templates, and places are found by walking the text again.

use hcl_edit::expr::{Array, Expression, Object, ObjectKey};
use hcl_edit::parser;
use hcl_edit::template::StringTemplate;
use layerfs::error::Result;
use serde_json::Value;

use super::syntax::{Attribute, Block, File, Place, check};
use crate::dockerfile::ParseError;
use crate::dockerfile::source::{Source, Span};

/// Reads JSON.
///
/// # Errors
/// The text is no JSON, or not an object of blocks.
pub(super) fn parse(text: &str, name: &str) -> Result<File> {
    let source = Source::new(name, text.as_bytes());
    let root: Value = serde_json::from_str(text).map_err(|error| {
        let line: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
        let at = (line + error.column().saturating_sub(1)).min(text.len());
        let words = error.to_string();
        let words = words.split(" at line ").next().unwrap_or_default().to_owned();
        ParseError::new(&source, Span { start: at, end: at + 1 }, words)
    })?;
    let reader = Reader { source, text };
    let Value::Object(root) = root else {
        return Err(reader.place(&[]).error("a bake file is an object: {\"target\": {…}}"));
    };
    let mut file = File { blocks: Vec::new(), attributes: Vec::new() };
    for (key, value) in &root {
        match key.as_str() {
            "target" | "group" | "variable" | "function" => {
                let Value::Object(named) = value else {
                    return Err(reader.place(&[key]).error(format!("`{key}` is not an object of named {key}s")));
                };
                for (label, body) in named {
                    file.blocks.push(reader.block(key, label, body)?);
                }
            }
            _ => file.attributes.push(reader.attribute(key, value, &[key])?),
        }
    }
    Ok(file)
}

struct Reader<'a> {
    source: Source,
    text: &'a str,
}

impl Reader<'_> {
    fn place(&self, path: &[&str]) -> Place {
        Place { source: self.source.clone(), span: locate(self.text, path) }
    }

    fn block(&self, kind: &str, label: &str, body: &Value) -> Result<Block> {
        let place = self.place(&[kind, label]);
        let Value::Object(body) = body else {
            return Err(place.error(format!("{kind} `{label}` is not an object of attributes")));
        };
        let mut block = Block {
            kind: kind.to_owned(),
            label: label.to_owned(),
            attributes: Vec::new(),
            blocks: Vec::new(),
            place: place.clone(),
        };
        for (name, value) in body {
            if kind == "variable" && name == "validation" {
                let one = std::slice::from_ref(value);
                for rule in value.as_array().map_or(one, Vec::as_slice) {
                    block.blocks.push(self.block("validation", "", rule).map_err(|_| {
                        self.place(&[kind, label, name]).error("a validation is an object of attributes")
                    })?);
                }
                continue;
            }
            block.attributes.push(self.attribute(name, value, &[kind, label, name])?);
        }
        check(Some(kind), &block.attributes)?;
        Ok(block)
    }

    fn attribute(&self, name: &str, value: &Value, path: &[&str]) -> Result<Attribute> {
        let place = self.place(path);
        // These are names and types, or an expression without `${}`.
        let bare = matches!(name, "params" | "variadic_params" | "type") && path.first() != Some(&name);
        let value = if bare { bare_words(value) } else { expression(value) };
        let value = value.map_err(|message| place.error(message))?;
        Ok(Attribute { name: name.to_owned(), value, place, whole: true })
    }
}

/// An expression of a JSON value: strings are templates.
fn expression(value: &Value) -> Result<Expression, String> {
    Ok(match value {
        Value::Null => Expression::null(),
        Value::Bool(value) => Expression::from(*value),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => Expression::from(whole),
            None => parser::parse_expr(&number.to_string()).map_err(|error| error.message().to_owned())?,
        },
        Value::String(text) if !text.contains("${") && !text.contains("%{") => Expression::from(text.as_str()),
        Value::String(text) => {
            let template = parser::parse_template(text).map_err(|error| error.message().replace('\n', "; "))?;
            Expression::from(StringTemplate::from_iter(template))
        }
        Value::Array(list) => {
            let list = list.iter().map(expression).collect::<Result<Vec<_>, _>>()?;
            Expression::Array(list.into_iter().collect::<Array>())
        }
        Value::Object(map) => {
            let mut object = Object::new();
            for (key, value) in map {
                let key = expression(&Value::String(key.clone()))?;
                object.insert(ObjectKey::Expression(key), expression(value)?);
            }
            Expression::Object(object)
        }
    })
}

/// An expression in a string, as names of parameters and types are given.
fn bare_words(value: &Value) -> Result<Expression, String> {
    Ok(match value {
        Value::String(text) => parser::parse_expr(text).map_err(|error| error.message().replace('\n', "; "))?,
        Value::Array(list) => {
            let list = list.iter().map(bare_words).collect::<Result<Vec<_>, _>>()?;
            Expression::Array(list.into_iter().collect::<Array>())
        }
        other => expression(other)?,
    })
}

/// Where the key at the end of `path` stands in a JSON text that is known to be one.
fn locate(text: &str, path: &[&str]) -> Span {
    let mut found = Span { start: 0, end: text.len().min(1) };
    let bytes = text.as_bytes();
    let (mut at, mut depth, mut matched) = (0, 0_usize, 0_usize);
    let mut key_next = false;
    while at < bytes.len() && matched < path.len() {
        match bytes[at] {
            b'{' => {
                depth += 1;
                key_next = true;
            }
            b'[' => {
                depth += 1;
                key_next = false;
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' => key_next = true,
            b':' => key_next = false,
            b'"' => {
                let mut end = at + 1;
                while end < bytes.len() && bytes[end] != b'"' {
                    end += if bytes[end] == b'\\' { 2 } else { 1 };
                }
                let end = (end + 1).min(bytes.len());
                let word: Option<String> = serde_json::from_str(&text[at..end]).ok();
                if key_next && depth == matched + 1 && word.as_deref() == Some(path[matched]) {
                    found = Span { start: at, end };
                    matched += 1;
                }
                key_next = false;
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_in_the_text() {
        let text = r#"{"a": {"tags": ["tags"]}, "target": {"x": {"y": "tags"}, "app": {"tags": [1]}}}"#;
        let found = locate(text, &["target", "app", "tags"]);
        assert_eq!(&text[found.start..], r#""tags": [1]}}}"#);
        assert_eq!(locate(text, &[]), Span { start: 0, end: 1 });
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, expected) in [
            ("{\n  \"target\": [}\n", "x.json:2:14: expected value"),
            ("[]", "x.json:1:1: a bake file is an object: {\"target\": {…}}"),
            (r#"{"target": {"app": {"tag": []}}}"#, "x.json:1:21: a target has no attribute `tag`"),
            (r#"{"target": {"app": {"tags": ["${"]}}}"#, "x.json:1:21: "),
        ] {
            let error = parse(text, "x.json").expect_err(text).to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
