//! The definitions of all HCL and JSON files together: variables and functions that are evaluated when they are first
//! asked for, and the targets and groups that they are for.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use hcl_edit::expr::Expression;
use layerfs::error::{Error, Kind, Result};

use super::eval::{Scope, World};
use super::syntax::{Attribute, Block, File};
use super::target::{Group, Target};
use super::types::{self, Type};
use super::value::Value;
use super::{decode, functions};
use crate::dockerfile::Fault;

/// How deep functions may call each other.
const DEEPEST: usize = 64;

/// Where variables get other values than their own: `--var`, then the environment.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A variable as `--list` shows it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) kind: String,
    pub(super) value: Option<String>,
}

/// The definitions.
pub(super) struct Module<'a> {
    variables: BTreeMap<&'a str, &'a Block>,
    functions: BTreeMap<&'a str, &'a Block>,
    attributes: BTreeMap<&'a str, &'a Attribute>,
    /// Targets and groups, in order.
    blocks: Vec<&'a Block>,
    builtins: &'a BTreeMap<String, String>,
    lookup: Lookup<'a>,
    values: RefCell<BTreeMap<String, Value>>,
    /// What is being evaluated.
    busy: RefCell<BTreeSet<String>>,
    depth: Cell<usize>,
    instances: RefCell<Vec<Instance<'a>>>,
}

/// A target or group with the values of its matrix.
#[derive(Clone)]
struct Instance<'a> {
    block: &'a Block,
    name: String,
    locals: Vec<(String, Value)>,
}

impl<'a> Module<'a> {
    /// All definitions of `files`: of two variables or functions of one name the later counts.
    pub(super) fn new(files: &'a [File], builtins: &'a BTreeMap<String, String>, lookup: Lookup<'a>) -> Self {
        let mut module = Self {
            variables: BTreeMap::new(),
            functions: BTreeMap::new(),
            attributes: BTreeMap::new(),
            blocks: Vec::new(),
            builtins,
            lookup,
            values: RefCell::default(),
            busy: RefCell::default(),
            depth: Cell::new(0),
            instances: RefCell::default(),
        };
        for file in files {
            module.attributes.extend(file.attributes.iter().map(|attribute| (attribute.name.as_str(), attribute)));
            for block in &file.blocks {
                match block.kind.as_str() {
                    "variable" => drop(module.variables.insert(&block.label, block)),
                    "function" => drop(module.functions.insert(&block.label, block)),
                    _ => module.blocks.push(block),
                }
            }
        }
        module
    }

