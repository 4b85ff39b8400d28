//! From rules to the program.

use std::collections::BTreeMap;

use layerfs::error::{Error, Kind, Result};
use layerfs::sys::container::Instruction;
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall};

use super::program::{ARCHITECTURE, Assembler, NUMBER, Place, Test, and, argument, give, jump, load};
use super::table::{NONE, TABLE};

/// Set in every number of an x32 call, which else looks like one of x86-64.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// The number a tracer sets to skip a call: it gets the default verdict.
const SKIPPED: u32 = u32::MAX;

/// `SECCOMP_RET_KILL_THREAD`: what an architecture without rules gets, as with libseccomp.
pub(super) const BAD_ARCHITECTURE: u32 = 0;

/// `EPERM`, where a Spec gives no other.
const DEFAULT_ERRNO: u32 = 1;

/// Architectures with a table, by the column they have there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    X86_64 = 0,
    X86 = 1,
    X32 = 2,
    Arm64 = 3,
}

impl Column {
    fn of(arch: Arch) -> Option<Self> {
        Some(match arch {
            Arch::ScmpArchNative => Self::native(),
            Arch::ScmpArchX86_64 => Self::X86_64,
            Arch::ScmpArchX86 => Self::X86,
            Arch::ScmpArchX32 => Self::X32,
            Arch::ScmpArchAarch64 => Self::Arm64,
            // What has no table here cannot run on the machines this program is built for.
            _ => return None,
        })
    }

    pub(super) const fn native() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::X86_64 }
    }

    pub(super) fn width(self) -> Width {
        match self {
            Self::X86_64 | Self::Arm64 => Width::Word,
            Self::X86 | Self::X32 => Width::Half,
        }
    }

    /// `AUDIT_ARCH_*` of `linux/audit.h`.
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Arm64 => 0xc000_00b7,
        }
    }
}

/// How much of an argument counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    /// All 64 bits.
    Word = 0,
    /// The lower 32, on architectures whose longs are that wide.
    Half = 1,
}

/// The program of a Spec.
pub(super) fn compile(spec: &LinuxSeccomp) -> Result<Vec<Instruction>> {
    let default = verdict(spec.default_action(), spec.default_errno_ret())?;
    let mut columns = vec![Column::native()];
    for arch in spec.architectures().iter().flatten() {
        columns.extend(Column::of(*arch).filter(|column| !columns.contains(column)));
    }
    let rules = Rules::of(spec, default, &columns)?;

    let mut program = Assembler::default();
    let mut entry = program.verdict(BAD_ARCHITECTURE);
    for column in columns.iter().rev().filter(|column| **column != Column::X32) {
        let mut spans = rules.all(*column, 0);
        if *column == Column::X86_64 {
            match columns.contains(&Column::X32) {
                true => spans.extend(rules.all(Column::X32, X32_BIT)),
                false => spans.push((X32_BIT, vec![give(BAD_ARCHITECTURE)])),
            }
            spans.push((SKIPPED, vec![give(default)]));
        }
        let others = entry;
        let root = tree(&mut program, &merged(spans));
        program.go_on_at(root);
        let section = program.push(load(NUMBER));
        entry = program.branch(Test::Equal, column.audit(), section, others);
    }
    program.push(load(ARCHITECTURE));
    Ok(program.finish())
}

/// One rule of the Spec, its condition already as instructions that fall through where it holds and jump past the
/// verdict where it does not.
type Conditional = (Vec<Instruction>, u32);

/// What is said about one number.
#[derive(Clone, Default)]
struct Said {
    always: Option<u32>,
    conditional: Vec<Conditional>,
}

struct Rules {
    default: u32,
    /// The verdict on calls that are newer than the Spec, where that is not the default.
    newer: Option<u32>,
    /// By column, the newest call that the Spec names.
    newest: [Option<u16>; 4],
    /// By column and number.
    said: [BTreeMap<u16, Said>; 4],
}

impl Rules {
    fn of(spec: &LinuxSeccomp, default: u32, columns: &[Column]) -> Result<Self> {
        let newer = newer(spec, default)?;
        let mut rules = Self { default, newer, newest: Default::default(), said: Default::default() };
        for (name, column) in named(spec, columns) {
            let newest = &mut rules.newest[column as usize];
            *newest = (*newest).max(number_of(name, column));
        }
        for rule in spec.syscalls().iter().flatten() {
            let verdict = verdict(rule.action(), rule.errno_ret())?;
            if verdict == default {
                continue;
            }
            let conditions = [conditions(rule, Width::Word)?, conditions(rule, Width::Half)?];
            for name in rule.names() {
                rules.add(name, verdict, &conditions, columns);
            }
        }
        Ok(rules)
    }

