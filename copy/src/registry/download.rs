//! Downloading a blob as a stream that survives broken connections.
//!
//! A large blob whose bytes come slowly is fetched in several ranges at once, where the registry gives ranges out:
//! many of them bound what one connection gets. The ranges are handed on in their order, so that who reads sees one
//! stream and checks it as a whole. Where anything about a range is not as it should be, the blob is fetched as a
//! single stream again, from where it is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use layerfs::error::{Error, Kind, Result};
use layerfs::oci::Descriptor;
use reqwest::header::{ACCEPT_RANGES, CONTENT_RANGE, RANGE};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::auth::Scope;
use super::client::{Call, Host, Lane, STALL};
use super::error::{BROKEN, of_transport};
use crate::stream::{Chunks, DAMAGED};

/// Chunks that wait for a slow reader. A chunk is what one read of the socket gave, up to about 400 KiB: with six
/// blobs at once this is most of the memory the program takes, and more of it has made nothing faster.
const AHEAD: usize = 2;
/// Bytes of a stream after which its speed is judged.
const JUDGED: u64 = 8 << 20;
/// A stream faster than this, in bytes a second, is not bound by its connection.
const FAST: f64 = 100e6;
/// Bytes of a range, and how many are fetched at once: their product is held in memory.
const PART: u64 = 2 << 20;
const PARTS: usize = 6;
/// A rest of this many bytes is worth several connections.
const WORTHWHILE: u64 = PART * PARTS as u64;
/// So many blobs may be on their way from a registry for one of them to get several connections.
const ALONE: usize = 2;
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
    host: &Arc<Host>,
    path: &str,
    blob: &Descriptor,
    from: u64,
    sender: &mpsc::Sender<Result<Bytes>>,
) -> Result<()> {
    let _under_way = host.downloads(blob.size);
    let action = format!("pull blob `{}` of `{}/{path}`", blob.digest, host.name());
    let mut call = Call::new(
        Method::GET,
        host.url(&format!("/v2/{path}/blobs/{}", blob.digest)).await?,
        Scope::pull(path),
        action.clone(),
    );
    call.lane = if blob.size > PROGRESS { Lane::Bulk } else { Lane::Control };
    let (mut at, mut failures, mut mark, mut may_split) = (from, 0, from, true);
    loop {
        let error = match attempt(host, &call, blob, &mut at, may_split, sender).await {
            Ok(End::Complete | End::Abandoned) => return Ok(()),
            Ok(End::Broken(error)) => error,
            Ok(End::Slow) => {
                if ranges(host, &call, blob, &mut at, sender).await {
                    return Ok(());
                }
                may_split = false;
                continue;
            }
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
    /// The registry gives the rest out in ranges, and several connections may be faster.
    Slow,
}

/// One request: hands bytes on from `at` and moves it.
async fn attempt(
    host: &Host,
    call: &Call,
    blob: &Descriptor,
    at: &mut u64,
    may_split: bool,
    sender: &mpsc::Sender<Result<Bytes>>,
) -> Result<End> {
    let ranged = if *at > 0 { call.again().header(RANGE, &format!("bytes={at}-")) } else { call.again() };
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
    let gives_ranges = reply.status() == StatusCode::PARTIAL_CONTENT
        || reply.headers().get(ACCEPT_RANGES).is_some_and(|unit| unit.as_bytes() == b"bytes");
    let mut speed = Speed::new(may_split && gives_ranges);
    loop {
        if speed.is_low(blob.size - *at) && host.are_alone(ALONE) {
            return Ok(End::Slow);
        }
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
        speed.passed(chunk.len());
        let given = Instant::now();
        if sender.send(Ok(chunk)).await.is_err() {
            return Ok(End::Abandoned);
        }
        speed.waited(given.elapsed());
        if endless {
            // The reader has seen one byte too many and fails; no need to read on.
            return Ok(End::Complete);
        }
    }
}

/// How fast a stream is, without the time its reader takes.
struct Speed {
    judged: bool,
    bytes: u64,
    begun: Instant,
    reader: Duration,
}

impl Speed {
    fn new(judged: bool) -> Self {
        Self { judged, bytes: 0, begun: Instant::now(), reader: Duration::ZERO }
    }

    fn passed(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    fn waited(&mut self, time: Duration) {
        self.reader += time;
    }

    /// Whether more connections may help the `rest`. Asked before every read, answered once in a while.
    fn is_low(&mut self, rest: u64) -> bool {
        if !self.judged || self.bytes < JUDGED || rest < WORTHWHILE {
            return false;
        }
        let time = self.begun.elapsed().saturating_sub(self.reader);
        let low = (self.bytes as f64) < FAST * time.as_secs_f64();
        *self = Self::new(true);
        low
    }
}

/// Fetches the rest in ranges, several at once, and hands them on in their order. `false` where something was not as
/// it should be; `at` then says how far it got.
async fn ranges(
    host: &Arc<Host>,
    call: &Call,
    blob: &Descriptor,
    at: &mut u64,
    sender: &mpsc::Sender<Result<Bytes>>,
) -> bool {
    let mut under_way: VecDeque<Part> = VecDeque::new();
    let mut next = *at;
    loop {
        while under_way.len() < PARTS && next < blob.size {
            let end = blob.size.min(next + PART);
            under_way.push_back(Part::fetch(host, call, next, end, blob.size));
            next = end;
        }
        let Some(mut part) = under_way.pop_front() else { return true };
        let Ok(Some(chunks)) = (&mut part.0).await else { return false };
        for chunk in chunks {
            *at += chunk.len() as u64;
            if sender.send(Ok(chunk)).await.is_err() {
                return true;
            }
        }
    }
}

/// A range on its way; it is given up when this is dropped.
struct Part(JoinHandle<Option<Vec<Bytes>>>);

impl Part {
    fn fetch(host: &Arc<Host>, call: &Call, from: u64, end: u64, size: u64) -> Self {
        let call = call.again().header(RANGE, &format!("bytes={from}-{}", end - 1));
        let host = host.clone();
        Self(tokio::spawn(async move {
            let mut reply = host.send(&call).await.ok()?;
            if reply.status() != StatusCode::PARTIAL_CONTENT || range_of(&reply) != Some((from, size)) {
                return None;
            }
            let (mut chunks, mut left) = (Vec::new(), end - from);
            while left > 0 {
                let chunk = tokio::time::timeout(STALL, reply.chunk()).await.ok()?.ok()??;
                left = left.checked_sub(chunk.len() as u64)?;
                chunks.push(chunk);
            }
            Some(chunks)
        }))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The first byte and the whole size of `Content-Range: bytes 5-9/10`.
fn range_of(reply: &Response) -> Option<(u64, u64)> {
    let text = reply.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let size = text.rsplit_once('/')?.1.trim().parse().ok()?;
    Some((starts_at(reply)?, size))
}

/// The first byte of `Content-Range: bytes 5-9/10`.
fn starts_at(reply: &Response) -> Option<u64> {
    let text = reply.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}
