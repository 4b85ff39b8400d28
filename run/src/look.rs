//! Looking into an image: its files in a folder, read-only, without a container.
//!
//! Root mounts as for a container, and nothing else is left behind. Anybody else cannot mount by the kernel where others
//! see it, but may have `fusermount3` mount a union that a process of theirs serves: one that is root of the user's own
//! namespace, so that it may read what belongs to the image's other users. Nobody but the user can enter that mount, so
//! nothing in it is kept from them either; owners and modes are shown as the image has them.
//!
//! The mount is of the layers in the store, and keeps them there as long as it lasts, whatever becomes of the image's
//! name.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::fuse::{MountOptions, ServeOptions, Server, UnionOptions};
use layerfs::layer::Lowers;
use layerfs::mount::{MountPlan, attach, mount_layers};
use layerfs::oci::Platform;
use layerfs::store::MountRecord;
use layerfs::store::format::Roots;
use layerfs::sys::mount::{MountAttributes, set_attributes};
use layerfs::sys::process::clone_server;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::{Deserialize, Serialize};

use crate::fuse::{fusermount, leave_caller};
use crate::launch::channel::{receive_packet, send_packet};
use crate::options::MountBackend;
use crate::prepare::{Caller, unpacked};
use crate::pull;

/// `MOUNT_ATTR_RDONLY`, `_NOSUID` and `_NODEV` of `linux/mount.h`: what an image holds is only to be looked at.
const ATTRIBUTES: u64 = 0x01 | 0x02 | 0x04;
/// Longest packet between the two processes.
const PACKET: usize = 64 << 10;

/// What is to be seen.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Wanted {
    /// The store's folder, where it is not the usual one.
    pub store: Option<PathBuf>,
    /// The image, which is fetched where it is not there.
    pub image: String,
    /// Which of several platforms; by default the machine's own.
    #[serde(with = "platform")]
    pub platform: Option<Platform>,
}

