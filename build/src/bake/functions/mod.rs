//! The functions of bake files: those of buildx's standard library. Each takes values and gives one, and knows nothing
//! of where it was called; `try`, `can` and `convert` look at expressions and are the evaluator's own.

mod digests;
mod lists;
mod network;
mod numbers;
mod regex;
mod text;
mod time;

use super::eval::article;
use super::value::Value;
use crate::dockerfile::Fault;

pub(super) use lists::as_set;

type Answer = Result<Value, Fault>;
type Function = fn(&[Value]) -> Answer;

/// Every function with the fewest and most arguments it takes, sorted by name.
const FUNCTIONS: &[(&str, usize, usize, Function)] = &[
    ("absolute", 1, 1, numbers::absolute),
    ("add", 2, 2, numbers::add),
    ("and", 2, 2, numbers::and),
    ("base64decode", 1, 1, digests::base64decode),
    ("base64encode", 1, 1, digests::base64encode),
    ("basename", 1, 1, text::basename),
    ("byteslen", 1, 1, text::byteslen),
    ("bytesslice", 3, 3, text::bytesslice),
    ("ceil", 1, 1, numbers::ceil),
    ("chomp", 1, 1, text::chomp),
    ("chunklist", 2, 2, lists::chunklist),
    ("cidrhost", 2, 2, network::host),
    ("cidrnetmask", 1, 1, network::netmask),
    ("cidrsubnet", 3, 3, network::subnet),
    ("cidrsubnets", 2, MANY, network::subnets),
    ("coalesce", 1, MANY, lists::coalesce),
    ("coalescelist", 1, MANY, lists::coalescelist),
    ("compact", 1, 1, lists::compact),
    ("concat", 1, MANY, lists::concat),
    ("contains", 2, 2, lists::contains),
    ("csvdecode", 1, 1, text::csvdecode),
    ("dirname", 1, 1, text::dirname),
    ("distinct", 1, 1, lists::distinct),
    ("divide", 2, 2, numbers::divide),
    ("element", 2, 2, lists::element),
    ("equal", 2, 2, numbers::equal),
    ("flatten", 1, 1, lists::flatten),
    ("floor", 1, 1, numbers::floor),
    ("format", 1, MANY, text::format),
    ("formatdate", 2, 2, time::formatdate),
    ("formatlist", 1, MANY, text::formatlist),
    ("formattimestamp", 2, 2, time::formattimestamp),
    ("greaterthan", 2, 2, numbers::greaterthan),
    ("greaterthanorequalto", 2, 2, numbers::greaterthanorequalto),
    ("hasindex", 2, 2, lists::hasindex),
    ("homedir", 0, 0, text::homedir),
    ("indent", 2, 2, text::indent),
    ("index", 2, 2, lists::index),
    ("indexof", 2, 2, lists::indexof),
    ("int", 1, 1, numbers::int),
    ("join", 2, MANY, text::join),
    ("jsondecode", 1, 1, text::jsondecode),
    ("jsonencode", 1, 1, text::jsonencode),
    ("keys", 1, 1, lists::keys),
    ("length", 1, 1, lists::length),
    ("lessthan", 2, 2, numbers::lessthan),
    ("lessthanorequalto", 2, 2, numbers::lessthanorequalto),
    ("log", 2, 2, numbers::log),
    ("lookup", 3, 3, lists::lookup),
    ("lower", 1, 1, text::lower),
    ("max", 1, MANY, numbers::max),
    ("md5", 1, 1, digests::md5),
    ("merge", 1, MANY, lists::merge),
    ("min", 1, MANY, numbers::min),
    ("modulo", 2, 2, numbers::modulo),
    ("multiply", 2, 2, numbers::multiply),
    ("negate", 1, 1, numbers::negate),
    ("not", 1, 1, numbers::not),
    ("notequal", 2, 2, numbers::notequal),
    ("or", 2, 2, numbers::or),
    ("parseint", 2, 2, numbers::parseint),
    ("pow", 2, 2, numbers::pow),
    ("range", 1, 3, lists::range),
    ("regex", 2, 2, regex::regex),
    ("regex_replace", 3, 3, regex::replace),
    ("regexall", 2, 2, regex::all),
    ("replace", 3, 3, text::replace),
    ("reverse", 1, 1, text::reverse),
    ("reverselist", 1, 1, lists::reverselist),
    ("sanitize", 1, 1, text::sanitize),
    ("semvercmp", 2, 2, numbers::semvercmp),
    ("sethaselement", 2, 2, lists::contains),
    ("setintersection", 1, MANY, lists::setintersection),
    ("setproduct", 2, MANY, lists::setproduct),
    ("setsubtract", 2, 2, lists::setsubtract),
    ("setsymmetricdifference", 1, MANY, lists::setsymmetricdifference),
    ("setunion", 1, MANY, lists::setunion),
    ("sha1", 1, 1, digests::sha1),
    ("sha256", 1, 1, digests::sha256),
    ("sha512", 1, 1, digests::sha512),
    ("signum", 1, 1, numbers::signum),
    ("slice", 2, 3, lists::slice),
    ("sort", 1, 1, lists::sort),
    ("split", 2, 2, text::split),
    ("strlen", 1, 1, text::strlen),
    ("substr", 3, 3, text::substr),
    ("subtract", 2, 2, numbers::subtract),
    ("timeadd", 2, 2, time::timeadd),
    ("timestamp", 0, 0, time::timestamp),
    ("title", 1, 1, text::title),
    ("trim", 2, 2, text::trim),
    ("trimprefix", 2, 2, text::trimprefix),
    ("trimspace", 1, 1, text::trimspace),
    ("trimsuffix", 2, 2, text::trimsuffix),
    ("unixtimestampparse", 1, 1, time::unixtimestampparse),
    ("upper", 1, 1, text::upper),
    ("urlencode", 1, 1, digests::urlencode),
    ("uuidv4", 0, 0, digests::uuidv4),
    ("uuidv5", 2, 2, digests::uuidv5),
    ("values", 1, 1, lists::values),
    ("zipmap", 2, 2, lists::zipmap),
];

