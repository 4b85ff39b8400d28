//! `RUN --mount`: what a step sees besides its stage's files.

use std::any::Any;
use std::fs::{self, File};
use std::io::BufReader;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use layerfs::archive::{ApplyOptions, apply};
use layerfs::digest::Digest;
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::layer::{MergedView, prepare_upper};
use layerfs::mount::{MountPlan, attach, mount_layers};
use oci_spec::runtime::Mount as SpecMount;
use rustix::fs::{FlockOperation, flock};
use rustix::mount::{MountFlags, UnmountFlags, unmount};

use super::agent::Forward;
use crate::cache::{KeyBuilder, Layer};
use crate::dockerfile::mount::{CacheMount, Permissions, SecretMount, Sharing, SshMount, TmpfsMount};
use crate::exec::copy_add::{Prepared, write_copy};
use crate::exec::placement;
use crate::files::{self, Owners, Request, Tree};
use crate::graph::{Copy, Mount, Origin, Run, Source, Unpack};
use crate::ignore::Ignore;
use crate::schedule::{Engine, Origins, Stack};

/// How often a cache that another step holds is tried again.
const PATIENCE: Duration = Duration::from_millis(20);

/// A mount, and what of it the step's result depends on.
pub(crate) struct Resolved {
    mount: Mount,
    /// Of a bind mount: its content.
    digest: Option<Digest>,
    /// Of a mount from a stage or image: its layers.
    stack: Option<Stack>,
}

impl Resolved {
    /// What goes into the step's key.
    pub(super) fn describe(&self) -> String {
        match &self.mount {
            Mount::Bind { target, writable, .. } => {
                let digest = self.digest.map(|digest| digest.to_string()).unwrap_or_default();
                format!("bind {target} {writable} {digest}")
            }
            Mount::Cache { options, .. } => format!("cache {} {}", options.target, options.read_only),
            Mount::Tmpfs(options) => format!("tmpfs {}", options.target),
            Mount::Secret(options) => format!("secret {:?} {:?}", options.target, options.env),
            Mount::Ssh(_, path) => format!("ssh {path}"),
        }
    }
}

/// Finds what the mounts of a step show: waits for stages, digests contents.
///
/// # Errors
/// A source does not exist, or cannot be read.
pub(crate) fn resolve_mounts(engine: &Engine<'_>, origins: &Origins<'_>, run: &Run) -> Result<Vec<Resolved>> {
    let mut resolved = Vec::new();
    for mount in &run.mounts {
        let (digest, stack) = match mount {
            Mount::Bind { origin, source, .. } => {
                let owners = Owners { kept: true, chmod: None };
                match origins.stack(origin)? {
                    None => {
                        let context = origins.context(origin)?;
                        let owners = Owners { kept: false, ..owners };
                        (Some(files::digest_at(&context.tree, source, owners, Some(&context.stats))?), None)
                    }
                    Some(stack) => {
                        let known = KeyBuilder::new("bind/1").on(stack.chain()).with("source", source).finish();
                        let digest = match engine.records.tree_digest(&known) {
                            Some(digest) => digest,
                            None => {
                                let tree = origins.mount(origin, &stack)?;
                                let digest = files::digest_at(&tree, source, owners, None)?;
                                engine.records.keep_tree_digest(&known, &digest)?;
                                digest
                            }
                        };
                        (Some(digest), Some(stack))
                    }
                }
            }
            Mount::Cache { origin, .. } => (None, origins.stack(origin)?),
            _ => (None, None),
        };
        resolved.push(Resolved { mount: mount.clone(), digest, stack });
    }
    Ok(resolved)
}

/// Mounts made ready for a step.
#[derive(Default)]
pub(crate) struct Made {
    /// For the container's specification.
    pub(super) mounts: Vec<SpecMount>,
    /// Secrets and sockets that the step finds by a variable.
    pub(super) environment: Vec<(String, String)>,
    /// Locks and mounts, until the step has ended.
    pub(super) held: Vec<Box<dyn Any>>,
}

impl Made {
    /// What is mounted, as a container's specification has it.
    pub(crate) fn mounts(&self) -> &[SpecMount] {
        &self.mounts
    }

