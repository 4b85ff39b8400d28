//! What a client of registries has to do, one case per rule of the distribution specification, per habit of a real
//! registry, and per incident; for any client that can copy.
//!
//! `tests/conformance` prints the table for `copy` and its rivals. Without more words only `copy` is judged, and every
//! case has to hold.

mod hostile;
mod reading;
mod writing;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Actor, Auth, Call, FaultyRegistry, Report, machine, peers};
use layerfs::digest::Digest;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Nothing here is worth waiting for longer.
const PATIENCE: Duration = Duration::from_secs(40);

/// One rule.
pub(crate) struct Case {
    /// What a client does that keeps it.
    pub(crate) name: &'static str,
    /// Where the rule comes from.
    pub(crate) source: &'static str,
    pub(crate) judge: fn(&Bench) -> Result<(), String>,
}

/// Who is judged.
#[derive(Clone, Debug)]
enum Client {
    /// `copy`, or a command that takes its words.
    Copy(PathBuf),
    Skopeo,
    Crane,
    Oras,
}

impl Client {
    fn named(name: &str) -> Self {
        match name {
            "copy" => Self::Copy(machine::programs().join("copy")),
            "skopeo" => Self::Skopeo,
            "crane" => Self::Crane,
            "oras" => Self::Oras,
            path => Self::Copy(path.into()),
        }
    }

    fn column(&self) -> String {
        match self {
            Self::Copy(path) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            other => format!("{other:?}").to_lowercase(),
        }
    }

    fn is_there(&self) -> bool {
        match self {
            Self::Copy(path) => path.exists(),
            other => peers::find(&other.column()).is_some(),
        }
    }
}

/// One client in a folder of its own, and what it can be asked to do.
pub(crate) struct Bench {
    client: Client,
    dir: TempDir,
}

impl Bench {
    fn new(client: &Client) -> Self {
        Self { client: client.clone(), dir: machine::folder() }
    }

    fn call(&self) -> Call {
        let home = self.dir.path().join("home");
        std::fs::create_dir_all(&home).expect("a folder in our folder");
        let call = match &self.client {
            Client::Copy(path) => Call::new(path).dir(self.dir.path()),
            other => peers::call(&other.column(), self.dir.path()).expect("it was found before"),
        };
        call.env("HOME", &home).env("DOCKER_CONFIG", &home).env("REGISTRY_AUTH_FILE", home.join("config.json"))
    }

    fn words(&self, words: &[&str]) -> Report {
        self.log_in_nowhere();
        let running = self.call().args(words).start();
        if !running.ends_within(PATIENCE) {
            running.signal_group(rustix::process::Signal::KILL);
        }
        running.wait()
    }

    fn log_in_nowhere(&self) {
        let file = self.dir.path().join("home/config.json");
        if !file.exists() {
            std::fs::create_dir_all(self.dir.path().join("home")).expect("a folder in our folder");
            std::fs::write(file, "{}").expect("a file in our folder");
        }
    }

    /// Keeps the credential `robot:s3cret` for a registry.
    pub(crate) fn log_in(&self, registry: &FaultyRegistry) {
        let home = self.dir.path().join("home");
        std::fs::create_dir_all(&home).expect("a folder in our folder");
        // echo -n robot:s3cret | base64
        let auths = json!({ "auths": { registry.address(): { "auth": "cm9ib3Q6czNjcmV0" } } });
        std::fs::write(home.join("config.json"), auths.to_string()).expect("a file in our folder");
    }

    /// Copies an image from a registry into a layout of its own.
    pub(crate) fn pull(&self, name: &str) -> Pulled {
        let dir = self.dir.path().join(format!("pulled-{}", name.replace(['/', ':', '@'], "-")));
        let path = dir.display().to_string();
        let (docker, oci) = (format!("docker://{name}"), format!("oci:{path}:x"));
        let report = match &self.client {
            Client::Copy(_) => self.words(&["-q", &docker, &oci]),
            Client::Skopeo => self.words(&[
                "--insecure-policy",
                "copy",
                "-q",
                "--all",
                "--preserve-digests",
                "--retry-times",
                "3",
                "--src-tls-verify=false",
                &docker,
                &oci,
            ]),
            Client::Crane => self.words(&["pull", "--insecure", "--format", "oci", name, &path]),
            Client::Oras => self.words(&["cp", "--from-plain-http", "--to-oci-layout", name, &format!("{path}:x")]),
        };
        Pulled { dir, report }
    }

