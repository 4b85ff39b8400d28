//! Answering a registry's challenges: Basic, and Bearer with a token server.
//!
//! Source: distribution's "token authentication specification" and "OAuth2 token authentication".
//!
//! Invariants: a credential goes to its registry or to the token server that this registry named, and to nobody
//! else; never over plain HTTP unless the registry itself is a plain-HTTP one; never to a link-local address, where
//! clouds keep their machines' own secrets.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use layerfs::error::{Context, Error, Kind, Result};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::challenge::{self, Bearer, Challenge};
use super::error::{Subject, of_transport};
use super::retry;
use crate::credentials::{Credential, Found, Keyring, base64};

/// Largest reply of a token server, in bytes.
const REPLY_MAX: usize = 1 << 20;
/// A token without a stated life lives this long (token specification, `expires_in`).
const LIFE_MIN: Duration = Duration::from_secs(60);
/// A token is not used in the last moments of its life.
const MARGIN: Duration = Duration::from_secs(10);
/// How long a token server may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a request needs a token for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    /// The repository whose credential is used.
    pub(crate) path: String,
    /// The scopes, such as `repository:a/b:pull`; empty for the registry itself.
    pub(crate) scopes: Vec<String>,
}

impl Scope {
    /// Access to the registry itself.
    pub(crate) fn registry() -> Self {
        Self { path: String::new(), scopes: Vec::new() }
    }

    /// Reading a repository.
    pub(crate) fn pull(path: &str) -> Self {
        Self { path: path.to_owned(), scopes: vec![format!("repository:{path}:pull")] }
    }

    /// Writing a repository.
    pub(crate) fn push(path: &str) -> Self {
        Self { path: path.to_owned(), scopes: vec![format!("repository:{path}:pull,push")] }
    }

    /// Writing a repository and removing from it.
    pub(crate) fn delete(path: &str) -> Self {
        Self { path: path.to_owned(), scopes: vec![format!("repository:{path}:delete,pull,push")] }
    }

    /// The list of a registry's repositories.
    pub(crate) fn catalog() -> Self {
        Self { path: String::new(), scopes: vec!["registry:catalog:*".to_owned()] }
    }

    /// The same, and reading `source` too: what a cross-repository mount needs.
    pub(crate) fn with_source(mut self, source: &str) -> Self {
        self.scopes.push(format!("repository:{source}:pull"));
        self
    }
}

/// The state of our conversation with one registry.
pub(crate) struct Authenticator {
    host: String,
    keyring: Arc<Keyring>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    challenge: Option<Challenge>,
    tokens: HashMap<Vec<String>, Token>,
}

#[derive(Clone)]
struct Token {
    value: String,
    expires: Instant,
}

#[derive(Deserialize)]
struct Reply {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Authenticator {
    /// Nothing known yet.
    pub(crate) fn new(host: &str, keyring: Arc<Keyring>) -> Self {
        Self { host: host.to_owned(), keyring, state: Mutex::new(State::default()) }
    }

    /// The `Authorization` header for a request, as far as it is known what the registry wants.
    pub(crate) async fn header(&self, client: &Client, base: &Url, scope: &Scope) -> Result<Option<HeaderValue>> {
        // Held while a token is fetched: requests that need the same token wait for it instead of fetching their own.
        let mut state = self.state.lock().await;
        let bearer = match &state.challenge {
            None => return Ok(None),
            Some(Challenge::Basic) => {
                return match self.credential(scope).await?.map(|found| found.credential) {
                    Some(Credential::Basic { username, password }) => basic(&username, &password).map(Some),
                    Some(Credential::RegistryToken(token)) => secret(format!("Bearer {token}")).map(Some),
                    _ => Ok(None),
                };
            }
            Some(Challenge::Bearer(bearer)) => bearer.clone(),
        };
        if let Some(token) = state.tokens.get(&scope.scopes).filter(|token| token.expires > Instant::now()) {
            return secret(format!("Bearer {}", token.value)).map(Some);
        }
        let token = self.fetch(client, base, &bearer, scope).await?;
        let header = secret(format!("Bearer {}", token.value))?;
        state.tokens.insert(scope.scopes.clone(), token);
        Ok(Some(header))
    }

