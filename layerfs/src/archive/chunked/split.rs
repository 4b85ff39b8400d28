//! Where the content of a file is cut.
//!
//! The sum is bup's, with the parameters that containers/storage uses: chunks of 64 KiB in the mean, and the same ones
//! that it makes. Unlike there, a chunk ends at the latest after [`CHUNK_MAX`].

/// A chunk is no longer than this, in bytes. Part of the output's identity.
pub(super) const CHUNK_MAX: u64 = 1 << 20;
/// So many zeros in a row are a chunk of their own.
const HOLE: u64 = 1 << 10;
/// So many low bits of the sum are set where a chunk ends.
const MASK: u32 = (1 << 16) - 1;
const WINDOW: usize = 64;
const OFFSET: u32 = 31;

/// The end of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Bytes of the file before it.
    pub(super) end: u64,
    /// The chunk is of zeros only.
    pub(super) zeros: bool,
}

/// Looks for the ends of chunks in the content of one file.
pub(super) struct Splitter {
    sum: Sum,
    /// Bytes seen, and where the chunk began.
    seen: u64,
    begun: u64,
    /// Zeros seen last that are not in the sum yet.
    zeros: u64,
}

struct Sum {
    first: u32,
    second: u32,
    window: [u8; WINDOW],
    at: usize,
}

impl Sum {
    /// Whether a chunk ends after this byte.
    fn roll(&mut self, byte: u8) -> bool {
        let dropped = std::mem::replace(&mut self.window[self.at], byte);
        self.at = (self.at + 1) % WINDOW;
        self.first = self.first.wrapping_add(u32::from(byte)).wrapping_sub(u32::from(dropped));
        let leaving = (WINDOW as u32) * (u32::from(dropped) + OFFSET);
        self.second = self.second.wrapping_add(self.first).wrapping_sub(leaving);
        self.second & MASK == MASK
    }
}

impl Splitter {
    /// At the beginning of a file.
    pub(super) fn new() -> Self {
        let size = WINDOW as u32;
        let sum = Sum { first: size * OFFSET, second: size * (size - 1) * OFFSET, window: [0; WINDOW], at: 0 };
        Self { sum, seen: 0, begun: 0, zeros: 0 }
    }

    /// Goes on with the next bytes.
    pub(super) fn pass(&mut self, bytes: &[u8], cuts: &mut Vec<Cut>) {
        for byte in bytes {
            if *byte == 0 {
                self.zeros += 1;
            } else {
                if self.zeros > 0 {
                    self.end_zeros(cuts);
                }
                if self.sum.roll(*byte) {
                    self.cut(self.seen + 1, false, cuts);
                }
            }
            self.seen += 1;
            if self.seen - self.begun >= CHUNK_MAX {
                self.cut_long(cuts);
            }
        }
    }

    /// The file ends here.
    pub(super) fn end(&mut self, cuts: &mut Vec<Cut>) {
        if self.zeros > 0 {
            self.end_zeros(cuts);
        }
        self.cut(self.seen, false, cuts);
    }

    /// A run of zeros ends before the byte that comes now.
    fn end_zeros(&mut self, cuts: &mut Vec<Cut>) {
        let zeros = std::mem::take(&mut self.zeros);
        let from = self.seen - zeros;
        if zeros >= HOLE {
            self.cut(from, false, cuts);
            // The sum does not change any more once zeros are all it has seen.
            for _ in 0..zeros.min(WINDOW as u64) {
                self.sum.roll(0);
            }
            self.cut(self.seen, true, cuts);
            return;
        }
        for place in 0..zeros {
            if self.sum.roll(0) {
                self.cut(from + place + 1, false, cuts);
            }
        }
    }

    /// Ends a chunk that has become too long, before a run of zeros that is one of its own.
    fn cut_long(&mut self, cuts: &mut Vec<Cut>) {
        let data = self.seen - self.zeros;
        match self.zeros >= HOLE {
            true if data > self.begun => self.cut(data, false, cuts),
            true => {
                self.zeros = 0;
                for _ in 0..WINDOW {
                    self.sum.roll(0);
                }
                self.cut(self.seen, true, cuts);
            }
            false => {
                for _ in 0..std::mem::take(&mut self.zeros) {
                    self.sum.roll(0);
                }
                self.cut(self.seen, false, cuts);
            }
        }
    }

    fn cut(&mut self, end: u64, zeros: bool, cuts: &mut Vec<Cut>) {
        if end > self.begun {
            cuts.push(Cut { end, zeros });
            self.begun = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cuts(bytes: &[u8], step: usize) -> Vec<Cut> {
        let (mut splitter, mut cuts) = (Splitter::new(), Vec::new());
        bytes.chunks(step).for_each(|piece| splitter.pass(piece, &mut cuts));
        splitter.end(&mut cuts);
        cuts
    }

    /// Bytes that look random and are the same everywhere.
    fn noise(size: usize, seed: u64) -> Vec<u8> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 56) as u8).max(1)
        };
        std::iter::repeat_with(next).take(size).collect()
    }

    #[test]
    fn the_same_content_is_cut_in_the_same_places() {
        let content = noise(3_000_000, 1);
        let whole = cuts(&content, content.len());
        assert!((20..150).contains(&whole.len()), "{}", whole.len());
        assert_eq!(whole, cuts(&content, 77), "however it arrives");
        // Behind something else, the chunks after the first are the same.
        let moved = cuts(&[noise(12_345, 2), content.clone()].concat(), 4096);
        let sizes = |cuts: &[Cut]| cuts.windows(2).map(|pair| pair[1].end - pair[0].end).collect::<Vec<_>>();
        assert!(sizes(&moved).ends_with(&sizes(&whole)));
        assert_eq!(whole.last().map(|cut| cut.end), Some(3_000_000));
    }

    #[test]
    fn runs_of_zeros_are_chunks_of_their_own() {
        let data = |size| vec![1; size];
        let check = |parts: &[Vec<u8>], expected: &[(u64, bool)]| {
            let content = parts.concat();
            for step in [1, 1000, content.len()] {
                let found: Vec<(u64, bool)> = cuts(&content, step).iter().map(|cut| (cut.end, cut.zeros)).collect();
                assert_eq!(found, expected);
            }
        };
        check(&[data(100), vec![0; 1023], data(100)], &[(1223, false)]);
        check(&[data(100), vec![0; 1024], data(100)], &[(100, false), (1124, true), (1224, false)]);
        check(&[vec![0; 5000]], &[(5000, true)]);
        check(&[vec![0; 10]], &[(10, false)]);
        let max = CHUNK_MAX as usize;
        check(&[data(10), vec![0; max]], &[(10, false), (CHUNK_MAX + 10, true)]);
        check(&[vec![0; max + 2000]], &[(CHUNK_MAX, true), (CHUNK_MAX + 2000, true)]);
    }
}
