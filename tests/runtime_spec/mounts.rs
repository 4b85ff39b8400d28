//! `mounts` with all their options.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;

use serde_json::{Value, json};

use super::{Case, case, compare, mount, namespace, refused};

/// The mounts at and below /m: where, the mount's own flags, how it spreads, what it is.
const TABLE: &str = r#"awk '$5 ~ "^/m" { spread = ""; for (i = 7; $i != "-"; i++) { sub(":.*", "", $i); spread = spread $i " " } print $5, $6, spread, $(i + 1) }' /proc/self/mountinfo"#;

/// Of the file system itself as well.
const WITH_DATA: &str =
    r#"awk '$5 ~ "^/m" { for (i = 7; $i != "-"; i++); print $5, $6, $(i + 1), $(i + 3) }' /proc/self/mountinfo"#;

fn tmpfs(name: &'static str, options: &'static [&'static str]) -> Case {
    case(name, WITH_DATA)
        .with(move |spec| {
            mount(spec, json!({"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": options}));
        })
        .shows("/m ")
}

/// `source` in the bundle: a folder with a file, and a tmpfs mounted below it by the driving script.
fn bind(name: &'static str, options: &'static [&'static str]) -> Case {
    case(name, TABLE)
        .prepare(|bundle| {
            fs::create_dir_all(bundle.join("source/below")).expect("a folder in our folder");
            fs::write(bundle.join("source/file"), "content\n").expect("a file in our folder");
        })
        .with_bundle(move |spec, bundle| {
            mount(
                spec,
                json!({"destination": "/m", "type": "bind", "source": bundle.join("source"), "options": options}),
            );
        })
        .drive("mount -t tmpfs none source/below; $R run $ID; echo \"exit $?\"; umount source/below")
        .shows("/m ")
}

fn source(bundle: &Path) {
    fs::create_dir_all(bundle.join("source")).expect("a folder in our folder");
    fs::write(bundle.join("source/file"), "content\n").expect("a file in our folder");
}

fn bound(spec: &mut Value, bundle: &Path, destination: &str) {
    mount(
        spec,
        json!({"destination": destination, "type": "bind", "source": bundle.join("source"), "options": ["bind"]}),
    );
}

#[test]
fn options_of_mounts_as_crun_and_runc_have_them() {
    let mut cases: Vec<Case> = vec![
        tmpfs("tmpfs", &[]),
        tmpfs("ro", &["ro"]),
        tmpfs("nosuid nodev noexec", &["nosuid", "nodev", "noexec"]),
        tmpfs("suid dev exec rw", &["suid", "dev", "exec", "rw"]),
        tmpfs("the later wins", &["ro", "rw", "noexec", "exec"]),
        tmpfs("noatime", &["noatime"]),
        tmpfs("relatime", &["relatime"]),
        tmpfs("strictatime", &["strictatime"]),
        tmpfs("nodiratime", &["nodiratime"]),
        tmpfs("nosymfollow", &["nosymfollow"]),
        tmpfs("sync", &["sync"]),
        tmpfs("dirsync", &["dirsync"]),
        tmpfs("lazytime", &["lazytime"]),
        tmpfs("async", &["async"]),
        tmpfs("size, mode, inodes", &["size=64k", "mode=1750", "nr_inodes=77"]),
        tmpfs("owner", &["uid=5", "gid=6"]),
        tmpfs("private", &["private"]),
        tmpfs("rslave", &["rslave"]),
        tmpfs("defaults", &["defaults"]),
        case("shared", TABLE)
            .with(|spec| {
                mount(spec, json!({"destination": "/m", "type": "tmpfs", "source": "x", "options": ["shared"]}))
            })
            .shows("shared"),
        case("unbindable", TABLE)
            .with(|spec| {
                mount(spec, json!({"destination": "/m", "type": "tmpfs", "source": "x", "options": ["unbindable"]}))
            })
            .shows("unbindable"),
    ];
    for (name, options) in [
        ("bind", &["bind"] as &'static [&'static str]),
        ("rbind", &["rbind"]),
        ("bind, ro", &["bind", "ro"]),
        ("rbind, ro", &["rbind", "ro"]),
        ("rbind, rro", &["rbind", "rro"]),
        ("rbind, rro, rnosuid, rnodev, rnoexec", &["rbind", "rro", "rnosuid", "rnodev", "rnoexec"]),
        ("rbind, rnoatime", &["rbind", "rnoatime"]),
        ("rbind, rstrictatime", &["rbind", "rstrictatime"]),
        ("rbind, rnodiratime", &["rbind", "rnodiratime"]),
        ("rbind, rnosymfollow", &["rbind", "rnosymfollow"]),
        ("rbind, rrelatime", &["rbind", "rrelatime"]),
        ("rbind, ro and rrw", &["rbind", "ro", "rrw"]),
        ("bind, nosuid, nodev, noexec", &["bind", "nosuid", "nodev", "noexec"]),
        ("bind, noatime, nosymfollow", &["bind", "noatime", "nosymfollow"]),
        ("rbind, rprivate", &["rbind", "rprivate"]),
        ("rbind, rshared", &["rbind", "rshared"]),
        ("rbind, rslave", &["rbind", "rslave"]),
        ("bind, shared", &["bind", "shared"]),
        ("bind, slave", &["bind", "slave"]),
        ("bind, unbindable", &["bind", "unbindable"]),
        ("rbind, runbindable", &["rbind", "runbindable"]),
    ] {
        cases.push(bind(name, options));
    }
    compare("mount options", cases);
}

#[test]
fn kinds_of_mounts_as_crun_and_runc_have_them() {
    let kind = |name: &'static str,
                destination: &'static str,
                kind: &'static str,
                options: &'static [&'static str],
                script| {
        case(name, script).with(move |spec| {
            mount(spec, json!({"destination": destination, "type": kind, "source": kind, "options": options}));
        })
    };
    let cases = vec![
        kind("mqueue", "/m", "mqueue", &["nosuid", "noexec", "nodev"], TABLE).shows("mqueue"),
        kind("sysfs", "/m", "sysfs", &["ro", "nosuid"], TABLE).shows("sysfs"),
        kind("proc elsewhere", "/m", "proc", &[], TABLE).shows("proc"),
        kind("devpts elsewhere", "/m", "devpts", &["newinstance", "ptmxmode=0600"], WITH_DATA).shows("devpts"),
        kind("ramfs", "/m", "ramfs", &[], TABLE).shows("ramfs"),
        kind("cgroup", "/sys/fs/cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev", "relatime"],
            "awk '$5 ~ \"^/sys/fs/cgroup\" { for (i = 7; $i != \"-\"; i++); print $5, $6, $(i + 1) }' /proc/self/mountinfo | sort; ls -l /sys/fs/cgroup | awk '/->/ {print $9, $11}' | sort")
            .with(|spec| namespace(spec, "cgroup", None))
            .but("the folder of the hierarchies is read-only where they are; crun's and runc's can be written"),
        kind("a cgroup that can be written", "/sys/fs/cgroup", "cgroup", &["rw"], "mkdir /sys/fs/cgroup/pids/sub && echo made; rmdir /sys/fs/cgroup/pids/sub")
            .with(|spec| namespace(spec, "cgroup", None)).shows("made"),
        case("overlay", "cat /m/file; touch /m/new && ls /m").prepare(|bundle| {
            source(bundle);
            fs::create_dir_all(bundle.join("upper")).expect("a folder in our folder");
            fs::create_dir_all(bundle.join("work")).expect("a folder in our folder");
        }).with_bundle(|spec, bundle| {
            let folder = |name: &str, key: &str| format!("{key}={}", bundle.join(name).display());
            mount(spec, json!({"destination": "/m", "type": "overlay", "source": "overlay", "options":
                [folder("source", "lowerdir"), folder("upper", "upperdir"), folder("work", "workdir")]}));
        }).shows("new"),
        case("a file", "cat /etc/inner; stat -c %F /etc/inner").prepare(source).with_bundle(|spec, bundle| {
            mount(spec, json!({"destination": "/etc/inner", "type": "bind", "source": bundle.join("source/file"), "options": ["bind", "ro"]}));
        }).shows("content"),
        case("bind by option alone", "cat /m/file").prepare(source).with_bundle(|spec, bundle| {
            mount(spec, json!({"destination": "/m", "source": bundle.join("source"), "options": ["rbind"]}));
        }).shows("content"),
        case("no type named none", "cat /m/file").prepare(source).with_bundle(|spec, bundle| {
            mount(spec, json!({"destination": "/m", "type": "none", "source": bundle.join("source"), "options": ["bind"]}));
        }).shows("content"),
        case("a source in the bundle", "cat /m/file").prepare(source).with(|spec| {
            mount(spec, json!({"destination": "/m", "type": "bind", "source": "source", "options": ["bind"]}));
        }).drive("cd /; $R run --bundle $B $ID; echo \"exit $?\"").shows("content"),
        case("a source in an earlier mount", "cat /again/file").prepare(source).with_bundle(|spec, bundle| {
            bound(spec, bundle, "/m");
            mount(spec, json!({"destination": "/again", "type": "bind", "source": bundle.join("rootfs/m"), "options": ["bind"]}));
        }).shows("content"),
        case("the order of the table", "awk '{ print $5 }' /proc/self/mountinfo | grep -E '^/(m|t|again)$'").prepare(source).with_bundle(|spec, bundle| {
            mount(spec, json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs"}));
            bound(spec, bundle, "/m");
        }).shows("/t\n/m\n"),
        case("a deep destination", "cat /a/b/c/file; stat -c %a /a /a/b").prepare(source).with_bundle(|spec, bundle| bound(spec, bundle, "/a/b/c")).shows("content"),
        case("a relative destination", "cat /m/file").prepare(source).with_bundle(|spec, bundle| bound(spec, bundle, "m")).shows("content"),
        case("a destination with ..", "cat /m/file").prepare(source).with_bundle(|spec, bundle| bound(spec, bundle, "/tmp/../../m")).shows("content"),
        case("a destination behind a symlink", "cat /real/file").prepare(|bundle| {
            source(bundle);
            fs::create_dir_all(bundle.join("rootfs/real")).expect("a folder in our folder");
            symlink("/real", bundle.join("rootfs/link")).expect("a link in our folder");
        }).with_bundle(|spec, bundle| bound(spec, bundle, "/link")).shows("content"),
        case("a destination behind a symlink out of the root", "cat /tmp/out/file").prepare(|bundle| {
            source(bundle);
            symlink("../../../../../../../tmp", bundle.join("rootfs/link")).expect("a link in our folder");
        }).with_bundle(|spec, bundle| bound(spec, bundle, "/link/out")).shows("content"),
        case("a destination behind a dangling symlink", "cat /gone/file").prepare(|bundle| {
            source(bundle);
            symlink("/gone", bundle.join("rootfs/link")).expect("a link in our folder");
        }).with_bundle(|spec, bundle| bound(spec, bundle, "/link")).shows("content"),
        case("one over the other", "ls /m").prepare(source).with_bundle(|spec, bundle| {
            mount(spec, json!({"destination": "/m", "type": "tmpfs", "source": "x"}));
            bound(spec, bundle, "/m");
        }).shows("file"),
        case("tmpcopyup", "cat /full/file; stat -c '%a %u' /full; touch /full/new && ls /full").prepare(|bundle| {
            fs::create_dir_all(bundle.join("rootfs/full")).expect("a folder in our folder");
            fs::write(bundle.join("rootfs/full/file"), "content\n").expect("a file in our folder");
        }).with(|spec| mount(spec, json!({"destination": "/full", "type": "tmpfs", "source": "x", "options": ["tmpcopyup"]}))).shows("content"),
        case("the defaults of /dev", "cd /dev; ls -l | awk 'NR > 1 { print $1, $3, $4, ($1 ~ /^c/) ? $5 $6 : \"\", ($1 ~ /^l/) ? $9 $11 : \"\" }' | sort; ls"),
        refused("an unknown file system", "file system `moonfs`").with(|spec| mount(spec, json!({"destination": "/m", "type": "moonfs", "source": "x"}))),
        refused("an unknown option", "moon").with(|spec| mount(spec, json!({"destination": "/m", "type": "tmpfs", "source": "x", "options": ["moon=full"]}))),
        refused("a source that is not there", "mount `/nowhere/at/all` on `/m`").with(|spec| mount(spec, json!({"destination": "/m", "type": "bind", "source": "/nowhere/at/all", "options": ["bind"]}))),
        refused("a bind without a source", "has no source").with(|spec| mount(spec, json!({"destination": "/m", "type": "bind", "options": ["bind"]}))),
        refused("a folder over a file", "not a folder").prepare(source).with_bundle(|spec, bundle| bound(spec, bundle, "/etc/passwd")),
        refused("/proc is a symlink", "symlink").prepare(|bundle| {
            fs::remove_dir(bundle.join("rootfs/proc")).expect("it is empty");
            symlink("/tmp", bundle.join("rootfs/proc")).expect("a link in our folder");
        }),
        refused("options that are no list", "mounts[4].options").with(|spec| mount(spec, json!({"destination": "/m", "type": "tmpfs", "options": "ro"}))),
        refused("no destination", "mounts[4]: missing field `destination`").with(|spec| mount(spec, json!({"type": "tmpfs", "source": "x"}))),
    ];
    compare("mounts", cases);
}

