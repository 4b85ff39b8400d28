//! Instructions to steps: variables get their values, paths become absolute, settings go into the configuration.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use layerfs::error::Error;
use layerfs::oci::ImageConfig;

use super::config;
use super::env::{Variables, is_proxy};
use super::plan::{BaseImage, Configs, Plan};
use super::{
    Action, Chmod, Copy, Fetch, Graph, Mount, Origin, Result, Run, Source, Stage, Step, Unpack, Workdir, absolute,
    ports,
};
use crate::dockerfile::ast::{
    self, Command, CommandLine, CopySource, Instruction, Network, Script, Security, Warning, Word,
};
use crate::dockerfile::expand::Lexer;
use crate::dockerfile::mount;
use crate::dockerfile::remote::{self, Remote};
use crate::dockerfile::source::Span;
use crate::dockerfile::{self, Fault, ParseError};

/// The graph of what the target needs. `configs` must hold every image that [`Plan::reach`] names.
///
/// # Errors
/// A variable cannot be replaced, or a flag asks for what is not built; the error shows the place.
pub fn lower(plan: &Plan<'_>, configs: &Configs) -> Result<Graph> {
    let (order, _) = plan.reach(configs)?;
    let mut states: HashMap<usize, State> = HashMap::new();
    let mut stages = Vec::new();
    let mut findings = Vec::new();
    for index in order {
        let stage = &plan.stages[index];
        let state = match &stage.base {
            Origin::Stage(base) => states[base].on_top(),
            Origin::Image(image) => State::of(config::inherited(&configs[image])),
            _ => State::of(config::scratch(&stage.platform)),
        };
        let triggers = plan.triggers(index, configs)?;
        let instructions: Vec<&Instruction> = triggers.iter().chain(&plan.file.stages[index].instructions).collect();
        let mut lowering = Lowering {
            plan,
            index,
            state,
            steps: Vec::new(),
            titles: Titles::new(plan, index, &instructions),
            unset: RefCell::default(),
        };
        if let Origin::Image(image) = &stage.base {
            findings.extend(other_platform(plan, index, image, &configs[image]));
        }
        for instruction in instructions {
            lowering.instruction(instruction)?;
            findings.extend(lowering.undefined(instruction));
        }
        let Lowering { state, steps, titles, .. } = lowering;
        stages.push(Stage {
            index,
            label: stage.label.clone(),
            base: stage.base.clone(),
            base_title: titles.base(&stage.base),
            platform: stage.platform.clone(),
            steps,
            config: state.config.clone(),
        });
        states.insert(index, state);
    }
    if let Some(target) = stages.last_mut() {
        for (key, value) in &plan.options.labels {
            config::set_label(&mut target.config, key, value);
        }
        if !plan.options.env.is_empty() || !plan.options.unset.is_empty() {
            let mut env = Variables::parse(&target.config.strings("Env").unwrap_or_default());
            plan.options.env.iter().for_each(|(name, value)| env.set(name, value));
            let mut strings = env.strings();
            strings.retain(|text| !plan.options.unset.iter().any(|name| text.split('=').next() == Some(name)));
            target.config.set_strings("Env", Some(&strings));
        }
    }
    Ok(Graph { stages, findings })
}

/// What the instructions of a stage change as they go.
#[derive(Clone)]
struct State {
    config: ImageConfig,
    /// The environment of a step: the image's, and the arguments.
    env: Variables,
    /// The arguments declared so far, for the history of `RUN`.
    arguments: Vec<String>,
    /// `CMD` was given in this stage, so that `ENTRYPOINT` leaves it alone.
    own_command: bool,
}

impl State {
    fn of(config: ImageConfig) -> Self {
        let mut env = Variables::parse(&config.strings("Env").unwrap_or_default());
        if env.get("PATH").is_none() {
            env.set("PATH", config::DEFAULT_PATH);
        }
        Self { config, env, arguments: Vec::new(), own_command: false }
    }

    /// What a stage on this one starts with.
    fn on_top(&self) -> Self {
        let mut state = self.clone();
        state.config.set_strings("OnBuild", None);
        state.own_command = false;
        state
    }

    fn workdir(&self) -> &str {
        self.config.text("WorkingDir").unwrap_or("/")
    }
}

/// Numbers the steps that show progress: `[label n/total]`.
struct Titles {
    label: String,
    next: usize,
    total: usize,
}

