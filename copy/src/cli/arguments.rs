//! Arguments that several verbs share.

use std::path::PathBuf;

use layerfs::error::{Error, Kind, Result};
use layerfs::oci::Platform;

use crate::credentials::Credential;
use crate::inventory::Platforms;
use crate::transfer::{Options, Side};

/// Flags of skopeo 1.22 that this program lacks: refused by name rather than as unknown.
pub(super) const OF_SKOPEO: [&str; 27] = [
    "--command-timeout",
    "--decryption-key",
    "--dest-compress",
    "--dest-daemon-host",
    "--dest-decompress",
    "--dest-oci-accept-uncompressed-layers",
    "--dest-precompute-digests",
    "--dest-shared-blob-dir",
    "--daemon-host",
    "--encrypt-layer",
    "--encryption-key",
    "--keep-going",
    "--policy",
    "--registries.d",
    "--retry-delay",
    "--scoped",
    "--shared-blob-dir",
    "--sign-by",
    "--sign-by-sigstore",
    "--sign-by-sigstore-private-key",
    "--sign-by-sq-fingerprint",
    "--sign-identity",
    "--sign-passphrase-file",
    "--src-daemon-host",
    "--src-shared-blob-dir",
    "--tmpdir",
    "--user-agent-prefix",
];

/// Access to registries, for verbs that know one side only.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Access {
    /// Credential for the registry, in place of a stored one
    #[arg(long, value_name = "USER[:PASSWORD]")]
    pub(super) creds: Option<String>,
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
    /// How often a request is tried again
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(super) retry_times: u32,
}

impl Access {
    /// The options for both sides.
    pub(super) fn options(&self) -> Result<Options> {
        let side = Side {
            tls_verify: self.tls_verify,
            credential: credential(self.creds.as_deref(), None)?,
            anonymous: self.no_creds,
            cert_dir: self.cert_dir.clone(),
        };
        Ok(Options {
            source: side.clone(),
            destination: side,
            authfile: self.authfile.clone(),
            retries: self.retry_times,
            ..Options::default()
        })
    }
}

/// Which of an image's platforms.
#[derive(Debug, Default, clap::Args)]
pub(super) struct PlatformChoice {
    /// Copy this platform only; several times for several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(super) platform: Vec<Platform>,
    /// Skopeo's way to say it
    #[arg(long, hide = true, value_name = "OS")]
    override_os: Option<String>,
    /// Skopeo's way to say it
    #[arg(long, hide = true, value_name = "ARCH")]
    override_arch: Option<String>,
    /// Skopeo's way to say it
    #[arg(long, hide = true, value_name = "VARIANT")]
    override_variant: Option<String>,
}

impl PlatformChoice {
    /// The platforms, `Auto` where none was named.
    pub(super) fn platforms(&self) -> Platforms {
        if self.override_os.is_some() || self.override_arch.is_some() || self.override_variant.is_some() {
            let host = Platform::host();
            let os = self.override_os.as_deref().unwrap_or("linux");
            let architecture = self.override_arch.as_deref().unwrap_or(&host.architecture);
            return Platforms::One(Platform::new(os, architecture, self.override_variant.as_deref()));
        }
        match self.platform.as_slice() {
            [] => Platforms::Auto,
            [one] => Platforms::One(one.clone()),
            several => Platforms::Some(several.to_vec()),
        }
    }

    /// The one platform of a verb that shows one.
    pub(super) fn one(&self) -> Result<Platform> {
        match self.platforms() {
            Platforms::One(platform) => Ok(platform),
            Platforms::Some(_) => Err(Error::new(Kind::Usage, "--platform can be given once here")),
            _ => Ok(Platform::host()),
        }
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
