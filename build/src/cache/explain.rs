//! `--explain`: why a step was not found. Pure.
//!
//! What a key is made of is written down beside its result. The record that is most like the new key tells by which
//! inputs they differ.

use super::Inputs;

/// An input that two keys do not share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Its name among the inputs.
    pub(crate) name: String,
    /// What it was; `None` for what is new.
    pub(crate) before: Option<String>,
    /// What it is; `None` for what is gone.
    pub(crate) now: Option<String>,
}

/// The inputs by which two keys differ, in the order of the newer one.
pub(crate) fn differences(before: &Inputs, now: &Inputs) -> Vec<Difference> {
    let mut found: Vec<Difference> = Vec::new();
    let mut old: Vec<&(String, String)> = before.iter().collect();
    let mut new: Vec<&(String, String)> = Vec::new();
    for input in now {
        match old.iter().position(|known| *known == input) {
            Some(at) => drop(old.remove(at)),
            None => new.push(input),
        }
    }
    for (name, value) in new {
        // A variable is paired with itself, any other input with the first of its name.
        let same = |known: &&(String, String)| known.0 == *name && subject(&known.1) == subject(value);
        let at = old.iter().position(same);
        let at = at.or_else(|| match name.as_str() {
            "env" => None,
            _ => old.iter().position(|known| known.0 == *name),
        });
        let before = at.map(|at| old.remove(at).1.clone());
        found.push(Difference { name: name.clone(), before, now: Some(value.clone()) });
    }
    let gone =
        |(name, value): &(String, String)| Difference { name: name.clone(), before: Some(value.clone()), now: None };
    found.extend(old.into_iter().map(gone));
    found
}

/// What a value is about: the name of a variable, the kind and place of a mount.
fn subject(value: &str) -> &str {
    let end = value.find(['=', ' ']).unwrap_or(value.len());
    &value[..end]
}

impl Difference {
    /// One sentence, lowercase.
    pub(crate) fn tell(&self) -> String {
        let what = match self.name.as_str() {
            "below" => return "the layers below it changed".to_owned(),
            "files" => return "the files changed".to_owned(),
            "kind" => return "an older version of this program made it".to_owned(),
            "env" => "the variable",
            "argument" => "the command",
            "content" | "script" => return "the script changed".to_owned(),
            "cwd" => "the working directory",
            "user" => "the user",
            "epoch" => "SOURCE_DATE_EPOCH",
            "mode" => "--chmod",
            "fetched" => "what was fetched",
            "folder" | "found" => "the destination's folder",
            name => name,
        };
        match (&self.before, &self.now) {
            (Some(before), Some(now)) => format!("{what} is `{now}`, was `{before}`"),
            (None, Some(now)) => format!("{what} `{now}` is new"),
            (Some(before), None) => format!("{what} `{before}` is gone"),
            (None, None) => what.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::KeyBuilder;

    #[test]
    fn the_inputs_that_differ_are_named() {
        let key = |env: &[&str], below: &str, args: &[&str]| {
            let key = KeyBuilder::new("run/1").with_all("argument", args).with_all("env", env);
            key.with("below", below).finish_with_inputs().1
        };
        let tell = |before: &Inputs, now: &Inputs| {
            differences(before, now).iter().map(Difference::tell).collect::<Vec<_>>().join("; ")
        };
        let base = key(&["A=1", "B=2"], "x", &["/bin/sh", "-c", "make"]);
        assert_eq!(tell(&base, &base), "");
        assert_eq!(
            tell(&base, &key(&["A=1", "B=3", "C=4"], "x", &["/bin/sh", "-c", "make"])),
            "the variable is `B=3`, was `B=2`; the variable `C=4` is new"
        );
        assert_eq!(
            tell(&base, &key(&["B=2"], "y", &["/bin/sh", "-c", "make all"])),
            "the command is `make all`, was `make`; the layers below it changed; the variable `A=1` is gone"
        );
    }
}
