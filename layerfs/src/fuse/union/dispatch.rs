//! The kernel's requests, each taken apart, carried out and answered.
//!
//! What is not listed here is answered with `ENOSYS`, which the kernel remembers: it then does without (opening and
//! closing, flushing, interrupting), or keeps it to itself (locks, which are those of one machine).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FileType, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::Union;
use super::attributes::Change;
use super::make::{Maker, What};
use super::node::Node;
use super::passthrough::RENEWED;
use crate::fuse::session::Handler;
use crate::fuse::wire::{
    self, Attributes, Fields, IOCTL_COMPAT, Moment, OPEN_KILL_SUIDGID, Reply, Request, SETXATTR_ACL_KILL_SGID,
    Validity, WRITE_KILL_SUIDGID, op,
};

impl Handler for Union {
    fn handle(&self, request: &Request<'_>, reply: &mut Reply) -> Result<(), Errno> {
        let node = self.node(request.node)?;
        let mut fields = request.fields();
        match request.opcode {
            op::LOOKUP => self.answer_lookup(&node, &mut fields, reply),
            op::GETATTR => {
                reply.attr_out(&self.attributes(&node)?, self.validity_of(&node));
                Ok(())
            }
            op::STATX => self.answer_statx(&node, &mut fields, reply),
            op::SETATTR => self.answer_setattr(&node, &mut fields, reply),
            op::READLINK => {
                let target = self.at(&node, |at| rustix::fs::readlinkat(at.dir, at.path, Vec::new()))?;
                reply.bytes(target.as_bytes());
                Ok(())
            }
            op::MKNOD => {
                let (mode, rdev, umask) = (fields.u32()?, fields.u32()?, fields.u32()?);
                fields.skip(4)?;
                let what = match FileType::from_raw_mode(mode) {
                    FileType::RegularFile => What::File,
                    kind => What::Special(kind, wire::decode_device(rdev)),
                };
                self.answer_make(&node, fields.name()?, what, maker(request, mode, umask), reply)
            }
            op::MKDIR => {
                let (mode, umask) = (fields.u32()?, fields.u32()?);
                self.answer_make(&node, fields.name()?, What::Folder, maker(request, mode, umask), reply)
            }
            op::SYMLINK => {
                let (name, target) = (fields.name()?, fields.string()?);
                self.answer_make(&node, name, What::Symlink(target), maker(request, 0o777, 0), reply)
            }
            op::TMPFILE => {
                let (flags, mode, umask) = (fields.u32()?, fields.u32()?, fields.u32()?);
                let (node, attributes) = self.make_nameless(&node, flags, maker(request, mode, umask))?;
                self.answer_opened(&node, &attributes, flags, reply)
            }
            op::OPEN => {
                let (flags, more) = (fields.u32()?, fields.u32()?);
                reply.open_out(self.open_file(&node, request.node, flags, more & OPEN_KILL_SUIDGID != 0)?);
                Ok(())
            }
            op::CREATE => {
                if self.passthrough.get().is_none() {
                    return Err(Errno::NOSYS);
                }
                let (flags, mode, umask) = (fields.u32()?, fields.u32()?, fields.u32()?);
                fields.skip(4)?;
                let maker = maker(request, mode, umask);
                let (node, attributes) = self.make(&node, fields.name()?, What::File, maker)?;
                self.answer_opened(&node, &attributes, flags, reply)
            }
            op::UNLINK => self.unlink(&node, fields.name()?),
            op::RMDIR => self.rmdir(&node, fields.name()?),
            op::RENAME => {
                let to = self.node(fields.u64()?)?;
                self.rename(&node, fields.name()?, &to, fields.name()?, 0)
            }
            op::RENAME2 => {
                let (to, flags) = (self.node(fields.u64()?)?, fields.u32()?);
                fields.skip(4)?;
                self.rename(&node, fields.name()?, &to, fields.name()?, flags)
            }
            op::LINK => {
                let file = self.node(fields.u64()?)?;
                let attributes = self.link(&file, &node, fields.name()?)?;
                reply.entry_out(file.number(), &attributes, self.validity_of(&file));
                Ok(())
            }
            op::READ => {
                fields.skip(8)?;
                let (offset, size) = (fields.u64()?, fields.u32()?);
                self.read(&node, request.node, offset, size, reply)
            }
            op::WRITE => {
                fields.skip(8)?;
                let (offset, size, flags) = (fields.u64()?, fields.u32()?, fields.u32()?);
                fields.skip(16)?;
                let data = fields.bytes(size as usize)?;
                let written = self.write(&node, offset, data, flags & WRITE_KILL_SUIDGID != 0)?;
                reply.u32(written);
                reply.u32(0);
                Ok(())
            }
            op::READDIR | op::READDIRPLUS => {
                fields.skip(8)?;
                let (from, room) = (fields.u64()?, fields.u32()?);
                self.list_into(&node, from, room as usize, request.opcode == op::READDIRPLUS, reply)
            }
            op::RELEASE => {
                self.close_file(&node, request.node);
                Ok(())
            }
            op::DESTROY => Ok(()),
            op::FSYNC | op::FSYNCDIR => {
                fields.skip(8)?;
                self.sync(&node, fields.u32()? & 1 != 0)
            }
            op::SYNCFS => self.sync_all(),
            op::STATFS => self.answer_statfs(reply),
            op::FALLOCATE => {
                fields.skip(8)?;
                let (offset, length, mode) = (fields.u64()?, fields.u64()?, fields.u32()?);
                self.allocate(&node, mode, offset, length)
            }
            op::LSEEK => {
                fields.skip(8)?;
                let (offset, whence) = (fields.u64()?, fields.u32()?);
                reply.u64(self.seek(&node, request.node, offset, whence)?);
                Ok(())
            }
            op::COPY_FILE_RANGE => {
                fields.skip(8)?;
                let (from, target) = (fields.u64()?, self.node(fields.u64()?)?);
                fields.skip(8)?;
                let (to, length) = (fields.u64()?, fields.u64()?);
                reply.u32(self.copy_range((&node, from), (&target, to), length)?);
                reply.u32(0);
                Ok(())
            }
            op::GETXATTR | op::LISTXATTR | op::SETXATTR | op::REMOVEXATTR => {
                self.answer_xattr(request.opcode, &node, &mut fields, reply)
            }
            op::IOCTL => self.answer_ioctl(&node, &mut fields, reply),
            _ => Err(Errno::NOSYS),
        }
    }