/// A platform as its text.
mod platform {
    use layerfs::oci::Platform;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(platform: &Option<Platform>, to: S) -> Result<S::Ok, S::Error> {
        platform.as_ref().map(ToString::to_string).serialize(to)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Option<Platform>, D::Error> {
        let text: Option<String> = Option::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// Mounts an image on `target`.
///
/// # Errors
/// The image cannot be had, or this user cannot mount there. Nothing is mounted then.
pub fn mount(wanted: &Wanted, target: &Path, warn: impl FnOnce(&str)) -> Result<()> {
    clear_dead(target)?;
    let is_dir = fs::metadata(target).at("open", target)?.is_dir();
    if !is_dir {
        return Err(Error::new(Kind::Usage, format!("`{}` is no folder", target.display())));
    }
    if !rustix::process::geteuid().is_root() {
        return mount_as_user(wanted, target);
    }
    let (lowers, record) = layers(wanted, warn)?;
    let backend = MountBackend::Auto.backend();
    let mount = mount_layers(&MountPlan { lowers: lowers.dirs, upper: None, volatile: false, backend })?;
    let attributes = MountAttributes { set: ATTRIBUTES, ..MountAttributes::default() };
    set_attributes(mount.as_fd(), &attributes, false).context(|| "set the flags of the mount")?;
    attach(mount.as_fd(), target)?;
    record.leave_to(mount.as_fd())
}

/// The image's layers, unpacked. A user is root of their own namespace from here on.
fn layers(wanted: &Wanted, warn: impl FnOnce(&str)) -> Result<(Lowers, MountRecord)> {
    let caller = Caller::enter(wanted.store.as_deref(), warn)?;
    let _pin = caller.store.pin()?;
    let found = pull::image(&caller.store, &wanted.image, pull::Policy::Missing, wanted.platform.as_ref(), false)?;
    let platform = wanted.platform.clone().unwrap_or_else(Platform::host);
    let image = caller.store.image(&found.descriptor, &platform)?;
    let lowers = unpacked(&caller.store, &image)?;
    let roots = Roots {
        images: vec![image.manifest_descriptor.clone()],
        chains: vec![image.diff_ids.clone()],
        ..Roots::default()
    };
    Ok((lowers, caller.store.record_mount(roots)?))
}

/// The server is in place before anything is mounted, so that whatever is wrong is told here.
fn mount_as_user(wanted: &Wanted, target: &Path) -> Result<()> {
    let (own, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .context(|| "make a socket")?;
    clone_server(theirs, serve).context(|| "start the union's server")?;
    let words = serde_json::to_vec(wanted).context(|| "tell the union's server what to mount")?;
    send_packet(own.as_fd(), &words, &[]).context(|| "talk to the union's server")?;
    let (answer, _) = receive_packet(own.as_fd(), PACKET).context(|| "hear from the union's server")?;
    if answer != READY {
        let died = || Error::new(Kind::System, "the union's server died");
        return Err(crate::failure::from_bytes(&answer).unwrap_or_else(died));
    }
    let options =
        MountOptions { read_only: true, allow_other: false, default_permissions: false, ..MountOptions::default() };
    let target = std::path::absolute(target).at("find", target)?;
    let device = fusermount::mount(&options, ATTRIBUTES, &target)?;
    send_packet(own.as_fd(), READY, &[device.as_fd()]).context(|| "hand the mount over")
}

const READY: &[u8] = b"ready";

/// The server's process.
fn serve(socket: OwnedFd) -> i32 {
    let warn =
        |line: &str| drop(std::io::Write::write_all(&mut std::io::stderr(), format!("run: {line}\n").as_bytes()));
    let opened = (|| {
        let (words, _) = receive_packet(socket.as_fd(), PACKET).context(|| "hear what to mount")?;
        let wanted: Wanted = serde_json::from_slice(&words).context(|| "read what to mount")?;
        let (lowers, record) = layers(&wanted, warn)?;
        let server = Server::open(UnionOptions::new(lowers.dirs, None))?;
        leave_caller()?;
        Ok((server, record))
    })();
    let said = match &opened {
        Ok(_) => READY.to_vec(),
        Err(error) => crate::failure::to_bytes(error),
    };
    let (Ok(()), Ok((server, _record))) = (send_packet(socket.as_fd(), &said, &[]), opened) else { return 1 };
    // Nothing comes where there is no mount after all.
    let Ok((_, devices)) = receive_packet(socket.as_fd(), PACKET) else { return 1 };
    drop(socket);
    let Some(device) = devices.into_iter().next() else { return 1 };
    i32::from(server.serve(device, &ServeOptions::default()).is_err())
}

/// Takes away what is mounted on `target`.
///
/// # Errors
/// Nothing is, or this user may not.
pub fn umount(target: &Path) -> Result<()> {
    if !is_mount_point(target)? {
        return Err(Error::new(Kind::NotFound, format!("nothing is mounted on `{}`", target.display())));
    }
    if !rustix::process::geteuid().is_root() {
        return fusermount::unmount(target);
    }
    unmount(target, UnmountFlags::NOFOLLOW).at("unmount", target).map_err(|error| {
        match error.errno() == Some(Errno::BUSY.raw_os_error()) {
            true => error.hint("a program has a file of it open, or works in it"),
            false => error,
        }
    })
}

/// Takes away a mount whose server was killed: there is nothing to be seen in it, and nothing to be lost.
fn clear_dead(target: &Path) -> Result<()> {
    match rustix::fs::stat(target) {
        Err(Errno::NOTCONN) if rustix::process::geteuid().is_root() => {
            unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).at("unmount", target)
        }
        Err(Errno::NOTCONN) => fusermount::unmount(target),
        _ => Ok(()),
    }
}

/// By the kernel's list: a mount whose server is dead cannot be looked at.
fn is_mount_point(target: &Path) -> Result<bool> {
    let absolute = std::path::absolute(target).at("find", target)?;
    let path = match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => fs::canonicalize(parent).at("find", parent)?.join(name),
        _ => absolute,
    };
    let list = fs::read_to_string("/proc/self/mountinfo").at("read", "/proc/self/mountinfo")?;
    let escaped = escape(&path);
    Ok(list.lines().any(|line| line.split(' ').nth(4) == Some(escaped.as_str())))
}

/// A path as `/proc/self/mountinfo` writes it (`proc_pid_mountinfo(5)`).
fn escape(path: &Path) -> String {
    let mut text = String::new();
    for character in path.to_string_lossy().chars() {
        match character {
            ' ' | '\t' | '\n' | '\\' => text.push_str(&format!("\\{:03o}", u32::from(character))),
            _ => text.push(character),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_as_the_kernel_writes_them() {
        assert_eq!(escape(Path::new("/a b/c\\d\te")), "/a\\040b/c\\134d\\011e");
        assert!(is_mount_point(Path::new("/proc")).expect("it is readable"));
        assert!(!is_mount_point(Path::new("/proc/self")).expect("it is readable"));
    }
}
