//! Digests and encodings.

use std::fmt::Write;
use std::io::Read;

use sha2::Digest;

use super::super::value::Value;
use super::{Answer, text_of};
use crate::dockerfile::Fault;

fn hex(bytes: impl AsRef<[u8]>) -> Value {
    let mut text = String::new();
    for byte in bytes.as_ref() {
        let _ = write!(text, "{byte:02x}");
    }
    Value::String(text)
}

pub(super) fn md5(arguments: &[Value]) -> Answer {
    Ok(hex(md5::Md5::digest(text_of(arguments, 0)?)))
}

pub(super) fn sha1(arguments: &[Value]) -> Answer {
    Ok(hex(sha1::Sha1::digest(text_of(arguments, 0)?)))
}

pub(super) fn sha256(arguments: &[Value]) -> Answer {
    Ok(hex(sha2::Sha256::digest(text_of(arguments, 0)?)))
}

pub(super) fn sha512(arguments: &[Value]) -> Answer {
    Ok(hex(sha2::Sha512::digest(text_of(arguments, 0)?)))
}

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub(super) fn base64encode(arguments: &[Value]) -> Answer {
    let text = text_of(arguments, 0)?;
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * at)) as usize & 63];
            out.push(if at <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    Ok(Value::String(out))
}

pub(super) fn base64decode(arguments: &[Value]) -> Answer {
    let text = text_of(arguments, 0)?;
    let bad = || Fault::new("this is not base64");
    if text.len() % 4 != 0 {
        return Err(bad());
    }
    let (mut out, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for letter in text.trim_end_matches('=').bytes() {
        let value = LETTERS.iter().position(|known| *known == letter).ok_or_else(bad)?;
        bits = bits << 6 | u32::try_from(value).unwrap_or(0);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    String::from_utf8(out).map(Value::String).map_err(|_| Fault::new("what it says is not text"))
}

/// As in the query of an address: a space is `+`.
pub(super) fn urlencode(arguments: &[Value]) -> Answer {
    let mut out = String::new();
    for byte in text_of(arguments, 0)?.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            other => {
                let _ = write!(out, "%{other:02X}");
            }
        }
    }
    Ok(Value::String(out))
}

fn uuid(mut bytes: [u8; 16], version: u8) -> Value {
    bytes[6] = bytes[6] & 0x0f | version << 4;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let Value::String(text) = hex(bytes) else { return Value::Null };
    Value::String(format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]))
}

pub(super) fn uuidv4(_: &[Value]) -> Answer {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|error| Fault::new(format!("there is no randomness to be had: {error}")))?;
    Ok(uuid(bytes, 4))
}

pub(super) fn uuidv5(arguments: &[Value]) -> Answer {
    let space = text_of(arguments, 0)?;
    // The four name spaces of RFC 4122 differ in one digit.
    let space = match space.as_str() {
        "dns" | "url" | "oid" | "x500" => {
            let digit = match space.as_str() {
                "dns" => 0,
                "url" => 1,
                "oid" => 2,
                _ => 4,
            };
            format!("6ba7b81{digit}-9dad-11d1-80b4-00c04fd430c8")
        }
        _ => space,
    };
    let digits: String = space.chars().filter(|c| *c != '-').collect();
    let number = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32);
    let number = number.ok_or_else(|| Fault::new(format!("`{space}` is not a UUID, nor dns, url, oid or x500")))?;
    let mut hash = sha1::Sha1::new();
    hash.update(number.to_be_bytes());
    hash.update(text_of(arguments, 1)?);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    Ok(uuid(bytes, 5))
}
