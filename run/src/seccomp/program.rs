//! Classic BPF as seccomp uses it: a little assembler.

use std::collections::HashMap;

use layerfs::sys::container::Instruction;

/// Operations, from `linux/bpf_common.h`.
const LOAD_WORD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Farthest that a conditional jump reaches, less the two long jumps that may come to lie in between.
const REACH: usize = u8::MAX as usize - 2;

/// Fields of `struct seccomp_data`.
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCHITECTURE: u32 = 4;

/// Offsets of the lower and the upper half of an argument (little-endian).
pub(super) const fn argument(index: u32) -> (u32, u32) {
    let at = 16 + 8 * index;
    (at, at + 4)
}

/// A comparison of the accumulator with a number.
#[derive(Clone, Copy, Debug)]
pub(super) enum Test {
    Equal,
    Greater,
    GreaterEqual,
}

pub(super) const fn load(offset: u32) -> Instruction {
    Instruction { code: LOAD_WORD, jt: 0, jf: 0, k: offset }
}

pub(super) const fn and(mask: u32) -> Instruction {
    Instruction { code: AND, jt: 0, jf: 0, k: mask }
}

pub(super) const fn give(verdict: u32) -> Instruction {
    Instruction { code: RETURN, jt: 0, jf: 0, k: verdict }
}

/// A conditional jump over `jt` or `jf` instructions.
pub(super) const fn jump(test: Test, k: u32, jt: u8, jf: u8) -> Instruction {
    let code = match test {
        Test::Equal => JUMP_EQUAL,
        Test::Greater => JUMP_GREATER,
        Test::GreaterEqual => JUMP_GREATER_EQUAL,
    };
    Instruction { code, jt, jf, k }
}

/// Where an instruction is, counted from the end of the program: jumps only go forward, so a program is written from
/// its end, and each target is there before the jumps to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(usize);

/// A program in the making.
#[derive(Default)]
pub(super) struct Assembler {
    reversed: Vec<Instruction>,
    verdicts: HashMap<u32, Place>,
}

impl Assembler {
    /// Puts an instruction before all there are.
    pub(super) fn push(&mut self, instruction: Instruction) -> Place {
        self.reversed.push(instruction);
        Place(self.reversed.len() - 1)
    }

    /// A verdict: one that is within reach already, else a new one.
    pub(super) fn verdict(&mut self, verdict: u32) -> Place {
        match self.verdicts.get(&verdict) {
            Some(place) if self.distance(*place) <= REACH => *place,
            _ => {
                let place = self.push(give(verdict));
                self.verdicts.insert(verdict, place);
                place
            }
        }
    }

    /// Puts instructions that end in a verdict before all there are.
    pub(super) fn block(&mut self, code: &[Instruction]) -> Place {
        self.reversed.extend(code.iter().rev());
        Place(self.reversed.len() - 1)
    }

    /// Goes on at one of two places.
    pub(super) fn branch(&mut self, test: Test, k: u32, holds: Place, fails: Place) -> Place {
        let (holds, fails) = (self.within_reach(holds), self.within_reach(fails));
        let short = |distance: usize| u8::try_from(distance).expect("what is farther was put within reach");
        let (jt, jf) = (short(self.distance(holds)), short(self.distance(fails)));
        self.push(jump(test, k, jt, jf))
    }

    /// Has what is pushed next go on at that place, be it just behind or farther on.
    pub(super) fn go_on_at(&mut self, place: Place) {
        if self.distance(place) > 0 {
            let k = u32::try_from(self.distance(place)).expect("a program is shorter than that");
            self.push(Instruction { code: JUMP, jt: 0, jf: 0, k });
        }
    }

    /// The finished program.
    pub(super) fn finish(mut self) -> Vec<Instruction> {
        self.reversed.reverse();
        self.reversed
    }

    /// How many instructions the next one would jump over.
    fn distance(&self, to: Place) -> usize {
        self.reversed.len() - 1 - to.0
    }

    /// A place from which an unconditional jump, which has a whole word for its distance, goes on.
    fn within_reach(&mut self, to: Place) -> Place {
        match self.distance(to) {
            distance if distance > REACH => {
                let k = u32::try_from(distance).expect("a program is shorter than that");
                self.push(Instruction { code: JUMP, jt: 0, jf: 0, k })
            }
            _ => to,
        }
    }
}

/// Runs a program as the kernel would: its verdict, and how many instructions that took.
#[cfg(test)]
pub(super) fn interpret(program: &[Instruction], number: u32, architecture: u32, arguments: &[u64; 6]) -> (u32, usize) {
    let mut data = [0u32; 16];
    data[0] = number;
    data[1] = architecture;
    for (index, argument) in arguments.iter().enumerate() {
        data[4 + 2 * index] = *argument as u32;
        data[5 + 2 * index] = (*argument >> 32) as u32;
    }
    let (mut at, mut accumulator, mut steps) = (0, 0u32, 0);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        steps += 1;
        let holds = match code {
            LOAD_WORD => {
                accumulator = data[(k / 4) as usize];
                continue;
            }
            AND => {
                accumulator &= k;
                continue;
            }
            JUMP => {
                at += k as usize;
                continue;
            }
            RETURN => return (k, steps),
            JUMP_EQUAL => accumulator == k,
            JUMP_GREATER => accumulator > k,
            JUMP_GREATER_EQUAL => accumulator >= k,
            code => panic!("instruction {code:#x}"),
        };
        at += usize::from(if holds { jt } else { jf });
    }
}