    /// Every variable with its value, checked.
    ///
    /// # Errors
    /// A value is wrong, or fails its validation.
    pub(super) fn variables(&self) -> Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for (name, block) in &self.variables {
            if self.builtins.contains_key(*name) {
                continue;
            }
            let value = self.variable(name)?.unwrap_or(Value::Null);
            let of = self.constraint(block)?;
            let text = match &value {
                Value::Null => None,
                simple => Some(simple.text().unwrap_or_else(|| simple.to_json())),
            };
            let description = match block.attribute("description") {
                Some(attribute) => Scope::of(self, attribute).text(&attribute.value)?,
                None => String::new(),
            };
            let kind = of.map(|of| of.name()).unwrap_or_default();
            listed.push(Listed { name: (*name).to_owned(), description, kind, value: text });
        }
        for block in self.variables.values() {
            block.blocks.iter().try_for_each(|rule| self.validate(block, rule))?;
        }
        Ok(listed)
    }

    fn validate(&self, variable: &Block, rule: &Block) -> Result<()> {
        let Some(condition) = rule.attribute("condition") else {
            return Err(rule.place.error("the validation has no condition"));
        };
        let scope = Scope::of(self, condition);
        let met = scope.eval(&condition.value)?;
        let place = scope.place(&condition.value);
        match met.boolean() {
            Some(true) => Ok(()),
            None => Err(place.error("the condition is neither true nor false")),
            Some(false) => {
                let message = match rule.attribute("error_message") {
                    Some(message) => Scope::of(self, message).text(&message.value)?,
                    None => "its condition is not met".to_owned(),
                };
                Err(place.error(format!("the variable `{}` is not valid: {message}", variable.label)))
            }
        }
    }

    /// The type that a variable names.
    fn constraint(&self, block: &Block) -> Result<Option<Type>> {
        let Some(attribute) = block.attribute("type") else { return Ok(None) };
        if matches!(attribute.value, Expression::Null(_)) {
            return Ok(None);
        }
        let place = Scope::of(self, attribute).place(&attribute.value);
        types::parse(&attribute.value).map(Some).map_err(|fault| place.fault(fault))
    }

    /// A variable's value: that of the environment before its own.
    fn evaluate(&self, name: &str) -> Result<Option<Value>> {
        if let Some(attribute) = self.attributes.get(name) {
            return Scope::of(self, attribute).eval(&attribute.value).map(Some);
        }
        let Some(block) = self.variables.get(name) else { return Ok(None) };
        let of = self.constraint(block)?;
        let given = self.given(name, of.is_some());
        let own = match block.attribute("default") {
            Some(attribute) => {
                let scope = Scope::of(self, attribute);
                let value = scope.eval(&attribute.value)?;
                let converted = of.as_ref().map_or(Ok(value.clone()), |of| of.convert(&value));
                Some(converted.map_err(|fault| scope.place(&attribute.value).fault(fault))?)
            }
            None => None,
        };
        let Some((text, json)) = given else {
            let nothing = if of.is_some() { Value::Null } else { Value::from("") };
            return Ok(Some(own.unwrap_or(nothing)));
        };
        let told = |fault: Fault| {
            let whence = format!("the value of `{name}` from outside: {}", fault.message);
            block.place.fault(Fault { message: whence, ..fault })
        };
        let value = match (of, own) {
            (Some(of), _) if json => {
                let value = serde_json::from_str(&text).map_err(|error| told(Fault::new(error.to_string())))?;
                of.convert(&Value::from_json(&value)).map_err(told)?
            }
            (Some(of), _) => of.read(&text).map_err(told)?,
            // Without a type the value that is there shows it.
            (None, Some(Value::Bool(_))) => Type::Bool.read(&text).map_err(told)?,
            (None, Some(Value::Number(_))) => Type::Number.read(&text).map_err(told)?,
            (None, Some(own @ (Value::List(_) | Value::Map(_)))) => {
                let message = format!("{} has no form as a text", super::eval::article(&own));
                return Err(told(Fault::new(message).hint("give the variable a type, such as list(string)")));
            }
            (None, _) => Value::String(text),
        };
        Ok(Some(value))
    }

    /// What is given for a variable from outside, and whether it is JSON.
    fn given(&self, name: &str, prefers_json: bool) -> Option<(String, bool)> {
        let plain = (self.lookup)(name);
        if plain.is_none() || prefers_json {
            let json = format!("{name}_JSON");
            if !self.variables.contains_key(json.as_str())
                && let Some(text) = (self.lookup)(&json)
            {
                return Some((text, true));
            }
        }
        plain.map(|text| (text, false))
    }

    /// Marks something as being evaluated.
    fn enter(&self, what: String) -> Result<Busy<'_>> {
        if self.depth.get() >= DEEPEST {
            return Err(Error::new(Kind::Limit, format!("{what} goes more than {DEEPEST} calls deep")));
        }
        self.depth.set(self.depth.get() + 1);
        Ok(Busy { depth: &self.depth })
    }

    /// Every target and group, with their matrices spread out: a matrix becomes a group of its targets.
    ///
    /// # Errors
    /// An attribute is wrong.
    pub(super) fn blocks(&self) -> Result<(Vec<Group>, Vec<Target>)> {
        let (mut groups, mut targets): (Vec<Group>, Vec<Target>) = (Vec::new(), Vec::new());
        let mut spread: Vec<Group> = Vec::new();
        for block in &self.blocks {
            let instances = self.instances(block)?;
            let names: Vec<String> = instances.iter().map(|one| one.name.clone()).collect();
            if names != [block.label.clone()] {
                spread.push(Group { name: block.label.clone(), description: String::new(), targets: names });
            }
            self.instances.borrow_mut().extend(instances);
        }
        let instances = self.instances.borrow().clone();
        for instance in &instances {
            if instance.block.kind == "group" {
                let group = self.group(instance)?;
                match groups.iter_mut().find(|known| known.name == group.name) {
                    Some(known) => *known = group,
                    None => groups.push(group),
                }
                continue;
            }
            let target = self.target(instance)?;
            match targets.iter_mut().find(|known| known.name == target.name) {
                Some(known) => known.merge(&target),
                None => targets.push(target),
            }
        }
        groups.extend(spread);
        Ok((groups, targets))
    }

    fn instances(&self, block: &'a Block) -> Result<Vec<Instance<'a>>> {
        let plain = || Instance { block, name: block.label.clone(), locals: Vec::new() };
        decode::name(&block.label).map_err(|fault| block.place.fault(fault))?;
        let (matrix, name) = (block.attribute("matrix"), block.attribute("name"));
        let Some(matrix) = matrix else {
            return match name {
                Some(name) => Err(name.place.error("a name of its own is for a target with a matrix")),
                None => Ok(vec![plain()]),
            };
        };
        let scope = Scope::of(self, matrix);
        let place = scope.place(&matrix.value);
        let Value::Map(axes) = scope.eval(&matrix.value)? else {
            return Err(place.error("a matrix is an object of lists"));
        };
        let mut rows: Vec<Vec<(String, Value)>> = vec![Vec::new()];
        for (axis, values) in &axes {
            let values =
                values.elements().ok_or_else(|| place.error(format!("`{axis}` of the matrix is not a list")))?;
            let longer = |row: &Vec<(String, Value)>, value: &Value| {
                row.iter().cloned().chain([(axis.clone(), value.clone())]).collect::<Vec<_>>()
            };
            rows = values.iter().flat_map(|value| rows.iter().map(move |row| longer(row, value))).collect();
        }
        let mut instances: Vec<Instance<'a>> = Vec::new();
        for locals in rows {
            let name = match name {
                Some(name) => {
                    let scope = Scope::of(self, name).with(locals.clone());
                    let text = scope.text(&name.value)?;
                    decode::name(&text).map_err(|fault| scope.place(&name.value).fault(fault))?;
                    text
                }
                None => block.label.clone(),
            };
            if instances.iter().any(|known| known.name == name) {
                return Err(place.fault(
                    Fault::new(format!("the matrix makes two targets `{name}`"))
                        .hint("give the target a name of every axis, such as name = \"app-${os}-${arch}\""),
                ));
            }
            instances.push(Instance { block, name, locals });
        }
        Ok(instances)
    }

    fn group(&self, instance: &Instance<'_>) -> Result<Group> {
        let mut group = Group { name: instance.name.clone(), ..Group::default() };
        for attribute in &instance.block.attributes {
            let scope = Scope::of(self, attribute);
            let value = scope.eval(&attribute.value)?;
            let fault = |fault: Fault| scope.place(&attribute.value).fault(fault);
            match attribute.name.as_str() {
                "targets" => group.targets = decode::texts(&value).map_err(fault)?,
                _ => group.description = decode::text(&value).map_err(fault)?,
            }
        }
        Ok(group)
    }

    fn target(&self, instance: &Instance<'_>) -> Result<Target> {
        let mut target = Target { name: instance.name.clone(), ..Target::default() };
        for attribute in &instance.block.attributes {
            if matches!(attribute.name.as_str(), "matrix" | "name") {
                continue;
            }
            let scope = Scope::of(self, attribute).with(instance.locals.clone());
            let value = scope.eval(&attribute.value)?;
            decode::set(&mut target, &attribute.name, &value)
                .map_err(|fault| scope.place(&attribute.value).fault(fault))?;
        }
        Ok(target)
    }

    /// Calls a function of the files.
    fn user_function(&self, block: &Block, arguments: Vec<Value>) -> Result<Result<Value, Fault>> {
        let name = &block.label;
        let words = |attribute: &str| -> Result<Vec<String>> {
            let Some(attribute) = block.attribute(attribute) else { return Ok(Vec::new()) };
            let list: Vec<&Expression> = match &attribute.value {
                Expression::Array(list) => list.iter().collect(),
                single => vec![single],
            };
            let word = |expr: &&Expression| match expr {
                Expression::Variable(name) => Ok(name.as_str().to_owned()),
                _ => Err(attribute.place.error("a parameter is a name")),
            };
            list.iter().map(word).collect()
        };
        let Some(result) = block.attribute("result") else {
            return Err(block.place.error(format!("the function `{name}` has no result")));
        };
        if block.attribute("params").is_none() {
            return Err(block.place.error(format!("the function `{name}` has no params")));
        }
        let (params, variadic) = (words("params")?, words("variadic_params")?.into_iter().next());
        let given = arguments.len();
        if given < params.len() || (given > params.len() && variadic.is_none()) {
            return Ok(Err(Fault::new(format!("`{name}` takes {} arguments, not {given}", params.len()))));
        }
        let mut arguments = arguments.into_iter();
        let mut locals: Vec<(String, Value)> = params.into_iter().zip(arguments.by_ref()).collect();
        locals.extend(variadic.map(|name| (name, Value::List(arguments.collect()))));
        let _busy = self.enter(format!("the function `{name}`"))?;
        Scope::of(self, result).with(locals).eval(&result.value).map(Ok)
    }
}

