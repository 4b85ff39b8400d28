//! What a Dockerfile says about itself: `--call check|outline|targets`, and the warnings at the end of a build. Forms and
//! JSON are BuildKit's.

use std::fmt::Write as _;

use layerfs::error::Result;
use serde_json::{Value, json};

use crate::dockerfile::ast::{ArgDefinition, Command, Dockerfile, Stage, Warning};
use crate::dockerfile::lint;
use crate::dockerfile::mount::Mount;
use crate::dockerfile::source::Span;
use crate::graph;
use crate::options::Form;

/// The warnings of a build, for people; empty where there is none.
pub(super) fn warnings(file: &Dockerfile, warnings: &[Warning]) -> String {
    let mut text = match warnings.len() {
        0 => return String::new(),
        1 => "1 warning found:\n".to_owned(),
        count => format!("{count} warnings found:\n"),
    };
    for warning in warnings {
        let line = line(file, warning.span);
        line_of(&mut text, format_args!(" - {}: {} (line {line})", warning.rule, warning.message));
        if let Some(rule) = lint::rule(warning.rule) {
            line_of(&mut text, format_args!("   hint: {}", rule.hint));
        }
    }
    text
}

fn line_of(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Nothing keeps a string from growing.
    let _ = writeln!(text, "{arguments}");
}

/// The first line of a place.
fn line(file: &Dockerfile, span: Span) -> usize {
    file.source.position(span.start).line
}

/// `--call check`.
pub(super) fn check(file: &Dockerfile, warnings: &[Warning], form: Form) -> String {
    if form == Form::Json {
        let list: Vec<Value> = warnings.iter().map(|warning| warning_as_json(file, warning)).collect();
        return format!("{:#}\n", json!({"warnings": list}));
    }
    let mut text = match warnings.len() {
        0 => return "Check complete, no warnings found.\n".to_owned(),
        1 => "Check complete, 1 warning has been found!\n".to_owned(),
        count => format!("Check complete, {count} warnings have been found!\n"),
    };
    for warning in warnings {
        let rule = lint::rule(warning.rule);
        let url = rule.map(|rule| rule.url).filter(|url| !url.is_empty());
        let url = url.map_or_else(String::new, |url| format!(" - {url}"));
        line_of(&mut text, format_args!("\nWARNING: {}{url}\n{}", warning.rule, warning.message));
        line_of(&mut text, format_args!("{}", file.source.snippet(warning.span)));
        if let Some(rule) = rule {
            line_of(&mut text, format_args!("hint: {}", rule.hint));
        }
    }
    text
}

fn warning_as_json(file: &Dockerfile, warning: &Warning) -> Value {
    let rule = lint::rule(warning.rule);
    json!({
        "ruleName": warning.rule,
        "description": rule.map(|rule| rule.description).unwrap_or_default(),
        "url": rule.map(|rule| rule.url).unwrap_or_default(),
        "detail": warning.message,
        "hint": rule.map(|rule| rule.hint).unwrap_or_default(),
        "level": 1,
        "location": place(file, warning.span),
    })
}

fn place(file: &Dockerfile, span: Span) -> Value {
    let (start, end) = (line(file, span), file.source.position(span.end.saturating_sub(1).max(span.start)).line);
    json!({"ranges": [{"start": {"line": start}, "end": {"line": end}}]})
}

/// What a comment above a stage says of it: the text after its name.
fn description(stage: &Stage) -> String {
    let Some(name) = &stage.name else { return String::new() };
    let about = |comment: &String| {
        let (first, rest) = comment.trim().split_once(' ')?;
        first.eq_ignore_ascii_case(name).then(|| rest.trim().to_owned())
    };
    stage.comments.iter().find_map(about).unwrap_or_default()
}

/// `--call targets`.
pub(super) fn targets(file: &Dockerfile, form: Form) -> Result<String> {
    let last = file.stages.len() - 1;
    if form == Form::Json {
        let list = file.stages.iter().enumerate().map(|(at, stage)| {
            let mut target = json!({"base": stage.from.image.text, "location": place(file, stage.span)});
            if let Some(name) = &stage.name {
                target["name"] = name.as_str().into();
            }
            if at == last {
                target["default"] = true.into();
            }
            if let Some(platform) = &stage.from.platform {
                target["platform"] = platform.text.as_str().into();
            }
            let description = description(stage);
            if !description.is_empty() {
                target["description"] = description.into();
            }
            target
        });
        let list: Vec<Value> = list.collect();
        return Ok(format!("{:#}\n", json!({"targets": list})));
    }
    let rows = file.stages.iter().enumerate().map(|(at, stage)| {
        let name = match (&stage.name, at == last) {
            (Some(name), false) => name.clone(),
            (Some(name), true) => format!("{name} (default)"),
            (None, true) => "(default)".to_owned(),
            (None, false) => String::new(),
        };
        [name, description(stage), String::new()]
    });
    let rows: Vec<[String; 3]> = rows.filter(|row| !row[0].is_empty()).collect();
    Ok(table(["TARGET", "DESCRIPTION", ""], &rows))
}

