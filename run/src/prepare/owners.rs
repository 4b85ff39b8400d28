//! `:U` behind a volume: its files are given to the container's user, as that user is known outside.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use layerfs::error::{Context, Error, Kind, Result};
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

/// Folders of the machine itself, which nobody means to give away (podman's list).
const NEVER: [&str; 24] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/lib64",
    "/var",
    "/var/lib",
    "/var/log",
];

/// Gives a file, or a folder with all that is in it, to somebody. No symlink is followed.
///
/// # Errors
/// It is a folder of the machine itself, or something in it cannot be given away.
pub(super) fn give(path: &Path, owner: (u32, u32)) -> Result<()> {
    let real = std::fs::canonicalize(path).at("open volume", path)?;
    if NEVER.iter().any(|never| real == Path::new(never)) {
        let message = format!("volume `{}`: `U` would give away a folder of the machine itself", path.display());
        return Err(Error::new(Kind::Denied, message).hint("use a folder below it"));
    }
    let owner = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
    let top = rustix::fs::open(&real, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    let top = top.at("open volume", path)?;
    let said = || format!("give volume `{}` to the container's user", path.display());
    set(top.as_fd(), "", owner, AtFlags::EMPTY_PATH).context(said)?;
    walk(top.as_fd(), ".", owner).context(said)
}

/// What lies in a folder; nothing in what is none.
fn walk(parent: BorrowedFd<'_>, name: impl rustix::path::Arg + Copy, owner: (Uid, Gid)) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        opened => opened.context(|| "open a folder")?,
    };
    for entry in Dir::read_from(&folder).context(|| "read a folder")? {
        let entry = entry.context(|| "read a folder")?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let shown = || format!("`{}`", name.to_string_lossy());
        set(folder.as_fd(), name, owner, AtFlags::SYMLINK_NOFOLLOW).context(shown)?;
        if matches!(entry.file_type(), FileType::Directory | FileType::Unknown) {
            walk(folder.as_fd(), name, owner).context(shown)?;
        }
    }
    Ok(())
}

/// A file that is theirs already is left alone: a change would clear its setuid bit.
fn set(folder: BorrowedFd<'_>, name: impl rustix::path::Arg + Copy, owner: (Uid, Gid), flags: AtFlags) -> Result<()> {
    let stat = rustix::fs::statat(folder, name, flags).context(|| "look at it")?;
    match (stat.st_uid, stat.st_gid) == (owner.0.as_raw(), owner.1.as_raw()) {
        true => Ok(()),
        false => rustix::fs::chownat(folder, name, Some(owner.0), Some(owner.1), flags).context(|| "change its owner"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn folders_of_the_machine_stay_its_own() {
        for path in ["/", "/etc", "/usr/../etc", "/tmp/"] {
            assert_eq!(give(Path::new(path), (0, 0)).expect_err(path).kind(), Kind::Denied);
        }
    }

    #[test]
    fn links_are_not_followed() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().expect("a folder");
        let (volume, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        std::fs::create_dir_all(volume.join("a/b")).expect("a folder");
        std::fs::create_dir(&outside).expect("a folder");
        std::fs::write(outside.join("file"), "").expect("a file");
        std::os::unix::fs::symlink(&outside, volume.join("a/link")).expect("a link");
        give(&volume, (1234, 5678)).expect("root may");
        let owner =
            |path: &Path| std::fs::symlink_metadata(path).map(|found| (found.uid(), found.gid())).expect("there");
        for name in ["", "a", "a/b", "a/link"] {
            assert_eq!(owner(&volume.join(name)), (1234, 5678), "{name}");
        }
        assert_eq!((owner(&outside), owner(&outside.join("file"))), ((0, 0), (0, 0)));
    }
}
