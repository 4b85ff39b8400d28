//! The same cases built by others.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use crate::harness::call::Running;
use crate::harness::{Call, peers};

use super::case::Case;
use super::picture::{LayoutArchive, Picture};

/// A rival that builds one case: the image, or what it says where it fails.
pub(super) trait Rival: Sync {
    fn name(&self) -> &'static str;
    fn load(&self, archive: &Path);
    fn build(&self, case: &Case, context: &Path) -> Result<Picture, String>;
}

/// BuildKit in docker's daemon.
pub(super) struct BuildKit {
    /// Behind a lock only because it is no thread's own.
    daemon: Mutex<Running>,
    socket: String,
    dir: PathBuf,
}

impl BuildKit {
    pub(super) fn start(dir: &Path) -> Option<Self> {
        let state = dir.join("docker");
        fs::create_dir_all(&state).expect("a folder in our folder");
        // Only with containerd's images does the daemon write image layouts.
        fs::write(state.join("daemon.json"), r#"{"features": {"containerd-snapshotter": true}}"#).expect("a file");
        let socket = format!("unix://{}/socket", state.display());
        let at = |name: &str| state.join(name).display().to_string();
        let mut daemon = peers::call("dockerd", dir)?
            .args(["--config-file", &at("daemon.json"), "--host", &socket, "--pidfile", &at("pid")])
            .args(["--data-root", &at("data"), "--exec-root", &at("exec")])
            .args(["--bridge", "none", "--iptables=false", "--ip6tables=false"])
            .start();
        daemon.wait_for_stderr("API listen on");
        Some(Self { daemon: Mutex::new(daemon), socket, dir: dir.to_owned() })
    }

    fn docker(&self) -> Call {
        peers::call("docker", &self.dir).expect("dockerd is there, so is docker").env("DOCKER_HOST", &self.socket)
    }
}

impl Rival for BuildKit {
    fn name(&self) -> &'static str {
        "buildkit"
    }

    fn load(&self, archive: &Path) {
        self.docker().args(["load", "-q", "-i"]).arg(archive).ok();
    }

    fn build(&self, case: &Case, context: &Path) -> Result<Picture, String> {
        let out = self.dir.join(format!("{}.buildkit", case.name));
        let output = format!("type=oci,dest={},compression=uncompressed", out.display());
        let report = self
            .docker()
            .args(["build", "--quiet", "--network", "none", "--provenance=false", "--no-cache", "-o", &output])
            .args(&case.args)
            .arg(".")
            .dir(context)
            .output();
        if report.code != 0 {
            return Err(report.stderr);
        }
        let (blobs, manifest) = LayoutArchive::load(&out);
        fs::remove_file(&out).expect("our file");
        Ok(Picture::of(&blobs, &manifest))
    }
}

impl Drop for BuildKit {
    fn drop(&mut self) {
        let daemon = self.daemon.get_mut().expect("nobody panics");
        daemon.signal(rustix::process::Signal::TERM);
        daemon.ends_within(Duration::from_secs(20));
    }
}

/// Buildah, without namespaces of its own.
pub(super) struct Buildah {
    dir: PathBuf,
}

impl Buildah {
    pub(super) fn new(dir: &Path) -> Option<Self> {
        peers::find("buildah").map(|_| Self { dir: dir.to_owned() })
    }

    fn buildah(&self) -> Call {
        let at = |name: &str| self.dir.join(name).display().to_string();
        peers::call("buildah", &self.dir).expect("it was there before").args([
            "--root",
            &at("buildah-root"),
            "--runroot",
            &at("buildah-run"),
            "--storage-driver",
            "overlay",
        ])
    }
}

impl Rival for Buildah {
    fn name(&self) -> &'static str {
        "buildah"
    }

    fn load(&self, archive: &Path) {
        self.buildah().args(["pull", "-q", &format!("docker-archive:{}", archive.display())]).ok();
    }

    fn build(&self, case: &Case, context: &Path) -> Result<Picture, String> {
        let name = format!("localhost/case-{}", case.name);
        let report = self
            .buildah()
            .args(["build", "-q", "--isolation", "chroot", "--pull=never", "--layers", "--identity-label=false"])
            .args(["--format", "docker", "-t", &name])
            .args(&case.args)
            .arg(".")
            .dir(context)
            .output();
        if report.code != 0 {
            return Err(report.stderr);
        }
        let out = self.dir.join(format!("{}.buildah", case.name));
        let to = format!("oci-archive:{}", out.display());
        self.buildah().args(["push", "-q", "--format", "oci", "--disable-compression", &name, &to]).ok();
        let (blobs, manifest) = LayoutArchive::load(&out);
        Ok(Picture::of(&blobs, &manifest))
    }
}
