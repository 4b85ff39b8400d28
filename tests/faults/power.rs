//! The power goes, at any instant of a pull, an unpacking and a build.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{ALL, Act, Scenario, Stage, sample};
use crate::harness::disk::{Disk, Unflushed, mount_apart};
use crate::harness::stored::assert_whole;
use crate::harness::trace::{Traced, trace};
use crate::harness::{Actor, Call, machine};

/// Cuts of each command in a run that is no soak.
const FEW: usize = 4;
/// And in a soak.
const MANY: usize = 40;

/// Whether the machine says that it has started anew.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Boot {
    /// As after a power cut.
    Next,
    /// As no machine does.
    Same,
}

/// A command whose every write to the disk is known.
struct Recorded<'a> {
    stage: &'a Stage,
    scenario: &'a Scenario,
    disk: Disk,
    /// Instants from its beginning to its end.
    instants: usize,
    dir: tempfile::TempDir,
}

impl<'a> Recorded<'a> {
    fn new(stage: &'a Stage, scenario: &'a Scenario, kind: &'static str, act: Act) -> Self {
        mount_apart();
        let dir = machine::folder();
        let disk = Disk::new(dir.path(), kind, if kind == "xfs" { 320 } else { 64 });
        let actor = stage.with_store(&scenario.template);
        let above = actor.path("home/.local/share");
        let aside = actor.path("aside");
        std::fs::rename(&above, &aside).expect("both lie in our folder");
        let mounted = disk.mount(&above);
        machine::copy_tree(&aside.join("layerfs"), &above.join("layerfs"));
        disk.record(&mounted);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Somebody else on this disk, whose syncs bring out what is half done.
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    others_sync(&above);
                }
                others_sync(&above);
            });
            let traced = trace(&actor, &actor.store(), &scenario.line, act);
            done.store(true, Ordering::Relaxed);
            traced.report.expect_code(0);
        });
        // Unmounting writes all that is left.
        let instants = disk.instants();
        mounted.unmount();
        Self { stage, scenario, disk, instants, dir }
    }

    /// Cuts there, and looks at what a machine finds that starts again.
    #[track_caller]
    fn assert_opens_clean(&self, instant: usize, unflushed: Unflushed, boot: Boot) {
        let scenario = self.scenario;
        let what = format!("{} cut at {instant} of {}, unflushed {unflushed:?}", scenario.name, self.instants);
        let actor = self.stage.actor.elsewhere();
        let mounted = self.disk.cut(instant, unflushed, &actor.path("home/.local/share"));
        actor.write("app/Dockerfile", std::fs::read(self.stage.actor.path("app/Dockerfile")).expect("we wrote it"));
        let id = actor.write("boot_id", "00000000-1111-2222-3333-444444444444\n");
        let next_boot = |line: &[String]| match boot {
            Boot::Same => actor.call(&line[0]).args(&line[1..]),
            Boot::Next => {
                let script = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id; exec \"$@\"";
                actor.call("unshare").args(["-m", "bash", "-euc", script]).arg(&id).args(line)
            }
        };
        let listed = next_boot(&["copy", "images", "--json"].map(str::to_owned)).ok().json();
        let names = assert_whole(&actor.store(), &scenario.whole, &what);
        assert!(scenario.names.contains(&names), "{what}: names {names:?}");
        assert_eq!(listed.as_array().map(Vec::len), Some(names.len()), "{what}");
        next_boot(&scenario.line).ok();
        assert_eq!(assert_whole(&actor.store(), &scenario.whole, &what), scenario.names[1], "{what}");
        mounted.unmount();
    }

    /// Whether a cut at the end is found out.
    fn shows_damage(&self, boot: Boot) -> bool {
        let look = || self.assert_opens_clean(self.instants - 1, Unflushed::Written, boot);
        catch_unwind(AssertUnwindSafe(look)).is_err()
    }

    /// The file system itself came through: else the disk here is no disk.
    fn assert_recorded_well(&self) {
        Call::new("e2fsck").args(["-f", "-n"]).arg(self.dir.path().join("cut.img")).ok();
    }
}

