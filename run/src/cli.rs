//! The command line: the first word that is a verb is the verb, anything else is an image. Each verb is arguments, one
//! call into the library, and a report: data on standard output, all else on standard error.

mod arguments;
mod change;
mod containers;
mod create;
mod files;
mod known;
mod list;
mod look;
mod refusal;
mod usage;
mod volume;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Parser;
use layerfs::error::{Error, Kind, Result};

/// The first words that are verbs. A word is added with a release, never changed.
pub const VERBS: [&str; 27] = [
    "run", "create", "start", "exec", "ps", "stop", "kill", "logs", "rm", "wait", "inspect", "volume", "mount",
    "umount", "check", "version", "help", "cp", "commit", "diff", "export", "top", "stats", "pause", "unpause",
    "rename", "port",
];

/// Stands for words that are verbs of podman and docker and none of ours: nobody who says them means an image.
const HELD: &str = "";

/// Exit codes of the program's own.
mod exit {
    /// All went well.
    pub(super) const OK: i32 = 0;
    /// `rm` found no such container; standard output is gone.
    pub(super) const FAILED: i32 = 1;
    /// `rm` found it running.
    pub(super) const RUNNING: i32 = 2;
    /// What was asked for could not be done, or the command line makes no sense.
    pub(super) const ENGINE: i32 = 125;
    /// `exec` found the container not running.
    pub(super) const NOT_RUNNING: i32 = 255;
}

/// What every verb takes.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Common {
    /// The store's folder [env: LAYERFS_STORE]
    #[arg(long, value_name = "FOLDER", global = true)]
    pub(crate) store: Option<PathBuf>,
}

impl Common {
    fn store(&self) -> Option<&Path> {
        self.store.as_deref()
    }
}

/// Runs the program and gives its exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let name = arguments.first().map(PathBuf::from).unwrap_or_default();
    match name.file_name().and_then(|name| name.to_str()) {
        Some("layerfs-fuse") => return crate::fuse::main(&arguments),
        // Engines ask some runtimes for more, and know them by their names.
        Some("layerfs-runtime" | "runc" | "crun") => return crate::runtime::main(&arguments),
        _ => {}
    }
    let (verb, rest) = split(&arguments[arguments.len().min(1)..]);
    match verb {
        "run" => create::run(&rest),
        "create" => create::create(&rest),
        "start" => create::start(&rest),
        "exec" => create::exec(&rest),
        "ps" => list::ps(&rest),
        "inspect" => list::inspect(&rest),
        "stop" => containers::stop(&rest),
        "kill" => containers::kill(&rest),
        "rm" => containers::rm(&rest),
        "wait" => containers::wait(&rest),
        "logs" => containers::logs(&rest),
        "volume" => volume::volume(&rest),
        "mount" => look::mount(&rest),
        "umount" => look::umount(&rest),
        "check" => containers::check(&rest),
        "cp" => files::cp(&rest),
        "commit" => files::commit(&rest),
        "diff" => files::diff(&rest),
        "export" => files::export(&rest),
        "top" => usage::top(&rest),
        "stats" => usage::stats(&rest),
        "pause" => change::pause(&rest),
        "unpause" => change::unpause(&rest),
        "rename" => change::rename(&rest),
        "port" => change::port(&rest),
        HELD => tell("run", &refusal::held(&rest[0].to_string_lossy()), exit::ENGINE),
        "version" => out(&format!("run {}", env!("CARGO_PKG_VERSION"))),
        _ => help(),
    }
}

/// The verb, and the words that are its own. A word is only a verb in the first place; `--store` may come before it.
fn split(words: &[OsString]) -> (&'static str, Vec<OsString>) {
    let mut at = 0;
    while let Some(word) = words.get(at).and_then(|word| word.to_str()) {
        match word {
            "--store" => at += 2,
            _ if word.starts_with("--store=") => at += 1,
            "-h" | "--help" if at == 0 && words.len() == 1 => return ("help", Vec::new()),
            "-V" | "--version" if words.len() == 1 => return ("version", Vec::new()),
            _ => {
                let Some(verb) = VERBS.into_iter().find(|verb| *verb == word) else {
                    match known::is_verb_elsewhere(word) {
                        true => return (HELD, vec![words[at].clone()]),
                        false => break,
                    }
                };
                let rest = words.iter().enumerate().filter(|(index, _)| *index != at).map(|(_, word)| word.clone());
                return (verb, rest.collect());
            }
        }
    }
    match words.is_empty() {
        true => ("help", Vec::new()),
        false => ("run", words.to_vec()),
    }
}

