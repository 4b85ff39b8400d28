//! Rules about the source tree itself: the ones that a reviewer would otherwise have to remember.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::machine::tree;

/// Everything that may lie at the top, besides dotfiles of tools.
const TOP: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "CHANGELOG.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "build",
    "copy",
    "run",
    "layerfs",
    "benches",
    "fuzz",
    "tests",
    "target",
];

/// Which of our packages each of them may use.
const DIRECTION: &[(&str, &[&str])] =
    &[("layerfs", &[]), ("copy", &["layerfs"]), ("run", &["layerfs"]), ("build", &["layerfs", "copy", "run"])];

/// A file longer than this holds more than one concept.
const LONGEST_FILE: usize = 700;

#[test]
fn the_top_of_the_tree_is_as_designed() {
    let strangers: Vec<_> = fs::read_dir(tree())
        .expect("the source tree can be read")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.') && !TOP.contains(&name.as_str()))
        .collect();
    assert!(strangers.is_empty(), "not part of the layout: {strangers:?}");
}

#[test]
fn packages_depend_downwards_only() {
    for (package, dependencies) in dependencies() {
        let Some((_, allowed)) = DIRECTION.iter().find(|(name, _)| *name == package) else { continue };
        for dependency in dependencies {
            let ours = DIRECTION.iter().any(|(name, _)| *name == dependency);
            assert!(!ours || allowed.contains(&dependency.as_str()), "`{package}` must not use `{dependency}`");
        }
    }
}

#[test]
fn the_engine_knows_no_network_and_no_command_line() {
    let (_, dependencies) =
        dependencies().into_iter().find(|(name, _)| name == "layerfs").expect("the engine is a member");
    for stranger in ["clap", "reqwest", "rustls", "tokio"] {
        assert!(!dependencies.iter().any(|name| name == stranger), "layerfs must not use `{stranger}`");
    }
}

#[test]
fn run_links_no_async_runtime() {
    let output = cargo(&["tree", "--package", "run", "--edges", "normal", "--prefix", "none", "--locked"]);
    for line in output.lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        assert!(!["tokio", "async-executor", "async-io", "smol"].contains(&name), "`run` links `{name}`");
    }
}

#[test]
fn a_plain_release_build_makes_three_programs() {
    let output = cargo(&["build", "--release", "--locked", "--message-format=json"]);
    let mut made: Vec<String> = output
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .collect();
    made.sort();
    assert_eq!(made, ["layerfs-build", "layerfs-copy", "layerfs-run"]);
}

#[test]
fn unsafe_stays_where_system_calls_are() {
    each_line(&["build", "copy", "run", "layerfs"], |path, line| {
        let code = code_of(line);
        let found = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe trait", "unsafe extern", "[unsafe("]
            .iter()
            .any(|form| code.contains(form));
        assert!(
            !found || path.starts_with("layerfs/src/sys"),
            "{}: unsafe outside layerfs/src/sys: {line}",
            path.display()
        );
    });
}

#[test]
fn async_stays_where_the_network_is() {
    each_line(&["build", "copy", "run", "layerfs"], |path, line| {
        let code = code_of(line);
        let is_async = code.contains("async fn") || code.contains(".await") || code.contains("async move");
        assert!(
            !is_async || path.starts_with("copy/src/registry"),
            "{}: async outside copy/src/registry: {line}",
            path.display()
        );
    });
}

#[test]
fn tests_neither_sleep_nor_hide() {
    // Spelled in two halves, so that this file does not find itself.
    let forbidden = [
        concat!("thread::", "sleep"),
        concat!("time::", "sleep"),
        concat!("#[", "ignore"),
        concat!("#[", "should_panic"),
    ];
    each_line(&["build", "copy", "run", "layerfs", "tests"], |path, line| {
        let in_test = path.starts_with("tests") || path.iter().any(|part| part == "tests" || part == "tests.rs");
        for word in forbidden {
            let everywhere = word.starts_with('#');
            assert!(!(line.contains(word) && (in_test || everywhere)), "{}: {line}", path.display());
        }
    });
}

#[test]
fn files_hold_one_concept() {
    for path in sources(&["build", "copy", "run", "layerfs", "tests"]) {
        let lines = fs::read_to_string(tree().join(&path)).expect("a source file is text").lines().count();
        assert!(lines <= LONGEST_FILE, "{}: {lines} lines, {LONGEST_FILE} at most", path.display());
    }
}

#[test]
fn nothing_is_stubbed() {
    each_line(&["build", "copy", "run", "layerfs"], |path, line| {
        let code = code_of(line);
        for word in [concat!("todo", "!("), concat!("unimplemented", "!(")] {
            assert!(!code.contains(word), "{}: {line}", path.display());
        }
    });
}

/// The line without its comment. Good enough for words that stand in no string of ours.
fn code_of(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

fn each_line(folders: &[&str], mut check: impl FnMut(&Path, &str)) {
    for path in sources(folders) {
        let text = fs::read_to_string(tree().join(&path)).expect("a source file is text");
        text.lines().for_each(|line| check(&path, line));
    }
}

/// The Rust files below these folders, as paths from the top.
fn sources(folders: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = folders.iter().map(PathBuf::from).collect();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(tree().join(&folder)).expect("a folder of the tree can be read") {
            let entry = entry.expect("an entry");
            let path = folder.join(entry.file_name());
            match entry.file_type().expect("a file has a type") {
                kind if kind.is_dir() => open.push(path),
                _ if path.extension().is_some_and(|extension| extension == "rs") => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// The members of the workspace, each with the names of what it uses outside its tests.
fn dependencies() -> Vec<(String, Vec<String>)> {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--no-deps", "--locked", "--format-version", "1"]))
        .expect("metadata is JSON");
    let text = |value: &Value| value.as_str().expect("a name").to_owned();
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let used = package["dependencies"].as_array().expect("dependencies");
            (
                text(&package["name"]),
                used.iter().filter(|used| used["kind"].is_null()).map(|used| text(&used["name"])).collect(),
            )
        })
        .collect()
}

fn cargo(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(args).current_dir(tree()).output().expect("cargo starts");
    assert!(output.status.success(), "cargo {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo prints text")
}
