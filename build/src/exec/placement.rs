//! Where in a stage files go: the destination's symlinks resolved, and what of the way to it is there already.
//!
//! A copy's layer depends on the layers below through this alone, so a [`Placement`] is part of its key and the stack
//! below is not: on a new base with the same folders, the layer is found again.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use layerfs::error::{Error, Kind, Result};
use layerfs::layer::MergedView;

use crate::cache::KeyBuilder;

/// Most symlinks in one destination.
const SYMLINKS_MAX: usize = 40;

/// A resolved destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// The path without symlinks and without a leading slash; empty for the root.
    pub(crate) path: Vec<u8>,
    /// What is there.
    pub(crate) found: Found,
    /// Every folder above it, outermost first, the root left out; `None` for what is not there yet. Where the
    /// destination itself is a folder, it is the last.
    pub(crate) folders: Vec<(Vec<u8>, Option<Folder>)>,
}

/// What is at a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing.
    Nothing,
    /// A folder.
    Folder,
    /// Something else.
    File,
}

/// A folder of the layers below that the new layer has to describe again, because files in it change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Folder {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970. Not part of a key.
    pub(crate) modified: i64,
}

impl Placement {
    /// Adds what the copy's layer depends on.
    pub(crate) fn describe(&self, key: KeyBuilder) -> KeyBuilder {
        let folders = self.folders.iter().map(|(path, folder)| match folder {
            None => [path, &b" new"[..]].concat(),
            Some(folder) => {
                let text = format!(" {:o} {} {}", folder.mode, folder.uid, folder.gid);
                [path, text.as_bytes()].concat()
            }
        });
        key.with("destination", &self.path).with("found", format!("{:?}", self.found)).with_all("folder", folders)
    }
}

/// Resolves `destination` (absolute, clean; a slash at the end means nothing here) in the stage. With `follow` off,
/// symlinks on the way are replaced by folders, as `--link` asks.
///
/// # Errors
/// Something on the way is not a folder, or symlinks go round in a circle.
pub(crate) fn resolve(view: &MergedView, destination: &str, follow: bool) -> Result<Placement> {
    let mut pending: Vec<Vec<u8>> = components(destination.as_bytes());
    let mut folders: Vec<(Vec<u8>, Option<Folder>)> = Vec::new();
    let mut links = 0;
    while let Some(name) = pending.pop() {
        if name == b".." {
            folders.pop();
            continue;
        }
        let parent = folders.last();
        let path = parent.map_or_else(|| name.clone(), |(parent, _)| [parent, &b"/"[..], &name].concat());
        let parent_is_there = parent.is_none_or(|(_, folder)| folder.is_some());
        let entry = match parent_is_there {
            true => view.lookup(Path::new(std::ffi::OsStr::from_bytes(&path)))?,
            false => None,
        };
        let Some(entry) = entry else {
            folders.push((path, None));
            continue;
        };
        if entry.metadata.is_dir() {
            let folder = Folder {
                mode: entry.metadata.mode() & 0o7777,
                uid: entry.metadata.uid(),
                gid: entry.metadata.gid(),
                modified: entry.metadata.mtime(),
            };
            folders.push((path, Some(folder)));
        } else if entry.metadata.is_symlink() && follow {
            links += 1;
            if links > SYMLINKS_MAX {
                return Err(Error::new(Kind::Invalid, format!("destination `{destination}` has too many symlinks")));
            }
            let target = read_link(&entry.real)?;
            if target.first() == Some(&b'/') {
                folders.clear();
            }
            pending.extend(components(&target));
        } else if entry.metadata.is_symlink() {
            // What is copied takes the symlink's place.
            folders.push((path, None));
        } else if pending.is_empty() {
            return Ok(Placement { path, found: Found::File, folders });
        } else {
            let path = String::from_utf8_lossy(&path).into_owned();
            return Err(Error::new(Kind::Invalid, format!("`/{path}` on the way to `{destination}` is not a folder")));
        }
    }
    let found = match folders.last() {
        None | Some((_, Some(_))) => Found::Folder,
        Some((_, None)) => Found::Nothing,
    };
    let path = folders.last().map(|(path, _)| path.clone()).unwrap_or_default();
    if found == Found::Nothing {
        // What is not there is not a folder yet; whether it becomes one is the copy's to say.
        folders.pop();
    }
    Ok(Placement { path, found, folders })
}

fn read_link(path: &PathBuf) -> Result<Vec<u8>> {
    use layerfs::error::Context;
    use std::os::unix::ffi::OsStringExt;
    Ok(std::fs::read_link(path).at("read symlink", path)?.into_os_string().into_vec())
}

/// The components of a path, last first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    parts.rev().map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_resolved_inside_the_stage() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path();
        std::fs::create_dir_all(root.join("usr/lib")).expect("folders");
        std::fs::write(root.join("file"), "").expect("a file");
        for (link, target) in [("lib", "usr/lib"), ("up", "../../usr"), ("abs", "/usr/new"), ("tofile", "file")] {
            std::os::unix::fs::symlink(target, root.join(link)).expect("a link");
        }
        let view = MergedView::new(&[root.to_owned()]);
        for (destination, follow, path, found, folders) in [
            ("/", true, "", Found::Folder, ""),
            ("/usr", true, "usr", Found::Folder, "usr"),
            ("/lib", true, "usr/lib", Found::Folder, "usr usr/lib"),
            ("/lib/x", true, "usr/lib/x", Found::Nothing, "usr usr/lib"),
            ("/up/a/b", true, "usr/a/b", Found::Nothing, "usr usr/a?"),
            ("/abs", true, "usr/new", Found::Nothing, "usr"),
            ("/file", true, "file", Found::File, ""),
            ("/tofile", true, "file", Found::File, ""),
            ("/lib/x", false, "lib/x", Found::Nothing, "lib?"),
            ("/tofile", false, "tofile", Found::Nothing, ""),
            ("/file", false, "file", Found::File, ""),
            ("/../../x", true, "x", Found::Nothing, ""),
        ] {
            let placement = resolve(&view, destination, follow).expect(destination);
            let shown = placement.folders.iter().map(|(path, folder)| {
                format!("{}{}", String::from_utf8_lossy(path), if folder.is_none() { "?" } else { "" })
            });
            let shown = shown.collect::<Vec<_>>().join(" ");
            let actual = (String::from_utf8_lossy(&placement.path).into_owned(), placement.found, shown);
            assert_eq!(actual, (path.to_owned(), found, folders.to_owned()), "{destination}");
        }
        let error = resolve(&view, "/file/x", true).expect_err("not a folder");
        assert_eq!(error.to_string(), "`/file` on the way to `/file/x` is not a folder");
    }
}
