//! Files and folders by descriptor: resolution that cannot leave a root, extended attributes, the umask.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FileType, IFlags, Mode, OFlags, ResolveFlags, SeekFrom, XattrFlags};
use rustix::io::{Errno, ReadWriteFlags};

/// Most symlinks that one resolution follows, as the kernel's `MAXSYMLINKS`.
pub const SYMLINKS_MAX: usize = 40;

/// Opens a folder as a base for `*at` calls.
///
/// # Errors
/// It does not exist, is not a folder, or may not be searched.
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Reads a file of procfs, sysfs or a cgroup: by large reads and without asking for a size that such files do not have,
/// which is half the calls of [`std::fs::read_to_string`].
///
/// # Errors
/// Those of `open(2)` and `read(2)`; it is not text.
pub fn read_kernel_file(path: impl AsRef<Path>) -> io::Result<String> {
    /// Nearly all of them fit.
    const STEP: usize = 4096;
    let file = rustix::fs::open(path.as_ref(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::new();
    loop {
        let have = bytes.len();
        bytes.resize(have + STEP, 0);
        let read = loop {
            match rustix::io::read(&file, &mut bytes[have..]) {
                Err(Errno::INTR) => {}
                read => break read?,
            }
        };
        bytes.truncate(have + read);
        if read == 0 {
            return String::from_utf8(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        }
    }
}

/// Opens `path` below `root` as if `root` were `/`: absolute symlinks and `..` stay inside (`openat2(2)` with
/// `RESOLVE_IN_ROOT`, Linux 5.6; a walk in user space where a kernel or seccomp filter refuses it).
///
/// # Errors
/// Those of `openat2(2)`.
pub fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    static NO_OPENAT2: AtomicBool = AtomicBool::new(false);
    let flags = flags | OFlags::CLOEXEC;
    if !NO_OPENAT2.load(Ordering::Relaxed) {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(root, path, flags, mode, resolve) {
                // A rename elsewhere on the system raced with `..`; the kernel asks to try again.
                Err(Errno::AGAIN) => {}
                Err(Errno::NOSYS | Errno::PERM) => {
                    NO_OPENAT2.store(true, Ordering::Relaxed);
                    break;
                }
                result => return result,
            }
        }
    }
    walk_in_root(root, path, flags, mode)
}

/// Opens `path` below `root` only if no component of it is a symlink or leads upwards: the path then is the file's
/// true one.
///
/// # Errors
/// `ELOOP` for a symlink, `EXDEV` for a way out, `ENOSYS` where the kernel has no `openat2(2)` or a filter hides it.
pub fn open_plain(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve).map_err(|errno| match errno {
        Errno::PERM => Errno::NOSYS,
        other => other,
    })
}

/// A new file being written. Its content need not stay in the page cache once [`PassingFile::not_read_soon`] said so:
/// its pages then go to the disk at once and leave (`RWF_DONTCACHE`, Linux 6.14). They neither push out what is needed
/// nor wait for the final sync, and a few pages serve the whole file. Where kernel or filesystem cannot do that, only
/// the way to the disk begins early.
///
/// Pieces of zeros are left out: they become holes, so that ten gigabytes of nothing do not fill the disk.
#[derive(Debug)]
pub struct PassingFile<F> {
    file: F,
    way: Way,
    /// Where [`Write`] writes next.
    position: u64,
    /// Where the file ends so far.
    end: u64,
}

/// Smaller pieces of zeros are written: few save a block, and all would cost a look.
const HOLE: usize = 4 << 10;

#[derive(Clone, Copy, Debug)]
enum Way {
    Kept,
    Uncached,
    Early,
}

impl<F: AsFd> PassingFile<F> {
    /// Writes to `file`, which is kept in the page cache so far.
    pub fn new(file: F) -> Self {
        Self { file, way: Way::Kept, position: 0, end: 0 }
    }

