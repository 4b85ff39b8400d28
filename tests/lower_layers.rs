//! What in a layer depends on the layers below it: one table of cases, each compared with what unpacking the layers
//! one over the other gives, as containerd, podman and umoci do it.

use std::collections::BTreeMap;

use tar::EntryType;

use crate::harness::image::Layer;
use crate::harness::machine;
use crate::harness::tree::{self, Times, Tree};
use crate::harness::unpack::{Rival, by_us};

/// `d` a folder, `f` a file, `l` a symlink, `h` a hard link; path; content or target; mode.
type Row = (char, &'static str, &'static str, u32);

struct Case {
    name: &'static str,
    /// Lowest first.
    layers: &'static [&'static [Row]],
    /// Who gives something else, and why; the others agree with us.
    except: &'static [(Rival, &'static str)],
}

const fn case(name: &'static str, layers: &'static [&'static [Row]]) -> Case {
    Case { name, layers, except: &[] }
}

const fn differing(
    name: &'static str,
    layers: &'static [&'static [Row]],
    except: &'static [(Rival, &'static str)],
) -> Case {
    Case { name, layers, except }
}

const USR: [Row; 4] = [
    ('d', "usr", "", 0o755),
    ('d', "usr/lib", "", 0o751),
    ('f', "usr/lib/old", "old", 0o644),
    ('l', "lib", "usr/lib", 0o777),
];

