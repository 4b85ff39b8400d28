//! Downloading a blob as a stream that survives broken connections.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use layerfs::error::{Error, Kind, Result};
use layerfs::oci::Descriptor;
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::mpsc;

use super::auth::Scope;
use super::client::{Call, Host, Lane, STALL};
use super::error::{BROKEN, of_transport};
use crate::stream::{Chunks, DAMAGED};

/// Chunks that wait for a slow reader. A chunk is what one read of the socket gave, up to about 400 KiB: with six
/// blobs at once this is most of the memory the program takes, and more of it has made nothing faster.
const AHEAD: usize = 2;
/// A connection that delivered this much counts as a working one: the number of allowed failures starts anew.
const PROGRESS: u64 = 1 << 20;

/// A blob on its way from a registry. Its bytes are not verified yet.
pub(crate) struct Download {
    chunks: mpsc::Receiver<Result<Bytes>>,
}

impl Chunks for Download {
    fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        self.chunks.blocking_recv().transpose()
    }
}

/// A download after the first `from` bytes, and the task that feeds it, which has to run on the reactor. It ends when the download is dropped.
pub(super) fn start(
    host: Arc<Host>,
    path: String,
    blob: Descriptor,
    from: u64,
) -> (Download, impl Future<Output = ()> + Send) {
    let (sender, chunks) = mpsc::channel(AHEAD);
    let task = async move {
        if let Err(error) = feed(&host, &path, &blob, from, &sender).await {
            let _ = sender.send(Err(error)).await;
        }
    };
    (Download { chunks }, task)
}

async fn feed(
    host: &Host,
    path: &str,
    blob: &Descriptor,
    from: u64,
    sender: &mpsc::Sender<Result<Bytes>>,
) -> Result<()> {
    let action = format!("pull blob `{}` of `{}/{path}`", blob.digest, host.name());
    let mut call = Call::new(
        Method::GET,
        host.url(&format!("/v2/{path}/blobs/{}", blob.digest)).await?,
        Scope::pull(path),
        action.clone(),
    );
    call.lane = if blob.size > PROGRESS { Lane::Bulk } else { Lane::Control };
    let (mut at, mut failures, mut mark) = (from, 0, from);
    loop {
        let error = match attempt(host, &call, blob, &mut at, sender).await {
            Ok(End::Complete | End::Abandoned) => return Ok(()),
            Ok(End::Broken(error)) => error,
            Err(error) => return Err(error),
        };
        if at - mark >= PROGRESS {
            (failures, mark) = (0, at);
        }
        failures += 1;
        if failures > host.retries() {
            return Err(error);
        }
        tokio::time::sleep(host.pause_before(failures)).await;
    }
}

enum End {
    /// All bytes were handed on.
    Complete,
    /// Nobody reads any more.
    Abandoned,
    /// The connection broke; going on from `at` may help.
    Broken(Error),
}

/// One request: hands bytes on from `at` and moves it.
async fn attempt(
    host: &Host,
    call: &Call,
    blob: &Descriptor,
    at: &mut u64,
    sender: &mpsc::Sender<Result<Bytes>>,
) -> Result<End> {
    let ranged = Call {
        method: call.method.clone(),
        url: call.url.clone(),
        headers: Vec::new(),
        body: Bytes::new(),
        scope: call.scope.clone(),
        lane: call.lane,
        patience: call.patience,
        action: call.action.clone(),
    };
    let ranged = if *at > 0 { ranged.header(RANGE, &format!("bytes={at}-")) } else { ranged };
    let mut reply = host.send(&ranged).await?;
    // What the server sends again although we have it.
    let mut skip = match reply.status() {
        StatusCode::OK => *at,
        StatusCode::PARTIAL_CONTENT if starts_at(&reply) == Some(*at) => 0,
        StatusCode::PARTIAL_CONTENT => {
            let other = format!("{}: registry `{}` sends another range than asked for", call.action, host.name());
            return Err(Error::new(Kind::Invalid, other));
        }
        _ => return Err(host.failure(&ranged, reply).await),
    };
    let announced = reply.content_length().map(|length| length + *at - skip);
    if announced.is_some_and(|announced| announced != blob.size) {
        let wrong = format!(
            "{}: registry `{}` announces {} bytes instead of {}",
            call.action,
            host.name(),
            announced.unwrap_or_default(),
            blob.size
        );
        return Err(Error::new(Kind::Corrupt, wrong).hint(DAMAGED));
    }
    loop {
        let mut chunk = match tokio::time::timeout(STALL, reply.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) if *at >= blob.size => return Ok(End::Complete),
            Ok(Ok(None)) => {
                let short = format!(
                    "{}: registry `{}` ends the blob after {at} of {} bytes",
                    call.action,
                    host.name(),
                    blob.size
                );
                return Ok(End::Broken(Error::new(Kind::Corrupt, short).hint(DAMAGED)));
            }
            Ok(Err(failure)) => {
                let broken = of_transport(&host.subject(&call.action), &failure);
                let sentence = format!("{} (after {at} of {} bytes)", broken, blob.size);
                return Ok(End::Broken(Error::new(Kind::Unavailable, sentence).hint(BROKEN)));
            }
            Err(_) => return Ok(End::Broken(host.silent(call))),
        };
        let repeated = skip.min(chunk.len() as u64);
        skip -= repeated;
        chunk.advance(usize::try_from(repeated).unwrap_or(chunk.len()));
        if chunk.is_empty() {
            continue;
        }
        *at += chunk.len() as u64;
        let endless = *at > blob.size;
        if sender.send(Ok(chunk)).await.is_err() {
            return Ok(End::Abandoned);
        }
        if endless {
            // The reader has seen one byte too many and fails; no need to read on.
            return Ok(End::Complete);
        }
    }
}

/// The first byte of `Content-Range: bytes 5-9/10`.
fn starts_at(reply: &Response) -> Option<u64> {
    let text = reply.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}
