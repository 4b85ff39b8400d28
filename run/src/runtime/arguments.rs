//! The words of the command line: runc's, and what crun has beside them. Options stand before or after the id; what
//! follows the id of `exec` and its first word is the program's own.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use layerfs::error::Result;

use crate::options;

/// An OCI runtime: containers from bundles
#[derive(Debug, Parser)]
#[command(
    name = "layerfs-runtime",
    version = concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.3.0"),
    disable_help_subcommand = true,
    args_override_self = true
)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) common: Common,
    /// Without root: true, false or auto. Accepted: what may be done is seen from who calls
    #[arg(long, value_name = "WHEN")]
    rootless: Option<When>,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum When {
    #[value(alias = "1")]
    True,
    #[value(alias = "0")]
    False,
    Auto,
}

#[derive(Args, Debug)]
pub(super) struct Common {
    /// Where the state of containers is kept
    #[arg(long, global = true, value_name = "FOLDER")]
    pub(super) root: Option<PathBuf>,
    /// Errors are also written here
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) log: Option<PathBuf>,
    /// Of the file's lines
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,
    /// Accepted: a level of chatter, and there is none
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
    /// cgroupsPath is `slice:prefix:name`, a scope that systemd makes
    #[arg(long, global = true)]
    systemd_cgroup: bool,
    /// Who makes cgroups
    #[arg(long, global = true, value_name = "MANAGER")]
    cgroup_manager: Option<CgroupManager>,
    /// Accepted, and without effect: nothing is left unsaid
    #[arg(long, global = true)]
    debug: bool,
}

