//! Fetching what `ADD` and contexts name besides paths: files on the web and git repositories.
//!
//! ```text
//! Remote ──web──▶ a file, once per content, asked for again by its validators
//!        ──git──▶ a checkout, from a bare repository that is kept under `cache/git`
//! ```
//!
//! What is fetched lies in a folder of the store's `tmp/` for as long as a step needs it. Whether a step is found in the
//! cache is decided by the content, as for files of the context.

mod git;
mod web;

use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use layerfs::archive::{ApplyOptions, apply, decompress};
use layerfs::error::{Context, Result};
use layerfs::store::{Store, TempDir};

use crate::dockerfile::remote::Remote;
use crate::files::Tree;
use crate::ignore::Ignore;
use crate::schedule::Cancel;

/// How many bytes tell an archive from a Dockerfile.
const SNIFF: usize = 512;

/// Something fetched, on disk.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// The folder it lies in.
    dir: TempDir,
    /// Where in the folder: a file's name, or what of a repository was meant.
    path: String,
    /// What identifies it: the digest of a file, or a commit.
    pub(crate) identity: String,
}

impl Fetched {
    /// Its files as a tree, and the path in it that is meant.
    pub(crate) fn tree(&self, label: &str) -> (Tree, &str) {
        (Tree::new(label, self.dir.path().to_owned(), Ignore::default()), &self.path)
    }

    /// Where it lies.
    pub(crate) fn real(&self) -> PathBuf {
        self.dir.path().join(self.path.trim_start_matches('/'))
    }
}

/// Fetches for one build: each thing once.
pub(crate) struct Fetcher<'a> {
    store: &'a Store,
    settings: Settings,
    cancel: &'a Cancel,
    known: Mutex<HashMap<String, Slot>>,
}

/// What is fetched under a lock of its own, so that only those who want the same wait for one another.
type Slot = Arc<Mutex<Option<Arc<Fetched>>>>;

/// How others are spoken to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// Servers have to prove who they are.
    pub(crate) verify: bool,
    /// How often a server that stumbles is asked again.
    pub(crate) retries: u32,
    /// An ssh agent's socket.
    pub(crate) agent: Option<PathBuf>,
}

impl<'a> Fetcher<'a> {
    /// Fetches into `store`.
    pub(crate) fn new(store: &'a Store, settings: Settings, cancel: &'a Cancel) -> Self {
        Self { store, settings, cancel, known: Mutex::default() }
    }

    /// Fetches `remote`. `checksum` is what its digest (of a file) or commit (of a repository) has to be.
    ///
    /// # Errors
    /// It cannot be had, or is not what the checksum says.
    pub(crate) fn get(&self, remote: &Remote, checksum: Option<&str>, log: &dyn Fn(&str)) -> Result<Arc<Fetched>> {
        let slot = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.entry(format!("{remote:?} {checksum:?}")).or_default().clone()
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fetched) = &*slot {
            return Ok(fetched.clone());
        }
        let fetched = Arc::new(match remote {
            Remote::File(url) => web::fetch(self.store, &self.settings, url, checksum, log)?,
            Remote::Git(git) => git::fetch(self.store, &self.settings, self.cancel, git, checksum, log)?,
        });
        *slot = Some(fetched.clone());
        Ok(fetched)
    }
}

/// What a stream that stands for a context turned out to be.
pub enum Arrived {
    /// An archive, unpacked into the folder.
    Context,
    /// A Dockerfile.
    Dockerfile(Vec<u8>),
}

/// Reads a context or a Dockerfile from `input`, told apart by the first bytes; an archive is unpacked into `folder`.
///
/// # Errors
/// The input cannot be read, or the archive is damaged.
pub fn read_context(store: &Store, mut input: impl Read + Send, folder: &Path) -> Result<Arrived> {
    let mut start = Vec::new();
    input.by_ref().take(SNIFF as u64).read_to_end(&mut start).context(|| "read the context")?;
    if !is_archive(&start) {
        input.read_to_end(&mut start).context(|| "read the Dockerfile")?;
        return Ok(Arrived::Dockerfile(start));
    }
    std::fs::create_dir_all(folder).at("create", folder)?;
    let root = std::fs::File::open(folder).at("open", folder)?;
    let single_id = store.mapping()?.is_single();
    let plain = decompress(Cursor::new(start).chain(input))?;
    apply(plain, root.as_fd(), &ApplyOptions { single_id, ..ApplyOptions::default() })
        .context(|| "unpack the context")?;
    Ok(Arrived::Context)
}

/// Whether these are the first bytes of an archive.
fn is_archive(start: &[u8]) -> bool {
    start.starts_with(&[0x1f, 0x8b])
        || start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
        || start.get(257..262) == Some(b"ustar")
}
