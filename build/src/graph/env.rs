//! Variables: names and values in order of first appearance.

/// An environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables(Vec<(String, String)>);

impl Variables {
    /// The environment of `NAME=value` strings, as image configurations hold it.
    pub fn parse(list: &[String]) -> Self {
        let mut variables = Self::default();
        for text in list {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            variables.set(name, value);
        }
        variables
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Sets `name`; one that is there keeps its place.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some(slot) => value.clone_into(&mut slot.1),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }

    /// All pairs.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// All pairs as `NAME=value`.
    pub fn strings(&self) -> Vec<String> {
        self.0.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }
}

/// The arguments that are there without an `ARG`, and never part of a key or a history.
pub(crate) fn is_proxy(name: &str) -> bool {
    const NAMES: [&str; 5] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];
    NAMES.iter().any(|known| known.eq_ignore_ascii_case(name))
}
