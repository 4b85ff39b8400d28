//! From `args` to the running program.

use std::ffi::CString;
use std::io::Read;
use std::os::fd::OwnedFd;

use layerfs::error::{Error, Kind, Result};
use oci_spec::runtime::Process;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

use crate::spec::user;

/// What `execve(2)` is called with.
pub(crate) struct Program {
    name: String,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    search: String,
}

/// Where a program is looked for when the container's environment names no folders.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Most interpreters one after another, as the kernel's `BINPRM_MAX_RECURSION`.
const INTERPRETERS_MAX: usize = 5;

impl Program {
    /// Reads `args` and `env`.
    pub(crate) fn of(process: &Process) -> Result<Self> {
        let args = process.args().as_deref().unwrap_or_default();
        let name = args.first().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| Error::new(Kind::Invalid, "process.args is empty: there is nothing to run"))?;
        let env = process.env().as_deref().unwrap_or_default();
        let search = env.iter().rev().find_map(|variable| variable.strip_prefix("PATH="));
        Ok(Self {
            name: name.clone(),
            arguments: c_strings("process.args", args)?,
            environment: c_strings("process.env", &last_of_each(env))?,
            search: search.unwrap_or(DEFAULT_PATH).to_owned(),
        })
    }

    /// Whether a file is there that could be executed. The kernel may still refuse it.
    pub(crate) fn check(&self) -> Result<()> {
        let mut denied = None;
        for candidate in self.candidates() {
            match check(&candidate) {
                Ok(()) => return Ok(()),
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(errno) => denied = denied.or(Some(errno)),
            }
        }
        Err(denied.map_or_else(|| self.not_found(), |errno| self.denied(errno)))
    }

    /// Gives it a `HOME` where its environment has none: the folder that the container's `/etc/passwd` has for the user,
    /// else `/`. Everybody's runtime does so, and shells without one misbehave.
    pub(crate) fn ensure_home(&mut self, uid: u32) {
        let is_home = |variable: &CString| variable.as_bytes().starts_with(b"HOME=");
        match self.environment.iter().position(is_home) {
            Some(at) if self.environment[at].as_bytes() == b"HOME=" => drop(self.environment.remove(at)),
            Some(_) => return,
            None => {}
        }
        let user = user::resolve(&uid.to_string(), &read_passwd().unwrap_or_default(), b"", &[]);
        let home = user.map_or_else(|_| "/".to_owned(), |user| user.home);
        self.environment.extend(CString::new(format!("HOME={home}")));
    }

    /// What it finds in its environment.
    pub(crate) fn environment(&self) -> Vec<String> {
        self.environment.iter().map(|variable| variable.to_string_lossy().into_owned()).collect()
    }

    /// Becomes the program. Returns only the reason why not.
    pub(crate) fn execute(&self) -> Error {
        let mut denied = None;
        for candidate in self.candidates() {
            match check(&candidate) {
                Ok(()) => {}
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                Err(errno) => {
                    denied = denied.or(Some(errno));
                    continue;
                }
            }
            let Ok(path) = CString::new(candidate.as_str()) else { continue };
            let error = layerfs::sys::process::execute(&path, &self.arguments, &self.environment);
            match error.raw_os_error().map(Errno::from_raw_os_error) {
                // The file is there, so what is missing is its interpreter: it would be in no other folder either.
                Some(Errno::NOENT) => return self.no_interpreter(&candidate),
                Some(errno) => denied = Some(errno),
                None => {}
            }
            break;
        }
        match denied {
            Some(errno) => self.denied(errno),
            None => self.not_found(),
        }
    }

    /// The files to try, in order: one where the name has a slash, else one in each folder of PATH.
    fn candidates(&self) -> Vec<String> {
        if self.name.contains('/') {
            return vec![self.name.clone()];
        }
        let folder = |folder: &str| if folder.is_empty() { ".".to_owned() } else { folder.to_owned() };
        self.search.split(':').map(|name| format!("{}/{}", folder(name), self.name)).collect()
    }

    fn not_found(&self) -> Error {
        let error = Error::new(Kind::NotFound, format!("`{}` is not in the container", self.name));
        if self.name.contains('/') { error } else { error.hint(format!("it was looked for in {}", self.search)) }
    }

    fn no_interpreter(&self, path: &str) -> Error {
        Error::new(Kind::NotFound, format!("`{path}` is in the container but its interpreter is not"))
            .hint("a script names it after `#!`; a dynamic program names its loader, which a foreign libc lacks")
    }

    fn denied(&self, errno: Errno) -> Error {
        let error = Error::new(Kind::Denied, format!("`{}` cannot be executed", self.name));
        let error = error.because(std::io::Error::from(errno));
        match errno {
            Errno::NOEXEC => error.hint("is it built for another architecture, or a script without `#!`?"),
            Errno::LOOP => error.hint("a program is never run through a link of /proc"),
            Errno::ACCESS => error.hint("is it a file with the execute bit, on a mount without noexec?"),
            _ => error,
        }
    }
}

