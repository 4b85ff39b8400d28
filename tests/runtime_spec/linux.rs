//! `linux`: namespaces, mappings, devices, cgroups, sysctls, paths, and the rest but seccomp.

use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use super::{Case, case, compare, mount, namespace, refused, share};

fn set(name: &'static str, script: &'static str, field: &'static str, value: Value) -> Case {
    case(name, script).with(move |spec| spec["linux"][field] = value.clone())
}

fn bad(name: &'static str, words: &'static str, field: &'static str, value: Value) -> Case {
    refused(name, words).with(move |spec| spec["linux"][field] = value.clone())
}

fn mapped(spec: &mut Value) {
    namespace(spec, "user", None);
    let range = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}, {"containerID": 5000, "hostID": 200_000, "size": 10}]);
    spec["linux"]["uidMappings"] = range.clone();
    spec["linux"]["gidMappings"] = range;
}

/// Which namespaces are not those of the shell outside, in alphabetical order.
const DIFFERENT: &str = "$R create $ID </dev/null >/dev/null; echo \"exit $?\"; pid=$($R state $ID | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p')
for n in cgroup ipc mnt net pid time user uts; do [ \"$(readlink /proc/$pid/ns/$n)\" = \"$(readlink /proc/self/ns/$n)\" ] && echo same $n || echo own $n; done; $R delete --force $ID";

#[test]
fn namespaces_as_crun_and_runc_have_them() {
    let joined = |kind: &'static str, file: &'static str, unshare: &'static str| {
        let name: &'static str = Box::leak(format!("join {kind}").into_boxed_str());
        // A process of our own keeps the namespace; the container must be in it.
        let drive: &'static str = Box::leak(format!(
            "unshare {unshare} sleep 60 & keeper=$!; for n in $(seq 200); do [ \"$(readlink /proc/$keeper/ns/{file})\" != \"$(readlink /proc/self/ns/{file})\" ] && break; sleep 0.01; done
            holder=$keeper; [ {file} != pid ] || {{ holder=; while [ -z \"$holder\" ]; do holder=$(cat /proc/$keeper/task/$keeper/children); done; holder=${{holder% }}; }}
            sed -i \"s,HOLDER,$holder,\" config.json; $R create $ID </dev/null >/dev/null; echo \"exit $?\"; pid=$($R state $ID | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p')
            [ \"$(readlink /proc/$pid/ns/{file})\" = \"$(readlink /proc/$holder/ns/{file})\" ] && echo joined; $R delete --force $ID; kill $keeper $holder; wait 2>/dev/null"
        ).into_boxed_str());
        case(name, "")
            .with(move |spec| {
                namespace(spec, kind, Some(&format!("/proc/HOLDER/ns/{file}")));
                if kind == "uts" {
                    spec.as_object_mut().expect("a Spec").remove("hostname");
                }
            })
            .drive(drive)
            .shows("joined")
    };
    let cases = vec![
        case("the usual namespaces", "").drive(DIFFERENT).shows("own mnt"),
        case("all namespaces", "")
            .with(|spec| {
                for kind in ["cgroup", "time"] {
                    namespace(spec, kind, None);
                }
                mapped(spec);
            })
            .drive(DIFFERENT)
            .shows("own user")
            .shows("own time")
            .shows("own cgroup"),
        case("a mount namespace alone", "")
            .with(|spec| {
                spec["linux"]["namespaces"] = json!([{"type": "mount"}]);
                spec.as_object_mut().expect("a Spec").remove("hostname");
            })
            .drive(DIFFERENT)
            .shows("same pid"),
        case("no mount namespace", "cat /proc/self/mountinfo | wc -l >/dev/null; ls /proc/1/comm; ls /bin/busybox")
            .with(|spec| share(spec, "mount"))
            .drive("$R run $ID; echo \"exit $?\"; umount -l $B/rootfs 2>/dev/null; true")
            .shows("/bin/busybox\nexit 0"),
        case("exec without a mount namespace", "sleep 60")
            .with(|spec| share(spec, "mount"))
            .drive("$R create $ID </dev/null >/dev/null; $R start $ID; $R exec $ID /bin/busybox ls /bin/busybox /etc/passwd; $R delete --force $ID; umount -l $B/rootfs 2>/dev/null; true")
            .shows("/bin/busybox\n")
            .but("a further process is in the container's root, too; crun's and runc's see the host's"),
        case("what is left of its mounts", "true")
            .with(|spec| share(spec, "mount"))
            .drive("$R run $ID; echo \"left $(grep -c $B/rootfs /proc/self/mountinfo)\"; umount -l $B/rootfs 2>/dev/null; true")
            .shows("left 0")
            .but("nothing is left of a container; crun and runc leave its mounts in their caller's namespace"),
        joined("network", "net", "--net"),
        joined("ipc", "ipc", "--ipc"),
        joined("uts", "uts", "--uts"),
        joined("cgroup", "cgroup", "--cgroup"),
        joined("pid", "pid", "--pid --fork"),
        joined("time", "time", "--time"),
        refused("a namespace twice", "twice")
            .with(|spec| {
                spec["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({"type": "pid"}));
            })
            .but("the specification wants an error; crun takes it"),
        bad(
            "an unknown namespace",
            "linux.namespaces[0].type: unknown variant `moon`",
            "namespaces",
            json!([{"type": "moon"}]),
        ),
        refused("a namespace that is not there", "/proc/self/ns/moon")
            .with(|spec| namespace(spec, "network", Some("/proc/self/ns/moon"))),
        refused("a namespace of another type", "network namespace")
            .with(|spec| namespace(spec, "network", Some("/proc/self/ns/ipc"))),
        refused("a namespace that is a file", "network namespace")
            .with(|spec| namespace(spec, "network", Some("/etc/passwd"))),
        case(
            "a user namespace",
            "cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; id -u; stat -c '%u %g' /bin/busybox",
        )
        .with(mapped)
        .shows(" 5000 200000 10"),
        case("a user in a user namespace", "grep -E 'Uid|Gid|Cap' /proc/self/status")
            .with(|spec| {
                mapped(spec);
                spec["process"]["user"] = json!({"uid": 5, "gid": 5001, "additionalGids": [7]});
            })
            .shows("5001"),
        refused("a user namespace without mappings", "linux.uidMappings").with(|spec| namespace(spec, "user", None)),
        refused("mappings that overlap", "uid_map").with(|spec| {
            mapped(spec);
            spec["linux"]["uidMappings"] =
                json!([{"containerID": 0, "hostID": 0, "size": 10}, {"containerID": 5, "hostID": 100, "size": 10}]);
        }),
        refused("a user who is not mapped", "does not exist in this user namespace").with(|spec| {
            mapped(spec);
            spec["process"]["user"] = json!({"uid": 3000, "gid": 0});
        }),
        case("time offsets", "cat /proc/self/timens_offsets | tr -s ' '")
            .with(|spec| {
                namespace(spec, "time", None);
                spec["linux"]["timeOffsets"] =
                    json!({"monotonic": {"secs": 1000, "nanosecs": 7}, "boottime": {"secs": 100_000}});
            })
            .shows("monotonic 1000 7"),
        refused("time offsets without a namespace", "linux.timeOffsets").with(|spec| {
            spec["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 1}});
        }),
        refused("an unknown clock", "linux.timeOffsets").with(|spec| {
            namespace(spec, "time", None);
            spec["linux"]["timeOffsets"] = json!({"moon": {"secs": 1}});
        }),
    ];
    compare("namespaces", cases);
}

#[test]
fn devices_as_crun_and_runc_have_them() {
    let device = |name: &'static str, device: Value| {
        case(name, "stat -c '%n %F %a %u %g %t %T' /dev/mine /sub/folder/mine 2>/dev/null")
            .with(move |spec| spec["linux"]["devices"] = json!([device]))
    };
    let cases = vec![
        device("character", json!({"path": "/dev/mine", "type": "c", "major": 10, "minor": 229, "fileMode": 432, "uid": 1, "gid": 2})).shows("660 1 2 a e5"),
        device("block", json!({"path": "/dev/mine", "type": "b", "major": 7, "minor": 0})).shows("block special file"),
        device("unbuffered", json!({"path": "/dev/mine", "type": "u", "major": 1, "minor": 3})).shows("character special file"),
        device("fifo", json!({"path": "/dev/mine", "type": "p", "fileMode": 420})).shows("fifo 644"),
        device("elsewhere", json!({"path": "/sub/folder/mine", "type": "c", "major": 1, "minor": 3})).shows("/sub/folder/mine"),
        case("the default once more", "stat -c '%a %u %t %T' /dev/null").with(|spec| {
            spec["linux"]["devices"] = json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0}]);
        }),
        case("in a user namespace", "stat -c '%F %t %T' /dev/zero; echo x > /dev/zero && echo written").with(|spec| {
            mapped(spec);
            spec["linux"]["devices"] = json!([{"path": "/dev/zero", "type": "c", "major": 1, "minor": 5}]);
        }).shows("written"),
        bad("an unknown type", "linux.devices[0].type", "devices", json!([{"path": "/dev/mine", "type": "m", "major": 1, "minor": 3}])),
        bad("no path", "linux.devices[0]", "devices", json!([{"type": "c", "major": 1, "minor": 3}])),
        refused("a path that is taken", "something else there").with(|spec| {
            spec["linux"]["devices"] = json!([{"path": "/etc/passwd", "type": "c", "major": 1, "minor": 3}]);
        }).but("the specification wants an error; crun and runc use what is there"),
    ];
    compare("devices", cases);
}

