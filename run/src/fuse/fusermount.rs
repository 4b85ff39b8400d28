//! Mounting into the host's own namespace without root: `fusermount3`, which is set-user-id, mounts on a path and sends
//! the device back through a socket whose number it finds in its environment.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Output};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::fuse::MountOptions;
use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::launch::channel::receive_packet;

/// What the helper is called, the newer first.
const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];

/// Mounts on `target`.
pub(crate) fn mount(options: &MountOptions, attributes: u64, target: &Path) -> Result<OwnedFd> {
    let (own, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).context(|| "make a socket")?;
    let mut words = format!("fsname={},subtype={}", options.source, options.subtype);
    if let Some(label) = &options.context {
        words.push_str(&format!(",context=\"{label}\""));
    }
    if options.default_permissions {
        words.push_str(",default_permissions");
    }
    for (bit, word) in [(0x01, ",ro"), (0x02, ",nosuid"), (0x04, ",nodev"), (0x08, ",noexec"), (0x10, ",noatime")] {
        if attributes & bit != 0 {
            words.push_str(word);
        }
    }
    call(|helper| {
        rustix::io::fcntl_setfd(&theirs, FdFlags::empty())?;
        let number = theirs.as_raw_fd().to_string();
        Command::new(helper).args(["-o", &words, "--"]).arg(target).env("_FUSE_COMMFD", number).output()
    })?;
    drop(theirs);
    let (_, descriptors) = receive_packet(own.as_fd(), 1).context(|| "hear from fusermount3")?;
    descriptors.into_iter().next().ok_or_else(|| Error::new(Kind::System, "fusermount3 sent no device"))
}

/// Unmounts what this user has mounted on `target`.
pub(crate) fn unmount(target: &Path) -> Result<()> {
    call(|helper| Command::new(helper).args(["-u", "-z", "--"]).arg(target).output()).map(drop)
}

/// Calls the helper by the first of its names that there is.
fn call(start: impl Fn(&str) -> std::io::Result<Output>) -> Result<Output> {
    let is_missing = |output: &std::io::Result<Output>| {
        output.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    };
    let Some(output) = HELPERS.iter().map(|helper| start(helper)).find(|output| !is_missing(output)) else {
        return Err(Error::new(Kind::Unsupported, "mounting without root needs fusermount3")
            .hint("Debian and Ubuntu: sudo apt-get install fuse3"));
    };
    let output = output.context(|| "start fusermount3")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let closed = words.contains("/dev/fuse: Permission denied");
        let error = Error::new(Kind::System, words);
        return Err(if closed {
            error.hint("give the user access to the device: sudo chmod 666 /dev/fuse")
        } else {
            error
        });
    }
    Ok(output)
}