/// The container's `/etc/passwd`, unless it is something that would block or fill the memory.
fn read_passwd() -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = std::fs::File::from(open_plain("/etc/passwd", flags).ok()?);
    let stat = fstat(&file).ok()?;
    let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || size > user::FILE_MAX {
        return None;
    }
    let mut text = Vec::new();
    file.take(user::FILE_MAX).read_to_end(&mut text).ok()?;
    Some(text)
}

/// Refuses what is no executable file, and any way to it through a magic link of `/proc`: a container that makes us
/// execute `/proc/self/exe` would get a descriptor of our own program on the host (CVE-2019-5736).
fn check(path: &str) -> Result<(), Errno> {
    let mut path = path.to_owned();
    for _ in 0..INTERPRETERS_MAX {
        let file = open_plain(&path, OFlags::PATH)?;
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_mode & 0o111 == 0 {
            return Err(Errno::ACCESS);
        }
        match interpreter(&path) {
            Some(next) => path = next,
            None => return Ok(()),
        }
    }
    Err(Errno::LOOP)
}

/// The interpreter of a script; `None` for anything else and for what may be executed but not read.
fn interpreter(path: &str) -> Option<String> {
    let file = open_plain(path, OFlags::RDONLY | OFlags::NONBLOCK).ok()?;
    let mut head = [0; 256];
    let size = rustix::io::read(&file, &mut head).ok()?;
    let line = head.get(..size)?.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let word = line.split(|byte| matches!(byte, b' ' | b'\t' | 0)).find(|word| !word.is_empty())?;
    Some(String::from_utf8_lossy(word).into_owned())
}

fn open_plain(path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    match openat2(CWD, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_MAGICLINKS) {
        // Inside a container whose filter knows no openat2.
        Err(Errno::NOSYS | Errno::PERM) => rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()),
        opened => opened,
    }
}

/// The variables, each once: of two with the same name programs would not agree which one holds.
fn last_of_each(variables: &[String]) -> Vec<&String> {
    let name = |variable: &String| variable.split('=').next().unwrap_or_default().to_owned();
    let later: std::collections::HashMap<String, usize> =
        variables.iter().enumerate().map(|(at, variable)| (name(variable), at)).collect();
    let is_last = |(at, variable): &(usize, &String)| later.get(&name(variable)) == Some(at);
    variables.iter().enumerate().filter(is_last).map(|(_, variable)| variable).collect()
}

fn c_strings(what: &str, strings: &[impl AsRef<str>]) -> Result<Vec<CString>> {
    let convert = |string: &str| {
        CString::new(string).map_err(|_| Error::new(Kind::Invalid, format!("{what} has a NUL byte in {string:?}")))
    };
    strings.iter().map(|string| convert(string.as_ref())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_there_once() {
        let variables = ["A=1", "B=2", "A=3", "C"].map(str::to_owned);
        assert_eq!(last_of_each(&variables), ["B=2", "A=3", "C"]);
    }

    #[test]
    fn candidates_follow_the_containers_path() {
        let program = |name: &str| Program {
            name: name.to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            search: "/bin::/usr/bin".to_owned(),
        };
        assert_eq!(program("sh").candidates(), ["/bin/sh", "./sh", "/usr/bin/sh"]);
        assert_eq!(program("./sh").candidates(), ["./sh"]);
    }

    #[test]
    fn magic_links_are_no_program() {
        assert_eq!(check("/proc/self/exe"), Err(Errno::LOOP));
        let dir = tempfile::tempdir().expect("a temporary folder");
        let script = dir.path().join("script");
        std::fs::write(&script, "#!/proc/self/exe\n").expect("file");
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
        assert_eq!(check(script.to_str().expect("a plain path")), Err(Errno::LOOP));
    }
}
