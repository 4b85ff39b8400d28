//! Two dockerds as a swarm, each in a network of its own with a cable between them.

use super::docker::Daemon;
use super::{docker_archive, until, words};
use crate::harness::call::Running;
use crate::harness::{Actor, Call, Report, peers};

/// A network namespace, there as long as its one process.
struct Network(Running);

impl Network {
    fn new() -> Self {
        let mut process = Call::shell("exec unshare --net sh -c 'echo there; exec sleep infinity'").start();
        process.wait_for_stdout("there");
        Self(process)
    }

    /// What to put before a command so that it runs in there.
    fn enter(&self) -> Vec<String> {
        words(&format!("nsenter --net=/proc/{}/ns/net", self.0.pid().as_raw_pid()))
    }

    fn ip(&self, line: &str) {
        let enter = self.enter();
        Call::new(&enter[0]).args(&enter[1..]).arg("ip").args(words(line)).ok();
    }
}

/// Nothing waits for a service to look stable: the test looks itself.
const CREATE: &str = "service create --detach --no-resolve-image --restart-delay 0s --stop-grace-period 1s";

#[test]
fn a_swarm_with_this_runtime() {
    let Some(actor) = Actor::root() else { return };
    if peers::find("dockerd").is_none() {
        return;
    }
    let networks = [Network::new(), Network::new()];
    let [first, second] = &networks;
    let peer = second.0.pid().as_raw_pid();
    first.ip(&format!("link add cable type veth peer name cable netns {peer}"));
    for (network, own, other) in [(first, 1, 2), (second, 2, 1)] {
        network.ip("link set lo up");
        network.ip(&format!("address add 10.77.0.{own}/24 dev cable"));
        network.ip("link set cable up");
        network.ip(&format!("route add default via 10.77.0.{other}"));
    }
    let start = |name: &str, network: &Network| Daemon::start(&actor.path(name), &network.enter(), &[]);
    let (Some(manager), Some(worker)) = (start("manager", first), start("worker", second)) else { return };
    let (archive, image) = docker_archive(&actor);
    for daemon in [&manager, &worker] {
        daemon.docker(["load", "-q", "-i", &archive]).ok();
    }
    let docker = |line: &str| manager.docker(words(&line.replace("IMAGE", image)));
    docker("swarm init --advertise-addr 10.77.0.1 --default-addr-pool 10.90.0.0/16").ok();
    let token = docker("swarm join-token -q worker").ok().result().to_owned();
    worker.docker(["swarm", "join", "--token", &token, "10.77.0.1:2377"]).ok();

    // Replicas on both machines; one that is killed is replaced; more of them; others in their place, and back.
    docker(&format!("{CREATE} --name many --replicas 3 --update-parallelism 0 IMAGE sleep 1000")).ok();
    let tasks = |service: &str| {
        docker(&format!(
            "service ps {service} -f desired-state=running --format {{{{{{.Node}}}} {{{{.CurrentState}}}}}}"
        ))
    };
    let running = |report: &Report| report.lines().iter().filter(|line| line.contains("Running")).count();
    until("three tasks", || tasks("many").output(), |report| running(report) == 3);
    let ids = |daemon: &Daemon| {
        daemon.docker(["ps", "-q", "--no-trunc"]).ok().lines().iter().map(|id| (*id).to_owned()).collect::<Vec<_>>()
    };
    let (here, there) = (ids(&manager), ids(&worker));
    assert_eq!(here.len() + there.len(), 3, "{here:?} {there:?}");
    assert!(!here.is_empty() && !there.is_empty(), "{here:?} {there:?}");
    worker.docker(["kill", &there[0]]).ok();
    until(
        "another task",
        || tasks("many").output(),
        |report| running(report) == 3 && [ids(&manager), ids(&worker)].iter().flatten().all(|id| *id != there[0]),
    );
    docker("service scale --detach many=5").ok();
    until("five tasks", || tasks("many").output(), |report| running(report) == 5);
    let command = |expected: usize, seconds: &str| {
        let look = || {
            let both =
                [&manager, &worker].map(|daemon| daemon.docker(["ps", "--no-trunc", "--format", "{{.Command}}"]).ok());
            let [mut all, more] = both;
            all.stdout.push_str(&more.stdout);
            all
        };
        let of = |report: &Report| report.lines().iter().filter(|line| line.contains(seconds)).count();
        until(seconds, look, |report| of(report) == expected && report.lines().len() == expected);
    };
    docker(
        "service update --detach --no-resolve-image --update-parallelism 2 --update-delay 0s --args {sleep 2000} many",
    )
    .ok();
    command(5, "sleep 2000");
    docker("service rollback --detach many").ok();
    command(5, "sleep 1000");
    docker("service rm many").ok();
    command(0, "sleep 1000");

    // A port of the machine itself, on each: tasks answer there.
    let answer = "{while :; do echo -e 'HTTP/1.0 200 OK\\r\\n\\r\\nhere' | nc -l -p 80; done}";
    docker(&format!(
        "{CREATE} --name web --mode global --publish mode=host,target=80,published=8080 IMAGE sh -c {answer}"
    ))
    .ok();
    until("two tasks", || tasks("web").output(), |report| running(report) == 2);
    let ports = worker.docker(["ps", "--format", "{{.Ports}}"]).ok();
    assert!(ports.stdout.contains("8080->80/tcp"), "{ports}");
    let enter = first.enter();
    let fetch = || {
        let there = "exec 3<>/dev/tcp/10.77.0.2/8080 && echo -e 'GET / HTTP/1.0\\r\\n\\r' >&3 && cat <&3";
        Call::new(&enter[0]).args(&enter[1..]).args(["timeout", "5", "bash", "-c", there]).output()
    };
    until("an answer", fetch, |report| report.stdout.ends_with("here\n"));
    docker("service rm web").ok();

    // A stack.
    actor.write(
        "stack.yml",
        format!("services:\n  one:\n    image: {image}\n    command: sleep 500\n    deploy: {{replicas: 2}}\n    networks: [host]\nnetworks:\n  host: {{external: true}}\n"),
    );
    docker(&format!("stack deploy --detach --resolve-image never -c {} pile", actor.path("stack.yml").display())).ok();
    until("the stack", || tasks("pile_one").output(), |report| running(report) == 2);
    docker("stack rm pile").ok();
    command(0, "sleep 500");
}
