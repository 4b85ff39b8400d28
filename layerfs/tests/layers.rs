//! Layers through the engine: applied, written back, stacked.
//!
//! Archives are built with the `tar` crate, headers set byte by byte where a well-behaved writer would refuse.
#![expect(clippy::unwrap_used, reason = "a failing test should stop where it fails")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use layerfs::archive::{Applied, ApplyOptions, Compression, Compressor, DiffOptions, Limits, apply, diff};
use layerfs::digest::{DiffId, Digest};
use layerfs::error::{Kind, Result};
use layerfs::layer::{self, MergedView};
use layerfs::oci::{Descriptor, media_type};
use layerfs::store::Store;
use tar::EntryType;

/// One entry: kind, path, link target or content, mode.
type Row<'a> = (EntryType, &'a str, &'a str, u32);
use EntryType::{Directory as D, Link as H, Regular as F, Symlink as L};

fn archive(rows: &[Row<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, path, text, mode) in rows {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        let content = if *kind == F { text.as_bytes() } else { b"" };
        if *kind != F {
            header.as_old_mut().linkname[..text.len()].copy_from_slice(text.as_bytes());
        }
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn apply_to(dir: &Path, bytes: &[u8], options: &ApplyOptions) -> Result<Applied> {
    fs::create_dir_all(dir).unwrap();
    let root = File::open(dir).unwrap();
    apply(bytes, root.as_fd(), options)
}

fn applied(rows: &[Row<'_>]) -> (tempfile::TempDir, PathBuf, Result<Applied>) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("a/b/c/root");
    let result = apply_to(&root, &archive(rows), &ApplyOptions::default());
    (dir, root, result)
}

#[test]
fn files_folders_and_links_are_laid_down_as_described() {
    let (_dir, root, result) = applied(&[
        (D, "./", "", 0o755),
        (D, "etc/", "", 0o2750),
        (F, "etc/suid", "data", 0o4711),
        (F, "./etc/open", "", 0o666),
        (L, "etc/link", "/etc/suid", 0o777),
        (H, "etc/hard", "etc/suid", 0o4711),
        (EntryType::Fifo, "pipe", "", 0o600),
        (D, "locked", "", 0o555),
        (F, "locked/in", "x", 0o400),
    ]);
    let applied = result.unwrap();
    assert_eq!((applied.entries, applied.bytes), (9, 5));
    assert!(applied.implied.is_empty() && applied.links.is_empty());
    let mode = |path: &str| fs::symlink_metadata(root.join(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("etc"), mode("etc/suid"), mode("etc/open"), mode("locked")), (0o2750, 0o4711, 0o666, 0o555));
    let meta = |path: &str| fs::symlink_metadata(root.join(path)).unwrap();
    assert_eq!(meta("etc/suid").ino(), meta("etc/hard").ino());
    assert_eq!(meta("etc").mtime(), 1_700_000_000, "a folder's time is set after its children");
    assert_eq!(meta("etc/link").mtime(), 1_700_000_000);
    assert!(meta("pipe").file_type().is_fifo());
    assert_eq!(fs::read_link(root.join("etc/link")).unwrap(), Path::new("/etc/suid"));
}

#[test]
fn whiteouts_concern_lower_layers_in_any_order() {
    for rows in [
        &[(D, "d", "", 0o755), (F, "d/.wh..wh..opq", "", 0), (F, "d/new", "x", 0o644), (F, "d/.wh.gone", "", 0)][..],
        &[(D, "d", "", 0o755), (F, "d/new", "x", 0o644), (F, "d/.wh.gone", "", 0), (F, "d/.wh..wh..opq", "", 0)],
    ] {
        let (_dir, root, result) = applied(rows);
        result.unwrap();
        assert_eq!(fs::read_to_string(root.join("d/new")).unwrap(), "x");
        assert!(!root.join("d/gone").exists(), "no whiteout in an opaque folder");
        let opaque = layerfs::sys::fs::get_xattr(&root.join("d"), "user.overlay.opaque").unwrap();
        assert_eq!(opaque.as_deref(), Some(&b"y"[..]));
    }
    let (_dir, root, result) = applied(&[(F, "x/.wh.f", "", 0), (F, "x/kept", "k", 0o644), (F, "x/.wh.kept", "", 0)]);
    assert!(result.unwrap().implied.contains(&b"x"[..]));
    assert!(fs::symlink_metadata(root.join("x/f")).unwrap().file_type().is_char_device());
    assert_eq!(fs::read_to_string(root.join("x/kept")).unwrap(), "k", "this layer's own file stays");
}

#[test]
fn a_later_entry_wins() {
    let (_dir, root, result) = applied(&[
        (F, "a", "1", 0o644),
        (D, "a", "", 0o755),
        (F, "a/deep", "2", 0o644),
        (F, "a", "3", 0o600),
        (F, ".wh.b", "", 0),
        (D, "b", "", 0o755),
    ]);
    result.unwrap();
    assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "3");
    let opaque = layerfs::sys::fs::get_xattr(&root.join("b"), "user.overlay.opaque").unwrap();
    assert!(opaque.is_some(), "a folder over a whiteout hides what was below");
}

/// After containerd's `TestBreakouts` and the advisories named in each row: whatever the archive says, nothing outside
/// the root changes, and nothing outside becomes reachable by a hard link.
#[test]
fn nothing_leaves_the_root() {
    let cases: &[(&str, &[Row<'_>])] = &[
        ("dot-dot", &[(F, "../../../outside", "evil", 0o644)]),
        ("absolute", &[(F, "/../../outside", "evil", 0o644)]),
        ("symlinked parent, absolute", &[(L, "l", "/", 0o777), (F, "l/../../../outside", "evil", 0o644)]),
        ("symlinked parent, relative", &[(L, "l", "../../..", 0o777), (F, "l/outside", "evil", 0o644)]),
        ("symlink chain", &[(L, "x", "y", 0o777), (L, "y", "../../..", 0o777), (F, "x/outside", "evil", 0o644)]),
        ("hard link out", &[(H, "h", "../../../outside", 0o644)]),
        ("hard link through a symlink (CVE-2026-50163)", &[(L, "l", "../../..", 0o777), (H, "h", "l/outside", 0o644)]),
        ("chmod through a symlink (CVE-2026-33056)", &[(L, "d", "../../..", 0o777), (D, "d", "", 0o777)]),
        ("whiteout of the parent", &[(F, ".wh...", "", 0)]),
        ("root as a symlink (CVE-2021-29136)", &[(L, ".", "/", 0o777), (F, "outside", "evil", 0o644)]),
        ("whiteout through a symlink", &[(L, "l", "../../..", 0o777), (F, "l/.wh.outside", "", 0)]),
    ];
    for (name, rows) in cases {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b/c");
        fs::create_dir_all(&root).unwrap();
        fs::write(dir.path().join("outside"), "canary").unwrap();
        let before = fs::metadata(dir.path()).unwrap().permissions();
        let _ = apply_to(&root, &archive(rows), &ApplyOptions::default());
        let canary = fs::metadata(dir.path().join("outside")).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("outside")).unwrap(), "canary", "{name}");
        assert_eq!(canary.nlink(), 1, "{name}");
        assert_eq!(fs::metadata(dir.path()).unwrap().permissions(), before, "{name}");
        let top: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(top.len(), 2, "{name}: {top:?}");
    }
}

#[test]
fn limits_are_errors_that_name_them() {
    let small = |limits| ApplyOptions { limits, ..ApplyOptions::default() };
    let dir = tempfile::tempdir().unwrap();
    let bytes = archive(&[(F, "a", "12345", 0o644), (F, "b", "12345", 0o644)]);
    for (limits, word) in
        [(Limits { entries: 1, ..Limits::default() }, "entries"), (Limits { bytes: 7, ..Limits::default() }, "bytes")]
    {
        let error = apply_to(&dir.path().join(word), &bytes, &small(limits)).unwrap_err();
        assert_eq!(error.kind(), Kind::Limit);
        assert!(error.chain().contains(word), "{}", error.chain());
    }
    let deep = "d/".repeat(2500);
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    builder.append_data(&mut header, &deep, &b""[..]).unwrap();
    let error =
        apply_to(&dir.path().join("deep"), &builder.into_inner().unwrap(), &ApplyOptions::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::Limit, "{}", error.chain());
}

/// Path → what it is, for comparing trees.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(root: &Path, dir: &Path, out: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let m = fs::symlink_metadata(&path).unwrap();
            let content = match () {
                () if m.is_file() => {
                    let mut text = Vec::new();
                    File::open(&path).unwrap().read_to_end(&mut text).unwrap();
                    Digest::of(&text).short()
                }
                () if m.is_symlink() => fs::read_link(&path).unwrap().display().to_string(),
                () => m.rdev().to_string(),
            };
            let links = if m.is_dir() { 0 } else { m.nlink() };
            let line = format!("{:o} {}:{} {links} {} {content}", m.mode(), m.uid(), m.gid(), m.mtime());
            out.insert(path.strip_prefix(root).unwrap().to_owned(), line);
            if m.is_dir() {
                walk(root, &path, out);
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(root, root, &mut out);
    out
}

#[test]
fn what_diff_writes_apply_lays_down_again() {
    let dir = tempfile::tempdir().unwrap();
    let a = dir.path().join("a");
    fs::create_dir_all(a.join("d/e")).unwrap();
    fs::write(a.join("d/f"), "one").unwrap();
    fs::hard_link(a.join("d/f"), a.join("d/g")).unwrap();
    symlink("f", a.join("d/s")).unwrap();
    fs::set_permissions(a.join("d/e"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(a.join("n\u{e9}w \n line"), vec![7; 70_000]).unwrap();
    let pack = |root: &Path, normalise| {
        diff(root, Vec::new(), &DiffOptions { normalise, ..DiffOptions::default() }).unwrap().0
    };
    let first = pack(&a, true);
    let b = dir.path().join("b");
    apply_to(&b, &first, &ApplyOptions::default()).unwrap();
    assert_eq!(tree(&a), tree(&b));
    assert_eq!(pack(&b, false), first, "byte for byte");
}

struct Stack {
    _dir: tempfile::TempDir,
    store: Store,
    layers: Vec<(Descriptor, DiffId)>,
}

fn stack(layers: &[&[Row<'_>]]) -> Stack {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let layers = layers.iter().map(|rows| {
        let plain = archive(rows);
        let mut packer = Compressor::new(Vec::new(), Compression::GZIP).unwrap();
        std::io::Write::write_all(&mut packer, &plain).unwrap();
        let packed = packer.finish().unwrap();
        let descriptor = Descriptor::of(media_type::OCI_LAYER_GZIP, &packed);
        let diff_id = DiffId(Digest::of(&plain));
        layer::stream_layer(&store, &descriptor, diff_id, &packed[..], &Limits::default()).unwrap();
        (descriptor, diff_id)
    });
    let layers = layers.collect();
    Stack { store, layers, _dir: dir }
}

#[test]
fn what_depends_on_lower_layers_is_put_right() {
    let lower: &[Row<'_>] = &[
        (D, "tmp", "", 0o1777),
        (D, "usr", "", 0o755),
        (D, "usr/lib", "", 0o755),
        (F, "usr/lib/old", "old", 0o644),
        (L, "lib", "usr/lib", 0o777),
        (F, "bin/tool", "tool", 0o755),
    ];
    let upper: &[Row<'_>] = &[
        (F, "tmp/file", "f", 0o600),
        (F, "lib/new", "new", 0o644),
        (F, "lib/sub/deep", "deep", 0o644),
        (F, "lib/.wh.old", "", 0),
        (H, "bin/alias", "bin/tool", 0o755),
    ];
    let Stack { store, layers, _dir } = stack(&[lower, upper]);
    let lowers = layer::unpack_chain(&store, &layers, &Limits::default()).unwrap();
    assert_eq!(lowers.dirs.len(), 3, "two layers and a shim");
    let view = MergedView::new(&lowers.dirs);
    let look = |path: &str| view.lookup(path).unwrap();
    assert_eq!(look("tmp").unwrap().metadata.mode() & 0o7777, 0o1777);
    assert!(look("lib").unwrap().metadata.is_symlink());
    assert_eq!(look("lib/new").unwrap().path, Path::new("usr/lib/new"));
    assert_eq!(view.read("lib/sub/deep", 10).unwrap().as_deref(), Some(&b"deep"[..]));
    assert!(look("usr/lib/old").is_none());
    assert_eq!(view.read("bin/alias", 10).unwrap().as_deref(), Some(&b"tool"[..]));
    assert_eq!(view.read_dir("lib").unwrap().unwrap(), ["new", "sub"]);
    let again = layer::unpack_chain(&store, &layers, &Limits::default()).unwrap();
    assert_eq!(again, lowers);
}

#[test]
fn a_hard_link_to_nothing_is_named() {
    let Stack { store, layers, _dir } = stack(&[&[(H, "a", "missing", 0o644)]]);
    let error = layer::unpack_chain(&store, &layers, &Limits::default()).unwrap_err();
    assert!(error.chain().contains("`a` is a hard link to `missing`, which no layer holds"), "{}", error.chain());
}

#[test]
fn a_layer_that_is_not_what_the_config_says_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let plain = archive(&[(F, "a", "1", 0o644)]);
    let descriptor = Descriptor::of(media_type::OCI_LAYER, &plain);
    let wrong = DiffId(Digest::of(b"something else"));
    let error = layer::stream_layer(&store, &descriptor, wrong, &plain[..], &Limits::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(!store.has_layer(wrong).unwrap() && !store.has_blob(&descriptor.digest));

    let right = DiffId(descriptor.digest);
    for damaged in [&plain[..plain.len() - 600], &[plain.clone(), vec![0; 512]].concat()] {
        let error = layer::stream_layer(&store, &descriptor, right, damaged, &Limits::default()).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{}", error.chain());
        assert!(!store.has_blob(&descriptor.digest));
    }
}

#[test]
fn a_committed_folder_is_the_layer_its_own_archive_gives() {
    let Stack { store, layers, _dir } = stack(&[&[(D, "etc", "", 0o700), (F, "etc/passwd", "root", 0o600)]]);
    let lowers = layer::unpack_chain(&store, &layers, &Limits::default()).unwrap();
    let temp = store.new_temp_dir().unwrap();
    let upper = layer::prepare_upper(&lowers, temp.path()).unwrap();
    fs::create_dir(upper.dir.join("etc")).unwrap();
    fs::write(upper.dir.join("etc/new"), "new").unwrap();
    let committed = layer::commit_upper(&store, &upper.dir, &DiffOptions::default()).unwrap();
    assert!(!upper.dir.exists() && !committed.empty);
    let fresh = temp.path().join("fresh");
    let mut bytes = Vec::new();
    store.open_blob(&committed.blob.digest).unwrap().read_to_end(&mut bytes).unwrap();
    apply_to(&fresh, &bytes, &ApplyOptions::default()).unwrap();
    assert_eq!(tree(&fresh), tree(&store.layer_files(committed.diff_id).unwrap()));
}