    /// Takes note of a 401 to a request that was sent with the header `sent`. `true` if it is worth repeating.
    pub(crate) async fn challenged(
        &self,
        headers: &HeaderMap,
        scope: &Scope,
        sent: Option<&HeaderValue>,
    ) -> Result<bool> {
        let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let Some(challenge) = challenge::choose(values) else { return Ok(false) };
        let mut state = self.state.lock().await;
        // A token that was refused is fetched anew, unless another request did so in the meantime.
        let refused = |token: &Token| sent.is_some_and(|sent| sent.as_bytes().ends_with(token.value.as_bytes()));
        if state.tokens.get(&scope.scopes).is_some_and(refused) {
            state.tokens.remove(&scope.scopes);
        }
        let worthwhile = match &challenge {
            Challenge::Basic => sent.is_none() && self.credential(scope).await?.is_some(),
            Challenge::Bearer(_) => true,
        };
        state.challenge = Some(challenge);
        Ok(worthwhile)
    }

    /// The error for a registry that keeps refusing: what was tried, and what to do.
    pub(crate) async fn refused(&self, action: &str, scope: &Scope, said: &str) -> Error {
        let tried = match self.credential(scope).await {
            Ok(Some(found)) => format!("the credentials from {} were refused", found.origin),
            _ => {
                let files: Vec<String> =
                    self.keyring.searched().iter().map(|file| format!("`{}`", file.display())).collect();
                match files.is_empty() {
                    true => "there are no credentials for it".to_owned(),
                    false => format!("there are no credentials for it in {}", files.join(", ")),
                }
            }
        };
        let said = if said.is_empty() { String::new() } else { format!(" ({said})") };
        Error::new(Kind::Unauthorized, format!("{action}: registry `{}` answers 401{said}: {tried}", self.host)).hint(
            format!("`copy login {}` keeps new ones; many registries answer so for what does not exist", self.host),
        )
    }

    async fn credential(&self, scope: &Scope) -> Result<Option<Found>> {
        let (keyring, host, path) = (self.keyring.clone(), self.host.clone(), scope.path.clone());
        // A helper is a program that may ask the user: not on the reactor's own thread.
        let found = tokio::task::spawn_blocking(move || keyring.lookup(&host, &path)).await;
        found.unwrap_or_else(|_| Err(Error::new(Kind::Interrupted, "credential lookup was cut off")))
    }

    async fn fetch(&self, client: &Client, base: &Url, bearer: &Bearer, scope: &Scope) -> Result<Token> {
        let realm = self.realm(base, &bearer.realm).await?;
        let found = self.credential(scope).await?;
        let mut scopes = scope.scopes.clone();
        // The registry may want more than we thought of, such as `metadata_read` for a list of tags.
        if let Some(wanted) = bearer.scope.as_ref().filter(|_| bearer.error.as_deref() == Some("insufficient_scope")) {
            scopes.extend(
                wanted.split(' ').filter(|wanted| !scope.scopes.iter().any(|own| own == wanted)).map(str::to_owned),
            );
        }
        let reply = match found.as_ref().map(|found| &found.credential) {
            Some(Credential::RegistryToken(token)) => {
                return Ok(Token { value: token.clone(), expires: Instant::now() + Duration::from_secs(3600) });
            }
            Some(Credential::IdentityToken(token)) => {
                match self.exchange(client, &realm, bearer, &scopes, token).await? {
                    Some(reply) => reply,
                    None => self.ask(client, &realm, bearer, &scopes, Some(("<token>", token))).await?,
                }
            }
            Some(Credential::Basic { username, password }) => {
                self.ask(client, &realm, bearer, &scopes, Some((username, password))).await?
            }
            None => self.ask(client, &realm, bearer, &scopes, None).await?,
        };
        let status = reply.status();
        let host = realm.host_str().unwrap_or_default().to_owned();
        let body =
            super::client::read_body(reply, REPLY_MAX).await.context(|| format!("read the token of `{host}`"))?;
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST) {
            return Err(self.refused(&format!("get a token from `{host}`"), scope, "").await);
        }
        if !status.is_success() {
            let kind = if retry::is_transient(status) { Kind::Unavailable } else { Kind::Invalid };
            return Err(Error::new(
                kind,
                format!("token server `{host}` of registry `{}` answers {status}", self.host),
            ));
        }
        // The reply is a secret: serde_json's words, which may quote it, stay out.
        let malformed = || Error::new(Kind::Invalid, format!("token server `{host}` sent no token"));
        let reply: Reply = serde_json::from_slice(&body).map_err(|_| malformed())?;
        let value = reply.token.filter(|token| !token.is_empty()).or(reply.access_token).ok_or_else(malformed)?;
        let life = Duration::from_secs(reply.expires_in.unwrap_or(0)).clamp(LIFE_MIN, Duration::from_secs(86_400));
        Ok(Token { value, expires: Instant::now() + life - MARGIN })
    }

