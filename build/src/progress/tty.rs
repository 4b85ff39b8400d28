//! For a terminal: what is done scrolls by, what runs is redrawn below it.

use std::collections::BTreeMap;
use std::io::{Result, Write};
use std::time::Instant;

use super::{Display, End, Happening, Step};

#[derive(Debug)]
pub(super) struct Tty {
    width: usize,
    running: BTreeMap<usize, Running>,
    /// Lines that are on the screen and will be redrawn.
    drawn: usize,
}

#[derive(Debug)]
struct Running {
    title: String,
    started: Instant,
    last_line: String,
}

impl Tty {
    pub(super) fn new(width: usize) -> Self {
        Self { width: width.max(20), running: BTreeMap::new(), drawn: 0 }
    }

    /// Takes the running steps off the screen.
    fn erase(&mut self, out: &mut dyn Write) -> Result<()> {
        if self.drawn > 0 {
            write!(out, "\x1b[{}A\x1b[J", self.drawn)?;
            self.drawn = 0;
        }
        Ok(())
    }

    fn draw(&mut self, out: &mut dyn Write) -> Result<()> {
        for running in self.running.values() {
            let time = format!("{:.1}s", running.started.elapsed().as_secs_f64());
            writeln!(out, "{}", self.line(&running.title, &time))?;
            self.drawn += 1;
            if !running.last_line.is_empty() {
                writeln!(out, "\x1b[2m{}\x1b[0m", fit(&format!(" => => {}", running.last_line), self.width - 1))?;
                self.drawn += 1;
            }
        }
        out.flush()
    }

    fn line(&self, title: &str, end: &str) -> String {
        let room = self.width.saturating_sub(end.len() + 2);
        let text = fit(&format!(" => {title}"), room);
        let gap = room.saturating_sub(text.chars().count());
        format!("{text}{} {end}", " ".repeat(gap))
    }
}

impl Display for Tty {
    fn show(&mut self, out: &mut dyn Write, number: usize, step: &Step, what: &Happening<'_>) -> Result<()> {
        match what {
            Happening::Started => {
                let running = Running { title: step.title.clone(), started: step.started, last_line: String::new() };
                self.running.insert(number, running);
                // Shown by the next tick: most steps that are cached end before it.
                Ok(())
            }
            Happening::Line(_, text) => {
                if let Some(running) = self.running.get_mut(&number) {
                    running.last_line = text.rsplit('\r').next().unwrap_or_default().to_owned();
                }
                Ok(())
            }
            Happening::Ended(end, elapsed) => {
                self.running.remove(&number);
                self.erase(out)?;
                let seconds = format!("{:.1}s", elapsed.as_secs_f64());
                let line = match end {
                    End::Done => self.line(&step.title, &seconds),
                    End::Cached => format!("\x1b[34m{}\x1b[0m", self.line(&format!("CACHED {}", step.title), "0.0s")),
                    End::Canceled => self.line(&format!("CANCELED {}", step.title), &seconds),
                    End::Failed(_) => {
                        format!("\x1b[31m{}\x1b[0m", self.line(&format!("ERROR {}", step.title), &seconds))
                    }
                };
                writeln!(out, "{line}")?;
                self.draw(out)
            }
        }
    }

    fn note(&mut self, out: &mut dyn Write, text: &str) -> Result<()> {
        self.erase(out)?;
        writeln!(out, "note: {text}")?;
        self.draw(out)
    }

    fn tick(&mut self, out: &mut dyn Write) -> Result<()> {
        self.erase(out)?;
        self.draw(out)
    }

    fn finish(&mut self, out: &mut dyn Write) -> Result<()> {
        self.running.clear();
        self.erase(out)
    }
}

/// At most `width` characters, none of them able to move the cursor.
fn fit(text: &str, width: usize) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(width).collect()
}