impl Titles {
    fn new(plan: &Plan<'_>, index: usize, instructions: &[&Instruction]) -> Self {
        let shown = |command: &Command| {
            matches!(command, Command::Run(_) | Command::Copy(_) | Command::Add(_) | Command::Workdir(_))
        };
        let stage = &plan.stages[index];
        // The base counts as the first step where it is an image.
        let base = usize::from(matches!(stage.base, Origin::Image(_)));
        let total = base + instructions.iter().filter(|instruction| shown(&instruction.command)).count();
        let alone = plan.stages.len() == 1 && plan.file.stages[0].name.is_none();
        let platform = if plan.options.titled { format!("{} ", stage.platform) } else { String::new() };
        let called = match plan.options.called.as_str() {
            "" => platform,
            name => format!("{name} {platform}"),
        };
        let label = if alone { called } else { format!("{called}{} ", stage.label) };
        Self { label, next: base + 1, total }
    }

    /// The title of the base, where it is an image.
    fn base(&self, base: &Origin) -> Option<String> {
        match base {
            Origin::Image(image) => Some(format!("[{}1/{}] FROM {}", self.label, self.total, image.name)),
            _ => None,
        }
    }

    fn next(&mut self, text: &str) -> String {
        let number = self.next;
        self.next += 1;
        format!("[{}{number}/{}] {text}", self.label, self.total)
    }
}

struct Lowering<'p, 'a> {
    plan: &'p Plan<'a>,
    index: usize,
    state: State,
    steps: Vec<Step>,
    titles: Titles,
    /// Variables of the instruction at hand that have no value.
    unset: RefCell<BTreeSet<String>>,
}

/// A finding, with the comments above its instruction.
type Finding = (Warning, Vec<String>);

/// An image that is not for the platform it was asked for.
fn other_platform(plan: &Plan<'_>, index: usize, image: &BaseImage, config: &ImageConfig) -> Option<Finding> {
    let (stage, wanted) = (&plan.file.stages[index], &plan.stages[index].platform);
    let own = config.platform();
    let message = format!(
        "Base image {} was pulled with platform \"{own}\", expected \"{wanted}\" for current build",
        image.name
    );
    let warning = Warning { rule: "InvalidBaseImagePlatform", message, span: stage.from.image.span };
    own.serves(wanted).is_none().then(|| (warning, stage.comments.clone()))
}

impl Lowering<'_, '_> {
    /// Findings about variables that the instruction used and nobody set.
    fn undefined(&self, instruction: &Instruction) -> Vec<Finding> {
        let mut unset = self.unset.take();
        for name in &self.state.arguments {
            unset.remove(name);
        }
        let finding = |name: String| {
            let mut message = format!("Usage of undefined variable '${name}'");
            let known = self.state.env.pairs().iter().map(|(known, _)| known.as_str());
            if let Some(near) = dockerfile::nearest(&name, known) {
                // The suggestion comes in the case of the word; the variable has its own.
                let own = self.state.env.pairs().iter().find(|(known, _)| known.eq_ignore_ascii_case(&near));
                message.push_str(&format!(" (did you mean ${}?)", own.map_or(near.as_str(), |(known, _)| known)));
            }
            let warning = Warning { rule: "UndefinedVar", message, span: instruction.span };
            (warning, instruction.comments.clone())
        };
        unset.into_iter().map(finding).collect()
    }

    fn instruction(&mut self, instruction: &Instruction) -> Result<()> {
        let (action, created_by) = self.command(instruction)?;
        let title = match action {
            Action::Configure if !matches!(instruction.command, Command::Workdir(_)) => None,
            _ => Some(self.titles.next(&one_line(instruction))),
        };
        self.steps.push(Step { title, span: instruction.span, created_by, action });
        Ok(())
    }

