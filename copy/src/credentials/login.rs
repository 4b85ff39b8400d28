//! Keeping and forgetting credentials.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Result};

use super::file::{AuthFile, with_entry, without_entries};
use super::{Credential, helper};

/// Where a credential went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saved {
    /// Into this file.
    File(PathBuf),
    /// To this helper program.
    Helper(String),
}

/// Keeps `credential` for `host`: with the helper that `file` names for it, else in `file` itself, which is replaced
/// as a whole and readable by its owner only.
///
/// # Errors
/// The file is malformed or cannot be written, or the helper fails.
pub fn save(file: &Path, host: &str, credential: &Credential) -> Result<Saved> {
    let existing = read(file)?;
    if let (Some((name, server)), Credential::Basic { username, password }) =
        (helper_of(file, existing.as_deref(), host)?, credential)
    {
        helper::store(&name, &server, username, password)?;
        return Ok(Saved::Helper(format!("docker-credential-{name}")));
    }
    let (bytes, _) = with_entry(existing.as_deref(), host, Some(credential)).at("read credentials of", file)?;
    replace(file, &bytes)?;
    Ok(Saved::File(file.to_owned()))
}

/// Forgets the credential of `host` in `file` and the helper it names; `false` where there was none.
///
/// # Errors
/// As for [`save`].
pub fn forget(file: &Path, host: &str) -> Result<bool> {
    let Some(existing) = read(file)? else { return Ok(false) };
    let erased = match helper_of(file, Some(&existing), host)? {
        Some((name, server)) => helper::erase(&name, &server)?,
        None => false,
    };
    let (bytes, present) = with_entry(Some(&existing), host, None).at("read credentials of", file)?;
    if present {
        replace(file, &bytes)?;
    }
    Ok(present || erased)
}

/// Forgets all credentials that lie in `file` itself, and says how many there were.
///
/// # Errors
/// As for [`save`].
pub fn forget_all(file: &Path) -> Result<usize> {
    let Some(existing) = read(file)? else { return Ok(0) };
    let (bytes, count) = without_entries(&existing).at("read credentials of", file)?;
    if count > 0 {
        replace(file, &bytes)?;
    }
    Ok(count)
}

fn helper_of(file: &Path, existing: Option<&[u8]>, host: &str) -> Result<Option<(String, String)>> {
    let Some(bytes) = existing.filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
    Ok(AuthFile::parse(bytes).at("read credentials of", file)?.helper_of(host))
}

fn read(file: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at("read credentials of", file),
    }
}

/// Writes beside the file and renames: a reader sees the old or the new file, and nobody else ever reads either.
fn replace(file: &Path, bytes: &[u8]) -> Result<()> {
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(dir).at("create", dir)?;
    let temporary = dir.join(format!(".auth.{}.tmp", std::process::id()));
    let written = (|| {
        let _ = fs::remove_file(&temporary);
        let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        out.write_all(bytes)?;
        out.sync_all()?;
        fs::rename(&temporary, file)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.at("write credentials to", file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::{Keyring, Places};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_login_is_private_and_can_be_undone() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("sub/auth.json");
        let credential = Credential::parse("me:pass:word").expect("valid");
        assert_eq!(save(&file, "r.io:5000", &credential).expect("saved"), Saved::File(file.clone()));
        assert_eq!(fs::metadata(&file).expect("stat").permissions().mode() & 0o777, 0o600);
        let keyring = Keyring::load(&Places::default(), Some(&file)).expect("valid");
        assert_eq!(keyring.lookup("r.io:5000", "a").expect("valid").expect("found").credential, credential);
        assert!(forget(&file, "r.io:5000").expect("forgotten"));
        assert!(!forget(&file, "r.io:5000").expect("nothing left"));
    }
}
