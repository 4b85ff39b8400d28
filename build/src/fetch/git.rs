//! A git repository: fetched by the `git` program into a bare repository that is kept, checked out from there.
//!
//! Of a branch or tag only the newest commit is fetched; a server that does not give a commit by its name is asked for
//! all branches and tags. The user's own configuration counts (credentials, proxies, `insteadOf`), but for what would change
//! the bytes of a checkout.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use layerfs::digest::Digest;
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::store::Store;
use rustix::fs::{AtFlags, FlockOperation, Timespec, Timestamps, flock, utimensat};

use super::{Fetched, Settings};
use crate::dockerfile::remote::Git;
use crate::schedule::Cancel;

/// How often a running git is looked at, so that a stopped build stops it too.
const PATIENCE: Duration = Duration::from_millis(20);

/// Fetches and checks out what `git` names.
pub(super) fn fetch(
    store: &Store,
    settings: &Settings,
    cancel: &Cancel,
    git: &Git,
    checksum: Option<&str>,
    log: &dyn Fn(&str),
) -> Result<Fetched> {
    let tool = Tool { settings, cancel, url: &git.url };
    let bare = store.cache_dir().join("git").join(&Digest::of(git.url.as_bytes()).hex()[..32]);
    fs::create_dir_all(&bare).at("create", &bare)?;
    let lock_path = bare.with_extension("lock");
    let lock = File::create(&lock_path).at("create", &lock_path)?;
    flock(&lock, FlockOperation::LockExclusive).at("lock", &lock_path)?;
    if !bare.join("HEAD").exists() {
        tool.run(&bare, ["init", "-q", "--bare", "."])?;
        // The checkout asks this repository for a commit by its name.
        tool.run(&bare, ["config", "uploadpack.allowAnySHA1InWant", "true"])?;
    }
    let commit = tool.commit(&bare, git.reference.as_deref())?;
    for wanted in [checksum, git.checksum.as_deref()].into_iter().flatten() {
        if wanted.len() < 7 || !commit.starts_with(&wanted.to_ascii_lowercase()) {
            return Err(Error::new(Kind::Invalid, format!("`{}` leads to commit {commit}, not {wanted}", git.url))
                .hint("the branch or tag moved, or the checksum is not of this commit"));
        }
    }
    log(&format!("{} is at commit {commit}\n", git.url));
    let dir = store.new_temp_dir()?;
    tool.check_out(&bare, git, &commit, dir.path())?;
    drop(lock);
    let subdir = git.subdir.trim_matches('/').to_owned();
    if git.commit_times {
        let seconds = tool.run(&bare, ["show", "-s", "--format=%ct", &commit])?;
        date_all(dir.path(), seconds.trim().parse().unwrap_or(0))?;
    }
    Ok(Fetched { dir, path: subdir, identity: commit })
}

struct Tool<'a> {
    settings: &'a Settings,
    cancel: &'a Cancel,
    url: &'a str,
}

