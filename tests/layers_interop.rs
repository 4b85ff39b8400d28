//! Layers both ways: what we write others lay down as the tree it was made from, and what others write we lay down as
//! they do themselves. Path, type, mode, owner, size, time, content, extended attributes and link identity count.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use layerfs::archive::{DiffOptions, decompress, diff};
use layerfs::sys::fs::set_xattr_at;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, mknodat, utimensat};
use serde_json::Value;

use crate::harness::tree::{self, Times, Tree};
use crate::harness::unpack::{Rival, by_us};
use crate::harness::{Call, image, machine, peers};
use crate::interop::Docker;

/// A file capability, as `setcap cap_net_bind_service=ep` stores it.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn at(root: &Path, name: &[u8]) -> PathBuf {
    root.join(OsStr::from_bytes(name))
}

fn file(root: &Path, name: impl AsRef<[u8]>, mode: u32, content: &[u8]) -> PathBuf {
    let path = at(root, name.as_ref());
    fs::create_dir_all(path.parent().expect("a name has a parent")).expect("folders in our folder");
    fs::write(&path, content).expect("a file in our folder");
    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("it is ours");
    path
}

fn attribute(path: &Path, key: &str, value: &[u8]) {
    let dir = File::open(path.parent().expect("a parent")).expect("it is there");
    let name = path.file_name().expect("a name").as_bytes();
    set_xattr_at(std::os::fd::AsFd::as_fd(&dir), name, key.as_bytes(), value).expect("root sets every attribute");
}

/// What any format can hold: short names, small numbers, whole seconds.
fn plain(root: &Path) {
    fs::create_dir_all(root).expect("a folder in our folder");
    file(root, "empty", 0o644, b"");
    for size in [1usize, 511, 512, 513, 100_000] {
        let content: Vec<u8> = (0..size).map(|n| (n * 7 + size) as u8).collect();
        file(root, format!("size{size}"), 0o640, &content);
    }
    chown(file(root, "suid", 0o4755, b"suid"), Some(1000), Some(50)).expect("root gives away");
    fs::set_permissions(root.join("suid"), Permissions::from_mode(0o4755)).expect("owned anew, set anew");
    file(root, "none", 0, b"nobody");
    file(root, "first", 0o644, b"two names");
    fs::create_dir(root.join("other")).expect("a folder");
    fs::hard_link(root.join("first"), root.join("other/second")).expect("a link");
    symlink("first", root.join("link")).expect("a symlink");
    symlink("/nowhere/../at all", root.join("dangling")).expect("a symlink");
    lchown(root.join("dangling"), Some(1000), Some(1000)).expect("root gives away");
    for (name, mode) in [("sticky", 0o1777), ("group", 0o2750), ("closed", 0o000), ("read-only", 0o555)] {
        fs::create_dir(root.join(name)).expect("a folder");
        file(root, format!("{name}/inside"), 0o600, name.as_bytes());
        fs::set_permissions(root.join(name), Permissions::from_mode(mode)).expect("it is ours");
    }
    let node = |name: &str, kind, device| {
        mknodat(CWD, root.join(name), kind, Mode::from_raw_mode(0o620), device).expect("root makes devices");
        fs::set_permissions(root.join(name), Permissions::from_mode(0o620)).expect("it is ours");
    };
    node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    node("loop", FileType::BlockDevice, rustix::fs::makedev(7, 300));
    node("pipe", FileType::Fifo, 0);
}

/// Names and attributes that want an extension of the format.
fn odd(root: &Path) {
    fs::create_dir_all(root).expect("a folder in our folder");
    for name in
        ["-dash", " space ", "new\nline", "back\\slash", "star*", "\u{1f980}", "trailing.", "..dots", "per%20cent"]
    {
        file(root, name, 0o644, name.as_bytes());
    }
    file(root, b"\xff\xfe not text", 0o644, b"bytes");
    let deep = format!("{}/{}", "deep".repeat(20), "er/".repeat(30));
    for length in [98, 99, 100, 101, 155, 156, 200, 255] {
        file(root, "n".repeat(length), 0o644, b"long");
        file(root, format!("{deep}{}", "m".repeat(length.min(200))), 0o644, b"deep");
    }
    file(root, [deep.as_bytes(), b"\xfe", "o".repeat(150).as_bytes()].concat(), 0o644, b"long and not text");
    symlink("t".repeat(150), root.join("long target")).expect("a symlink");
    symlink("t/".repeat(1000), root.join("longer target")).expect("a symlink");
    symlink(OsStr::from_bytes(b"\xff target"), root.join("odd target")).expect("a symlink");
    let big = file(root, "big ids", 0o644, b"owned");
    chown(&big, Some(3_000_000), Some(4_000_000_000)).expect("root gives away");
    fs::set_permissions(&big, Permissions::from_mode(0o2711)).expect("owned anew, set anew");
    fs::hard_link(root.join("n".repeat(200)), root.join("l".repeat(200))).expect("a link");
}

