//! What this machine has, where the tests keep things on it, and what could not be run here.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

/// The root of the source tree.
pub(crate) fn tree() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Notes that a test did not run, and why. `rival: ` before the reason says that it is for want of a rival.
#[expect(clippy::print_stdout, reason = "the test's own output is where one looks first")]
pub(crate) fn not_run(reason: &str) {
    println!("not run: {reason}");
    if let Some(path) = std::env::var_os("LAYERFS_NOT_RUN") {
        let mut file = OpenOptions::new().append(true).create(true).open(path).expect("LAYERFS_NOT_RUN can be written");
        writeln!(file, "{reason}").expect("LAYERFS_NOT_RUN can be written");
    }
}

/// What is made once and kept between runs: a folder that every user can read.
pub(crate) fn cache() -> &'static Path {
    static CACHE: OnceLock<PathBuf> = OnceLock::new();
    CACHE.get_or_init(|| {
        // Below /var/tmp, because that is one of the folders the rivals share with this machine.
        let path = std::env::var_os("LAYERFS_TEST_CACHE").map_or_else(
            || format!("/var/tmp/layerfs-tests-{}", rustix::process::geteuid().as_raw()).into(),
            PathBuf::from,
        );
        fs::create_dir_all(&path).expect("the cache of the tests can be made");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("the cache of the tests is ours");
        path
    })
}

/// Makes a thing in the cache unless it is there, one process at a time.
pub(crate) fn cached(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let path = cache().join(name);
    let lock = File::create(cache().join(format!(".{name}.lock"))).expect("a lock file in the cache");
    flock(&lock, FlockOperation::LockExclusive).expect("a lock in the cache");
    if !path.exists() {
        let new = cache().join(format!(".{name}.new"));
        drop(fs::remove_dir_all(&new));
        drop(fs::remove_file(&new));
        make(&new);
        fs::rename(&new, &path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    path
}

/// An empty folder that every user can enter, on a disk (not a tmpfs): /tmp is often one, and stores lie on disks.
pub(crate) fn folder() -> TempDir {
    let base = std::env::var_os("LAYERFS_TEST_DIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let dir = tempfile::Builder::new().prefix("layerfs-test-").tempdir_in(base).expect("a folder for a test");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("the folder is ours");
    dir
}

/// A folder with all in it, owners and times too.
pub(crate) fn copy_tree(from: &Path, to: &Path) {
    super::Call::new("cp").arg("-a").arg(from).arg(to).ok();
}

/// The folder with `build`, `copy`, `run` and their other names. `tests/all` has just filled one and names it;
/// otherwise the same install script is run here, so that a stale program can never be tested.
pub(crate) fn programs() -> &'static Path {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        if let Some(prefix) = std::env::var_os("LAYERFS_PROGRAMS") {
            return PathBuf::from(prefix).join("bin");
        }
        let lock = File::create(cache().join(".programs.lock")).expect("a lock file in the cache");
        flock(&lock, FlockOperation::LockExclusive).expect("a lock in the cache");
        let prefix = cache().join("programs");
        let status = Command::new(tree().join("tests/install")).arg(&prefix).status().expect("tests/install starts");
        assert!(status.success(), "tests/install: {status}");
        prefix.join("bin")
    })
}

/// An ordinary user of this machine.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The user with subordinate ids. Made when it is missing and root asks; otherwise whoever runs the tests.
pub(crate) fn ordinary_user() -> Option<User> {
    static USER: OnceLock<Option<User>> = OnceLock::new();
    USER.get_or_init(|| match is_root() {
        true => Some(make_user("layerfs-test", true)),
        false => Some(User {
            name: std::env::var("USER").unwrap_or_default(),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }),
    })
    .clone()
}

/// The user without subordinate ids.
pub(crate) fn user_without_range() -> Option<User> {
    static USER: OnceLock<Option<User>> = OnceLock::new();
    USER.get_or_init(|| {
        if is_root() {
            return Some(make_user("layerfs-test-single", false));
        }
        not_run("a user without subordinate ids: needs root to make one");
        None
    })
    .clone()
}

fn make_user(name: &str, range: bool) -> User {
    // A system user gets no range from useradd; who shall have one gets it the way tests/quickstart gives it.
    let script = r#"
        . tests/harness/system.sh
        exec 9>/run/lock/layerfs-test-users && flock 9
        id "$1" >/dev/null 2>&1 || useradd --system --no-create-home --home-dir /nonexistent --shell /bin/sh --user-group "$1"
        [ "$2" = false ] || give_subids "$1"
        id -u "$1"; id -g "$1"
    "#;
    let report =
        super::Call::shell(script).args(["make_user", name, if range { "true" } else { "false" }]).dir(tree()).ok();
    let ids: Vec<u32> = report.stdout.lines().map(|line| line.parse().expect("id prints numbers")).collect();
    User { name: name.to_owned(), uid: ids[0], gid: ids[1] }
}