struct Busy<'a> {
    depth: &'a Cell<usize>,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.depth.set(self.depth.get().saturating_sub(1));
    }
}

impl World for Module<'_> {
    fn variable(&self, name: &str) -> Result<Option<Value>> {
        if let Some(text) = self.builtins.get(name) {
            return Ok(Some(Value::from(text.as_str())));
        }
        if let Some(value) = self.values.borrow().get(name) {
            return Ok(Some(value.clone()));
        }
        if !self.busy.borrow_mut().insert(name.to_owned()) {
            return Err(Error::new(Kind::Invalid, format!("the variable `{name}` is made of itself")));
        }
        let value = self.evaluate(name);
        self.busy.borrow_mut().remove(name);
        if let Ok(Some(value)) = &value {
            self.values.borrow_mut().insert(name.to_owned(), value.clone());
        }
        value
    }

    fn block(&self, kind: &str, name: &str, attribute: Option<&str>) -> Result<Option<Value>> {
        if !matches!(kind, "target" | "group") {
            return Ok(None);
        }
        let _busy = self.enter(format!("`{kind}.{name}`"))?;
        let spread = self.instances.borrow().clone();
        let mut found: Vec<Instance<'_>> =
            spread.into_iter().filter(|one| one.block.kind == kind && one.name == name).collect();
        if found.is_empty() {
            let named = self.blocks.iter().filter(|block| block.kind == kind && block.label == name);
            found = named.map(|block| Instance { block, name: name.to_owned(), locals: Vec::new() }).collect();
        }
        if found.is_empty() {
            return Err(Error::new(Kind::NotFound, format!("there is no {kind} `{name}`")));
        }
        let mut map = BTreeMap::new();
        for instance in &found {
            for one in &instance.block.attributes {
                if attribute.is_none_or(|wanted| wanted == one.name) {
                    let scope = Scope::of(self, one).with(instance.locals.clone());
                    map.insert(one.name.clone(), scope.eval(&one.value)?);
                }
            }
        }
        Ok(Some(match attribute {
            Some(name) => map.remove(name).unwrap_or(Value::Null),
            None => Value::Map(map),
        }))
    }

    fn call(&self, name: &str, arguments: Vec<Value>) -> Result<Result<Value, Fault>> {
        if let Some(answer) = functions::call(name, &arguments) {
            return Ok(answer);
        }
        match self.functions.get(name) {
            Some(block) => self.user_function(block, arguments),
            None => {
                let mut known: Vec<&str> = functions::names().collect();
                known.extend(self.functions.keys().copied());
                Ok(Err(Fault::unknown(format!("there is no function `{name}`"), name, known)))
            }
        }
    }

    fn names(&self) -> Vec<String> {
        let own = self.variables.keys().chain(self.attributes.keys()).map(|name| (*name).to_owned());
        own.chain(self.builtins.keys().cloned()).collect()
    }
}
