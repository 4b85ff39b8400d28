//! The one pipe between the launcher and a container's first process before it becomes the user's program.
//!
//! A pair of sequenced-packet sockets: each message is one packet, may carry one descriptor, and both ends are
//! close-on-exec. So the end of the stream after [`Message::Go`] means that the program was executed, and the end of
//! the stream for the child means that the launcher is gone.

use std::cell::Cell;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use layerfs::error::{Context, Error, Kind, Result};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// Longest packet: an error's text is cut to fit.
const PACKET_MAX: usize = 16 * 1024;

/// What is said.
#[derive(Debug)]
pub(crate) enum Message {
    /// Child: my user namespace exists, write its id maps.
    WantIdMaps,
    /// Child: the mounts are made, and others may do their part now.
    WantOthers,
    /// Child: the descriptor on which a seccomp agent is asked.
    Listener(OwnedFd),
    /// Launcher: what you wanted is done.
    GoOn,
    /// An intermediate child: this pidfd is the container's process.
    Process(OwnedFd),
    /// Child: the master side of the terminal.
    Terminal(OwnedFd),
    /// Child: something the user should know, though it went on.
    Note(String),
    /// Child: all is set up; say go and the program runs.
    Ready,
    /// Launcher: run the program.
    Go,
    /// Child: this went wrong, and I am gone.
    Failed(Error),
}

/// One end.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// The launcher's end. A child begins with a copy of it and must let go of that copy first of all, or it would never
/// see the end of the stream when its launcher dies.
pub(crate) type OwnEnd = Cell<Option<Channel>>;

/// The two ends: the launcher's and the child's.
pub(crate) fn pair() -> Result<(OwnEnd, Channel)> {
    let (own, child) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .context(|| "make the channel to a container's first process")?;
    Ok((Cell::new(Some(Channel(own))), Channel(child)))
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Channel {
    /// Sends one message.
    pub(crate) fn send(&self, message: &Message) -> Result<()> {
        let mut packet = Vec::with_capacity(64);
        let mut descriptor = None;
        packet.push(match message {
            Message::WantIdMaps => b'm',
            Message::WantOthers => b'o',
            Message::Listener(_) => b'l',
            Message::GoOn => b'G',
            Message::Process(_) => b'p',
            Message::Terminal(_) => b't',
            Message::Note(_) => b'n',
            Message::Ready => b'r',
            Message::Go => b'g',
            Message::Failed(_) => b'e',
        });
        match message {
            Message::Process(fd) | Message::Terminal(fd) | Message::Listener(fd) => descriptor = Some(fd.as_fd()),
            Message::Note(text) => packet.extend_from_slice(text.as_bytes()),
            Message::Failed(error) => encode_error(error, &mut packet),
            _ => {}
        }
        packet.truncate(PACKET_MAX);
        send_packet(self.0.as_fd(), &packet, descriptor.as_slice())
            .context(|| "speak to the other side of a container's start")
    }

    /// Waits for one message; `None` at the end of the stream.
    pub(crate) fn receive(&self) -> Result<Option<Message>> {
        let (packet, descriptors) =
            receive_packet(self.0.as_fd(), PACKET_MAX).context(|| "hear from the other side of a container's start")?;
        let mut descriptor = descriptors.into_iter().next();
        let mut taken =
            || descriptor.take().ok_or_else(|| Error::new(Kind::System, "a descriptor was lost on its way"));
        let Some((tag, body)) = packet.split_first() else { return Ok(None) };
        Ok(Some(match tag {
            b'm' => Message::WantIdMaps,
            b'o' => Message::WantOthers,
            b'l' => Message::Listener(taken()?),
            b'G' => Message::GoOn,
            b'p' => Message::Process(taken()?),
            b't' => Message::Terminal(taken()?),
            b'n' => Message::Note(String::from_utf8_lossy(body).into_owned()),
            b'r' => Message::Ready,
            b'g' => Message::Go,
            _ => Message::Failed(decode_error(body)),
        }))
    }
}

/// Sends one packet with up to four descriptors.
pub(crate) fn send_packet(socket: BorrowedFd<'_>, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::TOOBIG);
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            result => return result.map(drop),
        }
    }
}

