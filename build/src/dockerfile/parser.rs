//! From nodes to the tree: what each instruction takes, and what it refuses.

use std::time::Duration;

use super::ast::{
    Add, ArgDefinition, Command, CommandLine, Copy, CopySource, Device, Dockerfile, From, Healthcheck, Heredoc,
    Instruction, Network, Onbuild, Pair, Run, Security, Stage, Word,
};
use super::error::{Fault, ParseError};
use super::expand::Lexer;
use super::flags::{self, Flags};
use super::heredoc::{Marker, with_heredocs};
use super::lines::Lines;
use super::mount::Mount;
use super::node::{self, Args, Node};
use super::source::{Source, Span};
use super::values::duration;

type Result<T> = std::result::Result<T, ParseError>;

/// Every instruction there is.
pub(super) const INSTRUCTIONS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Parses a Dockerfile. `name` is what errors call it.
pub fn parse(text: &[u8], name: &str) -> Result<Dockerfile> {
    let source = Source::new(name, text);
    let mut lines = Lines::new(&source);
    let nodes = node::read(&mut lines, &source)?;
    let (directives, warnings) = (lines.directives, lines.warnings);
    let typer = Typer { source: &source, escape: directives.escape };
    let (mut global_args, mut stages) = (Vec::new(), Vec::<Stage>::new());
    let empty = nodes.is_empty();
    for node in nodes {
        if node.keyword.text.eq_ignore_ascii_case("from") {
            stages.push(typer.stage(node)?);
            continue;
        }
        let instruction = typer.instruction(node)?;
        match (stages.last_mut(), &instruction.command) {
            (Some(stage), _) => stage.instructions.push(instruction),
            (None, Command::Arg(_)) => global_args.push(instruction),
            (None, command) => {
                let fault = Fault::new(format!("`{}` stands before the first `FROM`", command.name()));
                return Err(fault.hint("only `ARG` may").at(&source, instruction.keyword.span));
            }
        }
    }
    if stages.is_empty() {
        let end: Span = (text.len()..text.len()).into();
        let message = if empty { "the file holds no instructions" } else { "the file holds no `FROM`" };
        return Err(Fault::new(message).at(&source, end));
    }
    Ok(Dockerfile { source, directives, global_args, stages, warnings })
}

/// Parses the trigger that an `ONBUILD` left in a base image. `name` is what errors call it.
pub fn parse_trigger(text: &str, name: &str) -> Result<Instruction> {
    let source = Source::new(name, text.as_bytes());
    let mut lines = Lines::new(&source);
    let mut nodes = node::read(&mut lines, &source)?;
    let typer = Typer { source: &source, escape: lines.directives.escape };
    let node = match (nodes.pop(), nodes.is_empty()) {
        (Some(node), true) => node,
        (None, _) => return Err(Fault::new("the trigger holds no instruction").at(&source, Span::default())),
        (Some(second), false) => {
            return Err(Fault::new("the trigger holds more than one instruction").at(&source, second.span));
        }
    };
    typer.trigger(&node)?;
    typer.instruction(node)
}

struct Typer<'a> {
    source: &'a Source,
    escape: char,
}

