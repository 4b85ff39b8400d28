//! Hooks, and the life of a container as its state tells it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use super::{Case, case, compare, refused, share};

const MOMENTS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A program that writes down what it is called with, in the bundle; and one that fails.
fn programs(bundle: &Path) {
    let program = |name: &str, text: &str| {
        let path = bundle.join(name);
        fs::write(&path, text).expect("a file in our folder");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our own file");
    };
    let log = bundle.join("log");
    program(
        "hook",
        &format!(
            "#!/bin/bash\nstate=$(cat)\necho \"$* $A $(grep -oE '\"(id|status)\": ?\"[^\"]*\"' <<<\"$state\" | tr -d ' ' | sort | tr '\\n' ' ')\" >>{}\n",
            log.display()
        ),
    );
    program(
        "where",
        &format!(
            "#!/bin/bash\ncat >/dev/null; for n in mnt net pid; do [ \"$(readlink /proc/self/ns/$n)\" = \"$(readlink /proc/$(cat {})/ns/$n)\" ] && echo $1 outside $n || echo $1 inside $n; done >>{}\n",
            bundle.join("outside").display(),
            log.display()
        ),
    );
    program("fail", "#!/bin/sh\ncat >/dev/null; echo no thanks >&2; exit 3\n");
    program("hang", "#!/bin/sh\nsleep 20\n");
    program("rootfs/inner", "#!/bin/sh\ncat >/state; echo $* $A >>/inner-log\n");
}

fn hook(bundle: &Path, program: &str, moment: &str) -> Value {
    match (moment, program) {
        ("startContainer", "hook") => json!({"path": "/inner", "args": ["inner", moment], "env": ["A=b", "PATH=/bin"]}),
        ("startContainer", "where") => json!({"path": "/bin/busybox", "args": ["busybox", "true"]}),
        ("startContainer", _) => json!({"path": "/bin/busybox", "args": ["busybox", "false"]}),
        _ => json!({"path": bundle.join(program), "args": [program, moment], "env": ["A=b", "PATH=/usr/bin:/bin"]}),
    }
}

fn hooked(name: &'static str, program: &'static str, moments: &'static [&'static str]) -> Case {
    case(name, "echo program; cat /inner-log 2>/dev/null")
        .prepare(programs)
        .with_bundle(move |spec, bundle| {
            for moment in moments {
                spec["hooks"][moment] = json!([hook(bundle, program, moment)]);
            }
        })
        .drive("$R run $ID; echo \"exit $?\"; cat log 2>/dev/null")
}

#[test]
fn hooks_as_crun_and_runc_have_them() {
    let mut cases = vec![
        // The states of the first three differ between the two rivals.
        hooked("all of them, in order", "hook", &MOMENTS).drive("$R run $ID; echo \"exit $?\"; cut -d' ' -f1,2 log")
            .shows("prestart b\ncreateRuntime b\ncreateContainer b\npoststart b\npoststop b\n").shows("startContainer b\nexit 0").shows("program"),
        hooked("where they run", "where", &MOMENTS).drive("$R run $ID; echo \"exit $?\"; cat log").shows("createRuntime outside mnt").shows("createContainer inside mnt"),
        hooked("the state of poststart", "hook", &["poststart"]).shows("\"status\":\"running\""),
        hooked("the state of poststop", "hook", &["poststop"]).shows("\"status\":\"stopped\""),
        case("the order of steps", "").prepare(programs).with_bundle(|spec, bundle| {
            for moment in MOMENTS {
                spec["hooks"][moment] = json!([hook(bundle, "hook", moment)]);
            }
        }).drive("$R create $ID </dev/null >/dev/null; echo created; cut -d' ' -f1 log; $R start $ID; echo started; cut -d' ' -f1 log
            for n in $(seq 100); do $R state $ID | grep -q '\"stopped\"' && break; sleep 0.05; done; $R delete $ID; echo deleted; cut -d' ' -f1 log").shows("created\nprestart"),
        case("two of a kind", "").prepare(programs).with_bundle(|spec, bundle| {
            let call = |word: &str| json!({"path": bundle.join("hook"), "args": ["hook", word], "env": ["PATH=/usr/bin:/bin"]});
            spec["hooks"]["createRuntime"] = json!([call("one"), call("two")]);
        }).drive("$R run $ID; echo \"exit $?\"; cut -d' ' -f1 log").shows("one\ntwo"),
        case("what createContainer makes is there", "cat /made").prepare(programs).with_bundle(|spec, bundle| {
            spec["hooks"]["createContainer"] = json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("echo here > {}/rootfs/made", bundle.display())]}]);
        }).shows("here"),
        case("a poststop that fails is a warning", "echo program").prepare(programs).with_bundle(|spec, bundle| {
            spec["hooks"]["poststop"] = json!([hook(bundle, "fail", "poststop"), hook(bundle, "hook", "poststop")]);
        }).drive("$R run $ID; echo \"exit $?\"; cut -d' ' -f1 log").shows("exit 0\npoststop"),
        case("changes after create are nothing to it", "echo first").drive("$R create $ID </dev/null >log; sed -i s/first/second/ config.json; $R start $ID
            for n in $(seq 100); do $R state $ID | grep -q '\"stopped\"' && break; sleep 0.05; done; cat log; $R delete $ID").shows("first"),
    ];
    for moment in &MOMENTS[..4] {
        let name: &'static str = Box::leak(format!("a {moment} that fails").into_boxed_str());
        let words: &'static str = Box::leak(format!("error running {moment} hook #0").into_boxed_str());
        cases.push(refused(name, words).prepare(programs).with_bundle(move |spec, bundle| {
            spec["hooks"][moment] = json!([hook(bundle, "fail", moment)]);
        }));
    }
    cases.extend([
        refused("what a failed hook said", "saying: no thanks").prepare(programs).with_bundle(|spec, bundle| {
            spec["hooks"]["createRuntime"] = json!([hook(bundle, "fail", "createRuntime")]);
        }),
        refused("a hook that hangs", "timeout of 1 s").prepare(programs).with_bundle(|spec, bundle| {
            let mut hook = hook(bundle, "hang", "createRuntime");
            hook["timeout"] = json!(1);
            spec["hooks"]["createRuntime"] = json!([hook]);
        }),
        refused("a hook that is not there", "cannot be executed: no such file").with(|spec| spec["hooks"]["createRuntime"] = json!([{"path": "/nowhere/at/all"}])),
        refused("a hook by a relative path", "is not absolute").with(|spec| spec["hooks"]["createRuntime"] = json!([{"path": "true"}])),
        refused("a negative time-out", "greater than zero").with(|spec| spec["hooks"]["createRuntime"] = json!([{"path": "/bin/true", "timeout": -1}])),
        refused("no time-out at all", "greater than zero").with(|spec| spec["hooks"]["createRuntime"] = json!([{"path": "/bin/true", "timeout": 0}]))
            .but("the specification wants more than zero; crun takes 0 for none"),
        case("a poststart that fails", "sleep 5").prepare(programs).with_bundle(|spec, bundle| {
            spec["hooks"]["poststart"] = json!([hook(bundle, "fail", "poststart")]);
        }).drive("$R create $ID </dev/null >/dev/null; $R start $ID && echo started || echo refused; $R state $ID 2>/dev/null | grep -o running"),
    ]);
    compare("hooks", cases);
}

