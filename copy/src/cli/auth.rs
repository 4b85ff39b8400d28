//! `copy auth why`: which credential, mirrors and certificates a name gets, and why.

use layerfs::error::{Error, Kind, Result};
use layerfs::progress::Silent;
use serde_json::{Value, json};

use super::arguments::Access;
use super::{Global, print, print_json};
use crate::credentials::Credential;
use crate::location::Location;
use crate::transfer::Reach;

/// The arguments of `copy auth`.
#[derive(Debug, clap::Args)]
pub(super) struct AuthArguments {
    #[command(subcommand)]
    verb: AuthVerb,
}

#[derive(Debug, clap::Subcommand)]
enum AuthVerb {
    /// Explain what is sent to which registry for a name
    Why(WhyArguments),
}

#[derive(Debug, clap::Args)]
struct WhyArguments {
    /// Where an image would be read from
    image: String,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    access: Access,
}

impl AuthArguments {
    /// Explains; nothing is connected to, and no secret is printed.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        let AuthVerb::Why(why) = &self.verb;
        let options = why.access.options(global)?;
        let reach = Reach::new(&options, &Silent)?;
        let Location::Registry(name) = why.image.parse()? else {
            return Err(Error::new(Kind::Usage, format!("`{}` is not in a registry", why.image)));
        };
        let meanings = match why.image.starts_with("docker://") {
            true => Vec::new(),
            false => reach.meanings(&why.image)?,
        };
        let name = meanings.first().cloned().unwrap_or(name);
        let explained = reach.explain(&name)?;
        if why.json {
            let endpoints: Vec<Value> = explained
                .endpoints
                .iter()
                .map(|endpoint| {
                    json!({
                        "name": endpoint.name.to_string(),
                        "insecure": endpoint.insecure,
                        "certificates": endpoint.certificates,
                        "credential": endpoint.credential.as_ref().map(|found| kind(&found.credential)),
                        "from": endpoint.credential.as_ref().map(|found| &found.origin),
                    })
                })
                .collect();
            let searched: Vec<String> = explained.searched.iter().map(|file| file.display().to_string()).collect();
            return print_json(&json!({ "name": name.to_string(),
                "meanings": meanings.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "endpoints": endpoints,
                "searched": searched,
                "proxies": proxies(),
            }));
        }
        let mut text = String::new();
        for meaning in &meanings {
            text.push_str(&format!("short name `{}`: `{meaning}`, as registries.conf says\n", why.image));
        }
        let last = explained.endpoints.len().saturating_sub(1);
        for (place, endpoint) in explained.endpoints.iter().enumerate() {
            let role = if place == last { "registry" } else { "mirror" };
            text.push_str(&format!("{role} {}\n", endpoint.name));
            text.push_str(&match &endpoint.credential {
                Some(found) => format!("  credential: {}, from {}\n", kind(&found.credential), found.origin),
                None => "  credential: none\n".to_owned(),
            });
            if let Some(dir) = &endpoint.certificates {
                text.push_str(&format!("  certificates: `{}`\n", dir.display()));
            }
            if endpoint.insecure {
                text.push_str("  insecure: any certificate and plain HTTP will do, as registries.conf says\n");
            }
        }
        for file in &explained.searched {
            let state = if file.exists() { "read" } else { "not there" };
            text.push_str(&format!("file `{}`: {state}\n", file.display()));
        }
        for variable in proxies() {
            text.push_str(&format!("proxy: as `{variable}` says, but not to this machine's own addresses\n"));
        }
        print(&text)
    }
}

/// The variables that name a proxy; what they say may hold a password.
fn proxies() -> Vec<&'static str> {
    const VARIABLES: [&str; 6] = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    let set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    VARIABLES.into_iter().filter(set).collect()
}

fn kind(credential: &Credential) -> String {
    match credential {
        Credential::Basic { username, .. } => format!("user `{username}`"),
        Credential::IdentityToken(_) => "an identity token".to_owned(),
        Credential::RegistryToken(_) => "a registry token".to_owned(),
    }
}
