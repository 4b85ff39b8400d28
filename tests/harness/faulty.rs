//! A registry in memory that misbehaves on request: it drops, stalls, truncates, lies, asks for credentials and sends
//! clients elsewhere. What no rule touches it does by the distribution specification.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use layerfs::digest::Digest;

use super::habits::{Habits, Mount};
use super::http::{Request, Response};

/// What goes wrong.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The connection is closed before a byte of the answer.
    Drop,
    /// The head promises the whole body, the connection is closed after this many bytes of it.
    Truncate(usize),
    /// One byte in the middle of the body is another.
    WrongByte,
    /// The head is sent, then nothing more, until the client gives up.
    Stall,
    /// This status with these headers.
    Status(u16, Vec<(&'static str, String)>),
    /// The right answer with one more header, or another value of it.
    Header(&'static str, String),
    /// The right answer without a header.
    Without(&'static str),
    /// The answer with another body.
    Body(Vec<u8>),
    /// A page for people, as a proxy shows it.
    Page,
    /// Half of the request's body arrives, then the connection breaks.
    KeepHalf,
}

/// When it goes wrong: the first `times` requests of this method whose path contains this text.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) times: usize,
    pub(crate) fault: Fault,
}

impl Rule {
    /// From now on, always.
    pub(crate) fn always(method: &'static str, path: impl Into<String>, fault: Fault) -> Self {
        Self { method, path: path.into(), times: usize::MAX, fault }
    }

    /// So many times, then no more.
    pub(crate) fn times(times: usize, method: &'static str, path: impl Into<String>, fault: Fault) -> Self {
        Self { method, path: path.into(), times, fault }
    }
}

/// Who may come in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Auth {
    /// Everybody.
    Open,
    /// One user, by name and password in each request.
    Basic { user: &'static str, password: &'static str },
    /// Whoever brings a token from `/token`; there, one user by name and password, or everybody.
    Bearer { user: Option<(&'static str, &'static str)> },
}

#[derive(Default)]
struct State {
    blobs: BTreeMap<String, Vec<u8>>,
    /// (repository, digest or tag) → (media type, bytes)
    manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    tags: BTreeSet<(String, String)>,
    uploads: BTreeMap<String, Vec<u8>>,
    /// Uploads begun so far: the name of the next.
    begun: usize,
    rules: Vec<Rule>,
    requests: Vec<Seen>,
    /// Bytes of blobs that clients sent.
    received: usize,
    habits: Habits,
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) authorization: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) range: Option<String>,
}

/// The registry; it runs until it is dropped.
pub(crate) struct FaultyRegistry {
    address: String,
    state: Arc<Mutex<State>>,
    asked: Arc<Condvar>,
    stopped: Arc<AtomicBool>,
}