#[test]
fn mapped_mounts_as_crun_and_runc_have_them() {
    let owned = |bundle: &Path| {
        source(bundle);
        chown(bundle.join("source/file"), Some(7), Some(8)).expect("root may give a file away");
    };
    let maps = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 1000}]);
    let mapped = move |name: &'static str, options: &'static [&'static str]| {
        case(name, "stat -c '%u %g' /m/file; touch /m/new; stat -c '%u %g' /m/new")
            .prepare(owned)
            .with_bundle(move |spec, bundle| {
                mount(
                    spec,
                    json!({"destination": "/m", "type": "bind", "source": bundle.join("source"), "options": options,
                "uidMappings": maps(5000), "gidMappings": maps(6000)}),
                );
            })
            .drive("$R run $ID; echo \"exit $?\"; stat -c '%u %g' source/new")
    };
    let in_user_namespace = |spec: &mut Value| {
        namespace(spec, "user", None);
        let range = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        spec["linux"]["uidMappings"] = range.clone();
        spec["linux"]["gidMappings"] = range;
    };
    let cases = vec![
        mapped("idmap", &["bind", "idmap"]).shows("5007 6008"),
        mapped("ridmap", &["rbind", "ridmap"]).shows("5007 6008"),
        mapped("mappings without the option", &["bind"]).shows("5007 6008"),
        case("idmap with the container's own mapping", "stat -c '%u %g' /m/file").prepare(owned).with_bundle(move |spec, bundle| {
            in_user_namespace(spec);
            mount(spec, json!({"destination": "/m", "type": "bind", "source": bundle.join("source"), "options": ["bind", "idmap"]}));
        }).shows("7 8"),
        case("a bind in a user namespace", "stat -c '%u %g' /m/file").prepare(owned).with_bundle(move |spec, bundle| {
            in_user_namespace(spec);
            mount(spec, json!({"destination": "/m", "type": "bind", "source": bundle.join("source"), "options": ["bind"]}));
        }).shows("65534 65534"),
        refused("idmap with no mapping anywhere", "mapping").prepare(owned).with_bundle(|spec, bundle| {
            mount(spec, json!({"destination": "/m", "type": "bind", "source": bundle.join("source"), "options": ["bind", "idmap"]}));
        }),
        refused("half a mapping", "uidMappings and gidMappings").prepare(owned).with_bundle(move |spec, bundle| {
            mount(spec, json!({"destination": "/m", "type": "bind", "source": bundle.join("source"), "options": ["bind", "idmap"],
                "uidMappings": maps(5000)}));
        }),
        refused("a mapped tmpfs", "bind mounts").with(move |spec| {
            mount(spec, json!({"destination": "/m", "type": "tmpfs", "source": "x", "uidMappings": maps(5000), "gidMappings": maps(6000)}));
        }),
    ];
    compare("mapped mounts", cases);
}
