//! Evaluates HCL expressions.

use std::collections::BTreeMap;

use hcl_edit::Span as _;
use hcl_edit::expr::{
    BinaryOperator, Conditional, Expression, ForExpr, FuncCall, ObjectKey, Traversal, TraversalOperator, UnaryOperator,
};
use hcl_edit::template::{Directive, Element, Strip, Template};
use layerfs::error::{Error, Result};

use super::syntax::{Attribute, Place};
use super::value::{Value, count, whole};
use crate::dockerfile::Fault;
use crate::dockerfile::source::{Source, Span};

/// The names that expressions may use besides those bound around them.
pub(super) trait World {
    /// A variable's value; `None` where there is none of that name.
    fn variable(&self, name: &str) -> Result<Option<Value>>;
    /// An attribute of a target or group, or all of them; `None` where `kind` is no such thing.
    fn block(&self, kind: &str, name: &str, attribute: Option<&str>) -> Result<Option<Value>>;
    /// Calls a function; the inner error is about its arguments.
    fn call(&self, name: &str, arguments: Vec<Value>) -> Result<Result<Value, Fault>>;
    /// All names there are, for hints.
    fn names(&self) -> Vec<String>;
}

/// Where an expression is evaluated.
#[derive(Clone)]
pub(super) struct Scope<'a> {
    pub(super) world: &'a dyn World,
    source: Source,
    /// Errors are told about this part, in place of the expression's own.
    whole: Option<Span>,
    locals: BTreeMap<String, Value>,
}

impl<'a> Scope<'a> {
    /// For an attribute's expression.
    pub(super) fn of(world: &'a dyn World, attribute: &Attribute) -> Self {
        Self {
            world,
            source: attribute.place.source.clone(),
            whole: attribute.whole.then_some(attribute.place.span),
            locals: BTreeMap::new(),
        }
    }

    /// With more names.
    pub(super) fn with(mut self, names: impl IntoIterator<Item = (String, Value)>) -> Self {
        self.locals.extend(names);
        self
    }

    /// The part of the file that an expression is.
    pub(super) fn place(&self, expr: &Expression) -> Place {
        let span = self.whole.or_else(|| expr.span().map(Span::from)).unwrap_or_default();
        Place { source: self.source.clone(), span }
    }

    fn error(&self, expr: &Expression, message: impl Into<String>) -> Error {
        self.place(expr).error(message)
    }

    /// The expression's value.
    ///
    /// # Errors
    /// A name is not known, or a part has a type that does not fit; told with its place.
    pub(super) fn eval(&self, expr: &Expression) -> Result<Value> {
        match expr {
            Expression::Null(_) => Ok(Value::Null),
            Expression::Bool(value) => Ok(Value::Bool(*value.value())),
            Expression::Number(number) => Ok(Value::Number(number.value().as_f64().unwrap_or(f64::INFINITY))),
            Expression::String(text) => Ok(Value::String(text.value().clone())),
            Expression::Array(list) => list.iter().map(|expr| self.eval(expr)).collect::<Result<_>>().map(Value::List),
            Expression::Object(object) => {
                let mut map = BTreeMap::new();
                for (key, value) in object {
                    let name = match key {
                        ObjectKey::Ident(name) => name.as_str().to_owned(),
                        // A bare name is itself as a key; in brackets it is a variable.
                        ObjectKey::Expression(Expression::Variable(name)) => name.as_str().to_owned(),
                        ObjectKey::Expression(key) => self.text(key)?,
                    };
                    map.insert(name, self.eval(value.expr())?);
                }
                Ok(Value::Map(map))
            }
            Expression::StringTemplate(template) => {
                let elements: Vec<&Element> = template.iter().collect();
                self.template(expr, &elements)
            }
            Expression::HeredocTemplate(heredoc) => {
                let mut heredoc = heredoc.clone();
                // `<<-` alone takes the common indentation away; what was parsed knows it by its mark.
                if heredoc.indent().is_some() {
                    heredoc.dedent();
                }
                self.elements(expr, &heredoc.template).map(Value::String)
            }
            Expression::Parenthesis(inner) => self.eval(inner.inner()),
            Expression::Variable(name) => self.variable(expr, name.as_str()),
            Expression::Conditional(conditional) => self.conditional(conditional),
            Expression::FuncCall(call) => self.call(expr, call),
            Expression::Traversal(traversal) => self.traversal(traversal),
            Expression::UnaryOp(unary) => {
                let value = self.eval(&unary.expr)?;
                match unary.operator.value() {
                    UnaryOperator::Neg => self.as_number(&unary.expr, &value).map(|number| Value::Number(-number)),
                    UnaryOperator::Not => self.as_bool(&unary.expr, &value).map(|value| Value::Bool(!value)),
                }
            }
            Expression::BinaryOp(binary) => {
                self.binary(&binary.lhs_expr, *binary.operator.value(), &binary.rhs_expr, expr)
            }
            Expression::ForExpr(each) => self.for_expr(each),
        }
    }