    fn command(&mut self, instruction: &Instruction) -> Result<(Action, String)> {
        let span = instruction.span;
        let history = match &instruction.command {
            Command::Run(run) => return self.run(run, span),
            Command::Copy(copy) => return self.copy(copy),
            Command::Add(add) => return self.add(add),
            Command::Workdir(word) => return self.workdir(word),
            Command::Arg(definitions) => self.arguments(definitions)?,
            Command::Env(pairs) => {
                let pairs = self.pairs(pairs)?;
                let mut image = Variables::parse(&self.state.config.strings("Env").unwrap_or_default());
                for (key, value) in &pairs {
                    image.set(key, value);
                    self.state.env.set(key, value);
                }
                self.state.config.set_strings("Env", Some(&image.strings()));
                format!("ENV {}", show_pairs(&pairs))
            }
            Command::Label(pairs) => {
                let pairs = self.pairs(pairs)?;
                for (key, value) in &pairs {
                    config::set_label(&mut self.state.config, key, value);
                }
                format!("LABEL {}", show_pairs(&pairs))
            }
            Command::Cmd(line) => {
                let args = config::command(&self.state.config, line);
                self.state.config.set_strings("Cmd", Some(&args));
                self.state.own_command = true;
                format!("CMD {}", json(&args))
            }
            Command::Entrypoint(line) => {
                let args = config::command(&self.state.config, line);
                self.state.config.set_strings("Entrypoint", Some(&args));
                if !self.state.own_command {
                    self.state.config.set_strings("Cmd", None);
                }
                format!("ENTRYPOINT {}", json(&args))
            }
            Command::Expose(words) => {
                let mut ports = Vec::new();
                for word in words {
                    let lookup = |name: &str| self.state.env.get(name).map(str::to_owned);
                    let expanded = self.plan.lexer.words(&word.text, &lookup);
                    for text in expanded.map_err(|fault| self.at(fault, word.span))? {
                        ports.extend(ports::parse(&text).map_err(|fault| self.at(fault, word.span))?);
                    }
                }
                config::add_to_set(&mut self.state.config, "ExposedPorts", &ports);
                format!("EXPOSE {}", ports.join(" "))
            }
            Command::Healthcheck(check) => {
                config::set_healthcheck(&mut self.state.config, check);
                instruction.original.clone()
            }
            Command::Maintainer(word) => {
                self.state.config.document_mut().insert("author".to_owned(), word.text.clone().into());
                format!("MAINTAINER {}", word.text)
            }
            Command::Onbuild(onbuild) => {
                config::add_trigger(&mut self.state.config, &onbuild.trigger);
                format!("ONBUILD {}", onbuild.trigger)
            }
            Command::Shell(shell) => {
                self.state.config.set_strings("Shell", Some(shell));
                format!("SHELL {}", json(shell))
            }
            Command::StopSignal(word) => {
                let signal = self.expand(word)?;
                run::options::signal(&signal).map_err(|error| {
                    self.at(Fault::new(error.to_string()).hint("it is a name such as SIGTERM, or a number"), word.span)
                })?;
                self.state.config.set_text("StopSignal", &signal);
                format!("STOPSIGNAL {signal}")
            }
            Command::User(word) => {
                let user = self.expand(word)?;
                self.state.config.set_text("User", &user);
                format!("USER {user}")
            }
            Command::Volume(words) => {
                let volumes = words.iter().map(|word| self.expand(word)).collect::<Result<Vec<_>>>()?;
                if let Some(empty) = volumes.iter().position(String::is_empty) {
                    return Err(self.at(Fault::new("a volume's path is empty"), words[empty].span));
                }
                config::add_to_set(&mut self.state.config, "Volumes", &volumes);
                format!("VOLUME {}", json(&volumes))
            }
        };
        Ok((Action::Configure, history))
    }

    fn arguments(&mut self, definitions: &[ast::ArgDefinition]) -> Result<String> {
        let mut shown = Vec::new();
        for definition in definitions {
            let name = self.expand(&definition.name)?;
            let given = self.plan.options.build_args.iter().rev().find(|(known, _)| *known == name);
            let value = match (given, &definition.default) {
                (Some((_, value)), _) => Some(value.clone()),
                (None, Some(default)) => Some(self.expand(default)?),
                // A bare `ARG NAME` brings in what was said before the first FROM.
                (None, None) => self.plan.global.get(&name).map(str::to_owned),
            };
            if let Some(value) = &value {
                self.state.env.set(&name, value);
            }
            shown.push(value.map_or_else(|| name.clone(), |value| format!("{name}={value}")));
            if !self.state.arguments.contains(&name) {
                self.state.arguments.push(name);
            }
        }
        Ok(format!("ARG {}", shown.join(" ")))
    }

    fn workdir(&mut self, word: &Word) -> Result<(Action, String)> {
        let text = self.expand(word)?;
        let path = absolute(self.state.workdir(), &text);
        let path = if path == "/" { path } else { path.trim_end_matches('/').to_owned() };
        self.state.config.set_text("WorkingDir", &path);
        let history = format!("WORKDIR {path}");
        let user = self.state.config.text("User").unwrap_or_default().to_owned();
        let action = if path == "/" { Action::Configure } else { Action::Workdir(Workdir { path, user }) };
        Ok((action, history))
    }

