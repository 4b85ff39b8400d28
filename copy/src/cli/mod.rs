//! The `copy` command line: arguments → options → one call → report.
//!
//! Results alone go to standard output; progress, notes and errors go to standard error. A first word that is a verb
//! is the verb; otherwise the words are what `copy SOURCE DESTINATION` takes, and `copy copy …` or `--` forces that.
//!
//! Flags are skopeo's where skopeo has them. One that skopeo has and this program lacks is refused by name. Started under
//! the name `skopeo`, what skopeo does without being told is done: one platform is copied, `inspect` lists tags.

mod accounts;
mod arguments;
mod artifacts;
mod auth;
mod check;
mod compare;
mod df;
mod documents;
mod gc;
mod images;
mod inspect;
mod mutate;
mod progress;
mod repositories;
mod sides;
mod sign;
mod sync;
mod template;
mod transfers;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::Platform;
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
/// docker-archive:FILE[:NAME], dir:DIR, store:NAME, docker-daemon:NAME, or containers-storage:NAME.
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
    /// How progress is told on standard error: auto, plain, json or none
    #[arg(long, global = true, value_name = "FORM", default_value = "auto")]
    progress: String,
    /// Do not ask policy.json whether an image may be copied
    #[arg(long, global = true)]
    insecure_policy: bool,
    /// Ask this file in place of policy.json
    #[arg(long, global = true, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Give up after this time
    #[arg(long, global = true, value_name = "DURATION", value_parser = arguments::duration)]
    command_timeout: Option<Duration>,
    /// Folder for temporary files [default: $TMPDIR, else /tmp]
    #[arg(long, global = true, value_name = "DIR")]
    tmpdir: Option<PathBuf>,
    /// What our name in requests begins with
    #[arg(long, global = true, hide = true, value_name = "TEXT")]
    user_agent_prefix: Option<String>,
    /// Skopeo's way to choose a platform
    #[arg(long, global = true, hide = true, value_name = "OS")]
    override_os: Option<String>,
    /// Skopeo's way to choose a platform
    #[arg(long, global = true, hide = true, value_name = "ARCH")]
    override_arch: Option<String>,
    /// Skopeo's way to choose a platform
    #[arg(long, global = true, hide = true, value_name = "VARIANT")]
    override_variant: Option<String>,
    /// Accepted for skopeo's sake: signatures in lookaside places are not read
    #[arg(long = "registries.d", global = true, hide = true, value_name = "DIR")]
    registries_d: Option<PathBuf>,
    /// More detail (accepted for skopeo's sake)
    #[arg(long, global = true, hide = true)]
    debug: bool,
    /// The name this program was started under.
    #[arg(skip)]
    personality: Personality,
}

/// Whose habits are followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Personality {
    /// Our own.
    #[default]
    Copy,
    /// Skopeo's.
    Skopeo,
}

impl Personality {
    fn of(program: Option<&OsString>) -> Self {
        let name = program.map(PathBuf::from).and_then(|path| Some(path.file_name()?.to_owned()));
        if name.is_some_and(|name| name == "skopeo") { Self::Skopeo } else { Self::Copy }
    }
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
    /// Mirror repositories
    Sync(Box<sync::SyncArguments>),
    /// Fail unless two repositories, or two images, hold the same
    Verify(compare::VerifyArguments),
    /// Show in what two images, or two repositories, differ
    Diff(compare::DiffArguments),
    /// Change an image's settings, annotations, times, layers or base
    Mutate(Box<mutate::MutateArguments>),
    /// Write an image's file system as a tar
    Export(mutate::ExportArguments),
    /// Make an index of images for several platforms
    Index(mutate::IndexArguments),
    /// Put files into a registry, and fetch them, as an artifact
    Artifact(artifacts::ArtifactArguments),
    /// Put files beside an image, referring to it
    Attach(artifacts::AttachArguments),
    /// Show what refers to an image
    Discover(artifacts::DiscoverArguments),
    /// Sign an image in a registry with a key, as cosign does
    Sign(sign::SignArguments),
    /// Make a pair of keys to sign with
    #[command(name = "generate-sigstore-key")]
    Generate(sign::GenerateArguments),
    /// Print an image's digest
    Digest(documents::DigestArguments),
    /// Print an image's manifest or index, bit by bit
    Manifest(documents::ManifestArguments),
    /// Print an image's configuration, bit by bit
    Config(documents::ConfigArguments),
    /// Print, measure, upload or remove a blob of a repository
    Blob(documents::BlobArguments),
    /// Print the digest of a manifest in a file
    #[command(name = "manifest-digest", hide = true)]
    ManifestDigest(documents::ManifestDigestArguments),
    /// List the repositories of a registry
    Catalog(repositories::CatalogArguments),
    /// Remove tags and images from a registry: a tag alone, never its siblings
    Delete(repositories::DeleteArguments),
    /// Show what a registry's limits leave
    Ratelimit(repositories::RatelimitArguments),
    /// List the images of the store
    Images(images::ImagesArguments),
    /// Remove images from the store
    Rmi(images::RmiArguments),
    /// Give an image of the store, or with docker:// of a registry, more names
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
    /// Explain which credential, mirrors and certificates a name gets
    Auth(auth::AuthArguments),
    /// Run credential helpers for a program in a user namespace
    #[command(name = broker::VERB, hide = true)]
    CredentialBroker,
}

