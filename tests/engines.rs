//! Other engines with this runtime in place of their own, themselves unmodified: what they ask for, they get.

mod buildah;
mod containerd;
pub(crate) mod docker;
mod like_docker;
mod podman;
mod rootless;
mod swarm;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::harness::{Actor, Report, image, machine};

/// The runtime as installed.
fn runtime() -> PathBuf {
    machine::programs().join("layerfs-runtime")
}

/// The small image as the archive that docker loads, and its name there.
fn docker_archive(actor: &Actor) -> (String, &'static str) {
    let file = actor.path("busybox.tar").display().to_string();
    let source = format!("oci:{}:busybox", image::busybox().display());
    actor.copy([&source, &format!("docker-archive:{file}:localhost/busybox:1")]).ok();
    (file, "localhost/busybox:1")
}

/// The words of a line; what stands in braces is one word, with the braces in it.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut depth) = (Vec::new(), String::new(), 0);
    for letter in line.chars() {
        let ends = match letter {
            '{' => {
                depth += 1;
                depth == 1
            }
            '}' => {
                depth -= 1;
                depth == 0
            }
            letter => depth == 0 && letter.is_whitespace(),
        };
        match ends {
            false => word.push(letter),
            true if word.is_empty() => {}
            true => words.push(std::mem::take(&mut word)),
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

/// Asks again until the answer is right: engines do things in their own time.
#[track_caller]
fn until(what: &str, mut ask: impl FnMut() -> Report, is_right: impl Fn(&Report) -> bool) -> Report {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let report = ask();
        if is_right(&report) {
            return report;
        }
        assert!(Instant::now() < end, "{what} does not come\n{report}");
    }
}

/// Folders of cgroups whose name has this in it.
fn cgroups(part: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, part: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().contains(part) {
                    found.push(entry.path());
                }
                walk(&entry.path(), part, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), part, &mut found);
    found
}

#[test]
fn lines_become_words() {
    assert_eq!(
        words("run -f {{{.A}} {{.B}}}  sh -c {exit 7} x"),
        ["run", "-f", "{{.A}} {{.B}}", "sh", "-c", "exit 7", "x"]
    );
}
