//! Plain files on the web: what `ADD https://…` and remote build contexts name.
//!
//! What this module is not: it knows no registry, no credential but what the address itself holds, and nothing of what
//! the bytes mean.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use layerfs::error::{Context, Error, Kind, Result};
use reqwest::header::{
    CONTENT_DISPOSITION, ETAG, HeaderMap, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};
use reqwest::{Client, StatusCode, Url};
use tokio::sync::mpsc;

use super::auth::is_loopback;
use super::client::STALL;
use super::reactor::Reactor;
use super::retry;
use super::tls::{self, Protocols, Trust};
use crate::time::parse_http_date;

/// Longest chain of redirects.
const HOPS_MAX: usize = 10;
const USER_AGENT: &str = concat!("layerfs-build/", env!("CARGO_PKG_VERSION"));

/// What a server said of a file. Given back to it, it tells whether the file is still the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// `ETag`.
    pub etag: Option<String>,
    /// `Last-Modified`, as it came.
    pub last_modified: Option<String>,
}

impl Validators {
    /// `Last-Modified` in seconds since 1970.
    pub fn modified(&self) -> Option<i64> {
        self.last_modified.as_deref().and_then(parse_http_date)
    }
}

/// A server's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// The file is what it was when the validators came.
    Unchanged,
    /// The file was written.
    Whole {
        /// What tells it from later ones.
        validators: Validators,
        /// The name that the server gives it (`Content-Disposition`).
        name: Option<String>,
    },
}

/// Fetches `url` into `out`, unless `known` says that it is what the caller has. Redirects are followed; a server that fails is
/// asked again as long as nothing was written. `verify` is false where any certificate will do.
///
/// # Errors
/// The address is none, the server cannot be reached, answers with an error or breaks off, or `out` cannot be written.
pub fn fetch(url: &str, known: &Validators, verify: bool, retries: u32, out: &mut dyn Write) -> Result<Fetched> {
    let address = Url::parse(url)
        .map_err(|error| Error::new(Kind::Invalid, format!("`{url}` is not a web address")).because(error))?;
    let shown = shown(&address);
    let client = client(&address, verify)?;
    let reactor = Reactor::start()?;
    let (sender, mut pieces) = mpsc::channel::<Bytes>(4);
    let (known, name) = (known.clone(), shown.clone());
    let answer = std::thread::scope(|scope| {
        let reactor = &reactor;
        let asking = scope.spawn(move || {
            reactor.wait(async move {
                let mut attempt = 0;
                loop {
                    match exchange(&client, &address, &name, &known, &sender).await {
                        Err(Broken { error, again: true }) if attempt < retries => {
                            attempt += 1;
                            let pause = retry::pause(attempt, None, retry::jitter()).unwrap_or(STALL);
                            tokio::time::sleep(pause).await;
                            drop(error);
                        }
                        Err(broken) => return Err(broken.error),
                        Ok(answer) => return Ok(answer),
                    }
                }
            })
        });
        let mut written = Ok(());
        while let Some(piece) = pieces.blocking_recv() {
            written = out.write_all(&piece);
            if written.is_err() {
                // The other side ends with its receiver.
                drop(pieces);
                break;
            }
        }
        let gone = || Err(Error::new(Kind::System, "the network thread ended early"));
        let answer = asking.join().unwrap_or_else(|_| gone());
        written.context(|| format!("write what `{shown}` sends"))?;
        answer
    })?;
    Ok(answer)
}

fn client(address: &Url, verify: bool) -> Result<Client> {
    tls::install_provider();
    let trust = if verify { Trust::Authorities } else { Trust::Anybody };
    let local = address.host_str().is_some_and(is_loopback);
    let builder = if local { Client::builder().no_proxy() } else { Client::builder() };
    builder
        .tls_backend_preconfigured(tls::config(trust, None, Protocols::Any)?)
        .redirect(reqwest::redirect::Policy::limited(HOPS_MAX))
        .connect_timeout(Duration::from_secs(15))
        .read_timeout(STALL)
        .user_agent(USER_AGENT)
        .build()
        .map_err(|error| Error::new(Kind::System, "HTTP client cannot be set up").because(error))
}

/// The address for messages: passwords are nobody's business.
fn shown(address: &Url) -> String {
    let mut address = address.clone();
    if address.password().is_some() {
        // An address that has a password takes another one.
        let _ = address.set_password(Some("xxxxx"));
    }
    address.to_string()
}

struct Broken {
    error: Error,
    /// Nothing was handed on, and another attempt may end better.
    again: bool,
}

