use std::fs;
use std::io::{BufReader, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use layerfs::archive::Limits;
use layerfs::archive::read::{EntryKind, TarReader};

use super::*;
use crate::exec::placement;
use crate::files::{self, Request};
use crate::graph::{Origin, Source, Unpack};
use crate::ignore::Ignore;

/// A folder with files of these paths, each with its path as content; `path/` is a folder, `path->target` a symlink.
fn folder(paths: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for path in paths {
        let name = path.split_once("->").map_or(*path, |(name, _)| name);
        let full = dir.path().join(name);
        fs::create_dir_all(full.parent().expect("a parent")).expect("folders");
        match path.split_once("->") {
            Some((_, target)) => symlink(target, full).expect("a link"),
            None if path.ends_with('/') => fs::create_dir_all(full).expect("a folder"),
            None => fs::write(full, path).expect("a file"),
        }
    }
    dir
}

struct Case<'a> {
    sources: &'a [&'a str],
    destination: &'a str,
    chown: Option<(u32, u32)>,
    chmod: Option<&'a str>,
    parents: bool,
    unpack: bool,
}

impl<'a> Case<'a> {
    fn new(sources: &'a [&'a str], destination: &'a str) -> Self {
        Self { sources, destination, chown: None, chmod: None, parents: false, unpack: false }
    }

    fn copy(&self) -> Copy {
        Copy {
            sources: self.sources.iter().map(|path| Source::Path((*path).to_owned())).collect(),
            origin: Origin::Context,
            destination: self.destination.to_owned(),
            chown: None,
            chmod: self.chmod.map(|text| Chmod::parse(text).expect("a mode")),
            link: false,
            parents: self.parents,
            exclude: Vec::new(),
            unpack: if self.unpack { Unpack::Local } else { Unpack::Never },
            instruction: "COPY",
        }
    }
}

/// The layer as `path` for files, `path/` for folders, `path->target` for links, with `:mode:uid` where it is not the
/// usual one.
fn layer(context: &Path, below: &Path, case: &Case<'_>) -> Result<String> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(&dir.path().join("store"))?;
    let tree = Tree::new("the build context", context.to_owned(), Ignore::default());
    let view = MergedView::new(&[below.to_owned()]);
    let copy = case.copy();
    let selection = files::select(
        &tree,
        &Request { sources: &copy.sources, parents: copy.parents, exclude: &copy.exclude, fetched: &[] },
    )?;
    let placement = placement::resolve(&view, case.destination, true)?;
    let prepared =
        Prepared { copy: &copy, tree: &tree, selection: &selection, placement: &placement, owner: case.chown };
    let clock = Clock { now: 1000, epoch: None, clamp: None };
    let Some(layer) = write_copy(&store, &prepared, &view, clock)? else { return Ok("nothing".to_owned()) };
    let mut reader = TarReader::new(BufReader::new(store.open_blob(&layer.diff_id.0)?), &Limits::default());
    let mut shown = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let path = String::from_utf8_lossy(&entry.path).trim_end_matches('/').to_owned();
        let usual = match entry.kind {
            EntryKind::Dir => 0o755,
            EntryKind::Symlink => 0o777,
            _ => 0o644,
        };
        let suffix = match entry.kind {
            EntryKind::Dir => "/".to_owned(),
            EntryKind::Symlink => format!("->{}", String::from_utf8_lossy(&entry.link)),
            EntryKind::Hardlink => format!("=>{}", String::from_utf8_lossy(&entry.link)),
            _ => String::new(),
        };
        let mode = if entry.mode == usual { String::new() } else { format!(":{:o}", entry.mode) };
        let owner = if entry.uid == 0 { String::new() } else { format!(":{}", entry.uid) };
        shown.push(format!("{path}{suffix}{mode}{owner}"));
    }
    Ok(shown.join(" "))
}

