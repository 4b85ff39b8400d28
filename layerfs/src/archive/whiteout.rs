//! Whiteouts: how a layer says that something below it is gone.
//!
//! In an archive they are empty files with reserved names (image-spec, `layer.md`); on disk they have overlayfs's
//! form with `userxattr`: a character device 0:0, and an attribute on an opaque folder.

use std::fs::{File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat};
use rustix::io::Errno;

use crate::error::{Context, Error, Kind, Result};
use crate::sys::fs::get_xattr;

/// Beginning of a whiteout's name in an archive.
pub(crate) const PREFIX: &[u8] = b".wh.";
/// Name of the entry that makes its folder opaque.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
/// Beginning of the names AUFS used for itself; they mean nothing here.
const AUFS: &[u8] = b".wh..wh.";

/// overlayfs's own attributes with `userxattr`.
pub(crate) const OVERLAY: &[u8] = b"user.overlay.";
/// Where overlayfs keeps attributes of the first name that files themselves have (Linux 6.7, "nested mounts").
const ESCAPED: &[u8] = b"user.overlay.overlay.";
/// The attribute of an opaque folder.
pub(crate) const OPAQUE_XATTR: &str = "user.overlay.opaque";
/// The attribute of a whiteout that is a file.
pub(crate) const WHITEOUT_XATTR: &str = "user.overlay.whiteout";
/// What an owner, mode or device that cannot be stored is recorded in, as fuse-overlayfs and containers/storage do:
/// `UID:GID:MODE[:TYPE[-MAJOR-MINOR]]`, mode in octal.
pub(crate) const OVERRIDE_XATTR: &str = "user.containers.override_stat";

/// What a name in an archive means.
pub(crate) enum Meaning<'a> {
    /// A file of that name.
    Plain,
    /// The folder it is in hides everything below.
    Opaque,
    /// This name is gone.
    Whiteout(&'a [u8]),
    /// Nothing: bookkeeping of another tool.
    Ignored,
}

/// The meaning of the last component of an entry's path.
///
/// # Errors
/// A whiteout of nothing, of the folder itself, or of its parent.
pub(crate) fn meaning(name: &[u8]) -> Result<Meaning<'_>> {
    let Some(hidden) = name.strip_prefix(PREFIX) else { return Ok(Meaning::Plain) };
    if name == OPAQUE {
        return Ok(Meaning::Opaque);
    }
    if name.starts_with(AUFS) {
        return Ok(Meaning::Ignored);
    }
    if matches!(hidden, b"" | b"." | b"..") {
        let name = name.escape_ascii();
        return Err(Error::new(Kind::Invalid, format!("`{name}` is a whiteout of no file")));
    }
    Ok(Meaning::Whiteout(hidden))
}

/// Whether one of the folders of a path is bookkeeping of another tool, which is to be passed over.
///
/// # Errors
/// One has the name of a whiteout, which no file can have.
pub(crate) fn in_reserved(parent: &[u8]) -> Result<bool> {
    match parent.split(|byte| *byte == b'/').find(|part| part.starts_with(PREFIX)) {
        None => Ok(false),
        Some(part) if part.starts_with(AUFS) => Ok(true),
        Some(part) => {
            let part = part.escape_ascii();
            Err(Error::new(Kind::Invalid, format!("`{part}` is the name of a whiteout and cannot hold files")))
        }
    }
}

/// The value of an attribute as it means the same in every user namespace: file capabilities of version 3 name the
/// root user of one (Linux 4.14, `capabilities(7)`), which elsewhere is another. Version 2 is what the kernel itself
/// turns into version 3 for the namespace that sets it.
pub(crate) fn portable(name: &[u8], value: &[u8]) -> Vec<u8> {
    const REVISION: usize = 3;
    match (name, value) {
        (b"security.capability", [_, _, _, 3, ..]) if value.len() == 24 => {
            let mut plain = value[..20].to_vec();
            plain[REVISION] = 2;
            plain
        }
        _ => value.to_vec(),
    }
}

