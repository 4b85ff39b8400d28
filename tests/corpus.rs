//! A corpus of Dockerfiles and what each of them makes: every file that differs from the base image, and the settings.
//!
//! `corpus/builds.txt` holds the cases and the results. The results were the same as those of docker 28.5 (BuildKit)
//! when they were written down, but where a case says otherwise; `BLESS=1` writes them anew, to be compared again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::path::PathBuf;

use crate::harness::{Actor, machine};

/// What stands before each case's name, and between a Dockerfile and its result.
const CASE: &str = "===== ";
const RESULT: &str = "-----\n";

struct Case {
    name: String,
    dockerfile: String,
    expected: String,
}

fn file() -> PathBuf {
    machine::tree().join("tests/corpus/builds.txt")
}

fn cases() -> Vec<Case> {
    let text = fs::read_to_string(file()).expect("the corpus");
    let case = |part: &str| {
        let (name, rest) = part.split_once('\n').expect("a name");
        let (dockerfile, expected) = rest.split_once(RESULT).expect("a result");
        Case { name: name.to_owned(), dockerfile: dockerfile.to_owned(), expected: expected.to_owned() }
    };
    text.split(CASE).filter(|part| !part.is_empty()).map(case).collect()
}

/// The context that all cases share.
fn context(actor: &Actor) -> PathBuf {
    for (path, content) in [
        ("src/a.txt", "a\n"),
        ("src/sub/b.txt", "b\n"),
        ("src/sub/deep/c", "c\n"),
        ("top.txt", "x\n"),
        ("other.md", "y\n"),
        ("ign/i.txt", "i\n"),
        ("ign/keep.txt", "keep\n"),
        (".dockerignore", "ign\n!ign/keep.txt\n"),
    ] {
        actor.write(&format!("context/{path}"), content);
    }
    actor.mkdir("context/empty");
    actor
        .shell(
            "cd context && chmod -R u=rwX,go=rX . && ln -s a.txt src/link && ln -s src dirlink && ln src/a.txt src/hard \
             && chmod 750 src/sub && chmod 600 top.txt && tar --sort=name --owner=0 --group=0 -cf plain.tar -C src . \
             && gzip -nk plain.tar && bzip2 -k plain.tar && xz -k plain.tar",
        )
        .ok();
    actor.path("context")
}

type Tree = BTreeMap<String, String>;

/// Every file of an archive in one line.
fn tree(archive: &[u8]) -> Tree {
    let mut tree = Tree::new();
    for entry in tar::Archive::new(archive).entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").to_string_lossy().trim_matches('/').to_owned();
        let header = entry.header();
        let (kind, header_size) = (header.entry_type(), header.size().unwrap_or(0));
        let link = || entry.link_name().expect("a link").unwrap_or_default().to_string_lossy().into_owned();
        // The second name of a file is a file too.
        if kind.is_hard_link() {
            let first = tree[&link()].clone();
            tree.insert(path, first);
            continue;
        }
        let (mode, uid, gid) =
            (header.mode().expect("a mode"), header.uid().expect("an owner"), header.gid().expect("a group"));
        let owner = if (uid, gid) == (0, 0) { String::new() } else { format!(" {uid}:{gid}") };
        let what = if kind.is_dir() {
            format!("folder {mode:o}{owner}")
        } else if kind.is_symlink() {
            format!("-> {}{owner}", link())
        } else if kind.is_file() {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("the content");
            // What is no text is told by its size, and a compressed archive only by being one: programs differ.
            let content = match String::from_utf8(bytes) {
                Ok(text) if text.len() < 4096 => text,
                _ if path.contains(".tar.") => "compressed".to_owned(),
                _ => format!("{} bytes", header_size),
            };
            format!("file {mode:o}{owner} {content:?}")
        } else {
            format!("{kind:?} {mode:o}{owner}")
        };
        tree.insert(path, what);
    }
    tree
}

/// What differs, one line each.
fn differences(base: &Tree, made: &Tree) -> String {
    let mut lines = String::new();
    let paths: std::collections::BTreeSet<&String> = base.keys().chain(made.keys()).collect();
    for path in paths {
        match (base.get(path), made.get(path)) {
            (old, Some(new)) if old != Some(new) => writeln!(lines, "+ {path} {new}").expect("text"),
            (Some(_), None) => writeln!(lines, "- {path}").expect("text"),
            _ => {}
        }
    }
    lines
}

/// The image's settings where they are not the base's, one line each.
fn settings(actor: &Actor, base: &serde_json::Value, name: &str) -> (serde_json::Value, String) {
    let text = actor.copy(["inspect", "--config", &format!("store:{name}")]).ok().stdout;
    let document: serde_json::Value = serde_json::from_str(&text).expect("a configuration");
    let own = document["config"].clone();
    let mut lines = String::new();
    let keys = |value: &serde_json::Value| -> Vec<String> {
        value.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default()
    };
    let all: std::collections::BTreeSet<String> = keys(base).into_iter().chain(keys(&own)).collect();
    for key in all {
        if base.get(&key) != own.get(&key) {
            let value = own.get(&key).unwrap_or(&serde_json::Value::Null);
            writeln!(lines, "{key} = {value}").expect("text");
        }
    }
    (own, lines)
}

#[test]
fn every_dockerfile_makes_what_it_made_when_docker_agreed() {
    for actor in Actor::everyone() {
        let actor = actor.with_busybox();
        let context = context(&actor);
        let files = |name: &str| {
            let out = actor.path("files.tar");
            actor.write("Dockerfile.files", format!("FROM {name}\n"));
            let dockerfile = actor.path("Dockerfile.files");
            let spec = format!("type=tar,dest={}", out.display());
            let args = ["-q", "-o", &spec, "-f", &dockerfile.display().to_string(), &context.display().to_string()];
            actor.build(args).ok();
            tree(&fs::read(out).expect("the archive"))
        };
        let base_files = files("localhost/busybox");
        let (base_settings, _) = settings(&actor, &serde_json::Value::Null, "localhost/busybox");
        let mut blessed = String::new();
        for case in cases() {
            let dockerfile = actor.write("Dockerfile", &case.dockerfile);
            let args =
                ["-q", "-t", "localhost/case", "-f", &dockerfile.display().to_string(), &context.display().to_string()];
            actor.build(args).ok();
            let scratch = case.dockerfile.lines().any(|line| line == "FROM scratch");
            let empty = Tree::new();
            let base = if scratch { &empty } else { &base_files };
            let (_, changed) = settings(&actor, &base_settings, "localhost/case");
            let made = format!("{}{changed}", differences(base, &files("localhost/case")));
            if std::env::var_os("BLESS").is_none() {
                assert_eq!(made, case.expected, "{} as {}:\n{}", case.name, actor.name(), case.dockerfile);
            }
            write!(blessed, "{CASE}{}\n{}{RESULT}{made}", case.name, case.dockerfile).expect("text");
        }
        if std::env::var_os("BLESS").is_some() {
            fs::write(file(), blessed).expect("the corpus");
        }
        actor.assert_nothing_left();
    }
}
