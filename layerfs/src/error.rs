//! One error type for the whole workspace.
//!
//! An error is one lowercase sentence without a full stop that names the object first, a [`Kind`] for programs to
//! match on, at most one hint for the reader, and the error below it. `Display` prints its own sentence only; the
//! program prints the chain once (see [`Error::chain`]) and then the hint.
//!
//! ```
//! use layerfs::error::{Error, Kind};
//! let error = Error::new(Kind::NotFound, "image `localhost/app:latest` is not in the store").hint("build it first");
//! assert_eq!(error.kind(), Kind::NotFound);
//! ```

use std::fmt;
use std::path::Path;

/// The result of every fallible function of the workspace.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// What went wrong, for a program to decide on. Text is for people only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The command line or an API argument makes no sense.
    Usage,
    /// A document, name or file does not follow its grammar or specification.
    Invalid,
    /// Something that was asked for by name does not exist.
    NotFound,
    /// Bytes differ from their digest or their stated size.
    Corrupt,
    /// A credential is missing or was refused.
    Unauthorized,
    /// The kernel, a policy or a registry forbids it.
    Denied,
    /// A peer could not be reached, or answered with a failure that may pass.
    Unavailable,
    /// This machine, kernel or peer cannot do it.
    Unsupported,
    /// Another process holds or changed the object, or the name is taken.
    Conflict,
    /// A stated limit was exceeded.
    Limit,
    /// The user or a signal stopped the work.
    Interrupted,
    /// A program that was started for the user ended with this exit code.
    Exit(i32),
    /// The operating system refused a call.
    System,
}

/// An error: a sentence, its kind, maybe a hint and a cause.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    hint: Option<String>,
    source: Option<Source>,
}

impl Error {
    /// An error of `kind` with its sentence: lowercase, no full stop, the object first.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), hint: None, source: None }))
    }

    /// Adds the one thing the reader can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What went wrong, for a program.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The hint of the outermost error that has one, else what helps against the system's own refusal.
    pub fn advice(&self) -> Option<&str> {
        let mut error = self;
        loop {
            if let Some(hint) = &error.0.hint {
                return Some(hint);
            }
            match error.0.source.as_ref().and_then(|source| source.downcast_ref::<Error>()) {
                Some(below) => error = below,
                None => return self.errno().and_then(system_advice),
            }
        }
    }

    /// The operating system's error number, where one lies at the bottom of the chain.
    pub fn errno(&self) -> Option<i32> {
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            // One without a number is a vessel for an error of ours, below which there may be one with.
            if let Some(errno) = error.downcast_ref().and_then(std::io::Error::raw_os_error) {
                return Some(errno);
            }
            source = error.source();
        }
        None
    }

    /// The disk, or the user's share of it, is full.
    pub fn is_out_of_space(&self) -> bool {
        matches!(self.errno(), Some(libc::ENOSPC | libc::EDQUOT))
    }

    /// The whole chain on one line, outermost first, joined by `: `. The hint is not part of it.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&system_text(error));
            source = error.source();
        }
        text
    }
}

/// What to do about the few refusals that have nothing to do with what was asked for.
fn system_advice(errno: i32) -> Option<&'static str> {
    Some(match errno {
        libc::ENOSPC => "make room on that disk: `copy rmi` and `copy gc` free what the store no longer needs",
        libc::EDQUOT => {
            "the user's disk quota is used up: `copy rmi` and `copy gc` free what the store no longer needs"
        }
        libc::EROFS => "mount that file system writable, or choose another store with --store or LAYERFS_STORE",
        libc::EIO => "the disk or its file system failed: `dmesg` tells more",
        libc::EMFILE => "allow the process more open files: `ulimit -n`",
        libc::ENFILE => "allow the machine more open files: `sysctl fs.file-max`",
        _ => return None,
    })
}

/// The system's words for an error of its own: `permission denied`.
pub fn words(error: &std::io::Error) -> String {
    system_text(error)
}