/// What only PAX holds.
fn attributed(root: &Path) {
    fs::create_dir_all(root).expect("a folder in our folder");
    let path = file(root, "file", 0o755, b"attributes");
    attribute(&path, "user.text", b"text");
    attribute(&path, "user.binary", b"\0\xff=\n 7 x=y\n");
    attribute(&path, "trusted.ours", b"roots");
    attribute(&file(root, "capable", 0o755, b"net"), "security.capability", &CAPABILITY);
    attribute(root, "user.folder", b"of a folder");
    symlink("file", root.join("link")).expect("a symlink");
    attribute(&root.join("link"), "trusted.link", b"links");
}

/// A file with holes.
fn sparse(root: &Path) {
    fs::create_dir_all(root).expect("a folder in our folder");
    for (name, runs) in
        [("hole first", &[(1u64 << 20, 5000usize)][..]), ("holes", &[(0, 1), (65536, 4096), (1 << 19, 9000)])]
    {
        let file = File::create(root.join(name)).expect("a file");
        for (offset, length) in runs {
            file.write_all_at(&vec![b'd'; *length], *offset).expect("written");
        }
        file.set_len(2 << 20).expect("a hole at the end");
    }
    File::create(root.join("nothing but a hole")).expect("a file").set_len(1 << 20).expect("a hole");
}

/// Gives everything a time of its own, `nanos` apart below the second.
fn stamp(root: &Path, nanos: i64) {
    fn walk(dir: &Path, nanos: i64, count: &mut i64) {
        for entry in fs::read_dir(dir).expect("readable") {
            let path = entry.expect("readable").path();
            if fs::symlink_metadata(&path).expect("it is there").is_dir() {
                walk(&path, nanos, count);
            }
            *count += 1;
            let time = Timespec { tv_sec: 1_500_000_000 + *count * 1000, tv_nsec: nanos * *count % 1_000_000_000 };
            let stamps = Timestamps { last_access: time, last_modification: time };
            utimensat(CWD, &path, &stamps, AtFlags::SYMLINK_NOFOLLOW).expect("it is ours");
        }
    }
    walk(root, nanos, &mut 0);
}

/// A tree of all of it.
fn everything(root: &Path, nanos: i64) {
    plain(&root.join("plain"));
    odd(&root.join("odd"));
    attributed(&root.join("attributed"));
    sparse(&root.join("sparse"));
    stamp(root, nanos);
}

/// True where this machine lets the test run.
fn can_run() -> bool {
    if !machine::is_root() {
        machine::not_run("layers between tools: owners and devices, as root only");
    }
    machine::is_root()
}

/// Collects what differs, to be told at the end all at once.
#[derive(Default)]
struct Findings(Vec<String>);

impl Findings {
    fn compare(&mut self, who: &str, ours: &Tree, theirs: &Tree) {
        let difference = tree::difference(ours, theirs);
        if !difference.is_empty() {
            self.0.push(format!("{who}\n{difference}\n"));
        }
    }
}

impl Drop for Findings {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.0.is_empty(), "{}", self.0.join("\n"));
        }
    }
}

fn fresh(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    fs::create_dir_all(&path).expect("a folder in our folder");
    path
}

