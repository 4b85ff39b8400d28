//! Any bytes as an OCI image layout in a folder: `oci-layout`, `index.json` and blobs, copied out of it.
//!
//! The input is cut at bytes 0xff, which no JSON text holds. In the first two pieces and in every blob, `@N` stands
//! for the digest of blob N and `#N` for its size: a fuzzer cannot hash.
#![no_main]

use std::fs;
use std::path::Path;

use copy::{Location, Options, Platforms, Policy};
use layerfs::digest::Digest;
use layerfs::progress::Silent;
use libfuzzer_sys::fuzz_target;

/// Puts in the digests and sizes of the blobs that are known.
fn filled(text: &[u8], blobs: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let blob = tail.first().and_then(|b| b.checked_sub(b'0')).and_then(|n| blobs.get(usize::from(n)));
        match (first, blob) {
            (b'@', Some(blob)) => out.extend(Digest::of(blob).to_string().bytes()),
            (b'#', Some(blob)) => out.extend(blob.len().to_string().bytes()),
            _ => {
                out.push(*first);
                rest = tail;
                continue;
            }
        }
        rest = &tail[1..];
    }
    out
}

fn options() -> Options {
    Options { platforms: Platforms::All, policy: Policy::Ignore, retries: 0, parallel: 1, ..Options::default() }
}

fn place(transport: &str, path: &Path) -> Location {
    format!("{transport}:{}", path.display()).parse().expect("a path without colons")
}

fuzz_target!(|data: &[u8]| {
    let mut pieces = data.split(|b| *b == 0xff).take(10);
    let (Some(marker), Some(index)) = (pieces.next(), pieces.next()) else { return };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let layout = dir.path().join("layout");
    let folder = layout.join("blobs/sha256");
    fs::create_dir_all(&folder).expect("a new folder");
    let mut blobs: Vec<Vec<u8>> = Vec::new();
    for piece in pieces {
        let blob = filled(piece, &blobs);
        fs::write(folder.join(Digest::of(&blob).hex()), &blob).expect("a new file");
        blobs.push(blob);
    }
    fs::write(layout.join("oci-layout"), filled(marker, &blobs)).expect("a new file");
    fs::write(layout.join("index.json"), filled(index, &blobs)).expect("a new file");
    fs::write(dir.path().join("canary"), "alive").expect("a new file");

    let out = dir.path().join("out");
    let copied = copy::transfer(&place("oci", &layout), &place("oci", &out), None, &options(), &Silent);
    assert_eq!(fs::read(dir.path().join("canary")).expect("the canary is there"), b"alive");
    if copied.is_ok() {
        let again = dir.path().join("again");
        copy::transfer(&place("oci", &out), &place("oci", &again), None, &options(), &Silent)
            .expect("what was copied can be copied");
    }
});
