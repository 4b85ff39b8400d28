//! Places to mount on that the launcher had to make in a step's upper folder: they are no change of the step's.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use layerfs::error::{Context, Kind, Result};
use layerfs::layer::MergedView;

use crate::exec::placement;

/// Removes what is at `targets` in `upper` if the layers below have nothing there and the step left it as the launcher
/// made it: an empty file or folder. Folders on the way to it that are empty then go too; those that the layers below
/// have were only touched.
pub(super) fn remove(upper: &Path, view: &MergedView, targets: &[PathBuf]) -> Result<()> {
    // Deepest first, so that a stub inside another's folder is gone before that folder is looked at.
    let mut paths: Vec<PathBuf> = targets.iter().map(|target| place(view, &clean(target))).collect::<Result<_>>()?;
    paths.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for path in paths {
        if path.as_os_str().is_empty() {
            continue;
        }
        if view.resolve(&path)?.is_none() {
            take_out(&upper.join(&path))?;
        }
        let mut folder = path.parent();
        while let Some(path) = folder.filter(|path| !path.as_os_str().is_empty()) {
            if !unchanged(upper, view, path)? {
                break;
            }
            take_out(&upper.join(path))?;
            folder = path.parent();
        }
    }
    Ok(())
}

/// Whether an empty folder of the upper says nothing that the layers below do not: it is not there, or the same.
fn unchanged(upper: &Path, view: &MergedView, path: &Path) -> Result<bool> {
    let Ok(metadata) = fs::symlink_metadata(upper.join(path)) else { return Ok(true) };
    if !metadata.is_dir() || fs::read_dir(upper.join(path)).is_ok_and(|mut entries| entries.next().is_some()) {
        return Ok(false);
    }
    let opaque = layerfs::sys::fs::get_xattr(&upper.join(path), "user.overlay.opaque").ok().flatten();
    if opaque.is_some_and(|value| value == b"y") {
        return Ok(false);
    }
    let same = |below: &fs::Metadata| {
        (below.mode(), below.uid(), below.gid()) == (metadata.mode(), metadata.uid(), metadata.gid())
    };
    Ok(view.lookup(path)?.is_none_or(|entry| same(&entry.metadata)))
}

/// A stub that stays would become part of the image.
fn take_out(path: &Path) -> Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        result => result.at("look at", path)?,
    };
    let removed = match metadata.is_dir() {
        true => fs::remove_dir(path),
        false if metadata.is_file() && metadata.len() == 0 => fs::remove_file(path),
        false => Ok(()),
    };
    match removed {
        // The step has written into it.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        result => result.at("remove", path),
    }
}

/// Where the launcher found `path`: symlinks of the stage on the way to it, and at its end, were followed.
fn place(view: &MergedView, path: &Path) -> Result<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let text = path.to_string_lossy();
    // Where the way goes through a file, nothing was mounted, and there is nothing to take out.
    match placement::resolve(view, &text, true) {
        Ok(found) => Ok(PathBuf::from(std::ffi::OsString::from_vec(found.path))),
        Err(error) if error.kind() == Kind::Invalid => Ok(path.to_owned()),
        Err(error) => Err(error),
    }
}

fn clean(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_launcher_made_goes() {
        let dir = tempfile::tempdir().expect("a folder");
        let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
        for path in
            ["lower/etc", "lower/srv", "upper/etc", "upper/proc", "upper/run/secrets", "upper/srv", "upper/opt/kept"]
        {
            fs::create_dir_all(dir.path().join(path)).expect("folders");
        }
        fs::write(upper.join("etc/hosts"), "").expect("a stub");
        fs::write(upper.join("etc/made"), "x").expect("a file");
        fs::write(upper.join("run/secrets/key"), "").expect("a stub");
        fs::write(upper.join("opt/kept/file"), "x").expect("a file");
        let view = MergedView::new(&[lower]);
        let targets = ["/etc/hosts", "/proc", "/run/secrets/key", "/srv/cache", "/opt/kept"].map(PathBuf::from);
        remove(&upper, &view, &targets).expect("removed");
        let left = |path: &str| upper.join(path).exists();
        assert!(!left("etc/hosts") && left("etc/made") && !left("proc") && !left("run"));
        assert!(!left("srv"), "a folder that was only touched");
        assert!(left("opt/kept/file"), "what the step wrote stays");
    }
}
