//! The forms in which layers on disk say what of the layers below is gone, and names that are not a file's own.
//!
//! Read are all that exist; written is one. Sources: Linux `Documentation/filesystems/overlayfs.rst` ("whiteouts and
//! opaque directories", "redirect_dir", "Nesting overlayfs mounts"); the `.wh.` names are those of the OCI image
//! specification, which tools leave on file systems without device nodes.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, Mode, XattrFlags};
use rustix::io::Errno;

use crate::sys::fs::proc_path;

/// The name, in a folder, that hides all below the folder.
pub(super) const OPAQUE_NAME: &[u8] = b".wh..wh..opq";
const WHITEOUT_PREFIX: &[u8] = b".wh.";

/// Which forms are believed, and which are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forms {
    /// What layerfs and the kernel with `userxattr` write: `user.overlay.*`.
    User,
    /// All that fuse-overlayfs, the kernel and containers/storage may have left: `trusted.overlay.*`,
    /// `user.fuseoverlayfs.*` and names that begin with `.wh.` too.
    All,
}

/// What a folder of a layer says of those below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opacity {
    /// They show through.
    Transparent,
    /// Nothing of them is to be seen.
    Opaque,
    /// They show through, and whiteouts in the folder may be files with an attribute.
    XattrWhiteouts,
}

/// What a name of a layer's folder means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// A file of that name, or, when it is a character device, maybe a whiteout.
    File,
    /// The folder is opaque.
    Opaque,
    /// This name is gone.
    Whiteout(&'a [u8]),
}

