//! One registry host: its address, its connections, and sending a request until it has a final answer.
//!
//! Invariants: `Authorization` is sent to the registry's own origin only, whatever a redirect or a `Location` says;
//! every wait has an end; a request is repeated only where that cannot do harm.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use layerfs::error::{Error, Kind, Result};
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue, LOCATION};
use reqwest::{Body, Client, Method, Response, StatusCode, Url};
use tokio::sync::{Mutex, OnceCell};

use super::auth::{Authenticator, Scope, is_link_local, is_loopback};
use super::error::{BODY_MAX, BROKEN, Subject, is_permanent, of_status, of_transport};
use super::tls::{self, Protocols, Trust};
use super::window::Window;
use super::{Settings, retry};

/// How long a connection may take to stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a registry may stay silent while we wait for an answer or for the next bytes.
pub(super) const STALL: Duration = Duration::from_secs(60);
/// How long the request that completes a blob may take: the registry hashes or moves all of it.
pub(super) const COMPLETION: Duration = Duration::from_secs(600);
/// A download of more bytes than this is a large one.
const LARGE: u64 = 8 << 20;
/// Longest chain of redirects.
const HOPS_MAX: usize = 8;
const USER_AGENT: &str = concat!("layerfs-copy/", env!("CARGO_PKG_VERSION"));

/// A registry, as far as this invocation knows it. Shared by all repositories on it.
pub(crate) struct Host {
    name: String,
    settings: Settings,
    authenticator: Authenticator,
    connection: OnceCell<Connection>,
    /// Nothing is sent before this moment: the registry asked for a pause.
    paused_until: Mutex<Option<Instant>>,
    window: Window,
    /// Large blobs on their way from it.
    downloads: Arc<AtomicUsize>,
}

/// Counts a large blob as long as it is on its way.
pub(super) struct UnderWay(Option<Arc<AtomicUsize>>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(count) = &self.0 {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Where the registry is and how it is spoken to.
struct Connection {
    base: Url,
    /// For small requests: HTTP/2 where the registry has it.
    control: Client,
    /// For blobs.
    bulk: Client,
}

/// Which connections a request travels on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Control,
    Bulk,
}

/// A request that may be sent more than once.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Bytes,
    pub(super) scope: Scope,
    pub(super) lane: Lane,
    pub(super) patience: Duration,
    /// What an error says was being done, such as ``pull `r.io/a:1` ``.
    pub(super) action: String,
}

impl Call {
    pub(super) fn new(method: Method, url: Url, scope: Scope, action: impl Into<String>) -> Self {
        let action = action.into();
        let (headers, body) = (Vec::new(), Bytes::new());
        Self { method, url, headers, body, scope, lane: Lane::Control, patience: STALL, action }
    }

    /// The same without headers and body.
    pub(super) fn again(&self) -> Self {
        let (headers, body) = (Vec::new(), Bytes::new());
        let (method, url, scope, action) =
            (self.method.clone(), self.url.clone(), self.scope.clone(), self.action.clone());
        Self { method, url, headers, body, scope, lane: self.lane, patience: self.patience, action }
    }

    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Self {
        // A value that is no header text is left out; all of ours are.
        self.headers.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
        self
    }
}

impl Host {
    /// A host nothing was asked of yet.
    pub(crate) fn new(name: &str, settings: Settings) -> Self {
        let authenticator = Authenticator::new(name, settings.keyring.clone());
        let (connection, paused_until, downloads) = (OnceCell::new(), Mutex::new(None), Arc::default());
        Self {
            name: name.to_owned(),
            settings,
            authenticator,
            connection,
            paused_until,
            window: Window::new(),
            downloads,
        }
    }

    /// Takes note of a download.
    pub(super) fn downloads(&self, size: u64) -> UnderWay {
        let large = size > LARGE;
        if large {
            self.downloads.fetch_add(1, Ordering::Relaxed);
        }
        UnderWay(large.then(|| self.downloads.clone()))
    }

    /// Whether no more than `most` large blobs are on their way.
    pub(super) fn are_alone(&self, most: usize) -> bool {
        self.downloads.load(Ordering::Relaxed) <= most
    }

    /// The host as it stands in names.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The address of an API path, such as `/v2/a/b/tags/list`.
    pub(super) async fn url(&self, path: &str) -> Result<Url> {
        let base = &self.connection().await?.base;
        base.join(path).map_err(|error| Error::new(Kind::Invalid, format!("address of `{path}`")).because(error))
    }

    pub(super) fn subject(&self, action: &str) -> Subject {
        Subject { host: self.name.clone(), action: action.to_owned() }
    }