async fn exchange(
    client: &Client,
    address: &Url,
    shown: &str,
    known: &Validators,
    sender: &mpsc::Sender<Bytes>,
) -> Result<Fetched, Broken> {
    let broken = |error: reqwest::Error, again: bool| {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        Broken { error: Error::new(Kind::Unavailable, format!("fetch `{shown}`: {cause}")), again }
    };
    let mut request = client.get(address.clone());
    for (header, value) in [(IF_NONE_MATCH, &known.etag), (IF_MODIFIED_SINCE, &known.last_modified)] {
        if let Some(value) = value {
            request = request.header(header, value);
        }
    }
    let mut reply = request.send().await.map_err(|error| broken(error, true))?;
    let status = reply.status();
    if status == StatusCode::NOT_MODIFIED {
        return Ok(Fetched::Unchanged);
    }
    if !status.is_success() {
        let kind = match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Kind::NotFound,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Kind::Denied,
            _ => Kind::Unavailable,
        };
        let error = Error::new(kind, format!("fetch `{shown}`: the server answers {status}"));
        return Err(Broken { error, again: retry::is_transient(status) });
    }
    let text = |name: HeaderName| text(reply.headers(), name);
    let validators = Validators { etag: text(ETAG), last_modified: text(LAST_MODIFIED) };
    let name = text(CONTENT_DISPOSITION).and_then(|value| file_name(&value));
    let mut handed_on = false;
    while let Some(piece) = reply.chunk().await.map_err(|error| broken(error, !handed_on))? {
        handed_on = true;
        if sender.send(piece).await.is_err() {
            break;
        }
    }
    Ok(Fetched::Whole { validators, name })
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// The plain `filename=` of a `Content-Disposition`, without folders.
fn file_name(value: &str) -> Option<String> {
    let fields = value.split(';').skip(1).filter_map(|field| field.trim().split_once('='));
    let (_, name) = fields.into_iter().find(|(key, _)| key.trim().eq_ignore_ascii_case("filename"))?;
    let name = name.trim().trim_matches('"').rsplit(['/', '\\']).next().unwrap_or_default();
    (!matches!(name, "" | "." | "..")).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    use super::*;

    /// Answers one request each with these replies; gives the requests.
    fn serve(replies: Vec<String>) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/a/file", listener.local_addr().expect("an address"));
        let serving = std::thread::spawn(move || {
            let mut requests = Vec::new();
            for reply in replies {
                let (mut stream, _) = listener.accept().expect("a client");
                let lines = BufReader::new(stream.try_clone().expect("a socket")).lines();
                let head: Vec<String> = lines.map_while(|line| line.ok().filter(|line| !line.is_empty())).collect();
                requests.push(head.join("\n"));
                stream.write_all(reply.as_bytes()).expect("it listens");
            }
            requests
        });
        (url, serving)
    }

    fn reply(head: &str, body: &str) -> String {
        format!("HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    #[test]
    fn a_file_comes_with_what_tells_it_from_later_ones() {
        let head = "200 OK\r\nETag: \"1\"\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n\
                    Content-Disposition: attachment; filename=\"x/y.txt\"";
        let (url, serving) = serve(vec![reply(head, "hello"), reply("304 Not Modified", "")]);
        let mut out = Vec::new();
        let first = fetch(&url, &Validators::default(), true, 0, &mut out).expect("fetched");
        let Fetched::Whole { validators, name } = first else { panic!("{first:?}") };
        assert_eq!(
            (&out[..], validators.modified(), name.as_deref()),
            (&b"hello"[..], Some(1_445_412_480), Some("y.txt"))
        );
        assert_eq!(fetch(&url, &validators, true, 0, &mut out).expect("asked"), Fetched::Unchanged);
        let requests = serving.join().expect("served");
        assert!(requests[1].to_lowercase().contains("if-none-match: \"1\""), "{requests:?}");
    }

    #[test]
    fn errors_name_the_address_without_its_password() {
        let (url, serving) = serve(vec![reply("404 Not Found", "")]);
        let url = url.replace("http://", "http://me:secret@");
        let error = fetch(&url, &Validators::default(), true, 0, &mut Vec::new()).expect_err("not there");
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.to_string().contains("me:xxxxx@") && !error.to_string().contains("secret"), "{error}");
        serving.join().expect("served");
    }

    #[test]
    fn a_server_that_stumbles_is_asked_again() {
        let (url, serving) = serve(vec![reply("503 Service Unavailable", ""), reply("200 OK", "x")]);
        let mut out = Vec::new();
        fetch(&url, &Validators::default(), true, 1, &mut out).expect("fetched");
        assert_eq!((&out[..], serving.join().expect("served").len()), (&b"x"[..], 2));
    }
}
