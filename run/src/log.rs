//! The log of a container, in the form Kubernetes' container runtimes and podman write:
//!
//! ```text
//! 2026-11-21T04:26:01.123456789Z stdout F a whole line
//! 2026-11-21T04:26:02.123456789Z stderr P the beginning of a line that came without its end
//! ```
//!
//! Writing keeps no state: what has come is written at once, so nothing is lost with the writer.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use layerfs::error::{Context, Result};

use crate::time;

/// Which stream a piece of output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn word(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Appends to a log.
#[derive(Debug)]
pub struct Writer(File);

impl Writer {
    /// Opens a log, making it where there is none.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn open(path: &Path) -> Result<Self> {
        File::options().append(true).create(true).open(path).at("open", path).map(Self)
    }

    /// Adds what came at `moment`.
    ///
    /// # Errors
    /// The disk is full, or broken.
    pub fn append(&mut self, stream: Stream, moment: i128, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_all(&lines(stream, moment, bytes))
    }
}

/// `bytes` as lines of the log.
fn lines(stream: Stream, moment: i128, bytes: &[u8]) -> Vec<u8> {
    let time = time::format(moment);
    let mut out = Vec::with_capacity(bytes.len() + 64);
    for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
        let whole = piece.ends_with(b"\n");
        out.extend_from_slice(format!("{time} {} {} ", stream.word(), if whole { 'F' } else { 'P' }).as_bytes());
        out.extend_from_slice(piece);
        if !whole {
            out.push(b'\n');
        }
    }
    out
}

/// One line of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// When it came, as text.
    pub time: &'a str,
    /// Where from.
    pub stream: Stream,
    /// Whether the line ends here.
    pub whole: bool,
    /// What came, without the line's end.
    pub text: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Reads a line without its end; `None` for one that is torn.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let mut words = line.splitn(4, |byte| *byte == b' ');
        let time = std::str::from_utf8(words.next()?).ok()?;
        let stream = match words.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        let whole = match words.next()? {
            b"F" => true,
            b"P" => false,
            _ => return None,
        };
        Some(Self { time, stream, whole, text: words.next()? })
    }

    /// When it came, in nanoseconds since 1970.
    pub fn moment(&self) -> i128 {
        time::parse(self.time).unwrap_or(0)
    }
}

/// Where the last `count` whole lines of a log begin. A line of output may be several entries.
pub fn tail_start(log: &[u8], count: u64) -> usize {
    if count == 0 {
        return log.len();
    }
    let mut seen = 0;
    let mut end = log.len();
    while end > 0 {
        let start = log[..end - 1].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let entry = Entry::parse(log[start..end].strip_suffix(b"\n").unwrap_or(&log[start..end]));
        // An entry that ends a line begins to count it; the partial ones before belong to the same.
        if entry.is_some_and(|entry| entry.whole) || end == log.len() {
            if seen == count {
                return end;
            }
            seen += 1;
        }
        end = start;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: &str) {
        assert_eq!(String::from_utf8_lossy(&lines(Stream::Stdout, 0, bytes)), expected);
    }

    #[test]
    fn lines_are_whole_or_partial() {
        let time = "1970-01-01T00:00:00.000000000Z";
        check(b"", "");
        check(b"a\n", &format!("{time} stdout F a\n"));
        check(b"a\n\nb", &format!("{time} stdout F a\n{time} stdout F \n{time} stdout P b\n"));
    }

    #[test]
    fn what_is_written_is_read() {
        let written = lines(Stream::Stderr, 1_500_000_000, b"x  y \n");
        let entry = Entry::parse(written.strip_suffix(b"\n").expect("a line")).expect("an entry");
        assert_eq!(
            (entry.stream, entry.whole, entry.text, entry.moment()),
            (Stream::Stderr, true, &b"x  y "[..], 1_500_000_000)
        );
        for torn in [&b""[..], b"2024", b"2024 stdout", b"2024 stdout F", b"2024 nowhere F x", b"2024 stdout Q x"] {
            assert_eq!(Entry::parse(torn), None);
        }
    }

    #[test]
    fn tails_count_lines_of_output() {
        let mut log = lines(Stream::Stdout, 0, b"one\ntwo\n");
        log.extend(lines(Stream::Stdout, 0, b"thr"));
        log.extend(lines(Stream::Stdout, 0, b"ee\n"));
        let tail = |count| {
            let rest = &log[tail_start(&log, count)..];
            let texts: Vec<_> = rest.split(|b| *b == b'\n').filter_map(Entry::parse).map(|e| e.text.to_vec()).collect();
            String::from_utf8_lossy(&texts.join(&b'|')).into_owned()
        };
        assert_eq!(
            [tail(0), tail(1), tail(2), tail(3), tail(9)],
            ["", "thr|ee", "two|thr|ee", "one|two|thr|ee", "one|two|thr|ee"]
        );
    }
}
