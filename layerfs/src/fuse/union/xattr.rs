//! Extended attributes. Those that steer unions are nobody's but ours: a program's own of such a name are kept under
//! another, and read back under theirs.

use std::sync::Arc;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::Union;
use super::node::Node;
use crate::fuse::wire::Reply;

/// `XATTR_SIZE_MAX` and `XATTR_LIST_MAX` of the kernel.
const MOST: usize = 64 * 1024;

impl Union {
    /// `GETXATTR`; a `size` of 0 asks how long the value is.
    pub(super) fn get_attribute(&self, node: &Node, name: &[u8], size: u32, reply: &mut Reply) -> Result<(), Errno> {
        let kept = self.options.forms.escape(name);
        let value = self.at(node, |at| {
            let path = at.proc_path();
            let mut value = vec![0; 512];
            loop {
                match rustix::fs::lgetxattr(&path, kept.as_slice(), &mut value[..]) {
                    Ok(length) => {
                        value.truncate(length);
                        return Ok(value);
                    }
                    Err(Errno::RANGE) if value.len() < MOST => value.resize(MOST, 0),
                    Err(error) => return Err(error),
                }
            }
        })?;
        answer(&value, size, reply)
    }

    /// `LISTXATTR`.
    pub(super) fn list_attributes(&self, node: &Node, size: u32, reply: &mut Reply) -> Result<(), Errno> {
        let names = self.at(node, |at| {
            let mut names = vec![0; 1024];
            loop {
                match rustix::fs::llistxattr(at.proc_path(), &mut names[..]) {
                    Ok(length) => {
                        names.truncate(length);
                        return Ok(names);
                    }
                    Err(Errno::RANGE) if names.len() < MOST => names.resize(MOST, 0),
                    Err(Errno::NOTSUP) => return Ok(Vec::new()),
                    Err(error) => return Err(error),
                }
            }
        })?;
        let forms = self.options.forms;
        let mut seen = Vec::with_capacity(names.len());
        for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            if let Some(name) = forms.unescape(name) {
                seen.extend_from_slice(&name);
                seen.push(0);
            }
        }
        answer(&seen, size, reply)
    }

    /// `SETXATTR`.
    pub(super) fn set_attribute(
        &self,
        node: &Arc<Node>,
        name: &[u8],
        value: &[u8],
        flags: u32,
        drop_set_id: bool,
    ) -> Result<(), Errno> {
        let kept = self.options.forms.escape(name);
        self.copy_up(node, u64::MAX)?;
        let flags = XattrFlags::from_bits_retain(flags);
        self.at(node, |at| rustix::fs::lsetxattr(at.proc_path(), kept.as_slice(), value, flags))?;
        self.inherits_anew(node, name);
        if drop_set_id { self.drop_set_id(node) } else { Ok(()) }
    }

    /// `REMOVEXATTR`.
    pub(super) fn remove_attribute(&self, node: &Arc<Node>, name: &[u8]) -> Result<(), Errno> {
        let kept = self.options.forms.escape(name);
        // What is not there is no reason to copy a file.
        self.at(node, |at| rustix::fs::lgetxattr(at.proc_path(), kept.as_slice(), &mut [0u8; 0][..]).map(drop))?;
        self.copy_up(node, u64::MAX)?;
        self.at(node, |at| rustix::fs::lremovexattr(at.proc_path(), kept.as_slice()))?;
        self.inherits_anew(node, name);
        Ok(())
    }

    fn inherits_anew(&self, node: &Node, name: &[u8]) {
        if name.starts_with(b"system.")
            && let Some(mut dir) = node.dir_mut()
        {
            dir.inherited = None;
        }
    }
}

/// `fuse_getxattr_out`, or the bytes themselves where there is room for them.
fn answer(value: &[u8], size: u32, reply: &mut Reply) -> Result<(), Errno> {
    if size == 0 {
        reply.u32(value.len() as u32);
        reply.u32(0);
        return Ok(());
    }
    if value.len() > size as usize {
        return Err(Errno::RANGE);
    }
    reply.bytes(value);
    Ok(())
}