/// The name under which an attribute of an image is stored, so that it means nothing to overlayfs.
pub(crate) fn escape_xattr(name: &[u8]) -> Vec<u8> {
    match name.strip_prefix(OVERLAY) {
        Some(rest) => [ESCAPED, rest].concat(),
        None => name.to_vec(),
    }
}

/// The attribute of an image that is stored under `name`; `None` for one of overlayfs itself.
pub(crate) fn unescape_xattr(name: &[u8]) -> Option<Vec<u8>> {
    match (name.strip_prefix(ESCAPED), name.starts_with(OVERLAY)) {
        (Some(rest), _) => Some([OVERLAY, rest].concat()),
        (None, true) => None,
        (None, false) => Some(name.to_vec()),
    }
}

/// Makes a whiteout as a file with an attribute, and tells so on its folder: for where no whiteout device can be made, as
/// on an overlayfs (Linux 6.7, `overlayfs.rst`, "xwhiteouts"). The file must not be there.
///
/// # Errors
/// It cannot be made.
pub(crate) fn make_as_file(folder: &Path, name: &[u8]) -> Result<()> {
    let path = folder.join(std::ffi::OsStr::from_bytes(name));
    File::create_new(&path).at("create", &path)?;
    let flags = XattrFlags::empty();
    rustix::fs::lsetxattr(&path, WHITEOUT_XATTR, b"y", flags).at("mark", &path)?;
    if !is_opaque(folder)? {
        rustix::fs::setxattr(folder, OPAQUE_XATTR, b"x", flags).at("mark", folder)?;
    }
    Ok(())
}

/// Makes a whiteout of either form.
///
/// # Errors
/// It cannot be made.
pub(crate) fn make(path: &Path) -> Result<()> {
    match mknodat(CWD, path, FileType::CharacterDevice, Mode::from_raw_mode(0), 0) {
        Err(Errno::PERM) => {
            let name = path.file_name().unwrap_or_default();
            make_as_file(path.parent().unwrap_or(Path::new("/")), name.as_bytes())
        }
        result => result.at("create", path),
    }
}

/// Whether a file on disk is a whiteout, in either form.
///
/// # Errors
/// Its attributes cannot be read.
pub fn is_whiteout(path: &Path, metadata: &Metadata) -> Result<bool> {
    if metadata.file_type().is_char_device() {
        return Ok(metadata.rdev() == 0);
    }
    let candidate = metadata.is_file() && metadata.len() == 0;
    Ok(candidate && get_xattr(path, WHITEOUT_XATTR).at("read the attributes of", path)?.is_some())
}

/// Whether a folder on disk hides what is below it.
///
/// # Errors
/// Its attributes cannot be read.
pub fn is_opaque(dir: &Path) -> Result<bool> {
    let value = get_xattr(dir, OPAQUE_XATTR).at("read the attributes of", dir)?;
    Ok(value.as_deref() == Some(b"y"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_cannot_speak_to_overlayfs() {
        assert_eq!(escape_xattr(b"user.overlay.redirect"), b"user.overlay.overlay.redirect");
        assert_eq!(unescape_xattr(b"user.overlay.overlay.redirect").as_deref(), Some(&b"user.overlay.redirect"[..]));
        assert_eq!(unescape_xattr(b"user.overlay.origin"), None);
        assert_eq!(unescape_xattr(b"user.x").as_deref(), Some(&b"user.x"[..]));
    }

    #[test]
    fn capabilities_belong_to_no_namespace() {
        let v2 = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let v3 = [&[1, 0, 0, 3], &v2[4..], &[0xe9, 3, 0, 0]].concat();
        assert_eq!(portable(b"security.capability", &v3), v2);
        assert_eq!(portable(b"security.capability", &v2), v2);
        assert_eq!(portable(b"user.x", &v3), v3);
    }

    #[test]
    fn whiteouts_of_nothing_are_errors() {
        assert!(meaning(b".wh.").is_err() && meaning(b".wh..").is_err() && meaning(b".wh...").is_err());
        assert!(matches!(meaning(b".wh..x"), Ok(Meaning::Whiteout(b".x"))));
        assert!(matches!(meaning(b".wh..wh.plnk"), Ok(Meaning::Ignored)));
    }
}
