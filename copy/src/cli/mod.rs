//! The `copy` command line: arguments → options → one call → report.
//!
//! Results alone go to standard output; progress, notes and errors go to standard error. A first word that is a verb
//! is the verb; otherwise the words are what `copy SOURCE DESTINATION` takes, and `copy copy …` or `--` forces that.
//!
//! Flags are skopeo's where skopeo has them. One that skopeo has and this program lacks is refused by name.

mod accounts;
mod arguments;
mod check;
mod df;
mod gc;
mod images;
mod inspect;
mod progress;
mod template;
mod transfers;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::store::Store;
use layerfs::userns::{self, Mapping};

use crate::credentials::broker;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    /// All went well.
    Success = 0,
    /// The input or the environment is at fault.
    Failure = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// This program is at fault.
    Bug = 70,
    /// The reader of our output went away.
    ClosedPipe = 141,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Copy images between registries, archives and the store.
///
/// SOURCE and DESTINATION are docker://NAME or a bare NAME (a registry), oci:DIR[:NAME], oci-archive:FILE[:NAME],
/// docker-archive:FILE[:NAME], dir:DIR, or store:NAME.
#[derive(Debug, Parser)]
#[command(name = "copy", bin_name = "copy", version, disable_help_subcommand = true, subcommand_required = true)]
#[command(arg_required_else_help = true)]
struct Line {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Args)]
struct Global {
    /// The store's folder [default: $LAYERFS_STORE, else the user's own]
    #[arg(long, global = true, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Say nothing but results and errors
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Do not ask policy.json whether an image may be copied
    #[arg(long, global = true)]
    insecure_policy: bool,
    /// More detail (accepted for skopeo's sake)
    #[arg(long, global = true, hide = true)]
    debug: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Copy an image (also without the word: `copy SOURCE DESTINATION`)
    Copy(Box<transfers::CopyArguments>),
    /// Fetch an image into the store under its own name
    Pull(transfers::PullArguments),
    /// Show what an image is, as JSON
    Inspect(inspect::InspectArguments),
    /// List the tags of a repository
    #[command(name = "list-tags", visible_alias = "tags")]
    ListTags(inspect::ListTagsArguments),
    /// List the images of the store
    Images(images::ImagesArguments),
    /// Remove images from the store
    Rmi(images::RmiArguments),
    /// Give an image of the store more names
    Tag(images::TagArguments),
    /// Free what no image, container or build needs any more
    Gc(gc::GcArguments),
    /// Show where the space goes
    Df(df::DfArguments),
    /// Check every blob and unpacked layer of the store, and repair them
    Check(check::CheckArguments),
    /// Keep a credential for a registry
    Login(accounts::LoginArguments),
    /// Forget the credential for a registry
    Logout(accounts::LogoutArguments),
    /// Run credential helpers for a program in a user namespace
    #[command(name = broker::VERB, hide = true)]
    CredentialBroker,
}

/// The words that are verbs; frozen per release, since any other first word is a source.
const VERBS: [&str; 14] = [
    "copy",
    "pull",
    "inspect",
    "list-tags",
    "tags",
    "images",
    "rmi",
    "tag",
    "gc",
    "df",
    "check",
    "login",
    "logout",
    broker::VERB,
];
/// Options before the verb that take a value in the next word.
const GLOBAL_WITH_VALUE: [&str; 1] = ["--store"];
const GLOBAL_ALONE: [&str; 4] = ["--quiet", "-q", "--insecure-policy", "--debug"];

/// Runs the program and says how it ended.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        let _ = writeln!(std::io::stderr(), "copy: this is a bug: {panic}");
        // With panics that abort, this is the last chance to end with the right code.
        std::process::exit(Exit::Bug as i32);
    }));
    let line = match Line::try_parse_from(with_verb(arguments)) {
        Ok(line) => line,
        Err(error) => return refuse(&error).into(),
    };
    match run(line) {
        Ok(()) => Exit::Success.into(),
        Err(error) if is_closed_pipe(&error) => Exit::ClosedPipe.into(),
        Err(error) => {
            let mut text = format!("copy: {}\n", error.chain());
            if let Some(hint) = error.advice() {
                text.push_str(&format!("hint: {hint}\n"));
            }
            let _ = std::io::stderr().write_all(text.as_bytes());
            if error.kind() == Kind::Usage { Exit::Usage.into() } else { Exit::Failure.into() }
        }
    }
}

fn run(line: Line) -> Result<()> {
    let Line { global, verb } = line;
    match verb {
        Verb::Copy(arguments) => arguments.run(&global),
        Verb::Pull(arguments) => arguments.run(&global),
        Verb::Inspect(arguments) => arguments.run(&global),
        Verb::ListTags(arguments) => arguments.run(),
        Verb::Images(arguments) => arguments.run(&global),
        Verb::Rmi(arguments) => arguments.run(&global),
        Verb::Tag(arguments) => arguments.run(&global),
        Verb::Gc(arguments) => arguments.run(&global),
        Verb::Df(arguments) => arguments.run(&global),
        Verb::Check(arguments) => arguments.run(&global),
        Verb::Login(arguments) => arguments.run(),
        Verb::Logout(arguments) => arguments.run(),
        Verb::CredentialBroker => broker::serve(std::io::stdin().lock(), std::io::stdout().lock()),
    }
}

