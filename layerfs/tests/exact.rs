//! What the specification leaves open and honest writers do all the same: streams in pieces, odd ends, attributes of
//! odd names, the forms that overlayfs keeps changes in.
#![expect(clippy::unwrap_used, reason = "a failing test should stop where it fails")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use layerfs::archive::{ApplyOptions, Compression, Compressor, DiffOptions, apply, decompress, diff};
use layerfs::digest::{DiffId, Digest};
use layerfs::error::Kind;
use layerfs::layer::{Limits, stream_layer, unpack_chain};
use layerfs::oci::{Descriptor, ImageConfig, Manifest, Platform, media_type};
use layerfs::store::Store;
use layerfs::sys::fs::{get_xattr, list_xattrs};
use rustix::fs::XattrFlags;

fn packed(bytes: &[u8], compression: Compression) -> Vec<u8> {
    let mut packer = Compressor::new(Vec::new(), compression).unwrap();
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

fn unpacked(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    decompress(bytes).unwrap().read_to_end(&mut out).map(|_| out)
}

#[test]
fn members_and_frames_follow_one_another() {
    let parts = [&b"first"[..], b"", b"second"];
    for compression in [Compression::GZIP, Compression::ZSTD] {
        let whole: Vec<u8> = parts.iter().flat_map(|part| packed(part, compression)).collect();
        assert_eq!(unpacked(&whole).unwrap(), b"firstsecond");
        // What follows the last one and is none of them is not passed over in silence.
        assert!(unpacked(&[&whole[..], b"garbage"].concat()).is_err(), "{compression:?}");
    }
    let skippable = [&b"\x5a\x2a\x4d\x18\x04\0\0\0"[..], b"skip"].concat();
    let frames = [
        &skippable[..],
        &packed(b"one", Compression::ZSTD),
        &skippable,
        &packed(b"two", Compression::ZSTD),
        &skippable,
    ];
    assert_eq!(unpacked(&frames.concat()).unwrap(), b"onetwo");
}

fn archive(name: &str, content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, name, content).unwrap();
    builder.into_inner().unwrap()
}

/// Bytes of a layer and whether a file `f` comes out of it.
#[test]
fn odd_ends_are_part_of_the_layer() {
    let plain = archive("f", b"x");
    let cases: [(&str, Vec<u8>, bool); 6] = [
        ("nothing at all", Vec::new(), false),
        ("zeros", vec![0; 10240], false),
        ("no end marker", plain[..1024].to_vec(), true),
        ("garbage after the end", [&plain[..], &b"garbage".repeat(3000)].concat(), true),
        ("another archive after the end", [&plain[..], &archive("hidden", b"y")].concat(), true),
        ("padded to a record of twenty blocks", [&plain[..], &[0; 10240 - 2048]].concat(), true),
    ];
    for (name, bytes, has_file) in cases {
        for compression in [Compression::None, Compression::GZIP, Compression::ZSTD] {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path()).unwrap();
            let blob = packed(&bytes, compression);
            let descriptor = Descriptor::of(compression.layer_media_type(), &blob);
            // The diff ID is that of every byte.
            let diff_id = DiffId(Digest::of(&bytes));
            stream_layer(&store, &descriptor, diff_id, &blob[..], &Limits::default()).unwrap();
            let files = store.layer_files(diff_id).unwrap();
            assert_eq!(files.join("f").exists(), has_file, "{name}");
            assert!(!files.join("hidden").exists(), "{name}");
        }
    }
}

fn applied(bytes: &[u8], root: &Path) {
    fs::create_dir_all(root).unwrap();
    apply(bytes, File::open(root).unwrap().as_fd(), &ApplyOptions::default()).unwrap();
}

fn set(path: &Path, key: impl rustix::path::Arg, value: &[u8]) {
    rustix::fs::lsetxattr(path, key, value, XattrFlags::empty()).unwrap();
}