    fn run(&mut self, run: &ast::Run, span: Span) -> Result<(Action, String)> {
        if let Some(device) = run.devices.first() {
            let fault = Fault::new("RUN --device is not built yet")
                .hint("make the device part of a RUN --mount, or leave it out");
            return Err(self.at(fault, device.span));
        }
        let insecure = run.security == Security::Insecure;
        if insecure && !self.plan.options.allow_insecure {
            let fault = Fault::new("RUN --security=insecure was not allowed").hint("say --allow security.insecure");
            return Err(self.at(fault, span));
        }
        let mut script = None;
        let args = match run.script() {
            Script::Exec(args) => args,
            Script::Shell(text) => config::through_shell(&self.state.config, &text),
            Script::File { name, content } => {
                let path = format!("/dev/pipes/{name}");
                script = Some((name, content));
                config::through_shell(&self.state.config, &path)
            }
        };
        let mounts = self.mounts(&run.mounts)?;
        let own = |name: &str| self.state.arguments.iter().any(|known| known == name);
        let proxies = self.plan.options.build_args.iter().filter(|(name, _)| is_proxy(name));
        let proxies = proxies.flat_map(|(name, value)| {
            [(name.to_ascii_lowercase(), value.clone()), (name.to_ascii_uppercase(), value.clone())]
        });
        // One that an ARG declares is an argument like any other.
        let proxies = proxies.filter(|(name, _)| !own(name));
        let network = match run.network {
            Network::Default => self.plan.options.network,
            own => own,
        };
        let history = format!("RUN {}", self.run_history(&args, run));
        let action = Run {
            args,
            script,
            env: self.state.env.pairs().to_vec(),
            proxies: proxies.collect(),
            cwd: self.state.workdir().to_owned(),
            user: self.state.config.text("User").unwrap_or_default().to_owned(),
            mounts,
            network,
            insecure,
            hosts: self.plan.options.hosts.clone(),
        };
        Ok((Action::Run(Box::new(action)), history))
    }

    /// As docker writes it: `|N NAME=value… /bin/sh -c …`, so that the arguments a layer was made with can be seen.
    fn run_history(&self, args: &[String], run: &ast::Run) -> String {
        let mut words = Vec::new();
        if !self.state.arguments.is_empty() {
            words.push(format!("|{}", self.state.arguments.len()));
            for name in &self.state.arguments {
                words.push(format!("{name}={}", self.state.env.get(name).unwrap_or_default()));
            }
        }
        let exec = matches!(run.command, CommandLine::Exec(_));
        words.push(if exec { args.join(" ") } else { args.join(" ").trim_end().to_owned() });
        words.join(" ")
    }

    fn mounts(&self, words: &[Word]) -> Result<Vec<Mount>> {
        let mut mounts = Vec::new();
        let mut sockets = 0;
        for word in words {
            let lookup = |name: &str| self.state.env.get(name).map(str::to_owned);
            let mut expand = |text: &str| self.plan.lexer.word(text, &lookup);
            let parsed = mount::Mount::parse(&word.text, &mut expand).map_err(|fault| self.at(fault, word.span))?;
            let cwd = self.state.workdir();
            let target = |path: &str| -> Result<String> {
                let path = absolute(cwd, path);
                match path.trim_end_matches('/') {
                    "" => Err(self.at(Fault::new("a mount cannot take the place of `/`"), word.span)),
                    path => Ok(path.to_owned()),
                }
            };
            let origin = |from: &Option<String>, or: Origin| from.as_deref().map_or(or, |name| self.plan.origin(name));
            mounts.push(match parsed {
                mount::Mount::Bind(bind) => Mount::Bind {
                    origin: origin(&bind.from, Origin::Context),
                    source: absolute("/", &bind.source).trim_end_matches('/').to_owned(),
                    target: target(&bind.target)?,
                    writable: bind.writable,
                },
                mount::Mount::Cache(mut options) => {
                    options.target = target(&options.target)?;
                    if let Some(namespace) = self.plan.global("BUILDKIT_CACHE_MOUNT_NS") {
                        options.id = format!("{namespace}/{}", options.id);
                    }
                    Mount::Cache { origin: origin(&options.from, Origin::Scratch), options }
                }
                mount::Mount::Tmpfs(mut options) => {
                    options.target = target(&options.target)?;
                    Mount::Tmpfs(options)
                }
                mount::Mount::Secret(mut options) => {
                    options.target = options.target.as_deref().map(target).transpose()?;
                    Mount::Secret(options)
                }
                mount::Mount::Ssh(options) => {
                    let path = match &options.target {
                        Some(path) => target(path)?,
                        None => format!("/run/buildkit/ssh_agent.{sockets}"),
                    };
                    sockets += 1;
                    Mount::Ssh(options, path)
                }
            });
        }
        Ok(mounts)
    }

