//! As much D-Bus as a few calls to systemd need: one connection, calls that are answered, one signal. Written by hand
//! because nothing here may bring an async runtime, and because it is little (D-Bus specification 0.43, "Message
//! Protocol", "Authentication Protocol").

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use layerfs::error::{Context, Error, Kind, Result};

/// Longest wait for an answer: systemd is busy with many units, not with this one.
const PATIENCE: Duration = Duration::from_secs(60);
/// The specification's limit is 128 MiB; nothing systemd says to us is near this.
const MESSAGE_MAX: usize = 1 << 20;

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// Codes of header fields.
mod field {
    pub(super) const PATH: u8 = 1;
    pub(super) const INTERFACE: u8 = 2;
    pub(super) const MEMBER: u8 = 3;
    pub(super) const ERROR_NAME: u8 = 4;
    pub(super) const REPLY_SERIAL: u8 = 5;
    pub(super) const DESTINATION: u8 = 6;
    pub(super) const SIGNATURE: u8 = 8;
}

/// A value of a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Bool(bool),
    U32(u32),
    I32(i32),
    U64(u64),
    Texts(Vec<String>),
    Numbers(Vec<u32>),
    Bytes(Vec<u8>),
}

impl Value {
    fn signature(&self) -> &'static str {
        match self {
            Self::Text(_) => "s",
            Self::Bool(_) => "b",
            Self::U32(_) => "u",
            Self::I32(_) => "i",
            Self::U64(_) => "t",
            Self::Texts(_) => "as",
            Self::Numbers(_) => "au",
            Self::Bytes(_) => "ay",
        }
    }
}

/// A message's body, or part of one: every value at an offset that is a multiple of its own size.
#[derive(Debug, Default)]
pub(super) struct Body(Vec<u8>);

impl Body {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    pub(super) fn u32(&mut self, number: u32) {
        self.align(4);
        self.0.extend(number.to_le_bytes());
    }

    /// A text, or an object's path.
    pub(super) fn text(&mut self, text: &str) {
        self.u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// Elements that begin at multiples of `align`.
    pub(super) fn array(&mut self, align: usize, fill: impl FnOnce(&mut Self)) {
        self.u32(0);
        let at = self.0.len() - 4;
        self.align(align);
        let start = self.0.len();
        fill(self);
        let length = u32::try_from(self.0.len() - start).unwrap_or(u32::MAX);
        self.0[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// `(sv)`
    pub(super) fn property(&mut self, name: &str, value: &Value) {
        self.align(8);
        self.text(name);
        self.signature(value.signature());
        match value {
            Value::Text(text) => self.text(text),
            Value::Bool(bool) => self.u32(u32::from(*bool)),
            Value::U32(number) => self.u32(*number),
            Value::I32(number) => self.u32(number.cast_unsigned()),
            Value::U64(number) => {
                self.align(8);
                self.0.extend(number.to_le_bytes());
            }
            Value::Texts(texts) => self.array(4, |body| texts.iter().for_each(|text| body.text(text))),
            Value::Numbers(numbers) => self.array(4, |body| numbers.iter().for_each(|number| body.u32(*number))),
            Value::Bytes(bytes) => self.array(1, |body| body.0.extend(bytes)),
        }
    }
}

/// Who is called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) destination: &'static str,
    pub(super) path: &'static str,
    pub(super) interface: &'static str,
}

/// What came in.
#[derive(Debug, Default)]
pub(super) struct Message {
    kind: u8,
    reply_to: u32,
    member: String,
    error: String,
    body: Vec<u8>,
}

impl Message {
    /// The texts and numbers of a body of `s`, `o` and `u`, the numbers as text.
    pub(super) fn fields(&self, signature: &str) -> Vec<String> {
        let mut reader = Reader { bytes: &self.body, at: 0 };
        let mut next = |letter| match letter {
            'u' => reader.u32().map(|number| number.to_string()),
            _ => reader.text(),
        };
        signature.chars().map_while(&mut next).collect()
    }
}

/// An error that the other side answered with: its name and its words.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) name: String,
    pub(super) text: String,
}

/// A connection that has been let in.
#[derive(Debug)]
pub(super) struct Connection {
    stream: BufReader<UnixStream>,
    serial: u32,
    /// What came while something else was waited for.
    signals: Vec<Message>,
}

impl Connection {
    /// Connects to a socket and proves who this is by the socket's own credentials.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).at("connect to", path)?;
        stream.set_read_timeout(Some(PATIENCE)).at("wait for", path)?;
        let mut stream = BufReader::new(stream);
        // No name is claimed: in a user namespace the own number would be the wrong one. All at once, as systemd's own
        // tools do: systemd 252 does not look at a call that it reads together with the end of this.
        stream.get_mut().write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n").at("write to", path)?;
        let mut line = String::new();
        while !line.starts_with("OK") {
            line.clear();
            let count = (&mut stream).take(1024).read_line(&mut line).at("read from", path)?;
            if count == 0 || line.starts_with("REJECTED") || line.starts_with("ERROR") {
                return Err(Error::new(Kind::Denied, format!("`{}` does not let this user in", path.display())));
            }
        }
        Ok(Self { stream, serial: 0, signals: Vec::new() })
    }

