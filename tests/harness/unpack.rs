//! The same image unpacked by us and by each of the rivals, as folders to look at.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use layerfs::digest::{DiffId, Digest};
use layerfs::layer::{Limits, stream_layer, unpack_chain};
use layerfs::mount::{Backend, MountPlan, overlay};
use layerfs::oci::{Descriptor, media_type};
use layerfs::store::Store;
use serde_json::json;

use super::{Call, image, machine, peers};

/// A mount of ours, attached nowhere.
pub(crate) struct Mounted {
    mount: OwnedFd,
    _dir: tempfile::TempDir,
}

impl Mounted {
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.mount.as_raw_fd()).into()
    }
}

/// Uncompressed layers, lowest first, through a store of ours.
pub(crate) fn by_us(layers: &[Vec<u8>]) -> layerfs::error::Result<Mounted> {
    let dir = machine::folder();
    let store = Store::open(&dir.path().join("store"))?;
    let mut chain = Vec::new();
    for tar in layers {
        let descriptor = Descriptor::of(media_type::OCI_LAYER, tar);
        let diff_id = DiffId(Digest::of(tar));
        stream_layer(&store, &descriptor, diff_id, &tar[..], &Limits::default())?;
        chain.push((descriptor, diff_id));
    }
    let lowers = unpack_chain(&store, &chain, &Limits::default())?;
    let mount = overlay(&MountPlan { lowers: lowers.dirs, upper: None, volatile: false, backend: Backend::Overlay })?;
    Ok(Mounted { mount, _dir: dir })
}

/// Who else unpacks layers over one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rival {
    Containerd,
    Podman,
    Umoci,
}

impl Rival {
    pub(crate) const ALL: [Self; 3] = [Self::Containerd, Self::Podman, Self::Umoci];

    /// The folder in `dir` that it unpacks these layers into; none where it is not installed. All of them write into
    /// one folder and use no union mount.
    pub(crate) fn unpack(self, dir: &Path, layers: Vec<Vec<u8>>) -> Option<PathBuf> {
        let layout = dir.join("layout");
        image::write_layout(&layout, "it", layers, &json!({}));
        let shown = layout.display();
        match self {
            Self::Containerd => by_containerd(dir, &layout),
            Self::Podman => {
                let storage = format!("--root {0}/root --runroot {0}/runroot --storage-driver vfs", dir.display());
                let podman = |line: &str| {
                    Some(
                        peers::call("podman", dir)?
                            .args(storage.split(' '))
                            .args(line.split(' '))
                            .ok()
                            .result()
                            .to_owned(),
                    )
                };
                let id = podman(&format!("pull -q oci:{shown}:it"))?;
                podman(&format!("image mount {id}")).map(PathBuf::from)
            }
            Self::Umoci => {
                let bundle = dir.join("bundle");
                peers::call("umoci", dir)?
                    .args(["unpack", "--image", &format!("{shown}:it"), &bundle.display().to_string()])
                    .ok();
                Some(bundle.join("rootfs"))
            }
        }
    }
}

fn by_containerd(dir: &Path, layout: &Path) -> Option<PathBuf> {
    let at = |name: &str| dir.join(name).display().to_string();
    let socket = at("socket");
    let config = dir.join("config.toml");
    fs::write(&config, "version = 3\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n").expect("a file of ours");
    let mut daemon = peers::call("containerd", dir)?
        .args([
            "--config",
            &at("config.toml"),
            "--root",
            &at("containerd"),
            "--state",
            &at("state"),
            "--address",
            &socket,
        ])
        .start();
    daemon.wait_for_stderr("containerd successfully booted");
    let archive = at("layout.tar");
    Call::new("tar").args(["-C", &layout.display().to_string(), "-cf", &archive, "."]).ok();
    let ctr = peers::call("ctr", dir).expect("containerd is there, so is ctr");
    ctr.args(["--address", &socket, "images", "import", "--local", "--snapshotter", "native", &archive]).ok();
    daemon.signal(rustix::process::Signal::TERM);
    daemon.ends_within(std::time::Duration::from_secs(20));
    // Each layer is a folder of its own with all below it in it; they are numbered as they are made.
    let snapshots = dir.join("containerd/io.containerd.snapshotter.v1.native/snapshots");
    let number =
        |entry: std::io::Result<fs::DirEntry>| entry.expect("readable").file_name().to_str()?.parse::<u64>().ok();
    let last = fs::read_dir(&snapshots).expect("snapshots").filter_map(number).max().expect("one at least");
    Some(snapshots.join(last.to_string()))
}