    fn copy(&self, copy: &ast::Copy) -> Result<(Action, String)> {
        let (mut lowered, written) = self.files("COPY", &copy.sources, &copy.destination, &copy.chown, &copy.chmod)?;
        if let Some(from) = &copy.from {
            lowered.origin = self.plan.origin(&from.text);
            if lowered.origin == Origin::Stage(self.index) {
                return Err(self.at(Fault::new("a stage cannot copy from itself"), from.span));
            }
        }
        lowered.link = copy.link;
        lowered.parents = copy.parents;
        lowered.exclude = copy.exclude.iter().map(|word| word.text.clone()).collect();
        let from = copy.from.as_ref().map(|word| format!("--from={} ", word.text)).unwrap_or_default();
        let history = copy_history(&lowered, &written, &from);
        Ok((Action::Copy(Box::new(lowered)), history))
    }

    fn add(&self, add: &ast::Add) -> Result<(Action, String)> {
        let (mut lowered, written) = self.files("ADD", &add.sources, &add.destination, &add.chown, &add.chmod)?;
        lowered.link = add.link;
        lowered.exclude = add.exclude.iter().map(|word| word.text.clone()).collect();
        lowered.unpack = match add.unpack {
            None => Unpack::Local,
            Some(true) => Unpack::Always,
            Some(false) => Unpack::Never,
        };
        let checksum = add.checksum.as_ref().map(|word| self.expand(word)).transpose()?;
        for (source, written) in lowered.sources.iter_mut().zip(&add.sources) {
            let (Source::Path(path), CopySource::Path(word)) = (&source, written) else { continue };
            let Some(mut remote) = remote::parse(path).map_err(|fault| self.at(fault, word.span))? else { continue };
            match (&mut remote, add.keep_git_dir) {
                (Remote::Git(git), Some(keep)) => {
                    if git.keep_git_dir.is_some_and(|said| said != keep) {
                        return Err(
                            self.at(Fault::new("--keep-git-dir and the address contradict one another"), word.span)
                        );
                    }
                    git.keep_git_dir = Some(keep);
                }
                (Remote::File(_), Some(true)) => {
                    return Err(self.at(Fault::new("--keep-git-dir is for git repositories only"), word.span));
                }
                _ => {}
            }
            let fetch = Fetch { remote, written: path.clone(), checksum: checksum.clone() };
            *source = Source::Remote(Box::new(fetch));
        }
        let fetched = lowered.sources.iter().filter(|source| matches!(source, Source::Remote(_))).count();
        if let Some(word) = &add.checksum {
            let fault = match (fetched, lowered.sources.len()) {
                (0, _) => Fault::new("--checksum is for files on the web and git repositories only"),
                (_, 2..) => {
                    Fault::new("--checksum is of one source, and there are several").hint("write one ADD for each")
                }
                _ if checksum.as_deref().is_some_and(str::is_empty) => Fault::new("--checksum is empty"),
                _ => return self.added(lowered, &written),
            };
            return Err(self.at(fault, word.span));
        }
        self.added(lowered, &written)
    }

    fn added(&self, lowered: Copy, written: &Written) -> Result<(Action, String)> {
        let history = copy_history(&lowered, written, "");
        Ok((Action::Copy(Box::new(lowered)), history))
    }

