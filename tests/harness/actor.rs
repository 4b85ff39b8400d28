//! A party that works with the programs: who it is, where its home and its store lie.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::machine::{self, User};
use super::{Call, image};

/// Root or an ordinary user, with an empty home and store of its own that go when it goes.
pub(crate) struct Actor {
    user: Option<User>,
    dir: TempDir,
}

impl Actor {
    /// Real root; none where the tests run as somebody else.
    pub(crate) fn root() -> Option<Self> {
        if machine::is_root() {
            return Some(Self::new(None));
        }
        machine::not_run("a test of root: the tests run as an ordinary user");
        None
    }

    /// An ordinary user: no capability, no sudo, a range of subordinate ids.
    pub(crate) fn ordinary() -> Option<Self> {
        machine::ordinary_user().map(|user| Self::new(Some(user)))
    }

    /// An ordinary user to whom nobody gave subordinate ids.
    pub(crate) fn without_range() -> Option<Self> {
        machine::user_without_range().map(|user| Self::new(Some(user)))
    }

    /// Both kinds that a test should hold for.
    pub(crate) fn everyone() -> Vec<Self> {
        [Self::root(), Self::ordinary()].into_iter().flatten().collect()
    }

    fn new(user: Option<User>) -> Self {
        let actor = Self { user, dir: machine::folder() };
        actor.own(actor.dir.path());
        actor.mkdir("home");
        actor
    }

    /// The same party with another store: a second machine, so to speak.
    pub(crate) fn elsewhere(&self) -> Self {
        Self::new(self.user.clone())
    }

    pub(crate) fn is_root(&self) -> bool {
        self.user.is_none()
    }

    pub(crate) fn name(&self) -> &str {
        self.user.as_ref().map_or("root", |user| &user.name)
    }

    pub(crate) fn uid(&self) -> u32 {
        self.user.as_ref().map_or(0, |user| user.uid)
    }

    /// The folder of this party: everything it makes lies in it.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path("home/.local/share/layerfs")
    }

    /// Writes a file in its folder, with the folders above it.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        if let Some(parent) = Path::new(name).parent() {
            self.mkdir(parent);
        }
        let path = self.path(name);
        fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self.own(&path);
        path
    }

    pub(crate) fn mkdir(&self, name: impl AsRef<Path>) -> PathBuf {
        let mut path = self.dir.path().to_owned();
        for part in name.as_ref() {
            path.push(part);
            if fs::create_dir(&path).is_ok() {
                self.own(&path);
            }
        }
        path
    }

    fn own(&self, path: &Path) {
        if let (Some(user), true) = (&self.user, machine::is_root()) {
            chown(path, Some(user.uid), Some(user.gid)).expect("root may give a file away");
        }
    }

    /// Any program as this party, in its folder, with an environment of its own.
    pub(crate) fn call(&self, program: impl AsRef<OsStr>) -> Call {
        let home = self.path("home");
        let call = Call::new(program)
            .env_clear()
            .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", machine::programs().display()))
            .env("HOME", &home)
            .env("USER", self.name())
            .env("LAYERFS_STORE", self.store())
            .dir(self.dir.path());
        match &self.user {
            Some(user) if machine::is_root() => call.identity(user.uid, user.gid),
            _ => call,
        }
    }

    pub(crate) fn shell(&self, script: &str) -> Call {
        self.call("bash").args(["-euo", "pipefail", "-c", script])
    }

    pub(crate) fn build<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> Call {
        self.call(machine::programs().join("build")).args(args)
    }

    pub(crate) fn copy<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> Call {
        self.call(machine::programs().join("copy")).args(args)
    }

    pub(crate) fn run<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> Call {
        self.call(machine::programs().join("run")).args(args)
    }

    /// Puts the small base image into its store as `localhost/busybox`.
    pub(crate) fn with_busybox(self) -> Self {
        self.copy([&format!("oci:{}:busybox", image::busybox().display()), "store:localhost/busybox"]).ok();
        self
    }

    /// Nothing of it is left running, mounted or half-written.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        let mine = self.dir.path().to_str().expect("our folders have plain names");
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let mounted: Vec<_> = mounts.lines().filter(|line| line.contains(mine)).collect();
        assert!(mounted.is_empty(), "mounts left behind: {mounted:#?}");
        let running = self.processes();
        assert!(running.is_empty(), "processes left behind: {running:#?}");
        // Opening the store sweeps what a killed owner left in it.
        self.copy(["images"]).ok();
        let half: Vec<_> = fs::read_dir(self.store().join("tmp"))
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        assert!(half.is_empty(), "half-written things left in the store: {half:#?}");
    }

    /// The processes that work for this party or live on a mount of its store.
    pub(crate) fn processes(&self) -> Vec<String> {
        let mine = self.dir.path().to_str().expect("our folders have plain names").as_bytes();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let path = entry.path();
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            if pid == std::process::id() {
                continue;
            }
            let names = |file: &str| {
                fs::read(path.join(file)).is_ok_and(|text| text.windows(mine.len()).any(|window| window == mine))
            };
            if names("environ") || names("cmdline") || names("mountinfo") {
                let cmdline = fs::read(path.join("cmdline")).unwrap_or_default();
                found.push(format!("{pid}: {}", String::from_utf8_lossy(&cmdline).replace('\0', " ")));
            }
        }
        found
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // A test that failed half-way may have left a container running on the folder that is about to go.
        drop(self.shell("run ps -aq 2>/dev/null | xargs -r run rm -f >/dev/null 2>&1 || true").output());
        if !self.is_root() && !machine::is_root() {
            // Files of subordinate ids can be removed inside the user namespace only.
            drop(self.shell("run unshare rm -rf \"$LAYERFS_STORE\" || true").output());
        }
    }
}
