//! Types of variables: `string`, `list(number)`, `object({…})`, and what values become under them.

use std::collections::BTreeMap;

use hcl_edit::expr::{Expression, ObjectKey};

use super::eval::article;
use super::value::Value;
use crate::dockerfile::{Fault, csv};

/// A type.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Type {
    Any,
    Bool,
    Number,
    String,
    List(Box<Type>),
    Set(Box<Type>),
    Map(Box<Type>),
    Tuple(Vec<Type>),
    /// Attributes with their types, and whether they may be left out.
    Object(BTreeMap<String, (Type, bool)>),
}

/// Reads a type.
///
/// # Errors
/// It is none.
pub(super) fn parse(expr: &Expression) -> Result<Type, Fault> {
    const NAMES: [&str; 9] = ["any", "bool", "list", "map", "number", "object", "set", "string", "tuple"];
    let unknown = |name: &str| Fault::unknown(format!("`{name}` is no type"), name, NAMES);
    match expr {
        Expression::Variable(name) => Ok(match name.as_str() {
            "any" => Type::Any,
            "bool" => Type::Bool,
            "number" => Type::Number,
            "string" => Type::String,
            name @ ("list" | "set" | "map" | "object" | "tuple") => {
                return Err(Fault::new(format!("the type `{name}` does not say of what"))
                    .hint(format!("such as {name}(string)")));
            }
            other => return Err(unknown(other)),
        }),
        Expression::FuncCall(call) => {
            let name = call.name.name.as_str();
            let arguments: Vec<&Expression> = call.args.iter().collect();
            let [argument] = arguments[..] else {
                return Err(Fault::new(format!("the type `{name}` takes one argument")));
            };
            match (name, argument) {
                ("list", of) => Ok(Type::List(Box::new(parse(of)?))),
                ("set", of) => Ok(Type::Set(Box::new(parse(of)?))),
                ("map", of) => Ok(Type::Map(Box::new(parse(of)?))),
                ("tuple", Expression::Array(list)) => list.iter().map(parse).collect::<Result<_, _>>().map(Type::Tuple),
                ("object", Expression::Object(object)) => {
                    let mut attributes = BTreeMap::new();
                    for (key, value) in object {
                        attributes.insert(key_name(key), attribute(value.expr())?);
                    }
                    Ok(Type::Object(attributes))
                }
                ("tuple" | "object", _) => {
                    let form = if name == "tuple" { "tuple([string, number])" } else { "object({name = string})" };
                    Err(Fault::new(format!("the type `{name}` has the wrong form")).hint(format!("such as {form}")))
                }
                _ => Err(unknown(name)),
            }
        }
        _ => Err(Fault::new("this is no type").hint("such as string, number, bool, list(string)")),
    }
}

fn key_name(key: &ObjectKey) -> String {
    match key {
        ObjectKey::Ident(name) => name.as_str().to_owned(),
        ObjectKey::Expression(Expression::Variable(name)) => name.as_str().to_owned(),
        ObjectKey::Expression(Expression::String(text)) => text.value().clone(),
        ObjectKey::Expression(_) => String::new(),
    }
}

/// The type of an object's attribute: `optional(string)` may be left out.
fn attribute(expr: &Expression) -> Result<(Type, bool), Fault> {
    if let Expression::FuncCall(call) = expr
        && call.name.name.as_str() == "optional"
        && let Some(of) = call.args.iter().next()
    {
        return parse(of).map(|of| (of, true));
    }
    parse(expr).map(|of| (of, false))
}

impl Type {
    /// The type's name, as the list of variables shows it.
    pub(super) fn name(&self) -> String {
        let of = |name: &str, of: &Type| format!("{name} of {}", of.name());
        match self {
            Self::Any => "any type".to_owned(),
            Self::Bool => "bool".to_owned(),
            Self::Number => "number".to_owned(),
            Self::String => "string".to_owned(),
            Self::List(inner) => of("list", inner),
            Self::Set(inner) => of("set", inner),
            Self::Map(inner) => of("map", inner),
            Self::Tuple(_) => "tuple".to_owned(),
            Self::Object(_) => "object".to_owned(),
        }
    }

