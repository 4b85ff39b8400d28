//! Arguments that several verbs share.

use std::path::PathBuf;
use std::time::Duration;

use layerfs::error::{Error, Kind, Result};
use layerfs::oci::Platform;
use layerfs::progress::Silent;

use super::Global;
use crate::convert::Format;
use crate::credentials::Credential;
use crate::inventory::Platforms;
use crate::location::Location;
use crate::transfer::{Options, Reach, Side};
use crate::transport::Source;

/// Flags of skopeo 1.22 that this program lacks: refused by name rather than as unknown.
pub(super) const OF_SKOPEO: [&str; 6] = [
    "--decryption-key",
    "--encrypt-layer",
    "--encryption-key",
    "--sign-by",
    "--sign-by-sigstore",
    "--sign-by-sq-fingerprint",
];

/// Access to registries, for verbs that know one side only.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Access {
    /// Credential for the registry, in place of a stored one
    #[arg(long, value_name = "USER[:PASSWORD]")]
    pub(super) creds: Option<String>,
    /// User for the registry
    #[arg(long, value_name = "USER", requires = "password", conflicts_with = "creds", hide = true)]
    username: Option<String>,
    /// Password for the registry
    #[arg(long, value_name = "PASSWORD", requires = "username", hide = true)]
    password: Option<String>,
    /// Bearer token for the registry
    #[arg(long, value_name = "TOKEN", hide = true)]
    registry_token: Option<String>,
    /// Use no credential
    #[arg(long)]
    pub(super) no_creds: bool,
    /// Check certificates and insist on HTTPS; without it only hosts on loopback may speak plain HTTP
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) tls_verify: Option<bool>,
    /// Folder with the registry's certificates (*.crt, *.cert, *.key)
    #[arg(long, value_name = "DIR")]
    pub(super) cert_dir: Option<PathBuf>,
    /// File with credentials [default: those of containers' tools and docker]
    #[arg(long, value_name = "FILE")]
    pub(super) authfile: Option<PathBuf>,
    /// Folder with the blobs of an OCI layout
    #[arg(long, value_name = "DIR", hide = true)]
    shared_blob_dir: Option<PathBuf>,
    /// Address of docker's daemon
    #[arg(long, value_name = "HOST", hide = true)]
    daemon_host: Option<String>,
    /// How often a request is tried again
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(super) retry_times: u32,
    /// Most bytes a second for all blobs together, such as 500K or 10M
    #[arg(long, value_name = "RATE", value_parser = bytes)]
    bwlimit: Option<u64>,
    /// Pause between tries [default: it doubles; what the registry asks for always counts]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    retry_delay: Option<Duration>,
}

impl Access {
    /// The options for both sides.
    pub(super) fn options(&self, global: &Global) -> Result<Options> {
        let pair = self.username.as_ref().zip(self.password.as_ref()).map(|(user, word)| format!("{user}:{word}"));
        let side = Side {
            tls_verify: self.tls_verify,
            credential: credential(self.creds.as_deref().or(pair.as_deref()), self.registry_token.as_deref())?,
            anonymous: self.no_creds,
            cert_dir: self.cert_dir.clone(),
            authfile: self.authfile.clone(),
            shared_blob_dir: self.shared_blob_dir.clone(),
            daemon_host: self.daemon_host.clone(),
        };
        Ok(Options {
            source: side.clone(),
            destination: side,
            authfile: self.authfile.clone(),
            retries: self.retry_times,
            retry_delay: self.retry_delay,
            bandwidth: self.bwlimit,
            policy: global.policy(),
            policy_file: global.policy.clone(),
            user_agent_prefix: global.user_agent_prefix.clone(),
            ..Options::default()
        })
    }
}