/// The arguments with the verb `copy` put in where there is none.
fn with_verb(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let mut at = 1;
    while let Some(word) = arguments.get(at).and_then(|word| word.to_str()) {
        if GLOBAL_WITH_VALUE.contains(&word) {
            at += 2;
        } else if GLOBAL_ALONE.contains(&word) || GLOBAL_WITH_VALUE.iter().any(|name| is_assignment(word, name)) {
            at += 1;
        } else {
            break;
        }
    }
    let verb_or_help = match arguments.get(at).and_then(|word| word.to_str()) {
        Some("-h" | "--help" | "-V" | "--version") | None => true,
        Some(word) => VERBS.contains(&word),
    };
    if !verb_or_help || (arguments.len() > at && arguments[at].to_str().is_none()) {
        arguments.insert(at, "copy".into());
    }
    arguments
}

fn is_assignment(word: &str, name: &str) -> bool {
    word.strip_prefix(name).is_some_and(|rest| rest.starts_with('='))
}

/// Shows help, or says what is wrong with the command line.
fn refuse(error: &clap::Error) -> Exit {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            return Exit::Success;
        }
        ErrorKind::UnknownArgument => {
            if let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg)
                && arguments::OF_SKOPEO.contains(&flag.as_str())
            {
                let text =
                    format!("copy: skopeo's flag `{flag}` is not built yet\nhint: `copy --help` lists what is\n");
                let _ = std::io::stderr().write_all(text.as_bytes());
                return Exit::Usage;
            }
        }
        _ => {}
    }
    let _ = error.print();
    Exit::Usage
}

fn is_closed_pipe(error: &Error) -> bool {
    error.errno() == Some(rustix::io::Errno::PIPE.raw_os_error())
}

/// Writes to standard output, the one place for results.
fn print(text: &str) -> Result<()> {
    print_bytes(text.as_bytes())
}

fn print_bytes(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).context(|| "write to standard output")
}

/// Writes a JSON document to standard output, indented.
fn print_json<T: serde::Serialize>(value: &T) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).context(|| "write JSON")?;
    text.push('\n');
    print(&text)
}

/// Who runs this program, inside and outside.
struct User {
    /// The user id outside of any namespace of ours.
    real_uid: u32,
    /// Not the machine's root.
    rootless: bool,
    /// Why only one id is available, where that is so.
    single_id: Option<String>,
}

impl User {
    /// Finds out, and changes nothing.
    fn current() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        // Another program of ours may have entered the namespace already: then 0 inside is the user outside.
        let outside = Mapping::current()
            .ok()
            .filter(|mapping| uid == 0 && !mapping.is_host())
            .and_then(|mapping| mapping.uids.iter().find(|range| range.container == 0).map(|range| range.host));
        Self { real_uid: outside.unwrap_or(uid), rootless: uid != 0 || outside.is_some(), single_id: None }
    }

    /// Becomes root of a namespace of the user's own, in which the files of the store have their owners. To be called
    /// while there is one thread only.
    fn enter() -> Result<Self> {
        let before = Self::current();
        let entered = userns::enter()?;
        Ok(Self { rootless: entered.rootless, single_id: entered.single_id, ..before })
    }
}

impl Global {
    /// Opens the store. Files in it may belong to any of the user's ids, so the namespace is entered first; where that
    /// cannot be had, most things still work.
    fn open_store(&self) -> Result<(Store, User)> {
        let user = User::enter().unwrap_or_else(|_| User::current());
        let root = self.store_root(&user)?;
        Ok((Store::open(&root)?, user))
    }

    /// The same for an operation that may need credentials: helpers stay outside of the namespace.
    fn open_store_for(&self, options: &mut crate::Options) -> Result<(Store, User)> {
        let user = User::current();
        options.real_uid = Some(user.real_uid);
        if user.rootless {
            options.before_namespace()?;
        }
        self.open_store()
    }

    /// Whether the user's trust policy is asked.
    fn policy(&self) -> crate::Policy {
        if self.insecure_policy { crate::Policy::Ignore } else { crate::Policy::Enforce }
    }

    fn store_root(&self, user: &User) -> Result<PathBuf> {
        match &self.store {
            Some(root) => Ok(root.clone()),
            None => Store::default_root(user.rootless.then_some(user.real_uid), |name| std::env::var_os(name)),
        }
    }
}

/// The command line's own description, for manuals and completions.
pub fn command() -> clap::Command {
    Line::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: &str) {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(with_verb(words(line)), words(expected));
    }

    #[test]
    fn a_first_word_that_is_no_verb_is_a_source() {
        check("copy a b", "copy copy a b");
        check("copy copy a b", "copy copy a b");
        check("copy images", "copy images");
        check("copy -- images b", "copy copy -- images b");
        check("copy --all a b", "copy copy --all a b");
        check("copy --store x images", "copy --store x images");
        check("copy --store=x a b", "copy --store=x copy a b");
        check("copy -q a b", "copy -q copy a b");
        check("copy --help", "copy --help");
        check("copy", "copy");
    }

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
        for verb in command().get_subcommands() {
            assert!(VERBS.contains(&verb.get_name()), "{} is a verb", verb.get_name());
        }
    }
}
