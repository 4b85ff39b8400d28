//! JSON objects, one a line, in the form of BuildKit's `--progress=rawjson`: `vertexes` and `logs`.

use std::io::{Result, Write};
use std::time::{Duration, SystemTime};

use layerfs::digest::Digest;
use serde_json::json;

use super::{Display, End, Happening, Step, Stream};
use crate::time::rfc3339_nanos;

#[derive(Debug)]
pub(super) struct Raw;

impl Display for Raw {
    fn show(&mut self, out: &mut dyn Write, number: usize, step: &Step, what: &Happening<'_>) -> Result<()> {
        // A vertex is known by a digest; ours is of its number and title, the same in every line about it.
        let digest = Digest::of(format!("{number} {}", step.title).as_bytes()).to_string();
        let mut vertex = json!({"digest": digest, "name": step.title, "started": rfc3339_nanos(step.began)});
        let line = match what {
            Happening::Started => json!({"vertexes": [vertex]}),
            Happening::Line(stream, text) => {
                let stream = if *stream == Stream::Out { 1 } else { 2 };
                let now = rfc3339_nanos(SystemTime::now());
                json!({"logs": [{"vertex": digest, "stream": stream, "data": base64(format!("{text}\n").as_bytes()), "timestamp": now}]})
            }
            Happening::Ended(end, elapsed) => {
                vertex["completed"] = rfc3339_nanos(step.began + (*elapsed).max(Duration::ZERO)).into();
                match end {
                    End::Done => {}
                    End::Cached => vertex["cached"] = true.into(),
                    End::Failed(why) => vertex["error"] = why.as_str().into(),
                    End::Canceled => vertex["error"] = "canceled".into(),
                }
                json!({"vertexes": [vertex]})
            }
        };
        writeln!(out, "{line}")
    }

    fn note(&mut self, out: &mut dyn Write, text: &str) -> Result<()> {
        let warning = json!({"warnings": [{"level": 1, "short": base64(text.as_bytes())}]});
        writeln!(out, "{warning}")
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut group = 0_u32;
        for at in 0..3 {
            group = group << 8 | u32::from(chunk.get(at).copied().unwrap_or(0));
        }
        for at in 0..4 {
            let letter = LETTERS[(group >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_as_everybody_has_it() {
        for (text, expected) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }
}
