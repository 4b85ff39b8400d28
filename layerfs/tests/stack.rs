//! Stacks as the kernel mounts them, as root and as the root of a user namespace.
//!
//! Needs root, or a kernel that lets ordinary users have user namespaces.
#![expect(clippy::unwrap_used, reason = "a failing test should stop where it fails")]

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use layerfs::mount::{MountPlan, Upper, overlay};

/// Three lowers seen as one folder; create, change and delete leave exactly that in the upper, the lowers untouched.
#[test]
fn changes_go_to_the_upper_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    };
    // Overlayfs takes no upper on another overlay, which a container's /tmp may be: then a tmpfs would be needed.
    let lowers: Vec<PathBuf> = ["l0", "l1", "l2"].map(make).to_vec();
    for (i, lower) in lowers.iter().enumerate() {
        fs::write(lower.join(format!("only-{i}")), "x").unwrap();
        fs::write(lower.join("shared"), i.to_string()).unwrap();
    }
    let upper = Upper { dir: make("upper"), work: make("work") };
    let plan = MountPlan { lowers: lowers.clone(), upper: Some(upper.clone()), volatile: true };
    let mount = overlay(&plan).unwrap();
    let root = PathBuf::from(format!("/proc/self/fd/{}", mount.as_fd().as_raw_fd()));
    assert_eq!(fs::read_to_string(root.join("shared")).unwrap(), "2", "the topmost wins");
    fs::write(root.join("created"), "new").unwrap();
    fs::write(root.join("only-0"), "changed").unwrap();
    fs::remove_file(root.join("only-1")).unwrap();
    drop(mount);
    let names = |path: &Path| -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&upper.dir), ["created", "only-0", "only-1"]);
    let gone = fs::symlink_metadata(upper.dir.join("only-1")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    for (i, lower) in lowers.iter().enumerate() {
        assert_eq!(names(lower), [format!("only-{i}"), "shared".to_owned()]);
        assert_eq!(fs::read_to_string(lower.join(format!("only-{i}"))).unwrap(), "x");
    }
}

#[test]
fn one_folder_alone_is_read_only() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "x").unwrap();
    let mount = overlay(&MountPlan { lowers: vec![dir.path().to_owned()], upper: None, volatile: false }).unwrap();
    let root = PathBuf::from(format!("/proc/self/fd/{}", mount.as_fd().as_raw_fd()));
    assert_eq!(fs::read_to_string(root.join("f")).unwrap(), "x");
    assert!(fs::write(root.join("f"), "y").is_err());
}
