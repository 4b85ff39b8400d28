//! Which stages there are, what each starts from, and which of them the target needs.

use std::collections::HashMap;

use layerfs::error::{Error, Kind};
use layerfs::oci::{ImageConfig, Platform};
use layerfs::reference::Reference;

use super::env::Variables;
use super::{Options, Origin, Result};
use crate::dockerfile::ast::{Command, Dockerfile, Instruction, Word};
use crate::dockerfile::expand::Lexer;
use crate::dockerfile::source::Span;
use crate::dockerfile::{Fault, ParseError, parse_trigger};

/// An image that a build reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BaseImage {
    /// Its name as written, variables replaced.
    pub name: String,
    /// The platform that is wanted, as text.
    pub platform: String,
}

/// What a name of the command line's `--build-context` stands for, as far as the graph is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedContext {
    /// Files.
    Files,
    /// `docker-image://NAME`, or `oci-layout://PATH`.
    Image(String),
    /// `target:NAME`: a stage of the Dockerfile.
    Stage(String),
}

/// The stages and their bases: what can be known before any base image is.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    pub(super) file: &'a Dockerfile,
    pub(super) options: &'a Options,
    pub(super) lexer: Lexer,
    /// The arguments before the first `FROM`, with the platform's.
    pub(super) global: Variables,
    pub(super) stages: Vec<Planned>,
    target: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) label: String,
    pub(super) base: Origin,
    pub(super) platform: Platform,
}

/// Configurations of base images, as far as they are known.
pub type Configs = HashMap<BaseImage, ImageConfig>;

/// Reads the global scope and the `FROM` lines.
///
/// # Errors
/// A variable cannot be replaced, a platform is none, or the target is no stage.
pub fn plan<'a>(file: &'a Dockerfile, options: &'a Options) -> Result<Plan<'a>> {
    let lexer = Lexer::new(file.directives.escape);
    let mut global = platform_arguments(options);
    for (name, value) in &options.build_args {
        if global.get(name).is_some() {
            global.set(name, value);
        }
    }
    for instruction in &file.global_args {
        let Command::Arg(definitions) = &instruction.command else { continue };
        for definition in definitions {
            let name = expand(file, &lexer, &definition.name, &global)?;
            let given = options.build_args.iter().rev().find(|(known, _)| *known == name);
            match (given, &definition.default) {
                (Some((_, value)), _) => global.set(&name, value),
                (None, Some(default)) => {
                    let value = expand(file, &lexer, default, &global)?;
                    global.set(&name, &value);
                }
                (None, None) => {}
            }
        }
    }
    let mut plan = Plan { file, options, lexer, global, stages: Vec::new(), target: 0 };
    for index in 0..file.stages.len() {
        let planned = plan.stage(index)?;
        plan.stages.push(planned);
    }
    plan.target = plan.find_target()?;
    Ok(plan)
}

fn platform_arguments(options: &Options) -> Variables {
    let mut variables = Variables::default();
    for (prefix, platform) in [("BUILD", &options.build_platform), ("TARGET", &options.platform)] {
        variables.set(&format!("{prefix}PLATFORM"), &platform.to_string());
        variables.set(&format!("{prefix}OS"), &platform.os);
        variables.set(&format!("{prefix}OSVERSION"), platform.os_version.as_deref().unwrap_or_default());
        variables.set(&format!("{prefix}ARCH"), &platform.architecture);
        variables.set(&format!("{prefix}VARIANT"), platform.variant.as_deref().unwrap_or_default());
    }
    variables.set("TARGETSTAGE", options.target.as_deref().unwrap_or("default"));
    variables
}

fn expand(file: &Dockerfile, lexer: &Lexer, word: &Word, env: &Variables) -> Result<String> {
    let lookup = |name: &str| env.get(name).map(str::to_owned);
    lexer.word(&word.text, &lookup).map_err(|fault| fault.at(&file.source, word.span).into())
}