/// Most descriptors in one packet.
const DESCRIPTORS_MAX: usize = 6;

/// Receives one packet; it is empty at the end of the stream.
pub(crate) fn receive_packet(socket: BorrowedFd<'_>, max: usize) -> Result<(Vec<u8>, Vec<OwnedFd>), Errno> {
    let mut packet = vec![0; max];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let size = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut packet)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            // The other side went away with unread words: for the reader that is the end of the stream.
            Err(Errno::CONNRESET) => break 0,
            result => break result?.bytes,
        }
    };
    packet.truncate(size);
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            descriptors.extend(fds);
        }
    }
    Ok((packet, descriptors))
}

/// The kinds that cross a process boundary, by their number there.
const KINDS: [Kind; 13] = [
    Kind::System,
    Kind::Usage,
    Kind::Invalid,
    Kind::NotFound,
    Kind::Corrupt,
    Kind::Unauthorized,
    Kind::Denied,
    Kind::Unavailable,
    Kind::Unsupported,
    Kind::Conflict,
    Kind::Limit,
    Kind::Interrupted,
    Kind::System,
];

/// An error as bytes: its kind, its errno, the sentences of its chain, its hint.
pub(crate) fn encode_error(error: &Error, to: &mut Vec<u8>) {
    let kind = KINDS.iter().position(|kind| *kind == error.kind()).unwrap_or(0);
    to.push(u8::try_from(kind).unwrap_or(0));
    to.extend_from_slice(&error.errno().unwrap_or(0).to_le_bytes());
    let mut sentence = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(below) = source {
        // The system's own words travel as the number they stand for.
        if below.downcast_ref::<std::io::Error>().is_none_or(|io| io.raw_os_error().is_none()) {
            sentence.push_str(": ");
            sentence.push_str(&below.to_string());
        }
        source = below.source();
    }
    to.extend_from_slice(sentence.replace('\0', " ").as_bytes());
    to.push(0);
    to.extend_from_slice(error.advice().unwrap_or_default().as_bytes());
}

/// The error that [`encode_error`] wrote.
pub(crate) fn decode_error(bytes: &[u8]) -> Error {
    let lost = || Error::new(Kind::System, "a container's first process failed and its reason was lost");
    let Some(([kind, a, b, c, d], text)) = bytes.split_first_chunk::<5>() else { return lost() };
    let mut parts = text.splitn(2, |byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
    let (Some(sentence), hint) = (parts.next(), parts.next()) else { return lost() };
    let mut error = Error::new(KINDS.get(usize::from(*kind)).copied().unwrap_or(Kind::System), sentence);
    match i32::from_le_bytes([*a, *b, *c, *d]) {
        0 => {}
        errno => error = error.because(std::io::Error::from_raw_os_error(errno)),
    }
    match hint {
        Some(hint) if !hint.is_empty() => error.hint(hint),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_crosses_with_kind_errno_and_hint() {
        let below: Result<()> = Err(Errno::ACCESS).context(|| "open `/x`");
        let error = below.context(|| "mount `/x`").expect_err("made so").hint("ask");
        let (launcher, child) = pair().expect("a pair");
        let launcher = launcher.take().expect("it was not taken yet");
        child.send(&Message::Failed(error)).expect("room in the socket");
        drop(child);
        let Ok(Some(Message::Failed(error))) = launcher.receive() else { panic!("one message was sent") };
        assert_eq!(error.chain(), "mount `/x`: open `/x`: permission denied");
        assert_eq!((error.kind(), error.errno(), error.advice()), (Kind::Denied, Some(13), Some("ask")));
        assert!(launcher.receive().expect("the end is no error").is_none());
    }
}
