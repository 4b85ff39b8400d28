//! Who the container's process is and what it may do: ids, capabilities, limits.

use layerfs::error::{Context, Error, Kind, Result};
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, PosixRlimitType, Process, Spec};
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

/// The five sets of a process, as the kernel's bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sets {
    bounding: CapabilitySet,
    effective: CapabilitySet,
    permitted: CapabilitySet,
    inheritable: CapabilitySet,
    ambient: CapabilitySet,
}

impl Sets {
    const NONE: Self = Self {
        bounding: CapabilitySet::empty(),
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
        ambient: CapabilitySet::empty(),
    };

    /// No sets at all in the Spec means no capability at all.
    pub(crate) fn of(spec: Option<&LinuxCapabilities>) -> Self {
        let Some(spec) = spec else { return Self::NONE };
        let set =
            |names: &Option<Capabilities>| names.iter().flatten().fold(CapabilitySet::empty(), |s, c| s | bit(*c));
        Self {
            bounding: set(spec.bounding()),
            effective: set(spec.effective()),
            permitted: set(spec.permitted()),
            inheritable: set(spec.inheritable()),
            ambient: set(spec.ambient()),
        }
    }

    /// What is to be ambient and cannot be, in sentences: the kernel raises only what is permitted and inheritable.
    pub(crate) fn cannot_be_ambient(&self) -> Vec<String> {
        let missing = self.ambient & !(self.permitted & self.inheritable);
        let name = |(name, _): (&str, CapabilitySet)| {
            format!("can't raise ambient capability CAP_{name}: it is not permitted and inheritable")
        };
        missing.iter_names().map(name).collect()
    }

    /// Takes everything else out of the bounding set. Needs `CAP_SETPCAP`, so it comes first.
    pub(crate) fn drop_bounding(&self) -> Result<()> {
        for number in 0..64 {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            if self.bounding.contains(capability) {
                continue;
            }
            match remove_capability_from_bounding_set(capability) {
                Ok(()) => {}
                // Past the last capability this kernel knows.
                Err(Errno::INVAL) => break,
                // Without the right to do so it may be out of the set already.
                Err(Errno::PERM) if capability_is_in_bounding_set(capability) == Ok(false) => {}
                Err(errno) => {
                    return Err(errno).context(|| format!("take capability {number} out of the bounding set"))?;
                }
            }
        }
        Ok(())
    }

    /// Sets what the program starts with. What this process does not have itself cannot be given and is left out, as
    /// `capset(2)` would refuse the whole otherwise.
    pub(crate) fn apply(&self) -> Result<()> {
        let own = capabilities(None).context(|| "read the capabilities")?.permitted;
        let permitted = self.permitted & own;
        let inheritable = self.inheritable & own;
        let sets = CapabilitySets { effective: self.effective & permitted, permitted, inheritable };
        set_capabilities(None, sets).context(|| "set the capabilities")?;
        // Absent before Linux 4.3; there is then nothing to clear either.
        let _ = clear_ambient_capability_set();
        for capability in (self.ambient & permitted & inheritable).iter() {
            configure_capability_in_ambient_set(capability, true).context(|| "set the ambient capabilities")?;
        }
        Ok(())
    }
}

/// The kernel's bit of a capability (`linux/capability.h`).
fn bit(capability: Capability) -> CapabilitySet {
    use Capability as C;
    match capability {
        C::Chown => CapabilitySet::CHOWN,
        C::DacOverride => CapabilitySet::DAC_OVERRIDE,
        C::DacReadSearch => CapabilitySet::DAC_READ_SEARCH,
        C::Fowner => CapabilitySet::FOWNER,
        C::Fsetid => CapabilitySet::FSETID,
        C::Kill => CapabilitySet::KILL,
        C::Setgid => CapabilitySet::SETGID,
        C::Setuid => CapabilitySet::SETUID,
        C::Setpcap => CapabilitySet::SETPCAP,
        C::LinuxImmutable => CapabilitySet::LINUX_IMMUTABLE,
        C::NetBindService => CapabilitySet::NET_BIND_SERVICE,
        C::NetBroadcast => CapabilitySet::NET_BROADCAST,
        C::NetAdmin => CapabilitySet::NET_ADMIN,
        C::NetRaw => CapabilitySet::NET_RAW,
        C::IpcLock => CapabilitySet::IPC_LOCK,
        C::IpcOwner => CapabilitySet::IPC_OWNER,
        C::SysModule => CapabilitySet::SYS_MODULE,
        C::SysRawio => CapabilitySet::SYS_RAWIO,
        C::SysChroot => CapabilitySet::SYS_CHROOT,
        C::SysPtrace => CapabilitySet::SYS_PTRACE,
        C::SysPacct => CapabilitySet::SYS_PACCT,
        C::SysAdmin => CapabilitySet::SYS_ADMIN,
        C::SysBoot => CapabilitySet::SYS_BOOT,
        C::SysNice => CapabilitySet::SYS_NICE,
        C::SysResource => CapabilitySet::SYS_RESOURCE,
        C::SysTime => CapabilitySet::SYS_TIME,
        C::SysTtyConfig => CapabilitySet::SYS_TTY_CONFIG,
        C::Mknod => CapabilitySet::MKNOD,
        C::Lease => CapabilitySet::LEASE,
        C::AuditWrite => CapabilitySet::AUDIT_WRITE,
        C::AuditControl => CapabilitySet::AUDIT_CONTROL,
        C::Setfcap => CapabilitySet::SETFCAP,
        C::MacOverride => CapabilitySet::MAC_OVERRIDE,
        C::MacAdmin => CapabilitySet::MAC_ADMIN,
        C::Syslog => CapabilitySet::SYSLOG,
        C::WakeAlarm => CapabilitySet::WAKE_ALARM,
        C::BlockSuspend => CapabilitySet::BLOCK_SUSPEND,
        C::AuditRead => CapabilitySet::AUDIT_READ,
        C::Perfmon => CapabilitySet::PERFMON,
        C::Bpf => CapabilitySet::BPF,
        C::CheckpointRestore => CapabilitySet::CHECKPOINT_RESTORE,
    }
}

