//! The container's first process, between its clone and the user's program.
//!
//! It runs in a copy of the launcher's memory: single-threaded, with all descriptors close-on-exec. The order below is
//! the kernel's: what needs privileges comes before they are given up, what the seccomp filter might forbid before it
//! is loaded. Every failure goes through the channel as one error that names the step; nothing is ever half done, for
//! all of it dies with this process.

pub(crate) mod identity;
mod program;
pub(crate) mod schedule;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::signals::Signals;
use layerfs::sys::{container, process as sys};
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::termios::Winsize;
use rustix::thread::LinkNameSpaceType;

use crate::launch::agent::Courier;
use crate::launch::channel::{Channel, Message};
use crate::launch::hooks::{Moment, Outside};
use crate::launch::namespaces;
use crate::launch::{EXIT_CANNOT_EXECUTE, EXIT_NOT_FOUND, EXIT_SETUP_FAILED, Stdio, about_set_up};
use crate::rootfs::{self, Prepared};
use crate::seccomp::Filter;
use identity::Sets;
use program::Program;
use schedule::{Affinity, Schedule, confine, spread};

/// Where the process lives.
pub(crate) enum View<'a> {
    /// In a root of its own, to be built.
    Own(Box<Prepared<'a>>),
    /// In that of the mount namespace it is in.
    Joined,
}

/// Its streams.
pub(crate) enum Streams {
    /// These three.
    Given(Stdio),
    /// A new terminal of this size, in columns and rows.
    Terminal((u16, u16)),
}

/// All that the process needs, opened before the clone.
pub(crate) struct Init<'a> {
    pub(crate) process: &'a Process,
    /// The whole Spec, where the process is the first of a container.
    pub(crate) spec: Option<&'a Spec>,
    pub(crate) view: View<'a>,
    pub(crate) streams: Streams,
    /// The host's procfs, for this process's own files in it.
    pub(crate) proc: OwnedFd,
    /// Namespaces to enter, in this order.
    pub(crate) joins: Vec<(OwnedFd, LinkNameSpaceType)>,
    /// `CLONE_NEW*` flags of the namespaces it was born into.
    pub(crate) namespaces: u64,
    /// What the clocks of a time namespace of its own are ahead by, where that was not set before.
    pub(crate) time_offsets: Option<String>,
    /// `tasks` files of v1 hierarchies.
    pub(crate) control_groups: Vec<OwnedFd>,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) schedule: Schedule,
    pub(crate) affinity: Affinity,
    pub(crate) filter: Option<Filter>,
    pub(crate) keeps_groups: bool,
    pub(crate) preserve_fds: u32,
    pub(crate) dies_with_parent: bool,
    /// What others do for it.
    pub(crate) outside: Option<&'a Outside>,
    /// Some of that is for when the mounts are made.
    pub(crate) waits_for_others: bool,
}

impl<'a> Init<'a> {
    /// Does everything and becomes the program. Returns the exit code of a failure that was reported already.
    pub(crate) fn run(self, channel: &Channel) -> i32 {
        let error = match self.set_up(channel).map_err(about_set_up).and_then(Ready::check_program) {
            Ok(ready) => match ready.execute(channel) {
                Ok(signal) => return 128 + signal,
                Err(error) => error,
            },
            Err(error) => error,
        };
        let code = match error.kind() {
            Kind::NotFound => EXIT_NOT_FOUND,
            Kind::Denied => EXIT_CANNOT_EXECUTE,
            _ => EXIT_SETUP_FAILED,
        };
        // Nobody hears it where the launcher is gone, and then nobody waits for it either.
        let _ = channel.send(&Message::Failed(error));
        code
    }

