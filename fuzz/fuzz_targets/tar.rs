//! Any bytes as a layer: applied, written again and applied again, the tree is the same; nothing outside is touched.
#![no_main]

use std::fs::{self, File};
use std::os::fd::AsFd;

use layerfs::archive::{ApplyOptions, DiffOptions, Limits, apply, decompress, diff};
use libfuzzer_sys::fuzz_target;

fn options() -> ApplyOptions {
    // Small limits: a fuzzer finds the bomb at once, and a bomb is no finding.
    let limits = Limits { entries: 1000, bytes: 1 << 20, metadata: 1 << 16, ..Limits::default() };
    ApplyOptions { limits, single_id: true }
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
