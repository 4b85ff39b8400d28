//! Progress for people and programs, on standard error or a descriptor of its own.
//!
//! On a terminal: a bar per object that moves, redrawn ten times a second at most, never wider or higher than the
//! terminal is at that moment. Elsewhere, and where `TERM` is `dumb`: one line per finished object, as a log wants it.
//! Plain ASCII without colours, so that neither the locale nor `NO_COLOR` matters.

use std::fs::File;
use std::io::{IsTerminal, Write, stderr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::progress::{Event, Progress};

const REDRAW: Duration = Duration::from_millis(100);
const BAR: usize = 24;
/// A bar of less says nothing.
const BAR_MIN: usize = 6;
/// Bars shown at once; more objects than move at the same time.
const ROWS: usize = 12;

/// Columns and rows of a terminal.
#[derive(Clone, Copy)]
struct Screen {
    width: usize,
    height: usize,
}

impl Screen {
    /// The terminal as it is now: its user may change it at any time. One that does not say is taken for 80 by 24.
    fn of_stderr() -> Self {
        let known = |cells: u16, usual: usize| if cells == 0 { usual } else { usize::from(cells) };
        match rustix::termios::tcgetwinsize(stderr()) {
            Ok(size) => Self { width: known(size.ws_col, 80), height: known(size.ws_row, 24) },
            Err(_) => Self { width: 80, height: 24 },
        }
    }
}

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
    /// JSON on standard error.
    JsonLines,
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
    /// Bars on a terminal, lines elsewhere, nothing with `--quiet`, unless `--progress` says otherwise.
    pub(super) fn for_command(global: &super::Global) -> Result<Self> {
        let mode = match (global.progress.as_str(), global.quiet) {
            ("json", _) => Mode::JsonLines,
            ("auto", false) if stderr().is_terminal() && can_move_up() => Mode::Bars,
            ("auto" | "plain", false) => Mode::Lines,
            ("auto" | "plain" | "none", _) => Mode::Silent,
            (other, _) => {
                return Err(Error::new(Kind::Usage, format!("`--progress {other}` is not known"))
                    .hint("auto, plain, json or none"));
            }
        };
        Ok(Self { state: Mutex::default(), mode })
    }

    /// As [`Reporter::for_command`]; JSON on the descriptor `fd` where there is one, nothing with `quiet`.
    pub(super) fn new(quiet: bool, fd: Option<u32>) -> Result<Self> {
        let mode = match fd {
            Some(fd) => {
                let path = format!("/proc/self/fd/{fd}");
                Mode::Json(File::options().write(true).open(&path).at("open", &path)?)
            }
            None if quiet => Mode::Silent,
            None if stderr().is_terminal() && can_move_up() => Mode::Bars,
            None => Mode::Lines,
        };
        Ok(Self { state: Mutex::default(), mode })
    }

    /// Takes the bars away: what follows is the result.
    pub(super) fn finish(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.items.clear();
        if matches!(self.mode, Mode::Bars) {
            show(&state.redraw(Screen::of_stderr()));
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
            (Mode::JsonLines, event) => show(&json(event)),
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
                let text = format!("{}{text}\n{}", state.erase(), state.redraw(Screen::of_stderr()));
                show(&text);
            }
            (Mode::Bars, _) => {
                if state.last.is_none_or(|last| last.elapsed() >= REDRAW) {
                    state.last = Some(Instant::now());
                    show(&state.redraw(Screen::of_stderr()));
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

    fn redraw(&mut self, screen: Screen) -> String {
        let mut text = self.erase();
        // The line that the cursor is on is no place for a bar: the terminal would scroll.
        let most = ROWS.min(screen.height.saturating_sub(1));
        let (shown, more) = match self.items.len() {
            all if all <= most => (all, 0),
            all => (most.saturating_sub(1), all - most.saturating_sub(1)),
        };
        let mut rows: Vec<String> = self.items.iter().take(shown).map(|item| row(item, screen.width)).collect();
        if more > 0 && most > 0 {
            rows.push(cut(format!("and {more} more"), screen.width));
        }
        self.drawn = rows.len();
        rows.iter().for_each(|row| text.extend([row, "\n"]));
        text
    }
}

/// Whether the terminal understands the two sequences that bars need.
fn can_move_up() -> bool {
    std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// An object's line in at most `width` columns: what matters less goes first (the rate, the bar, the total).
fn row(item: &Item, width: usize) -> String {
    let seconds = item.started.elapsed().as_secs_f64().max(0.001);
    let rate = format!("{}/s", size((item.done as f64 / seconds) as u64));
    let label = &item.label;
    let done = size(item.done);
    let Some(total) = item.total.filter(|total| *total > 0) else {
        let full = format!("{label:<24} {done:>9} {rate}");
        return if full.len() <= width { full } else { cut(format!("{label} {done}"), width) };
    };
    let percent = u128::from(item.done.min(total)) * 100 / u128::from(total);
    let numbers = format!("{done:>9} / {:<9}", size(total));
    let bar = |wide: usize| {
        let filled = usize::try_from(u128::from(item.done.min(total)) * wide as u128 / u128::from(total)).unwrap_or(0);
        format!("[{}{}]", "=".repeat(filled), " ".repeat(wide - filled))
    };
    let full = format!("{label:<24} {} {numbers} {rate}", bar(BAR));
    // The rate is as long as it is today; the line must not grow past the edge when it gets longer.
    if full.len() - rate.len() + "999 MB/s".len() <= width {
        return full;
    }
    let fixed = label.len().max(24) + numbers.len() + 4;
    if width >= fixed + BAR_MIN {
        return format!("{label:<24} {} {}", bar((width - fixed).min(BAR)), numbers.trim_end());
    }
    cut(format!("{label} {percent}%"), width)
}

/// The end of a line is what tells lines apart least when its beginning is cut: digests differ everywhere.
fn cut(text: String, width: usize) -> String {
    match text.chars().count() {
        length if length > width => text.chars().skip(length - width).collect(),
        _ => text,
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

    const USUAL: Screen = Screen { width: 100, height: 24 };

    fn busy(items: u64) -> State {
        let mut state = State::default();
        for id in 0..items {
            state.take(&Event::Start { id, label: format!("blob {id:012}"), total: Some(1_000_000) });
            state.take(&Event::Advance { id, bytes: 500_000 });
        }
        state
    }

    #[test]
    fn bars_are_drawn_over_themselves() {
        let mut state = State::default();
        state.take(&Event::Start { id: 1, label: "blob x".into(), total: Some(100) });
        state.take(&Event::Advance { id: 1, bytes: 50 });
        let first = state.redraw(USUAL);
        assert!(first.starts_with("blob x") && first.contains("[============            ]"), "{first}");
        assert!(state.redraw(USUAL).starts_with("\x1b[1A\x1b[J"));
        assert_eq!(state.take(&Event::Done { id: 1 }).map(|item| item.done), Some(50));
        assert_eq!(state.redraw(USUAL), "\x1b[1A\x1b[J");
        assert_eq!(state.redraw(USUAL), "");
    }

    #[test]
    fn no_line_is_wider_and_no_picture_higher_than_the_terminal() {
        for width in 1..130 {
            for height in [1, 2, 3, 8, 50] {
                let mut state = busy(20);
                let text = state.redraw(Screen { width, height });
                assert!(text.lines().all(|line| line.chars().count() <= width), "{width}: {text}");
                assert!(text.lines().count() < height.max(2) && text.lines().count() <= ROWS, "{height}: {text}");
                assert_eq!(state.drawn, text.lines().count());
            }
        }
        let narrow = |width| busy(1).redraw(Screen { width, height: 24 });
        assert_eq!(narrow(60), "blob 000000000000        [=====      ]    500 kB / 1.00 MB\n");
        assert_eq!(narrow(30), "blob 000000000000 50%\n");
        assert_eq!(narrow(10), "000000 50%\n");
        assert!(busy(20).redraw(USUAL).ends_with("\nand 9 more\n"));
    }
}