fn others_sync(folder: &Path) {
    let mut file = std::fs::File::create(folder.join("others")).expect("there is room");
    file.write_all(b"x").and_then(|()| file.sync_all()).expect("there is room");
}

#[expect(clippy::print_stdout, reason = "a walk over all instants says how many it was")]
fn cut_everywhere(kind: &'static str, commands: &[&'static str]) {
    let Some(root) = Actor::root() else { return };
    let stage = Stage::new(root);
    for scenario in stage.scenarios(commands) {
        let recorded = Recorded::new(&stage, &scenario, kind, Act::Watch);
        let instants = recorded.instants;
        let cuts: Vec<_> = sample(instants, FEW, MANY).into_iter().chain([instants - 1]).collect();
        for instant in &cuts {
            recorded.assert_opens_clean(*instant, Unflushed::Written, Boot::Next);
            recorded.assert_opens_clean(*instant, Unflushed::Scattered(*instant as u64 * 2 + 1), Boot::Next);
            if kind == "ext4" {
                recorded.assert_recorded_well();
            }
        }
        println!("{} on {kind}: cut twice at {} of {instants} instants", scenario.name, cuts.len());
    }
}

#[test]
fn cut_at_any_instant_the_store_on_ext4_opens_clean() {
    cut_everywhere("ext4", &["pull", "pull and unpack", "unpack", "build", "tag"]);
}

#[test]
fn cut_at_any_instant_the_store_on_xfs_opens_clean() {
    if Call::new("sh").args(["-c", "command -v mkfs.xfs"]).output().code != 0 {
        return machine::not_run("a store on xfs: needs the package xfsprogs");
    }
    cut_everywhere("xfs", &["pull and unpack", "build"]);
}

#[test]
fn without_its_sync_a_power_cut_tears_what_a_name_leads_to() {
    let Some(root) = Actor::root() else { return };
    let stage = Stage::new(root);
    let pull = stage.named("pull");
    let recorded = Recorded::new(&stage, &pull, "ext4", Act::NoSync);
    assert!(recorded.shows_damage(Boot::Next), "a pull that syncs nothing passes: the other cuts show nothing");
}

#[test]
fn trusted_in_another_boot_a_layer_that_was_not_synced_is_torn() {
    let Some(root) = Actor::root() else { return };
    let stage = Stage::new(root);
    let unpack = stage.named("unpack");
    let recorded = Recorded::new(&stage, &unpack, "ext4", Act::Watch);
    assert!(recorded.shows_damage(Boot::Same), "no layer is torn by the cut: the other cuts show nothing");
}

fn syncs(traced: &Traced) -> Vec<&'static str> {
    traced.points.iter().map(|point| point.call).filter(|call| call.contains("sync")).collect()
}

#[test]
fn a_pull_of_any_number_of_files_syncs_once() {
    let Some(root) = Actor::root() else { return };
    let stage = Stage::new(root);
    for scenario in stage.scenarios(ALL) {
        let (actor, traced) = stage.strike(&scenario, Act::Watch);
        let expected: &[&str] = match scenario.name {
            "pull" | "pull and unpack" | "build" => &["syncfs"],
            // The base image was unpacked since the last one.
            "tag" => &["syncfs"],
            // Trusted in this boot only.
            "unpack" | "run" | "rmi" | "gc" => &[],
            other => panic!("nobody said how often `{other}` syncs"),
        };
        assert_eq!(syncs(&traced), expected, "{}", scenario.name);
        if scenario.name == "tag" {
            // Now all that the next name leads to is on the disk.
            let line = ["copy", "tag", "localhost/busybox", "localhost/third"].map(str::to_owned);
            assert_eq!(syncs(&trace(&actor, &actor.store(), &line, Act::Watch)), ["fdatasync"]);
        }
    }
}