#[test]
fn paths_and_the_rest_as_crun_and_runc_have_them() {
    let numa = "grep -c 'bind:0' /proc/self/numa_maps | sed 's/[1-9][0-9]*/some/'";
    let mut cases = vec![
        set("masked paths", "cat /proc/kcore | wc -c; ls /proc/bus | wc -l; cat /etc/passwd | wc -c; grep -E ' /(proc|etc)/' /proc/self/mountinfo | awk '{print $5}' | sort", "maskedPaths",
            json!(["/proc/kcore", "/proc/bus", "/etc/passwd", "/not/there"])).shows("/proc/bus"),
        set("read-only paths", "echo x 2>&1 > /proc/sys/kernel/domainname || echo refused; awk '$5 ~ \"^/(proc/|etc)\" {print $5, $6}' /proc/self/mountinfo | sort", "readonlyPaths",
            json!(["/proc/sys", "/proc/bus", "/etc", "/not/there"])).shows("refused"),
        case("a masked path behind a symlink", "cat /link | wc -c; cat /etc/passwd | wc -c").prepare(|bundle| {
            symlink("/etc/passwd", bundle.join("rootfs/link")).expect("a link in our folder");
        }).with(|spec| spec["linux"]["maskedPaths"] = json!(["/link"])),
        set("personality", "uname -m", "personality", json!({"domain": "LINUX32"})).shows("i686"),
        set("the usual personality", "uname -m", "personality", json!({"domain": "LINUX"})).shows("x86_64"),
        bad("an unknown personality", "linux.personality.domain", "personality", json!({"domain": "MOON"})),
        bad("flags of the personality", "linux.personality.flags", "personality", json!({"domain": "LINUX", "flags": ["MOON"]}))
            .but("invalid values are errors in the specification, which has no flags yet; crun and runc pass them over"),
        set("memory policy", numa, "memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "0"})),
        set("memory policy without nodes", numa, "memoryPolicy", json!({"mode": "MPOL_DEFAULT"})),
        bad("memory policy of nodes that are not there", "linux.memoryPolicy", "memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "900"})),
        bad("an unknown memory policy", "linux.memoryPolicy.mode", "memoryPolicy", json!({"mode": "MPOL_MOON"})),
        bad("memory policy with bad nodes", "linux.memoryPolicy.nodes", "memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "x"})),
        bad("Intel's resource director", "linux.intelRdt", "intelRdt", json!({"closID": "moon", "l3CacheSchema": "L3:0=1"})),
        set("sysctls", "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax", "sysctl", json!({"net.ipv4.ip_forward": "1", "kernel.msgmax": "4242"})).shows("4242"),
        set("a sysctl with slashes", "cat /proc/sys/net/ipv4/ip_forward", "sysctl", json!({"net/ipv4/ip_forward": "1"})).shows("1"),
        set("a network device", "cat /proc/net/dev | grep -c inner0; ip addr show dev inner0 | grep -oE '10.77.0.[0-9]+/24|fd77::1/64' | sort; ip link show inner0 | grep -o '<.*UP'", "netDevices", json!({"DEVICE": {"name": "inner0"}}))
            .drive("device=sp$((RANDOM % 10000))$((RANDOM % 1000)); ip link add $device type veth peer name p$device && ip addr add 10.77.0.1/24 dev $device && ip addr add fd77::1/64 dev $device nodad
                sed -i \"s/DEVICE/$device/\" config.json; $R run $ID; echo \"exit $?\"; ip link del $device 2>/dev/null && echo still here; true").shows("10.77.0.1/24\nfd77::1/64").shows("UP"),
        bad("a network device that is not there", "linux.netDevices: move `moon0`", "netDevices", json!({"moon0": {}})),
        bad("an unknown sysctl", "net.moon", "sysctl", json!({"net.moon": "1"})),
        bad("a sysctl of the host", "kernel.panic", "sysctl", json!({"kernel.panic": "7"})),
        refused("a sysctl of a shared namespace", "net.ipv4.ip_forward").with(|spec| {
            share(spec, "network");
            spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "0"});
        }),
        bad("an unknown propagation", "linux.rootfsPropagation", "rootfsPropagation", json!("slavish")),
        set("a cgroup of its own", "cut -d: -f2- /proc/self/cgroup | grep -E '^(pids|memory|freezer):' | sort", "cgroupsPath", json!("/layerfs-spec/PLACE"))
            .drive("sed -i \"s,PLACE,$ID-$RANDOM,\" config.json; $R run $ID | sed \"s,/$ID-[0-9]*,/PLACE,\"; echo \"exit ${PIPESTATUS[0]}\"").shows("/layerfs-spec/PLACE"),
        case("annotations", "").with(|spec| spec["annotations"] = json!({"a": "b", "org.example.c": "d"}))
            .drive("$R create $ID </dev/null >/dev/null; $R state $ID | grep -oE '\"(a|org.example.c)\": \"[^\"]*\"' | sort; $R delete --force $ID").shows("\"a\": \"b\""),
    ];
    for kind in ["private", "slave", "shared", "unbindable", "rprivate", "rslave", "rshared"] {
        let name: &'static str = Box::leak(format!("root {kind}").into_boxed_str());
        cases.push(set(name, "awk '$5 == \"/\" { spread = \"\"; for (i = 7; $i != \"-\"; i++) { sub(\":.*\", \"\", $i); spread = spread $i \" \" } print spread }' /proc/self/mountinfo",
            "rootfsPropagation", json!(kind)).drive("mount --bind rootfs rootfs; mount --make-private rootfs; $R run $ID; echo \"exit $?\"; umount rootfs"));
    }
    compare("linux", cases);
}

/// A controller's files below /sys/fs/cgroup, as the container sees its own.
fn limited(name: &'static str, script: &'static str, resources: Value) -> Case {
    case(name, script).with(move |spec| {
        namespace(spec, "cgroup", None);
        mount(spec, json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}));
        spec["linux"]["resources"] = resources.clone();
    })
}