const CASES: &[Case] = &[
    case(
        "a parent that is described below keeps its mode",
        &[&[('d', "d", "", 0o1777), ('f', "d/old", "1", 0o644)], &[('f', "d/new", "2", 0o600)]],
    ),
    differing(
        "so do parents at every depth",
        &[
            &[('d', "a", "", 0o700), ('d', "a/b", "", 0o711), ('d', "a/b/c", "", 0o2750)],
            &[('f', "a/b/c/d/new", "2", 0o600), ('f', "a/b/beside", "2", 0o600)],
        ],
        &[
            (Rival::Podman, "what it makes on the way takes the setgid bit from above"),
            (Rival::Umoci, "what it makes on the way takes the setgid bit from above"),
        ],
    ),
    case("a parent that nobody describes", &[&[('f', "x", "1", 0o644)], &[('f', "a/b/new", "2", 0o600)]]),
    case("a parent that is a symlink below", &[&USR, &[('f', "lib/new", "2", 0o644)]]),
    case(
        "a parent that is an absolute symlink below",
        &[
            &[('d', "usr", "", 0o755), ('d', "usr/lib", "", 0o751), ('l', "lib", "/usr/lib", 0o777)],
            &[('f', "lib/new", "2", 0o644)],
        ],
    ),
    case(
        "a parent behind a symlink with dots",
        &[
            &[('d', "x", "", 0o755), ('d', "x/y", "", 0o711), ('d', "z", "", 0o755), ('l', "z/l", "../x/./y", 0o777)],
            &[('f', "z/l/new", "2", 0o644)],
        ],
    ),
    case(
        "new folders behind a symlink below",
        &[
            &USR,
            &[
                ('f', "lib/sub/deep/new", "2", 0o644),
                ('d', "lib/described", "", 0o700),
                ('f', "lib/described/in", "3", 0o644),
            ],
        ],
    ),
    case(
        "a chain of symlinks below",
        &[&[('l', "a", "b", 0o777), ('l', "b", "c", 0o777), ('d', "c", "", 0o700)], &[('f', "a/new", "2", 0o644)]],
    ),
    case(
        "a symlink below in a folder behind a symlink below",
        &[
            &[
                ('d', "usr", "", 0o755),
                ('d', "usr/lib", "", 0o755),
                ('l', "lib", "usr/lib", 0o777),
                ('d', "opt", "", 0o701),
                ('l', "usr/lib/plug", "/opt", 0o777),
            ],
            &[('f', "lib/plug/new", "2", 0o644)],
        ],
    ),
    differing(
        "a symlink below that leads to nothing",
        &[&[('l', "l", "else/where", 0o777)], &[('f', "l/new", "2", 0o644)]],
        &[(Rival::Podman, "fails: does not make what a dangling symlink leads to")],
    ),
    case("a folder in the place of a symlink below", &[&USR, &[('d', "lib", "", 0o700), ('f', "lib/new", "2", 0o644)]]),
    case(
        "a folder in the place of a symlink, with one inside that exists behind the symlink",
        &[
            &[
                ('d', "usr", "", 0o755),
                ('d', "usr/lib", "", 0o755),
                ('d', "usr/lib/sub", "", 0o700),
                ('f', "usr/lib/sub/old", "1", 0o644),
                ('l', "lib", "usr/lib", 0o777),
            ],
            &[('d', "lib", "", 0o755), ('f', "lib/sub/new", "2", 0o644)],
        ],
    ),
    case("a hard link to a file below", &[&[('f', "f", "1", 0o4755)], &[('h', "g", "f", 0o4755)]]),
    case("a hard link to a file below, behind a symlink below", &[&USR, &[('h', "g", "lib/old", 0o644)]]),
    case(
        "a hard link behind a symlink below",
        &[&USR, &[('f', "lib/new", "2", 0o644), ('h', "lib/link", "usr/lib/old", 0o644)]],
    ),
    differing(
        "a hard link to a symlink below",
        &[&USR, &[('h', "link", "lib", 0o777)]],
        &[
            (Rival::Containerd, "its copy of the layers below keeps no two names of one symlink"),
            (Rival::Podman, "its copy of the layers below keeps no two names of one symlink"),
        ],
    ),
    case(
        "a hard link to a file below that is replaced afterwards",
        &[&[('f', "f", "1", 0o644)], &[('h', "g", "f", 0o644), ('f', "f", "2", 0o600)]],
    ),
    case(
        "a hard link to a file that was replaced before",
        &[&[('f', "f", "1", 0o644)], &[('f', "f", "2", 0o600), ('h', "g", "f", 0o600), ('f', "f", "3", 0o640)]],
    ),
    case(
        "a hard link to a hard link to a file below",
        &[&[('f', "f", "1", 0o644)], &[('h', "g", "f", 0o644), ('h', "h", "g", 0o644)]],
    ),
    case(
        "a hard link to a file below, replaced by a file",
        &[&[('f', "f", "1", 0o644)], &[('h', "g", "f", 0o644), ('f', "g", "2", 0o600)]],
    ),
    case(
        "a hard link over a folder below",
        &[&[('f', "f", "1", 0o644), ('d', "g", "", 0o755), ('f', "g/in", "1", 0o644)], &[('h', "g", "f", 0o644)]],
    ),
    case(
        "a hard link by way of the layer's own symlink",
        &[&[('d', "d", "", 0o755), ('f', "d/f", "1", 0o644)], &[('l', "s", "d", 0o777), ('h', "g", "s/f", 0o644)]],
    ),
    case(
        "a file below is gone",
        &[&[('d', "d", "", 0o755), ('f', "d/f", "1", 0o644), ('f', "d/kept", "1", 0o644)], &[('f', "d/.wh.f", "", 0)]],
    ),
    case("a folder below is gone", &[&[('d', "d", "", 0o755), ('f', "d/f", "1", 0o644)], &[('f', ".wh.d", "", 0)]]),
    case("a symlink below is gone, what it leads to is not", &[&USR, &[('f', ".wh.lib", "", 0)]]),
    case("a file behind a symlink below is gone", &[&USR, &[('f', "lib/.wh.old", "", 0)]]),
    case(
        "a symlink below is gone, and a folder of that name is new",
        &[&USR, &[('f', ".wh.lib", "", 0), ('f', "lib/new", "2", 0o644)]],
    ),
    case(
        "a folder below is gone, and one of that name is new",
        &[
            &[('d', "d", "", 0o700), ('f', "d/f", "1", 0o644)],
            &[('f', ".wh.d", "", 0), ('d', "d", "", 0o711), ('f', "d/new", "2", 0o644)],
        ],
    ),
    case(
        "a file below is gone, and one of that name is new",
        &[&[('f', "f", "1", 0o644)], &[('f', ".wh.f", "", 0), ('f', "f", "2", 0o600)]],
    ),
    differing(
        "whiteouts concern lower layers wherever they stand",
        &[
            &[('f', "f", "1", 0o644), ('d', "d", "", 0o755), ('f', "d/old", "1", 0o644)],
            &[
                ('f', "f", "2", 0o600),
                ('f', ".wh.f", "", 0),
                ('d', "d", "", 0o711),
                ('f', "d/new", "2", 0o644),
                ('f', ".wh.d", "", 0),
            ],
        ],
        &[
            (Rival::Containerd, "a late whiteout takes what the layer itself has"),
            (Rival::Podman, "a late whiteout takes what the layer itself has"),
        ],
    ),
    case("nothing below is gone", &[&[('f', "f", "1", 0o644)], &[('f', ".wh.nothing", "", 0)]]),
    case(
        "an opaque folder",
        &[
            &[('d', "d", "", 0o755), ('f', "d/old", "1", 0o644), ('d', "d/sub", "", 0o755)],
            &[('d', "d", "", 0o700), ('f', "d/.wh..wh..opq", "", 0), ('f', "d/new", "2", 0o644)],
        ],
    ),
    case(
        "an opaque folder whose mark comes late",
        &[
            &[('d', "d", "", 0o755), ('f', "d/old", "1", 0o644), ('d', "d/sub", "", 0o755)],
            &[('d', "d", "", 0o700), ('f', "d/new", "2", 0o644), ('f', "d/.wh..wh..opq", "", 0)],
        ],
    ),
    case(
        "an opaque folder that only the lower layer describes",
        &[
            &[('d', "d", "", 0o711), ('f', "d/old", "1", 0o644)],
            &[('f', "d/.wh..wh..opq", "", 0), ('f', "d/new", "2", 0o644)],
        ],
    ),
    differing(
        "an opaque folder behind a symlink below",
        &[&USR, &[('f', "lib/.wh..wh..opq", "", 0), ('f', "lib/new", "2", 0o644)]],
        &[(Rival::Podman, "the mark does nothing there")],
    ),
    case(
        "an opaque folder with a folder inside that was there below",
        &[
            &[('d', "a", "", 0o755), ('d', "a/b", "", 0o700), ('f', "a/b/old", "1", 0o644)],
            &[('d', "a", "", 0o755), ('f', "a/.wh..wh..opq", "", 0), ('f', "a/b/new", "2", 0o644)],
        ],
    ),
    case(
        "a file over a folder below",
        &[&[('d', "d", "", 0o755), ('f', "d/f", "1", 0o644)], &[('f', "d", "2", 0o600)]],
    ),
    case(
        "a folder over a file below",
        &[&[('f', "d", "1", 0o644)], &[('d', "d", "", 0o700), ('f', "d/new", "2", 0o644)]],
    ),
    case(
        "a file and then a folder over a folder below",
        &[
            &[('d', "d", "", 0o755), ('f', "d/old", "1", 0o644)],
            &[('f', "d", "2", 0o644), ('d', "d", "", 0o700), ('f', "d/new", "2", 0o644)],
        ],
    ),
    case(
        "a folder and then a file over a folder below",
        &[
            &[('d', "d", "", 0o755), ('f', "d/old", "1", 0o644)],
            &[('d', "d", "", 0o700), ('f', "d/new", "2", 0o644), ('f', "d", "2", 0o644)],
        ],
    ),
    case(
        "a symlink over a folder below",
        &[&[('d', "d", "", 0o755), ('f', "d/f", "1", 0o644), ('d', "e", "", 0o755)], &[('l', "d", "e", 0o777)]],
    ),
    case(
        "a file over a symlink below",
        &[&[('f', "t", "1", 0o644), ('l', "s", "t", 0o777)], &[('f', "s", "2", 0o600)]],
    ),
    case(
        "only the mode of a folder changes",
        &[&[('d', "d", "", 0o755), ('f', "d/f", "1", 0o644)], &[('d', "d", "", 0o700)]],
    ),
    case(
        "a symlink of the layer itself as a parent",
        &[
            &[('d', "real", "", 0o711), ('f', "real/old", "1", 0o644)],
            &[('l', "way", "real", 0o777), ('f', "way/new", "2", 0o644)],
        ],
    ),
    case(
        "a symlink of the layer to a symlink below",
        &[&USR, &[('l', "way", "lib", 0o777), ('f', "way/new", "2", 0o644)]],
    ),
    case("dots in a path", &[&[('d', "a", "", 0o700), ('d', "b", "", 0o711)], &[('f', "a/../b/./new", "2", 0o644)]]),
    case(
        "gone in the second layer, back in the third",
        &[
            &[('d', "d", "", 0o700), ('f', "d/f", "1", 0o644), ('f', "d/g", "1", 0o644)],
            &[('f', ".wh.d", "", 0)],
            &[('f', "d/f", "3", 0o644)],
        ],
    ),
    case(
        "opaque in the second layer, a parent in the third",
        &[
            &[('d', "d", "", 0o700), ('f', "d/f", "1", 0o644)],
            &[('d', "d", "", 0o711), ('f', "d/.wh..wh..opq", "", 0)],
            &[('f', "d/new", "3", 0o644)],
        ],
    ),
    case(
        "a symlink that leads elsewhere in the second layer, a parent in the third",
        &[
            &[('d', "a", "", 0o700), ('d', "b", "", 0o711), ('l', "l", "a", 0o777)],
            &[('l', "l", "b", 0o777)],
            &[('f', "l/new", "3", 0o644)],
        ],
    ),
    case(
        "a hard link over three layers",
        &[&[('f', "f", "1", 0o644)], &[('h', "g", "f", 0o644)], &[('h', "h", "g", 0o644), ('f', ".wh.f", "", 0)]],
    ),
    case(
        "the same file in every layer",
        &[&[('f', "f", "1", 0o644)], &[('f', "f", "2", 0o755)], &[('f', "f", "3", 0o600), ('f', "f", "4", 0o640)]],
    ),
];

