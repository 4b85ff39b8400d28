//! `--verify`: everything is built once more, from nothing, and compared.
//!
//! A step of both builds is the same one if its key is: then all that it depends on was the same, and what it yields has
//! to be. So exactly those steps are told that are not reproducible, and not what follows from them.

use std::collections::HashMap;

use layerfs::error::{Error, Kind, Result};

use super::carry_out_all;
use crate::cache::{Key, Used};
use crate::compare;
use crate::graph::Graph;
use crate::options::NoCache;
use crate::schedule::{Common, Engine};

/// Paths that are told of each step.
const TOLD: usize = 50;

/// Builds a second time; `common` knows nothing of the first.
///
/// # Errors
/// `Kind::Conflict` where a step yielded something else, with the paths; or a step failed now.
pub(super) fn again<'a>(engine: &mut Engine<'a>, common: &'a Common, graphs: &[Graph]) -> Result<()> {
    let first = engine.used_by(None);
    let (kept, clock) = (std::mem::take(&mut engine.used), engine.clock);
    engine.progress.note("everything is built a second time, and compared");
    engine.common = common;
    (engine.no_cache, engine.keeps, engine.explain) = (&NoCache::Everything, false, false);
    // Whatever takes its time from the clock shows.
    engine.clock.now = crate::time::now().max(clock.now + 1);
    carry_out_all(engine, graphs)?;
    let second = std::mem::replace(&mut engine.used, kept);
    engine.clock = clock;
    let second = second.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let told = differences(engine, &first, &second)?;
    if told.is_empty() {
        engine.progress.note("the second build made the same");
        return Ok(());
    }
    let error = Error::new(Kind::Conflict, format!("built twice, and the second time differs:\n{}", told.trim_end()));
    Err(match engine.clock.epoch {
        Some(_) => error,
        None => error.hint("files are dated when they are made: give the build a --source-date-epoch"),
    })
}

fn differences(engine: &Engine<'_>, first: &[Used], second: &[Used]) -> Result<String> {
    let again: HashMap<Key, &Used> = second.iter().map(|used| (used.key, used)).collect();
    let mut text = String::new();
    for used in first {
        let Some(other) = again.get(&used.key) else { continue };
        let (a, b) = (used.outcome.layer, other.outcome.layer);
        if a.map(|layer| layer.diff_id) == b.map(|layer| layer.diff_id) {
            continue;
        }
        text.push_str(&format!("{}\n", used.title));
        let found = compare::layers(engine.store, a, b)?;
        for one in found.iter().take(TOLD) {
            text.push_str(&format!("  {}\n", one.of_builds()));
        }
        if found.len() > TOLD {
            text.push_str(&format!("  and {} more\n", found.len() - TOLD));
        }
    }
    Ok(text)
}
