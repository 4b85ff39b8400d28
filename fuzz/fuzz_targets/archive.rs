//! Any bytes as an image in a tar file, `docker save`'s form or a layout's.
#![no_main]

use std::fs;
use std::path::Path;

use copy::{Location, Options, Policy};
use layerfs::progress::Silent;
use libfuzzer_sys::fuzz_target;

fn place(transport: &str, path: &Path) -> Location {
    format!("{transport}:{}", path.display()).parse().expect("a path without colons")
}

fuzz_target!(|data: &[u8]| {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("archive");
    fs::write(&file, data).expect("a new file");
    fs::write(dir.path().join("canary"), "alive").expect("a new file");
    let options = Options { policy: Policy::Ignore, retries: 0, parallel: 1, ..Options::default() };
    for transport in ["docker-archive", "oci-archive"] {
        let out = dir.path().join(transport);
        let copied = copy::transfer(&place(transport, &file), &place("oci", &out), None, &options, &Silent);
        if let Err(error) = copied {
            assert!(!error.to_string().is_empty(), "an error says something");
        }
    }
    assert_eq!(fs::read(dir.path().join("canary")).expect("the canary is there"), b"alive");
});