    /// The variables by which a step finds secrets and sockets.
    pub(crate) fn environment(&self) -> &[(String, String)] {
        &self.environment
    }
}

/// Makes the mounts of a step ready, with what they need in `dir`.
pub(super) fn make(engine: &Engine<'_>, origins: &Origins<'_>, mounts: &[Resolved], dir: &Path) -> Result<Made> {
    let mut made = Made::default();
    for (number, resolved) in mounts.iter().enumerate() {
        let place = dir.join(format!("mount-{number}"));
        match &resolved.mount {
            Mount::Bind { origin, source, target, writable } => {
                let stack = match &resolved.stack {
                    Some(stack) => stack.clone(),
                    None => context_layer(engine, origins, origin, source)?,
                };
                let root = attach_stack(engine, &stack, &place, *writable, &mut made.held)?;
                let tree = Tree::new(origins.label(origin), root, Ignore::default());
                let node = tree.resolve(source)?.ok_or_else(|| tree.missing(source))?;
                let access = if *writable { "rw" } else { "ro" };
                made.mounts.push(spec_mount(target, "bind", &tree.real(&node.path), &["rbind", "rprivate", access]));
            }
            Mount::Cache { options, origin } => {
                let (data, lock) = cache(engine, origins, options, origin, resolved.stack.as_ref(), &place)?;
                made.held.push(Box::new(lock));
                let access = if options.read_only { "ro" } else { "rw" };
                made.mounts.push(spec_mount(&options.target, "bind", &data, &["rbind", "rprivate", access]));
            }
            Mount::Tmpfs(options) => made.mounts.push(tmpfs(options)),
            Mount::Secret(options) => secret(engine, options, number, &place, &mut made)?,
            Mount::Ssh(options, path) => agent(engine, options, path, &place, &mut made)?,
        }
    }
    Ok(made)
}

fn spec_mount(target: impl AsRef<Path>, kind: &str, source: &Path, options: &[&str]) -> SpecMount {
    let mut mount = SpecMount::default();
    mount
        .set_destination(target.as_ref().to_owned())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.to_owned()))
        .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}

/// What of a context a mount shows, as a layer: owners are root's and what is ignored is not there, as in a copy.
fn context_layer(engine: &Engine<'_>, origins: &Origins<'_>, origin: &Origin, source: &str) -> Result<Stack> {
    let context = origins.context(origin)?;
    let copy = Copy {
        sources: vec![Source::Path(if source.is_empty() { "/".to_owned() } else { source.to_owned() })],
        origin: origin.clone(),
        destination: "/".to_owned(),
        chown: None,
        chmod: None,
        link: false,
        parents: true,
        exclude: Vec::new(),
        unpack: Unpack::Never,
        instruction: "RUN --mount",
    };
    let request = Request { sources: &copy.sources, parents: true, exclude: &[], fetched: &[] };
    let selection = files::select(&context.tree, &request)?;
    let view = MergedView::new(&[]);
    let placement = placement::resolve(&view, "/", true)?;
    let prepared =
        Prepared { copy: &copy, tree: &context.tree, selection: &selection, placement: &placement, owner: None };
    let mut stack = Stack::default();
    if let Some(layer) = write_copy(engine.store, &prepared, &view, engine.clock)? {
        stack.push(Layer { ..layer });
    }
    Ok(stack)
}

/// Mounts a stack at `place`; gives its root.
fn attach_stack(
    engine: &Engine<'_>,
    stack: &Stack,
    place: &Path,
    writable: bool,
    held: &mut Vec<Box<dyn Any>>,
) -> Result<PathBuf> {
    let root = place.join("root");
    fs::create_dir_all(&root).at("create", &root)?;
    if let Some(trees) = &engine.plain {
        // The step may write into it, whatever it was allowed: nobody else gets it.
        let tree = trees.take(engine.store, stack)?;
        let root = tree.root();
        held.push(Box::new(tree));
        return Ok(root);
    }
    let lowers = stack.lowers(engine.store)?;
    let upper = writable.then(|| prepare_upper(&lowers, place)).transpose()?;
    if lowers.dirs.is_empty() && upper.is_none() {
        return Ok(root);
    }
    let mount =
        mount_layers(&MountPlan { lowers: lowers.dirs, upper, volatile: true, backend: engine.backend.clone() })?;
    attach(mount.as_fd(), &root)?;
    held.push(Box::new(Attached(root.clone())));
    Ok(root)
}

