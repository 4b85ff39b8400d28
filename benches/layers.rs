//! The layer engine by parts: hashing, decoding, reading, writing, applying, walking, compressing. Bytes per second of the plain tar.
//!
//! The data is made here and is the same on every machine: folders of small text files and a few large ones, which
//! compress about as a system's own files do.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use layerfs::archive::read::{Entry, TarReader};
use layerfs::archive::{
    ApplyOptions, Compression, Compressor, DiffOptions, Limits, TarWriter, apply, decompress, diff,
};
use layerfs::digest::Digest;

/// A layer of about 24 MB: 3,000 files in 100 folders.
fn layer() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut noise = 0x2545_f491_u32;
    let mut word = || {
        noise ^= noise << 13;
        noise ^= noise >> 17;
        noise ^= noise << 5;
        // One word in four is new, the others repeat: gzip takes this to a third.
        if noise.is_multiple_of(4) { noise } else { noise % 512 }
    };
    let mut append = |path: &str, kind: tar::EntryType, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(if kind == tar::EntryType::Directory { 0o755 } else { 0o644 });
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, path, content).expect("a Vec takes every byte");
    };
    for folder in 0..100 {
        append(&format!("usr/share/{folder}/"), tar::EntryType::Directory, &[]);
        for file in 0..30 {
            let size = if file == 0 { 60_000 } else { 1_500 };
            let content: Vec<u8> = (0..size).flat_map(|_| word().to_le_bytes()).take(size).collect();
            append(&format!("usr/share/{folder}/file-{file}"), tar::EntryType::Regular, &content.repeat(3));
        }
    }
    archive.into_inner().expect("a Vec takes every byte")
}

fn compressed(tar: &[u8], compression: Compression) -> Vec<u8> {
    let mut compressor = Compressor::new(Vec::new(), compression).expect("a known level");
    compressor.write_all(tar).expect("a Vec takes every byte");
    compressor.finish().expect("a Vec takes every byte")
}

/// Every member with its content.
fn entries(tar: &[u8]) -> Vec<(Entry, Vec<u8>)> {
    let mut reader = TarReader::new(tar, &Limits::default());
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry().expect("we wrote it") {
        let mut content = Vec::new();
        loop {
            match reader.chunk(u64::MAX).expect("we wrote it") {
                [] => break,
                piece => content.extend_from_slice(piece),
            }
        }
        entries.push((entry, content));
    }
    entries
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn layers(criterion: &mut Criterion) {
    let tar = layer();
    let mut group = criterion.benchmark_group("layers");
    group.throughput(Throughput::Bytes(tar.len() as u64)).sample_size(20);
    group.bench_function("hash", |bench| bench.iter(|| Digest::of(black_box(&tar))));
    for (name, compression) in [("gzip", Compression::GZIP), ("zstd", Compression::ZSTD)] {
        let blob = compressed(&tar, compression);
        group.bench_function(format!("decode {name}"), |bench| {
            bench.iter(|| {
                let mut reader = decompress(blob.as_slice()).expect("we wrote it");
                io::copy(&mut reader.by_ref(), &mut io::sink()).expect("we wrote it")
            });
        });
        group.bench_function(format!("encode {name}"), |bench| bench.iter(|| compressed(&tar, compression)));
    }
    let entries = entries(&tar);
    group.bench_function("read", |bench| bench.iter(|| self::entries(black_box(&tar)).len()));
    group.bench_function("write", |bench| {
        bench.iter(|| {
            let mut writer = TarWriter::new(io::sink());
            for (entry, content) in &entries {
                writer.append_file(entry, content.as_slice()).expect("we read it");
            }
            writer.finish().expect("a sink takes every byte")
        });
    });
    group.bench_function("apply", |bench| {
        bench.iter_batched(
            folder,
            |dir| {
                let root = File::open(dir.path()).expect("it is there");
                apply(tar.as_slice(), root.as_fd(), &ApplyOptions::default()).expect("we wrote it");
                // Removing the tree is not part of the measurement.
                dir
            },
            BatchSize::PerIteration,
        );
    });
    let dir = folder();
    let root = File::open(dir.path()).expect("it is there");
    apply(tar.as_slice(), root.as_fd(), &ApplyOptions::default()).expect("we wrote it");
    group.bench_function("diff", |bench| {
        bench.iter(|| diff(dir.path(), io::sink(), &DiffOptions::default()).expect("an ordinary tree"));
    });
    group.finish();
}

criterion_group!(benches, layers);
criterion_main!(benches);