/// The layers of all cases that `take` wants, each case in a folder of its own.
fn layers(take: impl Fn(&Case) -> bool) -> Vec<Vec<u8>> {
    let most = CASES.iter().map(|case| case.layers.len()).max().unwrap_or(0);
    let layer = |level: usize| {
        let mut layer = Layer::new();
        for (number, case) in CASES.iter().enumerate().filter(|(_, case)| take(case)) {
            let inside = |path: &str| format!("{number:02}/{path}");
            if level == 0 {
                layer = layer.dir(&format!("{number:02}/"), 0o755);
            }
            for (kind, path, text, mode) in case.layers.get(level).copied().unwrap_or_default() {
                let target = if text.starts_with('/') { format!("/{number:02}{text}") } else { (*text).to_owned() };
                layer = match kind {
                    'd' => layer.dir(&inside(path), *mode),
                    'f' => layer.file(&inside(path), *mode, text),
                    'l' => layer.symlink(&inside(path), &target),
                    _ => layer.entry(&inside(path), EntryType::Link, *mode, &inside(text), b""),
                };
            }
        }
        layer.tar()
    };
    (0..most).map(layer).collect()
}

/// Whether a path stands twice in one layer.
fn repeats(case: &Case) -> bool {
    case.layers.iter().any(|rows| {
        let paths: std::collections::BTreeSet<&str> = rows.iter().map(|(_, path, ..)| *path).collect();
        paths.len() < rows.len()
    })
}

