//! Tests that run in a process of their own, as root and as root of a user namespace.

use std::fs;

use super::{Call, machine};

/// Names the kind of process that a test in a process of its own is.
const INSIDE: &str = "LAYERFS_TEST_INSIDE";

/// Runs the test `name` of this program again, as root and as root of a user namespace with a range of ids. True in
/// that process itself, which then does the work.
pub(crate) fn is_inside(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let dir = machine::folder();
    let program = dir.path().join("tests");
    // Copied by another process: a child that one of our other threads forks would keep it open for writing, and what is
    // open for writing cannot be executed.
    Call::new("install").args(["-m", "755"]).arg(std::env::current_exe().expect("this program")).arg(&program).ok();
    let arguments = ["--exact", name, "--nocapture", "--test-threads", "1"];
    if machine::is_root() {
        let report = Call::new(&program).args(arguments).env(INSIDE, "root").env("TMPDIR", dir.path()).ok();
        assert!(report.stdout.contains("1 passed"), "{report}");
    } else {
        machine::not_run("attacks on root: needs root");
    }
    let Some(user) = machine::ordinary_user() else { return false };
    let home = dir.path().join("home");
    fs::create_dir(&home).expect("a folder in our folder");
    let mut call = Call::new("unshare").args(["--user", "--map-root-user", "--map-auto"]).arg(&program);
    if machine::is_root() {
        std::os::unix::fs::chown(&home, Some(user.uid), Some(user.gid)).expect("root may give a folder away");
        call = call.identity(user.uid, user.gid);
    }
    let report = call.args(arguments).env(INSIDE, "user namespace").env("TMPDIR", &home).dir("/").ok();
    assert!(report.stdout.contains("1 passed"), "{report}");
    false
}
