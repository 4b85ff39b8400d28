//! A process in front of the caller: with the caller's own streams, or a terminal between the two, until it ends.

use std::os::fd::AsFd;

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::signals::Signals;

use super::arguments::{CgroupManager, Handles, Run};
use super::bundle::Bundle;
use super::instances::Instances;
use super::{holder, introduce, send_terminal, warn};
use crate::launch::{Created, Io, Running};
use crate::options::Streams;
use crate::session::{self, Attachment, Observer, Watched};
use crate::terminal::{NewLines, Raw, keep_line_feeds};

/// `run`: makes a container, starts it, and stays with it until it ends. Its exit code.
pub(super) fn run(instances: &Instances, run: &Run, cgroups: CgroupManager) -> Result<i32> {
    let create = &run.create;
    if run.detach {
        holder::create(instances, create, cgroups)?;
        let instance = instances.find(&create.id.id)?;
        return match holder::start(&instance) {
            Ok(()) => Ok(0),
            Err(error) => {
                // Nobody but this call knows of it.
                let _ = instance.remove();
                Err(error)
            }
        };
    }
    let mut bundle = Bundle::read(create)?;
    let claim = instances.claim(&create.id.id)?;
    bundle.place(cgroups)?;
    let mut instance = claim.write(&bundle)?;
    let attended = attend(bundle.has_terminal(), &create.handles, |io| {
        let created = bundle.launch(io, true)?;
        for note in created.notes() {
            warn(note);
        }
        instance.record(&created)?;
        introduce(&create.handles, created.pid(), created.pidfd()?)?;
        Ok(created)
    })
    .map_err(|error| super::in_engines_words(error, bundle.program()));
    // What could not be started leaves nothing; what ended leaves its state and cgroup where that is wanted.
    if attended.is_err() || !run.keep {
        let _ = instance.remove();
    }
    attended.map(|(_, code)| code)
}

/// Starts what `make` makes, carries bytes and signals until it ends, and gives it back with its exit code.
pub(super) fn attend(
    terminal: bool,
    handles: &Handles,
    make: impl FnOnce(Io) -> Result<Created>,
) -> Result<(Running, i32)> {
    let signals = Signals::block().context(|| "read signals from a descriptor")?;
    let attachment = Attachment::Foreground { keys: None, proxy: true };
    let streams = Streams { terminal, interactive: true };
    let (io, mut relay) = session::streams(streams, &attachment, None)?;
    let mut created = make(io)?;
    if let Some(master) = created.take_terminal() {
        match &handles.console_socket {
            Some(socket) => send_terminal(socket, &master)?,
            None => {
                keep_line_feeds(master.as_fd())?;
                session::attach_terminal(master, &attachment, true, &mut relay)?;
            }
        }
    }
    let running = created.start()?;
    let raw = if terminal && handles.console_socket.is_none() { Raw::enter(NewLines::OfTheCaller)? } else { None };
    let Watched::Exited = session::watch(&running, &signals, &mut relay, raw, true, &mut Quiet)? else {
        return Err(Error::new(Kind::Interrupted, "nobody is attached any more"));
    };
    let exit = running.wait()?;
    relay.drain();
    Ok((running, exit.code))
}

struct Quiet;

impl Observer for Quiet {
    fn note(&mut self, _: &str) {}
    fn started(&mut self) {}
    fn detached(&mut self) -> bool {
        false
    }
}
