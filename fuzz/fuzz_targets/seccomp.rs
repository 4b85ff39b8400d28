//! Any text as a seccomp profile.
#![no_main]

use libfuzzer_sys::fuzz_target;
use run::profile::{Machine, reduce};

fuzz_target!(|text: &str| {
    let capabilities = Default::default();
    let machine = Machine { architecture: "amd64", kernel: (6, 1), capabilities: &capabilities };
    drop(reduce(text, &machine));
});
