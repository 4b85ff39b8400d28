//! Flags that are about one side of a copy only: each is there twice, with `--src-` and `--dest-`.

use std::path::PathBuf;

use layerfs::error::Result;

use super::arguments::credential;
use crate::transfer::{Options, Side};

/// What differs between the sides.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Sides {
    /// Credential for the source
    #[arg(long, value_name = "USER[:PASSWORD]")]
    src_creds: Option<String>,
    /// Credential for the destination
    #[arg(long, value_name = "USER[:PASSWORD]")]
    dest_creds: Option<String>,
    /// User for the source
    #[arg(long, value_name = "USER", requires = "src_password", conflicts_with = "src_creds", hide = true)]
    src_username: Option<String>,
    /// Password for the source
    #[arg(long, value_name = "PASSWORD", requires = "src_username", hide = true)]
    src_password: Option<String>,
    /// User for the destination
    #[arg(long, value_name = "USER", requires = "dest_password", conflicts_with = "dest_creds", hide = true)]
    dest_username: Option<String>,
    /// Password for the destination
    #[arg(long, value_name = "PASSWORD", requires = "dest_username", hide = true)]
    dest_password: Option<String>,
    /// Bearer token for the source
    #[arg(long, value_name = "TOKEN")]
    src_registry_token: Option<String>,
    /// Bearer token for the destination
    #[arg(long, value_name = "TOKEN")]
    dest_registry_token: Option<String>,
    /// Use no credential for the source
    #[arg(long)]
    src_no_creds: bool,
    /// Use no credential for the destination
    #[arg(long)]
    dest_no_creds: bool,
    /// --tls-verify for the source alone
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    src_tls_verify: Option<bool>,
    /// --tls-verify for the destination alone
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    dest_tls_verify: Option<bool>,
    /// Folder with the source registry's certificates
    #[arg(long, value_name = "DIR")]
    src_cert_dir: Option<PathBuf>,
    /// Folder with the destination registry's certificates
    #[arg(long, value_name = "DIR")]
    dest_cert_dir: Option<PathBuf>,
    /// File with credentials for the source
    #[arg(long, value_name = "FILE")]
    src_authfile: Option<PathBuf>,
    /// File with credentials for the destination
    #[arg(long, value_name = "FILE")]
    dest_authfile: Option<PathBuf>,
    /// Folder with the blobs of the source's OCI layout
    #[arg(long, value_name = "DIR", hide = true)]
    src_shared_blob_dir: Option<PathBuf>,
    /// Folder for the blobs of the destination's OCI layout
    #[arg(long, value_name = "DIR", hide = true)]
    dest_shared_blob_dir: Option<PathBuf>,
    /// Address of the source's docker daemon
    #[arg(long, value_name = "HOST", hide = true)]
    src_daemon_host: Option<String>,
    /// Address of the destination's docker daemon
    #[arg(long, value_name = "HOST", hide = true)]
    dest_daemon_host: Option<String>,
}

impl Sides {
    /// `both` with what is said of one side.
    pub(super) fn apply(&self, both: Options) -> Result<Options> {
        let source = Flags {
            creds: &self.src_creds,
            pair: self.src_username.as_ref().zip(self.src_password.as_ref()),
            token: &self.src_registry_token,
            anonymous: self.src_no_creds,
            tls_verify: self.src_tls_verify,
            cert_dir: &self.src_cert_dir,
            authfile: &self.src_authfile,
            shared_blob_dir: &self.src_shared_blob_dir,
            daemon_host: &self.src_daemon_host,
        };
        let destination = Flags {
            creds: &self.dest_creds,
            pair: self.dest_username.as_ref().zip(self.dest_password.as_ref()),
            token: &self.dest_registry_token,
            anonymous: self.dest_no_creds,
            tls_verify: self.dest_tls_verify,
            cert_dir: &self.dest_cert_dir,
            authfile: &self.dest_authfile,
            shared_blob_dir: &self.dest_shared_blob_dir,
            daemon_host: &self.dest_daemon_host,
        };
        Ok(Options { source: source.side(&both.source)?, destination: destination.side(&both.destination)?, ..both })
    }
}

/// The flags of one side.
struct Flags<'a> {
    creds: &'a Option<String>,
    pair: Option<(&'a String, &'a String)>,
    token: &'a Option<String>,
    anonymous: bool,
    tls_verify: Option<bool>,
    cert_dir: &'a Option<PathBuf>,
    authfile: &'a Option<PathBuf>,
    shared_blob_dir: &'a Option<PathBuf>,
    daemon_host: &'a Option<String>,
}

impl Flags<'_> {
    /// What these flags do not say, those for both sides do.
    fn side(&self, both: &Side) -> Result<Side> {
        let pair = self.pair.map(|(user, password)| format!("{user}:{password}"));
        let own = credential(self.creds.as_deref().or(pair.as_deref()), self.token.as_deref())?;
        Ok(Side {
            tls_verify: self.tls_verify.or(both.tls_verify),
            credential: own.or_else(|| both.credential.clone()),
            anonymous: self.anonymous || both.anonymous,
            cert_dir: self.cert_dir.clone().or_else(|| both.cert_dir.clone()),
            authfile: self.authfile.clone().or_else(|| both.authfile.clone()),
            shared_blob_dir: self.shared_blob_dir.clone().or_else(|| both.shared_blob_dir.clone()),
            daemon_host: self.daemon_host.clone().or_else(|| both.daemon_host.clone()),
        })
    }
}
