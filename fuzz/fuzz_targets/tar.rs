//! Any bytes as a layer: applied, written again and applied again, the tree is the same; nothing outside is touched.
#![no_main]

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use layerfs::archive::{ApplyOptions, DiffOptions, Limits, apply, decompress, diff};
use libfuzzer_sys::fuzz_target;

fn options() -> ApplyOptions {
    // Small limits: a fuzzer finds the bomb at once, and a bomb is no finding.
    let limits = Limits { entries: 1000, bytes: 1 << 20, metadata: 1 << 16, ..Limits::default() };
    ApplyOptions { limits, single_id: true, ..ApplyOptions::default() }
}

/// Bytes that the files of a tree have by their size, holes included.
fn content(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.fold(0, |sum, entry| {
        let size = match entry.file_type() {
            Ok(kind) if kind.is_dir() => content(&entry.path()),
            Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |metadata| metadata.len()),
            _ => 0,
        };
        sum.saturating_add(size)
    })
}

fuzz_target!(|data: &[u8]| {
    let Ok(plain) = decompress(data) else { return };
    let dir = tempfile::tempdir().expect("a temporary folder");
    for name in ["first", "second"] {
        fs::create_dir(dir.path().join(name)).expect("a new folder");
    }
    fs::write(dir.path().join("canary"), "alive").expect("a new file");
    let root = |name: &str| File::open(dir.path().join(name)).expect("it was just made");

    let applied = apply(plain, root("first").as_fd(), &options());
    assert_eq!(fs::read(dir.path().join("canary")).expect("the canary is there"), b"alive");
    assert_eq!(fs::read_dir(dir.path()).expect("it is ours").count(), 3, "something was made outside the root");
    let Ok(applied) = applied else { return };
    // Holes are written as zeros: a file that is mostly one would be a bomb of our own making.
    if content(&dir.path().join("first")) > 1 << 20 {
        return;
    }

    let write = |name: &str| {
        diff(
            &dir.path().join(name),
            Vec::new(),
            &DiffOptions { implied: applied.implied.clone(), ..DiffOptions::default() },
        )
    };
    let Ok((archive, _)) = write("first") else { return };
    apply(archive.as_slice(), root("second").as_fd(), &options()).expect("what we wrote can be applied");
    let (again, _) = write("second").expect("what we applied can be written");
    assert!(archive == again, "a layer written, applied and written again differs");
});
