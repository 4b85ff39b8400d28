//! buildah, which calls a runtime without a monitor in between.

use super::runtime;
use crate::harness::{Actor, Call, image, peers};

/// Limits that a machine whose root may not raise any can set.
const LIMITS: [&str; 4] = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"];

#[test]
fn buildah_with_this_runtime() {
    let Some(actor) = Actor::root() else { return };
    let base = format!("oci:{}:busybox", image::busybox().display());
    let context = actor.path("app").display().to_string();
    actor.write("app/Dockerfile", format!("FROM {base}\nRUN echo made >/made && id -u\nRUN sh -c 'test -s /made'\n"));
    let buildah = || -> Option<Call> {
        let storage = format!("--root={0}/root --runroot={0}/run --storage-driver=overlay", actor.dir().display());
        Some(peers::call("buildah", actor.dir())?.args(storage.split(' ')))
    };
    let runtime = runtime().display().to_string();
    let oci = ["--isolation", "oci", "--runtime", &runtime];
    let Some(build) = buildah() else { return };
    build.arg("build").args(oci).args(LIMITS).args(["--network", "none", "-t", "localhost/built", &context]).ok();
    let buildah = || buildah().expect("it was there before");
    actor.write("app/Dockerfile", format!("FROM {base}\nRUN exit 6\n"));
    let failed = buildah().arg("build").args(oci).args(LIMITS).args(["--network", "none", &context]).output();
    failed.expect_code(6);

    let name = buildah().arg("from").args(LIMITS).arg("localhost/built").ok().result().to_owned();
    let run = |words: &[&str]| buildah().arg("run").args(oci).arg(&name).args(words);
    assert_eq!(run(&["cat", "/made"]).ok().stdout, "made\n");
    run(&["sh", "-c", "exit 6"]).fails(6);
    let said = buildah().args(["run", "-t"]).args(oci).arg(&name).arg("tty").ok();
    assert!(said.stdout.starts_with("/dev/"), "{said}");
    buildah().args(["rm", &name]).ok();
}
