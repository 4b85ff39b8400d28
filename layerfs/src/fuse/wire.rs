//! The protocol of `/dev/fuse`: requests taken apart, replies put together, no `unsafe` and no allocation per message.
//!
//! Numbers are the machine's own (the kernel and this process share it). Source: Linux `include/uapi/linux/fuse.h`,
//! protocol 7.31 and later.

use rustix::io::Errno;

/// The kernel's name for the root.
pub(super) const ROOT: u64 = 1;
/// Bytes of `fuse_in_header`.
const REQUEST_HEADER: usize = 40;
/// Bytes of `fuse_out_header`.
const REPLY_HEADER: usize = 16;

/// The protocol version spoken here. What is newer is negotiated by flags.
pub(super) const MAJOR: u32 = 7;
/// See [`MAJOR`].
pub(super) const MINOR: u32 = 41;
/// Linux 5.4 (2019): below it the sizes of messages differ.
pub(super) const MINOR_LEAST: u32 = 31;

/// `enum fuse_opcode`.
pub(super) mod op {
    pub(in crate::fuse) const LOOKUP: u32 = 1;
    pub(in crate::fuse) const FORGET: u32 = 2;
    pub(in crate::fuse) const GETATTR: u32 = 3;
    pub(in crate::fuse) const SETATTR: u32 = 4;
    pub(in crate::fuse) const READLINK: u32 = 5;
    pub(in crate::fuse) const SYMLINK: u32 = 6;
    pub(in crate::fuse) const MKNOD: u32 = 8;
    pub(in crate::fuse) const MKDIR: u32 = 9;
    pub(in crate::fuse) const UNLINK: u32 = 10;
    pub(in crate::fuse) const RMDIR: u32 = 11;
    pub(in crate::fuse) const RENAME: u32 = 12;
    pub(in crate::fuse) const LINK: u32 = 13;
    pub(in crate::fuse) const OPEN: u32 = 14;
    pub(in crate::fuse) const READ: u32 = 15;
    pub(in crate::fuse) const WRITE: u32 = 16;
    pub(in crate::fuse) const STATFS: u32 = 17;
    pub(in crate::fuse) const RELEASE: u32 = 18;
    pub(in crate::fuse) const FSYNC: u32 = 20;
    pub(in crate::fuse) const SETXATTR: u32 = 21;
    pub(in crate::fuse) const GETXATTR: u32 = 22;
    pub(in crate::fuse) const LISTXATTR: u32 = 23;
    pub(in crate::fuse) const REMOVEXATTR: u32 = 24;
    pub(in crate::fuse) const INIT: u32 = 26;
    pub(in crate::fuse) const READDIR: u32 = 28;
    pub(in crate::fuse) const FSYNCDIR: u32 = 30;
    pub(in crate::fuse) const CREATE: u32 = 35;
    pub(in crate::fuse) const DESTROY: u32 = 38;
    pub(in crate::fuse) const IOCTL: u32 = 39;
    pub(in crate::fuse) const BATCH_FORGET: u32 = 42;
    pub(in crate::fuse) const FALLOCATE: u32 = 43;
    pub(in crate::fuse) const READDIRPLUS: u32 = 44;
    pub(in crate::fuse) const RENAME2: u32 = 45;
    pub(in crate::fuse) const LSEEK: u32 = 46;
    pub(in crate::fuse) const COPY_FILE_RANGE: u32 = 47;
    pub(in crate::fuse) const SYNCFS: u32 = 50;
    pub(in crate::fuse) const TMPFILE: u32 = 51;
    pub(in crate::fuse) const STATX: u32 = 52;
}