    fn forget(&self, request: &Request<'_>) {
        let mut fields = request.fields();
        if request.opcode == op::FORGET {
            if let Ok(count) = fields.u64() {
                self.forget_node(request.node, count);
            }
            return;
        }
        let _ = fields.skip(8);
        while let (Ok(id), Ok(count)) = (fields.u64(), fields.u64()) {
            self.forget_node(id, count);
        }
    }

    fn pass_through(&self, device: OwnedFd) {
        // It is agreed to once.
        let _ = self.passthrough.set(Arc::new(device));
    }
}

fn maker(request: &Request<'_>, mode: u32, umask: u32) -> Maker {
    Maker { uid: request.uid, gid: request.gid, mode, umask }
}

impl Union {
    fn node(&self, id: u64) -> Result<Arc<Node>, Errno> {
        match id {
            // What concerns the file system and not a file.
            0 => Ok(self.root.clone()),
            id => self.table.get(id & !RENEWED).ok_or(Errno::STALE),
        }
    }

    /// How long the kernel may believe what it is told of a file. One that it knows by two numbers may change under the
    /// other one.
    pub(super) fn validity_of(&self, node: &Node) -> Validity {
        let attributes = if node.is_renewed() { 0 } else { self.validity.attributes };
        Validity { attributes, ..self.validity }
    }