#[test]
fn attributes_of_any_name_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    fs::create_dir(&a).unwrap();
    fs::write(a.join("f"), "x").unwrap();
    let names: [&[u8]; 6] = [
        b"user.plain",
        b"user.a=b",
        b"user.%3D=%",
        b"user.\xff\xfe",
        b"user.new\nline",
        b"user.overlay.overlay.redirect",
    ];
    for name in names {
        set(&a.join("f"), name, &[name, b"=\0\n"].concat());
    }
    let (bytes, _) = diff(&a, Vec::new(), &DiffOptions::default()).unwrap();
    applied(&bytes, &b);
    for name in names {
        assert_eq!(
            get_xattr(&b.join("f"), name).unwrap().unwrap(),
            [name, b"=\0\n"].concat(),
            "{}",
            name.escape_ascii()
        );
    }
    assert_eq!(list_xattrs(&b.join("f")).unwrap().len(), names.len());
    assert_eq!(diff(&b, Vec::new(), &DiffOptions::default()).unwrap().0, bytes);
}

#[test]
fn a_change_that_is_more_than_what_lies_there_is_refused_by_name() {
    for key in ["user.overlay.redirect", "user.overlay.metacopy"] {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        set(&dir.path().join("d"), key, b"elsewhere");
        let error = diff(dir.path(), Vec::new(), &DiffOptions::default()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.chain().contains(key), "{}", error.chain());
        assert!(error.advice().is_some_and(|advice| advice.contains("off")));
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(".wh.f"), "").unwrap();
    let error = diff(dir.path(), Vec::new(), &DiffOptions::default()).unwrap_err();
    assert!(error.chain().contains("`.wh.`"), "{}", error.chain());
}

#[test]
fn both_forms_of_whiteouts_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("d")).unwrap();
    set(&root.join("d"), "user.overlay.opaque", b"x");
    fs::write(root.join("d/gone"), "").unwrap();
    set(&root.join("d/gone"), "user.overlay.whiteout", b"");
    fs::write(root.join("d/empty"), "").unwrap();
    let whiteout = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(rustix::fs::CWD, root.join("gone"), whiteout, rustix::fs::Mode::empty(), 0).unwrap();
    let (bytes, _) = diff(&root, Vec::new(), &DiffOptions::default()).unwrap();
    let mut archive = tar::Archive::new(&bytes[..]);
    let names: Vec<String> =
        archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
    assert_eq!(names, [".wh.gone", "d/", "d/.wh.gone", "d/empty"]);
    // Laid down again it has the kernel's own form.
    applied(&bytes, &dir.path().join("again"));
    let gone = fs::symlink_metadata(dir.path().join("again/d/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
}

/// The same tree, made in another order by another process: other inodes, another order of names on the disk.
#[test]
fn the_same_tree_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, order: &mut dyn Iterator<Item = u32>| {
        let root = dir.path().join(name);
        for n in order {
            let folder = root.join(format!("d{}", n % 7));
            fs::create_dir_all(&folder).unwrap();
            let path = folder.join(format!("f{n}"));
            fs::write(&path, n.to_string()).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600 + n % 64)).unwrap();
            for key in if n % 2 == 0 { ["user.a", "user.b"] } else { ["user.b", "user.a"] } {
                set(&path, key, b"x");
            }
        }
        // Two names of one file, made from either.
        let names = if name == "first" { ["d0/f0", "link"] } else { ["link", "d0/f0"] };
        if name != "first" {
            fs::rename(root.join("d0/f0"), root.join("link")).unwrap();
        }
        fs::hard_link(root.join(names[0]), root.join(names[1])).unwrap();
        let options = DiffOptions { clamp_mtime: Some(1_000_000_000), ..DiffOptions::default() };
        (diff(&root, Vec::new(), &options).unwrap().0, diff(&root, Vec::new(), &options).unwrap().0)
    };
    let (first, again) = make("first", &mut (0..200));
    let (second, _) = make("second", &mut (0..200).rev());
    assert!(first == again, "twice");
    assert!(first == second, "in another order");
}