/// What belongs to each case, by its name.
fn by_case(tree: Tree) -> BTreeMap<&'static str, Tree> {
    let mut cases: BTreeMap<&'static str, Tree> = BTreeMap::new();
    for (path, line) in tree {
        let Some((number, rest)) = path.split_once('/') else { continue };
        let number: usize = number.parse().expect("only cases lie in the root");
        // The first of several names has the case's folder before it.
        let line = line.replace(&format!("same as {number:02}/"), "same as ");
        cases.entry(CASES[number].name).or_default().insert(rest.to_owned(), line);
    }
    cases
}

#[test]
fn lower_layers_are_seen_as_containerd_podman_and_umoci_see_them() {
    if !machine::is_root() {
        return machine::not_run("layers over one another: makes devices and owners, as root only");
    }
    let ours = by_us(&layers(|_| true)).expect("every case can be unpacked");
    let ours = by_case(tree::read(&ours.path(), Times::Files));
    let mut wrong = Vec::new();
    for rival in Rival::ALL {
        let agrees = |case: &Case| {
            // podman refuses a layer in which a path stands twice.
            let refused = rival == Rival::Podman && repeats(case);
            !refused && case.except.iter().all(|(other, _)| *other != rival)
        };
        let dir = machine::folder();
        let Some(root) = rival.unpack(dir.path(), layers(agrees)) else { continue };
        let theirs = by_case(tree::read(&root, Times::Files));
        for case in CASES.iter().filter(|case| agrees(case)) {
            // A case may leave an empty folder.
            let of = |cases: &BTreeMap<_, Tree>| cases.get(case.name).cloned().unwrap_or_default();
            let difference = tree::difference(&of(&ours), &of(&theirs));
            if !difference.is_empty() {
                wrong.push(format!("{rival:?}: {}\n{difference}\n", case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong.join("\n"));
}