/// Flags of `FUSE_INIT`; those above bit 31 travel in a second word.
pub(super) mod init {
    pub(in crate::fuse) const ASYNC_READ: u64 = 1 << 0;
    pub(in crate::fuse) const ATOMIC_O_TRUNC: u64 = 1 << 3;
    pub(in crate::fuse) const BIG_WRITES: u64 = 1 << 5;
    pub(in crate::fuse) const DONT_MASK: u64 = 1 << 6;
    pub(in crate::fuse) const IOCTL_DIR: u64 = 1 << 11;
    pub(in crate::fuse) const DO_READDIRPLUS: u64 = 1 << 13;
    pub(in crate::fuse) const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub(in crate::fuse) const ASYNC_DIO: u64 = 1 << 15;
    pub(in crate::fuse) const WRITEBACK_CACHE: u64 = 1 << 16;
    pub(in crate::fuse) const NO_OPEN_SUPPORT: u64 = 1 << 17;
    pub(in crate::fuse) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(in crate::fuse) const POSIX_ACL: u64 = 1 << 20;
    pub(in crate::fuse) const ABORT_ERROR: u64 = 1 << 21;
    pub(in crate::fuse) const MAX_PAGES: u64 = 1 << 22;
    pub(in crate::fuse) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(in crate::fuse) const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    pub(in crate::fuse) const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub(in crate::fuse) const SETXATTR_EXT: u64 = 1 << 29;
    pub(in crate::fuse) const EXT: u64 = 1 << 30;
    pub(in crate::fuse) const PASSTHROUGH: u64 = 1 << 37;
}

/// `FUSE_OPEN_KILL_SUIDGID`: the same of what opens and truncates.
pub(super) const OPEN_KILL_SUIDGID: u32 = 1 << 0;
/// `FUSE_WRITE_KILL_SUIDGID`: the writer may not keep the set-id bits.
pub(super) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `FUSE_SETXATTR_ACL_KILL_SGID`.
pub(super) const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;
/// `FUSE_IOCTL_DIR` and kin are told apart by the node; this one alone matters: the caller is a 32-bit program.
pub(super) const IOCTL_COMPAT: u32 = 1 << 0;

/// Bits of `fuse_setattr_in.valid`.
pub(super) mod set {
    pub(in crate::fuse) const MODE: u32 = 1 << 0;
    pub(in crate::fuse) const UID: u32 = 1 << 1;
    pub(in crate::fuse) const GID: u32 = 1 << 2;
    pub(in crate::fuse) const SIZE: u32 = 1 << 3;
    pub(in crate::fuse) const ATIME: u32 = 1 << 4;
    pub(in crate::fuse) const MTIME: u32 = 1 << 5;
    pub(in crate::fuse) const ATIME_NOW: u32 = 1 << 7;
    pub(in crate::fuse) const MTIME_NOW: u32 = 1 << 8;
    pub(in crate::fuse) const KILL_SUIDGID: u32 = 1 << 11;
}

/// One message of the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The thread that asks; 0 where it is the kernel itself, or not to be seen from here.
    pub(super) pid: u32,
    body: &'a [u8],
}

impl<'a> Request<'a> {
    /// Takes the header off; `None` for what is no message.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, body) = bytes.split_at_checked(REQUEST_HEADER)?;
        let mut fields = Fields(header);
        let (length, opcode) = (fields.u32().ok()?, fields.u32().ok()?);
        let (unique, node) = (fields.u64().ok()?, fields.u64().ok()?);
        let (uid, gid, pid) = (fields.u32().ok()?, fields.u32().ok()?, fields.u32().ok()?);
        (length as usize == bytes.len()).then_some(Self { opcode, unique, node, uid, gid, pid, body })
    }

    /// The arguments.
    pub(super) fn fields(&self) -> Fields<'a> {
        Fields(self.body)
    }
}

/// Arguments of a request, taken off one by one. A message that is too short is `EINVAL`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn u32(&mut self) -> Result<u32, Errno> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(u32::from_ne_bytes(*bytes))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Errno> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(u64::from_ne_bytes(*bytes))
    }

    pub(super) fn skip(&mut self, bytes: usize) -> Result<(), Errno> {
        self.bytes(bytes).map(drop)
    }

    pub(super) fn bytes(&mut self, length: usize) -> Result<&'a [u8], Errno> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// A string up to its NUL, which is taken off too.
    pub(super) fn string(&mut self) -> Result<&'a [u8], Errno> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(Errno::INVAL)?;
        let (string, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        Ok(string)
    }

    /// The name of a file in a folder: one component that is neither empty nor a dot form.
    pub(super) fn name(&mut self) -> Result<&'a [u8], Errno> {
        let name = self.string()?;
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
            return Err(Errno::INVAL);
        }
        if name.len() > 255 { Err(Errno::NAMETOOLONG) } else { Ok(name) }
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A moment, as `fuse_attr` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) seconds: i64,
    pub(super) nanos: u32,
}

