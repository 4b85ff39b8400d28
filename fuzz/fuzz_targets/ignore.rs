//! Any bytes as an ignore file, matched against its own lines.
#![no_main]

use build::ignore::Ignore;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(ignore) = Ignore::parse(data, ".dockerignore") else { return };
    for line in String::from_utf8_lossy(data).lines().take(50) {
        let _ = ignore.matches(line);
        let _ = ignore.may_contain_reincluded(line);
    }
});
