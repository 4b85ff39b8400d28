//! podman and buildah of an ordinary user.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::runtime;
use crate::harness::machine::User;
use crate::harness::{Actor, Call, image, machine, peers};

/// The user as the rivals' Debian knows users, then a command as that user, in a mount namespace of the call's own.
const AS_USER: &str = r#"
    dir=$1 name=$2 uid=$3 gid=$4; shift 4
    for file in passwd group subuid subgid; do cp "/etc/$file" "$dir/$file"; done
    echo "$name:x:$uid:$gid::$dir/home:/bin/sh" >>"$dir/passwd"
    sed -i "/:x:$gid:/d" "$dir/group"; echo "$name:x:$gid:" >>"$dir/group"
    cat "$dir/host-subuid" >>"$dir/subuid"; cat "$dir/host-subgid" >>"$dir/subgid"
    for file in passwd group subuid subgid; do mount --bind "$dir/$file" "/etc/$file"; done
    exec setpriv --reuid "$uid" --regid "$gid" --clear-groups env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        PODMAN_IGNORE_CGROUPSV1_WARNING=1 HOME="$dir/home" XDG_RUNTIME_DIR="$dir/run" "$@"
"#;

/// A rival's command as an ordinary user, whose folder lies where rivals see it.
fn call(actor: &Actor, user: &User, program: &str) -> Option<Call> {
    let enter = peers::find(program)?.parent()?.parent()?.join("enter");
    let dir = actor.dir();
    for file in ["subuid", "subgid"] {
        let ranges = fs::read_to_string(format!("/etc/{file}")).expect("users have ranges");
        let own: String = ranges.lines().filter(|l| l.starts_with(&user.name)).map(|l| format!("{l}\n")).collect();
        fs::write(dir.join(format!("host-{file}")), own).expect("a file in our folder");
    }
    fs::set_permissions(actor.mkdir("run"), fs::Permissions::from_mode(0o700)).expect("our own folder");
    let call = Call::new(enter).args(["bash", "-euc", AS_USER, "as-user"]).arg(dir).arg(&user.name);
    Some(call.args([user.uid.to_string(), user.gid.to_string()]).arg(program).dir(dir))
}

/// The runtime where the user may read it.
fn copy_of_runtime(dir: &Path) -> String {
    let path = dir.join("layerfs-runtime");
    fs::copy(runtime(), &path).expect("a file in our folder");
    path.display().to_string()
}

#[test]
fn rootless_podman_with_this_runtime() {
    let Some(_root) = Actor::root() else { return };
    let (Some(actor), Some(user)) = (Actor::ordinary(), machine::ordinary_user()) else { return };
    let runtime = copy_of_runtime(actor.dir());
    let podman = || Some(call(&actor, &user, "podman")?.args(["--events-backend=file", "--runtime", &runtime]));
    let Some(first) = podman() else { return };
    first.args(["pull", "-q", &format!("oci:{}:busybox", image::busybox().display())]).ok();
    let podman = |words: &[&str]| podman().expect("it was there before").args(words);
    let image = "docker.io/library/busybox";
    let run = |words: &[&str]| podman(&["run", "--rm", "--network", "none"]).args(words);
    assert_eq!(run(&[image, "id", "-u"]).ok().stdout, "0\n");
    let said = run(&["--userns", "keep-id", image, "id", "-u"]).ok();
    assert_eq!(said.stdout, format!("{}\n", user.uid));
    run(&[image, "sh", "-c", "exit 7"]).fails(7);
    run(&[image, "nothing"]).fails(127);
    podman(&["run", "-d", "--name", "here", "--network", "none", image, "sleep", "1000"]).ok();
    assert_eq!(podman(&["exec", "here", "echo", "hi"]).ok().stdout, "hi\n");
    podman(&["exec", "here", "sh", "-c", "exit 5"]).fails(5);
    assert_eq!(podman(&["inspect", "-f", "{{.State.Status}}", "here"]).ok().result(), "running");
    podman(&["kill", "here"]).ok();
    assert_eq!(podman(&["wait", "here"]).ok().result(), "137");
    podman(&["rm", "here"]).ok();
    podman(&["system", "reset", "-f"]).output();
}

#[test]
fn rootless_buildah_with_this_runtime() {
    let Some(_root) = Actor::root() else { return };
    let (Some(actor), Some(user)) = (Actor::ordinary(), machine::ordinary_user()) else { return };
    let runtime = copy_of_runtime(actor.dir());
    let base = format!("oci:{}:busybox", image::busybox().display());
    actor.write("app/Dockerfile", format!("FROM {base}\nRUN echo made >/made && id -u && test -s /made\n"));
    let context = actor.path("app").display().to_string();
    let build = |words: &[&str]| Some(call(&actor, &user, "buildah")?.args(words));
    let oci = ["build", "--isolation", "oci", "--runtime", &runtime, "--network", "none", &context];
    let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"];
    let words = [&oci[..1], &limits, &oci[1..]].concat();
    let Some(built) = build(&words) else { return };
    let said = built.ok();
    assert!(said.stdout.contains("0\n"), "{said}");
    actor.write("app/Dockerfile", format!("FROM {base}\nRUN exit 6\n"));
    build(&words).expect("it was there before").fails(6);
    build(&["rmi", "--all", "--force"]).expect("it was there before").output();
}

