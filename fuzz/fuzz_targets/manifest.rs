//! Any bytes as a manifest or an index: what is accepted, written and read again is the same.
#![no_main]

use layerfs::oci::{Document, Platform, media_type};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for stated in [None, Some(media_type::OCI_MANIFEST), Some(media_type::OCI_INDEX)] {
        let written = match Document::parse(data, stated) {
            Ok(Document::Index(index)) => {
                if let Some(chosen) = index.select(&Platform::host()) {
                    assert!(index.manifests.contains(chosen), "what was chosen is in the index");
                }
                index.to_bytes()
            }
            Ok(Document::Manifest(manifest)) => manifest.to_bytes(),
            Err(error) => {
                assert!(!error.to_string().is_empty(), "an error says something");
                continue;
            }
        };
        let first = Document::parse(data, stated).expect("it was read a moment ago");
        let again = Document::parse(&written, stated).expect("what we wrote can be read");
        assert_eq!(first, again);
    }
});
