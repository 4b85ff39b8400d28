//! The network of `RUN` steps.
//!
//! One network namespace serves all steps of a build that want the usual network: it is made when the first of them
//! starts, connected by one `pasta`, and costs the others nothing. Where `pasta` cannot be had, those steps are in the
//! host's network, and one line says so.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::container::bring_up_loopback;
use layerfs::sys::process::unshare_namespaces;
use run::network::{Connection as Way, Files, Pasta, Plan};
use run::options::{NetworkMode, NetworkOptions};
use run::spec::NetworkNamespace;
use run::state::Containers;

use crate::dockerfile::ast;
use crate::progress::Progress;

/// What a step's machine is called.
pub(super) const HOSTNAME: &str = "build";

/// `CLONE_NEWNET`
const NEW_NETWORK: u64 = 0x4000_0000;

/// The networks of a build.
pub(crate) struct Networks {
    /// For `pasta`'s own files.
    folder: PathBuf,
    usual: Mutex<Option<Usual>>,
}

/// What steps that say nothing get.
enum Usual {
    Connected { _pasta: Resident, anchor: Resident, plan: Plan },
    Host,
}

/// What one step gets.
pub(super) struct Connection {
    pub(super) namespace: NetworkNamespace,
    plan: Plan,
}

impl Networks {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, usual: Mutex::new(None) }
    }

    /// The network a step asks for.
    pub(super) fn connect(&self, wanted: ast::Network, progress: &Progress) -> Result<Connection> {
        let host = || Connection {
            namespace: NetworkNamespace::Host,
            plan: Plan { namespace: NetworkNamespace::Host, ..Plan::default() },
        };
        match wanted {
            ast::Network::Host => Ok(host()),
            ast::Network::None => Ok(Connection { namespace: NetworkNamespace::New, plan: Plan::default() }),
            ast::Network::Default => {
                let mut usual = self.usual.lock().unwrap_or_else(PoisonError::into_inner);
                if usual.is_none() {
                    *usual = Some(self.start(progress));
                }
                match usual.as_ref() {
                    Some(Usual::Connected { anchor, plan, .. }) => {
                        Ok(Connection { namespace: NetworkNamespace::Path(anchor.path()), plan: plan.clone() })
                    }
                    _ => Ok(host()),
                }
            }
        }
    }

    fn start(&self, progress: &Progress) -> Usual {
        self.try_start().unwrap_or_else(|why| {
            progress.note(&format!("RUN steps share the host's network: {why}"));
            Usual::Host
        })
    }

    fn try_start(&self) -> std::result::Result<Usual, String> {
        let tell = |error: Error| {
            let hint = error.advice().map_or(String::new(), |hint| format!("; {hint}"));
            format!("{}{hint}", error.chain())
        };
        let options = NetworkOptions { mode: NetworkMode::Pasta(Vec::new()), ..NetworkOptions::default() };
        let plan = run::network::plan(&options, &Containers::below(&self.folder)).map_err(tell)?;
        let Way::Pasta { program, .. } = &plan.connection else {
            return Err("nothing connects it".to_owned());
        };
        let anchor = Resident::start(|| {
            unshare_namespaces(NEW_NETWORK).and_then(|()| bring_up_loopback()).context(|| "make a network namespace")
        })
        .map_err(tell)?;
        // The kernel ends it with the thread that starts it, and those of stages come and go.
        let (program, thread, folder) = (program.clone(), anchor.thread, self.folder.clone());
        let pasta = Resident::start(move || Pasta::start(&program, thread, &[], &[], &folder)).map_err(tell)?;
        Ok(Usual::Connected { _pasta: pasta, anchor, plan })
    }
}

impl Connection {
    /// The step's `/etc/hosts` and `/etc/resolv.conf`, written below `folder`: sources and places.
    pub(super) fn files(&self, hosts: &[(String, String)], folder: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
        let options = NetworkOptions { hosts: hosts.to_vec(), ..NetworkOptions::default() };
        let mut files = Files::from_host(&options, &self.plan, HOSTNAME, HOSTNAME)?.write(folder)?;
        files.retain(|(_, place)| place != Path::new("/etc/hostname"));
        Ok(files)
    }
}

/// A thread that makes something, and keeps it and itself alive until this is dropped.
struct Resident {
    thread: i32,
    end: Option<Sender<()>>,
    running: Option<JoinHandle<()>>,
}

impl Resident {
    fn start<T>(make: impl FnOnce() -> Result<T> + Send + 'static) -> Result<Self> {
        let (end, ended) = channel::<()>();
        let (tell, told) = channel();
        let live = move || match make() {
            Ok(_kept) => {
                let _ = tell.send(Ok(rustix::thread::gettid().as_raw_nonzero().get()));
                // Until the sender is dropped.
                let _ = ended.recv();
            }
            Err(error) => drop(tell.send(Err(error))),
        };
        let running = std::thread::Builder::new().name("network".to_owned()).spawn(live);
        let running = running.context(|| "start a thread")?;
        let thread = told.recv().map_err(|_| Error::new(Kind::System, "the network's thread ended"))??;
        Ok(Self { thread, end: Some(end), running: Some(running) })
    }

    /// Its network namespace.
    fn path(&self) -> PathBuf {
        format!("/proc/{}/task/{}/ns/net", std::process::id(), self.thread).into()
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.end = None;
        if let Some(running) = self.running.take() {
            let _ = running.join();
        }
    }
}
