//! Lints: what builds, but not as its author thinks.
//!
//! The rules, their names and their words are BuildKit's. Here are those that the Dockerfile and its ignore file
//! decide alone; `UndefinedVar` and `InvalidBaseImagePlatform` need the base images, and are raised by who has them.
//!
//! ```
//! use build::dockerfile::{lint, parse};
//! let file = parse(b"FROM debian AS base\nMAINTAINER me\n", "Dockerfile").unwrap();
//! let found = lint::check(&file, &lint::options(&file), None);
//! assert_eq!((found[0].rule, lint::rule(found[0].rule).unwrap().experimental), ("MaintainerDeprecated", false));
//! ```

mod from;
mod rules;
mod stage;

use super::ast::{Check, Dockerfile, Warning};
use super::directives;
use super::error::Fault;
use super::source::Span;
use crate::ignore::Ignore;

pub use rules::{RULES, Rule, rule};

/// What the file's `check` directive asks for.
pub fn options(file: &Dockerfile) -> Check {
    file.directives.check.clone().unwrap_or_default()
}

/// Options in the directive's form, as `BUILDKIT_DOCKERFILE_CHECK` gives them in its place.
pub fn parse_options(text: &str) -> Result<Check, Fault> {
    directives::check(text)
}

/// All findings in the order of the file, the parser's warnings included. `ignore` is the context's ignore file.
pub fn check(file: &Dockerfile, options: &Check, ignore: Option<&Ignore>) -> Vec<Warning> {
    let mut findings = Findings { options, local: Check::default(), found: Vec::new() };
    for warning in &file.warnings {
        findings.add(warning.rule, warning.span, warning.message.clone());
    }
    from::check(file, &mut findings);
    stage::check(file, ignore, &mut findings);
    let mut found = findings.found;
    found.sort_by(|a, b| (a.span.start, &a.message).cmp(&(b.span.start, &b.message)));
    found
}

/// Of findings made elsewhere those of rules that are to be run; each comes with the comments above its instruction.
pub fn select(options: &Check, findings: &[(Warning, Vec<String>)]) -> Vec<Warning> {
    let mut selected = Findings { options, local: Check::default(), found: Vec::new() };
    for (warning, comments) in findings {
        selected.enter(comments);
        selected.add(warning.rule, warning.span, warning.message.clone());
    }
    selected.found
}

/// Gathers findings of the rules that are to be run.
struct Findings<'a> {
    options: &'a Check,
    /// What the comments above the instruction at hand ask for: it holds for that instruction.
    local: Check,
    found: Vec<Warning>,
}

impl Findings<'_> {
    /// Begins an instruction with the comments above it: one of them may be `check=…`.
    fn enter(&mut self, comments: &[String]) {
        let directive = comments.iter().find_map(|comment| directives::in_comment(comment));
        self.local = directive.and_then(|text| directives::check(text).ok()).unwrap_or_default();
    }

    fn add(&mut self, name: &'static str, span: Span, message: impl Into<String>) {
        let both = [self.options, &self.local];
        let runs = match rule(name).is_some_and(|rule| rule.experimental) {
            true => both.iter().any(|options| options.experimental.contains(name)),
            false => !both.iter().any(|options| options.skip.contains(name)),
        };
        if runs {
            self.found.push(Warning { rule: name, message: message.into(), span });
        }
    }
}
