//! A layer in chunks, read back.

use std::collections::BTreeMap;

use serde_json::Value;

use super::*;
use crate::archive::decompress;
use crate::digest::Digest;

fn archive() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |path: &str, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        builder.append_data(&mut header, path, content).expect("appended");
    };
    let noise: Vec<u8> = (0..12_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    add("empty", b"");
    add("small", b"hello");
    add("large", &noise);
    add("zeros", &[&noise[..5000], &[0; 3_000_000], &noise[..5000]].concat());
    add(&format!("{}/long", "x".repeat(120)), b"behind a long name");
    builder.into_inner().expect("finished")
}

fn pack(archive: &[u8]) -> Chunked<Vec<u8>> {
    write_chunked(archive, Vec::new(), 3, &Limits::default()).expect("written")
}

fn unpacked(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    decompress(bytes).expect("recognised").read_to_end(&mut plain).expect("intact");
    plain
}

/// What an annotation points to: bytes of the blob.
fn part<'a>(packed: &'a Chunked<Vec<u8>>, key: &str) -> &'a [u8] {
    let annotations: BTreeMap<_, _> = packed.annotations.iter().flatten().cloned().collect();
    let text = &annotations[&format!("io.github.containers.zstd-chunked.{key}")];
    let numbers: Vec<usize> = text.split(':').map(|number| number.parse().expect("a number")).collect();
    &packed.out[numbers[0]..][..numbers[1]]
}

#[test]
fn every_chunk_is_where_the_table_says() {
    let archive = archive();
    let packed = pack(&archive);
    assert_eq!(unpacked(&packed.out), archive);
    let contents = part(&packed, "manifest-position");
    let annotations: BTreeMap<_, _> = packed.annotations.iter().flatten().cloned().collect();
    assert_eq!(annotations["io.github.containers.zstd-chunked.manifest-checksum"], Digest::of(contents).to_string());
    let table: Value = serde_json::from_slice(&unpacked(contents)).expect("a table");
    assert_eq!(table["tarSplitDigest"], Digest::of(part(&packed, "tarsplit-position")).to_string());
    let entries = table["entries"].as_array().expect("a list");
    let number = |entry: &Value, key: &str| entry[key].as_u64().unwrap_or(0) as usize;
    let (mut files, mut zeros) = (BTreeMap::<String, Vec<u8>>::new(), 0);
    for (place, entry) in entries.iter().enumerate() {
        let name = entry["name"].as_str().expect("a name").to_owned();
        let next = entries.get(place + 1).filter(|next| next["type"] == "chunk");
        let end = match next {
            Some(next) => number(next, "offset"),
            None => {
                let file = entries[..=place].iter().rev().find(|entry| entry["type"] == "reg").expect("a file");
                number(file, "endOffset")
            }
        };
        let content = unpacked(&packed.out[number(entry, "offset")..end]);
        if let Some(digest) = entry["chunkDigest"].as_str() {
            assert_eq!(
                (Digest::of(&content).to_string().as_str(), content.len()),
                (digest, number(entry, "chunkSize"))
            );
        }
        zeros += usize::from(entry["chunkType"] == "zeros");
        files.entry(name).or_default().extend(content);
    }
    assert_eq!(zeros, 3);
    for entry in entries.iter().filter(|entry| entry["type"] == "reg" && number(entry, "size") > 0) {
        let content = &files[entry["name"].as_str().expect("a name")];
        assert_eq!(entry["digest"], Digest::of(content).to_string());
        assert_eq!(number(entry, "size"), content.len());
        assert_eq!(entry["modtime"], "2023-11-14T22:13:20Z");
    }
    // The archive is made again of the bytes between the files, and of the files.
    let mut again = Vec::new();
    for line in
        unpacked(part(&packed, "tarsplit-position")).split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
    {
        let line: Value = serde_json::from_slice(line).expect("a line");
        match line["type"].as_u64() {
            Some(1) if line["size"].is_u64() => again.extend(&files[line["name"].as_str().expect("a name")]),
            Some(1) => {}
            _ => again.extend(from_base64(line["payload"].as_str().expect("bytes"))),
        }
    }
    assert_eq!(again, archive);
}

fn from_base64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'=').map(value).collect();
    let join = |four: &[u8]| {
        let bits = four.iter().fold(0u32, |bits, digit| bits << 6 | u32::from(*digit)) << (6 * (4 - four.len()));
        bits.to_be_bytes()[1..four.len()].to_vec()
    };
    digits.chunks(4).flat_map(join).collect()
}

#[test]
fn the_bytes_do_not_depend_on_threads_and_pieces() {
    struct Drops<'a>(&'a [u8]);
    impl Read for Drops<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let size = buffer.len().min(777);
            self.0.read(&mut buffer[..size])
        }
    }
    let archive = archive();
    let packed = pack(&archive).out;
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool");
    let other = one.install(|| write_chunked(Drops(&archive), Vec::new(), 3, &Limits::default()).expect("written").out);
    assert!(packed == other);
}

#[test]
fn what_readers_differ_about_gets_no_table() {
    let check = |change: &dyn Fn(&mut tar::Builder<Vec<u8>>)| {
        let mut builder = tar::Builder::new(Vec::new());
        change(&mut builder);
        let archive = builder.into_inner().expect("finished");
        let packed = pack(&archive);
        assert!(packed.annotations.is_none());
        assert_eq!(unpacked(&packed.out), archive);
    };
    let file = |builder: &mut tar::Builder<Vec<u8>>, path: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        builder.append_data(&mut header, path, &b"abc"[..]).expect("appended");
    };
    check(&|builder| {
        file(builder, "twice");
        file(builder, "./twice");
    });
    check(&|builder| {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_entry_type(tar::EntryType::XGlobalHeader);
        builder.append_data(&mut header, "pax_global_header", &b""[..]).expect("appended");
        file(builder, "a");
    });
    check(&|builder| {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.as_gnu_mut().expect("gnu").set_atime(5);
        builder.append_data(&mut header, "a", &b""[..]).expect("appended");
    });
    let empty = pack(&[0; 1024]);
    assert!(empty.annotations.is_some());
    assert_eq!(unpacked(&empty.out), [0; 1024]);
}

#[test]
fn a_cut_archive_is_an_error() {
    let archive = archive();
    let cut = write_chunked(&archive[..5_000_000], Vec::new(), 3, &Limits::default());
    assert_eq!(cut.expect_err("cut").kind(), Kind::Corrupt);
    assert_eq!(write_chunked(&archive[..], Vec::new(), 0, &Limits::default()).expect_err("level").kind(), Kind::Usage);
}