    /// `GET realm?service=&scope=`, with Basic authorization where there is a user.
    async fn ask(
        &self,
        client: &Client,
        realm: &Url,
        bearer: &Bearer,
        scopes: &[String],
        user: Option<(&str, &str)>,
    ) -> Result<Response> {
        let mut url = realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some((username, _)) = user {
                query.append_pair("account", username);
            }
            if let Some(service) = &bearer.service {
                query.append_pair("service", service);
            }
            for scope in scopes {
                query.append_pair("scope", scope);
            }
        }
        let authorization = user.map(|(username, password)| basic(username, password)).transpose()?;
        self.send(realm, || {
            let request = client.get(url.clone());
            match &authorization {
                Some(value) => request.header(AUTHORIZATION, value.clone()),
                None => request,
            }
        })
        .await
    }

    /// Exchanges an identity token; `None` where the server does not know how (it answers 404 or 405 then).
    async fn exchange(
        &self,
        client: &Client,
        realm: &Url,
        bearer: &Bearer,
        scopes: &[String],
        token: &str,
    ) -> Result<Option<Response>> {
        let mut form = Url::parse("form:").expect("a constant address is valid");
        form.query_pairs_mut()
            .append_pair("grant_type", "refresh_token")
            .append_pair("service", bearer.service.as_deref().unwrap_or_default())
            .append_pair("client_id", "layerfs-copy")
            .append_pair("scope", &scopes.join(" "))
            .append_pair("refresh_token", token);
        let body = form.query().unwrap_or_default().to_owned();
        let reply = self
            .send(realm, || {
                let request = client.post(realm.clone()).body(body.clone());
                request.header(reqwest::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            })
            .await?;
        Ok((!matches!(reply.status().as_u16(), 404 | 405)).then_some(reply))
    }

    async fn send(&self, realm: &Url, request: impl Fn() -> reqwest::RequestBuilder) -> Result<Response> {
        let host = realm.host_str().unwrap_or_default();
        let subject = Subject { host: self.host.clone(), action: format!("get a token from `{host}`") };
        let mut attempt = 0;
        loop {
            attempt += 1;
            let sent = tokio::time::timeout(PATIENCE, request().send()).await;
            let (asked, failure) = match sent {
                Ok(Ok(reply)) if reply.status().is_redirection() => {
                    let target =
                        reply.headers().get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
                    let target = target.split('?').next().unwrap_or_default();
                    return Err(Error::new(
                        Kind::Denied,
                        format!("token server `{host}` of registry `{}` sends us on to `{target}`", self.host),
                    )
                    .hint("credentials are not carried to another place"));
                }
                Ok(Ok(reply)) if !retry::is_transient(reply.status()) => return Ok(reply),
                Ok(Ok(reply)) if attempt > 3 => return Ok(reply),
                Ok(Ok(reply)) => (retry::retry_after(reply.headers(), std::time::SystemTime::now()), None),
                Ok(Err(failure)) => (None, Some(of_transport(&subject, &failure))),
                Err(_) => {
                    let late = format!("{}: no answer within {} seconds", subject.action, PATIENCE.as_secs());
                    (None, Some(Error::new(Kind::Unavailable, late)))
                }
            };
            match (failure, retry::pause(attempt, asked, retry::jitter())) {
                (Some(failure), _) if attempt > 3 => return Err(failure),
                (_, Some(wait)) => tokio::time::sleep(wait).await,
                (failure, None) => {
                    let busy =
                        || Error::new(Kind::Unavailable, format!("token server `{host}` asks us to wait too long"));
                    return Err(failure.unwrap_or_else(busy));
                }
            }
        }
    }

    /// The token server's address, if credentials may go there.
    async fn realm(&self, base: &Url, realm: &str) -> Result<Url> {
        let refuse = |why: &str| {
            Error::new(Kind::Denied, format!("registry `{}` names a token server we do not trust: {why}", self.host))
        };
        let url = Url::parse(realm).map_err(|_| refuse("its address is malformed"))?;
        let host = url.host_str().ok_or_else(|| refuse("its address has no host"))?.to_owned();
        match (base.scheme(), url.scheme()) {
            (_, "https") => {}
            // A registry we speak plain HTTP with may name one, if it is as near as the registry itself.
            ("http", "http") if is_loopback(&host) || Some(host.as_str()) == base.host_str() => {}
            ("http", "http") => return Err(refuse("plain HTTP to another host")),
            (_, "http") => return Err(refuse("plain HTTP, while the registry has HTTPS")),
            _ => return Err(refuse("neither HTTP nor HTTPS")),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("its address has a user in it"));
        }
        if is_link_local(&host, url.port_or_known_default().unwrap_or(443)).await {
            return Err(refuse("its address is a link-local one"));
        }
        Ok(url)
    }
}