impl Forms {
    /// Prefixes of the attributes that are believed; the first one is written.
    pub(super) fn prefixes(self) -> &'static [&'static str] {
        match self {
            Forms::User => &["user.overlay."],
            Forms::All => &["user.overlay.", "trusted.overlay.", "user.fuseoverlayfs."],
        }
    }

    /// What a name means by itself.
    pub(super) fn meaning(self, name: &[u8]) -> Meaning<'_> {
        match (self, name.strip_prefix(WHITEOUT_PREFIX)) {
            (Forms::User, _) | (_, None) => Meaning::File,
            _ if name == OPAQUE_NAME => Meaning::Opaque,
            (_, Some(hidden)) => Meaning::Whiteout(hidden),
        }
    }

    /// Whether no file of this name can be made, because it would mean something else at the next mount.
    pub(super) fn is_reserved(self, name: &[u8]) -> bool {
        self.meaning(name) != Meaning::File
    }

    /// The first attribute of that name, of a file that a path leads to.
    fn attribute(self, read: impl Fn(&str, &mut [u8]) -> Result<usize, Errno>, name: &str) -> Option<Vec<u8>> {
        let mut value = [0; 4096];
        for prefix in self.prefixes() {
            // A value that is longer than any that means something means nothing.
            if let Ok(length) = read(&format!("{prefix}{name}"), &mut value) {
                return Some(value[..length].to_vec());
            }
        }
        None
    }

    /// What an open folder says of those below it.
    pub(super) fn opacity(self, dir: BorrowedFd<'_>) -> Opacity {
        if !self.has_own(dir) {
            return Opacity::Transparent;
        }
        match self.attribute(|name, value| rustix::fs::fgetxattr(dir, name, value), "opaque").as_deref() {
            Some(b"y") => Opacity::Opaque,
            Some(b"x") => Opacity::XattrWhiteouts,
            _ => Opacity::Transparent,
        }
    }

    /// Whether an open folder may have an attribute that steers unions. Few have any attribute at all, and to list them
    /// is one call where each form would be another.
    fn has_own(self, dir: BorrowedFd<'_>) -> bool {
        let mut names = [0; 512];
        match rustix::fs::flistxattr(dir, &mut names[..]) {
            Ok(length) => names[..length]
                .split(|byte| *byte == 0)
                .any(|name| self.prefixes().iter().any(|prefix| name.starts_with(prefix.as_bytes()))),
            // More than fit, or not to be had in that way.
            Err(error) => error != Errno::NOTSUP,
        }
    }

    /// Where the lower part of an open folder lies, if not below its own name.
    pub(super) fn redirect(self, dir: BorrowedFd<'_>) -> Option<Vec<u8>> {
        self.attribute(|name, value| rustix::fs::fgetxattr(dir, name, value), "redirect")
    }

    /// Whether an empty file is a whiteout by its attribute.
    pub(super) fn is_xattr_whiteout(self, dir: BorrowedFd<'_>, name: &[u8]) -> bool {
        let path = proc_path(dir, Some(name));
        self.attribute(|key, value| rustix::fs::lgetxattr(&path, key, value), "whiteout").is_some()
    }

    /// An attribute of ours, of a file in a folder.
    pub(super) fn own(self, dir: BorrowedFd<'_>, name: &[u8], key: &str) -> Option<Vec<u8>> {
        let path = proc_path(dir, Some(name));
        self.attribute(|key, value| rustix::fs::lgetxattr(&path, key, value), key)
    }

    /// Writes an attribute of ours.
    pub(super) fn set_own(self, dir: BorrowedFd<'_>, key: &str, value: &[u8]) -> Result<(), Errno> {
        let name = format!("{}{key}", self.prefixes()[0]);
        rustix::fs::fsetxattr(dir, name.as_str(), value, XattrFlags::empty())
    }

    /// The name under which a program's attribute is kept, so that it never means anything to a union.
    pub(super) fn escape(self, name: &[u8]) -> Vec<u8> {
        match self.private_part(name) {
            Some((prefix, rest)) => [prefix, b"overlay.", rest].concat(),
            None => name.to_vec(),
        }
    }

    /// The program's name for a kept attribute; `None` for what is none of its business.
    pub(super) fn unescape(self, name: &[u8]) -> Option<Vec<u8>> {
        if self == Forms::All && name.starts_with(b"user.fuseoverlayfs.") {
            return None;
        }
        match self.private_part(name) {
            Some((prefix, rest)) => rest.strip_prefix(b"overlay.").map(|rest| [prefix, rest].concat()),
            None => Some(name.to_vec()),
        }
    }

    fn private_part(self, name: &[u8]) -> Option<(&'static [u8], &[u8])> {
        let prefixes = self.prefixes().iter().filter(|prefix| prefix.ends_with(".overlay."));
        prefixes.map(|prefix| prefix.as_bytes()).find_map(|prefix| Some((prefix, name.strip_prefix(prefix)?)))
    }
}

/// Makes a whiteout. It has the kernel's form: a character device 0:0, which needs no privilege (Linux 5.8).
pub(super) fn make_whiteout(dir: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    rustix::fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_tool_are_files_to_another() {
        assert_eq!(Forms::User.meaning(b".wh.x"), Meaning::File);
        assert_eq!(Forms::All.meaning(b".wh.x"), Meaning::Whiteout(b"x"));
        assert_eq!(Forms::All.meaning(b".wh..wh..opq"), Meaning::Opaque);
        assert_eq!(Forms::All.meaning(b"x.wh."), Meaning::File);
    }

    #[test]
    fn attributes_of_programs_never_steer_a_union() {
        let all = Forms::All;
        assert_eq!(all.escape(b"user.overlay.opaque"), b"user.overlay.overlay.opaque");
        assert_eq!(all.unescape(b"user.overlay.overlay.opaque").as_deref(), Some(&b"user.overlay.opaque"[..]));
        assert_eq!(all.unescape(b"trusted.overlay.opaque"), None);
        assert_eq!(Forms::User.unescape(b"trusted.overlay.opaque").as_deref(), Some(&b"trusted.overlay.opaque"[..]));
        assert_eq!(all.unescape(b"user.mine").as_deref(), Some(&b"user.mine"[..]));
    }
}
