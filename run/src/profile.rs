//! Seccomp profiles in the form of docker and podman (`seccomp.json`), reduced to the rules of the runtime
//! specification for one set of capabilities and this machine's architecture.
//!
//! The default profile is data beside this file: that of containers/common (Apache-2.0), shortened to what is read.

use layerfs::error::{Context, Error, Kind, Result};
use oci_spec::runtime::{
    Arch, Capabilities, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSyscall,
};
use serde::Deserialize;

use crate::spec::caps;

/// The profile containers have unless told otherwise.
pub const DEFAULT: &str = include_str!("profile/default.json");

/// Largest profile that is read, in bytes.
pub const SIZE_MAX: u64 = 4 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    arch_map: Vec<ArchitectureMap>,
    architectures: Option<Vec<Arch>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

/// Architectures this machine's programs may have beside its own.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchitectureMap {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    names: Vec<String>,
    /// The older form has one name per rule.
    name: Option<String>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

/// When a rule counts.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    arches: Option<Vec<String>>,
    caps: Option<Vec<String>>,
    min_kernel: Option<String>,
}

impl Condition {
    /// Included unless something named is missing: all capabilities are needed, one of the architectures.
    fn includes(&self, machine: &Machine<'_>) -> bool {
        self.arches
            .as_deref()
            .is_none_or(|arches| arches.is_empty() || arches.iter().any(|a| a == machine.architecture))
            && self.caps.iter().flatten().all(|cap| machine.has(cap))
            && self.min_kernel.as_deref().is_none_or(|minimum| machine.kernel >= version(minimum))
    }

    /// Excluded as soon as one thing named is there.
    fn excludes(&self, machine: &Machine<'_>) -> bool {
        self.arches.iter().flatten().any(|arch| arch == machine.architecture)
            || self.caps.iter().flatten().any(|cap| machine.has(cap))
            || self.min_kernel.as_deref().is_some_and(|minimum| machine.kernel >= version(minimum))
    }
}

/// What the conditions ask about.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// The name Go has for the architecture, such as `amd64`.
    pub architecture: &'a str,
    /// The capabilities the process could ever have.
    pub capabilities: &'a Capabilities,
    /// Major and minor version of the kernel.
    pub kernel: (u32, u32),
}

impl Machine<'_> {
    fn has(&self, name: &str) -> bool {
        self.capabilities.iter().any(|capability| caps::name(*capability) == name)
    }
}

/// Major and minor of `6.18.0-rc1`.
pub fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|word| word.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Reads a profile and keeps what counts on `machine`.
///
/// # Errors
/// It is not such a document.
pub fn reduce(text: &str, machine: &Machine<'_>) -> Result<LinuxSeccomp> {
    let profile: Profile = serde_json::from_str(text).context(|| "seccomp profile is not in docker's form")?;
    let native = native(machine.architecture)?;
    let mut architectures = vec![native];
    if let Some(mapped) = profile.arch_map.iter().find(|map| map.architecture == native) {
        architectures.extend(mapped.sub_architectures.iter().flatten().copied());
    } else if let Some(listed) = profile.architectures {
        architectures = listed;
    }
    let mut syscalls = Vec::with_capacity(profile.syscalls.len());
    for rule in profile.syscalls {
        if !rule.includes.includes(machine) || rule.excludes.excludes(machine) {
            continue;
        }
        let mut names = rule.names;
        names.extend(rule.name);
        let mut syscall = LinuxSyscall::default();
        syscall.set_names(names).set_action(rule.action).set_errno_ret(rule.errno_ret);
        syscall.set_args(rule.args.filter(|args| !args.is_empty()));
        syscalls.push(syscall);
    }
    let mut seccomp = LinuxSeccomp::default();
    seccomp
        .set_default_action(profile.default_action)
        .set_default_errno_ret(profile.default_errno_ret)
        .set_architectures(Some(architectures))
        .set_flags(profile.flags)
        .set_syscalls(Some(syscalls));
    Ok(seccomp)
}

fn native(architecture: &str) -> Result<Arch> {
    Ok(match architecture {
        "amd64" => Arch::ScmpArchX86_64,
        "arm64" => Arch::ScmpArchAarch64,
        "riscv64" => Arch::ScmpArchRiscv64,
        "386" => Arch::ScmpArchX86,
        "arm" => Arch::ScmpArchArm,
        "ppc64le" => Arch::ScmpArchPpc64le,
        "s390x" => Arch::ScmpArchS390x,
        other => {
            return Err(Error::new(Kind::Unsupported, format!("seccomp profiles do not know architecture `{other}`"))
                .hint("--security-opt seccomp=unconfined runs without"));
        }
    })
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::Capability;

    use super::*;

    fn action_of(seccomp: &LinuxSeccomp, name: &str) -> Option<(LinuxSeccompAction, Option<u32>)> {
        let rules = seccomp.syscalls().as_ref().expect("the profile has rules");
        let rule = rules.iter().find(|rule| rule.names().iter().any(|known| known == name) && rule.args().is_none());
        rule.map(|rule| (rule.action(), rule.errno_ret()))
    }

    #[test]
    fn the_default_profile_follows_the_capabilities() {
        use LinuxSeccompAction::{ScmpActAllow, ScmpActErrno};
        let mut capabilities: Capabilities = caps::DEFAULT.into_iter().collect();
        let reduced = |capabilities: &Capabilities| {
            let machine = Machine { architecture: "amd64", capabilities, kernel: (6, 1) };
            reduce(DEFAULT, &machine).expect("the default profile is valid")
        };
        let usual = reduced(&capabilities);
        assert_eq!((usual.default_action(), usual.default_errno_ret()), (ScmpActErrno, Some(38)));
        assert_eq!(action_of(&usual, "bpf"), Some((ScmpActErrno, Some(1))));
        assert_eq!(action_of(&usual, "read"), Some((ScmpActAllow, None)));
        assert_eq!(action_of(&usual, "riscv_flush_icache"), None);
        assert_eq!(usual.architectures().as_ref().map(Vec::len), Some(3));
        capabilities.insert(Capability::SysAdmin);
        assert_eq!(action_of(&reduced(&capabilities), "bpf"), Some((ScmpActAllow, None)));
    }

    #[test]
    fn old_and_broken_profiles() {
        let capabilities = Capabilities::new();
        let machine = Machine { architecture: "amd64", capabilities: &capabilities, kernel: (6, 1) };
        let old = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"syscalls":[{"name":"mkdir","action":"SCMP_ACT_ERRNO","args":[]}]}"#;
        assert_eq!(
            action_of(&reduce(old, &machine).expect("valid"), "mkdir"),
            Some((LinuxSeccompAction::ScmpActErrno, None))
        );
        for wrong in ["", "{}", "[]", r#"{"defaultAction":"FROB"}"#] {
            assert!(reduce(wrong, &machine).is_err(), "{wrong}");
        }
        assert_eq!((version("6.18.0-rc1"), version("5")), ((6, 18), (5, 0)));
    }
}
