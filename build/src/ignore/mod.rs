//! Ignore files: which paths of a build context stay out of it.
//!
//! This behaves as moby's `patternmatcher` does when it walks a context: the last pattern that matches a path decides;
//! `!` takes back in; a pattern that matches a folder matches all below it; `**` is any number of folders; the rest is
//! Go's `filepath.Match`, see [`glob`]. Two accidents of moby's detour over regular expressions are not kept: an
//! escaped letter is that letter here, and a lone backslash at a pattern's end is always an error.
//!
//! ```
//! use build::ignore::{Decision, Ignore};
//! let ignore = Ignore::parse(b"node_modules\n*.log\n!important.log\n", ".dockerignore").unwrap();
//! assert!(ignore.matches("node_modules/a/b.js") && ignore.matches("x.log") && !ignore.matches("important.log"));
//!
//! // In a walk, the decision about a folder is handed down to what is in it.
//! let folder = ignore.decide("node_modules", &Decision::top());
//! assert!(folder.ignored() && !ignore.may_contain_reincluded("node_modules"));
//! assert!(ignore.ignored("node_modules/a", &folder));
//! ```

pub mod glob;

mod pattern;

use std::sync::OnceLock;

use crate::dockerfile::source::{Source, Span};
use crate::dockerfile::{Fault, ParseError, clean};
use pattern::Pattern;

/// The patterns of an ignore file. An empty one ignores nothing.
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

/// What the patterns say of a path: the input for the paths below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    ignored: bool,
    /// Which patterns match it or a folder above it. Empty at the top.
    matched: Vec<bool>,
}

impl Decision {
    /// What holds at the top of a context: nothing is ignored.
    pub fn top() -> &'static Self {
        static TOP: OnceLock<Decision> = OnceLock::new();
        TOP.get_or_init(Self::default)
    }

    /// The path is left out. What is below it need not be: see [`Ignore::may_contain_reincluded`].
    pub fn ignored(&self) -> bool {
        self.ignored
    }
}

impl Ignore {
    /// Reads an ignore file. `name` is what errors call it.
    ///
    /// A line that begins with `#` is a comment. Space around a pattern goes, and so does a slash at its start: all
    /// patterns are relative to the context.
    pub fn parse(text: &[u8], name: &str) -> Result<Self, ParseError> {
        let source = Source::new(name, text);
        let mut ignore = Self::default();
        let mut start = 0;
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let span = Span { start, end: start + line.trim_ascii_end().len() };
            start += line.len();
            let line = if span.start == 0 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
            let line = String::from_utf8_lossy(line);
            if line.starts_with('#') {
                continue;
            }
            let (inverted, pattern) = line.trim().strip_prefix('!').map_or((false, line.trim()), |rest| (true, rest));
            let pattern = match pattern.trim() {
                "" => String::new(),
                pattern => clean(pattern),
            };
            let pattern = pattern.strip_prefix('/').filter(|rest| !rest.is_empty()).unwrap_or(&pattern);
            let pattern = if inverted { format!("!{pattern}") } else { pattern.to_owned() };
            ignore.add(&pattern).map_err(|fault| fault.at(&source, span))?;
        }
        Ok(ignore)
    }

    /// Patterns from elsewhere, such as `--exclude`. Unlike those of a file, a slash at the start of one stays.
    pub fn from_patterns<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, Fault> {
        let mut ignore = Self::default();
        patterns.into_iter().try_for_each(|pattern| ignore.add(pattern))?;
        Ok(ignore)
    }

    fn add(&mut self, pattern: &str) -> Result<(), Fault> {
        let pattern = pattern.trim();
        if pattern.is_empty() {
            return Ok(());
        }
        let cleaned = clean(pattern);
        let (inverted, text) = cleaned.strip_prefix('!').map_or((false, &*cleaned), |text| (true, text));
        if text.is_empty() {
            return Err(Fault::new("a `!` has no pattern behind it"));
        }
        let pattern = Pattern::new(text, inverted);
        self.patterns.push(pattern.map_err(|problem| Fault::new(format!("pattern `{text}`: {problem}")))?);
        Ok(())
    }

    /// There are no patterns: every path stays in.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Some pattern takes paths back in.
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.inverted)
    }

    /// Some pattern ignores all there is, exceptions aside.
    pub fn hides_everything(&self) -> bool {
        self.patterns.iter().any(|pattern| !pattern.inverted && matches!(&*pattern.text, "*" | "**" | "**/*"))
    }

    /// Whether a path, relative and with slashes, is ignored. In a walk, [`Ignore::decide`] does not repeat what it
    /// knows of the folders above.
    pub fn matches(&self, path: &str) -> bool {
        self.last_match(path).is_some_and(|pattern| !pattern.inverted)
    }

    /// The pattern that ignores a path, for the message that says so.
    pub fn reason(&self, path: &str) -> Option<&str> {
        self.last_match(path).filter(|pattern| !pattern.inverted).map(|pattern| &*pattern.text)
    }

    /// Whether a path is ignored, given the decision about the folder it is in.
    pub fn ignored(&self, path: &str, folder: &Decision) -> bool {
        self.last(path, folder, |_| ()).is_some_and(|pattern| !pattern.inverted)
    }

    /// The same for a folder that a walk may enter: what it hands down.
    pub fn decide(&self, path: &str, folder: &Decision) -> Decision {
        let mut matched = vec![false; self.patterns.len()];
        let last = self.last(path, folder, |at| matched[at] = true);
        Decision { ignored: last.is_some_and(|pattern| !pattern.inverted), matched }
    }

    /// Whether an ignored folder may hold something that a `!` takes back in: if not, a walk need not enter it.
    pub fn may_contain_reincluded(&self, folder: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.inverted && pattern.may_match_below(folder))
    }

    fn last_match(&self, path: &str) -> Option<&Pattern> {
        if path == "." {
            // Nothing takes out the whole context.
            return None;
        }
        let mut folder = Decision::default();
        for (at, _) in path.match_indices('/').filter(|(at, _)| *at > 0) {
            folder = self.decide(&path[..at], &folder);
        }
        self.last(path, &folder, |_| ())
    }

    /// The last pattern that matches the path or a folder above it; `seen` hears of each pattern that does.
    ///
    /// A pattern that cannot change the outcome so far is not tried, and so not handed down either: moby's walk has it
    /// so, and contexts depend on it.
    fn last(&self, path: &str, folder: &Decision, mut seen: impl FnMut(usize)) -> Option<&Pattern> {
        let mut last: Option<&Pattern> = None;
        for (at, pattern) in self.patterns.iter().enumerate() {
            let ignored = last.is_some_and(|pattern| !pattern.inverted);
            let inherited = folder.matched.get(at).copied().unwrap_or(false);
            if inherited || pattern.inverted == ignored && pattern.matches(path) {
                seen(at);
                last = Some(pattern);
            }
        }
        last
    }
}
