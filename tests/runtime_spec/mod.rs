//! The runtime specification, field by field: the same bundle run by our runtime, by crun and by runc, and what is seen
//! inside and outside compared.
//!
//! A [`Case`] changes a plain `config.json`, runs a script in the container and another one outside, and says what must
//! show in what they print. Where the two rivals agree, ours must agree with them; where they differ, with one of them.
//! Anything else is a difference that the case explains, in [`Case::but`]; the table of those is printed by
//! `--nocapture` and kept in `tests/README.md`.

mod life;
mod linux;
mod mounts;
mod process;
mod seccomp;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Call, Report, machine, peers};

/// What a case does to the configuration, knowing the bundle's folder.
type Change = Box<dyn Fn(&mut Value, &Path)>;

/// One field, option or refusal.
pub(crate) struct Case {
    name: &'static str,
    change: Change,
    script: &'static str,
    drive: &'static str,
    prepare: Box<dyn Fn(&Path)>,
    shows: Vec<&'static str>,
    refusal: Option<&'static str>,
    but: Option<&'static str>,
}

/// How a case is run outside unless it says otherwise. `$R` is the runtime with its state's folder, `$ID` the
/// container's id; the folder is the bundle.
const RUN: &str = "$R run $ID; echo \"exit $?\"";

/// A case whose container prints what it sees by `script`.
pub(crate) fn case(name: &'static str, script: &'static str) -> Case {
    Case {
        name,
        change: Box::new(|_, _| {}),
        script,
        drive: RUN,
        prepare: Box::new(|_| {}),
        shows: Vec::new(),
        refusal: None,
        but: None,
    }
}

/// A case that must be refused, with these words among ours.
pub(crate) fn refused(name: &'static str, words: &'static str) -> Case {
    Case { refusal: Some(words), ..case(name, "echo it runs") }
}

impl Case {
    /// Changes the configuration.
    fn with(self, change: impl Fn(&mut Value) + 'static) -> Self {
        self.with_bundle(move |spec, _| change(spec))
    }

    /// Changes the configuration, knowing the bundle's folder.
    fn with_bundle(mut self, change: impl Fn(&mut Value, &Path) + 'static) -> Self {
        let before = std::mem::replace(&mut self.change, Box::new(|_, _| {}));
        self.change = Box::new(move |spec, bundle| {
            before(spec, bundle);
            change(spec, bundle);
        });
        self
    }

    /// Makes files in the bundle.
    fn prepare(mut self, prepare: impl Fn(&Path) + 'static) -> Self {
        self.prepare = Box::new(prepare);
        self
    }

    /// Runs the container by this script.
    fn drive(self, drive: &'static str) -> Self {
        Self { drive, ..self }
    }

    /// What ours must print.
    fn shows(mut self, text: &'static str) -> Self {
        self.shows.push(text);
        self
    }

    /// Ours differs from both rivals, or from what they agree on, for this reason.
    fn but(self, why: &'static str) -> Self {
        Self { but: Some(why), ..self }
    }
}

/// The configuration that cases change.
pub(crate) fn base(script: &str) -> Value {
    let capabilities =
        ["CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_FOWNER", "CAP_KILL", "CAP_MKNOD", "CAP_SETGID", "CAP_SETUID"];
    let namespaces: Vec<Value> =
        ["pid", "network", "ipc", "uts", "mount"].iter().map(|kind| json!({"type": kind})).collect();
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "hostname": "inside",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sh", "-c", script],
            "env": ["PATH=/bin", "HOME=/"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777"]},
        ],
        "linux": {"namespaces": namespaces},
    })
}

/// Adds a mount.
pub(crate) fn mount(spec: &mut Value, mount: Value) {
    spec["mounts"].as_array_mut().expect("mounts").push(mount);
}

/// Takes a namespace away.
pub(crate) fn share(spec: &mut Value, kind: &str) {
    spec["linux"]["namespaces"].as_array_mut().expect("namespaces").retain(|namespace| namespace["type"] != kind);
}

/// Adds a namespace, new or by its path.
pub(crate) fn namespace(spec: &mut Value, kind: &str, path: Option<&str>) {
    share(spec, kind);
    let mut namespace = json!({"type": kind});
    if let Some(path) = path {
        namespace["path"] = json!(path);
    }
    spec["linux"]["namespaces"].as_array_mut().expect("namespaces").push(namespace);
}

/// The runtimes, ours first.
const RUNTIMES: [&str; 3] = ["ours", "crun", "runc"];

