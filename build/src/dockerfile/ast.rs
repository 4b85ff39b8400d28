//! What a Dockerfile says, typed, before any variable has a value.
//!
//! A [`Word`] is text as the author wrote it, quotes and `$names` included, and where it stood. Fields whose doc says
//! *expanded* go through [`super::expand::Lexer`] with the environment of the step before they mean anything; all
//! others are final. Nothing here depends on the build's arguments, platform or files.

use std::time::Duration;

use super::source::{Source, Span};

/// A whole Dockerfile.
#[derive(Clone, Debug)]
pub struct Dockerfile {
    /// The text it was parsed from: later errors are shown in it.
    pub source: Source,
    /// The parser directives at its top.
    pub directives: Directives,
    /// The `ARG` instructions before the first `FROM`, in order. Each holds a [`Command::Arg`].
    pub global_args: Vec<Instruction>,
    /// The stages in order; there is at least one.
    pub stages: Vec<Stage>,
    /// What parses today but should be written otherwise.
    pub warnings: Vec<Warning>,
}

/// The parser directives: comments of the form `# name=value` that precede everything else.
#[derive(Clone, Debug)]
pub struct Directives {
    /// `syntax`: the frontend the author asked for. We are our own frontend; the value is for messages only.
    pub syntax: Option<Word>,
    /// `escape`: the character that escapes and continues lines, a backslash unless said otherwise.
    pub escape: char,
    /// `check`: how lints are run.
    pub check: Option<Check>,
}

impl Default for Directives {
    fn default() -> Self {
        Self { syntax: None, escape: '\\', check: None }
    }
}

/// The `check` directive: `skip=RuleA,RuleB|all;error=true;experimental=RuleC|all`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// Rules that are not run.
    pub skip: RuleSet,
    /// Experimental rules that are run too.
    pub experimental: RuleSet,
    /// Findings fail the build.
    pub error: bool,
}

/// A set of lint rules by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// Every rule.
    pub all: bool,
    /// These rules.
    pub names: Vec<String>,
}

impl RuleSet {
    /// Whether the rule is in the set. Names are compared without regard to case.
    pub fn contains(&self, rule: &str) -> bool {
        self.all || self.names.iter().any(|name| name.eq_ignore_ascii_case(rule))
    }
}

/// Text as written, not yet expanded, and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The text: continuation lines are joined, quotes and variables are still in it.
    pub text: String,
    /// Where it stands in the source.
    pub span: Span,
}

/// A build stage: `FROM` and what follows it.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The `FROM` instruction.
    pub from: From,
    /// The name after `AS`, in lowercase: stage names do not distinguish case.
    pub name: Option<String>,
    /// The instructions after `FROM`, in order.
    pub instructions: Vec<Instruction>,
    /// The `FROM` instruction as one line, for messages.
    pub original: String,
    /// The comment lines directly above `FROM`.
    pub comments: Vec<String>,
    /// Where the `FROM` instruction stands.
    pub span: Span,
}

/// `FROM [--platform=P] IMAGE [AS NAME]`.
#[derive(Clone, Debug)]
pub struct From {
    /// The word `FROM` as written, for the casing lints.
    pub keyword: Word,
    /// `--platform`, expanded with the global arguments.
    pub platform: Option<Word>,
    /// An image, an earlier stage or `scratch`; expanded with the global arguments.
    pub image: Word,
    /// The words `AS` and the name as written.
    pub alias: Option<(Word, Word)>,
}

/// One instruction of a stage.
#[derive(Clone, Debug)]
pub struct Instruction {
    /// The instruction's name as written.
    pub keyword: Word,
    /// What it says.
    pub command: Command,
    /// The instruction as one line without its heredocs, as image histories and progress show it.
    pub original: String,
    /// The comment lines directly above it.
    pub comments: Vec<String>,
    /// From the first byte of its first line to the end of its last, heredocs included.
    pub span: Span,
}

/// What an instruction says.
#[derive(Clone, Debug)]
pub enum Command {
    /// `ADD`.
    Add(Add),
    /// `ARG NAME[=DEFAULT]…`, at least one.
    Arg(Vec<ArgDefinition>),
    /// `CMD`.
    Cmd(CommandLine),
    /// `COPY`.
    Copy(Copy),
    /// `ENTRYPOINT`.
    Entrypoint(CommandLine),
    /// `ENV`; keys and values are expanded.
    Env(Vec<Pair>),
    /// `EXPOSE`; each word is expanded and may become several ([`super::expand::Lexer::words`]).
    Expose(Vec<Word>),
    /// `HEALTHCHECK`.
    Healthcheck(Healthcheck),
    /// `LABEL`; keys and values are expanded.
    Label(Vec<Pair>),
    /// `MAINTAINER` (deprecated).
    Maintainer(Word),
    /// `ONBUILD`.
    Onbuild(Onbuild),
    /// `RUN`.
    Run(Run),
    /// `SHELL ["…", …]`, at least one.
    Shell(Vec<String>),
    /// `STOPSIGNAL`, expanded.
    StopSignal(Word),
    /// `USER`, expanded.
    User(Word),
    /// `VOLUME`; each word is expanded.
    Volume(Vec<Word>),
    /// `WORKDIR`, expanded.
    Workdir(Word),
}

