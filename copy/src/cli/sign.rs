//! `sign`, and keys to sign with.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::progress::Silent;
use layerfs::reference::Reference;

use super::accounts::ask_unseen;
use super::arguments::Access;
use super::progress::note;
use super::{Global, print};
use crate::signing::{self, SecretKey};
use crate::transfer::{Options, Reach};

/// The arguments of `copy sign`.
#[derive(Debug, clap::Args)]
pub(super) struct SignArguments {
    /// The image; its digest is what is signed
    image: Reference,
    /// The key, as cosign or `copy generate-sigstore-key` makes it
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The file with the key's password [default: $COSIGN_PASSWORD, or a question]
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// The name to sign it under [default: the repository's]
    #[arg(long, value_name = "NAME")]
    sign_identity: Option<String>,
    #[command(flatten)]
    access: Access,
}

impl SignArguments {
    /// Signs, and prints what was signed.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        let options = self.access.options(global)?;
        let name = self.image.clone().or_latest();
        let identity = self.sign_identity.clone().unwrap_or_else(|| name.repository());
        let digest = sign(&options, &name, &identity, &self.key, self.passphrase_file.as_deref())?;
        print(&format!("{}\n", name.with_digest(digest)))
    }
}

/// Signs what a name leads to.
pub(super) fn sign(
    options: &Options,
    name: &Reference,
    identity: &str,
    key: &Path,
    passphrase: Option<&Path>,
) -> Result<layerfs::digest::Digest> {
    let bytes = std::fs::read(key).at("read key", key)?;
    let key = SecretKey::parse(&bytes, || password(passphrase)).at("read key", key)?;
    let reach = Reach::new(options, &Silent)?;
    let repository = reach.repository(name)?;
    // The manifest itself: a signature is worth nothing for what somebody else says the digest is.
    let digest = repository.manifest(&name.locator())?.0.digest;
    signing::sign(&repository, digest, identity, &key)?;
    Ok(digest)
}

fn password(file: Option<&Path>) -> Result<String> {
    if let Some(file) = file {
        let text = std::fs::read_to_string(file).at("read", file)?;
        return Ok(text.lines().next().unwrap_or_default().to_owned());
    }
    match std::env::var("COSIGN_PASSWORD") {
        Ok(password) => Ok(password),
        Err(_) if std::io::IsTerminal::is_terminal(&std::io::stdin()) => ask_unseen("Password of the key: "),
        Err(_) => Err(Error::new(Kind::Usage, "there is no password for the key")
            .hint("COSIGN_PASSWORD or --passphrase-file give it")),
    }
}

/// The arguments of `copy generate-sigstore-key`.
#[derive(Debug, clap::Args)]
pub(super) struct GenerateArguments {
    /// What the two files' names begin with: PREFIX.private and PREFIX.pub
    #[arg(long, value_name = "PREFIX")]
    output_prefix: PathBuf,
    /// The file with the password
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl GenerateArguments {
    /// Makes a pair of keys.
    pub(super) fn run(&self) -> Result<()> {
        let key = SecretKey::generate()?;
        let with = |end: &str| {
            let mut path = self.output_prefix.clone().into_os_string();
            path.push(end);
            PathBuf::from(path)
        };
        let (private, public) = (with(".private"), with(".pub"));
        let secret = key.to_pem(&password(self.passphrase_file.as_deref())?)?;
        for (path, text, mode) in [(&private, &secret, 0o600), (&public, &key.public_pem(), 0o644)] {
            // A key that is there is never replaced.
            let mut file =
                std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path).at("create", path)?;
            file.write_all(text.as_bytes()).at("write", path)?;
        }
        note(&format!("the key is in `{}`, what others need in `{}`", private.display(), public.display()));
        Ok(())
    }
}