    /// Sends a call until it has an answer that is final, and returns that, whatever its status.
    pub(super) async fn send(&self, call: &Call) -> Result<Response> {
        let connection = self.connection().await?;
        let client = match call.lane {
            Lane::Control => &connection.control,
            Lane::Bulk => &connection.bulk,
        };
        let (mut url, mut attempt, mut challenges, mut hops) = (call.url.clone(), 0, 0, 0);
        loop {
            let place = self.window.enter().await;
            self.wait_for_pause().await;
            let mut request = client.request(call.method.clone(), url.clone()).body(call.body.clone());
            for (name, value) in &call.headers {
                request = request.header(name, value);
            }
            let own = connection.is_own(&url);
            let authorization = match own {
                true => self.authenticator.header(&connection.control, &connection.base, &call.scope).await?,
                false => None,
            };
            if let Some(value) = &authorization {
                request = request.header(AUTHORIZATION, value.clone());
            }
            let sent = tokio::time::timeout(call.patience, request.send()).await;
            // The window is about requests; what streams in afterwards is bounded by those who read it.
            drop(place);
            match &sent {
                Ok(Ok(reply)) if is_too_much(reply.status()) => self.window.refused(Instant::now()),
                Ok(Ok(reply)) => {
                    self.window.answered();
                    self.heed(reply).await;
                }
                Ok(Err(_)) => {}
                Err(_) => self.window.refused(Instant::now()),
            }
            let reply = match sent {
                Ok(Ok(reply)) => reply,
                Ok(Err(failure)) if attempt >= self.settings.retries || is_permanent(&failure) => {
                    return Err(of_transport(&self.subject(&call.action), &failure));
                }
                Err(_) if attempt >= self.settings.retries => return Err(self.silent(call)),
                Ok(Err(_)) | Err(_) => {
                    attempt += 1;
                    tokio::time::sleep(self.pause_before(attempt)).await;
                    continue;
                }
            };
            let status = reply.status();
            if status == StatusCode::UNAUTHORIZED && own && challenges < 2 {
                challenges += 1;
                if self.authenticator.challenged(reply.headers(), &call.scope, authorization.as_ref()).await? {
                    continue;
                }
            }
            if retry::is_transient(status) && attempt < self.settings.retries {
                attempt += 1;
                let asked = retry::retry_after(reply.headers(), SystemTime::now());
                let usual = self.settings.retry_delay.filter(|_| asked.is_none());
                let Some(wait) = usual.or_else(|| retry::pause(attempt, asked, retry::jitter())) else {
                    let seconds = asked.map_or(0, |asked| asked.as_secs());
                    let busy = format!("{}: registry `{}` asks us to wait {seconds} seconds", call.action, self.name);
                    return Err(
                        Error::new(Kind::Unavailable, busy).hint("try again later, or log in for a higher limit")
                    );
                };
                if status == StatusCode::TOO_MANY_REQUESTS || asked.is_some() {
                    // The limit holds for the whole host, not for this request alone.
                    self.pause(wait).await;
                }
                tokio::time::sleep(wait).await;
                continue;
            }
            let followed = matches!(call.method, Method::GET | Method::HEAD) && is_redirect(status);
            if followed && let Some(target) = location(&url, &reply) {
                hops += 1;
                url = connection.safe_target(&self.name, target, &call.action).await?;
                if hops > HOPS_MAX {
                    let lost = format!("{}: registry `{}` redirects without end", call.action, self.name);
                    return Err(Error::new(Kind::Invalid, lost));
                }
                continue;
            }
            return Ok(reply);
        }
    }

    /// Sends no more than a registry says it will take; where that is nothing, waits if it says how long.
    async fn heed(&self, reply: &Response) {
        let Some((remaining, reset)) = retry::allowance(reply.headers()) else { return };
        self.window.leave(remaining);
        if remaining == 0
            && let Some(wait) = reset.and_then(|reset| retry::pause(1, Some(reset), 0.0))
        {
            self.pause(wait).await;
        }
    }

    /// Sends a body that cannot be had twice: one attempt, no redirects. The caller starts over with a new body.
    pub(super) async fn send_stream(&self, call: &Call, body: Body) -> Result<Response> {
        let connection = self.connection().await?;
        self.wait_for_pause().await;
        let mut request = connection.bulk.request(call.method.clone(), call.url.clone()).body(body);
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        if connection.is_own(&call.url)
            && let Some(value) = self.authenticator.header(&connection.control, &connection.base, &call.scope).await?
        {
            request = request.header(AUTHORIZATION, value);
        }
        let reply = request.send().await.map_err(|failure| of_transport(&self.subject(&call.action), &failure))?;
        if is_too_much(reply.status()) {
            self.window.refused(Instant::now());
            let asked = retry::retry_after(reply.headers(), SystemTime::now());
            if let Some(wait) = retry::pause(1, asked, retry::jitter()) {
                self.pause(wait).await;
            }
        }
        Ok(reply)
    }