/// The union as `mount_program` of an ordinary user's engines, in a user namespace.
#[test]
fn rootless_buildah_and_podman_on_this_union() {
    let Some(_root) = Actor::root() else { return };
    let (Some(actor), Some(user)) = (Actor::ordinary(), machine::ordinary_user()) else { return };
    if actor.shell("exec 3<>/dev/fuse").output().code != 0 {
        machine::not_run("rootless engines on our union: an ordinary user may not open /dev/fuse");
        return;
    }
    let program = actor.path("layerfs-fuse");
    fs::copy(machine::programs().join("layerfs-fuse"), &program).expect("a file in our folder");
    let option = format!("overlay.mount_program={}", program.display());
    let storage = ["--storage-driver", "overlay", "--storage-opt", &option];
    let base = format!("oci:{}:busybox", image::busybox().display());
    actor.write(
        "app/Dockerfile",
        format!(
            "FROM {base}\nRUN mkdir -p /a/b && echo one >/a/b/c && chown 1:2 /a/b/c\n\
             RUN mv /a/b/c /a/b/d && echo two >/a/b/c && chmod 600 /etc/passwd\n"
        ),
    );
    let context = actor.path("app").display().to_string();
    let build = ["build", "--isolation", "chroot", "--network", "host", "-t", "made", &context];
    let Some(buildah) = call(&actor, &user, "buildah") else { return };
    buildah.args(storage).args(build).ok();
    let podman = || call(&actor, &user, "podman").expect("it comes with the other").args(["--events-backend=file"]);
    let look = "cat /a/b/d /a/b/c; stat -c '%u:%g %a' /a/b/d /etc/passwd; grep ' / ' /proc/mounts";
    let run = ["run", "--rm", "--network", "none", "localhost/made", "sh", "-c", look];
    let seen = podman().args(storage).args(run).ok();
    let lines = seen.lines();
    assert_eq!(lines[..4], ["one", "two", "1:2 644", "0:0 600"], "{seen}");
    assert!(lines[4].contains("fuse.layerfs"), "the union is ours: {seen}");
    podman().args(storage).args(["system", "reset", "-f"]).output();
}

/// Without an engine: the runtime as its user calls it, with one id and with a range.
#[test]
fn the_runtime_of_an_ordinary_user() {
    let (Some(actor), Some(user)) = (Actor::ordinary(), machine::ordinary_user()) else { return };
    let bundle = actor.mkdir("bundle");
    actor.mkdir("bundle/rootfs/bin");
    fs::copy("/bin/busybox", bundle.join("rootfs/bin/sh")).expect("the package busybox-static is installed");
    let runtime = || actor.call(runtime()).arg("--root").arg(actor.path("state")).dir(&bundle);
    runtime().args(["spec", "--rootless"]).ok();
    let config = bundle.join("config.json");
    let made: serde_json::Value = serde_json::from_slice(&fs::read(&config).expect("it was written")).expect("JSON");
    let write = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut spec = made.clone();
        spec["process"]["terminal"] = serde_json::json!(false);
        change(&mut spec);
        fs::write(&config, spec.to_string()).expect("a file in our folder");
    };
    let script = |text: &str| serde_json::json!(["/bin/sh", "-c", text]);
    write(&|spec| spec["process"]["args"] = script("id -u; cat /proc/self/setgroups; exit 3"));
    let said = runtime().args(["run", "one"]).output().expect_code(3);
    assert_eq!(said.stdout, "0\ndeny\n");

    let first = |file: &str| -> u32 {
        let text = fs::read_to_string(file).expect("users have ranges");
        let own = text.lines().find_map(|line| line.strip_prefix(&format!("{}:", user.name)));
        own.and_then(|rest| rest.split(':').next()).and_then(|id| id.parse().ok()).expect("the user has a range")
    };
    let maps = |own: u32, first: u32| serde_json::json!([{"containerID": 0, "hostID": own, "size": 1}, {"containerID": 1, "hostID": first, "size": 1000}]);
    let ranged = |spec: &mut serde_json::Value| {
        spec["linux"]["uidMappings"] = maps(user.uid, first("/etc/subuid"));
        spec["linux"]["gidMappings"] = maps(user.gid, first("/etc/subgid"));
    };
    write(&|spec| {
        ranged(spec);
        spec["process"]["user"] = serde_json::json!({"uid": 5, "gid": 6, "additionalGids": [7]});
        spec["process"]["args"] = script("id -u; id -G");
    });
    assert_eq!(runtime().args(["run", "two"]).ok().stdout, "5\n6 7\n");
    write(&|spec| {
        ranged(spec);
        spec["linux"]["uidMappings"][1]["hostID"] = serde_json::json!(100);
        spec["linux"]["uidMappings"][1]["size"] = serde_json::json!(10);
    });
    runtime().args(["run", "wrong"]).fails(1).says(&["newuidmap refuses the ids", "/etc/subuid"]);

    write(&|spec| spec["process"]["args"] = script("exec sleep 1000"));
    // What is made holds the streams of whoever made it.
    let create =
        "cd bundle && layerfs-runtime --root ../state create three >/dev/null 2>../said </dev/null || cat ../said";
    assert_eq!(actor.shell(create).ok().stdout, "");
    runtime().args(["start", "three"]).ok();
    assert_eq!(runtime().args(["state", "three"]).ok().json()["status"], "running");
    assert_eq!(runtime().args(["exec", "three", "/bin/sh", "-c", "echo in"]).ok().stdout, "in\n");
    runtime().args(["delete", "--force", "three"]).ok();
    assert_eq!(runtime().args(["list", "-q"]).ok().stdout, "");
}
