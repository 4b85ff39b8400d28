//! Capabilities: the default set, `--cap-add` and `--cap-drop`.

use std::str::FromStr;

use layerfs::error::{Error, Kind, Result};
use oci_spec::runtime::{Capabilities, Capability};

/// What a container's root may do by default: podman's set. It is docker's without `AUDIT_WRITE`, `MKNOD` and
/// `NET_RAW`, which few images need; `ping` works without the last one through `net.ipv4.ping_group_range`.
pub const DEFAULT: [Capability; 11] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::NetBindService,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// Every capability the kernel knows (`include/uapi/linux/capability.h`, up to `CAP_CHECKPOINT_RESTORE`).
pub const ALL: [Capability; 41] = [
    Capability::AuditControl,
    Capability::AuditRead,
    Capability::AuditWrite,
    Capability::BlockSuspend,
    Capability::Bpf,
    Capability::CheckpointRestore,
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::Kill,
    Capability::Lease,
    Capability::LinuxImmutable,
    Capability::MacAdmin,
    Capability::MacOverride,
    Capability::Mknod,
    Capability::NetAdmin,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetRaw,
    Capability::Perfmon,
    Capability::Setgid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysChroot,
    Capability::SysModule,
    Capability::SysNice,
    Capability::SysPacct,
    Capability::SysPtrace,
    Capability::SysRawio,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Syslog,
    Capability::WakeAlarm,
];

/// `NET_ADMIN` or `cap_net_admin`.
fn parse(text: &str) -> Result<Capability> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    Capability::from_str(name).map_err(|_| Error::new(Kind::Usage, format!("`{text}` is not a capability")))
}

/// `CAP_NET_ADMIN`, as seccomp profiles and people write it.
pub fn name(capability: Capability) -> String {
    format!("CAP_{capability}")
}

/// The set that remains of `base` after what is added and dropped. `all` on either side stands for every one: adding
/// all and dropping one leaves the rest, dropping all and adding one leaves that one.
///
/// # Errors
/// A name is no capability, or is both added and dropped.
pub fn merge(base: &[Capability], add: &[String], drop: &[String]) -> Result<Capabilities> {
    let is_all = |text: &String| text.eq_ignore_ascii_case("all");
    let parse_list = |list: &[String]| {
        list.iter().filter(|text| !is_all(text)).map(|text| parse(text)).collect::<Result<Capabilities>>()
    };
    let (added, dropped) = (parse_list(add)?, parse_list(drop)?);
    if let Some(both) = added.intersection(&dropped).next() {
        let message = format!("capability `{}` is both added and dropped", name(*both));
        return Err(Error::new(Kind::Usage, message));
    }
    let mut set: Capabilities = match (add.iter().any(is_all), drop.iter().any(is_all)) {
        (true, true) => return Err(Error::new(Kind::Usage, "all capabilities are both added and dropped")),
        (true, false) => ALL.into_iter().collect(),
        (false, true) => Capabilities::new(),
        (false, false) => base.iter().copied().collect(),
    };
    set.extend(added);
    set.retain(|capability| !dropped.contains(capability));
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(add: &[&str], drop: &[&str], expected: Option<&[Capability]>) {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let merged = merge(&[Capability::Chown, Capability::Kill], &words(add), &words(drop));
        assert_eq!(merged.ok(), expected.map(|list| list.iter().copied().collect()), "{add:?} {drop:?}");
    }

    #[test]
    fn sets_are_added_to_and_dropped_from() {
        use Capability::{Chown, Kill, NetAdmin};
        check(&[], &[], Some(&[Chown, Kill]));
        check(&["net_admin"], &["CAP_KILL"], Some(&[Chown, NetAdmin]));
        check(&["NET_ADMIN"], &["ALL"], Some(&[NetAdmin]));
        check(&["kill"], &["kill"], None);
        check(&["all"], &["all"], None);
        check(&["frob"], &[], None);
        let most = merge(&[], &["ALL".to_owned()], &["SYS_ADMIN".to_owned()]).expect("valid");
        assert_eq!((most.len(), most.contains(&Capability::SysAdmin)), (40, false));
    }
}
