//! Rules about devices on cgroup v2: a small eBPF program, as v2 has no file for them.
//!
//! The rules of a Spec apply in order and a later one overrides, so the program tries them from the last to the first
//! and the first that fits decides. What no rule fits is allowed, as in a new cgroup of v1.

use std::os::fd::AsFd;
use std::path::Path;

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::bpf::{attach_device_program, load_device_program};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use rustix::fs::{Mode, OFlags};

/// Bits of access: `BPF_DEVCG_ACC_*`.
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
/// Types: `BPF_DEVCG_DEV_*`.
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;

/// Registers, by what the program keeps in them.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// Opcodes: class, source and operation of `linux/bpf.h` and `linux/bpf_common.h`.
const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbf;
const MOVE_NUMBER: u8 = 0xb7;
const AND_NUMBER: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

/// `struct bpf_insn` as one little-endian word.
const fn instruction(code: u8, to: u8, from: u8, offset: i16, number: i32) -> u64 {
    (code as u64)
        | ((to as u64) << 8)
        | ((from as u64) << 12)
        | ((offset.cast_unsigned() as u64) << 16)
        | ((number.cast_unsigned() as u64) << 32)
}

/// The program for rules that apply in this order.
pub(super) fn compile(rules: &[LinuxDeviceCgroup]) -> Result<Vec<u64>> {
    let mut program = vec![
        // `struct bpf_cgroup_dev_ctx`: access in the upper and type in the lower half of a word, major, minor.
        instruction(LOAD_WORD, TYPE, CONTEXT, 0, 0),
        instruction(MOVE_REGISTER, ACCESS, TYPE, 0, 0),
        instruction(AND_NUMBER, TYPE, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let tests = tests(rule)?;
        let always = tests.is_empty();
        // Each failing test jumps past the rest of the rule: the remaining tests and the two words of its verdict.
        let mut length = tests.iter().map(Vec::len).sum::<usize>() + 2;
        for test in tests {
            length -= test.len();
            for (code, register, number, jumps) in test {
                let offset = if jumps { i16::try_from(length).unwrap_or(i16::MAX) } else { 0 };
                let source = if code == MOVE_REGISTER { ACCESS } else { 0 };
                program.push(instruction(code, register, source, offset, number));
            }
        }
        program.push(instruction(MOVE_NUMBER, RESULT, 0, 0, i32::from(rule.allow())));
        program.push(instruction(EXIT, 0, 0, 0, 0));
        if always {
            return Ok(program);
        }
    }
    program.push(instruction(MOVE_NUMBER, RESULT, 0, 0, 1));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    Ok(program)
}

/// Opcode, register, number, and whether it jumps past the rule.
type Word = (u8, u8, i32, bool);

/// What must hold for a rule to fit; nothing for one about all devices.
fn tests(rule: &LinuxDeviceCgroup) -> Result<Vec<Vec<Word>>> {
    let mut tests = Vec::new();
    let all = match rule.typ() {
        Some(LinuxDeviceType::B) => Some(BLOCK),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHARACTER),
        Some(LinuxDeviceType::P) => return Err(Error::new(Kind::Invalid, "a device rule about pipes says nothing")),
        Some(LinuxDeviceType::A) | None => None,
    };
    if let Some(kind) = all {
        tests.push(vec![(JUMP_NOT_EQUAL, TYPE, kind, true)]);
    }
    let access = access_bits(rule.access().as_deref().unwrap_or("rwm"))?;
    if access != MKNOD | READ | WRITE {
        // An allowing rule fits where it covers all that is wanted, a denying one where it touches any of it.
        let (mask, jump) = if rule.allow() { (!access & 7, JUMP_NOT_EQUAL) } else { (access, JUMP_EQUAL) };
        tests.push(vec![
            (MOVE_REGISTER, SCRATCH, 0, false),
            (AND_NUMBER, SCRATCH, mask, false),
            (jump, SCRATCH, 0, true),
        ]);
    }
    for (register, number) in [(MAJOR, rule.major()), (MINOR, rule.minor())] {
        if let Some(number) = number.filter(|number| *number >= 0) {
            let number = i32::try_from(number)
                .map_err(|_| Error::new(Kind::Invalid, format!("device number {number} is out of range")))?;
            tests.push(vec![(JUMP_NOT_EQUAL, register, number, true)]);
        }
    }
    Ok(tests)
}

