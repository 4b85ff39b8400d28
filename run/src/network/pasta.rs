//! `pasta` (passt.top): user-mode networking for one namespace, a program of its own.
//!
//! It runs in the foreground as our child, tied to us, and says that it is ready by writing its pid to a pipe we made:
//! nothing is left behind by a kill, and nothing is polled for.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::signals::tie_to_parent;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{DNS_ADDRESS, HOST_ADDRESS};
use crate::options::{PortMapping, Protocol};
use crate::state::ProcessId;

const PLACES: [&str; 5] =
    ["/usr/bin/pasta", "/usr/local/bin/pasta", "/bin/pasta", "/usr/sbin/pasta", "/usr/local/sbin/pasta"];

/// The program, where it is installed and can work.
///
/// # Errors
/// It is not, or cannot; the hint says what to do.
pub(super) fn find() -> Result<PathBuf> {
    let program = PLACES.iter().map(PathBuf::from).find(|path| path.exists()).ok_or_else(|| {
        Error::new(Kind::Unsupported, "`pasta` is not installed").hint("Debian and Ubuntu: sudo apt-get install passt")
    })?;
    let tun = Path::new("/dev/net/tun");
    match rustix::fs::open(tun, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => Ok(program),
        Err(rustix::io::Errno::NOENT) => {
            Err(Error::new(Kind::Unsupported, "`pasta` needs /dev/net/tun, which is not there")
                .hint("sudo modprobe tun"))
        }
        Err(_) => Err(Error::new(Kind::Unsupported, "`pasta` needs /dev/net/tun, which you may not open")
            .hint("sudo chmod 0666 /dev/net/tun")),
    }
}

/// A running `pasta`. Ends when this is dropped, or this process is.
#[derive(Debug)]
pub struct Pasta {
    child: Child,
}

impl Pasta {
    /// Connects the network namespace of process `pid`. Returns once it is. `folder` is the container's.
    ///
    /// # Errors
    /// `pasta` ends instead; what it said is in the error.
    pub fn start(program: &Path, pid: i32, ports: &[PortMapping], more: &[String], folder: &Path) -> Result<Self> {
        match start(program, pid, ports, more, folder, true) {
            // Releases before 2024-10 do not know the option; without it, only the host's name is missing.
            Err(error) if error.to_string().contains("map-guest-addr") => {
                start(program, pid, ports, more, folder, false)
            }
            other => other,
        }
    }

    /// Its process, for whoever clears up after us.
    ///
    /// # Errors
    /// It has ended.
    pub fn process(&self) -> Result<ProcessId> {
        ProcessId::of(i32::try_from(self.child.id()).unwrap_or(0))
    }
}