    /// The expression's value as text.
    pub(super) fn text(&self, expr: &Expression) -> Result<String> {
        let value = self.eval(expr)?;
        value.text().ok_or_else(|| self.error(expr, format!("this is {}, where text is wanted", article(&value))))
    }

    fn as_number(&self, expr: &Expression, value: &Value) -> Result<f64> {
        value.number().ok_or_else(|| self.error(expr, format!("this is {}, not a number", article(value))))
    }

    fn as_bool(&self, expr: &Expression, value: &Value) -> Result<bool> {
        value.boolean().ok_or_else(|| self.error(expr, format!("this is {}, not true or false", article(value))))
    }

    fn variable(&self, expr: &Expression, name: &str) -> Result<Value> {
        if let Some(value) = self.locals.get(name) {
            return Ok(value.clone());
        }
        match self.world.variable(name)? {
            Some(value) => Ok(value),
            None => {
                let mut names = self.world.names();
                names.extend(self.locals.keys().cloned());
                let message = format!("there is no variable `{name}`");
                let fault = Fault::unknown(message, name, names.iter().map(String::as_str));
                Err(self.place(expr).fault(fault))
            }
        }
    }

    fn conditional(&self, conditional: &Conditional) -> Result<Value> {
        let condition = self.eval(&conditional.cond_expr)?;
        match self.as_bool(&conditional.cond_expr, &condition)? {
            true => self.eval(&conditional.true_expr),
            false => self.eval(&conditional.false_expr),
        }
    }

    fn call(&self, expr: &Expression, call: &FuncCall) -> Result<Value> {
        let name = call.name.name.as_str();
        // These look at whether an expression has a value at all.
        if name == "try" {
            let mut last = None;
            for argument in call.args.iter() {
                match self.eval(argument) {
                    Ok(value) => return Ok(value),
                    Err(error) => last = Some(error),
                }
            }
            return Err(last.unwrap_or_else(|| self.error(expr, "`try` has no argument")));
        }
        if let ("can", Some(argument)) = (name, call.args.iter().next()) {
            return Ok(Value::Bool(self.eval(argument).is_ok()));
        }
        if name == "convert" {
            let arguments: Vec<&Expression> = call.args.iter().collect();
            let [value, kind] = arguments[..] else {
                return Err(self.error(expr, "`convert` takes a value and a type"));
            };
            let kind = super::types::parse(kind).map_err(|fault| self.place(kind).fault(fault))?;
            let converted = kind.convert(&self.eval(value)?);
            return converted.map_err(|fault| self.place(value).fault(fault));
        }
        let mut arguments = call.args.iter().map(|argument| self.eval(argument)).collect::<Result<Vec<_>>>()?;
        if call.args.expand_final()
            && let Some(last) = arguments.pop()
        {
            let Value::List(list) = last else {
                return Err(self.error(expr, format!("what stands before `...` is {}, not a list", article(&last))));
            };
            arguments.extend(list);
        }
        self.world.call(name, arguments)?.map_err(|fault| self.place(expr).fault(fault))
    }

    fn traversal(&self, traversal: &Traversal) -> Result<Value> {
        let mut operators: Vec<&TraversalOperator> = traversal.operators.iter().map(|one| one.value()).collect();
        let mut value = None;
        if let Expression::Variable(root) = &traversal.expr
            && !self.locals.contains_key(root.as_str())
            && let Some(name) = operators.first().and_then(|operator| self.key(operator))
        {
            let attribute = operators.get(1).and_then(|operator| self.key(operator));
            if let Some(found) = self.world.block(root.as_str(), &name, attribute.as_deref())? {
                value = Some(found);
                operators.drain(..if attribute.is_some() { 2 } else { 1 });
            }
        }
        let value = match value {
            Some(value) => value,
            None => self.eval(&traversal.expr)?,
        };
        self.walk(&traversal.expr, value, &operators)
    }

    /// The name that a step of a traversal goes to.
    fn key(&self, operator: &TraversalOperator) -> Option<String> {
        match operator {
            TraversalOperator::GetAttr(name) => Some(name.as_str().to_owned()),
            TraversalOperator::Index(expr) => self.eval(expr).ok()?.text(),
            _ => None,
        }
    }