#[test]
fn destinations_mean_what_docker_says() {
    let context = folder(&["f", "g", "dir/a", "dir/sub/b", "empty/", "linked/l->a"]);
    for path in ["dir", "dir/sub", "empty"] {
        fs::set_permissions(context.path().join(path), fs::Permissions::from_mode(0o755)).expect("set");
    }
    let below =
        folder(&["etc/hosts", "usr/lib/x", "lib->usr/lib", "tmp/", "srv/sub/", "srv/a", "file", "tolink->file"]);
    fs::set_permissions(below.path().join("tmp"), fs::Permissions::from_mode(0o1777)).expect("set");
    for (sources, destination, expected) in [
        (&["f"][..], "/new", "new"),
        (&["f"], "/new/", "new/ new/f"),
        (&["f"], "/a/b/c", "a/ a/b/ a/b/c"),
        (&["f"], "/etc", "etc/ etc/f"),
        (&["f"], "/etc/hosts", "etc/ etc/hosts"),
        (&["f"], "/tmp/f", "tmp/:1777 tmp/f"),
        (&["f"], "/lib/f", "usr/ usr/lib/ usr/lib/f"),
        (&["f"], "/tolink", "file"),
        (&["f"], "/", "f"),
        (&["dir"], "/new", "new/ new/a new/sub/ new/sub/b"),
        (&["dir"], "/", "a sub/ sub/b"),
        (&["dir/"], "/srv", "srv/ srv/a srv/sub/ srv/sub/b"),
        (&["empty"], "/new", "new/"),
        (&["empty"], "/etc", "nothing"),
        (&["f", "g"], "/new/", "new/ new/f new/g"),
        (&["f", "g"], "/etc", "etc/ etc/f etc/g"),
        (&["dir", "f"], "/new", "new/ new/a new/f new/sub/ new/sub/b"),
        (&["linked"], "/", "l->a"),
        (&["none*"], "/new/", "nothing"),
        (&["f", "none*"], "/new", "new"),
    ] {
        let shown = layer(context.path(), below.path(), &Case::new(sources, destination));
        assert_eq!(shown.expect("a layer"), expected, "{sources:?} to {destination}");
    }
}

