//! Any bytes as /etc/passwd and /etc/group of an image, and any text as the user that is asked for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use run::spec::user::resolve;

fuzz_target!(|input: (&str, &[u8], &[u8])| {
    let (text, passwd, group) = input;
    drop(resolve(text, passwd, group, &[text.to_owned()]));
});
