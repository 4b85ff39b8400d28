//! What the instructions of stages are judged by.

use std::collections::BTreeMap;

use super::super::ast::{Command, CommandLine, CopySource, Dockerfile, Instruction, Pair, Word};
use super::super::path::clean;
use super::super::source::Span;
use super::Findings;
use crate::ignore::Ignore;

/// What a stage hands down to those built on it.
#[derive(Clone, Copy, Default)]
struct State {
    /// It has a `SHELL`: the author knows that a shell is in between.
    shell: bool,
    /// It has a `WORKDIR`.
    workdir: bool,
}

pub(super) fn check(file: &Dockerfile, ignore: Option<&Ignore>, findings: &mut Findings<'_>) {
    casing(file, findings);
    for instruction in &file.global_args {
        findings.enter(&instruction.comments);
        arguments(instruction, findings);
    }
    let mut states: BTreeMap<&str, State> = BTreeMap::new();
    for stage in &file.stages {
        let mut state = states.get(stage.from.image.text.to_lowercase().as_str()).copied().unwrap_or_default();
        let mut last: BTreeMap<&str, &Instruction> = BTreeMap::new();
        for instruction in &stage.instructions {
            findings.enter(&instruction.comments);
            self::instruction(instruction, &mut state, ignore, findings);
            if matches!(instruction.command, Command::Cmd(_) | Command::Entrypoint(_) | Command::Healthcheck(_)) {
                // It is the earlier one that has no effect.
                if let Some(before) = last.insert(instruction.command.name(), instruction) {
                    let message = format!(
                        "Multiple {} instructions should not be used in the same stage because only the last one \
                         will be used",
                        instruction.keyword.text
                    );
                    findings.add("MultipleInstructionsDisallowed", before.keyword.span, message);
                }
            }
        }
        states.extend(stage.name.as_deref().map(|name| (name, state)));
    }
}

/// All instructions in capitals, or all without: whichever are more.
fn casing(file: &Dockerfile, findings: &mut Findings<'_>) {
    findings.enter(&[]);
    let keywords = || {
        file.stages.iter().flat_map(|stage| {
            std::iter::once(&stage.from.keyword)
                .chain(stage.instructions.iter().map(|instruction| &instruction.keyword))
        })
    };
    let lower = |word: &&Word| word.text == word.text.to_lowercase();
    let upper = |word: &&Word| word.text == word.text.to_uppercase();
    let mostly_lower = keywords().filter(lower).count() > keywords().filter(upper).count();
    for word in keywords().filter(|word| if mostly_lower { !lower(word) } else { !upper(word) }) {
        let wanted = if mostly_lower { "lowercase" } else { "uppercase" };
        let message = format!("Command '{}' should match the case of the command majority ({wanted})", word.text);
        findings.add("ConsistentInstructionCasing", word.span, message);
    }
}

fn instruction(instruction: &Instruction, state: &mut State, ignore: Option<&Ignore>, findings: &mut Findings<'_>) {
    let keyword = &instruction.keyword;
    match &instruction.command {
        Command::Arg(_) => arguments(instruction, findings),
        Command::Env(pairs) => {
            legacy(keyword, pairs, findings);
            pairs.iter().for_each(|pair| secret("ENV", &pair.key, findings));
        }
        Command::Label(pairs) => legacy(keyword, pairs, findings),
        Command::Maintainer(_) => {
            let message = "Maintainer instruction is deprecated in favor of using label";
            findings.add("MaintainerDeprecated", keyword.span, message);
        }
        Command::Cmd(CommandLine::Shell(_)) | Command::Entrypoint(CommandLine::Shell(_)) if !state.shell => {
            let message = format!(
                "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
                keyword.text
            );
            findings.add("JSONArgsRecommended", instruction.span, message);
        }
        Command::Shell(_) => state.shell = true,
        Command::Workdir(path) => {
            let relative = !path.text.trim_start_matches(['"', '\'']).starts_with(['/', '$']);
            // Only the first of a chain: to mend it is to mend all that follow.
            if relative && !state.workdir {
                let message =
                    format!("Relative workdir \"{}\" can have unexpected results if the base image changes", path.text);
                findings.add("WorkdirRelativePath", path.span, message);
            }
            state.workdir = true;
        }
        Command::Expose(words) => words.iter().for_each(|word| port(word, findings)),
        Command::Copy(copy) if copy.from.is_none() => ignored("Copy", &copy.sources, ignore, findings),
        Command::Add(add) => ignored("Add", &add.sources, ignore, findings),
        _ => {}
    }
}

