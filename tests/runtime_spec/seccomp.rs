//! `linux.seccomp`: verdicts as seen by the calls themselves, and the agent that is asked.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

use super::{Case, base, bundle, case, compare, ours, refused};
use crate::harness::{agent, machine};

/// `mkdir`'s and `chmod`'s fates.
const CALLS: &str = "mkdir /tmp/a 2>&1; chmod 600 /etc/passwd 2>&1 && echo 600; chmod 644 /etc/passwd 2>&1 && echo 644; chmod 700 /etc/passwd 2>&1 && echo 700; echo end";

fn filtered(name: &'static str, seccomp: Value) -> Case {
    case(name, CALLS).with(move |spec| spec["linux"]["seccomp"] = seccomp.clone())
}

fn bad(name: &'static str, words: &'static str, seccomp: Value) -> Case {
    refused(name, words).with(move |spec| spec["linux"]["seccomp"] = seccomp.clone())
}

fn rule(action: &str, more: Value) -> Value {
    let mut rule = json!({"names": ["mkdir", "mkdirat"], "action": action});
    rule.as_object_mut().expect("a rule").extend(more.as_object().expect("an object").clone());
    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
}

/// A rule about the mode that `chmod` is given.
fn argument(op: &str, value: u64, second: u64) -> Value {
    let arg = |index: u32| json!([{"index": index, "value": value, "valueTwo": second, "op": op}]);
    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5, "args": arg(1)},
        {"names": ["fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5, "args": arg(2)},
    ]})
}

#[test]
fn seccomp_as_crun_and_runc_have_it() {
    let cases = vec![
        filtered("allow", json!({"defaultAction": "SCMP_ACT_ALLOW"})).shows("700\nend"),
        filtered("errno", rule("SCMP_ACT_ERRNO", json!({}))).shows("Operation not permitted"),
        filtered("an errno of its own", rule("SCMP_ACT_ERRNO", json!({"errnoRet": 38}))).shows("Function not implemented"),
        filtered("log", rule("SCMP_ACT_LOG", json!({}))).shows("end"),
        filtered("trace with nobody there", rule("SCMP_ACT_TRACE", json!({"errnoRet": 1}))).shows("Function not implemented"),
        case("kill the thread", "mkdir /a; echo \"code $?\"").with(|spec| spec["linux"]["seccomp"] = rule("SCMP_ACT_KILL_THREAD", json!({}))),
        case("kill", "exec mkdir /a").with(|spec| spec["linux"]["seccomp"] = rule("SCMP_ACT_KILL", json!({}))).shows("exit 159"),
        case("kill the process", "exec mkdir /a").with(|spec| spec["linux"]["seccomp"] = rule("SCMP_ACT_KILL_PROCESS", json!({}))).shows("exit 159"),
        case("trap", "exec mkdir /a").with(|spec| spec["linux"]["seccomp"] = rule("SCMP_ACT_TRAP", json!({}))).shows("exit 159"),
        filtered("equal", argument("SCMP_CMP_EQ", 0o644, 0)).shows("Input/output error"),
        filtered("not equal", argument("SCMP_CMP_NE", 0o644, 0)).shows("Input/output error"),
        filtered("less", argument("SCMP_CMP_LT", 0o644, 0)).shows("Input/output error"),
        filtered("less or equal", argument("SCMP_CMP_LE", 0o644, 0)).shows("Input/output error"),
        filtered("greater", argument("SCMP_CMP_GT", 0o644, 0)).shows("Input/output error"),
        filtered("greater or equal", argument("SCMP_CMP_GE", 0o644, 0)).shows("Input/output error"),
        filtered("masked", argument("SCMP_CMP_MASKED_EQ", 0o044, 0o044)).shows("Input/output error"),
        filtered("a name that is no call", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["moon"], "action": "SCMP_ACT_KILL"}]})).shows("end"),
        filtered("architectures", json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]})).shows("Operation not permitted"),
        filtered("flags", json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]})).shows("Operation not permitted"),
        case("with no new privileges", "grep -E 'Seccomp|NoNewPrivs' /proc/self/status; mkdir /a 2>&1").with(|spec| {
            spec["process"]["noNewPrivileges"] = json!(true);
            spec["linux"]["seccomp"] = rule("SCMP_ACT_ERRNO", json!({}));
        }).shows("Seccomp_filters:\t1"),
        case("in a user namespace", CALLS).with(|spec| {
            super::namespace(spec, "user", None);
            let range = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
            spec["linux"]["uidMappings"] = range.clone();
            spec["linux"]["gidMappings"] = range;
            spec["linux"]["seccomp"] = rule("SCMP_ACT_ERRNO", json!({}));
        }).shows("Operation not permitted"),
        case("everything refused but what a shell needs", "mkdir /a 2>&1; echo end").with(|spec| {
            spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13, "syscalls": [{"action": "SCMP_ACT_ALLOW", "names":
                ["read", "write", "writev", "open", "openat", "close", "stat", "fstat", "lstat", "newfstatat", "statx", "brk", "mmap", "munmap", "mprotect", "mremap",
                 "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "ioctl", "access", "execve", "exit", "exit_group", "wait4", "waitid", "uname", "fcntl", "getcwd",
                 "getuid", "geteuid", "getgid", "getegid", "getppid", "getpid", "gettid", "arch_prctl", "set_tid_address", "set_robust_list", "rseq", "prlimit64",
                 "readlink", "readlinkat", "getrandom", "fork", "vfork", "clone", "clone3", "dup", "dup2", "dup3", "pipe", "pipe2", "prctl", "futex", "seccomp",
                 "umask", "getpgrp", "setpgid", "sigaltstack", "close_range", "poll", "ppoll", "sendmsg", "recvmsg", "capset", "capget", "setgid", "setuid",
                 "setgroups", "setresuid", "setresgid", "chdir", "epoll_pwait", "epoll_ctl", "nanosleep", "sched_yield", "tgkill", "getdents64", "madvise", "fstatfs", "openat2"]}]});
        }).shows("Permission denied"),
        bad("an unknown action", "linux.seccomp.defaultAction", json!({"defaultAction": "SCMP_ACT_MOON"})),
        bad("an unknown operator", "linux.seccomp.syscalls[0].args[0].op", argument("SCMP_CMP_MOON", 0, 0)),
        bad("an unknown architecture", "linux.seccomp.architectures[0]", json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_MOON"]})),
        bad("an unknown flag", "linux.seccomp.flags[0]", json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["MOON"]})),
        bad("a seventh argument", "there are six", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]})),
        bad("an agent without a socket", "listenerPath", rule("SCMP_ACT_NOTIFY", json!({}))),
        bad("an agent that is not there", "seccomp agent", {
            let mut seccomp = rule("SCMP_ACT_NOTIFY", json!({}));
            seccomp["listenerPath"] = json!("/nowhere/at/all");
            seccomp
        }),
        bad("words for no agent", "listenerMetadata", json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}))
            .but("the specification forbids it; crun passes it over"),
    ];
    compare("seccomp", cases);
}