    /// From here on. Large pieces are best, since each starts its own way to the disk.
    pub fn not_read_soon(&mut self) {
        self.way = Way::Uncached;
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// Those of `pwritev2(2)`.
    pub fn write_all_at(&mut self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = &bytes[written..];
                    offset += written as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Makes the file `size` bytes long, if the last of them are a hole.
    ///
    /// # Errors
    /// Those of `ftruncate(2)`.
    pub fn finish(self, size: u64) -> io::Result<()> {
        if self.end < size {
            rustix::fs::ftruncate(&self.file, size)?;
        }
        Ok(())
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> Result<usize, Errno> {
        if bytes.len() >= HOLE && bytes.chunks(HOLE).all(|part| *part == [0; HOLE][..part.len()]) {
            return Ok(bytes.len());
        }
        let written = self.write_bytes_at(bytes, offset)?;
        self.end = self.end.max(offset + written as u64);
        Ok(written)
    }

    fn write_bytes_at(&mut self, bytes: &[u8], offset: u64) -> Result<usize, Errno> {
        /// `RWF_DONTCACHE` of `linux/fs.h`.
        const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);
        if let Way::Uncached = self.way {
            match rustix::io::pwritev2(&self.file, &[IoSlice::new(bytes)], offset, DONTCACHE) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::PERM) => self.way = Way::Early,
                result => return result,
            }
        }
        let written = rustix::io::pwrite(&self.file, bytes, offset)?;
        if let Way::Early = self.way {
            start_writeback(&self.file, offset, written);
        }
        Ok(written)
    }
}

impl<F: AsFd> Write for PassingFile<F> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.write_at(buffer, self.position)?;
        self.position += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A reader of a file with holes that does not have the kernel fill pages with zeros for them.
#[derive(Debug)]
pub struct SparseReader {
    file: File,
    size: u64,
    at: u64,
    /// Up to here there is a hole, or data.
    until: u64,
    hole: bool,
}

impl SparseReader {
    /// Reads `file`, of `size` bytes, from its beginning.
    pub fn new(file: File, size: u64) -> Self {
        Self { file, size, at: 0, until: 0, hole: false }
    }

    /// Finds out whether what comes next is a hole, and how far it goes.
    fn look(&mut self) -> io::Result<()> {
        self.hole = match rustix::fs::seek(&self.file, SeekFrom::Data(self.at)) {
            Ok(data) if data == self.at => false,
            Ok(data) => {
                self.until = data.min(self.size);
                true
            }
            // No more data; or it became shorter, which whoever counts the bytes will see.
            Err(Errno::NXIO) if rustix::fs::fstat(&self.file)?.st_size as u64 >= self.size => {
                self.until = self.size;
                true
            }
            // A filesystem that knows nothing of holes.
            Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => {
                self.until = self.size;
                return Ok(());
            }
            Err(errno) => return Err(errno.into()),
        };
        if !self.hole {
            self.until = rustix::fs::seek(&self.file, SeekFrom::Hole(self.at))?.min(self.size);
        }
        Ok(())
    }
}

impl Read for SparseReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.until && self.at < self.size {
            self.look()?;
        }
        let most = buffer.len().min(usize::try_from(self.until - self.at).unwrap_or(usize::MAX));
        let read = match self.hole {
            true => {
                buffer[..most].fill(0);
                most
            }
            false => self.file.read_at(&mut buffer[..most], self.at)?,
        };
        self.at += read as u64;
        Ok(read)
    }
}

