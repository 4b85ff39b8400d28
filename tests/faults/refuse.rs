//! The kernel refuses: no room, no quota, a broken disk, one that can only be read.

use nix::errno::Errno;

use super::{ALL, Act, Stage, assert_explains, sample, title};
use crate::harness::Actor;

/// Points of each command and refusal in a run that is no soak.
const FEW: usize = 4;

/// One refusal from one point on, and what the command has to say.
fn refused(stage: &Stage, errno: Errno, words: &str, act: impl Fn(usize) -> Act) {
    for scenario in stage.scenarios(ALL) {
        for at in sample(scenario.points, FEW, usize::MAX) {
            let (actor, traced) = stage.strike(&scenario, act(at));
            let what = format!("{errno} {}", title(&scenario, &actor, at, &traced));
            // What only tidies up may fail unheard; what was asked for may not.
            if traced.report.code != 0 {
                assert_eq!(traced.report.code, if scenario.name == "run" { 125 } else { 1 }, "{what}");
                assert_explains(&traced.report, words, &what);
            }
            stage.assert_recovers(&scenario, &actor, &what);
        }
    }
}

#[test]
fn a_disk_that_is_full_from_any_change_on_leaves_the_store_whole() {
    let Some(root) = Actor::root() else { return };
    let stage = Stage::new(root);
    refused(&stage, Errno::ENOSPC, "no space left on device", |at| Act::FailFrom(at, Errno::ENOSPC));
}

#[test]
fn a_quota_that_is_used_up_at_any_change_leaves_the_store_whole() {
    let Some(user) = Actor::root().and_then(|_| Actor::ordinary()) else { return };
    let stage = Stage::new(user);
    refused(&stage, Errno::EDQUOT, "quota exceeded", |at| Act::FailFrom(at, Errno::EDQUOT));
}

#[test]
fn a_disk_that_fails_at_any_change_leaves_the_store_whole() {
    let Some(root) = Actor::root() else { return };
    let stage = Stage::new(root);
    refused(&stage, Errno::EIO, "input/output error", |at| Act::FailAt(at, Errno::EIO));
}
