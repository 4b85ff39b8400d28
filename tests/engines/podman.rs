//! podman and its conmon.

use std::os::unix::fs::symlink;
use std::path::Path;

use super::{like_docker, runtime};
use crate::harness::{Actor, Call, image, peers};

const IMAGE: &str = "docker.io/library/busybox";

fn podman(actor: &Actor, runtime: &Path) -> Option<Call> {
    let storage = format!("--root={0}/root --runroot={0}/run --events-backend=file", actor.dir().display());
    Some(peers::call("podman", actor.dir())?.args(storage.split(' ')).arg("--runtime").arg(runtime))
}

#[test]
fn podman_with_this_runtime() {
    let Some(actor) = Actor::root() else { return };
    // By this name podman asks for errors as JSON, as it does once a configuration says so for the runtime's own name.
    let named = actor.path("crun");
    symlink(runtime(), &named).expect("an empty folder");
    let Some(first) = podman(&actor, &named) else { return };
    first.args(["pull", "-q", &format!("oci:{}:busybox", image::busybox().display())]).ok();
    like_docker::drive(&|words| podman(&actor, &named).expect("it was there before").args(words), IMAGE);

    // Without, what the runtime says on standard error is what podman has.
    let call = |words: &[&str]| podman(&actor, &runtime()).expect("it was there before").args(words);
    assert_eq!(call(&["run", "--rm", "--network", "none", IMAGE, "echo", "hi"]).ok().stdout, "hi\n");
    call(&["run", "--rm", "--network", "none", IMAGE, "nothing"]).fails(127);

    // Made, but not started yet.
    call(&["create", "--name", "made", "--network", "none", IMAGE, "sleep", "1000"]).ok();
    call(&["init", "made"]).ok();
    assert_eq!(call(&["inspect", "-f", "{{.State.Status}}", "made"]).ok().result(), "initialized");
    call(&["start", "made"]).ok();
    call(&["kill", "made"]).ok();
    assert_eq!(call(&["wait", "made"]).ok().result(), "137");
    call(&["rm", "made"]).ok();

    // Containers that share namespaces.
    call(&[
        "pod",
        "create",
        "--name",
        "pod",
        "--network",
        "none",
        "--infra-command",
        "/bin/sleep 1000",
        "--infra-image",
        IMAGE,
    ])
    .ok();
    assert_eq!(
        call(&["run", "--rm", "--pod", "pod", IMAGE, "hostname"]).ok().stdout,
        "pod
"
    );
    call(&["pod", "rm", "-f", "-t", "0", "pod"]).ok();
}
