//! Stacks as the kernel mounts them, as root and as the root of a user namespace.
//!
//! Needs root, or a kernel that lets ordinary users have user namespaces.
#![expect(clippy::unwrap_used, reason = "a failing test should stop where it fails")]

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use layerfs::mount::{Backend, MountPlan, Upper, overlay};
use layerfs::sys::fs::{get_xattr, list_xattrs};
use rustix::fs::{FileType, Mode, XattrFlags};

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
    let plan =
        MountPlan { lowers: lowers.clone(), upper: Some(upper.clone()), volatile: true, backend: Backend::Overlay };
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
    let mount = overlay(&MountPlan {
        lowers: vec![dir.path().to_owned()],
        upper: None,
        volatile: false,
        backend: Backend::Overlay,
    })
    .unwrap();
    let root = PathBuf::from(format!("/proc/self/fd/{}", mount.as_fd().as_raw_fd()));
    assert_eq!(fs::read_to_string(root.join("f")).unwrap(), "x");
    assert!(fs::write(root.join("f"), "y").is_err());
}

/// A small generator of numbers, so that a failing run can be repeated from its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Writes a regular file or nothing: a pipe would wait for a reader, a device would take it.
fn write(path: &Path, content: &[u8]) {
    if fs::symlink_metadata(path).map_or(true, |metadata| metadata.is_file()) {
        drop(fs::write(path, content));
    }
}

/// One random change of a tree. Names come from a small set, so that changes meet.
fn change(random: &mut Random, root: &Path) {
    let name = |random: &mut Random| ["a", "b", "c", "d"][random.below(4) as usize];
    let mut path = root.to_owned();
    for _ in 0..=random.below(3) {
        path.push(name(random));
    }
    let other = root.join(name(random)).join(name(random));
    let node = |kind, device| rustix::fs::mknodat(rustix::fs::CWD, &path, kind, Mode::from_raw_mode(0o600), device);
    // Whether a change is possible depends on what is there; one that is not changes nothing.
    match random.below(16) {
        0 | 1 => drop(fs::create_dir_all(&path)),
        2 | 3 => write(&path, &vec![b'x'; random.below(5000) as usize]),
        4 => drop(std::os::unix::fs::symlink(["a", "../b", "/c"][random.below(3) as usize], &path)),
        5 => drop(fs::remove_dir_all(&path)),
        6 => drop(fs::remove_file(&path)),
        7 => drop(fs::rename(&path, &other)),
        8 => drop(fs::hard_link(&path, &other)),
        // A folder in the place of one that goes: opaque.
        9 => drop(fs::remove_dir_all(&path).and_then(|()| fs::create_dir(&path))),
        // Another kind of thing under the same name.
        10 => drop(fs::remove_dir_all(&path).and_then(|()| fs::write(&path, "was a folder"))),
        11 => drop(fs::remove_file(&path).and_then(|()| fs::create_dir(&path))),
        12 => drop(node(FileType::Fifo, 0)),
        13 => drop(node(FileType::CharacterDevice, rustix::fs::makedev(1, [3, 5][random.below(2) as usize]))),
        14 => drop(std::os::unix::fs::lchown(&path, Some(random.below(3) as u32), Some(3_000_000))),
        _ => {
            let key = ["user.a", "user.b=\u{e9}", "trusted.c"][random.below(3) as usize];
            let value = [&b""[..], b"\0\xff\n"][random.below(2) as usize];
            match random.below(3) {
                0 => drop(rustix::fs::lremovexattr(&path, key)),
                _ => drop(rustix::fs::lsetxattr(&path, key, value, XattrFlags::empty())),
            }
        }
    }
    if let Ok(metadata) = fs::symlink_metadata(&path)
        && !metadata.is_symlink()
    {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700 | random.below(0o10100) as u32);
        fs::set_permissions(&path, mode).unwrap();
    }
}