/// The root's owner, mode and time are those that the lowest layers say, though the topmost says nothing of it.
#[test]
fn a_root_that_is_described_below_stays_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o555);
    header.set_mtime(1_000_000_000);
    header.set_size(0);
    header.as_old_mut().name[..2].copy_from_slice(b"./");
    header.set_cksum();
    builder.append(&header, &b""[..]).unwrap();
    let layers = [builder.into_inner().unwrap(), archive("f", b"x")].map(|tar| {
        let (descriptor, diff_id) = (Descriptor::of(media_type::OCI_LAYER, &tar), DiffId(Digest::of(&tar)));
        stream_layer(&store, &descriptor, diff_id, &tar[..], &Limits::default()).unwrap();
        (descriptor, diff_id)
    });
    let lowers = unpack_chain(&store, &layers, &Limits::default()).unwrap();
    let root = lowers.root_metadata().unwrap().unwrap();
    assert_eq!((root.mode() & 0o7777, root.mtime()), (0o555, 1_000_000_000));
    let upper = layerfs::layer::prepare_upper(&lowers, &dir.path().join("container")).unwrap();
    assert_eq!(fs::metadata(&upper.dir).unwrap().mode() & 0o7777, 0o555);
}

/// The config's diff IDs, the manifest's size of the layer, a change to both documents, and what the error says.
type Disagreement<'a> = (&'a [DiffId], u64, &'a dyn Fn(Vec<u8>) -> Vec<u8>, &'a str);

/// Documents that contradict one another, and what the error names.
#[test]
fn an_image_whose_documents_disagree_is_refused_by_name() {
    let tar = archive("f", b"x");
    let diff_id = DiffId(Digest::of(&tar));
    let image = |diff_ids: &[DiffId], size: u64, bend: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut config = ImageConfig::scratch(&Platform::host());
        diff_ids.iter().for_each(|id| config.push_layer(Some(*id), serde_json::Map::new()));
        let config = bend(config.to_bytes());
        store.put_blob(&config).unwrap();
        let digest = store.put_blob(&tar).unwrap();
        let layer = Descriptor::new(media_type::OCI_LAYER, digest, size);
        let manifest = Manifest::new(Descriptor::of(media_type::OCI_CONFIG, &config), vec![layer]).to_bytes();
        let manifest = bend(manifest);
        store.put_blob(&manifest).unwrap();
        let image = store.image(&Descriptor::of(media_type::OCI_MANIFEST, &manifest), &Platform::host())?;
        layerfs::layer::unpack_image(&store, &image, &Limits::default()).map(drop)
    };
    let same = |bytes: Vec<u8>| bytes;
    let size = tar.len() as u64;
    image(&[diff_id], size, &same).unwrap();
    let other = DiffId(Digest::of(b"another"));
    let twice = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replacen('{', "{\"layers\":[],", 1).into_bytes();
    let folded = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace("\"rootfs\"", "\"RootFS\"").into_bytes();
    let cases: [Disagreement<'_>; 6] = [
        (&[], size, &same, "has 1 layers but its config has 0"),
        (&[diff_id, other], size, &same, "has 1 layers but its config has 2"),
        (&[other], size, &same, "the image's config says"),
        (&[diff_id], size + 1, &same, "the image's manifest says"),
        (&[diff_id], size, &twice, "`layers` stands twice"),
        (&[diff_id], size, &folded, "`RootFS` is `rootfs` to some"),
    ];
    for (diff_ids, size, bend, words) in cases {
        let error = image(diff_ids, size, bend).unwrap_err();
        assert!(error.chain().contains(words), "{words}: {}", error.chain());
        assert!(error.chain().contains("sha256:") || words.contains('`'), "{}", error.chain());
    }
}