    fn files(
        &self,
        instruction: &'static str,
        sources: &[CopySource],
        destination: &Word,
        chown: &Option<Word>,
        chmod: &Option<Word>,
    ) -> Result<(Copy, Written)> {
        let mut lowered = Vec::new();
        for source in sources {
            lowered.push(match source {
                CopySource::Path(word) => {
                    let path = self.expand(word)?;
                    if instruction == "COPY" && (path.starts_with("http://") || path.starts_with("https://")) {
                        let fault = Fault::new("COPY takes no URL").hint("ADD does");
                        return Err(self.at(fault, word.span));
                    }
                    Source::Path(path)
                }
                CopySource::Inline(heredoc) => {
                    let content = heredoc.content();
                    let content = match heredoc.expand {
                        true => {
                            let lookup = |name: &str| self.state.env.get(name).map(str::to_owned);
                            let expanded = Lexer::heredoc().word(&content, &lookup);
                            expanded.map_err(|fault| self.at(fault, heredoc.span))?
                        }
                        false => content.into_owned(),
                    };
                    Source::Inline(heredoc.name.clone(), content)
                }
            });
        }
        let mut written = Written { chmod: None, destination: self.expand(destination)? };
        let chmod = match chmod {
            Some(word) => {
                let text = self.expand(word)?;
                let parsed = Chmod::parse(&text).map_err(|error| self.at(with_hint(&error), word.span))?;
                written.chmod = Some(text);
                Some(parsed)
            }
            None => None,
        };
        // A variable may leave nothing: that is the working directory, as for docker.
        let path = if written.destination.is_empty() { "." } else { &written.destination };
        let copy = Copy {
            sources: lowered,
            origin: Origin::Context,
            destination: absolute(self.state.workdir(), path),
            chown: chown.as_ref().map(|word| self.expand(word)).transpose()?,
            chmod,
            link: false,
            parents: false,
            exclude: Vec::new(),
            unpack: Unpack::Never,
            instruction,
        };
        Ok((copy, written))
    }

    fn pairs(&self, pairs: &[ast::Pair]) -> Result<Vec<(String, String)>> {
        pairs.iter().map(|pair| Ok((self.expand(&pair.key)?, self.expand(&pair.value)?))).collect()
    }

    fn expand(&self, word: &Word) -> Result<String> {
        let lookup = |name: &str| self.state.env.get(name).map(str::to_owned);
        let expanded =
            self.plan.lexer.word_with_names(&word.text, &lookup).map_err(|fault| self.at(fault, word.span))?;
        self.unset.borrow_mut().extend(expanded.unset);
        Ok(expanded.text)
    }

    fn at(&self, fault: Fault, span: Span) -> Error {
        let error: ParseError = fault.at(&self.plan.file.source, span);
        error.into()
    }
}

fn with_hint(error: &Error) -> Fault {
    let fault = Fault::new(error.to_string());
    match error.advice() {
        Some(hint) => fault.hint(hint),
        None => fault,
    }
}

/// What of a copy the history shows as the Dockerfile has it, variables replaced.
struct Written {
    chmod: Option<String>,
    destination: String,
}

fn copy_history(copy: &Copy, written: &Written, from: &str) -> String {
    let mut text = format!("{} {from}", copy.instruction);
    if copy.parents {
        text.push_str("--parents ");
    }
    if let Some(chown) = &copy.chown {
        text.push_str(&format!("--chown={chown} "));
    }
    if let Some(chmod) = &written.chmod {
        text.push_str(&format!("--chmod={chmod} "));
    }
    for source in &copy.sources {
        match source {
            Source::Path(path) => text.push_str(path),
            Source::Remote(fetch) => text.push_str(&fetch.written),
            Source::Inline(name, _) => text.push_str(&format!("<<{name}")),
        }
        text.push(' ');
    }
    text.push_str(&written.destination);
    text
}

fn show_pairs(pairs: &[(String, String)]) -> String {
    pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

fn json(list: &[String]) -> String {
    serde_json::to_string(list).expect("strings are JSON")
}

/// The instruction as progress shows it, the first line of a heredoc included.
fn one_line(instruction: &Instruction) -> String {
    let heredocs: Vec<&str> = match &instruction.command {
        Command::Run(run) => run.heredocs.iter().map(|heredoc| heredoc.raw.as_str()).collect(),
        Command::Copy(ast::Copy { sources, .. }) | Command::Add(ast::Add { sources, .. }) => {
            let inline = |source: &'_ CopySource| matches!(source, CopySource::Inline(_));
            if sources.iter().any(inline) { return instruction.original.trim().to_owned() } else { Vec::new() }
        }
        _ => Vec::new(),
    };
    let original = instruction.original.trim();
    match heredocs.first() {
        Some(text) => {
            let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            let first = lines.next().unwrap_or_default();
            let more = if lines.next().is_some() { "..." } else { "" };
            format!("{original} ({first}{more})")
        }
        None => original.to_owned(),
    }
}
