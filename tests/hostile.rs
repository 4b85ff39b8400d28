//! Layers made to do harm. Whatever an archive says, nothing outside its root changes; and what becomes of it is the
//! same for root and for the root of a user namespace.
//!
//! The table is in [`attacks`]. It runs in processes of its own, as both, so that their memory can be measured.

mod archive;
mod attacks;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use layerfs::archive::{Applied, ApplyOptions, Limits, apply, decompress};
use layerfs::error::{Kind, Result};
use layerfs::sys::fs::get_xattr;

use self::archive::Tar;
use self::attacks::{ATTACKS, Outcome};
use crate::harness::inside::is_inside;
use crate::harness::tree::{self, Times, Tree};

/// Most memory that such a process takes, with the test program itself, in kilobytes.
const MEMORY_MAX: u64 = 200 << 10;

fn assert_memory() {
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(kilobytes < MEMORY_MAX, "{kilobytes} kB");
}

/// A root four folders deep, and things beside it that must not change.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("1/2/3/root")).expect("folders");
        fs::write(at("outside"), "canary").expect("a file");
        fs::create_dir(at("outdir")).expect("a folder");
        fs::write(at("outdir/file"), "canary").expect("a file");
        fs::set_permissions(at("outdir/file"), PermissionsExt::from_mode(0o640)).expect("it is ours");
        Self { dir }
    }

    fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("1/2/3/root")
    }

    fn outdir(&self) -> std::path::PathBuf {
        self.dir.path().join("outdir")
    }

    fn apply(&self, bytes: impl BufRead, limits: Limits) -> Result<Applied> {
        let root = File::open(self.root()).expect("it was made");
        apply(bytes, root.as_fd(), &ApplyOptions { limits, ..ApplyOptions::default() })
    }

    /// Everything but what is inside the root, to the nanosecond, and how many names the files have.
    fn outside(&self) -> (Tree, u64) {
        let mut tree = tree::read(self.dir.path(), Times::Nanos);
        tree.retain(|path, _| !path.starts_with("1/2/3/root"));
        let links = |path: &str| fs::symlink_metadata(self.dir.path().join(path)).expect("the canary").nlink();
        (tree, links("outside") + links("outdir/file"))
    }
}

#[test]
fn every_attack_has_its_outcome_and_none_leaves_the_root() {
    if !is_inside("hostile::every_attack_has_its_outcome_and_none_leaves_the_root") {
        return;
    }
    let mut wrong = Vec::new();
    for attack in ATTACKS {
        let place = Place::new();
        let before = place.outside();
        let archive = (attack.tar)(&place.outdir().display().to_string());
        let result = place.apply(&archive.0[..], Limits::default());
        let mut note = |what: String| wrong.push(format!("{} ({}): {what}", attack.name, attack.seen));
        if place.outside() != before {
            note(format!("something outside changed: {}", tree::difference(&place.outside().0, &before.0)));
        }
        match (&result, attack.outcome) {
            (Err(error), Outcome::Refused(words)) if error.chain().contains(words) => {}
            (Ok(applied), Outcome::Applied(expected)) => {
                for (kind, path) in expected {
                    let found = match fs::symlink_metadata(place.root().join(path)) {
                        Err(_) if applied.links.iter().any(|(link, _)| link == path.as_bytes()) => 'h',
                        Err(_) => '-',
                        Ok(metadata) if metadata.is_dir() => 'd',
                        Ok(metadata) if metadata.is_symlink() => 'l',
                        Ok(_) => 'f',
                    };
                    if found != *kind {
                        note(format!("`{path}` is `{found}`, not `{kind}`"));
                    }
                }
            }
            (Err(error), _) => note(format!("refused: {}", error.chain())),
            (Ok(_), Outcome::Refused(words)) => note(format!("applied, not refused with `{words}`")),
        }
    }
    assert!(wrong.is_empty(), "{} of {}\n{}", wrong.len(), ATTACKS.len(), wrong.join("\n"));
    assert_memory();
}

