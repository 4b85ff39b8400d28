use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use layerfs::digest::Digest;

use super::*;
use crate::graph::{Chmod, Source};
use crate::ignore::Ignore;

/// A folder with `files` (`path=content`, `path/` for a folder, `path->target` for a symlink), long settled.
fn folder(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for file in files {
        write(dir.path(), file);
    }
    dir
}

fn write(root: &Path, file: &str) {
    let name =
        file.split_once("->").map(|(path, _)| path).or(file.split_once('=').map(|(path, _)| path)).unwrap_or(file);
    let path = root.join(name);
    fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
    if let Some((_, target)) = file.split_once("->") {
        symlink(target, path).expect("a link");
    } else if let Some((_, content)) = file.split_once('=') {
        fs::write(path, content).expect("a file");
    } else {
        fs::create_dir_all(path).expect("a folder");
    }
}

fn tree(dir: &tempfile::TempDir, ignore: &str) -> Tree {
    let ignore = Ignore::parse(ignore.as_bytes(), ".dockerignore").expect("patterns");
    Tree::new("the build context", dir.path().to_owned(), ignore)
}

/// What is selected, as `part: path path…`, parts between slashes.
fn shown(tree: &Tree, sources: &[&str], parents: bool, exclude: &[&str]) -> Result<String, String> {
    let sources: Vec<Source> = sources.iter().map(|path| Source::Path((*path).to_owned())).collect();
    let exclude: Vec<String> = exclude.iter().map(|pattern| (*pattern).to_owned()).collect();
    let selection = select(tree, &Request { sources: &sources, parents, exclude: &exclude, fetched: &[] })
        .map_err(|e| e.to_string())?;
    let part = |part: &Part| match &part.content {
        Content::File(_) | Content::Inline(_) => String::from_utf8_lossy(&part.name).into_owned(),
        Content::Folder(entries) => {
            let names: Vec<_> = entries.iter().map(|entry| String::from_utf8_lossy(&entry.path)).collect();
            format!("[{}]", names.join(" "))
        }
    };
    Ok(selection.parts.iter().map(part).collect::<Vec<_>>().join(" "))
}

#[test]
fn sources_mean_what_docker_says() {
    let dir = folder(&[
        "a.txt=1",
        "b.txt=2",
        "c.md=3",
        "dir/x=4",
        "dir/sub/y=5",
        "empty/",
        "link->dir",
        "out->../../etc/passwd",
        "abs->/dir/x",
        "we[ird]=6",
        "node/index=7",
        "node/deep/keep=8",
    ]);
    for (ignore, sources, exclude, expected) in [
        ("", &["a.txt"][..], &[][..], Ok("a.txt")),
        ("", &["/a.txt"], &[], Ok("a.txt")),
        ("", &["dir/../a.txt"], &[], Ok("a.txt")),
        ("", &["../../a.txt"], &[], Ok("a.txt")),
        ("", &["*.txt"], &[], Ok("a.txt b.txt")),
        ("", &["*.txt", "c.md"], &[], Ok("a.txt b.txt c.md")),
        ("", &["?.md"], &[], Ok("c.md")),
        ("", &["none*"], &[], Ok("")),
        ("", &["we[[]ird]"], &[], Ok("we[ird]")),
        ("", &["dir"], &[], Ok("[sub sub/y x]")),
        ("", &["dir/*"], &[], Ok("[y] x")),
        ("", &["empty"], &[], Ok("[]")),
        ("", &["link"], &[], Ok("[sub sub/y x]")),
        ("", &["link/x"], &[], Ok("x")),
        ("", &["abs"], &[], Ok("abs")),
        ("", &["out"], &[], Err("`out` is a symlink to `../../etc/passwd`, which is not in the build context")),
        ("", &["nope"], &[], Err("`nope` is not in the build context")),
        ("", &["a.txt/x"], &[], Err("`a.txt/x` is not in the build context")),
        ("*.txt", &["a.txt"], &[], Err("`a.txt` is not in the build context")),
        ("*.txt\n!b.txt", &["*.txt"], &[], Ok("b.txt")),
        ("node\n!node/deep/keep", &["node"], &[], Ok("[deep deep/keep]")),
        ("dir/sub", &["dir"], &[], Ok("[x]")),
        ("", &["dir"], &["x"], Ok("[sub sub/y]")),
        ("", &["dir"], &["**/y"], Ok("[sub x]")),
        ("", &["dir"], &["sub", "!sub/y"], Ok("[sub sub/y x]")),
        ("", &["*.txt"], &["b*"], Ok("a.txt")),
    ] {
        let actual = shown(&tree(&dir, ignore), sources, false, exclude);
        assert_eq!(
            actual.as_deref().map_err(String::as_str),
            expected,
            "{sources:?} without {ignore:?} and {exclude:?}"
        );
    }
}

#[test]
fn parents_keep_their_paths() {
    let dir = folder(&["a/b/one.txt=1", "a/b/two.md=2", "a/c/one.txt=3", "d/one.txt=4"]);
    for (source, expected) in [
        ("a/b/one.txt", Ok("[a a/b a/b/one.txt]")),
        ("a/./b/one.txt", Ok("[b b/one.txt]")),
        ("./a/b/one.txt", Ok("[a a/b a/b/one.txt]")),
        ("a/*/one.txt", Ok("[a a/b a/b/one.txt a/c a/c/one.txt]")),
        ("**/*.md", Ok("[a a/b a/b/two.md]")),
        ("a/./**/one.txt", Ok("[b b/one.txt c c/one.txt]")),
        ("a/b", Ok("[a a/b a/b/one.txt a/b/two.md]")),
        ("a/x", Err("`/a/x` is not in the build context")),
        ("x/*", Ok("[]")),
    ] {
        let actual = shown(&tree(&dir, ""), &[source], true, &[]);
        assert_eq!(actual.as_deref().map_err(String::as_str), expected, "{source}");
    }
}