/// Parses a verb's own words; the error is the exit code, after all was said.
fn parse<T: Parser>(words: &[OsString], usage_code: i32) -> Result<T, i32> {
    let name = OsString::from("run");
    T::try_parse_from(std::iter::once(&name).chain(words)).map_err(|error| {
        use clap::error::ErrorKind;
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            let _ = write!(std::io::stdout(), "{error}");
            return exit::OK;
        }
        tell("run", &refusal::explain(&error), usage_code)
    })
}

/// Says what went wrong and gives the exit code.
fn tell(program: &str, error: &Error, code: i32) -> i32 {
    let mut text = format!("{program}: {}\n", error.chain());
    if let Some(hint) = error.advice() {
        text.push_str(&format!("hint: {hint}\n"));
    }
    let _ = std::io::stderr().write_all(text.as_bytes());
    match error.kind() {
        Kind::Exit(code) => code,
        _ => code,
    }
}

/// A line on standard error that is no error.
fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "run: {line}");
}

/// A line of data. A reader that is gone is no failure of ours, but ends the program as it would end any other.
fn out(line: &str) -> i32 {
    print(&format!("{line}\n"))
}

fn print(text: &str) -> i32 {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => exit::OK,
        Err(_) => exit::FAILED,
    }
}

/// Does something for each container named, says what failed for which, and goes on.
fn for_each<T>(items: &[T], mut act: impl FnMut(&T) -> Result<()>) -> i32 {
    let mut code = exit::OK;
    for item in items {
        if let Err(error) = act(item) {
            code = tell("run", &error, exit::ENGINE);
        }
    }
    code
}

fn help() -> i32 {
    print(
        "run: starts containers from images, with no daemon and no root\n\n\
         Usage: run [FLAGS] IMAGE [COMMAND…]\n       run VERB …\n\n\
         Verbs:\n\
         \x20 run      make a container and run it (`run run IMAGE` where the image has a verb's name)\n\
         \x20 create   make a container without starting it\n\
         \x20 start    start a container that was made, or has ended\n\
         \x20 exec     run a further command in a running container\n\
         \x20 ps       list containers\n\
         \x20 stop     ask containers to end, and kill those that do not\n\
         \x20 kill     send containers a signal\n\
         \x20 logs     show what a container said\n\
         \x20 rm       remove containers\n\
         \x20 wait     wait for containers to end and print their exit codes\n\
         \x20 inspect  show all that is known of containers\n\
         \x20 cp       copy files between a container and the host\n\
         \x20 commit   make an image of a container\n\
         \x20 diff     show what a container changed of its image\n\
         \x20 export   write a container's files as an archive\n\
         \x20 top      show a container's processes\n\
         \x20 stats    show what containers use\n\
         \x20 pause    stop all processes of containers where they are\n\
         \x20 unpause  let them go on\n\
         \x20 rename   give a container another name\n\
         \x20 port     show a container's published ports\n\
         \x20 volume   make, list, show and remove volumes\n\
         \x20 mount    show an image's files in a folder, read-only\n\
         \x20 umount   end that\n\
         \x20 check    name what this machine lacks, with the line that fixes it\n\n\
         `run VERB --help` lists a verb's flags. Exit codes: the container's own; 125 where it could not be made, 126 \
         where\nits command cannot be executed, 127 where there is no such command, 128+n after signal n.\n",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(words: &[&str], verb: &str, rest: &[&str]) {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let (found, left) = split(&words);
        assert_eq!((found, left), (verb, rest.iter().map(OsString::from).collect()), "{words:?}");
    }

    #[test]
    fn a_first_word_that_is_a_verb_is_the_verb() {
        check(&["ps", "-a"], "ps", &["-a"]);
        check(&["debian", "ps"], "run", &["debian", "ps"]);
        check(&["run", "ps"], "run", &["ps"]);
        check(&["--", "ps"], "run", &["--", "ps"]);
        check(&["--rm", "ps"], "run", &["--rm", "ps"]);
        check(&["--store", "/s", "ps", "-q"], "ps", &["--store", "/s", "-q"]);
        check(&["--store=/s", "debian"], "run", &["--store=/s", "debian"]);
        check(&["--help"], "help", &[]);
        check(&["ps", "--help"], "ps", &["--help"]);
        check(&[], "help", &[]);
        check(&["--store", "/s", "attach", "x"], HELD, &["attach"]);
        check(&["run", "attach"], "run", &["attach"]);
    }
}