    fn walk(&self, expr: &Expression, value: Value, operators: &[&TraversalOperator]) -> Result<Value> {
        let Some((first, rest)) = operators.split_first() else { return Ok(value) };
        let key = match first {
            TraversalOperator::AttrSplat(_) | TraversalOperator::FullSplat(_) => {
                let list = match value {
                    Value::List(list) => list,
                    Value::Null => Vec::new(),
                    other => vec![other],
                };
                return list.into_iter().map(|one| self.walk(expr, one, rest)).collect::<Result<_>>().map(Value::List);
            }
            TraversalOperator::GetAttr(name) => Value::from(name.as_str()),
            TraversalOperator::Index(index) => self.eval(index)?,
            TraversalOperator::LegacyIndex(index) => Value::Number(*index.value() as f64),
        };
        let next = index(&value, &key).map_err(|message| self.error(expr, message))?;
        self.walk(expr, next, rest)
    }

    fn binary(
        &self,
        left: &Expression,
        operator: BinaryOperator,
        right: &Expression,
        all: &Expression,
    ) -> Result<Value> {
        let a = self.eval(left)?;
        // The second half of what is decided already is not looked at.
        match operator {
            BinaryOperator::And if !self.as_bool(left, &a)? => return Ok(Value::Bool(false)),
            BinaryOperator::Or if self.as_bool(left, &a)? => return Ok(Value::Bool(true)),
            _ => {}
        }
        let b = self.eval(right)?;
        let numbers = || Ok::<_, Error>((self.as_number(left, &a)?, self.as_number(right, &b)?));
        Ok(match operator {
            BinaryOperator::Eq => Value::Bool(a == b),
            BinaryOperator::NotEq => Value::Bool(a != b),
            BinaryOperator::And | BinaryOperator::Or => Value::Bool(self.as_bool(right, &b)?),
            BinaryOperator::Less => numbers().map(|(a, b)| Value::Bool(a < b))?,
            BinaryOperator::LessEq => numbers().map(|(a, b)| Value::Bool(a <= b))?,
            BinaryOperator::Greater => numbers().map(|(a, b)| Value::Bool(a > b))?,
            BinaryOperator::GreaterEq => numbers().map(|(a, b)| Value::Bool(a >= b))?,
            BinaryOperator::Plus => numbers().map(|(a, b)| Value::Number(a + b))?,
            BinaryOperator::Minus => numbers().map(|(a, b)| Value::Number(a - b))?,
            BinaryOperator::Mul => numbers().map(|(a, b)| Value::Number(a * b))?,
            BinaryOperator::Div | BinaryOperator::Mod => {
                let (a, b) = numbers()?;
                if b == 0.0 {
                    return Err(self.error(all, "this divides by zero"));
                }
                Value::Number(if operator == BinaryOperator::Div { a / b } else { a % b })
            }
        })
    }

    fn for_expr(&self, each: &ForExpr) -> Result<Value> {
        let collection = self.eval(&each.intro.collection_expr)?;
        let pairs = pairs(collection).map_err(|message| self.error(&each.intro.collection_expr, message))?;
        let (mut list, mut map) = (Vec::new(), BTreeMap::<String, Value>::new());
        for (key, value) in pairs {
            let mut names = vec![(each.intro.value_var.as_str().to_owned(), value)];
            names.extend(each.intro.key_var.iter().map(|name| (name.as_str().to_owned(), key.clone())));
            let inner = self.clone().with(names);
            if let Some(condition) = &each.cond {
                let wanted = inner.eval(&condition.expr)?;
                if !inner.as_bool(&condition.expr, &wanted)? {
                    continue;
                }
            }
            let value = inner.eval(&each.value_expr)?;
            let Some(key_expr) = &each.key_expr else {
                list.push(value);
                continue;
            };
            let key = inner.text(key_expr)?;
            if each.grouping {
                match map.entry(key).or_insert_with(|| Value::List(Vec::new())) {
                    Value::List(group) => group.push(value),
                    other => *other = value,
                }
            } else if map.insert(key.clone(), value).is_some() {
                return Err(self.error(key_expr, format!("the key `{key}` comes twice; `...` behind the value groups")));
            }
        }
        Ok(if each.key_expr.is_some() { Value::Map(map) } else { Value::List(list) })
    }

    /// A template of one interpolation alone is that value; any other is text.
    fn template(&self, expr: &Expression, elements: &[&Element]) -> Result<Value> {
        if let [Element::Interpolation(only)] = elements {
            return self.eval(&only.expr);
        }
        self.parts(expr, elements).map(Value::String)
    }

    fn elements(&self, expr: &Expression, template: &Template) -> Result<String> {
        let elements: Vec<&Element> = template.iter().collect();
        self.parts(expr, &elements)
    }

