//! What is in files.

use std::sync::Arc;

use rustix::fs::{FallocateFlags, SeekFrom, StatVfs};
use rustix::io::Errno;

use super::Union;
use super::descriptors::Access;
use super::node::Node;
use crate::fuse::wire::Reply;

/// `SEEK_DATA` and `SEEK_HOLE`.
const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

impl Union {
    /// `READ`. A file that was copied up is read from its copy, whoever opened it when, unless the kernel reads it by
    /// itself.
    pub(super) fn read(
        &self,
        node: &Arc<Node>,
        number: u64,
        offset: u64,
        size: u32,
        reply: &mut Reply,
    ) -> Result<(), Errno> {
        let data = self.data_under(node, number)?;
        let buffer = reply.space(size as usize);
        let mut filled = 0;
        // A short answer means the end of the file.
        while filled < buffer.len() {
            match rustix::io::pread(&data, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        reply.truncate(filled);
        Ok(())
    }

    /// A file's data, to be changed.
    fn writable(&self, node: &Arc<Node>) -> Result<Arc<std::os::fd::OwnedFd>, Errno> {
        if let Some(fd) = node.slot.get(Access::Write) {
            return Ok(fd);
        }
        self.copy_up(node, u64::MAX)?;
        self.open_data(node, Access::Write)
    }

    /// `WRITE`.
    pub(super) fn write(&self, node: &Arc<Node>, offset: u64, data: &[u8], drop_set_id: bool) -> Result<u32, Errno> {
        let file = self.writable(node)?;
        let mut written = 0;
        while written < data.len() {
            match rustix::io::pwrite(&file, &data[written..], offset + written as u64) {
                Ok(0) => break,
                Ok(length) => written += length,
                Err(Errno::INTR) => {}
                Err(_) if written > 0 => break,
                Err(error) => return Err(error),
            }
        }
        if drop_set_id {
            self.drop_set_id(node)?;
        }
        Ok(written as u32)
    }

    /// `FALLOCATE`.
    pub(super) fn allocate(&self, node: &Arc<Node>, mode: u32, offset: u64, length: u64) -> Result<(), Errno> {
        let file = self.writable(node)?;
        rustix::fs::fallocate(&file, FallocateFlags::from_bits_retain(mode), offset, length)
    }

    /// `LSEEK`: data and holes; the kernel knows all else.
    pub(super) fn seek(&self, node: &Arc<Node>, number: u64, offset: u64, whence: u32) -> Result<u64, Errno> {
        let file = self.data_under(node, number)?;
        let target = match whence {
            SEEK_DATA => SeekFrom::Data(offset),
            SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        rustix::fs::seek(&file, target)
    }

    /// `COPY_FILE_RANGE`, inside the file system below: with shared extents where it can.
    pub(super) fn copy_range(&self, from: (&Arc<Node>, u64), to: (&Arc<Node>, u64), length: u64) -> Result<u32, Errno> {
        let target = self.writable(to.0)?;
        let source = self.open_data(from.0, Access::Read)?;
        let (mut read, mut write) = (from.1, to.1);
        let length = length.min(1 << 30) as usize;
        let copied = rustix::fs::copy_file_range(&source, Some(&mut read), &target, Some(&mut write), length)?;
        Ok(copied as u32)
    }

    /// `FSYNC` and `FSYNCDIR`. What lies in a lower layer is as safe as it will ever be.
    pub(super) fn sync(&self, node: &Arc<Node>, data_only: bool) -> Result<(), Errno> {
        if self.options.volatile || !node.is_upper() {
            return Ok(());
        }
        if node.is_dir() {
            return rustix::fs::fsync(self.upper_dir(node)?);
        }
        let file = self.open_data(node, Access::Read)?;
        if data_only { rustix::fs::fdatasync(&file) } else { rustix::fs::fsync(&file) }
    }

    /// `SYNCFS`.
    pub(super) fn sync_all(&self) -> Result<(), Errno> {
        match &self.upper {
            Some(upper) if !self.options.volatile => rustix::fs::syncfs(&upper.root),
            _ => Ok(()),
        }
    }

    /// `STATFS`: the room is that of the upper folder.
    pub(super) fn room(&self) -> Result<StatVfs, Errno> {
        match (&self.upper, self.layers.first()) {
            (Some(upper), _) => rustix::fs::fstatvfs(&upper.root),
            (None, Some(layer)) => rustix::fs::fstatvfs(&layer.root),
            (None, None) => Err(Errno::STALE),
        }
    }
}