/// A header whose value no debug output shows.
fn secret(text: String) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| Error::new(Kind::Invalid, "a credential has characters that do not fit into a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn basic(username: &str, password: &str) -> Result<HeaderValue> {
    secret(format!("Basic {}", base64::encode(format!("{username}:{password}").as_bytes())))
}

/// Whether a host, with or without a port, is this machine itself.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None if host.matches(':').count() > 1 => host,
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a host is, or resolves to, a link-local address. A name that does not resolve here is not judged: a proxy
/// may know it, and otherwise the connection fails anyway.
pub(crate) async fn is_link_local(host: &str, port: u16) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let local = |address: IpAddr| match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => {
            address.is_unicast_link_local() || address.to_ipv4_mapped().is_some_and(|address| address.is_link_local())
        }
    };
    match bare.parse::<IpAddr>() {
        Ok(address) => local(address),
        Err(_) => match tokio::net::lookup_host((bare, port)).await {
            Ok(mut addresses) => addresses.any(|address| local(address.ip())),
            Err(_) => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_hosts() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.8.9.1", "[::1]:5000", "::1", "x.localhost:1"]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example.com", "10.0.0.1:5000", "r.io", "127.0.0.1.example.com", "[2001:db8::1]:5000"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    fn realm(base: &str, realm: &str) -> Option<Kind> {
        let authenticator = Authenticator::new("r.io", Arc::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let base = Url::parse(base).expect("valid");
        runtime.block_on(authenticator.realm(&base, realm)).err().map(|error| error.kind())
    }

    #[test]
    fn credentials_do_not_follow_a_hostile_realm() {
        assert_eq!(realm("https://192.0.2.1", "https://192.0.2.2/token"), None);
        assert_eq!(realm("http://127.0.0.1:5000", "http://127.0.0.1:5001/token"), None);
        assert_eq!(realm("http://192.0.2.1", "http://192.0.2.1:5001/token"), None);
        for (base, hostile) in [
            ("https://192.0.2.1", "http://192.0.2.1/token"),
            ("http://127.0.0.1:5000", "http://192.0.2.2/token"),
            ("https://192.0.2.1", "https://169.254.169.254/token"),
            ("https://192.0.2.1", "https://[fe80::1]/token"),
            ("https://192.0.2.1", "https://[::ffff:169.254.169.254]/token"),
            ("https://192.0.2.1", "https://me:pw@192.0.2.2/token"),
            ("https://192.0.2.1", "file:///etc/passwd"),
            ("https://192.0.2.1", "token"),
        ] {
            assert_eq!(realm(base, hostile), Some(Kind::Denied), "{hostile}");
        }
    }
}
