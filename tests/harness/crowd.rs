//! A store of many images that share most of their layers, written byte by byte: imports would take minutes.

use std::fs;
use std::path::{Path, PathBuf};

use layerfs::digest::{DiffId, Digest};
use layerfs::store::Store;
use layerfs::store::format::escape;
use serde_json::{Value, json};

/// Layers of every image, the top one its own.
const LAYERS: usize = 10;
/// Different base images.
const BASES: usize = 20;

/// The name of one of the images.
pub(crate) fn name(number: usize) -> String {
    format!("registry.example/team-{}/service-{number}:1.{number}", number % 25)
}

/// Makes a store of `images` images in `root`: each of ten layers, nine of which fifty others have too, all unpacked.
pub(crate) fn make(root: &Path, images: usize) {
    let store = Store::open(root).expect("a new store");
    let unpack = |diff_id: &Digest| {
        let files = store.layer_files(DiffId(*diff_id)).expect("a place");
        fs::create_dir_all(files.join("etc")).expect("a folder of the store");
        fs::write(files.join("etc/release"), diff_id.hex()).expect("a file of the store");
        let meta = json!({"entries": 2, "bytes": 64, "lost_xattrs": 0, "implied": [], "links": []});
        fs::write(files.with_file_name("meta.json"), meta.to_string()).expect("a file of the store");
    };
    let put = |bytes: &[u8], media_type: &str| -> Value {
        let digest = Digest::of(bytes);
        let path: PathBuf = store.blob_path(&digest);
        if !path.exists() {
            fs::write(&path, bytes).expect("a file of the store");
        }
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
    };
    // What lies in a layer does not matter to any of the measured commands: its blob is a few bytes.
    let layer = |text: String| {
        let diff_id = Digest::of(text.as_bytes());
        unpack(&diff_id);
        (put(format!("packed {text}").as_bytes(), "application/vnd.oci.image.layer.v1.tar+gzip"), diff_id)
    };
    let bases: Vec<Vec<_>> = (0..BASES)
        .map(|base| (0..LAYERS - 1).map(|number| layer(format!("layer {number} of base {base}"))).collect())
        .collect();
    for number in 0..images {
        let mut layers = bases[number % BASES].clone();
        layers.push(layer(format!("own layer of {number}")));
        let history: Vec<Value> = (0..LAYERS)
            .map(|step| {
                let command = format!(
                    "RUN /bin/sh -c apt-get install --yes package-{number}-{step} && rm -rf /var/lib/apt/lists"
                );
                json!({"created": "2026-01-02T03:04:05Z", "created_by": command, "comment": "buildkit.dockerfile.v0"})
            })
            .collect();
        let diff_ids: Vec<String> = layers.iter().map(|(_, diff_id)| diff_id.to_string()).collect();
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
            "created": "2026-01-02T03:04:05Z",
            "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["server"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": history,
        });
        let blobs: Vec<Value> = layers.into_iter().map(|(blob, _)| blob).collect();
        let config = put(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": blobs});
        let descriptor = put(manifest.to_string().as_bytes(), media_type);
        fs::write(root.join("refs").join(escape(&name(number))), descriptor.to_string()).expect("a file of the store");
    }
    store.publish_index().expect("the store can be written");
}