    /// The value under this type.
    ///
    /// # Errors
    /// It cannot be.
    pub(super) fn convert(&self, value: &Value) -> Result<Value, Fault> {
        let wrong = || Fault::new(format!("this is {}, where a {} is wanted", article(value), self.name()));
        match (self, value) {
            (_, Value::Null) | (Self::Any, _) => Ok(value.clone()),
            (Self::Bool, _) => value.boolean().map(Value::Bool).ok_or_else(wrong),
            (Self::Number, _) => value.number().map(Value::Number).ok_or_else(wrong),
            (Self::String, _) => value.text().map(Value::String).ok_or_else(wrong),
            (Self::List(of), Value::List(list)) => {
                list.iter().map(|one| of.convert(one)).collect::<Result<_, _>>().map(Value::List)
            }
            (Self::Set(of), Value::List(list)) => {
                let list = list.iter().map(|one| of.convert(one)).collect::<Result<Vec<_>, _>>()?;
                Ok(Value::List(super::functions::as_set(list)))
            }
            (Self::Map(of), Value::Map(map)) => map
                .iter()
                .map(|(key, one)| Ok((key.clone(), of.convert(one)?)))
                .collect::<Result<_, Fault>>()
                .map(Value::Map),
            (Self::Tuple(types), Value::List(list)) if types.len() == list.len() => {
                types.iter().zip(list).map(|(of, one)| of.convert(one)).collect::<Result<_, _>>().map(Value::List)
            }
            (Self::Object(attributes), Value::Map(map)) => {
                let mut object = BTreeMap::new();
                for (name, (of, optional)) in attributes {
                    let one = match map.get(name) {
                        Some(one) => of.convert(one)?,
                        None if *optional => Value::Null,
                        None => return Err(Fault::new(format!("the object has no `{name}`, which its type asks for"))),
                    };
                    object.insert(name.clone(), one);
                }
                Ok(Value::Map(object))
            }
            _ => Err(wrong()),
        }
    }

    /// The value that an environment variable or `--var` gives: plain for simple types, between commas for lists.
    ///
    /// # Errors
    /// The text is no such value.
    pub(super) fn read(&self, text: &str) -> Result<Value, Fault> {
        let fields = || csv(text).map_err(|why| Fault::new(format!("`{text}` is not a list: {why}")));
        match self {
            Self::Any | Self::String => Ok(Value::from(text)),
            Self::Bool => match text {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
                other => Err(Fault::new(format!("`{other}` is neither true nor false"))),
            },
            Self::Number => match text.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(Value::Number(number)),
                _ => Err(Fault::new(format!("`{text}` is not a number"))),
            },
            Self::List(of) | Self::Set(of) => {
                let list = fields()?.iter().map(|field| of.simple(field)).collect::<Result<Vec<_>, _>>()?;
                Ok(Value::List(if matches!(self, Self::Set(_)) { super::functions::as_set(list) } else { list }))
            }
            Self::Tuple(types) => {
                let fields = fields()?;
                if fields.len() != types.len() {
                    return Err(Fault::new(format!(
                        "`{text}` has {} fields in place of {}",
                        fields.len(),
                        types.len()
                    )));
                }
                types.iter().zip(&fields).map(|(of, field)| of.simple(field)).collect::<Result<_, _>>().map(Value::List)
            }
            Self::Map(of) => {
                let pair = |field: &String| match field.split_once(':') {
                    Some((key, value)) => Ok((key.to_owned(), of.simple(value)?)),
                    None => Err(Fault::new(format!("`{field}` is not KEY:VALUE"))),
                };
                fields()?.iter().map(pair).collect::<Result<_, _>>().map(Value::Map)
            }
            Self::Object(_) => {
                Err(Fault::new("an object is given as JSON, in the variable of that name with _JSON behind it"))
            }
        }
    }

    /// A field of a list: no lists in lists.
    fn simple(&self, text: &str) -> Result<Value, Fault> {
        match self {
            Self::Any | Self::Bool | Self::Number | Self::String => self.read(text),
            _ => Err(Fault::new(format!("a {} cannot stand between commas", self.name()))
                .hint("give it as JSON, in the variable of that name with _JSON behind it")),
        }
    }
}