/// As many arguments as one likes.
const MANY: usize = usize::MAX;

/// Functions of buildx that are not built yet.
const NOT_YET: [&str; 2] = ["bcrypt", "rsadecrypt"];

/// Calls the function of that name; `None` where there is none.
pub(super) fn call(name: &str, arguments: &[Value]) -> Option<Answer> {
    if NOT_YET.contains(&name) {
        return Some(Err(Fault::new(format!("the function `{name}` is not built yet"))));
    }
    let at = FUNCTIONS.binary_search_by_key(&name, |(known, ..)| known).ok()?;
    let (_, fewest, most, function) = FUNCTIONS[at];
    let given = arguments.len();
    if given < fewest || given > most {
        let wanted = match (fewest, most) {
            (0, 0) => "none".to_owned(),
            (a, b) if a == b => a.to_string(),
            (a, MANY) => format!("{a} or more"),
            (a, b) => format!("{a} to {b}"),
        };
        return Some(Err(Fault::new(format!("`{name}` takes {wanted} arguments, not {given}"))));
    }
    Some(function(arguments).map_err(|fault| Fault { message: format!("`{name}`: {}", fault.message), ..fault }))
}

/// The names of all functions.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().map(|(name, ..)| *name).chain(["can", "convert", "try"])
}

/// An argument's place in words.
fn nth(at: usize) -> String {
    match at {
        0 => "the first argument".to_owned(),
        1 => "the second argument".to_owned(),
        2 => "the third argument".to_owned(),
        at => format!("argument {}", at + 1),
    }
}

fn wrong(arguments: &[Value], at: usize, wanted: &str) -> Fault {
    let found = arguments.get(at).map_or_else(|| "not there".to_owned(), article);
    Fault::new(format!("{} is {found}, not {wanted}", nth(at)))
}

fn text_of(arguments: &[Value], at: usize) -> Result<String, Fault> {
    arguments.get(at).and_then(Value::text).ok_or_else(|| wrong(arguments, at, "a string"))
}

fn number_of(arguments: &[Value], at: usize) -> Result<f64, Fault> {
    arguments.get(at).and_then(Value::number).ok_or_else(|| wrong(arguments, at, "a number"))
}

fn whole_of(arguments: &[Value], at: usize) -> Result<i64, Fault> {
    super::value::whole(number_of(arguments, at)?).ok_or_else(|| wrong(arguments, at, "a whole number"))
}

fn bool_of(arguments: &[Value], at: usize) -> Result<bool, Fault> {
    arguments.get(at).and_then(Value::boolean).ok_or_else(|| wrong(arguments, at, "true or false"))
}

fn list_of(arguments: &[Value], at: usize) -> Result<&[Value], Fault> {
    match arguments.get(at) {
        Some(Value::List(list)) => Ok(list),
        _ => Err(wrong(arguments, at, "a list")),
    }
}

fn map_of(arguments: &[Value], at: usize) -> Result<&std::collections::BTreeMap<String, Value>, Fault> {
    match arguments.get(at) {
        Some(Value::Map(map)) => Ok(map),
        _ => Err(wrong(arguments, at, "an object")),
    }
}

#[cfg(test)]
pub(super) mod tests;
