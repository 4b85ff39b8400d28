//! Copies that are made before it is their turn, beside the `RUN` steps of their own stage.
//!
//! A copy out of a context depends on the layers below it by its [`Placement`] only. So when a step of the stage turns out
//! to take time, the copies after it are made at once, on the guess that the steps between leave their destination as it
//! is. What was made counts only if the guess was right to the last bit: key and placement, the times of folders included,
//! are looked up again when it is their turn. So what comes out is the same whether there was time for it or not; a wrong
//! guess costs a layer that nobody has, which `copy gc` takes away.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Scope;

use layerfs::error::Result;

use super::copying::{Looked, is_of_context};
use super::once::Promise;
use super::{Engine, Origins, Stack};
use crate::cache::{Key, KeyBuilder, Layer};
use crate::exec::placement::Placement;
use crate::graph::{Action, Copy, Stage};

/// A copy that was made on a guess.
#[derive(Clone)]
struct Guessed {
    key: Key,
    placement: Placement,
    layer: Option<Layer>,
}

/// The copies of a stage that are made early.
pub(super) struct Beside<'a> {
    engine: &'a Engine<'a>,
    origins: &'a Origins<'a>,
    label: &'a str,
    /// By the step's place in the stage.
    copies: Vec<(usize, &'a Copy, Promise<Guessed>, AtomicBool)>,
}

/// Frees whoever waits for a copy, even if it could not be made.
struct Freed<'a>(&'a Promise<Guessed>);

impl Drop for Freed<'_> {
    fn drop(&mut self) {
        self.0.settle(None);
    }
}

impl<'a> Beside<'a> {
    /// Those copies of the stage that can be.
    pub(super) fn new(engine: &'a Engine<'a>, stage: &'a Stage, origins: &'a Origins<'a>) -> Self {
        let copy = |(number, step): (usize, &'a crate::graph::Step)| match &step.action {
            Action::Copy(copy) if is_of_context(copy) => {
                Some((number, &**copy, Promise::default(), AtomicBool::new(false)))
            }
            _ => None,
        };
        Self { engine, origins, label: &stage.label, copies: stage.steps.iter().enumerate().filter_map(copy).collect() }
    }

    /// Makes the copies after step `number`, whose stage is `stack` so far.
    pub(super) fn begin<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, number: usize, stack: Stack) {
        for (_, copy, promise, begun) in self.copies.iter().filter(|(at, ..)| *at > number) {
            if begun.swap(true, Ordering::SeqCst) {
                continue;
            }
            let stack = stack.clone();
            scope.spawn(move || {
                let freed = Freed(promise);
                // What goes wrong here goes wrong again when it is the step's turn, and is told then.
                if let Ok(Some(guessed)) = self.make(copy, &stack) {
                    freed.0.settle(Some(guessed));
                }
            });
        }
    }

    fn make(&self, copy: &Copy, stack: &Stack) -> Result<Option<Guessed>> {
        let engine = self.engine;
        let context = self.origins.context(&copy.origin)?;
        let begin = KeyBuilder::new("copy/1").with("epoch", engine.clock.describe());
        let looked = Looked::new(begin, context, copy, stack.view(engine.store)?)?;
        let key = looked.key.clone().finish();
        let known = !engine.no_cache.covers(self.label) && engine.records.find(&key)?.is_some();
        if looked.meets || known {
            return Ok(None);
        }
        // Whoever waits for this holds a place already; it never waits for one itself.
        let Some(_slot) = engine.common.slots.try_take() else { return Ok(None) };
        engine.cancel.check()?;
        let layer = looked.write(engine.store, context, copy, engine.clock)?;
        Ok(Some(Guessed { key, placement: looked.placement, layer }))
    }

    /// The layer of step `number`, if it was made early and is what it has to be now.
    pub(super) fn take(&self, number: usize, key: &Key, placement: &Placement) -> Option<Option<Layer>> {
        let (_, _, promise, begun) = self.copies.iter().find(|(at, ..)| *at == number)?;
        if !begun.load(Ordering::SeqCst) {
            return None;
        }
        let guessed = promise.wait()?;
        (guessed.key == *key && guessed.placement == *placement).then_some(guessed.layer)
    }
}