    fn set_up(mut self, channel: &Channel) -> Result<Ready<'a>> {
        let process = self.process;
        let end = 3 + i32::try_from(self.preserve_fds).unwrap_or(0);
        // Until its program runs this may take long, and whoever made the launcher may wait for their end.
        let _ = sys::close_inherited(end);
        if self.dies_with_parent {
            die_with_parent()?;
        }
        let mut program = match self.spec.is_none_or(|spec| spec.process().is_some()) {
            true => Some(Program::of(process)?),
            false => None,
        };
        if self.namespaces & libc_flag::USER != 0 {
            ask(channel, &Message::WantIdMaps)?;
        }
        self.set_oom_score()?;
        self.join_control_groups()?;
        if self.namespaces & libc_flag::USER != 0 {
            become_namespace_root()?;
        }
        if let Some(offsets) = &self.time_offsets {
            // The change of ids made this process's files in `/proc` root's, and its clocks are one of them.
            container::allow_tracers().context(|| "own the process's files in `/proc`")?;
            namespaces::make_time_namespace(offsets)?;
        }
        new_session()?;
        namespaces::join(&self.joins)?;
        // Only now: a cgroup namespace's root is the cgroup its maker is in at that moment.
        if self.namespaces & libc_flag::CGROUP != 0 {
            sys::unshare_namespaces(libc_flag::CGROUP).context(|| "make a cgroup namespace")?;
        }
        if self.namespaces & libc_flag::NETWORK != 0 {
            container::bring_up_loopback().context(|| "bring up the loopback interface")?;
        }
        if let Some(spec) = self.spec {
            set_names(spec, rootfs::has_namespace(spec, LinuxNamespaceType::Uts))?;
        }
        let wants_terminal = matches!(self.streams, Streams::Terminal(_));
        let terminal = match self.view {
            View::Own(prepared) => {
                let mut note = |text: String| drop(channel.send(&Message::Note(text)));
                let (built, terminal) = prepared.build(rootfs::BuildOptions { terminal: wants_terminal }, &mut note)?;
                if self.waits_for_others {
                    ask(channel, &Message::WantOthers)?;
                }
                if let Some(outside) = self.outside {
                    built.look_in()?;
                    outside.run(Moment::CreateContainer, own_pid(), None)?;
                }
                built.enter()?;
                terminal
            }
            View::Joined if wants_terminal => Some(rootfs::terminal_here()?),
            View::Joined => None,
        };
        if let Some(program) = &mut program {
            program.ensure_home(process.user().uid());
        }
        attach_streams(self.streams, terminal, process, channel)?;
        identity::set_limits(process)?;
        confine(self.affinity.last.as_ref())?;
        self.schedule.apply()?;
        let sets = Sets::of(process.capabilities().as_ref());
        sets.drop_bounding()?;
        set_labels(process, self.proc.as_fd())?;
        drop(self.proc);
        identity::become_user(process, self.keeps_groups)?;
        enter_working_folder(process.cwd())?;
        if self.dies_with_parent {
            // Again: a change of ids clears it.
            die_with_parent()?;
        }
        let umask = process.user().umask().unwrap_or(0o022);
        rustix::process::umask(Mode::from_raw_mode(umask & 0o777));
        sys::close_on_exec_from(end.unsigned_abs()).context(|| "mark descriptors close-on-exec")?;
        sys::keep_on_exec(3, end);
        sys::reset_signals();
        let no_new_privileges = process.no_new_privileges().unwrap_or(false);
        let waits_long = self.spec.is_some() && !self.dies_with_parent;
        Ok(Ready { program, sets, filter: self.filter, no_new_privileges, outside: self.outside, waits_long })
    }

    /// Once, while this process's files in `/proc` are its own: a change of ids hands them to root.
    pub(crate) fn set_oom_score(&mut self) -> Result<()> {
        let Some(score) = self.oom_score_adj.take() else { return Ok(()) };
        rootfs::write_proc_of(self.proc.as_fd(), "self/oom_score_adj", &score.to_string()).map_err(|error| {
            error.hint("a value below the caller's own needs CAP_SYS_RESOURCE on the host: leave it out or raise it")
        })
    }

    /// Once, by the descriptors that were opened with the launcher's rights.
    pub(crate) fn join_control_groups(&mut self) -> Result<()> {
        let initial = self.affinity.initial.take();
        confine(initial.as_ref())?;
        for procs in self.control_groups.drain(..) {
            rustix::io::write(&procs, b"0").context(|| "join the cgroup")?;
        }
        if initial.is_none() {
            spread();
        }
        Ok(())
    }
}

/// What is left to do once the launcher says go.
struct Ready<'a> {
    program: Option<Program>,
    sets: Sets,
    filter: Option<Filter>,
    no_new_privileges: bool,
    outside: Option<&'a Outside>,
    /// Somebody else says go, and who knows when.
    waits_long: bool,
}

