//! A virtual machine where cgroup v2 is all there is, arranged as systemd does it. A test machine often has v1 besides,
//! has nothing delegated, or is a container itself.
//!
//! One machine serves all tests of a run, one test at a time. It is emulated, because nested virtualisation is rarely
//! to be had: whatever happens in it takes some ten times as long.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, MutexGuard, Once, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use super::machine::{self, tree};
use super::{Call, Report, image};

/// Longer than the slowest answer of a busy machine; what reaches it hangs.
const DEADLINE: Duration = Duration::from_secs(300);

/// Who calls something there, and from which cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    uid: u32,
    cgroup: &'static str,
}

/// Root, logged in.
pub(crate) const ROOT: Caller = Caller { uid: 0, cgroup: "/user.slice/user-0.slice/session-1.scope" };
/// The user, in a program that the user's own systemd started: `cpu`, `memory` and `pids` are delegated to it.
pub(crate) const USER: Caller =
    Caller { uid: 1000, cgroup: "/user.slice/user-1000.slice/user@1000.service/app.slice/terminal.scope" };
/// The user, logged in over ssh: the session is root's.
pub(crate) const SESSION: Caller = Caller { uid: 1000, cgroup: "/user.slice/user-1000.slice/session-2.scope" };
/// The user, as a service of the machine with `Delegate=yes`: nothing but the cgroup it is in is the user's.
pub(crate) const SERVICE: Caller = Caller { uid: 1000, cgroup: "/system.slice/worker.service" };

/// The machine, booted, with `localhost/busybox` in the stores of root and of the user. None where there cannot be one.
pub(crate) fn vm() -> Option<MutexGuard<'static, Vm>> {
    static VM: OnceLock<Option<Mutex<Vm>>> = OnceLock::new();
    static BOOTS: Once = Once::new();
    let vm = VM.get_or_init(|| match missing() {
        Some(reason) => {
            machine::not_run(&format!("cgroup v2 in a virtual machine: {reason}"));
            None
        }
        None => {
            assert!(!BOOTS.is_completed(), "the virtual machine does not boot: the first test says why");
            BOOTS.call_once(|| {});
            Some(Mutex::new(Vm::boot()))
        }
    });
    // A test that failed is no reason for the next one to fail.
    Some(vm.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
}

fn missing() -> Option<String> {
    if std::env::consts::ARCH != "x86_64" {
        return Some(format!("no kernel is known for {}", std::env::consts::ARCH));
    }
    let found = Call::shell("type qemu-system-x86_64 mke2fs newuidmap").env("PATH", PATH).output().code == 0;
    (!found).then(|| "needs the packages qemu-system-x86, e2fsprogs and uidmap".to_owned())
}

const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// The running machine.
pub(crate) struct Vm {
    process: Child,
    requests: ChildStdin,
    answers: Receiver<Answer>,
    console: File,
}

/// What a script left: its exit code, stdout, stderr.
type Answer = (i32, String, String);

impl Vm {
    fn boot() -> Self {
        let kernel = machine::cached("vm-kernel", |dir| drop(script("kernel", &[dir]).ok()));
        let dir = machine::folder();
        script("disk", &[dir.path(), &kernel, machine::programs(), &image::busybox()]).ok();
        let path = |name: &str| dir.path().join(name).display().to_string();
        File::create(path("console")).expect("a file in our folder");
        let mut command = Command::new("setpriv");
        // The machine is not to outlive the tests, however they end: nobody drops what is static.
        command
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot"])
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"])
            .arg("-kernel")
            .arg(kernel.join("vmlinuz"))
            .args(["-initrd", &path("initramfs"), "-append", "console=ttyS0 quiet panic=-1"])
            .args(["-drive", &format!("file={},if=virtio,format=raw,cache=unsafe", path("disk"))])
            .args(["-serial", &format!("file:{}", path("console")), "-chardev", "stdio,id=stdio"])
            .args(["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=stdio"])
            .env("PATH", PATH)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let (hand_over, process) = mpsc::channel();
        let (sender, answers) = mpsc::channel();
        // The signal comes when the thread ends that started the program, so this one stays.
        thread::spawn(move || {
            let mut process = command.spawn().expect("setpriv is essential");
            let stdout = process.stdout.take().expect("stdout is piped");
            hand_over.send(process).expect("somebody waits for it");
            listen(stdout, &sender);
        });
        let mut process: Child = process.recv().expect("it was started");
        let requests = process.stdin.take().expect("stdin is piped");
        let console = File::open(path("console")).expect("it was made above");
        let mut vm = Self { process, requests, answers, console };
        vm.answer("boot");
        for who in [ROOT, USER] {
            vm.ok(who, "copy oci:/layout:busybox store:localhost/busybox");
        }
        // Whatever is in the folder is open by now, and may lose its name.
        vm
    }

    /// Runs a script to its end, however that looks.
    pub(crate) fn call(&mut self, who: Caller, script: &str) -> Report {
        let request = format!("{} {} {}\n{script}", who.cgroup, who.uid, script.len());
        // A machine that is gone shows by the missing answer.
        drop(self.requests.write_all(request.as_bytes()));
        let (code, stdout, stderr) = self.answer(script);
        Report { line: format!("{script}    # in {} as {}", who.cgroup, who.uid), code, stdout, stderr }
    }

    /// Runs a script; it has to succeed.
    #[track_caller]
    pub(crate) fn ok(&mut self, who: Caller, script: &str) -> Report {
        self.call(who, script).expect_code(0)
    }

    fn answer(&mut self, what: &str) -> Answer {
        self.answers.recv_timeout(DEADLINE).unwrap_or_else(|error| {
            // Without it, the next one who asks hears that at once.
            let _already_gone = self.process.kill();
            let mut console = vec![0; 1 << 16];
            let length = self.console.read_at(&mut console, 0).unwrap_or_default();
            panic!(
                "{what}: no answer from the virtual machine: {error}\n{}",
                String::from_utf8_lossy(&console[..length])
            )
        })
    }
}

fn script(verb: &str, paths: &[&Path]) -> Call {
    Call::new(tree().join("tests/harness/vm.sh")).arg(verb).args(paths)
}

/// Reads what guest.sh writes. Ends with the machine.
fn listen(stdout: impl Read, answers: &Sender<Answer>) {
    let mut stdout = BufReader::new(stdout);
    let mut line = String::new();
    while let Ok(1..) = stdout.read_line(&mut line) {
        let answer = match line.trim() {
            "ready" => (0, String::new(), String::new()),
            numbers => {
                let mut numbers = numbers.split(' ').map(|number| number.parse().expect("a number"));
                let mut next = || numbers.next().expect("three numbers");
                let (code, out, err) = (next(), next(), next());
                let mut text = |length: i32| {
                    let mut bytes = vec![0; usize::try_from(length).expect("a length")];
                    stdout.read_exact(&mut bytes).expect("the machine runs");
                    String::from_utf8_lossy(&bytes).into_owned()
                };
                (code, text(out), text(err))
            }
        };
        if answers.send(answer).is_err() {
            return;
        }
        line.clear();
    }
}
