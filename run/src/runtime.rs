//! `layerfs-runtime`: the same launcher behind the command line that container engines call (runc's), for a bundle that
//! somebody else prepared. The `Spec` is read from the bundle instead of made from an image; nothing else differs.
//!
//! Between `create` and `start` a small process holds the container: it is the other end of the channel that the
//! container's first process waits on. `start` talks to it through a socket in the container's folder; then it goes,
//! while the container is a child of whoever reaps here from the end of `create` on, as engines expect. The holder never
//! reaps the container: its end is its engine's to see.
//!
//! Exit codes: `run` and `exec` have the program's own; 1 is a failure, 255 one of `exec`. The words of a failure go to
//! standard error and, as the one line it gets, to the file of `--log`: engines take the message, and some of them the
//! exit code of their own command, from there.

mod arguments;
mod bundle;
mod checkpoint;
mod control;
mod events;
mod features;
mod foreground;
mod holder;
mod inspect;
mod instances;
mod join;
mod template;
mod update;

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use clap::Parser;
use layerfs::error::{Context, Error, Kind, Result};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::{seal, time};
use arguments::{Arguments, Common, Handles, LogFormat, Verb};
use instances::Instances;

/// Something could not be done.
const FAILED: i32 = 1;
/// `exec` could not be done: no program is likely to exit with this.
const EXEC_FAILED: i32 = 255;

/// Runs the program and gives its exit code.
pub(crate) fn main(words: &[OsString]) -> i32 {
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return i32::from(error.use_stderr());
        }
    };
    match carry_out(&arguments) {
        Ok(code) => code,
        Err(error) => {
            report(&arguments.common, &error);
            if matches!(arguments.verb, Verb::Exec(_)) { EXEC_FAILED } else { FAILED }
        }
    }
}

/// Engines read the last error from the log, people from standard error.
fn report(common: &Common, error: &Error) {
    let hint = error.advice().map_or(String::new(), |hint| format!(" ({hint})"));
    let text = format!("{}{hint}", error.chain());
    let _ = writeln!(std::io::stderr(), "layerfs-runtime: {text}");
    let Some(path) = &common.log else { return };
    // crun's form of a file's name.
    let path = path.to_str().and_then(|path| path.strip_prefix("file:")).map_or(path.as_path(), Path::new);
    let line = match common.log_format {
        LogFormat::Json => {
            serde_json::json!({"level": "error", "msg": text, "time": time::format(time::now())}).to_string()
        }
        LogFormat::Text => format!("time=\"{}\" level=error msg={text:?}", time::format(time::now())),
    };
    let file = std::fs::File::options().append(true).create(true).open(path);
    let _ = file.and_then(|mut file| writeln!(file, "{line}"));
}

fn carry_out(arguments: &Arguments) -> Result<i32> {
    let instances = Instances::of(arguments.common.root.as_deref())?;
    let cgroups = arguments.common.cgroups();
    match &arguments.verb {
        Verb::Create(create) => holder::create(&instances, create, cgroups).map(done),
        Verb::Start(id) => holder::start(&instances.find(&id.id)?).map(done),
        Verb::Run(run) => foreground::run(&instances, run, cgroups),
        Verb::State(id) => inspect::state(&instances.find(&id.id)?),
        Verb::Kill(kill) => control::kill(&instances.find(&kill.id.id)?, kill).map(done),
        Verb::Delete(delete) => control::delete(&instances, delete).map(done),
        Verb::Exec(exec) => {
            seal::ensure()?;
            join::exec(&instances.find(&exec.id.id)?, exec)
        }
        Verb::Ps(ps) => inspect::ps(&instances.find(&ps.id.id)?, ps),
        Verb::List(list) => inspect::list(&instances, list),
        Verb::Pause(id) => control::pause(&instances.find(&id.id)?).map(done),
        Verb::Resume(id) => control::resume(&instances.find(&id.id)?).map(done),
        Verb::Update(update) => update::update(&instances.find(&update.id.id)?, update).map(done),
        Verb::Events(events) => events::follow(&instances.find(&events.id.id)?, events).map(done),
        Verb::Checkpoint(checkpoint) => checkpoint::save(&instances.find(&checkpoint.id.id)?, checkpoint).map(done),
        Verb::Restore(restore) => checkpoint::restore(&instances, restore, cgroups),
        Verb::Features => print(&features::all()),
        Verb::Spec(spec) => template::write(spec).map(done),
    }
}