impl Drop for Pasta {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(
    program: &Path,
    pid: i32,
    ports: &[PortMapping],
    more: &[String],
    folder: &Path,
    map_guest: bool,
) -> Result<Pasta> {
    let ready_path = folder.join("pasta");
    let _ = fs::remove_file(&ready_path);
    rustix::fs::mknodat(rustix::fs::CWD, &ready_path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .at("create", &ready_path)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let ready = rustix::fs::open(&ready_path, flags, Mode::empty()).at("open", &ready_path);
    let spawned = ready.and_then(|ready| {
        // Opened here and handed over as standard input: pasta drops what it would need to open it itself, and closes
        // every other descriptor.
        let namespace = format!("/proc/{pid}/ns/net");
        let namespace = fs::File::open(&namespace).at("open", &namespace)?;
        let mut command = Command::new(program);
        command.args(arguments(ports, more, &ready_path, map_guest));
        // Ctrl-C is for the container: its own process group keeps pasta out of it.
        command.process_group(0).stdin(namespace).stdout(Stdio::null()).stderr(Stdio::piped());
        tie_to_parent(&mut command);
        Ok((Pasta { child: command.spawn().at("start", program)? }, ready))
    });
    let result = spawned.and_then(|(mut pasta, ready)| await_ready(&mut pasta, &ready).map(|()| pasta));
    let _ = fs::remove_file(&ready_path);
    result
}

fn arguments(ports: &[PortMapping], more: &[String], ready: &Path, map_guest: bool) -> Vec<String> {
    let mut words: Vec<String> = ["--foreground", "--quiet", "--config-net"].map(str::to_owned).to_vec();
    let mut add = |flag: &str, value: &str| words.extend([flag.to_owned(), value.to_owned()]);
    add("--pid", &ready.to_string_lossy());
    // In the initial user namespace pasta would become `nobody`, who may not enter the container's namespaces.
    if rustix::process::geteuid().is_root() {
        add("--runas", "0:0");
    }
    if !more.iter().any(|word| word.starts_with("--dns-forward")) {
        add("--dns-forward", DNS_ADDRESS);
    }
    for (flag, protocol) in [("-t", Protocol::Tcp), ("-u", Protocol::Udp)] {
        let mut mapped = false;
        for port in ports.iter().filter(|port| port.protocol == protocol) {
            add(flag, &port_argument(port));
            mapped = true;
        }
        if !mapped && !more.iter().any(|word| word == flag) {
            add(flag, "none");
        }
    }
    for flag in ["-T", "-U"] {
        if !more.iter().any(|word| word == flag) {
            add(flag, "none");
        }
    }
    words.push("--no-map-gw".to_owned());
    if map_guest {
        words.extend(["--map-guest-addr".to_owned(), HOST_ADDRESS.to_owned()]);
    }
    words.extend(more.iter().cloned());
    // It ends when it is told to, not when a path of the namespace goes: there is none.
    words.extend(["--no-netns-quit", "--netns", "/proc/self/fd/0"].map(str::to_owned));
    words
}

/// `[ADDRESS/]HOST[-HOST]:CONTAINER[-CONTAINER]`
fn port_argument(port: &PortMapping) -> String {
    let range = |first: u16| match port.count {
        1 => first.to_string(),
        count => format!("{first}-{}", first.saturating_add(count - 1)),
    };
    let address = port.address.as_deref().map_or(String::new(), |address| format!("{address}/"));
    format!("{address}{}:{}", range(port.host), range(port.container))
}

/// Waits for the pid on the pipe, or the end of the process.
fn await_ready(pasta: &mut Pasta, ready: &OwnedFd) -> Result<()> {
    let pidfd = pidfd_open(Pid::from_child(&pasta.child), PidfdFlags::empty()).context(|| "watch pasta")?;
    loop {
        let mut fds = [PollFd::new(ready, PollFlags::IN), PollFd::new(&pidfd, PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.context(|| "wait for pasta")?,
        };
        let (said, ended) = (fds[0].revents(), fds[1].revents());
        if !ended.is_empty() {
            let mut words = String::new();
            if let Some(stderr) = pasta.child.stderr.take() {
                let _ = stderr.take(4096).read_to_string(&mut words);
            }
            let _ = pasta.child.wait();
            return Err(failure(&words));
        }
        if said.contains(PollFlags::IN) {
            let mut pid = [0u8; 16];
            if matches!(rustix::io::read(ready.as_fd(), &mut pid), Ok(1..)) {
                return Ok(());
            }
        }
    }
}

/// The last line it said is the reason, unless a flag of ours was refused, which comes first.
fn failure(words: &str) -> Error {
    let unknown = words.lines().find(|line| line.contains("unrecognized option") || line.contains("map-guest-addr"));
    let line = unknown.or_else(|| words.lines().rfind(|line| !line.trim().is_empty())).unwrap_or("it gave no reason");
    let error = Error::new(Kind::Unsupported, format!("pasta did not connect the container: {}", line.trim()));
    match words.contains("bind") {
        true => error.hint(
            "the host's port is in use, or below 1024, for which: sudo sysctl net.ipv4.ip_unprivileged_port_start=PORT",
        ),
        false => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_written_as_pasta_has_them() {
        let port = |text: &str| port_argument(&crate::options::publish(text).expect("valid"));
        assert_eq!(port("8080:80"), "8080:80");
        assert_eq!(port("127.0.0.1:9000-9002:90-92"), "127.0.0.1/9000-9002:90-92");
    }

    #[test]
    fn the_arguments_are_podmans() {
        let ports = [crate::options::publish("8080:80").expect("valid")];
        let words = arguments(&ports, &["-T".to_owned(), "53".to_owned()], Path::new("/c/pasta"), true);
        let text = words.join(" ").replace(" --runas 0:0", "");
        assert_eq!(
            text,
            "--foreground --quiet --config-net --pid /c/pasta --dns-forward 169.254.1.1 -t 8080:80 -u none -U none \
             --no-map-gw --map-guest-addr 169.254.1.2 -T 53 --no-netns-quit --netns /proc/self/fd/0"
        );
    }

    #[test]
    fn a_failure_is_one_line() {
        assert!(
            failure("usage\nFailed to open() /dev/net/tun: Permission denied\n").to_string().contains("/dev/net/tun")
        );
        assert!(
            failure("unrecognized option '--map-guest-addr'\nUsage: pasta\n").to_string().contains("map-guest-addr")
        );
        assert!(failure("").to_string().contains("no reason"));
    }
}
