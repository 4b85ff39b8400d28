//! The union: many folders seen as one, the changes in one of them.
//!
//! | module | what it knows |
//! |---|---|
//! | [`index`] | what is in a folder: the listings of all layers merged, pure |
//! | [`forms`] | whiteouts, opaque folders and private attributes as they lie on disk, pure |
//! | [`owners`] | ids on disk and ids seen, pure |
//! | [`node`], [`descriptors`] | what the kernel has numbers of, and what is open |
//! | [`place`] | from a node to the file on disk |
//! | [`look`] | lookup, attributes, listings |
//! | [`copy_up`] | bringing a file or folder to the upper folder |
//! | [`make`], [`remove`], [`rename`] | changes of names |
//! | [`data`], [`attributes`], [`xattr`] | changes of what a name stands for |
//! | [`passthrough`] | files that the kernel reads and writes itself |
//! | [`dispatch`] | the kernel's requests as calls of these |
//!
//! # Locks
//!
//! In this order, each only while the work at hand needs it: `shape` (changes that touch two folders), a node's
//! `copying`, a folder's content, its `births`, a node's state, `tree` (which folder is where), then those that are
//! held for moments: places, slots, the table. Whoever holds one folder's content waits for another's only under
//! `shape`. Parents are copied up before any folder's content is locked.
//!
//! # What a crash leaves
//!
//! Everything that is more than one system call is made in the work folder and renamed into place, the whiteout
//! together with what it replaces; so after `kill -9` at any instruction the upper folder holds either the old or the
//! new. Names of files copied up appear only once they are whole (and on disk, unless `volatile`).

mod attributes;
mod copy_up;
mod data;
mod descriptors;
mod dispatch;
mod forms;
mod index;
mod look;
mod make;
mod node;
mod owners;
mod passthrough;
mod place;
mod remove;
mod rename;
mod xattr;

use std::collections::HashMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

pub use self::forms::Forms;
pub use self::owners::{IdRule, Owners};

use self::descriptors::Descriptors;
use self::index::Dir;
use self::node::{LayerDir, Node, Real, Table};
use super::wire::{ROOT, Validity};
use crate::error::{Context, Error, Kind, Result};
use crate::mount::Upper;

/// What becomes of the other names of a lower file that is copied up under one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hardlinks {
    /// They keep standing for the same file: each follows it to the upper folder when it is looked up.
    Kept,
    /// They stay what they were, as with kernel overlayfs without `index=on`. The upper folder then holds what a
    /// kernel mount would have left there.
    Broken,
}

/// What is united, and how.
#[derive(Clone, Debug)]
pub struct UnionOptions {
    /// Read-only folders, lowest first.
    pub lowers: Vec<PathBuf>,
    /// Where changes go; without it there can be none.
    pub upper: Option<Upper>,
    /// Syncs are skipped.
    pub volatile: bool,
    /// Folders of lower layers can be renamed. The upper folder is then no plain layer any more.
    pub redirect_dir: bool,
    /// Forms on disk.
    pub forms: Forms,
    /// Files with several names.
    pub hardlinks: Hardlinks,
    /// Ids on disk and ids seen.
    pub owners: Owners,
    /// The kernel reads and writes files itself where it takes them from this process.
    pub passthrough: bool,
    /// Inode numbers fit into 32 bits, for programs that keep them in so many. Two files may then have one number.
    pub short_inos: bool,
    /// Seconds the kernel may believe an answer. None is for ever: nobody changes the layers but through the mount.
    pub timeout: Option<u64>,
}

impl UnionOptions {
    /// The plain case: what the kernel would make of the same folders.
    pub fn new(lowers: Vec<PathBuf>, upper: Option<Upper>) -> Self {
        Self {
            lowers,
            upper,
            volatile: false,
            redirect_dir: false,
            forms: Forms::User,
            hardlinks: Hardlinks::Kept,
            owners: Owners::default(),
            passthrough: true,
            short_inos: false,
            timeout: None,
        }
    }
}

/// A lower layer.
#[derive(Debug)]
struct Layer {
    root: OwnedFd,
    device: u64,
}

/// The upper layer.
#[derive(Debug)]
struct UpperLayer {
    root: Arc<OwnedFd>,
    /// Where things are made before they are put in place.
    work: OwnedFd,
    device: u64,
}

/// A mounted union.
#[derive(Debug)]
pub(super) struct Union {
    options: UnionOptions,
    /// Topmost first.
    layers: Vec<Layer>,
    upper: Option<UpperLayer>,
    /// Devices in the order in which they were met; inode numbers of the first are seen as they are.
    devices: Vec<u64>,
    table: Table,
    descriptors: Descriptors,
    root: Arc<Node>,
    /// Files with several names, by device and inode number on disk.
    several: Mutex<HashMap<(u64, u64), u64>>,
    tree: RwLock<()>,
    shape: Mutex<()>,
    counter: AtomicU64,
    validity: Validity,
    /// Files can be passed through, if the kernel agrees.
    backs: bool,
    /// Where files are named to the kernel, once it has agreed.
    passthrough: OnceLock<Arc<OwnedFd>>,
}

/// What lies in a work folder begins with this.
const WORK_PREFIX: &str = "layerfs-";