    /// Copies an image from one registry to another, or within one.
    pub(crate) fn copy(&self, from: &str, to: &str) -> Report {
        let (source, target) = (format!("docker://{from}"), format!("docker://{to}"));
        match &self.client {
            Client::Copy(_) => self.words(&["-q", &source, &target]),
            Client::Skopeo => self.words(&[
                "--insecure-policy",
                "copy",
                "-q",
                "--all",
                "--preserve-digests",
                "--retry-times",
                "3",
                "--src-tls-verify=false",
                "--dest-tls-verify=false",
                &source,
                &target,
            ]),
            Client::Crane => self.words(&["cp", "--insecure", from, to]),
            Client::Oras => self.words(&["cp", "--from-plain-http", "--to-plain-http", from, to]),
        }
    }

    /// The same, with everything that refers to the image.
    pub(crate) fn copy_with_referrers(&self, from: &str, to: &str) -> Report {
        let (source, target) = (format!("docker://{from}"), format!("docker://{to}"));
        match &self.client {
            Client::Copy(_) => self.words(&["-q", "--referrers", "--digest-tags", &source, &target]),
            Client::Oras => self.words(&["cp", "-r", "--from-plain-http", "--to-plain-http", from, to]),
            _ => self.copy(from, to),
        }
    }

    /// Copies the one image of a layout to a registry.
    pub(crate) fn push(&self, layout: &Path, name: &str) -> Report {
        let path = layout.display().to_string();
        let (oci, docker) = (format!("oci:{path}:x"), format!("docker://{name}"));
        match &self.client {
            Client::Copy(_) => self.words(&["-q", &oci, &docker]),
            Client::Skopeo => self.words(&[
                "--insecure-policy",
                "copy",
                "-q",
                "--all",
                "--preserve-digests",
                "--retry-times",
                "3",
                "--dest-tls-verify=false",
                &oci,
                &docker,
            ]),
            Client::Crane => self.words(&["push", "--insecure", &path, name]),
            Client::Oras => self.words(&["cp", "--from-oci-layout", "--to-plain-http", &format!("{path}:x"), name]),
        }
    }

    /// Lists tags, one a line or in JSON.
    pub(crate) fn tags(&self, repository: &str) -> Report {
        match &self.client {
            Client::Copy(_) => self.words(&["list-tags", repository]),
            Client::Skopeo => self.words(&["list-tags", "--tls-verify=false", &format!("docker://{repository}")]),
            Client::Crane => self.words(&["ls", "--insecure", repository]),
            Client::Oras => self.words(&["repo", "tags", "--plain-http", repository]),
        }
    }

    /// Removes a tag.
    pub(crate) fn delete(&self, name: &str) -> Report {
        match &self.client {
            Client::Copy(_) => self.words(&["delete", name]),
            Client::Skopeo => self.words(&["delete", "--tls-verify=false", &format!("docker://{name}")]),
            Client::Crane => self.words(&["delete", "--insecure", name]),
            Client::Oras => self.words(&["manifest", "delete", "--force", "--plain-http", name]),
        }
    }
}

/// What a pull left behind.
pub(crate) struct Pulled {
    dir: PathBuf,
    pub(crate) report: Report,
}

impl Pulled {
    /// The file of a blob.
    pub(crate) fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        std::fs::read(self.dir.join("blobs").join(digest.replace(':', "/"))).ok()
    }

    /// Whether the layout names an image.
    pub(crate) fn names_an_image(&self) -> bool {
        let index = std::fs::read(self.dir.join("index.json")).unwrap_or_default();
        let index: serde_json::Value = serde_json::from_slice(&index).unwrap_or_default();
        self.report.code == 0 && index["manifests"].as_array().is_some_and(|list| !list.is_empty())
    }
}

/// An image in a registry: the digests of its manifest and of its layers.
pub(crate) struct Image {
    pub(crate) digest: String,
    pub(crate) layers: Vec<String>,
}

/// A layer's bytes: a tar of one file of so many bytes that do not compress.
pub(crate) fn layer(seed: u8, size: usize) -> Vec<u8> {
    let mut state = u32::from(seed) | 1;
    let noise: Vec<u8> = (0..size)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        })
        .collect();
    crate::harness::image::Layer::new().file("noise", 0o644, noise).tar()
}

/// Documents of an image of these layers, uncompressed: its manifest, configuration and layers.
pub(crate) fn documents(layers: &[Vec<u8>]) -> (Vec<u8>, Vec<(String, Vec<u8>)>) {
    let digests: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {}, "rootfs": { "type": "layers", "diff_ids": digests },
    })
    .to_string()
    .into_bytes();
    let parts: Vec<_> = layers
        .iter()
        .zip(&digests)
        .map(|(layer, digest)| json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": layer.len() }))
        .collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(&config).to_string(), "size": config.len(),
        },
        "layers": parts,
    });
    let mut blobs = vec![(Digest::of(&config).to_string(), config)];
    blobs.extend(digests.into_iter().zip(layers.iter().cloned()));
    (manifest.to_string().into_bytes(), blobs)
}