/// A mount in this process's mount namespace.
pub(super) struct Attached(PathBuf);

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn tmpfs(options: &TmpfsMount) -> SpecMount {
    let size = options.size.map(|size| format!("size={size}"));
    let mut words = vec!["nosuid", "nodev", "mode=1777"];
    words.extend(size.as_deref());
    if options.read_only {
        words.push("ro");
    }
    spec_mount(&options.target, "tmpfs", Path::new("tmpfs"), &words)
}

/// The folder of a cache, and the lock that `sharing` asks for.
fn cache(
    engine: &Engine<'_>,
    origins: &Origins<'_>,
    options: &CacheMount,
    origin: &Origin,
    stack: Option<&Stack>,
    place: &Path,
) -> Result<(PathBuf, File)> {
    let name = Digest::of(options.id.as_bytes()).hex();
    let all = engine.store.cache_dir().join("mounts");
    for number in 0.. {
        let folder = all.join(format!("{}-{number}", &name[..32]));
        fs::create_dir_all(&folder).at("create", &folder)?;
        let lock_path = folder.join("lock");
        let lock = File::create(&lock_path).at("open", &lock_path)?;
        let data = folder.join("data");
        if !data.exists() {
            // Whoever is first makes it, whole, while others wait.
            wait_for(engine, &lock, FlockOperation::NonBlockingLockExclusive)?;
            if !data.exists() {
                fs::write(folder.join("id"), &options.id).at("write", folder.join("id"))?;
                fill(engine, origins, options, origin, stack, place, &data)?;
            }
        }
        match options.sharing {
            // Where it is moved into the step's tree, only one can have it.
            Sharing::Shared if engine.plain.is_none() => {
                wait_for(engine, &lock, FlockOperation::NonBlockingLockShared)?;
            }
            Sharing::Shared | Sharing::Locked => wait_for(engine, &lock, FlockOperation::NonBlockingLockExclusive)?,
            // The first that nobody uses.
            Sharing::Private => match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => continue,
                Err(error) => return Err(error).at("lock", &lock_path),
            },
        }
        let mut used = engine.mounts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Of private copies the first is the one that others get.
        used.entry(options.id.clone()).or_insert(folder);
        drop(used);
        return Ok((data, lock));
    }
    unreachable!("numbers do not end")
}

/// Waits for a lock as long as the build is not stopped.
fn wait_for(engine: &Engine<'_>, lock: &File, operation: FlockOperation) -> Result<()> {
    loop {
        match flock(lock, operation) {
            Err(rustix::io::Errno::WOULDBLOCK) => {
                engine.cancel.check()?;
                std::thread::sleep(PATIENCE);
            }
            result => return result.context(|| "lock a cache mount"),
        }
    }
}

