//! `RUN` where neither namespaces nor mounts are allowed: by `chroot(2)` on a plain tree.
//!
//! What is mounted elsewhere is moved into the tree for as long as the step runs and taken out again; what the step changed
//! is found by comparison ([`layerfs::layer::plain`]). Given up are: namespaces and with them the step's own network and
//! process table, `/proc` and `/sys`, read-only mounts, limits, and memory as the place of secrets (they lie in the tree
//! while the step runs).
//!
//! This program starts itself anew under [`NAME`] to enter the tree, because only a process with one thread may.

mod placed;
mod trees;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::layer::{DiffOptions, commit_upper, plain};
use rustix::fs::Gid;
use rustix::process::{Pid, Signal, Uid, chroot, kill_process, set_parent_process_death_signal};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use serde::{Deserialize, Serialize};

use super::run_step::{self, Resolved};
use crate::cache::Layer;
use crate::dockerfile::ast;
use crate::graph::Run;
use crate::progress::StepId;
use crate::schedule::{Cancel, Engine, Origins, Stack};
use placed::Placed;
pub(crate) use trees::Trees;

/// What this program is called to enter a tree, as its first word.
pub(crate) const NAME: &str = "@chroot";

/// What isolation by chroot gives up, in one line.
pub const GIVEN_UP: &str = "neither namespaces nor mounts are allowed here: RUN steps are isolated by chroot alone, and share this \
                            container's network, processes and limits; they have no /proc and no /sys";

/// How often a running step is looked at.
const PATIENCE: Duration = Duration::from_millis(5);

/// What is run, for the process that enters the tree.
#[derive(Serialize, Deserialize)]
struct Entry {
    root: PathBuf,
    cwd: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

/// Runs the step; gives its layer, or `None` where it changed nothing.
pub(crate) fn run(
    engine: &Engine<'_>,
    trees: &Trees,
    run: &Run,
    mounts: &[Resolved],
    stack: &Stack,
    origins: &Origins<'_>,
    step: StepId,
) -> Result<Option<Layer>> {
    let store = engine.store;
    let held = trees.take(store, stack)?;
    let tree = held.root();
    let view = stack.view(store)?;
    let dir = store.new_temp_dir()?;
    let user = run_step::find_user(&view, &run.user)?;
    let parts = run_step::parts(engine, run, ast::Network::Host, mounts, origins, dir.path())?;
    let mut placed = Placed::new(&tree, &view, dir.path())?;
    for (source, target) in &parts.files {
        placed.put(source, target)?;
    }
    for mount in parts.made.mounts() {
        placed.mount(mount)?;
    }
    placed.devices()?;
    placed.restore_times()?;
    let without: BTreeSet<Vec<u8>> = placed.paths();
    let before = plain::Snapshot::take(&tree, &without)?;
    let entry = Entry {
        root: tree.clone(),
        cwd: PathBuf::from(&run.cwd),
        args: run.args.clone(),
        env: run_step::environment(run, parts.made.environment(), &user.home),
        uid: user.uid,
        gid: user.gid,
        groups: user.groups,
    };
    let ended = execute(engine, &entry, dir.path(), step);
    end_all(&tree);
    let code = ended?;
    let upper = dir.path().join("upper");
    if code == 0 {
        fs::create_dir(&upper).at("create", &upper)?;
        plain::changes(&tree, &before, &without, &upper)?;
    }
    placed.take_out()?;
    drop(parts);
    if code != 0 {
        return Err(Error::new(Kind::Exit(code), run_step::describe_exit(run, code)));
    }
    engine.cancel.check()?;
    let options = DiffOptions { clamp_mtime: engine.clock.clamp, ..DiffOptions::default() };
    let committed = commit_upper(store, &upper, &options)?;
    let layer = (!committed.empty).then_some(Layer { diff_id: committed.diff_id, size: committed.blob.size });
    // The tree is what the stage is now; its next step goes on in it.
    let mut ids = stack.diff_ids();
    ids.extend(layer.map(|layer| layer.diff_id));
    held.give_back(ids);
    Ok(layer)
}

fn execute(engine: &Engine<'_>, entry: &Entry, dir: &Path, step: StepId) -> Result<i32> {
    let path = dir.join("entry.json");
    fs::write(&path, serde_json::to_vec(entry).unwrap_or_default()).at("write", &path)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("layerfs-build").arg(NAME).arg(&path).env_clear().process_group(0);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context(|| "start this program anew")?;
    let streams = (child.stdout.take(), child.stderr.take());
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let status = std::thread::scope(|scope| {
        if let (Some(out), Some(err)) = streams {
            scope.spawn(|| run_step::pass_on(engine.progress, step, crate::progress::Stream::Out, out.into()));
            scope.spawn(|| run_step::pass_on(engine.progress, step, crate::progress::Stream::Err, err.into()));
        }
        let mut stopped = false;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break Ok(status),
                Ok(None) if !stopped && Cancel::is_stopped(engine.cancel) => {
                    stopped = true;
                    if let Some(group) = group {
                        // One that has just ended needs no signal.
                        let _ = rustix::process::kill_process_group(group, Signal::KILL);
                    }
                }
                Ok(None) => std::thread::sleep(PATIENCE),
                Err(error) => break Err(error),
            }
        };
        // What still runs holds the streams open.
        end_all(&entry.root);
        status
    });
    engine.cancel.check()?;
    let status = status.context(|| "wait for a step")?;
    use std::os::unix::process::ExitStatusExt;
    Ok(status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1))
}

/// Ends whatever still lives in the tree, as the end of a process namespace would.
fn end_all(tree: &Path) {
    for _ in 0..100 {
        let mut found = false;
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            let Some(pid) = pid else { continue };
            if fs::read_link(entry.path().join("root")).is_ok_and(|root| root == tree) {
                found = true;
                // It may end by itself meanwhile.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if !found {
            return;
        }
        std::thread::sleep(PATIENCE);
    }
}

/// Whether this process was started to enter a tree.
pub fn is_called(words: &[OsString]) -> bool {
    words.get(1).is_some_and(|word| word == NAME)
}

/// Enters the tree and becomes the step's program. Comes back only where that fails, with the exit code.
pub fn main(words: &[OsString]) -> (u8, String) {
    let entry: Option<Entry> =
        words.get(2).and_then(|path| fs::read(path).ok()).and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let Some(entry) = entry else { return (70, "there is nothing to enter".to_owned()) };
    if let Err(error) = enter(&entry) {
        return (1, format!("enter the step's files: {error}"));
    }
    let Some((program, args)) = entry.args.split_first() else { return (127, "there is no program to run".to_owned()) };
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(entry.env.iter().map(|(name, value)| (name, value)));
    let error = command.exec();
    match error.kind() {
        io::ErrorKind::NotFound => (127, format!("there is no program `{program}` in the image")),
        _ => (126, format!("`{program}` cannot be run: {error}")),
    }
}

fn enter(entry: &Entry) -> io::Result<()> {
    chroot(&entry.root)?;
    std::env::set_current_dir(&entry.cwd)?;
    let groups: Vec<Gid> = entry.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    set_thread_groups(&groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    // After the change of user, which would undo it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}