/// Path, kind, mode, owner, time, attributes, content and first name of everything below a folder.
fn listing(root: &Path) -> Vec<String> {
    fn walk(root: &Path, dir: &Path, first: &mut BTreeMap<(u64, u64), PathBuf>, out: &mut Vec<String>) {
        let mut names: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        for path in names {
            let m = fs::symlink_metadata(&path).unwrap();
            let content = match () {
                () if m.is_file() => fs::read(&path).unwrap().len().to_string(),
                () if m.is_symlink() => fs::read_link(&path).unwrap().display().to_string(),
                () if m.is_dir() => String::new(),
                () => m.rdev().to_string(),
            };
            let shown = path.strip_prefix(root).unwrap();
            let mode = if m.is_symlink() { 0 } else { m.mode() };
            let mut line = format!("{} {mode:o} {}:{} {} {content}", shown.display(), m.uid(), m.gid(), m.mtime());
            let mut keys = list_xattrs(&path).unwrap();
            keys.sort();
            for key in keys {
                let value = get_xattr(&path, key.as_slice()).unwrap().unwrap();
                line += &format!(" {}={}", key.escape_ascii(), value.escape_ascii());
            }
            if m.is_dir() {
                out.push(line);
                walk(root, &path, first, out);
            } else {
                let same = first.entry((m.dev(), m.ino())).or_insert_with(|| shown.to_owned());
                out.push(format!("{line} {}", same.display()));
            }
        }
    }
    let mut out = Vec::new();
    walk(root, root, &mut BTreeMap::new(), &mut out);
    out.sort();
    out
}

/// For random trees `a` and changes to them that give `b`: the layer that `commit` makes of the changes gives `b` when
/// it lies on `a`, both as the folder it was and unpacked again from its archive in another store.
#[test]
fn a_layer_of_changes_gives_the_changed_tree() {
    use layerfs::layer::{self, DiffOptions, Limits, Lowers};
    use layerfs::store::Store;

    let seeds = if std::env::var_os("LAYERFS_SOAK").is_some() { 2000 } else { 30 };
    let through = |fd: &std::os::fd::OwnedFd| PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let read_only = |lowers: &Lowers| {
        overlay(&MountPlan { lowers: lowers.dirs.clone(), upper: None, volatile: false, backend: Backend::Overlay })
            .unwrap()
    };
    for seed in 1..=seeds {
        let random = &mut Random(0x9e37_79b9_7f4a_7c15 ^ (seed << 32));
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let other = Store::open(&dir.path().join("other")).unwrap();
        let mut layers = Vec::new();
        for step in 0..4 {
            let lowers = layer::unpack_chain(&store, &layers, &Limits::default()).unwrap();
            let temp = store.new_temp_dir().unwrap();
            let upper = layer::prepare_upper(&lowers, temp.path()).unwrap();
            let plan = MountPlan {
                lowers: lowers.dirs.clone(),
                upper: Some(upper.clone()),
                volatile: true,
                backend: Backend::Overlay,
            };
            let mount = overlay(&plan).unwrap();
            for _ in 0..20 {
                change(random, &through(&mount));
            }
            drop(mount);
            // Mounted anew: while it lives, overlayfs may show two names of a file it has copied as two files.
            let stack = Lowers { dirs: [lowers.dirs, vec![upper.dir.clone()]].concat(), root: None };
            let expected = listing(&through(&read_only(&stack)));
            let committed = layer::commit_upper(&store, &upper.dir, &DiffOptions::default()).unwrap();
            layers.push((committed.blob.clone(), committed.diff_id));
            let bytes = fs::read(store.blob_path(&committed.blob.digest)).unwrap();
            if !other.has_layer(committed.diff_id).unwrap() {
                layer::stream_layer(&other, &committed.blob, committed.diff_id, &bytes[..], &Limits::default())
                    .unwrap();
            }
            for store in [&store, &other] {
                let lowers = layer::unpack_chain(store, &layers, &Limits::default()).unwrap();
                let mount = read_only(&lowers);
                assert_eq!(listing(&through(&mount)), expected, "seed {seed}, layer {step}");
                let view: Vec<_> = layer::MergedView::new(&lowers.dirs).read_dir("").unwrap().unwrap();
                let top: Vec<_> =
                    expected.iter().filter_map(|l| l.split(' ').next()).filter(|p| !p.contains('/')).collect();
                assert_eq!(view, top, "seed {seed}, layer {step}, as seen from user space");
            }
        }
    }
}