/// Runs the cases of one subject and compares.
pub(crate) fn compare(subject: &str, cases: Vec<Case>) {
    let (Some(crun), Some(_)) = (peers::find("crun"), peers::find("runc")) else { return };
    let enter = crun.parent().and_then(Path::parent).expect("the rivals lie in a folder").join("enter");
    let dir = machine::folder();
    let busybox = dir.path().join("busybox");
    fs::copy("/bin/busybox", &busybox).expect("the package busybox-static is installed");
    for (index, case) in cases.iter().enumerate() {
        for runtime in RUNTIMES {
            make_bundle(&dir.path().join(index.to_string()).join(runtime), &busybox, case);
        }
    }
    // All of them in one entered root: what differs is the runtime alone. Two at a time.
    let ours = machine::programs().join("layerfs-runtime");
    let script = format!(
        r#"cd {0}; one() {{ cd {0}/$1/$2; case $2 in ours) R={1};; *) R=$2;; esac; R="$R --root {0}/state/$2"
        export R ID=$2-{3}-$1; B=$PWD; export B; echo $ID >id; echo $$ >outside; timeout 30 bash ./drive >out 2>err </dev/null; $R delete --force $ID >/dev/null 2>&1; $R list -q >>left; }}
        export -f one; mkdir -p state; for n in $(seq 0 {2}); do for r in ours crun runc; do echo $n $r; done; done | xargs -P 2 -L 1 bash -c 'one $0 $1'"#,
        dir.path().display(),
        ours.display(),
        cases.len() - 1,
        std::process::id().to_string() + "-" + &subject.replace(' ', "-"),
    );
    Call::new(enter).args(["bash", "-c", &script]).ok();
    let mut wrong = Vec::new();
    let (mut same, mut one, mut explained) = (0, 0, Vec::new());
    for (index, case) in cases.iter().enumerate() {
        let [ours, crun, runc] =
            RUNTIMES.map(|runtime| Seen::read(&dir.path().join(index.to_string()).join(runtime), case));
        let missing: Vec<_> = case.shows.iter().filter(|text| !ours.out.contains(**text)).collect();
        let words = case.refusal.is_none_or(|words| ours.err.contains(words) && ours.is_refused());
        let agrees = (ours.same(&crun, case), ours.same(&runc, case));
        let fine = match (agrees, crun.same(&runc, case), case.but) {
            ((true, true), ..) => {
                same += 1;
                true
            }
            (_, _, Some(why)) => {
                explained.push((case.name, why));
                true
            }
            ((true, false) | (false, true), false, None) => {
                one += 1;
                true
            }
            _ => false,
        };
        if !fine || !missing.is_empty() || !words {
            wrong.push(format!(
                "== {}: lacks {missing:?}\n-- ours\n{ours}\n-- crun\n{crun}\n-- runc\n{runc}",
                case.name
            ));
        }
    }
    report(subject, cases.len(), same, one, &explained);
    assert!(wrong.is_empty(), "{subject}: {} of {} cases\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[expect(clippy::print_stdout, reason = "the counts are what one runs this for")]
fn report(subject: &str, all: usize, same: usize, one: usize, explained: &[(&str, &str)]) {
    println!(
        "{subject}: {all} cases, {same} as both, {one} as the one where they differ, {} explained",
        explained.len()
    );
    for (name, why) in explained {
        println!("  {name}: {why}");
    }
}

/// What one runtime did of a case.
struct Seen {
    out: String,
    err: String,
}

impl Seen {
    fn read(bundle: &Path, case: &Case) -> Self {
        let text = |name: &str| fs::read(bundle.join(name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let left = text("left").expect("the case was driven to its end");
        // Bundles of the three differ in their folder alone.
        let id = text("id").expect("its id");
        let out = text("out").expect("its output");
        let out = out.replace(&bundle.display().to_string(), "BUNDLE").replace(id.trim(), "ID");
        assert!(!left.lines().any(|line| line == id.trim()), "{}: {} is left behind", case.name, bundle.display());
        Self { out, err: text("err").expect("its messages") }
    }

    fn is_refused(&self) -> bool {
        self.out.lines().last().is_some_and(|line| line.starts_with("exit ") && line != "exit 0")
            && !self.out.contains("it runs")
    }

    /// A refusal is a refusal, whatever its code and words.
    fn same(&self, other: &Self, case: &Case) -> bool {
        match case.refusal {
            Some(_) => self.is_refused() == other.is_refused(),
            None => self.out == other.out,
        }
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.out)?;
        if self.err.is_empty() { Ok(()) } else { write!(f, "[stderr] {}", self.err) }
    }
}

fn make_bundle(bundle: &Path, busybox: &Path, case: &Case) {
    let root = bundle.join("rootfs");
    for folder in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
        fs::create_dir_all(root.join(folder)).expect("a folder in our folder");
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("our own folder");
    fs::hard_link(busybox, root.join("bin/busybox")).expect("a file in our folder");
    symlink("busybox", root.join("bin/sh")).expect("a link in our folder");
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").expect("a file in our folder");
    fs::create_dir(root.join("m")).expect("a folder in our folder");
    (case.prepare)(bundle);
    let mut spec = base(case.script);
    (case.change)(&mut spec, bundle);
    fs::write(bundle.join("config.json"), spec.to_string()).expect("a file in our folder");
    fs::write(bundle.join("drive"), case.drive).expect("a file in our folder");
}

/// Runs our runtime alone, outside any rival's root.
pub(crate) fn ours(bundle: &Path, id: &str) -> Report {
    let state = bundle.join("state");
    Call::new(machine::programs().join("layerfs-runtime"))
        .arg("--root")
        .arg(state)
        .arg("run")
        .arg(id)
        .dir(bundle)
        .output()
}

/// A bundle for [`ours`].
pub(crate) fn bundle(dir: &Path, spec: &Value) -> PathBuf {
    let busybox = dir.join("busybox");
    if !busybox.exists() {
        fs::copy("/bin/busybox", &busybox).expect("the package busybox-static is installed");
    }
    let bundle = dir.join("bundle");
    drop(fs::remove_dir_all(&bundle));
    make_bundle(&bundle, &busybox, &case("alone", ""));
    fs::write(bundle.join("config.json"), spec.to_string()).expect("a file in our folder");
    bundle
}
