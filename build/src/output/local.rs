//! `-o type=local`: the image's files in a folder, owned by whoever builds.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use layerfs::error::{Context, Result};

use crate::files::{self, FileKind, Request, Tree};
use crate::graph::Source;

/// Copies all files of `tree` into `folder`, over what is there. Devices and pipes are left out: they belong to a
/// machine, not to a result.
///
/// # Errors
/// A file cannot be read or written.
pub(super) fn export(tree: &Tree, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).at("create", folder)?;
    let sources = [Source::Path("/".to_owned())];
    let selection = files::select(tree, &Request { sources: &sources, parents: false, exclude: &[], fetched: &[] })?;
    let mut folders = Vec::new();
    for part in &selection.parts {
        let files::Content::Folder(entries) = &part.content else { continue };
        for entry in entries {
            let to = folder.join(std::ffi::OsStr::from_bytes(&entry.path));
            match entry.kind {
                FileKind::Dir => {
                    if !fs::symlink_metadata(&to).is_ok_and(|metadata| metadata.is_dir()) {
                        clear(&to)?;
                        fs::create_dir(&to).at("create", &to)?;
                    }
                    // A folder's mode and time come last: a read-only one could not be filled.
                    folders.push((to, entry));
                }
                FileKind::Symlink => {
                    clear(&to)?;
                    symlink(std::ffi::OsStr::from_bytes(&entry.link), &to).at("create", &to)?;
                }
                FileKind::File => {
                    clear(&to)?;
                    let from = files::real(tree, entry);
                    fs::copy(&from, &to).at("copy", &from)?;
                    finish(&to, entry)?;
                }
                FileKind::Char | FileKind::Block | FileKind::Fifo => {}
            }
        }
    }
    folders.iter().rev().try_for_each(|(path, entry)| finish(path, entry))
}

fn finish(path: &Path, entry: &files::Entry) -> Result<()> {
    let seconds = u64::try_from(entry.metadata.mtime()).unwrap_or(0);
    let time = UNIX_EPOCH + Duration::from_secs(seconds);
    // A file of which the mode says that nobody may open it keeps the time it was made at.
    let _ = fs::File::open(path).and_then(|file| file.set_modified(time));
    fs::set_permissions(path, fs::Permissions::from_mode(entry.mode())).at("change the mode of", path)
}

/// Takes what is in a file's place out of the way.
fn clear(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).at("look at", path),
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path).at("remove", path),
        Ok(_) => fs::remove_file(path).at("remove", path),
    }
}
