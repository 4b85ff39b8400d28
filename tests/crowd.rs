//! Two hundred processes on one store at once.

use crate::harness::{Actor, Call, Registry, Report, image};

const PROCESSES: usize = 200;
/// Images in the registry: each has the base layer, one that it shares with every second one, and its own.
const IMAGES: usize = 5;

/// What one of them does.
fn work(actor: &Actor, registry: &Registry, number: usize) -> (&'static str, Call) {
    let name = registry.name(&format!("crowd:{}", number / 8 % IMAGES));
    let own = format!("localhost/tag-{number}");
    match number % 8 {
        0 => ("pull", actor.copy(["pull", &name])),
        1 => ("pull", actor.copy(["pull", "--unpack", &name])),
        2 => ("tag", actor.copy(["tag", "localhost/busybox", &own])),
        3 => ("rmi", actor.copy(["rmi", &name])),
        4 => ("gc", actor.copy(["gc"])),
        5 => ("run", actor.run(["--rm", "--network", "none", "localhost/busybox", "echo", "up"])),
        6 => ("run", actor.run(["--rm", "--network", "none", &name, "echo", "up"])),
        _ => ("images", actor.copy(["images"])),
    }
}

#[track_caller]
fn assert_done(kind: &str, report: Report) {
    match (kind, report.code) {
        // The one thing that may fail: somebody else was faster.
        ("rmi", 1) => drop(report.says(&["is not in the store"])),
        ("run", _) => assert_eq!(report.expect_code(0).stdout, "up\n"),
        _ => drop(report.expect_code(0)),
    }
}

#[test]
fn two_hundred_processes_share_one_store() {
    let registry = Registry::start();
    for actor in Actor::everyone() {
        let actor = actor.with_busybox();
        let busybox = std::fs::read("/bin/busybox").expect("the package busybox-static is installed");
        let base = image::Layer::new()
            .dir("bin/", 0o755)
            .file("bin/busybox", 0o755, busybox)
            .symlink("bin/sh", "busybox")
            .symlink("bin/echo", "busybox")
            .tar();
        for number in 0..IMAGES {
            let shared = image::Layer::new().dir("shared/", 0o755).file("shared/x", 0o644, [b'0' + number as u8 % 2]);
            let own = image::Layer::new().file("shared/own", 0o644, vec![number as u8; 100_000]);
            let layout = actor.path(&format!("layout-{number}"));
            let config = serde_json::json!({"Env": ["PATH=/bin"]});
            image::write_layout(&layout, "one", vec![base.clone(), shared.tar(), own.tar()], &config);
            let name = registry.name(&format!("crowd:{number}"));
            actor.copy([&format!("oci:{}:one", layout.display()), &format!("docker://{name}")]).ok();
        }
        let running: Vec<_> = (0..PROCESSES)
            .map(|number| {
                let (kind, call) = work(&actor, &registry, number);
                (kind, call.start())
            })
            .collect();
        for (kind, running) in running {
            assert_done(kind, running.wait());
        }
        // Collections in the background are processes of this party too.
        actor.copy(["gc"]).ok();
        let tags = (0..PROCESSES).filter(|number| number % 8 == 2).count();
        let listed = actor.copy(["images"]).ok().stdout;
        assert_eq!(listed.matches("localhost/tag-").count(), tags, "{listed}");
        actor.run(["--rm", "localhost/tag-2", "echo", "up"]).ok();
        actor.copy(["rmi", "--all"]).ok();
        actor.copy(["gc"]).ok();
        for folder in ["blobs/sha256", "refs", "layers", "containers", "locks", "tmp"] {
            let left: Vec<_> = std::fs::read_dir(actor.store().join(folder)).expect("a folder of the store").collect();
            assert!(left.is_empty(), "{folder} of {}: {left:#?}", actor.name());
        }
        actor.assert_nothing_left();
    }
}