impl Ready<'_> {
    /// Engines want to hear while they create a container that its program is not there, not when they start it.
    fn check_program(self) -> Result<Self> {
        self.program.as_ref().map_or(Ok(()), Program::check).map(|()| self)
    }

    /// Comes back with what went wrong, or with the signal that ended it before it was started.
    fn execute(self, channel: &Channel) -> Result<i32> {
        channel.send(&Message::Ready)?;
        if self.waits_long
            && let Some(signal) = wait_for_word(channel)?
        {
            return Ok(signal);
        }
        match channel.receive()? {
            Some(Message::Go) => {}
            _ => return Err(launcher_gone()),
        }
        let Some(program) = &self.program else {
            return Err(Error::new(Kind::Invalid, "the Spec has no process, so there is nothing to start"));
        };
        self.give_up_privileges(channel).map_err(about_set_up)?;
        Err(program.execute())
    }

    fn give_up_privileges(&self, channel: &Channel) -> Result<()> {
        if !self.no_new_privileges {
            // Without no_new_privs only CAP_SYS_ADMIN may load a filter, so it comes before the capabilities go.
            self.load_filter(channel)?;
            self.sets.apply()?;
        } else {
            self.sets.apply()?;
            rustix::thread::set_no_new_privs(true).context(|| "set no_new_privs")?;
            self.load_filter(channel)?;
        }
        // Programs of the container's own: they may do what its program may, and no more.
        if let Some(outside) = self.outside {
            let environment = self.program.as_ref().map(Program::environment).unwrap_or_default();
            outside.run(Moment::StartContainer, own_pid(), Some(&environment))?;
        }
        Ok(())
    }

    fn load_filter(&self, channel: &Channel) -> Result<()> {
        match &self.filter {
            None => Ok(()),
            Some(filter) if filter.notifies() => Courier::start(channel)?.deliver(|| filter.load()),
            Some(filter) => filter.load().map(drop),
        }
    }
}

/// Waits until the channel has something to be read: `None` then, or the signal that was to end this process before.
///
/// The first process of a pid namespace gets no signal that it does not ask for, save `SIGKILL`
/// (`pid_namespaces(7)`); one that only waits can be ended by the others all the same.
fn wait_for_word(channel: &Channel) -> Result<Option<i32>> {
    /// `SIGHUP`, `SIGINT`, `SIGQUIT`, `SIGUSR1`, `SIGUSR2`, `SIGALRM`, `SIGTERM`.
    const DEADLY: [i32; 7] = [1, 2, 3, 10, 12, 14, 15];
    let signals = Signals::block().context(|| "read signals from a descriptor")?;
    loop {
        let mut fds = [PollFd::new(channel, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            polled => drop(polled.context(|| "wait to be started")?),
        }
        if !fds[0].revents().is_empty() {
            sys::reset_signals();
            return Ok(None);
        }
        let signal = signals.next().context(|| "read a signal")?;
        if let Some(signal) = signal.filter(|signal| DEADLY.contains(signal)) {
            return Ok(Some(signal));
        }
    }
}

/// The namespace flags this module looks at: `linux/sched.h`.
pub(crate) mod libc_flag {
    pub(crate) const TIME: u64 = 0x80;
    pub(crate) const MOUNT: u64 = 0x0002_0000;
    pub(crate) const CGROUP: u64 = 0x0200_0000;
    pub(crate) const UTS: u64 = 0x0400_0000;
    pub(crate) const IPC: u64 = 0x0800_0000;
    pub(crate) const USER: u64 = 0x1000_0000;
    pub(crate) const PID: u64 = 0x2000_0000;
    pub(crate) const NETWORK: u64 = 0x4000_0000;
}

/// A launcher that died before this shows at the channel: what is waited for there does not come.
fn die_with_parent() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .context(|| "tie the container to its launcher")
}

/// Has the launcher do what only it can.
fn ask(channel: &Channel, want: &Message) -> Result<()> {
    channel.send(want)?;
    match channel.receive()? {
        Some(Message::GoOn) => Ok(()),
        _ => Err(launcher_gone()),
    }
}

/// This process's number in the container.
fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_pid()
}

fn launcher_gone() -> Error {
    Error::new(Kind::Interrupted, "the launcher went away before the container was started")
}

/// A new user namespace leaves its first process with ids that may not exist in it; 0 must.
fn become_namespace_root() -> Result<()> {
    let refused =
        |_| Error::new(Kind::Invalid, "the user namespace has no id 0").hint("map container id 0 in linux.uidMappings");
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).map_err(refused)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).map_err(refused)
}

