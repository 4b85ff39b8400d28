//! A mount whose server is a process of its own.
//!
//! The server is one of the programs under its name `layerfs-fuse`: it makes the mount in the caller's namespaces, sends
//! it through a socket, and goes to the background. It ends when the mount does, and holds nothing of its caller's:
//! no descriptor, no lock, no terminal.

use std::ffi::OsString;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg, socketpair,
};

use crate::error::{Context, Error, Kind, Result};
use crate::mount::MountPlan;

/// The name under which a program serves, and the flag that asks for a mount attached nowhere, sent through standard
/// input.
pub const NAME: &str = "layerfs-fuse";
/// See [`NAME`].
pub const DETACHED: &str = "--detached";

/// Makes the mount; `program` is what is started as [`NAME`].
///
/// # Errors
/// The program cannot be started, or says why there is no mount.
pub(crate) fn mount(program: &Path, plan: &MountPlan) -> Result<OwnedFd> {
    let (own, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .context(|| "make a socket")?;
    let output = Command::new(program)
        .arg0(NAME)
        .args([DETACHED, "-o"])
        .arg(option_list(plan))
        // Nothing of the caller's is the server's business.
        .env_clear()
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .at("start", program)?;
    if !output.status.success() {
        return Err(refusal(&String::from_utf8_lossy(&output.stderr)));
    }
    let lost = || Error::new(Kind::System, "the union's server sent no mount");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(&own, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT)
        .map_err(|_| lost())?;
    let sent = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    sent.ok_or_else(lost)
}

/// What the server said, as an error of ours.
fn refusal(words: &str) -> Error {
    let mut lines = words.lines();
    let first = lines.next().unwrap_or("the union's server ended without a word");
    let error = Error::new(Kind::System, first.strip_prefix("layerfs-fuse: ").unwrap_or(first));
    match lines.find_map(|line| line.strip_prefix("hint: ")) {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// The plan as options. What is thrown away or becomes a layer is left as the kernel would leave it.
fn option_list(plan: &MountPlan) -> OsString {
    let mut list = b"forms=user,lowerdir=".to_vec();
    for (index, lower) in plan.lowers.iter().rev().enumerate() {
        if index > 0 {
            list.push(b':');
        }
        list.extend(escape(lower));
    }
    if let Some(upper) = &plan.upper {
        for (key, path) in [(",upperdir=", &upper.dir), (",workdir=", &upper.work)] {
            list.extend_from_slice(key.as_bytes());
            list.extend(escape(path));
        }
        if plan.volatile {
            list.extend_from_slice(b",volatile,hardlinks=broken");
        }
    }
    OsString::from_vec(list)
}

/// A path as a value of an option list.
fn escape(path: &Path) -> Vec<u8> {
    let mut text = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b',' | b':' | b'\\') {
            text.push(b'\\');
        }
        text.push(*byte);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::{Backend, Upper};

    #[test]
    fn a_plan_is_told_in_options() {
        let upper = Upper { dir: "/u,1".into(), work: "/w".into() };
        let plan = MountPlan {
            lowers: vec!["/low:est".into(), "/top".into()],
            upper: Some(upper),
            volatile: true,
            backend: Backend::Overlay,
        };
        let expected = "forms=user,lowerdir=/top:/low\\:est,upperdir=/u\\,1,workdir=/w,volatile,hardlinks=broken";
        assert_eq!(option_list(&plan), expected);
    }

    #[test]
    fn a_refusal_keeps_its_hint() {
        let error = refusal("layerfs-fuse: open `/dev/fuse`: no such file\nhint: load it\n");
        assert_eq!((error.to_string().as_str(), error.advice()), ("open `/dev/fuse`: no such file", Some("load it")));
    }
}
