//! `process`, `root`, `hostname`, `domainname`.

use serde_json::{Value, json};

use super::{Case, case, compare, refused, share};

const STATUS: &str = "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:|Umask|Cpus_allowed_list)' /proc/self/status";

const REAL_TIME: &str = "real time is what the cgroup allows, and without limits a container may stay in its caller's";

fn caps(spec: &mut Value, set: &str, names: &[&str]) {
    spec["process"]["capabilities"][set] = json!(names);
}

fn limit(kind: &'static str, soft: u64, hard: u64) -> Value {
    json!({"type": kind, "soft": soft, "hard": hard})
}

fn scheduled(name: &'static str, scheduler: Value) -> Case {
    case(name, "awk '{print $19, $40, $41}' /proc/self/stat").with(move |spec| {
        spec["process"]["scheduler"] = scheduler.clone();
    })
}

fn prioritised(name: &'static str, class: &'static str, priority: i64) -> Case {
    case(name, "ionice").with(move |spec| spec["process"]["ioPriority"] = json!({"class": class, "priority": priority}))
}

#[test]
fn process_as_crun_and_runc_have_it() {
    let mut cases = vec![
        case("args and env", "echo $0 $1 $2; env | sort")
            .with(|spec| {
                spec["process"]["args"] = json!(["/bin/sh", "-c", "echo $0 $1 \"$2\"; env | sort", "a", "b c", "d\ne"]);
                spec["process"]["env"] = json!(["PATH=/bin", "HOME=/h", "A=b=c", "EMPTY=", "A=last"]);
            })
            .shows("A="),
        case("a program by PATH", "")
            .with(|spec| {
                spec["process"]["args"] = json!(["busybox", "echo", "found"]);
            })
            .shows("found"),
        case("no HOME in env", "echo $HOME").with(|spec| spec["process"]["env"] = json!(["PATH=/bin"])).shows("/root"),
        case("exit code", "exit 7").shows("exit 7"),
        case("killed by its own signal", "ulimit -c 0; kill -SEGV $$; sleep 1")
            .with(|spec| share(spec, "pid"))
            .shows("exit 139"),
        case("cwd", "pwd").with(|spec| spec["process"]["cwd"] = json!("/tmp")).shows("/tmp"),
        case("a cwd that is made", "pwd; stat -c '%a %u %g' .")
            .with(|spec| spec["process"]["cwd"] = json!("/new/folder"))
            .shows("/new/folder"),
        case("user and groups", STATUS)
            .with(|spec| {
                spec["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6, 77]});
            })
            .shows("5 6 77"),
        case("umask", "umask").with(|spec| spec["process"]["user"]["umask"] = json!(63)).shows("0077"),
        case("no umask", "umask").shows("0022"),
        case("no new privileges", STATUS)
            .with(|spec| spec["process"]["noNewPrivileges"] = json!(true))
            .shows("NoNewPrivs:\t1"),
        case("capabilities of root", STATUS),
        case("capabilities of an ordinary user", STATUS)
            .with(|spec| spec["process"]["user"] = json!({"uid": 1, "gid": 1})),
        case("no capabilities", STATUS)
            .with(|spec| {
                spec["process"].as_object_mut().expect("a process").remove("capabilities");
            })
            .shows("CapEff:\t0000000000000000"),
        case("an empty list of capabilities", STATUS)
            .with(|spec| spec["process"]["capabilities"] = json!({}))
            .shows("CapBnd:\t0000000000000000"),
        case("bounding alone", STATUS)
            .with(|spec| {
                spec["process"]["capabilities"] = json!({"bounding": ["CAP_CHOWN", "CAP_NET_RAW"]});
            })
            .shows("CapBnd:\t0000000000002001"),
        case("ambient", STATUS)
            .with(|spec| {
                spec["process"]["user"] = json!({"uid": 9, "gid": 9});
                for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
                    caps(spec, set, &["CAP_KILL", "CAP_CHOWN"]);
                }
            })
            .shows("CapAmb:\t0000000000000021"),
        case("inheritable", STATUS).with(|spec| caps(spec, "inheritable", &["CAP_KILL"])),
        case("an unknown capability", STATUS)
            .with(|spec| caps(spec, "bounding", &["CAP_FLY"]))
            .shows("CapBnd:\t0000000000000000"),
        case("every limit", "cat /proc/self/limits | sed 's/  */ /g'")
            .with(|spec| {
                spec["process"]["rlimits"] = json!([
                    limit("RLIMIT_AS", 1 << 40, 1 << 41),
                    limit("RLIMIT_CORE", 1, 2),
                    limit("RLIMIT_CPU", 100, 200),
                    limit("RLIMIT_DATA", 1 << 33, 1 << 34),
                    limit("RLIMIT_FSIZE", 1 << 30, 1 << 31),
                    limit("RLIMIT_LOCKS", 10, 20),
                    limit("RLIMIT_MEMLOCK", 4096, 8192),
                    limit("RLIMIT_MSGQUEUE", 1000, 2000),
                    limit("RLIMIT_NICE", 0, 0),
                    limit("RLIMIT_NOFILE", 500, 600),
                    limit("RLIMIT_NPROC", 700, 800),
                    limit("RLIMIT_RSS", 1 << 30, 1 << 31),
                    limit("RLIMIT_RTPRIO", 0, 0),
                    limit("RLIMIT_RTTIME", 1000, 2000),
                    limit("RLIMIT_SIGPENDING", 30, 40),
                    limit("RLIMIT_STACK", 1 << 20, 1 << 21),
                ]);
            })
            .shows("Max open files 500 600 files"),
        case("a limit without end", "ulimit -c").with(|spec| {
            spec["process"]["rlimits"] = json!([limit("RLIMIT_CORE", 0, u64::MAX)]);
        }),
        refused("an unknown limit", "process.rlimits[0].type").with(|spec| {
            spec["process"]["rlimits"] = json!([limit("RLIMIT_MOON", 1, 1)]);
        }),
        refused("a limit twice", "process.rlimits[1]: RLIMIT_CORE is there twice")
            .with(|spec| {
                spec["process"]["rlimits"] = json!([limit("RLIMIT_CORE", 1, 1), limit("RLIMIT_CORE", 1, 1)]);
            })
            .but("the specification wants an error; crun and runc take the last"),
        refused("a soft limit above the hard one", "process.rlimits[0]").with(|spec| {
            spec["process"]["rlimits"] = json!([limit("RLIMIT_CORE", 2, 1)]);
        }),
        case("oomScoreAdj", "cat /proc/self/oom_score_adj")
            .with(|spec| spec["process"]["oomScoreAdj"] = json!(100))
            .shows("100\n"),
        case("no oomScoreAdj", "cat /proc/self/oom_score_adj"),
        refused("oomScoreAdj out of range", "oom_score_adj").with(|spec| spec["process"]["oomScoreAdj"] = json!(1001)),
        scheduled("SCHED_BATCH", json!({"policy": "SCHED_BATCH", "nice": 5})).shows("5 0 3"),
        scheduled("SCHED_IDLE", json!({"policy": "SCHED_IDLE"})).shows("0 0 5"),
        scheduled("SCHED_OTHER", json!({"policy": "SCHED_OTHER", "nice": 19})).shows("19 0 0"),
        scheduled("a better nice", json!({"policy": "SCHED_OTHER", "nice": -10})).shows("-10 0 0"),
        scheduled("SCHED_FIFO", json!({"policy": "SCHED_FIFO", "priority": 10})).but(REAL_TIME),
        scheduled("SCHED_RR", json!({"policy": "SCHED_RR", "priority": 20})).but(REAL_TIME),
        scheduled("SCHED_FLAG_RESET_ON_FORK", json!({"policy": "SCHED_BATCH", "flags": ["SCHED_FLAG_RESET_ON_FORK"]})),
        prioritised("IOPRIO_CLASS_BE", "IOPRIO_CLASS_BE", 4).shows("best-effort: prio 4"),
        prioritised("IOPRIO_CLASS_IDLE", "IOPRIO_CLASS_IDLE", 0).shows("idle"),
        prioritised("IOPRIO_CLASS_RT", "IOPRIO_CLASS_RT", 3).shows("realtime: prio 3"),
        case("execCPUAffinity is not the first process's", STATUS).with(|spec| {
            spec["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "0"});
        }),
        case("read-only root", "touch /x 2>&1; touch /tmp/x 2>&1")
            .with(|spec| spec["root"]["readonly"] = json!(true))
            .shows("Read-only file system"),
        case("writable root", "touch /x && ls /x").shows("/x"),
        case("absolute path of the root", "ls /")
            .with_bundle(|spec, bundle| {
                spec["root"]["path"] = json!(bundle.join("rootfs"));
            })
            .shows("bin"),
        case("the root by a symlink", "ls /")
            .prepare(|bundle| {
                std::os::unix::fs::symlink("rootfs", bundle.join("link")).expect("a link in our folder");
            })
            .with(|spec| spec["root"]["path"] = json!("link")),
        refused("a root that is not there", "open the root").with(|spec| spec["root"]["path"] = json!("nowhere")),
        refused("no root", "names no root").with(|spec| {
            spec.as_object_mut().expect("a Spec").remove("root");
        }),
        case("hostname", "hostname").shows("inside"),
        case("domainname", "cat /proc/sys/kernel/domainname")
            .with(|spec| spec["domainname"] = json!("domain.inside"))
            .shows("domain.inside"),
        refused("hostname without a namespace for it", "hostname").with(|spec| share(spec, "uts")),
        case("an old version", "echo here").with(|spec| spec["ociVersion"] = json!("1.0.0")).shows("here"),
        case("unknown keys", "echo here")
            .with(|spec| {
                spec["moon"] = json!({"full": true});
                spec["process"]["moon"] = json!(1);
                spec["linux"]["moon"] = json!([]);
            })
            .shows("here"),
    ];
    cases.extend(refusals());
    compare("process", cases);
}

fn refusals() -> Vec<Case> {
    let set = |name, words, field: &'static str, value: Value| {
        refused(name, words).with(move |spec| spec["process"][field] = value.clone())
    };
    vec![
        set("no program", "process.args is empty", "args", json!([])),
        set("a program that is not there", "is not in the container", "args", json!(["/bin/nothing"])),
        set("a program that is a folder", "cannot be executed", "args", json!(["/tmp"])),
        set("a relative cwd", "process.cwd", "cwd", json!("tmp")),
        set("a cwd that is a file", "working folder", "cwd", json!("/etc/passwd")),
        set("a user that is no number", "process.user.uid", "user", json!({"uid": "root", "gid": 0})),
        set("a user beyond all", "process.user.uid", "user", json!({"uid": 4_294_967_296_u64, "gid": 0})),
        set("a negative user", "process.user.uid", "user", json!({"uid": -1, "gid": 0})),
        set("an unknown scheduler", "process.scheduler.policy", "scheduler", json!({"policy": "SCHED_MOON"})),
        set("a nice that is none", "process.scheduler.nice", "scheduler", json!({"policy": "SCHED_OTHER", "nice": 20})),
        set(
            "a priority for SCHED_OTHER",
            "process.scheduler",
            "scheduler",
            json!({"policy": "SCHED_OTHER", "priority": 5}),
        ),
        set(
            "an unknown flag",
            "process.scheduler.flags",
            "scheduler",
            json!({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_MOON"]}),
        ),
        set(
            "an unknown class",
            "process.ioPriority.class",
            "ioPriority",
            json!({"class": "IOPRIO_CLASS_MOON", "priority": 0}),
        ),
        set(
            "a level beyond 7",
            "process.ioPriority.priority",
            "ioPriority",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
        ),
        set("args that are no list", "process.args", "args", json!("sh")),
        set("a NUL byte", "process.env", "env", json!(["A=\u{0}b"])),
        set("a terminal and nowhere to send it", "console-socket", "terminal", json!(true))
            .drive("$R create $ID; echo \"exit $?\""),
        refused("no process", "process").with(|spec| {
            spec.as_object_mut().expect("a Spec").remove("process");
        }),
        refused("no JSON", "not JSON").drive("echo '{' >config.json; $R run $ID; echo \"exit $?\""),
        refused("no config.json", "config.json").drive("rm config.json; $R run $ID; echo \"exit $?\""),
    ]
}