/// A session of its own, without the caller's terminal and without the caller's keys.
fn new_session() -> Result<()> {
    match rustix::process::setsid() {
        // An intermediate process may have made this one a leader already.
        Ok(_) | Err(Errno::PERM) => {}
        Err(errno) => return Err(errno).context(|| "make a session"),
    }
    match container::join_new_session_keyring().map_err(|error| error.raw_os_error().map(Errno::from_raw_os_error)) {
        // No keys in this kernel, a filter that forbids them, or a user who has too many keyrings: the old session's
        // keys then stay out of reach by the ids alone.
        Ok(()) | Err(Some(Errno::NOSYS | Errno::PERM | Errno::ACCESS | Errno::DQUOT | Errno::NOMEM)) => Ok(()),
        Err(errno) => Err(std::io::Error::from(errno.unwrap_or(Errno::INVAL))).context(|| "join a new session keyring"),
    }
}

fn set_names(spec: &Spec, listed: bool) -> Result<()> {
    for (what, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        let Some(name) = name else { continue };
        if !listed {
            return Err(Error::new(
                Kind::Invalid,
                format!("{what} `{name}` needs a uts namespace in linux.namespaces"),
            ));
        }
        let set = if what == "hostname" { rustix::system::sethostname } else { rustix::system::setdomainname };
        set(name.as_bytes()).context(|| format!("set the {what} `{name}`"))?;
    }
    Ok(())
}

fn attach_streams(
    streams: Streams,
    terminal: Option<(OwnedFd, OwnedFd)>,
    process: &Process,
    channel: &Channel,
) -> Result<()> {
    let user = (Some(Uid::from_raw(process.user().uid())), Some(Gid::from_raw(process.user().gid())));
    match (streams, terminal) {
        (Streams::Given(stdio), _) => {
            let fds = [stdio.stdin.as_fd(), stdio.stdout.as_fd(), stdio.stderr.as_fd()];
            for fd in fds {
                // The container's user may open /dev/stdout anew, so a pipe must be its own. A file or a terminal of
                // the caller's stays the caller's.
                if rootfs::path::file_type(fd) == FileType::Fifo {
                    let _ = rustix::fs::fchown(fd, user.0, user.1);
                }
            }
            sys::place_stdio(fds).context(|| "place the standard streams")
        }
        (Streams::Terminal((columns, rows)), Some((master, slave))) => {
            let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            rustix::termios::tcsetwinsize(&slave, size).context(|| "set the terminal's size")?;
            // Its group is the one of terminals.
            let _ = rustix::fs::fchown(&slave, user.0, None);
            rustix::process::ioctl_tiocsctty(&slave).context(|| "make the terminal the controlling one")?;
            sys::place_stdio([slave.as_fd(); 3]).context(|| "place the terminal")?;
            channel.send(&Message::Terminal(master))
        }
        (Streams::Terminal(_), None) => Err(Error::new(Kind::System, "no terminal was opened")),
    }
}

/// The labels that security modules put on the program to come.
fn set_labels(process: &Process, proc: BorrowedFd<'_>) -> Result<()> {
    if let Some(profile) = process.apparmor_profile().as_ref().filter(|profile| !profile.is_empty()) {
        let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
        if !enabled.is_ok_and(|text| text.starts_with('Y')) {
            return Err(Error::new(
                Kind::Unsupported,
                format!("AppArmor profile `{profile}`: the host has no AppArmor"),
            ));
        }
        let text = format!("exec {profile}");
        rootfs::write_proc_of(proc, "thread-self/attr/apparmor/exec", &text)
            .or_else(|_| rootfs::write_proc_of(proc, "thread-self/attr/exec", &text))
            .context(|| format!("set AppArmor profile `{profile}`"))?;
    }
    if let Some(label) = process.selinux_label().as_ref().filter(|label| !label.is_empty()) {
        rootfs::write_proc_of(proc, "thread-self/attr/exec", label)
            .context(|| format!("set SELinux label `{label}`"))?;
    }
    Ok(())
}

/// Enters the working folder and makes sure that it lies in the container: through a descriptor that leaked, the path
/// could lead to the host (CVE-2024-21626).
fn enter_working_folder(path: &Path) -> Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
    rustix::process::chdir(path).at("enter (chdir) the working folder", path)?;
    let here = rustix::process::getcwd(Vec::new()).at("enter the working folder", path)?;
    // The kernel marks a folder that cannot be reached from the root by a prefix in place of the slash.
    if here.as_bytes().first() == Some(&b'/') {
        return Ok(());
    }
    Err(Error::new(Kind::Invalid, format!("working folder `{}` lies outside the container", path.display())))
}
