//! User namespaces: who is who inside, and how an ordinary user becomes root of a namespace of their own.
//!
//! A program enters once, at the top of `main`, before it has a second thread (the kernel refuses a threaded caller).
//! Container 0 is the user; 1 and up are the user's subordinate ids. Where there are none, a namespace with the one
//! id has to do, and the program says so.
//!
//! Sources: `user_namespaces(7)`, `subuid(5)`, `newuidmap(1)`.

mod mapping;

use std::ffi::{CStr, CString};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{WaitOptions, getegid, geteuid, getpid, waitpid};

use crate::error::{Context, Error, Kind, Result};
use crate::sys::spawn::{fork_waiting, unshare_user_and_mounts};

pub use mapping::{IdRange, Mapping};

/// What [`enter`] found and did.
#[derive(Clone, Debug)]
pub struct Entered {
    /// The process is root of a user namespace only, not of the machine.
    pub rootless: bool,
    /// Only one id could be mapped: a line that says why and names the fix.
    pub single_id: Option<String>,
    /// The user id before entering.
    pub real_uid: u32,
    /// The group id before entering.
    pub real_gid: u32,
}

/// Makes an ordinary user root of a user and mount namespace of their own; does nothing for root, be it the machine's
/// or that of a namespace entered before. Must be called before the process has a second thread.
///
/// # Errors
/// The kernel or its configuration refuses user namespaces; the hint names the setting.
pub fn enter() -> Result<Entered> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let outside = Entered { rootless: false, single_id: None, real_uid: uid, real_gid: gid };
    if uid == 0 {
        return Ok(Entered { rootless: !Mapping::current()?.is_host(), ..outside });
    }
    let plan = SubordinateIds::of_user(uid);
    let single_id = match plan.and_then(|ids| unshare_with_ranges(uid, gid, &ids)) {
        Ok(()) => None,
        Err(Refusal::Namespace(error)) => return Err(error),
        Err(Refusal::Ranges { why, entered }) => {
            if !entered {
                unshare()?;
            }
            map_single(uid, gid)?;
            Some(why)
        }
    };
    Ok(Entered { rootless: true, single_id, ..outside })
}

enum Refusal {
    /// There is no namespace to be had.
    Namespace(Error),
    /// There is one, but no more than one id.
    Ranges { why: String, entered: bool },
}

struct SubordinateIds {
    uids: Vec<IdRange>,
    gids: Vec<IdRange>,
}

impl SubordinateIds {
    fn of_user(uid: u32) -> Result<Self, Refusal> {
        let name = user_name(uid);
        let missing = |file: &str| Refusal::Ranges {
            why: format!(
                "only your own user id is available, because {file} has no range for you; to add one: \
                 sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {}",
                name.as_deref().unwrap_or(&uid.to_string())
            ),
            entered: false,
        };
        let read = |path: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let ranges = parse_subordinate(&text, name.as_deref(), uid);
            if ranges.is_empty() { Err(missing(path)) } else { Ok(ranges) }
        };
        Ok(Self { uids: read("/etc/subuid")?, gids: read("/etc/subgid")? })
    }
}

/// The ranges of one user (`NAME-or-UID:START:COUNT`), laid out from container id 1 upwards.
fn parse_subordinate(text: &str, name: Option<&str>, uid: u32) -> Vec<IdRange> {
    let own = uid.to_string();
    let mut next = 1u32;
    let mut ranges = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.trim().split(':').collect();
        let [owner, start, count] = fields[..] else { continue };
        let (Ok(host), Ok(size)) = (start.parse::<u32>(), count.parse::<u32>()) else { continue };
        if size == 0 || !(Some(owner) == name || owner == own) {
            continue;
        }
        ranges.push(IdRange { container: next, host, size });
        next = next.saturating_add(size);
    }
    ranges
}

/// The ranges of a user name or id in `/etc/subuid` and of a group name or id in `/etc/subgid`, as ids of the host in
/// the order of the files; empty where there are none.
pub fn ranges_of(user: &str, group: &str) -> Mapping {
    let read = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        parse_subordinate(&text, Some(name), name.parse().unwrap_or(u32::MAX))
    };
    Mapping { uids: read("/etc/subuid", user), gids: read("/etc/subgid", group) }
}

