//! Real registries on a free loopback port: Debian's `docker-registry` and `crane registry serve`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::{machine, peers};

/// A user of the registry made by [`Registry::with_password`].
pub(crate) const USER: &str = "mirror";
/// That user's password.
pub(crate) const PASSWORD: &str = "correct horse";
/// `USER` with `PASSWORD` as `htpasswd -B` writes it.
const HTPASSWD: &str = "mirror:$2b$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2\n";

/// A registry that runs until it is dropped.
pub(crate) struct Registry {
    child: Child,
    address: String,
    _dir: TempDir,
}

impl Registry {
    /// Debian's docker-registry, open to all.
    pub(crate) fn start() -> Self {
        Self::docker("")
    }

    /// Debian's docker-registry, for one user only (basic authentication).
    pub(crate) fn with_password() -> Self {
        Self::docker("auth: {htpasswd: {realm: test, path: PASSWORDS}}\n")
    }

    fn docker(more: &str) -> Self {
        let dir = machine::folder();
        let passwords = dir.path().join("passwords");
        fs::write(&passwords, HTPASSWD).expect("a file in our folder");
        let config = dir.path().join("config.yml");
        let data = dir.path().join("data");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
                 http: {{addr: \"127.0.0.1:0\", secret: loopback}}\n{}",
                data.display(),
                more.replace("PASSWORDS", &passwords.display().to_string())
            ),
        )
        .expect("a file in our folder");
        // By its path: the rivals bring one too, which sees another root.
        let mut command = Command::new("/usr/bin/docker-registry");
        command.arg("serve").arg(&config);
        Self::listen(command, dir, "listening on 127.0.0.1:")
    }

    /// crane's registry, the one with the referrers API. None where the rivals are not installed.
    pub(crate) fn crane() -> Option<Self> {
        let crane: PathBuf = peers::find("crane")?;
        let dir = machine::folder();
        let mut command = Command::new(crane);
        command.args(["registry", "serve", "--address", "127.0.0.1:0"]).current_dir(dir.path());
        Some(Self::listen(command, dir, "serving on port "))
    }

    /// Starts the server; its own log names the port that the kernel chose.
    fn listen(mut command: Command, dir: TempDir, before_port: &str) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut registry = Self { child, address: String::new(), _dir: dir };
        let mut log = BufReader::new(registry.child.stderr.take().expect("stderr is piped"));
        let (sender, lines) = mpsc::channel();
        // Reads on to the end: a server whose log nobody reads stops when the pipe is full.
        thread::spawn(move || {
            let mut line = String::new();
            while matches!(log.read_line(&mut line), Ok(1..)) {
                drop(sender.send(std::mem::take(&mut line)));
            }
        });
        let mut said = String::new();
        while let Ok(line) = lines.recv_timeout(Duration::from_secs(30)) {
            if let Some((_, rest)) = line.split_once(before_port) {
                let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
                registry.address = format!("127.0.0.1:{port}");
                return registry;
            }
            said.push_str(&line);
        }
        panic!("{command:?} named no port:\n{said}");
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The full name of an image here.
    pub(crate) fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