    /// `conditions` are those for each [`Width`].
    fn add(&mut self, name: &str, verdict: u32, conditions: &[Vec<Vec<Instruction>>; 2], columns: &[Column]) {
        for column in columns {
            if let Some(number) = number_of(name, *column) {
                let own = &conditions[column.width() as usize];
                self.said[*column as usize].entry(number).or_default().add(verdict, own);
            }
        }
        // Behind `socketcall` and `ipc` the call's own arguments lie in memory, where a filter cannot look.
        if let (Some((number, call)), true, true) =
            (multiplexed(name), conditions[0].is_empty(), columns.contains(&Column::X86))
        {
            let condition = [compare(LinuxSeccompOperator::ScmpCmpEq, 0, call, 0, Width::Half)];
            self.said[Column::X86 as usize].entry(number).or_default().add(verdict, &[resolve(&condition)]);
        }
    }

    /// Where each verdict of a column begins, and what is newer than all it names.
    fn all(&self, column: Column, bit: u32) -> Vec<(u32, Vec<Instruction>)> {
        let mut spans = self.spans(column, bit);
        if let (Some(verdict), Some(newest)) = (self.newer, self.newest[column as usize]) {
            let first = bit | (u32::from(newest) + 1);
            spans.retain(|(start, _)| *start < first);
            spans.push((first, vec![give(verdict)]));
        }
        spans
    }

    /// Where each verdict of a column begins, from number 0 on.
    fn spans(&self, column: Column, bit: u32) -> Vec<(u32, Vec<Instruction>)> {
        let mut spans = vec![(bit, vec![give(self.default)])];
        let mut next = 0;
        for (number, said) in &self.said[column as usize] {
            let number = u32::from(*number);
            if number > next {
                spans.push((bit | next, vec![give(self.default)]));
            }
            spans.push((bit | number, said.code(self.default)));
            next = number + 1;
        }
        spans.push((bit | next, vec![give(self.default)]));
        spans
    }
}

/// What a call gets that is newer than whoever wrote the Spec: `ENOSYS`, as from a kernel without it, for programs fall
/// back to an older call then, and to none where they are told that they may not. So has runc it. A default that lets
/// calls through, or has somebody else decide, says what to do about these as well.
fn newer(spec: &LinuxSeccomp, default: u32) -> Result<Option<u32>> {
    use LinuxSeccompAction as A;
    const NO_SUCH_CALL: u32 = 38;
    if matches!(spec.default_action(), A::ScmpActAllow | A::ScmpActLog | A::ScmpActTrace) {
        return Ok(None);
    }
    Ok(Some(verdict(A::ScmpActErrno, Some(NO_SUCH_CALL))?).filter(|verdict| *verdict != default))
}

/// All that the rules of a Spec name, for each architecture.
fn named<'a>(spec: &'a LinuxSeccomp, columns: &'a [Column]) -> impl Iterator<Item = (&'a str, Column)> {
    let names = spec.syscalls().iter().flatten().flat_map(|rule| rule.names());
    names.flat_map(|name| columns.iter().map(move |column| (name.as_str(), *column)))
}

/// The number of a call.
fn number_of(name: &str, column: Column) -> Option<u16> {
    let row = TABLE.binary_search_by(|(known, _)| (*known).cmp(name)).ok()?;
    Some(TABLE[row].1[column as usize]).filter(|number| *number != NONE)
}

impl Said {
    fn add(&mut self, verdict: u32, conditions: &[Vec<Instruction>]) {
        match conditions {
            [] => self.always = self.always.or(Some(verdict)),
            conditions => self.conditional.extend(conditions.iter().map(|condition| (condition.clone(), verdict))),
        }
    }

    fn code(&self, default: u32) -> Vec<Instruction> {
        if let Some(verdict) = self.always {
            return vec![give(verdict)];
        }
        let mut code = Vec::new();
        for (condition, verdict) in &self.conditional {
            code.extend_from_slice(condition);
            code.push(give(*verdict));
        }
        code.push(give(default));
        code
    }
}

