//! The network of `RUN` steps.
//!
//! One network namespace serves all steps of a build that want the usual network: it is made when the first of them
//! starts, connected by one `pasta`, and costs the others nothing. Where `pasta` cannot be had, those steps are in the
//! host's network, and one line says so.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

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
    Connected { anchor: Anchor, plan: Plan, _pasta: Pasta },
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
        let anchor = Anchor::new().map_err(tell)?;
        let pasta = Pasta::start(program, anchor.thread, &[], &[], &self.folder).map_err(tell)?;
        Ok(Usual::Connected { anchor, plan, _pasta: pasta })
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

/// A thread in a network namespace of its own that keeps it alive.
struct Anchor {
    thread: i32,
    _end: Sender<()>,
}

impl Anchor {
    fn new() -> Result<Self> {
        let (end, ended) = channel();
        let (tell, told) = channel();
        std::thread::Builder::new()
            .name("network".to_owned())
            .spawn(move || Self::live(&tell, &ended))
            .context(|| "start a thread")?;
        let thread = told.recv().map_err(|_| Error::new(Kind::System, "the network's thread ended"))??;
        Ok(Self { thread, _end: end })
    }

    fn live(tell: &Sender<Result<i32>>, ended: &Receiver<()>) {
        let made = unshare_namespaces(NEW_NETWORK)
            .and_then(|()| bring_up_loopback())
            .context(|| "make a network namespace")
            .map(|()| rustix::thread::gettid().as_raw_nonzero().get());
        let failed = made.is_err();
        if tell.send(made).is_ok() && !failed {
            // Until the sender is dropped.
            let _ = ended.recv();
        }
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/task/{}/ns/net", std::process::id(), self.thread).into()
    }
}