#[test]
fn what_speaks_to_overlayfs_is_stored_so_that_it_says_nothing() {
    if !is_inside("hostile::what_speaks_to_overlayfs_is_stored_so_that_it_says_nothing") {
        return;
    }
    let place = Place::new();
    let attributes: [(&str, &[u8]); 3] = [
        ("SCHILY.xattr.user.overlay.redirect", b"/outdir"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("LIBARCHIVE.xattr.user.containers.override_stat", b"MDowOjQ3NTU"),
    ];
    let archive = Tar::default().pax(&attributes).dir("d").pax(&attributes).file("f", "x").put(b'3', "device", "");
    place.apply(&archive.0[..], Limits::default()).expect("it is harmless");
    for name in ["d", "f"] {
        let get = |key: &str| get_xattr(&place.root().join(name), key).expect("readable");
        assert_eq!(get("user.overlay.redirect"), None);
        assert_eq!(get("user.overlay.opaque"), None);
        assert_eq!(get("user.overlay.overlay.redirect").as_deref(), Some(&b"/outdir"[..]));
        assert_eq!(get("user.containers.override_stat"), None);
    }
    let note = get_xattr(&place.root().join("device"), "user.containers.override_stat").expect("readable");
    assert_eq!(note.as_deref(), Some(&b"0:0:777:char-0-0"[..]), "recorded, and no whiteout");
}

/// Somebody with the same rights swaps a folder of the root for a symlink, again and again, while it is filled
/// (CVE-2018-15664, CVE-2021-30465). Who wins a round is luck; that nothing outside changes is not.
#[test]
fn a_symlink_swapped_in_meanwhile_leads_nowhere() {
    if !is_inside("hostile::a_symlink_swapped_in_meanwhile_leads_nowhere") {
        return;
    }
    let mut archive = Tar::default().dir("d").dir("e");
    for n in 0..1500 {
        // From one folder to the other, so that each is opened again each time.
        archive = match n % 6 {
            0 => archive.file(&format!("d/file{n}"), "evil"),
            1 => archive.file(&format!("e/file{n}"), "evil"),
            2 => archive.put(b'6', &format!("d/fifo{n}"), ""),
            3 => archive.file(&format!("e/.wh.file{n}"), ""),
            4 => archive.dir(&format!("d/sub{n}")).hardlink(&format!("e/link{n}"), "d/file"),
            _ => archive.symlink(&format!("d/link{n}"), "file").file("d/.wh.file", ""),
        };
    }
    for _ in 0..8 {
        let place = Place::new();
        let root = place.root();
        symlink(place.outdir(), root.join("swap")).expect("a symlink");
        let before = place.outside();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                while !done.load(Ordering::Relaxed) {
                    let cwd = rustix::fs::CWD;
                    let _not_there_yet =
                        rustix::fs::renameat_with(cwd, root.join("swap"), cwd, root.join("d"), exchange);
                }
            });
            let _who_won = place.apply(&archive.0[..], Limits::default());
            done.store(true, Ordering::Relaxed);
        });
        let difference = tree::difference(&place.outside().0, &before.0);
        assert!(difference.is_empty(), "{difference}");
        assert_eq!(place.outside().1, before.1, "nobody made another name of a file outside");
    }
}

/// Ten gigabytes from ten megabytes (the "42.zip" of layers; CVE-2023-25153 is its kin).
#[test]
fn an_archive_that_grows_without_end_is_refused_by_its_limit() {
    if !is_inside("hostile::an_archive_that_grows_without_end_is_refused_by_its_limit") {
        return;
    }
    let million = compressed(&[0; 1 << 20]);
    let bomb = |times: u64| std::iter::repeat_n(&million[..], times as usize).map(<[u8]>::to_vec);
    let packed = bomb(10 << 10).map(|member| member.len() as u64).sum::<u64>();
    assert!((8 << 20..12 << 20).contains(&packed), "{packed}");
    // Nothing but zeros: an empty archive, and what follows it.
    let place = Place::new();
    let reader = decompress(Members::new(bomb(10 << 10))).expect("gzip");
    let error = place.apply(reader, Limits::default().for_blob(packed)).expect_err("too much");
    assert_eq!(error.kind(), Kind::Limit);
    assert!(error.chain().contains("limit `bytes`"), "{}", error.chain());
    // A file of as many: what was written by then is no more than the limit.
    let limits = Limits { bytes: 64 << 20, ..Limits::default() };
    let header = compressed(&Tar::default().raw(b'0', b"f", b"", 7 << 30, b"").0);
    let reader = decompress(Members::new(std::iter::once(header).chain(bomb(7 << 10)))).expect("gzip");
    let error = place.apply(reader, limits).expect_err("too much");
    assert!(error.chain().contains("limit `bytes`"), "{}", error.chain());
    assert!(fs::metadata(place.root().join("f")).expect("a part of it").len() <= 64 << 20);
    assert_memory();
}