#[test]
fn others_lay_down_what_we_write() {
    if !can_run() {
        return;
    }
    let dir = machine::folder();
    let root = fresh(dir.path(), "root");
    everything(&root, 123_456_789);
    let options = DiffOptions { normalise: true, ..DiffOptions::default() };
    let (layer, _) = diff(&root, Vec::new(), &options).expect("it can be written");
    // Writing brought the tree's own times to whole seconds.
    let expected = tree::read(&root, Times::Nanos);
    let archive = dir.path().join("layer.tar");
    fs::write(&archive, &layer).expect("a file in our folder");
    let archive = archive.display().to_string();
    let mut findings = Findings::default();

    let mounted = by_us(std::slice::from_ref(&layer)).expect("we read what we write");
    findings.compare("ourselves", &expected, &tree::read(&mounted.path(), Times::Nanos));
    let gnu = fresh(dir.path(), "gnu");
    let words = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", &archive, "-C"];
    Call::new("tar").args(words).arg(&gnu).ok();
    findings.compare("GNU tar", &expected, &tree::read(&gnu, Times::Nanos));
    let bsd = fresh(dir.path(), "bsd");
    Call::new("bsdtar").args(["--numeric-owner", "-xpf", &archive, "-C"]).arg(&bsd).ok();
    findings.compare("bsdtar", &expected, &tree::read(&bsd, Times::Nanos));
    for rival in Rival::ALL {
        let folder = fresh(dir.path(), &format!("{rival:?}"));
        let Some(unpacked) = rival.unpack(&folder, vec![layer.clone()]) else { continue };
        let mut expected = expected.clone();
        if rival == Rival::Containerd {
            // It leaves the attributes that are for root alone out.
            for line in expected.values_mut() {
                *line = line.split(' ').filter(|word| !word.starts_with("trusted.")).collect::<Vec<_>>().join(" ");
            }
        }
        findings.compare(&format!("{rival:?}"), &expected, &tree::read(&unpacked, Times::Nanos));
    }
}

/// Archives of the two tars in each of their formats: how each is called, and which parts of the tree it can hold.
const FORMATS: &[(&str, &str, &[&str])] = &[
    ("tar", "--format=v7", &["plain"]),
    ("tar", "--format=oldgnu", &["plain", "odd", "sparse"]),
    ("tar", "--format=oldgnu --sparse", &["plain", "odd", "sparse"]),
    ("tar", "--format=gnu", &["plain", "odd", "sparse"]),
    ("tar", "--format=gnu --sparse", &["plain", "odd", "sparse"]),
    ("tar", "--format=gnu --label=volume", &["plain"]),
    ("tar", "--format=ustar", &["plain"]),
    ("tar", "--format=posix --xattrs --xattrs-include=*", &["plain", "odd", "attributed", "sparse"]),
    ("tar", "--format=posix --sparse --sparse-version=0.0", &["plain", "odd", "sparse"]),
    ("tar", "--format=posix --sparse --sparse-version=0.1", &["plain", "odd", "sparse"]),
    ("tar", "--format=posix --sparse --sparse-version=1.0", &["plain", "odd", "sparse"]),
    ("tar", "--format=posix --sparse --sparse-version=1.0 --xattrs --xattrs-include=*", &["attributed", "sparse"]),
    ("bsdtar", "--format=ustar", &["plain"]),
    ("bsdtar", "--format=gnutar", &["plain", "odd"]),
    ("bsdtar", "--format=pax", &["plain", "odd", "attributed", "sparse"]),
    ("bsdtar", "--format=pax --read-sparse", &["sparse"]),
];

#[test]
fn we_lay_down_what_the_tars_write_as_they_do() {
    if !can_run() {
        return;
    }
    let dir = machine::folder();
    let root = fresh(dir.path(), "root");
    everything(&root, 987_654_321);
    let mut findings = Findings::default();
    for (number, (program, options, parts)) in FORMATS.iter().enumerate() {
        let archive = dir.path().join(format!("{number}.tar"));
        // libarchive puts names that are not text into PAX headers as they are.
        let call =
            Call::new(program).env("LC_ALL", "C.UTF-8").args(options.split(' ')).args(["--numeric-owner", "-cf"]);
        call.arg(&archive).arg("-C").arg(&root).args(*parts).output();
        let unpacked = fresh(dir.path(), &number.to_string());
        let xattrs: &[&str] = if *program == "tar" { &["--xattrs", "--xattrs-include=*"] } else { &[] };
        let call = Call::new(program).env("LC_ALL", "C.UTF-8").args(xattrs).args(["--numeric-owner", "-xpf"]);
        call.arg(&archive).arg("-C").arg(&unpacked).ok();
        let theirs = tree::read(&unpacked, Times::Nanos);
        for part in *parts {
            assert!(theirs.keys().filter(|path| path.starts_with(part)).count() > 3, "{program} {options}: {part}");
        }
        let bytes = fs::read(&archive).expect("it was written");
        let who = format!("{program} {options}");
        match by_us(&[bytes]) {
            Ok(mounted) => {
                findings.compare(&who, &tree::read(&mounted.path(), Times::Nanos), &theirs);
            }
            Err(error) => findings.0.push(format!("{who}: {}", error.chain())),
        }
    }
}