/// Drops a span that a later one with the same beginning replaces, and one that says what the span before it says.
fn merged(spans: Vec<(u32, Vec<Instruction>)>) -> Vec<(u32, Vec<Instruction>)> {
    let mut merged: Vec<(u32, Vec<Instruction>)> = Vec::with_capacity(spans.len());
    for (start, code) in spans {
        if merged.last().is_some_and(|(last, _)| *last == start) {
            merged.pop();
        }
        if merged.last().is_none_or(|(_, last)| *last != code) {
            merged.push((start, code));
        }
    }
    merged
}

/// A balanced search among spans, by the number in the accumulator.
fn tree(program: &mut Assembler, spans: &[(u32, Vec<Instruction>)]) -> Place {
    match spans {
        [(_, code)] => match code[..] {
            [only] => program.verdict(only.k),
            _ => program.block(code),
        },
        spans => {
            let (lower, upper) = spans.split_at(spans.len() / 2);
            let holds = tree(program, upper);
            let fails = tree(program, lower);
            program.branch(Test::GreaterEqual, upper[0].0, holds, fails)
        }
    }
}

/// An action and its data as the kernel returns it: `SECCOMP_RET_*` of `linux/seccomp.h`.
pub(super) fn verdict(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32> {
    use LinuxSeccompAction as A;
    if errno.is_some_and(|errno| errno != 0) && !matches!(action, A::ScmpActErrno | A::ScmpActTrace) {
        return Err(Error::new(Kind::Invalid, format!("seccomp action {action} has no errnoRet")));
    }
    let number = errno.unwrap_or(DEFAULT_ERRNO);
    // The kernel cuts the number to what fits, which would turn a mistake into another errno.
    let data = u16::try_from(number)
        .map(u32::from)
        .map_err(|_| Error::new(Kind::Invalid, format!("seccomp errnoRet {number} is out of range")));
    Ok(match action {
        A::ScmpActKill | A::ScmpActKillThread => 0,
        A::ScmpActKillProcess => 0x8000_0000,
        A::ScmpActTrap => 0x0003_0000,
        A::ScmpActErrno => 0x0005_0000 | data?,
        A::ScmpActNotify => 0x7fc0_0000,
        A::ScmpActTrace => 0x7ff0_0000 | data?,
        A::ScmpActLog => 0x7ffc_0000,
        A::ScmpActAllow => 0x7fff_0000,
    })
}

/// The conditions of a rule, each enough by itself: all of `args` at once, save where one argument is named twice:
/// then each entry stands alone, as in runc.
fn conditions(rule: &LinuxSyscall, width: Width) -> Result<Vec<Vec<Instruction>>> {
    let args = rule.args().as_deref().unwrap_or_default();
    let twice = args.iter().enumerate().any(|(at, arg)| args[..at].iter().any(|other| other.index() == arg.index()));
    let compiled = |arg: &LinuxSeccompArg| {
        let index = u32::try_from(arg.index()).ok().filter(|index| *index < 6).ok_or_else(|| {
            Error::new(Kind::Invalid, format!("seccomp rule names argument {}, and there are six", arg.index()))
        })?;
        Ok(compare(arg.op(), index, arg.value(), arg.value_two().unwrap_or(0), width))
    };
    let compiled: Vec<Vec<Step>> = args.iter().map(compiled).collect::<Result<_>>()?;
    Ok(match (compiled.is_empty(), twice) {
        (true, _) => Vec::new(),
        (false, true) => compiled.into_iter().map(|one| resolve(&[one])).collect(),
        (false, false) => vec![resolve(&compiled)],
    })
}

/// Where a comparison goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    /// The next instruction.
    Next,
    /// Past this comparison: it holds.
    Holds,
    /// Past the whole rule: it does not fit.
    Fails,
}

#[derive(Clone, Copy)]
enum Step {
    Do(Instruction),
    Jump(Test, u32, To, To),
}