impl FaultyRegistry {
    pub(crate) fn start(auth: Auth) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound socket has an address").to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let stopped = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(Condvar::new());
        let server = Server { address: address.clone(), auth, state: Arc::clone(&state), asked: Arc::clone(&asked) };
        let stop = Arc::clone(&stopped);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let server = server.clone();
                thread::spawn(move || drop(server.serve(stream)));
            }
        });
        Self { address, state, asked, stopped }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.address)
    }

    /// Adds a rule; the first one that fits a request decides.
    pub(crate) fn rule(&self, rule: Rule) -> &Self {
        self.lock().rules.push(rule);
        self
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.lock().requests.clone()
    }

    /// How many requests of this method had a path with this text.
    pub(crate) fn count(&self, method: &str, path: &str) -> usize {
        self.requests().iter().filter(|seen| seen.method == method && seen.path.contains(path)).count()
    }

    /// Waits until a request of this method had a path with this text.
    pub(crate) fn wait_for(&self, method: &str, path: &str) {
        let came =
            |state: &mut State| !state.requests.iter().any(|seen| seen.method == method && seen.path.contains(path));
        let patience = std::time::Duration::from_secs(60);
        let (_state, waited) =
            self.asked.wait_timeout_while(self.lock(), patience, came).expect("no thread panics with the lock held");
        assert!(!waited.timed_out(), "nobody asked for {method} {path}");
    }

    /// From now on nothing goes wrong.
    pub(crate) fn forget_rules(&self) {
        self.lock().rules.clear();
    }

    /// Bytes of all blobs that lie here.
    pub(crate) fn blob_bytes(&self) -> usize {
        self.lock().blobs.values().map(Vec::len).sum()
    }

    /// Bytes of blobs that clients sent.
    pub(crate) fn received(&self) -> usize {
        self.lock().received
    }

    /// Changes how it is unlike others.
    pub(super) fn with(&self, change: impl FnOnce(&mut Habits)) -> &Self {
        change(&mut self.lock().habits);
        self
    }

    /// Puts a manifest here as it is; its digest.
    pub(crate) fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) -> String {
        let digest = Digest::of(bytes).to_string();
        let mut state = self.lock();
        for name in [digest.as_str(), tag] {
            state.manifests.insert((repository.to_owned(), name.to_owned()), (media_type.to_owned(), bytes.to_vec()));
        }
        if !tag.contains(':') {
            state.tags.insert((repository.to_owned(), tag.to_owned()));
        }
        digest
    }

    /// Puts bytes here under a digest, rightly or not.
    pub(crate) fn put_blob(&self, digest: &str, bytes: &[u8]) {
        self.lock().blobs.insert(digest.to_owned(), bytes.to_vec());
    }

    /// The bytes of a manifest, by tag or digest.
    pub(crate) fn manifest(&self, repository: &str, name: &str) -> Option<Vec<u8>> {
        let key = (repository.to_owned(), name.to_owned());
        self.lock().manifests.get(&key).map(|(_, bytes)| bytes.clone())
    }

    /// Whether a blob lies here.
    pub(crate) fn has_blob(&self, digest: &str) -> bool {
        self.lock().blobs.contains_key(digest)
    }

    /// The tags that lie here.
    pub(crate) fn tags(&self) -> Vec<(String, String)> {
        self.lock().tags.iter().cloned().collect()
    }

    /// Puts the one image of an OCI layout here, and returns the digests of its manifest and of its layers.
    pub(crate) fn put_layout(&self, layout: &Path, repository: &str, tag: &str) -> (String, Vec<String>) {
        let read = |digest: &str| {
            let path = layout.join("blobs").join(digest.replace(':', "/"));
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let index: serde_json::Value =
            serde_json::from_slice(&std::fs::read(layout.join("index.json")).expect("a layout has an index.json"))
                .expect("JSON");
        let digest = index["manifests"][0]["digest"].as_str().expect("an entry has a digest").to_owned();
        let bytes = read(&digest);
        let manifest: serde_json::Value = serde_json::from_slice(&bytes).expect("a manifest is JSON");
        let media_type = manifest["mediaType"].as_str().expect("ours have a media type").to_owned();
        let text = |value: &serde_json::Value| value["digest"].as_str().expect("a descriptor has a digest").to_owned();
        let layers: Vec<_> = manifest["layers"].as_array().expect("layers").iter().map(text).collect();
        let mut state = self.lock();
        for blob in layers.iter().cloned().chain([text(&manifest["config"])]) {
            state.blobs.insert(blob.clone(), read(&blob));
        }
        for name in [digest.clone(), tag.to_owned()] {
            state.manifests.insert((repository.to_owned(), name), (media_type.clone(), bytes.clone()));
        }
        state.tags.insert((repository.to_owned(), tag.to_owned()));
        (digest, layers)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with the lock held")
    }
}

impl Drop for FaultyRegistry {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then sees that it is over.
        drop(TcpStream::connect(&self.address));
    }
}