/// The layers of an image in a layout, uncompressed, lowest first.
fn layers_of(layout: &Path, tag: &str) -> Vec<Vec<u8>> {
    let json = |path: PathBuf| -> Value {
        serde_json::from_slice(&fs::read(path).expect("a document of the layout")).expect("JSON")
    };
    let blob = |digest: &Value| layout.join("blobs").join(digest.as_str().expect("a digest").replace(':', "/"));
    let index = json(layout.join("index.json"));
    let manifests = index["manifests"].as_array().expect("manifests");
    let named = |entry: &&Value| entry["annotations"]["org.opencontainers.image.ref.name"] == tag;
    let mut document = json(blob(&manifests.iter().rev().find(named).unwrap_or(&manifests[0])["digest"]));
    while let Some(first) = document["manifests"].get(0) {
        document = json(blob(&first["digest"]));
    }
    let unpacked = |layer: &Value| {
        let mut bytes = Vec::new();
        let file = File::open(blob(&layer["digest"])).expect("a layer");
        decompress(file).expect("a compression of layers").read_to_end(&mut bytes).expect("intact");
        bytes
    };
    document["layers"].as_array().expect("layers").iter().map(unpacked).collect()
}

fn copy_tree(from: &Path, to: &Path) {
    Call::new("cp").args(["-a", "--sparse=always"]).arg(from.join(".")).arg(to).ok();
}

#[test]
fn we_lay_down_what_umoci_repacks_as_it_does() {
    if !can_run() {
        return;
    }
    let dir = machine::folder();
    let root = fresh(dir.path(), "root");
    everything(&root, 0);
    let layout = dir.path().join("layout");
    let shown = layout.display();
    let umoci = |line: &str| Some(peers::call("umoci", dir.path())?.args(line.split(' ')).ok());
    if umoci(&format!("init --layout {shown}")).is_none() {
        return;
    }
    let bundle = dir.path().join("bundle");
    let again = dir.path().join("again");
    umoci(&format!("new --image {shown}:it"));
    umoci(&format!("unpack --image {shown}:it {}", bundle.display()));
    copy_tree(&root, &bundle.join("rootfs"));
    umoci(&format!("repack --image {shown}:it {}", bundle.display()));
    // A second layer that takes some away.
    fs::remove_dir_all(bundle.join("rootfs/odd")).expect("it is there");
    fs::remove_file(bundle.join("rootfs/plain/first")).expect("it is there");
    umoci(&format!("repack --refresh-bundle --image {shown}:it {}", bundle.display()));
    umoci(&format!("unpack --image {shown}:it {}", again.display()));
    let mounted = by_us(&layers_of(&layout, "it")).expect("umoci's layers");
    let mut findings = Findings::default();
    let theirs = tree::read(&again.join("rootfs"), Times::Files);
    findings.compare("umoci", &tree::read(&mounted.path(), Times::Files), &theirs);
}

