//! A registry in memory that misbehaves on request: it drops, stalls, truncates, lies, asks for credentials and sends
//! clients elsewhere. What no rule touches it does by the distribution specification.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use layerfs::digest::Digest;

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
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
}

/// The registry; it runs until it is dropped.
pub(crate) struct FaultyRegistry {
    address: String,
    state: Arc<Mutex<State>>,
    stopped: Arc<AtomicBool>,
}

impl FaultyRegistry {
    pub(crate) fn start(auth: Auth) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound socket has an address").to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let stopped = Arc::new(AtomicBool::new(false));
        let server = Server { address: address.clone(), auth, state: Arc::clone(&state) };
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
        Self { address, state, stopped }
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
}

impl Server {
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        let mut out = stream.try_clone()?;
        let mut reader = BufReader::new(stream);
        while let Some(request) = Request::read(&mut reader)? {
            let fault = self.note(&request);
            let mut response = self.refuse(&request).unwrap_or_else(|| self.answer(&request));
            let head_only = request.method == "HEAD";
            match fault {
                None => response.send(&mut out, head_only)?,
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

    /// Writes the request down and uses up a rule that fits it.
    fn note(&self, request: &Request) -> Option<Fault> {
        let mut state = self.lock();
        state.requests.push(Seen {
            method: request.method.clone(),
            path: request.path.clone(),
            authorization: request.header("authorization").map(str::to_owned),
        });
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
        if let Some((_, digest)) = rest.split_once("/blobs/") {
            return self.blob(request, digest);
        }
        if let Some((repository, name)) = rest.split_once("/manifests/") {
            return self.manifest(request, repository, name);
        }
        match rest.strip_suffix("/tags/list") {
            Some(repository) => self.tag_list(repository),
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
        match from.filter(|from| *from < blob.len()) {
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
        let location = |id: &str| format!("/v2/{repository}/blobs/uploads/{id}");
        match request.method.as_str() {
            "POST" => {
                if let Some(digest) = request.parameter("mount").filter(|digest| state.blobs.contains_key(digest)) {
                    return Response::new(201).header("Location", format!("/v2/{repository}/blobs/{digest}"));
                }
                let id = format!("upload-{}", state.begun);
                state.begun += 1;
                state.uploads.insert(id.clone(), Vec::new());
                Response::new(202).header("Location", location(&id)).header("Range", "0-0")
            }
            "PATCH" | "PUT" => {
                let Some(content) = state.uploads.get_mut(upload) else {
                    return Response::error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload");
                };
                content.extend_from_slice(&request.body);
                let range = format!("0-{}", content.len().saturating_sub(1));
                if request.method == "PATCH" {
                    return Response::new(202).header("Location", location(upload)).header("Range", range);
                }
                let content = state.uploads.remove(upload).unwrap_or_default();
                let digest = request.parameter("digest").unwrap_or_default();
                if Digest::of(&content).to_string() != digest {
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
            return Response::new(201).header("Location", request.path.clone()).header("Docker-Content-Digest", digest);
        }
        match state.manifests.get(&(repository.to_owned(), name.to_owned())) {
            Some((media_type, bytes)) => Response::new(200)
                .header("Content-Type", media_type.clone())
                .header("Docker-Content-Digest", Digest::of(bytes).to_string())
                .body(bytes.clone()),
            None => Response::error(404, "MANIFEST_UNKNOWN", "no such manifest"),
        }
    }

    fn tag_list(&self, repository: &str) -> Response {
        let state = self.lock();
        let tags: Vec<_> = state.tags.iter().filter(|(name, _)| name == repository).map(|(_, tag)| tag).collect();
        Response::new(200)
            .header("Content-Type", "application/json")
            .body(serde_json::json!({"name": repository, "tags": tags}).to_string())
    }
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
