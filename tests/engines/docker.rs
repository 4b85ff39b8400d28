//! dockerd, its containerd and the shim of that.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{docker_archive, like_docker, runtime};
use crate::harness::call::Running;
use crate::harness::{Actor, Call, peers};

/// A daemon with a state of its own, whose containers this runtime makes.
pub(crate) struct Daemon {
    process: Running,
    socket: String,
    home: PathBuf,
}

impl Daemon {
    /// Starts one in this folder. `through` is a command line to start it by.
    pub(crate) fn start(home: &Path, through: &[String], more: &[&str]) -> Option<Self> {
        fs::create_dir_all(home).expect("a folder in our folder");
        let at = |name: &str| home.join(name).display().to_string();
        let socket = format!("unix://{}", at("socket"));
        let daemon = peers::find("dockerd")?;
        let call = match through {
            [] => Call::new(&daemon),
            [first, rest @ ..] => Call::new(first).args(rest).arg(&daemon),
        };
        let mut process = call
            .dir(home)
            .env("HOME", home)
            .args(["--host", &socket, "--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid")])
            .args(["--iptables=false", "--ip6tables=false", "--default-runtime", "layerfs"])
            .args(["--add-runtime", &format!("layerfs={}", runtime().display())])
            .args(more)
            .start();
        process.wait_for_stderr("API listen on");
        Some(Self { process, socket, home: home.to_owned() })
    }

    pub(crate) fn docker<I: IntoIterator<Item: AsRef<std::ffi::OsStr>>>(&self, args: I) -> Call {
        let docker = peers::call("docker", &self.home).expect("dockerd is there, so is docker");
        docker.env("DOCKER_HOST", &self.socket).args(args)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process.signal(rustix::process::Signal::TERM);
        self.process.ends_within(Duration::from_secs(30));
    }
}

#[test]
fn docker_with_this_runtime() {
    let Some(actor) = Actor::root() else { return };
    let Some(daemon) = Daemon::start(&actor.path("docker"), &[], &["--bridge", "none"]) else { return };
    let (archive, image) = docker_archive(&actor);
    daemon.docker(["load", "-q", "-i", &archive]).ok();
    assert_eq!(daemon.docker(["info", "-f", "{{.DefaultRuntime}}"]).ok().result(), "layerfs");
    like_docker::drive(&|words| daemon.docker(words), image);

    // Privileged, and a policy that starts it again.
    let run = |words: &[&str]| daemon.docker(["run", "--network", "none"].iter().chain(words));
    let said = run(&["--rm", "--privileged", image, "sh", "-c", "test -e /dev/kmsg; echo $?"]).ok();
    assert_eq!(said.stdout, "0\n");
    run(&["--name", "again", "--restart", "on-failure:2", "-d", image, "false"]).ok();
    super::until(
        "the second restart",
        || daemon.docker(["inspect", "-f", "{{.RestartCount}} {{.State.Status}}", "again"]).output(),
        |report| report.result() == "2 exited",
    );
    daemon.docker(["rm", "again"]).ok();
}
