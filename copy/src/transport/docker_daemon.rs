//! `docker-daemon:`: the images of a docker daemon, by its API.
//!
//! The daemon gives and takes archives of `docker save`. One that comes has its members in an order of its own, so it
//! is kept in a scratch file while it is read; one that goes streams while it is made.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::Descriptor;
use layerfs::reference::Reference;
use serde_json::Value;

use super::docker_archive::{DockerArchiveSink, DockerArchiveSource};
use super::{Opener, Sent, Sink, Source, scratch_file};
use crate::inventory::Inventory;
use crate::location::{Place, Selector};
use crate::stream::Chunks;

/// The daemon's own socket.
const USUAL: &str = "unix:///var/run/docker.sock";
/// Longest line of a head, in bytes.
const LINE_MAX: u64 = 64 << 10;
/// Largest message of the daemon, in bytes.
const MESSAGE_MAX: u64 = 1 << 20;

/// A byte stream to the daemon.
trait Connection: Read + Write + Send {}
impl<T: Read + Write + Send> Connection for T {}

/// Connects to the daemon at `host`, which `DOCKER_HOST` names otherwise.
fn connect(host: Option<&str>) -> Result<Box<dyn Connection>> {
    let from_env = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
    let host = host.map(str::to_owned).or(from_env).unwrap_or_else(|| USUAL.to_owned());
    let failed = || format!("reach docker's daemon at `{host}`");
    if let Some(path) = host.strip_prefix("unix://") {
        return Ok(Box::new(UnixStream::connect(path).context(failed)?));
    }
    match host.strip_prefix("tcp://").or_else(|| host.strip_prefix("http://")) {
        Some(address) => Ok(Box::new(TcpStream::connect(address.trim_end_matches('/')).context(failed)?)),
        None => Err(Error::new(Kind::Unsupported, format!("docker's daemon at `{host}` cannot be reached"))
            .hint("unix:// and tcp:// can")),
    }
}

/// What the daemon answered: its status and a reader of the body.
struct Answer {
    status: u16,
    body: Box<dyn Read + Send>,
}

fn read_answer(connection: impl Read + Send + 'static) -> Result<Answer> {
    let mut reader = BufReader::with_capacity(1 << 17, connection);
    let mut line = || -> Result<String> {
        let mut line = String::new();
        reader.by_ref().take(LINE_MAX).read_line(&mut line).context(|| "read docker's answer")?;
        Ok(line.trim_end().to_owned())
    };
    let first = line()?;
    let malformed = || Error::new(Kind::Invalid, "docker's daemon gives no answer that makes sense");
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(malformed)?;
    let (mut chunked, mut length) = (false, None);
    loop {
        let header = line()?;
        let Some((name, value)) = header.split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "transfer-encoding" => chunked = value.trim().eq_ignore_ascii_case("chunked"),
            "content-length" => length = value.trim().parse().ok(),
            _ => {}
        }
    }
    let body: Box<dyn Read + Send> = match (chunked, length) {
        (true, _) => Box::new(Chunked { reader, left: 0, ended: false }),
        (false, Some(length)) => Box::new(reader.take(length)),
        (false, None) => Box::new(reader),
    };
    Ok(Answer { status, body })
}

/// A body in HTTP's chunks.
struct Chunked<R> {
    reader: R,
    left: u64,
    ended: bool,
}

impl<R: BufRead> Read for Chunked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let cut = || std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the answer was cut off");
        while self.left == 0 {
            if self.ended {
                return Ok(0);
            }
            let mut line = String::new();
            self.reader.by_ref().take(LINE_MAX).read_line(&mut line)?;
            // The line end of the chunk before.
            if line.trim().is_empty() && !line.is_empty() {
                continue;
            }
            let digits = line.trim().split(';').next().unwrap_or_default();
            self.left = u64::from_str_radix(digits, 16).map_err(|_| cut())?;
            self.ended = self.left == 0;
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.reader.read(&mut buffer[..most])?;
        if n == 0 {
            return Err(cut());
        }
        self.left -= n as u64;
        Ok(n)
    }
}

/// The daemon's own words about a failure.
fn refusal(action: &str, answer: Answer) -> Error {
    let mut text = String::new();
    let _ = answer.body.take(MESSAGE_MAX).read_to_string(&mut text);
    let message =
        serde_json::from_str::<Value>(&text).ok().and_then(|value| Some(value.get("message")?.as_str()?.to_owned()));
    let said: String = message.unwrap_or_default().chars().filter(|c| !c.is_control()).take(300).collect();
    let kind = if answer.status == 404 { Kind::NotFound } else { Kind::Unavailable };
    Error::new(kind, format!("{action}: docker's daemon answers {} ({said})", answer.status))
}

/// An image of the daemon.
pub(crate) struct DaemonSource {
    archive: DockerArchiveSource,
    // The archive is read by way of this descriptor.
    _scratch: std::fs::File,
}

