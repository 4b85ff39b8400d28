//! `--timeline FILE.html`: a picture of what ran when, what was found in the cache, and what waited.

use std::fmt::Write as _;

/// A step in the picture; times are seconds since the build began.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// What it is called.
    pub title: String,
    /// When it began.
    pub from: f64,
    /// When it ended; `None` where it did not.
    pub to: Option<f64>,
    /// How: a word that colours it.
    pub how: &'static str,
}

/// Height of a line, in pixels.
const LINE: usize = 22;
/// Width of all time, in pixels.
const WIDTH: f64 = 1000.0;

/// The picture as a page that needs nothing else.
pub fn html(name: &str, bars: &[Bar]) -> String {
    let end = bars.iter().map(|bar| bar.to.unwrap_or(bar.from)).fold(0.001, f64::max);
    let mut page = format!(
        "<!doctype html>\n<meta charset=utf-8>\n<title>{0}</title>\n<style>\nbody {{ font: 13px sans-serif; margin: 2em }}\n\
         rect.done {{ fill: #4a90d9 }} rect.cached {{ fill: #9bc49b }} rect.failed {{ fill: #d9534f }} \
         rect.canceled {{ fill: #bbb }}\ntext {{ font-size: 12px; dominant-baseline: middle }}\n</style>\n\
         <h1>{0}</h1>\n<p>{1} steps in {end:.2} s. Blue was done, green was found in the cache, red failed, grey was stopped.\n\
         <svg width=1700 height={2}>\n",
        escape(name),
        bars.len(),
        (bars.len() + 1) * LINE
    );
    for (number, bar) in bars.iter().enumerate() {
        let (x, y) = (bar.from / end * WIDTH, number * LINE);
        let seconds = bar.to.unwrap_or(end) - bar.from;
        let width = (seconds / end * WIDTH).max(2.0);
        let title = escape(&bar.title);
        // A page in memory takes every line.
        let _ = writeln!(
            page,
            "<rect class={} x={x:.1} y={} width={width:.1} height={}><title>{title}: {seconds:.3} s</title></rect>\
             <text x={:.1} y={}>{title} ({seconds:.2} s)</text>",
            bar.how,
            y + 3,
            LINE - 6,
            x + width + 6.0,
            y + LINE / 2
        );
    }
    page.push_str("</svg>\n");
    page
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_a_bar_and_its_title_is_text() {
        let bar = |title: &str, from: f64, to: f64, how| Bar { title: title.to_owned(), from, to: Some(to), how };
        let page = html("a build", &[bar("RUN <x> & y", 0.0, 1.0, "done"), bar("COPY", 1.0, 4.0, "cached")]);
        assert!(page.contains("<p>2 steps in 4.00 s."), "{page}");
        assert!(page.contains("<rect class=done x=0.0 y=3 width=250.0"), "{page}");
        assert!(page.contains("RUN &lt;x&gt; &amp; y (1.00 s)") && !page.contains("<x>"), "{page}");
        assert!(page.contains("<rect class=cached x=250.0 y=25 width=750.0"), "{page}");
    }
}