    fn parts(&self, expr: &Expression, elements: &[&Element]) -> Result<String> {
        let mut text = String::new();
        // `~` eats the white space beside it: what stands before when it comes, what follows when that comes.
        let mut eat = false;
        for element in elements {
            let (strip, value) = match element {
                Element::Literal(literal) => {
                    text.push_str(if eat { literal.value().trim_start() } else { literal.value() });
                    eat = false;
                    continue;
                }
                Element::Interpolation(part) => {
                    let value = self.eval(&part.expr)?;
                    let words = value.text().ok_or_else(|| {
                        self.error(&part.expr, format!("this is {} and cannot stand in a text", article(&value)))
                    })?;
                    (edges(part.strip, part.strip), words)
                }
                Element::Directive(directive) => self.directive(expr, directive)?,
            };
            if strip.0 {
                text.truncate(text.trim_end().len());
            }
            text.push_str(&value);
            eat = strip.1;
        }
        Ok(text)
    }

    /// The text of a directive, and whether it eats the white space before and behind it.
    fn directive(&self, expr: &Expression, directive: &Directive) -> Result<((bool, bool), String)> {
        match directive {
            Directive::If(part) => {
                let condition = self.eval(&part.if_expr.cond_expr)?;
                let taken = self.as_bool(&part.if_expr.cond_expr, &condition)?;
                let strip = edges(part.if_expr.strip, part.endif_expr.strip);
                let otherwise = part.else_expr.as_ref();
                let after = otherwise.map_or(part.endif_expr.strip, |other| other.strip);
                let text = match (taken, otherwise) {
                    (true, _) => {
                        let text = self.elements(expr, &part.if_expr.template)?;
                        within(&text, part.if_expr.strip, after)
                    }
                    (false, Some(other)) => {
                        let text = self.elements(expr, &other.template)?;
                        within(&text, other.strip, part.endif_expr.strip)
                    }
                    (false, None) => String::new(),
                };
                Ok((strip, text))
            }
            Directive::For(part) => {
                let each = &part.for_expr;
                let collection = self.eval(&each.collection_expr)?;
                let pairs = pairs(collection).map_err(|message| self.error(&each.collection_expr, message))?;
                let mut text = String::new();
                for (key, value) in pairs {
                    let mut names = vec![(each.value_var.as_str().to_owned(), value)];
                    names.extend(each.key_var.iter().map(|name| (name.as_str().to_owned(), key.clone())));
                    let round = self.clone().with(names).elements(expr, &each.template)?;
                    text.push_str(&within(&round, each.strip, part.endfor_expr.strip));
                }
                Ok((edges(each.strip, part.endfor_expr.strip), text))
            }
        }
    }
}

/// Whether the outer edges of something between two marks eat white space.
fn edges(first: Strip, last: Strip) -> (bool, bool) {
    (matches!(first, Strip::Start | Strip::Both), matches!(last, Strip::End | Strip::Both))
}

/// A text between two marks without the white space that they eat.
fn within(text: &str, first: Strip, last: Strip) -> String {
    let text = if matches!(first, Strip::End | Strip::Both) { text.trim_start() } else { text };
    let text = if matches!(last, Strip::Start | Strip::Both) { text.trim_end() } else { text };
    text.to_owned()
}

/// The keys and values that a loop goes over.
fn pairs(value: Value) -> Result<Vec<(Value, Value)>, String> {
    match value {
        Value::List(list) => Ok(list.into_iter().enumerate().map(|(at, value)| (count(at), value)).collect()),
        Value::Map(map) => Ok(map.into_iter().map(|(key, value)| (Value::String(key), value)).collect()),
        other => Err(format!("this is {}, not a list or an object to go over", article(&other))),
    }
}

/// The element of a list or object.
pub(super) fn index(value: &Value, key: &Value) -> Result<Value, String> {
    match value {
        Value::List(list) => {
            let at = key.number().and_then(whole);
            let at = at.ok_or_else(|| format!("a list has no `{}`", key.text().unwrap_or_default()))?;
            let found = usize::try_from(at).ok().and_then(|at| list.get(at));
            found.cloned().ok_or_else(|| format!("the list has {} elements, and none at {at}", list.len()))
        }
        Value::Map(map) => {
            let name = key.text().unwrap_or_default();
            map.get(&name).cloned().ok_or_else(|| {
                let names = map.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
                format!("the object has no `{name}`; it has {}", if names.is_empty() { "nothing" } else { &names })
            })
        }
        other => Err(format!("this is {}, which has no elements", article(other))),
    }
}

/// A value's kind with its article.
pub(super) fn article(value: &Value) -> String {
    match value.kind() {
        "null" => "null".to_owned(),
        "object" => "an object".to_owned(),
        kind => format!("a {kind}"),
    }
}
