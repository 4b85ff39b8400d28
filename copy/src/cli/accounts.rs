//! `login` and `logout`.

use std::io::{BufRead, IsTerminal, Read, Write, stderr, stdin};
use std::path::PathBuf;

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::progress::Silent;
use layerfs::reference::Reference;

use super::User;
use super::print;
use crate::credentials::{self, Credential, Keyring, Places, Saved};
use crate::transfer::{Options, Reach, Side};

/// The arguments of `copy login`.
#[derive(Debug, clap::Args)]
pub(super) struct LoginArguments {
    /// The registry
    #[arg(default_value = "docker.io")]
    registry: String,
    /// The user
    #[arg(long, short)]
    username: Option<String>,
    /// The password; other users of this machine can see it, so rather use --password-stdin
    #[arg(long, short)]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long, conflicts_with = "password")]
    password_stdin: bool,
    /// Print the user that is logged in, and change nothing
    #[arg(long)]
    get_login: bool,
    #[command(flatten)]
    file: AuthFile,
    /// Check certificates and insist on HTTPS
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tls_verify: Option<bool>,
    /// Folder with the registry's certificates
    #[arg(long, value_name = "DIR")]
    cert_dir: Option<PathBuf>,
    /// More detail (accepted for skopeo's sake)
    #[arg(long, short, hide = true)]
    verbose: bool,
}

#[derive(Debug, clap::Args)]
struct AuthFile {
    /// File to keep the credential in [default: the one of containers' tools]
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// The same, for docker's config.json
    #[arg(long, value_name = "FILE", conflicts_with = "authfile")]
    compat_auth_file: Option<PathBuf>,
}

impl AuthFile {
    fn named(&self) -> Option<&PathBuf> {
        self.authfile.as_ref().or(self.compat_auth_file.as_ref())
    }

    fn path(&self, places: &Places) -> PathBuf {
        self.named().or(places.registry_auth_file.as_ref()).cloned().unwrap_or_else(|| places.primary())
    }
}

fn places() -> Places {
    Places::from_env(|name| std::env::var_os(name), User::current().real_uid)
}

impl LoginArguments {
    /// Asks for what is missing, tries the credential and keeps it.
    pub(super) fn run(&self) -> Result<()> {
        let host = host(&self.registry)?;
        let places = places();
        if self.get_login {
            let found = Keyring::load(&places, self.file.named().map(PathBuf::as_path))?.lookup(&host, "")?;
            return match found.map(|found| found.credential) {
                Some(Credential::Basic { username, .. }) => print(&format!("{username}\n")),
                Some(_) => print("<token>\n"),
                None => Err(Error::new(Kind::Unauthorized, format!("nobody is logged in to `{host}`"))),
            };
        }
        let credential = Credential::parse(&format!("{}:", self.username()?)).and_then(|user| match user {
            Credential::Basic { username, .. } => Ok(Credential::Basic { username, password: self.password()? }),
            other => Ok(other),
        })?;
        let side = Side {
            tls_verify: self.tls_verify,
            credential: Some(credential.clone()),
            cert_dir: self.cert_dir.clone(),
            ..Side::default()
        };
        let options = Options { source: side, ..Options::default() };
        Reach::new(&options, &Silent)?.check_login(&host).map_err(|error| match error.kind() {
            Kind::Unauthorized => error.hint("check the user name and the password"),
            _ => error,
        })?;
        let saved = credentials::save(&self.file.path(&places), &host, &credential)?;
        let place = match saved {
            Saved::File(path) => format!("`{}`", path.display()),
            Saved::Helper(name) => format!("`{name}`"),
        };
        super::progress::note(&format!("logged in to {host}; the credential is in {place}"));
        Ok(())
    }

    fn username(&self) -> Result<String> {
        match &self.username {
            Some(username) => Ok(username.clone()),
            None if stdin().is_terminal() => ask("Username: "),
            None => Err(Error::new(Kind::Usage, "there is no --username")),
        }
    }

    fn password(&self) -> Result<String> {
        if let Some(password) = &self.password {
            return Ok(password.clone());
        }
        if self.password_stdin {
            let mut password = String::new();
            stdin().read_to_string(&mut password).context(|| "read the password")?;
            return Ok(password.trim_end_matches(['\r', '\n']).to_owned());
        }
        match stdin().is_terminal() {
            true => ask_unseen("Password: "),
            false => {
                Err(Error::new(Kind::Usage, "there is no password").hint("pipe it into `copy login --password-stdin`"))
            }
        }
    }
}

fn ask(prompt: &str) -> Result<String> {
    let _ = stderr().write_all(prompt.as_bytes());
    let mut line = String::new();
    stdin().lock().read_line(&mut line).context(|| "read the answer")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Asks without showing what is typed.
pub(super) fn ask_unseen(prompt: &str) -> Result<String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let terminal = stdin();
    let shown = tcgetattr(&terminal).context(|| "ask the terminal")?;
    let mut unseen = shown.clone();
    unseen.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&terminal, OptionalActions::Flush, &unseen).context(|| "set the terminal")?;
    let answer = ask(prompt);
    let _ = tcsetattr(&terminal, OptionalActions::Flush, &shown);
    let _ = stderr().write_all(b"\n");
    answer
}

/// The arguments of `copy logout`.
#[derive(Debug, clap::Args)]
pub(super) struct LogoutArguments {
    /// The registry
    #[arg(default_value = "docker.io")]
    registry: String,
    /// Forget the credentials for all registries in the file
    #[arg(long, short)]
    all: bool,
    /// Accepted for skopeo's sake
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tls_verify: Option<bool>,
    #[command(flatten)]
    file: AuthFile,
}

impl LogoutArguments {
    /// Forgets the credential.
    pub(super) fn run(&self) -> Result<()> {
        let file = self.file.path(&places());
        if self.all {
            let count = credentials::forget_all(&file)?;
            super::progress::note(&format!("logged out of {count} registries"));
            return Ok(());
        }
        let host = host(&self.registry)?;
        match credentials::forget(&file, &host)? {
            true => {
                super::progress::note(&format!("logged out of {host}"));
                Ok(())
            }
            false => {
                Err(Error::new(Kind::NotFound, format!("nobody is logged in to `{host}` in `{}`", file.display())))
            }
        }
    }
}

/// The host of a registry as the user writes it; an address or a repository will do.
pub(super) fn host(text: &str) -> Result<String> {
    let bare = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
    let first = bare.split('/').next().unwrap_or_default();
    let valid = format!("{first}/x").parse::<Reference>().is_ok_and(|name| name.host() == first);
    match (first, valid) {
        ("index.docker.io" | "registry-1.docker.io", _) => Ok("docker.io".to_owned()),
        (first, true) => Ok(first.to_owned()),
        (first, false) => {
            Err(Error::new(Kind::Usage, format!("`{first}` is not a registry")).hint("the form is HOST[:PORT]"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_written_in_many_ways() {
        for (text, expected) in [
            ("r.io", Some("r.io")),
            ("localhost:5000", Some("localhost:5000")),
            ("https://r.io/v2/", Some("r.io")),
            ("https://index.docker.io/v1/", Some("docker.io")),
            ("localhost", Some("localhost")),
            ("bad host", None),
            ("plain", None),
        ] {
            assert_eq!(host(text).ok().as_deref(), expected, "{text}");
        }
    }
}