/// What a target can be told: arguments, secrets, agents.
#[derive(Default)]
struct Outline {
    arguments: Vec<(String, Option<String>, String, Span)>,
    secrets: Vec<(String, bool, Span)>,
    agents: Vec<(String, bool, Span)>,
}

impl Outline {
    fn argument(&mut self, definition: &ArgDefinition, options: &graph::Options) {
        let name = definition.name.text.clone();
        let given = options.build_args.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        let value = given.or_else(|| definition.default.as_ref().map(|word| word.text.clone()));
        let doc = definition.doc.clone().unwrap_or_default();
        match self.arguments.iter_mut().find(|(known, ..)| *known == name) {
            Some(known) => {
                known.1 = value.or(known.1.take());
                if !doc.is_empty() {
                    known.2 = doc;
                }
            }
            None => self.arguments.push((name, value, doc, definition.name.span)),
        }
    }

    fn mount(&mut self, text: &str, span: Span) {
        // What cannot be read here is told when it is built.
        let list = match Mount::parse(text, &mut |text| Ok(text.to_owned())) {
            Ok(Mount::Secret(secret)) => Some((&mut self.secrets, secret.id, secret.required)),
            Ok(Mount::Ssh(agent)) => Some((&mut self.agents, agent.id, agent.required)),
            _ => None,
        };
        let Some((list, id, required)) = list else { return };
        match list.iter_mut().find(|(known, ..)| *known == id) {
            Some(known) => known.1 |= required,
            None => list.push((id, required, span)),
        }
    }
}

/// `--call outline`.
pub(super) fn outline(file: &Dockerfile, options: &graph::Options, form: Form) -> Result<String> {
    let plan = graph::plan(file, options)?;
    let (order, _) = plan.reach(&graph::Configs::new())?;
    let mut outline = Outline::default();
    for instruction in &file.global_args {
        if let Command::Arg(definitions) = &instruction.command {
            definitions.iter().for_each(|definition| outline.argument(definition, options));
        }
    }
    for instruction in order.iter().flat_map(|index| &file.stages[*index].instructions) {
        match &instruction.command {
            Command::Arg(definitions) => definitions.iter().for_each(|one| outline.argument(one, options)),
            Command::Run(run) => run.mounts.iter().for_each(|mount| outline.mount(&mount.text, mount.span)),
            _ => {}
        }
    }
    let target = &file.stages[order.last().copied().unwrap_or_default()];
    let Outline { arguments, secrets, agents } = outline;
    if form == Form::Json {
        let argument = |(name, value, doc, span): &(String, Option<String>, String, Span)| {
            let mut argument = json!({"name": name, "location": place(file, *span)});
            if let Some(value) = value {
                argument["value"] = value.as_str().into();
            }
            if !doc.is_empty() {
                argument["description"] = doc.as_str().into();
            }
            argument
        };
        let need = |(id, required, span): &(String, bool, Span)| {
            let mut need = json!({"name": id, "location": place(file, *span)});
            if *required {
                need["required"] = true.into();
            }
            need
        };
        let mut document = json!({"args": arguments.iter().map(argument).collect::<Vec<_>>()});
        for (key, list) in [("secrets", &secrets), ("ssh", &agents)] {
            if !list.is_empty() {
                document[key] = list.iter().map(need).collect::<Vec<_>>().into();
            }
        }
        if let Some(name) = &target.name {
            document["name"] = name.as_str().into();
        }
        let description = description(target);
        if !description.is_empty() {
            document["description"] = description.into();
        }
        return Ok(format!("{document:#}\n"));
    }
    let mut text = String::new();
    if let Some(name) = &target.name {
        line_of(&mut text, format_args!("TARGET:      {name}"));
    }
    let description = description(target);
    if !description.is_empty() {
        line_of(&mut text, format_args!("DESCRIPTION: {description}"));
    }
    let rows: Vec<[String; 3]> =
        arguments.into_iter().map(|(name, value, doc, _)| [name, value.unwrap_or_default(), doc]).collect();
    let needs = |list: Vec<(String, bool, Span)>| -> Vec<[String; 3]> {
        let row = |(id, required, _)| [id, if required { "true".to_owned() } else { String::new() }, String::new()];
        list.into_iter().map(row).collect()
    };
    for (head, rows) in [
        (["BUILD ARG", "VALUE", "DESCRIPTION"], rows),
        (["SECRET", "REQUIRED", ""], needs(secrets)),
        (["SSH", "REQUIRED", ""], needs(agents)),
    ] {
        if !rows.is_empty() {
            let gap = if text.is_empty() { "" } else { "\n" };
            text.push_str(&format!("{gap}{}", table(head, &rows)));
        }
    }
    Ok(text)
}

/// Columns under their heads.
fn table(head: [&str; 3], rows: &[[String; 3]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].len()]).max().unwrap_or_default() + 3
    };
    let (first, second) = (width(0), width(1));
    let line = |row: [&str; 3]| {
        let text = format!("{:first$}{:second$}{}", row[0], row[1], row[2]);
        format!("{}\n", text.trim_end())
    };
    let rows = rows.iter().map(|row| line([&row[0], &row[1], &row[2]]));
    std::iter::once(line(head)).chain(rows).collect()
}
