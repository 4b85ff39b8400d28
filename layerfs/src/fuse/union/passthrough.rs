//! Files that the kernel reads and writes itself (Linux 6.9).
//!
//! Where this process may (`CAP_SYS_ADMIN` in the initial user namespace), an answer to an open request names the file
//! on disk, and reads, writes and mappings go there without a message. Pages are then the layer's own: all containers
//! of an image share them. The price is a message for every open, so without that right files are not opened at all.
//!
//! # One inode, one file
//!
//! The kernel refuses a second file for an inode while the first is open. A file of a lower layer that is copied up
//! while it is open therefore gets a further number: an open request under the old one is answered with `ESTALE`, upon
//! which the kernel asks for the name again, is told the new number, and opens that. Whoever had the file open before
//! goes on to read what the lower layer has, as with the kernel's overlayfs; names, owners, modes and times are one
//! and the same under both numbers. Locks (`flock`, `fcntl`) belong to the number that they were taken under.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::thread::CapabilitySet;

use super::Union;
use super::descriptors::Access;
use super::node::{Node, lock};
use crate::sys::fuse::{close_backing, open_backing};
use crate::sys::mount::{MountAttributes, set_attributes};

/// The bit by which a file's second number differs from its first.
pub(super) const RENEWED: u64 = 1 << 63;

/// A file under the number that the kernel has for it.
#[derive(Debug)]
struct Backing {
    device: Arc<OwnedFd>,
    number: u32,
}

impl Drop for Backing {
    fn drop(&mut self) {
        // The number goes with the connection too.
        let _ = close_backing(self.device.as_fd(), self.number);
    }
}

/// A file as the kernel has it open.
#[derive(Debug)]
struct Live {
    file: Arc<OwnedFd>,
    /// None where the kernel could not take it; it then asks here.
    backing: Option<Backing>,
    /// It is the one of the upper file system.
    upper: bool,
    /// How often it is open. What is not is kept for the next time, as long as its descriptor is.
    count: u32,
}

/// What the kernel has open of one file, under either number.
#[derive(Debug, Default)]
pub(super) struct Opens {
    first: Option<Live>,
    renewed: Option<Live>,
}

impl Opens {
    fn under(&mut self, number: u64) -> &mut Option<Live> {
        if number & RENEWED == 0 { &mut self.first } else { &mut self.renewed }
    }

    /// Gives up what is not open just now.
    pub(super) fn retire(&mut self) {
        for live in [&mut self.first, &mut self.renewed] {
            if live.as_ref().is_some_and(|live| live.count == 0) {
                *live = None;
            }
        }
    }
}

impl Union {
    /// `OPEN`: the number of the file that the kernel is to use, if it can use one.
    pub(super) fn open_file(
        &self,
        node: &Arc<Node>,
        number: u64,
        flags: u32,
        drop_set_id: bool,
    ) -> Result<Option<u32>, Errno> {
        let device = self.passthrough.get().ok_or(Errno::NOSYS)?;
        let flags = OFlags::from_bits_retain(flags);
        let truncate = flags.contains(OFlags::TRUNC);
        if truncate || flags.intersects(OFlags::WRONLY | OFlags::RDWR) {
            self.copy_up(node, if truncate { 0 } else { u64::MAX })?;
        }
        let mut opens = lock(&node.slot.opens);
        let live = opens.get_or_insert_default().under(number);
        let upper = node.is_upper();
        match live {
            Some(known) if known.upper == upper => {}
            // A lower layer's file, and it was copied up since.
            Some(known) if known.count > 0 && known.backing.is_some() => {
                node.renew();
                return Err(Errno::STALE);
            }
            Some(known) if known.count > 0 => known.upper = upper,
            _ => *live = None,
        }
        let live = match live {
            Some(live) => live,
            None => live.insert(self.bring_to_life(node, device, upper)?),
        };
        if truncate {
            rustix::fs::ftruncate(self.open_data(node, Access::Write)?, 0)?;
            if drop_set_id {
                self.drop_set_id(node)?;
            }
        }
        live.count += 1;
        Ok(live.backing.as_ref().map(|backing| backing.number))
    }

    fn bring_to_life(&self, node: &Arc<Node>, device: &Arc<OwnedFd>, upper: bool) -> Result<Live, Errno> {
        let file = self.open_data(node, Access::Read)?;
        let number = open_backing(device.as_fd(), file.as_fd()).ok();
        let backing = number.map(|number| Backing { device: device.clone(), number });
        Ok(Live { file, backing, upper, count: 0 })
    }

    /// `RELEASE`
    pub(super) fn close_file(&self, node: &Node, number: u64) {
        let mut opens = lock(&node.slot.opens);
        let Some(all) = opens.as_mut() else { return };
        if let Some(live) = all.under(number) {
            live.count = live.count.saturating_sub(1);
        }
        if !node.slot.is_filled() {
            all.retire();
        }
    }

    /// The data that whoever has the file open under that number sees: after a copy-up not always the newest.
    pub(super) fn data_under(&self, node: &Arc<Node>, number: u64) -> Result<Arc<OwnedFd>, Errno> {
        if self.passthrough.get().is_some()
            && let Some(live) = lock(&node.slot.opens).as_mut().and_then(|opens| opens.under(number).as_mut())
            && live.count > 0
            && live.backing.is_some()
        {
            return Ok(live.file.clone());
        }
        self.open_data(node, Access::Read)
    }
}

/// Whether the kernel would take files from this process.
pub(super) fn is_allowed() -> bool {
    /// Inode number of the initial user namespace (`PROC_USER_INIT_INO` of `linux/proc_ns.h`).
    const INITIAL: u64 = 0xEFFF_FFFD;
    let here = rustix::fs::stat("/proc/self/ns/user").is_ok_and(|stat| stat.st_ino == INITIAL);
    here && rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Whether files there can be passed through: the kernel takes none from file systems that are stacked themselves.
pub(super) fn can_back(folder: &OwnedFd) -> bool {
    /// `OVERLAYFS_SUPER_MAGIC`, `FUSE_SUPER_MAGIC`, `ECRYPTFS_SUPER_MAGIC`
    const STACKED: [u64; 3] = [0x794c_7630, 0x6573_5546, 0xf15f];
    rustix::fs::fstatfs(folder).is_ok_and(|stat| !STACKED.contains(&(stat.f_type as u64)))
}

/// The same folder through a mount of our own on which reading leaves no trace. Else the kernel would note times of
/// access in the layers.
pub(super) fn untraced(folder: &OwnedFd) -> Option<OwnedFd> {
    /// `MOUNT_ATTR_RDONLY` and `MOUNT_ATTR_NOATIME` of `linux/mount.h`.
    const ATTRIBUTES: u64 = 0x01 | 0x10;
    /// `MOUNT_ATTR__ATIME`: the times of access are one choice, which has to be cleared to be made anew.
    const CHOICE: u64 = 0x70;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let mount = open_tree(folder, "", flags).ok()?;
    let attributes = MountAttributes { set: ATTRIBUTES, clear: CHOICE, ..MountAttributes::default() };
    set_attributes(mount.as_fd(), &attributes, false).ok()?;
    Some(mount)
}
