//! A container made from a bundle by `layerfs-runtime`, and what it leaves.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Actor, Call, Report, machine};

/// A bundle whose root is busybox, and the containers made from it.
pub(crate) struct Bundle {
    pub(crate) actor: Actor,
    pub(crate) id: String,
}

impl Bundle {
    /// `name` is unique on this machine together with this process's number.
    pub(crate) fn new(name: &str, script: &str, resources: Value) -> Option<Self> {
        let actor = Actor::root()?;
        actor.mkdir("rootfs/bin");
        for folder in ["proc", "dev", "sys", "tmp"] {
            actor.mkdir(Path::new("rootfs").join(folder));
        }
        fs::copy("/bin/busybox", actor.path("rootfs/bin/busybox")).expect("the package busybox-static is installed");
        let list = Call::new("/bin/busybox").arg("--list").ok();
        for applet in list.lines().into_iter().filter(|name| *name != "busybox") {
            symlink("busybox", actor.path("rootfs/bin").join(applet)).expect("an applet");
        }
        let bundle = Self { id: format!("{name}-{}", std::process::id()), actor };
        bundle.call(&["spec"]).ok();
        bundle.change(|config| {
            config["process"]["terminal"] = json!(false);
            config["process"]["args"] = json!(["sh", "-c", script]);
            config["root"]["readonly"] = json!(false);
            config["linux"]["resources"] = resources;
        });
        Some(bundle)
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Value)) {
        let path = self.actor.path("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).expect("it was written")).expect("JSON");
        change(&mut config);
        fs::write(&path, config.to_string()).expect("a file in our folder");
    }

    pub(crate) fn call(&self, words: &[&str]) -> Call {
        let words = words.iter().map(|word| if *word == "ID" { self.id.as_str() } else { word });
        self.actor.call(machine::programs().join("layerfs-runtime")).arg("--root").arg(self.state()).args(words)
    }

    /// Runs it with streams that a container may keep: nobody waits for their end.
    pub(crate) fn away(&self, words: &[&str]) {
        let words = words.iter().map(|word| if *word == "ID" { self.id.as_str() } else { word });
        let script = "\"$@\" </dev/null >/dev/null 2>said || { cat said >&2; exit 1; }";
        let call = self.actor.shell(script).arg("away").arg(machine::programs().join("layerfs-runtime"));
        call.arg("--root").arg(self.state()).args(words).ok();
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.actor.path("state")
    }

    pub(crate) fn run(&self) -> Report {
        self.call(&["run", "ID"]).output()
    }

    /// Creates and starts it, with nobody at its streams.
    pub(crate) fn start(&self) {
        self.away(&["run", "--detach", "ID"]);
    }

    /// Its first process's number on the host.
    pub(crate) fn pid(&self) -> u64 {
        self.call(&["state", "ID"]).ok().json()["pid"].as_u64().expect("a number")
    }

    /// What a shell in it says.
    #[track_caller]
    pub(crate) fn says(&self, script: &str) -> String {
        self.call(&["exec", "ID", "sh", "-c", script]).ok().stdout.trim().to_owned()
    }

    /// Its folders, in all hierarchies.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let found = Call::shell("find /sys/fs/cgroup -type d -name \"*$ID\" || true").env("ID", &self.id).output();
        found.lines().into_iter().map(PathBuf::from).collect()
    }

    /// What one of its files says: of v1, or else of v2.
    pub(crate) fn file(&self, v1: &str, v2: &str) -> String {
        let folders = self.cgroups();
        let found = [v1, v2].into_iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
        let text = found.filter_map(|path| fs::read_to_string(path).ok()).next();
        text.unwrap_or_else(|| panic!("neither {v1} nor {v2} in {folders:?}")).trim().to_owned()
    }

    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(self.cgroups(), Vec::<PathBuf>::new());
        let states: Vec<_> =
            fs::read_dir(self.state()).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        assert_eq!(states, Vec::<PathBuf>::new());
        self.actor.assert_nothing_left();
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        drop(self.call(&["delete", "--force", "ID"]).output());
    }
}
