//! Lists, sets and objects.

use std::collections::BTreeMap;

use super::super::eval::{article, index as index_of};
use super::super::value::{Value, count, whole};
use super::{Answer, list_of, map_of, number_of, text_of, whole_of, wrong};
use crate::dockerfile::Fault;

/// A list without repetitions, sorted as sets are: numbers and texts by their order.
pub(in super::super) fn as_set(list: Vec<Value>) -> Vec<Value> {
    let mut set = once(list);
    set.sort_by(order);
    set
}

fn once(list: Vec<Value>) -> Vec<Value> {
    let mut kept: Vec<Value> = Vec::new();
    for value in list {
        if !kept.contains(&value) {
            kept.push(value);
        }
    }
    kept
}

fn order(a: &Value, b: &Value) -> std::cmp::Ordering {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.total_cmp(b),
        _ => a.text().cmp(&b.text()),
    }
}

pub(super) fn length(arguments: &[Value]) -> Answer {
    match &arguments[0] {
        Value::List(list) => Ok(count(list.len())),
        Value::Map(map) => Ok(count(map.len())),
        _ => Err(wrong(arguments, 0, "a list or an object")),
    }
}

pub(super) fn keys(arguments: &[Value]) -> Answer {
    Ok(Value::List(map_of(arguments, 0)?.keys().map(|key| Value::from(key.as_str())).collect()))
}

pub(super) fn values(arguments: &[Value]) -> Answer {
    Ok(Value::List(map_of(arguments, 0)?.values().cloned().collect()))
}

pub(super) fn lookup(arguments: &[Value]) -> Answer {
    let name = text_of(arguments, 1)?;
    Ok(map_of(arguments, 0)?.get(&name).unwrap_or(&arguments[2]).clone())
}

pub(super) fn merge(arguments: &[Value]) -> Answer {
    let mut merged = BTreeMap::new();
    for at in 0..arguments.len() {
        if arguments[at] != Value::Null {
            merged.extend(map_of(arguments, at)?.clone());
        }
    }
    Ok(Value::Map(merged))
}

pub(super) fn zipmap(arguments: &[Value]) -> Answer {
    let (keys, values) = (list_of(arguments, 0)?, list_of(arguments, 1)?);
    if keys.len() != values.len() {
        return Err(Fault::new(format!("there are {} keys for {} values", keys.len(), values.len())));
    }
    let key = |key: &Value| key.text().ok_or_else(|| Fault::new(format!("a key is {}, not a string", article(key))));
    keys.iter().zip(values).map(|(k, value)| Ok((key(k)?, value.clone()))).collect::<Result<_, _>>().map(Value::Map)
}

pub(super) fn concat(arguments: &[Value]) -> Answer {
    let lists = (0..arguments.len()).map(|at| list_of(arguments, at)).collect::<Result<Vec<_>, _>>()?;
    Ok(Value::List(lists.concat()))
}

pub(super) fn contains(arguments: &[Value]) -> Answer {
    let list = arguments[0].elements().ok_or_else(|| wrong(arguments, 0, "a list"))?;
    Ok(Value::Bool(list.contains(&arguments[1])))
}

pub(super) fn distinct(arguments: &[Value]) -> Answer {
    Ok(Value::List(once(list_of(arguments, 0)?.to_vec())))
}

pub(super) fn compact(arguments: &[Value]) -> Answer {
    let kept = list_of(arguments, 0)?.iter().filter(|value| !matches!(value, Value::Null));
    Ok(Value::List(kept.filter(|value| value.text().is_none_or(|text| !text.is_empty())).cloned().collect()))
}

pub(super) fn flatten(arguments: &[Value]) -> Answer {
    fn into(list: &[Value], flat: &mut Vec<Value>) {
        for value in list {
            match value {
                Value::List(inner) => into(inner, flat),
                other => flat.push(other.clone()),
            }
        }
    }
    let mut flat = Vec::new();
    into(list_of(arguments, 0)?, &mut flat);
    Ok(Value::List(flat))
}

pub(super) fn reverselist(arguments: &[Value]) -> Answer {
    Ok(Value::List(list_of(arguments, 0)?.iter().rev().cloned().collect()))
}

pub(super) fn sort(arguments: &[Value]) -> Answer {
    let text = |value: &Value| value.text().ok_or_else(|| Fault::new(format!("{} cannot be sorted", article(value))));
    let mut list = list_of(arguments, 0)?.iter().map(text).collect::<Result<Vec<_>, _>>()?;
    list.sort();
    Ok(Value::List(list.into_iter().map(Value::String).collect()))
}

pub(super) fn element(arguments: &[Value]) -> Answer {
    let (list, at) = (list_of(arguments, 0)?, whole_of(arguments, 1)?);
    if list.is_empty() {
        return Err(Fault::new("the list is empty"));
    }
    // Counting goes round, and back from the end below zero.
    let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
    let at = usize::try_from(at.rem_euclid(length)).unwrap_or(0);
    Ok(list[at].clone())
}

pub(super) fn index(arguments: &[Value]) -> Answer {
    index_of(&arguments[0], &arguments[1]).map_err(Fault::new)
}