fn done((): ()) -> i32 {
    0
}

/// Writes JSON for people.
fn print(value: &serde_json::Value) -> Result<i32> {
    let text = serde_json::to_string_pretty(value).context(|| "write JSON")?;
    say(&format!("{text}\n"))
}

fn say(text: &str) -> Result<i32> {
    std::io::stdout().write_all(text.as_bytes()).context(|| "write to standard output").map(done)
}

/// Says an error about the program in the words that engines look for: they make their own exit codes 126 and 127 of
/// those. Other errors stay as they are.
fn in_engines_words(error: Error, program: &str) -> Error {
    let words = match error.kind() {
        Kind::NotFound if program.contains('/') => format!("exec: \"{program}\": no such file or directory"),
        Kind::NotFound => format!("exec: \"{program}\": executable file not found in $PATH"),
        Kind::Denied if error.errno() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            format!("exec: \"{program}\": exec format error")
        }
        Kind::Denied => format!("exec: \"{program}\": permission denied"),
        _ => return error,
    };
    if error.to_string() == words {
        return error;
    }
    let hint = error.advice().map(str::to_owned);
    let said = Error::new(error.kind(), words).because(error);
    match hint {
        Some(hint) => said.hint(hint),
        None => said,
    }
}

/// Something to know that is no failure.
fn warn(note: &str) {
    let _ = writeln!(std::io::stderr(), "layerfs-runtime: {note}");
}

/// Tells whoever asked for it which process it is.
fn introduce(handles: &Handles, pid: i32, pidfd: impl AsFd) -> Result<()> {
    if let Some(socket) = &handles.pidfd_socket {
        send_descriptor(socket, pidfd, b"pidfd")?;
    }
    let Some(path) = &handles.pid_file else { return Ok(()) };
    // Whoever waits for the file must not read half a number.
    let moment = path.with_file_name(format!(".{}.{pid}", path.file_name().unwrap_or_default().to_string_lossy()));
    std::fs::write(&moment, pid.to_string()).at("write", &moment)?;
    std::fs::rename(&moment, path).at("rename", path)
}

/// Sends a terminal's master side, with a word as runc does.
fn send_terminal(socket: &Path, master: &OwnedFd) -> Result<()> {
    send_descriptor(socket, master, b"console").map_err(|error| error.hint("the engine listens on --console-socket"))
}

fn send_descriptor(socket: &Path, descriptor: impl AsFd, word: &[u8]) -> Result<()> {
    let stream = through_folder(socket, |short| UnixStream::connect(short)).at("connect to", socket)?;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [descriptor.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let sent = sendmsg(&stream, &[std::io::IoSlice::new(word)], &mut control, SendFlags::NOSIGNAL);
    sent.at("send a descriptor to", socket).map(drop)
}

/// A socket's path has at most 107 bytes; through its folder's descriptor any path fits.
fn through_folder<T>(path: &Path, act: impl FnOnce(&Path) -> std::io::Result<T>) -> std::io::Result<T> {
    use std::os::fd::AsRawFd;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = layerfs::sys::fs::open_dir(parent)?;
    let name = path.file_name().unwrap_or_default();
    act(&PathBuf::from("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_find_their_words() {
        let check = |error: Error, program: &str, expected: &str| {
            assert!(in_engines_words(error, program).chain().starts_with(expected));
        };
        let missing = || Error::new(Kind::NotFound, "it is not in the container");
        check(missing(), "sh", "exec: \"sh\": executable file not found in $PATH: it is not");
        check(missing(), "/bin/sh", "exec: \"/bin/sh\": no such file or directory: it is not");
        check(Error::new(Kind::Denied, "no"), "/etc", "exec: \"/etc\": permission denied: no");
        check(Error::new(Kind::System, "mount"), "sh", "mount");
    }
}