impl Common {
    /// Who makes cgroups.
    pub(super) fn cgroups(&self) -> CgroupManager {
        match (self.cgroup_manager, self.systemd_cgroup) {
            (Some(manager), _) => manager,
            (None, true) => CgroupManager::Systemd,
            (None, false) => CgroupManager::Cgroupfs,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum CgroupManager {
    Cgroupfs,
    Systemd,
    /// No cgroup at all
    Disabled,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make a container that waits to be started
    Create(Create),
    /// Let a container's program run
    Start(Id),
    /// Make a container, start it and wait for its end
    Run(Run),
    /// Print a container's state as JSON
    State(Id),
    /// Send a container a signal
    Kill(Kill),
    /// Remove a container that has ended
    Delete(Delete),
    /// Run a further program in a container
    Exec(Exec),
    /// List the processes of a container
    Ps(Ps),
    /// List containers
    List(List),
    /// Stop a container's processes where they are
    Pause(Id),
    /// Let a paused container go on
    #[command(alias = "unpause")]
    Resume(Id),
    /// Change a container's limits
    Update(Update),
    /// Print what a container uses, and when it runs out of memory
    Events(Events),
    /// Save a running container's state to files (needs criu)
    Checkpoint(Checkpoint),
    /// Make a container from such files (needs criu)
    Restore(Restore),
    /// Print what this runtime can do as JSON
    Features,
    /// Write a default config.json
    Spec(SpecArguments),
}

#[derive(Args, Debug)]
pub(super) struct Id {
    /// The container
    #[arg(value_name = "ID")]
    pub(super) id: String,
}

#[derive(Args, Debug)]
pub(super) struct Create {
    /// The bundle's folder
    #[arg(short, long, default_value = ".", value_name = "FOLDER")]
    pub(super) bundle: PathBuf,
    /// Read instead of the bundle's config.json
    #[arg(short = 'f', long, default_value = "config.json", value_name = "FILE")]
    pub(super) config: PathBuf,
    #[command(flatten)]
    pub(super) handles: Handles,
    /// Accepted: the root is never switched in another way
    #[arg(long)]
    no_pivot: bool,
    /// Accepted: a session keyring of its own does no harm
    #[arg(long)]
    no_new_keyring: bool,
    /// Accepted: nothing is reaped that is not ours
    #[arg(long)]
    no_subreaper: bool,
    #[command(flatten)]
    pub(super) id: Id,
}

/// What the caller hands over, and where it wants to hear of the process.
#[derive(Args, Debug)]
pub(super) struct Handles {
    /// A socket that the terminal's master side is sent to
    #[arg(long, value_name = "SOCKET")]
    pub(super) console_socket: Option<PathBuf>,
    /// A socket that a descriptor of the process is sent to
    #[arg(long, value_name = "SOCKET")]
    pub(super) pidfd_socket: Option<PathBuf>,
    /// The process's number is written here
    #[arg(long, value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,
    /// Hand over this many descriptors from 3 on, beside those that LISTEN_FDS counts
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    pub(super) preserve_fds: u32,
}

#[derive(Args, Debug)]
pub(super) struct Run {
    #[command(flatten)]
    pub(super) create: Create,
    /// Do not wait for its end
    #[arg(short, long)]
    pub(super) detach: bool,
    /// Keep its state once it has ended
    #[arg(long)]
    pub(super) keep: bool,
}

#[derive(Args, Debug)]
pub(super) struct Kill {
    /// To all of its processes
    #[arg(short, long)]
    pub(super) all: bool,
    #[command(flatten)]
    pub(super) id: Id,
    /// By name or number
    #[arg(value_name = "SIGNAL", default_value = "TERM", value_parser = signal)]
    pub(super) signal: i32,
}

/// 0 asks whether there is anybody to get one.
fn signal(text: &str) -> Result<i32> {
    if text == "0" { Ok(0) } else { options::signal(text) }
}

#[derive(Args, Debug)]
pub(super) struct Delete {
    /// Kill it first; one that does not exist is no error
    #[arg(short, long)]
    pub(super) force: bool,
    #[command(flatten)]
    pub(super) id: Id,
}

#[derive(Args, Debug)]
pub(super) struct Exec {
    #[command(flatten)]
    pub(super) handles: Handles,
    /// What to run, as the `process` of a config.json; the other options about it are not looked at then
    #[arg(short, long, value_name = "FILE")]
    pub(super) process: Option<PathBuf>,
    /// Do not wait for its end
    #[arg(short, long)]
    pub(super) detach: bool,
    /// In a terminal
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(super) tty: Option<bool>,
    /// Working folder
    #[arg(long, value_name = "FOLDER")]
    pub(super) cwd: Option<PathBuf>,
    /// A variable of its environment
    #[arg(short, long = "env", value_name = "NAME=VALUE")]
    pub(super) environment: Vec<String>,
    /// As this user
    #[arg(short, long, value_name = "UID[:GID]", value_parser = user)]
    pub(super) user: Option<(u32, Option<u32>)>,
    /// In these groups, too
    #[arg(short = 'g', long, value_name = "GID", value_delimiter = ',')]
    pub(super) additional_gids: Vec<u32>,
    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    pub(super) process_label: Option<String>,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    pub(super) apparmor: Option<String>,
    /// It cannot gain privileges
    #[arg(long)]
    pub(super) no_new_privs: bool,
    /// With this capability besides
    #[arg(short, long, value_name = "CAPABILITY")]
    pub(super) cap: Vec<String>,
    /// In a cgroup below the container's, which is there already
    #[arg(long, value_name = "[CONTROLLERS:]PATH")]
    pub(super) cgroup: Vec<String>,
    /// Also in a paused container
    #[arg(long)]
    pub(super) ignore_paused: bool,
    #[command(flatten)]
    pub(super) id: Id,
    /// The program and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) command: Vec<String>,
}

/// Plain numbers and nothing else: what is read in another way by somebody else is another user (CVE-2026-30892).
fn user(text: &str) -> Result<(u32, Option<u32>), String> {
    let number = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // The last number means "none" to the kernel.
        plain.then(|| text.parse().ok()).flatten().filter(|id| *id != u32::MAX)
    };
    let refused = || "not of the form UID[:GID] with plain numbers".to_owned();
    match text.split_once(':') {
        None => number(text).map(|uid| (uid, None)).ok_or_else(refused),
        Some((uid, gid)) => Ok((number(uid).ok_or_else(refused)?, Some(number(gid).ok_or_else(refused)?))),
    }
}

#[derive(Args, Debug)]
pub(super) struct Ps {
    /// table or json
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub(super) format: Format,
    #[command(flatten)]
    pub(super) id: Id,
    /// Options of ps(1)
    #[arg(value_name = "OPTION", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) options: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
}

#[derive(Args, Debug)]
pub(super) struct List {
    /// table or json
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub(super) format: Format,
    /// IDs only
    #[arg(short, long)]
    pub(super) quiet: bool,
}

#[derive(Args, Debug)]
pub(super) struct Events {
    /// Between two reports, such as 5s
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = interval)]
    pub(super) interval: u64,
    /// Report once
    #[arg(long)]
    pub(super) stats: bool,
    #[command(flatten)]
    pub(super) id: Id,
}