#[test]
fn resources_as_crun_and_runc_have_them() {
    let node = |kind: &'static str| {
        limited(
            kind,
            "mknod /null c 1 3; mknod /fuse c 10 229; echo x 2>&1 >/null && echo null; cat 2>&1 </fuse | sed 's/.*: //'",
            json!({"devices": match kind {
                "devices denied" => json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "access": "m"}]),
                _ => json!([{"allow": true, "access": "rwm"}]),
            }}),
        )
    };
    let cases = vec![
        limited(
            "memory",
            "cd /sys/fs/cgroup/memory; cat memory.limit_in_bytes memory.soft_limit_in_bytes memory.swappiness",
            json!({"memory": {"limit": 67_108_864, "reservation": 33_554_432, "swappiness": 10}}),
        )
        .shows("67108864"),
        limited(
            "memory without end",
            "cat /sys/fs/cgroup/memory/memory.limit_in_bytes",
            json!({"memory": {"limit": -1}}),
        ),
        limited(
            "cpu",
            "cd /sys/fs/cgroup/cpu; cat cpu.shares cpu.cfs_quota_us cpu.cfs_period_us",
            json!({"cpu": {"shares": 512, "quota": 50_000, "period": 200_000}}),
        )
        .shows("200000"),
        limited(
            "cpu burst",
            "cat /sys/fs/cgroup/cpu/cpu.cfs_burst_us",
            json!({"cpu": {"quota": 50_000, "period": 100_000, "burst": 20_000}}),
        )
        .shows("20000"),
        limited("cpuset", "grep _allowed_list /proc/self/status", json!({"cpu": {"cpus": "0", "mems": "0"}}))
            .shows("Cpus_allowed_list:\t0\n"),
        limited("pids", "cat /sys/fs/cgroup/pids/pids.max", json!({"pids": {"limit": 33}})).shows("33"),
        limited("pids without end", "cat /sys/fs/cgroup/pids/pids.max", json!({"pids": {"limit": -1}})).shows("max"),
        limited(
            "throttled devices",
            "cat /sys/fs/cgroup/blkio/blkio.throttle.read_bps_device",
            json!({"blockIO": {"throttleReadBpsDevice": [{"major": 7, "minor": 0, "rate": 1_048_576}]}}),
        ),
        node("devices denied").shows("null\n"),
        node("devices allowed"),
        refused("a limit that is no number", "linux.resources.memory.limit").with(|spec| {
            spec["linux"]["resources"] = json!({"memory": {"limit": "much"}});
        }),
        refused("processors that are not there", "cpuset").with(|spec| {
            spec["linux"]["resources"] = json!({"cpu": {"cpus": "900"}});
        }),
    ];
    compare("resources", cases);
}
