//! `--format`: JSON, or the part of Go's templates that scripts use on a list or a record: text and `{{.Field.Of.It}}`,
//! `{{json .Field}}`, with `\t` and `\n` in the text. Anything else in braces is an error that names it.

use layerfs::error::{Error, Kind, Result};
use serde_json::Value;

/// A template, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// A path of fields, and whether it is written as JSON.
    Field(Vec<String>, bool),
}

impl Template {
    /// Takes a template apart.
    ///
    /// # Errors
    /// It holds something that is not supported.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parts = Vec::new();
        let mut rest = text.strip_prefix("table ").unwrap_or(text);
        while let Some((before, after)) = rest.split_once("{{") {
            let invalid = |what: &str| {
                Error::new(Kind::Usage, format!("format `{{{{{what}}}}}` is not supported"))
                    .hint("`{{.Field}}`, `{{json .Field}}` and `json` are")
            };
            let (inside, behind) = after.split_once("}}").ok_or_else(|| invalid(after))?;
            let words: Vec<&str> = inside.split_ascii_whitespace().collect();
            let (path, json) = match words[..] {
                [path] => (path, false),
                ["json", path] => (path, true),
                _ => return Err(invalid(inside)),
            };
            let path = path.strip_prefix('.').ok_or_else(|| invalid(inside))?;
            let plain = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            let fields: Vec<String> = path.split('.').filter(|name| !name.is_empty()).map(str::to_owned).collect();
            if !fields.iter().all(|name| plain(name)) {
                return Err(invalid(inside));
            }
            parts.push(Part::Text(unescape(before)));
            parts.push(Part::Field(fields, json));
            rest = behind;
        }
        parts.push(Part::Text(unescape(rest)));
        Ok(Self(parts))
    }

    /// Fills it in.
    ///
    /// # Errors
    /// A field does not exist.
    pub fn fill(&self, value: &Value) -> Result<String> {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Field(path, json) => {
                    let missing = || Error::new(Kind::Usage, format!("there is no field `.{}`", path.join(".")));
                    let found = path.iter().try_fold(value, |value, name| value.get(name)).ok_or_else(missing)?;
                    match found {
                        Value::String(text) if !json => out.push_str(text),
                        Value::Array(list) if !json => {
                            let words: Vec<String> = list.iter().map(word).collect();
                            out.push_str(&format!("[{}]", words.join(" ")));
                        }
                        other => out.push_str(&other.to_string()),
                    }
                }
            }
        }
        Ok(out)
    }
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

/// Columns as wide as their widest cell, two blanks between.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(template: &str, expected: Option<&str>) {
        let value = serde_json::json!({"Id": "abc", "State": {"Pid": 7, "Running": true}, "Names": ["a", "b"]});
        let filled = Template::parse(template).and_then(|template| template.fill(&value)).ok();
        assert_eq!(filled.as_deref(), expected, "{template}");
    }

    #[test]
    fn templates_fill_in_fields() {
        check("{{.Id}}", Some("abc"));
        check("{{ .State.Pid }}\\t{{.State.Running}}!", Some("7\ttrue!"));
        check("{{.Names}} {{json .Names}}", Some("[a b] [\"a\",\"b\"]"));
        check("table {{.Id}}", Some("abc"));
        check("{{json .}}", Some(r#"{"Id":"abc","State":{"Pid":7,"Running":true},"Names":["a","b"]}"#));
        for wrong in ["{{.Nope}}", "{{range .Names}}", "{{.Id", "{{len .Names}}", "{{Id}}", "{{.Id | upper}}"] {
            check(wrong, None);
        }
    }

    #[test]
    fn tables_are_aligned() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        assert_eq!(table(&[row(["ID", "NAME"]), row(["abcdef", "x"])]), "ID      NAME\nabcdef  x\n");
    }
}