#[derive(Clone)]
struct Server {
    address: String,
    auth: Auth,
    state: Arc<Mutex<State>>,
    asked: Arc<Condvar>,
}

impl Server {
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        let mut out = stream.try_clone()?;
        let mut reader = BufReader::new(stream);
        while let Some(request) = Request::read(&mut reader)? {
            let fault = self.note(&request);
            if request.broken || matches!(fault, Some(Fault::KeepHalf)) {
                self.keep_part(&request);
                return out.shutdown(Shutdown::Both);
            }
            // A registry that is busy has done nothing; one whose answer is lost may have done all.
            let mut response = match &fault {
                Some(Fault::Status(..) | Fault::Page) => Response::new(200),
                _ => self.refuse(&request).unwrap_or_else(|| self.answer(&request)),
            };
            let head_only = request.method == "HEAD";
            match fault {
                None | Some(Fault::KeepHalf) => response.send(&mut out, head_only)?,
                Some(Fault::Without(name)) => {
                    response.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
                    response.send(&mut out, head_only)?;
                }
                Some(Fault::Page) => {
                    let page = Response::new(403).header("Content-Type", "text/html");
                    page.body("<html><body>no</body></html>").send(&mut out, head_only)?;
                }
                Some(Fault::Body(body)) => response.body(body).send(&mut out, head_only)?,
                Some(Fault::Drop) => return out.shutdown(Shutdown::Both),
                Some(Fault::Truncate(length)) => {
                    out.write_all(&response.head())?;
                    out.write_all(&response.body[..length.min(response.body.len())])?;
                    return out.shutdown(Shutdown::Both);
                }
                Some(Fault::WrongByte) => {
                    let middle = response.body.len() / 2;
                    if let Some(byte) = response.body.get_mut(middle) {
                        *byte ^= 0x20;
                    }
                    response.send(&mut out, head_only)?;
                }
                Some(Fault::Stall) => {
                    out.write_all(&response.head())?;
                    // Reads until the client hangs up.
                    drop(io::copy(&mut reader.by_ref(), &mut io::sink()));
                    return Ok(());
                }
                Some(Fault::Status(status, headers)) => {
                    let mut answer = Response::error(status, "FAULT", "as the test asked");
                    answer.headers.extend(headers.into_iter().map(|(name, value)| (name.to_owned(), value)));
                    answer.send(&mut out, head_only)?;
                }
                Some(Fault::Header(name, value)) => {
                    response.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
                    response.header(name, value).send(&mut out, head_only)?;
                }
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with the lock held")
    }

    /// Keeps what arrived of a body that was broken off, or its first half.
    fn keep_part(&self, request: &Request) {
        let length = if request.broken { request.body.len() } else { request.body.len() / 2 };
        let mut state = self.lock();
        if let Some((_, upload)) = request.path.split_once("/blobs/uploads/")
            && let Some(content) = state.uploads.get_mut(upload)
        {
            content.extend_from_slice(&request.body[..length]);
            state.received += length;
        }
    }

    /// Writes the request down and uses up a rule that fits it.
    fn note(&self, request: &Request) -> Option<Fault> {
        let mut state = self.lock();
        state.requests.push(Seen {
            method: request.method.clone(),
            path: request.path.clone(),
            query: request.query.clone(),
            authorization: request.header("authorization").map(str::to_owned),
            content_type: request.header("content-type").map(str::to_owned),
            range: request.header("range").or(request.header("content-range")).map(str::to_owned),
        });
        self.asked.notify_all();
        let rule = state
            .rules
            .iter_mut()
            .find(|rule| rule.times > 0 && rule.method == request.method && request.path.contains(&rule.path))?;
        rule.times = rule.times.saturating_sub(usize::from(rule.times != usize::MAX));
        Some(rule.fault.clone())
    }

    /// The answer to somebody who may not come in.
    fn refuse(&self, request: &Request) -> Option<Response> {
        let given = request.header("authorization").unwrap_or_default();
        let basic =
            |user: &str, password: &str| given == format!("Basic {}", base64(format!("{user}:{password}").as_bytes()));
        let unauthorized = |challenge: String| {
            Some(Response::error(401, "UNAUTHORIZED", "authentication required").header("WWW-Authenticate", challenge))
        };
        match self.auth {
            Auth::Open => None,
            Auth::Basic { user, password } if basic(user, password) => None,
            Auth::Basic { .. } => unauthorized("Basic realm=\"test\"".to_owned()),
            Auth::Bearer { user } if request.path == "/token" => match user {
                Some((user, password)) if !basic(user, password) => {
                    Some(Response::error(401, "UNAUTHORIZED", "wrong user or password"))
                }
                _ => Some(
                    Response::new(200)
                        .header("Content-Type", "application/json")
                        .body(format!(r#"{{"token":"{}","expires_in":300}}"#, token(&request.query))),
                ),
            },
            Auth::Bearer { .. } => {
                let repository = request.path.strip_prefix("/v2/").and_then(|rest| {
                    ["/manifests/", "/blobs/", "/tags/"]
                        .iter()
                        .find_map(|part| rest.split_once(part))
                        .map(|(name, _)| name)
                });
                let action = if matches!(request.method.as_str(), "GET" | "HEAD") { "pull" } else { "push" };
                // A token is its own list of scopes here, so what it was asked for can be compared with what it is used for.
                let allowed = given.strip_prefix("Bearer ").is_some_and(|given| {
                    repository.is_none_or(|name| {
                        given.split('.').any(|scope| {
                            scope.starts_with(&format!("repository-{}-", name.replace('/', "_")))
                                && scope.contains(action)
                        })
                    })
                });
                if allowed {
                    return None;
                }
                let scope = repository.map_or(String::new(), |name| {
                    format!(",scope=\"repository:{name}:{}\"", if action == "pull" { "pull" } else { "pull,push" })
                });
                unauthorized(format!("Bearer realm=\"http://{}/token\",service=\"test\"{scope}", self.address))
            }
        }
    }

    fn answer(&self, request: &Request) -> Response {
        let Some(rest) = request.path.strip_prefix("/v2/") else {
            return Response::error(404, "NOT_FOUND", "no such page");
        };
        if rest.is_empty() {
            return Response::new(200).header("Docker-Distribution-Api-Version", "registry/2.0");
        }
        if let Some((repository, upload)) = rest.split_once("/blobs/uploads/") {
            return self.upload(request, repository, upload);
        }
        if let Some((repository, digest)) = rest.split_once("/blobs/") {
            if self.lock().habits.hidden.as_deref() == Some(repository) {
                return Response::error(404, "BLOB_UNKNOWN", "no such blob");
            }
            return self.blob(request, digest);
        }
        if let Some((repository, name)) = rest.split_once("/manifests/") {
            return self.manifest(request, repository, name);
        }
        if let Some((repository, subject)) = rest.split_once("/referrers/") {
            return self.referrers(repository, subject);
        }
        match rest.strip_suffix("/tags/list") {
            Some(repository) => self.tag_list(request, repository),
            None => Response::error(404, "NOT_FOUND", "no such page"),
        }
    }

    fn blob(&self, request: &Request, digest: &str) -> Response {
        let state = self.lock();
        let Some(blob) = state.blobs.get(digest) else {
            return Response::error(404, "BLOB_UNKNOWN", "no such blob");
        };
        let response = Response::new(200)
            .header("Content-Type", "application/octet-stream")
            .header("Docker-Content-Digest", digest);
        let from = request
            .header("range")
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        match from.filter(|from| *from < blob.len() && !state.habits.no_ranges) {
            Some(from) => {
                let mut partial =
                    response.header("Content-Range", format!("bytes {from}-{}/{}", blob.len() - 1, blob.len()));
                partial.status = 206;
                partial.body(&blob[from..])
            }
            None => response.header("Accept-Ranges", "bytes").body(blob.clone()),
        }
    }

    fn upload(&self, request: &Request, repository: &str, upload: &str) -> Response {
        let mut state = self.lock();
        let habits = state.habits.clone();
        let location = |id: &str| {
            let path = format!("/v2/{repository}/blobs/uploads/{id}");
            match (&habits.elsewhere, &habits.location_query) {
                (Some(other), _) => format!("http://{other}{path}?sig=1"),
                (None, Some(query)) => format!("http://{}{path}?{query}", self.address),
                (None, None) => path,
            }
        };
        match request.method.as_str() {
            "POST" => {
                let mount = request.parameter("mount").filter(|digest| state.blobs.contains_key(digest));
                if mount.is_some() && habits.mount == Mount::Forbidden {
                    return Response::error(403, "DENIED", "no mounts between these");
                }
                if let Some(digest) = mount.filter(|_| habits.mount == Mount::Done) {
                    return Response::new(201).header("Location", format!("/v2/{repository}/blobs/{digest}"));
                }
                let id = format!("upload-{}", state.begun);
                state.begun += 1;
                state.uploads.insert(id.clone(), Vec::new());
                Response::new(202).header("Location", location(&id)).header("Range", "0-0")
            }
            "GET" => match state.uploads.get(upload) {
                Some(content) => Response::new(204)
                    .header("Location", location(upload))
                    .header("Range", format!("0-{}", content.len().saturating_sub(1))),
                None => Response::error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload"),
            },
            "DELETE" => {
                state.uploads.remove(upload);
                Response::new(204)
            }
            "PATCH" | "PUT" => {
                state.received += request.body.len();
                let Some(content) = state.uploads.get_mut(upload) else {
                    return Response::error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload");
                };
                let begins = request.header("content-range").and_then(|range| range.split('-').next()?.parse().ok());
                if begins.is_some_and(|begins: usize| begins != content.len()) {
                    return Response::error(416, "RANGE_INVALID", "that is not where the upload is");
                }
                content.extend_from_slice(&request.body);
                let range = format!("0-{}", content.len().saturating_sub(1));
                if request.method == "PATCH" {
                    return Response::new(habits.patch_status.unwrap_or(202))
                        .header("Location", location(upload))
                        .header("Range", range);
                }
                let content = state.uploads.remove(upload).unwrap_or_default();
                let digest = request.parameter("digest").unwrap_or_default();
                if !habits.trusting && digest_like(&digest, &content) != digest {
                    return Response::error(400, "DIGEST_INVALID", "the content has another digest");
                }
                state.blobs.insert(digest.clone(), content);
                Response::new(201)
                    .header("Location", format!("/v2/{repository}/blobs/{digest}"))
                    .header("Docker-Content-Digest", digest)
            }
            _ => Response::error(405, "UNSUPPORTED", "no such method here"),
        }
    }

    fn manifest(&self, request: &Request, repository: &str, name: &str) -> Response {
        let mut state = self.lock();
        if request.method == "DELETE" {
            let key = (repository.to_owned(), name.to_owned());
            let Some((_, bytes)) = state.manifests.remove(&key) else {
                return Response::error(404, "MANIFEST_UNKNOWN", "no such manifest");
            };
            state.tags.remove(&key);
            if name.contains(':') {
                // With the manifest go its tags.
                let gone = |repo: &str, old: &[u8]| repo == repository && old == bytes;
                let tags: Vec<_> = state
                    .manifests
                    .iter()
                    .filter(|((repo, _), (_, old))| gone(repo, old))
                    .map(|(key, _)| key.clone())
                    .collect();
                for key in tags {
                    state.manifests.remove(&key);
                    state.tags.remove(&key);
                }
            }
            return Response::new(202);
        }
        if request.method == "PUT" {
            let digest = Digest::of(&request.body).to_string();
            let media_type = request.header("content-type").unwrap_or_default().to_owned();
            for key in [digest.as_str(), name] {
                state
                    .manifests
                    .insert((repository.to_owned(), key.to_owned()), (media_type.clone(), request.body.clone()));
            }
            if name != digest {
                state.tags.insert((repository.to_owned(), name.to_owned()));
            }
            let stored =
                Response::new(201).header("Location", request.path.clone()).header("Docker-Content-Digest", digest);
            let subject = subject_of(&request.body).filter(|_| !state.habits.no_referrers);
            return match subject {
                Some(subject) => stored.header("OCI-Subject", subject),
                None => stored,
            };
        }
        match state.manifests.get(&(repository.to_owned(), name.to_owned())) {
            Some((media_type, bytes)) => Response::new(200)
                .header("Content-Type", media_type.clone())
                .header("Docker-Content-Digest", Digest::of(bytes).to_string())
                .body(bytes.clone()),
            None => Response::error(404, "MANIFEST_UNKNOWN", "no such manifest"),
        }
    }

    fn referrers(&self, repository: &str, subject: &str) -> Response {
        let state = self.lock();
        if state.habits.no_referrers {
            return Response::error(404, "NOT_FOUND", "no such page");
        }
        let mut list = Vec::new();
        for ((name, locator), (media_type, bytes)) in &state.manifests {
            if name == repository && locator.contains(':') && subject_of(bytes).as_deref() == Some(subject) {
                let document: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
                let kind = document.get("artifactType").or_else(|| document["config"].get("mediaType")).cloned();
                list.push(serde_json::json!({
                    "mediaType": media_type, "digest": locator, "size": bytes.len(), "artifactType": kind,
                }));
            }
        }
        let index = "application/vnd.oci.image.index.v1+json";
        let document = serde_json::json!({"schemaVersion": 2, "mediaType": index, "manifests": list});
        Response::new(200).header("Content-Type", index).body(document.to_string())
    }

    fn tag_list(&self, request: &Request, repository: &str) -> Response {
        let state = self.lock();
        let mut tags: Vec<_> = state.tags.iter().filter(|(name, _)| name == repository).map(|(_, tag)| tag).collect();
        let mut response = Response::new(200).header("Content-Type", "application/json");
        if state.habits.page > 0 {
            let last = request.parameter("last").unwrap_or_default();
            tags.retain(|tag| **tag > last);
            if tags.len() > state.habits.page {
                tags.truncate(state.habits.page);
                let next = format!(
                    "</v2/{repository}/tags/list?n={}&last={}>; rel=\"next\"",
                    tags.len(),
                    tags[tags.len() - 1]
                );
                response = response.header("Link", next);
            }
        }
        response.body(serde_json::json!({"name": repository, "tags": tags}).to_string())
    }
}

/// The digest of bytes by the algorithm of another.
fn digest_like(digest: &str, bytes: &[u8]) -> String {
    use layerfs::digest::{Algorithm, Hasher};
    let algorithm = if digest.starts_with("sha512:") { Algorithm::Sha512 } else { Algorithm::Sha256 };
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish().to_string()
}

/// What a manifest refers to.
fn subject_of(bytes: &[u8]) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    document.get("subject")?.get("digest")?.as_str().map(str::to_owned)
}

/// A token that spells out its scopes: `repository-NAME-pull,push` joined by dots.
fn token(query: &str) -> String {
    let scopes: Vec<_> = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("scope="))
        .map(|scope| {
            scope.replace("%3A", "-").replace(':', "-").replace("%2F", "_").replace('/', "_").replace("%2C", ",")
        })
        .collect();
    format!("token.{}", scopes.join("."))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for position in 0..4 {
            let digit = DIGITS[(group >> (18 - 6 * position)) as usize & 63];
            text.push(if position <= chunk.len() { digit as char } else { '=' });
        }
    }
    text
}