/// Makes a new cache's folder: empty, or with what `from` and `source` say.
fn fill(
    engine: &Engine<'_>,
    origins: &Origins<'_>,
    options: &CacheMount,
    origin: &Origin,
    stack: Option<&Stack>,
    place: &Path,
    data: &Path,
) -> Result<()> {
    let born = place.join("born");
    fs::create_dir_all(&born).at("create", &born)?;
    // What another machine left in it, or what the step says it begins with.
    if !engine.shared.is_empty() && engine.shared.fill_mount(&options.id, &born) {
        engine.progress.note(&format!("the cache mount `{}` was filled from a cache", options.id));
    } else if *origin != Origin::Scratch {
        let tree = match stack {
            Some(stack) => &origins.mount(origin, stack)?,
            None => &origins.context(origin)?.tree,
        };
        let sources = [Source::Path(if options.source.is_empty() { "/".to_owned() } else { options.source.clone() })];
        let selection =
            files::select(tree, &Request { sources: &sources, parents: false, exclude: &[], fetched: &[] })?;
        let copy = Copy {
            sources: sources.to_vec(),
            origin: origin.clone(),
            destination: "/".to_owned(),
            chown: None,
            chmod: None,
            link: false,
            parents: false,
            exclude: Vec::new(),
            unpack: Unpack::Never,
            instruction: "RUN --mount",
        };
        let view = MergedView::new(&[]);
        let placement = placement::resolve(&view, "/", true)?;
        let prepared = Prepared { copy: &copy, tree, selection: &selection, placement: &placement, owner: None };
        if let Some(layer) = write_copy(engine.store, &prepared, &view, engine.clock)? {
            let blob = engine.store.open_blob(&layer.diff_id.0)?;
            let root = File::open(&born).at("open", &born)?;
            let single_id = engine.store.mapping()?.is_single();
            apply(
                BufReader::with_capacity(1 << 20, blob),
                root.as_fd(),
                &ApplyOptions { single_id, ..ApplyOptions::default() },
            )?;
        }
    }
    let Permissions { mode, uid, gid } = options.permissions.unwrap_or(Permissions { mode: 0o755, uid: 0, gid: 0 });
    if options.permissions.is_some() || *origin == Origin::Scratch {
        give(&born, mode, uid, gid)?;
    }
    fs::rename(&born, data).at("create", data)
}

fn give(path: &Path, mode: u32, uid: u32, gid: u32) -> Result<()> {
    if (uid, gid) != (0, 0) {
        chown(path, Some(uid), Some(gid)).at("change the owner of", path)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).at("change the mode of", path)
}

fn secret(engine: &Engine<'_>, options: &SecretMount, number: usize, place: &Path, made: &mut Made) -> Result<()> {
    let Some(secret) = engine.runner.secrets.iter().find(|secret| secret.id == options.id) else {
        if !options.required {
            return Ok(());
        }
        return Err(Error::new(Kind::NotFound, format!("secret `{}` was not given to this build", options.id))
            .hint(format!("say --secret id={},src=FILE or --secret id={},env=VARIABLE", options.id, options.id)));
    };
    if let Some(name) = &options.env {
        let value = String::from_utf8(secret.value.clone()).map_err(|_| {
            Error::new(Kind::Invalid, format!("secret `{}` is not text, so no variable can hold it", options.id))
        })?;
        made.environment.push((name.clone(), value));
    }
    if let Some(target) = &options.target {
        // In memory, in a file system that only this process tree sees: nothing is left of it, whatever happens.
        let folder = place.join("secret");
        fs::create_dir_all(&folder).at("create", &folder)?;
        if engine.plain.is_none() {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            rustix::mount::mount("secret", &folder, "tmpfs", flags, Some(c"mode=0700,size=16m"))
                .at("mount a file system in memory on", &folder)?;
            made.held.push(Box::new(Attached(folder.clone())));
        }
        let file = folder.join(number.to_string());
        fs::write(&file, &secret.value).at("write", &file)?;
        let Permissions { mode, uid, gid } = options.permissions;
        give(&file, mode, uid, gid)?;
        made.mounts.push(spec_mount(target, "bind", &file, &["bind", "rprivate", "ro", "nosuid", "nodev", "noexec"]));
    }
    Ok(())
}

fn agent(engine: &Engine<'_>, options: &SshMount, path: &str, place: &Path, made: &mut Made) -> Result<()> {
    let Some((_, socket)) = engine.runner.agents.iter().find(|(id, _)| *id == options.id) else {
        if !options.required {
            return Ok(());
        }
        return Err(Error::new(Kind::NotFound, format!("ssh agent `{}` was not given to this build", options.id))
            .hint(format!("start one and say --ssh {}", options.id)));
    };
    fs::create_dir_all(place).at("create", place)?;
    let (forward, socket) = Forward::new(place, socket)?;
    let Permissions { mode, uid, gid } = options.permissions;
    give(&socket, mode, uid, gid)?;
    made.held.push(Box::new(forward));
    made.mounts.push(spec_mount(path, "bind", &socket, &["bind", "rprivate"]));
    if !made.environment.iter().any(|(name, _)| name == "SSH_AUTH_SOCK") {
        made.environment.push(("SSH_AUTH_SOCK".to_owned(), path.to_owned()));
    }
    Ok(())
}