/// Rust appends "(os error 2)" to the system's words; a reader has no use for it.
fn system_text(error: &(dyn std::error::Error + 'static)) -> String {
    let text = error.to_string();
    match (error.is::<std::io::Error>(), text.find(" (os error")) {
        (true, Some(end)) => {
            let words = &text[..end];
            let mut chars = words.chars();
            chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
        }
        _ => text,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.chain())?;
        self.0.hint.as_ref().map_or(Ok(()), |hint| write!(f, " (hint: {hint})"))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// Puts a sentence on top of a lower error, keeping its kind where it has one.
pub trait Context<T> {
    /// `context(|| format!("apply layer {digest}"))`: the action and its object.
    fn context<S: Into<String>>(self, sentence: impl FnOnce() -> S) -> Result<T>;

    /// The common case of a file: ``at("open", path)`` gives ``open `PATH` ``.
    fn at(self, action: &str, path: impl AsRef<Path>) -> Result<T>
    where
        Self: Sized,
    {
        self.context(|| format!("{action} `{}`", path.as_ref().display()))
    }
}

impl<T> Context<T> for Result<T> {
    fn context<S: Into<String>>(self, sentence: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| Error::new(error.kind(), sentence()).because(error))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn context<S: Into<String>>(self, sentence: impl FnOnce() -> S) -> Result<T> {
        // An `Error` that travelled through `Read` or `Write` comes out as itself, not as an I/O error.
        self.map_err(|error| match error.downcast::<Error>() {
            Ok(own) => Error::new(own.kind(), sentence()).because(own),
            Err(io) => Error::new(io_kind(&io), sentence()).because(io),
        })
    }
}

impl<T> Context<T> for std::result::Result<T, rustix::io::Errno> {
    fn context<S: Into<String>>(self, sentence: impl FnOnce() -> S) -> Result<T> {
        self.map_err(std::io::Error::from).context(sentence)
    }
}

impl<T> Context<T> for std::result::Result<T, serde_json::Error> {
    fn context<S: Into<String>>(self, sentence: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| Error::new(Kind::Invalid, sentence()).because(error))
    }
}

/// Lets an [`Error`] travel through `Read` and `Write`.
impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        std::io::Error::other(error)
    }
}

fn io_kind(error: &std::io::Error) -> Kind {
    match error.kind() {
        std::io::ErrorKind::NotFound => Kind::NotFound,
        std::io::ErrorKind::PermissionDenied => Kind::Denied,
        std::io::ErrorKind::Interrupted => Kind::Interrupted,
        _ => Kind::System,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_names_each_step_once_and_speaks_lowercase() {
        let error = std::fs::File::open("/nonexistent/x").at("open", "/nonexistent/x").context(|| "read policy");
        let error = error.expect_err("the file does not exist");
        assert_eq!(error.chain(), "read policy: open `/nonexistent/x`: no such file or directory");
        assert_eq!((error.kind(), error.errno()), (Kind::NotFound, Some(2)));
    }

    #[test]
    fn a_full_disk_has_a_hint_unless_somebody_knows_better() {
        let full = || Err::<(), _>(std::io::Error::from_raw_os_error(libc::ENOSPC)).at("write", "/x");
        let error = full().context(|| "pull").expect_err("it is one");
        assert!(error.advice().is_some_and(|hint| hint.contains("copy gc")), "{error:?}");
        assert_eq!(error.hint("buy a disk").advice(), Some("buy a disk"));
    }

    #[test]
    fn own_errors_survive_an_io_boundary() {
        let io = std::io::Error::from(Error::new(Kind::Corrupt, "blob differs").hint("pull again"));
        let back = Err::<(), _>(io).context(|| "read layer").expect_err("it is an error");
        assert_eq!((back.kind(), back.advice()), (Kind::Corrupt, Some("pull again")));
    }
}
