//! What changes a store, struck at each of its system calls in turn: killed, refused, out of room. Whatever the point,
//! the store stays whole, the same command succeeds afterwards, and one `copy gc` leaves what a store has that nothing
//! ever happened to.
//!
//! A few points of each in every run of the tests, all of them with `LAYERFS_SOAK=1`.

mod full;
mod kill;
mod power;
mod refuse;

use std::path::PathBuf;

use crate::harness::stored::{Stored, assert_whole};
use crate::harness::trace::{Act, Traced, trace};
use crate::harness::{Actor, Registry, Report, image, machine};

/// Everything that changes a store.
const ALL: &[&str] = &["pull", "pull and unpack", "unpack", "build", "run", "tag", "rmi", "gc"];

/// One command on a store.
struct Scenario {
    name: &'static str,
    /// The store it starts from.
    template: PathBuf,
    line: Vec<String>,
    /// What a store has after it and one collection.
    after: Stored,
    /// What it has where it is complete, before the collection: to compare layers with.
    whole: Stored,
    /// The names that are there before and after.
    names: [Vec<String>; 2],
    /// Changes of the store that it makes.
    points: usize,
}

/// A party with the stores that the commands start from, and a registry with what they pull.
struct Stage {
    actor: Actor,
    _registry: Registry,
    pulled: String,
}

impl Stage {
    fn new(actor: Actor) -> Self {
        let registry = Registry::start();
        let layers = vec![
            image::Layer::new().dir("bin/", 0o755).file("bin/tool", 0o4755, "tool").symlink("bin/other", "tool").tar(),
            // Its folder is described by the layer below: so it has a shim.
            image::Layer::new().file("bin/more", 0o644, [7; 200_000]).hardlink("bin/same", "bin/tool").tar(),
        ];
        let layout = actor.mkdir("layout");
        image::write_layout(&layout, "small", layers, &serde_json::json!({"Cmd": ["/bin/tool"]}));
        let pulled = registry.name("small:1");
        actor.copy([&format!("oci:{}:small", layout.display()), &format!("docker://{pulled}")]).ok();
        let actor = actor.with_busybox();
        actor.write(
            "app/Dockerfile",
            "FROM localhost/busybox\nCOPY Dockerfile /etc/\nRUN echo x > /x; mkdir -m 700 /y; ln /x /y/x\n",
        );
        // Unpacked, so that what is built on it is not what is unpacked first.
        actor.run(["--rm", "localhost/busybox", "true"]).ok();
        Self { actor, _registry: registry, pulled }
    }

    /// The party with a store like this one.
    fn with_store(&self, template: &std::path::Path) -> Actor {
        let actor = self.actor.elsewhere();
        actor.mkdir("home/.local/share");
        actor.mkdir("app");
        machine::copy_tree(template, &actor.store());
        actor.write("app/Dockerfile", std::fs::read(self.actor.path("app/Dockerfile")).expect("we wrote it"));
        actor
    }

    /// A scenario: `before` are commands that make the store it starts from.
    fn scenario(&self, name: &'static str, before: &[&[&str]], line: &[&str]) -> Scenario {
        let first = self.with_store(&self.actor.store());
        for line in before {
            first.call(line[0]).args(&line[1..]).ok();
        }
        let template = self.actor.path(&format!("template-{name}"));
        machine::copy_tree(&first.store(), &template);
        let line: Vec<String> = line.iter().map(|&word| word.to_owned()).collect();

        let clean = self.with_store(&template);
        let names = assert_whole(&clean.store(), &Stored::of(&clean.store()), name);
        let watched = trace(&clean, &clean.store(), &line, Act::Watch);
        watched.report.expect_code(0);
        let whole = Stored::of(&clean.store());
        let names = [names, assert_whole(&clean.store(), &whole, name)];
        clean.copy(["gc"]).ok();
        let after = Stored::of(&clean.store());
        Scenario { name, template, line, after, whole, names, points: watched.points.len() }
    }

