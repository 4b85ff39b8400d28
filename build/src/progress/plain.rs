//! Line by line, as BuildKit's `--progress=plain`.

use std::io::{Result, Write};

use super::{Display, End, Happening, Step};

/// A blank line stands wherever the lines of another step begin.
#[derive(Debug, Default)]
pub(super) struct Plain {
    last: Option<usize>,
}

impl Plain {
    fn turn_to(&mut self, out: &mut dyn Write, number: Option<usize>) -> Result<()> {
        if self.last.is_some() && self.last != number {
            writeln!(out)?;
        }
        self.last = number;
        Ok(())
    }
}

impl Display for Plain {
    fn show(&mut self, out: &mut dyn Write, number: usize, step: &Step, what: &Happening<'_>) -> Result<()> {
        self.turn_to(out, Some(number))?;
        let n = number + 1;
        match what {
            Happening::Started => writeln!(out, "#{n} {}", step.title),
            Happening::Line(_, text) => writeln!(out, "#{n} {:.3} {text}", step.started.elapsed().as_secs_f64()),
            Happening::Ended(End::Cached, _) => writeln!(out, "#{n} CACHED"),
            Happening::Ended(End::Done, elapsed) => writeln!(out, "#{n} DONE {:.1}s", elapsed.as_secs_f64()),
            Happening::Ended(End::Canceled, _) => writeln!(out, "#{n} CANCELED"),
            Happening::Ended(End::Failed(why), _) => writeln!(out, "#{n} ERROR: {why}"),
        }?;
        out.flush()
    }

    fn note(&mut self, out: &mut dyn Write, text: &str) -> Result<()> {
        writeln!(out, "note: {text}")
    }
}