/// One comparison of an argument, by halves where it is a whole word.
fn compare(op: LinuxSeccompOperator, index: u32, value: u64, second: u64, width: Width) -> Vec<Step> {
    use LinuxSeccompOperator as O;
    use To::{Fails, Holds, Next};
    let (low, high) = argument(index);
    let (value_low, value_high) = (value as u32, (value >> 32) as u32);
    // The upper half decides, unless it is equal.
    let ordered = |greater: To, less: To, last: Test| {
        let upper = vec![
            Step::Do(load(high)),
            Step::Jump(Test::Greater, value_high, greater, Next),
            Step::Jump(Test::Equal, value_high, Next, less),
        ];
        (upper, vec![Step::Do(load(low)), Step::Jump(last, value_low, greater, less)])
    };
    let (mut upper, lower) = match op {
        O::ScmpCmpEq => (
            vec![Step::Do(load(high)), Step::Jump(Test::Equal, value_high, Next, Fails)],
            vec![Step::Do(load(low)), Step::Jump(Test::Equal, value_low, Holds, Fails)],
        ),
        O::ScmpCmpNe => (
            vec![Step::Do(load(high)), Step::Jump(Test::Equal, value_high, Next, Holds)],
            vec![Step::Do(load(low)), Step::Jump(Test::Equal, value_low, Fails, Holds)],
        ),
        O::ScmpCmpGt => ordered(Holds, Fails, Test::Greater),
        O::ScmpCmpGe => ordered(Holds, Fails, Test::GreaterEqual),
        O::ScmpCmpLe => ordered(Fails, Holds, Test::Greater),
        O::ScmpCmpLt => ordered(Fails, Holds, Test::GreaterEqual),
        // The first value is the mask, the second what must remain.
        O::ScmpCmpMaskedEq => {
            let half = |at: u32, mask: u32, rest: u32, holds: To| {
                vec![Step::Do(load(at)), Step::Do(and(mask)), Step::Jump(Test::Equal, rest, holds, Fails)]
            };
            (half(high, value_high, (second >> 32) as u32, Next), half(low, value_low, second as u32, Holds))
        }
    };
    if width == Width::Half {
        return lower;
    }
    upper.extend(lower);
    upper
}

/// Comparisons that must all hold, as instructions with distances: to the next comparison where one holds, and past
/// the verdict, which is the one instruction that follows, where one fails.
fn resolve(comparisons: &[Vec<Step>]) -> Vec<Instruction> {
    let total: usize = comparisons.iter().map(Vec::len).sum();
    let mut code: Vec<Instruction> = Vec::with_capacity(total);
    for comparison in comparisons {
        let end = code.len() + comparison.len();
        for step in comparison {
            let next = code.len() + 1;
            let distance = |to: To| {
                let target = match to {
                    To::Next => next,
                    To::Holds => end,
                    To::Fails => total + 1,
                };
                u8::try_from(target - next).expect("six comparisons of six instructions are within reach")
            };
            code.push(match *step {
                Step::Do(instruction) => instruction,
                Step::Jump(test, k, holds, fails) => jump(test, k, distance(holds), distance(fails)),
            });
        }
    }
    code
}

/// The multiplexing call of x86 that a name is also reached through, and its number there: `linux/net.h`,
/// `linux/ipc.h`.
fn multiplexed(name: &str) -> Option<(u16, u64)> {
    const SOCKETCALL: u16 = 102;
    const IPC: u16 = 117;
    const SOCKET_CALLS: [&str; 20] = [
        "socket",
        "bind",
        "connect",
        "listen",
        "accept",
        "getsockname",
        "getpeername",
        "socketpair",
        "send",
        "recv",
        "sendto",
        "recvfrom",
        "shutdown",
        "setsockopt",
        "getsockopt",
        "sendmsg",
        "recvmsg",
        "accept4",
        "recvmmsg",
        "sendmmsg",
    ];
    const IPC_CALLS: [(&str, u64); 12] = [
        ("semop", 1),
        ("semget", 2),
        ("semctl", 3),
        ("semtimedop", 4),
        ("msgsnd", 11),
        ("msgrcv", 12),
        ("msgget", 13),
        ("msgctl", 14),
        ("shmat", 21),
        ("shmdt", 22),
        ("shmget", 23),
        ("shmctl", 24),
    ];
    let socket = SOCKET_CALLS.iter().zip(1..).find(|(call, _)| **call == name);
    let socket = socket.map(|(_, number)| (SOCKETCALL, number));
    socket.or_else(|| IPC_CALLS.iter().find(|(call, _)| *call == name).map(|(_, number)| (IPC, *number)))
}
