//! Any bytes as an image configuration: read, changed and written, it keeps what it had.
#![no_main]

use layerfs::digest::{DiffId, Digest};
use layerfs::oci::ImageConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(mut config) = ImageConfig::parse(data) else { return };
    let again = ImageConfig::parse(&config.to_bytes()).expect("what we wrote can be read");
    assert_eq!(config.to_bytes(), again.to_bytes());
    drop((config.platform(), config.text("User"), config.strings("Cmd")));

    let mut expected = config.diff_ids().expect("it was accepted");
    let layer = DiffId(Digest::of(b"layer"));
    expected.push(layer);
    config.push_layer(Some(layer), serde_json::Map::new());
    config.push_layer(None, serde_json::Map::new());
    config.set_strings("Env", Some(&["A=1".to_owned()]));
    config.set_text("User", "1000");
    let again = ImageConfig::parse(&config.to_bytes()).expect("what we changed can be read");
    assert_eq!(again.diff_ids().expect("it was accepted"), expected);
    assert_eq!((again.text("User"), again.strings("Env")), (Some("1000"), Some(vec!["A=1".to_owned()])));
});