fn user_name(uid: u32) -> Option<String> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, id) = (fields.next()?, fields.next()?, fields.next()?);
        (id.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

fn unshare_with_ranges(uid: u32, gid: u32, ids: &SubordinateIds) -> Result<(), Refusal> {
    let helpers = [(c"newuidmap", uid, &ids.uids), (c"newgidmap", gid, &ids.gids)];
    let mut programs = Vec::new();
    for (name, id, ranges) in helpers {
        let Some(path) = find_helper(name) else {
            let why = format!(
                "only your own user id is available, because {} is not installed (Debian and Ubuntu: sudo apt-get \
                 install uidmap)",
                name.to_string_lossy()
            );
            return Err(Refusal::Ranges { why, entered: false });
        };
        programs.push((path, helper_arguments(name, id, ranges)));
    }
    // The helpers must act from outside, so they are forked first and wait for the pipe to close.
    let (ready, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .context(|| "make a pipe")
        .map_err(Refusal::Namespace)?;
    let mut children = Vec::new();
    for (path, arguments) in &programs {
        let child = fork_waiting(&ready, &writer, path, arguments).context(|| "fork a helper");
        children.push(child.map_err(Refusal::Namespace)?);
    }
    let unshared = unshare();
    let go = |writer: OwnedFd| drop(writer);
    if let Err(error) = unshared {
        // They fail harmlessly: the target has no namespace of its own.
        for child in &children {
            let _ = rustix::process::kill_process(*child, rustix::process::Signal::KILL);
        }
        go(writer);
        for child in children {
            let _ = waitpid(Some(child), WaitOptions::empty());
        }
        return Err(Refusal::Namespace(error));
    }
    go(writer);
    let mut failed = None;
    for (child, (name, ..)) in children.into_iter().zip(helpers) {
        let status = loop {
            match waitpid(Some(child), WaitOptions::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other,
            }
        };
        let code = status.ok().flatten().and_then(|(_, status)| status.exit_status());
        if code != Some(0) {
            failed = Some(name);
        }
    }
    match failed {
        None => Ok(()),
        Some(name) => Err(Refusal::Ranges {
            why: format!(
                "only your own user id is available, because {} refused the ranges of /etc/subuid and /etc/subgid; \
                 check that it is setuid root or has its file capability",
                name.to_string_lossy()
            ),
            entered: true,
        }),
    }
}

fn helper_arguments(name: &CStr, own: u32, ranges: &[IdRange]) -> Vec<CString> {
    let mut words = vec![name.to_string_lossy().into_owned(), getpid().as_raw_nonzero().to_string()];
    let all = [IdRange { container: 0, host: own, size: 1 }];
    for range in all.iter().chain(ranges) {
        words.extend([range.container, range.host, range.size].map(|number| number.to_string()));
    }
    words.into_iter().map(|word| CString::new(word).expect("numbers and names hold no NUL")).collect()
}

/// Has newuidmap or newgidmap give a map to the new user namespace of a process.
fn map_by_helper(name: &CStr, pid: i32, map: &[IdRange]) -> Result<()> {
    let shown = name.to_string_lossy();
    let Some(path) = find_helper(name) else {
        return Err(Error::new(Kind::Denied, format!("more than one id takes {shown}, which is not installed"))
            .hint("Debian and Ubuntu: sudo apt-get install uidmap"));
    };
    let numbers = map.iter().flat_map(|range| [range.container, range.host, range.size]);
    let output = Command::new(path.to_string_lossy().as_ref())
        .arg(pid.to_string())
        .args(numbers.map(|number| number.to_string()))
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .context(|| format!("start {shown}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().next().unwrap_or("it does not say why").trim();
            Err(Error::new(Kind::Denied, format!("{shown} refuses the ids ({})", said.escape_debug()))
                .hint("/etc/subuid and /etc/subgid list those that are yours"))
        }
    }
}

/// The helpers are found where distributions put them; `PATH` is the caller's and could name anything.
fn find_helper(name: &CStr) -> Option<CString> {
    let name = name.to_str().expect("helper names are ASCII");
    let places = ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/run/wrappers/bin", "/run/current-system/sw/bin"];
    let found = places.iter().map(|place| format!("{place}/{name}")).find(|path| Path::new(path).exists())?;
    Some(CString::new(found).expect("the places hold no NUL"))
}

fn unshare() -> Result<()> {
    unshare_user_and_mounts().context(|| "make a user namespace").map_err(|error| {
        let read = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let hint = if read("/proc/sys/kernel/unprivileged_userns_clone") == "0" {
            "sudo sysctl -w kernel.unprivileged_userns_clone=1"
        } else if read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" {
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile that allows userns"
        } else if read("/proc/sys/user/max_user_namespaces") == "0" {
            "sudo sysctl -w user.max_user_namespaces=15000"
        } else {
            "the kernel, or the container this runs in, does not allow user namespaces"
        };
        error.hint(hint)
    })
}

/// Maps the one id that needs no helper. `setgroups` must be given up first (`user_namespaces(7)`).
fn map_single(uid: u32, gid: u32) -> Result<()> {
    for (file, text) in [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ] {
        // A helper may have succeeded before the other failed; a map is written once only.
        let written = fs::read_to_string(file).is_ok_and(|map| file.ends_with("_map") && !map.trim().is_empty());
        if !written {
            fs::write(file, text).at("write", file)?;
        }
    }
    Ok(())
}

/// `Kind::Denied` with the range and its fix, for an id of an image that has no counterpart outside.
pub fn unmapped_id(what: &str, id: u64) -> Error {
    Error::new(Kind::Denied, format!("{what} {id} does not exist in this user namespace")).hint(
        "give your user more subordinate ids: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        let text = "other:5:5\nme:100000:65536\n# comment\n1000:200000:10\nme:x:y\n";
        let ranges = parse_subordinate(text, Some("me"), 1000);
        assert_eq!(ranges.iter().map(|r| (r.container, r.host)).collect::<Vec<_>>(), [(1, 100_000), (65537, 200_000)]);
    }
}