/// A time as Go writes it, in nanoseconds.
fn interval(text: &str) -> Result<u64, String> {
    let refused = || "not a time such as 500ms, 5s or 1m".to_owned();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(refused)?;
    let unit = match &text[split..] {
        "ns" => 1.0,
        "us" | "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        "h" => 3600e9,
        _ => return Err(refused()),
    };
    let number: f64 = text[..split].parse().map_err(|_| refused())?;
    let nanoseconds = number * unit;
    if (1.0..1e18).contains(&nanoseconds) { Ok(nanoseconds as u64) } else { Err(refused()) }
}

#[derive(Args, Debug)]
pub(super) struct Update {
    /// The limits as JSON, as in a config.json's linux.resources; `-` reads standard input. Other options are not
    /// looked at then
    #[arg(short, long, value_name = "FILE")]
    pub(super) resources: Option<PathBuf>,
    /// Memory, in bytes or with a unit; -1 for no limit
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = options::memory_swap)]
    pub(super) memory: Option<i64>,
    /// What is left when memory is short
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = options::memory_swap)]
    pub(super) memory_reservation: Option<i64>,
    /// Memory and swap together
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = options::memory_swap)]
    pub(super) memory_swap: Option<i64>,
    /// Accepted: the kernel has no such limit any more
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, hide = true)]
    kernel_memory: Option<String>,
    /// Memory of TCP buffers (cgroup v1)
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = options::memory_swap)]
    pub(super) kernel_memory_tcp: Option<i64>,
    /// Microseconds of a period
    #[arg(long, value_name = "TIME")]
    pub(super) cpu_period: Option<u64>,
    /// Microseconds of processor time in a period; -1 for no limit
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(super) cpu_quota: Option<i64>,
    /// Microseconds that may be saved up
    #[arg(long, value_name = "TIME")]
    pub(super) cpu_burst: Option<u64>,
    /// Weight against other containers
    #[arg(long, value_name = "NUMBER")]
    pub(super) cpu_share: Option<u64>,
    /// Period of realtime processes
    #[arg(long, value_name = "TIME")]
    pub(super) cpu_rt_period: Option<u64>,
    /// Processor time of realtime processes in a period
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(super) cpu_rt_runtime: Option<i64>,
    /// 1: only when nobody else wants the processor
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub(super) cpu_idle: Option<i64>,
    /// Processors, such as 0-2,5
    #[arg(long, value_name = "LIST")]
    pub(super) cpuset_cpus: Option<String>,
    /// Memory nodes
    #[arg(long, value_name = "LIST")]
    pub(super) cpuset_mems: Option<String>,
    /// Weight for block devices, 10 to 1000
    #[arg(long, value_name = "NUMBER")]
    pub(super) blkio_weight: Option<u16>,
    /// Most processes; -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub(super) pids_limit: Option<i64>,
    /// Refused: resctrl is not managed
    #[arg(long, value_name = "SCHEMA")]
    pub(super) l3_cache_schema: Option<String>,
    /// Refused: resctrl is not managed
    #[arg(long, value_name = "SCHEMA")]
    pub(super) mem_bw_schema: Option<String>,
    #[command(flatten)]
    pub(super) id: Id,
}

/// What `checkpoint` and `restore` both take.
#[derive(Args, Debug)]
pub(super) struct Images {
    /// Where the files are
    #[arg(long, value_name = "FOLDER", default_value = "checkpoint")]
    pub(super) image_path: PathBuf,
    /// Where criu keeps its log
    #[arg(long, value_name = "FOLDER")]
    pub(super) work_path: Option<PathBuf>,
    /// Open TCP connections are saved
    #[arg(long)]
    pub(super) tcp_established: bool,
    /// Unix sockets with an end outside are allowed
    #[arg(long)]
    pub(super) ext_unix_sk: bool,
    /// A job of a shell is allowed
    #[arg(long)]
    pub(super) shell_job: bool,
    /// File locks are saved
    #[arg(long)]
    pub(super) file_locks: bool,
    /// soft, full, strict or ignore
    #[arg(long, value_name = "MODE", default_value = "soft")]
    pub(super) manage_cgroups_mode: String,
    /// Namespaces whose properties are left alone
    #[arg(long, value_name = "NAMESPACE")]
    pub(super) empty_ns: Vec<String>,
    /// Pages are taken out of older files
    #[arg(long)]
    pub(super) auto_dedup: bool,
}