#[test]
fn we_lay_down_what_buildah_and_podman_commit_as_they_do() {
    if !can_run() {
        return;
    }
    let dir = machine::folder();
    let root = fresh(dir.path(), "root");
    everything(&root, 0);
    let at = dir.path().display();
    let storage = format!("--root {at}/root-of-it --runroot {at}/runroot --storage-driver vfs");
    let call = |program: &str, line: &str| {
        let call = peers::call(program, dir.path())?.args(storage.split(' ')).args(line.split(' '));
        Some(call.ok().result().to_owned())
    };
    let Some(container) = call("buildah", "from scratch") else { return };
    let place = PathBuf::from(call("buildah", &format!("mount {container}")).expect("it was there before"));
    copy_tree(&root, &place);
    call("buildah", &format!("commit -q {container} localhost/first"));
    let layout = dir.path().join("layout");
    let container = call("podman", "create localhost/first true").expect("buildah is there, so is podman");
    let place = PathBuf::from(call("podman", &format!("mount {container}")).expect("it was there before"));
    fs::remove_dir_all(place.join("odd")).expect("it is there");
    fs::remove_file(place.join("plain/first")).expect("it is there");
    file(&place, "plain/sticky/new", 0o600, b"new");
    call("podman", &format!("commit -q {container} localhost/second"));
    let mut findings = Findings::default();
    for name in ["first", "second"] {
        call("podman", &format!("push -q localhost/{name} oci:{}:{name}", layout.display()));
        let theirs = call("podman", &format!("image mount localhost/{name}")).expect("it was there before");
        let mounted = by_us(&layers_of(&layout, name)).expect("podman's layers");
        let ours = tree::read(&mounted.path(), Times::Files);
        findings.compare(name, &ours, &tree::read(Path::new(&theirs), Times::Files));
    }
}

#[test]
fn we_lay_down_what_buildkit_builds_as_docker_does() {
    if !can_run() {
        return;
    }
    let dir = machine::folder();
    let root = fresh(dir.path(), "root");
    plain(&root.join("plain"));
    odd(&root.join("odd"));
    sparse(&root.join("sparse"));
    attribute(&file(&root, "capable", 0o755, b"net"), "security.capability", &CAPABILITY);
    stamp(&root, 0);
    let Some(docker) = Docker::start(dir.path()) else { return };
    let context = fresh(dir.path(), "context");
    let words = ["--format=posix", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-cf"];
    Call::new("tar").args(words).arg(context.join("tree.tar")).arg("-C").arg(&root).arg(".").ok();
    fs::write(
        context.join("Dockerfile"),
        "FROM scratch AS one\nADD tree.tar /\nFROM one\nCOPY --from=one /plain /again\nCMD [\"x\"]\n",
    )
    .expect("written");
    docker.docker(["build", "-q", "--network", "none", "-t", "it", &context.display().to_string()]).ok();
    let saved = dir.path().join("saved.tar").display().to_string();
    docker.docker(["save", "-o", &saved, "it"]).ok();
    let layout = fresh(dir.path(), "layout");
    Call::new("tar").args(["-xf", &saved, "-C"]).arg(&layout).ok();
    docker.docker(["create", "--name", "it", "it"]).ok();
    let exported = dir.path().join("exported.tar").display().to_string();
    docker.docker(["export", "-o", &exported, "it"]).ok();
    let theirs = fresh(dir.path(), "theirs");
    Call::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", &exported, "-C"])
        .arg(&theirs)
        .ok();
    let mounted = by_us(&layers_of(&layout, "it")).expect("docker's layers");
    let mut theirs = tree::read(&theirs, Times::Files);
    // What docker puts into every container.
    theirs.retain(|path, _| {
        !["dev", "proc", "sys", "etc", ".dockerenv"].iter().any(|top| path.split('/').next() == Some(top))
    });
    Findings::default().compare("docker", &tree::read(&mounted.path(), Times::Files), &theirs);
}

/// An image that podman holds is what we made, to the byte: its layers are kept as they came.
#[test]
fn a_layer_that_went_through_a_rival_is_the_same_bytes() {
    if !can_run() {
        return;
    }
    let dir = machine::folder();
    let root = fresh(dir.path(), "root");
    everything(&root, 0);
    let (layer, _) = diff(&root, Vec::new(), &DiffOptions::default()).expect("it can be written");
    let layout = dir.path().join("layout");
    image::write_layout(&layout, "it", vec![layer.clone()], &serde_json::json!({}));
    let at = dir.path().display();
    let Some(podman) = peers::call("podman", dir.path()) else { return };
    let storage = format!("--root {at}/r --runroot {at}/rr --storage-driver vfs");
    let id =
        podman.args(storage.split(' ')).args(["pull", "-q", &format!("oci:{at}/layout:it")]).ok().result().to_owned();
    let podman = peers::call("podman", dir.path()).expect("it was there before");
    podman.args(storage.split(' ')).args(["push", "-q", &id, &format!("oci:{at}/back:it")]).ok();
    assert!(layers_of(&dir.path().join("back"), "it") == [layer]);
}
