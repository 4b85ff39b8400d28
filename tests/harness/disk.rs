//! A disk that remembers the order of its writes, so that the power can be cut at any instant of it afterwards.
//!
//! A file served by FUSE, under a loop device: what the file system sends to the disk comes here as writes and, where
//! it asks for the disk's cache to be emptied, as flushes. A disk keeps what came before a flush; of what came later
//! it may have written anything, in any order.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, LockOwner,
    MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite, Request, WriteFlags,
};

use super::Call;

/// The name of the served file.
const NAME: &str = "disk";
const INODE: INodeNo = INodeNo(2);
const VALID: Duration = Duration::from_secs(3600);

/// What reached the disk.
enum Event {
    Write { offset: u64, data: Vec<u8> },
    Flush,
}

/// A disk with a file system, and what was written to it since the recording began.
pub(crate) struct Disk {
    dir: PathBuf,
    kind: &'static str,
    log: Arc<Mutex<Vec<Event>>>,
    _session: BackgroundSession,
}

/// What of the unflushed writes the disk had got to when the power went.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unflushed {
    /// All of them.
    Written,
    /// About every second, chosen by this seed.
    Scattered(u64),
}

impl Disk {
    /// A disk of this many megabytes, made by `mkfs.KIND`. Its files lie in `dir`.
    pub(crate) fn new(dir: &Path, kind: &'static str, megabytes: u64) -> Self {
        let (live, served) = (dir.join("live.img"), dir.join("served"));
        std::fs::create_dir_all(&served).expect("a folder in our folder");
        let file = File::create(&live).and_then(|file| file.set_len(megabytes << 20));
        file.expect("a file in our folder");
        Call::new(format!("mkfs.{kind}")).args(if kind == "xfs" { &["-q"][..] } else { &["-q", "-F"] }).arg(&live).ok();
        let log = Arc::new(Mutex::new(Vec::new()));
        let file = OpenOptions::new().read(true).write(true).open(&live).expect("we made it");
        let server = Server { file, size: megabytes << 20, log: Arc::clone(&log) };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("recorded-disk".to_owned())];
        let session = fuser::spawn_mount(server, &served, &config).expect("root may mount by FUSE");
        Self { dir: dir.to_owned(), kind, log, _session: session }
    }

    /// Mounts it. Its journal is written every second, as often as it can be.
    pub(crate) fn mount(&self, at: &Path) -> Mounted {
        let options = if self.kind == "ext4" { "loop,commit=1" } else { "loop" };
        Mounted::new(self.kind, options, &self.dir.join("served").join(NAME), at)
    }

    /// From here on the writes are remembered; everything before has reached the disk.
    pub(crate) fn record(&self, mounted: &Mounted) {
        Call::new("sync").arg("-f").arg(&mounted.0).ok();
        let mut log = self.log();
        log.clear();
        Call::new("cp").args(["--sparse=always"]).args([self.dir.join("live.img"), self.dir.join("base.img")]).ok();
    }

    /// Instants there are: a cut can be made before each of that many writes and flushes, and after the last.
    pub(crate) fn instants(&self) -> usize {
        self.log().len() + 1
    }

    /// The disk as the power left it at that instant, mounted again: the file system recovers by its journal.
    pub(crate) fn cut(&self, instant: usize, unflushed: Unflushed, at: &Path) -> Mounted {
        let image = self.dir.join("cut.img");
        Call::new("cp").args(["--sparse=always"]).args([self.dir.join("base.img"), image.clone()]).ok();
        let file = OpenOptions::new().write(true).open(&image).expect("we made it");
        let log = self.log();
        let seen = &log[..instant];
        let kept = seen.iter().rposition(|event| matches!(event, Event::Flush)).unwrap_or(0);
        let mut noise = match unflushed {
            Unflushed::Written => 0,
            Unflushed::Scattered(seed) => seed | 1,
        };
        for (number, event) in seen.iter().enumerate() {
            let Event::Write { offset, data } = event else { continue };
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            if number < kept || noise & 1 == 0 {
                file.write_all_at(data, *offset).expect("the image has that size");
            }
        }
        drop(log);
        // Two file systems of one identity may be mounted at once.
        let options = if self.kind == "xfs" { "loop,nouuid" } else { "loop" };
        Mounted::new(self.kind, options, &image, at)
    }

    fn log(&self) -> MutexGuard<'_, Vec<Event>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// From here on this thread, and what it starts, mounts for itself. Otherwise whoever makes a mount namespace meanwhile
/// gets a copy of each mount, and keeps its file system alive after it was unmounted here.
pub(crate) fn mount_apart() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("root may have mounts of its own");
    Call::new("mount").args(["--make-rprivate", "/"]).ok();
}

/// A mounted disk, until dropped.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    /// Nobody may use it any more.
    #[track_caller]
    pub(crate) fn unmount(self) {
        // A program that another test starts has our files open until it is executed.
        let end = Instant::now() + Duration::from_secs(30);
        let unmount = || Call::new("umount").arg(&self.0).output();
        let mut report = unmount();
        while report.code != 0 && Instant::now() < end {
            report = unmount();
        }
        report.expect_code(0);
        std::mem::forget(self);
    }

    pub(crate) fn new(kind: &str, options: &str, image: &Path, at: &Path) -> Self {
        std::fs::create_dir_all(at).expect("a folder in our folder");
        Call::new("mount").args(["-t", kind, "-o", options]).arg(image).arg(at).ok();
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(Call::new("umount").arg(&self.0).output());
    }
}

struct Server {
    file: File,
    size: u64,
    log: Arc<Mutex<Vec<Event>>>,
}

impl Server {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let (kind, size) = if inode == INODE { (FileType::RegularFile, self.size) } else { (FileType::Directory, 0) };
        FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Server {
    fn lookup(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name == NAME {
            true => reply.entry(&VALID, &self.attributes(INODE), Generation(0)),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _file: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&VALID, &self.attributes(inode));
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _file: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut data = vec![0; size.min(self.size.saturating_sub(offset) as u32) as usize];
        match self.file.read_exact_at(&mut data, offset) {
            Ok(()) => reply.data(&data),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _file: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // Under its lock, so that whoever holds it sees the disk and the record agree.
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        match self.file.write_all_at(data, offset) {
            Ok(()) => {
                log.push(Event::Write { offset, data: data.to_vec() });
                reply.written(data.len() as u32);
            }
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn flush(&self, _request: &Request, _inode: INodeNo, _file: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _request: &Request, _inode: INodeNo, _file: FileHandle, _data: bool, reply: ReplyEmpty) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).push(Event::Flush);
        reply.ok();
    }
}