/// Whether the process stays in the caller's groups: what podman asks for by `--group-add keep-groups`, in crun's word.
pub(crate) fn keeps_groups(spec: &Spec) -> bool {
    let annotations = spec.annotations().as_ref();
    annotations.and_then(|all| all.get("run.oci.keep_original_groups")).is_some_and(|value| value != "0")
}

/// Becomes the user of the Spec while keeping the permitted capabilities, so that what follows can still be done.
pub(crate) fn become_user(process: &Process, keeps_groups: bool) -> Result<()> {
    let user = process.user();
    let groups: Vec<Gid> = user.additional_gids().iter().flatten().map(|gid| Gid::from_raw(*gid)).collect();
    match if keeps_groups { Ok(()) } else { set_thread_groups(&groups) } {
        // A user namespace with a single id cannot change groups: they are the caller's and stay so.
        Err(Errno::PERM) if groups.is_empty() => {}
        Err(Errno::PERM | Errno::INVAL) => {
            let names: Vec<_> = groups.iter().map(|gid| gid.as_raw().to_string()).collect();
            let sentence = format!("additional groups {} cannot be joined", names.join(", "));
            return Err(Error::new(Kind::Unsupported, sentence)
                .hint("they have no number in this user namespace; give the user a range in /etc/subgid"));
        }
        set => set.context(|| "set the additional groups")?,
    }
    set_keep_capabilities(true).context(|| "keep the capabilities")?;
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    let unmapped = |what: &'static str, number: u32| {
        move |errno: Errno| match errno {
            Errno::INVAL => {
                Error::new(Kind::Unsupported, format!("{what} {number} does not exist in this user namespace"))
                    .hint(format!("give the user a range of at least {} ids in /etc/sub{what}", u64::from(number) + 1))
            }
            errno => Error::new(Kind::System, format!("become {what} {number}")).because(std::io::Error::from(errno)),
        }
    };
    set_thread_res_gid(gid, gid, gid).map_err(unmapped("gid", user.gid()))?;
    set_thread_res_uid(uid, uid, uid).map_err(unmapped("uid", user.uid()))?;
    set_keep_capabilities(false).context(|| "stop keeping the capabilities")?;
    // Leaving uid 0 emptied the effective set; it is filled again until the final sets are applied.
    let own = capabilities(None).context(|| "read the capabilities")?;
    let again = CapabilitySets { effective: own.permitted, ..own };
    set_capabilities(None, again).context(|| "use the capabilities")
}

/// Sets the resource limits of the Spec.
pub(crate) fn set_limits(process: &Process) -> Result<()> {
    for limit in process.rlimits().iter().flatten() {
        let resource = resource_of(limit.typ());
        let number = |value: u64| (value != u64::MAX).then_some(value);
        let wanted = Rlimit { current: number(limit.soft()), maximum: number(limit.hard()) };
        match setrlimit(resource, wanted) {
            Ok(()) => {}
            Err(Errno::PERM) => {
                let shown = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |number| number.to_string());
                let (hard, here) = (shown(wanted.maximum), shown(getrlimit(resource).maximum));
                let sentence = format!("limit {} cannot be raised to {hard}", limit.typ());
                return Err(Error::new(Kind::Unsupported, sentence)
                    .hint(format!("the hard limit here is {here}, and only root can raise it")));
            }
            Err(errno) => return Err(errno).context(|| format!("set limit {}", limit.typ())),
        }
    }
    Ok(())
}

fn resource_of(kind: PosixRlimitType) -> Resource {
    use PosixRlimitType as P;
    match kind {
        P::RlimitCpu => Resource::Cpu,
        P::RlimitFsize => Resource::Fsize,
        P::RlimitData => Resource::Data,
        P::RlimitStack => Resource::Stack,
        P::RlimitCore => Resource::Core,
        P::RlimitRss => Resource::Rss,
        P::RlimitNproc => Resource::Nproc,
        P::RlimitNofile => Resource::Nofile,
        P::RlimitMemlock => Resource::Memlock,
        P::RlimitAs => Resource::As,
        P::RlimitLocks => Resource::Locks,
        P::RlimitSigpending => Resource::Sigpending,
        P::RlimitMsgqueue => Resource::Msgqueue,
        P::RlimitNice => Resource::Nice,
        P::RlimitRtprio => Resource::Rtprio,
        P::RlimitRttime => Resource::Rttime,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_the_kernels() {
        // linux/capability.h
        let expected = [(Capability::Chown, 0), (Capability::SysAdmin, 21), (Capability::CheckpointRestore, 40)];
        for (capability, number) in expected {
            assert_eq!(bit(capability).bits(), 1 << number, "{capability}");
        }
    }

    #[test]
    fn no_capabilities_in_the_spec_are_none() {
        assert_eq!(Sets::of(None), Sets::NONE);
    }
}
