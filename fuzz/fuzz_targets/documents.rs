//! Any bytes as a manifest, an index or an image configuration.
#![no_main]

use layerfs::oci::{Document, ImageConfig, Platform};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(Document::Index(index)) = Document::parse(data, None) {
        drop(index.select(&Platform::host()).cloned());
    }
    if let Ok(config) = ImageConfig::parse(data) {
        drop(config.diff_ids());
        let again = ImageConfig::parse(&config.to_bytes()).expect("what we wrote can be read");
        assert_eq!(config.to_bytes(), again.to_bytes());
    }
});