/// The words that are verbs; frozen per release, since any other first word is a source.
const VERBS: [&str; 34] = [
    "copy",
    "pull",
    "mutate",
    "export",
    "index",
    "artifact",
    "attach",
    "discover",
    "sign",
    "generate-sigstore-key",
    "sync",
    "verify",
    "diff",
    "inspect",
    "list-tags",
    "tags",
    "digest",
    "manifest",
    "config",
    "blob",
    "manifest-digest",
    "catalog",
    "delete",
    "ratelimit",
    "auth",
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
const GLOBAL_WITH_VALUE: [&str; 10] = [
    "--store",
    "--progress",
    "--policy",
    "--command-timeout",
    "--tmpdir",
    "--user-agent-prefix",
    "--override-os",
    "--override-arch",
    "--override-variant",
    "--registries.d",
];
const GLOBAL_ALONE: [&str; 4] = ["--quiet", "-q", "--insecure-policy", "--debug"];

/// Runs the program and says how it ended.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        let _ = writeln!(std::io::stderr(), "copy: this is a bug: {panic}");
        // With panics that abort, this is the last chance to end with the right code.
        std::process::exit(Exit::Bug as i32);
    }));
    let personality = Personality::of(arguments.first());
    let mut line = match Line::try_parse_from(with_verb(arguments)) {
        Ok(line) => line,
        Err(error) => return refuse(&error).into(),
    };
    line.global.personality = personality;
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
    if let Some(dir) = &global.tmpdir {
        crate::transport::keep_scratch_in(dir);
    }
    if let Some(time) = global.command_timeout {
        give_up_after(time);
    }
    match verb {
        Verb::Copy(arguments) => arguments.run(&global),
        Verb::Pull(arguments) => arguments.run(&global),
        Verb::Sync(arguments) => arguments.run(&global),
        Verb::Verify(arguments) => arguments.run(&global),
        Verb::Mutate(arguments) => arguments.run(&global),
        Verb::Export(arguments) => arguments.run(&global),
        Verb::Index(arguments) => arguments.run(&global),
        Verb::Artifact(arguments) => arguments.run(&global),
        Verb::Attach(arguments) => arguments.run(&global),
        Verb::Discover(arguments) => arguments.run(&global),
        Verb::Sign(arguments) => arguments.run(&global),
        Verb::Generate(arguments) => arguments.run(),
        Verb::Diff(arguments) => arguments.run(&global),
        Verb::Inspect(arguments) => arguments.run(&global),
        Verb::ListTags(arguments) => arguments.run(&global),
        Verb::Digest(arguments) => arguments.run(&global),
        Verb::Manifest(arguments) => arguments.run(&global),
        Verb::Config(arguments) => arguments.run(&global),
        Verb::Blob(arguments) => arguments.run(&global),
        Verb::ManifestDigest(arguments) => arguments.run(),
        Verb::Catalog(arguments) => arguments.run(&global),
        Verb::Delete(arguments) => arguments.run(&global),
        Verb::Ratelimit(arguments) => arguments.run(&global),
        Verb::Auth(arguments) => arguments.run(&global),
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

/// Ends the program with an error after this time, whatever it is doing then.
fn give_up_after(time: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(time);
        let text =
            format!("copy: not done after {} seconds\nhint: --command-timeout sets the time\n", time.as_secs_f64());
        let _ = std::io::stderr().write_all(text.as_bytes());
        std::process::exit(Exit::Failure as i32);
    });
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

/// Writes a JSON document as skopeo does, for those who compare.
fn print_json_as_skopeo(value: &serde_json::Value) -> Result<()> {
    use serde::Serialize;
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter)).context(|| "write JSON")?;
    bytes.push(b'\n');
    print_bytes(&bytes)
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

    /// Whether skopeo's habits are followed.
    fn is_skopeo(&self) -> bool {
        self.personality == Personality::Skopeo
    }

    /// The platform that `--override-os` and its like name.
    fn platform_override(&self) -> Option<Platform> {
        let (os, architecture) = (self.override_os.as_deref(), self.override_arch.as_deref());
        let variant = self.override_variant.as_deref();
        let host = Platform::host();
        [os, architecture, variant]
            .iter()
            .any(Option::is_some)
            .then(|| Platform::new(os.unwrap_or("linux"), architecture.unwrap_or(&host.architecture), variant))
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
