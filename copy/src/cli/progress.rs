//! Progress for people and programs, on standard error or a descriptor of its own.
//!
//! On a terminal: a bar per object that moves, redrawn ten times a second at most. Elsewhere: one line per finished
//! object, as a log wants it.

use std::fs::File;
use std::io::{IsTerminal, Write, stderr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use layerfs::error::{Context, Result};
use layerfs::progress::{Event, Progress};

const REDRAW: Duration = Duration::from_millis(100);
const BAR: usize = 24;
/// Bars shown at once; more objects than move at the same time.
const ROWS: usize = 12;

/// Where progress goes.
pub(super) struct Reporter {
    state: Mutex<State>,
    mode: Mode,
}

enum Mode {
    Silent,
    Bars,
    Lines,
    Json(File),
}

#[derive(Default)]
struct State {
    items: Vec<Item>,
    drawn: usize,
    last: Option<Instant>,
}

struct Item {
    id: u64,
    label: String,
    total: Option<u64>,
    done: u64,
    started: Instant,
}

impl Reporter {
    /// Bars on a terminal, lines elsewhere, nothing with `quiet`, JSON on the descriptor `fd` where there is one.
    pub(super) fn new(quiet: bool, fd: Option<u32>) -> Result<Self> {
        let mode = match fd {
            Some(fd) => {
                let path = format!("/proc/self/fd/{fd}");
                Mode::Json(File::options().write(true).open(&path).at("open", &path)?)
            }
            None if quiet => Mode::Silent,
            None if stderr().is_terminal() => Mode::Bars,
            None => Mode::Lines,
        };
        Ok(Self { state: Mutex::default(), mode })
    }

    /// Takes the bars away: what follows is the result.
    pub(super) fn finish(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.items.clear();
        if matches!(self.mode, Mode::Bars) {
            show(&state.redraw());
        }
    }
}

impl Progress for Reporter {
    fn event(&self, event: &Event) {
        if matches!(self.mode, Mode::Silent) {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let finished = state.take(event);
        match (&self.mode, event) {
            (Mode::Json(file), event) => {
                let mut file = file;
                // Whoever wanted to know may have gone.
                let _ = file.write_all(json(event).as_bytes());
            }
            (Mode::Lines, Event::Note(text)) => note(text),
            (Mode::Lines, _) => {
                if let Some(item) = finished {
                    note(&format!(
                        "{}: {} in {:.1} s",
                        item.label,
                        size(item.done),
                        item.started.elapsed().as_secs_f64()
                    ));
                }
            }
            (Mode::Bars, Event::Note(text)) => {
                let text = format!("{}{text}\n{}", state.erase(), state.redraw());
                show(&text);
            }
            (Mode::Bars, _) => {
                if state.last.is_none_or(|last| last.elapsed() >= REDRAW) {
                    state.last = Some(Instant::now());
                    show(&state.redraw());
                }
            }
            (Mode::Silent, _) => {}
        }
    }
}

impl State {
    /// Takes note of an event; the item it finished, if it did.
    fn take(&mut self, event: &Event) -> Option<Item> {
        match event {
            Event::Start { id, label, total } => {
                let (label, started) = (label.clone(), Instant::now());
                self.items.push(Item { id: *id, label, total: *total, done: 0, started });
            }
            Event::Advance { id, bytes } => {
                if let Some(item) = self.items.iter_mut().find(|item| item.id == *id) {
                    item.done += bytes;
                }
            }
            Event::Done { id } => {
                let at = self.items.iter().position(|item| item.id == *id)?;
                return Some(self.items.remove(at));
            }
            Event::Note(_) => {}
        }
        None
    }

    fn erase(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            rows => format!("\x1b[{rows}A\x1b[J"),
        }
    }

    fn redraw(&mut self) -> String {
        let mut text = self.erase();
        for item in self.items.iter().take(ROWS) {
            text.push_str(&row(item));
            text.push('\n');
        }
        self.drawn = self.items.len().min(ROWS);
        text
    }
}

fn row(item: &Item) -> String {
    let seconds = item.started.elapsed().as_secs_f64().max(0.001);
    let rate = size((item.done as f64 / seconds) as u64);
    match item.total.filter(|total| *total > 0) {
        Some(total) => {
            let filled =
                usize::try_from(u128::from(item.done.min(total)) * BAR as u128 / u128::from(total)).unwrap_or(0);
            let bar = format!("{}{}", "=".repeat(filled), " ".repeat(BAR - filled));
            format!("{:<24} [{bar}] {:>9} / {:<9} {rate}/s", item.label, size(item.done), size(total))
        }
        None => format!("{:<24} {:>9} {rate}/s", item.label, size(item.done)),
    }
}

fn json(event: &Event) -> String {
    let value = match event {
        Event::Start { id, label, total } => {
            serde_json::json!({"event": "start", "id": id, "label": label, "total": total})
        }
        Event::Advance { id, bytes } => serde_json::json!({"event": "advance", "id": id, "bytes": bytes}),
        Event::Done { id } => serde_json::json!({"event": "done", "id": id}),
        Event::Note(text) => serde_json::json!({"event": "note", "text": text}),
    };
    format!("{value}\n")
}

/// Writes a line to standard error; that it may be closed does not matter.
pub(super) fn note(text: &str) {
    show(&format!("{text}\n"));
}

fn show(text: &str) {
    let _ = stderr().lock().write_all(text.as_bytes());
}

/// Bytes as people read them, in units of 1000 as docker shows them.
pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB", "PB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for next in units {
        if value < 1000.0 {
            break;
        }
        (value, unit) = (value / 1000.0, next);
    }
    match (unit, value) {
        ("B", _) => format!("{bytes} B"),
        (unit, value) if value < 10.0 => format!("{value:.2} {unit}"),
        (unit, value) if value < 100.0 => format!("{value:.1} {unit}"),
        (unit, value) => format!("{value:.0} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        for (bytes, text) in
            [(0, "0 B"), (999, "999 B"), (1500, "1.50 kB"), (28_400_000, "28.4 MB"), (857_000_000, "857 MB")]
        {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn bars_are_drawn_over_themselves() {
        let mut state = State::default();
        state.take(&Event::Start { id: 1, label: "blob x".into(), total: Some(100) });
        state.take(&Event::Advance { id: 1, bytes: 50 });
        let first = state.redraw();
        assert!(first.starts_with("blob x") && first.contains("[============            ]"), "{first}");
        assert!(state.redraw().starts_with("\x1b[1A\x1b[J"));
        assert_eq!(state.take(&Event::Done { id: 1 }).map(|item| item.done), Some(50));
        assert_eq!(state.redraw(), "\x1b[1A\x1b[J");
        assert_eq!(state.redraw(), "");
    }
}