#[test]
fn lives_as_crun_and_runc_have_them() {
    let life = |name: &'static str, script: &'static str, drive: &'static str| case(name, script).drive(drive);
    let cases = vec![
        life("create, start, kill, delete", "sleep 60", "status() { $R state $ID | grep -oE '\"status\": \"[a-z]*\"'; }
            $R create $ID </dev/null >/dev/null; echo $?; status; $R start $ID; echo $?; status; $R kill $ID KILL; echo $?
            for n in $(seq 100); do status | grep -q stopped && break; sleep 0.05; done; status; $R delete $ID; echo $?; $R state $ID 2>/dev/null; echo $?").shows("\"created\"\n0\n\"status\": \"running\""),
        life("the state has what it must", "sleep 60", "$R create $ID </dev/null >/dev/null; $R state $ID | grep -oE '\"(ociVersion|id|status|pid|bundle)\"' | sort; $R delete --force $ID").shows("pid"),
        life("an id twice", "sleep 60", "$R create $ID </dev/null >/dev/null; $R create $ID </dev/null >/dev/null 2>&1 && echo twice || echo refused; $R delete --force $ID").shows("refused"),
        life("an id twice at once", "sleep 60", "try() { $R create $ID </dev/null >/dev/null 2>err-$1; echo $? >code-$1; }
            for n in 1 2 3 4 5; do try a & try b & wait; sort code-a code-b; grep -l exist err-a err-b | wc -l; $R delete --force $ID; done").shows("0\n1\n1\n0\n1\n1\n0\n1\n1\n0\n1\n1\n0\n1\n1\n"),
        life("ended before its start", "sleep 60", "$R create $ID </dev/null >/dev/null; $R kill $ID TERM
            for n in $(seq 20); do $R state $ID | grep -o stopped && break; sleep 0.05; done; $R delete --force $ID; echo $?").shows("stopped\n0"),
        life("an id that is a path", "", "$R create a/b </dev/null >/dev/null 2>&1 && echo taken || echo refused").shows("refused"),
        life("start twice", "sleep 60", "$R create $ID </dev/null >/dev/null; $R start $ID; $R start $ID 2>/dev/null && echo twice || echo refused; $R delete --force $ID").shows("refused"),
        life("delete what runs", "sleep 60", "$R create $ID </dev/null >/dev/null; $R start $ID; $R delete $ID 2>/dev/null && echo gone || echo refused; $R delete --force $ID; echo $?").shows("refused"),
        life("delete what was only created", "sleep 60", "$R create $ID </dev/null >/dev/null; $R delete $ID 2>/dev/null; $R state $ID >/dev/null 2>&1 && echo there || echo gone; $R delete --force $ID >/dev/null 2>&1"),
        life("kill what has ended", "true", "$R create $ID </dev/null >/dev/null; $R start $ID
            for n in $(seq 100); do $R state $ID | grep -q stopped && break; sleep 0.05; done; $R kill $ID KILL 2>/dev/null && echo killed || echo refused; $R delete $ID").shows("refused"),
        life("kill what is not there", "", "$R kill nobody KILL 2>/dev/null && echo killed || echo refused; $R start nobody 2>/dev/null || echo refused; $R delete nobody 2>/dev/null || echo refused; $R delete --force nobody; echo $?"),
        life("signals by name and number", "trap 'echo usr1' USR1; trap 'echo term; exit 3' TERM; echo ready >/ready; while :; do sleep 0.05; done",
            "$R run $ID >log & for n in $(seq 200); do [ -e rootfs/ready ] && break; sleep 0.02; done; $R kill $ID SIGUSR1; sleep 0.3; $R kill $ID 15; wait $!; echo $?; cat log").shows("usr1\nterm"),
        life("a pid file", "", "$R run --pid-file pid $ID; grep -cE '^[0-9]+$' pid").shows("1"),
        life("input and output", "cat; echo err >&2", "echo words | $R run $ID 2>&1").shows("words"),
        case("no pid namespace", "echo started").with(|spec| share(spec, "pid")).drive("timeout 20 $R run $ID >log; echo $?; cat log").shows("started"),
    ];
    compare("life", cases);
}