/// Lets the clock go on until what was just written is old enough to be recorded.
fn settle() {
    let written = std::time::Instant::now();
    while written.elapsed() < Duration::from_millis(50) {
        std::thread::yield_now();
    }
}

/// The digest of all of `dir`, by way of the cache in `cache`.
fn digest_of(dir: &tempfile::TempDir, cache: &Path, chmod: Option<&Chmod>) -> Digest {
    let tree = tree(dir, "ignored");
    let stats = StatCache::open(cache, dir.path());
    let sources = [Source::Path(".".to_owned())];
    let selection =
        select(&tree, &Request { sources: &sources, parents: false, exclude: &[], fetched: &[] }).expect("selected");
    let digest = digest(&tree, &selection, Owners { kept: false, chmod }, Some(&stats)).expect("digested");
    stats.save().expect("saved");
    digest
}

#[test]
fn a_digest_changes_with_what_a_copy_would_change_and_with_nothing_else() {
    let cache = tempfile::tempdir().expect("a folder");
    let old = SystemTime::now() - Duration::from_secs(1000);
    let dir = folder(&["file=content", "other=content", "sub/x=1", "link->file", "ignored=1"]);
    let path = |name: &str| dir.path().join(name);
    let set_time = |name: &str, time| {
        File::open(path(name)).expect("open").set_times(FileTimes::new().set_modified(time)).expect("set")
    };
    set_time("file", old);
    // Long enough that the first digest is kept.
    settle();
    let mut known = digest_of(&dir, cache.path(), None);
    assert_eq!(digest_of(&dir, cache.path(), None), known);
    type Change<'a> = (&'a str, bool, Box<dyn Fn() + 'a>);
    let changes: Vec<Change<'_>> = vec![
        ("another time", false, Box::new(|| set_time("file", SystemTime::now()))),
        ("an ignored file", false, Box::new(|| fs::write(path("ignored"), "2").expect("written"))),
        (
            "the same bytes again",
            false,
            Box::new(|| {
                fs::remove_file(path("file")).expect("removed");
                fs::write(path("file"), "content").expect("written");
            }),
        ),
        (
            "other bytes, same size and time",
            true,
            Box::new(|| {
                let time = fs::metadata(path("file")).expect("there").modified().expect("a time");
                fs::write(path("file"), "CONTENT").expect("written");
                set_time("file", time);
            }),
        ),
        (
            "other bytes renamed into place, same size and time",
            true,
            Box::new(|| {
                let time = fs::metadata(path("file")).expect("there").modified().expect("a time");
                fs::write(path("ignored"), "cONTENT").expect("written");
                set_time("ignored", time);
                fs::rename(path("ignored"), path("file")).expect("renamed");
            }),
        ),
        ("a name", true, Box::new(|| fs::rename(path("sub/x"), path("sub/y")).expect("renamed"))),
        (
            "two files swapped",
            true,
            Box::new(|| {
                fs::rename(path("file"), path("third")).expect("renamed");
                fs::rename(path("other"), path("file")).expect("renamed");
                fs::rename(path("third"), path("other")).expect("renamed");
            }),
        ),
        (
            "a mode",
            true,
            Box::new(|| fs::set_permissions(path("file"), fs::Permissions::from_mode(0o755)).expect("set")),
        ),
        (
            "a symlink's target",
            true,
            Box::new(|| {
                fs::remove_file(path("link")).expect("removed");
                symlink("other", path("link")).expect("a link");
            }),
        ),
        ("a new empty folder", true, Box::new(|| fs::create_dir(path("new")).expect("made"))),
        ("a hard link", true, Box::new(|| fs::hard_link(path("file"), path("hard")).expect("a link"))),
        (
            "a file that became a folder",
            true,
            Box::new(|| {
                fs::remove_file(path("sub/y")).expect("removed");
                fs::create_dir(path("sub/y")).expect("made");
            }),
        ),
    ];
    for (what, changed, change) in changes {
        change();
        let now = digest_of(&dir, cache.path(), None);
        assert_eq!(now != known, changed, "{what}");
        known = now;
    }
}

#[test]
fn a_mode_that_will_be_replaced_does_not_count() {
    let cache = tempfile::tempdir().expect("a folder");
    let dir = folder(&["file=content"]);
    let chmod = Chmod::parse("644").expect("a mode");
    let with = digest_of(&dir, cache.path(), Some(&chmod));
    fs::set_permissions(dir.path().join("file"), fs::Permissions::from_mode(0o600)).expect("set");
    assert_eq!(digest_of(&dir, cache.path(), Some(&chmod)), with);
}

#[test]
fn what_was_read_once_is_not_read_again() {
    let cache = tempfile::tempdir().expect("a folder");
    let dir = folder(&["file=content"]);
    settle();
    let first = digest_of(&dir, cache.path(), None);
    // A reader that cannot open it would fail, were it asked to.
    let stats = StatCache::open(cache.path(), dir.path());
    let metadata = fs::metadata(dir.path().join("file")).expect("there");
    assert!(metadata.ino() > 0);
    assert!(stats.content(Path::new("/nonexistent"), &metadata).is_ok());
    // A damaged cache is none.
    let stat_file =
        fs::read_dir(cache.path().join("stat")).expect("a folder").next().expect("a file").expect("readable");
    fs::write(stat_file.path(), b"layerfs1torn").expect("written");
    assert_eq!(digest_of(&dir, cache.path(), None), first);
}