    /// The address of an upload session out of a reply. A session on our own host stays on the registry's scheme:
    /// registries behind a TLS proxy often name themselves with `http`.
    pub(super) async fn session(&self, asked: &Url, reply: &Response, action: &str) -> Result<Url> {
        let connection = self.connection().await?;
        let target = location(asked, reply).ok_or_else(|| {
            Error::new(Kind::Invalid, format!("{action}: registry `{}` names no upload location", self.name))
        })?;
        connection.safe_target(&self.name, target, action).await
    }

    /// Turns an answer that was not hoped for into an error.
    pub(super) async fn failure(&self, call: &Call, reply: Response) -> Error {
        let status = reply.status();
        let body = read_start(reply, BODY_MAX).await;
        match status {
            StatusCode::UNAUTHORIZED => {
                let plain = of_status(&self.subject(&call.action), status, &body).to_string();
                let said = plain.rsplit_once(" 401 (").map_or("", |(_, said)| said.trim_end_matches(')'));
                self.authenticator.refused(&call.action, &call.scope, said).await
            }
            _ => of_status(&self.subject(&call.action), status, &body),
        }
    }

    pub(super) fn silent(&self, call: &Call) -> Error {
        let seconds = call.patience.as_secs();
        let late = format!("{}: registry `{}` gives no answer within {seconds} seconds", call.action, self.name);
        Error::new(Kind::Unavailable, late).hint(BROKEN)
    }

    /// How long to wait before attempt `attempt` where the registry does not say.
    pub(super) fn pause_before(&self, attempt: u32) -> Duration {
        let usual = || retry::pause(attempt, None, retry::jitter()).unwrap_or(STALL);
        self.settings.retry_delay.unwrap_or_else(usual)
    }

    /// Where uploads that are under way are written down.
    pub(super) fn uploads(&self) -> Option<&std::path::Path> {
        self.settings.uploads.as_deref()
    }

    pub(super) fn retries(&self) -> u32 {
        self.settings.retries
    }

    async fn wait_for_pause(&self) {
        let until = *self.paused_until.lock().await;
        if let Some(until) = until {
            tokio::time::sleep_until(until.into()).await;
        }
    }

    async fn pause(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut paused = self.paused_until.lock().await;
        *paused = Some(paused.map_or(until, |old| old.max(until)));
    }

    async fn connection(&self) -> Result<&Connection> {
        self.connection.get_or_try_init(|| self.connect()).await
    }

    /// Decides how the registry is spoken to.
    ///
    /// Everywhere: HTTPS with a checked certificate. On loopback hosts, where registries for tests and for a single
    /// machine live, a request without any credential asks first whether the registry speaks plain HTTP. Where the
    /// user said `--tls-verify=false`, any certificate will do, and plain HTTP where there is no TLS.
    async fn connect(&self) -> Result<Connection> {
        tls::install_provider();
        let loopback = is_loopback(&self.name);
        match self.settings.tls_verify {
            Some(true) => self.secure(Trust::Authorities),
            None if loopback => match self.plain_if_spoken().await? {
                Some(plain) => Ok(plain),
                None => self.secure(Trust::Authorities),
            },
            None => self.secure(Trust::Authorities),
            Some(false) if loopback => match self.plain_if_spoken().await? {
                Some(plain) => Ok(plain),
                None => self.secure(Trust::Anybody),
            },
            Some(false) => {
                let secure = self.secure(Trust::Anybody)?;
                match self.probe(&secure).await {
                    Ok(_) => Ok(secure),
                    Err(error) => self.plain_if_spoken().await?.ok_or(error),
                }
            }
        }
    }