impl Typer<'_> {
    fn flags(&self, node: &Node, known: flags::Known) -> Result<Flags> {
        Flags::parse(&node.flags, known, self.source)
    }

    fn error<T>(&self, span: Span, fault: Fault) -> Result<T> {
        Err(fault.at(self.source, span))
    }

    fn stage(&self, node: Node) -> Result<Stage> {
        let flags = self.flags(&node, flags::FROM)?;
        let words = self.words(&node)?;
        let (image, alias) = match words {
            [image] => (image, None),
            [image, r#as, name] if r#as.text.eq_ignore_ascii_case("as") => (image, Some((r#as.clone(), name.clone()))),
            [] => {
                let fault = Fault::new("`FROM` names no image");
                return self.error(node.keyword.span, fault.hint("FROM IMAGE [AS NAME]"));
            }
            [_, extra, ..] => {
                let fault = Fault::new("`FROM` takes an image, or an image, `AS` and a name");
                return self.error(extra.span, fault.hint("FROM IMAGE [AS NAME]"));
            }
        };
        let name = alias.as_ref().map(|(_, name)| name.text.to_lowercase());
        if let (Some(name), Some((_, written))) = (&name, &alias) {
            let valid = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-' | '_' | '.');
            if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(valid) {
                let fault = Fault::new(format!("`{}` cannot name a stage", written.text));
                let hint = "a stage's name begins with a letter and holds letters, digits, `-`, `_` and `.`";
                return self.error(written.span, fault.hint(hint));
            }
        }
        let image = image.clone();
        Ok(Stage {
            from: From { platform: flags.text("platform"), image, alias, keyword: node.keyword },
            name,
            instructions: Vec::new(),
            original: node.original,
            comments: node.comments,
            span: node.span,
        })
    }

    fn instruction(&self, node: Node) -> Result<Instruction> {
        let command = match node.keyword.text.to_lowercase().as_str() {
            "add" => Command::Add(self.add(&node)?),
            "arg" => Command::Arg(self.arg(&node)?),
            "cmd" => Command::Cmd(self.plain_command(&node)?),
            "copy" => Command::Copy(self.copy(&node)?),
            "entrypoint" => Command::Entrypoint(self.plain_command(&node)?),
            "env" => Command::Env(self.pairs(&node)?),
            "expose" => Command::Expose(self.at_least_one(&node)?),
            "healthcheck" => Command::Healthcheck(self.healthcheck(&node)?),
            "label" => Command::Label(self.pairs(&node)?),
            "maintainer" => Command::Maintainer(self.exactly_one(&node)?),
            "onbuild" => return self.onbuild(node),
            "run" => Command::Run(self.run(&node)?),
            "shell" => Command::Shell(self.shell(&node)?),
            "stopsignal" => Command::StopSignal(self.exactly_one(&node)?),
            "user" => Command::User(self.exactly_one(&node)?),
            "volume" => Command::Volume(self.volume(&node)?),
            "workdir" => Command::Workdir(self.exactly_one(&node)?),
            _ => return self.error(node.keyword.span, unknown_instruction(&node.keyword.text)),
        };
        let Node { keyword, original, comments, span, .. } = node;
        Ok(Instruction { keyword, command, original, comments, span })
    }

    /// The words of an instruction that has nothing else.
    fn words<'n>(&self, node: &'n Node) -> Result<&'n [Word]> {
        match &node.args {
            Args::Words(words) | Args::Json(words) => Ok(words),
            _ => self.error(node.span, Fault::new(format!("`{}` takes words", name_of(node)))),
        }
    }

    fn at_least_one(&self, node: &Node) -> Result<Vec<Word>> {
        self.flags(node, flags::NONE)?;
        match self.words(node)? {
            [] => self.error(node.keyword.span, needs_argument(&name_of(node))),
            words => Ok(words.to_vec()),
        }
    }

    fn exactly_one(&self, node: &Node) -> Result<Word> {
        Ok(self.at_least_one(node)?.swap_remove(0))
    }

    fn pairs(&self, node: &Node) -> Result<Vec<Pair>> {
        self.flags(node, flags::NONE)?;
        let Args::Pairs(pairs) = &node.args else {
            return self.error(node.span, Fault::new(format!("`{}` takes pairs", name_of(node))));
        };
        if pairs.is_empty() {
            let fault = needs_argument(&name_of(node));
            return self.error(node.keyword.span, fault.hint(format!("{} KEY=VALUE", name_of(node))));
        }
        match pairs.iter().find(|pair| pair.key.text.is_empty()) {
            Some(pair) => {
                let span = Span { start: pair.key.span.start, end: pair.value.span.end };
                self.error(span, Fault::new(format!("a name of this `{}` is empty", name_of(node))))
            }
            None => Ok(pairs.clone()),
        }
    }

    fn arg(&self, node: &Node) -> Result<Vec<ArgDefinition>> {
        let mut definitions = Vec::new();
        for word in self.at_least_one(node)? {
            let (name, default) = match word.text.split_once('=') {
                Some((name, default)) => {
                    let Span { start, end } = word.span;
                    let middle = (start + name.len()).min(end);
                    let default = Word { text: default.to_owned(), span: Span { start: (middle + 1).min(end), end } };
                    (Word { text: name.to_owned(), span: Span { start, end: middle } }, Some(default))
                }
                None => (word.clone(), None),
            };
            if name.text.is_empty() {
                return self.error(word.span, Fault::new("a name of this `ARG` is empty"));
            }
            let described = |line: &String| line.strip_prefix(&name.text)?.strip_prefix(' ').map(str::to_owned);
            let doc = node.comments.iter().find_map(described);
            definitions.push(ArgDefinition { name, default, doc });
        }
        Ok(definitions)
    }

    fn volume(&self, node: &Node) -> Result<Vec<Word>> {
        let mut words = self.at_least_one(node)?;
        for word in &mut words {
            let text = word.text.trim();
            if text.is_empty() {
                return self.error(word.span, Fault::new("a `VOLUME` cannot be empty"));
            }
            word.text = text.to_owned();
        }
        Ok(words)
    }

    fn plain_command(&self, node: &Node) -> Result<CommandLine> {
        self.flags(node, flags::NONE)?;
        self.command_line(&node.args, node)
    }

    fn command_line(&self, args: &Args, node: &Node) -> Result<CommandLine> {
        match args {
            Args::Json(words) => Ok(CommandLine::Exec(words.iter().map(|word| word.text.clone()).collect())),
            Args::Words(words) => {
                let end = node.keyword.span.end;
                let bare = Word { text: String::new(), span: Span { start: end, end } };
                Ok(CommandLine::Shell(words.first().cloned().unwrap_or(bare)))
            }
            _ => self.error(node.span, Fault::new(format!("`{}` takes a command", name_of(node)))),
        }
    }

    fn shell(&self, node: &Node) -> Result<Vec<String>> {
        match self.plain_command(node)? {
            CommandLine::Exec(arguments) if !arguments.is_empty() => Ok(arguments),
            CommandLine::Exec(_) => self.error(node.span, needs_argument("SHELL")),
            CommandLine::Shell(word) => {
                let fault = Fault::new("`SHELL` takes a JSON array");
                self.error(word.span, fault.hint("SHELL [\"/bin/bash\", \"-c\"]"))
            }
        }
    }

    fn run(&self, node: &Node) -> Result<Run> {
        let flags = self.flags(node, flags::RUN)?;
        let mounts: Vec<Word> = flags.values("mount").collect();
        for mount in &mounts {
            self.check_mount(mount)?;
        }
        let choose = |name: &str, known: &[&'static str]| -> Result<usize> {
            let Some(word) = flags.value(name) else { return Ok(0) };
            known.iter().position(|known| *known == word.text).map_or_else(
                || {
                    let fault = Fault::unknown(
                        format!("`{}` is no value for `--{name}`", word.text),
                        &word.text,
                        known.iter().copied(),
                    );
                    self.error(word.span, fault.or_hint(format!("it is one of {}", known.join(", "))))
                },
                Ok,
            )
        };
        let network =
            [Network::Default, Network::None, Network::Host][choose("network", &["default", "none", "host"])?];
        let security = [Security::Sandbox, Security::Insecure][choose("security", &["sandbox", "insecure"])?];
        let devices = flags.values("device").map(|word| {
            let device = Device::parse(&word);
            device.map_err(|fault| fault.at(self.source, word.span))
        });
        Ok(Run {
            devices: devices.collect::<Result<_>>()?,
            command: self.command_line(&node.args, node)?,
            heredocs: node.heredocs.clone(),
            mounts,
            network,
            security,
            flags: flags.names(),
        })
    }

    /// A mount with variables is checked when they are known; one without, here, where its place is known.
    fn check_mount(&self, mount: &Word) -> Result<()> {
        let lexer = Lexer::new(self.escape);
        let mut variable = false;
        let parsed = Mount::parse(&mount.text, &mut |text| {
            let expanded = lexer.word_with_names(text, &|_| None)?;
            variable |= !expanded.unset.is_empty();
            Ok(expanded.text)
        });
        match parsed {
            Err(fault) if !variable => self.error(mount.span, fault),
            _ => Ok(()),
        }
    }

    fn copy(&self, node: &Node) -> Result<Copy> {
        let flags = self.flags(node, flags::COPY)?;
        let (sources, destination) = self.sources(node)?;
        let from = flags.text("from");
        if let Some(from) = from.as_ref().filter(|from| from.text.contains('$')) {
            let fault = Fault::new("`--from` takes no variables");
            return self.error(
                from.span,
                fault.hint("give the image a stage of its own, `FROM $IMAGE AS name`, and copy from that"),
            );
        }
        Ok(Copy {
            sources,
            destination,
            from,
            chown: flags.text("chown"),
            chmod: flags.text("chmod"),
            link: flags.switch("link").unwrap_or(false),
            parents: flags.switch("parents").unwrap_or(false),
            exclude: flags.values("exclude").collect(),
        })
    }

    fn add(&self, node: &Node) -> Result<Add> {
        let flags = self.flags(node, flags::ADD)?;
        let (sources, destination) = self.sources(node)?;
        Ok(Add {
            sources,
            destination,
            chown: flags.text("chown"),
            chmod: flags.text("chmod"),
            link: flags.switch("link").unwrap_or(false),
            exclude: flags.values("exclude").collect(),
            checksum: flags.text("checksum"),
            keep_git_dir: flags.switch("keep-git-dir"),
            unpack: flags.switch("unpack"),
        })
    }

    fn sources(&self, node: &Node) -> Result<(Vec<CopySource>, Word)> {
        let name = name_of(node);
        let Some((destination, sources)) = self.words(node)?.split_last().filter(|(_, sources)| !sources.is_empty())
        else {
            let fault = Fault::new(format!("`{name}` needs a source and a destination"));
            return self.error(node.span, fault.hint(format!("{name} SOURCE… DESTINATION")));
        };
        if let Args::Json(_) = node.args {
            // A JSON array begins no heredocs: a string in it that looks like one is a path.
            return Ok((sources.iter().cloned().map(CopySource::Path).collect(), destination.clone()));
        }
        if matches!(Marker::parse(&destination.text), Ok(Some(_))) {
            return self.error(destination.span, Fault::new(format!("`{name}` cannot copy to a heredoc")));
        }
        let mut heredocs: Vec<&Heredoc> = node.heredocs.iter().collect();
        let mut result = Vec::new();
        for source in sources {
            let named = |marker: Marker| heredocs.iter().position(|heredoc| heredoc.name == marker.name);
            match Marker::parse(&source.text).ok().flatten().and_then(named) {
                Some(at) => result.push(CopySource::Inline(heredocs.remove(at).clone())),
                None => result.push(CopySource::Path(source.clone())),
            }
        }
        if let Some(heredoc) = heredocs.first() {
            let fault = Fault::new(format!("the heredoc `{}` is not a source of this `{name}`", heredoc.name));
            return self.error(node.span, fault.hint("write `<<` and the name without a space between"));
        }
        Ok((result, destination.clone()))
    }

    fn healthcheck(&self, node: &Node) -> Result<Healthcheck> {
        let flags = self.flags(node, flags::HEALTHCHECK)?;
        let Args::Health(kind, rest) = &node.args else {
            let fault = needs_argument("HEALTHCHECK");
            return self.error(node.keyword.span, fault.hint("HEALTHCHECK CMD COMMAND, or HEALTHCHECK NONE"));
        };
        let command = self.command_line(rest, node)?;
        let empty = match &command {
            CommandLine::Exec(arguments) => arguments.is_empty(),
            CommandLine::Shell(word) => word.text.is_empty(),
        };
        match (kind.text.to_uppercase().as_str(), empty) {
            ("NONE", true) => return Ok(Healthcheck::None),
            ("NONE", false) => return self.error(node.span, Fault::new("`HEALTHCHECK NONE` takes no arguments")),
            ("CMD", true) => return self.error(kind.span, Fault::new("`HEALTHCHECK CMD` needs a command")),
            ("CMD", false) => {}
            (_, _) => {
                let fault = Fault::new(format!("`HEALTHCHECK` knows no `{}`", kind.text));
                return self.error(kind.span, fault.hint("HEALTHCHECK CMD COMMAND, or HEALTHCHECK NONE"));
            }
        }
        Ok(Healthcheck::Check {
            command,
            interval: self.interval(&flags, "interval")?,
            timeout: self.interval(&flags, "timeout")?,
            start_period: self.interval(&flags, "start-period")?,
            start_interval: self.interval(&flags, "start-interval")?,
            retries: match flags.text("retries") {
                Some(word) => {
                    Some(word.text.parse::<u32>().ok().filter(|retries| *retries <= i32::MAX as u32).ok_or_else(
                        || Fault::new(format!("`{}` is no number of retries", word.text)).at(self.source, word.span),
                    )?)
                    .filter(|retries| *retries > 0)
                }
                None => None,
            },
        })
    }

    /// A duration; zero means the same as none.
    fn interval(&self, flags: &Flags, name: &str) -> Result<Option<Duration>> {
        let Some(word) = flags.text(name) else { return Ok(None) };
        match duration(&word.text) {
            Some(Duration::ZERO) => Ok(None),
            Some(duration) if duration >= Duration::from_millis(1) => Ok(Some(duration)),
            Some(_) => self.error(word.span, Fault::new(format!("`--{name}` cannot be less than 1ms"))),
            None => {
                let fault = Fault::new(format!("`{}` is no duration", word.text));
                self.error(word.span, fault.hint("write it like 1h, 90s, 1m30s or 500ms"))
            }
        }
    }

    fn onbuild(&self, node: Node) -> Result<Instruction> {
        self.flags(&node, flags::NONE)?;
        let Node { keyword, args, heredocs, original, comments, span, .. } = node;
        let Args::Nested(mut inner) = args else {
            let fault = Fault::new("`ONBUILD` needs an instruction");
            return self.error(keyword.span, fault);
        };
        self.trigger(&inner)?;
        let trigger = with_heredocs(&inner.original, &heredocs);
        inner.heredocs = heredocs;
        let command = Command::Onbuild(Onbuild { trigger, instruction: Box::new(self.instruction(*inner)?) });
        Ok(Instruction { keyword, command, original, comments, span })
    }

    /// Refuses what cannot be a trigger.
    fn trigger(&self, node: &Node) -> Result<()> {
        let name = name_of(node);
        match name.as_str() {
            "ONBUILD" | "FROM" | "MAINTAINER" => {
                self.error(node.keyword.span, Fault::new(format!("`{name}` cannot stand in an `ONBUILD`")))
            }
            _ => Ok(()),
        }
    }
}

fn name_of(node: &Node) -> String {
    node.keyword.text.to_uppercase()
}

/// An instruction that stands alone, with what it could look like.
fn needs_argument(name: &str) -> Fault {
    let example = match name {
        "USER" => "USER app",
        "WORKDIR" => "WORKDIR /src",
        "STOPSIGNAL" => "STOPSIGNAL SIGTERM",
        "ENV" => "ENV NAME=value",
        "LABEL" => "LABEL name=value",
        "ARG" => "ARG NAME=default",
        "EXPOSE" => "EXPOSE 8080",
        "VOLUME" => "VOLUME /data",
        "SHELL" => "SHELL [\"/bin/bash\", \"-c\"]",
        "HEALTHCHECK" => "HEALTHCHECK CMD curl -f localhost",
        _ => "the instruction's name and what it works on",
    };
    Fault::new(format!("`{name}` needs an argument")).hint(format!("for example: {example}"))
}

fn unknown_instruction(word: &str) -> Fault {
    if word.is_empty() {
        return Fault::new("a line that is continued holds no instruction");
    }
    Fault::unknown(format!("unknown instruction `{word}`"), word, INSTRUCTIONS)
        .or_hint("does the line before end in a backslash, or does this text belong to a heredoc?")
}