    /// Calls a method and waits for what it returns.
    pub(super) fn call(
        &mut self,
        target: Target,
        member: &str,
        signature: &str,
        body: Body,
    ) -> Result<Result<Message, Refusal>> {
        self.serial += 1;
        let serial = self.serial;
        let message = encode(target, member, signature, &body, serial);
        self.stream.get_mut().write_all(&message).context(|| format!("call {member} of systemd"))?;
        let end = Instant::now() + PATIENCE;
        loop {
            let message = self.receive(end).context(|| format!("wait for {member} of systemd"))?;
            match message.kind {
                METHOD_RETURN if message.reply_to == serial => return Ok(Ok(message)),
                ERROR if message.reply_to == serial => {
                    let text = message.fields("s").pop().unwrap_or_default();
                    return Ok(Err(Refusal { name: message.error, text }));
                }
                SIGNAL => self.signals.push(message),
                _ => {}
            }
        }
    }

    /// Waits for a signal that `wanted` takes; those that came earlier count.
    pub(super) fn wait<T>(&mut self, member: &str, wanted: impl Fn(&Message) -> Option<T>) -> Result<T> {
        let end = Instant::now() + PATIENCE;
        let mut earlier = std::mem::take(&mut self.signals).into_iter();
        loop {
            let message = match earlier.next() {
                Some(message) => message,
                None => self.receive(end).context(|| format!("wait for {member} of systemd"))?,
            };
            if let Some(found) =
                (message.kind == SIGNAL && message.member == member).then(|| wanted(&message)).flatten()
            {
                return Ok(found);
            }
        }
    }

    fn receive(&mut self, end: Instant) -> Result<Message> {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.get_ref().set_read_timeout(Some(left)).context(|| "set a time limit")?;
        let mut head = [0; 16];
        let mut fill = |bytes: &mut [u8]| match self.stream.read_exact(bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                Err(Error::new(Kind::Unavailable, format!("no answer within {} s", PATIENCE.as_secs())))
            }
            read => read.context(|| "read from the bus"),
        };
        fill(&mut head)?;
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let (body, fields) = (number(4), number(12));
        if head[0] != b'l' || body > MESSAGE_MAX || fields > MESSAGE_MAX {
            return Err(Error::new(Kind::Invalid, "the bus speaks another byte order, or says too much"));
        }
        // The header ends at a multiple of 8, whatever its fields are.
        let mut rest = vec![0; fields.next_multiple_of(8) + body];
        fill(&mut rest)?;
        let body = rest.split_off(fields.next_multiple_of(8));
        rest.truncate(fields);
        Ok(decode(head[1], &rest, body))
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.stream.get_ref().as_fd()
    }
}

