//! What a build tells while it runs: steps that begin, log, and end.
//!
//! A [`Progress`] is given to everything that works; it numbers the steps and passes what happens to one display.
//! Nothing is ever clipped: every line a step writes is shown by `plain` and `rawjson`, and the last ones of a failed
//! step are kept for its error.

mod plain;
mod raw;
pub mod timeline;
mod tty;

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

/// How many of a step's last lines its error shows.
const TAIL: usize = 20;
/// The longest line that is held back until its end comes, in bytes.
const LINE_MAX: usize = 64 << 10;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Line by line.
    Plain,
    /// For a terminal of this width: running steps are redrawn in place.
    Tty(usize),
    /// JSON objects, one a line.
    RawJson,
    /// Not at all.
    Quiet,
}

/// Identifies a step to a [`Progress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepId(usize);

/// Which stream a line was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It was done.
    Done,
    /// Its result was there already.
    Cached,
    /// It failed, with this sentence.
    Failed(String),
    /// It was stopped because another failed, or the user asked.
    Canceled,
}

/// A step as a display sees it.
#[derive(Debug)]
struct Step {
    title: String,
    started: Instant,
    began: SystemTime,
    /// When it ended, and how.
    ended: Option<(Instant, &'static str)>,
}

/// What a display is told.
enum Happening<'a> {
    Started,
    /// A whole line, without its end.
    Line(Stream, &'a str),
    Ended(&'a End, Duration),
}

/// Draws what happens.
trait Display: Send {
    fn show(&mut self, out: &mut dyn Write, number: usize, step: &Step, what: &Happening<'_>) -> std::io::Result<()>;
    fn note(&mut self, out: &mut dyn Write, text: &str) -> std::io::Result<()>;
    /// Called ten times a second.
    fn tick(&mut self, _out: &mut dyn Write) -> std::io::Result<()> {
        Ok(())
    }
    /// Nothing more comes.
    fn finish(&mut self, _out: &mut dyn Write) -> std::io::Result<()> {
        Ok(())
    }
}

/// Receives what happens, from any thread.
pub struct Progress(Mutex<State>);

struct State {
    out: Box<dyn Write + Send>,
    display: Option<Box<dyn Display>>,
    steps: Vec<Step>,
    /// What was written of a line so far.
    partial: HashMap<(usize, Stream), Vec<u8>>,
    tails: HashMap<usize, VecDeque<String>>,
}

impl Progress {
    /// Shows on `out`.
    pub fn new(style: Style, out: Box<dyn Write + Send>) -> Self {
        let display: Option<Box<dyn Display>> = match style {
            Style::Plain => Some(Box::new(plain::Plain::default())),
            Style::Tty(width) => Some(Box::new(tty::Tty::new(width))),
            Style::RawJson => Some(Box::new(raw::Raw)),
            Style::Quiet => None,
        };
        Self(Mutex::new(State { out, display, steps: Vec::new(), partial: HashMap::new(), tails: HashMap::new() }))
    }

    /// A step begins.
    pub fn start(&self, title: &str) -> StepId {
        let mut state = self.state();
        let number = state.steps.len();
        state.steps.push(Step {
            title: title.to_owned(),
            started: Instant::now(),
            began: SystemTime::now(),
            ended: None,
        });
        state.show(number, &Happening::Started);
        StepId(number)
    }

    /// A step wrote something.
    pub fn log(&self, id: StepId, stream: Stream, bytes: &[u8]) {
        let mut state = self.state();
        let mut pending = state.partial.remove(&(id.0, stream)).unwrap_or_default();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            pending.extend_from_slice(piece);
            if piece.ends_with(b"\n") || pending.len() > LINE_MAX {
                state.line(id.0, stream, &pending);
                pending.clear();
            }
        }
        if !pending.is_empty() {
            state.partial.insert((id.0, stream), pending);
        }
    }

    /// A step ends.
    pub fn end(&self, id: StepId, end: &End) {
        let mut state = self.state();
        for stream in [Stream::Out, Stream::Err] {
            if let Some(rest) = state.partial.remove(&(id.0, stream)) {
                state.line(id.0, stream, &rest);
            }
        }
        let how = match end {
            End::Done => "done",
            End::Cached => "cached",
            End::Failed(_) => "failed",
            End::Canceled => "canceled",
        };
        state.steps[id.0].ended = Some((Instant::now(), how));
        let elapsed = state.steps[id.0].started.elapsed();
        state.show(id.0, &Happening::Ended(end, elapsed));
    }

    /// The last lines a step wrote.
    pub fn tail(&self, id: StepId) -> Vec<String> {
        self.state().tails.get(&id.0).map(|tail| tail.iter().cloned().collect()).unwrap_or_default()
    }

    /// Everything that happened, for a picture.
    pub fn timeline(&self) -> Vec<timeline::Bar> {
        let state = self.state();
        let Some(first) = state.steps.iter().map(|step| step.started).min() else { return Vec::new() };
        let since = |time: Instant| time.duration_since(first).as_secs_f64();
        let bar = |step: &Step| timeline::Bar {
            title: step.title.clone(),
            from: since(step.started),
            to: step.ended.map(|(time, _)| since(time)),
            how: step.ended.map_or("canceled", |(_, how)| how),
        };
        state.steps.iter().map(bar).collect()
    }

    /// A line about the build as a whole.
    pub fn note(&self, text: &str) {
        let State { out, display, .. } = &mut *self.state();
        if let Some(display) = display {
            let _ = display.note(out, text);
        }
    }

    /// Redraws what is running.
    pub fn tick(&self) {
        let State { out, display, .. } = &mut *self.state();
        if let Some(display) = display {
            let _ = display.tick(out);
        }
    }

    /// Leaves the output as the last lines should stay.
    pub fn finish(&self) {
        let State { out, display, .. } = &mut *self.state();
        if let Some(display) = display {
            let _ = display.finish(out);
        }
        let _ = out.flush();
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    fn line(&mut self, number: usize, stream: Stream, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_end_matches('\n').trim_end_matches('\r');
        let tail = self.tails.entry(number).or_default();
        if tail.len() == TAIL {
            tail.pop_front();
        }
        tail.push_back(text.to_owned());
        self.show(number, &Happening::Line(stream, text));
    }

    /// A display that cannot be written to must not stop a build.
    fn show(&mut self, number: usize, what: &Happening<'_>) {
        if let Some(display) = &mut self.display {
            let _ = display.show(&mut self.out, number, &self.steps[number], what);
        }
    }
}

/// Lets the engine and `copy` report into a step.
pub struct Reporter<'a> {
    progress: &'a Progress,
    step: StepId,
    labels: Mutex<HashMap<u64, String>>,
}

impl<'a> Reporter<'a> {
    /// Reports into `step`.
    pub fn new(progress: &'a Progress, step: StepId) -> Self {
        Self { progress, step, labels: Mutex::default() }
    }
}

impl layerfs::progress::Progress for Reporter<'_> {
    fn event(&self, event: &layerfs::progress::Event) {
        use layerfs::progress::Event;
        let mut labels = self.labels.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            Event::Start { id, label, .. } => drop(labels.insert(*id, label.clone())),
            Event::Done { id } => {
                if let Some(label) = labels.remove(id) {
                    self.progress.log(self.step, Stream::Out, format!("{label} done\n").as_bytes());
                }
            }
            Event::Note(text) => self.progress.log(self.step, Stream::Out, format!("{text}\n").as_bytes()),
            Event::Advance { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    pub(super) struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no holder panics").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn run(style: Style) -> String {
        let buffer = Buffer::default();
        let progress = Progress::new(style, Box::new(buffer.clone()));
        let one = progress.start("[1/2] FROM a");
        let two = progress.start("[2/2] RUN x");
        progress.end(one, &End::Cached);
        progress.log(two, Stream::Out, b"first li");
        progress.log(two, Stream::Err, b"problem\n");
        progress.log(two, Stream::Out, b"ne\nsecond");
        progress.end(two, &End::Failed("it broke".to_owned()));
        assert_eq!(progress.tail(two), ["problem", "first line", "second"]);
        progress.finish();
        let bytes = buffer.0.lock().expect("no holder panics").clone();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn plain_reads_like_buildkit() {
        let shown = run(Style::Plain);
        let times = shown.replace(|c: char| c.is_ascii_digit() || c == '.', "");
        let expected = "#1 [1/2] FROM a\n\n#2 [2/2] RUN x\n\n#1 CACHED\n\n#2 0.000 problem\n#2 0.000 first line\n\
                        #2 0.000 second\n#2 ERROR: it broke\n";
        assert_eq!(times, expected.replace(|c: char| c.is_ascii_digit() || c == '.', ""), "{shown}");
    }

    #[test]
    fn raw_is_one_object_a_line() {
        for line in run(Style::RawJson).lines() {
            let value: serde_json::Value = serde_json::from_str(line).expect("an object");
            assert!(value.get("vertexes").is_some() || value.get("logs").is_some(), "{line}");
        }
    }

    #[test]
    fn quiet_says_nothing() {
        assert_eq!(run(Style::Quiet), "");
    }
}
