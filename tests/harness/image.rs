//! Images made without the programs under test: OCI layouts written byte by byte, and a Debian from its packages.

use std::fs;
use std::path::{Path, PathBuf};

use layerfs::digest::Digest;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use super::{Call, machine};

/// One layer as a tar in memory.
pub(crate) struct Layer(Builder<Vec<u8>>);

impl Layer {
    pub(crate) fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    pub(crate) fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(path, EntryType::Directory, mode, "", b"")
    }

    pub(crate) fn file(self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        self.entry(path, EntryType::Regular, mode, "", content.as_ref())
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, EntryType::Symlink, 0o777, target, b"")
    }

    pub(crate) fn hardlink(self, path: &str, target: &str) -> Self {
        self.entry(path, EntryType::Link, 0o644, target, b"")
    }

    /// Any entry, named as it stands: the checks of the tar crate would keep a hostile name out.
    pub(crate) fn entry(mut self, path: &str, kind: EntryType, mode: u32, target: &str, content: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_mtime(1_700_000_000);
        header.set_uid(0);
        header.set_gid(0);
        let ustar = header.as_ustar_mut().expect("it was made as ustar");
        ustar.name[..path.len()].copy_from_slice(path.as_bytes());
        ustar.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).expect("a Vec takes every byte");
        self
    }

    pub(crate) fn tar(self) -> Vec<u8> {
        self.0.into_inner().expect("a Vec takes every byte")
    }
}

/// Writes an OCI layout with one image of gzip layers, tagged. `config` is the `config` member of its configuration.
pub(crate) fn write_layout(dir: &Path, tag: &str, layers: Vec<Vec<u8>>, config: &Value) {
    fs::create_dir_all(dir.join("blobs/sha256")).expect("a folder in our folder");
    let put = |bytes: &[u8], media_type: &str| {
        let digest = Digest::of(bytes);
        fs::write(dir.join("blobs/sha256").join(digest.hex()), bytes).expect("a file in our folder");
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
    };
    let diff_ids: Vec<_> = layers.iter().map(|tar| Digest::of(tar).to_string()).collect();
    let layers: Vec<_> =
        layers.iter().map(|tar| put(&gzip(tar), "application/vnd.oci.image.layer.v1.tar+gzip")).collect();
    let config = json!({
        "architecture": architecture(), "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = put(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers});
    let mut entry = put(manifest.to_string().as_bytes(), media_type);
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    fs::write(dir.join("index.json"), index.to_string()).expect("a file in our folder");
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a file in our folder");
}

/// This machine's architecture in the words of images.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("layer");
    fs::write(&path, bytes).expect("a file in a temporary folder");
    Call::new("gzip").arg("-n").arg(&path).ok();
    fs::read(dir.path().join("layer.gz")).expect("gzip wrote it")
}

/// An OCI layout with Debian's busybox under all its names, tagged `busybox`: starts in a moment, has a shell.
pub(crate) fn busybox() -> PathBuf {
    machine::cached("busybox-layout", |dir| {
        let busybox = fs::read("/bin/busybox").expect("the package busybox-static is installed");
        let mut layer = Layer::new();
        for (folder, mode) in
            [("bin/", 0o755), ("etc/", 0o755), ("home/", 0o755), ("root/", 0o700), ("tmp/", 0o1777), ("var/", 0o755)]
        {
            layer = layer.dir(folder, mode);
        }
        layer = layer
            .file("bin/busybox", 0o755, busybox)
            .file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000:guest:/home:/bin/sh\n")
            .file("etc/group", 0o644, "root:x:0:\nguest:x:1000:\nstaff:x:50:guest\n");
        for name in Call::new("/bin/busybox").arg("--list").ok().lines() {
            if name != "busybox" {
                layer = layer.symlink(&format!("bin/{name}"), "busybox");
            }
        }
        let config = json!({"Env": ["PATH=/bin"], "Cmd": ["sh"]});
        write_layout(dir, "busybox", vec![layer.tar()], &config);
    })
}

/// The root of a real Debian as a tar.
pub(crate) fn debian_tar() -> PathBuf {
    machine::cached("debian.tar", |path| {
        Call::shell(". tests/harness/system.sh; debian_root \"$1\"").arg("debian").arg(path).dir(machine::tree()).ok();
    })
}
