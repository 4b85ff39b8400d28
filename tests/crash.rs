//! kill -9 of each program at instants spread over its work, then the same command again.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{Actor, Call, Registry, image, machine};

/// How often each program is killed: a few times in every run of the tests, often with `LAYERFS_SOAK=1`.
fn rounds() -> u64 {
    if std::env::var_os("LAYERFS_SOAK").is_some() { 30 } else { 8 }
}

/// Numbers that look random and can be had again: SplitMix64. `LAYERFS_SEED` chooses the sequence.
struct Random(u64);

impl Random {
    #[expect(clippy::print_stdout, reason = "the seed of a failure has to be in its output")]
    fn new(subject: &str) -> Self {
        let seed = std::env::var("LAYERFS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_121);
        println!("{subject}: LAYERFS_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, limit: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        limit.mul_f64(((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

fn time_of(call: Call) -> Duration {
    let from = Instant::now();
    call.ok();
    from.elapsed()
}

/// Starts it, kills the program alone after this time. What it had started has to notice by itself.
fn killed_after(call: Call, time: Duration) {
    let running = call.start();
    running.ends_within(time);
    running.signal(Signal::KILL);
    running.wait();
}

/// An image of several layers whose bytes do not compress, so that every part of a transfer takes its time.
fn heavy_layout(actor: &Actor) -> String {
    let mut layers = Vec::new();
    let busybox = std::fs::read("/bin/busybox").expect("the package busybox-static is installed");
    layers.push(
        image::Layer::new().dir("bin/", 0o755).file("bin/busybox", 0o755, busybox).symlink("bin/sh", "busybox").tar(),
    );
    let mut noise = 0x1234_5678_u32;
    for number in 0..4 {
        let mut layer = image::Layer::new().dir(&format!("data{number}/"), 0o755);
        for file in 0..50 {
            let content: Vec<u8> = (0..40_000)
                .map(|_| {
                    noise ^= noise << 13;
                    noise ^= noise >> 17;
                    noise ^= noise << 5;
                    noise as u8
                })
                .collect();
            layer = layer.file(&format!("data{number}/{file}"), 0o644, content);
        }
        layers.push(layer.tar());
    }
    let dir = actor.path("heavy");
    image::write_layout(&dir, "heavy", layers, &serde_json::json!({"Cmd": ["/bin/sh", "-c", "exit 0"]}));
    format!("oci:{}:heavy", dir.display())
}

/// The names that `copy images` lists, with their tags, sorted.
fn images(actor: &Actor) -> Vec<String> {
    let list = actor.copy(["images", "--json"]).ok().json();
    let list = list.as_array().expect("a list of images");
    let mut names: Vec<_> = list.iter().filter_map(|image| image["name"].as_str().map(str::to_owned)).collect();
    names.sort();
    names
}

fn no_containers(actor: &Actor) {
    assert_eq!(actor.run(["ps", "-aq"]).ok().stdout, "");
}

#[test]
fn copy_killed_at_any_instant_can_be_repeated() {
    let mut random = Random::new("copy");
    let registry = Registry::start();
    let Some(owner) = Actor::ordinary() else { return };
    let source = heavy_layout(&owner);
    let remote = format!("docker://{}", registry.name("heavy:1"));
    let whole = time_of(owner.copy([&source, &remote]));
    for round in 0..rounds() {
        let actor = owner.elsewhere();
        // A third each: registry to store, registry to layout, layout to a repository that has nothing yet.
        let layout = format!("oci:{}:heavy", actor.path("layout").display());
        let fresh = format!("docker://{}", registry.name(&format!("fresh-{round}/heavy:1")));
        let (from, to) = match round % 3 {
            0 => (&remote, "store:localhost/heavy"),
            1 => (&remote, layout.as_str()),
            _ => (&source, fresh.as_str()),
        };
        killed_after(actor.copy([from.as_str(), to]), random.below(whole));
        actor.copy([from.as_str(), to]).ok();
        assert_eq!(images(&actor), if round % 3 == 0 { vec!["localhost/heavy:latest".to_owned()] } else { vec![] });
        // What arrived is whole: it can be read out again to the last byte.
        actor.copy([to, &format!("oci-archive:{}", actor.path("out.tar").display())]).ok();
        actor.assert_nothing_left();
    }
}

#[test]
fn build_killed_at_any_instant_can_be_repeated() {
    let mut random = Random::new("build");
    for actor in Actor::everyone() {
        let actor = actor.with_busybox();
        actor.write(
            "app/Dockerfile",
            "FROM localhost/busybox AS one\nARG ROUND\nRUN echo $ROUND > /one; seq 1 20000 > /numbers\n\
             FROM localhost/busybox AS two\nARG ROUND\nCOPY Dockerfile /copied\nRUN echo $ROUND > /two; for i in $(seq 1 200); do echo $i > /file-$i; done\n\
             FROM localhost/busybox\nCOPY --from=one /one /numbers /\nCOPY --from=two /two /\nRUN cat /one /two > /both\nCMD [\"cat\", \"/both\"]\n",
        );
        let context = actor.path("app").display().to_string();
        let build =
            |round: &str| actor.build(["-t", "localhost/app", "--build-arg", &format!("ROUND={round}"), &context]);
        let whole = time_of(build("first"));
        for round in 0..rounds() / 2 {
            killed_after(build(&round.to_string()), random.below(whole));
            build(&round.to_string()).ok();
            assert_eq!(actor.run(["--rm", "localhost/app"]).ok().stdout, format!("{round}\n{round}\n"));
            assert_eq!(images(&actor), ["localhost/app:latest", "localhost/busybox:latest"]);
            no_containers(&actor);
            actor.assert_nothing_left();
        }
    }
}

#[test]
fn run_killed_at_any_instant_can_be_repeated() {
    let mut random = Random::new("run");
    let registry = Registry::start();
    for owner in Actor::everyone() {
        let source = heavy_layout(&owner);
        let name = registry.name(&format!("{}/heavy:1", owner.name()));
        owner.copy([&source, &format!("docker://{name}")]).ok();
        let run = |actor: &Actor| actor.run(["--rm", "--name", "worker", &name, "/bin/sh", "-c", "echo up"]);
        let first = owner.elsewhere();
        let cold = time_of(run(&first));
        let warm = time_of(run(&first));
        for round in 0..rounds() / 2 {
            // Every other time the image has to be pulled as well.
            let fresh = owner.elsewhere();
            let (actor, whole) = if round % 2 == 0 { (&fresh, cold) } else { (&first, warm) };
            killed_after(run(actor), random.below(whole));
            assert_eq!(run(actor).ok().stdout, "up\n");
            assert_eq!(images(actor), [name.as_str()]);
            no_containers(actor);
            actor.assert_nothing_left();
        }
    }
}

#[test]
fn a_detached_start_killed_at_any_instant_leaves_a_whole_container_or_none() {
    let mut random = Random::new("run -d");
    for actor in Actor::everyone() {
        let actor = actor.with_busybox();
        let start = || actor.run(["-d", "--name", "worker", "localhost/busybox", "sleep", "1000"]);
        let whole = time_of(start());
        actor.run(["rm", "-f", "worker"]).ok();
        for _ in 0..rounds() / 2 {
            killed_after(start(), random.below(whole));
            let listed = actor.run(["ps", "-a"]).ok().stdout;
            if listed.contains("worker") {
                actor.run(["rm", "-f", "worker"]).ok();
            }
            start().ok();
            assert!(actor.run(["ps"]).ok().stdout.contains("worker"));
            actor.run(["rm", "-f", "worker"]).ok();
            no_containers(&actor);
            actor.assert_nothing_left();
        }
    }
}

#[test]
fn removal_killed_at_any_instant_keeps_every_other_image() {
    let mut random = Random::new("rmi");
    let Some(actor) = Actor::ordinary() else { return };
    let actor = actor.with_busybox();
    let source = heavy_layout(&actor);
    actor.copy([&source, "store:localhost/kept"]).ok();
    let whole = time_of(actor.copy(["tag", "localhost/kept", "localhost/gone"])) * 2;
    for _ in 0..rounds() {
        actor.copy(["tag", "localhost/kept", "localhost/gone"]).ok();
        killed_after(actor.copy(["rmi", "localhost/gone"]), random.below(whole));
        actor.copy(["rmi", "localhost/gone"]).output();
        assert_eq!(images(&actor), ["localhost/busybox:latest", "localhost/kept:latest"]);
        actor.run(["--rm", "localhost/kept"]).ok();
    }
    assert!(machine::programs().join("copy").exists());
}