impl Command {
    /// The instruction's name in capitals.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::StopSignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}

/// One name of an `ARG` instruction.
#[derive(Clone, Debug)]
pub struct ArgDefinition {
    /// The name, expanded.
    pub name: Word,
    /// The default, expanded. It sees the arguments before it, also those of the same instruction.
    pub default: Option<Word>,
    /// The text after the name in a comment above that starts with the name.
    pub doc: Option<String>,
}

/// One pair of `ENV` or `LABEL`. The values of one instruction do not see each other.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The key, expanded.
    pub key: Word,
    /// The value, expanded.
    pub value: Word,
    /// Written in the legacy form `KEY value`, without an equals sign.
    pub legacy: bool,
}

/// The command of `RUN`, `CMD` and `ENTRYPOINT`. Variables in it are left to the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandLine {
    /// The JSON form: the arguments as they are.
    Exec(Vec<String>),
    /// The shell form: one string for the stage's `SHELL`, empty for a bare instruction.
    Shell(Word),
}

/// The body of a heredoc: `<<NAME` in an instruction, then lines up to `NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// The terminator without its quotes; of `COPY` and `ADD` also the file's name.
    pub name: String,
    /// The file descriptor before `<<`; 0 where none is written.
    pub descriptor: u32,
    /// No part of the name was quoted: variables in the content are expanded (`COPY` and `ADD` only; in `RUN` the
    /// shell does what it does).
    pub expand: bool,
    /// `<<-`: leading tabs are taken off each line, see [`Heredoc::content`].
    pub chomp: bool,
    /// The lines as written, line ends included, without the terminator.
    pub raw: String,
    /// Where those lines stand.
    pub span: Span,
}

/// `RUN`.
#[derive(Clone, Debug)]
pub struct Run {
    /// The command without its heredocs; [`Run::script`] has both.
    pub command: CommandLine,
    /// The heredocs of a shell-form command, in order.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, in order; see [`super::mount::Mount::parse`] for their expansion.
    pub mounts: Vec<Word>,
    /// `--network`.
    pub network: Network,
    /// `--security`.
    pub security: Security,
    /// `--device`, in order.
    pub devices: Vec<Device>,
    /// The names of the flags used, in order and without the dashes: for the history.
    pub flags: Vec<String>,
}

/// What a shell is asked to run for a `RUN` instruction, its heredocs resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Script {
    /// These arguments, no shell.
    Exec(Vec<String>),
    /// This text through the stage's `SHELL`.
    Shell(String),
    /// The whole command is one heredoc with a `#!` line: `content` is made an executable file `/dev/pipes/NAME`,
    /// mode 0755 and read-only, and its path is given to the stage's `SHELL`.
    File {
        /// The file's name.
        name: String,
        /// The file's bytes.
        content: String,
    },
}

/// `RUN --network`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// What the build's command line says.
    #[default]
    Default,
    /// No network but loopback.
    None,
    /// The host's network.
    Host,
}

/// `RUN --security`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Security {
    /// The default confinement.
    #[default]
    Sandbox,
    /// All capabilities, no seccomp.
    Insecure,
}

/// `RUN --device`: a CDI device, or a class of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The CDI name.
    pub name: String,
    /// The step fails where there is no such device.
    pub required: bool,
    /// Where it is asked for.
    pub span: Span,
}

/// One source of `COPY` or `ADD`.
#[derive(Clone, Debug)]
pub enum CopySource {
    /// A path, wildcard or (of `ADD`) URL, expanded.
    Path(Word),
    /// A file written in the Dockerfile.
    Inline(Heredoc),
}

/// `COPY`.
#[derive(Clone, Debug)]
pub struct Copy {
    /// The sources; at least one.
    pub sources: Vec<CopySource>,
    /// The destination, expanded.
    pub destination: Word,
    /// `--from`: a stage's name or index, a named context or an image. Not expanded.
    pub from: Option<Word>,
    /// `--chown`, expanded.
    pub chown: Option<Word>,
    /// `--chmod`, expanded: octal or symbolic.
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`, in order; not expanded.
    pub exclude: Vec<Word>,
}

/// `ADD`.
#[derive(Clone, Debug)]
pub struct Add {
    /// The sources; at least one.
    pub sources: Vec<CopySource>,
    /// The destination, expanded.
    pub destination: Word,
    /// `--chown`, expanded.
    pub chown: Option<Word>,
    /// `--chmod`, expanded: octal or symbolic.
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `--exclude`, in order; not expanded.
    pub exclude: Vec<Word>,
    /// `--checksum`, expanded.
    pub checksum: Option<Word>,
    /// `--keep-git-dir`, where written.
    pub keep_git_dir: Option<bool>,
    /// `--unpack`, where written.
    pub unpack: Option<bool>,
}

/// `HEALTHCHECK`. A duration that is not written is inherited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`.
    None,
    /// `HEALTHCHECK [flags] CMD …`.
    Check {
        /// What is run.
        command: CommandLine,
        /// `--interval`.
        interval: Option<Duration>,
        /// `--timeout`.
        timeout: Option<Duration>,
        /// `--start-period`.
        start_period: Option<Duration>,
        /// `--start-interval`.
        start_interval: Option<Duration>,
        /// `--retries`.
        retries: Option<u32>,
    },
}

/// `ONBUILD`.
#[derive(Clone, Debug)]
pub struct Onbuild {
    /// The text that goes into the image's configuration, heredocs included; [`super::parse_trigger`] reads it back.
    pub trigger: String,
    /// The same, parsed.
    pub instruction: Box<Instruction>,
}

/// Something that parses, but should be written otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The rule's name, one of BuildKit's.
    pub rule: &'static str,
    /// One sentence, in BuildKit's words.
    pub message: String,
    /// What it is about.
    pub span: Span,
}
