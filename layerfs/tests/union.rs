//! One set of checks over both backends: the kernel's overlayfs and the server of our own. What a program sees in a
//! union is what it sees in a plain folder with the same files; what is left in the upper folder is the change.
//!
//! Mounting needs root, be it of a user namespace (`unshare -rm cargo test -p layerfs --test union`).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use layerfs::fuse::{Connection, MountOptions, ServeOptions, Server, UnionOptions, connect};
use layerfs::mount::{Backend, MountPlan, Upper, overlay};
use tempfile::TempDir;

#[path = "union/model.rs"]
mod model;

/// A union under test. It is attached nowhere and reached through its descriptor.
struct Union {
    mount: Option<OwnedFd>,
    server: Option<JoinHandle<()>>,
}

impl Union {
    fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.mount.as_ref().unwrap().as_raw_fd()))
    }
}

impl Drop for Union {
    fn drop(&mut self) {
        drop(self.mount.take());
        if let Some(server) = self.server.take() {
            server.join().unwrap();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Kernel,
    /// Ours, which reads and writes files itself.
    Served,
    /// Ours, which leaves that to the kernel where it may: as root.
    Backed,
}

/// Our own.
const OURS: [Kind; 2] = [Kind::Served, Kind::Backed];

struct Layers {
    dir: TempDir,
}

impl Layers {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        for name in ["0", "1", "2", "upper", "work"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, layer: &str, name: &str, content: &str) {
        let path = self.path(layer).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn whiteout(&self, layer: &str, name: &str) {
        let path = self.path(layer).join(name);
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, rustix::fs::Mode::empty(), 0).unwrap();
    }

    fn mount(&self, kind: Kind) -> Union {
        let lowers: Vec<_> = ["0", "1", "2"].iter().map(|name| self.path(name)).collect();
        // The kernel wants an empty work folder of its own.
        let work = self.path("work");
        drop(fs::remove_dir_all(&work));
        fs::create_dir(&work).unwrap();
        let upper = Some(Upper { dir: self.path("upper"), work });
        match kind {
            Kind::Kernel => {
                let plan = MountPlan { lowers, upper, volatile: false, backend: Backend::Overlay };
                Union { mount: Some(overlay(&plan).unwrap()), server: None }
            }
            Kind::Served | Kind::Backed => {
                let options = UnionOptions { passthrough: kind == Kind::Backed, ..UnionOptions::new(lowers, upper) };
                let server = Server::open(options).unwrap();
                let Connection { device, mount } = connect(&MountOptions::default()).unwrap();
                let serve =
                    move || server.serve(device, &ServeOptions { threads: 3, ..ServeOptions::default() }).unwrap();
                Union { mount: Some(mount), server: Some(std::thread::spawn(serve)) }
            }
        }
    }
}

/// Three layers with every relation two layers can have.
fn stack() -> Layers {
    let layers = Layers::new();
    layers.write("0", "a", "lowest a");
    layers.write("0", "deep/er/file", "deep");
    layers.write("0", "gone", "gone");
    layers.write("0", "dir/low", "low");
    layers.write("0", "dir/both", "low");
    layers.write("0", "hidden/below", "x");
    layers.write("1", "a", "middle a");
    layers.whiteout("1", "gone");
    layers.write("1", "dir/both", "middle");
    layers.write("1", "hidden/above", "y");
    let opaque = layers.path("1").join("hidden");
    rustix::fs::setxattr(opaque, "user.overlay.opaque", b"y", rustix::fs::XattrFlags::empty()).unwrap();
    layers.write("2", "top", "top");
    layers.write("2", "dir/high", "high");
    symlink("dir/low", layers.path("2").join("link")).unwrap();
    layers
}

/// What a folder holds: each path with its type, permissions and content. Whiteouts and opaque folders show.
fn tree(root: &Path) -> BTreeMap<String, String> {
    fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let kind = metadata.file_type();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let mode = metadata.permissions().mode() & 0o7777;
            let what = if kind.is_dir() {
                let mut value = [0; 8];
                let opaque = rustix::fs::lgetxattr(&path, "user.overlay.opaque", &mut value[..]) == Ok(1);
                walk(root, &path, found);
                format!("folder {mode:o}{}", if opaque { " opaque" } else { "" })
            } else if kind.is_symlink() {
                format!("link {}", fs::read_link(&path).unwrap().display())
            } else if kind.is_char_device() {
                "whiteout".to_owned()
            } else {
                format!("file {mode:o} {}", fs::read_to_string(&path).unwrap())
            };
            found.insert(name, what);
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

/// Whether this process may mount. If not that is said, and noted for `tests/all`, which fails then: a test that looks
/// at nothing must not look like one that found nothing.
fn may_mount() -> bool {
    let may = rustix::process::geteuid().is_root();
    if !may {
        let reason = "a test of the union by itself: mounting needs root (unshare -rm will do)";
        drop(io::Write::write_all(&mut io::stdout(), format!("not run: {reason}\n").as_bytes()));
        if let Some(path) = std::env::var_os("LAYERFS_NOT_RUN") {
            let mut file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
            io::Write::write_all(&mut file, format!("{reason}\n").as_bytes()).unwrap();
        }
    }
    may
}

#[test]
fn three_lowers_are_one_folder_and_changes_are_all_that_is_left() {
    if !may_mount() {
        return;
    }
    let results: Vec<_> = [Kind::Kernel, Kind::Served, Kind::Backed]
        .into_iter()
        .map(|kind| {
            let layers = stack();
            let before: Vec<_> = ["0", "1", "2"].iter().map(|name| tree(&layers.path(name))).collect();
            let union = layers.mount(kind);
            let at = |name: &str| union.root().join(name);
            let seen = tree(&at("."));
            assert_eq!(fs::read_to_string(at("a")).unwrap(), "middle a");
            assert!(fs::symlink_metadata(at("gone")).is_err() && fs::symlink_metadata(at("hidden/below")).is_err());
            fs::write(at("new"), "new").unwrap();
            fs::write(at("gone"), "back").unwrap();
            fs::write(at("deep/er/file"), "changed").unwrap();
            fs::remove_file(at("a")).unwrap();
            fs::remove_dir_all(at("dir")).unwrap();
            fs::create_dir(at("dir")).unwrap();
            fs::write(at("dir/only"), "1").unwrap();
            fs::rename(at("top"), at("moved")).unwrap();
            fs::create_dir(at("fresh")).unwrap();
            fs::rename(at("fresh"), at("hidden/fresh")).unwrap();
            let changed = tree(&at("."));
            drop(union);
            let upper = tree(&layers.path("upper"));
            let after: Vec<_> = ["0", "1", "2"].iter().map(|name| tree(&layers.path(name))).collect();
            assert_eq!(before, after, "{kind:?} changed a lower layer");
            assert_eq!(tree(&layers.mount(kind).root().join(".")), changed, "{kind:?}: mounted again");
            (seen, changed, upper)
        })
        .collect();
    assert_eq!(results[0], results[1], "the backends differ");
    assert_eq!(results[0], results[2], "the backends differ");
}

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit
    }
}

const NAMES: [&str; 10] =
    ["a", "gone", "dir", "dir/low", "dir/both", "dir/new", "deep/er/file", "deep/er", "x", "link"];

/// One change, the same in any folder: the error's number, or what was seen.
fn act(root: &Path, what: usize, one: &str, other: &str, number: usize) -> Result<String, Option<i32>> {
    let (path, to) = (root.join(one), root.join(other));
    let result = || -> io::Result<String> {
        match what {
            0 => fs::write(&path, format!("{number}")).map(|()| String::new()),
            1 => fs::remove_file(&path).map(|()| String::new()),
            2 => fs::create_dir(&path).map(|()| String::new()),
            3 => fs::remove_dir(&path).map(|()| String::new()),
            4 => fs::rename(&path, &to).map(|()| String::new()),
            5 => fs::hard_link(&path, &to).map(|()| String::new()),
            6 => symlink(other, &path).map(|()| String::new()),
            7 => fs::set_permissions(&path, fs::Permissions::from_mode(0o600 + (number as u32 % 8)))
                .map(|()| String::new()),
            8 => fs::OpenOptions::new()
                .write(true)
                .open(&path)?
                .write_all_at(b"zz", number as u64 % 9)
                .map(|()| String::new()),
            9 => fs::OpenOptions::new().write(true).open(&path)?.set_len(number as u64 % 12).map(|()| String::new()),
            _ => {
                let metadata = fs::symlink_metadata(&path)?;
                let links = if metadata.is_dir() { 0 } else { metadata.nlink() };
                Ok(format!("{:o} {links} {:?}", metadata.mode(), fs::read(&path).ok()))
            }
        }
    };
    result().map_err(|error| error.raw_os_error())
}

#[test]
fn a_union_behaves_as_a_plain_folder_does() {
    if !may_mount() {
        return;
    }
    const CROSS_DEVICE: i32 = 18;
    let rounds = if std::env::var_os("LAYERFS_SOAK").is_some() { 2000 } else { 40 };
    for seed in 0..rounds {
        let layers = stack();
        let kind = OURS[seed as usize % 2];
        let mut union = layers.mount(kind);
        let plain = layers.path("plain");
        copy_tree(&union.root().join("."), &plain);
        let mut numbers = Numbers(seed);
        for step in 0..120 {
            if numbers.below(40) == 0 {
                // Names of one file that were never looked at are parted by mounting again, so all are looked at.
                tree(&union.root().join("."));
                drop(union);
                union = layers.mount(kind);
            }
            let (what, one, other) = (numbers.below(11), NAMES[numbers.below(10)], NAMES[numbers.below(10)]);
            let number = numbers.below(1000);
            let here = act(&union.root(), what, one, other, number);
            if here == Err(Some(CROSS_DEVICE)) {
                // A folder of lower layers is not renamed; programs copy it.
                continue;
            }
            let there = act(&plain, what, one, other, number);
            assert_eq!(here, there, "seed {seed} step {step}: {what} {one} {other}");
        }
        assert_eq!(tree(&union.root().join(".")), tree(&plain), "seed {seed}");
        drop(union);
        assert_eq!(tree(&layers.mount(kind).root().join(".")), tree(&plain), "seed {seed}: mounted again");
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    // A server in this process has cleared the umask, maybe.
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy_tree(&from, &to);
        } else if kind.is_symlink() {
            symlink(fs::read_link(&from).unwrap(), &to).unwrap();
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

#[test]
fn names_of_one_file_stay_names_of_one_file() {
    if !may_mount() {
        return;
    }
    for kind in OURS {
        let layers = stack();
        fs::hard_link(layers.path("0").join("gone"), layers.path("0").join("first")).unwrap();
        fs::hard_link(layers.path("0").join("gone"), layers.path("0").join("second")).unwrap();
        let union = layers.mount(kind);
        let at = |name: &str| union.root().join(name);
        let ino = fs::metadata(at("first")).unwrap().ino();
        fs::write(at("first"), "changed").unwrap();
        assert_eq!(fs::read_to_string(at("second")).unwrap(), "changed");
        assert_eq!(fs::metadata(at("second")).unwrap().ino(), ino);
        drop(union);
        let again = layers.mount(kind);
        let metadata = fs::metadata(again.root().join("second")).unwrap();
        assert_eq!((metadata.ino(), metadata.len()), (ino, 7), "{kind:?}: the same after it is mounted again");
    }
}

/// Where the kernel reads the layers' files itself, whoever had one open goes on to read it, as on the kernel's
/// overlayfs; all else is of the one file that both names and both descriptors stand for.
#[test]
fn who_has_a_file_open_while_it_is_copied_up_keeps_its_content_and_nothing_else() {
    if !may_mount() {
        return;
    }
    let layers = stack();
    fs::hard_link(layers.path("0").join("gone"), layers.path("0").join("first")).unwrap();
    fs::hard_link(layers.path("0").join("gone"), layers.path("0").join("second")).unwrap();
    let before = fs::read_to_string(layers.path("0").join("first")).unwrap();
    let union = layers.mount(Kind::Backed);
    let at = |name: &str| union.root().join(name);
    let (early, linked) = (fs::File::open(at("first")).unwrap(), fs::File::open(at("second")).unwrap());
    let read = |file: &fs::File| {
        let mut bytes = vec![0; 64];
        let length = file.read_at(&mut bytes, 0).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    fs::OpenOptions::new().append(true).open(at("first")).unwrap().write_all_at(b" and more", 0).unwrap();
    let after = format!("{before} and more");
    for name in ["first", "second"] {
        assert_eq!(fs::read_to_string(at(name)).unwrap(), after, "{name}");
        assert_eq!(read(&fs::File::open(at(name)).unwrap()), after, "{name}, while the old one is open");
    }
    let seen = [read(&early), read(&linked)];
    assert!(seen.iter().all(|seen| *seen == before || *seen == after) && seen[0] == seen[1], "{seen:?}");
    // An old descriptor's change is seen by every name, and the other way round.
    early.set_permissions(fs::Permissions::from_mode(0o606)).unwrap();
    assert_eq!(fs::metadata(at("second")).unwrap().mode() & 0o777, 0o606);
    fs::set_permissions(at("second"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(fs::metadata(at("first")).unwrap().mode() & 0o777, 0o640);
    assert_eq!(fs::metadata(at("first")).unwrap().ino(), early.metadata().unwrap().ino());
    drop((early, linked));
    // Removed and made anew while the old ones' numbers are still in memory.
    fs::remove_file(at("first")).unwrap();
    fs::write(at("first"), "new").unwrap();
    assert_eq!(fs::read_to_string(at("first")).unwrap(), "new");
    assert_eq!(fs::read_to_string(at("second")).unwrap(), after);
    assert_eq!(fs::read_to_string(layers.path("0").join("first")).unwrap(), before, "the layer is as it was");
}

#[test]
fn what_is_removed_while_open_goes_on() {
    if !may_mount() {
        return;
    }
    for (name, kind) in ["a", "top", "mine"].into_iter().flat_map(|name| OURS.map(|kind| (name, kind))) {
        let layers = stack();
        let union = layers.mount(kind);
        let path = union.root().join(name);
        if name == "mine" {
            fs::write(&path, "mine").unwrap();
        }
        let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        file.write_all_at(b"still", 0).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o640)).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!((metadata.nlink(), metadata.permissions().mode() & 0o777), (0, 0o640), "{name}");
        let mut read = [0; 5];
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"still", "{name}");
    }
}

/// A file that is opened for writing is copied up under a name that another file may take meanwhile.
#[test]
fn who_opens_a_file_that_is_replaced_meanwhile_gets_the_one_or_the_other() {
    if !may_mount() {
        return;
    }
    for kind in OURS {
        let layers = Layers::new();
        let names: Vec<_> = (0..150).map(|number| number.to_string()).collect();
        names.iter().for_each(|name| layers.write("1", name, &"old".repeat(20_000)));
        let union = layers.mount(kind);
        let at = |name: &str| union.root().join(name);
        names.iter().for_each(|name| fs::write(at(&format!("new-{name}")), "new").unwrap());
        std::thread::scope(|scope| {
            let replace = || names.iter().for_each(|name| fs::rename(at(&format!("new-{name}")), at(name)).unwrap());
            let append = || {
                for name in &names {
                    let mut file = fs::OpenOptions::new().append(true).open(at(name)).unwrap();
                    io::Write::write_all(&mut file, b"+").unwrap();
                }
            };
            scope.spawn(append);
            scope.spawn(replace);
            scope.spawn(append);
        });
        for name in &names {
            let content = fs::read_to_string(at(name)).unwrap();
            assert!(content.trim_end_matches('+') == "new", "{kind:?}: {name} was replaced last");
        }
        drop(union);
        assert_eq!(fs::read_dir(layers.path("work")).unwrap().count(), 0, "{kind:?}: nothing is left over");
    }
}

#[test]
fn what_cannot_be_is_said_in_one_sentence() {
    if !may_mount() {
        return;
    }
    let layers = stack();
    let open = |lower: &str, upper: &str, work: &str| {
        let upper = Upper { dir: upper.into(), work: work.into() };
        Server::open(UnionOptions::new(vec![layers.path(lower)], Some(upper))).unwrap_err()
    };
    let own = |name: &str| layers.path(name).display().to_string();
    assert!(open("missing", &own("upper"), &own("work")).chain().contains("missing`: no such file or directory"));
    assert!(open("2/top", &own("upper"), &own("work")).chain().contains("top`: not a directory"));
    let error = open("0", &own("upper"), "/dev/shm");
    assert!(error.chain().contains("not on the file system") && error.advice().is_some(), "{error:?}");
}

#[test]
fn hostile_attributes_and_names_are_only_odd() {
    if !may_mount() {
        return;
    }
    let layers = stack();
    let folder = layers.path("1").join("dir");
    for (name, value) in
        [("redirect", &b"/../../../etc"[..]), ("opaque", &[0xff; 300]), ("origin", b""), ("metacopy", b"x")]
    {
        let name = format!("user.overlay.{name}");
        rustix::fs::setxattr(&folder, name.as_str(), value, rustix::fs::XattrFlags::empty()).unwrap();
    }
    let odd = std::ffi::OsStr::from_bytes(b"\xff\xfe\n");
    fs::write(layers.path("0").join(odd), "odd").unwrap();
    for redirect_dir in [false, true] {
        let lowers = vec![layers.path("0"), layers.path("1"), layers.path("2")];
        let server = Server::open(UnionOptions { redirect_dir, ..UnionOptions::new(lowers, None) }).unwrap();
        let Connection { device, mount } =
            connect(&MountOptions { read_only: true, ..MountOptions::default() }).unwrap();
        let server = std::thread::spawn(move || server.serve(device, &ServeOptions::default()).unwrap());
        let union = Union { mount: Some(mount), server: Some(server) };
        assert_eq!(fs::read_to_string(union.root().join(odd)).unwrap(), "odd");
        assert!(!fs::read_dir(union.root().join("dir")).unwrap().any(|entry| entry.unwrap().file_name() == "passwd"));
        assert_eq!(fs::write(union.root().join("new"), "").unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
    }
}

/// A file as a list of bytes, and the same file in the union, under whatever programs do to one: reads and writes by
/// call and by several descriptors, cuts, holes, copies within it, appends, mounting anew.
#[test]
fn a_file_holds_what_was_written_to_it() {
    if !may_mount() {
        return;
    }
    const MOST: usize = 300_000;
    let rounds = if std::env::var_os("LAYERFS_SOAK").is_some() { 300 } else { 6 };
    for seed in 0..rounds {
        let mut numbers = Numbers(seed + 7);
        let layers = Layers::new();
        let mut content: Vec<u8> = (0..numbers.below(MOST)).map(|at| at as u8 ^ seed as u8).collect();
        fs::write(layers.path("1").join("file"), &content).unwrap();
        let kind = OURS[seed as usize % 2];
        let mut union = layers.mount(kind);
        let open = |union: &Union, write: bool| {
            fs::OpenOptions::new().read(true).write(write).open(union.root().join("file")).unwrap()
        };
        // Opened before the file is copied up, and read from after it, unless the kernel reads the layer's file then.
        let both = |union: &Union| {
            let early = (kind == Kind::Served).then(|| open(union, false));
            let file = open(union, true);
            (early.unwrap_or_else(|| open(union, false)), file)
        };
        let (mut early, mut file) = both(&union);
        for step in 0..400 {
            let place = |step: &str| format!("seed {seed}, {step}");
            let (at, length) = (numbers.below(MOST), 1 + numbers.below(40_000));
            match numbers.below(9) {
                0 | 1 => {
                    let bytes: Vec<u8> = (0..length).map(|byte| (byte + step) as u8).collect();
                    content.resize(content.len().max(at + length), 0);
                    content[at..at + length].copy_from_slice(&bytes);
                    file.write_all_at(&bytes, at as u64).unwrap();
                }
                2 => {
                    content.resize(at, 0);
                    file.set_len(at as u64).unwrap();
                }
                3 => {
                    let end = (at + length).min(content.len());
                    content[at.min(end)..end].fill(0);
                    let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
                    rustix::fs::fallocate(&file, punch, at as u64, length as u64).unwrap();
                }
                4 => {
                    let bytes = vec![step as u8; length % 5000];
                    let mut own = fs::OpenOptions::new().append(true).open(union.root().join("file")).unwrap();
                    io::Write::write_all(&mut own, &bytes).unwrap();
                    content.extend(bytes);
                }
                5 => {
                    let to = at + length + numbers.below(20_000);
                    let (mut from, mut target) = (at as u64, to as u64);
                    let copied =
                        rustix::fs::copy_file_range(&file, Some(&mut from), &file, Some(&mut target), length).unwrap();
                    let bytes = content.get(at..at + copied).unwrap_or_default().to_vec();
                    assert_eq!(copied, bytes.len(), "{}", place("what was copied"));
                    if copied > 0 {
                        content.resize(content.len().max(to + copied), 0);
                        content[to..to + copied].copy_from_slice(&bytes);
                    }
                }
                6 if numbers.below(20) == 0 => {
                    drop((file, early));
                    drop(union);
                    union = layers.mount(kind);
                    (early, file) = both(&union);
                }
                _ => {
                    let reader = if numbers.below(2) == 0 { &early } else { &file };
                    let mut bytes = vec![0; length];
                    let read = reader.read_at(&mut bytes, at as u64).unwrap();
                    let expected = content.get(at..content.len().min(at + length)).unwrap_or_default();
                    // A read may be short at the end of the file only.
                    assert!(bytes[..read] == *expected, "{}", place(&format!("step {step}: {read} bytes at {at}")));
                }
            }
            assert_eq!(file.metadata().unwrap().len(), content.len() as u64, "{}", place(&format!("step {step}")));
        }
        drop((file, early));
        drop(union);
        assert!(fs::read(layers.path("upper").join("file")).unwrap() == content, "seed {seed}: in the upper folder");
    }
}
