//! Any bytes as a tar archive, read without a disk: however the bytes arrive, the entries are the same.
#![no_main]

use std::io::{self, BufReader, Read};

use layerfs::archive::Limits;
use layerfs::archive::read::TarReader;
use libfuzzer_sys::fuzz_target;

/// Gives a few bytes at a time.
struct Trickle<'a>(&'a [u8], usize);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.1);
        self.0.read(&mut buffer[..most])
    }
}

/// Everything a reader says about an archive, and whether it came to its end.
fn read(source: impl Read, most: u64) -> (Vec<String>, bool) {
    let mut reader = TarReader::new(BufReader::new(source), &Limits { metadata: 1 << 16, ..Limits::default() });
    let mut seen = Vec::new();
    loop {
        match reader.next_entry() {
            Ok(Some(entry)) => {
                assert!(entry.mtime.nanos < 1_000_000_000 && entry.mode <= 0o7777);
                seen.push(format!("{entry:?}"));
            }
            Ok(None) => return (seen, reader.drain().is_ok()),
            Err(_) => return (seen, false),
        }
        let mut content = Vec::new();
        loop {
            match reader.chunk(most) {
                Ok([]) => break,
                Ok(piece) => content.extend_from_slice(piece),
                Err(_) => return (seen, false),
            }
        }
        seen.push(content.escape_ascii().to_string());
    }
}

fuzz_target!(|data: &[u8]| {
    let whole = read(data, u64::MAX);
    assert_eq!(whole, read(Trickle(data, 7), 100));
    assert_eq!(whole, read(Trickle(data, 513), 1));
});