impl Access {
    /// Hands the image at `text` to `each`: what can be reached, where the image is, and what reads it.
    pub(super) fn with_source<T>(
        &self,
        global: &Global,
        text: &str,
        each: impl FnOnce(&Reach<'_>, &Location, &dyn Source) -> Result<T>,
    ) -> Result<T> {
        let mut options = self.options(global)?;
        let store = match text.parse()? {
            Location::Store(_) => Some(global.open_store_for(&mut options)?.0),
            _ => None,
        };
        let reach = Reach::new(&options, &Silent)?;
        let location = reach.locate(text)?;
        let source = reach.source(&location, store.as_ref())?;
        each(&reach, &location, &*source)
    }
}

/// Which of an image's platforms.
#[derive(Debug, Default, clap::Args)]
pub(super) struct PlatformChoice {
    /// Copy this platform only; several times for several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(super) platform: Vec<Platform>,
}

impl PlatformChoice {
    /// The platforms, `Auto` where none was named.
    pub(super) fn platforms(&self, global: &Global) -> Platforms {
        match (self.platform.as_slice(), global.platform_override()) {
            ([], Some(platform)) => Platforms::One(platform),
            ([], None) => Platforms::Auto,
            ([one], _) => Platforms::One(one.clone()),
            (several, _) => Platforms::Some(several.to_vec()),
        }
    }

    /// The one platform of a verb that shows one.
    pub(super) fn one(&self, global: &Global) -> Result<Platform> {
        match self.platforms(global) {
            Platforms::One(platform) => Ok(platform),
            Platforms::Some(_) => Err(Error::new(Kind::Usage, "--platform can be given once here")),
            _ => Ok(Platform::host()),
        }
    }
}

/// The family of media types that `--format` names.
pub(super) fn format(text: &str) -> Result<Format> {
    match text {
        "oci" => Ok(Format::Oci),
        "v2s2" => Ok(Format::Docker),
        other => Err(Error::new(Kind::Usage, format!("`--format {other}` is not known")).hint("oci or v2s2")),
    }
}

/// A credential out of `--creds` or `--registry-token`.
pub(super) fn credential(creds: Option<&str>, token: Option<&str>) -> Result<Option<Credential>> {
    match (creds, token) {
        (Some(_), Some(_)) => Err(Error::new(Kind::Usage, "credentials and a registry token exclude each other")),
        (Some(creds), None) => Credential::parse(creds).map(Some),
        (None, Some(token)) => Ok(Some(Credential::RegistryToken(token.to_owned()))),
        (None, None) => Ok(None),
    }
}

/// A number of bytes, with K, M or G for powers of 1000.
fn bytes(text: &str) -> std::result::Result<u64, String> {
    let malformed = || format!("`{text}` is no number of bytes: write 500K or 10M");
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "" => 1,
        "K" | "k" => 1000,
        "M" | "m" => 1_000_000,
        "G" | "g" => 1_000_000_000,
        _ => return Err(malformed()),
    };
    digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).filter(|n| *n > 0).ok_or_else(malformed)
}

/// A time as Go's tools write it (`1h30m`, `500ms`, `2.5s`), and in days and weeks (`90d`, `2w`).
pub(super) fn duration(text: &str) -> std::result::Result<Duration, String> {
    let malformed = || format!("`{text}` is no duration: write 90s, 1h30m or 90d");
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(malformed)?;
        let number: f64 = rest[..digits].parse().map_err(|_| malformed())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            "w" => 604_800.0,
            _ => return Err(malformed()),
        };
        total += Duration::try_from_secs_f64(number * seconds).map_err(|_| malformed())?;
        rest = &rest[unit..];
    }
    if text.is_empty() { Err(malformed()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_units() {
        for (text, number) in [("1", 1), ("500K", 500_000), ("10M", 10_000_000), ("2g", 2_000_000_000)] {
            assert_eq!(bytes(text), Ok(number), "{text}");
        }
        for text in ["", "0", "K", "1T", "-1", "1.5M", "99999999999999999999"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_gos_and_days() {
        for (text, millis) in [
            ("90s", 90_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("2.5s", 2500),
            ("90d", 7_776_000_000),
            ("2w", 1_209_600_000),
        ] {
            assert_eq!(duration(text).map(|time| time.as_millis()), Ok(millis), "{text}");
        }
        for text in ["", "5", "s", "1x", "-1s", "1e400d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
