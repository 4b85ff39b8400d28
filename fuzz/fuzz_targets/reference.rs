//! Any text as an image reference: what is accepted, printed and read again is the same.
#![no_main]

use layerfs::digest::Digest;
use layerfs::reference::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string().parse::<Reference>().expect("what we print can be read"), reference);
        assert_eq!(reference.familiar().parse::<Reference>().expect("the short form too"), reference);
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
});
