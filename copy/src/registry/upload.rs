//! Uploading a blob: mounted from a sister repository, sent whole where it is small, streamed where it is not.
//!
//! Source: distribution-spec "Pushing blobs". The request that makes a blob visible (`PUT …?digest=`) is sent only
//! after every byte was found right; an upload that fails is cancelled, so that the registry can drop what it has.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use layerfs::digest::Digest;
use layerfs::error::{Error, Kind, Result};
use layerfs::oci::Descriptor;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use reqwest::{Body, Method, StatusCode, Url};
use tokio::sync::mpsc;

use super::auth::Scope;
use super::client::{COMPLETION, Call, Host, Lane, STALL};

const OCTETS: &str = "application/octet-stream";

/// An upload that was begun.
pub(super) enum Begun {
    /// The registry took the blob from its sister repository.
    Mounted,
    /// The registry waits for bytes at this address.
    Session(Url),
}

/// What ends a stream before its time. The reader's own error says why; this one only breaks the request.
#[derive(Debug)]
pub(super) struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the blob ended before its time")
    }
}

impl std::error::Error for Cut {}

/// Whether the repository has a blob of that digest and size.
pub(super) async fn exists(host: &Host, path: &str, blob: &Descriptor, scope: Scope) -> Result<bool> {
    let url = host.url(&format!("/v2/{path}/blobs/{}", blob.digest)).await?;
    let call =
        Call::new(Method::HEAD, url, scope, format!("look for blob `{}` in `{}/{path}`", blob.digest, host.name()));
    let reply = host.send(&call).await?;
    match reply.status() {
        StatusCode::OK => {
            let size = reply.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
            Ok(size.is_none_or(|size| size == blob.size))
        }
        // Whatever else speaks against it shows when the blob is sent, in words: an answer to HEAD has none.
        status if status.is_client_error() => Ok(false),
        _ => Err(host.failure(&call, reply).await),
    }
}

/// A blob's size; `None` where the repository does not have it.
pub(super) async fn size(host: &Host, path: &str, digest: Digest) -> Result<Option<u64>> {
    let url = host.url(&format!("/v2/{path}/blobs/{digest}")).await?;
    let action = format!("look for blob `{digest}` in `{}/{path}`", host.name());
    let call = Call::new(Method::HEAD, url, Scope::pull(path), action);
    let reply = host.send(&call).await?;
    match reply.status() {
        StatusCode::OK => {
            let size = reply.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
            let unsaid =
                || Error::new(Kind::Invalid, format!("{}: registry `{}` does not say", call.action, host.name()));
            size.map(Some).ok_or_else(unsaid)
        }
        StatusCode::NOT_FOUND => Ok(None),
        _ => Err(host.failure(&call, reply).await),
    }
}

/// Removes a blob.
pub(super) async fn delete(host: &Host, path: &str, digest: Digest) -> Result<()> {
    let url = host.url(&format!("/v2/{path}/blobs/{digest}")).await?;
    let action = format!("delete blob `{digest}` of `{}/{path}`", host.name());
    let call = Call::new(Method::DELETE, url, Scope::delete(path), action);
    let reply = host.send(&call).await?;
    match reply.status().is_success() {
        true => Ok(()),
        false => Err(host.failure(&call, reply).await),
    }
}

/// Opens a session, or has the blob mounted from the repository `from` on the same registry.
pub(super) async fn begin(host: &Host, path: &str, digest: Digest, from: Option<&str>) -> Result<Begun> {
    let mut url = host.url(&format!("/v2/{path}/blobs/uploads/")).await?;
    let mut scope = Scope::push(path);
    if let Some(from) = from {
        url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from);
        scope = scope.with_source(from);
    }
    let call = Call::new(Method::POST, url, scope, action(host, path, digest));
    let reply = host.send(&call).await?;
    match reply.status() {
        StatusCode::CREATED => Ok(Begun::Mounted),
        StatusCode::ACCEPTED => Ok(Begun::Session(host.session(&call.url, &reply, &call.action).await?)),
        _ => Err(host.failure(&call, reply).await),
    }
}

/// Completes a session. `body` is the whole blob where nothing was sent before.
pub(super) async fn complete(host: &Host, path: &str, session: Url, digest: Digest, body: Bytes) -> Result<()> {
    let mut url = session;
    url.query_pairs_mut().append_pair("digest", &digest.to_string());
    let mut call = Call::new(Method::PUT, url, Scope::push(path), action(host, path, digest));
    call.lane = Lane::Bulk;
    call.patience = COMPLETION;
    if !body.is_empty() {
        call = call.header(CONTENT_TYPE, OCTETS);
        call.body = body;
    }
    let reply = host.send(&call).await?;
    match reply.status() {
        StatusCode::CREATED | StatusCode::OK | StatusCode::NO_CONTENT | StatusCode::ACCEPTED => Ok(()),
        _ => Err(host.failure(&call, reply).await),
    }
}