    /// A plain-HTTP connection, unless a TLS server answers at the address.
    async fn plain_if_spoken(&self) -> Result<Option<Connection>> {
        let plain = self.client("http", Trust::Nobody)?;
        match self.probe(&plain).await {
            // Go's TLS servers answer plain HTTP with 400 and a line of text; others close the connection.
            Ok(StatusCode::BAD_REQUEST) => Ok(None),
            Ok(_) => Ok(Some(plain)),
            // Nobody listens: HTTPS would find the same.
            Err(error) if error.advice().is_some() => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Asks for the API's root without a credential and remembers the challenge, which saves the first 401.
    async fn probe(&self, connection: &Connection) -> Result<StatusCode> {
        let subject = self.subject("");
        let url = connection.base.join("/v2/").map_err(|error| Error::new(Kind::Invalid, "address").because(error))?;
        let mut attempt = 0;
        loop {
            let sent = tokio::time::timeout(STALL, connection.control.get(url.clone()).send()).await;
            let error = match sent {
                Ok(Ok(reply)) => {
                    let status = reply.status();
                    if status == StatusCode::UNAUTHORIZED {
                        self.authenticator.challenged(reply.headers(), &Scope::registry(), None).await?;
                    }
                    // Read to its end, so that the connection serves the next request.
                    read_start(reply, BODY_MAX).await;
                    return Ok(status);
                }
                Ok(Err(failure)) if is_permanent(&failure) || !failure.is_connect() => {
                    return Err(of_transport(&subject, &failure));
                }
                Ok(Err(failure)) => of_transport(&subject, &failure),
                Err(_) => Error::new(Kind::Unavailable, format!("registry `{}` gives no answer", self.name)),
            };
            attempt += 1;
            // A registry that is just being started is worth a moment, not more.
            if attempt > self.settings.retries.min(2) {
                return Err(error);
            }
            tokio::time::sleep(self.pause_before(attempt)).await;
        }
    }

    fn secure(&self, trust: Trust) -> Result<Connection> {
        self.client("https", trust)
    }

    fn client(&self, scheme: &str, trust: Trust) -> Result<Connection> {
        let address = match self.name.as_str() {
            "docker.io" => "registry-1.docker.io",
            name => name,
        };
        let base = Url::parse(&format!("{scheme}://{address}/")).map_err(|error| {
            Error::new(Kind::Invalid, format!("registry `{}` has no valid address", self.name)).because(error)
        })?;
        let certificates = self.settings.certificates_of(&self.name);
        let build = |protocols| {
            let tls = tls::config(trust, certificates.as_deref(), protocols)?;
            let builder = match is_loopback(&self.name) {
                // As Go's programs have it: a proxy elsewhere cannot reach this machine's own loopback.
                true => Client::builder().no_proxy(),
                false => Client::builder(),
            };
            let builder = builder
                .tls_backend_preconfigured(tls)
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .connect_timeout(CONNECT_TIMEOUT)
                .tcp_nodelay(true)
                .user_agent(match &self.settings.user_agent_prefix {
                    Some(prefix) => format!("{prefix} {USER_AGENT}"),
                    None => USER_AGENT.to_owned(),
                });
            builder.build().map_err(|error| Error::new(Kind::System, "HTTP client cannot be set up").because(error))
        };
        let control = build(Protocols::Any)?;
        let bulk = if scheme == "http" { control.clone() } else { build(Protocols::Http1)? };
        Ok(Connection { base, control, bulk })
    }
}

impl Connection {
    /// Whether an address is the registry's own: scheme, host and port.
    fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    /// Checks where a reply sends us: never from HTTPS down to HTTP, never to a link-local address.
    async fn safe_target(&self, registry: &str, mut target: Url, action: &str) -> Result<Url> {
        let own_host = target.host_str() == self.base.host_str();
        if own_host && target.scheme() == "http" && self.base.scheme() == "https" {
            // The address may name the port of the proxy's plain side; the registry is where we found it.
            let _ = target.set_port(self.base.port());
            let _ = target.set_scheme("https");
        }
        let host = target.host_str().unwrap_or_default();
        let refuse = |why: &str| {
            Err(Error::new(Kind::Denied, format!("{action}: registry `{registry}` sends us to `{host}`: {why}")))
        };
        match (self.base.scheme(), target.scheme()) {
            (_, "https") | ("http", "http") => {}
            _ => return refuse("not over HTTPS"),
        }
        let port = target.port_or_known_default().unwrap_or(443);
        if !own_host && is_link_local(host, port).await {
            return refuse("a link-local address");
        }
        Ok(target)
    }
}

/// The registry asks for less.
fn is_too_much(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// The `Location` of a reply: absolute or relative to what was asked.
fn location(asked: &Url, reply: &Response) -> Option<Url> {
    asked.join(reply.headers().get(LOCATION)?.to_str().ok()?).ok()
}

/// Reads a whole body of at most `limit` bytes.
pub(super) async fn read_body(mut reply: Response, limit: usize) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let chunk = tokio::time::timeout(STALL, reply.chunk()).await;
        let chunk = chunk.map_err(|_| Error::new(Kind::Unavailable, "the reply stalled"))?;
        match chunk
            .map_err(|error| Error::new(Kind::Unavailable, "the reply broke off").because(error.without_url()))?
        {
            None => return Ok(body),
            Some(chunk) if body.len() + chunk.len() > limit => {
                return Err(Error::new(Kind::Limit, format!("the reply is larger than {limit} bytes")));
            }
            Some(chunk) => body.extend_from_slice(&chunk),
        }
    }
}

/// The start of a body, for an error message: what goes wrong here does not matter.
pub(super) async fn read_start(mut reply: Response, limit: usize) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < limit {
        match tokio::time::timeout(Duration::from_secs(5), reply.chunk()).await {
            Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
            _ => break,
        }
    }
    body.truncate(limit);
    body
}

/// All hosts of an invocation share what they know by this.
pub(crate) type Shared = Arc<Host>;