/// Puts an image of these layers into a registry.
pub(crate) fn fill(registry: &FaultyRegistry, repository: &str, tag: &str, layers: &[Vec<u8>]) -> Image {
    let (manifest, blobs) = documents(layers);
    for (digest, bytes) in &blobs {
        registry.put_blob(digest, bytes);
    }
    let digest = registry.put_manifest(repository, tag, OCI_MANIFEST, &manifest);
    Image { digest, layers: blobs.into_iter().skip(1).map(|(digest, _)| digest).collect() }
}

/// Writes a layout with an image of these layers under the name `x`.
pub(crate) fn layout(dir: &Path, layers: &[Vec<u8>]) -> Image {
    let (manifest, blobs) = documents(layers);
    let digest = Digest::of(&manifest).to_string();
    let layers = blobs.iter().skip(1).map(|(digest, _)| digest.clone()).collect();
    std::fs::create_dir_all(dir.join("blobs/sha256")).expect("a folder in our folder");
    let size = manifest.len();
    for (digest, bytes) in blobs.into_iter().chain([(digest.clone(), manifest)]) {
        std::fs::write(dir.join("blobs").join(digest.replace(':', "/")), bytes).expect("a file in our folder");
    }
    let index = json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": OCI_MANIFEST, "digest": digest, "size": size, "annotations": { "org.opencontainers.image.ref.name": "x" },
    }]});
    std::fs::write(dir.join("index.json"), index.to_string()).expect("a file in our folder");
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a file in our folder");
    Image { digest, layers }
}

impl Bench {
    /// A layout in this bench's folder with an image of one layer of `size` bytes.
    pub(crate) fn layout(&self, size: usize) -> (PathBuf, Image) {
        let dir = self.dir.path().join("layout");
        let image = layout(&dir, &[layer(9, size)]);
        (dir, image)
    }

    /// An open registry.
    pub(crate) fn registry(&self) -> FaultyRegistry {
        FaultyRegistry::start(Auth::Open)
    }
}

/// Fails with this sentence unless it holds.
pub(crate) fn hold(holds: bool, otherwise: impl std::fmt::Display) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.to_string()) }
}

/// Fails unless the command did well.
pub(crate) fn worked(report: &Report) -> Result<(), String> {
    hold(report.code == 0, report)
}

fn cases() -> Vec<Case> {
    [reading::cases(), writing::cases(), hostile::cases()].into_iter().flatten().collect()
}

#[test]
fn every_rule_is_kept() {
    let Some(_root) = Actor::root() else { return };
    let chosen = std::env::var("LAYERFS_CONFORMANCE").unwrap_or_else(|_| "copy".to_owned());
    let clients: Vec<Client> = chosen.split(',').map(Client::named).filter(Client::is_there).collect();
    let cases = cases();
    let mut table = format!("| case | source |{}\n|---|---|{}\n", columns(&clients), "---|".repeat(clients.len()));
    let mut broken = Vec::new();
    let mut counts = vec![0; clients.len()];
    for case in &cases {
        table.push_str(&format!("| {} | {} |", case.name, case.source));
        for (place, client) in clients.iter().enumerate() {
            let begun = Instant::now();
            let verdict = (case.judge)(&Bench::new(client));
            counts[place] += usize::from(verdict.is_ok());
            table.push_str(if verdict.is_ok() { " yes |" } else { " **no** |" });
            if let (Err(why), Client::Copy(_)) = (&verdict, client) {
                broken.push(format!("{}: {why}", case.name));
            }
            if begun.elapsed() > PATIENCE && matches!(client, Client::Copy(_)) {
                broken.push(format!("{}: it took {} seconds", case.name, begun.elapsed().as_secs()));
            }
        }
        table.push('\n');
    }
    let total: String = counts.iter().map(|count| format!(" {count} of {} |", cases.len())).collect();
    table.push_str(&format!("| together | |{total}\n"));
    let mut out = std::io::stdout().lock();
    std::io::Write::write_all(&mut out, table.as_bytes()).expect("the table is printed");
    assert!(broken.is_empty(), "{}", broken.join("\n\n"));
}

fn columns(clients: &[Client]) -> String {
    clients.iter().map(|client| format!(" {} |", client.column())).collect()
}