    /// Each of these commands, one after the other.
    fn scenarios<'a>(&'a self, names: &'a [&'static str]) -> impl Iterator<Item = Scenario> + 'a {
        names.iter().map(|name| self.named(name))
    }

    fn named(&self, name: &'static str) -> Scenario {
        let pulled = self.pulled.as_str();
        let unpack = ["copy", "pull", "--unpack", pulled];
        match name {
            "pull" => self.scenario(name, &[], &["copy", "pull", pulled]),
            "pull and unpack" => self.scenario(name, &[], &unpack),
            "unpack" => self.scenario(name, &[&["copy", "pull", pulled]], &unpack),
            "build" => {
                let line = ["build", "-t", "localhost/app", "--build-arg", "SOURCE_DATE_EPOCH=1", "app"];
                self.scenario(name, &[], &line)
            }
            "run" => {
                let line = ["run", "--rm", "--network", "none", "localhost/busybox", "true"];
                self.scenario(name, &[], &line)
            }
            "tag" => self.scenario(name, &[], &["copy", "tag", "localhost/busybox", "localhost/other"]),
            "rmi" => self.scenario(name, &[&unpack], &["copy", "rmi", pulled]),
            "gc" => self.scenario(name, &[&unpack, &["rm", &self.ref_of_pulled()]], &["copy", "gc"]),
            other => panic!("no command is called `{other}`"),
        }
    }

    /// The file of the pulled image's name, from the folder of a party.
    fn ref_of_pulled(&self) -> String {
        let name = self.pulled.replace(':', "%3A").replace('/', "%2F");
        format!("home/.local/share/layerfs/refs/{name}")
    }

    fn strike(&self, scenario: &Scenario, act: Act) -> (Actor, Traced) {
        let actor = self.with_store(&scenario.template);
        let traced = trace(&actor, &actor.store(), &scenario.line, act);
        (actor, traced)
    }

    /// The store is whole whatever happened, the command can be given again, and nothing is left over.
    #[track_caller]
    fn assert_recovers(&self, scenario: &Scenario, actor: &Actor, what: &str) {
        let names = assert_whole(&actor.store(), &scenario.whole, what);
        assert!(scenario.names.contains(&names), "{what}: names {names:?}");
        let listed = actor.copy(["images", "--json"]).ok().json();
        assert_eq!(listed.as_array().map(Vec::len), Some(names.len()), "{what}: {listed}");
        let again = actor.call(&scenario.line[0]).args(&scenario.line[1..]).output();
        if scenario.name == "rmi" && names == scenario.names[1] {
            again.expect_code(1).says(&["is not in the store"]);
        } else {
            again.expect_code(0);
        }
        actor.copy(["gc"]).ok();
        assert_eq!(assert_whole(&actor.store(), &scenario.whole, what), scenario.names[1], "{what}");
        scenario.after.assert_same(&Stored::of(&actor.store()), what);
        actor.assert_nothing_left();
    }
}

/// Evenly spread points: a few, many with `LAYERFS_SOAK=1`.
fn sample(points: usize, few: usize, many: usize) -> Vec<usize> {
    let soak = std::env::var_os("LAYERFS_SOAK").is_some();
    let count = points.min(if soak { many } else { few });
    (0..count).map(|number| number * points / count).collect()
}

/// The struck command, for a failure's own sentence.
fn title(scenario: &Scenario, actor: &Actor, at: usize, traced: &Traced) -> String {
    let point = traced.struck.as_ref().map_or("nothing".to_owned(), ToString::to_string);
    format!("{} by {} struck at {at} of {}: {point}\n{}", scenario.name, actor.name(), scenario.points, traced.report)
}

/// A command that could not do its work: one sentence that names its object, and a hint.
#[track_caller]
fn assert_explains(report: &Report, words: &str, what: &str) {
    let lines: Vec<_> = report.stderr.lines().collect();
    let errors: Vec<_> = lines.iter().filter(|line| line.contains(words)).collect();
    assert!(!errors.is_empty(), "{what}: no word of what went wrong");
    assert!(errors.iter().any(|line| line.contains(['`', '/']) || line.contains("sha256:")), "{what}: no object");
    assert!(lines.iter().any(|line| line.starts_with("hint: ")), "{what}: no hint");
    assert!(!report.stderr.contains("panicked"), "{what}: a bug");
}