fn encode(target: Target, member: &str, signature: &str, body: &Body, serial: u32) -> Vec<u8> {
    let mut message = Body(vec![b'l', METHOD_CALL, 0, 1]);
    message.u32(u32::try_from(body.0.len()).unwrap_or(u32::MAX));
    message.u32(serial);
    message.array(8, |fields| {
        let mut add = |code: u8, kind: &str, text: &str| {
            fields.align(8);
            fields.0.push(code);
            fields.signature(kind);
            if kind == "g" { fields.signature(text) } else { fields.text(text) }
        };
        add(field::PATH, "o", target.path);
        add(field::INTERFACE, "s", target.interface);
        add(field::MEMBER, "s", member);
        add(field::DESTINATION, "s", target.destination);
        if !signature.is_empty() {
            add(field::SIGNATURE, "g", signature);
        }
    });
    message.align(8);
    message.0.extend(&body.0);
    message.0
}

fn decode(kind: u8, fields: &[u8], body: Vec<u8>) -> Message {
    let mut message = Message { kind, body, ..Message::default() };
    let mut reader = Reader { bytes: fields, at: 0 };
    while let Some(code) = reader.aligned(8).and_then(Reader::byte) {
        let Some(signature) = reader.signature() else { break };
        match (code, signature.as_str()) {
            (field::REPLY_SERIAL, "u") => message.reply_to = reader.u32().unwrap_or(0),
            (field::MEMBER, "s") => message.member = reader.text().unwrap_or_default(),
            (field::ERROR_NAME, "s") => message.error = reader.text().unwrap_or_default(),
            (_, "s" | "o") => drop(reader.text()),
            (_, "g") => drop(reader.signature()),
            (_, "u") => drop(reader.u32()),
            // Nothing else stands in a header.
            _ => break,
        }
    }
    message
}

/// Values one after another; `None` at the end, or where the bytes make no sense.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn aligned(&mut self, to: usize) -> Option<&mut Self> {
        self.at = self.at.next_multiple_of(to);
        (self.at < self.bytes.len()).then_some(self)
    }

    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u32(&mut self) -> Option<u32> {
        let bytes = self.aligned(4)?.take(4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }

    fn text(&mut self) -> Option<String> {
        let length = self.u32()? as usize;
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.byte().map(|_| text)
    }

    fn signature(&mut self) -> Option<String> {
        let length = usize::from(self.byte()?);
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.byte().map(|_| text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Target = Target { destination: "a.b", path: "/c", interface: "d.e" };

    #[test]
    fn a_call_is_laid_out_as_the_specification_has_it() {
        let mut body = Body::default();
        body.text("x");
        body.array(8, |all| {
            all.property("P", &Value::U64(1));
            all.property("Q", &Value::Numbers(vec![7]));
        });
        let expected: [&[u8]; 6] = [
            b"\x01\0\0\0x\0\0\0",
            // The array's length counts neither itself nor the padding before its first element.
            b"\x2c\0\0\0\0\0\0\0",
            b"\x01\0\0\0P\0\x01t\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0",
            b"\x01\0\0\0Q\0\x02au\0\0\0",
            b"\x04\0\0\0\x07\0\0\0",
            b"",
        ];
        assert_eq!(body.0, expected.concat());
        let message = encode(TARGET, "M", "sa(sv)", &body, 3);
        assert_eq!(message[..16], *b"l\x01\0\x01\x3c\0\0\0\x03\0\0\0\x4c\0\0\0");
        assert_eq!((message.len() - body.0.len()) % 8, 0);
        let decoded = decode(METHOD_CALL, &message[16..16 + 0x4c], Vec::new());
        assert_eq!(decoded.member, "M");
    }

    #[test]
    fn nonsense_is_no_panic() {
        for bytes in [&b"\x01\xff"[..], b"\x05\x01u\0\xff", b"\x03\x01s\0\xff\xff\xff\xff", b""] {
            let message = decode(SIGNAL, bytes, bytes.to_vec());
            assert!(message.fields("us").len() < 2);
        }
    }
}
