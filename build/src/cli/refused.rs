//! Flags of docker, buildx and buildah that are not built yet: each is an error with its name.

use std::ffi::OsString;

use layerfs::error::{Error, Kind, Result};

/// Flags without a word of advice, sorted.
const NOT_YET: [&str; 27] = [
    "all-platforms",
    "blkio-weight",
    "cache-ttl",
    "cgroup-parent",
    "cgroupns",
    "compat-volumes",
    "cpp-flag",
    "cpuset-mems",
    "cw",
    "decryption-key",
    "dns-option",
    "from",
    "group-add",
    "hooks-dir",
    "inherit-labels",
    "ipc",
    "logfile",
    "logsplit",
    "no-hostname",
    "no-hosts",
    "pid",
    "policy",
    "runtime",
    "save-stages",
    "sign-by",
    "userns",
    "uts",
];

/// An error for the first word that is such a flag.
pub(super) fn check(words: &[OsString]) -> Result<()> {
    for word in words.iter().skip(1).filter_map(|word| word.to_str()) {
        if word == "--" {
            break;
        }
        let flag = word.strip_prefix("--").map(|rest| rest.split('=').next().unwrap_or(rest));
        let long = flag.filter(|flag| NOT_YET.contains(flag));
        if let Some(flag) = long {
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
        "cgroup-parent" => "the steps' groups lie below this process's own",
        "userns" | "pid" | "ipc" | "uts" | "cgroupns" => "steps have namespaces of their own",
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
        for (text, flag) in [
            ("build --save-stages .", "--save-stages"),
            ("build --cache-ttl=1h .", "--cache-ttl"),
            ("build --policy p .", "--policy"),
        ] {
            let error = check(&words(text)).expect_err(text);
            assert_eq!(error.to_string(), format!("{flag} is not built yet"));
        }
        assert!(check(&words("build -t x . -- --policy")).is_ok());
    }
}
