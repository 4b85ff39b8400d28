//! What `FROM` and the names of stages are judged by.

use std::collections::BTreeMap;

use layerfs::oci::Platform;
use layerfs::reference::Reference;

use super::super::ast::{Command, Dockerfile, Stage};
use super::super::error::nearest;
use super::super::expand::Lexer;
use super::Findings;

/// What the build defines without being asked, with values of the kind it would give.
const PREDEFINED: [(&str, &str); 11] = [
    ("BUILDPLATFORM", "linux/amd64"),
    ("BUILDOS", "linux"),
    ("BUILDOSVERSION", ""),
    ("BUILDARCH", "amd64"),
    ("BUILDVARIANT", ""),
    ("TARGETPLATFORM", "linux/amd64"),
    ("TARGETOS", "linux"),
    ("TARGETOSVERSION", ""),
    ("TARGETARCH", "amd64"),
    ("TARGETVARIANT", ""),
    ("TARGETSTAGE", "default"),
];

pub(super) fn check(file: &Dockerfile, findings: &mut Findings<'_>) {
    let arguments = Arguments::of(file);
    let mut names: Vec<&str> = Vec::new();
    for stage in &file.stages {
        findings.enter(&stage.comments);
        name(stage, &names, findings);
        names.extend(stage.name.as_deref());
        image(stage, &arguments, findings);
        platform(stage, &arguments, findings);
    }
}

fn name(stage: &Stage, before: &[&str], findings: &mut Findings<'_>) {
    let (Some(name), Some((keyword, written))) = (&stage.name, &stage.from.alias) else { return };
    if written.text != *name {
        let message = format!("Stage name '{}' should be lowercase", written.text);
        findings.add("StageNameCasing", written.span, message);
    }
    let from = &stage.from.keyword.text;
    let lower = from.to_lowercase() == *from;
    // A keyword that is neither in capitals nor without any is ConsistentInstructionCasing's business.
    let plain = lower || from.to_uppercase() == *from;
    let expected = if lower { keyword.text.to_lowercase() } else { keyword.text.to_uppercase() };
    if plain && keyword.text != expected {
        let message = format!("'{}' and '{from}' keywords' casing do not match", keyword.text);
        findings.add("FromAsCasing", keyword.span, message);
    }
    if matches!(name.as_str(), "context" | "scratch") {
        let message = format!("Stage name should not use the same name as reserved stage \"{name}\"");
        findings.add("ReservedStageName", written.span, message);
    }
    if before.contains(&name.as_str()) {
        let message = format!("Duplicate stage name \"{name}\", stage names should be unique");
        findings.add("DuplicateStageName", written.span, message);
    }
    super::stage::description("FROM", &[name], &stage.comments, stage.span, findings);
}

fn image(stage: &Stage, arguments: &Arguments, findings: &mut Findings<'_>) {
    let word = &stage.from.image;
    let Ok(expanded) = arguments.lexer.word_with_names(&word.text, &|name| arguments.value(name)) else { return };
    arguments.report_undeclared(&expanded.unset, word.span, findings);
    let named = expanded.text.parse::<Reference>().is_ok();
    if !named && (!expanded.used.is_empty() || !expanded.unset.is_empty()) {
        let message = format!("Default value for ARG {} results in empty or invalid base image name", word.text);
        findings.add("InvalidDefaultArgInFrom", word.span, message);
    }
}

fn platform(stage: &Stage, arguments: &Arguments, findings: &mut Findings<'_>) {
    let Some(word) = &stage.from.platform else { return };
    let Ok(expanded) = arguments.lexer.word_with_names(&word.text, &|name| arguments.value(name)) else { return };
    arguments.report_undeclared(&expanded.unset, word.span, findings);
    if !expanded.unset.is_empty() {
        return;
    }
    let target = "TARGETPLATFORM";
    if expanded.used.len() == 1 && expanded.used.contains(target) {
        if Some(expanded.text) == arguments.value(target) {
            let message = format!(
                "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
                word.text
            );
            findings.add("RedundantTargetPlatform", word.span, message);
        }
    } else if expanded.used.is_empty()
        && let Ok(platform) = expanded.text.parse::<Platform>()
    {
        // A stage that says in its name what it is for may well be bound to a platform.
        let name = stage.name.as_deref().unwrap_or_default();
        if !name.contains(&platform.os) && !name.contains(&platform.architecture) {
            let message = format!("FROM --platform flag should not use constant value \"{}\"", expanded.text);
            findings.add("FromPlatformFlagConstDisallowed", word.span, message);
        }
    }
}

/// The global arguments, as they are when the command line sets none.
struct Arguments {
    lexer: Lexer,
    values: BTreeMap<String, Option<String>>,
}

impl Arguments {
    fn of(file: &Dockerfile) -> Self {
        let predefined = PREDEFINED.iter().map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned())));
        let mut arguments = Self { lexer: Lexer::new(file.directives.escape), values: predefined.collect() };
        for instruction in &file.global_args {
            let Command::Arg(definitions) = &instruction.command else { continue };
            for definition in definitions {
                let expand = |text: &str| arguments.lexer.word(text, &|name| arguments.value(name)).ok();
                let Some(name) = expand(&definition.name.text) else { continue };
                let default = definition.default.as_ref().and_then(|word| expand(&word.text));
                let value = default.or_else(|| arguments.value(&name));
                arguments.values.insert(name, value);
            }
        }
        arguments
    }

    fn value(&self, name: &str) -> Option<String> {
        self.values.get(name).cloned().flatten()
    }

    fn report_undeclared<'n>(
        &self,
        unset: impl IntoIterator<Item = &'n String>,
        span: super::Span,
        findings: &mut Findings<'_>,
    ) {
        for name in unset.into_iter().filter(|name| !self.values.contains_key(*name)) {
            let near = nearest(name, self.values.keys().map(String::as_str));
            let near = near.map_or(String::new(), |near| format!(" (did you mean {near}?)"));
            let message = format!("FROM argument '{name}' is not declared{near}");
            findings.add("UndefinedArgInFrom", span, message);
        }
    }
}