pub(super) fn hasindex(arguments: &[Value]) -> Answer {
    Ok(Value::Bool(index_of(&arguments[0], &arguments[1]).is_ok()))
}

pub(super) fn indexof(arguments: &[Value]) -> Answer {
    let found = list_of(arguments, 0)?.iter().position(|value| *value == arguments[1]);
    found.map(count).ok_or_else(|| Fault::new("the list does not have it"))
}

pub(super) fn slice(arguments: &[Value]) -> Answer {
    let list = list_of(arguments, 0)?;
    let bound = |at: usize| -> Result<usize, Fault> {
        let wanted = whole_of(arguments, at)?;
        let wanted = usize::try_from(wanted).ok().filter(|wanted| *wanted <= list.len());
        wanted.ok_or_else(|| wrong(arguments, at, "a place in the list"))
    };
    let (from, to) = (bound(1)?, if arguments.len() > 2 { bound(2)? } else { list.len() });
    list.get(from..to).map(|part| Value::List(part.to_vec())).ok_or_else(|| Fault::new("it ends before it begins"))
}

pub(super) fn chunklist(arguments: &[Value]) -> Answer {
    let list = list_of(arguments, 0)?;
    let size = usize::try_from(whole_of(arguments, 1)?).map_err(|_| wrong(arguments, 1, "a size"))?;
    let size = if size == 0 { list.len().max(1) } else { size };
    Ok(Value::List(list.chunks(size).map(|chunk| Value::List(chunk.to_vec())).collect()))
}

pub(super) fn coalesce(arguments: &[Value]) -> Answer {
    let found = arguments.iter().find(|value| **value != Value::Null);
    found.cloned().ok_or_else(|| Fault::new("every argument is null"))
}

pub(super) fn coalescelist(arguments: &[Value]) -> Answer {
    for at in 0..arguments.len() {
        if arguments[at] != Value::Null && !list_of(arguments, at)?.is_empty() {
            return Ok(arguments[at].clone());
        }
    }
    Err(Fault::new("every list is empty"))
}

/// `range(limit)`, `range(start, limit)`, `range(start, limit, step)`.
pub(super) fn range(arguments: &[Value]) -> Answer {
    /// As many as HCL makes.
    const MOST: usize = 1024;
    let numbers = (0..arguments.len()).map(|at| number_of(arguments, at)).collect::<Result<Vec<_>, _>>()?;
    let (start, limit) = if numbers.len() == 1 { (0.0, numbers[0]) } else { (numbers[0], numbers[1]) };
    let step = numbers.get(2).copied().unwrap_or(if limit < start { -1.0 } else { 1.0 });
    if step == 0.0 || (limit - start) * step < 0.0 {
        return Err(Fault::new("the step does not lead to the limit"));
    }
    let (mut list, mut at) = (Vec::new(), start);
    while if step > 0.0 { at < limit } else { at > limit } {
        if list.len() == MOST {
            return Err(Fault::new(format!("there are more than {MOST} numbers")));
        }
        list.push(Value::Number(at));
        at += step;
    }
    Ok(Value::List(list))
}

fn sets(arguments: &[Value]) -> Result<Vec<&[Value]>, Fault> {
    (0..arguments.len()).map(|at| list_of(arguments, at)).collect()
}

pub(super) fn setunion(arguments: &[Value]) -> Answer {
    Ok(Value::List(as_set(sets(arguments)?.concat())))
}

pub(super) fn setintersection(arguments: &[Value]) -> Answer {
    let sets = sets(arguments)?;
    let all = sets[0].iter().filter(|value| sets.iter().all(|set| set.contains(value)));
    Ok(Value::List(as_set(all.cloned().collect())))
}

pub(super) fn setsubtract(arguments: &[Value]) -> Answer {
    let (from, gone) = (list_of(arguments, 0)?, list_of(arguments, 1)?);
    Ok(Value::List(as_set(from.iter().filter(|value| !gone.contains(value)).cloned().collect())))
}

pub(super) fn setsymmetricdifference(arguments: &[Value]) -> Answer {
    let sets = sets(arguments)?;
    let mut kept: Vec<Value> = Vec::new();
    for set in &sets {
        let set = once(set.to_vec());
        let (both, fresh): (Vec<Value>, Vec<Value>) = set.into_iter().partition(|value| kept.contains(value));
        kept.retain(|value| !both.contains(value));
        kept.extend(fresh);
    }
    Ok(Value::List(as_set(kept)))
}

pub(super) fn setproduct(arguments: &[Value]) -> Answer {
    let mut rows: Vec<Vec<Value>> = vec![Vec::new()];
    for set in sets(arguments)? {
        let longer = |row: &Vec<Value>, value: &Value| row.iter().chain([value]).cloned().collect();
        rows = rows.iter().flat_map(|row| set.iter().map(move |value| longer(row, value))).collect();
    }
    Ok(Value::List(rows.into_iter().map(Value::List).collect()))
}

/// A place from 0, which may count back from the end.
pub(super) fn place(number: f64) -> Option<i64> {
    whole(number)
}