/// How far a session got, and where it goes on; `None` where the registry knows nothing of it any more, or does not say.
pub(super) async fn status(host: &Host, path: &str, session: Url, digest: Digest) -> Result<Option<(Url, u64)>> {
    let mut call = Call::new(Method::GET, session.clone(), Scope::push(path), action(host, path, digest));
    call.lane = Lane::Bulk;
    let reply = host.send(&call).await?;
    if reply.status() != StatusCode::NO_CONTENT {
        return Ok(None);
    }
    // `0-0` stands for one byte as well as for none: then nothing is lost by beginning anew.
    let range = reply.headers().get(RANGE).and_then(|value| value.to_str().ok());
    let end = range.and_then(|range| range.trim_start_matches("bytes=").split_once('-')?.1.trim().parse::<u64>().ok());
    let at = end.filter(|end| *end > 0).map(|end| end + 1);
    let next = match reply.headers().contains_key(LOCATION) {
        true => host.session(&call.url, &reply, &call.action).await?,
        false => session,
    };
    Ok(at.map(|at| (next, at)))
}

/// Streams the bytes of a blob after the first `at` into a session and returns the address that completes it.
pub(super) async fn stream(
    host: &Host,
    path: &str,
    session: &Url,
    blob: &Descriptor,
    at: u64,
    chunks: mpsc::Receiver<Result<Bytes, Cut>>,
) -> Result<Url> {
    let mut call = Call::new(Method::PATCH, session.clone(), Scope::push(path), action(host, path, blob.digest))
        .header(CONTENT_TYPE, OCTETS);
    if at > 0 {
        call = call.header(CONTENT_RANGE, &format!("{at}-{}", blob.size.saturating_sub(1)));
    }
    let (sent, size) = (Arc::new(AtomicU64::new(0)), blob.size - at);
    if size == 0 {
        // The registry has all of it. What was read again is still being checked.
        let mut chunks = chunks;
        while let Some(chunk) = chunks.recv().await {
            chunk.map_err(|cut| Error::new(Kind::Interrupted, cut.to_string()))?;
        }
        return Ok(session.clone());
    }
    let feed = Feed { chunks, remaining: size, sent: sent.clone() };
    let mut exchange = pin!(host.send_stream(&call, Body::wrap(feed)));
    let mut watch = pin!(stalled(&sent, size));
    let first = poll_fn(|context| match exchange.as_mut().poll(context) {
        Poll::Ready(reply) => Poll::Ready(Some(reply)),
        Poll::Pending => watch.as_mut().poll(context).map(|()| None),
    });
    let reply = first.await.unwrap_or_else(|| Err(host.silent(&call)))?;
    match reply.status() {
        // 201 instead of 202 is ECR's.
        StatusCode::ACCEPTED | StatusCode::CREATED | StatusCode::NO_CONTENT => {
            host.session(&call.url, &reply, &call.action).await
        }
        _ => Err(host.failure(&call, reply).await),
    }
}

/// Gives a session up. The registry forgets it in its own time if it does not hear this.
pub(super) async fn cancel(host: &Host, path: &str, session: Url) {
    let mut call = Call::new(Method::DELETE, session, Scope::push(path), "cancel an upload");
    call.patience = Duration::from_secs(5);
    let _ = tokio::time::timeout(call.patience, host.send(&call)).await;
}

/// Returns when no byte has moved for [`STALL`], or when the answer to a complete body is overdue.
async fn stalled(sent: &AtomicU64, size: u64) {
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = sent.load(Ordering::Relaxed);
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        let patience = if now >= size { COMPLETION } else { STALL };
        if since.elapsed() > patience {
            return;
        }
    }
}

fn action(host: &Host, path: &str, digest: Digest) -> String {
    format!("push blob `{digest}` to `{}/{path}`", host.name())
}

/// A request body out of a channel, of known length.
struct Feed {
    chunks: mpsc::Receiver<Result<Bytes, Cut>>,
    remaining: u64,
    sent: Arc<AtomicU64>,
}

impl http_body::Body for Feed {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        Poll::Ready(match ready!(self.chunks.poll_recv(context)) {
            Some(Ok(chunk)) => {
                self.remaining = self.remaining.saturating_sub(chunk.len() as u64);
                self.sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                Some(Ok(Frame::data(chunk)))
            }
            Some(Err(cut)) => Some(Err(cut)),
            None if self.remaining > 0 => Some(Err(Cut)),
            None => None,
        })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}