impl Tool<'_> {
    /// The commit that `reference` leads to, which is in the repository then.
    fn commit(&self, bare: &Path, reference: Option<&str>) -> Result<String> {
        let named = reference.unwrap_or("HEAD");
        if named.starts_with('-') || named.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(Error::new(Kind::Invalid, format!("`{}` is no branch, tag or commit", named.escape_debug())));
        }
        let hexadecimal = named.len() >= 7 && named.len() <= 64 && named.bytes().all(|byte| byte.is_ascii_hexdigit());
        let object = format!("{named}^{{commit}}");
        let parse = |what: &str| self.run(bare, ["rev-parse", "--verify", "-q", what]);
        // A whole commit's name means the same for ever.
        if hexadecimal
            && named.len() >= 40
            && let Ok(commit) = parse(&object)
        {
            return Ok(commit.trim().to_owned());
        }
        let fetch = ["fetch", "-q", "--no-tags", "--force", "--depth=1", "--", self.url, named];
        let first = match self.run(bare, fetch) {
            Ok(_) => return Ok(parse("FETCH_HEAD^{commit}")?.trim().to_owned()),
            Err(error) => error,
        };
        if !hexadecimal {
            return Err(first.hint(format!("check that the repository is there and has `{named}`")));
        }
        let all = ["+refs/heads/*:refs/all/heads/*", "+refs/tags/*:refs/all/tags/*"];
        match bare.join("shallow").exists() {
            true => {
                let whole = ["fetch", "-q", "--no-tags", "--force", "--unshallow", "--", self.url, all[0], all[1]];
                self.run(bare, whole)?
            }
            false => self.run(bare, ["fetch", "-q", "--no-tags", "--force", "--", self.url, all[0], all[1]])?,
        };
        let found = parse(&object).map_err(|_| {
            Error::new(Kind::NotFound, format!("`{}` has no commit `{named}` on its branches and tags", self.url))
        })?;
        Ok(found.trim().to_owned())
    }

    /// Lays the commit's files down in `to`.
    fn check_out(&self, bare: &Path, git: &Git, commit: &str, to: &Path) -> Result<()> {
        let bare = bare.to_string_lossy();
        self.run(to, ["init", "-q", "."])?;
        self.run(to, ["remote", "add", "origin", self.url])?;
        self.run(to, ["fetch", "-q", "--no-tags", "--depth=1", "--", &bare, commit])?;
        self.run(to, ["checkout", "-q", "--force", "--detach", commit])?;
        if git.submodules != Some(false) && to.join(".gitmodules").exists() {
            self.run(to, ["submodule", "update", "-q", "--init", "--recursive", "--depth=1"])?;
        }
        match git.keep_git_dir {
            Some(true) => fs::remove_file(to.join(".git/FETCH_HEAD")).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error).at("remove", to.join(".git/FETCH_HEAD")),
            }),
            _ => remove_git_dirs(to),
        }
    }

    fn run<const N: usize>(&self, folder: &Path, words: [&str; N]) -> Result<String> {
        let action = format!("git {} of `{}`", words[0], self.url);
        let mut command = Command::new("git");
        command.args(["-c", "core.autocrlf=false", "-c", "core.symlinks=true", "-c", "safe.directory=*"]);
        command.args(["-c", "advice.detachedHead=false", "-c", "core.hooksPath=/dev/null", "-C"]);
        command.arg(folder).args(words);
        command.env("GIT_TERMINAL_PROMPT", "0").env("LC_ALL", "C");
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"] {
            command.env_remove(name);
        }
        if std::env::var_os("GIT_SSH_COMMAND").is_none() && std::env::var_os("GIT_SSH").is_none() {
            command.env("GIT_SSH_COMMAND", ssh_command(std::env::var_os("HOME").as_deref()));
        }
        if let Some(agent) = &self.settings.agent {
            command.env("SSH_AUTH_SOCK", agent);
        }
        if !self.settings.verify {
            command.env("GIT_SSL_NO_VERIFY", "1");
        }
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|error| {
                match error.kind() {
                    io::ErrorKind::NotFound => Error::new(Kind::NotFound, "there is no program `git`")
                        .hint("install git: a build fetches repositories with it"),
                    _ => Error::new(Kind::System, "start git").because(error),
                }
            })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (out, err, status) = std::thread::scope(|scope| {
            let out = scope.spawn(move || read_all(stdout));
            let err = scope.spawn(move || read_all(stderr));
            let status = loop {
                match child.try_wait() {
                    Ok(Some(status)) => break Ok(status),
                    Ok(None) if self.cancel.is_stopped() => {
                        let _ = child.kill();
                        break child.wait();
                    }
                    Ok(None) => std::thread::sleep(PATIENCE),
                    Err(error) => break Err(error),
                }
            };
            (out.join().unwrap_or_default(), err.join().unwrap_or_default(), status)
        });
        self.cancel.check()?;
        match status.context(|| "wait for git")?.success() {
            true => Ok(out),
            false => {
                let said = err.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing").trim();
                let said = said.strip_prefix("fatal: ").unwrap_or(said);
                Err(Error::new(Kind::Unavailable, format!("{action}: {said}")))
            }
        }
    }
}

fn read_all(stream: Option<impl io::Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        // What was read before a broken pipe is what there is.
        let _ = stream.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// In a user namespace everybody is root, whose home ssh would look into: it is told the user's own.
fn ssh_command(home: Option<&OsStr>) -> std::ffi::OsString {
    let mut words = vec![std::ffi::OsString::from("ssh -o BatchMode=yes")];
    let quoted = |path: PathBuf| {
        let text = path.as_os_str().as_bytes().escape_ascii().to_string();
        format!("'{}'", text.replace('\'', "'\\''"))
    };
    if let Some(folder) = home.map(|home| Path::new(home).join(".ssh")) {
        if folder.join("config").exists() {
            words.push(format!(" -F {}", quoted(folder.join("config"))).into());
        }
        if folder.join("known_hosts").exists() {
            words.push(format!(" -o UserKnownHostsFile={}", quoted(folder.join("known_hosts"))).into());
        }
        for name in ["id_ed25519", "id_ecdsa", "id_rsa"] {
            if folder.join(name).exists() {
                words.push(format!(" -o IdentityFile={}", quoted(folder.join(name))).into());
            }
        }
    }
    words.into_iter().collect()
}

/// Removes `.git` here and in submodules.
fn remove_git_dirs(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).at("read", folder)? {
        let entry = entry.at("read", folder)?;
        let (path, kind) = (entry.path(), entry.file_type().at("look at", entry.path())?);
        match (entry.file_name() == ".git", kind.is_dir()) {
            (true, true) => fs::remove_dir_all(&path).at("remove", &path)?,
            (true, false) => fs::remove_file(&path).at("remove", &path)?,
            (false, true) => remove_git_dirs(&path)?,
            (false, false) => {}
        }
    }
    Ok(())
}

/// Gives all files the time `seconds`.
fn date_all(folder: &Path, seconds: i64) -> Result<()> {
    for entry in fs::read_dir(folder).at("read", folder)? {
        let entry = entry.at("read", folder)?;
        if entry.file_type().at("look at", entry.path())?.is_dir() {
            date_all(&entry.path(), seconds)?;
        }
        let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(rustix::fs::CWD, entry.path(), &times, AtFlags::SYMLINK_NOFOLLOW).at("date", entry.path())?;
    }
    Ok(())
}
