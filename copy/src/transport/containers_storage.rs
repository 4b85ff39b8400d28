//! `containers-storage:`: what podman, buildah and CRI-O keep, by way of their own tool.
//!
//! Their storage is a database with locks of its own that only their library knows, so one of their programs is asked:
//! skopeo, or podman. Between it and us lies an OCI layout in a temporary folder.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::Descriptor;

use super::layout::{LayoutSink, LayoutSource};
use super::{Opener, Sent, Sink, Source};
use crate::inventory::Inventory;
use crate::location::{Place, Selector};
use crate::stream::Chunks;

/// The name of the image in the layout in between.
const NAME: &str = "image";

/// A folder that goes with its last user.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let base = super::scratch_folder();
        loop {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let dir = base.join(format!("layerfs-copy.{}.{number}", std::process::id()));
            match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => return Ok(Self(dir)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).at("create", &dir),
            }
        }
    }

    fn place(&self) -> Place {
        Place { path: self.0.clone(), image: Selector::Named(NAME.to_owned()) }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs the first of their tools that there is, with the words that it understands.
fn ask(action: &str, skopeo: &[&str], podman: &dyn Fn(&mut Command)) -> Result<()> {
    let mut tools: Vec<Command> = Vec::new();
    let mut first = Command::new("skopeo");
    first.args(skopeo);
    tools.push(first);
    let mut second = Command::new("podman");
    podman(&mut second);
    tools.push(second);
    for mut tool in tools {
        let name = tool.get_program().to_string_lossy().into_owned();
        let output = match tool.stdin(Stdio::null()).output() {
            Ok(output) => output,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).context(|| format!("start `{name}`")),
        };
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
        let kind = if said.contains("not known") || said.contains("does not resolve") {
            Kind::NotFound
        } else {
            Kind::Unavailable
        };
        return Err(Error::new(kind, format!("{action}: `{name}` says: {said}")));
    }
    Err(Error::new(Kind::Unsupported, format!("{action}: neither `skopeo` nor `podman` is on PATH"))
        .hint("this storage is opened by its own tools only"))
}

/// Podman's words for the storage that `[DRIVER@ROOT+RUNROOT:OPTIONS]` names, and the image's name after it.
fn take_apart(name: &str) -> (Vec<String>, &str) {
    let Some((storage, image)) = name.strip_prefix('[').and_then(|rest| rest.split_once(']')) else {
        return (Vec::new(), name);
    };
    let mut words = Vec::new();
    let storage = match storage.split_once('@') {
        Some((driver, rest)) => {
            words.extend(["--storage-driver".to_owned(), driver.to_owned()]);
            rest
        }
        None => storage,
    };
    let (places, options) = storage.split_once(':').map_or((storage, ""), |(places, options)| (places, options));
    let (root, run) = places.split_once('+').map_or((places, ""), |(root, run)| (root, run));
    for (flag, value) in [("--root", root), ("--runroot", run)] {
        if !value.is_empty() {
            words.extend([flag.to_owned(), value.to_owned()]);
        }
    }
    options
        .split(',')
        .filter(|option| !option.is_empty())
        .for_each(|option| words.extend(["--storage-opt".to_owned(), option.to_owned()]));
    (words, image)
}

fn layout_of(dir: &Path) -> String {
    format!("oci:{}:{NAME}", dir.display())
}

/// An image of the storage.
pub(crate) struct StorageSource {
    layout: LayoutSource,
    _folder: Folder,
}

impl StorageSource {
    /// Has the image brought.
    pub(crate) fn open(name: &str) -> Result<Self> {
        let folder = Folder::new()?;
        let (between, whole) = (layout_of(&folder.0), format!("containers-storage:{name}"));
        let (storage, image) = take_apart(name);
        ask(&format!("read `{whole}`"), &["--insecure-policy", "copy", "-q", &whole, &between], &|podman| {
            podman.args(&storage).args(["push", "-q", image, &between]);
        })?;
        Ok(Self { layout: LayoutSource::open(&folder.place(), None)?, _folder: folder })
    }
}

impl Source for StorageSource {
    fn root(&self) -> Result<(Descriptor, Vec<u8>)> {
        self.layout.root()
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.layout.document(descriptor)
    }

    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Chunks>> {
        self.layout.open(blob)
    }
}

/// A place for an image in the storage.
pub(crate) struct StorageSink {
    name: String,
    layout: LayoutSink,
    folder: Folder,
}

impl StorageSink {
    /// Begins.
    pub(crate) fn create(name: &str) -> Result<Self> {
        let folder = Folder::new()?;
        Ok(Self { name: name.to_owned(), layout: LayoutSink::create(&folder.place(), None)?, folder })
    }
}

impl Sink for StorageSink {
    fn is_current(&self, _root: &Descriptor) -> Result<bool> {
        Ok(false)
    }

    fn prepare(&self, inventory: &Inventory, _source: &dyn Source) -> Result<()> {
        match inventory.single() {
            Some(_) => Ok(()),
            None => Err(Error::new(Kind::Unsupported, "this storage takes one platform at a time")
                .hint("choose one by --platform")),
        }
    }

    fn existing(&self, blobs: &[Descriptor]) -> Result<Vec<bool>> {
        self.layout.existing(blobs)
    }

    fn put_blob(&self, blob: &Descriptor, from: Option<&str>, open: Opener<'_>) -> Result<Sent> {
        self.layout.put_blob(blob, from, open)
    }

    fn put_document(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
        self.layout.put_document(descriptor, bytes)
    }

    fn finish(&self, root: &Descriptor, bytes: &[u8]) -> Result<()> {
        self.layout.finish(root, bytes)?;
        let (between, whole) = (layout_of(&self.folder.0), format!("containers-storage:{}", self.name));
        let (storage, image) = take_apart(&self.name);
        ask(&format!("write `{whole}`"), &["--insecure-policy", "copy", "-q", &between, &whole], &|podman| {
            // Podman's own words can copy into its storage only by a shell of it.
            let script = "id=$(podman \"$@\" pull -q \"$FROM\") && podman \"$@\" tag \"$id\" \"$TO\"";
            *podman = Command::new("sh");
            podman.args(["-c", script, "sh"]).args(&storage).env("FROM", &between).env("TO", image);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storage_is_named_in_brackets() {
        assert_eq!(take_apart("app:1"), (Vec::new(), "app:1"));
        let (words, image) = take_apart("[overlay@/a/root+/a/run:x=1,y=2]app:1");
        assert_eq!(image, "app:1");
        assert_eq!(
            words.join(" "),
            "--storage-driver overlay --root /a/root --runroot /a/run --storage-opt x=1 --storage-opt y=2"
        );
        assert_eq!(take_apart("[/r]app").0.join(" "), "--root /r");
    }
}