#[test]
fn what_cannot_be_placed_is_an_error() {
    let context = folder(&["f", "g", "dir/a", "odd/hosts/x", "file2dir/sub"]);
    let below = folder(&["etc/hosts", "sub/", "file"]);
    for (sources, destination, expected) in [
        (&["dir"][..], "/file", "the destination `/file` is a file, not a folder"),
        (&["f"], "/file/", "the destination `/file/` is a file, not a folder"),
        (&["f"], "/file/x", "`/file` on the way to `/file/x` is not a folder"),
        (&["f", "g"], "/new", "COPY has several sources, and the destination `/new` is not a folder"),
        (&["odd"], "/etc", "a folder would take the place of the file `/etc/hosts`"),
        (&["file2dir"], "/", "a file would take the place of the folder `/sub`"),
    ] {
        let error = layer(context.path(), below.path(), &Case::new(sources, destination)).expect_err(destination);
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn owners_and_modes_are_given_to_what_is_new_only() {
    let context = folder(&["dir/a", "dir/sub/b"]);
    let below = folder(&["etc/x"]);
    let mut case = Case::new(&["dir"], "/etc/new/deep");
    (case.chown, case.chmod) = (Some((7, 8)), Some("u=rwX,go="));
    let shown = layer(context.path(), below.path(), &case).expect("a layer");
    let expected =
        "etc/ etc/new/:7 etc/new/deep/:7 etc/new/deep/a:600:7 etc/new/deep/sub/:700:7 etc/new/deep/sub/b:600:7";
    assert_eq!(shown, expected);
}

#[test]
fn parents_and_hard_links() {
    let context = folder(&["a/b/c"]);
    fs::hard_link(context.path().join("a/b/c"), context.path().join("a/d")).expect("a link");
    let below = folder(&[]);
    let mut case = Case::new(&["a"], "/x");
    case.parents = true;
    assert_eq!(layer(context.path(), below.path(), &case).expect("a layer"), "x/ x/a/ x/a/b/ x/a/b/c x/a/d=>x/a/b/c");
}

#[test]
fn archives_are_unpacked_by_content() {
    let context = folder(&["plain"]);
    let mut tar = TarWriter::new(Vec::new());
    for (path, kind, link) in [
        ("./", EntryKind::Dir, ""),
        ("dir/", EntryKind::Dir, ""),
        ("dir/file", EntryKind::File, ""),
        ("hard", EntryKind::Hardlink, "dir/file"),
        ("/abs", EntryKind::Symlink, "dir"),
    ] {
        let mode = match kind {
            EntryKind::Dir => 0o755,
            EntryKind::Symlink => 0o777,
            _ => 0o644,
        };
        let mut entry = output::blank(path.as_bytes().to_vec(), kind, mode);
        entry.link = link.into();
        if kind == EntryKind::File {
            entry.size = 4;
            tar.append_file(&entry, &b"text"[..]).expect("written");
        } else {
            tar.append(&entry).expect("written");
        }
    }
    let plain = tar.finish().expect("finished");
    fs::write(context.path().join("x.zip"), &plain).expect("written");
    let mut gzip = layerfs::archive::Compressor::new(Vec::new(), layerfs::archive::Compression::GZIP).expect("gzip");
    gzip.write_all(&plain).expect("compressed");
    fs::write(context.path().join("noname"), gzip.finish().expect("compressed")).expect("written");
    let below = folder(&[]);
    for source in ["x.zip", "noname"] {
        let sources = [source];
        let mut case = Case::new(&sources, "/to");
        case.unpack = true;
        let shown = layer(context.path(), below.path(), &case).expect("a layer");
        assert_eq!(shown, "to/ to/dir/ to/dir/file to/hard=>to/dir/file to/abs->dir", "{source}");
        case.unpack = false;
        assert_eq!(layer(context.path(), below.path(), &case).expect("a layer"), "to", "{source} kept as it is");
    }
    let sources = ["plain"];
    let mut case = Case::new(&sources, "/to/");
    case.unpack = true;
    assert_eq!(layer(context.path(), below.path(), &case).expect("a layer"), "to/ to/plain", "no archive at all");
}

#[test]
fn a_layer_is_the_same_bytes_each_time() {
    let context = folder(&[]);
    for n in 0..700 {
        fs::write(context.path().join(format!("f{n}")), vec![b'x'; n * 7]).expect("written");
    }
    let digest = || {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&dir.path().join("store")).expect("a store");
        let tree = Tree::new("the build context", context.path().to_owned(), Ignore::default());
        let view = MergedView::new(&[]);
        let sources = vec![Source::Path(".".to_owned())];
        let selection =
            files::select(&tree, &Request { sources: &sources, parents: false, exclude: &[], fetched: &[] })
                .expect("selected");
        let placement = placement::resolve(&view, "/x/", true).expect("placed");
        let copy = Copy {
            sources: sources.clone(),
            origin: Origin::Context,
            destination: "/x/".to_owned(),
            chown: None,
            chmod: None,
            link: false,
            parents: false,
            exclude: Vec::new(),
            unpack: Unpack::Never,
            instruction: "COPY",
        };
        let prepared = Prepared { copy: &copy, tree: &tree, selection: &selection, placement: &placement, owner: None };
        let layer = write_copy(&store, &prepared, &view, Clock { now: 5, epoch: Some(3), clamp: Some(3) })
            .expect("written")
            .expect("a layer");
        let mut bytes = Vec::new();
        store.open_blob(&layer.diff_id.0).expect("there").read_to_end(&mut bytes).expect("read");
        assert_eq!(bytes.len() as u64, layer.size);
        layer.diff_id
    };
    assert_eq!(digest(), digest());
}

#[test]
fn what_changes_while_it_is_read_is_never_kept() {
    let context = folder(&["small", "large", "linked"]);
    fs::write(context.path().join("large"), vec![b'1'; 2 << 20]).expect("a file");
    fs::hard_link(context.path().join("linked"), context.path().join("again")).expect("a link");
    let tree = Tree::new("the build context", context.path().to_owned(), Ignore::default());
    for name in ["small", "large", "linked"] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&dir.path().join("store")).expect("a store");
        let case = Case::new(&[], "/new");
        let copy = Copy { sources: vec![Source::Path(name.to_owned())], ..case.copy() };
        let selection =
            files::select(&tree, &Request { sources: &copy.sources, parents: false, exclude: &[], fetched: &[] })
                .expect("a file");
        // The size stays, and so may the time: an editor with a slow clock.
        let path = context.path().join(name);
        let before = fs::metadata(&path).expect("there").modified().expect("a time");
        let mut content = fs::read(&path).expect("readable");
        content[0] ^= 1;
        fs::write(&path, content).expect("written");
        fs::File::open(&path).and_then(|file| file.set_modified(before)).expect("set");
        let view = MergedView::new(&[]);
        let placement = placement::resolve(&view, "/new", true).expect("a place");
        let prepared = Prepared { copy: &copy, tree: &tree, selection: &selection, placement: &placement, owner: None };
        let error =
            write_copy(&store, &prepared, &view, Clock { now: 1000, epoch: None, clamp: None }).expect_err(name);
        assert!(error.to_string().ends_with("changed while it was read"), "{error}");
    }
}

