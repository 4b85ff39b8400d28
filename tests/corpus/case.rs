//! One case of the corpus: a file that holds a Dockerfile, its context and what the build makes of them.
//!
//! ```text
//! # What it shows.
//! args: --build-arg A=1                       words for the command line
//! prepare: chmod 600 a                        lines for a shell in the context, which no file below can say
//! times: yes                                  the picture shows times; without it, the build has an epoch
//! unlike: buildkit it ignores such a flag     why that rival is not asked, or makes something else
//! rival: buildah                              another one that is asked
//! -- Dockerfile --
//! FROM localhost/base
//! COPY a /
//! -- a --
//! a file of the context
//! -- expected --
//! what `picture` shows of the result, or the exit code and the message
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{Actor, machine};

/// A case as it stands in its file.
pub(super) struct Case {
    path: PathBuf,
    /// The file's text up to the expectation.
    head: String,
    pub(super) name: String,
    pub(super) args: Vec<String>,
    pub(super) times: bool,
    pub(super) expected: String,
    prepare: Vec<String>,
    unlike: Vec<String>,
    rivals: Vec<String>,
    files: Vec<(String, String)>,
}

const EXPECTED: &str = "-- expected --\n";

impl Case {
    /// Every case, by name. `CASE=part-of-a-name` is for working on one.
    pub(super) fn all() -> Vec<Self> {
        let folder = machine::tree().join("tests/corpus/cases");
        let entries = fs::read_dir(&folder).expect("the cases").map(|entry| entry.expect("an entry").path());
        let wanted = std::env::var("CASE").unwrap_or_default();
        let mut cases: Vec<Self> = entries.map(Self::load).filter(|case| case.name.contains(&wanted)).collect();
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        cases
    }

    /// The case that makes the base images.
    pub(super) fn base() -> Self {
        Self::load(machine::tree().join("tests/corpus/base.case"))
    }

    fn load(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (head, expected) = text.split_once(EXPECTED).unwrap_or((&text, ""));
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let mut case = Self {
            path,
            head: head.to_owned(),
            name,
            args: Vec::new(),
            times: false,
            expected: expected.to_owned(),
            prepare: Vec::new(),
            unlike: Vec::new(),
            rivals: Vec::new(),
            files: Vec::new(),
        };
        for line in head.split_inclusive('\n') {
            let title = line.strip_prefix("-- ").and_then(|rest| rest.strip_suffix(" --\n"));
            if let Some(title) = title {
                case.files.push((title.to_owned(), String::new()));
            } else if let Some((_, content)) = case.files.last_mut() {
                content.push_str(line);
            } else {
                case.option(line.trim_end_matches('\n'));
            }
        }
        case
    }

    fn option(&mut self, line: &str) {
        if line.starts_with('#') {
            return;
        }
        let (key, value) = line.split_once(": ").unwrap_or((line, ""));
        match key {
            "args" => self.args = words(value),
            "prepare" => self.prepare.push(value.to_owned()),
            "times" => self.times = true,
            "unlike" => self.unlike.push(value.to_owned()),
            "rival" => self.rivals.push(value.to_owned()),
            _ => panic!("{}: no such option: {line}", self.path.display()),
        }
    }

    /// Whether this rival's result is to be the same.
    pub(super) fn asks(&self, rival: &str) -> bool {
        let unlike = self.unlike.iter().any(|reason| reason.split(' ').next() == Some(rival));
        self.rivals.iter().any(|name| name == rival) || rival == "buildkit" && !unlike
    }

    /// Whether the build is to fail.
    pub(super) fn fails(&self) -> bool {
        self.expected.starts_with("exit ")
    }

    /// Makes the context as this party.
    pub(super) fn context(&self, actor: &Actor) -> PathBuf {
        let folder = actor.mkdir(Path::new("contexts").join(&self.name));
        for (path, content) in &self.files {
            actor.write(&format!("contexts/{}/{path}", self.name), content);
        }
        if !self.prepare.is_empty() {
            actor.shell(&format!("umask 022\n{}", self.prepare.join("\n"))).dir(&folder).ok();
        }
        folder
    }

    /// Writes down what was made as what is expected.
    pub(super) fn bless(&self, made: &str) {
        fs::write(&self.path, format!("{}{EXPECTED}{made}", self.head)).expect("the case can be written");
    }
}

/// Words between spaces, where quotes keep spaces.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None, None);
    for letter in line.chars() {
        match (quote, letter) {
            (Some(open), _) if open == letter => quote = None,
            (None, '"' | '\'') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_with(String::new).push(letter),
        }
    }
    words.extend(word);
    words
}
