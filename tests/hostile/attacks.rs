//! The table of attacks: what each archive is, where it was seen, and what becomes of it here.

use super::archive::Tar;

/// What becomes of an archive, besides that nothing outside changes.
#[derive(Clone, Copy)]
pub(super) enum Outcome {
    /// An error that says this.
    Refused(&'static str),
    /// It is applied, and these are in the root: `d` a folder, `f` a file, `l` a symlink, `h` a link left to lower
    /// layers, `-` nothing.
    Applied(&'static [(char, &'static str)]),
}

pub(super) struct Attack {
    pub(super) name: &'static str,
    /// Advisories and issues of this kind.
    pub(super) seen: &'static str,
    /// The archive; its argument is the folder outside, an absolute path.
    pub(super) tar: fn(&str) -> Tar,
    pub(super) outcome: Outcome,
}

fn tar() -> Tar {
    Tar::default()
}

const fn attack(name: &'static str, seen: &'static str, tar: fn(&str) -> Tar, outcome: Outcome) -> Attack {
    Attack { name, seen, tar, outcome }
}

use Outcome::{Applied, Refused};

pub(super) const ATTACKS: &[Attack] = &[
    // Names.
    attack(
        "a path that climbs",
        "CVE-2007-4559, CVE-2014-9357, CVE-2024-24579, CVE-2025-59825",
        |_| tar().file("../../../../outside", "evil"),
        Refused("leads out of the layer"),
    ),
    attack(
        "a path that climbs after going down",
        "CVE-2001-1267",
        |_| tar().file("a/../../outside", "evil"),
        Refused("leads out of the layer"),
    ),
    attack(
        "an absolute path",
        "CVE-2021-32804, CVE-2014-9358",
        |out| tar().file(&format!("{out}/file"), "evil"),
        Applied(&[]),
    ),
    attack(
        "an absolute path of many slashes",
        "CVE-2021-32804",
        |_| tar().file("////f", "mine"),
        Applied(&[('f', "f")]),
    ),
    attack(
        "a name with a NUL byte",
        "CVE-2016-6321",
        |_| tar().pax(&[("path", b"f\0/../../outside")]).file("f", "x"),
        Refused("NUL byte"),
    ),
    attack(
        "a link target with a NUL byte",
        "CVE-2016-6321",
        |_| tar().pax(&[("linkpath", b"f\0x")]).symlink("l", "f"),
        Refused("NUL byte"),
    ),
    attack(
        "a name with a newline and an escape sequence",
        "CVE-2019-8320",
        |_| tar().file("a\nb\x1b[2J", "x"),
        Applied(&[('f', "a\nb\x1b[2J")]),
    ),
    attack(
        "a name that is not UTF-8",
        "opencontainers/umoci#436",
        |_| tar().raw(b'0', b"\xff\xfe", b"", 0, b""),
        Applied(&[]),
    ),
    attack("an empty name", "golang/go#24599", |_| tar().dir(""), Applied(&[])),
    attack(
        "the root as a symlink",
        "CVE-2021-29136",
        |out| tar().symlink(".", out).file("file", "evil"),
        Refused("only a folder can be the root"),
    ),
    attack("the root as a file", "CVE-2021-29136", |_| tar().file("./", "evil").file("x", "y"), Applied(&[('f', "x")])),
    // Symlinks on the way.
    attack(
        "a file through an absolute symlink",
        "CVE-2014-9356, CVE-2018-20990, CVE-2021-37701",
        |out| tar().symlink("l", out).file("l/file", "evil"),
        Applied(&[('l', "l")]),
    ),
    attack(
        "a file through a relative symlink",
        "CVE-2014-9356, CVE-2025-4330",
        |_| tar().symlink("l", "../../../../outdir").file("l/file", "evil"),
        Applied(&[('f', "outdir/file")]),
    ),
    attack(
        "a file through a chain of symlinks",
        "CVE-2025-4517, CVE-2026-26960",
        |out| tar().symlink("a", "b").symlink("b", "c").symlink("c", out).file("a/file", "evil"),
        Applied(&[('l', "a")]),
    ),
    attack(
        "a symlink that is written to",
        "CVE-2018-20990, RUSTSEC-2018-0002",
        |out| tar().symlink("l", &format!("{out}/file")).file("l", "evil"),
        Applied(&[('f', "l")]),
    ),
    attack(
        "a folder over a symlink",
        "CVE-2026-33056, GHSA-xx64-wwv2-hcqq, RUSTSEC-2021-0080",
        |out| tar().symlink("d", out).dir("d").dir("d/."),
        Applied(&[('d', "d")]),
    ),
    attack(
        "a folder through a symlink",
        "CVE-2021-38511",
        |out| tar().symlink("l", out).dir("l/new"),
        Applied(&[('l', "l")]),
    ),
    attack(
        "a folder, then a symlink, then a file",
        "CVE-2021-32803, CVE-2021-37712",
        |out| tar().dir("d").file("d/a", "1").symlink("d", out).file("d/file", "evil"),
        Applied(&[('l', "d")]),
    ),
    attack(
        "a symlink in a circle",
        "CVE-2021-3155",
        |_| tar().symlink("a", "b").symlink("b", "a").file("a/f", "x"),
        Refused("too many symlinks"),
    ),
    attack(
        "a symlink to /proc/self",
        "CVE-2019-5736",
        |_| tar().symlink("p", "/proc/self/cwd").file("p/f", "evil"),
        Applied(&[('f', "proc/self/cwd/f")]),
    ),
    attack(
        "a symlink of another name in Unicode",
        "CVE-2021-37712, CVE-2026-23950",
        |out| tar().symlink("caf\u{e9}", out).file("cafe\u{301}/file", "evil"),
        Applied(&[('l', "caf\u{e9}"), ('f', "cafe\u{301}/file")]),
    ),
    // Hard links.
    attack(
        "a hard link to outside, climbing",
        "CVE-2016-5418, CVE-2026-24842",
        |_| tar().hardlink("h", "../../../../outside").file("h", "evil"),
        Refused("leads out of the layer"),
    ),
    attack(
        "a hard link to outside, absolute",
        "CVE-2026-23745, CVE-2014-9356",
        |out| tar().hardlink("h", &format!("{out}/file")).file("h", "evil"),
        Applied(&[('f', "h")]),
    ),
    attack(
        "a hard link through a symlink",
        "CVE-2026-50163, CVE-2026-26960, CVE-2025-45582",
        |out| tar().symlink("l", out).hardlink("h", "l/file"),
        Applied(&[('l', "l"), ('h', "h")]),
    ),
    attack(
        "a hard link to a symlink, then changed",
        "CVE-2021-32760",
        |out| tar().symlink("l", &format!("{out}/file")).hardlink("h", "l").put(b'1', "l", "h").file("h", "evil"),
        Applied(&[('l', "l"), ('f', "h")]),
    ),
    attack(
        "a hard link with content",
        "CVE-2016-5418",
        |out| tar().symlink("l", &format!("{out}/file")).raw(b'1', b"h", b"l", 512, b"").file("after", "x"),
        Applied(&[('l', "h"), ('f', "after")]),
    ),
    attack(
        "a hard link to the root",
        "CVE-2015-3627",
        |_| tar().hardlink("h", "/"),
        Refused("cannot point to the root"),
    ),
    attack(
        "a hard link to a folder",
        "CVE-2015-3627",
        |_| tar().dir("d").hardlink("h", "d"),
        Refused("which is a folder"),
    ),
    attack(
        "a hard link to what the layer removes",
        "moby/moby#20240",
        |_| tar().file(".wh.f", "").hardlink("h", "f"),
        Refused("which this layer removes"),
    ),
    attack(
        "a file inside a link to a lower layer",
        "CVE-2018-15664",
        |_| tar().hardlink("h", "below").file("h/in", "x"),
        Refused("is a file and cannot hold others"),
    ),
    // Whiteouts.
    attack(
        "a whiteout of the folder itself",
        "CVE-2014-6407",
        |_| tar().file(".wh..", ""),
        Refused("whiteout of no file"),
    ),
    attack("a whiteout of the parent", "CVE-2014-6407", |_| tar().file("d/.wh...", ""), Refused("whiteout of no file")),
    attack(
        "a whiteout of nothing",
        "opencontainers/image-spec layer.md",
        |_| tar().file(".wh.", ""),
        Refused("whiteout of no file"),
    ),
    attack(
        "a whiteout through a symlink",
        "CVE-2018-15664",
        |out| tar().symlink("l", out).file("l/.wh.file", ""),
        Applied(&[('l', "l")]),
    ),
    attack(
        "an opaque mark through a symlink",
        "CVE-2018-15664",
        |out| tar().symlink("l", out).file("l/.wh..wh..opq", ""),
        Applied(&[('l', "l")]),
    ),
    attack(
        "a folder with the name of a whiteout",
        "moby/moby#9140",
        |_| tar().file(".wh.d/f", "x"),
        Refused("is the name of a whiteout"),
    ),
    attack(
        "a symlink into the name of a whiteout",
        "moby/moby#9140",
        |_| tar().symlink("l", ".wh.d").file("l/f", "x"),
        Refused("the name of a whiteout"),
    ),
    attack(
        "the links of another storage driver",
        "moby/moby#9140",
        |out| tar().hardlink(".wh..wh.plnk/1", &format!("{out}/file")).file(".wh..wh.aufs", "x"),
        Applied(&[('-', ".wh..wh.plnk"), ('-', ".wh..wh.aufs")]),
    ),
    // What readers disagree on.
    attack(
        "PAX size bigger than the header's",
        "CVE-2025-62518, GHSA-j5gw-2vrg-8fgx, CVE-2026-33055",
        |_| tar().pax(&[("size", b"1024")]).raw(b'0', b"f", b"", 0, &Tar::inner("smuggled")),
        Applied(&[('f', "f"), ('-', "smuggled")]),
    ),
    attack(
        "PAX size smaller than the header's",
        "CVE-2026-33055, GHSA-gchp-q4r4-x4ff",
        |_| tar().pax(&[("size", b"0")]).raw(b'0', b"f", b"", 1024, &Tar::inner("shown")),
        Applied(&[('f', "f"), ('f', "shown")]),
    ),
    attack(
        "PAX size before a long name",
        "GHSA-3pv8-6f4r-ffg2, GHSA-3cv2-h65g-fgmm",
        |_| {
            tar().pax(&[("size", b"1024")]).raw(b'L', b"././@LongLink", b"", 2, b"f\0").raw(
                b'0',
                b"x",
                b"",
                0,
                &Tar::inner("smuggled"),
            )
        },
        Applied(&[('f', "f"), ('-', "smuggled")]),
    ),
    attack(
        "a PAX size that is no number",
        "RUSTSEC-2026-0112, GHSA-fp55-jw48-c537",
        |_| tar().pax(&[("size", b"1024x")]).raw(b'0', b"f", b"", 0, &Tar::inner("smuggled")),
        Refused("malformed PAX size"),
    ),
    attack(
        "a PAX record of a wrong length",
        "GHSA-fp55-jw48-c537",
        |_| tar().raw(b'x', b"x", b"", 9, b"99 size=1").file("f", "x"),
        Refused("malformed PAX record"),
    ),
    attack(
        "a folder with content",
        "CVE-2025-62518",
        |_| tar().raw(b'5', b"d", b"", 1024, &Tar::inner("shown")),
        Applied(&[('d', "d"), ('f', "shown")]),
    ),
    attack(
        "a folder by its slash, with content",
        "CVE-2025-62518",
        |_| tar().raw(b'0', b"d/", b"", 1024, &Tar::inner("smuggled")),
        Applied(&[('d', "d"), ('-', "smuggled")]),
    ),
    attack(
        "a block of zeros in the middle",
        "CVE-2025-62518",
        |_| tar().file("f", "x").content(&[0; 512]).file("hidden", "x"),
        Refused("zeros in the middle"),
    ),
    attack(
        "two extended headers for one entry",
        "RUSTSEC-2026-0112",
        |_| tar().pax(&[("path", b"a")]).pax(&[("path", b"b")]).file("c", "x"),
        Refused("two extended headers"),
    ),
    attack(
        "an extended header at the end",
        "CVE-2022-2879",
        |_| tar().pax(&[("path", b"a")]),
        Refused("extends nothing"),
    ),
    attack(
        "a wrong checksum",
        "CVE-2025-62518",
        |_| {
            let mut tar = tar().file("f", "x");
            tar.0[0] = b'g';
            tar
        },
        Refused("checksum"),
    ),
    attack(
        "a size in binary that overflows",
        "CVE-2022-48303, CVE-2023-39804",
        |_| {
            tar().bent(b'0', "f", 0, |block| {
                block[124..136].copy_from_slice(b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
            })
        },
        Refused("no number"),
    ),
    attack(
        "a negative size",
        "CVE-2022-48303",
        |_| tar().bent(b'0', "f", 0, |block| block[124..136].fill(0xff)),
        Refused("negative size"),
    ),
    attack(
        "a size beyond the end",
        "CVE-2022-2879",
        |_| tar().raw(b'0', b"f", b"", 1 << 32, b"short"),
        Refused("in the middle of an entry"),
    ),
    attack("a part of another volume", "libarchive#1066", |_| tar().raw(b'M', b"f", b"", 0, b""), Refused("type `M`")),
    // Sparse files.
    attack(
        "a sparse map that goes back",
        "CVE-2018-20482",
        |_| sparse(&[("GNU.sparse.map", b"512,512,0,512"), ("GNU.sparse.size", b"1024")], 1024),
        Refused("does not fit its file"),
    ),
    attack(
        "a sparse map that overflows",
        "CVE-2018-20482",
        |_| sparse(&[("GNU.sparse.map", b"18446744073709551615,512"), ("GNU.sparse.size", b"9")], 512),
        Refused("does not fit its file"),
    ),
    attack(
        "a sparse map of more than the content",
        "CVE-2018-20482",
        |_| sparse(&[("GNU.sparse.map", b"0,4096"), ("GNU.sparse.size", b"4096")], 512),
        Refused("sparse map of 4096 bytes for 512"),
    ),
    attack(
        "a sparse map of a million million runs",
        "CVE-2025-58183",
        |_| sparse(&V1_0, 512).content(b"1000000000000\n0\n"),
        Refused("malformed sparse map"),
    ),
    attack(
        "a sparse map without a newline",
        "CVE-2025-58183",
        |_| sparse(&V1_0, 1 << 20).content(&[b'1'; 4096]),
        Refused("malformed sparse map"),
    ),
    attack(
        "an old sparse header without end",
        "CVE-2025-58183, CVE-2018-20482",
        |_| {
            let more = |block: &mut [u8; 512]| {
                block[257..265].copy_from_slice(b"ustar  \0");
                block[482] = 1;
            };
            let mut endless = [0; 512];
            endless[504] = 1;
            tar().bent(b'S', "f", 0, more).content(&endless.repeat(4096))
        },
        Refused("limit `metadata`"),
    ),
    // Too much.
    attack(
        "a path of ten thousand folders",
        "CVE-2024-28863",
        |_| tar().pax(&[("path", "d/".repeat(10_000).as_bytes())]).file("f", "x"),
        Refused("limit `path`"),
    ),
    attack(
        "a thousand folders",
        "CVE-2024-28863",
        |_| tar().pax(&[("path", "d/".repeat(1_000).as_bytes())]).file("f", "x"),
        Refused("limit `depth`"),
    ),
    attack(
        "folders made deep by a symlink",
        "CVE-2024-28863",
        |_| {
            let deep = "d/".repeat(400);
            tar()
                .pax(&[("path", deep.as_bytes())])
                .file("f", "x")
                .pax(&[("linkpath", deep.as_bytes())])
                .symlink("s", "x")
                .pax(&[("path", format!("s/{deep}").as_bytes())])
                .file("f", "x")
        },
        Refused("limit `depth`"),
    ),
    attack(
        "an extended header of a gigabyte",
        "CVE-2022-2879, CVE-2023-25153",
        |_| tar().raw(b'x', b"x", b"", 1 << 30, b""),
        Refused("limit `metadata`"),
    ),
    attack(
        "a long name of a gigabyte",
        "CVE-2022-2879",
        |_| tar().raw(b'L', b"x", b"", 1 << 30, b""),
        Refused("limit `metadata`"),
    ),
    attack(
        "a link target of a megabyte",
        "CVE-2022-2879",
        |_| tar().pax(&[("linkpath", &[b'x'; 1_000_000])]).symlink("l", "x"),
        Refused("limit `path`"),
    ),
    attack(
        "an attribute larger than any can be",
        "CVE-2023-39804",
        |_| tar().pax(&[("SCHILY.xattr.user.x", &[b'x'; 100_000])]).file("f", "x"),
        Refused("set an extended attribute"),
    ),
    attack(
        "attributes of two megabytes",
        "CVE-2023-39804",
        |_| {
            let value = [b'x'; 60_000];
            let names: Vec<String> = (0..40).map(|n| format!("SCHILY.xattr.user.{n}")).collect();
            tar().pax(&names.iter().map(|name| (name.as_str(), &value[..])).collect::<Vec<_>>()).file("f", "x")
        },
        Refused("limit `metadata`"),
    ),
    attack(
        "an attribute whose name is too long",
        "CVE-2023-39804",
        |_| tar().pax(&[(&format!("SCHILY.xattr.user.{}", "n".repeat(300)), b"x")]).file("f", "x"),
        Refused("set an extended attribute"),
    ),
    // What speaks to the kernel.
    attack(
        "overlayfs's own attributes",
        "CVE-2023-2640, CVE-2023-32629",
        |_| {
            tar()
                .pax(&[
                    ("SCHILY.xattr.user.overlay.redirect", b"/../../outdir"),
                    ("SCHILY.xattr.user.overlay.opaque", b"y"),
                    ("SCHILY.xattr.user.overlay.metacopy", b""),
                ])
                .dir("d")
        },
        Applied(&[('d', "d")]),
    ),
    attack(
        "a device that is a whiteout to overlayfs",
        "CVE-2023-0386",
        |_| tar().put(b'3', "f", ""),
        Applied(&[('f', "f")]),
    ),
    attack(
        "an owner that no kernel has",
        "CVE-2024-40635, CVE-2023-25173",
        |_| tar().pax(&[("uid", b"4294967295")]).file("f", "x"),
        Refused("4294967295"),
    ),
    attack(
        "an owner beyond 32 bits that wraps to root",
        "CVE-2024-40635",
        |_| tar().pax(&[("uid", b"4294967296")]).file("f", "x"),
        Refused("4294967296"),
    ),
    attack(
        "a time before all times",
        "golang/go#17876",
        |_| tar().pax(&[("mtime", b"-9223372036854775807.999999999")]).file("f", "x"),
        Applied(&[('f', "f")]),
    ),
    attack(
        "a time that is none",
        "golang/go#17876",
        |_| tar().pax(&[("mtime", b"9223372036854775808")]).file("f", "x"),
        Refused("malformed PAX time"),
    ),
];

const V1_0: [(&str, &[u8]); 3] =
    [("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"99")];

fn sparse(records: &[(&str, &[u8])], size: u64) -> Tar {
    let header = tar().pax(records);
    // Those with the map in the content give it themselves.
    let content = if records.len() == 3 { Vec::new() } else { vec![b'x'; size as usize] };
    header.raw(b'0', b"f", b"", size, &content)
}
