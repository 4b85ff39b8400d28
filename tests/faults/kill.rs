//! kill -9.

use super::{ALL, Act, Stage, sample, title};
use crate::harness::{Actor, machine};

/// Points of each command in a run that is no soak.
const FEW: usize = 9;

#[expect(clippy::print_stdout, reason = "a walk over all points says how many it was")]
fn killed(stage: &Stage, commands: &[&'static str], few: usize) {
    for scenario in stage.scenarios(commands) {
        let mut struck = 0;
        for at in sample(scenario.points, few, usize::MAX) {
            let (actor, traced) = stage.strike(&scenario, Act::KillAt(at));
            let what = title(&scenario, &actor, at, &traced);
            struck += usize::from(traced.struck.is_some());
            stage.assert_recovers(&scenario, &actor, &what);
        }
        println!("{} by {}: killed at {struck} of {} points", scenario.name, stage.actor.name(), scenario.points);
        assert!(struck > 0, "{}: never killed", scenario.name);
    }
}

#[test]
fn killed_at_any_change_by_root_the_store_stays_whole() {
    let Some(root) = Actor::root() else { return };
    killed(&Stage::new(root), ALL, FEW);
}

#[test]
fn killed_at_any_change_by_a_user_the_store_stays_whole() {
    if !machine::is_root() {
        return machine::not_run("a test that traces programs of an ordinary user: needs root");
    }
    let Some(user) = Actor::ordinary() else { return };
    let commands = if std::env::var_os("LAYERFS_SOAK").is_some() { ALL } else { &["pull and unpack", "build"] };
    killed(&Stage::new(user), commands, FEW);
}