/// An archive of these members; `path->target` is a symlink, `path=>target` a hard link, `path/` a folder.
fn archive(members: &[&str]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    for member in members {
        let (kind, path, link) = match (member.split_once("->"), member.split_once("=>")) {
            (Some((path, link)), _) => (EntryKind::Symlink, path, link),
            (_, Some((path, link))) => (EntryKind::Hardlink, path, link),
            _ if member.ends_with('/') => (EntryKind::Dir, *member, ""),
            _ => (EntryKind::File, *member, ""),
        };
        let mode = match kind {
            EntryKind::Dir => 0o755,
            EntryKind::Symlink => 0o777,
            _ => 0o644,
        };
        let mut entry = output::blank(path.trim_end_matches('/').into(), kind, mode);
        entry.link = link.into();
        tar.append(&entry).expect("a Vec takes every byte");
    }
    tar.finish().expect("a Vec takes every byte")
}

#[test]
fn members_of_archives_follow_symlinks_inside_the_destination() {
    let below = folder(&["usr/lib/x", "lib->usr/lib", "srv/up->../../../usr", "srv/abs->/usr", "real/f"]);
    for (members, destination, expected) in [
        (&["lib/new"][..], "/", "usr/lib/new"),
        (&["lib/", "lib/new"], "/", "lib/ lib/new"),
        (&["./lib/a", "./lib/b=>lib/a"], "/", "usr/lib/a usr/lib/b=>usr/lib/a"),
        (&["srv/up/f", "srv/abs/g"], "/", "usr/f usr/g"),
        (&["up/f", "abs/g"], "/srv", "srv/ srv/usr/f srv/usr/g"),
        (&["d/", "l->d", "l/f"], "/x", "x/ x/d/ x/l->d x/d/f"),
        (&["d/", "l->/d", "m->l", "m/f"], "/x/y", "x/ x/y/ x/y/d/ x/y/l->/d x/y/m->l x/y/d/f"),
        (&["l->d", "l/", "l/f"], "/", "l->d l/ l/f"),
        (&["l->../../../etc", "l/f"], "/x", "x/ x/l->../../../etc x/etc/f"),
        (&["real->elsewhere", "real/g"], "/", "real->elsewhere elsewhere/g"),
    ] {
        let context = folder(&[]);
        fs::write(context.path().join("a.tar"), archive(members)).expect("a file");
        let case = Case { unpack: true, ..Case::new(&["a.tar"], destination) };
        let shown = layer(context.path(), below.path(), &case).expect("a layer");
        assert_eq!(shown, expected, "{members:?} to {destination}");
    }
    let context = folder(&[]);
    fs::write(context.path().join("a.tar"), archive(&["l->l", "l/f"])).expect("a file");
    let case = Case { unpack: true, ..Case::new(&["a.tar"], "/") };
    let error = layer(context.path(), below.path(), &case).expect_err("a circle");
    assert!(error.chain().ends_with("member `l` has too many symlinks on its way"), "{}", error.chain());
}