impl Union {
    /// Opens all layers.
    ///
    /// # Errors
    /// One of them is not there or no folder, or changes cannot be kept where they are to go.
    pub(super) fn open(options: UnionOptions) -> Result<Self> {
        if options.lowers.len() > usize::from(u16::MAX) {
            return Err(Error::new(Kind::Limit, format!("{} layers are too many to unite", options.lowers.len())));
        }
        let mut layers = Vec::with_capacity(options.lowers.len());
        for path in options.lowers.iter().rev() {
            let root = open_folder(path)?;
            let device = rustix::fs::fstat(&root).at("look at", path)?.st_dev;
            layers.push(Layer { root, device });
        }
        let upper = options.upper.as_ref().map(open_upper).transpose()?;
        if layers.is_empty() && upper.is_none() {
            return Err(Error::new(Kind::Usage, "a mount of no layers at all"));
        }
        let mut devices: Vec<u64> = Vec::new();
        for device in upper.iter().map(|upper| upper.device).chain(layers.iter().rev().map(|layer| layer.device)) {
            if !devices.contains(&device) {
                devices.push(device);
            }
        }
        let backs = options.passthrough && pass_through(&mut layers, upper.as_ref());
        let empty: Arc<[u8]> = Arc::from(&b""[..]);
        let lowers = (0..layers.len()).map(|layer| LayerDir { layer: layer as u16, path: empty.clone() }).collect();
        let real = if upper.is_some() { Real::Upper } else { Real::LowerDir };
        let root = Node::new(ROOT, ROOT, FileType::Directory, None, real, Some(Dir { lowers, ..Dir::default() }));
        let table = Table::new();
        table.insert(&root);
        let seconds = options.timeout.unwrap_or(FOR_EVER);
        Ok(Self {
            layers,
            upper,
            devices,
            table,
            descriptors: Descriptors::new(),
            root,
            several: Mutex::default(),
            tree: RwLock::new(()),
            shape: Mutex::new(()),
            counter: AtomicU64::new(0),
            validity: Validity { entry: seconds, attributes: seconds },
            backs,
            passthrough: OnceLock::new(),
            options,
        })
    }

    /// The number that programs see for a file on disk: unique over all layers, and the same at every mount of them.
    fn seen_ino(&self, device: u64, ino: u64) -> u64 {
        /// Bits of an inode number that any file system in use fills.
        const BITS: u32 = 56;
        let number = match self.devices.iter().position(|known| *known == device) {
            Some(0) => ino,
            Some(position) if ino >> BITS == 0 => ino | (position as u64) << BITS,
            // A mount inside a layer, or numbers that fill all bits: unique for all practical purposes.
            _ => ino ^ device.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        };
        if self.options.short_inos { (number ^ number >> 32) & 0xffff_ffff } else { number }
    }

    /// Whether the kernel may be asked to read and write files itself.
    pub(super) fn backs(&self) -> bool {
        self.backs
    }

    /// Whether anything can be changed.
    pub(super) fn is_writable(&self) -> bool {
        self.upper.is_some()
    }

    /// A name in the work folder that nobody has.
    fn work_name(&self) -> Vec<u8> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        format!("{WORK_PREFIX}{}-{number}", std::process::id()).into_bytes()
    }
}

/// Prepares the layers for files to be passed through. False where that cannot be, and nothing is changed then.
fn pass_through(layers: &mut [Layer], upper: Option<&UpperLayer>) -> bool {
    let can_all = || {
        layers.iter().all(|layer| passthrough::can_back(&layer.root))
            && upper.is_none_or(|upper| passthrough::can_back(&upper.root))
    };
    if !passthrough::is_allowed() || !can_all() {
        return false;
    }
    let roots: Option<Vec<OwnedFd>> = layers.iter().map(|layer| passthrough::untraced(&layer.root)).collect();
    let Some(roots) = roots else { return false };
    layers.iter_mut().zip(roots).for_each(|(layer, root)| layer.root = root);
    true
}

/// Ten years, in seconds.
const FOR_EVER: u64 = 315_360_000;

fn open_folder(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).at("open layer", path)
}

fn open_upper(upper: &Upper) -> Result<UpperLayer> {
    let (root, work) = (open_folder(&upper.dir)?, open_folder(&upper.work)?);
    let device = rustix::fs::fstat(&root).at("look at", &upper.dir)?.st_dev;
    if device != rustix::fs::fstat(&work).at("look at", &upper.work)?.st_dev {
        let (dir, work) = (upper.dir.display(), upper.work.display());
        return Err(Error::new(Kind::Invalid, format!("work folder `{work}`: not on the file system of `{dir}`"))
            .hint("both must lie on one file system, so that files can be renamed between them"));
    }
    clean_work(&upper.work)?;
    let layer = UpperLayer { root: Arc::new(root), work, device };
    check_whiteouts(&layer).at("use as the writable layer", &upper.dir).map_err(|error| {
        error.hint("choose a folder on a local file system such as ext4, xfs, btrfs or tmpfs that you may write")
    })?;
    Ok(layer)
}

/// Removes what an unclean end left.
fn clean_work(work: &Path) -> Result<()> {
    for entry in fs::read_dir(work).at("read", work)? {
        let entry = entry.at("read", work)?;
        if !entry.file_name().as_bytes().starts_with(WORK_PREFIX.as_bytes()) {
            continue;
        }
        let path = entry.path();
        let is_dir = entry.file_type().at("look at", &path)?.is_dir();
        if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.at("remove", &path)?;
    }
    Ok(())
}

/// A file system that cannot hold a whiteout cannot hold changes.
fn check_whiteouts(upper: &UpperLayer) -> std::result::Result<(), rustix::io::Errno> {
    let name = format!("{WORK_PREFIX}{}-check", std::process::id());
    forms::make_whiteout(&upper.work, name.as_bytes())?;
    rustix::fs::unlinkat(&upper.work, name.as_str(), AtFlags::empty())
}
