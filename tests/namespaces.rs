//! A layer laid down by root and by the root of a user namespace is the same layer when it is written again, though the
//! second may make no devices and the kernel ties capabilities to it.

mod experiments;

use std::fs::{self, File};
use std::os::fd::AsFd;

use layerfs::archive::read::{Entry, EntryKind, Time};
use layerfs::archive::{ApplyOptions, DiffOptions, TarWriter, apply, diff};
use layerfs::sys::fs::get_xattr;

use crate::harness::inside::is_inside;

/// `cap_net_bind_service=ep` of version 2, and of version 3 for the root user 1001 of some other machine's namespace.
const VERSION_2: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const VERSION_3: [u8; 24] = [1, 0, 0, 3, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xe9, 3, 0, 0];

fn layer(capability: &[u8]) -> Vec<u8> {
    let entry = |path: &str, kind, mode, uid| Entry {
        path: path.as_bytes().to_vec(),
        kind,
        link: Vec::new(),
        mode,
        uid,
        gid: 0,
        mtime: Time { seconds: 1_500_000_000, nanos: 0 },
        size: 0,
        device: (0, 0),
        xattrs: Vec::new(),
        sparse: None,
    };
    let mut tar = TarWriter::new(Vec::new());
    let mut capable = entry("capable", EntryKind::File, 0o755, 1000);
    capable.xattrs.push((b"security.capability".to_vec(), capability.to_vec()));
    for entry in [
        Entry { device: (7, 300), ..entry("block", EntryKind::Block, 0o660, 0) },
        capable,
        Entry { device: (1, 3), ..entry("char", EntryKind::Char, 0o666, 1000) },
        entry("fifo", EntryKind::Fifo, 0o622, 1000),
        entry("sticky", EntryKind::Dir, 0o1777, 1000),
        entry("suid", EntryKind::File, 0o6755, 1000),
        Entry { device: (0, 0), ..entry("zero", EntryKind::Char, 0o600, 0) },
    ] {
        tar.append(&entry).expect("a Vec takes every byte");
    }
    tar.finish().expect("a Vec takes every byte")
}

#[test]
fn capabilities_and_devices_survive_a_user_namespace() {
    if !is_inside("namespaces::capabilities_and_devices_survive_a_user_namespace") {
        return;
    }
    let expected = layer(&VERSION_2);
    for capability in [&VERSION_2[..], &VERSION_3] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let root = File::open(dir.path()).expect("it was made");
        let applied = apply(&layer(capability)[..], root.as_fd(), &ApplyOptions::default()).expect("a layer");
        assert_eq!(applied.lost_xattrs, 0);
        let seen = get_xattr(&dir.path().join("capable"), "security.capability").expect("readable");
        assert_eq!(seen.as_deref(), Some(&VERSION_2[..]), "the kernel shows its own root what belongs to it");
        let (written, _) = diff(dir.path(), Vec::new(), &DiffOptions::default()).expect("it can be written");
        assert!(written == expected, "the same bytes");
        // A file that stands for a device does not take what is written to it for one.
        assert_eq!(fs::symlink_metadata(dir.path().join("zero")).expect("it is there").len(), 0);
    }
}
