//! A registry in memory, small enough to misbehave on request.
//!
//! It speaks just enough of the distribution protocol for this client. A test may put a script in front of it, which
//! sees every request first; every request is recorded.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use layerfs::digest::{Algorithm, Digest, Hasher};

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    pub(crate) fn query(&self, name: &str) -> Option<String> {
        let pairs = self.target.split_once('?')?.1.split('&');
        let value = pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?.1;
        Some(value.replace("%3A", ":").replace("%2F", "/").replace("%2C", ","))
    }
}

/// What is answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The connection is closed after so many bytes of the body.
    pub(crate) cut: Option<usize>,
    /// The body goes out in pieces of so many bytes, a millisecond apart.
    pub(crate) pieces: Option<usize>,
}

impl Reply {
    pub(crate) fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

type Script = Box<dyn FnMut(&Request) -> Option<Reply> + Send>;

#[derive(Default)]
pub(crate) struct State {
    pub(crate) blobs: HashMap<String, Vec<u8>>,
    pub(crate) manifests: HashMap<String, (String, Vec<u8>)>,
    pub(crate) requests: Vec<Request>,
    sessions: HashMap<String, Vec<u8>>,
    script: Option<Script>,
}

/// A running stub. Its threads end with the process.
pub(crate) struct Stub {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Stub {
    /// An empty registry on a free loopback port.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { address, state }
    }

    /// Answers before the registry does, where it gives an answer.
    pub(crate) fn script(&self, script: impl FnMut(&Request) -> Option<Reply> + Send + 'static) {
        self.state().script = Some(Box::new(script));
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds this")
    }

    /// `HOST:PORT/path:tag`.
    pub(crate) fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    /// The recorded requests of which `wanted` is true.
    pub(crate) fn requests(&self, wanted: impl Fn(&Request) -> bool) -> Vec<Request> {
        self.state().requests.iter().filter(|request| wanted(request)).cloned().collect()
    }

    /// Puts an image of these layers under `PATH:TAG`; the manifest's digest.
    pub(crate) fn add_image(&self, name: &str, layers: &[&[u8]]) -> Digest {
        let (manifest, blobs) = image(layers);
        let mut state = self.state();
        state.blobs.extend(blobs);
        let digest = Digest::of(&manifest);
        let (path, tag) = name.split_once(':').expect("PATH:TAG");
        for key in [format!("{path}:{tag}"), format!("{path}:{digest}")] {
            state.manifests.insert(key, (OCI_MANIFEST.to_owned(), manifest.clone()));
        }
        digest
    }

    /// Puts any document under `PATH:TAG` and its digest.
    pub(crate) fn add_document(&self, path: &str, tag: &str, media_type: &str, bytes: &[u8]) {
        let mut state = self.state();
        for key in [format!("{path}:{tag}"), format!("{path}:{}", Digest::of(bytes))] {
            state.manifests.insert(key, (media_type.to_owned(), bytes.to_vec()));
        }
    }
}

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A manifest, and the blobs it names by digest.
pub(crate) fn image(layers: &[&[u8]]) -> (Vec<u8>, Vec<(String, Vec<u8>)>) {
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let config = serde_json::json!({"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":diff_ids}});
    let config = config.to_string().into_bytes();
    let descriptors: Vec<_> = layers
        .iter()
        .map(|layer| {
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": Digest::of(layer).to_string(),
                "size": layer.len(),
            })
        })
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest::of(&config).to_string(),
            "size": config.len(),
        },
        "layers": descriptors,
    });
    let mut blobs = vec![(Digest::of(&config).to_string(), config)];
    blobs.extend(layers.iter().map(|layer| (Digest::of(layer).to_string(), layer.to_vec())));
    (manifest.to_string().into_bytes(), blobs)
}

fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut out = stream.try_clone().expect("a socket");
    let mut input = BufReader::new(stream);
    while let Some(request) = read_request(&mut input) {
        let reply = {
            let mut state = state.lock().expect("no handler panics");
            state.requests.push(request.clone());
            let mut script = state.script.take();
            let scripted = script.as_mut().and_then(|script| script(&request));
            if state.script.is_none() {
                state.script = script;
            }
            scripted.unwrap_or_else(|| answer(&mut state, &request))
        };
        let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
        if !reply.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
            head.push_str(&format!("content-length: {}\r\n", reply.body.len()));
        }
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let body =
            if request.method == "HEAD" { &[][..] } else { &reply.body[..reply.cut.unwrap_or(reply.body.len())] };
        let sent = out.write_all(head.as_bytes()).and_then(|()| write_slowly(&mut out, body, reply.pieces));
        if sent.is_err() || reply.cut.is_some() {
            let _ = out.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

fn write_slowly(out: &mut TcpStream, body: &[u8], pieces: Option<usize>) -> std::io::Result<()> {
    let Some(size) = pieces else { return out.write_all(body) };
    // Nothing ever comes: what passes is the time.
    let (_never, clock) = std::sync::mpsc::channel::<()>();
    body.chunks(size).try_for_each(|piece| {
        let _ = clock.recv_timeout(std::time::Duration::from_millis(1));
        out.write_all(piece)
    })
}

fn read_request(input: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    input.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        input.read_line(&mut line).ok().filter(|n| *n > 0)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => drop(headers.insert(name.to_ascii_lowercase(), value.trim().to_owned())),
            None => break,
        }
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    input.read_exact(&mut body).ok()?;
    Some(Request { method, target, headers, body })
}

fn answer(state: &mut State, request: &Request) -> Reply {
    let path = request.path().to_owned();
    let Some(rest) = path.strip_prefix("/v2/") else { return Reply::new(404) };
    if rest.is_empty() {
        return Reply::new(200).body("{}");
    }
    if let Some((repository, locator)) = rest.split_once("/manifests/") {
        let key = format!("{repository}:{locator}");
        return match request.method.as_str() {
            "PUT" => {
                let media_type = request.header("content-type").unwrap_or_default().to_owned();
                let digest = Digest::of(&request.body).to_string();
                state.manifests.insert(key, (media_type.clone(), request.body.clone()));
                state.manifests.insert(format!("{repository}:{digest}"), (media_type, request.body.clone()));
                Reply::new(201).with("docker-content-digest", digest)
            }
            _ => match state.manifests.get(&key) {
                Some((media_type, bytes)) => Reply::new(200)
                    .with("content-type", media_type)
                    .with("docker-content-digest", Digest::of(bytes).to_string())
                    .body(bytes.clone()),
                None => Reply::new(404),
            },
        };
    }
    if let Some((repository, session)) = rest.split_once("/blobs/uploads/") {
        return upload(state, request, repository, session);
    }
    match rest.split_once("/blobs/").and_then(|(_, digest)| state.blobs.get(digest)) {
        Some(bytes) => blob(bytes, request),
        None => Reply::new(404),
    }
}

/// A blob, or the range of it that is asked for.
pub(crate) fn blob(bytes: &[u8], request: &Request) -> Reply {
    let range = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let Some((from, to)) = range else { return Reply::new(200).body(bytes) };
    let from: usize = from.parse().expect("a number");
    let end = to.parse::<usize>().map_or(bytes.len(), |last| last + 1);
    Reply::new(206).with("content-range", format!("bytes {from}-{}/{}", end - 1, bytes.len())).body(&bytes[from..end])
}

fn upload(state: &mut State, request: &Request, repository: &str, session: &str) -> Reply {
    match request.method.as_str() {
        "POST" => {
            if let Some(digest) = request.query("mount").filter(|digest| state.blobs.contains_key(digest)) {
                return Reply::new(201).with("docker-content-digest", digest);
            }
            let session = format!("s{}", state.sessions.len());
            state.sessions.insert(session.clone(), Vec::new());
            Reply::new(202).with("location", format!("/v2/{repository}/blobs/uploads/{session}?_state=x"))
        }
        "PATCH" => {
            state.sessions.entry(session.to_owned()).or_default().extend(&request.body);
            Reply::new(202).with("location", format!("/v2/{repository}/blobs/uploads/{session}?_state=y"))
        }
        "PUT" => {
            let mut bytes = state.sessions.remove(session).unwrap_or_default();
            bytes.extend(&request.body);
            let wanted = request.query("digest").unwrap_or_default();
            let algorithm = if wanted.starts_with("sha512:") { Algorithm::Sha512 } else { Algorithm::Sha256 };
            let mut hasher = Hasher::new(algorithm);
            hasher.update(&bytes);
            if hasher.finish().to_string() != wanted {
                return Reply::new(400);
            }
            state.blobs.insert(wanted.clone(), bytes);
            Reply::new(201).with("docker-content-digest", wanted)
        }
        _ => Reply::new(204),
    }
}
