use layerfs::error::Kind;
use oci_spec::runtime::{Arch, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall};

use super::compile::{BAD_ARCHITECTURE, Column, Width, X32_BIT, verdict};
use super::program::interpret;
use super::table::{NONE, TABLE};
use super::*;
use crate::profile::{self, Machine};
use crate::spec::caps;

fn spec(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).expect("a valid filter")
}

fn default_profile() -> LinuxSeccomp {
    let capabilities = caps::DEFAULT.into_iter().collect();
    let machine = Machine { architecture: "amd64", capabilities: &capabilities, kernel: (6, 1) };
    profile::reduce(profile::DEFAULT, &machine).expect("the default profile")
}

/// The rules about one number, read straight from the Spec.
fn rules_about(spec: &LinuxSeccomp, column: Column, number: u32) -> Vec<&LinuxSyscall> {
    let default = verdict(spec.default_action(), spec.default_errno_ret()).expect("valid");
    let has_number = |(_, numbers): &&(&str, [u16; 4])| {
        let own = numbers[column as usize];
        own != NONE && u32::from(own) == number
    };
    let names: Vec<&str> = TABLE.iter().filter(has_number).map(|(name, _)| *name).collect();
    let says = |rule: &&LinuxSyscall| {
        rule.names().iter().any(|name| names.contains(&name.as_str()))
            && verdict(rule.action(), rule.errno_ret()).expect("valid") != default
    };
    spec.syscalls().iter().flatten().filter(says).collect()
}

/// The verdict on a number above all that the filter names, where it differs from the default.
fn newer(spec: &LinuxSeccomp, column: Column, number: u32) -> Option<u32> {
    use oci_spec::runtime::LinuxSeccompAction as A;
    if matches!(spec.default_action(), A::ScmpActAllow | A::ScmpActLog | A::ScmpActTrace) {
        return None;
    }
    let names: Vec<&String> = spec.syscalls().iter().flatten().flat_map(|rule| rule.names()).collect();
    let own = |(_, numbers): &&(&str, [u16; 4])| numbers[column as usize] != NONE;
    let known = TABLE.iter().filter(own).filter(|(name, _)| names.iter().any(|listed| listed == name));
    let newest = known.map(|(_, numbers)| numbers[column as usize]).max()?;
    (number > u32::from(newest)).then(|| verdict(A::ScmpActErrno, Some(38)).expect("valid"))
}

/// What they say: the meaning that the module's page states.
fn expected(spec: &LinuxSeccomp, rules: &[&LinuxSyscall], width: Width, arguments: &[u64; 6]) -> u32 {
    let unconditional = |rule: &&&LinuxSyscall| rule.args().iter().flatten().next().is_none();
    let fits =
        |rule: &&&LinuxSyscall| rule.args().iter().flatten().all(|arg| holds(arg, width, arguments[arg.index()]));
    let chosen = rules.iter().find(unconditional).or_else(|| rules.iter().find(fits));
    let (action, errno) =
        chosen.map_or((spec.default_action(), spec.default_errno_ret()), |rule| (rule.action(), rule.errno_ret()));
    verdict(action, errno).expect("valid")
}

fn holds(arg: &LinuxSeccompArg, width: Width, value: u64) -> bool {
    use LinuxSeccompOperator as O;
    let cut = |value: u64| if width == Width::Half { value & 0xffff_ffff } else { value };
    let (value, wanted, second) = (cut(value), cut(arg.value()), cut(arg.value_two().unwrap_or(0)));
    match arg.op() {
        O::ScmpCmpNe => value != wanted,
        O::ScmpCmpLt => value < wanted,
        O::ScmpCmpLe => value <= wanted,
        O::ScmpCmpEq => value == wanted,
        O::ScmpCmpGe => value >= wanted,
        O::ScmpCmpGt => value > wanted,
        O::ScmpCmpMaskedEq => value & wanted == second,
    }
}

/// Values around every number a rule of the filter speaks of, in both halves of a word.
fn interesting(spec: &LinuxSeccomp) -> Vec<u64> {
    let args = spec.syscalls().iter().flatten().flat_map(|rule| rule.args().iter().flatten());
    let mut values: Vec<u64> = args.flat_map(|arg| [arg.value(), arg.value_two().unwrap_or(0)]).collect();
    values.extend([0, 1, u64::MAX]);
    let around = |value: u64| {
        [value, value.wrapping_add(1), value.wrapping_sub(1), value ^ (1 << 32), value | 1 << 63, value << 32, !value]
    };
    let mut values: Vec<u64> = values.into_iter().flat_map(around).collect();
    values.sort_unstable();
    values.dedup();
    values
}

