//! Ignore files. Facts from moby/patternmatcher (Apache-2.0): patternmatcher_test.go and ignorefile_test.go; those of
//! the second table are Go's own, path/filepath's match_test.go (BSD-3-Clause).

use build::ignore::glob::{Glob, has_wildcard};
use build::ignore::{Decision, Ignore};

fn patterns(text: &[&str]) -> Ignore {
    Ignore::from_patterns(text.iter().copied()).expect("valid patterns")
}

/// Walks to a path as a context's walk does.
fn walked(ignore: &Ignore, path: &str) -> bool {
    let mut folder = Decision::top().clone();
    for (at, _) in path.match_indices('/').filter(|(at, _)| *at > 0) {
        folder = ignore.decide(&path[..at], &folder);
    }
    assert_eq!(ignore.decide(path, &folder).ignored(), ignore.ignored(path, &folder), "{path}");
    ignore.ignored(path, &folder)
}

/// Pattern, path, whether it is ignored.
const SINGLE: &[(&str, &str, bool)] = &[
    ("**", "file", true),
    ("**", "file/", true),
    ("**/", "file", true),
    ("**/", "file/", true),
    ("**", "/", true),
    ("**/", "/", true),
    ("**", "dir/file", true),
    ("**/", "dir/file", true),
    ("**", "dir/file/", true),
    ("**/", "dir/file/", true),
    ("**/**", "dir/file", true),
    ("**/**", "dir/file/", true),
    ("dir/**", "dir/file", true),
    ("dir/**", "dir/file/", true),
    ("dir/**", "dir/dir2/file", true),
    ("dir/**", "dir/dir2/file/", true),
    ("**/dir", "dir", true),
    ("**/dir", "dir/file", true),
    ("**/dir2/*", "dir/dir2/file", true),
    ("**/dir2/*", "dir/dir2/file/", true),
    ("**/dir2/**", "dir/dir2/dir3/file", true),
    ("**/dir2/**", "dir/dir2/dir3/file/", true),
    ("**file", "file", true),
    ("**file", "dir/file", true),
    ("**/file", "dir/file", true),
    ("**file", "dir/dir/file", true),
    ("**/file", "dir/dir/file", true),
    ("**/file*", "dir/dir/file", true),
    ("**/file*", "dir/dir/file.txt", true),
    ("**/file*txt", "dir/dir/file.txt", true),
    ("**/file*.txt", "dir/dir/file.txt", true),
    ("**/file*.txt*", "dir/dir/file.txt", true),
    ("**/**/*.txt", "dir/dir/file.txt", true),
    ("**/**/*.txt2", "dir/dir/file.txt", false),
    ("**/*.txt", "file.txt", true),
    ("**/**/*.txt", "file.txt", true),
    ("a**/*.txt", "a/file.txt", true),
    ("a**/*.txt", "a/dir/file.txt", true),
    ("a**/*.txt", "a/dir/dir/file.txt", true),
    ("a/*.txt", "a/dir/file.txt", false),
    ("a/*.txt", "a/file.txt", true),
    ("a/*.txt**", "a/file.txt", true),
    ("a[b-d]e", "ae", false),
    ("a[b-d]e", "ace", true),
    ("a[b-d]e", "aae", false),
    ("a[^b-d]e", "aze", true),
    (".*", ".foo", true),
    (".*", "foo", false),
    ("abc.def", "abcdef", false),
    ("abc.def", "abc.def", true),
    ("abc.def", "abcZdef", false),
    ("abc?def", "abcZdef", true),
    ("abc?def", "abcdef", false),
    (r"a\\", r"a\", true),
    (r"a\*b", "a*b", true),
    ("**/foo/bar", "foo/bar", true),
    ("**/foo/bar", "dir/foo/bar", true),
    ("**/foo/bar", "dir/dir2/foo/bar", true),
    ("abc/**", "abc", false),
    ("abc/**", "abc/def", true),
    ("abc/**", "abc/def/ghi", true),
    ("**/.foo", ".foo", true),
    ("**/.foo", "bar.foo", false),
    ("a(b)c/def", "a(b)c/def", true),
    ("a(b)c/def", "a(b)c/xyz", false),
    ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
    ("dist/p.py-2.4.0rc3+g08.whl", "dist/p.py-2.4.0rc3+g08.whl", true),
    ("dist/*.whl", "dist/p.py-2.4.0rc3+g08.whl", true),
    // The single functions of the suite.
    ("*", "fileutils.go", true),
    ("*.go", "fileutils.go", true),
    ("*.go", ".", false),
    // Not of the suite.
    ("*", ".", false),
    ("foo**", "foobar", true),
    ("foo**", "xfoo", false),
    ("/docs", "docs", false),
    ("./docs/../lib//", "lib/x", true),
    ("a^b", "a^b", true),
    ("[*]", "*", true),
    ("***/x", "a/b/x", true),
];

const SEVERAL: &[(&[&str], &str, bool)] = &[
    (&["**", "!util/docker/web"], "util/docker/web/foo", false),
    (&["**", "!util/docker/web", "util/docker/web/foo"], "util/docker/web/foo", true),
    (&["**", "!dist/p.py-2.4.0rc3+g08.whl"], "dist/p.py-2.4.0rc3+g08.whl", false),
    (&["**", "!dist/*.whl"], "dist/p.py-2.4.0rc3+g08.whl", false),
    (&["!fileutils.go", "*.go"], "fileutils.go", true),
    (&["*.go", "!fileutils.go"], "fileutils.go", false),
    (&["docs", "!docs/README.md"], "docs/README.md", false),
    (&["docs/", "!docs/README.md"], "docs/README.md", false),
    (&["docs/*", "!docs/README.md"], "docs/README.md", false),
    (&["docs", "  !docs/README.md  ", ""], "docs/README.md", false),
    (&[], "/any/path/there", false),
    (&["docs", "!docs/README.md"], "docs/other.md", true),
];

#[test]
fn paths_are_ignored_as_stated() {
    let single = SINGLE.iter().map(|(pattern, path, ignored)| (vec![*pattern], *path, *ignored));
    for (text, path, expected) in
        single.chain(SEVERAL.iter().map(|(text, path, ignored)| (text.to_vec(), *path, *ignored)))
    {
        let ignore = patterns(&text);
        assert_eq!(ignore.matches(path), expected, "{text:?} {path}");
        assert_eq!(ignore.reason(path).is_some(), expected, "{text:?} {path}");
        if path != "." {
            assert_eq!(walked(&ignore, path), expected, "walk {text:?} {path}");
        }
    }
}

/// Pattern, path, and whether it matches; `None` for a pattern that is none.
const GO_MATCH: &[(&str, &str, Option<bool>)] = &[
    ("abc", "abc", Some(true)),
    ("*", "abc", Some(true)),
    ("*c", "abc", Some(true)),
    ("a*", "a", Some(true)),
    ("a*", "abc", Some(true)),
    ("a*/b", "abc/b", Some(true)),
    ("a*/b", "a/c/b", Some(false)),
    ("a*b*c*d*e*/f", "axbxcxdxe/f", Some(true)),
    ("a*b*c*d*e*/f", "axbxcxdxexxx/f", Some(true)),
    ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", Some(false)),
    ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", Some(false)),
    ("a*b?c*x", "abxbbxdbxebxczzx", Some(true)),
    ("a*b?c*x", "abxbbxdbxebxczzy", Some(false)),
    ("ab[c]", "abc", Some(true)),
    ("ab[b-d]", "abc", Some(true)),
    ("ab[e-g]", "abc", Some(false)),
    ("ab[^c]", "abc", Some(false)),
    ("ab[^b-d]", "abc", Some(false)),
    ("ab[^e-g]", "abc", Some(true)),
    (r"a\*b", "a*b", Some(true)),
    (r"a\*b", "ab", Some(false)),
    ("a?b", "a☺b", Some(true)),
    ("a[^a]b", "a☺b", Some(true)),
    ("a???b", "a☺b", Some(false)),
    ("a[^a][^a][^a]b", "a☺b", Some(false)),
    ("[a-ζ]*", "α", Some(true)),
    ("*[a-ζ]", "A", Some(false)),
    ("a?b", "a/b", Some(false)),
    ("a*b", "a/b", Some(false)),
    (r"[\]a]", "]", Some(true)),
    (r"[\-]", "-", Some(true)),
    (r"[x\-]", "x", Some(true)),
    (r"[x\-]", "-", Some(true)),
    (r"[x\-]", "z", Some(false)),
    (r"[\-x]", "x", Some(true)),
    (r"[\-x]", "-", Some(true)),
    (r"[\-x]", "a", Some(false)),
    ("[]a]", "]", None),
    ("[-]", "-", None),
    ("[x-]", "x", None),
    ("[x-]", "z", None),
    ("[-x]", "x", None),
    ("[-x]", "a", None),
    (r"\", "a", None),
    ("[a-b-c]", "a", None),
    ("[", "a", None),
    ("[^", "a", None),
    ("[^bc", "a", None),
    ("a[", "a", None),
    ("a[", "ab", None),
    ("*x", "xxx", Some(true)),
];

#[test]
fn gos_match_is_kept() {
    // Here the two differ: an ignored folder takes all below it with it.
    assert!(patterns(&["a*"]).matches("ab/c") && !Glob::parse("a*").expect("valid").matches("ab/c"));
    for (pattern, path, expected) in GO_MATCH {
        assert_eq!(Glob::parse(pattern).ok().map(|glob| glob.matches(path)), *expected, "{pattern} {path}");
        let ignore = Ignore::from_patterns([*pattern]).ok();
        assert_eq!(ignore.map(|ignore| ignore.matches(path)), *expected, "ignore {pattern} {path}");
    }
}

#[test]
fn wildcards_are_told_from_names() {
    for (path, expected) in [("a/b", false), ("a*", true), ("a?", true), ("[a", true), (r"a\*", false), (r"a\\*", true)]
    {
        assert_eq!(has_wildcard(path), expected, "{path}");
    }
    assert_eq!(Glob::parse(r"a\*\[b").expect("valid").literal().as_deref(), Some("a*[b"));
    assert_eq!(Glob::parse("a*").expect("valid").literal(), None);
}

#[test]
fn files_are_read_as_stated() {
    let text = "\u{feff}test1\r\n/test2\n/a/file/here\n\nlastfile\n# a comment\n  #no-comment\n! /inverted/abs/path\n";
    let ignore = Ignore::parse(text.as_bytes(), ".dockerignore").expect("valid");
    for (path, expected) in [
        ("test1", true),
        ("test2", true),
        ("a/file/here", true),
        ("lastfile", true),
        ("# a comment", false),
        ("#no-comment", true),
        ("inverted/abs/path", false),
    ] {
        assert_eq!(ignore.matches(path), expected, "{path}");
    }
    assert_eq!(ignore.reason("a/file/here"), Some("a/file/here"));
}

#[test]
fn bad_patterns_are_shown_in_their_file() {
    for (text, expected) in [
        ("a\n!\n", ".dockerignore:2:1: a `!` has no pattern behind it\n  2 | !\n    | ^"),
        (
            "[a\n",
            ".dockerignore:1:1: pattern `[a`: the pattern has an open bracket, an empty class or a lone backslash\n  \
             1 | [a\n    | ^^",
        ),
    ] {
        let error = Ignore::parse(text.as_bytes(), ".dockerignore").expect_err("bad");
        assert_eq!(error.to_string(), expected);
    }
    // A range that runs backwards is no pattern either, and does no harm twice.
    assert!(Ignore::from_patterns(["[Local-Only]/"]).is_err());
}

#[test]
fn a_walk_leaves_out_what_cannot_hold_an_exception() {
    for (text, folder, expected) in [
        (vec!["node_modules"], "node_modules", false),
        (vec!["docs", "!docs/README.md"], "docs", true),
        (vec!["docs", "!docs/README.md"], "docs/sub", false),
        (vec!["docs", "!docs"], "docs", false),
        (vec!["**", "!src/*/main.rs"], "src", true),
        (vec!["**", "!src/*/main.rs"], "src/a", true),
        (vec!["**", "!src/*/main.rs"], "src/a/b", false),
        (vec!["**", "!src/*/main.rs"], "lib", false),
        (vec!["**", "!**/*.rs"], "any/where", true),
        (vec!["**", "!src**"], "srcs", true),
        (vec!["**", r"!a\*b/c"], "x", true),
        (vec!["**", "![^x]b"], "a", true),
    ] {
        assert_eq!(patterns(&text).may_contain_reincluded(folder), expected, "{text:?} {folder}");
    }
}

/// Whatever the patterns: a walk that prunes finds the same files as asking for each path alone.
#[test]
fn pruning_loses_nothing() {
    let names = ["a", "b", "ab", "c.txt"];
    let mut paths = Vec::new();
    for x in names {
        paths.push(x.to_owned());
        for y in names {
            paths.push(format!("{x}/{y}"));
            paths.extend(names.map(|z| format!("{x}/{y}/{z}")));
        }
    }
    let parts = ["a", "*", "**", "b", "?b", "a/b", "**/c.txt", "*/ab", "[^a]", "a**", "b/*"];
    for first in parts {
        for second in parts {
            for third in parts {
                let text = [first.to_owned(), format!("!{second}"), third.to_owned(), format!("!{first}/{second}")];
                let ignore = Ignore::from_patterns(text.iter().map(String::as_str)).expect("valid");
                for path in &paths {
                    let pruned = path.match_indices('/').any(|(at, _)| {
                        let folder = &path[..at];
                        ignore.matches(folder) && !ignore.may_contain_reincluded(folder)
                    });
                    assert!(!pruned || ignore.matches(path), "{text:?} {path}");
                }
            }
        }
    }
}

#[test]
fn many_stars_take_no_time() {
    let pattern = "*a".repeat(2_000);
    let path = "a".repeat(3_000) + "b";
    assert!(!patterns(&[&pattern]).matches(&path));
    assert!(!Glob::parse(&(pattern + "?c")).expect("valid").matches(&path));
}