#[test]
fn an_agent_is_asked() {
    if !machine::is_root() {
        return machine::not_run("a test of root: the tests run as an ordinary user");
    }
    // Even about the calls by which its own descriptor travels.
    for names in [&["mkdir", "mkdirat"] as &[&str], &["mkdir", "mkdirat", "sendmsg", "recvmsg"]] {
        let dir = machine::folder();
        let socket = dir.path().join("agent");
        let listener = UnixListener::bind(&socket).expect("a socket in our folder");
        let mut spec = base("mkdir /tmp/a 2>&1");
        spec["annotations"] = json!({"a": "b"});
        spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": socket, "listenerMetadata": "words",
            "syscalls": [{"names": names, "action": "SCMP_ACT_NOTIFY"}]});
        let bundle = bundle(dir.path(), &spec);
        let asked = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("the runtime calls");
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut text = vec![0; 64 << 10];
            let mut parts = [std::io::IoSliceMut::new(&mut text)];
            let size = recvmsg(&stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).expect("a state").bytes;
            let descriptors: Vec<OwnedFd> = control
                .drain()
                .filter_map(|message| if let RecvAncillaryMessage::ScmRights(fds) = message { Some(fds) } else { None })
                .flatten()
                .collect();
            text.truncate(size);
            let mut rest = Vec::new();
            (&stream).read_to_end(&mut rest).expect("the connection ends");
            text.extend(rest);
            let mut answered = 0;
            // The descriptor ends with the last process under the filter.
            while agent::refuse_one(&descriptors[0], 28) {
                answered += 1;
            }
            (text, descriptors.len(), answered)
        });
        let said = ours(&bundle, "asked");
        assert_eq!(said.stdout, "mkdir: can't create directory '/tmp/a': No space left on device\n", "{said}");
        let (text, descriptors, answered) = asked.join().expect("the agent");
        let state: Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!((descriptors, &state["fds"], &state["metadata"]), (1, &json!(["seccompFd"]), &json!("words")));
        assert_eq!((&state["state"]["id"], &state["state"]["annotations"]["a"]), (&json!("asked"), &json!("b")));
        assert_eq!(&state["state"]["bundle"], &json!(bundle));
        assert!(state["pid"].as_i64().is_some_and(|pid| pid > 0) && answered > 0, "{state}");
    }
}