impl Plan<'_> {
    fn stage(&self, index: usize) -> Result<Planned> {
        let stage = &self.file.stages[index];
        let from = &stage.from;
        let at = |fault: Fault, span: Span| -> Error { fault.at(&self.file.source, span).into() };
        let name = expand(self.file, &self.lexer, &from.image, &self.global)?;
        if name.is_empty() {
            let fault = Fault::new(format!("the base image `{}` is empty", from.image.text))
                .hint("give the argument a default before the first FROM, or a value by --build-arg");
            return Err(at(fault, from.image.span));
        }
        let mut platform = self.options.platform.clone();
        if let Some(word) = &from.platform {
            let text = expand(self.file, &self.lexer, word, &self.global)?;
            let parsed = text.parse::<Platform>();
            platform = parsed.map_err(|error| at(Fault::new(error.to_string()), word.span))?;
        }
        let label = stage.name.clone().unwrap_or_else(|| format!("stage-{index}"));
        let overridden = stage.name.as_deref().and_then(|name| self.context(name, &platform));
        let base = match overridden {
            Some(origin) => origin,
            None if name == "scratch" => Origin::Scratch,
            None => match self.stage_named(&name, index) {
                Some(base) => {
                    // A stage on a stage runs on what that one runs on.
                    platform = self.stages[base].platform.clone();
                    Origin::Stage(base)
                }
                None => self.context(&name, &platform).unwrap_or_else(|| image(&name, &platform)),
            },
        };
        Ok(Planned { label, base, platform })
    }

    /// The last stage of that name among the first `before`.
    fn stage_named(&self, name: &str, before: usize) -> Option<usize> {
        let name = name.to_ascii_lowercase();
        self.file.stages[..before].iter().rposition(|stage| stage.name.as_deref() == Some(name.as_str()))
    }

    /// What `--build-context` says `name` is, be it the name of a stage or of an image.
    fn context(&self, name: &str, platform: &Platform) -> Option<Origin> {
        let reference = |text: &str| text.parse::<Reference>().ok().map(Reference::or_latest);
        let same = |known: &str| {
            known.eq_ignore_ascii_case(name) || (reference(known).is_some() && reference(known) == reference(name))
        };
        // One that is for a platform only goes before those for all.
        let contexts = || self.options.contexts.iter().rev();
        let own = format!("::{platform}");
        let special = contexts().find(|(known, _)| known.strip_suffix(&own).is_some_and(&same));
        let (known, kind) = special.or_else(|| contexts().find(|(known, _)| same(known)))?;
        Some(match kind {
            NamedContext::Stage(name) => Origin::Stage(self.stage_named(name, self.file.stages.len())?),
            NamedContext::Files => Origin::Named(known.clone()),
            NamedContext::Image(name) => image(name, platform),
        })
    }

    /// What `--from=NAME` or a mount's `from=NAME` means.
    pub(super) fn origin(&self, name: &str) -> Origin {
        let stages = &self.file.stages;
        if let Some(origin) = self.context(name, &self.options.platform) {
            return origin;
        }
        if let Some(index) = self.stage_named(name, stages.len()) {
            return Origin::Stage(index);
        }
        match name.parse::<usize>() {
            Ok(index) if index < stages.len() => Origin::Stage(index),
            _ if name == "scratch" => Origin::Scratch,
            _ => image(name, &self.options.platform),
        }
    }

    /// What `--from=NAME` means, where a number must be a stage's: nobody names an image so.
    fn stage_or_image(&self, name: &str, span: Span) -> Result<Origin> {
        let origin = self.origin(name);
        let number = name.bytes().all(|byte| byte.is_ascii_digit());
        if number && matches!(origin, Origin::Image(_)) {
            let fault = Fault::new(format!("there is no stage {name}"))
                .hint(format!("stages are counted from 0; the last one is {}", self.stages.len() - 1));
            return Err(fault.at(&self.file.source, span).into());
        }
        Ok(origin)
    }

    fn find_target(&self) -> Result<usize> {
        let Some(target) = &self.options.target else { return Ok(self.stages.len() - 1) };
        let by_index = || target.parse().ok().filter(|index| *index < self.stages.len());
        self.stage_named(target, self.stages.len()).or_else(by_index).ok_or_else(|| {
            let names: Vec<&str> = self.file.stages.iter().filter_map(|stage| stage.name.as_deref()).collect();
            let error = Error::new(Kind::Invalid, format!("{} has no stage `{target}`", self.file.source.name()));
            match names[..] {
                [] => error.hint("its stages have no names; write FROM … AS NAME, or --target with an index from 0"),
                _ => error.hint(format!("it has: {}", names.join(", "))),
            }
        })
    }

    /// The build arguments that no `ARG` of the Dockerfile asks for: probably misspelt.
    pub fn unused_arguments(&self) -> Vec<&str> {
        let declared = |name: &str| {
            let globals = self.file.global_args.iter();
            let all = globals.chain(self.file.stages.iter().flat_map(|stage| &stage.instructions));
            let mut names = all.filter_map(|instruction| match &instruction.command {
                Command::Arg(definitions) => Some(definitions),
                _ => None,
            });
            names.any(|definitions| definitions.iter().any(|definition| definition.name.text == name))
        };
        let known = |name: &str| {
            super::env::is_proxy(name)
                || name.starts_with("BUILDKIT_")
                || name == "SOURCE_DATE_EPOCH"
                || self.global.get(name).is_some()
        };
        let names = self.options.build_args.iter().map(|(name, _)| name.as_str());
        names.filter(|name| !known(name) && !declared(name)).collect()
    }

    /// The Dockerfile's text.
    pub fn source(&self) -> &crate::dockerfile::source::Source {
        &self.file.source
    }

    /// A global argument's value.
    pub fn global(&self, name: &str) -> Option<&str> {
        let given = self.options.build_args.iter().rev().find(|(known, _)| known == name);
        given.map(|(_, value)| value.as_str()).or_else(|| self.global.get(name)).filter(|value| !value.is_empty())
    }

    /// What was declared by `ONBUILD` below stage `index`, parsed. The base image's triggers are known only once its
    /// configuration is.
    pub(super) fn triggers(&self, index: usize, configs: &Configs) -> Result<Vec<Instruction>> {
        let texts: Vec<String> = match &self.stages[index].base {
            Origin::Image(image) => configs.get(image).and_then(|config| config.strings("OnBuild")).unwrap_or_default(),
            Origin::Stage(base) => {
                let instructions = &self.file.stages[*base].instructions;
                let trigger = |instruction: &Instruction| match &instruction.command {
                    Command::Onbuild(onbuild) => Some(onbuild.trigger.clone()),
                    _ => None,
                };
                instructions.iter().filter_map(trigger).collect()
            }
            _ => Vec::new(),
        };
        let span = self.file.stages[index].from.image.span;
        let parse = |text: &String| {
            let mut instruction = parse_trigger(text, "ONBUILD").map_err(|error| -> Error {
                let message = format!("the base image's trigger `{text}` is invalid: {}", error.message());
                ParseError::new(&self.file.source, span, message).into()
            })?;
            // Errors later on are shown where the base is named.
            instruction.span = span;
            Ok(instruction)
        };
        texts.iter().map(parse).collect()
    }

    /// The stages that the target needs in an order in which each comes after those it needs, and all images they
    /// read. Both may grow once the triggers of further base images are known.
    ///
    /// # Errors
    /// Stages need each other, or a trigger is invalid.
    pub fn reach(&self, configs: &Configs) -> Result<(Vec<usize>, Vec<BaseImage>)> {
        let mut reached = Reached { marks: vec![Mark::New; self.stages.len()], ..Reached::default() };
        self.visit(self.target, configs, &mut reached)?;
        Ok((reached.order, reached.images))
    }

    fn visit(&self, index: usize, configs: &Configs, reached: &mut Reached) -> Result<()> {
        match reached.marks[index] {
            Mark::Done => return Ok(()),
            Mark::Open => {
                let stage = &self.file.stages[index];
                let message = format!("stage `{}` needs itself", self.stages[index].label);
                return Err(ParseError::new(&self.file.source, stage.span, message)
                    .hint("break the circle of FROM, COPY --from and RUN --mount=from")
                    .into());
            }
            Mark::New => reached.marks[index] = Mark::Open,
        }
        let triggers = self.triggers(index, configs)?;
        let instructions = triggers.iter().chain(&self.file.stages[index].instructions);
        let named = instructions.flat_map(|one| origin_names(one).into_iter().map(|name| (name, one.span)));
        let origins = named.map(|(name, span)| self.stage_or_image(&name, span));
        for origin in std::iter::once(Ok(self.stages[index].base.clone())).chain(origins) {
            match origin? {
                Origin::Stage(other) => self.visit(other, configs, reached)?,
                Origin::Image(image) if !reached.images.contains(&image) => reached.images.push(image),
                _ => {}
            }
        }
        reached.marks[index] = Mark::Done;
        reached.order.push(index);
        Ok(())
    }

    /// Where a base image is first named, for messages.
    pub fn place_of(&self, image: &BaseImage) -> Option<Span> {
        let base = self.stages.iter().position(|stage| stage.base == Origin::Image(image.clone()));
        if let Some(index) = base {
            return Some(self.file.stages[index].from.image.span);
        }
        let mut all = self.file.stages.iter().flat_map(|stage| &stage.instructions);
        all.find(|instruction| origin_names(instruction).contains(&image.name)).map(|instruction| instruction.span)
    }
}

#[derive(Default)]
struct Reached {
    marks: Vec<Mark>,
    order: Vec<usize>,
    images: Vec<BaseImage>,
}

#[derive(Clone, Copy, PartialEq)]
enum Mark {
    New,
    Open,
    Done,
}

fn image(name: &str, platform: &Platform) -> Origin {
    Origin::Image(BaseImage { name: name.to_owned(), platform: platform.to_string() })
}

/// The names an instruction says its files are from. They hold no variables, so they are known before anything else.
fn origin_names(instruction: &Instruction) -> Vec<String> {
    match &instruction.command {
        Command::Copy(copy) => copy.from.iter().map(|word| word.text.clone()).collect(),
        Command::Run(run) => run.mounts.iter().filter_map(|mount| mount_origin(&mount.text)).collect(),
        _ => Vec::new(),
    }
}

fn mount_origin(text: &str) -> Option<String> {
    text.split(',').find_map(|field| {
        let (key, value) = field.trim_matches('"').split_once('=')?;
        (key.trim().eq_ignore_ascii_case("from") && !value.is_empty()).then(|| value.to_owned())
    })
}
