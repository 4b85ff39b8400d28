//! Values of bake files: what expressions yield.

use std::collections::BTreeMap;
use std::fmt::Write;

/// A value. Numbers are floating point, as JSON's are; objects keep their keys sorted, as HCL does.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Number(f64),
    String(String),
    List(Vec<Value>),
    Map(BTreeMap<String, Value>),
}

impl Value {
    /// What messages call its kind.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Number(_) => "number",
            Self::String(_) => "string",
            Self::List(_) => "list",
            Self::Map(_) => "object",
        }
    }

    /// As text, where it has one: strings, numbers and booleans.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Self::String(text) => Some(text.clone()),
            Self::Number(number) => Some(number_text(*number)),
            Self::Bool(value) => Some(value.to_string()),
            _ => None,
        }
    }

    /// As a number; strings are read as one.
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::String(text) => text.trim().parse().ok().filter(|number: &f64| number.is_finite()),
            _ => None,
        }
    }

    /// As a boolean; the strings `true` and `false`, `1` and `0` are read as one.
    pub(super) fn boolean(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            Self::String(text) => match text.as_str() {
                "true" | "1" => Some(true),
                "false" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    /// Its elements: those of a list, or the values of an object in the order of their keys.
    pub(super) fn elements(&self) -> Option<Vec<Value>> {
        match self {
            Self::List(list) => Some(list.clone()),
            Self::Map(map) => Some(map.values().cloned().collect()),
            _ => None,
        }
    }

    /// The value of a JSON document.
    pub(super) fn from_json(json: &serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(value) => Self::Bool(*value),
            serde_json::Value::Number(number) => Self::Number(number.as_f64().unwrap_or(0.0)),
            serde_json::Value::String(text) => Self::String(text.clone()),
            serde_json::Value::Array(list) => Self::List(list.iter().map(Self::from_json).collect()),
            serde_json::Value::Object(map) => {
                Self::Map(map.iter().map(|(key, value)| (key.clone(), Self::from_json(value))).collect())
            }
        }
    }

    /// As a JSON document without spaces.
    pub(super) fn to_json(&self) -> String {
        let mut out = String::new();
        self.write_json(&mut out);
        out
    }

    fn write_json(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(value) => {
                let _ = write!(out, "{value}");
            }
            Self::Number(number) => out.push_str(&number_text(*number)),
            Self::String(text) => out.push_str(&serde_json::Value::from(text.as_str()).to_string()),
            Self::List(list) => {
                out.push('[');
                for (at, value) in list.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    value.write_json(out);
                }
                out.push(']');
            }
            Self::Map(map) => {
                out.push('{');
                for (at, (key, value)) in map.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    out.push_str(&serde_json::Value::from(key.as_str()).to_string());
                    out.push(':');
                    value.write_json(out);
                }
                out.push('}');
            }
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

/// A number as HCL writes it: whole ones without a point.
pub(super) fn number_text(number: f64) -> String {
    format!("{number}")
}

/// The length of something, as a value.
pub(super) fn count(length: usize) -> Value {
    // Nothing that fits into memory has more elements than a float counts exactly.
    Value::Number(length as f64)
}

/// A whole number that can count or index.
pub(super) fn whole(number: f64) -> Option<i64> {
    /// The last whole number below which a float misses none.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i64)
}