/// Lets the kernel begin to write a part of a file to the disk, and does not wait (`sync_file_range(2)`): the sync that
/// follows finds most of its work done. A filesystem that cannot is none the worse for it.
fn start_writeback(file: impl AsFd, offset: u64, size: usize) {
    let (Ok(offset), Ok(size)) = (offset.try_into(), size.try_into()) else { return };
    // SAFETY: numbers only.
    let _ = unsafe { libc::sync_file_range(file.as_fd().as_raw_fd(), offset, size, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Asks the filesystem to put the folders that will be made in `folder` far from each other on the disk, each with all
/// that will be in it (ext4's "top of folder hierarchies", `chattr(1)` +T). Near each other, ext4 searches for free
/// inodes among those of the neighbours, and one by one among those that were freed within the last minutes, which can
/// take longer than all the rest. It is advice: where it cannot be given, nothing is lost.
pub fn spread_folders(folder: &Path) {
    let advise = || -> Result<(), Errno> {
        let fd = rustix::fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let flags = rustix::fs::ioctl_getflags(&fd)?;
        rustix::fs::ioctl_setflags(&fd, flags | IFlags::TOPDIR)
    };
    let _ = advise();
}

/// The fallback of [`open_in_root`]: one component at a time, never following a symlink in the kernel.
fn walk_in_root(root: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let components = |path: &[u8]| -> Vec<Vec<u8>> {
        let parts = path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".");
        parts.map(<[u8]>::to_vec).rev().collect()
    };
    let mut pending = components(path.as_os_str().as_bytes());
    let reopen = |fd: BorrowedFd<'_>| rustix::fs::openat(fd, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let mut stack: Vec<OwnedFd> = vec![reopen(root)?];
    let mut links = 0;
    while let Some(name) = pending.pop() {
        if name == b".." {
            if stack.len() > 1 {
                stack.pop();
            }
            continue;
        }
        let here = stack.last().expect("the root stays on the stack").as_fd();
        let last = pending.is_empty();
        let stat = rustix::fs::statat(here, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW);
        let is_link = stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
        if is_link && !(last && flags.contains(OFlags::NOFOLLOW)) {
            links += 1;
            if links > SYMLINKS_MAX {
                return Err(Errno::LOOP);
            }
            let target = rustix::fs::readlinkat(here, name.as_slice(), Vec::new())?;
            if target.as_bytes().first() == Some(&b'/') {
                stack.truncate(1);
            }
            pending.extend(components(target.as_bytes()));
            continue;
        }
        if last {
            return rustix::fs::openat(here, name.as_slice(), flags | OFlags::NOFOLLOW, mode);
        }
        let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let next = rustix::fs::openat(here, name.as_slice(), folder, Mode::empty())?;
        stack.push(next);
    }
    let here = stack.last().expect("the root stays on the stack").as_fd();
    rustix::fs::openat(here, ".", flags.difference(OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW), mode)
}

/// The path through which a call without an `*at` form reaches what a descriptor (and maybe a name below it) stands
/// for.
pub fn proc_path(fd: BorrowedFd<'_>, name: Option<&[u8]>) -> CString {
    let mut path = format!("/proc/self/fd/{}", fd.as_raw_fd()).into_bytes();
    if let Some(name) = name {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    path.retain(|b| *b != 0);
    CString::new(path).expect("NUL bytes were just removed")
}

/// Sets an extended attribute of `name` in `dir` without following a symlink.
///
/// # Errors
/// Those of `lsetxattr(2)`.
pub fn set_xattr_at(dir: BorrowedFd<'_>, name: &[u8], key: &[u8], value: &[u8]) -> Result<(), Errno> {
    rustix::fs::lsetxattr(proc_path(dir, Some(name)), key, value, XattrFlags::empty())
}

/// An extended attribute of `path`, not following a symlink; `None` where there is none or the file system has no
/// such attributes.
///
/// # Errors
/// Those of `lgetxattr(2)` other than `ENODATA` and `ENOTSUP`.
pub fn get_xattr(path: &Path, key: impl rustix::path::Arg + Copy) -> Result<Option<Vec<u8>>, Errno> {
    let mut value = vec![0; 256];
    loop {
        match rustix::fs::lgetxattr(path, key, &mut value[..]) {
            Ok(size) => {
                value.truncate(size);
                return Ok(Some(value));
            }
            Err(Errno::RANGE) => {
                let size = rustix::fs::lgetxattr(path, key, &mut [0u8; 0][..])?;
                value.resize(size + 64, 0);
            }
            Err(Errno::NODATA | Errno::NOTSUP) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// The names of all extended attributes of `path`, not following a symlink.
///
/// # Errors
/// Those of `llistxattr(2)` other than `ENOTSUP`.
pub fn list_xattrs(path: &Path) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = vec![0; 512];
    loop {
        match rustix::fs::llistxattr(path, &mut names[..]) {
            Ok(size) => {
                names.truncate(size);
                let split = names.split(|b| *b == 0).filter(|name| !name.is_empty());
                return Ok(split.map(<[u8]>::to_vec).collect());
            }
            Err(Errno::RANGE) => {
                let size = rustix::fs::llistxattr(path, &mut [0u8; 0][..])?;
                names.resize(size + 256, 0);
            }
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
    }
}

/// Flushes the whole file system that `fd` lies on (`syncfs(2)`).
///
/// # Errors
/// A write of earlier data failed.
pub fn sync_file_system(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::fs::syncfs(fd)?)
}

/// The process's umask, read without changing it (`/proc/self/status`, Linux 4.7); `0o777` where it cannot be read,
/// so that a caller who compares modes takes none for granted.
pub fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(0o777)
}

/// Clones the data of `from` into `to` where the file system shares extents (`FICLONE`).
///
/// # Errors
/// Those of `ioctl_ficlone(2)`; `EOPNOTSUPP`, `EXDEV` and `EINVAL` mean "copy instead".
pub fn reflink(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::fs::ioctl_ficlone(to, from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn both_resolvers_stay_inside_the_root() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir_all(dir.path().join("root/a/b")).expect("folders");
        std::fs::write(dir.path().join("root/a/file"), "inside").expect("file");
        std::fs::write(dir.path().join("file"), "outside").expect("file");
        symlink("/a/file", dir.path().join("root/absolute")).expect("link");
        symlink("../../../../file", dir.path().join("root/a/b/up")).expect("link");
        symlink("loop", dir.path().join("root/loop")).expect("link");
        let root = open_dir(&dir.path().join("root")).expect("root");
        let read = |open: fn(BorrowedFd<'_>, &Path, OFlags, Mode) -> Result<OwnedFd, Errno>, path: &str| {
            let fd = open(root.as_fd(), Path::new(path), OFlags::RDONLY, Mode::empty())?;
            Ok(io::read_to_string(std::fs::File::from(fd)).expect("readable"))
        };
        for open in [open_in_root, walk_in_root] {
            assert_eq!(read(open, "absolute"), Ok("inside".to_owned()));
            assert_eq!(read(open, "/../a/./b/../file"), Ok("inside".to_owned()));
            assert_eq!(read(open, "a/b/up"), Err(Errno::NOENT));
            assert_eq!(read(open, "loop"), Err(Errno::LOOP));
        }
    }

    #[test]
    fn holes_are_neither_written_nor_read_from_the_disk() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("file");
        let content = [&[0; 1 << 20][..], b"middle", &[0; 1 << 20]].concat();
        for passing in [false, true] {
            let mut file = PassingFile::new(File::create(&path).expect("a new file"));
            if passing {
                file.not_read_soon();
            }
            for (piece, offset) in
                [(&content[..1 << 20], 0), (b"middle", 1 << 20), (&content[..1 << 20], (1 << 20) + 6)]
            {
                file.write_all_at(piece, offset).expect("room");
            }
            file.finish(content.len() as u64).expect("room");
            assert_eq!(std::fs::read(&path).expect("readable"), content);
            let metadata = std::fs::metadata(&path).expect("it is there");
            assert!(std::os::unix::fs::MetadataExt::blocks(&metadata) * 512 < 1 << 20, "the holes take room");
            let mut read = Vec::new();
            let mut sparse = SparseReader::new(File::open(&path).expect("readable"), metadata.len());
            sparse.read_to_end(&mut read).expect("readable");
            assert_eq!(read, content);
        }
    }
}
