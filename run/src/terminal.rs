//! The caller's terminal: raw while a container has the keyboard, its size, and the keys that let go of it.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use layerfs::error::{Context, Error, Kind, Result};
use rustix::termios::{OptionalActions, OutputModes, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

/// Columns and rows.
pub type Size = (u16, u16);

/// The size of the caller's terminal, found on whichever standard stream is one.
pub fn size() -> Option<Size> {
    let of = |fd: BorrowedFd<'_>| tcgetwinsize(fd).ok().map(|size| (size.ws_col, size.ws_row));
    of(io::stdin().as_fd()).or_else(|| of(io::stdout().as_fd())).or_else(|| of(io::stderr().as_fd()))
}

/// Gives a container's terminal the size of the caller's.
pub fn resize(master: BorrowedFd<'_>, (columns, rows): Size) {
    let size = rustix::termios::Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
    // A terminal of the wrong size is no reason to end a container.
    let _ = tcsetwinsize(master, size);
}

/// Whether standard input is a terminal.
pub fn is_input() -> bool {
    io::stdin().is_terminal()
}

/// The caller's terminal in raw mode, until this is dropped.
#[derive(Debug)]
pub struct Raw {
    terminal: OwnedFd,
    before: Termios,
}

/// Which side makes a new line of a line feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewLines {
    /// The container's terminal, and the caller's shows what it gets.
    OfTheContainer,
    /// The caller's, as runc has it: what does not go to a terminal has plain lines.
    OfTheCaller,
}

/// Has a container's terminal, known by either side, pass line feeds on as they are.
///
/// # Errors
/// The terminal refuses.
pub fn keep_line_feeds(terminal: BorrowedFd<'_>) -> Result<()> {
    let mut settings = tcgetattr(terminal).context(|| "read the container's terminal's settings")?;
    settings.output_modes.remove(OutputModes::ONLCR);
    tcsetattr(terminal, OptionalActions::Now, &settings).context(|| "set up the container's terminal")
}

impl Raw {
    /// Switches standard input to raw mode; `None` where it is no terminal.
    ///
    /// # Errors
    /// The terminal refuses.
    pub fn enter(new_lines: NewLines) -> Result<Option<Self>> {
        if !is_input() {
            return Ok(None);
        }
        let terminal = io::stdin().as_fd().try_clone_to_owned().context(|| "copy standard input")?;
        let before = tcgetattr(&terminal).context(|| "read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        if new_lines == NewLines::OfTheCaller {
            raw.output_modes |= before.output_modes & OutputModes::OPOST;
        }
        tcsetattr(&terminal, OptionalActions::Now, &raw).context(|| "set the terminal to raw mode")?;
        Ok(Some(Self { terminal, before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

/// The keys that, typed in a row, let go of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetachKeys {
    keys: Vec<u8>,
    typed: usize,
}

impl DetachKeys {
    /// Ctrl-P, Ctrl-Q.
    pub const DEFAULT: &'static str = "ctrl-p,ctrl-q";

    /// Nothing lets go.
    pub fn none() -> Self {
        Self { keys: Vec::new(), typed: 0 }
    }

    /// A list of single characters and `ctrl-X`, between commas; empty for none.
    ///
    /// # Errors
    /// Something else is in it.
    pub fn parse(text: &str) -> Result<Self> {
        let key = |word: &str| match (word.strip_prefix("ctrl-"), word.as_bytes()) {
            (Some(letter), _) => match letter.as_bytes() {
                [letter @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => Some(letter & 0x1f),
                _ => None,
            },
            (None, [byte]) => Some(*byte),
            _ => None,
        };
        let words = text.split(',').filter(|_| !text.is_empty());
        let keys: Option<Vec<u8>> = words.map(key).collect();
        let keys = keys.ok_or_else(|| {
            Error::new(Kind::Usage, format!("`{text}` are not keys")).hint("such as ctrl-p,ctrl-q, or x,ctrl-[")
        })?;
        Ok(Self { keys, typed: 0 })
    }

    /// Takes what was typed and gives what the container is to see of it; `true` when the keys are complete. The first
    /// keys are held back until it is clear that they are not the beginning.
    pub fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(typed.len());
        if self.keys.is_empty() {
            return (typed.to_vec(), false);
        }
        for byte in typed {
            if *byte == self.keys[self.typed] {
                self.typed += 1;
                if self.typed == self.keys.len() {
                    self.typed = 0;
                    return (out, true);
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.typed]);
            self.typed = usize::from(*byte == self.keys[0]);
            if self.typed == 0 {
                out.push(*byte);
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(keys: &str, typed: &[&[u8]], expected: Option<(&[u8], bool)>) {
        let result = DetachKeys::parse(keys).ok().map(|mut keys| {
            let mut all = (Vec::new(), false);
            for piece in typed {
                let (seen, done) = keys.filter(piece);
                all.0.extend(seen);
                all.1 |= done;
            }
            all
        });
        assert_eq!(result, expected.map(|(seen, done)| (seen.to_vec(), done)), "{keys}");
    }

    #[test]
    fn keys_are_held_back_until_clear() {
        check(DetachKeys::DEFAULT, &[b"ab\x10\x11c"], Some((b"ab", true)));
        check(DetachKeys::DEFAULT, &[b"\x10", b"\x11"], Some((b"", true)));
        check(DetachKeys::DEFAULT, &[b"\x10", b"x\x10\x10\x11"], Some((b"\x10x\x10", true)));
        check("", &[b"\x10\x11"], Some((b"\x10\x11", false)));
        check("x,ctrl-[", &[b"axx\x1b"], Some((b"ax", true)));
        for wrong in ["ctrl-", "ctrl-1", "xy", ","] {
            check(wrong, &[], None);
        }
    }
}
