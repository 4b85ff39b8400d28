//! Flags of docker, buildx and buildah that are not built yet: each is an error with its name.

use std::ffi::OsString;

use layerfs::error::{Error, Kind, Result};

/// Flags without a word of advice, sorted.
const NOT_YET: [&str; 66] = [
    "all-platforms",
    "arch",
    "attest",
    "blkio-weight",
    "build-arg-file",
    "builder",
    "cache-from",
    "cache-to",
    "cache-ttl",
    "call",
    "cap-add",
    "cap-drop",
    "cert-dir",
    "cgroup-parent",
    "cgroupns",
    "check",
    "compat-volumes",
    "cpp-flag",
    "cpu-period",
    "cpu-quota",
    "cpu-shares",
    "cpuset-cpus",
    "cpuset-mems",
    "cw",
    "debug",
    "decryption-key",
    "device",
    "disable-content-trust",
    "dns",
    "dns-option",
    "dns-search",
    "env",
    "format",
    "from",
    "group-add",
    "hooks-dir",
    "http-proxy",
    "identity-label",
    "inherit-labels",
    "ipc",
    "isolation",
    "logfile",
    "logsplit",
    "manifest",
    "memory",
    "memory-swap",
    "no-hostname",
    "no-hosts",
    "omit-history",
    "os",
    "pid",
    "policy",
    "provenance",
    "retry",
    "rewrite-timestamp",
    "runtime",
    "save-stages",
    "sbom",
    "security-opt",
    "sign-by",
    "squash",
    "unsetenv",
    "userns",
    "uts",
    "variant",
    "volume",
];

/// Short forms of them.
const SHORT: [(&str, &str); 4] = [("-m", "memory"), ("-v", "volume"), ("-c", "cpu-shares"), ("-D", "debug")];

/// An error for the first word that is such a flag.
pub(super) fn check(words: &[OsString]) -> Result<()> {
    for word in words.iter().skip(1).filter_map(|word| word.to_str()) {
        if word == "--" {
            break;
        }
        let flag = word.strip_prefix("--").map(|rest| rest.split('=').next().unwrap_or(rest));
        let long = flag.filter(|flag| NOT_YET.contains(flag));
        let short = SHORT.iter().find(|(short, _)| *short == word).map(|(_, long)| *long);
        if let Some(flag) = long.or(short) {
            let error = Error::new(Kind::Usage, format!("--{flag} is not built yet"));
            return Err(match hint(flag) {
                Some(hint) => error.hint(hint),
                None => error,
            });
        }
    }
    Ok(())
}

fn hint(flag: &str) -> Option<&'static str> {
    Some(match flag {
        "cache-from" | "cache-to" => "the cache of this machine is used without a flag",
        "cap-add" | "security-opt" => "RUN --security=insecure with --allow security.insecure gives every capability",
        "volume" => "RUN --mount=type=bind shows files of the context or of another stage",
        "rewrite-timestamp" => "SOURCE_DATE_EPOCH limits the times of everything that is built",
        "provenance" | "sbom" | "attest" => "nothing of the kind is made unless asked for",
        "env" => "ENV in the Dockerfile sets it",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_names_what_it_refuses() {
        assert!(NOT_YET.is_sorted());
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        for (text, flag) in
            [("build --squash .", "--squash"), ("build --cache-to=x .", "--cache-to"), ("build -m 1g .", "--memory")]
        {
            let error = check(&words(text)).expect_err(text);
            assert_eq!(error.to_string(), format!("{flag} is not built yet"));
        }
        assert!(check(&words("build -t x . -- --squash")).is_ok());
    }
}
