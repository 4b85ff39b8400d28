//! `tmpcopyup`: a new, empty file system starts with what it covers.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use layerfs::error::{Context, Error, Kind, Result};
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid, chownat, fchmod, fchown, fstat, mkdirat, mknodat, openat,
    readlinkat, statat, symlinkat,
};

/// Deepest tree that is copied: what goes beyond is no tree that a tmpfs should start with.
const DEPTH_MAX: usize = 64;

/// Copies what lies in `from` into the new file system `to`, with owners and modes. Never follows a symlink.
pub(super) fn fill(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let readable = openat(from, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .context(|| "open what it covers")?;
    copy_folder(readable.as_fd(), to, 0).context(|| "copy what it covers")
}

fn copy_folder(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> Result<()> {
    if depth > DEPTH_MAX {
        return Err(Error::new(Kind::Limit, format!("folders lie deeper than {DEPTH_MAX}")));
    }
    // A mount's own descriptor is only a path; `*at` calls below it work, changes of itself want an open folder.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let to: OwnedFd = openat(to, ".", flags, Mode::empty()).context(|| "open the copy")?;
    let stat = fstat(from).context(|| "look at a folder")?;
    fchown(&to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid))).context(|| "set an owner")?;
    fchmod(&to, Mode::from_raw_mode(stat.st_mode & 0o7777)).context(|| "set a mode")?;
    for entry in Dir::read_from(from).context(|| "list a folder")? {
        let entry = entry.context(|| "list a folder")?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let said = || format!("copy `{}`", name.to_string_lossy());
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW).context(said)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                mkdirat(&to, name, mode).context(said)?;
                let below = openat(from, name, flags, Mode::empty()).context(said)?;
                let copy = openat(&to, name, flags, Mode::empty()).context(said)?;
                copy_folder(below.as_fd(), copy.as_fd(), depth + 1)?;
            }
            FileType::RegularFile => {
                let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let source = openat(from, name, read, Mode::empty()).context(said)?;
                let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let copy = openat(&to, name, write, mode).context(said)?;
                let (mut source, mut copy) = (std::fs::File::from(source), std::fs::File::from(copy));
                io::copy(&mut source, &mut copy).context(said)?;
                fchown(&copy, owner.0, owner.1).context(said)?;
                // After the owner: a change of owner clears the set-user-id bit.
                fchmod(&copy, mode).context(said)?;
            }
            FileType::Symlink => {
                let target = readlinkat(from, name, Vec::new()).context(said)?;
                symlinkat(target.as_c_str(), &to, name).context(said)?;
                chownat(&to, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).context(said)?;
            }
            kind @ (FileType::Fifo | FileType::Socket) => {
                mknodat(&to, name, kind, mode, 0).context(said)?;
                chownat(&to, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).context(said)?;
            }
            // A device in what a tmpfs covers is no content.
            _ => {}
        }
    }
    Ok(())
}
