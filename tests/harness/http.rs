//! As much of HTTP/1.1 as a registry needs, over plain sockets, so that a test can break it anywhere.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// One request with its whole body.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Without the query.
    pub(crate) path: String,
    pub(crate) query: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The client went away before the end of the body.
    pub(crate) broken: bool,
}

impl Request {
    /// The next request of a connection; none where the client closed it.
    pub(crate) fn read(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Self>> {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace();
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(io::Error::other(format!("not a request line: {line:?}")));
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut request = Self {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            broken: false,
        };
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            match line.trim_end().split_once(':') {
                Some((name, value)) => request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
                None => break,
            }
        }
        if request.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            request.body = read_chunks(stream)?;
        } else if let Some(length) = request.header("content-length").and_then(|value| value.parse().ok()) {
            let read = stream.by_ref().take(length as u64).read_to_end(&mut request.body);
            request.broken = read.is_err() || request.body.len() < length;
        }
        Ok(Some(request))
    }

    /// The value of a header, asked for in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The decoded value of a query parameter.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        self.query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| decode(value))
    }
}

fn read_chunks(stream: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let digits = line.trim().split(';').next().unwrap_or_default();
        let length =
            usize::from_str_radix(digits, 16).map_err(|_| io::Error::other(format!("not a chunk size: {line:?}")))?;
        let start = body.len();
        body.resize(start + length, 0);
        stream.read_exact(&mut body[start..])?;
        stream.read_line(&mut String::new())?;
        if length == 0 {
            return Ok(body);
        }
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = (*first == b'%').then(|| tail.get(..2)).flatten().and_then(|hex| std::str::from_utf8(hex).ok());
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => (bytes.push(byte), rest = &tail[2..]).1,
            None => (bytes.push(*first), rest = tail).1,
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// An error in the form the distribution specification gives it.
    pub(crate) fn error(status: u16, code: &str, message: &str) -> Self {
        Self::new(status)
            .header("Content-Type", "application/json")
            .body(format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#))
    }

    /// The head as it goes over the wire. Content-Length is the body's whole length, also where less will be sent.
    pub(crate) fn head(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, self.status);
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// Sends it whole. The answer to HEAD has the headers of GET and no body.
    pub(crate) fn send(&self, stream: &mut TcpStream, head_only: bool) -> io::Result<()> {
        stream.write_all(&self.head())?;
        if !head_only {
            stream.write_all(&self.body)?;
        }
        stream.flush()
    }
}
