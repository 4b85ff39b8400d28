//! containerd's own client and shim.

use std::time::Duration;

use super::{runtime, until, words};
use crate::harness::call::Running;
use crate::harness::{Actor, Call, image, peers};

/// The daemon, ended with the test.
struct Containerd {
    process: Running,
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.process.signal(rustix::process::Signal::TERM);
        self.process.ends_within(Duration::from_secs(20));
    }
}

#[test]
fn containerd_with_this_runtime() {
    let Some(actor) = Actor::root() else { return };
    let Some(daemon) = peers::call("containerd", actor.dir()) else { return };
    let at = |name: &str| actor.path(name).display().to_string();
    let socket = at("socket");
    let config = format!(
        "version = 3\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.cri.v1.images\", \
         \"io.containerd.cri.v1.runtime\", \"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {socket:?}\n[ttrpc]\naddress = {:?}\n",
        at("root"),
        at("state"),
        at("ttrpc")
    );
    actor.write("config.toml", config);
    let mut process = daemon.args(["-c", &at("config.toml")]).start();
    process.wait_for_stderr("containerd successfully booted");
    let containerd = Containerd { process };

    let archive = format!("oci-archive:{}:docker.io/library/busybox:1", at("image.tar"));
    actor.copy([&format!("oci:{}:busybox", image::busybox().display()), &archive]).ok();
    let program = peers::find("ctr").expect("containerd is there, so is ctr");
    // Where runtimes keep state belongs to the machine: a name of our own in it.
    let namespace = format!("layerfs-{}", std::process::id());
    let ctr = |line: &str| {
        let line = line.replace("RUN", &format!("run --runc-binary {}", runtime().display()));
        Call::new(&program).dir(actor.dir()).args(["-a", &socket, "-n", &namespace]).args(words(&line))
    };
    ctr(&format!("images import {}", at("image.tar"))).ok();
    let image = ctr("images ls -q").ok().result().to_owned();
    let run = |line: &str| ctr(&line.replace("IMAGE", &image));

    assert_eq!(run("RUN --rm IMAGE a1 echo hi").ok().stdout, "hi\n");
    run("RUN --rm IMAGE a2 sh -c {exit 7}").fails(7);
    run("RUN --rm IMAGE a3 nothing").output().expect_not_zero().says(&["executable file not found in $PATH"]);
    let status = |id: &str| {
        let list = ctr("tasks ls").output();
        let line = list.stdout.lines().find(|line| line.split_whitespace().next() == Some(id));
        line.and_then(|line| line.split_whitespace().last()).unwrap_or("gone").to_owned()
    };
    run("RUN -d --memory-limit 20971520 IMAGE b1 sh -c {trap 'exit 5' TERM; while :; do sleep 0.1; done}").ok();
    assert!(ctr("tasks exec --exec-id e1 b1 id").ok().stdout.starts_with("uid=0(root)"));
    ctr("tasks exec --exec-id e2 b1 sh -c {exit 9}").fails(9);
    ctr("tasks pause b1").ok();
    assert_eq!(status("b1"), "PAUSED");
    ctr("tasks resume b1").ok();
    assert_eq!(status("b1"), "RUNNING");
    // The shim gives none while any hierarchy of the machine comes or goes, as in another test.
    until("metrics", || ctr("tasks metrics --format json b1").output(), |report| report.stdout.contains("20971520"));
    assert!(ctr("tasks ps b1").ok().lines().len() >= 2);
    ctr("tasks kill -s TERM b1").ok();
    until("its end", || ctr("tasks ls").output(), |report| report.stdout.contains("STOPPED"));
    ctr("tasks delete b1").ok().says(&["task b1 exit with non-zero exit code 5"]);
    ctr("containers delete b1").ok();

    // A terminal, which ctr wants for itself, too.
    let line = format!(
        "{} -a {socket} -n {namespace} run --rm -t --runc-binary {} {image} c1 tty",
        program.display(),
        runtime().display()
    );
    let said = Call::new("script").dir(actor.dir()).args(["-qec", &line, "/dev/null"]).ok();
    assert!(said.stdout.contains("/dev/pts/"), "{said}");
    // Ids of its own.
    let said = run("RUN --rm --uidmap 0:100000:65536 --gidmap 0:100000:65536 IMAGE c2 cat /proc/self/uid_map").ok();
    assert_eq!(words(&said.stdout), ["0", "100000", "65536"]);

    assert_eq!(ctr("tasks ls -q").ok().stdout, "");
    assert_eq!(ctr("containers ls -q").ok().stdout, "");
    drop(containerd);
}
