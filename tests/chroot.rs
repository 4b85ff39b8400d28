//! `build` where neither namespaces nor mounts are allowed: in containers with what podman and docker give by default.

use std::path::Path;

use crate::engines::docker::Daemon;
use crate::harness::{Actor, Call, Registry, image, machine, peers};

/// Everything that has another way there: copies between stages, mounts, users, changes of every kind.
const DOCKERFILE: &str = "FROM localhost/busybox AS tools\nRUN echo tool >/tool && chmod 755 /tool\nFROM localhost/busybox\n\
    ENV A=b\nWORKDIR /w\nCOPY --chown=5:6 a b /w/\n\
    RUN --mount=type=cache,target=/cache --mount=from=tools,source=/tool,target=/t --mount=type=tmpfs,target=/m \
    echo $A >made; cat /t >>made; echo x >>/cache/n; rm a; mkdir -p d/e; ln made link; echo m >/m/x; echo gone >/dev/null\n\
    RUN mkdir /opt; echo 1 >/opt/x; chown 3:4 /opt/x; ln -s x /opt/y; cat /etc/resolv.conf >/dev/null; touch /etc/new\n\
    RUN rm -r d && mkdir d && echo new >d/f; mv b c; chmod 700 /opt\nUSER 7\nRUN id -u >/tmp/id\nUSER 0\n\
    COPY --from=tools /tool /usr/\nRUN --mount=type=secret,id=s <<E\n#!/bin/sh\nsha256sum /run/secrets/s >/sum\nE\n\
    RUN rm -r /opt /usr/tool\nRUN (sleep 1000 &) ; true\n";

fn write(actor: &Actor) {
    actor.write("ctx/Dockerfile", DOCKERFILE);
    for (name, content) in [("a", "1\n"), ("b", "2\n"), ("s", "hush\n")] {
        actor.write(&format!("ctx/{name}"), content);
    }
}

const FLAGS: [&str; 5] = ["--network", "none", "--secret", "id=s,src=ctx/s", "-q"];
const EPOCH: (&str, &str) = ("SOURCE_DATE_EPOCH", "1700000000");

/// The id that the image has when it is built on the machine itself.
fn built_here(actor: &Actor) -> String {
    actor.build(FLAGS).args(["-t", "localhost/here", "ctx"]).env(EPOCH.0, EPOCH.1).ok().stdout.trim().to_owned()
}

#[test]
fn chroot_makes_what_namespaces_make() {
    let Some(actor) = Actor::root() else { return };
    let here = actor.elsewhere().with_busybox();
    write(&here);
    let actor = actor.with_busybox();
    write(&actor);
    let call =
        || actor.build(FLAGS).args(["--isolation", "chroot", "-t", "localhost/there", "ctx"]).env(EPOCH.0, EPOCH.1);
    assert_eq!(call().ok().stdout.trim(), built_here(&here));

    actor.write("ctx/Dockerfile", "FROM localhost/busybox\nRUN echo said; exit 7\n");
    let report = call().fails(7);
    assert!(report.stderr.contains("Dockerfile:2:1: ") && report.stderr.contains("said"), "{report}");
    actor.write("ctx/Dockerfile", "FROM localhost/busybox\nRUN [\"/none\"]\n");
    let report = call().fails(127);
    assert!(report.stderr.contains("there is no program `/none` in the image"), "{report}");
    actor.assert_nothing_left();
    here.assert_nothing_left();

    let Some(user) = Actor::ordinary() else { return };
    user.write("ctx/Dockerfile", "FROM scratch\n");
    let report = user.build(["--isolation", "chroot", "ctx"]).fails(2);
    assert!(report.stderr.contains("--isolation chroot needs root"), "{report}");
}

/// What a container is asked to do: build, push, and say what it made.
fn script(registry: &str) -> String {
    format!(
        "set -e; mkdir /here; cp -r /given/ctx /here; cd /here; export {}={} PATH=/programs:$PATH; \
         copy oci:/image:busybox store:localhost/busybox >/dev/null; \
         build {} -t {registry}/made:1 --push --iidfile /here/id ctx >/here/out 2>/here/log || {{ cat /here/log >&2; exit 9; }}; \
         cat /here/id; echo; build --network none ctx 2>&1 >/dev/null --secret id=s,src=ctx/s | grep '^note: '",
        EPOCH.0,
        EPOCH.1,
        FLAGS[..4].join(" "),
    )
}

/// Runs the script in a Debian of the engine's and compares with what is built here.
fn compare(actor: &Actor, engine: &dyn Fn() -> Call, import: &[&str]) {
    let registry = Registry::start();
    write(actor);
    engine().args(import).ok();
    let given = [
        format!("{}:/programs:ro", machine::programs().display()),
        format!("{}:/image:ro", image::busybox().display()),
        format!("{}:/given:ro", actor.dir().display()),
    ];
    let volumes = given.iter().flat_map(|volume| ["-v", volume]);
    let report = engine()
        .args(["run", "--rm", "--network", "host"])
        .args(volumes)
        .args(["localhost/debian:1", "bash", "-c", &script(registry.address())])
        .ok();
    let mut lines = report.stdout.lines();
    assert_eq!(lines.next(), Some(built_here(actor).as_str()), "{report}");
    let note = lines.next().unwrap_or_default();
    assert!(note.starts_with("note: neither namespaces nor mounts are allowed here: "), "{report}");
    let pushed = format!("docker://{}", registry.name("made:1"));
    let config = actor.copy(["inspect", "--config", "--raw", &pushed]).ok().stdout;
    assert_eq!(layerfs::digest::Digest::of(config.as_bytes()).to_string(), built_here(actor));
}

#[test]
fn in_a_container_of_podman() {
    let Some(actor) = Actor::root() else { return };
    let actor = actor.with_busybox();
    let storage = format!("--root={0}/root --runroot={0}/run --events-backend=file", actor.dir().display());
    let engine = |dir: &Path| peers::call("podman", dir).map(|call| call.args(storage.split(' ')));
    if engine(actor.dir()).is_none() {
        return;
    }
    let tar = image::debian_tar().display().to_string();
    let call = || engine(actor.dir()).expect("it was there before");
    compare(&actor, &call, &["import", "-q", &tar, "localhost/debian:1"]);
}

#[test]
fn in_a_container_of_docker() {
    let Some(actor) = Actor::root() else { return };
    let actor = actor.with_busybox();
    // The runtime that docker brings is the one whose rules are to hold.
    let flags = ["--bridge", "none", "--default-runtime", "runc"];
    let Some(daemon) = Daemon::start(&actor.path("docker"), &[], &flags) else { return };
    let tar = image::debian_tar().display().to_string();
    compare(&actor, &|| daemon.docker([] as [&str; 0]), &["import", &tar, "localhost/debian:1"]);
}