/// Compares the program with the meaning over every number, with many arguments: how many verdicts were compared, and
/// the longest way to one.
fn check_all(spec: &LinuxSeccomp) -> (usize, usize) {
    let filter = Filter::compile(spec).expect("it compiles");
    let values = interesting(spec);
    let arches: Vec<Arch> = spec.architectures().clone().unwrap_or_default();
    let (mut compared, mut longest) = (0, 0);
    let columns = [
        (Column::X86_64, 0, true),
        (Column::X86, 0, arches.contains(&Arch::ScmpArchX86)),
        (Column::X32, X32_BIT, arches.contains(&Arch::ScmpArchX32)),
        (Column::Arm64, 0, arches.contains(&Arch::ScmpArchAarch64)),
    ];
    for (column, bit, listed) in columns {
        for number in 0..600 {
            let rules = rules_about(spec, column, number);
            let newer = newer(spec, column, number);
            for (at, value) in values.iter().enumerate() {
                let mut arguments = [*value; 6];
                // The third argument goes through the values at another pace than the others.
                arguments[2] = values[(at * 7 + 3) % values.len()];
                let (got, steps) = interpret(&filter.instructions, bit | number, column.audit(), &arguments);
                let wanted = match listed {
                    true => newer.unwrap_or_else(|| expected(spec, &rules, column.width(), &arguments)),
                    false => BAD_ARCHITECTURE,
                };
                assert_eq!(got, wanted, "{column:?} {number} {arguments:x?}");
                compared += 1;
                longest = longest.max(steps);
            }
        }
    }
    (compared, longest)
}

#[test]
fn the_default_profile_means_what_it_says() {
    let spec = default_profile();
    // x86's `socketcall` and `ipc` are listed without conditions, so what is multiplexed changes nothing.
    let (compared, longest) = check_all(&spec);
    assert!(compared > 100_000, "{compared} verdicts were compared");
    assert!(longest <= 40, "the longest way is {longest} instructions");
    let length = Filter::compile(&spec).expect("it compiles").len();
    assert!(length < 500, "the program has {length} instructions");
}

#[test]
fn every_operator_on_both_halves() {
    for (op, second) in [
        ("SCMP_CMP_NE", 0u64),
        ("SCMP_CMP_LT", 0),
        ("SCMP_CMP_LE", 0),
        ("SCMP_CMP_EQ", 0),
        ("SCMP_CMP_GE", 0),
        ("SCMP_CMP_GT", 0),
        ("SCMP_CMP_MASKED_EQ", 0x1_0000_0001),
    ] {
        for value in [0u64, 1, 0xffff_ffff, 0x1_0000_0001, u64::MAX] {
            let second = second & value;
            check_all(&spec(&format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["read","clone"],"action":"SCMP_ACT_ERRNO",
                "errnoRet":7,"args":[{{"index":0,"value":{value},"valueTwo":{second},"op":"{op}"}},
                {{"index":2,"value":{value},"valueTwo":{second},"op":"{op}"}}]}}]}}"#
            )));
        }
    }
}

#[test]
fn actions_and_their_data() {
    let check = |rule: &str, wanted: u32| {
        let json = format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["read"],{rule}}}]}}"#);
        let filter = Filter::compile(&spec(&json)).expect("it compiles");
        assert_eq!(interpret(&filter.instructions, 0, Column::X86_64.audit(), &[0; 6]).0, wanted, "{rule}");
    };
    check(r#""action":"SCMP_ACT_KILL""#, 0);
    check(r#""action":"SCMP_ACT_KILL_PROCESS""#, 0x8000_0000);
    check(r#""action":"SCMP_ACT_TRAP""#, 0x0003_0000);
    check(r#""action":"SCMP_ACT_ERRNO""#, 0x0005_0001);
    check(r#""action":"SCMP_ACT_ERRNO","errnoRet":38"#, 0x0005_0026);
    check(r#""action":"SCMP_ACT_TRACE","errnoRet":5"#, 0x7ff0_0005);
    check(r#""action":"SCMP_ACT_LOG""#, 0x7ffc_0000);
}

#[test]
fn a_call_without_conditions_wins() {
    let spec = spec(
        r#"{"defaultAction":"SCMP_ACT_KILL","syscalls":[
        {"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]},
        {"names":["read"],"action":"SCMP_ACT_ALLOW"}]}"#,
    );
    check_all(&spec);
    let filter = Filter::compile(&spec).expect("it compiles");
    assert_eq!(interpret(&filter.instructions, 0, Column::X86_64.audit(), &[1; 6]).0, 0x7fff_0000);
}

#[test]
fn x86_reaches_sockets_by_two_ways() {
    let spec = spec(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"syscalls":[
        {"names":["socket"],"action":"SCMP_ACT_ERRNO","errnoRet":13}]}"#,
    );
    let filter = Filter::compile(&spec).expect("it compiles");
    let check = |number, first| interpret(&filter.instructions, number, Column::X86.audit(), &[first, 0, 0, 0, 0, 0]).0;
    assert_eq!((check(359, 0), check(102, 1)), (0x0005_000d, 0x0005_000d));
    assert_eq!(check(102, 2), 0x7fff_0000);
}

#[test]
fn a_skipped_call_is_left_alone() {
    let filter = Filter::compile(&default_profile()).expect("it compiles");
    assert_eq!(interpret(&filter.instructions, u32::MAX, Column::X86_64.audit(), &[0; 6]).0, 0x0005_0026);
}

#[test]
fn architectures_may_share_their_only_verdict() {
    let arches = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
    for action in ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG"] {
        let text = serde_json::json!({"defaultAction": action, "architectures": arches}).to_string();
        check_all(&spec(&text));
    }
}

#[test]
fn names_are_sorted() {
    assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let check = |json: &str, kind: Kind| {
        assert_eq!(Filter::compile(&spec(json)).expect_err("refused").kind(), kind);
    };
    check(r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":70000}"#, Kind::Invalid);
    check(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_KILL",
        "args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
        Kind::Invalid,
    );
    check(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","errnoRet":1}]}"#,
        Kind::Invalid,
    );
}
