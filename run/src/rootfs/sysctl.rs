//! `linux.sysctl`: settings of the kernel that belong to a namespace, and to one of the container's.

use std::os::fd::BorrowedFd;

use layerfs::error::{Context, Error, Kind, Result};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::{has_namespace, write_proc_of};

/// Settings of System V's objects, one set for each ipc namespace (`ipc_namespaces(7)`).
const IPC: [&str; 9] =
    ["auto_msgmni", "msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];

/// Refuses what would change the host: a setting of no namespace, or of one that the container shares with it.
pub(super) fn check(spec: &Spec) -> Result<()> {
    let Some(sysctls) = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref()) else { return Ok(()) };
    for (name, value) in sysctls {
        let path = path(name);
        if path.split('/').any(|part| part.is_empty() || part == "..") {
            return Err(Error::new(Kind::Invalid, format!("sysctl `{}` is not a name", name.escape_debug())));
        }
        let has_field = match path.as_str() {
            "kernel/hostname" => Some("hostname"),
            "kernel/domainname" if spec.domainname().as_ref().is_some_and(|own| own != value) => Some("domainname"),
            _ => None,
        };
        if let Some(field) = has_field {
            let sentence = format!("sysctl `{name}` is not allowed as it conflicts with the field `{field}`");
            return Err(Error::new(Kind::Invalid, sentence).hint("say it by the field"));
        }
        let Some((kind, word)) = namespace_of(&path) else {
            return Err(Error::new(Kind::Unsupported, format!("sysctl `{name}` belongs to the whole machine"))
                .hint("only those of a namespace can be set: net.*, fs.mqueue.*, System V's in kernel.*, user.*"));
        };
        if !has_namespace(spec, kind) {
            return Err(Error::new(
                Kind::Invalid,
                format!("sysctl `{name}` belongs to the {word} namespace, and linux.namespaces lists none"),
            ));
        }
    }
    Ok(())
}

/// The namespace that a setting belongs to, and the Spec's word for it.
fn namespace_of(path: &str) -> Option<(LinuxNamespaceType, &'static str)> {
    use LinuxNamespaceType as N;
    let (first, rest) = path.split_once('/')?;
    Some(match first {
        "net" => (N::Network, "network"),
        "fs" if rest.starts_with("mqueue/") => (N::Ipc, "ipc"),
        "kernel" if IPC.contains(&rest) => (N::Ipc, "ipc"),
        "kernel" if matches!(rest, "hostname" | "domainname") => (N::Uts, "uts"),
        "user" => (N::User, "user"),
        _ => return None,
    })
}

/// Writes all of them.
pub(super) fn write(spec: &Spec, proc: BorrowedFd<'_>) -> Result<()> {
    let Some(sysctls) = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref()) else { return Ok(()) };
    for (name, value) in sysctls {
        write_proc_of(proc, &format!("sys/{}", path(name)), value).context(|| format!("set sysctl `{name}`"))?;
    }
    Ok(())
}

/// `net.ipv4.ip_forward` and `net/ipv4/conf/eth0.1/forwarding` both, as `sysctl(8)`: the first separator decides.
fn path(name: &str) -> String {
    let swapped = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => name.to_owned(),
        _ => name.chars().map(swapped).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_both_spellings() {
        assert_eq!(path("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(path("net/ipv4/conf/eth0.1/forwarding"), "net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(path("net.ipv4.conf.eth0/1.forwarding"), "net/ipv4/conf/eth0.1/forwarding");
    }

    fn check_one(name: &str, namespaces: &str, words: &str) {
        let text = format!(r#"{{"linux":{{"namespaces":[{namespaces}],"sysctl":{{"{name}":"1"}}}}}}"#);
        let spec: Spec = serde_json::from_str(&text).expect("valid");
        assert_eq!(check(&spec).map_or_else(|error| error.to_string(), |()| "fine".to_owned()), words);
    }

    #[test]
    fn only_the_containers_own_can_be_set() {
        check_one("net.ipv4.ip_forward", r#"{"type":"network"}"#, "fine");
        check_one(
            "net.ipv4.ip_forward",
            "",
            "sysctl `net.ipv4.ip_forward` belongs to the network namespace, and linux.namespaces lists none",
        );
        check_one("kernel.shmmax", r#"{"type":"ipc"}"#, "fine");
        check_one(
            "kernel.core_pattern",
            r#"{"type":"ipc"}"#,
            "sysctl `kernel.core_pattern` belongs to the whole machine",
        );
        check_one("net/../kernel/core_pattern", "", "sysctl `net/../kernel/core_pattern` is not a name");
    }
}