/// What is known of a file: `fuse_attr`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attributes {
    pub(super) ino: u64,
    pub(super) size: u64,
    pub(super) blocks: u64,
    pub(super) atime: Moment,
    pub(super) mtime: Moment,
    pub(super) ctime: Moment,
    pub(super) mode: u32,
    pub(super) nlink: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) rdev: u64,
    pub(super) blksize: u32,
}

/// How long the kernel may believe an answer, in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Validity {
    pub(super) entry: u64,
    pub(super) attributes: u64,
}

/// A reply under construction: one buffer, kept between requests.
pub(super) struct Reply {
    buffer: Vec<u8>,
    length: usize,
}

impl Reply {
    /// Room for replies with up to `payload` bytes. The memory is touched as far as replies are long.
    pub(super) fn new(payload: usize) -> Self {
        Self { buffer: vec![0; REPLY_HEADER + payload], length: REPLY_HEADER }
    }

    pub(super) fn clear(&mut self) {
        self.length = REPLY_HEADER;
    }

    /// Bytes put so far.
    pub(super) fn len(&self) -> usize {
        self.length - REPLY_HEADER
    }

    pub(super) fn truncate(&mut self, payload: usize) {
        self.length = self.length.min(REPLY_HEADER + payload);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.space(bytes.len()).copy_from_slice(bytes);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_ne_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_ne_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_ne_bytes());
    }

    pub(super) fn zeros(&mut self, count: usize) {
        self.space(count).fill(0);
    }

    /// The next `count` bytes, to be filled in place.
    pub(super) fn space(&mut self, count: usize) -> &mut [u8] {
        let start = self.length;
        self.length += count;
        if self.length > self.buffer.len() {
            self.buffer.resize(self.length, 0);
        }
        &mut self.buffer[start..self.length]
    }

    /// `fuse_attr`.
    pub(super) fn attributes(&mut self, attr: &Attributes) {
        let Attributes { ino, size, blocks, atime, mtime, ctime, mode, nlink, uid, gid, rdev, blksize } = *attr;
        self.u64(ino);
        self.u64(size);
        self.u64(blocks);
        for moment in [atime, mtime, ctime] {
            self.u64(moment.seconds.cast_unsigned());
        }
        for moment in [atime, mtime, ctime] {
            self.u32(moment.nanos);
        }
        for value in [mode, nlink, uid, gid, encode_device(rdev), blksize, 0] {
            self.u32(value);
        }
    }

    /// `fuse_attr_out`.
    pub(super) fn attr_out(&mut self, attr: &Attributes, validity: Validity) {
        self.u64(validity.attributes);
        self.zeros(8);
        self.attributes(attr);
    }

    /// `fuse_entry_out`.
    pub(super) fn entry_out(&mut self, node: u64, attr: &Attributes, validity: Validity) {
        self.u64(node);
        self.u64(0);
        self.u64(validity.entry);
        self.u64(validity.attributes);
        self.zeros(8);
        self.attributes(attr);
    }

    /// `fuse_entry_out` that says: there is no such name, and there will be none until it is made through this mount.
    pub(super) fn no_entry(&mut self, validity: Validity) {
        self.entry_out(0, &Attributes::default(), validity);
    }

    /// `fuse_open_out`. With the number of a backing file the kernel reads and writes that one; without, it asks here
    /// and keeps what it read before.
    pub(super) fn open_out(&mut self, backing: Option<u32>) {
        /// `FOPEN_KEEP_CACHE`
        const KEEP_CACHE: u32 = 1 << 1;
        /// `FOPEN_PASSTHROUGH`
        const PASSTHROUGH: u32 = 1 << 7;
        self.u64(0);
        self.u32(if backing.is_some() { PASSTHROUGH } else { KEEP_CACHE });
        self.u32(backing.unwrap_or_default());
    }

    /// `fuse_dirent`, padded; `kind` is a `DT_*`.
    pub(super) fn dirent(&mut self, ino: u64, next: u64, kind: u8, name: &[u8]) {
        self.u64(ino);
        self.u64(next);
        self.u32(name.len() as u32);
        self.u32(kind.into());
        self.bytes(name);
        self.zeros(padding(name.len()));
    }

    /// The finished message: an error has no payload.
    pub(super) fn finish(&mut self, unique: u64, result: Result<(), Errno>) -> &[u8] {
        let error = result.err().map_or(0, |errno| -errno.raw_os_error());
        if error != 0 {
            self.clear();
        }
        let length = self.length as u32;
        self.buffer[..4].copy_from_slice(&length.to_ne_bytes());
        self.buffer[4..8].copy_from_slice(&error.to_ne_bytes());
        self.buffer[8..16].copy_from_slice(&unique.to_ne_bytes());
        &self.buffer[..self.length]
    }
}

