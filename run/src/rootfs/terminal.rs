//! A terminal inside the container's own devpts, so that `tty` names a file that exists there.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use layerfs::error::{Context, Error, Kind, Result};
use rustix::fs::{OFlags, fstat, fstatfs, major};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};

use super::path::Root;
use super::{attach, clone_mount_of};

/// Opens a terminal: its master and its slave.
pub(super) fn open(root: &Root) -> Result<(OwnedFd, OwnedFd)> {
    /// `DEVPTS_SUPER_MAGIC`
    const MAGIC: u64 = 0x1cd1;
    let path = Path::new("/dev/pts/ptmx");
    let master = root.open(path, OFlags::RDWR | OFlags::NOCTTY).at("open", path)?;
    // An image cannot lay a look-alike there: a file of a devpts that is the multiplexer is one.
    let file_system = fstatfs(&master).at("look at", path)?.f_type as u64;
    let number = fstat(&master).at("look at", path)?.st_rdev;
    if file_system != MAGIC || major(number) != 5 {
        return Err(Error::new(Kind::Denied, "`/dev/pts/ptmx` in the container is not a terminal multiplexer"));
    }
    unlockpt(&master).context(|| "unlock the terminal")?;
    // By descriptor: the container has no say in which file this is.
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .context(|| "open the terminal's slave side")?;
    Ok((master, slave))
}

/// Binds a terminal on `/dev/console`: on that file itself, not on what an image's symlink there stands for
/// (CVE-2025-52565).
pub(super) fn bind_console(root: &Root, slave: BorrowedFd<'_>) -> Result<()> {
    let target = root.ensure_plain_file(Path::new("/dev/console"))?;
    let tree = clone_mount_of(slave, false).context(|| "bind the terminal on `/dev/console`")?;
    attach(tree.as_fd(), target.as_fd()).context(|| "bind the terminal on `/dev/console`")
}