fn arguments(instruction: &Instruction, findings: &mut Findings<'_>) {
    let Command::Arg(definitions) = &instruction.command else { return };
    definitions.iter().for_each(|definition| secret("ARG", &definition.name, findings));
    let names: Vec<&str> = definitions.iter().map(|definition| definition.name.text.as_str()).collect();
    description("ARG", &names, &instruction.comments, instruction.span, findings);
}

/// The comment right above a stage or argument describes it, and begins with its name.
pub(super) fn description(
    instruction: &str,
    names: &[&str],
    comments: &[String],
    span: Span,
    findings: &mut Findings<'_>,
) {
    let Some(word) = comments.last().and_then(|comment| comment.split(' ').next()) else { return };
    if !names.contains(&word) {
        let example = if let [name] = names { name } else { "<arg_key>" };
        let message = format!("Comment for {instruction} should follow the format: `# {example} <description>`");
        findings.add("InvalidDefinitionDescription", span, message);
    }
}

fn legacy(keyword: &Word, pairs: &[Pair], findings: &mut Findings<'_>) {
    for pair in pairs.iter().filter(|pair| pair.legacy) {
        let name = &keyword.text;
        let message = format!("\"{name} key=value\" should be used instead of legacy \"{name} key value\" format");
        findings.add("LegacyKeyValueFormat", pair.key.span, message);
    }
}

fn secret(instruction: &str, name: &Word, findings: &mut Findings<'_>) {
    const SECRET: [&str; 10] =
        ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
    const HARMLESS: [&str; 3] = ["public", "file", "version"];
    let lower = name.text.to_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
    if has(&SECRET) && !has(&HARMLESS) {
        let text = &name.text;
        let message = format!("Do not use ARG or ENV instructions for sensitive data ({instruction} \"{text}\")");
        findings.add("SecretsUsedInArgOrEnv", name.span, message);
    }
}

fn port(word: &Word, findings: &mut Findings<'_>) {
    let text = &word.text;
    if text.contains('$') {
        return;
    }
    let (ports, protocol) = text.rsplit_once('/').unwrap_or((text, ""));
    if protocol != protocol.to_lowercase() {
        let message = format!("Defined protocol '{text}' in EXPOSE instruction should be lowercase");
        findings.add("ExposeProtoCasing", word.span, message);
    }
    if ports.contains(':') {
        let message =
            format!("EXPOSE instruction should not define an IP address or host-port mapping, found '{text}'");
        findings.add("ExposeInvalidFormat", word.span, message);
    }
}

/// Sources that the ignore file hides. With exceptions in it, that cannot be said without the files.
fn ignored(verb: &str, sources: &[CopySource], ignore: Option<&Ignore>, findings: &mut Findings<'_>) {
    let Some(ignore) = ignore.filter(|ignore| !ignore.has_exceptions()) else { return };
    for source in sources {
        let CopySource::Path(word) = source else { continue };
        if word.text.contains('$') || word.text.contains("://") {
            continue;
        }
        let path = clean(&word.text);
        let hidden = match path.trim_start_matches('/') {
            "" | "." => ignore.hides_everything(),
            path => ignore.matches(path),
        };
        if hidden {
            let message = format!("Attempting to {verb} file \"{path}\" that is excluded by .dockerignore");
            findings.add("CopyIgnoredFile", word.span, message);
        }
    }
}