#[derive(Args, Debug)]
pub(super) struct Checkpoint {
    #[command(flatten)]
    pub(super) images: Images,
    /// Older files, relative to the new ones
    #[arg(long, value_name = "FOLDER")]
    pub(super) parent_path: Option<PathBuf>,
    /// Let it run on
    #[arg(long)]
    pub(super) leave_running: bool,
    /// Memory only, and let it run on
    #[arg(long)]
    pub(super) pre_dump: bool,
    /// Connections that are being made are passed over
    #[arg(long)]
    pub(super) tcp_skip_in_flight: bool,
    /// Unlinked files are linked again
    #[arg(long)]
    pub(super) link_remap: bool,
    #[command(flatten)]
    pub(super) id: Id,
}

#[derive(Args, Debug)]
pub(super) struct Restore {
    #[command(flatten)]
    pub(super) images: Images,
    #[command(flatten)]
    pub(super) create: Create,
    /// Do not wait for its end
    #[arg(short, long)]
    pub(super) detach: bool,
    /// TCP connections are closed
    #[arg(long)]
    pub(super) tcp_close: bool,
    /// TYPE:NAME of a security module's profile
    #[arg(long, value_name = "PROFILE")]
    pub(super) lsm_profile: Option<String>,
    /// A security module's context for mounts
    #[arg(long, value_name = "CONTEXT")]
    pub(super) lsm_mount_context: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct SpecArguments {
    /// Where config.json is written
    #[arg(short, long, default_value = ".", value_name = "FOLDER")]
    pub(super) bundle: PathBuf,
    /// The file's name
    #[arg(short, long, default_value = "config.json", value_name = "FILE")]
    pub(super) file: PathBuf,
    /// For a container of an ordinary user
    #[arg(long)]
    pub(super) rootless: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Verb, clap::Error> {
        let words = std::iter::once("layerfs-runtime").chain(line.split_whitespace());
        Arguments::try_parse_from(words).map(|arguments| arguments.verb)
    }

    /// As traced from podman with conmon, containerd's shim and CRI-O.
    #[test]
    fn what_engines_say() {
        for line in [
            "--systemd-cgroup --log-format=json --log F create --bundle B --pid-file P --no-pivot --no-new-keyring --preserve-fds 2 --console-socket S c1",
            "--root R --log B/log.json --log-format json create --bundle B --pid-file B/init.pid c1",
            "--log-format=json --log F exec --pid-file P --process J --detach --preserve-fds 1 --console-socket S c1",
            "--root R --rootless=true start c1",
            "--cgroup-manager disabled create c1",
            "--root=R --systemd-cgroup kill --all c1 9",
            "kill c1 SIGTERM",
            "kill c1 0",
            "delete --force c1",
            "delete c1 --force",
            "ps --format json c1",
            "ps c1 -ef",
            "update --resources=- c1",
            "update --resources - c1",
            "update c1 --memory-swap -1 --cpu-quota -1",
            "checkpoint --image-path I --work-path W --leave-running --tcp-established --file-locks c1",
            "restore --bundle B --pid-file P --detach --image-path I --work-path W c1",
            "features",
            "spec --rootless",
            "state c1",
            "create c1 --bundle B",
            "run c1 --bundle B --root R",
            "events --stats c1",
            "events --interval 100ms c1",
            "list -f json -q",
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line));
        }
    }

    #[test]
    fn a_programs_words_are_its_own() {
        for (line, command) in [
            ("exec -t c1 sh -c x", vec!["sh", "-c", "x"]),
            ("exec c1 ls -t --user", vec!["ls", "-t", "--user"]),
            ("exec --tty=false -u 1:2 -e A=1 c1 id", vec!["id"]),
            ("exec c1 --cwd /x id", vec!["id"]),
            ("exec c1 -- -odd", vec!["-odd"]),
        ] {
            let Ok(Verb::Exec(exec)) = parse(line) else { panic!("{line}: {:?}", parse(line)) };
            assert_eq!(exec.command, command, "{line}");
        }
    }

    #[test]
    fn cve_2026_30892_users_are_plain_numbers() {
        for (text, expected) in [
            ("1000", Some((1000, None))),
            ("1000:0", Some((1000, Some(0)))),
            ("1000:", None),
            (":1000", None),
            ("name", None),
            ("+1000", None),
            (" 1", None),
            ("0x1", None),
            ("", None),
            ("-1", None),
            ("4294967295", None),
            ("4294967296", None),
        ] {
            assert_eq!(user(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn times_are_gos() {
        for (text, expected) in [("5s", Some(5_000_000_000)), ("1.5ms", Some(1_500_000)), ("0s", None), ("5", None)] {
            assert_eq!(interval(text).ok(), expected, "{text}");
        }
    }
}