fn access_bits(text: &str) -> Result<i32> {
    let text = if text.is_empty() { "rwm" } else { text };
    text.chars().try_fold(0, |bits, letter| match letter {
        'r' => Ok(bits | READ),
        'w' => Ok(bits | WRITE),
        'm' => Ok(bits | MKNOD),
        _ => Err(Error::new(Kind::Invalid, format!("device access `{text}` has letters other than r, w and m"))),
    })
}

/// Loads the program and puts it on a cgroup.
pub(super) fn attach(program: &[u64], folder: &Path) -> Result<()> {
    let loaded =
        load_device_program(program).context(|| "load the program that guards devices (bpf)").map_err(|error| {
            error.hint("restricting devices on cgroup v2 needs CAP_BPF and a kernel with CONFIG_CGROUP_BPF")
        })?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let cgroup = rustix::fs::open(folder, flags, Mode::empty()).at("open the cgroup", folder)?;
    attach_device_program(cgroup.as_fd(), loaded.as_fd()).at("guard devices in the cgroup", folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program answers: an interpreter of the few instructions that [`compile`] emits.
    fn verdict(program: &[u64], kind: i32, access: i32, major: i32, minor: i32) -> bool {
        let mut registers = [0i64; 11];
        let context = [i64::from(access << 16 | kind), i64::from(major), i64::from(minor)];
        let mut at = 0usize;
        loop {
            let word = program[at];
            let (code, to, from) = ((word & 0xff) as u8, (word >> 8 & 0xf) as usize, (word >> 12 & 0xf) as usize);
            let offset = (word >> 16 & 0xffff) as u16 as i16;
            let number = i64::from((word >> 32) as u32 as i32);
            at += 1;
            match code {
                LOAD_WORD => registers[to] = context[usize::try_from(offset / 4).expect("a field")],
                MOVE_REGISTER => registers[to] = registers[from],
                MOVE_NUMBER => registers[to] = number,
                AND_NUMBER => registers[to] &= number,
                SHIFT_RIGHT => registers[to] >>= number,
                JUMP_EQUAL if registers[to] == number => at = at.strict_add_signed(isize::from(offset)),
                JUMP_NOT_EQUAL if registers[to] != number => at = at.strict_add_signed(isize::from(offset)),
                JUMP_EQUAL | JUMP_NOT_EQUAL => {}
                EXIT => return registers[0] != 0,
                code => panic!("instruction {code:#x}"),
            }
        }
    }

    fn rules(text: &str) -> Vec<LinuxDeviceCgroup> {
        serde_json::from_str(&format!("[{text}]")).expect("valid rules")
    }

    #[test]
    fn later_rules_override() {
        let program = compile(&rules(
            r#"{"allow":false,"access":"rwm"},
               {"allow":true,"type":"c","access":"m"},
               {"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"},
               {"allow":true,"type":"b","major":8,"access":"r"},
               {"allow":false,"type":"b","major":8,"minor":1,"access":"r"}"#,
        ))
        .expect("valid rules");
        let check = |kind, access, major, minor| verdict(&program, kind, access, major, minor);
        assert!(check(CHARACTER, READ | WRITE, 1, 3));
        assert!(!check(CHARACTER, READ, 1, 5));
        assert!(check(CHARACTER, MKNOD, 1, 5));
        assert!(!check(BLOCK, MKNOD, 1, 5));
        assert!(check(BLOCK, READ, 8, 0));
        assert!(!check(BLOCK, READ | WRITE, 8, 0));
        assert!(!check(BLOCK, READ, 8, 1));
    }

    #[test]
    fn no_rule_about_all_leaves_the_rest_allowed() {
        let program = compile(&rules(r#"{"allow":false,"type":"c","major":10,"minor":200}"#)).expect("valid");
        assert!(!verdict(&program, CHARACTER, READ, 10, 200));
        assert!(verdict(&program, CHARACTER, READ, 10, 201));
    }
}