/// What is repeated, how many times, and the entries of each time.
type Shape = (&'static str, usize, fn(usize) -> Tar);

/// Many entries take time and memory in proportion: each of these shapes was quadratic somewhere.
#[test]
fn a_great_many_entries_take_bounded_time_and_memory() {
    if !is_inside("hostile::a_great_many_entries_take_bounded_time_and_memory") {
        return;
    }
    let soak = std::env::var_os("LAYERFS_SOAK").is_some();
    let many = if soak { 1_000_000 } else { 10_000 };

    let shapes: [Shape; 5] = [
        ("one file again and again", many, |_| Tar::default().file("f", "")),
        ("a file and a folder in turn", many / 10, |n| {
            Tar::default().put(if n % 2 == 0 { b'5' } else { b'0' }, "x", "")
        }),
        ("folders that are opaque and full of whiteouts", many / 5, |n| {
            Tar::default().file(&format!("{n}/.wh.f"), "").file(&format!("{n}/.wh..wh..opq"), "")
        }),
        ("links to what is nowhere", many / 2, |n| Tar::default().hardlink(&format!("l{n}"), "nowhere")),
        ("names of another tool", many, |_| Tar::default().file(".wh..wh.x", "")),
    ];
    for (name, times, entry) in shapes {
        let place = Place::new();
        let entries = (0..times).map(entry).map(|tar| tar.0);
        let limits = Limits { entries: 2 * times as u64, ..Limits::default() };
        let applied = place
            .apply(BufReader::new(Members::new(entries)), limits)
            .unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert!(applied.entries >= times as u64, "{name}");
    }
    let place = Place::new();
    let entries = (0..).map(|_| Tar::default().file("f", "").0);
    let limits = Limits { entries: 1000, ..Limits::default() };
    let error = place.apply(BufReader::new(Members::new(entries)), limits).expect_err("no end");
    assert!(error.chain().contains("limit `entries` of 1000"), "{}", error.chain());
    let folders = (0..).map(|n| Tar::default().dir(&format!("{n}")).0);
    let limits = Limits { memory: 100_000, ..Limits::default() };
    let error = place.apply(BufReader::new(Members::new(folders)), limits).expect_err("no end");
    assert!(error.chain().contains("limit `memory` of 100000"), "{}", error.chain());
    assert_memory();
}

/// Pieces read one after the other, each made when its turn comes.
struct Members<I> {
    pieces: I,
    current: Vec<u8>,
    at: usize,
}

impl<I: Iterator<Item = Vec<u8>>> Members<I> {
    fn new(pieces: I) -> Self {
        Self { pieces, current: Vec::new(), at: 0 }
    }
}

impl<I: Iterator<Item = Vec<u8>>> Read for Members<I> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.at == self.current.len() {
            let Some(next) = self.pieces.next() else { return Ok(0) };
            (self.current, self.at) = (next, 0);
        }
        let size = buffer.len().min(self.current.len() - self.at);
        buffer[..size].copy_from_slice(&self.current[self.at..self.at + size]);
        self.at += size;
        Ok(size)
    }
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut packer = layerfs::archive::Compressor::new(Vec::new(), layerfs::archive::Compression::GZIP).expect("gzip");
    packer.write_all(bytes).expect("a Vec takes every byte");
    packer.finish().expect("a Vec takes every byte")
}

/// A tool that reads files of an image as root reads no more than it wants, and nothing but files (CVE-2024-9676).
#[test]
fn a_pipe_or_a_symlink_in_the_place_of_a_file_of_users_is_not_read() {
    let place = Place::new();
    let outside = place.dir.path().join("outside").display().to_string();
    let archive = Tar::default().put(b'6', "pipe", "").symlink("l", &outside).file("big", "12345");
    place.apply(&archive.0[..], Limits::default()).expect("it is harmless");
    let view = layerfs::layer::MergedView::new(&[place.root()]);
    let read = |path: &str| view.read(Path::new(path), 4);
    assert!(read("pipe").expect_err("a pipe").chain().contains("is not a regular file"));
    assert_eq!(read("l").expect("nothing"), None, "the image's own root is meant");
    assert_eq!(read("big").expect_err("five bytes").kind(), Kind::Limit);
}