    /// What was made, and is open at once.
    fn answer_opened(
        &self,
        node: &Arc<Node>,
        attributes: &Attributes,
        flags: u32,
        reply: &mut Reply,
    ) -> Result<(), Errno> {
        reply.entry_out(node.number(), attributes, self.validity);
        match self.open_file(node, node.id, flags & !OFlags::TRUNC.bits(), false) {
            Ok(backing) => reply.open_out(backing),
            // A file needs no handle here.
            Err(Errno::NOSYS) => reply.open_out(None),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// A node that knows more than the layers do stays: one that is not where its name says, or counts other names.
    fn forget_node(&self, id: u64, count: u64) {
        let keep = |node: &Node| {
            let state = node.state();
            state.links != 0 && (node.place().is_some() || !state.aliases.is_empty())
        };
        drop(self.table.forget(id & !RENEWED, count, keep));
    }

    fn answer_lookup(&self, node: &Arc<Node>, fields: &mut Fields<'_>, reply: &mut Reply) -> Result<(), Errno> {
        match self.lookup(node, fields.name()?) {
            Ok((found, attributes)) => reply.entry_out(found.number(), &attributes, self.validity_of(&found)),
            Err(Errno::NOENT) => reply.no_entry(self.validity),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn answer_make(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
        what: What<'_>,
        maker: Maker,
        reply: &mut Reply,
    ) -> Result<(), Errno> {
        let (node, attributes) = self.make(parent, name, what, maker)?;
        reply.entry_out(node.number(), &attributes, self.validity);
        Ok(())
    }

    fn answer_setattr(&self, node: &Arc<Node>, fields: &mut Fields<'_>, reply: &mut Reply) -> Result<(), Errno> {
        let valid = fields.u32()?;
        fields.skip(12)?;
        let size = fields.u64()?;
        fields.skip(8)?;
        let (atime, mtime) = (fields.u64()?.cast_signed(), fields.u64()?.cast_signed());
        fields.skip(8)?;
        let (atime_nanos, mtime_nanos) = (fields.u32()?, fields.u32()?);
        fields.skip(4)?;
        let mode = fields.u32()?;
        fields.skip(4)?;
        let (uid, gid) = (fields.u32()?, fields.u32()?);
        let change = Change {
            valid,
            size,
            atime: Moment { seconds: atime, nanos: atime_nanos },
            mtime: Moment { seconds: mtime, nanos: mtime_nanos },
            mode,
            uid,
            gid,
        };
        self.change(node, &change)?;
        reply.attr_out(&self.attributes(node)?, self.validity_of(node));
        Ok(())
    }

    fn answer_statx(&self, node: &Arc<Node>, fields: &mut Fields<'_>, reply: &mut Reply) -> Result<(), Errno> {
        fields.skip(20)?;
        let mask = StatxFlags::from_bits_retain(fields.u32()?) | StatxFlags::BASIC_STATS;
        let stat = self.at(node, |at| rustix::fs::statx(at.dir, at.path, at.flags(), mask))?;
        let links = self.links(node, stat.stx_nlink.into());
        put_statx(reply, node, &stat, links, self);
        Ok(())
    }

    fn answer_statfs(&self, reply: &mut Reply) -> Result<(), Errno> {
        let room = self.room()?;
        for value in [room.f_blocks, room.f_bfree, room.f_bavail, room.f_files, room.f_ffree] {
            reply.u64(value);
        }
        for value in [room.f_bsize, room.f_namemax, room.f_frsize] {
            reply.u32(value as u32);
        }
        reply.zeros(28);
        Ok(())
    }

    fn answer_xattr(
        &self,
        opcode: u32,
        node: &Arc<Node>,
        fields: &mut Fields<'_>,
        reply: &mut Reply,
    ) -> Result<(), Errno> {
        match opcode {
            op::GETXATTR => {
                let size = fields.u32()?;
                fields.skip(4)?;
                self.get_attribute(node, fields.string()?, size, reply)
            }
            op::LISTXATTR => self.list_attributes(node, fields.u32()?, reply),
            op::SETXATTR => {
                let (size, flags, more) = (fields.u32()?, fields.u32()?, fields.u32()?);
                fields.skip(4)?;
                let name = fields.string()?;
                let value = fields.bytes(size as usize)?;
                self.set_attribute(node, name, value, flags, more & SETXATTR_ACL_KILL_SGID != 0)
            }
            _ => self.remove_attribute(node, fields.string()?),
        }
    }

    fn answer_ioctl(&self, node: &Arc<Node>, fields: &mut Fields<'_>, reply: &mut Reply) -> Result<(), Errno> {
        fields.skip(8)?;
        let (flags, command) = (fields.u32()?, fields.u32()?);
        fields.skip(8)?;
        let (input, output) = (fields.u32()?, fields.u32()?);
        if flags & IOCTL_COMPAT != 0 {
            return Err(Errno::NOSYS);
        }
        let result = self.control(node, command, fields.bytes(input as usize)?)?;
        // `fuse_ioctl_out`, then the answer in the caller's size.
        reply.zeros(16);
        if let Some(value) = result {
            let bytes = u64::from(value).to_ne_bytes();
            reply.bytes(&bytes[..bytes.len().min(output as usize)]);
        }
        Ok(())
    }
}

/// `fuse_statx_out`.
fn put_statx(reply: &mut Reply, node: &Node, stat: &Statx, links: u32, union: &Union) {
    let (uid, gid) = union.options.owners.seen(stat.stx_uid, stat.stx_gid);
    reply.u64(union.validity_of(node).attributes);
    reply.zeros(24);
    reply.u32(stat.stx_mask);
    reply.u32(stat.stx_blksize);
    reply.u64(stat.stx_attributes.bits());
    for value in [links, uid, gid] {
        reply.u32(value);
    }
    reply.u16(stat.stx_mode);
    reply.u16(0);
    for value in [node.ino, stat.stx_size, stat.stx_blocks, stat.stx_attributes_mask.bits()] {
        reply.u64(value);
    }
    for time in [&stat.stx_atime, &stat.stx_btime, &stat.stx_ctime, &stat.stx_mtime] {
        reply.u64(time.tv_sec.cast_unsigned());
        reply.u32(time.tv_nsec);
        reply.u32(0);
    }
    for value in [stat.stx_rdev_major, stat.stx_rdev_minor, 0, 0] {
        reply.u32(value);
    }
    reply.zeros(14 * 8);
}