/// Bytes of `fuse_entry_out`.
pub(super) const ENTRY_OUT: usize = 128;

/// Bytes of a `fuse_dirent` with a name of this length.
pub(super) fn dirent_size(name: usize) -> usize {
    24 + name + padding(name)
}

fn padding(name: usize) -> usize {
    (24 + name).next_multiple_of(8) - 24 - name
}

/// `new_encode_dev` of the kernel: what travels as 32 bits.
fn encode_device(rdev: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// `new_decode_dev` of the kernel.
pub(super) fn decode_device(device: u32) -> u64 {
    rustix::fs::makedev((device & 0xf_ff00) >> 8, (device & 0xff) | ((device >> 12) & 0xf_ff00))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(opcode: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(((REQUEST_HEADER + body.len()) as u32).to_ne_bytes());
        bytes.extend(opcode.to_ne_bytes());
        bytes.extend(7u64.to_ne_bytes());
        bytes.extend(1u64.to_ne_bytes());
        bytes.extend([0; 16]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn requests_are_taken_apart() {
        let bytes = message(op::RENAME, b"\x05\0\0\0\0\0\0\0old\0new\0");
        let request = Request::parse(&bytes).expect("a message");
        assert_eq!((request.opcode, request.unique, request.node), (op::RENAME, 7, ROOT));
        let mut fields = request.fields();
        assert_eq!(fields.u64(), Ok(5));
        assert_eq!((fields.name(), fields.name()), (Ok(&b"old"[..]), Ok(&b"new"[..])));
        assert!(fields.is_empty());
        assert_eq!(fields.u32(), Err(Errno::INVAL), "what is not there is no panic");
        assert!(Request::parse(&bytes[..39]).is_none() && Request::parse(&bytes[..50]).is_none());
    }

    #[test]
    fn names_are_one_component() {
        for (name, expected) in [
            (&b".\0"[..], Errno::INVAL),
            (b"..\0", Errno::INVAL),
            (b"\0", Errno::INVAL),
            (b"a/b\0", Errno::INVAL),
            (b"no end", Errno::INVAL),
        ] {
            assert_eq!(Fields(name).name(), Err(expected), "{name:?}");
        }
        let long = [&[b'x'; 256][..], b"\0"].concat();
        assert_eq!(Fields(&long).name(), Err(Errno::NAMETOOLONG));
        assert!(Fields(&long[1..]).name().is_ok());
    }

    #[test]
    fn replies_have_the_kernels_sizes() {
        let mut reply = Reply::new(0);
        let validity = Validity { entry: 1, attributes: 1 };
        reply.entry_out(2, &Attributes::default(), validity);
        assert_eq!(reply.len(), ENTRY_OUT);
        reply.dirent(1, 2, 4, b"abc");
        assert_eq!(reply.len(), ENTRY_OUT + dirent_size(3));
        assert_eq!(
            reply.finish(9, Err(Errno::NOENT)),
            [&16u32.to_ne_bytes()[..], &(-2i32).to_ne_bytes(), &9u64.to_ne_bytes()].concat()
        );
    }

    #[test]
    fn devices_travel_both_ways() {
        for (major, minor) in [(0, 0), (1, 3), (259, 70000), (4095, 0xf_ffff)] {
            let device = rustix::fs::makedev(major, minor);
            assert_eq!(decode_device(encode_device(device)), device);
        }
    }
}