impl DaemonSource {
    /// Fetches the image `name`.
    pub(crate) fn open(name: &str, host: Option<&str>) -> Result<Self> {
        let mut connection = connect(host)?;
        let familiar = name.parse::<Reference>().map_or_else(|_| name.to_owned(), |name| name.or_latest().familiar());
        let escaped: String = familiar
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/' | b':' | b'@' => {
                    char::from(byte).to_string()
                }
                other => format!("%{other:02X}"),
            })
            .collect();
        let request = format!("GET /images/{escaped}/get HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).context(|| "ask docker's daemon")?;
        let mut answer = read_answer(connection)?;
        if answer.status != 200 {
            return Err(refusal(&format!("get `{familiar}`"), answer));
        }
        let mut scratch = scratch_file()?;
        std::io::copy(&mut answer.body, &mut scratch).context(|| format!("get `{familiar}` of docker's daemon"))?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", scratch.as_raw_fd()));
        let archive = DockerArchiveSource::open(&Place { path, image: Selector::Only })?;
        Ok(Self { archive, _scratch: scratch })
    }
}

impl Source for DaemonSource {
    fn root(&self) -> Result<(Descriptor, Vec<u8>)> {
        self.archive.root()
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.archive.document(descriptor)
    }

    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Chunks>> {
        self.archive.open(blob)
    }
}

/// A place for an image in the daemon.
pub(crate) struct DaemonSink {
    archive: DockerArchiveSink,
    loading: Mutex<Option<JoinHandle<Result<()>>>>,
}

impl DaemonSink {
    /// Begins to load an image under `name` and more names.
    pub(crate) fn create(name: &str, additional: &[Reference], host: Option<&str>) -> Result<Self> {
        let name = name.parse::<Reference>()?.or_latest();
        if name.digest().is_some() {
            return Err(Error::new(
                Kind::Usage,
                format!("`docker-daemon:{name}` names a digest, which a destination cannot have"),
            ));
        }
        let connection = connect(host)?;
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context(|| "make a pipe")?;
        let loading = std::thread::spawn(move || load(connection, reader));
        let path = PathBuf::from(format!("/proc/self/fd/{}", writer.as_raw_fd()));
        let place = Place { path, image: Selector::Named(name.to_string()) };
        // The archive opens the pipe anew: ours is closed, so that the last writer's end is the archive's.
        let archive = DockerArchiveSink::create(&place, additional)?;
        drop(writer);
        Ok(Self { archive, loading: Mutex::new(Some(loading)) })
    }
}

/// Sends what comes out of the pipe to the daemon and hears what it says.
fn load(mut connection: Box<dyn Connection>, archive: OwnedFd) -> Result<()> {
    let mut archive = std::fs::File::from(archive);
    let failed = || "load an image into docker's daemon";
    let head = "POST /images/load?quiet=1 HTTP/1.1\r\nHost: docker\r\nConnection: close\r\nContent-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n\r\n";
    connection.write_all(head.as_bytes()).context(failed)?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        let n = archive.read(&mut buffer).context(failed)?;
        connection.write_all(format!("{n:x}\r\n").as_bytes()).context(failed)?;
        connection.write_all(&buffer[..n]).and_then(|()| connection.write_all(b"\r\n")).context(failed)?;
        if n == 0 {
            break;
        }
    }
    connection.flush().context(failed)?;
    let answer = read_answer(connection)?;
    if answer.status != 200 {
        return Err(refusal("load an image", answer));
    }
    // The daemon has begun to answer before it knows how it ends.
    let mut text = String::new();
    answer.body.take(MESSAGE_MAX).read_to_string(&mut text).context(failed)?;
    let error = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    match error.filter_map(|line| Some(line.get("error")?.as_str()?.to_owned())).next() {
        Some(said) => Err(Error::new(Kind::Invalid, format!("docker's daemon does not take the image: {said}"))),
        None => Ok(()),
    }
}

impl Sink for DaemonSink {
    fn is_current(&self, _root: &Descriptor) -> Result<bool> {
        Ok(false)
    }

    fn prepare(&self, inventory: &Inventory, source: &dyn Source) -> Result<()> {
        self.archive.prepare(inventory, source)
    }

    fn existing(&self, blobs: &[Descriptor]) -> Result<Vec<bool>> {
        self.archive.existing(blobs)
    }

    fn put_blob(&self, blob: &Descriptor, from: Option<&str>, open: Opener<'_>) -> Result<Sent> {
        self.archive.put_blob(blob, from, open)
    }

    fn put_document(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
        self.archive.put_document(descriptor, bytes)
    }

    fn finish(&self, root: &Descriptor, bytes: &[u8]) -> Result<()> {
        let written = self.archive.finish(root, bytes);
        let loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner).take();
        let cut = || Error::new(Kind::Interrupted, "loading the image was cut off");
        let loaded = loading.ok_or_else(cut)?.join().map_err(|_| cut())?;
        // What the daemon says explains a pipe that broke.
        loaded.and(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_whole_or_in_chunks() {
        let check = |text: &'static str, expected: (u16, &str)| {
            let mut answer = read_answer(text.as_bytes()).expect("an answer");
            let mut body = String::new();
            answer.body.read_to_string(&mut body).expect("a body");
            assert_eq!((answer.status, body.as_str()), expected);
        };
        check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd", (200, "abc"));
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n",
            (200, "abcde"),
        );
        check("HTTP/1.1 404 Not Found\r\n\r\n{}", (404, "{}"));
        assert!(read_answer(&b"nonsense"[..]).is_err());
        let mut answer =
            read_answer(&b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"[..]).expect("an answer");
        assert!(answer.body.read_to_string(&mut String::new()).is_err(), "cut off");
    }
}
